/* runtime/pack_bound.c: a bound matrix, wherever its rows lie -> the packed layout. Rows in order, in rotation pairs or
 * transposed are packed from where they are; others are first gathered, a block of them at a time. */
#include "runtime/int4_files.h"
#include "runtime/weights_binding.h"

#include <stdlib.h>
#include <string.h>

/* Columns [column, column + count) of a matrix of single elements as rows: dst[count][rows]. */
static void copy_columns(const rt_bound *bound, int64_t column, int64_t count, uint8_t *dst) {
  size_t element = (size_t)ir_dtype_block_bytes(bound->dtype);
  uint8_t piece[RT_PACK_ROWS * sizeof(float)];
  for (int64_t r = 0; r < bound->rows; r++) {
    int64_t place = rt_bound_place(bound, r);
    const uint8_t *from = piece;
    int64_t step = (int64_t)element;
    if (bound->int4)
      rt_int4_rows(bound->int4, place, 1, column, count, piece);
    else if (bound->transposed)
      from = bound->data + column * bound->row_bytes + place * step, step = bound->row_bytes;
    else
      from = bound->data + place * bound->row_bytes + column * step;
    for (int64_t c = 0; c < count; c++) memcpy(dst + (size_t)(c * bound->rows + r) * element, from + c * step, element);
  }
}

static dp_status pack_gathered(const rt_bound *bound, bool transposed, uint8_t *dst, int64_t first_block,
                               int64_t block_count) {
  int64_t n = transposed ? bound->cols : bound->rows, k = transposed ? bound->rows : bound->cols;
  size_t row_bytes = (size_t)rt_row_bytes(bound->dtype, k);
  uint8_t *rows = malloc(row_bytes * RT_PACK_ROWS);
  if (!rows) return dp_fail(DP_NO_MEMORY, "no memory to pack rows of %zu bytes", row_bytes);
  for (int64_t block = first_block; block < first_block + block_count; block++) {
    int64_t first = block * RT_PACK_ROWS, count = n - first < RT_PACK_ROWS ? n - first : RT_PACK_ROWS;
    if (transposed)
      copy_columns(bound, first, count, rows);
    else
      rt_bound_copy_rows(bound, first, count, rows);
    rt_pack(bound->dtype, count, k, rows, row_bytes, 0, dst + (size_t)block * row_bytes * RT_PACK_ROWS, 0, 1);
  }
  free(rows);
  return DP_SUCCESS;
}

dp_status rt_pack_bound(const rt_bound *bound, bool transposed, void *dst, int64_t first_block, int64_t block_count) {
  int64_t n = transposed ? bound->cols : bound->rows, k = transposed ? bound->rows : bound->cols;
  size_t row_bytes = (size_t)bound->row_bytes;
  bool in_order = bound->data && !bound->run && !(bound->transposed && bound->paired_heads > 0);
  if (!in_order || (transposed && bound->paired_heads > 0))
    return pack_gathered(bound, transposed, dst, first_block, block_count);
  if (transposed != bound->transposed)
    rt_pack_transposed(bound->dtype, n, k, bound->data, row_bytes, dst, first_block, block_count);
  else
    rt_pack(bound->dtype, n, k, bound->data, row_bytes, bound->paired_heads, dst, first_block, block_count);
  return DP_SUCCESS;
}
