/* runtime/weights_bound.c: one bound matrix or vector -> its elements in the model's order, wherever the file has them:
 * rows in rotation pairs, windows of larger tensors, transposed tensors, norms stored as offsets, int4 of other tools.
 */
#include "runtime/int4_files.h"
#include "runtime/weights_binding.h"

#include <string.h>

enum { LARGEST_BLOCK = 256 };

int64_t rt_head_rows(const rt_bound *bound) {
  if (bound->paired_heads <= 0) return 0;
  return (bound->vector ? bound->cols : bound->rows) / bound->paired_heads;
}

bool rt_window_place(const ir_source *source, int64_t row, int64_t *place) {
  if (source->run <= 0) return !__builtin_add_overflow(source->first, row, place);
  return !__builtin_mul_overflow(row / source->run, source->step, place) &&
         !__builtin_add_overflow(*place, row % source->run, place) &&
         !__builtin_add_overflow(*place, source->first, place);
}

int64_t rt_bound_place(const rt_bound *bound, int64_t row) {
  int64_t hd = rt_head_rows(bound);
  if (hd) row = rt_paired_row(row, hd);
  if (!bound->run) return row;
  row += bound->origin;
  return bound->first + row / bound->run * bound->step + row % bound->run;
}

const uint8_t *rt_bound_row_data(const rt_bound *bound, int64_t row) {
  if (bound->transposed || bound->int4 || bound->packed) return NULL;
  return bound->data + (bound->vector ? 0 : rt_bound_place(bound, row) * bound->row_bytes);
}

/* A type with blocks of several elements decodes a whole block for each element: only vectors come here. */
static float element_of(const rt_bound *bound, int64_t place) {
  float block[LARGEST_BLOCK];
  int64_t elements = ir_dtype_block_elements(bound->dtype);
  rt_dequantize_row(bound->dtype, bound->data + place / elements * ir_dtype_block_bytes(bound->dtype), block, elements);
  return block[place % elements];
}

static void vector_to_f32(const rt_bound *bound, float *dst) {
  if (bound->run || bound->paired_heads > 0)
    for (int64_t i = 0; i < bound->cols; i++) dst[i] = element_of(bound, rt_bound_place(bound, i));
  else
    rt_dequantize_row(bound->dtype, bound->data, dst, bound->cols);
  for (int64_t i = 0; i < bound->cols && bound->plus != 0; i++) dst[i] += bound->plus;
}

/* Row `place` of tensors in another encoding, through a piece of a row in ours. */
static void int4_to_f32(const rt_bound *bound, int64_t place, float *dst) {
  enum { PIECE = 256 };
  uint8_t piece[PIECE * sizeof(float)];
  for (int64_t k = 0; k < bound->cols; k += PIECE) {
    int64_t n = bound->cols - k < PIECE ? bound->cols - k : PIECE;
    rt_int4_rows(bound->int4, place, 1, k, n, piece);
    rt_dequantize_row(bound->dtype, piece, dst + k, n);
  }
}

static void packed_to_f32(const rt_bound *bound, int64_t row, float *dst) {
  int64_t bytes = ir_dtype_block_bytes(bound->dtype);
  for (int64_t c = 0; c < bound->cols; c++) {
    int64_t at = bound->transposed ? (c / RT_PACK_ROWS * bound->rows + row) * RT_PACK_ROWS + c % RT_PACK_ROWS
                                   : (row / RT_PACK_ROWS * bound->cols + c) * RT_PACK_ROWS + row % RT_PACK_ROWS;
    rt_dequantize_row(bound->dtype, bound->data + at * bytes, dst + c, 1);
  }
}

void rt_bound_row(const rt_bound *bound, int64_t row, float *dst) {
  if (bound->vector) {
    vector_to_f32(bound, dst);
    return;
  }
  if (bound->packed) {
    packed_to_f32(bound, row, dst);
    return;
  }
  int64_t place = rt_bound_place(bound, row), element = ir_dtype_block_bytes(bound->dtype);
  if (bound->int4)
    int4_to_f32(bound, place, dst);
  else if (bound->transposed)
    for (int64_t c = 0; c < bound->cols; c++)
      rt_dequantize_row(bound->dtype, bound->data + c * bound->row_bytes + place * element, dst + c, 1);
  else
    rt_dequantize_row(bound->dtype, bound->data + place * bound->row_bytes, dst, bound->cols);
}

void rt_bound_to_f32(const rt_bound *bound, float *dst) {
  for (int64_t row = 0; row < bound->rows; row++) rt_bound_row(bound, row, dst + row * bound->cols);
}

/* The rows' places that follow each other are asked for together: a column of GPTQ's tensors is a row of ours. */
static void copy_int4_rows(const rt_bound *bound, int64_t row, int64_t count, int64_t row_bytes, uint8_t *dst) {
  for (int64_t i = 0, n; i < count; i += n) {
    int64_t place = rt_bound_place(bound, row + i);
    for (n = 1; i + n < count && rt_bound_place(bound, row + i + n) == place + n; n++) {
    }
    rt_int4_rows(bound->int4, place, n, 0, bound->cols, dst + i * row_bytes);
  }
}

void rt_bound_copy_rows(const rt_bound *bound, int64_t row, int64_t count, uint8_t *dst) {
  int64_t row_bytes = rt_row_bytes(bound->dtype, bound->cols);
  size_t element = (size_t)ir_dtype_block_bytes(bound->dtype);
  if (bound->int4) {
    copy_int4_rows(bound, row, count, row_bytes, dst);
    return;
  }
  for (int64_t i = 0; i < count; i++, dst += row_bytes) {
    int64_t place = rt_bound_place(bound, row + i);
    if (!bound->transposed) {
      memcpy(dst, bound->data + place * bound->row_bytes, (size_t)row_bytes);
      continue;
    }
    const uint8_t *from = bound->data + place * (int64_t)element;
    for (int64_t c = 0; c < bound->cols; c++) memcpy(dst + (size_t)c * element, from + c * bound->row_bytes, element);
  }
}

bool rt_bound_same(const rt_bound *a, const rt_bound *b) {
  return a->data == b->data && a->int4 == b->int4 && a->dtype == b->dtype && a->vector == b->vector &&
         a->transposed == b->transposed && a->rows == b->rows && a->cols == b->cols && a->row_bytes == b->row_bytes &&
         a->run == b->run && a->step == b->step && a->first == b->first && a->origin == b->origin &&
         a->paired_heads == b->paired_heads && memcmp(&a->plus, &b->plus, sizeof a->plus) == 0;
}

static uint64_t hash_place(uint64_t seed, const rt_tensor *tensor, const uint8_t *data) {
  uint64_t place[2] = {0};
  if (tensor) place[0] = (uint64_t)tensor->part + 1, place[1] = tensor->offset + (uint64_t)(data - tensor->data);
  return dp_hash(seed, place, sizeof place);
}

uint64_t rt_bound_hash(uint64_t seed, const rt_bound *b) {
  int64_t numbers[] = {b->dtype, b->vector, b->transposed, b->rows,   b->cols,        b->row_bytes,
                       b->run,   b->step,   b->first,      b->origin, b->paired_heads};
  seed = dp_hash(dp_hash(seed, numbers, sizeof numbers), &b->plus, sizeof b->plus);
  if (b->int4) {
    const rt_int4_tensor *t = b->int4;
    const rt_tensor *parts[] = {t->words, t->zeros, t->scales, t->groups};
    int64_t how[] = {t->awq, t->zero_add, t->group_size};
    for (size_t i = 0; i < DP_COUNT(parts); i++) seed = hash_place(seed, parts[i], parts[i] ? parts[i]->data : NULL);
    return dp_hash(seed, how, sizeof how);
  }
  if (b->tensor) return hash_place(seed, b->tensor, b->data);
  return dp_hash(seed, b->data, (size_t)(b->rows * b->row_bytes));
}

void rt_bound_forget(const rt_bound *bound, int64_t first, int64_t end) {
  if (bound->int4) {
    const rt_tensor *words = bound->int4->words;
    if (first <= 0 && end >= bound->rows && words->mapped) dp_forget_mapped(words->data, words->bytes);
    return;
  }
  if (!bound->tensor || !bound->tensor->mapped) return;
  bool pairs_only = !bound->transposed && !bound->vector && !bound->run && bound->paired_heads > 0;
  if (bound->plain || pairs_only)
    dp_forget_mapped(bound->data + first * bound->row_bytes, (size_t)((end - first) * bound->row_bytes));
  else if (first <= 0 && end >= bound->rows)
    dp_forget_mapped(bound->tensor->data, bound->tensor->bytes);
}
