/* ir/recipe_print.c: plans and recipes as a text of the language that is read back to the same data. Nothing is left to
 * defaults but what a default says of every weight; names stand for patterns. */
#include "ir/recipe.h"

/* ", " between the names of a list, what opens it before the first. */
static void add_name(dp_str *out, bool *begun, const char *opening, const char *name) {
  dp_str_addf(out, "%s%s", *begun ? ", " : opening, name);
  *begun = true;
}

static void add_string(dp_str *out, const char *text) {
  dp_str_addc(out, '"');
  for (; *text; text++) {
    if (*text == '"' || *text == '\\') dp_str_addc(out, '\\');
    dp_str_addc(out, *text);
  }
  dp_str_addc(out, '"');
}

/* ---- plans */

typedef enum fate { TRAINED, FROZEN, ADAPTED } fate;

static fate fate_of(const ir_weight_plan *weight) {
  return weight->lora_rank ? ADAPTED : weight->frozen ? FROZEN : TRAINED;
}

static bool list_weights(dp_str *out, const ir_module *module, const ir_plan *plan, fate wanted, const char *word) {
  bool begun = false;
  for (int i = 0; i < module->weight_count; i++)
    if (fate_of(&plan->weights[i]) == wanted) add_name(out, &begun, word, module->weights[i].name);
  if (begun) dp_str_add(out, ";\n");
  return begun;
}

static bool list_adapted(dp_str *out, const ir_module *module, const ir_plan *plan) {
  bool any = false;
  for (int i = 0; i < module->weight_count; i++) {
    const ir_weight_plan *weight = &plan->weights[i];
    if (fate_of(weight) != ADAPTED) continue;
    dp_str_addf(out, "  adapt %s lora rank %d alpha ", module->weights[i].name, weight->lora_rank);
    ir_print_float(out, weight->lora_alpha);
    dp_str_add(out, ";\n");
    any = true;
  }
  return any;
}

void ir_print_plan(dp_str *out, const ir_module *module, const ir_plan *plan) {
  dp_str_addf(out, "plan %s for %s {\n", plan->name ? plan->name : "defaults", plan->model);
  dp_str_addf(out, "  recompute %s;\n", ir_recompute_names[plan->recompute]);
  list_weights(out, module, plan, FROZEN, "  freeze ");
  if (list_adapted(out, module, plan)) list_weights(out, module, plan, TRAINED, "  train ");
  dp_str_addf(out, "  weights %s%s;\n", ir_dtype_name(plan->weight_type),
              plan->weight_type == IR_f32 ? "" : plan->stochastic ? " stochastic" : " master f32");
  if (plan->cache_type) dp_str_addf(out, "  cache %s;\n", plan->cache_type);
  dp_str_add(out, "}\n");
}

/* ---- recipes */

static void add_rate(dp_str *out, const ir_optimizer *optimizer) {
  dp_str_addf(out, "      lr %s ", ir_schedule_names[optimizer->schedule]);
  ir_print_float(out, optimizer->lr);
  if (optimizer->schedule != IR_LR_CONSTANT) {
    dp_str_add(out, " to ");
    ir_print_float(out, optimizer->lr_end);
  }
  dp_str_addf(out, " warmup %lld;\n", (long long)optimizer->warmup);
}

/* Vectors do not decay unless all weights do. */
static void add_decay(dp_str *out, const ir_module *module, const ir_optimizer *optimizer) {
  bool vectors = true, begun = false;
  for (int i = 0; i < module->weight_count; i++)
    vectors &= optimizer->no_decay[i] || ir_weight_rank(&module->weights[i]) > 1;
  dp_str_add(out, "      decay ");
  ir_print_float(out, optimizer->decay);
  if (!vectors) dp_str_add(out, " all");
  for (int i = 0; i < module->weight_count; i++)
    if (optimizer->no_decay[i] && !(vectors && ir_weight_rank(&module->weights[i]) < 2))
      add_name(out, &begun, " except ", module->weights[i].name);
  dp_str_add(out, ";\n");
}

static void add_optimizer(dp_str *out, const ir_module *module, const ir_optimizer *optimizer) {
  dp_str_add(out, "    optimizer adamw {\n");
  add_rate(out, optimizer);
  dp_str_add(out, "      betas ");
  ir_print_float(out, optimizer->beta1);
  dp_str_add(out, ", ");
  ir_print_float(out, optimizer->beta2);
  dp_str_add(out, ";\n      eps ");
  ir_print_float(out, optimizer->eps);
  dp_str_add(out, ";\n");
  add_decay(out, module, optimizer);
  dp_str_add(out, "      clip ");
  ir_print_float(out, optimizer->clip);
  dp_str_add(out, ";\n    }\n");
}

static void add_count(dp_str *out, const char *word, int64_t count) {
  dp_str_addf(out, "    %s %lld;\n", word, (long long)count);
}

void ir_print_recipe(dp_str *out, const ir_module *module, const ir_recipe *recipe) {
  dp_str_addf(out, "recipe %s for %s {\n  %s {\n", recipe->name ? recipe->name : "defaults", recipe->model,
              ir_objective_name(recipe->objective));
  if (recipe->data) {
    dp_str_add(out, "    data ");
    add_string(out, recipe->data);
    dp_str_addf(out, " %s %s;\n", ir_data_format_names[recipe->format], recipe->skip_broken ? "skip" : "stop");
  }
  add_optimizer(out, module, &recipe->optimizer);
  add_count(out, "batch", recipe->batch);
  add_count(out, "accumulate", recipe->accumulate);
  add_count(out, "length", recipe->length);
  add_count(out, "steps", recipe->steps);
  dp_str_addf(out, "    save every %lld keep %lld;\n", (long long)recipe->save_every, (long long)recipe->keep);
  dp_str_addf(out, "    seed %llu;\n    beta ", (unsigned long long)recipe->seed);
  ir_print_float(out, recipe->beta);
  dp_str_add(out, ";\n  }\n}\n");
}
