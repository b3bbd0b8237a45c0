/* codegen/cuda/weight.c: ops on weights, caches and gradients: addresses, and calls of the prelude's products. */
#include "codegen/cuda/cuda.h"

#include <inttypes.h>
#include <string.h>

/* ---- weights */

static const char *slot_of(cu_kind *k, const tile_weight *w) {
  const char *slot = CU("%d", w->first_slot);
  if (w->count > 1) slot = CU("%s + (layer - %d) * %d", slot, w->first_layer, w->inner);
  if (w->inner > 1) slot = CU("%s + batch", slot);
  return slot;
}

static unsigned storage_of(const tile_weight *w) { return w->storage ? w->storage : 1u << IR_f32; }
static int64_t block_bytes(const tile_weight *w, ir_dtype storage) {
  return TILE_BLOCK * ir_packed_row_bytes(storage, w->cols);
}

void cu_declare_weight(cu_kind *k, int index) {
  const tile_op *op = &k->kind->ops[index];
  const tile_program *p = k->e->program;
  const tile_weight *w = &p->weights[op->ref < p->weight_count ? op->ref : 0];
  switch (op->code) {
  case TILE_vector:
    cu_line(k->e, "const float *const w%d = (const float *)step.weights[%s] + (%s); // %s", index, slot_of(k, w),
            cu_column(k, op, "0"), w->name);
    break;
  case TILE_mma:
  case TILE_mma_back:
  case TILE_embed:
    cu_line(k->e, "const int slot%d = %s;", index, slot_of(k, w));
    cu_line(k->e, "const char *const w%d = step.weights[slot%d]; // %s", index, index, w->name);
    break;
  case TILE_parameter:
  case TILE_assign: {
    const char *type = tile_state_type(w, (tile_state)op->part) == IR_bf16 ? "u16" : "float";
    cu_line(k->e, "%s *const s%d = (%s *)step.states[%d][%d + row] + (i64)col * %d; // %s", type, index, type, op->part,
            w->first_slot, k->kind->col_tile, w->name);
    break;
  }
  case TILE_mma_rows:
  case TILE_sum_rows:
  case TILE_scatter_rows:
    cu_line(k->e, "float *const g%d = step.states[%d][%s]; // of %s", index, TILE_GRADIENT, slot_of(k, w), w->name);
    break;
  default: break;
  }
}

const char *cu_embed_element(cu_kind *k, int index, const char *r, const char *c) {
  const tile_op *op = &k->kind->ops[index];
  const tile_weight *w = &k->e->program->weights[op->ref];
  unsigned storage = storage_of(w);
  const char *row = CU("step.inputs[%d][%s]", op->index, cu_token(k, r)), *column = cu_column(k, op, "0"),
             *value = NULL;
  for (int type = 0; type < IR_DTYPE_COUNT; type++) {
    if (!(storage >> type & 1)) continue;
    const char *one = CU("stored_%s::element(w%d + (i64)(%s / 64) * %" PRId64 ", %s + %s, %s %% 64)",
                         ir_dtype_name((ir_dtype)type), index, row, block_bytes(w, (ir_dtype)type), column, c, row);
    value = value ? CU("step.weight_types[slot%d] == %d ? %s : %s", index, type, one, value) : one;
  }
  return value;
}

/* ---- products */

/* Where the rows of a begin, and how far they lie apart. */
static const char *product_rows(cu_kind *k, int operand, const char **stride) {
  const tile_op *a = &k->kind->ops[operand];
  if (k->placed[operand]) {
    *stride = CU("%" PRId64, a->one_row ? 0 : k->stride[operand]);
    return CU("v%d", operand);
  }
  *stride = CU("%" PRId64, k->e->program->buffers[a->ref].stride);
  if (!k->staged[operand]) return CU("at%d", operand);
  *stride = CU("x%d_stride", operand);
  return CU("x%d", operand);
}

/* A call for the storage type at hand; of several types the step says which. */
static void call_by_storage(cu_kind *k, int index, void call(cu_kind *k, int index, ir_dtype storage)) {
  cuda *e = k->e;
  unsigned storage = storage_of(&e->program->weights[k->kind->ops[index].ref]);
  if ((storage & (storage - 1)) == 0) {
    call(k, index, (ir_dtype)__builtin_ctz(storage));
    return;
  }
  cu_open(e, "switch (step.weight_types[slot%d])", index);
  for (int type = 0; type < IR_DTYPE_COUNT; type++) {
    if (!(storage >> type & 1)) continue;
    cu_line(e, "case %d:", type);
    call(k, index, (ir_dtype)type);
    cu_line(e, "break;");
  }
  cu_close(e);
}

static bool is_product(tile_opcode code) {
  return code == TILE_mma || code == TILE_mma_back || code == TILE_mma_keys || code == TILE_mma_values;
}

/* The op after `index` that takes the ring, where it is a product with weights in the same loop; or -1. */
static int next_product(const tile_kind *kind, int index) {
  for (int i = index + 1; i < kind->op_count; i++) {
    tile_opcode code = kind->ops[i].code;
    if (code == TILE_mma) return i;
    if (is_product(code) || tile_adds_to_gradient(code) || code == TILE_loop || code == TILE_next) return -1;
  }
  return -1;
}

/* What a product has for its tasks of few rows to begin with after it: the first block of weights, and k. */
static const char *what_comes(cu_kind *k, int index) {
  const tile_program *p = k->e->program;
  int next = next_product(k->kind, index);
  if (next < 0) return "0, 0, 0";
  const tile_op *op = &k->kind->ops[next];
  const tile_weight *w = &p->weights[op->ref];
  unsigned storage = storage_of(w);
  if (!(storage & p->tensor)) return "0, 0, 0";
  const char *at = CU("w%d + (i64)((%s) / 64) * %" PRId64, next, cu_column(k, op, "0"), block_bytes(w, IR_f16));
  if (storage & ~p->tensor) at = CU("is_tensor(step.weight_types[slot%d]) ? %s : 0", next, at);
  return CU("%s, %" PRId64 ", %" PRId64, at, w->cols, w->cols);
}

static void call_product(cu_kind *k, int index, ir_dtype storage) {
  const tile_op *op = &k->kind->ops[index];
  const tile_weight *w = &k->e->program->weights[op->ref];
  int64_t bytes = block_bytes(w, storage);
  const char *lda, *a = product_rows(k, op->operands[0], &lda);
  if (cu_is_tensor(k->e, storage)) {
    cu_line(k->e,
            "tensor_product<stored_%s>(block, %s, %s, w%d + (i64)((%s) / 64) * %" PRId64 ", %" PRId64
            ", %" PRId64 ", %" PRId64 ", %s, %s, v%d, %" PRId64 ", false, %s);",
            ir_dtype_name(storage), a, lda, index, cu_column(k, op, "0"), bytes, bytes, w->cols, w->cols,
            cu_rows(k, op), cu_columns(k, op), index, k->stride[index], what_comes(k, index));
    return;
  }
  cu_line(k->e,
          "product<stored_%s>(block, %s, %s, w%d + (i64)((%s) / 64) * %" PRId64 ", %" PRId64 ", %" PRId64
          ", %s, %s, v%d, %" PRId64 ", false);",
          ir_dtype_name(storage), a, lda, index, cu_column(k, op, "0"), bytes, bytes, w->cols, cu_rows(k, op),
          cu_columns(k, op), index, k->stride[index]);
}

void cu_weight_product(cu_kind *k, int index) { call_by_storage(k, index, call_product); }

static void call_back_product(cu_kind *k, int index, ir_dtype storage) {
  const tile_op *op = &k->kind->ops[index];
  const tile_weight *w = &k->e->program->weights[op->ref];
  const char *lda, *a = product_rows(k, op->operands[0], &lda);
  bool tensor = cu_is_tensor(k->e, storage);
  cu_line(k->e,
          "%sproduct_back<stored_%s>(%s%s, %s, w%d, %" PRId64 ", %" PRId64 ", %s, %s, %s, v%d, %" PRId64 ");",
          tensor ? "tensor_" : "", ir_dtype_name(storage), tensor ? "block, " : "", a, lda, index,
          block_bytes(w, storage), w->rows, cu_column(k, op, "0"),
          cu_rows(k, op), cu_columns(k, op), index, k->stride[index]);
}

void cu_back_product(cu_kind *k, int index) { call_by_storage(k, index, call_back_product); }

/* ---- caches */

static const char *cache_at(cu_kind *k, const tile_cache *cache, const char *page, const char *head, int part) {
  int64_t size = ir_dtype_block_bytes(cache->storage), unit = (cache->key_elements + cache->value_elements) * size;
  const char *place = cache->shared ? head : CU("layer * %d + %s", cache->heads, head);
  return CU("step.kv + (i64)(%s) * %" PRId64 " + (i64)(%s) * %" PRId64 " + %" PRId64, page, k->e->program->page_bytes,
            place, unit, cache->offset + (part ? cache->key_elements * size : 0));
}

static const char *keys_of_page(cu_kind *k, const tile_op *op, int part, const char *page) {
  const tile_cache *cache = &k->e->program->caches[op->ref];
  const char *head = op->inner > 1 ? CU("col * %" PRId64, op->inner) : "col";
  return cache_at(k, cache, page, cu_sum(k->e->arena, head, op->outer), part);
}

const char *cu_keys(cu_kind *k, const tile_op *op, int part) {
  return keys_of_page(k, op, part, "step.pages[step.segment_pages[row] + chunk]");
}

/* After a chunk's keys come its values, after those the next chunk's keys: where there are no other products between. */
static const char *what_comes_of_cache(cu_kind *k, int index) {
  const tile_kind *kind = k->kind;
  const tile_op *op = &kind->ops[index];
  const tile_cache *cache = &k->e->program->caches[op->ref];
  bool keys = op->code == TILE_mma_keys;
  int keys_at = -1, values_at = -1, products = 0;
  for (int i = 0; i < kind->op_count; i++) {
    if (!is_product(kind->ops[i].code)) continue;
    products++;
    if (kind->ops[i].code == TILE_mma_keys) keys_at = i;
    if (kind->ops[i].code == TILE_mma_values) values_at = i;
  }
  if (products != 2 || keys_at < 0 || values_at < 0 || kind->ops[keys_at].ref != kind->ops[values_at].ref)
    return "0, 0, 0";
  if (keys) return CU("%s, least(64, last_position + 1 - chunk * 64), 64", cu_keys(k, &kind->ops[values_at], 1));
  const char *pages = "step.pages[step.segment_pages[row] + chunk + 1]";
  return CU("chunk < last_position / 64 ? %s : 0, %" PRId64 ", %" PRId64,
            keys_of_page(k, &kind->ops[keys_at], 0, pages), cache->dim[0], cache->dim[0]);
}

void cu_cache_product(cu_kind *k, int index) {
  const tile_op *op = &k->kind->ops[index];
  const tile_cache *cache = &k->e->program->caches[op->ref];
  bool keys = op->code == TILE_mma_keys;
  int64_t size = ir_dtype_block_bytes(cache->storage);
  const char *lda, *a = product_rows(k, op->operands[0], &lda);
  const char *depth = keys ? CU("%" PRId64, cache->dim[0]) : "least(64, last_position + 1 - chunk * 64)";
  int64_t bytes = (keys ? cache->dim[0] : TILE_CHUNK) * TILE_BLOCK * size;
  const char *extent = keys ? depth : "64", *accumulate = keys ? "false" : "true";
  if (cu_is_tensor(k->e, cache->storage))
    cu_line(k->e,
            "tensor_product<stored_%s>(block, %s, %s, %s, %" PRId64 ", %s, %s, rows, %d, v%d, %" PRId64
            ", %s, %s);",
            ir_dtype_name(cache->storage), a, lda, cu_keys(k, op, keys ? 0 : 1), bytes, depth, extent, op->cols, index,
            k->stride[index], accumulate, what_comes_of_cache(k, index));
  else
    cu_line(k->e, "product<stored_%s>(block, %s, %s, %s, %" PRId64 ", %s, rows, %d, v%d, %" PRId64 ", %s);",
            ir_dtype_name(cache->storage), a, lda, cu_keys(k, op, keys ? 0 : 1), bytes, depth, op->cols, index,
            k->stride[index], accumulate);
}

/* Keys: a position is a row of the packed block; values: a dim is. */
void cu_append(cu_kind *k, int index) {
  cuda *e = k->e;
  const tile_op *op = &k->kind->ops[index], *x = &k->kind->ops[op->operands[0]];
  const tile_cache *cache = &e->program->caches[op->ref];
  const char *columns = cu_columns(k, x);
  cu_begin_body(k);
  cu_open(e, "for (int i = thread_index(); i < rows * %s; i += THREADS)", columns);
  cu_line(e, "const int r = i / %s, c = i %% %s;", columns, columns);
  cu_line(e, "const int place = step.slots[%s], page = place / 64, position = place %% 64;", cu_token(k, "r"));
  cu_line(e, "const int n = %s + c, head = n / %" PRId64 ", element = n %% %" PRId64 ";", cu_column(k, op, "0"),
          op->dim, op->dim);
  cu_line(e, "char *const at = %s;", cache_at(k, cache, "page", "head", op->part));
  const char *element = op->part ? "(element / 64 * 64 + position) * 64 + element % 64" : "element * 64 + position";
  const char *value = cu_pull(k, op->operands[0], "r", "c");
  if (cache->storage == IR_f16)
    cu_line(e, "((u16 *)at)[%s] = f16_of_f32(%s);", element, value);
  else
    cu_line(e, "((float *)at)[%s] = %s;", element, value);
  cu_close(e);
  cu_line(e, "block_sync();");
}

/* ---- gradients */

/* Where token t's row of a load begins, or NULL where the token did not choose the batch: a lambda of that name. */
static void row_of_tokens(cu_kind *k, const char *name, int load, bool chooses) {
  const tile_program *p = k->e->program;
  cuda *e = k->e;
  const tile_op *op = &k->kind->ops[load];
  const tile_buffer *b = &p->buffers[op->ref];
  tile_op own = *op;
  own.group_step = 0;
  const char *column = cu_column(k, &own, "0"), *row;
  if (b->output >= 0) {
    row = CU("step.outputs[%d] + (i64)t * %" PRId64 " + (%s)", b->output, b->stride, column);
  } else {
    const char *tile = CU(b->space == TILE_WINDOW ? "t / %d %% %d" : "t / %d", p->row_tile, p->window);
    const char *layer = b->layers ? CU("(layer - %d) * %d + ", b->first_layer, p->row_tile) : "";
    row = CU("(const float *)(step.arena[%d] + (i64)(%s) * %" PRId64 " + %" PRId64 ") + (i64)(%st %% %d) * %" PRId64
             " + (%s)",
             b->space, tile, p->slab_bytes[b->space], b->offset, layer, p->row_tile, b->stride, column);
  }
  cu_open(e, "const auto %s = [&](int t) -> const float *", name);
  if (chooses) cu_line(e, "const int choice = choice_of(ids(t), %d, batch);", k->kind->used);
  if (chooses) cu_line(e, "if (choice < 0) return 0;");
  cu_line(e, "return %s%s;", row, chooses && op->group_step ? CU(" + choice * %" PRId64, op->group_step) : "");
  e->indent--;
  cu_line(e, "}; // %s", b->name);
}

static void call_gradient(cu_kind *k, int index, ir_dtype storage) {
  const tile_weight *w = &k->e->program->weights[k->kind->ops[index].ref];
  if (cu_is_tensor(k->e, storage))
    cu_line(k->e, "tensor_gradient<stored_%s>(block, g%d, x, y, from, to, col * %d, columns, %" PRId64 ");",
            ir_dtype_name(storage), index, k->kind->col_tile, w->cols);
  else
    cu_line(k->e, "gradient_of_product(g%d, x, y, from, to, col * %d, columns, %" PRId64 ");", index,
            k->kind->col_tile, w->cols);
}

/* A call for each way that the weight's type has. */
static void add_products(cu_kind *k, int index) {
  const tile_weight *w = &k->e->program->weights[k->kind->ops[index].ref];
  if (!(storage_of(w) & k->e->program->tensor)) {
    call_gradient(k, index, IR_f32);
    return;
  }
  cu_line(k->e, "const int slot%d = %s;", index, slot_of(k, w));
  call_by_storage(k, index, call_gradient);
}

void cu_gradient(cu_kind *k, int index) {
  cuda *e = k->e;
  const tile_kind *kind = k->kind;
  const tile_op *op = &kind->ops[index];
  const tile_weight *w = &e->program->weights[op->ref];
  bool chooses = kind->used && op->code == TILE_mma_rows;
  cu_line(e, "{");
  e->indent++;
  if (kind->window) {
    int tokens = kind->window * e->program->row_tile;
    cu_line(e, "const int from = row * %d, to = least(from + %d, (int)step.rows[%d]);", tokens, tokens, TILE_TOKENS);
  } else {
    cu_line(e, "const int from = 0, to = (int)step.rows[%d];", TILE_TOKENS);
  }
  if (chooses) row_of_tokens(k, "ids", 0, false);
  row_of_tokens(k, "x", op->operands[0], chooses);
  if (op->code == TILE_mma_rows) {
    row_of_tokens(k, "y", op->operands[1], chooses);
    add_products(k, index);
  } else if (op->code == TILE_sum_rows) {
    cu_line(e, "gradient_of_vector(g%d, x, from, to, %d, %" PRId64 ");", index, kind->ops[op->operands[0]].cols,
            w->cols);
  } else {
    cu_line(e, "gradient_of_rows(g%d, x, step.inputs[%d], from, to, %s, columns, %" PRId64 ");", index, op->index,
            cu_column(k, &kind->ops[op->operands[0]], "0"), w->cols);
  }
  cu_close(e);
}

/* ---- weights of a task to come */

bool cu_has_product(const tile_kind *kind) {
  for (int i = 0; i < kind->op_count; i++)
    if (kind->ops[i].code == TILE_mma) return true;
  return false;
}

static void ask_for(cu_kind *k, int index) {
  const tile_op *op = &k->kind->ops[index];
  const tile_weight *w = &k->e->program->weights[op->ref];
  unsigned storage = storage_of(w);
  const char *bytes = NULL;
  for (int type = 0; type < IR_DTYPE_COUNT; type++) {
    if (!(storage >> type & 1)) continue;
    const char *one = CU("%" PRId64, block_bytes(w, (ir_dtype)type));
    bytes = bytes ? CU("step.weight_types[slot%d] == %d ? %s : %s", index, type, one, bytes) : one;
  }
  tile_op flat = *op; /* what a row adds does not move a weight's column */
  flat.row_step = flat.group_step = 0;
  cu_line(k->e, "const int slot%d = %s, block%d = (%s) / 64;", index, slot_of(k, w), index, cu_column(k, &flat, "0"));
  cu_line(k->e, "const i64 bytes%d = %s;", index, bytes);
  cu_line(k->e, "ask_for_weights(step.weights[slot%d] + block%d * bytes%d, least(%d, %d - block%d) * bytes%d); // %s",
          index, index, index, (op->cols + TILE_BLOCK - 1) / TILE_BLOCK, (int)((w->rows + TILE_BLOCK - 1) / TILE_BLOCK),
          index, index, w->name);
}

int cu_first_product(const cuda *e, const tile_kind *kind) {
  if (kind->used || kind->group != 1 || (kind->space != TILE_TOKENS && kind->space != TILE_OUTPUTS)) return -1;
  int first = next_product(kind, -1);
  return first >= kind->prologue && storage_of(&e->program->weights[kind->ops[first].ref]) & e->program->tensor ? first
                                                                                                               : -1;
}

/* Of a task of few rows: its first weights into shared memory, before it may run. */
static void emit_begin(cu_kind *k) {
  cuda *e = k->e;
  int first = cu_first_product(e, k->kind);
  if (first < 0) return;
  const tile_op *op = &k->kind->ops[first];
  const tile_weight *w = &e->program->weights[op->ref];
  cu_open(e, "TASK_FUNCTION void begin_%s(const Step &step, Block &block, int layer, int row, int col)",
          cu_kind_name(e, k->index));
  cu_line(e, "const int batch = col / %d;", tile_batch_tasks(k->kind));
  cu_line(e, "col %%= %d;", tile_batch_tasks(k->kind));
  cu_line(e, "const int slot = %s;", slot_of(k, w));
  if (storage_of(w) & ~e->program->tensor) cu_line(e, "if (!is_tensor(step.weight_types[slot])) return;");
  cu_line(e, "begin_product(block, step.weights[slot] + (i64)((%s) / 64) * %" PRId64 ", %" PRId64 ", %" PRId64 ");",
          cu_column(k, op, "0"), block_bytes(w, IR_f16), w->cols, w->cols);
  cu_close(e);
}

void cu_emit_ask(cu_kind *k) {
  cuda *e = k->e;
  emit_begin(k);
  if (!cu_has_product(k->kind)) return;
  cu_open(e, "TASK_FUNCTION void ahead_of_%s(const Step &step, int layer, int col)", cu_kind_name(e, k->index));
  cu_line(e, "const int batch = col / %d;", tile_batch_tasks(k->kind));
  cu_line(e, "col %%= %d;", tile_batch_tasks(k->kind));
  for (int i = 0; i < k->kind->op_count; i++)
    if (k->kind->ops[i].code == TILE_mma) ask_for(k, i);
  cu_close(e);
}
