/* api/train.c: a trainer: text and weights to one program of three entries (forward, train, update), and an engine that
 * keeps gradients and moments. */
#include "api/internal.h"
#include "dipper/train.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { FORWARD, TRAIN, UPDATE };

struct dp_trainer {
  api_source source;
  tile_program *program;
  tile_code *code;
  rt_engine *engine;
  dp_adamw optimizer;
  float *losses;
  int64_t steps; /* updates so far */
  rt_trace *trace;
  int threads;
};

static dp_status add_update(const dp_training *training, dp_trainer *t) {
  ir_module *module = t->source.module;
  int *ties = calloc((size_t)module->weight_count + 1, sizeof *ties);
  bool *no_decay = calloc((size_t)module->weight_count + 1, sizeof *no_decay);
  dp_status status = ties && no_decay ? DP_SUCCESS : dp_fail(DP_NO_MEMORY, "no memory for an update");
  for (int i = 0; i < module->weight_count && status.code == DP_OK; i++) {
    ties[i] = rt_binding_tie(t->source.binding, i);
    no_decay[i] = module->weights[i].type.rank - module->weights[i].stack < 2;
  }
  const dp_adamw *o = &training->optimizer;
  ps_update how = {.ties = ties, .no_decay = no_decay, .beta1 = o->beta1, .beta2 = o->beta2, .eps = o->eps, .clip = o->clip > 0};
  if (status.code == DP_OK) status = ps_add_update(module, &how);
  free(ties);
  free(no_decay);
  return status;
}

static dp_status make_program(const dp_training *training, dp_trainer *t) {
  const dp_options *options = &training->model;
  ir_module *module = t->source.module;
  ps_training how = {.recompute = training->recompute};
  for (int i = 0; i < module->weight_count; i++)
    if (!module->weights[i].frozen) module->weights[i].storage = 1u << IR_f32;
  if (!module->graphs) return dp_fail(DP_INVALID, "model %s has no graph", module->name);
  DP_TRY(ps_differentiate(module, &how));
  ps_options passes = {.verify_each = options->verify_each, .stress_reparse = options->verify_each};
  DP_TRY(ps_run(&t->source.module, NULL, 0, &passes));
  DP_TRY(add_update(training, t));
  tile_target target = {.cores = 2, .task_bytes = 32768, .wide_columns = training->wide_columns};
  const char *const entries[] = {[FORWARD] = t->source.module->graphs->name, [TRAIN] = "train", [UPDATE] = "update"};
  DP_TRY(ps_schedule_all(t->source.module, entries, (int)DP_COUNT(entries), &target, &t->program));
  if (!options->verify_each) return DP_SUCCESS;
  DP_TRY(tile_check(t->program, 2 * t->program->row_tile + 1, 2, 2, 0));
  return tile_check(t->program, 1, 1, 1, 0);
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
  DP_TRY(make_program(training, t));
  DP_TRY(compile(options, t));
  int64_t tokens = options->step_tokens > 0 ? options->step_tokens : 512;
  int64_t context = options->context > 0 ? options->context : tokens;
  /* Each sequence of a step begins a page of its own. */
  rt_engine_options engine = {.workers = api_threads(options), .context = context + tokens * TILE_CHUNK, .max_tokens = tokens};
  if (engine.context > 2 * context + 64 * TILE_CHUNK) engine.context = 2 * context + 64 * TILE_CHUNK;
  t->threads = engine.workers;
  DP_TRY(rt_engine_new(t->program, t->code, t->source.binding, &engine, &t->engine));
  t->losses = malloc(sizeof *t->losses * (size_t)tokens);
  return t->losses ? DP_SUCCESS : dp_fail(DP_NO_MEMORY, "no memory for losses");
}

dp_adamw dp_adamw_defaults(void) {
  return (dp_adamw){.lr = 1e-3, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .decay = 0.01, .clip = 1};
}

dp_status dp_trainer_new(const dp_training *training, dp_trainer **trainer) {
  dp_trainer *t = calloc(1, sizeof *t);
  if (!t) return dp_fail(DP_NO_MEMORY, "no memory for a trainer");
  dp_training how = *training;
  if (how.optimizer.beta2 == 0 && how.optimizer.lr == 0) how.optimizer = dp_adamw_defaults();
  t->optimizer = how.optimizer;
  dp_status status = open(&how, t);
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
  rt_trace_free(t->trace);
  if (t->code) t->code->free(t->code);
  tile_program_free(t->program);
  api_close_source(&t->source);
  free(t->losses);
  free(t);
}

void dp_trainer_clear(dp_trainer *t) { rt_engine_clear(t->engine, TILE_GRADIENT); }

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
  if (status.code == DP_OK) status = rt_engine_run(t->engine, TRAIN, requests, count, &rows);
  if (status.code == DP_OK) {
    for (int64_t i = 0; i < rows.rows; i++) t->losses[i] = rows.data[i * rows.stride];
    if (losses) *losses = t->losses;
  }
  for (int i = 0; i < made; i++) rt_sequence_free(t->engine, requests[i].sequence);
  free(requests);
  return status;
}

static void give(dp_trainer *t, const char *name, double value) {
  float *number = rt_engine_number(t->engine, name);
  if (number) *number = (float)value;
}

dp_status dp_trainer_update(dp_trainer *t, int64_t tokens, double lr, double *norm) {
  const dp_adamw *o = &t->optimizer;
  if (tokens < 1) return dp_fail(DP_INVALID, "an update of the gradients of no tokens");
  if (!(lr >= 0) || isinf(lr)) return dp_fail(DP_INVALID, "a learning rate of %g", lr);
  double n = (double)++t->steps;
  give(t, "scale", 1 / (double)tokens);
  give(t, "limit", o->clip);
  give(t, "keep", 1 - lr * o->decay);
  give(t, "rate", lr / (1 - pow(o->beta1, n)));
  give(t, "root", 1 / sqrt(1 - pow(o->beta2, n)));
  DP_TRY(rt_engine_run(t->engine, UPDATE, NULL, 0, NULL));
  const float *made = rt_engine_number(t->engine, "norm");
  if (norm) *norm = made ? (double)*made : 0;
  return DP_SUCCESS;
}

dp_status dp_trainer_save(dp_trainer *t, const char *path, bool gradients) {
  rt_binding *binding;
  DP_TRY(rt_engine_bind(t->engine, gradients ? TILE_GRADIENT : TILE_VALUE, t->source.module, t->source.binding, &binding));
  dp_status status = rt_save_weights(path, t->source.module, binding, IR_f32);
  rt_binding_free(binding);
  return status;
}

dp_status dp_trainer_trace_start(dp_trainer *t, int64_t max_tasks) {
  return api_trace_start(t->engine, t->threads, max_tasks, &t->trace);
}

dp_status dp_trainer_trace_stop(dp_trainer *t, dp_trace **trace) {
  return api_trace_stop(t->engine, t->threads, &t->trace, trace);
}

dp_status dp_trainer_text(const dp_trainer *t, dp_text *text) {
  dp_str out = {0};
  tile_print(&out, t->program);
  return api_take_text(&out, text);
}
