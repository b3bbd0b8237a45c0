/* passes/schedule_kind.c: one group op to one task kind. First the ops that do not depend on the column task, over whole
 * rows: what makes the left operand of the products (the prologue). Then the products and what follows them, over the
 * column tile. Then the stores. Loads are made where a value is first needed, in the form that is needed. */
#include "passes/schedule.h"

#include <string.h>

enum {
  ROW_TILE_TASKS = 256, /* of one kind, at most: beyond, their overhead shows */
};

static int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

/* ---- types ------------------------------------------------------------------------------------------------------------- */

bool ps_has_rows(const ir_type *type) { return type->rank > 0 && type->dims[0].symbol; }
int64_t ps_columns(const ir_type *type) { return ir_static_size(type, ps_has_rows(type) ? 1 : 0); }

dp_status ps_space(const ir_type *type, tile_space *space) {
  ir_dim rows = type->rank ? type->dims[0] : ir_static_dim(1, NULL);
  bool plain = rows.symbol && rows.coef == 1 && rows.add == 0;
  if (plain && strcmp(rows.symbol, "T") == 0) return *space = TILE_TOKENS, DP_SUCCESS;
  if (plain && strcmp(rows.symbol, "R") == 0) return *space = TILE_OUTPUTS, DP_SUCCESS;
  dp_str text = {0};
  ir_print_type(&text, type);
  dp_status status = dp_fail(DP_UNSUPPORTED, "a value of type %s cannot be scheduled: its rows must be T (tokens) or R "
                             "(asked rows)", text.text ? text.text : "");
  dp_str_free(&text);
  return status;
}

/* ---- emitting ------------------------------------------------------------------------------------------------------------ */

ps_value *ps_value_of(const ps_kind *k, const ir_value *value) { return &k->s->values[value->id]; }

int64_t ps_cols(const ps_kind *k, int64_t cols) {
  return k->columns && cols == k->kind->columns ? k->kind->col_tile : cols;
}

int64_t ps_own_columns(const ps_kind *k, const ir_type *type) {
  if (k->kind->space == TILE_STATES) return type->rank ? k->kind->col_tile : 1;
  return ps_columns(type) / (k->members > 0 && ps_has_rows(type) ? k->members : 1);
}

void ps_step_by_member(const ps_kind *k, tile_op *op, int64_t cols) {
  if (k->kind->used) op->group_step = cols;
  else if (k->kind->batches > 1) op->batch_step = cols;
}

tile_op ps_op(const ps_kind *k, tile_opcode code, int64_t cols, int x, int y) {
  (void)k;
  return (tile_op){.code = code, .operands = {x, y}, .cols = (int)cols, .index = -1};
}

/* Has a row for each of the task's, whatever it is made of. */
static bool ps_is_of_rows(tile_opcode code) {
  return code == TILE_mma || code == TILE_mma_keys || code == TILE_mma_values || code == TILE_causal ||
         code == TILE_window || code == TILE_known || code == TILE_carry || code == TILE_mma_back || code == TILE_seen_by;
}

int ps_emit(ps_kind *k, tile_op op) {
  const tile_op *ops = k->kind->ops;
  int operands = ps_is_of_rows(op.code) ? 0 : op.code == TILE_rotate ? 1 : tile_operand_count(op.code);
  bool one_row = operands > 0 && tile_has_value(op.code);
  for (int i = 0; i < operands; i++) one_row = one_row && ops[op.operands[i]].one_row;
  op.one_row |= one_row || op.code == TILE_constant || op.code == TILE_every;
  bool tiled = tile_scalar_arity(op.code) || op.code == TILE_rotate || op.code == TILE_mma || op.code == TILE_append ||
               op.code == TILE_mma_back || op.code == TILE_hot || op.code == TILE_noise;
  op.column_tile |= k->columns && tiled && op.cols == k->kind->col_tile;
  for (int i = 0; k->kind->space == TILE_STATES && i < operands && tile_scalar_arity(op.code); i++)
    op.column_tile |= ops[op.operands[i]].column_tile;
  op.origin = k->origin;
  return tile_add_op(k->program, k->kind, op);
}

int ps_constant(ps_kind *k, double value) {
  tile_op op = ps_op(k, TILE_constant, 1, 0, 0);
  op.imm = (float)value;
  return ps_emit(k, op);
}

void ps_define(ps_kind *k, const ir_op *op, int index) {
  ps_value *value = ps_value_of(k, op->results[0]);
  *(k->kind->space != TILE_STATES && k->kind->ops[index].column_tile ? &value->column : &value->full) = index;
}

/* ---- weights, caches ------------------------------------------------------------------------------------------------------ */

static const ir_op *weight_op(const ir_value *value) {
  while (value->def && value->def->code == IR_OP_select) value = value->def->operands[0];
  return value->def && value->def->code == IR_OP_weight ? value->def : NULL;
}

bool ps_is_weight(const ir_value *value) { return weight_op(value) != NULL; }

dp_status ps_weight(ps_kind *k, const ir_value *value, tile_weight_form form, bool transposed, int *weight) {
  const ir_op *op = weight_op(value);
  if (!op) return dp_fail(DP_UNSUPPORTED, "kind '%s': it multiplies with, or reads from, what is no weight", k->kind->name);
  const ir_weight *declared = ir_find_weight(k->s->module, ir_get_string(op, "name", ""));
  bool layered = value->def->code == IR_OP_select;
  DP_CHECK(declared, "weight '%s' is not declared", ir_get_string(op, "name", ""));
  if (layered && k->s->values[value->def->operands[1]->id].place != PS_LAYER)
    return dp_fail(DP_UNSUPPORTED, "kind '%s': weight '%s' is indexed by what is not the layer of the loop around it",
                   k->kind->name, declared->name);
  int index = (int)(declared - k->s->module->weights), inner = k->kind->batches;
  for (int i = 0; i < k->program->weight_count; i++) {
    const tile_weight *have = &k->program->weights[i];
    if (have->weight != index || have->form != form || have->transposed != transposed || have->inner != inner) continue;
    *weight = i;
    return DP_SUCCESS;
  }
  const ir_type *type = &value->type;
  int matrix = inner > 1 ? 1 : 0; /* its first dimension */
  if (form == TILE_MATRIX && (type->rank != matrix + 2 || ps_has_rows(type)))
    return dp_fail(DP_UNSUPPORTED, "kind '%s': weight '%s' must have %d dimensions", k->kind->name, declared->name,
                   matrix + 2);
  if (inner > 1 && declared->stack != (layered ? 2 : 1))
    return dp_fail(DP_UNSUPPORTED, "weight '%s' must be declared as one matrix for each of %d, %s", declared->name, inner,
                   layered ? "in a second stack dimension" : "stacked");
  unsigned storage = declared->storage && form == TILE_MATRIX ? declared->storage : 1u << IR_f32;
  tile_weight made = {.name = dp_arena_strdup(k->program->arena, declared->name), .weight = index, .form = form,
                      .rows = 1, .cols = ps_columns(type), .transposed = transposed,
                      .count = layered ? (int)declared->type.dims[0].add : 1, .inner = inner,
                      .first_layer = layered ? (int)declared->first_layer : 0, .first_slot = k->program->slot_count,
                      .storage = storage};
  if (form == TILE_MATRIX) {
    made.rows = type->dims[matrix + (transposed ? 1 : 0)].add;
    made.cols = type->dims[matrix + (transposed ? 0 : 1)].add;
  }
  k->program->slot_count += made.count * made.inner;
  *weight = k->program->weight_count;
  DP_PUSH(k->program->arena, k->program->weights, k->program->weight_count, k->program->weight_cap) = made;
  return DP_SUCCESS;
}

/* The layer operand of an op that adds to a gradient is the loop's, where there is one. */
dp_status ps_gradient_weight(ps_kind *k, const ir_op *op, tile_weight_form form, int *weight) {
  const char *name = ir_get_string(op, "weight", "");
  const ir_weight *declared = ir_find_weight(k->s->module, name);
  const ir_value *layer = op->operand_count ? op->operands[op->operand_count - 1] : NULL;
  bool layered = layer && layer->type.rank == 0;
  if (layered && k->s->values[layer->id].place != PS_LAYER)
    return dp_fail(DP_UNSUPPORTED, "kind '%s': its layer must be the index of the loop around it", k->kind->name);
  for (int i = 0; declared && i < k->program->weight_count; i++) {
    const tile_weight *have = &k->program->weights[i];
    if (have->weight != declared - k->s->module->weights || have->form != form || have->inner != k->kind->batches)
      continue;
    *weight = i;
    return DP_SUCCESS;
  }
  return dp_fail(DP_UNSUPPORTED, "kind '%s': weight '%s' is not used in the form in which its gradient is", k->kind->name, name);
}

/* The one form in which the program holds the weight. */
dp_status ps_state_weight(ps_kind *k, const ir_op *op, int *weight) {
  const char *name = ir_get_string(op, "weight", "");
  const ir_weight *declared = ir_find_weight(k->s->module, name);
  int found = 0;
  for (int i = 0; i < k->program->weight_count; i++) {
    if (!declared || k->program->weights[i].weight != declared - k->s->module->weights) continue;
    *weight = i;
    found++;
  }
  if (found == 1) return DP_SUCCESS;
  return dp_fail(DP_UNSUPPORTED, found ? "weight '%s' is held in several forms: it cannot be trained"
                                       : "weight '%s' is used nowhere: it cannot be trained", name);
}

bool ps_other_way(ps_kind *k, const ir_value *value, bool transposed, int *weight) {
  const ir_op *op = weight_op(value);
  const ir_weight *declared = op ? ir_find_weight(k->s->module, ir_get_string(op, "name", "")) : NULL;
  for (int i = 0; declared && i < k->program->weight_count; i++) {
    const tile_weight *have = &k->program->weights[i];
    bool same = have->weight == declared - k->s->module->weights && have->form == TILE_MATRIX &&
                have->inner == k->kind->batches;
    if (!same || have->transposed == transposed) continue;
    *weight = i;
    return true;
  }
  return false;
}

dp_status ps_cache(ps_kind *k, const ir_op *append, int *cache) {
  const char *name = ir_get_string(append, "cache", "");
  const ir_type *type = &append->results[0]->type;
  int part = (int)ir_get_int(append, "part", 0), heads = (int)type->dims[1].add, at = 0;
  tile_program *p = k->program;
  ir_dtype storage = IR_f32;
  DP_CHECK(ir_dtype_parse(ir_get_string(append, "storage", "f32"), &storage), "cache '%s' has no storage type", name);
  while (at < p->cache_count && strcmp(p->caches[at].name, name) != 0) at++;
  if (at == p->cache_count)
    DP_PUSH(p->arena, p->caches, p->cache_count, p->cache_cap) =
        (tile_cache){.name = dp_arena_strdup(p->arena, name), .storage = storage, .heads = heads,
                     .shared = ir_get_int(append, "shared", 0)};
  tile_cache *made = &p->caches[at];
  int64_t dim = type->dims[2].add;
  if (made->heads != heads || made->storage != storage || (made->dim[part] && made->dim[part] != dim))
    return dp_fail(DP_UNSUPPORTED, "cache '%s' is used with different heads, dimensions or storage", name);
  if (made->shared) made->layers = 1;
  else if (k->s->end_layer > made->layers) made->layers = k->s->end_layer;
  made->dim[part] = dim;
  *cache = at;
  return DP_SUCCESS;
}

/* ---- operands ------------------------------------------------------------------------------------------------------------------ */

/* A weight in one row, or a buffer's rows. */
static dp_status load(ps_kind *k, const ir_value *value, bool column, int *index) {
  ps_value *at = ps_value_of(k, value);
  int64_t cols = column ? k->kind->col_tile : ps_columns(&value->type);
  tile_op op = ps_op(k, TILE_load, cols, 0, 0);
  op.column_tile = column;
  op.col_step = column ? k->kind->col_tile : 0;
  if (ps_is_weight(value)) {
    op.code = TILE_vector;
    op.one_row = true;
    if (value->type.rank != 1)
      return dp_fail(DP_UNSUPPORTED, "kind '%s': weight '%s' must have one dimension", k->kind->name,
                     ir_get_string(weight_op(value), "name", ""));
    DP_TRY(ps_weight(k, value, TILE_VECTOR, false, &op.ref));
  } else {
    if (at->place != PS_BUFFER)
      return dp_fail(DP_UNSUPPORTED, "kind '%s': a value it needs is not an activation", k->kind->name);
    op.ref = at->ref;
    if (column) ps_step_by_member(k, &op, k->kind->columns);
  }
  *index = *(column ? &at->column : &at->full) = ps_emit(k, op);
  if (at->place == PS_BUFFER && k->program->buffers[at->ref].space == TILE_NUMBERS && k->program->buffers[at->ref].cols > 1) {
    k->kind->ops[*index].cols = (int)k->program->buffers[at->ref].cols; /* the pieces of a total */
    *index = at->full = ps_emit(k, ps_op(k, TILE_sum, 1, *index, 0));
  }
  return DP_SUCCESS;
}

dp_status ps_whole_rows(ps_kind *k, const ir_value *value, int *index) {
  const ps_value *at = ps_value_of(k, value);
  DP_CHECK(at->upper < 0, "kind '%s' goes on with halves of columns", k->kind->name);
  *index = at->full;
  if (at->full >= 0) return DP_SUCCESS;
  DP_CHECK(at->column < 0, "kind '%s' needs whole rows of a column tile", k->kind->name);
  return load(k, value, false, index);
}

/* Is it read column by column in the epilogue, even what the prologue has as whole rows? Constants and row vectors are
 * not. */
static bool is_tiled(const ps_kind *k, const ir_value *value) {
  const ps_value *at = ps_value_of(k, value);
  if (at->column >= 0) return true;
  return ps_own_columns(k, &value->type) == k->kind->columns && (ps_is_weight(value) || at->place == PS_BUFFER);
}

dp_status ps_operand(ps_kind *k, const ir_op *op, int i, int *index) {
  const ir_value *value = op->operands[i];
  if (!k->columns || !is_tiled(k, value)) return ps_whole_rows(k, value, index);
  *index = ps_value_of(k, value)->column;
  return *index >= 0 ? DP_SUCCESS : load(k, value, true, index);
}

/* ---- which ops depend on the column task ------------------------------------------------------------------------------------ */

enum { WHOLE_ROWS, COLUMN_TILE };

static bool ps_is_product(const ir_op *op) {
  return op->code == IR_OP_matmul || op->code == IR_OP_head_matmul || op->code == IR_OP_expert_matmul;
}

static void mark_whole(const ir_value *value) {
  if (!value->def || value->def->mark == WHOLE_ROWS) return;
  value->def->mark = WHOLE_ROWS;
  for (int i = 0; i < value->def->operand_count; i++) mark_whole(value->def->operands[i]);
}

/* The columns an op makes: those of what it appends, where its result is the sequence. */
static int64_t columns_of(const ps_kind *k, const ir_op *op) {
  return ps_own_columns(k, op->code == IR_OP_append || !op->result_count ? &op->operands[0]->type : &op->results[0]->type);
}

static bool is_leaf(const ir_op *op) {
  return op->code == IR_OP_saved || op->code == IR_OP_cached || op->code == IR_OP_weight || op->code == IR_OP_select || op->code == IR_OP_constant;
}

/* In a kind with products all ops of its columns are tiled but those that make a product's left operand. */
static void mark_ops(const ps_kind *k, const ir_block *body, bool products) {
  for (ir_op *op = body->first; op; op = op->next) op->mark = COLUMN_TILE;
  for (const ir_op *op = body->first; op; op = op->next)
    if (ps_is_product(op)) mark_whole(op->operands[0]);
  for (ir_op *op = body->first; op != body->last; op = op->next)
    if (!products || is_leaf(op) || (columns_of(k, op) != k->kind->columns && op->code != IR_OP_best_of_runs)) op->mark = WHOLE_ROWS;
}

static bool is_rule_less(const ir_op *op) {
  return op->code == IR_OP_weight || op->code == IR_OP_select || op->code == IR_OP_saved || op->code == IR_OP_cached;
}

static dp_status lower_ops(ps_kind *k, const ir_block *body, int mark) {
  for (const ir_op *op = body->first; op != body->last; op = op->next) {
    if (op->mark != mark || is_rule_less(op)) continue;
    const char *hint = op->result_count && op->results[0]->name ? op->results[0]->name : NULL;
    const char *name = ir_op_info_of(op->code)->name;
    k->origin = dp_arena_printf(k->program->arena, hint ? "%s %s" : "%s", name, hint);
    DP_TRY(ps_rule_of(op->code)(k, op));
  }
  k->origin = NULL;
  return DP_SUCCESS;
}

/* What the epilogue reads as whole rows (angles, a number a row) is loaded in the prologue. */
static dp_status load_whole_rows(ps_kind *k, const ir_block *body) {
  for (const ir_op *op = body->first; op != body->last; op = op->next) {
    if (op->mark != COLUMN_TILE || ps_is_product(op)) continue;
    for (int i = 0; i < op->operand_count; i++) {
      const ir_value *value = op->operands[i];
      const ps_value *at = ps_value_of(k, value);
      bool whole = at->place == PS_BUFFER && at->full < 0 && ps_has_rows(&value->type);
      int index;
      if (whole && (!is_tiled(k, value) || (op->code == IR_OP_rotate && i == 1)))
        DP_TRY(ps_whole_rows(k, value, &index));
    }
  }
  return DP_SUCCESS;
}

/* ---- the size of a column tile --------------------------------------------------------------------------------------------------- */

static int64_t greatest_divisor(int64_t a, int64_t b) { return b ? greatest_divisor(b, a % b) : a; }

/* Columns between which a tile may be cut: whole weight blocks, whole heads. */
static int64_t column_unit(const ir_block *body) {
  int64_t unit = TILE_BLOCK;
  for (const ir_op *op = body->first; op != body->last; op = op->next) {
    if (op->mark != COLUMN_TILE || (op->code != IR_OP_rotate && op->code != IR_OP_append)) continue;
    int64_t head = op->results[0]->type.dims[2].add;
    unit = unit / greatest_divisor(unit, head) * head;
  }
  return unit;
}

/* Bytes of weights that make one result column, of the storage type that takes the most. */
static int64_t column_bytes(const ps_kind *k, const ir_block *body) {
  double bytes = 0;
  for (const ir_op *op = body->first; op != body->last; op = op->next) {
    if (!ps_is_product(op)) continue;
    const ir_op *weight = weight_op(op->operands[1]);
    const ir_weight *declared = weight ? ir_find_weight(k->s->module, ir_get_string(weight, "name", "")) : NULL;
    unsigned storage = declared && declared->storage ? declared->storage : 1u << IR_f32;
    double most = 0;
    for (int i = 0; i < IR_DTYPE_COUNT; i++) {
      double size = (double)ir_dtype_block_bytes((ir_dtype)i) / ir_dtype_block_elements((ir_dtype)i);
      if (storage >> i & 1 && size > most) most = size;
    }
    const ir_type *x = &op->operands[0]->type;
    bytes += most * (double)x->dims[x->rank - 1].add;
  }
  return bytes < 1 ? 1 : (int64_t)bytes;
}

/* The smallest tile that streams task_bytes, but small enough that every core has two tasks where columns allow, and
 * large enough that a row tile has few tasks; among tiles from there on rather one that divides the columns. */
static int64_t column_tile(const ps_kind *k, const ir_block *body) {
  const tile_target *target = k->s->target;
  int64_t unit = column_unit(body), units = round_up(k->kind->columns, unit) / unit;
  int64_t unit_bytes = column_bytes(k, body) * unit;
  int64_t wanted = (target->task_bytes + unit_bytes - 1) / unit_bytes;
  int64_t most = units / (2 * (target->cores > 0 ? target->cores : 1)), least = (units + ROW_TILE_TASKS - 1) / ROW_TILE_TASKS;
  int64_t tile = wanted < most ? wanted : most;
  if (tile < least) tile = least;
  if (tile < 1) tile = 1;
  for (int64_t even = tile; even <= units && even < 2 * tile && (even <= most || even == tile); even++)
    if (units % even == 0) return even * unit;
  for (int64_t even = tile; even >= least && even > tile / 2; even--)
    if (units % even == 0) return even * unit;
  return tile * unit;
}

/* ---- a kind ------------------------------------------------------------------------------------------------------------------- */

static bool is_accumulation(const ir_op *op) { return ir_op_info_of(op->code)->traits & IR_ACCUMULATES; }

static bool is_state(const ir_op *op) { return op->code == IR_OP_parameter || op->code == IR_OP_assign; }

/* Groups of an update: of numbers alone, or of pieces of a weight's memory. */
static dp_status find_states(ps_kind *k, const ir_block *body, bool *found) {
  *found = true;
  k->kind->slots = 1;
  k->kind->columns = 1;
  for (const ir_op *op = body->first; op != body->last; op = op->next) {
    if (is_accumulation(op) || op->code == IR_OP_append || op->code == IR_OP_save) *found = false;
    for (int i = 0; i < op->result_count; i++)
      if (ps_has_rows(&op->results[i]->type)) *found = false;
  }
  for (const ir_op *op = body->first; op != body->last && *found; op = op->next) {
    int weight;
    if (!is_state(op)) continue;
    DP_TRY(ps_state_weight(k, op, &weight));
    k->kind->slots = k->program->weights[weight].count * k->program->weights[weight].inner;
    k->kind->columns = tile_slot_floats(&k->program->weights[weight]);
  }
  if (!*found) k->kind->slots = 0, k->kind->columns = 0;
  return DP_SUCCESS;
}

/* Rows of the group: of whatever it computes. */
static dp_status find_space(const ir_block *body, tile_space *space) {
  for (const ir_op *op = body->first; op != body->last; op = op->next) {
    if (is_accumulation(op)) return *space = TILE_PARAMETERS, DP_SUCCESS;
    if (op->code == IR_OP_append || op->code == IR_OP_save) return ps_space(&op->operands[0]->type, space);
    if (op->result_count && !is_rule_less(op) && ps_has_rows(&op->results[0]->type)) return ps_space(&op->results[0]->type, space);
  }
  return dp_fail(DP_UNSUPPORTED, "a group without rows cannot be scheduled");
}

static const ir_op *find_op(const ir_block *body, ir_opcode code) {
  for (const ir_op *op = body->first; op; op = op->next)
    if (op->code == code) return op;
  return NULL;
}

static const ir_op *find_product(const ir_block *body) {
  for (const ir_op *op = body->first; op; op = op->next)
    if (ps_is_product(op)) return op;
  return NULL;
}

/* Are its column tiles made one by one: by products, or of runs in which the best is looked for? */
static bool is_made_in_tiles(const ir_block *body) { return find_product(body) || find_op(body, IR_OP_best_of_runs); }

/* Products with one matrix a head, or with those that each token chose. */
static void shape_batches(ps_kind *k, const ir_op *product) {
  k->kind->batches = (int)product->operands[1]->type.dims[0].add;
  k->members = (int)product->results[0]->type.dims[1].add;
  if (product->code == IR_OP_expert_matmul) k->kind->used = k->members;
}

/* Column tasks: whole blocks of the weight's rows; for rows that are added one by one, of its columns. */
static void shape_accumulation(ps_kind *k, const ir_block *body) {
  const ir_op *op = body->first;
  while (!is_accumulation(op)) op = op->next;
  const ir_weight *weight = ir_find_weight(k->s->module, ir_get_string(op, "weight", ""));
  const ir_type *type = &weight->type;
  bool experts = op->code == IR_OP_accumulate_experts;
  k->kind->columns = type->dims[type->rank - 1].add;
  if (experts || (op->code == IR_OP_accumulate_product && op->operands[0]->type.rank == 3)) {
    k->kind->batches = (int)type->dims[type->rank - 3].add;
    k->members = experts ? (int)op->operands[2]->type.dims[1].add : k->kind->batches;
    k->kind->used = experts ? k->members : 0;
  }
  if (op->code == IR_OP_accumulate_sum) {
    k->kind->col_tile = (int)round_up(k->kind->columns, TILE_BLOCK);
    return;
  }
  int found;
  if ((experts || op->code == IR_OP_accumulate_product) && ps_gradient_weight(k, op, TILE_MATRIX, &found).code == DP_OK)
    k->kind->columns = k->program->weights[found].rows;
  int64_t blocks = round_up(k->kind->columns, TILE_BLOCK) / TILE_BLOCK;
  k->kind->col_tile = (int)(TILE_BLOCK * ((blocks + ROW_TILE_TASKS - 1) / ROW_TILE_TASKS));
}

static dp_status shape_kind(ps_kind *k, const ir_block *body) {
  tile_kind *kind = k->kind;
  const ir_op *attend = find_op(body, IR_OP_attend), *product = find_product(body);
  bool states;
  kind->group = 1;
  kind->batches = 1;
  DP_TRY(find_states(k, body, &states));
  if (states) {
    enum { PIECE = 4096 };
    kind->space = TILE_STATES;
    kind->col_tile = kind->columns <= PIECE ? (int)round_up(kind->columns, TILE_BLOCK) : PIECE;
    kind->col_tasks = (int)((kind->columns + kind->col_tile - 1) / kind->col_tile);
    mark_ops(k, body, false);
    return DP_SUCCESS;
  }
  DP_TRY(find_space(body, &kind->space));
  const ir_op *columns = find_op(body, IR_OP_attend_columns), *best = find_op(body, IR_OP_best_of_runs);
  if (!attend) attend = find_op(body, IR_OP_attend_rows);
  if (kind->space == TILE_PARAMETERS) {
    shape_accumulation(k, body);
  } else if (columns) {
    kind->space = TILE_SEGMENTS;
    kind->columns = columns->operands[0]->type.dims[1].add;
    kind->col_tile = 1;
    kind->whole = true;
  } else if (attend) {
    if (kind->space != TILE_TOKENS) return dp_fail(DP_UNSUPPORTED, "kind '%s': attention over other rows than T", kind->name);
    kind->space = TILE_SEGMENTS;
    kind->columns = attend->operands[1]->type.dims[1].add;
    kind->group = (int)(attend->operands[0]->type.dims[1].add / kind->columns);
    kind->col_tile = 1;
    if (kind->group > k->s->group_max) k->s->group_max = kind->group;
    kind->whole = !ir_get_int(attend, "causal", 0);
  } else if (product) {
    if (product->code != IR_OP_matmul) shape_batches(k, product);
    kind->columns = columns_of(k, product);
  } else if (best) {
    int64_t run = ir_get_int(best, "run", 0), all = ps_columns(&best->operands[0]->type);
    kind->columns = all;
    kind->col_tile = (int)(run < all ? run : round_up(all, TILE_BLOCK));
  } else {
    for (const ir_op *op = body->first; op != body->last; op = op->next)
      if (columns_of(k, op) > kind->columns && !is_rule_less(op)) kind->columns = columns_of(k, op);
    kind->col_tile = (int)round_up(kind->columns, TILE_BLOCK);
  }
  mark_ops(k, body, is_made_in_tiles(body));
  if (product) kind->col_tile = (int)column_tile(k, body);
  kind->col_tasks = (int)(kind->batches * ((kind->columns + kind->col_tile - 1) / kind->col_tile));
  return DP_SUCCESS;
}

/* A kind that chooses begins with it. */
static dp_status choose_first(ps_kind *k, const ir_block *body) {
  const ir_op *op = find_op(body, IR_OP_expert_matmul);
  if (!op) op = find_op(body, IR_OP_accumulate_experts);
  const ps_value *ids = ps_value_of(k, op->operands[2]);
  if (ids->place != PS_BUFFER)
    return dp_fail(DP_UNSUPPORTED, "kind '%s': what its tokens choose must be stored", k->kind->name);
  tile_op choose = ps_op(k, TILE_choose, 0, 0, 0);
  choose.ref = ids->ref;
  choose.dim = k->kind->used;
  ps_emit(k, choose);
  return DP_SUCCESS;
}

/* Stores tile value `index` to columns from `base` on. */
static void store(ps_kind *k, int index, int buffer, int64_t base) {
  const tile_op *value = &k->kind->ops[index];
  tile_op op = ps_op(k, TILE_store, value->cols, index, 0);
  op.ref = buffer;
  op.col_base = base;
  op.column_tile = value->column_tile;
  if (k->kind->space == TILE_SEGMENTS) {
    op.col_step = k->kind->group * op.cols;
    op.group_step = op.cols;
  } else if (op.column_tile) {
    op.col_step = k->kind->col_tile;
    ps_step_by_member(k, &op, k->kind->columns);
  } else if (value->code == TILE_pick && k->kind->ops[value->operands[0]].code == TILE_best) {
    op.col_step = k->kind->col_tasks > 1; /* the run's */
  }
  tile_add_op(k->program, k->kind, op);
}

/* Two results that are one tile value, a product and its reshape, are one buffer. */
static dp_status store_results(ps_kind *k, const ir_op *group) {
  const ir_op *yield = group->body->last;
  int *stored = DP_NEW_ARRAY(k->s->arena, int, yield->operand_count);
  for (int i = 0; i < yield->operand_count; i++) {
    const ps_value *at = ps_value_of(k, yield->operands[i]);
    ps_value *result = ps_value_of(k, group->results[i]);
    stored[i] = -1;
    if (at->place == PS_CACHE) {
      *result = *at;
      continue;
    }
    tile_space space = tile_slab_space(k->kind->space);
    stored[i] = at->column >= 0 ? at->column : at->full;
    DP_CHECK(stored[i] >= 0, "kind '%s' does not make result %d", k->kind->name, i);
    int same = 0;
    while (same < i && (stored[same] != stored[i] || at->upper >= 0)) same++;
    result->place = PS_BUFFER;
    if (same < i) {
      result->ref = ps_value_of(k, group->results[same])->ref;
      continue;
    }
    result->ref = ps_add_buffer(k->s, group->results[i]->name, &group->results[i]->type, space);
    store(k, stored[i], result->ref, 0);
    if (at->upper >= 0) store(k, at->upper, result->ref, k->kind->ops[stored[i]].cols);
  }
  return DP_SUCCESS;
}

/* Body arguments are what the group's inputs are; nothing of the body has a tile value yet. */
static void begin_values(ps_kind *k, const ir_op *group) {
  const ps_value none = {.full = -1, .column = -1, .upper = -1};
  for (int i = 0; i < group->operand_count; i++) {
    ps_value *arg = ps_value_of(k, group->body->args[i]);
    const ps_value *input = ps_value_of(k, group->operands[i]);
    *arg = none;
    arg->place = input->place;
    arg->ref = input->ref;
    arg->part = input->part;
  }
  for (const ir_op *op = group->body->first; op; op = op->next) {
    for (int i = 0; i < op->result_count; i++) *ps_value_of(k, op->results[i]) = none;
    if (op->code == IR_OP_saved) {
      int buffer = ps_stack(k->s, ir_get_string(op, "stack", ""), NULL);
      if (buffer >= 0) *ps_value_of(k, op->results[0]) = (ps_value){PS_BUFFER, buffer, 0, -1, -1, -1};
    }
    for (int i = 0; op->code == IR_OP_cached && i < k->program->cache_count; i++)
      if (strcmp(k->program->caches[i].name, ir_get_string(op, "cache", "")) == 0)
        *ps_value_of(k, op->results[0]) = (ps_value){PS_CACHE, i, (int)ir_get_int(op, "part", 0), -1, -1, -1};
  }
}

/* A number of the group is one of the program's; a total leaves a piece for each task. */
static dp_status store_numbers(ps_kind *k, const ir_op *group) {
  const ir_op *yield = group->body->last;
  for (int i = 0; i < yield->operand_count; i++) {
    const ps_value *at = ps_value_of(k, yield->operands[i]);
    int64_t tasks = k->kind->col_tasks;
    DP_CHECK(at->full >= 0, "kind '%s' does not make result %d", k->kind->name, i);
    const char *name = group->results[i]->name;
    tile_op op = ps_op(k, TILE_store, 1, at->full, 0);
    op.ref = ps_number(k->s, name ? name : "number", k->kind->slots * tasks);
    op.col_step = 1;
    op.row_step = k->kind->slots > 1 ? tasks : 0;
    *ps_value_of(k, group->results[i]) = (ps_value){.place = PS_BUFFER, .ref = op.ref, .full = -1, .column = -1, .upper = -1};
    tile_add_op(k->program, k->kind, op);
  }
  return DP_SUCCESS;
}

dp_status ps_lower_group(ps_schedule_state *s, const ir_op *group) {
  tile_program *p = s->program;
  tile_kind made = {.name = dp_arena_strdup(p->arena, ir_get_string(group, "name", "group"))};
  ps_kind k = {.s = s, .program = p, .kind = &made};
  const ir_block *body = group->body;
  begin_values(&k, group);
  DP_TRY(shape_kind(&k, body));
  if (made.used) DP_TRY(choose_first(&k, body));
  DP_TRY(lower_ops(&k, body, WHOLE_ROWS));
  if (is_made_in_tiles(body)) {
    DP_TRY(load_whole_rows(&k, body));
    for (const ir_op *op = body->first; op; op = op->next) { /* a product may read a stored value as it is */
      int index;
      if (op->code == IR_OP_matmul) DP_TRY(ps_whole_rows(&k, op->operands[0], &index));
    }
    made.prologue = made.batches > 1 ? 0 : made.op_count;
    k.columns = true;
    DP_TRY(lower_ops(&k, body, COLUMN_TILE));
  }
  DP_TRY(made.space == TILE_STATES ? store_numbers(&k, group) : store_results(&k, group));
  DP_PUSH(p->arena, p->kinds, p->kind_count, p->kind_cap) = made;
  return DP_SUCCESS;
}
