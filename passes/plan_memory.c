/* passes/plan_memory.c: where each buffer lies in its slab. First copies go whose source and destination may be one
 * buffer; then every buffer gets the lowest offset that is free while it is live, the largest first. A value that a
 * group makes elementwise of another one's last use takes that one's place. That tasks wait before they overwrite what
 * others still read is schedule_waits.c's. */
#include "passes/schedule.h"

/* ---- what a group reads and writes ----------------------------------------------------------------------------------------- */

static bool touches(const tile_program *p, int group, int buffer, tile_opcode code) {
  const tile_kind *kind = &p->kinds[p->groups[group].kind];
  for (int i = 0; i < kind->op_count; i++)
    if (kind->ops[i].code == code && kind->ops[i].ref == buffer) return true;
  return false;
}

bool ps_reads(const tile_program *p, int group, int buffer) {
  return touches(p, group, buffer, TILE_load) || touches(p, group, buffer, TILE_choose);
}
bool ps_writes(const tile_program *p, int group, int buffer) { return touches(p, group, buffer, TILE_store); }

/* ---- live ranges ------------------------------------------------------------------------------------------------------------ */

/* Per buffer, two points a group: while it reads (2 * group), after it has written (2 * group + 1). */
typedef struct liveness {
  const tile_program *p;
  int points;
  bool *live; /* [buffer * points + point] */
} liveness;

static bool *points_of(const liveness *l, int buffer) { return &l->live[buffer * l->points]; }

/* One sweep from the last group to the first; the end of a repeated section leads to its beginning too. */
static bool sweep(const liveness *l, int buffer) {
  const tile_program *p = l->p;
  bool *live = points_of(l, buffer), changed = false;
  for (int g = p->group_count - 1; g >= 0; g--) {
    const tile_section *section = &p->sections[p->groups[g].section];
    bool after = g + 1 < p->group_count ? live[2 * (g + 1)] : p->buffers[buffer].output >= 0;
    if (g == section->first + section->count - 1 && section->iterations > 1) after |= live[2 * section->first];
    bool kills = ps_writes(p, g, buffer) && !p->buffers[buffer].layers; /* a stack gets one layer's rows */
    bool before = ps_reads(p, g, buffer) || (after && !kills);
    after |= ps_writes(p, g, buffer);
    changed |= live[2 * g] != before || live[2 * g + 1] != after;
    live[2 * g] = before;
    live[2 * g + 1] = after;
  }
  return changed;
}

static liveness find_live(const tile_program *p, dp_arena *arena) {
  liveness l = {.p = p, .points = 2 * p->group_count};
  l.live = DP_NEW_ARRAY(arena, bool, l.points * p->buffer_count);
  for (int b = 0; b < p->buffer_count; b++)
    while (sweep(&l, b)) {}
  return l;
}

/* ---- who may share memory ------------------------------------------------------------------------------------------------------ */

static bool reads_whole(const tile_kind *kind, int at, int buffer) {
  const tile_op *op = &kind->ops[at];
  if (op->code == TILE_load) return op->ref == buffer;
  for (int i = 0; i < tile_operand_count(op->code); i++)
    if (reads_whole(kind, op->operands[i], buffer)) return true;
  return false;
}

/* When the value of op `at` is asked for element (r, c), is no other element of `buffer` read? A reduction is made
 * before anything is stored. So is a product, but a back end may want to make it where it is stored. */
static bool is_elementwise_in(const tile_kind *kind, int at, int buffer, int64_t cols) {
  const tile_op *op = &kind->ops[at];
  if (op->code == TILE_load && op->ref == buffer)
    return op->index < 0 && !op->col_base && !op->group_step && op->cols == cols && (kind->col_tasks == 1 || op->column_tile);
  if (op->code == TILE_mma) return !reads_whole(kind, at, buffer);
  int arity = tile_scalar_arity(op->code);
  for (int i = 0; i < arity; i++)
    if (!is_elementwise_in(kind, op->operands[i], buffer, cols)) return false;
  if (arity) return op->cols == cols || op->cols == 1; /* a number a row: of no other element but by a reduction */
  return op->code == TILE_constant || op->code == TILE_vector || op->code == TILE_table || op->code == TILE_sum ||
         op->code == TILE_hot || op->code == TILE_input ||
         op->code == TILE_greatest || (op->code == TILE_load && op->ref != buffer);
}

/* May `kind` write `to` over `from`, which it reads? Only element by element, with nothing left to do after the store:
 * code may read an operand again wherever it is used; what it stores elsewhere before is then made already. Of several column tasks none may read the columns of another, as
 * a prologue that reads whole rows does. */
static bool is_in_place(const tile_kind *kind, int from, int to) {
  const tile_op *last = &kind->ops[kind->op_count - 1];
  if (kind->space == TILE_SEGMENTS || kind->batches > 1 || last->code != TILE_store || last->ref != to) return false;
  int64_t cols = kind->ops[last->operands[0]].cols;
  for (int i = 0; i < kind->op_count - 1; i++) {
    const tile_op *op = &kind->ops[i];
    if (op->code == TILE_append || (op->code == TILE_store && (op->ref == from || op->ref == to))) return false;
    if (op->code == TILE_load && op->ref == from && !op->column_tile && kind->col_tasks > 1) return false;
  }
  return is_elementwise_in(kind, last->operands[0], from, cols);
}

typedef enum sharing {
  ANY,     /* never live at once */
  SAME,    /* one is written in the other's place, so they must coincide or lie apart */
  NONE,
} sharing;

static sharing sharing_of(const liveness *l, int a, int b) {
  const tile_program *p = l->p;
  const bool *live_a = points_of(l, a), *live_b = points_of(l, b);
  if (p->buffers[a].space != p->buffers[b].space) return ANY;
  for (int i = 0; i < l->points; i++)
    if (live_a[i] && live_b[i]) return NONE;
  sharing best = ANY;
  for (int g = 0; g < p->group_count; g++) {
    const tile_kind *kind = &p->kinds[p->groups[g].kind];
    bool over_a = ps_reads(p, g, a) && ps_writes(p, g, b), over_b = ps_reads(p, g, b) && ps_writes(p, g, a);
    if (!over_a && !over_b) continue;
    if (p->buffers[a].stride != p->buffers[b].stride || p->buffers[a].layers || p->buffers[b].layers || !is_in_place(kind, over_a ? a : b, over_a ? b : a)) return NONE;
    best = SAME;
  }
  return best;
}

/* ---- copies ---------------------------------------------------------------------------------------------------------------------- */

static bool is_copy(const tile_program *p, int group, int *from, int *to) {
  const tile_kind *kind = &p->kinds[p->groups[group].kind];
  if (kind->op_count != 2 || kind->ops[0].code != TILE_load || kind->ops[0].index >= 0 || kind->ops[1].code != TILE_store)
    return false;
  *from = kind->ops[0].ref;
  *to = kind->ops[1].ref;
  return kind->space != TILE_SEGMENTS && p->buffers[*from].cols == p->buffers[*to].cols;
}

static void remove_group(tile_program *p, int group) {
  int kind = p->groups[group].kind;
  p->sections[p->groups[group].section].count--;
  for (int i = 0; i < p->section_count; i++) p->sections[i].first -= p->sections[i].first > group;
  for (int i = group; i + 1 < p->group_count; i++) p->groups[i] = p->groups[i + 1];
  p->group_count--;
  for (int i = kind; i + 1 < p->kind_count; i++) p->kinds[i] = p->kinds[i + 1];
  p->kind_count--;
  for (int i = 0; i < p->group_count; i++) p->groups[i].kind -= p->groups[i].kind > kind;
}

static void rename_buffer(tile_program *p, int from, int to) {
  for (int i = 0; i < p->kind_count; i++)
    for (int j = 0; j < p->kinds[i].op_count; j++) {
      tile_op *op = &p->kinds[i].ops[j];
      if ((op->code == TILE_load || op->code == TILE_store || op->code == TILE_choose) && op->ref == from) op->ref = to;
    }
}

static int readers(const tile_program *p, int buffer) {
  int count = 0;
  for (int g = 0; g < p->group_count; g++) count += ps_reads(p, g, buffer);
  return count;
}

/* The caller's memory takes the place only of what nobody else reads. */
static bool may_be_one(const liveness *l, int from, int to) {
  const tile_buffer *buffers = l->p->buffers;
  if (buffers[from].output >= 0 || buffers[from].layers || buffers[to].layers || sharing_of(l, from, to) == NONE) return false;
  return buffers[to].output < 0 || readers(l->p, from) == 1;
}

static void remove_copies(tile_program *p, dp_arena *arena) {
  for (int g = 0; g < p->group_count; g++) {
    int from, to;
    if (!is_copy(p, g, &from, &to)) continue;
    liveness l = find_live(p, arena);
    if (from != to && !may_be_one(&l, from, to)) continue;
    remove_group(p, g--);
    rename_buffer(p, from, to);
  }
}

static void drop_unused_buffers(tile_program *p) {
  int kept = 0;
  for (int b = 0; b < p->buffer_count; b++) {
    bool used = false;
    for (int g = 0; g < p->group_count; g++) used |= ps_reads(p, g, b) || ps_writes(p, g, b);
    if (!used) continue;
    p->buffers[kept] = p->buffers[b];
    rename_buffer(p, b, kept++);
  }
  p->buffer_count = kept;
}

/* ---- offsets ----------------------------------------------------------------------------------------------------------------------- */

typedef struct planning {
  tile_program *p;
  liveness l;
  bool *placed;
} planning;

static int64_t bytes_of(const tile_program *p, int buffer) { return tile_buffer_bytes(p, &p->buffers[buffer]); }

static bool in_slab(const tile_program *p, int buffer) { return p->buffers[buffer].output < 0; }

/* The end of a placed buffer that is in the way of `buffer` at `offset`; -1 when nothing is. */
static int64_t obstacle(const planning *plan, int buffer, int64_t offset) {
  const tile_program *p = plan->p;
  for (int other = 0; other < p->buffer_count; other++) {
    if (!plan->placed[other] || p->buffers[other].space != p->buffers[buffer].space) continue;
    int64_t from = p->buffers[other].offset, to = from + bytes_of(p, other);
    if (to <= offset || offset + bytes_of(p, buffer) <= from) continue;
    sharing share = sharing_of(&plan->l, buffer, other);
    if (share == NONE || (share == SAME && from != offset)) return to;
  }
  return -1;
}

static void place(planning *plan, int buffer) {
  tile_program *p = plan->p;
  int64_t offset = -1;
  for (int other = 0; other < p->buffer_count && offset < 0; other++) /* in place of another */
    if (plan->placed[other] && p->buffers[other].space == p->buffers[buffer].space &&
        sharing_of(&plan->l, buffer, other) == SAME && obstacle(plan, buffer, p->buffers[other].offset) < 0)
      offset = p->buffers[other].offset;
  if (offset < 0) {
    offset = 0;
    for (int64_t next; (next = obstacle(plan, buffer, offset)) >= 0;) offset = next;
  }
  p->buffers[buffer].offset = offset;
  plan->placed[buffer] = true;
  int64_t end = offset + bytes_of(p, buffer), *slab = &p->slab_bytes[p->buffers[buffer].space];
  if (end > *slab) *slab = end;
}

dp_status ps_remove_copies(tile_program *p) {
  dp_arena *arena = dp_arena_new();
  if (!arena) return (dp_status){DP_NO_MEMORY, NULL};
  remove_copies(p, arena);
  drop_unused_buffers(p);
  dp_arena_free(arena);
  return DP_SUCCESS;
}

dp_status ps_plan_memory(tile_program *p) {
  dp_arena *arena = dp_arena_new();
  if (!arena) return (dp_status){DP_NO_MEMORY, NULL};
  planning plan = {.p = p, .l = find_live(p, arena), .placed = DP_NEW_ARRAY(arena, bool, p->buffer_count)};
  for (int b = 0; b < p->buffer_count; b++) { /* numbers last from step to step */
    if (p->buffers[b].space != TILE_NUMBERS) continue;
    p->buffers[b].offset = p->slab_bytes[TILE_NUMBERS];
    p->slab_bytes[TILE_NUMBERS] += bytes_of(p, b);
    plan.placed[b] = true;
  }
  for (;;) {
    int largest = -1;
    for (int b = 0; b < p->buffer_count; b++)
      if (in_slab(p, b) && !plan.placed[b] && (largest < 0 || bytes_of(p, b) > bytes_of(p, largest))) largest = b;
    if (largest < 0) break;
    place(&plan, largest);
  }
  dp_arena_free(arena);
  return DP_SUCCESS;
}
