/* codegen/interp/tensor.c: products as matrix units do them (ir/tile.h): operands rounded to the weight's type, k in steps
 * of 16, in slices. */
#include "codegen/interp/interp.h"

#include <string.h>

bool interp_is_tensor(const tile_program *program, ir_dtype storage) { return program->tensor >> storage & 1; }

/* To f16, to nearest, ties to even. The upper bits by shifting; below 2^-14 by adding a number whose last bit is worth
 * as much as a subnormal's. */
uint16_t interp_half(float x) {
  uint32_t bits, magnitude;
  memcpy(&bits, &x, sizeof bits);
  magnitude = bits & 0x7fffffff;
  uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
  if (magnitude > 0x7f800000) return (uint16_t)(sign | 0x7e00 | (magnitude >> 13 & 0x3ff));
  if (magnitude >= 0x477ff000) return sign | 0x7c00; /* 65520 and above */
  if (magnitude < 0x38800000) {
    float small;
    memcpy(&small, &magnitude, sizeof small);
    small += 0.5f;
    memcpy(&magnitude, &small, sizeof magnitude);
    return (uint16_t)(sign | (magnitude - 0x3f000000));
  }
  return (uint16_t)(sign | ((magnitude + 0xfff + (magnitude >> 13 & 1) - 0x38000000) >> 13));
}

static float rounded(ir_dtype storage, float x) {
  uint32_t bits;
  if (storage == IR_f16) {
    uint16_t half = interp_half(x);
    return interp_weight(IR_f16, (const char *)&half, 0, 0);
  }
  memcpy(&bits, &x, sizeof bits);
  bits = (bits & 0x7fffffffu) > 0x7f800000u ? bits | 0x400000u : bits + 0x7fffu + (bits >> 16 & 1);
  bits &= 0xffff0000u;
  memcpy(&x, &bits, sizeof x);
  return x;
}

float interp_tensor_step(ir_dtype storage, float sum, const float *a, const float *b) {
  double products = 0;
  for (int i = 0; i < TILE_STEP; i++) products += (double)rounded(storage, a[i]) * (double)rounded(storage, b[i]);
  return (float)((double)sum + products);
}

typedef struct column { /* of the weights, under way for all rows */
  const interp_tensor *t;
  const float *a;
  int64_t lda;
  float *c, *part;
  int64_t ldc;
} column;

static void step_of_rows(const column *s, int64_t step, const float *weights, int64_t rows) {
  for (int64_t r = 0; r < rows; r++) {
    float x[TILE_STEP] = {0};
    for (int64_t i = 0; i < TILE_STEP && step * TILE_STEP + i < s->t->depth; i++)
      x[i] = s->a[r * s->lda + step * TILE_STEP + i];
    s->part[r] = interp_tensor_step(s->t->storage, s->part[r], x, weights);
  }
}

static void end_slice(const column *s, int64_t rows, bool first) {
  for (int64_t r = 0; r < rows; r++) {
    s->c[r * s->ldc] = first ? s->part[r] : s->c[r * s->ldc] + s->part[r];
    s->part[r] = 0;
  }
}

/* Column `lane` of a block. */
static void product_of_column(const column *s, const char *block, int lane, int64_t rows) {
  const interp_tensor *t = s->t;
  int64_t steps = (t->extent + TILE_STEP - 1) / TILE_STEP, slice = (steps + TILE_SLICES - 1) / TILE_SLICES;
  for (int64_t r = 0; r < rows; r++) s->part[r] = t->sliced ? 0 : s->c[r * s->ldc];
  for (int64_t step = 0; step < steps; step++) {
    float weights[TILE_STEP] = {0};
    for (int64_t i = 0; i < TILE_STEP && step * TILE_STEP + i < t->depth; i++)
      weights[i] = interp_weight(t->storage, block, step * TILE_STEP + i, lane);
    step_of_rows(s, step, weights, rows);
    if (t->sliced && ((step + 1) % slice == 0 || step + 1 == steps)) end_slice(s, rows, false);
  }
  if (!t->sliced) end_slice(s, rows, true);
}

enum { ROWS = 32 }; /* at a time */

void interp_tensor_product(const interp_tensor *t, const char *w, int64_t block_bytes, const float *a, int64_t lda,
                           int64_t rows, float *c, int64_t ldc, int64_t cols) {
  for (int64_t r = 0; r < rows; r += ROWS)
    for (int64_t n = 0; n < cols; n++) {
      float part[ROWS];
      column s = {t, a + r * lda, lda, c + r * ldc + n, part, ldc};
      product_of_column(&s, w + n / TILE_BLOCK * block_bytes, (int)(n % TILE_BLOCK), rows - r < ROWS ? rows - r : ROWS);
    }
}
