/* runtime/safetensors.c: a safetensors file's header, and the config.json beside it -> tensors and metadata.
 * Format: the safetensors README ("Format"): 8 bytes of header length, a JSON object {name: {dtype, shape,
 * data_offsets}}, then the data, which the tensors cover without holes. Nothing there promises alignment. */
#include "runtime/weights_file.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h> /* free */
#include <string.h>

enum { MAX_HEADER = 100 << 20, MAX_CONFIG_DEPTH = 4 }; /* the header limit is the reference reader's */

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

/* ---- JSON values as metadata ------------------------------------------------------------------------------------- */

static rt_text own_text(rt_weights_file *file, const json_t *string) {
  size_t length = json_string_length(string);
  return (rt_text){dp_arena_strndup(file->arena, json_string_value(string), length), length};
}

static void add_array(rt_weights_file *file, const json_t *array, rt_meta *meta) {
  size_t count = json_array_size(array), integers = 0, reals = 0, booleans = 0, strings = 0;
  for (size_t i = 0; i < count; i++) {
    const json_t *item = json_array_get(array, i);
    integers += json_is_integer(item), reals += json_is_real(item);
    booleans += json_is_boolean(item), strings += json_is_string(item);
  }
  meta->count = (int64_t)count;
  if (count > 0 && strings == count) {
    rt_text *texts = rt_new_string_table(file, count);
    if (!texts) return;
    for (size_t i = 0; i < count; i++) texts[i] = own_text(file, json_array_get(array, i));
    meta->kind = RT_META_STRINGS;
    meta->strings = texts;
  } else if (booleans == count || integers + reals == count) {
    bool exact = reals == 0;
    int64_t *numbers = DP_NEW_ARRAY(file->arena, int64_t, count);
    for (size_t i = 0; i < count; i++) {
      const json_t *item = json_array_get(array, i);
      double real = json_number_value(item);
      numbers[i] = json_is_boolean(item) ? json_is_true(item) : json_integer_value(item);
      if (!exact) memcpy(&numbers[i], &real, sizeof real);
    }
    meta->kind = RT_META_NUMBERS;
    meta->element = exact ? RT_GGUF_I64 : RT_GGUF_F64;
    meta->data = (const uint8_t *)numbers;
  }
}

/* Objects become their members under "prefix.key". */
static void add_members(rt_weights_file *file, const char *prefix, json_t *object, int depth) {
  const char *name;
  json_t *value;
  json_object_foreach(object, name, value) {
    const char *key = dp_arena_printf(file->arena, "%s%s", prefix, name);
    if (json_is_object(value) && depth < MAX_CONFIG_DEPTH) {
      add_members(file, dp_arena_printf(file->arena, "%s.", key), value, depth + 1);
      continue;
    }
    if (!rt_is_name((const uint8_t *)key, strlen(key)) || file->meta_count == RT_MAX_METAS) continue;
    rt_meta meta = {.key = key, .kind = RT_META_OTHER};
    if (json_is_boolean(value)) {
      meta.kind = RT_META_BOOL;
      meta.number = (double)(meta.integer = json_is_true(value));
    } else if (json_is_integer(value)) {
      meta.kind = RT_META_NUMBER;
      meta.number = (double)(meta.integer = json_integer_value(value));
    } else if (json_is_real(value)) {
      double real = json_real_value(value);
      meta.kind = RT_META_NUMBER;
      meta.number = rt_read_number(RT_GGUF_F64, (const uint8_t *)&real, &meta.integer);
    } else if (json_is_string(value)) {
      meta.kind = RT_META_STRING;
      meta.text = own_text(file, value);
    } else if (json_is_array(value)) {
      add_array(file, value, &meta);
    }
    DP_PUSH(file->arena, file->metas, file->meta_count, file->meta_cap) = meta;
  }
}

dp_status rt_read_config(rt_weights_file *file, const char *path) {
  char *text;
  size_t length;
  dp_status status = dp_read_file(path, &text, &length);
  if (status.code == DP_NOT_FOUND) {
    dp_status_free(&status);
    return DP_SUCCESS;
  }
  DP_TRY(status);
  json_error_t error;
  json_t *root = json_loadb(text, length, JSON_REJECT_DUPLICATES, &error);
  free(text);
  if (!json_is_object(root)) {
    json_decref(root);
    return dp_fail(DP_INVALID, "'%s' (beside '%s') at line %d, byte %d: %s; mend the file or move it away", path,
                   file->path, root ? 1 : error.line, root ? 0 : error.position,
                   root ? "it is not a JSON object" : error.text);
  }
  add_members(file, "", root, 0);
  const char *architecture = json_string_value(json_object_get(root, "model_type"));
  if (architecture) file->architecture = dp_arena_strdup(file->arena, architecture);
  json_decref(root);
  return DP_SUCCESS;
}

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
      add_members(file, "__metadata__.", entry, MAX_CONFIG_DEPTH);
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
