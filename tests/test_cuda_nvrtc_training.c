/* tests/test_cuda_nvrtc_training.c: NVRTC, where there is one, compiles the text of a training step without a spill. */
#include "tests/cuda_subject.h"

#include <check.h>

START_TEST(nvrtc_compiles_training_without_spills) {
  if (!has_nvrtc()) return;
  subject s = open_subject(&(subject_options){LLAMA, .trains = true, .recompute = IR_RECOMPUTE_BLOCK});
  compiles_without_spills(&s, 0, 1);
  loads_are_coherent(&s);
  close_subject(&s);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("cuda_nvrtc_training");
  TCase *tests = tcase_create("nvrtc");
  tcase_set_timeout(tests, 600);
  tcase_add_test(tests, nvrtc_compiles_training_without_spills);
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed != 0;
}
