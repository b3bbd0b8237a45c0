/* passes/update.c: the graphs `norm` and `update`: of the gradients that steps of training have added up, and two moments of
 * each, new weights by AdamW (Loshchilov and Hutter, 2019), in the order of operations of PyTorch's. A group a weight, which
 * reads and writes each element once (of a weight in bf16 its master too); for the norm a group a weight that sums squares. */
#include "passes/passes.h"

#include <string.h>

typedef struct updating {
  ir_module *module;
  const ps_update *how;
  ir_block *block, *body; /* of the graph, of the group under construction */
  ir_value *values[64];   /* inputs of that group, as they are outside */
  int count;
  bool failed;
} updating;

/* ---- words */

static ir_value *emit(updating *u, ir_opcode code, ir_value *x, ir_value *y, const ir_attr *attrs, int attr_count) {
  ir_value *operands[] = {x, y};
  ir_op *op = ir_emit(u->body, NULL, code, operands, y ? 2 : x ? 1 : 0, attrs, attr_count, NULL, (dp_loc){0}, NULL);
  u->failed |= !op;
  return op && op->result_count ? op->results[0] : x;
}

static ir_value *add(updating *u, ir_value *x, ir_value *y) { return emit(u, IR_OP_add, x, y, NULL, 0); }
static ir_value *sub(updating *u, ir_value *x, ir_value *y) { return emit(u, IR_OP_sub, x, y, NULL, 0); }
static ir_value *mul(updating *u, ir_value *x, ir_value *y) { return emit(u, IR_OP_mul, x, y, NULL, 0); }
static ir_value *root(updating *u, ir_value *x) { return emit(u, IR_OP_sqrt, x, NULL, NULL, 0); }

static ir_value *constant(updating *u, double value) {
  ir_attr attr = ir_attr_f("value", value);
  return emit(u, IR_OP_constant, NULL, NULL, &attr, 1);
}

static ir_value *given(updating *u, const char *name) {
  ir_attr attr = ir_attr_s("name", name);
  return emit(u, IR_OP_given, NULL, NULL, &attr, 1);
}

static ir_value *state(updating *u, int weight, tile_state which) {
  ir_attr attrs[] = {ir_attr_s("weight", u->module->weights[weight].name), ir_attr_i("state", which)};
  return emit(u, IR_OP_parameter, NULL, NULL, attrs, 2);
}

static void assign(updating *u, int weight, tile_state which, ir_value *value) {
  ir_attr attrs[] = {ir_attr_s("weight", u->module->weights[weight].name), ir_attr_i("state", which)};
  emit(u, IR_OP_assign, value, NULL, attrs, 2);
}

static void begin_group(updating *u) {
  u->body = ir_block_new(u->module, NULL);
  u->count = 0;
}

/* Makes a value of the graph known in the group. */
static ir_value *input(updating *u, ir_value *value) {
  ir_value *arg = ir_add_arg(u->body, &value->type, value->name);
  u->values[u->count++] = value;
  return arg;
}

/* The group's one result, or NULL when it has none. */
static ir_value *end_group(updating *u, const char *name, ir_value *result, const char *result_name) {
  ir_attr attr = ir_attr_s("name", name);
  bool ended = ir_emit(u->body, NULL, IR_OP_yield, &result, result ? 1 : 0, NULL, 0, NULL, (dp_loc){0}, NULL) != NULL;
  ir_op *group = ended ? ir_emit(u->block, NULL, IR_OP_group, u->values, u->count, &attr, 1, u->body, (dp_loc){0}, NULL) : NULL;
  u->failed |= !group;
  if (!group || !result) return NULL;
  group->results[0]->name = result_name;
  return group->results[0];
}

/* ---- which weights */

/* Has a gradient, by an op of the graph `train`. */
static bool is_trained_in(const ir_block *block, const char *name) {
  for (const ir_op *op = block->first; op; op = op->next) {
    if (ir_op_info_of(op->code)->traits & IR_ACCUMULATES && strcmp(ir_get_string(op, "weight", ""), name) == 0) return true;
    if (op->body && is_trained_in(op->body, name)) return true;
  }
  return false;
}

static bool is_trained(const updating *u, int weight) {
  const ir_graph *train = ir_find_graph(u->module, "train");
  return train && is_trained_in(train->block, u->module->weights[weight].name);
}

static int root_of(const updating *u, int weight) {
  while (u->how->ties && u->how->ties[weight] >= 0) weight = u->how->ties[weight];
  return weight;
}

/* The gradient of a weight and of those that share its memory. */
static ir_value *gradient(updating *u, int weight) {
  ir_value *sum = NULL;
  for (int i = 0; i < u->module->weight_count; i++) {
    if (root_of(u, i) != weight || !is_trained(u, i)) continue;
    ir_value *one = state(u, i, TILE_GRADIENT);
    if (sum && !ir_type_equal(&sum->type, &one->type)) u->failed = true;
    sum = sum ? add(u, sum, one) : one;
  }
  return sum;
}

static bool has_gradient(const updating *u, int weight) {
  if (root_of(u, weight) != weight) return false;
  for (int i = 0; i < u->module->weight_count; i++)
    if (root_of(u, i) == weight && is_trained(u, i)) return true;
  return false;
}

/* ---- the groups */

static ir_value *sum_of_squares(updating *u, int weight) {
  begin_group(u);
  ir_value *g = gradient(u, weight), *total = emit(u, IR_OP_total, mul(u, g, g), NULL, NULL, 0);
  const char *name = dp_arena_printf(u->module->arena, "norm_%s", u->module->weights[weight].name);
  return end_group(u, name, total, name);
}

static ir_value *add_squares(updating *u, ir_value *const *parts, int count) {
  begin_group(u);
  ir_value *sum = input(u, parts[0]);
  for (int i = 1; i < count; i++) sum = add(u, sum, input(u, parts[i]));
  return end_group(u, "squares", sum, dp_arena_printf(u->module->arena, "squares.%d", count));
}

/* The norm of all gradients times `scale`. False: there are none. */
static bool add_norm(updating *u) {
  enum { TOGETHER = 60 };
  ir_value *parts[TOGETHER], *squares = NULL;
  int count = 0;
  for (int i = 0; i < u->module->weight_count; i++) {
    if (!has_gradient(u, i)) continue;
    parts[count++] = sum_of_squares(u, i);
    if (count < TOGETHER) continue;
    parts[0] = add_squares(u, parts, count);
    count = 1;
  }
  if (!count) return false;
  squares = count > 1 ? add_squares(u, parts, count) : parts[0];
  begin_group(u);
  end_group(u, "norm", mul(u, root(u, input(u, squares)), given(u, "scale")), "norm");
  return true;
}

/* Without masters an update smaller than half of what bf16 tells apart would be lost; rounded so it comes in on average (Gupta et
 * al., 2015). */
static ir_value *rounded_at_random(updating *u, int weight, ir_value *x) {
  ir_value *operands[] = {x, given(u, "key"), given(u, "key2")};
  ir_attr name = ir_attr_s("weight", u->module->weights[weight].name);
  ir_op *op = ir_emit(u->body, NULL, IR_OP_round_random, operands, 3, &name, 1, NULL, (dp_loc){0}, NULL);
  u->failed |= !op;
  return op ? op->results[0] : x;
}

static void update_weight(updating *u, int weight) {
  begin_group(u);
  ir_value *g = mul(u, gradient(u, weight), given(u, "factor"));
  bool narrow = u->module->weights[weight].storage == 1u << IR_bf16, masters = narrow && !u->how->stochastic;
  tile_state held = masters ? TILE_MASTER : TILE_VALUE;
  ir_value *w = state(u, weight, held), *m = state(u, weight, TILE_MOMENT1), *v = state(u, weight, TILE_MOMENT2);
  if (!u->how->no_decay[weight]) w = mul(u, w, given(u, "keep"));
  m = add(u, m, mul(u, sub(u, g, m), constant(u, 1 - u->how->beta1)));
  v = add(u, mul(u, v, constant(u, u->how->beta2)), mul(u, mul(u, g, g), constant(u, 1 - u->how->beta2)));
  ir_value *denominator = add(u, mul(u, root(u, v), given(u, "root")), constant(u, u->how->eps));
  w = sub(u, w, mul(u, given(u, "rate"), emit(u, IR_OP_div, m, denominator, NULL, 0)));
  assign(u, weight, held, narrow && !masters ? rounded_at_random(u, weight, w) : w);
  if (masters) assign(u, weight, TILE_VALUE, w);
  assign(u, weight, TILE_MOMENT1, m);
  assign(u, weight, TILE_MOMENT2, v);
  for (int i = 0; i < u->module->weight_count; i++)
    if (root_of(u, i) == weight && is_trained(u, i)) assign(u, i, TILE_GRADIENT, constant(u, 0));
  end_group(u, dp_arena_printf(u->module->arena, "update_%s", u->module->weights[weight].name), NULL, NULL);
}

static bool end_graph(updating *u) {
  return ir_emit(u->block, NULL, IR_OP_return, NULL, 0, NULL, 0, NULL, (dp_loc){0}, NULL) != NULL;
}

dp_status ps_add_update(ir_module *module, const ps_update *how) {
  updating u = {.module = module, .how = how, .block = ir_add_graph(module, "norm")->block};
  if (!add_norm(&u)) return dp_fail(DP_INVALID, "nothing is trained: every weight is frozen");
  u.failed |= !end_graph(&u);
  u.block = ir_add_graph(module, "update")->block;
  for (int i = 0; i < module->weight_count; i++)
    if (has_gradient(&u, i)) update_weight(&u, i);
  u.failed |= !end_graph(&u);
  DP_CHECK(!u.failed, "update: a group could not be made");
  return ir_verify(module, "update");
}
