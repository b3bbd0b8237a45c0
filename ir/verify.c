/* ir/verify.c: is this module what graph.h says a module is? Links between blocks, ops and values, definition before
 * use, types by every shape rule again, terminators, weights. What it finds is a bug of the pass that ran last. */
#include "ir/graph.h"
#include "ir/shape.h"

#include <string.h>

typedef struct verifier {
  const ir_module *module;
  const ir_graph *graph;
  const ir_op *op; /* the one looked at, for the message */
  const char *after;
  dp_arena *arena;
} verifier;

static dp_status broken(const verifier *v, const char *why) {
  dp_str where = {0};
  dp_str_addf(&where, "internal error: broken IR after %s: ", v->after ? v->after : "building it");
  if (v->graph) dp_str_addf(&where, "graph @%s: ", v->graph->name ? v->graph->name : "?");
  if (v->op) {
    const ir_value *result = v->op->result_count ? v->op->results[0] : NULL;
    dp_str_addf(&where, "op %s", ir_op_info_of(v->op->code)->name);
    if (result && result->name) dp_str_addf(&where, " (%%%s)", result->name);
    dp_str_add(&where, ": ");
  }
  dp_status status = dp_fail(DP_BUG, "%s%s", where.text ? where.text : "", why);
  dp_str_free(&where);
  return status;
}

#define REQUIRE(v, cond, why)                                                                                          \
  do {                                                                                                                 \
    if (!(cond)) return broken(v, why);                                                                                \
  } while (0)

static const char *type_text(verifier *v, const ir_type *type) {
  dp_str text = {0};
  ir_print_type(&text, type);
  const char *copy = dp_arena_strdup(v->arena, text.text ? text.text : "");
  dp_str_free(&text);
  return copy;
}

/* While a graph is walked, value->id says whether the value can be seen: first none can. */
enum { HIDDEN = -1, VISIBLE = 1 };

static dp_status hide_operands(verifier *v, const ir_block *block) {
  const ir_op *previous = NULL;
  for (ir_op *op = block->first; op; previous = op, op = op->next) {
    v->op = op;
    REQUIRE(v, op->previous == previous && op->parent == block, "it is not linked into its block");
    for (int i = 0; i < op->operand_count; i++) {
      REQUIRE(v, op->operands[i], "an operand is missing");
      op->operands[i]->id = HIDDEN;
    }
    if (op->body) DP_TRY(hide_operands(v, op->body));
  }
  v->op = NULL;
  REQUIRE(v, block->last == previous, "a block's last op is not the last one");
  return DP_SUCCESS;
}

static bool words_in_type(const ir_type *type) {
  for (int i = 0; i < type->rank; i++) {
    const ir_dim *d = &type->dims[i];
    if ((d->symbol && !ir_is_name(d->symbol)) || (d->name && !ir_is_name(d->name))) return false;
  }
  return true;
}

static dp_status verify_value(verifier *v, ir_value *value, const ir_type *inferred) {
  const char *why;
  REQUIRE(v, ir_type_usable(&value->type, &why), why);
  REQUIRE(v, words_in_type(&value->type), "a dimension's name is not a word");
  if (inferred && !ir_type_equal(&value->type, inferred))
    return broken(v, dp_arena_printf(v->arena, "result %d is marked %s but is %s", value->index + 1,
                                     type_text(v, &value->type), type_text(v, inferred)));
  value->id = VISIBLE;
  return DP_SUCCESS;
}

static dp_status verify_block(verifier *v, const ir_block *block, ir_opcode terminator);

static dp_status verify_op(verifier *v, ir_op *op) {
  v->op = op;
  REQUIRE(v, (int)op->code >= 0 && op->code < IR_OP_COUNT, "there is no such op");
  for (int i = 0; i < op->operand_count; i++) {
    if (op->operands[i]->id == VISIBLE) continue;
    const char *name = op->operands[i]->name;
    return broken(
        v, dp_arena_printf(v->arena, "operand %d (%%%s) is not defined before this use", i + 1, name ? name : "?"));
  }
  if (op->body) {
    REQUIRE(v, op->body->owner == op, "its body belongs to another op");
    DP_TRY(verify_block(v, op->body, IR_OP_yield));
    v->op = op;
  }
  ir_shaping s = {.module = v->module,
                  .code = op->code,
                  .operands = op->operands,
                  .operand_count = op->operand_count,
                  .attrs = op->attrs,
                  .attr_count = op->attr_count,
                  .body = op->body,
                  .arena = v->arena};
  if (!ir_infer(&s)) return broken(v, s.message);
  REQUIRE(v, s.result_count == op->result_count, "it has another number of results");
  for (int i = 1; i < op->attr_count; i++)
    REQUIRE(v, ir_attr_position(op->code, op->attrs[i - 1].name) < ir_attr_position(op->code, op->attrs[i].name),
            "attributes are not in the order of ops.def");
  for (int i = 0; i < op->result_count; i++) {
    ir_value *result = op->results[i];
    REQUIRE(v, result->def == op && !result->block && result->index == i, "a result does not point back to it");
    DP_TRY(verify_value(v, result, &s.results[i]));
  }
  return DP_SUCCESS;
}

static dp_status verify_block(verifier *v, const ir_block *block, ir_opcode terminator) {
  REQUIRE(v, block->module == v->module, "a block belongs to another module");
  for (int i = 0; i < block->arg_count; i++) {
    ir_value *arg = block->args[i];
    REQUIRE(v, arg->block == block && !arg->def && arg->index == i, "an argument does not point back to its block");
    DP_TRY(verify_value(v, arg, NULL));
  }
  for (ir_op *op = block->first; op; op = op->next) {
    DP_TRY(verify_op(v, op));
    bool ends = ir_op_info_of(op->code)->traits & IR_TERMINATOR;
    REQUIRE(v, ends == (op == block->last), ends ? "it stands before the end of its block" : "no terminator follows");
    REQUIRE(v, !ends || op->code == terminator, "it cannot end this block");
  }
  REQUIRE(v, block->last, "a block is empty: it has no terminator");
  for (int i = 0; i < block->arg_count; i++) block->args[i]->id = HIDDEN;
  for (ir_op *op = block->first; op; op = op->next)
    for (int i = 0; i < op->result_count; i++) op->results[i]->id = HIDDEN;
  return DP_SUCCESS;
}

static dp_status verify_weight(verifier *v, const ir_weight *w) {
  const char *why = NULL;
  REQUIRE(v, w->name && ir_is_word(w->name), "a weight's name is not a word");
  if (ir_type_usable(&w->type, &why))
    why = ir_find_weight(v->module, w->name) != w ? "is declared twice"
          : ir_static_size(&w->type, 0) < 0       ? "has a symbolic dimension"
          : !words_in_type(&w->type)              ? "has a dimension whose name is not a word"
          : w->stack < 0 || w->stack > 2 || w->type.rank < w->stack ? "is stacked without dimensions that count the tensors"
          : w->first_layer < 0 || (w->first_layer && !w->stack)     ? "has a first layer that cannot be"
          : w->storage >> IR_DTYPE_COUNT          ? "has an unknown storage type"
                                                  : NULL;
  for (int i = 0; i < w->source_count && !why; i++) {
    const ir_source *s = &w->sources[i];
    why = !s->pattern                                                   ? "has a source without a name"
          : s->paired < 0                                               ? "is paired but has no heads"
          : s->run < 0 || s->first < 0 || (s->run > 0 && s->step < s->run) ? "has a window of rows that cannot be"
          : s->plus != 0 && w->type.rank != w->stack + 1                ? "adds to what is no vector"
                                                                        : NULL;
  }
  if (!why && w->tied) {
    const ir_weight *tied = ir_find_weight(v->module, w->tied);
    if (!tied || tied == w || !ir_type_equal(&tied->type, &w->type))
      why = "is tied to what is not another weight of its type";
  }
  return why ? broken(v, dp_arena_printf(v->arena, "weight @%s %s", w->name, why)) : DP_SUCCESS;
}

static dp_status verify_graph(verifier *v, const ir_graph *graph) {
  v->graph = graph;
  v->op = NULL;
  REQUIRE(v, graph->name && ir_is_word(graph->name), "its name is not a word");
  REQUIRE(v, ir_find_graph(v->module, graph->name) == graph, "it is declared twice");
  REQUIRE(v, !graph->block->owner, "its block belongs to an op");
  DP_TRY(hide_operands(v, graph->block));
  return verify_block(v, graph->block, IR_OP_return);
}

static dp_status verify_module(verifier *v) {
  REQUIRE(v, v->module->name && ir_is_name(v->module->name), "the module's name is not a word");
  for (int i = 0; i < v->module->weight_count; i++) DP_TRY(verify_weight(v, &v->module->weights[i]));
  for (const ir_graph *graph = v->module->graphs; graph; graph = graph->next) DP_TRY(verify_graph(v, graph));
  return DP_SUCCESS;
}

dp_status ir_verify(const ir_module *module, const char *after) {
  verifier v = {.module = module, .after = after, .arena = dp_arena_new()};
  if (!v.arena) return (dp_status){DP_NO_MEMORY, NULL};
  dp_status status = verify_module(&v);
  dp_arena_free(v.arena);
  return status;
}
