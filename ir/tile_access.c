/* ir/tile_access.c: which memory each op of a task kind touches, and whether a tile program is well-formed: every ref
 * and operand is there, shapes fit, and no access leaves its buffer, weight, cache, slab or page. Races are
 * tile_check.c's. */
#include "ir/tile_access.h"

#include <inttypes.h>
#include <stdlib.h>

static const int operand_counts[TILE_OPCODE_COUNT] = {
#define TILE_OP(name, operands, doc) [TILE_##name] = operands,
#include "ir/tile_ops.def"
#undef TILE_OP
#define SCALAR(name, arguments, doc) [TILE_##name] = arguments,
#include "ir/scalar.def"
#undef SCALAR
};

int tile_operand_count(tile_opcode code) { return operand_counts[code]; }

bool tile_has_value(tile_opcode code) {
  return code != TILE_loop && code != TILE_next && code != TILE_store && code != TILE_append && code != TILE_choose &&
         code != TILE_assign && code != TILE_mma_rows && code != TILE_sum_rows && code != TILE_scatter_rows;
}

bool tile_adds_to_gradient(tile_opcode code) {
  return code == TILE_mma_rows || code == TILE_sum_rows || code == TILE_scatter_rows;
}

int64_t tile_head_count(const tile_op *op, int64_t col) { return col * (op->inner > 1 ? op->inner : 1) + op->outer; }

static int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

/* ---- accesses */

static bool is_tiled(const tile_kind *kind, const tile_op *op) {
  bool writes = op->code == TILE_store || op->code == TILE_append || op->code == TILE_assign;
  return op->column_tile || (writes && kind->ops[op->operands[0]].column_tile);
}

static int64_t columns_of(const tile_kind *kind, const tile_op *op, int64_t col) {
  if (!is_tiled(kind, op)) return op->code == TILE_append ? kind->ops[op->operands[0]].cols : op->cols;
  int64_t left = kind->columns - col % tile_batch_tasks(kind) * kind->col_tile;
  return left < kind->col_tile ? left : kind->col_tile;
}

/* First column (or weight row) of member 0. */
static int64_t first_column(const tile_kind *kind, const tile_op *op, int64_t col) {
  int tasks = tile_batch_tasks(kind);
  return op->col_base + col % tasks * op->col_step + col / tasks * op->batch_step;
}

/* How many places a row may have in its token's row of a buffer. */
static int members_of(const tile_kind *kind, const tile_op *op) {
  bool addressed = op->code == TILE_load || op->code == TILE_store;
  return addressed && op->group_step ? kind->used ? kind->used : kind->group : 1;
}

int tile_op_accesses(const tile_program *program, const tile_kind *kind, int index, int64_t col, tile_access *accesses,
                     int limit) {
  const tile_op *op = &kind->ops[index];
  tile_access access = {.op = index};
  int members = members_of(kind, op);
  switch (op->code) {
  case TILE_load:
  case TILE_store:
  case TILE_append:
    access.write = op->code != TILE_load;
    access.from = first_column(kind, op, col);
    access.to = access.from + columns_of(kind, op, col);
    break;
  case TILE_choose:
    access.to = op->dim;
    break;
  case TILE_parameter:
  case TILE_assign:
    access.write = op->code == TILE_assign;
    access.from = col * kind->col_tile;
    access.to = access.from + columns_of(kind, op, col);
    break;
  case TILE_mma_rows:
    access.write = true;
    access.from =
        col / tile_batch_tasks(kind) * program->weights[op->ref].rows + col % tile_batch_tasks(kind) * kind->col_tile;
    access.to = access.from + columns_of(kind, &kind->ops[op->operands[1]], col);
    break;
  case TILE_sum_rows:
  case TILE_scatter_rows:
    access.write = true;
    access.from = first_column(kind, &kind->ops[op->operands[0]], col);
    access.to = access.from + columns_of(kind, &kind->ops[op->operands[0]], col);
    break;
  case TILE_mma_keys:
  case TILE_mma_values:
  case TILE_keys_row:
    access.from = tile_head_count(op, col) * program->caches[op->ref].dim[op->code == TILE_mma_values];
    access.to = access.from + program->caches[op->ref].dim[op->code == TILE_mma_values];
    break;
  default:
    return 0;
  }
  int count = 0;
  for (int i = 0; i < members; i++) {
    int64_t from = access.from + i * op->group_step, to = access.to + i * op->group_step;
    if (count && accesses[count - 1].to == from)
      accesses[count - 1].to = to;
    else if (count < limit)
      accesses[count++] = (tile_access){index, access.write, from, to};
  }
  return count;
}

/* ---- the checks of one op; `place` says whose fault it is */

typedef struct place {
  const tile_program *program;
  const tile_kind *kind;
  int index;
} place;

#define EXPECT(cond, ...)                                                                                              \
  do {                                                                                                                 \
    if (!(cond)) return fault(at, __VA_ARGS__);                                                                        \
  } while (0)

DP_PRINTF(2, 3) static dp_status fault(const place *at, const char *fmt, ...) {
  dp_str detail = {0};
  va_list args;
  va_start(args, fmt);
  dp_str_addv(&detail, fmt, args);
  va_end(args);
  dp_str where = {0};
  if (at->kind) dp_str_addf(&where, ", kind '%s'", at->kind->name);
  if (at->kind && at->index >= 0)
    dp_str_addf(&where, ", op %%%d %s", at->index, tile_opcode_name(at->kind->ops[at->index].code));
  dp_status status = dp_fail(DP_BUG, "internal error in tile program '%s'%s: %s", at->program->name,
                             where.text ? where.text : "", detail.text ? detail.text : "");
  dp_str_free(&detail);
  dp_str_free(&where);
  return status;
}

/* Columns [from, to) of all column tasks and members lie in [0, limit). */
static dp_status columns_inside(const place *at, const char *what, const char *name, int64_t limit) {
  const tile_op *op = &at->kind->ops[at->index];
  int64_t member = (members_of(at->kind, op) - 1) * op->group_step;
  for (int64_t col = 0; col < at->kind->col_tasks; col++) {
    int64_t from = first_column(at->kind, op, col), to = from + columns_of(at->kind, op, col);
    int64_t low = member < 0 ? from + member : from, high = member > 0 ? to + member : to;
    EXPECT(low >= 0 && high <= limit,
           "column task %" PRId64 " takes columns %" PRId64 "..%" PRId64 " of %s '%s', which has %" PRId64, col, low,
           high - 1, what, name, limit);
  }
  return DP_SUCCESS;
}

static dp_status check_buffer_op(const place *at) {
  const tile_program *p = at->program;
  const tile_op *op = &at->kind->ops[at->index];
  EXPECT(op->ref >= 0 && op->ref < p->buffer_count, "there is no buffer %d", op->ref);
  const tile_buffer *buffer = &p->buffers[op->ref];
  EXPECT(op->index >= -1 && op->index < p->input_count, "there is no input %d", op->index);
  tile_space rows = tile_slab_space(at->kind->space);
  EXPECT(op->index >= 0 || buffer->space == rows || (buffer->space == TILE_WINDOW && rows == TILE_TOKENS && at->kind->window),
         "buffer '%s' has rows of another space", buffer->name);
  EXPECT(op->index < 0 || (op->code == TILE_load && buffer->output < 0),
         "only activations are read through an input's rows");
  if (op->code == TILE_store) {
    int cols = at->kind->ops[op->operands[0]].cols;
    EXPECT(cols > 0 && op->cols % cols == 0, "%d columns are stored of a value of %d", op->cols, cols);
  }
  EXPECT(!op->row_step || at->kind->space == TILE_STATES, "only slots are counted in columns");
  EXPECT(op->row_step * (at->kind->slots - 1) + op->col_step * (at->kind->col_tasks - 1) < buffer->cols || !op->row_step,
         "the last slot lies beyond buffer '%s'", buffer->name);
  return columns_inside(at, "buffer", buffer->name, buffer->cols);
}

/* Pieces of a weight's slots: the kind's columns are all of a slot. */
static dp_status check_state_op(const place *at) {
  const tile_program *p = at->program;
  const tile_op *op = &at->kind->ops[at->index];
  EXPECT(at->kind->space == TILE_STATES, "only a task over states reads or assigns them");
  EXPECT(op->ref >= 0 && op->ref < p->weight_count && op->part >= 0 && op->part < TILE_STATE_COUNT, "there is no weight %d",
         op->ref);
  const tile_weight *weight = &p->weights[op->ref];
  EXPECT(at->kind->columns == tile_slot_floats(weight) && at->kind->slots == weight->count * weight->inner,
         "weight '%s' has other slots", weight->name);
  EXPECT(op->part != TILE_VALUE || (weight->storage & ~(1u << IR_f32)) == 0 || weight->storage == 1u << IR_bf16,
         "weight '%s' is neither f32 nor bf16", weight->name);
  bool tiled = op->code == TILE_parameter ? op->column_tile : at->kind->ops[op->operands[0]].column_tile;
  EXPECT(tiled || op->code == TILE_assign, "it is no column tile");
  return DP_SUCCESS;
}

static dp_status check_weight_op(const place *at) {
  const tile_program *p = at->program;
  const tile_op *op = &at->kind->ops[at->index];
  EXPECT(op->ref >= 0 && op->ref < p->weight_count, "there is no weight %d", op->ref);
  const tile_weight *weight = &p->weights[op->ref];
  bool vector = op->code == TILE_vector;
  EXPECT((weight->form == TILE_VECTOR) == vector, "weight '%s' is a %s", weight->name, vector ? "matrix" : "vector");
  EXPECT(op->one_row == vector, "the value has %s", vector ? "one row" : "rows");
  if (op->code == TILE_mma_back) {
    const tile_op *a = &at->kind->ops[op->operands[0]];
    EXPECT(a->cols == weight->rows && !a->column_tile, "operand of %d columns times weight '%s' of %" PRId64 " rows", a->cols,
           weight->name, weight->rows);
    EXPECT(weight->inner == at->kind->batches, "weight '%s' has %d matrices a layer", weight->name, weight->inner);
  }
  if (op->code != TILE_mma) return columns_inside(at, "weight", weight->name, weight->cols);
  const tile_op *a = &at->kind->ops[op->operands[0]];
  EXPECT(a->cols == weight->cols && !a->column_tile, "operand of %d columns times weight '%s' of %" PRId64, a->cols,
         weight->name, weight->cols);
  EXPECT(op->col_base % TILE_BLOCK == 0 && op->col_step % TILE_BLOCK == 0 && !op->batch_step,
         "weight rows start inside a block of %d", TILE_BLOCK);
  EXPECT(weight->inner == at->kind->batches, "%d batches, weight '%s' has %d matrices a layer", at->kind->batches,
         weight->name, weight->inner);
  /* Products work on whole blocks, to which the packed matrix is padded. */
  for (int64_t col = 0; col < at->kind->col_tasks; col++) {
    int64_t from = first_column(at->kind, op, col), to = from + round_up(columns_of(at->kind, op, col), TILE_BLOCK);
    EXPECT(from >= 0 && to <= round_up(weight->rows, TILE_BLOCK),
           "column task %" PRId64 " takes rows %" PRId64 "..%" PRId64 " of weight '%s', which has %" PRId64, col, from,
           to - 1, weight->name, weight->rows);
  }
  return DP_SUCCESS;
}

static dp_status check_cache_op(const place *at, bool in_loop) {
  const tile_program *p = at->program;
  const tile_op *op = &at->kind->ops[at->index], *x = &at->kind->ops[op->operands[0]];
  EXPECT(op->ref >= 0 && op->ref < p->cache_count, "there is no cache %d", op->ref);
  const tile_cache *cache = &p->caches[op->ref];
  if (op->code == TILE_append) {
    EXPECT(at->kind->batches == 1 && !at->kind->used, "a batch's rows cannot be appended");
    EXPECT(op->part == 0 || op->part == 1, "there is no part %d", op->part);
    EXPECT(op->dim == cache->dim[op->part], "heads of %" PRId64 " columns for cache '%s' of %" PRId64, op->dim,
           cache->name, cache->dim[op->part]);
    EXPECT(at->kind->space == TILE_TOKENS && at->kind->group == 1, "only token rows can be appended");
    return columns_inside(at, "cache", cache->name, cache->heads * op->dim);
  }
  EXPECT(in_loop, "it stands outside the loop over chunks");
  EXPECT(tile_head_count(op, at->kind->col_tasks - 1) < cache->heads, "%d column tasks, cache '%s' has %d heads",
         at->kind->col_tasks, cache->name, cache->heads);
  if (op->code == TILE_keys_row) {
    EXPECT(op->one_row && op->cols == TILE_CHUNK && op->dim >= 0 && op->dim < cache->dim[0], "it is no row of a chunk's keys");
    return DP_SUCCESS;
  }
  bool keys = op->code == TILE_mma_keys;
  int64_t depth = keys ? cache->dim[0] : TILE_CHUNK, width = keys ? TILE_CHUNK : cache->dim[1];
  EXPECT(x->cols == depth && op->cols == width, "[rows, %d] times cache '%s' gives [rows, %d]", x->cols, cache->name,
         op->cols);
  return DP_SUCCESS;
}

static dp_status check_value_op(const place *at, bool in_loop) {
  const tile_op *op = &at->kind->ops[at->index];
  const tile_op *x = operand_counts[op->code] > 0 ? &at->kind->ops[op->operands[0]] : NULL;
  const tile_op *y = operand_counts[op->code] > 1 ? &at->kind->ops[op->operands[1]] : NULL;
  switch (op->code) {
  case TILE_constant:
    EXPECT(op->one_row && op->cols == 1, "a constant is [1, 1]");
    return DP_SUCCESS;
  case TILE_table:
    EXPECT(op->one_row && op->data, "a table is [1, %d] and has data", op->cols);
    return DP_SUCCESS;
  case TILE_input:
    EXPECT(op->ref >= 0 && op->ref < at->program->input_count, "there is no input %d", op->ref);
    EXPECT(op->cols == 1 && !op->one_row, "an input is [rows, 1]");
    return DP_SUCCESS;
  case TILE_random:
    EXPECT(at->kind->space == TILE_STATES && op->ref >= 0 && op->ref < at->program->weight_count, "it is of no weight's state");
    EXPECT(x->cols == 1 && y->cols == 1 && op->column_tile, "its keys are one number each");
    return DP_SUCCESS;
  case TILE_round_random:
    EXPECT(op->column_tile && x->column_tile && y->column_tile, "it is no column tile");
    return DP_SUCCESS;
  case TILE_noise:
    for (int i = 0; i < 3; i++) {
      int input = i == 0 ? op->ref : i == 1 ? op->index : op->part;
      EXPECT(input >= 0 && input < at->program->input_count, "there is no input %d", input);
    }
    EXPECT(!op->one_row, "noise is [rows, %d]", op->cols);
    return DP_SUCCESS;
  case TILE_best:
    EXPECT(op->cols == 2 && !op->column_tile && x->cols <= 1 << 24, "it is the greatest and its column: [rows, 2]");
    return DP_SUCCESS;
  case TILE_hot:
    EXPECT(x->cols == 1, "it takes one number a row, not %d", x->cols);
    return DP_SUCCESS;
  case TILE_at:
    EXPECT(y->cols == 1 && op->cols == 1 && !x->column_tile, "it takes one number a row, not %d", y->cols);
    return DP_SUCCESS;
  case TILE_sum:
  case TILE_greatest:
    EXPECT((!x->column_tile || (op->cols == 1 && at->kind->space == TILE_STATES)) && !op->column_tile && x->cols % op->cols == 0, "%d columns do not reduce to %d%s", x->cols,
           op->cols, x->column_tile ? " (they are a column tile's)" : "");
    return DP_SUCCESS;
  case TILE_every:
    EXPECT(op->one_row && op->cols == 1 && op->dim > 0 && op->part >= 0 && op->part < op->dim, "it is [1, 1]");
    return DP_SUCCESS;
  case TILE_pick: {
    EXPECT(op->dim > 0 && op->outer >= 0 && op->inner >= 0 && op->col_base >= 0 && !op->column_tile && !x->column_tile,
           "it picks what cannot be picked");
    int64_t runs = (op->cols - 1) / op->dim, rest = op->cols - 1 < op->dim - 1 ? op->cols - 1 : op->dim - 1;
    EXPECT(op->col_base + runs * op->outer + rest * op->inner < x->cols, "it picks columns beyond %d", x->cols);
    return DP_SUCCESS;
  }
  case TILE_concat:
    EXPECT(op->dim > 0 && x->cols % op->dim == 0 && y->cols % (x->cols / op->dim) == 0 && op->cols == x->cols + y->cols &&
               !op->column_tile,
           "operands of %d and %d columns", x->cols, y->cols);
    return DP_SUCCESS;
  case TILE_top_k: {
    EXPECT(op->dim > 0 && op->cols % op->dim == 0 && x->cols % (op->cols / op->dim) == 0 && !op->column_tile,
           "%d of %d columns", op->cols, x->cols);
    EXPECT(x->cols / (op->cols / op->dim) >= op->dim, "more indices than columns");
    return DP_SUCCESS;
  }
  case TILE_take:
    EXPECT(op->dim > 0 && y->cols % op->dim == 0 && x->cols % (y->cols / op->dim) == 0 && op->cols == y->cols &&
               !op->column_tile,
           "%d indices into %d columns", y->cols, x->cols);
    return DP_SUCCESS;
  case TILE_place:
    EXPECT(op->dim > 0 && x->cols == y->cols && y->cols % op->dim == 0 && op->cols % (y->cols / op->dim) == 0 &&
               !op->column_tile,
           "%d columns at %d indices among %d", x->cols, y->cols, op->cols);
    return DP_SUCCESS;
  case TILE_among:
    EXPECT(op->dim > 0 && x->cols % op->dim == 0 && op->cols % (x->cols / op->dim) == 0 && !op->column_tile,
           "%d indices among %d columns", x->cols, op->cols);
    return DP_SUCCESS;
  case TILE_window:
    EXPECT(in_loop && op->cols == TILE_CHUNK && x->cols == TILE_CHUNK && y->cols == 1 && y->one_row,
           "it masks the columns of a chunk by a window [1, 1]");
    return DP_SUCCESS;
  case TILE_rotate:
    EXPECT(op->dim > 0 && op->dim % 2 == 0 && op->cols % op->dim == 0, "%d columns are no heads of %" PRId64, op->cols,
           op->dim);
    EXPECT(!op->column_tile || at->kind->columns % op->dim == 0, "the last column tile cuts a head");
    EXPECT(x->cols == op->cols && y->cols == op->dim, "operands of %d and %d columns", x->cols, y->cols);
    return DP_SUCCESS;
  case TILE_causal:
  case TILE_seen_by:
  case TILE_known:
    EXPECT(in_loop && op->cols == TILE_CHUNK && TILE_CHUNK % x->cols == 0, "it masks the columns of a chunk");
    return DP_SUCCESS;
  case TILE_carry:
    EXPECT(op->cols % x->cols == 0, "%d columns start as %d", op->cols, x->cols);
    return DP_SUCCESS;
  default:
    EXPECT(op->cols % x->cols == 0 && (!y || op->cols % y->cols == 0), "operand columns do not divide %d", op->cols);
    return DP_SUCCESS;
  }
}

/* ---- loops and uses */

typedef struct loop_state {
  int begin, body, end; /* indices of loop, first op after the carries, next; -1: not yet */
} loop_state;

static bool is_inside(const loop_state *loop) { return loop->begin >= 0 && loop->end < 0; }

/* A value is used after it was made; what a loop's body makes is used in the body only. */
static dp_status check_use(const place *at, const loop_state *loop, int value) {
  EXPECT(value >= 0 && value < at->index, "%%%d is not made before it", value);
  EXPECT(tile_has_value(at->kind->ops[value].code), "%%%d has no value", value);
  EXPECT(loop->end < 0 || value < loop->body || value > loop->end, "%%%d belongs to the loop's body", value);
  return DP_SUCCESS;
}

static dp_status check_loop_op(const place *at, loop_state *loop) {
  const tile_op *op = &at->kind->ops[at->index];
  if (op->code == TILE_loop) {
    EXPECT(loop->begin < 0, "a kind has one loop");
    EXPECT(at->kind->space == TILE_SEGMENTS, "only tasks over segments have a context to loop over");
    EXPECT(op->list_count <= 1, "%d windows", op->list_count);
    if (op->list_count) {
      DP_TRY(check_use(at, loop, op->list[0]));
      EXPECT(at->kind->ops[op->list[0]].cols == 1 && at->kind->ops[op->list[0]].one_row, "its window is not [1, 1]");
    }
    loop->begin = at->index;
    loop->body = at->index + 1;
  } else if (op->code == TILE_carry) {
    EXPECT(is_inside(loop) && loop->body == at->index, "carries follow the loop's begin");
    loop->body = at->index + 1;
  } else {
    EXPECT(is_inside(loop), "there is no loop to end");
    int carries = loop->body - loop->begin - 1;
    EXPECT(op->list_count == carries, "%d values for %d carries", op->list_count, carries);
    for (int i = 0; i < carries; i++) {
      DP_TRY(check_use(at, loop, op->list[i]));
      const tile_op *carry = &at->kind->ops[loop->begin + 1 + i], *next = &at->kind->ops[op->list[i]];
      EXPECT(carry->cols % next->cols == 0, "%%%d has %d columns, its carry %d", op->list[i], next->cols, carry->cols);
    }
    loop->end = at->index;
  }
  return DP_SUCCESS;
}

static dp_status check_tiling(const place *at) {
  const tile_op *op = &at->kind->ops[at->index];
  EXPECT(!op->column_tile || (op->cols == at->kind->col_tile && at->kind->space != TILE_SEGMENTS),
         "%d columns are not those of a column tile of %d", op->cols, at->kind->col_tile);
  bool rows_per_task = op->code == TILE_mma_keys || op->code == TILE_mma_values || op->code == TILE_causal ||
                       op->code == TILE_window || op->code == TILE_known || op->code == TILE_seen_by || op->code == TILE_mma_back;
  for (int i = 0; i < operand_counts[op->code]; i++) {
    const tile_op *operand = &at->kind->ops[op->operands[i]];
    bool whole_piece = op->code == TILE_best || (at->kind->space == TILE_STATES && (op->code == TILE_sum || op->code == TILE_store));
    EXPECT(!operand->column_tile || is_tiled(at->kind, op) || whole_piece, "%%%d is a column tile's, the result is not",
           op->operands[i]);
    EXPECT(!op->one_row || (operand->one_row && !rows_per_task), "one row, made of %%%d with many", op->operands[i]);
  }
  return DP_SUCCESS;
}

/* It reads its operands of all tokens, straight from their buffers. */
static dp_status check_gradient_op(const place *at) {
  const tile_program *p = at->program;
  const tile_op *op = &at->kind->ops[at->index];
  EXPECT(at->kind->space == TILE_PARAMETERS, "only a task over parameters adds to a gradient");
  EXPECT(op->ref >= 0 && op->ref < p->weight_count, "there is no weight %d", op->ref);
  const tile_weight *weight = &p->weights[op->ref];
  EXPECT((weight->form == TILE_VECTOR) == (op->code == TILE_sum_rows) && weight->inner == at->kind->batches,
         "weight '%s' has another form", weight->name);
  const tile_op *x = &at->kind->ops[op->operands[0]], *y = &at->kind->ops[op->operands[1]];
  EXPECT(x->code == TILE_load && (op->code != TILE_mma_rows || y->code == TILE_load), "its operands are no loads");
  if (op->code == TILE_mma_rows)
    EXPECT(x->cols == weight->cols && !x->column_tile && y->column_tile && at->kind->columns == weight->rows &&
               y->col_step == at->kind->col_tile && !y->col_base,
           "%d columns, weight '%s' has %" PRId64, x->cols, weight->name, weight->cols);
  if (op->code == TILE_sum_rows)
    EXPECT(x->cols % weight->cols == 0 && !x->column_tile, "%d columns, weight '%s' has %" PRId64, x->cols, weight->name,
           weight->cols);
  if (op->code == TILE_scatter_rows)
    EXPECT(x->column_tile && x->col_step == at->kind->col_tile && at->kind->columns == weight->cols && op->index >= 0 &&
               op->index < p->input_count && weight->count == 1 && !x->col_base,
           "its rows do not fit weight '%s'", weight->name);
  return DP_SUCCESS;
}

static dp_status check_op(const place *at, loop_state *loop) {
  const tile_op *op = &at->kind->ops[at->index];
  EXPECT(op->code < TILE_OPCODE_COUNT, "there is no op %d", (int)op->code);
  for (int i = 0; i < operand_counts[op->code]; i++) DP_TRY(check_use(at, loop, op->operands[i]));
  if (op->code == TILE_loop || op->code == TILE_carry || op->code == TILE_next) DP_TRY(check_loop_op(at, loop));
  if (op->code == TILE_loop || op->code == TILE_next) return DP_SUCCESS;
  if (op->code == TILE_choose) {
    EXPECT(at->index == 0 && at->kind->used == op->dim && op->dim > 0, "a kind that chooses begins with it");
    EXPECT(op->ref >= 0 && op->ref < at->program->buffer_count, "there is no buffer %d", op->ref);
    const tile_buffer *ids = &at->program->buffers[op->ref];
    bool tokens = at->kind->space == TILE_TOKENS || at->kind->space == TILE_PARAMETERS;
    EXPECT(ids->space == TILE_TOKENS && tokens && ids->output < 0 && op->dim <= ids->cols,
           "buffer '%s' does not say what its tokens chose", ids->name);
    return DP_SUCCESS;
  }
  if (tile_adds_to_gradient(op->code)) return check_gradient_op(at);
  EXPECT(op->cols > 0 || op->code == TILE_append, "it has no columns");
  DP_TRY(check_tiling(at));
  switch (op->code) {
  case TILE_load:
  case TILE_store:
    return check_buffer_op(at);
  case TILE_parameter:
  case TILE_assign:
    return check_state_op(at);
  case TILE_embed:
    EXPECT(op->index >= 0 && op->index < at->program->input_count, "there is no input %d", op->index);
    return check_weight_op(at);
  case TILE_vector:
  case TILE_mma:
  case TILE_mma_back:
    return check_weight_op(at);
  case TILE_append:
  case TILE_keys_row:
  case TILE_mma_keys:
  case TILE_mma_values:
    return check_cache_op(at, is_inside(loop));
  default:
    return check_value_op(at, is_inside(loop));
  }
}

/* The prologue serves every column: nothing in it may depend on which. */
static dp_status check_prologue_op(const place *at) {
  const tile_op *op = &at->kind->ops[at->index];
  EXPECT(!op->column_tile && op->col_step == 0 && op->code != TILE_mma_keys && op->code != TILE_mma_values,
         "it is in the prologue and depends on the column task");
  return DP_SUCCESS;
}

static dp_status check_kind(const tile_program *program, const tile_kind *kind) {
  place here = {program, kind, -1}, *at = &here;
  bool segments = kind->space == TILE_SEGMENTS;
  EXPECT(kind->space >= 0 && kind->space < TILE_SPACE_COUNT, "there is no space %d", (int)kind->space);
  EXPECT(!kind->window || kind->space == TILE_TOKENS || kind->space == TILE_PARAMETERS, "no windows of such rows");
  EXPECT(kind->group == 1 || (segments && kind->group > 1), "%d rows a token", kind->group);
  int rows = segments ? program->segment_tokens * kind->group : kind->space == TILE_STATES ? 1 : program->row_tile;
  EXPECT((kind->space == TILE_STATES) == (kind->slots > 0) && kind->space != TILE_NUMBERS && kind->space != TILE_WINDOW, "%d slots", kind->slots);
  EXPECT(kind->max_rows == rows, "at most %d rows, its tasks have up to %d", kind->max_rows, rows);
  EXPECT(kind->columns > 0 && kind->col_tile > 0, "%" PRId64 " columns in tiles of %d", kind->columns, kind->col_tile);
  EXPECT(kind->batches >= 1 && kind->used >= 0 && (kind->batches == 1 || (!segments && kind->prologue == 0)),
         "%d batches, of which %d are used", kind->batches, kind->used);
  EXPECT(!kind->used || (kind->op_count && kind->ops[0].code == TILE_choose), "it does not choose");
  EXPECT(!kind->whole || segments, "only over segments there is a sequence");
  EXPECT(kind->col_tasks == kind->batches * ((kind->columns + kind->col_tile - 1) / kind->col_tile),
         "%d column tasks for %" PRId64 " columns in tiles of %d", kind->col_tasks, kind->columns, kind->col_tile);
  EXPECT(segments ? kind->col_tile == 1 : kind->col_tasks == 1 || kind->col_tile % TILE_BLOCK == 0,
         "column tiles of %d", kind->col_tile);
  EXPECT(kind->prologue >= 0 && kind->prologue <= kind->op_count, "a prologue of %d of %d ops", kind->prologue,
         kind->op_count);
  loop_state loop = {-1, -1, -1};
  for (int i = 0; i < kind->op_count; i++) {
    here.index = i;
    DP_TRY(check_op(at, &loop));
    if (i < kind->prologue) DP_TRY(check_prologue_op(at));
    EXPECT(i != kind->prologue - 1 || !is_inside(&loop), "the prologue ends inside the loop");
  }
  here.index = -1;
  EXPECT(!is_inside(&loop), "its loop does not end");
  return DP_SUCCESS;
}

/* ---- declarations */

static dp_status check_buffers(const place *at) {
  const tile_program *p = at->program;
  for (int i = 0; i < p->buffer_count; i++) {
    const tile_buffer *b = &p->buffers[i];
    EXPECT(b->space == TILE_TOKENS || b->space == TILE_OUTPUTS || b->space == TILE_WINDOW || b->space == TILE_NUMBERS,
           "buffer '%s' has rows of no slab", b->name);
    EXPECT(b->cols > 0 && b->stride >= b->cols, "buffer '%s': %" PRId64 " columns, stride %" PRId64, b->name, b->cols,
           b->stride);
    EXPECT(b->output < p->output_count, "buffer '%s': there is no output %d", b->name, b->output);
    if (b->output >= 0) continue;
    EXPECT(b->stride % TILE_BLOCK == 0 && b->offset % 64 == 0, "buffer '%s': stride %" PRId64 ", offset %" PRId64,
           b->name, b->stride, b->offset);
    int64_t end = b->offset + tile_buffer_bytes(p, b);
    EXPECT(b->offset >= 0 && end <= p->slab_bytes[b->space],
           "buffer '%s' takes bytes %" PRId64 "..%" PRId64 " of a slab of %" PRId64, b->name, b->offset, end - 1,
           p->slab_bytes[b->space]);
  }
  return DP_SUCCESS;
}

static dp_status check_weights(const place *at) {
  const tile_program *p = at->program;
  for (int i = 0; i < p->weight_count; i++) {
    const tile_weight *w = &p->weights[i];
    int64_t slots = (int64_t)w->count * w->inner;
    EXPECT(w->count >= 1 && w->inner >= 1 && w->first_layer >= 0 && w->first_slot >= 0 &&
               w->first_slot + slots <= p->slot_count,
           "weight '%s' takes slots %d..%" PRId64 " of %d", w->name, w->first_slot, w->first_slot + slots - 1,
           p->slot_count);
    EXPECT(w->form == TILE_VECTOR || w->form == TILE_MATRIX, "weight '%s' has no form", w->name);
    EXPECT(w->rows > 0 && w->cols > 0, "weight '%s' is [%" PRId64 ", %" PRId64 "]", w->name, w->rows, w->cols);
    EXPECT(w->storage < 1u << IR_DTYPE_COUNT && !(w->storage >> IR_i32 & 1), "weight '%s' has a type that is none",
           w->name);
    EXPECT(w->form == TILE_MATRIX || (w->storage & ~(1u << IR_f32)) == 0, "vector '%s' is not f32", w->name);
    for (int dtype = 0; dtype < IR_DTYPE_COUNT; dtype++)
      EXPECT(!(w->storage >> dtype & 1) || w->cols % ir_dtype_block_elements((ir_dtype)dtype) == 0,
             "weight '%s': %" PRId64 " columns are no blocks of %s", w->name, w->cols, ir_dtype_name((ir_dtype)dtype));
  }
  return DP_SUCCESS;
}

static int64_t cache_bytes(const tile_cache *c) {
  return (int64_t)c->layers * c->heads * (c->key_elements + c->value_elements) * ir_dtype_block_bytes(c->storage);
}

static dp_status check_caches(const place *at) {
  const tile_program *p = at->program;
  for (int i = 0; i < p->cache_count; i++) {
    const tile_cache *c = &p->caches[i];
    EXPECT(c->layers > 0 && c->heads > 0 && c->dim[0] > 0 && c->dim[1] >= 0, "cache '%s' is empty", c->name);
    EXPECT(c->storage == IR_f32 || c->storage == IR_f16, "cache '%s' is stored as %s", c->name, ir_dtype_name(c->storage));
    EXPECT(c->key_elements == TILE_CHUNK * c->dim[0] && c->value_elements == TILE_CHUNK * round_up(c->dim[1], TILE_BLOCK),
           "cache '%s': %" PRId64 " elements of keys and %" PRId64 " of values a page", c->name, c->key_elements,
           c->value_elements);
    EXPECT(c->offset >= 0 && c->offset % 64 == 0 && c->offset + cache_bytes(c) <= p->page_bytes,
           "cache '%s' takes bytes %" PRId64 "..%" PRId64 " of a page of %" PRId64, c->name, c->offset,
           c->offset + cache_bytes(c) - 1, p->page_bytes);
    for (int j = 0; j < i; j++) {
      const tile_cache *other = &p->caches[j];
      EXPECT(c->offset >= other->offset + cache_bytes(other) || other->offset >= c->offset + cache_bytes(c),
             "caches '%s' and '%s' overlap", other->name, c->name);
    }
  }
  return DP_SUCCESS;
}

/* Layers [first, end) of every stacked weight and of every cache. */
static dp_status check_layers(const tile_program *p, const tile_kind *kind, int first, int end) {
  for (int i = 0; i < kind->op_count; i++) {
    place here = {p, kind, i}, *at = &here;
    const tile_op *op = &kind->ops[i];
    int from = first, to = end;
    if (op->code == TILE_vector || op->code == TILE_mma || op->code == TILE_embed || op->code == TILE_mma_back ||
        tile_adds_to_gradient(op->code)) {
      const tile_weight *w = &p->weights[op->ref];
      if (w->count > 1 || w->first_layer) from = w->first_layer, to = w->first_layer + w->count;
    } else if (op->code == TILE_append || op->code == TILE_mma_keys || op->code == TILE_mma_values ||
               op->code == TILE_keys_row) {
      from = 0, to = p->caches[op->ref].shared ? end : p->caches[op->ref].layers;
    } else if ((op->code == TILE_load || op->code == TILE_store) && p->buffers[op->ref].layers) {
      from = p->buffers[op->ref].first_layer, to = from + p->buffers[op->ref].layers;
    }
    EXPECT(from <= first && end <= to, "it runs for layers %d to %d, its weight or cache has %d to %d", first, end - 1,
           from, to - 1);
  }
  return DP_SUCCESS;
}

static dp_status check_sections(const place *at) {
  const tile_program *p = at->program;
  int next = 0;
  for (int i = 0; i < p->section_count; i++) {
    const tile_section *section = &p->sections[i];
    EXPECT(!section->window || section->iterations == 1, "section %d is repeated and has windows", i);
    EXPECT(section->base >= 0, "section %d begins at layer %d", i, section->base);
    EXPECT(section->first == next && section->count > 0 && section->iterations > 0,
           "section %d: groups %d..%d, %d times", i, section->first, section->first + section->count - 1,
           section->iterations);
    next += section->count;
    EXPECT(next <= p->group_count, "section %d has groups that are not there", i);
    for (int g = section->first; g < next; g++) {
      const tile_group *group = &p->groups[g];
      EXPECT(group->section == i, "group %d says it is of section %d, section %d says it has it", g, group->section, i);
      EXPECT(group->kind >= 0 && group->kind < p->kind_count, "group %d: there is no kind %d", g, group->kind);
      EXPECT(p->kinds[group->kind].window == section->window && (!section->window || section->window == p->window),
             "group %d runs in other windows than its kind", g);
      for (int w = 0; w < group->wait_count; w++)
        EXPECT(group->waits[w].group >= 0 && group->waits[w].group < p->group_count,
               "group %d waits for group %d, which is not there", g, group->waits[w].group);
      for (int e = 0; e < p->entry_count; e++)
        for (int w = 0; w < group->wait_count && tile_in_entry(p, &p->entries[e], g); w++)
          EXPECT(tile_in_entry(p, &p->entries[e], group->waits[w].group), "group %d waits for group %d of another entry", g,
                 group->waits[w].group);
      DP_TRY(check_layers(p, &p->kinds[group->kind], section->base, section->base + section->iterations));
    }
  }
  EXPECT(next == p->group_count, "%d groups, the sections have %d", p->group_count, next);
  return DP_SUCCESS;
}

dp_status tile_well_formed(const tile_program *program) {
  place here = {program, NULL, -1}, *at = &here;
  EXPECT(program->row_tile > 0 && program->segment_tokens > 0 && program->segment_tokens <= program->row_tile,
         "row tiles of %d, segments of %d", program->row_tile, program->segment_tokens);
  EXPECT(program->slab_bytes[TILE_TOKENS] % 64 == 0 && program->slab_bytes[TILE_OUTPUTS] % 64 == 0,
         "slabs are not multiples of 64 bytes");
  DP_TRY(check_buffers(at));
  DP_TRY(check_weights(at));
  DP_TRY(check_caches(at));
  for (int i = 0; i < program->kind_count; i++) DP_TRY(check_kind(program, &program->kinds[i]));
  return check_sections(at);
}
