/* codegen/cuda/resident.h: what training keeps of weights, on the device across steps: gradients, moments, masters.
 * Values are the weights' own memory there, so what an update assigns is what the next step reads. And the numbers that
 * go over with a step or come back. Used by the thread that runs steps. */
#ifndef DIPPER_CODEGEN_CUDA_RESIDENT_H
#define DIPPER_CODEGEN_CUDA_RESIDENT_H

#include "codegen/cuda/cuda.h"
#include "codegen/cuda/driver.h"

typedef struct cuda_resident cuda_resident;

/* weights[slot_count]: where values lie, 0: not yet; it is looked at whenever it is needed, and outlives this. Nothing
 * is allocated on the device. */
dp_status cuda_resident_new(const tile_program *program, cuda_gpu *gpu, const cuda_address *weights,
                            cuda_resident **resident);
void cuda_resident_free(cuda_resident *resident); /* NULL is fine; the device's memory is the gpu's to free */
/* Memory for all states, zeroed, where there is none yet. */
dp_status cuda_resident_need(cuda_resident *resident);
/* The device's table [slot_count] of a state, 0 where the program keeps none. Not of values. */
cuda_address cuda_resident_table(const cuda_resident *resident, tile_state state);
int64_t cuda_resident_taken(const cuda_resident *resident); /* bytes on the device, tables included */

bool cuda_resident_keeps(const cuda_resident *resident, tile_state state, int slot); /* not of values */
/* Bytes [at, at + bytes) of a slot. Of values: where the table of weights has an address. */
dp_status cuda_resident_fetch(cuda_resident *resident, tile_state state, int slot, int64_t at, int64_t bytes, void *to);
dp_status cuda_resident_store(cuda_resident *resident, tile_state state, int slot, int64_t at, int64_t bytes,
                              const void *from);
/* To 0; what was not allocated yet is 0 when it is. */
dp_status cuda_resident_clear(cuda_resident *resident, tile_state state);

/* Between the host's slab of NUMBERS and the device's: before a step of the entry what its kinds load and none stores,
 * after it what its kinds store and none loads. */
dp_status cuda_give_numbers(cuda_resident *resident, int entry, const char *host, cuda_address device);
dp_status cuda_take_numbers(cuda_resident *resident, int entry, char *host, cuda_address device);

#endif
