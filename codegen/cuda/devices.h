/* codegen/cuda/devices.h: what there is, for people. */
#ifndef DIPPER_CODEGEN_CUDA_DEVICES_H
#define DIPPER_CODEGEN_CUDA_DEVICES_H

#include "base/base.h"

/* A line for the driver and one for each device. *driver: its version, as cuda_find_driver has it, 0: none. Fails when
 * the first device cannot be used, and says why; lines of what there is are added all the same. */
dp_status cuda_report_devices(int *driver, dp_str *out);

#endif
