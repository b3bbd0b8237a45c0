/* runtime/dequant.c: stored elements <-> f32, a row at a time, as the block formats define them (GGUF: ggml
 * quantization types of the same names; see ir/dtypes.def). This is the meaning that generated kernels must
 * reproduce, and what tests compare them with. Products that could be contracted into an fma are exact or rounded
 * through a cast, so that every compiler gives the same bits. */
#include "runtime/blocks.h"
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

/* 2^(e - 128); its smallest two are subnormal. */
static float exponent_scale(uint8_t e) { return bits_to_f32(e < 2 ? 0x200000u << e : (uint32_t)(e - 1) << 23); }

typedef struct group_scale {
  float scale, minimum; /* of the sum: what is added */
} group_scale;

/* Every product here is exact: 11 bits of d, six of a scale. */
static group_scale scale_of_group(const ir_packing *p, const uint8_t *image, int group) {
  group_scale s = {p->exponent ? exponent_scale(image[0]) : rt_f16_to_f32(load_u16(image)), 0};
  if (p->has_minimum) s.minimum = rt_f16_to_f32(load_u16(image + p->minimum_at));
  const uint8_t *numbers = image + p->groups_at;
  if (p->groups == IR_GROUP_i8) s.scale *= (float)(int8_t)numbers[group];
  if (p->groups == IR_GROUP_u8) {
    s.scale *= (float)numbers[group];
    s.minimum *= -(float)numbers[p->elements / p->group + group];
  }
  if (p->groups == IR_GROUP_nibbles) {
    s.scale *= (float)(numbers[group] & 15);
    s.minimum *= -(float)(numbers[group] >> 4);
  }
  return s;
}

static int offset_of(const ir_packing *p, const uint8_t *image) { return p->has_zero ? image[p->zero_at] : p->offset; }

/* s * q is exact (17 bits and 5 at most) wherever something is added to it. */
static void decode_block(ir_dtype dtype, const ir_packing *p, const uint8_t *block, float *dst) {
  uint8_t image[RT_IMAGE_BYTES], codes[RT_BLOCK_ELEMENTS];
  rt_block_to_image(dtype, p, block, image);
  rt_image_codes(p, image, codes);
  int offset = offset_of(p, image);
  for (int first = 0; first < p->elements; first += p->group) {
    group_scale s = scale_of_group(p, image, first / p->group);
    for (int i = first; i < first + p->group; i++) {
      int code = p->low_bits == 8 ? (int8_t)codes[i] : codes[i];
      float q = (float)(p->table ? p->table[code] : code - offset);
      dst[i] = p->has_minimum ? s.scale * q + s.minimum : s.scale * q;
    }
  }
}

static void decode_blocks(ir_dtype dtype, const uint8_t *bytes, float *dst, int64_t n) {
  ir_packing packing = ir_packing_of(dtype);
  for (int64_t i = 0; i < n; i += packing.elements, bytes += ir_dtype_block_bytes(dtype))
    decode_block(dtype, &packing, bytes, dst + i);
}

void rt_dequantize_row(ir_dtype dtype, const void *src, float *dst, int64_t n) {
  const uint8_t *bytes = src;
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
  case IR_i32:
    memset(dst, 0, (size_t)n * sizeof *dst);
    break;
  default:
    decode_blocks(dtype, bytes, dst, n);
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

/* ---- encoding any other block
 *
 * Each group's range of values is laid over the range of its numbers, scales and minimums are rounded to what the block
 * can hold, and each element takes the nearest number. Not what ggml's quantizers search for, which weigh elements: a
 * valid block of nearly the same precision. */

static float clamp(float x, float low, float high) { return x > low ? x < high ? x : high : low; }
static float round_half_up(float x) { return floorf(x + 0.5f); }

/* The code whose number is nearest to x / scale. */
static uint8_t nearest_code(const ir_packing *p, int offset, float x, group_scale s) {
  float q = product(x - s.minimum, inverse(s.scale));
  int most = (1 << (p->low_bits + p->high_bits)) - 1;
  if (!p->table) return (uint8_t)to_int(round_half_up(q) + (float)offset, 0, most);
  int best = 0;
  for (int i = 1; i <= most; i++)
    if (fabsf((float)p->table[i] - q) < fabsf((float)p->table[best] - q)) best = i;
  return (uint8_t)best;
}

/* The numbers that a group's codes stand for lie in [low, high]. */
static void number_range(const ir_packing *p, int offset, float *low, float *high) {
  *low = (float)-offset, *high = (float)((1 << (p->low_bits + p->high_bits)) - 1 - offset);
  for (int i = 0; p->table && i < 16; i++) {
    *low = (float)p->table[i] < *low ? (float)p->table[i] : *low;
    *high = i == 0 || (float)p->table[i] > *high ? (float)p->table[i] : *high;
  }
}

/* What scale and minimum would fit a group best. */
static group_scale fit_group(const ir_packing *p, int offset, const float *src) {
  float low = src[0], high = src[0], number_low, number_high;
  for (int i = 1; i < p->group; i++) {
    low = src[i] < low ? src[i] : low;
    high = src[i] > high ? src[i] : high;
  }
  number_range(p, offset, &number_low, &number_high);
  if (p->has_minimum) {
    if (p->groups != IR_GROUP_none && low > 0) low = 0; /* only something below zero can be taken off */
    return (group_scale){(high - low) / number_high, low};
  }
  float by_high = high / number_high, by_low = low / number_low;
  return (group_scale){by_high > by_low ? by_high : by_low, 0};
}

static void store_scale(const ir_packing *p, float scale, uint8_t *image) {
  if (!p->exponent) {
    store_u16(image, rt_f32_to_f16(scale));
    return;
  }
  int exponent = 0; /* the power of two above, so that nothing is cut off */
  frexpf(scale, &exponent);
  image[0] = scale > 0 ? (uint8_t)to_int((float)exponent + 128, 0, 254) : 0;
}

/* Groups' scales and minimums as multiples of d and m. */
static void store_groups(const ir_packing *p, const group_scale *fits, int count, uint8_t *image) {
  float scale = 0, minimum = 0;
  for (int g = 0; g < count; g++) {
    scale = fits[g].scale > scale ? fits[g].scale : scale;
    minimum = -fits[g].minimum > minimum ? -fits[g].minimum : minimum;
  }
  int most = p->groups == IR_GROUP_nibbles ? 15 : p->groups == IR_GROUP_u8 ? 63 : 31;
  store_scale(p, scale / (float)most, image);
  if (p->has_minimum) store_u16(image + p->minimum_at, rt_f32_to_f16(minimum / (float)most));
  float d = inverse(rt_f16_to_f32(load_u16(image))), m = 0;
  if (p->has_minimum) m = inverse(rt_f16_to_f32(load_u16(image + p->minimum_at)));
  uint8_t *numbers = image + p->groups_at;
  for (int g = 0; g < count; g++) {
    int s = to_int(clamp(round_half_up(product(fits[g].scale, d)), 0, (float)most), 0, most);
    int n = to_int(clamp(round_half_up(product(-fits[g].minimum, m)), 0, (float)most), 0, most);
    numbers[g] = (uint8_t)(p->groups == IR_GROUP_nibbles ? s | n << 4 : s);
    if (p->groups == IR_GROUP_u8) numbers[count + g] = (uint8_t)n;
  }
}

static void encode_block(ir_dtype dtype, const ir_packing *p, const float *src, uint8_t *block) {
  uint8_t image[RT_IMAGE_BYTES] = {0}, codes[RT_BLOCK_ELEMENTS];
  group_scale fits[RT_BLOCK_ELEMENTS / 16];
  int count = p->elements / p->group;
  if (p->has_zero) image[p->zero_at] = (uint8_t)(1 << (p->low_bits - 1));
  int offset = offset_of(p, image);
  for (int g = 0; g < count; g++) fits[g] = fit_group(p, offset, src + g * p->group);
  if (p->groups != IR_GROUP_none) store_groups(p, fits, count, image);
  else store_scale(p, fits[0].scale, image);
  if (p->groups == IR_GROUP_none && p->has_minimum)
    store_u16(image + p->minimum_at, rt_f32_to_f16(fits[0].minimum));
  for (int i = 0; i < p->elements; i++) {
    group_scale s = scale_of_group(p, image, i / p->group);
    codes[i] = nearest_code(p, offset, src[i], s);
  }
  rt_image_set_codes(p, codes, image);
  rt_block_from_image(dtype, p, image, block);
}

static void encode_blocks(ir_dtype dtype, const float *src, uint8_t *bytes, int64_t n) {
  ir_packing packing = ir_packing_of(dtype);
  for (int64_t i = 0; i < n; i += packing.elements, bytes += ir_dtype_block_bytes(dtype))
    encode_block(dtype, &packing, src + i, bytes);
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
  case IR_i32:
    break;
  default:
    encode_blocks(dtype, src, bytes, n);
    break;
  }
}
