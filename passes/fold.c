/* passes/fold.c: scalar ops on constants become constants. Only ops that IEEE 754 defines to the last bit are computed
 * here, each rounded to f32 once, as the kernels do; exp and its kin are the back end's own and stay. So do ops that
 * give NaN, whose sign and payload differ from machine to machine. */
#include "passes/passes.h"

#include <math.h>

/* Mirrors the definitions of the same names in codegen/scalar.inc. */
static bool compute(ir_opcode code, float x, float y, float *result) {
  switch (code) {
  case IR_OP_neg:
    *result = -x;
    break;
  case IR_OP_sqrt:
    *result = sqrtf(x);
    break;
  case IR_OP_rsqrt: {
    float root = sqrtf(x); /* a variable of its own: rounded before the division */
    *result = 1.0f / root;
    break;
  }
  case IR_OP_relu:
    *result = x < 0.0f ? 0.0f : x;
    break;
  case IR_OP_add:
    *result = x + y;
    break;
  case IR_OP_sub:
    *result = x - y;
    break;
  case IR_OP_mul:
    *result = x * y;
    break;
  case IR_OP_div:
    *result = x / y;
    break;
  case IR_OP_max:
    *result = x < y ? y : x;
    break;
  case IR_OP_min:
    *result = y < x ? y : x;
    break;
  default:
    return false;
  }
  return !isnan(x) && !isnan(y) && !isnan(*result);
}

static bool constant_of(const ir_value *value, float *constant) {
  if (!value->def || value->def->code != IR_OP_constant) return false;
  *constant = (float)ir_get_float(value->def, "value", 0);
  return true;
}

static bool fold(const ir_op *op, float *result) {
  float operands[2] = {0};
  if (!(ir_op_info_of(op->code)->traits & IR_ELEMENTWISE) || op->operand_count > 2) return false;
  for (int i = 0; i < op->operand_count; i++)
    if (!constant_of(op->operands[i], &operands[i])) return false;
  return compute(op->code, operands[0], operands[1], result);
}

static dp_status fold_block(ir_graph *graph, ir_block *block) {
  for (ir_op *op = block->first, *next; op; op = next) {
    next = op->next;
    if (op->body) DP_TRY(fold_block(graph, op->body));
    float result;
    if (!fold(op, &result)) continue;
    ir_attr value = ir_attr_f("value", result);
    ir_op *constant = ir_emit(block, op, IR_OP_constant, NULL, 0, &value, 1, NULL, op->loc, NULL);
    DP_CHECK(constant, "fold: a constant");
    constant->results[0]->name = op->results[0]->name;
    ir_replace_uses(graph->block, op->results[0], constant->results[0]);
    ir_unlink(op);
  }
  return DP_SUCCESS;
}

dp_status pass_fold(ir_module *module) {
  for (ir_graph *graph = module->graphs; graph; graph = graph->next) DP_TRY(fold_block(graph, graph->block));
  return DP_SUCCESS;
}
