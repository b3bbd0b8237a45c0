/* codegen/llvm/ll.h: what the files of this back end share: an LLVM module under construction and its vocabulary.
 *
 *   backend.c  the vtable: target machine, pass pipeline, object, loading, texts
 *   emit.c     loops, addresses, vectors; the scalar functions by codegen/scalar.inc
 *   decode.c   packed weights to f32
 *   product.c  the register-tiled products: one function a (storage type, register tile), a driver a storage type
 *   kind.c     a task kind to a function: which values live in scratch, the loops that make them
 *   choice.c   rows that chose a batch; the greatest columns, columns at indices
 *   rows.c     ops over the rows of all tokens; products with a weight the other way round
 *   value.c    one vector of a value, pulled from its operands */
#ifndef DIPPER_CODEGEN_LLVM_LL_H
#define DIPPER_CODEGEN_LLVM_LL_H

#include "ir/ir.h"

#include <llvm-c/Core.h>

/* A register tile of the product: rows x vectors of 16 columns (1, 2 or 4: a block of weights has four). */
typedef struct ll_register_tile {
  int rows, blocks;
} ll_register_tile;

typedef enum ll_shuffle { LL_SHUFFLE_none, LL_SHUFFLE_ssse3, LL_SHUFFLE_neon } ll_shuffle; /* bytes by index */

typedef struct ll_numbers {
  bool fma, f16; /* has fused multiply-add, has f16 to f32 */
  ll_shuffle shuffle;
  const ll_register_tile *tiles; /* what the registers allow, descending rows; the last has one row */
  int tile_count;
  /* The same for f32, f16, bf16, whose weights take little to decode: whole lines of them, for the memory's sake. */
  const ll_register_tile *plain_tiles;
  int plain_tile_count;
} ll_numbers;

typedef struct ll {
  const tile_program *program;
  ll_numbers numbers;
  LLVMContextRef context;
  LLVMModuleRef module;
  LLVMBuilderRef b;
  LLVMTypeRef i1, i8, i16, i32, i64, f16, f32, f64, ptr, v_f32, v_f64, v_i32, v_i64, v_i1, void_t;
  LLVMValueRef function; /* under construction */
  LLVMValueRef products[IR_DTYPE_COUNT]; /* drivers, made on demand */
  LLVMValueRef embeds[IR_DTYPE_COUNT];
} ll;

/* ---- emit.c */

LLVMValueRef ll_int(ll *l, int64_t n);
LLVMValueRef ll_add(ll *l, LLVMValueRef a, LLVMValueRef b);
LLVMValueRef ll_mul(ll *l, LLVMValueRef a, LLVMValueRef b);
LLVMValueRef ll_muli(ll *l, LLVMValueRef a, int64_t n);
LLVMValueRef ll_addi(ll *l, LLVMValueRef a, int64_t n);
LLVMValueRef ll_min(ll *l, LLVMValueRef a, LLVMValueRef b); /* signed */
/* base + bytes; base + index * size */
LLVMValueRef ll_at(ll *l, LLVMValueRef base, LLVMValueRef bytes);
LLVMValueRef ll_load(ll *l, LLVMTypeRef type, LLVMValueRef pointer, unsigned align);
LLVMValueRef ll_load_constant(ll *l, LLVMTypeRef type, LLVMValueRef pointer, unsigned align); /* written by no task */
LLVMValueRef ll_store(ll *l, LLVMValueRef value, LLVMValueRef pointer, unsigned align);
LLVMValueRef ll_load_i32(ll *l, LLVMValueRef base, LLVMValueRef index); /* base[index], sign-extended to i64 */
/* A field of the step. */
LLVMValueRef ll_step_ptr(ll *l, LLVMValueRef step, size_t offset);
LLVMValueRef ll_step_i64(ll *l, LLVMValueRef step, size_t offset);
LLVMValueRef ll_splat(ll *l, LLVMValueRef scalar);
LLVMValueRef ll_const(ll *l, double c);  /* <16 x f32> splat */
LLVMValueRef ll_constd(ll *l, double c); /* <16 x f64> splat */
LLVMValueRef ll_lane(ll *l, int lane);   /* as an index */
LLVMValueRef ll_lane_ids(ll *l);         /* <16 x i32> 0..15 */
void ll_fetch(ll *l, LLVMValueRef at, bool write);
LLVMValueRef ll_fma(ll *l, LLVMValueRef x, LLVMValueRef y, LLVMValueRef z); /* any float type */
LLVMValueRef ll_intrinsic(ll *l, const char *name, LLVMTypeRef *overloads, int overload_count, LLVMValueRef *arguments,
                          int count);
/* f32, or 16 of them, to f16, to nearest even; as i16 where the machine has no such instruction. */
LLVMValueRef ll_narrow_f16(ll *l, LLVMValueRef x);
LLVMValueRef ll_narrow_bf16(ll *l, LLVMValueRef x);
LLVMValueRef ll_scalar(ll *l, tile_opcode code, LLVMValueRef x, LLVMValueRef y);
LLVMValueRef ll_tree(ll *l, LLVMValueRef v, bool greatest); /* the fixed tree over 16 lanes, to an f32 */
LLVMValueRef ll_function(ll *l, const char *name, LLVMTypeRef *parameters, int count, bool exported);
LLVMBasicBlockRef ll_block(ll *l, const char *name);

/* for (index = from; index < to; index += step) body: begin, emit the body, end. `carried` values (up to 4): phis, read
 * as loop.carried[i]; give their next values to end; after it they hold the final ones. */
typedef struct ll_loop {
  LLVMBasicBlockRef entry, body, exit;
  LLVMValueRef index, to, carried[64];
  int64_t step;
  int carried_count;
} ll_loop;
void ll_loop_begin(ll *l, ll_loop *loop, const char *name, LLVMValueRef from, LLVMValueRef to, int64_t step,
                   LLVMValueRef *carried, int carried_count);
void ll_loop_end(ll *l, ll_loop *loop, LLVMValueRef *next);

/* ---- decode.c */

/* 16 elements of f32, f16 or bf16 as <16 x f32>. */
LLVMValueRef ll_load_plain(ll *l, ir_dtype storage, LLVMValueRef at);

/* A run (ir/packing.h) of a packed quantized block, being decoded: `vectors` of 16 rows from row `first` on. */
typedef struct ll_run {
  ll *l;
  ir_packing packing;
  int vectors;
  bool as_bytes;
  LLVMValueRef run, first, lines;
  LLVMValueRef block_scale[4], block_minimum[4], scale[4], minimum[4], zero;
  LLVMValueRef low[4], high; /* lines of codes at hand */
} ll_run;

/* Begin; then, where the block has groups, ll_run_group at each; then elements of a group in order, in units of
 * ll_run_unit: element e (a constant, ascending from 0) of unit `unit` of the run, as one <16 x f32> a vector. */
void ll_run_begin(ll_run *r, ll *l, ir_dtype storage, int vectors, LLVMValueRef run, LLVMValueRef first);
void ll_run_group(ll_run *r, LLVMValueRef group);
int ll_run_unit(const ll_run *r);
void ll_run_weights(ll_run *r, LLVMValueRef unit, int e, LLVMValueRef *weights);

/* Element k of the row in `lane` of `block`, an f32. */
LLVMValueRef ll_row_element(ll *l, ir_dtype storage, LLVMValueRef block, LLVMValueRef lane, LLVMValueRef k);

/* ---- product.c */

/* void product(a, lda floats, w, bytes from block to block, k, vectors of 16 columns, c, ldc floats, rows, accumulate i64):
 * c (+)= a w, k in order; the vectors are a multiple of 4. Two more: memory that is
 * wanted after it, or NULL; and `jump`. */
enum { LL_NEXT_BYTES = TILE_BLOCK * TILE_BLOCK * 4, LL_TURNED_BLOCKS = 2 };
LLVMValueRef ll_product(ll *l, ir_dtype storage);
/* void embed(w, k, row, destination): one row of a packed matrix as f32. */
LLVMValueRef ll_embed(ll *l, ir_dtype storage);
LLVMValueRef ll_call(ll *l, LLVMValueRef function, LLVMValueRef *arguments, int count);

/* ---- kind.c, value.c */

typedef struct ll_kind {
  ll *l;
  const tile_kind *kind;
  LLVMValueRef step, layer, row, col, scratch, reuse; /* parameters; col then within the batch */
  LLVMValueRef batch;  /* where there are several, else NULL */
  LLVMValueRef chosen; /* i32[rows]: row in the tile * used + which of its choices; NULL where the kind does not choose */
  LLVMValueRef row0;   /* first token (or output) row */
  LLVMValueRef rows;   /* rows of this task */
  LLVMValueRef tile_base; /* this row tile's slab, of the kind's space (segments: tokens) */
  LLVMValueRef local0; /* row0 within its row tile (segments; else 0) */
  LLVMValueRef columns; /* of this task's column tile */
  LLVMValueRef chunk;  /* inside the loop */
  int64_t *place;      /* per op: offset of its value in the scratch, or -1: pulled where it is used */
  int64_t *stride;     /* per op: floats from row to row there */
} ll_kind;

/* choice.c: which rows, and ops that look for columns. */
void ll_choose(ll_kind *k);                                       /* fills k->chosen and k->rows */
/* Of `count` rows whose choices begin at `ids` those that chose the batch, as k->chosen has them; returns their number.
 */
LLVMValueRef ll_note_choices(ll_kind *k, LLVMValueRef ids, LLVMValueRef count, LLVMValueRef list);
void ll_top_k(ll_kind *k, int index);
void ll_best(ll_kind *k, int index);
void ll_take(ll_kind *k, int index);
void ll_place(ll_kind *k, int index);
void ll_among(ll_kind *k, int index);
void ll_column_at(ll_kind *k, int index);

/* rows.c: gradients of weights; a weight the other way round. */
void ll_mma_rows(ll_kind *k, int index);
void ll_sum_rows(ll_kind *k, int index);
void ll_scatter_rows(ll_kind *k, int index);
void ll_back_product(ll_kind *k, int index, ir_dtype storage, LLVMValueRef base, LLVMValueRef a, LLVMValueRef lda);
LLVMValueRef ll_turned_at(ll_kind *k, int index); /* scratch for the LL_TURNED_BLOCKS blocks of 64 x 64 that mma_back turns at a time */

/* Keys (part 0) or values of (page, head) of this layer; the page of this chunk; the head that a cache op means. */
LLVMValueRef ll_cache_at(ll_kind *k, const tile_cache *cache, LLVMValueRef page, LLVMValueRef head, int part);
LLVMValueRef ll_chunk_page(ll_kind *k);
LLVMValueRef ll_head_of(ll_kind *k, const tile_op *op);

/* Bytes of scratch a kind takes; fills place and stride (arrays of op_count) when not NULL. */
int64_t ll_place_values(const tile_kind *kind, int64_t *place, int64_t *stride);
void ll_emit_kind(ll *l, int index);

/* <16 x f32> of op's value: columns c .. c+15 of row r. */
LLVMValueRef ll_pull(ll_kind *k, int op, LLVMValueRef r, LLVMValueRef c);
/* The same of op's operand, broadcast to op's columns. */
LLVMValueRef ll_pull_operand(ll_kind *k, const tile_op *op, int which, LLVMValueRef r, LLVMValueRef c);
/* <16 x f32> of a [rows, 1] value: rows r .. r+15. */
LLVMValueRef ll_whole_number(ll_kind *k, int op); /* an i64 of a [1, 1] value */
LLVMValueRef ll_pull_rows(ll_kind *k, int op, LLVMValueRef r);
/* Element c of the task's piece of a slot. */
ir_dtype ll_state_type(const ll_kind *k, const tile_op *op);
LLVMValueRef ll_state_at(ll_kind *k, const tile_op *op, LLVMValueRef c);
LLVMValueRef ll_scratch_at(ll_kind *k, int op, LLVMValueRef r, LLVMValueRef c);
/* Address of element (r, c) of a load or store. */
LLVMValueRef ll_buffer_at(ll_kind *k, const tile_op *op, LLVMValueRef r, LLVMValueRef c);
LLVMValueRef ll_local_row(ll_kind *k, LLVMValueRef r); /* from row0: r / group, or that of a chosen row */
LLVMValueRef ll_token_of(ll_kind *k, LLVMValueRef r);  /* row0 + ll_local_row */
LLVMValueRef ll_column_of(ll_kind *k, const tile_op *op, LLVMValueRef r);
LLVMValueRef ll_weight_base(ll_kind *k, const tile_op *op, LLVMValueRef *slot); /* this layer's memory */

#endif
