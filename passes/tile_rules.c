/* passes/tile_rules.c: how each op becomes tile code: one function per tile rule token of ops.def, and the table over
 * ops made of the tokens, so that an op whose rule is missing does not link. A rule emits into the kind under
 * construction and says which tile value its result is; where that value's columns come from is schedule_kind.c's. */
#include "passes/schedule.h"

#include <float.h>
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

/* Columns of x [.., n] again and again, until there are `cols` of them. */
static int repeated(ps_kind *k, int x, int64_t n, int64_t cols) {
  if (n == cols || n == 1) return x;
  tile_op pick = ps_op(k, TILE_pick, cols, x, 0);
  pick.dim = n;
  pick.inner = 1;
  return ps_emit(k, pick);
}

/* `count` columns from `first` on of each head of `dim` columns. */
static int sliced(ps_kind *k, int x, int64_t dim, int64_t first, int64_t count) {
  int64_t heads = k->kind->ops[x].cols / dim;
  tile_op pick = ps_op(k, TILE_pick, heads * count, x, 0);
  pick.dim = count;
  pick.outer = dim;
  pick.inner = 1;
  pick.col_base = first;
  return ps_emit(k, pick);
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

/* Does the operand have all of the result's inner dimensions, and none of the outer ones? */
static bool repeats(const ir_type *operand, const ir_type *result) {
  bool lacking = false;
  for (int i = result->rank - 1; i >= (ps_has_rows(result) ? 1 : 0); i--) {
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

/* Operand i with, or broadcast by who reads it to, the columns of the result. */
static dp_status spread_operand(ps_kind *k, const ir_op *op, int i, int *index) {
  const ir_type *operand = &op->operands[i]->type, *result = &op->results[0]->type;
  bool inwards = broadcasts_inwards(operand, result);
  if (inwards) return ps_operand(k, op, i, index);
  if (!repeats(operand, result))
    return unsupported(k, op, "an operand lacks dimensions of the result both before and after its own");
  DP_TRY(ps_whole_rows(k, op->operands[i], index));
  *index = repeated(k, *index, ps_columns(operand), ps_columns(result));
  return DP_SUCCESS;
}

static dp_status tile_rule_elementwise(ps_kind *k, const ir_op *op) {
  tile_opcode code;
  int operands[2] = {0, 0};
  DP_CHECK(tile_scalar_parse(ir_op_info_of(op->code)->name, &code) && tile_scalar_arity(code) == op->operand_count,
           "there is no scalar function for %s", ir_op_info_of(op->code)->name);
  for (int i = 0; i < op->operand_count; i++) DP_TRY(spread_operand(k, op, i, &operands[i]));
  ps_define(k, op, emit(k, code, ps_cols(k, ps_own_columns(k, &op->results[0]->type)), operands[0], operands[1]));
  return DP_SUCCESS;
}

/* Times 1, which changes no bit. */
static dp_status tile_rule_broadcast(ps_kind *k, const ir_op *op) {
  int x;
  DP_TRY(spread_operand(k, op, 0, &x));
  ps_define(k, op, emit(k, TILE_mul, ps_cols(k, ps_own_columns(k, &op->results[0]->type)), x, ps_constant(k, 1)));
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

/* x * rsqrt(sum(x^2) / d + eps), for each d of the columns. */
static int normalized(ps_kind *k, const ir_op *op, int x, int64_t cols, int64_t d) {
  int64_t heads = cols / d;
  int sum = emit(k, TILE_sum, heads, emit(k, TILE_mul, cols, x, x), 0);
  int mean = emit(k, TILE_div, heads, sum, ps_constant(k, (double)d));
  int shifted = emit(k, TILE_add, heads, mean, ps_constant(k, ir_get_float(op, "eps", 0)));
  return emit(k, TILE_mul, cols, x, emit(k, TILE_rsqrt, heads, shifted, 0));
}

/* Normalized, then * weight: rounded in that order, as the models were trained. */
static dp_status tile_rule_rms_norm(ps_kind *k, const ir_op *op) {
  int x, weight;
  int64_t cols = ps_columns(&op->results[0]->type), d = last_dim(op->results[0]);
  DP_CHECK(!k->columns, "kind '%s' normalizes a column tile", k->kind->name);
  DP_TRY(ps_operand(k, op, 0, &x));
  int normal = normalized(k, op, x, cols, d);
  DP_TRY(ps_operand(k, op, 1, &weight));
  ps_define(k, op, emit(k, TILE_mul, cols, normal, repeated(k, weight, d, cols)));
  return DP_SUCCESS;
}

static dp_status tile_rule_layer_norm(ps_kind *k, const ir_op *op) {
  int x, weight, bias;
  int64_t cols = ps_columns(&op->results[0]->type), d = last_dim(op->results[0]), heads = cols / d;
  DP_CHECK(!k->columns, "kind '%s' normalizes a column tile", k->kind->name);
  DP_TRY(ps_operand(k, op, 0, &x));
  int mean = emit(k, TILE_div, heads, emit(k, TILE_sum, heads, x, 0), ps_constant(k, (double)d));
  int normal = normalized(k, op, emit(k, TILE_sub, cols, x, mean), cols, d);
  DP_TRY(ps_operand(k, op, 1, &weight));
  DP_TRY(ps_operand(k, op, 2, &bias));
  int scaled = emit(k, TILE_mul, cols, normal, repeated(k, weight, d, cols));
  ps_define(k, op, emit(k, TILE_add, cols, scaled, repeated(k, bias, d, cols)));
  return DP_SUCCESS;
}

static dp_status tile_rule_softmax(ps_kind *k, const ir_op *op) {
  int x;
  int64_t cols = ps_columns(&op->results[0]->type), heads = cols / last_dim(op->results[0]);
  DP_CHECK(!k->columns, "kind '%s' makes a softmax of a column tile", k->kind->name);
  DP_TRY(ps_operand(k, op, 0, &x));
  int shifted = emit(k, TILE_sub, cols, x, emit(k, TILE_greatest, heads, x, 0));
  int e = emit(k, TILE_exp, cols, shifted, 0);
  ps_define(k, op, emit(k, TILE_div, cols, e, emit(k, TILE_sum, heads, e, 0)));
  return DP_SUCCESS;
}

static dp_status tile_rule_log_sum_exp(ps_kind *k, const ir_op *op) {
  int x;
  int64_t cols = ps_columns(&op->operands[0]->type), heads = ps_columns(&op->results[0]->type);
  DP_CHECK(!k->columns, "kind '%s' sums a column tile", k->kind->name);
  DP_TRY(ps_operand(k, op, 0, &x));
  int greatest = emit(k, TILE_greatest, heads, x, 0);
  int e = emit(k, TILE_exp, cols, emit(k, TILE_sub, cols, x, greatest), 0);
  ps_define(k, op, emit(k, TILE_add, heads, greatest, emit(k, TILE_log, heads, emit(k, TILE_sum, heads, e, 0), 0)));
  return DP_SUCCESS;
}

/* The numbers of an input as a value [rows, 1]. */
static dp_status input_number(ps_kind *k, const ir_op *op, int i, int *index) {
  const ps_value *ids = ps_value_of(k, op->operands[i]);
  if (ids->place != PS_INPUT) return unsupported(k, op, "the ids must be an input of the graph");
  tile_op input = ps_op(k, TILE_input, 1, 0, 0);
  input.ref = ids->ref;
  *index = ps_emit(k, input);
  return DP_SUCCESS;
}

static dp_status tile_rule_number(ps_kind *k, const ir_op *op) {
  int index;
  DP_TRY(input_number(k, op, 0, &index));
  k->kind->ops[index].part = ir_get_int(op, "bits", 0) != 0;
  ps_define(k, op, index);
  return DP_SUCCESS;
}

static dp_status tile_rule_element(ps_kind *k, const ir_op *op) {
  int x, id;
  DP_TRY(ps_operand(k, op, 0, &x));
  if (ps_value_of(k, op->operands[1])->place == PS_INPUT)
    DP_TRY(input_number(k, op, 1, &id));
  else
    DP_TRY(ps_operand(k, op, 1, &id));
  ps_define(k, op, emit(k, TILE_at, 1, x, id));
  return DP_SUCCESS;
}

static dp_status tile_rule_gumbel(ps_kind *k, const ir_op *op) {
  int inputs[3];
  for (int i = 0; i < 3; i++) {
    const ps_value *at = ps_value_of(k, op->operands[i]);
    if (at->place != PS_INPUT) return unsupported(k, op, "its seeds and places must be inputs of the graph");
    inputs[i] = at->ref;
  }
  int64_t cols = ps_cols(k, ps_columns(&op->results[0]->type));
  tile_op noise = ps_op(k, TILE_noise, cols, 0, 0);
  noise.ref = inputs[0], noise.index = inputs[1], noise.part = inputs[2];
  noise.col_step = k->columns ? k->kind->col_tile : 0;
  ps_define(k, op, emit(k, TILE_gumbel, cols, ps_emit(k, noise), 0));
  return DP_SUCCESS;
}

/* Two columns of one value: the greatest, and where it stands. */
static dp_status tile_rule_best(ps_kind *k, const ir_op *op) {
  int x;
  DP_TRY(ps_operand(k, op, 0, &x));
  tile_op best = ps_op(k, TILE_best, 2, x, 0);
  best.col_step = k->columns ? k->kind->col_tile : 0;
  int both = ps_emit(k, best);
  for (int i = 0; i < 2; i++) {
    tile_op half = ps_op(k, TILE_pick, 1, both, 0);
    half.dim = half.outer = half.inner = 1;
    half.col_base = i;
    ps_value_of(k, op->results[i])->full = ps_emit(k, half);
  }
  return DP_SUCCESS;
}

static dp_status tile_rule_one_hot(ps_kind *k, const ir_op *op) {
  int id;
  DP_TRY(input_number(k, op, 0, &id));
  ps_define(k, op, emit(k, TILE_hot, ps_columns(&op->results[0]->type), id, 0));
  return DP_SUCCESS;
}

/* ---- what one loop leaves to another, gradients of weights */

static dp_status tile_rule_save(ps_kind *k, const ir_op *op) {
  int x;
  if (ps_value_of(k, op->operands[1])->place != PS_LAYER)
    return unsupported(k, op, "its layer must be the index of the loop around it");
  DP_TRY(ps_operand(k, op, 0, &x));
  tile_op store = ps_op(k, TILE_store, k->kind->ops[x].cols, x, 0);
  store.ref = ps_stack(k->s, ir_get_string(op, "stack", ""), &op->operands[0]->type);
  store.column_tile = k->kind->ops[x].column_tile;
  store.col_step = store.column_tile ? k->kind->col_tile : 0;
  ps_emit(k, store);
  return DP_SUCCESS;
}

static dp_status load_of_all(ps_kind *k, const ir_op *op, int i, bool tiled, int *index) {
  const ps_value *at = ps_value_of(k, op->operands[i]);
  if (at->place != PS_BUFFER) return unsupported(k, op, "what it adds must be stored");
  bool batched = k->kind->batches > 1 && op->operands[i]->type.rank == 3;
  int64_t cols = batched ? last_dim(op->operands[i]) : ps_columns(&op->operands[i]->type);
  tile_op load = ps_op(k, TILE_load, tiled ? k->kind->col_tile : cols, 0, 0);
  load.ref = at->ref;
  load.column_tile = tiled;
  load.col_step = tiled ? k->kind->col_tile : 0;
  if (batched) ps_step_by_member(k, &load, cols);
  *index = ps_emit(k, load);
  return DP_SUCCESS;
}

/* The packed rows of a weight w[n, k] are those of n, or of k where the graph multiplies with it the other way. */
static dp_status tile_rule_accumulate_product(ps_kind *k, const ir_op *op) {
  tile_op add = ps_op(k, TILE_mma_rows, 0, 0, 0);
  DP_TRY(ps_gradient_weight(k, op, TILE_MATRIX, &add.ref));
  bool transposed = k->program->weights[add.ref].transposed;
  DP_TRY(load_of_all(k, op, transposed ? 0 : 1, false, &add.operands[0]));
  DP_TRY(load_of_all(k, op, transposed ? 1 : 0, true, &add.operands[1]));
  ps_emit(k, add);
  return DP_SUCCESS;
}

static dp_status tile_rule_accumulate_experts(ps_kind *k, const ir_op *op) {
  return tile_rule_accumulate_product(k, op);
}

static dp_status tile_rule_accumulate_sum(ps_kind *k, const ir_op *op) {
  tile_op add = ps_op(k, TILE_sum_rows, 0, 0, 0);
  DP_TRY(ps_gradient_weight(k, op, TILE_VECTOR, &add.ref));
  DP_TRY(load_of_all(k, op, 0, false, &add.operands[0]));
  ps_emit(k, add);
  return DP_SUCCESS;
}

static dp_status tile_rule_accumulate_rows(ps_kind *k, const ir_op *op) {
  const ps_value *ids = ps_value_of(k, op->operands[1]);
  tile_op add = ps_op(k, TILE_scatter_rows, 0, 0, 0);
  if (ids->place != PS_INPUT) return unsupported(k, op, "the ids must be an input of the graph");
  DP_TRY(ps_gradient_weight(k, op, TILE_MATRIX, &add.ref));
  if (k->program->weights[add.ref].transposed) return unsupported(k, op, "the table is used the other way round");
  add.index = ids->ref;
  DP_TRY(load_of_all(k, op, 0, true, &add.operands[0]));
  ps_emit(k, add);
  return DP_SUCCESS;
}

/* ---- what training keeps of a weight */

static dp_status tile_rule_parameter(ps_kind *k, const ir_op *op) {
  tile_op parameter = ps_op(k, TILE_parameter, k->kind->col_tile, 0, 0);
  DP_TRY(ps_state_weight(k, op, &parameter.ref));
  parameter.part = (int)ir_get_int(op, "state", 0);
  parameter.column_tile = true;
  ps_value_of(k, op->results[0])->full = ps_emit(k, parameter);
  return DP_SUCCESS;
}

static dp_status tile_rule_assign(ps_kind *k, const ir_op *op) {
  tile_op assign = ps_op(k, TILE_assign, k->kind->col_tile, 0, 0);
  DP_TRY(ps_state_weight(k, op, &assign.ref));
  DP_TRY(ps_whole_rows(k, op->operands[0], &assign.operands[0]));
  assign.part = (int)ir_get_int(op, "state", 0);
  ps_emit(k, assign);
  return DP_SUCCESS;
}

static dp_status tile_rule_round_random(ps_kind *k, const ir_op *op) {
  tile_op random = ps_op(k, TILE_random, k->kind->col_tile, 0, 0);
  DP_TRY(ps_state_weight(k, op, &random.ref));
  DP_TRY(ps_whole_rows(k, op->operands[1], &random.operands[0]));
  DP_TRY(ps_whole_rows(k, op->operands[2], &random.operands[1]));
  random.column_tile = true;
  tile_op rounded = ps_op(k, TILE_round_random, k->kind->col_tile, 0, ps_emit(k, random));
  DP_TRY(ps_whole_rows(k, op->operands[0], &rounded.operands[0]));
  rounded.column_tile = true;
  ps_value_of(k, op->results[0])->full = ps_emit(k, rounded);
  return DP_SUCCESS;
}

static dp_status tile_rule_given(ps_kind *k, const ir_op *op) {
  tile_op load = ps_op(k, TILE_load, 1, 0, 0);
  load.ref = ps_number(k->s, ir_get_string(op, "name", ""), 1);
  ps_define(k, op, ps_emit(k, load));
  return DP_SUCCESS;
}

static dp_status tile_rule_total(ps_kind *k, const ir_op *op) {
  int x;
  DP_TRY(ps_whole_rows(k, op->operands[0], &x));
  ps_define(k, op, emit(k, TILE_sum, 1, x, 0));
  return DP_SUCCESS;
}

static dp_status tile_rule_slice(ps_kind *k, const ir_op *op) {
  int x;
  DP_TRY(ps_operand(k, op, 0, &x));
  ps_define(k, op, sliced(k, x, last_dim(op->operands[0]), ir_get_int(op, "first", 0), ir_get_int(op, "count", 0)));
  return DP_SUCCESS;
}

static dp_status tile_rule_concat(ps_kind *k, const ir_op *op) {
  int x, y;
  DP_TRY(ps_operand(k, op, 0, &x));
  DP_TRY(ps_operand(k, op, 1, &y));
  tile_op concat = ps_op(k, TILE_concat, ps_columns(&op->results[0]->type), x, y);
  concat.dim = last_dim(op->operands[0]);
  ps_define(k, op, ps_emit(k, concat));
  return DP_SUCCESS;
}

static dp_status tile_rule_every(ps_kind *k, const ir_op *op) {
  if (ps_value_of(k, op->operands[0])->place != PS_LAYER)
    return unsupported(k, op, "its index must be that of the loop around it");
  tile_op every = ps_op(k, TILE_every, 1, 0, 0);
  every.dim = ir_get_int(op, "period", 1);
  every.part = (int)ir_get_int(op, "phase", 0);
  ps_define(k, op, ps_emit(k, every));
  return DP_SUCCESS;
}

/* ---- experts */

static dp_status tile_rule_top_k(ps_kind *k, const ir_op *op) {
  int x;
  DP_TRY(ps_operand(k, op, 0, &x));
  tile_op top = ps_op(k, TILE_top_k, ps_columns(&op->results[0]->type), x, 0);
  top.dim = last_dim(op->results[0]);
  ps_define(k, op, ps_emit(k, top));
  return DP_SUCCESS;
}

static dp_status tile_rule_take(ps_kind *k, const ir_op *op) {
  int x, ids;
  DP_TRY(ps_operand(k, op, 0, &x));
  DP_TRY(ps_operand(k, op, 1, &ids));
  tile_op take = ps_op(k, TILE_take, ps_columns(&op->results[0]->type), x, ids);
  take.dim = last_dim(op->operands[1]);
  ps_define(k, op, ps_emit(k, take));
  return DP_SUCCESS;
}

static dp_status tile_rule_place(ps_kind *k, const ir_op *op) {
  int x, ids;
  DP_TRY(ps_operand(k, op, 0, &x));
  DP_TRY(ps_operand(k, op, 1, &ids));
  tile_op place = ps_op(k, TILE_place, ps_columns(&op->results[0]->type), x, ids);
  place.dim = last_dim(op->operands[1]);
  ps_define(k, op, ps_emit(k, place));
  return DP_SUCCESS;
}

static dp_status tile_rule_among(ps_kind *k, const ir_op *op) {
  int ids;
  DP_TRY(ps_operand(k, op, 0, &ids));
  tile_op among = ps_op(k, TILE_among, ps_columns(&op->results[0]->type), ids, 0);
  among.dim = last_dim(op->operands[0]);
  ps_define(k, op, ps_emit(k, among));
  return DP_SUCCESS;
}

/* weights[0] * x[0], then + weights[i] * x[i] in order, each rounded. */
static dp_status tile_rule_mix(ps_kind *k, const ir_op *op) {
  int weights, x, sum = -1;
  int64_t used = last_dim(op->operands[0]), d = last_dim(op->results[0]);
  DP_TRY(ps_operand(k, op, 0, &weights));
  DP_TRY(ps_operand(k, op, 1, &x));
  for (int64_t i = 0; i < used; i++) {
    int term = emit(k, TILE_mul, d, sliced(k, x, used * d, i * d, d), sliced(k, weights, used, i, 1));
    sum = i ? emit(k, TILE_add, d, sum, term) : term;
  }
  ps_define(k, op, sum);
  return DP_SUCCESS;
}

/* The batch's columns of x, or of the row's choice, when every head or choice brings its own; else the token's. */
static dp_status batch_operand(ps_kind *k, const ir_op *op, int *index) {
  const ps_value *x = ps_value_of(k, op->operands[0]);
  if (x->full >= 0) return *index = x->full, DP_SUCCESS;
  if (x->place != PS_BUFFER) return unsupported(k, op, "what it multiplies must be stored");
  tile_op load = ps_op(k, TILE_load, last_dim(op->operands[0]), 0, 0);
  load.ref = x->ref;
  if (op->operands[0]->type.rank == 3) ps_step_by_member(k, &load, load.cols);
  *index = ps_value_of(k, op->operands[0])->full = ps_emit(k, load);
  return DP_SUCCESS;
}

/* With the weight as it lies, where the graph has multiplied with it the other way. */
static dp_status weight_product(ps_kind *k, const ir_op *op, int x) {
  tile_op mma = ps_op(k, TILE_mma, k->kind->col_tile, x, 0);
  bool transposed = !ir_get_int(op, "transposed", 0);
  mma.col_step = k->kind->col_tile;
  if (ps_other_way(k, op->operands[1], transposed, &mma.ref))
    mma.code = TILE_mma_back;
  else
    DP_TRY(ps_weight(k, op->operands[1], TILE_MATRIX, transposed, &mma.ref));
  ps_define(k, op, ps_emit(k, mma));
  return DP_SUCCESS;
}

static dp_status tile_rule_head_matmul(ps_kind *k, const ir_op *op) {
  int x;
  DP_TRY(batch_operand(k, op, &x));
  return weight_product(k, op, x);
}

static dp_status tile_rule_expert_matmul(ps_kind *k, const ir_op *op) { return tile_rule_head_matmul(k, op); }

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
  int x = -1;
  DP_TRY(ps_whole_rows(k, op->operands[0], &x));
  return weight_product(k, op, x);
}

/* How much of frequency i is divided by the factor: all of what turns `low` times or less in the original context, nothing
 * of what turns `high` times or more. */
static double stretched(const ir_op *op, double theta, int64_t dim, int64_t i) {
  const double pi = 3.14159265358979323846;
  double low = ir_get_float(op, "low", 0), high = ir_get_float(op, "high", 0), original = ir_get_float(op, "original", 0);
  if (original <= 0) return 1;
  double share;
  if (ir_get_int(op, "yarn", 0)) { /* a ramp over i, between the whole indices around those that turn so often */
    double first = floor((double)dim * log(original / (high * 2 * pi)) / (2 * log(theta)));
    double last = ceil((double)dim * log(original / (low * 2 * pi)) / (2 * log(theta)));
    first = fmax(first, 0);
    last = fmin(last, (double)(dim - 1));
    share = ((double)i - first) / fmax(last - first, 0.001);
  } else {
    double turns = original * pow(theta, -2.0 * (double)i / (double)dim) / (2 * pi);
    share = 1 - (turns - low) / (high - low);
  }
  return fmin(fmax(share, 0), 1);
}

static float frequency(const ir_op *op, double theta, int64_t dim, int64_t i) {
  double f = pow(theta, -2.0 * (double)i / (double)dim), factor = ir_get_float(op, "factor", 1);
  double share = stretched(op, theta, dim, i);
  return (float)(factor == 1 ? f : f / factor * share + f * (1 - share));
}

/* Two values: the cosines are the lower half of the columns, the sines the upper. */
static dp_status tile_rule_rope_angles(ps_kind *k, const ir_op *op) {
  const ps_value *pos = ps_value_of(k, op->operands[0]);
  if (pos->place != PS_INPUT) return unsupported(k, op, "the positions must be an input of the graph");
  int64_t dim = ir_get_int(op, "dim", 0), half = dim / 2;
  double theta = ir_get_float(op, "theta", 0);
  float *frequencies = DP_NEW_ARRAY(k->program->arena, float, half);
  for (int64_t i = 0; i < half; i++) frequencies[i] = frequency(op, theta, dim, i);
  tile_op table = ps_op(k, TILE_table, half, 0, 0), input = ps_op(k, TILE_input, 1, 0, 0);
  table.data = frequencies;
  table.one_row = true;
  input.ref = pos->ref;
  int position = ps_emit(k, input);
  int frequency_row = ps_emit(k, table), divisors;
  if (op->operand_count > 1) {
    DP_TRY(ps_whole_rows(k, op->operands[1], &divisors));
    frequency_row = emit(k, TILE_div, half, frequency_row, divisors);
  }
  int angle = emit(k, TILE_mul, half, position, frequency_row);
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
  rotate.part = (int)ir_get_int(op, "inverse", 0);
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

/* The window, operand i, where it is given: the loop begins with the first chunk that shows any of it; else -1. */
static dp_status begin_at_window(ps_kind *k, const ir_op *op, int i, tile_op *begin, int *window) {
  *window = -1;
  if (op->operand_count <= i) return DP_SUCCESS;
  DP_TRY(ps_whole_rows(k, op->operands[i], window));
  int *list = DP_NEW_ARRAY(k->program->arena, int, 1);
  list[0] = *window;
  begin->list = list;
  begin->list_count = 1;
  return DP_SUCCESS;
}

/* Softmax over the context chunk by chunk: the greatest score so far, the sum of e^(s - greatest) and the weighted sum
 * of values are carried, the latter two rescaled when the greatest grows (Milakov and Gimelshein, 2018; Dao, 2022).
 * Without a window chunk 0 shows every row its first position, so the greatest is finite from then on: a later chunk that
 * a row cannot see leaves it, and -inf - -inf never comes up. */
static dp_status tile_rule_attend(ps_kind *k, const ir_op *op) {
  const ps_value *q = ps_value_of(k, op->operands[0]);
  const ps_value *keys = ps_value_of(k, op->operands[1]), *values = ps_value_of(k, op->operands[2]);
  bool causal = ir_get_int(op, "causal", 0), windowed = op->operand_count > 3;
  if (keys->place != PS_CACHE || values->place != PS_CACHE || keys->ref != values->ref || keys->part || !values->part)
    return unsupported(k, op, "keys and values must be appended to the parts 0 and 1 of one cache");
  DP_CHECK(q->place == PS_BUFFER, "kind '%s' attends with what is not stored", k->kind->name);
  int64_t dim = last_dim(op->operands[0]), width = last_dim(op->results[0]);
  tile_op load = ps_op(k, TILE_load, dim, 0, 0);
  load.ref = q->ref;
  load.col_step = k->kind->group * dim;
  load.group_step = dim;
  int query = ps_emit(k, load);
  int scale = ps_constant(k, ir_get_float(op, "scale", 1)), window;
  /* A row may see nothing of the first chunk that its segment sees: with a finite least score that leaves its sums 0. */
  int least = ps_constant(k, windowed ? -FLT_MAX : -INFINITY), zero = ps_constant(k, 0);
  tile_op begin = ps_op(k, TILE_loop, 0, 0, 0);
  DP_TRY(begin_at_window(k, op, 3, &begin, &window));
  ps_emit(k, begin);
  int greatest = emit(k, TILE_carry, 1, least, 0), total = emit(k, TILE_carry, 1, zero, 0);
  int sum = emit(k, TILE_carry, width, zero, 0);
  tile_op product = ps_op(k, TILE_mma_keys, TILE_CHUNK, query, 0);
  product.ref = keys->ref;
  int scores = emit(k, TILE_mul, TILE_CHUNK, ps_emit(k, product), scale);
  scores = emit(k, causal ? TILE_causal : TILE_known, TILE_CHUNK, scores, 0);
  if (windowed) scores = emit(k, TILE_window, TILE_CHUNK, scores, window);
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
  if (op->result_count > 1)
    ps_value_of(k, op->results[1])->full = emit(k, TILE_add, 1, greatest, emit(k, TILE_log, 1, total, 0));
  return DP_SUCCESS;
}

/* The columns of the task's head of each row of a stored value. */
static dp_status head_load(ps_kind *k, const ir_op *op, int i, int *index) {
  const ps_value *at = ps_value_of(k, op->operands[i]);
  if (at->place != PS_BUFFER) return unsupported(k, op, "it attends with what is not stored");
  int64_t dim = last_dim(op->operands[i]);
  tile_op load = ps_op(k, TILE_load, dim, 0, 0);
  load.ref = at->ref;
  load.col_step = k->kind->group * dim;
  if (k->kind->group > 1) load.group_step = dim;
  *index = ps_emit(k, load);
  return DP_SUCCESS;
}

/* Is operand i what was appended to that part of the cache of operand `of`? */
static bool is_part(ps_kind *k, const ir_op *op, int i, int of, int part) {
  const ps_value *at = ps_value_of(k, op->operands[i]);
  return at->place == PS_CACHE && at->part == part && at->ref == ps_value_of(k, op->operands[of])->ref;
}

static int by_cache(ps_kind *k, tile_opcode code, int64_t cols, int a, int start, int cache, int member, int members) {
  tile_op product = ps_op(k, code, cols, a, start);
  product.ref = cache;
  product.inner = members;
  product.outer = member;
  return ps_emit(k, product);
}

static void end_loop(ps_kind *k, const int *values, int count) {
  int *next = DP_NEW_ARRAY(k->program->arena, int, count);
  for (int i = 0; i < count; i++) next[i] = values[i];
  tile_op end = ps_op(k, TILE_next, 0, 0, 0);
  end.list = next;
  end.list_count = count;
  ps_emit(k, end);
}

/* (e^(scores - sums)) and that times (by values - shift) */
static void weigh(ps_kind *k, int scores, int sums, int products, int shift, int *weights, int *differences) {
  *weights = emit(k, TILE_exp, TILE_CHUNK, emit(k, TILE_sub, TILE_CHUNK, scores, sums), 0);
  *differences = emit(k, TILE_mul, TILE_CHUNK, *weights, emit(k, TILE_sub, TILE_CHUNK, products, shift));
}

static dp_status tile_rule_attend_rows(ps_kind *k, const ir_op *op) {
  int query, a, sums, shift, weights, differences;
  int keys = ps_value_of(k, op->operands[1])->ref, back = ps_value_of(k, op->operands[3])->ref;
  bool causal = ir_get_int(op, "causal", 0);
  if (!is_part(k, op, 1, 1, 0) || !is_part(k, op, 3, 3, 0) || !is_part(k, op, 4, 3, 1))
    return unsupported(k, op, "its operands must be appended");
  DP_TRY(head_load(k, op, 0, &query));
  DP_TRY(head_load(k, op, 2, &a));
  DP_TRY(head_load(k, op, 5, &sums));
  DP_TRY(head_load(k, op, 6, &shift));
  int64_t dim = last_dim(op->operands[0]);
  int scale = ps_constant(k, ir_get_float(op, "scale", 1)), zero = ps_constant(k, 0), window = -1;
  tile_op begin = ps_op(k, TILE_loop, 0, 0, 0);
  DP_TRY(begin_at_window(k, op, 7, &begin, &window));
  ps_emit(k, begin);
  int sum = emit(k, TILE_carry, dim, zero, 0);
  int scores = emit(k, TILE_mul, TILE_CHUNK, by_cache(k, TILE_mma_keys, TILE_CHUNK, query, 0, keys, 0, 1), scale);
  scores = emit(k, causal ? TILE_causal : TILE_known, TILE_CHUNK, scores, 0);
  if (window >= 0) scores = emit(k, TILE_window, TILE_CHUNK, scores, window);
  weigh(k, scores, sums, by_cache(k, TILE_mma_keys, TILE_CHUNK, a, 0, back, 0, 1), shift, &weights, &differences);
  int next = by_cache(k, TILE_mma_values, dim, differences, emit(k, TILE_add, dim, sum, zero), back, 0, 1);
  end_loop(k, &next, 1);
  ps_define(k, op, emit(k, TILE_mul, dim, sum, scale));
  return DP_SUCCESS;
}

/* The rows are keys, the chunks queries: from the chunk of the rows' own position on to the sequence's end, the query
 * heads that share the key head one after the other. Whole sequences from position 0 on. */
static dp_status tile_rule_attend_columns(ps_kind *k, const ir_op *op) {
  int key, value;
  int queries = ps_value_of(k, op->operands[2])->ref, results = ps_value_of(k, op->operands[4])->ref;
  int stats = ps_value_of(k, op->operands[6])->ref;
  if (!is_part(k, op, 2, 2, 0) || !is_part(k, op, 3, 2, 1) || !is_part(k, op, 4, 4, 0) || !is_part(k, op, 5, 4, 1) ||
      !is_part(k, op, 6, 6, 0))
    return unsupported(k, op, "its operands must be appended");
  DP_TRY(head_load(k, op, 0, &key));
  DP_TRY(head_load(k, op, 1, &value));
  int64_t dim = last_dim(op->operands[0]), width = last_dim(op->operands[1]);
  int members = (int)(op->operands[2]->type.dims[1].add / op->operands[0]->type.dims[1].add);
  bool causal = ir_get_int(op, "causal", 0);
  int scale = ps_constant(k, ir_get_float(op, "scale", 1)), zero = ps_constant(k, 0), window = -1;
  if (op->operand_count > 7) DP_TRY(ps_whole_rows(k, op->operands[7], &window));
  tile_op begin = ps_op(k, TILE_loop, 0, 0, 0);
  begin.part = causal;
  ps_emit(k, begin);
  int key_sum = emit(k, TILE_carry, dim, zero, 0), value_sum = emit(k, TILE_carry, width, zero, 0);
  int next[] = {key_sum, value_sum};
  for (int m = 0; m < members; m++) {
    int weights, differences, row[2];
    for (int i = 0; i < 2; i++) {
      tile_op numbers = ps_op(k, TILE_keys_row, TILE_CHUNK, 0, 0);
      numbers.ref = stats;
      numbers.dim = i;
      numbers.inner = members;
      numbers.outer = m;
      numbers.one_row = true;
      row[i] = ps_emit(k, numbers);
    }
    int scores = by_cache(k, TILE_mma_keys, TILE_CHUNK, key, 0, queries, m, members);
    scores = emit(k, causal ? TILE_seen_by : TILE_known, TILE_CHUNK, emit(k, TILE_mul, TILE_CHUNK, scores, scale), 0);
    if (window >= 0) {
      tile_op seen = ps_op(k, TILE_window, TILE_CHUNK, scores, window);
      seen.part = 1;
      scores = ps_emit(k, seen);
    }
    int products = by_cache(k, TILE_mma_keys, TILE_CHUNK, value, 0, results, m, members);
    weigh(k, scores, row[0], products, row[1], &weights, &differences);
    /* What lies past the sequence's end may be anything, and was masked before this: nothing of it is added. */
    next[1] = by_cache(k, TILE_mma_values, width, weights, next[1], queries, m, members);
    next[0] = by_cache(k, TILE_mma_values, dim, differences, next[0], results, m, members);
  }
  end_loop(k, next, 2);
  ps_define(k, op, emit(k, TILE_mul, dim, key_sum, scale));
  ps_value_of(k, op->results[1])->full = emit(k, TILE_add, width, value_sum, zero);
  return DP_SUCCESS;
}

/* ---- the table ---------------------------------------------------------------------------------------------------------------- */

static ps_tile_rule *const rules[] = {
#define IR_OP(name, operands, attrs, shape, gradient, tile, traits, doc) tile_rule_##tile,
#include "ir/ops.def"
#undef IR_OP
};

ps_tile_rule *ps_rule_of(ir_opcode code) { return rules[code]; }
