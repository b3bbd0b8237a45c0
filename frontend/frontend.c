/* frontend/frontend.c: the way of a text through the folder, from bytes to a verified module with its plan and recipe. A
 * text that does not parse is not looked at further; after that each stage goes on past the mistakes of the one before. */
#include "frontend/sema.h"

#include <stdlib.h>
#include <string.h>

/* Those that are for the model, to the last: a mistake in one that is not taken is a mistake. */
static void read_scripts(fe_compiler *c, fe_program *program) {
  for (const ast_script *s = c->plans.first; s && !c->stopped; s = s->next) {
    if (strcmp(s->model.text, c->model->name.text) != 0) continue;
    ir_plan *plan = fe_plan(c, s);
    if (s == c->plan) program->plan = plan;
  }
  for (const ast_script *s = c->recipes.first; s && !c->stopped; s = s->next) {
    if (strcmp(s->model.text, c->model->name.text) != 0) continue;
    ir_recipe *recipe = fe_recipe(c, s);
    if (s == c->recipe) program->recipe = recipe;
  }
  if (!c->plan) program->plan = fe_plan(c, NULL);
}

static void compile(fe_compiler *c, uint32_t file, fe_program *program) {
  int errors = c->diags->errors;
  ast_file *tree = fe_parse(file, c->arena, c->diags);
  if (!tree) return;
  fe_builtins(c);
  fe_import(c, file, tree);
  fe_choose(c, file, tree);
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
  read_scripts(c, program);
}

bool fe_compile_program(const char *path, const char *text, size_t length, const fe_options *options, dp_diags *diags,
                        fe_program *program) {
  *program = (fe_program){0};
  static const fe_options none;
  int errors = diags->errors;
  fe_compiler *c = calloc(1, sizeof *c);
  dp_arena *arena = dp_arena_new();
  if (!c || !arena) {
    dp_error(diags, (dp_loc){0}, "out of memory");
    free(c);
    dp_arena_free(arena);
    return false;
  }
  c->arena = arena;
  c->diags = diags;
  c->options = options ? options : &none;
  c->fuel = FE_MOST_FUEL;
  compile(c, dp_diags_add_source(diags, path, text, length), program);
  ir_module *module = c->module;
  if (module && diags->errors == errors) {
    dp_status status = ir_verify(module, "the frontend");
    if (status.code != DP_OK) dp_error(diags, (dp_loc){0}, "%s", dp_status_text(&status));
    dp_status_free(&status);
  }
  dp_arena_free(arena);
  free(c);
  program->module = module;
  if (diags->errors == errors && module) return true;
  ir_module_free(module);
  *program = (fe_program){0};
  return false;
}

ir_module *fe_compile(const char *path, const char *text, size_t length, const fe_options *options, dp_diags *diags) {
  fe_program program;
  fe_compile_program(path, text, length, options, diags, &program);
  return program.module;
}
