/* runtime/resident.c: bound weights -> memory: a plan says where each slot's matrix or vector goes, jobs of a few blocks
 * fill it, all workers at them. Weights that are tied in the same form lie there once. */
#include "runtime/resident_jobs.h"
#include "runtime/memory.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { BLOCKS = 16 }; /* of a job */

/* What the program wants as f32 alone is decoded, whatever the file has; as bf16 alone, rounded from that. */
static ir_dtype slot_type(const tile_weight *weight, const rt_bound *bound) {
  if (weight->form == TILE_VECTOR || weight->storage == 1u << IR_f32) return IR_f32;
  return weight->storage == 1u << IR_bf16 ? IR_bf16 : bound->dtype;
}

/* Rows [first, end) of a matrix that lies in rows are decoded alone; of another all of it, of which the blocks are then
 * columns. */
static bool in_pieces(const tile_weight *weight) { return !weight->transposed; }

static int64_t decoded_floats(const tile_weight *weight, const rt_bound *bound) {
  int64_t rows = in_pieces(weight) && bound->rows > BLOCKS * RT_PACK_ROWS ? BLOCKS * RT_PACK_ROWS : bound->rows;
  return rt_bytes_times(rows, bound->cols);
}

/* Blocks [block, block + count), decoded and stored as `type`. */
static dp_status pack_decoded(const tile_weight *weight, const rt_bound *bound, ir_dtype type, char *destination, int64_t block,
                              int64_t count) {
  int64_t first = in_pieces(weight) ? block * RT_PACK_ROWS : 0, bytes = ir_dtype_block_bytes(type);
  int64_t end = in_pieces(weight) ? (block + count) * RT_PACK_ROWS : bound->rows;
  if (end > bound->rows) end = bound->rows;
  size_t all = (size_t)((end - first) * bound->cols);
  float *elements = malloc(sizeof *elements * all);
  if (!elements) return dp_fail(DP_NO_MEMORY, "no memory to decode '%s'", weight->name);
  for (int64_t row = first; row < end; row++) rt_bound_row(bound, row, elements + (row - first) * bound->cols);
  if (type == IR_bf16) rt_quantize_row(IR_bf16, elements, elements, (int64_t)all); /* in place: from the first on */
  rt_bound decoded = {.data = (const uint8_t *)elements, .dtype = type, .plain = true, .rows = end - first,
                      .cols = bound->cols, .row_bytes = bound->cols * bytes};
  if (in_pieces(weight)) destination += first * bound->cols * bytes;
  dp_status status = rt_pack_bound(&decoded, weight->transposed, destination, in_pieces(weight) ? 0 : block, count);
  free(elements);
  if (in_pieces(weight)) rt_bound_forget(bound, first, end);
  return status;
}

/* destination: of the whole weight. */
static dp_status do_job(const rt_packing_job *j, char *destination) {
  const rt_bound *bound = j->bound;
  if (j->weight->form == TILE_VECTOR) {
    rt_bound_to_f32(bound, (float *)(void *)destination);
    return DP_SUCCESS;
  }
  if (slot_type(j->weight, bound) != bound->dtype) {
    ir_dtype type = slot_type(j->weight, bound);
    return pack_decoded(j->weight, bound, type, destination, j->first, j->count);
  }
  DP_TRY(rt_pack_bound(bound, j->weight->transposed, destination, j->first, j->count));
  /* The file's pages of rows that have been packed are not needed in memory any more. */
  int64_t end = (j->first + j->count) * RT_PACK_ROWS;
  if (!j->weight->transposed) rt_bound_forget(bound, j->first * RT_PACK_ROWS, end < bound->rows ? end : bound->rows);
  return DP_SUCCESS;
}

static int64_t nanoseconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* The caller tells the host how far all are, and asks it. */
static void ask_host(rt_packing *p, int64_t *asked) {
  const rt_host *host = p->options.host;
  int64_t now = host ? nanoseconds() : 0;
  if (!host || now - *asked < RT_ASK_NS) return;
  *asked = now;
  int64_t next = atomic_load(&p->next);
  if (host->progress) host->progress(host->user, "pack", (double)(next < p->job_count ? next : p->job_count) / (double)p->job_count);
  if (host->go_on && !host->go_on(host->user)) atomic_store(&p->stopped, true);
}

static void *pack_worker(void *argument) {
  rt_packing *p = argument;
  for (int64_t i; !atomic_load(&p->stopped) && (i = atomic_fetch_add(&p->next, 1)) < p->end;) {
    dp_status status = do_job(&p->jobs[i], (char *)((uintptr_t)p->image + (uintptr_t)p->jobs[i].at));
    if (status.code != DP_OK) atomic_store(&p->no_memory, true);
    dp_status_free(&status);
    if (pthread_equal(pthread_self(), p->caller)) ask_host(p, &p->asked);
  }
  return NULL;
}

int64_t rt_resident_slot_bytes(const tile_weight *weight, ir_dtype type) {
  int64_t bytes = weight->form == TILE_VECTOR ? (weight->cols + TILE_LANES) * 4
                                              : rt_packed_size(type, weight->rows, weight->cols);
  return bytes < 0 ? INT64_C(1) << RT_MEMORY_BITS : (bytes + 127) / 64 * 64;
}

static int64_t slot_bytes(const tile_weight *weight, const rt_bound *bound) { return rt_resident_slot_bytes(weight, slot_type(weight, bound)); }

/* An earlier tile weight that holds the very memory this one needs: a tied weight in the same form. */
static int shared_with(const tile_program *program, const rt_binding *binding, int index) {
  const tile_weight *weight = &program->weights[index];
  const rt_bound *bound = rt_binding_get(binding, weight->weight, 0);
  for (int i = 0; bound && i < index; i++) {
    const tile_weight *other = &program->weights[i];
    const rt_bound *others = rt_binding_get(binding, other->weight, 0);
    if (others && rt_bound_same(bound, others) && other->form == weight->form &&
        other->transposed == weight->transposed && other->storage == weight->storage && other->count == weight->count && other->inner == weight->inner)
      return i;
  }
  return -1;
}

/* Does it lie in the file, or with the host, as kernels read it? A vector of whole blocks; one block's matrix [k][64]. */
static bool lies_ready(const tile_weight *weight, const rt_bound *bound) {
  bool as_it_is = bound->plain && bound->plus == 0 && bound->run == 0 && bound->paired_heads == 0 && !bound->transposed &&
                  (uintptr_t)bound->data % 64 == 0 && bound->dtype == slot_type(weight, bound);
  if (weight->form == TILE_VECTOR) return as_it_is && bound->rows == 1 && weight->cols % TILE_BLOCK == 0;
  return as_it_is && weight->transposed && weight->rows == TILE_BLOCK && ir_dtype_block_elements(bound->dtype) == 1 &&
         bound->row_bytes == TILE_BLOCK * ir_dtype_block_bytes(bound->dtype);
}

/* Where each slot lies in the memory, in bytes from its begin; offsets NULL: only how much that is. Of a weight without
 * data: nowhere. */
static int64_t lay_out(const tile_program *program, const rt_binding *binding, bool borrow, int64_t *offsets) {
  int64_t at = 0;
  for (int w = 0; w < program->weight_count; w++) {
    const tile_weight *weight = &program->weights[w];
    int shared = shared_with(program, binding, w);
    for (int i = 0; i < weight->count * weight->inner; i++) { /* layer and matrix */
      const rt_bound *bound = rt_binding_get(binding, weight->weight, i);
      if (offsets) offsets[weight->first_slot + i] = shared >= 0 ? offsets[program->weights[shared].first_slot + i] : at;
      bool copied = bound && !(borrow && lies_ready(weight, bound));
      if (copied && shared < 0) at = rt_bytes_plus(at, slot_bytes(weight, bound));
    }
  }
  return at;
}

int64_t rt_resident_bytes(const tile_program *program, const rt_binding *binding) {
  return rt_region_bytes(lay_out(program, binding, false, NULL));
}

int64_t rt_resident_loading_bytes(const tile_program *program, const rt_binding *binding, int workers) {
  int64_t largest = 0;
  for (int w = 0; w < program->weight_count; w++) {
    const tile_weight *weight = &program->weights[w];
    const rt_bound *bound = rt_binding_get(binding, weight->weight, 0);
    if (!bound || weight->form == TILE_VECTOR || slot_type(weight, bound) == bound->dtype) continue;
    int64_t bytes = rt_bytes_times(decoded_floats(weight, bound), 4);
    if (bytes > largest) largest = bytes;
  }
  return rt_bytes_times(largest, workers);
}

static int64_t blocks_of(const tile_weight *weight) { return weight->form == TILE_VECTOR ? 1 : rt_packed_blocks(weight->rows); }

/* Of what is decoded as a whole one job does all blocks. */
static int64_t blocks_a_job(const tile_weight *weight, const rt_bound *bound) {
  return slot_type(weight, bound) == bound->dtype || in_pieces(weight) ? BLOCKS : blocks_of(weight);
}

bool rt_packing_splits(const rt_packing_job *job) {
  if (job->weight->form == TILE_VECTOR) return false;
  return slot_type(job->weight, job->bound) == job->bound->dtype || in_pieces(job->weight);
}

int64_t rt_packing_block_bytes(const rt_packing_job *job) {
  const tile_weight *weight = job->weight;
  if (weight->form == TILE_VECTOR) return slot_bytes(weight, job->bound);
  return RT_PACK_ROWS * ir_packed_row_bytes(slot_type(weight, job->bound), weight->cols);
}

int64_t rt_packing_job_begin(const rt_packing_job *job) { return job->at + job->first * rt_packing_block_bytes(job); }

static int64_t list_jobs(const rt_packing *p, rt_packing_job *to) {
  int64_t jobs = 0;
  for (int w = 0; w < p->program->weight_count; w++) {
    const tile_weight *weight = &p->program->weights[w];
    bool shared = shared_with(p->program, p->binding, w) >= 0;
    for (int i = 0; i < weight->count * weight->inner && !shared; i++) {
      const rt_bound *bound = rt_binding_get(p->binding, weight->weight, i);
      if (p->options.borrow && lies_ready(weight, bound)) continue;
      int64_t blocks = blocks_of(weight), step = blocks_a_job(weight, bound), at = p->offsets[weight->first_slot + i];
      for (int64_t first = 0; first < blocks; first += step, jobs++)
        if (to) to[jobs] = (rt_packing_job){bound, weight, at, first, blocks - first < step ? blocks - first : step};
    }
  }
  return jobs;
}

static dp_status check_bound(const tile_program *program, const rt_binding *binding) {
  for (int w = 0; w < program->weight_count; w++)
    for (int i = 0; i < program->weights[w].count * program->weights[w].inner; i++)
      if (!rt_binding_get(binding, program->weights[w].weight, i))
        return dp_fail(DP_INVALID, "weight '%s' is used but has no data", program->weights[w].name);
  return DP_SUCCESS;
}

dp_status rt_packing_new(const tile_program *program, const rt_binding *binding, const rt_resident_options *options,
                         uint8_t *types, rt_packing *p) {
  p->program = program;
  p->binding = binding;
  p->options = *options;
  p->caller = pthread_self();
  DP_TRY(check_bound(program, binding));
  p->offsets = calloc((size_t)program->slot_count + 1, sizeof *p->offsets);
  if (!p->offsets) return dp_fail(DP_NO_MEMORY, "no memory to pack weights");
  p->bytes = lay_out(program, binding, options->borrow, p->offsets);
  p->job_count = list_jobs(p, NULL);
  p->jobs = calloc((size_t)p->job_count + 1, sizeof *p->jobs);
  if (!p->jobs) return dp_fail(DP_NO_MEMORY, "no memory to pack weights");
  list_jobs(p, p->jobs);
  for (int w = 0; w < program->weight_count; w++)
    for (int i = 0; i < program->weights[w].count * program->weights[w].inner; i++)
      types[program->weights[w].first_slot + i] =
          (uint8_t)slot_type(&program->weights[w], rt_binding_get(binding, program->weights[w].weight, i));
  return DP_SUCCESS;
}

void rt_packing_free(rt_packing *p) {
  free(p->jobs);
  free(p->offsets);
}

dp_status rt_packing_run(rt_packing *p, int64_t first, int64_t end) {
  pthread_t threads[64];
  int started = 0;
  atomic_store(&p->next, first);
  p->end = end;
  for (; started < p->options.workers - 1 && started < 64 && started < end - first - 1; started++)
    if (pthread_create(&threads[started], NULL, pack_worker, p) != 0) break;
  pack_worker(p);
  for (int i = 0; i < started; i++) pthread_join(threads[i], NULL);
  if (p->stopped) return dp_fail(DP_CANCELLED, "stopped by the host (pack)");
  return p->no_memory ? dp_fail(DP_NO_MEMORY, "no memory to pack weights") : DP_SUCCESS;
}

void rt_packing_forget(const rt_packing *p) {
  for (int64_t i = 0; i < p->job_count; i++) rt_bound_forget(p->jobs[i].bound, 0, p->jobs[i].bound->rows);
}

rt_resident *rt_resident_alloc(const tile_program *program) {
  rt_resident *r = calloc(1, sizeof *r);
  if (!r) return NULL;
  r->slots = calloc((size_t)program->slot_count + 1, sizeof *r->slots);
  r->types = calloc((size_t)program->slot_count + 1, 1);
  if (r->slots && r->types) return r;
  rt_resident_free(r);
  return NULL;
}

/* Where kernels read each slot. */
static void point_to_slots(rt_resident *r, const rt_packing *p) {
  for (int w = 0; w < p->program->weight_count; w++) {
    const tile_weight *weight = &p->program->weights[w];
    for (int i = 0; i < weight->count * weight->inner; i++) {
      const rt_bound *bound = rt_binding_get(p->binding, weight->weight, i);
      bool borrowed = p->options.borrow && lies_ready(weight, bound);
      int slot = weight->first_slot + i;
      r->slots[slot] = borrowed ? (const void *)bound->data : r->memory.data + p->offsets[slot];
      if (borrowed) r->borrowed += bound->rows * bound->row_bytes;
    }
  }
}

static dp_status pack_weights(rt_resident *r, rt_packing *p, const tile_program *program, const rt_binding *binding,
                              const rt_resident_options *options) {
  r->memory.host = options->host;
  DP_TRY(rt_packing_new(program, binding, options, r->types, p));
  DP_TRY(rt_region_map_free(&r->memory, p->bytes, "the weights", ""));
  p->image = r->memory.data;
  point_to_slots(r, p);
  dp_status status = rt_packing_run(p, 0, p->job_count);
  rt_packing_forget(p);
  return status;
}

dp_status rt_resident_new(const tile_program *program, const rt_binding *binding, const rt_resident_options *options,
                          rt_resident **resident) {
  *resident = NULL;
  rt_packing p = {0};
  rt_resident *r = rt_resident_alloc(program);
  if (!r) return dp_fail(DP_NO_MEMORY, "no memory for the table of weights");
  dp_status status = pack_weights(r, &p, program, binding, options);
  rt_packing_free(&p);
  if (status.code != DP_OK) {
    rt_resident_free(r);
    return status;
  }
  *resident = r;
  return DP_SUCCESS;
}

int64_t rt_resident_size(const rt_resident *r) { return (int64_t)r->memory.size; }
int64_t rt_resident_borrowed(const rt_resident *r) { return r->borrowed; }

dp_status rt_resident_master(const tile_program *p, const rt_binding *binding, int index, int i, float *slot) {
  const tile_weight *weight = &p->weights[index];
  const rt_bound *bound = rt_binding_get(binding, weight->weight, i);
  if (weight->form == TILE_VECTOR) {
    rt_bound_to_f32(bound, slot);
    return DP_SUCCESS;
  }
  for (int64_t block = 0, blocks = rt_packed_blocks(weight->rows), some; block < blocks; block += some) {
    some = in_pieces(weight) && blocks - block > BLOCKS ? BLOCKS : blocks - block;
    DP_TRY(pack_decoded(weight, bound, IR_f32, (char *)slot, block, some));
  }
  return DP_SUCCESS;
}

/* ---- images: head, a row a slot, then the memory as it is */

enum { IMAGE_FORMAT = 1, IMAGE_PAGE = 4096 };

typedef struct image_head {
  char magic[8]; /* "dipperW" */
  uint64_t format, key[2];
  uint64_t slots, first, bytes; /* of the memory: where in the image, a multiple of IMAGE_PAGE, and how much */
  uint64_t hash;                /* of the rows */
} image_head;

typedef struct image_row {
  uint64_t offset, type; /* offset: from the memory's begin */
} image_row;

static uint64_t image_first(const tile_program *program) {
  uint64_t bytes = sizeof(image_head) + (uint64_t)program->slot_count * sizeof(image_row);
  return (bytes + IMAGE_PAGE - 1) / IMAGE_PAGE * IMAGE_PAGE;
}

int64_t rt_resident_image_bytes(const rt_resident *r, const tile_program *program) {
  return (int64_t)(image_first(program) + r->memory.size);
}

dp_status rt_resident_write(const rt_resident *r, const tile_program *program, const uint64_t key[2],
                            dp_status (*write)(void *user, const void *data, size_t size), void *user) {
  size_t slots = (size_t)program->slot_count, first = image_first(program);
  char *table = calloc(1, first);
  if (!table) return dp_fail(DP_NO_MEMORY, "no memory for a table of weights");
  image_head head = {.magic = "dipperW", .format = IMAGE_FORMAT, .key = {key[0], key[1]}, .slots = slots, .first = first,
                     .bytes = r->memory.size};
  image_row *rows = (image_row *)(void *)(table + sizeof head);
  for (size_t i = 0; i < slots; i++)
    if (r->slots[i]) rows[i] = (image_row){(uint64_t)((const char *)r->slots[i] - r->memory.data), r->types[i]};
  head.hash = dp_hash(0, rows, slots * sizeof *rows);
  memcpy(table, &head, sizeof head);
  dp_status status = write(user, table, first);
  free(table);
  return status.code == DP_OK ? write(user, r->memory.data, r->memory.size) : status;
}

static bool is_of_weight(const tile_weight *weight, uint64_t type) {
  if (type >= IR_DTYPE_COUNT) return false;
  if (weight->form == TILE_VECTOR) return type == IR_f32;
  return weight->storage ? weight->storage >> type & 1 : type == IR_f32;
}

static dp_status map_slots(rt_resident *r, const tile_program *program, const image_head *head, const char *image) {
  const image_row *rows = (const image_row *)(const void *)(image + sizeof *head);
  uint64_t readable = head->bytes - IMAGE_PAGE; /* vectors may be read a little past the end */
  for (int w = 0; w < program->weight_count; w++) {
    const tile_weight *weight = &program->weights[w];
    for (int i = weight->first_slot; i < weight->first_slot + weight->count * weight->inner; i++) {
      bool fits = is_of_weight(weight, rows[i].type) && rows[i].offset % 64 == 0 && rows[i].offset <= readable &&
                  (uint64_t)rt_resident_slot_bytes(weight, (ir_dtype)rows[i].type) <= readable - rows[i].offset;
      if (!fits) return dp_fail(DP_INVALID, "the packed weights are damaged at '%s'", weight->name);
      r->slots[i] = image + head->first + rows[i].offset;
      r->types[i] = (uint8_t)rows[i].type;
    }
  }
  return DP_SUCCESS;
}

static dp_status check_image(const tile_program *program, const uint64_t key[2], const void *image, size_t size) {
  image_head head;
  if (size < sizeof head) return dp_fail(DP_INVALID, "the packed weights are cut short");
  memcpy(&head, image, sizeof head);
  if (memcmp(head.magic, "dipperW", 8) != 0 || head.format != IMAGE_FORMAT)
    return dp_fail(DP_INVALID, "these are no packed weights of this version of dipper");
  if (head.key[0] != key[0] || head.key[1] != key[1])
    return dp_fail(DP_INVALID, "the packed weights are of another model, or were packed for another program of it");
  if (head.slots != (uint64_t)program->slot_count || head.first != image_first(program) || head.first > size ||
      head.bytes != size - head.first || head.bytes < IMAGE_PAGE || (uintptr_t)image % 64 || head.hash != dp_hash(0, (const char *)image + sizeof head, head.slots * sizeof(image_row)))
    return dp_fail(DP_INVALID, "the packed weights are cut short or damaged");
  return DP_SUCCESS;
}

dp_status rt_resident_map(const tile_program *program, const uint64_t key[2], const void *image, size_t size,
                          rt_resident **resident) {
  *resident = NULL;
  DP_TRY(check_image(program, key, image, size));
  image_head head;
  memcpy(&head, image, sizeof head);
  rt_resident *r = rt_resident_alloc(program);
  dp_status status = r ? map_slots(r, program, &head, image) : dp_fail(DP_NO_MEMORY, "no memory for the table of weights");
  if (status.code == DP_OK)
    *resident = r;
  else
    rt_resident_free(r);
  return status;
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
