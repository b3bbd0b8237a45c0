/* runtime/unigram.c: Viterbi over the characters of a word, with a trie for the pieces that begin at each. Sums are f64
 * in the order that Hugging Face's `tokenizers` adds them, so that ties fall alike. */
#include "runtime/unigram.h"

#include "runtime/unicode.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static size_t slot_of(uint32_t key) { return (size_t)((key * UINT64_C(0x9E3779B97F4A7C15)) >> 32); }

/* 0: no such edge (the root is nobody's child). */
static uint32_t step_to(const dp_unigram *m, uint32_t node, uint8_t byte) {
  uint32_t key = node * 256 + byte + 1;
  for (size_t at = slot_of(key) & m->edge_mask;; at = (at + 1) & m->edge_mask) {
    if (m->edges[at].key == key) return m->edges[at].node;
    if (!m->edges[at].key) return 0;
  }
}

static uint32_t add_step(dp_unigram *m, uint32_t node, uint8_t byte) {
  uint32_t found = step_to(m, node, byte), key = node * 256 + byte + 1;
  if (found) return found;
  size_t at = slot_of(key) & m->edge_mask;
  while (m->edges[at].key) at = (at + 1) & m->edge_mask;
  m->edges[at] = (dp_unigram_edge){key, m->node_count};
  m->ids[m->node_count] = -1;
  return m->node_count++;
}

dp_status dp_unigram_init(dp_unigram *m, const char *const *texts, const size_t *lengths, const double *scores,
                          int count) {
  size_t total = 1, slots = 16;
  double least = INFINITY;
  for (int i = 0; i < count; i++) {
    total += lengths[i];
    if (lengths[i] && scores[i] < least) least = scores[i];
  }
  if (total >= 1u << 24) return dp_fail(DP_UNSUPPORTED, "a Unigram vocabulary of %zu bytes", total);
  while (slots < 2 * total) slots *= 2;
  *m = (dp_unigram){.scores = scores, .unknown_score = least - 10.0, .unknown = -1, .edge_mask = slots - 1};
  m->edges = calloc(slots, sizeof *m->edges);
  m->ids = malloc(total * sizeof *m->ids);
  if (!m->edges || !m->ids) {
    dp_unigram_free(m);
    return dp_fail(DP_NO_MEMORY, "no memory for a vocabulary of %d pieces", count);
  }
  m->ids[0] = -1;
  m->node_count = 1;
  for (int i = 0; i < count; i++) {
    uint32_t node = 0;
    for (size_t k = 0; k < lengths[i]; k++) node = add_step(m, node, (uint8_t)texts[i][k]);
    if (node) m->ids[node] = i; /* of two equal pieces the later, as in a map */
  }
  return DP_SUCCESS;
}

void dp_unigram_free(dp_unigram *m) {
  free(m->edges);
  free(m->ids);
  *m = (dp_unigram){.unknown = -1};
}

typedef struct place {
  double score;   /* of the best way to here */
  uint32_t begin; /* of its last piece */
  int32_t id;     /* of it; -1: nothing ends here, -2: unknown text */
} place;

static void offer(place *end, double score, uint32_t begin, int32_t id) {
  if (end->id == -1 || score > end->score) *end = (place){score, begin, id};
}

static void find_ways(const dp_unigram *m, const char *word, size_t n, place *places) {
  for (size_t at = 0; at < n;) {
    uint32_t c, node = 0;
    int character = dp_utf8_step(word + at, n - at, &c);
    size_t whole = character > 0 ? (size_t)character : 1;
    double before = places[at].score;
    bool single = false;
    for (size_t end = at; end < n && (node = step_to(m, node, (uint8_t)word[end]));) {
      end++;
      int32_t id = m->ids[node];
      if (id < 0) continue;
      offer(&places[end], m->scores[id] + before, (uint32_t)at, id);
      single = single || end - at == whole;
    }
    if (!single) offer(&places[at + whole], m->unknown_score + before, (uint32_t)at, -2);
    at += whole;
  }
}

/* Unknown text: its bytes where each has a piece, else one unknown token. */
static dp_status put_unknown(const dp_unigram *m, const char *text, size_t n, dp_ids *out) {
  DP_TRY(dp_ids_reserve(out, n));
  bool all = m->bytes != NULL;
  for (size_t i = 0; all && i < n; i++) all = m->bytes[(uint8_t)text[i]] >= 0;
  for (size_t i = 0; all && i < n; i++) out->items[out->count++] = m->bytes[(uint8_t)text[i]];
  if (all) return DP_SUCCESS;
  if (m->unknown < 0) return dp_fail(DP_INVALID, "the tokenizer has no token for '%.*s'", n > 40 ? 40 : (int)n, text);
  out->items[out->count++] = m->unknown;
  return DP_SUCCESS;
}

dp_status dp_unigram_encode(const dp_unigram *m, const char *word, size_t n, dp_bpe_work *work, dp_ids *out) {
  if (n >= UINT32_MAX) return dp_fail(DP_INVALID, "a word of %zu bytes is too long to encode", n);
  DP_TRY(dp_bpe_work_reserve(work, (n + 1) * (sizeof(place) + sizeof(uint32_t))));
  place *places = work->memory;
  uint32_t *ends = (uint32_t *)(places + n + 1), end = (uint32_t)n;
  for (size_t i = 0; i <= n; i++) places[i] = (place){0, 0, -1};
  find_ways(m, word, n, places);
  size_t count = 0;
  for (; end > 0; end = places[end].begin) ends[count++] = end;
  DP_TRY(dp_ids_reserve(out, count));
  while (count) {
    end = ends[--count];
    uint32_t begin = places[end].begin;
    if (places[end].id >= 0) {
      DP_TRY(dp_ids_reserve(out, 1));
      out->items[out->count++] = places[end].id;
      continue;
    }
    while (count && places[ends[count - 1]].id == -2) end = ends[--count]; /* a run of unknown text is one */
    DP_TRY(put_unknown(m, word + begin, end - begin, out));
  }
  return DP_SUCCESS;
}
