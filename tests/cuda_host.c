/* tests/cuda_host.c: one C++ file a library: each program's text in a namespace of its own, and a function that runs
 * it. */
#include "tests/cuda_host.h"

#include <dlfcn.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef const char *run_function(int entry, const void *launch, int blocks, size_t shared_bytes, uint64_t seed);

struct cuda_host {
  const tile_program **programs;
  run_function **runs;
  int count;
  void *library;
  char folder[32];
};

/* ---- building */

static void add_runner(dp_str *out, const tile_program *program, int index) {
  int entries = program->entry_count ? program->entry_count : 1;
  for (int e = 0; e < entries; e++)
    dp_str_addf(out, "static void p%d_step_%d(const void *l) { p%d::dipper_step_%d(*(const p%d::Launch *)l); }\n",
                index, e, index, e, index);
  dp_str_addf(out,
              "extern \"C\" __attribute__((visibility(\"default\"))) const char *p%d_run(int entry, const void "
              "*launch, int blocks, size_t shared, u64 seed) {\n",
              index);
  dp_str_add(out, "  static void (*const steps[])(const void *) = {");
  for (int e = 0; e < entries; e++) dp_str_addf(out, "%sp%d_step_%d", e ? ", " : "", index, e);
  dp_str_addf(out, "};\n  return host_launch(steps[entry], launch, blocks, p%d::THREADS, shared, seed);\n}\n", index);
}

/* A program's text, with the bug in it. */
static dp_status add_text(dp_str *out, const tile_program *program, const cuda_bug *bug) {
  if (!bug) return cuda_text(program, out);
  dp_str sound = {0};
  dp_status status = cuda_text(program, &sound);
  const char *at = status.code == DP_OK ? sound.text : "", *next;
  if (status.code == DP_OK && !strstr(at, bug->from)) status = dp_fail(DP_BUG, "the text has no '%s'", bug->from);
  for (; (next = strstr(at, bug->from)); at = next + strlen(bug->from)) {
    dp_str_addn(out, at, (size_t)(next - at));
    dp_str_add(out, bug->to);
  }
  dp_str_add(out, at);
  dp_str_free(&sound);
  return status;
}

/* Macros are the same in each text, so each may define them again. */
static dp_status write_source(const char *path, const tile_program *const *programs, const cuda_bug *bugs, int count) {
  dp_str out = {0};
  dp_status status = DP_SUCCESS;
  dp_str_addf(&out, "#include \"%s/cuda/host.hh\"\n", DIPPER_TEST_DIR);
  for (int i = 0; i < count && status.code == DP_OK; i++) {
    dp_str_addf(&out, "namespace p%d {\n", i);
    status = add_text(&out, programs[i], bugs ? &bugs[i] : NULL);
    dp_str_add(&out, "}\n");
    add_runner(&out, programs[i], i);
  }
  if (status.code == DP_OK) status = dp_write_file_atomic(path, out.text, out.length);
  dp_str_free(&out);
  return status;
}

static dp_status compile_source(const char *source, const char *library) {
  char command[2048];
  if (system("c++ --version > /dev/null 2>&1") != 0) return dp_fail(DP_NOT_FOUND, "there is no C++ compiler (c++)");
#ifdef __x86_64__
  const char *fma = __builtin_cpu_supports("fma") ? "-mfma" : ""; /* the same bits as libm's, and quicker */
#else
  const char *fma = "";
#endif
  snprintf(command, sizeof command,
           "cc -x c++ -std=c++17 -O1 -w -ffp-contract=off -fno-strict-aliasing -fno-exceptions -fno-rtti -fvisibility=hidden %s -fPIC -shared "
           "-Wl,--version-script=%s/cuda/host.map -o %s %s -lm", /* by cc: without a C++ library, which leaves memory behind */
           fma, DIPPER_TEST_DIR, library, source);
  return system(command) == 0 ? DP_SUCCESS : dp_fail(DP_BUG, "the text does not compile as C++: %s", command);
}

static dp_status open_library(cuda_host *host, const char *path) {
  host->library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!host->library) return dp_fail(DP_IO, "%s", dlerror());
  for (int i = 0; i < host->count; i++) {
    char name[40];
    snprintf(name, sizeof name, "p%d_run", i);
    void *address = dlsym(host->library, name);
    if (!address) return dp_fail(DP_BUG, "the library has no %s", name);
    memcpy(&host->runs[i], &address, sizeof address);
  }
  return DP_SUCCESS;
}

static void path_of(const cuda_host *host, const char *name, char path[80]) {
  snprintf(path, 80, "%s/%s", host->folder, name);
}

dp_status cuda_host_new(const tile_program *const *programs, const cuda_bug *bugs, int count, cuda_host **result) {
  char source[80], library[80];
  *result = NULL;
  cuda_host *host = calloc(1, sizeof *host);
  strcpy(host->folder, "/tmp/dipper-cuda-XXXXXX");
  if (!mkdtemp(host->folder)) {
    free(host);
    return dp_fail(DP_IO, "no temporary folder");
  }
  path_of(host, "steps.cc", source);
  path_of(host, "steps.so", library);
  host->count = count;
  host->programs = calloc((size_t)count, sizeof *host->programs);
  host->runs = calloc((size_t)count, sizeof *host->runs);
  memcpy(host->programs, programs, sizeof *programs * (size_t)count);
  dp_status status = write_source(source, programs, bugs, count);
  if (status.code == DP_OK) status = compile_source(source, library);
  if (status.code == DP_OK) status = open_library(host, library);
  if (status.code == DP_OK)
    *result = host;
  else
    cuda_host_free(host);
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

typedef struct memory {
  uint32_t *counters;
  int32_t *first_segment;
  float *scratch;
  int32_t *ended;
} memory;

static dp_status run(const cuda_host *host, int program, const tile_step *step, int blocks, uint64_t seed, memory *m) {
  const tile_program *p = host->programs[program];
  int64_t tokens = step->rows[TILE_TOKENS], outputs = step->rows[TILE_OUTPUTS];
  cuda_launch launch = {.step = *step, .tiles = cuda_counter_tiles(p, tokens > outputs ? tokens : outputs)};
  launch.counter_count = cuda_counter_count(p, launch.tiles);
  launch.scratch_floats = cuda_scratch_floats(p);
  size_t scratch = sizeof(float) * (size_t)(launch.scratch_floats * blocks);
  m->counters = calloc((size_t)launch.counter_count * 2 + 1, sizeof *m->counters);
  m->first_segment = calloc((size_t)tile_row_tiles(p, tokens) + 2, sizeof *m->first_segment);
  m->scratch = aligned_alloc(128, (scratch + 255) / 128 * 128);
  if (!m->counters || !m->first_segment || !m->scratch) return dp_fail(DP_NO_MEMORY, "no memory for a launch");
  memset(m->scratch, 0xff, scratch);
  cuda_list_segments(p, step, m->first_segment);
  launch.counters = m->counters;
  launch.other_counters = m->counters + launch.counter_count;
  memset(launch.other_counters, 0xff, sizeof *m->counters * (size_t)launch.counter_count);
  launch.first_segment = m->first_segment;
  launch.scratch = m->scratch;
  uint32_t meeting[] = {0xfffffff9, 0xfffffffe}; /* about to begin again at 0 */
  launch.meeting = meeting;
  launch.arrived = meeting[0];
  launch.released = meeting[1];
  m->ended = malloc(sizeof *m->ended * (size_t)(outputs + 1));
  if (!m->ended) return dp_fail(DP_NO_MEMORY, "no memory for a launch");
  launch.ended = m->ended;
  const char *error = host->runs[program]((int)step->entry, &launch, blocks, (size_t)cuda_shared_bytes(p), seed);
  if (error) return dp_fail(DP_BUG, "%s, seed %" PRIu64 ", %d blocks: %s", p->name, seed, blocks, error);
  const uint32_t *cleared = step->turned && step->turned[0] % 2 == 0 ? launch.counters : launch.other_counters;
  for (int64_t i = 0; i < launch.counter_count; i++)
    if (cleared[i]) return dp_fail(DP_BUG, "%s: the other counters are not cleared", p->name);
  return DP_SUCCESS;
}

dp_status cuda_host_run(const cuda_host *host, int program, const tile_step *step, int blocks, uint64_t seed) {
  memory m = {0};
  dp_status status = run(host, program, step, blocks, seed, &m);
  free(m.counters);
  free(m.first_segment);
  free(m.scratch);
  free(m.ended);
  return status;
}

cg_object cuda_host_image(const cuda_host *host, int program) {
  dp_str text = {0};
  dp_str_addf(&text, "host:%s/steps.so:p%d_run", host->folder, program);
  return (cg_object){text.text, text.length};
}

/* ---- as code */

typedef struct host_code {
  const cuda_host *host;
  int program, blocks;
  uint64_t seed;
} host_code;

static dp_status run_step(const tile_code *code, const tile_step *step) {
  host_code *self = code->self;
  return cuda_host_run(self->host, self->program, step, self->blocks, self->seed++);
}

static void free_code(tile_code *code) { free(code->self); }

void cuda_host_code(const cuda_host *host, int program, int blocks, uint64_t seed, tile_code *code) {
  host_code *self = malloc(sizeof *self);
  *self = (host_code){host, program, blocks, seed};
  *code = (tile_code){.run_step = run_step, .takes_turns = true, .free = free_code, .self = self};
}
