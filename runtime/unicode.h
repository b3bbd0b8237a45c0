/* runtime/unicode.h: what the tokenizer and the chat template need of Unicode: UTF-8 step by step, the repair of
 * malformed UTF-8, and normalization form C. The data are in unicode_tables.c, made by unicode_tables.py. */
#ifndef DIPPER_UNICODE_H
#define DIPPER_UNICODE_H

#include "base/base.h"

/* The character at the start of `s`. Returns its length (1..4) and the code point; -k when the first k bytes are a
 * maximal ill-formed subpart (what becomes one U+FFFD); 0 when all n bytes are the beginning of a character. */
int dp_utf8_step(const char *s, size_t n, uint32_t *codepoint);
/* Writes 1..4 bytes, returns how many. */
int dp_utf8_put(uint32_t codepoint, char *out);
/* How many bytes at the start are well-formed. */
size_t dp_utf8_valid_prefix(const char *s, size_t n);
/* Appends s with each maximal ill-formed subpart replaced by U+FFFD, as Python's errors="replace" does. */
void dp_utf8_repair(const char *s, size_t n, dp_str *out);

/* s is well-formed UTF-8. True when s is surely in form C already. */
bool dp_nfc_is_plain(const char *s, size_t n);
dp_status dp_nfc(const char *s, size_t n, dp_str *out); /* appends */

typedef struct dp_category_range {
  uint32_t first, last;
  char category[3];
} dp_category_range;
typedef struct dp_class_range {
  uint32_t first, last;
  uint8_t combining_class;
} dp_class_range;
typedef struct dp_decomposition {
  uint32_t from, first, second; /* second is 0 for a singleton */
} dp_decomposition;
typedef struct dp_composition {
  uint32_t first, second, to;
} dp_composition;
typedef struct dp_codepoint_range {
  uint32_t first, last;
} dp_codepoint_range;

extern const dp_category_range dp_newer_characters[]; /* assigned after Unicode 14, which PCRE2 may not know */
extern const int dp_newer_characters_count;
extern const dp_class_range dp_combining_classes[];
extern const int dp_combining_classes_count;
extern const dp_decomposition dp_decompositions[];
extern const int dp_decompositions_count;
extern const dp_composition dp_compositions[];
extern const int dp_compositions_count;
extern const dp_codepoint_range dp_nfc_suspects[]; /* characters that may change under NFC, alone or beside another */
extern const int dp_nfc_suspects_count;

#endif
