/* runtime/bpe.h: byte-pair encoding: the bytes of one word into token ids.
 *
 * Keys are bytes, not the printable letters that GPT-2 vocabularies write them in; ids are those of the vocabulary.
 * A dp_bpe is built once, then used by any number of threads: what it learns meanwhile (`whole`) is idempotent. */
#ifndef DIPPER_BPE_H
#define DIPPER_BPE_H

#include "base/base.h"
#include "runtime/tokenizer.h"

#include <stdatomic.h>

typedef struct dp_pair_slot {
  int32_t left, right; /* left == -1: empty */
  int32_t rank, merged;
} dp_pair_slot;

typedef struct dp_word_slot {
  uint32_t hash; /* upper half; most misses end here */
  int32_t id;    /* -1: empty */
} dp_word_slot;

typedef struct dp_bpe {
  const char *bytes;       /* of all tokens, one after the other, each with a NUL at its end; not owned */
  const uint32_t *offsets; /* [token_count + 1]: where each begins; not owned */
  int token_count;
  dp_word_slot *words; /* bytes -> id; word_mask + 1 slots */
  size_t word_mask;
  dp_pair_slot *pairs; /* (left, right) -> rank, merged; pair_mask + 1 slots */
  size_t pair_mask;
  int32_t byte_ids[256];  /* -1: this byte has no token, and vanishes (or becomes `unknown`) */
  int32_t unknown;        /* -1: none */
  bool fuse_unknown;      /* a run of unknown bytes is one unknown token */
  bool by_character;      /* words are UTF-8, merging begins with characters */
  int32_t byte_tokens[256]; /* of which a character without a token is made then; -1: none */
  bool ignore_merges;     /* a word that is a token is that token, whatever the merges say */
  _Atomic uint8_t *whole; /* [token_count]: does merging the bytes of this token give this token? learnt on demand */
} dp_bpe;

/* Room for one thread's encoding of long words; zero-initialize, dp_bpe_work_free. */
typedef struct dp_bpe_work {
  void *memory;
  size_t size;
} dp_bpe_work;

dp_status dp_bpe_init(dp_bpe *bpe, const char *bytes, const uint32_t *offsets, int token_count, size_t merge_count);
void dp_bpe_free(dp_bpe *bpe);
static inline size_t dp_bpe_length(const dp_bpe *bpe, int32_t id) {
  return bpe->offsets[id + 1] - bpe->offsets[id] - 1;
}
/* false: these bytes are a token already, `*other`. */
bool dp_bpe_add_word(dp_bpe *bpe, int32_t id, int32_t *other);
/* A pair that is given twice keeps the later rank. */
void dp_bpe_add_merge(dp_bpe *bpe, int32_t left, int32_t right, int32_t rank, int32_t merged);
int32_t dp_bpe_find(const dp_bpe *bpe, const char *word, size_t n); /* -1: not a token */
dp_status dp_bpe_encode(const dp_bpe *bpe, const char *word, size_t n, dp_bpe_work *work, dp_ids *out);
dp_status dp_bpe_work_reserve(dp_bpe_work *work, size_t size); /* what was there is lost */
void dp_bpe_work_free(dp_bpe_work *work);

/* Makes room for `extra` more ids. */
dp_status dp_ids_reserve(dp_ids *ids, size_t extra);

#endif
