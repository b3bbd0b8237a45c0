/* frontend/frontend.h: the language: text of a model to a graph IR module, a plan and a recipe. Face of
 * the folder.
 * Reentrant, no globals: two threads may compile at once, each with its own diagnostics. docs/language.md is the
 * reference. */
#ifndef DIPPER_FRONTEND_H
#define DIPPER_FRONTEND_H

#include "dipper/embed.h"
#include "ir/ir.h"

/* Where `from "key", ...` of dims and consts finds its values: a weights file's metadata. Returns whether `key` is
 * there and is a number. "{arch}" in a key has NOT been replaced: the callee does. */
typedef bool fe_metadata(void *user, const char *key, double *value);

typedef struct fe_options {
  const char *const *sets; /* "layers=2": beats metadata and the text; an unknown name or a bad value is an error */
  int set_count;
  fe_metadata *metadata; /* or NULL */
  void *metadata_user;
  /* Which to take; NULL: a recipe that is named says which model, or a plan; else what the text has last (docs/language.md
   * says in which order). A plan or recipe that is for another model is only an error when it is named. */
  const char *model, *plan, *recipe;
  const dp_op *(*host_op)(void *user, int index); /* the host's ops; NULL behind the last; may be NULL */
  void *host_user;
} fe_options;

/* Does the name mean something in the language already? */
bool fe_is_taken(const char *name);

/* Reports every mistake it finds into `diags` and returns NULL when there was one; else a verified module, owned by the
 * caller. `path` is for messages and for resolving `import` relative to it. */
ir_module *fe_compile(const char *path, const char *text, size_t length, const fe_options *options, dp_diags *diags);

/* Plan and recipe live in the module's arena. */
typedef struct fe_program {
  ir_module *module;
  ir_plan *plan;     /* of defaults when the text has none for the model */
  ir_recipe *recipe; /* NULL when the text has none for the model */
} fe_program;

/* The same, with the plan and recipe that go with the model; all are NULL after a mistake, which false tells. */
bool fe_compile_program(const char *path, const char *text, size_t length, const fe_options *options, dp_diags *diags,
                        fe_program *program);

#endif
