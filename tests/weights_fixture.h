/* tests/weights_fixture.h: weights files built in memory or in a folder of their own, and small modules to bind them
 * to, for every suite about weights. */
#ifndef DIPPER_TESTS_WEIGHTS_FIXTURE_H
#define DIPPER_TESTS_WEIGHTS_FIXTURE_H

#include "runtime/weights.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- files ---------------------------------------------------------------------------------------------------------
 */

enum { U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 };
enum {
  TYPE_F32 = 0,
  TYPE_F16 = 1,
  TYPE_Q4_0 = 2,
  TYPE_Q4_1 = 3,
  TYPE_Q8_0 = 8,
  TYPE_IQ2_S = 22,
  TYPE_I32 = 26,
  TYPE_BF16 = 30
};

static char folder[64];

static inline void make_folder(void) {
  strcpy(folder, "/tmp/dipper-weights-XXXXXX");
  ck_assert_ptr_nonnull(mkdtemp(folder));
}

static inline void remove_folder(void) {
  char command[128];
  snprintf(command, sizeof command, "rm -rf '%s'", folder);
  ck_assert_int_eq(system(command), 0);
}

static const char *path_of(const char *name, char path[128]) {
  snprintf(path, 128, "%s/%s", folder, name);
  return path;
}

static inline void write_file(const char *name, const void *data, size_t size) {
  char path[128];
  FILE *file = fopen(path_of(name, path), "wb");
  ck_assert_ptr_nonnull(file);
  ck_assert_uint_eq(fwrite(data, 1, size, file), size);
  ck_assert_int_eq(fclose(file), 0);
}

static inline void put(dp_str *out, const void *data, size_t size) { dp_str_addn(out, data, size); }
static inline void put_u32(dp_str *out, uint32_t value) { put(out, &value, 4); }
static inline void put_u64(dp_str *out, uint64_t value) { put(out, &value, 8); }

static inline void put_string(dp_str *out, const char *text) {
  put_u64(out, strlen(text));
  dp_str_add(out, text);
}

static inline void put_header(dp_str *out, uint32_t version, uint64_t tensors, uint64_t metas) {
  dp_str_add(out, "GGUF");
  put_u32(out, version);
  put_u64(out, tensors);
  put_u64(out, metas);
}

static inline void put_key(dp_str *out, const char *key, uint32_t type) {
  put_string(out, key);
  put_u32(out, type);
}

static inline void put_meta_u32(dp_str *out, const char *key, uint32_t value) {
  put_key(out, key, U32);
  put_u32(out, value);
}

static inline void put_meta_string(dp_str *out, const char *key, const char *value) {
  put_key(out, key, STRING);
  put_string(out, value);
}

/* dims in row-major order, as the test means them; the file has them the other way round. */
static inline void put_tensor(dp_str *out, const char *name, int rank, const int64_t *dims, uint32_t type,
                              uint64_t offset) {
  put_string(out, name);
  put_u32(out, (uint32_t)rank);
  for (int i = rank - 1; i >= 0; i--) put_u64(out, (uint64_t)dims[i]);
  put_u32(out, type);
  put_u64(out, offset);
}

static inline void pad(dp_str *out, size_t alignment) {
  while (out->length % alignment) dp_str_addc(out, '\0');
}

static inline void put_zeros(dp_str *out, size_t count) {
  for (size_t i = 0; i < count; i++) dp_str_addc(out, '\0');
}

static inline dp_str make_safetensors(const char *header, size_t data_bytes) {
  dp_str s = {0};
  put_u64(&s, strlen(header));
  dp_str_add(&s, header);
  for (size_t i = 0; i < data_bytes; i++) dp_str_addc(&s, (char)(i * 5));
  return s;
}

static inline rt_weights_file *open_memory(const dp_str *s) {
  rt_weights_file *file;
  dp_status status = rt_weights_open_memory("memory", s->text, s->length, &file);
  ck_assert_msg(status.code == DP_OK, "%s", dp_status_text(&status));
  return file;
}

static inline int files_in_folder(void) {
  char command[128];
  snprintf(command, sizeof command, "ls -A '%s' | wc -l", folder);
  FILE *pipe = popen(command, "r");
  int count = -1;
  ck_assert_int_eq(fscanf(pipe, "%d", &count), 1);
  pclose(pipe);
  return count;
}

/* The status is a failure, and its message holds every part (separated by '|'). Frees it. */
static inline void check_message(dp_status status, dp_code code, const char *parts) {
  ck_assert_msg(status.code == code, "code %d, message '%s', wanted %d and '%s'", status.code, dp_status_text(&status),
                code, parts);
  char copy[1024];
  snprintf(copy, sizeof copy, "%s", parts);
  for (char *save, *part = strtok_r(copy, "|", &save); part; part = strtok_r(NULL, "|", &save))
    ck_assert_msg(strstr(dp_status_text(&status), part), "no '%s' in: %s", part, dp_status_text(&status));
  dp_status_free(&status);
}

/* ---- tensors of known values ---------------------------------------------------------------------------------------
 */

typedef struct tensor_plan {
  const char *name;
  int rank;
  int64_t dims[4];
  uint32_t type;
} tensor_plan;

static inline ir_dtype dtype_of(uint32_t type) {
  return type == TYPE_F32    ? IR_f32
         : type == TYPE_F16  ? IR_f16
         : type == TYPE_BF16 ? IR_bf16
         : type == TYPE_Q8_0 ? IR_q8_0
         : type == TYPE_Q4_0 ? IR_q4_0
         : type == TYPE_I32  ? IR_i32
                             : IR_q4_1;
}

/* What element `index` of tensor `name` was before it was stored. */
static inline float planned(const char *name, int64_t index) {
  uint64_t h = dp_hash(dp_hash(0, name, strlen(name)), &index, sizeof index);
  return (float)((int)(h % 2001) - 1000) / 1024;
}

static inline dp_str build_gguf(const tensor_plan *plan, int count) {
  dp_str s = {0}, data = {0};
  put_header(&s, 3, (uint64_t)count, 1);
  put_meta_string(&s, "general.architecture", "llama");
  for (int i = 0; i < count; i++) {
    put_tensor(&s, plan[i].name, plan[i].rank, plan[i].dims, plan[i].type, data.length);
    int64_t elements = 1;
    for (int d = 0; d < plan[i].rank; d++) elements *= plan[i].dims[d];
    if (plan[i].type == TYPE_IQ2_S) {
      put_zeros(&data, (size_t)elements / 256 * 82);
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

/* ---- modules -------------------------------------------------------------------------------------------------------
 */

static inline void add_weight(ir_module *module, const char *name, bool stacked, int rank, const int64_t *dims,
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

#endif
