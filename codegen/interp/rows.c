/* codegen/interp/rows.c: ops that add to gradients: over the rows of all tokens, from the first to the last, read straight
 * from their buffers. */
#include "codegen/interp/interp.h"

#include <math.h>

/* The tokens of the task's window, or all. */
static int64_t first_token(const interp_task *task) {
  return task->kind->window ? task->row * task->kind->window * task->program->row_tile : 0;
}

static int64_t end_token(const interp_task *task) {
  int64_t all = task->step->rows[TILE_TOKENS], end = (task->row + 1) * task->kind->window * task->program->row_tile;
  return task->kind->window && end < all ? end : all;
}

static int64_t first_column(const interp_task *task, const tile_op *load) {
  return load->col_base + task->col * load->col_step + task->batch * load->batch_step;
}

/* What a load is of token t. */
static const float *row_of(const interp_task *task, const tile_op *load, int64_t t) {
  const tile_program *p = task->program;
  const tile_buffer *buffer = &p->buffers[load->ref];
  int64_t column = first_column(task, load);
  if (buffer->output >= 0) return task->step->outputs[buffer->output] + t * buffer->stride + column;
  int64_t tile = t / p->row_tile;
  if (buffer->space == TILE_WINDOW) tile %= p->window;
  const char *slab = task->step->arena[buffer->space] + tile * p->slab_bytes[buffer->space] + buffer->offset;
  int64_t layer = buffer->layers ? task->layer - buffer->first_layer : 0;
  return (const float *)(const void *)slab + (layer * p->row_tile + t % p->row_tile) * buffer->stride + column;
}

static float *gradient_of(const interp_task *task, const tile_op *op) {
  const tile_weight *weight = &task->program->weights[op->ref];
  int64_t layer = weight->count > 1 ? task->layer - weight->first_layer : 0;
  return task->step->states[TILE_GRADIENT][weight->first_slot + layer * weight->inner + (weight->inner > 1 ? task->batch : 0)];
}

/* Element (row, k) of a packed matrix of `depth` columns. */
static int64_t packed(int64_t row, int64_t k, int64_t depth) {
  return (row / TILE_BLOCK * depth + k) * TILE_BLOCK + row % TILE_BLOCK;
}

/* Which of token t's choices is the batch; -1: none. 0 in a kind that does not choose. */
static int64_t choice_of(const interp_task *task, int64_t t) {
  if (!task->kind->used) return 0;
  const float *ids = row_of(task, &task->kind->ops[0], t);
  for (int64_t j = 0; j < task->kind->used; j++)
    if (ids[j] == (float)task->batch) return j;
  return -1;
}

/* Sixteen tokens at a time, from the first of the step on; who does not choose the batch counts as zeros. */
static void tensor_rows(const interp_task *task, const tile_op *op, ir_dtype storage) {
  const tile_op *a = &task->kind->ops[op->operands[0]], *b = &task->kind->ops[op->operands[1]];
  int64_t depth = task->program->weights[op->ref].cols, first = task->col * task->kind->col_tile;
  float *gradient = gradient_of(task, op);
  for (int64_t t = first_token(task); t < end_token(task); t += TILE_STEP)
    for (int64_t n = 0; n < task->columns; n++)
      for (int64_t k = 0; k < depth; k++) {
        float x[TILE_STEP] = {0}, y[TILE_STEP] = {0};
        for (int64_t i = 0; i < TILE_STEP && t + i < end_token(task); i++) {
          int64_t choice = choice_of(task, t + i);
          if (choice < 0) continue;
          x[i] = row_of(task, a, t + i)[choice * a->group_step + k];
          y[i] = row_of(task, b, t + i)[choice * b->group_step + n];
        }
        float *sum = &gradient[packed(first + n, k, depth)];
        *sum = interp_tensor_step(storage, *sum, x, y);
      }
}

static ir_dtype storage_of(const interp_task *task, const tile_op *op) {
  const tile_weight *weight = &task->program->weights[op->ref];
  int64_t layer = weight->count > 1 ? task->layer - weight->first_layer : 0;
  return (ir_dtype)task->step->weight_types[weight->first_slot + layer * weight->inner + (weight->inner > 1 ? task->batch : 0)];
}

void interp_mma_rows(const interp_task *task, int index) {
  const tile_op *op = &task->kind->ops[index];
  const tile_op *a = &task->kind->ops[op->operands[0]], *b = &task->kind->ops[op->operands[1]];
  int64_t depth = task->program->weights[op->ref].cols, first = task->col * task->kind->col_tile;
  float *gradient = gradient_of(task, op);
  if (interp_is_tensor(task->program, storage_of(task, op))) {
    tensor_rows(task, op, storage_of(task, op));
    return;
  }
  for (int64_t t = first_token(task); t < end_token(task); t++) {
    int64_t choice = choice_of(task, t);
    if (choice < 0) continue;
    const float *x = row_of(task, a, t) + choice * a->group_step, *y = row_of(task, b, t) + choice * b->group_step;
    for (int64_t n = 0; n < task->columns; n++)
      for (int64_t k = 0; k < depth; k++) {
        float *sum = &gradient[packed(first + n, k, depth)];
        *sum = fmaf(x[k], y[n], *sum);
      }
  }
}

void interp_sum_rows(const interp_task *task, int index) {
  const tile_op *op = &task->kind->ops[index], *x = &task->kind->ops[op->operands[0]];
  int64_t n = task->program->weights[op->ref].cols;
  float *gradient = gradient_of(task, op);
  for (int64_t t = first_token(task); t < end_token(task); t++)
    for (int64_t c = 0; c < x->cols; c++) gradient[c % n] += row_of(task, x, t)[c];
}

void interp_scatter_rows(const interp_task *task, int index) {
  const tile_op *op = &task->kind->ops[index], *x = &task->kind->ops[op->operands[0]];
  int64_t depth = task->program->weights[op->ref].cols, first = first_column(task, x);
  float *gradient = gradient_of(task, op);
  for (int64_t t = first_token(task); t < end_token(task); t++)
    for (int64_t c = 0; c < task->columns; c++)
      gradient[packed(task->step->inputs[op->index][t], first + c, depth)] += row_of(task, x, t)[c];
}
