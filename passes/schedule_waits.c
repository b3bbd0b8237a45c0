/* passes/schedule_waits.c: which tasks must be done before a task may run. The reference is the order of the groups with
 * every section unrolled (three iterations stand for any number: the first, one in the middle, the last). Whenever two
 * group instances touch the same memory and one writes, the later must wait for the earlier, on the rows they share,
 * unless what it waits for already implies that. Nearest first, so that few waits are needed. */
#include "passes/schedule.h"

#include <string.h>

enum { UNROLLED = 3, NO_ORDER = -1 };

/* One iteration of one group. */
typedef struct instance {
  int group, iteration;
} instance;

typedef struct ordering {
  tile_program *p;
  tile_entry entry;
  dp_arena *arena;
  instance *instances;
  int count;
  int *order; /* [later * count + earlier]: the tile_scope that is waited for, by waits alone; NO_ORDER: none */
} ordering;

static const tile_kind *kind_of(const ordering *o, int at) { return &o->p->kinds[o->p->groups[o->instances[at].group].kind]; }
static const tile_section *section_of(const ordering *o, int at) {
  return &o->p->sections[o->p->groups[o->instances[at].group].section];
}

static int unrolled(const tile_section *section) {
  return section->window || section->iterations > UNROLLED ? UNROLLED : section->iterations;
}

/* ---- conflicts ------------------------------------------------------------------------------------------------------------- */

static bool is_cache_op(const tile_op *op) {
  return op->code == TILE_append || op->code == TILE_mma_keys || op->code == TILE_mma_values ||
         op->code == TILE_keys_row;
}

/* Rows that a row tile of the one has in common with a row tile of the same number of the other. */
static bool same_rows_of(const tile_kind *a, const tile_kind *b) {
  if (a->space == TILE_STATES || b->space == TILE_STATES) return false;
  if (a->space == TILE_PARAMETERS || b->space == TILE_PARAMETERS) return a->space == b->space;
  return tile_slab_space(a->space) == tile_slab_space(b->space);
}

static bool reads_buffer(const tile_op *op) { return op->code == TILE_load || op->code == TILE_choose; }
static bool is_state_op(const tile_op *op) { return op->code == TILE_parameter || op->code == TILE_assign; }
static bool is_memory_op(const tile_op *op) { return is_state_op(op) || reads_buffer(op) || op->code == TILE_store || is_cache_op(op) || tile_adds_to_gradient(op->code); }

static bool overlap(const tile_program *p, int a, int b) {
  const tile_buffer *x = &p->buffers[a], *y = &p->buffers[b];
  if (x->output >= 0 || y->output >= 0) return a == b;
  return x->space == y->space && x->offset < y->offset + tile_buffer_bytes(p, y) &&
         y->offset < x->offset + tile_buffer_bytes(p, x);
}

/* Keys are written by a part 0 append and read by mma_keys, values likewise. */
static int cache_part(const tile_op *op) { return op->code == TILE_append ? op->part : op->code == TILE_mma_values; }

/* Rows that must be done when `later` runs after `earlier`; NO_ORDER when they touch different memory or both read. */
static int conflict_of_ops(const ordering *o, int at_later, const tile_op *later, int at_earlier, const tile_op *earlier) {
  const tile_program *p = o->p;
  const instance *x = &o->instances[at_later], *y = &o->instances[at_earlier];
  bool one_section = p->groups[x->group].section == p->groups[y->group].section;
  bool other_window = one_section && section_of(o, at_later)->window && x->iteration != y->iteration; /* of tokens other rows */
  if (is_cache_op(later) != is_cache_op(earlier) || tile_adds_to_gradient(later->code) != tile_adds_to_gradient(earlier->code)) return NO_ORDER;
  if (is_state_op(later) != is_state_op(earlier)) return NO_ORDER;
  if (is_state_op(later)) {
    bool same = later->ref == earlier->ref && later->part == earlier->part;
    return same && (later->code == TILE_assign || earlier->code == TILE_assign) ? TILE_ROW : NO_ORDER;
  }
  if (tile_adds_to_gradient(later->code)) {
    bool other_layer = one_section && x->iteration != y->iteration && p->weights[later->ref].count > 1;
    return later->ref == earlier->ref && !other_layer ? TILE_ROW : NO_ORDER;
  }
  if (is_cache_op(later)) {
    if (later->ref != earlier->ref || cache_part(later) != cache_part(earlier)) return NO_ORDER;
    if (later->code != TILE_append && earlier->code != TILE_append) return NO_ORDER;
    if (one_section && x->iteration != y->iteration && !p->caches[later->ref].shared) return NO_ORDER; /* another layer's */
    /* A sequence goes on from one row tile to the next: its earlier tokens stand in the row tiles before. */
    return later->code == TILE_append || kind_of(o, at_later)->whole ? TILE_ALL : TILE_PREFIX;
  }
  if (reads_buffer(later) && reads_buffer(earlier)) return NO_ORDER;
  if (!overlap(p, later->ref, earlier->ref)) return NO_ORDER;
  if (other_window && p->buffers[later->ref].space == TILE_TOKENS && later->index < 0 && earlier->index < 0) return NO_ORDER;
  if (later->ref == earlier->ref && p->buffers[later->ref].layers && one_section && x->iteration != y->iteration) return NO_ORDER;
  bool same_rows = same_rows_of(kind_of(o, at_later), kind_of(o, at_earlier)) && later->index < 0 && earlier->index < 0;
  return same_rows ? TILE_ROW : TILE_ALL;
}

static int conflict_of(const ordering *o, int later, int earlier) {
  const tile_kind *x = kind_of(o, later), *y = kind_of(o, earlier);
  int scope = NO_ORDER;
  for (int i = 0; i < x->op_count; i++)
    for (int j = 0; j < y->op_count && is_memory_op(&x->ops[i]); j++) {
      if (!is_memory_op(&y->ops[j])) continue;
      int found = conflict_of_ops(o, later, &x->ops[i], earlier, &y->ops[j]);
      if (found > scope) scope = found;
    }
  return scope;
}

/* ---- what waits imply ------------------------------------------------------------------------------------------------------- */

/* Does a wait of `at` mean `other`? */
static bool is_waited_for(const ordering *o, int at, const tile_wait *wait, int other) {
  const instance *self = &o->instances[at];
  const tile_section *section = section_of(o, other);
  bool same = section == section_of(o, at);
  int iteration = unrolled(section) - 1;
  if (o->instances[other].group != wait->group) return false;
  if (wait->when == TILE_FIRST && self->iteration != 0) return false;
  if (wait->when == TILE_PREVIOUS && self->iteration == 0) return false;
  if (section->window && !same) return true; /* the rows of all windows */
  if (wait->when == TILE_PREVIOUS) iteration = self->iteration - 1;
  if (wait->when == TILE_EVERY && same) iteration = self->iteration;
  return o->instances[other].iteration == iteration;
}

/* What `at` waits for, and what that waits for in turn. A step may have no output rows: then nothing runs in a group of
 * them, and what waits for it learns nothing of what it waits for. */
static void close_order(ordering *o, int at) {
  int *own = &o->order[at * o->count];
  const tile_group *group = &o->p->groups[o->instances[at].group];
  bool outputs = kind_of(o, at)->space == TILE_OUTPUTS;
  for (int i = 0; i < o->count; i++) own[i] = NO_ORDER;
  for (int w = 0; w < group->wait_count; w++) {
    int scope = (int)group->waits[w].scope;
    for (int next = 0; next < at; next++) {
      if (!is_waited_for(o, at, &group->waits[w], next)) continue;
      if (scope > own[next]) own[next] = scope;
      if (!outputs && kind_of(o, next)->space == TILE_OUTPUTS) continue;
      const int *further = &o->order[next * o->count];
      bool window_before = section_of(o, at)->window && group->waits[w].when == TILE_PREVIOUS;
      for (int i = 0; i < at; i++) {
        /* What the window before knows of other sections is of its own rows. */
        if (window_before && section_of(o, i) != section_of(o, at)) continue;
        int through = further[i] > scope ? further[i] : scope;
        if (further[i] != NO_ORDER && through > own[i]) own[i] = through;
      }
    }
  }
}

static void close_all(ordering *o) {
  for (int at = 0; at < o->count; at++) close_order(o, at);
}

/* ---- adding waits -------------------------------------------------------------------------------------------------------------- */

static void add_wait(ordering *o, int group, tile_wait wait) {
  tile_group *g = &o->p->groups[group];
  for (int i = 0; i < g->wait_count; i++) {
    if (g->waits[i].group != wait.group || g->waits[i].when != wait.when) continue;
    if (g->waits[i].scope < wait.scope) g->waits[i].scope = wait.scope;
    return;
  }
  DP_PUSH(o->p->arena, g->waits, g->wait_count, g->wait_cap) = wait;
}

/* Makes `later` wait for `earlier`. Of a loop that has ended only the last iteration can be waited for, and of one's own
 * only this and the previous: then each iteration of `earlier` waits for the one before. */
static void order_after(ordering *o, int later, int earlier, tile_scope scope) {
  const instance *x = &o->instances[later], *y = &o->instances[earlier];
  bool same = section_of(o, later) == section_of(o, earlier);
  tile_when when = TILE_EVERY;
  if (same && y->iteration != x->iteration) when = TILE_PREVIOUS;
  else if (!same && x->iteration == 0 && section_of(o, later)->iterations > 1) when = TILE_FIRST;
  if (!same && section_of(o, earlier)->window) {
    add_wait(o, x->group, (tile_wait){y->group, scope, when});
    close_all(o);
    return;
  }
  int reachable = same ? x->iteration - 1 : unrolled(section_of(o, earlier)) - 1;
  if (y->iteration < reachable) add_wait(o, y->group, (tile_wait){y->group, scope, TILE_PREVIOUS});
  add_wait(o, x->group, (tile_wait){y->group, scope, when});
  close_all(o);
}

static void unroll(ordering *o) {
  const tile_program *p = o->p;
  o->instances = DP_NEW_ARRAY(o->arena, instance, p->group_count * UNROLLED);
  for (int s = o->entry.first; s < o->entry.first + o->entry.count; s++)
    for (int i = 0; i < unrolled(&p->sections[s]); i++)
      for (int g = 0; g < p->sections[s].count; g++)
        o->instances[o->count++] = (instance){p->sections[s].first + g, i};
  o->order = DP_NEW_ARRAY(o->arena, int, o->count * o->count);
  close_all(o);
}

/* A wait for every iteration makes the one for the first needless. */
static void drop_covered_waits(tile_program *p) {
  for (int g = 0; g < p->group_count; g++) {
    tile_group *group = &p->groups[g];
    int kept = 0;
    for (int i = 0; i < group->wait_count; i++) {
      tile_wait wait = group->waits[i];
      bool covered = false;
      for (int j = 0; j < group->wait_count; j++)
        covered |= wait.when == TILE_FIRST && group->waits[j].when == TILE_EVERY && group->waits[j].group == wait.group &&
                   group->waits[j].scope >= wait.scope;
      if (!covered) group->waits[kept++] = wait;
    }
    group->wait_count = kept;
  }
}

static dp_status derive_in_entry(tile_program *p, int entry) {
  ordering o = {.p = p, .entry = tile_entry_at(p, entry), .arena = dp_arena_new()};
  if (!o.arena) return (dp_status){DP_NO_MEMORY, NULL};
  unroll(&o);
  for (int later = 0; later < o.count; later++)
    for (int earlier = later - 1; earlier >= 0; earlier--) {
      int scope = conflict_of(&o, later, earlier);
      if (scope != NO_ORDER && o.order[later * o.count + earlier] < scope) order_after(&o, later, earlier, (tile_scope)scope);
    }
  dp_arena_free(o.arena);
  return DP_SUCCESS;
}

dp_status ps_derive_waits(tile_program *p) {
  for (int i = 0; i < p->entry_count; i++) DP_TRY(derive_in_entry(p, i));
  drop_covered_waits(p);
  return DP_SUCCESS;
}
