/* tests/test_train.c: training as a whole: curves beside PyTorch's, what was sampled scored to the bit, runs that break off. */
#include "base/base.h"
#include "dipper/train.h"

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

static void check_ok(dp_status status, const char *what) {
  ck_assert_msg(status.code == DP_OK, "%s: %s", what, dp_status_text(&status));
}

/* ---- curves */

enum { LENGTH = 50, STEPS = 50 };

static const struct {
  const char *name, *model, *plan, *curve;
  double rate;
} models[] = {{"tiny_llama", "llama", "", "tiny_llama", 1e-3},
              {"tiny_gpt2", "gpt2", "", "tiny_gpt2", 1e-3},
              {"tiny_qwen3", "qwen3", "", "tiny_qwen3", 1e-3},
              {"tiny_mixtral", "mixtral", "", "tiny_mixtral", 1e-3},
              {"tiny_tied", "llama", "", "tiny_tied", 1e-3},
              {"tiny_llama", "llama", "weights bf16;", "tiny_llama.bf16", 1e-4},
              {"tiny_gpt2", "gpt2", "weights bf16;", "tiny_gpt2.bf16", 1e-4},
              {"tiny_mixtral", "mixtral", "weights bf16;", "tiny_mixtral.bf16", 1e-4},
              {"tiny_tied", "llama", "weights bf16;", "tiny_tied.bf16", 1e-4}};

/* How a trainer is made; `plan`: the statements of one. */
typedef struct way {
  const char *plan, *backend;
  uint64_t seed;
  int threads;
  dp_recompute recompute;
  int64_t wide;
} way;

static dp_trainer *open_trainer(const char *model, const char *name, way way) {
  char path[] = "/tmp/dipper-text-XXXXXX", weights[512], text[1024];
  close(mkstemp(path));
  int size = snprintf(text, sizeof text, "import \"" MODELS "%s.dip\"; plan p for %s { %s }\n", model, model, way.plan ? way.plan : "");
  check_ok(dp_write_file_atomic(path, text, (size_t)size), path);
  snprintf(weights, sizeof weights, GOLDEN "%s", name);
  dp_training training = {.model = {.path = path, .weights = weights, .threads = way.threads, .backend = way.backend, .verify_each = true},
                          .recompute = way.recompute, .wide_columns = way.wide, .seed = way.seed};
  dp_trainer *trainer;
  check_ok(dp_trainer_new(&training, &trainer), name);
  unlink(path);
  return trainer;
}

/* As tests/golden/make_curves.py makes them. */
static void make_sequence(int64_t b, int32_t *ids, int32_t *targets) {
  for (int64_t k = 0; k < LENGTH; k++) ids[k] = (int32_t)((b * 7919 + k * k * 31 + k) % 97);
  for (int64_t k = 0; k < LENGTH; k++) targets[k] = k + 1 < LENGTH ? ids[k + 1] : -1;
}

/* One update of two sequences, in one step or in one each; the mean loss. */
static double train_step(dp_trainer *trainer, int n, double rate, bool cut, double *norm) {
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
  check_ok(dp_trainer_update(trainer, 2 * (LENGTH - 1), rate, norm), "an update");
  return sum / (2 * (LENGTH - 1));
}

START_TEST(fifty_updates_follow_pytorch_s) {
  json_t *all = json_load_file(GOLDEN "curves.json", 0, NULL), *curve = json_object_get(all, models[_i].curve);
  ck_assert_msg(json_array_size(curve) == STEPS, "there is no curve of %s", models[_i].curve);
  dp_trainer *trainer = open_trainer(models[_i].model, models[_i].name, (way){.plan = models[_i].plan, .threads = 2});
  double first = 0, loss = 0;
  for (int n = 0; n < STEPS; n++) {
    double norm, expected = json_number_value(json_array_get(json_array_get(curve, (size_t)n), 0));
    double expected_norm = json_number_value(json_array_get(json_array_get(curve, (size_t)n), 1));
    loss = train_step(trainer, n, models[_i].rate, false, &norm);
    if (!n) first = loss;
    if (!(fabs(loss - expected) <= 1e-3)) ck_abort_msg("%s: step %d: the loss is %.6f, not %.6f", models[_i].curve, n, loss, expected);
    if (!(fabs(norm - expected_norm) <= 1e-2 * expected_norm))
      ck_abort_msg("%s: step %d: the norm is %.6f, not %.6f", models[_i].curve, n, norm, expected_norm);
  }
  ck_assert_msg(loss < first, "%s: the loss went from %f to %f", models[_i].curve, first, loss);
  dp_trainer_free(trainer);
  json_decref(all);
}
END_TEST

/* ---- bits */

static char *read_saved(dp_trainer *trainer, size_t *size) {
  char path[] = "/tmp/dipper-train-XXXXXX", *bytes;
  close(mkstemp(path));
  check_ok(dp_trainer_save(trainer, path, false), "save");
  check_ok(dp_read_file(path, &bytes, size), path);
  unlink(path);
  return bytes;
}

static char *weights_after(const char *name, way way, bool cut, size_t *size) {
  dp_trainer *trainer = open_trainer("llama", name, way);
  double norm;
  for (int n = 0; n < 3; n++) train_step(trainer, n, 1e-3, cut, &norm);
  char *bytes = read_saved(trainer, size);
  dp_trainer_free(trainer);
  return bytes;
}

static const char *const plans[] = {"", "weights bf16;", "weights bf16 stochastic;"};

START_TEST(weights_after_updates_do_not_depend_on_how_the_work_is_cut) {
  static const struct {
    const char *what;
    way way;
    bool cut;
  } ways[] = {{"2 threads", {.threads = 2, .recompute = DP_RECOMPUTE_SELECTIVE}, false},
              {"made again", {.threads = 1, .recompute = DP_RECOMPUTE_BLOCK}, false},
              {"all kept", {.threads = 2, .recompute = DP_RECOMPUTE_NONE}, false},
              {"windows of logits", {.threads = 2, .wide = 97}, false},
              {"windows of all that is outside the layers", {.threads = 2, .recompute = DP_RECOMPUTE_BLOCK, .wide = 1}, false},
              {"a step for each sequence", {.threads = 2, .wide = 97}, true},
              {"the interpreter", {.threads = 2, .backend = "interp"}, false}};
  size_t size, other;
  char *expected = weights_after("tiny_llama", (way){.plan = plans[_i], .threads = 1}, false, &size);
  for (size_t i = 0; i < DP_COUNT(ways); i++) {
    way way = ways[i].way;
    way.plan = plans[_i];
    char *got = weights_after("tiny_llama", way, ways[i].cut, &other);
    ck_assert_uint_eq(size, other);
    for (size_t at = 0; at < size; at++)
      ck_assert_msg(got[at] == expected[at], "%s: %s: byte %zu of the weights is another", plans[_i], ways[i].what, at);
    free(got);
  }
  free(expected);
}
END_TEST

/* Of updates without gradients weights only decay, by less than bf16 tells apart: rounded to nearest none would change. */
static char *decayed(uint64_t seed, double rate, size_t *size) {
  dp_trainer *trainer = open_trainer("llama", "tiny_llama", (way){.plan = "weights bf16 stochastic;", .threads = 2, .seed = seed});
  check_ok(dp_trainer_update(trainer, 1, rate, NULL), "an update");
  char *bytes = read_saved(trainer, size);
  dp_trainer_free(trainer);
  return bytes;
}

static double distance_to_next(float x) { return ldexp(1, ilogbf(x) - 7); }

START_TEST(random_rounding_keeps_the_mean_and_gives_neighbours) {
  const double rate = 0.1, keep = 1 - rate * dp_adamw_defaults().decay;
  size_t size, other;
  char *before = decayed(1, 0, &size), *after = decayed(1, rate, &other), *again = decayed(1, rate, &other),
       *seeded = decayed(2, rate, &other);
  ck_assert_uint_eq(size, other);
  ck_assert_msg(memcmp(after, again, size) == 0, "the same seed gives other weights");
  uint64_t header;
  memcpy(&header, before, sizeof header);
  double sum = 0, moved = 0, count = 0, differ = 0;
  for (size_t at = 8 + header; at < size; at += 4) {
    float x, y, z;
    uint32_t bits;
    memcpy(&x, before + at, 4), memcpy(&y, after + at, 4), memcpy(&z, seeded + at, 4), memcpy(&bits, &y, 4);
    if (x == 0 || fabsf(x) < 1e-30f || (x == y && x == 1)) continue;
    double off = ((double)y - (double)x * keep) / distance_to_next(x), of_x = ((double)y - (double)x) / distance_to_next(x);
    if (bits & 0xffff) { /* a vector, which stays f32 and does not decay */
      ck_assert(y == x);
      continue;
    }
    ck_assert_msg(fabs(off) < 1.001, "%a became %a", (double)x, (double)y);
    sum += x > 0 ? off : -off, moved += of_x != 0, differ += y != z, count++;
  }
  ck_assert_msg(count > 50000, "%g elements", count);
  ck_assert_msg(fabs(sum / count) < 0.01, "the mean is off by %g of a distance", sum / count); /* 5 deviations at most */
  ck_assert_msg(moved > 0.1 * count && moved < 0.3 * count, "%g of %g moved", moved, count);
  ck_assert_msg(differ > 0.1 * count, "another seed changes %g of %g", differ, count);
  free(before);
  free(after);
  free(again);
  free(seeded);
}
END_TEST

/* Without masters: as near to the curve with them as rounding lets it be. */
START_TEST(random_rounding_learns_as_masters_do) {
  json_t *all = json_load_file(GOLDEN "curves.json", 0, NULL), *curve = json_object_get(all, "tiny_llama.bf16");
  dp_trainer *trainer = open_trainer("llama", "tiny_llama", (way){.plan = "weights bf16 stochastic;", .threads = 2});
  for (int n = 0; n < STEPS; n++) {
    double norm, loss = train_step(trainer, n, 1e-4, false, &norm);
    double expected = json_number_value(json_array_get(json_array_get(curve, (size_t)n), 0));
    ck_assert_msg(fabs(loss - expected) < 0.05, "step %d: the loss is %.6f, with masters %.6f", n, loss, expected);
  }
  dp_trainer_free(trainer);
  json_decref(all);
}
END_TEST

/* A step in more windows of rows than one: its record is read back whole. */
START_TEST(a_step_in_windows_can_be_traced) {
  enum { LONG = 1000 };
  char weights[] = GOLDEN "tiny_llama", path[] = MODELS "llama.dip";
  dp_training training = {.model = {.path = path, .weights = weights, .threads = 2, .step_tokens = LONG}, .wide_columns = 97};
  dp_trainer *trainer;
  dp_trace *trace;
  dp_text text;
  int32_t ids[LONG];
  int count;
  for (int i = 0; i < LONG; i++) ids[i] = i * i % 97;
  check_ok(dp_trainer_new(&training, &trainer), "a trainer");
  check_ok(dp_trainer_trace_start(trainer, 0), "a trace");
  check_ok(dp_trainer_add(trainer, &(dp_example){.ids = ids, .targets = ids, .count = LONG}, 1, NULL), "a step");
  check_ok(dp_trainer_trace_stop(trainer, &trace), "the trace");
  const dp_op_profile *ops = dp_trace_ops(trace, &count);
  int64_t calls = 0;
  for (int i = 0; i < count; i++) calls += ops[i].calls;
  ck_assert_int_eq(calls, dp_trace_get_totals(trace).tasks);
  check_ok(dp_trace_summary(trace, &text), "its summary");
  ck_assert(strstr(text.text, "critical path") != NULL);
  dp_text_free(&text);
  dp_trace_free(trace);
  dp_trainer_free(trainer);
}
END_TEST

typedef struct sample {
  int32_t ids[256];
  double log_probabilities[256];
  int count;
} sample;

static bool keep(void *user, int32_t id, double log_probability) {
  sample *s = user;
  s->ids[s->count] = id;
  s->log_probabilities[s->count++] = log_probability;
  return s->count < 90;
}

static void ck_scored_alike(dp_trainer *trainer, uint64_t seed) {
  static const int32_t prompt[] = {5, 17, 60, 3, 88};
  enum { PROMPT = 5, COMPANY = 30 };
  sample s = {0};
  dp_session *session;
  check_ok(dp_session_new(dp_trainer_model(trainer), &session), "session");
  dp_generation g = {.max_tokens = 90, .temperature = 1, .seed = seed, .on_token = keep, .user = &s};
  check_ok(dp_generate(session, prompt, PROMPT, &g, &(dp_generation_stats){0}), "generate");
  dp_session_free(session);
  ck_assert_int_ge(s.count, 64);
  int32_t ids[PROMPT + 256], targets[PROMPT + 256], other[COMPANY], none[COMPANY];
  int total = PROMPT + s.count - 1;
  for (int i = 0; i < total; i++) {
    ids[i] = i < PROMPT ? prompt[i] : s.ids[i - PROMPT];
    targets[i] = i < PROMPT - 1 ? -1 : s.ids[i - PROMPT + 1];
  }
  for (int i = 0; i < COMPANY; i++) other[i] = i * 7 % 97, none[i] = -1;
  for (int company = 0; company < 2; company++) {
    dp_example examples[] = {{.ids = other, .targets = none, .count = COMPANY}, {.ids = ids, .targets = targets, .count = (size_t)total}};
    const float *losses;
    check_ok(dp_trainer_add(trainer, examples + !company, company + 1, &losses), "score");
    losses += company ? COMPANY : 0;
    for (int i = 0; i < s.count; i++) {
      float sampled = (float)s.log_probabilities[i], scored = -losses[PROMPT - 1 + i];
      ck_assert_msg(memcmp(&sampled, &scored, sizeof sampled) == 0, "token %d: sampled with %a, scored with %a%s", i,
                    (double)sampled, (double)scored, company ? " in company" : "");
    }
  }
  dp_trainer_clear(trainer);
}

START_TEST(what_was_sampled_is_scored_by_the_training_forward_to_the_last_bit) {
  for (int threads = 1; threads <= 2; threads++) {
    dp_trainer *trainer = open_trainer("llama", "tiny_llama", (way){.plan = plans[_i], .threads = threads});
    double norm;
    ck_scored_alike(trainer, 3);
    for (int n = 0; n < 3; n++) train_step(trainer, n, 1e-3, false, &norm);
    ck_scored_alike(trainer, 4); /* on the very weights that the updates changed */
    dp_trainer_free(trainer);
  }
}
END_TEST

/* The base in f32, and in 4 bits. */
START_TEST(so_is_what_was_sampled_through_an_adapter) {
  static const char *const bases[] = {GOLDEN "tiny_llama", GOLDEN "tiny_gguf/model.gguf"};
  static const char text[] = "import \"" MODELS "llama.dip\";\nplan thin for llama { adapt w*, gate, down lora rank 5 alpha 9; }\n";
  char path[] = "/tmp/dipper-adapt-XXXXXX";
  close(mkstemp(path));
  check_ok(dp_write_file_atomic(path, text, strlen(text)), path);
  for (int i = 0; i < 2; i++) {
    dp_training training = {.model = {.path = path, .weights = bases[i], .threads = 2}};
    dp_trainer *trainer;
    double norm;
    check_ok(dp_trainer_new(&training, &trainer), bases[i]);
    for (int n = 0; n < 5; n++) train_step(trainer, n, 1e-3, false, &norm);
    ck_scored_alike(trainer, 5);
    dp_trainer_free(trainer);
  }
  unlink(path);
}
END_TEST

/* ---- runs */

typedef struct place {
  char dir[64], recipe[128], data[128];
} place;

static void write_text(const char *path, const void *text, size_t size) { check_ok(dp_write_file_atomic(path, text, size), path); }

static place make_place(const char *rate, const char *plan) {
  place p = {.dir = "/tmp/dipper-run-XXXXXX"};
  ck_assert_ptr_nonnull(mkdtemp(p.dir));
  snprintf(p.recipe, sizeof p.recipe, "%s/tune.dip", p.dir);
  snprintf(p.data, sizeof p.data, "%s/data.bin", p.dir);
  uint16_t ids[3000];
  for (int i = 0; i < 3000; i++) ids[i] = (uint16_t)((i * i * 31 + i / 7) % 97);
  write_text(p.data, ids, sizeof ids);
  char text[1024];
  snprintf(text, sizeof text,
           "import \"" MODELS "llama.dip\"; plan p for llama { %s }\n"
           "recipe tune for llama { pretrain { data \"data.bin\"; optimizer adamw { lr cosine %s to 1e-4 warmup 2; } batch 4;\n"
           "  accumulate 2; length 40; steps 8; seed 5; save every 2 keep 9; } }\n", plan, rate);
  write_text(p.recipe, text, strlen(text));
  return p;
}

static bool stop_after(void *user, const dp_run_step *step) { return step->step != *(const int *)user; }

static dp_status run(const place *p, const char *out, int threads, int stop, bool resume) {
  char path[256];
  snprintf(path, sizeof path, "%s/%s", p->dir, out);
  dp_run how = {.model = {.path = p->recipe, .weights = GOLDEN "tiny_llama", .threads = threads}, .out = path, .resume = resume,
                .on_step = stop_after, .user = &stop};
  return dp_run_recipe(&how);
}

static void ck_same_file(const place *p, const char *one, const char *other, const char *file) {
  char path[2][256], *bytes[2];
  size_t sizes[2];
  for (int i = 0; i < 2; i++) {
    snprintf(path[i], sizeof path[i], "%s/%s/step-00000008/%s", p->dir, i ? other : one, file);
    check_ok(dp_read_file(path[i], &bytes[i], &sizes[i]), path[i]);
  }
  ck_assert_uint_eq(sizes[0], sizes[1]);
  ck_assert_msg(memcmp(bytes[0], bytes[1], sizes[0]) == 0, "%s of %s differs from that of %s", file, other, one);
  free(bytes[0]);
  free(bytes[1]);
}

static void remove_place(const place *p) {
  char command[128];
  snprintf(command, sizeof command, "rm -rf %s", p->dir);
  ck_assert_int_eq(system(command), 0);
}

START_TEST(a_resumed_run_has_the_bits_of_an_unbroken_one) {
  place p = make_place("1e-3", plans[_i]);
  check_ok(run(&p, "whole", 2, -1, false), "unbroken");
  check_ok(run(&p, "broken", 1, 3, false), "until step 3");
  check_ok(run(&p, "broken", 2, 5, true), "until step 5");
  check_ok(run(&p, "broken", 1, -1, true), "to the end");
  ck_same_file(&p, "whole", "broken", "model.safetensors");
  ck_same_file(&p, "whole", "broken", "optimizer.safetensors");
  check_ok(run(&p, "new", 2, -1, true), "nothing to resume: from the beginning");
  ck_same_file(&p, "whole", "new", "model.safetensors");
  remove_place(&p);
}
END_TEST

START_TEST(a_loss_that_is_no_number_stops_the_run_and_leaves_the_checkpoint) {
  place p = make_place("1e38", "");
  dp_status status = run(&p, "out", 2, -1, false);
  ck_assert_int_eq(status.code, DP_INVALID);
  ck_assert_msg(strstr(dp_status_text(&status), "step ") && strstr(dp_status_text(&status), "the first such number is in weight"), "%s",
                dp_status_text(&status));
  dp_status_free(&status);
  remove_place(&p);
}
END_TEST

/* tiny_llama's file with every element of a tensor (f32) set to `value`, in a folder of its own. */
static void spoil(const place *p, const char *tensor, float value) {
  char path[256], command[512], *bytes;
  size_t size;
  snprintf(command, sizeof command, "mkdir %s/spoilt && cp " GOLDEN "tiny_llama/* %s/spoilt/", p->dir, p->dir);
  ck_assert_int_eq(system(command), 0);
  snprintf(path, sizeof path, "%s/spoilt/model.safetensors", p->dir);
  check_ok(dp_read_file(path, &bytes, &size), path);
  uint64_t header;
  memcpy(&header, bytes, sizeof header);
  json_t *root = json_loadb(bytes + 8, header, 0, NULL), *offsets = json_object_get(json_object_get(root, tensor), "data_offsets");
  ck_assert_msg(json_is_array(offsets), "there is no tensor %s", tensor);
  for (json_int_t at = json_integer_value(json_array_get(offsets, 0)); at < json_integer_value(json_array_get(offsets, 1)); at += 4)
    memcpy(bytes + 8 + header + at, &value, sizeof value);
  write_text(path, bytes, size);
  json_decref(root);
  free(bytes);
}

/* Weights are numbers, and what they make in layer 1 is none: the message names the place. */
START_TEST(a_number_that_ends_on_the_way_is_told_with_its_layer_and_value) {
  static const struct {
    const char *tensor, *says;
  } cases[] = {{"model.layers.1.mlp.up_proj.weight", "made by 'gate_up'"}, {"model.layers.1.self_attn.o_proj.weight", "layer 1"},
               {"model.layers.0.mlp.down_proj.weight", "layer 0"}};
  for (size_t i = 0; i < DP_COUNT(cases); i++) {
    place p = make_place("1e-3", "");
    char weights[256];
    spoil(&p, cases[i].tensor, 3e38f);
    snprintf(weights, sizeof weights, "%s/spoilt", p.dir);
    dp_run how = {.model = {.path = p.recipe, .weights = weights, .threads = 2}};
    dp_status status = dp_run_recipe(&how);
    const char *text = dp_status_text(&status);
    ck_assert_int_eq(status.code, DP_INVALID);
    ck_assert_msg(strstr(text, "step 1: the loss is") && strstr(text, "the first such number") && strstr(text, cases[i].says) &&
                      !strstr(text, "backward"), "%s: %s", cases[i].tensor, text);
    dp_status_free(&status);
    remove_place(&p);
  }
}
END_TEST

/* Losses are numbers, gradients are none: nothing is changed. */
START_TEST(an_update_by_what_is_no_number_is_refused) {
  dp_trainer *trainer = open_trainer("llama", "tiny_llama", (way){.threads = 2});
  int32_t ids[LENGTH], targets[LENGTH];
  float coefficients[LENGTH];
  size_t size, after;
  make_sequence(1, ids, targets);
  for (int i = 0; i < LENGTH; i++) coefficients[i] = 3e38f;
  char *before = read_saved(trainer, &size);
  dp_example example = {ids, targets, LENGTH, coefficients};
  const float *losses;
  double norm;
  check_ok(dp_trainer_add(trainer, &example, 1, &losses), "a step");
  for (int i = 0; i < LENGTH; i++) ck_assert(isfinite(losses[i]));
  dp_status status = dp_trainer_update(trainer, LENGTH - 1, 1e-3, &norm);
  ck_assert_int_eq(status.code, DP_INVALID);
  ck_assert(!isfinite(norm));
  dp_status_free(&status);
  char *saved = read_saved(trainer, &after);
  ck_assert(size == after && memcmp(before, saved, size) == 0);
  dp_trainer_clear(trainer);
  train_step(trainer, 0, 1e-3, false, &norm); /* and training goes on */
  ck_assert(isfinite(norm));
  free(before);
  free(saved);
  dp_trainer_free(trainer);
}
END_TEST

START_TEST(other_data_is_not_gone_on_with) {
  place p = make_place("1e-3", "");
  uint16_t ids[2000] = {1, 2, 3};
  check_ok(run(&p, "out", 2, 2, false), "until step 2");
  write_text(p.data, ids, sizeof ids);
  dp_status status = run(&p, "out", 2, -1, true);
  ck_assert_int_eq(status.code, DP_INVALID);
  ck_assert_msg(strstr(dp_status_text(&status), "other data") != NULL, "%s", dp_status_text(&status));
  dp_status_free(&status);
  remove_place(&p);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("train");
  TCase *tests = tcase_create("train");
  tcase_set_timeout(tests, 300);
  tcase_add_loop_test(tests, fifty_updates_follow_pytorch_s, 0, (int)DP_COUNT(models));
  tcase_add_loop_test(tests, weights_after_updates_do_not_depend_on_how_the_work_is_cut, 0, (int)DP_COUNT(plans));
  tcase_add_test(tests, random_rounding_keeps_the_mean_and_gives_neighbours);
  tcase_add_test(tests, random_rounding_learns_as_masters_do);
  tcase_add_test(tests, a_step_in_windows_can_be_traced);
  tcase_add_loop_test(tests, what_was_sampled_is_scored_by_the_training_forward_to_the_last_bit, 0, (int)DP_COUNT(plans));
  tcase_add_test(tests, so_is_what_was_sampled_through_an_adapter);
  tcase_add_loop_test(tests, a_resumed_run_has_the_bits_of_an_unbroken_one, 0, (int)DP_COUNT(plans));
  tcase_add_test(tests, a_loss_that_is_no_number_stops_the_run_and_leaves_the_checkpoint);
  tcase_add_test(tests, a_number_that_ends_on_the_way_is_told_with_its_layer_and_value);
  tcase_add_test(tests, an_update_by_what_is_no_number_is_refused);
  tcase_add_test(tests, other_data_is_not_gone_on_with);
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed ? 1 : 0;
}
