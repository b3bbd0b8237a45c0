/* codegen/cuda/driver_parts.h: private to driver.c and memory.c: libcuda's functions, and a device that is open. */
#ifndef DIPPER_CODEGEN_CUDA_DRIVER_PARTS_H
#define DIPPER_CODEGEN_CUDA_DRIVER_PARTS_H

#include "codegen/cuda/driver.h"

enum { /* cuda.h's numbers */
       CUDA_OUT_OF_MEMORY = 2,
       CUDA_NOT_READY = 600,
};

typedef struct cuda_driver {
  void *library;
  int version;
  int (*init)(unsigned flags);
  int (*find_version)(int *version);
  int (*error_text)(int error, const char **text);
  int (*device_count)(int *count);
  int (*device)(int *device, int index);
  int (*device_name)(char *name, int size, int device);
  int (*device_memory)(size_t *bytes, int device);
  int (*device_attribute)(int *value, int attribute, int device);
  int (*create_context)(void **context, unsigned flags, int device);
  int (*destroy_context)(void *context);
  int (*push_context)(void *context);
  int (*pop_context)(void **context);
  int (*load)(void **module, const void *image);
  int (*unload)(void *module);
  int (*function)(void **function, void *module, const char *name);
  int (*function_attribute)(void *function, int attribute, int value);
  int (*launch)(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                unsigned shared, void *stream, void **arguments);
  int (*create_stream)(void **stream, unsigned flags);
  int (*destroy_stream)(void *stream);
  int (*wait_stream)(void *stream);
  int (*ask_stream)(void *stream);
  int (*create_event)(void **event, unsigned flags);
  int (*destroy_event)(void *event);
  int (*record_event)(void *event, void *stream);
  int (*wait_event)(void *event);
  int (*free_memory)(size_t *free, size_t *all);
  int (*allocate)(cuda_address *address, size_t bytes);
  int (*release)(cuda_address address);
  int (*pin)(void **memory, size_t bytes, unsigned flags);
  int (*unpin)(void *memory);
  int (*pinned_address)(cuda_address *address, void *memory, unsigned flags);
  int (*put)(cuda_address to, const void *from, size_t bytes, void *stream);
  int (*get)(void *to, cuda_address from, size_t bytes, void *stream);
  int (*move)(cuda_address to, cuda_address from, size_t bytes, void *stream);
  int (*clear)(cuda_address at, unsigned char value, size_t bytes, void *stream);
} cuda_driver;

typedef struct cuda_memory cuda_memory;

struct cuda_gpu {
  cuda_driver driver;
  cuda_device device;
  int handle;
  void *context, *module, *stream, *marks[CUDA_MARKS];
  int depth;           /* of calls within each other: the outermost makes the context the thread's */
  int lost;            /* the error that made the context useless */
  bool occupied;       /* by a kernel that does not end: the context cannot be destroyed */
  cuda_memory *memory; /* memory.c's */
};

void cuda_free_memory(cuda_gpu *gpu);   /* what memory.c holds, in the driver too */
void cuda_forget_memory(cuda_gpu *gpu); /* the same of a context that is gone */

#endif
