/* runtime/resident_stream.c: bound weights, or those of an image -> windows of packed bytes for code that keeps them
 * elsewhere. Each window is filled by all workers; what the file brought into memory for it may leave again. */
#include "runtime/resident_jobs.h"

#include <stdlib.h>
#include <string.h>

typedef struct stream {
  rt_packing packing;
  int64_t next;     /* job */
  char *whole;      /* of a job that no window holds and that is not done in parts */
  int64_t at, end;  /* of it: what is still to be given */
  int64_t whole_at; /* where it begins in the image */
} stream;

static int64_t end_of(const rt_packing_job *job) {
  return rt_packing_job_begin(job) + job->count * rt_packing_block_bytes(job);
}

/* Where the bytes of a job end, padding included: where the next one's begin. */
static int64_t padded_end(const rt_packing *p, int64_t index) {
  return index + 1 < p->job_count ? rt_packing_job_begin(&p->jobs[index + 1]) : p->bytes;
}

/* Vectors, and what lies between two jobs' bytes. */
static void clear_padding(const rt_packing *p, int64_t first, int64_t end) {
  for (int64_t i = first; i < end; i++) {
    const rt_packing_job *job = &p->jobs[i];
    int64_t from = job->weight->form == TILE_VECTOR ? rt_packing_job_begin(job) : end_of(job);
    memset((char *)((uintptr_t)p->image + (uintptr_t)from), 0, (size_t)(padded_end(p, i) - from));
  }
}

static dp_status give_jobs(stream *s, char *to, int64_t end, int64_t *offset, int64_t *bytes) {
  rt_packing *p = &s->packing;
  *offset = rt_packing_job_begin(&p->jobs[s->next]);
  *bytes = padded_end(p, end - 1) - *offset;
  p->image = (char *)((uintptr_t)to - (uintptr_t)*offset);
  clear_padding(p, s->next, end);
  DP_TRY(rt_packing_run(p, s->next, end));
  s->next = end;
  return DP_SUCCESS;
}

/* The first blocks of a job, as many as there is room for. */
static dp_status give_part(stream *s, char *to, int64_t blocks, int64_t *offset, int64_t *bytes) {
  rt_packing *p = &s->packing;
  rt_packing_job *job = &p->jobs[s->next], all = *job;
  *offset = rt_packing_job_begin(job);
  *bytes = blocks * rt_packing_block_bytes(job);
  p->image = (char *)((uintptr_t)to - (uintptr_t)*offset);
  job->count = blocks;
  dp_status status = rt_packing_run(p, s->next, s->next + 1);
  job->first = all.first + blocks;
  job->count = all.count - blocks;
  return status;
}

static dp_status make_whole(stream *s) {
  rt_packing *p = &s->packing;
  s->at = s->whole_at = rt_packing_job_begin(&p->jobs[s->next]);
  s->end = padded_end(p, s->next);
  s->whole = malloc((size_t)(s->end - s->at));
  if (!s->whole) return dp_fail(DP_NO_MEMORY, "no memory to pack '%s'", p->jobs[s->next].weight->name);
  p->image = (char *)((uintptr_t)s->whole - (uintptr_t)s->at);
  clear_padding(p, s->next, s->next + 1);
  DP_TRY(rt_packing_run(p, s->next, s->next + 1));
  s->next++;
  return DP_SUCCESS;
}

static dp_status give_of_whole(stream *s, char *to, int64_t room, int64_t *offset, int64_t *bytes) {
  *offset = s->at;
  *bytes = s->end - s->at < room ? s->end - s->at : room;
  memcpy(to, s->whole + (s->at - s->whole_at), (size_t)*bytes);
  s->at += *bytes;
  if (s->at < s->end) return DP_SUCCESS;
  free(s->whole);
  s->whole = NULL;
  return DP_SUCCESS;
}

static dp_status next_packed(void *user, char *to, int64_t room, int64_t *offset, int64_t *bytes) {
  stream *s = user;
  rt_packing *p = &s->packing;
  *offset = *bytes = 0;
  if (s->whole) return give_of_whole(s, to, room, offset, bytes);
  if (s->next >= p->job_count) return DP_SUCCESS;
  int64_t begin = rt_packing_job_begin(&p->jobs[s->next]), end = s->next;
  while (end < p->job_count && padded_end(p, end) - begin <= room) end++;
  if (end > s->next) return give_jobs(s, to, end, offset, bytes);
  const rt_packing_job *job = &p->jobs[s->next];
  int64_t blocks = room / rt_packing_block_bytes(job);
  if (rt_packing_splits(job) && blocks > 0 && blocks < job->count) return give_part(s, to, blocks, offset, bytes);
  DP_TRY(make_whole(s));
  return give_of_whole(s, to, room, offset, bytes);
}

static dp_status provide_bound(const tile_program *program, const rt_binding *binding, const tile_code *code,
                               tile_provision *provision, const rt_resident_options *options, rt_resident *r) {
  stream s = {0};
  rt_resident_options packing = *options;
  packing.borrow = false;
  dp_status status = rt_packing_new(program, binding, &packing, r->types, &s.packing);
  provision->weight_types = r->types;
  provision->weight_offsets = s.packing.offsets;
  provision->weight_bytes = s.packing.bytes;
  provision->next = next_packed;
  provision->user = &s;
  if (status.code == DP_OK) status = code->provide(code, provision);
  if (status.code == DP_OK) rt_packing_forget(&s.packing);
  free(s.whole);
  rt_packing_free(&s.packing);
  return status;
}

/* ---- of an image */

typedef struct reading {
  const char *bytes;
  int64_t at, end;
} reading;

static dp_status next_mapped(void *user, char *to, int64_t room, int64_t *offset, int64_t *bytes) {
  reading *r = user;
  *offset = r->at;
  *bytes = r->end - r->at < room ? r->end - r->at : room;
  memcpy(to, r->bytes + r->at, (size_t)*bytes);
  dp_forget_mapped(r->bytes + r->at, (size_t)*bytes);
  r->at += *bytes;
  return DP_SUCCESS;
}

static dp_status provide_mapped(const tile_program *program, const tile_code *code, tile_provision *provision,
                                const rt_resident *r) {
  size_t slots = (size_t)program->slot_count;
  int64_t *offsets = calloc(slots + 1, sizeof *offsets);
  if (!offsets) return dp_fail(DP_NO_MEMORY, "no memory for the table of weights");
  const char *first = NULL;
  for (size_t i = 0; i < slots; i++)
    if (!first || (const char *)r->slots[i] < first) first = r->slots[i];
  for (size_t i = 0; i < slots; i++) offsets[i] = (const char *)r->slots[i] - first;
  reading all = {.bytes = first};
  for (int w = 0; w < program->weight_count; w++) {
    const tile_weight *weight = &program->weights[w];
    for (int i = weight->first_slot; i < weight->first_slot + weight->count * weight->inner; i++) {
      int64_t end = offsets[i] + rt_resident_slot_bytes(weight, (ir_dtype)r->types[i]);
      if (end > all.end) all.end = end;
    }
  }
  provision->weight_types = r->types;
  provision->weight_offsets = offsets;
  provision->weight_bytes = all.end;
  provision->next = next_mapped;
  provision->user = &all;
  dp_status status = code->provide(code, provision);
  free(offsets);
  return status;
}

dp_status rt_resident_provide(const tile_program *program, const rt_binding *binding, rt_resident *mapped,
                              const tile_code *code, tile_provision provision, const rt_resident_options *options,
                              rt_resident **resident) {
  rt_resident *r = mapped ? mapped : rt_resident_alloc(program);
  *resident = mapped;
  if (!r) return dp_fail(DP_NO_MEMORY, "no memory for the table of weights");
  dp_status status = mapped ? provide_mapped(program, code, &provision, r)
                            : provide_bound(program, binding, code, &provision, options, r);
  if (status.code == DP_OK)
    *resident = r;
  else if (!mapped)
    rt_resident_free(r);
  return status;
}
