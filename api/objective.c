/* api/objective.c: losses of pairs and of values, and what each token's score has to do with them. */
#include "api/objective.h"

#include <math.h>
#include <string.h>

bool api_objective_in_pairs(ir_objective objective) { return objective == IR_DPO || objective == IR_REWARD; }
bool api_objective_from_scores(ir_objective objective) { return objective != IR_PRETRAIN && objective != IR_SFT; }

/* log(1 + e^x) */
static double softplus(double x) { return x > 0 ? x + log1p(exp(-x)) : log1p(exp(x)); }
static double sigmoid(double x) { return x > 0 ? 1 / (1 + exp(-x)) : exp(x) / (1 + exp(x)); }

static double score_of(const dp_logits *scores, int64_t token) { return (double)scores->data[token * scores->stride]; }

/* The log probability of what counts: scores are its negative, 0 elsewhere. */
static double log_probability(const dp_logits *scores, int64_t first, int64_t count) {
  double sum = 0;
  for (int64_t t = first; t < first + count; t++) sum -= score_of(scores, t);
  return sum;
}

static void set_all(float *coefficients, int64_t count, double value) {
  for (int64_t t = 0; t < count; t++) coefficients[t] = (float)value;
}

/* -log sigmoid(z), z the difference of two rewards; returns its slope along z. */
static double prefer(double z, api_objective_sums *sums) {
  sums->loss += softplus(-z);
  sums->margin += z;
  sums->correct += z > 0;
  sums->pairs++;
  sums->units++;
  return -sigmoid(-z);
}

/* A score's slope is that of a log probability with the sign turned. */
static void dpo(double beta, const rt_example *pair, int64_t at, const dp_logits *scores, const dp_logits *reference,
                float *coefficients, api_objective_sums *sums) {
  int64_t middle = at + pair[0].count;
  double chosen = log_probability(scores, at, pair[0].count) - log_probability(reference, at, pair[0].count);
  double rejected = log_probability(scores, middle, pair[1].count) - log_probability(reference, middle, pair[1].count);
  double slope = beta * prefer(beta * (chosen - rejected), sums);
  set_all(coefficients + at, pair[0].count, -slope);
  set_all(coefficients + middle, pair[1].count, slope);
}

static void reward(const rt_example *pair, int64_t at, const dp_logits *scores, float *coefficients, api_objective_sums *sums) {
  int64_t chosen = at + pair[0].count - 1, rejected = chosen + pair[1].count;
  double slope = prefer(score_of(scores, chosen) - score_of(scores, rejected), sums);
  set_all(coefficients + at, pair[0].count + pair[1].count, 0);
  coefficients[chosen] = (float)slope;
  coefficients[rejected] = (float)-slope;
}

static void value(const rt_example *sequence, int64_t at, const dp_logits *scores, float *coefficients, api_objective_sums *sums) {
  for (int64_t t = 0; t < sequence->count; t++) {
    bool counts = sequence->targets[t] >= 0;
    double off = counts ? score_of(scores, at + t) - sequence->value : 0;
    sums->loss += off * off / 2;
    sums->units += counts;
    coefficients[at + t] = (float)off;
  }
}

void api_objective(const ir_recipe *recipe, const rt_example *sequences, int count, const dp_logits *scores,
                   const dp_logits *reference, float *coefficients, api_objective_sums *sums) {
  bool pairs = api_objective_in_pairs(recipe->objective);
  int64_t at = 0;
  for (int i = 0; i < count; i += pairs ? 2 : 1) {
    if (recipe->objective == IR_DPO)
      dpo(recipe->beta, sequences + i, at, scores, reference, coefficients, sums);
    else if (recipe->objective == IR_REWARD)
      reward(sequences + i, at, scores, coefficients, sums);
    else
      value(sequences + i, at, scores, coefficients, sums);
    at += sequences[i].count + (pairs ? sequences[i + 1].count : 0);
  }
}
