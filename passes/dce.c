/* passes/dce.c: what neither a graph's results nor a cache needs is removed. First everything needed is marked,
 * starting from `return` and from ops with effects; then ops without a mark go, and the values of loops and groups
 * without one. A loop value that is only needed to compute itself is never reached. Weights stay declared. */
#include "passes/passes.h"

enum { UNSEEN, NEEDED };

/* Values marked, whose definitions are still to be looked at. */
typedef struct worklist {
  dp_arena *arena;
  ir_value **values;
  int count, cap;
} worklist;

static void need(worklist *work, ir_value *value) {
  if (value->id == NEEDED) return;
  value->id = NEEDED;
  DP_PUSH(work->arena, work->values, work->count, work->cap) = value;
}

static void need_op(ir_op *op) {
  for (; op && op->mark != NEEDED; op = op->parent->owner) op->mark = NEEDED;
}

static bool has_effect(const ir_op *op) { return !(ir_op_info_of(op->code)->traits & (IR_PURE | IR_REGION)); }

/* How many arguments of the body come before those that stand for operands: a loop's layer index. */
static int first_arg(const ir_op *region) { return region->body->arg_count - region->operand_count; }

/* In a loop, value i of the operands, the body's arguments, its yield and the results are one carried value. */
static void need_slot(worklist *work, ir_op *loop, int i) {
  need(work, loop->operands[i]);
  need(work, loop->body->args[first_arg(loop) + i]);
  need(work, loop->body->last->operands[i]);
  need(work, loop->results[i]);
}

static void look_at(worklist *work, ir_value *value) {
  ir_op *op = value->def ? value->def : value->block->owner;
  if (!op) return; /* an argument of the graph */
  need_op(op);
  if (!op->body) {
    for (int i = 0; i < op->operand_count; i++) need(work, op->operands[i]);
    return;
  }
  int slot = value->def ? value->index : value->index - first_arg(op);
  if (slot < 0) return; /* the layer index */
  if (op->code == IR_OP_loop)
    need_slot(work, op, slot);
  else
    need(work, value->def ? op->body->last->operands[slot] : op->operands[slot]);
}

static void forget(ir_block *block) {
  for (int i = 0; i < block->arg_count; i++) block->args[i]->id = UNSEEN;
  for (ir_op *op = block->first; op; op = op->next) {
    op->mark = UNSEEN;
    for (int i = 0; i < op->result_count; i++) op->results[i]->id = UNSEEN;
    if (op->body) forget(op->body);
  }
}

/* The ops that are needed for themselves. A body's `yield` stays with its body, and needs nothing by itself. */
static void need_effects(worklist *work, ir_block *block) {
  for (ir_op *op = block->first; op; op = op->next) {
    if (op->body) need_effects(work, op->body);
    if (!has_effect(op) || op->code == IR_OP_yield) continue;
    need_op(op);
    for (int i = 0; i < op->operand_count; i++) need(work, op->operands[i]);
  }
}

/* values[i] stays where decider[i] is needed. */
static int keep(ir_value **values, ir_value *const *decider, int count) {
  int kept = 0;
  for (int i = 0; i < count; i++)
    if (decider[i]->id == NEEDED) values[kept++] = values[i];
  return kept;
}

static void renumber(ir_value **values, int count) {
  for (int i = 0; i < count; i++) values[i]->index = i;
}

/* Inputs go by the arguments they feed, yielded values by the results they become; the deciders themselves go last. */
static void shrink_region(ir_op *op) {
  ir_op *yield = op->body->last;
  int before = first_arg(op), inputs = op->operand_count;
  ir_value **args = op->body->args + before;
  op->operand_count = keep(op->operands, args, inputs);
  yield->operand_count = keep(yield->operands, op->results, op->result_count);
  op->body->arg_count = before + keep(args, args, inputs);
  op->result_count = keep(op->results, op->results, op->result_count);
  renumber(op->body->args, op->body->arg_count);
  renumber(op->results, op->result_count);
}

static void sweep(ir_block *block) {
  for (ir_op *op = block->first, *next; op; op = next) {
    next = op->next;
    if (op->mark != NEEDED && op->code != IR_OP_yield) {
      ir_unlink(op);
    } else if (op->body) {
      shrink_region(op);
      sweep(op->body);
    }
  }
}

dp_status pass_dce(ir_module *module) {
  worklist work = {.arena = dp_arena_new()};
  if (!work.arena) return (dp_status){DP_NO_MEMORY, NULL};
  for (ir_graph *graph = module->graphs; graph; graph = graph->next) {
    forget(graph->block);
    need_effects(&work, graph->block);
    while (work.count) look_at(&work, work.values[--work.count]);
    sweep(graph->block);
  }
  dp_arena_free(work.arena);
  return DP_SUCCESS;
}
