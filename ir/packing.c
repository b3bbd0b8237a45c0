/* ir/packing.c: the table of packed storage types. */
#include "ir/packing.h"

/* IQ4_NL's levels, and FP4 (e2m1) doubled: ggml's tables of those types; the latter by the OCP Microscaling
 * specification v1.0. */
static const int8_t iq4_nl_levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
static const int8_t e2m1_doubled[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

static const ir_packing packings[IR_DTYPE_COUNT] = {
    [IR_q8_0] = {.low_bits = 8},
    [IR_q4_0] = {.low_bits = 4, .offset = 8},
    [IR_q4_1] = {.low_bits = 4, .has_minimum = true},
    [IR_q5_0] = {.low_bits = 4, .high_bits = 1, .offset = 16},
    [IR_q5_1] = {.low_bits = 4, .high_bits = 1, .has_minimum = true},
    [IR_q2_k] = {.group = 16, .low_bits = 2, .has_minimum = true, .groups = IR_GROUP_nibbles},
    [IR_q3_k] = {.group = 16, .low_bits = 2, .high_bits = 1, .offset = 4, .groups = IR_GROUP_i8},
    [IR_q4_k] = {.group = 32, .low_bits = 4, .has_minimum = true, .groups = IR_GROUP_u8},
    [IR_q5_k] = {.group = 32, .low_bits = 4, .high_bits = 1, .has_minimum = true, .groups = IR_GROUP_u8},
    [IR_q6_k] = {.group = 16, .low_bits = 4, .high_bits = 2, .offset = 32, .groups = IR_GROUP_i8},
    [IR_iq4_nl] = {.low_bits = 4, .table = iq4_nl_levels},
    [IR_mxfp4] = {.low_bits = 4, .exponent = true, .table = e2m1_doubled},
    [IR_int4] = {.low_bits = 4, .has_zero = true},
};

ir_packing ir_packing_of(ir_dtype dtype) {
  ir_packing p = packings[dtype];
  p.elements = ir_dtype_block_elements(dtype);
  if (p.groups == IR_GROUP_none) p.group = p.elements;
  int group_count = p.elements / p.group;
  p.minimum_at = p.exponent ? 1 : 2;
  p.zero_at = p.minimum_at + (p.has_minimum ? 2 : 0);
  p.groups_at = p.zero_at + (p.has_zero ? 1 : 0);
  p.low_at = p.groups_at;
  if (p.groups != IR_GROUP_none) p.low_at += group_count;
  if (p.groups == IR_GROUP_u8 && p.has_minimum) p.low_at += group_count;
  p.high_at = p.low_at + p.elements * p.low_bits / 8;
  p.lines = p.high_at + p.elements * p.high_bits / 8;
  return p;
}

int64_t ir_packed_row_bytes(ir_dtype dtype, int64_t k) {
  int elements = ir_dtype_block_elements(dtype);
  return elements == 1 ? k * ir_dtype_block_bytes(dtype) : k / elements * ir_packing_of(dtype).lines;
}
