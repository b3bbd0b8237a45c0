/* runtime/safetensors.c: a safetensors file's header -> tensors and metadata.
 * Format: the safetensors README ("Format"): 8 bytes of header length, a JSON object {name: {dtype, shape,
 * data_offsets}}, then the data, which the tensors cover without holes. Nothing there promises alignment. */
#include "runtime/weights_file.h"

#include <inttypes.h>
#include <jansson.h>
#include <string.h>

enum { MAX_HEADER = 100 << 20 }; /* the reference reader's limit */

typedef struct safetensors_type {
  const char *name, *shown;
  int bytes;
  ir_dtype dtype;
} safetensors_type;

static const safetensors_type types[] = {
    {"F32", "f32", 4, IR_f32},
    {"F16", "f16", 2, IR_f16},
    {"BF16", "bf16", 2, IR_bf16},
    {"I32", "i32", 4, IR_i32},
    {"F64", "F64", 8, IR_DTYPE_COUNT},
    {"I64", "I64", 8, IR_DTYPE_COUNT},
    {"U64", "U64", 8, IR_DTYPE_COUNT},
    {"U32", "U32", 4, IR_DTYPE_COUNT},
    {"I16", "I16", 2, IR_DTYPE_COUNT},
    {"U16", "U16", 2, IR_DTYPE_COUNT},
    {"I8", "I8", 1, IR_DTYPE_COUNT},
    {"U8", "U8", 1, IR_DTYPE_COUNT},
    {"BOOL", "BOOL", 1, IR_DTYPE_COUNT},
    {"F8_E4M3", "F8_E4M3", 1, IR_DTYPE_COUNT},
    {"F8_E5M2", "F8_E5M2", 1, IR_DTYPE_COUNT},
};

/* ---- the header -------------------------------------------------------------------------------------------------- */

static dp_status bad_tensor(const rt_weights_file *file, const char *name, const char *what) {
  return dp_fail(DP_INVALID, "'%s': tensor '%s' in the header (bytes 8 to %" PRIu64 "): %s: the file is damaged",
                 file->path, name, file->data_begin, what);
}

static const safetensors_type *find_type(const char *name) {
  for (size_t i = 0; i < DP_COUNT(types); i++)
    if (strcmp(types[i].name, name) == 0) return &types[i];
  return NULL;
}

static dp_status read_tensor(rt_weights_file *file, const char *name, const json_t *entry) {
  rt_tensor tensor = {.name = dp_arena_strdup(file->arena, name)};
  const json_t *dtype = json_object_get(entry, "dtype"), *shape = json_object_get(entry, "shape");
  const json_t *offsets = json_object_get(entry, "data_offsets");
  if (!json_is_string(dtype) || !rt_is_name((const uint8_t *)json_string_value(dtype), json_string_length(dtype)))
    return bad_tensor(file, name, "its dtype is missing or not a string");
  if (!json_is_array(shape)) return bad_tensor(file, name, "its shape is missing or not an array");
  if (json_array_size(shape) > RT_MAX_RANK) return bad_tensor(file, name, "it has more than 8 dimensions");
  const json_t *begin = json_array_get(offsets, 0), *end = json_array_get(offsets, 1);
  if (json_array_size(offsets) != 2 || !json_is_integer(begin) || !json_is_integer(end) ||
      json_integer_value(begin) < 0 || json_integer_value(end) < json_integer_value(begin))
    return bad_tensor(file, name, "its data_offsets are not [begin, end]");
  tensor.rank = (int)json_array_size(shape);
  for (int i = 0; i < tensor.rank; i++) {
    const json_t *dim = json_array_get(shape, (size_t)i);
    if (!json_is_integer(dim) || json_integer_value(dim) < 0)
      return bad_tensor(file, name, "its shape holds something else than counts");
    tensor.dims[i] = json_integer_value(dim);
  }
  const safetensors_type *type = find_type(json_string_value(dtype));
  tensor.type_name = type ? type->shown : dp_arena_strdup(file->arena, json_string_value(dtype));
  tensor.supported = type && type->dtype != IR_DTYPE_COUNT;
  if (tensor.supported) tensor.dtype = type->dtype;
  if (!rt_size_tensor(&tensor, 1, type ? type->bytes : 0))
    return bad_tensor(file, name, "its shape has more elements than a file can hold");
  uint64_t bytes = (uint64_t)(json_integer_value(end) - json_integer_value(begin));
  if (!type) tensor.bytes = bytes;
  if (tensor.bytes != bytes)
    return dp_fail(DP_INVALID,
                   "'%s': tensor '%s': its shape and type take %zu bytes, its data_offsets [%" JSON_INTEGER_FORMAT
                   ", %" JSON_INTEGER_FORMAT "] give %" PRIu64 ": the file is damaged",
                   file->path, name, tensor.bytes, json_integer_value(begin), json_integer_value(end), bytes);
  tensor.offset = file->data_begin + (uint64_t)json_integer_value(begin); /* below 2^63 + 2^27: no overflow */
  if (file->tensor_count == RT_MAX_TENSORS) return bad_tensor(file, name, "there are more tensors than any model has");
  DP_PUSH(file->arena, file->tensors, file->tensor_count, file->tensor_cap) = tensor;
  return DP_SUCCESS;
}

static dp_status read_header(rt_weights_file *file, json_t *root) {
  const char *name;
  json_t *entry;
  json_object_foreach(root, name, entry) {
    if (strcmp(name, "__metadata__") == 0) {
      if (!json_is_object(entry))
        return dp_fail(DP_INVALID, "'%s': __metadata__ in the header is not an object: the file is damaged",
                       file->path);
      rt_add_json_members(file, "__metadata__.", entry, 0);
      continue;
    }
    if (!rt_is_name((const uint8_t *)name, strlen(name)))
      return dp_fail(DP_INVALID,
                     "'%s': the header (bytes 8 to %" PRIu64
                     ") names a tensor by an empty, too long or unprintable name: the "
                     "file is damaged",
                     file->path, file->data_begin);
    DP_TRY(read_tensor(file, name, entry));
  }
  return DP_SUCCESS;
}

dp_status rt_read_safetensors(rt_weights_file *file) {
  uint64_t length;
  memcpy(&length, file->data, 8);
  if (length > MAX_HEADER || length > file->size - 8)
    return dp_fail(DP_INVALID,
                   "'%s' is cut short or damaged: its header at byte 8 claims %" PRIu64 " bytes, the file has %" PRIu64
                   " in all (and %d is the limit); copy or download it again",
                   file->path, length, file->size, MAX_HEADER);
  file->data_begin = 8 + length;
  json_error_t error;
  json_t *root = json_loadb((const char *)file->data + 8, length, JSON_REJECT_DUPLICATES, &error);
  if (!root)
    return dp_fail(DP_INVALID, "'%s': the header is broken at byte %d: %s; copy or download the file again", file->path,
                   8 + error.position, error.text);
  dp_status status = json_is_object(root)
                         ? read_header(file, root)
                         : dp_fail(DP_INVALID, "'%s': the header at byte 8 is not a JSON object", file->path);
  json_decref(root);
  return status;
}
