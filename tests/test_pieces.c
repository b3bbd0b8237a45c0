/* tests/test_pieces.c: Unigram and SentencePiece's BPE against what Hugging Face's `tokenizers` answered
 * (tests/golden/pieces, made by make_pieces.py), and files that say what is not so. */
#include "tests/tokenizer_golden.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GOLDEN DIPPER_SOURCE_DIR "/tests/golden/pieces/"

static const char *const names[] = {"unigram", "unigram_bytes", "llama2", "gemma"};

static dp_tokenizer *load(const char *name) {
  char path[512];
  dp_tokenizer *tokenizer;
  snprintf(path, sizeof path, GOLDEN "%s.json", name);
  check_ok(dp_tokenizer_from_json(path, &tokenizer));
  return tokenizer;
}

START_TEST(ids_and_texts_are_those_of_hf_tokenizers) {
  char path[512];
  snprintf(path, sizeof path, GOLDEN "%s_cases.json", names[_i]);
  dp_tokenizer *tokenizer = load(names[_i]);
  check_cases(tokenizer, path);
  dp_tokenizer_free(tokenizer);
}
END_TEST

/* What arrives token by token is the text as a whole. */
START_TEST(streams_show_the_same_text) {
  static const char text[] = " The keeper \xe4\xbd\xa0 of  42 lamps \xf0\x9f\x98\x80!";
  dp_tokenizer *tokenizer = load(names[_i]);
  dp_stream_decoder decoder = dp_stream_decoder_new(tokenizer, true);
  dp_ids ids = {0};
  dp_str whole = {0}, pieces = {0};
  check_ok(dp_tokenizer_encode(tokenizer, text, strlen(text), false, &ids));
  check_ok(dp_tokenizer_decode(tokenizer, ids.items, ids.count, true, &whole));
  for (size_t i = 0; i < ids.count; i++) check_ok(dp_stream_decoder_push(&decoder, ids.items[i], &pieces));
  check_ok(dp_stream_decoder_flush(&decoder, &pieces));
  ck_assert_str_eq(pieces.text, whole.text);
  dp_str_free(&whole);
  dp_str_free(&pieces);
  dp_ids_free(&ids);
  dp_tokenizer_free(tokenizer);
}
END_TEST

START_TEST(the_template_s_tokens_are_told) {
  dp_tokenizer *tokenizer = load(names[_i]);
  dp_token_specials specials = dp_tokenizer_specials(tokenizer);
  ck_assert(specials.add_bos && specials.add_eos && specials.bos == 1 && specials.eos == 2);
  dp_ids ids = {0};
  check_ok(dp_tokenizer_encode(tokenizer, "</s>", 4, true, &ids));
  ck_assert(ids.count == 1 && ids.items[0] == 2);
  dp_ids_free(&ids);
  dp_tokenizer_free(tokenizer);
}
END_TEST

START_TEST(what_is_not_handled_is_named) {
  static const struct {
    const char *file, *says;
  } rows[] = {
      {"{\"model\": {\"type\": \"Unigram\"}}", "no vocab"},
      {"{\"model\": {\"type\": \"Unigram\", \"vocab\": [[\"a\", \"b\"]]}}", "piece 0"},
      {"{\"model\": {\"type\": \"Unigram\", \"vocab\": [[\"a\", -1]], \"unk_id\": 7}}", "unk_id"},
      {"{\"model\": {\"type\": \"Unigram\", \"vocab\": [[\"a\", -1]]}, \"normalizer\": {\"type\": \"NFKD\"}}", "NFKD"},
      {"{\"model\": {\"type\": \"Unigram\", \"vocab\": [[\"a\", -1]]}, \"pre_tokenizer\": {\"type\": \"Punctuation\"}}",
       "Punctuation"},
      {"{\"model\": {\"type\": \"Unigram\", \"vocab\": [[\"a\", -1]]}, \"decoder\": {\"type\": \"CTC\"}}", "CTC"},
      {"{\"model\": {\"type\": \"Unigram\", \"vocab\": [[\"a\", -1]]}, \"normalizer\": {\"type\": \"Precompiled\", "
       "\"precompiled_charsmap\": \"AAEAAAAA\"}}",
       "character map"},
      {"{\"model\": {\"type\": \"WordLevel\", \"vocab\": {}}}", "WordLevel"},
  };
  for (size_t i = 0; i < DP_COUNT(rows); i++) {
    dp_tokenizer *tokenizer;
    dp_status status = dp_tokenizer_from_json_text("t", rows[i].file, strlen(rows[i].file), &tokenizer);
    ck_assert_msg(status.code != DP_OK && strstr(dp_status_text(&status), rows[i].says), "row %zu: %s", i,
                  dp_status_text(&status));
    ck_assert_ptr_null(tokenizer);
    dp_status_free(&status);
  }
}
END_TEST

START_TEST(text_without_any_token_is_an_error) {
  static const char file[] = "{\"model\": {\"type\": \"Unigram\", \"vocab\": [[\"a\", -1.5]]}}";
  dp_tokenizer *tokenizer;
  dp_ids ids = {0};
  check_ok(dp_tokenizer_from_json_text("t", file, strlen(file), &tokenizer));
  check_ok(dp_tokenizer_encode(tokenizer, "aa", 2, false, &ids));
  ck_assert_uint_eq(ids.count, 2);
  dp_status status = dp_tokenizer_encode(tokenizer, "ab", 2, false, &ids);
  ck_assert(status.code == DP_INVALID && ids.count == 2);
  dp_status_free(&status);
  dp_ids_free(&ids);
  dp_tokenizer_free(tokenizer);
}
END_TEST

/* ---- as GGUF files say it */

static void check_ids(const dp_tokenizer_spec *spec, const char *text, const int32_t *expected, size_t count,
                      const char *decoded) {
  dp_tokenizer *tokenizer;
  dp_ids ids = {0};
  dp_str back = {0};
  check_ok(dp_tokenizer_new(spec, &tokenizer));
  check_ok(dp_tokenizer_encode(tokenizer, text, strlen(text), false, &ids));
  ck_assert_msg(ids.count == count, "%s: '%s' has %zu tokens", spec->model, text, ids.count);
  for (size_t i = 0; i < count; i++) ck_assert_int_eq(ids.items[i], expected[i]);
  check_ok(dp_tokenizer_decode(tokenizer, ids.items, ids.count, true, &back));
  ck_assert_str_eq(back.text, decoded);
  dp_ids_free(&ids);
  dp_str_free(&back);
  dp_tokenizer_free(tokenizer);
}

#define MARK "\xe2\x96\x81"

/* "bc" has the better score, so that "abc" is a + bc, and "ab" is made only where no c follows. */
START_TEST(llama_merges_by_score) {
  static const char *const tokens[] = {"<unk>", "<s>", "</s>", MARK, "a", "b", "c", "ab", "bc", MARK "a", "<0x21>"};
  static const float scores[] = {0, 0, 0, -9, -9, -9, -9, -2, -1, -5, 0};
  static const int32_t types[] = {2, 3, 3, 1, 1, 1, 1, 1, 1, 1, 6};
  dp_tokenizer_spec spec = {.model = "llama", .vocab_size = DP_COUNT(tokens), .tokens = tokens, .scores = scores,
                            .token_types = types, .bos = 1, .eos = 2, .eot = -1, .pad = -1, .add_space_prefix = true};
  check_ids(&spec, "abc ab!", (int32_t[]){9, 8, 3, 7, 10}, 5, "abc ab!");
  check_ids(&spec, "a?", (int32_t[]){9, 0}, 2, "a<unk>");
  spec.add_space_prefix = false;
  check_ids(&spec, "abc", (int32_t[]){4, 8}, 2, "abc");
  spec.scores = NULL;
  dp_tokenizer *tokenizer;
  dp_status status = dp_tokenizer_new(&spec, &tokenizer);
  ck_assert_int_eq(status.code, DP_INVALID);
  dp_status_free(&status);
}
END_TEST

START_TEST(t5_takes_the_best_sum) {
  static const char *const tokens[] = {"<pad>", "</s>", "<unk>", MARK, "a", "b", MARK "a", "ab", MARK "ab"};
  static const float scores[] = {0, 0, 0, -3, -3, -3, -4, -2, -6};
  static const int32_t types[] = {3, 3, 2, 1, 1, 1, 1, 1, 1};
  dp_tokenizer_spec spec = {.model = "t5", .vocab_size = DP_COUNT(tokens), .tokens = tokens, .scores = scores,
                            .token_types = types, .bos = -1, .eos = 1, .eot = -1, .unknown = 2, .pad = 0,
                            .add_space_prefix = true, .remove_extra_spaces = true};
  check_ids(&spec, "  ab   a ", (int32_t[]){3, 7, 6}, 3, "ab a"); /* -5 against -6 and -7 */
}
END_TEST

START_TEST(bert_s_tokens_say_where_words_begin) {
  static const char *const tokens[] = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", MARK "he", "llo", MARK "e", "he"};
  static const int32_t types[] = {3, 3, 3, 3, 1, 1, 1, 1};
  dp_tokenizer_spec spec = {.model = "bert", .vocab_size = DP_COUNT(tokens), .tokens = tokens, .token_types = types,
                            .bos = 2, .eos = 3, .eot = -1, .unknown = 1, .pad = 0};
  check_ids(&spec, "H\xc3\xa9llo ehe x", (int32_t[]){4, 5, 6, 7, 1}, 5, "hello ehe [UNK]");
}
END_TEST

int main(void) {
  Suite *suite = suite_create("pieces");
  TCase *tests = tcase_create("pieces");
  tcase_add_loop_test(tests, ids_and_texts_are_those_of_hf_tokenizers, 0, DP_COUNT(names));
  tcase_add_loop_test(tests, streams_show_the_same_text, 0, DP_COUNT(names));
  tcase_add_loop_test(tests, the_template_s_tokens_are_told, 0, DP_COUNT(names));
  tcase_add_test(tests, what_is_not_handled_is_named);
  tcase_add_test(tests, text_without_any_token_is_an_error);
  tcase_add_test(tests, llama_merges_by_score);
  tcase_add_test(tests, t5_takes_the_best_sum);
  tcase_add_test(tests, bert_s_tokens_say_where_words_begin);
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed ? 1 : 0;
}
