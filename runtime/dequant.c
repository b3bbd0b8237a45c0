/* runtime/dequant.c: stored elements <-> f32, a row at a time, as the block formats define them (GGUF: ggml
 * quantization types f16, bf16, q8_0, q4_0, q4_1; see ir/dtypes.def). This is the meaning that generated kernels must
 * reproduce, and what tests compare them with. Products that could be contracted into an fma are exact or rounded
 * through a cast, so that every compiler gives the same bits. */
#include "runtime/weights.h"

#include <math.h>
#include <string.h>

enum { BLOCK = 32 };

/* ---- 16-bit floats ----------------------------------------------------------------------------------------------- */

static inline float bits_to_f32(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

static inline uint32_t f32_to_bits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

float rt_f16_to_f32(uint16_t half) {
  uint32_t sign = (uint32_t)(half & 0x8000) << 16, rest = half & 0x7fff;
  if (rest >= 0x7c00) return bits_to_f32(sign | 0x7f800000 | rest << 13); /* inf, nan */
  if (rest >= 0x0400) return bits_to_f32(sign | ((rest << 13) + ((127 - 15) << 23)));
  return bits_to_f32(sign | f32_to_bits((float)rest * 0x1p-24f)); /* subnormal */
}

uint16_t rt_f32_to_f16(float value) {
  uint32_t bits = f32_to_bits(value), sign = bits >> 16 & 0x8000, rest = bits & 0x7fffffff;
  if (rest > 0x7f800000) { /* nan: the payload's upper bits; never an infinity */
    uint32_t payload = rest >> 13 & 0x3ff;
    return (uint16_t)(sign | 0x7c00 | (payload ? payload : 0x200));
  }
  if (rest >= 0x477ff000) return (uint16_t)(sign | 0x7c00); /* 65520 and above round to infinity */
  if (rest >= 0x38800000) return (uint16_t)(sign | (rest - ((127 - 15) << 23) + 0xfff + (rest >> 13 & 1)) >> 13);
  /* below 2^-14: the addition rounds to a multiple of 2^-24, the smallest half */
  return (uint16_t)(sign | (f32_to_bits(bits_to_f32(rest) + 0.5f) - 0x3f000000));
}

float rt_bf16_to_f32(uint16_t half) { return bits_to_f32((uint32_t)half << 16); }

uint16_t rt_f32_to_bf16(float value) {
  uint32_t bits = f32_to_bits(value);
  if ((bits & 0x7fffffff) > 0x7f800000) return (uint16_t)(bits >> 16 | 0x40);
  return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static inline uint16_t load_u16(const void *at) {
  uint16_t value;
  memcpy(&value, at, sizeof value);
  return value;
}

/* ---- decoding ---------------------------------------------------------------------------------------------------- */

int64_t rt_row_bytes(ir_dtype dtype, int64_t n) {
  int64_t elements = ir_dtype_block_elements(dtype), bytes;
  if (n < 0 || n % elements != 0) return -1;
  return __builtin_mul_overflow(n / elements, (int64_t)ir_dtype_block_bytes(dtype), &bytes) ? -1 : bytes;
}

/* block: f16 d, int8 q[32] */
static void decode_q8_0(const uint8_t *block, float *dst) {
  float d = rt_f16_to_f32(load_u16(block));
  for (int i = 0; i < BLOCK; i++) dst[i] = d * (float)(int8_t)block[2 + i];
}

/* block: f16 d, 16 bytes; byte j holds element j low, element j + 16 high */
static void decode_q4_0(const uint8_t *block, float *dst) {
  float d = rt_f16_to_f32(load_u16(block));
  for (int j = 0; j < BLOCK / 2; j++) {
    dst[j] = d * (float)((block[2 + j] & 15) - 8);
    dst[j + BLOCK / 2] = d * (float)((block[2 + j] >> 4) - 8);
  }
}

/* block: f16 d, f16 m, 16 bytes as q4_0's. d * q is exact (11 + 4 bits), so an fma would give the same bits. */
static void decode_q4_1(const uint8_t *block, float *dst) {
  float d = rt_f16_to_f32(load_u16(block)), m = rt_f16_to_f32(load_u16(block + 2));
  for (int j = 0; j < BLOCK / 2; j++) {
    dst[j] = d * (float)(block[4 + j] & 15) + m;
    dst[j + BLOCK / 2] = d * (float)(block[4 + j] >> 4) + m;
  }
}

void rt_dequantize_row(ir_dtype dtype, const void *src, float *dst, int64_t n) {
  const uint8_t *bytes = src;
  size_t step = (size_t)ir_dtype_block_bytes(dtype);
  switch (dtype) {
  case IR_f32:
    memcpy(dst, src, (size_t)n * sizeof *dst);
    break;
  case IR_f16:
    for (int64_t i = 0; i < n; i++) dst[i] = rt_f16_to_f32(load_u16(bytes + 2 * i));
    break;
  case IR_bf16:
    for (int64_t i = 0; i < n; i++) dst[i] = rt_bf16_to_f32(load_u16(bytes + 2 * i));
    break;
  case IR_q8_0:
    for (int64_t i = 0; i < n; i += BLOCK, bytes += step) decode_q8_0(bytes, dst + i);
    break;
  case IR_q4_0:
    for (int64_t i = 0; i < n; i += BLOCK, bytes += step) decode_q4_0(bytes, dst + i);
    break;
  case IR_q4_1:
    for (int64_t i = 0; i < n; i += BLOCK, bytes += step) decode_q4_1(bytes, dst + i);
    break;
  default:
    memset(dst, 0, (size_t)n * sizeof *dst);
    break;
  }
}

/* ---- encoding ---------------------------------------------------------------------------------------------------- */

static void store_u16(void *at, uint16_t value) { memcpy(at, &value, sizeof value); }

/* x * y rounded to f32 on its own: the product of two f32 is exact in f64, and the cast rounds it once. */
static inline float product(float x, float y) { return (float)((double)x * (double)y); }

/* Toward zero, held to [low, high]; nan becomes low. */
static inline int to_int(float x, int low, int high) { return x >= (float)high ? high : x > (float)low ? (int)x : low; }

static float inverse(float d) { return d == 0.0f ? 0.0f : 1.0f / d; }

static void encode_q8_0(const float *src, uint8_t *block) {
  float largest = 0.0f;
  for (int i = 0; i < BLOCK; i++) largest = fabsf(src[i]) > largest ? fabsf(src[i]) : largest;
  float d = largest / 127.0f, id = inverse(d);
  store_u16(block, rt_f32_to_f16(d));
  for (int i = 0; i < BLOCK; i++) { /* to nearest, halves away from zero */
    float scaled = product(src[i], id), magnitude = fabsf(scaled), whole = floorf(magnitude);
    int q = to_int(whole + floorf(2.0f * (magnitude - whole)), 0, 127);
    block[2 + i] = (uint8_t)(scaled < 0.0f ? -q : q);
  }
}

static void encode_q4_0(const float *src, uint8_t *block) {
  float extreme = src[0]; /* the first of the largest magnitude, with its sign: it becomes exactly -8 d */
  for (int i = 1; i < BLOCK; i++) extreme = fabsf(src[i]) > fabsf(extreme) ? src[i] : extreme;
  float d = extreme / -8.0f, id = inverse(d);
  store_u16(block, rt_f32_to_f16(d));
  for (int j = 0; j < BLOCK / 2; j++) {
    int low = to_int(product(src[j], id) + 8.5f, 0, 15), high = to_int(product(src[j + BLOCK / 2], id) + 8.5f, 0, 15);
    block[2 + j] = (uint8_t)(low | high << 4);
  }
}

static void encode_q4_1(const float *src, uint8_t *block) {
  float low = src[0], high = src[0];
  for (int i = 1; i < BLOCK; i++) {
    low = src[i] < low ? src[i] : low;
    high = src[i] > high ? src[i] : high;
  }
  float d = (high - low) / 15.0f, id = inverse(d);
  store_u16(block, rt_f32_to_f16(d));
  store_u16(block + 2, rt_f32_to_f16(low));
  for (int j = 0; j < BLOCK / 2; j++) {
    int q0 = to_int(product(src[j] - low, id) + 0.5f, 0, 15);
    int q1 = to_int(product(src[j + BLOCK / 2] - low, id) + 0.5f, 0, 15);
    block[4 + j] = (uint8_t)(q0 | q1 << 4);
  }
}

void rt_quantize_row(ir_dtype dtype, const float *src, void *dst, int64_t n) {
  uint8_t *bytes = dst;
  size_t step = (size_t)ir_dtype_block_bytes(dtype);
  switch (dtype) {
  case IR_f32:
    memcpy(dst, src, (size_t)n * sizeof *src);
    break;
  case IR_f16:
    for (int64_t i = 0; i < n; i++) store_u16(bytes + 2 * i, rt_f32_to_f16(src[i]));
    break;
  case IR_bf16:
    for (int64_t i = 0; i < n; i++) store_u16(bytes + 2 * i, rt_f32_to_bf16(src[i]));
    break;
  case IR_q8_0:
    for (int64_t i = 0; i < n; i += BLOCK, bytes += step) encode_q8_0(src + i, bytes);
    break;
  case IR_q4_0:
    for (int64_t i = 0; i < n; i += BLOCK, bytes += step) encode_q4_0(src + i, bytes);
    break;
  case IR_q4_1:
    for (int64_t i = 0; i < n; i += BLOCK, bytes += step) encode_q4_1(src + i, bytes);
    break;
  default:
    break;
  }
}
