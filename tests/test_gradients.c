/* tests/test_gradients.c: gradients of whole models against PyTorch's in float64 (golden/make_gradients.py), and their
 * bits: the same whatever is kept or made again, with any number of threads, however a batch is cut into calls, and
 * the interpreter's. */
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
#define MODELS DIPPER_SOURCE_DIR "/models/"

enum { SEQUENCES = 2, SUMS = 64 };

static void check_ok(dp_status status, const char *what) {
  ck_assert_msg(status.code == DP_OK, "%s: %s", what, dp_status_text(&status));
}

/* ---- safetensors files, as much as is needed */

typedef struct file {
  char *bytes;
  size_t size;
  json_t *header;
} file;

static file read_file(const char *path) {
  file f;
  uint64_t length;
  json_error_t error;
  check_ok(dp_read_file(path, &f.bytes, &f.size), path);
  memcpy(&length, f.bytes, sizeof length);
  f.header = json_loadb(f.bytes + 8, length, 0, &error);
  ck_assert_msg(f.header != NULL, "%s: %s", path, error.text);
  json_object_del(f.header, "__metadata__");
  return f;
}

static void free_file(file *f) {
  json_decref(f->header);
  free(f->bytes);
}

/* The tensor's numbers, of whatever type; NULL when there is none of that name. */
static double *numbers_of(const file *f, const char *name, size_t *count) {
  const json_t *tensor = json_object_get(f->header, name), *offsets = json_object_get(tensor, "data_offsets");
  if (!tensor) return NULL;
  const char *type = json_string_value(json_object_get(tensor, "dtype"));
  size_t width = strcmp(type, "F64") == 0 ? 8 : 4, from = (size_t)json_integer_value(json_array_get(offsets, 0));
  uint64_t length;
  memcpy(&length, f->bytes, sizeof length);
  const char *at = f->bytes + 8 + length + from;
  *count = ((size_t)json_integer_value(json_array_get(offsets, 1)) - from) / width;
  double *numbers = malloc((*count + 1) * sizeof *numbers);
  for (size_t i = 0; i < *count; i++) {
    float single;
    int32_t whole;
    memcpy(&single, at + i * width, 4);
    memcpy(&whole, at + i * width, 4);
    if (width == 8)
      memcpy(&numbers[i], at + i * width, 8);
    else
      numbers[i] = strcmp(type, "I32") == 0 ? whole : single;
  }
  return numbers;
}

/* ---- golden files */

typedef struct subject {
  const char *text, *name;
} subject;

static const subject subjects[] = {
    {"llama.dip", "tiny_llama"},       {"llama.dip", "tiny_tied"},
    {"llama.dip", "tiny_llama3"},      {"qwen2.dip", "tiny_qwen2"},
    {"qwen3.dip", "tiny_qwen3"},       {"gpt2.dip", "tiny_gpt2"},
    {"gemma3.dip", "tiny_gemma3"},     {"mixtral.dip", "tiny_mixtral"},
    {"qwen3moe.dip", "tiny_qwen3moe"}, {"deepseek_lite.dip", "tiny_deepseek_lite"},
    {"deepseek.dip", "tiny_deepseek"},
};

/* With sequences over many pages and row tiles. */
static const subject long_subjects[] = {{"llama.dip", "tiny_llama"}, {"gemma3.dip", "tiny_gemma3"}};

typedef struct sequence {
  int32_t *ids, *targets;
  double *losses;
  size_t count;
} sequence;

static int32_t *ids_of(const file *golden, const char *name, size_t *count) {
  double *numbers = numbers_of(golden, name, count);
  ck_assert_msg(numbers != NULL, "%s is missing", name);
  int32_t *ids = malloc((*count + 1) * sizeof *ids);
  for (size_t i = 0; i < *count; i++) ids[i] = (int32_t)numbers[i];
  free(numbers);
  return ids;
}

static void read_sequences(const file *golden, sequence *sequences) {
  for (int i = 0; i < SEQUENCES; i++) {
    char name[64];
    snprintf(name, sizeof name, "sequence.%d.ids", i);
    sequences[i].ids = ids_of(golden, name, &sequences[i].count);
    snprintf(name, sizeof name, "sequence.%d.targets", i);
    sequences[i].targets = ids_of(golden, name, &sequences[i].count);
    snprintf(name, sizeof name, "sequence.%d.losses", i);
    sequences[i].losses = numbers_of(golden, name, &sequences[i].count);
  }
}

static void free_sequences(sequence *sequences) {
  for (int i = 0; i < SEQUENCES; i++) {
    free(sequences[i].ids);
    free(sequences[i].targets);
    free(sequences[i].losses);
  }
}

/* 1 or -1, as make_gradients.py: the highest bit of splitmix64's output for a counter. */
static double sign_of(uint64_t counter) {
  uint64_t x = (counter + 1) * 0x9E3779B97F4A7C15u;
  x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
  x = (x ^ x >> 27) * 0x94D049BB133111EBu;
  return (x ^ x >> 31) >> 63 ? 1 : -1;
}

static double error_of_all(const double *expected, const double *got, size_t count) {
  double wrong = 0, size = 0;
  for (size_t i = 0; i < count; i++) {
    wrong += (got[i] - expected[i]) * (got[i] - expected[i]);
    size += expected[i] * expected[i];
  }
  return wrong > 0 ? sqrt(wrong) / sqrt(size) : 0;
}

/* The mean square of a difference's sums with random signs is its elements' sum of squares. */
static double error_of_sums(const double *golden, const double *got, size_t count) {
  double wrong = 0;
  for (size_t j = 0; j < SUMS; j++) {
    double sum = 0;
    for (size_t i = 0; i < count; i++) sum += got[i] * sign_of(i * SUMS + j);
    wrong += (sum - golden[1 + j]) * (sum - golden[1 + j]) / SUMS;
  }
  return wrong > 0 ? sqrt(wrong) / golden[0] : 0;
}

static void check_gradients(const char *name, const file *golden, const file *got) {
  const char *key;
  json_t *value;
  size_t compared = 0;
  json_object_foreach(golden->header, key, value) {
    bool sums = strncmp(key, "projection.", 11) == 0;
    if (!sums && strncmp(key, "gradient.", 9) != 0) continue;
    const char *tensor = key + (sums ? 11 : 9);
    size_t known, count;
    double *expected = numbers_of(golden, key, &known), *have = numbers_of(got, tensor, &count);
    if (!have && expected[0] == 0) { /* nothing flows to it: nothing is kept for it */
      free(expected);
      continue;
    }
    if (!have) ck_abort_msg("%s: there is no gradient of %s", name, tensor);
    if (!sums) ck_assert_uint_eq(known, count);
    double error = sums ? error_of_sums(expected, have, count) : error_of_all(expected, have, count);
    if (!(error <= 1e-4)) ck_abort_msg("%s: the gradient of %s is off by %.2e of its norm", name, tensor, error);
    compared++;
    free(expected);
    free(have);
  }
  ck_assert_msg(compared > 10, "%s: %zu tensors", name, compared);
}

/* ---- a trainer's gradients */

typedef struct how {
  const char *backend; /* NULL: llvm */
  int threads;
  dp_recompute recompute;
  bool cut; /* a call for each sequence */
} how;

static dp_trainer *open_trainer(const subject *s, const how *how) {
  char text[512], weights[512];
  snprintf(text, sizeof text, MODELS "%s", s->text);
  snprintf(weights, sizeof weights, GOLDEN "%s", s->name);
  dp_training training = {.model = {.path = text,
                                    .weights = weights,
                                    .threads = how->threads,
                                    .backend = how->backend,
                                    .verify_each = true},
                          .recompute = how->recompute};
  dp_trainer *trainer;
  check_ok(dp_trainer_new(&training, &trainer), s->name);
  return trainer;
}

static void check_losses(const char *name, const sequence *sequences, int count, const float *losses) {
  for (int i = 0; i < count; losses += sequences[i++].count)
    for (size_t t = 0; t < sequences[i].count; t++) {
      double expected = sequences[i].losses[t];
      if (!(fabs(losses[t] - expected) <= 2e-5 * (1 + expected)))
        ck_abort_msg("%s: the loss of token %zu of sequence %d is %.8g, not %.8g", name, t, i, (double)losses[t],
                     expected);
    }
}

static file gradients(const subject *s, const sequence *sequences, how how) {
  char path[] = "/tmp/dipper-gradients-XXXXXX";
  close(mkstemp(path));
  dp_trainer *trainer = open_trainer(s, &how);
  dp_example examples[SEQUENCES];
  const float *losses;
  for (int i = 0; i < SEQUENCES; i++)
    examples[i] = (dp_example){.ids = sequences[i].ids, .targets = sequences[i].targets, .count = sequences[i].count};
  for (int i = 0; i < (how.cut ? SEQUENCES : 1); i++) {
    int count = how.cut ? 1 : SEQUENCES;
    check_ok(dp_trainer_add(trainer, examples + i, count, &losses), s->name);
    check_losses(s->name, sequences + i, count, losses);
  }
  check_ok(dp_trainer_save(trainer, path, true), s->name);
  dp_trainer_free(trainer);
  file f = read_file(path);
  unlink(path);
  return f;
}

static void same_bits(const char *name, const char *what, const file *a, file b) {
  const char *key;
  json_t *value;
  ck_assert_uint_eq(a->size, b.size);
  if (memcmp(a->bytes, b.bytes, a->size) != 0) {
    json_object_foreach(a->header, key, value) {
      size_t count;
      double *x = numbers_of(a, key, &count), *y = numbers_of(&b, key, &count);
      for (size_t i = 0; i < count; i++)
        if (memcmp(&x[i], &y[i], sizeof *x) != 0)
          ck_abort_msg("%s: %s: element %zu of the gradient of %s is %a, not %a", name, what, i, key, y[i], x[i]);
      free(x);
      free(y);
    }
  }
  free_file(&b);
}

/* ---- tests */

static void read_golden(const subject *s, const char *name, file *golden, sequence *sequences) {
  char path[512];
  snprintf(path, sizeof path, GOLDEN "%s/%s.safetensors", s->name, name);
  *golden = read_file(path);
  read_sequences(golden, sequences);
}

static void check_subject(const subject *s, const char *file_name, bool with_interpreter) {
  file golden;
  sequence sequences[SEQUENCES];
  read_golden(s, file_name, &golden, sequences);
  file kept = gradients(s, sequences, (how){.threads = 1});
  check_gradients(s->name, &golden, &kept);
  same_bits(s->name, "made again", &kept, gradients(s, sequences, (how){.threads = 1, .recompute = DP_RECOMPUTE_BLOCK}));
  same_bits(s->name, "all kept", &kept, gradients(s, sequences, (how){.threads = 2, .recompute = DP_RECOMPUTE_NONE}));
  same_bits(s->name, "with 2 threads", &kept, gradients(s, sequences, (how){.threads = 2}));
  same_bits(s->name, "made again with 2 threads", &kept,
            gradients(s, sequences, (how){.threads = 2, .recompute = DP_RECOMPUTE_BLOCK}));
  same_bits(s->name, "in two calls", &kept, gradients(s, sequences, (how){.threads = 2, .cut = true}));
  if (with_interpreter)
    same_bits(s->name, "by the interpreter", &kept, gradients(s, sequences, (how){.threads = 2, .backend = "interp"}));
  free_file(&kept);
  free_file(&golden);
  free_sequences(sequences);
}

START_TEST(gradients_agree_with_pytorch_and_keep_their_bits) { check_subject(&subjects[_i], "gradients", true); }
END_TEST

START_TEST(gradients_of_long_sequences_agree_with_pytorch_and_keep_their_bits) {
  check_subject(&long_subjects[_i], "gradients_long", false);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("gradients");
  TCase *tcase = tcase_create("gradients");
  tcase_set_timeout(tcase, 300);
  tcase_add_loop_test(tcase, gradients_agree_with_pytorch_and_keep_their_bits, 0, (int)DP_COUNT(subjects));
  tcase_add_loop_test(tcase, gradients_of_long_sequences_agree_with_pytorch_and_keep_their_bits, 0,
                      (int)DP_COUNT(long_subjects));
  suite_add_tcase(suite, tcase);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed != 0;
}
