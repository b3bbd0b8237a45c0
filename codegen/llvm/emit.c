/* codegen/llvm/emit.c: the small words that the rest of this back end is written in: addresses, loops, vectors of 16
 * lanes whatever the machine's width, and the scalar functions. */
#include "codegen/llvm/ll.h"

#include <stdio.h>
#include <string.h>

LLVMValueRef ll_int(ll *l, int64_t n) { return LLVMConstInt(l->i64, (unsigned long long)n, true); }
LLVMValueRef ll_add(ll *l, LLVMValueRef a, LLVMValueRef b) { return LLVMBuildNSWAdd(l->b, a, b, ""); }
LLVMValueRef ll_mul(ll *l, LLVMValueRef a, LLVMValueRef b) { return LLVMBuildNSWMul(l->b, a, b, ""); }
LLVMValueRef ll_muli(ll *l, LLVMValueRef a, int64_t n) { return ll_mul(l, a, ll_int(l, n)); }
LLVMValueRef ll_addi(ll *l, LLVMValueRef a, int64_t n) { return ll_add(l, a, ll_int(l, n)); }

LLVMValueRef ll_min(ll *l, LLVMValueRef a, LLVMValueRef b) {
  return LLVMBuildSelect(l->b, LLVMBuildICmp(l->b, LLVMIntSLT, a, b, ""), a, b, "");
}

LLVMValueRef ll_at(ll *l, LLVMValueRef base, LLVMValueRef bytes) {
  return LLVMBuildGEP2(l->b, l->i8, base, &bytes, 1, "");
}

LLVMValueRef ll_load(ll *l, LLVMTypeRef type, LLVMValueRef pointer, unsigned align) {
  LLVMValueRef value = LLVMBuildLoad2(l->b, type, pointer, "");
  LLVMSetAlignment(value, align);
  return value;
}

/* Memory that nothing writes during a step: lets loops keep what they loaded from it. */
LLVMValueRef ll_load_constant(ll *l, LLVMTypeRef type, LLVMValueRef pointer, unsigned align) {
  LLVMValueRef value = ll_load(l, type, pointer, align);
  unsigned kind = LLVMGetMDKindIDInContext(l->context, "invariant.load", 14);
  LLVMSetMetadata(value, kind, LLVMMetadataAsValue(l->context, LLVMMDNodeInContext2(l->context, NULL, 0)));
  return value;
}

LLVMValueRef ll_store(ll *l, LLVMValueRef value, LLVMValueRef pointer, unsigned align) {
  LLVMValueRef store = LLVMBuildStore(l->b, value, pointer);
  LLVMSetAlignment(store, align);
  return store;
}

LLVMValueRef ll_load_i32(ll *l, LLVMValueRef base, LLVMValueRef index) {
  LLVMValueRef pointer = LLVMBuildGEP2(l->b, l->i32, base, &index, 1, "");
  return LLVMBuildSExt(l->b, ll_load_constant(l, l->i32, pointer, 4), l->i64, "");
}

LLVMValueRef ll_step_ptr(ll *l, LLVMValueRef step, size_t offset) {
  return ll_load_constant(l, l->ptr, ll_at(l, step, ll_int(l, (int64_t)offset)), 8);
}

LLVMValueRef ll_step_i64(ll *l, LLVMValueRef step, size_t offset) {
  return ll_load_constant(l, l->i64, ll_at(l, step, ll_int(l, (int64_t)offset)), 8);
}

LLVMValueRef ll_splat(ll *l, LLVMValueRef scalar) {
  LLVMTypeRef type = LLVMVectorType(LLVMTypeOf(scalar), TILE_LANES);
  LLVMValueRef one = LLVMBuildInsertElement(l->b, LLVMGetPoison(type), scalar, LLVMConstInt(l->i32, 0, false), "");
  return LLVMBuildShuffleVector(l->b, one, LLVMGetPoison(type), LLVMConstNull(l->v_i32), "");
}

static LLVMValueRef const_splat(LLVMValueRef scalar) {
  LLVMValueRef lanes[TILE_LANES];
  for (int i = 0; i < TILE_LANES; i++) lanes[i] = scalar;
  return LLVMConstVector(lanes, TILE_LANES);
}

LLVMValueRef ll_const(ll *l, double c) { return const_splat(LLVMConstReal(l->f32, (double)(float)c)); }
LLVMValueRef ll_constd(ll *l, double c) { return const_splat(LLVMConstReal(l->f64, c)); }

LLVMValueRef ll_lane(ll *l, int lane) { return LLVMConstInt(l->i32, (unsigned)lane, false); }

LLVMValueRef ll_lane_ids(ll *l) {
  LLVMValueRef lanes[TILE_LANES];
  for (int i = 0; i < TILE_LANES; i++) lanes[i] = LLVMConstInt(l->i32, (unsigned)i, false);
  return LLVMConstVector(lanes, TILE_LANES);
}

LLVMValueRef ll_intrinsic(ll *l, const char *name, LLVMTypeRef *overloads, int overload_count, LLVMValueRef *arguments,
                          int count) {
  unsigned id = LLVMLookupIntrinsicID(name, strlen(name));
  LLVMValueRef function = LLVMGetIntrinsicDeclaration(l->module, id, overloads, (size_t)overload_count);
  return LLVMBuildCall2(l->b, LLVMGlobalGetValueType(function), function, arguments, (unsigned)count, "");
}

/* Asks for the line, into the second cache; `write`: it will be written too. A place that is not there does no harm. */
void ll_fetch(ll *l, LLVMValueRef at, bool write) {
  LLVMValueRef arguments[] = {at, LLVMConstInt(l->i32, write, false), LLVMConstInt(l->i32, write ? 3 : 2, false),
                              LLVMConstInt(l->i32, 1, false)};
  ll_intrinsic(l, "llvm.prefetch", &l->ptr, 1, arguments, 4);
}

/* Without the instruction llvm.fma would call libm once a lane: such targets round the product too. */
LLVMValueRef ll_fma(ll *l, LLVMValueRef x, LLVMValueRef y, LLVMValueRef z) {
  if (!l->numbers.fma) return LLVMBuildFAdd(l->b, LLVMBuildFMul(l->b, x, y, ""), z, "");
  LLVMTypeRef type = LLVMTypeOf(x);
  LLVMValueRef arguments[] = {x, y, z};
  return ll_intrinsic(l, "llvm.fma", &type, 1, arguments, 3);
}

/* By bits: shifted with the rounding added, above f16's normal range infinity or NaN, below it by adding a number whose last
 * bit is worth as much as a subnormal's. */
static LLVMValueRef narrow_f16_by_bits(ll *l, LLVMValueRef x) {
  bool vector = LLVMGetTypeKind(LLVMTypeOf(x)) == LLVMVectorTypeKind;
  LLVMTypeRef wide = vector ? l->v_i32 : l->i32, half = vector ? LLVMVectorType(l->i16, TILE_LANES) : l->i16;
#define C32(n) (vector ? ll_splat(l, LLVMConstInt(l->i32, n, false)) : LLVMConstInt(l->i32, n, false))
  LLVMValueRef bits = LLVMBuildBitCast(l->b, x, wide, "");
  LLVMValueRef magnitude = LLVMBuildAnd(l->b, bits, C32(0x7fffffff), "");
  LLVMValueRef odd = LLVMBuildAnd(l->b, LLVMBuildLShr(l->b, magnitude, C32(13), ""), C32(1), "");
  LLVMValueRef normal = LLVMBuildAdd(l->b, LLVMBuildAdd(l->b, magnitude, odd, ""), C32(0xfff - 0x38000000u), "");
  normal = LLVMBuildLShr(l->b, normal, C32(13), "");
  LLVMValueRef small = LLVMBuildBitCast(l->b, magnitude, LLVMTypeOf(x), "");
  small = LLVMBuildFAdd(l->b, small, vector ? ll_const(l, 0.5) : LLVMConstReal(l->f32, 0.5), "");
  small = LLVMBuildSub(l->b, LLVMBuildBitCast(l->b, small, wide, ""), C32(0x3f000000), "");
  LLVMValueRef nan = LLVMBuildOr(l->b, C32(0x7e00),
                                 LLVMBuildAnd(l->b, LLVMBuildLShr(l->b, magnitude, C32(13), ""), C32(0x3ff), ""), "");
  LLVMValueRef result = LLVMBuildSelect(l->b, LLVMBuildICmp(l->b, LLVMIntULT, magnitude, C32(0x38800000), ""), small, normal, "");
  result = LLVMBuildSelect(l->b, LLVMBuildICmp(l->b, LLVMIntUGE, magnitude, C32(0x477ff000), ""), C32(0x7c00), result, "");
  result = LLVMBuildSelect(l->b, LLVMBuildICmp(l->b, LLVMIntUGT, magnitude, C32(0x7f800000), ""), nan, result, "");
  LLVMValueRef sign = LLVMBuildAnd(l->b, LLVMBuildLShr(l->b, bits, C32(16), ""), C32(0x8000), "");
#undef C32
  return LLVMBuildTrunc(l->b, LLVMBuildOr(l->b, result, sign, ""), half, "");
}

LLVMValueRef ll_narrow_f16(ll *l, LLVMValueRef x) {
  if (!l->numbers.f16) return narrow_f16_by_bits(l, x);
  bool vector = LLVMGetTypeKind(LLVMTypeOf(x)) == LLVMVectorTypeKind;
  return LLVMBuildFPTrunc(l->b, x, vector ? LLVMVectorType(l->f16, TILE_LANES) : l->f16, "");
}

/* 16 of them, to nearest even; NaN stays one. */
LLVMValueRef ll_narrow_bf16(ll *l, LLVMValueRef x) {
  LLVMTypeRef halves = LLVMVectorType(l->i16, TILE_LANES);
#define C32(n) ll_splat(l, LLVMConstInt(l->i32, n, false))
  LLVMValueRef bits = LLVMBuildBitCast(l->b, x, l->v_i32, ""), upper = LLVMBuildLShr(l->b, bits, C32(16), "");
  LLVMValueRef up = LLVMBuildAdd(l->b, LLVMBuildAnd(l->b, upper, C32(1), ""), C32(0x7fff), "");
  LLVMValueRef rounded = LLVMBuildLShr(l->b, LLVMBuildAdd(l->b, bits, up, ""), C32(16), "");
  LLVMValueRef magnitude = LLVMBuildAnd(l->b, bits, C32(0x7fffffff), "");
  LLVMValueRef nan = LLVMBuildICmp(l->b, LLVMIntUGT, magnitude, C32(0x7f800000), "");
  rounded = LLVMBuildSelect(l->b, nan, LLVMBuildOr(l->b, upper, C32(0x40), ""), rounded, "");
#undef C32
  return LLVMBuildTrunc(l->b, rounded, halves, "");
}

/* ---- scalar functions */

static LLVMValueRef less(ll *l, LLVMValueRef a, LLVMValueRef b, LLVMValueRef then, LLVMValueRef otherwise) {
  return LLVMBuildSelect(l->b, LLVMBuildFCmp(l->b, LLVMRealOLT, a, b, ""), then, otherwise, "");
}

static LLVMValueRef unary_intrinsic(ll *l, const char *name, LLVMValueRef x) {
  LLVMTypeRef type = LLVMTypeOf(x);
  return ll_intrinsic(l, name, &type, 1, &x, 1);
}

static LLVMValueRef const_i32(ll *l, uint32_t n) { return const_splat(LLVMConstInt(l->i32, n, false)); }
static LLVMValueRef const_i64(ll *l, uint64_t n) { return const_splat(LLVMConstInt(l->i64, n, false)); }

static LLVMValueRef pow2(ll *l, LLVMValueRef t) {
  LLVMValueRef bits = LLVMBuildBitCast(l->b, t, l->v_i32, "");
  bits = LLVMBuildShl(l->b, LLVMBuildAdd(l->b, bits, const_i32(l, 127), ""), const_i32(l, 23), "");
  return LLVMBuildBitCast(l->b, bits, l->v_f32, "");
}

static LLVMValueRef exponent_of(ll *l, LLVMValueRef x) {
  LLVMValueRef bits = LLVMBuildLShr(l->b, LLVMBuildBitCast(l->b, x, l->v_i32, ""), const_i32(l, 23), "");
  bits = LLVMBuildSub(l->b, LLVMBuildAnd(l->b, bits, const_i32(l, 255), ""), const_i32(l, 127), "");
  return LLVMBuildSIToFP(l->b, bits, l->v_f32, "");
}

static LLVMValueRef fraction_of(ll *l, LLVMValueRef x) {
  LLVMValueRef bits = LLVMBuildAnd(l->b, LLVMBuildBitCast(l->b, x, l->v_i32, ""), const_i32(l, 0x7fffff), "");
  return LLVMBuildBitCast(l->b, LLVMBuildOr(l->b, bits, const_i32(l, 0x3f800000), ""), l->v_f32, "");
}

static LLVMValueRef select_odd(ll *l, LLVMValueRef t, LLVMValueRef a, LLVMValueRef b) {
  LLVMValueRef bit = LLVMBuildTrunc(l->b, LLVMBuildBitCast(l->b, t, l->v_i64, ""), l->v_i1, "");
  return LLVMBuildSelect(l->b, bit, a, b, "");
}

static LLVMValueRef negate_bit1(ll *l, LLVMValueRef t, LLVMValueRef a) {
  LLVMValueRef sign = LLVMBuildShl(l->b, LLVMBuildBitCast(l->b, t, l->v_i64, ""), const_i64(l, 62), "");
  sign = LLVMBuildAnd(l->b, sign, const_i64(l, 0x8000000000000000u), "");
  return LLVMBuildBitCast(l->b, LLVMBuildXor(l->b, LLVMBuildBitCast(l->b, a, l->v_i64, ""), sign, ""), l->v_f64, "");
}

#define VALUE LLVMValueRef
#define DOUBLE LLVMValueRef
#define CONTEXT __attribute__((unused)) ll *l,
#define ARGUMENT l,
#define K(c) ll_const(l, c)
#define KD(c) ll_constd(l, c)
#define ADD(x, y) LLVMBuildFAdd(l->b, x, y, "")
#define SUB(x, y) LLVMBuildFSub(l->b, x, y, "")
#define MUL(x, y) LLVMBuildFMul(l->b, x, y, "")
#define DIV(x, y) LLVMBuildFDiv(l->b, x, y, "")
#define NEG(x) LLVMBuildFNeg(l->b, x, "")
#define FMA(x, y, z) ll_fma(l, x, y, z)
#define SQRT(x) unary_intrinsic(l, "llvm.sqrt", x)
#define ABS(x) unary_intrinsic(l, "llvm.fabs", x)
#define LESS(a, b, then, otherwise) less(l, a, b, then, otherwise)
#define POW2(t) pow2(l, t)
#define EXPONENT(x) exponent_of(l, x)
#define FRACTION(x) fraction_of(l, x)
#define WIDEN(x) LLVMBuildFPExt(l->b, x, l->v_f64, "")
#define NARROW(d) LLVMBuildFPTrunc(l->b, d, l->v_f32, "")
#define ADDD(x, y) LLVMBuildFAdd(l->b, x, y, "")
#define MULD(x, y) LLVMBuildFMul(l->b, x, y, "")
#define FMAD(x, y, z) ll_fma(l, x, y, z)
#define SELECT_ODD(t, a, b) select_odd(l, t, a, b)
#define NEGATE_BIT1(t, a) negate_bit1(l, t, a)
#include "codegen/scalar.inc"

#define CALL1(name) return scalar_##name(l, x)
#define CALL2(name) return scalar_##name(l, x, y)
LLVMValueRef ll_scalar(ll *l, tile_opcode code, LLVMValueRef x, LLVMValueRef y) {
  switch (code) {
#define SCALAR(name, arguments, doc)                                                                                   \
  case TILE_##name:                                                                                                    \
    CALL##arguments(name);
#include "ir/scalar.def"
#undef SCALAR
  default:
    return NULL;
  }
}

LLVMValueRef ll_tree(ll *l, LLVMValueRef v, bool greatest) {
  for (int width = TILE_LANES / 2; width >= 1; width /= 2) {
    LLVMValueRef low[TILE_LANES], high[TILE_LANES];
    for (int i = 0; i < width; i++) {
      low[i] = LLVMConstInt(l->i32, (unsigned)i, false);
      high[i] = LLVMConstInt(l->i32, (unsigned)(i + width), false);
    }
    LLVMValueRef poison = LLVMGetPoison(LLVMTypeOf(v));
    LLVMValueRef a = LLVMBuildShuffleVector(l->b, v, poison, LLVMConstVector(low, (unsigned)width), "");
    LLVMValueRef b = LLVMBuildShuffleVector(l->b, v, poison, LLVMConstVector(high, (unsigned)width), "");
    v = greatest ? less(l, a, b, b, a) : LLVMBuildFAdd(l->b, a, b, "");
  }
  return LLVMBuildExtractElement(l->b, v, LLVMConstInt(l->i32, 0, false), "");
}

/* ---- functions and loops */

static void add_attribute(ll *l, LLVMValueRef function, const char *key, const char *value) {
  LLVMAttributeRef attribute = LLVMCreateStringAttribute(l->context, key, (unsigned)strlen(key), value,
                                                         (unsigned)strlen(value));
  LLVMAddAttributeAtIndex(function, (LLVMAttributeIndex)LLVMAttributeFunctionIndex, attribute);
}

static void add_flag(ll *l, LLVMValueRef function, const char *name) {
  unsigned id = LLVMGetEnumAttributeKindForName(name, strlen(name));
  LLVMAddAttributeAtIndex(function, (LLVMAttributeIndex)LLVMAttributeFunctionIndex,
                          LLVMCreateEnumAttribute(l->context, id, 0));
}

LLVMValueRef ll_function(ll *l, const char *name, LLVMTypeRef *parameters, int count, bool exported) {
  LLVMTypeRef type = LLVMFunctionType(l->void_t, parameters, (unsigned)count, false);
  LLVMValueRef function = LLVMAddFunction(l->module, name, type);
  if (!exported) {
    LLVMSetLinkage(function, LLVMInternalLinkage);
    add_flag(l, function, "noinline");
  }
  add_flag(l, function, "nounwind");
  add_attribute(l, function, "min-legal-vector-width", "512");
  add_attribute(l, function, "prefer-vector-width", "512");
  return function;
}

LLVMBasicBlockRef ll_block(ll *l, const char *name) {
  return LLVMAppendBasicBlockInContext(l->context, l->function, name);
}

LLVMValueRef ll_call(ll *l, LLVMValueRef function, LLVMValueRef *arguments, int count) {
  return LLVMBuildCall2(l->b, LLVMGlobalGetValueType(function), function, arguments, (unsigned)count, "");
}

void ll_loop_begin(ll *l, ll_loop *loop, const char *name, LLVMValueRef from, LLVMValueRef to, int64_t step,
                   LLVMValueRef *carried, int carried_count) {
  char label[128];
  loop->entry = LLVMGetInsertBlock(l->b);
  loop->to = to;
  loop->step = step;
  loop->carried_count = carried_count;
  snprintf(label, sizeof label, "%s", name);
  loop->body = ll_block(l, label);
  snprintf(label, sizeof label, "%s.end", name);
  loop->exit = ll_block(l, label);
  LLVMBuildCondBr(l->b, LLVMBuildICmp(l->b, LLVMIntSLT, from, to, ""), loop->body, loop->exit);
  LLVMPositionBuilderAtEnd(l->b, loop->body);
  loop->index = LLVMBuildPhi(l->b, l->i64, "i");
  LLVMAddIncoming(loop->index, &from, &loop->entry, 1);
  for (int i = 0; i < carried_count; i++) {
    loop->carried[i] = LLVMBuildPhi(l->b, LLVMTypeOf(carried[i]), "");
    LLVMAddIncoming(loop->carried[i], &carried[i], &loop->entry, 1);
  }
}

void ll_loop_end(ll *l, ll_loop *loop, LLVMValueRef *next) {
  LLVMBasicBlockRef latch = LLVMGetInsertBlock(l->b);
  LLVMValueRef index = ll_addi(l, loop->index, loop->step);
  LLVMAddIncoming(loop->index, &index, &latch, 1);
  for (int i = 0; i < loop->carried_count; i++) LLVMAddIncoming(loop->carried[i], &next[i], &latch, 1);
  LLVMBuildCondBr(l->b, LLVMBuildICmp(l->b, LLVMIntSLT, index, loop->to, ""), loop->body, loop->exit);
  LLVMPositionBuilderAtEnd(l->b, loop->exit);
  for (int i = 0; i < loop->carried_count; i++) {
    LLVMValueRef start = LLVMGetIncomingValue(loop->carried[i], 0);
    LLVMValueRef last = LLVMBuildPhi(l->b, LLVMTypeOf(start), "");
    LLVMAddIncoming(last, &start, &loop->entry, 1);
    LLVMAddIncoming(last, &next[i], &latch, 1);
    loop->carried[i] = last;
  }
}
