/* passes/select_rows.c: a graph that returns values of all T tokens gets an argument out_rows[R] and returns those rows
 * only. The gather is then sunk towards the arguments, through ops that compute row by row, so that a prefill's last
 * norm and its logits are computed for the rows somebody asked for. Rows do not see each other: the bits stay. */
#include "passes/passes.h"

#include <string.h>

/* One graph: where rows_of puts ops, and what each value became. */
typedef struct selection {
  dp_arena *arena;
  ir_block *block;
  ir_value *out_rows;
  ir_value **full, **selected; /* selected[i] holds the asked rows of full[i] */
  int full_count, full_cap, selected_count, selected_cap;
} selection;

static bool has_rows(const ir_value *value) {
  return value->type.rank > 0 && ir_dim_equal(value->type.dims[0], ir_symbol_dim("T"));
}

/* Do the rows of operand `i` belong to the result's? As ops.def writes it: those marked [T...]; when the row marks
 * none, every operand that has rows and the result's rank: broadcasting puts the dimensions of others further right. */
static bool gives_rows(const ir_op *op, int i) {
  const char *spec = ir_op_info_of(op->code)->operands;
  if (!strstr(spec, "[T")) return has_rows(op->operands[i]) && op->operands[i]->type.rank == op->results[0]->type.rank;
  for (int at = 0; at < i && spec; at++) spec = strchr(spec + 1, ' ');
  const char *end = spec ? strchr(spec + 1, ' ') : NULL, *mark = spec ? strstr(spec, "[T") : NULL;
  return mark && (!end || mark < end) && has_rows(op->operands[i]);
}

/* ---- which ops may be computed for fewer rows -------------------------------------------------------------------- */

enum { KEPT, SUNK };

/* Every use of `value` is by `return` or by an op that is sunk itself; else all rows are needed anyway. */
static bool used_by_sunk(const ir_block *block, const ir_value *value) {
  for (const ir_op *op = block->first; op; op = op->next) {
    for (int i = 0; i < op->operand_count; i++)
      if (op->operands[i] == value && op->mark != SUNK && op->code != IR_OP_return) return false;
    if (op->body && ir_count_uses(op->body, value)) return false;
  }
  return true;
}

static bool can_sink(const ir_op *op) {
  unsigned wanted = IR_PURE | IR_ROWWISE;
  if ((ir_op_info_of(op->code)->traits & wanted) != wanted || op->result_count != 1) return false;
  return has_rows(op->results[0]) && used_by_sunk(op->parent, op->results[0]);
}

/* From the last op to the first, as whether an op may sink depends on its users. */
static void mark_sunk(ir_block *block) {
  for (ir_op *op = block->last; op; op = op->previous) op->mark = KEPT;
  for (ir_op *op = block->last; op; op = op->previous) op->mark = can_sink(op) ? SUNK : KEPT;
}

/* ---- their asked rows -------------------------------------------------------------------------------------------- */

static dp_status rows_of(selection *s, ir_value *full, ir_value **selected);

static dp_status gather_rows(selection *s, ir_value *full, ir_op **made) {
  ir_value *operands[] = {full, s->out_rows};
  *made = ir_emit(s->block, s->block->last, IR_OP_gather, operands, 2, NULL, 0, NULL, s->block->last->loc, NULL);
  DP_CHECK(*made, "select_rows: gather");
  return DP_SUCCESS;
}

/* The same op on the asked rows of its operands; a shape that it names gets their number. */
static dp_status sink(selection *s, const ir_op *op, ir_op **made) {
  ir_value **operands = DP_NEW_ARRAY(s->arena, ir_value *, op->operand_count);
  ir_attr *attrs = DP_NEW_ARRAY(s->arena, ir_attr, op->attr_count);
  for (int i = 0; i < op->operand_count; i++) {
    operands[i] = op->operands[i];
    if (gives_rows(op, i)) DP_TRY(rows_of(s, op->operands[i], &operands[i]));
  }
  for (int i = 0; i < op->attr_count; i++) {
    attrs[i] = op->attrs[i];
    if (attrs[i].kind == IR_ATTR_SHAPE) attrs[i].shape.dims[0] = s->out_rows->type.dims[0];
  }
  *made = ir_emit(s->block, s->block->last, op->code, operands, op->operand_count, attrs, op->attr_count, NULL, op->loc,
                  NULL);
  DP_CHECK(*made, "select_rows: %s of fewer rows", ir_op_info_of(op->code)->name);
  return DP_SUCCESS;
}

static dp_status rows_of(selection *s, ir_value *full, ir_value **selected) {
  for (int i = 0; i < s->full_count; i++) {
    if (s->full[i] != full) continue;
    *selected = s->selected[i];
    return DP_SUCCESS;
  }
  ir_op *op;
  if (full->def && full->def->mark == SUNK)
    DP_TRY(sink(s, full->def, &op));
  else
    DP_TRY(gather_rows(s, full, &op));
  *selected = op->results[0];
  (*selected)->name = full->name;
  DP_PUSH(s->arena, s->full, s->full_count, s->full_cap) = full;
  DP_PUSH(s->arena, s->selected, s->selected_count, s->selected_cap) = *selected;
  return DP_SUCCESS;
}

static dp_status select_in_graph(dp_arena *arena, ir_graph *graph) {
  ir_op *end = graph->block->last;
  bool any = false;
  for (int i = 0; i < end->operand_count; i++) any |= has_rows(end->operands[i]);
  for (int i = 0; i < graph->block->arg_count; i++) {
    const char *name = graph->block->args[i]->name;
    if (name && strcmp(name, "out_rows") == 0) return DP_SUCCESS; /* it selects already */
    if (name && strcmp(name, "targets") == 0) return DP_SUCCESS;  /* a loss for each token */
  }
  if (!any) return DP_SUCCESS;
  mark_sunk(graph->block);
  ir_type rows = {.dtype = IR_i32, .rank = 1, .dims = {ir_symbol_dim("R")}};
  selection s = {.arena = arena, .block = graph->block, .out_rows = ir_add_arg(graph->block, &rows, "out_rows")};
  for (int i = 0; i < end->operand_count; i++)
    if (has_rows(end->operands[i])) DP_TRY(rows_of(&s, end->operands[i], &end->operands[i]));
  return DP_SUCCESS;
}

dp_status pass_select_rows(ir_module *module) {
  dp_arena *arena = dp_arena_new();
  if (!arena) return (dp_status){DP_NO_MEMORY, NULL};
  dp_status status = DP_SUCCESS;
  for (ir_graph *graph = module->graphs; graph && status.code == DP_OK; graph = graph->next)
    status = select_in_graph(arena, graph);
  dp_arena_free(arena);
  return status;
}
