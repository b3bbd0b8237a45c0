/* frontend/choose.c: which model of the texts is compiled, and which plan and recipe go with it. What is asked for by
 * name comes first; then what the text itself says, before what its imports say; of several the last. */
#include "frontend/sema.h"

#include <string.h>

static void report_missing(fe_compiler *c, dp_loc loc, const char *what, const char *name, const char *const *names,
                           int count) {
  const char *near = dp_nearest_name(name, names, count);
  fe_error(c, loc, "the text has no %s '%s'%s%s%s", what, name, near ? "; did you mean '" : "", near ? near : "",
           near ? "'?" : "");
}

static const ast_script *find_script(fe_compiler *c, const ast_scripts *scripts, const char *what, const char *name,
                                     dp_loc text) {
  const char **names = NULL;
  int count = 0, cap = 0;
  if (!name) return NULL;
  for (const ast_script *script = scripts->first; script; script = script->next) {
    if (strcmp(script->name.text, name) == 0) return script;
    DP_PUSH(c->arena, names, count, cap) = script->name.text;
  }
  report_missing(c, scripts->first ? scripts->first->name.loc : text, what, name, names, count);
  return NULL;
}

static ast_model *find_model(fe_compiler *c, const char *name, dp_loc loc) {
  const char **names = NULL;
  int count = 0, cap = 0;
  for (ast_model *model = c->models.first; model; model = model->next) {
    if (strcmp(model->name.text, name) == 0) return model;
    DP_PUSH(c->arena, names, count, cap) = model->name.text;
  }
  report_missing(c, loc, "model", name, names, count);
  return NULL;
}

static const ast_script *last_for(const ast_scripts *scripts, const ast_model *model) {
  const ast_script *last = NULL;
  for (const ast_script *script = scripts->first; script; script = script->next)
    if (strcmp(script->model.text, model->name.text) == 0) last = script;
  return last;
}

/* A name that options choose by stands for one thing. */
static void check_names(fe_compiler *c) {
  fe_scope *models = DP_NEW(c->arena, fe_scope), *plans = DP_NEW(c->arena, fe_scope);
  fe_scope *recipes = DP_NEW(c->arena, fe_scope);
  for (const ast_model *m = c->models.first; m; m = m->next) fe_declare(c, models, FE_SYM_MODEL, m->name);
  for (const ast_script *s = c->plans.first; s; s = s->next) fe_declare(c, plans, FE_SYM_PLAN, s->name);
  for (const ast_script *s = c->recipes.first; s; s = s->next) fe_declare(c, recipes, FE_SYM_RECIPE, s->name);
  const ast_scripts *const all[] = {&c->plans, &c->recipes};
  for (size_t i = 0; i < DP_COUNT(all); i++) {
    int count = 0;
    for (const ast_script *s = all[i]->first; s && !c->stopped; s = s->next) {
      if (!fe_find(models, s->model.text)) find_model(c, s->model.text, s->model.loc);
      if (++count <= FE_MOST_SCRIPTS) continue;
      fe_error(c, s->name.loc, "more than %d plans or recipes", FE_MOST_SCRIPTS);
      return;
    }
  }
}

/* Which model a text is about, when nothing is asked for by name. */
static const char *own_model(const fe_compiler *c, const ast_file *tree) {
  return tree->recipes.last  ? tree->recipes.last->model.text
         : tree->models.last ? tree->models.last->name.text
         : tree->plans.last  ? tree->plans.last->model.text
         : c->recipes.last   ? c->recipes.last->model.text
                             : c->models.last->name.text;
}

static void check_fits(fe_compiler *c, const ast_script *script, const char *what) {
  if (script && strcmp(script->model.text, c->model->name.text) != 0)
    fe_error(c, script->model.loc, "%s '%s' is for model '%s', but '%s' is asked for", what, script->name.text,
             script->model.text, c->model->name.text);
}

void fe_choose(fe_compiler *c, uint32_t file, const ast_file *tree) {
  const fe_options *options = c->options;
  const dp_loc whole = {file, 0, 0};
  int errors = c->diags->errors;
  if (!c->models.first) {
    fe_error(c, whole, "the text declares no model");
    return;
  }
  check_names(c);
  const ast_script *plan = find_script(c, &c->plans, "plan", options->plan, whole);
  const ast_script *recipe = find_script(c, &c->recipes, "recipe", options->recipe, whole);
  if (c->diags->errors != errors) return;
  const char *name = options->model ? options->model
                     : recipe       ? recipe->model.text
                     : plan         ? plan->model.text
                                    : own_model(c, tree);
  c->model = find_model(c, name, c->models.first->name.loc);
  if (!c->model) return;
  check_fits(c, plan, "plan");
  check_fits(c, recipe, "recipe");
  c->plan = plan ? plan : last_for(&c->plans, c->model);
  c->recipe = recipe ? recipe : last_for(&c->recipes, c->model);
}
