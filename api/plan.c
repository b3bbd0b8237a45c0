/* api/plan.c: the memory and the work of a training run before it runs. When it does not fit, statements of recipe and plan
 * are tried through the same account (account.c). */
#include "api/objective.h"
#include "api/train.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- work */

typedef struct work {
  const tile_program *program;
  double tokens, seen; /* tokens of a step; positions that one of them sees on the average */
} work;

/* All columns that the tasks of a row make of an op. */
static double columns_of(const tile_kind *kind, const tile_op *op) {
  double parts = kind->used ? kind->used : kind->batches;
  return op->column_tile ? parts * (double)kind->columns : parts * op->cols;
}

static bool is_of_weight(tile_opcode code) {
  return code == TILE_mma || code == TILE_mma_back || code == TILE_mma_rows || code == TILE_parameter || code == TILE_assign;
}

static void add_op(const work *w, const tile_kind *kind, const tile_op *op, double times, dp_run_plan *plan) {
  const tile_weight *weight = &w->program->weights[is_of_weight(op->code) ? op->ref : 0];
  double rows = w->tokens * (kind->used ? 1 : kind->group), parts = kind->used ? kind->used : kind->batches;
  switch (op->code) {
  case TILE_mma:
    plan->flop += 2 * times * rows * columns_of(kind, op) * (double)weight->cols;
    break;
  case TILE_mma_back:
    plan->flop += 2 * times * rows * columns_of(kind, op) * (double)weight->rows;
    break;
  case TILE_mma_rows:
    plan->flop += 2 * times * w->tokens * parts * (double)weight->rows * (double)weight->cols;
    break;
  case TILE_mma_keys:
    plan->attention_flop += 2 * times * rows * kind->col_tasks * (double)w->program->caches[op->ref].dim[0] * w->seen;
    break;
  case TILE_mma_values:
    plan->attention_flop += 2 * times * rows * kind->col_tasks * op->cols * w->seen;
    break;
  case TILE_parameter:
  case TILE_assign:
    plan->update_bytes += 4.0 * (double)tile_slot_floats(weight) * weight->count * weight->inner;
    break;
  default:
    break;
  }
}

static void add_entry(const work *w, int index, dp_run_plan *plan) {
  const tile_program *p = w->program;
  tile_entry entry = tile_entry_at(p, index);
  for (int g = 0; g < p->group_count; g++) {
    if (!tile_in_entry(p, &entry, g)) continue;
    const tile_section *section = &p->sections[p->groups[g].section];
    const tile_kind *kind = &p->kinds[p->groups[g].kind];
    for (int i = 0; i < kind->op_count; i++)
      add_op(w, kind, &kind->ops[i], section->window || kind->slots ? 1 : section->iterations, plan);
  }
}

/* Attention goes by whole chunks, of which a token sees half on the average. */
static void add_work(const tile_program *p, ir_objective objective, int64_t tokens, int64_t length, dp_run_plan *plan) {
  double half = ((double)length + TILE_CHUNK) / 2;
  work w = {p, (double)tokens, half < (double)length ? half : (double)length};
  for (int scored = api_objective_from_scores(objective) + (objective == IR_DPO); scored > 0; scored--) /* the reference too */
    add_entry(&w, TRAINER_SCORE, plan);
  add_entry(&w, TRAINER_TRAIN, plan);
  add_entry(&w, TRAINER_NORM, plan);
  add_entry(&w, TRAINER_UPDATE, plan);
}

/* ---- of a recipe */

/* Statements in place of the recipe's and the plan's. */
typedef struct change {
  int64_t accumulate, length; /* 0: as it is */
  bool block;
  int frozen[3], frozen_count;
} change;

/* The reference is opened behind the trainer, by options of the same step. */
static dp_status reference_bytes(const dp_run *run, dp_training *training) {
  dp_options options = training->model;
  dp_model model = {0};
  options.weights = run->model.weights;
  dp_status status = api_scorer_prepare(&options, ~0u, false, &model);
  if (status.code == DP_OK) {
    rt_engine_options engine = api_engine_options(&options, training->sequences);
    tile_code code = api_code_to_measure(&options);
    rt_engine_sizes sizes = rt_engine_measure(model.program, &code, model.source.binding, &engine);
    rt_engine_sizes there = rt_engine_measure_device(model.program, &code, model.source.binding, &engine);
    dp_training as_stored = {.model = options};
    int64_t parts[] = {rt_engine_sizes_sum(&sizes), sizes.logits, sizes.loading, api_random_bytes(&as_stored, sizes.weights / 4)};
    training->reserve = api_sum_bytes(parts, DP_COUNT(parts));
    training->device_reserve = rt_bytes_plus(rt_engine_sizes_sum(&there), there.logits);
  }
  api_close_model(&model);
  return status;
}

dp_status api_follow_recipe(const dp_run *run, const ir_recipe *recipe, dp_training *training) {
  const ir_optimizer *o = &recipe->optimizer;
  int64_t sequences = recipe->batch / (recipe->accumulate > 0 ? recipe->accumulate : 1);
  if (api_objective_in_pairs(recipe->objective)) sequences = rt_bytes_times(sequences, 2);
  training->optimizer = (dp_adamw){.lr = o->lr, .beta1 = o->beta1, .beta2 = o->beta2, .eps = o->eps, .decay = o->decay, .clip = o->clip};
  training->model.step_tokens = rt_bytes_times(recipe->length, sequences);
  training->model.context = training->model.step_tokens;
  training->scores = api_objective_from_scores(recipe->objective);
  training->seed = recipe->seed;
  /* So many that documents of 64 tokens fill a step; of shorter ones more steps are made. */
  training->sequences = rt_bytes_plus(sequences, training->model.step_tokens / TILE_CHUNK);
  return recipe->objective == IR_DPO ? reference_bytes(run, training) : DP_SUCCESS;
}

static void apply_change(const change *c, const api_source *source) {
  ir_recipe *recipe = source->recipe;
  ir_plan *plan = source->plan;
  if (c->accumulate) recipe->accumulate = c->accumulate;
  if (c->length) recipe->length = c->length;
  if (c->block) plan->recompute = IR_RECOMPUTE_BLOCK;
  for (int i = 0; i < c->frozen_count; i++)
    for (int w = 0; w < source->module->weight_count; w++) {
      int tie = rt_binding_tie(source->binding, w);
      if (w == c->frozen[i] || tie == c->frozen[i]) plan->weights[w].frozen = true;
    }
}

/* What a change may look at: the recipe and the largest weights that are trained, by size. */
typedef struct planned {
  dp_run_plan plan;
  ir_recipe recipe; /* without its strings */
  bool block;
  int largest[3];
  char names[3][64];
  int largest_count;
  size_t scratch; /* of the code */
} planned;

static int64_t weight_bytes(const api_source *source, int weight) {
  int64_t layers = rt_binding_layers(source->binding, weight);
  const rt_bound *one = layers ? rt_binding_get(source->binding, weight, 0) : NULL;
  if (!one || rt_binding_tie(source->binding, weight) >= 0 || source->plan->weights[weight].frozen) return 0;
  return rt_bytes_times(layers, rt_bytes_times(one->rows, one->cols));
}

static void find_largest(const api_source *source, planned *out) {
  for (size_t n = 0; n < DP_COUNT(out->largest); n++) {
    int best = -1;
    for (int w = 0; w < source->module->weight_count; w++) {
      bool listed = false;
      for (int i = 0; i < out->largest_count; i++) listed |= out->largest[i] == w;
      if (!listed && weight_bytes(source, w) > (best < 0 ? 0 : weight_bytes(source, best))) best = w;
    }
    if (best < 0) return;
    snprintf(out->names[out->largest_count], sizeof *out->names, "%s", source->module->weights[best].name);
    out->largest[out->largest_count++] = best;
  }
}

/* A trainer without an engine, of the run with the change. */
static dp_status prepare(const dp_run *run, const change *c, bool compile, planned *out, dp_trainer **trainer) {
  dp_training training = {.model = run->model};
  dp_trainer *t = *trainer = calloc(1, sizeof *t);
  if (!t) return dp_fail(DP_NO_MEMORY, "no memory for a plan");
  api_source *source = &t->model.source;
  DP_TRY(api_open_source(&run->model, API_PLANNING, source));
  if (!source->recipe) return dp_fail(DP_INVALID, "%s has no recipe for model '%s'", run->model.path, source->module->name);
  apply_change(c, source);
  out->recipe = *source->recipe;
  out->block = source->plan->recompute == IR_RECOMPUTE_BLOCK;
  find_largest(source, out);
  DP_TRY(api_follow_recipe(run, &out->recipe, &training));
  t->optimizer = training.optimizer;
  return api_trainer_prepare(&training, compile, t);
}

/* base NULL: the run itself; else a change of it, whose code is not made: what the run's is known to take stands for it. */
static dp_status measure(const dp_run *run, const planned *base, dp_trainer *t, planned *out) {
  dp_training training = {.model = run->model};
  DP_TRY(api_follow_recipe(run, &out->recipe, &training));
  tile_code *code = t->model.code, scratch = api_code_to_measure(&run->model);
  scratch.scratch_bytes = base ? base->scratch : code->scratch_bytes;
  if (!base) rt_memory_trim();
  t->model.code = &scratch;
  api_plan_trainer(&training, t, base ? base->plan.program : rt_memory_resident(), &out->plan);
  t->model.code = code;
  out->scratch = scratch.scratch_bytes;
  if (base) out->plan.available = base->plan.available;
  api_judge_plan(&out->plan);
  out->plan.steps = out->recipe.accumulate > 0 ? out->recipe.accumulate : 1;
  add_work(t->model.program, out->recipe.objective, out->plan.tokens, out->recipe.length, &out->plan);
  return DP_SUCCESS;
}

static dp_status plan_run(const dp_run *run, planned *out) {
  dp_trainer *t;
  *out = (planned){0};
  dp_status status = prepare(run, &(change){0}, true, out, &t);
  if (status.code == DP_OK) status = measure(run, NULL, t, out);
  dp_trainer_free(t);
  return status;
}

/* ---- what would make it fit */

typedef struct advising {
  const dp_run *run;
  const planned *base;
  dp_trainer *prepared[2]; /* as the recipe has it, and with `recompute block`: any batch and length has the same program */
  dp_str text;
  int found;
} advising;

static dp_status plan_change(advising *a, const change *c, planned *out) {
  planned made = {0};
  dp_trainer *own = NULL, **t = c->frozen_count ? &own : &a->prepared[c->block];
  dp_status status = *t ? DP_SUCCESS : prepare(a->run, c, false, &made, t);
  if (status.code != DP_OK) {
    dp_trainer_free(*t);
    *t = NULL;
    return status;
  }
  *out = *a->base;
  if (c->accumulate) out->recipe.accumulate = c->accumulate;
  if (c->length) out->recipe.length = c->length;
  status = measure(a->run, a->base, *t, out);
  dp_trainer_free(own);
  return status;
}

static void add_statements(const advising *a, const change *c, dp_str *out) {
  const char *between = "";
  if (c->accumulate) dp_str_addf(out, "`accumulate %lld`", (long long)c->accumulate), between = " with ";
  if (c->block) dp_str_addf(out, "%s`recompute block`", between), between = " and ";
  if (c->length) dp_str_addf(out, "%s`length %lld`", between, (long long)c->length), between = " and ";
  for (int i = 0; i < c->frozen_count; i++)
    for (int j = 0; j < a->base->largest_count; j++)
      if (a->base->largest[j] == c->frozen[i]) {
        dp_str_addf(out, i == 0 ? "%s`freeze %s" : ", %s%s", i == 0 ? between : "", a->base->names[j]);
        if (i + 1 == c->frozen_count) dp_str_add(out, "`");
      }
}

/* Does it fit with that? Then it is told. */
static bool fits_with(advising *a, const change *c) {
  planned made;
  dp_status status = plan_change(a, c, &made);
  bool fits = status.code == DP_OK && made.plan.fits;
  dp_status_free(&status);
  if (!fits) return false;
  dp_str_add(&a->text, a->found++ ? "; or " : "it fits with ");
  add_statements(a, c, &a->text);
  dp_str_add(&a->text, ": ");
  api_add_bytes(&a->text, made.plan.device_peak ? made.plan.device_peak : made.plan.peak);
  return true;
}

/* The same update in more steps; the least number of them that fits, or 0. */
static int64_t try_accumulate(advising *a, bool block) {
  int64_t batch = a->base->recipe.batch, now = a->base->plan.steps;
  for (int64_t n = now + 1, tried = 0; n <= batch && tried < 24; n++) {
    if (batch % n != 0 && n != batch) continue;
    tried++;
    change c = {.accumulate = n, .block = block};
    if (fits_with(a, &c)) return n;
  }
  return 0;
}

static bool try_length(advising *a, bool block) {
  int64_t batch = a->base->recipe.batch;
  for (int64_t length = a->base->recipe.length / 2; length >= TILE_CHUNK; length /= 2) {
    change c = {.accumulate = batch > a->base->plan.steps ? batch : 0, .length = length, .block = block};
    if (fits_with(a, &c)) return true;
  }
  return false;
}

/* Weights that are not trained have neither gradients nor moments. */
static bool try_freeze(advising *a, bool block) {
  int64_t batch = a->base->recipe.batch;
  change c = {.accumulate = batch > a->base->plan.steps ? batch : 0, .block = block};
  for (int n = 0; n < a->base->largest_count; n++) {
    c.frozen[c.frozen_count++] = a->base->largest[n];
    if (fits_with(a, &c)) return true;
  }
  return false;
}

/* Cheapest first: what changes no bit of the result, then what costs time, then what changes what is learned. */
static void advise(advising *a) {
  bool block = !a->base->block;
  change only = {.block = true};
  int64_t steps = try_accumulate(a, false);
  bool made_again = block && fits_with(a, &only);
  if (!steps && !made_again && block) steps = try_accumulate(a, true);
  if (!a->found) try_length(a, block);
  if (!a->found || (!steps && !made_again)) try_freeze(a, block);
  if (a->found) return;
  const dp_run_plan *p = &a->base->plan;
  int64_t fixed[] = {p->weights, p->gradients, p->optimizer, p->device_peak ? 0 : p->program};
  dp_str_addf(&a->text, "no smaller batch or length helps: weights, gradients, moments%s alone take ",
              p->device_peak ? "" : " and the program");
  api_add_bytes(&a->text, api_sum_bytes(fixed, DP_COUNT(fixed)));
  dp_str_add(&a->text, "; take a smaller model, or freeze more of it");
}

static dp_status plan_on_device(const dp_run *run, dp_run_plan *plan, dp_text *advice) {
  planned base;
  advising a = {.run = run, .base = &base};
  DP_TRY(plan_run(run, &base));
  if (!base.plan.fits && advice) advise(&a);
  for (int i = 0; i < 2; i++) dp_trainer_free(a.prepared[i]);
  *plan = base.plan;
  if (!advice) return DP_SUCCESS;
  return api_take_text(&a.text, advice);
}

dp_status dp_plan_recipe(const dp_run *run, dp_run_plan *plan, dp_text *advice) {
  dp_run chosen = *run;
  dp_str why = {0};
  DP_TRY(api_choose_device(&chosen.model, &why, NULL));
  dp_str_free(&why);
  return plan_on_device(&chosen, plan, advice);
}

dp_status api_advise(const dp_run *run, dp_status failure) {
  dp_run_plan plan;
  dp_text advice;
  dp_status planned = dp_plan_recipe(run, &plan, &advice);
  if (planned.code != DP_OK) {
    dp_status_free(&planned);
    return failure;
  }
  dp_status told = failure;
  if (advice.length) {
    told = dp_fail(failure.code, "%s; %s", dp_status_text(&failure), advice.text);
    dp_status_free(&failure);
  }
  dp_text_free(&advice);
  return told;
}
