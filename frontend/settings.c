/* frontend/settings.c: reads the statements of plans and recipes: finds each in the table, lets its function take the
 * items behind its word, and says what is wrong with words that are unknown, statements that stand twice, and items that
 * nobody takes. */
#include "frontend/settings.h"

#include <math.h>
#include <string.h>

typedef struct statement {
  fe_block block;
  const char *word;
  void (*read)(fe_reader *r);
  enum { ONCE, OFTEN } times;
  const char *form;
} statement;

static const statement statements[] = {
#define STATEMENT(block, word, reader, times, form) {FE_IN_##block, #word, fe_read_##reader, times, form},
#include "frontend/statements.def"
#undef STATEMENT
};

static const char *const blocks[] = {"a plan", "a recipe", "an objective", "an optimizer"};

/* ---- mistakes ---------------------------------------------------------------------------------------------------- */

void fe_mistake(fe_reader *r, dp_loc loc, const char *fmt, ...) {
  if (r->broken) return;
  va_list args;
  va_start(args, fmt);
  dp_str message = {0};
  dp_str_addv(&message, fmt, args);
  va_end(args);
  fe_error(r->c, loc, "%s", message.text ? message.text : "");
  dp_str_free(&message);
  r->broken = true;
}

static const ast_item *next(const fe_reader *r) {
  return !r->broken && r->at < r->setting->items.count ? &r->setting->items.items[r->at] : NULL;
}

static void step(fe_reader *r) {
  r->at++;
  r->tried_count = 0;
}

/* Behind what was read of it. */
static dp_loc behind(const fe_reader *r) {
  dp_loc loc = r->at ? r->setting->items.items[r->at - 1].loc : r->setting->word.loc;
  return (dp_loc){loc.file, loc.end, loc.end};
}

static bool on_another_line(const fe_reader *r, dp_loc loc) {
  const char *text = r->c->diags->sources[loc.file].text;
  uint32_t from = behind(r).begin;
  return from < loc.begin && memchr(text + from, '\n', loc.begin - from);
}

/* What stands at a place, in quotes, unless it brings its own. */
static const char *quoted(const fe_reader *r, dp_loc loc) {
  const char *text = r->c->diags->sources[loc.file].text + loc.begin, *quote = *text == '"' ? "" : "'";
  int length = loc.end - loc.begin > 40 ? 40 : (int)(loc.end - loc.begin);
  return dp_arena_printf(r->c->arena, "%s%.*s%s", quote, length, text, quote);
}

void fe_expected(fe_reader *r, const char *what) {
  const ast_item *item = next(r);
  if (item && !on_another_line(r, item->loc))
    fe_mistake(r, item->loc, "unexpected %s; expected %s: %s", quoted(r, item->loc), what, r->form);
  else
    fe_mistake(r, behind(r), "expected %s: %s", what, r->form);
}

/* An item that the statement has no place for; most often a ';' is missing before it, or it is a slip in a word. */
static void report_rest(fe_reader *r) {
  const ast_item *item = next(r);
  if (!item) return;
  const char *near = item->kind == AST_WORD ? dp_nearest_name(item->name.text, r->tried, r->tried_count) : NULL;
  bool product = item->kind == AST_PATTERN && strcmp(item->name.text, "*") == 0;
  if (on_another_line(r, item->loc)) fe_mistake(r, behind(r), "expected ';' here");
  else if (product) fe_mistake(r, item->loc, "unexpected '*'; arithmetic stands in parentheses");
  else if (near) fe_mistake(r, item->loc, "unexpected '%s'; did you mean '%s'?", item->name.text, near);
  else fe_mistake(r, item->loc, "unexpected %s: %s", quoted(r, item->loc), r->form);
}

/* ---- items ------------------------------------------------------------------------------------------------------- */

bool fe_take_word(fe_reader *r, const char *word) {
  const ast_item *item = next(r);
  if (item && item->kind == AST_WORD && strcmp(item->name.text, word) == 0) {
    step(r);
    return true;
  }
  if (r->tried_count < FE_MOST_TRIED) r->tried[r->tried_count++] = word;
  return false;
}

bool fe_take_comma(fe_reader *r) {
  const ast_item *item = next(r);
  if (!item || item->kind != AST_COMMA) return false;
  step(r);
  return true;
}

/* At the next item, which is none of the words that could stand here. */
static void report_choice(fe_reader *r, const char *what) {
  const ast_item *item = next(r);
  const char *near = item && item->kind == AST_WORD && !on_another_line(r, item->loc)
                         ? dp_nearest_name(item->name.text, r->tried, r->tried_count)
                         : NULL;
  if (near) fe_mistake(r, item->loc, "unexpected '%s'; did you mean '%s'?", item->name.text, near);
  else fe_expected(r, what);
}

void fe_want_word(fe_reader *r, const char *word) {
  if (!fe_take_word(r, word)) report_choice(r, dp_arena_printf(r->c->arena, "'%s'", word));
}

bool fe_take_choice(fe_reader *r, const char *const *words, int count, int *choice) {
  for (int i = 0; i < count; i++) {
    if (!fe_take_word(r, words[i])) continue;
    *choice = i;
    return true;
  }
  return false;
}

void fe_want_choice(fe_reader *r, const char *what, const char *const *words, int count, int *choice) {
  if (!fe_take_choice(r, words, count, choice)) report_choice(r, what);
}

void fe_want_string(fe_reader *r, const char *what, ast_name *string) {
  const ast_item *item = next(r);
  if (!item || item->kind != AST_STRING) {
    fe_expected(r, what);
    return;
  }
  *string = item->name;
  step(r);
}

/* ---- numbers ----------------------------------------------------------------------------------------------------- */

/* A word is the name of a dim or const here. */
static bool take_value(fe_reader *r, const char *what, fe_value *value, dp_loc *loc) {
  const ast_item *item = next(r);
  bool word = item && item->kind == AST_WORD && !on_another_line(r, item->loc);
  if (!word && (!item || item->kind != AST_VALUE)) {
    if (item && item->kind == AST_PATTERN) fe_mistake(r, item->loc, "%s: arithmetic stands in parentheses", what);
    fe_expected(r, what);
    return false;
  }
  ast_expr *expr = item->value;
  if (word) {
    expr = DP_NEW(r->c->arena, ast_expr);
    *expr = (ast_expr){.kind = AST_NAME, .loc = item->loc, .depth = 1, .name = item->name};
  }
  fe_resolve_expr(r->c, expr);
  *value = fe_eval(r->c, expr);
  *loc = item->loc;
  step(r);
  r->broken |= value->kind == FE_POISON; /* which was reported */
  return !r->broken;
}

void fe_want_integer(fe_reader *r, const char *what, int64_t least, int64_t most, int64_t *value) {
  fe_value given;
  dp_loc loc;
  if (!take_value(r, what, &given, &loc)) return;
  if (given.kind != FE_DIM || given.dim.symbol)
    fe_mistake(r, loc, "expected %s, an integer, but this is %s", what, fe_value_text(r->c, &given));
  else if (given.dim.add < least)
    fe_mistake(r, loc, "%s is at least %lld, but this is %lld", what, (long long)least, (long long)given.dim.add);
  else if (given.dim.add > most)
    fe_mistake(r, loc, "%s is at most %lld, but this is %lld", what, (long long)most, (long long)given.dim.add);
  else
    *value = given.dim.add;
}

void fe_want_number(fe_reader *r, const char *what, fe_range range, double *value) {
  static const char *const phrases[] = {"at least 0", "more than 0", "at least 0 and less than 1"};
  fe_value given;
  dp_loc loc;
  double number;
  if (!take_value(r, what, &given, &loc)) return;
  if (!fe_is_number(&given, &number)) {
    fe_mistake(r, loc, "expected %s, a number, but this is %s", what, fe_value_text(r->c, &given));
    return;
  }
  bool fits = range == FE_ANY_FROM_0 ? number >= 0 : range == FE_ABOVE_0 ? number > 0 : number >= 0 && number < 1;
  if (!fits || !isfinite(number)) fe_mistake(r, loc, "%s is %s, but this is %g", what, phrases[range], number);
  else if (number > 3.4028234663852886e38) fe_mistake(r, loc, "%g does not fit in an f32", number);
  else *value = number;
}

/* ---- weights ----------------------------------------------------------------------------------------------------- */

/* The pieces between the '*' of a pattern stand in the name in their order, the first at its beginning, the last at its
 * end; each is looked for as early as it can be. */
static bool matches(const char *pattern, const char *name) {
  const char *star = strchr(pattern, '*'), *end = name + strlen(name);
  if (strncmp(pattern, name, (size_t)(star - pattern)) != 0) return false;
  const char *at = name + (star - pattern);
  for (const char *piece = star + 1;; piece = star + 1) {
    star = strchr(piece, '*');
    size_t length = star ? (size_t)(star - piece) : strlen(piece);
    if (!star) return (size_t)(end - at) >= length && strcmp(end - length, piece) == 0;
    at = memmem(at, (size_t)(end - at), piece, length);
    if (!at) return false;
    at += length;
  }
}

static void add_named(fe_reader *r, int weight, dp_loc loc, bool *listed) {
  if (!listed[weight]) r->named[r->named_count++] = (fe_named){weight, loc};
  listed[weight] = true;
}

static bool is_matrix(const ir_weight *weight) { return ir_weight_rank(weight) >= 2; }

static bool add_matching(fe_reader *r, const ast_item *item, bool only_matrices, bool *listed) {
  const ir_module *module = r->c->module;
  bool any = false;
  for (int i = 0; i < module->weight_count; i++) {
    const ir_weight *weight = &module->weights[i];
    if ((only_matrices && !is_matrix(weight)) || !matches(item->name.text, weight->name)) continue;
    add_named(r, i, item->loc, listed);
    any = true;
  }
  if (!any)
    fe_error(r->c, item->loc, "no %s of model '%s' is called '%s'", only_matrices ? "matrix" : "weight", module->name,
             item->name.text);
  return any;
}

static void report_unknown_weight(fe_compiler *c, ast_name name) {
  const ir_module *module = c->module;
  const fe_symbol *symbol = fe_find(&c->model_scope, name.text);
  if (symbol && symbol->kind == FE_SYM_WEIGHT) return; /* its declaration has a mistake, which was reported */
  if (symbol && symbol->loc.file) {
    fe_error(c, name.loc, "'%s' is %s, not a weight", name.text, fe_symbol_phrase(symbol));
    fe_note(c, symbol->loc, "declared here");
    return;
  }
  const char **names = DP_NEW_ARRAY(c->arena, const char *, module->weight_count);
  for (int i = 0; i < module->weight_count; i++) names[i] = module->weights[i].name;
  const char *near = dp_nearest_name(name.text, names, module->weight_count);
  fe_error(c, name.loc, "model '%s' has no weight '%s'%s%s%s", module->name, name.text, near ? "; did you mean '" : "",
           near ? near : "", near ? "'?" : "");
  if (near) fe_note(c, ir_find_weight(module, near)->loc, "'%s' is declared here", near);
}

static bool add_by_name(fe_reader *r, const ast_item *item, bool only_matrices, bool *listed) {
  const ir_module *module = r->c->module;
  const ir_weight *weight = ir_find_weight(module, item->name.text);
  if (!weight) {
    report_unknown_weight(r->c, item->name);
    return false;
  }
  if (only_matrices && !is_matrix(weight)) {
    fe_error(r->c, item->loc, "'%s' is no matrix: %s", weight->name, fe_type_text(r->c, &weight->type));
    fe_note(r->c, weight->loc, "'%s' is declared here", weight->name);
    return false;
  }
  add_named(r, (int)(weight - module->weights), item->loc, listed);
  return true;
}

void fe_want_weights(fe_reader *r, bool only_matrices) {
  fe_compiler *c = r->c;
  bool good = true, *listed = DP_NEW_ARRAY(c->arena, bool, c->module->weight_count);
  r->named_count = 0;
  do {
    const ast_item *item = next(r);
    if (!item || (item->kind != AST_WORD && item->kind != AST_PATTERN)) {
      fe_expected(r, "a weight");
      return;
    }
    if (++c->names > FE_MOST_NAMES) {
      fe_mistake(r, item->loc, "more than %d names of weights in plans and recipes", FE_MOST_NAMES);
      c->stopped = true;
      return;
    }
    good &= item->kind == AST_PATTERN ? add_matching(r, item, only_matrices, listed)
                                      : add_by_name(r, item, only_matrices, listed);
    step(r);
  } while (fe_take_comma(r));
  r->broken |= !good;
}

/* ---- blocks ------------------------------------------------------------------------------------------------------ */

const ast_setting *fe_find_setting(const ast_settings *settings, const char *word) {
  for (const ast_setting *setting = settings->first; setting; setting = setting->next)
    if (strcmp(setting->word.text, word) == 0) return setting;
  return NULL;
}

static void report_unknown(fe_compiler *c, fe_block block, ast_name word) {
  const char *names[DP_COUNT(statements)];
  int count = 0;
  dp_str all = {0};
  for (size_t i = 0; i < DP_COUNT(statements); i++) {
    if (statements[i].block != block) continue;
    dp_str_addf(&all, "%s%s", count ? ", " : "", statements[i].word);
    names[count++] = statements[i].word;
  }
  const statement *elsewhere = NULL;
  for (size_t i = 0; i < DP_COUNT(statements) && !elsewhere; i++)
    if (strcmp(statements[i].word, word.text) == 0) elsewhere = &statements[i];
  const char *near = dp_nearest_name(word.text, names, count), *place = blocks[block];
  if (elsewhere)
    fe_error(c, word.loc, "'%s' stands in %s, not in %s: %s", word.text, blocks[elsewhere->block], place, elsewhere->form);
  else if (near) fe_error(c, word.loc, "%s has no statement '%s'; did you mean '%s'?", place, word.text, near);
  else fe_error(c, word.loc, "%s has no statement '%s'; it has %s", place, word.text, all.text ? all.text : "");
  dp_str_free(&all);
}

static const statement *find_statement(fe_block block, const char *word) {
  for (size_t i = 0; i < DP_COUNT(statements); i++)
    if (statements[i].block == block && strcmp(statements[i].word, word) == 0) return &statements[i];
  return NULL;
}

static void read_setting(const fe_reader *outer, const statement *row, const ast_settings *settings,
                         const ast_setting *setting) {
  fe_compiler *c = outer->c;
  const ast_setting *first = row->times == ONCE ? fe_find_setting(settings, setting->word.text) : setting;
  if (first != setting) {
    fe_error(c, setting->word.loc, "'%s' is said already", setting->word.text);
    fe_note(c, first->loc, "it is said here");
    return;
  }
  fe_reader r = *outer;
  r.siblings = settings;
  r.setting = setting;
  r.form = row->form;
  r.at = r.tried_count = 0;
  r.broken = r.entered = false;
  row->read(&r);
  report_rest(&r);
  if (setting->has_body && !r.entered)
    fe_mistake(&r, setting->loc, "'%s' has no statements of its own: %s", setting->word.text, row->form);
}

void fe_read_settings(const fe_reader *outer, fe_block block, const ast_settings *settings) {
  for (const ast_setting *setting = settings->first; setting && !outer->c->stopped; setting = setting->next) {
    const statement *row = find_statement(block, setting->word.text);
    if (row) read_setting(outer, row, settings, setting);
    else report_unknown(outer->c, block, setting->word);
  }
}

void fe_enter(fe_reader *r, fe_block block) {
  report_rest(r);
  r->entered = true;
  fe_read_settings(r, block, &r->setting->body);
}
