/* codegen/llvm/value.c: values are pulled: whoever needs 16 columns of a value asks, and it asks its operands, so that a
 * chain of elementwise ops becomes one expression in one loop. Only what kind.c placed in scratch is read from there. */
#include "codegen/llvm/ll.h"

/* Row r of a kind that chooses: row in the tile * used + which of its choices. The task itself wrote it. */
static LLVMValueRef chosen_entry(ll_kind *k, LLVMValueRef r) {
  LLVMValueRef at = LLVMBuildGEP2(k->l->b, k->l->i32, k->chosen, &r, 1, "");
  return LLVMBuildSExt(k->l->b, ll_load(k->l, k->l->i32, at, 4), k->l->i64, "");
}

LLVMValueRef ll_local_row(ll_kind *k, LLVMValueRef r) {
  ll *l = k->l;
  if (k->chosen) return LLVMBuildUDiv(l->b, chosen_entry(k, r), ll_int(l, k->kind->used), "");
  return k->kind->group > 1 ? LLVMBuildUDiv(l->b, r, ll_int(l, k->kind->group), "") : r;
}

LLVMValueRef ll_token_of(ll_kind *k, LLVMValueRef r) { return ll_add(k->l, k->row0, ll_local_row(k, r)); }

LLVMValueRef ll_column_of(ll_kind *k, const tile_op *op, LLVMValueRef r) {
  ll *l = k->l;
  LLVMValueRef column = ll_int(l, op->col_base);
  if (op->col_step) column = ll_add(l, column, ll_muli(l, k->col, op->col_step));
  if (op->row_step) column = ll_add(l, column, ll_muli(l, k->row, op->row_step));
  if (op->batch_step && k->batch) column = ll_add(l, column, ll_muli(l, k->batch, op->batch_step));
  if (op->group_step && k->chosen) {
    LLVMValueRef member = LLVMBuildURem(l->b, chosen_entry(k, r), ll_int(l, k->kind->used), "");
    column = ll_add(l, column, ll_muli(l, member, op->group_step));
  } else if (op->group_step && k->kind->group > 1) {
    LLVMValueRef member = LLVMBuildURem(l->b, r, ll_int(l, k->kind->group), "");
    column = ll_add(l, column, ll_muli(l, member, op->group_step));
  }
  return column;
}

LLVMValueRef ll_buffer_at(ll_kind *k, const tile_op *op, LLVMValueRef r, LLVMValueRef c) {
  ll *l = k->l;
  const tile_buffer *buffer = &l->program->buffers[op->ref];
  LLVMValueRef column = ll_add(l, ll_column_of(k, op, r), c), base, row;
  if (buffer->output >= 0) {
    LLVMValueRef outputs = ll_step_ptr(l, k->step, offsetof(tile_step, outputs));
    base = ll_load_constant(l, l->ptr, ll_at(l, outputs, ll_int(l, buffer->output * 8)), 8);
    row = ll_token_of(k, r);
  } else if (op->index >= 0) {
    LLVMValueRef inputs = ll_step_ptr(l, k->step, offsetof(tile_step, inputs));
    LLVMValueRef list = ll_load_constant(l, l->ptr, ll_at(l, inputs, ll_int(l, op->index * 8)), 8);
    LLVMValueRef target = ll_load_i32(l, list, ll_token_of(k, r)), tile = ll_int(l, l->program->row_tile);
    LLVMValueRef arena = ll_step_ptr(l, k->step, offsetof(tile_step, arena) + sizeof(char *) * buffer->space);
    base = ll_at(l, arena, ll_muli(l, LLVMBuildUDiv(l->b, target, tile, ""), l->program->slab_bytes[buffer->space]));
    base = ll_at(l, base, ll_int(l, buffer->offset));
    row = LLVMBuildURem(l->b, target, tile, "");
  } else {
    base = ll_at(l, k->tile_base, ll_int(l, buffer->offset));
    if (buffer->space == TILE_WINDOW) {
      LLVMValueRef arena = ll_step_ptr(l, k->step, offsetof(tile_step, arena) + sizeof(char *) * TILE_WINDOW);
      LLVMValueRef slab = LLVMBuildURem(l->b, k->row, ll_int(l, l->program->window), "");
      base = ll_at(l, arena, ll_addi(l, ll_muli(l, slab, l->program->slab_bytes[TILE_WINDOW]), buffer->offset));
    }
    row = ll_local_row(k, r);
    if (k->local0) row = ll_add(l, k->local0, row);
  }
  if (buffer->layers)
    base = ll_at(l, base, ll_muli(l, ll_addi(l, k->layer, -buffer->first_layer), l->program->row_tile * buffer->stride * 4));
  return ll_at(l, base, ll_muli(l, ll_add(l, ll_muli(l, row, buffer->stride), column), 4));
}

LLVMValueRef ll_weight_base(ll_kind *k, const tile_op *op, LLVMValueRef *slot) {
  ll *l = k->l;
  const tile_weight *weight = &l->program->weights[op->ref];
  *slot = ll_int(l, weight->first_slot);
  if (weight->count > 1) *slot = ll_add(l, *slot, ll_muli(l, ll_addi(l, k->layer, -weight->first_layer), weight->inner));
  if (weight->inner > 1) *slot = ll_add(l, *slot, k->batch);
  LLVMValueRef weights = ll_step_ptr(l, k->step, offsetof(tile_step, weights));
  return ll_load_constant(l, l->ptr, LLVMBuildGEP2(l->b, l->ptr, weights, slot, 1, ""), 8);
}

ir_dtype ll_state_type(const ll_kind *k, const tile_op *op) {
  return tile_state_type(&k->l->program->weights[op->ref], (tile_state)op->part);
}

LLVMValueRef ll_state_at(ll_kind *k, const tile_op *op, LLVMValueRef c) {
  ll *l = k->l;
  LLVMValueRef slot = ll_addi(l, k->row, l->program->weights[op->ref].first_slot);
  size_t table = offsetof(tile_step, states) + sizeof(float *const *) * (size_t)op->part;
  LLVMValueRef memory = LLVMBuildGEP2(l->b, l->ptr, ll_step_ptr(l, k->step, table), &slot, 1, "");
  LLVMValueRef column = ll_add(l, ll_muli(l, k->col, k->kind->col_tile), c);
  int64_t bytes = ir_dtype_block_bytes(ll_state_type(k, op));
  return ll_at(l, ll_load_constant(l, l->ptr, memory, 8), ll_muli(l, column, bytes));
}

LLVMValueRef ll_scratch_at(ll_kind *k, int op, LLVMValueRef r, LLVMValueRef c) {
  ll *l = k->l;
  LLVMValueRef element = ll_add(l, ll_muli(l, r, k->stride[op]), c);
  return ll_at(l, k->scratch, ll_addi(l, ll_muli(l, element, 4), k->place[op]));
}

/* Operand `which` of op at the columns that go with c of the result: broadcast when it has fewer. */
LLVMValueRef ll_pull_operand(ll_kind *k, const tile_op *op, int which, LLVMValueRef r, LLVMValueRef c) {
  ll *l = k->l;
  int index = op->operands[which];
  const tile_op *operand = &k->kind->ops[index];
  if (operand->cols == op->cols) return ll_pull(k, index, r, c);
  if (operand->cols == 1) return ll_pull(k, index, r, ll_int(l, 0));
  int64_t share = op->cols / operand->cols; /* columns that one element of the operand goes with */
  LLVMValueRef result = LLVMGetPoison(l->v_f32);
  for (int lane = 0; lane < TILE_LANES; lane++) {
    if (lane > 0 && share % TILE_LANES == 0) return ll_splat(l, LLVMBuildExtractElement(l->b, result, ll_lane(l, 0), ""));
    LLVMValueRef element = LLVMBuildUDiv(l->b, ll_addi(l, c, lane), ll_int(l, share), "");
    LLVMValueRef first = LLVMBuildAnd(l->b, element, ll_int(l, -TILE_LANES), "");
    LLVMValueRef at = LLVMBuildTrunc(l->b, LLVMBuildSub(l->b, element, first, ""), l->i32, "");
    LLVMValueRef value = LLVMBuildExtractElement(l->b, ll_pull(k, index, r, first), at, "");
    result = LLVMBuildInsertElement(l->b, result, value, ll_lane(l, lane), "");
  }
  return result;
}

/* Element i of a head pairs with i + dim/2. When the halves are whole vectors the pair is another vector; else it is
 * gathered lane by lane from the scratch (small heads of test models). */
static LLVMValueRef rotated(ll_kind *k, const tile_op *op, LLVMValueRef r, LLVMValueRef c) {
  ll *l = k->l;
  int64_t dim = op->dim, half = dim / 2;
  LLVMValueRef x = ll_pull(k, op->operands[0], r, c);
  if (half % TILE_LANES == 0) {
    LLVMValueRef e = LLVMBuildURem(l->b, c, ll_int(l, dim), "");
    LLVMValueRef first = LLVMBuildICmp(l->b, LLVMIntULT, e, ll_int(l, half), "");
    LLVMValueRef shift = LLVMBuildSelect(l->b, first, ll_int(l, half), ll_int(l, -half), "");
    LLVMValueRef angle = LLVMBuildURem(l->b, c, ll_int(l, half), "");
    LLVMValueRef other = ll_pull(k, op->operands[0], r, ll_add(l, c, shift));
    LLVMValueRef cosine = ll_pull(k, op->operands[1], r, angle);
    LLVMValueRef sine = ll_pull(k, op->operands[1], r, ll_addi(l, angle, half));
    LLVMValueRef turned = LLVMBuildFMul(l->b, other, sine, "");
    turned = op->part ? LLVMBuildSelect(l->b, first, turned, LLVMBuildFNeg(l->b, turned, ""), "")
                      : LLVMBuildSelect(l->b, first, LLVMBuildFNeg(l->b, turned, ""), turned, "");
    return LLVMBuildFAdd(l->b, LLVMBuildFMul(l->b, x, cosine, ""), turned, "");
  }
  LLVMValueRef result = LLVMGetPoison(l->v_f32);
  for (int lane = 0; lane < TILE_LANES; lane++) {
    LLVMValueRef n = ll_addi(l, c, lane), e = LLVMBuildURem(l->b, n, ll_int(l, dim), "");
    LLVMValueRef first = LLVMBuildICmp(l->b, LLVMIntULT, e, ll_int(l, half), "");
    LLVMValueRef shift = LLVMBuildSelect(l->b, first, ll_int(l, half), ll_int(l, -half), "");
    LLVMValueRef angle = LLVMBuildURem(l->b, e, ll_int(l, half), "");
    /* A lane past the last column has no pair in the row: it reads itself and is never stored. */
    LLVMValueRef pair = ll_add(l, n, shift);
    pair = LLVMBuildSelect(l->b, LLVMBuildICmp(l->b, LLVMIntSLT, pair, ll_int(l, k->stride[op->operands[0]]), ""), pair, n, "");
    LLVMValueRef own = ll_load(l, l->f32, ll_scratch_at(k, op->operands[0], r, n), 4);
    LLVMValueRef other = ll_load(l, l->f32, ll_scratch_at(k, op->operands[0], r, pair), 4);
    LLVMValueRef cosine = ll_load(l, l->f32, ll_scratch_at(k, op->operands[1], r, angle), 4);
    LLVMValueRef sine = ll_load(l, l->f32, ll_scratch_at(k, op->operands[1], r, ll_addi(l, angle, half)), 4);
    LLVMValueRef turned = LLVMBuildFMul(l->b, other, sine, "");
    turned = op->part ? LLVMBuildSelect(l->b, first, turned, LLVMBuildFNeg(l->b, turned, ""), "")
                      : LLVMBuildSelect(l->b, first, LLVMBuildFNeg(l->b, turned, ""), turned, "");
    LLVMValueRef value = LLVMBuildFAdd(l->b, LLVMBuildFMul(l->b, own, cosine, ""), turned, "");
    result = LLVMBuildInsertElement(l->b, result, value, LLVMConstInt(l->i32, (unsigned)lane, false), "");
  }
  return result;
}

static LLVMValueRef seen(ll_kind *k, const tile_op *op, LLVMValueRef r, LLVMValueRef c) {
  ll *l = k->l;
  LLVMValueRef positions = ll_step_ptr(l, k->step, offsetof(tile_step, positions));
  LLVMValueRef own = ll_load_i32(l, positions, ll_token_of(k, r));
  LLVMValueRef first = ll_add(l, ll_muli(l, k->chunk, TILE_CHUNK), c);
  LLVMValueRef last_lane = LLVMBuildTrunc(l->b, LLVMBuildSub(l->b, own, first, ""), l->i32, "");
  LLVMValueRef visible = LLVMBuildICmp(l->b, LLVMIntSLE, ll_lane_ids(l), ll_splat(l, last_lane), "");
  return LLVMBuildSelect(l->b, visible, ll_pull(k, op->operands[0], r, c), ll_const(l, -__builtin_inf()), "");
}

static LLVMValueRef masked(ll_kind *k, const tile_op *op, LLVMIntPredicate predicate, LLVMValueRef limit, LLVMValueRef r,
                           LLVMValueRef c) {
  ll *l = k->l;
  LLVMValueRef first = ll_add(l, ll_muli(l, k->chunk, TILE_CHUNK), c);
  LLVMValueRef lane = LLVMBuildTrunc(l->b, LLVMBuildSub(l->b, limit, first, ""), l->i32, "");
  LLVMValueRef visible = LLVMBuildICmp(l->b, predicate, ll_lane_ids(l), ll_splat(l, lane), "");
  return LLVMBuildSelect(l->b, visible, ll_pull(k, op->operands[0], r, c), ll_const(l, -__builtin_inf()), "");
}

LLVMValueRef ll_whole_number(ll_kind *k, int op) {
  ll *l = k->l;
  LLVMValueRef value = ll_pull(k, op, ll_int(l, 0), ll_int(l, 0));
  return LLVMBuildFPToSI(l->b, LLVMBuildExtractElement(l->b, value, ll_lane(l, 0), ""), l->i64, "");
}

/* From the row's own position to the sequence's last. */
static LLVMValueRef seen_by(ll_kind *k, const tile_op *op, LLVMValueRef r, LLVMValueRef c) {
  ll *l = k->l;
  LLVMValueRef own = ll_load_i32(l, ll_step_ptr(l, k->step, offsetof(tile_step, positions)), ll_token_of(k, r));
  LLVMValueRef end = ll_load_i32(l, ll_step_ptr(l, k->step, offsetof(tile_step, segment_end)), k->row);
  LLVMValueRef first = ll_add(l, ll_muli(l, k->chunk, TILE_CHUNK), c);
  LLVMValueRef low = ll_splat(l, LLVMBuildTrunc(l->b, LLVMBuildSub(l->b, own, first, ""), l->i32, ""));
  LLVMValueRef high = ll_splat(l, LLVMBuildTrunc(l->b, LLVMBuildSub(l->b, end, first, ""), l->i32, ""));
  LLVMValueRef sees = LLVMBuildAnd(l->b, LLVMBuildICmp(l->b, LLVMIntSGE, ll_lane_ids(l), low, ""),
                                   LLVMBuildICmp(l->b, LLVMIntSLT, ll_lane_ids(l), high, ""), "");
  return LLVMBuildSelect(l->b, sees, ll_pull(k, op->operands[0], r, c), ll_const(l, -__builtin_inf()), "");
}

static LLVMValueRef keys_row(ll_kind *k, const tile_op *op, LLVMValueRef c) {
  ll *l = k->l;
  LLVMValueRef keys = ll_cache_at(k, &l->program->caches[op->ref], ll_chunk_page(k), ll_head_of(k, op), 0);
  return ll_load(l, l->v_f32, ll_at(l, keys, ll_muli(l, ll_addi(l, c, op->dim * TILE_CHUNK), 4)), 4);
}

static LLVMValueRef hot(ll_kind *k, const tile_op *op, LLVMValueRef r, LLVMValueRef c) {
  ll *l = k->l;
  LLVMValueRef number = ll_pull(k, op->operands[0], r, ll_int(l, 0));
  LLVMValueRef first = LLVMBuildTrunc(l->b, ll_add(l, ll_column_of(k, op, r), c), l->i32, "");
  LLVMValueRef column = LLVMBuildSIToFP(l->b, LLVMBuildAdd(l->b, ll_splat(l, first), ll_lane_ids(l), ""), l->v_f32, "");
  LLVMValueRef is = LLVMBuildFCmp(l->b, LLVMRealOEQ, number, column, "");
  return LLVMBuildSelect(l->b, is, ll_const(l, 1.0), ll_const(l, 0.0), "");
}

static LLVMValueRef in_window(ll_kind *k, const tile_op *op, LLVMValueRef r, LLVMValueRef c) {
  ll *l = k->l;
  LLVMValueRef own = ll_load_i32(l, ll_step_ptr(l, k->step, offsetof(tile_step, positions)), ll_token_of(k, r));
  LLVMValueRef width = ll_whole_number(k, op->operands[1]);
  if (op->part) return masked(k, op, LLVMIntSLT, ll_add(l, own, width), r, c);
  return masked(k, op, LLVMIntSGT, LLVMBuildSub(l->b, own, width, ""), r, c);
}

static LLVMValueRef in_sequence(ll_kind *k, const tile_op *op, LLVMValueRef r, LLVMValueRef c) {
  ll *l = k->l;
  LLVMValueRef end = ll_load_i32(l, ll_step_ptr(l, k->step, offsetof(tile_step, segment_end)), k->row);
  return masked(k, op, LLVMIntSLT, end, r, c);
}

/* ---- columns from elsewhere */

/* Column `at` of an operand in lane 0, whatever it is. */
static LLVMValueRef element(ll_kind *k, int index, LLVMValueRef r, LLVMValueRef at) {
  LLVMValueRef last = ll_int(k->l, k->kind->ops[index].cols - 1);
  return LLVMBuildExtractElement(k->l->b, ll_pull(k, index, r, ll_min(k->l, at, last)), ll_lane(k->l, 0), "");
}

static LLVMValueRef picked_column(ll *l, const tile_op *op, LLVMValueRef c) {
  LLVMValueRef run = LLVMBuildUDiv(l->b, c, ll_int(l, op->dim), ""), rest = LLVMBuildURem(l->b, c, ll_int(l, op->dim), "");
  return ll_addi(l, ll_add(l, ll_muli(l, run, op->outer), ll_muli(l, rest, op->inner)), op->col_base);
}

static LLVMValueRef picked(ll_kind *k, const tile_op *op, LLVMValueRef r, LLVMValueRef c) {
  ll *l = k->l;
  int x = op->operands[0];
  bool one_run = op->dim % TILE_LANES == 0 || op->cols <= op->dim;
  if (one_run && op->inner == 1) return ll_pull(k, x, r, picked_column(l, op, c));
  LLVMValueRef result = LLVMGetPoison(l->v_f32);
  for (int lane = 0; lane < TILE_LANES; lane++)
    result = LLVMBuildInsertElement(l->b, result, element(k, x, r, picked_column(l, op, ll_addi(l, c, lane))),
                                    ll_lane(l, lane), "");
  return result;
}

static LLVMValueRef joined(ll_kind *k, const tile_op *op, LLVMValueRef r, LLVMValueRef c) {
  ll *l = k->l;
  const tile_op *y = &k->kind->ops[op->operands[1]];
  int64_t a = op->dim, heads = k->kind->ops[op->operands[0]].cols / a, b = y->cols / heads;
  bool vectors = a % TILE_LANES == 0 && b % TILE_LANES == 0;
  LLVMValueRef result = LLVMGetPoison(l->v_f32);
  for (int lane = 0; lane < (vectors ? 1 : TILE_LANES); lane++) {
    LLVMValueRef n = ll_addi(l, c, lane);
    LLVMValueRef h = LLVMBuildUDiv(l->b, n, ll_int(l, a + b), ""), e = LLVMBuildURem(l->b, n, ll_int(l, a + b), "");
    LLVMValueRef first = LLVMBuildICmp(l->b, LLVMIntULT, e, ll_int(l, a), "");
    LLVMValueRef in_x = ll_add(l, ll_muli(l, h, a), LLVMBuildSelect(l->b, first, e, ll_int(l, 0), ""));
    LLVMValueRef in_y = ll_add(l, ll_muli(l, h, b), LLVMBuildSelect(l->b, first, ll_int(l, 0), ll_addi(l, e, -a), ""));
    if (vectors)
      return LLVMBuildSelect(l->b, first, ll_pull(k, op->operands[0], r, in_x), ll_pull(k, op->operands[1], r, in_y), "");
    LLVMValueRef value = LLVMBuildSelect(l->b, first, element(k, op->operands[0], r, in_x),
                                         element(k, op->operands[1], r, in_y), "");
    result = LLVMBuildInsertElement(l->b, result, value, ll_lane(l, lane), "");
  }
  return result;
}

static LLVMValueRef alternating(ll_kind *k, const tile_op *op) {
  ll *l = k->l;
  LLVMValueRef phase = LLVMBuildURem(l->b, k->layer, ll_int(l, op->dim), "");
  LLVMValueRef is = LLVMBuildICmp(l->b, LLVMIntEQ, phase, ll_int(l, op->part), "");
  return LLVMBuildSelect(l->b, is, ll_const(l, 1.0), ll_const(l, 0.0), "");
}

static LLVMValueRef table_at(ll_kind *k, const tile_op *op, LLVMValueRef c) {
  ll *l = k->l;
  int padded = (op->cols + 2 * TILE_LANES - 1) / TILE_LANES * TILE_LANES;
  LLVMTypeRef type = LLVMArrayType2(l->f32, (uint64_t)padded);
  LLVMValueRef *numbers = dp_arena_alloc(l->program->arena, sizeof *numbers * (size_t)padded);
  for (int i = 0; i < padded; i++) numbers[i] = LLVMConstReal(l->f32, i < op->cols ? (double)op->data[i] : 0.0);
  LLVMValueRef global = LLVMAddGlobal(l->module, type, "table");
  LLVMSetInitializer(global, LLVMConstArray2(l->f32, numbers, (uint64_t)padded));
  LLVMSetLinkage(global, LLVMPrivateLinkage);
  LLVMSetGlobalConstant(global, true);
  LLVMSetAlignment(global, 64);
  return ll_load(l, l->v_f32, LLVMBuildGEP2(l->b, l->f32, global, &c, 1, ""), 4);
}

static LLVMValueRef same_i32(ll *l, uint32_t n) { return ll_splat(l, LLVMConstInt(l->i32, n, false)); }

static LLVMValueRef turned_left(ll *l, LLVMValueRef x, int bits) {
  LLVMValueRef up = LLVMBuildShl(l->b, x, same_i32(l, (uint32_t)bits), "");
  return LLVMBuildOr(l->b, up, LLVMBuildLShr(l->b, x, same_i32(l, (uint32_t)(32 - bits)), ""), "");
}

/* Threefry-2x32, 13 rounds (Salmon et al., 2011), 16 times: the first words. */
static LLVMValueRef random_words(ll *l, LLVMValueRef x, LLVMValueRef y, LLVMValueRef key, LLVMValueRef key2) {
  static const int turns[] = {13, 15, 26, 6, 17, 29, 16, 24};
  LLVMValueRef keys[] = {key, key2, LLVMBuildXor(l->b, LLVMBuildXor(l->b, key, key2, ""), same_i32(l, 0x1BD11BDA), "")};
  x = LLVMBuildAdd(l->b, x, keys[0], "");
  y = LLVMBuildAdd(l->b, y, keys[1], "");
  for (uint32_t round = 0; round < 13; round++) {
    uint32_t s = round / 4 + 1;
    x = LLVMBuildAdd(l->b, x, y, "");
    y = LLVMBuildXor(l->b, turned_left(l, y, turns[round % 8]), x, "");
    if (round % 4 != 3) continue;
    x = LLVMBuildAdd(l->b, x, keys[s % 3], "");
    y = LLVMBuildAdd(l->b, y, LLVMBuildAdd(l->b, keys[(s + 1) % 3], same_i32(l, s), ""), "");
  }
  return x;
}

/* Of 16 neighbouring elements the lower half of the first word. */
static LLVMValueRef random_bits(ll_kind *k, const tile_op *op, LLVMValueRef r, LLVMValueRef c) {
  ll *l = k->l;
  LLVMValueRef keys[2], element = ll_add(l, ll_muli(l, k->col, k->kind->col_tile), c);
  LLVMValueRef slot = ll_addi(l, k->row, l->program->weights[op->ref].first_slot);
  for (int i = 0; i < 2; i++) keys[i] = LLVMBuildFPToUI(l->b, ll_pull(k, op->operands[i], r, ll_int(l, 0)), l->v_i32, "");
  LLVMValueRef x = LLVMBuildAdd(l->b, ll_splat(l, LLVMBuildTrunc(l->b, element, l->i32, "")), ll_lane_ids(l), "");
  x = random_words(l, x, ll_splat(l, LLVMBuildTrunc(l->b, slot, l->i32, "")), keys[0], keys[1]);
  return LLVMBuildUIToFP(l->b, LLVMBuildAnd(l->b, x, same_i32(l, 0xffff), ""), l->v_f32, "");
}

/* What input `index` holds for the row, in all lanes. */
static LLVMValueRef input_word(ll_kind *k, int index, LLVMValueRef r) {
  ll *l = k->l;
  LLVMValueRef inputs = ll_step_ptr(l, k->step, offsetof(tile_step, inputs));
  LLVMValueRef list = ll_load_constant(l, l->ptr, ll_at(l, inputs, ll_int(l, index * 8)), 8);
  return ll_splat(l, LLVMBuildTrunc(l->b, ll_load_i32(l, list, ll_token_of(k, r)), l->i32, ""));
}

static LLVMValueRef noise(ll_kind *k, const tile_op *op, LLVMValueRef r, LLVMValueRef c) {
  ll *l = k->l;
  LLVMValueRef first = LLVMBuildTrunc(l->b, ll_add(l, ll_column_of(k, op, r), c), l->i32, "");
  LLVMValueRef x = LLVMBuildAdd(l->b, ll_splat(l, first), ll_lane_ids(l), "");
  x = random_words(l, x, input_word(k, op->part, r), input_word(k, op->ref, r), input_word(k, op->index, r));
  LLVMValueRef m = LLVMBuildSIToFP(l->b, LLVMBuildLShr(l->b, x, same_i32(l, 1), ""), l->v_f32, "");
  m = LLVMBuildFAdd(l->b, LLVMBuildFMul(l->b, m, ll_const(l, 0x1p-31), ""), ll_const(l, 0x1p-32), "");
  LLVMValueRef most = ll_const(l, 1 - 0x1p-24);
  return LLVMBuildSelect(l->b, LLVMBuildFCmp(l->b, LLVMRealOLT, m, most, ""), m, most, "");
}

static LLVMValueRef rounded_at_random(ll *l, LLVMValueRef x, LLVMValueRef random) {
  LLVMValueRef bits = LLVMBuildBitCast(l->b, x, l->v_i32, "");
  LLVMValueRef exponent = LLVMBuildAnd(l->b, bits, same_i32(l, 0x7f800000), "");
  LLVMValueRef stays = LLVMBuildICmp(l->b, LLVMIntEQ, exponent, same_i32(l, 0x7f800000), "");
  LLVMValueRef rounded = LLVMBuildAdd(l->b, bits, LLVMBuildFPToUI(l->b, random, l->v_i32, ""), "");
  rounded = LLVMBuildAnd(l->b, rounded, same_i32(l, 0xffff0000), "");
  return LLVMBuildBitCast(l->b, LLVMBuildSelect(l->b, stays, bits, rounded, ""), l->v_f32, "");
}

static LLVMValueRef pull(ll_kind *k, int index, LLVMValueRef r, LLVMValueRef c);

/* A value of one column is the same in all lanes, whatever lies beside it in memory. */
LLVMValueRef ll_pull(ll_kind *k, int index, LLVMValueRef r, LLVMValueRef c) {
  ll *l = k->l;
  const tile_op *op = &k->kind->ops[index];
  LLVMValueRef value = pull(k, index, r, c);
  bool from_memory = op->code == TILE_load || op->code == TILE_vector || op->code == TILE_table || op->code == TILE_pick;
  if (op->cols != 1 || !from_memory || k->place[index] >= 0) return value;
  return ll_splat(l, LLVMBuildExtractElement(l->b, value, ll_lane(l, 0), ""));
}

static LLVMValueRef pull(ll_kind *k, int index, LLVMValueRef r, LLVMValueRef c) {
  ll *l = k->l;
  const tile_op *op = &k->kind->ops[index];
  if (k->place[index] >= 0) {
    if (op->cols == 1) return ll_splat(l, ll_load(l, l->f32, ll_scratch_at(k, index, r, ll_int(l, 0)), 4));
    return ll_load(l, l->v_f32, ll_scratch_at(k, index, r, c), 4);
  }
  switch (op->code) {
  case TILE_constant:
    return ll_const(l, (double)op->imm);
  case TILE_table:
    return table_at(k, op, c);
  case TILE_load:
    return ll_load(l, l->v_f32, ll_buffer_at(k, op, r, c), 4);
  case TILE_vector: {
    LLVMValueRef slot, base = ll_weight_base(k, op, &slot);
    LLVMValueRef column = ll_add(l, ll_column_of(k, op, r), c);
    return ll_load_constant(l, l->v_f32, ll_at(l, base, ll_muli(l, column, 4)), 4);
  }
  case TILE_parameter:
    return ll_load_plain(l, ll_state_type(k, op), ll_state_at(k, op, c));
  case TILE_random:
    return random_bits(k, op, r, c);
  case TILE_round_random:
    return rounded_at_random(l, ll_pull_operand(k, op, 0, r, c), ll_pull_operand(k, op, 1, r, c));
  case TILE_rotate:
    return rotated(k, op, r, c);
  case TILE_causal:
    return seen(k, op, r, c);
  case TILE_window:
    return in_window(k, op, r, c);
  case TILE_known:
    return in_sequence(k, op, r, c);
  case TILE_seen_by:
    return seen_by(k, op, r, c);
  case TILE_keys_row:
    return keys_row(k, op, c);
  case TILE_noise:
    return noise(k, op, r, c);
  case TILE_hot:
    return hot(k, op, r, c);
  case TILE_pick:
    return picked(k, op, r, c);
  case TILE_concat:
    return joined(k, op, r, c);
  case TILE_every:
    return alternating(k, op);
  default: {
    LLVMValueRef x = ll_pull_operand(k, op, 0, r, c);
    LLVMValueRef y = tile_scalar_arity(op->code) == 2 ? ll_pull_operand(k, op, 1, r, c) : NULL;
    return ll_scalar(l, op->code, x, y);
  }
  }
}

LLVMValueRef ll_pull_rows(ll_kind *k, int index, LLVMValueRef r) {
  ll *l = k->l;
  const tile_op *op = &k->kind->ops[index];
  if (k->place[index] >= 0) return ll_load(l, l->v_f32, ll_scratch_at(k, index, r, ll_int(l, 0)), 4);
  if (op->code == TILE_constant) return ll_const(l, (double)op->imm);
  if (op->code == TILE_every) return alternating(k, op);
  if (tile_scalar_arity(op->code) == 0) {
    /* A column of a buffer (or one number of a vector): row by row; rows past the last repeat it. */
    LLVMValueRef result = LLVMGetPoison(l->v_f32), last = ll_addi(l, k->rows, -1);
    for (int lane = 0; lane < TILE_LANES; lane++) {
      LLVMValueRef value = ll_pull(k, index, ll_min(l, ll_addi(l, r, lane), last), ll_int(l, 0));
      result = LLVMBuildInsertElement(l->b, result, LLVMBuildExtractElement(l->b, value, ll_lane(l, 0), ""), ll_lane(l, lane), "");
    }
    return result;
  }
  LLVMValueRef x = ll_pull_rows(k, op->operands[0], r);
  LLVMValueRef y = tile_scalar_arity(op->code) == 2 ? ll_pull_rows(k, op->operands[1], r) : NULL;
  return ll_scalar(l, op->code, x, y);
}
