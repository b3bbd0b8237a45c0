/* codegen/interp/packed.c: packed matrices (tile.h, TILE_MATRIX; ir/packing.h): blocks of 64 rows, in each the 64 weights
 * of one k side by side. Decoding is exact, or rounded once (types with a minimum). */
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
  return ir_packed_row_bytes(storage, k);
}

static float decode_plain(ir_dtype storage, const char *at) {
  float value;
  if (storage == IR_f16) return widen_f16(read_u16(at));
  if (storage == IR_bf16) return float_of_bits((uint32_t)read_u16(at) << 16);
  memcpy(&value, at, sizeof value);
  return value;
}

/* Bits of element i in a plane of codes that begins at `lines`. */
static int code_bits(const uint8_t *lines, int bits, int64_t i) {
  int64_t elements = 8 / bits;
  return lines[i / elements * TILE_BLOCK] >> i % elements * bits & ((1 << bits) - 1);
}

/* Element i of a run of lines, in the lane that `run` points to. */
static float decode_line(const ir_packing *p, const uint8_t *run, const char *halves, int64_t i) {
  int64_t group = i / p->group, count = p->elements / p->group;
  int code = code_bits(run + p->low_at * TILE_BLOCK, p->low_bits, i);
  if (p->high_bits) code |= code_bits(run + p->high_at * TILE_BLOCK, p->high_bits, i) << p->low_bits;
  if (p->low_bits == 8) code = (int8_t)code;
  float q = (float)(p->table ? p->table[code] : code - (p->has_zero ? run[p->zero_at * TILE_BLOCK] : p->offset));
  float d = p->exponent ? float_of_bits(run[0] < 2 ? 0x200000u << run[0] : (uint32_t)(run[0] - 1) << 23)
                        : widen_f16(read_u16(halves));
  float m = p->has_minimum ? widen_f16(read_u16(halves + p->minimum_at * TILE_BLOCK)) : 0;
  const uint8_t *numbers = run + (p->groups_at + group) * TILE_BLOCK;
  if (p->groups == IR_GROUP_i8) d *= (float)(int8_t)numbers[0];
  if (p->groups == IR_GROUP_u8) d *= (float)numbers[0], m *= -(float)numbers[count * TILE_BLOCK];
  if (p->groups == IR_GROUP_nibbles) d *= (float)(numbers[0] & 15), m *= -(float)(numbers[0] >> 4);
  return p->has_minimum ? fmaf(d, q, m) : d * q;
}

typedef struct decoder {
  ir_dtype storage;
  ir_packing packing; /* of types with more than one element a block */
} decoder;

static decoder decoder_of(ir_dtype storage) {
  decoder d = {.storage = storage};
  if (ir_dtype_block_elements(storage) > 1) d.packing = ir_packing_of(storage);
  return d;
}

/* The weight of one k in one lane of a block. */
static float decode(const decoder *d, const char *block, int64_t k, int lane) {
  const ir_packing *p = &d->packing;
  if (p->lines == 0) return decode_plain(d->storage, block + (k * TILE_BLOCK + lane) * ir_dtype_block_bytes(d->storage));
  const char *run = block + k / p->elements * p->lines * TILE_BLOCK;
  return decode_line(p, (const uint8_t *)run + lane, run + 2 * lane, k % p->elements);
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
  decoder weight = decoder_of(storage);
  for (int64_t n = 0; n < cols; n += TILE_BLOCK) {
    int lanes = cols - n < TILE_BLOCK ? (int)(cols - n) : TILE_BLOCK;
    const char *block = w + n / TILE_BLOCK * block_bytes;
    for (int64_t i = 0; i < k; i++) {
      float weights[TILE_BLOCK];
      for (int lane = 0; lane < lanes; lane++) weights[lane] = decode(&weight, block, i, lane);
      step(weights, a + i, lda, rows, c + n, ldc, lanes);
    }
  }
}

float interp_weight(ir_dtype storage, const char *block, int64_t k, int lane) {
  decoder weight = decoder_of(storage);
  return decode(&weight, block, k, lane);
}

void interp_embed(ir_dtype storage, const char *w, int64_t k, int64_t row, int64_t from, int64_t cols, float *to) {
  decoder weight = decoder_of(storage);
  const char *block = w + row / TILE_BLOCK * TILE_BLOCK * interp_row_bytes(storage, k);
  for (int64_t i = 0; i < cols; i++) to[i] = decode(&weight, block, from + i, (int)(row % TILE_BLOCK));
}
