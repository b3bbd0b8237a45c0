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

enum { ARGUMENTS = 10 /* arrays of a number for each token */, DEFAULT_MAX_TOKENS = 512, MAX_CONTEXT = 1 << 30 /* slots are int32 */ };

struct rt_sequence {
  int64_t length;
  int32_t *pages; /* [max pages of the engine] */
  int64_t page_count;
  int64_t step; /* number of the last step asked for with it: finds a sequence that stands twice in one */
  rt_sequence *next;
};

struct rt_engine {
  const tile_program *program;
  bool elsewhere; /* the code has memory of its own: weights, cache and activations are not the host's */
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
  int32_t *segment_row, *segment_tokens, *segment_pages, *segment_end, *pages;
  const int32_t **inputs;
  float **output_rows;
  rt_region state_memory[TILE_STATE_COUNT];
  float **states[TILE_STATE_COUNT]; /* [slots]; of values none */
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

/* ---- how much: the account that is planned with, and that memory is taken by */

static bool keeps(const tile_program *p, int weight, tile_state state) {
  for (int k = 0; k < p->kind_count; k++)
    for (int i = 0; i < p->kinds[k].op_count; i++) {
      const tile_op *op = &p->kinds[k].ops[i];
      bool adds = tile_adds_to_gradient(op->code) && state == TILE_GRADIENT;
      bool touches = (op->code == TILE_parameter || op->code == TILE_assign) && op->part == (int)state;
      if ((adds || touches) && op->ref == weight) return true;
    }
  return false;
}

static int64_t kept_floats(const tile_weight *weight) { return tile_slot_floats(weight) + TILE_LANES; }

static int64_t state_bytes(const tile_program *p, tile_state state) {
  int64_t bytes = 0;
  for (int w = 0; w < p->weight_count; w++) {
    const tile_weight *weight = &p->weights[w];
    if (!keeps(p, w, state)) continue;
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

rt_engine_sizes rt_engine_measure(const tile_program *p, const tile_code *code, const rt_binding *binding,
                                  const rt_engine_options *options) {
  rt_engine_options o = with_defaults(options);
  rt_engine_sizes s = {.weights = rt_resident_bytes(p, binding),
                       .loading = rt_resident_loading_bytes(p, binding, o.workers),
                       .cache = rt_region_bytes(cache_bytes(p, o.context)),
                       .arguments = rt_bytes_times(4, rt_bytes_plus(rt_bytes_times(ARGUMENTS, argument_items(o.max_tokens)),
                                                                    rt_bytes_times(2, pages_of(o.context)))),
                       .workers = rt_executor_bytes(p, code, o.workers, o.max_tokens, o.max_tokens)};
  for (int i = TILE_GRADIENT; i < TILE_STATE_COUNT; i++) {
    int64_t bytes = state_bytes(p, (tile_state)i);
    s.states[i] = bytes ? rt_region_bytes(bytes) : 0;
  }
  for (int i = 0; i < TILE_SPACE_COUNT; i++)
    if (p->slab_bytes[i]) s.arena[i] = rt_region_bytes(arena_bytes(p, (tile_space)i, o.max_tokens));
  for (int i = 0; i < p->buffer_count; i++) {
    if (p->buffers[i].output < 0) continue;
    int64_t *to = belongs_to_entry_0(p, i) ? &s.logits : &s.results;
    *to = rt_bytes_plus(*to, rt_region_bytes(output_bytes(p, i, o.max_tokens)));
  }
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

dp_status rt_engine_commit(rt_engine *e, bool cache) {
  const tile_program *p = e->program;
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
  if (!e->elsewhere) DP_TRY(rt_region_map_free(&e->kv, cache_bytes(p, e->context), what, "; ask for a smaller context"));
  e->free_pages = calloc((size_t)e->page_total + 1, sizeof *e->free_pages);
  if (!e->free_pages) return dp_fail(DP_NO_MEMORY, "no memory for the table of pages");
  for (int64_t i = 0; i < e->page_total; i++) e->free_pages[i] = (int32_t)(e->page_total - 1 - i);
  e->free_count = e->page_total;
  return DP_SUCCESS;
}

static dp_status set_up_step(rt_engine *e) {
  const tile_program *p = e->program;
  size_t n = (size_t)argument_items(e->max_tokens);
  int32_t **arrays[ARGUMENTS] = {&e->tokens, &e->targets, &e->coefficients, &e->positions, &e->out_rows, &e->slots_of_tokens,
                                 &e->segment_tokens, &e->segment_row, &e->segment_pages, &e->segment_end};
  for (size_t i = 0; i < DP_COUNT(arrays); i++)
    if (!(*arrays[i] = calloc(n, sizeof(int32_t)))) return dp_fail(DP_NO_MEMORY, "no memory for a step's arguments");
  e->pages = calloc((size_t)e->page_total + 1, sizeof *e->pages);
  e->inputs = calloc((size_t)p->input_count + 1, sizeof *e->inputs);
  e->output_rows = calloc((size_t)p->output_count + 1, sizeof *e->output_rows);
  if (!e->pages || !e->inputs || !e->output_rows) return dp_fail(DP_NO_MEMORY, "no memory for a step's arguments");
  for (int i = 0; i < p->input_count; i++) {
    if (strcmp(p->inputs[i], "tokens") == 0)
      e->inputs[i] = e->tokens;
    else if (strcmp(p->inputs[i], "pos") == 0)
      e->inputs[i] = e->positions;
    else if (strcmp(p->inputs[i], "targets") == 0)
      e->inputs[i] = e->targets;
    else if (strcmp(p->inputs[i], "coefficients") == 0)
      e->inputs[i] = e->coefficients;
    else if (strcmp(p->inputs[i], "out_rows") == 0)
      e->inputs[i] = e->out_rows;
    else
      return dp_fail(DP_UNSUPPORTED, "the graph has an input '%s' that the engine does not know", p->inputs[i]);
  }
  for (int i = 0; i < TILE_SPACE_COUNT; i++) {
    if (p->slab_bytes[i] == 0 || e->elsewhere) continue;
    DP_TRY(rt_region_map_free(&e->arena[i], arena_bytes(p, (tile_space)i, e->max_tokens), "activations",
                              "; ask for fewer tokens a step"));
  }
  e->outputs = calloc((size_t)p->output_count + 1, sizeof *e->outputs);
  if (!e->outputs) return dp_fail(DP_NO_MEMORY, "no memory for a step's arguments");
  for (int i = 0; i < p->buffer_count; i++) {
    int output = p->buffers[i].output;
    if (output < 0) continue;
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
  if (!bytes) return DP_SUCCESS;
  DP_TRY(rt_region_map_free(&e->state_memory[state], bytes, names[state], ""));
  for (int w = 0; w < p->weight_count; w++) {
    const tile_weight *weight = &p->weights[w];
    for (int i = 0; i < weight->count * weight->inner && keeps(p, w, state); i++, at += kept_floats(weight))
      slots[weight->first_slot + i] = (float *)(void *)e->state_memory[state].data + at;
  }
  return DP_SUCCESS;
}

static dp_status set_up_states(rt_engine *e) {
  for (int state = TILE_GRADIENT; state < TILE_STATE_COUNT; state++) DP_TRY(set_up_state(e, (tile_state)state));
  return DP_SUCCESS;
}

float *const *rt_engine_state(const rt_engine *e, tile_state state) {
  if (state == TILE_VALUE) return (float *const *)rt_resident_slots(e->weights);
  return e->states[state];
}

void rt_engine_clear(rt_engine *e, tile_state state) {
  if (e->state_memory[state].data) memset(e->state_memory[state].data, 0, e->state_memory[state].size);
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
static dp_status set_up_weights(rt_engine *e, const tile_code *code, const rt_binding *binding, const rt_engine_options *options) {
  rt_resident_options packing = {.workers = options->workers};
  tile_provision provision = {.context = e->context, .max_tokens = e->max_tokens};
  if (options->image)
    DP_TRY(rt_resident_map(e->program, options->image_key, options->image, options->image_bytes, &e->weights));
  if (e->elsewhere) return rt_resident_provide(e->program, binding, e->weights, code, provision, &packing, &e->weights);
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
  e->elsewhere = code && code->provide;
  e->context = options->context;
  e->max_tokens = with_defaults(options).max_tokens;
  e->vocabulary = table_rows(program, "tokens");
  e->positions_limit = table_rows(program, "pos");
  e->whole_sequences = sees_whole_sequences(program);
  dp_status status = set_up_cache(e);
  if (status.code == DP_OK) status = set_up_step(e);
  if (status.code == DP_OK)
    status = rt_executor_new(program, code, options->workers, e->max_tokens, e->max_tokens, &e->executor);
  if (status.code == DP_OK) status = set_up_states(e);
  if (status.code == DP_OK) status = set_up_weights(e, code, binding, options);
  if (status.code == DP_OK) status = rt_resident_masters(program, binding, e->states[TILE_MASTER]);
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
  free(e->slots_of_tokens);
  free(e->segment_row);
  free(e->segment_tokens);
  free(e->segment_pages);
  free(e->segment_end);
  free(e->pages);
  free(e->inputs);
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

/* ---- steps */

static dp_status check_requests(rt_engine *e, int entry, const rt_request *requests, int count) {
  int64_t tokens = 0, pages = 0;
  e->steps++;
  for (int i = 0; i < count; i++) {
    const rt_request *r = &requests[i];
    if (r->count < 1) return dp_fail(DP_INVALID, "request %d of the step has no tokens", i);
    if (r->sequence->step == e->steps) return dp_fail(DP_INVALID, "a sequence stands twice in the step");
    r->sequence->step = e->steps;
    if (r->count > e->max_tokens || (tokens += r->count) > e->max_tokens)
      return dp_fail(DP_INVALID, "the step has more than the %lld tokens that fit", (long long)e->max_tokens);
    if (r->sequence->length + r->count > e->context)
      return dp_fail(DP_INVALID, "the context of %lld tokens is full: a sequence of %lld and %lld more do not fit",
                     (long long)e->context, (long long)r->sequence->length, (long long)r->count);
    if (r->sequence->length + r->count > e->positions_limit)
      return dp_fail(DP_INVALID, "the model knows %lld positions: a sequence of %lld and %lld more do not fit",
                     (long long)e->positions_limit, (long long)r->sequence->length, (long long)r->count);
    if ((entry || e->whole_sequences) && r->sequence->length > 0)
      return dp_fail(DP_INVALID, "the model's tokens see those after them: a sequence cannot go on in a later step");
    for (int64_t t = 0; t < r->count; t++)
      if (r->tokens[t] < 0 || r->tokens[t] >= e->vocabulary)
        return dp_fail(DP_INVALID, "token id %d is out of range: the vocabulary has %lld tokens", (int)r->tokens[t],
                       (long long)e->vocabulary);
    pages += (r->sequence->length + r->count + TILE_CHUNK - 1) / TILE_CHUNK - r->sequence->page_count;
  }
  if (pages > e->free_count)
    return dp_fail(DP_INVALID, "the context of %lld tokens is full: %lld more need %lld pages, and %lld are free",
                   (long long)e->context, (long long)tokens, (long long)pages, (long long)e->free_count);
  return DP_SUCCESS;
}

dp_status rt_engine_step(rt_engine *e, const rt_request *requests, int count, rt_logits *logits) {
  return rt_engine_run(e, 0, requests, count, logits);
}

/* The requests as the arguments of a step; pages are given to their sequences. */
static dp_status lay_out_step(rt_engine *e, int entry, const rt_request *requests, int count, tile_step *out) {
  DP_TRY(check_requests(e, entry, requests, count));
  const tile_program *p = e->program;
  int64_t rows = 0, outputs = 0, segments = 0, pages = 0;
  for (int i = 0; i < count; i++) {
    const rt_request *r = &requests[i];
    rt_sequence *s = r->sequence;
    int64_t need = (s->length + r->count + TILE_CHUNK - 1) / TILE_CHUNK;
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
      if (wanted) e->out_rows[outputs++] = (int32_t)rows;
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
                    .kv = e->kv.data};
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

dp_status rt_engine_run(rt_engine *e, int entry, const rt_request *requests, int count, rt_logits *logits) {
  tile_step step;
  DP_TRY(lay_out_step(e, entry, requests, count, &step));
  dp_status status = rt_executor_run(e->executor, &step);
  if (status.code != DP_OK) forget_step(e, requests, count);
  DP_TRY(status);
  const tile_buffer *output = output_of(e->program, entry);
  if (logits && output)
    *logits = (rt_logits){e->output_rows[output->output], step.rows[output->space == TILE_TOKENS ? TILE_TOKENS : TILE_OUTPUTS],
                          output->cols, output->stride};
  return DP_SUCCESS;
}

dp_status rt_engine_find_broken(rt_engine *e, int entry, const rt_request *requests, int count, rt_broken *broken) {
  tile_step step;
  DP_TRY(lay_out_step(e, entry, requests, count, &step));
  rt_find_broken(e->executor, e->program, &step, broken);
  return DP_SUCCESS;
}
