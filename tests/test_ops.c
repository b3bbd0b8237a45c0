/* tests/test_ops.c: small graphs, each around a few ops, through the whole compiler: every file of tests/ops is a
 * module in the IR's text whose graph `forward` takes tokens and pos. With random weights: the tile program is proved
 * free of races, LLVM's code gives the interpreter's bits, and a sequence's results are the same bits in one piece,
 * token by token, in company, and with any number of threads. The same of gradients, its results taken for logits; and
 * those are what the graph in double precision gives. */
#include "codegen/codegen.h"
#include "passes/passes.h"
#include "runtime/engine.h"
#include "tests/reference_f64.h"

#include <check.h>
#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FOLDER DIPPER_TEST_DIR "/ops/"

enum { TOKENS = 110, CONTEXT = 1024 };

static char *files[64];
static int file_count;

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static void find_files(void) {
  DIR *dir = opendir(FOLDER);
  for (struct dirent *entry; dir && (entry = readdir(dir));) {
    size_t n = strlen(entry->d_name);
    if (n > 3 && strcmp(entry->d_name + n - 3, ".ir") == 0 && file_count < (int)DP_COUNT(files))
      files[file_count++] = strdup(entry->d_name);
  }
  if (dir) closedir(dir);
  qsort(files, (size_t)file_count, sizeof *files, by_name);
}

static void check_ok(dp_status status, const char *what) {
  ck_assert_msg(status.code == DP_OK, "%s: %s", what, dp_status_text(&status));
}

/* ---- a module ready to run */

typedef struct subject {
  tile_program *program;
  rt_binding *binding;
  bool whole; /* a sequence goes through in one piece */
} subject;

static ir_module *read_module(const char *name) {
  char path[512], *text;
  size_t length;
  snprintf(path, sizeof path, FOLDER "%s", name);
  check_ok(dp_read_file(path, &text, &length), name);
  dp_diags *diags = dp_diags_new();
  ir_module *module = ir_parse(name, text, length, diags);
  dp_str rendered = {0};
  dp_diags_render(diags, &rendered, false);
  ck_assert_msg(module != NULL, "%s", rendered.text);
  dp_str_free(&rendered);
  dp_diags_free(diags);
  free(text);
  return module;
}

static subject read_subject(const char *name) {
  ir_module *module = read_module(name);
  subject s = {0};
  check_ok(rt_bind_random(module, 7, IR_f32, &s.binding), name);
  ps_options options = {.verify_each = true, .stress_reparse = true};
  check_ok(ps_run(&module, NULL, 0, &options), name);
  tile_target target = {.cores = 2, .task_bytes = 8192};
  check_ok(ps_schedule(module, "forward", &target, &s.program), name);
  for (int i = 0; i < s.program->kind_count; i++) s.whole |= s.program->kinds[i].whole;
  ir_module_free(module);
  return s;
}

static void free_subject(subject *s) {
  rt_binding_free(s->binding);
  tile_program_free(s->program);
}

/* ---- runs */

typedef struct result {
  float *data;
  int64_t rows, columns;
} result;

static void keep(result *r, const rt_logits *logits, int64_t first, int64_t rows) {
  r->data = realloc(r->data, sizeof(float) * (size_t)((r->rows + rows) * logits->columns));
  r->columns = logits->columns;
  for (int64_t i = 0; i < rows; i++, r->rows++)
    memcpy(r->data + r->rows * r->columns, logits->data + (first + i) * logits->stride,
           sizeof(float) * (size_t)r->columns);
}

static int32_t token_at(int64_t i) { return (int32_t)(i * 37 % 61); }

/* All rows of the sequence, fed in pieces of `piece` tokens, with another sequence of `company` tokens before it in
 * each step. */
static result run(const subject *s, const char *backend, int workers, int64_t piece, int64_t company) {
  tile_code *code;
  rt_engine *engine;
  rt_sequence *sequence, *other = NULL;
  result r = {0};
  check_ok(cg_build(cg_find_backend(backend), s->program, NULL, NULL, &code, NULL, NULL), backend);
  rt_engine_options options = {.workers = workers, .context = CONTEXT, .max_tokens = 512};
  check_ok(rt_engine_new(s->program, code, s->binding, &options, &engine), backend);
  check_ok(rt_sequence_new(engine, &sequence), backend);
  int32_t tokens[TOKENS], others[TOKENS];
  for (int i = 0; i < TOKENS; i++) tokens[i] = token_at(i), others[i] = token_at(3 * i + 5);
  for (int64_t at = 0; at < TOKENS; at += piece) {
    int64_t count = TOKENS - at < piece ? TOKENS - at : piece;
    if (other) rt_sequence_free(engine, other);
    if (company) check_ok(rt_sequence_new(engine, &other), backend);
    rt_request requests[] = {{.sequence = other, .tokens = others, .count = company, .want = RT_WANT_ALL},
                             {.sequence = sequence, .tokens = tokens + at, .count = count, .want = RT_WANT_ALL}};
    rt_logits logits;
    check_ok(rt_engine_step(engine, company ? requests : requests + 1, company ? 2 : 1, &logits), backend);
    ck_assert_int_eq(logits.rows, company + count);
    keep(&r, &logits, company, count);
  }
  rt_engine_free(engine);
  code->free(code);
  return r;
}

static void same_bits(const char *name, const char *what, const result *a, result b) {
  ck_assert_int_eq(a->rows, b.rows);
  for (int64_t i = 0; i < a->rows * a->columns; i++)
    ck_assert_msg(memcmp(&a->data[i], &b.data[i], sizeof(float)) == 0, "%s: %s: row %lld, column %lld is %a, not %a", name,
                  what, (long long)(i / a->columns), (long long)(i % a->columns), (double)b.data[i], (double)a->data[i]);
  free(b.data);
}

/* ---- tests */

START_TEST(every_cut_of_the_work_gives_the_interpreter_s_bits) {
  const char *name = files[_i];
  subject s = read_subject(name);
  static const int64_t shapes[][4] = {{1, 1, 1, 0}, {8, 1, 1, 70}, {100, 3, 1, 0}, {200, 2, 3, 5}, {0, 0, 1, 0}};
  for (size_t i = 0; i < DP_COUNT(shapes); i++) {
    if (s.whole && shapes[i][3]) continue;
    check_ok(tile_check(s.program, shapes[i][0], shapes[i][1], shapes[i][2], shapes[i][3]), name);
  }
  result defined = run(&s, "interp", 2, TOKENS, 0);
  double sum = 0;
  for (int64_t i = 0; i < defined.rows * defined.columns; i++) sum += defined.data[i] * defined.data[i];
  ck_assert_msg(sum > 0 && sum < 1e30, "%s: the results' squares add up to %g", name, sum);
  same_bits(name, "LLVM", &defined, run(&s, "llvm", 1, TOKENS, 0));
  same_bits(name, "LLVM with 3 threads, in company", &defined, run(&s, "llvm", 3, TOKENS, 29));
  if (!s.whole) {
    same_bits(name, "LLVM in pieces of 41 in company", &defined, run(&s, "llvm", 2, 41, 64));
    same_bits(name, "LLVM token by token", &defined, run(&s, "llvm", 2, 1, 0));
    same_bits(name, "the interpreter in pieces of 7", &defined, run(&s, "interp", 1, 7, 13));
  }
  free(defined.data);
  free_subject(&s);
}
END_TEST

/* ---- packed weights of each storage type, both ways */

static const char both_ways[] = "module both_ways {\n"
                                "  weight @embed : f32[61, 768] from \"embed\"\n"
                                "  weight @w : f32[70, 768] from \"w\"\n"
                                "  graph @forward(%tokens: i32[T], %pos: i32[T]) {\n"
                                "    %embed = weight {name = \"embed\"} : f32[61, 768]\n"
                                "    %w = weight {name = \"w\"} : f32[70, 768]\n"
                                "    %x = gather %embed, %tokens : f32[T, 768]\n"
                                "    %h = matmul %x, %w {transposed = 1}\n"
                                "    %y = matmul %h, %w {transposed = 0}\n"
                                "    return %y\n"
                                "  }\n"
                                "}\n";

START_TEST(a_packed_weight_gives_the_interpreter_s_bits_both_ways) {
  if (_i == IR_i32) return;
  const char *name = ir_dtype_name((ir_dtype)_i);
  dp_diags *diags = dp_diags_new();
  ir_module *module = ir_parse(name, both_ways, strlen(both_ways), diags);
  ck_assert_msg(module != NULL, "%s: the text is none", name);
  dp_diags_free(diags);
  subject s = {0};
  check_ok(rt_bind_random(module, 7, (ir_dtype)_i, &s.binding), name);
  check_ok(ps_run(&module, NULL, 0, NULL), name);
  tile_target target = {.cores = 2, .task_bytes = 8192};
  check_ok(ps_schedule(module, "forward", &target, &s.program), name);
  ir_module_free(module);
  result defined = run(&s, "interp", 1, TOKENS, 0);
  same_bits(name, "LLVM", &defined, run(&s, "llvm", 2, TOKENS, 0));
  free(defined.data);
  free_subject(&s);
}
END_TEST

/* ---- gradients */

static int32_t target_at(int64_t i) { return i % 5 == 2 ? -1 : (int32_t)(i * 29 % 36); }

static subject read_training_subject(const char *name, ir_recompute recompute) {
  ir_module *module = read_module(name);
  subject s = {0};
  check_ok(rt_bind_random(module, 7, IR_f32, &s.binding), name);
  for (int w = 0; w < module->weight_count; w++) /* small divisors would turn angles so large that f32 does not hold them */
    for (int64_t i = 0; module->weights[w].filled && i < reference_weight_size(module, w); i++)
      ((float *)(uintptr_t)rt_binding_get(s.binding, w, 0)->data)[i] = (float)module->weights[w].fill;
  check_ok(ps_differentiate(module, &(ps_training){.recompute = recompute}), name);
  ps_options options = {.verify_each = true, .stress_reparse = true};
  check_ok(ps_run(&module, NULL, 0, &options), name);
  tile_target target = {.cores = 2, .task_bytes = 8192};
  check_ok(ps_schedule(module, "train", &target, &s.program), name);
  ir_module_free(module);
  static const int64_t shapes[][2] = {{1, 1}, {100, 1}, {200, 3}};
  for (size_t i = 0; i < DP_COUNT(shapes); i++) check_ok(tile_check(s.program, shapes[i][0], 0, shapes[i][1], 0), name);
  return s;
}

/* Two sequences: the first tokens of the list, and fewer from a later one on. */
enum { SEQUENCES = 2, LATER = 7, FEWER = 37 };

typedef struct batch {
  int32_t tokens[TOKENS], targets[TOKENS], bits[TOKENS];
  float coefficients[TOKENS];
} batch;

static batch make_batch(void) {
  batch b;
  for (int i = 0; i < TOKENS; i++) {
    b.tokens[i] = token_at(i), b.targets[i] = target_at(i);
    b.coefficients[i] = i % 3 == 1 ? -0.75f : 1 + 0.01f * (float)i;
    memcpy(&b.bits[i], &b.coefficients[i], sizeof b.bits[i]);
  }
  return b;
}

/* Gradients of all weights of `module` one after another, of the sequences in one step or in one each. */
static result train(const subject *s, ir_module *module, const char *backend, int workers, bool cut) {
  tile_code *code;
  rt_engine *engine;
  rt_binding *gradients;
  rt_request requests[SEQUENCES];
  batch b = make_batch();
  check_ok(cg_build(cg_find_backend(backend), s->program, NULL, NULL, &code, NULL, NULL), backend);
  rt_engine_options options = {.workers = workers, .context = CONTEXT, .max_tokens = 512};
  check_ok(rt_engine_new(s->program, code, s->binding, &options, &engine), backend);
  for (int i = 0; i < SEQUENCES; i++) {
    requests[i] = (rt_request){NULL, b.tokens + i * LATER, TOKENS - FEWER * i, RT_WANT_NONE, b.targets + i * LATER,
                                b.coefficients + i * LATER, NULL};
    check_ok(rt_sequence_new(engine, &requests[i].sequence), backend);
  }
  for (int i = 0; i < (cut ? SEQUENCES : 1); i++)
    check_ok(rt_engine_step(engine, requests + i, cut ? 1 : SEQUENCES, NULL), backend);
  check_ok(rt_engine_bind(engine, TILE_GRADIENT, module, s->binding, &gradients), backend);
  result r = {.rows = 1};
  for (int w = 0; w < module->weight_count; w++) {
    int64_t layers = rt_binding_layers(s->binding, w), size = reference_weight_size(module, w) / layers;
    r.data = realloc(r.data, sizeof(float) * (size_t)(r.columns + layers * size));
    for (int64_t i = 0; i < layers; i++, r.columns += size)
      if (rt_binding_get(gradients, w, i))
        rt_bound_to_f32(rt_binding_get(gradients, w, i), r.data + r.columns);
      else /* nothing flows to it */
        memset(r.data + r.columns, 0, sizeof(float) * (size_t)size);
  }
  rt_binding_free(gradients);
  rt_engine_free(engine);
  code->free(code);
  return r;
}

/* The same by the reference, of one weight. */
static double **reference_gradients(const char *name, const subject *s) {
  static const char *const names[] = {"tokens", "targets", "coefficients"};
  ir_module *module = read_module(name);
  check_ok(ps_differentiate(module, &(ps_training){0}), name);
  batch b = make_batch();
  double **weights = calloc((size_t)module->weight_count, sizeof *weights), *losses;
  double **gradients = calloc((size_t)module->weight_count, sizeof *gradients);
  for (int w = 0; w < module->weight_count; w++) {
    int64_t all = reference_weight_size(module, w), size = all / rt_binding_layers(s->binding, w), columns;
    weights[w] = malloc(sizeof **weights * (size_t)all);
    gradients[w] = calloc((size_t)all, sizeof **gradients);
    for (columns = 0; columns < all; columns++)
      weights[w][columns] = ((const float *)(const void *)rt_binding_get(s->binding, w, columns / size)->data)[columns % size];
  }
  for (int i = 0; i < SEQUENCES; i++) {
    int64_t columns;
    const int32_t *inputs[] = {b.tokens + i * LATER, b.targets + i * LATER, b.bits + i * LATER};
    reference r = {module, weights, gradients, TOKENS - FEWER * i, names, inputs, 3};
    check_ok(reference_run(&r, ir_find_graph(module, "train"), &losses, &columns), name);
    free(losses);
  }
  for (int w = 0; w < module->weight_count; w++) free(weights[w]);
  free(weights);
  ir_module_free(module);
  return gradients;
}

static void agree(const char *name, const subject *s, const ir_module *module, const result *got) {
  double **expected = reference_gradients(name, s);
  const float *at = got->data;
  for (int w = 0; w < module->weight_count; w++) {
    double wrong = 0, size = 0;
    for (int64_t i = 0; i < reference_weight_size(module, w); i++, at++) {
      wrong += (*at - expected[w][i]) * (*at - expected[w][i]);
      size += expected[w][i] * expected[w][i];
    }
    ck_assert_msg(wrong <= 1e-8 * size, "%s: the gradient of %s is off by %.1e of its norm", name,
                  module->weights[w].name, sqrt(wrong / size));
    free(expected[w]);
  }
  free(expected);
}

START_TEST(every_cut_of_a_batch_gives_the_interpreter_s_gradients) {
  const char *name = files[_i];
  if (strstr(name, "f16")) return; /* what is rounded on its way into a cache has no gradient of its own */
  subject kept = read_training_subject(name, IR_RECOMPUTE_SELECTIVE), again = read_training_subject(name, IR_RECOMPUTE_BLOCK),
          all = read_training_subject(name, IR_RECOMPUTE_NONE);
  ir_module *module = read_module(name);
  result defined = train(&kept, module, "interp", 2, false);
  agree(name, &kept, module, &defined);
  same_bits(name, "LLVM", &defined, train(&kept, module, "llvm", 1, false));
  same_bits(name, "LLVM with 3 threads, in two steps", &defined, train(&kept, module, "llvm", 3, true));
  same_bits(name, "LLVM, made again", &defined, train(&again, module, "llvm", 2, false));
  same_bits(name, "LLVM, all kept", &defined, train(&all, module, "llvm", 2, false));
  same_bits(name, "the interpreter in two steps, made again", &defined, train(&again, module, "interp", 1, true));
  free(defined.data);
  ir_module_free(module);
  free_subject(&kept);
  free_subject(&again);
  free_subject(&all);
}
END_TEST

int main(void) {
  find_files();
  Suite *suite = suite_create("ops");
  TCase *tcase = tcase_create("ops");
  tcase_set_timeout(tcase, 300);
  tcase_add_loop_test(tcase, every_cut_of_the_work_gives_the_interpreter_s_bits, 0, file_count);
  tcase_add_loop_test(tcase, a_packed_weight_gives_the_interpreter_s_bits_both_ways, 0, IR_DTYPE_COUNT);
  tcase_add_loop_test(tcase, every_cut_of_a_batch_gives_the_interpreter_s_gradients, 0, file_count);
  suite_add_tcase(suite, tcase);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner) + (file_count == 0);
  srunner_free(runner);
  for (int i = 0; i < file_count; i++) free(files[i]);
  return failed != 0;
}
