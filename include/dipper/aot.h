/* dipper/aot.h: ahead-of-time compilation: a model's text and the shapes of its weights to an object file, a program or a
 * shared library that needs neither dipper nor LLVM, and opening what was made so. docs/aot.md tells how it is put together.
 *
 * Thread rules and errors are dipper.h's: every function may be called from any thread, on different objects at once. */
#ifndef DIPPER_AOT_H
#define DIPPER_AOT_H

#include "dipper/dipper.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum dp_emit {
  DP_EMIT_OBJECT,     /* the ELF object of the model's functions, the bytes that the JIT loads; one target */
  DP_EMIT_EXECUTABLE, /* a command: `launcher` with the model at its end */
  DP_EMIT_LIBRARY,    /* the same of a shared library with the C interface that DP_EMIT_HEADER writes */
  DP_EMIT_HEADER,     /* that interface as a C header with this model's dimensions */
  DP_EMIT_WEIGHTS,    /* the weights packed for the model's program: mapped as they are, shared between processes */
  DP_EMIT_CU,         /* the program for a GPU as CUDA C */
  DP_EMIT_PTX,        /* as PTX */
  DP_EMIT_CUBIN,      /* as a cubin; these three of one GPU target at most, without one for the first device, else sm_80 */
} dp_emit;

/* Zero-initialize; strings need to live only for the call. */
typedef struct dp_compilation {
  dp_emit emit;
  const char *const *targets; /* CPUs by name: "x86-64-v3", "znver4", "aarch64"; without one, this machine's. GPUs' chips:
                                 "sm_80" (all 8.x), "sm_90a", "sm_100a"; "ptx": for chips without code of their own */
  int target_count;           /* several: each has its object, and the best that runs is taken at the start */
  /* For each target, as it is done: bytes and seconds, and for a chip registers, memory and spills; NULL: not told. */
  void (*on_report)(void *user, const char *text);
  void *user;
  const char *launcher;       /* of EXECUTABLE and LIBRARY: the file to begin with, which dipper's build made */
  bool embed;                 /* EXECUTABLE and LIBRARY: the weights and what their file says of tokens are put inside */
} dp_compilation;

/* Writes `path`, atomically. Of `options` path, weights, sets, plan, kv_type and threads count; weights (a file, or
 * random:SEED) give dimensions and storage types, and must be there for `embed` and WEIGHTS. Without them: the text's
 * dimensions and f32.
 * DP_INVALID: a mistake in the text, an unknown target (the message lists those there are), a launcher for another machine;
 * DP_UNSUPPORTED: a build without LLVM, an adapter; DP_NOT_FOUND: no NVRTC, which code for GPUs is compiled by; DP_IO,
 * DP_NO_MEMORY. */
dp_status dp_compile(const dp_options *options, const dp_compilation *how, const char *path);

/* Opens the model that `path` (an executable or library of dp_compile; "/proc/self/exe": this program) carries. Of `options`
 * weights, tokenizer, threads, context, step_tokens and device count; device NULL is auto: the first GPU where there is code
 * in it that serves it, else the CPU (dp_model_info's device and note tell). Its weights are, in this order: options->weights (a file of
 * packed weights, GGUF, safetensors, random:SEED), those inside, `beside` + ".weights", the file it was compiled for in the
 * directory of `beside`. beside: NULL: as `path`.
 * DP_NOT_FOUND: no model or no weights, no GPU for device "cuda"; DP_INVALID: damaged, or other weights than it was compiled
 * for; DP_UNSUPPORTED: no code in it runs on this CPU, or of "cuda" on that GPU, or it is of another version. */
dp_status dp_model_open_package(const char *path, const char *beside, const dp_options *options, dp_model **model);

#ifdef __cplusplus
}
#endif

#endif
