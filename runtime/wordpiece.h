/* runtime/wordpiece.h: BERT's tokenizer: normalization, the split at white space and punctuation, and WordPiece
 * (Schuster and Nakajima, 2012; as in Devlin et al., 2018). Inside the tokenizer only. */
#ifndef DIPPER_WORDPIECE_H
#define DIPPER_WORDPIECE_H

#include "base/base.h"
#include "runtime/bpe.h"

/* Of a BertNormalizer; `present` is false when the file has none. */
typedef struct dp_bert_rules {
  bool present, clean_text, chinese, strip_accents, lowercase;
} dp_bert_rules;

/* Appends the normalized text. `text` is well-formed UTF-8. */
dp_status dp_bert_normalize(const dp_bert_rules *rules, const char *text, size_t n, dp_str *out);

/* Calls `word` for each: white space parts them and is dropped, each punctuation character is one. */
typedef dp_status dp_bert_word(void *context, const char *word, size_t n);
dp_status dp_bert_split(const char *text, size_t n, dp_bert_word *word, void *context);

typedef struct dp_wordpiece {
  char prefix[16]; /* of tokens inside a word, "##" */
  size_t prefix_length;
  int64_t most_characters; /* of a word; a longer one is unknown */
  int32_t unknown;
} dp_wordpiece;

/* Appends the word's tokens, the longest that fits at each place; the unknown one for the whole word when there is a
 * place where none fits. `scratch` is emptied first. */
dp_status dp_wordpiece_encode(const dp_wordpiece *model, const dp_bpe *vocabulary, const char *word, size_t n,
                              dp_str *scratch, dp_ids *out);
/* Appends a token's text as the WordPiece decoder shows it; `first` has no blank before it. */
void dp_wordpiece_show(const dp_wordpiece *model, const char *token, size_t n, bool first, bool cleanup, dp_str *out);

/* bert_tables.c, made by bert_tables.py */
enum { BERT_REMOVED = 1, BERT_BLANK = 2, BERT_MARK = 4, BERT_SPACE = 8, BERT_PUNCTUATION = 16 };
typedef struct dp_bert_range {
  uint32_t first, last;
  uint8_t kinds;
} dp_bert_range;
typedef struct dp_bert_change {
  uint32_t from, to[3]; /* zeros behind the last */
} dp_bert_change;
extern const dp_bert_range dp_bert_kinds[];
extern const int dp_bert_kinds_count;
extern const dp_bert_change dp_bert_bare[], dp_bert_lower[]; /* without accents; in lower case */
extern const int dp_bert_bare_count, dp_bert_lower_count;

#endif
