/* frontend/constants.c: the values of dims and consts, in order of declaration: --set beats metadata beats the text. */
#include "frontend/sema.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* "name=value" of options->sets. */
typedef struct override {
  const char *text, *name, *value;
  bool used;
} override;

typedef struct overrides {
  override *items;
  int count;
} overrides;

static overrides read_overrides(fe_compiler *c) {
  const fe_options *options = c->options;
  overrides sets = {DP_NEW_ARRAY(c->arena, override, options->set_count), 0};
  for (int i = 0; i < options->set_count; i++) {
    const char *text = options->sets[i], *equals = strchr(text, '=');
    if (!equals || equals == text || !equals[1]) {
      fe_error(c, (dp_loc){0}, "--set %s: expected name=value", text);
      continue;
    }
    const char *name = dp_arena_strndup(c->arena, text, (size_t)(equals - text));
    sets.items[sets.count++] = (override){text, name, equals + 1, false};
  }
  return sets;
}

/* The last one wins. */
static const override *find_override(overrides *sets, const char *name) {
  const override *found = NULL;
  for (int i = 0; i < sets->count; i++) {
    if (strcmp(sets->items[i].name, name) != 0) continue;
    sets->items[i].used = true;
    found = &sets->items[i];
  }
  return found;
}

static void report_unused(fe_compiler *c, const overrides *sets) {
  const char **names = c->model_scope.names;
  const char **candidates = DP_NEW_ARRAY(c->arena, const char *, c->model_scope.count);
  int count = 0;
  for (int i = 0; i < c->model_scope.count; i++) {
    fe_symbol_kind kind = fe_find(&c->model_scope, names[i])->kind;
    if (kind == FE_SYM_DIM || kind == FE_SYM_CONST) candidates[count++] = names[i];
  }
  for (int i = 0; i < sets->count; i++) {
    const override *set = &sets->items[i];
    if (set->used) continue;
    const char *near = dp_nearest_name(set->name, candidates, count);
    fe_error(c, (dp_loc){0}, "--set %s: model '%s' has no dim or const '%s'%s%s%s", set->text, c->model->name.text,
             set->name, near ? "; did you mean '" : "", near ? near : "", near ? "'?" : "");
  }
}

static fe_value from_override(fe_compiler *c, const override *set, bool is_dim) {
  char *end;
  errno = 0;
  if (is_dim) {
    long long value = strtoll(set->value, &end, 10);
    if (!*end && !errno && value >= 1 && value <= FE_LARGEST_DIM) return fe_integer(value);
    fe_error(c, (dp_loc){0}, "--set %s: '%s' is a dim, which takes an integer of at least 1", set->text, set->name);
  } else {
    double value = fe_read_float(set->value, &end);
    if (!*end && isfinite(value)) return fe_number(value);
    fe_error(c, (dp_loc){0}, "--set %s: '%s' is a const, which takes a number", set->text, set->name);
  }
  return fe_poison;
}

static fe_value from_metadata(fe_compiler *c, const ast_constant *constant, double value, ast_name key) {
  const char *name = constant->definition.name.text;
  if (constant->is_dim && !(value >= 1 && value <= (double)FE_LARGEST_DIM && floor(value) == value)) {
    fe_error(c, key.loc, "the weights file has %g for \"%s\", but dim '%s' takes an integer of at least 1", value,
             key.text, name);
    return fe_poison;
  }
  if (!isfinite(value)) {
    fe_error(c, key.loc, "the weights file has %g for \"%s\", but const '%s' takes a finite number", value, key.text,
             name);
    return fe_poison;
  }
  return constant->is_dim ? fe_integer((int64_t)value) : fe_number(value);
}

static fe_value from_text(fe_compiler *c, const ast_constant *constant) {
  const ast_expr *expr = constant->definition.value;
  const char *name = constant->definition.name.text;
  if (constant->is_dim) {
    ir_dim dim;
    if (!fe_eval_dim(c, expr, "a dim", &dim)) return fe_poison;
    if (!dim.symbol) return fe_integer(dim.add);
    fe_error(c, expr->loc, "dim '%s' is an integer that is known before the model runs; %s is not", name, dim.symbol);
    return fe_poison;
  }
  fe_value value = fe_eval(c, expr);
  double number;
  if (fe_is_number(&value, &number)) return fe_number(number);
  if (value.kind != FE_POISON)
    fe_error(c, expr->loc, "const '%s' is a number that is known before the model runs, but this is %s", name,
             fe_value_text(c, &value));
  return fe_poison;
}

static fe_value value_of(fe_compiler *c, overrides *sets, const ast_constant *constant) {
  const ast_definition *definition = &constant->definition;
  const override *set = find_override(sets, definition->name.text);
  if (set) return from_override(c, set, constant->is_dim);
  const fe_options *options = c->options;
  double value;
  for (int i = 0; i < definition->keys.count && options->metadata; i++)
    if (options->metadata(options->metadata_user, definition->keys.items[i].text, &value))
      return from_metadata(c, constant, value, definition->keys.items[i]);
  return from_text(c, constant);
}

void fe_constants(fe_compiler *c) {
  overrides sets = read_overrides(c);
  for (const ast_constant *constant = c->model->constants; constant && !c->stopped; constant = constant->next) {
    fe_value value = value_of(c, &sets, constant);
    if (constant->is_dim && value.kind == FE_DIM) value.dim.name = constant->definition.name.text;
    fe_symbol *symbol = fe_find(&c->model_scope, constant->definition.name.text);
    if (!symbol || symbol->known || memcmp(&symbol->loc, &constant->definition.name.loc, sizeof symbol->loc) != 0)
      continue; /* declared twice, which was reported */
    symbol->value = value;
    symbol->known = true;
  }
  report_unused(c, &sets);
}
