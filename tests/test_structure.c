/* tests/test_structure.c: the shape of the house: which folder may include which, what may stand at the top level. */
#include "base/base.h"

#include <check.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* base <- ir <- {frontend, passes, codegen, runtime} <- api <- tools; the four in the middle never include each other. */
static const struct {
  const char *folder, *may_include;
} star[] = {
    {"base", " dipper base "},
    {"ir", " dipper base ir "},
    {"frontend", " dipper base ir frontend "},
    {"passes", " dipper base ir passes "},
    {"codegen", " dipper base ir codegen "},
    {"runtime", " dipper base ir runtime "},
    {"api", " base ir frontend passes codegen runtime api dipper "},
    {"tools", " base dipper tools "},
};

static int faults;

static void check_file(const char *path, const char *folder, const char *may_include) {
  char *text;
  size_t length;
  dp_status status = dp_read_file(path, &text, &length);
  ck_assert_msg(status.code == DP_OK, "%s", dp_status_text(&status));
  for (char *line = text; line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL) {
    char included[256], target[256];
    if (sscanf(line, "#include \"%255[^\"]\"", included) != 1 || !strchr(included, '/')) continue;
    snprintf(target, sizeof target, " %.*s ", (int)(strchr(included, '/') - included), included);
    if (!strstr(may_include, target)) {
      fprintf(stderr, "%s includes %s: the folder %s may not\n", path, included, folder);
      faults++;
    }
    /* From outside a folder only its face, and the data formats of ir/ and the tables, are to be seen. */
    char face[256], own[64];
    snprintf(own, sizeof own, " %s ", folder);
    snprintf(face, sizeof face, "%.*s/%.*s.h", (int)(strchr(included, '/') - included), included,
             (int)(strchr(included, '/') - included), included);
    if (strcmp(target, own) != 0 && strcmp(target, " ir ") != 0 && strcmp(included, face) != 0 &&
        strcmp(target, " dipper ") != 0) {
      fprintf(stderr, "%s includes %s: only the face %s is for other folders\n", path, included, face);
      faults++;
    }
  }
  free(text);
}

static void walk(const char *path, const char *folder, const char *may_include) {
  DIR *dir = opendir(path);
  ck_assert_msg(dir != NULL, "no folder %s", path);
  for (struct dirent *entry; (entry = readdir(dir));) {
    if (entry->d_name[0] == '.') continue;
    char child[1024];
    snprintf(child, sizeof child, "%s/%s", path, entry->d_name);
    struct stat info;
    if (stat(child, &info) != 0) continue;
    const char *suffix = strrchr(entry->d_name, '.');
    if (S_ISDIR(info.st_mode)) walk(child, folder, may_include);
    else if (suffix && (!strcmp(suffix, ".c") || !strcmp(suffix, ".h") || !strcmp(suffix, ".y") || !strcmp(suffix, ".l")))
      check_file(child, folder, may_include);
  }
  closedir(dir);
}

START_TEST(folders_include_only_what_the_star_allows) {
  faults = 0;
  for (size_t i = 0; i < DP_COUNT(star); i++) {
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", DIPPER_SOURCE_DIR, star[i].folder);
    walk(path, star[i].folder, star[i].may_include);
  }
  ck_assert_int_eq(faults, 0);
}
END_TEST

START_TEST(top_level_holds_only_what_the_design_names) {
  static const char allowed[] = " CMakeLists.txt README.md frontend ir passes codegen runtime models tests include tools "
                                "bench docs Makefile CMakePresets.json LICENSE CONTRIBUTING.md CHANGELOG.md base api build ";
  DIR *dir = opendir(DIPPER_SOURCE_DIR);
  ck_assert(dir != NULL);
  for (struct dirent *entry; (entry = readdir(dir));) {
    char name[300];
    if (entry->d_name[0] == '.') continue;
    snprintf(name, sizeof name, " %s ", entry->d_name);
    ck_assert_msg(strstr(allowed, name) != NULL, "unexpected at the top level: %s", entry->d_name);
  }
  closedir(dir);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("structure");
  TCase *tests = tcase_create("house");
  tcase_add_test(tests, folders_include_only_what_the_star_allows);
  tcase_add_test(tests, top_level_holds_only_what_the_design_names);
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed != 0;
}
