/* tests/test_wordpiece.c: BERT's tokenizer against what Hugging Face's `tokenizers` answered (tests/golden/wordpiece). */
#include "tests/tokenizer_golden.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define GOLDEN DIPPER_SOURCE_DIR "/tests/golden/wordpiece/"

START_TEST(ids_and_texts_are_those_of_hf_tokenizers) {
  dp_tokenizer *tokenizer;
  check_ok(dp_tokenizer_from_json(GOLDEN "tokenizer.json", &tokenizer));
  check_cases(tokenizer, GOLDEN "cases.json");
  dp_tokenizer_free(tokenizer);
}
END_TEST

START_TEST(the_template_s_tokens_are_told) {
  dp_tokenizer *tokenizer;
  check_ok(dp_tokenizer_from_json(GOLDEN "tokenizer.json", &tokenizer));
  dp_token_specials specials = dp_tokenizer_specials(tokenizer);
  ck_assert(specials.add_bos && specials.add_eos);
  ck_assert_int_eq(specials.bos, dp_tokenizer_find(tokenizer, "[CLS]", 5));
  ck_assert_int_eq(specials.eos, dp_tokenizer_find(tokenizer, "[SEP]", 5));
  dp_ids ids = {0};
  check_ok(dp_tokenizer_encode(tokenizer, "[SEP]", 5, true, &ids));
  ck_assert_uint_eq(ids.count, 1);
  ck_assert_int_eq(ids.items[0], specials.eos);
  dp_ids_free(&ids);
  dp_tokenizer_free(tokenizer);
}
END_TEST

/* Each byte of the file changed in turn: either it is refused or it still encodes. */
START_TEST(damaged_files_never_crash) {
  char *text;
  size_t length;
  check_ok(dp_read_file(GOLDEN "tokenizer.json", &text, &length));
  char path[] = "/tmp/dipper-wordpiece-XXXXXX";
  close(mkstemp(path));
  uint64_t state = 5;
  for (int i = 0; i < 300; i++) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    size_t at = (size_t)(state >> 33) % length;
    char kept = text[at];
    text[at] = "\"{}[],:09atn\\ "[(state >> 20) % 14];
    FILE *file = fopen(path, "wb");
    fwrite(text, 1, length, file);
    fclose(file);
    text[at] = kept;
    dp_tokenizer *tokenizer;
    dp_status status = dp_tokenizer_from_json(path, &tokenizer);
    if (status.code == DP_OK) {
      dp_ids ids = {0};
      dp_str decoded = {0};
      check_ok(dp_tokenizer_encode(tokenizer, "The \xC3\x89" " keeper's [SEP]", 21, true, &ids));
      check_ok(dp_tokenizer_decode(tokenizer, ids.items, ids.count, true, &decoded));
      dp_ids_free(&ids);
      dp_str_free(&decoded);
      dp_tokenizer_free(tokenizer);
    }
    dp_status_free(&status);
  }
  unlink(path);
  free(text);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("wordpiece");
  TCase *tests = tcase_create("wordpiece");
  tcase_set_timeout(tests, 120);
  tcase_add_test(tests, ids_and_texts_are_those_of_hf_tokenizers);
  tcase_add_test(tests, the_template_s_tokens_are_told);
  tcase_add_test(tests, damaged_files_never_crash);
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed != 0;
}
