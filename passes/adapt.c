/* passes/adapt.c: x @ w.T of an adapted weight becomes x @ w.T + (x @ a.T * scale) @ b.T (Hu et al., 2021), in every graph.
 * The scale stands between the products, where there are `rank` numbers a row. Every use of the weight must be such a
 * product: else the model would not be the adapted one everywhere. */
#include "passes/passes.h"

#include <string.h>

typedef struct adapting {
  ir_module *module;
  const ir_adaptation *how; /* [count] */
  int count;
  bool *met; /* [count] in a product */
} adapting;

/* The weight that a value is, or a layer of which it is; -1: none. */
static int weight_of(const adapting *a, const ir_value *value) {
  while (value->def && value->def->code == IR_OP_select) value = value->def->operands[0];
  if (!value->def || value->def->code != IR_OP_weight) return -1;
  const char *name = ir_get_string(value->def, "name", "");
  for (int i = 0; i < a->count; i++)
    if (strcmp(a->module->weights[i].name, name) == 0) return i;
  return -1;
}

static ir_value *emit(ir_op *before, ir_block *block, ir_opcode code, ir_value *x, ir_value *y, const ir_attr *attr, dp_loc loc) {
  ir_value *operands[] = {x, y};
  ir_op *op = ir_emit(block, before, code, operands, y ? 2 : x ? 1 : 0, attr, attr ? 1 : 0, NULL, loc, NULL);
  return op ? op->results[0] : NULL;
}

/* x @ m.T, where m is the matrix `part` of the weight, of the layer that the product has of it. */
static ir_value *thin_product(const adapting *a, int weight, const char *part, ir_op *product, ir_op *before, ir_value *x) {
  ir_block *block = product->parent;
  const ir_op *base = product->operands[1]->def;
  ir_attr name = ir_attr_s("name", dp_arena_printf(a->module->arena, "%s.%s", a->module->weights[weight].name, part));
  ir_attr transposed = ir_attr_i("transposed", 1);
  ir_value *matrix = emit(before, block, IR_OP_weight, NULL, NULL, &name, product->loc);
  if (matrix && base->code == IR_OP_select)
    matrix = emit(before, block, IR_OP_select, matrix, base->operands[1], NULL, product->loc);
  return matrix ? emit(before, block, IR_OP_matmul, x, matrix, &transposed, product->loc) : NULL;
}

static dp_status adapt_product(adapting *a, ir_graph *graph, ir_op *product, int weight) {
  ir_block *block = product->parent;
  ir_op *next = product->next;
  ir_value *whole = product->results[0];
  ir_attr scale = ir_attr_f("value", a->how[weight].scale);
  ir_value *low = thin_product(a, weight, "lora_a", product, next, product->operands[0]);
  ir_value *by = low ? emit(next, block, IR_OP_constant, NULL, NULL, &scale, product->loc) : NULL;
  ir_value *scaled = by ? emit(next, block, IR_OP_mul, low, by, NULL, product->loc) : NULL;
  ir_value *beside = scaled ? thin_product(a, weight, "lora_b", product, next, scaled) : NULL;
  ir_value *sum = beside ? emit(next, block, IR_OP_add, whole, beside, NULL, product->loc) : NULL;
  DP_CHECK(sum, "adapt: the product beside '%s'", a->module->weights[weight].name);
  scaled->name = "low";
  sum->name = whole->name;
  ir_replace_uses(graph->block, whole, sum);
  sum->def->operands[0] = whole;
  a->met[weight] = true;
  return DP_SUCCESS;
}

static dp_status refuse(const adapting *a, int weight, const char *use) {
  return dp_fail(DP_UNSUPPORTED, "weight '%s' cannot be adapted: it is used %s, and only products x @ w.T have an adapter beside them",
                 a->module->weights[weight].name, use);
}

static dp_status check_use(const adapting *a, const ir_op *op, int operand, int weight) {
  if (op->code == IR_OP_select) return DP_SUCCESS; /* what is selected is looked at where it is used */
  if (op->code == IR_OP_gather) return refuse(a, weight, "as a table");
  if (op->code == IR_OP_head_matmul || op->code == IR_OP_expert_matmul)
    return refuse(a, weight, "as a matrix for each head or expert");
  if (op->code != IR_OP_matmul || operand != 1) return refuse(a, weight, "other than in a product");
  return ir_get_int(op, "transposed", 0) ? DP_SUCCESS : refuse(a, weight, "as x @ w");
}

static dp_status adapt_block(adapting *a, ir_graph *graph, ir_block *block) {
  for (ir_op *op = block->first, *next; op; op = next) {
    next = op->next; /* before what is added behind it */
    if (op->body) DP_TRY(adapt_block(a, graph, op->body));
    int adapted = -1;
    for (int i = 0; i < op->operand_count; i++) {
      int weight = weight_of(a, op->operands[i]);
      if (weight < 0 || a->how[weight].rank < 1) continue;
      DP_TRY(check_use(a, op, i, weight));
      adapted = weight;
    }
    if (adapted >= 0 && op->code == IR_OP_matmul) DP_TRY(adapt_product(a, graph, op, adapted));
  }
  return DP_SUCCESS;
}

dp_status ps_adapt(ir_module *module, const ir_adaptation *how) {
  adapting a = {.module = module, .how = how, .count = module->weight_count};
  a.met = DP_NEW_ARRAY(module->arena, bool, a.count + 1);
  DP_TRY(ir_declare_adapters(module, how));
  for (ir_graph *graph = module->graphs; graph; graph = graph->next) DP_TRY(adapt_block(&a, graph, graph->block));
  for (int i = 0; i < a.count; i++)
    if (how[i].rank > 0 && !a.met[i])
      return dp_fail(DP_INVALID, "weight '%s' cannot be adapted: no graph of the model uses it", module->weights[i].name);
  return ir_verify(module, "adapt");
}
