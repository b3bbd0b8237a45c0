/* tests/test_schedule.c: graph IR in, tile program out: fusion, buffers, memory reuse and waits as text, and every
 * schedule proved free of races and deadlocks for several shapes of a step. Each file of tests/schedule holds a module, a
 * line "// ----", and the tile program; DIPPER_UPDATE=1 writes the second half anew. */
#include "base/base.h"
#include "ir/ir.h"
#include "passes/passes.h"

#include <check.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FOLDER DIPPER_TEST_DIR "/schedule/"

static char *files[64];
static int file_count;

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static void find_files(void) {
  DIR *dir = opendir(FOLDER);
  for (struct dirent *entry; dir && (entry = readdir(dir));) {
    size_t n = strlen(entry->d_name);
    if (n > 3 && strcmp(entry->d_name + n - 3, ".ir") == 0 && file_count < (int)DP_COUNT(files)) files[file_count++] = strdup(entry->d_name);
  }
  if (dir) closedir(dir);
  qsort(files, (size_t)file_count, sizeof *files, by_name);
}

static void check_ok(dp_status status, const char *what) {
  ck_assert_msg(status.code == DP_OK, "%s: %s", what, dp_status_text(&status));
}

/* The tile program of a module's text, through the default pipeline with every check on. */
static tile_program *schedule(const char *name, const char *text, size_t length) {
  dp_diags *diags = dp_diags_new();
  ir_module *module = ir_parse(name, text, length, diags);
  dp_str rendered = {0};
  dp_diags_render(diags, &rendered, false);
  ck_assert_msg(module != NULL, "%s", rendered.text);
  dp_str_free(&rendered);
  dp_diags_free(diags);
  ps_options options = {.verify_each = true, .stress_reparse = true};
  check_ok(ps_run(&module, NULL, 0, &options), name);
  tile_program *program;
  tile_target target = {.cores = 2, .task_bytes = 32768};
  check_ok(ps_schedule(module, "forward", &target, &program), name);
  ir_module_free(module);
  return program;
}

static void compare_lines(const char *name, const char *got, const char *expected) {
  for (int line = 1; *got || *expected; line++) {
    size_t n = strcspn(got, "\n"), m = strcspn(expected, "\n");
    if (n != m || memcmp(got, expected, n) != 0)
      ck_abort_msg("%s: line %d of the tile program is\n  %.*s\nnot\n  %.*s", name, line, (int)n, got, (int)m, expected);
    got += n + (got[n] == '\n');
    expected += m + (expected[m] == '\n');
  }
}

START_TEST(modules_become_the_expected_tile_programs) {
  char path[1024], *text;
  size_t length;
  snprintf(path, sizeof path, FOLDER "%s", files[_i]);
  check_ok(dp_read_file(path, &text, &length), path);
  char *cut = strstr(text, "// ----\n");
  size_t source = cut ? (size_t)(cut - text) : length;
  tile_program *program = schedule(files[_i], text, source);
  dp_str printed = {0};
  tile_print(&printed, program);
  if (getenv("DIPPER_UPDATE")) {
    dp_str whole = {0};
    dp_str_addn(&whole, text, source);
    dp_str_addf(&whole, "// ----\n%s", printed.text);
    check_ok(dp_write_file_atomic(path, whole.text, whole.length), path);
    dp_str_free(&whole);
  } else {
    ck_assert_msg(cut != NULL, "%s: no line '// ----'", files[_i]);
    compare_lines(files[_i], printed.text, cut + strlen("// ----\n"));
  }
  dp_str_free(&printed);
  tile_program_free(program);
  free(text);
}
END_TEST

START_TEST(no_two_tasks_race_and_none_waits_for_ever) {
  static const int64_t shapes[][4] = {{1, 1, 1, 0}, {1, 1, 1, 130}, {96, 1, 1, 0}, {97, 97, 1, 63}, {200, 2, 2, 64}, {290, 3, 5, 7}, {33, 0, 3, 5}};
  char path[1024], *text;
  size_t length;
  snprintf(path, sizeof path, FOLDER "%s", files[_i]);
  check_ok(dp_read_file(path, &text, &length), path);
  char *cut = strstr(text, "// ----\n");
  tile_program *program = schedule(files[_i], text, cut ? (size_t)(cut - text) : length);
  for (size_t i = 0; i < DP_COUNT(shapes); i++)
    check_ok(tile_check(program, shapes[i][0], shapes[i][1], shapes[i][2], shapes[i][3]), files[_i]);
  tile_program_free(program);
  free(text);
}
END_TEST

/* The checker can fail: a wait taken away from a real schedule is found, whichever it is. */
START_TEST(every_wait_of_a_schedule_is_needed) {
  char *text;
  size_t length;
  check_ok(dp_read_file(FOLDER "a_layer_loop_of_attention_and_mlp.ir", &text, &length), "module");
  char *cut = strstr(text, "// ----\n");
  tile_program *program = schedule("module", text, cut ? (size_t)(cut - text) : length);
  int waits = 0;
  for (int g = 0; g < program->group_count; g++) {
    tile_group *group = &program->groups[g];
    for (int w = 0; w < group->wait_count; w++, waits++) {
      tile_wait taken = group->waits[w];
      memmove(&group->waits[w], &group->waits[w + 1], sizeof *group->waits * (size_t)(group->wait_count - w - 1));
      group->wait_count--;
      dp_status status = tile_check(program, 200, 2, 2, 64);
      ck_assert_msg(status.code != DP_OK, "group %d of kind %s: the wait on group %d is not missed", g,
                    program->kinds[group->kind].name, taken.group);
      dp_status_free(&status);
      memmove(&group->waits[w + 1], &group->waits[w], sizeof *group->waits * (size_t)(group->wait_count - w));
      group->waits[w] = taken;
      group->wait_count++;
    }
  }
  ck_assert_int_gt(waits, 10);
  tile_program_free(program);
  free(text);
}
END_TEST

int main(void) {
  find_files();
  Suite *suite = suite_create("schedule");
  TCase *tests = tcase_create("schedule");
  tcase_set_timeout(tests, 120);
  tcase_add_loop_test(tests, modules_become_the_expected_tile_programs, 0, file_count);
  tcase_add_loop_test(tests, no_two_tasks_race_and_none_waits_for_ever, 0, file_count);
  tcase_add_test(tests, every_wait_of_a_schedule_is_needed);
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner) + (file_count == 0);
  srunner_free(runner);
  for (int i = 0; i < file_count; i++) free(files[i]);
  return failed != 0;
}
