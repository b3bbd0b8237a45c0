/* runtime/resident.h: weights in memory, in the layout that kernels read: what a tile program's slots point to. */
#ifndef DIPPER_RUNTIME_RESIDENT_H
#define DIPPER_RUNTIME_RESIDENT_H

#include "ir/ir.h"
#include "runtime/weights.h"

typedef struct rt_resident rt_resident;

typedef struct rt_resident_options {
  int workers; /* threads that pack, the caller included; >= 1 */
} rt_resident_options;

/* Brings the weights of `program` into memory. Neither program nor binding nor its file are needed afterwards. */
dp_status rt_resident_new(const tile_program *program, const rt_binding *binding, const rt_resident_options *options,
                          rt_resident **resident);
/* The bytes that takes; and those of decoded pieces beside it while it works. */
int64_t rt_resident_bytes(const tile_program *program, const rt_binding *binding);
int64_t rt_resident_loading_bytes(const tile_program *program, const rt_binding *binding, int workers);
int64_t rt_resident_size(const rt_resident *resident); /* what it took */
/* The weights as f32, in the same layout, into those slots that are there. */
dp_status rt_resident_masters(const tile_program *program, const rt_binding *binding, float *const *slots);
void rt_resident_free(rt_resident *resident); /* NULL is fine */

/* What a step wants: by slot, as in tile_step. */
const void *const *rt_resident_slots(const rt_resident *resident);
const uint8_t *rt_resident_types(const rt_resident *resident);

#endif
