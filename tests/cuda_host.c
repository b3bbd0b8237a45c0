/* tests/cuda_host.c: one C++ file a library: each program's text in a namespace of its own, and a function that runs
 * it. */
#include "tests/cuda_host.h"
#include "codegen/cuda/image.h"
#include "tests/cuda_regions.h"
#include "tests/cuda_report.h"

#include <dlfcn.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef const char *run_function(int entry, const void *launch, int blocks, size_t shared_bytes, uint64_t seed);
typedef const char *check_function(int entry, const void *launch, int blocks, size_t shared_bytes, uint64_t seed,
                                   const host_region *regions, int region_count);

struct cuda_host {
  const tile_program **programs;
  check_function **runs;
  int count;
  void *library;
  char folder[32];
};

/* ---- building */

static void add_runner(dp_str *out, const cuda_host_part *part, int index) {
  int entries = part->program->entry_count && !part->more ? part->program->entry_count : 1;
  for (int e = 0; e < entries; e++) {
    dp_str_addf(out, "static void p%d_step_%d(const void *l) { p%d::", index, e, index);
    dp_str_addf(out, part->more ? "own_step" : "dipper_step_%d", e);
    dp_str_addf(out, "(*(const p%d::Launch *)l); }\n", index);
  }
  dp_str_addf(out,
              "extern \"C\" __attribute__((visibility(\"default\"))) const char *p%d_check(int entry, const void "
              "*launch, int blocks, size_t shared, u64 seed, const host_region *regions, int region_count) {\n",
              index);
  dp_str_add(out, "  static void (*const steps[])(const void *) = {");
  for (int e = 0; e < entries; e++) dp_str_addf(out, "%sp%d_step_%d", e ? ", " : "", index, e);
  dp_str_addf(out,
              "};\n  return host_launch(steps[entry], launch, blocks, p%d::THREADS, shared, seed, regions, "
              "region_count);\n}\n",
              index);
  dp_str_addf(out,
              "extern \"C\" __attribute__((visibility(\"default\"))) const char *p%d_run(int entry, const void "
              "*launch, int blocks, size_t shared, u64 seed) {\n"
              "  return p%d_check(entry, launch, blocks, shared, seed, NULL, 0);\n}\n",
              index, index);
}

/* A program's text, with the bug in it. */
static dp_status add_text(dp_str *out, const cuda_host_part *part) {
  const cuda_bug *bug = &part->bug;
  dp_str sound = {0};
  dp_status status = cuda_text(part->program, &sound);
  if (part->more) dp_str_add(&sound, part->more);
  const char *at = status.code == DP_OK ? sound.text : "", *next;
  if (status.code == DP_OK && bug->from && !strstr(at, bug->from))
    status = dp_fail(DP_BUG, "the text has no '%s'", bug->from);
  for (; bug->from && (next = strstr(at, bug->from)); at = next + strlen(bug->from)) {
    dp_str_addn(out, at, (size_t)(next - at));
    dp_str_add(out, bug->to);
  }
  dp_str_add(out, at);
  dp_str_free(&sound);
  return status;
}

/* Macros are the same in each text, so each may define them again. */
dp_status cuda_host_source(const char *head, const cuda_host_part *parts, int count, dp_str *out) {
  dp_status status = DP_SUCCESS;
  dp_str_add(out, head);
  for (int i = 0; i < count && status.code == DP_OK; i++) {
    dp_str_addf(out, "namespace p%d {\n", i);
    status = add_text(out, &parts[i]);
    dp_str_add(out, "}\n");
    add_runner(out, &parts[i], i);
  }
  return status;
}

static dp_status write_source(const char *path, const cuda_host_part *parts, int count) {
  dp_str out = {0};
  dp_status status = cuda_host_source("#include \"" DIPPER_TEST_DIR "/cuda/host.hh\"\n", parts, count, &out);
  if (status.code == DP_OK) status = dp_write_file_atomic(path, out.text, out.length);
  dp_str_free(&out);
  return status;
}

#define OPTIONS "-x c++ -std=c++17 -O1 -w -ffp-contract=off -fno-strict-aliasing -fno-exceptions -fno-rtti"

const char *cuda_host_options(void) {
#ifdef __x86_64__
  if (__builtin_cpu_supports("fma")) return OPTIONS " -mfma"; /* the same bits as libm's, and quicker */
#endif
  return OPTIONS;
}

/* The instrumentation alone: without its run-time library, in whose place check.hh stands. */
static const char checked_options[] = "-DHOST_CHECKED -fsanitize=thread -g1";

/* By cc: without a C++ library, which leaves memory behind. */
static dp_status compile_source(const char *folder, cuda_host_mode mode) {
  char command[2048];
  if (system("c++ --version > /dev/null 2>&1") != 0) return dp_fail(DP_NOT_FOUND, "there is no C++ compiler (c++)");
  snprintf(command, sizeof command,
           "cd %s && cc %s -fvisibility=hidden %s -fPIC -c -o steps.o steps.cc && "
           "cc -shared -Wl,--version-script=%s/cuda/host.map -o steps.so steps.o -lm; e=$?; rm -f steps.o; exit $e",
           folder, cuda_host_options(), mode == CUDA_HOST_CHECKED ? checked_options : "", DIPPER_TEST_DIR);
  return system(command) == 0 ? DP_SUCCESS : dp_fail(DP_BUG, "the text does not compile as C++: %s", command);
}

static dp_status open_library(cuda_host *host, const char *path) {
  host->library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!host->library) return dp_fail(DP_IO, "%s", dlerror());
  for (int i = 0; i < host->count; i++) {
    char name[40];
    snprintf(name, sizeof name, "p%d_check", i);
    void *address = dlsym(host->library, name);
    if (!address) return dp_fail(DP_BUG, "the library has no %s", name);
    memcpy(&host->runs[i], &address, sizeof address);
  }
  return DP_SUCCESS;
}

static void path_of(const cuda_host *host, const char *name, char path[80]) {
  snprintf(path, 80, "%s/%s", host->folder, name);
}

static dp_status build(cuda_host *host, const cuda_host_part *parts, int count, cuda_host_mode mode) {
  char source[80], library[80];
  path_of(host, "steps.cc", source);
  path_of(host, "steps.so", library);
  host->count = count;
  host->programs = calloc((size_t)count, sizeof *host->programs);
  host->runs = calloc((size_t)count, sizeof *host->runs);
  for (int i = 0; i < count; i++) host->programs[i] = parts[i].program;
  DP_TRY(write_source(source, parts, count));
  DP_TRY(compile_source(host->folder, mode));
  return open_library(host, library);
}

dp_status cuda_host_build(const cuda_host_part *parts, int count, cuda_host_mode mode, cuda_host **result) {
  *result = NULL;
  cuda_host *host = calloc(1, sizeof *host);
  strcpy(host->folder, "/tmp/dipper-cuda-XXXXXX");
  if (!mkdtemp(host->folder)) {
    free(host);
    return dp_fail(DP_IO, "no temporary folder");
  }
  dp_status status = build(host, parts, count, mode);
  if (status.code == DP_OK)
    *result = host;
  else
    cuda_host_free(host);
  return status;
}

dp_status cuda_host_new(const tile_program *const *programs, const cuda_bug *bugs, int count, cuda_host **host) {
  cuda_host_part *parts = calloc((size_t)count, sizeof *parts);
  for (int i = 0; i < count; i++) parts[i] = (cuda_host_part){.program = programs[i]};
  for (int i = 0; bugs && i < count; i++) parts[i].bug = bugs[i];
  dp_status status = cuda_host_build(parts, count, CUDA_HOST_PLAIN, host);
  free(parts);
  return status;
}

void cuda_host_free(cuda_host *host) {
  char path[80];
  if (!host) return;
  path_of(host, "steps.cc", path);
  unlink(path);
  path_of(host, "steps.so", path);
  unlink(path);
  rmdir(host->folder);
  if (host->library) dlclose(host->library);
  free(host->programs);
  free(host->runs);
  free(host);
}

/* ---- running */

dp_status cuda_host_prepare(const tile_program *p, const tile_step *step, int blocks, cuda_host_memory *m,
                            cuda_launch *launch) {
  int64_t tokens = step->rows[TILE_TOKENS], outputs = step->rows[TILE_OUTPUTS];
  *launch = (cuda_launch){.step = *step, .tiles = cuda_counter_tiles(p, tokens > outputs ? tokens : outputs)};
  launch->counter_count = cuda_counter_count(p, launch->tiles);
  launch->scratch_floats = cuda_scratch_floats(p);
  size_t scratch = sizeof(float) * (size_t)(launch->scratch_floats * blocks);
  m->counters = calloc((size_t)launch->counter_count * 2 + 1, sizeof *m->counters);
  m->first_segment = calloc((size_t)tile_row_tiles(p, tokens) + 2, sizeof *m->first_segment);
  m->scratch = aligned_alloc(128, (scratch + 255) / 128 * 128);
  if (!m->counters || !m->first_segment || !m->scratch) return dp_fail(DP_NO_MEMORY, "no memory for a launch");
  memset(m->scratch, 0xff, scratch);
  cuda_list_segments(p, step, m->first_segment);
  launch->counters = m->counters;
  launch->other_counters = m->counters + launch->counter_count;
  memset(launch->other_counters, 0xff, sizeof *m->counters * (size_t)launch->counter_count);
  launch->first_segment = m->first_segment;
  launch->scratch = m->scratch;
  m->meeting[0] = launch->arrived = 0xfffffff9; /* about to begin again at 0 */
  m->meeting[1] = launch->released = 0xfffffffe;
  launch->meeting = m->meeting;
  m->ended = malloc(sizeof *m->ended * (size_t)(outputs + 1));
  if (!m->ended) return dp_fail(DP_NO_MEMORY, "no memory for a launch");
  launch->ended = m->ended;
  return DP_SUCCESS;
}

void cuda_host_release(cuda_host_memory *m) {
  free(m->counters);
  free(m->first_segment);
  free(m->scratch);
  free(m->ended);
}

static dp_status explain(const cuda_host *host, int program, uint64_t seed, int blocks, const char *error) {
  char source[80], library[80];
  dp_str text = {0};
  path_of(host, "steps.cc", source);
  path_of(host, "steps.so", library);
  cuda_explain(&text, library, source, error);
  dp_status status = dp_fail(DP_BUG, "%s, seed %" PRIu64 ", %d blocks: %s", host->programs[program]->name, seed, blocks,
                             text.text);
  dp_str_free(&text);
  return status;
}

dp_status cuda_host_launch(const cuda_host *host, int program, const cuda_launch *launch, int blocks, uint64_t seed,
                           const host_region *regions, int count) {
  const tile_program *p = host->programs[program];
  const char *error = host->runs[program]((int)launch->step.entry, launch, blocks, (size_t)cuda_shared_bytes(p), seed,
                                          regions, count);
  if (error) return explain(host, program, seed, blocks, error);
  const tile_step *step = &launch->step;
  const uint32_t *cleared = step->turned && step->turned[0] % 2 == 0 ? launch->counters : launch->other_counters;
  for (int64_t i = 0; i < launch->counter_count; i++)
    if (cleared[i]) return dp_fail(DP_BUG, "%s: the other counters are not cleared", p->name);
  return DP_SUCCESS;
}

static dp_status launch_step(const cuda_host *host, int program, const cuda_launch *launch, int blocks, uint64_t seed,
                             bool fresh) {
  int count;
  host_region *regions = cuda_list_regions(host->programs[program], launch, blocks, fresh, &count);
  dp_status status = cuda_host_launch(host, program, launch, blocks, seed, regions, count);
  free(regions);
  return status;
}

static dp_status run(const cuda_host *host, int program, const tile_step *step, int blocks, uint64_t seed, bool fresh) {
  cuda_host_memory memory = {0};
  cuda_launch launch;
  cuda_poison_cache(host->programs[program], step);
  dp_status status = cuda_host_prepare(host->programs[program], step, blocks, &memory, &launch);
  if (status.code == DP_OK) status = launch_step(host, program, &launch, blocks, seed, fresh);
  cuda_host_release(&memory);
  return status;
}

dp_status cuda_host_run(const cuda_host *host, int program, const tile_step *step, int blocks, uint64_t seed) {
  return run(host, program, step, blocks, seed, false);
}

dp_status cuda_host_run_fresh(const cuda_host *host, int program, const tile_step *step, int blocks, uint64_t seed) {
  return run(host, program, step, blocks, seed, true);
}

cg_object cuda_host_function(const tile_program *program, const char *chip, const char *library, const char *function) {
  cuda_note needs = {.threads = CUDA_THREADS, .shared_bytes = (uint64_t)cuda_shared_bytes(program),
                     .scratch_floats = (uint64_t)cuda_scratch_floats(program)};
  dp_str text = {0};
  cg_object object = {0};
  snprintf(needs.chip, sizeof needs.chip, "%s", chip);
  dp_str_addf(&text, "host:%s:%s", library, function);
  cg_object image = {text.text, text.length + 1}; /* with its NUL */
  dp_status status = cuda_make_object(program, &needs, &image, &object);
  dp_status_free(&status);
  dp_str_free(&text);
  return object;
}

cg_object cuda_host_object(const cuda_host *host, int program, const char *chip) {
  char library[80], function[40];
  path_of(host, "steps.so", library);
  snprintf(function, sizeof function, "p%d_run", program);
  return cuda_host_function(host->programs[program], chip, library, function);
}

cg_object cuda_host_image(const cuda_host *host, int program) { return cuda_host_object(host, program, "ptx"); }

/* ---- as code */

typedef struct host_code {
  const cuda_host *host;
  int program, blocks;
  uint64_t seed;
  bool fresh;
} host_code;

static dp_status run_step(const tile_code *code, const tile_step *step) {
  host_code *self = code->self;
  return run(self->host, self->program, step, self->blocks, self->seed++, self->fresh);
}

static void free_code(tile_code *code) { free(code->self); }

static void make_code(host_code code, tile_code *result) {
  host_code *self = malloc(sizeof *self);
  *self = code;
  *result = (tile_code){.run_step = run_step, .takes_turns = true, .free = free_code, .self = self};
}

void cuda_host_code(const cuda_host *host, int program, int blocks, uint64_t seed, tile_code *code) {
  make_code((host_code){host, program, blocks, seed, false}, code);
}

void cuda_host_code_fresh(const cuda_host *host, int program, int blocks, uint64_t seed, tile_code *code) {
  make_code((host_code){host, program, blocks, seed, true}, code);
}
