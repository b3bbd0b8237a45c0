/* codegen/llvm/rows.c: ops that add to gradients, which walk the rows of all tokens from the first to the last; and the
 * product with a packed weight the other way round, by turning blocks of it. */
#include "codegen/llvm/ll.h"

#include <stdio.h>

/* ---- where all tokens' rows lie */

/* Rows of one row tile of what `load` is: address of the first one's first column. Outputs are one tile. */
static LLVMValueRef tile_rows_at(ll_kind *k, const tile_op *load, LLVMValueRef row_tile) {
  ll *l = k->l;
  const tile_buffer *buffer = &l->program->buffers[load->ref];
  LLVMValueRef column = ll_muli(l, ll_column_of(k, load, ll_int(l, 0)), 4);
  if (buffer->output >= 0) {
    LLVMValueRef outputs = ll_step_ptr(l, k->step, offsetof(tile_step, outputs));
    LLVMValueRef base = ll_load_constant(l, l->ptr, ll_at(l, outputs, ll_int(l, buffer->output * 8)), 8);
    return ll_at(l, base, ll_add(l, ll_muli(l, row_tile, l->program->row_tile * buffer->stride * 4), column));
  }
  LLVMValueRef arena = ll_step_ptr(l, k->step, offsetof(tile_step, arena) + sizeof(char *) * buffer->space);
  if (buffer->space == TILE_WINDOW) row_tile = LLVMBuildURem(l->b, row_tile, ll_int(l, l->program->window), "");
  LLVMValueRef bytes = ll_addi(l, ll_muli(l, row_tile, l->program->slab_bytes[buffer->space]), buffer->offset);
  if (buffer->layers)
    bytes = ll_add(l, bytes, ll_muli(l, ll_addi(l, k->layer, -buffer->first_layer), l->program->row_tile * buffer->stride * 4));
  return ll_at(l, arena, ll_add(l, bytes, column));
}

static LLVMValueRef gradient_at(ll_kind *k, const tile_op *op) {
  ll *l = k->l;
  const tile_weight *weight = &l->program->weights[op->ref];
  LLVMValueRef slot = ll_int(l, weight->first_slot);
  if (weight->count > 1) slot = ll_add(l, slot, ll_muli(l, ll_addi(l, k->layer, -weight->first_layer), weight->inner));
  if (weight->inner > 1) slot = ll_add(l, slot, k->batch);
  LLVMValueRef gradients = ll_step_ptr(l, k->step, offsetof(tile_step, states) + sizeof(float *const *) * TILE_GRADIENT);
  return ll_load_constant(l, l->ptr, LLVMBuildGEP2(l->b, l->ptr, gradients, &slot, 1, ""), 8);
}

typedef struct tile_loop {
  ll_loop tiles;
  LLVMValueRef rows; /* of the row tile */
} tile_loop;

/* Of the task's window, or all. */
static void begin_tiles(ll_kind *k, tile_loop *loop) {
  ll *l = k->l;
  int64_t size = l->program->row_tile;
  LLVMValueRef tokens = ll_step_i64(l, k->step, offsetof(tile_step, rows) + sizeof(int64_t) * TILE_TOKENS);
  LLVMValueRef count = LLVMBuildUDiv(l->b, ll_addi(l, tokens, size - 1), ll_int(l, size), ""), from = ll_int(l, 0);
  if (k->kind->window) {
    from = ll_muli(l, k->row, k->kind->window);
    count = ll_min(l, count, ll_addi(l, from, k->kind->window));
  }
  ll_loop_begin(l, &loop->tiles, "rows.tile", from, count, 1, NULL, 0);
  LLVMValueRef left = LLVMBuildSub(l->b, tokens, ll_muli(l, loop->tiles.index, size), "");
  loop->rows = ll_min(l, left, ll_int(l, size));
}

static LLVMValueRef lanes_below(ll *l, LLVMValueRef count) {
  LLVMValueRef limit = ll_splat(l, LLVMBuildTrunc(l->b, count, l->i32, ""));
  return LLVMBuildICmp(l->b, LLVMIntSLT, ll_lane_ids(l), limit, "");
}

/* ---- products along the tokens */

/* Rows of an operand: stride floats from one to the next, or where `offsets` is there, i32[rows], so many floats from
 * the first. */
typedef struct outer_rows {
  LLVMValueRef first, stride, offsets;
} outer_rows;

static LLVMValueRef outer_row(ll *l, LLVMValueRef first, LLVMValueRef apart, bool listed, LLVMValueRef t) {
  return ll_at(l, first, ll_muli(l, listed ? ll_load_i32(l, apart, t) : ll_mul(l, t, apart), 4));
}

/* 16 columns, those from `valid` on 0 and not read. */
static LLVMValueRef load_valid(ll *l, LLVMValueRef at, LLVMValueRef valid) {
  LLVMTypeRef overloads[] = {l->v_f32, l->ptr};
  LLVMValueRef arguments[] = {at, LLVMConstInt(l->i32, 4, false), lanes_below(l, valid), ll_const(l, 0.0)};
  return ll_intrinsic(l, "llvm.masked.load", overloads, 2, arguments, 4);
}

/* void outer(a, lda, b, ldb, rows, c, valid): c[m][0..64) += sum over the rows t, in order, of a[t][m] b[t][0..64), for
 * shape.rows m; rows of c lie 64 floats apart; from column `valid` on b counts as 0. `listed`: lda and ldb are offsets.
 */
static LLVMValueRef outer_tile(ll *l, ll_register_tile shape, bool partial, bool listed) {
  char name[64];
  snprintf(name, sizeof name, "outer%s%s.%dx%d", partial ? ".part" : "", listed ? ".listed" : "", shape.rows,
           shape.blocks * TILE_LANES);
  LLVMValueRef found = LLVMGetNamedFunction(l->module, name);
  if (found) return found;
  LLVMTypeRef apart = listed ? l->ptr : l->i64;
  LLVMTypeRef parameters[] = {l->ptr, apart, l->ptr, apart, l->i64, l->ptr, l->i64};
  LLVMValueRef function = ll_function(l, name, parameters, 7, false), outer = l->function;
  LLVMBasicBlockRef resume = LLVMGetInsertBlock(l->b);
  l->function = function;
  LLVMPositionBuilderAtEnd(l->b, ll_block(l, "entry"));
  LLVMValueRef c = LLVMGetParam(function, 5), acc[64], sums[64];
  int count = shape.rows * shape.blocks;
  for (int i = 0; i < count; i++)
    acc[i] = ll_load(l, l->v_f32, ll_at(l, c, ll_int(l, (i / shape.blocks * TILE_BLOCK + i % shape.blocks * TILE_LANES) * 4)), 4);
  for (int i = 0; i < count && shape.rows > 2; i++) /* the sums of the next call but three, by which time they are here */
    ll_fetch(l, ll_at(l, c, ll_int(l, ((shape.rows + i / shape.blocks) * TILE_BLOCK + i % shape.blocks * TILE_LANES) * 4)), true);
  ll_loop loop;
  ll_loop_begin(l, &loop, "t", ll_int(l, 0), LLVMGetParam(function, 4), 1, acc, count);
  LLVMValueRef at_a = outer_row(l, LLVMGetParam(function, 0), LLVMGetParam(function, 1), listed, loop.index);
  LLVMValueRef at_b = outer_row(l, LLVMGetParam(function, 2), LLVMGetParam(function, 3), listed, loop.index), y[4];
  for (int v = 0; v < shape.blocks; v++) {
    LLVMValueRef at = ll_at(l, at_b, ll_int(l, v * TILE_LANES * 4));
    LLVMValueRef valid = ll_addi(l, LLVMGetParam(function, 6), -v * TILE_LANES);
    y[v] = partial ? load_valid(l, at, valid) : ll_load(l, l->v_f32, at, 4);
  }
  for (int m = 0; m < shape.rows; m++) {
    LLVMValueRef x = ll_splat(l, ll_load(l, l->f32, ll_at(l, at_a, ll_int(l, m * 4)), 4));
    for (int v = 0; v < shape.blocks; v++) {
      int i = m * shape.blocks + v;
      sums[i] = ll_fma(l, x, y[v], loop.carried[i]);
    }
  }
  ll_loop_end(l, &loop, sums);
  for (int i = 0; i < count; i++)
    ll_store(l, loop.carried[i], ll_at(l, c, ll_int(l, (i / shape.blocks * TILE_BLOCK + i % shape.blocks * TILE_LANES) * 4)), 4);
  LLVMBuildRetVoid(l->b);
  l->function = outer;
  LLVMPositionBuilderAtEnd(l->b, resume);
  return function;
}

/* Columns m of a in steps of each shape's rows, all 64 columns of b. */
static void outer_block(ll *l, const outer_rows *a, const outer_rows *b, LLVMValueRef rows, LLVMValueRef c,
                        int64_t depth, LLVMValueRef valid, bool partial) {
  int64_t done = 0;
  bool listed = a->offsets != NULL;
  for (int i = 0; i < l->numbers.plain_tile_count; i++) {
    ll_register_tile shape = l->numbers.plain_tiles[i];
    int64_t end = done + (depth - done) / shape.rows * shape.rows;
    if (done == end) continue;
    ll_loop over_m, over_v;
    ll_loop_begin(l, &over_m, "outer.m", ll_int(l, done), ll_int(l, end), shape.rows, NULL, 0);
    ll_loop_begin(l, &over_v, "outer.v", ll_int(l, 0), ll_int(l, TILE_BLOCK), shape.blocks * TILE_LANES, NULL, 0);
    LLVMValueRef at_c = ll_muli(l, ll_add(l, ll_muli(l, over_m.index, TILE_BLOCK), over_v.index), 4);
    LLVMValueRef arguments[] = {ll_at(l, a->first, ll_muli(l, over_m.index, 4)),
                                listed ? a->offsets : a->stride,
                                ll_at(l, b->first, ll_muli(l, over_v.index, 4)),
                                listed ? b->offsets : b->stride,
                                rows,
                                ll_at(l, c, at_c),
                                LLVMBuildSub(l->b, valid, over_v.index, "")};
    ll_call(l, outer_tile(l, shape, partial, listed), arguments, 7);
    ll_loop_end(l, &over_v, NULL);
    ll_loop_end(l, &over_m, NULL);
    done = end;
  }
}

/* Of a kind that chooses: lists, behind that of the rows that chose the batch, of where they lie in a and b. Returns
 * their number. */
static LLVMValueRef list_chosen(ll_kind *k, const tile_op *a, const tile_op *b, const tile_loop *tiles,
                                outer_rows *rows_a, outer_rows *rows_b) {
  ll *l = k->l;
  int64_t most = (k->kind->max_rows + TILE_LANES - 1) / TILE_LANES * TILE_LANES,
          lists = (most * 4 + TILE_LANES * 4 + 63) / 64 * 64;
  LLVMValueRef list = ll_at(l, k->scratch, ll_int(l, k->place[0]));
  LLVMValueRef count = ll_note_choices(k, tile_rows_at(k, &k->kind->ops[0], tiles->tiles.index), tiles->rows, list);
  rows_a->offsets = ll_at(l, list, ll_int(l, lists));
  rows_b->offsets = ll_at(l, rows_a->offsets, ll_int(l, most * 4));
  ll_loop loop;
  ll_loop_begin(l, &loop, "chosen", ll_int(l, 0), count, 1, NULL, 0);
  LLVMValueRef entry = ll_load_i32(l, list, loop.index), used = ll_int(l, k->kind->used);
  LLVMValueRef row = LLVMBuildUDiv(l->b, entry, used, ""), choice = LLVMBuildURem(l->b, entry, used, "");
  const tile_op *loads[] = {a, b};
  outer_rows *rows[] = {rows_a, rows_b};
  for (int i = 0; i < 2; i++) {
    LLVMValueRef offset = ll_add(l, ll_mul(l, row, rows[i]->stride), ll_muli(l, choice, loads[i]->group_step));
    LLVMValueRef to = LLVMBuildGEP2(l->b, l->i32, rows[i]->offsets, &loop.index, 1, "");
    ll_store(l, LLVMBuildTrunc(l->b, offset, l->i32, ""), to, 4);
  }
  ll_loop_end(l, &loop, NULL);
  return count;
}

void ll_mma_rows(ll_kind *k, int index) {
  ll *l = k->l;
  const tile_op *op = &k->kind->ops[index];
  const tile_op *a = &k->kind->ops[op->operands[0]], *b = &k->kind->ops[op->operands[1]];
  const tile_weight *weight = &l->program->weights[op->ref];
  LLVMValueRef gradient = gradient_at(k, op), first = ll_muli(l, k->col, k->kind->col_tile);
  ll_loop blocks;
  ll_loop_begin(l, &blocks, "rows.block", ll_int(l, 0), k->columns, TILE_BLOCK, NULL, 0);
  LLVMValueRef n = ll_add(l, first, blocks.index);
  LLVMValueRef c = ll_at(l, gradient, ll_muli(l, n, weight->cols * 4));
  LLVMValueRef valid = LLVMBuildSub(l->b, ll_int(l, weight->rows), n, "");
  tile_loop tiles;
  begin_tiles(k, &tiles);
  LLVMValueRef at_b = ll_at(l, tile_rows_at(k, b, tiles.tiles.index), ll_muli(l, blocks.index, 4)), rows = tiles.rows;
  outer_rows rows_a = {tile_rows_at(k, a, tiles.tiles.index), ll_int(l, l->program->buffers[a->ref].stride), NULL};
  outer_rows rows_b = {at_b, ll_int(l, l->program->buffers[b->ref].stride), NULL};
  if (k->kind->used) rows = list_chosen(k, a, b, &tiles, &rows_a, &rows_b);
  outer_block(l, &rows_a, &rows_b, rows, c, weight->cols, valid, weight->rows % TILE_BLOCK != 0);
  ll_loop_end(l, &tiles.tiles, NULL);
  ll_loop_end(l, &blocks, NULL);
}

/* ---- sums, single rows */

/* A vector of columns at a time; of a row with several vectors' columns one after the other. */
void ll_sum_rows(ll_kind *k, int index) {
  ll *l = k->l;
  const tile_op *op = &k->kind->ops[index], *x = &k->kind->ops[op->operands[0]];
  int64_t n = l->program->weights[op->ref].cols, stride = l->program->buffers[x->ref].stride;
  LLVMValueRef gradient = gradient_at(k, op);
  ll_loop columns, rows, heads;
  ll_loop_begin(l, &columns, "sum.column", ll_int(l, 0), ll_int(l, n), TILE_LANES, NULL, 0);
  LLVMValueRef to = ll_at(l, gradient, ll_muli(l, columns.index, 4));
  LLVMValueRef valid = lanes_below(l, LLVMBuildSub(l->b, ll_int(l, n), columns.index, ""));
  tile_loop tiles;
  begin_tiles(k, &tiles);
  LLVMValueRef from = tile_rows_at(k, x, tiles.tiles.index), sum = ll_load(l, l->v_f32, to, 4);
  ll_loop_begin(l, &rows, "sum.row", ll_int(l, 0), tiles.rows, 1, &sum, 1);
  ll_loop_begin(l, &heads, "sum.head", ll_int(l, 0), ll_int(l, x->cols), n, rows.carried, 1);
  LLVMValueRef column = ll_add(l, heads.index, columns.index);
  LLVMValueRef at = ll_muli(l, ll_add(l, ll_muli(l, rows.index, stride), column), 4);
  LLVMValueRef value = ll_load(l, l->v_f32, ll_at(l, from, at), 4);
  if (n % TILE_LANES) value = LLVMBuildSelect(l->b, valid, value, ll_const(l, 0.0), "");
  LLVMValueRef next = ll_scalar(l, TILE_add, heads.carried[0], value);
  ll_loop_end(l, &heads, &next);
  ll_loop_end(l, &rows, heads.carried);
  ll_store(l, rows.carried[0], to, 4);
  ll_loop_end(l, &tiles.tiles, NULL);
  ll_loop_end(l, &columns, NULL);
}

void ll_scatter_rows(ll_kind *k, int index) {
  ll *l = k->l;
  const tile_op *op = &k->kind->ops[index], *x = &k->kind->ops[op->operands[0]];
  int64_t depth = l->program->weights[op->ref].cols, stride = l->program->buffers[x->ref].stride;
  LLVMValueRef gradient = gradient_at(k, op), inputs = ll_step_ptr(l, k->step, offsetof(tile_step, inputs));
  LLVMValueRef list = ll_load_constant(l, l->ptr, ll_at(l, inputs, ll_int(l, op->index * 8)), 8);
  tile_loop tiles;
  ll_loop rows, columns;
  begin_tiles(k, &tiles);
  LLVMValueRef from = tile_rows_at(k, x, tiles.tiles.index);
  LLVMValueRef token0 = ll_muli(l, tiles.tiles.index, l->program->row_tile);
  ll_loop_begin(l, &rows, "scatter.row", ll_int(l, 0), tiles.rows, 1, NULL, 0);
  LLVMValueRef id = ll_load_i32(l, list, ll_add(l, token0, rows.index));
  LLVMValueRef block = ll_muli(l, LLVMBuildLShr(l->b, id, ll_int(l, 6), ""), depth);
  LLVMValueRef lane = LLVMBuildAnd(l->b, id, ll_int(l, TILE_BLOCK - 1), "");
  LLVMValueRef first = ll_add(l, block, ll_column_of(k, x, ll_int(l, 0)));
  ll_loop_begin(l, &columns, "scatter", ll_int(l, 0), k->columns, 1, NULL, 0);
  LLVMValueRef element = ll_add(l, ll_muli(l, ll_add(l, first, columns.index), TILE_BLOCK), lane);
  LLVMValueRef to = ll_at(l, gradient, ll_muli(l, element, 4));
  LLVMValueRef at = ll_muli(l, ll_add(l, ll_muli(l, rows.index, stride), columns.index), 4);
  LLVMValueRef value = ll_load(l, l->f32, ll_at(l, from, at), 4);
  ll_store(l, LLVMBuildFAdd(l->b, ll_load(l, l->f32, to, 4), value, ""), to, 4);
  ll_loop_end(l, &columns, NULL);
  ll_loop_end(l, &rows, NULL);
  ll_loop_end(l, &tiles.tiles, NULL);
}

/* ---- a packed weight the other way round */

/* 16 vectors of 16 lanes turned: stages of exchanges at distances 1, 2, 4, 8. */
static void transpose(ll *l, LLVMValueRef *v) {
  for (int distance = 1; distance < TILE_LANES; distance *= 2) {
    LLVMValueRef low[TILE_LANES], high[TILE_LANES];
    for (int i = 0; i < TILE_LANES; i++) {
      bool upper = i & distance;
      low[i] = ll_lane(l, upper ? i - distance + TILE_LANES : i);
      high[i] = ll_lane(l, upper ? i + TILE_LANES : i + distance);
    }
    for (int i = 0; i < TILE_LANES; i++) {
      if (i & distance) continue;
      LLVMValueRef a = v[i], b = v[i + distance];
      v[i] = LLVMBuildShuffleVector(l->b, a, b, LLVMConstVector(low, TILE_LANES), "");
      v[i + distance] = LLVMBuildShuffleVector(l->b, a, b, LLVMConstVector(high, TILE_LANES), "");
    }
  }
}

/* 16 vectors of the block's 16 rows from `lane` on: elements k, k + 1, ... of each; k is a multiple of 16, so that they are of
 * one group. */
static void load_sixteen(ll *l, ir_dtype storage, LLVMValueRef block, LLVMValueRef lane, LLVMValueRef k, LLVMValueRef *v) {
  int64_t bytes = ir_dtype_block_bytes(storage);
  if (ir_dtype_block_elements(storage) == 1) {
    LLVMValueRef from = ll_at(l, block, ll_muli(l, ll_add(l, ll_muli(l, k, TILE_BLOCK), lane), bytes));
    for (int i = 0; i < TILE_LANES; i++) v[i] = ll_load_plain(l, storage, ll_at(l, from, ll_int(l, i * TILE_BLOCK * bytes)));
    return;
  }
  ir_packing p = ir_packing_of(storage);
  LLVMValueRef number = LLVMBuildUDiv(l->b, k, ll_int(l, p.elements), ""), within = LLVMBuildURem(l->b, k, ll_int(l, p.elements), "");
  ll_run run;
  ll_run_begin(&run, l, storage, 1, ll_at(l, block, ll_muli(l, number, (int64_t)p.lines * TILE_BLOCK)), lane);
  if (p.groups != IR_GROUP_none) ll_run_group(&run, LLVMBuildUDiv(l->b, within, ll_int(l, p.group), ""));
  int unit = ll_run_unit(&run);
  LLVMValueRef first = LLVMBuildUDiv(l->b, within, ll_int(l, unit), "");
  for (int i = 0; i < TILE_LANES; i++) ll_run_weights(&run, ll_addi(l, first, i / unit), i % unit, &v[i]);
}

/* void turn(block of w, first k, how many, to): to[lane][0..64) = the block's elements of 64 k, for its 64 rows. First and how
 * many are multiples of 16. */
static LLVMValueRef turn_sixteens(ll *l, ir_dtype storage) {
  char name[32];
  snprintf(name, sizeof name, "turn.%s", ir_dtype_name(storage));
  LLVMValueRef found = LLVMGetNamedFunction(l->module, name);
  if (found) return found;
  LLVMTypeRef parameters[] = {l->ptr, l->i64, l->i64, l->ptr};
  LLVMValueRef function = ll_function(l, name, parameters, 4, false), outer = l->function;
  LLVMBasicBlockRef resume = LLVMGetInsertBlock(l->b);
  l->function = function;
  LLVMPositionBuilderAtEnd(l->b, ll_block(l, "entry"));
  ll_loop over_k, over_lanes;
  ll_loop_begin(l, &over_k, "turn.k", ll_int(l, 0), LLVMGetParam(function, 2), TILE_LANES, NULL, 0);
  ll_loop_begin(l, &over_lanes, "turn.lane", ll_int(l, 0), ll_int(l, TILE_BLOCK), TILE_LANES, NULL, 0);
  LLVMValueRef v[TILE_LANES];
  load_sixteen(l, storage, LLVMGetParam(function, 0), over_lanes.index, ll_add(l, LLVMGetParam(function, 1), over_k.index), v);
  transpose(l, v);
  LLVMValueRef to = ll_at(l, LLVMGetParam(function, 3),
                          ll_muli(l, ll_add(l, ll_muli(l, over_lanes.index, TILE_BLOCK), over_k.index), 4));
  for (int i = 0; i < TILE_LANES; i++) ll_store(l, v[i], ll_at(l, to, ll_int(l, i * TILE_BLOCK * 4)), 4);
  ll_loop_end(l, &over_lanes, NULL);
  ll_loop_end(l, &over_k, NULL);
  LLVMBuildRetVoid(l->b);
  l->function = outer;
  LLVMPositionBuilderAtEnd(l->b, resume);
  return function;
}

/* The same one by one, of rows of any length. */
static LLVMValueRef turn_any(ll *l, ir_dtype storage) {
  char name[32];
  snprintf(name, sizeof name, "turn.any.%s", ir_dtype_name(storage));
  LLVMValueRef found = LLVMGetNamedFunction(l->module, name);
  if (found) return found;
  LLVMTypeRef parameters[] = {l->ptr, l->i64, l->i64, l->ptr};
  LLVMValueRef function = ll_function(l, name, parameters, 4, false), outer = l->function;
  LLVMBasicBlockRef resume = LLVMGetInsertBlock(l->b);
  l->function = function;
  LLVMPositionBuilderAtEnd(l->b, ll_block(l, "entry"));
  ll_loop over_lanes, over_k;
  ll_loop_begin(l, &over_lanes, "turn.lane", ll_int(l, 0), ll_int(l, TILE_BLOCK), 1, NULL, 0);
  ll_loop_begin(l, &over_k, "turn.k", ll_int(l, 0), LLVMGetParam(function, 2), 1, NULL, 0);
  LLVMValueRef value = ll_row_element(l, storage, LLVMGetParam(function, 0), over_lanes.index,
                                      ll_add(l, LLVMGetParam(function, 1), over_k.index));
  LLVMValueRef element = ll_add(l, ll_muli(l, over_lanes.index, TILE_BLOCK), over_k.index);
  ll_store(l, value, ll_at(l, LLVMGetParam(function, 3), ll_muli(l, element, 4)), 4);
  ll_loop_end(l, &over_k, NULL);
  ll_loop_end(l, &over_lanes, NULL);
  LLVMBuildRetVoid(l->b);
  l->function = outer;
  LLVMPositionBuilderAtEnd(l->b, resume);
  return function;
}

/* 64 columns of the result at a time: along the weight's blocks of rows, each turned and multiplied with, the sums carried
 * on in the result. */
void ll_back_product(ll_kind *k, int index, ir_dtype storage, LLVMValueRef base, LLVMValueRef a, LLVMValueRef lda) {
  ll *l = k->l;
  const tile_op *op = &k->kind->ops[index];
  const tile_weight *weight = &l->program->weights[op->ref];
  LLVMValueRef turn = weight->cols % TILE_LANES == 0 ? turn_sixteens(l, storage) : turn_any(l, storage), product = ll_product(l, IR_f32);
  LLVMValueRef first = ll_column_of(k, op, ll_int(l, 0)), turned = ll_turned_at(k, index);
  LLVMValueRef columns = op->column_tile ? k->columns : ll_int(l, op->cols);
  ll_loop over_columns, over_rows;
  ll_loop_begin(l, &over_columns, "back.column", ll_int(l, 0), columns, TILE_BLOCK, NULL, 0);
  LLVMValueRef from = ll_add(l, first, over_columns.index);
  LLVMValueRef count = ll_min(l, LLVMBuildSub(l->b, ll_int(l, weight->cols), from, ""), ll_int(l, TILE_BLOCK));
  ll_loop_begin(l, &over_rows, "back.row", ll_int(l, 0), ll_int(l, weight->rows), LL_TURNED_BLOCKS * TILE_BLOCK, NULL, 0);
  LLVMValueRef depth = ll_min(l, LLVMBuildSub(l->b, ll_int(l, weight->rows), over_rows.index, ""),
                              ll_int(l, LL_TURNED_BLOCKS * TILE_BLOCK));
  int64_t block_bytes = ir_packed_row_bytes(storage, weight->cols) * TILE_BLOCK;
  LLVMValueRef block = ll_at(l, base, ll_muli(l, over_rows.index, ir_packed_row_bytes(storage, weight->cols)));
  ll_loop over_blocks;
  ll_loop_begin(l, &over_blocks, "back.block", ll_int(l, 0), depth, TILE_BLOCK, NULL, 0);
  LLVMValueRef turning[] = {ll_at(l, block, ll_muli(l, over_blocks.index, block_bytes / TILE_BLOCK)), from, count,
                            ll_at(l, turned, ll_muli(l, over_blocks.index, TILE_BLOCK * 4))};
  ll_call(l, turn, turning, 4);
  ll_loop_end(l, &over_blocks, NULL);
  /* The same columns of the next blocks are turned next: they are fetched meanwhile. */
  LLVMValueRef next = LLVMConstNull(l->ptr);
  if (storage == IR_f32) next = ll_at(l, ll_at(l, block, ll_int(l, LL_TURNED_BLOCKS * block_bytes)), ll_muli(l, from, TILE_BLOCK * 4));
  LLVMValueRef more = LLVMBuildZExt(l->b, LLVMBuildICmp(l->b, LLVMIntNE, over_rows.index, ll_int(l, 0), ""), l->i64, "");
  LLVMValueRef arguments[] = {ll_at(l, a, ll_muli(l, over_rows.index, 4)), lda, turned, ll_int(l, 0), depth,
                              ll_int(l, TILE_BLOCK / TILE_LANES), ll_scratch_at(k, index, ll_int(l, 0), over_columns.index),
                              ll_int(l, k->stride[index]), k->rows, more, next, ll_int(l, block_bytes)};
  ll_call(l, product, arguments, 12);
  ll_loop_end(l, &over_rows, NULL);
  ll_loop_end(l, &over_columns, NULL);
}
