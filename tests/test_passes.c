/* tests/test_passes.c: every file tests/passes/FOLDER/NAME.ir is a test: `// pass: NAMES` (or `default`), IR, a line
 * `// ----`, and the IR expected of those passes. Each is run as it is and again with every pass's output sent through
 * its text. CK_RUN_CASE=FOLDER runs one folder. */
#include "passes/passes.h"

#include <check.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef DIPPER_TEST_DIR
#define DIPPER_TEST_DIR "tests"
#endif

/* ---- the files --------------------------------------------------------------------------------------------------- */

typedef struct test_file {
  char path[1024];
} test_file;

enum { MAX_FILES = 512 };
static test_file files[MAX_FILES];
static int file_count;

static int by_path(const void *a, const void *b) {
  return strcmp(((const test_file *)a)->path, ((const test_file *)b)->path);
}

static void find_files(const char *folder) {
  int first = file_count;
  DIR *dir = opendir(folder);
  for (struct dirent *entry; dir && (entry = readdir(dir));) {
    const char *end = strrchr(entry->d_name, '.');
    if (!end || strcmp(end, ".ir") != 0 || file_count == MAX_FILES) continue;
    test_file *file = &files[file_count++];
    snprintf(file->path, sizeof file->path, "%s/%.200s", folder, entry->d_name);
  }
  if (dir) closedir(dir);
  qsort(files + first, (size_t)(file_count - first), sizeof *files, by_path);
}

/* ---- comparing --------------------------------------------------------------------------------------------------- */

typedef struct lines {
  char *text;
  char **at;
  int count;
} lines;

static lines split(const char *text) {
  lines l = {strdup(text), calloc(strlen(text) + 1, sizeof(char *)), 0};
  for (char *line = strtok(l.text, "\n"); line; line = strtok(NULL, "\n")) l.at[l.count++] = line;
  return l;
}

/* "-" what was expected, "+" what came, " " a line or two of both: by a longest common subsequence. */
static void diff(dp_str *out, const char *expected, const char *actual) {
  lines a = split(expected), b = split(actual);
  int width = b.count + 1;
  int *common = calloc((size_t)(a.count + 1) * (size_t)width, sizeof *common);
  for (int i = a.count - 1; i >= 0; i--) {
    for (int j = b.count - 1; j >= 0; j--) {
      int down = common[(i + 1) * width + j], right = common[i * width + j + 1];
      bool same = strcmp(a.at[i], b.at[j]) == 0;
      common[i * width + j] = same ? 1 + common[(i + 1) * width + j + 1] : down > right ? down : right;
    }
  }
  int since_change = 2;
  for (int i = 0, j = 0; i < a.count || j < b.count;) {
    bool same = i < a.count && j < b.count && strcmp(a.at[i], b.at[j]) == 0;
    since_change = same ? since_change + 1 : 0;
    if (same) {
      if (since_change <= 2) dp_str_addf(out, "  %s\n", a.at[i]);
      i++;
      j++;
    } else if (j == b.count || (i < a.count && common[(i + 1) * width + j] >= common[i * width + j + 1])) {
      dp_str_addf(out, "- %s\n", a.at[i++]);
    } else {
      dp_str_addf(out, "+ %s\n", b.at[j++]);
    }
  }
  free(common);
  free(a.at);
  free(a.text);
  free(b.at);
  free(b.text);
}

/* ---- one file ---------------------------------------------------------------------------------------------------- */

static ir_module *must_parse(const char *path, const char *text, size_t length) {
  dp_diags *diags = dp_diags_new();
  ir_module *module = ir_parse(path, text, length, diags);
  dp_str why = {0};
  dp_diags_render(diags, &why, false);
  ck_assert_msg(module != NULL, "\n%s", why.text ? why.text : "no module");
  dp_str_free(&why);
  dp_diags_free(diags);
  return module;
}

static char *printed(const ir_module *module) {
  dp_str text = {0};
  ir_print(&text, module);
  return text.text;
}

static void ck_passes(ir_module **module, const char *const *names, int count, const ps_options *options) {
  dp_status status = ps_run(module, names, count, options);
  ck_assert_msg(status.code == DP_OK, "%s", dp_status_text(&status));
}

/* "// pass: cse dce" -> the names; 0 for the default pipeline */
static int pass_names(char *header, const char **names, int most) {
  int count = 0;
  for (char *word = strtok(header, " \r"); word && count < most; word = strtok(NULL, " \r")) names[count++] = word;
  return count == 1 && strcmp(names[0], "default") == 0 ? 0 : count;
}

static void check_file(const char *path, bool stress) {
  char *text;
  size_t length;
  dp_status status = dp_read_file(path, &text, &length);
  ck_assert_msg(status.code == DP_OK, "%s", dp_status_text(&status));
  const char *start = strstr(text, "// pass:"), *line = strstr(text, "\n// ----");
  ck_assert_msg(start && line, "%s: needs a line '// pass: NAME' and a line '// ----'", path);
  char header[256];
  snprintf(header, sizeof header, "%.*s", (int)strcspn(start + 8, "\n"), start + 8);
  const char *names[16];
  int count = pass_names(header, names, (int)DP_COUNT(names));

  ir_module *module = must_parse(path, text, (size_t)(line - text));
  ir_module *expected = must_parse(path, line, strlen(line));
  ps_options options = {.verify_each = true, .stress_reparse = stress};
  ck_passes(&module, count ? names : NULL, count, &options);
  char *actual_text = printed(module), *expected_text = printed(expected);
  if (strcmp(actual_text, expected_text) != 0) {
    dp_str difference = {0};
    diff(&difference, expected_text, actual_text);
    ck_abort_msg("%s%s (- expected, + got)\n%.3000s", path, stress ? " (reparsed after every pass)" : "",
                 difference.text); /* libcheck's messages are limited */
  }
  free(actual_text);
  free(expected_text);
  ir_module_free(expected);
  ir_module_free(module);
  free(text);
}

START_TEST(passes_turn_the_input_into_the_expected_ir) { check_file(files[_i].path, false); }
END_TEST

START_TEST(passes_do_the_same_when_their_output_is_reparsed) { check_file(files[_i].path, true); }
END_TEST

/* ---- the pipeline ------------------------------------------------------------------------------------------------ */

static const char small[] = "module m { graph @g(%x: f32[4]) { %y = neg %x %z = neg %y return %z } }";

START_TEST(a_misspelt_pass_gets_a_suggestion_and_changes_nothing) {
  ir_module *module = must_parse("small.ir", small, strlen(small));
  char *before = printed(module);
  const char *names[] = {"canonicalize", "dec"};
  dp_status status = ps_run(&module, names, 2, NULL);
  ck_assert_int_eq(status.code, DP_NOT_FOUND);
  ck_assert_str_eq(dp_status_text(&status), "there is no pass 'dec'; did you mean 'dce'?");
  char *after = printed(module);
  ck_assert_str_eq(before, after);
  dp_status_free(&status);
  status = ps_run(&module, NULL, 0, &(ps_options){.dump_after = "flod"});
  ck_assert_int_eq(status.code, DP_NOT_FOUND);
  dp_status_free(&status);
  free(before);
  free(after);
  ir_module_free(module);
}
END_TEST

static void collect(void *user, const char *pass, const char *text) {
  dp_str_addf(user, "after %s: %s\n", pass, strstr(text, "return"));
}

START_TEST(dump_after_shows_the_named_passes) {
  const char *names[] = {"cse", "canonicalize", "dce"};
  for (int all = 0; all < 2; all++) {
    ir_module *module = must_parse("small.ir", small, strlen(small));
    dp_str seen = {0};
    ps_options options = {.dump_after = all ? "all" : "canonicalize", .dump = collect, .user = &seen};
    ck_passes(&module, names, 3, &options);
    ck_assert_ptr_nonnull(strstr(seen.text, "after canonicalize: return %x\n"));
    ck_assert_int_eq(strstr(seen.text, "after cse: return %z\n") != NULL, all);
    ck_assert_int_eq(strstr(seen.text, "after dce: return %x\n") != NULL, all);
    dp_str_free(&seen);
    ir_module_free(module);
  }
}
END_TEST

/* Run twice, they find nothing left to do. */
START_TEST(the_passes_before_the_schedule_are_idempotent) {
  const char *names[] = {"canonicalize", "fold", "cse", "select_rows", "dce"};
  char *text;
  size_t length;
  dp_status status = dp_read_file(DIPPER_TEST_DIR "/passes/pipeline/llama.ir", &text, &length);
  ck_assert_msg(status.code == DP_OK, "%s", dp_status_text(&status));
  *strstr(text, "\n// ----") = '\0';
  ir_module *module = must_parse("llama.ir", text, strlen(text));
  ck_passes(&module, names, 5, &(ps_options){.verify_each = true});
  char *once = printed(module);
  ck_passes(&module, names, 5, &(ps_options){.verify_each = true});
  char *twice = printed(module);
  ck_assert_str_eq(once, twice);
  free(once);
  free(twice);
  free(text);
  ir_module_free(module);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("passes");
  TCase *pipeline = tcase_create("options");
  tcase_add_test(pipeline, a_misspelt_pass_gets_a_suggestion_and_changes_nothing);
  tcase_add_test(pipeline, dump_after_shows_the_named_passes);
  tcase_add_test(pipeline, the_passes_before_the_schedule_are_idempotent);
  suite_add_tcase(suite, pipeline);

  struct dirent **folders;
  int folder_count = scandir(DIPPER_TEST_DIR "/passes", &folders, NULL, alphasort);
  for (int i = 0; i < folder_count; i++) {
    char path[512];
    snprintf(path, sizeof path, "%s/%.200s", DIPPER_TEST_DIR "/passes", folders[i]->d_name);
    int first = file_count;
    if (folders[i]->d_name[0] != '.') find_files(path);
    if (file_count > first) {
      TCase *folder = tcase_create(folders[i]->d_name);
      tcase_add_loop_test(folder, passes_turn_the_input_into_the_expected_ir, first, file_count);
      tcase_add_loop_test(folder, passes_do_the_same_when_their_output_is_reparsed, first, file_count);
      suite_add_tcase(suite, folder);
    }
  }
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_ENV);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  for (int i = 0; i < folder_count; i++) free(folders[i]);
  if (folder_count >= 0) free(folders);
  if (!file_count) fprintf(stderr, "no files in %s/passes\n", DIPPER_TEST_DIR);
  return failed || !file_count ? EXIT_FAILURE : EXIT_SUCCESS;
}
