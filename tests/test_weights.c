/* tests/test_weights.c: weights files: what is opened is what was written, what is damaged is refused with a place.
 * Files are built here; with DIPPER_GGUF set to a real file, that one is opened too. */
#include "tests/weights_fixture.h"

#include <math.h>
#include <pthread.h>

/* ---- files to open ----------------------------------------------------------------------------------------------- */

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
  put_tensor(&s, "odd", 2, (int64_t[]){2, 256}, TYPE_IQ2_S, 288);
  pad(&s, 32);
  for (int i = 0; i < 288 + 164; i++) dp_str_addc(&s, (char)(i * 7));
  return s;
}

static const char sample_header[] = "{\"__metadata__\":{\"format\":\"pt\"},"
                                    "\"w\":{\"dtype\":\"BF16\",\"shape\":[2,3],\"data_offsets\":[4,16]},"
                                    "\"b\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]},"
                                    "\"none\":{\"dtype\":\"F16\",\"shape\":[0,8],\"data_offsets\":[16,16]},"
                                    "\"f8\":{\"dtype\":\"F8_E4M3\",\"shape\":[3],\"data_offsets\":[16,19]},"
                                    "\"new\":{\"dtype\":\"F4_X\",\"shape\":[9],\"data_offsets\":[19,24]}}  ";

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
  ck_assert_str_eq(odd->type_name, "iq2_s");
  ck_assert_uint_eq(odd->bytes, 164);
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

/* ---- listing, threads, a real file ------------------------------------------------------------------------------- */

START_TEST(listings_show_every_tensor_and_the_totals) {
  dp_str s = sample_gguf(3), text = {0}, json = {0};
  rt_weights_file *file = open_memory(&s);
  rt_weights_list(file, false, &text);
  ck_assert_str_eq(text.text, "memory: gguf v3, llama\n"
                              "name               type   shape             bytes\n"
                              "token_embd.weight  q8_0   [5, 32]             170\n"
                              "scale              f32    []                    4\n"
                              "blk.0.w            f16    [2, 3, 4]            48\n"
                              "odd                iq2_s  [2, 256]            164  (unsupported type)\n"
                              "4 tensors, 697 parameters, 386 bytes\n");
  rt_weights_list(file, true, &json);
  ck_assert_ptr_nonnull(
      strstr(json.text, "{\"name\": \"blk.0.w\", \"type\": \"f16\", \"shape\": [2, 3, 4], \"bytes\": 48,"));
  ck_assert_ptr_nonnull(strstr(json.text, "\"llama.eps\": 0.5"));
  ck_assert_ptr_nonnull(strstr(json.text, "\"a.bool\": true"));
  ck_assert_ptr_nonnull(strstr(json.text, "\"parameters\": 697, \"bytes\": 386}"));
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
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed ? 1 : 0;
}
