/* api/model.c: opening a model: text and weights, passes, schedule, code, engine. */
#include "api/context.h"
#include "api/life.h"

#include <stdlib.h>
#include <string.h>

enum { DEFAULT_CONTEXT = 4096 };

static int64_t context_of(const dp_options *options, const rt_weights_file *file) {
  if (options->context != 0) return options->context;
  double limit = DEFAULT_CONTEXT;
  static const char *const keys[] = {"{arch}.context_length", "max_position_embeddings"};
  for (size_t i = 0; file && i < DP_COUNT(keys); i++)
    if (rt_weights_number(file, keys[i], &limit)) break;
  return limit >= 1 && limit < DEFAULT_CONTEXT ? (int64_t)limit : DEFAULT_CONTEXT;
}

static dp_status compile(const dp_options *options, dp_model *model) {
  DP_TRY(api_schedule(options, &model->source, &model->program));
  return api_compile(options, &model->program, &model->code, &model->info.compiled, &model->note);
}

dp_status api_open_text(const dp_options *options, dp_model *model) {
  rt_weights_file *other = NULL;
  if (options->tokenizer) DP_TRY(rt_weights_open(options->tokenizer, &other));
  const rt_weights_file *file = other ? other : model->source.file;
  dp_status status = api_open_tokenizer(file, &model->tokenizer);
  if (status.code == DP_OK) status = api_open_chat_template(file, &model->chat);
  rt_weights_close(other);
  model->info.has_tokenizer = model->tokenizer != NULL;
  model->info.has_chat_template = model->chat != NULL;
  return status;
}

dp_status api_start_model(const dp_options *options, const api_image *image, dp_model *model) {
  rt_engine_options engine = {.workers = api_threads(options),
                              .context = context_of(options, model->source.file),
                              .max_tokens = options->step_tokens, .host = api_host(options->host)};
  if (image) engine.image = image->bytes, engine.image_bytes = image->size;
  api_adopt_model(options->host, model);
  if (image) memcpy(engine.image_key, image->key, sizeof engine.image_key);
  DP_TRY(rt_engine_new(model->program, model->code, model->source.binding, &engine, &model->engine));
  if (model->tokenizer && dp_tokenizer_size(model->tokenizer) > rt_engine_vocabulary(model->engine))
    return dp_fail(DP_INVALID, "the tokenizer has %d tokens, the model's vocabulary is %lld",
                   dp_tokenizer_size(model->tokenizer), (long long)rt_engine_vocabulary(model->engine));
  model->info.vocabulary = rt_engine_vocabulary(model->engine);
  model->info.columns = rt_engine_columns(model->engine);
  model->info.context = rt_engine_context(model->engine);
  model->info.step_tokens = rt_engine_max_tokens(model->engine);
  model->info.threads = engine.workers;
  const char *unused = model->source.binding ? rt_binding_note(model->source.binding) : NULL;
  if (unused) dp_str_addf(&model->note, "%s%s", model->note.length ? "; " : "", unused);
  model->info.note = model->note.text;
  model->info.device = model->device.text ? model->device.text : "cpu";
  if (model->note.text) api_log(model->host, DP_LOG_NOTE, model->note.text);
  return api_go_on(model->host, "pack", 1);
}

static dp_status open(const dp_options *options, dp_model *model) {
  double begin = api_seconds();
  DP_TRY(api_open_source(options, API_WEIGHTS, &model->source));
  DP_TRY(api_load_adapter(options, &model->source));
  double opened = api_seconds();
  DP_TRY(compile(options, model));
  double compiled = api_seconds();
  DP_TRY(api_open_text(options, model));
  DP_TRY(api_start_model(options, NULL, model));
  model->info.load_s = opened - begin + (api_seconds() - compiled);
  model->info.compile_s = compiled - opened;
  return DP_SUCCESS;
}

tile_code api_code_to_measure(const dp_options *options) {
  const cg_backend *backend = cg_find_backend(options->backend);
  return (tile_code){.device = backend ? backend->device : NULL};
}

dp_status api_choose_device(dp_options *options, dp_str *note, dp_str *name) {
  const char *device = options->device;
  if (!device || strcmp(device, "cpu") == 0) return DP_SUCCESS;
  if (strcmp(device, "cuda") != 0 && strcmp(device, "auto") != 0)
    return dp_fail(DP_INVALID, "a device is cpu, cuda or auto, not '%s'", device);
  options->backend = "cuda";
  options->device = NULL;
  const cg_backend *cuda = cg_find_backend("cuda");
  dp_str unused = {0};
  int none;
  dp_status status = cuda->devices(&unused);
  if (status.code == DP_OK) status = cuda->choose(NULL, 0, &none, name);
  if (status.code == DP_OK) status = cuda->fingerprint(NULL, &unused); /* is there a compiler? */
  dp_str_free(&unused);
  if (status.code == DP_OK || strcmp(device, "cuda") == 0) return status;
  dp_str_addf(note, "on the CPU: %s", dp_status_text(&status));
  if (name) dp_str_free(name);
  options->backend = NULL;
  dp_status_free(&status);
  return DP_SUCCESS;
}

/* With "auto", what a GPU does not take the CPU is asked for; a mistake of the user's fails there again. */
static dp_status open_elsewhere(dp_options *options, dp_status failure, dp_model *model) {
  api_close_model(model);
  *model = (dp_model){0};
  dp_str_addf(&model->note, "on the CPU: %s", dp_status_text(&failure));
  dp_status_free(&failure);
  options->backend = NULL;
  return open(options, model);
}

dp_status dp_model_open(const dp_options *options, dp_model **model) {
  DP_TRY(api_need(options, "dp_model_open", "options"));
  DP_TRY(api_need(model, "dp_model_open", "place for the model"));
  dp_model *fresh = calloc(1, sizeof *fresh);
  if (!fresh) return dp_fail(DP_NO_MEMORY, "no memory for a model");
  dp_options chosen = *options;
  dp_status status = api_choose_device(&chosen, &fresh->note, &fresh->device);
  if (status.code == DP_OK) status = open(&chosen, fresh);
  bool on_gpu = chosen.backend && strcmp(chosen.backend, "cuda") == 0, automatic = options->device && strcmp(options->device, "auto") == 0;
  if (status.code != DP_OK && on_gpu && automatic) status = open_elsewhere(&chosen, status, fresh);
  if (status.code != DP_OK) {
    dp_model_free(fresh);
    return status;
  }
  *model = fresh;
  return DP_SUCCESS;
}

void api_adopt_model(dp_context *host, dp_model *model) {
  model->magic = API_MODEL_MAGIC;
  if (model->host || !host) return;
  api_keep_context(host);
  model->host = host;
}

/* ---- life */

static void close_parts(dp_model *model) {
  rt_engine_free(model->engine);
  rt_trace_free(model->trace);
  if (model->code) model->code->free(model->code);
  tile_program_free(model->program);
  dp_tokenizer_free(model->tokenizer);
  dp_chat_template_free(model->chat);
  api_close_source(&model->source);
  dp_str_free(&model->note);
  dp_str_free(&model->device);
  for (size_t i = 0; i < DP_COUNT(model->packages); i++) api_close_package(&model->packages[i]);
}

/* With a host the shell stays as long as that, so that who uses it again is told. */
static void close_model(void *object) {
  dp_model *model = object;
  dp_context *host = model->host;
  api_life *life = atomic_load(&model->life);
  close_parts(model);
  *model = (dp_model){.magic = API_GONE_MAGIC};
  if (host) api_retire(host, model);
  else free(model);
  api_life_drop(life);
  api_drop_context(host);
}

api_life *api_model_life(dp_model *model) {
  api_life *life = atomic_load(&model->life), *none = NULL;
  if (life || !(life = api_life_new("model", close_model, model))) return life;
  if (atomic_compare_exchange_strong(&model->life, &none, life)) return life;
  api_life_drop(life);
  return none;
}

void api_close_model(dp_model *model) {
  api_life *life = atomic_load(&model->life);
  dp_context *host = model->host;
  if (life) {
    api_enter_patiently(life);
    life->close = NULL; /* the model is a part of another object, which frees it */
    api_close(life);
    api_leave(life);
    api_life_drop(life);
  }
  close_parts(model);
  *model = (dp_model){0};
  api_drop_context(host);
}

void dp_model_free(dp_model *model) {
  if (!model || api_is_gone(model)) return;
  api_life *life = atomic_load(&model->life);
  if (life) api_close(life);
  else close_model(model);
}

bool api_is_gone(const dp_model *model) { return model->magic == API_GONE_MAGIC; }

dp_status api_check_model(const dp_model *model, const char *call) {
  DP_TRY(api_need(model, call, "model"));
  if (model->magic == API_MODEL_MAGIC) return DP_SUCCESS;
  return dp_fail(DP_INVALID, api_is_gone(model) ? "%s: the model was freed" : "%s: this is no model", call);
}

dp_status api_enter_model(dp_model *model, const char *call) {
  DP_TRY(api_check_model(model, call));
  api_life *life = api_model_life(model);
  return life ? api_enter(life, call) : dp_fail(DP_NO_MEMORY, "%s: no memory", call);
}

void api_leave_model(dp_model *model) { api_leave(atomic_load(&model->life)); }

dp_model_info dp_model_get_info(const dp_model *model) {
  return model && model->magic == API_MODEL_MAGIC ? model->info : (dp_model_info){0};
}

void dp_text_free(dp_text *text) {
  free(text->text);
  *text = (dp_text){0};
}

void dp_tokens_free(dp_tokens *tokens) {
  free(tokens->ids);
  *tokens = (dp_tokens){0};
}

/* ---- text */

static dp_status encode(const dp_tokenizer *tokenizer, const char *text, size_t length, bool parse_special,
                        dp_tokens *tokens) {
  if (!tokenizer) return dp_fail(DP_UNSUPPORTED, "the weights bring no tokenizer: give token ids");
  dp_ids ids = {0};
  dp_status status = dp_tokenizer_encode(tokenizer, text, length, parse_special, &ids);
  if (status.code != DP_OK) {
    dp_ids_free(&ids);
    return status;
  }
  *tokens = (dp_tokens){ids.items, ids.count};
  return DP_SUCCESS;
}

static dp_status decode(const dp_tokenizer *tokenizer, const int32_t *ids, size_t count, bool show_special,
                        dp_text *text) {
  if (!tokenizer) return dp_fail(DP_UNSUPPORTED, "the weights bring no tokenizer");
  dp_str out = {0};
  dp_status status = dp_tokenizer_decode(tokenizer, ids, count, show_special, &out);
  if (status.code == DP_OK) return api_take_text(&out, text);
  dp_str_free(&out);
  return status;
}

dp_status dp_tokenize(const dp_model *model, const char *text, size_t length, bool parse_special, dp_tokens *tokens) {
  DP_TRY(api_check_model(model, "dp_tokenize"));
  if (length) DP_TRY(api_need(text, "dp_tokenize", "text"));
  DP_TRY(api_need(tokens, "dp_tokenize", "place for the tokens"));
  return encode(model->tokenizer, text, length, parse_special, tokens);
}

dp_status dp_detokenize(const dp_model *model, const int32_t *ids, size_t count, bool show_special, dp_text *text) {
  DP_TRY(api_check_model(model, "dp_detokenize"));
  if (count) DP_TRY(api_need(ids, "dp_detokenize", "ids"));
  DP_TRY(api_need(text, "dp_detokenize", "place for the text"));
  return decode(model->tokenizer, ids, count, show_special, text);
}

dp_status dp_tokenize_file(const char *weights, const char *text, size_t length, bool parse_special,
                           dp_tokens *tokens) {
  rt_weights_file *file;
  dp_tokenizer *tokenizer = NULL;
  DP_TRY(rt_weights_open(weights, &file));
  dp_status status = api_open_tokenizer(file, &tokenizer);
  if (status.code == DP_OK) status = encode(tokenizer, text, length, parse_special, tokens);
  dp_tokenizer_free(tokenizer);
  rt_weights_close(file);
  return status;
}

dp_status dp_detokenize_file(const char *weights, const int32_t *ids, size_t count, dp_text *text) {
  rt_weights_file *file;
  dp_tokenizer *tokenizer = NULL;
  DP_TRY(rt_weights_open(weights, &file));
  dp_status status = api_open_tokenizer(file, &tokenizer);
  if (status.code == DP_OK) status = decode(tokenizer, ids, count, true, text);
  dp_tokenizer_free(tokenizer);
  rt_weights_close(file);
  return status;
}

dp_status dp_render_chat(const dp_model *model, const dp_message *messages, int count, dp_text *text) {
  DP_TRY(api_check_model(model, "dp_render_chat"));
  if (count) DP_TRY(api_need(messages, "dp_render_chat", "messages"));
  DP_TRY(api_need(text, "dp_render_chat", "place for the text"));
  if (!model->chat) return dp_fail(DP_UNSUPPORTED, "the weights bring no chat template");
  dp_chat_message *list = calloc((size_t)count + 1, sizeof *list);
  if (!list) return dp_fail(DP_NO_MEMORY, "no memory for a conversation");
  for (int i = 0; i < count; i++) list[i] = (dp_chat_message){messages[i].role, messages[i].content};
  dp_chat_options options = {.add_generation_prompt = true};
  if (model->tokenizer) {
    dp_token_specials specials = dp_tokenizer_specials(model->tokenizer);
    options.bos_token = specials.bos >= 0 ? dp_token_text(model->tokenizer, specials.bos, NULL) : NULL;
    options.eos_token = specials.eos >= 0 ? dp_token_text(model->tokenizer, specials.eos, NULL) : NULL;
  }
  const rt_weights_file *file = model->source.file; /* tokenizer.json does not always say which they are */
  if (file && !options.bos_token) options.bos_token = rt_weights_string(file, "tokenizer_config.bos_token");
  if (file && !options.eos_token) options.eos_token = rt_weights_string(file, "tokenizer_config.eos_token");
  dp_str out = {0};
  dp_status status = dp_chat_render(model->chat, list, count, &options, &out);
  free(list);
  if (status.code == DP_OK) return api_take_text(&out, text);
  dp_str_free(&out);
  return status;
}
