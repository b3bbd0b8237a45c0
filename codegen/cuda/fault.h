/* codegen/cuda/fault.h: where a step was when it failed. Device memory cannot be read after a fault, so each block
 * stores what it begins into pinned memory of the host: prelude/task.cuh's task_begins. */
#ifndef DIPPER_CODEGEN_CUDA_FAULT_H
#define DIPPER_CODEGEN_CUDA_FAULT_H

#include "codegen/cuda/cuda.h"

/* No block has begun. */
void cuda_reset_progress(cuda_progress *blocks, int count);
/* "group gate_up, layer 3, row tile 0, task 41, on block 17": of the tasks that blocks were at, or waited to begin, the
 * first in program order. All before it was done, so it is the one that does not end; of a fault it is the likeliest.
 */
void cuda_describe_progress(const tile_program *program, const cuda_progress *blocks, int count, dp_str *out);

#endif
