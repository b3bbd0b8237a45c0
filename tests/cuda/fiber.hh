// tests/cuda/fiber.hh: fibers: places where a thread of a block goes on. On x86-64 a switch is a few pushes and pops;
// elsewhere it is ucontext's. Under a sanitizer (HOST_ASAN, HOST_TSAN) each switch is announced to it.
#ifndef DIPPER_TESTS_CUDA_FIBER_HH
#define DIPPER_TESTS_CUDA_FIBER_HH

#include <stddef.h>
#include <string.h>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

// The executor's own functions: where the compiler calls somebody at each access to memory, not at theirs.
#if defined(HOST_CHECKED) || defined(HOST_TSAN)
#define HOST static __attribute__((no_sanitize("thread")))
#else
#define HOST static
#endif

#if defined(HOST_ASAN)
extern "C" void __sanitizer_start_switch_fiber(void **save, const void *bottom, size_t bytes);
extern "C" void __sanitizer_finish_switch_fiber(void *save, const void **bottom, size_t *bytes);
#elif defined(HOST_TSAN)
extern "C" void *__tsan_get_current_fiber(void);
extern "C" void *__tsan_create_fiber(unsigned flags);
extern "C" void __tsan_destroy_fiber(void *fiber);
extern "C" void __tsan_switch_to_fiber(void *fiber, unsigned flags);
enum { HOST_NO_ORDER = 1 }; // a switch alone orders nothing
#endif

struct fiber_place {
#if defined(__x86_64__)
  void *top; // the stack pointer; what a call keeps lies on the stack
#else
  ucontext_t context;
#endif
  const void *stack; // known to the sanitizers
  size_t bytes;
  void *sanitizer;
};

#if defined(__x86_64__)
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
extern "C" void dipper_switch_fiber(void **from, void **to) __attribute__((visibility("hidden")));
HOST void leave_for(fiber_place *from, fiber_place *to) { dipper_switch_fiber(&from->top, &to->top); }
HOST void lay_out(fiber_place *place, char *stack, size_t bytes, void (*run)()) {
  void **top = (void **)(stack + bytes) - 2; // as after a call: 8 bytes off 16
  top[0] = (void *)run;
  top[1] = NULL;
  place->top = top - 6;
  memset(place->top, 0, 6 * sizeof(void *));
}
#else
HOST void leave_for(fiber_place *from, fiber_place *to) { swapcontext(&from->context, &to->context); }
HOST void lay_out(fiber_place *place, char *stack, size_t bytes, void (*run)()) {
  getcontext(&place->context);
  place->context.uc_stack.ss_sp = stack;
  place->context.uc_stack.ss_size = bytes;
  place->context.uc_link = NULL;
  makecontext(&place->context, run, 0);
}
#endif

HOST void begin_fiber(fiber_place *place, char *stack, size_t bytes, void (*run)()) {
  lay_out(place, stack, bytes, run);
  place->stack = stack;
  place->bytes = bytes;
#ifdef HOST_TSAN
  place->sanitizer = __tsan_create_fiber(0);
#endif
}

HOST void end_fiber(fiber_place *place) {
#ifdef HOST_TSAN
  __tsan_destroy_fiber(place->sanitizer);
#endif
  place->sanitizer = NULL;
}

// The place that fibers come from, on the stack of whoever calls.
HOST void begin_from_here(fiber_place *place) {
  *place = fiber_place();
#ifdef HOST_TSAN
  place->sanitizer = __tsan_get_current_fiber();
#endif
}

// A fiber's first words: the switch that brought it here is over. `from`: where it was left for this one.
HOST void arrive_in_fiber(fiber_place *from) {
#ifdef HOST_ASAN
  __sanitizer_finish_switch_fiber(NULL, &from->stack, &from->bytes);
#endif
  (void)from;
}

HOST void switch_fiber(fiber_place *from, fiber_place *to) {
#if defined(HOST_ASAN)
  void *frames;
  __sanitizer_start_switch_fiber(&frames, to->stack, to->bytes);
  leave_for(from, to);
  __sanitizer_finish_switch_fiber(frames, NULL, NULL);
#else
#ifdef HOST_TSAN
  __tsan_switch_to_fiber(to->sanitizer, HOST_NO_ORDER);
#endif
  leave_for(from, to);
#endif
}
#endif
