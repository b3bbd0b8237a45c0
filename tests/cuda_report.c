/* tests/cuda_report.c: addresses of code in a report of the host executor's checks become source: the line at hand, its
 * function, and the task it is part of. addr2line reads the library's debug information. */
#include "tests/cuda_report.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Line n of a file, without the blanks around it. */
static void add_line(dp_str *out, const char *path, int n) {
  FILE *file = fopen(path, "r");
  char line[512] = "";
  for (int i = 0; file && i < n; i++)
    if (!fgets(line, sizeof line, file)) line[0] = 0;
  if (file) fclose(file);
  char *at = line + strspn(line, " \t");
  at[strcspn(at, "\n")] = 0;
  dp_str_addf(out, "`%s`", at);
}

/* "p0::kind_3_down(Step const&, ...)" is kind_3_down. */
static void cut_name(char *name) {
  name[strcspn(name, "\n")] = 0;
  if (name[0] == 'p' && strstr(name, "::")) memmove(name, strstr(name, "::") + 2, strlen(strstr(name, "::") + 2) + 1);
  char *product = strncmp(name, "void ", 5) == 0 || strncmp(name, "float ", 6) == 0 ? strchr(name, ' ') + 1 : name;
  if (product[0] == 'p' && strstr(product, "::")) product = strstr(product, "::") + 2;
  memmove(name, product, strlen(product) + 1);
  name[strcspn(name, "(<")] = 0;
}

/* Pairs of lines, of the innermost function first. */
static void add_source(dp_str *out, const char *library, const char *source, const char *addresses, size_t n) {
  char command[2048], name[512], place[512], task[512] = "";
  snprintf(command, sizeof command, "addr2line -C -f -i -e %s %.*s 2>/dev/null", library, (int)n, addresses);
  FILE *lines = popen(command, "r");
  bool first = true;
  while (lines && fgets(name, sizeof name, lines) && fgets(place, sizeof place, lines)) {
    const char *line = strrchr(place, ':');
    cut_name(name);
    if (first) {
      dp_str_addf(out, "line %d", line ? atoi(line + 1) : 0);
      dp_str_addf(out, strstr(name, "_step_") ? ": " : " of %s: ", name); /* a whole step says nothing */
      add_line(out, source, line ? atoi(line + 1) : 0);
    }
    first = false;
    if (!task[0] && (strncmp(name, "kind_", 5) == 0 || strncmp(name, "group_", 6) == 0)) strcpy(task, name);
  }
  if (first) dp_str_addf(out, "code at %.*s", (int)n, addresses);
  if (task[0]) dp_str_addf(out, " in %s", task);
  if (lines) pclose(lines);
}

void cuda_explain(dp_str *out, const char *library, const char *source, const char *error) {
  for (const char *open; (open = strchr(error, '{')) && strchr(open, '}'); error = strchr(open, '}') + 1) {
    dp_str_addn(out, error, (size_t)(open - error));
    dp_str_addc(out, '(');
    add_source(out, library, source, open + 1, strcspn(open + 1, "}"));
    dp_str_addc(out, ')');
  }
  dp_str_add(out, error);
}
