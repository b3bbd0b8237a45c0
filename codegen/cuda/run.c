/* codegen/cuda/run.c: a cubin as code for an engine: steps of inference. The engine's memory is the host's; of it the
 * device has its own: weights, put there when a step first names them; slabs and the cache, which live on the device
 * alone; results, copied back. All of a step's small arguments go over in one copy. */
#include "codegen/cuda/run.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct region {
  cuda_address at;
  int64_t bytes;
} region;

typedef struct cuda_code {
  tile_code code;
  const tile_program *program;
  cuda_gpu *gpu;
  const void **seen;     /* [slots] the host's memory that the device's copy was made of */
  cuda_address *weights; /* [slots] */
  int64_t *weight_bytes; /* [slots] room */
  region arena[TILE_SPACE_COUNT], kv, counters, scratch, arguments, turned, ended, meeting;
  uint32_t arrived, released; /* what the meeting holds */
  region *outputs;
  int64_t counter_tiles, scratch_floats;
  int64_t *inputs_at; /* [inputs] places among the arguments */
  bool second;  /* half of the counters that the next step counts in */
  char *staged; /* the arguments as they will be on the device */
  int64_t staged_bytes, staged_cap;
  bool out_of_memory; /* of the host, while staging */
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
    DP_TRY(cuda_clear(c->gpu, larger.at + (uint64_t)r->bytes, larger.bytes - r->bytes));
    DP_TRY(cuda_move(c->gpu, larger.at, r->at, r->bytes));
    cuda_release(c->gpu, r->at);
  }
  *r = larger;
  return DP_SUCCESS;
}

static int64_t slot_bytes(const tile_weight *w, ir_dtype storage) {
  if (w->form == TILE_VECTOR) return tile_slot_floats(w) * 4;
  return (w->rows + TILE_BLOCK - 1) / TILE_BLOCK * TILE_BLOCK * ir_packed_row_bytes(storage, w->cols);
}

static dp_status put_weights(cuda_code *c, const tile_step *step) {
  for (int i = 0; i < c->program->weight_count; i++) {
    const tile_weight *w = &c->program->weights[i];
    for (int slot = w->first_slot; slot < w->first_slot + w->count * w->inner; slot++) {
      if (!step->weights[slot] || c->seen[slot] == step->weights[slot]) continue;
      region r = {c->weights[slot], c->weight_bytes[slot]};
      DP_TRY(need(c, &r, slot_bytes(w, (ir_dtype)step->weight_types[slot]), "weights", false));
      c->weights[slot] = r.at;
      c->weight_bytes[slot] = r.bytes;
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
    int64_t positions = step->segment_end[s] + (step->turns > 1 ? step->turns - 1 : 0);
    int64_t first = step->segment_pages[s], end = first + (positions + TILE_CHUNK - 1) / TILE_CHUNK;
    if (end > *entries) *entries = end;
    for (int64_t i = first; i < end; i++)
      if (step->pages[i] >= *pages) *pages = step->pages[i] + 1;
  }
}

static dp_status need_counters(cuda_code *c, int64_t rows) {
  int64_t tiles = cuda_counter_tiles(c->program, rows);
  if (tiles <= c->counter_tiles) return DP_SUCCESS;
  int64_t bytes = 2 * cuda_counter_count(c->program, tiles) * 4;
  DP_TRY(need(c, &c->counters, bytes, "counters", false));
  DP_TRY(cuda_clear(c->gpu, c->counters.at, bytes));
  c->counter_tiles = tiles;
  return DP_SUCCESS;
}

static int64_t turned_bytes(const tile_step *step) { return 8 + 8 * step->turns * step->rows[TILE_OUTPUTS]; }

/* Of a step that picks: what it has picked, and where its blocks meet. */
static dp_status need_turns(cuda_code *c, const tile_step *step) {
  if (!c->meeting.at) {
    DP_TRY(need(c, &c->meeting, 8, "counters", false));
    DP_TRY(cuda_clear(c->gpu, c->meeting.at, 8));
  }
  DP_TRY(need(c, &c->ended, 4 * step->rows[TILE_OUTPUTS] + 4, "results", false));
  return need(c, &c->turned, turned_bytes(step), "results", false);
}

static dp_status need_memory(cuda_code *c, const tile_step *step, int64_t pages) {
  const tile_program *p = c->program;
  DP_TRY(put_weights(c, step));
  for (int space = 0; space < TILE_SPACE_COUNT; space++) {
    if (!p->slab_bytes[space]) continue;
    int64_t slabs = space == TILE_WINDOW ? p->window : space == TILE_NUMBERS ? 1 : tile_row_tiles(p, step->rows[space]);
    DP_TRY(need(c, &c->arena[space], slabs * p->slab_bytes[space], "activations", false));
  }
  for (int i = 0; i < p->buffer_count; i++) {
    const tile_buffer *b = &p->buffers[i];
    if (b->output < 0) continue;
    DP_TRY(need(c, &c->outputs[b->output], step->rows[b->space] * b->stride * 4, "results", false));
  }
  DP_TRY(need(c, &c->kv, pages * p->page_bytes, "the KV cache", true));
  int64_t tokens = step->rows[TILE_TOKENS], outputs = step->rows[TILE_OUTPUTS];
  if (step->turned) DP_TRY(need_turns(c, step));
  return need_counters(c, tokens > outputs ? tokens : outputs);
}

/* ---- arguments */

/* A place for bytes among the arguments, filled in where data is given: its offset. */
static int64_t stage(cuda_code *c, const void *data, int64_t bytes) {
  int64_t at = (c->staged_bytes + 15) / 16 * 16, end = at + bytes;
  if (end > c->staged_cap) {
    int64_t cap = 2 * end + 4096;
    char *larger = realloc(c->staged, (size_t)cap);
    if (!larger) {
      c->out_of_memory = true;
      return 0;
    }
    c->staged = larger;
    c->staged_cap = cap;
  }
  if (data && bytes) memcpy(c->staged + at, data, (size_t)bytes);
  c->staged_bytes = end;
  return at;
}

/* An address of the device as a pointer of the launch's arguments. */
static void *at_device(cuda_address address) { return (void *)(uintptr_t)address; }

typedef struct places { /* offsets among the arguments */
  int64_t weights, types, inputs, outputs, positions, slots, row, tokens, pages_of, end, pages, first, ends;
} places;

static dp_status stage_arguments(cuda_code *c, const tile_step *step, int64_t entries, places *at) {
  const tile_program *p = c->program;
  int64_t T = step->rows[TILE_TOKENS], S = step->rows[TILE_SEGMENTS], R = step->rows[TILE_OUTPUTS];
  c->staged_bytes = 0;
  c->out_of_memory = false;
  for (int i = 0; i < p->input_count; i++)
    c->inputs_at[i] = stage(c, step->inputs[i], 4 * (tile_is_of_outputs(p->inputs[i]) ? R : T));
  *at = (places){.weights = stage(c, c->weights, 8 * (int64_t)p->slot_count),
                 .types = stage(c, step->weight_types, p->slot_count),
                 .positions = stage(c, step->positions, 4 * T),
                 .slots = stage(c, step->slots, 4 * T),
                 .row = stage(c, step->segment_row, 4 * S),
                 .tokens = stage(c, step->segment_tokens, 4 * S),
                 .pages_of = stage(c, step->segment_pages, 4 * S),
                 .end = stage(c, step->segment_end, 4 * S),
                 .pages = stage(c, step->pages, 4 * entries),
                 .ends = stage(c, step->ends, 4 * step->end_count),
                 .first = stage(c, NULL, 4 * (tile_row_tiles(p, T) + 1)),
                 .inputs = stage(c, NULL, 8 * (int64_t)p->input_count),
                 .outputs = stage(c, NULL, 8 * (int64_t)p->output_count)};
  if (c->out_of_memory) return dp_fail(DP_NO_MEMORY, "no memory for a step's arguments");
  DP_TRY(need(c, &c->arguments, c->staged_cap, "a step's arguments", false));
  cuda_list_segments(p, step, (int32_t *)(void *)(c->staged + at->first));
  cuda_address *inputs = (cuda_address *)(void *)(c->staged + at->inputs);
  cuda_address *outputs = (cuda_address *)(void *)(c->staged + at->outputs);
  for (int i = 0; i < p->input_count; i++) inputs[i] = c->arguments.at + (uint64_t)c->inputs_at[i];
  for (int i = 0; i < p->output_count; i++) outputs[i] = c->outputs[i].at;
  return cuda_put(c->gpu, c->arguments.at, c->staged, c->staged_bytes);
}

static cuda_launch make_launch(cuda_code *c, const tile_step *step, const places *at) {
  cuda_launch l = {.step = *step, .tiles = c->counter_tiles};
  l.counter_count = cuda_counter_count(c->program, l.tiles);
  l.scratch_floats = c->scratch_floats;
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
  l.step.ends = ARGUMENT(ends);
#undef ARGUMENT
  for (int i = 0; i < TILE_STATE_COUNT; i++) l.step.states[i] = NULL;
  for (int i = 0; i < TILE_SPACE_COUNT; i++) l.step.arena[i] = at_device(c->arena[i].at);
  l.step.kv = at_device(c->kv.at);
  l.scratch = at_device(c->scratch.at);
  l.step.turned = at_device(c->turned.at);
  l.ended = at_device(c->ended.at);
  l.meeting = at_device(c->meeting.at);
  l.arrived = c->arrived;
  l.released = c->released;
  uint32_t *counters = at_device(c->counters.at);
  l.counters = counters + (c->second ? l.counter_count : 0);
  l.other_counters = counters + (c->second ? 0 : l.counter_count);
  return l;
}

/* ---- a step */

/* What a step that picks has picked, and where it left its counters. */
static dp_status get_turns(cuda_code *c, const tile_step *step) {
  DP_TRY(cuda_get(c->gpu, step->turned, c->turned.at, turned_bytes(step)));
  uint32_t made = (uint32_t)step->turned[0];
  c->arrived += made * (uint32_t)cuda_device_of(c->gpu)->processors;
  c->released += made;
  if (made % 2 == 0) c->second = !c->second;
  return DP_SUCCESS;
}

static dp_status run_step(const tile_code *code, const tile_step *step) {
  cuda_code *c = code->self;
  const tile_program *p = c->program;
  int64_t pages, entries;
  places at = {0};
  char name[40];
  count_pages(step, &pages, &entries);
  DP_TRY(need_memory(c, step, pages));
  DP_TRY(stage_arguments(c, step, entries, &at));
  cuda_launch launch = make_launch(c, step, &at);
  snprintf(name, sizeof name, "dipper_step_%d", (int)step->entry);
  DP_TRY(
      cuda_run_kernel(c->gpu, name, cuda_device_of(c->gpu)->processors, CUDA_THREADS, cuda_shared_bytes(p), &launch));
  c->second = !c->second;
  if (step->turned) DP_TRY(get_turns(c, step));
  for (int i = 0; i < p->buffer_count; i++) {
    const tile_buffer *b = &p->buffers[i];
    if (b->output < 0 || (step->unread >> b->output & 1)) continue;
    DP_TRY(cuda_get(c->gpu, step->outputs[b->output], c->outputs[b->output].at, step->rows[b->space] * b->stride * 4));
  }
  return DP_SUCCESS;
}

/* ---- life */

static void unload(tile_code *code) {
  cuda_code *c = code->self;
  cuda_close(c->gpu);
  free(c->seen);
  free(c->weights);
  free(c->weight_bytes);
  free(c->outputs);
  free(c->inputs_at);
  free(c->staged);
  free(c);
}

static bool trains(const tile_program *p) {
  for (int i = 0; i < p->kind_count; i++)
    if (p->kinds[i].space == TILE_PARAMETERS || p->kinds[i].space == TILE_STATES) return true;
  return false;
}

static dp_status set_up(cuda_code *c, const void *image) {
  const tile_program *p = c->program;
  size_t slots = (size_t)p->slot_count + 1;
  c->seen = calloc(slots, sizeof *c->seen);
  c->weights = calloc(slots, sizeof *c->weights);
  c->weight_bytes = calloc(slots, sizeof *c->weight_bytes);
  c->outputs = calloc((size_t)p->output_count + 1, sizeof *c->outputs);
  c->inputs_at = calloc((size_t)p->input_count + 1, sizeof *c->inputs_at);
  if (!c->seen || !c->weights || !c->weight_bytes || !c->outputs || !c->inputs_at)
    return dp_fail(DP_NO_MEMORY, "no memory to load code");
  DP_TRY(cuda_open(0, &c->gpu));
  DP_TRY(cuda_load_module(c->gpu, image));
  c->scratch_floats = cuda_scratch_floats(p);
  return need(c, &c->scratch, c->scratch_floats * 4 * cuda_device_of(c->gpu)->processors, "scratch memory", false);
}

dp_status cuda_load(const tile_program *program, const cg_object *object, tile_code **code) {
  if (trains(program)) return dp_fail(DP_UNSUPPORTED, "training on a GPU is not carried out yet: use --backend llvm");
  cuda_code *c = calloc(1, sizeof *c);
  if (!c) return dp_fail(DP_NO_MEMORY, "no memory to load code");
  c->code = (tile_code){.run_step = run_step, .takes_turns = true, .free = unload, .self = c};
  c->program = program;
  dp_status status = set_up(c, object->bytes);
  if (status.code == DP_OK)
    *code = &c->code;
  else
    unload(&c->code);
  return status;
}
