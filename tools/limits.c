/* tools/limits.c: the machine's limits. Reading: each thread adds up its part of a large buffer. Multiplying: chains of
 * fused multiply-adds over as many registers as hide their latency, by the widest vectors that the processor has. Both
 * are the best of a few tries: a limit is what was possible once. */
#include "tools/limits.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

enum { TRIES = 5, FMA_ROUNDS = 4000000, LINE = 64 };

static double seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* ---- multiplying: what every one of them does is `rounds` times 16 chains of x = x * a + b; 12 where there are 16 registers in
 * all, as a chain that does not lie in one waits for memory */

typedef float multiply_loop(int64_t rounds, float a, float b);

#define CHAINS12(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11)
#define CHAINS16(DO) CHAINS12(DO) DO(12) DO(13) DO(14) DO(15)
#define DEFINE_MULTIPLY(name, attribute, vector, spread, first, chains)                                                \
  attribute static float name(int64_t rounds, float a, float b) {                                                      \
    vector x[chains], va = spread(a), vb = spread(b);                                                                  \
    CHAINS##chains(SET_##name)                                                                                         \
    for (int64_t i = 0; i < rounds; i++) { CHAINS##chains(STEP_##name) }                                               \
    float sum = 0;                                                                                                     \
    for (int i = 0; i < chains; i++) sum += first(x[i]);                                                                 \
    return sum;                                                                                                        \
  }

#if defined(__x86_64__)
#define SET_multiply_avx512(i) x[i] = _mm512_set1_ps(b * (float)(i));
#define STEP_multiply_avx512(i) x[i] = _mm512_fmadd_ps(x[i], va, vb);
DEFINE_MULTIPLY(multiply_avx512, __attribute__((target("avx512f"))), __m512, _mm512_set1_ps, _mm512_cvtss_f32, 16)
#define SET_multiply_avx2(i) x[i] = _mm256_set1_ps(b * (float)(i));
#define STEP_multiply_avx2(i) x[i] = _mm256_fmadd_ps(x[i], va, vb);
DEFINE_MULTIPLY(multiply_avx2, __attribute__((target("avx2,fma"))), __m256, _mm256_set1_ps, _mm256_cvtss_f32, 12)
#define SET_multiply_plain(i) x[i] = _mm_set1_ps(b * (float)(i));
#define STEP_multiply_plain(i) x[i] = _mm_add_ps(_mm_mul_ps(x[i], va), vb);
DEFINE_MULTIPLY(multiply_plain, , __m128, _mm_set1_ps, _mm_cvtss_f32, 12)
#elif defined(__aarch64__)
#define FIRST_LANE(x) vgetq_lane_f32(x, 0)
#define SET_multiply_plain(i) x[i] = vdupq_n_f32(b * (float)(i));
#define STEP_multiply_plain(i) x[i] = vfmaq_f32(vb, x[i], va);
DEFINE_MULTIPLY(multiply_plain, , float32x4_t, vdupq_n_f32, FIRST_LANE, 16)
#else
#define SAME(x) (x)
#define SET_multiply_plain(i) x[i] = b * (float)(i);
#define STEP_multiply_plain(i) x[i] = x[i] * va + vb;
DEFINE_MULTIPLY(multiply_plain, , float, SAME, SAME, 12)
#endif

/* Dot products of what four bytes hold, 16 at a time: AVX512-BF16's and AVX512-VNNI's. */
#if defined(__x86_64__)
#define SET_dot_bf16(i) x[i] = _mm512_set1_ps(b * (float)(i));
#define STEP_dot_bf16(i) x[i] = _mm512_dpbf16_ps(x[i], pa, pb);
__attribute__((target("avx512f,avx512bf16"))) static float dot_bf16(int64_t rounds, float a, float b) {
  __m512 x[16];
  __m512bh pa = _mm512_cvtne2ps_pbh(_mm512_set1_ps(a), _mm512_set1_ps(b)), pb = pa;
  CHAINS16(SET_dot_bf16)
  for (int64_t i = 0; i < rounds; i++) { CHAINS16(STEP_dot_bf16) }
  float sum = 0;
  for (int i = 0; i < 16; i++) sum += _mm512_cvtss_f32(x[i]);
  return sum;
}
#define SET_dot_int8(i) x[i] = _mm512_set1_epi32(i);
#define STEP_dot_int8(i) x[i] = _mm512_dpbusd_epi32(x[i], pa, pb);
__attribute__((target("avx512f,avx512vnni"))) static float dot_int8(int64_t rounds, float a, float b) {
  __m512i x[16], pa = _mm512_set1_epi8((char)(a * 100)), pb = _mm512_set1_epi8((char)(b * 100));
  CHAINS16(SET_dot_int8)
  for (int64_t i = 0; i < rounds; i++) { CHAINS16(STEP_dot_int8) }
  int sum = 0;
  for (int i = 0; i < 16; i++) sum ^= _mm_cvtsi128_si32(_mm512_castsi512_si128(x[i]));
  return (float)sum;
}
#endif

/* NULL: there is no such instruction. */
static multiply_loop *dot_of(bool bf16) {
#if defined(__x86_64__)
  if (bf16) return __builtin_cpu_supports("avx512bf16") ? dot_bf16 : NULL;
  return __builtin_cpu_supports("avx512vnni") ? dot_int8 : NULL;
#else
  (void)bf16;
  return NULL;
#endif
}

/* elements: products and sums, each, of a round */
static multiply_loop *widest_multiply(int *elements, const char **how) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) {
    *elements = 16 * 16;
    *how = "AVX-512 fused multiply-add";
    return multiply_avx512;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    *elements = 12 * 8;
    *how = "AVX2 fused multiply-add";
    return multiply_avx2;
  }
  *elements = 12 * 4;
  *how = "SSE multiply, then add";
#elif defined(__aarch64__)
  *elements = 16 * 4;
  *how = "NEON fused multiply-add";
#else
  *elements = 12;
  *how = "scalar multiply, then add";
#endif
  return multiply_plain;
}

/* ---- reading */

/* Adds up 64-bit words, eight lines at a time in sums of their own. */
#define DEFINE_READ(name, attribute)                                                                                   \
  attribute static uint64_t name(const char *data, size_t size) {                                                      \
    typedef uint64_t line __attribute__((vector_size(LINE), aligned(LINE)));                                           \
    const line *from = (const line *)(const void *)data;                                                               \
    line a = {0}, b = {0}, c = {0}, d = {0};                                                                           \
    for (size_t i = 0; i + 4 <= size / LINE; i += 4) a += from[i], b += from[i + 1], c += from[i + 2], d += from[i + 3]; \
    a += b + c + d;                                                                                                    \
    return a[0] + a[1] + a[2] + a[3] + a[4] + a[5] + a[6] + a[7];                                                      \
  }
typedef uint64_t read_loop(const char *data, size_t size);
DEFINE_READ(read_plain, )
#if defined(__x86_64__)
DEFINE_READ(read_avx512, __attribute__((target("avx512f"))))
DEFINE_READ(read_avx2, __attribute__((target("avx2"))))
#endif

static read_loop *widest_read(void) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) return read_avx512;
  if (__builtin_cpu_supports("avx2")) return read_avx2;
#endif
  return read_plain;
}

/* ---- all threads at once */

typedef struct part {
  _Atomic int *start; /* 1: all threads are there; -1: one is missing */
  const char *data; /* NULL: multiply */
  size_t size;
  multiply_loop *multiply;
  double begin, end;
  volatile double result; /* so that no loop is idle work to the compiler */
} part;

static void *run_part(void *argument) {
  part *p = argument;
  int start;
  while ((start = atomic_load(p->start)) == 0) sched_yield();
  if (start < 0) return NULL;
  p->begin = seconds();
  p->result = p->data ? (double)widest_read()(p->data, p->size) : (double)p->multiply(FMA_ROUNDS, 0.5f, 0.25f);
  p->end = seconds();
  return NULL;
}

/* Seconds from the first thread's begin to the last one's end. */
static dp_status run_together(int threads, const char *data, size_t size, multiply_loop *multiply, double *took) {
  part *parts = calloc((size_t)threads, sizeof *parts);
  pthread_t *ids = calloc((size_t)threads, sizeof *ids);
  if (!parts || !ids) {
    free(parts);
    free(ids);
    return dp_fail(DP_NO_MEMORY, "no memory to measure the machine");
  }
  _Atomic int start = 0;
  size_t each = size / (size_t)threads / LINE * LINE;
  int started = 0;
  for (int i = 0; i < threads; i++)
    parts[i] = (part){.start = &start, .data = data ? data + (size_t)i * each : NULL, .size = each, .multiply = multiply};
  while (started < threads && pthread_create(&ids[started], NULL, run_part, &parts[started]) == 0) started++;
  atomic_store(&start, started == threads ? 1 : -1);
  for (int i = 0; i < started; i++) pthread_join(ids[i], NULL);
  double begin = parts[0].begin, end = parts[0].end;
  for (int i = 1; i < threads; i++) {
    if (parts[i].begin < begin) begin = parts[i].begin;
    if (parts[i].end > end) end = parts[i].end;
  }
  *took = end - begin;
  free(parts);
  free(ids);
  return started == threads ? DP_SUCCESS : dp_fail(DP_IO, "cannot start %d threads to measure the machine", threads);
}

static dp_status best_of(int threads, const char *data, size_t size, multiply_loop *multiply, double *took) {
  for (int i = 0; i < TRIES; i++) {
    double one = 0;
    DP_TRY(run_together(threads, data, size, multiply, &one));
    if (i == 0 || one < *took) *took = one;
  }
  return DP_SUCCESS;
}

static size_t buffer_size(void) {
  enum { LEAST = 256 << 20 };
  long cache = sysconf(_SC_LEVEL3_CACHE_SIZE);
  size_t size = cache > 0 ? 4 * (size_t)cache : 0;
  return size > LEAST ? size : LEAST;
}

/* Of so many products and as many sums a round. */
static double operations(int threads, int elements) { return 2.0 * elements * FMA_ROUNDS * threads; }

dp_status cli_measure_flop(int threads, cli_limits *limits) {
  *limits = (cli_limits){.threads = threads};
  int elements;
  double took = 1;
  multiply_loop *multiply = widest_multiply(&elements, &limits->flop_how);
  DP_TRY(best_of(threads, NULL, 0, multiply, &took));
  limits->flop_s = operations(threads, elements) / took;
  return DP_SUCCESS;
}

dp_status cli_measure_limits(int threads, cli_limits *limits) {
  DP_TRY(cli_measure_flop(threads, limits));
  limits->read_bytes = (int64_t)buffer_size();
  size_t size = (size_t)limits->read_bytes;
  char *data = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) return dp_fail(DP_NO_MEMORY, "no memory to measure the machine");
  madvise(data, size, MADV_HUGEPAGE);
  memset(data, 1, size); /* untouched pages would all be the same one, of zeros */
  double took = 1;
  dp_status status = best_of(threads, data, size, NULL, &took);
  munmap(data, size);
  if (status.code != DP_OK) return status;
  limits->read_bytes = (int64_t)size;
  limits->read_bytes_s = (double)size / took;
  double chains = operations(threads, 16);
  if (dot_of(true)) DP_TRY(best_of(threads, NULL, 0, dot_of(true), &took));
  if (dot_of(true)) limits->bf16_flop_s = chains * 32 / took;
  if (dot_of(false)) DP_TRY(best_of(threads, NULL, 0, dot_of(false), &took));
  if (dot_of(false)) limits->int8_op_s = chains * 64 / took;
  return DP_SUCCESS;
}
