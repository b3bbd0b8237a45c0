/* tests/test_docs.c: docs/ops.md is made of the tables; run with DIPPER_UPDATE=1 to write it anew. */
#include "base/base.h"
#include "ir/ir.h"
#include "passes/passes.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OPS DIPPER_SOURCE_DIR "/docs/ops.md"

/* A table's cell: a bar would end it. */
static void cell(dp_str *out, const char *text) {
  dp_str_add(out, " ");
  for (; *text; text++) {
    if (*text == '|') dp_str_addc(out, '\\');
    dp_str_addc(out, *text);
  }
  dp_str_add(out, " |");
}

static void graph_ops(dp_str *out) {
  dp_str_add(out, "## Graph ops\n\n| op | operands | attributes | what it computes |\n|---|---|---|---|\n");
  for (int i = 0; i < IR_OP_COUNT; i++) {
    const ir_op_info *info = ir_op_info_of((ir_opcode)i);
    dp_str_add(out, "|");
    cell(out, info->name);
    cell(out, info->operands);
    cell(out, info->attrs);
    cell(out, info->doc);
    dp_str_add(out, "\n");
  }
}

static void tile_ops(dp_str *out) {
  static const struct {
    const char *name, *doc;
  } rows[] = {
#define TILE_OP(name, operands, doc) {#name, doc},
#include "ir/tile_ops.def"
#undef TILE_OP
  }, scalars[] = {
#define SCALAR(name, arguments, doc) {#name, doc},
#include "ir/scalar.def"
#undef SCALAR
  };
  dp_str_add(out, "\n## Tile ops\n\n| op | what it does |\n|---|---|\n");
  for (size_t i = 0; i < DP_COUNT(rows); i++) {
    dp_str_add(out, "|");
    cell(out, rows[i].name);
    cell(out, rows[i].doc);
    dp_str_add(out, "\n");
  }
  dp_str_add(out, "\n## Scalar functions\n\n| function | value |\n|---|---|\n");
  for (size_t i = 0; i < DP_COUNT(scalars); i++) {
    dp_str_add(out, "|");
    cell(out, scalars[i].name);
    cell(out, scalars[i].doc);
    dp_str_add(out, "\n");
  }
}

static void passes(dp_str *out) {
  int count;
  const ps_pass *list = ps_passes(&count);
  dp_str_add(out, "\n## Passes, in order\n\n| pass | what it does |\n|---|---|\n");
  for (int i = 0; i < count; i++) {
    dp_str_add(out, "|");
    cell(out, list[i].name);
    cell(out, list[i].doc);
    dp_str_add(out, "\n");
  }
}

START_TEST(the_op_reference_is_that_of_the_tables) {
  dp_str text = {0};
  dp_str_add(&text, "# Ops\n\nMade of `ir/ops.def`, `ir/tile_ops.def`, `ir/scalar.def` and `passes/passes.def` by `tests/test_docs.c`.\n\n");
  graph_ops(&text);
  tile_ops(&text);
  passes(&text);
  ck_assert(!text.failed);
  if (getenv("DIPPER_UPDATE")) {
    dp_status written = dp_write_file_atomic(OPS, text.text, text.length);
    ck_assert_msg(written.code == DP_OK, "%s", dp_status_text(&written));
  }
  char *file;
  size_t length;
  dp_status status = dp_read_file(OPS, &file, &length);
  ck_assert_msg(status.code == DP_OK, "%s", dp_status_text(&status));
  ck_assert_msg(strcmp(file, text.text) == 0, "docs/ops.md is not what the tables say: run DIPPER_UPDATE=1 ctest -R docs");
  free(file);
  dp_str_free(&text);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("docs");
  TCase *tests = tcase_create("reference");
  tcase_add_test(tests, the_op_reference_is_that_of_the_tables);
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed != 0;
}
