/* frontend/plan.c: the statements of a plan to an ir_plan. What a plan says of weights is kept as each one's fate, with
 * the place that says so, until the whole plan is read: what it means for the weights that are not named depends on
 * that. */
#include "frontend/settings.h"

void fe_read_recompute(fe_reader *r) {
  int choice = (int)r->plan->recompute;
  fe_want_choice(r, "what is computed again", ir_recompute_names, IR_RECOMPUTE_COUNT, &choice);
  r->plan->recompute = (ir_recompute)choice;
}

void fe_read_weights(fe_reader *r) {
  static const char *const types[] = {"f32", "bf16"}, *const masters[] = {"f32"};
  int type = 0, master;
  fe_want_choice(r, "how trained weights are stored", types, DP_COUNT(types), &type);
  r->plan->weight_type = type ? IR_bf16 : IR_f32;
  if (!type) return;
  r->plan->stochastic = fe_take_word(r, "stochastic");
  if (!r->plan->stochastic && fe_take_word(r, "master"))
    fe_want_choice(r, "how masters are stored", masters, DP_COUNT(masters), &master);
}

void fe_read_cache(fe_reader *r) {
  static const char *const types[] = {"f32", "f16"};
  int type = 0;
  fe_want_choice(r, "how the KV cache is stored", types, DP_COUNT(types), &type);
  r->plan->cache_type = types[type];
}

/* ---- fates of weights -------------------------------------------------------------------------------------------- */

static bool same_fate(const fe_fate *a, const fe_fate *b) {
  return a->kind == b->kind && a->rank == b->rank && a->alpha == b->alpha;
}

/* One fate for each weight that the last list names. */
static void decide(fe_reader *r, fe_fate fate) {
  static const char *const phrases[] = {"", "frozen", "trained", "adapted"};
  for (int i = 0; i < r->named_count && !r->broken; i++) {
    fe_fate *said = &r->fates[r->named[i].weight];
    const char *name = r->c->module->weights[r->named[i].weight].name;
    fate.loc = r->named[i].loc;
    if (said->kind == FE_UNSAID) {
      *said = fate;
    } else if (!same_fate(said, &fate)) {
      if (said->kind == fate.kind) fe_mistake(r, fate.loc, "'%s' is %s in two ways", name, phrases[fate.kind]);
      else fe_mistake(r, fate.loc, "'%s' cannot be %s and %s", name, phrases[fate.kind], phrases[said->kind]);
      fe_note(r->c, said->loc, "it is %s here", phrases[said->kind]);
    }
  }
}

void fe_read_freeze(fe_reader *r) {
  fe_want_weights(r, false);
  decide(r, (fe_fate){.kind = FE_FROZEN});
}

void fe_read_train(fe_reader *r) {
  fe_want_weights(r, false);
  decide(r, (fe_fate){.kind = FE_TRAINED});
}

/* The smaller side of the smallest matrix: a product of a higher rank says nothing more. */
static const ir_weight *narrowest(const fe_reader *r, int64_t *side) {
  const ir_weight *found = NULL;
  *side = INT32_MAX;
  for (int i = 0; i < r->named_count; i++) {
    const ir_weight *weight = &r->c->module->weights[r->named[i].weight];
    for (int axis = weight->stack; axis < weight->type.rank; axis++) {
      if (weight->type.dims[axis].add >= *side) continue;
      *side = weight->type.dims[axis].add;
      found = weight;
    }
  }
  return found;
}

void fe_read_adapt(fe_reader *r) {
  fe_fate fate = {.kind = FE_ADAPTED};
  int64_t rank = 1, side;
  fe_want_weights(r, true);
  fe_want_word(r, "lora");
  fe_want_word(r, "rank");
  int at = r->at;
  fe_want_integer(r, "the rank", 1, INT32_MAX, &rank);
  fate.rank = (int)rank;
  fate.alpha = (double)rank;
  if (fe_take_word(r, "alpha")) fe_want_number(r, "alpha", FE_ABOVE_0, &fate.alpha);
  const ir_weight *weight = narrowest(r, &side);
  if (weight && rank > side) {
    fe_mistake(r, r->setting->items.items[at].loc, "a product of rank %lld is more than '%s' can use: %s", (long long)rank,
               weight->name, fe_type_text(r->c, &weight->type));
    fe_note(r->c, weight->loc, "'%s' is declared here", weight->name);
  }
  decide(r, fate);
}

/* As soon as a plan says what is trained or adapted, the rest is frozen. */
static void settle(fe_reader *r) {
  int count = r->c->module->weight_count;
  bool chosen = false;
  for (int i = 0; i < count; i++) chosen |= r->fates[i].kind == FE_TRAINED || r->fates[i].kind == FE_ADAPTED;
  for (int i = 0; i < count; i++) {
    const fe_fate *fate = &r->fates[i];
    bool frozen = fate->kind == FE_FROZEN || fate->kind == FE_ADAPTED || (fate->kind == FE_UNSAID && chosen);
    r->plan->weights[i] = (ir_weight_plan){frozen, fate->rank, fate->alpha};
  }
}

/* ---- the whole plan ---------------------------------------------------------------------------------------------- */

ir_plan *fe_plan(fe_compiler *c, const ast_script *script) {
  int count = c->module->weight_count;
  fe_reader r = {.c = c, .plan = ir_plan_new(c->module)};
  if (!script) return r.plan;
  r.plan->name = dp_arena_strdup(c->module->arena, script->name.text);
  r.plan->loc = script->name.loc;
  r.fates = DP_NEW_ARRAY(c->arena, fe_fate, count);
  r.named = DP_NEW_ARRAY(c->arena, fe_named, count);
  fe_read_settings(&r, FE_IN_plan, &script->settings);
  settle(&r);
  return r.plan;
}
