/* tools/dipper.c: the `dipper` command: finds the command, shows help, and is the one place where errors are printed. */
#include "tools/cli.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MODEL_FLAGS "--weights --set --cache-dir --backend --verify-each"
#define RUN_FLAGS MODEL_FLAGS " --threads --ctx --target-cpu --target-features"

static const cli_command commands[] = {
    {"run", "MODEL.dip --weights FILE [-p PROMPT | --chat]", RUN_FLAGS " -p --chat --raw -n --temp --top-k --top-p --min-p --seed --stats --json",
     "answer a prompt, or hold a conversation",
     "Writes what the model says to stdout as it comes. The prompt is -p's, or standard input. When the weights bring a chat\n"
     "template the prompt becomes a user's message; --raw feeds it as it is. With --chat: a line is a message, Ctrl-C stops the\n"
     "answer, /reset forgets the conversation, /exit or Ctrl-D ends it.",
     1, 1, cli_run},
    {"logits", "MODEL.dip --weights FILE --tokens LIST --out FILE.npy", RUN_FLAGS " --tokens --chunk --out",
     "every position's logits",
     "Writes an .npy file of f32 [tokens, vocabulary]. How the tokens are cut into steps (--chunk), and how many threads run,\n"
     "does not change a bit of it.",
     1, 1, cli_logits},
    {"eval", "MODEL.dip --weights FILE --perplexity FILE.txt", RUN_FLAGS " --perplexity --json", "the perplexity of a text",
     "exp of the mean negative log-likelihood of tokens 1 .. n-1, in one window, or in windows of the context's length.", 1, 1, cli_eval},
    {"tokenize", "--weights FILE [TEXT]", "--weights --decode --json", "text to token ids, or back",
     "Reads TEXT, or standard input. With --decode: ids separated by spaces or commas to text.", 0, 1, cli_tokenize},
    {"check", "MODEL.dip", MODEL_FLAGS, "check a model's text", "Compiles the text down to a tile program and prints every mistake it finds.", 1, 1, cli_check},
    {"ir", "MODEL.dip", MODEL_FLAGS " --dump-after --tile --llvm --asm --target-triple --target-cpu --target-features -o",
     "look at a model's stages", "Prints the graph IR after all passes; or after one; or the tile program, LLVM IR or assembly made from it.", 1, 1, cli_ir},
    {"graph", "MODEL.dip -o FILE.svg", MODEL_FLAGS " -o", "draw a model", "Draws the fused graph with Graphviz's dot: a box a task kind. A FILE.dot gets the text.", 1, 1, cli_graph},
    {"weights", "ls FILE | save MODEL.dip --weights FILE --out FILE", MODEL_FLAGS " --out --dtype --json", "list or save weights",
     "ls: the tensors of a GGUF or safetensors file. save: all weights of the model as safetensors with Hugging Face's names,\n"
     "dequantized; --weights random:SEED makes them.",
     2, 2, cli_weights},
    {"bench", "MODEL.dip --weights FILE", RUN_FLAGS " --prefill --decode --repeat --batch --json", "measure speed",
     "Prefill of a prompt in steps of at most 512 tokens, then single-token steps after it, some times over.", 1, 1, cli_bench},
};

bool cli_color(int fd) {
  const char *off = getenv("NO_COLOR"), *terminal = getenv("TERM");
  return isatty(fd) && !(off && *off) && !(terminal && strcmp(terminal, "dumb") == 0);
}

int cli_fail(dp_status status) {
  const char *text = dp_status_text(&status);
  /* Rendered diagnostics name their own places, line by line. */
  if (strstr(text, ": error: ") && strchr(text, '\n')) fputs(text, stderr);
  else fprintf(stderr, cli_color(2) ? "\033[1mdipper: \033[31merror:\033[0m %s\n" : "dipper: error: %s\n", text);
  dp_status_free(&status);
  return CLI_FAILURE;
}

int cli_complain(const char *fmt, ...) {
  va_list args;
  va_start(args, fmt);
  dp_str message = {0};
  dp_str_addv(&message, fmt, args);
  va_end(args);
  return cli_fail((dp_status){DP_INVALID, message.text});
}

bool cli_write(const char *text, size_t length) { return fwrite(text, 1, length, stdout) == length; }

int cli_flush(void) {
  if (fflush(stdout) == 0 && !ferror(stdout)) return CLI_OK;
  if (errno == EPIPE) return CLI_FAILURE;
  return cli_complain("cannot write the output: %s", strerror(errno));
}

dp_status cli_read_stdin(dp_str *text) {
  char buffer[65536];
  for (;;) {
    size_t n = fread(buffer, 1, sizeof buffer, stdin);
    dp_str_addn(text, buffer, n);
    if (n < sizeof buffer) break;
  }
  dp_status status = {DP_OK, NULL};
  if (ferror(stdin)) status = (dp_status){DP_IO, strdup("cannot read standard input")};
  return status;
}

static void program_help(void) {
  printf("dipper: a compiler for transformer training and inference\n\nUsage: dipper COMMAND [ARGUMENTS] [FLAGS]\n\nCommands:\n");
  for (size_t i = 0; i < DP_COUNT(commands); i++) printf("  %-10s %s\n", commands[i].name, commands[i].summary);
  printf("  %-10s %s\n  %-10s %s\n", "help", "this text; help COMMAND: a command's", "version", "the version");
  printf("\nExit status: 0 done, 1 failed, 2 wrong usage, 130 stopped by Ctrl-C.\n"
         "Environment: DIPPER_CACHE (directory of compiled code), NO_COLOR.\n"
         "\nExample:\n  dipper run models/llama.dip --weights SmolLM2-135M-Instruct.Q4_1.gguf -p 'Why is the sky blue?'\n");
}

static void command_help(const cli_command *command) {
  printf("dipper %s: %s\n\nUsage: dipper %s %s\n\n%s\n\nFlags:\n", command->name, command->summary, command->name,
         command->arguments, command->description);
  cli_print_flags(command);
  printf("  %-24s %s\n", "--help", "this text");
}

static const cli_command *find_command(const char *name) {
  for (size_t i = 0; i < DP_COUNT(commands); i++)
    if (strcmp(commands[i].name, name) == 0) return &commands[i];
  return NULL;
}

static int unknown_command(const char *name) {
  const char *names[DP_COUNT(commands)];
  for (size_t i = 0; i < DP_COUNT(commands); i++) names[i] = commands[i].name;
  const char *near = dp_nearest_name(name, names, (int)DP_COUNT(commands));
  if (near) fprintf(stderr, "dipper: error: no command '%s'; did you mean '%s'?\n", name, near);
  else fprintf(stderr, "dipper: error: no command '%s'; 'dipper help' lists them\n", name);
  return CLI_USAGE;
}

int main(int argc, char **argv) {
  signal(SIGPIPE, SIG_IGN);
  if (argc < 2) {
    program_help();
    return CLI_USAGE;
  }
  const char *name = argv[1];
  if (strcmp(name, "version") == 0 || strcmp(name, "--version") == 0) {
    printf("dipper " DIPPER_VERSION "\n");
    return cli_flush();
  }
  if (strcmp(name, "help") == 0 || strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0) {
    const cli_command *command = argc > 2 ? find_command(argv[2]) : NULL;
    if (argc > 2 && !command) return unknown_command(argv[2]);
    if (command) command_help(command);
    else program_help();
    return cli_flush();
  }
  const cli_command *command = find_command(name);
  if (!command) return unknown_command(name);
  for (int i = 2; i < argc && strcmp(argv[i], "--") != 0; i++) {
    if (strcmp(argv[i], "--help") != 0 && strcmp(argv[i], "-h") != 0) continue;
    command_help(command);
    return cli_flush();
  }
  cli_args args;
  int code = cli_parse(command, argc, argv, &args);
  if (code != CLI_OK) return code;
  code = command->run(&args);
  int flushed = cli_flush();
  return code != CLI_OK ? code : flushed;
}
