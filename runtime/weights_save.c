/* runtime/weights_save.c: tensors, or all weights of a binding, -> a safetensors file (format: the safetensors README).
 * The header is known before the data, so data streams through one buffer; the file appears under its name whole or not
 * at all. */
#include "runtime/weights_binding.h"
#include "runtime/weights_file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BUFFER_BYTES = 1 << 20 };

/* ---- the file ---------------------------------------------------------------------------------------------------- */

static const char *stored_name(ir_dtype dtype) {
  switch (dtype) {
  case IR_f32:
    return "F32";
  case IR_f16:
    return "F16";
  case IR_bf16:
    return "BF16";
  case IR_i32:
    return "I32";
  default:
    return NULL;
  }
}

static dp_status check_tensor(const char *path, const rt_save_tensor *tensor, rt_tensor *sized) {
  const char *name = tensor->name ? tensor->name : "";
  if (!rt_is_name((const uint8_t *)name, strlen(name)) || strcmp(name, "__metadata__") == 0)
    return dp_fail(DP_INVALID, "cannot write '%s': a tensor's name is empty, unprintable or reserved", path);
  if (!stored_name(tensor->dtype))
    return dp_fail(DP_INVALID, "cannot write '%s': tensor '%s' is %s, safetensors files take f32, f16, bf16, i32", path,
                   name, ir_dtype_name(tensor->dtype));
  *sized = (rt_tensor){.name = name, .rank = tensor->rank};
  bool good = tensor->rank >= 0 && tensor->rank <= RT_MAX_RANK;
  for (int i = 0; good && i < tensor->rank; i++) {
    sized->dims[i] = tensor->dims[i];
    good = tensor->dims[i] >= 0;
  }
  if (!good || !rt_size_tensor(sized, 1, ir_dtype_block_bytes(tensor->dtype)))
    return dp_fail(DP_INVALID, "cannot write '%s': tensor '%s' has an impossible shape", path, name);
  if (sized->elements > 0 && !tensor->data && !tensor->fill)
    return dp_fail(DP_INVALID, "cannot write '%s': tensor '%s' has no data", path, name);
  return DP_SUCCESS;
}

static int compare_names(const void *a, const void *b) {
  return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static dp_status check_unique(const char *path, const rt_save_tensor *tensors, int count) {
  const char **names = malloc(sizeof *names * ((size_t)count + 1));
  if (!names) return dp_fail(DP_NO_MEMORY, "no memory to write '%s'", path);
  for (int i = 0; i < count; i++) names[i] = tensors[i].name;
  qsort(names, (size_t)count, sizeof *names, compare_names);
  dp_status status = DP_SUCCESS;
  for (int i = 1; i < count && status.code == DP_OK; i++)
    if (strcmp(names[i - 1], names[i]) == 0)
      status = dp_fail(DP_INVALID, "cannot write '%s': two tensors are named '%s'", path, names[i]);
  free(names);
  return status;
}

/* Length, JSON, spaces up to a multiple of 8. */
static dp_status make_header(const char *path, const rt_save_tensor *tensors, int count, dp_str *header) {
  uint64_t at = 0;
  dp_str_addn(header, "\0\0\0\0\0\0\0\0", 8);
  dp_str_add(header, "{\"__metadata__\":{\"format\":\"pt\"}");
  for (int i = 0; i < count; i++) {
    rt_tensor sized;
    DP_TRY(check_tensor(path, &tensors[i], &sized));
    dp_str_addc(header, ',');
    rt_print_json_string(header, sized.name, strlen(sized.name));
    dp_str_addf(header, ":{\"dtype\":\"%s\",\"shape\":", stored_name(tensors[i].dtype));
    rt_print_shape(header, sized.dims, sized.rank);
    dp_str_addf(header, ",\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", at, at + sized.bytes);
    if (__builtin_add_overflow(at, sized.bytes, &at) || at > INT64_MAX)
      return dp_fail(DP_INVALID, "cannot write '%s': its tensors are too large together", path);
  }
  dp_str_addc(header, '}');
  while (header->length % 8 != 0 && !header->failed) dp_str_addc(header, ' ');
  if (header->failed) return dp_fail(DP_NO_MEMORY, "no memory to write '%s'", path);
  uint64_t length = header->length - 8;
  memcpy(header->text, &length, 8);
  return DP_SUCCESS;
}

typedef struct writer {
  const char *path; /* as the user knows it */
  int fd;
  uint8_t *buffer;
  size_t capacity;
} writer;

static dp_status cannot_write(const writer *w, int reason) {
  return dp_fail(DP_IO, "cannot write '%s': %s%s", w->path, strerror(reason),
                 reason == ENOSPC || reason == EDQUOT ? " (free some space, nothing was left behind)" : "");
}

static dp_status write_all(const writer *w, const void *data, size_t size) {
  for (size_t done = 0; done < size;) {
    ssize_t n = write(w->fd, (const char *)data + done, size - done);
    if (n < 0 && errno != EINTR) return cannot_write(w, errno);
    if (n > 0) done += (size_t)n;
  }
  return DP_SUCCESS;
}

static dp_status write_tensor(writer *w, const rt_save_tensor *tensor) {
  rt_tensor sized;
  DP_TRY(check_tensor(w->path, tensor, &sized));
  if (sized.elements == 0) return DP_SUCCESS;
  if (tensor->data) return write_all(w, tensor->data, sized.bytes);
  int64_t rows = 1;
  for (int i = 0; i + 1 < sized.rank; i++) rows *= sized.dims[i];
  size_t row_bytes = sized.bytes / (size_t)rows;
  if (row_bytes > w->capacity) {
    uint8_t *larger = realloc(w->buffer, row_bytes);
    if (!larger) return dp_fail(DP_NO_MEMORY, "no memory to write '%s'", w->path);
    w->buffer = larger;
    w->capacity = row_bytes;
  }
  int64_t at_once = (int64_t)(w->capacity / row_bytes);
  for (int64_t row = 0; row < rows; row += at_once) {
    int64_t n = rows - row < at_once ? rows - row : at_once;
    DP_TRY(tensor->fill(tensor->context, row, n, w->buffer));
    DP_TRY(write_all(w, w->buffer, (size_t)n * row_bytes));
  }
  return DP_SUCCESS;
}

static dp_status write_file(writer *w, const dp_str *header, const rt_save_tensor *tensors, int count) {
  DP_TRY(write_all(w, header->text, header->length));
  for (int i = 0; i < count; i++) DP_TRY(write_tensor(w, &tensors[i]));
  if (fchmod(w->fd, 0644) != 0 || fsync(w->fd) != 0) return cannot_write(w, errno);
  return DP_SUCCESS;
}

static dp_status replace_file(const char *path, const dp_str *header, const rt_save_tensor *tensors, int count) {
  char temporary[PATH_MAX];
  if ((size_t)snprintf(temporary, sizeof temporary, "%s.tmp-XXXXXX", path) >= sizeof temporary)
    return dp_fail(DP_INVALID, "path too long: '%s'", path);
  writer w = {.path = path, .buffer = malloc(BUFFER_BYTES), .capacity = BUFFER_BYTES};
  if (!w.buffer) return dp_fail(DP_NO_MEMORY, "no memory to write '%s'", path);
  w.fd = mkstemp(temporary);
  if (w.fd < 0) {
    dp_status status = cannot_write(&w, errno);
    free(w.buffer);
    return status;
  }
  dp_status status = write_file(&w, header, tensors, count);
  if (close(w.fd) != 0 && status.code == DP_OK) status = cannot_write(&w, errno);
  if (status.code == DP_OK && rename(temporary, path) != 0) status = cannot_write(&w, errno);
  if (status.code != DP_OK) unlink(temporary);
  free(w.buffer);
  return status;
}

dp_status rt_save_safetensors(const char *path, const rt_save_tensor *tensors, int count) {
  dp_str header = {0};
  dp_status status = make_header(path, tensors, count, &header);
  if (status.code == DP_OK) status = check_unique(path, tensors, count);
  if (status.code == DP_OK) status = replace_file(path, &header, tensors, count);
  dp_str_free(&header);
  return status;
}

/* ---- a binding's weights ----------------------------------------------------------------------------------------- */

/* One tensor of the file: `layers` layers from `first` on, rows in the order the source's readers expect. */
typedef struct saved_weight {
  const rt_bound *first;
  ir_dtype dtype;
  int64_t paired_heads; /* of the source written under: > 0: rotation pairs are made again */
} saved_weight;

/* The inverse of rt_paired_row: which row in the model's order lies at `row` of a file with pairs. */
static int64_t unpaired_row(int64_t row, int64_t hd) {
  int64_t r = row % hd;
  return row - r + r % 2 * (hd / 2) + r / 2;
}

/* cols floats -> the saved type; `dst` is what write_tensor's buffer gives, unaligned for no type. */
static void save_row(const saved_weight *saved, const rt_bound *bound, int64_t row, uint8_t *dst) {
  enum { CHUNK = 256 }; /* a multiple of every block */
  float chunk[CHUNK];
  int64_t hd = bound->paired_heads > 0 ? rt_head_rows(bound->rows, bound->cols, bound->paired_heads) : 0;
  const uint8_t *src = bound->data + (hd ? rt_paired_row(row, hd) : row) * bound->row_bytes;
  for (int64_t at = 0; at < bound->cols; at += CHUNK) {
    int64_t n = bound->cols - at < CHUNK ? bound->cols - at : CHUNK;
    rt_dequantize_row(bound->dtype, src + rt_row_bytes(bound->dtype, at), chunk, n);
    rt_quantize_row(saved->dtype, chunk, dst + rt_row_bytes(saved->dtype, at), n);
  }
}

/* A 1-D weight whose elements are paired here or there: small, through a row of floats. */
static dp_status save_paired_vector(const saved_weight *saved, const rt_bound *bound, uint8_t *dst) {
  float *row = malloc((size_t)bound->cols * sizeof *row);
  if (!row) return dp_fail(DP_NO_MEMORY, "no memory to save a weight of %" PRId64 " elements", bound->cols);
  rt_bound_row(bound, 0, row);
  int64_t size = ir_dtype_block_bytes(saved->dtype);
  for (int64_t i = 0; i < bound->cols; i++) {
    int64_t from = saved->paired_heads > 0 ? unpaired_row(i, bound->cols / saved->paired_heads) : i;
    rt_quantize_row(saved->dtype, &row[from], dst + i * size, 1);
  }
  free(row);
  return DP_SUCCESS;
}

static dp_status fill_saved(const void *context, int64_t first, int64_t count, void *dst) {
  const saved_weight *saved = context;
  int64_t rows = saved->first->rows, row_bytes = rt_row_bytes(saved->dtype, saved->first->cols);
  for (int64_t i = 0; i < count; i++) {
    const rt_bound *bound = &saved->first[(first + i) / rows];
    int64_t row = (first + i) % rows;
    uint8_t *to = (uint8_t *)dst + i * row_bytes;
    if (rows == 1 && (saved->paired_heads > 0 || bound->paired_heads > 0)) {
      DP_TRY(save_paired_vector(saved, bound, to));
    } else {
      if (saved->paired_heads > 0) row = unpaired_row(row, rows / saved->paired_heads);
      save_row(saved, bound, row, to);
    }
  }
  return DP_SUCCESS;
}

typedef struct save_list {
  dp_arena *arena;
  rt_save_tensor *items;
  int count, cap;
} save_list;

static void add_tensor(save_list *list, const ir_weight *weight, const rt_bound *first, int64_t layer, ir_dtype dtype,
                       bool all_layers) {
  const char *pattern = weight->source_count > 0 ? weight->sources[0].pattern : weight->name;
  saved_weight *saved = DP_NEW(list->arena, saved_weight);
  *saved = (saved_weight){.first = first, .dtype = dtype, .paired_heads = weight->source_count > 0 ? weight->sources[0].paired : 0};
  rt_save_tensor tensor = {.name =
                               weight->stack && !all_layers ? rt_layer_name(list->arena, pattern, layer) : pattern,
                           .dtype = dtype,
                           .fill = fill_saved,
                           .context = saved};
  for (int i = weight->stack && !all_layers ? 1 : 0; i < weight->type.rank; i++)
    tensor.dims[tensor.rank++] = weight->type.dims[i].add;
  DP_PUSH(list->arena, list->items, list->count, list->cap) = tensor;
}

dp_status rt_save_weights(const char *path, const ir_module *module, const rt_binding *binding, ir_dtype dtype) {
  if (dtype != IR_f32 && dtype != IR_f16 && dtype != IR_bf16)
    return dp_fail(DP_INVALID, "cannot write '%s' as %s: take f32, f16 or bf16", path, ir_dtype_name(dtype));
  if (module->weight_count != binding->weight_count)
    return dp_fail(DP_INVALID, "cannot write '%s': the weights were bound to another model", path);
  save_list list = {.arena = dp_arena_new()};
  if (!list.arena) return dp_fail(DP_NO_MEMORY, "no memory to write '%s'", path);
  for (int i = 0; i < module->weight_count; i++) {
    const ir_weight *weight = &module->weights[i];
    const rt_bound_weight *bound = &binding->weights[i];
    if (!bound->layers || bound->tie >= 0) continue;
    bool all_layers = weight->stack && weight->source_count > 0 && !strstr(weight->sources[0].pattern, "{}");
    if (weight->source_count == 0) all_layers = true;
    for (int64_t layer = 0; layer < (all_layers ? 1 : bound->layer_count); layer++)
      add_tensor(&list, weight, &bound->layers[layer], layer, dtype, all_layers);
  }
  dp_status status = rt_save_safetensors(path, list.items, list.count);
  dp_arena_free(list.arena);
  return status;
}
