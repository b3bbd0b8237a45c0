/* codegen/cuda/memory.h: a device's memory in few large pieces, and pinned memory of the host, which the device reads
 * and writes by itself. Both are the gpu's: what is not given back goes with it. */
#ifndef DIPPER_CODEGEN_CUDA_MEMORY_H
#define DIPPER_CODEGEN_CUDA_MEMORY_H

#include "codegen/cuda/driver.h"

enum { CUDA_ALIGNMENT = 256 }; /* of what is allocated, bytes */

/* `what` for the message when the device's memory does not suffice: DP_NO_MEMORY. */
dp_status cuda_allocate(cuda_gpu *gpu, int64_t bytes, const char *what, cuda_address *address);
void cuda_release(cuda_gpu *gpu, cuda_address address); /* 0 is fine; for others of the same gpu, not for the driver */
/* Takes from the driver what allocations of so many bytes together want, in one piece, and gives back pieces that
 * nothing lies in. DP_NO_MEMORY without a word: who asks knows what for. */
dp_status cuda_reserve(cuda_gpu *gpu, int64_t bytes);
int64_t cuda_bytes_taken(const cuda_gpu *gpu); /* from the driver */
int64_t cuda_bytes_used(const cuda_gpu *gpu);  /* of them, by allocations */

dp_status cuda_pin(cuda_gpu *gpu, int64_t bytes, void **memory);
void cuda_unpin(cuda_gpu *gpu, void *memory);                                  /* NULL is fine */
dp_status cuda_map_pinned(cuda_gpu *gpu, void *memory, cuda_address *address); /* what the device knows it by */

/* Copies, done when they return. Any memory of the host: they go through two pinned windows, one of which is on its way
 * while the other is filled or emptied. */
dp_status cuda_put(cuda_gpu *gpu, cuda_address to, const void *from, int64_t bytes);
dp_status cuda_get(cuda_gpu *gpu, void *to, cuda_address from, int64_t bytes);
dp_status cuda_move(cuda_gpu *gpu, cuda_address to, cuda_address from, int64_t bytes);
dp_status cuda_clear(cuda_gpu *gpu, cuda_address at, int64_t bytes);

/* The same from what `next` gives, in windows of `room` bytes: it fills `to` and says with how many bytes and where
 * they belong, from `to` on; no bytes are the end. One window is filled while the other is on its way. */
typedef dp_status cuda_next(void *user, char *to, int64_t room, int64_t *offset, int64_t *bytes);
dp_status cuda_upload(cuda_gpu *gpu, cuda_address to, int64_t room, cuda_next *next, void *user);

#endif
