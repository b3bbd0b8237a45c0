/* tests/test_pack.c: stored elements and the packed layout: what is decoded is what the formats define, to the bit, and
 * packing moves every element to the place weights.h gives it, and nowhere else.
 * The golden blocks come from the `gguf` Python package (gguf.quants.quantize and dequantize), version 0.19. */
#include "ir/packing.h"
#include "runtime/weights.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* clang-format off */
static const uint32_t golden_input[64] = {
    0x3880fdae, 0x3c74bb7b, 0xbc6092e0, 0xbd3664a9, 0xbcba3bb0, 0xbd4b16d7, 0x3b45141c, 0x3d893cf0,
    0xbcc99b98, 0xbcfe2582, 0x3cc8a3a9, 0x3c922e51, 0x3bacb5f1, 0xbd3e8f53, 0xbabfb46a, 0x3d0e65ea,
    0xbd89a5c7, 0xbcbb707e, 0xbdc2af6a, 0xbd840c75, 0xbdbc97fb, 0xbc40962f, 0xbd81c959, 0x3c5e3842,
    0x3c006916, 0xbc192243, 0xbe00dbac, 0xbcdca60b, 0xbb1eed8b, 0x3bb9a53c, 0xbd9caf97, 0xbcc3b010,
    0xbf800000, 0xbf400000, 0x3f800000, 0x3ec00000, 0x3f400000, 0xbf400000, 0x3ec00000, 0xbec00000,
    0xbe000000, 0xbf900000, 0x3e800000, 0x3f200000, 0x3e800000, 0xbf600000, 0x00000000, 0xbf200000,
    0x3f800000, 0x3f400000, 0xbf400000, 0x00000000, 0x3f600000, 0x3f400000, 0x3ec00000, 0x3e800000,
    0xbf900000, 0x3f000000, 0xbe000000, 0xbf800000, 0xbf200000, 0x00000000, 0x3f000000, 0x00000000,
};
static const uint8_t golden_q8_0[68] = {
    0x0f, 0x14, 0x00, 0x0f, 0xf2, 0xd3, 0xe9, 0xce, 0x03, 0x44, 0xe7, 0xe1, 0x19, 0x12, 0x05, 0xd1, 0xff, 0x23, 0xbc,
    0xe9, 0xa0, 0xbf, 0xa3, 0xf4, 0xc0, 0x0e, 0x08, 0xf7, 0x81, 0xe5, 0xfe, 0x06, 0xb3, 0xe8, 0x89, 0x20, 0x8f, 0xab,
    0x71, 0x2a, 0x55, 0xab, 0x2a, 0xd6, 0xf2, 0x81, 0x1c, 0x47, 0x1c, 0x9d, 0x00, 0xb9, 0x71, 0x55, 0xab, 0x00, 0x63,
    0x55, 0x2a, 0x1c, 0x81, 0x38, 0xf2, 0x8f, 0xb9, 0x00, 0x38, 0x00,
};
static const uint32_t golden_q8_0_decoded[64] = {
    0x00000000, 0x3c738400, 0xbc634800, 0xbd36a300, 0xbcbab200, 0xbd4aee00, 0x3b42d000, 0x3d89fe00,
    0xbccaee00, 0xbcfba200, 0x3ccaee00, 0x3c921c00, 0x3ba25800, 0xbd3ec100, 0xba81e000, 0x3d0e0d00,
    0xbd89fe00, 0xbcbab200, 0xbdc2d000, 0xbd83e780, 0xbdbcb980, 0xbc42d000, 0xbd81e000, 0x3c634800,
    0x3c01e000, 0xbc121c00, 0xbe00dc40, 0xbcdb2a00, 0xbb01e000, 0x3bc2d000, 0xbd9c4180, 0xbcc2d000,
    0xbf801e40, 0xbf40be80, 0x3f801e40, 0x3ebe7a00, 0x3f40be80, 0xbf40be80, 0x3ebe7a00, 0xbebe7a00,
    0xbdfdf800, 0xbf8ffdc0, 0x3e7df800, 0x3f20ff80, 0x3e7df800, 0xbf607d80, 0x00000000, 0xbf20ff80,
    0x3f801e40, 0x3f40be80, 0xbf40be80, 0x00000000, 0x3f607d80, 0x3f40be80, 0x3ebe7a00, 0x3e7df800,
    0xbf8ffdc0, 0x3efdf800, 0xbdfdf800, 0xbf801e40, 0xbf20ff80, 0x00000000, 0x3efdf800, 0x00000000,
};
static const uint8_t golden_q4_0[36] = {
    0x07, 0x24, 0x48, 0x79, 0x27, 0x45, 0x27, 0x75, 0x48, 0x9c, 0x86, 0x76, 0x0a, 0x69, 0x88, 0x85, 0x38, 0x6a, 0x80,
    0x30, 0xf1, 0xd3, 0x3f, 0x8b, 0xed, 0xd3, 0xbb, 0xa5, 0x07, 0xc0, 0x7a, 0x1c, 0x4a, 0x82, 0xc8, 0x84,
};
static const uint32_t golden_q4_0_decoded[64] = {
    0x00000000, 0x3c80e000, 0xbc80e000, 0xbd415000, 0xbc80e000, 0xbd415000, 0x00000000, 0x3d80e000,
    0xbd00e000, 0xbd00e000, 0x3d00e000, 0x3c80e000, 0x00000000, 0xbd415000, 0x00000000, 0x3d00e000,
    0xbd80e000, 0xbc80e000, 0xbdc15000, 0xbd80e000, 0xbdc15000, 0xbc80e000, 0xbd80e000, 0x3c80e000,
    0x00000000, 0xbc80e000, 0xbe00e000, 0xbd00e000, 0x00000000, 0x00000000, 0xbda11800, 0xbd00e000,
    0xbf7c0000, 0xbf340000, 0x3f7c0000, 0x3ed80000, 0x3f340000, 0xbf340000, 0x3ed80000, 0xbed80000,
    0xbe100000, 0xbf900000, 0x3e900000, 0x3f100000, 0x3e900000, 0xbf580000, 0x00000000, 0xbf100000,
    0x3f7c0000, 0x3f340000, 0xbf340000, 0x00000000, 0x3f580000, 0x3f340000, 0x3ed80000, 0x3e900000,
    0xbf900000, 0x3f100000, 0xbe100000, 0xbf7c0000, 0xbf100000, 0x00000000, 0x3f100000, 0x00000000,
};
static const uint8_t golden_q4_1[40] = {
    0x95, 0x22, 0x07, 0xb0, 0x5a, 0x8b, 0x29, 0x56, 0x38, 0x96, 0x5a, 0xbf, 0xa8, 0x97, 0x0c, 0x8b, 0xaa, 0xa6, 0x4a,
    0x8c, 0x89, 0x30, 0x80, 0xbc, 0xf1, 0xd3, 0x3f, 0x8b, 0xed, 0xd3, 0xbb, 0xa5, 0x07, 0xb0, 0x7a, 0x1c, 0x4a, 0x82,
    0xb8, 0x84,
};
static const uint32_t golden_q4_1_decoded[64] = {
    0x3b310000, 0x3c7ee000, 0xbc266000, 0xbd479000, 0xbcbc8000, 0xbd479000, 0x3b310000, 0x3d892c00,
    0xbcbc8000, 0xbd12e800, 0x3ce8c000, 0x3c7ee000, 0x3b310000, 0xbd479000, 0x3b310000, 0x3ce8c000,
    0xbd7c3800, 0xbcbc8000, 0xbdcd1800, 0xbd7c3800, 0xbdb2c400, 0xbc266000, 0xbd7c3800, 0x3c7ee000,
    0x3b310000, 0xbc266000, 0xbe00e000, 0xbcbc8000, 0x3b310000, 0x3b310000, 0xbd987000, 0xbcbc8000,
    0xbf7bb800, 0xbf332800, 0x3f801c00, 0x3ede3000, 0x3f37a800, 0xbf332800, 0x3ede3000, 0xbed53000,
    0xbe082000, 0xbf900000, 0x3e95a000, 0x3f136000, 0x3e95a000, 0xbf577000, 0x3c100000, 0xbf0ee000,
    0x3f801c00, 0x3f37a800, 0xbf332800, 0x3c100000, 0x3f5bf000, 0x3f37a800, 0x3ede3000, 0x3e95a000,
    0xbf900000, 0x3ede3000, 0xbe082000, 0xbf7bb800, 0xbf0ee000, 0x3c100000, 0x3ede3000, 0x3c100000,
};
/* clang-format on */

static const ir_dtype stored[] = {IR_f32,  IR_f16,  IR_bf16, IR_q8_0, IR_q4_0, IR_q4_1,   IR_q5_0,  IR_q5_1,
                                  IR_q2_k, IR_q3_k, IR_q4_k, IR_q5_k, IR_q6_k, IR_iq4_nl, IR_mxfp4, IR_int4};

static uint64_t next_random(uint64_t *state) {
  *state += 0x9e3779b97f4a7c15u;
  return dp_hash(*state, "r", 1);
}

static uint32_t bits_of(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

static float float_of(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

/* ---- decoding, encoding ------------------------------------------------------------------------------------------ */

static void check_golden(ir_dtype dtype, const uint8_t *golden, size_t size, const uint32_t *decoded) {
  float input[64], output[64];
  uint8_t encoded[128];
  for (int i = 0; i < 64; i++) input[i] = float_of(golden_input[i]);
  ck_assert_int_eq(rt_row_bytes(dtype, 64), (int64_t)size);
  rt_quantize_row(dtype, input, encoded, 64);
  for (size_t i = 0; i < size; i++)
    ck_assert_msg(encoded[i] == golden[i], "%s: byte %zu is %02x, not %02x", ir_dtype_name(dtype), i, encoded[i],
                  golden[i]);
  /* Nothing promises alignment: decode from an odd address. */
  uint8_t shifted[130];
  memcpy(shifted + 1, golden, size);
  rt_dequantize_row(dtype, shifted + 1, output, 64);
  for (int i = 0; i < 64; i++)
    ck_assert_msg(bits_of(output[i]) == decoded[i], "%s: element %d is %a, not %a", ir_dtype_name(dtype), i, output[i],
                  float_of(decoded[i]));
}

START_TEST(quantized_blocks_equal_the_gguf_package_bit_for_bit) {
  check_golden(IR_q8_0, golden_q8_0, sizeof golden_q8_0, golden_q8_0_decoded);
  check_golden(IR_q4_0, golden_q4_0, sizeof golden_q4_0, golden_q4_0_decoded);
  check_golden(IR_q4_1, golden_q4_1, sizeof golden_q4_1, golden_q4_1_decoded);
}
END_TEST

/* The value a half's bits stand for, from the definition. */
static double half_value(unsigned half) {
  int exponent = half >> 10 & 31, mantissa = half & 1023;
  double value = exponent == 0 ? ldexp(mantissa, -24) : ldexp(1024 + mantissa, exponent - 25);
  return half & 0x8000 ? -value : value;
}

/* formats.gguf: made by make_formats.py. */
START_TEST(blocks_of_every_gguf_type_decode_as_the_gguf_package_does) {
  rt_weights_file *file;
  ck_assert_int_eq(rt_weights_open(DIPPER_TEST_DIR "/golden/formats.gguf", &file).code, DP_OK);
  static const char *const names[] = {"Q5_0", "Q5_1", "Q2_K",   "Q3_K",  "Q4_K", "Q5_K",
                                      "Q6_K", "IQ4_NL", "MXFP4", "Q8_0", "Q4_0", "Q4_1"};
  for (size_t t = 0; t < DP_COUNT(names); t++) {
    char blocks[32], decoded[32];
    snprintf(blocks, sizeof blocks, "blocks.%s", names[t]);
    snprintf(decoded, sizeof decoded, "expected.%s", names[t]);
    const rt_tensor *tensor = rt_weights_find(file, blocks), *expected = rt_weights_find(file, decoded);
    ck_assert(tensor && tensor->supported && expected && tensor->elements == expected->elements);
    uint8_t *shifted = malloc(tensor->bytes + 1); /* nothing promises alignment */
    float *values = malloc((size_t)tensor->elements * sizeof *values);
    memcpy(shifted + 1, tensor->data, tensor->bytes);
    rt_dequantize_row(tensor->dtype, shifted + 1, values, tensor->elements);
    for (int64_t i = 0; i < tensor->elements; i++) {
      uint32_t want;
      memcpy(&want, expected->data + 4 * i, 4);
      ck_assert_msg(bits_of(values[i]) == want, "%s: element %d is %a, not %a", names[t], (int)i, values[i],
                    float_of(want));
    }
    free(shifted);
    free(values);
  }
  rt_weights_close(file);
}
END_TEST

/* How far encoded values may be from the given ones, as a part of the block's range. */
START_TEST(encoding_keeps_what_the_bits_allow) {
  static const struct {
    ir_dtype dtype;
    float part;
  } types[] = {{IR_q5_0, 0.034f},  {IR_q5_1, 0.018f}, {IR_q2_k, 0.26f},   {IR_q3_k, 0.17f}, {IR_q4_k, 0.045f},
               {IR_q5_k, 0.03f}, {IR_q6_k, 0.02f}, {IR_iq4_nl, 0.08f}, {IR_mxfp4, 0.13f}, {IR_int4, 0.075f}};
  uint64_t state = 9;
  for (size_t t = 0; t < DP_COUNT(types); t++) {
    float row[512], back[512], worst = 0;
    uint8_t bytes[1024];
    for (int i = 0; i < 512; i++) row[i] = (float)((int)(next_random(&state) % 2001) - 1000) / 1000;
    rt_quantize_row(types[t].dtype, row, bytes, 512);
    rt_dequantize_row(types[t].dtype, bytes, back, 512);
    for (int i = 0; i < 512; i++) worst = fmaxf(worst, fabsf(row[i] - back[i]) / 2);
    ck_assert_msg(worst <= types[t].part, "%s: off by %g of the range", ir_dtype_name(types[t].dtype), worst);
    ck_assert(worst > 0);
  }
}
END_TEST

START_TEST(every_half_decodes_to_its_value_and_comes_back) {
  for (unsigned half = 0; half < 65536; half++) {
    float value = rt_f16_to_f32((uint16_t)half);
    if ((half & 0x7c00) != 0x7c00)
      ck_assert_msg(value == half_value(half) && !signbit(value) == !(half >> 15), "half %04x became %a", half, value);
    else if (half & 0x3ff)
      ck_assert_msg(isnan(value), "half %04x became %a", half, value);
    else
      ck_assert_msg(isinf(value) && !signbit(value) == !(half >> 15), "half %04x became %a", half, value);
    ck_assert_msg(rt_f32_to_f16(value) == half, "half %04x came back as %04x", half, rt_f32_to_f16(value));
    float wide = rt_bf16_to_f32((uint16_t)half);
    ck_assert_uint_eq(bits_of(wide), half << 16);
    if (!isnan(wide)) ck_assert_uint_eq(rt_f32_to_bf16(wide), half);
  }
}
END_TEST

START_TEST(halves_round_to_nearest_ties_to_even) {
  for (unsigned half = 0; half < 0x7bff; half++) {
    double low = half_value(half), high = half_value(half + 1);
    float middle = (float)((low + high) / 2); /* exact: one bit more than a half has */
    unsigned even = half % 2 == 0 ? half : half + 1;
    ck_assert_msg(rt_f32_to_f16(middle) == even, "the tie above %04x went to %04x", half, rt_f32_to_f16(middle));
    ck_assert_uint_eq(rt_f32_to_f16(nextafterf(middle, 0)), half);
    ck_assert_uint_eq(rt_f32_to_f16(nextafterf(middle, INFINITY)), half + 1);
    ck_assert_uint_eq(rt_f32_to_f16(-middle), even | 0x8000);
  }
  ck_assert_uint_eq(rt_f32_to_f16(nextafterf(65520.0f, 0)), 0x7bff);
  ck_assert_uint_eq(rt_f32_to_f16(65520.0f), 0x7c00);
  ck_assert_uint_eq(rt_f32_to_f16(-3e38f), 0xfc00);
  ck_assert_uint_eq(rt_f32_to_f16(0x1p-25f), 0);
  ck_assert_uint_eq(rt_f32_to_f16(nextafterf(0x1p-25f, 1)), 1);
  ck_assert(isnan(rt_f16_to_f32(rt_f32_to_f16(float_of(0x7f800001)))));

  ck_assert_uint_eq(rt_f32_to_bf16(float_of(0x3f808000)), 0x3f80);
  ck_assert_uint_eq(rt_f32_to_bf16(float_of(0x3f818000)), 0x3f82);
  ck_assert_uint_eq(rt_f32_to_bf16(float_of(0x3f808001)), 0x3f81);
  ck_assert_uint_eq(rt_f32_to_bf16(float_of(0x7f7fffff)), 0x7f80);
  ck_assert(isnan(rt_bf16_to_f32(rt_f32_to_bf16(float_of(0x7f800001)))));
}
END_TEST

START_TEST(encoding_values_that_are_not_finite_stays_in_bounds) {
  static const float strange[] = {INFINITY, -INFINITY, NAN, 3e38f, -3e38f, 1e-45f, 0.0f, -0.0f};
  uint64_t state = 1;
  for (int round = 0; round < 200; round++) {
    float *row = malloc(256 * sizeof *row), *back = malloc(256 * sizeof *back);
    for (int i = 0; i < 256; i++) row[i] = strange[next_random(&state) % DP_COUNT(strange)];
    for (size_t t = 0; t < DP_COUNT(stored); t++) {
      uint8_t *bytes = malloc((size_t)rt_row_bytes(stored[t], 256));
      rt_quantize_row(stored[t], row, bytes, 256);
      rt_dequantize_row(stored[t], bytes, back, 256);
      free(bytes);
    }
    free(row);
    free(back);
  }
}
END_TEST

/* ---- packing ----------------------------------------------------------------------------------------------------- */

static float half_at(const uint8_t *at) {
  uint16_t half;
  memcpy(&half, at, 2);
  return rt_f16_to_f32(half);
}

/* Bits of element i of lines that hold 8 / bits elements a byte. */
static int bits_at(const uint8_t *lines, int bits, int64_t i) {
  return lines[i * bits / 8 * 64] >> (i * bits % 8) & ((1 << bits) - 1);
}

/* Element i of a run of lines, spelled out for each type; `run` points to the row's byte of the first line. */
static float run_element(ir_dtype dtype, const uint8_t *run, int lane, int64_t i) {
  float d = half_at(run + lane), m = half_at(run + lane + 128);
  ir_packing p = ir_packing_of(dtype); /* for the tables of levels only */
#define LINE(n) (run + 64 * (n))
  switch (dtype) {
  case IR_q8_0:
    return d * (int8_t)*LINE(2 + i);
  case IR_q4_0:
    return d * (bits_at(LINE(2), 4, i) - 8);
  case IR_q4_1:
    return d * bits_at(LINE(4), 4, i) + m;
  case IR_q5_0:
    return d * (bits_at(LINE(2), 4, i) + 16 * bits_at(LINE(18), 1, i) - 16);
  case IR_q5_1:
    return d * (bits_at(LINE(4), 4, i) + 16 * bits_at(LINE(20), 1, i)) + m;
  case IR_q2_k:
    return d * (*LINE(4 + i / 16) & 15) * bits_at(LINE(20), 2, i) - m * (*LINE(4 + i / 16) >> 4);
  case IR_q3_k:
    return d * (int8_t)*LINE(2 + i / 16) * (bits_at(LINE(18), 2, i) + 4 * bits_at(LINE(82), 1, i) - 4);
  case IR_q4_k:
    return d * *LINE(4 + i / 32) * bits_at(LINE(20), 4, i) - m * *LINE(12 + i / 32);
  case IR_q5_k:
    return d * *LINE(4 + i / 32) * (bits_at(LINE(20), 4, i) + 16 * bits_at(LINE(148), 1, i)) - m * *LINE(12 + i / 32);
  case IR_q6_k:
    return d * (int8_t)*LINE(2 + i / 16) * (bits_at(LINE(18), 4, i) + 16 * bits_at(LINE(146), 2, i) - 32);
  case IR_iq4_nl:
    return d * p.table[bits_at(LINE(2), 4, i)];
  case IR_mxfp4:
    return ldexpf(p.table[bits_at(LINE(1), 4, i)], *run - 128);
  case IR_int4:
    return d * (bits_at(LINE(3), 4, i) - *LINE(2));
  default:
    return NAN;
  }
#undef LINE
}

/* Element (row, k) of a packed matrix, read as ir/packing.h describes the layout: plain, and independent of pack.c. */
static float packed_element(ir_dtype dtype, int64_t k_size, const uint8_t *packed, int64_t row, int64_t k) {
  const uint8_t *block = packed + row / 64 * 64 * ir_packed_row_bytes(dtype, k_size);
  int64_t lane = row % 64, elements = ir_dtype_block_elements(dtype);
  uint16_t half;
  float value;
  if (elements > 1)
    return run_element(dtype, block + k / elements * 64 * ir_packed_row_bytes(dtype, elements) + lane, (int)lane,
                       k % elements);
  if (dtype == IR_f32) {
    memcpy(&value, block + 4 * (k * 64 + lane), 4);
    return value;
  }
  memcpy(&half, block + 2 * (k * 64 + lane), 2);
  return dtype == IR_f16 ? rt_f16_to_f32(half) : rt_bf16_to_f32(half);
}

/* n random rows of k elements, row_bytes apart, in memory of exactly that size. */
static uint8_t *random_rows(ir_dtype dtype, int64_t n, int64_t k, int64_t row_bytes, uint64_t *state) {
  uint8_t *rows = malloc((size_t)(n * row_bytes));
  float *row = malloc((size_t)k * sizeof *row);
  for (int64_t r = 0; r < n; r++) {
    for (int64_t i = 0; i < k; i++) row[i] = (float)((int)(next_random(state) % 2001) - 1000) / 512;
    rt_quantize_row(dtype, row, rows + r * row_bytes, k);
    bool any = ir_dtype_block_elements(dtype) > 1 && next_random(state) % 2; /* any bytes are blocks */
    for (int64_t i = 0; any && i < rt_row_bytes(dtype, k); i++)
      rows[r * row_bytes + i] = (uint8_t)(next_random(state) >> 20);
  }
  free(row);
  return rows;
}

static void check_packed(ir_dtype dtype, int64_t n, int64_t k, int64_t heads, uint64_t *state) {
  int64_t row_bytes = rt_row_bytes(dtype, k), size = rt_packed_size(dtype, n, k), blocks = rt_packed_blocks(n);
  ck_assert_int_eq(size, blocks * 64 * ir_packed_row_bytes(dtype, k));
  uint8_t *rows = random_rows(dtype, n, k, row_bytes, state), *packed = malloc((size_t)size);
  memset(packed, 0xa5, (size_t)size);
  int64_t split = (int64_t)(next_random(state) % (uint64_t)blocks); /* as two threads would share it */
  rt_pack(dtype, n, k, rows, (size_t)row_bytes, heads, packed, split, blocks - split);
  rt_pack(dtype, n, k, rows, (size_t)row_bytes, heads, packed, 0, split);
  float *expected = malloc((size_t)k * sizeof *expected);
  uint8_t *row = malloc((size_t)row_bytes), *nothing = calloc(1, (size_t)row_bytes);
  for (int64_t r = 0; r < 64 * blocks; r++) {
    int64_t hd = heads ? n / heads : 1;
    int64_t from = heads ? r / hd * hd + r % (hd / 2) * 2 + r % hd / (hd / 2) : r;
    const uint8_t *source = r < n ? rows + from * row_bytes : nothing;
    rt_dequantize_row(dtype, source, expected, k);
    for (int64_t i = 0; i < k; i++) {
      float got = packed_element(dtype, k, packed, r, i);
      bool same = bits_of(got) == bits_of(expected[i]) || (isnan(got) && isnan(expected[i]));
      ck_assert_msg(same, "%s [%d, %d] heads %d: element (%d, %d) is %a, not %a",
                    ir_dtype_name(dtype), (int)n, (int)k, (int)heads, (int)r, (int)i, got, expected[i]);
    }
    rt_unpack_row(dtype, n, k, packed, r, row);
    ck_assert_msg(memcmp(row, source, (size_t)row_bytes) == 0, "%s [%d, %d]: row %d does not unpack",
                  ir_dtype_name(dtype), (int)n, (int)k, (int)r);
  }
  free(expected);
  free(nothing);
  free(row);
  free(packed);
  free(rows);
}

START_TEST(every_element_lands_where_the_layout_says) {
  uint64_t state = 42;
  for (size_t t = 0; t < DP_COUNT(stored); t++) {
    int64_t unit = ir_dtype_block_elements(stored[t]);
    for (int round = 0; round < 40; round++) {
      int64_t n = 1 + (int64_t)(next_random(&state) % 70), k = 1 + (int64_t)(next_random(&state) % 70);
      check_packed(stored[t], n, (k + unit - 1) / unit * unit, 0, &state);
    }
    check_packed(stored[t], 32, 2 * unit, 0, &state);
    check_packed(stored[t], 1, unit, 0, &state);
  }
}
END_TEST

START_TEST(rotation_pairs_are_undone) {
  uint64_t state = 43;
  for (size_t t = 0; t < DP_COUNT(stored); t++) {
    int64_t unit = ir_dtype_block_elements(stored[t]);
    check_packed(stored[t], 3 * 8, unit, 3, &state);
    check_packed(stored[t], 9 * 64, 2 * unit, 9, &state);
    check_packed(stored[t], 2, unit, 1, &state);
    check_packed(stored[t], 5 * 6, 3 * unit, 5, &state);
  }
  ck_assert_int_eq(rt_paired_row(0, 64), 0);
  ck_assert_int_eq(rt_paired_row(1, 64), 2);
  ck_assert_int_eq(rt_paired_row(32, 64), 1);
  ck_assert_int_eq(rt_paired_row(64 + 63, 64), 64 + 63);
}
END_TEST

START_TEST(packing_a_transposed_matrix_gives_the_same_bytes) {
  uint64_t state = 44;
  for (int t = 0; t < 3; t++) {
    for (int round = 0; round < 20; round++) {
      int64_t n = 1 + (int64_t)(next_random(&state) % 70), k = 1 + (int64_t)(next_random(&state) % 40);
      size_t element = (size_t)ir_dtype_block_bytes(stored[t]), size = (size_t)rt_packed_size(stored[t], n, k);
      uint8_t *rows = random_rows(stored[t], n, k, rt_row_bytes(stored[t], k), &state);
      uint8_t *columns = malloc((size_t)(n * k) * element), *one = malloc(size), *other = malloc(size);
      for (int64_t r = 0; r < n; r++)
        for (int64_t i = 0; i < k; i++)
          memcpy(columns + (size_t)(i * n + r) * element, rows + (size_t)(r * k + i) * element, element);
      memset(other, 0xa5, size);
      rt_pack(stored[t], n, k, rows, (size_t)k * element, 0, one, 0, rt_packed_blocks(n));
      rt_pack_transposed(stored[t], n, k, columns, (size_t)n * element, other, 1, rt_packed_blocks(n) - 1);
      rt_pack_transposed(stored[t], n, k, columns, (size_t)n * element, other, 0, 1);
      ck_assert_mem_eq(one, other, size);
      free(rows);
      free(columns);
      free(one);
      free(other);
    }
  }
}
END_TEST

START_TEST(rows_may_lie_apart) {
  uint64_t state = 45;
  int64_t n = 20, k = 32, row_bytes = rt_row_bytes(IR_q4_1, k), gap = row_bytes + 7;
  uint8_t *apart = random_rows(IR_q4_1, n, k, gap, &state), packed[64 * 20], row[20];
  rt_pack(IR_q4_1, n, k, apart, (size_t)gap, 0, packed, 0, 1);
  for (int64_t r = 0; r < n; r++) {
    rt_unpack_row(IR_q4_1, n, k, packed, r, row);
    ck_assert_mem_eq(row, apart + r * gap, (size_t)row_bytes);
  }
  free(apart);
}
END_TEST

START_TEST(sizes_that_cannot_be_are_refused) {
  ck_assert_int_eq(rt_packed_size(IR_q4_1, 32, 33), -1);
  ck_assert_int_eq(rt_packed_size(IR_q8_0, 32, 0), -1);
  ck_assert_int_eq(rt_packed_size(IR_f32, 0, 32), -1);
  ck_assert_int_eq(rt_packed_size(IR_i32, 32, 32), -1);
  ck_assert_int_eq(rt_packed_size(IR_f32, INT64_MAX, 32), -1);
  ck_assert_int_eq(rt_packed_size(IR_f32, INT64_MAX / 64, 32), -1);
  ck_assert_int_eq(rt_packed_size(IR_f32, 33, INT64_MAX / 2), -1);
  ck_assert_int_eq(rt_packed_size(IR_f16, 33, 5), 64 * 10);
  ck_assert_int_eq(rt_row_bytes(IR_q4_0, 16), -1);
  ck_assert_int_eq(rt_row_bytes(IR_f32, -1), -1);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("pack");
  TCase *elements = tcase_create("elements");
  tcase_add_test(elements, quantized_blocks_equal_the_gguf_package_bit_for_bit);
  tcase_add_test(elements, blocks_of_every_gguf_type_decode_as_the_gguf_package_does);
  tcase_add_test(elements, encoding_keeps_what_the_bits_allow);
  tcase_add_test(elements, every_half_decodes_to_its_value_and_comes_back);
  tcase_add_test(elements, halves_round_to_nearest_ties_to_even);
  tcase_add_test(elements, encoding_values_that_are_not_finite_stays_in_bounds);
  suite_add_tcase(suite, elements);
  TCase *packing = tcase_create("packing");
  tcase_set_timeout(packing, 60);
  tcase_add_test(packing, every_element_lands_where_the_layout_says);
  tcase_add_test(packing, rotation_pairs_are_undone);
  tcase_add_test(packing, packing_a_transposed_matrix_gives_the_same_bytes);
  tcase_add_test(packing, rows_may_lie_apart);
  tcase_add_test(packing, sizes_that_cannot_be_are_refused);
  suite_add_tcase(suite, packing);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed ? 1 : 0;
}
