/* tools/look.c: `dipper check`, `ir`, `graph`, `devices`, `weights`, `tokenize`: looking at models, stages and files. */
#include "tools/cli.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

int cli_check(const cli_args *args) {
  dp_text summary;
  dp_options options = args->model;
  options.verify_each = true;
  dp_status status = dp_check(&options, &summary);
  if (status.code != DP_OK) return cli_fail(status);
  cli_write(summary.text, summary.length);
  dp_text_free(&summary);
  return CLI_OK;
}

/* What the CUDA back end makes. */
static dp_status emit(const cli_args *args, dp_text *text) {
  dp_options options = args->model;
  options.backend = "cuda";
  dp_dump what = strcmp(args->emit, "cubin") == 0 ? DP_DUMP_MACHINE : strcmp(args->emit, "ptx") == 0 ? DP_DUMP_ASM : DP_DUMP_LLVM;
  return dp_dump_text(&options, what, NULL, text);
}

int cli_ir(const cli_args *args) {
  dp_dump what = args->assembly ? DP_DUMP_ASM : args->llvm ? DP_DUMP_LLVM : args->tile ? DP_DUMP_TILE : DP_DUMP_IR;
  if (args->assembly + args->llvm + args->tile + (args->dump_after != NULL) + (args->emit != NULL) > 1)
    return cli_usage("ir", "--dump-after, --tile, --llvm, --asm and --emit exclude each other");
  if (args->emit && strcmp(args->emit, "cu") != 0 && strcmp(args->emit, "ptx") != 0 && strcmp(args->emit, "cubin") != 0)
    return cli_usage("ir", "--emit is cu, ptx or cubin, not '%s'", args->emit);
  dp_text text;
  dp_status status = args->emit ? emit(args, &text) : dp_dump_text(&args->model, what, args->dump_after, &text);
  if (status.code != DP_OK) return cli_fail(status);
  int code = CLI_OK;
  if (args->out)
    code = cli_write_file(args->out, &text);
  else
    cli_write(text.text, text.length);
  dp_text_free(&text);
  return code;
}

/* Runs dot on the text; its own messages go to stderr. */
static int run_dot(const dp_text *text, const char *type, const char *out) {
  int ends[2];
  if (pipe(ends) != 0) return cli_complain("cannot start dot: %s", strerror(errno));
  pid_t child = fork();
  if (child < 0) return cli_complain("cannot start dot: %s", strerror(errno));
  if (child == 0) {
    dup2(ends[0], 0);
    close(ends[0]);
    close(ends[1]);
    char format[32];
    snprintf(format, sizeof format, "-T%.20s", type);
    execlp("dot", "dot", format, "-o", out, (char *)NULL);
    _exit(127);
  }
  close(ends[0]);
  for (size_t done = 0; done < text->length;) {
    ssize_t n = write(ends[1], text->text + done, text->length - done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    done += (size_t)n;
  }
  close(ends[1]);
  int state = 0;
  waitpid(child, &state, 0);
  if (WIFEXITED(state) && WEXITSTATUS(state) == 127)
    return cli_complain("Graphviz's dot is not installed (Debian: graphviz); -o FILE.dot needs none");
  if (!WIFEXITED(state) || WEXITSTATUS(state) != 0) return cli_complain("dot could not write '%s'", out);
  return CLI_OK;
}

int cli_graph(const cli_args *args) {
  const char *suffix = strrchr(args->out, '.');
  suffix = suffix ? suffix + 1 : "svg";
  dp_text text;
  dp_status status = dp_dump_text(&args->model, DP_DUMP_DOT, NULL, &text);
  if (status.code != DP_OK) return cli_fail(status);
  int code;
  if (strcmp(suffix, "dot") == 0) {
    code = cli_write_file(args->out, &text);
  } else if (strcmp(suffix, "svg") != 0 && strcmp(suffix, "png") != 0 && strcmp(suffix, "pdf") != 0) {
    code = cli_usage("graph", "graph draws .svg, .png, .pdf or .dot files, not '%s'", args->out);
  } else {
    code = run_dot(&text, suffix, args->out);
  }
  dp_text_free(&text);
  return code;
}

int cli_devices(const cli_args *args) {
  (void)args;
  dp_text text;
  dp_status status = dp_list_devices(&text);
  if (status.code != DP_OK) return cli_fail(status);
  cli_write(text.text, text.length);
  dp_text_free(&text);
  return CLI_OK;
}

int cli_weights(const cli_args *args) {
  if (strcmp(args->positional[0], "ls") == 0) {
    dp_text text;
    dp_status status = dp_list_weights(args->positional[1], args->json, &text);
    if (status.code != DP_OK) return cli_fail(status);
    cli_write(text.text, text.length);
    dp_text_free(&text);
    return CLI_OK;
  }
  if (strcmp(args->positional[0], "save") != 0)
    return cli_usage("weights", "weights has 'ls' and 'save', not '%s'", args->positional[0]);
  if (!args->model.weights || !args->out) return cli_usage("weights", "weights save wants --weights and --out");
  static const char *const types[] = {"f32", "f16", "bf16"};
  bool known = false;
  for (size_t i = 0; i < DP_COUNT(types); i++) known |= strcmp(args->dtype, types[i]) == 0;
  if (!known) return cli_usage("weights", "--dtype is f32, f16 or bf16, not '%s'", args->dtype);
  dp_options options = args->model;
  options.path = args->positional[1];
  dp_status status = dp_save_weights(&options, args->out, args->dtype);
  return status.code == DP_OK ? CLI_OK : cli_fail(status);
}

/* ---- tokenize */

static void print_ids(const dp_tokens *tokens, bool json) {
  dp_str out = {0};
  dp_str_add(&out, json ? "[" : "");
  for (size_t i = 0; i < tokens->count; i++) dp_str_addf(&out, "%s%d", i == 0 ? "" : json ? "," : " ", tokens->ids[i]);
  dp_str_add(&out, json ? "]\n" : "\n");
  cli_write(out.text ? out.text : "", out.length);
  dp_str_free(&out);
}

static int decode_ids(const cli_args *args, const char *text) {
  int32_t *ids;
  size_t count;
  int code = cli_parse_ids(text, &ids, &count);
  if (code != CLI_OK) return code;
  dp_text decoded;
  dp_status status = dp_detokenize_file(args->model.weights, ids, count, &decoded);
  free(ids);
  if (status.code != DP_OK) return cli_fail(status);
  cli_write(decoded.text, decoded.length);
  dp_text_free(&decoded);
  return CLI_OK;
}

int cli_tokenize(const cli_args *args) {
  dp_str piped = {0};
  const char *text = args->positional_count ? args->positional[0] : NULL;
  size_t length = text ? strlen(text) : 0;
  if (!text) {
    dp_status status = cli_read_stdin(&piped);
    if (status.code != DP_OK) {
      dp_str_free(&piped);
      return cli_fail(status);
    }
    text = piped.text ? piped.text : "";
    length = piped.length;
  }
  int code;
  if (args->decode) {
    code = decode_ids(args, text);
  } else {
    dp_tokens tokens;
    dp_status status = dp_tokenize_file(args->model.weights, text, length, false, &tokens);
    if (status.code == DP_OK) {
      print_ids(&tokens, args->json);
      dp_tokens_free(&tokens);
    }
    code = status.code == DP_OK ? CLI_OK : cli_fail(status);
  }
  dp_str_free(&piped);
  return code;
}
