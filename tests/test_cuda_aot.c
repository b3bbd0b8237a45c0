/* tests/test_cuda_aot.c: GPU code in what is compiled ahead of time. The object is the JIT's; a damaged or foreign one is
 * refused; executables and libraries take the code that serves the device, else the CPU's, and say why. The device is that of
 * tests/cuda/fake_driver.c, which runs the host executor (tests/cuda/host.hh) and has the capability that FAKE_CUDA names. */
#include "api/internal.h"
#include "codegen/cuda/image.h"
#include "dipper/aot.h"
#include "dipper/model.h"
#include "runtime/engine.h"
#include "tests/cuda_host.h"
#include "tests/tile_fixture.h"

#include <check.h>
#include <dirent.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define LLAMA DIPPER_SOURCE_DIR "/models/llama.dip"
#define TINY DIPPER_TEST_DIR "/golden/tiny_llama/model.safetensors"

static char folder[] = "/tmp/dipper-cuda-aot-XXXXXX";

static const char *in_folder(const char *name) {
  static char paths[8][256];
  static int next;
  char *path = paths[next++ % 8];
  snprintf(path, sizeof paths[0], "%s/%s", folder, name);
  return path;
}

static void check_ok(dp_status status) { ck_assert_msg(status.code == DP_OK, "%s", dp_status_text(&status)); }

static void check_fails(dp_status status, dp_code code, const char *text) {
  ck_assert_msg(status.code == code && strstr(dp_status_text(&status), text), "wanted %d '%s', got %d '%s'", code, text,
                status.code, dp_status_text(&status));
  dp_status_free(&status);
}

/* Runs a shell's command in the folder; returns its exit status, what it wrote in `out`. */
static int run(const char *command, char *out, size_t size) {
  char line[4096], *text;
  size_t length;
  snprintf(line, sizeof line, "cd %s && export DIPPER_CACHE=%s/cache M=%s W=%s F=" DIPPER_FAKE_CUDA " && dipper() { " DIPPER_COMMAND
           " \"$@\"; } && { %s ; } >out 2>&1 </dev/null", folder, folder, LLAMA, TINY, command);
  int state = system(line);
  check_ok(dp_read_file(in_folder("out"), &text, &length));
  if (size) snprintf(out, size, "%s", text);
  free(text);
  return WIFEXITED(state) ? WEXITSTATUS(state) : 128 + WTERMSIG(state);
}

static void run_well(const char *command) {
  char out[2000];
  int code = run(command, out, sizeof out);
  ck_assert_msg(code == 0, "%s: exit status %d: %s", command, code, out);
}

static bool has_llvm(void) {
  if (cg_find_backend("llvm")) return true;
  fprintf(stderr, "skipped: this build has no LLVM\n");
  return false;
}

static bool has_nvrtc(void) {
  dp_str version = {0};
  dp_status status = cuda_find_compiler(&version);
  bool found = status.code == DP_OK;
  if (!found) fprintf(stderr, "skipped: %s\n", dp_status_text(&status));
  dp_status_free(&status);
  dp_str_free(&version);
  return found;
}

/* A driver, of a device with that capability or fault. NULL: none. */
static void set_device(const char *fake) {
  setenv("DIPPER_LIBCUDA", fake ? DIPPER_FAKE_CUDA : "/nowhere/libcuda.so.1", 1);
  if (fake)
    setenv("FAKE_CUDA", fake, 1);
  else
    unsetenv("FAKE_CUDA");
}

static void forget_device(void) {
  unsetenv("DIPPER_LIBCUDA");
  unsetenv("FAKE_CUDA");
}

/* ---- objects */

static const struct {
  const char *chip;
  int major, minor;
  bool serves;
} served[] = {
    {"sm_80", 8, 0, true},   {"sm_80", 8, 6, true},    {"sm_80", 8, 9, true},    {"sm_80", 7, 5, false},  {"sm_80", 9, 0, false},
    {"sm_86", 8, 0, false},  {"sm_86", 8, 9, true},    {"sm_90a", 9, 0, true},   {"sm_90a", 10, 0, false}, {"sm_90a", 8, 9, false},
    {"sm_100a", 10, 0, true}, {"sm_100a", 10, 3, false}, {"sm_100a", 12, 0, false}, {"sm_120", 12, 1, true}, {"ptx", 7, 5, false},
    {"ptx", 8, 0, true},     {"ptx", 12, 1, true},     {"sm_", 8, 0, false},     {"sm_80x", 8, 0, false}, {"gfx90a", 9, 0, false},
    {"", 9, 0, false},
};

START_TEST(a_chip_s_code_serves_the_devices_that_the_driver_gives_it_to) {
  for (size_t i = 0; i < DP_COUNT(served); i++)
    ck_assert_msg((cuda_chip_serves(served[i].chip, served[i].major, served[i].minor) > 0) == served[i].serves,
                  "'%s' on %d.%d", served[i].chip, served[i].major, served[i].minor);
  ck_assert_int_gt(cuda_chip_serves("sm_86", 8, 9), cuda_chip_serves("sm_80", 8, 9));
  ck_assert_int_gt(cuda_chip_serves("sm_80", 8, 9), cuda_chip_serves("ptx", 8, 9));
  ck_assert_int_gt(cuda_chip_serves("sm_90a", 9, 0), cuda_chip_serves("sm_90", 9, 0));
}
END_TEST

/* An exact copy: a byte behind it is out of bounds. */
static dp_status open_copy(const tile_program *program, const cg_object *object, size_t size, size_t flipped) {
  cuda_note note;
  const void *image;
  char *copy = malloc(size ? size : 1);
  memcpy(copy, object->bytes, size);
  if (flipped < size) copy[flipped] ^= 0x20;
  dp_status status = cuda_open_object(program, &(cg_object){copy, size}, &note, &image);
  free(copy);
  return status;
}

START_TEST(damaged_objects_are_refused) {
  fixture *f = fixture_build(fixture_find("columns"), 1);
  cg_object object = cuda_host_function(f->program, "sm_90a", "/nowhere.so", "run"), none = {malloc(1), 0};
  check_ok(open_copy(f->program, &object, object.size, SIZE_MAX));
  for (size_t at = 0; at < object.size; at++) {
    dp_status status = open_copy(f->program, &object, object.size, at);
    ck_assert_msg(status.code == DP_INVALID || status.code == DP_UNSUPPORTED, "byte %zu of %zu is damaged, and it opens", at, object.size);
    dp_status_free(&status);
    check_fails(open_copy(f->program, &object, at, SIZE_MAX), DP_INVALID, "is damaged");
  }
  check_fails(open_copy(f->program, &object, object.size, 0), DP_INVALID, "no GPU code of dipper's");
  check_fails(open_copy(f->program, &object, object.size, 8), DP_UNSUPPORTED, "another version");
  check_fails(open_copy(f->program, &none, 0, SIZE_MAX), DP_INVALID, "too short");
  cg_object_free(&object);
  cg_object_free(&none);
  fixture_free(f);
}
END_TEST

/* PTX that does not end would be read on by a driver. */
START_TEST(an_object_asks_for_what_a_device_can_have) {
  fixture *f = fixture_build(fixture_find("columns"), 1);
  cuda_note sound = {.threads = 256, .shared_bytes = 1024, .scratch_floats = 1, .chip = "ptx"}, many = sound, shared = sound, unnamed = sound;
  cg_object image = {(char[]){"//\n"}, 4}, unended = {image.bytes, 3}, object;
  many.threads = 2048;
  shared.shared_bytes = 1 << 25;
  memset(unnamed.chip, 'x', sizeof unnamed.chip);
  const struct {
    cuda_note note;
    const cg_object *image;
    bool good;
  } cases[] = {{sound, &image, true}, {many, &image, false}, {shared, &image, false}, {unnamed, &image, false}, {sound, &unended, false}};
  for (size_t i = 0; i < DP_COUNT(cases); i++) {
    check_ok(cuda_make_object(f->program, &cases[i].note, cases[i].image, &object));
    dp_status status = open_copy(f->program, &object, object.size, SIZE_MAX);
    ck_assert_msg((status.code == DP_OK) == cases[i].good, "case %zu: %s", i, dp_status_text(&status));
    dp_status_free(&status);
    cg_object_free(&object);
  }
  fixture_free(f);
}
END_TEST

START_TEST(a_device_gets_no_foreign_object) {
  fixture *one = fixture_build(fixture_find("columns"), 1), *other = fixture_build(fixture_find("columns"), 1);
  other->program->row_tile *= 2;
  const cg_backend *gpu = cg_find_backend("cuda");
  cg_object object = cuda_host_function(one->program, "ptx", DIPPER_FAKE_CUDA, "cuInit");
  cg_object hopper = cuda_host_function(one->program, "sm_90a", DIPPER_FAKE_CUDA, "cuInit");
  tile_code *code;
  set_device("8.6");
  check_ok(gpu->load(one->program, &object, &code));
  code->free(code);
  check_fails(gpu->load(other->program, &object, &code), DP_INVALID, "not compiled of this program");
  check_fails(gpu->load(one->program, &hopper, &code), DP_UNSUPPORTED, "is for sm_90a, and Fake GPU has compute capability 8.6");
  ((char *)object.bytes)[object.size - 2] ^= 1;
  check_fails(gpu->load(one->program, &object, &code), DP_INVALID, "damaged");
  forget_device();
  cg_object_free(&object);
  cg_object_free(&hopper);
  fixture_free(one);
  fixture_free(other);
}
END_TEST

/* ---- one path for the JIT and for ahead of time */

static tile_program *gpu_program(api_source *source) {
  dp_options options = {.path = LLAMA, .weights = TINY, .backend = "cuda"};
  tile_program *program;
  check_ok(api_open_source(&options, API_WEIGHTS, source));
  check_ok(api_schedule(&options, source, &program));
  return program;
}

/* The entry that the JIT left in a cache: behind its header. */
static char *only_entry(const char *path, size_t *size) {
  DIR *dir = opendir(path);
  ck_assert_msg(dir != NULL, "no folder %s", path);
  char *entry = NULL, name[512];
  for (struct dirent *e; (e = readdir(dir));) {
    if (e->d_name[0] == '.') continue;
    ck_assert_msg(!entry, "more than one entry");
    snprintf(name, sizeof name, "%s/%.200s", path, e->d_name);
    check_ok(dp_read_file(name, &entry, size));
  }
  closedir(dir);
  ck_assert_ptr_nonnull(entry);
  return entry;
}

static void same_bytes(const char *what, const void *a, size_t a_size, const void *b, size_t b_size) {
  ck_assert_msg(a_size == b_size, "%s: %zu and %zu bytes", what, a_size, b_size);
  for (size_t i = 0; i < a_size; i++)
    ck_assert_msg(((const char *)a)[i] == ((const char *)b)[i], "%s: byte %zu of %zu differs", what, i, a_size);
}

START_TEST(the_object_is_the_one_that_the_cache_keeps) {
  if (!has_llvm() || !has_nvrtc()) return;
  api_source source;
  tile_program *program = gpu_program(&source);
  tile_code *code;
  bool compiled;
  char *entry, *file;
  size_t entry_size, file_size;
  set_device("9.0");
  check_ok(cg_build(cg_find_backend("cuda"), program, NULL, in_folder("jit"), &code, &compiled, NULL));
  ck_assert(compiled);
  code->free(code);
  check_ok(cg_build(cg_find_backend("cuda"), program, NULL, in_folder("jit"), &code, &compiled, NULL));
  ck_assert(!compiled);
  code->free(code);
  forget_device();
  run_well("dipper compile $M --weights $W --target sm_90a --emit obj -o gpu.o && "
           "dipper compile $M --weights $W --target sm_90a --emit exe -o gpu.exe");
  entry = only_entry(in_folder("jit"), &entry_size);
  check_ok(dp_read_file(in_folder("gpu.o"), &file, &file_size));
  same_bytes("the cache's and --emit obj's", entry + 48, entry_size - 48, file, file_size);
  api_package package;
  check_ok(api_open_package(in_folder("gpu.exe"), &package));
  int parts = 0;
  for (int i = 0; i < package.count; i++) {
    const api_package_entry *e = &package.entries[i];
    if (e->part != API_PART_GPU_OBJECT) continue;
    same_bytes("the package's and --emit obj's", package.file.data + e->offset, e->size, file, file_size);
    ck_assert_str_eq(e->name, "sm_90a");
    parts++;
  }
  ck_assert_int_eq(parts, 1);
  ck_assert_msg(api_package_names(&package, API_PART_OBJECT, NULL, 0) == 1, "no code for this machine's CPU goes with it");
  cuda_note note;
  const void *image;
  check_ok(cuda_open_object(program, &(cg_object){file, file_size}, &note, &image));
  ck_assert_uint_eq(note.scratch_floats, (uint64_t)cuda_scratch_floats(program));
  ck_assert_mem_eq(image, "\177ELF", 4);
  api_close_package(&package);
  free(entry);
  free(file);
  tile_program_free(program);
  api_close_source(&source);
}
END_TEST

START_TEST(gpu_code_is_written_for_other_tools) {
  if (!has_nvrtc()) return;
  char out[8000], *file;
  size_t size;
  int code = run("dipper compile $M --weights $W --emit cu -o m.cu && dipper ir $M --weights $W --emit cu >ir.cu && cmp m.cu ir.cu && "
                 "dipper compile $M --weights $W --target ptx --emit ptx -o m.ptx && grep -q '^.target sm_80' m.ptx && "
                 "dipper ir $M --weights $W --emit cubin --target-cpu sm_100a -o ir.cubin && "
                 "dipper compile $M --weights $W --target sm_100a --emit cubin --report -o m.cubin && cmp m.cubin ir.cubin", out, sizeof out);
  ck_assert_msg(code == 0, "exit status %d: %s", code, out);
  ck_assert_msg(strstr(out, "sm_100a: ") && strstr(out, " bytes in ") && strstr(out, "registers") && strstr(out, "  dipper_step_0\n"),
                "the report says: %s", out);
  check_ok(dp_read_file(in_folder("m.cubin"), &file, &size));
  ck_assert(size > 64 && memcmp(file, "\177ELF", 4) == 0 && file[18] == (char)190); /* EM_CUDA */
  free(file);
}
END_TEST

/* As NVRTC 13.0 writes it. */
static const char log_text[] =
    "ptxas info    : 0 bytes gmem\n"
    "ptxas info    : Compiling entry function 'dipper_step_0' for 'sm_90a'\n"
    "ptxas info    : Function properties for dipper_step_0\n"
    "ptxas         .     56 bytes stack frame, 8 bytes spill stores, 16 bytes spill loads\n"
    "ptxas info    : Used 212 registers, used 1 barriers, 56 bytes cumulative stack size, 1024 bytes smem\n"
    "ptxas info    : Compile time = 4119.910 ms\n"
    "ptxas info    : Function properties for _ZN37_INTERNAL_00000000_7_step_cu_93a59bd610group_2_wqERK6LaunchR5Blockii\n"
    "ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n"
    "ptxas info    : Function properties for _ZN37_INTERNAL_00000000_7_step_cu_93a59bd67productI10stored_f32EEvRK5Block\n"
    "ptxas         .     24 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n"
    "ptxas info    : Function properties for _ZN99999\n"
    "ptxas         .     4 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads";

START_TEST(a_report_has_a_line_a_function) {
  dp_str out = {0};
  cuda_report(log_text, &out);
  ck_assert_str_eq(out.text, "  registers  shared  stack spill stores spill loads  function (bytes)\n"
                             "        212    1024     56            8          16  dipper_step_0\n"
                             "                         0            0           0  group_2_wq\n"
                             "                        24            0           0  product<stored_f32>\n"
                             "                         4            0           0  _ZN99999\n");
  dp_str_free(&out);
  cuda_report("", &out);
  cuda_report("ptxas info    : Function properties for x", &out);
  ck_assert_uint_eq(out.length, 0);
  dp_str_free(&out);
}
END_TEST

/* ---- packages */

enum { COUNT = 5 };
static const int32_t ids[COUNT] = {1, 5, 9, 2, 7};

/* The program's texts as a library, and what they answer on three blocks. */
typedef struct subject {
  api_source source;
  tile_program *program;
  cuda_host *host;
  float *logits; /* [COUNT, columns] */
  size_t bytes;
} subject;

static void define_logits(subject *s) {
  tile_code code;
  rt_engine *engine;
  rt_sequence *sequence;
  rt_logits rows;
  rt_engine_options options = {.workers = 1, .context = 64, .max_tokens = 16};
  cuda_host_code(s->host, 0, 3, 11, &code);
  check_ok(rt_engine_new(s->program, &code, s->source.binding, &options, &engine));
  check_ok(rt_sequence_new(engine, &sequence));
  rt_request request = {sequence, ids, COUNT, RT_WANT_ALL, NULL, NULL};
  check_ok(rt_engine_run(engine, 0, &request, 1, &rows));
  s->bytes = sizeof(float) * (size_t)(rows.columns * COUNT);
  s->logits = malloc(s->bytes);
  for (int64_t r = 0; r < COUNT; r++) memcpy(s->logits + r * rows.columns, rows.data + r * rows.stride, s->bytes / COUNT);
  rt_sequence_free(engine, sequence);
  rt_engine_free(engine);
  code.free(&code);
}

static subject tiny; /* of all tests of packages */

static void open_tiny(void) {
  tiny.program = gpu_program(&tiny.source);
  const tile_program *programs[] = {tiny.program};
  dp_status status = cuda_host_new(programs, NULL, 1, &tiny.host);
  if (status.code == DP_NOT_FOUND) { /* no C++ compiler */
    fprintf(stderr, "skipped: %s\n", dp_status_text(&status));
    dp_status_free(&status);
    return;
  }
  check_ok(status);
  define_logits(&tiny);
}

static void close_tiny(void) {
  cuda_host_free(tiny.host);
  tile_program_free(tiny.program);
  api_close_source(&tiny.source);
  free(tiny.logits);
}

static const subject *find_tiny(void) { return has_llvm() && tiny.host ? &tiny : NULL; }

/* The package of `from` again, but for a kind of part (0: none), to be gone on with. */
static api_package_writer *copy_package(const char *from, const char *to, api_part without) {
  api_package package;
  api_package_writer *writer;
  check_ok(api_open_package(in_folder(from), &package));
  check_ok(api_package_begin(in_folder(to), 0755, package.file.data, package.entries[0].offset, &writer));
  for (int i = 0; i < package.count; i++) {
    const api_package_entry *e = &package.entries[i];
    if (e->part != without) check_ok(api_package_add(writer, (api_part)e->part, e->name, package.file.data + e->offset, e->size));
  }
  api_close_package(&package);
  return writer;
}

/* The package of `from` with objects for chips; for "-" without a CPU's. */
static void add_chips(const subject *s, const char *from, const char *to, const char *chips) {
  api_package_writer *writer = copy_package(from, to, chips[0] == '-' ? API_PART_OBJECT : 0);
  char list[200], *rest = list;
  snprintf(list, sizeof list, "%s", chips);
  for (char *chip; (chip = strsep(&rest, " "));) {
    if (!*chip || *chip == '-') continue;
    cg_object object = cuda_host_object(s->host, 0, chip);
    check_ok(api_package_add(writer, API_PART_GPU_OBJECT, chip, object.bytes, object.size));
    cg_object_free(&object);
  }
  check_ok(api_package_end(writer, DP_SUCCESS));
}

#define ALL "sm_80 sm_90a sm_100a ptx"

static const struct {
  const char *chips, *fake, *device; /* fake: NULL: no driver; device: as asked for */
  const char *runs_on, *note, *fails;
} choices[] = {
    {ALL, "9.0", NULL, "Fake GPU, compute capability 9.0, code for sm_90a", NULL, NULL},
    {ALL, "9.0", "auto", "Fake GPU, compute capability 9.0, code for sm_90a", NULL, NULL},
    {ALL, "9.0", "cuda", "Fake GPU, compute capability 9.0, code for sm_90a", NULL, NULL},
    {ALL, "9.0", "cpu", "cpu", NULL, NULL},
    {ALL, "10.0", NULL, "Fake GPU, compute capability 10.0, code for sm_100a", NULL, NULL},
    {ALL, "8.0", NULL, "Fake GPU, compute capability 8.0, code for sm_80", NULL, NULL},
    {ALL, "8.9", "cuda", "Fake GPU, compute capability 8.9, code for sm_80", NULL, NULL},
    {ALL, "10.3", NULL, "Fake GPU, compute capability 10.3, code for ptx", NULL, NULL},
    {ALL, "12.0", "cuda", "Fake GPU, compute capability 12.0, code for ptx", NULL, NULL},
    {"ptx", "9.0", NULL, "Fake GPU, compute capability 9.0, code for ptx", NULL, NULL},
    {"sm_90a", "10.0", NULL, "cpu", "on the CPU: no code for Fake GPU, compute capability 10.0: compile for it too", NULL},
    {"sm_90a sm_80", "10.0", "cuda", NULL, NULL, "no code for Fake GPU, compute capability 10.0: compile for it too (dipper compile --target; "
     "ptx serves every chip from sm_80 on); '"},
    {"sm_90a sm_80", "10.0", "cuda", NULL, NULL, "' has GPU code for sm_90a, sm_80"},
    {ALL, "7.5", NULL, "cpu", "no code for Fake GPU, compute capability 7.5", NULL},
    {ALL, NULL, NULL, "cpu", NULL, NULL},
    {ALL, NULL, "auto", "cpu", "on the CPU: no GPU: NVIDIA's driver", NULL},
    {ALL, NULL, "cuda", NULL, NULL, "is not installed or not visible in this container; '"},
    {ALL, "none", "cuda", NULL, NULL, "the driver sees no device"},
    {ALL, "driver", NULL, "cpu", "on the CPU: no GPU: the driver is of CUDA 11.4", NULL},
    {ALL, "driver", "cuda", NULL, NULL, "12.0 or later is needed"},
    {ALL, "memory=4096", "auto", "cpu", "Fake GPU has 0.00 GB free of 0.00 GB, and this takes", NULL},
    {ALL, "memory=4096", NULL, "cpu", "Fake GPU has 0.00 GB free of 0.00 GB, and this takes", NULL},
    {ALL, "memory=4096", "cuda", NULL, NULL, "Fake GPU has 0.00 GB free of 0.00 GB, and this takes"},
    {"", "9.0", NULL, "cpu", NULL, NULL},
    {"", "9.0", "auto", "cpu", NULL, NULL},
    {"", "9.0", "cuda", NULL, NULL, "has no GPU code: compile it with --target sm_80"},
    {"- ptx", "9.0", NULL, "Fake GPU, compute capability 9.0, code for ptx", NULL, NULL},
    {"- sm_80", "9.0", NULL, NULL, NULL, "runs on this CPU: compile for it too (dipper compile --target); and no code for Fake GPU"},
    {"- sm_80", NULL, NULL, NULL, NULL, "runs on this CPU: compile for it too (dipper compile --target); and no GPU: NVIDIA's driver"},
    {ALL, "9.0", "tpu", NULL, NULL, "a device is cpu, cuda or auto, not 'tpu'"},
};

static void answers(const subject *s, dp_model *model, const char *device) {
  dp_session *session;
  dp_logits rows;
  check_ok(dp_session_new(model, &session));
  check_ok(dp_session_feed(session, ids, COUNT, DP_WANT_ALL, &rows));
  for (int64_t r = 0; r < COUNT && strcmp(device, "cpu") != 0; r++)
    ck_assert_msg(memcmp(rows.data + r * rows.stride, (const char *)s->logits + (size_t)r * s->bytes / COUNT, s->bytes / COUNT) == 0,
                  "%s: row %d has other bits", device, (int)r);
  dp_session_free(session);
}

START_TEST(a_package_takes_the_code_that_serves_the_device) {
  const subject *s = find_tiny();
  if (!s) return;
  run_well("dipper compile $M --weights $W --embed --emit exe -o plain");
  for (size_t i = 0; i < DP_COUNT(choices); i++) {
    dp_options options = {.threads = 1, .context = 64, .device = choices[i].device};
    dp_model *model;
    add_chips(s, "plain", "with", choices[i].chips);
    set_device(choices[i].fake);
    dp_status status = dp_model_open_package(in_folder("with"), NULL, &options, &model);
    if (choices[i].fails) {
      ck_assert_msg(status.code != DP_OK, "choice %zu opens", i);
      ck_assert_msg(strstr(dp_status_text(&status), choices[i].fails) != NULL, "choice %zu: %s", i, dp_status_text(&status));
      dp_status_free(&status);
      continue;
    }
    check_ok(status);
    dp_model_info info = dp_model_get_info(model);
    ck_assert_msg(strcmp(info.device, choices[i].runs_on) == 0, "choice %zu runs on '%s'", i, info.device);
    ck_assert_msg(choices[i].note ? info.note && strstr(info.note, choices[i].note) : !info.note, "choice %zu: the note is '%s'", i,
                  info.note ? info.note : "");
    answers(s, model, info.device);
    dp_model_free(model);
  }
  forget_device();
}
END_TEST

/* A wrong part is damage, and no reason to answer from the CPU. */
START_TEST(a_package_with_foreign_gpu_code_is_refused) {
  const subject *s = find_tiny();
  if (!s) return;
  fixture *f = fixture_build(fixture_find("columns"), 1);
  cg_object foreign = cuda_host_function(f->program, "ptx", "/nowhere.so", "run"), garbage = {strdup("nothing at all"), 14};
  const struct {
    const cg_object *object;
    const char *says;
  } cases[] = {{&foreign, "not compiled of this program"}, {&garbage, "damaged"}};
  run_well("dipper compile $M --weights $W --embed --emit exe -o plain");
  for (size_t i = 0; i < DP_COUNT(cases); i++) {
    api_package_writer *writer = copy_package("plain", "foreign", 0);
    check_ok(api_package_add(writer, API_PART_GPU_OBJECT, "ptx", cases[i].object->bytes, cases[i].object->size));
    check_ok(api_package_end(writer, DP_SUCCESS));
    set_device("9.0");
    dp_options options = {.threads = 1, .context = 64};
    dp_model *model;
    check_fails(dp_model_open_package(in_folder("foreign"), NULL, &options, &model), DP_INVALID, cases[i].says);
    options.device = "cpu";
    check_ok(dp_model_open_package(in_folder("foreign"), NULL, &options, &model));
    dp_model_free(model);
  }
  forget_device();
  cg_object_free(&foreign);
  cg_object_free(&garbage);
  fixture_free(f);
}
END_TEST

static void is_defined(const subject *s, const char *name) {
  char *file;
  size_t size;
  check_ok(dp_read_file(in_folder(name), &file, &size));
  ck_assert_msg(size > s->bytes && memcmp(file + size - s->bytes, s->logits, s->bytes) == 0, "%s has other bits", name);
  free(file);
}

/* The launcher itself: it has nothing of the compiler. */
START_TEST(an_executable_runs_on_a_device) {
  const subject *s = find_tiny();
  char out[2000];
  if (!s) return;
  run_well("dipper compile $M --weights $W --embed --emit exe -o plain && dipper compile $M --weights $W --emit exe -o bare");
  add_chips(s, "plain", "whole", ALL);
  add_chips(s, "bare", "beside", ALL);
  run_well("export DIPPER_LIBCUDA=$F && FAKE_CUDA=9.0 ./whole --device cuda --tokens 1,5,9,2,7 --out a.npy && "
           "FAKE_CUDA=12.0 ./whole --tokens 1,5,9,2,7 --chunk 2 --out b.npy && "
           "./beside --device cuda --weights $W --tokens 1,5,9,2,7 --out c.npy && "
           "dipper compile $M --weights $W --emit weights -o beside.weights && ./beside --device cuda --tokens 1,5,9,2,7 --out d.npy");
  is_defined(s, "a.npy");
  is_defined(s, "b.npy");
  is_defined(s, "c.npy");
  is_defined(s, "d.npy");
  ck_assert_int_eq(run("DIPPER_LIBCUDA=/nowhere ./whole --device cuda --tokens 1 --out x.npy", out, sizeof out), 1);
  ck_assert_msg(strstr(out, "dipper: error: no GPU: NVIDIA's driver (/nowhere)") && strstr(out, "/whole' has GPU code for sm_80, sm_90a, "
                "sm_100a, ptx"), "%s", out);
  ck_assert_int_eq(run("./whole --help", out, sizeof out), 0);
  ck_assert_msg(strstr(out, "--device NAME") != NULL, "%s", out);
}
END_TEST

#define EACH_ENTRY(F) F(open) F(open_on) F(device) F(feed_all) F(close) F(error)

typedef struct library {
  void *handle;
#define FIELD(name) __typeof__(dipper_model_##name) *name;
  EACH_ENTRY(FIELD)
} library;

static library load(const char *path) {
  library l = {.handle = dlopen(path, RTLD_NOW | RTLD_LOCAL)};
  ck_assert_msg(l.handle != NULL, "%s", dlerror());
#define FIND(name) *(void **)&l.name = dlsym(l.handle, "dipper_model_" #name);                                         \
  ck_assert_msg(l.name != NULL, "no dipper_model_" #name);
  EACH_ENTRY(FIND)
  return l;
}

START_TEST(a_library_runs_on_a_device) {
  const subject *s = find_tiny();
  if (!s) return;
  run_well("dipper compile $M --weights $W --embed --emit so -o plain.so");
  add_chips(s, "plain.so", "gpu.so", "sm_90a ptx");
  set_device("9.0");
  library l = load(in_folder("gpu.so"));
  dipper_model *model;
  float *logits = malloc(s->bytes);
  ck_assert_msg(l.open(NULL, 1, 64, &model) == 0, "%s", l.error(model));
  ck_assert_str_eq(l.device(model), "Fake GPU, compute capability 9.0, code for sm_90a");
  ck_assert_msg(l.feed_all(model, ids, COUNT, logits) == 0, "%s", l.error(model));
  ck_assert_mem_eq(logits, s->logits, s->bytes);
  l.close(model);
  ck_assert_msg(l.open_on("cpu", NULL, 1, 64, &model) == 0, "%s", l.error(model));
  ck_assert_str_eq(l.device(model), "cpu");
  ck_assert_msg(l.feed_all(model, ids, COUNT, logits) == 0, "%s", l.error(model));
  l.close(model);
  set_device(NULL);
  ck_assert_int_eq(l.open_on("cuda", NULL, 1, 64, &model), DIPPER_MODEL_NOT_FOUND);
  ck_assert_msg(strstr(l.error(model), "no GPU") && strstr(l.error(model), "has GPU code for sm_90a, ptx"), "%s", l.error(model));
  ck_assert_str_eq(l.device(model), "");
  l.close(model);
  ck_assert_int_eq(l.open_on("gpu", NULL, 1, 64, &model), DIPPER_MODEL_INVALID);
  l.close(model);
  dlclose(l.handle);
  free(logits);
  forget_device();
}
END_TEST

/* Neither CUDA nor anything but the C library is there: it starts, and says what it lacks when it is asked for more. */
START_TEST(an_executable_with_gpu_code_starts_in_an_empty_root) {
  const subject *s = find_tiny();
  char out[2000];
  if (!s) return;
  run_well("dipper compile $M --weights $W --embed --emit exe -o plain");
  add_chips(s, "plain", "whole", ALL);
  if (run("unshare -r chroot / true", out, sizeof out) != 0) {
    fprintf(stderr, "skipped: no chroot here: %s", out);
    return;
  }
  run_well("ldd ./whole >libraries");
  if (run("grep -qE 'asan|tsan|ubsan' libraries", NULL, 0) == 0) {
    fprintf(stderr, "skipped: sanitizers need more libraries\n");
    return;
  }
  run_well("test $(grep -cvE 'libc\\.so|libm\\.so|ld-linux|linux-vdso|libpthread|libdl|libgcc_s' libraries) = 0 && rm -rf root && "
           "for f in $(grep -oE '/[^ ]+' libraries | sort -u); do mkdir -p root$(dirname $f) && cp -L $f root$f; done && cp whole root/ && "
           "mkdir root/tmp && unshare -r chroot root /whole --tokens 1,5,9,2,7 --out /tmp/logits.npy && "
           "./plain --tokens 1,5,9,2,7 --out cpu.npy && cmp cpu.npy root/tmp/logits.npy");
  ck_assert_int_eq(run("unshare -r chroot root /whole --device cuda --tokens 1 --out /tmp/x.npy", out, sizeof out), 1);
  ck_assert_msg(strstr(out, "no GPU: NVIDIA's driver (libcuda.so.1) is not installed") && strstr(out, "has GPU code for sm_80"), "%s", out);
}
END_TEST

static bool contains(const char *path, const char *text) {
  char *file;
  size_t size;
  check_ok(dp_read_file(path, &file, &size));
  bool found = memmem(file, size, text, strlen(text)) != NULL;
  free(file);
  return found;
}

START_TEST(a_launcher_is_small_and_has_no_compiler) {
  static const char *const launchers[] = {DIPPER_COMMAND "-launcher"};
  for (size_t i = 0; i < DP_COUNT(launchers); i++)
    ck_assert_msg(contains(launchers[i], "cuLaunchCooperativeKernel"), "%s cannot launch a kernel", launchers[i]);
#if defined NDEBUG && !defined __SANITIZE_ADDRESS__ && !defined __SANITIZE_THREAD__ /* they keep what nobody calls */
  static const char *const foreign[] = {"nvrtcCompileProgram", "TASK_FUNCTION", "copy_landed", "LLVMContextCreate"};
  for (size_t i = 0; i < DP_COUNT(launchers); i++)
    for (size_t j = 0; j < DP_COUNT(foreign); j++)
      ck_assert_msg(!contains(launchers[i], foreign[j]), "%s contains '%s'", launchers[i], foreign[j]);
  struct stat launcher;
  ck_assert_int_eq(stat(launchers[0], &launcher), 0);
  ck_assert_msg(launcher.st_size < 1 << 20, "the launcher has %lld bytes", (long long)launcher.st_size);
#endif
}
END_TEST

static const struct {
  const char *command;
  int code;
  const char *says;
} mistakes[] = {
    {"dipper compile $M --emit cubin --target ptx -o x", 1, "a cubin is for one chip"},
    {"dipper compile $M --emit ptx --target x86-64-v3 -o x", 1, "target 'x86-64-v3' is no GPU"},
    {"dipper compile $M --emit cubin --target sm_80 --target sm_90a -o x", 1, "for one target, not for 2"},
    {"dipper compile $M --emit cubin --target sm_91a -o x", 1, "did you mean 'sm_90a'"},
    {"dipper compile $M --emit exe --target sm_70 -o x", 1, "aarch64, sm_80, sm_90a, sm_100a, ptx"},
    {"dipper compile $M --emit exe --target ptx --target ptx -o x", 1, "named twice"},
    {"dipper compile $M --emit obj --target x86-64-v3 --target ptx -o x", 1, "for one target, not for 2"},
    {"dipper compile $M --emit cu --embed --weights $W -o x", 2, "--embed is for exe and so"},
    {"dipper compile $M --emit fatbin -o x", 2, "cu, ptx or cubin, not 'fatbin'"},
    {"DIPPER_NVRTC=/nowhere/libnvrtc.so dipper compile $M --emit exe --target sm_80 -o x", 1, "DIPPER_NVRTC names '/nowhere/libnvrtc.so'"},
};

START_TEST(every_mistake_is_told_in_a_sentence) {
  char out[4000];
  if (!has_llvm()) return;
  for (size_t i = 0; i < DP_COUNT(mistakes); i++) {
    int code = run(mistakes[i].command, out, sizeof out);
    ck_assert_msg(code == mistakes[i].code && strstr(out, mistakes[i].says), "%s: exit status %d, said: %s", mistakes[i].command, code,
                  out);
    ck_assert_msg(access(in_folder("x"), F_OK) != 0, "%s leaves a file", mistakes[i].command);
  }
}
END_TEST

int main(void) {
  if (!mkdtemp(folder)) return 1;
  Suite *suite = suite_create("cuda_aot");
  TCase *objects = tcase_create("objects");
  tcase_set_timeout(objects, 300);
  tcase_add_test(objects, a_chip_s_code_serves_the_devices_that_the_driver_gives_it_to);
  tcase_add_test(objects, damaged_objects_are_refused);
  tcase_add_test(objects, an_object_asks_for_what_a_device_can_have);
  tcase_add_test(objects, a_device_gets_no_foreign_object);
  tcase_add_test(objects, a_report_has_a_line_a_function);
  suite_add_tcase(suite, objects);
  TCase *packages = tcase_create("packages");
  tcase_set_timeout(packages, 300);
  tcase_add_unchecked_fixture(packages, open_tiny, close_tiny);
  tcase_add_test(packages, a_package_takes_the_code_that_serves_the_device);
  tcase_add_test(packages, a_package_with_foreign_gpu_code_is_refused);
  tcase_add_test(packages, an_executable_runs_on_a_device);
  tcase_add_test(packages, a_library_runs_on_a_device);
  tcase_add_test(packages, an_executable_with_gpu_code_starts_in_an_empty_root);
  tcase_add_test(packages, a_launcher_is_small_and_has_no_compiler);
  tcase_add_test(packages, every_mistake_is_told_in_a_sentence);
  suite_add_tcase(suite, packages);
  TCase *nvrtc = tcase_create("nvrtc");
  tcase_set_timeout(nvrtc, 600);
  tcase_add_test(nvrtc, the_object_is_the_one_that_the_cache_keeps);
  tcase_add_test(nvrtc, gpu_code_is_written_for_other_tools);
  suite_add_tcase(suite, nvrtc);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  char command[300];
  snprintf(command, sizeof command, "rm -rf %s", folder);
  return system(command) != 0 || failed != 0;
}
