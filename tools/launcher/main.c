/* tools/launcher/main.c: what an executable of `dipper compile` begins with: finds the model at its own end and runs it as
 * `dipper run` does. Linked without frontend, LLVM and the compiler for GPUs. */
#include "dipper/aot.h"
#include "tools/cli.h"

#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <unistd.h>

#define SELF "/proc/self/exe"

static const cli_command command = {
    .name = "run",
    .arguments = "[-p PROMPT | --chat] [--weights FILE]",
    .flags = "--weights --tokenizer --threads --ctx -p --chat --raw -n --temp --top-k --top-p --min-p --seed --stats --json "
             "--device --tokens --out --chunk",
    .most = 0,
};

/* Where this file lies: weights are beside it. Without /proc, what it was started by. */
static const char *own_path(char path[PATH_MAX]) {
  ssize_t n = readlink(SELF, path, PATH_MAX - 1);
  if (n <= 0) return (const char *)getauxval(AT_EXECFN);
  path[n] = '\0';
  return path;
}

static dp_status open_self(const dp_options *options, dp_model **model) {
  char path[PATH_MAX];
  const char *own = own_path(path);
  return dp_model_open_package(own == path ? SELF : own, own, options, model);
}

static int help(void) {
  char path[PATH_MAX];
  const char *name = own_path(path), *slash = strrchr(name, '/');
  printf("%s: a language model, compiled by dipper\n\nUsage: %s %s\n\n"
         "Answers a prompt (-p, or standard input), or with --chat holds a conversation. With --tokens and --out writes the\n"
         "logits of token ids as .npy. Without --weights they are those inside, or the file beside it that --help of\n"
         "`dipper compile` tells of.\n\nFlags:\n",
         slash ? slash + 1 : name, slash ? slash + 1 : name, command.arguments);
  cli_print_flags(&command);
  return cli_flush();
}

int main(int argc, char **argv) {
  signal(SIGPIPE, SIG_IGN);
  for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++)
    if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) return help();
  char **shifted = calloc((size_t)argc + 2, sizeof *shifted); /* flags begin behind a command's name */
  if (!shifted) return cli_complain("out of memory");
  memcpy(shifted + 1, argv, sizeof *argv * (size_t)argc);
  cli_args args;
  int code = cli_parse(&command, argc + 1, shifted, &args);
  if (code == CLI_OK && !args.tokens != !args.out) code = cli_usage(NULL, "--tokens and --out go together");
  if (code == CLI_OK) code = args.tokens ? cli_logits_model(&args, open_self) : cli_run_model(&args, open_self);
  free(shifted);
  int flushed = cli_flush();
  return code != CLI_OK ? code : flushed;
}
