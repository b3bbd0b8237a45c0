/* tests/test_tokenizer.c: text to ids and back, over a small byte-level vocabulary made here: 256 bytes, some merges,
 * a few special tokens. Agreement with Hugging Face over a real vocabulary is measured in tests/golden. */
#include "runtime/runtime.h"

#include <check.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- a vocabulary -------------------------------------------------------------------------------------------------
 */

enum { MAX_TOKENS = 2048, MAX_MERGES = 1024 };

typedef struct vocabulary {
  dp_arena *arena;
  const char *tokens[MAX_TOKENS];
  int32_t types[MAX_TOKENS];
  int count;
  const char *merges[MAX_MERGES];
  int merge_count;
} vocabulary;

/* The letter that stands for a byte in GPT-2's vocabularies. */
static const char *byte_letter(dp_arena *arena, int byte) {
  int code = byte, others = 0;
  for (int b = 0; b <= byte; b++) {
    bool printable = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
    if (!printable && b == byte) code = 0x100 + others;
    others += !printable;
  }
  if (code < 0x80) return dp_arena_printf(arena, "%c", code);
  return dp_arena_printf(arena, "%c%c", 0xC0 | code >> 6, 0x80 | (code & 0x3F));
}

static int add_token(vocabulary *v, const char *text, int type) {
  v->tokens[v->count] = text;
  v->types[v->count] = type;
  return v->count++;
}

/* A merge, and the token it makes, unless that is there already. */
static void add_merge(vocabulary *v, const char *left, const char *right) {
  const char *joined = dp_arena_printf(v->arena, "%s%s", left, right);
  v->merges[v->merge_count++] = dp_arena_printf(v->arena, "%s %s", left, right);
  for (int i = 0; i < v->count; i++)
    if (strcmp(v->tokens[i], joined) == 0) return;
  add_token(v, joined, DP_TOKEN_NORMAL);
}

/* Ids 0..255 are the bytes. */
static vocabulary *bytes_only(void) {
  dp_arena *arena = dp_arena_new();
  vocabulary *v = DP_NEW(arena, vocabulary);
  v->arena = arena;
  for (int b = 0; b < 256; b++) add_token(v, byte_letter(arena, b), DP_TOKEN_NORMAL);
  return v;
}

static vocabulary *english(void) {
  vocabulary *v = bytes_only();
  static const char *const pairs[][2] = {{"h", "e"},   {"l", "l"},   {"he", "ll"}, {"hell", "o"},  {"Ġ", "w"},
                                         {"o", "r"},   {"Ġw", "or"}, {"l", "d"},   {"Ġwor", "ld"}, {"1", "2"},
                                         {"12", "3"},  {"123", "4"}, {"Ã", "©"},   {"Ġ", "Ġ"},     {"a", "a"},
                                         {"aa", "aa"}, {"ð", "Ł"},   {"Ċ", "Ċ"},   {"'", "s"}};
  for (size_t i = 0; i < DP_COUNT(pairs); i++) add_merge(v, pairs[i][0], pairs[i][1]);
  add_token(v, "<|im_start|>", DP_TOKEN_CONTROL);
  add_token(v, "<|im_end|>", DP_TOKEN_CONTROL);
  add_token(v, "<tool>", DP_TOKEN_USER_DEFINED);
  add_token(v, "<tool>s", DP_TOKEN_USER_DEFINED);
  add_token(v, "\xE2\x96\x81 x", DP_TOKEN_USER_DEFINED);
  return v;
}

static dp_tokenizer_spec spec_of(const vocabulary *v, const char *pre) {
  return (dp_tokenizer_spec){.model = "gpt2",
                             .pre = pre,
                             .vocab_size = v->count,
                             .tokens = v->tokens,
                             .token_types = v->types,
                             .merge_count = v->merge_count,
                             .merges = v->merges,
                             .bos = -1,
                             .eos = -1,
                             .eot = -1,
                             .unknown = -1,
                             .pad = -1};
}

static void expect_ok(dp_status status) { ck_assert_msg(status.code == DP_OK, "%s", dp_status_text(&status)); }

static void expect_failure(dp_status status, dp_code code, const char *words) {
  ck_assert_msg(status.code == code && strstr(dp_status_text(&status), words), "expected code %d with '%s', got %d: %s",
                code, words, status.code, dp_status_text(&status));
  dp_status_free(&status);
}

/* Frees the vocabulary. */
static dp_tokenizer *open_tokenizer(vocabulary *v, const char *pre) {
  dp_tokenizer *tokenizer = NULL;
  dp_tokenizer_spec spec = spec_of(v, pre);
  expect_ok(dp_tokenizer_new(&spec, &tokenizer));
  dp_arena_free(v->arena);
  return tokenizer;
}

static void expect_refusal(vocabulary *v, dp_tokenizer_spec spec, dp_code code, const char *words) {
  dp_tokenizer *tokenizer = (dp_tokenizer *)v;
  expect_failure(dp_tokenizer_new(&spec, &tokenizer), code, words);
  ck_assert_ptr_null(tokenizer);
}

/* The texts of the ids, with '|' between. */
static void expect_pieces(const dp_tokenizer *tokenizer, const char *text, size_t n, bool special, const char *wanted) {
  dp_ids ids = {0};
  dp_str pieces = {0};
  expect_ok(dp_tokenizer_encode(tokenizer, text, n, special, &ids));
  for (size_t i = 0; i < ids.count; i++) {
    size_t length;
    const char *piece = dp_token_text(tokenizer, ids.items[i], &length);
    if (i) dp_str_addc(&pieces, '|');
    dp_str_addn(&pieces, piece, length);
  }
  ck_assert_str_eq(pieces.text ? pieces.text : "", wanted);
  dp_str_free(&pieces);
  dp_ids_free(&ids);
}

static void expect_split(const char *pre, const char *text, const char *wanted) {
  dp_tokenizer *tokenizer = open_tokenizer(english(), pre);
  expect_pieces(tokenizer, text, strlen(text), false, wanted);
  dp_tokenizer_free(tokenizer);
}

static uint32_t random_below(uint64_t *state, uint32_t n) {
  *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
  return (uint32_t)((*state >> 33) % n);
}

/* ---- encoding -----------------------------------------------------------------------------------------------------
 */

START_TEST(pairs_merge_by_rank_then_from_the_left) {
  dp_tokenizer *tokenizer = open_tokenizer(english(), "gpt-2");
  expect_pieces(tokenizer, "hello world", 11, false, "hello| world");
  expect_pieces(tokenizer, "held", 4, false, "he|ld");
  expect_pieces(tokenizer, "aaaaaaa", 7, false, "aaaa|aa|a");
  expect_pieces(tokenizer, "", 0, false, "");
  dp_tokenizer_free(tokenizer);
}
END_TEST

/* Merges the best pair, again and again, looking at all pairs each time. */
static size_t merge_plainly(const vocabulary *v, int32_t *symbols, size_t n) {
  for (;;) {
    int best = v->merge_count;
    size_t at = 0;
    for (size_t i = 0; i + 1 < n; i++)
      for (int m = 0; m < best; m++) {
        const char *space = strchr(v->merges[m] + 1, ' ');
        const char *left = v->tokens[symbols[i]], *right = v->tokens[symbols[i + 1]];
        if (strlen(left) == (size_t)(space - v->merges[m]) && strncmp(left, v->merges[m], strlen(left)) == 0 &&
            strcmp(right, space + 1) == 0) {
          best = m;
          at = i;
        }
      }
    if (best == v->merge_count) return n;
    char joined[256];
    snprintf(joined, sizeof joined, "%s%s", v->tokens[symbols[at]], v->tokens[symbols[at + 1]]);
    int id = 0;
    while (strcmp(v->tokens[id], joined) != 0) id++;
    symbols[at] = id;
    memmove(symbols + at + 1, symbols + at + 2, (n - at - 2) * sizeof *symbols);
    n--;
  }
}

/* Words short and long: both ways of merging. */
START_TEST(merging_equals_the_plain_way_on_random_words) {
  uint64_t seed = (uint64_t)_i + 1;
  vocabulary *v = bytes_only();
  for (int m = 0; m < 60; m++) {
    const char *parts[2];
    for (int k = 0; k < 2; k++) {
      uint32_t pick = random_below(&seed, 6 + (uint32_t)v->merge_count);
      parts[k] = pick < 6 ? v->tokens['a' + pick]
                          : v->tokens[256 + random_below(&seed, (uint32_t)v->count - 255) %
                                                (uint32_t)(v->count > 256 ? v->count - 256 : 1)];
      if (strlen(parts[k]) > 12) parts[k] = v->tokens['a'];
    }
    bool known = false;
    const char *merge = dp_arena_printf(v->arena, "%s %s", parts[0], parts[1]);
    for (int k = 0; k < v->merge_count; k++) known |= strcmp(v->merges[k], merge) == 0;
    if (!known) add_merge(v, parts[0], parts[1]);
  }
  dp_tokenizer *tokenizer;
  dp_tokenizer_spec spec = spec_of(v, "gpt-2");
  expect_ok(dp_tokenizer_new(&spec, &tokenizer));
  for (int round = 0; round < 60; round++) {
    char word[200];
    int32_t symbols[200];
    size_t n = 1 + random_below(&seed, round % 2 ? 199 : 48);
    for (size_t i = 0; i < n; i++) symbols[i] = word[i] = (char)('a' + random_below(&seed, 6));
    dp_ids ids = {0};
    expect_ok(dp_tokenizer_encode(tokenizer, word, n, false, &ids));
    size_t count = merge_plainly(v, symbols, n);
    ck_assert_uint_eq(ids.count, count);
    for (size_t i = 0; i < count; i++)
      ck_assert_msg(ids.items[i] == symbols[i], "id %zu of '%.*s' is %d, not %d", i, (int)n, word, ids.items[i],
                    symbols[i]);
    dp_ids_free(&ids);
  }
  dp_tokenizer_free(tokenizer);
  dp_arena_free(v->arena);
}
END_TEST

/* Quadratic merging would take minutes. */
START_TEST(a_word_of_a_million_letters_is_encoded) {
  dp_tokenizer *tokenizer = open_tokenizer(english(), "gpt-2");
  size_t n = 1000000;
  char *word = malloc(n);
  memset(word, 'a', n);
  dp_ids ids = {0};
  expect_ok(dp_tokenizer_encode(tokenizer, word, n, false, &ids));
  ck_assert_uint_eq(ids.count, n / 4);
  dp_ids_free(&ids);
  free(word);
  dp_tokenizer_free(tokenizer);
}
END_TEST

START_TEST(words_are_cut_as_the_pre_tokenizer_says) {
  expect_split("smollm", "1234", "1|2|3|4");
  expect_split("gpt-2", "1234", "1234");
  expect_split("llama-bpe", "1234", "123|4");
  expect_split("qwen2", "1234", "1|2|3|4");
  expect_split("smollm", "hello  world", "hello| | world");
  expect_split("smollm", "   1", "  | |1");
}
END_TEST

START_TEST(white_space_before_a_digit_stays_whole_only_where_digits_split_first) {
  expect_split("smollm", "a  1", "a|  |1");
  expect_split("gpt-2", "a  1", "a| | |1");
}
END_TEST

START_TEST(contractions_are_words_in_any_case_only_for_llama) {
  expect_split("gpt-2", "a's", "a|'s");
  expect_split("gpt-2", "\n\nhe", "\n|\n|he");
  expect_split("llama-bpe", "\n\nhe", "\n\n|he");
}
END_TEST

/* The Mongolian vowel separator is no white space, U+1F800 is a symbol, U+11DE0 a digit of Unicode 17. */
START_TEST(white_space_and_digits_are_unicode_s_own) {
  expect_split("gpt-2", "\xE1\xA0\x8E\xE1\xA0\x8Ehe", "\xE1|\xA0|\x8E|\xE1|\xA0|\x8E|he");
  expect_split("smollm", "  \xF0\x91\xB7\xA0", "  |\xF0|\x91|\xB7|\xA0");
}
END_TEST

START_TEST(qwen_reads_decomposed_letters_as_composed_ones) {
  expect_split("qwen2", "e\xCC\x81", "\xC3\xA9");
  expect_split("gpt-2", "e\xCC\x81", "e|\xCC|\x81");
  /* marks in their canonical order, Hangul composed, a singleton replaced */
  expect_split("qwen2", "a\xCC\x87\xCC\xA3", "\xE1|\xBA|\xA1|\xCC|\x87");
  expect_split("qwen2", "\xE1\x84\x92\xE1\x85\xA1\xE1\x86\xAB", "\xED|\x95|\x9C");
  expect_split("qwen2", "\xE2\x84\xAB", "\xC3|\x85");
}
END_TEST

START_TEST(a_byte_without_a_token_vanishes_and_its_neighbours_meet) {
  vocabulary *v = english();
  v->tokens['x'] = "unused-x";
  v->types['x'] = DP_TOKEN_UNUSED;
  dp_tokenizer *tokenizer = open_tokenizer(v, "gpt-2");
  expect_pieces(tokenizer, "hxello", 6, false, "hello");
  expect_pieces(tokenizer, "xxx", 3, false, "");
  dp_tokenizer_free(tokenizer);
}
END_TEST

START_TEST(special_tokens_are_read_only_when_asked_for) {
  dp_tokenizer *tokenizer = open_tokenizer(english(), "gpt-2");
  const char *text = "hello<|im_end|>";
  expect_pieces(tokenizer, text, strlen(text), true, "hello|<|im_end|>");
  dp_ids ids = {0};
  expect_ok(dp_tokenizer_encode(tokenizer, text, strlen(text), true, &ids));
  ck_assert_uint_eq(ids.count, 2);
  expect_ok(dp_tokenizer_encode(tokenizer, text, strlen(text), false, &ids)); /* appends */
  ck_assert_uint_eq(ids.count, 2 + 1 + 10);
  dp_ids_free(&ids);
  dp_tokenizer_free(tokenizer);
}
END_TEST

START_TEST(user_defined_tokens_are_always_read_the_longest_first) {
  dp_tokenizer *tokenizer = open_tokenizer(english(), "gpt-2");
  expect_pieces(tokenizer, "<tool>he<tool>s<tool", 20, false, "<tool>|he|<tool>s|<|t|o|o|l");
  expect_pieces(tokenizer, "a\xE2\x96\x81 xhe", 8, false, "a|\xE2\x96\x81 x|he");
  dp_tokenizer_free(tokenizer);
}
END_TEST

/* What Python's bytes.decode(errors="replace") makes of it; '?' stands for U+FFFD. */
START_TEST(malformed_utf8_reads_as_python_reads_it) {
  static const char *const cases[][2] = {
      {"a\xFFz", "a?z"},
      {"\x80\x80", "??"},
      {"\xC0\xAF", "??"},
      {"\xE2\x82", "?"},
      {"\xE2\x82z", "?z"},
      {"\xF0\x9F\x98", "?"},
      {"\xF0\x9F\x98\xF0", "??"},
      {"\xED\xA0\x80", "???"},
      {"\xF4\x90\x80\x80", "????"},
      {"\xF0\x80\x80\x80", "????"},
      {"\xE0\x80\x80", "???"},
      {"\xC3\xA9\xC3", "e?"},
      {"\xF5\x80", "??"},
      {"\xE2\xE2\x82\xAC", "?E"},
  };
  dp_tokenizer *tokenizer = open_tokenizer(bytes_only(), "gpt-2");
  for (size_t i = 0; i < DP_COUNT(cases); i++) {
    dp_str wanted = {0}, decoded = {0};
    for (const char *c = cases[i][1]; *c; c++)
      dp_str_add(&wanted, *c == '?'   ? "\xEF\xBF\xBD"
                          : *c == 'e' ? "\xC3\xA9"
                          : *c == 'E' ? "\xE2\x82\xAC"
                                      : (char[]){*c, 0});
    dp_ids ids = {0};
    expect_ok(dp_tokenizer_encode(tokenizer, cases[i][0], strlen(cases[i][0]), false, &ids));
    expect_ok(dp_tokenizer_decode(tokenizer, ids.items, ids.count, true, &decoded));
    ck_assert_str_eq(decoded.text, wanted.text);
    dp_ids_free(&ids);
    dp_str_free(&wanted);
    dp_str_free(&decoded);
  }
  dp_tokenizer_free(tokenizer);
}
END_TEST

static void add_random_character(uint64_t *seed, dp_str *text) {
  static const char *const pieces[] = {"hello",        " ",  "\n", "12",   "\xC3\xA9",     "\xF0\x9F\x98\x80",
                                       "\xE4\xB8\xAD", "'s", "<t", "aaaa", "\xEF\xBB\xBF", "\xCC\x81",
                                       "\xE3\x80\x80", "\t"};
  dp_str_add(text, pieces[random_below(seed, DP_COUNT(pieces))]);
}

START_TEST(decoding_gives_the_text_back) {
  static const char *const pres[] = {"smollm", "gpt-2", "llama-bpe", "gpt-4o", "tekken", "falcon", "default"};
  dp_tokenizer *tokenizer = open_tokenizer(english(), pres[_i]);
  uint64_t seed = 7;
  for (int round = 0; round < 300; round++) {
    dp_str text = {0}, decoded = {0};
    dp_ids ids = {0};
    for (uint32_t n = 1 + random_below(&seed, 60); n; n--) add_random_character(&seed, &text);
    expect_ok(dp_tokenizer_encode(tokenizer, text.text, text.length, true, &ids));
    expect_ok(dp_tokenizer_decode(tokenizer, ids.items, ids.count, true, &decoded));
    ck_assert_str_eq(decoded.text, text.text);
    dp_ids_free(&ids);
    dp_str_free(&text);
    dp_str_free(&decoded);
  }
  dp_tokenizer_free(tokenizer);
}
END_TEST

typedef struct encoder {
  const dp_tokenizer *tokenizer;
  const dp_str *text;
  dp_ids ids;
  dp_status status;
} encoder;

static void *encode_many_times(void *argument) {
  encoder *e = argument;
  for (int i = 0; i < 20 && e->status.code == DP_OK; i++) {
    e->ids.count = 0;
    e->status = dp_tokenizer_encode(e->tokenizer, e->text->text, e->text->length, true, &e->ids);
  }
  return NULL;
}

START_TEST(two_threads_encode_alike_with_one_tokenizer) {
  dp_tokenizer *tokenizer = open_tokenizer(english(), "smollm");
  dp_str text = {0};
  uint64_t seed = 11;
  for (int i = 0; i < 3000; i++) add_random_character(&seed, &text);
  encoder encoders[2] = {{tokenizer, &text, {0}, DP_SUCCESS}, {tokenizer, &text, {0}, DP_SUCCESS}};
  pthread_t threads[2];
  for (int i = 0; i < 2; i++) ck_assert_int_eq(pthread_create(&threads[i], NULL, encode_many_times, &encoders[i]), 0);
  for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
  expect_ok(encoders[0].status);
  expect_ok(encoders[1].status);
  ck_assert_uint_eq(encoders[0].ids.count, encoders[1].ids.count);
  ck_assert_mem_eq(encoders[0].ids.items, encoders[1].ids.items, encoders[0].ids.count * sizeof(int32_t));
  for (int i = 0; i < 2; i++) dp_ids_free(&encoders[i].ids);
  dp_str_free(&text);
  dp_tokenizer_free(tokenizer);
}
END_TEST

/* ---- decoding -----------------------------------------------------------------------------------------------------
 */

static void expect_whole_characters(const dp_str *text, size_t from) {
  for (size_t at = from; at < text->length;) {
    uint8_t lead = (uint8_t)text->text[at];
    size_t n = lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    ck_assert_msg(lead < 0x80 || lead >= 0xC2, "byte %zu does not begin a character", at);
    ck_assert_uint_le(at + n, text->length);
    at += n;
  }
}

/* The reference for a whole text at once: encoding repairs it, and bytes decode to themselves. */
static void repair(const dp_tokenizer *bytes, const dp_str *text, dp_str *out) {
  dp_ids ids = {0};
  expect_ok(dp_tokenizer_encode(bytes, text->text ? text->text : "", text->length, false, &ids));
  expect_ok(dp_tokenizer_decode(bytes, ids.items, ids.count, true, out));
  dp_ids_free(&ids);
}

START_TEST(stream_never_splits_a_utf8_character) {
  dp_tokenizer *tokenizer = open_tokenizer(english(), "smollm"), *bytes = open_tokenizer(bytes_only(), "gpt-2");
  uint64_t seed = 3;
  for (int round = 0; round < 500; round++) {
    dp_str streamed = {0}, decoded = {0}, wanted = {0};
    dp_stream_decoder decoder = dp_stream_decoder_new(tokenizer, true);
    for (int i = 0; i < 40; i++) {
      static const uint8_t bytes_of_note[] = {0xF0, 0x9F, 0x98, 0x80, 0xC3, 0xA9, 0xE2,
                                              0x82, 0xAC, 0xED, 0xA0, 0xFF, 'a'};
      int32_t id = random_below(&seed, 4) ? bytes_of_note[random_below(&seed, sizeof bytes_of_note)]
                                          : (int32_t)random_below(&seed, (uint32_t)dp_tokenizer_size(tokenizer));
      size_t before = streamed.length;
      expect_ok(dp_stream_decoder_push(&decoder, id, &streamed));
      expect_whole_characters(&streamed, before);
      expect_ok(dp_tokenizer_decode(tokenizer, &id, 1, true, &decoded));
    }
    expect_ok(dp_stream_decoder_flush(&decoder, &streamed));
    repair(bytes, &decoded, &wanted);
    ck_assert_uint_eq(streamed.length, wanted.length);
    ck_assert_mem_eq(streamed.text, wanted.text, wanted.length);
    dp_str_free(&streamed);
    dp_str_free(&decoded);
    dp_str_free(&wanted);
  }
  dp_tokenizer_free(bytes);
  dp_tokenizer_free(tokenizer);
}
END_TEST

START_TEST(stream_gives_a_character_with_its_last_byte) {
  dp_tokenizer *tokenizer = open_tokenizer(bytes_only(), "smollm");
  dp_stream_decoder decoder = dp_stream_decoder_new(tokenizer, true);
  dp_str text = {0};
  static const int32_t grin[] = {0xF0, 0x9F, 0x98, 0x80};
  for (int i = 0; i < 3; i++) {
    expect_ok(dp_stream_decoder_push(&decoder, grin[i], &text));
    ck_assert_uint_eq(text.length, 0);
  }
  expect_ok(dp_stream_decoder_push(&decoder, grin[3], &text));
  ck_assert_str_eq(text.text, "\xF0\x9F\x98\x80");
  expect_ok(dp_stream_decoder_push(&decoder, grin[0], &text));
  expect_ok(dp_stream_decoder_flush(&decoder, &text));
  ck_assert_str_eq(text.text, "\xF0\x9F\x98\x80\xEF\xBF\xBD");
  dp_str_free(&text);
  dp_tokenizer_free(tokenizer);
}
END_TEST

START_TEST(special_tokens_are_shown_only_when_asked_for) {
  dp_tokenizer *tokenizer = open_tokenizer(english(), "smollm");
  int32_t ids[] = {'h', dp_tokenizer_find(tokenizer, "<|im_end|>", 10), dp_tokenizer_find(tokenizer, "<tool>", 6), 'i'};
  dp_str shown = {0}, hidden = {0}, streamed = {0};
  expect_ok(dp_tokenizer_decode(tokenizer, ids, 4, true, &shown));
  expect_ok(dp_tokenizer_decode(tokenizer, ids, 4, false, &hidden));
  dp_stream_decoder decoder = dp_stream_decoder_new(tokenizer, false);
  for (int i = 0; i < 4; i++) expect_ok(dp_stream_decoder_push(&decoder, ids[i], &streamed));
  ck_assert_str_eq(shown.text, "h<|im_end|><tool>i");
  ck_assert_str_eq(hidden.text, "h<tool>i");
  ck_assert_str_eq(streamed.text, "h<tool>i");
  dp_str_free(&shown);
  dp_str_free(&hidden);
  dp_str_free(&streamed);
  dp_tokenizer_free(tokenizer);
}
END_TEST

START_TEST(an_id_out_of_range_is_an_error) {
  dp_tokenizer *tokenizer = open_tokenizer(english(), "smollm");
  int32_t bad[] = {-1, dp_tokenizer_size(tokenizer), INT32_MAX, INT32_MIN};
  dp_stream_decoder decoder = dp_stream_decoder_new(tokenizer, true);
  dp_str text = {0};
  for (size_t i = 0; i < DP_COUNT(bad); i++) {
    expect_failure(dp_tokenizer_decode(tokenizer, &bad[i], 1, true, &text), DP_INVALID, "there is no token");
    expect_failure(dp_stream_decoder_push(&decoder, bad[i], &text), DP_INVALID, "there is no token");
    expect_failure(dp_tokenizer_add_end(tokenizer, bad[i]), DP_INVALID, "there is no token");
    ck_assert_ptr_null(dp_token_text(tokenizer, bad[i], NULL));
    ck_assert(!dp_tokenizer_is_end(tokenizer, bad[i]));
    ck_assert(!dp_token_is_special(tokenizer, bad[i]));
  }
  dp_str_free(&text);
  dp_tokenizer_free(tokenizer);
}
END_TEST

START_TEST(a_token_s_text_ends_with_a_nul) {
  dp_tokenizer *tokenizer = open_tokenizer(english(), "smollm");
  for (int id = 0; id < dp_tokenizer_size(tokenizer); id++) {
    size_t n;
    const char *text = dp_token_text(tokenizer, id, &n);
    ck_assert_int_eq(text[n], 0);
    ck_assert_int_eq(dp_tokenizer_find(tokenizer, text, n), id);
  }
  dp_tokenizer_free(tokenizer);
}
END_TEST

START_TEST(the_ends_are_eos_eot_and_the_known_names) {
  vocabulary *v = english();
  dp_tokenizer_spec spec = spec_of(v, "smollm");
  spec.eos = 'e';
  spec.eot = 't';
  spec.bos = 'b';
  spec.add_bos = true;
  dp_tokenizer *tokenizer;
  expect_ok(dp_tokenizer_new(&spec, &tokenizer));
  dp_arena_free(v->arena);
  ck_assert(dp_tokenizer_is_end(tokenizer, 'e'));
  ck_assert(dp_tokenizer_is_end(tokenizer, 't'));
  ck_assert(dp_tokenizer_is_end(tokenizer, dp_tokenizer_find(tokenizer, "<|im_end|>", 10)));
  ck_assert(!dp_tokenizer_is_end(tokenizer, dp_tokenizer_find(tokenizer, "<|im_start|>", 12)));
  ck_assert(!dp_tokenizer_is_end(tokenizer, 'b'));
  expect_ok(dp_tokenizer_add_end(tokenizer, 'b'));
  ck_assert(dp_tokenizer_is_end(tokenizer, 'b'));
  dp_token_specials specials = dp_tokenizer_specials(tokenizer);
  ck_assert(specials.bos == 'b' && specials.eos == 'e' && specials.eot == 't' && specials.pad == -1);
  ck_assert(specials.add_bos && !specials.add_eos);
  dp_tokenizer_free(tokenizer);
}
END_TEST

/* ---- what is refused ----------------------------------------------------------------------------------------------
 */

START_TEST(an_unknown_pre_tokenizer_is_refused_with_the_known_ones) {
  vocabulary *v = english();
  static const char *const names[] = {"nonsense", "", "smoll", "smollm starcoder", " "};
  for (size_t i = 0; i < DP_COUNT(names); i++) expect_refusal(v, spec_of(v, names[i]), DP_UNSUPPORTED, "smollm");
  expect_refusal(v, spec_of(v, "nonsense"), DP_UNSUPPORTED, "nonsense");
  dp_arena_free(v->arena);
}
END_TEST

START_TEST(a_model_that_is_no_byte_level_bpe_is_refused) {
  vocabulary *v = english();
  dp_tokenizer_spec spec = spec_of(v, "smollm");
  spec.model = "plamo2";
  expect_refusal(v, spec, DP_UNSUPPORTED, "plamo2");
  spec.model = NULL;
  expect_refusal(v, spec, DP_UNSUPPORTED, "not handled");
  spec = spec_of(v, "smollm");
  for (int i = 0; i < v->count; i++) v->tokens[i] = dp_arena_printf(v->arena, "word%d", i);
  spec.merge_count = 0;
  expect_refusal(v, spec, DP_INVALID, "single-byte");
  dp_arena_free(v->arena);
}
END_TEST

START_TEST(damaged_metadata_is_refused) {
  vocabulary *v = english();
  dp_tokenizer_spec spec = spec_of(v, "smollm");
  spec.vocab_size = 0;
  expect_refusal(v, spec, DP_INVALID, "no vocabulary");
  spec.vocab_size = -5;
  expect_refusal(v, spec, DP_INVALID, "no vocabulary");
  spec = spec_of(v, "smollm");
  spec.merge_count = -1;
  expect_refusal(v, spec, DP_INVALID, "no merges");
  spec = spec_of(v, "smollm");
  spec.eos = v->count;
  expect_refusal(v, spec, DP_INVALID, "eos");
  spec.eos = -7;
  expect_refusal(v, spec, DP_INVALID, "eos");
  static const char *const merges[][2] = {{"nospace", "two tokens"},   {"", "two tokens"},        {" ", "two tokens"},
                                          {"h zzz", "the right one"},  {"zzz h", "the left one"}, {"h h", "joint"},
                                          {"h \xFF", "the right one"}, {"h  ", "the right one"}};
  for (size_t i = 0; i < DP_COUNT(merges); i++) {
    const char *kept = v->merges[3];
    v->merges[3] = merges[i][0];
    expect_refusal(v, spec_of(v, "smollm"), DP_INVALID, merges[i][1]);
    v->merges[3] = kept;
  }
  v->tokens[260] = v->tokens['q'];
  expect_refusal(v, spec_of(v, "smollm"), DP_INVALID, "same text");
  v->tokens[260] = NULL;
  expect_refusal(v, spec_of(v, "smollm"), DP_INVALID, "no text");
  dp_arena_free(v->arena);
}
END_TEST

START_TEST(two_special_tokens_of_one_text_are_refused) {
  vocabulary *v = english();
  add_token(v, "<|im_end|>", DP_TOKEN_CONTROL);
  expect_refusal(v, spec_of(v, "smollm"), DP_INVALID, "same text");
  dp_arena_free(v->arena);
}
END_TEST

/* ---- tokenizer.json -----------------------------------------------------------------------------------------------
 */

static dp_status open_json(const char *text, size_t n, dp_tokenizer **out) {
  char path[] = "/tmp/dipper-tokenizer-XXXXXX";
  int file = mkstemp(path);
  ck_assert_int_ge(file, 0);
  ck_assert_int_eq(write(file, text, n), (ssize_t)n);
  close(file);
  dp_status status = dp_tokenizer_from_json(path, out);
  unlink(path);
  return status;
}

static void add_json_text(dp_str *out, const char *text) {
  dp_str_addc(out, '"');
  for (; *text; text++) {
    if (*text == '"' || *text == '\\') dp_str_addc(out, '\\');
    dp_str_addc(out, *text);
  }
  dp_str_addc(out, '"');
}

static const char plain_parts[] =
    "\"normalizer\":null,\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,"
    "\"trim_offsets\":true,\"use_regex\":true},\"post_processor\":null,\"decoder\":"
    "{\"type\":\"ByteLevel\"}";

/* A tokenizer.json of the vocabulary, with the parts and the added tokens given. */
static char *json_of(const vocabulary *v, const char *parts, const char *added, bool merges_as_pairs) {
  dp_str out = {0};
  dp_str_addf(&out,
              "{\"version\":\"1.0\",\"added_tokens\":[%s],%s,\"model\":{\"type\":\"BPE\",\"dropout\":null,"
              "\"unk_token\":null,\"vocab\":{",
              added, parts);
  for (int i = 0, n = 0; i < v->count; i++) {
    if (v->types[i] != DP_TOKEN_NORMAL) continue;
    if (n++) dp_str_addc(&out, ',');
    add_json_text(&out, v->tokens[i]);
    dp_str_addf(&out, ":%d", i);
  }
  dp_str_add(&out, "},\"merges\":[");
  for (int i = 0; i < v->merge_count; i++) {
    if (i) dp_str_addc(&out, ',');
    if (merges_as_pairs) {
      const char *space = strchr(v->merges[i] + 1, ' ');
      dp_str_addc(&out, '[');
      add_json_text(&out, dp_arena_strndup(v->arena, v->merges[i], (size_t)(space - v->merges[i])));
      dp_str_addc(&out, ',');
      add_json_text(&out, space + 1);
      dp_str_addc(&out, ']');
    } else {
      add_json_text(&out, v->merges[i]);
    }
  }
  dp_str_add(&out, "]}}");
  return out.text;
}

static dp_tokenizer *open_json_of(const char *parts, const char *added, bool merges_as_pairs) {
  vocabulary *v = english();
  char *json = json_of(v, parts, added, merges_as_pairs);
  dp_tokenizer *tokenizer = NULL;
  expect_ok(open_json(json, strlen(json), &tokenizer));
  free(json);
  dp_arena_free(v->arena);
  return tokenizer;
}

START_TEST(json_and_metadata_make_the_same_tokenizer) {
  dp_tokenizer *one = open_tokenizer(english(), "gpt-2"), *other = open_json_of(plain_parts, "", _i);
  uint64_t seed = 5;
  for (int round = 0; round < 100; round++) {
    dp_str text = {0};
    dp_ids ids[2] = {{0}, {0}};
    for (int i = 0; i < 30; i++) add_random_character(&seed, &text);
    expect_ok(dp_tokenizer_encode(one, text.text, text.length, false, &ids[0]));
    expect_ok(dp_tokenizer_encode(other, text.text, text.length, false, &ids[1]));
    ck_assert_uint_eq(ids[0].count, ids[1].count);
    ck_assert_mem_eq(ids[0].items, ids[1].items, ids[0].count * sizeof(int32_t));
    dp_ids_free(&ids[0]);
    dp_ids_free(&ids[1]);
    dp_str_free(&text);
  }
  dp_tokenizer_free(one);
  dp_tokenizer_free(other);
}
END_TEST

#define PRE(stages)                                                                                                    \
  "\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[" stages "{\"type\":\"ByteLevel\","                     \
  "\"add_prefix_space\":false,\"use_regex\":false}]}"
#define SPLIT(pattern, behavior, invert)                                                                               \
  "{\"type\":\"Split\",\"pattern\":" pattern ",\"behavior\":\"" behavior "\",\"invert\":" invert "},"

START_TEST(json_split_behaviors_are_carried_out) {
  static const char *const cases[][3] = {
      {PRE(SPLIT("{\"String\":\" \"}", "Isolated", "false")), "aa  aa", "aa| | |aa"},
      {PRE(SPLIT("{\"String\":\" \"}", "Removed", "false")), "aa  aa", "aa|aa"},
      {PRE(SPLIT("{\"String\":\" \"}", "Removed", "true")), "aa  aa", " | "},
      {PRE(SPLIT("{\"String\":\" \"}", "MergedWithNext", "false")), " world world", " world| world"},
      {PRE(SPLIT("{\"String\":\"a\"}", "MergedWithPrevious", "false")), "ahaa", "a|h|a|a"},
      {PRE(SPLIT("{\"String\":\"a\"}", "Contiguous", "false")), "haaaah", "h|aaaa|h"},
      {PRE(SPLIT("{\"Regex\":\"\\\\p{N}{1,2}\"}", "Isolated", "false")), "1234", "12|3|4"},
      {PRE("{\"type\":\"Digits\",\"individual_digits\":true},"), "a12", "a|1|2"},
      {PRE("{\"type\":\"Digits\",\"individual_digits\":false},"), "a12", "a|12"},
      {"\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":true}", "world", " world"},
      {"\"normalizer\":{\"type\":\"NFC\"},\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false}",
       "e\xCC\x81", "\xC3\xA9"},
  };
  dp_tokenizer *tokenizer = open_json_of(cases[_i][0], "", false);
  expect_pieces(tokenizer, cases[_i][1], strlen(cases[_i][1]), false, cases[_i][2]);
  dp_tokenizer_free(tokenizer);
}
END_TEST

#define ADDED(id, content, flags) "{\"id\":" id ",\"content\":\"" content "\"," flags "\"normalized\":false}"

START_TEST(json_added_tokens_keep_their_flags) {
  static const char *const cases[][3] = {
      {ADDED("1000", "<x>", "\"special\":true,"), "a <x> a", "a| |<x>| |a"},
      {ADDED("1000", "<x>", "\"lstrip\":true,"), "a  <x> a", "a|<x>| |a"},
      {ADDED("1000", "<x>", "\"rstrip\":true,"), "a <x>  a", "a| |<x>|a"},
      {ADDED("1000", "zz", "\"single_word\":true,"), "zz azz zz", "zz| |a|z|z| |zz"},
  };
  dp_tokenizer *tokenizer = open_json_of(plain_parts, cases[_i][0], false);
  ck_assert_int_eq(dp_tokenizer_size(tokenizer), 1001);
  expect_pieces(tokenizer, cases[_i][1], strlen(cases[_i][1]), true, cases[_i][2]);
  expect_failure(dp_tokenizer_decode(tokenizer, (int32_t[]){999}, 1, true, &(dp_str){0}), DP_INVALID, "no token 999");
  dp_tokenizer_free(tokenizer);
}
END_TEST

START_TEST(json_template_tells_bos) {
  static const char parts[] =
      "\"pre_tokenizer\":{\"type\":\"ByteLevel\"},\"post_processor\":{\"type\":\"Sequence\",\"processors\":[{\"type\":"
      "\"ByteLevel\"},{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\",\"type_id\":0}},"
      "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}],\"special_tokens\":{\"<s>\":{\"id\":\"<s>\",\"ids\":[1000]}}}]}";
  dp_tokenizer *tokenizer = open_json_of(parts, ADDED("1000", "<s>", "\"special\":true,"), false);
  dp_token_specials specials = dp_tokenizer_specials(tokenizer);
  ck_assert(specials.bos == 1000 && specials.add_bos && specials.eos == -1 && !specials.add_eos);
  dp_tokenizer_free(tokenizer);
}
END_TEST

/* What is not handled, and what is wrong, each with the words that the message must have. */
START_TEST(json_that_is_not_understood_is_refused) {
  static const struct {
    const char *parts, *added;
    dp_code code;
    const char *words;
  } cases[] = {
      {"\"pre_tokenizer\":{\"type\":\"Punctuation\"}", "", DP_UNSUPPORTED, "Punctuation"},
      {"\"pre_tokenizer\":{\"type\":\"Metaspace\"}", "", DP_INVALID, "Metaspace"},
      {"\"pre_tokenizer\":[1,2]", "", DP_UNSUPPORTED, "pre-tokenizer"},
      {"\"pre_tokenizer\":{\"type\":\"ByteLevel\"},\"normalizer\":{\"type\":\"Lowercase\"}", "", DP_UNSUPPORTED,
       "Lowercase"},
      {"\"pre_tokenizer\":{\"type\":\"ByteLevel\"},\"decoder\":{\"type\":\"WordPiece\"}", "", DP_UNSUPPORTED,
       "WordPiece"},
      {"\"pre_tokenizer\":{\"type\":\"ByteLevel\"},\"post_processor\":{\"type\":\"RobertaProcessing\"}", "",
       DP_INVALID, "post-processor without ids"},
      {"\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"use_regex\":3}", "", DP_INVALID, "use_regex"},
      {PRE(SPLIT("{\"Regex\":\"(\"}", "Isolated", "false")), "", DP_INVALID, "split pattern"},
      {PRE(SPLIT("{\"Regex\":\"[a&&b]\"}", "Isolated", "false")), "", DP_UNSUPPORTED, "intersection"},
      {PRE(SPLIT("{\"Regex\":\"a{1,3}+\"}", "Isolated", "false")), "", DP_UNSUPPORTED, "interval"},
      {PRE(SPLIT("{\"Regex\":\"(?P<a>b)\"}", "Isolated", "false")), "", DP_UNSUPPORTED, "group"},
      {PRE(SPLIT("{\"Regex\":\"\\\\h\"}", "Isolated", "false")), "", DP_UNSUPPORTED, "escape"},
      {PRE(SPLIT("{\"Regex\":\"\\\\\"}", "Isolated", "false")), "", DP_UNSUPPORTED, "backslash"},
      {PRE(SPLIT("{\"Regex\":\"[a\"}", "Isolated", "false")), "", DP_UNSUPPORTED, "not closed"},
      {PRE(SPLIT("{\"Regex\":\"\\\\p{Nonsense}\"}", "Isolated", "false")), "", DP_INVALID, "Nonsense"},
      {PRE(SPLIT("{}", "Isolated", "false")), "", DP_INVALID, "pattern"},
      {PRE(SPLIT("{\"String\":\"a\"}", "Nonsense", "false")), "", DP_INVALID, "Nonsense"},
      {plain_parts, "{\"id\":1000}", DP_INVALID, "content"},
      {plain_parts, "{\"content\":\"x\"}", DP_INVALID, "id"},
      {plain_parts, "7", DP_INVALID, "content"},
      {plain_parts, ADDED("99999999999", "<x>", ""), DP_INVALID, "id"},
      {plain_parts, ADDED("-1", "<x>", ""), DP_INVALID, "id"},
      {plain_parts, ADDED("5", "<x>", ""), DP_INVALID, "same id"},
      {plain_parts, ADDED("1000", "hello", ""), DP_INVALID, "has id 1000"},
      {plain_parts, ADDED("1000", "<x>", "") "," ADDED("1001", "<x>", ""), DP_INVALID, "same text"},
      {plain_parts, ADDED("1000", "<x>", "\"special\":\"yes\","), DP_INVALID, "special"},
  };
  vocabulary *v = english();
  char *json = json_of(v, cases[_i].parts, cases[_i].added, false);
  dp_tokenizer *tokenizer = NULL;
  expect_failure(open_json(json, strlen(json), &tokenizer), cases[_i].code, cases[_i].words);
  ck_assert_ptr_null(tokenizer);
  free(json);
  dp_arena_free(v->arena);
}
END_TEST

START_TEST(json_of_a_wrong_model_is_refused) {
#define MODEL(members) "{\"pre_tokenizer\":{\"type\":\"ByteLevel\"},\"model\":" members "}"
  static const struct {
    const char *json;
    dp_code code;
    const char *words;
  } cases[] = {
      {"", DP_INVALID, ""},
      {"[", DP_INVALID, ":1:"},
      {"[]", DP_INVALID, "object"},
      {"{}", DP_INVALID, "no model"},
      {"{\"a\":1,\"a\":2}", DP_INVALID, "duplicate"},
      {MODEL("3"), DP_INVALID, "no model"},
      {MODEL("{\"type\":\"WordLevel\"}"), DP_UNSUPPORTED, "WordLevel"},
      {MODEL("{\"type\":\"BPE\"}"), DP_INVALID, "vocab"},
      {MODEL("{\"vocab\":{},\"merges\":7}"), DP_INVALID, "merges"},
      {MODEL("{\"vocab\":{},\"merges\":[]}"), DP_INVALID, "empty"},
      {MODEL("{\"vocab\":{\"a\":\"x\"},\"merges\":[]}"), DP_INVALID, "id of 'a'"},
      {MODEL("{\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]}"), DP_INVALID, "same id"},
      {MODEL("{\"vocab\":{\"a\":0,\"b\":1},\"merges\":[\"a\"]}"), DP_INVALID, "merge 0"},
      {MODEL("{\"vocab\":{\"a\":0,\"b\":1},\"merges\":[[\"a\"]]}"), DP_INVALID, "merge 0"},
      {MODEL("{\"vocab\":{\"a\":0,\"b\":1},\"merges\":[[\"a\",3]]}"), DP_INVALID, "merge 0"},
      {MODEL("{\"vocab\":{\"a\":0,\"b\":1},\"merges\":[{}]}"), DP_INVALID, "merge 0"},
      {MODEL("{\"vocab\":{\"a\":0,\"b\":1},\"merges\":[\"a b\"]}"), DP_INVALID, "their joint"},
      {MODEL("{\"vocab\":{\"a\":0},\"merges\":[],\"unk_token\":\"u\"}"), DP_INVALID, "unk_token"},
      {MODEL("{\"vocab\":{\"a\":0},\"merges\":[],\"dropout\":0.1}"), DP_UNSUPPORTED, "dropout"},
      {MODEL("{\"vocab\":{\"a\":0},\"merges\":[],\"byte_fallback\":true}"), DP_UNSUPPORTED, "byte_fallback"},
      {MODEL("{\"vocab\":{\"a\":0},\"merges\":[],\"end_of_word_suffix\":\"</w>\"}"), DP_UNSUPPORTED, "end_of_word"},
      {"{\"a\":\"\xFF\"}", DP_INVALID, ":1:"},
  };
  dp_tokenizer *tokenizer = NULL;
  expect_failure(open_json(cases[_i].json, strlen(cases[_i].json), &tokenizer), cases[_i].code, cases[_i].words);
  ck_assert_ptr_null(tokenizer);
}
END_TEST

/* Under the sanitizers: any damage gives a tokenizer or a message, never a crash. */
START_TEST(damaged_json_never_crashes) {
  vocabulary *v = bytes_only();
  add_merge(v, "h", "e");
  char *json = json_of(v, plain_parts, ADDED("1000", "<x>", ""), false);
  size_t n = strlen(json);
  uint64_t seed = 13;
  for (int round = 0; round < 300; round++) {
    char *copy = strdup(json);
    for (uint32_t k = 1 + random_below(&seed, 3); k; k--) {
      static const char damage[] = "\"{}[],:0179-ea\\ \xC3n";
      copy[random_below(&seed, (uint32_t)n)] = damage[random_below(&seed, sizeof damage - 1)];
    }
    dp_tokenizer *tokenizer = NULL;
    dp_status status = open_json(copy, random_below(&seed, 10) ? n : random_below(&seed, (uint32_t)n), &tokenizer);
    ck_assert_int_eq(status.code == DP_OK, tokenizer != NULL);
    dp_ids ids = {0};
    if (tokenizer) expect_ok(dp_tokenizer_encode(tokenizer, "he he <x> 123", 13, true, &ids));
    dp_ids_free(&ids);
    dp_tokenizer_free(tokenizer);
    dp_status_free(&status);
    free(copy);
  }
  free(json);
  dp_arena_free(v->arena);
}
END_TEST

START_TEST(a_missing_file_is_named) {
  dp_tokenizer *tokenizer;
  expect_failure(dp_tokenizer_from_json("/nonexistent/tokenizer.json", &tokenizer), DP_NOT_FOUND, "/nonexistent");
}
END_TEST

int main(void) {
  Suite *suite = suite_create("tokenizer");
  TCase *encoding = tcase_create("encoding"), *decoding = tcase_create("decoding"), *refusal = tcase_create("refusal"),
        *json = tcase_create("json");
  tcase_set_timeout(encoding, 120);
  tcase_set_timeout(json, 120);
  tcase_add_test(encoding, pairs_merge_by_rank_then_from_the_left);
  tcase_add_loop_test(encoding, merging_equals_the_plain_way_on_random_words, 0, 4);
  tcase_add_test(encoding, a_word_of_a_million_letters_is_encoded);
  tcase_add_test(encoding, words_are_cut_as_the_pre_tokenizer_says);
  tcase_add_test(encoding, white_space_before_a_digit_stays_whole_only_where_digits_split_first);
  tcase_add_test(encoding, contractions_are_words_in_any_case_only_for_llama);
  tcase_add_test(encoding, white_space_and_digits_are_unicode_s_own);
  tcase_add_test(encoding, qwen_reads_decomposed_letters_as_composed_ones);
  tcase_add_test(encoding, a_byte_without_a_token_vanishes_and_its_neighbours_meet);
  tcase_add_test(encoding, special_tokens_are_read_only_when_asked_for);
  tcase_add_test(encoding, user_defined_tokens_are_always_read_the_longest_first);
  tcase_add_test(encoding, malformed_utf8_reads_as_python_reads_it);
  tcase_add_loop_test(encoding, decoding_gives_the_text_back, 0, 7);
  tcase_add_test(encoding, two_threads_encode_alike_with_one_tokenizer);
  tcase_add_test(decoding, stream_never_splits_a_utf8_character);
  tcase_add_test(decoding, stream_gives_a_character_with_its_last_byte);
  tcase_add_test(decoding, special_tokens_are_shown_only_when_asked_for);
  tcase_add_test(decoding, an_id_out_of_range_is_an_error);
  tcase_add_test(decoding, a_token_s_text_ends_with_a_nul);
  tcase_add_test(decoding, the_ends_are_eos_eot_and_the_known_names);
  tcase_add_test(refusal, an_unknown_pre_tokenizer_is_refused_with_the_known_ones);
  tcase_add_test(refusal, a_model_that_is_no_byte_level_bpe_is_refused);
  tcase_add_test(refusal, damaged_metadata_is_refused);
  tcase_add_test(refusal, two_special_tokens_of_one_text_are_refused);
  tcase_add_loop_test(json, json_and_metadata_make_the_same_tokenizer, 0, 2);
  tcase_add_loop_test(json, json_split_behaviors_are_carried_out, 0, 11);
  tcase_add_loop_test(json, json_added_tokens_keep_their_flags, 0, 4);
  tcase_add_test(json, json_template_tells_bos);
  tcase_add_loop_test(json, json_that_is_not_understood_is_refused, 0, 26);
  tcase_add_loop_test(json, json_of_a_wrong_model_is_refused, 0, 22);
  tcase_add_test(json, damaged_json_never_crashes);
  tcase_add_test(json, a_missing_file_is_named);
  suite_add_tcase(suite, encoding);
  suite_add_tcase(suite, decoding);
  suite_add_tcase(suite, refusal);
  suite_add_tcase(suite, json);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed != 0;
}
