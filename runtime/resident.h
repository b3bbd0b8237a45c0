/* runtime/resident.h: weights in memory, in the layout that kernels read: what a tile program's slots point to. */
#ifndef DIPPER_RUNTIME_RESIDENT_H
#define DIPPER_RUNTIME_RESIDENT_H

#include "ir/ir.h"
#include "runtime/host.h"
#include "runtime/weights.h"

typedef struct rt_resident rt_resident;

typedef struct rt_resident_options {
  int workers; /* threads that pack, the caller included; >= 1 */
  const rt_host *host; /* NULL: none */
  bool borrow; /* weights that lie as kernels read them are read there: what they are bound to must stay */
} rt_resident_options;

/* Brings the weights of `program` into memory. Neither program nor binding nor its file are needed afterwards. */
dp_status rt_resident_new(const tile_program *program, const rt_binding *binding, const rt_resident_options *options,
                          rt_resident **resident);
/* The bytes that takes; and those of decoded pieces beside it while it works. */
int64_t rt_resident_bytes(const tile_program *program, const rt_binding *binding);
int64_t rt_resident_loading_bytes(const tile_program *program, const rt_binding *binding, int workers);
int64_t rt_resident_size(const rt_resident *resident); /* what it took */
/* Matrix or vector `index` of a tile weight as f32, in the layout of its slot: tile_slot_floats of them. */
dp_status rt_resident_master(const tile_program *program, const rt_binding *binding, int weight, int index, float *slot);
int64_t rt_resident_borrowed(const rt_resident *resident); /* bytes that are read where they were bound */
void rt_resident_free(rt_resident *resident); /* NULL is fine */

/* An image: packed weights as bytes of a file that other processes map and share. `key`: of the program that they are
 * packed for. Written in order through `write`, rt_resident_image_bytes in all. */
int64_t rt_resident_image_bytes(const rt_resident *resident, const tile_program *program);
dp_status rt_resident_write(const rt_resident *resident, const tile_program *program, const uint64_t key[2],
                            dp_status (*write)(void *user, const void *data, size_t size), void *user);
/* The weights of an image where it lies, at a multiple of 64, which must stay mapped and is only read. DP_INVALID: it is
 * damaged, or of another program. The bytes of elements are not looked at. */
dp_status rt_resident_map(const tile_program *program, const uint64_t key[2], const void *image, size_t size,
                          rt_resident **resident);

/* The weights to code that has memory of its own, without a copy on the host: they are packed, or of an image read, while
 * others are on their way. `mapped`: of an image, and kept; NULL: of the binding. *resident has types, and is `mapped` if that is
 * given. */
dp_status rt_resident_provide(const tile_program *program, const rt_binding *binding, rt_resident *mapped, const tile_code *code,
                              tile_provision provision, const rt_resident_options *options, rt_resident **resident);

/* What a step wants: by slot, as in tile_step. */
const void *const *rt_resident_slots(const rt_resident *resident);
const uint8_t *rt_resident_types(const rt_resident *resident);

#endif
