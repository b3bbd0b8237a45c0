/* tests/test_checkpoint.c: what checkpoints promise: what was saved comes back bit for bit; whatever happens to a
 * writer or to a file, the last good one opens; what went wrong is named. */
#include "runtime/runtime.h"
#include "tests/weights_fixture.h"

#include <dirent.h>
#include <jansson.h>
#include <math.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#define SMOLLM2 DIPPER_SOURCE_DIR "/build/weights/SmolLM2-135M-Instruct.Q4_1.gguf"
#define TINY DIPPER_TEST_DIR "/golden/tiny_llama"

static void check_ok(dp_status status) { ck_assert_msg(status.code == DP_OK, "%s", dp_status_text(&status)); }

/* ---- a small run: its numbers are those of its step */

enum { ELEMENTS = 5000 };

typedef struct run {
  char directory[128];
  float weights[ELEMENTS], first[ELEMENTS], second[ELEMENTS];
  int keep;
  const rt_weights_file *source;
} run;

static float value_at(int64_t step, int which, int64_t i) {
  uint64_t h = dp_hash((uint64_t)step * 3 + (uint64_t)which, &i, sizeof i);
  uint32_t bits = (uint32_t)h & 0xbfffffff; /* no exponent of infinities and nans */
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

static run *new_run(void) {
  run *r = calloc(1, sizeof *r);
  snprintf(r->directory, sizeof r->directory, "%s/run", folder);
  return r;
}

static dp_status save_weights(void *user, const char *path) {
  const run *r = user;
  rt_save_tensor tensor = {.name = "w", .dtype = IR_f32, .rank = 2, .dims = {50, ELEMENTS / 50}, .data = r->weights};
  return rt_save_safetensors(path, &tensor, 1);
}

static dp_status save_step(run *r, int64_t step) {
  for (int64_t i = 0; i < ELEMENTS; i++) {
    r->weights[i] = value_at(step, 0, i);
    r->first[i] = value_at(step, 1, i);
    r->second[i] = value_at(step, 2, i);
  }
  const rt_save_tensor moments[] = {
      {.name = "w.exp_avg", .dtype = IR_f32, .rank = 1, .dims = {ELEMENTS}, .data = r->first},
      {.name = "w.exp_avg_sq", .dtype = IR_f32, .rank = 1, .dims = {ELEMENTS}, .data = r->second}};
  rt_checkpoint_plan plan = {.directory = r->directory,
                             .keep = r->keep,
                             .state = {.step = step,
                                       .position = {step / 10, step % 10, 3},
                                       .data_identity = UINT64_C(0xfedcba9876543210),
                                       .seed = UINT64_MAX,
                                       .loss = 1.0 / (double)(step + 3)},
                             .save_weights = save_weights,
                             .user = r,
                             .weights_bytes = sizeof r->weights,
                             .weights_type = IR_f32,
                             .optimizer = moments,
                             .optimizer_count = 2,
                             .optimizer_state = "{\"t\": 7, \"who\": \"\\u00e9 \\\"x\\\"\"}",
                             .source = r->source};
  return rt_checkpoint_save(&plan);
}

static rt_checkpoint *open_run(const run *r) {
  rt_checkpoint *checkpoint;
  check_ok(rt_checkpoint_open(r->directory, &checkpoint));
  return checkpoint;
}

static void check_floats(const float *got, int64_t step, int which) {
  for (int64_t i = 0; i < ELEMENTS; i++) {
    float expected = value_at(step, which, i);
    if (memcmp(&got[i], &expected, 4) != 0)
      ck_abort_msg("array %d of step %lld, element %lld: %g, not %g", which, (long long)step, (long long)i, got[i],
                   expected);
  }
}

/* Everything in it is of the step that it says; returns the step. Closes it. */
static int64_t check_whole(rt_checkpoint *checkpoint) {
  int64_t step = checkpoint->state.step;
  static float values[ELEMENTS];
  check_ok(rt_checkpoint_read(checkpoint, "w.exp_avg", values, ELEMENTS));
  check_floats(values, step, 1);
  check_ok(rt_checkpoint_read(checkpoint, "w.exp_avg_sq", values, ELEMENTS));
  check_floats(values, step, 2);
  rt_weights_file *file;
  check_ok(rt_weights_open(checkpoint->directory, &file));
  const rt_tensor *tensor = rt_weights_find(file, "w");
  ck_assert_ptr_nonnull(tensor);
  memcpy(values, tensor->data, sizeof values);
  check_floats(values, step, 0);
  rt_weights_close(file);
  ck_assert(checkpoint->state.position.epoch == step / 10 && checkpoint->state.position.index == step % 10 &&
            checkpoint->state.position.piece == 3);
  rt_checkpoint_close(checkpoint);
  return step;
}

/* Names in the run's folder, sorted, each followed by a blank. */
static dp_str names_in(const char *directory) {
  dp_str out = {0};
  struct dirent **entries;
  int count = scandir(directory, &entries, NULL, alphasort);
  for (int i = 0; i < count; i++) {
    if (strcmp(entries[i]->d_name, ".") != 0 && strcmp(entries[i]->d_name, "..") != 0)
      dp_str_addf(&out, "%s ", entries[i]->d_name);
    free(entries[i]);
  }
  if (count >= 0) free(entries);
  dp_str_add(&out, "");
  return out;
}

static void check_names(const char *directory, const char *expected) {
  dp_str names = names_in(directory);
  ck_assert_str_eq(names.text, expected);
  dp_str_free(&names);
}

/* ---- round trip */

START_TEST(what_was_saved_comes_back_bit_for_bit) {
  make_folder();
  run *r = new_run();
  check_ok(save_step(r, 17));
  rt_checkpoint *checkpoint = open_run(r);
  ck_assert_ptr_null(checkpoint->note);
  ck_assert_int_eq(checkpoint->state.step, 17);
  ck_assert_uint_eq(checkpoint->state.data_identity, UINT64_C(0xfedcba9876543210));
  ck_assert_uint_eq(checkpoint->state.seed, UINT64_MAX);
  ck_assert(checkpoint->state.loss == 1.0 / 20);
  ck_assert_str_eq(rt_weights_string(checkpoint->optimizer, "__metadata__.state"),
                   "{\"t\": 7, \"who\": \"\\u00e9 \\\"x\\\"\"}");
  ck_assert_str_eq(rt_weights_string(checkpoint->optimizer, "__metadata__.format"), "pt");
  float few[3];
  check_message(rt_checkpoint_read(checkpoint, "w.momentum", few, 3), DP_INVALID,
                "optimizer.safetensors|no 'w.momentum'");
  check_message(rt_checkpoint_read(checkpoint, "w.exp_avg", few, 3), DP_INVALID, "w.exp_avg|5000 elements|3 of f32");
  check_whole(checkpoint);
  check_names(r->directory, "latest step-00000017 ");
  char path[256], *text;
  size_t length;
  snprintf(path, sizeof path, "%s/latest", r->directory);
  check_ok(dp_read_file(path, &text, &length));
  ck_assert_str_eq(text, "step-00000017\n");
  free(text);
  snprintf(path, sizeof path, "%s/step-00000017", r->directory); /* by its own name */
  check_ok(rt_checkpoint_open(path, &checkpoint));
  ck_assert_int_eq(check_whole(checkpoint), 17);
  check_names(path, "model.safetensors optimizer.safetensors trainer.json ");
  free(r);
  remove_folder();
}
END_TEST

START_TEST(an_optimizer_without_arrays_and_a_loss_that_is_no_number_are_kept) {
  make_folder();
  run *r = new_run();
  rt_checkpoint_plan plan = {.directory = r->directory,
                             .state = {.step = 0, .loss = INFINITY},
                             .save_weights = save_weights,
                             .user = r,
                             .weights_type = IR_f32};
  check_ok(rt_checkpoint_save(&plan));
  rt_checkpoint *checkpoint = open_run(r);
  ck_assert(isnan(checkpoint->state.loss));
  rt_checkpoint_close(checkpoint);
  free(r);
  remove_folder();
}
END_TEST

START_TEST(the_newest_are_kept) {
  make_folder();
  run *r = new_run();
  r->keep = 2;
  for (int64_t step = 1; step <= 4; step++) check_ok(save_step(r, step * 100));
  check_names(r->directory, "latest step-00000300 step-00000400 ");
  check_ok(save_step(r, 400)); /* again, over itself */
  ck_assert_int_eq(check_whole(open_run(r)), 400);
  check_ok(save_step(r, 350)); /* of a run that went back: later ones do not count */
  check_names(r->directory, "latest step-00000300 step-00000350 step-00000400 ");
  r->keep = 0;
  for (int64_t step = 5; step <= 7; step++) check_ok(save_step(r, step * 100));
  check_names(r->directory,
              "latest step-00000300 step-00000350 step-00000400 step-00000500 step-00000600 step-00000700 ");
  free(r);
  remove_folder();
}
END_TEST

/* ---- damage */

/* Changes a file of a checkpoint: its byte `at` where at >= 0; else cuts it to -at bytes. */
static void damage(const run *r, int64_t step, const char *name, int64_t at) {
  char path[256], byte;
  snprintf(path, sizeof path, "%s/step-%08lld/%s", r->directory, (long long)step, name);
  if (at < 0) {
    ck_assert_int_eq(truncate(path, -at), 0);
    return;
  }
  FILE *file = fopen(path, "r+b");
  ck_assert_ptr_nonnull(file);
  ck_assert_int_eq(fseek(file, at, SEEK_SET), 0);
  ck_assert_uint_eq(fread(&byte, 1, 1, file), 1);
  byte ^= 4;
  fseek(file, at, SEEK_SET);
  fwrite(&byte, 1, 1, file);
  fclose(file);
}

START_TEST(a_damaged_one_is_named_and_the_one_before_it_is_opened) {
  static const struct {
    const char *file;
    int64_t at;
    const char *says;
  } cases[] = {
      {"model.safetensors", 5000, "step-00000002/model.safetensors' has changed"},
      {"model.safetensors", 3, "step-00000002/model.safetensors' has changed"},
      {"model.safetensors", -4000, "step-00000002/model.safetensors' has 4000 bytes, "},
      {"optimizer.safetensors", 40000, "step-00000002/optimizer.safetensors' has changed"},
      {"optimizer.safetensors", -1, "step-00000002/optimizer.safetensors' has 1 bytes, "},
      {"trainer.json", -30, "step-00000002/trainer.json' at line"},
      {"trainer.json", 30, "step-00000002/trainer.json'"},
      {"trainer.json", 200, "step-00000002/trainer.json'"},
  };
  for (size_t i = 0; i < DP_COUNT(cases); i++) {
    make_folder();
    run *r = new_run();
    check_ok(save_step(r, 1));
    check_ok(save_step(r, 2));
    damage(r, 2, cases[i].file, cases[i].at);
    rt_checkpoint *checkpoint = open_run(r);
    ck_assert_ptr_nonnull(checkpoint->note);
    ck_assert_msg(strstr(checkpoint->note, cases[i].says), "no '%s' in: %s", cases[i].says, checkpoint->note);
    ck_assert_int_eq(check_whole(checkpoint), 1);
    check_ok(save_step(r, 2)); /* the run that goes on comes to it again */
    ck_assert_int_eq(check_whole(open_run(r)), 2);
    check_names(r->directory, "latest step-00000001 step-00000002 ");
    free(r);
    remove_folder();
  }
}
END_TEST

START_TEST(every_bit_of_trainer_json_is_watched) {
  make_folder();
  run *r = new_run();
  check_ok(save_step(r, 1));
  char path[256], *text;
  size_t length;
  snprintf(path, sizeof path, "%s/step-00000001/trainer.json", r->directory);
  check_ok(dp_read_file(path, &text, &length));
  for (size_t i = 0; i < length; i++) {
    bool blank = text[i] == ' ' || text[i] == '\n';
    if (blank) continue;
    damage(r, 1, "trainer.json", (int64_t)i);
    rt_checkpoint *checkpoint = (rt_checkpoint *)r;
    dp_status status = rt_checkpoint_open(r->directory, &checkpoint);
    ck_assert_msg(status.code == DP_INVALID, "byte %zu of trainer.json, '%c', may change", i, text[i]);
    ck_assert_ptr_null(checkpoint);
    dp_status_free(&status);
    damage(r, 1, "trainer.json", (int64_t)i);
  }
  free(text);
  ck_assert_int_eq(check_whole(open_run(r)), 1);
  free(r);
  remove_folder();
}
END_TEST

START_TEST(what_cannot_be_opened_is_named) {
  make_folder();
  run *r = new_run();
  rt_checkpoint *checkpoint;
  check_message(rt_checkpoint_open(r->directory, &checkpoint), DP_NOT_FOUND, r->directory);
  ck_assert_int_eq(mkdir(r->directory, 0755), 0);
  check_message(rt_checkpoint_open(r->directory, &checkpoint), DP_NOT_FOUND, "holds no checkpoint");
  check_ok(save_step(r, 5));
  check_ok(save_step(r, 6));
  char path[256];
  snprintf(path, sizeof path, "%s/step-00000005/trainer.json", r->directory);
  ck_assert_int_eq(unlink(path), 0);
  damage(r, 6, "model.safetensors", 100);
  check_message(rt_checkpoint_open(r->directory, &checkpoint), DP_INVALID,
                "no checkpoint in|step-00000006/model.safetensors|step-00000005/trainer.json");
  strcpy(r->directory, "/nowhere/at/all");
  check_message(save_step(r, 1), DP_IO, "/nowhere/at/all");
  check_message(save_step(r, -1), DP_INVALID, "step -1");
  check_message(save_step(r, 100000000), DP_INVALID, "step 100000000");
  free(r);
  remove_folder();
}
END_TEST

/* ---- writers that end early */

START_TEST(leftovers_of_killed_writers_are_removed) {
  make_folder();
  run *r = new_run();
  check_ok(save_step(r, 1));
  char command[512];
  snprintf(command, sizeof command,
           "cd '%s' && mkdir .step-00000002.tmp-abcdef .step-00000001.tmp-old && touch "
           ".step-00000002.tmp-abcdef/model.safetensors "
           "latest.tmp-xyzxyz .mine latest.mine",
           r->directory);
  ck_assert_int_eq(system(command), 0);
  ck_assert_int_eq(check_whole(open_run(r)), 1);
  check_names(r->directory, ".mine latest latest.mine step-00000001 ");
  ck_assert_int_eq(system(command), 0);
  check_ok(save_step(r, 2));
  check_names(r->directory, ".mine latest latest.mine step-00000001 step-00000002 ");
  free(r);
  remove_folder();
}
END_TEST

START_TEST(a_second_writer_is_told_of_the_first) {
  make_folder();
  run *r = new_run();
  check_ok(save_step(r, 1));
  DIR *other = opendir(r->directory);
  ck_assert_int_eq(flock(dirfd(other), LOCK_EX), 0);
  check_message(save_step(r, 2), DP_IO, "another process|/run'");
  ck_assert_int_eq(check_whole(open_run(r)), 1); /* reading is free */
  closedir(other);
  check_ok(save_step(r, 2));
  free(r);
  remove_folder();
}
END_TEST

/* Child: one checkpoint after another, from the one after the newest. */
static void save_forever(run *r, int64_t from) {
  for (int64_t step = from;; step++) {
    dp_status status = save_step(r, step);
    if (status.code != DP_OK) _exit(1);
  }
}

START_TEST(a_writer_may_be_killed_at_any_moment) {
  enum { ROUNDS = 60 };
  make_folder();
  run *r = new_run();
  r->keep = 2;
  check_ok(save_step(r, 0));
  uint64_t state = 99;
  int64_t step = 0;
  for (int round = 0; round < ROUNDS; round++) {
    pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) save_forever(r, step + 1);
    state = state * UINT64_C(6364136223846793005) + 1442695040888963407u;
    struct timespec wait = {0, (long)(1000000 + (state >> 33) % 40000000)};
    nanosleep(&wait, NULL);
    kill(child, SIGKILL);
    int how;
    ck_assert_int_eq(waitpid(child, &how, 0), child);
    ck_assert_msg(WIFSIGNALED(how), "the writer ended by itself: %d", how);
    rt_checkpoint *checkpoint = open_run(r);
    ck_assert_msg(!checkpoint->note, "round %d: %s", round, checkpoint->note);
    int64_t opened = check_whole(checkpoint);
    ck_assert_msg(opened >= step, "round %d: step %lld, and %lld was there", round, (long long)opened, (long long)step);
    step = opened;
    dp_str names = names_in(r->directory);
    ck_assert_msg(!strstr(names.text, ".tmp-"), "left over: %s", names.text);
    dp_str_free(&names);
  }
  ck_assert_int_ge(step, 3);
  free(r);
  remove_folder();
}
END_TEST

/* A limit on the size of files stands in for a full disk: writes fail in the middle of a file. */
START_TEST(a_full_disk_leaves_the_last_good_one) {
  make_folder();
  run *r = new_run();
  check_ok(save_step(r, 1));
  static const rlim_t limits[] = {0, 100, 8000, 20300, 30000};
  struct rlimit before;
  getrlimit(RLIMIT_FSIZE, &before);
  signal(SIGXFSZ, SIG_IGN);
  for (size_t i = 0; i < DP_COUNT(limits); i++) {
    struct rlimit small = {limits[i], before.rlim_max};
    setrlimit(RLIMIT_FSIZE, &small);
    dp_status status = save_step(r, 2);
    setrlimit(RLIMIT_FSIZE, &before);
    check_message(status, DP_IO, "cannot write|step 2 takes about 125536 bytes|are free");
    check_names(r->directory, "latest step-00000001 ");
    ck_assert_int_eq(check_whole(open_run(r)), 1);
  }
  signal(SIGXFSZ, SIG_DFL);
  check_ok(save_step(r, 2));
  ck_assert_int_eq(check_whole(open_run(r)), 2);
  free(r);
  remove_folder();
}
END_TEST

static dp_status fail_to_save(void *user, const char *path) {
  (void)user;
  check_ok(dp_write_file_atomic(path, "half", 4));
  return dp_fail(DP_BUG, "the weights are gone");
}

START_TEST(what_surely_has_no_room_is_not_begun) {
  make_folder();
  run *r = new_run();
  check_ok(save_step(r, 1));
  rt_checkpoint_plan plan = {.directory = r->directory,
                             .state = {.step = 2},
                             .save_weights = fail_to_save,
                             .weights_bytes = UINT64_C(1) << 60};
  check_message(rt_checkpoint_save(&plan), DP_IO, "takes about 1152921504606912512 bytes|are free|are missing");
  plan.weights_bytes = 0;
  check_message(rt_checkpoint_save(&plan), DP_BUG, "the weights are gone");
  check_names(r->directory, "latest step-00000001 ");
  free(r);
  remove_folder();
}
END_TEST

/* ---- what stands beside the weights */

static json_t *load_config(const run *r, int64_t step) {
  char path[256];
  snprintf(path, sizeof path, "%s/step-%08lld/config.json", r->directory, (long long)step);
  json_t *root = json_load_file(path, 0, NULL);
  ck_assert_ptr_nonnull(root);
  return root;
}

static void check_text_of(const json_t *root, const char *key, const char *expected) {
  ck_assert_str_eq(json_string_value(json_object_get(root, key)), expected);
}

START_TEST(companions_are_copied_and_tell_of_the_new_weights) {
  make_folder();
  run *r = new_run();
  dp_str plain = make_safetensors("{\"w\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4);
  write_file("model.safetensors", plain.text, plain.length);
  static const char config[] = "{\"model_type\": \"llama\", \"dtype\": \"bfloat16\", \"rms_norm_eps\": 1e-05, "
                               "\"quantization_config\": {\"bits\": 4}}",
                    tokens[] = "{\"added\": [\"\xc3\xa9\"]}\n";
  write_file("config.json", config, strlen(config));
  write_file("special_tokens_map.json", tokens, strlen(tokens));
  write_file("other.json", "{}", 2);
  rt_weights_file *source;
  check_ok(rt_weights_open(folder, &source));
  r->source = source;
  check_ok(save_step(r, 1));
  json_t *root = load_config(r, 1);
  check_text_of(root, "dtype", "float32");
  check_text_of(root, "model_type", "llama");
  ck_assert_ptr_null(json_object_get(root, "quantization_config"));
  ck_assert(json_real_value(json_object_get(root, "rms_norm_eps")) == 1e-5);
  json_decref(root);
  char path[256], *text;
  size_t length;
  snprintf(path, sizeof path, "%s/step-00000001", r->directory);
  check_names(path, "config.json model.safetensors optimizer.safetensors special_tokens_map.json trainer.json ");
  strcat(path, "/special_tokens_map.json");
  check_ok(dp_read_file(path, &text, &length));
  ck_assert_str_eq(text, tokens);
  free(text);
  damage(r, 1, "special_tokens_map.json", 2); /* watched like the weights */
  rt_checkpoint *checkpoint;
  check_message(rt_checkpoint_open(r->directory, &checkpoint), DP_INVALID, "special_tokens_map.json' has changed");
  rt_weights_close(source);
  dp_str_free(&plain);
  free(r);
  remove_folder();
}
END_TEST

START_TEST(a_gguf_file_of_a_llama_is_described) {
  make_folder();
  run *r = new_run();
  rt_weights_file *source;
  check_ok(rt_weights_open(SMOLLM2, &source));
  r->source = source;
  check_ok(save_step(r, 1));
  json_t *root = load_config(r, 1);
  static const struct {
    const char *key;
    json_int_t value;
  } numbers[] = {
      {"hidden_size", 576},       {"intermediate_size", 1536}, {"num_hidden_layers", 30}, {"num_attention_heads", 9},
      {"num_key_value_heads", 3}, {"vocab_size", 49152},       {"head_dim", 64}};
  for (size_t i = 0; i < DP_COUNT(numbers); i++)
    ck_assert_msg(json_integer_value(json_object_get(root, numbers[i].key)) == numbers[i].value, "%s", numbers[i].key);
  ck_assert(json_is_true(json_object_get(root, "tie_word_embeddings")));
  ck_assert(json_real_value(json_object_get(root, "rms_norm_eps")) == 1e-5);
  ck_assert(json_real_value(json_object_get(root, "rope_theta")) == 100000);
  check_text_of(root, "torch_dtype", "float32");
  json_decref(root);
  rt_weights_file *made;
  char path[256];
  snprintf(path, sizeof path, "%s/step-00000001", r->directory);
  check_ok(rt_weights_open(path, &made));
  ck_assert_str_eq(rt_weights_string(made, "tokenizer.chat_template"),
                   rt_weights_string(source, "tokenizer.chat_template"));
  rt_weights_close(made);
  rt_weights_close(source);
  free(r);
  remove_folder();
}
END_TEST

START_TEST(the_size_of_weights_is_known_before_they_are_written) {
  make_folder();
  dp_arena *arena = dp_arena_new();
  ir_module *module = ir_module_new("m");
  static const int64_t dims[] = {6, 32};
  static const char *const sources[] = {"w"};
  add_weight(module, "w", false, 2, dims, sources, 1, 0);
  rt_binding *binding;
  check_ok(rt_bind_random(module, 1, IR_f32, &binding));
  ck_assert_uint_eq(rt_saved_bytes(module, binding, IR_f32), 6 * 32 * 4);
  ck_assert_uint_eq(rt_saved_bytes(module, binding, IR_bf16), 6 * 32 * 2);
  rt_binding_free(binding);
  ir_module_free(module);
  dp_arena_free(arena);
  remove_folder();
}
END_TEST

int main(void) {
  Suite *suite = suite_create("checkpoint");
  TCase *tests = tcase_create("checkpoint");
  tcase_set_timeout(tests, 300);
  tcase_add_test(tests, what_was_saved_comes_back_bit_for_bit);
  tcase_add_test(tests, an_optimizer_without_arrays_and_a_loss_that_is_no_number_are_kept);
  tcase_add_test(tests, the_newest_are_kept);
  tcase_add_test(tests, a_damaged_one_is_named_and_the_one_before_it_is_opened);
  tcase_add_test(tests, every_bit_of_trainer_json_is_watched);
  tcase_add_test(tests, what_cannot_be_opened_is_named);
  tcase_add_test(tests, leftovers_of_killed_writers_are_removed);
  tcase_add_test(tests, a_second_writer_is_told_of_the_first);
  tcase_add_test(tests, a_writer_may_be_killed_at_any_moment);
  tcase_add_test(tests, a_full_disk_leaves_the_last_good_one);
  tcase_add_test(tests, what_surely_has_no_room_is_not_begun);
  tcase_add_test(tests, companions_are_copied_and_tell_of_the_new_weights);
  tcase_add_test(tests, a_gguf_file_of_a_llama_is_described);
  tcase_add_test(tests, the_size_of_weights_is_known_before_they_are_written);
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed != 0;
}
