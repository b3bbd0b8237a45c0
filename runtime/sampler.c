/* runtime/sampler.c: logits into an id: a cut of the distribution, then one draw from what is left.
 *
 * Random numbers: xoshiro256++ seeded by splitmix64 (Blackman and Vigna, prng.di.unimi.it). Nothing is sorted but what
 * is kept: top-k takes a heap of k, top-p pops a heap of all until the mass is reached. Sums are f64 in a fixed order.
 */
#include "runtime/sampler.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct scored {
  double score; /* first the logit, over the temperature; then the weight: e^(score - best) */
  int32_t id;
} scored;

struct dp_sampler {
  dp_sampler_params params;
  int vocab_size;
  uint64_t state[4];
  int64_t place; /* of the next pick */
  dp_draw *draw; /* where nothing is cut off; NULL: as else */
  scored *kept;  /* [vocab_size] */
  uint8_t *seen; /* [vocab_size] */
};

/* ---- random numbers --------------------------------------------------------------------------------------------- */

static uint64_t splitmix64(uint64_t *state) {
  uint64_t z = *state += UINT64_C(0x9E3779B97F4A7C15);
  z = (z ^ z >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
  z = (z ^ z >> 27) * UINT64_C(0x94D049BB133111EB);
  return z ^ z >> 31;
}

static uint64_t rotate(uint64_t x, int by) { return x << by | x >> (64 - by); }

static uint64_t xoshiro256(uint64_t s[4]) {
  uint64_t result = rotate(s[0] + s[3], 23) + s[0], shifted = s[1] << 17;
  s[2] ^= s[0];
  s[3] ^= s[1];
  s[1] ^= s[2];
  s[0] ^= s[3];
  s[2] ^= shifted;
  s[3] = rotate(s[3], 45);
  return result;
}

/* In [0, 1), a multiple of 2^-53. */
static double uniform(dp_sampler *s) { return (double)(xoshiro256(s->state) >> 11) * 0x1p-53; }

/* ---- making ----------------------------------------------------------------------------------------------------- */

dp_sampler_params dp_sampler_defaults(void) {
  return (dp_sampler_params){.temp = 1, .top_k = 0, .top_p = 1, .min_p = 0, .seed = 0, .repeat_penalty = 1};
}

dp_status dp_sampler_new(const dp_sampler_params *params, int vocab_size, dp_sampler **out) {
  *out = NULL;
  if (vocab_size <= 0) return dp_fail(DP_INVALID, "a sampler for a vocabulary of %d", vocab_size);
  if (!(params->temp >= 0) || !isfinite(params->temp))
    return dp_fail(DP_INVALID, "temperature %g: it is 0 (greedy) or above", (double)params->temp);
  if (params->top_k < 0) return dp_fail(DP_INVALID, "top-k %d: it is 0 (all) or above", params->top_k);
  if (!(params->top_p > 0 && params->top_p <= 1))
    return dp_fail(DP_INVALID, "top-p %g: it is above 0, up to 1 (all)", (double)params->top_p);
  if (!(params->min_p >= 0 && params->min_p <= 1))
    return dp_fail(DP_INVALID, "min-p %g: it is from 0 (all) to 1", (double)params->min_p);
  if (!(params->repeat_penalty > 0) || !isfinite(params->repeat_penalty))
    return dp_fail(DP_INVALID, "repeat penalty %g: it is above 0; 1 is none", (double)params->repeat_penalty);
  dp_sampler *s = calloc(1, sizeof *s);
  if (s) {
    *s = (dp_sampler){.params = *params, .vocab_size = vocab_size};
    s->kept = calloc((size_t)vocab_size, sizeof *s->kept);
    s->seen = calloc((size_t)vocab_size, 1);
  }
  if (!s || !s->kept || !s->seen) {
    dp_sampler_free(s);
    return dp_fail(DP_NO_MEMORY, "no memory for a sampler of %d tokens", vocab_size);
  }
  dp_sampler_restart(s, params->seed);
  *out = s;
  return DP_SUCCESS;
}

void dp_sampler_free(dp_sampler *s) {
  if (!s) return;
  free(s->kept);
  free(s->seen);
  free(s);
}

dp_status dp_sampler_saw(dp_sampler *s, int32_t id) {
  if (id < 0 || id >= s->vocab_size)
    return dp_fail(DP_INVALID, "there is no token %d; the vocabulary has %d", (int)id, s->vocab_size);
  s->seen[id] = 1;
  return DP_SUCCESS;
}

void dp_sampler_restart(dp_sampler *s, uint64_t seed) {
  memset(s->seen, 0, (size_t)s->vocab_size);
  s->params.seed = seed;
  s->place = 0;
  for (int i = 0; i < 4; i++) s->state[i] = splitmix64(&seed);
}

void dp_sampler_draw_by(dp_sampler *s, dp_draw *draw) { s->draw = draw; }
void dp_sampler_at(dp_sampler *s, int64_t place) { s->place = place; }

bool dp_sampler_is_plain(const dp_sampler_params *p) {
  return p->top_k == 0 && p->top_p >= 1 && p->min_p <= 0 && p->repeat_penalty == 1;
}

/* ---- heaps ------------------------------------------------------------------------------------------------------ */

/* More likely, or as likely and of lower id: a total order, so that ties are the same everywhere. */
static bool is_better(const scored *a, const scored *b) {
  return a->score > b->score || (a->score == b->score && a->id < b->id);
}

/* Moves heap[at] down to its place; the root is the best, or the worst. */
static void sift_down(scored *heap, int n, int at, bool best_on_top) {
  scored moving = heap[at];
  for (;;) {
    int child = 2 * at + 1;
    if (child >= n) break;
    if (child + 1 < n && is_better(&heap[child + 1], &heap[child]) == best_on_top) child++;
    if (is_better(&heap[child], &moving) != best_on_top) break;
    heap[at] = heap[child];
    at = child;
  }
  heap[at] = moving;
}

static void make_heap(scored *items, int n, bool best_on_top) {
  for (int i = n / 2 - 1; i >= 0; i--) sift_down(items, n, i, best_on_top);
}

/* Leaves the k best of n at the front, best first. */
static void keep_best(scored *items, int n, int k) {
  make_heap(items, k, false);
  for (int i = k; i < n; i++) {
    if (!is_better(&items[i], &items[0])) continue;
    items[0] = items[i];
    sift_down(items, k, 0, false);
  }
  for (int end = k - 1; end > 0; end--) {
    scored worst = items[0];
    items[0] = items[end];
    items[end] = worst;
    sift_down(items, end, 0, false);
  }
}

/* ---- picking ---------------------------------------------------------------------------------------------------- */

/* As the repeat penalty and the temperature make it. */
static double score_of(const dp_sampler *s, float logit, int32_t id) {
  double score = logit;
  if (s->seen[id] && s->params.repeat_penalty != 1)
    score = score > 0 ? score / s->params.repeat_penalty : score * s->params.repeat_penalty;
  return s->params.temp > 0 ? score / s->params.temp : score;
}

static dp_status check_logits(const float *logits, int n, float *highest) {
  *highest = -INFINITY;
  for (int i = 0; i < n; i++) {
    if (!(logits[i] < INFINITY)) return dp_fail(DP_INVALID, "the logit of token %d is %g", i, (double)logits[i]);
    if (logits[i] > *highest) *highest = logits[i];
  }
  return *highest > -INFINITY ? DP_SUCCESS : dp_fail(DP_INVALID, "all %d logits are -inf", n);
}

static int32_t pick_greedy(const dp_sampler *s, const float *logits, int n) {
  scored best = {-INFINITY, 0};
  for (int32_t i = 0; i < n; i++) {
    scored one = {score_of(s, logits[i], i), i};
    if (one.score > best.score) best = one;
  }
  return best.id;
}

/* Scores of the kept, of which [0] is the best when `sorted`, into weights; returns their sum. */
static double weigh(scored *kept, int n, bool sorted) {
  double best = kept[0].score, sum = 0;
  for (int i = 1; i < n && !sorted; i++)
    if (kept[i].score > best) best = kept[i].score;
  for (int i = 0; i < n; i++) sum += kept[i].score = exp(kept[i].score - best);
  return sum;
}

/* Moves the fewest best that reach top_p of `sum` to the front; *sum becomes theirs. Returns how many. */
static int keep_mass(scored *kept, int n, bool sorted, float top_p, double *sum) {
  double goal = top_p * *sum, reached = 0;
  int count = 0;
  if (sorted) {
    while (count < n && (count == 0 || reached < goal)) reached += kept[count++].score;
  } else {
    /* Popped ones gather at the end, best last; then they move to the front, best first. */
    make_heap(kept, n, true);
    int left = n;
    while (left > 0 && (left == n || reached < goal)) {
      scored best = kept[0];
      reached += best.score;
      kept[0] = kept[--left];
      if (left) sift_down(kept, left, 0, true);
      kept[left] = best;
    }
    count = n - left;
    for (int i = 0, j = n - 1; i < j; i++, j--) {
      scored swapped = kept[i];
      kept[i] = kept[j];
      kept[j] = swapped;
    }
  }
  *sum = reached;
  return count;
}

static int32_t pick_random(dp_sampler *s, const float *logits, int n) {
  scored *kept = s->kept;
  int count = 0;
  for (int32_t i = 0; i < n; i++) {
    double score = score_of(s, logits[i], i);
    if (score > -INFINITY) kept[count++] = (scored){score, i};
  }
  bool sorted = s->params.top_k > 0 && s->params.top_k < count;
  if (sorted) {
    keep_best(kept, count, s->params.top_k);
    count = s->params.top_k;
  }
  double sum = weigh(kept, count, sorted);
  if (s->params.top_p < 1) count = keep_mass(kept, count, sorted, s->params.top_p, &sum);
  if (s->params.min_p > 0) {
    int likely = 0;
    sum = 0;
    for (int i = 0; i < count; i++) {
      if (kept[i].score < (double)s->params.min_p) continue; /* the best weighs 1 */
      sum += kept[i].score;
      kept[likely++] = kept[i];
    }
    count = likely;
  }
  double point = uniform(s) * sum, reached = 0;
  int32_t last = kept[0].id;
  for (int i = 0; i < count; i++) {
    if (kept[i].score == 0) continue;
    last = kept[i].id;
    reached += kept[i].score;
    if (point < reached) break;
  }
  return last;
}

/* log softmax(logits)[id] */
static double log_probability(const float *logits, int n, float highest, int32_t id) {
  double sum = 0;
  for (int i = 0; i < n; i++) sum += exp((double)logits[i] - (double)highest);
  return (double)logits[id] - (double)highest - log(sum);
}

dp_status dp_sampler_pick(dp_sampler *s, const float *logits, int n, int32_t *id, double *log_prob) {
  if (n != s->vocab_size) return dp_fail(DP_INVALID, "%d logits for a sampler of %d tokens", n, s->vocab_size);
  float highest;
  DP_TRY(check_logits(logits, n, &highest));
  const dp_sampler_params *p = &s->params;
  int64_t place = s->place++;
  if (s->draw && dp_sampler_is_plain(p))
    *id = s->draw(logits, n, p->temp, p->seed, place);
  else
    *id = s->params.temp > 0 ? pick_random(s, logits, n) : pick_greedy(s, logits, n);
  if (log_prob) *log_prob = log_probability(logits, n, highest, *id);
  return DP_SUCCESS;
}
