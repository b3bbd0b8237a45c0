/* ir/packing.h: how weights of a storage type lie packed, for those who pack them (runtime) and those who decode them
 * (codegen): blocks of 64 rows; in a block, of types with one element a block, [k][64] elements; of the others one run
 * after another, each the elements of one storage block (32 or 256 of k) of the 64 rows:
 *
 *   scale    f16 d[64], or u8 e[64]: d = 2^(e - 128)           always
 *   minimum  f16 m[64]                                         where has_minimum
 *   zero     u8 z[64]                                          where has_zero
 *   groups   u8[group_bytes][64]: one number a group of elements, see ir_group_form
 *   low      u8[elements * low_bits / 8][64]: the lower bits of the codes, the first element in the lowest bits
 *   high     u8[elements * high_bits / 8][64]: their upper bits, in the same way
 *
 * A code c = low | high << low_bits (signed where low_bits == 8) stands for the number
 *   q = table[c], or c - offset, or c - z          and the element is
 *   s * q, or with a minimum s * q + n             (exact products: one rounding, whether contracted or not)
 * with s = d and n = m, or where a block has groups, s = d * (the group's scale) and n = -m * (the group's minimum).
 * A "packed line" is one of those arrays' [64]: line i of a run begins 64 * i bytes after it, f16 arrays count as two
 * lines. One row's lines in order, a byte each, are its image. All of zero bytes: zeros. */
#ifndef DIPPER_IR_PACKING_H
#define DIPPER_IR_PACKING_H

#include "ir/graph.h"

typedef enum ir_group_form {
  IR_GROUP_none,    /* the block has one scale */
  IR_GROUP_u8,      /* a line of scales a group, 0..63, then one of minimums a group where has_minimum */
  IR_GROUP_i8,      /* signed scales */
  IR_GROUP_nibbles, /* scale in the low bits, minimum in the high ones */
} ir_group_form;

typedef struct ir_packing {
  int elements;            /* a block */
  int group;               /* elements that share a scale: a multiple of 16 */
  int low_bits, high_bits; /* 2, 4 or 8; 0, 1 or 2 */
  int offset;
  bool exponent; /* the scale is e, not f16 */
  bool has_minimum, has_zero;
  ir_group_form groups;
  const int8_t *table;                                       /* of 16, or NULL */
  int minimum_at, zero_at, groups_at, low_at, high_at, lines; /* lines of a run before each part, and of the whole */
} ir_packing;

/* Of a type with more than one element a block. */
ir_packing ir_packing_of(ir_dtype dtype);
/* Bytes of one row's share of a packed block of 64 rows, k elements long: a multiple of the type's block. */
int64_t ir_packed_row_bytes(ir_dtype dtype, int64_t k);

#endif
