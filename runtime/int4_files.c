/* runtime/int4_files.c: GPTQ's and AWQ's tensors -> rows of blocks of 32 int4 elements, value d * (q - z), exactly as
 * those tools' own unpacking has it before it rounds the product to f16. With n outputs, k inputs, groups of inputs:
 *   GPTQ: qweight i32[k / 8, n]: word (i, c) holds inputs 8i..8i+7 of output c, the first in the low bits
 *         qzeros i32[groups, n / 8], outputs 8j..8j+7 in order, less one ("gptq": a stored 15 is 16, as most kernels
 * have it) or as they are ("gptq_v2"); scales f16[groups, n]; g_idx i32[k]: the group of each input AWQ:  qweight
 * i32[k, n / 8]: word (i, j) holds outputs 8j + 0, 2, 4, 6, 1, 3, 5, 7 of input i, the first in the low bits; qzeros
 * i32[groups, n / 8] in the same order; scales f16[groups, n] config.json's quantization_config says which. */
#include "runtime/int4_files.h"

#include <inttypes.h>
#include <string.h>

enum { BLOCK = 32, A_WORD = 8 };

static const uint8_t awq_shift[A_WORD] = {0, 16, 4, 20, 8, 24, 12, 28}; /* of output 8j + i */

static inline uint32_t load_u32(const uint8_t *at) {
  uint32_t value;
  memcpy(&value, at, sizeof value);
  return value;
}

/* ---- what the file has ------------------------------------------------------------------------------------------- */

static const rt_tensor *find_part(const rt_weights_file *file, const char *name, const char *part) {
  dp_str whole = {0};
  dp_str_addn(&whole, name, strlen(name) - strlen("weight"));
  dp_str_add(&whole, part);
  const rt_tensor *tensor = whole.failed ? NULL : rt_weights_find(file, whole.text);
  dp_str_free(&whole);
  return tensor;
}

static bool ends_with(const char *text, const char *end) {
  size_t n = strlen(text), m = strlen(end);
  return n >= m && strcmp(text + n - m, end) == 0;
}

static bool is_method(const char *text, const char *name) { return text && strcmp(text, name) == 0; }

/* How the file says that it was quantized. */
static bool read_config(const rt_weights_file *file, rt_int4_tensor *t, dp_str *problem) {
  const char *method = rt_weights_string(file, "quantization_config.quant_method");
  const char *version = rt_weights_string(file, "quantization_config.version");
  const char *format = rt_weights_string(file, "quantization_config.checkpoint_format");
  double bits = 4, group_size = -1;
  if (!method) {
    dp_str_add(problem, "quantized, but config.json has no quantization_config.quant_method that says how");
    return false;
  }
  t->awq = is_method(method, "awq");
  if (!t->awq && !is_method(method, "gptq")) {
    dp_str_addf(problem, "quantized by '%.40s', dipper reads gptq and awq", method);
    return false;
  }
  if (!rt_weights_number(file, "quantization_config.bits", &bits))
    rt_weights_number(file, "quantization_config.w_bit", &bits);
  if (!rt_weights_number(file, "quantization_config.group_size", &group_size))
    rt_weights_number(file, "quantization_config.q_group_size", &group_size);
  if (bits != 4) {
    dp_str_addf(problem, "quantized to %g bits, dipper reads 4", bits);
    return false;
  }
  if (t->awq && version && !is_method(version, "gemm") && !is_method(version, "GEMM")) {
    dp_str_addf(problem, "laid out as AWQ's '%.40s', dipper reads 'gemm'", version);
    return false;
  }
  t->zero_add = !t->awq && !is_method(format, "gptq_v2");
  if (group_size != -1 && !(group_size >= 1 && group_size < 0x1p31 && group_size == (double)(int64_t)group_size)) {
    dp_str_addf(problem, "quantized in groups of %g", group_size);
    return false;
  }
  t->group_size = (int64_t)group_size;
  return true;
}

static bool has_shape(const rt_tensor *tensor, ir_dtype dtype, int64_t rows, int64_t cols) {
  return tensor && tensor->supported && (tensor->dtype == dtype || dtype == IR_DTYPE_COUNT) && tensor->rank == 2 &&
         tensor->dims[0] == rows && tensor->dims[1] == cols;
}

static bool is_float(const rt_tensor *tensor) {
  return tensor && tensor->supported &&
         (tensor->dtype == IR_f16 || tensor->dtype == IR_bf16 || tensor->dtype == IR_f32);
}

static bool check_shapes(rt_int4_tensor *t, dp_str *problem) {
  const rt_tensor *words = t->words;
  int64_t n, k;
  if (!words->supported || words->dtype != IR_i32 || words->rank != 2 || words->dims[0] < 1 || words->dims[1] < 1 ||
      words->dims[0] > INT32_MAX || words->dims[1] > INT32_MAX) {
    dp_str_addf(problem, "has a qweight that is no i32 matrix");
    return false;
  }
  n = words->dims[1] * (t->awq ? A_WORD : 1);
  k = words->dims[0] * (t->awq ? 1 : A_WORD);
  if (t->group_size == -1) t->group_size = k;
  int64_t groups = (k + t->group_size - 1) / t->group_size;
  if (k % BLOCK != 0 || n % A_WORD != 0 || (t->group_size % BLOCK != 0 && groups > 1)) {
    dp_str_addf(problem,
                "[%" PRId64 ", %" PRId64 "] in groups of %" PRId64
                ": dipper reads groups and rows that are multiples of 32",
                n, k, t->group_size);
    return false;
  }
  if (!has_shape(t->zeros, IR_i32, groups, n / A_WORD) || !is_float(t->scales) ||
      !has_shape(t->scales, IR_DTYPE_COUNT, groups, n)) {
    dp_str_addf(problem,
                "needs qzeros i32[%" PRId64 ", %" PRId64 "] and scales f16[%" PRId64 ", %" PRId64 "] beside it", groups,
                n / A_WORD, groups, n);
    return false;
  }
  if (t->groups &&
      (!t->groups->supported || t->groups->dtype != IR_i32 || t->groups->rank != 1 || t->groups->dims[0] != k)) {
    dp_str_addf(problem, "has a g_idx that is not i32[%" PRId64 "]", k);
    return false;
  }
  t->tensor.rank = 2;
  t->tensor.dims[0] = n, t->tensor.dims[1] = k;
  t->tensor.elements = n * k;
  return true;
}

static int64_t group_of(const rt_int4_tensor *t, int64_t column) {
  return t->groups ? (int64_t)load_u32(t->groups->data + 4 * column) : column / t->group_size;
}

/* Are all groups there, and does each block of columns lie in one? */
static bool check_groups(const rt_int4_tensor *t, bool *mixed, dp_str *problem) {
  *mixed = false;
  for (int64_t c = 0; t->groups && c < t->tensor.dims[1]; c++) {
    if (group_of(t, c) >= t->scales->dims[0]) {
      dp_str_addf(problem, "has a g_idx of %" PRId64 " at %" PRId64 ", there are %" PRId64 " groups", group_of(t, c), c,
                  t->scales->dims[0]);
      return false;
    }
    *mixed = *mixed || group_of(t, c) != group_of(t, c - c % BLOCK);
  }
  return true;
}

static float scale_of(const rt_int4_tensor *t, int64_t group, int64_t row) {
  float scale;
  int64_t at = group * t->scales->dims[1] + row;
  rt_dequantize_row(t->scales->dtype, t->scales->data + at * ir_dtype_block_bytes(t->scales->dtype), &scale, 1);
  return scale;
}

static bool scales_fit_f16(const rt_int4_tensor *t) {
  if (t->scales->dtype == IR_f16) return true;
  for (int64_t g = 0; g < t->scales->dims[0]; g++)
    for (int64_t r = 0; r < t->scales->dims[1]; r++)
      if (rt_f16_to_f32(rt_f32_to_f16(scale_of(t, g, r))) != scale_of(t, g, r)) return false;
  return true;
}

const rt_int4_tensor *rt_int4_find(const rt_weights_file *file, const char *name, dp_arena *arena, dp_str *problem) {
  if (!ends_with(name, ".weight")) return NULL;
  const rt_tensor *words = find_part(file, name, "qweight");
  if (!words) return NULL;
  rt_int4_tensor *t = DP_NEW(arena, rt_int4_tensor);
  *t = (rt_int4_tensor){.words = words,
                        .zeros = find_part(file, name, "qzeros"),
                        .scales = find_part(file, name, "scales"),
                        .groups = find_part(file, name, "g_idx")};
  t->tensor.name = dp_arena_strdup(arena, name);
  bool mixed;
  if (!read_config(file, t, problem) || !check_shapes(t, problem) || !check_groups(t, &mixed, problem)) return t;
  t->tensor.supported = true;
  if (mixed || !scales_fit_f16(t) || !ir_dtype_parse("int4", &t->tensor.dtype)) t->tensor.dtype = IR_f32;
  t->tensor.type_name = ir_dtype_name(t->tensor.dtype);
  t->tensor.bytes = (size_t)(t->tensor.dims[0] * rt_row_bytes(t->tensor.dtype, t->tensor.dims[1]));
  return t;
}

/* ---- its rows ---------------------------------------------------------------------------------------------------- */

/* Columns column..column+31 of a row: column is a multiple of 32. */
static void read_block(const rt_int4_tensor *t, int64_t row, int64_t column, uint8_t q[BLOCK]) {
  int64_t width = t->words->dims[1];
  if (t->awq) {
    const uint8_t *at = t->words->data + 4 * (column * width + row / A_WORD);
    for (int i = 0; i < BLOCK; i++) q[i] = load_u32(at + 4 * i * width) >> awq_shift[row % A_WORD] & 15;
    return;
  }
  const uint8_t *at = t->words->data + 4 * (column / A_WORD * width + row);
  for (int w = 0; w < BLOCK / A_WORD; w++) {
    uint32_t word = load_u32(at + 4 * w * width);
    for (int i = 0; i < A_WORD; i++) q[w * A_WORD + i] = word >> 4 * i & 15;
  }
}

static int zero_of(const rt_int4_tensor *t, int64_t group, int64_t row) {
  uint32_t word = load_u32(t->zeros->data + 4 * (group * t->zeros->dims[1] + row / A_WORD));
  int64_t i = row % A_WORD;
  return (int)(word >> (t->awq ? awq_shift[i] : 4 * i) & 15) + t->zero_add;
}

/* f16 scale, zero point, 16 bytes: byte j holds element j low, element j + 16 high. */
static void make_block(const rt_int4_tensor *t, int64_t row, int64_t column, uint8_t *block) {
  int64_t group = group_of(t, column);
  uint16_t scale = rt_f32_to_f16(scale_of(t, group, row));
  uint8_t q[BLOCK];
  read_block(t, row, column, q);
  memcpy(block, &scale, sizeof scale);
  block[2] = (uint8_t)zero_of(t, group, row);
  for (int j = 0; j < BLOCK / 2; j++) block[3 + j] = (uint8_t)(q[j] | q[j + BLOCK / 2] << 4);
}

static void make_f32(const rt_int4_tensor *t, int64_t row, int64_t column, int64_t columns, uint8_t *dst) {
  uint8_t q[BLOCK];
  for (int64_t c = column; c < column + columns; c++, dst += sizeof(float)) {
    if (c == column || c % BLOCK == 0) read_block(t, row, c - c % BLOCK, q);
    int64_t group = group_of(t, c);
    float value = scale_of(t, group, row) * (float)(q[c % BLOCK] - zero_of(t, group, row));
    memcpy(dst, &value, sizeof value);
  }
}

void rt_int4_rows(const rt_int4_tensor *t, int64_t row, int64_t count, int64_t column, int64_t columns, uint8_t *dst) {
  int64_t row_bytes = rt_row_bytes(t->tensor.dtype, columns), block_bytes = ir_dtype_block_bytes(t->tensor.dtype);
  if (t->tensor.dtype == IR_f32) {
    for (int64_t i = 0; i < count; i++) make_f32(t, row + i, column, columns, dst + i * row_bytes);
    return;
  }
  for (int64_t b = 0; b < columns / BLOCK; b++) /* blocks outside: neighbouring rows share the file's cache lines */
    for (int64_t i = 0; i < count; i++)
      make_block(t, row + i, column + b * BLOCK, dst + i * row_bytes + b * block_bytes);
}
