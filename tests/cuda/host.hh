// tests/cuda/host.hh: what prelude/gpu.cuh gives on a GPU, on this machine: the text of a step as C++, to be included
// in a namespace after this file. One fiber a thread of a block, all on one thread of the system. A seed says which
// thread runs next, where it is interrupted, how long a block goes on, and whether an asynchronous copy lands at once,
// as late as the text allows, or in between. What lies in shared memory at first is NaN. A step ends with NULL, or with
// what went wrong: a deadlock, threads that come to different barriers, a copy that is not aligned or not into shared
// memory.
//
// With HOST_CHECKED every access of the text to memory is looked at (check.hh), and may be where a thread is
// interrupted.
#ifndef DIPPER_TESTS_CUDA_HOST_HH
#define DIPPER_TESTS_CUDA_HOST_HH

#define DIPPER_HOST 1
#include "fiber.hh"
#include "region.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

// ---- the machine

enum { HOST_STACK = 65536, HOST_COPIES = 512, HOST_GROUPS = 64, HOST_WARP = 32, HOST_CALLS = 32 };
enum host_state { READY, AT_BARRIER, AT_LANES, SPINNING, DONE, STOPPED };
enum host_landing { EARLY, LATE, BETWEEN };

struct host_copy {
  char *to;
  const char *from;
  bool landed;
};

// What a thread knows of another block: all it did before `phase`, in that phase what `thread` did up to thread_step
// and what that thread's warp did before warp_step.
struct host_known {
  u32 phase, thread, thread_step, warp_step;
};

struct host_fiber {
  fiber_place place;
  char *stack;
  int thread;
  host_state state;
  int spins; // while it does nothing but wait: what it may still access without being called busy
  void (*warp_op)(void *const lanes[]); // where AT_LANES
  void *warp_args;
  host_copy copies[HOST_COPIES]; // a queue; group_end[g]: where the g-th closed group of it ends
  int copy_count, group_end[HOST_GROUPS], group_count;
  u32 step, warp_base;   // own steps within the block's phase; the first one after the last barrier of the warp
  bool has_known;        // has learned of other blocks since the block's last barrier
  host_known *known;     // [blocks]
  u32 calls[HOST_CALLS]; // where the functions under way were called
  int depth;
};

struct host_block {
  host_fiber *fibers;
  char *shared;
  int index, done;
  u32 phase;         // barriers passed
  host_known *known; // [blocks], as of the last barrier
  char *cells;       // of shared memory (check.hh)
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
  host_fiber *fiber; // NULL: the scheduler has the word
  char *memory;      // fibers and their stacks
  size_t memory_bytes;
  host_landing landing;
  u32 pause_every, access_every,
      sit_out;                // how often a thread is interrupted; one range of threads in so many sits a turn out
  i64 countdown;              // accesses until the next interruption
  struct host_shadow *shadow; // check.hh
};
static host_machine *machine;
static char host_report[1024];

HOST u64 host_random() {
  u64 x = machine->random += 0x9e3779b97f4a7c15ull;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ x >> 27) * 0x94d049bb133111ebull;
  return x ^ x >> 31;
}

HOST void host_leave(host_state state) {
  machine->fiber->state = state;
  switch_fiber(&machine->fiber->place, &machine->scheduler);
}

// Only the first thing that goes wrong is told. A thread does not go on after it.
HOST void host_stop(const char *error) {
  if (!machine->error) machine->error = error;
  if (machine->fiber) host_leave(STOPPED);
}

HOST bool one_in(u32 n) { return n && host_random() % n == 0; }

// A thread may be interrupted here. One that goes round a loop of waiting is not, or it would look busy.
HOST void host_pause() {
  machine->fiber->spins = 0;
  if (one_in(machine->pause_every)) host_leave(READY);
}

// What the checks see; nothing without them. `by`: the address of the code.
enum host_access { HOST_READ, HOST_WRITE, HOST_ATOMIC_READ, HOST_ATOMIC_WRITE, HOST_COPY_FROM, HOST_COPY_TO };
#define HOST_HERE __builtin_return_address(0)
#ifdef HOST_CHECKED
#include "check.hh"
#else
HOST void host_check(const void *, int, host_access, void *) {}
HOST void check_landing(host_copy *) {}
HOST void check_barrier(host_block *) {}
HOST void check_warp(host_fiber *) {}
HOST void check_acquire(const void *) {}
HOST void check_release(const void *) {}
#endif

#ifdef HOST_TSAN
extern "C" void __tsan_acquire(void *at);
extern "C" void __tsan_release(void *at);
extern "C" void __tsan_read_range(void *at, unsigned long bytes);
extern "C" void __tsan_write_range(void *at, unsigned long bytes);
extern "C" int __tsan_atomic32_load(const volatile int *at, int order);
extern "C" int __tsan_atomic32_fetch_add(volatile int *at, int value, int order);
#define ON_TSAN(...) __VA_ARGS__
#else
#define ON_TSAN(...)
#endif

HOST void host_enter() {
  arrive_in_fiber(&machine->scheduler);
  machine->run(machine->launch);
  if (machine->fiber->copy_count) host_stop("a thread ends with copies that it did not wait for");
  ON_TSAN(__tsan_release(machine);)
  host_leave(DONE);
  abort();
}

// ---- what the text calls

#define STEP_KERNEL(name) static void name(const Launch &launch)
#define OUT_OF_LINE
#define TASK_FUNCTION static
#define TABLE static const
#define OFFSET(type, field) __builtin_offsetof(type, field)

HOST int thread_index() { return machine->fiber->thread; }
HOST int block_index() { return machine->block->index; }
HOST int block_count() { return machine->block_count; }
HOST char *shared_memory() { return machine->block->shared; }
HOST void block_sync() {
  ON_TSAN(host_block *b = machine->block; __tsan_release(&b->phase);)
  host_leave(AT_BARRIER);
  ON_TSAN(__tsan_acquire(&b->phase);)
}

// A rendezvous of a warp. Each of the 32 lanes comes with the same op and with args of its own, which may lie on its
// stack; when all have come, op runs once with the args of lanes 0 to 31 and writes what each takes away into them. It
// orders no memory. An op that finds its lanes at odds calls host_stop.
typedef void host_warp_op(void *const lanes[]);
HOST void host_warp(host_warp_op *op, void *args) {
  machine->fiber->warp_op = op;
  machine->fiber->warp_args = args;
  host_leave(AT_LANES);
}

// A barrier of a warp, which does order its memory: what a lane wrote before it, all may read after it.
HOST void meet(void *const lanes[]) { check_warp((host_fiber *)lanes[0]); }
HOST void host_warp_sync() {
  ON_TSAN(void *warp = &machine->block->fibers[machine->fiber->thread / HOST_WARP * HOST_WARP]; __tsan_release(warp);)
  host_warp(meet, machine->fiber);
  ON_TSAN(__tsan_acquire(warp);)
}

struct host_shift {
  float value, taken;
  int by;
};
HOST void shift_lanes(void *const lanes[]) {
  for (int i = 0; i < HOST_WARP; i++) {
    host_shift *own = (host_shift *)lanes[i];
    if (own->by != ((host_shift *)lanes[0])->by) host_stop("lanes of a warp want different exchanges");
    own->taken = i % 16 + own->by < 16 ? ((host_shift *)lanes[i + own->by])->value : own->value;
  }
}
HOST float lane_down(float value, int by) {
  host_shift own = {value, value, by};
  host_warp(shift_lanes, &own);
  return own.taken;
}

HOST u32 read_acquire(const u32 *counter) {
  if (!machine->fiber->spins) host_pause();
  host_check(counter, 4, HOST_ATOMIC_READ, HOST_HERE);
  check_acquire(counter);
  ON_TSAN(return (u32)__tsan_atomic32_load((const volatile int *)counter, __ATOMIC_ACQUIRE);)
  return *(volatile const u32 *)counter;
}
HOST void add_release(u32 *counter) {
  host_pause();
  host_check(counter, 4, HOST_ATOMIC_WRITE, HOST_HERE);
  check_release(counter);
  ON_TSAN(__tsan_atomic32_fetch_add((volatile int *)counter, 1, __ATOMIC_ACQ_REL); return;)
  ++*(volatile u32 *)counter;
}
HOST void store_outside(int *to, int a, int b, int c, int d) {
  host_check(to, 16, HOST_WRITE, HOST_HERE);
  to[0] = a, to[1] = b, to[2] = c, to[3] = d;
}
HOST void spin() {
  machine->fiber->spins = 64;
  host_leave(SPINNING);
}

HOST void land(host_copy *copy) {
  if (copy->landed) return;
  ON_TSAN(__tsan_write_range(copy->to, 16);) // what it reads may be masked later: HOST_MASKED
  if (copy->from)
    memcpy(copy->to, copy->from, 16);
  else
    memset(copy->to, 0, 16);
  copy->landed = true;
}
HOST void land_some(host_fiber *f) {
  if (machine->landing != BETWEEN || !f->copy_count || !one_in(4)) return;
  land(&f->copies[host_random() % (u64)f->copy_count]);
}

// from NULL: zeros.
HOST void begin_copy(char *to, const char *from, void *code) {
  host_pause();
  host_fiber *f = machine->fiber;
  if ((size_t)to % 16 || (size_t)from % 16) host_stop("a copy is not aligned to 16 bytes");
  if (to < machine->block->shared || to + 16 > machine->block->shared + machine->shared_bytes)
    host_stop("a copy does not go to shared memory");
  if (f->copy_count == HOST_COPIES) host_stop("too many copies under way");
  if (from) host_check(from, 16, HOST_COPY_FROM, code);
  host_check(to, 16, HOST_COPY_TO, code);
  f->copies[f->copy_count++] = {to, from, false};
  if (machine->landing == EARLY) land(&f->copies[f->copy_count - 1]);
  land_some(f);
}
HOST void copy_16(void *shared, const void *global) { begin_copy((char *)shared, (const char *)global, HOST_HERE); }
// The address is one that could be copied from, whether or not it is.
HOST void copy_16_or_zeros(void *shared, const void *global, bool copy) {
  if (!copy) host_check(global, 1, HOST_COPY_FROM, HOST_HERE);
  if ((size_t)global % 16) host_stop("a copy is not aligned to 16 bytes");
  begin_copy((char *)shared, copy ? (const char *)global : NULL, HOST_HERE);
}
HOST void copy_close() {
  host_pause();
  host_fiber *f = machine->fiber;
  land_some(f);
  if (f->group_count == HOST_GROUPS) host_stop("too many groups of copies");
  f->group_end[f->group_count++] = f->copy_count;
}
HOST void copies_landed(int but) {
  host_pause();
  host_fiber *f = machine->fiber;
  int groups = f->group_count - but;
  if (groups <= 0) return;
  int count = f->group_end[groups - 1];
  for (int i = 0; i < count; i++) {
    land(&f->copies[i]);
    check_landing(&f->copies[i]);
  }
  memmove(f->copies, f->copies + count, sizeof(host_copy) * (size_t)(f->copy_count - count));
  f->copy_count -= count;
  for (int g = groups; g < f->group_count; g++) f->group_end[g - groups] = f->group_end[g] - count;
  f->group_count -= groups;
}
template <int N> HOST void copy_landed() { copies_landed(N); }
// What is asked for must at least be there.
HOST void ask_for(const void *global) {
  host_pause();
  host_check(global, 1, HOST_READ, HOST_HERE);
  (void)*(const volatile char *)global;
}

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
    if (f32_of_f16((u16)middle) <= size)
      low = middle;
    else
      high = middle;
  }
  float above = high == 0x7c00 ? 65536.0f : f32_of_f16((u16)high), down = size - f32_of_f16((u16)low),
        up = above - size;
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
HOST bool meet_lanes(host_block *b, int warp) {
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

// A turn of every thread that can go on, in an order of the seed, but for those that sit it out. True: something
// besides spinning took place.
HOST bool take_turns(host_block *b, bool spinning) {
  int threads = machine->threads, start = (int)(host_random() % (u64)threads),
      stride = (int)(host_random() % 64) * 2 + 1;
  int out = 0, first_out = (int)(host_random() % (u64)threads);
  if (one_in(machine->sit_out)) out = 1 + (int)(host_random() % (u64)(threads - 1));
  bool progress = false;
  for (int i = 0; i < threads && !machine->error; i++) {
    host_fiber *f = &b->fibers[(start + i * stride) % threads];
    bool spins = f->state == SPINNING;
    if (f->state == READY && (f->thread - first_out + threads) % threads < out) {
      progress = true;
      continue;
    }
    if (f->state != READY && !(spins && spinning)) continue;
    machine->fiber = f;
    switch_fiber(&machine->scheduler, &f->place);
    machine->fiber = NULL;
    progress |= f->state != SPINNING || !spins;
  }
  return progress;
}

HOST int count_in(const host_block *b, host_state state) {
  int count = 0;
  for (int i = 0; i < machine->threads; i++) count += b->fibers[i].state == state;
  return count;
}

// Until all threads wait, or in the midst of it another block's turn comes. True: something besides spinning took
// place.
HOST bool run_phase(host_block *b) {
  bool progress = false, again = true;
  machine->block = b;
  for (bool first = true; again && !machine->error; first = false) {
    progress |= take_turns(b, first);
    again = count_in(b, READY) > 0;
    for (int w = 0; w < machine->threads / HOST_WARP; w++) again |= meet_lanes(b, w);
    if (again && machine->block_count > 1 && one_in(16)) return true;
  }
  int at_barrier = count_in(b, AT_BARRIER), done = count_in(b, DONE);
  if (at_barrier && done) host_stop("some threads of a block wait at a barrier, others have ended");
  if (at_barrier == machine->threads) {
    for (int i = 0; i < machine->threads; i++) b->fibers[i].state = READY;
    check_barrier(b);
    b->phase++;
  }
  b->done = done == machine->threads;
  return progress;
}

// Blocks in an order of the seed, until all are done.
HOST void run_blocks() {
  int blocks = machine->block_count, left = blocks, idle = 0;
  while (left > 0 && !machine->error) {
    host_block *b = &machine->blocks[host_random() % (u64)blocks];
    if (b->done) continue;
    bool progress = false;
    for (u64 phases = 1 + host_random() % 8; phases > 0 && !b->done && !machine->error; phases--) {
      if (!run_phase(b)) break;
      progress = true;
    }
    left -= b->done;
    idle = progress ? 0 : idle + 1;
    if (idle > 200 * blocks) host_stop("deadlock: every block waits for a counter");
  }
}

// ---- a launch

HOST bool set_up_block(host_machine *m, int index, char *fibers, char *stacks, host_known *known) {
  host_block *b = &m->blocks[index];
  b->index = index;
  b->fibers = (host_fiber *)fibers + (size_t)index * m->threads;
  b->known = known + (size_t)index * (m->threads + 1) * m->block_count;
  b->shared = (char *)aligned_alloc(128, (m->shared_bytes + 127) / 128 * 128);
  if (!b->shared) return false;
  memset(b->shared, 0xff, m->shared_bytes);
  for (int t = 0; t < m->threads; t++) {
    host_fiber *f = &b->fibers[t];
    f->thread = t;
    f->stack = stacks + ((size_t)index * m->threads + t) * HOST_STACK;
    f->known = b->known + (size_t)(t + 1) * m->block_count;
    begin_fiber(&f->place, f->stack, HOST_STACK, host_enter);
  }
  return true;
}

// Fibers, what their threads know, and their stacks are one piece of memory.
HOST bool set_up(host_machine *m) {
  size_t fibers = (size_t)m->block_count * m->threads;
  size_t fiber_bytes = (fibers * sizeof(host_fiber) + 4095) / 4096 * 4096;
  size_t known_bytes = (fibers + m->block_count) * m->block_count * sizeof(host_known);
  known_bytes = (known_bytes + 4095) / 4096 * 4096;
  m->memory_bytes = fiber_bytes + known_bytes + fibers * HOST_STACK;
  m->memory =
      (char *)mmap(NULL, m->memory_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  m->blocks = (host_block *)calloc((size_t)m->block_count, sizeof *m->blocks);
  bool sound = m->memory != MAP_FAILED && m->blocks;
  for (int i = 0; sound && i < m->block_count; i++)
    sound =
        set_up_block(m, i, m->memory, m->memory + fiber_bytes + known_bytes, (host_known *)(m->memory + fiber_bytes));
  return sound;
}

HOST void tear_down(host_machine *m) {
  for (int i = 0; m->blocks && i < m->block_count; i++) {
    for (int t = 0; m->blocks[i].fibers && t < m->threads; t++) end_fiber(&m->blocks[i].fibers[t].place);
    free(m->blocks[i].shared);
  }
  free(m->blocks);
  if (m->memory != MAP_FAILED) munmap(m->memory, m->memory_bytes);
}

// How threads take turns in this launch.
HOST void choose_manners(host_machine *m) {
  static const u32 pauses[] = {0, 64, 16, 4}, accesses[] = {0, 5000, 500, 50}, out[] = {0, 8, 2};
  m->landing = (host_landing)(host_random() % 3);
  m->pause_every = pauses[host_random() % 4];
  m->access_every = accesses[host_random() % 4];
  m->sit_out = out[host_random() % 3];
}

// regions: the memory of the launch, as far as the checks are to know it; without them they look at shared memory
// alone.
HOST const char *host_launch(void (*run)(const void *), const void *launch, int blocks, int threads,
                             size_t shared_bytes, u64 seed, const host_region *regions, int region_count) {
  host_machine m = {};
  m.block_count = blocks, m.threads = threads, m.shared_bytes = shared_bytes;
  m.random = seed, m.run = run, m.launch = launch;
  machine = &m;
  begin_from_here(&m.scheduler);
  choose_manners(&m);
  bool sound = set_up(&m);
#ifdef HOST_CHECKED
  sound = sound && open_shadow(regions, region_count);
#else
  (void)regions, (void)region_count;
#endif
  if (!sound) host_stop("no memory for a launch");
  run_blocks();
  ON_TSAN(__tsan_acquire(&m);)
#ifdef HOST_CHECKED
  close_shadow();
#endif
  tear_down(&m);
  machine = NULL;
  return m.error;
}
#endif
