/* runtime/resident.c: bound weights -> memory: a plan says where each slot's matrix or vector goes, jobs of a few blocks
 * fill it, all workers at them. Weights that are tied in the same form lie there once. */
#include "runtime/resident.h"
#include "runtime/region.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

struct rt_resident {
  rt_region memory;
  const void **slots;
  uint8_t *types;
};

/* Blocks [first, first + count) of one slot's weight. */
typedef struct job {
  const rt_bound *bound;
  const tile_weight *weight;
  char *destination; /* of the whole weight */
  int64_t first, count;
} job;

typedef struct packing {
  const tile_program *program;
  const rt_binding *binding;
  job *jobs;
  int64_t job_count;
  _Atomic int64_t next;
  _Atomic bool no_memory;
} packing;

/* What the program wants as f32 alone is decoded, whatever the file has; as bf16 alone, rounded from that. */
static ir_dtype slot_type(const tile_weight *weight, const rt_bound *bound) {
  if (weight->form == TILE_VECTOR || weight->storage == 1u << IR_f32) return IR_f32;
  return weight->storage == 1u << IR_bf16 ? IR_bf16 : bound->dtype;
}

/* Blocks [first, first + count), decoded and stored as `type`. */
static dp_status pack_decoded(const tile_weight *weight, const rt_bound *bound, ir_dtype type, char *destination, int64_t first,
                              int64_t count) {
  size_t all = (size_t)(bound->rows * bound->cols);
  float *elements = malloc(sizeof *elements * all);
  if (!elements) return dp_fail(DP_NO_MEMORY, "no memory to decode '%s'", weight->name);
  rt_bound_to_f32(bound, elements);
  if (type == IR_bf16) rt_quantize_row(IR_bf16, elements, elements, (int64_t)all); /* in place: from the first on */
  rt_bound decoded = {.data = (const uint8_t *)elements, .dtype = type, .plain = true, .rows = bound->rows,
                      .cols = bound->cols, .row_bytes = bound->cols * ir_dtype_block_bytes(type)};
  dp_status status = rt_pack_bound(&decoded, weight->transposed, destination, first, count);
  free(elements);
  return status;
}

static dp_status do_job(const job *j) {
  const rt_bound *bound = j->bound;
  if (j->weight->form == TILE_VECTOR) {
    rt_bound_to_f32(bound, (float *)(void *)j->destination);
    return DP_SUCCESS;
  }
  if (slot_type(j->weight, bound) != bound->dtype) {
    ir_dtype type = slot_type(j->weight, bound);
    return pack_decoded(j->weight, bound, type, j->destination, j->first, j->count);
  }
  DP_TRY(rt_pack_bound(bound, j->weight->transposed, j->destination, j->first, j->count));
  /* The file's pages of rows that have been packed are not needed in memory any more. */
  int64_t end = (j->first + j->count) * RT_PACK_ROWS;
  if (!j->weight->transposed) rt_bound_forget(bound, j->first * RT_PACK_ROWS, end < bound->rows ? end : bound->rows);
  return DP_SUCCESS;
}

static void *pack_worker(void *argument) {
  packing *p = argument;
  for (int64_t i; (i = atomic_fetch_add(&p->next, 1)) < p->job_count;) {
    dp_status status = do_job(&p->jobs[i]);
    if (status.code != DP_OK) atomic_store(&p->no_memory, true);
    dp_status_free(&status);
  }
  return NULL;
}

static int64_t slot_bytes(const tile_weight *weight, const rt_bound *bound) {
  int64_t bytes = weight->form == TILE_VECTOR ? (weight->cols + TILE_LANES) * 4
                                              : rt_packed_size(slot_type(weight, bound), weight->rows, weight->cols);
  return (bytes + 127) / 64 * 64;
}

/* An earlier tile weight that holds the very memory this one needs: a tied weight in the same form. */
static int shared_with(const packing *p, int index) {
  const tile_weight *weight = &p->program->weights[index];
  const rt_bound *bound = rt_binding_get(p->binding, weight->weight, 0);
  for (int i = 0; bound && i < index; i++) {
    const tile_weight *other = &p->program->weights[i];
    const rt_bound *others = rt_binding_get(p->binding, other->weight, 0);
    if (others && rt_bound_same(bound, others) && other->form == weight->form &&
        other->transposed == weight->transposed && other->storage == weight->storage && other->count == weight->count && other->inner == weight->inner)
      return i;
  }
  return -1;
}

static dp_status collect_jobs(rt_resident *r, packing *p) {
  enum { BLOCKS = 16 };
  for (int pass = 0; pass < 2; pass++) {
    int64_t at = 0, jobs = 0;
    for (int w = 0; w < p->program->weight_count; w++) {
      const tile_weight *weight = &p->program->weights[w];
      int shared = shared_with(p, w);
      for (int layer = 0; layer < weight->count * weight->inner; layer++) { /* and matrix */
        const rt_bound *bound = rt_binding_get(p->binding, weight->weight, layer);
        if (!bound) return dp_fail(DP_INVALID, "weight '%s' is used but has no data", weight->name);
        int slot = weight->first_slot + layer;
        if (shared >= 0) {
          r->slots[slot] = r->slots[p->program->weights[shared].first_slot + layer];
          r->types[slot] = r->types[p->program->weights[shared].first_slot + layer];
          continue;
        }
        char *destination = pass ? r->memory.data + at : NULL;
        r->slots[slot] = destination;
        r->types[slot] = (uint8_t)slot_type(weight, bound);
        at += slot_bytes(weight, bound);
        int64_t blocks = weight->form == TILE_VECTOR ? 1 : rt_packed_blocks(weight->rows);
        int64_t step = slot_type(weight, bound) == bound->dtype ? BLOCKS : blocks;
        for (int64_t first = 0; first < blocks; first += step, jobs++)
          if (pass)
            p->jobs[jobs] = (job){bound, weight, destination, first, blocks - first < step ? blocks - first : step};
      }
    }
    p->job_count = jobs;
    if (pass == 1) break;
    p->jobs = calloc((size_t)jobs + 1, sizeof *p->jobs);
    if (!p->jobs) return dp_fail(DP_NO_MEMORY, "no memory to pack weights");
    DP_TRY(rt_region_map_free(&r->memory, at, "the weights", ""));
  }
  return DP_SUCCESS;
}

static dp_status pack_weights(rt_resident *r, packing *p, int workers) {
  DP_TRY(collect_jobs(r, p));
  pthread_t threads[64];
  int started = 0;
  for (; started < workers - 1 && started < 64; started++)
    if (pthread_create(&threads[started], NULL, pack_worker, p) != 0) break;
  pack_worker(p);
  for (int i = 0; i < started; i++) pthread_join(threads[i], NULL);
  for (int64_t i = 0; i < p->job_count; i++) rt_bound_forget(p->jobs[i].bound, 0, p->jobs[i].bound->rows);
  return p->no_memory ? dp_fail(DP_NO_MEMORY, "no memory to pack weights") : DP_SUCCESS;
}

dp_status rt_resident_new(const tile_program *program, const rt_binding *binding, const rt_resident_options *options,
                          rt_resident **resident) {
  *resident = NULL;
  rt_resident *r = calloc(1, sizeof *r);
  if (r) r->slots = calloc((size_t)program->slot_count + 1, sizeof *r->slots);
  if (r) r->types = calloc((size_t)program->slot_count + 1, 1);
  packing p = {.program = program, .binding = binding};
  dp_status status = r && r->slots && r->types ? pack_weights(r, &p, options->workers)
                                               : dp_fail(DP_NO_MEMORY, "no memory for the table of weights");
  free(p.jobs);
  if (status.code != DP_OK) {
    rt_resident_free(r);
    return status;
  }
  *resident = r;
  return DP_SUCCESS;
}

dp_status rt_resident_masters(const tile_program *p, const rt_binding *binding, float *const *slots) {
  for (int w = 0; w < p->weight_count; w++) {
    const tile_weight *weight = &p->weights[w];
    for (int i = 0; i < weight->count * weight->inner && slots[weight->first_slot]; i++) {
      const rt_bound *bound = rt_binding_get(binding, weight->weight, i);
      float *slot = slots[weight->first_slot + i];
      if (weight->form == TILE_VECTOR)
        rt_bound_to_f32(bound, slot);
      else
        DP_TRY(pack_decoded(weight, bound, IR_f32, (char *)slot, 0, rt_packed_blocks(weight->rows)));
    }
  }
  return DP_SUCCESS;
}

void rt_resident_free(rt_resident *r) {
  if (!r) return;
  rt_region_unmap(&r->memory);
  free(r->slots);
  free(r->types);
  free(r);
}

const void *const *rt_resident_slots(const rt_resident *r) { return r->slots; }
const uint8_t *rt_resident_types(const rt_resident *r) { return r->types; }
