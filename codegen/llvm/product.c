/* codegen/llvm/product.c: matrix products with packed weights. For each storage type a driver walks rows and blocks, and
 * calls register-tiled functions that decode the weights as they stream by. Every tile shape adds along k in the same
 * order by FMA, so which shape computed an element cannot be seen in its bits. */
#include "codegen/llvm/ll.h"

#include <stdio.h>

/* ---- one register tile */

typedef struct tile_sums {
  ll *l;
  ll_register_tile shape;
  LLVMValueRef a_row[16]; /* rows of a */
  LLVMValueRef block;     /* of w */
  LLVMValueRef first;     /* its row that the tile begins with, a multiple of 16 */
  LLVMValueRef ahead, ahead_step; /* what to fetch on the way: a line every lines_apart(shape) steps, so far apart */
} tile_sums;

/* The strip of weights that comes next, or what the caller says, is fetched while this one passes by the rows: each call of
 * a tile fetches its share, when there are as many rows as a row tile has. Without, the first
 * tile of each strip waits for memory: 62 GFLOP/s became 83 on a core whose peak is 97 (AVX2). 0: too few rows a tile for the
 * weights to be met again. */
static int lines_apart(ll_register_tile shape) {
  enum { ROWS = 96 };
  return shape.rows < 3 ? 0 : ROWS / shape.rows;
}

/* acc[m][v] += a[m][k] * weight[v], for each m and v. */
static void multiply_add(tile_sums *t, LLVMValueRef k, LLVMValueRef *weights, LLVMValueRef *acc) {
  ll *l = t->l;
  for (int m = 0; m < t->shape.rows; m++) {
    LLVMValueRef at = LLVMBuildGEP2(l->b, l->f32, t->a_row[m], &k, 1, "");
    LLVMValueRef a = ll_splat(l, ll_load(l, l->f32, at, 4));
    for (int v = 0; v < t->shape.blocks; v++) {
      LLVMValueRef *sum = &acc[m * t->shape.blocks + v];
      *sum = ll_fma(l, a, weights[v], *sum);
    }
  }
}

static void plain_step(tile_sums *t, ir_dtype storage, LLVMValueRef k, LLVMValueRef *acc) {
  ll *l = t->l;
  LLVMValueRef weights[16];
  int64_t bytes = ir_dtype_block_bytes(storage);
  LLVMValueRef line = ll_at(l, ll_at(l, t->block, ll_muli(l, t->first, bytes)), ll_muli(l, k, TILE_BLOCK * bytes));
  for (int v = 0; v < t->shape.blocks; v++)
    weights[v] = ll_load_plain(l, storage, ll_at(l, line, ll_int(l, v * TILE_LANES * bytes)));
  multiply_add(t, k, weights, acc);
}

/* Steps [from, to). */
static void plain_run(tile_sums *t, ir_dtype storage, LLVMValueRef from, LLVMValueRef to, LLVMValueRef *acc, int count) {
  ll *l = t->l;
  ll_loop loop;
  LLVMValueRef sums[64];
  ll_loop_begin(l, &loop, "k", from, to, 1, acc, count);
  for (int i = 0; i < count; i++) sums[i] = loop.carried[i];
  plain_step(t, storage, loop.index, sums);
  ll_loop_end(l, &loop, sums);
  for (int i = 0; i < count; i++) acc[i] = loop.carried[i];
}

static void plain_steps(tile_sums *t, ir_dtype storage, LLVMValueRef depth, LLVMValueRef *acc, int count) {
  ll *l = t->l;
  int apart = lines_apart(t->shape);
  LLVMValueRef from = ll_int(l, 0);
  if (apart) {
    ll_loop loop;
    LLVMValueRef sums[64];
    LLVMValueRef whole = ll_muli(l, LLVMBuildUDiv(l->b, depth, ll_int(l, apart), ""), apart);
    ll_loop_begin(l, &loop, "ahead", from, whole, apart, acc, count);
    LLVMValueRef line = ll_mul(l, LLVMBuildUDiv(l->b, loop.index, ll_int(l, apart), ""), t->ahead_step);
    for (int v = 0; v < t->shape.blocks; v++) ll_fetch(l, ll_at(l, t->ahead, ll_addi(l, line, v * 64)), false);
    for (int i = 0; i < count; i++) sums[i] = loop.carried[i];
    plain_run(t, storage, loop.index, ll_addi(l, loop.index, apart), sums, count);
    ll_loop_end(l, &loop, sums);
    for (int i = 0; i < count; i++) acc[i] = loop.carried[i];
    from = whole;
  }
  plain_run(t, storage, from, depth, acc, count);
}

/* One group of a run, or the whole of it: elements from first_k of a on, lines of codes from first_unit on. */
static void group_steps(tile_sums *t, ll_run *run, LLVMValueRef first_k, LLVMValueRef first_unit, LLVMValueRef *carried,
                        int count) {
  ll *l = t->l;
  int unit = ll_run_unit(run);
  LLVMValueRef sums[64], weights[16];
  ll_loop steps;
  ll_loop_begin(l, &steps, "k", ll_int(l, 0), ll_int(l, run->packing.group / unit), 1, carried, count);
  for (int i = 0; i < count; i++) sums[i] = steps.carried[i];
  LLVMValueRef at = ll_add(l, first_unit, steps.index);
  for (int e = 0; e < unit; e++) {
    ll_run_weights(run, at, e, weights);
    multiply_add(t, ll_add(l, first_k, ll_addi(l, ll_muli(l, steps.index, unit), e)), weights, sums);
  }
  ll_loop_end(l, &steps, sums);
  for (int i = 0; i < count; i++) carried[i] = steps.carried[i];
}

static void quantized_steps(tile_sums *t, ir_dtype storage, LLVMValueRef depth, LLVMValueRef *acc, int count) {
  ll *l = t->l;
  ir_packing p = ir_packing_of(storage);
  ll_loop runs, groups;
  ll_loop_begin(l, &runs, "run", ll_int(l, 0), LLVMBuildUDiv(l->b, depth, ll_int(l, p.elements), ""), 1, acc, count);
  ll_run run;
  ll_run_begin(&run, l, storage, t->shape.blocks, ll_at(l, t->block, ll_muli(l, runs.index, p.lines * TILE_BLOCK)),
               t->first);
  LLVMValueRef first_k = ll_muli(l, runs.index, p.elements), sums[64];
  for (int i = 0; i < count; i++) sums[i] = runs.carried[i];
  if (p.groups == IR_GROUP_none) {
    group_steps(t, &run, first_k, ll_int(l, 0), sums, count);
  } else {
    ll_loop_begin(l, &groups, "group", ll_int(l, 0), ll_int(l, p.elements / p.group), 1, sums, count);
    for (int i = 0; i < count; i++) sums[i] = groups.carried[i];
    ll_run_group(&run, groups.index);
    group_steps(t, &run, ll_add(l, first_k, ll_muli(l, groups.index, p.group)),
                ll_muli(l, groups.index, p.group / ll_run_unit(&run)), sums, count);
    ll_loop_end(l, &groups, sums);
    for (int i = 0; i < count; i++) sums[i] = groups.carried[i];
  }
  ll_loop_end(l, &runs, sums);
  for (int i = 0; i < count; i++) acc[i] = runs.carried[i];
}

/* void tile(a, lda, block of w, first row in it, k, c, ldc, accumulate, ahead, ahead_step) */
static LLVMValueRef register_tile(ll *l, ir_dtype storage, ll_register_tile shape) {
  char name[64];
  snprintf(name, sizeof name, "product.%s.%dx%d", ir_dtype_name(storage), shape.rows, shape.blocks * TILE_LANES);
  LLVMValueRef found = LLVMGetNamedFunction(l->module, name);
  if (found) return found;
  LLVMTypeRef parameters[] = {l->ptr, l->i64, l->ptr, l->i64, l->i64, l->ptr, l->i64, l->i64, l->ptr, l->i64};
  LLVMValueRef function = ll_function(l, name, parameters, 10, false);
  LLVMValueRef outer = l->function;
  LLVMBasicBlockRef resume = LLVMGetInsertBlock(l->b);
  l->function = function;
  LLVMBasicBlockRef entry = ll_block(l, "entry"), load = ll_block(l, "load"), start = ll_block(l, "start");
  LLVMPositionBuilderAtEnd(l->b, entry);
  tile_sums t = {.l = l, .shape = shape};
  LLVMValueRef lda = ll_muli(l, LLVMGetParam(function, 1), 4), ldc = ll_muli(l, LLVMGetParam(function, 6), 4);
  LLVMValueRef c_at[64], loaded[64], acc[64];
  int count = shape.rows * shape.blocks;
  for (int m = 0; m < shape.rows; m++) t.a_row[m] = ll_at(l, LLVMGetParam(function, 0), ll_muli(l, lda, m));
  t.block = LLVMGetParam(function, 2);
  t.first = LLVMGetParam(function, 3);
  t.ahead = LLVMGetParam(function, 8);
  t.ahead_step = LLVMGetParam(function, 9);
  for (int i = 0; i < count; i++) {
    LLVMValueRef row = ll_at(l, LLVMGetParam(function, 5), ll_muli(l, ldc, i / shape.blocks));
    c_at[i] = ll_at(l, row, ll_int(l, i % shape.blocks * TILE_LANES * 4));
  }
  LLVMBuildCondBr(l->b, LLVMBuildICmp(l->b, LLVMIntNE, LLVMGetParam(function, 7), ll_int(l, 0), ""), load, start);
  LLVMPositionBuilderAtEnd(l->b, load);
  for (int i = 0; i < count; i++) loaded[i] = ll_load(l, l->v_f32, c_at[i], 4);
  LLVMBuildBr(l->b, start);
  LLVMPositionBuilderAtEnd(l->b, start);
  for (int i = 0; i < count; i++) {
    LLVMValueRef zero = LLVMConstNull(l->v_f32);
    acc[i] = LLVMBuildPhi(l->b, l->v_f32, "");
    LLVMAddIncoming(acc[i], &zero, &entry, 1);
    LLVMAddIncoming(acc[i], &loaded[i], &load, 1);
  }
  if (ir_dtype_block_elements(storage) == 1) plain_steps(&t, storage, LLVMGetParam(function, 4), acc, count);
  else quantized_steps(&t, storage, LLVMGetParam(function, 4), acc, count);
  for (int i = 0; i < count; i++) ll_store(l, acc[i], c_at[i], 4);
  LLVMBuildRetVoid(l->b);
  l->function = outer;
  LLVMPositionBuilderAtEnd(l->b, resume);
  return function;
}

/* ---- the driver */

typedef struct driver {
  ll *l;
  ir_dtype storage;
  LLVMValueRef a, lda, w, block_stride, depth, blocks, c, ldc, accumulate, next, jump;
} driver;

static LLVMValueRef strip_at(driver *d, LLVMValueRef block) {
  ll *l = d->l;
  LLVMValueRef w = ll_at(l, d->w, ll_mul(l, LLVMBuildLShr(l->b, block, ll_int(l, 2), ""), d->block_stride));
  LLVMValueRef lane = ll_muli(l, LLVMBuildAnd(l->b, block, ll_int(l, 3), ""), TILE_LANES);
  return ll_at(l, w, ll_muli(l, lane, ir_dtype_block_bytes(d->storage)));
}

/* What the `number`th tile of a strip, one of `tiles`, fetches: a part of the next strip; or of `next`, LL_NEXT_BYTES there
 * and as many `jump` bytes further on. */
static void choose_ahead(driver *d, ll_register_tile shape, LLVMValueRef block, LLVMValueRef number, LLVMValueRef tiles,
                         LLVMValueRef *ahead, LLVMValueRef *step) {
  ll *l = d->l;
  int apart = lines_apart(shape);
  *ahead = d->w;
  *step = ll_int(l, 0);
  if (!apart || ir_dtype_block_elements(d->storage) != 1) return;
  int64_t line = TILE_BLOCK * ir_dtype_block_bytes(d->storage), straight = 64 * shape.blocks;
  LLVMValueRef lines = LLVMBuildUDiv(l->b, d->depth, ll_int(l, apart), "");
  LLVMValueRef after = ll_addi(l, block, shape.blocks);
  LLVMValueRef last = LLVMBuildICmp(l->b, LLVMIntSGE, after, d->blocks, "");
  LLVMValueRef own = ll_at(l, strip_at(d, LLVMBuildSelect(l->b, last, block, after, "")), ll_muli(l, ll_mul(l, number, lines), line));
  LLVMValueRef calls = ll_add(l, ll_mul(l, LLVMBuildUDiv(l->b, block, ll_int(l, shape.blocks), ""), tiles), number);
  LLVMValueRef at = ll_muli(l, ll_mul(l, calls, lines), straight);
  LLVMValueRef beyond = LLVMBuildICmp(l->b, LLVMIntSGE, at, ll_int(l, LL_NEXT_BYTES), "");
  at = ll_add(l, at, LLVMBuildSelect(l->b, beyond, ll_addi(l, d->jump, -LL_NEXT_BYTES), ll_int(l, 0), ""));
  LLVMValueRef given = ll_at(l, d->next, at);
  LLVMValueRef none = LLVMBuildICmp(l->b, LLVMIntEQ, d->next, LLVMConstNull(l->ptr), "");
  *ahead = LLVMBuildSelect(l->b, none, own, given, "");
  *step = LLVMBuildSelect(l->b, none, ll_int(l, line), ll_int(l, straight), "");
}

static void call_tile(driver *d, ll_register_tile shape, LLVMValueRef row, LLVMValueRef block, LLVMValueRef number,
                      LLVMValueRef tiles) {
  ll *l = d->l;
  LLVMValueRef ahead, step;
  choose_ahead(d, shape, block, number, tiles, &ahead, &step);
  LLVMValueRef a = ll_at(l, d->a, ll_muli(l, ll_mul(l, row, d->lda), 4));
  LLVMValueRef c = ll_at(l, d->c, ll_muli(l, ll_add(l, ll_mul(l, row, d->ldc), ll_muli(l, block, TILE_LANES)), 4));
  LLVMValueRef w = ll_at(l, d->w, ll_mul(l, LLVMBuildLShr(l->b, block, ll_int(l, 2), ""), d->block_stride));
  LLVMValueRef first = ll_muli(l, LLVMBuildAnd(l->b, block, ll_int(l, 3), ""), TILE_LANES);
  LLVMValueRef arguments[] = {a, d->lda, w, first, d->depth, c, d->ldc, d->accumulate, ahead, step};
  ll_call(l, register_tile(l, d->storage, shape), arguments, 10);
}

/* All columns for rows [from, to) in steps of shape.rows: columns outside, so that a strip of weights stays in the first
 * cache while the rows pass by. Columns come in blocks of 64, so every width of a tile divides them. */
static void sweep(driver *d, ll_register_tile shape, LLVMValueRef from, LLVMValueRef to) {
  ll *l = d->l;
  ll_loop over_columns, over_rows;
  ll_loop_begin(l, &over_columns, "columns", ll_int(l, 0), d->blocks, shape.blocks, NULL, 0);
  ll_loop_begin(l, &over_rows, "row", from, to, shape.rows, NULL, 0);
  LLVMValueRef number = LLVMBuildUDiv(l->b, LLVMBuildSub(l->b, over_rows.index, from, ""), ll_int(l, shape.rows), "");
  LLVMValueRef tiles = LLVMBuildUDiv(l->b, LLVMBuildSub(l->b, to, from, ""), ll_int(l, shape.rows), "");
  call_tile(d, shape, over_rows.index, over_columns.index, number, tiles);
  ll_loop_end(l, &over_rows, NULL);
  ll_loop_end(l, &over_columns, NULL);
}

LLVMValueRef ll_product(ll *l, ir_dtype storage) {
  if (l->products[storage]) return l->products[storage];
  char name[64];
  snprintf(name, sizeof name, "product.%s", ir_dtype_name(storage));
  LLVMTypeRef parameters[] = {l->ptr, l->i64, l->ptr, l->i64, l->i64, l->i64, l->ptr, l->i64, l->i64, l->i64, l->ptr, l->i64};
  LLVMValueRef function = ll_function(l, name, parameters, 12, false);
  l->products[storage] = function;
  LLVMValueRef outer = l->function;
  LLVMBasicBlockRef resume = LLVMGetInsertBlock(l->b);
  l->function = function;
  LLVMPositionBuilderAtEnd(l->b, ll_block(l, "entry"));
  driver d = {l, storage, LLVMGetParam(function, 0), LLVMGetParam(function, 1), LLVMGetParam(function, 2),
              LLVMGetParam(function, 3), LLVMGetParam(function, 4), LLVMGetParam(function, 5),
              LLVMGetParam(function, 6), LLVMGetParam(function, 7), LLVMGetParam(function, 9),
              LLVMGetParam(function, 10), LLVMGetParam(function, 11)};
  LLVMValueRef rows = LLVMGetParam(function, 8), done = ll_int(l, 0);
  bool plain = ir_dtype_block_elements(storage) == 1;
  for (int i = 0; i < (plain ? l->numbers.plain_tile_count : l->numbers.tile_count); i++) {
    ll_register_tile shape = (plain ? l->numbers.plain_tiles : l->numbers.tiles)[i];
    LLVMValueRef left = LLVMBuildSub(l->b, rows, done, "");
    LLVMValueRef end = ll_add(l, done, ll_muli(l, LLVMBuildSDiv(l->b, left, ll_int(l, shape.rows), ""), shape.rows));
    LLVMBasicBlockRef some = ll_block(l, "some"), none = ll_block(l, "none");
    LLVMBuildCondBr(l->b, LLVMBuildICmp(l->b, LLVMIntSLT, done, end, ""), some, none);
    LLVMPositionBuilderAtEnd(l->b, some);
    sweep(&d, shape, done, end);
    LLVMBuildBr(l->b, none);
    LLVMPositionBuilderAtEnd(l->b, none);
    done = end;
  }
  LLVMBuildRetVoid(l->b);
  l->function = outer;
  LLVMPositionBuilderAtEnd(l->b, resume);
  return function;
}

/* ---- one row of a packed matrix */

LLVMValueRef ll_embed(ll *l, ir_dtype storage) {
  if (l->embeds[storage]) return l->embeds[storage];
  char name[64];
  snprintf(name, sizeof name, "embed.%s", ir_dtype_name(storage));
  LLVMTypeRef parameters[] = {l->ptr, l->i64, l->i64, l->ptr};
  LLVMValueRef function = ll_function(l, name, parameters, 4, false);
  l->embeds[storage] = function;
  LLVMValueRef outer = l->function;
  LLVMBasicBlockRef resume = LLVMGetInsertBlock(l->b);
  l->function = function;
  LLVMPositionBuilderAtEnd(l->b, ll_block(l, "entry"));
  LLVMValueRef depth = LLVMGetParam(function, 1), row = LLVMGetParam(function, 2);
  int elements = ir_dtype_block_elements(storage);
  LLVMValueRef row_bytes = ll_muli(l, LLVMBuildSDiv(l->b, depth, ll_int(l, elements), ""),
                                   ir_packed_row_bytes(storage, elements));
  LLVMValueRef block = ll_at(l, LLVMGetParam(function, 0),
                             ll_mul(l, LLVMBuildLShr(l->b, row, ll_int(l, 6), ""), ll_muli(l, row_bytes, TILE_BLOCK)));
  LLVMValueRef lane = LLVMBuildAnd(l->b, row, ll_int(l, TILE_BLOCK - 1), "");
  ll_loop loop;
  ll_loop_begin(l, &loop, "k", ll_int(l, 0), depth, 1, NULL, 0);
  LLVMValueRef to = LLVMBuildGEP2(l->b, l->f32, LLVMGetParam(function, 3), &loop.index, 1, "");
  ll_store(l, ll_row_element(l, storage, block, lane, loop.index), to, 4);
  ll_loop_end(l, &loop, NULL);
  LLVMBuildRetVoid(l->b);
  l->function = outer;
  LLVMPositionBuilderAtEnd(l->b, resume);
  return function;
}
