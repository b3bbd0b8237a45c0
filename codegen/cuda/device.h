/* codegen/cuda/device.h: functions of the vtable that need no compiler. */
#ifndef DIPPER_CODEGEN_CUDA_DEVICE_H
#define DIPPER_CODEGEN_CUDA_DEVICE_H

#include "codegen/codegen.h"

dp_status cuda_list(dp_str *out);
dp_status cuda_choose(const char *const *targets, int count, int *index, dp_str *device);

/* Tasks as small as they come: a block has one at a time, and there are more blocks than a matrix has columns of tasks. */
extern const tile_target cuda_numbers;

#endif
