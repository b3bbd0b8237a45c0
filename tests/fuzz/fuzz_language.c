/* tests/fuzz/fuzz_language.c: bytes as a text: diagnostics, or a module that prints, parses again, goes through
 * every pass with all checks on, and is scheduled; and a plan and a recipe that print, and are read back. */
#include "frontend/frontend.h"
#include "passes/passes.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A name in place of every value that a config.json would give. */
static bool metadata(void *user, const char *key, double *value) {
  (void)user;
  *value = (double)(dp_hash(0, key, 1) % 4 + 1);
  return true;
}

/* What the passes make of a module they must not refuse; its size is held down, not its shape. */
static bool is_small(const ir_module *module) {
  for (int i = 0; i < module->weight_count; i++)
    for (int d = 0; d < module->weights[i].type.rank; d++)
      if (module->weights[i].type.dims[d].add > 1 << 20) return false;
  return module->graphs != NULL;
}

static void compile(ir_module **module) {
  ps_options checked = {.verify_each = true, .stress_reparse = true};
  dp_status status = ps_run(module, NULL, 0, &checked);
  if (status.code == DP_BUG) {
    fprintf(stderr, "%s\n", dp_status_text(&status));
    abort();
  }
  if (status.code == DP_OK) {
    tile_target target = {.cores = 2, .task_bytes = 32768};
    tile_program *program = NULL;
    status = ps_schedule(*module, (*module)->graphs->name, &target, &program);
    if (status.code == DP_BUG) {
      fprintf(stderr, "%s\n", dp_status_text(&status));
      abort();
    }
    if (status.code == DP_OK) tile_program_free(program);
  }
  dp_status_free(&status);
}

static void print_scripts(dp_str *out, const fe_program *program, const char *name) {
  program->plan->name = name;
  ir_print_plan(out, program->module, program->plan);
  if (!program->recipe) return;
  program->recipe->name = name;
  ir_print_recipe(out, program->module, program->recipe);
}

/* What was printed, behind the text that it came from, says the same; unless that is too much for the language. */
static void read_back(const fe_program *program, const char *text, size_t size, fe_options options) {
  static const char name[] = "fuzz_read_back";
  dp_str said = {0}, longer = {0}, again = {0};
  print_scripts(&said, program, name);
  dp_str_addn(&longer, text, size);
  dp_str_addf(&longer, "\n%s", said.text);
  options.plan = name;
  options.recipe = program->recipe ? name : NULL;
  dp_diags *diags = dp_diags_new();
  fe_program second;
  if (fe_compile_program("fuzz.dip", longer.text, longer.length, &options, diags, &second)) {
    print_scripts(&again, &second, name);
    if (strcmp(said.text, again.text) != 0) {
      fprintf(stderr, "%s\nis read back as\n%s\n", said.text, again.text);
      abort();
    }
  }
  ir_module_free(second.module);
  dp_diags_free(diags);
  dp_str_free(&said);
  dp_str_free(&longer);
  dp_str_free(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  for (int with_metadata = 0; with_metadata < 2; with_metadata++) {
    dp_diags *diags = dp_diags_new();
    fe_options options = {.metadata = with_metadata ? metadata : NULL};
    fe_program program;
    if (fe_compile_program("fuzz.dip", (const char *)data, size, &options, diags, &program)) {
      if (program.plan->name || program.recipe) read_back(&program, (const char *)data, size, options);
      if (is_small(program.module)) compile(&program.module);
    }
    ir_module_free(program.module);
    dp_diags_free(diags);
  }
  return 0;
}
