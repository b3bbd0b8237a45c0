// tests/cuda/host.hh: what prelude/gpu.cuh gives on a GPU, on this machine: the text of a step as C++, to be included in a
// namespace after this file. One fiber a thread of a block, all on one thread of the system; blocks take turns, and a
// seed says which thread runs next and how long a block goes on. What lies in shared memory at first is NaN; asynchronous
// copies land as late as the text allows. A step ends with NULL, or with what went wrong: a deadlock, threads that come to
// different barriers, a copy that is not aligned or not into shared memory.
#ifndef DIPPER_TESTS_CUDA_HOST_HH
#define DIPPER_TESTS_CUDA_HOST_HH

#define DIPPER_HOST 1
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

// ---- fibers

#if defined(__x86_64__)
typedef void *fiber_place; // the stack pointer; what a call keeps lies on the stack
asm(R"(
.text
dipper_switch_fiber:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq (%rsi), %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");
extern "C" void dipper_switch_fiber(fiber_place *from, fiber_place *to) __attribute__((visibility("hidden")));
static void switch_fiber(fiber_place *from, fiber_place *to) { dipper_switch_fiber(from, to); }
static void begin_fiber(fiber_place *place, char *stack, size_t bytes, void (*run)()) {
  void **top = (void **)(stack + bytes) - 2; // as after a call: 8 bytes off 16
  top[0] = (void *)run;
  top[1] = NULL;
  *place = top - 6;
  memset(*place, 0, 6 * sizeof(void *));
}
#else
typedef ucontext_t fiber_place;
static void switch_fiber(fiber_place *from, fiber_place *to) { swapcontext(from, to); }
static void begin_fiber(fiber_place *place, char *stack, size_t bytes, void (*run)()) {
  getcontext(place);
  place->uc_stack.ss_sp = stack;
  place->uc_stack.ss_size = bytes;
  place->uc_link = NULL;
  makecontext(place, run, 0);
}
#endif

enum { HOST_STACK = 65536, HOST_COPIES = 512, HOST_WARP = 32 };
enum host_state { READY, AT_BARRIER, AT_LANES, SPINNING, DONE };

struct host_copy {
  char *to;
  const char *from;
};

struct host_fiber {
  fiber_place place;
  int thread;
  host_state state;
  void (*warp_op)(void *const lanes[]); // where AT_LANES
  void *warp_args;
  host_copy copies[HOST_COPIES]; // a queue; group_end[g]: where the g-th closed group of it ends
  int copy_count, group_end[64], group_count;
};

struct host_block {
  host_fiber *fibers;
  char *shared;
  int index, done;
};

struct host_machine {
  host_block *blocks;
  int block_count, threads;
  size_t shared_bytes;
  u64 random;
  const char *error;
  void (*run)(const void *launch);
  const void *launch;
  fiber_place scheduler;
  host_block *block;
  host_fiber *fiber;
  i64 switches;
};
static host_machine *machine;

static u64 host_random() {
  u64 x = machine->random += 0x9e3779b97f4a7c15ull;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ x >> 27) * 0x94d049bb133111ebull;
  return x ^ x >> 31;
}

static void host_stop(const char *error) {
  if (!machine->error) machine->error = error;
}

static void host_leave(host_state state) {
  machine->fiber->state = state;
  switch_fiber(&machine->fiber->place, &machine->scheduler);
}

static void host_enter() {
  machine->run(machine->launch);
  if (machine->fiber->copy_count) host_stop("a thread ends with copies that it did not wait for");
  host_leave(DONE);
  abort();
}

// ---- what the text calls

#define STEP_KERNEL(name) static void name(const Launch &launch)
#define OUT_OF_LINE
#define TASK_FUNCTION static
#define TABLE static const
#define OFFSET(type, field) __builtin_offsetof(type, field)

static int thread_index() { return machine->fiber->thread; }
static int block_index() { return machine->block->index; }
static int block_count() { return machine->block_count; }
static char *shared_memory() { return machine->block->shared; }
static void block_sync() { host_leave(AT_BARRIER); }

// A rendezvous of a warp. Each of the 32 lanes comes with the same op and with args of its own, which may lie on its
// stack; when all have come, op runs once with the args of lanes 0 to 31 and writes what each takes away into them. It
// orders no memory. An op that finds its lanes at odds calls host_stop.
typedef void host_warp_op(void *const lanes[]);
static void host_warp(host_warp_op *op, void *args) {
  machine->fiber->warp_op = op;
  machine->fiber->warp_args = args;
  host_leave(AT_LANES);
}

struct host_shift {
  float value, taken;
  int by;
};
static void shift_lanes(void *const lanes[]) {
  for (int i = 0; i < HOST_WARP; i++) {
    host_shift *own = (host_shift *)lanes[i];
    if (own->by != ((host_shift *)lanes[0])->by) host_stop("lanes of a warp want different exchanges");
    own->taken = i % 16 + own->by < 16 ? ((host_shift *)lanes[i + own->by])->value : own->value;
  }
}
static float lane_down(float value, int by) {
  host_shift own = {value, value, by};
  host_warp(shift_lanes, &own);
  return own.taken;
}
static u32 read_acquire(const u32 *counter) { return *(volatile const u32 *)counter; }
static void add_release(u32 *counter) { ++*(volatile u32 *)counter; }
static void store_outside(int *to, int a, int b, int c, int d) { to[0] = a, to[1] = b, to[2] = c, to[3] = d; }
static void spin() { host_leave(SPINNING); }

static void copy_16(void *shared, const void *global) {
  host_fiber *f = machine->fiber;
  char *to = (char *)shared;
  if ((size_t)to % 16 || (size_t)global % 16) host_stop("a copy is not aligned to 16 bytes");
  if (to < machine->block->shared || to + 16 > machine->block->shared + machine->shared_bytes)
    host_stop("a copy does not go to shared memory");
  else if (f->copy_count == HOST_COPIES)
    host_stop("too many copies under way");
  else
    f->copies[f->copy_count++] = {to, (const char *)global};
}
static void copy_16_or_zeros(void *shared, const void *global, bool copy) {
  copy_16(shared, global);
  if (!copy && machine->fiber->copy_count) machine->fiber->copies[machine->fiber->copy_count - 1].from = NULL;
}
static void copy_close() {
  host_fiber *f = machine->fiber;
  if (f->group_count == 64) {
    host_stop("too many groups of copies");
    return;
  }
  f->group_end[f->group_count++] = f->copy_count;
}
template <int N> static void copy_landed() {
  host_fiber *f = machine->fiber;
  int groups = f->group_count - N;
  if (groups <= 0) return;
  int count = f->group_end[groups - 1];
  for (int i = 0; i < count; i++) {
    if (f->copies[i].from)
      memcpy(f->copies[i].to, f->copies[i].from, 16);
    else
      memset(f->copies[i].to, 0, 16);
  }
  memmove(f->copies, f->copies + count, sizeof(host_copy) * (size_t)(f->copy_count - count));
  f->copy_count -= count;
  for (int g = groups; g < f->group_count; g++) f->group_end[g - groups] = f->group_end[g] - count;
  f->group_count -= groups;
}
// What is asked for must at least be there.
static void ask_for(const void *global) { (void)*(const volatile char *)global; }

static float f32_of_bits(u32 bits) {
  float x;
  memcpy(&x, &bits, 4);
  return x;
}
static u32 bits_of_f32(float x) {
  u32 bits;
  memcpy(&bits, &x, 4);
  return bits;
}
static u64 bits_of_f64(double x) {
  u64 bits;
  memcpy(&bits, &x, 8);
  return bits;
}
static float f32_of_f16(u16 half) {
  u32 sign = (u32)(half & 0x8000) << 16, exponent = half >> 10 & 31, fraction = half & 1023;
  if (exponent == 31) return f32_of_bits(sign | 0x7f800000u | fraction << 13);
  if (exponent == 0) return f32_of_bits(sign | 0x3f800000u) * ((float)fraction * 0x1p-24f);
  return f32_of_bits(sign | (exponent + 112) << 23 | fraction << 13);
}
// To nearest, ties to even: the candidate below in magnitude, and the one above, whichever is nearer.
static u16 f16_of_f32(float x) {
  u32 bits = bits_of_f32(x);
  u16 sign = (u16)(bits >> 16 & 0x8000);
  float size = f32_of_bits(bits & 0x7fffffffu);
  if (size != size) return (u16)(sign | 0x7e00);
  if (size >= 65520.0f) return (u16)(sign | 0x7c00);
  int low = 0, high = 0x7c00;
  while (high - low > 1) {
    int middle = (low + high) / 2;
    if (f32_of_f16((u16)middle) <= size) low = middle;
    else high = middle;
  }
  float above = high == 0x7c00 ? 65536.0f : f32_of_f16((u16)high), down = size - f32_of_f16((u16)low), up = above - size;
  return (u16)(sign | (up < down || (up == down && (low & 1)) ? high : low));
}

#include "tensor.hh"

#define ADD(x, y) ((x) + (y))
#define SUB(x, y) ((x) - (y))
#define MUL(x, y) ((x) * (y))
#define DIV(x, y) ((x) / (y))
#define FMA(x, y, z) __builtin_fmaf(x, y, z)
#define SQRT(x) __builtin_sqrtf(x)
#define ABS(x) __builtin_fabsf(x)
#define ADDD(x, y) ((x) + (y))
#define MULD(x, y) ((x) * (y))
#define FMAD(x, y, z) __builtin_fma(x, y, z)

// ---- turns

// The lanes of a warp that have all come.
static bool meet_lanes(host_block *b, int warp) {
  host_fiber *lane = &b->fibers[warp * HOST_WARP];
  void *args[HOST_WARP];
  int came = 0, gone = 0;
  for (int i = 0; i < HOST_WARP; i++) came += lane[i].state == AT_LANES, gone += lane[i].state == DONE;
  if (came && gone) host_stop("a lane has ended that others of its warp wait for");
  if (came < HOST_WARP) return false;
  for (int i = 0; i < HOST_WARP; i++) {
    if (lane[i].warp_op != lane->warp_op) host_stop("lanes of a warp come to different operations");
    args[i] = lane[i].warp_args;
    lane[i].state = READY;
  }
  if (machine->error) return false;
  lane->warp_op(args);
  return true;
}

// Every thread that can go on does, in an order of the seed, until all wait. True: something besides spinning took place.
static bool run_phase(host_block *b) {
  bool progress = false, again = true;
  machine->block = b;
  for (bool first = true; again && !machine->error; first = false) {
    int start = (int)(host_random() % (u64)machine->threads), stride = (int)(host_random() % 64) * 2 + 1;
    again = false;
    for (int i = 0; i < machine->threads && !machine->error; i++) {
      host_fiber *f = &b->fibers[(start + i * stride) % machine->threads];
      bool spins = f->state == SPINNING;
      if (f->state != READY && !(spins && first)) continue;
      machine->fiber = f;
      machine->switches++;
      switch_fiber(&machine->scheduler, &f->place);
      progress |= f->state != SPINNING || !spins;
    }
    for (int w = 0; w < machine->threads / HOST_WARP; w++) again |= meet_lanes(b, w);
  }
  int at_barrier = 0, done = 0;
  for (int i = 0; i < machine->threads; i++) {
    at_barrier += b->fibers[i].state == AT_BARRIER;
    done += b->fibers[i].state == DONE;
  }
  if (at_barrier && done) host_stop("some threads of a block wait at a barrier, others have ended");
  if (at_barrier == machine->threads)
    for (int i = 0; i < machine->threads; i++) b->fibers[i].state = READY;
  b->done = done == machine->threads;
  return progress;
}

static bool set_up(host_machine *m, char *memory) {
  for (int i = 0; i < m->block_count; i++) {
    host_block *b = &m->blocks[i];
    b->index = i;
    b->fibers = (host_fiber *)calloc((size_t)m->threads, sizeof *b->fibers);
    b->shared = (char *)aligned_alloc(128, (m->shared_bytes + 127) / 128 * 128);
    if (!b->fibers || !b->shared) return false;
    memset(b->shared, 0xff, m->shared_bytes);
    for (int t = 0; t < m->threads; t++) {
      b->fibers[t].thread = t;
      begin_fiber(&b->fibers[t].place, memory + ((size_t)i * m->threads + t) * HOST_STACK, HOST_STACK, host_enter);
    }
  }
  return true;
}

static const char *host_launch(void (*run)(const void *), const void *launch, int blocks, int threads,
                               size_t shared_bytes, u64 seed) {
  host_machine m = {};
  m.block_count = blocks, m.threads = threads, m.shared_bytes = shared_bytes;
  m.random = seed, m.run = run, m.launch = launch;
  m.blocks = (host_block *)calloc((size_t)blocks, sizeof *m.blocks);
  size_t stacks = (size_t)blocks * threads * HOST_STACK;
  char *memory = (char *)mmap(NULL, stacks, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  machine = &m;
  bool sound = m.blocks && memory != MAP_FAILED && set_up(&m, memory);
  if (!sound) host_stop("no memory for fibers");
  int left = blocks, idle = 0;
  while (left > 0 && !m.error) {
    host_block *b = &m.blocks[host_random() % (u64)blocks];
    if (b->done) continue;
    bool progress = false;
    for (u64 phases = 1 + host_random() % 8; phases > 0 && !b->done && !m.error; phases--) {
      if (!run_phase(b)) break;
      progress = true;
    }
    left -= b->done;
    idle = progress ? 0 : idle + 1;
    if (idle > 200 * blocks) host_stop("deadlock: every block waits for a counter");
  }
  for (int i = 0; m.blocks && i < blocks; i++) free(m.blocks[i].fibers), free(m.blocks[i].shared);
  free(m.blocks);
  if (memory != MAP_FAILED) munmap(memory, stacks);
  return m.error;
}
#endif
