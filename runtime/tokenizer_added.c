/* runtime/tokenizer_added.c: finds the tokens that are not made by merging: "<|im_end|>" in the text is one id.
 *
 * The set is sorted; at a byte that begins some token the range of candidates narrows byte by byte, and the last one
 * that matched in full is the longest. A special token that may not be read still hides what it covers: the reference
 * does so. */
#include "runtime/tokenizer_parts.h"
#include "runtime/unicode.h"

#include <stdlib.h>
#include <string.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

static int compare_tokens(const void *a, const void *b) {
  const dp_text *x = &((const dp_added_token *)a)->text, *y = &((const dp_added_token *)b)->text;
  int order = memcmp(x->text, y->text, x->length < y->length ? x->length : y->length);
  return order ? order : (x->length > y->length) - (x->length < y->length);
}

dp_status dp_added_set_init(dp_added_set *set, dp_added_token *tokens, int count) {
  *set = (dp_added_set){.tokens = tokens, .count = count};
  if (count) qsort(tokens, (size_t)count, sizeof *tokens, compare_tokens);
  for (int i = 1; i < count; i++)
    if (compare_tokens(&tokens[i - 1], &tokens[i]) == 0)
      return dp_fail(DP_INVALID, "tokens %d and %d have the same text '%.*s'", (int)tokens[i - 1].id, (int)tokens[i].id,
                     (int)(tokens[i].text.length > 80 ? 80 : tokens[i].text.length), tokens[i].text.text);
  bool any_single_word = false;
  for (int i = 0; i < count; i++) {
    set->begins[(uint8_t)tokens[i].text.text[0]] = true;
    set->any_plain |= !tokens[i].special;
    any_single_word |= tokens[i].single_word;
  }
  return any_single_word ? dp_compile_word_class(&set->word_character) : DP_SUCCESS;
}

void dp_added_set_free(dp_added_set *set) {
  free(set->tokens);
  pcre2_code_free(set->word_character);
  *set = (dp_added_set){0};
}

/* The longest token at the start of text. */
static const dp_added_token *longest(const dp_added_set *set, const char *text, size_t n) {
  const dp_added_token *best = NULL;
  int low = 0, high = set->count; /* tokens[low..high) begin with the first `depth` bytes of text */
  for (size_t depth = 0; low < high; depth++) {
    if (set->tokens[low].text.length == depth) { /* sorts before all that go on */
      best = &set->tokens[low++];
      if (low == high) break;
    }
    if (depth == n) break;
    uint8_t byte = (uint8_t)text[depth];
    int first = low, last = high;
    while (first < last) {
      int middle = (first + last) / 2;
      if ((uint8_t)set->tokens[middle].text.text[depth] < byte)
        first = middle + 1;
      else
        last = middle;
    }
    low = first;
    last = high;
    while (first < last) {
      int middle = (first + last) / 2;
      if ((uint8_t)set->tokens[middle].text.text[depth] <= byte)
        first = middle + 1;
      else
        last = middle;
    }
    high = first;
  }
  return best;
}

static bool is_space(uint32_t c) {
  return (c >= 0x9 && c <= 0xD) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) ||
         c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

static size_t character_before(const char *text, size_t at) {
  do at--;
  while (at > 0 && ((uint8_t)text[at] & 0xC0) == 0x80);
  return at;
}

static size_t spaces_after(const char *text, size_t n, size_t at) {
  uint32_t c = 0;
  for (int step; (step = dp_utf8_step(text + at, n - at, &c)) > 0 && is_space(c);) at += (size_t)step;
  return at;
}

static size_t spaces_before(const char *text, size_t at, size_t stop) {
  while (at > stop) {
    size_t before = character_before(text, at);
    uint32_t c = 0;
    if (dp_utf8_step(text + before, at - before, &c) <= 0 || !is_space(c)) break;
    at = before;
  }
  return at;
}

static bool begins_with_word(const dp_added_set *set, const char *text, size_t n) {
  if (n == 0) return false;
  pcre2_match_data *match = pcre2_match_data_create(1, NULL);
  if (!match) return false;
  bool found = pcre2_match(set->word_character, (PCRE2_SPTR)text, n, 0, PCRE2_NO_UTF_CHECK, match, NULL) >= 0;
  pcre2_match_data_free(match);
  return found;
}

const dp_added_token *dp_added_set_next(const dp_added_set *set, const char *text, size_t n, bool parse_special,
                                        size_t done, size_t *at, size_t *begin, size_t *end) {
  if (!set->count || (!parse_special && !set->any_plain)) return NULL;
  while (*at < n) {
    if (!set->begins[(uint8_t)text[*at]]) {
      ++*at;
      continue;
    }
    const dp_added_token *token = longest(set, text + *at, n - *at);
    if (!token) {
      ++*at;
      continue;
    }
    *begin = *at;
    *end = *at + token->text.length;
    *at = *end;
    if (token->special && !parse_special) continue;
    if (token->single_word) {
      size_t before = *begin ? character_before(text, *begin) : 0;
      if (begins_with_word(set, text + before, *begin - before) || begins_with_word(set, text + *end, n - *end))
        continue;
    }
    if (token->lstrip) *begin = done > *begin ? done : spaces_before(text, *begin, done);
    if (token->rstrip) *end = spaces_after(text, n, *end);
    if (*begin < *end) return token; /* else the token before took it for white space */
  }
  return NULL;
}
