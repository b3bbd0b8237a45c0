/* bench/gpu.h: private to bench/gpu*.c: the program that bench/gpu.py runs on a machine with a GPU.
 *   gpu.c        flags, figures: decode, prefill, batch, training, compile times
 *   gpu_check.c  checks: bits do not depend on company, chunks or the grid; the CPU's numbers
 * A part prints one JSON object on a line of its own. */
#ifndef DIPPER_BENCH_GPU_H
#define DIPPER_BENCH_GPU_H

#include "api/internal.h"

enum { MAX_SETS = 16, MAX_SAMPLES = 4096 };

typedef struct arguments {
  const char *part, *device, *arch, *dump;
  const char *sets[MAX_SETS];
  dp_options model;
  int64_t prompt, count, batch, repeat; /* tokens of a prompt, new tokens, sequences, repetitions at least */
  double seconds;                       /* that repetitions may take */
  bool train;
} arguments;

/* Seconds of the repetitions of one thing. */
typedef struct samples {
  double seconds[MAX_SAMPLES];
  int count;
} samples;
void add_sample(samples *s, double seconds);
void print_samples(const char *name, samples *s); /* "name":{"n", "median", "p10", "p90"}; sorts */

/* Token i of sequence s: an id below the vocabulary that depends on nothing else. */
int32_t token_of(const dp_model *model, int64_t sequence, int64_t i);
int64_t greatest(const float *row, int64_t count);
/* "cuda", "cpu" (its best back end) or "interp". */
dp_options options_on(const arguments *a, const char *device);
dp_status open_on(const arguments *a, const char *device, dp_model **model);

dp_status check_invariance(const arguments *a);
dp_status check_reference(const arguments *a);
dp_status check_integers(const arguments *a);

#endif
