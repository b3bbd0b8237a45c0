/* tools/cli.h: what the commands of `dipper` share: parsed flags, output, exit codes.
 *
 *   dipper.c   main, the table of commands, help
 *   flags.c    flags from argv, with did-you-mean
 *   io.c       errors, output, standard input, token ids
 *   run.c      run: a prompt, standard input, or a conversation
 *   figures.c  logits, eval, bench: numbers out
 *   embed.c    embed: texts to vectors
 *   trace.c    trace: a timeline of a run
 *   profile.c  profile: time and work of each op, beside the limits that limits.c measures
 *   plot.c     plot: a bench's figures as a picture; plot_run.c: a training run's; svg.c
 *   compile.c  compile: a model to an object, an executable, a library; launcher/ is what those begin with
 *   train.c    train: a recipe, with its progress
 *   plan.c     plan: a recipe's memory and time before it runs
 *   look.c     check, ir, graph, weights, tokenize: looking inside */
#ifndef DIPPER_TOOLS_CLI_H
#define DIPPER_TOOLS_CLI_H

#include "base/base.h"
#include "dipper/dipper.h"

enum { CLI_OK = 0, CLI_FAILURE = 1, CLI_USAGE = 2, CLI_INTERRUPTED = 130 };

typedef struct cli_args {
  const char *positional[8];
  int positional_count;
  dp_options model; /* path is positional[0] where the command takes a model */
  const char *sets[64];
  /* run */
  const char *prompt;
  bool chat, raw, stats;
  int64_t count; /* -n; -1 when not given */
  double temperature, top_p, min_p;
  int64_t top_k, seed;
  /* logits, eval, tokenize, weights */
  const char *tokens, *out, *perplexity, *dtype;
  int64_t chunk;
  bool decode, json;
  /* ir */
  const char *dump_after, *emit;
  bool tile, llvm, assembly;
  /* bench */
  int64_t prefill, bench_decode, repeat, batch;
  /* train */
  const char *data;
  bool resume;
  int64_t steps;
  /* compile */
  const char *launcher; /* and emit, of ir above */
  bool embed, report;
  const char *targets[16];
  int target_count;
  /* embed: texts a step, 0: as many as fit */
  int64_t together;
} cli_args;

typedef struct cli_command {
  const char *name, *arguments;
  const char *flags, *required; /* names of flags it takes, and of those it must have, separated by spaces */
  const char *summary, *description, *examples;
  int least, most; /* positional arguments */
  int (*run)(const cli_args *args);
} cli_command;

/* Parses argv[2..]; on a mistake prints it and returns CLI_USAGE. */
int cli_parse(const cli_command *command, int argc, char **argv, cli_args *args);
void cli_print_flags(const cli_command *command); /* for --help */

bool cli_color(int fd); /* a terminal, and NO_COLOR is not set */
/* Prints "dipper: error: ..." (or a diagnostic as it is), frees the status, returns CLI_FAILURE. */
int cli_fail(dp_status status);
int cli_complain(const char *fmt, ...) DP_PRINTF(1, 2); /* the same for a message; returns CLI_FAILURE */
/* The same for a wrong command line, and where to read on (command NULL: `dipper help`); returns CLI_USAGE. */
int cli_usage(const char *command, const char *fmt, ...) DP_PRINTF(2, 3);
bool cli_write(const char *text, size_t length);     /* to stdout; false: it failed, which cli_flush reports */
bool cli_write_now(const char *text, size_t length); /* and does not keep it back */
/* The end of a command: what could not be written to stdout is told, unless nobody reads it any more. */
int cli_flush(void);
/* Atomically, unless the path is a device or a pipe. CLI_OK or CLI_FAILURE. */
int cli_write_file(const char *path, const dp_text *text);
/* Appends the head of an .npy file (format 1.0, numpy.lib.format) of f32 [rows, columns]. */
void cli_npy_header(int64_t rows, int64_t columns, dp_str *out);
void cli_remove_partial(const char *path); /* what a failed command began to write; never a device */
dp_status cli_read_stdin(dp_str *text);
/* Ids separated by commas, spaces or lines, with or without brackets; malloc'ed. CLI_OK or CLI_FAILURE. */
int cli_parse_ids(const char *text, int32_t **ids, size_t *count);
/* The same of a flag's value, where "@FILE" is a file with them; at least one. */
int cli_read_ids(const char *list, int32_t **ids, size_t *count);
/* A prompt's ids: as a user's message where there is a chat template and not --raw. */
dp_status cli_prompt_tokens(const cli_args *args, const dp_model *model, const char *prompt, size_t length,
                            dp_tokens *tokens);

/* On stderr what the user may want to know of a model that was opened; with `always` also where nobody watches, as behind
 * --device: where it runs then is not what was asked for. */
void cli_note(const dp_model *model, bool always);

int64_t cli_peak_bytes(void); /* the most memory that was resident, of this program alone */

int cli_run(const cli_args *args);
/* The same of a model that `open` opens. */
typedef dp_status cli_open(const dp_options *options, dp_model **model);
int cli_run_model(const cli_args *args, cli_open *open);
int cli_logits_model(const cli_args *args, cli_open *open);
int cli_compile(const cli_args *args);
int cli_logits(const cli_args *args);
int cli_eval(const cli_args *args);
int cli_bench(const cli_args *args);
int cli_trace(const cli_args *args);
int cli_profile(const cli_args *args);
int cli_check(const cli_args *args);
int cli_ir(const cli_args *args);
int cli_graph(const cli_args *args);
int cli_devices(const cli_args *args);
int cli_weights(const cli_args *args);
int cli_tokenize(const cli_args *args);
int cli_embed(const cli_args *args);
int cli_plot(const cli_args *args);
int cli_train(const cli_args *args);
int cli_plan(const cli_args *args);

#endif
