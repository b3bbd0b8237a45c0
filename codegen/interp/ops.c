/* codegen/interp/ops.c: what each tile op computes, the plainest way: loops over rows and columns, in the order that
 * tile.h's numerics fix. Other back ends are held to these bits. */
#include "codegen/interp/interp.h"

#include <math.h>
#include <string.h>

float *interp_value(const interp_task *task, int index) { return task->scratch + task->place[index]; }

int64_t interp_rows(const interp_task *task, const tile_op *op) { return op->one_row ? 1 : task->rows; }

int64_t interp_columns(const interp_task *task, const tile_op *op) {
  return op->column_tile ? task->columns : op->cols;
}

float interp_element(const interp_task *task, int index, int64_t r, int64_t c, int64_t cols) {
  const tile_op *op = &task->kind->ops[index];
  return interp_value(task, index)[(op->one_row ? 0 : r) * op->cols + c * op->cols / cols];
}

int64_t interp_last_position(const interp_task *task) {
  if (task->kind->whole) return task->step->segment_end[task->row] - 1;
  return task->step->positions[task->row0 + task->tokens - 1];
}

int64_t interp_first_chunk(const interp_task *task, int index) {
  const tile_op *op = &task->kind->ops[index];
  if (op->part) return task->step->positions[task->row0] / TILE_CHUNK;
  if (!op->list_count) return 0;
  int64_t first = task->step->positions[task->row0] + 1 - (int64_t)interp_value(task, op->list[0])[0];
  return first > 0 ? first / TILE_CHUNK : 0;
}

/* ---- addresses */

static int64_t token_of(const interp_task *task, int64_t r) {
  return task->row0 + (task->chosen ? task->chosen[r] / task->kind->used : r / task->kind->group);
}

static int64_t column_of(const interp_task *task, const tile_op *op, int64_t r) {
  int64_t column = op->col_base + task->col * op->col_step + task->batch * op->batch_step + task->row * op->row_step;
  if (!op->group_step) return column;
  return column + (task->chosen ? task->chosen[r] % task->kind->used : r % task->kind->group) * op->group_step;
}

/* Row r's first element of a load or store. */
static float *buffer_row(const interp_task *task, const tile_op *op, int64_t r) {
  const tile_program *program = task->program;
  const tile_buffer *buffer = &program->buffers[op->ref];
  int64_t row = token_of(task, r), column = column_of(task, op, r);
  if (buffer->output >= 0) return task->step->outputs[buffer->output] + row * buffer->stride + column;
  if (op->index >= 0) row = task->step->inputs[op->index][row];
  int64_t tile = row / program->row_tile;
  if (buffer->space == TILE_WINDOW) tile %= program->window;
  char *slab = task->step->arena[buffer->space] + tile * program->slab_bytes[buffer->space];
  int64_t layer = buffer->layers ? task->layer - buffer->first_layer : 0;
  return (float *)(void *)(slab + buffer->offset) + (layer * program->row_tile + row % program->row_tile) * buffer->stride + column;
}

static const char *weight_of(const interp_task *task, const tile_op *op, ir_dtype *storage) {
  const tile_weight *weight = &task->program->weights[op->ref];
  int64_t layer = weight->count > 1 ? task->layer - weight->first_layer : 0;
  int64_t slot = weight->first_slot + layer * weight->inner + (weight->inner > 1 ? task->batch : 0);
  *storage = (ir_dtype)task->step->weight_types[slot];
  return task->step->weights[slot];
}

/* Keys (part 0) or values (part 1) of a page and head, of this layer. */
static char *cache_part(const interp_task *task, const tile_cache *cache, int64_t page, int64_t head, int part) {
  int64_t unit = ((cache->shared ? 0 : task->layer) * cache->heads + head) * (cache->key_elements + cache->value_elements);
  char *base = task->step->kv + page * task->program->page_bytes + cache->offset;
  return base + (unit + (part ? cache->key_elements : 0)) * ir_dtype_block_bytes(cache->storage);
}

static int64_t head_of(const interp_task *task, const tile_op *op) {
  return task->col * (op->inner > 1 ? op->inner : 1) + op->outer;
}

static int64_t chunk_page(const interp_task *task) {
  const tile_step *step = task->step;
  return step->pages[step->segment_pages[task->row] + task->chunk];
}

/* Where an operand of a product has its rows. */
static const float *product_rows(const interp_task *task, int index, int64_t *lda) {
  const tile_op *op = &task->kind->ops[index];
  *lda = op->one_row ? 0 : op->cols;
  return interp_value(task, index);
}

/* ---- ops */

static void elementwise(const interp_task *task, int index) {
  const tile_op *op = &task->kind->ops[index];
  int arity = tile_scalar_arity(op->code);
  float *to = interp_value(task, index);
  for (int64_t r = 0; r < interp_rows(task, op); r++) {
    for (int64_t c = 0; c < interp_columns(task, op); c++) {
      float x = interp_element(task, op->operands[0], r, c, op->cols);
      float y = arity == 2 ? interp_element(task, op->operands[1], r, c, op->cols) : 0;
      to[r * op->cols + c] = interp_scalar(op->code, x, y);
    }
  }
}

static void load(const interp_task *task, int index) {
  const tile_op *op = &task->kind->ops[index];
  float *to = interp_value(task, index);
  for (int64_t r = 0; r < task->rows && task->kind->space != TILE_PARAMETERS; r++)
    memcpy(to + r * op->cols, buffer_row(task, op, r), sizeof(float) * (size_t)interp_columns(task, op));
}

static void store(const interp_task *task, int index) {
  const tile_op *op = &task->kind->ops[index], *x = &task->kind->ops[op->operands[0]];
  int64_t columns = op->column_tile || x->column_tile ? task->columns : op->cols;
  for (int64_t r = 0; r < task->rows; r++) {
    float *to = buffer_row(task, op, r);
    for (int64_t c = 0; c < columns; c++) to[c] = interp_element(task, op->operands[0], r, c, op->cols);
  }
}

/* The task's piece of a slot, and how its elements are stored. */
static char *state_of(const interp_task *task, const tile_op *op, ir_dtype *storage) {
  const tile_weight *weight = &task->program->weights[op->ref];
  *storage = tile_state_type(weight, (tile_state)op->part);
  char *slot = (char *)task->step->states[op->part][weight->first_slot + (int)task->row];
  return slot + task->col * task->kind->col_tile * ir_dtype_block_bytes(*storage);
}

/* To nearest, of two equally near to the even one; NaN stays one. */
static uint16_t bf16_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  if ((bits & 0x7fffffff) > 0x7f800000) return (uint16_t)(bits >> 16 | 0x40);
  return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static void parameter(const interp_task *task, int index) {
  ir_dtype storage;
  const char *from = state_of(task, &task->kind->ops[index], &storage);
  float *to = interp_value(task, index);
  for (int64_t c = 0; c < task->columns; c++) {
    uint32_t bits = 0;
    if (storage == IR_f32) memcpy(&bits, from + c * 4, 4);
    if (storage == IR_bf16) bits = (uint32_t)((const uint16_t *)(const void *)from)[c] << 16;
    memcpy(&to[c], &bits, sizeof bits);
  }
}

/* Threefry-2x32, 13 rounds (Salmon et al., 2011): the first word. */
uint32_t interp_random_word(uint32_t x, uint32_t y, uint32_t key, uint32_t key2) {
  static const int turns[] = {13, 15, 26, 6, 17, 29, 16, 24};
  const uint32_t keys[] = {key, key2, 0x1BD11BDA ^ key ^ key2};
  x += keys[0], y += keys[1];
  for (uint32_t round = 0; round < 13; round++) {
    x += y;
    y = (y << turns[round % 8] | y >> (32 - turns[round % 8])) ^ x;
    uint32_t s = round / 4 + 1;
    if (round % 4 == 3) x += keys[s % 3], y += keys[(s + 1) % 3] + s;
  }
  return x;
}

float interp_noise(uint32_t word) {
  float x = (float)(int32_t)(word >> 1) * 0x1p-31f, shifted = x + 0x1p-32f;
  return shifted < 1 - 0x1p-24f ? shifted : 1 - 0x1p-24f;
}

static void noise(const interp_task *task, int index) {
  const tile_op *op = &task->kind->ops[index];
  const int32_t *const *inputs = task->step->inputs;
  for (int64_t r = 0; r < task->rows; r++) {
    int64_t row = token_of(task, r), first = column_of(task, op, r);
    uint32_t key = (uint32_t)inputs[op->ref][row], key2 = (uint32_t)inputs[op->index][row];
    uint32_t place = (uint32_t)inputs[op->part][row];
    for (int64_t c = 0; c < interp_columns(task, op); c++)
      interp_value(task, index)[r * op->cols + c] = interp_noise(interp_random_word((uint32_t)(first + c), place, key, key2));
  }
}

static void random_bits(const interp_task *task, int index) {
  const tile_op *op = &task->kind->ops[index];
  uint32_t slot = (uint32_t)(task->program->weights[op->ref].first_slot + task->row), keys[2];
  for (int i = 0; i < 2; i++) keys[i] = (uint32_t)interp_element(task, op->operands[i], 0, 0, 1);
  for (int64_t c = 0; c < task->columns; c++) {
    uint32_t element = (uint32_t)(task->col * task->kind->col_tile + c);
    interp_value(task, index)[c] = (float)(interp_random_word(element, slot, keys[0], keys[1]) & 0xffff);
  }
}

static void round_random(const interp_task *task, int index) {
  const tile_op *op = &task->kind->ops[index];
  for (int64_t c = 0; c < task->columns; c++) {
    float x = interp_element(task, op->operands[0], 0, c, op->cols), r = interp_element(task, op->operands[1], 0, c, op->cols);
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if ((bits & 0x7f800000) != 0x7f800000) bits = (bits + (uint32_t)r) & 0xffff0000;
    memcpy(&interp_value(task, index)[c], &bits, sizeof bits);
  }
}

static void assign(const interp_task *task, int index) {
  const tile_op *op = &task->kind->ops[index];
  ir_dtype storage;
  char *to = state_of(task, op, &storage);
  for (int64_t c = 0; c < task->columns; c++) {
    float value = interp_element(task, op->operands[0], 0, c, task->kind->col_tile);
    if (storage == IR_bf16)
      ((uint16_t *)(void *)to)[c] = bf16_of(value);
    else
      ((float *)(void *)to)[c] = value;
  }
}

static void vector(const interp_task *task, int index) {
  const tile_op *op = &task->kind->ops[index];
  ir_dtype storage;
  const float *from = (const float *)(const void *)weight_of(task, op, &storage) + column_of(task, op, 0);
  memcpy(interp_value(task, index), from, sizeof(float) * (size_t)interp_columns(task, op));
}

static void embed(const interp_task *task, int index) {
  const tile_op *op = &task->kind->ops[index];
  ir_dtype storage;
  const char *w = weight_of(task, op, &storage);
  for (int64_t r = 0; r < task->rows; r++)
    interp_embed(storage, w, task->program->weights[op->ref].cols, task->step->inputs[op->index][token_of(task, r)],
                 column_of(task, op, 0), interp_columns(task, op), interp_value(task, index) + r * op->cols);
}

static void input(const interp_task *task, int index) {
  const int32_t *list = task->step->inputs[task->kind->ops[index].ref];
  for (int64_t r = 0; r < task->rows; r++) {
    int32_t number = list[token_of(task, r)];
    float *value = interp_value(task, index) + r;
    *value = (float)number;
    if (task->kind->ops[index].part) memcpy(value, &number, sizeof number);
  }
}

/* Lane i takes columns i, i + 16, ...; then the upper half of the lanes is folded onto the lower, down to one. */
static float reduced(const float *x, int64_t count, tile_opcode fold, float neutral) {
  float lanes[TILE_LANES];
  for (int i = 0; i < TILE_LANES; i++) lanes[i] = neutral;
  for (int64_t c = 0; c < count; c++) lanes[c % TILE_LANES] = interp_scalar(fold, lanes[c % TILE_LANES], x[c]);
  for (int width = TILE_LANES / 2; width >= 1; width /= 2)
    for (int i = 0; i < width; i++) lanes[i] = interp_scalar(fold, lanes[i], lanes[i + width]);
  return lanes[0];
}

static void reduce(const interp_task *task, int index) {
  const tile_op *op = &task->kind->ops[index], *x = &task->kind->ops[op->operands[0]];
  bool greatest = op->code == TILE_greatest;
  int64_t size = x->column_tile ? task->columns : x->cols / op->cols;
  for (int64_t r = 0; r < interp_rows(task, op); r++)
    for (int64_t c = 0; c < op->cols; c++)
      interp_value(task, index)[r * op->cols + c] =
          reduced(interp_value(task, op->operands[0]) + (x->one_row ? 0 : r) * x->cols + c * size, size,
                  greatest ? TILE_max : TILE_add, greatest ? -INFINITY : 0.0f);
}

static void rotate(const interp_task *task, int index) {
  const tile_op *op = &task->kind->ops[index];
  int64_t dim = op->dim, half = dim / 2;
  for (int64_t r = 0; r < interp_rows(task, op); r++) {
    for (int64_t c = 0; c < interp_columns(task, op); c++) {
      int64_t angle = c % half;
      bool first = c % dim < half;
      float x = interp_element(task, op->operands[0], r, c, op->cols);
      float pair = interp_element(task, op->operands[0], r, first ? c + half : c - half, op->cols);
      float cosine = interp_element(task, op->operands[1], r, angle, dim);
      float sine = interp_element(task, op->operands[1], r, angle + half, dim);
      float kept = x * cosine, turned = pair * (op->part ? -sine : sine);
      interp_value(task, index)[r * op->cols + c] = first ? kept - turned : kept + turned;
    }
  }
}

/* `depth` of the columns of a take part; steps are made of `extent`. */
static void product(const interp_task *task, ir_dtype storage, const char *w, int64_t block_bytes, int64_t depth,
                    int64_t extent, const float *a, int64_t lda, int64_t rows, float *c, int64_t ldc, int64_t cols) {
  interp_tensor t = {.storage = storage, .depth = depth, .extent = extent, .sliced = true};
  if (interp_is_tensor(task->program, storage))
    interp_tensor_product(&t, w, block_bytes, a, lda, rows, c, ldc, cols);
  else
    interp_product(storage, w, block_bytes, depth, a, lda, rows, c, ldc, cols);
}

static void mma(const interp_task *task, int index) {
  const tile_op *op = &task->kind->ops[index];
  const tile_weight *weight = &task->program->weights[op->ref];
  ir_dtype storage;
  const char *w = weight_of(task, op, &storage);
  int64_t row_bytes = interp_row_bytes(storage, weight->cols), rows = interp_rows(task, op), lda;
  const float *a = product_rows(task, op->operands[0], &lda);
  float *c = interp_value(task, index);
  for (int64_t i = 0; i < rows * op->cols; i++) c[i] = 0;
  product(task, storage, w + column_of(task, op, 0) * row_bytes, row_bytes * TILE_BLOCK, weight->cols, weight->cols, a,
          lda, rows, c, op->cols, interp_columns(task, op));
}

/* A step of the rows n .. n+15 of the matrix, column k of it. */
static float step_back(const interp_task *task, const tile_op *op, const char *w, ir_dtype storage, const float *a,
                       int64_t n, int64_t k, float sum) {
  const tile_weight *weight = &task->program->weights[op->ref];
  float x[TILE_STEP] = {0}, row[TILE_STEP] = {0};
  for (int64_t i = 0; i < TILE_STEP && n + i < weight->rows; i++) {
    x[i] = a[n + i];
    interp_embed(storage, w, weight->cols, n + i, k, 1, &row[i]);
  }
  return interp_tensor_step(storage, sum, x, row);
}

static void tensor_back(const interp_task *task, int index) {
  const tile_op *op = &task->kind->ops[index];
  ir_dtype storage;
  const char *w = weight_of(task, op, &storage);
  int64_t lda, first = column_of(task, op, 0);
  const float *a = product_rows(task, op->operands[0], &lda);
  for (int64_t r = 0; r < task->rows; r++)
    for (int64_t c = 0; c < interp_columns(task, op); c++) {
      float *sum = &interp_value(task, index)[r * op->cols + c];
      *sum = 0;
      for (int64_t n = 0; n < task->program->weights[op->ref].rows; n += TILE_STEP)
        *sum = step_back(task, op, w, storage, a + r * lda, n, first + c, *sum);
    }
}

/* By the rows of the packed matrix, in order. */
static void mma_back(const interp_task *task, int index) {
  const tile_op *op = &task->kind->ops[index];
  const tile_weight *weight = &task->program->weights[op->ref];
  ir_dtype storage;
  const char *w = weight_of(task, op, &storage);
  int64_t lda, columns = interp_columns(task, op);
  const float *a = product_rows(task, op->operands[0], &lda);
  float *c = interp_value(task, index), row[TILE_BLOCK];
  if (interp_is_tensor(task->program, storage)) {
    tensor_back(task, index);
    return;
  }
  for (int64_t i = 0; i < task->rows * op->cols; i++) c[i] = 0;
  for (int64_t n = 0; n < weight->rows; n++)
    for (int64_t from = 0; from < columns; from += TILE_BLOCK) {
      int64_t some = columns - from < TILE_BLOCK ? columns - from : TILE_BLOCK;
      interp_embed(storage, w, weight->cols, n, column_of(task, op, 0) + from, some, row);
      for (int64_t r = 0; r < task->rows; r++)
        for (int64_t i = 0; i < some; i++)
          c[r * op->cols + from + i] = fmaf(a[r * lda + n], row[i], c[r * op->cols + from + i]);
    }
}

static void keys_row(const interp_task *task, int index) {
  const tile_op *op = &task->kind->ops[index];
  const tile_cache *cache = &task->program->caches[op->ref];
  const char *keys = cache_part(task, cache, chunk_page(task), head_of(task, op), 0);
  memcpy(interp_value(task, index), keys + op->dim * TILE_CHUNK * 4, sizeof(float) * TILE_CHUNK);
}

static void hot(const interp_task *task, int index) {
  const tile_op *op = &task->kind->ops[index];
  for (int64_t r = 0; r < interp_rows(task, op); r++)
    for (int64_t c = 0; c < interp_columns(task, op); c++)
      interp_value(task, index)[r * op->cols + c] =
          interp_element(task, op->operands[0], r, 0, 1) == (float)(column_of(task, op, r) + c);
}

static void at(const interp_task *task, int index) {
  const tile_op *op = &task->kind->ops[index], *x = &task->kind->ops[op->operands[0]];
  for (int64_t r = 0; r < interp_rows(task, op); r++) {
    float column = interp_element(task, op->operands[1], r, 0, 1);
    bool inside = column >= 0 && column < (float)x->cols;
    interp_value(task, index)[r] = inside ? interp_element(task, op->operands[0], r, (int64_t)column, x->cols) : 0;
  }
}

static void mma_keys(const interp_task *task, int index) {
  const tile_op *op = &task->kind->ops[index];
  const tile_cache *cache = &task->program->caches[op->ref];
  int64_t lda;
  const float *a = product_rows(task, op->operands[0], &lda);
  const char *keys = cache_part(task, cache, chunk_page(task), head_of(task, op), 0);
  int64_t bytes = ir_dtype_block_bytes(cache->storage);
  float *c = interp_value(task, index);
  for (int64_t i = 0; i < task->rows * op->cols; i++) c[i] = 0;
  product(task, cache->storage, keys, cache->dim[0] * TILE_BLOCK * bytes, cache->dim[0], cache->dim[0], a, lda,
          task->rows, c, op->cols, op->cols);
}

/* The positions after the last one that a row of the segment sees are no part of the sum: the cache may hold anything
 * there. */
static void mma_values(const interp_task *task, int index) {
  const tile_op *op = &task->kind->ops[index];
  const tile_cache *cache = &task->program->caches[op->ref];
  int64_t lda, positions = interp_last_position(task) + 1 - task->chunk * TILE_CHUNK;
  const float *a = product_rows(task, op->operands[0], &lda);
  const char *values = cache_part(task, cache, chunk_page(task), head_of(task, op), 1);
  int64_t bytes = ir_dtype_block_bytes(cache->storage);
  float *c = interp_value(task, index);
  for (int64_t r = 0; r < task->rows; r++)
    for (int64_t n = 0; n < op->cols; n++) c[r * op->cols + n] = interp_element(task, op->operands[1], r, n, op->cols);
  product(task, cache->storage, values, TILE_CHUNK * TILE_BLOCK * bytes,
          positions < TILE_CHUNK ? positions : TILE_CHUNK, TILE_CHUNK, a, lda, task->rows, c, op->cols, op->cols);
}

static void causal(const interp_task *task, int index) {
  const tile_op *op = &task->kind->ops[index];
  for (int64_t r = 0; r < task->rows; r++) {
    int64_t own = task->step->positions[token_of(task, r)];
    for (int64_t c = 0; c < op->cols; c++)
      interp_value(task, index)[r * op->cols + c] =
          task->chunk * TILE_CHUNK + c <= own ? interp_element(task, op->operands[0], r, c, op->cols) : -INFINITY;
  }
}

static void append(const interp_task *task, int index) {
  const tile_op *op = &task->kind->ops[index], *x = &task->kind->ops[op->operands[0]];
  const tile_cache *cache = &task->program->caches[op->ref];
  for (int64_t r = 0; r < task->rows; r++) {
    int64_t slot = task->step->slots[token_of(task, r)], position = slot % TILE_CHUNK;
    for (int64_t c = 0; c < interp_columns(task, x); c++) {
      int64_t n = column_of(task, op, 0) + c, e = n % op->dim, major = position, minor = e, depth = cache->dim[0];
      if (op->part == 1) major = e, minor = position, depth = TILE_CHUNK; /* dims are the rows there */
      char *part = cache_part(task, cache, slot / TILE_CHUNK, n / op->dim, op->part);
      float value = interp_element(task, op->operands[0], r, c, x->cols);
      int64_t element = (major / TILE_BLOCK * depth + minor) * TILE_BLOCK + major % TILE_BLOCK;
      if (cache->storage == IR_f16)
        ((uint16_t *)(void *)part)[element] = interp_half(value);
      else
        ((float *)(void *)part)[element] = value;
    }
  }
}

static void window(const interp_task *task, int index) {
  const tile_op *op = &task->kind->ops[index];
  int64_t width = (int64_t)interp_value(task, op->operands[1])[0];
  for (int64_t r = 0; r < task->rows; r++) {
    int64_t own = task->step->positions[token_of(task, r)];
    for (int64_t c = 0; c < op->cols; c++) {
      int64_t position = task->chunk * TILE_CHUNK + c;
      bool inside = op->part ? position < own + width : position > own - width;
      interp_value(task, index)[r * op->cols + c] =
          inside ? interp_element(task, op->operands[0], r, c, op->cols) : -INFINITY;
    }
  }
}

static void seen_by(const interp_task *task, int index) {
  const tile_op *op = &task->kind->ops[index];
  for (int64_t r = 0; r < task->rows; r++) {
    int64_t own = task->step->positions[token_of(task, r)];
    for (int64_t c = 0; c < op->cols; c++) {
      int64_t position = task->chunk * TILE_CHUNK + c;
      bool sees = position >= own && position < task->step->segment_end[task->row];
      interp_value(task, index)[r * op->cols + c] = sees ? interp_element(task, op->operands[0], r, c, op->cols) : -INFINITY;
    }
  }
}

static void known(const interp_task *task, int index) {
  const tile_op *op = &task->kind->ops[index];
  for (int64_t r = 0; r < task->rows; r++)
    for (int64_t c = 0; c < op->cols; c++)
      interp_value(task, index)[r * op->cols + c] = task->chunk * TILE_CHUNK + c < task->step->segment_end[task->row]
                                                        ? interp_element(task, op->operands[0], r, c, op->cols)
                                                        : -INFINITY;
}

/* ---- choices */

/* Of a token that has the batch twice the first counts: so a batch never has more rows than the row tile has tokens. */
void interp_choose(interp_task *task) {
  const tile_op *op = &task->kind->ops[0];
  const tile_buffer *buffer = &task->program->buffers[op->ref];
  const char *slab = task->step->arena[buffer->space] + task->row * task->program->slab_bytes[buffer->space];
  const float *ids = (const float *)(const void *)(slab + buffer->offset);
  int32_t *chosen = (int32_t *)(void *)interp_value(task, 0);
  task->rows = 0;
  for (int64_t r = 0; r < task->tokens; r++) {
    for (int64_t j = 0; j < op->dim; j++) {
      if (ids[r * buffer->stride + j] != (float)task->batch) continue;
      chosen[task->rows++] = (int32_t)(r * op->dim + j);
      break;
    }
  }
  task->chosen = chosen;
}

static void choose(const interp_task *task, int index) {
  (void)task, (void)index; /* before the first op */
}

static float rank_of(float x) { return x == x ? x : -INFINITY; }

/* Whether column a comes before column b. */
static bool is_ahead(const float *x, int64_t a, int64_t b) {
  return rank_of(x[a]) > rank_of(x[b]) || (rank_of(x[a]) == rank_of(x[b]) && a < b);
}

static void top_k(const interp_task *task, int index) {
  const tile_op *op = &task->kind->ops[index];
  int64_t heads = op->cols / op->dim, n = task->kind->ops[op->operands[0]].cols / heads;
  for (int64_t r = 0; r < interp_rows(task, op); r++) {
    for (int64_t h = 0; h < heads; h++) {
      const tile_op *from = &task->kind->ops[op->operands[0]];
      const float *x = interp_value(task, op->operands[0]) + (from->one_row ? 0 : r) * from->cols + h * n;
      for (int64_t i = 0, last = -1; i < op->dim; i++) {
        int64_t best = -1;
        for (int64_t c = 0; c < n; c++)
          if ((last < 0 || is_ahead(x, last, c)) && (best < 0 || is_ahead(x, c, best))) best = c;
        interp_value(task, index)[r * op->cols + h * op->dim + i] = (float)best;
        last = best;
      }
    }
  }
}

static void best(const interp_task *task, int index) {
  const tile_op *op = &task->kind->ops[index], *x = &task->kind->ops[op->operands[0]];
  int64_t count = x->column_tile ? task->columns : x->cols;
  for (int64_t r = 0; r < interp_rows(task, op); r++) {
    const float *row = interp_value(task, op->operands[0]) + (x->one_row ? 0 : r) * x->cols;
    int64_t first = 0;
    for (int64_t c = 1; c < count; c++)
      if (is_ahead(row, c, first)) first = c;
    interp_value(task, index)[r * 2] = rank_of(row[first]);
    interp_value(task, index)[r * 2 + 1] = (float)(column_of(task, op, r) + first);
  }
}

static void take(const interp_task *task, int index) {
  const tile_op *op = &task->kind->ops[index];
  int64_t n = task->kind->ops[op->operands[0]].cols / (op->cols / op->dim);
  for (int64_t r = 0; r < interp_rows(task, op); r++)
    for (int64_t c = 0; c < op->cols; c++) {
      int64_t at = c / op->dim * n + (int64_t)interp_element(task, op->operands[1], r, c, op->cols);
      interp_value(task, index)[r * op->cols + c] =
          interp_element(task, op->operands[0], r, at, task->kind->ops[op->operands[0]].cols);
    }
}

static void place(const interp_task *task, int index) {
  const tile_op *op = &task->kind->ops[index];
  int64_t ids = task->kind->ops[op->operands[1]].cols, n = op->cols / (ids / op->dim);
  for (int64_t r = 0; r < interp_rows(task, op); r++) {
    float *to = interp_value(task, index) + r * op->cols;
    for (int64_t c = 0; c < op->cols; c++) to[c] = 0;
    for (int64_t i = 0; i < ids; i++)
      to[i / op->dim * n + (int64_t)interp_element(task, op->operands[1], r, i, ids)] +=
          interp_element(task, op->operands[0], r, i, ids);
  }
}

static void among(const interp_task *task, int index) {
  const tile_op *op = &task->kind->ops[index];
  int64_t ids = task->kind->ops[op->operands[0]].cols, n = op->cols / (ids / op->dim);
  for (int64_t r = 0; r < interp_rows(task, op); r++)
    for (int64_t c = 0; c < op->cols; c++) {
      bool found = false;
      for (int64_t i = 0; i < op->dim; i++)
        found |= interp_element(task, op->operands[0], r, c / n * op->dim + i, ids) == (float)(c % n);
      interp_value(task, index)[r * op->cols + c] = found;
    }
}

/* ---- columns from elsewhere, numbers */

static void pick(const interp_task *task, int index) {
  const tile_op *op = &task->kind->ops[index];
  for (int64_t r = 0; r < interp_rows(task, op); r++)
    for (int64_t c = 0; c < op->cols; c++)
      interp_value(task, index)[r * op->cols + c] =
          interp_element(task, op->operands[0], r, op->col_base + c / op->dim * op->outer + c % op->dim * op->inner,
                         task->kind->ops[op->operands[0]].cols);
}

static void concat(const interp_task *task, int index) {
  const tile_op *op = &task->kind->ops[index];
  const tile_op *x = &task->kind->ops[op->operands[0]], *y = &task->kind->ops[op->operands[1]];
  int64_t a = op->dim, heads = x->cols / a, b = y->cols / heads;
  for (int64_t r = 0; r < interp_rows(task, op); r++)
    for (int64_t c = 0; c < op->cols; c++) {
      int64_t h = c / (a + b), e = c % (a + b);
      interp_value(task, index)[r * op->cols + c] = e < a ? interp_element(task, op->operands[0], r, h * a + e, x->cols)
                                                          : interp_element(task, op->operands[1], r, h * b + e - a, y->cols);
    }
}

static void every(const interp_task *task, int index) {
  const tile_op *op = &task->kind->ops[index];
  interp_value(task, index)[0] = task->layer % op->dim == op->part;
}

static void constant(const interp_task *task, int index) { interp_value(task, index)[0] = task->kind->ops[index].imm; }

static void table(const interp_task *task, int index) {
  const tile_op *op = &task->kind->ops[index];
  memcpy(interp_value(task, index), op->data, sizeof(float) * (size_t)op->cols);
}

/* The rest are elementwise. */
static void (*const functions[TILE_OPCODE_COUNT])(const interp_task *task, int index) = {
    [TILE_constant] = constant,     [TILE_table] = table, [TILE_load] = load,     [TILE_vector] = vector,
    [TILE_embed] = embed,           [TILE_input] = input, [TILE_sum] = reduce,    [TILE_greatest] = reduce,
    [TILE_rotate] = rotate,         [TILE_mma] = mma,     [TILE_causal] = causal, [TILE_mma_keys] = mma_keys,
    [TILE_mma_values] = mma_values, [TILE_store] = store, [TILE_append] = append, [TILE_window] = window,
    [TILE_known] = known,           [TILE_choose] = choose, [TILE_top_k] = top_k, [TILE_take] = take,
    [TILE_mma_back] = mma_back,     [TILE_keys_row] = keys_row, [TILE_hot] = hot, [TILE_at] = at,
    [TILE_seen_by] = seen_by,       [TILE_mma_rows] = interp_mma_rows, [TILE_sum_rows] = interp_sum_rows,
    [TILE_scatter_rows] = interp_scatter_rows, [TILE_parameter] = parameter, [TILE_assign] = assign,
    [TILE_random] = random_bits, [TILE_round_random] = round_random,
    [TILE_place] = place,           [TILE_noise] = noise, [TILE_best] = best,
    [TILE_among] = among,           [TILE_pick] = pick,   [TILE_concat] = concat, [TILE_every] = every,
};

void interp_op(const interp_task *task, int index) {
  tile_opcode code = task->kind->ops[index].code;
  (functions[code] ? functions[code] : elementwise)(task, index);
}
