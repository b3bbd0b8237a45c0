/* frontend/frontend.c: the way of a text through the folder, from bytes to a verified module. A text that does not
 * parse is not looked at further; after that each stage goes on past the mistakes of the one before. */
#include "frontend/sema.h"

#include <stdlib.h>
#include <string.h>

static ast_model *choose_model(fe_compiler *c, const ast_file *tree, uint32_t file) {
  const char *wanted = c->options->model;
  if (!tree->models) {
    fe_error(c, (dp_loc){file, 0, 0}, "the text declares no model");
    return NULL;
  }
  if (!wanted) return tree->last_model;
  const char **names = NULL;
  int count = 0, cap = 0;
  for (ast_model *model = tree->models; model; model = model->next) {
    if (strcmp(model->name.text, wanted) == 0) return model;
    DP_PUSH(c->arena, names, count, cap) = model->name.text;
  }
  const char *near = dp_nearest_name(wanted, names, count);
  fe_error(c, tree->models->name.loc, "the text has no model '%s'%s%s%s", wanted, near ? "; did you mean '" : "",
           near ? near : "", near ? "'?" : "");
  return NULL;
}

/* The table of model names, which --model chooses from, has each once. */
static void check_models(fe_compiler *c, const ast_file *tree) {
  fe_scope *models = DP_NEW(c->arena, fe_scope);
  for (const ast_model *model = tree->models; model; model = model->next)
    fe_declare(c, models, FE_SYM_MODEL, model->name);
}

static void compile(fe_compiler *c, uint32_t file) {
  int errors = c->diags->errors;
  ast_file *tree = fe_parse(file, c->arena, c->diags);
  if (!tree) return;
  fe_builtins(c);
  fe_import(c, file, tree);
  check_models(c, tree);
  c->model = choose_model(c, tree, file);
  if (c->diags->errors != errors) return; /* what failed to be imported would be missed everywhere */
  c->module = ir_module_new(c->model->name.text);
  if (!c->module) {
    fe_error(c, (dp_loc){0}, "out of memory");
    return;
  }
  fe_resolve(c);
  fe_constants(c);
  fe_weights(c);
  fe_lower(c);
}

ir_module *fe_compile(const char *path, const char *text, size_t length, const fe_options *options, dp_diags *diags) {
  static const fe_options none;
  int errors = diags->errors;
  fe_compiler *c = calloc(1, sizeof *c);
  dp_arena *arena = dp_arena_new();
  if (!c || !arena) {
    dp_error(diags, (dp_loc){0}, "out of memory");
    free(c);
    dp_arena_free(arena);
    return NULL;
  }
  c->arena = arena;
  c->diags = diags;
  c->options = options ? options : &none;
  c->fuel = FE_MOST_FUEL;
  compile(c, dp_diags_add_source(diags, path, text, length));
  ir_module *module = c->module;
  if (module && diags->errors == errors) {
    dp_status status = ir_verify(module, "the frontend");
    if (status.code != DP_OK) dp_error(diags, (dp_loc){0}, "%s", dp_status_text(&status));
    dp_status_free(&status);
  }
  dp_arena_free(arena);
  free(c);
  if (diags->errors == errors && module) return module;
  ir_module_free(module);
  return NULL;
}
