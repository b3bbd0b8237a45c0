/* runtime/pack.c: rows of a weights file -> the packed layout of weights.h, which generated kernels stream through: 64
 * rows side by side, so that vector loads bring one k of neighbouring rows and a product over all k is one stream through
 * memory (four streams of 16 rows read at a third of the bandwidth). Everything is a 16-row transpose; it is four rounds
 * of "interleave vector i with vector i + 8", each of which rotates the (row, column) address by one bit. */
#include "runtime/blocks.h"
#include "runtime/weights.h"

#include <string.h>

enum { ROWS = RT_PACK_ROWS, LANES = 16, RUN = 32 }; /* a block is packed in quarters of LANES rows */

typedef uint8_t bytes16 __attribute__((vector_size(16)));
typedef uint16_t halves8 __attribute__((vector_size(16)));
typedef uint32_t words4 __attribute__((vector_size(16)));

#define LOW_16(a, b) __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
#define HIGH_16(a, b) __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
#define LOW_8(a, b) __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11)
#define HIGH_8(a, b) __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15)
#define LOW_4(a, b) __builtin_shufflevector(a, b, 0, 4, 1, 5)
#define HIGH_4(a, b) __builtin_shufflevector(a, b, 2, 6, 3, 7)

#define PAIR(to, from, low, high, i)                                                                                   \
  to[2 * (i)] = low(from[i], from[(i) + LANES / 2]), to[2 * (i) + 1] = high(from[i], from[(i) + LANES / 2])
#define ROUND(to, from, low, high)                                                                                     \
  PAIR(to, from, low, high, 0), PAIR(to, from, low, high, 1), PAIR(to, from, low, high, 2),                            \
      PAIR(to, from, low, high, 3), PAIR(to, from, low, high, 4), PAIR(to, from, low, high, 5),                        \
      PAIR(to, from, low, high, 6), PAIR(to, from, low, high, 7)

/* name(v): v holds 16 rows of one vector each; afterwards the same elements column by column. Written out, because gcc
 * -O2 keeps loops, and the vectors then in memory: a quarter of the speed. */
#define DEFINE_TRANSPOSE(name, vector, low, high)                                                                      \
  static inline void name(vector v[LANES]) {                                                                           \
    vector w[LANES];                                                                                                   \
    ROUND(w, v, low, high);                                                                                            \
    ROUND(v, w, low, high);                                                                                            \
    ROUND(w, v, low, high);                                                                                            \
    ROUND(v, w, low, high);                                                                                            \
  }
DEFINE_TRANSPOSE(transpose_bytes, bytes16, LOW_16, HIGH_16)
DEFINE_TRANSPOSE(transpose_halves, halves8, LOW_8, HIGH_8)
DEFINE_TRANSPOSE(transpose_words, words4, LOW_4, HIGH_4)

/* The 16 rows of a block as they lie in the file; a padding row reads the same zeros over and over (step 0). */
typedef struct lanes {
  const uint8_t *row[LANES];
  size_t step[LANES]; /* 0 or 1: times an offset in the row */
} lanes;

/* As many zero bytes as one run of any layout reads at once. */
static const uint8_t zeros[64];

/* ---- sizes ------------------------------------------------------------------------------------------------------- */

int64_t rt_packed_blocks(int64_t n) { return (n + ROWS - 1) / ROWS; }

int64_t rt_packed_size(ir_dtype dtype, int64_t n, int64_t k) {
  int64_t size;
  if (k < 1 || k > INT64_MAX / 8 || rt_row_bytes(dtype, k) < 0 || dtype == IR_i32 || n < 1 || n > INT64_MAX - ROWS)
    return -1;
  return __builtin_mul_overflow(ir_packed_row_bytes(dtype, k), rt_packed_blocks(n) * ROWS, &size) ? -1 : size;
}

/* ---- a quarter of a block: dst is where its first row's first element goes --------------------------------------------------------------------------------------------------- */

#define DEFINE_PACK_ELEMENTS(name, element, vector, transpose)                                                         \
  static void name(const lanes *from, int64_t k, uint8_t *dst) {                                                       \
    enum { WIDTH = sizeof(vector) / sizeof(element) };                                                                 \
    int64_t at = 0;                                                                                                    \
    for (; at + WIDTH <= k; at += WIDTH) {                                                                             \
      vector v[LANES];                                                                                                 \
      for (int lane = 0; lane < LANES; lane++)                                                                         \
        memcpy(&v[lane], from->row[lane] + (size_t)at * sizeof(element) * from->step[lane], sizeof v[lane]);           \
      transpose(v);                                                                                                    \
      for (int i = 0; i < WIDTH; i++)                                                                                  \
        memcpy(dst + (size_t)(at + i) * ROWS * sizeof(element), v + i * LANES / WIDTH, LANES * sizeof(element));       \
    }                                                                                                                  \
    for (; at < k; at++)                                                                                               \
      for (int lane = 0; lane < LANES; lane++)                                                                         \
        memcpy(dst + ((size_t)at * ROWS + (size_t)lane) * sizeof(element),                                             \
               from->row[lane] + (size_t)at * sizeof(element) * from->step[lane], sizeof(element));                    \
  }
DEFINE_PACK_ELEMENTS(pack_words, uint32_t, words4, transpose_words)
DEFINE_PACK_ELEMENTS(pack_halves, uint16_t, halves8, transpose_halves)

/* The 16-byte pieces at `offset` of every row, turned into [byte][lane]. */
static inline void load_transposed(const lanes *from, size_t offset, bytes16 v[LANES]) {
  for (int lane = 0; lane < LANES; lane++)
    memcpy(&v[lane], from->row[lane] + offset * from->step[lane], sizeof v[lane]);
  transpose_bytes(v);
}

/* Lines of 16 bytes, one a quarter, ROWS bytes apart. */
static inline void store_lines(const bytes16 *lines, int count, uint8_t *dst) {
  for (int i = 0; i < count; i++) memcpy(dst + i * ROWS, &lines[i], sizeof lines[i]);
}

static inline void pack_scales(const lanes *from, size_t offset, uint8_t *dst) {
  for (int lane = 0; lane < LANES; lane++) memcpy(dst + 2 * lane, from->row[lane] + offset * from->step[lane], 2);
}

/* Of quantized types dst is the block; `first` its row that the quarter begins with. */
static void pack_q8_0(const lanes *from, int64_t k, uint8_t *dst, int first) {
  const size_t block = 34;
  bytes16 v[LANES];
  for (int64_t run = 0; run < k / RUN; run++, dst += block * ROWS) {
    size_t offset = (size_t)run * block;
    pack_scales(from, offset, dst + 2 * first);
    load_transposed(from, offset + 2, v);
    store_lines(v, LANES, dst + 2 * ROWS + first);
    load_transposed(from, offset + 2 + 16, v);
    store_lines(v, LANES, dst + 2 * ROWS + LANES * ROWS + first);
  }
}

/* GGUF's byte j holds elements j (low) and j + 16 (high); packed byte i holds elements 2i and 2i + 1. */
static inline void pack_nibbles(const lanes *from, size_t offset, uint8_t *dst) {
  bytes16 v[LANES], w[LANES];
  load_transposed(from, offset, v);
  for (int i = 0; i < LANES / 2; i++) {
    w[i] = (v[2 * i] & 15) | (v[2 * i + 1] << 4);
    w[i + LANES / 2] = (v[2 * i] >> 4) | (v[2 * i + 1] & 0xf0);
  }
  store_lines(w, LANES, dst);
}

static void pack_q4_0(const lanes *from, int64_t k, uint8_t *dst, int first) {
  const size_t block = 18;
  for (int64_t run = 0; run < k / RUN; run++, dst += block * ROWS) {
    size_t offset = (size_t)run * block;
    pack_scales(from, offset, dst + 2 * first);
    pack_nibbles(from, offset + 2, dst + 2 * ROWS + first);
  }
}

static void pack_q4_1(const lanes *from, int64_t k, uint8_t *dst, int first) {
  const size_t block = 20;
  for (int64_t run = 0; run < k / RUN; run++, dst += block * ROWS) {
    size_t offset = (size_t)run * block;
    pack_scales(from, offset, dst + 2 * first);
    pack_scales(from, offset + 2, dst + 2 * ROWS + 2 * first);
    pack_nibbles(from, offset + 4, dst + 4 * ROWS + first);
  }
}

/* Any quantized type: the images of 16 rows, then line by line. The last 16 lines of an image may overlap the 16 before
 * them: every image has 16 at least. */
static void pack_images(ir_dtype dtype, const lanes *from, int64_t k, uint8_t *dst, int first) {
  ir_packing packing = ir_packing_of(dtype);
  const size_t block = (size_t)ir_dtype_block_bytes(dtype), lines = (size_t)packing.lines;
  const uint8_t nothing[RT_IMAGE_BYTES] = {0};
  uint8_t images[LANES][RT_IMAGE_BYTES], *halves = dst + 2 * first, *whole = dst + first;
  const lanes all = {.row = {images[0], images[1], images[2], images[3], images[4], images[5], images[6], images[7],
                             images[8], images[9], images[10], images[11], images[12], images[13], images[14],
                             images[15]},
                     .step = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}};
  const size_t head = (size_t)(packing.has_minimum ? 4 : packing.exponent ? 0 : 2);
  for (int64_t run = 0; run < k / packing.elements; run++, halves += lines * ROWS, whole += lines * ROWS) {
    for (int lane = 0; lane < LANES; lane++)
      rt_block_to_image(dtype, &packing, from->step[lane] ? from->row[lane] + (size_t)run * block : nothing,
                        images[lane]);
    for (size_t i = 0; i < head; i += 2) pack_scales(&all, i, halves + i * ROWS);
    for (size_t at = head; at < lines; at += LANES) {
      bytes16 v[LANES];
      size_t line = at + LANES <= lines ? at : lines - LANES;
      load_transposed(&all, line, v);
      store_lines(v, LANES, whole + line * ROWS);
    }
  }
}

/* ---- matrices ---------------------------------------------------------------------------------------------------- */

static void pack_quarter(ir_dtype dtype, const lanes *from, int64_t k, uint8_t *block, int first) {
  switch (dtype) {
  case IR_f32:
    pack_words(from, k, block + 4 * first);
    break;
  case IR_f16:
  case IR_bf16:
    pack_halves(from, k, block + 2 * first);
    break;
  case IR_q8_0:
    pack_q8_0(from, k, block, first);
    break;
  case IR_q4_0:
    pack_q4_0(from, k, block, first);
    break;
  case IR_q4_1:
    pack_q4_1(from, k, block, first);
    break;
  default:
    pack_images(dtype, from, k, block, first);
    break;
  }
}

void rt_pack(ir_dtype dtype, int64_t n, int64_t k, const void *rows, size_t row_bytes, int64_t paired_heads, void *dst,
             int64_t first_block, int64_t block_count) {
  size_t block_bytes = (size_t)ir_packed_row_bytes(dtype, k) * ROWS;
  int64_t head_rows = paired_heads > 0 ? n / paired_heads : 0;
  for (int64_t block = first_block; block < first_block + block_count; block++) {
    for (int first = 0; first < ROWS; first += LANES) {
      lanes from;
      for (int lane = 0; lane < LANES; lane++) {
        int64_t row = block * ROWS + first + lane;
        bool padding = row >= n;
        if (!padding && head_rows) row = rt_paired_row(row, head_rows);
        from.row[lane] = padding ? zeros : (const uint8_t *)rows + (size_t)row * row_bytes;
        from.step[lane] = !padding;
      }
      pack_quarter(dtype, &from, k, (uint8_t *)dst + (size_t)block * block_bytes, first);
    }
  }
}

void rt_pack_transposed(ir_dtype dtype, int64_t n, int64_t k, const void *src, size_t row_bytes, void *dst,
                        int64_t first_block, int64_t block_count) {
  size_t element = (size_t)ir_dtype_block_bytes(dtype), line = element * ROWS;
  for (int64_t block = first_block; block < first_block + block_count; block++) {
    int64_t left = n - block * ROWS;
    size_t given = left >= ROWS ? line : left > 0 ? (size_t)left * element : 0;
    const uint8_t *from = (const uint8_t *)src + (size_t)block * line;
    uint8_t *to = (uint8_t *)dst + (size_t)block * line * (size_t)k;
    for (int64_t at = 0; at < k; at++, to += line) {
      if (given == line) {
        memcpy(to, from + (size_t)at * row_bytes, line);
        continue;
      }
      memset(to, 0, line);
      if (given) memcpy(to, from + (size_t)at * row_bytes, given);
    }
  }
}

/* ---- back again -------------------------------------------------------------------------------------------------- */

static void unpack_run(ir_dtype dtype, const ir_packing *packing, const uint8_t *run, int lane, uint8_t *dst) {
  uint8_t image[RT_IMAGE_BYTES];
  int head = packing->has_minimum ? 4 : packing->exponent ? 0 : 2;
  for (int i = 0; i < head; i += 2) memcpy(image + i, run + i * ROWS + 2 * lane, 2);
  for (int i = head; i < packing->lines; i++) image[i] = run[i * ROWS + lane];
  rt_block_from_image(dtype, packing, image, dst);
}

void rt_unpack_row(ir_dtype dtype, int64_t n, int64_t k, const void *packed, int64_t row, void *dst) {
  (void)n;
  size_t unit = (size_t)ir_dtype_block_bytes(dtype);
  int64_t units = k / ir_dtype_block_elements(dtype);
  int lane = (int)(row % ROWS);
  const uint8_t *from = (const uint8_t *)packed + row / ROWS * ROWS * ir_packed_row_bytes(dtype, k);
  uint8_t *to = dst;
  if (ir_dtype_block_elements(dtype) == 1) {
    for (int64_t i = 0; i < units; i++, from += unit * ROWS, to += unit) memcpy(to, from + (size_t)lane * unit, unit);
    return;
  }
  ir_packing packing = ir_packing_of(dtype);
  for (int64_t i = 0; i < units; i++, from += packing.lines * ROWS, to += unit)
    unpack_run(dtype, &packing, from, lane, to);
}
