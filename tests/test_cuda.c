/* tests/test_cuda.c: the CUDA back end without a GPU. Its text, compiled for this machine and run by fibers in a seed's
 * order (tests/cuda/host.hh), gives the interpreter's bits on any number of blocks; and NVRTC, where there is one,
 * compiles it for every architecture without a spill. */
#include "api/internal.h"
#include "runtime/engine.h"
#include "tests/cuda_subject.h"
#include "tests/tile_fixture.h"

#include <check.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MODELS DIPPER_SOURCE_DIR "/models/"
#define OPS DIPPER_TEST_DIR "/ops/"

/* ---- small programs */

enum { SEEDS = 2 };
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

/* ---- graphs of few ops */

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

/* ---- mistakes that the executor is there to find */

static const cuda_bug bugs[] = {
    {"while (read_acquire(counters + tile) < need) spin();", ""}, /* waits for nothing */
    {"while (read_acquire(counters + tile) < need)",
     "while (read_acquire(counters + tile) <= need)"},            /* for too many */
    {"copy_landed<stages - 2>();", "copy_landed<stages - 1>();"}, /* reads weights that have not landed */
    {"      copy_landed<stages - 2>();\n      block_sync();",
     "      copy_landed<stages - 2>();"}, /* nor all threads' */
    {"lane = tree_sum(lane);",
     "lane = tree_sum(lane);\n      if (thread_index() == 40) block_sync();"},   /* a barrier of one */
    {"if (thread_index() == 0) add_release(counter);", "add_release(counter);"}, /* every thread counts */
    {"sum[r] = FMA(a[r][k0 + i + j], w[j], sum[r])",
     "sum[r] = ADD(sum[r], MUL(a[r][k0 + i + j], w[j]))"}, /* rounds twice */
};

static bool finds(const cuda_host *host, int bug, const fixture *defined, int index, uint64_t seed) {
  fixture *f = fixture_build(index, defined->seed);
  dp_str why = {0};
  dp_status status = cuda_host_run(host, bug, &f->step, 3, seed);
  bool found = status.code != DP_OK || !fixture_same(defined, f, &why);
  dp_status_free(&status);
  dp_str_free(&why);
  fixture_free(f);
  return found;
}

START_TEST(planted_mistakes_are_found) {
  enum { COUNT = DP_COUNT(bugs), TRIES = 12 };
  int llama = fixture_find("llama");
  fixture *defined = defined_fixture(llama, 3);
  const tile_program *programs[COUNT];
  cuda_host *host;
  for (int i = 0; i < COUNT; i++) programs[i] = defined->program;
  if (build_host(programs, bugs, COUNT, &host)) {
    for (int i = 0; i < COUNT; i++) {
      int tries = 0;
      while (tries < TRIES && !finds(host, i, defined, llama, 50 + (uint64_t)tries)) tries++;
      ck_assert_msg(tries < TRIES, "in %d runs nobody finds '%s' for '%s'", TRIES, bugs[i].to, bugs[i].from);
    }
    cuda_host_free(host);
  }
  fixture_free(defined);
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

START_TEST(a_program_that_trains_is_refused) {
  subject trains = open_subject(&(subject_options){LLAMA, .trains = true, .recompute = IR_RECOMPUTE_BLOCK});
  cg_object image = {"host:none:none", 14};
  tile_code *code;
  dp_status status = cg_find_backend("cuda")->load(trains.program, &image, &code);
  ck_assert_msg(strstr(dp_status_text(&status), "training on a GPU") != NULL, "%s", dp_status_text(&status));
  dp_status_free(&status);
  close_subject(&trains);
}
END_TEST

/* ---- NVRTC */

START_TEST(nvrtc_compiles_every_model_without_spills) {
  if (!has_nvrtc()) return;
  subject subjects[] = {
      open_subject(&(subject_options){LLAMA, .cache = "f16"}),
      open_subject(&(subject_options){GPT2}),
      open_subject(&(subject_options){MIXTRAL}),
      open_subject(&(subject_options){LLAMA, .trains = true, .recompute = IR_RECOMPUTE_BLOCK}),
  };
  for (size_t i = 0; i < DP_COUNT(subjects); i++) {
    compiles_without_spills(&subjects[i], i ? i % ARCHITECTURES : 0,
                            i ? i % ARCHITECTURES + 1 : ARCHITECTURES);
    loads_are_coherent(&subjects[i]);
    close_subject(&subjects[i]);
  }
}
END_TEST

int main(void) {
  Suite *suite = suite_create("cuda");
  TCase *tests = tcase_create("host");
  tcase_set_timeout(tests, 600);
  tcase_add_test(tests, small_programs_give_the_interpreter_s_bits_on_any_grid);
  tcase_add_test(tests, graphs_of_few_ops_give_the_interpreter_s_bits);
  tcase_add_test(tests, models_give_the_interpreter_s_bits);
  tcase_add_test(tests, training_gives_the_interpreter_s_bits);
  tcase_add_test(tests, planted_mistakes_are_found);
  suite_add_tcase(suite, tests);
  TCase *driver = tcase_create("driver");
  tcase_set_timeout(driver, 600);
  tcase_add_test(driver, an_engine_runs_on_a_device);
  tcase_add_test(driver, a_program_that_trains_is_refused);
  suite_add_tcase(suite, driver);
  TCase *nvrtc = tcase_create("nvrtc");
  tcase_set_timeout(nvrtc, 600);
  tcase_add_test(nvrtc, nvrtc_compiles_every_model_without_spills);
  suite_add_tcase(suite, nvrtc);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed != 0;
}
