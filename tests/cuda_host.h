/* tests/cuda_host.h: the CUDA back end's text compiled for this machine (tests/cuda/host.hh) and run block by block. */
#ifndef DIPPER_TESTS_CUDA_HOST_H
#define DIPPER_TESTS_CUDA_HOST_H

#include "codegen/cuda/cuda.h"

typedef struct cuda_host cuda_host;

/* A mistake put into a text: every `from` becomes `to`. */
typedef struct cuda_bug {
  const char *from, *to;
} cuda_bug;

/* Compiles the texts of several programs as one library, with bugs (NULL: none) one a program. DP_NOT_FOUND when there
 * is no C++ compiler. */
dp_status cuda_host_new(const tile_program *const *programs, const cuda_bug *bugs, int count, cuda_host **host);
void cuda_host_free(cuda_host *host); /* NULL is fine */
/* One step of a program on so many blocks, which a seed interleaves. DP_BUG with what went wrong. */
dp_status cuda_host_run(const cuda_host *host, int program, const tile_step *step, int blocks, uint64_t seed);
/* An object of the program that tests/cuda/fake_driver.c runs, as if for that chip; malloc'ed. */
cg_object cuda_host_object(const cuda_host *host, int program, const char *chip);
cg_object cuda_host_image(const cuda_host *host, int program); /* for any */
/* The same of a function that need not be there. */
cg_object cuda_host_function(const tile_program *program, const char *chip, const char *library, const char *function);
/* As code for an engine, until the host is freed. */
void cuda_host_code(const cuda_host *host, int program, int blocks, uint64_t seed, tile_code *code);

#endif
