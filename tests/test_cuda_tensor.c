/* tests/test_cuda_tensor.c: products by matrix units without a GPU: the text's fragments, run by fibers, give the bits that
 * the interpreter defines for them, on any number of blocks. */
#include "tests/cuda_subject.h"
#include "tests/tile_fixture.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const unsigned tensor = 1u << IR_f16 | 1u << IR_bf16;

static fixture *build_fixture(int index, uint64_t seed) {
  fixture *f = fixture_build(index, seed);
  f->program->tensor = tensor;
  return f;
}

static fixture *defined_fixture(int index, uint64_t seed) {
  fixture *f = build_fixture(index, seed);
  tile_code *code;
  dp_str why = {0};
  check_ok(cg_build(cg_find_backend("interp"), f->program, NULL, NULL, &code, NULL, NULL), fixture_name(index));
  ck_assert(fixture_run(f, code, &why));
  code->free(code);
  return f;
}

/* Has it products with a weight or a cache of those types? */
static bool concerns(const fixture *f) {
  for (int i = 0; i < f->program->weight_count; i++)
    if (f->program->weights[i].storage & tensor) return true;
  for (int i = 0; i < f->program->cache_count; i++)
    if (tensor >> f->program->caches[i].storage & 1) return true;
  return false;
}

enum { SEEDS = 6, MOST = 256 };
static const int grids[] = {1, 3, 8};

START_TEST(small_programs_give_the_defined_bits) {
  static fixture *defined[MOST];
  static const tile_program *programs[MOST];
  int index[MOST], count = 0;
  cuda_host *host;
  for (int i = 0; i < fixture_count() * SEEDS && count < MOST; i++) {
    fixture *f = build_fixture(i % fixture_count(), 1 + (uint64_t)(i / fixture_count()));
    bool takes_part = concerns(f);
    fixture_free(f);
    if (!takes_part) continue;
    index[count] = i;
    defined[count] = defined_fixture(i % fixture_count(), 1 + (uint64_t)(i / fixture_count()));
    programs[count] = defined[count]->program;
    count++;
  }
  ck_assert_int_gt(count, SEEDS);
  bool built = build_host(programs, NULL, count, &host);
  for (int i = 0; built && i < count; i++)
    for (size_t g = 0; g < DP_COUNT(grids); g++) {
      int which = index[i] % fixture_count();
      fixture *f = build_fixture(which, 1 + (uint64_t)(index[i] / fixture_count()));
      dp_str why = {0};
      check_ok(cuda_host_run(host, i, &f->step, grids[g], 100 * g + 7), fixture_name(which));
      bool same = fixture_same(defined[i], f, &why);
      ck_assert_msg(same, "%s: interp and CUDA on %d blocks differ: %s", fixture_name(which), grids[g],
                    why.text ? why.text : "");
      fixture_free(f);
    }
  if (built) cuda_host_free(host);
  for (int i = 0; i < count; i++) fixture_free(defined[i]);
}
END_TEST

START_TEST(models_give_the_defined_bits) {
  subject subjects[] = {
      open_subject(&(subject_options){LLAMA, .storage = IR_bf16, .cache = "f16", .tensor = tensor}),
      open_subject(&(subject_options){LLAMA, .storage = IR_bf16, .row_tile = 64, .tensor = tensor}),
      open_subject(&(subject_options){GPT2, .storage = IR_bf16, .tensor = tensor}),
      open_subject(&(subject_options){MIXTRAL, .storage = IR_bf16, .cache = "f16", .tensor = tensor}),
  };
  give_the_interpreter_s_bits(subjects, (int)DP_COUNT(subjects), true);
  for (size_t i = 0; i < DP_COUNT(subjects); i++) close_subject(&subjects[i]);
}
END_TEST

START_TEST(training_gives_the_defined_bits) {
  subject subjects[] = {
      open_subject(&(subject_options){LLAMA, .trains = true, .storage = IR_bf16, .recompute = IR_RECOMPUTE_SELECTIVE,
                                      .tensor = tensor}),
      open_subject(&(subject_options){GPT2, .trains = true, .storage = IR_bf16, .stochastic = true,
                                      .recompute = IR_RECOMPUTE_BLOCK, .tensor = tensor}),
      open_subject(&(subject_options){MIXTRAL, .trains = true, .storage = IR_bf16, .recompute = IR_RECOMPUTE_NONE,
                                      .tensor = tensor}),
  };
  give_the_interpreter_s_bits(subjects, (int)DP_COUNT(subjects), false);
  for (size_t i = 0; i < DP_COUNT(subjects); i++) close_subject(&subjects[i]);
}
END_TEST

START_TEST(nvrtc_compiles_them_without_spills) {
  if (!has_nvrtc()) return;
  subject subjects[] = {
      open_subject(&(subject_options){LLAMA, .storage = IR_bf16, .cache = "f16", .tensor = tensor}),
      open_subject(&(subject_options){LLAMA, .trains = true, .storage = IR_bf16, .recompute = IR_RECOMPUTE_SELECTIVE,
                                      .tensor = tensor}),
  };
  for (size_t i = 0; i < DP_COUNT(subjects); i++) {
    compiles_without_spills(&subjects[i], 0, i ? 1 : ARCHITECTURES);
    loads_are_coherent(&subjects[i]);
    close_subject(&subjects[i]);
  }
}
END_TEST

int main(void) {
  Suite *suite = suite_create("cuda_tensor");
  TCase *tests = tcase_create("host");
  tcase_set_timeout(tests, 600);
  tcase_add_test(tests, small_programs_give_the_defined_bits);
  tcase_add_test(tests, models_give_the_defined_bits);
  tcase_add_test(tests, training_gives_the_defined_bits);
  suite_add_tcase(suite, tests);
  TCase *nvrtc = tcase_create("nvrtc");
  tcase_set_timeout(nvrtc, 600);
  tcase_add_test(nvrtc, nvrtc_compiles_them_without_spills);
  suite_add_tcase(suite, nvrtc);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed != 0;
}
