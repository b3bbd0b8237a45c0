/* codegen/cuda/driver.h: the little of CUDA's driver that a step needs. libcuda is opened at run time ($DIPPER_LIBCUDA,
 * else libcuda.so.1); its prototypes are declared in driver.c. A gpu is used by one thread at a time. */
#ifndef DIPPER_CODEGEN_CUDA_DRIVER_H
#define DIPPER_CODEGEN_CUDA_DRIVER_H

#include "base/base.h"

typedef uint64_t cuda_address; /* of the device's memory; 0: none */

typedef struct cuda_device {
  char name[128];
  int major, minor; /* compute capability */
  int processors;   /* SMs */
  int64_t memory;   /* bytes */
  int shared_bytes; /* that a block can have */
} cuda_device;

/* The driver's devices: *list is malloc'ed, of *count. DP_NOT_FOUND when there is no driver or no device,
 * DP_UNSUPPORTED when the driver is too old: both say what to do. */
dp_status cuda_list_devices(cuda_device **list, int *count);
/* The architecture to compile for: "sm_80" for 8.x, "sm_90a", "sm_100a"; at most 15 characters. */
void cuda_arch(const cuda_device *device, char arch[16]);

typedef struct cuda_gpu cuda_gpu;
dp_status cuda_open(int device, cuda_gpu **gpu);
void cuda_close(cuda_gpu *gpu); /* NULL is fine; frees what was loaded and allocated */
const cuda_device *cuda_device_of(const cuda_gpu *gpu);

/* A cubin or PTX; one a gpu. */
dp_status cuda_load_module(cuda_gpu *gpu, const void *image);
/* Runs the module's kernel `name` to its end on `blocks` blocks, all resident at once; `argument` is its only one. */
dp_status cuda_run_kernel(cuda_gpu *gpu, const char *name, int blocks, int threads, int64_t shared_bytes,
                          void *argument);

/* `what` for the message when the device's memory does not suffice. */
dp_status cuda_allocate(cuda_gpu *gpu, int64_t bytes, const char *what, cuda_address *address);
void cuda_release(cuda_gpu *gpu, cuda_address address);
dp_status cuda_put(cuda_gpu *gpu, cuda_address to, const void *from, int64_t bytes);
dp_status cuda_get(cuda_gpu *gpu, void *to, cuda_address from, int64_t bytes);
dp_status cuda_move(cuda_gpu *gpu, cuda_address to, cuda_address from, int64_t bytes);
dp_status cuda_clear(cuda_gpu *gpu, cuda_address at, int64_t bytes);

#endif
