/* codegen/cuda/run.h: a cubin as code for an engine. */
#ifndef DIPPER_CODEGEN_CUDA_RUN_H
#define DIPPER_CODEGEN_CUDA_RUN_H

#include "codegen/cuda/cuda.h"
#include "codegen/cuda/driver.h"

/* On the first device. The program must outlive the code. DP_UNSUPPORTED for programs that train. */
dp_status cuda_load(const tile_program *program, const cg_object *object, tile_code **code);

#endif
