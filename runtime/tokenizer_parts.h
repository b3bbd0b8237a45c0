/* runtime/tokenizer_parts.h: what both readers (GGUF's spec, tokenizer.json) make, and the tokenizer is built from; and
 * the matcher of added tokens. Inside the tokenizer only. */
#ifndef DIPPER_TOKENIZER_PARTS_H
#define DIPPER_TOKENIZER_PARTS_H

#include "base/base.h"
#include "runtime/normalize.h"
#include "runtime/tokenizer.h"
#include "runtime/tokenizer_split.h"
#include "runtime/unigram.h"
#include "runtime/wordpiece.h"

typedef struct dp_text {
  const char *text;
  size_t length;
} dp_text;

/* One id. A token can be of the model (merges make it), added (found in the text as it stands), both, or neither. */
typedef struct dp_token_part {
  dp_text text;  /* not owned; .text NULL: this id has no token */
  bool in_model; /* text is in byte letters, unless it is added too */
  bool added, special;
  bool lstrip, rstrip, single_word, normalized; /* of an added token, as in tokenizer.json */
} dp_token_part;

typedef struct dp_merge_part {
  dp_text left, right; /* as tokens are written; not owned */
  int rank;            /* lower ones first, of equal ones the leftmost */
} dp_merge_part;

/* Tokens whose texts are UTF-8 as it stands, with a mark (SentencePiece's U+2581) for blanks: Unigram, and BPE that is
 * not byte-level. */
typedef struct dp_piece_rules {
  bool present, is_unigram;
  bool byte_fallback, shows_bytes;              /* <0x0A> for text without a token; and decoded as that byte */
  bool metaspace, split;                        /* blanks become marks, and a word begins at each */
  enum { DP_MARK_NEVER, DP_MARK_FIRST, DP_MARK_ALWAYS } prepend; /* a mark before the text, before each stretch of it */
  char mark[8];                                 /* metaspace's, NUL-terminated */
  char shown_from[8];                           /* decoding: this becomes a blank; "": nothing does */
  bool drop_first_marks;                        /* those of the first token do not */
  int strip_left;                               /* and so many blanks at the beginning of the whole fall away */
} dp_piece_rules;

typedef struct dp_tokenizer_parts {
  dp_token_part *tokens;
  int token_count;
  dp_merge_part *merges;
  int merge_count;
  dp_splitter *splitter; /* goes over to the tokenizer when it is built */
  bool nfc, ignore_merges, fuse_unknown;
  int unknown_symbol; /* what a byte without a token becomes; -1: nothing */
  dp_token_specials specials;
  bool is_wordpiece, cleanup; /* then tokens are texts as they stand, without merges */
  dp_bert_rules bert;
  dp_wordpiece wordpiece;
  dp_piece_rules pieces;
  double *scores; /* Unigram: [token_count]; goes over to the tokenizer */
  dp_normalizer *normalizer; /* of `pieces`; goes over to the tokenizer */
  char *texts;               /* where a reader keeps texts that it made */
} dp_tokenizer_parts;

void dp_tokenizer_parts_free(dp_tokenizer_parts *parts); /* what has not gone over */

dp_status dp_tokenizer_build(dp_tokenizer_parts *parts, dp_tokenizer **out);

/* Token letters of GPT-2 into bytes: false when some character is not such a letter. out has room for text.length. */
bool dp_byte_letters_decode(dp_text text, char *out, size_t *length);

/* ---- added tokens ----------------------------------------------------------------------------------------------- */

typedef struct dp_added_token {
  dp_text text; /* owned by the tokenizer */
  int32_t id;
  bool special, lstrip, rstrip, single_word;
} dp_added_token;

/* Finds added tokens: leftmost, then longest. */
typedef struct dp_added_set {
  dp_added_token *tokens; /* sorted by text; owned */
  int count;
  bool any_plain;       /* one that is not special */
  bool begins[256];     /* first bytes */
  void *word_character; /* see dp_compile_word_class; NULL when no token is single_word */
} dp_added_set;

dp_status dp_added_set_init(dp_added_set *set, dp_added_token *tokens, int count); /* takes tokens */
void dp_added_set_free(dp_added_set *set);

/* The next one at or after *at. [*begin, *end) is what it takes of the text, white space by lstrip and rstrip included;
 * NULL when there is none. `done` is where the text before ends that is spoken for. */
const dp_added_token *dp_added_set_next(const dp_added_set *set, const char *text, size_t n, bool parse_special,
                                        size_t done, size_t *at, size_t *begin, size_t *end);

#endif
