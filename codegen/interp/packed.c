/* codegen/interp/packed.c: packed matrices (tile.h, TILE_MATRIX): blocks of 64 rows, in each the 64 weights of one k
 * side by side, quantized types in runs of 32 k with their 64 scales first. Decoding is exact, or rounded once (q4_1).
 */
#include "codegen/interp/interp.h"

#include <math.h>
#include <string.h>

static uint16_t read_u16(const char *at) {
  uint16_t half;
  memcpy(&half, at, sizeof half);
  return half;
}

static float float_of_bits(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

/* Exact: subnormals become normal, infinities and NaNs stay. */
static float widen_f16(uint16_t half) {
  uint32_t sign = (uint32_t)(half & 0x8000) << 16, exponent = half >> 10 & 31, fraction = half & 1023;
  if (exponent == 31) return float_of_bits(sign | 0x7f800000u | fraction << 13);
  if (exponent == 0) return float_of_bits(sign | 0x3f800000u) * ((float)fraction * 0x1p-24f);
  return float_of_bits(sign | (exponent + 112) << 23 | fraction << 13);
}

int64_t interp_row_bytes(ir_dtype storage, int64_t k) {
  return k / ir_dtype_block_elements(storage) * ir_dtype_block_bytes(storage);
}

/* The weight of one k in one lane of a block. */
static float decode(ir_dtype storage, const char *block, int64_t k, int lane) {
  const char *plain = block + (k * TILE_BLOCK + lane) * ir_dtype_block_bytes(storage);
  const char *run = block + k / 32 * TILE_BLOCK * ir_dtype_block_bytes(storage);
  const char *d = run + lane * 2, *m = run + 2 * TILE_BLOCK + lane * 2;
  int64_t step = k % 32;
  float value;
  switch (storage) {
  case IR_f32:
    memcpy(&value, plain, sizeof value);
    return value;
  case IR_f16:
    return widen_f16(read_u16(plain));
  case IR_bf16:
    return float_of_bits((uint32_t)read_u16(plain) << 16);
  case IR_q8_0:
    return widen_f16(read_u16(d)) * (float)(int8_t)run[2 * TILE_BLOCK + step * TILE_BLOCK + lane];
  case IR_q4_0: {
    unsigned pair = (uint8_t)run[2 * TILE_BLOCK + step / 2 * TILE_BLOCK + lane];
    return widen_f16(read_u16(d)) * (float)((int)(step & 1 ? pair >> 4 : pair & 15) - 8);
  }
  case IR_q4_1: {
    unsigned pair = (uint8_t)run[4 * TILE_BLOCK + step / 2 * TILE_BLOCK + lane];
    return fmaf(widen_f16(read_u16(d)), (float)(step & 1 ? pair >> 4 : pair & 15), widen_f16(read_u16(m)));
  }
  default:
    return NAN;
  }
}

/* One k of one block for all rows: c[r, lane] += a[r] * weights[lane]. */
static inline __attribute__((always_inline)) void multiply_add_lanes(const float *weights, const float *a, int64_t lda,
                                                                     int64_t rows, float *c, int64_t ldc, int lanes) {
  for (int64_t r = 0; r < rows; r++)
    for (int lane = 0; lane < lanes; lane++)
      c[r * ldc + lane] = __builtin_fmaf(a[r * lda], weights[lane], c[r * ldc + lane]);
}

/* The same bits either way: libm's fmaf is exact, the instruction is quicker. */
static void multiply_add(const float *weights, const float *a, int64_t lda, int64_t rows, float *c, int64_t ldc,
                         int lanes) {
  multiply_add_lanes(weights, a, lda, rows, c, ldc, lanes);
}
#ifdef __x86_64__
__attribute__((target("fma"))) static void multiply_add_fma(const float *weights, const float *a, int64_t lda,
                                                            int64_t rows, float *c, int64_t ldc, int lanes) {
  multiply_add_lanes(weights, a, lda, rows, c, ldc, lanes);
}
#endif

void interp_product(ir_dtype storage, const char *w, int64_t block_bytes, int64_t k, const float *a, int64_t lda,
                    int64_t rows, float *c, int64_t ldc, int64_t cols) {
  void (*step)(const float *, const float *, int64_t, int64_t, float *, int64_t, int) = multiply_add;
#ifdef __x86_64__
  if (__builtin_cpu_supports("fma")) step = multiply_add_fma;
#endif
  for (int64_t n = 0; n < cols; n += TILE_BLOCK) {
    int lanes = cols - n < TILE_BLOCK ? (int)(cols - n) : TILE_BLOCK;
    const char *block = w + n / TILE_BLOCK * block_bytes;
    for (int64_t i = 0; i < k; i++) {
      float weights[TILE_BLOCK];
      for (int lane = 0; lane < lanes; lane++) weights[lane] = decode(storage, block, i, lane);
      step(weights, a + i, lda, rows, c + n, ldc, lanes);
    }
  }
}

void interp_embed(ir_dtype storage, const char *w, int64_t k, int64_t row, int64_t from, int64_t cols, float *to) {
  const char *block = w + row / TILE_BLOCK * TILE_BLOCK * interp_row_bytes(storage, k);
  for (int64_t i = 0; i < cols; i++) to[i] = decode(storage, block, from + i, (int)(row % TILE_BLOCK));
}
