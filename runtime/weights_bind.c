/* runtime/weights_bind.c: a module's weights x a file's tensors -> a binding: which tensor is which layer of which
 * weight. Nothing stops at the first mistake: whoever brings the wrong file or sets the wrong dimension sees all of it
 * at once, layers with the same trouble on one line. */
#include "runtime/weights_binding.h"
#include "runtime/weights_file.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_LAYERS = 1 << 16, MAX_NAMES_SHOWN = 12, MAX_SUGGESTIONS = 4096 };

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
  dp_arena_free(binding->arena);
  free(binding);
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

const char *rt_binding_note(const rt_binding *binding) { return binding->note; }

int64_t rt_head_rows(int64_t rows, int64_t cols, int64_t heads) { return (rows == 1 ? cols : rows) / heads; }

/* Element `col` of a row with blocks of several elements decodes its whole block: only 1-D weights come here. */
static float element_of(const rt_bound *bound, int64_t col) {
  float block[64];
  int64_t elements = ir_dtype_block_elements(bound->dtype);
  rt_dequantize_row(bound->dtype, bound->data + col / elements * ir_dtype_block_bytes(bound->dtype), block, elements);
  return block[col % elements];
}

void rt_bound_row(const rt_bound *bound, int64_t row, float *dst) {
  int64_t hd = bound->paired_heads > 0 ? rt_head_rows(bound->rows, bound->cols, bound->paired_heads) : 0;
  if (hd && bound->rows == 1) {
    for (int64_t i = 0; i < bound->cols; i++) dst[i] = element_of(bound, rt_paired_row(i, hd));
    return;
  }
  if (hd) row = rt_paired_row(row, hd);
  rt_dequantize_row(bound->dtype, bound->data + row * bound->row_bytes, dst, bound->cols);
}

void rt_bound_to_f32(const rt_bound *bound, float *dst) {
  for (int64_t row = 0; row < bound->rows; row++) rt_bound_row(bound, row, dst + row * bound->cols);
}

bool rt_layer_shape_of(const ir_weight *weight, rt_layer_shape *shape, const char **why) {
  const ir_type *type = &weight->type;
  int first = weight->stack ? 1 : 0;
  *shape = (rt_layer_shape){.layers = 1, .rows = 1, .cols = 1, .rank = type->rank - first};
  int64_t size = 1;
  *why = NULL;
  if (shape->rank < 0) *why = "is stacked, but has no layer dimension";
  for (int i = 0; i < type->rank && !*why; i++) {
    if (!ir_dim_is_static(type->dims[i]))
      *why = "has a dimension that is not fixed";
    else if (type->dims[i].add < 1)
      *why = "has a dimension below 1";
    else if (__builtin_mul_overflow(size, type->dims[i].add, &size) || size > INT64_MAX / 16)
      *why = "is too large";
    else if (i < first)
      shape->layers = type->dims[i].add;
    else if (i == type->rank - 1)
      shape->cols = type->dims[i].add;
    else
      shape->rows *= type->dims[i].add;
    if (i >= first) shape->dims[i - first] = type->dims[i].add;
  }
  if (!*why && shape->layers > MAX_LAYERS) *why = "has more than 65536 layers";
  return !*why;
}

const char *rt_layer_name(dp_arena *arena, const char *pattern, int64_t layer) {
  const char *hole = strstr(pattern, "{}");
  if (!hole) return dp_arena_strdup(arena, pattern);
  return dp_arena_printf(arena, "%.*s%" PRId64 "%s", (int)(hole - pattern), pattern, layer, hole + 2);
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
  bool *used; /* per tensor of the file */
  dp_str problems;
} binder;

/* The tensor of `layer` under a pattern; `slice`: it is one tensor for all layers. */
static const rt_tensor *find_layer(const binder *b, const ir_weight *weight, int source, int64_t layer, bool *slice) {
  const char *pattern = weight->sources[source].pattern;
  *slice = weight->stack && !strstr(pattern, "{}");
  dp_str name = {0};
  const char *hole = *slice ? NULL : strstr(pattern, "{}");
  if (hole) {
    dp_str_addn(&name, pattern, (size_t)(hole - pattern));
    dp_str_addf(&name, "%" PRId64 "%s", layer, hole + 2);
  }
  const rt_tensor *tensor = rt_weights_find(b->file, hole && name.text ? name.text : pattern);
  dp_str_free(&name);
  return tensor;
}

/* The source under which the file has most layers; -1 when it has none under any. */
static int choose_source(const binder *b, const ir_weight *weight, int64_t layers) {
  int best = -1;
  int64_t most = 0;
  for (int source = 0; source < weight->source_count; source++) {
    int64_t found = 0;
    bool slice;
    for (int64_t layer = 0; layer < layers; layer++) found += find_layer(b, weight, source, layer, &slice) != NULL;
    if (found > most) most = found, best = source;
  }
  return best;
}

static bool same_shape(const rt_tensor *tensor, const rt_layer_shape *shape, bool slice) {
  int first = slice ? 1 : 0;
  if (tensor->rank != shape->rank + first || (slice && tensor->dims[0] != shape->layers)) return false;
  for (int i = 0; i < shape->rank; i++)
    if (tensor->dims[i + first] != shape->dims[i]) return false;
  return true;
}

/* Binds one layer, or says in `problem` why not; the same words for the same trouble in another layer. */
static void bind_layer(binder *b, const ir_weight *weight, const rt_layer_shape *shape, int source, int64_t layer,
                       rt_bound *bound, dp_str *problem) {
  bool slice;
  const char *pattern = weight->sources[source].pattern;
  const rt_tensor *tensor = find_layer(b, weight, source, layer, &slice);
  int64_t heads = weight->sources[source].paired;
  if (!tensor) {
    dp_str_addf(problem, "no tensor '%s'", pattern);
    return;
  }
  b->used[tensor - b->file->tensors] = true;
  if (!tensor->supported || tensor->dtype == IR_i32) {
    dp_str_addf(problem,
                "tensor '%s' is of type %s, dipper reads weights of f32, f16, bf16, q8_0, q4_0, q4_1: convert it",
                pattern, tensor->type_name);
  } else if (!same_shape(tensor, shape, slice)) {
    dp_str_addf(problem, "tensor '%s' has shape ", pattern);
    rt_print_shape(problem, tensor->dims, tensor->rank);
    dp_str_add(problem, ", the model wants ");
    rt_print_shape(problem, shape->dims, shape->rank);
    if (slice) dp_str_addf(problem, " for each of %" PRId64 " layers", shape->layers);
  } else if (heads < 0 || (heads > 0 && (shape->rows == 1 ? shape->cols : shape->rows) % (2 * heads) != 0)) {
    dp_str_addf(problem, "its rows do not divide into rotation pairs of %" PRId64 " heads", heads);
  } else {
    *bound = (rt_bound){.dtype = tensor->dtype,
                        .rows = shape->rows,
                        .cols = shape->cols,
                        .row_bytes = rt_row_bytes(tensor->dtype, shape->cols),
                        .paired_heads = heads,
                        .tensor = tensor};
    bound->data = tensor->data + (slice ? layer * bound->rows * bound->row_bytes : 0);
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

static void report_absent(binder *b, const ir_weight *weight) {
  dp_str_addf(&b->problems, "\n  %s: ", weight->name);
  if (weight->source_count == 0) dp_str_add(&b->problems, "the model does not say what it is called in files");
  for (int i = 0; i < weight->source_count; i++)
    dp_str_addf(&b->problems, "%s'%s'",
                i == 0                          ? "no tensor "
                : i + 1 == weight->source_count ? " or "
                                                : ", ",
                weight->sources[i].pattern);
  if (weight->source_count > 0 && b->file->tensor_count > 0) {
    dp_arena *arena = dp_arena_new();
    if (!arena) return;
    add_suggestion(b,
                   rt_layer_name(arena, weight->sources[b->file->format == RT_GGUF ? weight->source_count - 1 : 0].pattern, 0));
    dp_arena_free(arena);
  }
}

static void report_layers(binder *b, const ir_weight *weight, int64_t first, int64_t last, const char *problem) {
  dp_str_addf(&b->problems, "\n  %s", weight->name);
  if (weight->stack && first == last) dp_str_addf(&b->problems, ", layer %" PRId64, first);
  if (weight->stack && first != last) dp_str_addf(&b->problems, ", layers %" PRId64 "-%" PRId64, first, last);
  dp_str_addf(&b->problems, ": %s", problem);
}

static void bind_weight(binder *b, int index) {
  const ir_weight *weight = &b->module->weights[index];
  rt_layer_shape shape;
  const char *why;
  if (!rt_layer_shape_of(weight, &shape, &why)) {
    dp_str_addf(&b->problems, "\n  %s: the weight %s", weight->name, why);
    return;
  }
  int source = choose_source(b, weight, shape.layers);
  if (source < 0) {
    if (!weight->optional && !weight->tied) report_absent(b, weight);
    return;
  }
  rt_bound *layers = DP_NEW_ARRAY(b->binding->arena, rt_bound, shape.layers);
  dp_str current = {0}, problem = {0};
  int64_t begin = 0; /* of the layers that share `current` */
  for (int64_t layer = 0; layer <= shape.layers; layer++) {
    dp_str_clear(&problem);
    if (layer < shape.layers) bind_layer(b, weight, &shape, source, layer, &layers[layer], &problem);
    if (layer < shape.layers && layer > 0 && current.length == problem.length &&
        (problem.length == 0 || memcmp(current.text, problem.text, problem.length) == 0))
      continue;
    if (current.length > 0) report_layers(b, weight, begin, layer - 1, current.text);
    dp_str swap = current;
    current = problem, problem = swap, begin = layer;
  }
  if (current.failed || problem.failed) b->problems.failed = true;
  dp_str_free(&current);
  dp_str_free(&problem);
  b->binding->weights[index].layers = layers; /* with holes when there were problems: the binding is then dropped */
  b->binding->weights[index].layer_count = shape.layers;
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
  if (b->problems.failed) return dp_fail(DP_NO_MEMORY, "no memory to bind '%s'", b->file->path);
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
  b.used = DP_NEW_ARRAY(b.binding->arena, bool, file->tensor_count + 1);
  for (int i = 0; i < module->weight_count; i++) bind_weight(&b, i);
  rt_bind_ties(module, b.binding, &b.problems);
  dp_status status = conclude(&b, flags);
  dp_str_free(&b.problems);
  if (status.code != DP_OK) {
    rt_binding_free(b.binding);
    return status;
  }
  rt_set_storage(module, b.binding);
  *out = b.binding;
  return DP_SUCCESS;
}
