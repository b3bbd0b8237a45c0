/* codegen/cuda/run.h: a cubin as code for an engine. */
#ifndef DIPPER_CODEGEN_CUDA_RUN_H
#define DIPPER_CODEGEN_CUDA_RUN_H

#include "codegen/cuda/cuda.h"
#include "codegen/cuda/driver.h"

/* On the first device. The program must outlive the code. */
dp_status cuda_load(const tile_program *program, const cg_object *object, tile_code **code);
/* Scratch, so much of it a block, and counters. */
int64_t cuda_worker_bytes(const tile_program *program, const cuda_device *device, int64_t scratch_floats,
                          int64_t max_tokens);

#endif
