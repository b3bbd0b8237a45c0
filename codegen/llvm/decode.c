/* codegen/llvm/decode.c: packed weights (ir/packing.h) to f32: 16 neighbouring rows of one k as a vector, for products,
 * or one element of one row, for embeddings. Both are built from the type's description; a value is computed by the
 * same operations everywhere, so that it has the same bits. */
#include "codegen/llvm/ll.h"

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

LLVMValueRef ll_load_plain(ll *l, ir_dtype storage, LLVMValueRef at) {
  if (storage == IR_f32) return ll_load(l, l->v_f32, at, 4);
  if (storage == IR_f16) return load_f16(l, at);
  LLVMValueRef bits = LLVMBuildZExt(l->b, ll_load(l, LLVMVectorType(l->i16, TILE_LANES), at, 2), l->v_i32, "");
  bits = LLVMBuildShl(l->b, bits, ll_splat(l, LLVMConstInt(l->i32, 16, false)), "");
  return LLVMBuildBitCast(l->b, bits, l->v_f32, "");
}

static LLVMValueRef scalar_f16(ll *l, LLVMValueRef at) {
  LLVMValueRef raw = ll_load(l, l->numbers.f16 ? l->f16 : l->i16, at, 2);
  return l->numbers.f16 ? LLVMBuildFPExt(l->b, raw, l->f32, "") : widen_f16_by_bits(l, raw);
}

/* ---- integers, floats: scalars or vectors alike */

/* n of the type of x: i8 or i32, or a vector of them. */
static LLVMValueRef same(LLVMValueRef x, int n) {
  LLVMTypeRef type = LLVMTypeOf(x);
  if (LLVMGetTypeKind(type) != LLVMVectorTypeKind) return LLVMConstInt(type, (unsigned long long)n, true);
  LLVMValueRef one = LLVMConstInt(LLVMGetElementType(type), (unsigned long long)n, true), all[64];
  unsigned count = LLVMGetVectorSize(type);
  for (unsigned i = 0; i < count; i++) all[i] = one;
  return LLVMConstVector(all, count);
}

static LLVMValueRef low_bits(ll *l, LLVMValueRef x, int bits) {
  return LLVMBuildAnd(l->b, x, same(x, (1 << bits) - 1), "");
}

static LLVMValueRef shift_down(ll *l, LLVMValueRef x, int bits) {
  return bits ? LLVMBuildLShr(l->b, x, same(x, bits), "") : x;
}

/* <16 x i8> or i8 to <16 x f32> or f32. */
static LLVMValueRef byte_to_f32(ll *l, LLVMValueRef byte, bool is_signed) {
  bool vector = LLVMGetTypeKind(LLVMTypeOf(byte)) == LLVMVectorTypeKind;
  LLVMTypeRef wide = vector ? l->v_i32 : l->i32;
  byte = is_signed ? LLVMBuildSExt(l->b, byte, wide, "") : LLVMBuildZExt(l->b, byte, wide, "");
  return LLVMBuildSIToFP(l->b, byte, vector ? l->v_f32 : l->f32, "");
}

/* 2^(e - 128) of i32s: the two smallest are subnormal. */
static LLVMValueRef exponent_scale(ll *l, LLVMValueRef e) {
  bool vector = LLVMGetTypeKind(LLVMTypeOf(e)) == LLVMVectorTypeKind;
  LLVMValueRef small = LLVMBuildShl(l->b, same(e, 0x200000), e, "");
  LLVMValueRef normal = LLVMBuildShl(l->b, LLVMBuildSub(l->b, e, same(e, 1), ""), same(e, 23), "");
  LLVMValueRef is_small = LLVMBuildICmp(l->b, LLVMIntULT, e, same(e, 2), "");
  return LLVMBuildBitCast(l->b, LLVMBuildSelect(l->b, is_small, small, normal, ""), vector ? l->v_f32 : l->f32, "");
}

/* table[index] of bytes, 16 at a time: by the machine's shuffle, or by asking for each entry. */
static LLVMValueRef look_up_16(ll *l, const int8_t *table, LLVMValueRef index) {
  LLVMValueRef entries[16], found = same(index, table[0]);
  for (int i = 0; i < 16; i++) entries[i] = LLVMConstInt(l->i8, (unsigned long long)table[i], true);
  LLVMValueRef arguments[] = {LLVMConstVector(entries, 16), index};
  LLVMTypeRef bytes = LLVMTypeOf(index);
  if (l->numbers.shuffle == LL_SHUFFLE_ssse3)
    return ll_intrinsic(l, "llvm.x86.ssse3.pshuf.b.128", NULL, 0, arguments, 2);
  if (l->numbers.shuffle == LL_SHUFFLE_neon) return ll_intrinsic(l, "llvm.aarch64.neon.tbl1", &bytes, 1, arguments, 2);
  for (int i = 1; i < 16; i++) {
    LLVMValueRef here = LLVMBuildICmp(l->b, LLVMIntEQ, index, same(index, i), "");
    found = LLVMBuildSelect(l->b, here, same(index, table[i]), found, "");
  }
  return found;
}

/* Lanes [16 v, 16 v + 16) of a vector. */
static LLVMValueRef sixteen_of(ll *l, LLVMValueRef x, int v) {
  if (LLVMGetVectorSize(LLVMTypeOf(x)) == TILE_LANES) return x;
  LLVMValueRef lanes[TILE_LANES];
  for (int i = 0; i < TILE_LANES; i++) lanes[i] = LLVMConstInt(l->i32, (unsigned)(v * TILE_LANES + i), false);
  return LLVMBuildShuffleVector(l->b, x, LLVMGetUndef(LLVMTypeOf(x)), LLVMConstVector(lanes, TILE_LANES), "");
}

/* ---- vectors of a run */

static LLVMValueRef line(ll_run *r, int64_t index) { return ll_at(r->l, r->lines, ll_int(r->l, index * TILE_BLOCK)); }

static LLVMValueRef halves(ll_run *r, int64_t index, int v) {
  ll *l = r->l;
  LLVMValueRef at = ll_at(l, r->run, ll_muli(l, r->first, 2));
  return load_f16(l, ll_at(l, at, ll_int(l, index * TILE_BLOCK + v * TILE_LANES * 2)));
}

static LLVMValueRef bytes_at(ll_run *r, LLVMValueRef at, int v) {
  LLVMTypeRef type = LLVMVectorType(r->l->i8, TILE_LANES);
  return ll_load(r->l, type, ll_at(r->l, at, ll_int(r->l, v * TILE_LANES)), 1);
}

void ll_run_begin(ll_run *r, ll *l, ir_dtype storage, int vectors, LLVMValueRef run, LLVMValueRef first) {
  *r = (ll_run){.l = l, .packing = ir_packing_of(storage), .vectors = vectors, .run = run, .first = first};
  const ir_packing *p = &r->packing;
  r->lines = ll_at(l, run, first);
  /* Codes of one piece of a byte are ready when widened; the others are put together as bytes, all vectors at once. */
  r->as_bytes = p->high_bits || p->table || p->has_zero || p->low_bits == 2;
  for (int v = 0; v < vectors; v++) {
    LLVMValueRef e = p->exponent ? LLVMBuildZExt(l->b, bytes_at(r, line(r, 0), v), l->v_i32, "") : NULL;
    r->scale[v] = r->block_scale[v] = e ? exponent_scale(l, e) : halves(r, 0, v);
    if (p->has_minimum) r->minimum[v] = r->block_minimum[v] = halves(r, p->minimum_at, v);
  }
  LLVMTypeRef wide = LLVMVectorType(l->i8, (unsigned)(vectors * TILE_LANES));
  if (p->has_zero) r->zero = ll_load(l, wide, line(r, p->zero_at), 1);
}

void ll_run_group(ll_run *r, LLVMValueRef group) {
  ll *l = r->l;
  const ir_packing *p = &r->packing;
  LLVMValueRef at = ll_at(l, line(r, p->groups_at), ll_muli(l, group, TILE_BLOCK));
  for (int v = 0; v < r->vectors; v++) {
    LLVMValueRef number = bytes_at(r, at, v), scale = number, minimum = NULL;
    if (p->groups == IR_GROUP_nibbles) scale = low_bits(l, number, 4), minimum = shift_down(l, number, 4);
    if (p->groups == IR_GROUP_u8 && p->has_minimum)
      minimum = bytes_at(r, ll_at(l, at, ll_int(l, p->elements / p->group * TILE_BLOCK)), v);
    r->scale[v] = LLVMBuildFMul(l->b, r->block_scale[v], byte_to_f32(l, scale, p->groups == IR_GROUP_i8), "");
    if (minimum)
      r->minimum[v] = LLVMBuildFMul(l->b, r->block_minimum[v], LLVMBuildFNeg(l->b, byte_to_f32(l, minimum, false), ""), "");
  }
}

int ll_run_unit(const ll_run *r) {
  int low = 8 / r->packing.low_bits, high = r->packing.high_bits ? 8 / r->packing.high_bits : 1;
  return low > high ? low : high;
}

/* The line with element e of a unit. */
static LLVMValueRef plane_line(ll_run *r, int plane_at, int bits, LLVMValueRef unit, int e) {
  ll *l = r->l;
  int64_t lines = (int64_t)ll_run_unit(r) * bits / 8;
  return ll_at(l, line(r, plane_at + e * bits / 8), ll_muli(l, unit, lines * TILE_BLOCK));
}

/* A line as bytes of all vectors, or the part of vector v, widened. */
static LLVMValueRef load_codes(ll_run *r, LLVMValueRef at, int v) {
  ll *l = r->l;
  if (r->as_bytes) return ll_load(l, LLVMVectorType(l->i8, (unsigned)(r->vectors * TILE_LANES)), at, 1);
  LLVMValueRef codes = bytes_at(r, at, v);
  return r->packing.low_bits == 8 ? LLVMBuildSExt(l->b, codes, l->v_i32, "") : LLVMBuildZExt(l->b, codes, l->v_i32, "");
}

static LLVMValueRef part_of(ll *l, LLVMValueRef codes, int bits, int e) {
  int shift = e % (8 / bits) * bits;
  codes = shift_down(l, codes, shift);
  return shift + bits < 8 ? low_bits(l, codes, bits) : codes;
}

/* c - offset, c - z or table[c] of element e of a unit. */
static LLVMValueRef number_of(ll_run *r, LLVMValueRef low, LLVMValueRef high, int e) {
  ll *l = r->l;
  const ir_packing *p = &r->packing;
  LLVMValueRef code = p->low_bits == 8 ? low : part_of(l, low, p->low_bits, e);
  if (high) {
    int down = e % (8 / p->high_bits) * p->high_bits - p->low_bits; /* right to where they belong */
    LLVMValueRef moved = down > 0 ? shift_down(l, high, down) : LLVMBuildShl(l->b, high, same(high, -down), "");
    LLVMValueRef upper = LLVMBuildAnd(l->b, moved, same(high, ((1 << p->high_bits) - 1) << p->low_bits), "");
    code = LLVMBuildOr(l->b, code, upper, "");
  }
  if (p->has_zero) return LLVMBuildSub(l->b, code, r->zero, "");
  return p->offset ? LLVMBuildSub(l->b, code, same(code, p->offset), "") : code;
}

static LLVMValueRef vector_number(ll_run *r, LLVMValueRef number, int v) {
  ll *l = r->l;
  if (!r->as_bytes) return LLVMBuildSIToFP(l->b, number, l->v_f32, "");
  LLVMValueRef bytes = sixteen_of(l, number, v);
  if (r->packing.table) bytes = look_up_16(l, r->packing.table, bytes);
  return byte_to_f32(l, bytes, true);
}

void ll_run_weights(ll_run *r, LLVMValueRef unit, int e, LLVMValueRef *weights) {
  ll *l = r->l;
  const ir_packing *p = &r->packing;
  int pieces = r->as_bytes ? 1 : r->vectors;
  if (e % (8 / p->low_bits) == 0)
    for (int v = 0; v < pieces; v++) r->low[v] = load_codes(r, plane_line(r, p->low_at, p->low_bits, unit, e), v);
  if (p->high_bits && e % (8 / p->high_bits) == 0)
    r->high = load_codes(r, plane_line(r, p->high_at, p->high_bits, unit, e), 0);
  LLVMValueRef number = NULL;
  for (int v = 0; v < r->vectors; v++) {
    if (v < pieces) number = number_of(r, r->low[v], p->high_bits ? r->high : NULL, e);
    LLVMValueRef q = vector_number(r, number, v);
    weights[v] = p->has_minimum ? ll_fma(l, r->scale[v], q, r->minimum[v]) : LLVMBuildFMul(l->b, r->scale[v], q, "");
  }
}

/* ---- one element */

static LLVMValueRef plain_element(ll *l, ir_dtype storage, LLVMValueRef block, LLVMValueRef lane, LLVMValueRef k) {
  LLVMValueRef index = ll_add(l, ll_muli(l, k, TILE_BLOCK), lane);
  LLVMValueRef at = ll_at(l, block, ll_muli(l, index, ir_dtype_block_bytes(storage)));
  if (storage == IR_f32) return ll_load(l, l->f32, at, 4);
  if (storage == IR_f16) return scalar_f16(l, at);
  LLVMValueRef bits = LLVMBuildZExt(l->b, ll_load(l, l->i16, at, 2), l->i32, "");
  return LLVMBuildBitCast(l->b, LLVMBuildShl(l->b, bits, LLVMConstInt(l->i32, 16, false), ""), l->f32, "");
}

static LLVMValueRef divide(ll *l, LLVMValueRef x, int n) { return LLVMBuildUDiv(l->b, x, ll_int(l, n), ""); }
static LLVMValueRef modulo(ll *l, LLVMValueRef x, int n) { return LLVMBuildURem(l->b, x, ll_int(l, n), ""); }

/* The byte in line `index` + `offset` of the lane that `lines` points to, as i32. */
static LLVMValueRef element_byte(ll *l, LLVMValueRef lines, LLVMValueRef index, int offset, bool is_signed) {
  LLVMValueRef byte = ll_load(l, l->i8, ll_at(l, lines, ll_muli(l, ll_addi(l, index, offset), TILE_BLOCK)), 1);
  return is_signed ? LLVMBuildSExt(l->b, byte, l->i32, "") : LLVMBuildZExt(l->b, byte, l->i32, "");
}

static LLVMValueRef element_bits(ll *l, LLVMValueRef lines, int at, int bits, LLVMValueRef i) {
  if (bits == 8) return element_byte(l, lines, i, at, true);
  LLVMValueRef byte = element_byte(l, lines, divide(l, i, 8 / bits), at, false);
  LLVMValueRef shift = LLVMBuildTrunc(l->b, ll_muli(l, modulo(l, i, 8 / bits), bits), l->i32, "");
  return low_bits(l, LLVMBuildLShr(l->b, byte, shift, ""), bits);
}

static LLVMValueRef scalar_look_up(ll *l, const int8_t *table, LLVMValueRef index) {
  LLVMValueRef found = same(index, table[0]);
  for (int i = 1; i < 16; i++) {
    LLVMValueRef here = LLVMBuildICmp(l->b, LLVMIntEQ, index, same(index, i), "");
    found = LLVMBuildSelect(l->b, here, same(index, table[i]), found, "");
  }
  return found;
}

static LLVMValueRef i32_to_f32(ll *l, LLVMValueRef x) { return LLVMBuildSIToFP(l->b, x, l->f32, ""); }

LLVMValueRef ll_row_element(ll *l, ir_dtype storage, LLVMValueRef block, LLVMValueRef lane, LLVMValueRef k) {
  if (ir_dtype_block_elements(storage) == 1) return plain_element(l, storage, block, lane, k);
  ir_packing p = ir_packing_of(storage);
  LLVMValueRef run = ll_at(l, block, ll_muli(l, divide(l, k, p.elements), (int64_t)p.lines * TILE_BLOCK));
  LLVMValueRef i = modulo(l, k, p.elements), lines = ll_at(l, run, lane), pairs = ll_at(l, run, ll_muli(l, lane, 2));
  LLVMValueRef zero = ll_int(l, 0), s, n = NULL, code = element_bits(l, lines, p.low_at, p.low_bits, i);
  s = p.exponent ? exponent_scale(l, element_byte(l, lines, zero, 0, false)) : scalar_f16(l, pairs);
  if (p.has_minimum) n = scalar_f16(l, ll_at(l, pairs, ll_int(l, p.minimum_at * TILE_BLOCK)));
  if (p.groups != IR_GROUP_none) {
    LLVMValueRef group = divide(l, i, p.group);
    LLVMValueRef number = element_byte(l, lines, group, p.groups_at, p.groups == IR_GROUP_i8), least = NULL;
    if (p.groups == IR_GROUP_nibbles) least = shift_down(l, number, 4), number = low_bits(l, number, 4);
    if (p.groups == IR_GROUP_u8 && p.has_minimum)
      least = element_byte(l, lines, group, p.groups_at + p.elements / p.group, false);
    s = LLVMBuildFMul(l->b, s, i32_to_f32(l, number), "");
    if (least) n = LLVMBuildFMul(l->b, n, LLVMBuildFNeg(l->b, i32_to_f32(l, least), ""), "");
  }
  if (p.high_bits) {
    LLVMValueRef upper = element_bits(l, lines, p.high_at, p.high_bits, i);
    code = LLVMBuildOr(l->b, code, LLVMBuildShl(l->b, upper, same(upper, p.low_bits), ""), "");
  }
  if (p.table) code = scalar_look_up(l, p.table, code);
  if (p.has_zero) code = LLVMBuildSub(l->b, code, element_byte(l, lines, zero, p.zero_at, false), "");
  if (p.offset) code = LLVMBuildSub(l->b, code, same(code, p.offset), "");
  LLVMValueRef q = i32_to_f32(l, code);
  return n ? ll_fma(l, s, q, n) : LLVMBuildFMul(l->b, s, q, "");
}
