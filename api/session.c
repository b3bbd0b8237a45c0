/* api/session.c: sessions, generation, perplexity: what is done with a model that is open. */
#include "api/internal.h"

#include <math.h>
#include <stdlib.h>

dp_status dp_session_new(dp_model *model, dp_session **session) {
  dp_session *fresh = calloc(1, sizeof *fresh);
  if (!fresh) return dp_fail(DP_NO_MEMORY, "no memory for a session");
  fresh->model = model;
  dp_status status = rt_sequence_new(model->engine, &fresh->sequence);
  if (status.code != DP_OK) {
    free(fresh);
    return status;
  }
  *session = fresh;
  return DP_SUCCESS;
}

void dp_session_free(dp_session *session) {
  if (!session) return;
  rt_sequence_free(session->model->engine, session->sequence);
  free(session);
}

int64_t dp_session_length(const dp_session *session) { return rt_sequence_length(session->sequence); }

void dp_session_truncate(dp_session *session, int64_t length) {
  rt_sequence_truncate(session->model->engine, session->sequence, length);
}

dp_status dp_feed_batch(const dp_part *parts, int count, dp_logits *logits) {
  enum { MAX_PARTS = 1024 };
  rt_request requests[MAX_PARTS];
  static const rt_want wants[] = {
      [DP_WANT_NONE] = RT_WANT_NONE, [DP_WANT_LAST] = RT_WANT_LAST, [DP_WANT_ALL] = RT_WANT_ALL};
  if (count < 1 || count > MAX_PARTS)
    return dp_fail(DP_INVALID, "a step takes 1 to %d sequences, not %d", MAX_PARTS, count);
  for (int i = 0; i < count; i++) {
    if (parts[i].session->model != parts[0].session->model)
      return dp_fail(DP_INVALID, "the sessions of a step must be of one model");
    if ((size_t)parts[i].want >= DP_COUNT(wants)) return dp_fail(DP_INVALID, "part %d wants rows of no known kind", i);
    requests[i] = (rt_request){.sequence = parts[i].session->sequence, .tokens = parts[i].ids,
                               .count = (int64_t)parts[i].count, .want = wants[parts[i].want]};
  }
  rt_logits rows;
  DP_TRY(rt_engine_step(parts[0].session->model->engine, requests, count, &rows));
  if (logits) *logits = (dp_logits){rows.data, rows.rows, rows.columns, rows.stride};
  return DP_SUCCESS;
}

dp_status dp_session_feed(dp_session *session, const int32_t *ids, size_t count, dp_want want, dp_logits *logits) {
  dp_part part = {session, ids, count, want};
  return dp_feed_batch(&part, 1, logits);
}

static bool goes_on(const dp_generation *g) { return !g->go_on || g->go_on(g->user); }

/* Only logits over the whole vocabulary can be sampled from or scored. */
static dp_status check_is_language_model(const dp_model *model) {
  if (model->info.columns == model->info.vocabulary) return DP_SUCCESS;
  return dp_fail(DP_INVALID, "the graph computes %lld numbers a token, not logits over its %lld tokens",
                 (long long)model->info.columns, (long long)model->info.vocabulary);
}

/* Who picks: the step itself, where a sampler is not needed; else the sampler. */
typedef struct picker {
  dp_session *session;
  rt_draw draw;
  dp_sampler *sampler; /* NULL: the step */
  /* Where a launch takes several turns, picks that nobody has asked for yet: the sequence holds the tokens before the last of
   * them. */
  rt_pick picks[RT_MOST_TURNS];
  int made, taken;
  int32_t ends[16]; /* that end the turns too; others than these are found later */
  int end_count;
} picker;

static void note_ends(picker *p) {
  const dp_model *model = p->session->model;
  for (int32_t id = 0; model->tokenizer && id < model->info.vocabulary && p->end_count < (int)DP_COUNT(p->ends); id++)
    if (dp_tokenizer_is_end(model->tokenizer, id)) p->ends[p->end_count++] = id;
}

/* Forgets what was picked ahead and not asked for. */
static void drop_ahead(picker *p) {
  int64_t length = rt_sequence_length(p->session->sequence);
  if (p->taken < p->made) rt_sequence_truncate(p->session->model->engine, p->session->sequence, length - (p->made - p->taken));
  p->made = p->taken = 0;
}

static dp_status pick_by_sampler(picker *p, const dp_logits *logits, rt_pick *pick) {
  dp_sampler_at(p->sampler, rt_sequence_length(p->session->sequence));
  DP_TRY(dp_sampler_pick(p->sampler, logits->data, (int)logits->columns, &pick->id, NULL));
  /* the loss that the trainer gives the token, to the last bit, with its sign turned */
  pick->log_probability = logits->data[pick->id] - cg_log_sum_exp(logits->data, logits->columns);
  return DP_SUCCESS;
}

static dp_status check_pick(const picker *p, const rt_pick *pick) {
  if (pick->log_probability == pick->log_probability) return DP_SUCCESS;
  return dp_fail(DP_INVALID, "the logits of the token at position %lld hold NaN or infinity, or nothing but -inf",
                 (long long)(rt_sequence_length(p->session->sequence) - (p->made - p->taken)));
}

/* Feeds tokens and picks the one behind them. */
static dp_status feed_and_pick(picker *p, const int32_t *ids, size_t count, rt_pick *pick) {
  dp_logits logits;
  if (p->sampler) {
    DP_TRY(dp_session_feed(p->session, ids, count, DP_WANT_LAST, &logits));
    return pick_by_sampler(p, &logits, pick);
  }
  rt_request request = {.sequence = p->session->sequence, .tokens = ids, .count = (int64_t)count, .want = RT_WANT_LAST,
                        .draw = &p->draw};
  DP_TRY(rt_engine_pick(p->session->model->engine, &request, 1, pick, NULL));
  return check_pick(p, pick);
}

/* Feeds a prompt of any length and picks the token behind it. */
static dp_status feed_prompt(picker *p, const int32_t *ids, size_t count, const dp_generation *g, rt_pick *pick, bool *stopped) {
  size_t step = (size_t)p->session->model->info.step_tokens, at = 0;
  for (; count - at > step; at += step) {
    *stopped = !goes_on(g);
    if (*stopped) return DP_SUCCESS;
    DP_TRY(dp_session_feed(p->session, ids + at, step, DP_WANT_NONE, NULL));
  }
  *stopped = !goes_on(g);
  return *stopped ? DP_SUCCESS : feed_and_pick(p, ids + at, count - at, pick);
}

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/* The token behind `id`, of at most `most` that will be asked for. *room: false when the context has none for it. */
static dp_status pick_next(picker *p, int32_t id, int64_t most, rt_pick *pick, bool *room) {
  rt_engine *engine = p->session->model->engine;
  if (p->taken == p->made) {
    int64_t free_tokens = rt_engine_free_tokens(engine, p->session->sequence), turns = rt_engine_turns(engine);
    *room = free_tokens >= 1;
    if (!*room) return DP_SUCCESS;
    if (p->sampler || turns == 1) return feed_and_pick(p, &id, 1, pick);
    rt_request request = {.sequence = p->session->sequence, .tokens = &id, .count = 1, .want = RT_WANT_LAST, .draw = &p->draw};
    rt_decoding decoding = {(int)smaller(smaller(turns, free_tokens), most), p->ends, p->end_count};
    p->made = p->taken = 0;
    DP_TRY(rt_engine_decode(engine, &request, 1, &decoding, p->picks, &p->made));
  }
  *pick = p->picks[p->taken++];
  return check_pick(p, pick);
}

typedef struct stream {
  const dp_generation *generation;
  dp_stream_decoder decoder;
  dp_str text;
  bool decodes;
} stream;

/* Returns whether to go on. */
static bool hand_out(stream *s) {
  bool go_on = !s->text.length || !s->generation->on_text ||
               s->generation->on_text(s->generation->user, s->text.text, s->text.length);
  dp_str_clear(&s->text);
  return go_on;
}

/* Tells of a token; whether to go on. */
static dp_status hand_out_token(stream *s, const rt_pick *pick, bool *go_on) {
  const dp_generation *g = s->generation;
  *go_on = goes_on(g);
  if (g->on_token) *go_on &= g->on_token(g->user, pick->id, (double)pick->log_probability);
  if (!s->decodes) return DP_SUCCESS;
  DP_TRY(dp_stream_decoder_push(&s->decoder, pick->id, &s->text));
  *go_on &= hand_out(s);
  return DP_SUCCESS;
}

static dp_status generate(picker *p, const int32_t *prompt, size_t count, stream *s, dp_generation_stats *stats) {
  const dp_generation *g = s->generation;
  dp_model *model = p->session->model;
  rt_pick pick;
  double begin = api_seconds();
  DP_TRY(feed_prompt(p, prompt, count, g, &pick, &stats->stopped));
  double decoding = api_seconds();
  stats->prompt_tokens = (int64_t)count;
  stats->prefill_s = decoding - begin;
  if (stats->stopped) return DP_SUCCESS;
  while (g->max_tokens < 0 || stats->new_tokens < g->max_tokens) {
    bool go_on;
    if (s->decodes && dp_tokenizer_is_end(model->tokenizer, pick.id)) {
      stats->finished = true;
      break;
    }
    stats->new_tokens++;
    DP_TRY(hand_out_token(s, &pick, &go_on));
    stats->decode_s = api_seconds() - decoding;
    if (!go_on) {
      stats->stopped = true;
      break;
    }
    if (g->max_tokens >= 0 && stats->new_tokens == g->max_tokens) break;
    bool room = true;
    DP_TRY(pick_next(p, pick.id, g->max_tokens < 0 ? INT64_MAX : g->max_tokens - stats->new_tokens, &pick, &room));
    if (!room) break;
  }
  if (s->decodes) {
    DP_TRY(dp_stream_decoder_flush(&s->decoder, &s->text));
    if (!hand_out(s)) stats->stopped = true;
  }
  return DP_SUCCESS;
}

static dp_sampler_params sampler_of(const dp_generation *g) {
  dp_sampler_params params = dp_sampler_defaults();
  params.temp = g->temperature;
  params.top_k = g->top_k;
  params.top_p = g->top_p > 0 ? g->top_p : 1;
  params.min_p = g->min_p;
  params.seed = g->seed;
  return params;
}

dp_status dp_generate(dp_session *session, const int32_t *prompt, size_t count, const dp_generation *g,
                      dp_generation_stats *stats) {
  dp_generation_stats own;
  dp_model *model = session->model;
  if (!stats) stats = &own;
  *stats = (dp_generation_stats){0};
  DP_TRY(check_is_language_model(model));
  if (count == 0) return dp_fail(DP_INVALID, "the prompt is empty");
  int64_t room = rt_engine_free_tokens(model->engine, session->sequence);
  if ((int64_t)count > room)
    return dp_fail(DP_INVALID,
                   "the prompt has %zu tokens, and the context of %lld has room for %lld; ask for a larger one", count,
                   (long long)model->info.context, (long long)room);
  if (g->max_tokens == 0) return DP_SUCCESS;
  dp_sampler_params params = sampler_of(g);
  dp_sampler *sampler;
  DP_TRY(dp_sampler_new(&params, (int)model->info.vocabulary, &sampler));
  dp_sampler_draw_by(sampler, cg_pick);
  bool in_step = dp_sampler_is_plain(&params) && rt_engine_picks(model->engine);
  picker p = {.session = session, .draw = {params.temp, params.seed}, .sampler = in_step ? NULL : sampler};
  if (in_step && rt_engine_turns(model->engine) > 1) note_ends(&p);
  stream s = {.generation = g, .decodes = model->tokenizer != NULL};
  if (s.decodes) s.decoder = dp_stream_decoder_new(model->tokenizer, false);
  dp_status status = generate(&p, prompt, count, &s, stats);
  drop_ahead(&p);
  dp_str_free(&s.text);
  dp_sampler_free(sampler);
  return status;
}

/* -log softmax(row)[target], in f64. */
static double negative_log_likelihood(const float *row, int64_t columns, int32_t target) {
  double greatest = row[0], sum = 0;
  for (int64_t i = 1; i < columns; i++)
    if (row[i] > greatest) greatest = row[i];
  for (int64_t i = 0; i < columns; i++) sum += exp(row[i] - greatest);
  return greatest + log(sum) - row[target];
}

static dp_status window_loss(dp_session *session, const int32_t *ids, size_t count, double *loss) {
  size_t step = (size_t)session->model->info.step_tokens;
  if (step > 128) step = 128; /* the logits of 512 positions would be 100 MB for nothing */
  for (size_t at = 0; at + 1 < count; at += step) {
    size_t some = count - 1 - at < step ? count - 1 - at : step;
    dp_logits logits;
    DP_TRY(dp_session_feed(session, ids + at, some, DP_WANT_ALL, &logits));
    for (size_t i = 0; i < some; i++)
      *loss += negative_log_likelihood(logits.data + (int64_t)i * logits.stride, logits.columns, ids[at + i + 1]);
  }
  return DP_SUCCESS;
}

dp_status dp_perplexity(dp_model *model, const int32_t *ids, size_t count, double *perplexity) {
  DP_TRY(check_is_language_model(model));
  if (count < 2) return dp_fail(DP_INVALID, "perplexity needs at least 2 tokens, the text has %zu", count);
  for (size_t i = 0; i < count; i++)
    if (ids[i] < 0 || ids[i] >= model->info.vocabulary)
      return dp_fail(DP_INVALID, "token id %d is out of range", (int)ids[i]);
  double loss = 0;
  size_t window = (size_t)model->info.context, counted = 0;
  for (size_t at = 0; at + 1 < count;) {
    size_t some = count - at < window + 1 ? count - at : window + 1;
    dp_session *session;
    DP_TRY(dp_session_new(model, &session));
    dp_status status = window_loss(session, ids + at, some, &loss);
    dp_session_free(session);
    if (status.code != DP_OK) return status;
    counted += some - 1;
    at += some - 1;
  }
  *perplexity = exp(loss / (double)counted);
  return DP_SUCCESS;
}
