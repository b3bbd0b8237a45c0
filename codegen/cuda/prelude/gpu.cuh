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
