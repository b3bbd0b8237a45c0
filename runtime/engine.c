/* runtime/engine.c: turns a ragged batch of tokens into the arguments of a tile program's step: positions, cache slots,
 * segments of attention, page tables; and owns the memory that a step works in. A step allocates nothing. */
#include "runtime/engine.h"
#include "runtime/executor.h"
#include "runtime/region.h"
#include "runtime/resident.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DEFAULT_MAX_TOKENS = 512, MAX_CONTEXT = 1 << 30 /* slots are int32 */ };

struct rt_sequence {
  int64_t length;
  int32_t *pages; /* [max pages of the engine] */
  int64_t page_count;
  int64_t step; /* number of the last step asked for with it: finds a sequence that stands twice in one */
  rt_sequence *next;
};

struct rt_engine {
  const tile_program *program;
  rt_executor *executor;
  rt_resident *weights;
  rt_region kv, arena[TILE_SPACE_COUNT], outputs;
  int64_t context, max_tokens, vocabulary;
  int64_t positions_limit; /* positions that the model has learned */
  bool whole_sequences;    /* no sequence goes on in a later step */
  int64_t steps; /* asked for so far */
  int64_t page_total, free_count;
  int32_t *free_pages; /* stack */
  rt_sequence *sequences;
  /* step arguments, sized for max_tokens */
  int32_t *targets;
  int32_t *tokens, *positions, *out_rows, *slots_of_tokens;
  int32_t *segment_row, *segment_tokens, *segment_pages, *segment_end, *pages;
  const int32_t **inputs;
  float **output_rows;
  int64_t output_columns, output_stride;
  bool row_for_each; /* a row is returned for each token, asked for or not */
  rt_region gradient_memory;
  float **gradients; /* [slots] */
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
  for (int k = 0; k < p->kind_count; k++)
    if (p->kinds[k].whole) return true;
  return false;
}

static dp_status set_up_cache(rt_engine *e) {
  const tile_program *p = e->program;
  e->page_total = (e->context + TILE_CHUNK - 1) / TILE_CHUNK;
  char what[80];
  snprintf(what, sizeof what, "the KV cache of a context of %lld tokens", (long long)e->context);
  int64_t bytes = p->page_bytes > INT64_MAX / e->page_total ? INT64_MAX : e->page_total * p->page_bytes;
  DP_TRY(rt_region_map_free(&e->kv, bytes, what, "; ask for a smaller context"));
  e->free_pages = calloc((size_t)e->page_total + 1, sizeof *e->free_pages);
  if (!e->free_pages) return dp_fail(DP_NO_MEMORY, "no memory for the table of pages");
  for (int64_t i = 0; i < e->page_total; i++) e->free_pages[i] = (int32_t)(e->page_total - 1 - i);
  e->free_count = e->page_total;
  return DP_SUCCESS;
}

static dp_status set_up_step(rt_engine *e) {
  const tile_program *p = e->program;
  size_t n = (size_t)e->max_tokens + TILE_LANES;
  int32_t **arrays[] = {&e->tokens, &e->targets,        &e->positions,   &e->out_rows,     &e->slots_of_tokens,
                        &e->segment_tokens, &e->segment_row, &e->segment_pages,
                        &e->segment_end};
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
    else if (strcmp(p->inputs[i], "out_rows") == 0)
      e->inputs[i] = e->out_rows;
    else
      return dp_fail(DP_UNSUPPORTED, "the graph has an input '%s' that the engine does not know", p->inputs[i]);
  }
  for (int i = 0; i < TILE_SPACE_COUNT; i++) {
    if (p->slab_bytes[i] == 0) continue;
    DP_TRY(rt_region_map(&e->arena[i], tile_row_tiles(p, e->max_tokens) * p->slab_bytes[i], "activations"));
  }
  if (p->output_count != 1)
    return dp_fail(DP_UNSUPPORTED, "the graph returns %d values, the engine runs graphs of one", p->output_count);
  for (int i = 0; i < p->buffer_count; i++) {
    if (p->buffers[i].output != 0) continue;
    e->output_columns = p->buffers[i].cols;
    e->output_stride = p->buffers[i].stride;
    e->row_for_each = p->buffers[i].space == TILE_TOKENS;
  }
  DP_TRY(rt_region_map(&e->outputs, e->max_tokens * e->output_stride * 4, "logits"));
  e->output_rows[0] = (float *)e->outputs.data;
  return DP_SUCCESS;
}

/* f32 in the layout of the weights, whole blocks of rows. */
static int64_t gradient_floats(const tile_weight *weight) {
  if (weight->form == TILE_VECTOR) return (weight->cols + TILE_BLOCK) / TILE_LANES * TILE_LANES;
  return rt_packed_blocks(weight->rows) * TILE_BLOCK * weight->cols;
}

static dp_status set_up_gradients(rt_engine *e) {
  const tile_program *p = e->program;
  e->gradients = calloc((size_t)p->slot_count + 1, sizeof *e->gradients);
  if (!e->gradients) return dp_fail(DP_NO_MEMORY, "no memory for the table of gradients");
  for (int pass = 0; pass < 2; pass++) {
    int64_t at = 0;
    for (int w = 0; w < p->weight_count; w++) {
      const tile_weight *weight = &p->weights[w];
      for (int i = 0; i < weight->count * weight->inner; i++) {
        if (pass) e->gradients[weight->first_slot + i] = (float *)(void *)e->gradient_memory.data + at;
        at += gradient_floats(weight);
      }
    }
    if (!pass) DP_TRY(rt_region_map(&e->gradient_memory, at * 4, "gradients"));
  }
  return DP_SUCCESS;
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
  e->context = options->context;
  e->max_tokens = options->max_tokens > 0 ? options->max_tokens : DEFAULT_MAX_TOKENS;
  e->vocabulary = table_rows(program, "tokens");
  e->positions_limit = table_rows(program, "pos");
  e->whole_sequences = sees_whole_sequences(program);
  dp_status status = set_up_cache(e);
  if (status.code == DP_OK) status = set_up_step(e);
  if (status.code == DP_OK)
    status = rt_executor_new(program, code, options->workers, e->max_tokens, e->max_tokens, &e->executor);
  if (status.code == DP_OK && options->gradients) status = set_up_gradients(e);
  rt_resident_options resident = {.workers = options->workers};
  if (status.code == DP_OK) status = rt_resident_new(program, binding, &resident, &e->weights);
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
  rt_region_unmap(&e->outputs);
  rt_region_unmap(&e->gradient_memory);
  free(e->gradients);
  free(e->targets);
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
int64_t rt_engine_columns(const rt_engine *e) { return e->output_columns; }
int64_t rt_engine_vocabulary(const rt_engine *e) { return e->vocabulary; }
int64_t rt_engine_max_tokens(const rt_engine *e) { return e->max_tokens; }
int64_t rt_engine_context(const rt_engine *e) { return e->context; }

int64_t rt_engine_free_tokens(const rt_engine *e, const rt_sequence *s) {
  int64_t room = (e->free_count + s->page_count) * TILE_CHUNK - s->length, left = e->context - s->length;
  return room < left ? room : left;
}

/* ---- steps */

static dp_status check_requests(rt_engine *e, const rt_request *requests, int count) {
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
    if (e->whole_sequences && r->sequence->length > 0)
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
  DP_TRY(check_requests(e, requests, count));
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
  tile_step step = {.weights = rt_resident_slots(e->weights),
                    .weight_types = rt_resident_types(e->weights),
                    .gradients = e->gradients,
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
  rt_executor_run(e->executor, &step);
  if (logits) *logits = (rt_logits){e->output_rows[0], e->row_for_each ? rows : outputs, e->output_columns, e->output_stride};
  return DP_SUCCESS;
}

/* ---- weights and gradients as they are now */

void rt_engine_clear_gradients(rt_engine *e) {
  memset(e->gradient_memory.data, 0, (size_t)e->gradient_memory.size);
}

/* Adds the packed matrix or vector to f32[rows, cols] in the model's order. */
static void add_unpacked(const tile_weight *weight, const float *packed, float *to) {
  for (int64_t r = 0; r < weight->rows; r++)
    for (int64_t c = 0; c < weight->cols; c++) {
      int64_t at = weight->form == TILE_VECTOR ? c : (r / TILE_BLOCK * weight->cols + c) * TILE_BLOCK + r % TILE_BLOCK;
      to[weight->transposed ? c * weight->rows + r : r * weight->cols + c] += packed[at];
    }
}

void rt_engine_copy_out(const rt_engine *e, bool gradients, rt_binding *into) {
  const tile_program *p = e->program;
  rt_binding_clear(into);
  for (int w = 0; w < p->weight_count; w++) {
    const tile_weight *weight = &p->weights[w];
    bool repeated = !gradients && rt_binding_tie(into, weight->weight) >= 0;
    for (int i = 0; i < weight->count * weight->inner && !repeated; i++) {
      int slot = weight->first_slot + i;
      const float *from = gradients ? e->gradients[slot] : rt_resident_slots(e->weights)[slot];
      add_unpacked(weight, from, rt_binding_floats(into, weight->weight, i));
    }
  }
}
