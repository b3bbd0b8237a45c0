/* passes/gradient_rules.c: the gradient rule of each op: given the gradient dy of its result, ordinary ops that give those
 * of its operands. One function per gradient token of ops.def, and the table over ops made of the tokens, so that an op
 * whose rule is missing does not link. */
#include "passes/gradient.h"

#include <math.h>
#include <string.h>

/* ---- words the rules are written in ----------------------------------------------------------------------------------- */

static ir_value *emit(gradient_state *g, ir_opcode code, ir_value *const *operands, int count, const ir_attr *attrs, int attr_count) {
  ir_op *op = gradient_emit(g, code, operands, count, attrs, attr_count);
  return op ? op->results[0] : operands[0];
}

static ir_value *unary(gradient_state *g, ir_opcode code, ir_value *x) { return emit(g, code, &x, 1, NULL, 0); }

static ir_value *binary(gradient_state *g, ir_opcode code, ir_value *x, ir_value *y) {
  ir_value *operands[] = {x, y};
  return emit(g, code, operands, 2, NULL, 0);
}

static ir_value *number(gradient_state *g, double value) {
  ir_attr attr = ir_attr_f("value", value);
  ir_op *op = gradient_emit(g, IR_OP_constant, NULL, 0, &attr, 1);
  return op->results[0];
}

static ir_value *add(gradient_state *g, ir_value *x, ir_value *y) { return binary(g, IR_OP_add, x, y); }
static ir_value *sub(gradient_state *g, ir_value *x, ir_value *y) { return binary(g, IR_OP_sub, x, y); }
static ir_value *mul(gradient_state *g, ir_value *x, ir_value *y) { return binary(g, IR_OP_mul, x, y); }
static ir_value *divided(gradient_state *g, ir_value *x, ir_value *y) { return binary(g, IR_OP_div, x, y); }
static ir_value *scaled(gradient_state *g, ir_value *x, double by) { return mul(g, x, number(g, by)); }

static ir_value *to_type(gradient_state *g, ir_opcode code, ir_value *x, const ir_type *type) {
  if (ir_type_equal(&x->type, type)) return x;
  ir_attr to = ir_attr_d("to", type);
  return emit(g, code, &x, 1, &to, 1);
}

/* With all elements of the result. */
static ir_value *whole(gradient_state *g, ir_value *dy, const ir_type *type) { return to_type(g, IR_OP_broadcast, dy, type); }
static ir_value *reshaped(gradient_state *g, ir_value *x, const ir_type *type) { return to_type(g, IR_OP_reshape, x, type); }

static double last_dim(const ir_value *x) { return (double)x->type.dims[x->type.rank - 1].add; }

/* The sum over the last dimension, in the mean's place. */
static ir_value *mean(gradient_state *g, ir_value *x) {
  return divided(g, unary(g, IR_OP_reduce_sum, x), number(g, last_dim(x)));
}

/* An operand that the rule gives a gradient to; a part that is never used is left to dce. */
static void give(gradient_state *g, const ir_op *op, int i, ir_value *part) { gradient_add(g, op->operands[i], part); }
static bool wants(gradient_state *g, const ir_op *op, int i) { return gradient_needed(g, op->operands[i]); }

/* The same where the operand may have been repeated to the result's size: then every element of the part counts. */
static void give_repeated(gradient_state *g, const ir_op *op, int i, ir_value *part) {
  const ir_type *type = &op->results[0]->type;
  bool repeated = !ir_type_equal(&op->operands[i]->type, type);
  give(g, op, i, repeated && type->rank && type->dims[0].symbol ? whole(g, part, type) : part);
}

static void unknown(gradient_state *g, const char *what) {
  gradient_fail(g, dp_fail(DP_UNSUPPORTED, "the gradient of %s is not known yet", what));
}

/* ---- elementwise -------------------------------------------------------------------------------------------------------- */

static void gradient_rule_zero(gradient_state *g, const ir_op *op, ir_value *dy) { (void)g, (void)op, (void)dy; }

static void gradient_rule_refuse(gradient_state *g, const ir_op *op, ir_value *dy) {
  (void)dy;
  unknown(g, dp_arena_printf(g->arena, "op %s", ir_op_info_of(op->code)->name));
}

/* By an op of the host too: of the operands, and the gradient of the result. */
static void gradient_by_host(gradient_state *g, const ir_op *op, int i, ir_value *dy, const char *name) {
  ir_value **operands = DP_NEW_ARRAY(g->arena, ir_value *, op->operand_count + 1);
  for (int at = 0; at < op->operand_count; at++) operands[at] = op->operands[at];
  operands[op->operand_count] = dy;
  const ir_attr attrs[] = {ir_attr_s("name", name), ir_attr_d("to", &op->operands[i]->type)};
  give(g, op, i, emit(g, IR_OP_host, operands, op->operand_count + 1, attrs, 2));
}

static void gradient_rule_host(gradient_state *g, const ir_op *op, ir_value *dy) {
  const char *names = ir_get_string(op, "gradients", NULL);
  if (!names) {
    unknown(g, dp_arena_printf(g->arena, "the host's op '%s'", ir_get_string(op, "name", "")));
    return;
  }
  dy = whole(g, dy, &op->results[0]->type);
  for (int i = 0; i < op->operand_count; i++) {
    size_t length = strcspn(names, ",");
    const char *name = dp_arena_strndup(g->module->arena, names, length);
    if (length && wants(g, op, i)) gradient_by_host(g, op, i, dy, name);
    names += length + (names[length] == ',');
  }
}

static void gradient_rule_neg(gradient_state *g, const ir_op *op, ir_value *dy) { give(g, op, 0, unary(g, IR_OP_neg, dy)); }

static void gradient_rule_exp(gradient_state *g, const ir_op *op, ir_value *dy) { give(g, op, 0, mul(g, dy, op->results[0])); }

static void gradient_rule_log(gradient_state *g, const ir_op *op, ir_value *dy) {
  give(g, op, 0, divided(g, dy, op->operands[0]));
}

static void gradient_rule_sqrt(gradient_state *g, const ir_op *op, ir_value *dy) {
  give(g, op, 0, divided(g, scaled(g, dy, 0.5), op->results[0]));
}

/* y = x^-1/2: -y^3 / 2 */
static void gradient_rule_rsqrt(gradient_state *g, const ir_op *op, ir_value *dy) {
  ir_value *y = op->results[0];
  give(g, op, 0, mul(g, scaled(g, dy, -0.5), mul(g, mul(g, y, y), y)));
}

static void gradient_rule_sigmoid(gradient_state *g, const ir_op *op, ir_value *dy) {
  ir_value *y = op->results[0];
  give(g, op, 0, mul(g, dy, mul(g, y, sub(g, number(g, 1), y))));
}

static void gradient_rule_tanh(gradient_state *g, const ir_op *op, ir_value *dy) {
  ir_value *y = op->results[0];
  give(g, op, 0, mul(g, dy, sub(g, number(g, 1), mul(g, y, y))));
}

/* y = x s, s = sigmoid(x): s + y (1 - s) */
static void gradient_rule_silu(gradient_state *g, const ir_op *op, ir_value *dy) {
  ir_value *x = op->operands[0], *s = unary(g, IR_OP_sigmoid, x);
  give(g, op, 0, mul(g, dy, add(g, s, mul(g, mul(g, x, s), sub(g, number(g, 1), s)))));
}

/* t = tanh(u), u = a (x + b x^3): (1 + t) / 2 + x (1 - t^2) a (1 + 3 b x^2) / 2 */
static void gradient_rule_gelu_tanh(gradient_state *g, const ir_op *op, ir_value *dy) {
  const double a = 0.79788456080286535588, b = 0.044715;
  ir_value *x = op->operands[0], *square = mul(g, x, x), *one = number(g, 1);
  ir_value *u = mul(g, x, add(g, number(g, a), scaled(g, square, a * b)));
  ir_value *t = unary(g, IR_OP_tanh, u);
  ir_value *steep = mul(g, sub(g, one, mul(g, t, t)), add(g, number(g, a / 2), scaled(g, square, 1.5 * a * b)));
  give(g, op, 0, mul(g, dy, add(g, scaled(g, add(g, one, t), 0.5), mul(g, x, steep))));
}

/* The normal distribution's integral + x times its density. */
static void gradient_rule_gelu(gradient_state *g, const ir_op *op, ir_value *dy) {
  ir_value *x = op->operands[0];
  ir_value *integral = scaled(g, add(g, number(g, 1), unary(g, IR_OP_erf, scaled(g, x, sqrt(0.5)))), 0.5);
  ir_value *density = scaled(g, unary(g, IR_OP_exp, scaled(g, mul(g, x, x), -0.5)), 0.39894228040143267794);
  give(g, op, 0, mul(g, dy, add(g, integral, mul(g, x, density))));
}

static void gradient_rule_erf(gradient_state *g, const ir_op *op, ir_value *dy) {
  ir_value *x = op->operands[0], *bell = unary(g, IR_OP_exp, unary(g, IR_OP_neg, mul(g, x, x)));
  give(g, op, 0, mul(g, dy, scaled(g, bell, 1.12837916709551257390)));
}

static void gradient_rule_relu(gradient_state *g, const ir_op *op, ir_value *dy) {
  give(g, op, 0, mul(g, dy, unary(g, IR_OP_positive, op->operands[0])));
}

static void gradient_rule_add(gradient_state *g, const ir_op *op, ir_value *dy) {
  if (wants(g, op, 0)) give_repeated(g, op, 0, dy);
  if (wants(g, op, 1)) give_repeated(g, op, 1, dy);
}

static void gradient_rule_sub(gradient_state *g, const ir_op *op, ir_value *dy) {
  if (wants(g, op, 0)) give_repeated(g, op, 0, dy);
  if (wants(g, op, 1)) give_repeated(g, op, 1, unary(g, IR_OP_neg, dy));
}

static void gradient_rule_mul(gradient_state *g, const ir_op *op, ir_value *dy) {
  if (wants(g, op, 0)) give_repeated(g, op, 0, mul(g, dy, op->operands[1]));
  if (wants(g, op, 1)) give_repeated(g, op, 1, mul(g, dy, op->operands[0]));
}

static void gradient_rule_div(gradient_state *g, const ir_op *op, ir_value *dy) {
  ir_value *part = divided(g, dy, op->operands[1]);
  if (wants(g, op, 0)) give_repeated(g, op, 0, part);
  if (wants(g, op, 1)) give_repeated(g, op, 1, unary(g, IR_OP_neg, mul(g, part, op->results[0])));
}

/* To y where it was taken: where it is larger. */
static void to_one_of_two(gradient_state *g, const ir_op *op, ir_value *dy, ir_value *larger) {
  ir_value *second = unary(g, IR_OP_positive, larger);
  if (wants(g, op, 0)) give_repeated(g, op, 0, mul(g, dy, sub(g, number(g, 1), second)));
  if (wants(g, op, 1)) give_repeated(g, op, 1, mul(g, dy, second));
}

static void gradient_rule_max(gradient_state *g, const ir_op *op, ir_value *dy) {
  to_one_of_two(g, op, dy, sub(g, op->operands[1], op->operands[0]));
}

static void gradient_rule_min(gradient_state *g, const ir_op *op, ir_value *dy) {
  to_one_of_two(g, op, dy, sub(g, op->operands[0], op->operands[1]));
}

static void gradient_rule_broadcast(gradient_state *g, const ir_op *op, ir_value *dy) { give_repeated(g, op, 0, dy); }

/* ---- layout ----------------------------------------------------------------------------------------------------------------- */

static void gradient_rule_reshape(gradient_state *g, const ir_op *op, ir_value *dy) {
  give(g, op, 0, reshaped(g, whole(g, dy, &op->results[0]->type), &op->operands[0]->type));
}

/* dy, with columns of zeros before and after. */
static void gradient_rule_slice(gradient_state *g, const ir_op *op, ir_value *dy) {
  int64_t first = ir_get_int(op, "first", 0), count = ir_get_int(op, "count", 0);
  int64_t around[] = {first, (int64_t)last_dim(op->operands[0]) - first - count};
  dy = whole(g, dy, &op->results[0]->type);
  for (int side = 0; side < 2; side++) {
    if (!around[side]) continue;
    ir_type type = dy->type;
    type.dims[type.rank - 1] = ir_static_dim(around[side], NULL);
    ir_value *zeros = whole(g, number(g, 0), &type);
    dy = side ? binary(g, IR_OP_concat, dy, zeros) : binary(g, IR_OP_concat, zeros, dy);
  }
  give(g, op, 0, dy);
}

static void gradient_rule_take(gradient_state *g, const ir_op *op, ir_value *dy) {
  ir_value *operands[] = {whole(g, dy, &op->results[0]->type), op->operands[1]};
  ir_attr count = ir_attr_i("count", (int64_t)last_dim(op->operands[0]));
  give(g, op, 0, emit(g, IR_OP_place, operands, 2, &count, 1));
}

static void gradient_rule_place(gradient_state *g, const ir_op *op, ir_value *dy) {
  give(g, op, 0, binary(g, IR_OP_take, whole(g, dy, &op->results[0]->type), op->operands[1]));
}

static void gradient_rule_concat(gradient_state *g, const ir_op *op, ir_value *dy) {
  dy = whole(g, dy, &op->results[0]->type);
  int64_t first = 0;
  for (int i = 0; i < 2; i++) {
    int64_t count = (int64_t)last_dim(op->operands[i]);
    ir_attr attrs[] = {ir_attr_i("first", first), ir_attr_i("count", count)};
    if (wants(g, op, i)) give(g, op, i, emit(g, IR_OP_slice, &dy, 1, attrs, 2));
    first += count;
  }
}

static void gradient_rule_gather(gradient_state *g, const ir_op *op, ir_value *dy) {
  const ir_op *weight = gradient_weight(op->operands[0]);
  if (!weight || weight->results[0] != op->operands[0]) {
    unknown(g, "a gather from anything but the rows of a weight");
    return;
  }
  if (!wants(g, op, 0)) return;
  ir_value *operands[] = {whole(g, dy, &op->results[0]->type), op->operands[1]};
  ir_attr name = ir_attr_s("weight", ir_get_string(weight, "name", ""));
  gradient_emit(g, IR_OP_accumulate_rows, operands, 2, &name, 1);
}

/* ---- reductions, norms ------------------------------------------------------------------------------------------------------ */

static void gradient_rule_reduce_sum(gradient_state *g, const ir_op *op, ir_value *dy) { give(g, op, 0, dy); }

/* In equal parts to all that are the maximum. */
static void gradient_rule_reduce_max(gradient_state *g, const ir_op *op, ir_value *dy) {
  ir_value *less = unary(g, IR_OP_positive, sub(g, op->results[0], op->operands[0]));
  ir_value *greatest = sub(g, number(g, 1), less);
  give(g, op, 0, mul(g, greatest, divided(g, dy, unary(g, IR_OP_reduce_sum, greatest))));
}

static void gradient_rule_log_sum_exp(gradient_state *g, const ir_op *op, ir_value *dy) {
  ir_value *x = op->operands[0];
  give(g, op, 0, mul(g, unary(g, IR_OP_exp, sub(g, x, op->results[0])), dy));
}

static void gradient_rule_element(gradient_state *g, const ir_op *op, ir_value *dy) {
  ir_attr count = ir_attr_i("count", (int64_t)last_dim(op->operands[0]));
  ir_value *ids = op->operands[1];
  give(g, op, 0, mul(g, emit(g, IR_OP_one_hot, &ids, 1, &count, 1), dy));
}

static void gradient_rule_softmax(gradient_state *g, const ir_op *op, ir_value *dy) {
  ir_value *y = op->results[0];
  ir_value *inner = unary(g, IR_OP_reduce_sum, whole(g, mul(g, dy, y), &y->type));
  give(g, op, 0, mul(g, y, sub(g, dy, inner)));
}

/* 1 / sqrt(mean(x^2) + eps) */
static ir_value *inverse_size(gradient_state *g, const ir_op *op, ir_value *x) {
  return unary(g, IR_OP_rsqrt, add(g, mean(g, mul(g, x, x)), number(g, ir_get_float(op, "eps", 0))));
}

/* y = n w, n = x r: dn = dy w, dx = r (dn - n mean(dn n)) */
static void gradient_rule_rms_norm(gradient_state *g, const ir_op *op, ir_value *dy) {
  ir_value *x = op->operands[0], *r = inverse_size(g, op, x), *n = mul(g, x, r);
  dy = whole(g, dy, &x->type);
  if (wants(g, op, 1)) give(g, op, 1, mul(g, dy, n));
  if (!wants(g, op, 0)) return;
  ir_value *dn = mul(g, dy, op->operands[1]);
  give(g, op, 0, mul(g, r, sub(g, dn, mul(g, n, mean(g, mul(g, dn, n))))));
}

/* The same of x - mean(x), and the mean of it taken away. */
static void gradient_rule_layer_norm(gradient_state *g, const ir_op *op, ir_value *dy) {
  ir_value *x = op->operands[0], *c = sub(g, x, mean(g, x)), *r = inverse_size(g, op, c), *n = mul(g, c, r);
  dy = whole(g, dy, &x->type);
  if (wants(g, op, 1)) give(g, op, 1, mul(g, dy, n));
  if (wants(g, op, 2)) give(g, op, 2, dy);
  if (!wants(g, op, 0)) return;
  ir_value *dn = mul(g, dy, op->operands[1]);
  give(g, op, 0, mul(g, r, sub(g, sub(g, dn, mean(g, dn)), mul(g, n, mean(g, mul(g, dn, n))))));
}

/* ---- products ----------------------------------------------------------------------------------------------------------------- */

/* The same product of dy with the matrices the other way round. */
static ir_value *product_back(gradient_state *g, const ir_op *op, ir_value *dy) {
  ir_value *operands[] = {dy, op->operands[1], op->operand_count > 2 ? op->operands[2] : NULL};
  ir_attr other = ir_attr_i("transposed", !ir_get_int(op, "transposed", 0));
  return emit(g, op->code, operands, op->operand_count, &other, 1);
}

/* Adds to the gradient of the product's weight w[.., n, k], or w[.., k, n]. */
static void accumulate_product(gradient_state *g, const ir_op *op, ir_value *dy) {
  ir_value *x = op->operands[0], *w = op->operands[1], *operands[4];
  int64_t transposed = ir_get_int(op, "transposed", 0);
  bool experts = op->code == IR_OP_expert_matmul;
  int count = 0;
  operands[count++] = transposed ? dy : x;
  operands[count++] = transposed ? x : dy;
  if (experts) operands[count++] = op->operands[2];
  if (w->def->code == IR_OP_select) operands[count++] = w->def->operands[1];
  ir_attr name = ir_attr_s("weight", ir_get_string(gradient_weight(w), "name", ""));
  gradient_emit(g, experts ? IR_OP_accumulate_experts : IR_OP_accumulate_product, operands, count, &name, 1);
}

static bool multiplies_weight(gradient_state *g, const ir_op *op) {
  if (gradient_weight(op->operands[1])) return true;
  unknown(g, "a product with anything but a weight");
  return false;
}

static void gradient_rule_matmul(gradient_state *g, const ir_op *op, ir_value *dy) {
  if (!multiplies_weight(g, op)) return;
  dy = whole(g, dy, &op->results[0]->type);
  if (wants(g, op, 0)) give(g, op, 0, product_back(g, op, dy));
  if (wants(g, op, 1)) accumulate_product(g, op, dy);
}

static void gradient_rule_head_matmul(gradient_state *g, const ir_op *op, ir_value *dy) {
  gradient_rule_matmul(g, op, dy);
}

/* Where all choices have one x, their gradients are added up, the first choice's first. */
static void gradient_rule_expert_matmul(gradient_state *g, const ir_op *op, ir_value *dy) {
  if (!multiplies_weight(g, op)) return;
  dy = whole(g, dy, &op->results[0]->type);
  if (wants(g, op, 0)) {
    ir_value *dx = product_back(g, op, dy);
    ir_type ones = op->operands[2]->type;
    ones.dtype = IR_f32;
    if (op->operands[0]->type.rank == 2) dx = binary(g, IR_OP_mix, whole(g, number(g, 1), &ones), dx);
    give(g, op, 0, dx);
  }
  if (wants(g, op, 1)) accumulate_product(g, op, dy);
}

/* weights[T,u], x[T,u,d] -> sum of weights[u] x[u] */
static void gradient_rule_mix(gradient_state *g, const ir_op *op, ir_value *dy) {
  ir_value *weights = op->operands[0], *x = op->operands[1];
  ir_type one = x->type, column = x->type;
  one.dims[1] = ir_static_dim(1, NULL);
  column.dims[2] = ir_static_dim(1, NULL);
  ir_value *each = reshaped(g, whole(g, dy, &op->results[0]->type), &one);
  if (wants(g, op, 1)) give(g, op, 1, mul(g, reshaped(g, weights, &column), each));
  if (wants(g, op, 0)) give(g, op, 0, reshaped(g, unary(g, IR_OP_reduce_sum, mul(g, x, each)), &weights->type));
}

/* ---- positions, attention ----------------------------------------------------------------------------------------------------- */

static void gradient_rule_rotate(gradient_state *g, const ir_op *op, ir_value *dy) {
  if (wants(g, op, 1)) unknown(g, "the angles of a rotate");
  ir_value *operands[] = {whole(g, dy, &op->results[0]->type), op->operands[1]};
  ir_attr inverse = ir_attr_i("inverse", !ir_get_int(op, "inverse", 0));
  give(g, op, 0, emit(g, IR_OP_rotate, operands, 2, &inverse, 1));
}

/* What a later op of the same layer reads as a cache: it has one place for all layers, and all that have its shape. */
static ir_value *kept(gradient_state *g, const ir_op *attend, ir_value *x, const char *name, int part) {
  ir_value *operands[] = {x, g->layer};
  const ir_type *q = &attend->operands[0]->type, *v = &attend->operands[2]->type;
  const char *cache = dp_arena_printf(g->module->arena, "%s.%d.%d.%d.%d", name, (int)q->dims[1].add,
                                      (int)q->dims[2].add, (int)v->dims[1].add, (int)v->dims[2].add);
  ir_attr attrs[] = {ir_attr_s("cache", cache), ir_attr_i("part", part), ir_attr_i("shared", 1)};
  return emit(g, IR_OP_append, operands, 2, attrs, 3);
}

/* o = p v, p = e^(s - sums), s = q k^T scale: with shift = sum(do o) ds = p (do v^T - shift)  (Dao, 2023, algorithm 2). */
static void gradient_rule_attend(gradient_state *g, const ir_op *op, ir_value *dy) {
  ir_value *q = op->operands[0], *keys = op->operands[1], *values = op->operands[2];
  ir_value *k = gradient_of(g, keys)->rows, *v = gradient_of(g, values)->rows;
  bool windowed = op->operand_count > 3;
  if (op->result_count < 2 || !k || !v || !g->layer) {
    unknown(g, "attend over a cache that is not appended to in the same loop");
    return;
  }
  if (gradient_of(g, op->results[1])->gradient || (windowed && wants(g, op, 3))) {
    unknown(g, "the sums or the window of attend");
    return;
  }
  ir_value *o = op->results[0], *sums = op->results[1];
  dy = whole(g, dy, &o->type);
  ir_value *shift = unary(g, IR_OP_reduce_sum, mul(g, dy, o));
  ir_attr attrs[] = {ir_attr_f("scale", ir_get_float(op, "scale", 1)),
                     ir_attr_i("causal", ir_get_int(op, "causal", 0))};
  ir_value *window = windowed ? op->operands[3] : NULL;
  int operand_count = windowed ? 8 : 7;
  ir_value *v_keys = kept(g, op, v, "attend.back", 0), *k_values = kept(g, op, k, "attend.back", 1);
  ir_value *rows[] = {q, keys, dy, v_keys, k_values, sums, shift, window};
  give(g, op, 0, emit(g, IR_OP_attend_rows, rows, operand_count, attrs, 2));
  ir_value *q_keys = kept(g, op, q, "attend.queries", 0), *d_values = kept(g, op, dy, "attend.queries", 1);
  ir_value *d_keys = kept(g, op, dy, "attend.results", 0), *q_values = kept(g, op, q, "attend.results", 1);
  ir_value *stats = kept(g, op, binary(g, IR_OP_concat, sums, shift), "attend.sums", 0);
  ir_value *columns[] = {k, v, q_keys, d_values, d_keys, q_values, stats, window};
  ir_op *made = gradient_emit(g, IR_OP_attend_columns, columns, operand_count, attrs, 2);
  if (!made) return;
  gradient_add(g, k, made->results[0]);
  gradient_add(g, v, made->results[1]);
}

/* ---- the table ---------------------------------------------------------------------------------------------------------------- */

static ps_gradient_rule *const rules[] = {
#define IR_OP(name, operands, attrs, shape, gradient, tile, traits, doc) gradient_rule_##gradient,
#include "ir/ops.def"
#undef IR_OP
};

ps_gradient_rule *ps_gradient_rule_of(ir_opcode code) { return rules[code]; }
bool ps_gradient_is_zero(ir_opcode code) { return rules[code] == gradient_rule_zero; }
