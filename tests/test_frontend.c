/* tests/test_frontend.c: the language. Programs in tests/frontend/good say in `// has:` comments what their IR
 * contains, in order; those in tests/frontend/bad stand beside the diagnostics they get (.err; DIPPER_UPDATE=1
 * writes them anew); `// --set name=value` gives either an option. The examples of docs/language.md compile. Hostile
 * texts do no harm. */
#include "frontend/frontend.h"

#include <check.h>
#include <dirent.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char *read_text(const char *path, size_t *length) {
  char *text;
  dp_status status = dp_read_file(path, &text, length);
  ck_assert_msg(status.code == DP_OK, "%s", dp_status_text(&status));
  return text;
}

static const char *path_of(const char *folder, const char *name) {
  static _Thread_local char path[4096];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  return path;
}

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

/* The programs of a folder, sorted. */
static int list_programs(const char *folder, char **names, int most) {
  int count = 0;
  DIR *dir = opendir(folder);
  ck_assert_msg(dir != NULL, "no folder %s", folder);
  for (struct dirent *entry; (entry = readdir(dir)) && count < most;) {
    const char *suffix = strrchr(entry->d_name, '.');
    if (suffix && strcmp(suffix, ".dip") == 0) names[count++] = strdup(entry->d_name);
  }
  closedir(dir);
  qsort(names, (size_t)count, sizeof *names, by_name);
  return count;
}

/* What follows `mark` on its line, from `at` on; moves `at` behind it. NULL when there is no more. */
static char *comment_after(const char **at, const char *mark) {
  const char *found = strstr(*at, mark);
  if (!found) return NULL;
  found += strlen(mark);
  *at = found + strcspn(found, "\n");
  return strndup(found, (size_t)(*at - found));
}

typedef struct compiled {
  dp_diags *diags;
  ir_module *module;
  ir_plan *plan;
  ir_recipe *recipe;
  dp_str said; /* the diagnostics as text */
} compiled;

static compiled compile_with(const char *path, const char *text, size_t length, const fe_options *options) {
  compiled result = {.diags = dp_diags_new()};
  fe_program program;
  bool good = fe_compile_program(path, text, length, options, result.diags, &program);
  ck_assert(good == (program.module != NULL) && good == (program.plan != NULL));
  result.module = program.module;
  result.plan = program.plan;
  result.recipe = program.recipe;
  dp_diags_render(result.diags, &result.said, false);
  dp_str_addn(&result.said, "", 0);
  return result;
}

static compiled compile_text(const char *path, const char *text, size_t length) {
  char *sets[8];
  int count = 0;
  const char *at = text;
  while (count < 8 && (sets[count] = comment_after(&at, "// --set "))) count++;
  fe_options options = {.sets = (const char *const *)sets, .set_count = count};
  compiled result = compile_with(path, text, length, &options);
  for (int i = 0; i < count; i++) free(sets[i]);
  return result;
}

static void release(compiled *result) {
  ir_module_free(result->module);
  dp_diags_free(result->diags);
  dp_str_free(&result->said);
}

/* Verified, and print(parse(print(m))) == print(m). The text is the caller's to free. */
static dp_str check_round_trip(const ir_module *module, const char *path) {
  dp_status status = ir_verify(module, "the frontend");
  ck_assert_msg(status.code == DP_OK, "%s: %s", path, dp_status_text(&status));
  dp_str first = {0}, second = {0};
  ir_print(&first, module);
  dp_diags *diags = dp_diags_new();
  ir_module *again = ir_parse("printed", first.text, first.length, diags);
  dp_str said = {0};
  dp_diags_render(diags, &said, false);
  ck_assert_msg(again != NULL, "%s: its IR does not parse:\n%s\n%s", path, said.text, first.text);
  ir_print(&second, again);
  ck_assert_str_eq(first.text, second.text);
  ir_module_free(again);
  dp_diags_free(diags);
  dp_str_free(&said);
  dp_str_free(&second);
  return first;
}

/* The plan and recipe, named anew, behind the text that they come from: the same data again. */
static void check_read_back(const compiled *result, const char *path, const char *text, size_t length) {
  const char *plan_name = result->plan->name, *recipe_name = result->recipe ? result->recipe->name : NULL;
  result->plan->name = "read_back";
  if (result->recipe) result->recipe->name = "read_back";
  dp_str said = {0}, longer = {0}, again = {0};
  ir_print_plan(&said, result->module, result->plan);
  if (result->recipe) ir_print_recipe(&said, result->module, result->recipe);
  result->plan->name = plan_name;
  if (result->recipe) result->recipe->name = recipe_name;
  dp_str_addn(&longer, text, length);
  dp_str_addf(&longer, "\n%s", said.text);
  fe_options options = {.plan = "read_back", .recipe = result->recipe ? "read_back" : NULL};
  compiled second = compile_with(path, longer.text, longer.length, &options);
  ck_assert_msg(second.module != NULL, "%s:\n%s\n%s", path, said.text, second.said.text);
  ir_print_plan(&again, second.module, second.plan);
  if (second.recipe) ir_print_recipe(&again, second.module, second.recipe);
  ck_assert_str_eq(said.text, again.text);
  ir_module_free(second.module);
  dp_diags_free(second.diags);
  dp_str_free(&second.said);
  dp_str_free(&said);
  dp_str_free(&longer);
  dp_str_free(&again);
}

/* ---- programs ---------------------------------------------------------------------------------------------------- */

START_TEST(good_programs_give_the_ir_they_name) {
  const char *folder = DIPPER_TEST_DIR "/frontend/good";
  char *names[256];
  int count = list_programs(folder, names, 256), checked = 0;
  for (int i = 0; i < count; i++) {
    const char *path = path_of(folder, names[i]);
    size_t length;
    char *text = read_text(path, &length), *wanted;
    if (strstr(text, "// has: ")) {
      compiled result = compile_text(path, text, length);
      ck_assert_msg(result.module != NULL, "%s", result.said.text);
      ck_assert_msg(!result.said.length, "%s", result.said.text);
      dp_str ir = check_round_trip(result.module, path);
      ir_print_plan(&ir, result.module, result.plan);
      if (result.recipe) ir_print_recipe(&ir, result.module, result.recipe);
      if (!strstr(text, "// --set ")) check_read_back(&result, path, text, length);
      const char *at = text, *ir_at = ir.text;
      while ((wanted = comment_after(&at, "// has: "))) {
        const char *found = strstr(ir_at, wanted);
        ck_assert_msg(found != NULL, "%s: nowhere behind what was found before: %s\n%s", path, wanted, ir.text);
        ir_at = found + strlen(wanted);
        free(wanted);
      }
      dp_str_free(&ir);
      release(&result);
      checked++;
    }
    free(text);
    free(names[i]);
  }
  ck_assert_int_ge(checked, 6);
}
END_TEST

/* Paths are shown as the caller gave them; the tests' are made relative to the folder. */
static char *without(const char *text, const char *prefix) {
  char *copy = strdup(text), *to = copy;
  for (const char *from = text; *from;) {
    if (strncmp(from, prefix, strlen(prefix)) == 0) from += strlen(prefix);
    else *to++ = *from++;
  }
  *to = '\0';
  return copy;
}

START_TEST(bad_programs_get_the_diagnostics_beside_them) {
  const char *folder = DIPPER_TEST_DIR "/frontend/bad";
  char *names[256];
  int count = list_programs(folder, names, 256);
  bool update = getenv("DIPPER_UPDATE") != NULL;
  for (int i = 0; i < count; i++) {
    const char *path = path_of(folder, names[i]);
    size_t length, expected_length;
    char *text = read_text(path, &length), expected_path[4096];
    compiled result = compile_text(path, text, length);
    ck_assert_msg(result.module == NULL && result.diags->errors > 0, "%s compiles", path);
    char *said = without(result.said.text, DIPPER_TEST_DIR "/frontend/bad/");
    snprintf(expected_path, sizeof expected_path, "%.*s.err", (int)strlen(path) - 4, path);
    if (update) {
      dp_status status = dp_write_file_atomic(expected_path, said, strlen(said));
      ck_assert_msg(status.code == DP_OK, "%s", dp_status_text(&status));
    }
    char *expected = read_text(expected_path, &expected_length);
    ck_assert_msg(strcmp(said, expected) == 0, "%s says\n%s\nbut should say\n%s", names[i], said, expected);
    free(expected);
    free(said);
    release(&result);
    free(text);
    free(names[i]);
  }
  ck_assert_int_ge(count, 20);
}
END_TEST

START_TEST(every_model_compiles_and_round_trips) {
  const char *folder = DIPPER_SOURCE_DIR "/models";
  char *names[256];
  int count = list_programs(folder, names, 256);
  ck_assert_int_ge(count, 1);
  for (int i = 0; i < count; i++) {
    const char *path = path_of(folder, names[i]);
    size_t length;
    char *text = read_text(path, &length);
    compiled result = compile_text(path, text, length);
    ck_assert_msg(result.module != NULL, "%s", result.said.text);
    dp_str ir = check_round_trip(result.module, path);
    dp_str_free(&ir);
    release(&result);
    free(text);
    free(names[i]);
  }
}
END_TEST

/* An example of the docs is a whole text. One that begins with `// NAME.dip` is a file that later ones import. */
START_TEST(examples_of_the_docs_compile) {
  size_t length;
  char *docs = read_text(DIPPER_SOURCE_DIR "/docs/language.md", &length), folder[] = "/tmp/dipper-docs-XXXXXX";
  ck_assert(mkdtemp(folder) != NULL);
  char files[16][64];
  int count = 0, file_count = 0;
  for (const char *at = docs; (at = strstr(at, "\n```dip\n"));) {
    const char *begin = at + strlen("\n```dip\n"), *end = strstr(begin, "\n```");
    ck_assert(end != NULL);
    size_t size = (size_t)(end - begin) + 1;
    if (sscanf(begin, "// %59[a-z_.]", files[file_count]) == 1 && strstr(files[file_count], ".dip")) {
      dp_status status = dp_write_file_atomic(path_of(folder, files[file_count++]), begin, size);
      ck_assert_msg(status.code == DP_OK, "%s", dp_status_text(&status));
    } else {
      const char *path = path_of(folder, "example.dip");
      compiled result = compile_text(path, begin, size);
      ck_assert_msg(result.module != NULL, "%.*s\n%s", (int)size, begin, result.said.text);
      dp_str ir = check_round_trip(result.module, path);
      dp_str_free(&ir);
      release(&result);
      count++;
    }
    at = end;
  }
  for (int i = 0; i < file_count; i++) remove(path_of(folder, files[i]));
  rmdir(folder);
  free(docs);
  ck_assert_int_ge(count, 8);
}
END_TEST

/* ---- options ----------------------------------------------------------------------------------------------------- */

static bool lookup(void *user, const char *key, double *value) {
  ++*(int *)user;
  if (strcmp(key, "hidden") == 0) *value = 24;
  else if (strcmp(key, "{arch}.theta") == 0) *value = 5e5;
  else if (strcmp(key, "broken") == 0) *value = 2.5;
  else return false;
  return true;
}

static const char options_text[] = "model a { dim n = 2; graph f(x[T, n]) -> y[T, n] { return x; } }\n"
                                   "model b {\n"
                                   "  dim d = 8 from \"size\", \"hidden\";\n"
                                   "  dim e = d / 4 from \"none\", f = 3 from \"hidden\", g = 5;\n"
                                   "  const theta = 1.0 from \"{arch}.theta\";\n"
                                   "  graph main(x[T, d]) -> y[T, d] { return x * theta * e * f * g; }\n"
                                   "}\n";

START_TEST(sets_beat_metadata_beats_the_text) {
  int asked = 0;
  const char *sets[] = {"f=7"};
  fe_options options = {.sets = sets, .set_count = 1, .metadata = lookup, .metadata_user = &asked};
  compiled result = compile_with("t.dip", options_text, strlen(options_text), &options);
  ck_assert_msg(result.module != NULL, "%s", result.said.text);
  dp_str ir = check_round_trip(result.module, "t.dip");
  static const char *const wanted[] = {"d:24", "value = 500000", "value = 6", "value = 7", "value = 5"};
  for (size_t i = 0; i < DP_COUNT(wanted); i++) ck_assert_msg(strstr(ir.text, wanted[i]) != NULL, "%s", ir.text);
  ck_assert_int_gt(asked, 0);
  dp_str_free(&ir);
  release(&result);
}
END_TEST

START_TEST(metadata_that_does_not_fit_a_dim_is_refused) {
  static const char text[] = "model m { dim d = 1 from \"broken\"; graph f(x[d]) -> y[d] { return x; } }";
  int asked = 0;
  fe_options options = {.metadata = lookup, .metadata_user = &asked};
  compiled result = compile_with("t.dip", text, strlen(text), &options);
  ck_assert(result.module == NULL);
  ck_assert_msg(strstr(result.said.text, "the weights file has 2.5 for \"broken\"") != NULL, "%s", result.said.text);
  release(&result);
}
END_TEST

START_TEST(a_model_is_chosen_by_name) {
  static const char *const chosen[] = {"a", "b", NULL};
  static const char *const names[] = {"a", "b", "b"};
  for (int i = 0; i < 3; i++) {
    fe_options options = {.model = chosen[i]};
    compiled result = compile_with("t.dip", options_text, strlen(options_text), &options);
    ck_assert_msg(result.module != NULL, "%s", result.said.text);
    ck_assert_str_eq(result.module->name, names[i]);
    release(&result);
  }
  fe_options options = {.model = "nope"};
  compiled result = compile_with("t.dip", options_text, strlen(options_text), &options);
  ck_assert(result.module == NULL);
  ck_assert(strstr(result.said.text, "no model 'nope'") != NULL);
  release(&result);
}
END_TEST

static void *compile_often(void *text) {
  for (int i = 0; i < 50; i++) {
    compiled result = compile_text("t.dip", text, strlen(text));
    bool good = result.module != NULL;
    release(&result);
    if (!good) return NULL;
  }
  return text;
}

START_TEST(threads_compile_at_once) {
  size_t length;
  char *text = read_text(DIPPER_SOURCE_DIR "/models/llama.dip", &length);
  pthread_t threads[4];
  for (int i = 0; i < 4; i++) ck_assert_int_eq(pthread_create(&threads[i], NULL, compile_often, text), 0);
  for (int i = 0; i < 4; i++) {
    void *good;
    pthread_join(threads[i], &good);
    ck_assert(good != NULL);
  }
  free(text);
}
END_TEST

/* ---- hostile texts ----------------------------------------------------------------------------------------------- */

/* Either a module or an error, and no bug of ours among the errors. */
static bool check_survives(const char *text, size_t length) {
  compiled result = compile_with("hostile.dip", text, length, NULL);
  ck_assert_msg((result.module != NULL) == (result.diags->errors == 0), "%s", result.said.text);
  ck_assert_msg(strstr(result.said.text, "internal error") == NULL, "%.*s\n%s", (int)length, text, result.said.text);
  bool good = result.module != NULL;
  if (good) {
    dp_str ir = check_round_trip(result.module, "hostile.dip");
    dp_str_free(&ir);
    if (result.plan->name || result.recipe) check_read_back(&result, "hostile.dip", text, length);
  }
  release(&result);
  return good;
}

static uint32_t next_random(uint64_t *state) {
  *state = *state * 6364136223846793005u + 1442695040888963407u;
  return (uint32_t)(*state >> 33);
}

static const char *const snippets[] = {
  "T", "S", "l", "4398046511104", "layers", "d", "0", "1", "-1", "9223372036854775807", "1e30", "[", "]", "(", ")",
  "{", "}", ";", ",", "=", "->", ":", ".T", "@", "*", "/", "+", "-", " as [T, d]", "for i in 3 {", "return x;", "fn",
  "graph", "model", "dim", "const", "weight", "from", "or", "paired", "optional", "import \"x\";", "wq[l]", "embed",
  "head", "pos", "attend", "rms_norm", "mlp(x, l)", "attention(x, l)", "causal", "cache = kv[l]", "x = x;", "i32",
  "plan p for m {", "recipe r for m {", "sft {", "optimizer adamw {", "norm*", "*", "lora rank 1", "freeze *;",
  "cosine", "1e-3",
  "q8_0", "\"{}\"", "/*", "//", "\"", "\xc3\xa9", "logits[T, d]", "heads", "tokens",
};

/* Cuts, doubles, moves and replaces pieces of the text; what comes out is at most twice as long. */
static size_t mutate(char *text, size_t length, size_t most, uint64_t *random) {
  int times = 1 + (int)(next_random(random) % 4);
  for (int i = 0; i < times && length > 2; i++) {
    size_t at = next_random(random) % length, size = 1 + next_random(random) % 12;
    if (next_random(random) % 8 == 0) size *= 10;
    if (at + size > length) size = length - at;
    const char *snippet = snippets[next_random(random) % DP_COUNT(snippets)];
    size_t snippet_length = strlen(snippet);
    switch (next_random(random) % 5) {
    case 0: text[at] = (char)next_random(random); break;
    case 1:
      memmove(text + at, text + at + size, length - at - size);
      length -= size;
      break;
    case 2: {
      size_t to = next_random(random) % (length - size + 1);
      memmove(text + to, text + at, size);
      break;
    }
    case 3:
      if (length + size > most) break;
      memmove(text + at + size, text + at, length - at);
      length += size;
      break;
    default: /* in the place of a word, mostly */
      if (length + snippet_length > most) break;
      size = next_random(random) % 4 ? strspn(text + at, "abcdefghijklmnopqrstuvwxyz_0123456789") : 0;
      if (at + size > length) size = length - at;
      memmove(text + at + snippet_length, text + at + size, length - at - size);
      memcpy(text + at, snippet, snippet_length);
      length += snippet_length - size;
      break;
    }
  }
  return length;
}

START_TEST(mutated_programs_do_no_harm) {
  static const char *const seeds[] = {DIPPER_SOURCE_DIR "/models/llama.dip", DIPPER_TEST_DIR "/frontend/good/loops.dip",
                                      DIPPER_TEST_DIR "/frontend/good/functions.dip",
                                      DIPPER_TEST_DIR "/frontend/good/weights.dip",
                                      DIPPER_TEST_DIR "/frontend/good/expressions.dip",
                                      DIPPER_TEST_DIR "/frontend/good/recipes.dip"};
  const char *wanted = getenv("DIPPER_MUTATIONS");
  int rounds = wanted ? atoi(wanted) : 4000;
  uint64_t random = 20240607;
  int compiled_anyway = 0;
  for (size_t s = 0; s < DP_COUNT(seeds); s++) {
    size_t length;
    char *text = read_text(seeds[s], &length);
    for (int i = 0; i < rounds / (s ? 4 : 1); i++) {
      size_t most = 2 * length;
      char *copy = calloc(1, most + 1);
      memcpy(copy, text, length);
      size_t size = mutate(copy, length, most, &random);
      char *exact = malloc(size ? size : 1); /* a read past its end would show */
      memcpy(exact, copy, size);
      compiled_anyway += check_survives(exact, size);
      free(exact);
      free(copy);
    }
    free(text);
  }
  ck_assert_msg(compiled_anyway > 0, "no mutation came through to the IR");
}
END_TEST

static void repeat(dp_str *s, const char *text, int times) {
  for (int i = 0; i < times; i++) dp_str_add(s, text);
}

/* before, then `times` times the middle with its number, then after */
static void check_many(const char *before, const char *middle, int times, const char *after) {
  dp_str text = {0};
  dp_str_add(&text, before);
  for (int i = 0; i < times; i++) {
    if (strstr(middle, "%d")) {
      for (const char *at = middle; *at; at++) {
        if (strncmp(at, "%d", 2) == 0) {
          dp_str_addf(&text, "%d", i);
          at++;
        } else if (strncmp(at, "%p", 2) == 0) {
          dp_str_addf(&text, "%d", i ? i - 1 : 0);
          at++;
        } else {
          dp_str_addc(&text, *at);
        }
      }
    } else {
      dp_str_add(&text, middle);
    }
  }
  dp_str_add(&text, after);
  check_survives(text.text ? text.text : "", text.length);
  dp_str_free(&text);
}

START_TEST(large_and_deep_programs_do_no_harm) {
  static const char head[] = "model m { dim d = 4; ", graph[] = "graph g(x[T, d]) -> y[T, d] { ";
  dp_str start = {0};
  dp_str_addf(&start, "%s%s", head, graph);
  static const char *const openers[] = {"(", "-", "x[", "silu(", "for i in 2 {", "x as [", "x + (",
                                        "model m {", "/*", "\""};
  for (size_t i = 0; i < DP_COUNT(openers); i++) {
    check_many("", openers[i], 50000, "");
    dp_str before = {0};
    dp_str_addf(&before, "%sreturn ", start.text);
    check_many(before.text, openers[i], 20000, "x");
    check_many(start.text, openers[i], 20000, "");
    dp_str_free(&before);
  }
  check_many(start.text, "for i%d in 2 { x = x + x; ", 45, "} return x; } }");
  check_many(start.text, "y%d = x; ", 20000, "return x; } }");
  check_many(start.text, "y%d = y%p + nowhere%d; ", 5000, "return x; } }");
  check_many(start.text, "x = x + x; ", 20000, "return x; } }");
  check_many(start.text, "for i in 2 { x = x * 2.0; } ", 10000, "return x; } }");
  check_many(head, "dim d%d = 1; ", 30000, "graph g(x[T, d]) -> y[T, d] { return x; } }");
  check_many(head, "weight w%d[d] from \"w\"; ", 20000, "graph g(x[T, d]) -> y[T, d] { return x; } }");
  check_many(head, "weight w%d[d] or w%p; ", 4000, "graph g(x[T, d]) -> y[T, d] { return x; } }");
  check_many(head, "graph g%d(x[T, d]) -> y[T, d] { return x; } ", 2000, "}");
  check_many(head, "fn f%d(x) { return f%p(x); } ", 5000, "graph g(x[T, d]) -> y[T, d] { return f4999(x); } }");
  check_many(head, "fn f%d(x) { return f%p(x) * f%p(x); } ", 30, "graph g(x[T, d]) -> y[T, d] { return f29(x); } }");
  check_many(head, "fn f%d(a, b, c, d2) { return a; } ", 5000, "graph g(x[T, d]) -> y[T, d] { return x; } }");
  check_many("model m { dim d = 1", "+ 1", 100000, "; }");
  check_many("model m { dim d = 1 from \"a\"", ", \"b\"", 100000, "; }");
  check_many("", "\xff\x01 $ ", 100000, "");
  check_many("model m { weight w[", "1,", 10000, "1] from \"w\"; }");
  static const char model[] = "model m { dim d = 4; weight w[d, d] from \"w\"; graph g(x[T, d]) -> y[T, d] { return x; } } ";
  dp_str scripts = {0};
  dp_str_addf(&scripts, "%splan p for m { ", model);
  check_many(model, "plan p%d for m { } ", 5000, "");
  check_many(model, "recipe r%d for m { sft { } } ", 5000, "");
  check_many(scripts.text, "freeze *, *w*; ", 20000, "}");
  check_many(scripts.text, "a { ", 20000, "}");
  check_many(scripts.text, "recompute block; ", 20000, "}");
  check_many(scripts.text, "recompute ", 20000, "; }");
  dp_str_add(&scripts, "freeze w");
  check_many(scripts.text, ", w", 5000, "; }");
  check_many(scripts.text, ", w", 100000, "; }");
  check_many(scripts.text, "*a*", 20000, "; }");
  dp_str_free(&scripts);
  dp_str_free(&start);
  dp_str big = {0};
  repeat(&big, "// nothing\n", 200000);
  check_survives(big.text, big.length);
  dp_str_free(&big);
  check_survives("", 0);
  check_survives("model m { dim d\0 = 4; }", 23);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("frontend");
  TCase *programs = tcase_create("programs"), *options = tcase_create("options"), *hostile = tcase_create("hostile");
  tcase_add_test(programs, good_programs_give_the_ir_they_name);
  tcase_add_test(programs, bad_programs_get_the_diagnostics_beside_them);
  tcase_add_test(programs, every_model_compiles_and_round_trips);
  tcase_add_test(programs, examples_of_the_docs_compile);
  tcase_add_test(options, sets_beat_metadata_beats_the_text);
  tcase_add_test(options, metadata_that_does_not_fit_a_dim_is_refused);
  tcase_add_test(options, a_model_is_chosen_by_name);
  tcase_add_test(options, threads_compile_at_once);
  tcase_add_test(hostile, mutated_programs_do_no_harm);
  tcase_add_test(hostile, large_and_deep_programs_do_no_harm);
  tcase_set_timeout(programs, 60);
  tcase_set_timeout(options, 60);
  tcase_set_timeout(hostile, 300);
  suite_add_tcase(suite, programs);
  suite_add_tcase(suite, options);
  suite_add_tcase(suite, hostile);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed != 0;
}
