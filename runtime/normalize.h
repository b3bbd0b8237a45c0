/* runtime/normalize.h: the normalizers of a tokenizer.json that is neither byte-level nor BERT's, in the file's order.
 * Inside the tokenizer only. */
#ifndef DIPPER_NORMALIZE_H
#define DIPPER_NORMALIZE_H

#include "base/base.h"

typedef struct dp_normalizer dp_normalizer;

dp_normalizer *dp_normalizer_new(void); /* NULL when memory ran out */
void dp_normalizer_free(dp_normalizer *normalizer);

/* Steps, in the order they are added. Texts are copied. */
dp_status dp_normalizer_add_prepend(dp_normalizer *normalizer, const char *text, size_t n); /* to what is not empty */
dp_status dp_normalizer_add_replace(dp_normalizer *normalizer, const char *from, size_t from_length, const char *to,
                                    size_t to_length);
dp_status dp_normalizer_add_regex(dp_normalizer *normalizer, const char *pattern, size_t n, const char *to,
                                  size_t to_length);
dp_status dp_normalizer_add_strip(dp_normalizer *normalizer, bool left, bool right); /* white space */
dp_status dp_normalizer_add_lowercase(dp_normalizer *normalizer);
dp_status dp_normalizer_add_nfc(dp_normalizer *normalizer);
/* SentencePiece's precompiled character map: u32 size of a double-array trie, the trie, and texts that end at NULs. */
dp_status dp_normalizer_add_map(dp_normalizer *normalizer, const uint8_t *bytes, size_t n);

/* text is well-formed UTF-8; *result points to it, or into one of the two buffers. *moved: its first character was taken
 * away, so that the result begins later in the text. Thread-safe. */
dp_status dp_normalize(const dp_normalizer *normalizer, const char *text, size_t n, dp_str buffers[2],
                       const char **result, size_t *length, bool *moved);

#endif
