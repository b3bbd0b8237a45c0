/* tests/cuda/region.h: memory of a launch as the host executor's checks know it. Shared with C++. */
#ifndef DIPPER_TESTS_CUDA_REGION_H
#define DIPPER_TESTS_CUDA_REGION_H

#include <stddef.h>

enum {
  HOST_CONSTANT = 1, /* no thread writes it */
  HOST_EMPTY = 2,    /* holds nothing at first: what is read must have been written */
  HOST_POINTERS = 4, /* a table of pointers */
  HOST_MASKED = 8,   /* copies may take what is being written along: nobody uses it. NaN stands there at first */
};

typedef struct host_region {
  const char *name; /* of what, for reports */
  char *at;
  size_t bytes;
  int flags;
} host_region;

#endif
