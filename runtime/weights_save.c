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

/* What __metadata__ says besides the format; key NULL: nothing. */
typedef struct note {
  const char *key, *text;
} note;

/* Length, JSON, spaces up to a multiple of 8. */
static dp_status make_header(const char *path, const rt_save_tensor *tensors, int count, note more, dp_str *header) {
  uint64_t at = 0;
  dp_str_addn(header, "\0\0\0\0\0\0\0\0", 8);
  dp_str_add(header, "{\"__metadata__\":{\"format\":\"pt\"");
  if (more.key) {
    dp_str_addc(header, ',');
    rt_print_json_string(header, more.key, strlen(more.key));
    dp_str_addc(header, ':');
    rt_print_json_string(header, more.text, strlen(more.text));
  }
  dp_str_addc(header, '}');
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

static dp_status save_tensors(const char *path, const rt_save_tensor *tensors, int count, note more) {
  dp_str header = {0};
  dp_status status = make_header(path, tensors, count, more, &header);
  if (status.code == DP_OK) status = check_unique(path, tensors, count);
  if (status.code == DP_OK) status = replace_file(path, &header, tensors, count);
  dp_str_free(&header);
  return status;
}

dp_status rt_save_safetensors(const char *path, const rt_save_tensor *tensors, int count) {
  return save_tensors(path, tensors, count, (note){0});
}

dp_status rt_save_noted_safetensors(const char *path, const rt_save_tensor *tensors, int count, const char *key,
                                    const char *text) {
  return save_tensors(path, tensors, count, (note){key, text});
}

/* ---- a binding's weights ----------------------------------------------------------------------------------------- */

/* Weights go back under their first source's names, as that source describes them; several that are windows of one
 * tensor make it together. A tensor is rows (of a vector: elements; of a transposed one: columns), each from one piece.
 */

typedef struct piece {
  const rt_bound *first; /* of the matrices or vectors that the tensor holds, one after another */
  const ir_source *source;
  int64_t lead, unit; /* how many, and rows of each */
} piece;

typedef struct saved_tensor {
  const char *name;
  ir_dtype dtype;
  piece *pieces;
  int piece_count, piece_cap;
  bool vector, transposed, windowed;
  int64_t lead, rows, cols; /* rows: in all; of a transposed one in each of the lead slabs */
  int rank;                 /* and dims: as one weight without a window has them */
  int64_t dims[RT_MAX_RANK];
  int64_t width; /* elements in a row of the file's tensor */
  float *work;   /* malloc'ed: a slab [cols][rows] of a transposed one, all elements of a vector */
  int64_t slab;  /* which it holds; -1: none */
} saved_tensor;

/* The inverse of rt_paired_row: which row in the model's order lies at `row` of a file with pairs. */
static int64_t unpaired_row(int64_t row, int64_t hd) {
  int64_t r = row % hd;
  return row - r + r % 2 * (hd / 2) + r / 2;
}

/* The rows of a piece, counted through its matrices; each matrix of a transposed one is a slab of its own. */
static int64_t piece_rows(const saved_tensor *saved, const piece *p) {
  return saved->transposed ? p->unit : p->lead * p->unit;
}

/* Which of the piece's rows lies at row `place` of the tensor: the inverse of rt_window_place; -1: none. */
static int64_t row_at(const saved_tensor *saved, const piece *p, int64_t place) {
  const ir_source *source = p->source;
  int64_t row = place - source->first;
  if (source->run > 0) {
    if (row < 0 || row % source->step >= source->run) return -1;
    row = row / source->step * source->run + row % source->step;
  }
  return row >= 0 && row < piece_rows(saved, p) ? row : -1;
}

/* A row of the file's order in the model's. */
static int64_t model_row(const piece *p, int64_t row) {
  return p->source->paired > 0 ? unpaired_row(row, p->unit / p->source->paired) : row;
}

static void vector_values(const rt_bound *bound, const ir_source *source, float *dst) {
  rt_bound stored = *bound;
  float plus = (float)source->plus;
  if (stored.plus == plus) stored.plus = plus = 0; /* the number in the file, not a difference of rounded ones */
  rt_bound_row(&stored, 0, dst);
  for (int64_t i = 0; i < bound->cols && plus != 0; i++) dst[i] -= plus;
}

static dp_status no_memory(const saved_tensor *saved) {
  return dp_fail(DP_NO_MEMORY, "no memory to save the tensor '%s'", saved->name);
}

/* All elements of a vector's tensor. */
static dp_status make_vector(saved_tensor *saved) {
  for (int i = 0; i < saved->piece_count; i++) {
    const piece *p = &saved->pieces[i];
    float *values = malloc((size_t)p->unit * sizeof *values);
    if (!values) return no_memory(saved);
    for (int64_t e = 0; e < p->lead; e++) {
      vector_values(&p->first[e], p->source, values);
      for (int64_t j = 0; j < p->unit; j++) {
        int64_t place = 0;
        rt_window_place(p->source, e * p->unit + j, &place);
        saved->work[place] = values[model_row(p, j)];
      }
    }
    free(values);
  }
  return DP_SUCCESS;
}

/* Slab `slab` of a transposed tensor. */
static dp_status make_slab(saved_tensor *saved, int64_t slab) {
  float *row = malloc((size_t)saved->cols * sizeof *row);
  if (!row) return no_memory(saved);
  for (int i = 0; i < saved->piece_count; i++) {
    const piece *p = &saved->pieces[i];
    for (int64_t r = 0; r < p->unit; r++) {
      int64_t place = 0;
      rt_window_place(p->source, r, &place);
      rt_bound_row(&p->first[slab], model_row(p, r), row);
      for (int64_t c = 0; c < saved->cols; c++) saved->work[c * saved->rows + place] = row[c];
    }
  }
  free(row);
  return DP_SUCCESS;
}

/* Rows of the file's tensor, from `work`. */
static dp_status fill_from_work(saved_tensor *saved, int64_t first, int64_t count, uint8_t *dst) {
  int64_t width = saved->width, slabs = saved->transposed ? saved->lead : 1;
  int64_t slab_rows = saved->transposed ? saved->cols : saved->rows / width, elements = slab_rows * width;
  if (!saved->work) saved->work = malloc((size_t)elements * sizeof *saved->work);
  if (!saved->work) return no_memory(saved);
  for (int64_t i = first; i < first + count; i++) {
    int64_t slab = i / slab_rows;
    if (saved->slab != slab) DP_TRY(saved->transposed ? make_slab(saved, slab) : make_vector(saved));
    saved->slab = slab;
    rt_quantize_row(saved->dtype, saved->work + i % slab_rows * width, dst, width);
    dst += rt_row_bytes(saved->dtype, width);
  }
  if (first + count == slabs * slab_rows) {
    free(saved->work);
    saved->work = NULL;
    saved->slab = -1;
  }
  return DP_SUCCESS;
}

static dp_status fill_matrix(const saved_tensor *saved, int64_t first, int64_t count, uint8_t *dst) {
  float *row = malloc((size_t)saved->cols * sizeof *row);
  if (!row) return no_memory(saved);
  for (int64_t i = first; i < first + count; i++, dst += rt_row_bytes(saved->dtype, saved->cols)) {
    const piece *p = saved->pieces;
    while (row_at(saved, p, i) < 0) p++; /* check_coverage saw that there is one */
    int64_t at = row_at(saved, p, i);
    rt_bound_row(&p->first[at / p->unit], model_row(p, at % p->unit), row);
    rt_quantize_row(saved->dtype, row, dst, saved->cols);
  }
  free(row);
  return DP_SUCCESS;
}

/* ---- what lies elsewhere is there while its tensor is written */

static void drop(const saved_tensor *saved) {
  for (int i = 0; i < saved->piece_count; i++)
    for (int64_t e = 0; e < saved->pieces[i].lead; e++) {
      rt_bound *bound = (rt_bound *)(uintptr_t)&saved->pieces[i].first[e];
      if (!bound->later) continue;
      free((void *)(uintptr_t)bound->data);
      bound->data = NULL;
    }
}

static dp_status bring(const saved_tensor *saved) {
  for (int i = 0; i < saved->piece_count; i++)
    for (int64_t e = 0; e < saved->pieces[i].lead; e++) {
      rt_bound *bound = (rt_bound *)(uintptr_t)&saved->pieces[i].first[e];
      if (!bound->later || bound->data) continue;
      void *memory = malloc((size_t)bound->later->bytes);
      if (!memory) return no_memory(saved);
      bound->data = memory;
      DP_TRY(bound->later->bring(bound->later, memory));
    }
  return DP_SUCCESS;
}

static int64_t rows_of_file(const saved_tensor *saved) {
  if (saved->transposed) return saved->lead * saved->cols;
  return saved->vector ? saved->rows / saved->width : saved->rows;
}

static dp_status fill_saved(const void *context, int64_t first, int64_t count, void *dst) {
  saved_tensor *saved = *(saved_tensor *const *)context;
  DP_TRY(bring(saved));
  DP_TRY(saved->transposed || saved->vector ? fill_from_work(saved, first, count, dst)
                                            : fill_matrix(saved, first, count, dst));
  if (first + count == rows_of_file(saved)) drop(saved);
  return DP_SUCCESS;
}

/* ---- which tensors there are ------------------------------------------------------------------------------------- */

typedef struct save_list {
  dp_arena *arena;
  const char *path;
  saved_tensor **items;
  int count, cap;
  uint32_t *slots; /* malloc'ed: by name, position + 1 */
  uint64_t mask;
} save_list;

static dp_status grow_table(save_list *list) {
  uint64_t slots = list->mask ? 2 * (list->mask + 1) : 64;
  uint32_t *fresh = calloc(slots, sizeof *fresh);
  if (!fresh) return dp_fail(DP_NO_MEMORY, "no memory to write '%s'", list->path);
  free(list->slots);
  list->slots = fresh, list->mask = slots - 1;
  for (int i = 0; i < list->count; i++) {
    uint64_t slot = dp_hash(0, list->items[i]->name, strlen(list->items[i]->name)) & list->mask;
    while (fresh[slot]) slot = (slot + 1) & list->mask;
    fresh[slot] = (uint32_t)i + 1;
  }
  return DP_SUCCESS;
}

static dp_status find_or_add(save_list *list, const char *name, saved_tensor **tensor) {
  if (!list->slots || 2 * (uint64_t)list->count > list->mask) DP_TRY(grow_table(list));
  uint64_t slot = dp_hash(0, name, strlen(name)) & list->mask;
  while (list->slots[slot] && strcmp(list->items[list->slots[slot] - 1]->name, name) != 0)
    slot = (slot + 1) & list->mask;
  if (list->slots[slot]) {
    *tensor = list->items[list->slots[slot] - 1];
    return DP_SUCCESS;
  }
  *tensor = DP_NEW(list->arena, saved_tensor);
  (*tensor)->name = dp_arena_strdup(list->arena, name);
  DP_PUSH(list->arena, list->items, list->count, list->cap) = *tensor;
  list->slots[slot] = (uint32_t)list->count;
  return DP_SUCCESS;
}

static dp_status add_piece(save_list *list, const char *name, const ir_source *source, const rt_layer_shape *shape,
                           const rt_pattern *pattern, const rt_bound *first) {
  saved_tensor *saved;
  DP_TRY(find_or_add(list, name, &saved));
  bool vector = shape->rank < 2;
  piece p = {.first = first, .source = source, .lead = pattern->lead, .unit = vector ? shape->cols : shape->rows};
  if (saved->piece_count == 0) {
    saved->vector = vector, saved->transposed = source->transposed;
    saved->lead = pattern->lead, saved->cols = shape->cols;
    for (int i = 0; i < pattern->lead_rank; i++) saved->dims[saved->rank++] = pattern->lead_dims[i];
    for (int i = 0; i < shape->rank; i++) saved->dims[saved->rank++] = shape->dims[i];
  }
  if (saved->vector != vector || saved->transposed != source->transposed || saved->lead != p.lead ||
      (!vector && saved->cols != shape->cols))
    return dp_fail(DP_UNSUPPORTED, "cannot write '%s': the weights that share the tensor '%s' do not make one together",
                   list->path, name);
  saved->windowed = saved->windowed || source->run > 0;
  int64_t end = 0;
  if (!rt_window_place(source, piece_rows(saved, &p) - 1, &end))
    return dp_fail(DP_UNSUPPORTED, "cannot write '%s': the tensor '%s' would be too large", list->path, name);
  saved->rows = end + 1 > saved->rows ? end + 1 : saved->rows;
  DP_PUSH(list->arena, saved->pieces, saved->piece_count, saved->piece_cap) = p;
  return DP_SUCCESS;
}

/* Every row of the tensor comes from one piece. */
static dp_status check_coverage(const save_list *list, const saved_tensor *saved) {
  int64_t sum = 0;
  for (int i = 0; i < saved->piece_count; i++) sum += piece_rows(saved, &saved->pieces[i]);
  for (int64_t row = 0; row < saved->rows; row++) {
    int owners = 0;
    if (sum == saved->rows && saved->piece_count == 1) break;
    for (int i = 0; i < saved->piece_count; i++) owners += row_at(saved, &saved->pieces[i], row) >= 0;
    if (owners != 1)
      return dp_fail(DP_UNSUPPORTED,
                     "cannot write '%s': %s weight of the model is row %" PRId64
                     " of the tensor '%s': it cannot be made",
                     list->path, owners ? "more than one" : "no", row, saved->name);
  }
  return DP_SUCCESS;
}

/* Windows and slabs are written as the plainest tensor that the source reads again. */
static rt_save_tensor describe(save_list *list, saved_tensor *saved, ir_dtype dtype) {
  saved_tensor **context = DP_NEW(list->arena, saved_tensor *);
  *context = saved;
  saved->dtype = dtype, saved->slab = -1;
  rt_save_tensor tensor = {.name = saved->name, .dtype = dtype, .fill = fill_saved, .context = context};
  int64_t lead = saved->lead, rows = saved->transposed ? saved->rows : saved->rows / lead;
  if (!saved->windowed && !saved->transposed) {
    tensor.rank = saved->rank;
    memcpy(tensor.dims, saved->dims, sizeof tensor.dims);
  } else {
    if (lead > 1) tensor.dims[tensor.rank++] = lead;
    if (saved->transposed) tensor.dims[tensor.rank++] = saved->cols;
    tensor.dims[tensor.rank++] = rows;
    if (!saved->transposed && !saved->vector) tensor.dims[tensor.rank++] = saved->cols;
  }
  saved->width = tensor.rank > 0 ? tensor.dims[tensor.rank - 1] : 1;
  return tensor;
}

static dp_status collect_weight(save_list *list, const ir_weight *weight, const rt_bound_weight *bound) {
  rt_layer_shape shape;
  const char *why;
  if (!rt_layer_shape_of(weight, &shape, &why) || shape.count != bound->layer_count)
    return dp_fail(DP_INVALID, "cannot write '%s': the weights were bound to another model", list->path);
  ir_source plain = {.pattern = weight->name};
  ir_source *source = DP_NEW(list->arena, ir_source);
  *source = weight->source_count > 0 ? weight->sources[0] : plain;
  rt_pattern pattern = rt_pattern_of(source->pattern, weight, &shape);
  dp_status status = DP_SUCCESS;
  dp_str name = {0};
  for (int64_t index = 0; index < shape.count && status.code == DP_OK; index += pattern.lead) {
    dp_str_clear(&name);
    rt_tensor_name(&name, source->pattern, weight, &shape, index);
    status = name.failed ? dp_fail(DP_NO_MEMORY, "no memory to write '%s'", list->path)
                         : add_piece(list, name.text, source, &shape, &pattern, &bound->layers[index]);
  }
  dp_str_free(&name);
  return status;
}

uint64_t rt_saved_bytes(const ir_module *module, const rt_binding *binding, ir_dtype dtype) {
  uint64_t bytes = 0;
  for (int i = 0; i < module->weight_count && i < binding->weight_count; i++) {
    const rt_bound_weight *bound = &binding->weights[i];
    if (!bound->layers || bound->tie >= 0 || bound->filled) continue;
    for (int64_t layer = 0; layer < bound->layer_count; layer++)
      bytes += (uint64_t)bound->layers[layer].rows * (uint64_t)bound->layers[layer].cols;
  }
  return bytes * (uint64_t)ir_dtype_block_bytes(dtype);
}

static dp_status save_list_of(save_list *list, const ir_module *module, const rt_binding *binding, ir_dtype dtype) {
  for (int i = 0; i < module->weight_count; i++) {
    const rt_bound_weight *bound = &binding->weights[i];
    if (bound->layers && bound->tie < 0 && !bound->filled) DP_TRY(collect_weight(list, &module->weights[i], bound));
  }
  rt_save_tensor *tensors = DP_NEW_ARRAY(list->arena, rt_save_tensor, list->count + 1);
  for (int i = 0; i < list->count; i++) {
    saved_tensor *saved = list->items[i];
    DP_TRY(check_coverage(list, saved));
    if (!saved->transposed && saved->rows % saved->lead != 0)
      return dp_fail(DP_UNSUPPORTED, "cannot write '%s': the rows of '%s' do not divide into %" PRId64 " matrices",
                     list->path, saved->name, saved->lead);
    tensors[i] = describe(list, saved, dtype);
  }
  return rt_save_safetensors(list->path, tensors, list->count);
}

dp_status rt_save_weights(const char *path, const ir_module *module, const rt_binding *binding, ir_dtype dtype) {
  if (dtype != IR_f32 && dtype != IR_f16 && dtype != IR_bf16)
    return dp_fail(DP_INVALID, "cannot write '%s' as %s: take f32, f16 or bf16", path, ir_dtype_name(dtype));
  if (module->weight_count != binding->weight_count)
    return dp_fail(DP_INVALID, "cannot write '%s': the weights were bound to another model", path);
  save_list list = {.arena = dp_arena_new(), .path = path};
  if (!list.arena) return dp_fail(DP_NO_MEMORY, "no memory to write '%s'", path);
  dp_status status = save_list_of(&list, module, binding, dtype);
  for (int i = 0; i < list.count; i++) {
    free(list.items[i]->work);
    drop(list.items[i]);
  }
  free(list.slots);
  dp_arena_free(list.arena);
  return status;
}
