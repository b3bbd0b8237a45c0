/* tests/test_lora.c: adapters of low rank: PEFT's folders read and written, PyTorch's curve followed, the bits of what is sampled,
 * resumed and cut; the model's own weights as they were; folders and plans that do not fit. */
#include "api/train.h"

#include <check.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define GOLDEN DIPPER_TEST_DIR "/golden/"
#define MODELS DIPPER_SOURCE_DIR "/models/"
#define LLAMA_PLAN "adapt wq, wv lora rank 4 alpha 8; adapt down lora rank 7 alpha 3.5;"

static void check_ok(dp_status status, const char *what) {
  ck_assert_msg(status.code == DP_OK, "%s: %s", what, dp_status_text(&status));
}

static void ck_refused(dp_status status, dp_code code, const char *said) {
  ck_assert_msg(status.code == code && strstr(dp_status_text(&status), said), "wanted code %d and '%s', not %d: %s", (int)code, said,
                (int)status.code, dp_status_text(&status));
  dp_status_free(&status);
}

/* ---- a folder for each case */

static char place[64];

static void make_place(void) {
  strcpy(place, "/tmp/dipper-lora-XXXXXX");
  ck_assert_ptr_nonnull(mkdtemp(place));
}

static void remove_place(void) {
  char command[128];
  snprintf(command, sizeof command, "rm -rf %s", place);
  ck_assert_int_eq(system(command), 0);
}

/* A path in the folder; of four at once. */
static const char *at(const char *name) {
  static char paths[4][256];
  static int next;
  char *path = paths[next++ % 4];
  snprintf(path, sizeof paths[0], "%s/%s", place, name);
  return path;
}

static const char *write_text(const char *name, const char *text) {
  const char *path = at(name);
  check_ok(dp_write_file_atomic(path, text, strlen(text)), path);
  return path;
}

/* The model's text with such a plan. */
static const char *write_plan(const char *model, const char *plan) {
  char text[1024];
  snprintf(text, sizeof text, "import \"" MODELS "%s.dip\";\nplan thin for %s { %s }\n", model, model, plan);
  return write_text("plan.dip", text);
}


/* ---- what PEFT wrote */

static const struct {
  const char *name, *model;
} written[] = {{"tiny_llama", "llama"}, {"tiny_gpt2", "gpt2"}};

static dp_model *open_model(const char *model, const char *weights, const char *adapter, int threads) {
  char path[512];
  dp_model *opened;
  snprintf(path, sizeof path, MODELS "%s.dip", model);
  dp_options options = {.path = path, .weights = weights, .adapter = adapter, .threads = threads, .verify_each = true};
  check_ok(dp_model_open(&options, &opened), adapter ? adapter : model);
  return opened;
}

static int read_ids(const json_t *list, int32_t *ids) {
  int count = (int)json_array_size(list);
  for (int i = 0; i < count; i++) ids[i] = (int32_t)json_integer_value(json_array_get(list, (size_t)i));
  return count;
}

static void ck_logits(dp_model *model, const json_t *sequence, const char *name) {
  int32_t ids[512];
  int count = read_ids(json_object_get(sequence, "ids"), ids);
  const json_t *rows = json_object_get(sequence, "logits");
  dp_session *session;
  dp_logits logits;
  check_ok(dp_session_new(model, &session), "session");
  check_ok(dp_session_feed(session, ids, (size_t)count, DP_WANT_ALL, &logits), "feed");
  int64_t from = logits.rows - (int64_t)json_array_size(rows);
  for (int64_t r = from; r < logits.rows; r++)
    for (int64_t c = 0; c < logits.columns; c++) {
      double got = (double)logits.data[r * logits.stride + c];
      double expected = json_number_value(json_array_get(json_array_get(rows, (size_t)(r - from)), (size_t)c));
      ck_assert_msg(fabs(got - expected) <= 3e-5, "%s: row %d, column %d is %.6f, not %.6f", name, (int)r, (int)c, got, expected);
    }
  dp_session_free(session);
}

START_TEST(a_folder_of_peft_s_gives_its_logits) {
  char weights[512], adapter[512], path[600];
  snprintf(weights, sizeof weights, GOLDEN "%s", written[_i].name);
  snprintf(adapter, sizeof adapter, GOLDEN "lora/%s", written[_i].name);
  snprintf(path, sizeof path, "%s/logits.json", adapter);
  json_t *sequences = json_load_file(path, 0, NULL);
  ck_assert_int_eq(json_array_size(sequences), 3);
  dp_model *model = open_model(written[_i].model, weights, adapter, 2);
  for (size_t i = 0; i < json_array_size(sequences); i++) ck_logits(model, json_array_get(sequences, i), written[_i].name);
  dp_model_free(model);
  json_decref(sequences);
}
END_TEST

static void copy_file(const char *from, const char *to) {
  char *bytes;
  size_t size;
  check_ok(dp_read_file(from, &bytes, &size), from);
  check_ok(dp_write_file_atomic(to, bytes, size), to);
  free(bytes);
}

START_TEST(weights_with_the_adapter_in_them_give_the_same_logits) {
  char weights[512], adapter[512], path[600], text[512];
  snprintf(text, sizeof text, MODELS "%s.dip", written[_i].model);
  snprintf(weights, sizeof weights, GOLDEN "%s", written[_i].name);
  snprintf(adapter, sizeof adapter, GOLDEN "lora/%s", written[_i].name);
  dp_options options = {.path = text, .weights = weights, .adapter = adapter};
  check_ok(dp_save_weights(&options, at("model.safetensors"), "f32"), "save");
  snprintf(path, sizeof path, "%s/config.json", weights);
  copy_file(path, at("config.json"));
  snprintf(path, sizeof path, "%s/logits.json", adapter);
  json_t *sequences = json_load_file(path, 0, NULL);
  dp_model *model = open_model(written[_i].model, place, NULL, 2);
  for (size_t i = 0; i < json_array_size(sequences); i++) ck_logits(model, json_array_get(sequences, i), written[_i].name);
  dp_model_free(model);
  json_decref(sequences);
}
END_TEST

/* ---- training */

enum { LENGTH = 50, STEPS = 50 };

static dp_trainer *open_trainer(const char *path, const char *weights, const char *adapter, int threads, bool recompute) {
  char base[512];
  snprintf(base, sizeof base, GOLDEN "%s", weights);
  dp_training training = {.model = {.path = path, .weights = base, .adapter = adapter, .threads = threads, .verify_each = true},
                          .recompute = recompute};
  dp_trainer *trainer;
  check_ok(dp_trainer_new(&training, &trainer), weights);
  return trainer;
}

/* As tests/golden/make_lora.py makes them. */
static void make_sequence(int64_t b, int32_t *ids, int32_t *targets) {
  for (int64_t k = 0; k < LENGTH; k++) ids[k] = (int32_t)((b * 7919 + k * k * 31 + k) % 97);
  for (int64_t k = 0; k < LENGTH; k++) targets[k] = k + 1 < LENGTH ? ids[k + 1] : -1;
}

static double train_step(dp_trainer *trainer, int n, bool cut, double *norm) {
  int32_t ids[2][LENGTH], targets[2][LENGTH];
  dp_example examples[2];
  double sum = 0;
  for (int i = 0; i < 2; i++) {
    make_sequence(2 * n % 6 + i, ids[i], targets[i]);
    examples[i] = (dp_example){.ids = ids[i], .targets = targets[i], .count = LENGTH};
  }
  for (int i = 0; i < (cut ? 2 : 1); i++) {
    const float *losses;
    check_ok(dp_trainer_add(trainer, examples + i, cut ? 1 : 2, &losses), "a step");
    for (int t = 0; t < (cut ? 1 : 2) * LENGTH; t++) sum += (double)losses[t];
  }
  check_ok(dp_trainer_update(trainer, 2 * (LENGTH - 1), 3e-3, norm), "an update");
  return sum / (2 * (LENGTH - 1));
}

START_TEST(fifty_updates_follow_peft_s) {
  json_t *curve = json_load_file(GOLDEN "lora/tiny_llama/curve.json", 0, NULL);
  ck_assert_int_eq(json_array_size(curve), STEPS);
  dp_trainer *trainer = open_trainer(write_plan("llama", LLAMA_PLAN), "tiny_llama", GOLDEN "lora/tiny_llama", 2, false);
  for (int n = 0; n < STEPS; n++) {
    const json_t *row = json_array_get(curve, (size_t)n);
    double norm, expected = json_number_value(json_array_get(row, 0)), expected_norm = json_number_value(json_array_get(row, 1));
    double loss = train_step(trainer, n, false, &norm);
    if (!(fabs(loss - expected) <= 1e-3)) ck_abort_msg("step %d: the loss is %.6f, not %.6f", n, loss, expected);
    if (!(fabs(norm - expected_norm) <= 1e-2 * expected_norm)) ck_abort_msg("step %d: the norm is %.6f, not %.6f", n, norm, expected_norm);
  }
  dp_trainer_free(trainer);
  json_decref(curve);
}
END_TEST

/* ---- bits */

static char *adapter_after(int threads, bool recompute, bool cut, size_t *size) {
  dp_trainer *trainer = open_trainer(at("plan.dip"), "tiny_llama", NULL, threads, recompute);
  double norm;
  char *bytes;
  for (int n = 0; n < 3; n++) train_step(trainer, n, cut, &norm);
  check_ok(dp_trainer_save(trainer, at("adapter"), false), "save");
  dp_trainer_free(trainer);
  check_ok(dp_read_file(at("adapter/adapter_model.safetensors"), &bytes, size), "what was saved");
  return bytes;
}

START_TEST(an_adapter_after_updates_does_not_depend_on_how_the_work_is_cut) {
  static const struct {
    const char *what;
    int threads;
    bool recompute, cut;
  } ways[] = {{"2 threads", 2, false, false}, {"made again", 1, true, false}, {"a step for each sequence", 2, false, true}};
  size_t size, other;
  write_plan("llama", LLAMA_PLAN);
  char *expected = adapter_after(1, false, false, &size);
  for (size_t i = 0; i < DP_COUNT(ways); i++) {
    char *got = adapter_after(ways[i].threads, ways[i].recompute, ways[i].cut, &other);
    ck_assert_uint_eq(size, other);
    for (size_t byte = 0; byte < size; byte++) ck_assert_msg(got[byte] == expected[byte], "%s: byte %zu is another", ways[i].what, byte);
    free(got);
  }
  free(expected);
}
END_TEST

static void feed_copy(dp_model *model, float *to, size_t count) {
  int32_t ids[LENGTH], targets[LENGTH];
  dp_session *session;
  dp_logits logits;
  make_sequence(3, ids, targets);
  check_ok(dp_session_new(model, &session), "session");
  check_ok(dp_session_feed(session, ids, LENGTH, DP_WANT_LAST, &logits), "feed");
  ck_assert_uint_eq((size_t)logits.columns, count);
  memcpy(to, logits.data, count * sizeof *to);
  dp_session_free(session);
}

static const char *const saved_plans[] = {LLAMA_PLAN, "adapt wq, up lora rank 3; train norm, norm_mlp, head;"};

START_TEST(a_saved_adapter_runs_with_the_trainer_s_bits) {
  enum { VOCABULARY = 97 };
  float trained[VOCABULARY], loaded[VOCABULARY], plain[VOCABULARY];
  double norm;
  dp_trainer *trainer = open_trainer(write_plan("llama", saved_plans[_i]), "tiny_llama", NULL, 2, false);
  for (int n = 0; n < 5; n++) train_step(trainer, n, false, &norm);
  feed_copy(dp_trainer_model(trainer), trained, VOCABULARY);
  check_ok(dp_trainer_save(trainer, at("adapter"), false), "save");
  dp_trainer_free(trainer);
  for (int with = 0; with < 2; with++) {
    dp_model *model = open_model("llama", GOLDEN "tiny_llama", with ? at("adapter") : NULL, 1);
    feed_copy(model, with ? loaded : plain, VOCABULARY);
    dp_model_free(model);
  }
  ck_assert_mem_eq(trained, loaded, sizeof trained);
  ck_assert_mem_ne(trained, plain, sizeof trained);
  trainer = open_trainer(at("plan.dip"), "tiny_llama", at("adapter"), 1, false); /* and is gone on with */
  feed_copy(dp_trainer_model(trainer), loaded, VOCABULARY);
  ck_assert_mem_eq(trained, loaded, sizeof trained);
  dp_trainer_free(trainer);
}
END_TEST

START_TEST(a_new_adapter_changes_nothing_at_first) {
  enum { VOCABULARY = 97 };
  float begun[VOCABULARY], plain[VOCABULARY];
  dp_trainer *trainer = open_trainer(write_plan("llama", "adapt *w*, gate, up, down, head lora rank 3;"), "tiny_llama", NULL, 2, false);
  feed_copy(dp_trainer_model(trainer), begun, VOCABULARY);
  dp_trainer_free(trainer);
  dp_model *model = open_model("llama", GOLDEN "tiny_llama", NULL, 1);
  feed_copy(model, plain, VOCABULARY);
  dp_model_free(model);
  for (int i = 0; i < VOCABULARY; i++) ck_assert_msg(begun[i] == plain[i], "logit %d: %a, not %a", i, (double)begun[i], (double)plain[i]);
}
END_TEST

/* ---- runs */

static dp_status run(const char *out, int threads, int64_t steps, bool resume, const char *adapter) {
  char folder[256];
  snprintf(folder, sizeof folder, "%s", at(out));
  dp_run how = {.model = {.path = at("plan.dip"), .weights = GOLDEN "tiny_llama", .adapter = adapter, .threads = threads},
                .out = folder, .resume = resume, .steps = steps};
  return dp_run_recipe(&how);
}

static void write_recipe(const char *plan) {
  char text[1024];
  uint16_t ids[3000];
  for (int i = 0; i < 3000; i++) ids[i] = (uint16_t)((i * i * 31 + i / 7) % 97);
  check_ok(dp_write_file_atomic(at("data.bin"), ids, sizeof ids), "data");
  snprintf(text, sizeof text,
           "import \"" MODELS "llama.dip\";\nplan thin for llama { %s }\n"
           "recipe tune for llama { pretrain { data \"data.bin\"; optimizer adamw { lr constant 1e-2 warmup 2; } batch 4;\n"
           "  accumulate 2; length 40; steps 8; seed 5; save every 2 keep 9; } }\n", plan);
  write_text("plan.dip", text);
}

static void ck_same_file(const char *one, const char *other) {
  char *bytes[2];
  size_t sizes[2];
  check_ok(dp_read_file(at(one), &bytes[0], &sizes[0]), one);
  check_ok(dp_read_file(at(other), &bytes[1], &sizes[1]), other);
  ck_assert_msg(sizes[0] == sizes[1] && memcmp(bytes[0], bytes[1], sizes[0]) == 0, "%s is not as %s", other, one);
  free(bytes[0]);
  free(bytes[1]);
}

START_TEST(a_resumed_run_has_the_bits_of_an_unbroken_one) {
  write_recipe(LLAMA_PLAN " train norm;");
  check_ok(run("whole", 2, 0, false, NULL), "unbroken");
  check_ok(run("broken", 1, 4, false, NULL), "until step 4");
  check_ok(run("broken", 2, 8, true, NULL), "to the end");
  ck_same_file("whole/step-00000008/adapter_model.safetensors", "broken/step-00000008/adapter_model.safetensors");
  ck_same_file("whole/step-00000008/optimizer.safetensors", "broken/step-00000008/optimizer.safetensors");
  ck_assert_msg(access(at("whole/step-00000008/model.safetensors"), F_OK) != 0, "the whole model was saved");
  dp_model *model = open_model("llama", GOLDEN "tiny_llama", at("whole/step-00000008"), 1);
  dp_model_free(model);
}
END_TEST

START_TEST(a_checkpoint_of_another_plan_is_not_gone_on_with) {
  write_recipe(LLAMA_PLAN);
  check_ok(run("out", 2, 4, false, NULL), "until step 4");
  write_recipe("adapt wq, wv lora rank 5;");
  ck_refused(run("out", 2, 8, true, NULL), DP_INVALID, "rank 4");
  write_recipe("freeze embed;");
  ck_refused(run("out", 2, 8, true, NULL), DP_INVALID, "the plan adapts nothing");
}
END_TEST

static double number_in(const json_t *config, const char *key, const char *inner) {
  const json_t *value = json_object_get(config, key);
  return json_number_value(inner ? json_object_get(value, inner) : value);
}

START_TEST(the_config_says_what_peft_asks) {
  dp_trainer *trainer = open_trainer(write_plan("llama", LLAMA_PLAN), "tiny_llama", NULL, 1, false);
  check_ok(dp_trainer_save(trainer, at("adapter"), false), "save");
  dp_trainer_free(trainer);
  json_t *config = json_load_file(at("adapter/adapter_config.json"), 0, NULL);
  ck_assert_str_eq(json_string_value(json_object_get(config, "peft_type")), "LORA");
  ck_assert_str_eq(json_string_value(json_object_get(config, "task_type")), "CAUSAL_LM");
  ck_assert_str_eq(json_string_value(json_object_get(config, "bias")), "none");
  ck_assert_str_eq(json_string_value(json_object_get(config, "base_model_name_or_path")), GOLDEN "tiny_llama");
  ck_assert(json_is_false(json_object_get(config, "fan_in_fan_out")));
  ck_assert_double_eq(number_in(config, "r", NULL), 4);
  ck_assert_double_eq(number_in(config, "lora_alpha", NULL), 8);
  ck_assert_double_eq(number_in(config, "rank_pattern", "down_proj"), 7);
  ck_assert_double_eq(number_in(config, "alpha_pattern", "down_proj"), 3.5);
  static const char *const targets[] = {"q_proj", "v_proj", "down_proj"};
  ck_assert_int_eq(json_array_size(json_object_get(config, "target_modules")), DP_COUNT(targets));
  for (size_t i = 0; i < DP_COUNT(targets); i++)
    ck_assert_str_eq(json_string_value(json_array_get(json_object_get(config, "target_modules"), i)), targets[i]);
  json_decref(config);
  rt_weights_file *file;
  check_ok(rt_weights_open(at("adapter/adapter_model.safetensors"), &file), "matrices");
  const rt_tensor *a = rt_weights_find(file, "base_model.model.model.layers.1.self_attn.v_proj.lora_A.weight");
  const rt_tensor *b = rt_weights_find(file, "base_model.model.model.layers.0.mlp.down_proj.lora_B.weight");
  ck_assert_int_eq(rt_weights_tensor_count(file), 2 * 2 * 3);
  ck_assert(a && a->rank == 2 && a->dims[0] == 4 && a->dims[1] == 64);
  ck_assert(b && b->rank == 2 && b->dims[0] == 64 && b->dims[1] == 7);
  rt_weights_close(file);
}
END_TEST

START_TEST(weights_trained_in_full_are_saved_beside) {
  dp_trainer *trainer = open_trainer(write_plan("llama", saved_plans[1]), "tiny_llama", NULL, 1, false);
  check_ok(dp_trainer_save(trainer, at("adapter"), false), "save");
  dp_trainer_free(trainer);
  json_t *config = json_load_file(at("adapter/adapter_config.json"), 0, NULL), *saved = json_object_get(config, "modules_to_save");
  static const char *const modules[] = {"post_attention_layernorm", "model.norm", "lm_head"}; /* "norm" is the end of others too */
  ck_assert_int_eq(json_array_size(saved), DP_COUNT(modules));
  for (size_t i = 0; i < DP_COUNT(modules); i++) ck_assert_str_eq(json_string_value(json_array_get(saved, i)), modules[i]);
  json_decref(config);
  rt_weights_file *file;
  check_ok(rt_weights_open(at("adapter/adapter_model.safetensors"), &file), "tensors");
  ck_assert_int_eq(rt_weights_tensor_count(file), 2 * 2 * 2 + 2 + 1 + 1);
  ck_assert_ptr_nonnull(rt_weights_find(file, "base_model.model.lm_head.weight"));
  ck_assert_ptr_nonnull(rt_weights_find(file, "base_model.model.model.layers.1.post_attention_layernorm.weight"));
  rt_weights_close(file);
}
END_TEST

/* c_proj alone would be both of GPT-2's modules of that name. */
START_TEST(a_target_is_named_so_that_nothing_else_is_meant) {
  dp_trainer *trainer = open_trainer(write_plan("gpt2", "adapt wo lora rank 2 alpha 1;"), "tiny_gpt2", NULL, 1, false);
  check_ok(dp_trainer_save(trainer, at("adapter"), false), "save");
  dp_trainer_free(trainer);
  json_t *config = json_load_file(at("adapter/adapter_config.json"), 0, NULL);
  ck_assert_str_eq(json_string_value(json_array_get(json_object_get(config, "target_modules"), 0)), "attn.c_proj");
  ck_assert(json_is_true(json_object_get(config, "fan_in_fan_out")));
  json_decref(config);
}
END_TEST

/* ---- the model's own weights */

/* Bytes of all that the program keeps of the weights before `adapters`, and a copy of them. */
static int64_t copy_weights(const dp_trainer *trainer, char **copy) {
  const tile_program *p = trainer->model.program;
  int64_t bytes = 0;
  for (int pass = 0; pass < 2; pass++) {
    if (pass) *copy = malloc((size_t)bytes + 1);
    bytes = 0;
    for (int w = 0; w < p->weight_count; w++) {
      const tile_weight *weight = &p->weights[w];
      if (weight->weight >= trainer->model.source.declared) continue;
      ir_dtype type = (ir_dtype)__builtin_ctz(weight->storage ? weight->storage : 1u << IR_f32);
      int64_t size = weight->form == TILE_VECTOR ? weight->cols * 4 : rt_packed_size(type, weight->rows, weight->cols);
      for (int i = 0; i < weight->count * weight->inner; i++, bytes += size)
        if (pass) memcpy(*copy + bytes, rt_engine_state(trainer->model.engine, TILE_VALUE)[weight->first_slot + i], (size_t)size);
    }
  }
  return bytes;
}

START_TEST(of_a_four_bit_model_only_the_adapter_is_trained) {
  char *before, *after, *floats;
  double norm, first = 0, loss = 0;
  dp_trainer *trainer = open_trainer(write_plan("llama", "adapt w*, gate, up, down lora rank 4;"), "tiny_gguf/model.gguf", NULL, 2, false);
  const tile_program *p = trainer->model.program;
  int64_t bytes = copy_weights(trainer, &before);
  for (int n = 0; n < 20; n++) {
    loss = train_step(trainer, n, false, &norm);
    if (!n) first = loss;
  }
  ck_assert_msg(loss < first - 0.1, "the loss went from %f to %f", first, loss);
  ck_assert_int_eq(copy_weights(trainer, &after), bytes);
  ck_assert_msg(memcmp(before, after, (size_t)bytes) == 0, "the model's own weights were changed");
  for (int w = 0; w < p->weight_count; w++)
    for (int state = TILE_GRADIENT; state <= TILE_MOMENT2; state++) {
      bool kept = rt_engine_state(trainer->model.engine, (tile_state)state)[p->weights[w].first_slot] != NULL;
      ck_assert_msg(kept == (p->weights[w].weight >= trainer->model.source.declared), "state %d of %s", state, p->weights[w].name);
    }
  dp_trainer_free(trainer);
  trainer = open_trainer(MODELS "llama.dip", "tiny_gguf/model.gguf", NULL, 2, false);
  int64_t whole = copy_weights(trainer, &floats);
  ck_assert_msg(3 * bytes < whole, "%lld bytes of weights, in f32 %lld", (long long)bytes, (long long)whole);
  dp_trainer_free(trainer);
  free(before);
  free(after);
  free(floats);
}
END_TEST

static bool mentions(const dp_trainer *trainer, const char *what) {
  dp_text text;
  check_ok(dp_trainer_text(trainer, &text), "text");
  bool found = strstr(text.text, what) != NULL;
  dp_text_free(&text);
  return found;
}

START_TEST(nothing_goes_back_below_the_lowest_adapter) {
  dp_trainer *head = open_trainer(write_plan("llama", "adapt head lora rank 4;"), "tiny_llama", NULL, 1, false);
  dp_trainer *all = open_trainer(write_plan("llama", "adapt wq lora rank 4;"), "tiny_llama", NULL, 1, false);
  ck_assert(mentions(all, "attend_rows") && !mentions(head, "attend_rows"));
  dp_trainer_free(head);
  dp_trainer_free(all);
}
END_TEST

/* ---- what does not fit */

static dp_status try_plan(const char *model, const char *weights, const char *plan, const char *adapter) {
  char base[512];
  snprintf(base, sizeof base, GOLDEN "%s", weights);
  dp_training training = {.model = {.path = write_plan(model, plan), .weights = base, .adapter = adapter, .threads = 1}};
  dp_trainer *trainer = NULL;
  dp_status status = dp_trainer_new(&training, &trainer);
  dp_trainer_free(status.code == DP_OK ? trainer : NULL);
  return status;
}

START_TEST(plans_that_cannot_be_are_refused_by_name) {
  ck_refused(try_plan("llama", "tiny_llama", "adapt wq lora rank 65;", NULL), DP_INVALID, "a product of rank 65 is more than 'wq' can use");
  ck_refused(try_plan("llama", "tiny_llama", "adapt wx lora rank 4;", NULL), DP_INVALID, "wx");
  ck_refused(try_plan("llama", "tiny_llama", "adapt embed lora rank 4;", NULL), DP_UNSUPPORTED, "'embed' cannot be adapted: it is used as a table");
  ck_refused(try_plan("llama", "tiny_tied", "adapt wq lora rank 4; train head, embed;", NULL), DP_UNSUPPORTED, "trains 'embed' in full");
  ck_refused(try_plan("gpt2", "tiny_gpt2", "adapt wo lora rank 4; train wq;", NULL), DP_UNSUPPORTED, "trains 'wq' in full");
  ck_refused(try_plan("llama", "tiny_llama", LLAMA_PLAN " train norm;", GOLDEN "lora/tiny_llama"), DP_INVALID, "has not 'norm' in full");
  ck_refused(try_plan("mixtral", "tiny_mixtral", "adapt up lora rank 4;", NULL), DP_UNSUPPORTED, "'up' cannot be adapted");
  ck_refused(try_plan("gpt2", "tiny_gpt2", "adapt wq lora rank 4;", NULL), DP_UNSUPPORTED, "'wq' cannot be adapted: it is a part of the tensor");
  ck_refused(try_plan("llama", "tiny_llama", "adapt wq, wv lora rank 4 alpha 8;", GOLDEN "lora/tiny_llama"), DP_INVALID, "rank 7");
  ck_refused(try_plan("llama", "tiny_llama", "freeze embed;", GOLDEN "lora/tiny_llama"), DP_INVALID, "the plan adapts nothing");
}
END_TEST

static dp_status try_adapter(const char *model, const char *weights, const char *adapter) {
  char path[512], base[512];
  snprintf(path, sizeof path, MODELS "%s.dip", model);
  snprintf(base, sizeof base, GOLDEN "%s", weights);
  dp_options options = {.path = path, .weights = base, .adapter = adapter, .threads = 1};
  dp_model *opened = NULL;
  dp_status status = dp_model_open(&options, &opened);
  dp_model_free(status.code == DP_OK ? opened : NULL);
  return status;
}

/* Two layers of tiny_llama's q_proj [64, 64], of which `count` tensors are written, the last one with `rows` rows. */
static void write_adapter(int count, int64_t rows, const char *config) {
  static const float zeros[64 * 64];
  static const char *const names[] = {"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight",
                                      "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight",
                                      "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight",
                                      "base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight",
                                      "base_model.model.model.layers.1.self_attn.o_proj.lora_B.weight"};
  rt_save_tensor tensors[5];
  for (int i = 0; i < count; i++)
    tensors[i] = (rt_save_tensor){.name = names[i], .dtype = IR_f32, .rank = 2, .dims = {i % 2 ? 64 : 4, i % 2 ? 4 : 64}, .data = zeros};
  if (count && rows) tensors[count - 1].dims[0] = rows;
  mkdir(at("adapter"), 0777);
  check_ok(rt_save_safetensors(at("adapter/adapter_model.safetensors"), tensors, count), "adapter");
  write_text("adapter/adapter_config.json", config);
}

START_TEST(folders_that_do_not_fit_are_refused_by_name) {
  static const char plain[] = "{\"peft_type\": \"LORA\", \"r\": 4, \"lora_alpha\": 8}";
  const char *folder = "/nowhere";
  ck_refused(try_adapter("llama", "tiny_llama", folder), DP_NOT_FOUND, "has no adapter_config.json");
  ck_refused(try_adapter("qwen3", "tiny_qwen3", GOLDEN "lora/tiny_llama"), DP_INVALID, "wq.lora_a");
  ck_refused(try_adapter("gpt2", "tiny_gpt2", GOLDEN "lora/tiny_llama"), DP_INVALID, "stands beside no weight of model gpt2");
  static const struct {
    int count;
    int64_t rows;
    const char *config;
    dp_code code;
    const char *said;
  } folders[] = {
      {4, 0, plain, DP_OK, ""},
      {3, 0, plain, DP_INVALID, "no tensor 'base_model.model.model.layers.{}.self_attn.q_proj.lora_B.weight'"},
      {4, 63, plain, DP_INVALID, "has shape [63, 4]"},
      {3, 5, plain, DP_INVALID, "has shape [5, 64]"},
      {5, 0, plain, DP_INVALID, "o_proj"},
      {0, 0, plain, DP_INVALID, "stands beside no weight"},
      {4, 0, "{", DP_INVALID, "adapter_config.json' at line 1"},
      {4, 0, "[]", DP_INVALID, "no JSON object"},
      {4, 0, "{\"peft_type\": \"IA3\"}", DP_UNSUPPORTED, "IA3"},
      {4, 0, "{\"peft_type\": \"LORA\", \"use_dora\": true}", DP_UNSUPPORTED, "use_dora"},
      {4, 0, "{\"peft_type\": \"LORA\", \"bias\": \"all\"}", DP_UNSUPPORTED, "bias"},
      {4, 0, "{\"peft_type\": \"LORA\", \"init_lora_weights\": \"pissa_niter_4\"}", DP_UNSUPPORTED, "pissa"},
      {4, 0, "{\"peft_type\": \"LORA\", \"alpha_pattern\": {\"layers.0.self_attn.q_proj\": 3}}", DP_UNSUPPORTED, "in one layer"},
      {4, 0, "{\"peft_type\": \"LORA\", \"alpha_pattern\": {\"^q.*\": 3}}", DP_UNSUPPORTED, "expression"},
  };
  for (size_t i = 0; i < DP_COUNT(folders); i++) {
    write_adapter(folders[i].count, folders[i].rows, folders[i].config);
    dp_status status = try_adapter("llama", "tiny_llama", at("adapter"));
    if (folders[i].code == DP_OK) check_ok(status, "a folder that fits");
    else ck_refused(status, folders[i].code, folders[i].said);
  }
  unlink(at("adapter/adapter_model.safetensors"));
  ck_refused(try_adapter("llama", "tiny_llama", at("adapter")), DP_NOT_FOUND, "safe_serialization");
}
END_TEST

int main(void) {
  Suite *suite = suite_create("lora");
  TCase *tests = tcase_create("lora");
  tcase_set_timeout(tests, 300);
  tcase_add_checked_fixture(tests, make_place, remove_place);
  tcase_add_loop_test(tests, a_folder_of_peft_s_gives_its_logits, 0, (int)DP_COUNT(written));
  tcase_add_loop_test(tests, weights_with_the_adapter_in_them_give_the_same_logits, 0, (int)DP_COUNT(written));
  tcase_add_test(tests, fifty_updates_follow_peft_s);
  tcase_add_test(tests, an_adapter_after_updates_does_not_depend_on_how_the_work_is_cut);
  tcase_add_loop_test(tests, a_saved_adapter_runs_with_the_trainer_s_bits, 0, (int)DP_COUNT(saved_plans));
  tcase_add_test(tests, a_new_adapter_changes_nothing_at_first);
  tcase_add_test(tests, a_resumed_run_has_the_bits_of_an_unbroken_one);
  tcase_add_test(tests, a_checkpoint_of_another_plan_is_not_gone_on_with);
  tcase_add_test(tests, the_config_says_what_peft_asks);
  tcase_add_test(tests, weights_trained_in_full_are_saved_beside);
  tcase_add_test(tests, a_target_is_named_so_that_nothing_else_is_meant);
  tcase_add_test(tests, of_a_four_bit_model_only_the_adapter_is_trained);
  tcase_add_test(tests, nothing_goes_back_below_the_lowest_adapter);
  tcase_add_test(tests, plans_that_cannot_be_are_refused_by_name);
  tcase_add_test(tests, folders_that_do_not_fit_are_refused_by_name);
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed ? 1 : 0;
}
