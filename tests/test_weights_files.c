/* tests/test_weights_files.c: directories, indexes and numbered files: what belongs together is opened together, what
 * is missing or leads elsewhere is told; the JSON files beside the weights become metadata. */
#include "tests/weights_fixture.h"

#include <sys/stat.h>

/* A safetensors file of one f32[4] tensor; `value` is its first element. */
static void write_shard(const char *file, const char *tensor, float value) {
  char header[256], path[128];
  snprintf(header, sizeof header,
           "{\"__metadata__\":{\"format\":\"pt\"},\"%s\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]}}",
           tensor);
  dp_str s = make_safetensors(header, 16);
  memcpy(s.text + s.length - 16, &value, sizeof value);
  write_file(file, s.text, s.length);
  dp_str_free(&s);
  ck_assert_int_eq(access(path_of(file, path), R_OK), 0);
}

static void write_text(const char *file, const char *text) { write_file(file, text, strlen(text)); }

/* `name` in the folder; NULL: the folder itself. */
static rt_weights_file *open_path(const char *name) {
  char path[128];
  rt_weights_file *file;
  dp_status status = rt_weights_open(name ? path_of(name, path) : folder, &file);
  ck_assert_msg(status.code == DP_OK, "%s", dp_status_text(&status));
  return file;
}

static void check_not_opened(const char *name, dp_code code, const char *parts) {
  char path[128];
  rt_weights_file *file;
  check_message(rt_weights_open(name ? path_of(name, path) : folder, &file), code, parts);
  ck_assert_ptr_null(file);
}

static void check_value(const rt_weights_file *file, const char *tensor, float value, int part) {
  const rt_tensor *t = rt_weights_find(file, tensor);
  ck_assert_msg(t, "no tensor %s", tensor);
  float first;
  memcpy(&first, t->data, sizeof first);
  ck_assert_msg(first == value && t->part == part && t->mapped, "%s: %g in part %d", tensor, first, t->part);
}

static const char two_shards[] = "{\"metadata\":{\"total_size\":32},\"weight_map\":{"
                                 "\"a\":\"model-00001-of-00002.safetensors\","
                                 "\"b\":\"model-00002-of-00002.safetensors\"}}";

START_TEST(an_index_opens_all_files_that_it_names) {
  static const char *const ways[] = {NULL, "model.safetensors.index.json", "model-00001-of-00002.safetensors",
                                     "model-00002-of-00002.safetensors"};
  write_shard("model-00001-of-00002.safetensors", "a", 1);
  write_shard("model-00002-of-00002.safetensors", "b", 2);
  write_text("config.json", "{\"model_type\":\"llama\",\"hidden_size\":4}");
  for (int indexed = 0; indexed < 2; indexed++) {
    if (indexed) write_text("model.safetensors.index.json", two_shards);
    for (size_t i = 0; i < DP_COUNT(ways); i++) {
      if (i == 1 && !indexed) continue;
      rt_weights_file *file = open_path(ways[i]);
      check_value(file, "a", 1, 0);
      check_value(file, "b", 2, 1);
      ck_assert_int_eq(rt_weights_tensor_count(file), 2);
      ck_assert_int_eq(rt_weights_part_count(file), 2);
      ck_assert_ptr_nonnull(strstr(rt_weights_part(file, 1), "/model-00002-of-00002.safetensors"));
      ck_assert_str_eq(rt_weights_string(file, "__metadata__.format"), "pt");
      ck_assert_str_eq(rt_weights_architecture(file), "llama");
      size_t n = strlen(folder);
      ck_assert(strncmp(rt_weights_directory(file), folder, n) == 0 &&
                strcmp(rt_weights_directory(file) + n, "/") == 0);
      dp_str text = {0};
      rt_weights_list(file, false, &text);
      ck_assert_ptr_nonnull(strstr(text.text, "2 tensors, 8 parameters, 32 bytes"));
      dp_str_free(&text);
      rt_weights_close(file);
    }
  }
}
END_TEST

START_TEST(numbered_gguf_files_are_opened_together) {
  for (int i = 0; i < 2; i++) {
    dp_str s = {0};
    put_header(&s, 3, 1, i == 0 ? 2 : 1);
    if (i == 0) put_meta_string(&s, "general.architecture", "llama");
    put_meta_u32(&s, "split.no", (uint32_t)i);
    put_tensor(&s, i ? "b" : "a", 1, (int64_t[]){4}, TYPE_F32, 0);
    pad(&s, 32);
    float values[4] = {(float)(i + 1)};
    put(&s, values, sizeof values);
    write_file(i ? "m-00002-of-00002.gguf" : "m-00001-of-00002.gguf", s.text, s.length);
    dp_str_free(&s);
  }
  for (int i = 0; i < 2; i++) {
    rt_weights_file *file = open_path(i ? "m-00002-of-00002.gguf" : NULL);
    check_value(file, "a", 1, 0);
    check_value(file, "b", 2, 1);
    ck_assert_str_eq(rt_weights_architecture(file), "llama");
    ck_assert_int_eq(rt_weights_find_meta(file, "split.no")->integer, 0);
    rt_weights_close(file);
  }
}
END_TEST

START_TEST(a_directory_is_opened_by_what_it_holds) {
  char path[128], command[256];
  check_not_opened(NULL, DP_INVALID, "holds no weights");
  write_text("pytorch_model.bin", "x");
  check_not_opened(NULL, DP_INVALID, "holds no weights|PyTorch checkpoint");
  dp_str s = {0};
  put_header(&s, 3, 0, 0);
  write_file("x.gguf", s.text, s.length);
  dp_str_free(&s);
  rt_weights_file *file = open_path(NULL);
  ck_assert_int_eq(rt_weights_format_of(file), RT_GGUF);
  rt_weights_close(file);
  write_shard("other.safetensors", "o", 3);
  file = open_path(NULL);
  check_value(file, "o", 3, 0);
  rt_weights_close(file);
  write_shard("another.safetensors", "o", 4);
  check_not_opened(NULL, DP_INVALID, "several weights files|'another.safetensors', 'other.safetensors'|name the one");
  write_shard("model.safetensors", "m", 5);
  file = open_path(NULL);
  check_value(file, "m", 5, 0);
  ck_assert_str_eq(rt_weights_path(file), folder);
  rt_weights_close(file);
  snprintf(command, sizeof command, "mkdir '%s'", path_of("empty", path));
  ck_assert_int_eq(system(command), 0);
  check_not_opened("empty", DP_INVALID, "holds no weights");
  check_not_opened("none", DP_NOT_FOUND, "none");
}
END_TEST

START_TEST(what_an_index_gets_wrong_is_named) {
  static const struct {
    const char *index;
    dp_code code;
    const char *parts;
  } cases[] = {
      {"{\"weight_map\":{\"a\":\"model-00001-of-00003.safetensors\",\"z\":\"model-00003-of-00003.safetensors\"}}",
       DP_NOT_FOUND, "index.json|model-00003-of-00003.safetensors|not there"},
      {"{\"weight_map\":{\"a\":\"one.safetensors\",\"c\":\"one.safetensors\"}}", DP_INVALID,
       "the tensor 'c' is in|one.safetensors|does not have it"},
      {"{\"weight_map\":{\"a\":\"two.safetensors\",\"b\":\"one.safetensors\"}}", DP_INVALID,
       "the tensor '|does not have it"},
      {"{\"weight_map\":{\"a\":\"../one.safetensors\"}}", DP_INVALID, "'a' is in no file of this directory"},
      {"{\"weight_map\":{\"a\":\"/etc/passwd\"}}", DP_INVALID, "in no file of this directory"},
      {"{\"weight_map\":{\"a\":\"..\"}}", DP_INVALID, "in no file of this directory"},
      {"{\"weight_map\":{\"a\":\"\"}}", DP_INVALID, "in no file of this directory"},
      {"{\"weight_map\":{\"a\":7}}", DP_INVALID, "in no file of this directory"},
      {"{\"weight_map\":{}}", DP_INVALID, "no weight_map"},
      {"{\"weight_map\":[]}", DP_INVALID, "no weight_map"},
      {"[]", DP_INVALID, "no weight_map"},
      {"{\"weight_map\":", DP_INVALID, "line 1, byte"},
      {"{\"weight_map\":{\"a\":\"one.safetensors\",\"a\":\"two.safetensors\"}}", DP_INVALID, "duplicate"},
      {"{\"weight_map\":{\"a\":\"one.safetensors\",\"b\":\"model.safetensors.index.json\"}}", DP_INVALID,
       "neither GGUF nor safetensors"},
      {"{\"weight_map\":{\"a\":\"one.safetensors\",\"b\":\"folder\"}}", DP_INVALID, "is a directory"},
  };
  char path[128];
  write_shard("one.safetensors", "a", 1);
  write_shard("two.safetensors", "b", 2);
  write_shard("model-00001-of-00003.safetensors", "a", 1);
  ck_assert_int_eq(mkdir(path_of("folder", path), 0700), 0);
  for (size_t i = 0; i < DP_COUNT(cases); i++) {
    write_text("model.safetensors.index.json", cases[i].index);
    check_not_opened(NULL, cases[i].code, cases[i].parts);
    check_not_opened("model.safetensors.index.json", cases[i].code, cases[i].parts);
  }
  /* The same tensor in two files, a file cut short, files of two formats. */
  write_text("model.safetensors.index.json", "{\"weight_map\":{\"a\":\"one.safetensors\",\"c\":\"same.safetensors\"}}");
  write_shard("same.safetensors", "a", 1);
  check_not_opened(NULL, DP_INVALID, "tensor 'a' is there twice");
  dp_str s = make_safetensors("{\"c\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]}}", 12);
  write_file("same.safetensors", s.text, s.length);
  dp_str_free(&s);
  check_not_opened(NULL, DP_INVALID, "same.safetensors|cut short|tensor 'c'");
  s = (dp_str){0};
  put_header(&s, 3, 0, 0);
  write_file("same.safetensors", s.text, s.length);
  dp_str_free(&s);
  check_not_opened(NULL, DP_INVALID, "same.safetensors|another format");
}
END_TEST

START_TEST(a_missing_numbered_file_is_named) {
  write_shard("x-00001-of-00003.safetensors", "a", 1);
  write_shard("x-00003-of-00003.safetensors", "c", 1);
  check_not_opened(NULL, DP_NOT_FOUND, "one of 3 files|x-00002-of-00003.safetensors' is not there");
  check_not_opened("x-00003-of-00003.safetensors", DP_NOT_FOUND, "x-00002-of-00003.safetensors' is not there");
  write_shard("x-00002-of-00003.safetensors", "b", 1);
  rt_weights_file *file = open_path(NULL);
  ck_assert_int_eq(rt_weights_part_count(file), 3);
  rt_weights_close(file);
  write_shard("y-00001-of-00001.safetensors", "a", 1); /* of another model: which one is meant? */
  check_not_opened(NULL, DP_INVALID, "several weights files");
}
END_TEST

/* ---- config.json and its companions ------------------------------------------------------------------------------ */

typedef struct wanted {
  const char *key;
  double number; /* NAN-free: absent is -1 */
} wanted;

static void check_numbers(const char *config, const wanted *numbers, size_t count) {
  write_shard("model.safetensors", "a", 1);
  write_text("config.json", config);
  rt_weights_file *file = open_path(NULL);
  for (size_t i = 0; i < count; i++) {
    double number = -1;
    bool there = rt_weights_number(file, numbers[i].key, &number);
    ck_assert_msg(number == numbers[i].number && there == (numbers[i].number != -1), "%s is %g in %s", numbers[i].key,
                  number, config);
  }
  rt_weights_close(file);
}

START_TEST(numbers_are_found_where_newer_and_older_configs_have_them) {
  static const wanted newer[] = {
      {"rope_theta", 5e5},           {"rope_scaling.factor", 8}, {"rope_scaling.low_freq_factor", 1},
      {"rope_parameters.factor", 8}, {"hidden_size", 64},        {"rope_scaling.mscale", -1}};
  check_numbers(
      "{\"hidden_size\":64,\"rope_parameters\":{\"rope_type\":\"llama3\",\"rope_theta\":500000.0,\"factor\":8.0,"
      "\"low_freq_factor\":1.0}}",
      newer, DP_COUNT(newer));
  static const wanted older[] = {{"rope_theta", 1e4},
                                 {"rope_parameters.rope_theta", 1e4},
                                 {"rope_parameters.factor", 4},
                                 {"rope_scaling.factor", 4}};
  check_numbers("{\"rope_theta\":10000.0,\"rope_scaling\":{\"type\":\"linear\",\"factor\":4.0}}", older,
                DP_COUNT(older));
  static const wanted unscaled[] = {{"rope_theta", 1e4}, {"rope_scaling.factor", -1}, {"rope_parameters.factor", 4}};
  check_numbers("{\"rope_parameters\":{\"rope_type\":\"default\",\"rope_theta\":10000,\"factor\":4.0}}", unscaled,
                DP_COUNT(unscaled));
  static const wanted nested[] = {{"hidden_size", 32},
                                  {"head_dim", 16},
                                  {"num_layers", 3},
                                  {"rope_theta", 1e6},
                                  {"text_config.x", 2},
                                  {"vision_config.hidden_size", 9},
                                  {"x", 2},
                                  {"rope_scaling.factor", 2}};
  check_numbers("{\"model_type\":\"gemma3\",\"num_layers\":3,\"head_dim\":null,\"rope_scaling\":null,"
                "\"vision_config\":{\"hidden_size\":9},"
                "\"text_config\":{\"hidden_size\":32,\"head_dim\":16,\"num_layers\":5,\"x\":2,\"rope_theta\":1e6,"
                "\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":2}}}",
                nested, DP_COUNT(nested));
  static const wanted by_kind[] = {{"rope_theta", 1e6}, {"rope_local_base_freq", 1e4}, {"rope_scaling.factor", 8}};
  check_numbers("{\"rope_parameters\":{\"full_attention\":{\"rope_type\":\"linear\",\"factor\":8.0,\"rope_theta\":1e6},"
                "\"sliding_attention\":{\"rope_type\":\"default\",\"rope_theta\":1e4}}}",
                by_kind, DP_COUNT(by_kind));
  rt_weights_file *file = open_path(NULL);
  ck_assert_str_eq(rt_weights_string(file, "rope_scaling.rope_type"), "linear");
  rt_weights_close(file);
}
END_TEST

static void check_template(const char *wanted) {
  rt_weights_file *file = open_path(NULL);
  const char *chat = rt_weights_string(file, "tokenizer.chat_template");
  ck_assert_msg(wanted ? chat && strcmp(chat, wanted) == 0 : !chat, "%s", chat ? chat : "(none)");
  rt_weights_close(file);
}

START_TEST(the_chat_template_is_found_where_transformers_looks) {
  write_shard("model.safetensors", "a", 1);
  check_template(NULL);
  write_text("chat_template.json", "{\"chat_template\":\"third\"}");
  check_template("third");
  write_text("tokenizer_config.json", "{\"chat_template\":[{\"name\":\"rag\",\"template\":\"no\"},"
                                      "{\"name\":\"default\",\"template\":\"second\"}]}");
  check_template("second");
  write_text("tokenizer_config.json", "{\"chat_template\":\"string\",\"bos_token\":{\"content\":\"<s>\"},"
                                      "\"eos_token\":\"</s>\",\"pad_token\":null,"
                                      "\"model_max_length\":1000000000000000019884624838656}");
  check_template("string");
  write_text("chat_template.jinja", "{{ first }}\n");
  check_template("{{ first }}\n");
  write_text("generation_config.json", "{\"eos_token_id\":[1,2],\"temperature\":0.5}");
  rt_weights_file *file = open_path("model.safetensors");
  ck_assert_str_eq(rt_weights_string(file, "tokenizer_config.bos_token"), "<s>");
  ck_assert_str_eq(rt_weights_string(file, "tokenizer_config.eos_token"), "</s>");
  ck_assert_double_eq(rt_weights_find_meta(file, "tokenizer_config.model_max_length")->number, 1e30);
  ck_assert_int_eq(rt_weights_find_meta(file, "generation_config.eos_token_id")->count, 2);
  ck_assert_ptr_null(rt_weights_find_meta(file, "generation_config.temperature"));
  rt_weights_close(file);
  static const char *const broken[] = {"tokenizer_config.json", "generation_config.json"};
  for (size_t i = 0; i < DP_COUNT(broken); i++) {
    write_text(broken[i], "{\"x\":");
    check_not_opened(NULL, DP_INVALID, broken[i]);
    write_text(broken[i], "{}");
  }
}
END_TEST

int main(void) {
  Suite *suite = suite_create("weights_files");
  TCase *files = tcase_create("directories");
  tcase_add_checked_fixture(files, make_folder, remove_folder);
  tcase_add_test(files, an_index_opens_all_files_that_it_names);
  tcase_add_test(files, numbered_gguf_files_are_opened_together);
  tcase_add_test(files, a_directory_is_opened_by_what_it_holds);
  tcase_add_test(files, what_an_index_gets_wrong_is_named);
  tcase_add_test(files, a_missing_numbered_file_is_named);
  tcase_add_test(files, numbers_are_found_where_newer_and_older_configs_have_them);
  tcase_add_test(files, the_chat_template_is_found_where_transformers_looks);
  suite_add_tcase(suite, files);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed ? 1 : 0;
}
