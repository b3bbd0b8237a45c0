/* tests/test_model.c: whole models against the golden files of programs that are not dipper, and the numerics contract:
 * the same bits however a sequence is cut, whoever shares the step, however many threads run, AVX2 or AVX-512. */
#include "base/base.h"
#include "dipper/dipper.h"

#include <check.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GOLDEN DIPPER_TEST_DIR "/golden/"
#define LLAMA DIPPER_SOURCE_DIR "/models/llama.dip"
#define MODELS DIPPER_SOURCE_DIR "/models/"
#define QWEN3 MODELS "qwen3.dip"
#define SMOLLM2 DIPPER_SOURCE_DIR "/build/weights/SmolLM2-135M-Instruct.Q4_1.gguf"

static void check_ok(dp_status status, const char *what) {
  ck_assert_msg(status.code == DP_OK, "%s: %s", what, dp_status_text(&status));
}

static dp_model *open_model(dp_options options) {
  dp_model *model = NULL;
  if (!options.path) options.path = LLAMA;
  if (!options.context) options.context = 1024;
  check_ok(dp_model_open(&options, &model), options.weights);
  return model;
}

static json_t *load_json(const char *path) {
  json_error_t error;
  json_t *json = json_load_file(path, JSON_ALLOW_NUL, &error);
  ck_assert_msg(json != NULL, "%s: %s", path, error.text);
  return json;
}

static int32_t *ids_of(const json_t *list, size_t *count) {
  *count = json_array_size(list);
  int32_t *ids = malloc((*count + 1) * sizeof *ids);
  for (size_t i = 0; i < *count; i++) ids[i] = (int32_t)json_integer_value(json_array_get(list, i));
  return ids;
}

/* Logits of every token, [count][columns], fed in pieces of `piece` tokens (0: of 1, 2, 3, ... tokens). Malloc'ed. */
static float *all_logits(dp_model *model, const int32_t *ids, size_t count, size_t piece) {
  float *all = NULL;
  dp_session *session;
  check_ok(dp_session_new(model, &session), "session");
  for (size_t at = 0, n = 1; at < count; n++) {
    size_t some = piece ? piece : n;
    if (some > count - at) some = count - at;
    dp_logits logits;
    check_ok(dp_session_feed(session, ids + at, some, DP_WANT_ALL, &logits), "feed");
    ck_assert_int_eq(logits.rows, (int64_t)some);
    size_t columns = (size_t)logits.columns;
    if (!all) all = malloc(count * columns * sizeof *all);
    for (size_t r = 0; r < some; r++)
      memcpy(all + (at + r) * columns, logits.data + (int64_t)r * logits.stride, columns * sizeof *all);
    at += some;
  }
  dp_session_free(session);
  return all;
}

static void check_same_bits(const float *a, const float *b, size_t rows, size_t columns, const char *what) {
  /* An assertion writes to a file: only the first difference is worth one. */
  for (size_t i = 0; i < rows * columns; i++)
    if (memcmp(&a[i], &b[i], sizeof *a) != 0)
      ck_abort_msg("%s: logits[%zu, %zu] is %a and %a", what, i / columns, i % columns, (double)a[i], (double)b[i]);
}

/* ---- against transformers */

static void check_tiny(const char *text, const char *name, const char *file) {
  char path[1024];
  snprintf(path, sizeof path, GOLDEN "%s/%s", name, file);
  dp_model *model = open_model((dp_options){.path = text, .weights = path, .threads = 2});
  snprintf(path, sizeof path, GOLDEN "%s/logits.json", name);
  json_t *cases = load_json(path), *one;
  size_t index;
  json_array_foreach(cases, index, one) {
    size_t count;
    int32_t *ids = ids_of(json_object_get(one, "tokens"), &count);
    json_t *rows = json_object_get(one, "logits");
    size_t columns = json_array_size(json_array_get(rows, 0));
    float *logits = all_logits(model, ids, count, count);
    size_t first = count - json_array_size(rows);
    for (size_t r = first; r < count; r++) {
      double scale = 0;
      for (size_t c = 0; c < columns; c++) scale = fmax(scale, fabs(json_number_value(json_array_get(json_array_get(rows, r - first), c))));
      for (size_t c = 0; c < columns; c++) {
        double expected = json_number_value(json_array_get(json_array_get(rows, r - first), c)), got = logits[r * columns + c];
        if (!(fabs(got - expected) <= 1e-5 * scale)) ck_abort_msg("%s: logits[%zu, %zu] is %.8g, not %.8g", name, r, c, got, expected);
      }
    }
    free(logits);
    free(ids);
  }
  json_decref(cases);
  dp_model_free(model);
}

START_TEST(tiny_models_agree_with_transformers) {
  check_tiny(LLAMA, "tiny_llama", "model.safetensors");
  check_tiny(LLAMA, "tiny_tied", "model.safetensors");
  check_tiny(LLAMA, "tiny_gguf", "model.gguf");
  check_tiny(QWEN3, "tiny_qwen3", "model.safetensors");
  check_tiny(LLAMA, "tiny_llama3", "");
  check_tiny(MODELS "qwen2.dip", "tiny_qwen2", "");
  check_tiny(MODELS "gpt2.dip", "tiny_gpt2", "");
  check_tiny(MODELS "gemma3.dip", "tiny_gemma3", "");
  check_tiny(MODELS "mixtral.dip", "tiny_mixtral", ""); /* sharded by an index */
  check_tiny(MODELS "qwen3moe.dip", "tiny_qwen3moe", "");
  check_tiny(MODELS "deepseek.dip", "tiny_deepseek", "");
  check_tiny(MODELS "deepseek_lite.dip", "tiny_deepseek_lite", "");
  check_tiny(MODELS "minilm.dip", "tiny_bert", "");
}
END_TEST

/* With the tokens around them and cut as the files say; the same bits alone, together and in small steps. */
START_TEST(sentences_become_the_vectors_of_hf) {
  json_t *golden = load_json(GOLDEN "tiny_bert/sentences.json"), *texts = json_object_get(golden, "texts");
  enum { MOST = 16, COLUMNS = 48 };
  const char *all[MOST];
  size_t count = json_array_size(texts);
  ck_assert(count > 3 && count <= MOST);
  for (size_t i = 0; i < count; i++) all[i] = json_string_value(json_array_get(texts, i));
  float rows[MOST * COLUMNS], row[COLUMNS];
  dp_model *model = open_model((dp_options){.path = MODELS "minilm.dip", .weights = GOLDEN "tiny_bert", .threads = 2});
  ck_assert_int_eq(dp_model_get_info(model).columns, COLUMNS);
  check_ok(dp_embed(model, all, NULL, count, rows), "embed");
  dp_model_free(model);
  for (size_t i = 0; i < count; i++)
    for (size_t c = 0; c < COLUMNS; c++) {
      double expected = json_number_value(json_array_get(json_array_get(json_object_get(golden, "embeddings"), i), c));
      ck_assert_msg(fabs(expected - rows[i * COLUMNS + c]) < 1e-6, "text %zu, %zu: %.8g, not %.8g", i, c,
                    rows[i * COLUMNS + c], expected);
    }
  model = open_model((dp_options){.path = MODELS "minilm.dip", .weights = GOLDEN "tiny_bert", .threads = 1, .context = 64});
  for (size_t i = 0; i < count; i++) {
    check_ok(dp_embed(model, &all[i], NULL, 1, row), "alone");
    ck_assert_mem_eq(row, rows + i * COLUMNS, sizeof row);
  }
  float again[MOST * COLUMNS];
  check_ok(dp_embed(model, all, NULL, count, again), "in small steps");
  ck_assert_mem_eq(again, rows, count * COLUMNS * sizeof *rows);
  dp_model_free(model);
  json_decref(golden);
}
END_TEST

/* Of the full-size shapes, as their makers publish them. */
START_TEST(parameters_are_as_many_as_published) {
  static const struct { const char *text, *count, *sets[7]; int set_count; } models[] = {
    {LLAMA, " 134515008 ", {NULL}, 0},
    {LLAMA, " 361821120 ", {"d=960", "layers=32", "heads=15", "kv_heads=5", "ff=2560"}, 5}, /* SmolLM2-360M */
    {LLAMA, " 1235814400 ", {"d=2048", "layers=16", "heads=32", "kv_heads=8", "ff=8192", "vocab=128256", "factor=32.0"}, 7},
    {MODELS "qwen2.dip", " 494032768 ", {NULL}, 0},
    {QWEN3, " 596049920 ", {NULL}, 0},
    {MODELS "gpt2.dip", " 124439808 ", {NULL}, 0},
    {MODELS "gemma3.dip", " 999885952 ", {NULL}, 0},
    {MODELS "mixtral.dip", " 46702792704 ", {NULL}, 0},
    {MODELS "qwen3moe.dip", " 30532122624 ", {NULL}, 0},
    {MODELS "deepseek.dip", " 671026419200 ", {NULL}, 0},
    {MODELS "deepseek_lite.dip", " 15706484224 ", {NULL}, 0},
    /* 22,713,216 with the pooler, 147,840, and the second token type, 384, which the model has no use for */
    {MODELS "minilm.dip", " 22564992 ", {NULL}, 0},
  };
  for (size_t i = 0; i < DP_COUNT(models); i++) {
    dp_text summary;
    dp_status status = dp_check(&(dp_options){.path = models[i].text, .sets = models[i].sets, .set_count = models[i].set_count},
                                &summary);
    ck_assert_msg(status.code == DP_OK, "%s: %s", models[i].text, dp_status_text(&status));
    ck_assert_msg(strstr(summary.text, models[i].count) != NULL, "%s: not%sparameters", summary.text, models[i].count);
    dp_text_free(&summary);
  }
}
END_TEST

START_TEST(smollm2_logits_agree_with_transformers) {
  dp_model *model = open_model((dp_options){.weights = SMOLLM2, .threads = 2});
  json_t *cases = load_json(GOLDEN "smollm2_logits.json"), *one, *row;
  size_t index, at, columns = (size_t)dp_model_get_info(model).vocabulary;
  double worst = 0;
  json_array_foreach(cases, index, one) {
    size_t count;
    int32_t *ids = ids_of(json_object_get(one, "tokens"), &count);
    float *logits = all_logits(model, ids, count, 256);
    json_array_foreach(json_object_get(one, "positions"), at, row) {
      const float *got = logits + (size_t)json_integer_value(json_object_get(row, "at")) * columns;
      double scale = json_number_value(json_object_get(row, "scale"));
      json_t *list = json_object_get(row, "ids"), *values = json_object_get(row, "values");
      for (size_t i = 0; i < json_array_size(list); i++) {
        size_t id = (size_t)json_integer_value(json_array_get(list, i));
        double error = fabs(got[id] - json_number_value(json_array_get(values, i))) / scale;
        if (!(error <= 1e-4))
          ck_abort_msg("case %zu row %zu: logit of %zu is %.8g, not %.8g", index, at, id, got[id],
                       json_number_value(json_array_get(values, i)));
        worst = fmax(worst, error);
      }
    }
    free(logits);
    free(ids);
  }
  printf("smollm2: largest difference %.2g of the logits' scale\n", worst);
  json_decref(cases);
  dp_model_free(model);
}
END_TEST

typedef struct heard {
  int32_t ids[256];
  size_t count;
  dp_str text;
} heard;

static bool hear_token(void *user, int32_t id, double log_probability) {
  heard *h = user;
  ck_assert(log_probability <= 0);
  if (h->count < DP_COUNT(h->ids)) h->ids[h->count++] = id;
  return true;
}

static bool hear_text(void *user, const char *text, size_t length) {
  dp_str_addn(&((heard *)user)->text, text, length);
  return true;
}

START_TEST(greedy_answers_are_those_of_transformers) {
  dp_model *model = open_model((dp_options){.weights = SMOLLM2, .threads = 2});
  json_t *cases = load_json(GOLDEN "smollm2_greedy.json"), *one;
  size_t index;
  json_array_foreach(cases, index, one) {
    dp_message message = {"user", json_string_value(json_object_get(one, "prompt"))};
    dp_text rendered;
    check_ok(dp_render_chat(model, &message, 1, &rendered), message.content);
    ck_assert_str_eq(rendered.text, json_string_value(json_object_get(one, "rendered")));
    dp_tokens tokens;
    check_ok(dp_tokenize(model, rendered.text, rendered.length, true, &tokens), message.content);
    size_t count;
    int32_t *ids = ids_of(json_object_get(one, "prompt_ids"), &count);
    ck_assert_uint_eq(tokens.count, count);
    ck_assert_mem_eq(tokens.ids, ids, count * sizeof *ids);
    free(ids);
    heard h = {.count = 0};
    dp_session *session;
    dp_generation_stats stats;
    dp_generation generation = {.max_tokens = 128, .on_token = hear_token, .on_text = hear_text, .user = &h};
    check_ok(dp_session_new(model, &session), "session");
    check_ok(dp_generate(session, tokens.ids, tokens.count, &generation, &stats), message.content);
    dp_session_free(session);
    ids = ids_of(json_object_get(one, "ids"), &count);
    bool stopped = json_is_true(json_object_get(one, "stopped"));
    ck_assert_int_eq(stats.finished, stopped);
    ck_assert_uint_eq(h.count, stopped ? count - 1 : count);
    for (size_t i = 0; i < h.count; i++)
      ck_assert_msg(h.ids[i] == ids[i], "'%s': token %zu is %d, not %d", message.content, i, h.ids[i], ids[i]);
    ck_assert_str_eq(h.text.text, json_string_value(json_object_get(one, "text")));
    free(ids);
    dp_str_free(&h.text);
    dp_tokens_free(&tokens);
    dp_text_free(&rendered);
  }
  json_decref(cases);
  dp_model_free(model);
}
END_TEST

START_TEST(perplexity_agrees_to_three_digits) {
  dp_model *model = open_model((dp_options){.weights = SMOLLM2, .threads = 2, .context = 2048});
  json_t *golden = load_json(GOLDEN "smollm2_perplexity.json");
  char *text;
  size_t length;
  check_ok(dp_read_file(GOLDEN "perplexity.txt", &text, &length), "text");
  dp_tokens tokens;
  double perplexity, expected = json_number_value(json_object_get(golden, "perplexity"));
  check_ok(dp_tokenize(model, text, length, false, &tokens), "tokens");
  ck_assert_uint_eq(tokens.count, (size_t)json_integer_value(json_object_get(golden, "tokens")));
  check_ok(dp_perplexity(model, tokens.ids, tokens.count, &perplexity), "perplexity");
  ck_assert_msg(fabs(perplexity - expected) < 5e-4 * expected, "perplexity is %.5f, not %.5f", perplexity, expected);
  dp_tokens_free(&tokens);
  free(text);
  json_decref(golden);
  dp_model_free(model);
}
END_TEST

START_TEST(tokens_are_those_of_hf_tokenizers) {
  dp_model *model = open_model((dp_options){.weights = SMOLLM2, .threads = 1, .context = 64});
  json_t *cases = load_json(GOLDEN "smollm2_tokens.json"), *one;
  size_t index;
  json_array_foreach(cases, index, one) {
    const char *text = json_string_value(json_object_get(one, "text")), *hex = json_string_value(json_object_get(one, "bytes_hex"));
    char bytes[4096];
    size_t length = json_string_length(json_object_get(one, "text")), count;
    if (hex) {
      length = strlen(hex) / 2;
      for (size_t i = 0; i < length; i++) {
        unsigned byte;
        sscanf(hex + 2 * i, "%2x", &byte);
        bytes[i] = (char)byte;
      }
      text = bytes;
    }
    dp_tokens tokens;
    check_ok(dp_tokenize(model, text, length, true, &tokens), "tokenize");
    int32_t *ids = ids_of(json_object_get(one, "ids"), &count);
    ck_assert_msg(tokens.count == count && (count == 0 || memcmp(tokens.ids, ids, count * sizeof *ids) == 0), "case %zu: other ids than expected", index);
    free(ids);
    dp_tokens_free(&tokens);
  }
  json_decref(cases);
  dp_model_free(model);
}
END_TEST

/* ---- the numerics contract */

enum { LENGTH = 230 };

static void random_ids(int32_t *ids, size_t count, int64_t vocabulary) {
  uint64_t state = 88172645463325252u;
  for (size_t i = 0; i < count; i++) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    ids[i] = (int32_t)(state % (uint64_t)vocabulary);
  }
}

/* Small random models of awkward shapes, and the real one. */
typedef struct subject {
  const char *weights;
  const char *sets[8];
  int set_count;
  const char *path;
} subject;

static const subject subjects[] = {
    {"random:1", {"layers=3", "d=64", "heads=4", "kv_heads=2", "hd=16", "vocab=211", "ff=96"}, 7, NULL},
    {"random:2", {"layers=2", "d=48", "heads=6", "kv_heads=3", "hd=8", "vocab=130", "ff=80"}, 7, NULL},
    {"random:3", {"layers=2", "d=96", "heads=3", "kv_heads=1", "hd=32", "vocab=97", "ff=200"}, 7, NULL},
    {"random:4", {"layers=2", "d=72", "heads=2", "kv_heads=2", "hd=36", "vocab=70", "ff=33"}, 7, NULL},
    {GOLDEN "tiny_llama3", {NULL}, 0, LLAMA},
    {GOLDEN "tiny_qwen2", {NULL}, 0, MODELS "qwen2.dip"},
    {GOLDEN "tiny_qwen3", {NULL}, 0, QWEN3},
    {GOLDEN "tiny_gpt2", {NULL}, 0, MODELS "gpt2.dip"},
    {GOLDEN "tiny_gemma3", {NULL}, 0, MODELS "gemma3.dip"},
    {GOLDEN "tiny_mixtral", {NULL}, 0, MODELS "mixtral.dip"},
    {GOLDEN "tiny_qwen3moe", {NULL}, 0, MODELS "qwen3moe.dip"},
    {GOLDEN "tiny_deepseek", {NULL}, 0, MODELS "deepseek.dip"},
    {GOLDEN "tiny_deepseek_lite", {NULL}, 0, MODELS "deepseek_lite.dip"},
    {SMOLLM2, {NULL}, 0, NULL},
};

static dp_options options_of(const subject *s, int threads) {
  return (dp_options){.path = s->path, .weights = s->weights, .sets = s->sets, .set_count = s->set_count, .threads = threads};
}

static float *reference(const subject *s, int32_t *ids, size_t *columns) {
  dp_model *model = open_model(options_of(s, 1));
  *columns = (size_t)dp_model_get_info(model).vocabulary;
  random_ids(ids, LENGTH, (int64_t)*columns);
  float *whole = all_logits(model, ids, LENGTH, LENGTH);
  dp_model_free(model);
  return whole;
}

START_TEST(any_cut_of_a_prompt_gives_the_same_bits) {
  const subject *s = &subjects[_i];
  int32_t ids[LENGTH];
  size_t columns;
  float *whole = reference(s, ids, &columns);
  dp_model *model = open_model(options_of(s, 2));
  static const size_t pieces[] = {1, 0, 7, 64, 97};
  for (size_t i = 0; i < DP_COUNT(pieces); i++) {
    char what[64];
    snprintf(what, sizeof what, "in pieces of %zu", pieces[i]);
    float *cut = all_logits(model, ids, LENGTH, pieces[i]);
    check_same_bits(whole, cut, LENGTH, columns, what);
    free(cut);
  }
  dp_model_free(model);
  free(whole);
}
END_TEST

START_TEST(any_number_of_threads_gives_the_same_bits) {
  const subject *s = &subjects[_i];
  int32_t ids[LENGTH];
  size_t columns;
  float *whole = reference(s, ids, &columns);
  for (int threads = 2; threads <= 5; threads++) {
    dp_model *model = open_model(options_of(s, threads));
    float *other = all_logits(model, ids, LENGTH, 100);
    check_same_bits(whole, other, LENGTH, columns, "with more threads");
    free(other);
    dp_model_free(model);
  }
  free(whole);
}
END_TEST

START_TEST(company_in_a_step_does_not_change_a_bit) {
  const subject *s = &subjects[_i];
  int32_t ids[LENGTH];
  size_t columns;
  float *whole = reference(s, ids, &columns);
  dp_model *model = open_model(options_of(s, 2));
  dp_session *sessions[3];
  size_t done[3] = {0};
  for (int i = 0; i < 3; i++) check_ok(dp_session_new(model, &sessions[i]), "session");
  /* Three sequences of the same tokens at different places: ragged steps, until each has reached the end. */
  for (int round = 0; done[0] < LENGTH || done[1] < LENGTH || done[2] < LENGTH; round++) {
    dp_part parts[3];
    size_t from[3];
    int count = 0, who[3];
    for (int i = 0; i < 3; i++) {
      size_t some = (size_t)((round * 13 + i * 29) % 61 + 1);
      if (i == 2 && round % 2) some = 1;
      if (some > LENGTH - done[i]) some = LENGTH - done[i];
      if (some == 0) continue;
      parts[count] = (dp_part){sessions[i], ids + done[i], some, DP_WANT_ALL};
      from[count] = done[i];
      who[count++] = i;
      done[i] += some;
    }
    dp_logits logits;
    check_ok(dp_feed_batch(parts, count, &logits), "batch");
    const float *row = logits.data;
    for (int p = 0; p < count; p++)
      for (size_t t = 0; t < parts[p].count; t++, row += logits.stride)
        ck_assert_msg(memcmp(row, whole + (from[p] + t) * columns, columns * sizeof *row) == 0,
                      "sequence %d: logits of token %zu differ in company", who[p], from[p] + t);
  }
  for (int i = 0; i < 3; i++) dp_session_free(sessions[i]);
  dp_model_free(model);
  free(whole);
}
END_TEST

START_TEST(a_reused_prefix_gives_the_same_bits) {
  const subject *s = &subjects[_i];
  int32_t ids[LENGTH], other[LENGTH];
  size_t columns;
  float *whole = reference(s, ids, &columns);
  dp_model *model = open_model(options_of(s, 2));
  dp_session *session;
  dp_logits logits;
  for (int i = 0; i < LENGTH; i++) other[i] = ids[LENGTH - 1 - i];
  check_ok(dp_session_new(model, &session), "session");
  check_ok(dp_session_feed(session, ids, 100, DP_WANT_NONE, NULL), "prefix");
  check_ok(dp_session_feed(session, other, 60, DP_WANT_NONE, NULL), "what is thrown away");
  dp_session_truncate(session, 70);
  check_ok(dp_session_feed(session, ids + 70, LENGTH - 70, DP_WANT_ALL, &logits), "the rest");
  for (int t = 70; t < LENGTH; t++)
    ck_assert_msg(memcmp(logits.data + (t - 70) * logits.stride, whole + (size_t)t * columns, columns * sizeof(float)) == 0,
                  "logits of token %d differ after a reused prefix", t);
  dp_session_free(session);
  dp_model_free(model);
  free(whole);
}
END_TEST

START_TEST(avx2_and_avx512_code_give_the_same_bits) {
#ifdef __x86_64__
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512vl")) {
    printf("this machine has no AVX-512: AVX2 code is compared with itself\n");
  }
  if (!__builtin_cpu_supports("fma")) return;
  const subject *s = &subjects[_i];
  int32_t ids[LENGTH];
  size_t columns;
  float *whole = reference(s, ids, &columns);
  dp_options options = options_of(s, 2);
  options.cpu = "x86-64-v3";
  dp_model *model = open_model(options);
  float *other = all_logits(model, ids, LENGTH, 50);
  check_same_bits(whole, other, LENGTH, columns, "AVX2 code");
  free(other);
  dp_model_free(model);
  free(whole);
#endif
}
END_TEST

START_TEST(the_interpreter_gives_the_same_bits) {
  const subject *s = &subjects[_i];
  int32_t ids[LENGTH];
  size_t columns;
  float *whole = reference(s, ids, &columns);
  dp_options options = options_of(s, 2);
  options.backend = "interp";
  dp_model *model = open_model(options);
  float *other = all_logits(model, ids, 80, 33);
  check_same_bits(whole, other, 80, columns, "interpreted");
  free(other);
  dp_model_free(model);
  free(whole);
}
END_TEST

/* ---- weights that lie transposed in the file */

enum { ROWS = 37, INNER = 48, COLUMNS = 50 };

/* A safetensors file of an embedding e[ROWS, INNER] and one matrix both ways: w[INNER, COLUMNS], wt[COLUMNS, INNER]. */
static void write_both_ways(const char *path) {
  static float e[ROWS * INNER], w[INNER * COLUMNS], wt[COLUMNS * INNER];
  for (int i = 0; i < ROWS * INNER; i++) e[i] = sinf((float)(i * 7 % 1001));
  for (int k = 0; k < INNER; k++)
    for (int n = 0; n < COLUMNS; n++) w[k * COLUMNS + n] = wt[n * INNER + k] = cosf((float)(k * 131 + n * 17));
  char header[512];
  int length = snprintf(header, sizeof header,
                        "{\"e\":{\"dtype\":\"F32\",\"shape\":[%d,%d],\"data_offsets\":[0,%zu]},"
                        "\"w\":{\"dtype\":\"F32\",\"shape\":[%d,%d],\"data_offsets\":[%zu,%zu]},"
                        "\"wt\":{\"dtype\":\"F32\",\"shape\":[%d,%d],\"data_offsets\":[%zu,%zu]}}",
                        ROWS, INNER, sizeof e, INNER, COLUMNS, sizeof e, sizeof e + sizeof w, COLUMNS, INNER,
                        sizeof e + sizeof w, sizeof e + sizeof w + sizeof wt);
  uint64_t size = (uint64_t)length;
  FILE *file = fopen(path, "wb");
  ck_assert(file != NULL);
  fwrite(&size, 8, 1, file);
  fwrite(header, 1, (size_t)length, file);
  fwrite(e, sizeof e, 1, file);
  fwrite(w, sizeof w, 1, file);
  fwrite(wt, sizeof wt, 1, file);
  fclose(file);
}

START_TEST(a_transposed_weight_gives_the_same_bits) {
  static const char *const texts[] = {
      "model m { dim v = 37, d = 48, n = 50; weight e[v, d] from \"e\"; weight w[d, n] from \"w\";\n"
      "graph forward(tokens[T] : i32) -> y[T, n] { return silu(e[tokens]) @ w; } }",
      "model m { dim v = 37, d = 48, n = 50; weight e[v, d] from \"e\"; weight w[n, d] from \"wt\";\n"
      "graph forward(tokens[T] : i32) -> y[T, n] { return silu(e[tokens]) @ w.T; } }"};
  char folder[] = "/tmp/dipper-model-XXXXXX", weights[256], path[256], command[300];
  ck_assert(mkdtemp(folder) != NULL);
  snprintf(weights, sizeof weights, "%s/w.safetensors", folder);
  snprintf(path, sizeof path, "%s/m.dip", folder);
  write_both_ways(weights);
  int32_t ids[120];
  random_ids(ids, 120, ROWS);
  float *logits[2];
  for (int i = 0; i < 2; i++) {
    check_ok(dp_write_file_atomic(path, texts[i], strlen(texts[i])), path);
    dp_options options = {.path = path, .weights = weights, .threads = 2, .context = 128};
    dp_model *model;
    check_ok(dp_model_open(&options, &model), texts[i]);
    ck_assert_int_eq(dp_model_get_info(model).columns, COLUMNS);
    dp_session *session;
    dp_logits rows;
    check_ok(dp_session_new(model, &session), "session");
    check_ok(dp_session_feed(session, ids, 120, DP_WANT_ALL, &rows), "feed");
    logits[i] = malloc(sizeof(float) * 120 * COLUMNS);
    for (int r = 0; r < 120; r++) memcpy(logits[i] + r * COLUMNS, rows.data + r * rows.stride, sizeof(float) * COLUMNS);
    double perplexity;
    dp_status status = dp_perplexity(model, ids, 120, &perplexity);
    ck_assert_int_eq(status.code, DP_INVALID); /* 50 columns are no distribution over 37 tokens */
    dp_status_free(&status);
    dp_session_free(session);
    dp_model_free(model);
  }
  check_same_bits(logits[0], logits[1], 120, COLUMNS, "transposed");
  /* and against the plain sum, in f64 */
  for (int r = 0; r < 120; r++)
    for (int n = 0; n < COLUMNS; n++) {
      double sum = 0;
      for (int k = 0; k < INNER; k++) {
        double x = sinf((float)((ids[r] * INNER + k) * 7 % 1001));
        sum += x / (1 + exp(-x)) * cosf((float)(k * 131 + n * 17));
      }
      if (fabs(sum - logits[0][r * COLUMNS + n]) > 1e-4) ck_abort_msg("[%d, %d] is %g, not %g", r, n, logits[0][r * COLUMNS + n], sum);
    }
  free(logits[0]);
  free(logits[1]);
  snprintf(command, sizeof command, "rm -rf %s", folder);
  ck_assert_int_eq(system(command), 0);
}
END_TEST

/* ---- refusals leave everything as it was */

START_TEST(a_refused_step_changes_nothing) {
  const subject *s = &subjects[0];
  dp_options options = options_of(s, 1);
  options.context = 128;
  dp_model *model = open_model(options);
  dp_session *session;
  int32_t ids[300];
  dp_logits logits;
  random_ids(ids, 300, 211);
  check_ok(dp_session_new(model, &session), "session");
  check_ok(dp_session_feed(session, ids, 100, DP_WANT_LAST, &logits), "feed");
  int32_t bad[] = {1, 211};
  dp_status status = dp_session_feed(session, bad, 2, DP_WANT_LAST, &logits);
  ck_assert_int_eq(status.code, DP_INVALID);
  ck_assert(strstr(status.message, "211") != NULL);
  dp_status_free(&status);
  status = dp_session_feed(session, ids, 29, DP_WANT_LAST, &logits);
  ck_assert_int_eq(status.code, DP_INVALID);
  dp_status_free(&status);
  ck_assert_int_eq(dp_session_length(session), 100);
  check_ok(dp_session_feed(session, ids, 28, DP_WANT_LAST, &logits), "what fits");
  dp_session_free(session);
  dp_model_free(model);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("model");
  TCase *golden = tcase_create("golden"), *contract = tcase_create("contract");
  tcase_set_timeout(golden, 300);
  tcase_set_timeout(contract, 300);
  tcase_add_test(golden, tiny_models_agree_with_transformers);
  tcase_add_test(golden, sentences_become_the_vectors_of_hf);
  tcase_add_test(golden, parameters_are_as_many_as_published);
  tcase_add_test(golden, smollm2_logits_agree_with_transformers);
  tcase_add_test(golden, greedy_answers_are_those_of_transformers);
  tcase_add_test(golden, perplexity_agrees_to_three_digits);
  tcase_add_test(golden, tokens_are_those_of_hf_tokenizers);
  int count = (int)DP_COUNT(subjects);
  tcase_add_loop_test(contract, any_cut_of_a_prompt_gives_the_same_bits, 0, count);
  tcase_add_loop_test(contract, any_number_of_threads_gives_the_same_bits, 0, count);
  tcase_add_loop_test(contract, company_in_a_step_does_not_change_a_bit, 0, count);
  tcase_add_loop_test(contract, a_reused_prefix_gives_the_same_bits, 0, count);
  tcase_add_loop_test(contract, avx2_and_avx512_code_give_the_same_bits, 0, count);
  tcase_add_loop_test(contract, the_interpreter_gives_the_same_bits, 0, count - 1);
  tcase_add_test(contract, a_transposed_weight_gives_the_same_bits);
  tcase_add_test(contract, a_refused_step_changes_nothing);
  suite_add_tcase(suite, golden);
  suite_add_tcase(suite, contract);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed != 0;
}
