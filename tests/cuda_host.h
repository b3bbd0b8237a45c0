/* tests/cuda_host.h: the CUDA back end's text compiled for this machine (tests/cuda/host.hh) and run block by block. */
#ifndef DIPPER_TESTS_CUDA_HOST_H
#define DIPPER_TESTS_CUDA_HOST_H

#include "codegen/cuda/cuda.h"
#include "tests/cuda/region.h"

typedef struct cuda_host cuda_host;

/* A mistake put into a text: every `from` becomes `to`. */
typedef struct cuda_bug {
  const char *from, *to;
} cuda_bug;

/* How a library is compiled: plain, or with every access to memory looked at (tests/cuda/check.hh), a few times slower. */
typedef enum cuda_host_mode { CUDA_HOST_PLAIN, CUDA_HOST_CHECKED } cuda_host_mode;

/* A program of a library. */
typedef struct cuda_host_part {
  const tile_program *program;
  cuda_bug bug;     /* from: NULL: none */
  const char *more; /* NULL, or text after the program's, with a STEP_KERNEL(own_step) that runs in place of its entries */
} cuda_host_part;

/* Compiles the texts of several programs as one library. DP_NOT_FOUND when there is no C++ compiler. */
dp_status cuda_host_build(const cuda_host_part *parts, int count, cuda_host_mode mode, cuda_host **host);
/* A plain one, with bugs (NULL: none) one a program. */
dp_status cuda_host_new(const tile_program *const *programs, const cuda_bug *bugs, int count, cuda_host **host);
void cuda_host_free(cuda_host *host); /* NULL is fine */
/* One step of a program on so many blocks, which a seed interleaves. DP_BUG with what went wrong. */
dp_status cuda_host_run(const cuda_host *host, int program, const tile_step *step, int blocks, uint64_t seed);
/* As above; activations and results hold nothing at first, so that to read what the step did not write is a mistake. */
dp_status cuda_host_run_fresh(const cuda_host *host, int program, const tile_step *step, int blocks, uint64_t seed);
/* An object of the program that tests/cuda/fake_driver.c runs, as if for that chip; malloc'ed. */
cg_object cuda_host_object(const cuda_host *host, int program, const char *chip);
cg_object cuda_host_image(const cuda_host *host, int program); /* for any */
/* The same of a function that need not be there. */
cg_object cuda_host_function(const tile_program *program, const char *chip, const char *library, const char *function);
/* As code for an engine, until the host is freed. */
void cuda_host_code(const cuda_host *host, int program, int blocks, uint64_t seed, tile_code *code);
void cuda_host_code_fresh(const cuda_host *host, int program, int blocks, uint64_t seed, tile_code *code);

/* ---- parts that other executors of a launch use */

/* What a launch takes beside the step: counters of both kinds (the others full of ones), segments, scratch full of NaN. */
typedef struct cuda_host_memory {
  uint32_t *counters;
  int32_t *first_segment;
  float *scratch;
  uint32_t meeting[2]; /* of the blocks, between turns */
  int32_t *ended;
} cuda_host_memory;
dp_status cuda_host_prepare(const tile_program *program, const tile_step *step, int blocks, cuda_host_memory *memory,
                            cuda_launch *launch);
void cuda_host_release(cuda_host_memory *memory);
/* A launch whose memory is the caller's: those regions, apart from each other. */
dp_status cuda_host_launch(const cuda_host *host, int program, const cuda_launch *launch, int blocks, uint64_t seed,
                           const host_region *regions, int count);
/* One C++ file of them: behind `head`, each in a namespace p0, p1 ... */
dp_status cuda_host_source(const char *head, const cuda_host_part *parts, int count, dp_str *out);
const char *cuda_host_options(void); /* of the compiler, for the same bits */

#endif
