/* runtime/host.h: what the program around lends to the runtime: memory for what is large, and an answer to whether to
 * go on. */
#ifndef DIPPER_RUNTIME_HOST_H
#define DIPPER_RUNTIME_HOST_H

#include <stdbool.h>
#include <stddef.h>

/* Each may be NULL. It outlives what was made with it. */
typedef struct rt_host {
  void *(*allocate)(void *user, size_t size, size_t alignment); /* as dp_callbacks has them */
  void (*release)(void *user, void *memory, size_t size, size_t alignment);
  bool (*go_on)(void *user); /* asked by the thread that called, about every RT_ASK_NS; false: DP_CANCELLED */
  void (*progress)(void *user, const char *stage, double fraction);
  void *user;
} rt_host;

enum { RT_ASK_NS = 5000000 };

#endif
