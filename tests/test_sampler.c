/* tests/test_sampler.c: what is cut off, what is drawn from the rest, and how often; each against a plain reference. */
#include "runtime/runtime.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { VOCABULARY = 500 };

static void expect_ok(dp_status status) { ck_assert_msg(status.code == DP_OK, "%s", dp_status_text(&status)); }

static void expect_invalid(dp_status status, const char *words) {
  ck_assert_msg(status.code == DP_INVALID && strstr(dp_status_text(&status), words), "expected '%s', got %d: %s", words,
                status.code, dp_status_text(&status));
  dp_status_free(&status);
}

static dp_sampler *open_sampler(dp_sampler_params params, int vocabulary) {
  dp_sampler *sampler = NULL;
  expect_ok(dp_sampler_new(&params, vocabulary, &sampler));
  return sampler;
}

static int32_t pick(dp_sampler *sampler, const float *logits, int n) {
  int32_t id = -1;
  expect_ok(dp_sampler_pick(sampler, logits, n, &id, NULL));
  ck_assert_msg(id >= 0 && id < n, "picked %d of %d", id, n);
  return id;
}

/* logits[n], rounded so that some are equal */
static void random_logits(float *logits, int n, uint64_t seed) {
  for (int i = 0; i < n; i++) {
    seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    logits[i] = (float)((int)(seed >> 58) - 32) / 4;
  }
}

typedef struct ranked {
  double logit;
  int32_t id;
} ranked;

static int compare_ranked(const void *a, const void *b) {
  const ranked *x = a, *y = b;
  if (x->logit != y->logit) return x->logit < y->logit ? 1 : -1;
  return x->id - y->id;
}

/* All tokens, the most likely first, of equal ones the lower id. */
static void rank(const float *logits, int n, ranked *out) {
  for (int i = 0; i < n; i++) out[i] = (ranked){logits[i], i};
  qsort(out, (size_t)n, sizeof *out, compare_ranked);
}

/* Draws often, and asks that the picked ones are the first `count` of the ranking, each at least once, as often as
 * their probability says (5 standard deviations). */
static void expect_distribution(dp_sampler_params params, const float *logits, int n, int count) {
  enum { DRAWS = 40000 };
  dp_sampler *sampler = open_sampler(params, n);
  ranked ranking[VOCABULARY];
  int *picked = calloc((size_t)n, sizeof *picked);
  rank(logits, n, ranking);
  for (int i = 0; i < DRAWS; i++) picked[pick(sampler, logits, n)]++;
  double sum = 0;
  for (int i = 0; i < count; i++) sum += exp((ranking[i].logit - ranking[0].logit) / params.temp);
  for (int i = 0; i < n; i++) {
    double p = i < count ? exp((ranking[i].logit - ranking[0].logit) / params.temp) / sum : 0;
    double expected = p * DRAWS, deviation = 5 * sqrt(expected * (1 - p)) + (p > 0 ? 3 : 0);
    ck_assert_msg(fabs(picked[ranking[i].id] - expected) <= deviation, "token %d, rank %d: %d draws, expected %g +- %g",
                  ranking[i].id, i, picked[ranking[i].id], expected, deviation);
  }
  free(picked);
  dp_sampler_free(sampler);
}

START_TEST(greedy_takes_the_lowest_id_on_ties) {
  dp_sampler_params params = dp_sampler_defaults();
  params.temp = 0;
  dp_sampler *sampler = open_sampler(params, 5);
  ck_assert_int_eq(pick(sampler, (float[]){1, 3, 2, 3, 3}, 5), 1);
  ck_assert_int_eq(pick(sampler, (float[]){-INFINITY, -INFINITY, -INFINITY, -9, -INFINITY}, 5), 3);
  ck_assert_int_eq(pick(sampler, (float[]){-1, -1, -1, -1, -1}, 5), 0);
  dp_sampler_free(sampler);
}
END_TEST

START_TEST(draws_follow_the_softmax_at_any_temperature) {
  static const float temperatures[] = {1, 0.5f, 2};
  float logits[20];
  random_logits(logits, 20, 3);
  for (int i = 0; i < 20; i++) logits[i] /= 4;
  dp_sampler_params params = dp_sampler_defaults();
  params.temp = temperatures[_i];
  expect_distribution(params, logits, 20, 20);
}
END_TEST

START_TEST(top_k_keeps_the_k_most_likely) {
  static const int ks[] = {1, 2, 7, 40, VOCABULARY - 1, VOCABULARY, 10 * VOCABULARY};
  float logits[VOCABULARY];
  random_logits(logits, VOCABULARY, 5);
  dp_sampler_params params = dp_sampler_defaults();
  params.top_k = ks[_i];
  params.temp = 4;
  expect_distribution(params, logits, VOCABULARY, ks[_i] < VOCABULARY ? ks[_i] : VOCABULARY);
}
END_TEST

START_TEST(top_p_keeps_the_fewest_that_reach_p) {
  static const float ps[] = {0.001f, 0.3f, 0.9f, 0.999f};
  float logits[VOCABULARY];
  random_logits(logits, VOCABULARY, 7);
  dp_sampler_params params = dp_sampler_defaults();
  params.top_p = ps[_i];
  params.temp = 3;
  ranked ranking[VOCABULARY];
  rank(logits, VOCABULARY, ranking);
  double total = 0, reached = 0;
  for (int i = 0; i < VOCABULARY; i++) total += exp((ranking[i].logit - ranking[0].logit) / params.temp);
  int count = 0;
  while (reached < (double)params.top_p * total)
    reached += exp((ranking[count++].logit - ranking[0].logit) / params.temp);
  expect_distribution(params, logits, VOCABULARY, count);
}
END_TEST

START_TEST(top_p_counts_within_top_k) {
  float logits[] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0};
  dp_sampler_params params = dp_sampler_defaults();
  params.top_k = 4;
  params.top_p = 0.5f;
  expect_distribution(params, logits, 10, 2);
}
END_TEST

START_TEST(min_p_keeps_what_is_near_the_best) {
  static const float ps[] = {1, 0.5f, 0.01f};
  float logits[VOCABULARY];
  random_logits(logits, VOCABULARY, 9);
  dp_sampler_params params = dp_sampler_defaults();
  params.min_p = ps[_i];
  params.temp = 2;
  ranked ranking[VOCABULARY];
  rank(logits, VOCABULARY, ranking);
  int count = 0;
  while (count < VOCABULARY && exp((ranking[count].logit - ranking[0].logit) / params.temp) >= (double)params.min_p)
    count++;
  expect_distribution(params, logits, VOCABULARY, count);
}
END_TEST

START_TEST(the_same_seed_gives_the_same_ids) {
  float logits[VOCABULARY];
  random_logits(logits, VOCABULARY, 11);
  dp_sampler_params params = dp_sampler_defaults();
  params.temp = 5;
  params.seed = 42;
  params.top_p = 0.95f;
  dp_sampler *one = open_sampler(params, VOCABULARY), *other = open_sampler(params, VOCABULARY);
  params.seed = 43;
  dp_sampler *third = open_sampler(params, VOCABULARY);
  int32_t first[50];
  int different = 0;
  for (int i = 0; i < 50; i++) {
    first[i] = pick(one, logits, VOCABULARY);
    ck_assert_int_eq(first[i], pick(other, logits, VOCABULARY));
    different += first[i] != pick(third, logits, VOCABULARY);
  }
  ck_assert_int_gt(different, 25);
  dp_sampler_restart(one, 42);
  for (int i = 0; i < 50; i++) ck_assert_int_eq(pick(one, logits, VOCABULARY), first[i]);
  dp_sampler_free(one);
  dp_sampler_free(other);
  dp_sampler_free(third);
}
END_TEST

START_TEST(the_log_probability_is_that_of_the_logits_as_they_came) {
  float logits[VOCABULARY];
  random_logits(logits, VOCABULARY, 13);
  dp_sampler_params params = dp_sampler_defaults();
  params.temp = _i ? 0.7f : 0;
  params.top_k = 10;
  params.repeat_penalty = 1.3f;
  dp_sampler *sampler = open_sampler(params, VOCABULARY);
  double sum = 0;
  for (int i = 0; i < VOCABULARY; i++) sum += exp((double)logits[i]);
  for (int round = 0; round < 20; round++) {
    int32_t id;
    double log_probability;
    expect_ok(dp_sampler_pick(sampler, logits, VOCABULARY, &id, &log_probability));
    expect_ok(dp_sampler_saw(sampler, id));
    ck_assert_double_eq_tol(log_probability, logits[id] - log(sum), 1e-12);
  }
  dp_sampler_free(sampler);
}
END_TEST

START_TEST(logits_far_from_zero_do_not_overflow) {
  dp_sampler *sampler = open_sampler(dp_sampler_defaults(), 3);
  int32_t id;
  double log_probability;
  expect_ok(dp_sampler_pick(sampler, (float[]){3e38f, -3e38f, -INFINITY}, 3, &id, &log_probability));
  ck_assert_int_eq(id, 0);
  ck_assert_double_eq(log_probability, 0);
  dp_sampler_params params = dp_sampler_defaults();
  params.temp = 1e-40f;
  dp_sampler *cold = open_sampler(params, 3);
  ck_assert_int_eq(pick(cold, (float[]){-3e38f, 3e38f, 1}, 3), 1);
  dp_sampler_free(cold);
  dp_sampler_free(sampler);
}
END_TEST

START_TEST(a_token_of_minus_infinity_is_never_picked) {
  float logits[10];
  for (int i = 0; i < 10; i++) logits[i] = i % 2 ? 0 : -INFINITY;
  dp_sampler *sampler = open_sampler(dp_sampler_defaults(), 10);
  for (int i = 0; i < 1000; i++) ck_assert_int_eq(pick(sampler, logits, 10) % 2, 1);
  dp_sampler_free(sampler);
}
END_TEST

START_TEST(nan_and_infinity_are_errors_that_name_the_token) {
  dp_sampler_params params = dp_sampler_defaults();
  params.temp = _i ? 1 : 0;
  dp_sampler *sampler = open_sampler(params, 3);
  int32_t id;
  expect_invalid(dp_sampler_pick(sampler, (float[]){0, NAN, 1}, 3, &id, NULL), "token 1");
  expect_invalid(dp_sampler_pick(sampler, (float[]){0, 1, INFINITY}, 3, &id, NULL), "token 2");
  expect_invalid(dp_sampler_pick(sampler, (float[]){-INFINITY, -INFINITY, -INFINITY}, 3, &id, NULL), "all 3");
  expect_invalid(dp_sampler_pick(sampler, (float[]){0, 1}, 2, &id, NULL), "2 logits");
  dp_sampler_free(sampler);
}
END_TEST

START_TEST(the_repeat_penalty_lowers_what_was_seen) {
  dp_sampler_params params = dp_sampler_defaults();
  params.temp = 0;
  params.repeat_penalty = 2;
  dp_sampler *sampler = open_sampler(params, 3);
  float positive[] = {3, 2, 1}, negative[] = {-2, -3, -9};
  ck_assert_int_eq(pick(sampler, positive, 3), 0);
  ck_assert_int_eq(pick(sampler, positive, 3), 0); /* a pick alone is not seen */
  expect_ok(dp_sampler_saw(sampler, 0));
  ck_assert_int_eq(pick(sampler, positive, 3), 1); /* 3 / 2 < 2 */
  ck_assert_int_eq(pick(sampler, negative, 3), 1); /* -2 * 2 < -3 */
  dp_sampler_restart(sampler, 0);
  ck_assert_int_eq(pick(sampler, positive, 3), 0);
  expect_invalid(dp_sampler_saw(sampler, 3), "no token 3");
  expect_invalid(dp_sampler_saw(sampler, -1), "no token -1");
  dp_sampler_free(sampler);
}
END_TEST

START_TEST(parameters_out_of_range_are_refused_by_name) {
  static const struct {
    dp_sampler_params params;
    const char *words;
  } cases[] = {
      {{-1, 0, 1, 0, 0, 1}, "temperature"},
      {{NAN, 0, 1, 0, 0, 1}, "temperature"},
      {{INFINITY, 0, 1, 0, 0, 1}, "temperature"},
      {{1, -1, 1, 0, 0, 1}, "top-k"},
      {{1, 0, 0, 0, 0, 1}, "top-p"},
      {{1, 0, 1.5f, 0, 0, 1}, "top-p"},
      {{1, 0, NAN, 0, 0, 1}, "top-p"},
      {{1, 0, 1, -0.1f, 0, 1}, "min-p"},
      {{1, 0, 1, 2, 0, 1}, "min-p"},
      {{1, 0, 1, 0, 0, 0}, "repeat penalty"},
      {{1, 0, 1, 0, 0, NAN}, "repeat penalty"},
  };
  for (size_t i = 0; i < DP_COUNT(cases); i++) {
    dp_sampler *sampler = NULL;
    expect_invalid(dp_sampler_new(&cases[i].params, 10, &sampler), cases[i].words);
    ck_assert_ptr_null(sampler);
  }
  dp_sampler_params params = dp_sampler_defaults();
  dp_sampler *sampler = NULL;
  expect_invalid(dp_sampler_new(&params, 0, &sampler), "vocabulary of 0");
}
END_TEST

int main(void) {
  Suite *suite = suite_create("sampler");
  TCase *tests = tcase_create("sampler");
  tcase_set_timeout(tests, 120);
  tcase_add_test(tests, greedy_takes_the_lowest_id_on_ties);
  tcase_add_loop_test(tests, draws_follow_the_softmax_at_any_temperature, 0, 3);
  tcase_add_loop_test(tests, top_k_keeps_the_k_most_likely, 0, 7);
  tcase_add_loop_test(tests, top_p_keeps_the_fewest_that_reach_p, 0, 4);
  tcase_add_test(tests, top_p_counts_within_top_k);
  tcase_add_loop_test(tests, min_p_keeps_what_is_near_the_best, 0, 3);
  tcase_add_test(tests, the_same_seed_gives_the_same_ids);
  tcase_add_loop_test(tests, the_log_probability_is_that_of_the_logits_as_they_came, 0, 2);
  tcase_add_test(tests, logits_far_from_zero_do_not_overflow);
  tcase_add_test(tests, a_token_of_minus_infinity_is_never_picked);
  tcase_add_loop_test(tests, nan_and_infinity_are_errors_that_name_the_token, 0, 2);
  tcase_add_test(tests, the_repeat_penalty_lowers_what_was_seen);
  tcase_add_test(tests, parameters_out_of_range_are_refused_by_name);
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed != 0;
}
