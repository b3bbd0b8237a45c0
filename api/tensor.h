/* api/tensor.h: private to api/: tensors as graphs make and read them. */
#ifndef DIPPER_API_TENSOR_H
#define DIPPER_API_TENSOR_H

#include "api/context.h"

/* DP_INVALID: "call: what is no tensor". */
dp_status api_check_tensor(const dp_tensor *tensor, const char *call, const char *what);
const dp_tensor_info *api_tensor_info(const dp_tensor *tensor);
/* Memory of f32 rows `stride` floats apart, with room for vectors that read or write a little past the end; not zeroed.
 */
dp_status api_new_rows(dp_context *context, int rank, const int64_t *shape, int64_t stride, dp_tensor **tensor);
void api_print_shape(dp_str *out, dp_dtype dtype, int rank, const int64_t *shape); /* "f32[T, 64]": -1 is T */
const char *api_dtype_name(dp_dtype dtype);

#endif
