/* api/train.c: a trainer: text and weights, differentiated, scheduled, compiled, and an engine that keeps gradients. */
#include "api/internal.h"
#include "dipper/train.h"

#include <stdlib.h>
#include <string.h>

struct dp_trainer {
  api_source source;
  rt_binding *memory; /* the weights as f32 in the model's order, while they are packed or saved */
  tile_program *program;
  tile_code *code;
  rt_engine *engine;
  float *losses;
};

static dp_status make_program(const dp_training *training, dp_trainer *t) {
  const dp_options *options = &training->model;
  ps_training how = {.recompute = training->recompute};
  DP_TRY(ps_differentiate(t->source.module, &how));
  ps_options passes = {.verify_each = options->verify_each, .stress_reparse = options->verify_each};
  DP_TRY(ps_run_training(&t->source.module, &passes));
  tile_target target = {.cores = 2, .task_bytes = 32768};
  DP_TRY(ps_schedule(t->source.module, "train", &target, &t->program));
  if (!options->verify_each) return DP_SUCCESS;
  DP_TRY(tile_check(t->program, 2 * t->program->row_tile + 1, 0, 2, 0));
  return tile_check(t->program, 1, 0, 1, 0);
}

static dp_status compile(const dp_options *options, dp_trainer *t) {
  const cg_backend *backend = cg_find_backend(options->backend);
  if (!backend)
    return dp_fail(DP_NOT_FOUND, "this build has no back end '%s'", options->backend ? options->backend : "llvm");
  cg_target target = {options->triple, options->cpu, options->features};
  char *cache = api_cache_dir(options);
  dp_str note = {0};
  dp_status status = cg_build(backend, t->program, &target, cache, &t->code, NULL, &note);
  dp_str_free(&note);
  free(cache);
  return status;
}

static dp_status open(const dp_training *training, dp_trainer *t) {
  const dp_options *options = &training->model;
  DP_TRY(api_open_source(options, true, &t->source));
  DP_TRY(rt_bind_memory(t->source.module, t->source.binding, &t->memory));
  DP_TRY(make_program(training, t));
  DP_TRY(compile(options, t));
  int64_t tokens = options->step_tokens > 0 ? options->step_tokens : 512;
  int64_t context = options->context > 0 ? options->context : tokens;
  /* Each sequence of a step begins a page of its own. */
  rt_engine_options engine = {.workers = api_threads(options), .context = context + tokens * TILE_CHUNK, .max_tokens = tokens,
                              .gradients = true};
  if (engine.context > 2 * context + 64 * TILE_CHUNK) engine.context = 2 * context + 64 * TILE_CHUNK;
  DP_TRY(rt_engine_new(t->program, t->code, t->memory, &engine, &t->engine));
  t->losses = malloc(sizeof *t->losses * (size_t)tokens);
  return t->losses ? DP_SUCCESS : dp_fail(DP_NO_MEMORY, "no memory for losses");
}

dp_status dp_trainer_new(const dp_training *training, dp_trainer **trainer) {
  dp_trainer *t = calloc(1, sizeof *t);
  if (!t) return dp_fail(DP_NO_MEMORY, "no memory for a trainer");
  dp_status status = open(training, t);
  if (status.code != DP_OK) {
    dp_trainer_free(t);
    return status;
  }
  *trainer = t;
  return DP_SUCCESS;
}

void dp_trainer_free(dp_trainer *t) {
  if (!t) return;
  rt_engine_free(t->engine);
  if (t->code) t->code->free(t->code);
  tile_program_free(t->program);
  rt_binding_free(t->memory);
  api_close_source(&t->source);
  free(t->losses);
  free(t);
}

void dp_trainer_clear(dp_trainer *t) { rt_engine_clear_gradients(t->engine); }

dp_status dp_trainer_add(dp_trainer *t, const dp_example *examples, int count, const float **losses) {
  rt_request *requests = calloc((size_t)count + 1, sizeof *requests);
  dp_status status = requests ? DP_SUCCESS : dp_fail(DP_NO_MEMORY, "no memory for a step");
  int made = 0;
  for (; made < count && status.code == DP_OK; made++) {
    requests[made] = (rt_request){.tokens = examples[made].ids, .targets = examples[made].targets,
                                  .count = (int64_t)examples[made].count};
    status = rt_sequence_new(t->engine, &requests[made].sequence);
  }
  rt_logits rows;
  if (status.code == DP_OK) status = rt_engine_step(t->engine, requests, count, &rows);
  if (status.code == DP_OK) {
    for (int64_t i = 0; i < rows.rows; i++) t->losses[i] = rows.data[i * rows.stride];
    if (losses) *losses = t->losses;
  }
  for (int i = 0; i < made; i++) rt_sequence_free(t->engine, requests[i].sequence);
  free(requests);
  return status;
}

dp_status dp_trainer_save(dp_trainer *t, const char *path, bool gradients) {
  rt_engine_copy_out(t->engine, gradients, t->memory);
  rt_binding_differences(t->memory, t->source.module, gradients);
  return rt_save_weights(path, t->source.module, t->memory, IR_f32);
}

dp_status dp_trainer_text(const dp_trainer *t, dp_text *text) {
  dp_str out = {0};
  tile_print(&out, t->program);
  return api_take_text(&out, text);
}
