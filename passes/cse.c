/* passes/cse.c: of equal pure ops the first one stays. Equal: the same op on the same values with the same attributes,
 * floats compared by bits. A body sees the ops before it outside; a group's does not, as it meets the outside through
 * its arguments only. Modules are small: candidates are looked through one by one. */
#include "passes/passes.h"

#include <string.h>

/* The ops that the one looked at may be replaced by, innermost last. */
typedef struct available {
  dp_arena *arena;
  ir_op **ops;
  int count, cap;
} available;

static bool same_attr(const ir_attr *a, const ir_attr *b) {
  if (a->kind != b->kind || strcmp(a->name, b->name) != 0) return false;
  switch (a->kind) {
  case IR_ATTR_INT:
    return a->i == b->i;
  case IR_ATTR_FLOAT:
    return memcmp(&a->f, &b->f, sizeof a->f) == 0;
  case IR_ATTR_STRING:
    return strcmp(a->s, b->s) == 0;
  case IR_ATTR_SHAPE:
    return ir_type_equal(&a->shape, &b->shape);
  }
  return false;
}

static bool same_op(const ir_op *a, const ir_op *b) {
  if (a->code != b->code || a->operand_count != b->operand_count || a->attr_count != b->attr_count) return false;
  for (int i = 0; i < a->operand_count; i++)
    if (a->operands[i] != b->operands[i]) return false;
  for (int i = 0; i < a->attr_count; i++)
    if (!same_attr(&a->attrs[i], &b->attrs[i])) return false;
  return true;
}

static ir_op *find_same(const available *seen, int from, const ir_op *op) {
  for (int i = seen->count - 1; i >= from; i--)
    if (same_op(seen->ops[i], op)) return seen->ops[i];
  return NULL;
}

static void merge_block(available *seen, int from, ir_block *block) {
  int outside = seen->count;
  for (ir_op *op = block->first, *next; op; op = next) {
    next = op->next;
    if (op->body) merge_block(seen, op->code == IR_OP_group ? seen->count : from, op->body);
    if (op->body || !(ir_op_info_of(op->code)->traits & IR_PURE)) continue;
    ir_op *same = find_same(seen, from, op);
    if (!same) {
      DP_PUSH(seen->arena, seen->ops, seen->count, seen->cap) = op;
      continue;
    }
    for (int i = 0; i < op->result_count; i++) {
      if (!same->results[i]->name) same->results[i]->name = op->results[i]->name;
      ir_replace_uses(block, op->results[i], same->results[i]); /* uses lie in the block and below it */
    }
    ir_unlink(op);
  }
  seen->count = outside;
}

dp_status pass_cse(ir_module *module) {
  available seen = {.arena = dp_arena_new()};
  if (!seen.arena) return (dp_status){DP_NO_MEMORY, NULL};
  for (ir_graph *graph = module->graphs; graph; graph = graph->next) merge_block(&seen, 0, graph->block);
  dp_arena_free(seen.arena);
  return DP_SUCCESS;
}
