/* runtime/broken.c: a step task by task; behind the tasks of a row tile what they stored is looked at. */
#include "runtime/broken.h"

#include "ir/tile_access.h"

#include <math.h>

enum { MOST_ACCESSES = 64 };

typedef struct search {
  const tile_program *program;
  const tile_step *step;
  rt_broken *broken;
} search;

/* Row r of the row tile; for a buffer with a place for each layer, of this one. */
static const float *row_at(const search *s, const tile_buffer *buffer, int64_t layer, int64_t row_tile, int64_t r) {
  const tile_program *p = s->program;
  if (buffer->output >= 0) return s->step->outputs[buffer->output] + (row_tile * p->row_tile + r) * buffer->stride;
  int64_t tile = buffer->space == TILE_WINDOW ? row_tile % p->window : row_tile;
  const char *slab = s->step->arena[buffer->space] + tile * p->slab_bytes[buffer->space] + buffer->offset;
  int64_t place = buffer->layers ? layer - buffer->first_layer : 0;
  return (const float *)(const void *)slab + (place * p->row_tile + r) * buffer->stride;
}

static bool look_at(search *s, const tile_kind *kind, const tile_buffer *buffer, const tile_access *access, int64_t layer,
                    int64_t row_tile) {
  int64_t all = s->step->rows[buffer->space == TILE_OUTPUTS || kind->space == TILE_OUTPUTS ? TILE_OUTPUTS : TILE_TOKENS];
  int64_t rows = all - row_tile * s->program->row_tile;
  if (rows > s->program->row_tile) rows = s->program->row_tile;
  for (int64_t r = 0; r < rows; r++) {
    const float *row = row_at(s, buffer, layer, row_tile, r);
    for (int64_t c = access->from; c < access->to; c++) {
      if (isfinite(row[c])) continue;
      *s->broken = (rt_broken){.value = buffer->name, .made_by = kind->name, .row = row_tile * s->program->row_tile + r, .column = c,
                               .number = row[c]};
      return false;
    }
  }
  return true;
}

static bool tell_layer(search *s, int group, int64_t layer) {
  const tile_section *section = &s->program->sections[s->program->groups[group].section];
  s->broken->layer = section->iterations > 1 ? layer : -1;
  s->broken->back = section->reverse;
  return false;
}

static bool look(void *user, int group, int64_t layer, int64_t row_tile) {
  search *s = user;
  const tile_program *p = s->program;
  const tile_kind *kind = &p->kinds[p->groups[group].kind];
  bool rowwise = kind->space == TILE_TOKENS || kind->space == TILE_SEGMENTS || kind->space == TILE_OUTPUTS;
  for (int i = 0; i < kind->op_count && rowwise; i++) {
    const tile_op *op = &kind->ops[i];
    if (op->code != TILE_store || op->index >= 0) continue;
    for (int64_t col = 0; col < kind->col_tasks; col++) {
      tile_access accesses[MOST_ACCESSES];
      int count = tile_op_accesses(p, kind, i, col, accesses, MOST_ACCESSES);
      for (int j = 0; j < count && j < MOST_ACCESSES; j++)
        if (!look_at(s, kind, &p->buffers[op->ref], &accesses[j], layer, row_tile)) return tell_layer(s, group, layer);
    }
  }
  return true;
}

void rt_find_broken(rt_executor *executor, const tile_program *program, const tile_step *step, rt_broken *broken) {
  search s = {program, step, broken};
  *broken = (rt_broken){.layer = -1};
  rt_executor_walk(executor, step, look, &s);
}
