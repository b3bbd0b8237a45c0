// ---- the machine: what a GPU gives. Another executor defines the same names before this text and DIPPER_HOST. -------
#ifndef DIPPER_HOST
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

#define STEP_KERNEL(name)                                                                                              \
  extern "C" __global__ void __launch_bounds__(THREADS, 1) name(const __grid_constant__ Launch launch)
#define OUT_OF_LINE __noinline__ // one copy of what several call: the compiler's time goes with the size of the text
#define TASK_FUNCTION static __device__ __noinline__
#define TABLE static __constant__ const

#define OFFSET(type, field) ((u64)__INTADDR__(&((type *)0)->field))

static int thread_index() { return (int)threadIdx.x; }
static int block_index() { return (int)blockIdx.x; }
static int block_count() { return (int)gridDim.x; }
static char *shared_memory() {
  extern __shared__ __align__(128) char shared[];
  return shared;
}

// All threads of the block, and what they wrote.
static void block_sync() { __syncthreads(); }
// The value of the lane `by` further up among 16; every lane of the warp takes part.
static float lane_down(float value, int by) { return __shfl_down_sync(0xffffffffu, value, by, 16); }

// Counters: one thread reads until what it reads is enough, then a block_sync hands what it has acquired to the block.
static u32 read_acquire(const u32 *counter) {
  u32 value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(counter) : "memory");
  return value;
}
// One thread, after a block_sync: the fence is cumulative, so it releases what the whole block wrote.
static void add_release(u32 *counter) {
  asm volatile("fence.acq_rel.gpu;\n\tred.relaxed.gpu.global.add.u32 [%0], 1;" ::"l"(counter) : "memory");
}
// Four words at once into memory of the host, past the caches: whoever reads them may do so after a fault.
static void store_outside(int *to, int a, int b, int c, int d) {
  asm volatile("st.global.wt.v4.s32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(a), "r"(b), "r"(c), "r"(d) : "memory");
}
static void spin() { __nanosleep(20); }

// Asynchronous copies of 16 bytes into shared memory, in groups that a thread closes; landed<N>: all of this thread's but
// the last N groups have.
static void copy_16(void *shared, const void *global) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"((u32)__cvta_generic_to_shared(shared)), "l"(global)
               : "memory");
}
// The same, or zeros; the address is one that could be copied from.
static void copy_16_or_zeros(void *shared, const void *global, bool copy) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"((u32)__cvta_generic_to_shared(shared)), "l"(global),
               "r"(copy ? 16 : 0)
               : "memory");
}
static void copy_close() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N> static void copy_landed() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }
static void ask_for(const void *global) { asm volatile("prefetch.global.L2 [%0];" ::"l"(global)); }

static float f32_of_bits(u32 bits) { return __uint_as_float(bits); }
static u32 bits_of_f32(float x) { return __float_as_uint(x); }
static u64 bits_of_f64(double x) { return (u64)__double_as_longlong(x); }
static float f32_of_f16(u16 half) {
  float x;
  asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(half));
  return x;
}
static u16 f16_of_f32(float x) {
  u16 half;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half) : "f"(x));
  return half;
}

// ---- the matrix units. All lanes of a warp, and what they wrote to shared memory:
static void warp_sync() { __syncwarp(); }

// Four matrices of 8 x 8 elements of 2 bytes: lane l names row l % 8 of matrix l / 8, 16 bytes of shared memory, and gets of
// each matrix two elements of row l / 4, those of columns l % 4 * 2 and the next; `turned`: of column l / 4, rows l % 4 * 2 ...
static void load_matrices(u32 *to, const void *row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"((u32)__cvta_generic_to_shared(row))
               : "memory");
}
static void load_matrices_turned(u32 *to, const void *row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"((u32)__cvta_generic_to_shared(row))
               : "memory");
}

// c[16, 8] += a[16, 16] b[16, 8], in fragments: lane l has of c rows l / 4 and l / 4 + 8 of columns l % 4 * 2 and the next.
static void multiply_f16(float *c, const u32 *a, u32 b0, u32 b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
static void multiply_bf16(float *c, const u32 *a, u32 b0, u32 b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// Two numbers rounded to nearest even, the first in the lower half.
static u32 pair_of_f16(float low, float high) {
  u32 pair;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
static u32 pair_of_bf16(float low, float high) {
  u32 pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

// Every operation rounds once, to nearest even; nothing is contracted (the compiler is also told --fmad=false).
#define ADD(x, y) __fadd_rn(x, y)
#define SUB(x, y) __fsub_rn(x, y)
#define MUL(x, y) __fmul_rn(x, y)
#define DIV(x, y) __fdiv_rn(x, y)
#define FMA(x, y, z) __fmaf_rn(x, y, z)
#define SQRT(x) __fsqrt_rn(x)
#define ABS(x) fabsf(x)
#define ADDD(x, y) __dadd_rn(x, y)
#define MULD(x, y) __dmul_rn(x, y)
#define FMAD(x, y, z) __fma_rn(x, y, z)
#endif
