/* codegen/log_sum_exp.c: the op of that name on one row, for callers outside a program: sampling asks for it once a token.
 * Where the processor has them by 16 lanes in vectors, with the bits of the interpreter's definition. */
#include "codegen/codegen.h"
#include "codegen/interp/interp.h"

#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__)
#define HAS_LANES 1
#include <immintrin.h>
#include <math.h>

#pragma GCC push_options
#pragma GCC target("avx2,fma")

#define VALUE __m256
#define CONTEXT
#define K(c) _mm256_set1_ps(c)
#define SUB(x, y) _mm256_sub_ps(x, y)
#define MUL(x, y) _mm256_mul_ps(x, y)
#define FMA(x, y, z) _mm256_fmadd_ps(x, y, z)
#define LESS(a, b, then, otherwise) _mm256_blendv_ps(otherwise, then, _mm256_cmp_ps(a, b, _CMP_LT_OQ))
#define POW2(t) \
  _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_castps_si256(t), _mm256_set1_epi32(127)), 23))
#include "codegen/scalar_exp.inc"

/* The last lanes that no number falls on add nothing: e^-inf is 0, and x + 0 has x's bits, for x is no -0. */
static float log_sum_exp_by_lanes(const float *x, int64_t count) {
  float rest[TILE_LANES], lanes[TILE_LANES], greatest = -INFINITY;
  int64_t whole = count / TILE_LANES * TILE_LANES;
  for (int i = 0; i < TILE_LANES; i++) rest[i] = whole + i < count ? x[whole + i] : -INFINITY;
  __m256 top[2] = {_mm256_loadu_ps(rest), _mm256_loadu_ps(rest + 8)}, sum[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
  for (int64_t c = 0; c < whole; c += TILE_LANES)
    for (int h = 0; h < 2; h++) { /* a NaN leaves no trace in the maximum, as in the definition */
      __m256 here = _mm256_loadu_ps(x + c + 8 * h);
      top[h] = LESS(top[h], here, here, top[h]);
    }
  _mm256_storeu_ps(lanes, LESS(top[0], top[1], top[1], top[0]));
  for (int i = 0; i < 8; i++) greatest = greatest < lanes[i] ? lanes[i] : greatest;
  for (int64_t c = 0; c < whole; c += TILE_LANES)
    for (int h = 0; h < 2; h++)
      sum[h] = _mm256_add_ps(sum[h], scalar_exp(SUB(_mm256_loadu_ps(x + c + 8 * h), K(greatest))));
  for (int h = 0; h < 2 && whole < count; h++)
    sum[h] = _mm256_add_ps(sum[h], scalar_exp(SUB(_mm256_loadu_ps(rest + 8 * h), K(greatest))));
  _mm256_storeu_ps(lanes, sum[0]);
  _mm256_storeu_ps(lanes + 8, sum[1]);
  for (int width = TILE_LANES / 2; width >= 1; width /= 2)
    for (int i = 0; i < width; i++) lanes[i] += lanes[i + width];
  return greatest + interp_scalar(TILE_log, lanes[0], 0);
}

#pragma GCC pop_options
#endif

float cg_log_sum_exp(const float *x, int64_t count) {
#ifdef HAS_LANES
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return log_sum_exp_by_lanes(x, count);
#endif
  return interp_log_sum_exp(x, count);
}
