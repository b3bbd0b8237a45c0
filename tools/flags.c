/* tools/flags.c: flags from the command line, one table for parsing and for help. */
#include "tools/cli.h"

#include <errno.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef enum flag_kind { FLAG_BOOL, FLAG_TEXT, FLAG_INTEGER, FLAG_NUMBER, FLAG_INT, FLAG_SIZE, FLAG_SET, FLAG_TARGET } flag_kind;

typedef struct flag {
  const char *name, *value, *doc;
  flag_kind kind;
  size_t offset;
  double least, most;
} flag;

#define AT(field) offsetof(cli_args, field)
static const flag flags[] = {
    {"--weights", "FILE", "GGUF or safetensors file, or random:SEED[:TYPE] for weights of the model's shapes", FLAG_TEXT,
     AT(model.weights), 0, 0},
    {"--set", "NAME=VALUE", "a dimension or constant of the model; beats the weights file and the text", FLAG_SET, 0, 0,
     0},
    {"--threads", "K", "worker threads (default: one a core)", FLAG_INT, AT(model.threads), 1, 1024},
    {"--kv-type", "TYPE", "elements of the KV cache: f32 (default), or f16 for half the memory, rounded", FLAG_TEXT,
     AT(model.kv_type), 0, 0},
    {"--ctx", "N", "tokens of context (default: the model's, at most 4096)", FLAG_INTEGER, AT(model.context), 1,
     1 << 30},
    {"--cache-dir", "DIR",
     "where compiled code is kept; empty for nowhere (default: $DIPPER_CACHE, $XDG_CACHE_HOME/dipper, ~/.cache/dipper)",
     FLAG_TEXT, AT(model.cache_dir), 0, 0},
    {"--backend", "NAME", "llvm or interp; cuda where nothing is run", FLAG_TEXT, AT(model.backend), 0, 0},
    {"--device", "NAME", "cpu, cuda (the first GPU), or auto: a GPU where one can be used (default: cpu; of a compiled model: auto)", FLAG_TEXT, AT(model.device), 0, 0},
    {"--target-triple", "TRIPLE", "code for another machine, as LLVM names it", FLAG_TEXT, AT(model.triple), 0, 0},
    {"--target-cpu", "CPU", "x86-64-v3, znver4, ...", FLAG_TEXT, AT(model.cpu), 0, 0},
    {"--target-features", "LIST", "+avx2,-fma, ...", FLAG_TEXT, AT(model.features), 0, 0},
    {"--verify-each", NULL, "check the IR, its round trip and the tile program after every pass", FLAG_BOOL,
     AT(model.verify_each), 0, 0},
    {"--tokenizer", "FILE", "weights whose tokenizer and chat template are taken (default: those of --weights)", FLAG_TEXT,
     AT(model.tokenizer), 0, 0},
    {"--adapter", "DIR", "a folder that PEFT or `dipper train` wrote: LoRA beside the weights", FLAG_TEXT, AT(model.adapter), 0, 0},
    {"--plan", "NAME", "the plan of the text (default: its last for the model)", FLAG_TEXT, AT(model.plan), 0, 0},
    {"--recipe", "NAME", "the recipe of the text (default: its last)", FLAG_TEXT, AT(model.recipe), 0, 0},
    {"--data", "FILE", "data instead of the recipe's: .txt, .jsonl, .bin, or a directory of those", FLAG_TEXT, AT(data), 0, 0},
    {"--memory", "SIZE", "bytes that the process may have, as 3G, 800M or 1500000000 (default: what is available)", FLAG_SIZE,
     AT(model.memory_limit), 0, 0},
    {"--resume", NULL, "go on from the newest whole checkpoint", FLAG_BOOL, AT(resume), 0, 0},
    {"-p", "PROMPT", "the prompt", FLAG_TEXT, AT(prompt), 0, 0},
    {"--chat", NULL, "a conversation in the terminal", FLAG_BOOL, AT(chat), 0, 0},
    {"--raw", NULL, "the prompt as it is, without the chat template", FLAG_BOOL, AT(raw), 0, 0},
    {"-n", "N", "new tokens at most (default: until the model ends or the context does)", FLAG_INTEGER, AT(count), 0,
     1 << 30},
    {"--temp", "T", "temperature; 0 takes the likeliest token (default 0)", FLAG_NUMBER, AT(temperature), 0, 100},
    {"--top-k", "K", "sample from the K likeliest; 0: all", FLAG_INTEGER, AT(top_k), 0, 1 << 30},
    {"--top-p", "P", "sample from the likeliest that together reach P", FLAG_NUMBER, AT(top_p), 0, 1},
    {"--min-p", "P", "sample from those at least P times as likely as the likeliest", FLAG_NUMBER, AT(min_p), 0, 1},
    {"--seed", "S", "seed of sampling (default 0)", FLAG_INTEGER, AT(seed), 0, 9e18},
    {"--stats", NULL, "a line of figures on stderr at the end (always when stderr is a terminal)", FLAG_BOOL, AT(stats),
     0, 0},
    {"--tokens", "LIST", "token ids: 1,2,3 or @FILE", FLAG_TEXT, AT(tokens), 0, 0},
    {"--chunk", "N", "feed N tokens a step (the logits are the same to the last bit)", FLAG_INTEGER, AT(chunk), 1,
     1 << 30},
    {"--out", "FILE", "where to write", FLAG_TEXT, AT(out), 0, 0},
    {"-o", "FILE", "where to write", FLAG_TEXT, AT(out), 0, 0},
    {"--dtype", "TYPE", "f32, f16 or bf16 (default f32)", FLAG_TEXT, AT(dtype), 0, 0},
    {"--perplexity", "FILE", "text to measure the perplexity of", FLAG_TEXT, AT(perplexity), 0, 0},
    {"--decode", NULL, "the other way: ids to text", FLAG_BOOL, AT(decode), 0, 0},
    {"--json", NULL, "output for programs", FLAG_BOOL, AT(json), 0, 0},
    {"--dump-after", "PASS", "the IR after this pass; all: after each; parse: before any", FLAG_TEXT, AT(dump_after), 0,
     0},
    {"--emit", "FORM", "compile: exe, so, obj, header or weights; for a GPU cu (CUDA C), ptx or cubin; ir: those three (--target-cpu sm_90a)",
     FLAG_TEXT, AT(emit), 0, 0},
    {"--tile", NULL, "the tile program", FLAG_BOOL, AT(tile), 0, 0},
    {"--llvm", NULL, "the LLVM IR", FLAG_BOOL, AT(llvm), 0, 0},
    {"--asm", NULL, "the assembly", FLAG_BOOL, AT(assembly), 0, 0},
    {"--prefill", "N", "prompt tokens (default 512)", FLAG_INTEGER, AT(prefill), 1, 1 << 20},
    {"--target", "NAME", "code for x86-64-v3, znver4, aarch64, ...; for GPUs sm_80, sm_90a, sm_100a, ptx; may be repeated (default: this machine's CPU)",
     FLAG_TARGET, 0, 0, 0},
    {"--report", NULL, "what each target took, on stderr: bytes, seconds; of GPUs' registers, shared memory, stack, spills", FLAG_BOOL, AT(report), 0, 0},
    {"--embed", NULL, "the weights, packed, and their tokenizer go into the file", FLAG_BOOL, AT(embed), 0, 0},
    {"--launcher", "FILE", "what an executable or library begins with (default: the one that came with dipper)", FLAG_TEXT,
     AT(launcher), 0, 0},
    {"--steps", "N", "updates in all, instead of the recipe's", FLAG_INTEGER, AT(steps), 1, 99999999},
    {"--repeat", "N", "measurements (default 3)", FLAG_INTEGER, AT(repeat), 1, 1000},
    {"--together", "N", "texts a step (default: as many as fit)", FLAG_INTEGER, AT(together), 1, 4096},
    {"--batch", "N", "sequences a step while decoding (default 1)", FLAG_INTEGER, AT(batch), 1, 512},
};

/* Where --decode N counts steps, as in `bench`; in `tokenize` it is a switch. */
static const flag bench_decode = {"--decode", "N",    "single-token steps (default 64)", FLAG_INTEGER, AT(bench_decode),
                                  0,          1 << 20};

static bool lists(const char *names, const char *name) {
  size_t n = strlen(name);
  for (const char *at = names; at && (at = strstr(at, name)); at += n)
    if ((at == names || at[-1] == ' ') && (at[n] == ' ' || !at[n])) return true;
  return false;
}

static bool takes(const cli_command *command, const char *name) { return lists(command->flags, name); }

static const flag *find_flag(const cli_command *command, const char *name) {
  if (!takes(command, name)) return NULL;
  if (takes(command, "--prefill") && strcmp(name, "--decode") == 0) return &bench_decode;
  for (size_t i = 0; i < DP_COUNT(flags); i++)
    if (strcmp(flags[i].name, name) == 0) return &flags[i];
  return NULL;
}

void cli_print_flags(const cli_command *command) {
  for (size_t i = 0; i < DP_COUNT(flags); i++) {
    const flag *f = find_flag(command, flags[i].name);
    if (!f) continue;
    char left[64];
    snprintf(left, sizeof left, "%s%s%s", f->name, f->value ? " " : "", f->value ? f->value : "");
    printf("  %-24s %s\n", left, f->doc);
  }
}

static bool parse_integer(const char *text, int64_t *value) {
  char *end;
  errno = 0;
  long long n = strtoll(text, &end, 10);
  if (end == text || *end || errno) return false;
  *value = n;
  return true;
}

/* "800M", "1.5G", "64KiB": powers of 1000, with an i of 1024. */
static bool parse_size(const char *text, int64_t *value) {
  static const char letters[] = "KMGT";
  char *end;
  double number = strtod(text, &end), unit = 1;
  if (end == text || !isfinite(number)) return false;
  const char *letter = *end ? strchr(letters, *end == 'k' ? 'K' : *end) : NULL;
  if (letter) {
    bool binary = end[1] == 'i';
    for (const char *at = letters; at <= letter; at++) unit *= binary ? 1024 : 1000;
    end += binary ? 2 : 1;
  }
  if (*end == 'B') end++;
  number *= unit;
  if (*end || number < 1 || number >= 0x1p62) return false;
  *value = (int64_t)number;
  return true;
}

static int unknown_flag(const cli_command *command, const char *name) {
  const char *names[DP_COUNT(flags) + 1];
  int count = 0;
  for (size_t i = 0; i < DP_COUNT(flags); i++)
    if (takes(command, flags[i].name)) names[count++] = flags[i].name;
  names[count++] = "--help";
  const char *near = dp_nearest_name(name, names, count);
  if (near) return cli_usage(command->name, "%s has no flag '%s'; did you mean '%s'?", command->name, name, near);
  return cli_usage(command->name, "%s has no flag '%s'", command->name, name);
}

static int set_flag(const cli_command *command, const flag *f, const char *value, cli_args *args) {
  char *field = (char *)args + f->offset;
  int64_t integer;
  double number;
  char *end;
  switch (f->kind) {
  case FLAG_BOOL:
    *(bool *)(void *)field = true;
    return CLI_OK;
  case FLAG_TEXT:
    *(const char **)(void *)field = value;
    return CLI_OK;
  case FLAG_SET:
    if (!strchr(value, '=')) return cli_usage(command->name, "--set wants NAME=VALUE, not '%s'", value);
    if (args->model.set_count == (int)DP_COUNT(args->sets)) return cli_usage(command->name, "too many --set");
    args->sets[args->model.set_count++] = value;
    return CLI_OK;
  case FLAG_TARGET:
    if (args->target_count == (int)DP_COUNT(args->targets)) return cli_usage(command->name, "too many --target");
    args->targets[args->target_count++] = value;
    return CLI_OK;
  case FLAG_INTEGER:
  case FLAG_INT:
    if (!parse_integer(value, &integer))
      return cli_usage(command->name, "%s wants a whole number, not '%s'", f->name, value);
    if ((double)integer < f->least || (double)integer > f->most)
      return cli_usage(command->name, "%s must be between %.0f and %.0f, not %s", f->name, f->least, f->most, value);
    if (f->kind == FLAG_INT)
      *(int *)(void *)field = (int)integer;
    else
      *(int64_t *)(void *)field = integer;
    return CLI_OK;
  case FLAG_SIZE:
    if (!parse_size(value, (int64_t *)(void *)field))
      return cli_usage(command->name, "%s wants a size such as 800M or 3G, not '%s'", f->name, value);
    return CLI_OK;
  case FLAG_NUMBER:
    number = strtod(value, &end);
    if (end == value || *end || !isfinite(number))
      return cli_usage(command->name, "%s wants a number, not '%s'", f->name, value);
    if (number < f->least || number > f->most)
      return cli_usage(command->name, "%s must be between %g and %g, not %s", f->name, f->least, f->most, value);
    *(double *)(void *)field = number;
    return CLI_OK;
  }
  return CLI_USAGE;
}

/* A required flag (they are all texts) that was not given, or NULL. */
static const char *missing_flag(const cli_command *command, const cli_args *args) {
  for (size_t i = 0; i < DP_COUNT(flags); i++)
    if (lists(command->required, flags[i].name) &&
        !*(const char *const *)(const void *)((const char *)args + flags[i].offset))
      return flags[i].name;
  return NULL;
}

int cli_parse(const cli_command *command, int argc, char **argv, cli_args *args) {
  *args =
      (cli_args){.count = -1, .prefill = 512, .bench_decode = 64, .repeat = 3, .batch = 1, .dtype = "f32", .chunk = 0};
  args->model.sets = args->sets;
  bool only_positional = false;
  for (int i = 2; i < argc; i++) {
    char name[64];
    if (!only_positional && strcmp(argv[i], "--") == 0) {
      only_positional = true;
      continue;
    }
    if (only_positional || argv[i][0] != '-' || !argv[i][1]) {
      if (args->positional_count == command->most) return cli_usage(command->name, "unexpected argument '%s'", argv[i]);
      args->positional[args->positional_count++] = argv[i];
      continue;
    }
    const char *equals = argv[i][1] == '-' ? strchr(argv[i], '=') : NULL;
    size_t n = equals ? (size_t)(equals - argv[i]) : strlen(argv[i]);
    if (n >= sizeof name) return unknown_flag(command, argv[i]);
    memcpy(name, argv[i], n);
    name[n] = '\0';
    const flag *f = find_flag(command, name);
    if (!f) return unknown_flag(command, name);
    const char *value = equals ? equals + 1 : NULL;
    if (f->kind == FLAG_BOOL && equals) return cli_usage(command->name, "%s takes no value", name);
    if (f->kind != FLAG_BOOL && !value) {
      if (i + 1 == argc) return cli_usage(command->name, "%s wants a value: %s", name, f->value);
      value = argv[++i];
    }
    int code = set_flag(command, f, value, args);
    if (code != CLI_OK) return code;
  }
  if (args->positional_count < command->least)
    return cli_usage(command->name, "%s wants %s", command->name, command->arguments);
  const char *missing = missing_flag(command, args);
  if (missing) return cli_usage(command->name, "%s wants %s", command->name, missing);
  args->model.path = args->positional[0];
  args->model.color = cli_color(2);
  return CLI_OK;
}
