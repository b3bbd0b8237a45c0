/* frontend/parse.c: a source text to its tree: sets up the scanner and the parser, both in the tree's arena. */
#include "frontend/ast.h"
#include "frontend/parser.h"

#include "frontend/lexer.h"

#include <locale.h>
#include <stdlib.h>

enum { MOST_BYTES = 1 << 20 };

double fe_read_float(const char *text, char **end) {
  locale_t c_locale = newlocale(LC_ALL_MASK, "C", NULL);
  double value = c_locale ? strtod_l(text, end, c_locale) : strtod(text, end);
  if (c_locale) freelocale(c_locale);
  return value;
}

ast_file *fe_parse(uint32_t file, dp_arena *arena, dp_diags *diags) {
  const dp_source *source = &diags->sources[file];
  if (source->length > MOST_BYTES) {
    dp_error(diags, (dp_loc){file, 0, 0}, "a text of %zu bytes: a model has at most %d", source->length, MOST_BYTES);
    return NULL;
  }
  fe_parser parser = {.arena = arena, .diags = diags, .text = source->text, .length = source->length, .file = file,
                      .errors = diags->errors};
  yyscan_t scanner;
  if (dip_lex_init_extra(&parser, &scanner)) {
    dp_error(diags, (dp_loc){file, 0, 0}, "out of memory");
    return NULL;
  }
  dip__scan_bytes(parser.text, (int)parser.length, scanner);
  if (dip_parse(&parser, scanner) == 2 && diags->errors == parser.errors)
    dp_error(diags, (dp_loc){file, 0, 0}, "out of memory");
  dip_lex_destroy(scanner);
  return diags->errors == parser.errors ? parser.result : NULL;
}
