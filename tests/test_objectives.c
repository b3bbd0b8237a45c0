/* tests/test_objectives.c: texts, chats, preferences, rewards and values: runs of a recipe beside PyTorch's, bits, checkpoints, what is refused. */
#include "base/base.h"
#include "dipper/train.h"

#include <check.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define GOLDEN DIPPER_TEST_DIR "/golden/"

static void check_ok(dp_status status, const char *what) {
  ck_assert_msg(status.code == DP_OK, "%s: %s", what, dp_status_text(&status));
}

/* tiny_llama with the tokenizer of single characters, and a recipe: in a folder of their own. */
typedef struct place {
  char dir[64], weights[128], recipe[128];
} place;

static const struct {
  const char *name, *data, *rate;
  bool pairs;
} objectives[] = {{"dpo", GOLDEN "objectives/pairs.jsonl", "5e-5", true},
                  {"reward", GOLDEN "objectives/pairs.jsonl", "1e-3", true},
                  {"value", GOLDEN "objectives/values.jsonl", "1e-3", false},
                  {"pretrain", GOLDEN "objectives/documents.bin", "1e-3", false},
                  {"sft", GOLDEN "objectives/chats.jsonl", "1e-3", false}};

static void link_to(const place *p, const char *file, const char *name) {
  char from[256], to[256];
  snprintf(from, sizeof from, GOLDEN "%s", file);
  snprintf(to, sizeof to, "%s/weights/%s", p->dir, name);
  ck_assert_int_eq(symlink(from, to), 0);
}

static void write_recipe(const place *p, int i, const char *data, const char *more) {
  char text[1024];
  snprintf(text, sizeof text,
           "import \"" DIPPER_SOURCE_DIR "/models/llama.dip\";\n"
           "recipe made for llama { %s { data \"%s\"; optimizer adamw { lr constant %s; decay 0.01; clip 1; }\n"
           "  batch 4; length 64; steps 50; save every 10 keep 9; seed 3; %s } }\n",
           objectives[i].name, data ? data : objectives[i].data, objectives[i].rate, more);
  check_ok(dp_write_file_atomic(p->recipe, text, strlen(text)), p->recipe);
}

static place make_place(int i) {
  place p = {.dir = "/tmp/dipper-objective-XXXXXX"};
  char command[128];
  ck_assert_ptr_nonnull(mkdtemp(p.dir));
  snprintf(p.weights, sizeof p.weights, "%s/weights", p.dir);
  snprintf(p.recipe, sizeof p.recipe, "%s/made.dip", p.dir);
  snprintf(command, sizeof command, "mkdir %s", p.weights);
  ck_assert_int_eq(system(command), 0);
  link_to(&p, "tiny_llama/model.safetensors", "model.safetensors");
  link_to(&p, "tiny_llama/config.json", "config.json");
  link_to(&p, "objectives/tokenizer.json", "tokenizer.json");
  link_to(&p, "objectives/chat_template.jinja", "chat_template.jinja");
  write_recipe(&p, i, NULL, "");
  return p;
}

static void remove_place(const place *p) {
  char command[128];
  snprintf(command, sizeof command, "rm -rf %s", p->dir);
  ck_assert_int_eq(system(command), 0);
}

/* ---- beside PyTorch */

typedef struct watching {
  dp_run_step steps[64];
  int count, stop;
} watching;

static bool watch(void *user, const dp_run_step *step) {
  watching *w = user;
  w->steps[w->count++] = *step;
  return step->step != w->stop;
}

static dp_status run(const place *p, const char *out, int threads, bool resume, watching *w) {
  char path[256];
  snprintf(path, sizeof path, "%s/%s", p->dir, out ? out : "");
  dp_run how = {.model = {.path = p->recipe, .weights = p->weights, .threads = threads, .verify_each = threads == 2},
                .out = out ? path : NULL, .resume = resume, .on_step = watch, .user = w};
  return dp_run_recipe(&how);
}

START_TEST(fifty_updates_follow_pytorch_s) {
  const char *name = objectives[_i].name;
  json_t *all = json_load_file(GOLDEN "objectives/curves.json", 0, NULL), *curve = json_object_get(all, name);
  ck_assert_msg(json_array_size(curve) == 50, "there is no curve of %s", name);
  place p = make_place(_i);
  watching w = {0};
  check_ok(run(&p, NULL, 2, false, &w), name);
  ck_assert_int_eq(w.count, 50);
  for (int n = 0; n < 50; n++) {
    double loss = json_number_value(json_array_get(json_array_get(curve, (size_t)n), 0));
    double norm = json_number_value(json_array_get(json_array_get(curve, (size_t)n), 1));
    if (!(fabs(w.steps[n].loss - loss) <= 1e-3)) ck_abort_msg("%s: step %d: the loss is %.7f, not %.7f", name, n, w.steps[n].loss, loss);
    if (!(fabs(w.steps[n].norm - norm) <= 1e-2 * norm)) ck_abort_msg("%s: step %d: the norm is %.6f, not %.6f", name, n, w.steps[n].norm, norm);
    ck_assert_int_eq(w.steps[n].pairs, objectives[_i].pairs ? 4 : 0);
  }
  if (objectives[_i].pairs) ck_assert(w.steps[49].accuracy == 1 && w.steps[49].margin > 1);
  if (_i == 0) { /* the reference has the policy's bits, then they part */
    ck_assert(w.steps[0].margin == 0 && w.steps[0].loss == log(2));
    ck_assert(w.steps[1].margin != 0);
  }
  remove_place(&p);
  json_decref(all);
}
END_TEST

/* ---- bits */

static void ck_same(const place *p, const char *one, const char *other, const char *file) {
  char path[2][256], *bytes[2];
  size_t sizes[2];
  for (int i = 0; i < 2; i++) {
    snprintf(path[i], sizeof path[i], "%s/%s/step-00000020/%s", p->dir, i ? other : one, file);
    check_ok(dp_read_file(path[i], &bytes[i], &sizes[i]), path[i]);
  }
  ck_assert_uint_eq(sizes[0], sizes[1]);
  ck_assert_msg(memcmp(bytes[0], bytes[1], sizes[0]) == 0, "%s of %s differs from that of %s", file, other, one);
  free(bytes[0]);
  free(bytes[1]);
}

START_TEST(steps_of_another_cut_and_runs_resumed_have_the_same_bits) {
  const char *name = objectives[_i].name;
  place p = make_place(_i);
  watching w = {.stop = 20};
  check_ok(run(&p, "whole", 2, false, &w), name);
  w = (watching){.stop = 7};
  check_ok(run(&p, "broken", 1, false, &w), name);
  w = (watching){.stop = 20};
  check_ok(run(&p, "broken", 2, true, &w), name);
  ck_same(&p, "whole", "broken", "model.safetensors");
  ck_same(&p, "whole", "broken", "optimizer.safetensors");
  write_recipe(&p, _i, NULL, "accumulate 4;");
  w = (watching){.stop = 20};
  check_ok(run(&p, "cut", 1, false, &w), name);
  ck_same(&p, "whole", "cut", "model.safetensors");
  remove_place(&p);
}
END_TEST

/* A checkpoint of a model with a number a token: transformers' names, and dipper scores with it what the trainer did. */
START_TEST(a_reward_model_is_read_back) {
  place p = make_place(1);
  watching w = {.stop = 30};
  check_ok(run(&p, "out", 2, false, &w), "reward");
  char path[256];
  snprintf(path, sizeof path, "%s/out/step-00000030", p.dir);
  char config[320];
  snprintf(config, sizeof config, "%s/config.json", path);
  json_t *root = json_load_file(config, 0, NULL);
  const char *architecture = json_string_value(json_array_get(json_object_get(root, "architectures"), 0));
  ck_assert_str_eq(architecture ? architecture : "", "LlamaForSequenceClassification");
  ck_assert_int_eq(json_integer_value(json_object_get(root, "num_labels")), 1);
  json_decref(root);
  dp_options options = {.path = DIPPER_SOURCE_DIR "/models/llama.dip", .weights = path, .scalar_head = true, .threads = 1};
  dp_scorer *scorer;
  check_ok(dp_scorer_new(&options, &scorer), "a scorer");
  int32_t ids[] = {45, 64, 76, 68, 94, 64}, targets[] = {-1, -1, -1, -1, -1, -1};
  dp_example example = {.ids = ids, .targets = targets, .count = 6};
  dp_logits scores, rows;
  check_ok(dp_scorer_run(scorer, &example, 1, &scores), "score");
  ck_assert_int_eq(scores.rows, 6);
  ck_assert_int_eq(scores.columns, 1);
  ck_assert(scores.data[5 * scores.stride] != 0);
  dp_training training = {.model = options, .scores = true};
  dp_trainer *trainer;
  const float *trained;
  check_ok(dp_trainer_new(&training, &trainer), "a trainer");
  check_ok(dp_trainer_score(trainer, &example, 1, &trained), "score");
  for (int t = 0; t < 6; t++) ck_assert(memcmp(&trained[t], &scores.data[t * scores.stride], 4) == 0);
  dp_session *session; /* and the forward pass gives the asked tokens theirs */
  check_ok(dp_session_new(dp_trainer_model(trainer), &session), "a session");
  check_ok(dp_session_feed(session, ids, 6, DP_WANT_LAST, &rows), "feed");
  ck_assert(rows.columns == 1 && memcmp(rows.data, &trained[5], 4) == 0);
  dp_session_free(session);
  dp_trainer_free(trainer);
  dp_scorer_free(scorer);
  remove_place(&p);
}
END_TEST

/* Log probabilities of a file's quantized weights are those of a trainer, which holds them as f32. */
START_TEST(a_scorer_gives_the_bits_of_a_trainer) {
  dp_options options = {.path = DIPPER_SOURCE_DIR "/models/llama.dip", .weights = GOLDEN "tiny_llama", .threads = 2};
  dp_training training = {.model = options, .scores = true};
  int32_t ids[2][40], targets[2][40];
  dp_example examples[2];
  for (int i = 0; i < 2; i++) {
    for (int t = 0; t < 40; t++) ids[i][t] = (t * t * 7 + 13 * i) % 97, targets[i][t] = t % 5 == 4 ? -1 : (t * 11 + i) % 97;
    examples[i] = (dp_example){.ids = ids[i], .targets = targets[i], .count = (size_t)(40 - 7 * i)};
  }
  dp_scorer *scorer;
  dp_trainer *trainer;
  dp_logits scores;
  const float *forward, *losses;
  check_ok(dp_scorer_new(&options, &scorer), "a scorer");
  check_ok(dp_trainer_new(&training, &trainer), "a trainer");
  check_ok(dp_scorer_run(scorer, examples, 2, &scores), "score");
  check_ok(dp_trainer_score(trainer, examples, 2, &forward), "score");
  ck_assert_int_eq(scores.rows, 73);
  for (int t = 0; t < 73; t++) ck_assert(memcmp(&forward[t], &scores.data[t * scores.stride], 4) == 0);
  float *kept = malloc(73 * sizeof *kept);
  memcpy(kept, forward, 73 * sizeof *kept);
  check_ok(dp_trainer_add(trainer, examples, 2, &losses), "add");
  ck_assert(memcmp(kept, losses, 73 * sizeof *kept) == 0);
  ck_assert(kept[0] > 0 && kept[4] == 0);
  free(kept);
  dp_trainer_free(trainer);
  dp_scorer_free(scorer);
  dp_trainer *other;
  dp_training without = {.model = options};
  check_ok(dp_trainer_new(&without, &other), "a trainer without scores");
  dp_status status = dp_trainer_score(other, examples, 2, &forward);
  ck_assert_int_eq(status.code, DP_INVALID);
  dp_status_free(&status);
  dp_trainer_free(other);
}
END_TEST

/* ---- what is refused */

START_TEST(data_of_another_kind_is_refused) {
  place p = make_place(_i);
  write_recipe(&p, _i, objectives[_i].pairs ? GOLDEN "objectives/values.jsonl" : GOLDEN "objectives/pairs.jsonl", "");
  watching w = {0};
  dp_status status = run(&p, NULL, 1, false, &w);
  ck_assert_int_eq(status.code, DP_INVALID);
  ck_assert_msg(strstr(dp_status_text(&status), "wants") != NULL, "%s", dp_status_text(&status));
  dp_status_free(&status);
  remove_place(&p);
}
END_TEST

START_TEST(broken_values_are_told_with_their_line) {
  static const struct {
    const char *line, *says;
  } lines[] = {{"{\"prompt\": \"a\", \"completion\": \"b\", \"value\": \"c\"}", "\"value\" is no number"},
               {"{\"prompt\": \"a\", \"completion\": \"\", \"value\": 1}", "\"completion\" is empty"},
               {"{\"prompt\": \"a\", \"value\": 1}", "no \"completion\""},
               {"{\"prompt\": 5, \"completion\": \"b\", \"value\": 1}", "\"prompt\" is no string"}};
  place p = make_place(2);
  char data[128], text[512];
  snprintf(data, sizeof data, "%s/values.jsonl", p.dir);
  for (size_t i = 0; i < DP_COUNT(lines); i++) {
    snprintf(text, sizeof text, "{\"completion\": \"good\", \"value\": 2}\n%s\n", lines[i].line);
    check_ok(dp_write_file_atomic(data, text, strlen(text)), data);
    write_recipe(&p, 2, data, "");
    watching w = {0};
    dp_status status = run(&p, NULL, 1, false, &w);
    ck_assert_int_eq(status.code, DP_INVALID);
    ck_assert_msg(strstr(dp_status_text(&status), ":2: ") && strstr(dp_status_text(&status), lines[i].says), "%s",
                  dp_status_text(&status));
    dp_status_free(&status);
  }
  remove_place(&p);
}
END_TEST

START_TEST(a_model_that_ends_with_no_product_has_no_head) {
  dp_options options = {.path = DIPPER_SOURCE_DIR "/models/minilm.dip", .weights = "random:1", .scalar_head = true};
  dp_scorer *scorer;
  dp_status status = dp_scorer_new(&options, &scorer);
  ck_assert_int_eq(status.code, DP_UNSUPPORTED);
  ck_assert_msg(strstr(dp_status_text(&status), "head") != NULL, "%s", dp_status_text(&status));
  dp_status_free(&status);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("objectives");
  TCase *tests = tcase_create("objectives");
  tcase_set_timeout(tests, 300);
  tcase_add_loop_test(tests, fifty_updates_follow_pytorch_s, 0, (int)DP_COUNT(objectives));
  tcase_add_loop_test(tests, steps_of_another_cut_and_runs_resumed_have_the_same_bits, 0, (int)DP_COUNT(objectives));
  tcase_add_test(tests, a_reward_model_is_read_back);
  tcase_add_test(tests, a_scorer_gives_the_bits_of_a_trainer);
  tcase_add_loop_test(tests, data_of_another_kind_is_refused, 0, (int)DP_COUNT(objectives));
  tcase_add_test(tests, broken_values_are_told_with_their_line);
  tcase_add_test(tests, a_model_that_ends_with_no_product_has_no_head);
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed ? 1 : 0;
}
