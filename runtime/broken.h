/* runtime/broken.h: where a step's numbers stop being numbers. */
#ifndef DIPPER_RUNTIME_BROKEN_H
#define DIPPER_RUNTIME_BROKEN_H

#include "runtime/executor.h"

/* The first value, in program order, that is NaN or infinite. */
typedef struct rt_broken {
  const char *value, *made_by; /* buffer and task kind, the program's strings; NULL: there is none in what tasks store */
  int64_t layer;               /* -1: outside of the layers */
  bool back;                   /* in layers that are gone through from the last to the first */
  int64_t row, column;         /* of the step's tokens (or asked rows), of the value */
  float number;
} rt_broken;

/* Runs the step, task by task, until a value is broken. */
void rt_find_broken(rt_executor *executor, const tile_program *program, const tile_step *step, rt_broken *broken);

#endif
