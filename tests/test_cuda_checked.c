/* tests/test_cuda_checked.c: the CUDA back end's text with every access to memory looked at (tests/cuda/check.hh): no
 * two threads of small programs, models and a training step race, none reads what nobody wrote or leaves the launch's
 * memory, wherever a seed interrupts them and however late copies land; and the bits are the interpreter's. */
#include "tests/cuda_subject.h"
#include "tests/tile_fixture.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool build_checked(const cuda_host_part *parts, int count, cuda_host **host) {
  double begin = api_seconds();
  dp_status status = cuda_host_build(parts, count, CUDA_HOST_CHECKED, host);
  if (status.code == DP_NOT_FOUND) {
    fprintf(stderr, "skipped: %s\n", dp_status_text(&status));
    dp_status_free(&status);
    return false;
  }
  check_ok(status, "the text for this machine");
  fprintf(stderr, "%d programs compiled in %.1f s\n", count, api_seconds() - begin);
  return true;
}

/* ---- small programs */

static fixture *build_fixture(int index, uint64_t seed, unsigned tensor) {
  fixture *f = fixture_build(index, seed);
  f->program->tensor = tensor;
  return f;
}

static fixture *defined_fixture(int index, uint64_t seed, unsigned tensor) {
  fixture *f = build_fixture(index, seed, tensor);
  tile_code *code;
  dp_str why = {0};
  check_ok(cg_build(cg_find_backend("interp"), f->program, NULL, NULL, &code, NULL, NULL), fixture_name(index));
  ck_assert(fixture_run(f, code, &why));
  code->free(code);
  return f;
}

static void run_fixture(const cuda_host *host, int program, int index, const fixture *defined, int blocks,
                        uint64_t seed) {
  fixture *f = build_fixture(index, defined->seed, defined->program->tensor);
  dp_str why = {0};
  check_ok(cuda_host_run(host, program, &f->step, blocks, seed), fixture_name(index));
  bool same = fixture_same(defined, f, &why);
  ck_assert_msg(same, "interp and CUDA on %d blocks, seed %d, differ: %s", blocks, (int)seed, why.text ? why.text : "");
  fixture_free(f);
}

enum { SEEDS = 6, MOST = 64 };

static void are_sound(fixture **defined, const int *indices, int count) {
  cuda_host_part parts[MOST] = {0};
  cuda_host *host;
  for (int i = 0; i < count; i++) parts[i].program = defined[i]->program;
  bool built = build_checked(parts, count, &host);
  for (int i = 0; built && i < count; i++)
    for (int seed = 0; seed < SEEDS; seed++)
      run_fixture(host, i, indices[i], defined[i], 1 + seed % 4, 70 + (uint64_t)seed);
  if (built) cuda_host_free(host);
  for (int i = 0; i < count; i++) fixture_free(defined[i]);
}

START_TEST(small_programs_are_sound_in_memory) {
  fixture *defined[MOST];
  int indices[MOST], count = 0;
  for (; count < fixture_count() && count < MOST; count++) {
    indices[count] = count;
    defined[count] = defined_fixture(count, 4, 0);
  }
  are_sound(defined, indices, count);
}
END_TEST

START_TEST(products_of_matrix_units_are_sound_in_memory) {
  static const char *const names[] = {"matmul_f16", "matmul_bf16", "layers", "llama"};
  enum { COUNT = DP_COUNT(names), DRAWS = 2 };
  fixture *defined[COUNT * DRAWS];
  int indices[COUNT * DRAWS];
  for (int i = 0; i < COUNT * DRAWS; i++) {
    indices[i] = fixture_find(names[i % COUNT]);
    defined[i] = defined_fixture(indices[i], 4 + (uint64_t)(i / COUNT), 1u << IR_f16 | 1u << IR_bf16);
  }
  are_sound(defined, indices, COUNT * DRAWS);
}
END_TEST

/* ---- models */

static void run_checked(const subject *s, const cuda_host *host, int index, int blocks) {
  tile_code *interp, code;
  check_ok(cg_build(cg_find_backend("interp"), s->program, NULL, NULL, &interp, NULL, NULL), s->name);
  cuda_host_code_fresh(host, index, blocks, 31 * (uint64_t)blocks + (uint64_t)index, &code);
  double begin = api_seconds();
  result defined = run_subject(s, interp), r = run_subject(s, &code);
  fprintf(stderr, "%s%s on %d blocks: %.1f s\n", s->name, s->trains ? " training" : "", blocks, api_seconds() - begin);
  ck_assert_uint_eq(r.count, defined.count);
  for (size_t i = 0; i < r.count; i++)
    ck_assert_msg(memcmp(&r.data[i], &defined.data[i], sizeof(float)) == 0, "%s on %d blocks: number %zu is %a, not %a",
                  s->name, blocks, i, (double)r.data[i], (double)defined.data[i]);
  free(r.data);
  free(defined.data);
  code.free(&code);
  interp->free(interp);
}

START_TEST(models_and_training_are_sound_in_memory) {
  subject subjects[] = {
      open_subject(&(subject_options){LLAMA, .cache = "f16"}),
      open_subject(&(subject_options){GPT2}),
      open_subject(&(subject_options){MIXTRAL}),
      open_subject(&(subject_options){LLAMA, .trains = true, .storage = IR_bf16, .stochastic = true,
                                      .recompute = IR_RECOMPUTE_SELECTIVE}),
  };
  enum { COUNT = DP_COUNT(subjects) };
  cuda_host_part parts[COUNT] = {0};
  cuda_host *host;
  for (int i = 0; i < COUNT; i++) parts[i].program = subjects[i].program;
  if (build_checked(parts, COUNT, &host)) {
    for (int i = 0; i < COUNT; i++) run_checked(&subjects[i], host, i, 2 + i % 3);
    cuda_host_free(host);
  }
  for (int i = 0; i < COUNT; i++) close_subject(&subjects[i]);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("cuda_checked");
  TCase *tests = tcase_create("fixtures"), *models = tcase_create("models"), *tensor = tcase_create("tensor");
  tcase_set_timeout(tests, 600);
  tcase_set_timeout(models, 600);
  tcase_add_test(tests, small_programs_are_sound_in_memory);
  tcase_set_timeout(tensor, 600);
  tcase_add_test(tensor, products_of_matrix_units_are_sound_in_memory);
  suite_add_tcase(suite, tensor);
  tcase_add_test(models, models_and_training_are_sound_in_memory);
  suite_add_tcase(suite, tests);
  suite_add_tcase(suite, models);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed != 0;
}
