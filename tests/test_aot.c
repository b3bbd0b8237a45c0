/* tests/test_aot.c: ahead-of-time compilation: the object is the JIT's, executables and libraries give its bits, they run
 * where there is nothing but libc, and whatever is wrong with one is told in a sentence. */
#include "base/base.h"
#include "codegen/codegen.h"
#include "dipper/aot.h"
#include "dipper/model.h"
#include "tests/tile_fixture.h"

#include <check.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define LLAMA DIPPER_SOURCE_DIR "/models/llama.dip"
#define GOLDEN DIPPER_TEST_DIR "/golden/"
#define TINY GOLDEN "tiny_llama/model.safetensors"
#define SMOLLM2 DIPPER_SOURCE_DIR "/build/weights/SmolLM2-135M-Instruct.Q4_1.gguf"

static char folder[] = "/tmp/dipper-aot-XXXXXX";

static const char *in_folder(const char *name) {
  static char paths[8][256];
  static int next;
  char *path = paths[next++ % 8];
  snprintf(path, sizeof paths[0], "%s/%s", folder, name);
  return path;
}

static bool has_llvm(void) {
  if (cg_find_backend("llvm")) return true;
  fprintf(stderr, "skipped: this build has no LLVM\n");
  return false;
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
  snprintf(line, sizeof line, "cd %s && export DIPPER_CACHE=%s/cache M=%s W=%s S=%s && dipper() { " DIPPER_COMMAND
           " \"$@\"; } && { %s ; } >out 2>&1 </dev/null", folder, folder, LLAMA, TINY, SMOLLM2, command);
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

static void same_files(const char *a, const char *b) {
  char *first, *second;
  size_t n, m;
  check_ok(dp_read_file(in_folder(a), &first, &n));
  check_ok(dp_read_file(in_folder(b), &second, &m));
  ck_assert_uint_eq(n, m);
  for (size_t i = 0; i < n; i++) ck_assert_msg(first[i] == second[i], "%s and %s differ at byte %zu of %zu", a, b, i, n);
  free(first);
  free(second);
}

/* ---- the object */

static cg_object object_of(const tile_program *program) {
  cg_object object;
  cg_target here = {0};
  check_ok(cg_find_backend("llvm")->compile(program, &here, &object));
  return object;
}

START_TEST(the_object_is_the_one_that_the_jit_loads) {
  if (!has_llvm()) return;
  run_well("dipper compile $M --weights $W --emit obj -o aot.o && dipper logits $M --weights $W --tokens 1,2 --out x.npy --cache-dir jit "
           "&& tail -c +49 jit/*.o >jit.o");
  same_files("aot.o", "jit.o");
  dp_options options = {.path = LLAMA, .weights = TINY};
  dp_text text;
  char *file;
  size_t length;
  check_ok(dp_compile_object(&options, &text));
  check_ok(dp_read_file(in_folder("aot.o"), &file, &length));
  ck_assert_uint_eq(length, text.length);
  ck_assert_mem_eq(file, text.text, length);
  dp_text_free(&text);
  check_ok(dp_dump_text(&options, DP_DUMP_MACHINE, NULL, &text));
  ck_assert_uint_eq(length, text.length);
  ck_assert_mem_eq(file, text.text, length);
  free(file);
  dp_text_free(&text);
}
END_TEST

static uint32_t next_random(uint32_t *state) { return *state = *state * 1664525u + 1013904223u; }

/* Loading reads and writes nowhere but in its own memory, which the sanitizers watch; the code is not run. */
START_TEST(damaged_objects_are_refused_or_load) {
  if (!has_llvm()) return;
  fixture *f = fixture_build(fixture_find("columns"), 1);
  cg_object object = object_of(f->program);
  tile_code *code;
  check_ok(cg_load_object(f->program, &object, &code));
  code->free(code);
  uint32_t state = 1;
  int refused = 0;
  for (size_t size = 0; size < object.size; size += 1 + size / 16) { /* exact copies: a byte behind is out of bounds */
    cg_object cut = {malloc(size ? size : 1), size};
    memcpy(cut.bytes, object.bytes, size);
    dp_status status = cg_load_object(f->program, &cut, &code);
    ck_assert_msg(status.code != DP_OK, "an object cut to %zu of %zu bytes loads", size, object.size);
    dp_status_free(&status);
    free(cut.bytes);
  }
  for (int i = 0; i < 4000; i++) {
    cg_object damaged = {malloc(object.size), object.size};
    memcpy(damaged.bytes, object.bytes, object.size);
    for (int j = 0; j < 1 + i % 4; j++) {
      /* half of them in what is read as numbers: the head, and behind the code */
      size_t tail = object.size / 3, at = next_random(&state) % object.size;
      if (i % 2) at = i % 4 == 1 ? at % 64 : object.size - 1 - at % tail;
      ((uint8_t *)damaged.bytes)[at] = (uint8_t)(next_random(&state) >> 24);
    }
    dp_status status = cg_load_object(f->program, &damaged, &code);
    refused += status.code != DP_OK;
    if (status.code == DP_OK) code->free(code);
    dp_status_free(&status);
    free(damaged.bytes);
  }
  ck_assert_msg(refused > 300, "only %d of 4000 damaged objects were refused", refused);
  cg_object_free(&object);
  fixture_free(f);
}
END_TEST

START_TEST(an_object_of_another_program_is_refused) {
  if (!has_llvm()) return;
  fixture *one = fixture_build(fixture_find("columns"), 1), *other = fixture_build(fixture_find("columns"), 1);
  other->program->row_tile *= 2;
  cg_object object = object_of(one->program);
  tile_code *code;
  check_fails(cg_load_object(other->program, &object, &code), DP_INVALID, "not compiled of this program");
  ((uint8_t *)object.bytes)[18] ^= 1; /* e_machine */
  check_fails(cg_load_object(one->program, &object, &code), DP_UNSUPPORTED, "for another machine");
  memcpy(object.bytes, "MZ", 2);
  check_fails(cg_load_object(one->program, &object, &code), DP_INVALID, "no ELF");
  cg_object_free(&object);
  fixture_free(one);
  fixture_free(other);
}
END_TEST

START_TEST(requirements_are_those_of_this_machine_or_not) {
  dp_str own = {0}, more = {0};
  int own_rank, rank;
  check_ok(cg_cpu_requirement(NULL, &own));
  ck_assert_msg(cg_runs_here(own.text, &own_rank), "this machine does not run '%s'", own.text);
  for (int i = 0; cg_cpu_at(i); i++) {
    dp_str named = {0};
    check_ok(cg_cpu_requirement(cg_cpu_at(i), &named));
    if (cg_runs_here(named.text, &rank)) ck_assert_int_le(rank, own_rank);
    ck_assert_uint_ne(cg_elf_machine(named.text), 0);
    dp_str_free(&named);
  }
  dp_str_addf(&more, "%.*s", (int)strcspn(own.text, " "), own.text);
  for (int i = 0; i < 7; i++) dp_str_add(&more, " ffffffff");
  ck_assert(!cg_runs_here(more.text, &rank));
  ck_assert(!cg_runs_here("", &rank) && !cg_runs_here("vax 0 0 0 0 0 0 0", &rank) && !cg_runs_here("x86_64", &rank));
  dp_str_add(&own, " 0");
  ck_assert(!cg_runs_here(own.text, &rank));
  dp_str_free(&own);
  dp_str_free(&more);
}
END_TEST

START_TEST(other_machines_have_objects_too) {
  if (!has_llvm()) return;
  run_well("dipper compile $M --weights $W --target aarch64 --emit obj -o arm.o && dipper compile $M --weights $W --target znver4 --emit "
           "obj -o zen.o");
  char *file;
  size_t length;
  check_ok(dp_read_file(in_folder("arm.o"), &file, &length));
  ck_assert(length > 64 && memcmp(file, "\177ELF", 4) == 0 && file[18] == (char)183);
  free(file);
}
END_TEST

/* ---- executables */

#define TOKENS "--tokens 1,5,9,2,7,7,30,3,4,80,11 "

static void exe_equals_jit(const char *weights, const char *sets) {
  char command[2000];
  snprintf(command, sizeof command,
           "rm -f exe* && dipper logits $M --weights %s %s" TOKENS "--out jit.npy && "
           "dipper compile $M --weights %s %s--embed --emit exe -o exe && ./exe " TOKENS "--chunk 3 --threads 2 --out exe.npy && "
           "dipper compile $M --weights %s %s--emit exe -o exe2 && ./exe2 --weights %s " TOKENS "--out exe2.npy && "
           "dipper compile $M --weights %s %s--emit weights -o exe2.weights && ./exe2 " TOKENS "--out exe3.npy",
           weights, sets, weights, sets, weights, sets, weights, weights, sets);
  run_well(command);
  same_files("jit.npy", "exe.npy");
  same_files("jit.npy", "exe2.npy");
  same_files("jit.npy", "exe3.npy");
}

START_TEST(executables_give_the_bits_of_the_jit) {
  if (!has_llvm()) return;
  exe_equals_jit("$W", "");
  exe_equals_jit("random:7", "--set vocab=96 --set d=64 --set layers=2 --set heads=4 --set kv_heads=2 --set ff=128 ");
  exe_equals_jit("$W", "--kv-type f16 ");
  if (access(SMOLLM2, R_OK) == 0) exe_equals_jit("$S", "");
}
END_TEST

START_TEST(an_executable_answers_as_dipper_run_does) {
  if (!has_llvm() || access(SMOLLM2, R_OK) != 0) return;
  run_well("dipper run $M --weights $S -p 'Why is the sky blue?' -n 12 >said && dipper compile $M --weights $S --embed --emit exe -o chat "
           "&& ./chat -p 'Why is the sky blue?' -n 12 >said2 && printf 'Hi\\n/reset\\nHi\\n' | ./chat --chat -n 4 >said3 && test -s said3");
  same_files("said", "said2");
  /* The file that it was compiled for, beside it. */
  run_well("rm -f chat && dipper compile $M --weights $S --emit exe -o chat && ln -s $S . && ./chat -p 'Why is the sky blue?' -n 12 >said2");
  same_files("said", "said2");
}
END_TEST

START_TEST(one_file_has_code_for_several_cpus) {
  if (!has_llvm() || !cg_runs_here("x86_64 0 0 0 0 0 0 0", NULL)) return;
  run_well("dipper compile $M --weights $W --embed --target x86-64-v2 --target x86-64-v3 --target x86-64-v4 --target znver4 --emit exe -o many && "
           "./many " TOKENS "--out many.npy && dipper logits $M --weights $W " TOKENS "--out jit.npy");
  dp_str v3 = {0};
  check_ok(cg_cpu_requirement(cg_find_cpu("x86-64-v3"), &v3));
  if (cg_runs_here(v3.text, NULL)) same_files("many.npy", "jit.npy"); /* of two with fused multiply-add */
  dp_str_free(&v3);
}
END_TEST

/* Runs where there are libc, libm and the loader, and nothing else. */
START_TEST(executables_run_in_an_empty_root) {
  char out[2000];
  if (!has_llvm()) return;
  if (run("unshare -r chroot / true", out, sizeof out) != 0) {
    fprintf(stderr, "skipped: no chroot here: %s", out);
    return;
  }
  run_well("dipper compile $M --weights $W --embed --emit exe -o exe && ldd ./exe >libraries");
  if (run("grep -qE 'asan|tsan|ubsan' libraries", NULL, 0) == 0) {
    fprintf(stderr, "skipped: sanitizers need more libraries\n");
    return;
  }
  /* every library it names is one of the C library's, and those are all there are */
  run_well("test $(grep -cvE 'libc\\.so|libm\\.so|ld-linux|linux-vdso|libpthread|libgcc_s' libraries) = 0 && rm -rf root && mkdir root && "
           "for f in $(grep -oE '/[^ ]+' libraries | sort -u); do mkdir -p root$(dirname $f) && cp -L $f root$f; done && cp exe root/ && "
           "mkdir root/tmp && unshare -r chroot root /exe " TOKENS "--threads 2 --out /tmp/logits.npy && "
           "dipper logits $M --weights $W " TOKENS "--out jit.npy && cp root/tmp/logits.npy .");
  same_files("jit.npy", "logits.npy");
}
END_TEST

/* ---- libraries */

#define EACH_ENTRY(F)                                                                                                  \
  F(abi) F(open) F(close) F(error) F(get_sizes) F(feed) F(feed_all) F(length) F(truncate) F(tokenize) F(detokenize)    \
  F(render_chat) F(generate)

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

enum { COUNT = 9 };
static const int32_t ids[COUNT] = {1, 5, 9, 2, 7, 7, 30, 3, 4};

static float *jit_logits(const char *weights, int64_t *columns) {
  dp_options options = {.path = LLAMA, .weights = weights, .threads = 1, .cache_dir = in_folder("cache")};
  dp_model *model;
  dp_session *session;
  dp_logits rows;
  check_ok(dp_model_open(&options, &model));
  check_ok(dp_session_new(model, &session));
  check_ok(dp_session_feed(session, ids, COUNT, DP_WANT_ALL, &rows));
  *columns = rows.columns;
  float *copy = malloc(sizeof *copy * (size_t)(rows.columns * COUNT));
  for (int64_t r = 0; r < COUNT; r++) memcpy(copy + r * rows.columns, rows.data + r * rows.stride, sizeof *copy * (size_t)rows.columns);
  dp_session_free(session);
  dp_model_free(model);
  return copy;
}

static void library_equals_jit(const char *weights, const char *shell_name) {
  char command[500];
  snprintf(command, sizeof command, "rm -f model.so && dipper compile $M --weights %s --embed --emit so -o model.so", shell_name);
  run_well(command);
  library l = load(in_folder("model.so"));
  ck_assert_int_eq(l.abi(), DIPPER_MODEL_ABI);
  dipper_model *model, *second;
  ck_assert_msg(l.open(NULL, 2, 0, &model) == 0, "%s", l.error(model));
  ck_assert_msg(l.open(NULL, 1, 64, &second) == 0, "%s", l.error(second));
  int64_t columns;
  float *wanted = jit_logits(weights, &columns);
  dipper_model_sizes sizes;
  ck_assert_int_eq(l.get_sizes(model, &sizes), 0);
  ck_assert_int_eq(sizes.columns, columns);
  size_t bytes = sizeof(float) * (size_t)columns;
  float *got = calloc(COUNT, bytes);
  ck_assert_int_eq(l.feed_all(model, ids, COUNT, got), 0);
  ck_assert_mem_eq(got, wanted, COUNT * bytes);
  ck_assert_int_eq(l.feed(second, ids, 4, NULL), 0);
  ck_assert_int_eq(l.feed(second, ids + 4, COUNT - 4, got), 0);
  ck_assert_mem_eq(got, wanted + (COUNT - 1) * columns, bytes);
  ck_assert_int_eq(l.length(second), COUNT);
  ck_assert_int_eq(l.truncate(second, 4), 0);
  ck_assert_int_eq(l.feed(second, ids + 4, 1, got), 0);
  ck_assert_mem_eq(got, wanted + 4 * columns, bytes);
  free(got);
  free(wanted);
  l.close(model);
  l.close(second);
  dlclose(l.handle);
}

START_TEST(libraries_give_the_bits_of_the_jit) {
  if (!has_llvm()) return;
  library_equals_jit(TINY, "$W");
  if (access(SMOLLM2, R_OK) == 0) library_equals_jit(SMOLLM2, "$S");
}
END_TEST

static int collect(void *user, const char *text, size_t length) {
  dp_str_addn(user, text, length);
  return ((dp_str *)user)->length < 400;
}

START_TEST(a_library_speaks) {
  if (!has_llvm() || access(SMOLLM2, R_OK) != 0) return;
  run_well("rm -f model.so && dipper compile $M --weights $S --embed --emit so -o model.so && "
           "dipper run $M --weights $S -p 'Why is the sky blue?' -n 12 >said");
  library l = load(in_folder("model.so"));
  dipper_model *model;
  ck_assert_msg(l.open(NULL, 2, 0, &model) == 0, "%s", l.error(model));
  const char *roles[] = {"user"}, *messages[] = {"Why is the sky blue?"};
  char prompt[1000];
  int32_t tokens[200];
  size_t length, count;
  ck_assert_int_eq(l.render_chat(model, roles, messages, 1, prompt, 3, &length), DIPPER_MODEL_TOO_SMALL);
  ck_assert_msg(l.render_chat(model, roles, messages, 1, prompt, sizeof prompt, &length) == 0, "%s", l.error(model));
  ck_assert_int_eq(l.tokenize(model, prompt, length, 1, tokens, 2, &count), DIPPER_MODEL_TOO_SMALL);
  ck_assert_uint_gt(count, 10);
  ck_assert_int_eq(l.tokenize(model, prompt, length, 1, tokens, 200, &count), 0);
  char back[1000];
  size_t back_length;
  ck_assert_int_eq(l.detokenize(model, tokens, count, back, sizeof back, &back_length), 0);
  ck_assert_uint_eq(back_length, length);
  ck_assert_mem_eq(back, prompt, length);
  dp_str said = {0};
  int64_t made;
  ck_assert_msg(l.generate(model, tokens, count, 12, NULL, collect, &said, &made) == 0, "%s", l.error(model));
  ck_assert_int_eq(made, 12);
  dp_str_addc(&said, '\n');
  char *wanted;
  size_t n;
  check_ok(dp_read_file(in_folder("said"), &wanted, &n));
  ck_assert_str_eq(said.text, wanted);
  free(wanted);
  dp_str_free(&said);
  l.close(model);
  dlclose(l.handle);
}
END_TEST

START_TEST(misuse_of_a_library_is_told) {
  if (!has_llvm()) return;
  run_well("rm -f model.so && dipper compile $M --weights $W --emit so -o model.so");
  library l = load(in_folder("model.so"));
  dipper_model *model, *none;
  ck_assert_int_eq(l.open(NULL, 0, 0, NULL), DIPPER_MODEL_INVALID);
  ck_assert_int_eq(l.open(NULL, 0, 0, &none), DIPPER_MODEL_NOT_FOUND);
  ck_assert_msg(strstr(l.error(none), "no weights") != NULL, "%s", l.error(none));
  ck_assert_int_eq(l.feed(none, ids, 1, NULL), DIPPER_MODEL_NOT_FOUND);
  l.close(none);
  ck_assert_int_eq(l.open("/nowhere", 0, 0, &none), DIPPER_MODEL_NOT_FOUND);
  l.close(none);
  ck_assert_int_eq(l.open(NULL, -1, 0, &none), DIPPER_MODEL_INVALID);
  l.close(none);
  ck_assert_msg(l.open(TINY, 1, 16, &model) == 0, "%s", l.error(model));
  dipper_model_sizes sizes;
  l.get_sizes(model, &sizes);
  float *row = calloc((size_t)sizes.columns, sizeof *row);
  int32_t many[17] = {0}, bad = (int32_t)sizes.vocabulary, negative = -1;
  size_t n;
  int64_t made;
  ck_assert_int_eq(l.feed(NULL, ids, 1, row), DIPPER_MODEL_INVALID);
  ck_assert_int_eq(l.feed(model, NULL, 1, row), DIPPER_MODEL_INVALID);
  ck_assert_int_eq(l.feed(model, ids, 0, row), DIPPER_MODEL_INVALID);
  ck_assert_int_eq(l.feed(model, &bad, 1, row), DIPPER_MODEL_INVALID);
  ck_assert_int_eq(l.feed(model, &negative, 1, row), DIPPER_MODEL_INVALID);
  ck_assert_int_eq(l.feed(model, many, 17, row), DIPPER_MODEL_INVALID);
  ck_assert_msg(strstr(l.error(model), "context is full") != NULL, "%s", l.error(model));
  ck_assert_int_eq(l.feed_all(model, ids, 1, NULL), DIPPER_MODEL_INVALID);
  ck_assert_int_eq(l.truncate(model, 1), DIPPER_MODEL_INVALID);
  ck_assert_int_eq(l.tokenize(model, "a", 1, 0, many, 17, &n), DIPPER_MODEL_UNSUPPORTED);
  ck_assert_int_eq(l.generate(model, NULL, 0, 1, NULL, NULL, NULL, &made), DIPPER_MODEL_INVALID);
  ck_assert_int_eq(l.length(model), 0);
  ck_assert_int_eq(l.feed(model, many, 16, row), 0);
  ck_assert_str_eq(l.error(model), "");
  free(row);
  l.close(model);
  l.close(NULL);
  dlclose(l.handle);
}
END_TEST

START_TEST(only_the_interface_is_visible) {
  if (!has_llvm()) return;
  run_well("dipper compile $M --weights $W --emit so -o model.so");
  void *handle = dlopen(in_folder("model.so"), RTLD_NOW | RTLD_LOCAL);
  ck_assert_ptr_nonnull(handle);
  static const char *const hidden[] = {"dp_model_open", "dp_model_open_package", "json_loadb", "pcre2_compile_8", "cg_load_object"};
  Dl_info own, found;
  dladdr(dlsym(handle, "dipper_model_open"), &own);
  for (size_t i = 0; i < DP_COUNT(hidden); i++) {
    void *symbol = dlsym(handle, hidden[i]);
    if (symbol) ck_assert_msg(dladdr(symbol, &found) && strcmp(found.dli_fname, own.dli_fname) != 0, "%s is visible", hidden[i]);
  }
  dlclose(handle);
}
END_TEST

START_TEST(the_header_has_the_models_dimensions) {
  if (!has_llvm()) return;
  run_well("dipper compile $M --weights random:1 --set vocab=96 --set d=64 --set layers=2 --set heads=4 --set kv_heads=2 --set ff=128 "
           "--emit header -o model.h && printf '#include \"model.h\"\\n"
           "_Static_assert(DIPPER_LLAMA_VOCABULARY == 96 && DIPPER_LLAMA_COLUMNS == 96 && DIPPER_LLAMA_PARAMETERS == 80192, \"\");\\n"
           "int main(void) { return dipper_model_abi() != DIPPER_MODEL_ABI; }\\n' >use.c && " DIPPER_CC
           " -std=c99 -Wall -Wextra -Werror -pedantic -c use.c");
}
END_TEST

/* ---- what can be wrong */

typedef struct expectation {
  const char *command;
  int code;
  const char *says;
} expectation;

static const expectation mistakes[] = {
    {"dipper compile $M -o x", 2, "wants --emit"},
    {"dipper compile $M --emit dll -o x", 2, "not 'dll'"},
    {"dipper compile $M --emit obj --embed --weights $W -o x", 2, "--embed is for exe and so"},
    {"dipper compile $M --emit exe --embed -o x", 2, "--embed wants --weights"},
    {"dipper compile $M --emit weights -o x", 1, "no weights were named"},
    {"dipper compile $M --emit obj --target x86-64-v5 -o x", 1, "there are x86-64, "},
    {"dipper compile $M --emit obj --target znver5 -o x", 1, "did you mean 'znver"},
    {"dipper compile $M --emit obj --target x86-64-v3 --target x86-64-v4 -o x", 1, "for one target, not for 2"},
    {"dipper compile $M --emit exe --target x86-64-v3 --target x86-64-v3 -o x", 1, "named twice"},
    {"dipper compile $M --emit exe --launcher $M -o x", 1, "no ELF file"},
    {"dipper compile $M --emit exe --launcher nowhere -o x", 1, "nowhere"},
    {"dipper compile $M --emit exe -o /nowhere/x", 1, "cannot write '/nowhere/x'"},
    {"dipper compile nowhere.dip --emit exe -o x", 1, "nowhere.dip"},
    {"dipper compile $M --weights $W --adapter x --emit exe -o x", 2, "no flag '--adapter'"},
    {"./exe extra", 2, "unexpected argument 'extra'"},
    {"./exe --wieghts x", 2, "did you mean '--weights'?"},
    {"./exe --tokens 1", 2, "go together"},
    {"mkdir -p away && cp exe away && away/exe -p x", 1, "no weights: there is no"},
    {"./exe --weights nowhere -p x", 1, "No such file"},
    {"./exe --weights $M -p x", 1, "llama.dip"},
    {"./exe --weights random:x -p x", 1, "a number is wanted"},
    {"dipper compile $M --weights random:1 --set d=64 --set heads=4 --set kv_heads=2 --set ff=128 --set layers=1 --emit weights -o other.weights && ./exe --weights "
     "other.weights -p x", 1, "of another model"},
    {"./dipper-launcher -p x", 1, "carries no model"},
    {"head -c -1 whole >cut && chmod +x cut && ./cut -p x", 1, "carries no model"},
    {"{ cat whole; tail -c 5000 whole; } >twice && chmod +x twice && ./twice -p x", 1, "is damaged"},
    {"cp exe other && ln -sf $W other.weights && ./other --tokens 1 --out x.npy", 0, ""},
};

START_TEST(every_mistake_is_told_in_a_sentence) {
  if (!has_llvm()) return;
  char out[4000], launcher[1000];
  run_well("rm -f exe* whole && dipper compile $M --weights $W --emit exe -o exe && dipper compile $M --weights $W --embed --emit exe -o whole");
  snprintf(launcher, sizeof launcher, "cp %s-launcher dipper-launcher", DIPPER_COMMAND);
  run_well(launcher);
  for (size_t i = 0; i < DP_COUNT(mistakes); i++) {
    int code = run(mistakes[i].command, out, sizeof out);
    ck_assert_msg(code == mistakes[i].code && strstr(out, mistakes[i].says), "%s: exit status %d, said: %s", mistakes[i].command, code,
                  out);
  }
  if (access(SMOLLM2, R_OK) != 0) return;
  ck_assert_int_eq(run("dipper compile $M --weights $S --emit exe -o smol && dipper weights save $M --weights $S --out f16.safetensors "
                       "--dtype f16 && ./smol --weights f16.safetensors -p x", out, sizeof out), 1);
  ck_assert_msg(strstr(out, "stores 'embed' as f16, the model was compiled for q8_0") != NULL, "%s", out);
}
END_TEST

/* Any byte of what is not weights. */
START_TEST(damage_is_noticed) {
  if (!has_llvm()) return;
  run_well("rm -f exe && dipper compile $M --weights $W --emit exe -o exe");
  char *bytes;
  size_t length;
  check_ok(dp_read_file(in_folder("exe"), &bytes, &length));
  struct stat launcher;
  ck_assert_int_eq(stat(DIPPER_COMMAND "-launcher", &launcher), 0);
  dp_options options = {.weights = TINY, .threads = 1};
  dp_model *model;
  check_ok(dp_model_open_package(in_folder("exe"), NULL, &options, &model));
  dp_model_free(model);
  uint32_t state = 5;
  for (int i = 0; i < 60; i++) {
    size_t behind = length - (size_t)launcher.st_size, at = (size_t)launcher.st_size + next_random(&state) % behind;
    if (i >= 30) at = length - 1 - next_random(&state) % 500; /* the table and what says where it is */
    bytes[at] ^= 0x10;
    check_ok(dp_write_file_atomic(in_folder("damaged"), bytes, length));
    dp_status status = dp_model_open_package(in_folder("damaged"), NULL, &options, &model);
    if (status.code == DP_OK) dp_model_free(model); /* between parts, there are zeros that mean nothing */
    bool padding = (bytes[at] ^ 0x10) == 0 && at < length - 48 - 3 * 128; /* the table, and where it is */
    ck_assert_msg(status.code != DP_OK || padding, "byte %zu of %zu is damaged, and it opens", at, length);
    dp_status_free(&status);
    bytes[at] ^= 0x10;
  }
  free(bytes);
}
END_TEST

int main(void) {
  if (!mkdtemp(folder)) return 1;
  Suite *suite = suite_create("aot");
  TCase *tests = tcase_create("compiled ahead of time");
  tcase_set_timeout(tests, 300);
  tcase_add_test(tests, the_object_is_the_one_that_the_jit_loads);
  tcase_add_test(tests, damaged_objects_are_refused_or_load);
  tcase_add_test(tests, an_object_of_another_program_is_refused);
  tcase_add_test(tests, requirements_are_those_of_this_machine_or_not);
  tcase_add_test(tests, other_machines_have_objects_too);
  tcase_add_test(tests, executables_give_the_bits_of_the_jit);
  tcase_add_test(tests, an_executable_answers_as_dipper_run_does);
  tcase_add_test(tests, one_file_has_code_for_several_cpus);
  tcase_add_test(tests, executables_run_in_an_empty_root);
  tcase_add_test(tests, libraries_give_the_bits_of_the_jit);
  tcase_add_test(tests, a_library_speaks);
  tcase_add_test(tests, misuse_of_a_library_is_told);
  tcase_add_test(tests, only_the_interface_is_visible);
  tcase_add_test(tests, the_header_has_the_models_dimensions);
  tcase_add_test(tests, every_mistake_is_told_in_a_sentence);
  tcase_add_test(tests, damage_is_noticed);
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  char command[300];
  snprintf(command, sizeof command, "rm -rf %s", folder);
  return system(command) != 0 || failed != 0;
}
