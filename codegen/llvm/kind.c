/* codegen/llvm/kind.c: a task kind to a function. Values that a loop of their own must make first (products, sums, their
 * row operands, what a loop carries) get a place in the worker's scratch; all others are pulled where they are used. */
#include "codegen/llvm/ll.h"

#include <stdio.h>
#include <string.h>

static int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

/* A full-row load that a product may read in place instead of from a copy. */
static bool readable_in_place(const tile_kind *kind, const tile_op *op) {
  return op->code == TILE_load && op->index < 0 && kind->group == 1 && !kind->used && !op->column_tile;
}

static bool is_product(tile_opcode code) {
  return code == TILE_mma || code == TILE_mma_back || code == TILE_mma_keys || code == TILE_mma_values;
}

/* Is `wanted` read when `value` is pulled? */
static bool depends_on(const tile_kind *kind, int value, int wanted) {
  if (value == wanted) return true;
  if (value < wanted) return false;
  for (int j = 0; j < tile_scalar_arity(kind->ops[value].code); j++)
    if (depends_on(kind, kind->ops[value].operands[j], wanted)) return true;
  return false;
}

/* Does the value go back to a load of a buffer that is stored to before the value's last use? Then it must be made while
 * the buffer still holds what was meant. Uses in the very loop that stores are fine: an element is read before it is
 * written. */
static bool outlives_its_source(const tile_kind *kind, int index, int source) {
  const tile_op *op = &kind->ops[source];
  if (op->code == TILE_load || op->code == TILE_parameter) {
    tile_opcode writer = op->code == TILE_load ? TILE_store : TILE_assign;
    int stored = -1;
    for (int i = source + 1; i < kind->op_count; i++) {
      const tile_op *later = &kind->ops[i];
      bool written = later->code == writer && later->ref == op->ref && later->part == op->part;
      if (written && stored < 0 && i > index) stored = i;
      if (stored < 0 || i <= stored) continue;
      for (int j = 0; j < tile_operand_count(later->code); j++)
        if (depends_on(kind, later->operands[j], index)) return true;
    }
    return false;
  }
  for (int j = 0; j < tile_scalar_arity(op->code); j++)
    if (outlives_its_source(kind, index, op->operands[j])) return true;
  return false;
}

static bool must_be_placed(const tile_kind *kind, int index) {
  const tile_op *op = &kind->ops[index];
  if ((op->code == TILE_load || op->code == TILE_parameter || tile_scalar_arity(op->code)) && outlives_its_source(kind, index, index)) return true;
  switch (op->code) {
  case TILE_mma: case TILE_mma_back: case TILE_at: case TILE_mma_keys: case TILE_mma_values: case TILE_carry: case TILE_sum: case TILE_greatest:
  case TILE_input: case TILE_embed: case TILE_choose: case TILE_top_k: case TILE_take: case TILE_place: case TILE_among:
  case TILE_best:
    return true;
  case TILE_constant: case TILE_table: case TILE_every: case TILE_loop: case TILE_next: case TILE_store: case TILE_append:
  case TILE_mma_rows: case TILE_sum_rows: case TILE_scatter_rows: case TILE_keys_row: case TILE_assign:
    return false;
  default:
    break;
  }
  for (int i = index + 1; i < kind->op_count; i++) {
    const tile_op *user = &kind->ops[i];
    if (user->code == TILE_next)
      for (int j = 0; j < user->list_count; j++)
        if (user->list[j] == index) return true;
    for (int j = 0; j < tile_operand_count(user->code); j++) {
      if (user->operands[j] != index) continue;
      if (is_product(user->code) && j == 0 && !readable_in_place(kind, op)) return true;
      if (user->code == TILE_rotate && user->dim / 2 % TILE_LANES != 0) return true;
      if (user->code == TILE_append && user->dim % TILE_LANES != 0) return true;
      if (user->code == TILE_top_k || user->code == TILE_take || user->code == TILE_place ||
          user->code == TILE_among)
        return true;
      bool addressed = op->code == TILE_load || op->code == TILE_vector;
      if ((user->code == TILE_pick || user->code == TILE_concat) && !addressed) return true;
      bool repeated = op->cols == 1 || (tile_scalar_arity(op->code) && tile_scalar_arity(user->code) && op->cols < user->cols);
      if (repeated && !op->one_row && tile_has_value(user->code) && user->cols != op->cols) return true;
    }
  }
  return false;
}

int64_t ll_place_values(const tile_kind *kind, int64_t *place, int64_t *stride) {
  int64_t bytes = 0, rows = round_up(kind->max_rows, TILE_LANES);
  for (int i = 0; i < kind->op_count; i++) {
    const tile_op *op = &kind->ops[i];
    if (place) place[i] = -1;
    if (!must_be_placed(kind, i)) continue;
    int64_t floats = op->cols == 1 || op->code == TILE_choose ? 1 : round_up(op->cols, TILE_BLOCK);
    if (place) place[i] = bytes;
    if (stride) stride[i] = floats;
    /* Vectors may be read past a value's end (small heads, row vectors): a vector of slack. */
    bytes += round_up(rows * floats * 4 + TILE_LANES * 4, 64);
    if (op->code == TILE_mma_back) bytes += LL_TURNED_BLOCKS * TILE_BLOCK * TILE_BLOCK * 4; /* behind it, the blocks being turned */
    if (op->code == TILE_choose && kind->space == TILE_PARAMETERS) bytes += 2 * rows * 4; /* and where the rows lie */
  }
  return bytes;
}

/* ---- the pieces of a kind */

/* Columns to make of op: its own, or those of this task's column tile. */
static LLVMValueRef columns_of(ll_kind *k, const tile_op *op) {
  return op->column_tile ? k->columns : ll_int(k->l, op->cols);
}

/* 16-column blocks of a product's result. */
static LLVMValueRef blocks_of(ll_kind *k, const tile_op *op) {
  ll *l = k->l;
  if (!op->column_tile) return ll_int(l, round_up(op->cols, TILE_BLOCK) / TILE_LANES);
  LLVMValueRef padded = ll_addi(l, k->columns, TILE_BLOCK - 1);
  return LLVMBuildShl(l->b, LLVMBuildLShr(l->b, padded, ll_int(l, 6), ""), ll_int(l, 2), "");
}

static LLVMValueRef lanes_below(ll *l, LLVMValueRef count) {
  LLVMValueRef limit = ll_splat(l, LLVMBuildTrunc(l->b, count, l->i32, ""));
  return LLVMBuildICmp(l->b, LLVMIntSLT, ll_lane_ids(l), limit, "");
}

/* Makes op's value in its place, column vectors row by row (or, for [rows, 1], 16 rows at a time). `source`: the op
 * whose value is pulled (op itself, a carry's or product's initial value). */
static void make(ll_kind *k, int index, int source) {
  ll *l = k->l;
  const tile_op *op = &k->kind->ops[index];
  ll_loop rows, columns;
  int64_t place = k->place[index];
  if (source == index) k->place[index] = -1; /* while it is made it is not yet there to be read */
  if (op->cols == 1) {
    ll_loop_begin(l, &rows, "rows", ll_int(l, 0), k->rows, TILE_LANES, NULL, 0);
    LLVMValueRef value = ll_pull_rows(k, source, rows.index);
    k->place[index] = place;
    ll_store(l, value, ll_scratch_at(k, index, rows.index, ll_int(l, 0)), 4);
    ll_loop_end(l, &rows, NULL);
    return;
  }
  ll_loop_begin(l, &rows, "row", ll_int(l, 0), k->rows, 1, NULL, 0);
  ll_loop_begin(l, &columns, "column", ll_int(l, 0), columns_of(k, op), TILE_LANES, NULL, 0);
  bool narrow = k->kind->ops[source].cols == 1;
  LLVMValueRef value = ll_pull(k, source, rows.index, narrow ? ll_int(l, 0) : columns.index);
  k->place[index] = place;
  ll_store(l, value, ll_scratch_at(k, index, rows.index, columns.index), 4);
  ll_loop_end(l, &columns, NULL);
  ll_loop_end(l, &rows, NULL);
}

/* `width` rows at a time, for independent chains of additions. */
static void reduce_rows(ll_kind *k, int index, LLVMValueRef from, LLVMValueRef to, int width) {
  ll *l = k->l;
  const tile_op *op = &k->kind->ops[index], *x = &k->kind->ops[op->operands[0]];
  bool greatest = op->code == TILE_greatest;
  int64_t size = x->cols / op->cols;
  LLVMValueRef neutral = ll_const(l, greatest ? -__builtin_inf() : 0.0), start[8], next[8];
  ll_loop rows, groups, columns;
  for (int i = 0; i < width; i++) start[i] = neutral;
  ll_loop_begin(l, &rows, "reduce.row", from, to, width, NULL, 0);
  ll_loop_begin(l, &groups, "reduce.group", ll_int(l, 0), ll_int(l, op->cols), 1, NULL, 0);
  ll_loop_begin(l, &columns, "reduce", ll_int(l, 0), x->column_tile ? k->columns : ll_int(l, size), TILE_LANES, start, width);
  LLVMValueRef c = ll_add(l, ll_muli(l, groups.index, size), columns.index);
  for (int i = 0; i < width; i++) {
    LLVMValueRef v = ll_pull(k, op->operands[0], ll_addi(l, rows.index, i), c);
    if (size % TILE_LANES) {
      LLVMValueRef valid = lanes_below(l, LLVMBuildSub(l->b, ll_int(l, size), columns.index, ""));
      v = LLVMBuildSelect(l->b, valid, v, neutral, "");
    }
    next[i] = ll_scalar(l, greatest ? TILE_max : TILE_add, columns.carried[i], v);
  }
  ll_loop_end(l, &columns, next);
  for (int i = 0; i < width; i++)
    ll_store(l, ll_tree(l, columns.carried[i], greatest),
             ll_scratch_at(k, index, ll_addi(l, rows.index, i), groups.index), 4);
  ll_loop_end(l, &groups, NULL);
  ll_loop_end(l, &rows, NULL);
}

static void reduce(ll_kind *k, int index) {
  ll *l = k->l;
  LLVMValueRef quads = LLVMBuildAnd(l->b, k->rows, ll_int(l, -4), "");
  reduce_rows(k, index, ll_int(l, 0), quads, 4);
  reduce_rows(k, index, quads, k->rows, 1);
}

static void token_input(ll_kind *k, int index) {
  ll *l = k->l;
  ll_loop rows;
  LLVMValueRef inputs = ll_step_ptr(l, k->step, offsetof(tile_step, inputs));
  LLVMValueRef list = ll_load_constant(l, l->ptr, ll_at(l, inputs, ll_int(l, k->kind->ops[index].ref * 8)), 8);
  ll_loop_begin(l, &rows, "input", ll_int(l, 0), k->rows, 1, NULL, 0);
  LLVMValueRef raw = ll_load_i32(l, list, ll_token_of(k, rows.index));
  LLVMValueRef value = k->kind->ops[index].part ? LLVMBuildBitCast(l->b, LLVMBuildTrunc(l->b, raw, l->i32, ""), l->f32, "")
                                                : LLVMBuildSIToFP(l->b, raw, l->f32, "");
  ll_store(l, value, ll_scratch_at(k, index, rows.index, ll_int(l, 0)), 4);
  ll_loop_end(l, &rows, NULL);
}

/* ---- weights: one call, or a switch where the layers' storage types differ */

typedef void with_storage(ll_kind *k, int index, ir_dtype storage, LLVMValueRef base);

static void for_each_storage(ll_kind *k, int index, with_storage *emit) {
  ll *l = k->l;
  const tile_weight *weight = &l->program->weights[k->kind->ops[index].ref];
  unsigned storage = weight->storage ? weight->storage : 1u << IR_f32;
  LLVMValueRef slot, base = ll_weight_base(k, &k->kind->ops[index], &slot);
  if ((storage & (storage - 1)) == 0) {
    emit(k, index, (ir_dtype)__builtin_ctz(storage), base);
    return;
  }
  LLVMValueRef types = ll_step_ptr(l, k->step, offsetof(tile_step, weight_types));
  LLVMValueRef type = ll_load_constant(l, l->i8, LLVMBuildGEP2(l->b, l->i8, types, &slot, 1, ""), 1);
  LLVMBasicBlockRef done = ll_block(l, "stored");
  LLVMValueRef choice = LLVMBuildSwitch(l->b, type, done, (unsigned)__builtin_popcount(storage));
  for (int dtype = 0; dtype < IR_DTYPE_COUNT; dtype++) {
    if (!(storage >> dtype & 1)) continue;
    LLVMBasicBlockRef arm = ll_block(l, ir_dtype_name((ir_dtype)dtype));
    LLVMAddCase(choice, LLVMConstInt(l->i8, (unsigned)dtype, false), arm);
    LLVMPositionBuilderAtEnd(l->b, arm);
    emit(k, index, (ir_dtype)dtype, base);
    LLVMBuildBr(l->b, done);
  }
  LLVMPositionBuilderAtEnd(l->b, done);
}

static int64_t weight_row_bytes(const tile_weight *weight, ir_dtype storage) {
  return ir_packed_row_bytes(storage, weight->cols);
}

/* Where a product reads its rows: address and floats from row to row. */
static LLVMValueRef product_rows(ll_kind *k, int operand, LLVMValueRef *lda) {
  ll *l = k->l;
  const tile_op *a = &k->kind->ops[operand];
  if (k->place[operand] >= 0) {
    *lda = ll_int(l, k->stride[operand]);
    return ll_scratch_at(k, operand, ll_int(l, 0), ll_int(l, 0));
  }
  *lda = ll_int(l, l->program->buffers[a->ref].stride);
  return ll_buffer_at(k, a, ll_int(l, 0), ll_int(l, 0));
}

static void weight_product(ll_kind *k, int index, ir_dtype storage, LLVMValueRef base) {
  ll *l = k->l;
  const tile_op *op = &k->kind->ops[index];
  const tile_weight *weight = &l->program->weights[op->ref];
  int64_t row_bytes = weight_row_bytes(weight, storage);
  LLVMValueRef lda, a = product_rows(k, op->operands[0], &lda);
  LLVMValueRef w = ll_at(l, base, ll_muli(l, ll_column_of(k, op, ll_int(l, 0)), row_bytes));
  LLVMValueRef arguments[] = {a, lda, w, ll_int(l, row_bytes * TILE_BLOCK), ll_int(l, weight->cols), blocks_of(k, op),
                              ll_scratch_at(k, index, ll_int(l, 0), ll_int(l, 0)), ll_int(l, k->stride[index]),
                              k->rows, ll_int(l, 0), LLVMConstNull(l->ptr), ll_int(l, 0)};
  ll_call(l, ll_product(l, storage), arguments, 12);
}

LLVMValueRef ll_turned_at(ll_kind *k, int index) {
  int64_t rows = round_up(k->kind->max_rows, TILE_LANES);
  return ll_at(k->l, k->scratch, ll_int(k->l, k->place[index] + round_up(rows * k->stride[index] * 4 + TILE_LANES * 4, 64)));
}

static void back_product(ll_kind *k, int index, ir_dtype storage, LLVMValueRef base) {
  LLVMValueRef lda, a = product_rows(k, k->kind->ops[index].operands[0], &lda);
  ll_back_product(k, index, storage, base, a, lda);
}

static void embed_rows(ll_kind *k, int index, ir_dtype storage, LLVMValueRef base) {
  ll *l = k->l;
  const tile_op *op = &k->kind->ops[index];
  LLVMValueRef inputs = ll_step_ptr(l, k->step, offsetof(tile_step, inputs));
  LLVMValueRef list = ll_load_constant(l, l->ptr, ll_at(l, inputs, ll_int(l, op->index * 8)), 8);
  ll_loop rows;
  ll_loop_begin(l, &rows, "embed", ll_int(l, 0), k->rows, 1, NULL, 0);
  LLVMValueRef arguments[] = {base, ll_int(l, l->program->weights[op->ref].cols),
                              ll_load_i32(l, list, ll_add(l, k->row0, rows.index)),
                              ll_scratch_at(k, index, rows.index, ll_int(l, 0))};
  ll_call(l, ll_embed(l, storage), arguments, 4);
  ll_loop_end(l, &rows, NULL);
}

/* ---- the cache */

LLVMValueRef ll_cache_at(ll_kind *k, const tile_cache *cache, LLVMValueRef page, LLVMValueRef head, int part) {
  ll *l = k->l;
  int64_t size = ir_dtype_block_bytes(cache->storage);
  LLVMValueRef kv = ll_step_ptr(l, k->step, offsetof(tile_step, kv));
  LLVMValueRef unit = cache->shared ? head : ll_add(l, ll_muli(l, k->layer, cache->heads), head);
  LLVMValueRef bytes = ll_add(l, ll_muli(l, page, l->program->page_bytes),
                              ll_muli(l, unit, (cache->key_elements + cache->value_elements) * size));
  return ll_at(l, kv, ll_addi(l, bytes, cache->offset + (part ? cache->key_elements * size : 0)));
}

static LLVMValueRef last_position(ll_kind *k) {
  ll *l = k->l;
  if (k->kind->whole)
    return ll_addi(l, ll_load_i32(l, ll_step_ptr(l, k->step, offsetof(tile_step, segment_end)), k->row), -1);
  LLVMValueRef counts = ll_step_ptr(l, k->step, offsetof(tile_step, segment_tokens));
  LLVMValueRef last = ll_addi(l, ll_add(l, k->row0, ll_load_i32(l, counts, k->row)), -1);
  return ll_load_i32(l, ll_step_ptr(l, k->step, offsetof(tile_step, positions)), last);
}

LLVMValueRef ll_chunk_page(ll_kind *k) {
  ll *l = k->l;
  LLVMValueRef pages = ll_step_ptr(l, k->step, offsetof(tile_step, segment_pages));
  LLVMValueRef entry = ll_add(l, ll_load_i32(l, pages, k->row), k->chunk);
  return ll_load_i32(l, ll_step_ptr(l, k->step, offsetof(tile_step, pages)), entry);
}

LLVMValueRef ll_head_of(ll_kind *k, const tile_op *op) {
  LLVMValueRef head = op->inner > 1 ? ll_muli(k->l, k->col, op->inner) : k->col;
  return op->outer ? ll_addi(k->l, head, op->outer) : head;
}

static void cache_product(ll_kind *k, int index) {
  ll *l = k->l;
  const tile_op *op = &k->kind->ops[index];
  const tile_cache *cache = &l->program->caches[op->ref];
  bool keys = op->code == TILE_mma_keys;
  int64_t size = ir_dtype_block_bytes(cache->storage);
  LLVMValueRef w = ll_cache_at(k, cache, ll_chunk_page(k), ll_head_of(k, op), keys ? 0 : 1), depth, stride, blocks;
  if (keys) {
    depth = ll_int(l, cache->dim[0]);
    stride = ll_int(l, cache->key_elements * size);
    blocks = ll_int(l, TILE_CHUNK / TILE_LANES);
  } else {
    make(k, index, op->operands[1]);
    LLVMValueRef left = LLVMBuildSub(l->b, ll_addi(l, last_position(k), 1), ll_muli(l, k->chunk, TILE_CHUNK), "");
    depth = ll_min(l, left, ll_int(l, TILE_CHUNK));
    stride = ll_int(l, TILE_CHUNK * TILE_BLOCK * size);
    blocks = ll_int(l, cache->value_elements / TILE_CHUNK / TILE_LANES);
  }
  LLVMValueRef lda, a = product_rows(k, op->operands[0], &lda);
  LLVMValueRef arguments[] = {a, lda, w, stride, depth, blocks, ll_scratch_at(k, index, ll_int(l, 0), ll_int(l, 0)),
                              ll_int(l, k->stride[index]), k->rows, ll_int(l, keys ? 0 : 1), LLVMConstNull(l->ptr), ll_int(l, 0)};
  ll_call(l, ll_product(l, cache->storage), arguments, 12);
}

/* One element, or 16 of one head, of row r, column c: keys lie a block apart from dim to dim, values side by side. */
static void append_elements(ll_kind *k, const tile_op *op, LLVMValueRef slot, LLVMValueRef c, LLVMValueRef value,
                            bool vector) {
  ll *l = k->l;
  const tile_cache *cache = &l->program->caches[op->ref];
  LLVMValueRef n = ll_add(l, ll_column_of(k, op, ll_int(l, 0)), c);
  LLVMValueRef head = LLVMBuildUDiv(l->b, n, ll_int(l, op->dim), "");
  LLVMValueRef e = LLVMBuildURem(l->b, n, ll_int(l, op->dim), "");
  LLVMValueRef page = LLVMBuildLShr(l->b, slot, ll_int(l, 6), "");
  LLVMValueRef position = LLVMBuildAnd(l->b, slot, ll_int(l, TILE_CHUNK - 1), "");
  LLVMValueRef base = ll_cache_at(k, cache, page, head, op->part), element;
  int64_t size = ir_dtype_block_bytes(cache->storage);
  if (cache->storage == IR_f16) value = ll_narrow_f16(l, value);
  if (op->part == 0) {
    element = ll_add(l, ll_muli(l, e, TILE_BLOCK), position);
    for (int lane = 0; lane < (vector ? TILE_LANES : 1); lane++) {
      LLVMValueRef one = vector ? LLVMBuildExtractElement(l->b, value, LLVMConstInt(l->i32, (unsigned)lane, false), "") : value;
      ll_store(l, one, ll_at(l, base, ll_muli(l, ll_addi(l, element, lane * TILE_BLOCK), size)), (unsigned)size);
    }
  } else {
    element = ll_add(l, ll_muli(l, LLVMBuildLShr(l->b, e, ll_int(l, 6), ""), TILE_CHUNK), position);
    element = ll_add(l, ll_muli(l, element, TILE_BLOCK), LLVMBuildAnd(l->b, e, ll_int(l, TILE_BLOCK - 1), ""));
    ll_store(l, value, ll_at(l, base, ll_muli(l, element, size)), (unsigned)size);
  }
}

static void append(ll_kind *k, const tile_op *op) {
  ll *l = k->l;
  LLVMValueRef slots = ll_step_ptr(l, k->step, offsetof(tile_step, slots));
  const tile_op *x = &k->kind->ops[op->operands[0]];
  bool vector = op->dim % TILE_LANES == 0;
  ll_loop rows, columns;
  ll_loop_begin(l, &rows, "append", ll_int(l, 0), k->rows, 1, NULL, 0);
  LLVMValueRef slot = ll_load_i32(l, slots, ll_token_of(k, rows.index));
  ll_loop_begin(l, &columns, "append.column", ll_int(l, 0), columns_of(k, x), vector ? TILE_LANES : 1, NULL, 0);
  LLVMValueRef value = vector ? ll_pull(k, op->operands[0], rows.index, columns.index)
                              : ll_load(l, l->f32, ll_scratch_at(k, op->operands[0], rows.index, columns.index), 4);
  append_elements(k, op, slot, columns.index, value, vector);
  ll_loop_end(l, &columns, NULL);
  ll_loop_end(l, &rows, NULL);
}

/* ---- stores */

static void store(ll_kind *k, const tile_op *op) {
  ll *l = k->l;
  const tile_op *x = &k->kind->ops[op->operands[0]];
  const tile_buffer *buffer = &l->program->buffers[op->ref];
  bool tiled = op->column_tile || x->column_tile;
  LLVMValueRef count = tiled ? k->columns : ll_int(l, op->cols);
  /* An activation's padding may hold anything, so only a part of a row, and the caller's memory, end exactly. */
  bool part = !tiled || op->batch_step || op->group_step;
  bool exact = (tiled ? k->kind->columns : op->cols) % TILE_LANES != 0 && (buffer->output >= 0 || part);
  ll_loop rows, columns;
  ll_loop_begin(l, &rows, "store", ll_int(l, 0), k->rows, 1, NULL, 0);
  ll_loop_begin(l, &columns, "store.column", ll_int(l, 0), count, TILE_LANES, NULL, 0);
  LLVMValueRef value = ll_pull_operand(k, op, 0, rows.index, columns.index);
  LLVMValueRef at = ll_buffer_at(k, op, rows.index, columns.index);
  if (exact) {
    LLVMTypeRef overloads[] = {l->v_f32, l->ptr};
    LLVMValueRef mask = lanes_below(l, LLVMBuildSub(l->b, count, columns.index, ""));
    LLVMValueRef arguments[] = {value, at, LLVMConstInt(l->i32, 4, false), mask};
    ll_intrinsic(l, "llvm.masked.store", overloads, 2, arguments, 4);
  } else {
    ll_store(l, value, at, 4);
  }
  ll_loop_end(l, &columns, NULL);
  ll_loop_end(l, &rows, NULL);
}

static void assign(ll_kind *k, const tile_op *op) {
  ll *l = k->l;
  ll_loop columns;
  ll_loop_begin(l, &columns, "assign", ll_int(l, 0), k->columns, TILE_LANES, NULL, 0);
  LLVMValueRef zero = ll_int(l, 0), at = k->kind->ops[op->operands[0]].column_tile ? columns.index : zero;
  bool narrow = ll_state_type(k, op) == IR_bf16;
  LLVMValueRef value = ll_pull(k, op->operands[0], zero, at);
  ll_store(l, narrow ? ll_narrow_bf16(l, value) : value, ll_state_at(k, op, columns.index), narrow ? 2 : 4);
  ll_loop_end(l, &columns, NULL);
}

/* ---- a kind */

static void begin_chunks(ll_kind *k, int index, ll_loop *chunks) {
  ll *l = k->l;
  for (int i = index + 1; i < k->kind->op_count && k->kind->ops[i].code == TILE_carry; i++)
    make(k, i, k->kind->ops[i].operands[0]);
  LLVMValueRef count = ll_addi(l, LLVMBuildLShr(l->b, last_position(k), ll_int(l, 6), ""), 1), from = ll_int(l, 0);
  if (k->kind->ops[index].list_count) {
    LLVMValueRef own = ll_load_i32(l, ll_step_ptr(l, k->step, offsetof(tile_step, positions)), k->row0);
    LLVMValueRef first = LLVMBuildSub(l->b, ll_addi(l, own, 1), ll_whole_number(k, k->kind->ops[index].list[0]), "");
    LLVMValueRef inside = LLVMBuildICmp(l->b, LLVMIntSGT, first, from, "");
    from = LLVMBuildSelect(l->b, inside, LLVMBuildLShr(l->b, first, ll_int(l, 6), ""), from, "");
  }
  if (k->kind->ops[index].part) {
    LLVMValueRef own = ll_load_i32(l, ll_step_ptr(l, k->step, offsetof(tile_step, positions)), k->row0);
    from = LLVMBuildLShr(l->b, own, ll_int(l, 6), "");
  }
  ll_loop_begin(l, chunks, "chunk", from, count, 1, NULL, 0);
  k->chunk = chunks->index;
}

static void end_chunks(ll_kind *k, const tile_op *next, ll_loop *chunks) {
  int carry = 0;
  while (k->kind->ops[carry].code != TILE_carry) carry++;
  for (int i = 0; i < next->list_count; i++) make(k, carry + i, next->list[i]);
  ll_loop_end(k->l, chunks, NULL);
  k->chunk = NULL;
}

static void emit_op(ll_kind *k, int index, ll_loop *chunks) {
  const tile_op *op = &k->kind->ops[index];
  switch (op->code) {
  case TILE_store: store(k, op); break;
  case TILE_append: append(k, op); break;
  case TILE_assign: assign(k, op); break;
  case TILE_mma: for_each_storage(k, index, weight_product); break;
  case TILE_mma_back: for_each_storage(k, index, back_product); break;
  case TILE_mma_rows: ll_mma_rows(k, index); break;
  case TILE_sum_rows: ll_sum_rows(k, index); break;
  case TILE_scatter_rows: ll_scatter_rows(k, index); break;
  case TILE_at: ll_column_at(k, index); break;
  case TILE_embed: for_each_storage(k, index, embed_rows); break;
  case TILE_mma_keys: case TILE_mma_values: cache_product(k, index); break;
  case TILE_sum: case TILE_greatest: reduce(k, index); break;
  case TILE_input: token_input(k, index); break;
  case TILE_loop: begin_chunks(k, index, chunks); break;
  case TILE_next: end_chunks(k, op, chunks); break;
  case TILE_carry: break; /* made by begin_chunks and end_chunks */
  case TILE_choose: break; /* before the first op */
  case TILE_top_k: ll_top_k(k, index); break;
  case TILE_best: ll_best(k, index); break;
  case TILE_take: ll_take(k, index); break;
  case TILE_place: ll_place(k, index); break;
  case TILE_among: ll_among(k, index); break;
  default:
    if (k->place[index] >= 0) make(k, index, index);
  }
}

/* Row and column range of the task, from its parameters. */
static void task_range(ll_kind *k) {
  ll *l = k->l;
  const tile_kind *kind = k->kind;
  LLVMValueRef tile = ll_int(l, l->program->row_tile), row_tile = k->row;
  if (kind->space == TILE_SEGMENTS) {
    k->row0 = ll_load_i32(l, ll_step_ptr(l, k->step, offsetof(tile_step, segment_row)), k->row);
    k->rows = ll_muli(l, ll_load_i32(l, ll_step_ptr(l, k->step, offsetof(tile_step, segment_tokens)), k->row), kind->group);
    k->local0 = LLVMBuildURem(l->b, k->row0, tile, "");
    row_tile = LLVMBuildUDiv(l->b, k->row0, tile, "");
  } else if (kind->space == TILE_STATES) {
    k->row0 = row_tile = ll_int(l, 0);
    k->rows = ll_int(l, 1);
  } else {
    LLVMValueRef all = ll_step_i64(l, k->step, offsetof(tile_step, rows) + sizeof(int64_t) * kind->space);
    k->row0 = ll_mul(l, k->row, tile);
    k->rows = ll_min(l, tile, LLVMBuildSub(l->b, all, k->row0, ""));
  }
  int space = tile_slab_space(kind->space);
  LLVMValueRef arena = ll_step_ptr(l, k->step, offsetof(tile_step, arena) + sizeof(char *) * (size_t)space);
  k->tile_base = ll_at(l, arena, ll_muli(l, row_tile, l->program->slab_bytes[space]));
  if (kind->batches > 1) {
    LLVMValueRef tasks = ll_int(l, tile_batch_tasks(kind)), col = k->col;
    k->batch = LLVMBuildUDiv(l->b, col, tasks, "");
    k->col = LLVMBuildURem(l->b, col, tasks, "");
  }
  LLVMValueRef left = LLVMBuildSub(l->b, ll_int(l, kind->columns), ll_muli(l, k->col, kind->col_tile), "");
  k->columns = ll_min(l, left, ll_int(l, kind->col_tile));
}

void ll_emit_kind(ll *l, int index) {
  const tile_kind *kind = &l->program->kinds[index];
  char name[32];
  snprintf(name, sizeof name, "kind_%d", index);
  LLVMTypeRef parameters[] = {l->ptr, l->i64, l->i64, l->i64, l->ptr, l->i64};
  l->function = ll_function(l, name, parameters, 6, true);
  LLVMPositionBuilderAtEnd(l->b, ll_block(l, kind->name ? kind->name : "entry"));
  dp_arena *arena = l->program->arena;
  ll_kind k = {.l = l, .kind = kind};
  LLVMValueRef *slots[] = {&k.step, &k.layer, &k.row, &k.col, &k.scratch, &k.reuse};
  static const char *const names[] = {"step", "layer", "row", "col", "scratch", "reuse"};
  for (unsigned i = 0; i < 6; i++) {
    *slots[i] = LLVMGetParam(l->function, i);
    LLVMSetValueName2(*slots[i], names[i], strlen(names[i]));
  }
  k.place = DP_NEW_ARRAY(arena, int64_t, kind->op_count);
  k.stride = DP_NEW_ARRAY(arena, int64_t, kind->op_count);
  ll_place_values(kind, k.place, k.stride);
  task_range(&k);
  if (kind->used && kind->space != TILE_PARAMETERS) ll_choose(&k);
  ll_loop chunks;
  int i = 0;
  if (kind->prologue > 0) {
    LLVMBasicBlockRef fresh = ll_block(l, "prologue"), ready = ll_block(l, "ready");
    LLVMBuildCondBr(l->b, LLVMBuildICmp(l->b, LLVMIntEQ, k.reuse, ll_int(l, 0), ""), fresh, ready);
    LLVMPositionBuilderAtEnd(l->b, fresh);
    for (; i < kind->prologue; i++) emit_op(&k, i, &chunks);
    LLVMBuildBr(l->b, ready);
    LLVMPositionBuilderAtEnd(l->b, ready);
  }
  for (; i < kind->op_count; i++) emit_op(&k, i, &chunks);
  LLVMBuildRetVoid(l->b);
}
