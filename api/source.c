/* api/source.c: a model's text and its weights to a module with its binding; the tokenizer that comes with the weights.
 */
#include "api/internal.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

double api_seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static bool metadata(void *user, const char *key, double *value) { return rt_weights_number(user, key, value); }

static dp_status parse(const dp_options *options, const rt_weights_file *file, api_source *source) {
  char *text;
  size_t length;
  DP_TRY(dp_read_file(options->path, &text, &length));
  dp_diags *diags = dp_diags_new();
  if (!diags) {
    free(text);
    return dp_fail(DP_NO_MEMORY, "no memory for diagnostics");
  }
  fe_options frontend = {.sets = options->sets, .set_count = options->set_count, .plan = options->plan,
                         .recipe = options->recipe};
  fe_program program = {0};
  if (file) {
    frontend.metadata = metadata;
    frontend.metadata_user = (void *)(uintptr_t)file;
  }
  dp_status status = DP_SUCCESS;
  if (fe_compile_program(options->path, text, length, &frontend, diags, &program)) {
    source->module = program.module;
    source->plan = program.plan;
    source->recipe = program.recipe;
  } else {
    dp_str rendered = {0};
    dp_diags_render(diags, &rendered, options->color);
    status = dp_fail(DP_INVALID, "%s", rendered.text ? rendered.text : "the model does not compile");
    dp_str_free(&rendered);
  }
  dp_diags_free(diags);
  free(text);
  return status;
}

static bool are_random(const dp_options *options) { return options->weights && strncmp(options->weights, "random:", 7) == 0; }

/* random:SEED or random:SEED:TYPE */
static dp_status read_seed(const dp_options *options, uint64_t *seed, ir_dtype *type) {
  char *end;
  const char *text = options->weights + strlen("random:");
  *seed = strtoull(text, &end, 10);
  *type = IR_f32;
  if (end == text || (*end && *end != ':'))
    return dp_fail(DP_INVALID, "'%s': a number is wanted after random:", options->weights);
  if (*end && !ir_dtype_parse(end + 1, type))
    return dp_fail(DP_INVALID, "'%s': '%s' is no type that weights are stored as", options->weights, end + 1);
  return DP_SUCCESS;
}

static dp_status bind(const dp_options *options, api_source *source) {
  uint64_t seed;
  ir_dtype type;
  if (source->file) return rt_bind_weights(source->module, source->file, 0, &source->binding);
  DP_TRY(read_seed(options, &seed, &type));
  return rt_bind_random(source->module, seed, type, &source->binding);
}

/* Without elements, where they would be made; what is trained is made as f32, whatever type is asked for. */
static dp_status bind_shapes(const dp_options *options, api_source *source) {
  uint64_t seed;
  ir_dtype type;
  if (source->file) return rt_bind_weights(source->module, source->file, 0, &source->binding);
  if (are_random(options)) DP_TRY(read_seed(options, &seed, &type));
  return rt_bind_shapes(source->module, IR_f32, &source->binding);
}

/* A plan and a recipe hold as many weights as the module: the head's is a new one, or stands where the product's was. */
static dp_status add_scalar_head(api_source *source) {
  ir_module *module = source->module;
  int count = module->weight_count;
  DP_TRY(ps_add_scalar_head(module));
  ir_extend_plan(module, count, source->plan, source->recipe);
  ptrdiff_t head = ir_find_weight(module, "score") - module->weights;
  source->plan->weights[head] = (ir_weight_plan){0};
  if (source->recipe) source->recipe->optimizer.no_decay[head] = false;
  return DP_SUCCESS;
}

static bool wants_scalar_head(const dp_options *options, api_use use, const ir_recipe *recipe) {
  bool by_recipe = (use == API_TRAINING || use == API_PLANNING) && recipe && (recipe->objective == IR_REWARD || recipe->objective == IR_VALUE);
  return options->scalar_head || by_recipe;
}

dp_status api_open_source(const dp_options *options, api_use use, api_source *source) {
  *source = (api_source){0};
  if (!options->path) return dp_fail(DP_INVALID, "no model file was named");
  if ((use == API_WEIGHTS || use == API_TRAINING) && !options->weights) return dp_fail(DP_INVALID, "no weights were named");
  dp_status status = DP_SUCCESS;
  if (options->weights && !are_random(options)) status = rt_weights_open(options->weights, &source->file);
  if (status.code == DP_OK) status = parse(options, source->file, source);
  if (status.code == DP_OK && wants_scalar_head(options, use, source->recipe)) status = add_scalar_head(source);
  if (status.code == DP_OK) source->declared = source->module->weight_count;
  if (status.code == DP_OK && use >= API_SHAPES) status = bind_shapes(options, source);
  else if (status.code == DP_OK && options->weights) status = bind(options, source);
  if (status.code != DP_OK) api_close_source(source);
  return status;
}

dp_status api_make_weights(const dp_options *options, api_source *source) {
  uint64_t seed;
  ir_dtype type;
  if (source->file || !are_random(options)) return DP_SUCCESS;
  DP_TRY(read_seed(options, &seed, &type));
  return rt_make_random(source->module, source->declared, seed, source->binding);
}

void api_close_source(api_source *source) {
  rt_binding_free(source->binding);
  rt_weights_close(source->adapter);
  free(source->adaptations);
  ir_module_free(source->module);
  rt_weights_close(source->file);
  *source = (api_source){0};
}

int api_threads(const dp_options *options) {
  if (options->threads > 0) return options->threads;
  cpu_set_t allowed; /* those this process may use: fewer than the machine has in a container, under taskset */
  int cores = sched_getaffinity(0, sizeof allowed, &allowed) == 0 ? CPU_COUNT(&allowed) : 1;
  return cores > 256 ? 256 : cores;
}

dp_status api_schedule(const dp_options *options, api_source *source, tile_program **program) {
  const char *kv_type = options->kv_type ? options->kv_type : source->plan ? source->plan->cache_type : NULL;
  if (kv_type) DP_TRY(ps_store_cache(source->module, NULL, kv_type));
  source->plan = NULL; /* the passes may replace the module that they live in */
  source->recipe = NULL;
  ps_options passes = {.verify_each = options->verify_each, .stress_reparse = options->verify_each};
  DP_TRY(ps_run(&source->module, NULL, 0, &passes));
  DP_TRY(ps_add_pick(source->module));
  return api_schedule_again(options, source, program);
}

dp_status api_schedule_again(const dp_options *options, const api_source *source, tile_program **program) {
  /* The split of columns into tasks is made for a few cores whatever this machine has: the same code for all. */
  const cg_backend *backend = cg_find_backend(options->backend);
  tile_target target = {.cores = 2, .task_bytes = 32768};
  if (backend && backend->numbers) target = *backend->numbers;
  if (!source->module->graphs) return dp_fail(DP_INVALID, "model %s has no graph", source->module->name);
  const char *graphs[] = {source->module->graphs->name, "pick"};
  DP_TRY(ps_schedule_all(source->module, graphs, ir_find_graph(source->module, "pick") ? 2 : 1, &target, program));
  if (!options->verify_each) return DP_SUCCESS;
  dp_status status = tile_check(*program, 2 * (*program)->row_tile + 1, 2, 2, TILE_CHUNK + 1);
  if (status.code == DP_OK) status = tile_check(*program, 1, 1, 1, TILE_CHUNK - 1);
  if (status.code != DP_OK) {
    tile_program_free(*program);
    *program = NULL;
  }
  return status;
}

char *api_cache_dir(const dp_options *options) {
  dp_str path = {0};
  const char *own = getenv("DIPPER_CACHE"), *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
  if (options->cache_dir)
    dp_str_add(&path, options->cache_dir);
  else if (own)
    dp_str_add(&path, own);
  else if (cache && *cache)
    dp_str_addf(&path, "%s/dipper", cache);
  else if (home && *home)
    dp_str_addf(&path, "%s/.cache/dipper", home);
  if (!path.length) dp_str_free(&path);
  return path.text;
}

dp_status api_take_text(dp_str *from, dp_text *text) {
  if (!from->text && !from->failed) dp_str_add(from, "");
  if (from->failed || !from->text) {
    dp_str_free(from);
    return dp_fail(DP_NO_MEMORY, "no memory for a text");
  }
  *text = (dp_text){from->text, from->length};
  *from = (dp_str){0};
  return DP_SUCCESS;
}

/* ---- the tokenizer */

static int special(const rt_weights_file *file, const char *key) {
  double value;
  return rt_weights_number(file, key, &value) ? (int)value : -1;
}

static dp_status tokenizer_from_gguf(const rt_weights_file *file, dp_tokenizer **tokenizer) {
  int64_t token_count = 0, merge_count = 0;
  const rt_text *tokens = rt_weights_strings(file, "tokenizer.ggml.tokens", &token_count);
  const rt_text *merges = rt_weights_strings(file, "tokenizer.ggml.merges", &merge_count);
  const rt_meta *types = rt_weights_find_meta(file, "tokenizer.ggml.token_type");
  if (!tokens) return DP_SUCCESS;
  if (token_count > 1 << 24 || merge_count > 1 << 24)
    return dp_fail(DP_INVALID, "'%s': a vocabulary of %lld tokens is too large", rt_weights_path(file),
                   (long long)token_count);
  dp_arena *arena = dp_arena_new();
  if (!arena) return dp_fail(DP_NO_MEMORY, "no memory for a tokenizer");
  const char **texts = DP_NEW_ARRAY(arena, const char *, token_count + 1);
  size_t *lengths = DP_NEW_ARRAY(arena, size_t, token_count + 1);
  int32_t *kinds = NULL;
  for (int64_t i = 0; i < token_count; i++) {
    texts[i] = tokens[i].text;
    lengths[i] = tokens[i].length;
  }
  if (types && types->kind == RT_META_NUMBERS && types->count == token_count) {
    kinds = DP_NEW_ARRAY(arena, int32_t, token_count + 1);
    for (int64_t i = 0; i < token_count; i++) kinds[i] = (int32_t)rt_meta_integer_at(types, i);
  }
  const char **pairs = DP_NEW_ARRAY(arena, const char *, merge_count + 1);
  for (int64_t i = 0; i < merge_count; i++) pairs[i] = dp_arena_strndup(arena, merges[i].text, merges[i].length);
  const char *model = rt_weights_string(file, "tokenizer.ggml.model");
  const rt_meta *scores = rt_weights_find_meta(file, "tokenizer.ggml.scores");
  const rt_meta *map = rt_weights_find_meta(file, "tokenizer.ggml.precompiled_charsmap");
  float *values = NULL;
  if (scores && scores->kind == RT_META_NUMBERS && scores->count == token_count) {
    values = DP_NEW_ARRAY(arena, float, token_count + 1);
    for (int64_t i = 0; i < token_count; i++) values[i] = (float)rt_meta_number_at(scores, i);
  }
  int64_t map_count = map && map->kind == RT_META_NUMBERS && map->count < 1 << 26 ? map->count : 0;
  uint8_t *charsmap = DP_NEW_ARRAY(arena, uint8_t, map_count + 1);
  for (int64_t i = 0; i < map_count; i++) charsmap[i] = (uint8_t)rt_meta_integer_at(map, i);
  /* What is not said is what the tokenizer's kind does. */
  bool by_default = model && strcmp(model, "gpt2") != 0, add_space = by_default, remove_spaces = by_default;
  bool bert = model && strcmp(model, "bert") == 0;
  bool add_bos = model && (strcmp(model, "llama") == 0 || strcmp(model, "bert") == 0);
  bool add_eos = model && (strcmp(model, "t5") == 0 || strcmp(model, "bert") == 0);
  rt_weights_bool(file, "tokenizer.ggml.add_bos_token", &add_bos);
  rt_weights_bool(file, "tokenizer.ggml.add_eos_token", &add_eos);
  rt_weights_bool(file, "tokenizer.ggml.add_space_prefix", &add_space);
  rt_weights_bool(file, "tokenizer.ggml.remove_extra_whitespaces", &remove_spaces);
  dp_tokenizer_spec spec = {.model = model,
                            .pre = rt_weights_string(file, "tokenizer.ggml.pre"),
                            .vocab_size = (int)token_count,
                            .tokens = texts,
                            .token_lengths = lengths,
                            .token_types = kinds,
                            .merge_count = (int)merge_count,
                            .merges = pairs,
                            .bos = special(file, bert ? "tokenizer.ggml.cls_token_id" : "tokenizer.ggml.bos_token_id"),
                            .eos = special(file, bert ? "tokenizer.ggml.seperator_token_id" : "tokenizer.ggml.eos_token_id"),
                            .eot = special(file, "tokenizer.ggml.eot_token_id"),
                            .unknown = special(file, "tokenizer.ggml.unknown_token_id"),
                            .pad = special(file, "tokenizer.ggml.padding_token_id"),
                            .add_bos = add_bos,
                            .add_eos = add_eos,
                            .add_space_prefix = add_space,
                            .scores = values,
                            .charsmap = charsmap,
                            .charsmap_length = (size_t)map_count,
                            .remove_extra_spaces = remove_spaces};
  dp_status status = dp_tokenizer_new(&spec, tokenizer);
  dp_arena_free(arena);
  return status;
}

/* Where generation stops: a token id, or a list of them. */
static dp_status add_ends(const rt_weights_file *file, const char *key, dp_tokenizer *tokenizer) {
  const rt_meta *meta = rt_weights_find_meta(file, key);
  bool list = meta && meta->kind == RT_META_NUMBERS;
  int64_t count = list ? meta->count : meta && meta->kind == RT_META_NUMBER ? 1 : 0;
  for (int64_t i = 0; i < count; i++) {
    int64_t id = list ? rt_meta_integer_at(meta, i) : meta->integer;
    if (id >= 0 && id < dp_tokenizer_size(tokenizer)) DP_TRY(dp_tokenizer_add_end(tokenizer, (int32_t)id));
  }
  return DP_SUCCESS;
}

static dp_status with_ends(const rt_weights_file *file, dp_status status, dp_tokenizer **tokenizer) {
  if (status.code == DP_OK) status = add_ends(file, "eos_token_id", *tokenizer);
  if (status.code == DP_OK) status = add_ends(file, "generation_config.eos_token_id", *tokenizer);
  return status;
}

static dp_status tokenizer_from_json(const rt_weights_file *file, dp_tokenizer **tokenizer) {
  dp_str beside = {0};
  dp_str_addf(&beside, "%stokenizer.json", rt_weights_directory(file));
  dp_status status = DP_SUCCESS;
  if (beside.text && access(beside.text, F_OK) == 0)
    status = with_ends(file, dp_tokenizer_from_json(beside.text, tokenizer), tokenizer);
  dp_str_free(&beside);
  return status;
}

dp_status api_tokenizer_from_text(const rt_weights_file *file, const char *name, const char *text, size_t length,
                                  dp_tokenizer **tokenizer) {
  return with_ends(file, dp_tokenizer_from_json_text(name, text, length, tokenizer), tokenizer);
}

dp_status api_open_tokenizer(const rt_weights_file *file, dp_tokenizer **tokenizer) {
  *tokenizer = NULL;
  if (!file) return DP_SUCCESS;
  return rt_weights_format_of(file) == RT_GGUF ? tokenizer_from_gguf(file, tokenizer)
                                               : tokenizer_from_json(file, tokenizer);
}

dp_status api_open_chat_template(const rt_weights_file *file, dp_chat_template **chat) {
  *chat = NULL;
  const char *source = file ? rt_weights_string(file, "tokenizer.chat_template") : NULL;
  return source ? dp_chat_template_new(source, strlen(source), chat) : DP_SUCCESS;
}
