/* frontend/recipe.c: the statements of a recipe to an ir_recipe: one objective, its data, its optimizer, its sizes. What
 * two statements must agree on is looked at when all are read. */
#include "frontend/settings.h"

#include <string.h>

/* Of sizes and counts: what a step could be asked to hold. */
enum { MOST_SEQUENCES = 1 << 20 };
#define MOST_STEPS (INT64_C(1) << 40)

/* ---- the optimizer ----------------------------------------------------------------------------------------------- */

void fe_read_lr(fe_reader *r) {
  ir_optimizer *optimizer = &r->recipe->optimizer;
  int schedule = IR_LR_CONSTANT;
  fe_take_choice(r, ir_schedule_names, IR_SCHEDULE_COUNT, &schedule);
  optimizer->schedule = (ir_schedule)schedule;
  fe_want_number(r, "a learning rate", FE_ANY_FROM_0, &optimizer->lr);
  optimizer->lr_end = schedule == IR_LR_CONSTANT ? optimizer->lr : 0;
  if (fe_take_word(r, "to")) {
    if (schedule == IR_LR_CONSTANT)
      fe_mistake(r, r->setting->items.items[r->at - 1].loc, "a rate that changes has a schedule, linear or cosine: %s",
                 r->form);
    fe_want_number(r, "a learning rate", FE_ANY_FROM_0, &optimizer->lr_end);
  }
  if (fe_take_word(r, "warmup")) fe_want_integer(r, "the warmup", 0, MOST_STEPS, &optimizer->warmup);
}

void fe_read_betas(fe_reader *r) {
  fe_want_number(r, "beta 1", FE_FROM_0_BELOW_1, &r->recipe->optimizer.beta1);
  if (!fe_take_comma(r)) fe_expected(r, "','");
  fe_want_number(r, "beta 2", FE_FROM_0_BELOW_1, &r->recipe->optimizer.beta2);
}

void fe_read_eps(fe_reader *r) { fe_want_number(r, "eps", FE_ABOVE_0, &r->recipe->optimizer.eps); }

void fe_read_clip(fe_reader *r) { fe_want_number(r, "clip", FE_ANY_FROM_0, &r->recipe->optimizer.clip); }

void fe_read_decay(fe_reader *r) {
  ir_optimizer *optimizer = &r->recipe->optimizer;
  fe_want_number(r, "the decay", FE_ANY_FROM_0, &optimizer->decay);
  if (fe_take_word(r, "all")) memset(optimizer->no_decay, 0, sizeof(bool) * (size_t)r->c->module->weight_count);
  if (!fe_take_word(r, "except")) return;
  fe_want_weights(r, false);
  for (int i = 0; i < r->named_count; i++) optimizer->no_decay[r->named[i].weight] = true;
}

void fe_read_optimizer(fe_reader *r) {
  static const char *const names[] = {"adamw"};
  int name;
  fe_want_choice(r, "an optimizer", names, DP_COUNT(names), &name);
  fe_enter(r, FE_IN_optimizer);
}

/* ---- the objective ----------------------------------------------------------------------------------------------- */

void fe_read_data(fe_reader *r) {
  static const char *const broken_lines[] = {"stop", "skip"};
  ast_name path = {0};
  int format = IR_DATA_AUTO, skip = 0;
  fe_want_string(r, "the path of a file", &path);
  fe_take_choice(r, ir_data_format_names, IR_DATA_FORMAT_COUNT, &format);
  fe_take_choice(r, broken_lines, DP_COUNT(broken_lines), &skip);
  if (path.text && !*path.text) fe_mistake(r, path.loc, "expected the path of a file: %s", r->form);
  if (r->broken) return;
  const char *text = r->c->diags->sources[path.loc.file].path;
  r->recipe->data = dp_arena_strdup(r->c->module->arena, fe_beside(r->c->arena, text, path.text));
  r->recipe->format = (ir_data_format)format;
  r->recipe->skip_broken = skip;
}

void fe_read_batch(fe_reader *r) { fe_want_integer(r, "the batch", 1, MOST_SEQUENCES, &r->recipe->batch); }

void fe_read_accumulate(fe_reader *r) {
  fe_want_integer(r, "the number of steps", 1, MOST_SEQUENCES, &r->recipe->accumulate);
}

void fe_read_length(fe_reader *r) { fe_want_integer(r, "the length", 1, INT32_MAX, &r->recipe->length); }

void fe_read_steps(fe_reader *r) { fe_want_integer(r, "the number of steps", 1, MOST_STEPS, &r->recipe->steps); }

void fe_read_save(fe_reader *r) {
  fe_want_word(r, "every");
  fe_want_integer(r, "the number of steps", 1, MOST_STEPS, &r->recipe->save_every);
  if (fe_take_word(r, "keep")) fe_want_integer(r, "the number of checkpoints", 1, INT32_MAX, &r->recipe->keep);
}

void fe_read_seed(fe_reader *r) {
  int64_t seed = 0;
  fe_want_integer(r, "the seed", 0, INT64_MAX, &seed);
  r->recipe->seed = (uint64_t)seed;
}

void fe_read_beta(fe_reader *r) { fe_want_number(r, "beta", FE_ABOVE_0, &r->recipe->beta); }

/* The place of a statement that stands in the objective. */
static dp_loc place_of(const fe_reader *r, const char *word, dp_loc otherwise) {
  const ast_setting *setting = fe_find_setting(&r->setting->body, word);
  return setting ? setting->loc : otherwise;
}

static void check_agreement(fe_reader *r) {
  const ir_recipe *recipe = r->recipe;
  const dp_loc whole = r->setting->word.loc;
  if (recipe->batch % recipe->accumulate != 0) {
    fe_error(r->c, place_of(r, "accumulate", whole), "a batch of %lld cannot be cut into %lld equal steps",
             (long long)recipe->batch, (long long)recipe->accumulate);
    if (fe_find_setting(&r->setting->body, "batch")) fe_note(r->c, place_of(r, "batch", whole), "the batch");
  }
  if (recipe->optimizer.warmup > recipe->steps) {
    const ast_setting *optimizer = fe_find_setting(&r->setting->body, "optimizer");
    const ast_setting *lr = optimizer ? fe_find_setting(&optimizer->body, "lr") : NULL;
    fe_error(r->c, lr ? lr->loc : whole, "a warmup of %lld steps does not fit into %lld",
             (long long)recipe->optimizer.warmup, (long long)recipe->steps);
    if (fe_find_setting(&r->setting->body, "steps")) fe_note(r->c, place_of(r, "steps", whole), "the steps");
  }
}

static bool is_objective(const char *word, ir_objective *objective) {
  for (int i = 0; i < IR_OBJECTIVE_COUNT; i++) {
    if (strcmp(ir_objective_names[i], word) != 0) continue;
    *objective = (ir_objective)i;
    return true;
  }
  return false;
}

/* A recipe has one: what stands beside it is another objective. */
void fe_read_objective(fe_reader *r) {
  const ast_setting *first = r->siblings->first;
  while (!is_objective(first->word.text, &r->recipe->objective)) first = first->next;
  if (first != r->setting) {
    fe_mistake(r, r->setting->word.loc, "a recipe has one objective");
    fe_note(r->c, first->word.loc, "it is '%s'", first->word.text);
    r->entered = true;
    return;
  }
  int errors = r->c->diags->errors;
  if (!r->setting->has_body) fe_expected(r, "'{'");
  fe_enter(r, FE_IN_objective);
  if (r->c->diags->errors == errors) check_agreement(r);
}

/* ---- the whole recipe -------------------------------------------------------------------------------------------- */

ir_recipe *fe_recipe(fe_compiler *c, const ast_script *script) {
  fe_reader r = {.c = c, .recipe = ir_recipe_new(c->module)};
  r.recipe->name = dp_arena_strdup(c->module->arena, script->name.text);
  r.recipe->loc = script->name.loc;
  r.named = DP_NEW_ARRAY(c->arena, fe_named, c->module->weight_count);
  if (!script->settings.first)
    fe_error(c, script->name.loc, "recipe '%s' has no objective: pretrain, sft, dpo, reward or value", script->name.text);
  fe_read_settings(&r, FE_IN_recipe, &script->settings);
  return r.recipe;
}
