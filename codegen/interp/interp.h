/* codegen/interp/interp.h: what the files of this back end share.
 *
 *   interp.c   the vtable, the places of the values, a task run op by op
 *   ops.c      one function an op: reads its operands' values, writes its own
 *   rows.c     ops over the rows of all tokens: gradients of weights
 *   packed.c   packed weights: decoding, products, single rows
 *   tensor.c   products as matrix units do them
 *   scalar.c   the elementwise functions by codegen/scalar.inc */
#ifndef DIPPER_CODEGEN_INTERP_H
#define DIPPER_CODEGEN_INTERP_H

#include "ir/ir.h"

/* One task under way. */
typedef struct interp_task {
  const tile_program *program;
  const tile_kind *kind;
  const tile_step *step;
  const int64_t *place; /* per op: its value's offset in the scratch, in floats */
  float *scratch;
  int64_t layer, row, col, batch; /* col within the batch */
  int64_t row0, tokens; /* first token (or output) row and their number */
  int64_t rows;         /* rows of values: tokens * group, or those that chose the batch */
  int32_t *chosen;      /* [rows], where the kind chooses: row in the tile * used + which of its choices; else NULL */
  int64_t columns;      /* of this task's column tile */
  int64_t chunk;        /* of the loop */
} interp_task;

/* The value [rows or 1, cols] of op `index`, rows of op.cols floats. */
float *interp_value(const interp_task *task, int index);
/* Element (r, c) of op `index`, for a consumer of `cols` columns: broadcast when it has fewer rows or columns. */
float interp_element(const interp_task *task, int index, int64_t r, int64_t c, int64_t cols);
int64_t interp_rows(const interp_task *task, const tile_op *op);    /* rows to make */
int64_t interp_columns(const interp_task *task, const tile_op *op); /* columns to make */
/* The last position that the task's loop comes to: of the segment's last token, or of the sequence's. */
int64_t interp_last_position(const interp_task *task);
/* The chunk that the loop which begins at op `index` begins with. */
int64_t interp_first_chunk(const interp_task *task, int index);
/* Fills task->chosen and task->rows. */
void interp_choose(interp_task *task);
/* Runs any op but loop, carry and next. */
void interp_op(const interp_task *task, int index);

/* rows.c: all tokens' rows at once. */
void interp_mma_rows(const interp_task *task, int index);
void interp_sum_rows(const interp_task *task, int index);
void interp_scatter_rows(const interp_task *task, int index);

float interp_scalar(tile_opcode code, float x, float y);
/* Threefry's first word of two words of a counter under two of a key, and what `noise` makes of it. */
uint32_t interp_random_word(uint32_t x, uint32_t y, uint32_t key, uint32_t key2);
float interp_noise(uint32_t word);
float interp_log_sum_exp(const float *x, int64_t count);

/* Bytes of one row of a packed matrix with k columns; a block of TILE_BLOCK rows takes TILE_BLOCK times as many. */
int64_t interp_row_bytes(ir_dtype storage, int64_t k);
/* c[rows, cols] += a[rows, k] w, where w's blocks of TILE_BLOCK columns lie block_bytes apart. Each element is a chain
 * of fused multiply-adds along k from what c holds. Row r of a is at a + r * lda. */
void interp_product(ir_dtype storage, const char *w, int64_t block_bytes, int64_t k, const float *a, int64_t lda,
                    int64_t rows, float *c, int64_t ldc, int64_t cols);
/* The same as matrix units do it (ir/tile.h), for storage f16 or bf16: of k + the elements to `extent`, which count as
 * zeros. `sliced`: in slices; else one chain. */
typedef struct interp_tensor {
  ir_dtype storage;
  int64_t depth, extent; /* of k: those that take part, and those that steps and slices are made of */
  bool sliced;
} interp_tensor;
bool interp_is_tensor(const tile_program *program, ir_dtype storage);
void interp_tensor_product(const interp_tensor *t, const char *w, int64_t block_bytes, const float *a, int64_t lda,
                           int64_t rows, float *c, int64_t ldc, int64_t cols);
/* sum + the products of 16 elements, each rounded to the storage type: one step. */
float interp_tensor_step(ir_dtype storage, float sum, const float *a, const float *b);
uint16_t interp_half(float x); /* to f16, to nearest, ties to even */
float interp_weight(ir_dtype storage, const char *block, int64_t k, int lane); /* of a packed block */

/* to[cols] = columns [from, from + cols) of row `row` of a packed matrix with k columns. */
void interp_embed(ir_dtype storage, const char *w, int64_t k, int64_t row, int64_t from, int64_t cols, float *to);

#endif
