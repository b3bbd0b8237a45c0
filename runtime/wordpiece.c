/* runtime/wordpiece.c: BERT's normalizer, pre-tokenizer, model and decoder, as Hugging Face's `tokenizers` has them. */
#include "runtime/wordpiece.h"

#include "runtime/unicode.h"

#include <string.h>

/* ---- characters -------------------------------------------------------------------------------------------------- */

static unsigned kinds_of(uint32_t c) {
  int low = 0, high = dp_bert_kinds_count;
  while (low < high) {
    int middle = (low + high) / 2;
    if (c > dp_bert_kinds[middle].last) low = middle + 1;
    else if (c < dp_bert_kinds[middle].first) high = middle;
    else return dp_bert_kinds[middle].kinds;
  }
  return 0;
}

static const uint32_t *find_change(const dp_bert_change *table, int count, uint32_t c) {
  int low = 0, high = count;
  while (low < high) {
    int middle = (low + high) / 2;
    if (c > table[middle].from) low = middle + 1;
    else if (c < table[middle].from) high = middle;
    else return table[middle].to;
  }
  return NULL;
}

/* The blocks of ideographs that BERT surrounds with blanks. */
static bool is_chinese(uint32_t c) {
  static const uint32_t blocks[][2] = {{0x4e00, 0x9fff},   {0x3400, 0x4dbf},   {0x20000, 0x2a6df}, {0x2a700, 0x2b73f},
                                       {0x2b740, 0x2b81f}, {0x2b920, 0x2ceaf}, {0xf900, 0xfaff},   {0x2f800, 0x2fa1f}};
  for (size_t i = 0; i < DP_COUNT(blocks); i++)
    if (c >= blocks[i][0] && c <= blocks[i][1]) return true;
  return false;
}

static void put(dp_str *out, uint32_t c) {
  char bytes[4];
  dp_str_addn(out, bytes, (size_t)dp_utf8_put(c, bytes));
}

/* ---- normalization ----------------------------------------------------------------------------------------------- */

static void put_lower(const dp_bert_rules *rules, uint32_t c, dp_str *out) {
  const uint32_t *to = rules->lowercase ? find_change(dp_bert_lower, dp_bert_lower_count, c) : NULL;
  if (!to) put(out, c);
  for (int i = 0; to && i < 3 && to[i]; i++) put(out, to[i]);
}

/* Hangul syllables fall apart by rule (Unicode, 3.12). */
static void put_syllable(const dp_bert_rules *rules, uint32_t c, dp_str *out) {
  uint32_t index = c - 0xac00;
  put_lower(rules, 0x1100 + index / 588, out);
  put_lower(rules, 0x1161 + index % 588 / 28, out);
  if (index % 28) put_lower(rules, 0x11a7 + index % 28, out);
}

static void put_bare(const dp_bert_rules *rules, uint32_t c, dp_str *out) {
  if (!rules->strip_accents || c < 0x80) {
    put_lower(rules, c, out);
  } else if (c >= 0xac00 && c <= 0xd7a3) {
    put_syllable(rules, c, out);
  } else if (!(kinds_of(c) & BERT_MARK)) {
    const uint32_t *to = find_change(dp_bert_bare, dp_bert_bare_count, c);
    if (!to) put_lower(rules, c, out);
    for (int i = 0; to && i < 3 && to[i]; i++) put_lower(rules, to[i], out);
  }
}

dp_status dp_bert_normalize(const dp_bert_rules *rules, const char *text, size_t n, dp_str *out) {
  uint32_t c;
  for (size_t at = 0; at < n;) {
    int step = dp_utf8_step(text + at, n - at, &c);
    if (step <= 0) break;
    at += (size_t)step;
    unsigned kinds = rules->clean_text ? kinds_of(c) : 0;
    if (kinds & BERT_REMOVED) continue;
    if (kinds & BERT_BLANK) c = ' ';
    bool apart = rules->chinese && is_chinese(c);
    if (apart) dp_str_addc(out, ' ');
    put_bare(rules, c, out);
    if (apart) dp_str_addc(out, ' ');
  }
  return out->failed ? dp_fail(DP_NO_MEMORY, "no memory to normalize %zu bytes", n) : DP_SUCCESS;
}

/* ---- words ------------------------------------------------------------------------------------------------------- */

dp_status dp_bert_split(const char *text, size_t n, dp_bert_word *word, void *context) {
  size_t begin = 0;
  uint32_t c;
  for (size_t at = 0; at < n;) {
    int step = dp_utf8_step(text + at, n - at, &c);
    if (step <= 0) step = 1;
    unsigned kinds = kinds_of(c);
    size_t end = at + (size_t)step;
    if (kinds & (BERT_SPACE | BERT_PUNCTUATION)) {
      if (begin < at) DP_TRY(word(context, text + begin, at - begin));
      if (kinds & BERT_PUNCTUATION) DP_TRY(word(context, text + at, (size_t)step));
      begin = end;
    }
    at = end;
  }
  return begin < n ? word(context, text + begin, n - begin) : DP_SUCCESS;
}

static bool continues(char byte) { return ((unsigned char)byte & 0xc0) == 0x80; }

/* The longest token at word[at..n); 0 when there is none. */
static size_t longest(const dp_wordpiece *model, const dp_bpe *vocabulary, const char *word, size_t at, size_t n,
                      dp_str *scratch, int32_t *id) {
  size_t prefix = at ? model->prefix_length : 0;
  dp_str_clear(scratch);
  dp_str_addn(scratch, model->prefix, prefix);
  dp_str_addn(scratch, word + at, n - at);
  if (scratch->failed) return 0;
  for (size_t length = n - at; length; length--) {
    if (at + length < n && continues(word[at + length])) continue;
    *id = dp_bpe_find(vocabulary, scratch->text, prefix + length);
    if (*id >= 0) return length;
  }
  return 0;
}

dp_status dp_wordpiece_encode(const dp_wordpiece *model, const dp_bpe *vocabulary, const char *word, size_t n,
                              dp_str *scratch, dp_ids *out) {
  size_t first = out->count;
  int64_t characters = 0;
  for (size_t i = 0; i < n; i++) characters += !continues(word[i]);
  bool known = characters <= model->most_characters;
  for (size_t at = 0, length; known && at < n; at += length) {
    int32_t id = -1;
    length = longest(model, vocabulary, word, at, n, scratch, &id);
    if (scratch->failed) return dp_fail(DP_NO_MEMORY, "no memory for a word of %zu bytes", n);
    known = length > 0;
    if (!known) break;
    DP_TRY(dp_ids_reserve(out, 1));
    out->items[out->count++] = id;
  }
  if (known) return DP_SUCCESS;
  out->count = first;
  DP_TRY(dp_ids_reserve(out, 1));
  out->items[out->count++] = model->unknown;
  return DP_SUCCESS;
}

/* ---- decoding ---------------------------------------------------------------------------------------------------- */

/* What English text has no blank before. */
static void clean_up(dp_str *token) {
  static const char *const changes[][2] = {{" .", "."},     {" ?", "?"},     {" !", "!"},          {" ,", ","},
                                           {" ' ", "'"},    {" n't", "n't"}, {" 'm", "'m"},        {" do not", " don't"},
                                           {" 's", "'s"},   {" 've", "'ve"}, {" 're", "'re"}};
  for (size_t i = 0; i < DP_COUNT(changes); i++) {
    size_t from = strlen(changes[i][0]), to = strlen(changes[i][1]), at = 0;
    for (char *found; at < token->length && (found = strstr(token->text + at, changes[i][0]));) {
      at = (size_t)(found - token->text);
      memcpy(found, changes[i][1], to); /* never longer */
      memmove(found + to, found + from, token->length - at - from + 1);
      token->length -= from - to;
      at += to;
    }
  }
}

void dp_wordpiece_show(const dp_wordpiece *model, const char *token, size_t n, bool first, bool cleanup, dp_str *out) {
  dp_str text = {0};
  bool inside = n >= model->prefix_length && memcmp(token, model->prefix, model->prefix_length) == 0;
  if (!first && inside) token += model->prefix_length, n -= model->prefix_length;
  else if (!first) dp_str_addc(&text, ' ');
  dp_str_addn(&text, token, n);
  if (cleanup && text.text && !text.failed) clean_up(&text);
  if (text.text) dp_str_addn(out, text.text, text.length);
  out->failed |= text.failed;
  dp_str_free(&text);
}
