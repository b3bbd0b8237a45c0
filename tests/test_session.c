/* tests/test_session.c: what the library promises of sessions: refusals say why and touch nothing, the pages of the
 * cache go back where they came from, generation stops where it is told, perplexity is what its definition says. The
 * model has random weights, so there is no tokenizer and no text. */
#include "base/base.h"
#include "dipper/dipper.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { VOCABULARY = 96, CONTEXT = 256, STEP = 64 };

static void check_ok(dp_status status) { ck_assert_msg(status.code == DP_OK, "%s", dp_status_text(&status)); }

static void check_refused(dp_status status, const char *says) {
  ck_assert_int_eq(status.code, DP_INVALID);
  ck_assert_msg(strstr(dp_status_text(&status), says), "said '%s', not '%s'", dp_status_text(&status), says);
  dp_status_free(&status);
}

static dp_model *open_model(int threads) {
  static const char *const sets[] = {"vocab=96", "d=64", "layers=2", "heads=4", "kv_heads=2", "ff=128"};
  dp_options options = {.path = DIPPER_SOURCE_DIR "/models/llama.dip",
                        .weights = "random:3",
                        .sets = sets,
                        .set_count = DP_COUNT(sets),
                        .threads = threads,
                        .context = CONTEXT,
                        .step_tokens = STEP,
                        .cache_dir = ""};
  dp_model *model = NULL;
  check_ok(dp_model_open(&options, &model));
  dp_model_info info = dp_model_get_info(model);
  ck_assert_int_eq(info.vocabulary, VOCABULARY);
  ck_assert_int_eq(info.context, CONTEXT);
  ck_assert_int_eq(info.step_tokens, STEP);
  ck_assert(info.compiled && !info.has_tokenizer && !info.has_chat_template && !info.note);
  return model;
}

static dp_session *open_session(dp_model *model) {
  dp_session *session = NULL;
  check_ok(dp_session_new(model, &session));
  return session;
}

static void some_ids(int32_t *ids, int count) {
  for (int i = 0; i < count; i++) ids[i] = (i * 37 + i * i + 5) % VOCABULARY;
}

/* Feeds `count` tokens in steps. */
static void fill(dp_session *session, int count) {
  int32_t ids[CONTEXT];
  some_ids(ids, count);
  for (int at = 0; at < count; at += STEP)
    check_ok(dp_session_feed(session, ids + at, (size_t)(count - at < STEP ? count - at : STEP), DP_WANT_NONE, NULL));
}

/* ---- steps */

START_TEST(a_refused_batch_touches_no_session) {
  dp_model *model = open_model(2), *other = open_model(1);
  dp_session *a = open_session(model), *b = open_session(model), *foreign = open_session(other);
  int32_t ids[STEP + 1], bad[] = {1, 2, VOCABULARY}, negative[] = {-1};
  some_ids(ids, STEP + 1);
  fill(a, 10);
  dp_part twice[] = {{a, ids, 3, DP_WANT_LAST}, {a, ids, 3, DP_WANT_LAST}};
  dp_part mixed[] = {{a, ids, 3, DP_WANT_LAST}, {foreign, ids, 3, DP_WANT_LAST}};
  dp_part unknown[] = {{b, ids, 3, DP_WANT_LAST}, {a, bad, 3, DP_WANT_LAST}};
  dp_part below[] = {{b, ids, 3, DP_WANT_LAST}, {a, negative, 1, DP_WANT_LAST}};
  dp_part none[] = {{b, ids, 3, DP_WANT_LAST}, {a, ids, 0, DP_WANT_LAST}};
  dp_part wide[] = {{b, ids, STEP, DP_WANT_LAST}, {a, ids, 1, DP_WANT_LAST}};
  dp_part kind[] = {{b, ids, 3, (dp_want)7}};
  check_refused(dp_feed_batch(twice, 2, NULL), "stands twice");
  check_refused(dp_feed_batch(mixed, 2, NULL), "of one model");
  check_refused(dp_feed_batch(unknown, 2, NULL), "token id 96 is out of range: the vocabulary has 96");
  check_refused(dp_feed_batch(below, 2, NULL), "token id -1 is out of range");
  check_refused(dp_feed_batch(none, 2, NULL), "no tokens");
  check_refused(dp_feed_batch(wide, 2, NULL), "more than the 64 tokens");
  check_refused(dp_feed_batch(kind, 1, NULL), "no known kind");
  check_refused(dp_feed_batch(wide, 0, NULL), "1 to 1024 sequences");
  check_refused(dp_session_feed(b, ids, STEP + 1, DP_WANT_LAST, NULL), "more than the 64 tokens");
  ck_assert_int_eq(dp_session_length(a), 10);
  ck_assert_int_eq(dp_session_length(b), 0);
  check_ok(dp_feed_batch((dp_part[]){{a, ids, 3, DP_WANT_LAST}, {b, ids, 3, DP_WANT_LAST}}, 2, NULL));
  dp_session_free(foreign);
  dp_session_free(a);
  dp_session_free(b);
  dp_model_free(model);
  dp_model_free(other);
}
END_TEST

START_TEST(rows_of_logits_are_those_asked_for) {
  dp_model *model = open_model(2);
  dp_session *a = open_session(model), *b = open_session(model), *c = open_session(model), *alone = open_session(model);
  int32_t ids[20];
  some_ids(ids, 20);
  dp_logits logits;
  dp_part parts[] = {{a, ids, 20, DP_WANT_LAST}, {b, ids, 20, DP_WANT_NONE}, {c, ids, 20, DP_WANT_ALL}};
  check_ok(dp_feed_batch(parts, 3, &logits));
  ck_assert_int_eq(logits.rows, 1 + 0 + 20);
  ck_assert_int_eq(logits.columns, VOCABULARY);
  float last[VOCABULARY];
  memcpy(last, logits.data, sizeof last);
  ck_assert_mem_eq(last, logits.data + 20 * logits.stride, sizeof last);
  check_ok(dp_session_feed(alone, ids, 20, DP_WANT_NONE, &logits));
  ck_assert_int_eq(logits.rows, 0);
  dp_session_truncate(alone, 19);
  check_ok(dp_session_feed(alone, ids + 19, 1, DP_WANT_LAST, &logits));
  ck_assert_mem_eq(last, logits.data, sizeof last);
  dp_session_free(a);
  dp_session_free(b);
  dp_session_free(c);
  dp_session_free(alone);
  dp_model_free(model);
}
END_TEST

START_TEST(pages_go_back_when_a_session_ends_or_forgets) {
  dp_model *model = open_model(1);
  int32_t id = 1;
  for (int round = 0; round < 3; round++) {
    dp_session *a = open_session(model), *b = open_session(model);
    fill(a, 130); /* three of the four pages */
    fill(b, 64);  /* the last one */
    check_refused(dp_session_feed(b, &id, 1, DP_WANT_LAST, NULL), "is full");
    ck_assert_int_eq(dp_session_length(b), 64);
    check_ok(dp_session_feed(a, &id, 1, DP_WANT_LAST, NULL)); /* its own page has room */
    dp_session_truncate(a, 128);
    check_ok(dp_session_feed(b, &id, 1, DP_WANT_LAST, NULL));
    check_refused(dp_session_feed(a, &id, 1, DP_WANT_LAST, NULL), "is full");
    dp_session_truncate(a, 500); /* longer than it is: nothing happens */
    ck_assert_int_eq(dp_session_length(a), 128);
    dp_session_free(round % 2 ? a : b);
    dp_session_free(round % 2 ? b : a);
  }
  dp_session *whole = open_session(model);
  fill(whole, CONTEXT);
  check_refused(dp_session_feed(whole, &id, 1, DP_WANT_LAST, NULL), "is full");
  dp_session_free(whole);
  dp_model_free(model);
}
END_TEST

/* ---- generation */

typedef struct listener {
  int32_t ids[CONTEXT];
  int count, stop_after, steps, stop_at_step;
  double log_probability;
} listener;

static bool hear(void *user, int32_t id, double log_probability) {
  listener *l = user;
  l->ids[l->count++] = id;
  l->log_probability += log_probability;
  return l->stop_after == 0 || l->count < l->stop_after;
}

static bool go_on(void *user) {
  listener *l = user;
  return ++l->steps != l->stop_at_step;
}

static dp_generation generation(listener *l, int64_t max_tokens) {
  return (dp_generation){.max_tokens = max_tokens, .on_token = hear, .go_on = go_on, .user = l};
}

START_TEST(generation_stops_where_it_is_told) {
  dp_model *model = open_model(2);
  int32_t prompt[200];
  some_ids(prompt, 200);
  dp_generation_stats stats;
  listener all = {0}, few = {.stop_after = 5}, early = {.stop_at_step = 2}, none = {0};
  dp_session *s = open_session(model);

  dp_generation g = generation(&all, -1); /* until the context ends */
  check_ok(dp_generate(s, prompt, 200, &g, &stats));
  ck_assert_int_eq(stats.prompt_tokens, 200);
  ck_assert_int_eq(stats.new_tokens, CONTEXT - 200 + 1); /* the last one is not fed */
  ck_assert_int_eq(dp_session_length(s), CONTEXT);
  ck_assert(!stats.stopped && !stats.finished && all.log_probability < 0);

  dp_session_truncate(s, 0);
  g = generation(&few, -1);
  check_ok(dp_generate(s, prompt, 200, &g, &stats));
  ck_assert(stats.stopped && stats.new_tokens == 5);
  ck_assert_mem_eq(few.ids, all.ids, 5 * sizeof *all.ids);

  dp_session_truncate(s, 0);
  g = generation(&early, -1); /* inside the prompt: one step of it is in the session */
  check_ok(dp_generate(s, prompt, 200, &g, &stats));
  ck_assert(stats.stopped && stats.new_tokens == 0 && early.count == 0);
  ck_assert_int_eq(dp_session_length(s), STEP);

  g = generation(&none, 3); /* and can go on from there */
  check_ok(dp_generate(s, prompt + STEP, 200 - STEP, &g, &stats));
  ck_assert_int_eq(none.count, 3);
  ck_assert_mem_eq(none.ids, all.ids, 3 * sizeof *all.ids);

  none = (listener){0};
  g = generation(&none, 0);
  check_ok(dp_generate(s, prompt, 1, &g, &stats));
  ck_assert_int_eq(none.count + none.steps, 0);

  g = generation(&none, 1);
  int64_t before = dp_session_length(s);
  check_refused(dp_generate(s, prompt, 200, &g, NULL), "has room for");
  check_refused(dp_generate(s, prompt, 0, &g, NULL), "the prompt is empty");
  ck_assert_int_eq(dp_session_length(s), before);
  dp_session_free(s);
  dp_model_free(model);
}
END_TEST

START_TEST(a_seed_makes_the_same_choices) {
  dp_model *model = open_model(2);
  int32_t prompt[5];
  some_ids(prompt, 5);
  listener heard[3] = {0};
  for (int i = 0; i < 3; i++) {
    dp_session *s = open_session(model);
    dp_generation g = generation(&heard[i], 40);
    g.temperature = 1.5f;
    g.seed = i == 2 ? 8 : 7;
    check_ok(dp_generate(s, prompt, 5, &g, NULL));
    dp_session_free(s);
  }
  ck_assert_mem_eq(heard[0].ids, heard[1].ids, 40 * sizeof(int32_t));
  ck_assert_mem_ne(heard[0].ids, heard[2].ids, 40 * sizeof(int32_t));
  dp_model_free(model);
}
END_TEST

/* ---- perplexity */

/* Of ids[1 .. count-1], each from what goes before it in its window of CONTEXT tokens: the definition. */
static double perplexity_by_definition(dp_model *model, const int32_t *ids, int count) {
  double loss = 0;
  dp_session *s = open_session(model);
  for (int i = 0; i + 1 < count; i++) {
    if (i % CONTEXT == 0) dp_session_truncate(s, 0);
    dp_logits logits;
    check_ok(dp_session_feed(s, &ids[i], 1, DP_WANT_LAST, &logits));
    double sum = 0;
    for (int c = 0; c < VOCABULARY; c++) sum += exp((double)logits.data[c]);
    loss += log(sum) - (double)logits.data[ids[i + 1]];
  }
  dp_session_free(s);
  return exp(loss / (count - 1));
}

START_TEST(perplexity_is_what_its_definition_says) {
  dp_model *model = open_model(2);
  int32_t ids[2 * CONTEXT + 50];
  some_ids(ids, (int)DP_COUNT(ids));
  const int lengths[] = {2, 65, CONTEXT, CONTEXT + 1, CONTEXT + 2, 2 * CONTEXT + 50};
  for (size_t i = 0; i < DP_COUNT(lengths); i++) {
    double got, expected = perplexity_by_definition(model, ids, lengths[i]);
    check_ok(dp_perplexity(model, ids, (size_t)lengths[i], &got));
    ck_assert_msg(fabs(got - expected) < 1e-9 * expected, "of %d tokens: %.12g, not %.12g", lengths[i], got, expected);
  }
  double got;
  check_refused(dp_perplexity(model, ids, 1, &got), "at least 2 tokens");
  ids[3] = VOCABULARY;
  check_refused(dp_perplexity(model, ids, 10, &got), "out of range");
  dp_model_free(model);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("session");
  TCase *tests = tcase_create("sessions");
  tcase_set_timeout(tests, 300);
  tcase_add_test(tests, a_refused_batch_touches_no_session);
  tcase_add_test(tests, rows_of_logits_are_those_asked_for);
  tcase_add_test(tests, pages_go_back_when_a_session_ends_or_forgets);
  tcase_add_test(tests, generation_stops_where_it_is_told);
  tcase_add_test(tests, a_seed_makes_the_same_choices);
  tcase_add_test(tests, perplexity_is_what_its_definition_says);
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed != 0;
}
