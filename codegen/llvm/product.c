/* codegen/llvm/product.c: matrix products with packed weights. For each storage type a driver walks rows and blocks, and
 * calls register-tiled functions that decode the weights as they stream by. Every tile shape adds along k in the same
 * order by FMA, so which shape computed an element cannot be seen in its bits. */
#include "codegen/llvm/ll.h"

#include <stdio.h>

/* ---- decoding: 16 of the 64 weights of one k in a packed block (layout: runtime/pack.c) */

/* f16 to f32 without the instruction, exactly: shift exponent and mantissa into place, scale by 2^112, mend inf/nan. */
static LLVMValueRef widen_f16_by_bits(ll *l, LLVMValueRef half) {
  LLVMTypeRef type = LLVMTypeOf(half), wide;
  bool vector = LLVMGetTypeKind(type) == LLVMVectorTypeKind;
  wide = vector ? l->v_i32 : l->i32;
  LLVMTypeRef floating = vector ? l->v_f32 : l->f32;
#define C32(n) (vector ? ll_splat(l, LLVMConstInt(l->i32, n, false)) : LLVMConstInt(l->i32, n, false))
  LLVMValueRef bits = LLVMBuildZExt(l->b, half, wide, "");
  LLVMValueRef sign = LLVMBuildShl(l->b, LLVMBuildAnd(l->b, bits, C32(0x8000), ""), C32(16), "");
  LLVMValueRef rest = LLVMBuildShl(l->b, LLVMBuildAnd(l->b, bits, C32(0x7fff), ""), C32(13), "");
  LLVMValueRef scale = vector ? ll_const(l, 0x1p112) : LLVMConstReal(l->f32, 0x1p112);
  LLVMValueRef value = LLVMBuildFMul(l->b, LLVMBuildBitCast(l->b, rest, floating, ""), scale, "");
  value = LLVMBuildBitCast(l->b, value, wide, "");
  LLVMValueRef special = LLVMBuildICmp(l->b, LLVMIntUGE, rest, C32(0x0f800000u), "");
  LLVMValueRef mended = LLVMBuildOr(l->b, rest, C32(0x7f800000u), "");
  value = LLVMBuildOr(l->b, LLVMBuildSelect(l->b, special, mended, value, ""), sign, "");
#undef C32
  return LLVMBuildBitCast(l->b, value, floating, "");
}

static LLVMValueRef load_f16(ll *l, LLVMValueRef at) {
  LLVMTypeRef halves = LLVMVectorType(l->numbers.f16 ? l->f16 : l->i16, TILE_LANES);
  LLVMValueRef raw = ll_load(l, halves, at, 2);
  return l->numbers.f16 ? LLVMBuildFPExt(l->b, raw, l->v_f32, "") : widen_f16_by_bits(l, raw);
}

static LLVMValueRef load_plain(ll *l, ir_dtype storage, LLVMValueRef at) {
  if (storage == IR_f32) return ll_load(l, l->v_f32, at, 4);
  if (storage == IR_f16) return load_f16(l, at);
  LLVMValueRef bits = LLVMBuildZExt(l->b, ll_load(l, LLVMVectorType(l->i16, TILE_LANES), at, 2), l->v_i32, "");
  bits = LLVMBuildShl(l->b, bits, ll_splat(l, LLVMConstInt(l->i32, 16, false)), "");
  return LLVMBuildBitCast(l->b, bits, l->v_f32, "");
}

/* Bytes of scales before the quants of a 32-deep run of a block. */
static int64_t scale_bytes(ir_dtype storage) { return (storage == IR_q4_1 ? 4 : 2) * TILE_BLOCK; }

/* quants: <16 x i32> as stored, before their offset. */
static LLVMValueRef dequantize(ll *l, ir_dtype storage, LLVMValueRef quants, LLVMValueRef d, LLVMValueRef m) {
  if (storage == IR_q4_0) quants = LLVMBuildSub(l->b, quants, ll_splat(l, LLVMConstInt(l->i32, 8, false)), "");
  LLVMValueRef q = LLVMBuildSIToFP(l->b, quants, l->v_f32, "");
  return storage == IR_q4_1 ? ll_fma(l, d, q, m) : LLVMBuildFMul(l->b, d, q, "");
}

/* ---- one register tile */

typedef struct tile_state {
  ll *l;
  ll_register_tile shape;
  LLVMValueRef a_row[16]; /* rows of a */
  LLVMValueRef block;     /* of w */
  LLVMValueRef first;     /* its row that the tile begins with, a multiple of 16 */
} tile_state;

/* acc[m][v] += a[m][k] * weight[v], for each m and v. */
static void multiply_add(tile_state *t, LLVMValueRef k, LLVMValueRef *weights, LLVMValueRef *acc) {
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

static void plain_steps(tile_state *t, ir_dtype storage, LLVMValueRef depth, LLVMValueRef *acc, int count) {
  ll *l = t->l;
  ll_loop loop;
  ll_loop_begin(l, &loop, "k", ll_int(l, 0), depth, 1, acc, count);
  LLVMValueRef weights[16], sums[64];
  int64_t bytes = ir_dtype_block_bytes(storage);
  LLVMValueRef line = ll_at(l, ll_at(l, t->block, ll_muli(l, t->first, bytes)), ll_muli(l, loop.index, TILE_BLOCK * bytes));
  for (int v = 0; v < t->shape.blocks; v++)
    weights[v] = load_plain(l, storage, ll_at(l, line, ll_int(l, v * TILE_LANES * bytes)));
  for (int i = 0; i < count; i++) sums[i] = loop.carried[i];
  multiply_add(t, loop.index, weights, sums);
  ll_loop_end(l, &loop, sums);
  for (int i = 0; i < count; i++) acc[i] = loop.carried[i];
}

static void quantized_steps(tile_state *t, ir_dtype storage, LLVMValueRef depth, LLVMValueRef *acc, int count) {
  ll *l = t->l;
  bool nibbles = storage != IR_q8_0;
  int64_t run_bytes = TILE_BLOCK * ir_dtype_block_bytes(storage);
  LLVMTypeRef bytes_type = LLVMVectorType(l->i8, TILE_LANES);
  ll_loop runs;
  ll_loop_begin(l, &runs, "run", ll_int(l, 0), LLVMBuildLShr(l->b, depth, ll_int(l, 5), ""), 1, acc, count);
  LLVMValueRef d[16], m[16], run = ll_at(l, t->block, ll_muli(l, runs.index, run_bytes));
  LLVMValueRef scales = ll_at(l, run, ll_muli(l, t->first, 2));
  LLVMValueRef quants = ll_at(l, ll_at(l, run, ll_int(l, scale_bytes(storage))), t->first);
  for (int v = 0; v < t->shape.blocks; v++) {
    LLVMValueRef at = ll_at(l, scales, ll_int(l, v * TILE_LANES * 2));
    d[v] = load_f16(l, at);
    m[v] = storage == IR_q4_1 ? load_f16(l, ll_at(l, at, ll_int(l, 2 * TILE_BLOCK))) : NULL;
  }
  LLVMValueRef first_k = ll_muli(l, runs.index, 32);
  ll_loop steps;
  ll_loop_begin(l, &steps, "k", ll_int(l, 0), ll_int(l, nibbles ? 16 : 32), 1, runs.carried, count);
  LLVMValueRef sums[64], raw[16], weights[16];
  for (int i = 0; i < count; i++) sums[i] = steps.carried[i];
  for (int v = 0; v < t->shape.blocks; v++) {
    LLVMValueRef at = ll_at(l, ll_at(l, quants, ll_muli(l, steps.index, TILE_BLOCK)), ll_int(l, v * TILE_LANES));
    raw[v] = ll_load(l, bytes_type, at, 1);
    raw[v] = nibbles ? LLVMBuildZExt(l->b, raw[v], l->v_i32, "") : LLVMBuildSExt(l->b, raw[v], l->v_i32, "");
  }
  for (int half = 0; half < (nibbles ? 2 : 1); half++) {
    for (int v = 0; v < t->shape.blocks; v++) {
      LLVMValueRef q = raw[v];
      if (nibbles && half == 0) q = LLVMBuildAnd(l->b, q, ll_splat(l, LLVMConstInt(l->i32, 15, false)), "");
      if (nibbles && half == 1) q = LLVMBuildLShr(l->b, q, ll_splat(l, LLVMConstInt(l->i32, 4, false)), "");
      weights[v] = dequantize(l, storage, q, d[v], m[v]);
    }
    LLVMValueRef k = nibbles ? ll_addi(l, ll_muli(l, steps.index, 2), half) : steps.index;
    multiply_add(t, ll_add(l, first_k, k), weights, sums);
  }
  ll_loop_end(l, &steps, sums);
  ll_loop_end(l, &runs, steps.carried);
  for (int i = 0; i < count; i++) acc[i] = runs.carried[i];
}

/* void tile(a, lda, block of w, first row in it, k, c, ldc, accumulate) */
static LLVMValueRef register_tile(ll *l, ir_dtype storage, ll_register_tile shape) {
  char name[64];
  snprintf(name, sizeof name, "product.%s.%dx%d", ir_dtype_name(storage), shape.rows, shape.blocks * TILE_LANES);
  LLVMValueRef found = LLVMGetNamedFunction(l->module, name);
  if (found) return found;
  LLVMTypeRef parameters[] = {l->ptr, l->i64, l->ptr, l->i64, l->i64, l->ptr, l->i64, l->i64};
  LLVMValueRef function = ll_function(l, name, parameters, 8, false);
  LLVMValueRef outer = l->function;
  LLVMBasicBlockRef resume = LLVMGetInsertBlock(l->b);
  l->function = function;
  LLVMBasicBlockRef entry = ll_block(l, "entry"), load = ll_block(l, "load"), start = ll_block(l, "start");
  LLVMPositionBuilderAtEnd(l->b, entry);
  tile_state t = {.l = l, .shape = shape};
  LLVMValueRef lda = ll_muli(l, LLVMGetParam(function, 1), 4), ldc = ll_muli(l, LLVMGetParam(function, 6), 4);
  LLVMValueRef c_at[64], loaded[64], acc[64];
  int count = shape.rows * shape.blocks;
  for (int m = 0; m < shape.rows; m++) t.a_row[m] = ll_at(l, LLVMGetParam(function, 0), ll_muli(l, lda, m));
  t.block = LLVMGetParam(function, 2);
  t.first = LLVMGetParam(function, 3);
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
  LLVMValueRef a, lda, w, block_stride, depth, blocks, c, ldc, accumulate;
} driver;

static void call_tile(driver *d, ll_register_tile shape, LLVMValueRef row, LLVMValueRef block) {
  ll *l = d->l;
  LLVMValueRef a = ll_at(l, d->a, ll_muli(l, ll_mul(l, row, d->lda), 4));
  LLVMValueRef c = ll_at(l, d->c, ll_muli(l, ll_add(l, ll_mul(l, row, d->ldc), ll_muli(l, block, TILE_LANES)), 4));
  LLVMValueRef w = ll_at(l, d->w, ll_mul(l, LLVMBuildLShr(l->b, block, ll_int(l, 2), ""), d->block_stride));
  LLVMValueRef first = ll_muli(l, LLVMBuildAnd(l->b, block, ll_int(l, 3), ""), TILE_LANES);
  LLVMValueRef arguments[] = {a, d->lda, w, first, d->depth, c, d->ldc, d->accumulate};
  ll_call(l, register_tile(l, d->storage, shape), arguments, 8);
}

/* All columns for rows [from, to) in steps of shape.rows: columns outside, so that a strip of weights stays in the first
 * cache while the rows pass by. Columns come in blocks of 64, so every width of a tile divides them. */
static void sweep(driver *d, ll_register_tile shape, LLVMValueRef from, LLVMValueRef to) {
  ll *l = d->l;
  ll_loop over_columns, over_rows;
  ll_loop_begin(l, &over_columns, "columns", ll_int(l, 0), d->blocks, shape.blocks, NULL, 0);
  ll_loop_begin(l, &over_rows, "row", from, to, shape.rows, NULL, 0);
  call_tile(d, shape, over_rows.index, over_columns.index);
  ll_loop_end(l, &over_rows, NULL);
  ll_loop_end(l, &over_columns, NULL);
}

LLVMValueRef ll_product(ll *l, ir_dtype storage) {
  if (l->products[storage]) return l->products[storage];
  char name[64];
  snprintf(name, sizeof name, "product.%s", ir_dtype_name(storage));
  LLVMTypeRef parameters[] = {l->ptr, l->i64, l->ptr, l->i64, l->i64, l->i64, l->ptr, l->i64, l->i64, l->i64};
  LLVMValueRef function = ll_function(l, name, parameters, 10, false);
  l->products[storage] = function;
  LLVMValueRef outer = l->function;
  LLVMBasicBlockRef resume = LLVMGetInsertBlock(l->b);
  l->function = function;
  LLVMPositionBuilderAtEnd(l->b, ll_block(l, "entry"));
  driver d = {l, storage, LLVMGetParam(function, 0), LLVMGetParam(function, 1), LLVMGetParam(function, 2),
              LLVMGetParam(function, 3), LLVMGetParam(function, 4), LLVMGetParam(function, 5),
              LLVMGetParam(function, 6), LLVMGetParam(function, 7), LLVMGetParam(function, 9)};
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

static LLVMValueRef scalar_f16(ll *l, LLVMValueRef at) {
  LLVMValueRef raw = ll_load(l, l->numbers.f16 ? l->f16 : l->i16, at, 2);
  return l->numbers.f16 ? LLVMBuildFPExt(l->b, raw, l->f32, "") : widen_f16_by_bits(l, raw);
}

/* Element k of the row in `lane` of `block`. */
static LLVMValueRef row_element(ll *l, ir_dtype storage, LLVMValueRef block, LLVMValueRef lane, LLVMValueRef k) {
  if (ir_dtype_block_elements(storage) == 1) {
    LLVMValueRef index = ll_add(l, ll_muli(l, k, TILE_BLOCK), lane);
    LLVMValueRef at = ll_at(l, block, ll_muli(l, index, ir_dtype_block_bytes(storage)));
    if (storage == IR_f32) return ll_load(l, l->f32, at, 4);
    if (storage == IR_f16) return scalar_f16(l, at);
    LLVMValueRef bits = LLVMBuildZExt(l->b, ll_load(l, l->i16, at, 2), l->i32, "");
    return LLVMBuildBitCast(l->b, LLVMBuildShl(l->b, bits, LLVMConstInt(l->i32, 16, false), ""), l->f32, "");
  }
  LLVMValueRef run = ll_at(l, block, ll_muli(l, LLVMBuildLShr(l->b, k, ll_int(l, 5), ""),
                                             TILE_BLOCK * ir_dtype_block_bytes(storage)));
  LLVMValueRef step = LLVMBuildAnd(l->b, k, ll_int(l, 31), "");
  LLVMValueRef d = scalar_f16(l, ll_at(l, run, ll_muli(l, lane, 2)));
  bool nibbles = storage != IR_q8_0;
  LLVMValueRef line = nibbles ? LLVMBuildLShr(l->b, step, ll_int(l, 1), "") : step;
  LLVMValueRef at = ll_at(l, run, ll_add(l, ll_addi(l, ll_muli(l, line, TILE_BLOCK), scale_bytes(storage)), lane));
  LLVMValueRef raw = ll_load(l, l->i8, at, 1), quant;
  if (nibbles) {
    LLVMValueRef shift = LLVMBuildTrunc(l->b, ll_muli(l, LLVMBuildAnd(l->b, step, ll_int(l, 1), ""), 4), l->i32, "");
    quant = LLVMBuildLShr(l->b, LLVMBuildZExt(l->b, raw, l->i32, ""), shift, "");
    quant = LLVMBuildAnd(l->b, quant, LLVMConstInt(l->i32, 15, false), "");
    if (storage == IR_q4_0) quant = LLVMBuildSub(l->b, quant, LLVMConstInt(l->i32, 8, false), "");
  } else {
    quant = LLVMBuildSExt(l->b, raw, l->i32, "");
  }
  LLVMValueRef q = LLVMBuildSIToFP(l->b, quant, l->f32, "");
  if (storage != IR_q4_1) return LLVMBuildFMul(l->b, d, q, "");
  return ll_fma(l, d, q, scalar_f16(l, ll_at(l, run, ll_addi(l, ll_muli(l, lane, 2), 2 * TILE_BLOCK))));
}

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
  LLVMValueRef row_bytes = ll_muli(l, LLVMBuildSDiv(l->b, depth, ll_int(l, ir_dtype_block_elements(storage)), ""),
                                   ir_dtype_block_bytes(storage));
  LLVMValueRef block = ll_at(l, LLVMGetParam(function, 0),
                             ll_mul(l, LLVMBuildLShr(l->b, row, ll_int(l, 6), ""), ll_muli(l, row_bytes, TILE_BLOCK)));
  LLVMValueRef lane = LLVMBuildAnd(l->b, row, ll_int(l, TILE_BLOCK - 1), "");
  ll_loop loop;
  ll_loop_begin(l, &loop, "k", ll_int(l, 0), depth, 1, NULL, 0);
  LLVMValueRef to = LLVMBuildGEP2(l->b, l->f32, LLVMGetParam(function, 3), &loop.index, 1, "");
  ll_store(l, row_element(l, storage, block, lane, loop.index), to, 4);
  ll_loop_end(l, &loop, NULL);
  LLVMBuildRetVoid(l->b);
  l->function = outer;
  LLVMPositionBuilderAtEnd(l->b, resume);
  return function;
}
