/* codegen/cuda/driver.h: the little of CUDA's driver that a step needs. libcuda is opened at run time ($DIPPER_LIBCUDA,
 * else libcuda.so.1); its prototypes are declared in driver_parts.h. A gpu is used by one thread at a time. It has a
 * context of its own: what else uses the device in this process is left alone, also when a fault makes the context
 * useless, and the calling thread's current context is after each call what it was before. */
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
/* The CUDA version that the driver is of, as 12040 of 12.4, whatever devices there are. The same failures. */
dp_status cuda_find_driver(int *version);
/* The architecture to compile for: "sm_80" for 8.x, "sm_90a", "sm_100a"; at most 15 characters. */
void cuda_arch(const cuda_device *device, char arch[16]);

typedef struct cuda_gpu cuda_gpu;
dp_status cuda_open(int device, cuda_gpu **gpu);
void cuda_close(cuda_gpu *gpu); /* NULL is fine; frees what was loaded and allocated, pinned memory too */
const cuda_device *cuda_device_of(const cuda_gpu *gpu);
dp_status cuda_find_free(cuda_gpu *gpu, int64_t *bytes); /* of its memory, now */

/* After a fault of a kernel, or when one has not ended in time, nothing of the context can be used: not even its memory
 * read. What failed says so with DP_IO; then all calls fail until cuda_close. */
bool cuda_is_lost(const cuda_gpu *gpu);
/* Destroys a lost context and all memory in it, pinned memory too: nothing may point there any more. Another can be
 * opened. */
void cuda_tear_down(cuda_gpu *gpu);

/* Makes the context the thread's until cuda_leave, which makes a status of the error, of `what`: 0 is success. All
 * functions do so by themselves; between the two they need not. */
int cuda_enter(cuda_gpu *gpu);
dp_status cuda_leave(cuda_gpu *gpu, int error, const char *what);

/* A cubin or PTX; one a gpu. */
dp_status cuda_load_module(cuda_gpu *gpu, const void *image);
/* The module's kernel of that name, to be run with so much shared memory a block. */
typedef struct cuda_kernel cuda_kernel;
dp_status cuda_find_kernel(cuda_gpu *gpu, const char *name, int64_t shared_bytes, cuda_kernel **kernel);

/* ---- one stream: what is begun is done in order, and done when cuda_wait returns. Host memory named in between must
 * be pinned, and stay as it is. */

/* Blocks are all resident at once; `argument` is copied: the kernel's only one. */
dp_status cuda_begin_kernel(cuda_gpu *gpu, cuda_kernel *kernel, int blocks, int threads, int64_t shared_bytes,
                            void *argument);
dp_status cuda_begin_put(cuda_gpu *gpu, cuda_address to, const void *pinned, int64_t bytes);
dp_status cuda_begin_get(cuda_gpu *gpu, void *pinned, cuda_address from, int64_t bytes);
dp_status cuda_begin_move(cuda_gpu *gpu, cuda_address to, cuda_address from, int64_t bytes);
dp_status cuda_begin_clear(cuda_gpu *gpu, cuda_address at, int64_t bytes);
/* `what` was begun last, for the message. With $DIPPER_GPU_TIMEOUT (seconds) a wait ends then, and the context is lost:
 * a kernel that does not end cannot be stopped, so the device stays occupied until the process ends. */
dp_status cuda_wait(cuda_gpu *gpu, const char *what);

/* A place in the stream: marks 0 and 1. */
enum { CUDA_MARKS = 2 };
dp_status cuda_mark(cuda_gpu *gpu, int mark);
dp_status cuda_wait_mark(cuda_gpu *gpu, int mark);

#endif
