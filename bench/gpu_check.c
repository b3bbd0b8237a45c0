/* bench/gpu_check.c: what must hold on a device before its speed says anything. A part fails with the first number that
 * is another one than it should be. */
#include "bench/gpu.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct rows {
  float *data; /* [count][columns] */
  int64_t count, columns;
} rows;

static dp_status keep(rows *r, const dp_logits *logits, int64_t from, int64_t to) {
  float *more = realloc(r->data, sizeof *more * (size_t)((r->count + to - from) * logits->columns));
  if (!more) return dp_fail(DP_NO_MEMORY, "no memory for logits");
  r->data = more;
  r->columns = logits->columns;
  for (int64_t i = from; i < to; i++, r->count++)
    memcpy(r->data + r->count * r->columns, logits->data + i * logits->stride, sizeof(float) * (size_t)r->columns);
  return DP_SUCCESS;
}

static dp_status same(const rows *a, const rows *b, const char *what) {
  if (a->count != b->count || a->columns != b->columns)
    return dp_fail(DP_BUG, "%s: %" PRId64 " rows, not %" PRId64, what, b->count, a->count);
  for (int64_t i = 0; i < a->count * a->columns; i++)
    if (memcmp(&a->data[i], &b->data[i], sizeof(float)) != 0)
      return dp_fail(DP_BUG, "%s: row %" PRId64 ", column %" PRId64 " is %a, not %a", what, i / a->columns,
                     i % a->columns, (double)b->data[i], (double)a->data[i]);
  return DP_SUCCESS;
}

/* ---- one sequence: a prompt, then `count` tokens more, all given; every row is kept */

enum { CHUNKS = 4, MOST_TOKENS = 1024 };

static dp_status feed(dp_session *session, int64_t from, int64_t to, rows *r) {
  int32_t ids[MOST_TOKENS];
  dp_logits logits;
  for (int64_t i = from; i < to; i++) ids[i - from] = token_of(session->model, 0, i);
  DP_TRY(dp_session_feed(session, ids, (size_t)(to - from), DP_WANT_ALL, &logits));
  return keep(r, &logits, 0, logits.rows);
}

/* Cut where `cuts` says: so many tokens at a time, in turn. */
static dp_status alone(const arguments *a, dp_model *model, const int64_t *cuts, int count, rows *r) {
  dp_session *session;
  DP_TRY(dp_session_new(model, &session));
  dp_status status = DP_SUCCESS;
  int64_t end = a->prompt + a->count;
  for (int64_t at = 0, i = 0, next; status.code == DP_OK && at < end; at = next, i++) {
    next = at + cuts[i % count] < end ? at + cuts[i % count] : end;
    status = feed(session, at, next, r);
  }
  dp_session_free(session);
  return status;
}

/* ---- the same sequence in company: the others begin with prompts of other lengths, then each gets a token a step */

typedef struct company {
  dp_session **sessions;
  dp_part *parts;
  int32_t (*ids)[MOST_TOKENS];
} company;

static dp_status step_in_company(company *c, int64_t size, const int64_t *counts, rows *r) {
  dp_logits logits;
  for (int64_t s = 0; s < size; s++) {
    int64_t past = dp_session_length(c->sessions[s]);
    for (int64_t i = 0; i < counts[s]; i++) c->ids[s][i] = token_of(c->sessions[s]->model, s, past + i);
    c->parts[s] = (dp_part){c->sessions[s], c->ids[s], (size_t)counts[s], s ? DP_WANT_LAST : DP_WANT_ALL};
  }
  /* The first one stands in the middle of the step. */
  dp_part first = c->parts[0];
  c->parts[0] = c->parts[size / 2];
  c->parts[size / 2] = first;
  DP_TRY(dp_feed_batch(c->parts, (int)size, &logits));
  return keep(r, &logits, size / 2, size / 2 + counts[0]);
}

static dp_status in_company(const arguments *a, dp_model *model, int64_t size, rows *r) {
  company c = {calloc((size_t)size, sizeof *c.sessions), calloc((size_t)size, sizeof *c.parts),
               calloc((size_t)size, sizeof *c.ids)};
  int64_t *counts = calloc((size_t)size, sizeof *counts);
  bool enough = c.sessions && c.parts && c.ids && counts;
  dp_status status = enough ? DP_SUCCESS : dp_fail(DP_NO_MEMORY, "no memory for sequences");
  for (int64_t s = 0; status.code == DP_OK && s < size; s++) status = dp_session_new(model, &c.sessions[s]);
  for (int64_t s = 0; enough && s < size; s++) counts[s] = s ? 1 + s * 7 % 5 : a->prompt;
  if (status.code == DP_OK) status = step_in_company(&c, size, counts, r);
  for (int64_t s = 0; enough && s < size; s++) counts[s] = 1;
  for (int64_t i = 0; status.code == DP_OK && i < a->count; i++) status = step_in_company(&c, size, counts, r);
  for (int64_t s = 0; c.sessions && s < size; s++) dp_session_free(c.sessions[s]);
  free(c.sessions);
  free(c.parts);
  free(c.ids);
  free(counts);
  return status;
}

/* ---- the check */

static dp_status compare_cuts(const arguments *a, dp_model *model, const rows *whole) {
  static const struct {
    const char *what;
    int64_t cuts[CHUNKS];
    int count;
  } ways[] = {{"in chunks", {7, 64, 1, 33}, 4}, {"token by token", {1}, 1}};
  for (size_t i = 0; i < DP_COUNT(ways); i++) {
    rows r = {0};
    dp_status status = alone(a, model, ways[i].cuts, ways[i].count, &r);
    if (status.code == DP_OK) status = same(whole, &r, ways[i].what);
    free(r.data);
    if (status.code != DP_OK) return status;
  }
  return DP_SUCCESS;
}

static dp_status compare_company(const arguments *a, dp_model *model, const rows *whole) {
  const int64_t sizes[] = {8, a->batch};
  for (size_t i = 0; i < DP_COUNT(sizes); i++) {
    rows r = {0};
    char what[40];
    snprintf(what, sizeof what, "in a batch of %d", (int)sizes[i]);
    dp_status status = in_company(a, model, sizes[i], &r);
    if (status.code == DP_OK) status = same(whole, &r, what);
    free(r.data);
    if (status.code != DP_OK) return status;
  }
  return DP_SUCCESS;
}

static dp_status check_sizes(const arguments *a, const dp_model *model) {
  if (a->prompt < 1 || a->prompt + a->count > MOST_TOKENS ||
      a->prompt + a->count > dp_model_get_info(model).step_tokens)
    return dp_fail(DP_INVALID, "--prompt and --count must fit in a step and in %d tokens", MOST_TOKENS);
  return DP_SUCCESS;
}

dp_status check_invariance(const arguments *a) {
  dp_model *model;
  rows whole = {0};
  DP_TRY(open_on(a, a->device, &model));
  dp_status status = check_sizes(a, model);
  if (status.code == DP_OK) status = alone(a, model, (int64_t[]){MOST_TOKENS}, 1, &whole);
  if (status.code == DP_OK) status = compare_cuts(a, model, &whole);
  if (status.code == DP_OK) status = compare_company(a, model, &whole);
  if (status.code == DP_OK)
    printf("{\"part\": \"invariance\", \"numbers\": %" PRId64 ", \"hash\": \"%016" PRIx64 "\"}\n",
           whole.count * whole.columns, dp_hash(0, whole.data, sizeof(float) * (size_t)(whole.count * whole.columns)));
  free(whole.data);
  dp_model_free(model);
  return status;
}

/* ---- beside the interpreter */

static dp_status run_on(const arguments *a, const char *device, rows *r) {
  dp_model *model;
  DP_TRY(open_on(a, device, &model));
  dp_status status = check_sizes(a, model);
  if (status.code == DP_OK) status = alone(a, model, (int64_t[]){a->prompt, 1}, 2, r);
  dp_model_free(model);
  return status;
}

static dp_status compare(const rows *defined, const rows *r) {
  static const double tolerance = 0.02; /* of the largest logit: products of bf16 with activations rounded to it */
  double largest = 0, difference = 0;
  int64_t other = 0;
  if (defined->count != r->count) return dp_fail(DP_BUG, "%" PRId64 " rows, not %" PRId64, r->count, defined->count);
  for (int64_t i = 0; i < r->count * r->columns; i++) {
    double by = fabs((double)r->data[i] - (double)defined->data[i]);
    if (fabs((double)defined->data[i]) > largest) largest = fabs((double)defined->data[i]);
    if (!(by <= difference)) difference = by; /* and NaN */
    other += memcmp(&r->data[i], &defined->data[i], sizeof(float)) != 0;
  }
  printf("{\"part\": \"reference\", \"numbers\": %" PRId64 ", \"with_other_bits\": %" PRId64
         ", \"largest_difference\": %.3g, \"largest\": %.6g}\n",
         r->count * r->columns, other, difference, largest);
  if (difference <= tolerance * largest) return DP_SUCCESS;
  return dp_fail(DP_BUG, "logits differ by %g, the largest is %g", difference, largest);
}

dp_status check_reference(const arguments *a) {
  rows defined = {0}, r = {0};
  dp_status status = run_on(a, "interp", &defined);
  if (status.code == DP_OK) status = run_on(a, a->device, &r);
  if (status.code == DP_OK) status = compare(&defined, &r);
  free(defined.data);
  free(r.data);
  return status;
}

/* ---- whole numbers: a sum of their products is exact in any order, so every numerics gives it */

static int integer_at(int weight, int64_t row, int64_t col) {
  return (int)((row * 31 + col * 17 + weight * 5 + row * col % 13) % 17) - 8;
}

static dp_status fill(api_source *source, int weight, int64_t *cols) {
  const rt_bound *bound = rt_binding_get(source->binding, weight, 0);
  float *row = calloc((size_t)bound->cols, sizeof *row);
  if (!row) return dp_fail(DP_NO_MEMORY, "no memory for a row");
  for (int64_t r = 0; r < bound->rows; r++) {
    for (int64_t c = 0; c < bound->cols; c++) row[c] = (float)integer_at(weight, r, c);
    rt_quantize_row(bound->dtype, row, (char *)(uintptr_t)bound->data + r * bound->row_bytes, bound->cols);
  }
  free(row);
  *cols = bound->cols;
  return DP_SUCCESS;
}

static dp_status check_products(const int32_t *ids, const rt_logits *logits, int64_t depth) {
  for (int64_t t = 0; t < logits->rows; t++)
    for (int64_t n = 0; n < logits->columns; n++) {
      int64_t sum = 0;
      for (int64_t k = 0; k < depth; k++) sum += integer_at(0, ids[t], k) * integer_at(1, n, k);
      if (logits->data[t * logits->stride + n] != (float)sum)
        return dp_fail(DP_BUG, "of %" PRId64 " tokens: row %" PRId64 ", column %" PRId64 " is %.9g, not %" PRId64,
                       logits->rows, t, n, (double)logits->data[t * logits->stride + n], sum);
    }
  return DP_SUCCESS;
}

static dp_status multiply(dp_model *model, int64_t tokens, int64_t depth) {
  int32_t ids[MOST_TOKENS];
  rt_sequence *sequence;
  rt_logits logits;
  DP_TRY(rt_sequence_new(model->engine, &sequence));
  for (int64_t i = 0; i < tokens; i++) ids[i] = (int32_t)((i * 37 + 5) % rt_engine_vocabulary(model->engine));
  rt_request request = {.sequence = sequence, .tokens = ids, .count = tokens, .want = RT_WANT_ALL};
  dp_status status = rt_engine_step(model->engine, &request, 1, &logits);
  if (status.code == DP_OK) status = check_products(ids, &logits, depth);
  rt_sequence_free(model->engine, sequence);
  return status;
}

static dp_status set_up(const dp_options *options, dp_model *model, int64_t *depth) {
  rt_engine_options engine = {.workers = 1, .context = MOST_TOKENS, .max_tokens = MOST_TOKENS};
  DP_TRY(api_open_source(options, API_WEIGHTS, &model->source));
  DP_TRY(fill(&model->source, 0, depth));
  DP_TRY(fill(&model->source, 1, depth));
  DP_TRY(api_schedule(options, &model->source, &model->program));
  DP_TRY(api_compile(options, &model->program, &model->code, &model->info.compiled, &model->note));
  return rt_engine_new(model->program, model->code, model->source.binding, &engine, &model->engine);
}

dp_status check_integers(const arguments *a) {
  static const int64_t counts[] = {1, 2, 9, 64, 200};
  dp_model *model = calloc(1, sizeof *model);
  dp_options options = options_on(a, a->device);
  int64_t depth = 0;
  if (!model) return dp_fail(DP_NO_MEMORY, "no memory for a model");
  dp_status status = set_up(&options, model, &depth);
  for (size_t i = 0; i < DP_COUNT(counts) && status.code == DP_OK; i++) status = multiply(model, counts[i], depth);
  if (status.code == DP_OK)
    printf("{\"part\": \"integers\", \"weights\": \"%s\", \"depth\": %" PRId64 "}\n", options.weights, depth);
  dp_model_free(model);
  return status;
}
