/* frontend/frontend.h: the language: text of a model to a graph IR module. Face of the folder.
 * Reentrant, no globals: two threads may compile at once, each with its own diagnostics. docs/language.md is the
 * reference. */
#ifndef DIPPER_FRONTEND_H
#define DIPPER_FRONTEND_H

#include "ir/ir.h"

/* Where `from "key", ...` of dims and consts finds its values: a weights file's metadata. Returns whether `key` is
 * there and is a number. "{arch}" in a key has NOT been replaced: the callee does. */
typedef bool fe_metadata(void *user, const char *key, double *value);

typedef struct fe_options {
  const char *const *sets; /* "layers=2": beats metadata and the text; an unknown name or a bad value is an error */
  int set_count;
  fe_metadata *metadata; /* or NULL */
  void *metadata_user;
  const char *model; /* which model of the file; NULL: the only one, or the last */
} fe_options;

/* Reports every mistake it finds into `diags` and returns NULL when there was one; else a verified module, owned by the
 * caller. `path` is for messages and for resolving `import` relative to it. */
ir_module *fe_compile(const char *path, const char *text, size_t length, const fe_options *options, dp_diags *diags);

#endif
