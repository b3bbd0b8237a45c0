/* tests/cuda_regions.c: what a launch's pointers point to, and how much of it there is, from the program and the step.
 */
#include "tests/cuda_regions.h"

#include <stdlib.h>
#include <string.h>

typedef struct list {
  host_region *items;
  int count, cap;
} list;

static void add(list *l, const char *name, const void *at, int64_t bytes, int flags) {
  if (!at || bytes <= 0) return;
  if (l->count == l->cap) {
    l->cap = l->cap ? 2 * l->cap : 64;
    l->items = realloc(l->items, sizeof *l->items * (size_t)l->cap);
  }
  l->items[l->count++] = (host_region){name, (char *)(uintptr_t)at, (size_t)bytes, flags};
}

static int64_t slot_bytes(const tile_weight *w, ir_dtype storage) {
  if (w->form == TILE_VECTOR) return tile_slot_floats(w) * 4;
  return (w->rows + TILE_BLOCK - 1) / TILE_BLOCK * TILE_BLOCK * ir_packed_row_bytes(storage, w->cols);
}

static void add_slots(list *l, const tile_weight *w, const tile_step *step) {
  for (int slot = w->first_slot; slot < w->first_slot + w->count * w->inner; slot++) {
    add(l, w->name, step->weights[slot], slot_bytes(w, (ir_dtype)step->weight_types[slot]), HOST_CONSTANT);
    for (int s = 0; s < TILE_STATE_COUNT; s++)
      if (step->states[s])
        add(l, w->name, step->states[s][slot],
            tile_slot_floats(w) * (tile_state_type(w, (tile_state)s) == IR_bf16 ? 2 : 4), 0);
  }
}

static void add_weights(list *l, const tile_program *p, const tile_step *step) {
  add(l, "the table of weights", step->weights, 8 * (int64_t)p->slot_count, HOST_CONSTANT | HOST_POINTERS);
  add(l, "the weights' types", step->weight_types, p->slot_count, HOST_CONSTANT);
  for (int s = 0; s < TILE_STATE_COUNT; s++)
    add(l, "the table of states", step->states[s], 8 * (int64_t)p->slot_count, HOST_CONSTANT | HOST_POINTERS);
  for (int w = 0; w < p->weight_count; w++) add_slots(l, &p->weights[w], step);
}

static void add_activations(list *l, const tile_program *p, const tile_step *step, int flags) {
  static const char *const names[] = {"activations of tokens",
                                      "activations of segments",
                                      "activations of results",
                                      "activations of parameters",
                                      "activations of states",
                                      "activations of a window",
                                      "numbers"};
  for (int space = 0; space < TILE_SPACE_COUNT; space++) {
    int64_t slabs = space == TILE_WINDOW ? p->window : space == TILE_NUMBERS ? 1 : tile_row_tiles(p, step->rows[space]);
    add(l, names[space], step->arena[space], slabs * p->slab_bytes[space], space == TILE_NUMBERS ? 0 : flags);
  }
  add(l, "the table of results", step->outputs, 8 * (int64_t)p->output_count, HOST_CONSTANT | HOST_POINTERS);
  for (int i = 0; i < p->buffer_count; i++) {
    const tile_buffer *b = &p->buffers[i];
    if (b->output >= 0) add(l, b->name, step->outputs[b->output], step->rows[b->space] * b->stride * 4, flags);
  }
}

/* Of what a turn changes for the next one. */
static int argument_flags(const tile_step *step) { return step->turned ? 0 : HOST_CONSTANT; }

static void add_inputs(list *l, const tile_program *p, const tile_step *step) {
  add(l, "the table of inputs", step->inputs, 8 * (int64_t)p->input_count, HOST_CONSTANT | HOST_POINTERS);
  for (int i = 0; i < p->input_count; i++) {
    bool of_results = strcmp(p->inputs[i], "out_rows") == 0;
    add(l, p->inputs[i], step->inputs[i], 4 * step->rows[of_results ? TILE_OUTPUTS : TILE_TOKENS], argument_flags(step));
  }
}

/* Pages of the cache up to the last one that a sequence of the step has; entries of the page tables. */
static void add_cache(list *l, const tile_program *p, const tile_step *step) {
  int64_t pages = 0, entries = 0, T = step->rows[TILE_TOKENS], S = step->rows[TILE_SEGMENTS];
  for (int64_t s = 0; s < S; s++) {
    int64_t first = step->segment_pages[s], end = first + (step->segment_end[s] + TILE_CHUNK - 1) / TILE_CHUNK;
    if (end > entries) entries = end;
    for (int64_t i = first; i < end; i++)
      if (step->pages[i] >= pages) pages = step->pages[i] + 1;
  }
  add(l, "positions", step->positions, 4 * T, argument_flags(step));
  add(l, "slots", step->slots, 4 * T, argument_flags(step));
  add(l, "segments' rows", step->segment_row, 4 * S, HOST_CONSTANT);
  add(l, "segments' tokens", step->segment_tokens, 4 * S, HOST_CONSTANT);
  add(l, "segments' pages", step->segment_pages, 4 * S, HOST_CONSTANT);
  add(l, "segments' ends", step->segment_end, 4 * S, argument_flags(step));
  add(l, "page tables", step->pages, 4 * entries, HOST_CONSTANT);
  add(l, "the KV cache", step->kv, pages * p->page_bytes, HOST_MASKED);
}

static void add_launch(list *l, const tile_program *p, const cuda_launch *launch, int blocks) {
  int64_t tiles = tile_row_tiles(p, launch->step.rows[TILE_TOKENS]);
  add(l, "the arguments", launch, sizeof *launch, HOST_CONSTANT | HOST_POINTERS);
  add(l, "the first segments", launch->first_segment, 4 * (tiles + 1), HOST_CONSTANT);
  add(l, "counters", launch->counters, 4 * launch->counter_count, 0);
  add(l, "the other counters", launch->other_counters, 4 * launch->counter_count, 0);
  if (launch->step.turned) {
    int64_t rows = launch->step.rows[TILE_OUTPUTS];
    add(l, "what was picked", launch->step.turned, 8 + 8 * launch->step.turns * rows, 0);
    add(l, "tokens that end", launch->step.ends, 4 * launch->step.end_count, HOST_CONSTANT);
    add(l, "the blocks' meeting", launch->meeting, 8, 0);
    add(l, "what has ended", launch->ended, 4 * rows, 0);
  }
  add(l, "the progress", launch->progress, (int64_t)sizeof *launch->progress * blocks, 0);
  add(l, "scratch", launch->scratch, 4 * launch->scratch_floats * blocks, HOST_EMPTY);
}

static int by_address(const void *a, const void *b) {
  const host_region *x = a, *y = b;
  return x->at < y->at ? -1 : x->at > y->at ? 1 : 0;
}

/* One memory under two names, as a weight that an update writes, is the one that may do more. */
static void join_those_that_overlap(list *l) {
  int kept = 0;
  for (int i = 1; i < l->count; i++) {
    host_region *last = &l->items[kept], *r = &l->items[i];
    if (r->at >= last->at + last->bytes) {
      l->items[++kept] = *r;
      continue;
    }
    if (r->at + r->bytes > last->at + last->bytes) last->bytes = (size_t)(r->at + r->bytes - last->at);
    last->flags = (last->flags & r->flags & (HOST_CONSTANT | HOST_EMPTY)) |
                  ((last->flags | r->flags) & (HOST_POINTERS | HOST_MASKED));
  }
  l->count = l->count ? kept + 1 : 0;
}

host_region *cuda_list_regions(const tile_program *p, const cuda_launch *launch, int blocks, bool fresh, int *count) {
  list l = {0};
  add_launch(&l, p, launch, blocks);
  add_weights(&l, p, &launch->step);
  add_activations(&l, p, &launch->step, fresh ? HOST_EMPTY : 0);
  add_inputs(&l, p, &launch->step);
  add_cache(&l, p, &launch->step);
  qsort(l.items, (size_t)l.count, sizeof *l.items, by_address);
  join_those_that_overlap(&l);
  *count = l.count;
  return l.items;
}

/* ---- the cache before a step */

static bool appends(const tile_program *p, int cache, int part) {
  for (int k = 0; k < p->kind_count; k++)
    for (int i = 0; i < p->kinds[k].op_count; i++) {
      const tile_op *op = &p->kinds[k].ops[i];
      if (op->code == TILE_append && op->ref == cache && op->part == part) return true;
    }
  return false;
}

/* A position's keys or values of a head, which begin at `at`. */
static void poison_position(char *at, const tile_cache *c, int part, int64_t position) {
  int64_t size = ir_dtype_block_bytes(c->storage);
  for (int64_t e = 0; e < c->dim[part]; e++) {
    int64_t element = part ? (e / 64 * 64 + position) * 64 + e % 64 : e * 64 + position;
    memset(at + element * size, 0xff, (size_t)size);
  }
}

void cuda_poison_cache(const tile_program *p, const tile_step *step) {
  for (int index = 0; index < p->cache_count; index++) {
    const tile_cache *c = &p->caches[index];
    int64_t size = ir_dtype_block_bytes(c->storage), head = (c->key_elements + c->value_elements) * size;
    for (int part = 0; part < 2; part++) {
      if (!appends(p, index, part)) continue;
      for (int64_t t = 0; t < step->rows[TILE_TOKENS]; t++)
        for (int64_t h = 0; h < (c->shared ? 1 : c->layers) * c->heads; h++)
          poison_position(step->kv + step->slots[t] / TILE_CHUNK * p->page_bytes + c->offset + h * head +
                              (part ? c->key_elements * size : 0),
                          c, part, step->slots[t] % TILE_CHUNK);
    }
  }
}
