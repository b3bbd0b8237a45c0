/* runtime/weights.c: opens a weights file of either format, holds what its reader found to the promises of weights.h
 * (unique names, tensors inside the file and apart), and answers questions about tensors and metadata. */
#include "runtime/weights_file.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- names ------------------------------------------------------------------------------------------------------- */

/* The length of the UTF-8 sequence at s (1..4), or 0: overlong, surrogate, beyond U+10FFFF, or cut. */
static int utf8_length(const uint8_t *s, uint64_t left) {
  if (s[0] < 0x80) return 1;
  int n = s[0] >= 0xf0 ? 4 : s[0] >= 0xe0 ? 3 : 2;
  if (s[0] < 0xc2 || s[0] > 0xf4 || (uint64_t)n > left) return 0;
  for (int i = 1; i < n; i++)
    if ((s[i] & 0xc0) != 0x80) return 0;
  if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f)) return 0;
  if ((s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f)) return 0;
  return n;
}

bool rt_is_name(const uint8_t *text, uint64_t length) {
  if (length == 0 || length > RT_MAX_NAME) return false;
  for (uint64_t i = 0; i < length;) {
    int n = utf8_length(text + i, length - i);
    if (n == 0 || text[i] < 0x20 || text[i] == 0x7f) return false;
    if (n == 2 && text[i] == 0xc2 && text[i + 1] < 0xa0) return false; /* C1 controls reach the terminal too */
    i += (uint64_t)n;
  }
  return true;
}

/* rt_tensor and rt_meta both begin with their name. */
static const char *name_at(const void *items, size_t item_size, uint64_t position) {
  const char *name;
  memcpy(&name, (const char *)items + position * item_size, sizeof name);
  return name;
}

/* The slot that holds `name`, or the free one where it belongs. */
static uint64_t find_slot(const rt_name_index *index, const void *items, size_t item_size, const char *name) {
  uint64_t slot = dp_hash(0, name, strlen(name)) & index->mask;
  while (index->slots[slot] && strcmp(name_at(items, item_size, index->slots[slot] - 1), name) != 0)
    slot = (slot + 1) & index->mask;
  return slot;
}

static dp_status index_names(rt_weights_file *file, rt_name_index *index, const void *items, size_t item_size,
                             int count, const char *what) {
  uint64_t slots = 16;
  while (slots < 2 * (uint64_t)count) slots *= 2;
  index->mask = slots - 1;
  index->slots = calloc(slots, sizeof *index->slots);
  if (!index->slots) return dp_fail(DP_NO_MEMORY, "'%s': no memory for an index of %d names", file->path, count);
  for (int i = 0; i < count; i++) {
    const char *name = name_at(items, item_size, (uint64_t)i);
    uint64_t slot = find_slot(index, items, item_size, name);
    if (index->slots[slot])
      return dp_fail(DP_INVALID, "'%s': %s '%s' is there twice (the %dth and the %dth): the file is damaged",
                     file->path, what, name, (int)index->slots[slot], i + 1);
    index->slots[slot] = (uint32_t)i + 1;
  }
  return DP_SUCCESS;
}

/* ---- tensors: sizes and places ----------------------------------------------------------------------------------- */

bool rt_size_tensor(rt_tensor *tensor, int64_t block_elements, int64_t block_bytes) {
  int64_t elements = 1, bytes;
  bool empty = false;
  for (int i = 0; i < tensor->rank; i++) {
    empty = empty || tensor->dims[i] == 0;
    if (tensor->dims[i] != 0 && __builtin_mul_overflow(elements, tensor->dims[i], &elements)) return false;
  }
  int64_t last = tensor->rank > 0 ? tensor->dims[tensor->rank - 1] : 1;
  if (last % block_elements != 0 || __builtin_mul_overflow(elements / block_elements, block_bytes, &bytes))
    return false;
  tensor->elements = empty ? 0 : elements;
  tensor->bytes = empty ? 0 : (size_t)bytes;
  return true;
}

typedef struct byte_range {
  uint64_t begin, end;
  const char *name;
} byte_range;

static int compare_ranges(const void *a, const void *b) {
  const byte_range *x = a, *y = b;
  if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
  return x->end < y->end ? -1 : x->end > y->end;
}

static dp_status check_order(const rt_weights_file *file, const byte_range *ranges, int count) {
  bool holes_allowed = file->format == RT_GGUF; /* its alignment makes them */
  uint64_t at = file->data_begin;
  for (int i = 0; i < count; i++) {
    if (ranges[i].end == ranges[i].begin) continue;
    if (ranges[i].begin < at)
      return dp_fail(DP_INVALID, "'%s': tensor '%s' overlaps tensor '%s' at byte %" PRIu64 ": the file is damaged",
                     file->path, ranges[i].name, i > 0 ? ranges[i - 1].name : "(header)", ranges[i].begin);
    if (ranges[i].begin > at && !holes_allowed)
      return dp_fail(DP_INVALID,
                     "'%s': bytes %" PRIu64 " to %" PRIu64 " before tensor '%s' belong to no tensor, which "
                     "safetensors forbids: the file is damaged",
                     file->path, at, ranges[i].begin, ranges[i].name);
    at = ranges[i].end;
  }
  if (at < file->size && !holes_allowed)
    return dp_fail(DP_INVALID,
                   "'%s': bytes %" PRIu64 " to %" PRIu64 " at the end belong to no tensor, which safetensors "
                   "forbids: the file is damaged",
                   file->path, at, file->size);
  return DP_SUCCESS;
}

static dp_status place_tensors(rt_weights_file *file) {
  byte_range *ranges = malloc(sizeof *ranges * ((size_t)file->tensor_count + 1));
  if (!ranges) return dp_fail(DP_NO_MEMORY, "'%s': no memory to check %d tensors", file->path, file->tensor_count);
  dp_status status = DP_SUCCESS;
  int count = file->tensor_count - file->first_tensor;
  for (int i = 0; i < count && status.code == DP_OK; i++) {
    rt_tensor *tensor = &file->tensors[file->first_tensor + i];
    bool inside = tensor->offset <= file->size && tensor->bytes <= file->size - tensor->offset;
    if (!inside && tensor->bytes == 0 && tensor->elements == 0 && file->format == RT_GGUF) {
      tensor->offset = file->size; /* padding may be missing after the last tensor, where an empty one then lies */
      inside = true;
    }
    if (!inside)
      status = dp_fail(DP_INVALID,
                       "'%s' is cut short or damaged: tensor '%s' takes %zu bytes from byte %" PRIu64
                       " on, the file has %" PRIu64 "; copy or download it again",
                       file->path, tensor->name, tensor->bytes, tensor->offset, file->size);
    else
      tensor->data = file->data + tensor->offset;
    tensor->part = file->part_count - 1;
    tensor->mapped = file->parts[tensor->part].mapping.data != NULL;
    ranges[i] = (byte_range){tensor->offset, tensor->offset + tensor->bytes, tensor->name};
  }
  if (status.code == DP_OK) {
    qsort(ranges, (size_t)count, sizeof *ranges, compare_ranges);
    status = check_order(file, ranges, count);
  }
  free(ranges);
  return status;
}

/* ---- opening, closing -------------------------------------------------------------------------------------------- */

static dp_status unknown_format(const rt_weights_file *file) {
  dp_str bytes = {0};
  for (uint64_t i = 0; i < file->size && i < 8; i++) dp_str_addf(&bytes, " %02x", file->data[i]);
  const char *guess = "";
  if (file->size >= 4 && memcmp(file->data, "PK\3\4", 4) == 0)
    guess = " It looks like a zip archive, perhaps a PyTorch checkpoint: save it as safetensors.";
  if (file->size >= 8 && memcmp(file->data, "version ", 8) == 0)
    guess = " It looks like a Git LFS pointer: fetch the file itself (git lfs pull).";
  dp_status status = dp_fail(DP_INVALID, "'%s' is neither GGUF nor safetensors: it begins (byte 0) with%s.%s",
                             file->path, bytes.text ? bytes.text : "", guess);
  dp_str_free(&bytes);
  return status;
}

/* One file of the format of those before it. The metadata of all but the first repeat what the first says. */
static dp_status read_part(rt_weights_file *file) {
  rt_weights_format format;
  if (file->size >= 4 && memcmp(file->data, "GGUF", 4) == 0)
    format = RT_GGUF;
  else if (file->size >= 9 && file->data[8] == '{')
    format = RT_SAFETENSORS;
  else
    return unknown_format(file);
  if (file->part_count > 1 && format != file->format)
    return dp_fail(DP_INVALID, "'%s' is of another format than '%s'", file->path, file->parts[0].path);
  int metas = file->meta_count;
  file->format = format;
  file->first_tensor = file->tensor_count;
  DP_TRY(format == RT_GGUF ? rt_read_gguf(file) : rt_read_safetensors(file));
  if (file->part_count > 1) file->meta_count = metas;
  return place_tensors(file);
}

static dp_status add_part(rt_weights_file *file, const char *path, dp_mapping mapping, const void *data, size_t size) {
  DP_PUSH(file->arena, file->parts, file->part_count, file->part_cap) = (rt_part){path, mapping};
  const char *whole = file->path;
  file->path = path, file->data = data, file->size = size;
  dp_status status = read_part(file);
  file->path = whole;
  return status;
}

static dp_status index_all(rt_weights_file *file) {
  DP_TRY(index_names(file, &file->tensor_index, file->tensors, sizeof *file->tensors, file->tensor_count, "tensor"));
  return index_names(file, &file->meta_index, file->metas, sizeof *file->metas, file->meta_count, "metadata key");
}

static dp_status check_index(const rt_weights_file *file, const rt_file_list *list) {
  for (int i = 0; i < list->name_count; i++) {
    const rt_tensor *tensor = rt_weights_find(file, list->names[i]);
    if (!tensor || tensor->part != list->parts[i])
      return dp_fail(DP_INVALID,
                     "'%s' says that the tensor '%s' is in '%s', which does not have it; download both again",
                     list->index, list->names[i], list->paths[list->parts[i]]);
  }
  return DP_SUCCESS;
}

static dp_status new_file(const char *path, rt_weights_file **out) {
  rt_weights_file *file = calloc(1, sizeof *file);
  dp_arena *arena = file ? dp_arena_new() : NULL;
  if (!arena) {
    free(file);
    return dp_fail(DP_NO_MEMORY, "no memory to open '%s'", path);
  }
  file->arena = arena;
  file->path = dp_arena_strdup(arena, path);
  *out = file;
  return DP_SUCCESS;
}

static dp_status open_files(rt_weights_file *file) {
  rt_file_list list = {0};
  DP_TRY(rt_list_files(file->arena, file->path, &list));
  file->directory = list.directory;
  for (int i = 0; i < list.count; i++) {
    dp_mapping mapping;
    dp_status status = dp_map_file(list.paths[i], &mapping);
    if (status.code == DP_NOT_FOUND && list.index) {
      dp_status_free(&status);
      return dp_fail(DP_NOT_FOUND, "'%s' names '%s', which is not there: download it too", list.index, list.paths[i]);
    }
    DP_TRY(status);
    DP_TRY(add_part(file, list.paths[i], mapping, mapping.data, mapping.size));
  }
  if (file->format == RT_SAFETENSORS) DP_TRY(rt_read_beside(file));
  DP_TRY(index_all(file));
  return check_index(file, &list);
}

static dp_status finish(rt_weights_file *file, dp_status status, rt_weights_file **out) {
  if (status.code == DP_OK)
    *out = file;
  else
    rt_weights_close(file);
  return status;
}

dp_status rt_weights_open(const char *path, rt_weights_file **out) {
  *out = NULL;
  rt_weights_file *file = NULL;
  DP_TRY(new_file(path, &file));
  return finish(file, open_files(file), out);
}

dp_status rt_weights_open_memory(const char *name, const void *data, size_t size, rt_weights_file **out) {
  *out = NULL;
  rt_weights_file *file = NULL;
  DP_TRY(new_file(name, &file));
  dp_status status = add_part(file, file->path, (dp_mapping){0}, data, size);
  if (status.code == DP_OK) status = index_all(file);
  return finish(file, status, out);
}

static dp_status add_lent(rt_weights_file *file, const rt_tensor *from) {
  rt_tensor tensor = {.name = dp_arena_strdup(file->arena, from->name), .supported = true, .dtype = from->dtype,
                      .type_name = ir_dtype_name(from->dtype), .rank = from->rank, .data = from->data};
  memcpy(tensor.dims, from->dims, sizeof tensor.dims);
  if (!rt_is_name((const uint8_t *)from->name, strlen(from->name)))
    return dp_fail(DP_INVALID, "%s: a tensor's name is not UTF-8 without control characters", file->path);
  if (!rt_size_tensor(&tensor, 1, ir_dtype_block_bytes(from->dtype)))
    return dp_fail(DP_INVALID, "%s: tensor '%s' is too large", file->path, from->name);
  DP_PUSH(file->arena, file->tensors, file->tensor_count, file->tensor_cap) = tensor;
  return DP_SUCCESS;
}

dp_status rt_weights_lend(const char *name, const rt_tensor *tensors, int count, rt_weights_file **out) {
  *out = NULL;
  rt_weights_file *file = NULL;
  DP_TRY(new_file(name, &file));
  DP_PUSH(file->arena, file->parts, file->part_count, file->part_cap) = (rt_part){file->path, {0}};
  file->format = RT_SAFETENSORS;
  dp_status status = DP_SUCCESS;
  for (int i = 0; i < count && status.code == DP_OK; i++) status = add_lent(file, &tensors[i]);
  if (status.code == DP_OK) status = index_all(file);
  return finish(file, status, out);
}

void rt_weights_close(rt_weights_file *file) {
  if (!file) return;
  free(file->tensor_index.slots);
  free(file->meta_index.slots);
  for (int i = 0; i < file->string_table_count; i++) free(file->string_tables[i]);
  for (int i = 0; i < file->part_count; i++) dp_unmap_file(&file->parts[i].mapping);
  dp_arena_free(file->arena);
  free(file);
}

rt_text *rt_new_string_table(rt_weights_file *file, uint64_t count) {
  rt_text *table = calloc(count ? count : 1, sizeof *table);
  if (table) DP_PUSH(file->arena, file->string_tables, file->string_table_count, file->string_table_cap) = table;
  return table;
}

/* ---- questions --------------------------------------------------------------------------------------------------- */

const char *rt_weights_path(const rt_weights_file *file) { return file->path; }
const char *rt_weights_directory(const rt_weights_file *file) { return file->directory; }
int rt_weights_part_count(const rt_weights_file *file) { return file->part_count; }
const char *rt_weights_part(const rt_weights_file *file, int index) { return file->parts[index].path; }
rt_weights_format rt_weights_format_of(const rt_weights_file *file) { return file->format; }
const char *rt_weights_architecture(const rt_weights_file *file) { return file->architecture; }
const dp_mapping *rt_weights_part_mapping(const rt_weights_file *file, int index) {
  return &file->parts[index].mapping;
}
int rt_weights_tensor_count(const rt_weights_file *file) { return file->tensor_count; }
const rt_tensor *rt_weights_tensor(const rt_weights_file *file, int index) { return &file->tensors[index]; }
int rt_weights_meta_count(const rt_weights_file *file) { return file->meta_count; }
const rt_meta *rt_weights_meta(const rt_weights_file *file, int index) { return &file->metas[index]; }

const rt_tensor *rt_weights_find(const rt_weights_file *file, const char *name) {
  const rt_name_index *index = &file->tensor_index;
  uint32_t found = index->slots[find_slot(index, file->tensors, sizeof *file->tensors, name)];
  return found ? &file->tensors[found - 1] : NULL;
}

static const rt_meta *find_exact(const rt_weights_file *file, const char *key) {
  const rt_name_index *index = &file->meta_index;
  uint32_t found = index->slots[find_slot(index, file->metas, sizeof *file->metas, key)];
  return found ? &file->metas[found - 1] : NULL;
}

/* ---- what newer and older config.json files say elsewhere */

/* `prefix` + `key`, in either form of config.json: of the whole model, or of its text part. NULL when it says nothing,
 * or null. */
static const rt_meta *find_config(const rt_weights_file *file, const char *prefix, const char *key) {
  static const char *const forms[] = {"", "text_config."};
  char whole[512];
  for (size_t i = 0; i < DP_COUNT(forms); i++) {
    int n = snprintf(whole, sizeof whole, "%s%s%s", forms[i], prefix, key);
    const rt_meta *meta = n > 0 && (size_t)n < sizeof whole ? find_exact(file, whole) : NULL;
    if (meta && meta->kind != RT_META_OTHER) return meta;
  }
  return NULL;
}

/* A member of rope_parameters, where that scales at all. */
static const rt_meta *find_scaling(const rt_weights_file *file, const char *prefix, const char *key) {
  const rt_meta *type = find_config(file, prefix, "rope_type");
  if (!type || type->kind != RT_META_STRING || strcmp(type->text.text, "default") == 0) return NULL;
  return find_config(file, prefix, strcmp(key, "type") == 0 ? "rope_type" : key);
}

/* What follows `prefix` in the key; NULL when it begins otherwise. */
static const char *after(const char *key, const char *prefix) {
  size_t n = strlen(prefix);
  return strncmp(key, prefix, n) == 0 ? key + n : NULL;
}

static const rt_meta *find_elsewhere(const rt_weights_file *file, const char *key) {
  const rt_meta *meta = find_config(file, "", key);
  const char *rest;
  if (meta) return meta;
  if (strcmp(key, "rope_theta") == 0) {
    meta = find_config(file, "rope_parameters.", key);
    return meta ? meta : find_config(file, "rope_parameters.full_attention.", key);
  }
  if (strcmp(key, "rope_local_base_freq") == 0)
    return find_config(file, "rope_parameters.sliding_attention.", "rope_theta");
  if ((rest = after(key, "rope_scaling."))) {
    if (strcmp(rest, "rope_type") == 0) meta = find_config(file, "rope_scaling.", "type");
    if (!meta) meta = find_scaling(file, "rope_parameters.", rest);
    return meta ? meta : find_scaling(file, "rope_parameters.full_attention.", rest);
  }
  if ((rest = after(key, "rope_parameters.")))
    return strcmp(rest, "rope_theta") == 0 ? find_config(file, "", rest) : find_config(file, "rope_scaling.", rest);
  return NULL;
}

const rt_meta *rt_weights_find_meta(const rt_weights_file *file, const char *key) {
  char whole[512];
  const char *mark = strstr(key, "{arch}");
  if (mark) {
    if (!file->architecture) return NULL;
    int n =
        snprintf(whole, sizeof whole, "%.*s%s%s", (int)(mark - key), key, file->architecture, mark + strlen("{arch}"));
    if (n < 0 || (size_t)n >= sizeof whole) return NULL;
    key = whole;
  }
  const rt_meta *exact = find_exact(file, key), *elsewhere = NULL;
  if (file->format == RT_SAFETENSORS && (!exact || exact->kind == RT_META_OTHER)) elsewhere = find_elsewhere(file, key);
  return elsewhere ? elsewhere : exact;
}

int rt_gguf_type_bytes(int type) {
  static const uint8_t bytes[RT_GGUF_TYPE_COUNT] = {
      [RT_GGUF_U8] = 1,  [RT_GGUF_I8] = 1,   [RT_GGUF_U16] = 2, [RT_GGUF_I16] = 2, [RT_GGUF_U32] = 4, [RT_GGUF_I32] = 4,
      [RT_GGUF_F32] = 4, [RT_GGUF_BOOL] = 1, [RT_GGUF_U64] = 8, [RT_GGUF_I64] = 8, [RT_GGUF_F64] = 8};
  return bytes[type];
}

static int64_t truncate_to_integer(double number) { return number >= -0x1p63 && number < 0x1p63 ? (int64_t)number : 0; }

double rt_read_number(int type, const uint8_t *data, int64_t *integer) {
  uint64_t bits = 0;
  memcpy(&bits, data, (size_t)rt_gguf_type_bytes(type));
  float single;
  double number;
  switch ((rt_gguf_type)type) {
  case RT_GGUF_I8:
    return (double)(*integer = (int8_t)bits);
  case RT_GGUF_I16:
    return (double)(*integer = (int16_t)bits);
  case RT_GGUF_I32:
    return (double)(*integer = (int32_t)bits);
  case RT_GGUF_I64:
    return (double)(*integer = (int64_t)bits);
  case RT_GGUF_F32:
    memcpy(&single, data, sizeof single);
    *integer = truncate_to_integer(single);
    return single;
  case RT_GGUF_F64:
    memcpy(&number, data, sizeof number);
    *integer = truncate_to_integer(number);
    return number;
  default:
    *integer = (int64_t)bits;
    return (double)bits;
  }
}

double rt_meta_number_at(const rt_meta *meta, int64_t index) {
  int64_t integer;
  return rt_read_number(meta->element, meta->data + index * rt_gguf_type_bytes(meta->element), &integer);
}

int64_t rt_meta_integer_at(const rt_meta *meta, int64_t index) {
  int64_t integer;
  rt_read_number(meta->element, meta->data + index * rt_gguf_type_bytes(meta->element), &integer);
  return integer;
}

static bool ends_with(const char *s, const char *end) {
  size_t n = strlen(s), m = strlen(end);
  return n >= m && strcmp(s + n - m, end) == 0;
}

static bool count_vocabulary(const rt_weights_file *file, double *number) {
  static const char *const embeddings[] = {"token_embd.weight", "model.embed_tokens.weight", "transformer.wte.weight",
                                           "wte.weight"};
  for (size_t i = 0; i < DP_COUNT(embeddings); i++) {
    const rt_tensor *tensor = rt_weights_find(file, embeddings[i]);
    if (tensor && tensor->rank == 2) {
      *number = (double)tensor->dims[0];
      return true;
    }
  }
  const rt_meta *tokens = rt_weights_find_meta(file, "tokenizer.ggml.tokens");
  if (!tokens || tokens->kind != RT_META_STRINGS) return false;
  *number = (double)tokens->count;
  return true;
}

bool rt_weights_number(const rt_weights_file *file, const char *key, double *number) {
  const rt_meta *meta = rt_weights_find_meta(file, key);
  bool vocabulary = strcmp(key, "vocab_size") == 0 || ends_with(key, ".vocab_size");
  if (!meta && vocabulary) meta = rt_weights_find_meta(file, "{arch}.vocab_size");
  if (!meta) return vocabulary && count_vocabulary(file, number);
  if (meta->kind != RT_META_NUMBER && meta->kind != RT_META_BOOL) return false;
  *number = meta->number;
  return true;
}

bool rt_weights_bool(const rt_weights_file *file, const char *key, bool *value) {
  const rt_meta *meta = rt_weights_find_meta(file, key);
  if (!meta || meta->kind != RT_META_BOOL) return false;
  *value = meta->integer != 0;
  return true;
}

const char *rt_weights_string(const rt_weights_file *file, const char *key) {
  const rt_meta *meta = rt_weights_find_meta(file, key);
  return meta && meta->kind == RT_META_STRING ? meta->text.text : NULL;
}

const rt_text *rt_weights_strings(const rt_weights_file *file, const char *key, int64_t *count) {
  const rt_meta *meta = rt_weights_find_meta(file, key);
  if (!meta || meta->kind != RT_META_STRINGS) return NULL;
  *count = meta->count;
  return meta->strings;
}
