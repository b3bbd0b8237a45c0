/* frontend/expr.c: an expression to its value: integers and floats are computed now, whatever a tensor takes part in
 * becomes ops of the block at hand. */
#include "frontend/sema.h"

#include <math.h>
#include <string.h>

fe_value fe_number(double value) { return (fe_value){.kind = FE_NUMBER, .number = value}; }

static fe_value tensor_value(ir_value *tensor) { return (fe_value){.kind = FE_TENSOR, .tensor = tensor}; }

bool fe_is_number(const fe_value *value, double *number) {
  if (value->kind == FE_NUMBER) *number = value->number;
  else if (value->kind == FE_DIM && !value->dim.symbol) *number = (double)value->dim.add;
  else return false;
  return true;
}

/* ---- ops --------------------------------------------------------------------------------------------------------- */

static bool in_graph(fe_compiler *c, dp_loc loc) {
  if (!c->block) fe_error(c, loc, "this is only known when the model runs; here everything is computed before");
  return c->block;
}

fe_value fe_emit(fe_compiler *c, ir_opcode code, ir_value *const *operands, int count, const ir_attr *attrs,
                 int attr_count, dp_loc loc) {
  if (!in_graph(c, loc)) return fe_poison;
  int first = c->diags->count;
  ir_op *op = ir_emit(c->block, NULL, code, operands, count, attrs, attr_count, NULL, loc, c->diags);
  if (op) return op->result_count ? tensor_value(op->results[0]) : fe_poison;
  fe_reported(c, first);
  return fe_poison;
}

static ir_value *constant(fe_compiler *c, double number, dp_loc loc) {
  if (fabs(number) > 3.4028234663852886e38) {
    fe_error(c, loc, "%g does not fit in an f32", number);
    return NULL;
  }
  const ir_attr value = ir_attr_f("value", number);
  return fe_emit(c, IR_OP_constant, NULL, 0, &value, 1, loc).tensor;
}

ir_value *fe_tensor(fe_compiler *c, const fe_value *value, dp_loc loc) {
  double number;
  if (fe_is_number(value, &number)) return constant(c, number, loc);
  switch (value->kind) {
  case FE_TENSOR: return value->tensor;
  case FE_DIM:
    fe_error(c, loc, "%s is only known when the model runs, and only shapes may depend on it", value->dim.symbol);
    break;
  case FE_CHOSEN: fe_error(c, loc, "w[ids] of a weight of matrices stands on the right of '@' only"); break;
  case FE_TRANSPOSED: fe_error(c, loc, "'.T' stands on the right of '@' only"); break;
  case FE_INDEX:
    fe_error(c, loc, "a loop's variable chooses the layer of a weight or cache, or is every's; nothing else");
    break;
  case FE_STACK:
    fe_error(c, loc, "'%s' has one tensor a layer; say which: %s[l]", value->weight->name, value->weight->name);
    fe_note(c, value->weight->loc, "'%s' is declared here", value->weight->name);
    break;
  default: break;
  }
  return NULL;
}

/* ---- names ------------------------------------------------------------------------------------------------------- */

/* A weight's op stands once at the top of its graph. */
static fe_value weight_tensor(fe_compiler *c, fe_symbol *symbol, dp_loc loc) {
  if (!in_graph(c, loc) || !symbol->known) return fe_poison;
  if (symbol->in == c->graph) return symbol->value;
  const ir_attr name = ir_attr_s("name", symbol->name);
  ir_op *before = c->last_weight ? c->last_weight->next : c->graph->first;
  ir_op *op = ir_emit(c->graph, before, IR_OP_weight, NULL, 0, &name, 1, NULL, symbol->loc, c->diags);
  if (!op) return fe_poison;
  c->last_weight = op;
  fe_name_value(c, op->results[0], symbol->name);
  symbol->in = c->graph;
  return symbol->value = tensor_value(op->results[0]);
}

static fe_value positions(fe_compiler *c, dp_loc loc) {
  if (!in_graph(c, loc)) return fe_poison;
  if (!c->positions) {
    const ir_type type = {.dtype = IR_i32, .rank = 1, .dims = {ir_symbol_dim("T")}};
    c->positions = ir_add_arg(c->graph, &type, "pos");
  }
  return tensor_value(c->positions);
}

static fe_value eval_name(fe_compiler *c, const ast_expr *expr) {
  fe_symbol *symbol = expr->symbol;
  if (!symbol) return fe_poison;
  switch (symbol->kind) {
  case FE_SYM_LOCAL: return c->frame->slots[symbol->slot];
  case FE_SYM_WEIGHT:
    if (symbol->weight->stack.given && symbol->known) return (fe_value){.kind = FE_STACK, .weight = symbol};
    return weight_tensor(c, symbol, expr->loc);
  case FE_SYM_POSITIONS: return positions(c, expr->loc);
  default: break;
  }
  if (symbol->known) return symbol->value;
  fe_error(c, expr->loc, "'%s' is used before its declaration", symbol->name);
  fe_note(c, symbol->loc, "it is declared here");
  return fe_poison;
}

/* ---- operators --------------------------------------------------------------------------------------------------- */

static fe_value fold(fe_compiler *c, char op, double a, double b, dp_loc loc) {
  if (op == '/' && b == 0) {
    fe_error(c, loc, "%g / %g: division by zero", a, b);
    return fe_poison;
  }
  double value = op == '+' ? a + b : op == '-' ? a - b : op == '*' ? a * b : a / b;
  if (isfinite(value)) return fe_number(value);
  fe_error(c, loc, "%g %c %g is too large", a, op, b);
  return fe_poison;
}

static bool is_weight(const ir_value *value) {
  return value->def && (value->def->code == IR_OP_weight || value->def->code == IR_OP_select);
}

static fe_value eval_transposed(fe_compiler *c, const ast_expr *expr) {
  fe_value value = fe_eval(c, expr->left);
  if (value.kind == FE_CHOSEN && !value.transposed) {
    value.transposed = true;
    return value;
  }
  ir_value *tensor = fe_tensor(c, &value, expr->left->loc);
  if (!tensor) return fe_poison;
  if (is_weight(tensor)) return (fe_value){.kind = FE_TRANSPOSED, .tensor = tensor};
  fe_error(c, expr->loc, "'.T' transposes a weight, but this is a computed %s", fe_type_text(c, &tensor->type));
  return fe_poison;
}

static fe_value eval_product(fe_compiler *c, const ast_expr *expr, const fe_value *x, const fe_value *w) {
  const fe_value *sides[] = {x, w};
  const ast_expr *places[] = {expr->left, expr->right};
  double number;
  for (int i = 0; i < 2; i++) {
    if (!fe_is_number(sides[i], &number)) continue;
    fe_error(c, places[i]->loc, "'@' multiplies matrices, but this is %s; numbers take '*'",
             fe_value_text(c, sides[i]));
    return fe_poison;
  }
  bool taken = w->kind == FE_TRANSPOSED || w->kind == FE_CHOSEN;
  ir_value *operands[] = {fe_tensor(c, x, expr->left->loc), taken ? w->tensor : fe_tensor(c, w, expr->right->loc),
                          w->ids};
  const ir_attr attr = ir_attr_i("transposed", w->kind == FE_TRANSPOSED || w->transposed);
  if (!operands[0] || !operands[1]) return fe_poison;
  if (w->kind == FE_CHOSEN) return fe_emit(c, IR_OP_expert_matmul, operands, 3, &attr, 1, expr->loc);
  bool heads = operands[0]->type.rank == 3 && operands[1]->type.rank == 3 && is_weight(operands[1]);
  return fe_emit(c, heads ? IR_OP_head_matmul : IR_OP_matmul, operands, 2, &attr, 1, expr->loc);
}

static fe_value eval_binary(fe_compiler *c, const ast_expr *expr) {
  fe_value left = fe_eval(c, expr->left), right = fe_eval(c, expr->right);
  if (left.kind == FE_POISON || right.kind == FE_POISON) return fe_poison;
  if (expr->op == '@') return eval_product(c, expr, &left, &right);
  if (left.kind == FE_DIM && right.kind == FE_DIM)
    return fe_dim_arithmetic(c, expr->op, left.dim, right.dim, expr->loc);
  double a, b;
  if (fe_is_number(&left, &a) && fe_is_number(&right, &b)) return fold(c, expr->op, a, b, expr->loc);
  ir_value *operands[] = {fe_tensor(c, &left, expr->left->loc), fe_tensor(c, &right, expr->right->loc)};
  if (!operands[0] || !operands[1]) return fe_poison;
  const ir_opcode code = expr->op == '+'   ? IR_OP_add
                         : expr->op == '-' ? IR_OP_sub
                         : expr->op == '*' ? IR_OP_mul
                                           : IR_OP_div;
  return fe_emit(c, code, operands, 2, NULL, 0, expr->loc);
}

static fe_value eval_negate(fe_compiler *c, const ast_expr *expr) {
  fe_value value = fe_eval(c, expr->left);
  if (value.kind == FE_POISON) return value;
  if (value.kind == FE_NUMBER) return fe_number(-value.number);
  if (value.kind == FE_DIM) return fe_dim_arithmetic(c, '-', ir_static_dim(0, NULL), value.dim, expr->loc);
  ir_value *operand = fe_tensor(c, &value, expr->left->loc);
  return operand ? fe_emit(c, IR_OP_neg, &operand, 1, NULL, 0, expr->loc) : fe_poison;
}

static fe_value eval_as(fe_compiler *c, const ast_expr *expr) {
  fe_value value = fe_eval(c, expr->left);
  ir_value *operand = fe_tensor(c, &value, expr->left->loc);
  ir_type type = {.dtype = operand ? operand->type.dtype : IR_f32};
  if (!fe_eval_shape(c, &expr->shape, expr->loc, &type) || !operand) return fe_poison;
  const ir_attr to = ir_attr_d("to", &type);
  return fe_emit(c, IR_OP_reshape, &operand, 1, &to, 1, expr->loc);
}

/* ---- indexing ---------------------------------------------------------------------------------------------------- */

ir_value *fe_layer_index(fe_compiler *c, const fe_value *index, dp_loc loc) {
  if (index->kind == FE_INDEX) return index->loop->index;
  if (index->kind == FE_DIM && !index->dim.symbol)
    fe_error(c, loc, "a layer is chosen by a loop's variable; a fixed one is not supported yet");
  else if (index->kind != FE_POISON)
    fe_error(c, loc, "a layer is chosen by a loop's variable, but this is %s", fe_value_text(c, index));
  return NULL;
}

static bool check_range(fe_compiler *c, const fe_symbol *weight, int64_t layers, const fe_value *index, dp_loc loc) {
  int64_t begin = ir_find_weight(c->module, weight->name)->first_layer, end = begin + layers;
  int64_t first = index->kind == FE_INDEX ? index->loop->first : index->dim.add;
  int64_t last = index->kind == FE_INDEX ? first + index->loop->count : first + 1;
  bool known = index->kind == FE_INDEX || (index->kind == FE_DIM && !index->dim.symbol);
  if (!known || (first >= begin && last <= end)) return true;
  if (index->kind == FE_DIM)
    fe_error(c, loc, "'%s' has layers %lld to %lld, but not %lld", weight->name, (long long)begin, (long long)end - 1,
             (long long)first);
  else if (first || begin)
    fe_error(c, loc, "the loop is over %lld .. %lld, but '%s' has layers %lld .. %lld", (long long)first,
             (long long)last, weight->name, (long long)begin, (long long)end);
  else
    fe_error(c, loc, "the loop counts to %lld, but '%s' has %lld layers", (long long)last, weight->name,
             (long long)layers);
  fe_note(c, weight->loc, "'%s' is declared here", weight->name);
  return false;
}

static fe_value eval_layer(fe_compiler *c, const ast_expr *expr, const fe_value *stack, const fe_value *index) {
  fe_value weight = weight_tensor(c, (fe_symbol *)stack->weight, expr->loc);
  if (weight.kind == FE_POISON) return weight;
  int64_t layers = weight.tensor->type.dims[0].add;
  if (!check_range(c, stack->weight, layers, index, expr->right->loc)) return fe_poison;
  ir_value *operands[] = {weight.tensor, fe_layer_index(c, index, expr->right->loc)};
  if (!operands[1]) return fe_poison;
  fe_value layer = fe_emit(c, IR_OP_select, operands, 2, NULL, 0, expr->loc);
  if (layer.kind == FE_TENSOR)
    fe_name_value(c, layer.tensor, dp_arena_printf(c->arena, "%s_%s", stack->weight->name, operands[1]->name));
  return layer;
}

static fe_value eval_index(fe_compiler *c, const ast_expr *expr) {
  fe_value base = fe_eval(c, expr->left), index = fe_eval(c, expr->right);
  if (base.kind == FE_POISON || index.kind == FE_POISON) return fe_poison;
  if (base.kind == FE_STACK) return eval_layer(c, expr, &base, &index);
  if (base.kind != FE_TENSOR) {
    fe_error(c, expr->loc, "%s has no rows to choose from", fe_value_text(c, &base));
    return fe_poison;
  }
  if (index.kind != FE_TENSOR) {
    fe_error(c, expr->right->loc, "%s is indexed by a tensor of row numbers, i32[n], but this is %s",
             fe_type_text(c, &base.tensor->type), fe_value_text(c, &index));
    if (expr->left->symbol && expr->left->symbol->kind == FE_SYM_WEIGHT)
      fe_note(c, expr->left->symbol->loc, "'%s' is not declared with [layers]", expr->left->symbol->name);
    return fe_poison;
  }
  if (is_weight(base.tensor) && base.tensor->type.rank == 3)
    return (fe_value){.kind = FE_CHOSEN, .tensor = base.tensor, .ids = index.tensor};
  ir_value *operands[] = {base.tensor, index.tensor};
  return fe_emit(c, IR_OP_gather, operands, 2, NULL, 0, expr->loc);
}

/* ---- expressions ------------------------------------------------------------------------------------------------- */

static fe_value eval(fe_compiler *c, const ast_expr *expr) {
  switch (expr->kind) {
  case AST_ERROR: break;
  case AST_INT: return fe_integer(expr->integer);
  case AST_FLOAT: return fe_number(expr->number);
  case AST_NAME: return eval_name(c, expr);
  case AST_NEGATE: return eval_negate(c, expr);
  case AST_BINARY: return eval_binary(c, expr);
  case AST_INDEX: return eval_index(c, expr);
  case AST_FIELD: return eval_transposed(c, expr);
  case AST_CALL: return fe_eval_call(c, expr);
  case AST_AS: return eval_as(c, expr);
  }
  return fe_poison;
}

/* One tree is at most AST_MAX_DEPTH deep, but inlined functions stand inside each other. */
fe_value fe_eval(fe_compiler *c, const ast_expr *expr) {
  if (c->stopped) return fe_poison;
  if (--c->fuel < 0) {
    fe_error(c, expr->loc, "the functions, inlined, have more than %d expressions", FE_MOST_FUEL);
    c->stopped = true;
    return fe_poison;
  }
  if (c->depth >= FE_MOST_DEPTH) {
    fe_error(c, expr->loc, "with the calls around it, this is nested more than %d levels deep", FE_MOST_DEPTH);
    return fe_poison;
  }
  c->depth++;
  fe_value value = eval(c, expr);
  c->depth--;
  return value;
}
