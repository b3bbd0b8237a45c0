/* codegen/cuda/run.c: a cubin as code for an engine. The engine's weights are the host's; the device has its own, put
 * there when a step first names them. Slabs, the cache and what training keeps of weights (resident.c) live on the
 * device alone; the results of a step's entry are copied back. All of a step's small arguments go over in one copy. */
#include "codegen/cuda/run.h"
#include "codegen/cuda/image.h"
#include "codegen/cuda/resident.h"

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
  cuda_note note; /* of its object: what a launch needs */
  cuda_gpu *gpu;
  const void **seen;     /* [slots] the host's memory that the device's copy was made of */
  cuda_address *weights; /* [slots] */
  int64_t *weight_bytes; /* [slots] room */
  region arena[TILE_SPACE_COUNT], kv, counters, scratch, arguments, turned, ended, meeting;
  uint32_t arrived, released; /* what the meeting holds */
  region *outputs;
  uint64_t *results; /* [entries] which of them it writes */
  cuda_resident *resident;
  int64_t counter_tiles, scratch_floats;
  int64_t *inputs_at; /* [inputs] places among the arguments */
  bool second;        /* half of the counters that the next step counts in */
  char *staged;       /* the arguments as they will be on the device */
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

/* An earlier weight that lies in the same memory, -1: none. What an update assigns to one of them both have. */
static int same_memory(const cuda_code *c, const tile_step *step, int index) {
  const tile_weight *w = &c->program->weights[index];
  for (int i = 0; i < index; i++) {
    const tile_weight *other = &c->program->weights[i];
    bool same = other->count == w->count && other->inner == w->inner;
    if (same && step->weights[w->first_slot] && step->weights[other->first_slot] == step->weights[w->first_slot])
      return i;
  }
  return -1;
}

static dp_status put_weights(cuda_code *c, const tile_step *step) {
  for (int i = 0; i < c->program->weight_count; i++) {
    const tile_weight *w = &c->program->weights[i];
    int same = same_memory(c, step, i);
    if (same >= 0) {
      const cuda_address *from = c->weights + c->program->weights[same].first_slot;
      memcpy(c->weights + w->first_slot, from, sizeof *from * (size_t)(w->count * w->inner));
      memcpy(c->seen + w->first_slot, step->weights + w->first_slot, sizeof *c->seen * (size_t)(w->count * w->inner));
      continue;
    }
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

/* The results that an entry writes: a bit each. */
static uint64_t results_of(const tile_program *p, int index) {
  tile_entry entry = tile_entry_at(p, index);
  uint64_t written = 0;
  for (int g = 0; g < p->group_count; g++) {
    const tile_kind *kind = &p->kinds[p->groups[g].kind];
    if (!tile_in_entry(p, &entry, g)) continue;
    for (int i = 0; i < kind->op_count; i++)
      if (kind->ops[i].code == TILE_store && p->buffers[kind->ops[i].ref].output >= 0)
        written |= UINT64_C(1) << p->buffers[kind->ops[i].ref].output;
  }
  return written;
}

static bool returns(const cuda_code *c, int64_t entry, const tile_buffer *b) {
  return b->output >= 0 && c->results[entry] >> b->output & 1;
}

static dp_status need_results(cuda_code *c, const tile_step *step) {
  const tile_program *p = c->program;
  for (int i = 0; i < p->buffer_count; i++) {
    const tile_buffer *b = &p->buffers[i];
    if (!returns(c, step->entry, b)) continue;
    DP_TRY(need(c, &c->outputs[b->output], step->rows[b->space] * b->stride * 4, "results", false));
  }
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
  DP_TRY(cuda_resident_need(c->resident));
  for (int space = 0; space < TILE_SPACE_COUNT; space++) {
    if (!p->slab_bytes[space]) continue;
    int64_t slabs = space == TILE_WINDOW ? p->window : space == TILE_NUMBERS ? 1 : tile_row_tiles(p, step->rows[space]);
    DP_TRY(need(c, &c->arena[space], slabs * p->slab_bytes[space], "activations", false));
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
  l.step.states[TILE_VALUE] = ARGUMENT(weights);
  for (int i = TILE_GRADIENT; i < TILE_STATE_COUNT; i++)
    l.step.states[i] = at_device(cuda_resident_table(c->resident, (tile_state)i));
  l.step.ends = ARGUMENT(ends);
#undef ARGUMENT
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
  DP_TRY(need_results(c, step));
  DP_TRY(cuda_give_numbers(c->resident, (int)step->entry, step->arena[TILE_NUMBERS], c->arena[TILE_NUMBERS].at));
  DP_TRY(stage_arguments(c, step, entries, &at));
  cuda_launch launch = make_launch(c, step, &at);
  snprintf(name, sizeof name, "dipper_step_%d", (int)step->entry);
  DP_TRY(cuda_run_kernel(c->gpu, name, cuda_device_of(c->gpu)->processors, (int)c->note.threads,
                         (int64_t)c->note.shared_bytes, &launch));
  c->second = !c->second;
  DP_TRY(cuda_take_numbers(c->resident, (int)step->entry, step->arena[TILE_NUMBERS], c->arena[TILE_NUMBERS].at));
  if (step->turned) DP_TRY(get_turns(c, step));
  for (int i = 0; i < p->buffer_count; i++) {
    const tile_buffer *b = &p->buffers[i];
    if (!returns(c, step->entry, b) || (step->unread >> b->output & 1)) continue;
    DP_TRY(cuda_get(c->gpu, step->outputs[b->output], c->outputs[b->output].at, step->rows[b->space] * b->stride * 4));
  }
  return DP_SUCCESS;
}

/* ---- memory of its own, as tile_device has it */

static dp_status begin(const tile_code *code) {
  cuda_code *c = code->self;
  memset(c->seen, 0, sizeof *c->seen * (size_t)c->program->slot_count);
  for (int state = TILE_GRADIENT; state < TILE_STATE_COUNT; state++)
    DP_TRY(cuda_resident_clear(c->resident, (tile_state)state));
  return DP_SUCCESS;
}

static bool holds(const tile_code *code, tile_state state, int slot) {
  const cuda_code *c = code->self;
  return state == TILE_VALUE ? c->seen[slot] != NULL : cuda_resident_keeps(c->resident, state, slot);
}

static dp_status fetch(const tile_code *code, tile_state state, int slot, int64_t at, int64_t bytes, void *to) {
  const cuda_code *c = code->self;
  return cuda_resident_fetch(c->resident, state, slot, at, bytes, to);
}

static dp_status store(const tile_code *code, tile_state state, int slot, int64_t at, int64_t bytes, const void *from) {
  const cuda_code *c = code->self;
  return cuda_resident_store(c->resident, state, slot, at, bytes, from);
}

static dp_status clear(const tile_code *code, tile_state state) {
  const cuda_code *c = code->self;
  return cuda_resident_clear(c->resident, state);
}

static dp_status reserve(const tile_code *code, const tile_step *step, int64_t pages) {
  cuda_code *c = code->self;
  tile_step of = *step;
  DP_TRY(need_memory(c, step, pages));
  for (of.entry = 1; of.entry < c->program->entry_count; of.entry++) DP_TRY(need_results(c, &of));
  return DP_SUCCESS;
}

static int64_t worker_bytes(const tile_code *code, const tile_program *program, int64_t max_tokens) {
  const cuda_code *c = code->self;
  cuda_device *list = NULL;
  int count = 0;
  dp_status status = c ? DP_SUCCESS : cuda_list_devices(&list, &count);
  int64_t processors = c ? cuda_device_of(c->gpu)->processors : count ? list[0].processors : 0;
  dp_status_free(&status);
  free(list);
  int64_t counters = 2 * cuda_counter_count(program, cuda_counter_tiles(program, max_tokens)) * 4;
  return cuda_scratch_floats(program) * 4 * processors + counters;
}

static int64_t available(const tile_code *code) {
  const cuda_code *c = code->self;
  cuda_device *list = NULL;
  int count = 0;
  if (c) return cuda_device_of(c->gpu)->memory;
  dp_status status = cuda_list_devices(&list, &count);
  int64_t bytes = count ? list[0].memory : 0;
  dp_status_free(&status);
  free(list);
  return bytes;
}

static int64_t taken(const tile_code *code) {
  const cuda_code *c = code->self;
  int64_t sum = c->kv.bytes + c->counters.bytes + c->scratch.bytes + c->arguments.bytes;
  for (int i = 0; i < TILE_SPACE_COUNT; i++) sum += c->arena[i].bytes;
  for (int i = 0; i < c->program->output_count; i++) sum += c->outputs[i].bytes;
  for (int i = 0; i < c->program->slot_count; i++) sum += c->weight_bytes[i];
  return sum + cuda_resident_taken(c->resident);
}

const tile_device cuda_memory = {.begin = begin,
                                 .holds = holds,
                                 .fetch = fetch,
                                 .store = store,
                                 .clear = clear,
                                 .reserve = reserve,
                                 .worker_bytes = worker_bytes,
                                 .available = available,
                                 .taken = taken};

/* ---- life */

static void unload(tile_code *code) {
  cuda_code *c = code->self;
  cuda_resident_free(c->resident);
  cuda_close(c->gpu);
  free(c->seen);
  free(c->weights);
  free(c->weight_bytes);
  free(c->outputs);
  free(c->results);
  free(c->inputs_at);
  free(c->staged);
  free(c);
}

/* A driver that does not take code says why only by a number. */
static dp_status check_chip(const cuda_note *note, const cuda_device *device) {
  if (cuda_chip_serves(note->chip, device->major, device->minor)) return DP_SUCCESS;
  return dp_fail(DP_UNSUPPORTED, "the GPU code is for %s, and %s has compute capability %d.%d", note->chip, device->name,
                 device->major, device->minor);
}

static dp_status set_up(cuda_code *c, const cg_object *object) {
  const void *image;
  const tile_program *p = c->program;
  size_t slots = (size_t)p->slot_count + 1;
  c->seen = calloc(slots, sizeof *c->seen);
  c->weights = calloc(slots, sizeof *c->weights);
  c->weight_bytes = calloc(slots, sizeof *c->weight_bytes);
  c->outputs = calloc((size_t)p->output_count + 1, sizeof *c->outputs);
  c->inputs_at = calloc((size_t)p->input_count + 1, sizeof *c->inputs_at);
  c->results = calloc((size_t)p->entry_count + 1, sizeof *c->results);
  if (!c->seen || !c->weights || !c->weight_bytes || !c->outputs || !c->inputs_at || !c->results)
    return dp_fail(DP_NO_MEMORY, "no memory to load code");
  for (int i = 0; i == 0 || i < p->entry_count; i++) c->results[i] = results_of(p, i);
  DP_TRY(cuda_open(0, &c->gpu));
  DP_TRY(cuda_open_object(p, object, &c->note, &image));
  DP_TRY(check_chip(&c->note, cuda_device_of(c->gpu)));
  DP_TRY(cuda_load_module(c->gpu, image));
  DP_TRY(cuda_resident_new(p, c->gpu, c->weights, &c->resident));
  c->scratch_floats = (int64_t)c->note.scratch_floats;
  return need(c, &c->scratch, c->scratch_floats * 4 * cuda_device_of(c->gpu)->processors, "scratch memory", false);
}

dp_status cuda_load(const tile_program *program, const cg_object *object, tile_code **code) {
  cuda_code *c = calloc(1, sizeof *c);
  if (!c) return dp_fail(DP_NO_MEMORY, "no memory to load code");
  c->code = (tile_code){
      .run_step = run_step, .takes_turns = true, .device = &cuda_memory, .free = unload, .self = c};
  c->program = program;
  dp_status status = set_up(c, object);
  if (status.code == DP_OK)
    *code = &c->code;
  else
    unload(&c->code);
  return status;
}
