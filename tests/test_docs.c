/* tests/test_docs.c: what the docs say is so. docs/ops.md is made of the tables; run with DIPPER_UPDATE=1 to write it
 * anew. In README.md, CONTRIBUTING.md and docs/ every path between backticks exists, and every listing (a fenced or an
 * indented block) has a mark, an HTML comment on the line before it (before an indented one a blank line may stand
 * between):
 *
 *   <!-- run -->             "$ COMMAND" and below it all that it prints, stdout and stderr
 *   <!-- commands -->        lines of commands; what they print is not shown
 *   <!-- file NAME -->       a file that later commands of the page find
 *   <!-- excerpt of PATH --> lines of a file of the tree
 *   <!-- ir -->              a module, as ir_print prints it
 *   <!-- held by PATH -->    a test of its own holds it
 *   <!-- skip: REASON -->    nobody runs it; the reason is printed
 *
 * Behind `run` and `commands`: ", needs weights" (also dot, python3), ", exit N", ", numbers vary" (a number stands for
 * any), ", alike WORD WORD ..." (so do these words for each other), ", any order" (of lines). In what is printed or
 * excerpted a line "..." stands for any lines, "..." in a line for any characters. The commands of a page run in one
 * empty folder, where models/ and tests/ are the tree's, and model.gguf and build/weights/ the test weights. */
#include "base/base.h"
#include "codegen/codegen.h"
#include "ir/ir.h"
#include "passes/passes.h"

#include <check.h>
#include <ctype.h>
#include <dirent.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SMOLLM2 DIPPER_SOURCE_DIR "/build/weights/SmolLM2-135M-Instruct.Q4_1.gguf"
#define OPS DIPPER_SOURCE_DIR "/docs/ops.md"

/* A table's cell: a bar would end it. */
static void cell(dp_str *out, const char *text) {
  dp_str_add(out, " ");
  for (; *text; text++) {
    if (*text == '|') dp_str_addc(out, '\\');
    dp_str_addc(out, *text);
  }
  dp_str_add(out, " |");
}

static void graph_ops(dp_str *out) {
  dp_str_add(out, "## Graph ops\n\n| op | operands | attributes | what it computes |\n|---|---|---|---|\n");
  for (int i = 0; i < IR_OP_COUNT; i++) {
    const ir_op_info *info = ir_op_info_of((ir_opcode)i);
    dp_str_add(out, "|");
    cell(out, info->name);
    cell(out, info->operands);
    cell(out, info->attrs);
    cell(out, info->doc);
    dp_str_add(out, "\n");
  }
}

static void tile_ops(dp_str *out) {
  static const struct {
    const char *name, *doc;
  } rows[] = {
#define TILE_OP(name, operands, doc) {#name, doc},
#include "ir/tile_ops.def"
#undef TILE_OP
  }, scalars[] = {
#define SCALAR(name, arguments, doc) {#name, doc},
#include "ir/scalar.def"
#undef SCALAR
  };
  dp_str_add(out, "\n## Tile ops\n\n| op | what it does |\n|---|---|\n");
  for (size_t i = 0; i < DP_COUNT(rows); i++) {
    dp_str_add(out, "|");
    cell(out, rows[i].name);
    cell(out, rows[i].doc);
    dp_str_add(out, "\n");
  }
  dp_str_add(out, "\n## Scalar functions\n\n| function | value |\n|---|---|\n");
  for (size_t i = 0; i < DP_COUNT(scalars); i++) {
    dp_str_add(out, "|");
    cell(out, scalars[i].name);
    cell(out, scalars[i].doc);
    dp_str_add(out, "\n");
  }
}

static void passes(dp_str *out) {
  int count;
  const ps_pass *list = ps_passes(&count);
  dp_str_add(out, "\n## Passes, in order\n\n| pass | what it does |\n|---|---|\n");
  for (int i = 0; i < count; i++) {
    dp_str_add(out, "|");
    cell(out, list[i].name);
    cell(out, list[i].doc);
    dp_str_add(out, "\n");
  }
}

START_TEST(the_op_reference_is_that_of_the_tables) {
  dp_str text = {0};
  dp_str_add(&text, "# Ops\n\nMade of `ir/ops.def`, `ir/tile_ops.def`, `ir/scalar.def` and `passes/passes.def` by "
                    "`tests/test_docs.c`.\n\n");
  graph_ops(&text);
  tile_ops(&text);
  passes(&text);
  ck_assert(!text.failed);
  if (getenv("DIPPER_UPDATE")) {
    dp_status written = dp_write_file_atomic(OPS, text.text, text.length);
    ck_assert_msg(written.code == DP_OK, "%s", dp_status_text(&written));
  }
  char *file;
  size_t length;
  dp_status status = dp_read_file(OPS, &file, &length);
  ck_assert_msg(status.code == DP_OK, "%s", dp_status_text(&status));
  ck_assert_msg(strcmp(file, text.text) == 0,
                "docs/ops.md is not what the tables say: run DIPPER_UPDATE=1 ctest -R docs");
  free(file);
  dp_str_free(&text);
}
END_TEST

/* ---- lines ----------------------------------------------------------------------------------------------------- */

typedef struct lines {
  char *text; /* cut at the ends of lines */
  char **at;
  int count;
} lines;

/* Takes the text. Blanks at the ends of lines are dropped. */
static lines split(char *text) {
  int most = 1;
  for (const char *c = text; *c; c++) most += *c == '\n';
  lines l = {text, calloc((size_t)most, sizeof(char *)), 0};
  for (char *line = text; line && *line;) {
    char *end = strchr(line, '\n'), *last = end ? end : line + strlen(line);
    while (last > line && isspace((unsigned char)last[-1])) last--;
    *last = '\0';
    l.at[l.count++] = line;
    line = end ? end + 1 : NULL;
  }
  return l;
}

static void lines_free(lines *l) {
  free(l->text);
  free(l->at);
}

static const char *past_blanks(const char *at) { return at + strspn(at, " "); }

/* Of "1,024", "3.5", "7." or "1e-05" all that is the number. */
static const char *past_number(const char *at) {
  size_t n = strspn(at, "0123456789.,");
  while (n > 1 && !isdigit((unsigned char)at[n - 1])) n--;
  if (at[n] == 'e' && (at[n + 1] == '-' || at[n + 1] == '+') && isdigit((unsigned char)at[n + 2]))
    n += 2 + strspn(at + n + 2, "0123456789");
  return at + n;
}

/* A word of `alike`, which are separated by blanks, at the beginning of a text: its length. */
static size_t word_of(const char *alike, const char *at) {
  size_t n = strspn(at, "abcdefghijklmnopqrstuvwxyz_");
  for (const char *word = alike; n && *word; word += strcspn(word, " "), word += strspn(word, " "))
    if (strcspn(word, " ") == n && strncmp(word, at, n) == 0) return n;
  return 0;
}

/* With every number 0, every word that may stand for another #, and single blanks. The caller frees. */
static char *leveled(const char *line, const char *alike) {
  dp_str out = {0};
  for (const char *at = past_blanks(line); *at;) {
    bool begins = at == line || !(isalnum((unsigned char)at[-1]) || at[-1] == '_');
    size_t word = begins ? word_of(alike, at) : 0;
    bool number = isdigit((unsigned char)*at), blank = *at == ' ';
    dp_str_addc(&out, word ? '#' : number ? '0' : *at);
    at = word ? at + word : number ? past_number(at) : blank ? past_blanks(at) : at + 1;
  }
  return out.text ? out.text : strdup("");
}

static bool line_matches(const char *want, const char *got) {
  for (;; want++, got++) {
    if (strncmp(want, "...", 3) == 0) {
      for (;; got++) {
        if (line_matches(want + 3, got)) return true;
        if (!*got) return false;
      }
    }
    if (*want != *got) return false;
    if (!*want) return true;
  }
}

static bool is_any(const char *line) { return strcmp(past_blanks(line), "...") == 0; }

/* The first line of `want` that is not there, `want_count` when there are more than that, or -1. A "..." takes as few
 * lines as it can. */
static int first_missing(char *const *want, int want_count, char *const *got, int got_count) {
  int at = 0, retry_want = -1, retry_at = 0, furthest = 0;
  for (int i = 0; i < want_count || at < got_count;) {
    if (i > furthest) furthest = i;
    if (i < want_count && is_any(want[i])) {
      retry_want = ++i;
      retry_at = at;
    } else if (i < want_count && at < got_count && line_matches(past_blanks(want[i]), past_blanks(got[at]))) {
      i++;
      at++;
    } else if (retry_want >= 0 && retry_at < got_count) {
      i = retry_want;
      at = ++retry_at;
    } else {
      return furthest;
    }
  }
  return -1;
}

/* The same for lines in any order. */
static int first_missing_anywhere(char *const *want, int want_count, char *const *got, int got_count) {
  bool *used = calloc((size_t)got_count + 1, sizeof *used), any = false;
  int missing = -1, left = got_count;
  for (int i = 0; i < want_count && missing < 0; i++) {
    if (is_any(want[i])) {
      any = true;
      continue;
    }
    int at = 0;
    while (at < got_count && (used[at] || !line_matches(past_blanks(want[i]), past_blanks(got[at])))) at++;
    if (at == got_count) missing = i;
    used[at] = true;
    left--;
  }
  free(used);
  return missing < 0 && left > 0 && !any ? want_count : missing;
}

/* ---- a page and its listings ----------------------------------------------------------------------------------- */

typedef struct counts {
  int listings, run, commands, files, excerpts, modules, held, skipped, paths;
} counts;

typedef struct page {
  const char *name; /* docs/language.md */
  char folder[64];  /* where its commands run */
  dp_str *faults;   /* a line or more for each */
  dp_str *skips;
  counts *counts;
  int fault_count;
} page;

typedef struct listing {
  page *page;
  char **lines; /* without the indentation */
  int count, line;
  const char *mark; /* between <!-- and -->, blanks dropped */
} listing;

static void fault(page *p, int line, const char *fmt, ...) {
  va_list args;
  va_start(args, fmt);
  dp_str_addf(p->faults, "%s:%d: ", p->name, line);
  dp_str_addv(p->faults, fmt, args);
  dp_str_addc(p->faults, '\n');
  va_end(args);
  p->fault_count++;
}

static void skip(const listing *l, const char *reason) {
  dp_str_addf(l->page->skips, "  skipped %s:%d: %s\n", l->page->name, l->line, reason);
  l->page->counts->skipped++;
}

static char *read_or_null(const char *path) {
  char *text = NULL;
  size_t length;
  dp_status status = dp_read_file(path, &text, &length);
  if (status.code == DP_OK) return text;
  dp_status_free(&status);
  return NULL;
}

static char *read_of_tree(const char *path) {
  char full[1024];
  snprintf(full, sizeof full, "%s/%s", DIPPER_SOURCE_DIR, path);
  return read_or_null(full);
}

static dp_str joined(char *const *at, int count) {
  dp_str text = {0};
  for (int i = 0; i < count; i++) dp_str_addf(&text, "%s\n", at[i]);
  ck_assert(!text.failed);
  return text;
}

/* ---- commands -------------------------------------------------------------------------------------------------- */

typedef struct how {
  bool vary, any_order;
  char alike[128];
  int exit;
  const char *lacks; /* what it needs and is not here */
} how;

static bool has_program(const char *name) {
  char command[128];
  snprintf(command, sizeof command, "command -v %s >/dev/null 2>&1", name);
  return system(command) == 0;
}

/* One word of the mark; false when there is none such. */
static bool read_word(const char *word, how *h) {
  const char *lacks = h->lacks;
  char name[16];
  if (strcmp(word, "numbers vary") == 0) return h->vary = true;
  if (strcmp(word, "any order") == 0) return h->any_order = true;
  if (sscanf(word, "exit %d", &h->exit) == 1) return true;
  if (sscanf(word, "alike %127[a-z_ ]", h->alike) == 1) return h->vary = true;
  if (sscanf(word, "needs %15s", name) != 1) return false;
  if (strcmp(name, "weights") == 0) lacks = access(SMOLLM2, R_OK) == 0 ? lacks : "there are no test weights";
  else if (strcmp(name, "dot") == 0) lacks = has_program(name) ? lacks : "Graphviz is not installed";
  else if (strcmp(name, "python3") == 0) lacks = has_program(name) ? lacks : "python3 is not installed";
  else return false;
  h->lacks = lacks;
  return true;
}

/* What stands behind the first word of the mark. */
static bool read_how(const listing *l, how *h) {
  char words[256], *rest = words;
  *h = (how){.lacks = cg_find_backend("llvm") ? NULL : "this build has no LLVM"};
  snprintf(words, sizeof words, "%s", l->mark + strcspn(l->mark, ","));
  for (char *word; (word = strsep(&rest, ","));) {
    word += strspn(word, " ");
    if (!*word || read_word(word, h)) continue;
    fault(l->page, l->line, "'%s' is nothing that a mark says", word);
    return false;
  }
  return true;
}

/* Runs it by sh in the page's folder. *printed is the caller's; the exit status, or 128 + the signal. */
static int run_shell(const page *p, const char *script, char **printed) {
  char file[128], out[128], command[1024];
  snprintf(file, sizeof file, "%s.sh", p->folder);
  snprintf(out, sizeof out, "%s.out", p->folder);
  dp_status status = dp_write_file_atomic(file, script, strlen(script));
  ck_assert_msg(status.code == DP_OK, "%s", dp_status_text(&status));
  snprintf(command, sizeof command,
           "cd %s && DIPPER_CACHE=%s.cache PATH=\"$(dirname %s):$PATH\" sh -e %s >%s 2>&1 </dev/null", p->folder,
           p->folder, DIPPER_COMMAND, file, out);
  int state = system(command);
  *printed = read_or_null(out);
  ck_assert(*printed != NULL);
  return WIFEXITED(state) ? WEXITSTATUS(state) : 128 + WTERMSIG(state);
}

static bool goes_on(const char *line) { return *line && line[strlen(line) - 1] == '\\'; }

static void run_commands(const listing *l, const how *h) {
  dp_str script = {0};
  for (int i = 0; i < l->count; i++) {
    const char *line = l->lines[i];
    dp_str_addf(&script, "%s\n", strncmp(line, "$ ", 2) == 0 ? line + 2 : line);
    l->page->counts->commands += *line && !goes_on(line);
  }
  char *printed;
  int code = run_shell(l->page, script.text, &printed);
  if (code != h->exit) fault(l->page, l->line, "exit status %d of\n%sThey said:\n%s", code, script.text, printed);
  free(printed);
  dp_str_free(&script);
}

static int first_not_printed(const how *h, char *const *want, int want_count, char *const *got, int got_count) {
  char **levels = calloc((size_t)(want_count + got_count) + 1, sizeof *levels);
  for (int i = 0; i < want_count; i++) levels[i] = h->vary ? leveled(want[i], h->alike) : want[i];
  for (int i = 0; i < got_count; i++) levels[want_count + i] = h->vary ? leveled(got[i], h->alike) : got[i];
  int missing =
      (h->any_order ? first_missing_anywhere : first_missing)(levels, want_count, levels + want_count, got_count);
  for (int i = 0; h->vary && i < want_count + got_count; i++) free(levels[i]);
  free(levels);
  return missing;
}

/* One command, lines [first, begin), and what it prints, lines [begin, end). */
static void run_one(const listing *l, const how *h, int first, int begin, int end) {
  dp_str script = joined(l->lines + first, begin - first);
  char *printed;
  int code = run_shell(l->page, script.text + 2, &printed);
  dp_str said = {0};
  dp_str_add(&said, printed);
  lines got = split(printed);
  while (got.count > 0 && !*got.at[got.count - 1]) got.count--; /* as in the page */
  int missing = first_not_printed(h, l->lines + begin, end - begin, got.at, got.count), line = l->line + first;
  if (code != h->exit) {
    fault(l->page, line, "exit status %d of '%s':\n%s", code, l->lines[first] + 2, said.text);
  } else if (missing >= 0) {
    const char *wanted = begin + missing < end ? l->lines[begin + missing] : "(the end)";
    fault(l->page, line, "'%s': not printed:\n%s\nbut\n%s", l->lines[first] + 2, wanted, said.text);
  }
  l->page->counts->commands++;
  dp_str_free(&said);
  dp_str_free(&script);
  lines_free(&got);
}

static void run_each(const listing *l, const how *h) {
  if (l->count == 0 || strncmp(l->lines[0], "$ ", 2) != 0)
    fault(l->page, l->line, "this begins with no command: '$ ...'");
  for (int i = 0; i < l->count;) {
    int first = i++;
    while (i < l->count && goes_on(l->lines[i - 1])) i++;
    int begin = i;
    while (i < l->count && strncmp(l->lines[i], "$ ", 2) != 0) i++;
    int end = i;
    while (end > begin && !*l->lines[end - 1]) end--; /* a blank line before the next command */
    if (strncmp(l->lines[first], "$ ", 2) == 0) run_one(l, h, first, begin, end);
  }
}

static void run_listing(const listing *l) {
  how h;
  if (!read_how(l, &h)) return;
  if (h.lacks) {
    skip(l, h.lacks);
    return;
  }
  if (strncmp(l->mark, "run", 3) == 0)
    run_each(l, &h);
  else
    run_commands(l, &h);
  l->page->counts->run++;
}

/* ---- other marks ----------------------------------------------------------------------------------------------- */

static void write_listing(const listing *l) {
  char path[256];
  dp_str text = joined(l->lines, l->count);
  snprintf(path, sizeof path, "%s/%.100s", l->page->folder, l->mark + strlen("file "));
  dp_status status = dp_write_file_atomic(path, text.text, text.length);
  if (status.code != DP_OK) fault(l->page, l->line, "%s", dp_status_text(&status));
  dp_status_free(&status);
  dp_str_free(&text);
  l->page->counts->files++;
}

static void compare_excerpt(const listing *l) {
  const char *path = l->mark + strlen("excerpt of ");
  char *text = read_of_tree(path), any[] = "...";
  l->page->counts->excerpts++;
  if (!text) {
    fault(l->page, l->line, "there is no file %s", path);
    return;
  }
  lines file = split(text);
  char **want = calloc((size_t)l->count + 2, sizeof *want);
  ck_assert(want != NULL);
  want[0] = want[l->count + 1] = any;
  memcpy(want + 1, l->lines, (size_t)l->count * sizeof *want);
  int missing = first_missing(want, l->count + 2, file.at, file.count);
  if (missing > 0)
    fault(l->page, l->line + missing - 1, "%s has not, or not behind the line before:\n%s", path, want[missing]);
  free(want);
  lines_free(&file);
}

static void print_again(const listing *l) {
  dp_str text = joined(l->lines, l->count), printed = {0}, said = {0};
  dp_diags *diags = dp_diags_new();
  ir_module *module = ir_parse(l->page->name, text.text, text.length, diags);
  l->page->counts->modules++;
  if (module)
    ir_print(&printed, module);
  else
    dp_diags_render(diags, &said, false);
  if (!module)
    fault(l->page, l->line, "no module:\n%s", said.text);
  else if (strcmp(printed.text, text.text) != 0)
    fault(l->page, l->line, "it is printed as\n%s", printed.text);
  ir_module_free(module);
  dp_diags_free(diags);
  dp_str_free(&text);
  dp_str_free(&printed);
  dp_str_free(&said);
}

static void find_holder(const listing *l) {
  const char *path = l->mark + strlen("held by ");
  char *text = read_of_tree(path);
  if (!text || !strstr(text, l->page->name)) fault(l->page, l->line, "%s does not hold %s", path, l->page->name);
  free(text);
  l->page->counts->held++;
}

static void skip_listing(const listing *l) { skip(l, l->mark + strlen("skip: ")); }

static const struct {
  const char *begins;
  void (*check)(const listing *l);
} marks[] = {
    {"run", run_listing}, {"commands", run_listing}, {"file ", write_listing}, {"excerpt of ", compare_excerpt},
    {"ir", print_again},  {"held by ", find_holder}, {"skip: ", skip_listing}};

static void check_listing(const listing *l) {
  l->page->counts->listings++;
  if (!l->mark) {
    fault(l->page, l->line, "a listing without a mark");
    return;
  }
  for (size_t i = 0; i < DP_COUNT(marks); i++) {
    size_t n = strlen(marks[i].begins);
    bool word = marks[i].begins[n - 1] == ' ' || l->mark[n < strlen(l->mark) ? n : 0] == ',' || strlen(l->mark) == n;
    if (strncmp(l->mark, marks[i].begins, n) != 0 || !word) continue;
    marks[i].check(l);
    return;
  }
  fault(l->page, l->line, "'%s' is no mark of a listing", l->mark);
}

/* ---- finding them ---------------------------------------------------------------------------------------------- */

/* The mark in the line above, or above a blank line; cuts that line. */
static const char *mark_above(const lines *l, int at) {
  int line = at - 1;
  if (line >= 0 && !*l->at[line]) line--;
  if (line < 0 || strncmp(l->at[line], "<!-- ", 5) != 0) return NULL;
  char *end = strstr(l->at[line], " -->");
  if (!end) return NULL;
  *end = '\0';
  return l->at[line] + 5;
}

static bool is_indented(const char *line) { return strncmp(line, "    ", 4) == 0; }

/* The end of the block whose first line `begin` is: behind it, or at the closing fence. */
static int end_of(const lines *l, int begin, bool fenced) {
  int end = begin;
  if (fenced) {
    while (end < l->count && strncmp(l->at[end], "```", 3) != 0) end++;
    return end;
  }
  for (int i = begin; i < l->count && (is_indented(l->at[i]) || !*l->at[i]); i++)
    if (*l->at[i]) end = i + 1;
  return end;
}

static void check_block(page *p, lines *l, int begin, int end, int indentation, const char *mark) {
  listing found = {.page = p, .lines = l->at + begin, .count = end - begin, .line = begin + 1, .mark = mark};
  for (int i = begin; i < end; i++) {
    size_t blanks = strspn(l->at[i], " ");
    l->at[i] += blanks < (size_t)indentation ? blanks : (size_t)indentation;
  }
  check_listing(&found);
}

/* A span between backticks that begins with a folder of the tree is a path, `*` standing for any characters; words of
 * capitals (NAME, MODEL) stand for others. */
static void check_path(page *p, int line, const char *span, size_t n) {
  static const char *const folders[] = {"api/", "base/",   "bench/",  "codegen/", "docs/",  "frontend/", "include/",
                                        "ir/",  "models/", "passes/", "runtime/", "tests/", "tools/"};
  char path[256], full[1024];
  snprintf(path, sizeof path, "%.*s", (int)n, span);
  bool ours = false, placeholder = strpbrk(path, " {}<>()$=|,") || strstr(path, "/."); /* made by a run: bench/.cache */
  for (size_t i = 0; i < DP_COUNT(folders); i++) ours |= strncmp(path, folders[i], strlen(folders[i])) == 0;
  for (const char *c = path; *c; c++) placeholder |= isupper((unsigned char)c[0]) && isupper((unsigned char)c[1]);
  if (!ours || (placeholder && !strstr(path, "README"))) return;
  snprintf(full, sizeof full, "%s/%s", DIPPER_SOURCE_DIR, path);
  glob_t found;
  if (glob(full, 0, NULL, &found) != 0) fault(p, line, "there is no `%s`", path);
  globfree(&found);
  p->counts->paths++;
}

static void check_paths(page *p, int line, const char *text) {
  for (const char *at = text; (at = strchr(at, '`'));) {
    const char *end = strchr(++at, '`');
    if (!end) return;
    check_path(p, line, at, (size_t)(end - at));
    at = end + 1;
  }
}

/* Takes the text. */
static void check_text(page *p, char *text) {
  lines l = split(text);
  for (int i = 0; i < l.count; i++) {
    bool fenced = strncmp(l.at[i], "```", 3) == 0;
    if (fenced || (is_indented(l.at[i]) && (i == 0 || !*l.at[i - 1] || strncmp(l.at[i - 1], "<!--", 4) == 0))) {
      const char *mark = mark_above(&l, i);
      int begin = i + fenced, end = end_of(&l, begin, fenced);
      check_block(p, &l, begin, end, fenced ? 0 : 4, mark);
      i = fenced ? end : end - 1;
    } else {
      check_paths(p, i + 1, l.at[i]);
    }
  }
  lines_free(&l);
}

/* ---- the folder of a page -------------------------------------------------------------------------------------- */

static void make_folder(const page *p) {
  char command[2048];
  snprintf(command, sizeof command,
           "mkdir -p %s/build/weights && cd %s && ln -s %s/models %s/tests . && if [ -e %s ]; then ln -s %s model.gguf "
           "&& ln -s %s build/weights; fi",
           p->folder, p->folder, DIPPER_SOURCE_DIR, DIPPER_SOURCE_DIR, SMOLLM2, SMOLLM2, SMOLLM2);
  ck_assert_int_eq(system(command), 0);
}

static void remove_folder(const char *folder) {
  char command[256];
  snprintf(command, sizeof command, "rm -rf %s", folder);
  ck_assert_int_eq(system(command), 0);
}

static int check_page(const char *name, char *text, const char *folder, dp_str *faults, dp_str *skips, counts *sum) {
  page p = {.name = name, .faults = faults, .skips = skips, .counts = sum};
  snprintf(p.folder, sizeof p.folder, "%.40s/page", folder);
  make_folder(&p);
  check_text(&p, text);
  remove_folder(p.folder);
  return p.fault_count;
}

/* ---- the tests ------------------------------------------------------------------------------------------------- */

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

/* README.md, CONTRIBUTING.md, docs/NAME.md ...; the caller frees each. */
static int page_names(char *names[], int most) {
  int count = 0;
  names[count++] = strdup("README.md");
  names[count++] = strdup("CONTRIBUTING.md");
  DIR *dir = opendir(DIPPER_SOURCE_DIR "/docs");
  ck_assert(dir != NULL);
  for (struct dirent *entry; (entry = readdir(dir));) {
    const char *end = strrchr(entry->d_name, '.');
    if (!end || strcmp(end, ".md") != 0) continue;
    ck_assert_int_lt(count, most);
    char name[300];
    snprintf(name, sizeof name, "docs/%s", entry->d_name);
    names[count++] = strdup(name);
  }
  closedir(dir);
  qsort(names, (size_t)count, sizeof *names, by_name);
  return count;
}

static double seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* DIPPER_PAGE=docs/NAME.md checks one. */
START_TEST(every_listing_of_the_docs_is_run) {
  char folder[] = "/tmp/dipper-docs-XXXXXX", *names[64];
  ck_assert(mkdtemp(folder) != NULL);
  counts sum = {0};
  dp_str faults = {0}, skips = {0};
  int count = page_names(names, (int)DP_COUNT(names)), faulty = 0;
  const char *only = getenv("DIPPER_PAGE");
  for (int i = 0; i < count; i++) {
    double begin = seconds();
    if (!only || strcmp(only, names[i]) == 0) {
      faulty += check_page(names[i], read_of_tree(names[i]), folder, &faults, &skips, &sum);
      printf("%6.1f s %s\n", seconds() - begin, names[i]);
    }
    free(names[i]);
  }
  printf("%d listings: %d run (%d commands), %d files for them, %d excerpts, %d modules, %d held by other tests, %d "
         "skipped; %d paths\n%s",
         sum.listings, sum.run, sum.commands, sum.files, sum.excerpts, sum.modules, sum.held, sum.skipped, sum.paths,
         skips.text ? skips.text : "");
  fflush(stdout);
  remove_folder(folder);
  if (faulty) fprintf(stderr, "%s", faults.text);
  dp_str_free(&faults);
  dp_str_free(&skips);
  ck_assert_int_eq(faulty, 0);
}
END_TEST

/* Each of these lines of a page is one fault, named by what it says. */
static const struct {
  const char *text, *says;
} wrong[] = {
    {"    $ true\n", "a listing without a mark"},
    {"```\n$ true\n```\n", "a listing without a mark"},
    {"<!-- ran -->\n\n    $ true\n", "'ran' is no mark"},
    {"<!-- run, needs luck -->\n\n    $ true\n", "'needs luck' is nothing"},
    {"<!-- run -->\n\n    $ false\n", "exit status 1"},
    {"<!-- run, exit 3 -->\n\n    $ true\n", "exit status 0"},
    {"<!-- commands -->\n\n    false\n    true\n", "exit status 1"},
    {"<!-- run -->\n\n    $ echo one\n", "not printed:\n(the end)"},
    {"<!-- run -->\n\n    $ echo one\n    two\n", "not printed:\ntwo"},
    {"<!-- run -->\n\n    $ echo one\n    one\n    two\n", "not printed:\ntwo"},
    {"<!-- run -->\n\n    $ echo 12 a; echo b\n    13 a\n    b\n", "not printed:\n13 a"},
    {"<!-- run, numbers vary -->\n\n    $ echo 12 a; echo b\n    1.3 c\n    b\n", "not printed:\n1.3 c"},
    {"<!-- run, any order -->\n\n    $ seq 3\n    3\n    1\n", "not printed:\n(the end)"},
    {"<!-- run, any order -->\n\n    $ seq 3\n    3\n    1\n    1\n", "not printed:\n1"},
    {"<!-- run, alike cat dog -->\n\n    $ echo a catfish\n    a dogfish\n", "not printed:\na dogfish"},
    {"<!-- run -->\n\n    $ seq 9\n    1\n    ...\n    8\n", "not printed:\n(the end)"},
    {"<!-- excerpt of models/llama.dip -->\n\n    model llama {\n    dim d\n", "models/llama.dip has not"},
    {"<!-- excerpt of models/none.dip -->\n\n    model llama {\n", "no file models/none.dip"},
    {"<!-- ir -->\n\n    module m {\n    }\n    x\n", "no module"},
    {"<!-- ir -->\n\n    module m { }\n", "it is printed as"},
    {"<!-- held by tests/test_structure.c -->\n\n    x\n", "does not hold"},
    {"see `docs/none.md`\n", "there is no `docs/none.md`"},
    {"see `passes/nothing_*.c`\n", "there is no `passes/nothing_*.c`"},
};

static const char right[] =
    "<!-- file a.txt -->\n```\nfirst\n\n  7 dippers, 1,024 wrens\n```\n"
    "<!-- run, numbers vary -->\n\n    $ cat \\\n        a.txt\n    first\n\n     12 dippers, 3.5 wrens\n\n"
    "    $ seq 100\n    1\n    ...\n    98\n    ...\n\n"
    "    $ echo one two three; seq 4\n    one...three\n    ...\n\n"
    "<!-- run, any order, alike cat dog -->\n\n    $ seq 3; echo dog 2e-05\n    cat 1\n    ...\n    3\n\n"
    "- a list\n  goes on\n\n<!-- commands, exit 2 -->\n```sh\ntest -e a.txt   # a comment\nexit 2\n```\n"
    "<!-- excerpt of models/llama.dip -->\n```\nmodel llama {\n  dim vocab ...\n  ...\n}\n```\n"
    "<!-- skip: it says nothing -->\n\n    nothing\n\nsee `docs/ops.md`, `passes/*.c`, `passes/NAME.c` and `a/b`\n";

START_TEST(what_is_wrong_in_a_page_is_found) {
  if (!cg_find_backend("llvm")) return; /* commands are skipped then */
  char folder[] = "/tmp/dipper-docs-XXXXXX";
  ck_assert(mkdtemp(folder) != NULL);
  for (size_t i = 0; i < DP_COUNT(wrong); i++) {
    counts sum = {0};
    dp_str faults = {0}, skips = {0};
    int count = check_page("wrong.md", strdup(wrong[i].text), folder, &faults, &skips, &sum);
    ck_assert_msg(count == 1 && strstr(faults.text, wrong[i].says), "%d faults of\n%s:\n%s", count, wrong[i].text,
                  faults.text ? faults.text : "");
    dp_str_free(&faults);
    dp_str_free(&skips);
  }
  counts sum = {0};
  dp_str faults = {0}, skips = {0};
  int count = check_page("right.md", strdup(right), folder, &faults, &skips, &sum);
  ck_assert_msg(count == 0, "%s", faults.text);
  ck_assert_int_eq(sum.listings, 6);
  ck_assert_int_eq(sum.run, 3);
  ck_assert_int_eq(sum.commands, 6);
  ck_assert_int_eq(sum.files, 1);
  ck_assert_int_eq(sum.excerpts, 1);
  ck_assert_int_eq(sum.skipped, 1);
  ck_assert_int_eq(sum.paths, 2);
  ck_assert_str_eq(skips.text, "  skipped right.md:49: it says nothing\n");
  dp_str_free(&skips);
  remove_folder(folder);
}
END_TEST

START_TEST(the_readme_names_every_page) {
  char *names[64], *readme = read_of_tree("README.md");
  int count = page_names(names, (int)DP_COUNT(names));
  for (int i = 0; i < count; i++) {
    if (strcmp(names[i], "README.md") != 0)
      ck_assert_msg(strstr(readme, names[i]) != NULL, "README.md does not name %s", names[i]);
    free(names[i]);
  }
  free(readme);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("docs");
  TCase *tests = tcase_create("reference"), *listings = tcase_create("listings");
  tcase_add_test(tests, the_op_reference_is_that_of_the_tables);
  tcase_add_test(tests, the_readme_names_every_page);
  tcase_add_test(listings, what_is_wrong_in_a_page_is_found);
  tcase_add_test(listings, every_listing_of_the_docs_is_run);
  tcase_set_timeout(listings, 600);
  suite_add_tcase(suite, tests);
  suite_add_tcase(suite, listings);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed != 0;
}
