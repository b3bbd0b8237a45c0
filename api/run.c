/* api/run.c: a recipe from its data to its last checkpoint. What an update computes depends on the weights, the optimizer's
 * state and the place in the data alone, and a checkpoint holds all three: a resumed run has the bits of an unbroken one. */
#include "api/objective.h"
#include "api/train.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct running {
  const dp_run *run;
  dp_trainer *trainer;
  dp_scorer *reference; /* of dpo: the model that the run began with */
  float *coefficients;  /* [tokens of a step] where the objective wants them */
  ir_recipe recipe; /* its strings are ours */
  rt_data *data;
  rt_trainer_state state;
  rt_weights_file *companions; /* what the weights lay beside at first */
  double flop_a_token;
} running;

static void note(const running *r, const char *text) {
  if (text && r->run->on_note) r->run->on_note(r->run->user, text);
}

/* ---- the optimizer's state */

typedef struct moments {
  rt_save_tensor *tensors;
  struct moment {
    const rt_engine *engine;
    tile_state state;
    int first_slot;
    int64_t floats;
  } * of;
  int count;
  dp_arena *arena;
} moments;

/* Rows of lanes, slot after slot. */
static dp_status fill_slots(const void *context, int64_t first, int64_t count, void *dst) {
  const struct moment *m = context;
  int64_t rows = m->floats / TILE_LANES;
  const int64_t row_bytes = TILE_LANES * (int64_t)sizeof(float);
  for (int64_t i = first, n; i < first + count; i += n, dst = (char *)dst + n * row_bytes) {
    n = rows - i % rows < first + count - i ? rows - i % rows : first + count - i;
    DP_TRY(
        rt_engine_read(m->engine, m->state, m->first_slot + (int)(i / rows), i % rows * row_bytes, n * row_bytes, dst));
  }
  return DP_SUCCESS;
}

/* Each moment as f32[slots, lines of a slot, lanes], in the order of the packed weights: not portable between layouts. The rows are
 * short, as a row is what is written at once. */
static dp_status list_moments(const rt_engine *engine, moments *m) {
  const tile_program *p = rt_engine_program(engine);
  *m = (moments){.arena = dp_arena_new()};
  if (!m->arena) return dp_fail(DP_NO_MEMORY, "no memory for a checkpoint");
  m->tensors = DP_NEW_ARRAY(m->arena, rt_save_tensor, 2 * p->weight_count + 1);
  m->of = DP_NEW_ARRAY(m->arena, struct moment, 2 * p->weight_count + 1);
  for (int w = 0; w < p->weight_count; w++)
    for (int state = TILE_MOMENT1; state <= TILE_MOMENT2; state++) {
      const tile_weight *weight = &p->weights[w];
      if (!rt_engine_keeps(engine, (tile_state)state, weight->first_slot)) continue;
      m->of[m->count] = (struct moment){engine, (tile_state)state, weight->first_slot, tile_slot_floats(weight)};
      m->tensors[m->count] = (rt_save_tensor){
          .name = dp_arena_printf(m->arena, "%s.%s", weight->name, state == TILE_MOMENT1 ? "exp_avg" : "exp_avg_sq"),
          .dtype = IR_f32, .rank = 3,
          .dims = {(int64_t)weight->count * weight->inner, tile_slot_floats(weight) / TILE_LANES, TILE_LANES},
          .fill = fill_slots, .context = &m->of[m->count]};
      m->count++;
    }
  return DP_SUCCESS;
}

static dp_status read_moment(const rt_checkpoint *checkpoint, const rt_save_tensor *tensor, const struct moment *m,
                             rt_engine *engine, float *piece, int64_t most) {
  int64_t slots = tensor->dims[0];
  for (int64_t s = 0; s < slots; s++)
    for (int64_t at = 0, some; at < m->floats; at += some) {
      some = m->floats - at < most ? m->floats - at : most;
      DP_TRY(rt_checkpoint_read_part(checkpoint, tensor->name, s * m->floats + at, some, piece, slots * m->floats));
      DP_TRY(rt_engine_write(engine, m->state, m->first_slot + (int)s, 4 * at, 4 * some, piece));
    }
  return DP_SUCCESS;
}

static dp_status read_moments(const rt_checkpoint *checkpoint, rt_engine *engine) {
  enum { PIECE = 1 << 18 };
  moments m;
  float *piece = malloc(sizeof *piece * PIECE);
  dp_status status = list_moments(engine, &m);
  if (status.code == DP_OK && !piece) status = dp_fail(DP_NO_MEMORY, "no memory to read a checkpoint");
  for (int i = 0; i < m.count && status.code == DP_OK; i++)
    status = read_moment(checkpoint, &m.tensors[i], &m.of[i], engine, piece, PIECE);
  free(piece);
  dp_arena_free(m.arena);
  return status;
}

/* ---- checkpoints */

static dp_status save_weights(void *user, const char *path) { return dp_trainer_save(((running *)user)->trainer, path, false); }

static dp_status save(running *r) {
  moments m;
  const dp_model *model = &r->trainer->model;
  rt_binding *binding;
  DP_TRY(rt_engine_bind(model->engine, TILE_VALUE, model->source.module, model->source.binding, &binding));
  const api_source *source = &model->source;
  bool adapter = source->adaptations != NULL;
  uint64_t bytes = adapter ? rt_adapter_bytes(source->module, source->declared, source->adaptations, binding)
                           : rt_saved_bytes(source->module, binding, IR_f32);
  rt_binding_free(binding);
  dp_status status = list_moments(model->engine, &m);
  rt_checkpoint_plan plan = {.directory = r->run->out, .keep = (int)r->recipe.keep, .state = r->state,
                             .save_weights = save_weights, .user = r, .adapter = adapter, .weights_bytes = bytes,
                             .weights_type = IR_f32, .scalar_head = ir_find_weight(source->module, "score") != NULL,
                             .optimizer = m.tensors, .optimizer_count = m.count,
                             .source = adapter ? NULL : r->companions}; /* an adapter's folder is no model's */
  if (status.code == DP_OK) status = rt_checkpoint_save(&plan);
  dp_arena_free(m.arena);
  return status;
}

/* ---- one update */

static double rate_of(const ir_recipe *recipe, int64_t step) {
  const ir_optimizer *o = &recipe->optimizer;
  const double pi = 3.14159265358979323846;
  if (step < o->warmup) return o->lr * (double)(step + 1) / (double)o->warmup;
  double rest = (double)(recipe->steps - o->warmup), done = rest > 0 ? (double)(step - o->warmup) / rest : 1;
  if (o->schedule == IR_LR_LINEAR) return o->lr + (o->lr_end - o->lr) * done;
  if (o->schedule == IR_LR_COSINE) return o->lr_end + (o->lr - o->lr_end) * 0.5 * (1 + cos(pi * done));
  return o->lr;
}

static dp_status broken_loss(const running *r, const dp_example *examples, int count, double loss, const rt_example *sequence,
                             int64_t token) {
  dp_str where = {0};
  DP_TRY(api_find_broken(r->trainer, examples, count, &where));
  dp_status status = dp_fail(DP_INVALID, "step %lld: the loss is %g, from token %lld of a sequence of %lld on%s; the last "
                             "checkpoint is as it was: a lower learning rate, or a clip, may help",
                             (long long)r->state.step + 1, loss, (long long)token, (long long)sequence->count,
                             where.text ? where.text : "");
  dp_str_free(&where);
  return status;
}

/* What slopes depend on: the scores of the model, and of its reference. */
static dp_status find_slopes(running *r, const rt_batch *batch, int from, int to, dp_example *examples, api_objective_sums *sums) {
  const float *scores;
  dp_logits reference = {0};
  DP_TRY(dp_trainer_score(r->trainer, examples, to - from, &scores));
  if (r->reference) DP_TRY(dp_scorer_run(r->reference, examples, to - from, &reference));
  int64_t rows = 0;
  for (int i = from; i < to; i++)
    for (int64_t t = 0; t < batch->sequences[i].count; t++, rows++)
      if (!isfinite(scores[rows])) return broken_loss(r, examples, to - from, (double)scores[rows], &batch->sequences[i], t);
  dp_logits own = {scores, rows, 1, 1};
  api_objective(&r->recipe, batch->sequences + from, to - from, &own, &reference, r->coefficients, sums);
  float *coefficients = r->coefficients;
  for (int i = 0; i < to - from; coefficients += examples[i++].count) examples[i].coefficients = coefficients;
  return DP_SUCCESS;
}

/* Sequences [from, to) of the batch, with their slopes where the objective has such; the caller's. */
static dp_status make_examples(running *r, const rt_batch *batch, int from, int to, api_objective_sums *sums, dp_example **out) {
  dp_example *examples = calloc((size_t)(to - from) + 1, sizeof *examples);
  if (!examples) return dp_fail(DP_NO_MEMORY, "no memory for a step");
  for (int i = from; i < to; i++)
    examples[i - from] = (dp_example){.ids = batch->sequences[i].ids, .targets = batch->sequences[i].targets,
                                      .count = (size_t)batch->sequences[i].count};
  dp_status status = api_objective_from_scores(r->recipe.objective) ? find_slopes(r, batch, from, to, examples, sums) : DP_SUCCESS;
  if (status.code != DP_OK) free(examples);
  *out = status.code == DP_OK ? examples : NULL;
  return status;
}

/* Those sequences in one step; their losses are added to *sums. */
static dp_status add_sequences(running *r, const rt_batch *batch, int from, int to, api_objective_sums *sums) {
  dp_example *examples;
  const float *losses;
  DP_TRY(make_examples(r, batch, from, to, sums, &examples));
  dp_status status = dp_trainer_add(r->trainer, examples, to - from, &losses);
  bool from_scores = api_objective_from_scores(r->recipe.objective);
  for (int i = from; i < to && status.code == DP_OK && !from_scores; i++)
    for (int64_t t = 0; t < batch->sequences[i].count && status.code == DP_OK; t++, losses++) {
      sums->loss += (double)*losses;
      sums->units += batch->sequences[i].targets[t] >= 0;
      if (!isfinite(*losses)) status = broken_loss(r, examples, to - from, (double)*losses, &batch->sequences[i], t);
    }
  free(examples);
  return status;
}

/* As many sequences as find room: tokens in a step, pages of the cache, which each begins anew; `together` that many. */
static int end_of_step(const running *r, const rt_batch *batch, int from, int together) {
  const dp_model_info *most = &r->trainer->model.info;
  int64_t tokens = 0, pages = 0;
  int to = from;
  for (; to < batch->count; to += together) {
    for (int i = to; i < to + together; i++) {
      tokens += batch->sequences[i].count;
      pages += (batch->sequences[i].count + TILE_CHUNK - 1) / TILE_CHUNK;
    }
    if (to > from && (tokens > most->step_tokens || pages > most->context / TILE_CHUNK)) break;
  }
  return to;
}

/* Losses are numbers, the gradients' norm is none. */
static dp_status broken_norm(running *r, const rt_batch *batch, double norm) {
  int together = api_objective_in_pairs(r->recipe.objective) ? 2 : 1;
  dp_str where = {0};
  for (int from = 0, to; from < batch->count && !where.text; from = to) {
    api_objective_sums sums = {0};
    dp_example *examples;
    to = end_of_step(r, batch, from, together);
    DP_TRY(make_examples(r, batch, from, to, &sums, &examples));
    dp_status status = api_find_broken(r->trainer, examples, to - from, &where);
    free(examples);
    DP_TRY(status);
  }
  dp_status status = dp_fail(DP_INVALID, "step %lld: the norm of the gradients is %g%s; weights and the last checkpoint are as they were",
                             (long long)r->state.step + 1, norm, where.text ? where.text : "");
  dp_str_free(&where);
  return status;
}

static dp_status update(running *r, dp_run_step *step) {
  rt_batch batch;
  api_objective_sums sums = {0};
  double begin = api_seconds();
  int together = api_objective_in_pairs(r->recipe.objective) ? 2 : 1;
  DP_TRY(rt_data_next(r->data, r->recipe.batch, &batch));
  for (int from = 0, to; from < batch.count; from = to) { /* how they are cut into steps does not change a bit */
    to = end_of_step(r, &batch, from, together);
    DP_TRY(add_sequences(r, &batch, from, to, &sums));
  }
  double pairs = sums.pairs > 0 ? (double)sums.pairs : 1;
  *step = (dp_run_step){.steps = r->recipe.steps, .tokens = batch.tokens, .targets = batch.targets, .pairs = sums.pairs,
                        .accuracy = (double)sums.correct / pairs, .margin = sums.margin / pairs,
                        .lr = rate_of(&r->recipe, r->state.step), .flop = r->flop_a_token * (double)batch.tokens};
  step->loss = sums.loss / (double)sums.units;
  dp_status status = dp_trainer_update(r->trainer, sums.units, step->lr, &step->norm);
  if (status.code == DP_INVALID && !isfinite(step->norm)) {
    dp_status_free(&status);
    return broken_norm(r, &batch, step->norm);
  }
  DP_TRY(status);
  r->state.loss = step->loss;
  r->state.position = rt_data_tell(r->data);
  step->step = ++r->state.step;
  step->seconds = api_seconds() - begin;
  return DP_SUCCESS;
}

/* ---- a run */

/* Each product once: those of the forward entry, and of the training entry those that go back and those into gradients, not
 * those that are made again. */
static double flop_a_token(const tile_program *p) {
  double flop = 0;
  tile_entry forward = tile_entry_at(p, TRAINER_FORWARD), train = tile_entry_at(p, TRAINER_TRAIN);
  for (int g = 0; g < p->group_count; g++) {
    const tile_kind *kind = &p->kinds[p->groups[g].kind];
    for (int i = 0; i < kind->op_count; i++) {
      tile_opcode code = kind->ops[i].code;
      bool counts = code == TILE_mma ? tile_in_entry(p, &forward, g)
                                     : (code == TILE_mma_back || code == TILE_mma_rows) && tile_in_entry(p, &train, g);
      if (!counts) continue;
      const tile_weight *weight = &p->weights[kind->ops[i].ref];
      flop += 2.0 * (double)weight->rows * (double)weight->cols * p->sections[p->groups[g].section].iterations *
              (kind->used ? kind->used : kind->batches);
    }
  }
  return flop;
}

static dp_status open_data(running *r) {
  const dp_model *model = &r->trainer->model;
  rt_data_options options = rt_data_defaults(model->tokenizer);
  options.path = r->run->data ? r->run->data : r->recipe.data;
  if (!options.path) return dp_fail(DP_INVALID, "no data: neither the recipe nor --data names any");
  options.format = r->recipe.format;
  options.tokenizer = model->tokenizer;
  options.chat = model->chat;
  options.vocabulary = model->info.vocabulary;
  options.length = r->recipe.length;
  options.seed = r->recipe.seed;
  options.skip_broken = r->recipe.skip_broken;
  options.pack = true;
  ir_data_format wanted = api_objective_in_pairs(r->recipe.objective) ? IR_DATA_PAIRS : IR_DATA_VALUES;
  DP_TRY(rt_data_open(&options, &r->data));
  ir_data_format format = rt_data_format(r->data);
  bool from_scores = api_objective_from_scores(r->recipe.objective);
  if (from_scores ? format != wanted : format == IR_DATA_PAIRS || format == IR_DATA_VALUES)
    return dp_fail(DP_INVALID, "'%s' has data of format %s, and `%s` wants %s", options.path, ir_data_format_names[format],
                   ir_objective_name(r->recipe.objective), from_scores ? ir_data_format_names[wanted] : "text, chat or tokens");
  rt_data_stats stats = rt_data_get_stats(r->data);
  dp_str text = {0};
  if (stats.broken) dp_str_addf(&text, "%lld broken lines of data are left out; the first: %s", (long long)stats.broken, stats.first_problem);
  note(r, text.text);
  dp_str_free(&text);
  r->state.data_identity = rt_data_identity(r->data);
  r->state.seed = r->recipe.seed;
  return DP_SUCCESS;
}

static dp_status go_on_from(running *r, const rt_checkpoint *checkpoint) {
  DP_TRY(read_moments(checkpoint, r->trainer->model.engine));
  if (checkpoint->state.data_identity != r->state.data_identity)
    return dp_fail(DP_INVALID, "%s was made with other data, or with other lengths or another seed: it cannot be resumed with these",
                   checkpoint->directory);
  DP_TRY(rt_data_seek(r->data, checkpoint->state.position));
  r->state = checkpoint->state;
  r->trainer->steps = checkpoint->state.step;
  return DP_SUCCESS;
}

/* The recipe outlives the module it was read with. */
static dp_status copy_recipe(running *r, const api_source *source) {
  if (!source->recipe) return dp_fail(DP_INVALID, "%s has no recipe for model '%s'", r->run->model.path, source->module->name);
  r->recipe = *source->recipe;
  r->recipe.data = source->recipe->data ? strdup(source->recipe->data) : NULL;
  r->recipe.optimizer.no_decay = NULL;
  if (r->run->steps > 0) r->recipe.steps = r->run->steps;
  return DP_SUCCESS;
}

/* What the objective wants beside the trainer. */
static dp_status open_objective(running *r, const dp_training *training) {
  if (!api_objective_from_scores(r->recipe.objective)) return DP_SUCCESS;
  r->coefficients = malloc(sizeof *r->coefficients * (size_t)training->model.step_tokens);
  if (!r->coefficients) return dp_fail(DP_NO_MEMORY, "no memory for a step");
  if (r->recipe.objective != IR_DPO) return DP_SUCCESS;
  dp_options options = training->model;
  options.weights = r->run->model.weights;
  options.adapter = r->run->model.adapter;
  return api_scorer_open(&options, r->trainer->model.program, &r->reference);
}

static dp_status open_run(running *r, const rt_checkpoint *checkpoint) {
  dp_training training = {.model = r->run->model};
  api_source source;
  bool adapter = checkpoint && rt_is_adapter(checkpoint->directory);
  if (adapter) training.model.adapter = checkpoint->directory;
  else if (checkpoint) training.model.weights = checkpoint->directory;
  if (checkpoint && !adapter && strncmp(r->run->model.weights, "random:", 7) != 0 && !training.model.tokenizer)
    training.model.tokenizer = r->run->model.weights;
  DP_TRY(api_open_source(&training.model, API_TRAINING, &source));
  dp_status status = copy_recipe(r, &source);
  if (status.code == DP_OK) status = api_follow_recipe(r->run, &r->recipe, &training);
  if (status.code == DP_OK) status = api_trainer_open(&training, &source, &r->trainer);
  api_close_source(&source);
  if (status.code == DP_NO_MEMORY) return api_advise(r->run, status);
  if (status.code != DP_OK) return status;
  DP_TRY(open_objective(r, &training));
  r->flop_a_token = flop_a_token(r->trainer->model.program);
  if (r->reference) r->flop_a_token *= 4.0 / 3; /* one forward more */
  DP_TRY(open_data(r));
  if (strncmp(r->run->model.weights, "random:", 7) != 0) DP_TRY(rt_weights_open(r->run->model.weights, &r->companions));
  return checkpoint ? go_on_from(r, checkpoint) : DP_SUCCESS;
}

static dp_status run_steps(running *r) {
  bool on = true;
  while (on && r->state.step < r->recipe.steps) {
    dp_run_step step;
    DP_TRY(update(r, &step));
    bool last = step.step == r->recipe.steps, due = r->recipe.save_every > 0 && step.step % r->recipe.save_every == 0;
    step.saved = r->run->out && (last || due);
    if (step.saved) DP_TRY(save(r));
    if (r->run->on_step) on = r->run->on_step(r->run->user, &step);
    if (!on && r->run->out && !step.saved) DP_TRY(save(r));
  }
  return DP_SUCCESS;
}

static dp_status run_on_device(const dp_run *run) {
  running r = {.run = run};
  rt_checkpoint *checkpoint = NULL;
  if (!run->model.weights) return dp_fail(DP_INVALID, "no weights were named to begin with");
  if (run->resume && !run->out) return dp_fail(DP_INVALID, "no directory to resume from was named");
  dp_status status = DP_SUCCESS;
  if (run->resume) status = rt_checkpoint_open(run->out, &checkpoint);
  if (status.code == DP_NOT_FOUND) { /* nothing was saved yet: from the beginning */
    dp_status_free(&status);
    status = DP_SUCCESS;
  }
  if (checkpoint) note(&r, checkpoint->note);
  if (status.code == DP_OK) status = open_run(&r, checkpoint);
  rt_checkpoint_close(checkpoint);
  if (status.code == DP_OK) status = run_steps(&r);
  dp_trainer_free(r.trainer);
  dp_scorer_free(r.reference);
  free(r.coefficients);
  rt_data_close(r.data);
  rt_weights_close(r.companions);
  free((char *)(uintptr_t)r.recipe.data);
  return status;
}

dp_status dp_run_recipe(const dp_run *run) {
  dp_run chosen = *run;
  dp_str why = {0};
  dp_status status = api_choose_device(&chosen.model, &why, NULL);
  if (status.code == DP_OK && why.text && run->on_note) run->on_note(run->user, why.text);
  dp_str_free(&why);
  return status.code == DP_OK ? run_on_device(&chosen) : status;
}
