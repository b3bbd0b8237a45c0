/* tests/cuda/fake_driver.h: what a test asks of the stand-in, by dlsym. FAKE_CUDA says what is wrong, words with commas
 * between them: "none" (there is no device), "old" (compute capability 7.5), "8.6" (that capability; else it is 9.0),
 * "driver=VERSION" (11040, as without a number: of CUDA 11.4), "memory=BYTES", "hang" (kernels do not end), "NAME:N=ERROR" (the N-th call of a
 * function fails, counted from fake_cuda_begin on). */
#ifndef DIPPER_TESTS_FAKE_DRIVER_H
#define DIPPER_TESTS_FAKE_DRIVER_H

#include <stddef.h>

typedef struct fake_cuda_state {
  int contexts, current; /* that live; on the thread's stack */
  int allocations, pinned, streams, events, modules;
  size_t most_bytes;    /* of the device, at once */
  long copies, kernels; /* done */
} fake_cuda_state;
typedef fake_cuda_state fake_cuda_look(void);  /* fake_cuda_get_state */
typedef int fake_cuda_count(const char *name); /* fake_cuda_calls: of a function, since fake_cuda_begin */
typedef const char *fake_cuda_list(int index); /* fake_cuda_name: of the functions; NULL behind the last */
typedef void fake_cuda_reset(void);            /* fake_cuda_begin: what the process had of the driver is gone */

#endif
