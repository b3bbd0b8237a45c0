/* passes/pick.c: the graph `pick`: from the logits of the graph before it a token a row, and the log of its probability. One group
 * looks through runs of columns, a task each; one combines the runs in their order. The draw is the Gumbel-max trick (Gumbel,
 * 1954; Maddison et al., 2014) with counter-based noise, so that it depends on the row's seed and place alone. */
#include "passes/passes.h"

#include <string.h>

enum { RUN = 2048, MOST = 1 << 24 /* columns: ids are computed with as f32 */ };

typedef struct picking {
  ir_module *module;
  ir_block *block; /* of the graph, or of the group under construction */
  bool failed;
} picking;

static ir_op *emit(picking *p, ir_opcode code, ir_value *const *operands, int count, const ir_attr *attr) {
  ir_op *op = ir_emit(p->block, NULL, code, operands, count, attr, attr ? 1 : 0, NULL, (dp_loc){0}, NULL);
  p->failed |= !op;
  return op;
}

static ir_value *value(picking *p, ir_opcode code, ir_value *x, ir_value *y, const ir_attr *attr) {
  ir_value *operands[] = {x, y};
  ir_op *op = emit(p, code, operands, y ? 2 : 1, attr);
  return op ? op->results[0] : x;
}

/* The group of a body, with the values that its arguments stand for. */
static ir_op *end_group(picking *p, ir_block *body, ir_block *graph, ir_value *const *inputs, const char *name) {
  ir_attr attr = ir_attr_s("name", name);
  ir_op *group = ir_emit(graph, NULL, IR_OP_group, inputs, body->arg_count, &attr, 1, body, (dp_loc){0}, NULL);
  p->failed |= !group;
  p->block = graph;
  return group;
}

static ir_value *argument(picking *p, ir_value *input) { return ir_add_arg(p->block, &input->type, input->name); }

/* logits[R, n] -> the greatest of each run of logits + temperature * gumbel, and where it stands */
static ir_op *look(picking *p, ir_value *logits, ir_value *const *keys, ir_value *temperature) {
  ir_block *graph = p->block, *body = p->block = ir_block_new(p->module, NULL);
  ir_value *inputs[] = {logits, keys[0], keys[1], keys[2], temperature}, *inner[5];
  for (int i = 0; i < 5; i++) inner[i] = argument(p, inputs[i]);
  ir_attr count = ir_attr_i("count", logits->type.dims[1].add), bits = ir_attr_i("bits", 1), run = ir_attr_i("run", RUN);
  ir_op *noise = emit(p, IR_OP_gumbel, inner + 1, 3, &count);
  if (!noise) return NULL;
  ir_value *scaled = value(p, IR_OP_mul, noise->results[0], value(p, IR_OP_number, inner[4], NULL, &bits), NULL);
  ir_value *score = value(p, IR_OP_add, inner[0], scaled, NULL);
  ir_op *best = emit(p, IR_OP_best_of_runs, &score, 1, &run);
  if (!best) return NULL;
  emit(p, IR_OP_yield, best->results, 2, NULL);
  return end_group(p, body, graph, inputs, "look");
}

/* The first of the greatest runs, its column, and what it weighs among all. */
static ir_op *choose(picking *p, ir_value *logits, const ir_op *runs) {
  ir_block *graph = p->block, *body = p->block = ir_block_new(p->module, NULL);
  ir_value *inputs[] = {logits, runs->results[0], runs->results[1]}, *inner[3];
  for (int i = 0; i < 3; i++) inner[i] = argument(p, inputs[i]);
  ir_attr one = ir_attr_i("k", 1);
  ir_value *id = value(p, IR_OP_element, inner[2], value(p, IR_OP_top_k, inner[1], NULL, &one), NULL);
  ir_value *sums = value(p, IR_OP_log_sum_exp, inner[0], NULL, NULL);
  ir_value *results[] = {id, value(p, IR_OP_sub, value(p, IR_OP_element, inner[0], id, NULL), sums, NULL)};
  emit(p, IR_OP_yield, results, 2, NULL);
  return end_group(p, body, graph, inputs, "choose");
}

static void add_pick(picking *p, const ir_type *type) {
  p->block = ir_add_graph(p->module, "pick")->block;
  ir_type row = {.dtype = IR_i32, .rank = 1, .dims = {type->dims[0]}};
  static const char *const names[] = {"seed", "seed2", "place"};
  ir_value *logits = ir_add_arg(p->block, type, "logits"), *keys[3];
  for (int i = 0; i < 3; i++) keys[i] = ir_add_arg(p->block, &row, names[i]);
  ir_op *runs = look(p, logits, keys, ir_add_arg(p->block, &row, "temperature"));
  ir_op *picked = runs ? choose(p, logits, runs) : NULL;
  if (!picked) return;
  picked->results[0]->name = "picked";
  picked->results[1]->name = "log_probability";
  emit(p, IR_OP_return, picked->results, 2, NULL);
}

/* ---- which graphs return logits */

/* Is a table of so many rows read at ids? */
static bool has_vocabulary(const ir_block *block, int64_t rows) {
  for (const ir_op *op = block->first; op; op = op->next) {
    if (op->body && has_vocabulary(op->body, rows)) return true;
    if (op->code != IR_OP_gather) continue;
    const ir_type *table = &op->operands[0]->type;
    if (table->rank == 2 && !table->dims[0].symbol && table->dims[0].add == rows) return true;
  }
  return false;
}

static bool returns_logits(const ir_graph *graph, const ir_type **type) {
  const ir_op *end = graph->block->last;
  if (!end || end->code != IR_OP_return || end->operand_count != 1) return false;
  const ir_type *t = *type = &end->operands[0]->type;
  bool rows = t->rank == 2 && t->dtype == IR_f32 && t->dims[0].symbol && strcmp(t->dims[0].symbol, "R") == 0;
  return rows && !t->dims[1].symbol && t->dims[1].add > 1 && t->dims[1].add < MOST &&
         has_vocabulary(graph->block, t->dims[1].add);
}

dp_status ps_add_pick(ir_module *module) {
  const ir_type *type;
  if (!module->graphs || ir_find_graph(module, "pick") || !returns_logits(module->graphs, &type)) return DP_SUCCESS;
  picking p = {.module = module};
  add_pick(&p, type);
  DP_CHECK(!p.failed, "pick: a group could not be made");
  return ir_verify(module, "pick");
}
