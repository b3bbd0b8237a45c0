/* tests/test_cuda_training.c: the CUDA back end's text, run by fibers, gives the interpreter's bits of graphs of few ops and
 * their gradients, and of training steps of models with their updates. */
#include "tests/cuda_subject.h"

#include <check.h>
#include <dirent.h>
#include <string.h>

#define OPS DIPPER_TEST_DIR "/ops/"

static int list_ops(char (*names)[64], int most) {
  int count = 0;
  DIR *dir = opendir(OPS);
  for (struct dirent *entry; dir && (entry = readdir(dir)) && count < most;) {
    size_t n = strlen(entry->d_name);
    if (n > 3 && n < 64 && strcmp(entry->d_name + n - 3, ".ir") == 0) strcpy(names[count++], entry->d_name);
  }
  if (dir) closedir(dir);
  return count;
}

START_TEST(graphs_of_few_ops_give_the_interpreter_s_bits) {
  enum { MOST = 32 };
  char names[MOST][64];
  subject subjects[2 * MOST];
  int files = list_ops(names, MOST), count = 0;
  ck_assert_int_gt(files, 0);
  for (int i = 0; i < files; i++) {
    subjects[count++] = open_ir(names[i], false);
    if (!strstr(names[i], "f16"))
      subjects[count++] = open_ir(names[i], true); /* what is rounded into a cache has no gradient */
  }
  give_the_interpreter_s_bits(subjects, count, false);
  for (int i = 0; i < count; i++) close_subject(&subjects[i]);
}
END_TEST

START_TEST(training_gives_the_interpreter_s_bits) {
  subject subjects[] = {
      open_subject(&(subject_options){LLAMA, .trains = true, .recompute = IR_RECOMPUTE_BLOCK}),
      open_subject(&(subject_options){LLAMA, .trains = true, .storage = IR_bf16, .recompute = IR_RECOMPUTE_SELECTIVE}),
      open_subject(&(subject_options){LLAMA, .trains = true, .storage = IR_bf16, .stochastic = true, .recompute = IR_RECOMPUTE_NONE}),
      open_subject(&(subject_options){GPT2, .trains = true, .recompute = IR_RECOMPUTE_BLOCK}),
      open_subject(&(subject_options){MIXTRAL, .trains = true, .recompute = IR_RECOMPUTE_BLOCK}),
  };
  give_the_interpreter_s_bits(subjects, (int)DP_COUNT(subjects), false);
  for (size_t i = 0; i < DP_COUNT(subjects); i++) close_subject(&subjects[i]);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("cuda_training");
  TCase *tests = tcase_create("host");
  tcase_set_timeout(tests, 600);
  tcase_add_test(tests, graphs_of_few_ops_give_the_interpreter_s_bits);
  tcase_add_test(tests, training_gives_the_interpreter_s_bits);
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed != 0;
}
