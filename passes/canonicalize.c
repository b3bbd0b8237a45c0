/* passes/canonicalize.c: one form for what can be said in several, so that later passes look for one only: rope as
 * rope_angles and rotate; what does not change from layer to layer before the loop; operands of commuting ops in order
 * of definition, constants last; neg of neg, reshape of reshape and x * 1 gone. x + 0 stays: for x = -0 it is +0. What
 * loses its last use here is left to dce. */
#include "passes/passes.h"

/* ---- simpler forms ----------------------------------------------------------------------------------------------- */

static bool defined_by(const ir_value *value, ir_opcode code) { return value->def && value->def->code == code; }

/* rope(x[T, heads, hd], pos) -> rotate(x, rope_angles(pos)): the angles are the same for all heads and layers. */
static dp_status split_rope(ir_op *op, ir_value **simpler) {
  ir_value *x = op->operands[0];
  ir_attr attrs[16] = {ir_attr_i("dim", x->type.dims[2].add)};
  int count = 1;
  for (int i = 0; i < op->attr_count && count < (int)DP_COUNT(attrs); i++) attrs[count++] = op->attrs[i];
  ir_op *angles = ir_emit(op->parent, op, IR_OP_rope_angles, &op->operands[1], op->operand_count - 1, attrs, count, NULL,
                          op->loc, NULL);
  DP_CHECK(angles, "canonicalize: rope_angles of a rope");
  angles->results[0]->name = "angles";
  ir_value *operands[] = {x, angles->results[0]};
  ir_op *rotate = ir_emit(op->parent, op, IR_OP_rotate, operands, 2, NULL, 0, NULL, op->loc, NULL);
  DP_CHECK(rotate, "canonicalize: rotate of a rope");
  *simpler = rotate->results[0];
  return DP_SUCCESS;
}

static dp_status join_reshapes(ir_op *op, ir_value **simpler) {
  ir_value *x = op->operands[0];
  if (defined_by(x, IR_OP_reshape)) op->operands[0] = x = x->def->operands[0];
  if (ir_type_equal(&x->type, &op->results[0]->type)) *simpler = x;
  return DP_SUCCESS;
}

static bool is_one(const ir_value *value) {
  return defined_by(value, IR_OP_constant) && (float)ir_get_float(value->def, "value", 0) == 1.0f;
}

/* The value that `op` may be replaced by, or none. */
static dp_status simplify(ir_op *op, ir_value **simpler) {
  ir_value *x = op->operand_count ? op->operands[0] : NULL;
  switch (op->code) {
  case IR_OP_rope:
    return split_rope(op, simpler);
  case IR_OP_reshape:
    return join_reshapes(op, simpler);
  case IR_OP_neg:
    if (defined_by(x, IR_OP_neg)) *simpler = x->def->operands[0];
    return DP_SUCCESS;
  case IR_OP_mul:
    for (int i = 0; i < 2 && !*simpler; i++)
      if (is_one(op->operands[1 - i]) && ir_type_equal(&op->operands[i]->type, &op->results[0]->type))
        *simpler = op->operands[i];
    return DP_SUCCESS;
  default:
    return DP_SUCCESS;
  }
}

static dp_status simplify_block(ir_graph *graph, ir_block *block) {
  for (ir_op *op = block->first, *next; op; op = next) {
    next = op->next;
    if (op->body) DP_TRY(simplify_block(graph, op->body));
    ir_value *simpler = NULL;
    DP_TRY(simplify(op, &simpler));
    if (!simpler) continue;
    if (simpler->def && !simpler->name) simpler->name = op->results[0]->name;
    ir_replace_uses(graph->block, op->results[0], simpler);
    ir_unlink(op);
  }
  return DP_SUCCESS;
}

/* ---- invariants out of loops ------------------------------------------------------------------------------------- */

static bool defined_in(const ir_value *value, const ir_block *block) {
  return (value->def ? value->def->parent : value->block) == block;
}

static bool is_invariant(const ir_op *op) {
  if (!(ir_op_info_of(op->code)->traits & IR_PURE)) return false;
  for (int i = 0; i < op->operand_count; i++)
    if (defined_in(op->operands[i], op->parent)) return false;
  return true;
}

/* Inner loops first, so that what leaves them may leave the outer ones too. A layer's weight stays by itself: it is a
 * select by the layer index, which the body defines. */
static void hoist(ir_block *block) {
  for (ir_op *op = block->first; op; op = op->next) {
    if (!op->body) continue;
    hoist(op->body);
    if (op->code != IR_OP_loop) continue;
    for (ir_op *inner = op->body->first, *next; inner; inner = next) {
      next = inner->next;
      if (!is_invariant(inner)) continue;
      ir_unlink(inner);
      ir_insert(block, op, inner);
    }
  }
}

/* ---- operands in order ------------------------------------------------------------------------------------------- */

static void number_values(ir_block *block, int *count) {
  for (int i = 0; i < block->arg_count; i++) block->args[i]->id = ++*count;
  for (ir_op *op = block->first; op; op = op->next) {
    if (op->body) number_values(op->body, count);
    for (int i = 0; i < op->result_count; i++) op->results[i]->id = ++*count;
  }
}

static bool comes_first(const ir_value *a, const ir_value *b) {
  bool constant_a = defined_by(a, IR_OP_constant), constant_b = defined_by(b, IR_OP_constant);
  return constant_a != constant_b ? constant_b : a->id < b->id;
}

static void order_operands(ir_block *block) {
  for (ir_op *op = block->first; op; op = op->next) {
    if (op->body) order_operands(op->body);
    if (!(ir_op_info_of(op->code)->traits & IR_COMMUTES)) continue;
    ir_value *x = op->operands[0], *y = op->operands[1];
    if (!comes_first(y, x)) continue;
    op->operands[0] = y;
    op->operands[1] = x;
  }
}

dp_status pass_canonicalize(ir_module *module) {
  for (ir_graph *graph = module->graphs; graph; graph = graph->next) {
    DP_TRY(simplify_block(graph, graph->block));
    hoist(graph->block);
    int count = 0;
    number_values(graph->block, &count);
    order_operands(graph->block);
  }
  return DP_SUCCESS;
}
