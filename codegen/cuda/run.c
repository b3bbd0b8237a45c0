/* codegen/cuda/run.c: a cubin as code for an engine: steps of inference. The device has memory of its own: weights, put
 * there as an engine provides them, or else when a step first names them; slabs and the cache, which live on the device
 * alone. A step's small arguments go over in one copy, the kernel and the copies of its results are begun behind it,
 * and one wait ends them all: what goes over or comes back lies in pinned memory of the host. */
#include "codegen/cuda/run.h"
#include "codegen/cuda/account.h"
#include "codegen/cuda/fault.h"
#include "codegen/cuda/memory.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
  UPLOAD_BYTES = 32 << 20, /* of a window of weights on their way */
  RESULT_BYTES = 8 << 20,  /* results that come back behind the kernel; more of them come in windows */
};

typedef struct region {
  cuda_address at;
  int64_t bytes;
} region;

typedef struct cuda_code {
  tile_code code;
  const tile_program *program;
  cuda_gpu *gpu;
  cuda_kernel **kernels; /* [entries] */
  const void **seen;     /* [slots] the host's memory that the device's copy was made of */
  cuda_address *weights; /* [slots] */
  int64_t *weight_bytes; /* [slots] room; of those that were not provided */
  bool provided;
  region image, arena[TILE_SPACE_COUNT], kv, counters, scratch, arguments;
  region *outputs;
  int64_t counter_tiles, scratch_floats;
  int64_t *inputs_at; /* [inputs] places among the arguments */
  bool second;        /* half of the counters that the next step counts in */
  char *staged;       /* pinned: the arguments as they will be on the device */
  int64_t staged_bytes, staged_cap;
  dp_status staging; /* the first failure */
  char *results;     /* pinned */
  int64_t results_cap;
  cuda_progress *progress; /* pinned, [processors] */
  cuda_address progress_at;
} cuda_code;

/* ---- memory */

/* Room for so many bytes; what was there is lost, unless `keep`, whose rest is zero. */
static dp_status need(cuda_code *c, region *r, int64_t bytes, const char *what, bool keep) {
  if (bytes <= r->bytes && r->at) return DP_SUCCESS;
  region larger = {.bytes = keep && r->bytes * 2 > bytes ? r->bytes * 2 : bytes};
  if (!keep) {
    cuda_release(c->gpu, r->at);
    *r = (region){0};
  }
  DP_TRY(cuda_allocate(c->gpu, larger.bytes, what, &larger.at));
  if (keep) {
    dp_status status = cuda_clear(c->gpu, larger.at + (uint64_t)r->bytes, larger.bytes - r->bytes);
    if (status.code == DP_OK) status = cuda_move(c->gpu, larger.at, r->at, r->bytes);
    cuda_release(c->gpu, status.code == DP_OK ? r->at : larger.at);
    DP_TRY(status);
  }
  *r = larger;
  return DP_SUCCESS;
}

static void release(cuda_code *c, region *r) {
  cuda_release(c->gpu, r->at);
  *r = (region){0};
}

/* The same in pinned memory of the host; `kept` bytes stay. */
static dp_status need_pinned(cuda_code *c, char **memory, int64_t *cap, int64_t bytes, int64_t kept) {
  void *larger;
  if (bytes <= *cap) return DP_SUCCESS;
  DP_TRY(cuda_pin(c->gpu, bytes, &larger));
  if (kept > 0) memcpy(larger, *memory, (size_t)kept);
  cuda_unpin(c->gpu, *memory);
  *memory = larger;
  *cap = bytes;
  return DP_SUCCESS;
}

static int64_t slot_bytes(const tile_weight *w, ir_dtype storage) {
  if (w->form == TILE_VECTOR) return tile_slot_floats(w) * 4;
  return (w->rows + TILE_BLOCK - 1) / TILE_BLOCK * TILE_BLOCK * ir_packed_row_bytes(storage, w->cols);
}

/* Of code that weights were not provided to. */
static dp_status put_weights(cuda_code *c, const tile_step *step) {
  for (int i = 0; i < c->program->weight_count; i++) {
    const tile_weight *w = &c->program->weights[i];
    for (int slot = w->first_slot; slot < w->first_slot + w->count * w->inner; slot++) {
      if (!step->weights[slot] || c->seen[slot] == step->weights[slot]) continue;
      region r = {c->weights[slot], c->weight_bytes[slot]};
      dp_status status = need(c, &r, slot_bytes(w, (ir_dtype)step->weight_types[slot]), "weights", false);
      c->weights[slot] = r.at;
      c->weight_bytes[slot] = r.bytes;
      DP_TRY(status);
      DP_TRY(cuda_put(c->gpu, r.at, step->weights[slot], slot_bytes(w, (ir_dtype)step->weight_types[slot])));
      c->seen[slot] = step->weights[slot];
    }
  }
  return DP_SUCCESS;
}

/* Pages of the cache up to the last one that a sequence of the step has; entries of the page tables. */
static void count_pages(const tile_step *step, int64_t *pages, int64_t *entries) {
  *pages = *entries = 0;
  for (int64_t s = 0; s < step->rows[TILE_SEGMENTS]; s++) {
    int64_t first = step->segment_pages[s], end = first + (step->segment_end[s] + TILE_CHUNK - 1) / TILE_CHUNK;
    if (end > *entries) *entries = end;
    for (int64_t i = first; i < end; i++)
      if (step->pages[i] >= *pages) *pages = step->pages[i] + 1;
  }
}

static dp_status need_counters(cuda_code *c, int64_t rows) {
  int64_t tiles = cuda_counter_tiles(c->program, rows);
  if (tiles <= c->counter_tiles) return DP_SUCCESS;
  int64_t bytes = 2 * cuda_counter_count(c->program, tiles) * 4;
  c->counter_tiles = 0;
  DP_TRY(need(c, &c->counters, bytes, "counters", false));
  DP_TRY(cuda_clear(c->gpu, c->counters.at, bytes));
  c->counter_tiles = tiles;
  return DP_SUCCESS;
}

/* For steps of so many rows a space, and pages of the cache. */
static dp_status need_memory(cuda_code *c, const int64_t *rows, int64_t pages) {
  const tile_program *p = c->program;
  for (int space = 0; space < TILE_SPACE_COUNT; space++) {
    if (!p->slab_bytes[space]) continue;
    int64_t slabs = space == TILE_WINDOW ? p->window : space == TILE_NUMBERS ? 1 : tile_row_tiles(p, rows[space]);
    DP_TRY(need(c, &c->arena[space], slabs * p->slab_bytes[space], "activations", false));
  }
  int64_t scratch = c->scratch_floats * 4 * cuda_device_of(c->gpu)->processors;
  DP_TRY(need(c, &c->scratch, scratch, "scratch memory", false));
  DP_TRY(need(c, &c->kv, pages * p->page_bytes, "the KV cache", true));
  int64_t tokens = rows[TILE_TOKENS], outputs = rows[TILE_OUTPUTS];
  return need_counters(c, tokens > outputs ? tokens : outputs);
}

static dp_status need_results(cuda_code *c, const int64_t *rows) {
  const tile_program *p = c->program;
  for (int i = 0; i < p->buffer_count; i++) {
    const tile_buffer *b = &p->buffers[i];
    if (b->output >= 0) DP_TRY(need(c, &c->outputs[b->output], rows[b->space] * b->stride * 4, "results", false));
  }
  return DP_SUCCESS;
}

/* ---- what an engine brings */

static void release_all(cuda_code *c) {
  region *const regions[] = {&c->image, &c->kv, &c->counters, &c->scratch, &c->arguments};
  for (size_t i = 0; i < DP_COUNT(regions); i++) release(c, regions[i]);
  for (int i = 0; i < TILE_SPACE_COUNT; i++) release(c, &c->arena[i]);
  for (int i = 0; i < c->program->output_count; i++) release(c, &c->outputs[i]);
  for (int i = 0; i < c->program->slot_count; i++) {
    if (!c->provided) cuda_release(c->gpu, c->weights[i]);
    c->weights[i] = 0;
    c->weight_bytes[i] = 0;
    c->seen[i] = NULL;
  }
  c->counter_tiles = 0;
  c->provided = false;
}

/* All at once, so that what does not fit is refused before anything is read. */
static dp_status reserve(cuda_code *c, const tile_provision *v, const cuda_account *account) {
  const cuda_device *device = cuda_device_of(c->gpu);
  int64_t left;
  DP_TRY(cuda_find_free(c->gpu, &left));
  left += cuda_bytes_taken(c->gpu) - cuda_bytes_used(c->gpu);
  if (cuda_account_sum(account) > left) return cuda_refuse_account(c->program, device, v, left);
  dp_status status = cuda_reserve(c->gpu, cuda_account_sum(account));
  if (status.code != DP_NO_MEMORY) return status;
  dp_status_free(&status);
  return cuda_refuse_account(c->program, device, v, left);
}

static dp_status take_provision(cuda_code *c, const tile_provision *v) {
  const tile_program *p = c->program;
  cuda_account account = cuda_measure(p, cuda_device_of(c->gpu), v);
  int64_t rows[TILE_SPACE_COUNT] = {[TILE_TOKENS] = v->max_tokens,
                                    [TILE_SEGMENTS] = v->max_tokens,
                                    [TILE_OUTPUTS] = v->max_tokens,
                                    [TILE_PARAMETERS] = 1};
  const int64_t few[TILE_SPACE_COUNT] = {[TILE_TOKENS] = 1, [TILE_OUTPUTS] = p->row_tile};
  int64_t room = (v->weight_bytes + 4095) / 4096 * 4096;
  release_all(c);
  DP_TRY(reserve(c, v, &account));
  c->provided = true;
  DP_TRY(need(c, &c->image, v->weight_bytes, "weights", false));
  for (int slot = 0; slot < p->slot_count; slot++) c->weights[slot] = c->image.at + (uint64_t)v->weight_offsets[slot];
  DP_TRY(need_memory(c, rows, (v->context + TILE_CHUNK - 1) / TILE_CHUNK));
  DP_TRY(need_results(c, few));
  DP_TRY(need(c, &c->arguments, account.arguments, "a step's arguments", false));
  DP_TRY(need_pinned(c, &c->staged, &c->staged_cap, account.arguments, 0));
  return cuda_upload(c->gpu, c->image.at, room < UPLOAD_BYTES ? room : UPLOAD_BYTES, v->next, v->user);
}

/* ---- failures */

static dp_status is_lost(void) { return dp_fail(DP_IO, "the GPU stopped at a fault before: open the model anew"); }

/* Behind a fault: says where the step was, as far as blocks told, and gives the context up. */
static dp_status give_up(cuda_code *c, int entry, dp_status status) {
  dp_str where = {0};
  const char *name = entry >= 0 ? tile_entry_at(c->program, entry).name : NULL;
  if (entry >= 0) {
    dp_str_addf(&where, "kernel dipper_step_%d%s%s%s: ", entry, name ? " (" : "", name ? name : "", name ? ")" : "");
    cuda_describe_progress(c->program, c->progress, cuda_device_of(c->gpu)->processors, &where);
    dp_str_add(&where, "; ");
  }
  dp_status told = dp_fail(DP_IO, "%s; %sopen the model anew", dp_status_text(&status), where.text ? where.text : "");
  cuda_tear_down(c->gpu);
  c->staged = c->results = NULL; /* they were the context's */
  c->progress = NULL;
  dp_str_free(&where);
  dp_status_free(&status);
  return told;
}

/* Behind any failure: what is under way ends, and counters begin anew, however far a kernel came. entry < 0: none ran.
 */
static dp_status settle(cuda_code *c, int entry, dp_status status) {
  if (status.code == DP_OK) return status;
  if (!cuda_is_lost(c->gpu)) {
    dp_status ended = cuda_wait(c->gpu, "what was begun");
    dp_status_free(&ended);
    c->counter_tiles = 0;
  }
  return cuda_is_lost(c->gpu) ? give_up(c, entry, status) : status;
}

/* What was entered for is done: its status, or else that of leaving. */
static dp_status leave(cuda_code *c, dp_status status) {
  dp_status left = cuda_leave(c->gpu, 0, "its context");
  if (status.code == DP_OK) return left;
  dp_status_free(&left);
  return status;
}

static dp_status provide(const tile_code *code, const tile_provision *provision) {
  cuda_code *c = code->self;
  if (cuda_is_lost(c->gpu)) return is_lost();
  int error = cuda_enter(c->gpu);
  return settle(c, -1, error ? cuda_leave(c->gpu, error, "its context") : leave(c, take_provision(c, provision)));
}

/* ---- arguments */

/* A place for bytes among the arguments, filled in where data is given: its offset. */
static int64_t stage(cuda_code *c, const void *data, int64_t bytes) {
  int64_t at = (c->staged_bytes + 15) / 16 * 16, end = at + bytes;
  if (c->staging.code == DP_OK && end > c->staged_cap)
    c->staging = need_pinned(c, &c->staged, &c->staged_cap, 2 * end + 4096, c->staged_bytes);
  if (c->staging.code != DP_OK) return 0;
  if (data && bytes) memcpy(c->staged + at, data, (size_t)bytes);
  c->staged_bytes = end;
  return at;
}

/* An address of the device as a pointer of the launch's arguments. */
static void *at_device(cuda_address address) { return (void *)(uintptr_t)address; }

typedef struct places { /* offsets among the arguments */
  int64_t weights, types, inputs, outputs, positions, slots, row, tokens, pages_of, end, pages, first;
} places;

static dp_status stage_arguments(cuda_code *c, const tile_step *step, int64_t entries, places *at) {
  const tile_program *p = c->program;
  int64_t T = step->rows[TILE_TOKENS], S = step->rows[TILE_SEGMENTS], R = step->rows[TILE_OUTPUTS];
  c->staged_bytes = 0;
  for (int i = 0; i < p->input_count; i++)
    c->inputs_at[i] = stage(c, step->inputs[i], 4 * (strcmp(p->inputs[i], "out_rows") == 0 ? R : T));
  *at = (places){.weights = stage(c, c->weights, 8 * (int64_t)p->slot_count),
                 .types = stage(c, step->weight_types, p->slot_count),
                 .positions = stage(c, step->positions, 4 * T),
                 .slots = stage(c, step->slots, 4 * T),
                 .row = stage(c, step->segment_row, 4 * S),
                 .tokens = stage(c, step->segment_tokens, 4 * S),
                 .pages_of = stage(c, step->segment_pages, 4 * S),
                 .end = stage(c, step->segment_end, 4 * S),
                 .pages = stage(c, step->pages, 4 * entries),
                 .first = stage(c, NULL, 4 * (tile_row_tiles(p, T) + 1)),
                 .inputs = stage(c, NULL, 8 * (int64_t)p->input_count),
                 .outputs = stage(c, NULL, 8 * (int64_t)p->output_count)};
  dp_status staging = c->staging;
  c->staging = DP_SUCCESS;
  DP_TRY(staging);
  DP_TRY(need(c, &c->arguments, c->staged_cap, "a step's arguments", false));
  cuda_list_segments(p, step, (int32_t *)(void *)(c->staged + at->first));
  cuda_address *inputs = (cuda_address *)(void *)(c->staged + at->inputs);
  cuda_address *outputs = (cuda_address *)(void *)(c->staged + at->outputs);
  for (int i = 0; i < p->input_count; i++) inputs[i] = c->arguments.at + (uint64_t)c->inputs_at[i];
  for (int i = 0; i < p->output_count; i++) outputs[i] = c->outputs[i].at;
  return cuda_begin_put(c->gpu, c->arguments.at, c->staged, c->staged_bytes);
}

static cuda_launch make_launch(cuda_code *c, const tile_step *step, const places *at) {
  cuda_launch l = {.step = *step, .tiles = c->counter_tiles};
  l.counter_count = cuda_counter_count(c->program, l.tiles);
  l.scratch_floats = c->scratch_floats;
  l.progress = at_device(c->progress_at);
#define ARGUMENT(place) at_device(c->arguments.at + (uint64_t)at->place)
  l.step.weights = ARGUMENT(weights);
  l.step.weight_types = ARGUMENT(types);
  l.step.inputs = ARGUMENT(inputs);
  l.step.outputs = ARGUMENT(outputs);
  l.step.positions = ARGUMENT(positions);
  l.step.slots = ARGUMENT(slots);
  l.step.segment_row = ARGUMENT(row);
  l.step.segment_tokens = ARGUMENT(tokens);
  l.step.segment_pages = ARGUMENT(pages_of);
  l.step.segment_end = ARGUMENT(end);
  l.step.pages = ARGUMENT(pages);
  l.first_segment = ARGUMENT(first);
#undef ARGUMENT
  for (int i = 0; i < TILE_STATE_COUNT; i++) l.step.states[i] = NULL;
  for (int i = 0; i < TILE_SPACE_COUNT; i++) l.step.arena[i] = at_device(c->arena[i].at);
  l.step.kv = at_device(c->kv.at);
  l.scratch = at_device(c->scratch.at);
  uint32_t *counters = at_device(c->counters.at);
  l.counters = counters + (c->second ? l.counter_count : 0);
  l.other_counters = counters + (c->second ? 0 : l.counter_count);
  return l;
}

/* ---- a step */

/* Calls `each` for the step's results, one behind another in pinned memory; returns the bytes of all. */
typedef dp_status each_result(cuda_code *c, const tile_step *step, int output, int64_t at, int64_t bytes);
static dp_status walk_results(cuda_code *c, const tile_step *step, each_result *each, int64_t *sum) {
  const tile_program *p = c->program;
  *sum = 0;
  for (int i = 0; i < p->buffer_count; i++) {
    const tile_buffer *b = &p->buffers[i];
    int64_t bytes = step->rows[b->space] * b->stride * 4;
    if (b->output < 0 || bytes <= 0) continue;
    if (each) DP_TRY(each(c, step, b->output, *sum, bytes));
    *sum += (bytes + 63) / 64 * 64;
  }
  return DP_SUCCESS;
}

static dp_status begin_result(cuda_code *c, const tile_step *step, int output, int64_t at, int64_t bytes) {
  (void)step;
  return cuda_begin_get(c->gpu, c->results + at, c->outputs[output].at, bytes);
}

static dp_status hand_result(cuda_code *c, const tile_step *step, int output, int64_t at, int64_t bytes) {
  memcpy(step->outputs[output], c->results + at, (size_t)bytes);
  return DP_SUCCESS;
}

static dp_status get_result(cuda_code *c, const tile_step *step, int output, int64_t at, int64_t bytes) {
  (void)at;
  return cuda_get(c->gpu, step->outputs[output], c->outputs[output].at, bytes);
}

static dp_status begin_step(cuda_code *c, const tile_step *step) {
  int64_t pages, entries;
  places at = {0};
  count_pages(step, &pages, &entries);
  if (!c->provided) DP_TRY(put_weights(c, step));
  DP_TRY(need_memory(c, step->rows, pages));
  DP_TRY(need_results(c, step->rows));
  DP_TRY(stage_arguments(c, step, entries, &at));
  cuda_launch launch = make_launch(c, step, &at);
  int blocks = cuda_device_of(c->gpu)->processors;
  cuda_reset_progress(c->progress, blocks);
  DP_TRY(
      cuda_begin_kernel(c->gpu, c->kernels[step->entry], blocks, CUDA_THREADS, cuda_shared_bytes(c->program), &launch));
  c->second = !c->second;
  return DP_SUCCESS;
}

static dp_status end_step(cuda_code *c, const tile_step *step) {
  char what[48];
  int64_t bytes;
  snprintf(what, sizeof what, "kernel dipper_step_%d", (int)step->entry);
  DP_TRY(walk_results(c, step, NULL, &bytes));
  bool many = bytes > RESULT_BYTES;
  if (!many) DP_TRY(need_pinned(c, &c->results, &c->results_cap, bytes, 0));
  if (!many) DP_TRY(walk_results(c, step, begin_result, &bytes));
  DP_TRY(cuda_wait(c->gpu, what));
  return walk_results(c, step, many ? get_result : hand_result, &bytes);
}

static dp_status run_step(const tile_code *code, const tile_step *step) {
  cuda_code *c = code->self;
  if (cuda_is_lost(c->gpu)) return is_lost();
  int error = cuda_enter(c->gpu);
  if (error) return settle(c, (int)step->entry, cuda_leave(c->gpu, error, "its context"));
  dp_status status = begin_step(c, step);
  if (status.code == DP_OK) status = end_step(c, step);
  return settle(c, (int)step->entry, leave(c, status));
}

/* ---- life */

static void unload(tile_code *code) {
  cuda_code *c = code->self;
  cuda_close(c->gpu);
  free(c->kernels);
  free(c->seen);
  free(c->weights);
  free(c->weight_bytes);
  free(c->outputs);
  free(c->inputs_at);
  free(c);
}

static bool trains(const tile_program *p) {
  for (int i = 0; i < p->kind_count; i++)
    if (p->kinds[i].space == TILE_PARAMETERS || p->kinds[i].space == TILE_STATES) return true;
  return false;
}

static int entries_of(const tile_program *p) { return p->entry_count ? p->entry_count : 1; }

static dp_status find_kernels(cuda_code *c) {
  for (int i = 0; i < entries_of(c->program); i++) {
    char name[40];
    snprintf(name, sizeof name, "dipper_step_%d", i);
    DP_TRY(cuda_find_kernel(c->gpu, name, cuda_shared_bytes(c->program), &c->kernels[i]));
  }
  return DP_SUCCESS;
}

static dp_status need_progress(cuda_code *c) {
  void *memory;
  int blocks = cuda_device_of(c->gpu)->processors;
  DP_TRY(cuda_pin(c->gpu, (int64_t)sizeof *c->progress * blocks, &memory));
  c->progress = memory;
  cuda_reset_progress(c->progress, blocks);
  return cuda_map_pinned(c->gpu, memory, &c->progress_at);
}

static dp_status set_up(cuda_code *c, const void *image) {
  const tile_program *p = c->program;
  size_t slots = (size_t)p->slot_count + 1;
  c->kernels = calloc((size_t)entries_of(p), sizeof *c->kernels);
  c->seen = calloc(slots, sizeof *c->seen);
  c->weights = calloc(slots, sizeof *c->weights);
  c->weight_bytes = calloc(slots, sizeof *c->weight_bytes);
  c->outputs = calloc((size_t)p->output_count + 1, sizeof *c->outputs);
  c->inputs_at = calloc((size_t)p->input_count + 1, sizeof *c->inputs_at);
  if (!c->kernels || !c->seen || !c->weights || !c->weight_bytes || !c->outputs || !c->inputs_at)
    return dp_fail(DP_NO_MEMORY, "no memory to load code");
  DP_TRY(cuda_open(0, &c->gpu));
  DP_TRY(cuda_load_module(c->gpu, image));
  DP_TRY(find_kernels(c));
  c->scratch_floats = cuda_scratch_floats(p);
  return need_progress(c);
}

dp_status cuda_load(const tile_program *program, const cg_object *object, tile_code **code) {
  if (trains(program)) return dp_fail(DP_UNSUPPORTED, "training on a GPU is not carried out yet: use --backend llvm");
  cuda_code *c = calloc(1, sizeof *c);
  if (!c) return dp_fail(DP_NO_MEMORY, "no memory to load code");
  c->code = (tile_code){.run_step = run_step, .provide = provide, .free = unload, .self = c};
  c->program = program;
  dp_status status = set_up(c, object->bytes);
  if (status.code == DP_OK)
    *code = &c->code;
  else
    unload(&c->code);
  return status;
}
