/* api/profile.c: how much work each task was, from the tile program's ops and the shapes of the step, beside the time it
 * took.
 *
 * FLOP: a product's 2 a term, 1 a number an elementwise or reducing op makes; padding is not counted.
 * Bytes: of weights and of the KV cache, once a step however many tasks read them: what must come from memory.
 * Time: of the clock on the wall, split evenly among the tasks that run at the same moment: adds up to the time in which
 * at least one worker had something to run. */
#include "api/trace.h"

#include <stdlib.h>

/* What the ops of a task are over. */
typedef struct extent {
  const dp_trace *trace;
  const rt_task_record *task;
  const tile_kind *kind;
  int64_t layer, rows, cols; /* rows with members; columns of the task's column tile */
} extent;

static extent extent_of(const dp_trace *trace, const rt_task_record *task) {
  const tile_program *p = trace->program;
  const tile_kind *kind = api_kind_of(trace, task);
  int64_t begin = (int64_t)(task->col % tile_batch_tasks(kind)) * kind->col_tile, left = kind->columns - begin;
  return (extent){.trace = trace,
                  .task = task,
                  .kind = kind,
                  .layer = tile_layer(&p->sections[p->groups[task->group].section], task->iteration),
                  .rows = kind->slots ? 1 : (int64_t)task->rows * (kind->used > 0 ? 1 : kind->group),
                  .cols = left < kind->col_tile ? left : kind->col_tile};
}

static int64_t columns_of(const extent *x, const tile_op *op) { return op->column_tile ? x->cols : op->cols; }

/* Numbers that an op makes, in all chunks if it is in the loop. Columns that are positions are counted as far as the
 * context goes, not to the end of the last chunk. */
static double numbers(const extent *x, const tile_op *op, bool loop) {
  double cols = (double)columns_of(x, op), chunks = 1;
  if (loop && op->cols == TILE_CHUNK)
    cols = x->task->context;
  else if (loop)
    chunks = (double)((x->task->context + TILE_CHUNK - 1) / TILE_CHUNK);
  return (op->one_row ? 1 : (double)x->rows) * cols * chunks;
}

/* That a task over parameters sums over: the step's, or those of its window. */
static double summed_tokens(const extent *x) {
  int64_t all = x->trace->records->steps[x->task->step].rows[TILE_TOKENS];
  int64_t window = (int64_t)x->kind->window * x->trace->program->row_tile, left = all - window * x->task->row;
  return (double)(window == 0 ? all : left < window ? left : window);
}

static double op_flop(const extent *x, const tile_op *op, bool loop) {
  const tile_program *p = x->trace->program;
  switch (op->code) {
  case TILE_mma:
    return 2 * (double)x->rows * (double)columns_of(x, op) * (double)p->weights[op->ref].cols;
  case TILE_mma_back:
    return 2 * (double)x->rows * (double)columns_of(x, op) * (double)p->weights[op->ref].rows;
  case TILE_mma_rows:
    return 2 * summed_tokens(x) * (double)p->weights[op->ref].cols * (double)columns_of(x, &x->kind->ops[op->operands[1]]);
  case TILE_mma_keys:
    return 2 * (double)x->rows * (double)p->caches[op->ref].dim[0] * x->task->context;
  case TILE_mma_values:
    return 2 * (double)x->rows * (double)op->cols * x->task->context;
  case TILE_sum:
  case TILE_greatest: /* of as many columns as the operand has */
    return numbers(x, &x->kind->ops[op->operands[0]], loop);
  case TILE_rotate:
    return 3 * numbers(x, op, loop);
  default:
    return tile_scalar_arity(op->code) > 0 ? numbers(x, op, loop) : 0;
  }
}

static ir_dtype weight_type(const extent *x, const tile_weight *weight) {
  int64_t layer = weight->count > 1 ? x->layer - weight->first_layer : 0;
  int64_t batch = x->task->col / tile_batch_tasks(x->kind);
  int64_t slot = weight->first_slot + layer * weight->inner + (weight->inner > 1 ? batch : 0);
  return (ir_dtype)x->trace->records->weight_types[slot];
}

/* Bytes of weights; `first`: no task of the step has read these rows before. */
static int64_t op_weight_bytes(const extent *x, const tile_op *op, bool first) {
  if (op->code != TILE_mma && op->code != TILE_embed && op->code != TILE_vector) return 0;
  const tile_weight *weight = &x->trace->program->weights[op->ref];
  int64_t row_bytes = rt_row_bytes(weight_type(x, weight), weight->cols);
  if (op->code == TILE_embed) return x->rows * row_bytes * op->cols / weight->cols;
  if (!first || x->rows == 0) return 0;
  if (op->code == TILE_vector) return 4 * columns_of(x, op);
  return (columns_of(x, op) + TILE_BLOCK - 1) / TILE_BLOCK * TILE_BLOCK * row_bytes;
}

/* The last segment of a sequence sees all that the others of the step see. */
static int64_t op_kv_bytes(const extent *x, const tile_op *op) {
  if (!x->task->ends || (op->code != TILE_mma_keys && op->code != TILE_mma_values)) return 0;
  const tile_cache *cache = &x->trace->program->caches[op->ref];
  int64_t columns = op->code == TILE_mma_keys ? cache->dim[0] : op->cols;
  return x->task->context * columns * ir_dtype_block_bytes(cache->storage);
}

/* Which step has last read what the tasks of a (group, iteration, column) read: its number + 1. */
typedef struct readers {
  int64_t *first; /* [groups] */
  int32_t *steps; /* [instances][1 + columns]; the first of each is of the prologue */
} readers;

static bool reads_first(const readers *r, const extent *x, int64_t place) {
  int64_t iteration = x->kind->window ? 0 : x->task->iteration; /* windows read the same weights */
  int64_t at = r->first[x->task->group] + iteration * (1 + x->kind->col_tasks) + place;
  bool first = r->steps[at] != x->task->step + 1;
  if (x->rows > 0) r->steps[at] = x->task->step + 1;
  return first;
}

static void add_work(const dp_trace *trace, const rt_task_record *task, const readers *r, dp_op_profile *profile) {
  extent x = extent_of(trace, task);
  bool loop = false, first = reads_first(r, &x, 1 + task->col), first_prologue = reads_first(r, &x, 0);
  profile->calls++;
  profile->busy_s += (double)(task->end - task->begin) * 1e-9;
  for (int i = 0; i < x.kind->op_count; i++) {
    const tile_op *op = &x.kind->ops[i];
    bool prologue = i < x.kind->prologue;
    if (op->code == TILE_loop || op->code == TILE_next) loop = op->code == TILE_loop;
    if (prologue && task->reuse) continue;
    profile->flop += op_flop(&x, op, loop);
    profile->weight_bytes += op_weight_bytes(&x, op, prologue ? first_prologue : first);
    profile->kv_bytes += op_kv_bytes(&x, op);
  }
}

/* ---- time */

typedef struct moment {
  int64_t time;
  int kind;
  bool begins;
} moment;

static int by_time(const void *a, const void *b) {
  const moment *x = a, *y = b;
  if (x->time != y->time) return x->time < y->time ? -1 : 1;
  return x->begins - y->begins;
}

static void split_time(dp_trace *trace, const moment *moments, int64_t count, int *running) {
  int all = 0;
  for (int64_t i = 0; i < count; i++) {
    if (all > 0) {
      double each = (double)(moments[i].time - moments[i - 1].time) * 1e-9 / all;
      for (int k = 0; k < trace->op_count; k++) trace->ops[k].wall_s += each * running[k];
    }
    int change = moments[i].begins ? 1 : -1;
    running[moments[i].kind] += change;
    all += change;
  }
}

static dp_status add_wall_times(dp_trace *trace) {
  const rt_trace *r = trace->records;
  int64_t tasks = 0, count = 0;
  for (int i = 0; i < r->lane_count; i++) tasks += r->lanes[i].count;
  moment *moments = malloc((size_t)(2 * tasks + 1) * sizeof *moments);
  int *running = calloc((size_t)trace->op_count + 1, sizeof *running);
  dp_status status = moments && running ? DP_SUCCESS : dp_fail(DP_NO_MEMORY, "no memory for a profile");
  for (int i = 0; status.code == DP_OK && i < r->lane_count; i++) {
    for (int64_t j = 0; j < r->lanes[i].count; j++) {
      const rt_task_record *task = &r->lanes[i].tasks[j];
      int kind = trace->program->groups[task->group].kind;
      moments[count++] = (moment){task->begin, kind, true};
      moments[count++] = (moment){task->end, kind, false};
    }
  }
  if (status.code == DP_OK) {
    qsort(moments, (size_t)count, sizeof *moments, by_time);
    split_time(trace, moments, count, running);
  }
  free(moments);
  free(running);
  return status;
}

/* ---- all of it */

static dp_status make_readers(const tile_program *p, readers *r) {
  int64_t total = 0;
  *r = (readers){.first = calloc((size_t)p->group_count + 1, sizeof *r->first)};
  for (int g = 0; r->first && g < p->group_count; g++) {
    r->first[g] = total;
    total += (int64_t)p->sections[p->groups[g].section].iterations * (1 + p->kinds[p->groups[g].kind].col_tasks);
  }
  r->steps = calloc((size_t)total + 1, sizeof *r->steps);
  return r->first && r->steps ? DP_SUCCESS : dp_fail(DP_NO_MEMORY, "no memory for a profile");
}

/* The lanes' records in the order of the steps, so that "read before in this step" means something. */
static void add_all_work(dp_trace *trace, const readers *r, int64_t *cursors) {
  const rt_trace *t = trace->records;
  for (int64_t step = 0; step < t->step_count; step++) {
    for (int i = 0; i < t->lane_count; i++) {
      for (; cursors[i] < t->lanes[i].count && t->lanes[i].tasks[cursors[i]].step == step; cursors[i]++) {
        const rt_task_record *task = &t->lanes[i].tasks[cursors[i]];
        add_work(trace, task, r, &trace->ops[trace->program->groups[task->group].kind]);
      }
    }
  }
}

dp_status api_profile(dp_trace *trace) {
  const tile_program *p = trace->program;
  readers r;
  trace->ops = calloc((size_t)p->kind_count + 1, sizeof *trace->ops);
  int64_t *cursors = calloc((size_t)trace->records->lane_count + 1, sizeof *cursors);
  dp_status status = make_readers(p, &r);
  if (status.code == DP_OK && (!trace->ops || !cursors)) status = dp_fail(DP_NO_MEMORY, "no memory for a profile");
  if (status.code == DP_OK) {
    trace->op_count = p->kind_count;
    for (int k = 0; k < p->kind_count; k++) trace->ops[k].name = p->kinds[k].name;
    add_all_work(trace, &r, cursors);
    status = add_wall_times(trace);
  }
  free(r.first);
  free(r.steps);
  free(cursors);
  return status;
}

const dp_op_profile *dp_trace_ops(const dp_trace *trace, int *count) {
  *count = trace->op_count;
  return trace->ops;
}
