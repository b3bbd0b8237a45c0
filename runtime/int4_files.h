/* runtime/int4_files.h: private to runtime/: matrices that a safetensors file holds as GPTQ or AWQ wrote them, four
 * tensors for one ("X.qweight", "X.qzeros", "X.scales", "X.g_idx"), read as one tensor "X.weight" of storage type int4.
 */
#ifndef DIPPER_RUNTIME_INT4_FILES_H
#define DIPPER_RUNTIME_INT4_FILES_H

#include "runtime/weights.h"

typedef struct rt_int4_tensor {
  rt_tensor tensor; /* as if it stood in the file: "X.weight", [n, k], of int4, or of f32 where the columns of one block
                       belong to several groups (GPTQ's act-order); its data is made by rt_int4_rows */
  const rt_tensor *words, *zeros, *scales, *groups; /* groups: NULL when they are runs of group_size columns */
  bool awq;
  int zero_add; /* GPTQ's first version stores zero points less one */
  int64_t group_size;
} rt_int4_tensor;

/* "X.weight" of `file`: NULL when there is no "X.qweight". What is there and cannot be read is told in `problem`, in
 * words that go behind the weight's name. In `arena`. */
const rt_int4_tensor *rt_int4_find(const rt_weights_file *file, const char *name, dp_arena *arena, dp_str *problem);

/* Columns [column, column + columns) (multiples of 32) of rows [row, row + count), encoded as tensor.dtype, one row
 * after another. With f32 any column may be the first, and any number of them be asked for. */
void rt_int4_rows(const rt_int4_tensor *t, int64_t row, int64_t count, int64_t column, int64_t columns, uint8_t *dst);

#endif
