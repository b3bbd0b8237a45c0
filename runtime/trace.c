/* runtime/trace.c: the executor's notes: what ran where and when, and what of the step's data is needed to say how much
 * work it was (rows, positions seen) and is gone after the step. */
#include "runtime/trace.h"

#include <float.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

int64_t rt_trace_now(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

dp_status rt_trace_new(const tile_program *program, int lanes, int64_t tasks, int64_t steps, rt_trace **trace) {
  *trace = NULL;
  rt_trace *t = calloc(1, sizeof *t);
  if (t) {
    t->lane_count = lanes;
    t->lane_capacity = tasks;
    t->step_capacity = steps;
    t->slot_count = program->slot_count;
    t->lanes = calloc((size_t)lanes + 1, sizeof *t->lanes);
    t->steps = calloc((size_t)steps + 1, sizeof *t->steps);
    t->weight_types = calloc((size_t)program->slot_count + 1, 1);
  }
  bool complete = t && t->lanes && t->steps && t->weight_types;
  for (int i = 0; complete && i < lanes; i++) {
    t->lanes[i].tasks = calloc((size_t)tasks + 1, sizeof *t->lanes[i].tasks);
    complete = t->lanes[i].tasks != NULL;
  }
  if (!complete) {
    rt_trace_free(t);
    return dp_fail(DP_NO_MEMORY, "no memory for a trace of %lld tasks a worker", (long long)tasks);
  }
  *trace = t;
  return DP_SUCCESS;
}

void rt_trace_free(rt_trace *t) {
  if (!t) return;
  for (int i = 0; t->lanes && i < t->lane_count; i++) free(t->lanes[i].tasks);
  free(t->lanes);
  free(t->steps);
  free(t->weight_types);
  free(t);
}

int32_t rt_trace_begin_step(rt_trace *t, const tile_step *step, int workers) {
  if (t->step_count == t->step_capacity) {
    t->dropped_steps++;
    return -1;
  }
  if (step->weight_types) memcpy(t->weight_types, step->weight_types, (size_t)t->slot_count);
  rt_step_record *record = &t->steps[t->step_count];
  *record = (rt_step_record){.begin = rt_trace_now(), .workers = workers};
  memcpy(record->rows, step->rows, sizeof record->rows);
  return (int32_t)t->step_count++;
}

void rt_trace_end_step(rt_trace *t, int32_t number) { t->steps[number].end = rt_trace_now(); }

/* ---- how much work a task was */

/* A value [1, 1] that depends on the layer alone: of a window. FLT_MAX when it is made of something else. */
static float scalar_value(const tile_kind *kind, int index, int64_t layer) {
  const tile_op *op = &kind->ops[index];
  if (op->code == TILE_constant) return op->imm;
  if (op->code == TILE_every) return layer % op->dim == op->part ? 1.0f : 0.0f;
  if (tile_scalar_arity(op->code) != 2 || !op->one_row || op->cols != 1) return FLT_MAX;
  float x = scalar_value(kind, op->operands[0], layer), y = scalar_value(kind, op->operands[1], layer);
  switch (op->code) {
  case TILE_add:
    return x + y;
  case TILE_sub:
    return x - y;
  case TILE_mul:
    return x * y;
  case TILE_max:
    return x > y ? x : y;
  case TILE_min:
    return x < y ? x : y;
  default:
    return FLT_MAX;
  }
}

/* Where the loop over the context begins: at a chunk's first position. */
static int64_t first_position(const tile_kind *kind, const tile_step *step, int64_t segment, int64_t layer) {
  for (int i = 0; i < kind->op_count; i++) {
    const tile_op *op = &kind->ops[i];
    if (op->code != TILE_loop) continue;
    if (op->list_count == 0) return 0;
    float window = scalar_value(kind, op->list[0], layer);
    float first = (float)step->positions[step->segment_row[segment]] + 1 - window;
    return first > 0 ? (int64_t)first / TILE_CHUNK * TILE_CHUNK : 0;
  }
  return 0;
}

/* Tokens of the row tile that chose the task's batch. Their choices stay in memory until the row tile's next groups. */
static int32_t choosing_rows(const tile_program *p, const tile_kind *kind, const tile_step *step, int64_t row,
                             int64_t col, int32_t tokens) {
  const tile_op *op = &kind->ops[0];
  const tile_buffer *buffer = &p->buffers[op->ref];
  const char *slab = step->arena[buffer->space] + row * p->slab_bytes[buffer->space];
  const float *choices = (const float *)(const void *)(slab + buffer->offset);
  float batch = (float)(col / tile_batch_tasks(kind));
  int32_t rows = 0;
  for (int32_t r = 0; r < tokens; r++) {
    for (int64_t j = 0; j < op->dim; j++) {
      if (choices[r * buffer->stride + j] != batch) continue;
      rows++;
      break;
    }
  }
  return rows;
}

void rt_trace_task(rt_trace *t, int lane, const tile_program *p, const tile_step *step, const rt_task_record *record) {
  rt_trace_lane *l = &t->lanes[lane];
  if (l->count == t->lane_capacity) {
    l->dropped++;
    return;
  }
  rt_task_record *r = &l->tasks[l->count++];
  *r = *record;
  const tile_group *group = &p->groups[r->group];
  const tile_kind *kind = &p->kinds[group->kind];
  if (kind->space == TILE_SEGMENTS) {
    int64_t layer = tile_layer(&p->sections[group->section], r->iteration);
    int64_t last = step->segment_row[r->row] + step->segment_tokens[r->row] - 1;
    int64_t end = kind->whole ? step->segment_end[r->row] : step->positions[last] + 1;
    r->rows = step->segment_tokens[r->row];
    r->context = (int32_t)(end - first_position(kind, step, r->row, layer));
    r->ends = r->row + 1 == step->rows[TILE_SEGMENTS] || step->segment_pages[r->row + 1] != step->segment_pages[r->row];
    return;
  }
  int64_t left = step->rows[kind->space] - (int64_t)r->row * p->row_tile;
  r->rows = (int32_t)(left < p->row_tile ? left : p->row_tile);
  if (kind->used > 0) r->rows = choosing_rows(p, kind, step, r->row, r->col, r->rows);
}
