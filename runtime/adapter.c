/* runtime/adapter.c: PEFT's adapter folders, in and out. Which weights an adapter stands beside is read from the names of its
 * tensors; the config gives what those do not show: alphas, and kinds of adapters that are others. */
#include "runtime/adapter.h"
#include "runtime/weights_binding.h"

#include <inttypes.h>
#include <jansson.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CONFIG "adapter_config.json"
#define MATRICES "adapter_model.safetensors"
#define PREFIX "base_model.model." /* of every tensor's name */

enum { MAX_CONFIG = 16 << 20 };

static dp_status join(char path[PATH_MAX], const char *directory, const char *name) {
  if ((size_t)snprintf(path, PATH_MAX, "%s/%s", directory, name) >= PATH_MAX)
    return dp_fail(DP_INVALID, "path too long: '%s/%s'", directory, name);
  return DP_SUCCESS;
}

bool rt_is_adapter(const char *directory) {
  char path[PATH_MAX];
  dp_file_stamp stamp;
  return (size_t)snprintf(path, sizeof path, "%s/" CONFIG, directory) < sizeof path && dp_stamp_file(path, &stamp);
}

/* ---- names: module patterns, with "{}" for the layer */

/* Is `end` all of `name`, or its last components? As PEFT compares names of targets. */
static bool ends_in(const char *name, const char *end) {
  size_t n = strlen(name), m = strlen(end);
  return n >= m && strcmp(name + n - m, end) == 0 && (n == m || name[n - m - 1] == '.');
}

/* The module pattern of every weight; NULL for those that cannot have an adapter. */
static const char **name_modules(const ir_module *module, int count, dp_arena *arena) {
  const char **names = DP_NEW_ARRAY(arena, const char *, count + 1);
  for (int i = 0; i < count; i++) {
    dp_str name = {0};
    dp_status status = ir_name_adapted(&module->weights[i], &name);
    if (status.code == DP_OK) names[i] = dp_arena_strdup(arena, name.text);
    dp_status_free(&status);
    dp_str_free(&name);
  }
  return names;
}

static int64_t layers_of(const ir_weight *weight) { return weight->stack ? weight->type.dims[0].add : 1; }

/* The pattern with the number of layer `index`. */
static void number_module(dp_str *out, const char *pattern, const ir_weight *weight, int64_t index) {
  const char *hole = weight->stack ? strstr(pattern, "{}") : NULL;
  dp_str_clear(out);
  dp_str_addn(out, pattern, hole ? (size_t)(hole - pattern) : strlen(pattern));
  if (hole) dp_str_addf(out, "%" PRId64 "%s", weight->first_layer + index, hole + 2);
}

/* ---- reading */

static dp_status read_config(const char *directory, json_t **config) {
  char path[PATH_MAX], *text;
  size_t length;
  json_error_t error;
  dp_file_stamp stamp;
  DP_TRY(join(path, directory, CONFIG));
  if (!dp_stamp_file(path, &stamp))
    return dp_fail(DP_NOT_FOUND, "'%s' has no " CONFIG ": a folder that PEFT or `dipper train` wrote is wanted", directory);
  if (stamp.size > MAX_CONFIG) return dp_fail(DP_INVALID, "'%s' has %" PRIu64 " bytes: it is none", path, stamp.size);
  DP_TRY(dp_read_file(path, &text, &length));
  *config = json_loadb(text, length, JSON_REJECT_DUPLICATES, &error);
  free(text);
  if (!*config) return dp_fail(DP_INVALID, "'%s' at line %d, byte %d: %s", path, error.line, error.position, error.text);
  if (json_is_object(*config)) return DP_SUCCESS;
  json_decref(*config);
  return dp_fail(DP_INVALID, "'%s' is no JSON object", path);
}

static bool is_set(const json_t *config, const char *key) {
  const json_t *value = json_object_get(config, key);
  return value && !json_is_null(value) && !json_is_false(value) && !(json_is_array(value) && !json_array_size(value)) &&
         !(json_is_object(value) && !json_object_size(value));
}

/* What changes more than two matrices beside a product do. */
static dp_status check_config(const char *directory, const json_t *config) {
  static const char *const others[] = {"use_dora", "lora_bias", "megatron_config", "target_parameters",
                                       "trainable_token_indices", "alora_invocation_tokens", "use_qalora", "layer_replication",
                                       "use_bdlora", "arrow_config", "kasa_config", "monteclora_config", "velora_config"};
  const char *kind = json_string_value(json_object_get(config, "peft_type"));
  const char *bias = json_string_value(json_object_get(config, "bias"));
  const char *begin = json_string_value(json_object_get(config, "init_lora_weights"));
  if (!kind || strcmp(kind, "LORA") != 0)
    return dp_fail(DP_UNSUPPORTED, "'%s/" CONFIG "' is of an adapter of kind %s: LORA is carried out", directory, kind ? kind : "none");
  if (bias && strcmp(bias, "none") != 0)
    return dp_fail(DP_UNSUPPORTED, "'%s/" CONFIG "' has \"bias\": \"%s\": none is carried out", directory, bias);
  for (size_t i = 0; i < DP_COUNT(others); i++)
    if (is_set(config, others[i]))
      return dp_fail(DP_UNSUPPORTED, "'%s/" CONFIG "' has %s, which is not carried out", directory, others[i]);
  static const char *const changing[] = {"pissa", "olora", "corda", "loftq"}; /* of the model's own weights */
  for (size_t i = 0; begin && i < DP_COUNT(changing); i++)
    if (strncmp(begin, changing[i], strlen(changing[i])) == 0)
      return dp_fail(DP_UNSUPPORTED, "'%s' was begun with %s, which changes the model's own weights: let PEFT convert it to plain LoRA",
                     directory, begin);
  return DP_SUCCESS;
}

/* Alpha of a module: that of the first pattern that it ends in, else everybody's. */
static dp_status find_alpha(const char *directory, const json_t *config, const char *module, double *alpha) {
  const json_t *all = json_object_get(config, "lora_alpha"), *value;
  const char *key;
  bool found = false;
  *alpha = json_is_number(all) ? json_number_value(all) : 8;
  json_object_foreach((json_t *)(uintptr_t)json_object_get(config, "alpha_pattern"), key, value) {
    if (strpbrk(key, "*+?[](){}|^$\\"))
      return dp_fail(DP_UNSUPPORTED, "'%s/" CONFIG "': the pattern '%s' of alphas is an expression: names of modules are read", directory,
                     key);
    if (found || !ends_in(module, key) || !json_is_number(value)) continue;
    *alpha = json_number_value(value);
    found = true;
  }
  if (isfinite(*alpha)) return DP_SUCCESS;
  return dp_fail(DP_INVALID, "'%s/" CONFIG "': alpha of '%s' is %g", directory, module, *alpha);
}

typedef struct reading {
  const char *directory;
  const json_t *config;
  const rt_weights_file *file;
  dp_str name, tensor;
} reading;

/* What stands beside one weight, if anything: of all layers the same. What is missing or misshapen is found when it is bound. */
static dp_status find_adaptation(reading *r, const ir_weight *weight, const char *pattern, ir_adaptation *how) {
  bool first = true;
  for (int64_t layer = 0; layer < layers_of(weight); layer++) {
    double alpha;
    number_module(&r->name, pattern, weight, layer);
    dp_str_clear(&r->tensor);
    dp_str_addf(&r->tensor, PREFIX "%s.lora_A.weight", r->name.text ? r->name.text : "");
    if (r->name.failed || r->tensor.failed) return dp_fail(DP_NO_MEMORY, "no memory to read '%s'", r->directory);
    const rt_tensor *a = rt_weights_find(r->file, r->tensor.text);
    if (!a) continue;
    if (a->rank != 2 || a->dims[0] < 1 || a->dims[0] > INT_MAX)
      return dp_fail(DP_INVALID, "'%s': tensor '%s' is no matrix", rt_weights_path(r->file), a->name);
    DP_TRY(find_alpha(r->directory, r->config, r->name.text, &alpha));
    if (!first && alpha != how->alpha)
      return dp_fail(DP_UNSUPPORTED, "'%s': alpha of '%s' is %g in one layer and %g in another: one for all is carried out", r->directory,
                     weight->name, how->alpha, alpha);
    if (!first) continue;
    first = false;
    how->rank = (int)a->dims[0];
    how->alpha = alpha;
    how->scale = alpha / (is_set(r->config, "use_rslora") ? sqrt(how->rank) : how->rank);
  }
  return DP_SUCCESS;
}

/* Has the file the weight itself, of any layer? */
static bool has_whole(reading *r, const ir_weight *weight) {
  for (int64_t layer = 0; weight->source_count && weight->stack < 2 && layer < layers_of(weight); layer++) {
    number_module(&r->name, weight->sources[0].pattern, weight, layer);
    dp_str_clear(&r->tensor);
    dp_str_addf(&r->tensor, PREFIX "%s", r->name.text ? r->name.text : "");
    if (r->tensor.text && rt_weights_find(r->file, r->tensor.text)) return true;
  }
  return false;
}

static dp_status find_adaptations(reading *r, const ir_module *module, ir_adaptation *how) {
  dp_arena *arena = dp_arena_new();
  if (!arena) return dp_fail(DP_NO_MEMORY, "no memory to read '%s'", r->directory);
  const char **names = name_modules(module, module->weight_count, arena);
  dp_status status = DP_SUCCESS;
  bool any = false;
  for (int i = 0; i < module->weight_count && status.code == DP_OK; i++) {
    how[i] = (ir_adaptation){0};
    how[i].whole = has_whole(r, &module->weights[i]);
    if (names[i]) status = find_adaptation(r, &module->weights[i], names[i], &how[i]);
    any |= how[i].rank > 0;
  }
  dp_arena_free(arena);
  if (status.code == DP_OK && !any)
    status = dp_fail(DP_INVALID, "'%s' stands beside no weight of model %s: its first tensor is '%s'", r->directory, module->name,
                     rt_weights_tensor_count(r->file) ? rt_weights_tensor(r->file, 0)->name : "none");
  return status;
}

static dp_status open_matrices(const char *directory, rt_weights_file **file) {
  char path[PATH_MAX];
  dp_file_stamp stamp;
  DP_TRY(join(path, directory, MATRICES));
  if (dp_stamp_file(path, &stamp)) return rt_weights_open(path, file);
  return dp_fail(DP_NOT_FOUND, "'%s' has no " MATRICES ": let PEFT save it with safe_serialization", directory);
}

dp_status rt_adapter_open(const char *directory, const ir_module *module, ir_adaptation *how, rt_weights_file **file) {
  json_t *config = NULL;
  rt_weights_file *opened = NULL;
  dp_status status = read_config(directory, &config);
  if (status.code != DP_OK) return status;
  status = check_config(directory, config);
  if (status.code == DP_OK) status = open_matrices(directory, &opened);
  reading r = {.directory = directory, .config = config, .file = opened};
  if (status.code == DP_OK) status = find_adaptations(&r, module, how);
  dp_str_free(&r.name);
  dp_str_free(&r.tensor);
  json_decref(config);
  if (status.code == DP_OK)
    *file = opened;
  else
    rt_weights_close(opened);
  return status;
}

/* ---- in memory */

/* What an adapter's file holds, as a module of its own: weights that are whole, under the file's names, then the thin ones. */
typedef struct contents {
  dp_arena *arena;
  ir_module module;
  int *of; /* [module.weight_count] which of the model's weights each is */
  int whole;
} contents;

static dp_status list_contents(const ir_module *module, int first, const ir_adaptation *how, contents *c) {
  *c = (contents){.arena = dp_arena_new(), .module = {.name = module->name}};
  if (!c->arena) return dp_fail(DP_NO_MEMORY, "no memory for an adapter");
  c->module.arena = c->arena;
  c->module.weights = DP_NEW_ARRAY(c->arena, ir_weight, module->weight_count);
  c->of = DP_NEW_ARRAY(c->arena, int, module->weight_count);
  for (int i = 0; i < module->weight_count; i++) {
    if (i < first && !how[i].whole) continue;
    ir_weight *weight = &c->module.weights[c->module.weight_count];
    c->of[c->module.weight_count++] = i;
    *weight = module->weights[i];
    if (i >= first) continue;
    weight->sources = DP_NEW(c->arena, ir_source);
    weight->sources[0] = module->weights[i].sources[0];
    weight->sources[0].pattern = dp_arena_printf(c->arena, PREFIX "%s", weight->sources[0].pattern);
    weight->source_count = 1;
    weight->tied = NULL;
    weight->optional = weight->filled = false;
    c->whole++;
  }
  return DP_SUCCESS;
}

/* As ir_declare_adapters made them: their generator counts from the first one. */
static dp_status bind_new(ir_module *module, int first, uint64_t seed, rt_binding *binding) {
  ir_module adapters = {.arena = module->arena, .name = module->name, .weights = module->weights + first,
                        .weight_count = module->weight_count - first};
  rt_binding *more;
  DP_TRY(rt_bind_new_adapter(&adapters, seed, &more));
  rt_binding_append(binding, more, 0);
  return DP_SUCCESS;
}

dp_status rt_bind_adapter(ir_module *module, int first, const ir_adaptation *how, const rt_weights_file *file, uint64_t seed,
                          rt_binding *binding) {
  contents c;
  rt_binding *more;
  if (!file) return bind_new(module, first, seed, binding);
  dp_status status = list_contents(module, first, how, &c);
  if (status.code == DP_OK) status = rt_bind_weights(&c.module, file, RT_BIND_STRICT, &more);
  for (int i = 0; status.code == DP_OK && i < c.module.weight_count; i++) {
    module->weights[c.of[i]].storage = c.module.weights[i].storage;
    if (i < c.whole) binding->weights[c.of[i]] = more->weights[i];
  }
  if (status.code == DP_OK) rt_binding_append(binding, more, c.whole);
  dp_arena_free(c.arena);
  return status;
}

/* ---- merged */

/* w[out, in] += scale * b[out, rank] a[rank, in]; sums: [in]. */
static void add_product(float *w, const rt_bound *shape, const float *a, const float *b, const ir_adaptation *how, double *sums) {
  int64_t cols = shape->cols;
  for (int64_t row = 0; row < shape->rows; row++) {
    memset(sums, 0, sizeof *sums * (size_t)cols);
    for (int j = 0; j < how->rank; j++)
      for (int64_t c = 0; c < cols; c++) sums[c] += (double)b[row * how->rank + j] * (double)a[j * cols + c];
    for (int64_t c = 0; c < cols; c++) w[row * cols + c] = (float)((double)w[row * cols + c] + how->scale * sums[c]);
  }
}

static dp_status merge_weight(const ir_weight *declared, const ir_adaptation *how, rt_bound_weight *weight, const rt_bound_weight *a,
                              const rt_bound_weight *b, float **merged, dp_arena *arena) {
  int64_t rows = weight->layers[0].rows, cols = weight->layers[0].cols, size = rows * cols, count = weight->layer_count;
  float *all = malloc(sizeof *all * (size_t)(size * count)), *thin = malloc(sizeof *thin * (size_t)((rows + cols) * how->rank));
  double *sums = malloc(sizeof *sums * (size_t)cols);
  bool made = all && thin && sums;
  rt_bound *layers = DP_NEW_ARRAY(arena, rt_bound, count);
  for (int64_t i = 0; i < count && made; i++) {
    float *w = all + i * size, *thin_b = thin + cols * how->rank;
    rt_bound_to_f32(&weight->layers[i], w);
    rt_bound_to_f32(&a->layers[i], thin);
    rt_bound_to_f32(&b->layers[i], thin_b);
    add_product(w, &weight->layers[i], thin, thin_b, how, sums);
    layers[i] = (rt_bound){.data = (const uint8_t *)w, .dtype = IR_f32, .plain = true, .rows = rows, .cols = cols, .row_bytes = cols * 4};
  }
  free(sums);
  free(thin);
  if (!made) {
    free(all);
    return dp_fail(DP_NO_MEMORY, "no memory to add an adapter to '%s'", declared->name);
  }
  weight->layers = layers;
  free(*merged); /* what was made at random */
  *merged = all;
  return DP_SUCCESS;
}

dp_status rt_adapter_merge(const ir_module *module, int first, const ir_adaptation *how, rt_binding *binding) {
  int adapter = first;
  for (int i = 0; i < first; i++) {
    rt_bound_weight *weight = &binding->weights[i];
    if (how[i].rank < 1) continue;
    for (int other = 0; other < first; other++)
      if (weight->tie == other || binding->weights[other].tie == i)
        return dp_fail(DP_UNSUPPORTED, "the adapter of '%s' cannot be added to it: in these weights '%s' has the same numbers",
                       module->weights[i].name, module->weights[other].name);
    DP_TRY(merge_weight(&module->weights[i], &how[i], weight, &binding->weights[adapter], &binding->weights[adapter + 1],
                        (float **)&binding->memory[i], binding->arena));
    adapter += 2;
  }
  return DP_SUCCESS;
}

dp_status rt_save_without_adapter(const char *path, const ir_module *module, int first, const rt_binding *binding, ir_dtype dtype) {
  ir_module own = *module;
  rt_binding view = *binding;
  own.weight_count = view.weight_count = first;
  return rt_save_weights(path, &own, &view, dtype);
}

/* ---- writing */

static bool same_adaptation(const ir_adaptation *a, const ir_adaptation *b) { return a->rank == b->rank && a->alpha == b->alpha; }

/* The fewest last components of the weight's name by which it is told from all that are adapted otherwise, or not; "{}" among
 * them when there are none without. */
static const char *shortest_target(const char *const *names, const ir_adaptation *how, int count, int weight) {
  const char *name = names[weight], *at = name + strlen(name);
  while (at > name) {
    do at--;
    while (at > name && at[-1] != '.');
    bool unique = true;
    for (int i = 0; i < count && unique; i++)
      unique = !names[i] || same_adaptation(&how[i], &how[weight]) || !ends_in(names[i], at);
    if (unique) break;
  }
  return at;
}

static json_t *number_of(double value) {
  return value == floor(value) && fabs(value) < 1e15 ? json_integer((json_int_t)value) : json_real(value);
}

static void add_target(json_t *config, const char *target, const ir_adaptation *how, const ir_adaptation *all) {
  json_t *targets = json_object_get(config, "target_modules");
  for (size_t i = 0; i < json_array_size(targets); i++)
    if (strcmp(json_string_value(json_array_get(targets, i)), target) == 0) return;
  json_array_append_new(targets, json_string(target));
  if (how->rank != all->rank)
    json_object_set_new(json_object_get(config, "rank_pattern"), target, json_integer(how->rank));
  if (how->alpha != all->alpha)
    json_object_set_new(json_object_get(config, "alpha_pattern"), target, number_of(how->alpha));
}

static void add_targets(json_t *config, const ir_module *module, int count, const ir_adaptation *how, const ir_adaptation *all,
                        dp_arena *arena) {
  const char **names = name_modules(module, count, arena);
  dp_str name = {0};
  for (int i = 0; i < count; i++) {
    if (how[i].rank < 1) continue;
    const char *target = shortest_target(names, how, count, i);
    bool numbered = strstr(target, "{}");
    for (int64_t layer = 0; layer < (numbered ? layers_of(&module->weights[i]) : 1); layer++) {
      number_module(&name, numbered ? names[i] : target, &module->weights[i], layer);
      if (!name.failed) add_target(config, name.text, &how[i], all);
    }
    if (module->weights[i].sources[0].transposed) json_object_set_new(config, "fan_in_fan_out", json_true());
  }
  dp_str_free(&name);
}

/* Modules of weights that are whole. PEFT takes for them all modules whose names end so, also within a component. */
static void add_saved(json_t *config, const ir_module *module, int count, const ir_adaptation *how, dp_arena *arena) {
  const char **names = DP_NEW_ARRAY(arena, const char *, count + 1);
  json_t *saved = json_array();
  dp_str name = {0};
  for (int i = 0; i < count; i++) {
    const char *pattern = module->weights[i].source_count ? module->weights[i].sources[0].pattern : "", *dot = strrchr(pattern, '.');
    names[i] = dp_arena_strndup(arena, pattern, dot ? (size_t)(dot - pattern) : 0);
  }
  for (int i = 0; i < count; i++) {
    if (!how[i].whole) continue;
    bool score = strcmp(names[i], "score") == 0;
    if (score) json_object_set_new(config, "task_type", json_string("SEQ_CLS"));
    const char *at = names[i] + strlen(names[i]);
    for (bool unique = false; at > names[i] && !unique;) {
      do at--;
      while (at > names[i] && at[-1] != '.');
      unique = true;
      for (int j = 0; j < count && unique; j++) {
        size_t n = strlen(names[j]), m = strlen(at);
        unique = how[j].whole || strcmp(names[j], names[i]) == 0 || n < m || strcmp(names[j] + n - m, at) != 0;
      }
    }
    bool numbered = strstr(at, "{}");
    for (int64_t layer = 0; layer < (numbered ? layers_of(&module->weights[i]) : 1); layer++) {
      number_module(&name, numbered ? names[i] : at, &module->weights[i], layer);
      bool listed = name.failed;
      for (size_t j = 0; j < json_array_size(saved) && !listed; j++)
        listed = strcmp(json_string_value(json_array_get(saved, j)), name.text) == 0;
      if (!listed) json_array_append_new(saved, json_string(name.text));
    }
  }
  dp_str_free(&name);
  if (json_array_size(saved)) json_object_set(config, "modules_to_save", saved);
  json_decref(saved);
}

static json_t *make_config(const ir_module *module, int count, const ir_adaptation *how, const char *base) {
  int first = 0;
  while (first < count && how[first].rank < 1) first++;
  dp_arena *arena = dp_arena_new();
  json_t *config = arena && first < count
                       ? json_pack("{s:s, s:s, s:s, s:i, s:o, s:f, s:s, s:[], s:{}, s:{}, s:b, s:b, s:b, s:b, s:b, s:n, s:n, s:n, s:n}",
                                   "peft_type", "LORA", "task_type", "CAUSAL_LM", "base_model_name_or_path", base, "r",
                                   how[first].rank, "lora_alpha", number_of(how[first].alpha), "lora_dropout", 0.0, "bias", "none",
                                   "target_modules", "rank_pattern", "alpha_pattern", "fan_in_fan_out", 0, "inference_mode", 1,
                                   "init_lora_weights", 1, "use_rslora", 0, "use_dora", 0, "modules_to_save", "layers_to_transform",
                                   "layers_pattern", "revision")
                       : NULL;
  if (config) add_targets(config, module, count, how, &how[first], arena);
  if (config) add_saved(config, module, count, how, arena);
  dp_arena_free(arena);
  return config;
}

/* The contents with their numbers: a view of the binding's. */
static rt_binding view_of(const contents *c, const rt_binding *binding) {
  rt_binding view = {.weights = DP_NEW_ARRAY(c->arena, rt_bound_weight, c->module.weight_count), .weight_count = c->module.weight_count};
  for (int i = 0; i < view.weight_count; i++) view.weights[i] = binding->weights[c->of[i]];
  return view;
}

static dp_status save_contents(const char *path, const contents *c, const rt_binding *binding) {
  rt_binding view = view_of(c, binding);
  return rt_save_weights(path, &c->module, &view, IR_f32);
}

dp_status rt_adapter_save(const char *directory, const ir_module *module, int first, const ir_adaptation *how,
                          const rt_binding *binding, const char *base) {
  char path[PATH_MAX];
  contents c;
  DP_TRY(join(path, directory, MATRICES));
  dp_status status = list_contents(module, first, how, &c);
  if (status.code == DP_OK) status = save_contents(path, &c, binding);
  dp_arena_free(c.arena);
  if (status.code != DP_OK) return status;
  json_t *config = make_config(module, first, how, base ? base : "");
  char *text = config ? json_dumps(config, JSON_INDENT(2) | JSON_ENSURE_ASCII | JSON_REAL_PRECISION(17)) : NULL;
  status = text ? join(path, directory, CONFIG) : dp_fail(DP_NO_MEMORY, "no memory to write '%s/" CONFIG "'", directory);
  if (status.code == DP_OK) status = dp_write_file_atomic(path, text, strlen(text));
  free(text);
  json_decref(config);
  return status;
}

uint64_t rt_adapter_bytes(const ir_module *module, int first, const ir_adaptation *how, const rt_binding *binding) {
  contents c;
  uint64_t bytes = 0;
  dp_status status = list_contents(module, first, how, &c);
  if (status.code == DP_OK) {
    rt_binding view = view_of(&c, binding);
    bytes = rt_saved_bytes(&c.module, &view, IR_f32);
  }
  dp_arena_free(c.arena);
  dp_status_free(&status);
  return bytes;
}
