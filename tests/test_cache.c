/* tests/test_cache.c: what the compile cache promises: an entry is found again, whatever is wrong with one is noticed,
 * and a cache that cannot be written is no failure. The back end here is a fake one that counts its compiles. */
#include "codegen/codegen.h"
#include "tests/tile_fixture.h"

#include <check.h>
#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- a back end whose object is 5000 bytes after its name and version */

static int compiles, loads;
static bool refuse_compile, refuse_load;
static const char *version = "1";

static dp_status fake_fingerprint(const cg_target *target, dp_str *out) {
  dp_str_addf(out, "fake %s %s", version, target && target->cpu ? target->cpu : "any");
  return DP_SUCCESS;
}

static dp_status fake_compile(const tile_program *program, const cg_target *target, cg_object *object) {
  (void)target;
  compiles++;
  if (refuse_compile) return dp_fail(DP_UNSUPPORTED, "the fake back end refuses");
  dp_str bytes = {0};
  dp_str_addf(&bytes, "fake object of %s, rows %d\n", program->name, program->row_tile);
  while (bytes.length < 5000) dp_str_addc(&bytes, (char)(bytes.length * 7));
  *object = (cg_object){bytes.text, bytes.length};
  return DP_SUCCESS;
}

static void fake_free(tile_code *code) { free(code); }

static dp_status fake_load(const tile_program *program, const cg_object *object, tile_code **code) {
  char head[100];
  loads++;
  snprintf(head, sizeof head, "fake object of %s, rows %d\n", program->name, program->row_tile);
  if (refuse_load || object->size != 5000 || memcmp(object->bytes, head, strlen(head)) != 0)
    return dp_fail(DP_INVALID, "not an object of this program");
  *code = calloc(1, sizeof **code);
  (*code)->free = fake_free;
  return DP_SUCCESS;
}

static dp_status fake_text(const tile_program *program, const cg_target *target, cg_text kind, dp_str *out) {
  (void)program, (void)target, (void)kind, (void)out;
  return dp_fail(DP_UNSUPPORTED, "none");
}

static const cg_backend fake = {.name = "fake", .doc = "for tests", .fingerprint = fake_fingerprint, .compile = fake_compile,
                                .load = fake_load, .text = fake_text};

/* ---- a fresh directory and a small program for each test */

static char home[64], cache[128];
static fixture *small;
static tile_program *program;

static void setup(void) {
  strcpy(home, "/tmp/dipper-cache-XXXXXX");
  ck_assert_ptr_nonnull(mkdtemp(home));
  snprintf(cache, sizeof cache, "%s/a/b", home);
  small = fixture_build(fixture_find("columns"), 1);
  program = small->program;
  compiles = loads = 0;
  refuse_compile = refuse_load = false;
  version = "1";
}

static void remove_all(const char *path) {
  DIR *dir = opendir(path);
  for (struct dirent *entry; dir && (entry = readdir(dir));) {
    char child[1024];
    if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
    snprintf(child, sizeof child, "%s/%s", path, entry->d_name);
    remove_all(child);
  }
  if (dir) closedir(dir);
  remove(path);
}

static void teardown(void) {
  fixture_free(small);
  remove_all(home);
}

/* Builds; returns whether a compile took place. */
static bool build_for(const cg_target *target, const char *directory, dp_str *note) {
  tile_code *code;
  bool compiled;
  int before = compiles;
  dp_status status = cg_build(&fake, program, target, directory, &code, &compiled, note);
  ck_assert_msg(status.code == DP_OK, "%s", dp_status_text(&status));
  ck_assert_int_eq(compiled, compiles - before);
  code->free(code);
  return compiled;
}

static bool build(void) {
  dp_str note = {0};
  bool compiled = build_for(NULL, cache, &note);
  ck_assert_msg(note.text == NULL, "%s", note.text);
  return compiled;
}

/* Path of the only entry; counts the files. */
static int entries(char *path) {
  DIR *dir = opendir(cache);
  int count = 0;
  for (struct dirent *entry; dir && (entry = readdir(dir));) {
    if (entry->d_name[0] == '.') continue;
    if (path) snprintf(path, 512, "%s/%s", cache, entry->d_name);
    count++;
  }
  if (dir) closedir(dir);
  return count;
}

static void read_bytes(const char *path, char **bytes, size_t *size) {
  dp_status status = dp_read_file(path, bytes, size);
  ck_assert_msg(status.code == DP_OK, "%s", dp_status_text(&status));
}

static void write_bytes(const char *path, const void *bytes, size_t size) {
  FILE *file = fopen(path, "wb");
  ck_assert_ptr_nonnull(file);
  ck_assert_uint_eq(fwrite(bytes, 1, size, file), size);
  fclose(file);
}

/* ---- */

START_TEST(a_program_is_compiled_once) {
  ck_assert(build()); /* makes a/b, too */
  for (int i = 0; i < 3; i++) ck_assert(!build());
  char path[512];
  ck_assert_int_eq(entries(path), 1);
  ck_assert_ptr_nonnull(strstr(path, ".o"));
}
END_TEST

START_TEST(without_a_directory_every_build_compiles) {
  for (int i = 0; i < 2; i++) ck_assert(build_for(NULL, NULL, NULL));
  ck_assert(build_for(NULL, "", NULL));
  ck_assert_int_eq(entries(NULL), 0);
}
END_TEST

START_TEST(whatever_determines_code_makes_another_entry) {
  build();
  version = "2";
  ck_assert(build());
  cg_target target = {.cpu = "special"};
  ck_assert(build_for(&target, cache, NULL));
  program->kinds[0].ops[0].col_base = 1;
  ck_assert(build());
  ck_assert_int_eq(entries(NULL), 4);
  program->kinds[0].ops[0].col_base = 0;
  version = "1";
  ck_assert(!build());
}
END_TEST

/* Every byte of header and object counts; so does the length. */
START_TEST(a_damaged_entry_is_rebuilt_and_replaced) {
  char path[512], *sound, *again;
  size_t size, again_size;
  build();
  ck_assert_int_eq(entries(path), 1);
  read_bytes(path, &sound, &size);
  for (size_t i = 0; i < size; i += i < 64 ? 1 : 619) {
    sound[i] ^= 16;
    write_bytes(path, sound, size);
    sound[i] ^= 16;
    ck_assert_msg(build(), "a flipped bit in byte %zu went by", i);
    ck_assert(!build());
  }
  size_t lengths[] = {0, 1, 8, 47, 48, 49, size / 2, size - 1};
  for (size_t i = 0; i < DP_COUNT(lengths); i++) {
    write_bytes(path, sound, lengths[i]);
    ck_assert_msg(build(), "an entry cut to %zu bytes went by", lengths[i]);
    ck_assert(!build());
  }
  char *longer = calloc(1, size + 1);
  memcpy(longer, sound, size);
  write_bytes(path, longer, size + 1);
  ck_assert_msg(build(), "an entry with a byte too many went by");
  read_bytes(path, &again, &again_size);
  ck_assert_uint_eq(size, again_size);
  ck_assert_mem_eq(sound, again, size);
  ck_assert_int_eq(entries(NULL), 1); /* no rests of writing */
  free(sound);
  free(again);
  free(longer);
}
END_TEST

START_TEST(an_entry_of_another_program_is_rebuilt) {
  char mine[512], other[512], *bytes;
  size_t size;
  build();
  entries(mine);
  read_bytes(mine, &bytes, &size);
  remove(mine);
  program->kinds[0].ops[0].col_base = 1;
  build();
  ck_assert_int_eq(entries(other), 1);
  write_bytes(other, bytes, size);
  ck_assert(build());
  ck_assert(!build());
  free(bytes);
}
END_TEST

START_TEST(a_sound_entry_that_does_not_load_is_rebuilt) {
  build();
  int before = compiles;
  refuse_load = true;
  tile_code *code;
  dp_status status = cg_build(&fake, program, NULL, cache, &code, NULL, NULL);
  ck_assert_int_eq(status.code, DP_INVALID); /* and when the fresh one does not load either, that is the answer */
  ck_assert_int_eq(compiles, before + 1);
  dp_status_free(&status);
}
END_TEST

START_TEST(a_failed_compile_is_the_answer_and_leaves_no_entry) {
  refuse_compile = true;
  tile_code *code;
  bool compiled;
  dp_status status = cg_build(&fake, program, NULL, cache, &code, &compiled, NULL);
  ck_assert_int_eq(status.code, DP_UNSUPPORTED);
  ck_assert_ptr_null(code);
  dp_status_free(&status);
  ck_assert_int_eq(entries(NULL), 0);
}
END_TEST

START_TEST(a_cache_that_cannot_be_made_is_a_note) {
  char file[256], below[512];
  snprintf(file, sizeof file, "%s/file", home);
  snprintf(below, sizeof below, "%s/file/cache", home);
  write_bytes(file, "x", 1);
  const char *places[] = {file, below, "/proc/no/such/place"};
  for (size_t i = 0; i < DP_COUNT(places); i++) {
    dp_str note = {0};
    ck_assert(build_for(NULL, places[i], &note));
    ck_assert_msg(note.text && strstr(note.text, "not kept"), "no note about '%s'", places[i]);
    dp_str_free(&note);
    ck_assert(build_for(NULL, places[i], NULL));
  }
}
END_TEST

START_TEST(an_entry_that_is_a_directory_is_a_note) {
  char path[512];
  build();
  entries(path);
  remove(path);
  mkdir(path, 0777);
  dp_str note = {0};
  ck_assert(build_for(NULL, cache, &note));
  ck_assert_ptr_nonnull(note.text);
  dp_str_free(&note);
  ck_assert_int_eq(entries(NULL), 1);
}
END_TEST

/* A limit on file sizes stands for a full disk: the write breaks off in the middle. */
START_TEST(a_full_cache_is_a_note_and_keeps_no_half_entry) {
  struct rlimit old, tight;
  getrlimit(RLIMIT_FSIZE, &old);
  tight = old;
  tight.rlim_cur = 1000;
  void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
  setrlimit(RLIMIT_FSIZE, &tight);
  dp_str note = {0};
  bool compiled = build_for(NULL, cache, &note);
  setrlimit(RLIMIT_FSIZE, &old);
  signal(SIGXFSZ, handler);
  ck_assert(compiled);
  ck_assert_ptr_nonnull(note.text);
  dp_str_free(&note);
  ck_assert_int_eq(entries(NULL), 0);
  ck_assert(build());
  ck_assert(!build());
}
END_TEST

/* Processes that build, damage and read one entry at once: all get their code. */
START_TEST(processes_share_a_cache) {
  enum { PROCESSES = 4, ROUNDS = 60 };
  pid_t children[PROCESSES];
  for (int p = 0; p < PROCESSES; p++) {
    children[p] = fork();
    if (children[p] != 0) continue;
    int faults = 0;
    for (int i = 0; i < ROUNDS; i++) {
      tile_code *code;
      char path[512] = "";
      dp_status status = cg_build(&fake, program, NULL, cache, &code, NULL, NULL);
      faults += status.code != DP_OK;
      if (status.code == DP_OK) code->free(code);
      dp_status_free(&status);
      if (i % 5 == p && entries(path) && i % 2)
        remove(path);
      else if (i % 5 == p && *path)
        faults += truncate(path, 100) != 0 && access(path, F_OK) == 0;
    }
    _exit(faults != 0);
  }
  for (int p = 0; p < PROCESSES; p++) {
    int result;
    ck_assert_int_eq(waitpid(children[p], &result, 0), children[p]);
    ck_assert_msg(WIFEXITED(result) && WEXITSTATUS(result) == 0, "process %d failed", p);
  }
  build();
  ck_assert(!build());
  ck_assert_int_eq(entries(NULL), 1);
}
END_TEST

START_TEST(real_back_ends_run_from_the_cache) {
  for (int i = 0; i < cg_backend_count(); i++) {
    fixture *fresh = fixture_build(fixture_find("llama"), 5), *cached = fixture_build(fixture_find("llama"), 5);
    fixture *both[] = {fresh, cached};
    for (int j = 0; j < 2; j++) {
      tile_code *code;
      bool compiled;
      dp_str why = {0};
      dp_status status = cg_build(cg_backend_at(i), both[j]->program, NULL, cache, &code, &compiled, &why);
      ck_assert_msg(status.code == DP_OK, "%s", dp_status_text(&status));
      ck_assert_msg(why.text == NULL, "%s", why.text);
      ck_assert_int_eq(compiled, j == 0);
      ck_assert(fixture_run(both[j], code, &why));
      code->free(code);
    }
    dp_str why = {0};
    ck_assert_msg(fixture_same(fresh, cached, &why), "%s", why.text);
    fixture_free(fresh);
    fixture_free(cached);
  }
}
END_TEST

START_TEST(back_ends_are_found_by_name) {
  ck_assert_ptr_nonnull(cg_find_backend("interp"));
  ck_assert_ptr_null(cg_find_backend("none"));
  ck_assert_ptr_eq(cg_find_backend(NULL), cg_backend_at(0));
  ck_assert_ptr_null(cg_backend_at(cg_backend_count()));
  for (int i = 0; i < cg_backend_count(); i++)
    ck_assert_ptr_eq(cg_find_backend(cg_backend_at(i)->name), cg_backend_at(i));
}
END_TEST

int main(void) {
  Suite *suite = suite_create("cache");
  TCase *tests = tcase_create("entries");
  tcase_set_timeout(tests, 300);
  tcase_add_checked_fixture(tests, setup, teardown);
  tcase_add_test(tests, a_program_is_compiled_once);
  tcase_add_test(tests, without_a_directory_every_build_compiles);
  tcase_add_test(tests, whatever_determines_code_makes_another_entry);
  tcase_add_test(tests, a_damaged_entry_is_rebuilt_and_replaced);
  tcase_add_test(tests, an_entry_of_another_program_is_rebuilt);
  tcase_add_test(tests, a_sound_entry_that_does_not_load_is_rebuilt);
  tcase_add_test(tests, a_failed_compile_is_the_answer_and_leaves_no_entry);
  tcase_add_test(tests, a_cache_that_cannot_be_made_is_a_note);
  tcase_add_test(tests, an_entry_that_is_a_directory_is_a_note);
  tcase_add_test(tests, a_full_cache_is_a_note_and_keeps_no_half_entry);
  tcase_add_test(tests, processes_share_a_cache);
  tcase_add_test(tests, real_back_ends_run_from_the_cache);
  tcase_add_test(tests, back_ends_are_found_by_name);
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed != 0;
}
