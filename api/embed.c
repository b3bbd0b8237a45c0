/* api/embed.c: texts to the rows that an encoder gives for them. */
#include "api/internal.h"
#include "api/life.h"

#include <stdlib.h>
#include <string.h>

enum { MOST_TOGETHER = 256 };

/* Whole sequences that go into one step. */
typedef struct batch {
  dp_session *sessions[MOST_TOGETHER];
  dp_tokens tokens[MOST_TOGETHER];
  int count;
  size_t token_count, page_count;
} batch;

static void empty(batch *b) {
  for (int i = 0; i < b->count; i++) {
    dp_session_free(b->sessions[i]);
    dp_tokens_free(&b->tokens[i]);
  }
  b->count = 0;
  b->token_count = b->page_count = 0;
}

static size_t most_tokens(const dp_model *model) {
  double limit = (double)model->info.step_tokens, said;
  if ((double)model->info.context < limit) limit = (double)model->info.context;
  if (model->source.file && rt_weights_number(model->source.file, "sentence_bert_config.max_seq_length", &said) &&
      said >= 2 && said < limit)
    limit = said;
  return (size_t)limit;
}

/* The text's ids between the tokens that its tokenizer asks for, cut to `most` with the last of these kept. */
static dp_status sentence(const dp_model *model, const char *text, size_t length, size_t most, dp_tokens *tokens) {
  dp_token_specials specials = dp_tokenizer_specials(model->tokenizer);
  bool first = specials.add_bos && specials.bos >= 0, last = specials.add_eos && specials.eos >= 0;
  size_t around = (size_t)first + last, n;
  if (most <= around) return dp_fail(DP_INVALID, "a step of %zu tokens has no room for a text", most);
  dp_tokens plain;
  DP_TRY(dp_tokenize(model, text, length, false, &plain));
  n = plain.count + around > most ? most - around : plain.count;
  int32_t *ids = calloc(n + around + 1, sizeof *ids);
  if (ids) {
    if (first) ids[0] = specials.bos;
    if (n) memcpy(ids + first, plain.ids, n * sizeof *ids);
    if (last) ids[first + n] = specials.eos;
  }
  dp_tokens_free(&plain);
  *tokens = (dp_tokens){.ids = ids, .count = n + around};
  if (!ids) return dp_fail(DP_NO_MEMORY, "no memory for a text of %zu bytes", length);
  if (tokens->count) return DP_SUCCESS;
  dp_tokens_free(tokens);
  return dp_fail(DP_INVALID, "an empty text has no tokens");
}

static dp_status run(batch *b, float *rows) {
  dp_part parts[MOST_TOGETHER];
  for (int i = 0; i < b->count; i++)
    parts[i] = (dp_part){b->sessions[i], b->tokens[i].ids, b->tokens[i].count, DP_WANT_LAST};
  dp_logits logits;
  dp_status status = b->count ? dp_feed_batch(parts, b->count, &logits) : DP_SUCCESS;
  for (int64_t r = 0; status.code == DP_OK && r < b->count; r++)
    memcpy(rows + r * logits.columns, logits.data + r * logits.stride, (size_t)logits.columns * sizeof *rows);
  empty(b);
  return status;
}

static dp_status embed(dp_model *model, const char *const *texts, const size_t *lengths, size_t count, batch *b,
                       float *rows) {
  size_t most = most_tokens(model), done = 0, step = (size_t)model->info.step_tokens;
  size_t room = (size_t)model->info.context / TILE_CHUNK; /* pages, of which no two sequences share one */
  for (size_t i = 0; i < count; i++) {
    dp_tokens tokens;
    DP_TRY(sentence(model, texts[i], lengths ? lengths[i] : strlen(texts[i]), most, &tokens));
    dp_status status = DP_SUCCESS;
    size_t pages = (tokens.count + TILE_CHUNK - 1) / TILE_CHUNK;
    if (b->count == MOST_TOGETHER || b->token_count + tokens.count > step || b->page_count + pages > room) {
      int ran = b->count;
      status = run(b, rows + done * (size_t)model->info.columns);
      done += (size_t)ran;
    }
    if (status.code == DP_OK) status = dp_session_new(model, &b->sessions[b->count]);
    if (status.code != DP_OK) {
      dp_tokens_free(&tokens);
      return status;
    }
    b->token_count += tokens.count;
    b->page_count += pages;
    b->tokens[b->count++] = tokens;
  }
  return run(b, rows + done * (size_t)model->info.columns);
}

static dp_status embed_all(dp_model *model, const char *const *texts, const size_t *lengths, size_t count, float *rows) {
  if (!model->tokenizer) return dp_fail(DP_INVALID, "the weights bring no tokenizer");
  batch *b = calloc(1, sizeof *b);
  if (!b) return dp_fail(DP_NO_MEMORY, "no memory for a batch");
  dp_status status = embed(model, texts, lengths, count, b, rows);
  empty(b);
  free(b);
  return status;
}

dp_status dp_embed(dp_model *model, const char *const *texts, const size_t *lengths, size_t count, float *rows) {
  if (count) DP_TRY(api_need(texts, "dp_embed", "list of texts"));
  for (size_t i = 0; i < count; i++) DP_TRY(api_need(texts[i], "dp_embed", "text"));
  if (count) DP_TRY(api_need(rows, "dp_embed", "place for the rows"));
  DP_TRY(api_enter_model(model, "dp_embed"));
  dp_status status = embed_all(model, texts, lengths, count, rows);
  api_leave_model(model);
  return status;
}
