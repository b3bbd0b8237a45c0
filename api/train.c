/* api/train.c: a trainer: text and weights to one program of entries (forward, train, update, score), and an engine that
 * keeps gradients and moments. */
#include "api/train.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>



static dp_status refuse(const char *what) {
  return dp_fail(DP_UNSUPPORTED, "the plan's `%s` is read, and not carried out yet", what);
}

/* What the plan says of weights goes into the module; what is needed after the passes is copied, as they may replace it. An
 * adapter decays where the weight that it stands beside would. */
static dp_status follow_plan(const api_source *source, bool *no_decay) {
  const ir_plan *plan = source->plan;
  int adapter = source->declared;
  for (int i = 0; i < source->declared; i++) {
    ir_weight *weight = &source->module->weights[i];
    weight->frozen = plan->weights[i].frozen;
    if (!weight->frozen) weight->storage = 1u << (ir_weight_rank(weight) < 2 ? IR_f32 : plan->weight_type);
    no_decay[i] = source->recipe ? source->recipe->optimizer.no_decay[i] : ir_weight_rank(weight) < 2;
    for (int j = 0; j < 2 && plan->weights[i].lora_rank; j++) no_decay[adapter++] = no_decay[i];
  }
  for (int i = 0; i < source->module->weight_count; i++) {
    int tie = rt_binding_tie(source->binding, i);
    if (tie >= 0 && source->module->weights[i].frozen != source->module->weights[tie].frozen)
      return dp_fail(DP_INVALID, "'%s' stands for '%s' in these weights: the plan must freeze both or none",
                     source->module->weights[i].name, source->module->weights[tie].name);
  }
  return plan->cache_type && strcmp(plan->cache_type, "f32") != 0 ? refuse("cache f16") : DP_SUCCESS;
}

static dp_status add_update(const dp_adamw *o, const bool *no_decay, dp_trainer *t) {
  ir_module *module = t->model.source.module;
  int *ties = calloc((size_t)module->weight_count + 1, sizeof *ties);
  if (!ties) return dp_fail(DP_NO_MEMORY, "no memory for an update");
  for (int i = 0; i < module->weight_count; i++) ties[i] = rt_binding_tie(t->model.source.binding, i);
  ps_update how = {.ties = ties, .no_decay = no_decay, .beta1 = o->beta1, .beta2 = o->beta2, .eps = o->eps,
                   .stochastic = t->stochastic};
  dp_status status = ps_add_update(module, &how);
  free(ties);
  return status;
}

static ir_recompute recompute_of(const dp_training *training, const ir_plan *plan) {
  static const ir_recompute asked[] = {[DP_RECOMPUTE_BLOCK] = IR_RECOMPUTE_BLOCK, [DP_RECOMPUTE_SELECTIVE] = IR_RECOMPUTE_SELECTIVE,
                                       [DP_RECOMPUTE_NONE] = IR_RECOMPUTE_NONE};
  return training->recompute == DP_RECOMPUTE_AS_PLANNED ? plan->recompute : asked[training->recompute];
}

static void give(dp_trainer *t, const char *name, double value) {
  float *number = rt_engine_number(t->model.engine, name);
  if (number) *number = (float)value;
}

/* Of random rounding: two whole numbers below 2^24, others for each update of each seed (splitmix64). */
static void give_keys(dp_trainer *t) {
  uint64_t x = t->seed + 0x9E3779B97F4A7C15u * (uint64_t)t->steps;
  x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
  x = (x ^ x >> 27) * 0x94D049BB133111EBu;
  x ^= x >> 31;
  give(t, "key", (double)(x & 0xffffff));
  give(t, "key2", (double)(x >> 24 & 0xffffff));
}

static dp_status make_program(const dp_training *training, const bool *no_decay, dp_trainer *t) {
  const dp_options *options = &training->model;
  ir_module **module = &t->model.source.module;
  if (!(*module)->graphs) return dp_fail(DP_INVALID, "model %s has no graph", (*module)->name);
  ps_training how = {.recompute = recompute_of(training, t->model.source.plan)};
  t->stochastic = t->model.source.plan->stochastic;
  t->model.source.plan = NULL; /* the passes may replace the module */
  t->model.source.recipe = NULL;
  DP_TRY(ps_differentiate(*module, &how));
  if (training->scores) DP_TRY(ps_add_score(*module));
  ps_options passes = {.verify_each = options->verify_each, .stress_reparse = options->verify_each};
  DP_TRY(ps_run(module, NULL, 0, &passes));
  DP_TRY(add_update(&t->optimizer, no_decay, t));
  DP_TRY(ps_add_pick(*module));
  const cg_backend *backend = cg_find_backend(options->backend);
  tile_target target = {.cores = 2, .task_bytes = 32768};
  if (backend && backend->numbers) target = *backend->numbers;
  target.wide_columns = training->wide_columns;
  const char *entries[TRAINER_SCORE + 2] = {[TRAINER_FORWARD] = (*module)->graphs->name, [TRAINER_TRAIN] = "train",
                                 [TRAINER_NORM] = "norm", [TRAINER_UPDATE] = "update", [TRAINER_SCORE] = "score"};
  int count = training->scores ? TRAINER_SCORE + 1 : TRAINER_SCORE;
  if (ir_find_graph(*module, "pick")) entries[count++] = "pick"; /* what samples from it finds it by name */
  DP_TRY(ps_schedule_all(*module, entries, count, &target, &t->model.program));
  if (!options->verify_each) return DP_SUCCESS;
  DP_TRY(tile_check(t->model.program, 2 * t->model.program->row_tile + 1, 2, 2, 0));
  return tile_check(t->model.program, 1, 1, 1, 0);
}

dp_status api_trainer_prepare(const dp_training *training, bool compile, dp_trainer *t) {
  const dp_options *options = &training->model;
  DP_TRY(api_plan_adapter(options, &t->model.source));
  int weights = t->model.source.module->weight_count;
  bool *no_decay = calloc((size_t)weights + 1, sizeof *no_decay);
  dp_status status = no_decay ? follow_plan(&t->model.source, no_decay) : dp_fail(DP_NO_MEMORY, "no memory for a trainer");
  if (status.code == DP_OK) status = make_program(training, no_decay, t);
  free(no_decay);
  if (status.code != DP_OK || !compile) return status;
  DP_TRY(api_compile(options, t->model.program, &t->model.code, &t->model.info.compiled, &t->model.note));
  return api_open_text(options, &t->model);
}

static dp_status open(const dp_training *training, dp_trainer *t) {
  dp_run_plan plan;
  DP_TRY(api_trainer_prepare(training, true, t));
  rt_memory_trim(); /* of what the compiler had */
  api_plan_trainer(training, t, rt_memory_resident(), &plan);
  DP_TRY(api_check_plan(&plan));
  DP_TRY(api_make_weights(&training->model, &t->model.source));
  rt_engine_options engine = api_engine_options(&training->model, training->sequences);
  DP_TRY(api_set_up_engine(&engine, &t->model));
  DP_TRY(rt_engine_commit(t->model.engine, training->sequences > 0));
  t->losses = malloc(sizeof *t->losses * (size_t)t->model.info.step_tokens);
  return t->losses ? DP_SUCCESS : dp_fail(DP_NO_MEMORY, "no memory for losses");
}

dp_adamw dp_adamw_defaults(void) {
  return (dp_adamw){.lr = 1e-3, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .decay = 0.01, .clip = 1};
}

dp_status api_trainer_open(const dp_training *training, api_source *source, dp_trainer **trainer) {
  dp_trainer *t = calloc(1, sizeof *t);
  dp_training how = *training;
  if (how.optimizer.beta2 == 0 && how.optimizer.lr == 0) how.optimizer = dp_adamw_defaults();
  dp_status status = t ? DP_SUCCESS : dp_fail(DP_NO_MEMORY, "no memory for a trainer");
  if (t) {
    t->optimizer = how.optimizer;
    t->seed = how.seed;
    t->model.source = *source;
    *source = (api_source){0};
    status = open(&how, t);
  }
  if (status.code != DP_OK) {
    dp_trainer_free(t);
    return status;
  }
  *trainer = t;
  return DP_SUCCESS;
}

static dp_status new_trainer(const dp_training *training, dp_trainer **trainer) {
  api_source source;
  DP_TRY(api_open_source(&training->model, API_TRAINING, &source));
  dp_status status = api_trainer_open(training, &source, trainer);
  api_close_source(&source);
  return status;
}

static void add_note(dp_model *model, const char *text) {
  if (text) dp_str_addf(&model->note, "%s%s", model->note.length ? "; " : "", text);
  model->info.note = model->note.text;
}

dp_status dp_trainer_new(const dp_training *training, dp_trainer **trainer) {
  dp_training how = *training;
  dp_str note = {0}, device = {0};
  dp_status status = api_choose_device(&how.model, &note, &device);
  if (status.code == DP_OK) status = new_trainer(&how, trainer);
  if (status.code == DP_OK) {
    dp_model *model = &(*trainer)->model;
    add_note(model, note.text);
    model->device = device;
    model->info.device = device.text ? device.text : "cpu";
  } else {
    dp_str_free(&device);
  }
  dp_str_free(&note);
  return status;
}

void dp_trainer_free(dp_trainer *t) {
  if (!t) return;
  api_close_model(&t->model);
  free(t->losses);
  free(t);
}

dp_model *dp_trainer_model(dp_trainer *t) { return &t->model; }

dp_status dp_trainer_clear(dp_trainer *t) { return rt_engine_clear(t->model.engine, TILE_GRADIENT); }

static dp_status run(dp_trainer *t, int entry, const dp_example *examples, int count, const float **scores) {
  rt_logits rows;
  DP_TRY(api_run_examples(t->model.engine, entry, examples, count, &rows));
  for (int64_t i = 0; i < rows.rows; i++) t->losses[i] = rows.data[i * rows.stride];
  if (scores) *scores = t->losses;
  return DP_SUCCESS;
}

dp_status dp_trainer_add(dp_trainer *t, const dp_example *examples, int count, const float **losses) {
  return run(t, TRAINER_TRAIN, examples, count, losses);
}

dp_status dp_trainer_score(dp_trainer *t, const dp_example *examples, int count, const float **scores) {
  if (tile_find_entry(t->model.program, "score") < 0) return dp_fail(DP_INVALID, "the trainer was not made for scores");
  return run(t, TRAINER_SCORE, examples, count, scores);
}

dp_status dp_trainer_update(dp_trainer *t, int64_t tokens, double lr, double *norm) {
  const dp_adamw *o = &t->optimizer;
  if (tokens < 1) return dp_fail(DP_INVALID, "an update of the gradients of no tokens");
  if (!(lr >= 0) || isinf(lr)) return dp_fail(DP_INVALID, "a learning rate of %g", lr);
  const float scale = (float)(1 / (double)tokens), limit = (float)o->clip;
  give(t, "scale", (double)scale);
  DP_TRY(rt_engine_run(t->model.engine, TRAINER_NORM, NULL, 0, NULL));
  const float size = *rt_engine_number(t->model.engine, "norm");
  if (norm) *norm = (double)size;
  if (!isfinite(size))
    return dp_fail(DP_INVALID, "the norm of the gradients is %g: the weights are left as they were", (double)size);
  float factor = scale;
  if (o->clip > 0 && limit / (size + 1e-6f) < 1) factor = scale * (limit / (size + 1e-6f));
  double n = (double)++t->steps;
  give(t, "factor", (double)factor);
  give(t, "keep", 1 - lr * o->decay);
  give(t, "rate", lr / (1 - pow(o->beta1, n)));
  give(t, "root", 1 / sqrt(1 - pow(o->beta2, n)));
  give_keys(t);
  return rt_engine_run(t->model.engine, TRAINER_UPDATE, NULL, 0, NULL);
}

/* ---- where numbers end */

/* The first of the slot's numbers that is none; at -1: there is none. */
static dp_status find_broken_slot(const rt_engine *engine, tile_state state, int slot, int64_t floats, int64_t *at) {
  enum { PIECE = 1 << 14 };
  float *piece = malloc(sizeof *piece * PIECE);
  dp_status status = piece ? DP_SUCCESS : dp_fail(DP_NO_MEMORY, "no memory to look for what is no number");
  *at = -1;
  for (int64_t first = 0; first < floats && *at < 0 && status.code == DP_OK; first += PIECE) {
    int64_t some = floats - first < PIECE ? floats - first : PIECE;
    status = rt_engine_read(engine, state, slot, 4 * first, 4 * some, piece);
    for (int64_t j = 0; j < some && *at < 0 && status.code == DP_OK; j++)
      if (!isfinite(piece[j])) *at = first + j;
  }
  free(piece);
  return status;
}

static dp_status find_broken_state(const rt_engine *engine, tile_state state, dp_str *out) {
  const tile_program *p = rt_engine_program(engine);
  for (int w = 0; w < p->weight_count; w++) {
    const tile_weight *weight = &p->weights[w];
    if (state == TILE_VALUE && weight->form != TILE_VECTOR && (weight->storage & ~(1u << IR_f32))) continue;
    for (int i = 0; i < weight->count * weight->inner && rt_engine_keeps(engine, state, weight->first_slot + i); i++) {
      int64_t at;
      DP_TRY(find_broken_slot(engine, state, weight->first_slot + i, tile_slot_floats(weight), &at));
      if (at < 0) continue;
      dp_str_addf(out, "; the first such number is in %s'%s'", state == TILE_VALUE ? "weight " : "the gradient of ",
                  weight->name);
      if (weight->count > 1) dp_str_addf(out, ", layer %d", weight->first_layer + i / weight->inner);
      return DP_SUCCESS;
    }
  }
  return DP_SUCCESS;
}

/* In the order in which they come up: weights, values on the way, sums into gradients. */
dp_status api_find_broken(dp_trainer *t, const dp_example *examples, int count, dp_str *where) {
  rt_broken broken;
  DP_TRY(find_broken_state(t->model.engine, TILE_VALUE, where));
  if (where->length) return DP_SUCCESS;
  DP_TRY(api_walk_examples(t->model.engine, TRAINER_TRAIN, examples, count, &broken));
  if (!broken.made_by) return find_broken_state(t->model.engine, TILE_GRADIENT, where);
  dp_str_addf(where, "; the first such number, %g, is made by '%s'", (double)broken.number, broken.made_by);
  if (broken.value && strcmp(broken.value, broken.made_by) != 0) dp_str_addf(where, " (as '%s')", broken.value);
  if (broken.layer >= 0) dp_str_addf(where, " in layer %lld%s", (long long)broken.layer, broken.back ? " of the backward pass" : "");
  dp_str_addf(where, ", at token %lld of the step", (long long)broken.row);
  return DP_SUCCESS;
}

dp_status dp_trainer_save(dp_trainer *t, const char *path, bool gradients) {
  const api_source *source = &t->model.source;
  rt_binding *binding;
  DP_TRY(rt_engine_bind(t->model.engine, gradients ? TILE_GRADIENT : TILE_VALUE, source->module, source->binding, &binding));
  dp_status status = source->adaptations && !gradients ? api_save_adapter(path, source, binding)
                                                       : rt_save_weights(path, source->module, binding, IR_f32);
  rt_binding_free(binding);
  return status;
}

dp_status dp_trainer_trace_start(dp_trainer *t, int64_t max_tasks) {
  return api_trace_start(t->model.engine, t->model.info.threads, max_tasks, &t->model.trace);
}

dp_status dp_trainer_trace_stop(dp_trainer *t, dp_trace **trace) {
  return api_trace_stop(t->model.engine, t->model.info.threads, &t->model.trace, trace);
}

dp_status dp_trainer_text(const dp_trainer *t, dp_text *text) {
  dp_str out = {0};
  tile_print(&out, t->model.program);
  return api_take_text(&out, text);
}
