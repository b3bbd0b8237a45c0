/* runtime/unigram.h: the Unigram model (Kudo, 2018): of all ways to cut a word into pieces the one whose pieces' log
 * probabilities have the greatest sum. Inside the tokenizer only. */
#ifndef DIPPER_UNIGRAM_H
#define DIPPER_UNIGRAM_H

#include "base/base.h"
#include "runtime/bpe.h"

typedef struct dp_unigram_edge {
  uint32_t key; /* node * 256 + byte, plus one; 0: empty */
  uint32_t node;
} dp_unigram_edge;

typedef struct dp_unigram {
  dp_unigram_edge *edges; /* of a trie over the pieces: a hash table of edge_mask + 1 slots */
  size_t edge_mask;
  int32_t *ids; /* [node_count]: the piece that ends there; -1: none */
  uint32_t node_count;
  const double *scores; /* [token_count], not owned */
  double unknown_score; /* ten below the least */
  int32_t unknown;      /* -1: a text that needs it cannot be encoded */
  const int32_t *bytes; /* [256] the pieces of bytes that stand for unknown text, not owned; NULL: none */
} dp_unigram;

/* Pieces are those with lengths[i] > 0; texts, lengths and scores: [count]. */
dp_status dp_unigram_init(dp_unigram *model, const char *const *texts, const size_t *lengths, const double *scores,
                          int count);
void dp_unigram_free(dp_unigram *model);
/* word is well-formed UTF-8. Ties go to the piece that begins first. */
dp_status dp_unigram_encode(const dp_unigram *model, const char *word, size_t n, dp_bpe_work *work, dp_ids *out);

#endif
