/* tests/test_cuda_nvrtc.c: NVRTC, where there is one, compiles the CUDA back end's text of models for every architecture
 * without a spill, and without a load that waits for nobody. A training step has a suite of its own: it takes as long as all
 * of these. */
#include "tests/cuda_subject.h"

#include <check.h>

START_TEST(nvrtc_compiles_every_model_without_spills) {
  if (!has_nvrtc()) return;
  subject subjects[] = {
      open_subject(&(subject_options){LLAMA, .cache = "f16"}),
      open_subject(&(subject_options){GPT2}),
      open_subject(&(subject_options){MIXTRAL}),
  };
  for (size_t i = 0; i < DP_COUNT(subjects); i++) {
    compiles_without_spills(&subjects[i], i ? i % ARCHITECTURES : 0, i ? i % ARCHITECTURES + 1 : ARCHITECTURES);
    loads_are_coherent(&subjects[i]);
    close_subject(&subjects[i]);
  }
}
END_TEST

int main(void) {
  Suite *suite = suite_create("cuda_nvrtc");
  TCase *tests = tcase_create("nvrtc");
  tcase_set_timeout(tests, 600);
  tcase_add_test(tests, nvrtc_compiles_every_model_without_spills);
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed != 0;
}
