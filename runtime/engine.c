/* runtime/engine.c: turns a ragged batch of tokens into the arguments of a tile program's step: positions, cache slots,
 * segments of attention, page tables; and owns the memory that a step works in. A step allocates nothing. */
#include "runtime/broken.h"
#include "runtime/engine.h"
#include "runtime/executor.h"
#include "runtime/memory.h"
#include "runtime/region.h"
#include "runtime/resident.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ARGUMENTS = 14 /* arrays of a number for each token */, TURNED = 2 * RT_MOST_TURNS /* numbers of a token besides */, DEFAULT_MAX_TOKENS = 512, TURNS_AT_ONCE = 8, MAX_CONTEXT = 1 << 30 /* slots are int32 */ };

struct rt_sequence {
  int64_t length;
  int32_t *pages; /* [max pages of the engine] */
  int64_t page_count;
  int64_t step; /* number of the last step asked for with it: finds a sequence that stands twice in one */
  rt_sequence *next;
};

struct rt_engine {
  const tile_program *program;
  const tile_code *code;
  rt_executor *executor;
  rt_resident *weights;
  rt_region kv, arena[TILE_SPACE_COUNT], *outputs;
  int64_t context, max_tokens, vocabulary;
  int64_t positions_limit; /* positions that the model has learned */
  bool whole_sequences;    /* no sequence goes on in a later step; of other entries than the first none does anyway */
  int64_t steps; /* asked for so far */
  int64_t page_total, free_count;
  int32_t *free_pages; /* stack */
  rt_sequence *sequences;
  /* step arguments, sized for max_tokens */
  int32_t *targets, *coefficients; /* coefficients: the bits of f32 */
  int32_t *tokens, *positions, *out_rows, *slots_of_tokens;
  int32_t *seeds[2], *places, *temperatures; /* of output rows; temperatures: the bits of f32 */
  int32_t *turned;  /* [2 + TURNED for each token] where steps take turns themselves */
  bool takes_turns; /* the code does */
  int32_t *segment_row, *segment_tokens, *segment_pages, *segment_end, *pages;
  const int32_t **inputs;
  float **output_rows;
  rt_region state_memory[TILE_STATE_COUNT];
  float **states[TILE_STATE_COUNT]; /* [slots]; of values none */
  bool own_inputs;
  int32_t *own; /* [input_count][argument_items(max_tokens)] */
};

/* ---- life */

/* The rows of the smallest table that is read at the numbers of input `name`. */
static int64_t table_rows(const tile_program *p, const char *name) {
  int64_t rows = INT32_MAX;
  for (int k = 0; k < p->kind_count; k++) {
    for (int i = 0; i < p->kinds[k].op_count; i++) {
      const tile_op *op = &p->kinds[k].ops[i];
      if (op->code != TILE_embed || strcmp(p->inputs[op->index], name) != 0) continue;
      if (p->weights[op->ref].rows < rows) rows = p->weights[op->ref].rows;
    }
  }
  return rows;
}

/* Does a token see the ones after it? Then all of a sequence's stand in one step. */
static bool sees_whole_sequences(const tile_program *p) {
  tile_entry first = tile_entry_at(p, 0);
  for (int g = 0; g < p->group_count; g++)
    if (tile_in_entry(p, &first, g) && p->kinds[p->groups[g].kind].whole) return true;
  return false;
}

/* What an entry returns; NULL when it returns nothing. */
static const tile_buffer *output_of(const tile_program *p, int entry) {
  int output = entry < p->entry_count ? p->entries[entry].output : 0;
  for (int i = 0; i < p->buffer_count; i++)
    if (output >= 0 && p->buffers[i].output == output) return &p->buffers[i];
  return NULL;
}

/* A parameter of the graph: memory of the caller's that nothing writes. */
static bool is_given(const tile_program *p, int buffer) {
  if (p->buffers[buffer].output < 0) return false;
  for (int k = 0; k < p->kind_count; k++)
    for (int i = 0; i < p->kinds[k].op_count; i++)
      if (p->kinds[k].ops[i].code == TILE_store && p->kinds[k].ops[i].ref == buffer) return false;
  return true;
}

/* ---- how much: the account that is planned with, and that memory is taken by */

/* Does code have memory of its own for what steps work in? Of that the host then has the numbers alone. */
static bool on_device(const tile_code *code) { return code && code->device; }

static int64_t kept_floats(const tile_weight *weight) { return tile_slot_floats(weight) + TILE_LANES; }

static int64_t state_bytes(const tile_program *p, tile_state state) {
  int64_t bytes = 0;
  for (int w = 0; w < p->weight_count; w++) {
    const tile_weight *weight = &p->weights[w];
    if (!tile_keeps(p, w, state)) continue;
    int64_t slots = (int64_t)weight->count * weight->inner;
    bytes = rt_bytes_plus(bytes, rt_bytes_times(slots, rt_bytes_times(4, kept_floats(weight))));
  }
  return bytes;
}

static int64_t pages_of(int64_t context) { return context / TILE_CHUNK + (context % TILE_CHUNK > 0); }

static int64_t cache_bytes(const tile_program *p, int64_t context) { return rt_bytes_times(pages_of(context), p->page_bytes); }

static int64_t argument_items(int64_t max_tokens) { return rt_bytes_plus(max_tokens, TILE_LANES); }

static int64_t arena_bytes(const tile_program *p, tile_space space, int64_t max_tokens) {
  int64_t tiles = max_tokens / p->row_tile + (max_tokens % p->row_tile > 0);
  return rt_bytes_times(space == TILE_NUMBERS ? 1 : space == TILE_WINDOW ? p->window : tiles, p->slab_bytes[space]);
}

static int64_t output_bytes(const tile_program *p, int buffer, int64_t max_tokens) {
  return rt_bytes_times(max_tokens, p->buffers[buffer].stride * 4);
}

static bool belongs_to_entry_0(const tile_program *p, int buffer) { return output_of(p, 0) == &p->buffers[buffer]; }

static rt_engine_options with_defaults(const rt_engine_options *options) {
  rt_engine_options o = *options;
  if (o.max_tokens <= 0) o.max_tokens = DEFAULT_MAX_TOKENS;
  return o;
}

/* What steps work in. */
static rt_engine_sizes working_sizes(const tile_program *p, const rt_engine_options *o) {
  rt_engine_sizes s = {.cache = rt_region_bytes(cache_bytes(p, o->context))};
  for (int i = TILE_GRADIENT; i < TILE_STATE_COUNT; i++) {
    int64_t bytes = state_bytes(p, (tile_state)i);
    s.states[i] = bytes ? rt_region_bytes(bytes) : 0;
  }
  for (int i = 0; i < TILE_SPACE_COUNT; i++)
    if (p->slab_bytes[i]) s.arena[i] = rt_region_bytes(arena_bytes(p, (tile_space)i, o->max_tokens));
  return s;
}

static void add_results(const tile_program *p, int64_t max_tokens, rt_engine_sizes *s) {
  for (int i = 0; i < p->buffer_count; i++) {
    if (p->buffers[i].output < 0) continue;
    int64_t *to = belongs_to_entry_0(p, i) ? &s->logits : &s->results;
    *to = rt_bytes_plus(*to, rt_region_bytes(output_bytes(p, i, max_tokens)));
  }
}

rt_engine_sizes rt_engine_measure_device(const tile_program *p, const tile_code *code, const rt_binding *binding,
                                         const rt_engine_options *options) {
  rt_engine_options o = with_defaults(options);
  if (!on_device(code)) return (rt_engine_sizes){0};
  rt_engine_sizes s = working_sizes(p, &o);
  s.weights = rt_resident_bytes(p, binding);
  s.workers = code->device->worker_bytes(code, p, o.max_tokens);
  add_results(p, o.max_tokens, &s);
  return s;
}

rt_engine_sizes rt_engine_measure(const tile_program *p, const tile_code *code, const rt_binding *binding,
                                  const rt_engine_options *options) {
  rt_engine_options o = with_defaults(options);
  rt_engine_sizes s = {.weights = rt_resident_bytes(p, binding),
                       .loading = rt_resident_loading_bytes(p, binding, o.workers),
                       .arguments =
                           rt_bytes_times(4, rt_bytes_plus(rt_bytes_times(ARGUMENTS + (code && code->takes_turns ? TURNED : 0), argument_items(o.max_tokens)),
                                                           rt_bytes_times(2, pages_of(o.context)))),
                       .workers = rt_executor_bytes(p, code, o.workers, o.max_tokens, o.max_tokens)};
  rt_engine_sizes working = working_sizes(p, &o);
  s.arena[TILE_NUMBERS] = working.arena[TILE_NUMBERS];
  if (!on_device(code)) {
    s.cache = working.cache;
    memcpy(s.states, working.states, sizeof s.states);
    memcpy(s.arena, working.arena, sizeof s.arena);
  }
  add_results(p, o.max_tokens, &s);
  return s;
}

int64_t rt_engine_sizes_sum(const rt_engine_sizes *s) {
  int64_t parts[] = {s->weights, s->cache, s->results, s->arguments, s->workers}, sum = 0;
  for (size_t i = 0; i < DP_COUNT(parts); i++) sum = rt_bytes_plus(sum, parts[i]);
  for (int i = 0; i < TILE_STATE_COUNT; i++) sum = rt_bytes_plus(sum, s->states[i]);
  for (int i = 0; i < TILE_SPACE_COUNT; i++) sum = rt_bytes_plus(sum, s->arena[i]);
  return sum;
}

rt_engine_sizes rt_engine_get_sizes(const rt_engine *e) {
  const tile_program *p = e->program;
  size_t arguments = ARGUMENTS * (size_t)argument_items(e->max_tokens) + 2 * (size_t)e->page_total;
  rt_engine_sizes s = {.weights = rt_resident_size(e->weights), .cache = (int64_t)e->kv.size,
                       .arguments = (int64_t)(arguments * sizeof(int32_t)), .workers = rt_executor_size(e->executor)};
  for (int i = 0; i < TILE_STATE_COUNT; i++) s.states[i] = (int64_t)e->state_memory[i].size;
  for (int i = 0; i < TILE_SPACE_COUNT; i++) s.arena[i] = (int64_t)e->arena[i].size;
  for (int i = 0; i < p->buffer_count; i++)
    if (p->buffers[i].output >= 0)
      *(belongs_to_entry_0(p, i) ? &s.logits : &s.results) += (int64_t)e->outputs[p->buffers[i].output].size;
  return s;
}

int64_t rt_engine_device_bytes(const rt_engine *e) { return on_device(e->code) ? e->code->device->taken(e->code) : 0; }

static dp_status reserve_on_device(const rt_engine *e, bool cache) {
  tile_step step = {.weights = rt_resident_slots(e->weights), .weight_types = rt_resident_types(e->weights)};
  static const tile_space of_tokens[] = {TILE_TOKENS, TILE_SEGMENTS, TILE_OUTPUTS};
  for (size_t i = 0; i < DP_COUNT(of_tokens); i++) step.rows[of_tokens[i]] = e->max_tokens;
  return e->code->device->reserve(e->code, &step, cache ? e->page_total : 0);
}

dp_status rt_engine_commit(rt_engine *e, bool cache) {
  const tile_program *p = e->program;
  if (on_device(e->code)) DP_TRY(reserve_on_device(e, cache));
  for (int i = 0; i < TILE_STATE_COUNT; i++) DP_TRY(rt_region_commit(&e->state_memory[i], "gradients and moments"));
  for (int i = 0; i < TILE_SPACE_COUNT; i++) DP_TRY(rt_region_commit(&e->arena[i], "activations"));
  for (int i = 0; i < p->buffer_count; i++)
    if (p->buffers[i].output >= 0 && !belongs_to_entry_0(p, i))
      DP_TRY(rt_region_commit(&e->outputs[p->buffers[i].output], "results"));
  return cache ? rt_region_commit(&e->kv, "the KV cache") : DP_SUCCESS;
}

/* ---- setting up */

static dp_status set_up_cache(rt_engine *e) {
  const tile_program *p = e->program;
  e->page_total = pages_of(e->context);
  char what[80];
  snprintf(what, sizeof what, "the KV cache of a context of %lld tokens", (long long)e->context);
  if (!on_device(e->code))
    DP_TRY(rt_region_map_free(&e->kv, cache_bytes(p, e->context), what, "; ask for a smaller context"));
  e->free_pages = calloc((size_t)e->page_total + 1, sizeof *e->free_pages);
  if (!e->free_pages) return dp_fail(DP_NO_MEMORY, "no memory for the table of pages");
  for (int64_t i = 0; i < e->page_total; i++) e->free_pages[i] = (int32_t)(e->page_total - 1 - i);
  e->free_count = e->page_total;
  return DP_SUCCESS;
}

static dp_status find_input(const rt_engine *e, const char *name, const int32_t **list) {
  const struct {
    const char *name;
    int32_t *list;
  } inputs[] = {{"tokens", e->tokens},     {"pos", e->positions},   {"targets", e->targets}, {"coefficients", e->coefficients},
                {"out_rows", e->out_rows}, {"seed", e->seeds[0]},   {"seed2", e->seeds[1]},  {"place", e->places},
                {"temperature", e->temperatures}};
  for (size_t i = 0; i < DP_COUNT(inputs); i++) {
    if (strcmp(inputs[i].name, name) != 0) continue;
    *list = inputs[i].list;
    return DP_SUCCESS;
  }
  return dp_fail(DP_UNSUPPORTED, "the graph has an input '%s' that the engine does not know", name);
}

static dp_status set_up_step(rt_engine *e) {
  const tile_program *p = e->program;
  size_t n = (size_t)argument_items(e->max_tokens);
  int32_t **arrays[ARGUMENTS] = {&e->tokens, &e->targets, &e->coefficients, &e->positions, &e->out_rows, &e->slots_of_tokens,
                                 &e->segment_tokens, &e->segment_row, &e->segment_pages, &e->segment_end,
                                 &e->seeds[0], &e->seeds[1], &e->places, &e->temperatures};
  for (size_t i = 0; i < DP_COUNT(arrays); i++)
    if (!(*arrays[i] = calloc(n, sizeof(int32_t)))) return dp_fail(DP_NO_MEMORY, "no memory for a step's arguments");
  e->turned = calloc(e->takes_turns ? 2 + TURNED * n : 1, sizeof *e->turned);
  if (!e->turned) return dp_fail(DP_NO_MEMORY, "no memory for a step's arguments");
  e->pages = calloc((size_t)e->page_total + 1, sizeof *e->pages);
  e->inputs = calloc((size_t)p->input_count + 1, sizeof *e->inputs);
  e->output_rows = calloc((size_t)p->output_count + 1, sizeof *e->output_rows);
  if (e->own_inputs) e->own = calloc((size_t)p->input_count * n + 1, sizeof *e->own);
  if (!e->pages || !e->inputs || !e->output_rows || (e->own_inputs && !e->own))
    return dp_fail(DP_NO_MEMORY, "no memory for a step's arguments");
  for (int i = 0; i < p->input_count; i++) {
    bool own = e->own_inputs && strcmp(p->inputs[i], "tokens") != 0 && strcmp(p->inputs[i], "pos") != 0 &&
               strcmp(p->inputs[i], "out_rows") != 0;
    if (own) e->inputs[i] = e->own + (size_t)i * n;
    if (!own) DP_TRY(find_input(e, p->inputs[i], &e->inputs[i]));
  }
  for (int i = 0; i < TILE_SPACE_COUNT; i++) {
    if (p->slab_bytes[i] == 0 || (on_device(e->code) && i != TILE_NUMBERS)) continue;
    DP_TRY(rt_region_map_free(&e->arena[i], arena_bytes(p, (tile_space)i, e->max_tokens), "activations",
                              "; ask for fewer tokens a step"));
  }
  e->outputs = calloc((size_t)p->output_count + 1, sizeof *e->outputs);
  if (!e->outputs) return dp_fail(DP_NO_MEMORY, "no memory for a step's arguments");
  for (int i = 0; i < p->buffer_count; i++) {
    int output = p->buffers[i].output;
    if (output < 0) continue;
    if (!e->own_inputs && is_given(p, i))
      return dp_fail(DP_UNSUPPORTED, "the graph has an f32 input '%s', which only compiled graphs take", p->buffers[i].name);
    e->outputs[output].host = e->kv.host;
    DP_TRY(rt_region_map(&e->outputs[output], output_bytes(p, i, e->max_tokens), "logits"));
    e->output_rows[output] = (float *)(void *)e->outputs[output].data;
  }
  return DP_SUCCESS;
}

/* ---- what training keeps beside weights */

static dp_status set_up_state(rt_engine *e, tile_state state) {
  const tile_program *p = e->program;
  float **slots = e->states[state] = calloc((size_t)p->slot_count + 1, sizeof *slots);
  static const char *const names[TILE_STATE_COUNT] = {"weights", "gradients", "the first moments", "the second moments",
                                                      "the masters"};
  if (!slots) return dp_fail(DP_NO_MEMORY, "no memory for the table of %s", names[state]);
  int64_t bytes = state_bytes(p, state), at = 0;
  if (!bytes || on_device(e->code)) return DP_SUCCESS;
  DP_TRY(rt_region_map_free(&e->state_memory[state], bytes, names[state], ""));
  for (int w = 0; w < p->weight_count; w++) {
    const tile_weight *weight = &p->weights[w];
    for (int i = 0; i < weight->count * weight->inner && tile_keeps(p, w, state); i++, at += kept_floats(weight))
      slots[weight->first_slot + i] = (float *)(void *)e->state_memory[state].data + at;
  }
  return DP_SUCCESS;
}

static dp_status set_up_states(rt_engine *e) {
  for (int state = TILE_GRADIENT; state < TILE_STATE_COUNT; state++) DP_TRY(set_up_state(e, (tile_state)state));
  return DP_SUCCESS;
}

static dp_status set_up_masters(rt_engine *e, const rt_binding *binding) {
  const tile_program *p = e->program;
  dp_status status = DP_SUCCESS;
  for (int w = 0; w < p->weight_count && status.code == DP_OK; w++) {
    const tile_weight *weight = &p->weights[w];
    if (!tile_keeps(p, w, TILE_MASTER)) continue;
    int64_t bytes = 4 * tile_slot_floats(weight);
    float *copy = on_device(e->code) ? calloc(1, (size_t)bytes) : NULL;
    if (on_device(e->code) && !copy) return dp_fail(DP_NO_MEMORY, "no memory for the master of '%s'", weight->name);
    for (int i = 0; i < weight->count * weight->inner && status.code == DP_OK; i++) {
      int slot = weight->first_slot + i;
      status = rt_resident_master(p, binding, w, i, copy ? copy : e->states[TILE_MASTER][slot]);
      if (status.code == DP_OK && copy) status = rt_engine_write(e, TILE_MASTER, slot, 0, bytes, copy);
    }
    free(copy);
  }
  return status;
}

const tile_code *rt_engine_code(const rt_engine *e) { return e->code; }

float *const *rt_engine_state(const rt_engine *e, tile_state state) {
  if (state == TILE_VALUE) return (float *const *)rt_resident_slots(e->weights);
  return e->states[state];
}

dp_status rt_engine_clear(rt_engine *e, tile_state state) {
  if (on_device(e->code)) return e->code->device->clear(e->code, state);
  if (e->state_memory[state].data) memset(e->state_memory[state].data, 0, e->state_memory[state].size);
  return DP_SUCCESS;
}

float *rt_engine_number(rt_engine *e, const char *name) {
  const tile_program *p = e->program;
  for (int i = 0; i < p->buffer_count; i++)
    if (p->buffers[i].space == TILE_NUMBERS && strcmp(p->buffers[i].name, name) == 0)
      return (float *)(void *)(e->arena[TILE_NUMBERS].data + p->buffers[i].offset);
  return NULL;
}

const tile_program *rt_engine_program(const rt_engine *e) { return e->program; }

/* Weights on the host, or given to the code. */
static dp_status set_up_weights(rt_engine *e, const rt_binding *binding, const rt_engine_options *options) {
  rt_resident_options packing = {.workers = options->workers, .host = options->host, .borrow = options->borrow};
  tile_provision provision = {.context = e->context, .max_tokens = e->max_tokens};
  if (options->image)
    DP_TRY(rt_resident_map(e->program, options->image_key, options->image, options->image_bytes, &e->weights));
  if (e->code->provide)
    return rt_resident_provide(e->program, binding, e->weights, e->code, provision, &packing, &e->weights);
  return options->image ? DP_SUCCESS : rt_resident_new(e->program, binding, &packing, &e->weights);
}

dp_status rt_engine_new(const tile_program *program, const tile_code *code, const rt_binding *binding,
                        const rt_engine_options *options, rt_engine **engine) {
  *engine = NULL;
  if (options->context < 1 || options->context > MAX_CONTEXT)
    return dp_fail(DP_INVALID, "a context must be of 1 to %d tokens, not %lld", MAX_CONTEXT,
                   (long long)options->context);
  rt_engine *e = calloc(1, sizeof *e);
  if (!e) return dp_fail(DP_NO_MEMORY, "no memory for an engine");
  e->program = program;
  e->code = code;
  e->takes_turns = code->takes_turns;
  e->context = options->context;
  e->max_tokens = with_defaults(options).max_tokens;
  e->vocabulary = table_rows(program, "tokens");
  e->positions_limit = table_rows(program, "pos");
  e->whole_sequences = sees_whole_sequences(program);
  e->own_inputs = options->own_inputs;
  e->kv.host = options->host;
  for (int i = 0; i < TILE_SPACE_COUNT; i++) e->arena[i].host = options->host;
  for (int i = 0; i < TILE_STATE_COUNT; i++) e->state_memory[i].host = options->host;
  dp_status status = on_device(code) ? code->device->begin(code) : DP_SUCCESS;
  if (status.code == DP_OK) status = set_up_cache(e);
  if (status.code == DP_OK) status = set_up_step(e);
  if (status.code == DP_OK)
    status = rt_executor_new(program, code, options->workers, e->max_tokens, e->max_tokens, &e->executor);
  if (status.code == DP_OK) status = set_up_states(e);
  if (status.code == DP_OK && !options->whole_steps) rt_executor_ask(e->executor, options->host);
  if (status.code == DP_OK) status = set_up_weights(e, binding, options);
  if (status.code == DP_OK) status = set_up_masters(e, binding);
  if (status.code != DP_OK) {
    rt_engine_free(e);
    return status;
  }
  *engine = e;
  return DP_SUCCESS;
}

void rt_engine_free(rt_engine *e) {
  if (!e) return;
  rt_executor_free(e->executor);
  while (e->sequences) rt_sequence_free(e, e->sequences);
  rt_resident_free(e->weights);
  rt_region_unmap(&e->kv);
  for (int i = 0; e->outputs && i < e->program->output_count; i++) rt_region_unmap(&e->outputs[i]);
  free(e->outputs);
  for (int i = 0; i < TILE_STATE_COUNT; i++) {
    rt_region_unmap(&e->state_memory[i]);
    free(e->states[i]);
  }
  free(e->targets);
  free(e->coefficients);
  for (int i = 0; i < TILE_SPACE_COUNT; i++) rt_region_unmap(&e->arena[i]);
  free(e->free_pages);
  free(e->tokens);
  free(e->positions);
  free(e->out_rows);
  free(e->seeds[0]);
  free(e->seeds[1]);
  free(e->places);
  free(e->temperatures);
  free(e->turned);
  free(e->slots_of_tokens);
  free(e->segment_row);
  free(e->segment_tokens);
  free(e->segment_pages);
  free(e->segment_end);
  free(e->pages);
  free(e->inputs);
  free(e->own);
  free(e->output_rows);
  free(e);
}

/* ---- sequences */

dp_status rt_sequence_new(rt_engine *e, rt_sequence **sequence) {
  *sequence = NULL;
  rt_sequence *s = calloc(1, sizeof *s);
  if (s) s->pages = calloc((size_t)e->page_total + 1, sizeof *s->pages);
  if (!s || !s->pages) {
    free(s);
    return dp_fail(DP_NO_MEMORY, "no memory for a sequence");
  }
  s->next = e->sequences;
  e->sequences = s;
  *sequence = s;
  return DP_SUCCESS;
}

void rt_sequence_truncate(rt_engine *e, rt_sequence *s, int64_t length) {
  if (length >= s->length) return;
  s->length = length < 0 ? 0 : length;
  int64_t keep = (s->length + TILE_CHUNK - 1) / TILE_CHUNK;
  while (s->page_count > keep) e->free_pages[e->free_count++] = s->pages[--s->page_count];
}

void rt_sequence_free(rt_engine *e, rt_sequence *s) {
  if (!s) return;
  rt_sequence_truncate(e, s, 0);
  for (rt_sequence **at = &e->sequences; *at; at = &(*at)->next) {
    if (*at != s) continue;
    *at = s->next;
    break;
  }
  free(s->pages);
  free(s);
}

int64_t rt_sequence_length(const rt_sequence *s) { return s->length; }
void rt_engine_trace(rt_engine *e, rt_trace *trace) { rt_executor_trace(e->executor, trace); }
int64_t rt_engine_columns(const rt_engine *e) {
  const tile_buffer *output = output_of(e->program, 0);
  return output ? output->cols : 0;
}
int64_t rt_engine_vocabulary(const rt_engine *e) { return e->vocabulary; }
int64_t rt_engine_max_tokens(const rt_engine *e) { return e->max_tokens; }
int64_t rt_engine_context(const rt_engine *e) { return e->context; }

int64_t rt_engine_free_tokens(const rt_engine *e, const rt_sequence *s) {
  int64_t room = (e->free_count + s->page_count) * TILE_CHUNK - s->length, left = e->context - s->length;
  return room < left ? room : left;
}

/* ---- inputs and results of the caller's */

int32_t *rt_engine_ids(rt_engine *e, const char *name) {
  for (int i = 0; i < e->program->input_count; i++)
    if (strcmp(e->program->inputs[i], name) == 0) return (int32_t *)(uintptr_t)e->inputs[i];
  return NULL;
}

int64_t rt_engine_ids_limit(const rt_engine *e, const char *name, int64_t rows) {
  const tile_program *p = e->program;
  int64_t limit = table_rows(p, name);
  for (int k = 0; k < p->kind_count; k++)
    for (int i = 0; i < p->kinds[k].op_count; i++) { /* rows of an activation */
      const tile_op *op = &p->kinds[k].ops[i];
      if (op->code == TILE_load && op->index >= 0 && strcmp(p->inputs[op->index], name) == 0 && rows < limit) limit = rows;
    }
  return limit;
}

float *rt_engine_rows(rt_engine *e, const char *name, int64_t *stride) {
  const tile_program *p = e->program;
  for (int i = 0; i < p->buffer_count; i++) {
    if (!is_given(p, i) || strcmp(p->buffers[i].name, name) != 0) continue;
    *stride = p->buffers[i].stride;
    return e->output_rows[p->buffers[i].output];
  }
  return NULL;
}

void rt_engine_lend_result(rt_engine *e, float *rows) {
  int output = output_of(e->program, 0)->output;
  e->output_rows[output] = rows ? rows : (float *)(void *)e->outputs[output].data;
}

int64_t rt_engine_result_stride(const rt_engine *e) { return output_of(e->program, 0)->stride; }

int64_t rt_engine_borrowed(const rt_engine *e) { return rt_resident_borrowed(e->weights); }

/* ---- steps */

/* Is it entry 0, with more behind it or not? Others are of training: of whole sequences. */
static bool goes_on_from_0(const tile_program *p, int entry) {
  return tile_entry_at(p, entry).first == tile_entry_at(p, 0).first;
}

/* ahead: tokens that each sequence may grow by besides. */
static dp_status check_requests(rt_engine *e, int entry, const rt_request *requests, int count, int64_t ahead) {
  int64_t tokens = 0, pages = 0;
  e->steps++;
  for (int i = 0; i < count; i++) {
    const rt_request *r = &requests[i];
    if (r->count < 1) return dp_fail(DP_INVALID, "request %d of the step has no tokens", i);
    if (r->sequence->step == e->steps) return dp_fail(DP_INVALID, "a sequence stands twice in the step");
    r->sequence->step = e->steps;
    if (r->count > e->max_tokens || (tokens += r->count) > e->max_tokens)
      return dp_fail(DP_INVALID, "the step has more than the %lld tokens that fit", (long long)e->max_tokens);
    int64_t more = r->count + ahead;
    if (r->sequence->length + more > e->context)
      return dp_fail(DP_INVALID, "the context of %lld tokens is full: a sequence of %lld and %lld more do not fit",
                     (long long)e->context, (long long)r->sequence->length, (long long)more);
    if (r->sequence->length + more > e->positions_limit)
      return dp_fail(DP_INVALID, "the model knows %lld positions: a sequence of %lld and %lld more do not fit",
                     (long long)e->positions_limit, (long long)r->sequence->length, (long long)more);
    if ((e->whole_sequences || !goes_on_from_0(e->program, entry)) && r->sequence->length > 0)
      return dp_fail(DP_INVALID, "the model's tokens see those after them: a sequence cannot go on in a later step");
    for (int64_t t = 0; t < r->count; t++)
      if (r->tokens[t] < 0 || r->tokens[t] >= e->vocabulary)
        return dp_fail(DP_INVALID, "token id %d is out of range: the vocabulary has %lld tokens", (int)r->tokens[t],
                       (long long)e->vocabulary);
    int64_t need = (r->sequence->length + more + TILE_CHUNK - 1) / TILE_CHUNK - r->sequence->page_count;
    if (need > 0) pages += need;
  }
  if (pages > e->free_count)
    return dp_fail(DP_INVALID, "the context of %lld tokens is full: %lld more need %lld pages, and %lld are free",
                   (long long)e->context, (long long)tokens, (long long)pages, (long long)e->free_count);
  return DP_SUCCESS;
}

dp_status rt_engine_step(rt_engine *e, const rt_request *requests, int count, rt_logits *logits) {
  return rt_engine_run(e, 0, requests, count, logits);
}

/* An output row, and how the token behind it is drawn. */
static void lay_out_row(rt_engine *e, const rt_request *r, int64_t position, int64_t row, int64_t output) {
  const rt_draw greedy = {0}, *draw = r->draw ? r->draw : &greedy;
  e->out_rows[output] = (int32_t)row;
  memcpy(&e->temperatures[output], &draw->temperature, sizeof draw->temperature);
  for (int i = 0; i < 2; i++) {
    uint32_t word = (uint32_t)(draw->seed >> 32 * i);
    memcpy(&e->seeds[i][output], &word, sizeof word);
  }
  e->places[output] = (int32_t)(position + 1);
}

/* The requests as the arguments of a step; pages are given to their sequences, for `ahead` tokens more too. */
static dp_status lay_out_step(rt_engine *e, int entry, const rt_request *requests, int count, int64_t ahead, tile_step *out) {
  DP_TRY(check_requests(e, entry, requests, count, ahead));
  const tile_program *p = e->program;
  int64_t rows = 0, outputs = 0, segments = 0, pages = 0;
  for (int i = 0; i < count; i++) {
    const rt_request *r = &requests[i];
    rt_sequence *s = r->sequence;
    int64_t need = (s->length + r->count + ahead + TILE_CHUNK - 1) / TILE_CHUNK;
    while (s->page_count < need) s->pages[s->page_count++] = e->free_pages[--e->free_count];
    int64_t first_page = pages;
    memcpy(e->pages + pages, s->pages, sizeof *s->pages * (size_t)s->page_count);
    pages += s->page_count;
    for (int64_t t = 0; t < r->count; t++, rows++) {
      int64_t position = s->length + t;
      e->tokens[rows] = r->tokens[t];
      e->targets[rows] = r->targets ? r->targets[t] : -1;
      const float coefficient = r->coefficients ? r->coefficients[t] : 1;
      memcpy(&e->coefficients[rows], &coefficient, sizeof coefficient);
      e->positions[rows] = (int32_t)position;
      e->slots_of_tokens[rows] = s->pages[position / TILE_CHUNK] * TILE_CHUNK + (int32_t)(position % TILE_CHUNK);
      bool starts = t == 0 || rows % p->row_tile == 0 || e->segment_tokens[segments - 1] == p->segment_tokens;
      if (starts) {
        e->segment_row[segments] = (int32_t)rows;
        e->segment_tokens[segments] = 0;
        e->segment_end[segments] = (int32_t)(s->length + r->count);
        e->segment_pages[segments++] = (int32_t)first_page;
      }
      e->segment_tokens[segments - 1]++;
      bool wanted = r->want == RT_WANT_ALL || (r->want == RT_WANT_LAST && t == r->count - 1);
      if (wanted) lay_out_row(e, r, s->length + t, rows, outputs++);
    }
    s->length += r->count;
  }
  tile_step step = {.entry = entry,
                    .weights = rt_resident_slots(e->weights),
                    .weight_types = rt_resident_types(e->weights),
                    .inputs = e->inputs,
                    .outputs = e->output_rows,
                    .rows = {[TILE_TOKENS] = rows, [TILE_SEGMENTS] = segments, [TILE_OUTPUTS] = outputs, [TILE_PARAMETERS] = 1},
                    .positions = e->positions,
                    .slots = e->slots_of_tokens,
                    .segment_row = e->segment_row,
                    .segment_tokens = e->segment_tokens,
                    .segment_pages = e->segment_pages,
                    .segment_end = e->segment_end,
                    .pages = e->pages,
                    .kv = e->kv.data,
                    .turns = 1};
  const tile_buffer *returned = output_of(p, entry);
  step.unread = returned ? ~((uint64_t)1 << returned->output) : UINT64_MAX;
  for (int i = 0; i < TILE_SPACE_COUNT; i++) step.arena[i] = e->arena[i].data;
  for (int i = 0; i < TILE_STATE_COUNT; i++) step.states[i] = rt_engine_state(e, (tile_state)i);
  *out = step;
  return DP_SUCCESS;
}

/* A step that failed has put nothing into the cache that could be counted on. */
static void forget_step(rt_engine *e, const rt_request *requests, int count) {
  for (int i = 0; i < count; i++)
    rt_sequence_truncate(e, requests[i].sequence, requests[i].sequence->length - requests[i].count);
}

static dp_status run_step(rt_engine *e, const tile_step *step, const rt_request *requests, int count) {
  dp_status status = rt_executor_run(e->executor, step);
  if (status.code != DP_OK) forget_step(e, requests, count);
  return status;
}

dp_status rt_engine_run(rt_engine *e, int entry, const rt_request *requests, int count, rt_logits *logits) {
  tile_step step;
  DP_TRY(lay_out_step(e, entry, requests, count, 0, &step));
  DP_TRY(run_step(e, &step, requests, count));
  const tile_buffer *output = output_of(e->program, entry);
  if (logits && output)
    *logits = (rt_logits){e->output_rows[output->output], step.rows[output->space == TILE_TOKENS ? TILE_TOKENS : TILE_OUTPUTS],
                          output->cols, output->stride};
  return DP_SUCCESS;
}

/* ---- picks */

bool rt_engine_picks(const rt_engine *e) { return tile_find_entry(e->program, "pick") >= 0; }

/* An output's numbers of row `row`. */
static float number_at(const rt_engine *e, int output, int64_t row) {
  for (int i = 0; i < e->program->buffer_count; i++)
    if (e->program->buffers[i].output == output) return e->output_rows[output][row * e->program->buffers[i].stride];
  return 0;
}

int rt_engine_turns(const rt_engine *e) { return e->takes_turns && rt_engine_picks(e) ? TURNS_AT_ONCE : 1; }

/* Runs the entry that picks; picks[turns][rows] are then those of the turns made. */
static dp_status run_turns(rt_engine *e, tile_step *step, const rt_request *requests, int count, rt_pick *picks,
                           bool wants_logits) {
  int output = e->program->entries[step->entry].output;
  int64_t rows = step->rows[TILE_OUTPUTS];
  const uint64_t logits = (uint64_t)1 << output_of(e->program, 0)->output, picked = (uint64_t)3 << output;
  step->unread = ~((wants_logits ? logits : 0) | (e->takes_turns ? 0 : picked));
  if (e->takes_turns) step->turned = e->turned;
  DP_TRY(run_step(e, step, requests, count));
  if (!e->takes_turns) {
    for (int64_t i = 0; i < rows; i++)
      picks[i] = (rt_pick){(int32_t)number_at(e, output, i), number_at(e, output + 1, i)};
    return DP_SUCCESS;
  }
  for (int64_t i = 0; i < rows * e->turned[0]; i++) {
    picks[i].id = e->turned[2 + 2 * i];
    memcpy(&picks[i].log_probability, &e->turned[3 + 2 * i], sizeof picks[i].log_probability);
  }
  return DP_SUCCESS;
}

static dp_status find_pick_entry(const rt_engine *e, int *entry) {
  *entry = tile_find_entry(e->program, "pick");
  return *entry >= 0 ? DP_SUCCESS
                     : dp_fail(DP_UNSUPPORTED, "the graph returns no logits over its tokens: none can be picked");
}

dp_status rt_engine_pick(rt_engine *e, const rt_request *requests, int count, rt_pick *picks, rt_logits *logits) {
  tile_step step;
  int entry;
  DP_TRY(find_pick_entry(e, &entry));
  DP_TRY(lay_out_step(e, entry, requests, count, 0, &step));
  DP_TRY(run_turns(e, &step, requests, count, picks, logits != NULL));
  const tile_buffer *all = output_of(e->program, 0);
  if (logits) *logits = (rt_logits){e->output_rows[all->output], step.rows[TILE_OUTPUTS], all->cols, all->stride};
  return DP_SUCCESS;
}

static bool is_end(const rt_decoding *d, int32_t id) {
  for (int i = 0; i < d->end_count; i++)
    if (d->ends[i] == id) return true;
  return false;
}

/* Have all sequences picked an end in the first turns? */
static bool all_have_ended(const rt_decoding *d, int count, const rt_pick *picks, int turns) {
  for (int i = 0; i < count; i++) {
    bool ended = false;
    for (int t = 0; t < turns; t++) ended |= is_end(d, picks[t * count + i].id);
    if (!ended) return false;
  }
  return true;
}

/* Turn by turn, a step each. */
static dp_status decode_by_steps(rt_engine *e, rt_request *requests, int count, const rt_decoding *d, int turns, rt_pick *picks,
                                 int *made) {
  for (*made = 0; *made < turns;) {
    DP_TRY(rt_engine_pick(e, requests, count, picks + *made * count, NULL));
    for (int i = 0; i < count; i++) requests[i].tokens = &picks[*made * count + i].id;
    if (all_have_ended(d, count, picks, ++*made)) break;
  }
  return DP_SUCCESS;
}

/* As many as the model has positions for, and one, which is refused then. */
static int possible_turns(const rt_engine *e, const rt_request *requests, int count, int turns) {
  for (int i = 0; i < count; i++) {
    int64_t left = e->positions_limit - requests[i].sequence->length;
    if (left < turns) turns = left > 1 ? (int)left : 1;
  }
  return turns;
}

dp_status rt_engine_decode(rt_engine *e, rt_request *requests, int count, const rt_decoding *d, rt_pick *picks, int *made) {
  tile_step step;
  int entry;
  *made = 0;
  DP_TRY(find_pick_entry(e, &entry));
  if (d->turns < 1 || d->turns > RT_MOST_TURNS)
    return dp_fail(DP_INVALID, "%d tokens at once: 1 to %d are possible", d->turns, RT_MOST_TURNS);
  for (int i = 0; i < count; i++)
    if (requests[i].count != 1 || requests[i].want == RT_WANT_NONE)
      return dp_fail(DP_INVALID, "request %d of a decoding is not of one token and what follows it", i);
  int turns = possible_turns(e, requests, count, d->turns);
  if (!e->takes_turns) {
    DP_TRY(check_requests(e, entry, requests, count, turns - 1));
    return decode_by_steps(e, requests, count, d, turns, picks, made);
  }
  DP_TRY(lay_out_step(e, entry, requests, count, turns - 1, &step));
  step.turns = turns;
  step.ends = d->ends;
  step.end_count = d->end_count;
  DP_TRY(run_turns(e, &step, requests, count, picks, false));
  *made = e->turned[0];
  for (int i = 0; i < count; i++) requests[i].sequence->length += *made - 1;
  return DP_SUCCESS;
}

dp_status rt_engine_find_broken(rt_engine *e, int entry, const rt_request *requests, int count, rt_broken *broken) {
  tile_step step;
  DP_TRY(lay_out_step(e, entry, requests, count, 0, &step));
  rt_find_broken(e->executor, e->program, &step, broken);
  return DP_SUCCESS;
}
