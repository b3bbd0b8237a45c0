/* codegen/cuda/device.h: functions of the vtable that need no compiler. */
#ifndef DIPPER_CODEGEN_CUDA_DEVICE_H
#define DIPPER_CODEGEN_CUDA_DEVICE_H

#include "codegen/codegen.h"

/* For people: a line for the driver and one for each device. *driver: its version, as cuda_find_driver has it, 0: none.
 * Fails when the first device cannot be used, and says why; lines of what there is are added all the same. */
dp_status cuda_report_devices(int *driver, dp_str *out);
dp_status cuda_choose(const char *const *targets, int count, int *index, dp_str *device);

/* Tasks as small as they come: a block has one at a time, and there are more blocks than a matrix has columns of tasks. */
extern const tile_target cuda_numbers;

#endif
