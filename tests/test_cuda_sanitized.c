/* tests/test_cuda_sanitized.c: the CUDA back end's text under ThreadSanitizer and AddressSanitizer with
 * UndefinedBehaviorSanitizer. Each step of an engine, prefill and decode of a small llama, is written to a file and
 * carried out by a process of its own, which is the text, the host executor and the sanitizer's run-time library: a
 * fiber is a thread to it. What comes back are the interpreter's bits; a planted mistake ends the process with a
 * report. */
#include "tests/cuda_regions.h"
#include "tests/cuda_subject.h"

#include <check.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct sanitizer {
  const char *name, *options, *environment;
} sanitizer;
static const sanitizer thread_sanitizer = {"ThreadSanitizer", "-DHOST_TSAN -fsanitize=thread -g1",
                                           "TSAN_OPTIONS=halt_on_error=1:report_signal_unsafe=0"};
static const sanitizer address_sanitizer = {
    "AddressSanitizer",
    "-DHOST_ASAN -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -g1",
    "ASAN_OPTIONS=detect_leaks=0:detect_stack_use_after_return=0"};

/* A text built with a sanitizer. */
typedef struct process {
  const sanitizer *sanitizer;
  const tile_program *program;
  char folder[40];
  int blocks;
  uint64_t seed;
} process;

static bool runs(const char *fmt, ...) {
  char command[4096];
  va_list args;
  va_start(args, fmt);
  vsnprintf(command, sizeof command, fmt, args);
  va_end(args);
  return system(command) == 0;
}

static bool has_sanitizer(const process *p) {
  bool found =
      runs("cd %s && echo 'int main(void) { return 0; }' > t.cc && c++ -x c++ %s -o t t.cc > t.log 2>&1 && %s ./t "
           ">> t.log 2>&1",
           p->folder, p->sanitizer->options, p->sanitizer->environment);
  if (!found) fprintf(stderr, "skipped: %s does not work with this compiler here\n", p->sanitizer->name);
  return found;
}

/* False, and it says so, where it cannot be. */
static bool build(process *p, const sanitizer *sanitizer, const tile_program *program, const cuda_bug *bug) {
  char path[80];
  dp_str text = {0};
  *p = (process){sanitizer, program, "/tmp/dipper-sanitized-XXXXXX", 3, 1};
  ck_assert(mkdtemp(p->folder) != NULL);
  if (!has_sanitizer(p)) return false;
  cuda_host_part part = {.program = program, .bug = bug ? *bug : (cuda_bug){0}};
  check_ok(cuda_host_source("#include \"" DIPPER_TEST_DIR "/cuda/host.hh\"\n", &part, 1, &text), "the text");
  dp_str_add(&text, "#include \"" DIPPER_TEST_DIR "/cuda/replay.hh\"\n");
  snprintf(path, sizeof path, "%s/step.cc", p->folder);
  check_ok(dp_write_file_atomic(path, text.text, text.length), path);
  dp_str_free(&text);
  double begin = api_seconds();
  ck_assert_msg(runs("cd %s && cc %s %s -o step step.cc -lm", p->folder, cuda_host_options(), sanitizer->options),
                "the text does not compile with %s", sanitizer->name);
  fprintf(stderr, "%s: compiled in %.1f s\n", sanitizer->name, api_seconds() - begin);
  return true;
}

static void remove_process(const process *p) { runs("rm -rf %s", p->folder); }

/* ---- a step in a file */

typedef struct head {
  int64_t entry, blocks, shared_bytes, regions;
  uint64_t seed;
} head;
typedef struct region {
  const char *at, *moved;
  uint64_t bytes, flags, launch;
  char name[40];
} region;

static bool write_launch(const char *path, const process *p, const cuda_launch *launch, const host_region *regions,
                         int count) {
  FILE *file = fopen(path, "wb");
  if (!file) return false;
  head h = {launch->step.entry, p->blocks, cuda_shared_bytes(p->program), count, p->seed};
  fwrite(&h, sizeof h, 1, file);
  for (int i = 0; i < count; i++) {
    region r = {.at = regions[i].at,
                .bytes = regions[i].bytes,
                .flags = (uint64_t)regions[i].flags,
                .launch = regions[i].at == (const char *)launch};
    snprintf(r.name, sizeof r.name, "%s", regions[i].name);
    fwrite(&r, sizeof r, 1, file);
  }
  for (int i = 0; i < count; i++) fwrite(regions[i].at, 1, regions[i].bytes, file);
  return fclose(file) == 0;
}

static bool read_results(const char *path, const host_region *regions, int count) {
  FILE *file = fopen(path, "rb");
  bool sound = file != NULL;
  for (int i = 0; sound && i < count; i++)
    if (!(regions[i].flags & HOST_CONSTANT))
      sound = fread(regions[i].at, 1, regions[i].bytes, file) == regions[i].bytes;
  if (file) fclose(file);
  return sound;
}

/* The report's first lines. */
static dp_status failed(const process *p) {
  char path[80], *text;
  size_t length;
  snprintf(path, sizeof path, "%s/log", p->folder);
  dp_status status = dp_read_file(path, &text, &length);
  if (status.code != DP_OK) return status;
  status = dp_fail(DP_BUG, "%s: %.1200s", p->sanitizer->name, text);
  free(text);
  return status;
}

static dp_status run_in_process(const process *p, const tile_step *step) {
  cuda_host_memory memory = {0};
  cuda_launch launch;
  char in[80], out[80];
  int count;
  snprintf(in, sizeof in, "%s/in", p->folder);
  snprintf(out, sizeof out, "%s/out", p->folder);
  dp_status status = cuda_host_prepare(p->program, step, p->blocks, &memory, &launch);
  host_region *regions = cuda_list_regions(p->program, &launch, p->blocks, false, &count);
  if (status.code == DP_OK && !write_launch(in, p, &launch, regions, count)) status = dp_fail(DP_IO, "no file %s", in);
  if (status.code == DP_OK && !runs("cd %s && %s ./step in out > log 2>&1", p->folder, p->sanitizer->environment))
    status = failed(p);
  else if (status.code == DP_OK && !read_results(out, regions, count))
    status = dp_fail(DP_IO, "no results in %s", out);
  free(regions);
  cuda_host_release(&memory);
  return status;
}

/* ---- an engine */

static dp_status run_step(const tile_code *code, const tile_step *step) {
  process *p = code->self;
  p->seed++;
  double begin = api_seconds();
  dp_status status = run_in_process(p, step);
  fprintf(stderr, "%s: a step of %d tokens: %.1f s\n", p->sanitizer->name, (int)step->rows[TILE_TOKENS],
          api_seconds() - begin);
  return status;
}

/* A prompt of 9 tokens beside one of 3, then a token of each, twice. */
static dp_status infer(const subject *s, const tile_code *code, float *results, size_t *count) {
  static const int32_t ids[] = {5, 17, 3, 60, 2, 44, 9, 31, 8};
  static const int steps[][2] = {{9, 3}, {1, 1}, {1, 1}};
  rt_engine *engine;
  rt_sequence *sequences[2];
  rt_engine_options options = {.workers = 1, .context = 128, .max_tokens = 16};
  check_ok(rt_engine_new(s->program, code, s->binding, &options, &engine), s->name);
  for (int i = 0; i < 2; i++) check_ok(rt_sequence_new(engine, &sequences[i]), s->name);
  dp_status status = DP_SUCCESS;
  *count = 0;
  for (size_t step = 0; step < DP_COUNT(steps) && status.code == DP_OK; step++) {
    rt_request requests[2] = {0};
    rt_logits rows = {0};
    for (int i = 0; i < 2; i++) {
      requests[i].sequence = sequences[i];
      requests[i].tokens = ids + step;
      requests[i].count = steps[step][i];
      requests[i].want = RT_WANT_LAST;
    }
    status = rt_engine_run(engine, 0, requests, 2, &rows);
    for (int64_t r = 0; status.code == DP_OK && r < rows.rows; r++, *count += (size_t)rows.columns)
      memcpy(results + *count, rows.data + r * rows.stride, sizeof *results * (size_t)rows.columns);
  }
  rt_engine_free(engine);
  return status;
}

enum { RESULTS = 4096 };

static subject small_llama(void) { return open_subject(&(subject_options){LLAMA, .cache = "f16"}); }

static void gives_the_interpreter_s_bits_under(const sanitizer *sanitizer) {
  static float defined[RESULTS], results[RESULTS];
  size_t defined_count, count;
  subject s = small_llama();
  process p;
  if (build(&p, sanitizer, s.program, NULL)) {
    tile_code *interp, code = {.run_step = run_step, .self = &p};
    check_ok(cg_build(cg_find_backend("interp"), s.program, NULL, NULL, &interp, NULL, NULL), s.name);
    check_ok(infer(&s, interp, defined, &defined_count), "the interpreter");
    check_ok(infer(&s, &code, results, &count), sanitizer->name);
    ck_assert_uint_eq(count, defined_count);
    ck_assert_uint_gt(count, 0);
    ck_assert_mem_eq(results, defined, sizeof *results * count);
    interp->free(interp);
  }
  remove_process(&p);
  close_subject(&s);
}

static void is_found_by(const sanitizer *sanitizer, const cuda_bug *bug, const char *says) {
  static float results[RESULTS];
  size_t count;
  subject s = small_llama();
  process p;
  if (build(&p, sanitizer, s.program, bug)) {
    tile_code code = {.run_step = run_step, .self = &p};
    dp_status status = infer(&s, &code, results, &count);
    ck_assert_msg(status.code != DP_OK && strstr(dp_status_text(&status), says), "'%s' is not found, but: %s", bug->to,
                  dp_status_text(&status));
    dp_status_free(&status);
  }
  remove_process(&p);
  close_subject(&s);
}

START_TEST(threads_are_sound) { gives_the_interpreter_s_bits_under(&thread_sanitizer); }
END_TEST
START_TEST(a_race_is_found) {
  static const cuda_bug bug = {"      copy_landed<stages - 2>();\n      block_sync();",
                               "      copy_landed<stages - 2>();"};
  is_found_by(&thread_sanitizer, &bug, "data race");
}
END_TEST
START_TEST(memory_is_sound) { gives_the_interpreter_s_bits_under(&address_sanitizer); }
END_TEST
START_TEST(an_access_outside_is_found) {
  static const cuda_bug bug = {"i < launch.counter_count;", "i <= 2 * launch.counter_count;"};
  is_found_by(&address_sanitizer, &bug, "heap-buffer-overflow");
}
END_TEST

int main(void) {
  Suite *suite = suite_create("cuda_sanitized");
  TCase *tests = tcase_create("sanitized");
  tcase_set_timeout(tests, 600);
  tcase_add_test(tests, threads_are_sound);
  tcase_add_test(tests, a_race_is_found);
  tcase_add_test(tests, memory_is_sound);
  tcase_add_test(tests, an_access_outside_is_found);
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed_count = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed_count != 0;
}
