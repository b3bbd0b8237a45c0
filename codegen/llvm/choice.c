/* codegen/llvm/choice.c: choices: which rows of a task's row tile chose its batch; where the greatest columns stand; columns
 * at indices, and indices as columns. */
#include "codegen/llvm/ll.h"

#include <limits.h>

/* ---- rows that chose the batch */

/* Is number j of row r the batch, and no number before it was? Then the row is the next one. */
static void note_choice(ll_kind *k, LLVMValueRef list, LLVMValueRef ids, LLVMValueRef r, LLVMValueRef j,
                        LLVMValueRef *count, LLVMValueRef *found) {
  ll *l = k->l;
  const tile_op *op = &k->kind->ops[0];
  LLVMValueRef at = ll_add(l, ll_muli(l, r, l->program->buffers[op->ref].stride), j);
  LLVMValueRef id = ll_load(l, l->f32, LLVMBuildGEP2(l->b, l->f32, ids, &at, 1, ""), 4);
  LLVMValueRef batch = LLVMBuildSIToFP(l->b, k->batch ? k->batch : ll_int(l, 0), l->f32, "");
  LLVMValueRef same = LLVMBuildFCmp(l->b, LLVMRealOEQ, id, batch, "");
  LLVMValueRef fresh = LLVMBuildAnd(l->b, same, LLVMBuildICmp(l->b, LLVMIntEQ, *found, ll_int(l, 0), ""), "");
  LLVMValueRef entry = LLVMBuildTrunc(l->b, ll_add(l, ll_muli(l, r, op->dim), j), l->i32, "");
  LLVMValueRef place = LLVMBuildGEP2(l->b, l->i32, list, count, 1, "");
  LLVMValueRef kept = ll_load(l, l->i32, place, 4);
  ll_store(l, LLVMBuildSelect(l->b, fresh, entry, kept, ""), place, 4);
  *count = ll_add(l, *count, LLVMBuildZExt(l->b, fresh, l->i64, ""));
  *found = LLVMBuildOr(l->b, *found, LLVMBuildZExt(l->b, same, l->i64, ""), "");
}

LLVMValueRef ll_note_choices(ll_kind *k, LLVMValueRef ids, LLVMValueRef count, LLVMValueRef list) {
  ll *l = k->l;
  const tile_op *op = &k->kind->ops[0];
  LLVMValueRef zero = ll_int(l, 0);
  ll_loop rows, choices;
  ll_loop_begin(l, &rows, "choosing.row", zero, count, 1, &zero, 1);
  LLVMValueRef carried[] = {rows.carried[0], zero};
  ll_loop_begin(l, &choices, "choice", zero, ll_int(l, op->dim), 1, carried, 2);
  LLVMValueRef next[] = {choices.carried[0], choices.carried[1]};
  note_choice(k, list, ids, rows.index, choices.index, &next[0], &next[1]);
  ll_loop_end(l, &choices, next);
  ll_loop_end(l, &rows, choices.carried);
  return rows.carried[0];
}

void ll_choose(ll_kind *k) {
  ll *l = k->l;
  LLVMValueRef ids = ll_at(l, k->tile_base, ll_int(l, l->program->buffers[k->kind->ops[0].ref].offset));
  k->chosen = ll_at(l, k->scratch, ll_int(l, k->place[0]));
  k->rows = ll_note_choices(k, ids, k->rows, k->chosen);
  LLVMValueRef zero = ll_int(l, 0);
  LLVMBasicBlockRef nobody = ll_block(l, "nobody"), somebody = ll_block(l, "somebody");
  LLVMBuildCondBr(l->b, LLVMBuildICmp(l->b, LLVMIntEQ, k->rows, zero, ""), nobody, somebody);
  LLVMPositionBuilderAtEnd(l->b, nobody);
  LLVMBuildRetVoid(l->b);
  LLVMPositionBuilderAtEnd(l->b, somebody);
}

/* ---- the greatest columns */

typedef struct ranking {
  LLVMValueRef value, index; /* f32 and i32, or vectors of them */
} ranking;

static LLVMValueRef int_splat(ll *l, int n) { return ll_splat(l, LLVMConstInt(l->i32, (unsigned)n, true)); }

/* One vector of columns: lanes that come after `last` in the order, and before what their lane holds, replace it. */
static ranking better(ll *l, ranking best, LLVMValueRef x, LLVMValueRef index, LLVMValueRef count, ranking last) {
  LLVMValueRef number = LLVMBuildFCmp(l->b, LLVMRealORD, x, x, "");
  x = LLVMBuildSelect(l->b, number, x, ll_const(l, -__builtin_inf()), "");
  LLVMValueRef below = LLVMBuildFCmp(l->b, LLVMRealOLT, x, ll_splat(l, last.value), "");
  LLVMValueRef equal = LLVMBuildFCmp(l->b, LLVMRealOEQ, x, ll_splat(l, last.value), "");
  LLVMValueRef later = LLVMBuildICmp(l->b, LLVMIntSGT, index, ll_splat(l, last.index), "");
  LLVMValueRef after = LLVMBuildOr(l->b, below, LLVMBuildAnd(l->b, equal, later, ""), "");
  LLVMValueRef inside = LLVMBuildICmp(l->b, LLVMIntSLT, index, ll_splat(l, count), "");
  LLVMValueRef first = LLVMBuildICmp(l->b, LLVMIntEQ, best.index, int_splat(l, INT_MAX), "");
  LLVMValueRef greater = LLVMBuildOr(l->b, first, LLVMBuildFCmp(l->b, LLVMRealOGT, x, best.value, ""), "");
  LLVMValueRef takes = LLVMBuildAnd(l->b, greater, LLVMBuildAnd(l->b, after, inside, ""), "");
  return (ranking){LLVMBuildSelect(l->b, takes, x, best.value, ""), LLVMBuildSelect(l->b, takes, index, best.index, "")};
}

static ranking best_lane(ll *l, ranking lanes) {
  ranking best = {LLVMBuildExtractElement(l->b, lanes.value, ll_lane(l, 0), ""),
                  LLVMBuildExtractElement(l->b, lanes.index, ll_lane(l, 0), "")};
  for (int i = 1; i < TILE_LANES; i++) {
    ranking lane = {LLVMBuildExtractElement(l->b, lanes.value, ll_lane(l, i), ""),
                    LLVMBuildExtractElement(l->b, lanes.index, ll_lane(l, i), "")};
    LLVMValueRef greater = LLVMBuildFCmp(l->b, LLVMRealOGT, lane.value, best.value, "");
    LLVMValueRef equal = LLVMBuildFCmp(l->b, LLVMRealOEQ, lane.value, best.value, "");
    LLVMValueRef lower = LLVMBuildICmp(l->b, LLVMIntSLT, lane.index, best.index, "");
    LLVMValueRef takes = LLVMBuildOr(l->b, greater, LLVMBuildAnd(l->b, equal, lower, ""), "");
    best.value = LLVMBuildSelect(l->b, takes, lane.value, best.value, "");
    best.index = LLVMBuildSelect(l->b, takes, lane.index, best.index, "");
  }
  return best;
}

/* The next column after `last` in the order, of `count` from column `first` of row r on. */
static ranking next_in_order(ll_kind *k, int x, LLVMValueRef r, LLVMValueRef first, LLVMValueRef count, ranking last) {
  ll *l = k->l;
  LLVMValueRef start[] = {ll_const(l, -__builtin_inf()), int_splat(l, INT_MAX)};
  ll_loop columns;
  ll_loop_begin(l, &columns, "rank", ll_int(l, 0), count, TILE_LANES, start, 2);
  LLVMValueRef value = ll_pull(k, x, r, ll_add(l, first, columns.index));
  LLVMValueRef index = LLVMBuildAdd(l->b, ll_splat(l, LLVMBuildTrunc(l->b, columns.index, l->i32, "")), ll_lane_ids(l), "");
  ranking best = {columns.carried[0], columns.carried[1]};
  best = better(l, best, value, index, LLVMBuildTrunc(l->b, count, l->i32, ""), last);
  LLVMValueRef next[] = {best.value, best.index};
  ll_loop_end(l, &columns, next);
  return best_lane(l, (ranking){columns.carried[0], columns.carried[1]});
}

void ll_top_k(ll_kind *k, int index) {
  ll *l = k->l;
  const tile_op *op = &k->kind->ops[index];
  int64_t heads = op->cols / op->dim, n = k->kind->ops[op->operands[0]].cols / heads;
  ll_loop rows, over_heads, ranks;
  ll_loop_begin(l, &rows, "top.row", ll_int(l, 0), k->rows, 1, NULL, 0);
  ll_loop_begin(l, &over_heads, "top.head", ll_int(l, 0), ll_int(l, heads), 1, NULL, 0);
  LLVMValueRef start[] = {LLVMConstReal(l->f32, __builtin_inf()), LLVMConstInt(l->i32, (unsigned)-1, true)};
  ll_loop_begin(l, &ranks, "top", ll_int(l, 0), ll_int(l, op->dim), 1, start, 2);
  ranking last = {ranks.carried[0], ranks.carried[1]};
  ranking best = next_in_order(k, op->operands[0], rows.index, ll_muli(l, over_heads.index, n), ll_int(l, n), last);
  LLVMValueRef at = ll_add(l, ll_muli(l, over_heads.index, op->dim), ranks.index);
  ll_store(l, LLVMBuildSIToFP(l->b, best.index, l->f32, ""), ll_scratch_at(k, index, rows.index, at), 4);
  LLVMValueRef next[] = {best.value, best.index};
  ll_loop_end(l, &ranks, next);
  ll_loop_end(l, &over_heads, NULL);
  ll_loop_end(l, &rows, NULL);
}

/* All come after the one before the first. */
void ll_best(ll_kind *k, int index) {
  ll *l = k->l;
  const tile_op *op = &k->kind->ops[index], *x = &k->kind->ops[op->operands[0]];
  ranking before = {LLVMConstReal(l->f32, __builtin_inf()), LLVMConstInt(l->i32, (unsigned)-1, true)};
  ll_loop rows;
  ll_loop_begin(l, &rows, "best.row", ll_int(l, 0), k->rows, 1, NULL, 0);
  LLVMValueRef count = x->column_tile ? k->columns : ll_int(l, x->cols), first = ll_column_of(k, op, rows.index);
  ranking best = next_in_order(k, op->operands[0], rows.index, ll_int(l, 0), count, before);
  LLVMValueRef column = LLVMBuildAdd(l->b, best.index, LLVMBuildTrunc(l->b, first, l->i32, ""), "");
  ll_store(l, best.value, ll_scratch_at(k, index, rows.index, ll_int(l, 0)), 4);
  ll_store(l, LLVMBuildSIToFP(l->b, column, l->f32, ""), ll_scratch_at(k, index, rows.index, ll_int(l, 1)), 4);
  ll_loop_end(l, &rows, NULL);
}

/* ---- indices */

static LLVMValueRef index_at(ll_kind *k, int ids, LLVMValueRef r, LLVMValueRef c) {
  ll *l = k->l;
  return LLVMBuildFPToSI(l->b, ll_load(l, l->f32, ll_scratch_at(k, ids, r, c), 4), l->i64, "");
}

void ll_take(ll_kind *k, int index) {
  ll *l = k->l;
  const tile_op *op = &k->kind->ops[index];
  int64_t n = k->kind->ops[op->operands[0]].cols / (op->cols / op->dim);
  ll_loop rows, columns;
  ll_loop_begin(l, &rows, "take.row", ll_int(l, 0), k->rows, 1, NULL, 0);
  ll_loop_begin(l, &columns, "take", ll_int(l, 0), ll_int(l, op->cols), 1, NULL, 0);
  LLVMValueRef head = LLVMBuildUDiv(l->b, columns.index, ll_int(l, op->dim), "");
  LLVMValueRef from = ll_add(l, ll_muli(l, head, n), index_at(k, op->operands[1], rows.index, columns.index));
  LLVMValueRef value = ll_load(l, l->f32, ll_scratch_at(k, op->operands[0], rows.index, from), 4);
  ll_store(l, value, ll_scratch_at(k, index, rows.index, columns.index), 4);
  ll_loop_end(l, &columns, NULL);
  ll_loop_end(l, &rows, NULL);
}

void ll_place(ll_kind *k, int index) {
  ll *l = k->l;
  const tile_op *op = &k->kind->ops[index], *ids = &k->kind->ops[op->operands[1]];
  int64_t n = op->cols / (ids->cols / op->dim);
  ll_loop rows, columns, places;
  ll_loop_begin(l, &rows, "place.row", ll_int(l, 0), k->rows, 1, NULL, 0);
  ll_loop_begin(l, &columns, "place.none", ll_int(l, 0), ll_int(l, op->cols), TILE_LANES, NULL, 0);
  ll_store(l, ll_const(l, 0.0), ll_scratch_at(k, index, rows.index, columns.index), 4);
  ll_loop_end(l, &columns, NULL);
  ll_loop_begin(l, &places, "place", ll_int(l, 0), ll_int(l, ids->cols), 1, NULL, 0);
  LLVMValueRef head = LLVMBuildUDiv(l->b, places.index, ll_int(l, op->dim), "");
  LLVMValueRef column = ll_add(l, ll_muli(l, head, n), index_at(k, op->operands[1], rows.index, places.index));
  LLVMValueRef value = ll_load(l, l->f32, ll_scratch_at(k, op->operands[0], rows.index, places.index), 4);
  LLVMValueRef to = ll_scratch_at(k, index, rows.index, column);
  ll_store(l, LLVMBuildFAdd(l->b, ll_load(l, l->f32, to, 4), value, ""), to, 4);
  ll_loop_end(l, &places, NULL);
  ll_loop_end(l, &rows, NULL);
}

void ll_among(ll_kind *k, int index) {
  ll *l = k->l;
  const tile_op *op = &k->kind->ops[index], *ids = &k->kind->ops[op->operands[0]];
  int64_t n = op->cols / (ids->cols / op->dim);
  ll_loop rows, columns, ones;
  ll_loop_begin(l, &rows, "among.row", ll_int(l, 0), k->rows, 1, NULL, 0);
  ll_loop_begin(l, &columns, "among.none", ll_int(l, 0), ll_int(l, op->cols), TILE_LANES, NULL, 0);
  ll_store(l, ll_const(l, 0.0), ll_scratch_at(k, index, rows.index, columns.index), 4);
  ll_loop_end(l, &columns, NULL);
  ll_loop_begin(l, &ones, "among", ll_int(l, 0), ll_int(l, ids->cols), 1, NULL, 0);
  LLVMValueRef head = LLVMBuildUDiv(l->b, ones.index, ll_int(l, op->dim), "");
  LLVMValueRef at = ll_add(l, ll_muli(l, head, n), index_at(k, op->operands[0], rows.index, ones.index));
  ll_store(l, LLVMConstReal(l->f32, 1.0), ll_scratch_at(k, index, rows.index, at), 4);
  ll_loop_end(l, &ones, NULL);
  ll_loop_end(l, &rows, NULL);
}

/* The number of each row says which column; one that is none reads column 0 and counts as 0. */
void ll_column_at(ll_kind *k, int index) {
  ll *l = k->l;
  const tile_op *op = &k->kind->ops[index], *x = &k->kind->ops[op->operands[0]];
  ll_loop rows;
  ll_loop_begin(l, &rows, "at.row", ll_int(l, 0), k->rows, 1, NULL, 0);
  LLVMValueRef number = ll_pull(k, op->operands[1], rows.index, ll_int(l, 0));
  number = LLVMBuildExtractElement(l->b, number, ll_lane(l, 0), "");
  LLVMValueRef low = LLVMBuildFCmp(l->b, LLVMRealOGE, number, LLVMConstReal(l->f32, 0.0), "");
  LLVMValueRef high = LLVMBuildFCmp(l->b, LLVMRealOLT, number, LLVMConstReal(l->f32, x->cols), "");
  LLVMValueRef inside = LLVMBuildAnd(l->b, low, high, ""), zero = LLVMConstReal(l->f32, 0.0);
  LLVMValueRef column = LLVMBuildFPToSI(l->b, LLVMBuildSelect(l->b, inside, number, zero, ""), l->i64, "");
  LLVMValueRef vector = LLVMBuildAnd(l->b, column, ll_int(l, -TILE_LANES), ""); /* one that no row ends in */
  LLVMValueRef lane = LLVMBuildTrunc(l->b, LLVMBuildSub(l->b, column, vector, ""), l->i32, "");
  LLVMValueRef value = ll_pull(k, op->operands[0], rows.index, vector);
  value = LLVMBuildSelect(l->b, inside, LLVMBuildExtractElement(l->b, value, lane, ""), zero, "");
  ll_store(l, value, ll_scratch_at(k, index, rows.index, ll_int(l, 0)), 4);
  ll_loop_end(l, &rows, NULL);
}
