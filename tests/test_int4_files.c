/* tests/test_int4_files.c: matrices as GPTQ and AWQ wrote them: every element is what those tools' own code reads
 * (golden int4/, made by make_int4.py), wherever the model wants it; what cannot be read is told. */
#include "tests/weights_fixture.h"

enum { N = 32, K = 96, GROUPS = 3 };

static rt_weights_file *open_golden(const char *name) {
  char path[512];
  rt_weights_file *file;
  snprintf(path, sizeof path, "%s/golden/int4/%s", DIPPER_TEST_DIR, name);
  dp_status status = rt_weights_open(path, &file);
  ck_assert_msg(status.code == DP_OK, "%s", dp_status_text(&status));
  return file;
}

/* "x" as it is, its rows 8..15 and 24..31 (a window), each of its quarters (a stack), and its transpose's use. */
static ir_module *model_of_x(void) {
  ir_module *module = ir_module_new("x");
  static const char *const x[] = {"x.weight"}, *const expected[] = {"expected"};
  add_weight(module, "whole", false, 2, (int64_t[]){N, K}, x, 1, 0);
  add_weight(module, "window", false, 2, (int64_t[]){16, K}, x, 1, 0);
  module->weights[1].sources[0].run = 8, module->weights[1].sources[0].step = 16,
  module->weights[1].sources[0].first = 8;
  add_weight(module, "stack", true, 3, (int64_t[]){4, 8, K}, x, 1, 2);
  add_weight(module, "expected", false, 2, (int64_t[]){N, K}, expected, 1, 0);
  return module;
}

/* The row of "expected" that row r of matrix `index` of weight w is. */
static int expected_row(int w, int index, int r) {
  return w == 0 ? r : w == 1 ? 8 + r / 8 * 16 + r % 8 : index * 8 + (int)rt_paired_row(r, 4);
}

static void check_packed_rows(const rt_bound *bound, const float *expected, int w, int index) {
  uint8_t *packed = malloc((size_t)rt_packed_size(bound->dtype, bound->rows, K)), row[K * 4];
  float values[K];
  ck_assert_int_eq(rt_pack_bound(bound, false, packed, 0, rt_packed_blocks(bound->rows)).code, DP_OK);
  for (int r = 0; r < bound->rows; r++) {
    rt_unpack_row(bound->dtype, bound->rows, K, packed, r, row);
    rt_dequantize_row(bound->dtype, row, values, K);
    for (int c = 0; c < K; c++)
      ck_assert_msg(values[c] == expected[expected_row(w, index, r) * K + c], "(%d, %d), packed", r, c);
  }
  free(packed);
}

static void check_golden(const char *name, bool in_blocks) {
  ir_dtype dtype = IR_f32;
  if (in_blocks) ir_dtype_parse("int4", &dtype);
  ir_module *module = model_of_x();
  rt_weights_file *file = open_golden(name);
  rt_binding *binding;
  dp_status status = rt_bind_weights(module, file, RT_BIND_STRICT, &binding); /* all four tensors are used */
  ck_assert_msg(status.code == DP_OK, "%s", dp_status_text(&status));
  float expected[N * K], row[K];
  rt_bound_to_f32(rt_binding_get(binding, 3, 0), expected);
  for (int w = 0; w < 3; w++)
    for (int index = 0; index < rt_binding_layers(binding, w); index++) {
      const rt_bound *bound = rt_binding_get(binding, w, index);
      ck_assert_msg(bound->dtype == dtype, "%s is %s", name, ir_dtype_name(bound->dtype));
      ck_assert(!bound->plain && !bound->tensor && !rt_bound_row_data(bound, 0));
      for (int r = 0; r < bound->rows; r++) {
        const float *want = expected + expected_row(w, index, r) * K;
        rt_bound_row(bound, r, row);
        for (int c = 0; c < K; c++)
          ck_assert_msg(row[c] == want[c], "%s: (%d, %d) of '%s' is %a, not %a", name, r, c, module->weights[w].name,
                        row[c], want[c]);
      }
      check_packed_rows(bound, expected, w, index);
      rt_bound_forget(bound, 0, bound->rows);
    }
  ck_assert(!rt_bound_same(rt_binding_get(binding, 2, 0), rt_binding_get(binding, 2, 1)));
  if (dtype == IR_f32) { /* its transpose */
    const rt_bound *bound = rt_binding_get(binding, 0, 0);
    float *packed = malloc((size_t)rt_packed_size(IR_f32, K, N));
    ck_assert_int_eq(rt_pack_bound(bound, true, packed, 0, rt_packed_blocks(K)).code, DP_OK);
    for (int r = 0; r < K; r++) {
      rt_unpack_row(IR_f32, K, N, packed, r, row);
      for (int c = 0; c < N; c++) ck_assert_float_eq(row[c], expected[c * K + r]);
    }
    free(packed);
  }
  ck_assert_uint_eq(module->weights[0].storage, 1u << dtype);
  rt_binding_free(binding);
  rt_weights_close(file);
  ir_module_free(module);
}

START_TEST(gptq_is_read_as_auto_gptq_reads_it) { check_golden("gptq", true); }
END_TEST
START_TEST(awq_is_read_as_autoawq_reads_it) { check_golden("awq", true); }
END_TEST
START_TEST(act_order_is_read_though_blocks_have_several_scales) { check_golden("act_order", false); }
END_TEST

START_TEST(what_was_quantized_is_saved_as_numbers) {
  ir_module *module = model_of_x();
  module->weight_count = 1;
  rt_weights_file *file = open_golden("gptq"), *saved;
  rt_binding *binding, *again;
  char path[128];
  ck_assert_int_eq(rt_bind_weights(module, file, 0, &binding).code, DP_OK);
  ck_assert_int_eq(rt_save_weights(path_of("model.safetensors", path), module, binding, IR_f32).code, DP_OK);
  ck_assert_int_eq(rt_weights_open(path, &saved).code, DP_OK);
  ck_assert_int_eq(rt_bind_weights(module, saved, RT_BIND_STRICT, &again).code, DP_OK);
  float a[N * K], b[N * K];
  rt_bound_to_f32(rt_binding_get(binding, 0, 0), a);
  rt_bound_to_f32(rt_binding_get(again, 0, 0), b);
  ck_assert_mem_eq(a, b, sizeof a);
  rt_binding_free(again);
  rt_weights_close(saved);
  rt_binding_free(binding);
  rt_weights_close(file);
  ir_module_free(module);
}
END_TEST

/* ---- files made here --------------------------------------------------------------------------------------------- */

/* Four tensors of the shapes given; bytes are those of a counter. */
static dp_str quantized_file(const int64_t (*shapes)[2], const char *scale_type, int64_t group_index_rows, int group) {
  static const char *const names[] = {"qweight", "qzeros", "scales"};
  dp_str header = {0}, s = {0};
  size_t at = 0, scale_bytes = strcmp(scale_type, "F32") == 0 ? 4 : 2;
  for (int i = 0; i < 3; i++) {
    size_t end = at + (size_t)(shapes[i][0] * shapes[i][1]) * (i < 2 ? 4 : scale_bytes);
    dp_str_addf(&header, "%s\"x.%s\":{\"dtype\":\"%s\",\"shape\":[%d,%d],\"data_offsets\":[%zu,%zu]}", i ? "," : "{",
                names[i], i < 2 ? "I32" : scale_type, (int)shapes[i][0], (int)shapes[i][1], at, end);
    at = end;
  }
  if (group_index_rows)
    dp_str_addf(&header, ",\"x.g_idx\":{\"dtype\":\"I32\",\"shape\":[%d],\"data_offsets\":[%zu,%zu]}",
                (int)group_index_rows, at, at + (size_t)group_index_rows * 4);
  dp_str_addc(&header, '}');
  s = make_safetensors(header.text, at);
  for (int64_t i = 0; i < group_index_rows; i++) put_u32(&s, (uint32_t)(group < 0 ? group : (int)(i / 32) + group));
  dp_str_free(&header);
  return s;
}

static const int64_t gptq_shapes[3][2] = {{K / 8, N}, {GROUPS, N / 8}, {GROUPS, N}};

static void check_quantized_refused(dp_str s, const char *config, const char *parts) {
  char path[128];
  rt_weights_file *file;
  rt_binding *binding;
  ir_module *module = model_of_x();
  module->weight_count = 1;
  write_file("model.safetensors", s.text, s.length);
  write_file("config.json", config, strlen(config));
  dp_status status = rt_weights_open(path_of("model.safetensors", path), &file);
  ck_assert_msg(status.code == DP_OK, "%s", dp_status_text(&status));
  check_message(rt_bind_weights(module, file, 0, &binding), DP_INVALID, parts);
  rt_weights_close(file);
  ir_module_free(module);
  dp_str_free(&s);
}

#define GPTQ(rest) "{\"quantization_config\":{\"quant_method\":\"gptq\"," rest "}}"
#define AWQ(rest) "{\"quantization_config\":{\"quant_method\":\"awq\"," rest "}}"
static const char fine[] = GPTQ("\"bits\":4,\"group_size\":32");

START_TEST(quantized_tensors_that_cannot_be_read_are_told) {
  static const struct {
    const char *config, *parts;
  } configs[] = {
      {"{}", "whole: tensor 'x.weight' is quantized, but config.json has no quantization_config.quant_method"},
      {"{\"quantization_config\":{\"quant_method\":\"hqq\"}}", "by 'hqq', dipper reads gptq and awq"},
      {GPTQ("\"bits\":3,\"group_size\":32"), "to 3 bits"},
      {GPTQ("\"bits\":4,\"group_size\":0"), "groups of 0"},
      {GPTQ("\"bits\":4,\"group_size\":0.5"), "groups of 0.5"},
      {GPTQ("\"bits\":4,\"group_size\":1e300"), "groups of 1e+300"},
      {GPTQ("\"bits\":4,\"group_size\":16"), "[32, 96] in groups of 16|multiples of 32"},
      {GPTQ("\"bits\":4,\"group_size\":64"), "needs qzeros i32[2, 4] and scales f16[2, 32]"},
      {GPTQ("\"bits\":4"), "needs qzeros i32[1, 4]"},
      {AWQ("\"bits\":4,\"group_size\":32,\"version\":\"gemv\""), "AWQ's 'gemv'"},
      {AWQ("\"bits\":4,\"group_size\":32"), "[256, 12]"},
  };
  for (size_t i = 0; i < DP_COUNT(configs); i++)
    check_quantized_refused(quantized_file(gptq_shapes, "F16", 0, 0), configs[i].config, configs[i].parts);
  static const struct {
    int64_t shapes[3][2];
    const char *parts;
  } shapes[] = {{{{K / 8, N}, {GROUPS, N / 8}, {GROUPS, N + 1}}, "needs qzeros"},
                {{{K / 8, N}, {GROUPS + 1, N / 8}, {GROUPS, N}}, "needs qzeros"},
                {{{K / 8, N - 1}, {GROUPS, N / 8}, {GROUPS, N}}, "[31, 96]"},
                {{{K / 8 - 1, N}, {GROUPS, N / 8}, {GROUPS, N}}, "[32, 88]"},
                {{{0, N}, {GROUPS, N / 8}, {GROUPS, N}}, "a qweight that is no i32 matrix"},
                {{{K / 4, N}, {2 * GROUPS, N / 8}, {2 * GROUPS, N}}, "has shape [32, 192], the model wants [32, 96]"}};
  for (size_t i = 0; i < DP_COUNT(shapes); i++)
    check_quantized_refused(quantized_file(shapes[i].shapes, "F16", 0, 0), fine, shapes[i].parts);
  check_quantized_refused(quantized_file(gptq_shapes, "F16", K - 1, 0), fine, "a g_idx that is not i32[96]");
  check_quantized_refused(quantized_file(gptq_shapes, "F16", K, 1), fine, "a g_idx of 3 at 64, there are 3 groups");
  check_quantized_refused(quantized_file(gptq_shapes, "F16", K, -1), fine, "a g_idx of 4294967295 at 0");
  check_quantized_refused(quantized_file(gptq_shapes, "I16", 0, 0), fine, "needs qzeros");
}
END_TEST

static uint32_t word_at(const rt_tensor *tensor, int64_t at) {
  uint32_t word;
  memcpy(&word, tensor->data + 4 * at, sizeof word);
  return word;
}

/* By the formula at the head of int4_files.c: zero points of either version, scales that are no f16, a group of all. */
START_TEST(versions_and_scale_types_follow_the_formula) {
  static const struct {
    const char *config, *scale_type;
    int add, group;
    bool old_config;
  } cases[] = {{GPTQ("\"bits\":4,\"group_size\":32"), "F16", 1, 32, false},
               {GPTQ("\"bits\":4,\"group_size\":32,\"checkpoint_format\":\"gptq_v2\""), "F16", 0, 32, false},
               {GPTQ("\"bits\":4,\"group_size\":32"), "BF16", 1, 32, false},
               {GPTQ("\"bits\":4,\"group_size\":32"), "F32", 1, 32, false},
               {GPTQ("\"bits\":4,\"group_size\":-1"), "F16", 1, K, false},
               {"{\"bits\":4,\"group_size\":32}", "F16", 1, 32, true}};
  for (size_t i = 0; i < DP_COUNT(cases); i++) {
    int64_t groups = K / cases[i].group, shapes[3][2] = {{K / 8, N}, {groups, N / 8}, {groups, N}};
    dp_str s = quantized_file(shapes, cases[i].scale_type, 0, 0);
    char path[128];
    rt_weights_file *file;
    rt_binding *binding;
    ir_module *module = model_of_x();
    module->weight_count = 1;
    write_file("model.safetensors", s.text, s.length);
    write_file("config.json", "{}", 2);
    write_file(cases[i].old_config ? "quantize_config.json" : "config.json", cases[i].config, strlen(cases[i].config));
    dp_status status = rt_weights_open(path_of("model.safetensors", path), &file);
    if (status.code == DP_OK) status = rt_bind_weights(module, file, RT_BIND_STRICT, &binding);
    ck_assert_msg(status.code == DP_OK, "%s", dp_status_text(&status));
    const rt_tensor *words = rt_weights_find(file, "x.qweight"), *zeros = rt_weights_find(file, "x.qzeros");
    const rt_tensor *scales = rt_weights_find(file, "x.scales");
    for (int r = 0; r < N; r++) {
      float row[K], scale;
      rt_bound_row(rt_binding_get(binding, 0, 0), r, row);
      for (int c = 0; c < K; c++) {
        int64_t group = c / cases[i].group;
        int q = word_at(words, c / 8 * N + r) >> 4 * (c % 8) & 15;
        int z = (int)(word_at(zeros, group * (N / 8) + r / 8) >> 4 * (r % 8) & 15) + cases[i].add;
        rt_dequantize_row(scales->dtype, scales->data + (group * N + r) * ir_dtype_block_bytes(scales->dtype), &scale,
                          1);
        float want = scale * (float)(q - z);
        ck_assert_msg(memcmp(&row[c], &want, 4) == 0 || (row[c] != row[c] && want != want),
                      "case %d: (%d, %d) is %a, not %a", (int)i, r, c, row[c], want);
      }
    }
    rt_binding_free(binding);
    rt_weights_close(file);
    ir_module_free(module);
    dp_str_free(&s);
  }
}
END_TEST

int main(void) {
  Suite *suite = suite_create("int4_files");
  TCase *tests = tcase_create("int4_files");
  tcase_add_checked_fixture(tests, make_folder, remove_folder);
  tcase_add_test(tests, gptq_is_read_as_auto_gptq_reads_it);
  tcase_add_test(tests, awq_is_read_as_autoawq_reads_it);
  tcase_add_test(tests, act_order_is_read_though_blocks_have_several_scales);
  tcase_add_test(tests, what_was_quantized_is_saved_as_numbers);
  tcase_add_test(tests, quantized_tensors_that_cannot_be_read_are_told);
  tcase_add_test(tests, versions_and_scale_types_follow_the_formula);
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed ? 1 : 0;
}
