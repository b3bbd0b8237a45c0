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

/* ---- small integers: every sum is exact, in whatever order */

static int small_integer(uint64_t *random) {
  *random = *random * 6364136223846793005u + 1442695040888963407u;
  return (int)(*random >> 33) % 9 - 4;
}

static uint16_t bits_of(int number, ir_dtype type) {
  float x = (float)number;
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  if (type == IR_bf16 || !number) return (uint16_t)(bits >> 16);
  return (uint16_t)((bits >> 16 & 0x8000) | ((bits >> 23 & 255) - 112) << 10 | (bits >> 13 & 1023));
}

static void fill_with_integers(fixture *f) {
  const tile_program *p = f->program;
  const tile_weight *w = &p->weights[f->part.weight];
  const tile_buffer *x = &p->buffers[f->part.x];
  uint64_t random = f->seed;
  uint16_t *to = (uint16_t *)(uintptr_t)f->step.weights[w->first_slot];
  for (int64_t n = 0; n < (w->rows + TILE_BLOCK - 1) / TILE_BLOCK; n++)
    for (int64_t i = 0; i < w->cols * TILE_BLOCK; i++)
      to[n * w->cols * TILE_BLOCK + i] =
          n * TILE_BLOCK + i % TILE_BLOCK < w->rows
              ? bits_of(small_integer(&random), (ir_dtype)f->step.weight_types[w->first_slot])
              : 0;
  for (int64_t r = 0; r < f->step.rows[TILE_TOKENS]; r++) {
    char *slab = f->step.arena[TILE_TOKENS] + r / p->row_tile * p->slab_bytes[TILE_TOKENS] + x->offset;
    for (int64_t c = 0; c < x->cols; c++)
      ((float *)(void *)slab)[r % p->row_tile * x->stride + c] = (float)small_integer(&random);
  }
}

START_TEST(of_small_integers_chains_and_matrix_units_make_the_same) {
  static const char *const names[] = {"matmul_f16", "matmul_bf16"};
  enum { COUNT = 2 * SEEDS };
  fixture *fixtures[COUNT];
  const tile_program *programs[COUNT];
  cuda_host *host;
  for (int i = 0; i < COUNT; i++) {
    fixtures[i] = build_fixture(fixture_find(names[i % 2]), 20 + (uint64_t)i);
    programs[i] = fixtures[i]->program;
    fill_with_integers(fixtures[i]);
  }
  bool built = build_host(programs, NULL, COUNT, &host);
  for (int i = 0; built && i < COUNT; i++)
    for (int b = 0; b < cg_backend_count(); b++) {
      fixture *chains = fixture_build(fixture_find(names[i % 2]), 20 + (uint64_t)i);
      tile_code *code;
      dp_str why = {0};
      fill_with_integers(chains);
      check_ok(cg_build(cg_backend_at(b), chains->program, NULL, NULL, &code, NULL, NULL), names[i % 2]);
      ck_assert(fixture_run(chains, code, &why));
      if (b == 0) check_ok(cuda_host_run(host, i, &fixtures[i]->step, 3, 5), names[i % 2]);
      bool same = fixture_same(chains, fixtures[i], &why);
      ck_assert_msg(same, "%s and matrix units differ: %s", cg_backend_at(b)->name, why.text ? why.text : "");
      code->free(code);
      fixture_free(chains);
    }
  if (built) cuda_host_free(host);
  for (int i = 0; i < COUNT; i++) fixture_free(fixtures[i]);
}
END_TEST

/* ---- mistakes in them */

static const cuda_bug bugs[] = {
    {"copy_landed<PAGES - 2>();", "copy_landed<PAGES - 1>();"},      /* a page that has not landed */
    {"    copy_landed<1>();\n    block_sync();", "    copy_landed<1>();"}, /* nor is seen by all */
    {"lane / 16 * 8 + lane % 8, m * 2 + lane / 8 % 2", "lane / 8 % 2 * 8 + lane % 8, m * 2 + lane / 16"}, /* fragments */
    {"(piece ^ line % 8) * 16", "(piece ^ line % 8 | 1) * 16"},      /* two pieces in one place */
    {"for (int s = 0; s < slices; s++) total", "for (int s = slices - 1; s >= 0; s--) total"}, /* another order */
    {"if (!BACK && ((step + 1) % slice == 0", "if (!BACK && ((step + 1) % (slice + 1) == 0"}, /* other slices when wide */
    {"const int free = block.page % PAGES;", "const int free = (block.page + 1) % PAGES;"}, /* a page in use */
};

static bool finds(const cuda_host *host, int bug, const fixture *defined, int index, uint64_t seed) {
  fixture *f = build_fixture(index, defined->seed);
  dp_str why = {0};
  dp_status status = cuda_host_run(host, bug, &f->step, 3, seed);
  bool found = status.code != DP_OK || !fixture_same(defined, f, &why);
  dp_status_free(&status);
  dp_str_free(&why);
  fixture_free(f);
  return found;
}

/* A fixture with tasks of few rows, or of more. */
static fixture *with_rows(int index, bool few) {
  for (uint64_t seed = 1;; seed++) {
    fixture *f = build_fixture(index, seed);
    bool right = (f->step.rows[TILE_TOKENS] <= 8) == few && f->step.rows[TILE_TOKENS] > 1;
    fixture_free(f);
    if (right) return defined_fixture(index, seed);
  }
}

START_TEST(planted_mistakes_are_found) {
  enum { COUNT = DP_COUNT(bugs), TRIES = 12 };
  int layers = fixture_find("layers");
  fixture *defined[2] = {with_rows(layers, true), with_rows(layers, false)};
  const tile_program *programs[2 * COUNT];
  cuda_bug planted[2 * COUNT];
  cuda_host *host;
  for (int i = 0; i < 2 * COUNT; i++) programs[i] = defined[i % 2]->program, planted[i] = bugs[i / 2];
  if (build_host(programs, planted, 2 * COUNT, &host)) {
    for (int i = 0; i < COUNT; i++) {
      int tries = 0;
      while (tries < TRIES && !finds(host, 2 * i + tries % 2, defined[tries % 2], layers, 50 + (uint64_t)tries)) tries++;
      ck_assert_msg(tries < TRIES, "in %d runs nobody finds '%s' for '%s'", TRIES, bugs[i].to, bugs[i].from);
    }
    cuda_host_free(host);
  }
  fixture_free(defined[0]);
  fixture_free(defined[1]);
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
  tcase_add_test(tests, of_small_integers_chains_and_matrix_units_make_the_same);
  tcase_add_test(tests, planted_mistakes_are_found);
  if (!getenv("QUICK")) tcase_add_test(tests, models_give_the_defined_bits);
  if (!getenv("QUICK")) tcase_add_test(tests, training_gives_the_defined_bits);
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
