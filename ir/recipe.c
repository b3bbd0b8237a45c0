/* ir/recipe.c: what plans and recipes are before a text says anything, and the words for what they can be. */
#include "ir/recipe.h"

const char *const ir_recompute_names[] = {"none", "selective", "block"};
const char *const ir_objective_names[] = {"pretrain", "sft", "dpo", "reward", "value"};
const char *const ir_data_format_names[] = {"auto", "text", "chat", "tokens", "pairs", "values"};
const char *const ir_schedule_names[] = {"constant", "linear", "cosine"};

const char *ir_objective_name(ir_objective objective) {
  return (unsigned)objective < IR_OBJECTIVE_COUNT ? ir_objective_names[objective] : "";
}

int ir_weight_rank(const ir_weight *weight) { return weight->type.rank - weight->stack; }

ir_plan *ir_plan_new(ir_module *module) {
  ir_plan *plan = DP_NEW(module->arena, ir_plan);
  *plan = (ir_plan){.model = module->name,
                    .recompute = IR_RECOMPUTE_SELECTIVE,
                    .weights = DP_NEW_ARRAY(module->arena, ir_weight_plan, module->weight_count),
                    .weight_type = IR_f32};
  return plan;
}

ir_recipe *ir_recipe_new(ir_module *module) {
  ir_recipe *recipe = DP_NEW(module->arena, ir_recipe);
  *recipe = (ir_recipe){.model = module->name,
                        .objective = IR_SFT,
                        .optimizer = {.schedule = IR_LR_COSINE,
                                      .lr = 3e-4,
                                      .beta1 = 0.9,
                                      .beta2 = 0.999,
                                      .eps = 1e-8,
                                      .decay = 0.01,
                                      .no_decay = DP_NEW_ARRAY(module->arena, bool, module->weight_count),
                                      .clip = 1.0},
                        .batch = 8,
                        .accumulate = 1,
                        .length = 512,
                        .steps = 100,
                        .save_every = 100,
                        .keep = 2,
                        .beta = 0.1};
  for (int i = 0; i < module->weight_count; i++)
    recipe->optimizer.no_decay[i] = ir_weight_rank(&module->weights[i]) < 2;
  return recipe;
}

void ir_extend_plan(ir_module *module, int count, ir_plan *plan, ir_recipe *recipe) {
  ir_weight_plan *weights = DP_NEW_ARRAY(module->arena, ir_weight_plan, module->weight_count);
  for (int i = 0; i < count; i++) weights[i] = plan->weights[i];
  plan->weights = weights;
  if (!recipe) return;
  bool *no_decay = DP_NEW_ARRAY(module->arena, bool, module->weight_count);
  for (int i = 0; i < module->weight_count; i++)
    no_decay[i] = i < count ? recipe->optimizer.no_decay[i] : ir_weight_rank(&module->weights[i]) < 2;
  recipe->optimizer.no_decay = no_decay;
}
