/* passes/scalar_head.c: a language model becomes one that gives each token a number: the product with the vocabulary that
 * ends the graph gives way to one with a single row, what was made of the logits after it goes. */
#include "passes/passes.h"

#include <string.h>

static bool has_columns(const ir_value *value, ir_dim columns) {
  return value->type.rank == 2 && value->type.dims[1].symbol == columns.symbol && value->type.dims[1].add == columns.add;
}

/* The product that the logits come from: elementwise arithmetic on them may follow it. */
static ir_op *last_product(const ir_value *logits) {
  const ir_dim columns = logits->type.dims[1];
  const ir_value *at = logits;
  while (at && at->def && ir_op_info_of(at->def->code)->traits & IR_ELEMENTWISE) {
    const ir_value *next = NULL;
    for (int i = 0; i < at->def->operand_count; i++)
      if (has_columns(at->def->operands[i], columns)) next = at->def->operands[i];
    at = next;
  }
  return at && at->def && at->def->code == IR_OP_matmul && at->def->operands[1]->def->code == IR_OP_weight ? at->def : NULL;
}

static int uses_of(const ir_block *block, const char *weight) {
  int uses = 0;
  for (const ir_op *op = block->first; op; op = op->next) {
    uses += op->code == IR_OP_weight && strcmp(ir_get_string(op, "name", ""), weight) == 0 && ir_count_uses(block, op->results[0]) > 0;
    if (op->body) uses += uses_of(op->body, weight);
  }
  return uses;
}

static void remove_unused(ir_block *block) {
  for (ir_op *op = block->last, *previous; op; op = previous) {
    previous = op->previous;
    bool used = !(ir_op_info_of(op->code)->traits & IR_PURE) || op->body;
    for (int i = 0; i < op->result_count && !used; i++) used = ir_count_uses(block, op->results[i]) > 0;
    if (!used) ir_unlink(op);
  }
}

/* Takes the place of a weight that nothing uses any more, so that the others keep their numbers. */
static void declare(ir_module *module, const char *old, const ir_type *type) {
  bool free_place = true;
  for (const ir_graph *graph = module->graphs; graph; graph = graph->next) free_place &= uses_of(graph->block, old) == 0;
  for (int i = 0; i < module->weight_count; i++)
    free_place &= !module->weights[i].tied || strcmp(module->weights[i].tied, old) != 0;
  ir_weight *weight = free_place ? ir_find_weight(module, old) : ir_add_weight(module, "score", type);
  ir_source *source = DP_NEW(module->arena, ir_source);
  source->pattern = "score.weight";
  *weight = (ir_weight){.name = "score", .type = *type, .sources = source, .source_count = 1, .filled = true, .loc = weight->loc};
}

dp_status ps_add_scalar_head(ir_module *module) {
  ir_graph *graph = module->graphs;
  ir_op *end = graph ? graph->block->last : NULL;
  bool logits = end && end->operand_count == 1 && end->operands[0]->type.rank == 2 && end->operands[0]->type.dims[0].symbol;
  ir_op *product = logits ? last_product(end->operands[0]) : NULL;
  if (!product)
    return dp_fail(DP_UNSUPPORTED, "model %s: a reward or value head takes the place of the product with a weight that ends the "
                   "graph, and it ends with none", module->name);
  if (ir_find_weight(module, "score"))
    return dp_fail(DP_UNSUPPORTED, "model %s has a weight 'score' already", module->name);
  const char *old = dp_arena_strdup(module->arena, ir_get_string(product->operands[1]->def, "name", ""));
  ir_value *x = product->operands[0];
  ir_type type = {.dtype = IR_f32, .rank = 2, .dims = {ir_static_dim(1, NULL), x->type.dims[1]}};
  const dp_loc loc = product->loc;
  end->operands[0] = x;
  remove_unused(graph->block);
  declare(module, old, &type);
  ir_attr name = ir_attr_s("name", "score"), transposed = ir_attr_i("transposed", 1);
  ir_op *weight = ir_emit(graph->block, end, IR_OP_weight, NULL, 0, &name, 1, NULL, loc, NULL);
  DP_CHECK(weight, "scalar head: the weight");
  ir_value *operands[] = {x, weight->results[0]};
  ir_op *head = ir_emit(graph->block, end, IR_OP_matmul, operands, 2, &transposed, 1, NULL, loc, NULL);
  DP_CHECK(head, "scalar head: the product");
  head->results[0]->name = "score";
  end->operands[0] = head->results[0];
  return ir_verify(module, "scalar_head");
}
