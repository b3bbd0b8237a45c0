/* tests/test_recipe.c: plans and recipes as data: every field as a text gives it, what stands when it gives none, and
 * which plan and recipe go with which model. tests/frontend has their diagnostics. */
#include "frontend/frontend.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MODEL(name)                                                                                                    \
  "model " name " {\n"                                                                                                 \
  "  dim d = 8, layers = 2, experts = 3, context = 64;\n"                                                              \
  "  const small = 1e-6;\n"                                                                                            \
  "  weight embed[32, d] from \"embed\";\n"                                                                            \
  "  weight norm_in[layers][d] from \"norm_in.{}\";\n"                                                                 \
  "  weight norm_out[d] from \"norm_out\";\n"                                                                          \
  "  weight wq[layers][d, d] from \"wq.{}\";\n"                                                                        \
  "  weight wv[layers][d, d] from \"wv.{}\";\n"                                                                        \
  "  weight up[layers, experts][d, d] from \"up.{}.{}\";\n"                                                            \
  "  weight head[32, d] from \"head\";\n"                                                                              \
  "  graph forward(tokens[T] : i32) -> logits[T, d] { return embed[tokens]; }\n"                                       \
  "}\n"

enum { EMBED, NORM_IN, NORM_OUT, WQ, WV, UP, HEAD, WEIGHTS };

typedef struct compiled {
  dp_diags *diags;
  fe_program program;
  dp_str said;
} compiled;

static compiled compile_at(const char *path, const char *text, const fe_options *options) {
  compiled result = {.diags = dp_diags_new()};
  bool good = fe_compile_program(path, text, strlen(text), options, result.diags, &result.program);
  dp_diags_render(result.diags, &result.said, false);
  dp_str_add(&result.said, "");
  ck_assert(good == (result.program.module != NULL));
  return result;
}

static compiled compile_good(const char *text) {
  compiled result = compile_at("t.dip", text, NULL);
  ck_assert_msg(result.program.module != NULL, "%s", result.said.text);
  return result;
}

static void release(compiled *result) {
  ir_module_free(result->program.module);
  dp_diags_free(result->diags);
  dp_str_free(&result->said);
}

/* ---- plans */

START_TEST(a_plan_gives_every_field) {
  compiled result = compile_good(MODEL("m") "plan thrifty for m {\n"
                                            "  recompute none; freeze embed; adapt wq, w* lora rank 4 alpha 16;\n"
                                            "  adapt up lora rank (layers);\n"
                                            "  train head, *_out; weights bf16 stochastic; cache f16;\n"
                                            "}\n");
  const ir_plan *plan = result.program.plan;
  ck_assert_str_eq(plan->name, "thrifty");
  ck_assert_str_eq(plan->model, "m");
  ck_assert_int_eq(plan->recompute, IR_RECOMPUTE_NONE);
  ck_assert_int_eq(plan->weight_type, IR_bf16);
  ck_assert(plan->stochastic);
  ck_assert_str_eq(plan->cache_type, "f16");
  int line, column;
  dp_loc_position(result.diags, plan->loc, &line, &column);
  ck_assert_int_eq(line, 13);
  ck_assert_int_eq(column, 6);
  static const ir_weight_plan wanted[WEIGHTS] = {
      [EMBED] = {.frozen = true},
      [NORM_IN] = {.frozen = true},
      [WQ] = {.frozen = true, .lora_rank = 4, .lora_alpha = 16},
      [WV] = {.frozen = true, .lora_rank = 4, .lora_alpha = 16},
      [UP] = {.frozen = true, .lora_rank = 2, .lora_alpha = 2},
  };
  ck_assert_int_eq(result.program.module->weight_count, WEIGHTS);
  for (int i = 0; i < WEIGHTS; i++) {
    const char *name = result.program.module->weights[i].name;
    ck_assert_msg(plan->weights[i].frozen == wanted[i].frozen, "%s", name);
    ck_assert_msg(plan->weights[i].lora_rank == wanted[i].lora_rank, "%s", name);
    ck_assert_msg(plan->weights[i].lora_alpha == wanted[i].lora_alpha, "%s", name);
  }
  release(&result);
}
END_TEST

START_TEST(a_text_without_a_plan_has_one_of_defaults) {
  static const char *const texts[] = {MODEL("m"), MODEL("m") "plan nothing for m { }"};
  for (size_t t = 0; t < DP_COUNT(texts); t++) {
    compiled result = compile_good(texts[t]);
    const ir_plan *plan = result.program.plan;
    ck_assert(t ? strcmp(plan->name, "nothing") == 0 : plan->name == NULL);
    ck_assert_str_eq(plan->model, "m");
    ck_assert_int_eq(plan->recompute, IR_RECOMPUTE_SELECTIVE);
    ck_assert_int_eq(plan->weight_type, IR_f32);
    ck_assert(!plan->stochastic && !plan->cache_type);
    for (int i = 0; i < WEIGHTS; i++) ck_assert(!plan->weights[i].frozen && !plan->weights[i].lora_rank);
    ck_assert(result.program.recipe == NULL);
    release(&result);
  }
}
END_TEST

/* What `plan { said }` does to each weight: f frozen, t trained, a adapted. */
static void check_fates(const char *said, const char *wanted) {
  dp_str text = {0};
  dp_str_addf(&text, "%splan p for m { %s }", MODEL("m"), said);
  compiled result = compile_good(text.text);
  char fates[WEIGHTS + 1] = {0};
  for (int i = 0; i < WEIGHTS; i++) {
    const ir_weight_plan *weight = &result.program.plan->weights[i];
    fates[i] = weight->lora_rank ? 'a' : weight->frozen ? 'f' : 't';
  }
  ck_assert_msg(strcmp(fates, wanted) == 0, "%s: %s, not %s", said, fates, wanted);
  release(&result);
  dp_str_free(&text);
}

START_TEST(what_a_plan_does_not_name_is_trained_unless_it_names_what_is) {
  check_fates("", "ttttttt");
  check_fates("freeze embed;", "ftttttt");
  check_fates("freeze embed, norm*; freeze *d;", "ffftttf");
  check_fates("freeze *;", "fffffff");
  check_fates("train head;", "fffffft");
  check_fates("adapt wq lora rank 1;", "fffafff");
  check_fates("adapt wq lora rank 1; train norm*; train *_in;", "fttafff");
  check_fates("adapt wq lora rank 1; freeze embed; train head;", "fffafft");
  check_fates("adapt * lora rank 1;", "affaaaa"); /* a pattern passes over what is no matrix */
}
END_TEST

START_TEST(a_star_stands_for_any_characters) {
  check_fates("freeze *o*_*t;", "ttftttt");
  check_fates("freeze norm_*in;", "tfttttt");
  check_fates("freeze *e*d;", "fttttt" "f");
  check_fates("freeze **;", "fffffff");
  check_fates("freeze w*q;", "tttfttt");
  compiled result = compile_at("t.dip", MODEL("m") "plan p for m { freeze norm_out*t; }", NULL);
  ck_assert(strstr(result.said.text, "no weight of model 'm' is called 'norm_out*t'") != NULL);
  release(&result);
}
END_TEST

START_TEST(weights_are_stored_as_a_plan_says) {
  static const struct {
    const char *said;
    ir_dtype type;
    bool stochastic;
  } cases[] = {{"weights f32;", IR_f32, false},
               {"weights bf16;", IR_bf16, false},
               {"weights bf16 master f32;", IR_bf16, false},
               {"weights bf16 stochastic;", IR_bf16, true}};
  for (size_t i = 0; i < DP_COUNT(cases); i++) {
    dp_str text = {0};
    dp_str_addf(&text, "%splan p for m { cache f32; recompute %s; %s }", MODEL("m"), ir_recompute_names[i % 3],
                cases[i].said);
    compiled result = compile_good(text.text);
    ck_assert_int_eq(result.program.plan->weight_type, cases[i].type);
    ck_assert(result.program.plan->stochastic == cases[i].stochastic);
    ck_assert_str_eq(result.program.plan->cache_type, "f32");
    ck_assert_int_eq(result.program.plan->recompute, i % 3);
    release(&result);
    dp_str_free(&text);
  }
}
END_TEST

/* ---- recipes */

START_TEST(a_recipe_gives_every_field) {
  compiled result = compile_good(
      MODEL("m") "recipe tune for m {\n"
                 "  dpo {\n"
                 "    data \"pairs.jsonl\" pairs skip;\n"
                 "    optimizer adamw {\n"
                 "      lr linear 3e-4 to 3e-5 warmup 20; betas 0.8, 0.95; eps small; decay 0.1 except embed; clip 2;\n"
                 "    }\n"
                 "    batch 16; accumulate 4; length (context / 2); steps 500; save every 50 keep 3; seed 7; beta 0.25;\n"
                 "  }\n"
                 "}\n");
  const ir_recipe *recipe = result.program.recipe;
  ck_assert_str_eq(recipe->name, "tune");
  ck_assert_str_eq(recipe->model, "m");
  ck_assert_int_eq(recipe->objective, IR_DPO);
  ck_assert_str_eq(recipe->data, "pairs.jsonl");
  ck_assert_int_eq(recipe->format, IR_DATA_PAIRS);
  ck_assert(recipe->skip_broken);
  ck_assert_int_eq(recipe->optimizer.schedule, IR_LR_LINEAR);
  ck_assert(recipe->optimizer.lr == 3e-4 && recipe->optimizer.lr_end == 3e-5);
  ck_assert_int_eq(recipe->optimizer.warmup, 20);
  ck_assert(recipe->optimizer.beta1 == 0.8 && recipe->optimizer.beta2 == 0.95);
  ck_assert(recipe->optimizer.eps == 1e-6 && recipe->optimizer.decay == 0.1 && recipe->optimizer.clip == 2);
  static const bool no_decay[WEIGHTS] = {[EMBED] = true, [NORM_IN] = true, [NORM_OUT] = true};
  for (int i = 0; i < WEIGHTS; i++) ck_assert(recipe->optimizer.no_decay[i] == no_decay[i]);
  ck_assert_int_eq(recipe->batch, 16);
  ck_assert_int_eq(recipe->accumulate, 4);
  ck_assert_int_eq(recipe->length, 32);
  ck_assert_int_eq(recipe->steps, 500);
  ck_assert_int_eq(recipe->save_every, 50);
  ck_assert_int_eq(recipe->keep, 3);
  ck_assert_uint_eq(recipe->seed, 7);
  ck_assert(recipe->beta == 0.25);
  int line, column;
  dp_loc_position(result.diags, recipe->loc, &line, &column);
  ck_assert_int_eq(line, 13);
  ck_assert_int_eq(column, 8);
  release(&result);
}
END_TEST

START_TEST(what_a_recipe_does_not_say_has_a_default) {
  static const char *const texts[] = {MODEL("m") "recipe r for m { sft { } }",
                                      MODEL("m") "recipe r for m { sft { optimizer adamw; } }",
                                      MODEL("m") "recipe r for m { sft { optimizer adamw { } } }"};
  for (size_t t = 0; t < DP_COUNT(texts); t++) {
    compiled result = compile_good(texts[t]);
    const ir_recipe *recipe = result.program.recipe;
    ck_assert_int_eq(recipe->objective, IR_SFT);
    ck_assert(recipe->data == NULL && recipe->format == IR_DATA_AUTO && !recipe->skip_broken);
    ck_assert_int_eq(recipe->optimizer.schedule, IR_LR_COSINE);
    ck_assert(recipe->optimizer.lr == 3e-4 && recipe->optimizer.lr_end == 0 && recipe->optimizer.warmup == 0);
    ck_assert(recipe->optimizer.beta1 == 0.9 && recipe->optimizer.beta2 == 0.999);
    ck_assert(recipe->optimizer.eps == 1e-8 && recipe->optimizer.decay == 0.01 && recipe->optimizer.clip == 1);
    for (int i = 0; i < WEIGHTS; i++)
      ck_assert(recipe->optimizer.no_decay[i] == (i == NORM_IN || i == NORM_OUT));
    ck_assert(recipe->batch == 8 && recipe->accumulate == 1 && recipe->length == 512 && recipe->steps == 100);
    ck_assert(recipe->save_every == 100 && recipe->keep == 2 && recipe->seed == 0 && recipe->beta == 0.1);
    release(&result);
  }
}
END_TEST

START_TEST(every_objective_and_format_has_its_word) {
  for (int i = 0; i < IR_OBJECTIVE_COUNT; i++) {
    int format = i % IR_DATA_FORMAT_COUNT;
    dp_str text = {0};
    dp_str_addf(&text, "%srecipe r for m { %s { data \"d\" %s; } }", MODEL("m"), ir_objective_name((ir_objective)i),
                ir_data_format_names[format]);
    compiled result = compile_good(text.text);
    ck_assert_int_eq(result.program.recipe->objective, i);
    ck_assert_int_eq(result.program.recipe->format, format);
    release(&result);
    dp_str_free(&text);
  }
  ck_assert_str_eq(ir_objective_name(IR_OBJECTIVE_COUNT), "");
}
END_TEST

START_TEST(a_learning_rate_follows_its_schedule) {
  static const struct {
    const char *said;
    ir_schedule schedule;
    double from, to;
    int warmup;
  } cases[] = {{"lr 1e-3;", IR_LR_CONSTANT, 1e-3, 1e-3, 0},
               {"lr constant 1e-3 warmup 5;", IR_LR_CONSTANT, 1e-3, 1e-3, 5},
               {"lr linear 1e-3;", IR_LR_LINEAR, 1e-3, 0, 0},
               {"lr cosine 1e-3 to 1e-4 warmup 100;", IR_LR_COSINE, 1e-3, 1e-4, 100},
               {"lr cosine 0 to 1e-4;", IR_LR_COSINE, 0, 1e-4, 0}};
  for (size_t i = 0; i < DP_COUNT(cases); i++) {
    dp_str text = {0};
    dp_str_addf(&text, "%srecipe r for m { sft { optimizer adamw { %s } } }", MODEL("m"), cases[i].said);
    compiled result = compile_good(text.text);
    const ir_optimizer *optimizer = &result.program.recipe->optimizer;
    ck_assert_int_eq(optimizer->schedule, cases[i].schedule);
    ck_assert(optimizer->lr == cases[i].from && optimizer->lr_end == cases[i].to);
    ck_assert_int_eq(optimizer->warmup, cases[i].warmup);
    release(&result);
    dp_str_free(&text);
  }
}
END_TEST

START_TEST(vectors_decay_only_when_all_do) {
  static const struct {
    const char *said, *decays; /* a letter for each weight */
  } cases[] = {{"decay 0.1;", "y..yyyy"},
               {"decay 0.1 except w*, norm*;", "y....yy"},
               {"decay 0.1 all;", "yyyyyyy"},
               {"decay 0.1 all except norm_in, *d;", "..yyyy."}};
  for (size_t i = 0; i < DP_COUNT(cases); i++) {
    dp_str text = {0};
    dp_str_addf(&text, "%srecipe r for m { sft { optimizer adamw { %s } } }", MODEL("m"), cases[i].said);
    compiled result = compile_good(text.text);
    for (int w = 0; w < WEIGHTS; w++)
      ck_assert_msg(result.program.recipe->optimizer.no_decay[w] == (cases[i].decays[w] == '.'), "%s: %s", cases[i].said,
                    result.program.module->weights[w].name);
    release(&result);
    dp_str_free(&text);
  }
}
END_TEST

START_TEST(data_is_looked_for_beside_the_text) {
  static const struct {
    const char *path, *said, *wanted;
  } cases[] = {{"t.dip", "a.txt", "a.txt"}, {"x/y/t.dip", "z/a.txt", "x/y/z/a.txt"}, {"x/t.dip", "/a.txt", "/a.txt"}};
  for (size_t i = 0; i < DP_COUNT(cases); i++) {
    dp_str text = {0};
    dp_str_addf(&text, "%srecipe r for m { pretrain { data \"%s\"; } }", MODEL("m"), cases[i].said);
    compiled result = compile_at(cases[i].path, text.text, NULL);
    ck_assert_msg(result.program.recipe != NULL, "%s", result.said.text);
    ck_assert_str_eq(result.program.recipe->data, cases[i].wanted);
    release(&result);
    dp_str_free(&text);
  }
}
END_TEST

/* ---- which of them */

/* Names of model, plan and recipe as taken; "-" is none. Or the mistake. */
static void check_choice(const char *text, fe_options options, const char *wanted) {
  compiled result = compile_at("t.dip", text, &options);
  const fe_program *program = &result.program;
  dp_str taken = {0};
  if (program->module)
    dp_str_addf(&taken, "%s %s %s", program->module->name, program->plan->name ? program->plan->name : "-",
                program->recipe ? program->recipe->name : "-");
  else dp_str_add(&taken, result.said.text);
  ck_assert_msg(program->module ? strcmp(taken.text, wanted) == 0 : strstr(taken.text, wanted) != NULL, "%s, not %s",
                taken.text, wanted);
  ir_module *module = fe_compile("t.dip", text, strlen(text), &options, result.diags);
  ck_assert((module != NULL) == (program->module != NULL));
  if (module) ck_assert_str_eq(module->name, program->module->name);
  ir_module_free(module);
  release(&result);
  dp_str_free(&taken);
}

START_TEST(plan_and_recipe_go_with_the_model) {
  static const char both[] = MODEL("a") MODEL("b") "plan pa for a { } plan pb for b { } plan pa2 for a { }\n";
  static const char recipes[] = MODEL("a") "recipe ra for a { sft { } } plan pa for a { } recipe rb for b { sft { } }\n"
                                           "recipe ra2 for a { sft { } }\n" MODEL("b");
  check_choice(both, (fe_options){0}, "b pb -");
  check_choice(both, (fe_options){.model = "a"}, "a pa2 -");
  check_choice(both, (fe_options){.plan = "pa"}, "a pa -");
  check_choice(both, (fe_options){.plan = "pb", .model = "b"}, "b pb -");
  check_choice(both, (fe_options){.plan = "pa", .model = "b"}, "plan 'pa' is for model 'a', but 'b' is asked for");
  check_choice(both, (fe_options){.plan = "pc"}, "the text has no plan 'pc'; did you mean 'pa'?");
  check_choice(both, (fe_options){.recipe = "r"}, "the text has no recipe 'r'");
  check_choice(recipes, (fe_options){0}, "a pa ra2");
  check_choice(recipes, (fe_options){.recipe = "ra"}, "a pa ra");
  check_choice(recipes, (fe_options){.recipe = "rb"}, "b - rb");
  check_choice(recipes, (fe_options){.model = "b"}, "b - rb");
  check_choice(recipes, (fe_options){.recipe = "rb", .plan = "pa"}, "plan 'pa' is for model 'a', but 'b' is asked for");
  check_choice(recipes, (fe_options){.recipe = "rb", .model = "a"}, "recipe 'rb' is for model 'b', but 'a' is asked for");
  check_choice(recipes, (fe_options){.recipe = "rc"}, "did you mean 'ra'?");
}
END_TEST

START_TEST(what_a_text_says_comes_before_what_it_imports) {
  char folder[] = "/tmp/dipper-recipe-XXXXXX", path[64], text[4096];
  ck_assert(mkdtemp(folder) != NULL);
  snprintf(path, sizeof path, "%s/lib.dip", folder);
  static const char library[] = MODEL("a") MODEL("b") "recipe ra for a { sft { } } plan pa for a { } plan pb for b { }";
  dp_status status = dp_write_file_atomic(path, library, strlen(library));
  ck_assert_msg(status.code == DP_OK, "%s", dp_status_text(&status));
  static const struct {
    const char *own, *wanted;
  } cases[] = {
      {"", "a pa ra"},
      {MODEL("c"), "c - -"},
      {"plan p for b { }", "b p -"},
      {MODEL("c") "plan p for b { }", "c - -"},
      {"plan p for a { }", "a p ra"},
      {"recipe r for b { sft { } }", "b pb r"},
      {"recipe r for b { sft { } } plan p for a { }", "b pb r"},
      {"plan p for a { } recipe r for a { sft { } }", "a p r"},
      {"plan pa for a { }", "'pa' is declared already"},
      {MODEL("a"), "'a' is declared already"},
  };
  for (size_t i = 0; i < DP_COUNT(cases); i++) {
    snprintf(text, sizeof text, "import \"%s\";\n%s", path, cases[i].own);
    check_choice(text, (fe_options){0}, cases[i].wanted);
  }
  remove(path);
  rmdir(folder);
}
END_TEST

START_TEST(a_plan_that_is_not_taken_is_checked_if_it_is_for_the_model) {
  static const char text[] = MODEL("a") MODEL("b") "plan bad for a { freeze nothing; } plan good for a { }";
  check_choice(text, (fe_options){.plan = "good"}, "model 'a' has no weight 'nothing'");
  check_choice(text, (fe_options){0}, "b - -");
}
END_TEST

START_TEST(the_reference_has_the_form_of_every_statement) {
  static const char *const forms[] = {
#define STATEMENT(block, word, reader, times, form) form,
#include "frontend/statements.def"
#undef STATEMENT
  };
  char *docs;
  size_t length;
  dp_status status = dp_read_file(DIPPER_SOURCE_DIR "/docs/language.md", &docs, &length);
  ck_assert_msg(status.code == DP_OK, "%s", dp_status_text(&status));
  for (size_t i = 0; i < DP_COUNT(forms); i++) ck_assert_msg(strstr(docs, forms[i]) != NULL, "nowhere: %s", forms[i]);
  free(docs);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("recipe");
  TCase *plans = tcase_create("plans"), *recipes = tcase_create("recipes"), *choice = tcase_create("choice");
  tcase_add_test(plans, a_plan_gives_every_field);
  tcase_add_test(plans, a_text_without_a_plan_has_one_of_defaults);
  tcase_add_test(plans, what_a_plan_does_not_name_is_trained_unless_it_names_what_is);
  tcase_add_test(plans, a_star_stands_for_any_characters);
  tcase_add_test(plans, weights_are_stored_as_a_plan_says);
  tcase_add_test(recipes, a_recipe_gives_every_field);
  tcase_add_test(recipes, what_a_recipe_does_not_say_has_a_default);
  tcase_add_test(recipes, every_objective_and_format_has_its_word);
  tcase_add_test(recipes, a_learning_rate_follows_its_schedule);
  tcase_add_test(recipes, vectors_decay_only_when_all_do);
  tcase_add_test(recipes, data_is_looked_for_beside_the_text);
  tcase_add_test(choice, plan_and_recipe_go_with_the_model);
  tcase_add_test(choice, what_a_text_says_comes_before_what_it_imports);
  tcase_add_test(choice, a_plan_that_is_not_taken_is_checked_if_it_is_for_the_model);
  tcase_add_test(choice, the_reference_has_the_form_of_every_statement);
  suite_add_tcase(suite, plans);
  suite_add_tcase(suite, recipes);
  suite_add_tcase(suite, choice);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed != 0;
}
