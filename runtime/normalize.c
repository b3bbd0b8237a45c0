/* runtime/normalize.c: a list of steps over a text. The character map replaces what Hugging Face's `tokenizers`
 * replaces: a whole grapheme of less than six bytes by the text of the shortest entry that it begins with, else each
 * character. */
#include "runtime/normalize.h"

#include "runtime/unicode.h"
#include "runtime/wordpiece.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

typedef enum step_kind { PREPEND, REPLACE, REGEX, STRIP, LOWERCASE, NFC, MAP } step_kind;

typedef struct step {
  step_kind kind;
  char *from, *to; /* owned; from: a map's texts */
  size_t from_length, to_length;
  bool left, right;
  pcre2_code *regex; /* REGEX's, and a map's grapheme */
  uint32_t *trie;
  size_t trie_length;
} step;

struct dp_normalizer {
  step *steps;
  int count;
};

dp_normalizer *dp_normalizer_new(void) { return calloc(1, sizeof(dp_normalizer)); }

void dp_normalizer_free(dp_normalizer *normalizer) {
  for (int i = 0; normalizer && i < normalizer->count; i++) {
    step *s = &normalizer->steps[i];
    free(s->from);
    free(s->to);
    free(s->trie);
    pcre2_code_free(s->regex);
  }
  if (normalizer) free(normalizer->steps);
  free(normalizer);
}

/* ---- steps ------------------------------------------------------------------------------------------------------- */

static dp_status no_memory(void) { return dp_fail(DP_NO_MEMORY, "no memory for a normalizer"); }

/* NULL when memory ran out. */
static step *add_step(dp_normalizer *normalizer, step_kind kind) {
  step *steps = realloc(normalizer->steps, ((size_t)normalizer->count + 1) * sizeof *steps);
  if (!steps) return NULL;
  normalizer->steps = steps;
  steps[normalizer->count] = (step){.kind = kind};
  return &steps[normalizer->count++];
}

static char *copy_of(const char *text, size_t n) {
  char *copy = malloc(n + 1);
  if (!copy) return NULL;
  memcpy(copy, text, n);
  copy[n] = '\0';
  return copy;
}

static dp_status compile(const char *pattern, size_t n, pcre2_code **regex) {
  int error;
  PCRE2_SIZE where;
  *regex = pcre2_compile((PCRE2_SPTR)pattern, n, PCRE2_UTF | PCRE2_UCP | PCRE2_NO_UTF_CHECK, &error, &where, NULL);
  if (!*regex) return dp_fail(DP_INVALID, "the pattern '%.*s' cannot be read", n > 80 ? 80 : (int)n, pattern);
  pcre2_jit_compile(*regex, PCRE2_JIT_COMPLETE);
  return DP_SUCCESS;
}

dp_status dp_normalizer_add_prepend(dp_normalizer *normalizer, const char *text, size_t n) {
  step *s = add_step(normalizer, PREPEND);
  if (!s || !(s->to = copy_of(text, n))) return no_memory();
  s->to_length = n;
  return DP_SUCCESS;
}

static dp_status add_replacement(dp_normalizer *normalizer, step_kind kind, const char *from, size_t from_length,
                                 const char *to, size_t to_length) {
  step *s = add_step(normalizer, kind);
  if (!s || !(s->from = copy_of(from, from_length)) || !(s->to = copy_of(to, to_length))) return no_memory();
  s->from_length = from_length;
  s->to_length = to_length;
  return kind == REGEX ? compile(from, from_length, &s->regex) : DP_SUCCESS;
}

dp_status dp_normalizer_add_replace(dp_normalizer *normalizer, const char *from, size_t from_length, const char *to,
                                    size_t to_length) {
  if (!from_length) return dp_fail(DP_INVALID, "a Replace of nothing");
  return add_replacement(normalizer, REPLACE, from, from_length, to, to_length);
}

dp_status dp_normalizer_add_regex(dp_normalizer *normalizer, const char *pattern, size_t n, const char *to,
                                  size_t to_length) {
  return add_replacement(normalizer, REGEX, pattern, n, to, to_length);
}

dp_status dp_normalizer_add_strip(dp_normalizer *normalizer, bool left, bool right) {
  step *s = add_step(normalizer, STRIP);
  if (!s) return no_memory();
  s->left = left, s->right = right;
  return DP_SUCCESS;
}

dp_status dp_normalizer_add_lowercase(dp_normalizer *normalizer) {
  return add_step(normalizer, LOWERCASE) ? DP_SUCCESS : no_memory();
}

dp_status dp_normalizer_add_nfc(dp_normalizer *normalizer) {
  return add_step(normalizer, NFC) ? DP_SUCCESS : no_memory();
}

/* \X of PCRE2 10.42 takes symbols that follow each other for one. */
#define EXTEND "[\\p{M}\\x{200c}\\x{200d}\\x{ff9e}\\x{ff9f}\\x{1f3fb}-\\x{1f3ff}\\x{e0020}-\\x{e007f}]*+"
static const char grapheme[] = "\\p{Extended_Pictographic}" EXTEND
                               "(?:(?<=\\x{200d})\\p{Extended_Pictographic}" EXTEND ")*+|\\X";

dp_status dp_normalizer_add_map(dp_normalizer *normalizer, const uint8_t *bytes, size_t n) {
  uint32_t trie_bytes = 0;
  if (n >= 4) memcpy(&trie_bytes, bytes, 4);
  if (n < 4 || trie_bytes > n - 4 || trie_bytes % 4 || trie_bytes == 0)
    return dp_fail(DP_INVALID, "a character map of %zu bytes with a trie of %u", n, (unsigned)trie_bytes);
  step *s = add_step(normalizer, MAP);
  if (!s || !(s->trie = malloc(trie_bytes))) return no_memory();
  memcpy(s->trie, bytes + 4, trie_bytes);
  s->trie_length = trie_bytes / 4;
  s->from_length = n - 4 - trie_bytes;
  if (!(s->from = copy_of((const char *)bytes + 4 + trie_bytes, s->from_length))) return no_memory();
  if (dp_utf8_valid_prefix(s->from, s->from_length) < s->from_length)
    return dp_fail(DP_INVALID, "a character map with texts that are no UTF-8");
  return compile(grapheme, strlen(grapheme), &s->regex);
}

/* ---- what they do ------------------------------------------------------------------------------------------------ */

/* A unit of the double array (Darts-clone's format): label, offset to the children, leaf. */
static size_t children_of(uint32_t unit) { return (size_t)(unit >> 10) << ((unit & 1u << 9) >> 6); }

/* The text for the shortest entry that key begins with, or NULL. */
static const char *look_up(const step *s, const char *key, size_t n, size_t *length) {
  size_t node = children_of(s->trie[0]);
  for (size_t i = 0; i < n && key[i]; i++) {
    node ^= (uint8_t)key[i];
    if (node >= s->trie_length || (s->trie[node] & 0x800000ffu) != (uint8_t)key[i]) return NULL;
    uint32_t unit = s->trie[node];
    node ^= children_of(unit);
    if (!(unit >> 8 & 1)) continue;
    size_t at = node < s->trie_length ? s->trie[node] & 0x7fffffffu : SIZE_MAX;
    if (at > s->from_length || (at < s->from_length && ((uint8_t)s->from[at] & 0xc0) == 0x80)) return NULL;
    *length = strlen(s->from + at);
    return s->from + at;
  }
  return NULL;
}

static bool map_one(const step *s, const char *text, size_t n, dp_str *out) {
  size_t length;
  const char *to = look_up(s, text, n, &length);
  if (to) dp_str_addn(out, to, length);
  return to != NULL;
}

static void map_grapheme(const step *s, const char *text, size_t n, dp_str *out) {
  if (n < 6 && map_one(s, text, n, out)) return;
  for (size_t at = 0; at < n;) {
    uint32_t c;
    int step_bytes = dp_utf8_step(text + at, n - at, &c);
    if (step_bytes <= 0) return;
    if (!map_one(s, text + at, (size_t)step_bytes, out)) dp_str_addn(out, text + at, (size_t)step_bytes);
    at += (size_t)step_bytes;
  }
}

static bool is_plain_at(const char *text, size_t n, size_t at) {
  uint8_t c = (uint8_t)text[at], next = at + 1 < n ? (uint8_t)text[at + 1] : 0;
  return c < 0x80 && next < 0x80 && c != '\r';
}

/* These three say whether the text's first character left nothing behind. */
static bool map_all(const step *s, const char *text, size_t n, pcre2_match_data *match, dp_str *out) {
  bool moved = false;
  for (size_t at = 0; at < n;) {
    size_t end = at + 1;
    if (!is_plain_at(text, n, at)) {
      int found = pcre2_match(s->regex, (PCRE2_SPTR)text, n, at, PCRE2_ANCHORED | PCRE2_NO_UTF_CHECK, match, NULL);
      uint32_t c;
      int character = dp_utf8_step(text + at, n - at, &c);
      end = found > 0 ? pcre2_get_ovector_pointer(match)[1] : at + (size_t)(character > 0 ? character : 1);
      if (end <= at) end = at + 1;
    }
    map_grapheme(s, text + at, end - at, out);
    moved = moved || (at == 0 && out->length == 0);
    at = end;
  }
  return moved;
}

static bool replace_literal(const step *s, const char *text, size_t n, dp_str *out) {
  const char *end = text + n, *found;
  bool moved = s->to_length == 0 && n >= s->from_length && memcmp(text, s->from, s->from_length) == 0;
  while ((found = memmem(text, (size_t)(end - text), s->from, s->from_length))) {
    dp_str_addn(out, text, (size_t)(found - text));
    dp_str_addn(out, s->to, s->to_length);
    text = found + s->from_length;
  }
  dp_str_addn(out, text, (size_t)(end - text));
  return moved;
}

static void replace_regex(const step *s, const char *text, size_t n, pcre2_match_data *match, dp_str *out) {
  size_t at = 0, done = 0;
  while (at < n && pcre2_match(s->regex, (PCRE2_SPTR)text, n, at, PCRE2_NO_UTF_CHECK, match, NULL) > 0) {
    const PCRE2_SIZE *range = pcre2_get_ovector_pointer(match);
    if (range[1] <= range[0]) { /* an empty match replaces nothing */
      uint32_t c;
      int character = range[0] < n ? dp_utf8_step(text + range[0], n - range[0], &c) : 0;
      at = range[0] + (size_t)(character > 0 ? character : 1);
      continue;
    }
    dp_str_addn(out, text + done, range[0] - done);
    dp_str_addn(out, s->to, s->to_length);
    at = done = range[1];
  }
  dp_str_addn(out, text + done, n - done);
}

static bool is_space(uint32_t c) {
  return c == ' ' || (c >= 9 && c <= 13) || c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) ||
         c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

static bool strip(const step *s, const char *text, size_t n, dp_str *out) {
  size_t begin = 0, end = n, last = 0;
  bool seen = false;
  uint32_t c;
  for (size_t at = 0; at < n;) {
    int bytes = dp_utf8_step(text + at, n - at, &c);
    if (bytes <= 0) break;
    if (!is_space(c)) {
      if (!seen) begin = at;
      seen = true, last = at + (size_t)bytes;
    }
    at += (size_t)bytes;
  }
  if (!seen) begin = n;
  if (!s->left) begin = 0;
  if (s->right) end = last > begin ? last : begin;
  dp_str_addn(out, text + begin, end - begin);
  return begin > 0;
}

static dp_status run_step(const step *s, const char *text, size_t n, dp_str *out, bool *moved) {
  static const dp_bert_rules lower = {.present = true, .lowercase = true};
  pcre2_match_data *match = s->regex ? pcre2_match_data_create_from_pattern(s->regex, NULL) : NULL;
  if (s->regex && !match) return no_memory();
  dp_status status = DP_SUCCESS;
  switch (s->kind) {
  case PREPEND:
    if (n) dp_str_addn(out, s->to, s->to_length);
    dp_str_addn(out, text, n);
    break;
  case REPLACE:
    *moved = replace_literal(s, text, n, out) || *moved;
    break;
  case REGEX:
    replace_regex(s, text, n, match, out);
    break;
  case STRIP:
    *moved = strip(s, text, n, out) || *moved;
    break;
  case LOWERCASE:
    status = dp_bert_normalize(&lower, text, n, out);
    break;
  case NFC:
    status = dp_nfc(text, n, out);
    break;
  case MAP:
    *moved = map_all(s, text, n, match, out) || *moved;
    break;
  }
  pcre2_match_data_free(match);
  if (status.code == DP_OK && out->failed) return no_memory();
  return status;
}

dp_status dp_normalize(const dp_normalizer *normalizer, const char *text, size_t n, dp_str buffers[2],
                       const char **result, size_t *length, bool *moved) {
  *moved = false;
  for (int i = 0; i < normalizer->count; i++) {
    dp_str *out = &buffers[i % 2];
    dp_str_clear(out);
    DP_TRY(run_step(&normalizer->steps[i], text, n, out, moved));
    text = out->text ? out->text : "";
    n = out->length;
  }
  *result = text;
  *length = n;
  return DP_SUCCESS;
}
