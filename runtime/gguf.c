/* runtime/gguf.c: a GGUF file's header -> tensors and metadata that point into it.
 * Format: the GGUF specification (ggml project, docs/gguf.md), versions 2 and 3: magic, counts, key-values, tensor
 * infos, padding to general.alignment, data. Dimensions lie fastest first there and are turned around here. Every
 * length is compared with what is left of the file before it is used: a count never makes us allocate more than a small
 * multiple of the file's size. */
#include "runtime/weights_file.h"

#include <inttypes.h>
#include <string.h>

enum { DEFAULT_ALIGNMENT = 32, MAX_ARRAY_DEPTH = 8, MAX_GGML_DIMS = 4 };

/* ggml_type numbers; dtype IR_DTYPE_COUNT: known by size only. */
typedef struct ggml_type {
  uint32_t id;
  const char *name;
  int elements, bytes;
  ir_dtype dtype;
} ggml_type;

static const ggml_type ggml_types[] = {
    {0, "f32", 1, 4, IR_f32},
    {1, "f16", 1, 2, IR_f16},
    {2, "q4_0", 32, 18, IR_q4_0},
    {3, "q4_1", 32, 20, IR_q4_1},
    {8, "q8_0", 32, 34, IR_q8_0},
    {26, "i32", 1, 4, IR_i32},
    {30, "bf16", 1, 2, IR_bf16},
    {6, "q5_0", 32, 22, IR_q5_0},
    {7, "q5_1", 32, 24, IR_q5_1},
    {9, "q8_1", 32, 36, IR_DTYPE_COUNT},
    {10, "q2_k", 256, 84, IR_q2_k},
    {11, "q3_k", 256, 110, IR_q3_k},
    {12, "q4_k", 256, 144, IR_q4_k},
    {13, "q5_k", 256, 176, IR_q5_k},
    {14, "q6_k", 256, 210, IR_q6_k},
    {15, "q8_k", 256, 292, IR_DTYPE_COUNT},
    {16, "iq2_xxs", 256, 66, IR_DTYPE_COUNT},
    {17, "iq2_xs", 256, 74, IR_DTYPE_COUNT},
    {18, "iq3_xxs", 256, 98, IR_DTYPE_COUNT},
    {19, "iq1_s", 256, 50, IR_DTYPE_COUNT},
    {20, "iq4_nl", 32, 18, IR_iq4_nl},
    {21, "iq3_s", 256, 110, IR_DTYPE_COUNT},
    {22, "iq2_s", 256, 82, IR_DTYPE_COUNT},
    {23, "iq4_xs", 256, 136, IR_DTYPE_COUNT},
    {24, "i8", 1, 1, IR_DTYPE_COUNT},
    {25, "i16", 1, 2, IR_DTYPE_COUNT},
    {27, "i64", 1, 8, IR_DTYPE_COUNT},
    {28, "f64", 1, 8, IR_DTYPE_COUNT},
    {29, "iq1_m", 256, 56, IR_DTYPE_COUNT},
    {34, "tq1_0", 256, 54, IR_DTYPE_COUNT},
    {35, "tq2_0", 256, 66, IR_DTYPE_COUNT},
    {39, "mxfp4", 32, 17, IR_mxfp4},
};

typedef struct reader {
  rt_weights_file *file;
  uint64_t at;
  uint64_t alignment;
} reader;

static dp_status take(reader *r, uint64_t n, const char *what, const uint8_t **bytes) {
  if (n > r->file->size - r->at)
    return dp_fail(DP_INVALID,
                   "'%s' is cut short or damaged: %s at byte %" PRIu64 " needs %" PRIu64 " bytes, the file has %" PRIu64
                   " in all; copy or download it again",
                   r->file->path, what, r->at, n, r->file->size);
  *bytes = r->file->data + r->at;
  r->at += n;
  return DP_SUCCESS;
}

static dp_status take_u32(reader *r, const char *what, uint32_t *value) {
  const uint8_t *bytes = NULL;
  DP_TRY(take(r, 4, what, &bytes));
  memcpy(value, bytes, 4);
  return DP_SUCCESS;
}

static dp_status take_u64(reader *r, const char *what, uint64_t *value) {
  const uint8_t *bytes = NULL;
  DP_TRY(take(r, 8, what, &bytes));
  memcpy(value, bytes, 8);
  return DP_SUCCESS;
}

static dp_status take_string(reader *r, const char *what, rt_text *text) {
  uint64_t length;
  const uint8_t *bytes = NULL;
  DP_TRY(take_u64(r, what, &length));
  DP_TRY(take(r, length, what, &bytes));
  *text = (rt_text){(const char *)bytes, (size_t)length};
  return DP_SUCCESS;
}

static dp_status take_name(reader *r, const char *what, const char **name) {
  uint64_t begin = r->at;
  rt_text text;
  DP_TRY(take_string(r, what, &text));
  if (!rt_is_name((const uint8_t *)text.text, text.length))
    return dp_fail(DP_INVALID,
                   "'%s': %s at byte %" PRIu64
                   " is not a name (1 to %d bytes of UTF-8 without control characters): the file is damaged",
                   r->file->path, what, begin, RT_MAX_NAME);
  *name = dp_arena_strndup(r->file->arena, text.text, text.length);
  return DP_SUCCESS;
}

/* ---- key-values -------------------------------------------------------------------------------------------------- */

static dp_status bad_value_type(const reader *r, const char *key, uint32_t type) {
  return dp_fail(DP_INVALID,
                 "'%s': key '%s' has value type %" PRIu32 " before byte %" PRIu64
                 ", which GGUF does not define: the file is damaged or newer than this dipper",
                 r->file->path, key, type, r->at);
}

static dp_status array_too_long(const reader *r, const char *key, uint64_t begin, uint64_t count) {
  return dp_fail(DP_INVALID,
                 "'%s' is cut short or damaged: key '%s' at byte %" PRIu64 " claims an array of %" PRIu64
                 " elements, more than the file can hold; copy or download it again",
                 r->file->path, key, begin, count);
}

static dp_status skip_array(reader *r, const char *key, int depth) {
  uint32_t type;
  uint64_t count;
  const uint8_t *bytes = NULL;
  DP_TRY(take_u32(r, key, &type));
  DP_TRY(take_u64(r, key, &count));
  if (type >= RT_GGUF_TYPE_COUNT) return bad_value_type(r, key, type);
  if (type == RT_GGUF_ARRAY && depth == MAX_ARRAY_DEPTH)
    return dp_fail(DP_INVALID, "'%s': key '%s': arrays nested deeper than %d at byte %" PRIu64, r->file->path, key,
                   MAX_ARRAY_DEPTH, r->at);
  uint64_t size = (uint64_t)rt_gguf_type_bytes((int)type);
  /* The least an element takes: a string its length, an array its type and count. */
  uint64_t least = size ? size : type == RT_GGUF_STRING ? 8 : 12;
  if (count > (r->file->size - r->at) / least) return array_too_long(r, key, r->at, count);
  if (size) return take(r, count * size, key, &bytes);
  for (uint64_t i = 0; i < count; i++) {
    rt_text text;
    DP_TRY(type == RT_GGUF_STRING ? take_string(r, key, &text) : skip_array(r, key, depth + 1));
  }
  return DP_SUCCESS;
}

static dp_status take_array(reader *r, rt_meta *meta) {
  uint64_t begin = r->at;
  uint32_t type;
  uint64_t count;
  DP_TRY(take_u32(r, meta->key, &type));
  DP_TRY(take_u64(r, meta->key, &count));
  if (type == RT_GGUF_ARRAY) {
    r->at = begin;
    meta->kind = RT_META_OTHER;
    return skip_array(r, meta->key, 0);
  }
  if (type >= RT_GGUF_TYPE_COUNT) return bad_value_type(r, meta->key, type);
  uint64_t size = (uint64_t)rt_gguf_type_bytes((int)type), least = size ? size : 8;
  if (count > (r->file->size - r->at) / least) return array_too_long(r, meta->key, begin, count);
  meta->element = (int)type;
  meta->count = (int64_t)count;
  if (size) {
    meta->kind = RT_META_NUMBERS;
    return take(r, count * size, meta->key, &meta->data);
  }
  meta->kind = RT_META_STRINGS;
  rt_text *strings = rt_new_string_table(r->file, count);
  if (!strings)
    return dp_fail(DP_NO_MEMORY, "'%s': no memory for the %" PRIu64 " strings of key '%s'", r->file->path, count,
                   meta->key);
  meta->strings = strings;
  for (uint64_t i = 0; i < count; i++) DP_TRY(take_string(r, meta->key, &strings[i]));
  return DP_SUCCESS;
}

static dp_status take_value(reader *r, rt_meta *meta) {
  uint32_t type;
  const uint8_t *bytes = NULL;
  DP_TRY(take_u32(r, meta->key, &type));
  if (type == RT_GGUF_ARRAY) return take_array(r, meta);
  if (type == RT_GGUF_STRING) {
    DP_TRY(take_string(r, meta->key, &meta->text));
    meta->kind = RT_META_STRING;
    meta->text.text = dp_arena_strndup(r->file->arena, meta->text.text, meta->text.length);
    return DP_SUCCESS;
  }
  if (type >= RT_GGUF_TYPE_COUNT) return bad_value_type(r, meta->key, type);
  DP_TRY(take(r, (uint64_t)rt_gguf_type_bytes((int)type), meta->key, &bytes));
  if (type == RT_GGUF_BOOL && bytes[0] > 1)
    return dp_fail(DP_INVALID, "'%s': key '%s' at byte %" PRIu64 " is a boolean of value %d: the file is damaged",
                   r->file->path, meta->key, r->at - 1, bytes[0]);
  meta->kind = type == RT_GGUF_BOOL ? RT_META_BOOL : RT_META_NUMBER;
  meta->element = (int)type;
  meta->number = rt_read_number((int)type, bytes, &meta->integer);
  return DP_SUCCESS;
}

static dp_status take_metas(reader *r, uint64_t count) {
  rt_weights_file *file = r->file;
  for (uint64_t i = 0; i < count; i++) {
    rt_meta meta = {0};
    DP_TRY(take_name(r, "a metadata key", &meta.key));
    DP_TRY(take_value(r, &meta));
    DP_PUSH(file->arena, file->metas, file->meta_count, file->meta_cap) = meta;
    if (meta.kind == RT_META_STRING && strcmp(meta.key, "general.architecture") == 0)
      file->architecture = meta.text.text;
    if (strcmp(meta.key, "general.alignment") == 0) {
      if (meta.kind != RT_META_NUMBER || meta.integer < 8 || meta.integer > 1 << 20 || meta.integer % 8 != 0)
        return dp_fail(DP_INVALID,
                       "'%s': general.alignment before byte %" PRIu64 " must be a multiple of 8 up to %d: the file is "
                       "damaged",
                       file->path, r->at, 1 << 20);
      r->alignment = (uint64_t)meta.integer;
    }
  }
  return DP_SUCCESS;
}

/* ---- tensors ----------------------------------------------------------------------------------------------------- */

static dp_status take_tensor(reader *r, rt_tensor *tensor) {
  uint64_t begin = r->at;
  const char *path = r->file->path;
  uint32_t rank, type_id;
  DP_TRY(take_name(r, "a tensor's name", &tensor->name));
  DP_TRY(take_u32(r, tensor->name, &rank));
  if (rank > MAX_GGML_DIMS)
    return dp_fail(DP_INVALID,
                   "'%s': tensor '%s' at byte %" PRIu64 " claims %" PRIu32
                   " dimensions, GGUF allows %d: the file is damaged",
                   path, tensor->name, begin, rank, MAX_GGML_DIMS);
  tensor->rank = (int)rank;
  for (int i = tensor->rank - 1; i >= 0; i--) {
    uint64_t dim;
    DP_TRY(take_u64(r, tensor->name, &dim));
    if (dim > INT64_MAX)
      return dp_fail(DP_INVALID,
                     "'%s': tensor '%s' at byte %" PRIu64 " has a dimension of %" PRIu64 ": the file is damaged", path,
                     tensor->name, begin, dim);
    tensor->dims[i] = (int64_t)dim;
  }
  DP_TRY(take_u32(r, tensor->name, &type_id));
  DP_TRY(take_u64(r, tensor->name, &tensor->offset)); /* from data_begin, for now */
  const ggml_type *type = NULL;
  for (size_t i = 0; i < DP_COUNT(ggml_types); i++)
    if (ggml_types[i].id == type_id) type = &ggml_types[i];
  tensor->type_name = type ? type->name : dp_arena_printf(r->file->arena, "ggml type %" PRIu32, type_id);
  tensor->supported = type && type->dtype != IR_DTYPE_COUNT;
  if (tensor->supported) tensor->dtype = type->dtype;
  if (!rt_size_tensor(tensor, type ? type->elements : 1, type ? type->bytes : 0)) {
    dp_str shape = {0};
    rt_print_shape(&shape, tensor->dims, tensor->rank);
    dp_status status =
        dp_fail(DP_INVALID,
                "'%s': tensor '%s' at byte %" PRIu64 " has shape %s, which %s of %d elements a "
                "block cannot have: the file is damaged",
                path, tensor->name, begin, shape.text ? shape.text : "?", tensor->type_name, type ? type->elements : 1);
    dp_str_free(&shape);
    return status;
  }
  return DP_SUCCESS;
}

static dp_status place_tensors(reader *r) {
  rt_weights_file *file = r->file;
  uint64_t rest = r->at % r->alignment;
  file->data_begin = r->at + (rest ? r->alignment - rest : 0);
  for (int i = file->first_tensor; i < file->tensor_count; i++) {
    rt_tensor *tensor = &file->tensors[i];
    if (tensor->offset % r->alignment != 0)
      return dp_fail(DP_INVALID,
                     "'%s': tensor '%s': data at offset %" PRIu64 " is not aligned to %" PRIu64
                     " bytes: the file is damaged",
                     file->path, tensor->name, tensor->offset, r->alignment);
    if (__builtin_add_overflow(tensor->offset, file->data_begin, &tensor->offset)) tensor->offset = UINT64_MAX;
  }
  return DP_SUCCESS;
}

dp_status rt_read_gguf(rt_weights_file *file) {
  reader r = {.file = file, .at = 4, .alignment = DEFAULT_ALIGNMENT};
  uint64_t tensor_count, meta_count;
  DP_TRY(take_u32(&r, "the version", &file->version));
  if (file->version != 2 && file->version != 3) {
    bool swapped = __builtin_bswap32(file->version) <= 3;
    return dp_fail(DP_UNSUPPORTED, "'%s' is GGUF %s %" PRIu32 " (byte 4), dipper reads versions 2 and 3%s", file->path,
                   swapped ? "with big-endian numbers, version" : "version",
                   swapped ? __builtin_bswap32(file->version) : file->version,
                   swapped ? " with little-endian numbers: convert it" : ": convert the model again with newer tools");
  }
  DP_TRY(take_u64(&r, "the tensor count", &tensor_count));
  DP_TRY(take_u64(&r, "the metadata count", &meta_count));
  if (tensor_count > RT_MAX_TENSORS || meta_count > RT_MAX_METAS)
    return dp_fail(DP_INVALID,
                   "'%s': the header (byte 8) claims %" PRIu64 " tensors and %" PRIu64
                   " metadata keys, more than any model has: the file is damaged",
                   file->path, tensor_count, meta_count);
  DP_TRY(take_metas(&r, meta_count));
  for (uint64_t i = 0; i < tensor_count; i++) {
    rt_tensor tensor = {0};
    DP_TRY(take_tensor(&r, &tensor));
    DP_PUSH(file->arena, file->tensors, file->tensor_count, file->tensor_cap) = tensor;
  }
  return place_tensors(&r);
}
