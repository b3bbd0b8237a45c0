/* api/packaged.c: opening a model that was compiled ahead of time: the graph IR is read back from its text, scheduled as the
 * compiler did, and the object must be of that very program (packaged_code.c); then the weights, packed and mapped, or any
 * file that binds. */
#include "api/internal.h"
#include "api/life.h"
#include "dipper/aot.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct opening {
  const char *path, *beside;
  const dp_options *options;
  dp_model *model;
  const api_package *self, *weights; /* weights: the one with packed weights; NULL: they are bound */
  cg_program_key key;                /* of the program that they were packed for */
} opening;

static const api_package_entry *find_part(const api_package *package, api_part part) {
  for (int i = 0; i < package->count; i++)
    if (package->entries[i].part == part) return &package->entries[i];
  return NULL;
}

static const char *data_of(const api_package *package, const api_package_entry *entry) {
  return (const char *)package->file.data + entry->offset;
}

/* ---- the module */

static dp_status read_module(opening *o) {
  const api_package_entry *part = find_part(o->self, API_PART_MODULE);
  if (!part) return dp_fail(DP_NOT_FOUND, "'%s' carries no model", o->path);
  dp_diags *diags = dp_diags_new();
  if (!diags) return dp_fail(DP_NO_MEMORY, "no memory for diagnostics");
  o->model->source.module = ir_parse(o->path, data_of(o->self, part), part->size, diags);
  dp_str rendered = {0};
  dp_diags_render(diags, &rendered, false);
  dp_status status = o->model->source.module ? ir_verify(o->model->source.module, "reading it back")
                                             : dp_fail(DP_INVALID, "the model in '%s' cannot be read: %.500s", o->path,
                                                       rendered.text ? rendered.text : "");
  dp_str_free(&rendered);
  dp_diags_free(diags);
  return status;
}

/* ---- weights */

static bool there(const char *path) { return access(path, F_OK) == 0; }

/* With something in it. */
static bool is_file(const char *path) {
  struct stat info;
  return stat(path, &info) == 0 && S_ISREG(info.st_mode) && info.st_size > 0;
}

/* Which weights to open, into `path`; "" for those inside. */
static dp_status choose_weights(const opening *o, char path[PATH_MAX]) {
  path[0] = '\0';
  if (o->options->weights) return snprintf(path, PATH_MAX, "%s", o->options->weights) < PATH_MAX ? DP_SUCCESS
                                  : dp_fail(DP_INVALID, "path too long: '%s'", o->options->weights);
  if (find_part(o->self, API_PART_WEIGHTS)) return DP_SUCCESS;
  if (snprintf(path, PATH_MAX, "%s.weights", o->beside) < PATH_MAX && there(path)) return DP_SUCCESS;
  const api_package_entry *named = find_part(o->self, API_PART_BESIDE);
  const char *slash = strrchr(o->beside, '/');
  int folder = slash ? (int)(slash - o->beside + 1) : 0;
  int n = snprintf(path, PATH_MAX, "%.*s%.*s", folder, o->beside, named ? (int)named->size : 0, named ? data_of(o->self, named) : "");
  if (named && n > 0 && n < PATH_MAX && there(path)) return DP_SUCCESS;
  dp_status status = dp_fail(DP_NOT_FOUND, "no weights: there is no '%s.weights'%s%.*s; put one there or name a file (--weights)",
                             o->beside, named ? " and beside it no " : "", named ? (int)named->size : 0,
                             named ? data_of(o->self, named) : "");
  return status;
}

static dp_status bind_random(opening *o, const char *text) {
  char *end;
  uint64_t seed = strtoull(text, &end, 10);
  if (end == text || *end) return dp_fail(DP_INVALID, "'random:%s': a number is wanted after random:", text);
  return rt_bind_random(o->model->source.module, seed, IR_f32, &o->model->source.binding);
}

/* The storage types that the code was compiled for, weight by weight: binding sets those of the file. */
static unsigned *compiled_storage(const ir_module *module) {
  unsigned *types = malloc(sizeof *types * ((size_t)module->weight_count + 1));
  for (int i = 0; types && i < module->weight_count; i++) types[i] = module->weights[i].storage;
  return types;
}

static void print_types(dp_str *out, unsigned types) {
  const char *separator = "";
  for (int i = 0; i < IR_DTYPE_COUNT; i++) {
    if (!((types ? types : 1u << IR_f32) >> i & 1)) continue;
    dp_str_addf(out, "%s%s", separator, ir_dtype_name((ir_dtype)i));
    separator = ", ";
  }
}

static dp_status check_storage(const opening *o, const char *path, const unsigned *compiled) {
  const ir_module *module = o->model->source.module;
  for (int i = 0; i < module->weight_count; i++) {
    unsigned types = module->weights[i].storage, f32 = 1u << IR_f32;
    if ((types ? types : f32) == (compiled[i] ? compiled[i] : f32)) continue;
    dp_str has = {0}, wants = {0};
    print_types(&has, types);
    print_types(&wants, compiled[i]);
    dp_status status = dp_fail(DP_INVALID, "'%s' stores '%s' as %s, the model was compiled for %s: compile it for these weights",
                               path, module->weights[i].name, has.text, wants.text);
    dp_str_free(&has);
    dp_str_free(&wants);
    return status;
  }
  return DP_SUCCESS;
}

static dp_status bind(opening *o, const char *path) {
  unsigned *compiled = compiled_storage(o->model->source.module);
  api_source *source = &o->model->source;
  dp_status status = compiled ? DP_SUCCESS : dp_fail(DP_NO_MEMORY, "no memory to bind weights");
  if (status.code == DP_OK && strncmp(path, "random:", 7) == 0) {
    status = bind_random(o, path + 7);
  } else if (status.code == DP_OK) {
    status = rt_weights_open(path, &source->file);
    if (status.code == DP_OK) status = rt_bind_weights(source->module, source->file, 0, &source->binding);
  }
  if (status.code == DP_OK) status = check_storage(o, path, compiled);
  free(compiled);
  return status;
}

/* A package's metadata stand for the file that they are of. */
static dp_status open_metadata(opening *o) {
  const api_package_entry *part = find_part(o->weights, API_PART_METADATA);
  return part ? rt_weights_open_memory(o->path, data_of(o->weights, part), part->size, &o->model->source.file) : DP_SUCCESS;
}

static dp_status open_weights(opening *o) {
  char path[PATH_MAX];
  DP_TRY(choose_weights(o, path));
  if (!path[0]) {
    o->weights = o->self;
    return open_metadata(o);
  }
  if (!is_file(path)) return bind(o, path);
  dp_status status = api_open_package(path, &o->model->packages[1]);
  if (status.code == DP_NOT_FOUND) {
    dp_status_free(&status);
    return bind(o, path);
  }
  if (status.code != DP_OK) return status;
  o->weights = &o->model->packages[1];
  return find_part(o->weights, API_PART_WEIGHTS) ? open_metadata(o) : dp_fail(DP_INVALID, "'%s' carries no weights", path);
}

/* ---- text */

static dp_status open_text(opening *o) {
  dp_model *model = o->model;
  const api_package_entry *json = o->weights ? find_part(o->weights, API_PART_TOKENIZER) : NULL;
  if (!json || o->options->tokenizer) return api_open_text(o->options, model);
  DP_TRY(api_tokenizer_from_text(model->source.file, "tokenizer.json", data_of(o->weights, json), json->size, &model->tokenizer));
  DP_TRY(api_open_chat_template(model->source.file, &model->chat));
  model->info.has_tokenizer = true;
  model->info.has_chat_template = model->chat != NULL;
  return DP_SUCCESS;
}

static dp_status start(opening *o) {
  if (!o->weights) return api_start_model(o->options, NULL, o->model);
  const api_package_entry *part = find_part(o->weights, API_PART_WEIGHTS);
  api_image image = {data_of(o->weights, part), part->size, {o->key.first, o->key.second}};
  return api_start_model(o->options, &image, o->model);
}

static dp_status open(opening *o) {
  double begin = api_seconds();
  DP_TRY(api_open_package(o->path, &o->model->packages[0]));
  o->self = &o->model->packages[0];
  DP_TRY(read_module(o));
  DP_TRY(open_weights(o));
  double bound = api_seconds();
  DP_TRY(api_load_packaged(o->beside, o->self, o->options, o->weights != NULL, o->model, &o->key));
  double loaded = api_seconds();
  DP_TRY(open_text(o));
  DP_TRY(start(o));
  o->model->info.load_s = bound - begin + (api_seconds() - loaded);
  o->model->info.compile_s = loaded - bound;
  return DP_SUCCESS;
}

/* Did a GPU take the code, and then not the model: as when its memory does not suffice? Mistakes are told. */
static bool may_go_elsewhere(const opening *o, dp_status why) {
  const char *device = o->options->device;
  bool on_gpu = o->model->code && o->model->code->device;
  return why.code != DP_OK && on_gpu && !(device && strcmp(device, "cuda") == 0) && why.code != DP_INVALID && why.code != DP_BUG;
}

static dp_status open_elsewhere(opening o, dp_status why) {
  dp_options options = *o.options;
  options.device = "cpu";
  api_close_model(o.model);
  *o.model = (dp_model){0};
  dp_str_addf(&o.model->note, "on the CPU: %s", dp_status_text(&why));
  dp_status_free(&why);
  o.options = &options;
  return open(&o);
}

dp_status dp_model_open_package(const char *path, const char *beside, const dp_options *options, dp_model **model) {
  DP_TRY(api_need(path, "dp_model_open_package", "path"));
  DP_TRY(api_need(options, "dp_model_open_package", "options"));
  DP_TRY(api_need(model, "dp_model_open_package", "place for the model"));
  dp_model *fresh = calloc(1, sizeof *fresh);
  if (!fresh) return dp_fail(DP_NO_MEMORY, "no memory for a model");
  const opening asked = {.path = path, .beside = beside ? beside : path, .options = options, .model = fresh};
  opening o = asked;
  dp_status status = open(&o);
  if (may_go_elsewhere(&o, status)) status = open_elsewhere(asked, status);
  if (status.code != DP_OK) {
    dp_model_free(fresh);
    return status;
  }
  *model = fresh;
  return DP_SUCCESS;
}
