/* passes/tile_rules.c: how each op becomes tile code: one function per tile rule token of ops.def, and the table over
 * ops made of the tokens, so that an op whose rule is missing does not link. A rule emits into the kind under
 * construction and says which tile value its result is; where that value's columns come from is schedule_kind.c's. */
#include "passes/schedule.h"

#include <math.h>

/* ---- words the rules are written in ----------------------------------------------------------------------------------- */

static int emit(ps_kind *k, tile_opcode code, int64_t cols, int x, int y) {
  return ps_emit(k, ps_op(k, code, cols, x, y));
}

static dp_status unsupported(const ps_kind *k, const ir_op *op, const char *why) {
  return dp_fail(DP_UNSUPPORTED, "kind '%s': %s: %s", k->kind->name, ir_op_info_of(op->code)->name, why);
}

/* Size of the last dimension. */
static int64_t last_dim(const ir_value *value) {
  return value->type.rank ? value->type.dims[value->type.rank - 1].add : 1;
}

/* Tile operands are broadcast inwards: element c of a row reads operand column c * operand cols / cols. So the operand
 * may lack inner dimensions of the result, not outer ones. */
static bool broadcasts_inwards(const ir_type *operand, const ir_type *result) {
  bool lacking = false;
  for (int i = ps_has_rows(result) ? 1 : 0; i < result->rank; i++) {
    int at = i - (result->rank - operand->rank);
    int64_t have = at < 0 ? 1 : operand->dims[at].add, want = result->dims[i].add;
    if (have != want) lacking = true;
    else if (lacking && want != 1) return false;
  }
  return true;
}

/* ---- the rules ------------------------------------------------------------------------------------------------------------ */

static dp_status tile_rule_none(ps_kind *k, const ir_op *op) {
  DP_CHECK(false, "op %s reached the schedule, in kind '%s'", ir_op_info_of(op->code)->name, k->kind->name);
}

static dp_status tile_rule_constant(ps_kind *k, const ir_op *op) {
  ps_define(k, op, ps_constant(k, ir_get_float(op, "value", 0)));
  return DP_SUCCESS;
}

static dp_status tile_rule_reshape(ps_kind *k, const ir_op *op) {
  int x;
  DP_TRY(ps_operand(k, op, 0, &x));
  ps_define(k, op, x);
  return DP_SUCCESS;
}

static dp_status tile_rule_elementwise(ps_kind *k, const ir_op *op) {
  tile_opcode code;
  int operands[2] = {0, 0};
  DP_CHECK(tile_scalar_parse(ir_op_info_of(op->code)->name, &code) && tile_scalar_arity(code) == op->operand_count,
           "there is no scalar function for %s", ir_op_info_of(op->code)->name);
  for (int i = 0; i < op->operand_count; i++) {
    if (!broadcasts_inwards(&op->operands[i]->type, &op->results[0]->type))
      return unsupported(k, op, "an operand lacks an outer dimension of the result, and is not scheduled yet");
    DP_TRY(ps_operand(k, op, i, &operands[i]));
  }
  ps_define(k, op, emit(k, code, ps_cols(k, ps_columns(&op->results[0]->type)), operands[0], operands[1]));
  return DP_SUCCESS;
}

static dp_status tile_rule_reduce(ps_kind *k, const ir_op *op) {
  int x;
  DP_TRY(ps_operand(k, op, 0, &x));
  DP_CHECK(!k->columns, "kind '%s' reduces a column tile", k->kind->name);
  tile_opcode code = op->code == IR_OP_reduce_sum ? TILE_sum : TILE_greatest;
  ps_define(k, op, emit(k, code, ps_columns(&op->results[0]->type), x, 0));
  return DP_SUCCESS;
}

/* x * rsqrt(sum(x^2) / d + eps), then * weight: rounded in that order, as the models were trained. */
static dp_status tile_rule_rms_norm(ps_kind *k, const ir_op *op) {
  int x, weight;
  int64_t cols = ps_columns(&op->results[0]->type), d = last_dim(op->results[0]);
  if (cols != d) return unsupported(k, op, "a norm of several vectors a row is not scheduled yet");
  DP_CHECK(!k->columns, "kind '%s' normalizes a column tile", k->kind->name);
  DP_TRY(ps_operand(k, op, 0, &x));
  int sum = emit(k, TILE_sum, 1, emit(k, TILE_mul, cols, x, x), 0);
  int mean = emit(k, TILE_div, 1, sum, ps_constant(k, (double)d));
  int shifted = emit(k, TILE_add, 1, mean, ps_constant(k, ir_get_float(op, "eps", 0)));
  int normal = emit(k, TILE_mul, cols, x, emit(k, TILE_rsqrt, 1, shifted, 0));
  DP_TRY(ps_operand(k, op, 1, &weight));
  ps_define(k, op, emit(k, TILE_mul, cols, normal, weight));
  return DP_SUCCESS;
}

static dp_status tile_rule_gather(ps_kind *k, const ir_op *op) {
  const ps_value *table = ps_value_of(k, op->operands[0]), *ids = ps_value_of(k, op->operands[1]);
  if (ids->place != PS_INPUT) return unsupported(k, op, "the ids must be an input of the graph");
  tile_op load = ps_op(k, TILE_load, ps_columns(&op->results[0]->type), 0, 0);
  load.index = ids->ref;
  if (table->place == PS_BUFFER) {
    load.ref = table->ref;
    if (k->program->buffers[table->ref].output >= 0) return unsupported(k, op, "rows of a result cannot be gathered");
  } else {
    load.code = TILE_embed;
    if (op->operands[0]->type.rank != 2) return unsupported(k, op, "the table must have two dimensions");
    DP_TRY(ps_weight(k, op->operands[0], TILE_MATRIX, false, &load.ref));
  }
  ps_define(k, op, ps_emit(k, load));
  return DP_SUCCESS;
}

static dp_status tile_rule_matmul(ps_kind *k, const ir_op *op) {
  tile_op mma = ps_op(k, TILE_mma, k->kind->col_tile, 0, 0);
  DP_TRY(ps_whole_rows(k, op->operands[0], &mma.operands[0]));
  DP_TRY(ps_weight(k, op->operands[1], TILE_MATRIX, !ir_get_int(op, "transposed", 0), &mma.ref));
  mma.col_step = k->kind->col_tile;
  ps_define(k, op, ps_emit(k, mma));
  return DP_SUCCESS;
}

/* Two values: the cosines are the lower half of the columns, the sines the upper. */
static dp_status tile_rule_rope_angles(ps_kind *k, const ir_op *op) {
  const ps_value *pos = ps_value_of(k, op->operands[0]);
  if (pos->place != PS_INPUT) return unsupported(k, op, "the positions must be an input of the graph");
  int64_t dim = ir_get_int(op, "dim", 0), half = dim / 2;
  double theta = ir_get_float(op, "theta", 0);
  float *frequencies = DP_NEW_ARRAY(k->program->arena, float, half);
  for (int64_t i = 0; i < half; i++) frequencies[i] = (float)pow(theta, -2.0 * (double)i / (double)dim);
  tile_op table = ps_op(k, TILE_table, half, 0, 0), input = ps_op(k, TILE_input, 1, 0, 0);
  table.data = frequencies;
  table.one_row = true;
  input.ref = pos->ref;
  int position = ps_emit(k, input);
  int angle = emit(k, TILE_mul, half, position, ps_emit(k, table));
  ps_define(k, op, emit(k, TILE_cos, half, angle, 0));
  ps_value_of(k, op->results[0])->upper = emit(k, TILE_sin, half, angle, 0);
  return DP_SUCCESS;
}

static dp_status tile_rule_rotate(ps_kind *k, const ir_op *op) {
  int x, angles;
  DP_TRY(ps_operand(k, op, 0, &x));
  DP_TRY(ps_whole_rows(k, op->operands[1], &angles));
  tile_op rotate = ps_op(k, TILE_rotate, ps_cols(k, ps_columns(&op->results[0]->type)), x, angles);
  rotate.dim = last_dim(op->results[0]);
  ps_define(k, op, ps_emit(k, rotate));
  return DP_SUCCESS;
}

static dp_status tile_rule_append(ps_kind *k, const ir_op *op) {
  int x;
  if (ps_value_of(k, op->operands[1])->place != PS_LAYER)
    return unsupported(k, op, "its layer must be the index of the loop around it");
  DP_TRY(ps_operand(k, op, 0, &x));
  tile_op append = ps_op(k, TILE_append, k->kind->ops[x].cols, x, 0);
  append.part = (int)ir_get_int(op, "part", 0);
  append.dim = last_dim(op->results[0]);
  append.col_step = k->columns ? k->kind->col_tile : 0;
  DP_TRY(ps_cache(k, op, &append.ref));
  ps_emit(k, append);
  ps_value *result = ps_value_of(k, op->results[0]);
  *result = (ps_value){.place = PS_CACHE, .ref = append.ref, .part = append.part, .full = -1, .column = -1, .upper = -1};
  return DP_SUCCESS;
}

/* Softmax over the context chunk by chunk: the greatest score so far, the sum of e^(s - greatest) and the weighted sum
 * of values are carried, the latter two rescaled when the greatest grows (Milakov and Gimelshein, 2018; Dao, 2022).
 * Chunk 0 shows every row its first position, so the greatest is finite from then on: a later chunk that a row cannot
 * see leaves it, and -inf - -inf never comes up. */
static dp_status tile_rule_attend(ps_kind *k, const ir_op *op) {
  const ps_value *q = ps_value_of(k, op->operands[0]);
  const ps_value *keys = ps_value_of(k, op->operands[1]), *values = ps_value_of(k, op->operands[2]);
  if (!ir_get_int(op, "causal", 0)) return unsupported(k, op, "attention without causal is not scheduled yet");
  if (keys->place != PS_CACHE || values->place != PS_CACHE || keys->ref != values->ref || keys->part || !values->part)
    return unsupported(k, op, "keys and values must be appended to the parts 0 and 1 of one cache");
  DP_CHECK(q->place == PS_BUFFER, "kind '%s' attends with what is not stored", k->kind->name);
  int64_t dim = last_dim(op->operands[0]), width = last_dim(op->results[0]);
  tile_op load = ps_op(k, TILE_load, dim, 0, 0);
  load.ref = q->ref;
  load.col_step = k->kind->group * dim;
  load.group_step = dim;
  int query = ps_emit(k, load);
  int scale = ps_constant(k, ir_get_float(op, "scale", 1)), least = ps_constant(k, -INFINITY), zero = ps_constant(k, 0);
  ps_emit(k, ps_op(k, TILE_loop, 0, 0, 0));
  int greatest = emit(k, TILE_carry, 1, least, 0), total = emit(k, TILE_carry, 1, zero, 0);
  int sum = emit(k, TILE_carry, width, zero, 0);
  tile_op product = ps_op(k, TILE_mma_keys, TILE_CHUNK, query, 0);
  product.ref = keys->ref;
  int scores = emit(k, TILE_causal, TILE_CHUNK, emit(k, TILE_mul, TILE_CHUNK, ps_emit(k, product), scale), 0);
  int higher = emit(k, TILE_max, 1, greatest, emit(k, TILE_greatest, 1, scores, 0));
  int weights = emit(k, TILE_exp, TILE_CHUNK, emit(k, TILE_sub, TILE_CHUNK, scores, higher), 0);
  int shrink = emit(k, TILE_exp, 1, emit(k, TILE_sub, 1, greatest, higher), 0);
  int more = emit(k, TILE_add, 1, emit(k, TILE_mul, 1, total, shrink), emit(k, TILE_sum, 1, weights, 0));
  /* + 0 makes +0 of -0, and changes nothing else. Positions that a row does not see add 0 * value to its sum, and how
   * many of those come depends on the other rows of the task: to +0 they add nothing, of a -0 they could make +0. */
  int rescaled = emit(k, TILE_add, width, emit(k, TILE_mul, width, sum, shrink), zero);
  product = ps_op(k, TILE_mma_values, width, weights, rescaled);
  product.ref = keys->ref;
  int *next = DP_NEW_ARRAY(k->program->arena, int, 3);
  next[0] = higher;
  next[1] = more;
  next[2] = ps_emit(k, product);
  tile_op end = ps_op(k, TILE_next, 0, 0, 0);
  end.list = next;
  end.list_count = 3;
  ps_emit(k, end);
  ps_define(k, op, emit(k, TILE_div, width, emit(k, TILE_add, width, sum, zero), total));
  return DP_SUCCESS;
}

/* ---- the table ---------------------------------------------------------------------------------------------------------------- */

static ps_tile_rule *const rules[] = {
#define IR_OP(name, operands, attrs, shape, tile, traits, doc) tile_rule_##tile,
#include "ir/ops.def"
#undef IR_OP
};

ps_tile_rule *ps_rule_of(ir_opcode code) { return rules[code]; }
