/* ir/tile_check.c: proves that the tasks of a step cannot race and cannot wait for ever. All tasks of one (group,
 * iteration, row tile) share their waits, so the order "happens before" is kept between these instances: a bit matrix,
 * closed transitively while the instances are listed in program order. What their tasks touch is compared as
 * rectangles: rows x columns of a buffer of a row tile's slab, of an output, or of a cache's layer. */
#include "ir/tile_access.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

typedef enum region_form { IN_SLAB, IN_OUTPUT, IN_CACHE, IN_GRADIENT, IN_STATE } region_form;

/* What one task's op touches: rows [row0, row1), columns [col0, col1). */
typedef struct touch {
  region_form form;
  int place;          /* slab: space; output: its index; cache: 2 * cache + part */
  int buffer;         /* -1 for caches */
  int64_t tile;       /* slab: row tile; else 0 */
  int64_t row0, row1; /* slab: within the tile; output: its rows; cache: sequence * positions + position */
  int64_t col0, col1;
  bool write;
  bool layered;       /* other layers' lie elsewhere */
  int op;
  int64_t row, col; /* the task's indices */
  int64_t batch;    /* >= 0: only rows that chose it; no row of a token is two batches' */
} touch;

typedef struct segment {
  int64_t row0, tokens, tile;
} segment;

/* A group over one row tile; its accesses are the same in every iteration, but for the layer of the caches. */
typedef struct site {
  int group;
  int64_t tile;
  int64_t first_id; /* id of iteration 0; the next iterations follow section_width apart */
  touch *touches;
  int count, cap;
  touch *bounds; /* one a buffer or cache part read or written: the rectangle around them */
  int bound_count, bound_cap;
} site;

/* Two unordered tasks. One missing wait makes many: the one told is that whose later task comes first in program order,
 * and whose earlier task is nearest to it. */
typedef struct race {
  const site *sites[2];
  int64_t iterations[2], ids[2]; /* the earlier in program order first */
  const touch *touches[2];
} race;

typedef struct check {
  const tile_program *program;
  tile_entry entry;
  dp_arena *arena;
  int64_t rows[TILE_SPACE_COUNT], tiles[TILE_SPACE_COUNT]; /* tiles of SEGMENTS are those of TOKENS */
  int64_t sequences, past, positions;                      /* positions: the most that a sequence has */
  segment *segments;
  int segment_count, segment_cap;
  site *sites;
  int64_t *first_site; /* per group; its sites follow by row tile */
  int64_t site_count;
  int64_t *section_width; /* instances of one iteration */
  int64_t instances, words;
  uint64_t *before; /* before[id * words ...]: bit set of the instances that are done before `id` starts */
  bool *overlap;    /* per pair of buffers: their bytes in a slab meet */
  race race;        /* the first found so far */
} check;

/* ---- the step */

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

static int64_t sequence_first(const check *c, int64_t sequence) {
  int64_t size = c->rows[TILE_TOKENS] / c->sequences, longer = c->rows[TILE_TOKENS] % c->sequences;
  return sequence * size + least(sequence, longer);
}

static int64_t sequence_of(const check *c, int64_t token) {
  int64_t sequence = 0;
  while (sequence + 1 < c->sequences && sequence_first(c, sequence + 1) <= token) sequence++;
  return sequence;
}

/* Row of a cache part that stands for a token's position in its sequence. */
static int64_t cache_row(const check *c, int64_t token) {
  int64_t sequence = sequence_of(c, token);
  return sequence * c->positions + c->past + token - sequence_first(c, sequence);
}

static void cut_segments(check *c) {
  int64_t row_tile = c->program->row_tile, limit = c->program->segment_tokens;
  for (int64_t sequence = 0; sequence < c->sequences; sequence++) {
    int64_t end = sequence_first(c, sequence + 1);
    for (int64_t row = sequence_first(c, sequence), tokens; row < end; row += tokens) {
      tokens = least(least(end - row, limit), row_tile - row % row_tile);
      DP_PUSH(c->arena, c->segments, c->segment_count, c->segment_cap) = (segment){row, tokens, row / row_tile};
    }
  }
}

static const tile_kind *kind_of(const check *c, int group) {
  return &c->program->kinds[c->program->groups[group].kind];
}

static int64_t windows_of(const check *c, int window) { return window ? (c->tiles[TILE_TOKENS] + window - 1) / window : 1; }

/* Its row tiles, or slots, or windows. */
static int64_t tiles_of(const check *c, int group) {
  const tile_kind *kind = kind_of(c, group);
  if (kind->window && kind->space == TILE_PARAMETERS) return windows_of(c, kind->window);
  return kind_of(c, group)->slots ? kind_of(c, group)->slots : c->tiles[kind_of(c, group)->space];
}

/* Its row tiles in window `w`, all of them where there are none. */
static void tiles_in_window(const check *c, int group, int64_t w, int64_t *from, int64_t *to) {
  const tile_kind *kind = kind_of(c, group);
  *from = 0;
  *to = tiles_of(c, group);
  if (!kind->window) return;
  int64_t size = kind->space == TILE_PARAMETERS ? 1 : kind->window;
  *from = w * size;
  if ((w + 1) * size < *to) *to = (w + 1) * size;
}

static tile_section *section_of(const check *c, int group) {
  return &c->program->sections[c->program->groups[group].section];
}

static int64_t id_of(const check *c, const site *s, int64_t iteration) {
  return s->first_id + iteration * c->section_width[c->program->groups[s->group].section];
}

static site *site_of(const check *c, int group, int64_t tile) { return &c->sites[c->first_site[group] + tile]; }

static dp_status list_instances(check *c) {
  const tile_program *p = c->program;
  c->first_site = DP_NEW_ARRAY(c->arena, int64_t, p->group_count + 1);
  c->section_width = DP_NEW_ARRAY(c->arena, int64_t, p->section_count + 1);
  for (int g = 0; g < p->group_count; g++) {
    c->first_site[g] = c->site_count;
    if (tile_in_entry(p, &c->entry, g)) c->site_count += tiles_of(c, g);
  }
  c->sites = DP_NEW_ARRAY(c->arena, site, c->site_count + 1);
  for (int s = c->entry.first; s < c->entry.first + c->entry.count; s++) {
    const tile_section *section = &p->sections[s];
    for (int64_t w = 0, from, to; w < windows_of(c, section->window); w++) {
      for (int g = section->first; g < section->first + section->count; g++) {
        tiles_in_window(c, g, w, &from, &to);
        for (int64_t tile = from; tile < to; tile++)
          *site_of(c, g, tile) = (site){.group = g, .tile = tile, .first_id = c->instances + c->section_width[s]++};
      }
    }
    c->instances += c->section_width[s] * section->iterations;
  }
  if (c->instances > 1 << 17)
    return dp_fail(DP_UNSUPPORTED, "%" PRId64 " task instances are too many to check: take fewer rows or layers",
                   c->instances);
  return DP_SUCCESS;
}

/* ---- happens before */

static bool is_before(const check *c, int64_t earlier, int64_t later) {
  return c->before[later * c->words + earlier / 64] >> (earlier % 64) & 1;
}

static const char *group_name(const check *c, int group) { return kind_of(c, group)->name; }

/* The same between groups of one section of windows. */
static dp_status wait_in_windows(const check *c, int group, const tile_wait *wait, int64_t tile, int64_t *from, int64_t *to) {
  const tile_kind *own = kind_of(c, group), *other = kind_of(c, wait->group);
  int64_t window = own->space == TILE_PARAMETERS ? tile : tile / own->window;
  *from = *to = 0;
  if (wait->when == TILE_PREVIOUS && window-- == 0) return DP_SUCCESS;
  tiles_in_window(c, wait->group, window, from, to);
  if (wait->scope == TILE_ALL) return DP_SUCCESS;
  if (own->space != other->space || wait->scope != TILE_ROW)
    return dp_fail(DP_BUG, "group %d '%s' waits for group %d '%s', whose rows in the window are others", group,
                   group_name(c, group), wait->group, group_name(c, wait->group));
  int64_t back = wait->when != TILE_PREVIOUS ? 0 : own->space == TILE_PARAMETERS ? 1 : own->window;
  *from = tile - back;
  if (*to > tile - back + 1) *to = tile - back + 1;
  return DP_SUCCESS;
}

/* The row tiles of the producer that a wait of a task in row tile `tile` means. */
static dp_status wait_tiles(const check *c, int group, const tile_wait *wait, int64_t tile, int64_t *from,
                            int64_t *to) {
  tile_space own = kind_of(c, group)->space, other = kind_of(c, wait->group)->space;
  bool one_section = c->program->groups[group].section == c->program->groups[wait->group].section;
  if (one_section && kind_of(c, group)->window) return wait_in_windows(c, group, wait, tile, from, to);
  *from = 0;
  *to = tiles_of(c, wait->group);
  if (wait->scope == TILE_ALL) return DP_SUCCESS;
  bool apart = own == TILE_PARAMETERS || other == TILE_PARAMETERS;
  bool same_rows = apart ? own == other : tile_slab_space(own) == tile_slab_space(other);
  if (own == TILE_STATES) same_rows = other == own && kind_of(c, group)->slots == kind_of(c, wait->group)->slots;
  if (!same_rows)
    return dp_fail(DP_BUG,
                   "group %d '%s' waits for its row tile of group %d '%s', but the two have rows of "
                   "different spaces: such a wait can only be for all row tiles",
                   group, group_name(c, group), wait->group, group_name(c, wait->group));
  if (wait->scope == TILE_ROW) *from = tile;
  *to = tile + 1;
  return DP_SUCCESS;
}

/* Which iteration of the producer a wait in `iteration` means; -1: none. */
static dp_status wait_iteration(const check *c, int group, const tile_wait *wait, int64_t iteration, int64_t *result) {
  const tile_group *own = &c->program->groups[group], *other = &c->program->groups[wait->group];
  *result = -1;
  if (wait->when == TILE_PREVIOUS) {
    if (own->section != other->section)
      return dp_fail(DP_BUG,
                     "group %d '%s' waits for the previous iteration of group %d '%s', which is in another "
                     "section",
                     group, group_name(c, group), wait->group, group_name(c, wait->group));
    *result = kind_of(c, group)->window ? iteration : iteration - 1;
    return DP_SUCCESS;
  }
  bool later = wait->when == TILE_FIRST ? other->section >= own->section : wait->group >= group;
  if (later)
    return dp_fail(DP_BUG,
                   "deadlock: group %d '%s' waits for group %d '%s', which is not done before it in program "
                   "order",
                   group, group_name(c, group), wait->group, group_name(c, wait->group));
  if (other->section == own->section)
    *result = iteration;
  else if (wait->when == TILE_EVERY || iteration == 0)
    *result = section_of(c, wait->group)->iterations - 1;
  return DP_SUCCESS;
}

static dp_status order_instance(check *c, const site *s, int64_t iteration) {
  const tile_group *group = &c->program->groups[s->group];
  uint64_t *row = c->before + id_of(c, s, iteration) * c->words;
  for (int w = 0; w < group->wait_count; w++) {
    int64_t producer_iteration, from, to;
    DP_TRY(wait_iteration(c, s->group, &group->waits[w], iteration, &producer_iteration));
    DP_TRY(wait_tiles(c, s->group, &group->waits[w], s->tile, &from, &to));
    if (producer_iteration < 0) continue;
    for (int64_t tile = from; tile < to; tile++) {
      int64_t id = id_of(c, site_of(c, group->waits[w].group, tile), producer_iteration);
      row[id / 64] |= (uint64_t)1 << (id % 64);
      for (int64_t i = 0; i <= id / 64; i++) row[i] |= c->before[id * c->words + i];
    }
  }
  return DP_SUCCESS;
}

static dp_status order_instances(check *c) {
  c->words = (c->instances + 63) / 64;
  c->before = calloc((size_t)(c->instances * c->words) + 1, sizeof *c->before);
  if (!c->before) return dp_fail(DP_NO_MEMORY, "no memory to check %" PRId64 " task instances", c->instances);
  for (int s = c->entry.first; s < c->entry.first + c->entry.count; s++) {
    const tile_section *section = &c->program->sections[s];
    int64_t windows = windows_of(c, section->window);
    for (int64_t i = 0, from, to; i < section->iterations * windows; i++)
      for (int g = section->first; g < section->first + section->count; g++) {
        tiles_in_window(c, g, i, &from, &to);
        for (int64_t tile = from; tile < to; tile++) DP_TRY(order_instance(c, site_of(c, g, tile), section->window ? 0 : i));
      }
  }
  return DP_SUCCESS;
}

/* ---- what tasks touch */

static bool same_region(const touch *a, const touch *b) {
  return a->form == b->form && a->place == b->place && a->tile == b->tile;
}

static void add_touch(check *c, site *s, touch t) {
  DP_PUSH(c->arena, s->touches, s->count, s->cap) = t;
  for (int i = 0; i < s->bound_count; i++) {
    touch *b = &s->bounds[i];
    if (!same_region(b, &t) || b->buffer != t.buffer || b->write != t.write) continue;
    if (t.row0 < b->row0) b->row0 = t.row0;
    if (t.row1 > b->row1) b->row1 = t.row1;
    if (t.col0 < b->col0) b->col0 = t.col0;
    if (t.col1 > b->col1) b->col1 = t.col1;
    return;
  }
  DP_PUSH(c->arena, s->bounds, s->bound_count, s->bound_cap) = t;
}

/* Buffer access of a task over tokens (or output rows) [row0, row0 + rows) in row tile s->tile. */
static void touch_buffer(check *c, site *s, const tile_op *op, touch t, int64_t row0, int64_t rows) {
  const tile_buffer *buffer = &c->program->buffers[op->ref];
  t.form = buffer->output >= 0 ? IN_OUTPUT : IN_SLAB;
  t.place = buffer->output >= 0 ? buffer->output : (int)buffer->space;
  t.buffer = op->ref;
  t.row0 = row0;
  t.row1 = row0 + rows;
  t.layered = buffer->layers > 0;
  if (buffer->output < 0 && (op->index >= 0 || kind_of(c, s->group)->space == TILE_PARAMETERS)) {
    /* Which rows an input names is known in the step only: it may be any. Over parameters it is all. */
    int64_t window = kind_of(c, s->group)->window, from = s->tile * window;
    int64_t to = window ? least(from + window, c->tiles[TILE_TOKENS]) : c->tiles[buffer->space];
    t.row0 = 0;
    t.row1 = c->program->row_tile;
    for (int64_t tile = from; tile < to; tile++) {
      t.tile = buffer->space == TILE_WINDOW ? tile % window : tile;
      add_touch(c, s, t);
    }
    return;
  }
  if (buffer->output < 0 && buffer->space == TILE_NUMBERS) {
    t.row0 = 0;
    t.row1 = 1;
    t.col0 += s->tile * op->row_step;
    t.col1 += s->tile * op->row_step;
  } else if (buffer->output < 0) {
    t.tile = buffer->space == TILE_WINDOW ? s->tile % c->program->window : s->tile;
    t.row0 -= s->tile * c->program->row_tile;
    t.row1 -= s->tile * c->program->row_tile;
  }
  add_touch(c, s, t);
}

static void touch_cache(check *c, site *s, const tile_op *op, touch t, int64_t row0, int64_t rows) {
  t.form = IN_CACHE;
  t.place = 2 * op->ref + (op->code == TILE_append ? op->part : op->code == TILE_mma_values);
  t.buffer = -1;
  t.layered = !c->program->caches[op->ref].shared;
  if (op->code != TILE_append) {
    int64_t sequence = sequence_of(c, row0);
    t.row0 = sequence * c->positions;
    t.row1 = cache_row(c, kind_of(c, s->group)->whole ? sequence_first(c, sequence + 1) - 1 : row0 + rows - 1) + 1;
    add_touch(c, s, t);
    return;
  }
  for (int64_t row = row0, next; row < row0 + rows; row = next) {
    int64_t sequence = sequence_of(c, row);
    next = least(row0 + rows, sequence_first(c, sequence + 1));
    t.row0 = cache_row(c, row);
    t.row1 = cache_row(c, next - 1) + 1;
    add_touch(c, s, t);
  }
}

/* A piece of one slot. */
static void touch_state(check *c, site *s, const tile_op *op, touch t) {
  t.form = IN_STATE;
  t.place = op->ref * TILE_STATE_COUNT + op->part;
  t.buffer = -1;
  t.row0 = s->tile;
  t.row1 = s->tile + 1;
  add_touch(c, s, t);
}

/* Of what scatter_rows and sum_rows add to, columns are known; any rows may be meant. */
static void touch_gradient(check *c, site *s, const tile_op *op, touch t) {
  t.form = IN_GRADIENT;
  t.place = op->ref;
  t.buffer = -1;
  t.layered = c->program->weights[op->ref].count > 1;
  t.row1 = 1;
  if (op->code == TILE_scatter_rows) t.row1 = 2; /* its columns are the rows of mma_rows: told apart below */
  add_touch(c, s, t);
}

static void touch_task(check *c, site *s, int64_t row_index, int64_t col, int64_t row0, int64_t rows,
                       tile_access *accesses) {
  const tile_kind *kind = kind_of(c, s->group);
  for (int i = 0; i < kind->op_count; i++) {
    const tile_op *op = &kind->ops[i];
    int count = tile_op_accesses(c->program, kind, i, col, accesses, kind->used > kind->group ? kind->used : kind->group);
    for (int j = 0; j < count; j++) {
      touch t = {.col0 = accesses[j].from,
                 .col1 = accesses[j].to,
                 .write = accesses[j].write,
                 .op = i,
                 .row = row_index,
                 .col = col,
                 .batch = kind->used && op->group_step ? col / tile_batch_tasks(kind) : -1};
      if (op->code == TILE_load || op->code == TILE_store || op->code == TILE_choose)
        touch_buffer(c, s, op, t, row0, rows);
      else if (op->code == TILE_parameter || op->code == TILE_assign)
        touch_state(c, s, op, t);
      else if (tile_adds_to_gradient(op->code))
        touch_gradient(c, s, op, t);
      else
        touch_cache(c, s, op, t, row0, rows);
    }
  }
}

static void touch_site(check *c, site *s) {
  const tile_kind *kind = kind_of(c, s->group);
  tile_access *accesses = DP_NEW_ARRAY(c->arena, tile_access, kind->group + kind->used);
  for (int64_t col = 0; col < kind->col_tasks; col++) {
    if (kind->space != TILE_SEGMENTS) {
      int64_t row0 = kind->slots ? 0 : s->tile * c->program->row_tile;
      int64_t rows = kind->slots ? 1 : least(c->program->row_tile, c->rows[kind->space] - row0);
      touch_task(c, s, s->tile, col, row0, rows, accesses);
      continue;
    }
    for (int i = 0; i < c->segment_count; i++)
      if (c->segments[i].tile == s->tile)
        touch_task(c, s, i, col, c->segments[i].row0, c->segments[i].tokens, accesses);
  }
}

static void compare_buffers(check *c) {
  const tile_program *p = c->program;
  c->overlap = DP_NEW_ARRAY(c->arena, bool, p->buffer_count * p->buffer_count + 1);
  for (int i = 0; i < p->buffer_count; i++) {
    for (int j = 0; j < p->buffer_count; j++) {
      const tile_buffer *a = &p->buffers[i], *b = &p->buffers[j];
      int64_t a_end = a->offset + tile_buffer_bytes(p, a), b_end = b->offset + tile_buffer_bytes(p, b);
      c->overlap[i * p->buffer_count + j] =
          a->output < 0 && b->output < 0 && a->space == b->space && a->offset < b_end && b->offset < a_end;
    }
  }
}

/* ---- conflicts */

/* The same element lies at the same place in both: one buffer, or one that takes over another's memory in place. */
static bool congruent(const check *c, int a, int b) {
  if (a == b) return true;
  const tile_buffer *x = &c->program->buffers[a], *y = &c->program->buffers[b];
  return x->output < 0 && y->output < 0 && x->space == y->space && x->offset == y->offset && x->stride == y->stride;
}

/* Two buffers that are not congruent have no common rows and columns: where their bytes meet, all of them do. */
static bool conflict(const check *c, const touch *a, const touch *b) {
  if (!(a->write || b->write) || !same_region(a, b)) return false;
  if (a->form == IN_SLAB && !congruent(c, a->buffer, b->buffer))
    return c->overlap[a->buffer * c->program->buffer_count + b->buffer];
  if (a->form == IN_GRADIENT && a->row1 != b->row1) return true; /* rows of the one, columns of the other */
  return a->row0 < b->row1 && b->row0 < a->row1 && a->col0 < b->col1 && b->col0 < a->col1;
}

/* Of tasks of one group: what batches write of a token lies side by side, each in the place of its choice. */
static bool siblings_conflict(const check *c, const touch *x, const touch *y) {
  if (x->batch >= 0 && y->batch >= 0 && x->batch != y->batch && x->buffer == y->buffer) return false;
  return conflict(c, x, y);
}

static void describe_touch(const check *c, dp_str *out, const site *s, int64_t iteration, const touch *t) {
  const tile_program *p = c->program;
  const tile_kind *kind = kind_of(c, s->group);
  dp_str_addf(out, "%s (group %d, iteration %" PRId64 ", %s %" PRId64 ", column %" PRId64 "), whose op %%%d %s ",
              kind->name, s->group, iteration, kind->space == TILE_SEGMENTS ? "segment" : "row tile", t->row, t->col,
              t->op, tile_opcode_name(kind->ops[t->op].code));
  dp_str_add(out, t->write ? "writes " : "reads ");
  if (t->form == IN_GRADIENT) {
    dp_str_addf(out, "the gradient of '%s'", p->weights[t->place].name);
  } else if (t->form == IN_STATE) {
    dp_str_addf(out, "'%s'", p->weights[t->place / TILE_STATE_COUNT].name);
  } else if (t->form == IN_CACHE) {
    dp_str_addf(out, "%s of cache '%s', sequence %" PRId64 " positions %" PRId64 "..%" PRId64,
                t->place % 2 ? "values" : "keys", p->caches[t->place / 2].name, t->row0 / c->positions,
                t->row0 % c->positions, (t->row1 - 1) % c->positions);
  } else {
    dp_str_addf(out, "buffer '%s', rows %" PRId64 "..%" PRId64, p->buffers[t->buffer].name, t->row0, t->row1 - 1);
    if (t->form == IN_SLAB)
      dp_str_addf(out, " of %s tile %" PRId64, t->place == TILE_TOKENS ? "row" : "output", t->tile);
  }
  dp_str_addf(out, ", columns %" PRId64 "..%" PRId64, t->col0, t->col1 - 1);
}

DP_PRINTF(8, 9)
static dp_status report(const check *c, const site *a, int64_t a_iteration, const touch *x, const site *b,
                        int64_t b_iteration, const touch *y, const char *fmt, ...) {
  dp_str text = {0};
  va_list args;
  va_start(args, fmt);
  dp_str_addv(&text, fmt, args);
  va_end(args);
  dp_str_add(&text, ": ");
  describe_touch(c, &text, a, a_iteration, x);
  dp_str_add(&text, "; and ");
  describe_touch(c, &text, b, b_iteration, y);
  dp_status status = dp_fail(DP_BUG, "%s", text.text ? text.text : "two tasks conflict");
  dp_str_free(&text);
  return status;
}

static bool bounds_conflict(const check *c, const site *a, const site *b) {
  for (int i = 0; i < a->bound_count; i++)
    for (int j = 0; j < b->bound_count; j++)
      if (conflict(c, &a->bounds[i], &b->bounds[j])) return true;
  return false;
}

/* The first conflict between tasks of two instances, rather what `a` writes than what it reads. Caches of different
 * layers never meet. */
static bool find_conflict(const check *c, const site *a, const site *b, bool same_layer, const touch **x,
                          const touch **y) {
  for (int reads = 0; reads < 2; reads++) {
    for (int i = 0; i < a->count; i++) {
      *x = &a->touches[i];
      if ((*x)->write == reads) continue;
      for (int j = 0; j < b->count; j++) {
        *y = &b->touches[j];
        if (!same_layer && (*x)->layered && (*y)->layered && (*x)->buffer == (*y)->buffer) continue;
        if (conflict(c, *x, *y)) return true;
      }
    }
  }
  return false;
}

/* Tasks of one instance run at the same time: each may touch again only what it wrote itself. And one task may not use
 * two buffers in the same memory, unless the one takes over the other's in place. */
static dp_status check_siblings(const check *c, const site *s) {
  for (int i = 0; i < s->count; i++) {
    if (!s->touches[i].write) continue;
    for (int j = 0; j < s->count; j++) {
      const touch *x = &s->touches[i], *y = &s->touches[j];
      bool same_task = x->row == y->row && x->col == y->col;
      if (!siblings_conflict(c, x, y)) continue;
      if (same_task && (x->form != IN_SLAB || congruent(c, x->buffer, y->buffer))) continue;
      return report(c, s, 0, x, s, 0, y,
                    same_task ? "a task uses two buffers in the same memory"
                              : "race between tasks of one group and row tile");
    }
  }
  return DP_SUCCESS;
}

static bool is_first(const race *best, int64_t earlier, int64_t later) {
  return !best->sites[0] || later < best->ids[1] || (later == best->ids[1] && earlier > best->ids[0]);
}

/* `a` in iteration i against `b` in iteration j, which comes later. */
static void compare_instances(check *c, const site *a, int64_t i, const site *b, int64_t j) {
  int64_t earlier = id_of(c, a, i), later = id_of(c, b, j);
  const touch *x, *y;
  if (is_before(c, earlier, later) || !is_first(&c->race, earlier, later)) return;
  bool same_layer = tile_layer(section_of(c, a->group), i) == tile_layer(section_of(c, b->group), j);
  if (find_conflict(c, a, b, same_layer, &x, &y)) c->race = (race){{a, b}, {i, j}, {earlier, later}, {x, y}};
}

static void compare_sites(check *c, const site *a, const site *b) {
  if (!bounds_conflict(c, a, b)) return;
  for (int64_t i = 0; i < section_of(c, a->group)->iterations; i++) {
    for (int64_t j = 0; j < section_of(c, b->group)->iterations; j++) {
      if (id_of(c, a, i) < id_of(c, b, j)) compare_instances(c, a, i, b, j);
      if (id_of(c, a, i) > id_of(c, b, j)) compare_instances(c, b, j, a, i);
    }
  }
}

static dp_status check_races(check *c) {
  for (int64_t i = 0; i < c->site_count; i++)
    for (int64_t j = i; j < c->site_count; j++) compare_sites(c, &c->sites[i], &c->sites[j]);
  const race *r = &c->race;
  if (!r->sites[0]) return DP_SUCCESS;
  return report(c, r->sites[0], r->iterations[0], r->touches[0], r->sites[1], r->iterations[1], r->touches[1],
                "race: nothing orders two tasks");
}

/* ---- lost values */

static const touch *bound_on(const site *s, const touch *region, bool write, int buffer) {
  for (int i = 0; i < s->bound_count; i++)
    if (same_region(&s->bounds[i], region) && s->bounds[i].write == write && s->bounds[i].buffer == buffer)
      return &s->bounds[i];
  return NULL;
}

/* The last instance before `reader` that writes buffer `buffer` in that region; -1: none. */
static int64_t last_writer(const check *c, const touch *region, int buffer, int64_t reader) {
  int64_t last = -1;
  for (int64_t i = 0; i < c->site_count; i++) {
    if (!bound_on(&c->sites[i], region, true, buffer)) continue;
    for (int64_t k = 0; k < section_of(c, c->sites[i].group)->iterations; k++) {
      int64_t id = id_of(c, &c->sites[i], k);
      if (id > last && id < reader && is_before(c, id, reader)) last = id;
    }
  }
  return last;
}

/* Everything in order, and yet wrong: between the write of a buffer and its read another buffer in the same memory was
 * written. */
static dp_status check_read(const check *c, const site *s, const touch *read) {
  for (int64_t k = 0; k < section_of(c, s->group)->iterations; k++) {
    int64_t reader = id_of(c, s, k), writer = last_writer(c, read, read->buffer, reader);
    for (int64_t i = 0; i < c->site_count; i++) {
      const site *other = &c->sites[i];
      for (int b = 0; b < other->bound_count; b++) {
        const touch *write = &other->bounds[b];
        if (write->buffer == read->buffer || !conflict(c, write, read)) continue;
        for (int64_t j = 0; j < section_of(c, other->group)->iterations; j++) {
          int64_t id = id_of(c, other, j);
          if (id >= reader || !is_before(c, id, reader) || (writer >= 0 && id < writer && is_before(c, id, writer)))
            continue;
          return report(c, other, j, write, s, k, read, "a buffer is overwritten before it is read");
        }
      }
    }
  }
  return DP_SUCCESS;
}

static bool shares_memory(const check *c, int buffer) {
  for (int i = 0; i < c->program->buffer_count; i++)
    if (i != buffer && c->overlap[buffer * c->program->buffer_count + i]) return true;
  return false;
}

static dp_status check_reads(const check *c, const site *s) {
  for (int i = 0; i < s->bound_count; i++) {
    const touch *read = &s->bounds[i];
    if (!read->write && read->form == IN_SLAB && shares_memory(c, read->buffer)) DP_TRY(check_read(c, s, read));
  }
  return DP_SUCCESS;
}

/* ---- */

static dp_status check_step(check *c) {
  cut_segments(c);
  DP_TRY(list_instances(c));
  DP_TRY(order_instances(c));
  compare_buffers(c);
  for (int64_t i = 0; i < c->site_count; i++) touch_site(c, &c->sites[i]);
  for (int64_t i = 0; i < c->site_count; i++) DP_TRY(check_siblings(c, &c->sites[i]));
  DP_TRY(check_races(c));
  for (int64_t i = 0; i < c->site_count; i++) DP_TRY(check_reads(c, &c->sites[i]));
  return DP_SUCCESS;
}

static dp_status check_entry(const tile_program *program, int entry, int64_t tokens, int64_t outputs, int64_t sequences,
                             int64_t past) {
  check c = {.program = program, .entry = tile_entry_at(program, entry), .arena = dp_arena_new(), .sequences = sequences,
             .past = past};
  if (!c.arena) return dp_fail(DP_NO_MEMORY, "no memory to check a tile program");
  c.rows[TILE_TOKENS] = tokens;
  c.rows[TILE_OUTPUTS] = outputs;
  c.tiles[TILE_TOKENS] = c.tiles[TILE_SEGMENTS] = tile_row_tiles(program, tokens);
  c.rows[TILE_PARAMETERS] = c.tiles[TILE_PARAMETERS] = 1;
  c.tiles[TILE_OUTPUTS] = tile_row_tiles(program, outputs);
  c.positions = past + (tokens + sequences - 1) / sequences;
  dp_status status = check_step(&c);
  free(c.before);
  dp_arena_free(c.arena);
  return status;
}

dp_status tile_check(const tile_program *program, int64_t tokens, int64_t outputs, int64_t sequences, int64_t past) {
  if (tokens < 0 || outputs < 0 || sequences < 0 || past < 0)
    return dp_fail(DP_INVALID,
                   "a step of %" PRId64 " tokens, %" PRId64 " outputs, %" PRId64 " sequences, %" PRId64
                   " cached positions",
                   tokens, outputs, sequences, past);
  DP_TRY(tile_well_formed(program));
  if (sequences < 1) sequences = 1;
  if (sequences > tokens && tokens > 0) sequences = tokens;
  dp_status status = DP_SUCCESS;
  for (int i = 0; i < (program->entry_count ? program->entry_count : 1) && status.code == DP_OK; i++)
    status = check_entry(program, i, tokens, outputs, sequences, past);
  return status;
}
