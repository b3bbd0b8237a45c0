/* codegen/cuda/kind.c: a task kind to a device function. Values that a loop of their own must make (products, sums,
 * what a product reads, what a loop carries) get memory of the block; all others are computed where they are used.
 * Between two loops stands a block_sync, so that a loop may read what any thread wrote in one before it.
 *
 * Memory of the block: shared, where a task of few rows fits (decode), or of its own in global memory; which of the two
 * is the task's to know, the text holds both. */
#include "codegen/cuda/cuda.h"

#include <inttypes.h>
#include <string.h>

/* ---- which values have memory */

static bool is_product(tile_opcode code) {
  return code == TILE_mma || code == TILE_mma_back || code == TILE_mma_keys || code == TILE_mma_values;
}

static bool always_placed(tile_opcode code) {
  return is_product(code) || code == TILE_carry || code == TILE_sum || code == TILE_greatest || code == TILE_top_k ||
         code == TILE_place || code == TILE_among || code == TILE_at || code == TILE_best;
}

bool cu_readable_in_place(const tile_kind *kind, const tile_op *op) {
  return op->code == TILE_load && op->index < 0 && kind->group == 1 && !kind->used && !op->column_tile;
}

static bool share_bytes(const tile_program *p, int a, int b) {
  const tile_buffer *x = &p->buffers[a], *y = &p->buffers[b];
  if (a == b) return true;
  if (x->output >= 0 || y->output >= 0) return x->output == y->output;
  return x->space == y->space && x->offset < y->offset + tile_buffer_bytes(p, y) &&
         y->offset < x->offset + tile_buffer_bytes(p, x);
}

static bool overwrites(const tile_program *p, const tile_op *store, const tile_op *source) {
  if (source->code == TILE_load) return store->code == TILE_store && share_bytes(p, store->ref, source->ref);
  return store->code == TILE_assign && store->ref == source->ref && store->part == source->part;
}

static bool same_place(const tile_op *store, const tile_op *source) {
  return store->ref == source->ref && store->index == source->index && store->cols == source->cols &&
         store->col_base == source->col_base && store->col_step == source->col_step &&
         store->group_step == source->group_step && store->batch_step == source->batch_step &&
         store->row_step == source->row_step && store->operands[0] >= 0;
}

typedef enum reach { APART, SAME_ELEMENT, ANY_ELEMENT } reach; /* how an op's element needs the source's */

static reach reach_of(const tile_kind *kind, const reach *reached, const tile_op *op) {
  reach most = APART;
  bool scalar = tile_scalar_arity(op->code) > 0 || op->code == TILE_store || op->code == TILE_assign;
  for (int j = 0; j < tile_operand_count(op->code); j++) {
    reach r = reached[op->operands[j]];
    const tile_op *x = &kind->ops[op->operands[j]];
    bool elementwise = scalar && (x->cols == op->cols || op->code == TILE_assign);
    if (r == SAME_ELEMENT && !elementwise) r = ANY_ELEMENT;
    if (r > most) most = r;
  }
  return most;
}

/* Is what `source` reads overwritten by the task before, or at another element while, it is used for the last time? */
static bool is_overwritten(cu_kind *k, int source) {
  const tile_kind *kind = k->kind;
  reach *reached = DP_NEW_ARRAY(k->e->arena, reach, kind->op_count);
  reached[source] = SAME_ELEMENT;
  bool written = false;
  for (int i = source + 1; i < kind->op_count; i++) {
    const tile_op *op = &kind->ops[i];
    reach r = reach_of(kind, reached, op);
    if (op->code == TILE_next)
      for (int j = 0; j < op->list_count; j++)
        if (reached[op->list[j]]) r = ANY_ELEMENT;
    if (written && r) return true;
    if (overwrites(k->e->program, op, &kind->ops[source])) {
      if (r == ANY_ELEMENT || (r == SAME_ELEMENT && op->code == TILE_store && !same_place(op, &kind->ops[source])))
        return true;
      written = true;
    }
    reached[i] = always_placed(op->code) ? APART : r;
  }
  return false;
}

/* Must op have memory for that use? */
static bool use_needs_memory(const tile_kind *kind, int index, const tile_op *user, int operand) {
  const tile_op *op = &kind->ops[index];
  bool addressed = op->code == TILE_load || op->code == TILE_vector || op->code == TILE_parameter;
  bool scalar = tile_scalar_arity(op->code) > 0;
  if (is_product(user->code) && operand == 0) {
    bool weight = user->code == TILE_mma || user->code == TILE_mma_back;
    return !(weight && cu_readable_in_place(kind, op));
  }
  switch (user->code) {
  case TILE_top_k:
  case TILE_place:
  case TILE_among: return true;
  case TILE_take: return operand == 0 && !addressed;
  case TILE_rotate: return operand == 0 && scalar;
  default: return scalar && op->cols < user->cols; /* one element for several: computed once */
  }
}

static bool must_be_placed(cu_kind *k, int index) {
  const tile_kind *kind = k->kind;
  const tile_op *op = &kind->ops[index];
  if (!tile_has_value(op->code) || op->code == TILE_choose) return false;
  if (always_placed(op->code)) return true;
  if (kind->space == TILE_PARAMETERS) return false; /* loads are of all tokens' rows */
  if (op->code == TILE_constant || op->code == TILE_table || op->code == TILE_every) return false;
  if ((op->code == TILE_load || op->code == TILE_parameter) && is_overwritten(k, index)) return true;
  int uses = 0;
  for (int i = index + 1; i < kind->op_count; i++) {
    const tile_op *user = &kind->ops[i];
    if (user->code == TILE_next)
      for (int j = 0; j < user->list_count; j++)
        if (user->list[j] == index) return true;
    for (int j = 0; j < tile_operand_count(user->code); j++) {
      if (user->operands[j] != index) continue;
      uses++;
      if (use_needs_memory(kind, index, user, j)) return true;
    }
  }
  return op->code == TILE_embed && uses > 1;
}

static int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

/* Loads and vectors that a loop over rows would wait for, element after element. */
static bool can_be_staged(const cu_kind *k, int index) {
  const tile_kind *kind = k->kind;
  const tile_op *op = &kind->ops[index];
  bool load = op->code == TILE_load && op->index < 0 && kind->group == 1 && !kind->used;
  return (load || op->code == TILE_vector) && !k->placed[index] && !op->column_tile && op->cols >= CUDA_STAGED_COLUMNS &&
         (kind->space == TILE_TOKENS || kind->space == TILE_OUTPUTS);
}

static int64_t stride_of(const tile_op *op) {
  if (op->code == TILE_best) return CUDA_BEST_FLOATS;
  return op->cols == 1 ? 1 : round_up(op->cols, 4);
}

static int64_t rows_in_shared(const cu_kind *k, const tile_op *op, int narrow) {
  int64_t rows = op->one_row || op->code == TILE_vector ? 1 : k->kind->max_rows;
  int64_t all = rows * stride_of(op) * 4;
  return all <= CUDA_SMALL_BYTES || rows < narrow ? rows : narrow;
}

/* Floats of shared memory for tasks of so many rows. */
static int64_t shared_need(const cu_kind *k, int narrow) {
  int64_t floats = 0;
  for (int i = 0; i < k->kind->op_count; i++)
    if (k->placed[i] || k->staged[i])
      floats += round_up(rows_in_shared(k, &k->kind->ops[i], narrow) * stride_of(&k->kind->ops[i]), 4);
  return floats;
}

static void choose_narrow(cu_kind *k) {
  k->narrow = CUDA_NARROW_ROWS;
  while (k->narrow > 1 && shared_need(k, k->narrow) * 4 > CUDA_VALUE_BYTES) k->narrow /= 2;
}

static void give_place(cu_kind *k, int i) {
  const tile_op *op = &k->kind->ops[i];
  int64_t rows = op->one_row ? 1 : k->kind->max_rows, stride = k->stride[i];
  int64_t all = round_up(rows * stride, 4), few = round_up(rows_in_shared(k, op, k->narrow) * stride, 4);
  if ((k->shared_floats + few) * 4 <= CUDA_VALUE_BYTES) {
    k->shared_at[i] = k->shared_floats;
    k->shared_floats += few;
    if (few == all || k->staged[i]) return;
  } else if (k->staged[i]) {
    k->staged[i] = false;
    return;
  }
  k->scratch_at[i] = k->scratch_floats;
  k->scratch_floats += round_up(all, 32);
}

void cu_place_values(cu_kind *k) {
  const tile_kind *kind = k->kind;
  dp_arena *arena = k->e->arena;
  k->placed = DP_NEW_ARRAY(arena, bool, kind->op_count + 1);
  k->staged = DP_NEW_ARRAY(arena, bool, kind->op_count + 1);
  k->stride = DP_NEW_ARRAY(arena, int64_t, kind->op_count + 1);
  k->shared_at = DP_NEW_ARRAY(arena, int64_t, kind->op_count + 1);
  k->scratch_at = DP_NEW_ARRAY(arena, int64_t, kind->op_count + 1);
  for (int i = 0; i < kind->op_count; i++) {
    k->shared_at[i] = k->scratch_at[i] = -1;
    k->placed[i] = must_be_placed(k, i);
    k->staged[i] = can_be_staged(k, i);
    k->stride[i] = stride_of(&kind->ops[i]);
  }
  choose_narrow(k);
  for (int staged = 0; staged < 2; staged++)
    for (int i = 0; i < kind->op_count; i++)
      if (staged ? k->staged[i] : k->placed[i]) give_place(k, i);
}

int64_t cuda_scratch_floats(const tile_program *program) {
  int64_t most = 0;
  dp_str nowhere = {0};
  cuda e = {.program = program, .arena = dp_arena_new(), .out = &nowhere, .status = DP_SUCCESS};
  for (int i = 0; e.arena && i < program->kind_count; i++) {
    cu_kind k = {.e = &e, .kind = &program->kinds[i], .index = i};
    cu_place_values(&k);
    if (k.scratch_floats > most) most = k.scratch_floats;
  }
  if (e.arena) dp_arena_free(e.arena);
  return most;
}

int64_t cuda_shared_bytes(const tile_program *program) {
  return CUDA_RING_BYTES + (program->row_tile + 1 + 31) / 32 * 128 + CUDA_VALUE_BYTES;
}

/* ---- declarations at the head of the function */

static void declare_value(cu_kind *k, int i) {
  int64_t shared = k->shared_at[i], scratch = k->scratch_at[i];
  if (scratch < 0)
    cu_line(k->e, "float *const v%d = block.shared + %" PRId64 ";", i, shared);
  else if (shared < 0)
    cu_line(k->e, "float *const v%d = block.scratch + %" PRId64 ";", i, scratch);
  else
    cu_line(k->e, "float *const v%d = rows <= %d ? block.shared + %" PRId64 " : block.scratch + %" PRId64 ";", i,
            k->narrow, shared, scratch);
}

/* Where a staged load is read: in the buffer, until a task of few rows has a copy. */
static void declare_staged(cu_kind *k, int i) {
  const tile_op *op = &k->kind->ops[i];
  if (op->code == TILE_vector) {
    cu_line(k->e, "const float *x%d = w%d;", i, i);
    return;
  }
  cu_line(k->e, "const float *x%d = at%d;", i, i);
  cu_line(k->e, "i64 x%d_stride = %" PRId64 ";", i, k->e->program->buffers[op->ref].stride);
}

static void declare_rows(cu_kind *k) {
  const tile_kind *kind = k->kind;
  cuda *e = k->e;
  int tile = e->program->row_tile;
  if (kind->batches > 1) {
    cu_line(e, "const int batch = col / %d;", tile_batch_tasks(kind));
    cu_line(e, "col %%= %d;", tile_batch_tasks(kind));
  } else {
    cu_line(e, "const int batch = 0;");
  }
  if (kind->space == TILE_SEGMENTS) {
    cu_line(e, "const int row0 = step.segment_row[row], tokens = step.segment_tokens[row];");
    cu_line(e, "const int tile = row0 / %d, local0 = row0 %% %d;", tile, tile);
    cu_line(e, kind->whole ? "const int last_position = step.segment_end[row] - 1;"
                           : "const int last_position = step.positions[row0 + tokens - 1];");
  } else if (kind->space == TILE_STATES) {
    cu_line(e, "const int row0 = 0, tokens = 1, tile = 0, local0 = 0;");
  } else {
    cu_line(e, "const int row0 = row * %d, tokens = least(%d, (int)step.rows[%d] - row0), tile = row, local0 = 0;",
            tile, tile, kind->space);
  }
  cu_line(e, "const int columns = least(%d, (int)%" PRId64 " - col * %d);", kind->col_tile, kind->columns,
          kind->col_tile);
  if (kind->used && kind->space != TILE_PARAMETERS) {
    const tile_op *op = &kind->ops[0];
    const tile_buffer *b = &e->program->buffers[op->ref];
    cu_line(e, "const float *const ids = (const float *)(step.arena[%d] + (i64)tile * %" PRId64 " + %" PRId64 ");",
            b->space, e->program->slab_bytes[b->space], b->offset);
    cu_line(e, "const int rows = choose_rows(block, ids, %" PRId64 ", tokens, %" PRId64 ", batch);", b->stride,
            op->dim);
    cu_line(e, "const int *const chosen = block.chosen + 1;");
    cu_line(e, "if (rows == 0) return;");
  } else {
    cu_line(e, kind->group == 1 ? "const int rows = tokens;" : "const int rows = tokens * %d;", kind->group);
  }
}

static void declare(cu_kind *k) {
  declare_rows(k);
  for (int i = 0; i < k->kind->op_count; i++) {
    const tile_op *op = &k->kind->ops[i];
    if ((op->code == TILE_load && k->kind->space != TILE_PARAMETERS) || op->code == TILE_store) cu_declare_buffer(k, i);
    cu_declare_weight(k, i);
    if (k->placed[i]) declare_value(k, i);
    if (k->staged[i]) declare_staged(k, i);
  }
}

/* ---- loops */

/* Over elements (r, c), c the fastest, a thread every THREADS-th. */
static void open_elements(cu_kind *k, const char *rows, const char *columns) {
  cu_begin_body(k);
  cu_line(k->e, "#pragma unroll 1"); /* what is stored may be what is loaded next: more of it would only be longer */
  if (strcmp(rows, "1") == 0) {
    cu_open(k->e, "for (int c = thread_index(); c < %s; c += THREADS)", columns);
    cu_line(k->e, "const int r = 0;");
  } else if (strcmp(columns, "1") == 0) {
    cu_open(k->e, "for (int r = thread_index(); r < %s; r += THREADS)", rows);
    cu_line(k->e, "const int c = 0;");
  } else {
    cu_open(k->e, "for (int i = thread_index(); i < %s * %s; i += THREADS)", rows, columns);
    cu_line(k->e, "const int r = i / %s, c = i %% %s;", columns, columns);
  }
}

static void close_elements(cu_kind *k) {
  cu_close(k->e);
  cu_line(k->e, "block_sync();");
}

/* The value of `source`, as many columns as op has, to op's memory. */
static void copy_value(cu_kind *k, int index, int source) {
  const tile_op *op = &k->kind->ops[index];
  open_elements(k, cu_rows(k, op), cu_columns(k, op));
  tile_op copied = *op;
  copied.operands[0] = source;
  const char *value = cu_pull_operand(k, &copied, 0, "r", "c");
  cu_line(k->e, "v%d[r * %" PRId64 " + c] = %s;", index, k->stride[index], value);
  cu_close(k->e);
}

/* A value computed element by element, to its memory. */
static void make(cu_kind *k, int index) {
  const tile_op *op = &k->kind->ops[index];
  open_elements(k, cu_rows(k, op), cu_columns(k, op));
  k->placed[index] = false; /* while it is made it is not yet there to be read */
  const char *value = cu_pull(k, index, "r", "c");
  k->placed[index] = true;
  cu_line(k->e, "v%d[r * %" PRId64 " + c] = %s;", index, k->stride[index], value);
  close_elements(k);
}

static void stage(cu_kind *k, int index) {
  cuda *e = k->e;
  const tile_op *op = &k->kind->ops[index];
  if (op->code == TILE_vector) {
    cu_line(e, "bring_rows(block.shared + %" PRId64 ", 0, x%d, 0, 1, %d);", k->shared_at[index], index, op->cols);
    cu_line(e, "x%d = block.shared + %" PRId64 ";", index, k->shared_at[index]);
    return;
  }
  cu_open(e, "if (rows <= %d)", k->narrow);
  cu_line(e, "bring_rows(block.shared + %" PRId64 ", %" PRId64 ", x%d, x%d_stride, rows, %d);", k->shared_at[index],
          k->stride[index], index, index, op->cols);
  cu_line(e, "x%d = block.shared + %" PRId64 ", x%d_stride = %" PRId64 ";", index, k->shared_at[index], index,
          k->stride[index]);
  cu_close(e);
}

/* Half a warp a result; a warp's lanes all come to the tree. */
static void reduce(cu_kind *k, int index) {
  cuda *e = k->e;
  const tile_op *op = &k->kind->ops[index], *x = &k->kind->ops[op->operands[0]];
  bool greatest = op->code == TILE_greatest;
  const char *size = x->column_tile ? "columns" : CU("%d", x->cols / op->cols), *rows = cu_rows(k, op);
  cu_begin_body(k);
  cu_open(e, "for (int base = 0; base < %s * %d; base += THREADS / WARP_HALF)", rows, op->cols);
  cu_line(e, "const int i = base + thread_index() / WARP_HALF, r = i / %d, group = i %% %d;", op->cols, op->cols);
  cu_line(e, "float lane = %s;", greatest ? "-INFINITE" : "0.0f");
  cu_line(e, "#pragma unroll 4");
  cu_open(e, "for (int j = thread_index() %% WARP_HALF; i < %s * %d && j < %s; j += WARP_HALF)", rows, op->cols, size);
  cu_line(e, "const int c = group * %s + j;", size);
  const char *value = cu_pull(k, op->operands[0], "r", "c");
  cu_line(e, "lane = scalar_%s(lane, %s);", greatest ? "max" : "add", value);
  cu_close(e);
  cu_line(e, "lane = tree_%s(lane);", greatest ? "greatest" : "sum");
  cu_line(e, "if (i < %s * %d && thread_index() %% WARP_HALF == 0) v%d[r * %" PRId64 " + group] = lane;", rows,
          op->cols, index, k->stride[index]);
  close_elements(k);
}

static void store(cu_kind *k, int index) {
  const tile_op *op = &k->kind->ops[index], *x = &k->kind->ops[op->operands[0]];
  open_elements(k, "rows", op->column_tile || x->column_tile ? "columns" : CU("%d", op->cols));
  const char *value = cu_pull_operand(k, op, 0, "r", "c");
  cu_line(k->e, "(%s)[c] = %s;", cu_buffer_row(k, index, "r"), value);
  close_elements(k);
}

static void assign(cu_kind *k, int index) {
  const tile_op *op = &k->kind->ops[index];
  open_elements(k, "1", "columns");
  tile_op whole = *op;
  whole.cols = k->kind->col_tile;
  bool narrow = tile_state_type(&k->e->program->weights[op->ref], (tile_state)op->part) == IR_bf16;
  cu_line(k->e, narrow ? "s%d[c] = bf16_of_f32(%s);" : "s%d[c] = %s;", index, cu_pull_operand(k, &whole, 0, "r", "c"));
  close_elements(k);
}

/* ---- choices */

/* All threads look through a row's columns, half warps agree among each other, then one thread asks them all. */
static void best(cu_kind *k, int index) {
  cuda *e = k->e;
  const tile_op *op = &k->kind->ops[index], *x = &k->kind->ops[op->operands[0]];
  cu_begin_body(k);
  cu_open(e, "for (int r = 0; r < %s; r++)", cu_rows(k, op));
  cu_line(e, "Best best = no_best();");
  cu_open(e, "for (int c = thread_index(); c < %s; c += THREADS)", cu_columns(k, x));
  const char *value = cu_pull(k, op->operands[0], "r", "c");
  cu_line(e, "best = better(best, {rank_of(%s), (float)(%s + c)});", value, cu_column(k, op, "r"));
  cu_close(e);
  cu_line(e, "leave_best(best, v%d + r * %" PRId64 ");", index, k->stride[index]);
  cu_close(e);
  cu_line(e, "block_sync();");
  cu_line(e, "for (int r = thread_index(); r < %s; r += THREADS) take_best(v%d + r * %" PRId64 ");", cu_rows(k, op), index,
          k->stride[index]);
  cu_line(e, "block_sync();");
}

static void top_k(cu_kind *k, int index) {
  const tile_op *op = &k->kind->ops[index], *x = &k->kind->ops[op->operands[0]];
  int64_t heads = op->cols / op->dim, n = x->cols / heads;
  open_elements(k, cu_rows(k, op), CU("%" PRId64, heads));
  cu_line(k->e,
          "greatest_columns(v%d + %s * %" PRId64 " + c * %" PRId64 ", %" PRId64 ", %" PRId64 ", v%d + r * %" PRId64
          " + c * %" PRId64 ");",
          op->operands[0], x->one_row ? "0" : "r", k->stride[op->operands[0]], n, n, op->dim, index, k->stride[index],
          op->dim);
  close_elements(k);
}

static void place(cu_kind *k, int index) {
  const tile_op *op = &k->kind->ops[index], *x = &k->kind->ops[op->operands[0]], *ids = &k->kind->ops[op->operands[1]];
  int64_t heads = ids->cols / op->dim, n = op->cols / heads;
  cuda *e = k->e;
  open_elements(k, cu_rows(k, op), CU("%" PRId64, heads));
  cu_line(e, "float *const to = v%d + r * %" PRId64 " + c * %" PRId64 ";", index, k->stride[index], n);
  cu_line(e, "for (int j = 0; j < %" PRId64 "; j++) to[j] = 0.0f;", n);
  cu_open(e, "for (int j = c * %" PRId64 "; j < (c + 1) * %" PRId64 "; j++)", op->dim, op->dim);
  cu_line(e, "float *const at = to + (int)v%d[%s * %" PRId64 " + j];", op->operands[1], ids->one_row ? "0" : "r",
          k->stride[op->operands[1]]);
  cu_line(e, "*at = ADD(*at, v%d[%s * %" PRId64 " + %s]);", op->operands[0], x->one_row ? "0" : "r",
          k->stride[op->operands[0]], x->cols == ids->cols ? "j" : CU("j * %d / %d", x->cols, ids->cols));
  cu_close(e);
  close_elements(k);
}

static void among(cu_kind *k, int index) {
  const tile_op *op = &k->kind->ops[index], *ids = &k->kind->ops[op->operands[0]];
  int64_t n = op->cols / (ids->cols / op->dim);
  open_elements(k, cu_rows(k, op), cu_columns(k, op));
  cu_line(k->e,
          "v%d[r * %" PRId64 " + c] = is_among(v%d + %s * %" PRId64 " + c / %" PRId64 " * %" PRId64 ", %" PRId64
          ", c %% %" PRId64 ");",
          index, k->stride[index], op->operands[0], ids->one_row ? "0" : "r", k->stride[op->operands[0]], n, op->dim,
          op->dim, n);
  close_elements(k);
}

/* ---- the loop over chunks */

static void begin_chunks(cu_kind *k, int index) {
  cuda *e = k->e;
  const tile_op *op = &k->kind->ops[index];
  for (int i = index + 1; i < k->kind->op_count && k->kind->ops[i].code == TILE_carry; i++)
    copy_value(k, i, k->kind->ops[i].operands[0]);
  cu_line(e, "block_sync();");
  if (op->part) {
    cu_line(e, "const int first_chunk_%d = step.positions[row0] / %d;", index, TILE_CHUNK);
  } else if (op->list_count) {
    cu_begin_body(k);
    const char *width = cu_pull(k, op->list[0], "0", "0");
    cu_line(e, "const int first_seen_%d = step.positions[row0] + 1 - (int)%s;", index, width);
    cu_line(e, "const int first_chunk_%d = first_seen_%d > 0 ? first_seen_%d / %d : 0;", index, index, index,
            TILE_CHUNK);
  } else {
    cu_line(e, "const int first_chunk_%d = 0;", index);
  }
  cu_open(e, "for (int chunk = first_chunk_%d; chunk <= last_position / %d; chunk++)", index, TILE_CHUNK);
}

/* All at once: what is carried next has memory apart from the carries'. */
static void end_chunks(cu_kind *k, int index) {
  const tile_op *next = &k->kind->ops[index];
  int carry = index;
  while (k->kind->ops[carry].code != TILE_loop) carry--;
  for (int i = 0; i < next->list_count; i++) {
    if (next->list[i] == carry + 1 + i) continue;
    if (k->kind->ops[next->list[i]].code == TILE_carry) cu_refuse(k->e, "exchange of carried values", next);
    copy_value(k, carry + 1 + i, next->list[i]);
  }
  cu_line(k->e, "block_sync();");
  cu_close(k->e);
}

/* ---- ops in order */

static void emit_op(cu_kind *k, int index) {
  const tile_op *op = &k->kind->ops[index];
  if (k->placed[index] || k->staged[index] || !tile_has_value(op->code))
    cu_line(k->e, "// %%%d %s%s%s", index, tile_opcode_name(op->code), op->origin ? "  ; " : "",
            op->origin ? op->origin : "");
  switch (op->code) {
  case TILE_store: store(k, index); break;
  case TILE_assign: assign(k, index); break;
  case TILE_append: cu_append(k, index); break;
  case TILE_mma: cu_weight_product(k, index); break;
  case TILE_mma_back: cu_back_product(k, index); break;
  case TILE_mma_values:
    copy_value(k, index, op->operands[1]);
    cu_line(k->e, "block_sync();");
    cu_cache_product(k, index);
    break;
  case TILE_mma_keys: cu_cache_product(k, index); break;
  case TILE_mma_rows:
  case TILE_sum_rows:
  case TILE_scatter_rows: cu_gradient(k, index); break;
  case TILE_sum:
  case TILE_greatest: reduce(k, index); break;
  case TILE_top_k: top_k(k, index); break;
  case TILE_best: best(k, index); break;
  case TILE_place: place(k, index); break;
  case TILE_among: among(k, index); break;
  case TILE_loop: begin_chunks(k, index); break;
  case TILE_next: end_chunks(k, index); break;
  case TILE_carry:
  case TILE_choose: break; /* made by begin_chunks and end_chunks; before the first op */
  default:
    if (k->placed[index]) make(k, index);
    if (k->staged[index]) stage(k, index);
  }
}

static void add_tables(cu_kind *k) {
  for (int i = 0; i < k->kind->op_count; i++) {
    const tile_op *op = &k->kind->ops[i];
    if (op->code != TILE_table) continue;
    dp_str_addf(k->e->out, "TABLE float table_%d_%d[%d] = {", k->index, i, op->cols);
    for (int c = 0; c < op->cols; c++)
      dp_str_addf(k->e->out, "%s%s", c ? ", " : "", cu_float(k->e->arena, op->data[c]));
    dp_str_add(k->e->out, "};\n");
  }
}

/* The tile program's text of the kind, as a comment. */
static void add_source(cu_kind *k) {
  dp_str text = {0};
  tile_print_kind(&text, k->e->program, k->index);
  dp_str_addc(k->e->out, '\n');
  for (char *line = text.text; line && *line;) {
    size_t n = strcspn(line, "\n");
    if (n) dp_str_addf(k->e->out, "// %.*s\n", (int)n, line);
    line += n + (line[n] == '\n');
  }
  dp_str_free(&text);
}

const char *cu_kind_name(cuda *e, int index) { return cu_name(e->arena, "kind", index, e->program->kinds[index].name); }

void cu_emit_kind(cuda *e, int index) {
  cu_kind k = {.e = e, .kind = &e->program->kinds[index], .index = index};
  cu_place_values(&k);
  add_source(&k);
  add_tables(&k);
  cu_open(e, "TASK_FUNCTION void %s(const Step &step, Block &block, int layer, int row, int col, bool reuse)",
          cu_kind_name(e, index));
  declare(&k);
  int i = 0;
  if (k.kind->prologue > 0 && !k.kind->used) {
    cu_open(e, "if (!reuse)");
    for (; i < k.kind->prologue; i++) emit_op(&k, i);
    cu_close(e);
  }
  for (; i < k.kind->op_count; i++) emit_op(&k, i);
  cu_close(e);
  cu_emit_ask(&k);
}
