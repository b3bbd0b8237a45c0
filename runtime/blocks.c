/* runtime/blocks.c: where each part of a quantized block lies in a file (ggml's block_* of the same names; int4 is
 * int4_files.c's own), as a table, and the way from there to an image and back. */
#include "runtime/blocks.h"

#include <string.h>

/* How the numbers of groups are coded in the file. */
typedef enum group_coding {
  GROUPS_PLAIN,
  GROUPS_8_PAIRS,  /* 12 bytes: 8 scales and 8 minimums of 6 bits */
  GROUPS_16_SIGNED /* 12 bytes: 16 scales of 6 bits, each plus 32 */
} group_coding;

/* A plane of codes: byte i holds the elements i % width + j * width, j = 0, 1, ... 8 / bits - 1, of stretch i / width,
 * which is width * 8 / bits elements long; the first lies in the lowest bits. */
typedef struct plane {
  int at, width;
} plane;

typedef struct file_layout {
  int scale, minimum, zero, groups;
  group_coding coding;
  plane low, high;
} file_layout;

static const file_layout layouts[IR_DTYPE_COUNT] = {
    [IR_q8_0] = {.low = {2, 32}},
    [IR_q4_0] = {.low = {2, 16}},
    [IR_q4_1] = {.minimum = 2, .low = {4, 16}},
    [IR_q5_0] = {.high = {2, 1}, .low = {6, 16}},
    [IR_q5_1] = {.minimum = 2, .high = {4, 1}, .low = {8, 16}},
    [IR_q2_k] = {.groups = 0, .low = {16, 32}, .scale = 80, .minimum = 82},
    [IR_q3_k] = {.high = {0, 32}, .low = {32, 32}, .groups = 96, .coding = GROUPS_16_SIGNED, .scale = 108},
    [IR_q4_k] = {.minimum = 2, .groups = 4, .coding = GROUPS_8_PAIRS, .low = {16, 32}},
    [IR_q5_k] = {.minimum = 2, .groups = 4, .coding = GROUPS_8_PAIRS, .high = {16, 32}, .low = {48, 32}},
    [IR_q6_k] = {.low = {0, 64}, .high = {128, 32}, .groups = 192, .scale = 208},
    [IR_iq4_nl] = {.low = {2, 16}},
    [IR_mxfp4] = {.low = {1, 16}},
    [IR_int4] = {.zero = 2, .low = {3, 16}},
};

/* ---- codes ------------------------------------------------------------------------------------------------------- */

static void read_plane(const uint8_t *bytes, int width, int bits, int shift, int elements, uint8_t *codes) {
  for (int stretch = 0; stretch < elements; stretch += width * 8 / bits, bytes += width)
    for (int j = 0; j < 8 / bits; j++)
      for (int i = 0; i < width; i++)
        codes[stretch + j * width + i] |= (uint8_t)((bytes[i] >> j * bits & ((1 << bits) - 1)) << shift);
}

static void write_plane(const uint8_t *codes, int width, int bits, int shift, int elements, uint8_t *bytes) {
  for (int stretch = 0; stretch < elements; stretch += width * 8 / bits, bytes += width) {
    memset(bytes, 0, (size_t)width);
    for (int j = 0; j < 8 / bits; j++)
      for (int i = 0; i < width; i++)
        bytes[i] |= (uint8_t)((codes[stretch + j * width + i] >> shift & ((1 << bits) - 1)) << j * bits);
  }
}

void rt_image_codes(const ir_packing *p, const uint8_t *image, uint8_t codes[RT_BLOCK_ELEMENTS]) {
  memset(codes, 0, (size_t)p->elements);
  read_plane(image + p->low_at, 1, p->low_bits, 0, p->elements, codes);
  if (p->high_bits) read_plane(image + p->high_at, 1, p->high_bits, p->low_bits, p->elements, codes);
}

void rt_image_set_codes(const ir_packing *p, const uint8_t codes[RT_BLOCK_ELEMENTS], uint8_t *image) {
  write_plane(codes, 1, p->low_bits, 0, p->elements, image + p->low_at);
  if (p->high_bits) write_plane(codes, 1, p->high_bits, p->low_bits, p->elements, image + p->high_at);
}

/* ---- numbers of groups ------------------------------------------------------------------------------------------- */

/* Bytes 0-3: scales 0-3, 4-7: minimums 0-3, both with two bits of number i + 4 on top; 8-11: the lower four bits of
 * scale (low half) and minimum i + 4. */
static void read_pairs(const uint8_t *from, uint8_t *scales, uint8_t *minimums) {
  for (int i = 0; i < 4; i++) {
    scales[i] = from[i] & 63;
    minimums[i] = from[i + 4] & 63;
    scales[i + 4] = (uint8_t)((from[i + 8] & 15) | (from[i] >> 6) << 4);
    minimums[i + 4] = (uint8_t)(from[i + 8] >> 4 | (from[i + 4] >> 6) << 4);
  }
}

static void write_pairs(const uint8_t *scales, const uint8_t *minimums, uint8_t *to) {
  for (int i = 0; i < 4; i++) {
    to[i] = (uint8_t)(scales[i] | (scales[i + 4] >> 4) << 6);
    to[i + 4] = (uint8_t)(minimums[i] | (minimums[i + 4] >> 4) << 6);
    to[i + 8] = (uint8_t)((scales[i + 4] & 15) | (minimums[i + 4] & 15) << 4);
  }
}

/* Bytes 0-7: the lower four bits of numbers i and i + 8; byte 8 + i: two upper bits of i, i + 4, i + 8 and i + 12. */
static void read_signed(const uint8_t *from, uint8_t *scales) {
  for (int i = 0; i < 16; i++)
    scales[i] = (uint8_t)(((from[i % 8] >> i / 8 * 4 & 15) | (from[8 + i % 4] >> i / 4 * 2 & 3) << 4) - 32);
}

static void write_signed(const uint8_t *scales, uint8_t *to) {
  memset(to, 0, 12);
  for (int i = 0; i < 16; i++) {
    int scale = (scales[i] + 32) & 63;
    to[i % 8] |= (uint8_t)((scale & 15) << i / 8 * 4);
    to[8 + i % 4] |= (uint8_t)(scale >> 4 << i / 4 * 2);
  }
}

/* ---- blocks ------------------------------------------------------------------------------------------------------ */

void rt_block_to_image(ir_dtype dtype, const ir_packing *p, const uint8_t *block, uint8_t *image) {
  const file_layout *file = &layouts[dtype];
  uint8_t codes[RT_BLOCK_ELEMENTS] = {0};
  memcpy(image, block + file->scale, p->exponent ? 1 : 2);
  if (p->has_minimum) memcpy(image + p->minimum_at, block + file->minimum, 2);
  if (p->has_zero) image[p->zero_at] = block[file->zero];
  if (file->coding == GROUPS_8_PAIRS)
    read_pairs(block + file->groups, image + p->groups_at, image + p->groups_at + 8);
  else if (file->coding == GROUPS_16_SIGNED)
    read_signed(block + file->groups, image + p->groups_at);
  else
    memcpy(image + p->groups_at, block + file->groups, (size_t)(p->low_at - p->groups_at));
  read_plane(block + file->low.at, file->low.width, p->low_bits, 0, p->elements, codes);
  if (p->high_bits)
    read_plane(block + file->high.at, file->high.width, p->high_bits, p->low_bits, p->elements, codes);
  rt_image_set_codes(p, codes, image);
}

void rt_block_from_image(ir_dtype dtype, const ir_packing *p, const uint8_t *image, uint8_t *block) {
  const file_layout *file = &layouts[dtype];
  uint8_t codes[RT_BLOCK_ELEMENTS];
  memcpy(block + file->scale, image, p->exponent ? 1 : 2);
  if (p->has_minimum) memcpy(block + file->minimum, image + p->minimum_at, 2);
  if (p->has_zero) block[file->zero] = image[p->zero_at];
  if (file->coding == GROUPS_8_PAIRS)
    write_pairs(image + p->groups_at, image + p->groups_at + 8, block + file->groups);
  else if (file->coding == GROUPS_16_SIGNED)
    write_signed(image + p->groups_at, block + file->groups);
  else
    memcpy(block + file->groups, image + p->groups_at, (size_t)(p->low_at - p->groups_at));
  rt_image_codes(p, image, codes);
  write_plane(codes, file->low.width, p->low_bits, 0, p->elements, block + file->low.at);
  if (p->high_bits)
    write_plane(codes, file->high.width, p->high_bits, p->low_bits, p->elements, block + file->high.at);
}
