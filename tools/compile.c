/* tools/compile.c: `dipper compile`: which kind of file, what it begins with, then dp_compile. */
#include "tools/cli.h"
#include "dipper/aot.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const struct {
  const char *name, *launcher; /* launcher: the name of its file */
  dp_emit emit;
} kinds[] = {
    {"exe", "dipper-launcher", DP_EMIT_EXECUTABLE}, {"so", "libdipper-model.so", DP_EMIT_LIBRARY},
    {"obj", NULL, DP_EMIT_OBJECT},                  {"header", NULL, DP_EMIT_HEADER},
    {"weights", NULL, DP_EMIT_WEIGHTS},             {"cu", NULL, DP_EMIT_CU},
    {"ptx", NULL, DP_EMIT_PTX},                     {"cubin", NULL, DP_EMIT_CUBIN},
};

static void print_report(void *user, const char *text) {
  (void)user;
  fputs(text, stderr);
}

/* Beside this program (in a build), or where it is installed. */
static bool find_launcher(const char *name, char path[PATH_MAX]) {
  static const char *const folders[] = {"", "../libexec/dipper/"};
  char self[PATH_MAX];
  ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
  if (n <= 0) return false;
  self[n] = '\0';
  char *slash = strrchr(self, '/');
  if (!slash) return false;
  slash[1] = '\0';
  for (size_t i = 0; i < DP_COUNT(folders); i++)
    if (snprintf(path, PATH_MAX, "%s%s%s", self, folders[i], name) < PATH_MAX && access(path, R_OK) == 0) return true;
  return false;
}

int cli_compile(const cli_args *args) {
  char found[PATH_MAX];
  size_t kind = 0;
  while (kind < DP_COUNT(kinds) && strcmp(kinds[kind].name, args->emit) != 0) kind++;
  if (kind == DP_COUNT(kinds)) return cli_usage("compile", "--emit wants exe, so, obj, header, weights, cu, ptx or cubin, not '%s'", args->emit);
  dp_compilation how = {.emit = kinds[kind].emit, .targets = args->targets, .target_count = args->target_count,
                        .embed = args->embed, .launcher = args->launcher, .on_report = args->report ? print_report : NULL};
  const char *launcher = kinds[kind].launcher;
  if (args->embed && !launcher) return cli_usage("compile", "--embed is for exe and so");
  if (args->embed && !args->model.weights) return cli_usage("compile", "--embed wants --weights");
  if (launcher && !how.launcher) {
    if (!find_launcher(launcher, found))
      return cli_complain("'%s' is not beside dipper, nor in libexec/dipper: install it, or name it with --launcher", launcher);
    how.launcher = found;
  }
  dp_status status = dp_compile(&args->model, &how, args->out);
  return status.code == DP_OK ? CLI_OK : cli_fail(status);
}
