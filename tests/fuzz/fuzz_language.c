/* tests/fuzz/fuzz_language.c: bytes as a model's text: diagnostics, or a module that prints, parses again, goes through
 * every pass with all checks on, and is scheduled. */
#include "frontend/frontend.h"
#include "passes/passes.h"

#include <stdio.h>
#include <stdlib.h>

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

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  for (int with_metadata = 0; with_metadata < 2; with_metadata++) {
    dp_diags *diags = dp_diags_new();
    fe_options options = {.metadata = with_metadata ? metadata : NULL};
    ir_module *module = fe_compile("fuzz.dip", (const char *)data, size, &options, diags);
    if (module && is_small(module)) compile(&module);
    ir_module_free(module);
    dp_diags_free(diags);
  }
  return 0;
}
