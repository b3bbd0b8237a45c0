/* api/score.c: the numbers that training gives tokens, without a trainer: a program of the one entry `score`, over weights as
 * the file stores them. */
#include "api/train.h"

#include <stdlib.h>

struct dp_scorer {
  dp_model model;
};

/* broken NULL: rows are wanted. */
static dp_status run_or_walk(rt_engine *engine, int entry, const dp_example *examples, int count, rt_logits *rows, rt_broken *broken) {
  rt_request *requests = calloc((size_t)count + 1, sizeof *requests);
  dp_status status = requests ? DP_SUCCESS : dp_fail(DP_NO_MEMORY, "no memory for a step");
  int made = 0;
  for (; made < count && status.code == DP_OK; made++) {
    requests[made] = (rt_request){.tokens = examples[made].ids, .targets = examples[made].targets,
                                  .coefficients = examples[made].coefficients, .count = (int64_t)examples[made].count};
    status = rt_sequence_new(engine, &requests[made].sequence);
  }
  if (status.code == DP_OK)
    status = broken ? rt_engine_find_broken(engine, entry, requests, count, broken) : rt_engine_run(engine, entry, requests, count, rows);
  for (int i = 0; i < made; i++) rt_sequence_free(engine, requests[i].sequence);
  free(requests);
  return status;
}

dp_status api_run_examples(rt_engine *engine, int entry, const dp_example *examples, int count, rt_logits *rows) {
  return run_or_walk(engine, entry, examples, count, rows, NULL);
}

dp_status api_walk_examples(rt_engine *engine, int entry, const dp_example *examples, int count, rt_broken *broken) {
  return run_or_walk(engine, entry, examples, count, NULL, broken);
}

rt_engine_options api_engine_options(const dp_options *options, int64_t sequences) {
  int64_t tokens = options->step_tokens > 0 ? options->step_tokens : 512;
  int64_t context = options->context > 0 ? options->context : tokens, many = context / TILE_CHUNK + 64;
  if (sequences <= 0) sequences = many < tokens ? many : tokens;
  /* Each sequence of a step begins a page of its own. */
  return (rt_engine_options){.workers = api_threads(options), .max_tokens = tokens,
                             .context = rt_bytes_plus(context, rt_bytes_times(sequences, TILE_CHUNK))};
}

dp_status api_set_up_engine(const rt_engine_options *engine, dp_model *model) {
  DP_TRY(rt_engine_new(model->program, model->code, model->source.binding, engine, &model->engine));
  rt_engine_release(model->engine, model->source.binding);
  model->info.threads = engine->workers;
  model->info.vocabulary = rt_engine_vocabulary(model->engine);
  model->info.columns = rt_engine_columns(model->engine);
  model->info.context = rt_engine_context(model->engine);
  model->info.step_tokens = rt_engine_max_tokens(model->engine);
  return DP_SUCCESS;
}

dp_status api_scorer_prepare(const dp_options *options, unsigned tensor, bool compile, dp_model *model) {
  DP_TRY(api_open_source(options, API_SHAPES, &model->source));
  DP_TRY(api_load_adapter(options, &model->source));
  ir_module **module = &model->source.module;
  const char *kv_type = options->kv_type ? options->kv_type : model->source.plan->cache_type;
  if (kv_type) DP_TRY(ps_store_cache(*module, NULL, kv_type));
  DP_TRY(ps_add_score(*module));
  model->source.plan = NULL; /* the passes may replace the module that they live in */
  model->source.recipe = NULL;
  ps_options passes = {.verify_each = options->verify_each, .stress_reparse = options->verify_each};
  DP_TRY(ps_run(module, NULL, 0, &passes));
  const cg_backend *backend = cg_find_backend(options->backend);
  tile_target target = {.cores = 2, .task_bytes = 32768};
  if (backend && backend->numbers) target = *backend->numbers;
  target.tensor &= tensor;
  DP_TRY(ps_schedule(*module, "score", &target, &model->program));
  if (options->verify_each) DP_TRY(tile_check(model->program, 2 * model->program->row_tile + 1, 2, 2, 0));
  return compile ? api_compile(options, model->program, &model->code, &model->info.compiled, &model->note) : DP_SUCCESS;
}

static dp_status open(const dp_options *options, unsigned tensor, dp_model *model) {
  if (options->path && !options->weights) return dp_fail(DP_INVALID, "no weights were named");
  DP_TRY(api_scorer_prepare(options, tensor, true, model));
  DP_TRY(api_open_text(options, model));
  DP_TRY(api_make_weights(options, &model->source));
  rt_engine_options engine = api_engine_options(options, 0);
  DP_TRY(api_set_up_engine(&engine, model));
  model->info.note = model->note.text;
  return DP_SUCCESS;
}

static dp_status open_scorer(const dp_options *options, unsigned tensor, dp_scorer **scorer) {
  dp_scorer *s = calloc(1, sizeof *s);
  if (!s) return dp_fail(DP_NO_MEMORY, "no memory for a scorer");
  dp_options chosen = *options;
  dp_status status = api_choose_device(&chosen, &s->model.note, &s->model.device);
  if (status.code == DP_OK) status = open(&chosen, tensor, &s->model);
  if (status.code != DP_OK) {
    dp_scorer_free(s);
    return status;
  }
  *scorer = s;
  return DP_SUCCESS;
}

dp_status dp_scorer_new(const dp_options *options, dp_scorer **scorer) { return open_scorer(options, ~0u, scorer); }

dp_status api_scorer_open(const dp_options *options, const tile_program *program, dp_scorer **scorer) {
  unsigned stored = 0;
  for (int w = 0; w < program->weight_count; w++) stored |= program->weights[w].storage;
  return open_scorer(options, stored, scorer);
}

void dp_scorer_free(dp_scorer *scorer) {
  if (!scorer) return;
  api_close_model(&scorer->model);
  free(scorer);
}

dp_model_info dp_scorer_get_info(const dp_scorer *scorer) { return scorer->model.info; }

dp_status dp_scorer_run(dp_scorer *scorer, const dp_example *examples, int count, dp_logits *scores) {
  rt_logits rows;
  DP_TRY(api_run_examples(scorer->model.engine, 0, examples, count, &rows));
  *scores = (dp_logits){rows.data, rows.rows, rows.columns, rows.stride};
  return DP_SUCCESS;
}
