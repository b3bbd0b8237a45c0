/* passes/pipeline.c: runs passes one after another, and looks at what each leaves: dumps it, verifies it, sends it
 * through its text form. */
#include "passes/passes.h"

#include <string.h>

static const ps_pass passes[] = {
#define PASS(name, doc) {#name, doc, pass_##name},
#include "passes/passes.def"
#undef PASS
};

const ps_pass *ps_passes(int *count) {
  *count = (int)DP_COUNT(passes);
  return passes;
}

dp_status ps_find(const char *name, const ps_pass **pass) {
  const char *names[DP_COUNT(passes)];
  for (size_t i = 0; i < DP_COUNT(passes); i++) {
    names[i] = passes[i].name;
    if (strcmp(name, names[i]) != 0) continue;
    *pass = &passes[i];
    return DP_SUCCESS;
  }
  const char *near = dp_nearest_name(name, names, (int)DP_COUNT(passes));
  if (near) return dp_fail(DP_NOT_FOUND, "there is no pass '%s'; did you mean '%s'?", name, near);
  return dp_fail(DP_NOT_FOUND, "there is no pass '%s'", name);
}

/* Reads back what was printed; failing that is our own bug. */
static dp_status reparse(const ps_pass *pass, const dp_str *text, ir_module **module) {
  dp_diags *diags = dp_diags_new();
  if (!diags || text->failed) {
    dp_diags_free(diags);
    return (dp_status){DP_NO_MEMORY, NULL};
  }
  *module = ir_parse(pass->name, text->text, text->length, diags);
  dp_status status = DP_SUCCESS;
  if (!*module) {
    dp_str why = {0};
    dp_diags_render(diags, &why, false);
    status = dp_fail(DP_BUG, "internal error: what pass %s left does not read back:\n%s", pass->name,
                     why.text ? why.text : "");
    dp_str_free(&why);
  }
  dp_diags_free(diags);
  return status;
}

static dp_status compare_texts(const ps_pass *pass, const dp_str *text, const ir_module *reparsed) {
  dp_str again = {0};
  ir_print(&again, reparsed);
  bool same = again.length == text->length && !again.failed && memcmp(again.text, text->text, text->length) == 0;
  dp_str_free(&again);
  if (same) return DP_SUCCESS;
  return dp_fail(DP_BUG, "internal error: what pass %s left prints otherwise when read back", pass->name);
}

static dp_status look_at(const ps_pass *pass, ir_module **module, const ps_options *options) {
  if (options->verify_each) DP_TRY(ir_verify(*module, pass->name));
  bool dumped = options->dump && options->dump_after &&
                (strcmp(options->dump_after, "all") == 0 || strcmp(options->dump_after, pass->name) == 0);
  if (!dumped && !options->verify_each && !options->stress_reparse) return DP_SUCCESS;
  dp_str text = {0};
  ir_print(&text, *module);
  if (dumped) options->dump(options->user, pass->name, text.text ? text.text : "");
  dp_status status = DP_SUCCESS;
  if (options->verify_each || options->stress_reparse) {
    ir_module *reparsed = NULL;
    status = reparse(pass, &text, &reparsed);
    if (status.code == DP_OK && options->verify_each) status = compare_texts(pass, &text, reparsed);
    if (status.code == DP_OK && options->stress_reparse) {
      ir_module *old = *module;
      *module = reparsed;
      reparsed = old;
    }
    ir_module_free(reparsed);
  }
  dp_str_free(&text);
  return status;
}

static dp_status run_pass(const ps_pass *pass, ir_module **module, const ps_options *options) {
  DP_TRY(pass->run(*module));
  return look_at(pass, module, options);
}

dp_status ps_run(ir_module **module, const char *const *names, int count, const ps_options *options) {
  static const ps_options none = {0};
  if (!options) options = &none;
  const ps_pass *pass;
  if (options->dump_after && strcmp(options->dump_after, "all") != 0) DP_TRY(ps_find(options->dump_after, &pass));
  if (!names) {
    for (size_t i = 0; i < DP_COUNT(passes); i++) DP_TRY(run_pass(&passes[i], module, options));
    return DP_SUCCESS;
  }
  for (int i = 0; i < count; i++) DP_TRY(ps_find(names[i], &pass)); /* a slip is found before anything is changed */
  for (int i = 0; i < count; i++) {
    DP_TRY(ps_find(names[i], &pass));
    DP_TRY(run_pass(pass, module, options));
  }
  return DP_SUCCESS;
}
