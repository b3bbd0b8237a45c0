/* runtime/resident_jobs.h: private to resident*.c: weights to be packed as a list of jobs over an image of all slots,
 * so many bytes behind its begin. */
#ifndef DIPPER_RUNTIME_RESIDENT_JOBS_H
#define DIPPER_RUNTIME_RESIDENT_JOBS_H

#include "runtime/region.h"
#include "runtime/resident.h"

#include <pthread.h>
#include <stdatomic.h>

struct rt_resident {
  rt_region memory;   /* owned; {0} when the weights lie in an image, or on a device */
  const void **slots; /* NULL of what lies on a device */
  uint8_t *types;
  int64_t borrowed; /* bytes that are read where they were bound */
};

/* Blocks [first, first + count) of one slot's weight, which lies from `at` on. */
typedef struct rt_packing_job {
  const rt_bound *bound;
  const tile_weight *weight;
  int64_t at, first, count;
} rt_packing_job;

typedef struct rt_packing {
  const tile_program *program;
  const rt_binding *binding;
  rt_packing_job *jobs; /* in the order of their bytes */
  int64_t job_count;
  int64_t *offsets; /* [slots] */
  int64_t bytes;    /* of the image */
  char *image;      /* where its first byte is, or would be */
  rt_resident_options options;
  _Atomic int64_t next; /* of those until `end` */
  int64_t end;
  _Atomic bool no_memory, stopped;
  pthread_t caller;
  int64_t asked; /* when; the caller's */
} rt_packing;

/* `types` [slots] are set. The packing is freed by its caller, also after a failure. */
dp_status rt_packing_new(const tile_program *program, const rt_binding *binding, const rt_resident_options *options,
                         uint8_t *types, rt_packing *packing);
void rt_packing_free(rt_packing *packing);
/* Jobs [first, end), by all workers. */
dp_status rt_packing_run(rt_packing *packing, int64_t first, int64_t end);
/* The bytes of a job's own, and of one of its blocks. */
int64_t rt_packing_job_begin(const rt_packing_job *job);
int64_t rt_packing_block_bytes(const rt_packing_job *job);
bool rt_packing_splits(const rt_packing_job *job); /* block by block */
/* The file's pages of all that was packed may leave memory. */
void rt_packing_forget(const rt_packing *packing);

/* Of a slot, padding included. */
int64_t rt_resident_slot_bytes(const tile_weight *weight, ir_dtype type);
rt_resident *rt_resident_alloc(const tile_program *program); /* NULL: no memory */

#endif
