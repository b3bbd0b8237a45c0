/* tests/test_weights.c: weights files: what is opened is what was written, what is damaged is refused with a place,
 * what is bound is what the model meant, what is saved comes back. Files are built here; with DIPPER_GGUF set to a real
 * file, that one is opened too. */
#include "runtime/weights.h"

#include <check.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- files to open ----------------------------------------------------------------------------------------------- */

enum { U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 };
enum {
  TYPE_F32 = 0,
  TYPE_F16 = 1,
  TYPE_Q4_0 = 2,
  TYPE_Q4_1 = 3,
  TYPE_Q8_0 = 8,
  TYPE_Q6_K = 14,
  TYPE_I32 = 26,
  TYPE_BF16 = 30
};

static char folder[64];

static void make_folder(void) {
  strcpy(folder, "/tmp/dipper-weights-XXXXXX");
  ck_assert_ptr_nonnull(mkdtemp(folder));
}

static void remove_folder(void) {
  char command[128];
  snprintf(command, sizeof command, "rm -rf '%s'", folder);
  ck_assert_int_eq(system(command), 0);
}

static const char *path_of(const char *name, char path[128]) {
  snprintf(path, 128, "%s/%s", folder, name);
  return path;
}

static void write_file(const char *name, const void *data, size_t size) {
  char path[128];
  FILE *file = fopen(path_of(name, path), "wb");
  ck_assert_ptr_nonnull(file);
  ck_assert_uint_eq(fwrite(data, 1, size, file), size);
  ck_assert_int_eq(fclose(file), 0);
}

static void put(dp_str *out, const void *data, size_t size) { dp_str_addn(out, data, size); }
static void put_u32(dp_str *out, uint32_t value) { put(out, &value, 4); }
static void put_u64(dp_str *out, uint64_t value) { put(out, &value, 8); }

static void put_string(dp_str *out, const char *text) {
  put_u64(out, strlen(text));
  dp_str_add(out, text);
}

static void put_header(dp_str *out, uint32_t version, uint64_t tensors, uint64_t metas) {
  dp_str_add(out, "GGUF");
  put_u32(out, version);
  put_u64(out, tensors);
  put_u64(out, metas);
}

static void put_key(dp_str *out, const char *key, uint32_t type) {
  put_string(out, key);
  put_u32(out, type);
}

static void put_meta_u32(dp_str *out, const char *key, uint32_t value) {
  put_key(out, key, U32);
  put_u32(out, value);
}

static void put_meta_string(dp_str *out, const char *key, const char *value) {
  put_key(out, key, STRING);
  put_string(out, value);
}

/* dims in row-major order, as the test means them; the file has them the other way round. */
static void put_tensor(dp_str *out, const char *name, int rank, const int64_t *dims, uint32_t type, uint64_t offset) {
  put_string(out, name);
  put_u32(out, (uint32_t)rank);
  for (int i = rank - 1; i >= 0; i--) put_u64(out, (uint64_t)dims[i]);
  put_u32(out, type);
  put_u64(out, offset);
}

static void pad(dp_str *out, size_t alignment) {
  while (out->length % alignment) dp_str_addc(out, '\0');
}

static void put_zeros(dp_str *out, size_t count) {
  for (size_t i = 0; i < count; i++) dp_str_addc(out, '\0');
}

/* A file with every kind of metadata and tensors of several types. */
static dp_str sample_gguf(uint32_t version) {
  dp_str s = {0};
  put_header(&s, version, 4, 15);
  put_meta_string(&s, "general.architecture", "llama");
  put_meta_u32(&s, "llama.block_count", 30);
  put_key(&s, "llama.eps", F32), put(&s, &(float){0.5f}, 4);
  put_key(&s, "a.u8", U8), put(&s, "\xff", 1);
  put_key(&s, "a.i8", I8), put(&s, "\xff", 1);
  put_key(&s, "a.u16", U16), put(&s, "\xff\xff", 2);
  put_key(&s, "a.i16", I16), put(&s, "\xff\xff", 2);
  put_key(&s, "a.i32", I32), put(&s, &(int32_t){-7}, 4);
  put_key(&s, "a.u64", U64), put_u64(&s, (1ull << 53) + 1);
  put_key(&s, "a.i64", I64), put(&s, &(int64_t){-5}, 8);
  put_key(&s, "a.f64", F64), put(&s, &(double){2.25}, 8);
  put_key(&s, "a.bool", BOOL), dp_str_addc(&s, 1);
  put_key(&s, "tokenizer.ggml.tokens", ARRAY), put_u32(&s, STRING), put_u64(&s, 3);
  put_string(&s, "<s>"), put_string(&s, ""), put_string(&s, "\xff raw");
  put_key(&s, "a.types", ARRAY), put_u32(&s, I32), put_u64(&s, 2), put(&s, (int32_t[]){3, -1}, 8);
  put_key(&s, "a.nested", ARRAY), put_u32(&s, ARRAY), put_u64(&s, 2);
  put_u32(&s, U8), put_u64(&s, 3), put(&s, "abc", 3);
  put_u32(&s, STRING), put_u64(&s, 1), put_string(&s, "x");
  put_tensor(&s, "token_embd.weight", 2, (int64_t[]){5, 32}, TYPE_Q8_0, 0);
  put_tensor(&s, "scale", 0, NULL, TYPE_F32, 192);
  put_tensor(&s, "blk.0.w", 3, (int64_t[]){2, 3, 4}, TYPE_F16, 224);
  put_tensor(&s, "odd", 2, (int64_t[]){2, 256}, TYPE_Q6_K, 288);
  pad(&s, 32);
  for (int i = 0; i < 288 + 420; i++) dp_str_addc(&s, (char)(i * 7));
  return s;
}

static dp_str make_safetensors(const char *header, size_t data_bytes) {
  dp_str s = {0};
  put_u64(&s, strlen(header));
  dp_str_add(&s, header);
  for (size_t i = 0; i < data_bytes; i++) dp_str_addc(&s, (char)(i * 5));
  return s;
}

static const char sample_header[] = "{\"__metadata__\":{\"format\":\"pt\"},"
                                    "\"w\":{\"dtype\":\"BF16\",\"shape\":[2,3],\"data_offsets\":[4,16]},"
                                    "\"b\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]},"
                                    "\"none\":{\"dtype\":\"F16\",\"shape\":[0,8],\"data_offsets\":[16,16]},"
                                    "\"f8\":{\"dtype\":\"F8_E4M3\",\"shape\":[3],\"data_offsets\":[16,19]},"
                                    "\"new\":{\"dtype\":\"F4_X\",\"shape\":[9],\"data_offsets\":[19,24]}}  ";

static rt_weights_file *open_memory(const dp_str *s) {
  rt_weights_file *file;
  dp_status status = rt_weights_open_memory("memory", s->text, s->length, &file);
  ck_assert_msg(status.code == DP_OK, "%s", dp_status_text(&status));
  return file;
}

/* The bytes are refused with `code` and a message that holds every part (separated by '|'). Frees `s`. */
static void check_refused(dp_str s, dp_code code, const char *parts) {
  rt_weights_file *file;
  dp_status status = rt_weights_open_memory("the-file", s.text ? s.text : "", s.length, &file);
  ck_assert_msg(status.code == code && file == NULL, "code %d, message '%s', wanted %d and '%s'", status.code,
                dp_status_text(&status), code, parts);
  ck_assert_msg(strstr(dp_status_text(&status), "the-file"), "the message does not name the file: %s",
                dp_status_text(&status));
  char copy[256];
  snprintf(copy, sizeof copy, "%s", parts);
  for (char *save, *part = strtok_r(copy, "|", &save); part; part = strtok_r(NULL, "|", &save))
    ck_assert_msg(strstr(dp_status_text(&status), part), "no '%s' in: %s", part, dp_status_text(&status));
  dp_status_free(&status);
  dp_str_free(&s);
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

static void check_sample_gguf(uint32_t version) {
  dp_str s = sample_gguf(version);
  rt_weights_file *file = open_memory(&s);
  ck_assert_int_eq(rt_weights_format_of(file), RT_GGUF);
  ck_assert_str_eq(rt_weights_architecture(file), "llama");
  ck_assert_int_eq(rt_weights_tensor_count(file), 4);
  const rt_tensor *w = rt_weights_find(file, "blk.0.w");
  ck_assert_ptr_eq(w, rt_weights_tensor(file, 2));
  ck_assert(w->supported && w->dtype == IR_f16);
  ck_assert_int_eq(w->rank, 3);
  ck_assert(w->dims[0] == 2 && w->dims[1] == 3 && w->dims[2] == 4);
  ck_assert_uint_eq(w->bytes, 48);
  ck_assert_ptr_eq(w->data, (const uint8_t *)s.text + w->offset);
  ck_assert_uint_eq(w->data[0], (uint8_t)(224 * 7));
  const rt_tensor *odd = rt_weights_find(file, "odd");
  ck_assert(!odd->supported);
  ck_assert_str_eq(odd->type_name, "q6_k");
  ck_assert_uint_eq(odd->bytes, 420);
  ck_assert_int_eq(rt_weights_find(file, "scale")->rank, 0);
  ck_assert_uint_eq(rt_weights_find(file, "scale")->bytes, 4);
  ck_assert_ptr_null(rt_weights_find(file, "blk.1.w"));
  ck_assert_ptr_null(rt_weights_find(file, ""));

  static const struct {
    const char *key;
    double number;
  } numbers[] = {{"{arch}.block_count", 30},
                 {"llama.block_count", 30},
                 {"{arch}.eps", 0.5},
                 {"a.u8", 255},
                 {"a.i8", -1},
                 {"a.u16", 65535},
                 {"a.i16", -1},
                 {"a.i32", -7},
                 {"a.i64", -5},
                 {"a.f64", 2.25},
                 {"a.bool", 1},
                 {"vocab_size", 5},
                 {"{arch}.vocab_size", 5}};
  double number;
  for (size_t i = 0; i < DP_COUNT(numbers); i++) {
    ck_assert_msg(rt_weights_number(file, numbers[i].key, &number), "no %s", numbers[i].key);
    ck_assert_msg(number == numbers[i].number, "%s is %g", numbers[i].key, number);
  }
  ck_assert_int_eq(rt_weights_find_meta(file, "a.u64")->integer, (1ll << 53) + 1);
  ck_assert(!rt_weights_number(file, "a.types", &number) && !rt_weights_number(file, "general.architecture", &number));
  ck_assert(!rt_weights_number(file, "{arch}.nothing", &number) && !rt_weights_number(file, "hidden_size", &number));
  bool value = false;
  ck_assert(rt_weights_bool(file, "a.bool", &value) && value && !rt_weights_bool(file, "a.u8", &value));
  ck_assert_str_eq(rt_weights_string(file, "general.architecture"), "llama");
  ck_assert_ptr_null(rt_weights_string(file, "a.u8"));
  int64_t count;
  const rt_text *tokens = rt_weights_strings(file, "tokenizer.ggml.tokens", &count);
  ck_assert_int_eq(count, 3);
  ck_assert(tokens[0].length == 3 && memcmp(tokens[0].text, "<s>", 3) == 0);
  ck_assert(tokens[1].length == 0 && tokens[2].length == 5 && memcmp(tokens[2].text, "\xff raw", 5) == 0);
  ck_assert(tokens[0].text > s.text && tokens[0].text < s.text + s.length); /* not copied */
  const rt_meta *types = rt_weights_find_meta(file, "a.types");
  ck_assert(types->kind == RT_META_NUMBERS && types->count == 2);
  ck_assert(rt_meta_number_at(types, 0) == 3 && rt_meta_integer_at(types, 1) == -1);
  ck_assert_int_eq(rt_weights_find_meta(file, "a.nested")->kind, RT_META_OTHER);
  rt_weights_close(file);
  dp_str_free(&s);
}

START_TEST(a_gguf_file_opens_as_it_was_written) {
  check_sample_gguf(2);
  check_sample_gguf(3);
}
END_TEST

START_TEST(a_safetensors_file_opens_as_it_was_written) {
  dp_str s = make_safetensors(sample_header, 24);
  rt_weights_file *file = open_memory(&s);
  ck_assert_int_eq(rt_weights_format_of(file), RT_SAFETENSORS);
  ck_assert_int_eq(rt_weights_tensor_count(file), 5);
  const rt_tensor *w = rt_weights_find(file, "w");
  ck_assert(w->supported && w->dtype == IR_bf16 && w->rank == 2 && w->dims[0] == 2 && w->dims[1] == 3 &&
            w->bytes == 12);
  ck_assert_uint_eq(w->data[0], 20);
  ck_assert_uint_eq(rt_weights_find(file, "none")->bytes, 0);
  ck_assert_str_eq(rt_weights_find(file, "f8")->type_name, "F8_E4M3");
  ck_assert(!rt_weights_find(file, "new")->supported && rt_weights_find(file, "new")->bytes == 5);
  ck_assert_str_eq(rt_weights_string(file, "__metadata__.format"), "pt");
  ck_assert_ptr_null(rt_weights_architecture(file));
  ck_assert_ptr_null(rt_weights_find_meta(file, "{arch}.x"));
  rt_weights_close(file);
  dp_str_free(&s);
}
END_TEST

START_TEST(config_json_beside_safetensors_gives_the_metadata) {
  dp_str s = make_safetensors(sample_header, 24);
  char path[128];
  write_file("model.safetensors", s.text, s.length);
  static const char config[] = "{\"model_type\":\"llama\",\"hidden_size\":576,\"rms_norm_eps\":1e-5,\"tie\":true,"
                               "\"rope_parameters\":{\"rope_theta\":100000},\"eos_token_id\":[1,2],\"x\":null,"
                               "\"architectures\":[\"LlamaForCausalLM\"],\"mixed\":[1,0.5],\"vocab_size\":49152}";
  write_file("config.json", config, strlen(config));
  rt_weights_file *file;
  dp_status status = rt_weights_open(path_of("model.safetensors", path), &file);
  ck_assert_msg(status.code == DP_OK, "%s", dp_status_text(&status));
  double number;
  ck_assert(rt_weights_number(file, "hidden_size", &number) && number == 576);
  ck_assert(rt_weights_number(file, "rms_norm_eps", &number) && number == 1e-5);
  ck_assert(rt_weights_number(file, "tie", &number) && number == 1);
  ck_assert(rt_weights_number(file, "vocab_size", &number) && number == 49152);
  ck_assert(rt_weights_number(file, "rope_theta", &number) && number == 100000);
  ck_assert(!rt_weights_number(file, "x", &number));
  ck_assert_str_eq(rt_weights_architecture(file), "llama");
  const rt_meta *eos = rt_weights_find_meta(file, "eos_token_id");
  ck_assert(eos->kind == RT_META_NUMBERS && eos->count == 2 && rt_meta_integer_at(eos, 1) == 2);
  ck_assert(rt_meta_number_at(rt_weights_find_meta(file, "mixed"), 1) == 0.5);
  int64_t count;
  const rt_text *names = rt_weights_strings(file, "architectures", &count);
  ck_assert(count == 1 && strcmp(names[0].text, "LlamaForCausalLM") == 0);
  rt_weights_close(file);

  write_file("config.json", "{\"a\":", 5);
  status = rt_weights_open(path, &file);
  ck_assert_int_eq(status.code, DP_INVALID);
  ck_assert_msg(strstr(dp_status_text(&status), "config.json"), "%s", dp_status_text(&status));
  dp_status_free(&status);
  dp_str_free(&s);
}
END_TEST

/* ---- refusing ---------------------------------------------------------------------------------------------------- */

/* A GGUF file of one tensor and no metadata, its data `bytes` long. */
static dp_str one_tensor(const char *name, int rank, const int64_t *dims, uint32_t type, uint64_t offset,
                         size_t bytes) {
  dp_str s = {0};
  put_header(&s, 3, 1, 0);
  put_tensor(&s, name, rank, dims, type, offset);
  pad(&s, 32);
  put_zeros(&s, bytes);
  return s;
}

static dp_str one_meta(uint32_t type, const void *value, size_t size) {
  dp_str s = {0};
  put_header(&s, 3, 0, 1);
  put_key(&s, "key", type);
  put(&s, value, size);
  return s;
}

START_TEST(damaged_gguf_files_are_refused_with_a_place) {
  dp_str s = {0};
  dp_str_add(&s, "PK\3\4 and so on");
  check_refused(s, DP_INVALID, "neither GGUF nor safetensors|50 4b 03 04|zip");
  check_refused((dp_str){0}, DP_INVALID, "neither");
  s = (dp_str){0}, put_header(&s, 1, 0, 0);
  check_refused(s, DP_UNSUPPORTED, "version 1");
  s = (dp_str){0}, put_header(&s, __builtin_bswap32(3), 0, 0);
  check_refused(s, DP_UNSUPPORTED, "big-endian|version 3");
  s = (dp_str){0}, put_header(&s, 3, UINT64_MAX, 0);
  check_refused(s, DP_INVALID, "18446744073709551615 tensors|byte 8");
  s = (dp_str){0}, put_header(&s, 3, 5, 0);
  check_refused(s, DP_INVALID, "cut short|byte 24");
  dp_str whole = sample_gguf(3);
  for (size_t n = 4; n < whole.length; n++) { /* no prefix of a file is a file */
    s = (dp_str){0}, put(&s, whole.text, n);
    check_refused(s, DP_INVALID, "cut short");
  }
  dp_str_free(&whole);

  int64_t huge[] = {INT64_MAX, 2}, wide[] = {1ll << 40, 1ll << 40}, row[] = {2, 31}, fine[] = {2, 32};
  check_refused(one_tensor("t", 2, huge, TYPE_F32, 0, 64), DP_INVALID,
                "tensor 't'|shape [9223372036854775807, 2]|byte 24");
  check_refused(one_tensor("t", 2, wide, TYPE_F32, 0, 64), DP_INVALID, "tensor 't'|shape");
  check_refused(one_tensor("t", 2, row, TYPE_Q8_0, 0, 68), DP_INVALID, "tensor 't'|[2, 31]|q8_0|32 elements");
  check_refused(one_tensor("t", 2, (int64_t[]){-1, 4}, TYPE_F32, 0, 68), DP_INVALID,
                "'t'|dimension of 18446744073709551615");
  check_refused(one_tensor("t", 5, (int64_t[]){1, 1, 1, 1, 1}, TYPE_F32, 0, 68), DP_INVALID, "'t'|5 dimensions");
  check_refused(one_tensor("t", 2, fine, TYPE_F32, 8, 512), DP_INVALID, "'t'|offset 8|not aligned");
  check_refused(one_tensor("t", 2, fine, TYPE_F32, 0, 255), DP_INVALID, "cut short|'t'|256 bytes from byte 96");
  check_refused(one_tensor("t", 2, fine, TYPE_F32, UINT64_MAX - 31, 256), DP_INVALID, "cut short|'t'");
  check_refused(one_tensor("t", 2, fine, TYPE_F32, INT64_MAX - 31, 256), DP_INVALID, "cut short|'t'");
  check_refused(one_tensor("", 2, fine, TYPE_F32, 0, 256), DP_INVALID, "not a name|byte 24");
  check_refused(one_tensor("a\xc3(", 2, fine, TYPE_F32, 0, 256), DP_INVALID, "not a name|byte 24");
  check_refused(one_tensor("a\033[31m", 2, fine, TYPE_F32, 0, 256), DP_INVALID, "not a name|byte 24");

  s = (dp_str){0}, put_header(&s, 3, 2, 0);
  put_tensor(&s, "t", 2, fine, TYPE_F32, 0), put_tensor(&s, "t", 2, fine, TYPE_F32, 256), pad(&s, 32),
      put_zeros(&s, 512);
  check_refused(s, DP_INVALID, "tensor 't' is there twice");
  s = (dp_str){0}, put_header(&s, 3, 2, 0);
  put_tensor(&s, "t", 2, fine, TYPE_F32, 0), put_tensor(&s, "u", 2, fine, TYPE_F32, 224), pad(&s, 32),
      put_zeros(&s, 512);
  check_refused(s, DP_INVALID, "'u' overlaps tensor 't' at byte");

  s = one_meta(STRING, NULL, 0), put_u64(&s, UINT64_MAX), dp_str_add(&s, "abc");
  check_refused(s, DP_INVALID, "cut short|key|byte 47|18446744073709551615");
  s = one_meta(ARRAY, NULL, 0), put_u32(&s, F64), put_u64(&s, 1ull << 61);
  check_refused(s, DP_INVALID, "key 'key'|2305843009213693952 elements");
  s = one_meta(ARRAY, NULL, 0), put_u32(&s, STRING), put_u64(&s, 1ull << 40);
  check_refused(s, DP_INVALID, "key 'key'|1099511627776 elements");
  s = one_meta(ARRAY, NULL, 0);
  for (int i = 0; i < 40; i++) put_u32(&s, ARRAY), put_u64(&s, 1);
  check_refused(s, DP_INVALID, "key 'key'|nested");
  check_refused(one_meta(13, "abcd", 4), DP_INVALID, "key 'key'|type 13");
  check_refused(one_meta(BOOL, "\2", 1), DP_INVALID, "key 'key'|boolean");
  s = (dp_str){0}, put_header(&s, 3, 0, 2), put_meta_u32(&s, "k", 1), put_meta_u32(&s, "k", 2);
  check_refused(s, DP_INVALID, "key 'k' is there twice");
  s = (dp_str){0}, put_header(&s, 3, 0, 1), put_meta_u32(&s, "general.alignment", 0);
  check_refused(s, DP_INVALID, "general.alignment");
  s = (dp_str){0}, put_header(&s, 3, 0, 1), put_meta_u32(&s, "general.alignment", 12);
  check_refused(s, DP_INVALID, "general.alignment");
}
END_TEST

START_TEST(damaged_safetensors_files_are_refused_with_a_place) {
  static const struct {
    const char *header;
    size_t data;
    const char *parts;
  } cases[] = {
      {"{\"a\":", 0, "header is broken at byte"},
      {"{\"a\":1}", 0, "tensor 'a'|dtype"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
       "\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}",
       8, "duplicate"},
      {"{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, "tensor 'a'|shape"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1.5],\"data_offsets\":[0,4]}}", 4, "tensor 'a'|shape"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}", 4, "tensor 'a'|shape"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]}}", 4, "tensor 'a'|data_offsets"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}}", 4, "tensor 'a'|data_offsets"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}", 4, "tensor 'a'|8 bytes|[0, 4]"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 3, "cut short|tensor 'a'|4 bytes from byte"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904,4],\"data_offsets\":[0,4]}}", 4,
       "tensor 'a'|more elements"},
      {"{\"a\":{\"dtype\":\"U8\",\"shape\":[9223372036854775807],\"data_offsets\":[0,9223372036854775807]}}", 4,
       "cut short"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
       "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[2,6]}}",
       6, "'b' overlaps tensor 'a'"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}", 8, "belong to no tensor|before tensor 'a'"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 9, "at the end belong to no tensor"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,4]}}", 4, "'a'|8 dimensions"},
      {"{\"\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "empty"},
      {"{\"__metadata__\":[]}", 0, "__metadata__"},
      {"{\"a\\u0000b\":{}}", 0, "broken at byte"},
      {"{\"\xff\":{}}", 0, "broken at byte"},
  };
  for (size_t i = 0; i < DP_COUNT(cases); i++)
    check_refused(make_safetensors(cases[i].header, cases[i].data), DP_INVALID, cases[i].parts);
  dp_str s = {0};
  put_u64(&s, UINT64_MAX), dp_str_add(&s, "{}");
  check_refused(s, DP_INVALID, "header at byte 8 claims 18446744073709551615");
}
END_TEST

START_TEST(missing_files_and_folders_are_refused) {
  rt_weights_file *file;
  char path[128];
  dp_status status = rt_weights_open(path_of("none.gguf", path), &file);
  ck_assert(status.code == DP_NOT_FOUND && !file && strstr(dp_status_text(&status), "none.gguf"));
  dp_status_free(&status);
  status = rt_weights_open(folder, &file);
  ck_assert(status.code == DP_INVALID && !file);
  dp_status_free(&status);
  rt_weights_close(NULL);
}
END_TEST

/* ---- mutations --------------------------------------------------------------------------------------------------- */

static uint64_t next_random(uint64_t *state) {
  *state += 0x9e3779b97f4a7c15u;
  return dp_hash(*state, "m", 1);
}

/* Overwrites, inserts, removes or cuts a few bytes; often numbers of the kind that hurt. */
static void mutate(dp_str *s, uint64_t *state) {
  static const uint64_t nasty[] = {0,
                                   1,
                                   2,
                                   31,
                                   32,
                                   255,
                                   65535,
                                   1u << 31,
                                   UINT32_MAX,
                                   1ull << 32,
                                   INT64_MAX,
                                   UINT64_MAX,
                                   UINT64_MAX - 31,
                                   1ull << 62,
                                   1ull << 63};
  int edits = 1 + (int)(next_random(state) % 3);
  for (int i = 0; i < edits && s->length > 0; i++) {
    size_t at = next_random(state) % s->length, left = s->length - at;
    uint64_t number = nasty[next_random(state) % DP_COUNT(nasty)];
    size_t width = 1 + next_random(state) % 8;
    if (width > left) width = left;
    switch (next_random(state) % 6) {
    case 0:
      s->text[at] = (char)next_random(state);
      break;
    case 1:
      s->text[at] ^= (char)(1 << next_random(state) % 8);
      break;
    case 2:
      memcpy(s->text + at, &number, width);
      break;
    case 3:
      memmove(s->text + at, s->text + at + width, left - width);
      s->length -= width;
      break;
    case 4:
      memmove(s->text + at, s->text + next_random(state) % (s->length - width + 1), width);
      break;
    default:
      if (next_random(state) % 4 == 0)
        s->length = at;
      else
        s->text[at] = "0123456789{}[],:\"e-"[next_random(state) % 19];
    }
  }
}

/* Touches everything a file offers: under ASan any pointer that leads outside the bytes shows. */
static uint64_t read_everything(const rt_weights_file *file) {
  uint64_t sum = 0;
  for (int i = 0; i < rt_weights_tensor_count(file); i++) {
    const rt_tensor *tensor = rt_weights_tensor(file, i);
    ck_assert_ptr_eq(rt_weights_find(file, tensor->name), tensor);
    sum = dp_hash(sum, tensor->data, tensor->bytes);
    if (tensor->supported && tensor->bytes > 0 && tensor->bytes < 1 << 16) {
      float *decoded = malloc((size_t)tensor->elements * sizeof *decoded);
      rt_dequantize_row(tensor->dtype, tensor->data, decoded, tensor->elements);
      free(decoded);
    }
  }
  for (int i = 0; i < rt_weights_meta_count(file); i++) {
    const rt_meta *meta = rt_weights_meta(file, i);
    double number;
    ck_assert_ptr_eq(rt_weights_find_meta(file, meta->key), strstr(meta->key, "{arch}") ? NULL : meta);
    rt_weights_number(file, meta->key, &number);
    for (int64_t j = 0; j < meta->count; j++) {
      if (meta->kind == RT_META_STRINGS) sum = dp_hash(sum, meta->strings[j].text, meta->strings[j].length);
      if (meta->kind == RT_META_NUMBERS)
        sum += (uint64_t)rt_meta_integer_at(meta, j) + !isnan(rt_meta_number_at(meta, j));
    }
  }
  dp_str text = {0};
  rt_weights_list(file, false, &text);
  rt_weights_list(file, true, &text);
  dp_str_free(&text);
  return sum;
}

static void check_mutations(const dp_str *original, int rounds, uint64_t seed) {
  int opened = 0;
  for (int round = 0; round < rounds; round++) {
    dp_str s = {0};
    put(&s, original->text, original->length);
    uint64_t state = seed + (uint64_t)round * 1000;
    mutate(&s, &state);
    uint8_t *exact = malloc(s.length ? s.length : 1); /* ASan guards its very end */
    if (s.length) memcpy(exact, s.text, s.length);
    rt_weights_file *file;
    dp_status status = rt_weights_open_memory("mutant", exact, s.length, &file);
    if (status.code == DP_OK) {
      read_everything(file);
      opened++;
    } else {
      ck_assert_msg(file == NULL && status.message && strstr(status.message, "mutant"), "seed %d: %s", round,
                    dp_status_text(&status));
    }
    dp_status_free(&status);
    rt_weights_close(file);
    free(exact);
    dp_str_free(&s);
  }
  ck_assert_int_gt(opened, 0); /* mutants of the data and of harmless values stay files */
  ck_assert_int_lt(opened, rounds);
}

/* Small enough that most mutations hit numbers of the header. */
static dp_str tiny_gguf(void) {
  dp_str s = {0};
  put_header(&s, 3, 2, 2);
  put_meta_u32(&s, "general.alignment", 16);
  put_key(&s, "s", ARRAY), put_u32(&s, STRING), put_u64(&s, 2), put_string(&s, "a"), put_string(&s, "");
  put_tensor(&s, "a", 2, (int64_t[]){2, 2}, TYPE_F16, 0);
  put_tensor(&s, "b", 1, (int64_t[]){32}, TYPE_Q4_0, 16);
  pad(&s, 16);
  put_zeros(&s, 16 + 18);
  return s;
}

START_TEST(no_mutation_of_a_file_is_read_out_of_bounds) {
  dp_str gguf = sample_gguf(3), tiny = tiny_gguf(), safetensors = make_safetensors(sample_header, 24);
  check_mutations(&gguf, 8000, 1);
  check_mutations(&tiny, 12000, 2);
  check_mutations(&safetensors, 12000, 3);
  dp_str_free(&gguf);
  dp_str_free(&tiny);
  dp_str_free(&safetensors);
}
END_TEST

/* ---- binding ----------------------------------------------------------------------------------------------------- */

enum { VOCAB = 40, D = 64, LAYERS = 3, HEADS = 2 };

static void add_weight(ir_module *module, const char *name, bool stacked, int rank, const int64_t *dims,
                       const char *const *sources, int source_count, int64_t paired_heads) {
  ir_type type = {.dtype = IR_f32, .rank = rank};
  for (int i = 0; i < rank; i++) type.dims[i] = ir_static_dim(dims[i], NULL);
  ir_weight *weight = ir_add_weight(module, name, &type);
  weight->stack = stacked ? 1 : 0;
  weight->source_count = source_count;
  weight->sources = DP_NEW_ARRAY(module->arena, ir_source, source_count);
  for (int i = 0; i < source_count; i++) weight->sources[i].pattern = sources[i];
  if (paired_heads) weight->sources[source_count - 1].paired = paired_heads;
}

static ir_module *small_model(void) {
  static const char *const embed[] = {"model.embed_tokens.weight", "token_embd.weight"};
  static const char *const norm[] = {"model.layers.{}.input_layernorm.weight", "blk.{}.attn_norm.weight"};
  static const char *const wq[] = {"model.layers.{}.self_attn.q_proj.weight", "blk.{}.attn_q.weight"};
  static const char *const bias[] = {"model.layers.{}.self_attn.q_proj.bias", "blk.{}.attn_q.bias"};
  static const char *const head[] = {"lm_head.weight", "output.weight"};
  ir_module *module = ir_module_new("small");
  add_weight(module, "embed", false, 2, (int64_t[]){VOCAB, D}, embed, 2, 0);
  add_weight(module, "norm", true, 2, (int64_t[]){LAYERS, D}, norm, 2, 0);
  add_weight(module, "wq", true, 3, (int64_t[]){LAYERS, D, D}, wq, 2, HEADS);
  add_weight(module, "bq", true, 2, (int64_t[]){LAYERS, D}, bias, 2, HEADS);
  module->weights[3].optional = true;
  add_weight(module, "head", false, 2, (int64_t[]){VOCAB, D}, head, 2, 0);
  module->weights[4].tied = "embed";
  return module;
}

typedef struct tensor_plan {
  const char *name;
  int rank;
  int64_t dims[3];
  uint32_t type;
} tensor_plan;

static ir_dtype dtype_of(uint32_t type) {
  return type == TYPE_F32    ? IR_f32
         : type == TYPE_F16  ? IR_f16
         : type == TYPE_BF16 ? IR_bf16
         : type == TYPE_Q8_0 ? IR_q8_0
         : type == TYPE_Q4_0 ? IR_q4_0
         : type == TYPE_I32  ? IR_i32
                             : IR_q4_1;
}

/* What element `index` of tensor `name` was before it was stored. */
static float planned(const char *name, int64_t index) {
  uint64_t h = dp_hash(dp_hash(0, name, strlen(name)), &index, sizeof index);
  return (float)((int)(h % 2001) - 1000) / 1024;
}

static dp_str build_gguf(const tensor_plan *plan, int count) {
  dp_str s = {0}, data = {0};
  put_header(&s, 3, (uint64_t)count, 1);
  put_meta_string(&s, "general.architecture", "llama");
  for (int i = 0; i < count; i++) {
    put_tensor(&s, plan[i].name, plan[i].rank, plan[i].dims, plan[i].type, data.length);
    int64_t elements = 1;
    for (int d = 0; d < plan[i].rank; d++) elements *= plan[i].dims[d];
    if (plan[i].type == TYPE_Q6_K) {
      put_zeros(&data, (size_t)elements / 256 * 210);
    } else {
      float *values = malloc((size_t)elements * sizeof *values);
      for (int64_t e = 0; e < elements; e++) values[e] = planned(plan[i].name, e);
      size_t size = (size_t)rt_row_bytes(dtype_of(plan[i].type), elements);
      uint8_t *bytes = calloc(1, size);
      if (plan[i].type != TYPE_I32) rt_quantize_row(dtype_of(plan[i].type), values, bytes, elements);
      put(&data, bytes, size);
      free(bytes);
      free(values);
    }
    pad(&data, 32);
  }
  pad(&s, 32);
  put(&s, data.text, data.length);
  dp_str_free(&data);
  return s;
}

static const tensor_plan good_plan[] = {
    {"token_embd.weight", 2, {VOCAB, D}, TYPE_Q8_0}, {"blk.0.attn_norm.weight", 1, {D}, TYPE_F32},
    {"blk.1.attn_norm.weight", 1, {D}, TYPE_F16},    {"blk.2.attn_norm.weight", 1, {D}, TYPE_BF16},
    {"blk.0.attn_q.weight", 2, {D, D}, TYPE_Q4_1},   {"blk.1.attn_q.weight", 2, {D, D}, TYPE_F32},
    {"blk.2.attn_q.weight", 2, {D, D}, TYPE_Q4_0},   {"rope_freqs.weight", 1, {32}, TYPE_F32},
};

START_TEST(a_model_gets_every_layer_of_every_weight) {
  ir_module *module = small_model();
  dp_str s = build_gguf(good_plan, DP_COUNT(good_plan));
  rt_weights_file *file = open_memory(&s);
  rt_binding *binding;
  dp_status status = rt_bind_weights(module, file, RT_BIND_STRICT, &binding);
  ck_assert_msg(status.code == DP_OK, "%s", dp_status_text(&status));
  ck_assert_ptr_null(rt_binding_note(binding));
  const rt_bound *embed = rt_binding_get(binding, 0, 0), *q = rt_binding_get(binding, 2, 1);
  ck_assert(embed->dtype == IR_q8_0 && embed->rows == VOCAB && embed->cols == D && embed->row_bytes == 68);
  ck_assert_ptr_eq(embed->tensor, rt_weights_find(file, "token_embd.weight"));
  ck_assert_ptr_eq(embed->data, embed->tensor->data);
  ck_assert(q->dtype == IR_f32 && q->paired_heads == HEADS && embed->paired_heads == 0);
  ck_assert_ptr_eq(q->tensor, rt_weights_find(file, "blk.1.attn_q.weight"));
  ck_assert(rt_binding_get(binding, 1, 2)->rows == 1 && rt_binding_get(binding, 1, 2)->cols == D);
  ck_assert_ptr_eq(rt_binding_get(binding, 4, 0), embed); /* head is tied */
  ck_assert_int_eq(rt_binding_tie(binding, 4), 0);
  ck_assert_int_eq(rt_binding_tie(binding, 0), -1);
  ck_assert_ptr_null(rt_binding_get(binding, 3, 0)); /* optional */
  ck_assert_int_eq(rt_binding_layers(binding, 3), 0);
  ck_assert_int_eq(rt_binding_layers(binding, 2), LAYERS);
  ck_assert(!rt_binding_get(binding, 2, LAYERS) && !rt_binding_get(binding, 2, -1) && !rt_binding_get(binding, 9, 0));
  ck_assert_uint_eq(module->weights[0].storage, 1u << IR_q8_0);
  ck_assert_uint_eq(module->weights[1].storage, 1u << IR_f32 | 1u << IR_f16 | 1u << IR_bf16);
  ck_assert_uint_eq(module->weights[2].storage, 1u << IR_f32 | 1u << IR_q4_0 | 1u << IR_q4_1);
  ck_assert_uint_eq(module->weights[3].storage, 0);
  ck_assert_uint_eq(module->weights[4].storage, 1u << IR_q8_0);
  /* Rotation pairs: the model's row h*hd + b*hd/2 + i is the file's h*hd + 2i + b. */
  float all[D * D];
  rt_bound_to_f32(q, all);
  for (int h = 0; h < HEADS; h++)
    for (int b = 0; b < 2; b++)
      for (int i = 0; i < D / HEADS / 2; i++)
        for (int k = 0; k < D; k++) {
          int hd = D / HEADS, row = h * hd + b * hd / 2 + i, from = h * hd + 2 * i + b;
          ck_assert_msg(all[row * D + k] == planned("blk.1.attn_q.weight", from * D + k), "row %d, column %d", row, k);
        }
  rt_binding_free(binding);
  rt_weights_close(file);
  dp_str_free(&s);
  ir_module_free(module);
}
END_TEST

START_TEST(one_tensor_may_hold_all_layers) {
  static const char *const names[] = {"layers.norm", "layers.q"};
  ir_module *module = ir_module_new("stacked");
  add_weight(module, "norm", true, 2, (int64_t[]){LAYERS, D}, &names[0], 1, 0);
  add_weight(module, "q", true, 3, (int64_t[]){LAYERS, 8, D}, &names[1], 1, 0);
  tensor_plan plan[] = {{"layers.norm", 2, {LAYERS, D}, TYPE_F32}, {"layers.q", 3, {LAYERS, 8, D}, TYPE_Q8_0}};
  dp_str s = build_gguf(plan, 2);
  rt_weights_file *file = open_memory(&s);
  rt_binding *binding;
  dp_status status = rt_bind_weights(module, file, RT_BIND_STRICT, &binding);
  ck_assert_msg(status.code == DP_OK, "%s", dp_status_text(&status));
  for (int layer = 0; layer < LAYERS; layer++) {
    float row[D];
    rt_bound_row(rt_binding_get(binding, 0, layer), 0, row);
    for (int i = 0; i < D; i++) ck_assert_float_eq(row[i], planned("layers.norm", layer * D + i));
    const rt_bound *q = rt_binding_get(binding, 1, layer);
    ck_assert_ptr_eq(q->data, q->tensor->data + layer * 8 * 68);
  }
  rt_binding_free(binding);
  rt_weights_close(file);
  dp_str_free(&s);
  ir_module_free(module);
}
END_TEST

static void check_not_bound(ir_module *module, const tensor_plan *plan, int count, unsigned flags, const char *parts) {
  dp_str s = build_gguf(plan, count);
  rt_weights_file *file = open_memory(&s);
  rt_binding *binding;
  dp_status status = rt_bind_weights(module, file, flags, &binding);
  ck_assert_int_eq(status.code, DP_INVALID);
  ck_assert_ptr_null(binding);
  char copy[1024];
  snprintf(copy, sizeof copy, "%s", parts);
  for (char *save, *part = strtok_r(copy, "|", &save); part; part = strtok_r(NULL, "|", &save))
    ck_assert_msg(strstr(dp_status_text(&status), part), "no '%s' in: %s", part, dp_status_text(&status));
  for (int i = 0; i < module->weight_count; i++) ck_assert_uint_eq(module->weights[i].storage, 0);
  dp_status_free(&status);
  rt_weights_close(file);
  dp_str_free(&s);
}

START_TEST(everything_that_does_not_fit_is_told_at_once) {
  ir_module *module = small_model();
  tensor_plan plan[] = {
      {"token_embd.weights", 2, {VOCAB, D}, TYPE_Q8_0}, {"blk.0.attn_norm.weight", 1, {D}, TYPE_F32},
      {"blk.2.attn_norm.weight", 1, {D}, TYPE_I32},     {"blk.0.attn_q.weight", 2, {D, 32}, TYPE_Q4_1},
      {"blk.1.attn_q.weight", 2, {D, 32}, TYPE_F32},    {"blk.2.attn_q.weight", 2, {D, 256}, TYPE_Q6_K},
  };
  check_not_bound(
      module, plan, DP_COUNT(plan), 0,
      "'memory' does not fit the model 'small' (the file is of architecture 'llama')|"
      "embed: no tensor 'model.embed_tokens.weight' or 'token_embd.weight' (did you mean 'token_embd.weights'?)|"
      "norm, layer 1: no tensor 'blk.{}.attn_norm.weight'|"
      "norm, layer 2: tensor 'blk.{}.attn_norm.weight' is of type i32|"
      "wq, layers 0-1: tensor 'blk.{}.attn_q.weight' has shape [64, 32], the model wants [64, 64]|"
      "wq, layer 2: tensor 'blk.{}.attn_q.weight' is of type q6_k|"
      "1 of the file's 6 tensors is not used by the model: 'token_embd.weights'");
  ir_module_free(module);
}
END_TEST

START_TEST(extra_tensors_are_noted_and_refused_only_when_strict) {
  tensor_plan plan[DP_COUNT(good_plan) + 20];
  static char names[20][8];
  memcpy(plan, good_plan, sizeof good_plan);
  for (int i = 0; i < 20; i++) {
    snprintf(names[i], sizeof names[i], "extra%d", i);
    plan[DP_COUNT(good_plan) + (size_t)i] = (tensor_plan){names[i], 1, {32}, TYPE_F32};
  }
  ir_module *module = small_model();
  check_not_bound(module, plan, DP_COUNT(plan), RT_BIND_STRICT,
                  "20 of the file's 28 tensors are not used|'extra0'|and 8 more");
  dp_str s = build_gguf(plan, DP_COUNT(plan));
  rt_weights_file *file = open_memory(&s);
  rt_binding *binding;
  dp_status status = rt_bind_weights(module, file, 0, &binding);
  ck_assert_msg(status.code == DP_OK, "%s", dp_status_text(&status));
  ck_assert_msg(strstr(rt_binding_note(binding), "20 of the file's 28"), "%s", rt_binding_note(binding));
  ck_assert_ptr_null(strstr(rt_binding_note(binding), "rope_freqs"));
  rt_binding_free(binding);
  rt_weights_close(file);
  dp_str_free(&s);
  ir_module_free(module);
}
END_TEST

START_TEST(ties_that_cannot_hold_are_refused) {
  ir_module *module = small_model();
  module->weights[4].tied = "nothing";
  check_not_bound(module, good_plan, DP_COUNT(good_plan), 0,
                  "head: it is tied to 'nothing', which the model does not have");
  module->weights[4].tied = "head";
  check_not_bound(module, good_plan, DP_COUNT(good_plan), 0, "head: it is tied to 'head', in a circle");
  module->weights[4].tied = "norm";
  check_not_bound(module, good_plan, DP_COUNT(good_plan), 0, "head: it is tied to 'norm', which has another shape");
  module->weights[4].tied = "bq";
  check_not_bound(module, good_plan, DP_COUNT(good_plan), 0, "head: the file has it under none of its names, nor 'bq'");
  module->weights[4].tied = "embed";
  module->weights[2].sources[module->weights[2].source_count - 1].paired = 5;
  check_not_bound(module, good_plan, DP_COUNT(good_plan), 0, "wq, layers 0-2: its rows do not divide");
  ir_module_free(module);
}
END_TEST

/* ---- random weights ---------------------------------------------------------------------------------------------- */

START_TEST(random_weights_depend_on_seed_name_layer_and_index_only) {
  ir_module *module = small_model(), *other = ir_module_new("other");
  rt_binding *one, *again, *alone, *seeded;
  ck_assert_int_eq(rt_bind_random(module, 7, IR_f32, &one).code, DP_OK);
  ck_assert_int_eq(rt_bind_random(module, 7, IR_q8_0, &again).code, DP_OK);
  ck_assert_int_eq(rt_bind_random(module, 8, IR_f32, &seeded).code, DP_OK);
  add_weight(other, "wq", true, 3, (int64_t[]){LAYERS, D, D}, NULL, 0, 0);
  ck_assert_int_eq(rt_bind_random(other, 7, IR_f32, &alone).code, DP_OK);
  ck_assert_uint_eq(other->weights[0].storage, 1u << IR_f32);
  for (int layer = 0; layer < LAYERS; layer++)
    ck_assert_mem_eq(rt_binding_get(one, 2, layer)->data, rt_binding_get(alone, 0, layer)->data, D * D * 4);
  ck_assert(memcmp(rt_binding_get(one, 2, 0)->data, rt_binding_get(one, 2, 1)->data, D * D * 4) != 0);
  ck_assert(memcmp(rt_binding_get(one, 2, 0)->data, rt_binding_get(seeded, 2, 0)->data, D * D * 4) != 0);
  ck_assert_ptr_eq(rt_binding_get(one, 4, 0), rt_binding_get(one, 0, 0));
  /* Stored as q8_0: the same numbers, rounded. 1-D weights stay f32. */
  ck_assert(rt_binding_get(again, 2, 0)->dtype == IR_q8_0 && rt_binding_get(again, 1, 0)->dtype == IR_f32);
  float exact[D * D], rounded[D * D], norm[D];
  rt_bound_to_f32(rt_binding_get(one, 2, 0), exact);
  rt_bound_to_f32(rt_binding_get(again, 2, 0), rounded);
  double sum = 0, squares = 0;
  for (int i = 0; i < D * D; i++) {
    ck_assert_float_eq_tol(exact[i], rounded[i], 0.002f);
    sum += exact[i], squares += (double)exact[i] * exact[i];
  }
  ck_assert_double_eq_tol(sum / (D * D), 0, 0.01);
  ck_assert_double_eq_tol(sqrt(squares / (D * D)), 1 / sqrt(D), 0.005);
  rt_bound_to_f32(rt_binding_get(one, 1, 2), norm);
  for (int i = 0; i < D; i++) ck_assert_float_eq_tol(norm[i], 1, 0.0625f);
  /* The same on every machine and in every version. */
  ck_assert_float_eq(exact[0], 0x1.528332p-3f);
  ck_assert_float_eq(exact[D * D - 1], 0x1.540b7ep-4f);
  rt_binding_free(one);
  rt_binding_free(again);
  rt_binding_free(alone);
  rt_binding_free(seeded);
  ir_module_free(other);
  ir_module_free(module);
}
END_TEST

START_TEST(random_weights_refuse_what_cannot_be_stored) {
  ir_module *module = ir_module_new("odd");
  rt_binding *binding;
  add_weight(module, "w", false, 2, (int64_t[]){4, 33}, NULL, 0, 0);
  dp_status status = rt_bind_random(module, 1, IR_q4_0, &binding);
  ck_assert(status.code == DP_INVALID && !binding && strstr(dp_status_text(&status), "'w' has rows of 33"));
  dp_status_free(&status);
  status = rt_bind_random(module, 1, IR_i32, &binding);
  ck_assert_int_eq(status.code, DP_INVALID);
  dp_status_free(&status);
  module->weights[0].type.dims[0] = ir_symbol_dim("T");
  status = rt_bind_random(module, 1, IR_f32, &binding);
  ck_assert(status.code == DP_INVALID && strstr(dp_status_text(&status), "not fixed"));
  dp_status_free(&status);
  ir_module_free(module);
}
END_TEST

/* ---- saving ------------------------------------------------------------------------------------------------------ */

static int files_in_folder(void) {
  char command[128];
  snprintf(command, sizeof command, "ls -A '%s' | wc -l", folder);
  FILE *pipe = popen(command, "r");
  int count = -1;
  ck_assert_int_eq(fscanf(pipe, "%d", &count), 1);
  pclose(pipe);
  return count;
}

START_TEST(saved_weights_come_back_under_their_first_names) {
  ir_module *module = small_model(), *back = small_model();
  tensor_plan plan[DP_COUNT(good_plan) + LAYERS];
  memcpy(plan, good_plan, sizeof good_plan);
  static const char *const biases[] = {"blk.0.attn_q.bias", "blk.1.attn_q.bias", "blk.2.attn_q.bias"};
  static const uint32_t types[] = {TYPE_F32, TYPE_Q8_0, TYPE_F16};
  for (int i = 0; i < LAYERS; i++) plan[DP_COUNT(good_plan) + (size_t)i] = (tensor_plan){biases[i], 1, {D}, types[i]};
  dp_str s = build_gguf(plan, DP_COUNT(plan));
  rt_weights_file *file = open_memory(&s), *saved;
  rt_binding *binding, *again;
  ck_assert_int_eq(rt_bind_weights(module, file, RT_BIND_STRICT, &binding).code, DP_OK);
  static const ir_dtype dtypes[] = {IR_f32, IR_bf16, IR_f16};
  for (size_t t = 0; t < DP_COUNT(dtypes); t++) {
    char path[128];
    dp_status status = rt_save_weights(path_of("model.safetensors", path), module, binding, dtypes[t]);
    ck_assert_msg(status.code == DP_OK, "%s", dp_status_text(&status));
    status = rt_weights_open(path, &saved);
    ck_assert_msg(status.code == DP_OK, "%s", dp_status_text(&status));
    ck_assert_int_eq(rt_weights_tensor_count(saved), 1 + 3 * LAYERS); /* no tied head */
    ck_assert_str_eq(rt_weights_string(saved, "__metadata__.format"), "pt");
    ck_assert_uint_eq(rt_weights_tensor(saved, 0)->offset % 8, 0);
    ck_assert_ptr_nonnull(rt_weights_find(saved, "model.layers.2.self_attn.q_proj.weight"));
    status = rt_bind_weights(back, saved, RT_BIND_STRICT, &again);
    ck_assert_msg(status.code == DP_OK, "%s", dp_status_text(&status));
    for (int w = 0; w < module->weight_count; w++) {
      for (int64_t layer = 0; layer < rt_binding_layers(binding, w); layer++) {
        const rt_bound *from = rt_binding_get(binding, w, layer), *to = rt_binding_get(again, w, layer);
        ck_assert_int_eq(to->paired_heads, 0);
        float a[D], b[D];
        for (int64_t row = 0; row < from->rows; row++) {
          rt_bound_row(from, row, a);
          rt_bound_row(to, row, b);
          if (dtypes[t] == IR_bf16)
            for (int i = 0; i < D; i++) a[i] = rt_bf16_to_f32(rt_f32_to_bf16(a[i]));
          if (dtypes[t] == IR_f16)
            for (int i = 0; i < D; i++) a[i] = rt_f16_to_f32(rt_f32_to_f16(a[i]));
          for (int i = 0; i < D; i++)
            ck_assert_msg(a[i] == b[i], "%s, layer %d: element (%d, %d) is %a, not %a", module->weights[w].name,
                          (int)layer, (int)row, i, b[i], a[i]);
        }
      }
    }
    rt_binding_free(again);
    rt_weights_close(saved);
  }
  ck_assert_int_eq(files_in_folder(), 1);
  rt_binding_free(binding);
  rt_weights_close(file);
  dp_str_free(&s);
  ir_module_free(module);
  ir_module_free(back);
}
END_TEST

START_TEST(weights_saved_with_rotation_pairs_are_read_back_in_order) {
  /* The first source is the paired one: what is written must be paired again. */
  static const char *const names[] = {"q.{}", "bias.{}"};
  ir_module *module = ir_module_new("pairs");
  add_weight(module, "q", true, 3, (int64_t[]){2, D, 32}, &names[0], 1, HEADS);
  add_weight(module, "b", true, 2, (int64_t[]){2, D}, &names[1], 1, HEADS);
  rt_binding *binding, *again;
  rt_weights_file *saved;
  char path[128];
  ck_assert_int_eq(rt_bind_random(module, 3, IR_f32, &binding).code, DP_OK);
  ck_assert_int_eq(rt_save_weights(path_of("p.safetensors", path), module, binding, IR_f32).code, DP_OK);
  ck_assert_int_eq(rt_weights_open(path, &saved).code, DP_OK);
  ck_assert_int_eq(rt_bind_weights(module, saved, RT_BIND_STRICT, &again).code, DP_OK);
  for (int layer = 0; layer < 2; layer++) {
    float a[D * 32], b[D * 32];
    ck_assert_int_eq(rt_binding_get(again, 0, layer)->paired_heads, HEADS);
    rt_bound_to_f32(rt_binding_get(binding, 0, layer), a);
    rt_bound_to_f32(rt_binding_get(again, 0, layer), b);
    ck_assert_mem_eq(a, b, sizeof a);
    ck_assert(memcmp(rt_binding_get(binding, 0, layer)->data, rt_binding_get(again, 0, layer)->data, sizeof a) != 0);
    rt_bound_to_f32(rt_binding_get(binding, 1, layer), a);
    rt_bound_to_f32(rt_binding_get(again, 1, layer), b);
    ck_assert_mem_eq(a, b, D * sizeof *a);
  }
  rt_binding_free(again);
  rt_weights_close(saved);
  rt_binding_free(binding);
  ir_module_free(module);
}
END_TEST

static dp_status fill_counting(const void *context, int64_t first, int64_t count, void *dst) {
  int64_t cols = *(const int64_t *)context;
  for (int64_t i = 0; i < count * cols; i++) {
    float value = (float)(first * cols + i);
    memcpy((uint8_t *)dst + 4 * i, &value, 4);
  }
  return DP_SUCCESS;
}

static dp_status fill_failing(const void *context, int64_t first, int64_t count, void *dst) {
  (void)context, (void)count;
  *(uint8_t *)dst = 0;
  return first > 0 ? dp_fail(DP_CANCELLED, "stopped") : DP_SUCCESS;
}

START_TEST(tensors_are_streamed_and_a_failed_save_leaves_nothing) {
  char path[128];
  int64_t cols = 1000, wide = 1 << 20;
  int32_t ids[3] = {1, -2, 3};
  rt_save_tensor tensors[] = {
      {.name = "many \"rows\" \xc3\xa9",
       .dtype = IR_f32,
       .rank = 3,
       .dims = {3, 200, 1000},
       .fill = fill_counting,
       .context = &cols},
      {.name = "ids", .dtype = IR_i32, .rank = 1, .dims = {3}, .data = ids},
      {.name = "empty", .dtype = IR_f16, .rank = 2, .dims = {0, 4}},
      {.name = "wide", .dtype = IR_f32, .rank = 1, .dims = {1 << 20}, .fill = fill_counting, .context = &wide},
  };
  dp_status status = rt_save_safetensors(path_of("t.safetensors", path), tensors, DP_COUNT(tensors));
  ck_assert_msg(status.code == DP_OK, "%s", dp_status_text(&status));
  rt_weights_file *file;
  ck_assert_int_eq(rt_weights_open(path, &file).code, DP_OK);
  const rt_tensor *many = rt_weights_find(file, tensors[0].name);
  for (int64_t i = 0; i < many->elements; i++) {
    float value;
    memcpy(&value, many->data + 4 * i, 4);
    ck_assert_msg(value == (float)i, "element %d is %g", (int)i, value);
  }
  ck_assert_mem_eq(rt_weights_find(file, "ids")->data, ids, sizeof ids);
  ck_assert_int_eq(rt_weights_find(file, "empty")->elements, 0);
  ck_assert_int_eq(rt_weights_find(file, "wide")->elements, 1 << 20);
  rt_weights_close(file);
  struct stat before, after;
  ck_assert_int_eq(stat(path, &before), 0);

  tensors[0].fill = fill_failing;
  status = rt_save_safetensors(path, tensors, DP_COUNT(tensors));
  ck_assert_int_eq(status.code, DP_CANCELLED);
  dp_status_free(&status);
  tensors[0].fill = fill_counting;
  /* A full disk, as a limit on the size of files makes it. */
  struct rlimit old, small;
  ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &old), 0);
  small = old;
  small.rlim_cur = 100000;
  void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
  ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &small), 0);
  status = rt_save_safetensors(path, tensors, DP_COUNT(tensors));
  ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &old), 0);
  signal(SIGXFSZ, handler);
  ck_assert_int_eq(status.code, DP_IO);
  ck_assert_msg(strstr(dp_status_text(&status), path), "%s", dp_status_text(&status));
  dp_status_free(&status);

  tensors[1].name = "empty";
  status = rt_save_safetensors(path, tensors, DP_COUNT(tensors));
  ck_assert(status.code == DP_INVALID && strstr(dp_status_text(&status), "two tensors are named 'empty'"));
  dp_status_free(&status);
  tensors[1].name = "__metadata__";
  status = rt_save_safetensors(path, tensors, DP_COUNT(tensors));
  ck_assert_int_eq(status.code, DP_INVALID);
  dp_status_free(&status);
  tensors[1].name = "ids", tensors[1].dtype = IR_q8_0;
  status = rt_save_safetensors(path, tensors, DP_COUNT(tensors));
  ck_assert(status.code == DP_INVALID && strstr(dp_status_text(&status), "q8_0"));
  dp_status_free(&status);
  status = rt_save_safetensors("/nowhere/at/all.safetensors", tensors, 1);
  ck_assert_int_eq(status.code, DP_IO);
  dp_status_free(&status);
  ck_assert_int_eq(files_in_folder(), 1);
  ck_assert_int_eq(stat(path, &after), 0);
  ck_assert_uint_eq(before.st_ino, after.st_ino); /* the old file stands untouched */
}
END_TEST

/* ---- listing, threads, a real file ------------------------------------------------------------------------------- */

START_TEST(listings_show_every_tensor_and_the_totals) {
  dp_str s = sample_gguf(3), text = {0}, json = {0};
  rt_weights_file *file = open_memory(&s);
  rt_weights_list(file, false, &text);
  ck_assert_str_eq(text.text, "memory: gguf v3, llama\n"
                              "name               type  shape             bytes\n"
                              "token_embd.weight  q8_0  [5, 32]             170\n"
                              "scale              f32   []                    4\n"
                              "blk.0.w            f16   [2, 3, 4]            48\n"
                              "odd                q6_k  [2, 256]            420  (unsupported type)\n"
                              "4 tensors, 697 parameters, 642 bytes\n");
  rt_weights_list(file, true, &json);
  ck_assert_ptr_nonnull(
      strstr(json.text, "{\"name\": \"blk.0.w\", \"type\": \"f16\", \"shape\": [2, 3, 4], \"bytes\": 48,"));
  ck_assert_ptr_nonnull(strstr(json.text, "\"llama.eps\": 0.5"));
  ck_assert_ptr_nonnull(strstr(json.text, "\"a.bool\": true"));
  ck_assert_ptr_nonnull(strstr(json.text, "\"parameters\": 697, \"bytes\": 642}"));
  dp_str_free(&text);
  dp_str_free(&json);
  rt_weights_close(file);
  dp_str_free(&s);
}
END_TEST

static void *read_in_thread(void *file) { return (void *)(uintptr_t)read_everything(file); }

START_TEST(threads_may_read_one_file_at_once) {
  dp_str s = sample_gguf(3);
  rt_weights_file *file = open_memory(&s);
  pthread_t threads[4];
  void *sums[4];
  for (int i = 0; i < 4; i++) ck_assert_int_eq(pthread_create(&threads[i], NULL, read_in_thread, file), 0);
  for (int i = 0; i < 4; i++) pthread_join(threads[i], &sums[i]);
  for (int i = 1; i < 4; i++) ck_assert_ptr_eq(sums[i], sums[0]);
  rt_weights_close(file);
  dp_str_free(&s);
}
END_TEST

START_TEST(a_real_file_opens) {
  const char *path = getenv("DIPPER_GGUF");
  if (!path) return;
  rt_weights_file *file;
  dp_status status = rt_weights_open(path, &file);
  ck_assert_msg(status.code == DP_OK, "%s", dp_status_text(&status));
  double vocabulary;
  ck_assert(rt_weights_number(file, "vocab_size", &vocabulary) && vocabulary > 0);
  int64_t count = 0;
  ck_assert_ptr_nonnull(rt_weights_strings(file, "tokenizer.ggml.tokens", &count));
  ck_assert_int_gt(count, 0);
  read_everything(file);
  rt_weights_close(file);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("weights");
  TCase *files = tcase_create("files");
  tcase_add_checked_fixture(files, make_folder, remove_folder);
  tcase_set_timeout(files, 300);
  tcase_add_test(files, a_gguf_file_opens_as_it_was_written);
  tcase_add_test(files, a_safetensors_file_opens_as_it_was_written);
  tcase_add_test(files, config_json_beside_safetensors_gives_the_metadata);
  tcase_add_test(files, damaged_gguf_files_are_refused_with_a_place);
  tcase_add_test(files, damaged_safetensors_files_are_refused_with_a_place);
  tcase_add_test(files, missing_files_and_folders_are_refused);
  tcase_add_test(files, no_mutation_of_a_file_is_read_out_of_bounds);
  tcase_add_test(files, listings_show_every_tensor_and_the_totals);
  tcase_add_test(files, threads_may_read_one_file_at_once);
  tcase_add_test(files, a_real_file_opens);
  suite_add_tcase(suite, files);
  TCase *binding = tcase_create("binding");
  tcase_add_test(binding, a_model_gets_every_layer_of_every_weight);
  tcase_add_test(binding, one_tensor_may_hold_all_layers);
  tcase_add_test(binding, everything_that_does_not_fit_is_told_at_once);
  tcase_add_test(binding, extra_tensors_are_noted_and_refused_only_when_strict);
  tcase_add_test(binding, ties_that_cannot_hold_are_refused);
  tcase_add_test(binding, random_weights_depend_on_seed_name_layer_and_index_only);
  tcase_add_test(binding, random_weights_refuse_what_cannot_be_stored);
  suite_add_tcase(suite, binding);
  TCase *saving = tcase_create("saving");
  tcase_add_checked_fixture(saving, make_folder, remove_folder);
  tcase_add_test(saving, saved_weights_come_back_under_their_first_names);
  tcase_add_test(saving, weights_saved_with_rotation_pairs_are_read_back_in_order);
  tcase_add_test(saving, tensors_are_streamed_and_a_failed_save_leaves_nothing);
  suite_add_tcase(suite, saving);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed ? 1 : 0;
}
