/* codegen/cuda/run.c: a cubin as code for an engine. The device has memory of its own (room.c); what training keeps of
 * weights is there too (resident.c). A step's small arguments go over in one copy, the kernel and the copies of its
 * entry's results are begun behind it, and one wait ends them all: what goes over or comes back lies in pinned memory of
 * the host. */
#include "codegen/cuda/fault.h"
#include "codegen/cuda/run_parts.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { RESULT_BYTES = 8 << 20 /* results that come back behind the kernel; more of them come in windows */ };

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
    cuda_forget_counters(c);
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
  return settle(c, -1, error ? cuda_leave(c->gpu, error, "its context") : leave(c, cuda_take_provision(c, provision)));
}

/* ---- arguments */

/* A place for bytes among the arguments, filled in where data is given: its offset. */
static int64_t stage(cuda_code *c, const void *data, int64_t bytes) {
  int64_t at = (c->staged_bytes + 15) / 16 * 16, end = at + bytes;
  if (c->staging.code == DP_OK && end > c->staged_cap)
    c->staging = cuda_need_pinned(c, &c->staged, &c->staged_cap, 2 * end + 4096, c->staged_bytes);
  if (c->staging.code != DP_OK) return 0;
  if (data && bytes) memcpy(c->staged + at, data, (size_t)bytes);
  c->staged_bytes = end;
  return at;
}

/* An address of the device as a pointer of the launch's arguments. */
static void *at_device(cuda_address address) { return (void *)(uintptr_t)address; }

typedef struct places { /* offsets among the arguments */
  int64_t weights, types, inputs, outputs, positions, slots, row, tokens, pages_of, end, pages, first, ends;
} places;

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

static dp_status stage_arguments(cuda_code *c, const tile_step *step, int64_t entries, places *at) {
  const tile_program *p = c->program;
  int64_t T = step->rows[TILE_TOKENS], S = step->rows[TILE_SEGMENTS], R = step->rows[TILE_OUTPUTS];
  c->staged_bytes = 0;
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
  dp_status staging = c->staging;
  c->staging = DP_SUCCESS;
  DP_TRY(staging);
  DP_TRY(cuda_need(c, &c->arguments, c->staged_cap, "a step's arguments", false));
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

/* Calls `each` for the step's results that are read, one behind another in pinned memory; *sum: the bytes of all. */
typedef dp_status each_result(cuda_code *c, const tile_step *step, int output, int64_t at, int64_t bytes);
static dp_status walk_results(cuda_code *c, const tile_step *step, each_result *each, int64_t *sum) {
  const tile_program *p = c->program;
  *sum = 0;
  for (int i = 0; i < p->buffer_count; i++) {
    const tile_buffer *b = &p->buffers[i];
    int64_t bytes = step->rows[b->space] * b->stride * 4;
    if (!cuda_writes(c, step->entry, b) || (step->unread >> b->output & 1) || bytes <= 0) continue;
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

static dp_status find_kernel(cuda_code *c, int64_t entry) {
  char name[40];
  if (c->kernels[entry]) return DP_SUCCESS;
  snprintf(name, sizeof name, "dipper_step_%d", (int)entry);
  return cuda_find_kernel(c->gpu, name, (int64_t)c->note.shared_bytes, &c->kernels[entry]);
}

static dp_status begin_step(cuda_code *c, const tile_step *step) {
  int64_t pages, entries;
  places at = {0};
  count_pages(step, &pages, &entries);
  DP_TRY(find_kernel(c, step->entry));
  DP_TRY(cuda_need_memory(c, step, pages));
  DP_TRY(cuda_need_results(c, c->written[step->entry], step->rows));
  DP_TRY(cuda_give_numbers(c->resident, (int)step->entry, step->arena[TILE_NUMBERS], c->arena[TILE_NUMBERS].at));
  DP_TRY(stage_arguments(c, step, entries, &at));
  cuda_launch launch = make_launch(c, step, &at);
  int blocks = cuda_device_of(c->gpu)->processors;
  cuda_reset_progress(c->progress, blocks);
  DP_TRY(cuda_begin_kernel(c->gpu, c->kernels[step->entry], blocks, (int)c->note.threads,
                           (int64_t)c->note.shared_bytes, &launch));
  c->second = !c->second;
  return DP_SUCCESS;
}

/* What a step that picks has picked, and where it left its counters. */
static void take_turns(cuda_code *c, const tile_step *step, const char *turned) {
  memcpy(step->turned, turned, (size_t)cuda_turned_bytes(step));
  uint32_t made = (uint32_t)step->turned[0];
  c->arrived += made * (uint32_t)cuda_device_of(c->gpu)->processors;
  c->released += made;
  if (made % 2 == 0) c->second = !c->second;
}

static dp_status end_step(cuda_code *c, const tile_step *step) {
  char what[48];
  int64_t bytes, turned = step->turned ? cuda_turned_bytes(step) : 0;
  snprintf(what, sizeof what, "kernel dipper_step_%d", (int)step->entry);
  DP_TRY(walk_results(c, step, NULL, &bytes));
  bool many = bytes > RESULT_BYTES;
  int64_t behind = many ? 0 : bytes;
  DP_TRY(cuda_need_pinned(c, &c->results, &c->results_cap, behind + turned, 0));
  if (!many) DP_TRY(walk_results(c, step, begin_result, &bytes));
  if (turned) DP_TRY(cuda_begin_get(c->gpu, c->results + behind, c->turned.at, turned));
  DP_TRY(cuda_wait(c->gpu, what));
  if (turned) take_turns(c, step, c->results + behind);
  DP_TRY(cuda_take_numbers(c->resident, (int)step->entry, step->arena[TILE_NUMBERS], c->arena[TILE_NUMBERS].at));
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

/* ---- memory of its own, as tile_device has it */

static dp_status begin(const tile_code *code) {
  cuda_code *c = code->self;
  dp_status status = DP_SUCCESS;
  if (cuda_is_lost(c->gpu)) return is_lost();
  memset(c->seen, 0, sizeof *c->seen * (size_t)c->program->slot_count);
  for (int state = TILE_GRADIENT; state < TILE_STATE_COUNT && status.code == DP_OK; state++)
    status = cuda_resident_clear(c->resident, (tile_state)state);
  return settle(c, -1, status);
}

static bool holds(const tile_code *code, tile_state state, int slot) {
  const cuda_code *c = code->self;
  if (state == TILE_VALUE) return c->provided || c->seen[slot];
  return cuda_resident_keeps(c->resident, state, slot);
}

static dp_status fetch(const tile_code *code, tile_state state, int slot, int64_t at, int64_t bytes, void *to) {
  cuda_code *c = code->self;
  if (cuda_is_lost(c->gpu)) return is_lost();
  return settle(c, -1, cuda_resident_fetch(c->resident, state, slot, at, bytes, to));
}

static dp_status store(const tile_code *code, tile_state state, int slot, int64_t at, int64_t bytes, const void *from) {
  cuda_code *c = code->self;
  if (cuda_is_lost(c->gpu)) return is_lost();
  return settle(c, -1, cuda_resident_store(c->resident, state, slot, at, bytes, from));
}

static dp_status clear(const tile_code *code, tile_state state) {
  cuda_code *c = code->self;
  if (cuda_is_lost(c->gpu)) return is_lost();
  return settle(c, -1, cuda_resident_clear(c->resident, state));
}

static dp_status reserve(const tile_code *code, const tile_step *step, int64_t pages) {
  cuda_code *c = code->self;
  if (cuda_is_lost(c->gpu)) return is_lost();
  uint64_t others = 0;
  for (int entry = 1; entry < c->program->entry_count; entry++) others |= c->written[entry];
  dp_status status = cuda_need_memory(c, step, pages);
  if (status.code == DP_OK) status = cuda_need_results(c, others & ~c->written[0], step->rows);
  return settle(c, -1, status);
}

static int64_t worker_bytes(const tile_code *code, const tile_program *program, int64_t max_tokens) {
  const cuda_code *c = code->self;
  return cuda_worker_bytes(program, cuda_device_of(c->gpu), c->scratch_floats, max_tokens);
}

static int64_t available(const tile_code *code) {
  const cuda_code *c = code->self;
  return cuda_device_of(c->gpu)->memory;
}

static int64_t taken(const tile_code *code) { return cuda_bytes_of(code->self); }

static const tile_device memory = {.begin = begin,
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
  free(c->kernels);
  free(c->seen);
  free(c->weights);
  free(c->weight_bytes);
  free(c->outputs);
  free(c->written);
  free(c->inputs_at);
  free(c);
}

static bool trains(const tile_program *p) {
  for (int i = 0; i < p->kind_count; i++)
    if (p->kinds[i].space == TILE_PARAMETERS || p->kinds[i].space == TILE_STATES) return true;
  return false;
}

static dp_status need_progress(cuda_code *c) {
  void *memory;
  int blocks = cuda_device_of(c->gpu)->processors;
  DP_TRY(cuda_pin(c->gpu, (int64_t)sizeof *c->progress * blocks, &memory));
  c->progress = memory;
  cuda_reset_progress(c->progress, blocks);
  return cuda_map_pinned(c->gpu, memory, &c->progress_at);
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
  c->kernels = calloc((size_t)p->entry_count + 1, sizeof *c->kernels);
  c->seen = calloc(slots, sizeof *c->seen);
  c->weights = calloc(slots, sizeof *c->weights);
  c->weight_bytes = calloc(slots, sizeof *c->weight_bytes);
  c->outputs = calloc((size_t)p->output_count + 1, sizeof *c->outputs);
  c->inputs_at = calloc((size_t)p->input_count + 1, sizeof *c->inputs_at);
  if (!c->kernels || !c->seen || !c->weights || !c->weight_bytes || !c->outputs || !c->inputs_at)
    return dp_fail(DP_NO_MEMORY, "no memory to load code");
  DP_TRY(cuda_find_results(c));
  DP_TRY(cuda_open(0, &c->gpu));
  DP_TRY(cuda_open_object(p, object, &c->note, &image));
  DP_TRY(check_chip(&c->note, cuda_device_of(c->gpu)));
  DP_TRY(cuda_load_module(c->gpu, image));
  DP_TRY(cuda_resident_new(p, c->gpu, c->weights, &c->resident));
  c->scratch_floats = (int64_t)c->note.scratch_floats;
  return need_progress(c);
}

/* Weights that an update assigns are put when a step names them: where tied ones are one, and the host may fetch them.
 */
dp_status cuda_load(const tile_program *program, const cg_object *object, tile_code **code) {
  cuda_code *c = calloc(1, sizeof *c);
  if (!c) return dp_fail(DP_NO_MEMORY, "no memory to load code");
  c->code = (tile_code){.run_step = run_step,
                        .takes_turns = true,
                        .device = &memory,
                        .provide = trains(program) ? NULL : provide,
                        .free = unload,
                        .self = c};
  c->program = program;
  dp_status status = set_up(c, object);
  if (status.code == DP_OK)
    *code = &c->code;
  else
    unload(&c->code);
  return status;
}
