/* passes/differentiate.c: a graph of logits becomes one of losses that also adds to the gradients of the weights: the loss
 * (cross entropy with the ids in an input `targets`; none where an id is negative), then the ops in reverse, each by its
 * gradient rule, beginning with an input `coefficients`: what the objective's slope is along each token's loss. The layer loop stays rolled: a second loop, from the last layer to the first, makes again what the rules
 * need of the first one's values, from those that the first one kept: what it carries, and by choice the results of
 * products and attention, or all. */
#include "passes/gradient.h"
#include "passes/passes.h"

#include <string.h>

/* ---- gradients of values ------------------------------------------------------------------------------------------------- */

gradient_entry *gradient_of(gradient_state *g, ir_value *value) {
  if (!value->id) {
    if (!g->count) DP_PUSH(g->arena, g->entries, g->count, g->cap) = (gradient_entry){0};
    value->id = g->count;
    DP_PUSH(g->arena, g->entries, g->count, g->cap) = (gradient_entry){0};
  }
  return &g->entries[value->id];
}

bool gradient_needed(gradient_state *g, ir_value *value) { return gradient_of(g, value)->needed; }

void gradient_fail(gradient_state *g, dp_status status) {
  if (g->failure.code == DP_OK)
    g->failure = status;
  else
    dp_status_free(&status);
}

ir_op *gradient_emit(gradient_state *g, ir_opcode code, ir_value *const *operands, int operand_count, const ir_attr *attrs,
                     int attr_count) {
  ir_op *op = ir_emit(g->block, NULL, code, operands, operand_count, attrs, attr_count, NULL, g->loc, g->diags);
  if (op) return op;
  dp_str text = {0};
  dp_diags_render(g->diags, &text, false);
  gradient_fail(g, dp_fail(DP_BUG, "internal error: differentiate: %s", text.text ? text.text : ir_op_info_of(code)->name));
  dp_str_free(&text);
  return NULL;
}

const ir_op *gradient_weight(const ir_value *value) {
  while (value->def && value->def->code == IR_OP_select) value = value->def->operands[0];
  return value->def && value->def->code == IR_OP_weight ? value->def : NULL;
}

static bool has_rows(const ir_type *type) { return type->rank > 0 && type->dims[0].symbol; }

static ir_value *of_type(gradient_state *g, ir_opcode code, ir_value *x, const ir_type *type) {
  ir_attr to = ir_attr_d("to", type);
  ir_op *op = ir_type_equal(&x->type, type) ? NULL : gradient_emit(g, code, &x, 1, &to, 1);
  return op ? op->results[0] : x;
}

static bool is_repeated(const ir_value *part, const ir_type *type, int dim) {
  return !type->dims[dim].symbol && type->dims[dim].add == 1 && part->type.dims[dim].add != 1;
}

/* Sums `part` over the dimensions that `type` has as 1: the last one by a reduction, those before it, if nothing larger
 * than 1 stands before them, as a mixture of so many rows with weights of 1. */
static ir_value *summed_to(gradient_state *g, ir_value *part, const ir_type *type) {
  int last = type->rank - 1, outer = 1;
  if (part->type.rank != type->rank) return part;
  if (last > 0 && is_repeated(part, type, last)) {
    ir_op *sum = gradient_emit(g, IR_OP_reduce_sum, &part, 1, NULL, 0);
    if (sum) part = sum->results[0];
  }
  int64_t count = 1;
  for (; outer < last && type->dims[outer].add == 1; outer++) count *= part->type.dims[outer].add;
  for (int i = outer; i < last; i++) {
    if (!is_repeated(part, type, i)) continue;
    gradient_fail(g, dp_fail(DP_UNSUPPORTED,
                             "the gradient of a value that is repeated along a dimension between two others "
                             "is not known yet"));
    return part;
  }
  if (count == 1) return part;
  ir_type flat = {.dtype = IR_f32, .rank = 3, .dims = {type->dims[0], ir_static_dim(count, NULL)}}, ones = flat;
  flat.dims[2] = ir_static_dim(ir_static_size(&part->type, outer), NULL);
  ones.rank = 2;
  ir_attr unit = ir_attr_f("value", 1);
  ir_op *one = gradient_emit(g, IR_OP_constant, NULL, 0, &unit, 1);
  if (!one) return part;
  ir_value *operands[] = {of_type(g, IR_OP_broadcast, one->results[0], &ones), of_type(g, IR_OP_reshape, part, &flat)};
  ir_op *mix = gradient_emit(g, IR_OP_mix, operands, 2, NULL, 0);
  ir_type summed = part->type;
  for (int i = 1; i < outer; i++) summed.dims[i] = ir_static_dim(1, NULL);
  return mix ? of_type(g, IR_OP_reshape, mix->results[0], &summed) : part;
}

/* A weight's vector: the rows' gradients are summed where it is kept. */
static void add_to_vector(gradient_state *g, const ir_op *weight, ir_value *value, ir_value *part) {
  if (value->type.rank != 1) {
    gradient_fail(g, dp_fail(DP_UNSUPPORTED,
                             "the gradient of weight '%s' is not known where it is used other than as a vector, "
                             "a table or in products",
                             ir_get_string(weight, "name", "")));
    return;
  }
  bool layered = value->def->code == IR_OP_select;
  ir_value *operands[] = {part, layered ? value->def->operands[1] : NULL};
  ir_attr name = ir_attr_s("weight", ir_get_string(weight, "name", ""));
  gradient_emit(g, IR_OP_accumulate_sum, operands, layered ? 2 : 1, &name, 1);
}

void gradient_add(gradient_state *g, ir_value *value, ir_value *part) {
  if (!gradient_needed(g, value)) return;
  const ir_op *weight = gradient_weight(value);
  if (weight) {
    add_to_vector(g, weight, value, part);
    return;
  }
  bool rows = has_rows(&value->type);
  if (!rows && !(value->def && ir_op_info_of(value->def->code)->traits & IR_ELEMENTWISE)) {
    gradient_fail(g, dp_fail(DP_UNSUPPORTED,
                             "the gradient of other than elementwise arithmetic on weights alone is not known yet"));
    return;
  }
  if (rows) part = summed_to(g, part, &value->type); /* else the rows are summed where the weight's gradient is kept */
  gradient_entry *entry = gradient_of(g, value);
  if (entry->gradient) {
    ir_value *both[] = {entry->gradient, part};
    ir_op *sum = gradient_emit(g, IR_OP_add, both, 2, NULL, 0);
    if (sum) part = sum->results[0];
  }
  gradient_of(g, value)->gradient = part;
}

/* ---- what depends on a weight ------------------------------------------------------------------------------------------------ */

static void forget_ids(ir_block *block) {
  for (int i = 0; i < block->arg_count; i++) block->args[i]->id = 0;
  for (ir_op *op = block->first; op; op = op->next) {
    for (int i = 0; i < op->result_count; i++) op->results[i]->id = 0;
    if (op->body) forget_ids(op->body);
  }
}

static bool is_trained(const gradient_state *g, const ir_op *op) {
  if (op->code != IR_OP_weight) return false;
  const ir_weight *weight = ir_find_weight(g->module, ir_get_string(op, "name", ""));
  return weight && !weight->frozen;
}

static void find_needed(gradient_state *g, ir_block *block);

/* What a loop carries needs a gradient when it does so at the beginning, or once a turn of the loop has made it depend on a
 * weight. */
static void find_needed_of_loop(gradient_state *g, ir_op *loop) {
  const ir_block *body = loop->body;
  for (int i = 0; i < loop->operand_count; i++) {
    bool needed = gradient_needed(g, loop->operands[i]);
    gradient_of(g, body->args[i + 1])->needed = needed;
  }
  for (bool more = true; more;) {
    more = false;
    find_needed(g, loop->body);
    for (int i = 0; i < loop->operand_count; i++) {
      bool needed = gradient_needed(g, body->last->operands[i]), known = gradient_needed(g, body->args[i + 1]);
      more |= needed && !known;
      if (needed) gradient_of(g, body->args[i + 1])->needed = true;
      gradient_of(g, loop->results[i])->needed = needed || known;
    }
  }
}

static void find_needed(gradient_state *g, ir_block *block) {
  for (ir_op *op = block->first; op; op = op->next) {
    if (op->code == IR_OP_loop) {
      find_needed_of_loop(g, op);
      continue;
    }
    bool needed = is_trained(g, op);
    for (int i = 0; i < op->operand_count; i++) needed |= gradient_needed(g, op->operands[i]);
    bool passes = op->code == IR_OP_weight || op->code == IR_OP_select || op->code == IR_OP_append;
    if (ps_gradient_is_zero(op->code) && !passes) needed = false;
    for (int i = 0; i < op->result_count; i++)
      gradient_of(g, op->results[i])->needed = needed && op->results[i]->type.dtype == IR_f32;
    if (op->code == IR_OP_append) gradient_of(g, op->results[0])->rows = op->operands[0];
  }
}

/* ---- the ops of a block in reverse ------------------------------------------------------------------------------------------- */

static dp_status reverse_loop(gradient_state *g, ir_op *loop, ir_recompute recompute);

/* Goes through `ops` from the last to the first; what is built stands at the end of g->block. */
static dp_status reverse_ops(gradient_state *g, ir_op *const *ops, int count, ir_recompute recompute) {
  for (int i = count - 1; i >= 0 && g->failure.code == DP_OK; i--) {
    ir_op *op = ops[i];
    g->loc = op->loc;
    if (op->code == IR_OP_loop) {
      bool needed = false;
      for (int r = 0; r < op->result_count; r++) needed |= gradient_needed(g, op->results[r]);
      if (needed) DP_TRY(reverse_loop(g, op, recompute));
      continue;
    }
    if (!op->result_count || ps_gradient_is_zero(op->code)) continue;
    ir_value *dy = gradient_of(g, op->results[0])->gradient;
    if (dy) ps_gradient_rule_of(op->code)(g, op, dy);
  }
  dp_status failure = g->failure;
  g->failure = DP_SUCCESS;
  return failure;
}


/* ---- loops ---------------------------------------------------------------------------------------------------------------------- */

/* The body of the second loop, while it is made of the first one's. */
typedef struct second_body {
  gradient_state *g;
  ir_op *loop;
  ir_value **from, **to; /* values of the first body, and what stands for them */
  int count, from_cap, to_count, to_cap;
} second_body;

static void stands_for(second_body *b, ir_value *from, ir_value *to) {
  DP_PUSH(b->g->arena, b->from, b->count, b->from_cap) = from;
  DP_PUSH(b->g->arena, b->to, b->to_count, b->to_cap) = to;
  bool needed = gradient_needed(b->g, from);
  gradient_of(b->g, to)->needed = needed;
}

static ir_value *mapped(const second_body *b, ir_value *value) {
  for (int i = b->count - 1; i >= 0; i--)
    if (b->from[i] == value) return b->to[i];
  return value;
}

static const char *stack_name(second_body *b, const ir_value *value) {
  return dp_arena_printf(b->g->module->arena, "%s.%d", value->name ? value->name : "kept", b->g->stacks++);
}

/* The value as the first loop kept it. Its `save` is added when it is known to be needed. */
static ir_value *restored(second_body *b, ir_value *value) {
  ir_attr attrs[] = {ir_attr_s("stack", stack_name(b, value)), ir_attr_d("of", &value->type)};
  ir_op *op = gradient_emit(b->g, IR_OP_saved, &b->g->layer, 1, attrs, 2);
  if (!op) return value;
  op->results[0]->name = value->name;
  return op->results[0];
}

static ir_value *from_cache(second_body *b, const ir_op *append) {
  ir_attr attrs[] = {ir_attr_s("cache", ir_get_string(append, "cache", "")), ir_attr_i("part", ir_get_int(append, "part", 0)),
                     ir_attr_d("of", &append->results[0]->type)};
  ir_op *op = gradient_emit(b->g, IR_OP_cached, &b->g->layer, 1, attrs, 3);
  if (!op) return append->results[0];
  gradient_of(b->g, op->results[0])->rows = mapped(b, append->operands[0]);
  return op->results[0];
}

static bool is_product(ir_opcode code) {
  return code == IR_OP_matmul || code == IR_OP_head_matmul || code == IR_OP_expert_matmul;
}

/* A product, and what an adapter adds to it: kept as one. */
static bool is_adapted_product(const ir_op *op) {
  if (op->code != IR_OP_add) return false;
  for (int i = 0; i < 2; i++)
    if (!op->operands[i]->def || op->operands[i]->def->code != IR_OP_matmul) return false;
  return true;
}

/* Is what the op makes kept for the second loop? By what a byte of it takes to be made again: an element of a product is as
 * many multiply-adds as the product is deep, one of attention as many as there are positions and columns of a head, any
 * other a few operations. What only looks at another value, or is of weights alone, is never kept. */
static bool keeps(ir_recompute recompute, const ir_op *op) {
  if (recompute == IR_RECOMPUTE_BLOCK) return false;
  if (is_product(op->code) || is_adapted_product(op) || op->code == IR_OP_attend) return true;
  bool view = op->code == IR_OP_reshape || op->code == IR_OP_slice || op->code == IR_OP_broadcast;
  if (recompute == IR_RECOMPUTE_SELECTIVE || view) return false;
  for (int i = 0; i < op->result_count; i++)
    if (op->results[i]->type.dtype != IR_f32 || !has_rows(&op->results[i]->type)) return false;
  return op->result_count > 0;
}

/* The ops of the first body stand in the second as copies, but for what is kept. `ops`: those whose gradients are wanted. */
static void repeat_body(second_body *b, ir_recompute recompute, ir_op ***ops, int *op_count) {
  gradient_state *g = b->g;
  ir_block *body = b->loop->body;
  int cap = 0;
  for (int i = 1; i < body->arg_count; i++) stands_for(b, body->args[i], restored(b, body->args[i]));
  for (ir_op *op = body->first; op != body->last && g->failure.code == DP_OK; op = op->next) {
    g->loc = op->loc;
    if (op->code == IR_OP_append) {
      stands_for(b, op->results[0], from_cache(b, op));
      continue;
    }
    ir_op *copy = ir_clone(op, g->block, NULL, b->from, b->to, b->count);
    bool kept = keeps(recompute, op);
    for (int i = 0; i < op->result_count; i++) { /* later ops read what was kept, its own rule too */
      copy->results[i]->id = 0;
      if (kept) copy->results[i] = restored(b, op->results[i]);
      stands_for(b, op->results[i], copy->results[i]);
    }
    if (kept) ir_unlink(copy); /* stands outside, for its rule to look at */
    DP_PUSH(g->arena, *ops, *op_count, cap) = copy;
  }
}

/* Attention's sums are asked for, where they are not. */
static dp_status ask_for_sums(ir_block *body) {
  for (ir_op *op = body->first, *next; op; op = next) {
    next = op->next;
    if (op->code != IR_OP_attend || op->result_count == 2) continue;
    ir_attr attrs[8];
    int count = 0;
    for (; count < op->attr_count && count < 7; count++) attrs[count] = op->attrs[count];
    attrs[count++] = ir_attr_i("sums", 1);
    ir_op *made = ir_emit(body, op, IR_OP_attend, op->operands, op->operand_count, attrs, count, NULL, op->loc, NULL);
    DP_CHECK(made, "differentiate: attend with its sums");
    made->results[0]->name = op->results[0]->name ? op->results[0]->name : "attended";
    made->results[1]->name = "sums";
    ir_replace_uses(body, op->results[0], made->results[0]);
    ir_unlink(op);
  }
  return DP_SUCCESS;
}

static bool is_used_in(const ir_block *block, const ir_value *value) { return ir_count_uses(block, value) > 0; }

/* What the second body does not use goes, from its last op on; then the first loop keeps what is left of `saved`. */
static void drop_unused(ir_block *body) {
  for (ir_op *op = body->last, *previous; op; op = previous) {
    previous = op->previous;
    if (!(ir_op_info_of(op->code)->traits & IR_PURE) || op->body) continue;
    bool used = false;
    for (int i = 0; i < op->result_count; i++) used |= is_used_in(body, op->results[i]);
    if (!used) ir_unlink(op);
  }
}

static dp_status save_what_is_used(second_body *b, ir_block *body) {
  ir_block *first = b->loop->body;
  for (int i = 0; i < b->count; i++) {
    ir_op *saved = b->to[i]->def;
    if (!saved || saved->code != IR_OP_saved || saved->parent != body || !is_used_in(body, b->to[i])) continue;
    ir_value *operands[] = {b->from[i], first->args[0]};
    ir_attr name = ir_attr_s("stack", ir_get_string(saved, "stack", ""));
    ir_op *before = b->from[i]->def ? b->from[i]->def->next : first->first;
    DP_CHECK(ir_emit(first, before, IR_OP_save, operands, 2, &name, 1, NULL, b->loop->loc, NULL), "differentiate: save");
  }
  return DP_SUCCESS;
}

static dp_status not_carried(const ir_value *value) {
  const char *maker = value->def ? ir_op_info_of(value->def->code)->name : "graph";
  return dp_fail(DP_UNSUPPORTED,
                 "the gradient of %s%s is not known, which a loop uses but does not carry; a loop carries what it assigns, "
                 "be it `x0 = x0;`",
                 value->name ? "value " : "what comes of ", value->name ? value->name : maker);
}

/* Arithmetic on weights alone that stands before the loop is made in it, where its gradient is known; of activations
 * made before the loop only those that it carries have one. */
static dp_status sink_weights(gradient_state *g, ir_block *body, ir_block *block) {
  for (ir_op *op = block->first; op; op = op->next) {
    for (int i = 0; i < op->operand_count; i++) {
      ir_value *value = op->operands[i];
      bool inside = (value->def ? value->def->parent : value->block) == body;
      if (inside || !gradient_needed(g, value) || gradient_weight(value)) continue;
      if (has_rows(&value->type))
        return not_carried(value);
      ir_op *copy = ir_clone(value->def, body, body->first, NULL, NULL, 0);
      copy->results[0]->id = 0;
      ir_replace_uses(body, value, copy->results[0]);
      return sink_weights(g, body, body); /* again: the copy's operands too */
    }
  }
  return DP_SUCCESS;
}

/* The gradient of a value as a value of its type: of one that nothing uses, zeros. */
static ir_value *whole_gradient(gradient_state *g, ir_value *value) {
  ir_value *gradient = gradient_of(g, value)->gradient;
  ir_attr zero = ir_attr_f("value", 0);
  ir_op *none = gradient ? NULL : gradient_emit(g, IR_OP_constant, NULL, 0, &zero, 1);
  if (none) gradient = none->results[0];
  return gradient ? of_type(g, IR_OP_broadcast, gradient, &value->type) : value;
}

/* The second loop carries the gradients of what the first one carries. */
static dp_status reverse_loop(gradient_state *g, ir_op *loop, ir_recompute recompute) {
  int carried = loop->operand_count;
  DP_TRY(sink_weights(g, loop->body, loop->body));
  DP_TRY(ask_for_sums(loop->body));
  find_needed_of_loop(g, loop);
  ir_block *outside = g->block, *body = ir_block_new(g->module, NULL);
  ir_value **starts = DP_NEW_ARRAY(g->arena, ir_value *, carried + 1);
  for (int i = 0; i < carried; i++) {
    starts[i] = whole_gradient(g, loop->results[i]);
  }
  second_body b = {.g = g, .loop = loop};
  ir_type index = {.dtype = IR_i32};
  ir_value *outer_layer = g->layer;
  g->layer = ir_add_arg(body, &index, "layer");
  g->block = body;
  stands_for(&b, loop->body->args[0], g->layer);
  ir_value **args = DP_NEW_ARRAY(g->arena, ir_value *, carried + 1);
  for (int i = 0; i < carried; i++) args[i] = ir_add_arg(body, &loop->operands[i]->type, "d");
  ir_op **ops = NULL;
  int op_count = 0;
  repeat_body(&b, recompute, &ops, &op_count);
  const ir_op *yield = loop->body->last;
  for (int i = 0; i < carried; i++) gradient_add(g, mapped(&b, yield->operands[i]), args[i]);
  DP_TRY(reverse_ops(g, ops, op_count, recompute));
  ir_value **results = DP_NEW_ARRAY(g->arena, ir_value *, carried + 1);
  for (int i = 0; i < carried; i++) {
    results[i] = whole_gradient(g, mapped(&b, loop->body->args[i + 1]));
  }
  DP_CHECK(gradient_emit(g, IR_OP_yield, results, carried, NULL, 0), "differentiate: yield");
  drop_unused(body);
  DP_TRY(save_what_is_used(&b, body));
  g->block = outside;
  g->layer = outer_layer;
  ir_attr attrs[] = {ir_attr_i("count", ir_get_int(loop, "count", 1)), ir_attr_i("first", ir_get_int(loop, "first", 0)),
                     ir_attr_i("reverse", 1)};
  ir_op *second = ir_emit(outside, NULL, IR_OP_loop, starts, carried, attrs, 3, body, loop->loc, g->diags);
  DP_CHECK(second, "differentiate: the second loop");
  for (int i = 0; i < carried; i++) {
    second->results[i]->name = "d";
    gradient_add(g, loop->operands[i], second->results[i]);
  }
  return DP_SUCCESS;
}

/* ---- the loss -------------------------------------------------------------------------------------------------------------------- */

static ir_value *one(gradient_state *g, ir_opcode code, ir_value *x, ir_value *y, const ir_attr *attr) {
  ir_value *operands[] = {x, y};
  ir_op *op = gradient_emit(g, code, operands, y ? 2 : x ? 1 : 0, attr, attr ? 1 : 0);
  return op ? op->results[0] : x;
}

/* loss[T, 1] = (log sum e^logits - logits[target]) where target >= 0, else 0. */
static ir_value *cross_entropy(gradient_state *g, ir_value *logits, ir_value *targets) {
  ir_attr zero = ir_attr_f("value", 0), unit = ir_attr_f("value", 1);
  ir_value *picked = one(g, IR_OP_element, logits, targets, NULL);
  ir_value *sums = one(g, IR_OP_log_sum_exp, logits, NULL, NULL);
  ir_value *low = one(g, IR_OP_constant, NULL, NULL, &zero), *high = one(g, IR_OP_constant, NULL, NULL, &unit);
  ir_value *counted = one(g, IR_OP_add, one(g, IR_OP_number, targets, NULL, NULL), high, NULL);
  counted = one(g, IR_OP_min, one(g, IR_OP_max, counted, low, NULL), high, NULL);
  ir_value *loss = one(g, IR_OP_mul, one(g, IR_OP_sub, sums, picked, NULL), counted, NULL);
  loss->name = "loss";
  return loss;
}

/* The graph without its return, and the number of each token that it would return: of logits their loss, of a graph that
 * makes one number that one. */
static dp_status make_scores(gradient_state *g, ir_graph *graph, ir_value **scores) {
  ir_block *block = graph->block;
  ir_op *end = block->last;
  ir_value *result = end->operand_count == 1 ? end->operands[0] : NULL;
  if (!result || result->type.rank != 2 || !has_rows(&result->type))
    return dp_fail(DP_UNSUPPORTED, "only a graph that returns logits [T, vocabulary], or a number [T, 1], can be trained");
  ir_type rows = {.dtype = IR_i32, .rank = 1, .dims = {result->type.dims[0]}};
  ir_value *targets = ir_add_arg(block, &rows, "targets");
  ir_unlink(end);
  forget_ids(block);
  g->block = block;
  g->loc = end->loc;
  bool single = !result->type.dims[1].symbol && result->type.dims[1].add == 1;
  *scores = single ? result : cross_entropy(g, result, targets);
  return DP_SUCCESS;
}

static dp_status return_scores(gradient_state *g, ir_value *scores) {
  DP_CHECK(gradient_emit(g, IR_OP_return, &scores, 1, NULL, 0), "differentiate: return");
  return DP_SUCCESS;
}

static dp_status differentiate(gradient_state *g, ir_graph *graph, ir_recompute recompute) {
  ir_block *block = graph->block;
  ir_value *scores;
  DP_TRY(make_scores(g, graph, &scores));
  find_needed(g, block);
  ir_op **ops = NULL; /* the graph's, the last too: the return is not there */
  int count = 0, cap = 0;
  for (ir_op *op = block->first; op; op = op->next) DP_PUSH(g->arena, ops, count, cap) = op;
  ir_type rows = {.dtype = IR_i32, .rank = 1, .dims = {scores->type.dims[0]}};
  ir_attr bits = ir_attr_i("bits", 1);
  gradient_of(g, scores)->gradient = one(g, IR_OP_number, ir_add_arg(block, &rows, "coefficients"), NULL, &bits);
  DP_TRY(reverse_ops(g, ops, count, recompute));
  g->block = block;
  return return_scores(g, scores);
}

static dp_status add_score(gradient_state *g, ir_graph *graph) {
  ir_value *scores;
  DP_TRY(make_scores(g, graph, &scores));
  return return_scores(g, scores);
}

/* Adds the graph `name`, made of the module's first one: with gradients when there is a `training`. */
static dp_status add_graph(ir_module *module, const char *name, const ps_training *training) {
  gradient_state g = {.module = module, .arena = dp_arena_new(), .diags = dp_diags_new()};
  dp_status status = g.arena && g.diags ? DP_SUCCESS : (dp_status){DP_NO_MEMORY, NULL};
  if (status.code == DP_OK && !module->graphs) status = dp_fail(DP_INVALID, "the model has no graph");
  if (status.code == DP_OK) status = pass_canonicalize(module);
  if (status.code == DP_OK) {
    ir_graph *graph = ir_clone_graph(module, module->graphs, name);
    status = training ? differentiate(&g, graph, training->recompute) : add_score(&g, graph);
  }
  if (status.code == DP_OK) status = ir_verify(module, "differentiate");
  dp_status_free(&g.failure);
  dp_diags_free(g.diags);
  dp_arena_free(g.arena);
  return status;
}

dp_status ps_differentiate(ir_module *module, const ps_training *training) { return add_graph(module, "train", training); }

dp_status ps_add_score(ir_module *module) { return add_graph(module, "score", NULL); }
