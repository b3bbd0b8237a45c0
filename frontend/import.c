/* frontend/import.c: reads the files that a text imports, each once, however many ways lead to it; a file that would
 * import itself is an error that shows the way round. Their top-level functions, models, plans and recipes
 * are joined to the text's own. */
#include "frontend/sema.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

typedef struct imported {
  const char *path;          /* resolved, or as given when the system knows no such file */
  const struct imported *by; /* the file that is being read and imports it; NULL for the text itself */
  dp_loc loc;                /* of that import */
  bool done;
} imported;

typedef struct importer {
  fe_compiler *c;
  imported *files[FE_MOST_FILES];
  int count;
} importer;

static const char *resolved(dp_arena *arena, const char *path) {
  char *real = realpath(path, NULL);
  const char *copy = dp_arena_strdup(arena, real ? real : path);
  free(real);
  return copy;
}

const char *fe_beside(dp_arena *arena, const char *importing, const char *path) {
  const char *slash = strrchr(importing, '/');
  if (*path == '/' || !slash) return path;
  return dp_arena_printf(arena, "%.*s%s", (int)(slash - importing + 1), importing, path);
}

static void report_cycle(fe_compiler *c, const imported *file, const imported *current, ast_name import) {
  fe_error(c, import.loc, "import cycle: \"%s\" is being imported already", import.text);
  for (const imported *at = current; at != file; at = at->by) fe_note(c, at->loc, "which is imported here");
}

static void read_imports(importer *im, const imported *current, uint32_t file, const ast_file *tree);

static void read_import(importer *im, const imported *current, const char *importing, ast_name import) {
  fe_compiler *c = im->c;
  const char *path = fe_beside(c->arena, importing, import.text), *real = resolved(c->arena, path);
  for (int i = 0; i < im->count; i++) {
    if (strcmp(im->files[i]->path, real) != 0) continue;
    if (!im->files[i]->done) report_cycle(c, im->files[i], current, import);
    return;
  }
  if (im->count == FE_MOST_FILES) {
    fe_error(c, import.loc, "more than %d files are imported", FE_MOST_FILES);
    return;
  }
  imported *entry = im->files[im->count++] = DP_NEW(c->arena, imported);
  *entry = (imported){real, current, import.loc, false};
  char *text;
  size_t length;
  dp_status status = dp_read_file(path, &text, &length);
  if (status.code != DP_OK) {
    fe_error(c, import.loc, "cannot import: %s", dp_status_text(&status));
    dp_status_free(&status);
  } else {
    uint32_t file = dp_diags_add_source(c->diags, path, text, length);
    free(text);
    ast_file *tree = fe_parse(file, c->arena, c->diags);
    if (tree) read_imports(im, entry, file, tree);
  }
  entry->done = true;
}

/* Each list behind what was there before: what a text imports comes before what it declares. */
static void collect(fe_compiler *c, const ast_file *tree) {
#define COLLECT(type, list, add)                                                                                       \
  for (type *item = tree->list.first, *next; item; item = next) {                                                      \
    next = item->next;                                                                                                 \
    item->next = NULL;                                                                                                 \
    add(&c->list, item);                                                                                               \
  }
  COLLECT(ast_function, functions, ast_add_function)
  COLLECT(ast_model, models, ast_add_model)
  COLLECT(ast_script, plans, ast_add_script)
  COLLECT(ast_script, recipes, ast_add_script)
#undef COLLECT
}

static void read_imports(importer *im, const imported *current, uint32_t file, const ast_file *tree) {
  fe_compiler *c = im->c;
  for (int i = 0; i < tree->imports.count && !c->stopped; i++)
    read_import(im, current, c->diags->sources[file].path, tree->imports.items[i]);
  collect(c, tree);
}

void fe_import(fe_compiler *c, uint32_t file, ast_file *tree) {
  importer im = {.c = c};
  imported *self = im.files[im.count++] = DP_NEW(c->arena, imported);
  self->path = resolved(c->arena, c->diags->sources[file].path);
  read_imports(&im, self, file, tree);
}
