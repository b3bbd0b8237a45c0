/* runtime/weights_bind.c: a module's weights x a file's tensors -> a binding: which tensor is which layer of which
 * weight. Nothing stops at the first mistake: whoever brings the wrong file or sets the wrong dimension sees all of it
 * at once, layers with the same trouble on one line. */
#include "runtime/int4_files.h"
#include "runtime/weights_binding.h"
#include "runtime/weights_file.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_LAYERS = 1 << 20, MAX_FILLED = 1 << 24, MAX_NAMES_SHOWN = 12, MAX_BAD_LAYERS = 4096, MAX_SUGGESTIONS = 4096 };

/* ---- what a binding is ------------------------------------------------------------------------------------------- */

rt_binding *rt_binding_new(int weight_count) {
  rt_binding *binding = calloc(1, sizeof *binding);
  if (!binding) return NULL;
  binding->arena = dp_arena_new();
  if (!binding->arena) {
    free(binding);
    return NULL;
  }
  binding->weight_count = weight_count;
  binding->weights = DP_NEW_ARRAY(binding->arena, rt_bound_weight, weight_count);
  for (int i = 0; i < weight_count; i++) binding->weights[i].tie = -1;
  return binding;
}

void rt_binding_free(rt_binding *binding) {
  if (!binding) return;
  for (int i = 0; binding->memory && i < binding->weight_count; i++) free(binding->memory[i]);
  rt_binding_free(binding->appended);
  dp_arena_free(binding->arena);
  free(binding);
}

void rt_binding_append(rt_binding *binding, rt_binding *more, int from) {
  int first = binding->weight_count, count = first + more->weight_count - from;
  rt_bound_weight *weights = DP_NEW_ARRAY(binding->arena, rt_bound_weight, count);
  void **memory = DP_NEW_ARRAY(binding->arena, void *, count);
  for (int i = 0; i < first; i++) {
    weights[i] = binding->weights[i];
    if (binding->memory) memory[i] = binding->memory[i];
  }
  for (int i = first, at = from; i < count; i++, at++) {
    weights[i] = more->weights[at];
    if (weights[i].tie >= 0) weights[i].tie += first - from;
    if (!more->memory) continue;
    memory[i] = more->memory[at];
    more->memory[at] = NULL;
  }
  binding->weights = weights;
  binding->memory = memory;
  binding->weight_count = count;
  more->appended = binding->appended;
  binding->appended = more;
}

const rt_bound *rt_binding_get(const rt_binding *binding, int weight, int64_t layer) {
  if (weight < 0 || weight >= binding->weight_count) return NULL;
  const rt_bound_weight *bound = &binding->weights[weight];
  return layer < 0 || layer >= bound->layer_count ? NULL : &bound->layers[layer];
}

int64_t rt_binding_layers(const rt_binding *binding, int weight) {
  return weight < 0 || weight >= binding->weight_count ? 0 : binding->weights[weight].layer_count;
}

int rt_binding_tie(const rt_binding *binding, int weight) {
  return weight < 0 || weight >= binding->weight_count ? -1 : binding->weights[weight].tie;
}

const rt_weights_file *rt_binding_file(const rt_binding *binding) { return binding->file; }
const char *rt_binding_note(const rt_binding *binding) { return binding->note; }

bool rt_layer_shape_of(const ir_weight *weight, rt_layer_shape *shape, const char **why) {
  const ir_type *type = &weight->type;
  int stack = weight->stack;
  *shape = (rt_layer_shape){.layers = 1, .inner = 1, .rows = 1, .cols = 1, .rank = type->rank - stack};
  int64_t size = 1;
  *why = NULL;
  if (stack < 0 || stack > 2 || shape->rank < 0) *why = "is stacked, but has no dimensions that count the tensors";
  for (int i = 0; i < type->rank && !*why; i++) {
    int64_t dim = type->dims[i].add;
    if (!ir_dim_is_static(type->dims[i]))
      *why = "has a dimension that is not fixed";
    else if (dim < 1)
      *why = "has a dimension below 1";
    else if (__builtin_mul_overflow(size, dim, &size) || size > INT64_MAX / 16)
      *why = "is too large";
    else if (i < stack)
      *(i == 0 ? &shape->layers : &shape->inner) = dim;
    else if (i == type->rank - 1)
      shape->cols = dim;
    else
      shape->rows *= dim;
    if (i >= stack) shape->dims[i - stack] = dim;
  }
  if (!*why && (__builtin_mul_overflow(shape->layers, shape->inner, &shape->count) || shape->count > MAX_LAYERS))
    *why = "is stacked more than a million times";
  return !*why;
}

rt_pattern rt_pattern_of(const char *pattern, const ir_weight *weight, const rt_layer_shape *shape) {
  const char *first = strstr(pattern, "{}");
  int holes = !first ? 0 : strstr(first + 2, "{}") ? 2 : 1;
  rt_pattern p = {.tensors = 1, .lead = 1};
  int64_t dims[2] = {shape->layers, shape->inner};
  for (int i = 0; i < weight->stack; i++) {
    if (i < holes) {
      p.tensors *= dims[i];
    } else {
      p.lead *= dims[i];
      p.lead_dims[p.lead_rank++] = dims[i];
    }
  }
  return p;
}

void rt_tensor_name(dp_str *name, const char *pattern, const ir_weight *weight, const rt_layer_shape *shape,
                    int64_t index) {
  int64_t numbers[2] = {weight->first_layer + index / shape->inner, index % shape->inner};
  for (int i = 0; i < weight->stack; i++) {
    const char *hole = strstr(pattern, "{}");
    if (!hole) break;
    dp_str_addn(name, pattern, (size_t)(hole - pattern));
    dp_str_addf(name, "%" PRId64, numbers[i]);
    pattern = hole + 2;
  }
  dp_str_add(name, pattern);
}

void rt_bind_ties(const ir_module *module, rt_binding *binding, dp_str *problems) {
  for (int i = 0; i < module->weight_count; i++) {
    const ir_weight *weight = &module->weights[i];
    int at = i;
    for (int steps = 0; !binding->weights[at].layers && module->weights[at].tied; steps++) {
      const ir_weight *next = ir_find_weight(module, module->weights[at].tied);
      if (!next || steps == module->weight_count) {
        dp_str_addf(problems, "\n  %s: it is tied to '%s', %s", weight->name, module->weights[at].tied,
                    next ? "in a circle" : "which the model does not have");
        break;
      }
      at = (int)(next - module->weights);
    }
    if (at != i && !binding->weights[at].layers && module->weights[at].optional && !weight->optional)
      dp_str_addf(problems, "\n  %s: the file has it under none of its names, nor '%s', which it is tied to",
                  weight->name, module->weights[at].name);
    if (at == i || !binding->weights[at].layers) continue;
    if (!ir_type_equal(&weight->type, &module->weights[at].type)) {
      dp_str_addf(problems, "\n  %s: it is tied to '%s', which has another shape: ", weight->name,
                  module->weights[at].name);
      ir_print_type(problems, &weight->type);
      dp_str_add(problems, " and ");
      ir_print_type(problems, &module->weights[at].type);
      continue;
    }
    binding->weights[i] = binding->weights[at];
    if (binding->weights[i].tie < 0) binding->weights[i].tie = at;
  }
}

void rt_set_storage(ir_module *module, const rt_binding *binding) {
  for (int i = 0; i < module->weight_count; i++) {
    unsigned storage = 0;
    for (int64_t layer = 0; layer < binding->weights[i].layer_count; layer++)
      storage |= 1u << binding->weights[i].layers[layer].dtype;
    module->weights[i].storage = storage;
  }
}

/* ---- finding tensors --------------------------------------------------------------------------------------------- */

typedef struct binder {
  const ir_module *module;
  const rt_weights_file *file;
  rt_binding *binding;
  bool *used;                  /* per tensor of the file */
  const rt_int4_tensor **int4; /* per tensor of the file that is a qweight, once it was asked for */
  const char **int4_problems;  /* and why it cannot be read */
  dp_str name, problems;
} binder;

/* A tensor as it stands in the file, or as GPTQ or AWQ wrote it. */
typedef struct found {
  const rt_tensor *tensor; /* NULL: there is none */
  const rt_int4_tensor *int4;
  const char *problem;
} found;

static found find_int4(binder *b, const char *name) {
  size_t length = strlen(name), end = strlen("weight");
  if (b->file->format != RT_SAFETENSORS || length <= end || strcmp(name + length - end, "weight") != 0)
    return (found){0};
  dp_str words_name = {0};
  dp_str_addn(&words_name, name, length - end);
  dp_str_add(&words_name, "qweight");
  const rt_tensor *words = words_name.failed ? NULL : rt_weights_find(b->file, words_name.text);
  dp_str_free(&words_name);
  if (!words) return (found){0};
  int64_t at = words - b->file->tensors;
  if (!b->int4[at]) {
    dp_str problem = {0};
    b->int4[at] = rt_int4_find(b->file, name, b->binding->arena, &problem);
    if (problem.text) b->int4_problems[at] = dp_arena_strdup(b->binding->arena, problem.text);
    dp_str_free(&problem);
  }
  if (!b->int4[at]) return (found){0};
  return (found){&b->int4[at]->tensor, b->int4[at], b->int4_problems[at]};
}

static found find_tensor(binder *b, const ir_weight *weight, const rt_layer_shape *shape, int source, int64_t index) {
  dp_str_clear(&b->name);
  rt_tensor_name(&b->name, weight->sources[source].pattern, weight, shape, index);
  if (b->name.failed) return (found){0};
  const rt_tensor *tensor = rt_weights_find(b->file, b->name.text);
  return tensor ? (found){.tensor = tensor} : find_int4(b, b->name.text);
}

static void mark_used(binder *b, const found *f) {
  const rt_tensor *parts[] = {f->tensor, NULL, NULL, NULL};
  if (f->int4)
    parts[0] = f->int4->words, parts[1] = f->int4->zeros, parts[2] = f->int4->scales, parts[3] = f->int4->groups;
  for (size_t i = 0; i < DP_COUNT(parts); i++)
    if (parts[i]) b->used[parts[i] - b->file->tensors] = true;
}

/* The source under which the file has most of the weight; -1 when it has none of it under any. */
static int choose_source(binder *b, const ir_weight *weight, const rt_layer_shape *shape) {
  int best = -1;
  int64_t most = 0;
  for (int source = 0; source < weight->source_count; source++) {
    rt_pattern pattern = rt_pattern_of(weight->sources[source].pattern, weight, shape);
    int64_t there = 0;
    for (int64_t index = 0; index < shape->count; index += pattern.lead)
      there += find_tensor(b, weight, shape, source, index).tensor ? pattern.lead : 0;
    if (there > most) most = there, best = source;
  }
  return best;
}

/* ---- where in the tensor a matrix lies --------------------------------------------------------------------------- */

/* A tensor as rows of cols elements, of which the weight's matrices hold `unit` each, one after another, through the
 * source's window. Of a transposed tensor: the slab of one matrix, its columns. Of a vector: rows of one element, or
 * the tensor's rows as they are when those have the vector's length. */
typedef struct layout {
  int64_t total, unit, origin; /* rows of the tensor, of a matrix, before this matrix */
  int64_t slab;                /* bytes before this matrix's slab */
  bool by_element;             /* rows are single elements */
} layout;

static int64_t all_but_last(const rt_tensor *tensor) {
  int64_t rows = 1;
  for (int i = 0; i + 1 < tensor->rank; i++) rows *= tensor->dims[i];
  return rows;
}

static bool same_dims(const rt_tensor *tensor, const int64_t *lead, int lead_rank, const int64_t *dims, int rank) {
  if (tensor->rank != lead_rank + rank) return false;
  for (int i = 0; i < tensor->rank; i++)
    if (tensor->dims[i] != (i < lead_rank ? lead[i] : dims[i - lead_rank])) return false;
  return true;
}

static bool lay_out_transposed(const rt_tensor *tensor, const ir_source *source, const rt_layer_shape *shape,
                               const rt_pattern *pattern, int64_t index, layout *l) {
  if (tensor->rank < 2) return false;
  l->total = tensor->dims[tensor->rank - 1];
  int64_t dims[2] = {shape->cols, source->run > 0 ? l->total : shape->rows};
  int64_t flat[2] = {pattern->lead * shape->cols, dims[1]};
  if (!same_dims(tensor, pattern->lead_dims, pattern->lead_rank, dims, 2) && !same_dims(tensor, NULL, 0, flat, 2))
    return false;
  l->slab = index * shape->cols * rt_row_bytes(tensor->dtype, l->total);
  return true;
}

static bool lay_out(const rt_tensor *tensor, const ir_source *source, const rt_layer_shape *shape,
                    const rt_pattern *pattern, int64_t index, layout *l) {
  bool vector = shape->rank < 2;
  int64_t last = tensor->rank > 0 ? tensor->dims[tensor->rank - 1] : 1;
  *l = (layout){.unit = shape->rows};
  if (source->transposed) return lay_out_transposed(tensor, source, shape, pattern, index, l);
  l->by_element = vector && !(tensor->rank > 1 && last == shape->cols);
  if (l->by_element) l->unit = shape->cols;
  l->origin = index * l->unit;
  l->total = l->by_element ? tensor->elements : all_but_last(tensor);
  if (source->run > 0) return l->by_element || (last == shape->cols && tensor->rank > 1);
  if (same_dims(tensor, pattern->lead_dims, pattern->lead_rank, shape->dims, shape->rank)) return true;
  /* Several matrices in one tensor may also lie there as one matrix, several vectors as one. */
  int64_t flat[2] = {pattern->lead * (vector ? shape->cols : shape->rows), shape->cols};
  return pattern->lead_rank > 0 && shape->rank > 0 && same_dims(tensor, NULL, 0, flat, vector ? 1 : 2);
}

static void describe_shape(dp_str *problem, const rt_layer_shape *shape, const rt_pattern *pattern, bool transposed) {
  int64_t dims[RT_MAX_RANK + 2];
  int rank = 0;
  for (int i = 0; i < pattern->lead_rank; i++) dims[rank++] = pattern->lead_dims[i];
  for (int i = 0; i < shape->rank && !transposed; i++) dims[rank++] = shape->dims[i];
  if (transposed) dims[rank++] = shape->cols, dims[rank++] = shape->rows;
  rt_print_shape(problem, dims, rank);
}

static void add_readable_types(dp_str *problem) {
  const char *separator = "";
  for (int i = 0; i < IR_DTYPE_COUNT; i++) {
    if (i == IR_i32) continue;
    dp_str_addf(problem, "%s%s", separator, ir_dtype_name((ir_dtype)i));
    separator = ", ";
  }
}

/* What is wrong with the source itself, whatever the tensor; NULL when nothing is. */
static const char *wrong_source(const ir_source *source, const rt_layer_shape *shape) {
  bool vector = shape->rank < 2;
  int64_t heads = source->paired, rows = vector ? shape->cols : shape->rows;
  if (heads < 0 || (heads > 0 && rows % heads != 0) || (heads > 0 && rows / heads % 2 != 0))
    return "its rows do not divide into the rotation pairs of its heads";
  if (source->first < 0 || source->run < 0 || (source->run > 0 && source->step < source->run))
    return "its window of rows is none";
  if (source->transposed && vector) return "a vector cannot be transposed";
  if (source->plus != 0 && !vector) return "only to a vector something is added";
  return NULL;
}

/* The bound whose rows lie as `l` says, its window taken away where it is but an offset. */
static void place_bound(const found *f, const ir_source *source, const layout *l, rt_bound *bound) {
  const rt_tensor *tensor = f->tensor;
  int64_t block = ir_dtype_block_elements(tensor->dtype), first, last;
  int64_t row_bytes = rt_row_bytes(tensor->dtype, source->transposed ? l->total : bound->cols);
  int64_t unit_bytes = source->transposed || l->by_element ? ir_dtype_block_bytes(tensor->dtype) : row_bytes;
  bound->dtype = tensor->dtype;
  bound->row_bytes = row_bytes;
  bound->transposed = source->transposed;
  bound->int4 = f->int4;
  bound->tensor = f->int4 ? NULL : tensor;
  bound->data = f->int4 ? NULL : tensor->data + l->slab;
  rt_window_place(source, l->origin, &first);
  rt_window_place(source, l->origin + l->unit - 1, &last);
  bool straight = last - first == l->unit - 1;
  if (straight && !f->int4 && (block == 1 || !(source->transposed || l->by_element))) {
    bound->data += first * unit_bytes;
  } else {
    bound->origin = straight ? 0 : l->origin;
    bound->run = straight ? l->unit : source->run;
    bound->step = straight ? l->unit : source->step;
    bound->first = straight ? first : source->first;
  }
  bound->plain = bound->data && !bound->transposed && !bound->run && bound->paired_heads == 0 && bound->plus == 0;
}

/* Binds one matrix, or says in `problem` why not; the same words for the same trouble in another layer. */
static void bind_layer(binder *b, const ir_weight *weight, const rt_layer_shape *shape, int number, int64_t index,
                       rt_bound *bound, dp_str *problem) {
  const ir_source *source = &weight->sources[number];
  rt_pattern pattern = rt_pattern_of(source->pattern, weight, shape);
  found f = find_tensor(b, weight, shape, number, index);
  const rt_tensor *tensor = f.tensor;
  const char *wrong = wrong_source(source, shape);
  layout l;
  int64_t last;
  if (!tensor) {
    dp_str_addf(problem, "no tensor '%s'", source->pattern);
    return;
  }
  mark_used(b, &f);
  if (f.problem) {
    dp_str_addf(problem, "tensor '%s' is %s", source->pattern, f.problem);
  } else if (!tensor->supported || tensor->dtype == IR_i32) {
    dp_str_addf(problem, "tensor '%s' is of type %s, dipper reads weights of ", source->pattern, tensor->type_name);
    add_readable_types(problem);
    dp_str_add(problem, ": convert it");
  } else if (wrong) {
    dp_str_add(problem, wrong);
  } else if (source->transposed && (ir_dtype_block_elements(tensor->dtype) != 1 || f.int4)) {
    dp_str_addf(problem, "tensor '%s' is of type %s, which cannot be read transposed", source->pattern,
                tensor->type_name);
  } else if (!lay_out(tensor, source, shape, &pattern, index % pattern.lead, &l)) {
    dp_str_addf(problem, "tensor '%s' has shape ", source->pattern);
    rt_print_shape(problem, tensor->dims, tensor->rank);
    dp_str_addf(problem, ", the model wants %s", source->run > 0 ? "rows of it for " : "");
    describe_shape(problem, shape, &pattern, source->transposed);
  } else if (!rt_window_place(source, l.origin + l.unit - 1, &last) || last >= l.total) {
    dp_str_addf(problem, "tensor '%s' has %" PRId64 " %s, the model wants %" PRId64 " of it from %" PRId64 " on",
                source->pattern, l.total,
                l.by_element         ? "elements"
                : source->transposed ? "columns"
                                     : "rows",
                pattern.lead * l.unit, source->first);
  } else {
    *bound = (rt_bound){.rows = shape->rows,
                        .cols = shape->cols,
                        .vector = shape->rank < 2,
                        .paired_heads = source->paired,
                        .plus = (float)source->plus};
    place_bound(&f, source, &l, bound);
  }
}

static void add_suggestion(binder *b, const char *name) {
  int count = b->file->tensor_count < MAX_SUGGESTIONS ? b->file->tensor_count : MAX_SUGGESTIONS;
  const char **names = malloc(sizeof *names * ((size_t)count + 1));
  if (!names) return;
  for (int i = 0; i < count; i++) names[i] = b->file->tensors[i].name;
  const char *nearest = dp_nearest_name(name, names, count);
  if (nearest) dp_str_addf(&b->problems, " (did you mean '%s'?)", nearest);
  free(names);
}

static void report_absent(binder *b, const ir_weight *weight, const rt_layer_shape *shape) {
  dp_str_addf(&b->problems, "\n  %s: ", weight->name);
  if (weight->source_count == 0) dp_str_add(&b->problems, "the model does not say what it is called in files");
  for (int i = 0; i < weight->source_count; i++)
    dp_str_addf(&b->problems, "%s'%s'",
                i == 0                          ? "no tensor "
                : i + 1 == weight->source_count ? " or "
                                                : ", ",
                weight->sources[i].pattern);
  if (weight->source_count > 0 && b->file->tensor_count > 0) {
    const ir_source *source = &weight->sources[b->file->format == RT_GGUF ? weight->source_count - 1 : 0];
    dp_str_clear(&b->name);
    rt_tensor_name(&b->name, source->pattern, weight, shape, 0);
    if (!b->name.failed) add_suggestion(b, b->name.text);
  }
}

static void add_place(dp_str *out, const ir_weight *weight, const rt_layer_shape *shape, int64_t index) {
  dp_str_addf(out, "%" PRId64, weight->first_layer + index / shape->inner);
  if (weight->stack > 1) dp_str_addf(out, ".%" PRId64, index % shape->inner);
}

static void report_layers(binder *b, const ir_weight *weight, const rt_layer_shape *shape, int64_t first, int64_t last,
                          const char *problem) {
  dp_str_addf(&b->problems, "\n  %s", weight->name);
  if (weight->stack) {
    dp_str_add(&b->problems, first == last ? ", layer " : ", layers ");
    add_place(&b->problems, weight, shape, first);
    if (first != last) {
      dp_str_addc(&b->problems, '-');
      add_place(&b->problems, weight, shape, last);
    }
  }
  dp_str_addf(&b->problems, ": %s", problem);
}

static void bind_found(binder *b, int index, const rt_layer_shape *shape, int source) {
  const ir_weight *weight = &b->module->weights[index];
  rt_bound *layers = DP_NEW_ARRAY(b->binding->arena, rt_bound, shape->count);
  dp_str current = {0}, problem = {0};
  int64_t begin = 0, bad = 0; /* of the layers that share `current`; how many have a problem */
  for (int64_t layer = 0;; layer++) {
    bool end = layer == shape->count || bad == MAX_BAD_LAYERS;
    dp_str_clear(&problem);
    if (!end) bind_layer(b, weight, shape, source, layer, &layers[layer], &problem);
    bad += problem.length > 0;
    if (!end && layer > 0 && current.length == problem.length &&
        (problem.length == 0 || memcmp(current.text, problem.text, problem.length) == 0))
      continue;
    if (current.length > 0) report_layers(b, weight, shape, begin, layer - 1, current.text);
    if (end) break;
    dp_str swap = current;
    current = problem, problem = swap, begin = layer;
  }
  if (current.failed || problem.failed) b->problems.failed = true;
  dp_str_free(&current);
  dp_str_free(&problem);
  b->binding->weights[index].layers = layers; /* with holes when there were problems: the binding is then dropped */
  b->binding->weights[index].layer_count = shape->count;
}

/* The number everywhere: one piece of memory for all layers. */
static void fill_weight(binder *b, int index, const rt_layer_shape *shape) {
  const ir_weight *weight = &b->module->weights[index];
  rt_bound_weight *bound = &b->binding->weights[index];
  int64_t elements = shape->rows * shape->cols;
  float *values = DP_NEW_ARRAY(b->binding->arena, float, elements);
  for (int64_t i = 0; i < elements; i++) values[i] = (float)weight->fill;
  bound->layers = DP_NEW_ARRAY(b->binding->arena, rt_bound, shape->count);
  for (int64_t i = 0; i < shape->count; i++)
    bound->layers[i] = (rt_bound){.data = (const uint8_t *)values,
                                  .dtype = IR_f32,
                                  .plain = true,
                                  .vector = shape->rank < 2,
                                  .rows = shape->rows,
                                  .cols = shape->cols,
                                  .row_bytes = rt_row_bytes(IR_f32, shape->cols)};
  bound->layer_count = shape->count;
  bound->filled = true;
}

static void bind_weight(binder *b, int index) {
  const ir_weight *weight = &b->module->weights[index];
  rt_layer_shape shape;
  const char *why;
  if (!rt_layer_shape_of(weight, &shape, &why)) {
    dp_str_addf(&b->problems, "\n  %s: the weight %s", weight->name, why);
    return;
  }
  int source = choose_source(b, weight, &shape);
  if (source >= 0)
    bind_found(b, index, &shape, source);
  else if (weight->filled && shape.rows <= MAX_FILLED && shape.rows * shape.cols <= MAX_FILLED)
    fill_weight(b, index, &shape);
  else if (!weight->optional && !weight->tied)
    report_absent(b, weight, &shape);
}

/* ---- tensors without a weight ------------------------------------------------------------------------------------ */

static bool is_harmless(const rt_tensor *tensor) {
  static const char *const names[] = {"rope_freqs.weight", "rotary_emb.inv_freq", ".attn_rot_embd.weight",
                                      ".attn.masked_bias"};
  size_t length = strlen(tensor->name);
  for (size_t i = 0; i < DP_COUNT(names); i++) {
    size_t n = strlen(names[i]);
    if (length >= n && strcmp(tensor->name + length - n, names[i]) == 0) return true;
  }
  return tensor->rank == 4 && length >= 10 && strcmp(tensor->name + length - 10, ".attn.bias") == 0; /* GPT-2's mask */
}

/* "3 of 290 tensors are not used by the model: 'a', 'b', 'c'"; nothing when all are used. */
static void describe_unused(const binder *b, dp_str *out) {
  int unused = 0;
  for (int i = 0; i < b->file->tensor_count; i++) unused += !b->used[i] && !is_harmless(&b->file->tensors[i]);
  if (unused == 0) return;
  dp_str_addf(out, "%d of the file's %d tensors %s not used by the model: ", unused, b->file->tensor_count,
              unused == 1 ? "is" : "are");
  int shown = 0;
  for (int i = 0; i < b->file->tensor_count && shown < MAX_NAMES_SHOWN; i++)
    if (!b->used[i] && !is_harmless(&b->file->tensors[i]))
      dp_str_addf(out, "%s'%s'", shown++ ? ", " : "", b->file->tensors[i].name);
  if (unused > shown) dp_str_addf(out, " and %d more", unused - shown);
}

static dp_status conclude(binder *b, unsigned flags) {
  if (b->problems.failed || b->name.failed) return dp_fail(DP_NO_MEMORY, "no memory to bind '%s'", b->file->path);
  dp_str unused = {0};
  describe_unused(b, &unused);
  bool refused = b->problems.length > 0 || ((flags & RT_BIND_STRICT) && unused.length > 0);
  dp_status status = DP_SUCCESS;
  if (refused) {
    const char *architecture = rt_weights_architecture(b->file);
    dp_str about = {0};
    if (architecture) dp_str_addf(&about, " (the file is of architecture '%s')", architecture);
    status =
        dp_fail(DP_INVALID, "'%s' does not fit the model '%s'%s:%s%s%s", b->file->path,
                b->module->name ? b->module->name : "", about.text ? about.text : "",
                b->problems.text ? b->problems.text : "", unused.text ? "\n  " : "", unused.text ? unused.text : "");
    dp_str_free(&about);
  } else if (unused.text) {
    b->binding->note = dp_arena_strdup(b->binding->arena, unused.text);
  }
  dp_str_free(&unused);
  return status;
}

dp_status rt_bind_weights(ir_module *module, const rt_weights_file *file, unsigned flags, rt_binding **out) {
  *out = NULL;
  binder b = {.module = module, .file = file, .binding = rt_binding_new(module->weight_count)};
  if (!b.binding) return dp_fail(DP_NO_MEMORY, "no memory to bind '%s'", file->path);
  b.binding->file = file;
  b.used = DP_NEW_ARRAY(b.binding->arena, bool, file->tensor_count + 1);
  b.int4 = DP_NEW_ARRAY(b.binding->arena, const rt_int4_tensor *, file->tensor_count + 1);
  b.int4_problems = DP_NEW_ARRAY(b.binding->arena, const char *, file->tensor_count + 1);
  for (int i = 0; i < module->weight_count; i++) bind_weight(&b, i);
  rt_bind_ties(module, b.binding, &b.problems);
  dp_status status = conclude(&b, flags);
  dp_str_free(&b.problems);
  dp_str_free(&b.name);
  if (status.code != DP_OK) {
    rt_binding_free(b.binding);
    return status;
  }
  rt_set_storage(module, b.binding);
  *out = b.binding;
  return DP_SUCCESS;
}
