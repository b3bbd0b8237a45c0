/* codegen/interp/scalar.c: the elementwise functions of codegen/scalar.inc on plain floats. Compiled without
 * contraction: every operation rounds once, where it stands. */
#include "codegen/codegen.h"
#include "codegen/interp/interp.h"

#include <math.h>
#include <string.h>

static float pow2(float t) {
  uint32_t bits;
  memcpy(&bits, &t, sizeof bits);
  bits = (bits + 127) << 23;
  memcpy(&t, &bits, sizeof bits);
  return t;
}

static float exponent_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return (float)((int32_t)(bits >> 23 & 255) - 127);
}

static float fraction_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  bits = (bits & 0x7fffff) | 0x3f800000;
  memcpy(&x, &bits, sizeof x);
  return x;
}

static uint64_t bits_of(double t) {
  uint64_t bits;
  memcpy(&bits, &t, sizeof bits);
  return bits;
}

#define VALUE float
#define DOUBLE double
#define CONTEXT
#define ARGUMENT
#define K(c) ((float)(c))
#define KD(c) ((double)(c))
#define ADD(x, y) ((x) + (y))
#define SUB(x, y) ((x) - (y))
#define MUL(x, y) ((x) * (y))
#define DIV(x, y) ((x) / (y))
#define NEG(x) (-(x))
#define FMA(x, y, z) fmaf(x, y, z)
#define SQRT(x) sqrtf(x)
#define ABS(x) fabsf(x)
#define LESS(a, b, then, otherwise) ((a) < (b) ? (then) : (otherwise))
#define POW2(t) pow2(t)
#define EXPONENT(x) exponent_of(x)
#define FRACTION(x) fraction_of(x)
#define WIDEN(x) ((double)(x))
#define NARROW(d) ((float)(d))
#define ADDD(x, y) ((x) + (y))
#define MULD(x, y) ((x) * (y))
#define FMAD(x, y, z) fma(x, y, z)
#define SELECT_ODD(t, a, b) (bits_of(t) & 1 ? (a) : (b))
#define NEGATE_BIT1(t, a) (bits_of(t) & 2 ? -(a) : (a))
#include "codegen/scalar.inc"

#define CALL1(name) return scalar_##name(x)
#define CALL2(name) return scalar_##name(x, y)
float interp_scalar(tile_opcode code, float x, float y) {
  switch (code) {
#define SCALAR(name, arguments, doc)                                                                                   \
  case TILE_##name:                                                                                                    \
    CALL##arguments(name);
#include "ir/scalar.def"
#undef SCALAR
  default:
    return NAN;
  }
}

/* As the tile ops of its rule define it: the maximum, e^(x - maximum) summed by 16 lanes and the tree, its logarithm. */
float interp_log_sum_exp(const float *x, int64_t count) {
  float greatest = -INFINITY, lanes[TILE_LANES] = {0};
  for (int64_t i = 0; i < count; i++) greatest = scalar_max(greatest, x[i]);
  for (int64_t i = 0; i < count; i++) lanes[i % TILE_LANES] += scalar_exp(x[i] - greatest);
  for (int width = TILE_LANES / 2; width >= 1; width /= 2)
    for (int i = 0; i < width; i++) lanes[i] += lanes[i + width];
  return greatest + scalar_log(lanes[0]);
}
