/* codegen/cuda/value.c: one element of a value as lines of a loop's body: `const float x7 = scalar_mul(x5, x6);`. What
 * a body has computed at a place it does not compute again. */
#include "codegen/cuda/cuda.h"

#include <inttypes.h>
#include <string.h>

void cu_begin_body(cu_kind *k) { k->scalars = NULL, k->scalar_count = 0; }

static const char *find(const cu_kind *k, int op, const char *r, const char *c) {
  for (const cu_scalar *s = k->scalars; s; s = s->next)
    if (s->op == op && strcmp(s->r, r) == 0 && strcmp(s->c, c) == 0) return s->name;
  return NULL;
}

static const char *note(cu_kind *k, int op, const char *r, const char *c, const char *name) {
  cu_scalar *s = DP_NEW(k->e->arena, cu_scalar);
  *s = (cu_scalar){op, r, c, name, k->scalars};
  k->scalars = s;
  return name;
}

/* An index as a name. Those of bodies are notes of op -1. */
static const char *index_of(cu_kind *k, const char *expression) {
  if (!strpbrk(expression, " *(")) return expression;
  const char *known = find(k, -1, expression, "");
  if (known) return known;
  const char *name = CU("i%d", k->scalar_count++);
  cu_line(k->e, "const int %s = %s;", name, expression);
  return note(k, -1, expression, "", name);
}

/* ---- rows and columns */

const char *cu_columns(cu_kind *k, const tile_op *op) { return op->column_tile ? "columns" : CU("%d", op->cols); }
const char *cu_rows(cu_kind *k, const tile_op *op) {
  (void)k;
  return op->one_row ? "1" : "rows";
}

const char *cu_local_row(cu_kind *k, const char *r) {
  if (k->kind->used) return CU("chosen[%s] / %d", r, k->kind->used);
  return k->kind->group == 1 ? r : CU("%s / %d", r, k->kind->group);
}

const char *cu_token(cu_kind *k, const char *r) { return CU("row0 + %s", cu_local_row(k, r)); }

static const char *plus_product(cu_kind *k, const char *sum, const char *factor, int64_t step) {
  if (step == 0) return sum;
  const char *term = step == 1 ? factor : CU("%s * %" PRId64, factor, step);
  return strcmp(sum, "0") == 0 ? term : CU("%s + %s", sum, term);
}

static const char *member_of(cu_kind *k, const char *r) {
  return k->kind->used ? CU("chosen[%s] %% %d", r, k->kind->used) : CU("%s %% %d", r, k->kind->group);
}

/* column(0) without the row's share. */
static const char *first_column(cu_kind *k, const tile_op *op) {
  const char *column = CU("%" PRId64, op->col_base);
  column = plus_product(k, column, "col", op->col_step);
  column = plus_product(k, column, "batch", op->batch_step);
  return plus_product(k, column, "row", op->row_step);
}

const char *cu_column(cu_kind *k, const tile_op *op, const char *r) {
  const char *column = first_column(k, op);
  return op->group_step ? CU("%s + %s * %" PRId64, column, member_of(k, r), op->group_step) : column;
}

/* ---- buffers */

static const char *layer_rows(cu_kind *k, const tile_buffer *b) {
  if (!b->layers) return "0";
  return CU("(layer - %d) * %d", b->first_layer, k->e->program->row_tile);
}

void cu_declare_buffer(cu_kind *k, int index) {
  const tile_program *p = k->e->program;
  const tile_op *op = &k->kind->ops[index];
  const tile_buffer *b = &p->buffers[op->ref];
  if (b->output >= 0) {
    cu_line(k->e, "float *const at%d = step.outputs[%d] + (i64)row0 * %" PRId64 " + (%s); // %s", index, b->output,
            b->stride, first_column(k, op), b->name);
  } else if (op->index < 0) {
    const char *tile = b->space == TILE_WINDOW ? CU("(tile %% %d)", p->window) : "tile";
    cu_line(k->e,
            "float *const at%d = (float *)(step.arena[%d] + (i64)%s * %" PRId64 " + %" PRId64
            ") + (i64)(%s + local0) * %" PRId64 " + (%s); // %s",
            index, b->space, tile, p->slab_bytes[b->space], b->offset, layer_rows(k, b), b->stride, first_column(k, op),
            b->name);
  }
}

static const char *indexed_row(cu_kind *k, const tile_op *op, const char *r) {
  const tile_program *p = k->e->program;
  const tile_buffer *b = &p->buffers[op->ref];
  const char *token = index_of(k, CU("step.inputs[%d][%s]", op->index, cu_token(k, r)));
  const char *tile = CU("%s / %d", token, p->row_tile);
  if (b->space == TILE_WINDOW) tile = CU("%s %% %d", tile, p->window);
  return CU("(float *)(step.arena[%d] + (i64)(%s) * %" PRId64 " + %" PRId64 ") + (i64)(%s + %s %% %d) * %" PRId64
            " + (%s)",
            b->space, tile, p->slab_bytes[b->space], b->offset, layer_rows(k, b), token, p->row_tile, b->stride,
            cu_column(k, op, r));
}

const char *cu_buffer_row(cu_kind *k, int index, const char *r) {
  const tile_op *op = &k->kind->ops[index];
  const tile_buffer *b = &k->e->program->buffers[op->ref];
  if (op->index >= 0 && b->output < 0) return indexed_row(k, op, r);
  const char *at = CU("at%d + (i64)(%s) * %" PRId64, index, cu_local_row(k, r), b->stride);
  return op->group_step ? CU("%s + %s * %" PRId64, at, member_of(k, r), op->group_step) : at;
}

/* ---- elements */

static const char *element_of_load(cu_kind *k, int index, const char *r, const char *c) {
  if (k->staged[index]) return CU("(x%d + (i64)(%s) * x%d_stride)[%s]", index, cu_local_row(k, r), index, c);
  return CU("(%s)[%s]", cu_buffer_row(k, index, r), c);
}

static const char *masked(cu_kind *k, const char *condition, const char *x) {
  return CU("%s ? %s : -INFINITE", condition, x);
}

static const char *own_position(cu_kind *k, const char *r) {
  return index_of(k, CU("step.positions[%s]", cu_token(k, r)));
}

static const char *element_of_window(cu_kind *k, const tile_op *op, const char *r, const char *c, const char *x) {
  const char *own = own_position(k, r), *width = index_of(k, CU("(int)%s", cu_pull(k, op->operands[1], "0", "0")));
  const char *inside =
      op->part ? CU("chunk * 64 + %s < %s + %s", c, own, width) : CU("chunk * 64 + %s > %s - %s", c, own, width);
  return masked(k, inside, x);
}

static const char *element_of_rotate(cu_kind *k, const tile_op *op, const char *r, const char *c) {
  int64_t dim = op->dim, half = dim / 2;
  const char *angle = index_of(k, CU("%s %% %" PRId64, c, half)),
             *first = index_of(k, CU("%s %% %" PRId64 " < %" PRId64, c, dim, half));
  const char *other = index_of(k, CU("%s ? %s + %" PRId64 " : %s - %" PRId64, first, c, half, c, half));
  const char *sines = index_of(k, CU("%s + %" PRId64, angle, half));
  const char *x = cu_pull_operand(k, op, 0, r, c), *pair = cu_pull_operand(k, op, 0, r, other);
  const char *cosine = cu_pull(k, op->operands[1], r, angle), *sine = cu_pull(k, op->operands[1], r, sines);
  return CU("%s ? SUB(MUL(%s, %s), MUL(%s, %s%s)) : ADD(MUL(%s, %s), MUL(%s, %s%s))", first, x, cosine, pair,
            op->part ? "-" : "", sine, x, cosine, pair, op->part ? "-" : "", sine);
}

static const char *element_of_concat(cu_kind *k, const tile_op *op, const char *r, const char *c) {
  const tile_op *x = &k->kind->ops[op->operands[0]], *y = &k->kind->ops[op->operands[1]];
  int64_t a = op->dim, b = y->cols / (x->cols / a);
  const char *head = index_of(k, CU("%s / %" PRId64, c, a + b)), *e = index_of(k, CU("%s %% %" PRId64, c, a + b));
  const char *left = index_of(k, CU("%s * %" PRId64 " + (%s < %" PRId64 " ? %s : 0)", head, a, e, a, e));
  const char *right =
      index_of(k, CU("%s * %" PRId64 " + (%s < %" PRId64 " ? 0 : %s - %" PRId64 ")", head, b, e, a, e, a));
  const char *from_x = cu_pull(k, op->operands[0], r, left), *from_y = cu_pull(k, op->operands[1], r, right);
  return CU("%s < %" PRId64 " ? %s : %s", e, a, from_x, from_y);
}

static const char *element_at(cu_kind *k, const tile_op *op, const char *r) {
  const tile_op *x = &k->kind->ops[op->operands[0]];
  const char *number = cu_pull(k, op->operands[1], r, "0");
  const char *inside = index_of(k, CU("%s >= 0.0f && %s < (float)%d", number, number, x->cols));
  const char *column = index_of(k, CU("%s ? (int)%s : 0", inside, number));
  return CU("%s ? %s : 0.0f", inside, cu_pull(k, op->operands[0], r, column));
}

static const char *element_of_take(cu_kind *k, const tile_op *op, const char *r, const char *c) {
  int64_t n = k->kind->ops[op->operands[0]].cols / (op->cols / op->dim);
  const char *id = cu_pull_operand(k, op, 1, r, c);
  return cu_pull(k, op->operands[0], r, index_of(k, CU("%s / %" PRId64 " * %" PRId64 " + (int)%s", c, op->dim, n, id)));
}

static const char *element_of_scalar(cu_kind *k, const tile_op *op, const char *r, const char *c) {
  const char *name = tile_opcode_name(op->code), *x = cu_pull_operand(k, op, 0, r, c);
  if (tile_scalar_arity(op->code) == 1) return CU("scalar_%s(%s)", name, x);
  return CU("scalar_%s(%s, %s)", name, x, cu_pull_operand(k, op, 1, r, c));
}

static const char *element_of_random(cu_kind *k, const tile_op *op, const char *c) {
  const char *key = cu_pull(k, op->operands[0], "0", "0"), *key2 = cu_pull(k, op->operands[1], "0", "0");
  return CU("random_number((u32)(col * %d + %s), (u32)(%d + row), %s, %s)", k->kind->col_tile, c,
            k->e->program->weights[op->ref].first_slot, key, key2);
}

static const char *element_of_noise(cu_kind *k, const tile_op *op, const char *r, const char *c) {
  const char *row = index_of(k, cu_token(k, r));
  return CU("noise((u32)(%s + %s), (u32)step.inputs[%d][%s], (u32)step.inputs[%d][%s], (u32)step.inputs[%d][%s])",
            cu_column(k, op, r), c, op->part, row, op->ref, row, op->index, row);
}

static const char *element(cu_kind *k, int index, const char *r, const char *c) {
  const tile_op *op = &k->kind->ops[index];
  switch (op->code) {
  case TILE_constant: return cu_float(k->e->arena, op->imm);
  case TILE_every: return CU("layer %% %" PRId64 " == %d ? 1.0f : 0.0f", op->dim, op->part);
  case TILE_table: return CU("table_%d_%d[%s]", k->index, index, c);
  case TILE_load: return element_of_load(k, index, r, c);
  case TILE_vector: return CU("%c%d[%s]", k->staged[index] ? 'x' : 'w', index, c);
  case TILE_parameter:
    return CU(tile_state_type(&k->e->program->weights[op->ref], (tile_state)op->part) == IR_bf16
                  ? "f32_of_bf16(s%d[%s])"
                  : "s%d[%s]",
              index, c);
  case TILE_random: return element_of_random(k, op, c);
  case TILE_round_random:
    return CU("round_random(%s, %s)", cu_pull_operand(k, op, 0, r, c), cu_pull_operand(k, op, 1, r, c));
  case TILE_embed: return cu_embed_element(k, index, r, c);
  case TILE_input:
    return CU(op->part ? "f32_of_bits((u32)step.inputs[%d][%s])" : "(float)step.inputs[%d][%s]", op->ref,
              cu_token(k, r));
  case TILE_noise: return element_of_noise(k, op, r, c);
  case TILE_hot:
    return CU("%s == (float)(%s + %s) ? 1.0f : 0.0f", cu_pull(k, op->operands[0], r, "0"), cu_column(k, op, r), c);
  case TILE_at: return element_at(k, op, r);
  case TILE_take: return element_of_take(k, op, r, c);
  case TILE_pick:
    return cu_pull(k, op->operands[0], r,
                   index_of(k, CU("%" PRId64 " + %s / %" PRId64 " * %" PRId64 " + %s %% %" PRId64 " * %" PRId64,
                                  op->col_base, c, op->dim, op->outer, c, op->dim, op->inner)));
  case TILE_concat: return element_of_concat(k, op, r, c);
  case TILE_rotate: return element_of_rotate(k, op, r, c);
  case TILE_causal:
    return masked(k, CU("chunk * 64 + %s <= %s", c, own_position(k, r)), cu_pull_operand(k, op, 0, r, c));
  case TILE_known: return masked(k, CU("chunk * 64 + %s < step.segment_end[row]", c), cu_pull_operand(k, op, 0, r, c));
  case TILE_seen_by:
    return masked(k, CU("chunk * 64 + %s >= %s && chunk * 64 + %s < step.segment_end[row]", c, own_position(k, r), c),
                  cu_pull_operand(k, op, 0, r, c));
  case TILE_window: return element_of_window(k, op, r, c, cu_pull_operand(k, op, 0, r, c));
  case TILE_keys_row: return CU("((const float *)(%s))[%" PRId64 " + %s]", cu_keys(k, op, 0), op->dim * TILE_CHUNK, c);
  default:
    if (tile_scalar_arity(op->code)) return element_of_scalar(k, op, r, c);
    cu_refuse(k->e, "code for one element of it", op);
    return "0.0f";
  }
}

const char *cu_pull(cu_kind *k, int index, const char *r, const char *c) {
  const tile_op *op = &k->kind->ops[index];
  if (op->one_row) r = "0";
  if (op->cols == 1) c = "0";
  const char *known = find(k, index, r, c);
  if (known) return known;
  const char *value =
      k->placed[index] ? CU("v%d[%s * %" PRId64 " + %s]", index, r, k->stride[index], c) : element(k, index, r, c);
  if (!strpbrk(value, " [(")) return note(k, index, r, c, value); /* a literal, or another op's name */
  const char *name = CU("x%d_%d", index, k->scalar_count++);
  cu_line(k->e, "const float %s = %s;", name, value);
  return note(k, index, r, c, name);
}

const char *cu_pull_operand(cu_kind *k, const tile_op *op, int which, const char *r, const char *c) {
  const tile_op *x = &k->kind->ops[op->operands[which]];
  if (x->cols != op->cols && x->cols != 1) c = index_of(k, CU("%s * %d / %d", c, x->cols, op->cols));
  return cu_pull(k, op->operands[which], r, c);
}
