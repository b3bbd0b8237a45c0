/* tests/test_cuda.c: the CUDA back end without a GPU. Its text, compiled for this machine and run by fibers in a seed's
 * order (tests/cuda/host.hh), gives the interpreter's bits on any number of blocks. Beside it: test_cuda_training.c,
 * test_cuda_checked.c (accesses to memory), test_cuda_primitives.c (mistakes), test_cuda_sanitized.c, test_cuda_nvrtc.c,
 * test_cuda_driver.c (what a machine lacks, failures). */
#include "api/internal.h"
#include "runtime/engine.h"
#include "tests/cuda_subject.h"
#include "tests/tile_fixture.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- small programs */

enum { SEEDS = 1 }; /* test_cuda_checked.c has another */
static const int grids[] = {1, 3, 8};

static fixture *defined_fixture(int index, uint64_t seed) {
  fixture *f = fixture_build(index, seed);
  tile_code *code;
  dp_str why = {0};
  check_ok(cg_build(cg_find_backend("interp"), f->program, NULL, NULL, &code, NULL, NULL), fixture_name(index));
  ck_assert(fixture_run(f, code, &why));
  code->free(code);
  return f;
}

START_TEST(small_programs_give_the_interpreter_s_bits_on_any_grid) {
  int count = fixture_count() * SEEDS;
  fixture **defined = calloc((size_t)count, sizeof *defined);
  const tile_program **programs = calloc((size_t)count, sizeof *programs);
  cuda_host *host;
  for (int i = 0; i < count; i++) {
    defined[i] = defined_fixture(i % fixture_count(), 1 + (uint64_t)(i / fixture_count()));
    programs[i] = defined[i]->program;
  }
  bool built = build_host(programs, NULL, count, &host);
  for (int i = 0; built && i < count; i++)
    for (size_t g = 0; g < DP_COUNT(grids); g++) {
      fixture *f = fixture_build(i % fixture_count(), 1 + (uint64_t)(i / fixture_count()));
      dp_str why = {0};
      check_ok(cuda_host_run(host, i, &f->step, grids[g], 100 * g + 7), fixture_name(i % fixture_count()));
      bool same = fixture_same(defined[i], f, &why);
      ck_assert_msg(same, "interp and CUDA on %d blocks differ: %s", grids[g], why.text ? why.text : "");
      fixture_free(f);
    }
  if (built) cuda_host_free(host);
  for (int i = 0; i < count; i++) fixture_free(defined[i]);
  free(programs);
  free(defined);
}
END_TEST

/* ---- models */

START_TEST(models_give_the_interpreter_s_bits) {
  subject subjects[] = {
      open_subject(&(subject_options){LLAMA}),
      open_subject(&(subject_options){LLAMA, .cache = "f16"}),
      open_subject(&(subject_options){GPT2}),
      open_subject(&(subject_options){MIXTRAL}),
  };
  give_the_interpreter_s_bits(subjects, (int)DP_COUNT(subjects), true);
  for (size_t i = 0; i < DP_COUNT(subjects); i++) close_subject(&subjects[i]);
}
END_TEST

/* ---- a driver */

/* The whole way of `--backend cuda`, with a driver whose device is the host executor. */
static void runs_through_the_driver(const subject *s) {
  cuda_host *host;
  tile_code *code, *interp;
  const tile_program *programs[] = {s->program};
  if (!build_host(programs, NULL, 1, &host)) return;
  cg_object image = cuda_host_image(host, 0);
  check_ok(cg_find_backend("cuda")->load(s->program, &image, &code), "load");
  check_ok(cg_build(cg_find_backend("interp"), s->program, NULL, NULL, &interp, NULL, NULL), "interp");
  result defined = run_subject(s, interp), r = run_subject(s, code);
  ck_assert_uint_eq(r.count, defined.count);
  ck_assert_mem_eq(r.data, defined.data, sizeof *r.data * r.count);
  code->free(code);
  interp->free(interp);
  cg_object_free(&image);
  cuda_host_free(host);
  free(defined.data);
  free(r.data);
}

START_TEST(an_engine_runs_on_a_device) {
  setenv("DIPPER_LIBCUDA", DIPPER_FAKE_CUDA, 1);
  subject s = open_subject(&(subject_options){LLAMA, .cache = "f16"});
  runs_through_the_driver(&s);
  close_subject(&s);
  unsetenv("DIPPER_LIBCUDA");
}
END_TEST

int main(void) {
  Suite *suite = suite_create("cuda");
  TCase *tests = tcase_create("host");
  tcase_set_timeout(tests, 600);
  tcase_add_test(tests, small_programs_give_the_interpreter_s_bits_on_any_grid);
  tcase_add_test(tests, models_give_the_interpreter_s_bits);
  suite_add_tcase(suite, tests);
  TCase *driver = tcase_create("driver");
  tcase_set_timeout(driver, 600);
  tcase_add_test(driver, an_engine_runs_on_a_device);
  suite_add_tcase(suite, driver);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed != 0;
}
