/* tests/test_llvm.c: the LLVM back end as a compiler: code for machines that are not this one, self-contained, the same
 * bytes each time, rolled over the layers. */
#include "base/base.h"
#include "dipper/dipper.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LLAMA DIPPER_SOURCE_DIR "/models/llama.dip"

static dp_text text_of(dp_dump what, const char *triple, const char *cpu, const char *layers) {
  dp_options options = {.path = LLAMA, .triple = triple, .cpu = cpu, .sets = &layers, .set_count = layers ? 1 : 0};
  dp_text text = {0};
  dp_status status = dp_dump_text(&options, what, NULL, &text);
  ck_assert_msg(status.code == DP_OK, "%s %s: %s", triple, cpu, dp_status_text(&status));
  return text;
}

/* Every call and branch-and-link goes to a function of the module itself: no math library, no compiler runtime. */
static void check_self_contained(const char *assembly, const char *mnemonic, const char *what) {
  int calls = 0;
  for (const char *at = assembly; (at = strstr(at, mnemonic)); at++) {
    if (at > assembly && at[-1] != '\t' && at[-1] != ' ') continue; /* not a mnemonic: ".globl" */
    at += strlen(mnemonic);
    calls++;
    bool own = strncmp(at, "product.", 8) == 0 || strncmp(at, "embed.", 6) == 0 ||
               strncmp(at, "memset", 6) == 0 || strncmp(at, "memcpy", 6) == 0 || strncmp(at, "memmove", 7) == 0; /* libc's, from loops that fill and copy */
    if (!own) ck_abort_msg("%s: calls %.40s", what, at);
  }
  ck_assert_msg(calls > 0, "%s: no calls found: is the mnemonic right?", what);
}

START_TEST(code_calls_no_library_for_its_arithmetic) {
  static const char *const cpus[] = {"x86-64", "x86-64-v2", "x86-64-v3", "x86-64-v4", "znver4", "znver5"};
  for (size_t i = 0; i < DP_COUNT(cpus); i++) {
    dp_text text = text_of(DP_DUMP_ASM, "x86_64-pc-linux-gnu", cpus[i], NULL);
    check_self_contained(text.text, "callq\t", cpus[i]);
    dp_text_free(&text);
  }
  dp_text text = text_of(DP_DUMP_ASM, "aarch64-unknown-linux-gnu", NULL, NULL);
  check_self_contained(text.text, "bl\t", "aarch64");
  ck_assert_msg(strstr(text.text, "fmla\tv") != NULL, "AArch64 code has no vector multiply-add");
  dp_text_free(&text);
}
END_TEST

START_TEST(vectors_are_as_wide_as_the_machine_s) {
  static const struct {
    const char *cpu, *has, *has_not;
  } rows[] = {{"x86-64", "%xmm", "%ymm"}, {"x86-64-v3", "%ymm", "%zmm"}, {"x86-64-v4", "%zmm", NULL}};
  for (size_t i = 0; i < DP_COUNT(rows); i++) {
    dp_text text = text_of(DP_DUMP_ASM, "x86_64-pc-linux-gnu", rows[i].cpu, NULL);
    ck_assert_msg(strstr(text.text, rows[i].has) != NULL, "%s: no %s", rows[i].cpu, rows[i].has);
    if (rows[i].has_not) ck_assert_msg(strstr(text.text, rows[i].has_not) == NULL, "%s: %s", rows[i].cpu, rows[i].has_not);
    dp_text_free(&text);
  }
}
END_TEST

START_TEST(code_does_not_grow_with_the_layers) {
  dp_text few = text_of(DP_DUMP_ASM, NULL, NULL, "layers=2"), many = text_of(DP_DUMP_ASM, NULL, NULL, "layers=60");
  ck_assert_msg(many.length < few.length + few.length / 50, "2 layers: %zu bytes of assembly, 60: %zu", few.length, many.length);
  dp_text_free(&few);
  dp_text_free(&many);
}
END_TEST

START_TEST(the_same_model_gives_the_same_object) {
  dp_text objects[2];
  for (int i = 0; i < 2; i++) {
    dp_options options = {.path = LLAMA};
    dp_status status = dp_compile_object(&options, &objects[i]);
    ck_assert_msg(status.code == DP_OK, "%s", dp_status_text(&status));
  }
  ck_assert_uint_eq(objects[0].length, objects[1].length);
  ck_assert_mem_eq(objects[0].text, objects[1].text, objects[0].length);
  ck_assert_mem_eq(objects[0].text, "\177ELF", 4);
  dp_text_free(&objects[0]);
  dp_text_free(&objects[1]);
}
END_TEST

START_TEST(llvm_ir_names_the_ops_it_came_from) {
  dp_text text = text_of(DP_DUMP_LLVM, NULL, NULL, NULL);
  ck_assert(strstr(text.text, "define void @kind_0") != NULL);
  ck_assert(strstr(text.text, "attend") != NULL);
  ck_assert(strstr(text.text, "rms_norm") != NULL);
  dp_text_free(&text);
}
END_TEST

START_TEST(an_unknown_target_is_refused) {
  dp_options options = {.path = LLAMA, .triple = "vax-dec-ultrix"};
  dp_text text;
  dp_status status = dp_dump_text(&options, DP_DUMP_ASM, NULL, &text);
  ck_assert_int_eq(status.code, DP_UNSUPPORTED);
  ck_assert(strstr(status.message, "vax") != NULL);
  dp_status_free(&status);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("llvm");
  TCase *tests = tcase_create("compiler");
  tcase_set_timeout(tests, 300);
  tcase_add_test(tests, code_calls_no_library_for_its_arithmetic);
  tcase_add_test(tests, vectors_are_as_wide_as_the_machine_s);
  tcase_add_test(tests, code_does_not_grow_with_the_layers);
  tcase_add_test(tests, the_same_model_gives_the_same_object);
  tcase_add_test(tests, llvm_ir_names_the_ops_it_came_from);
  tcase_add_test(tests, an_unknown_target_is_refused);
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed != 0;
}
