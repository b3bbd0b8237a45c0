/* frontend/lower.c: graphs to IR: statements in order, loops rolled, functions inlined where they are called. A
 * variable that a loop assigns and that was there before it is carried from turn to turn. */
#include "frontend/sema.h"

#include <string.h>

void fe_name_value(fe_compiler *c, ir_value *value, const char *name) {
  if (!value->name) value->name = dp_arena_strdup(c->module->arena, name);
}

typedef struct outcome {
  bool returned;
  fe_value value;
  dp_loc loc;
} outcome;

static void lower_statements(fe_compiler *c, const ast_statements *statements, outcome *result);

/* ---- loops ------------------------------------------------------------------------------------------------------- */

static const ast_statement *last_assignment(const ast_statements *statements, const fe_symbol *symbol) {
  const ast_statement *last = NULL;
  for (const ast_statement *s = statements->first; s; s = s->next) {
    const ast_statement *inner = s->kind == AST_FOR ? last_assignment(&s->body, symbol) : NULL;
    if (s->kind == AST_ASSIGN && s->symbol == symbol) last = s;
    else if (inner) last = inner;
  }
  return last;
}

static bool loop_range(fe_compiler *c, const ast_statement *statement, fe_loop *loop) {
  ir_dim end;
  const ast_expr *expr = statement->value;
  if (!fe_eval_dim(c, expr, "a loop's count", &end)) return false;
  if (end.symbol) fe_error(c, expr->loc, "a loop's count is known before the model runs; %s is not", end.symbol);
  else if (end.add > INT32_MAX) fe_error(c, expr->loc, "a loop runs at most 2^31-1 times");
  if (end.symbol || end.add > INT32_MAX) return false;
  if (statement->first && !fe_eval_first(c, statement->first, end.add, expr->loc, &loop->first)) return false;
  loop->count = end.add - loop->first;
  return true;
}

/* The values before the loop; those that cannot be carried are poisoned. */
static int carried_values(fe_compiler *c, const ast_statement *loop, ir_value **init, fe_symbol **carried) {
  int count = 0;
  for (int i = 0; i < loop->carried_count; i++) {
    fe_symbol *symbol = loop->carried[i];
    fe_value *value = &c->frame->slots[symbol->slot];
    if (value->kind == FE_POISON) continue;
    ir_value *tensor = fe_tensor(c, value, last_assignment(&loop->body, symbol)->loc);
    if (!tensor) {
      *value = fe_poison;
      continue;
    }
    init[count] = tensor;
    carried[count++] = symbol;
  }
  return count;
}

/* The values after a turn, which have the types of those before. */
static bool next_values(fe_compiler *c, const ast_statement *loop, const ir_block *body, fe_symbol *const *carried,
                        int count, ir_value **next) {
  bool good = true;
  for (int i = 0; i < count; i++) {
    const ast_statement *assignment = last_assignment(&loop->body, carried[i]);
    const ir_type *before = &body->args[i + 1]->type;
    next[i] = fe_tensor(c, &c->frame->slots[carried[i]->slot], assignment->value->loc);
    if (next[i] && !ir_type_equal(&next[i]->type, before)) {
      fe_error(c, assignment->loc, "'%s' is %s after a turn of the loop, but %s before it", carried[i]->name,
               fe_type_text(c, &next[i]->type), fe_type_text(c, before));
      fe_note(c, carried[i]->loc, "'%s' is declared here", carried[i]->name);
      next[i] = NULL;
    }
    good &= next[i] != NULL;
  }
  return good;
}

static int loops_around(const fe_compiler *c) {
  int count = 0;
  for (const fe_loop *loop = c->loop; loop; loop = loop->outer) count++;
  return count;
}

static void lower_for(fe_compiler *c, const ast_statement *statement) {
  fe_value *slots = c->frame->slots;
  fe_loop loop = {.outer = c->loop, .count = 1};
  bool good = loop_range(c, statement, &loop);
  if (loops_around(c) == FE_MOST_LOOPS) {
    fe_error(c, statement->loc, "more than %d loops inside each other", FE_MOST_LOOPS);
    good = false;
  }
  ir_value **init = DP_NEW_ARRAY(c->arena, ir_value *, statement->carried_count);
  ir_value **next = DP_NEW_ARRAY(c->arena, ir_value *, statement->carried_count);
  fe_symbol **carried = DP_NEW_ARRAY(c->arena, fe_symbol *, statement->carried_count);
  int count = carried_values(c, statement, init, carried);
  good &= count == statement->carried_count;

  const ir_type index = {.dtype = IR_i32};
  ir_block *outer = c->block, *body = outer ? ir_block_new(c->module, NULL) : NULL;
  if (!body) { /* a function called in a const */
    fe_error(c, statement->loc, "a loop runs with the model; a const is computed before");
    for (int i = 0; i < count; i++) slots[carried[i]->slot] = fe_poison;
    return;
  }
  loop.index = ir_add_arg(body, &index, statement->name.text);
  for (int i = 0; i < count; i++)
    slots[carried[i]->slot] = (fe_value){.kind = FE_TENSOR,
                                         .tensor = ir_add_arg(body, &init[i]->type, carried[i]->name)};
  slots[statement->symbol->slot] =
      good ? (fe_value){.kind = FE_INDEX, .loop = &loop} : fe_poison; /* a wrong count would be said again */
  outcome ignored = {0};
  c->block = body;
  c->loop = &loop;
  lower_statements(c, &statement->body, &ignored);
  good &= next_values(c, statement, body, carried, count, next);
  if (good) good = ir_emit(body, NULL, IR_OP_yield, next, count, NULL, 0, NULL, statement->loc, c->diags);
  c->block = outer;
  c->loop = loop.outer;

  const ir_attr attrs[] = {ir_attr_i("count", loop.count), ir_attr_i("first", loop.first)};
  ir_op *op = good ? ir_emit(outer, NULL, IR_OP_loop, init, count, attrs, loop.first ? 2 : 1, body, statement->loc,
                             c->diags)
                   : NULL;
  for (int i = 0; i < count; i++) {
    slots[carried[i]->slot] = op ? (fe_value){.kind = FE_TENSOR, .tensor = op->results[i]} : fe_poison;
    if (op) fe_name_value(c, op->results[i], carried[i]->name);
  }
}

/* ---- statements -------------------------------------------------------------------------------------------------- */

static void lower_assignment(fe_compiler *c, const ast_statement *statement) {
  fe_value value = fe_eval(c, statement->value);
  if (value.kind == FE_TENSOR) fe_name_value(c, value.tensor, statement->name.text);
  c->frame->slots[statement->symbol->slot] = value;
}

static void lower_statements(fe_compiler *c, const ast_statements *statements, outcome *result) {
  for (const ast_statement *s = statements->first; s && !c->stopped && !result->returned; s = s->next) {
    switch (s->kind) {
    case AST_ASSIGN: lower_assignment(c, s); break;
    case AST_FOR: lower_for(c, s); break;
    case AST_RETURN: *result = (outcome){true, fe_eval(c, s->value), s->value->loc}; break;
    case AST_DROP: break; /* reported by the resolver */
    }
  }
}

/* ---- functions --------------------------------------------------------------------------------------------------- */

static fe_value lower_body(fe_compiler *c, const ast_function *function, dp_loc *loc) {
  outcome result = {0};
  lower_statements(c, &function->body, &result);
  *loc = result.loc;
  if (!result.returned || result.value.kind == FE_POISON) return fe_poison;
  if (!function->result.shape.given) return result.value;
  ir_value *tensor = fe_tensor(c, &result.value, result.loc);
  if (!tensor || !fe_match_result(c, function, &tensor->type, result.loc)) return fe_poison;
  return (fe_value){.kind = FE_TENSOR, .tensor = tensor};
}

fe_value fe_inline(fe_compiler *c, const ast_function *function, fe_value *arguments, const ast_expr *call) {
  if (function->broken) return fe_poison;
  fe_frame frame = {.function = function, .caller = c->frame, .call = call->loc,
                    .depth = c->frame ? c->frame->depth + 1 : 1};
  if (frame.depth > FE_MOST_CALLS) {
    fe_error(c, call->loc, "more than %d calls inside each other", FE_MOST_CALLS);
    return fe_poison;
  }
  frame.slots = DP_NEW_ARRAY(c->arena, fe_value, function->slot_count);
  c->frame = &frame;
  for (int i = 0; i < function->parameters.count; i++) {
    const ast_parameter *parameter = &function->parameters.items[i];
    bool fits = fe_match_parameter(c, parameter, &arguments[i], call->arguments.items[i].value->loc);
    if (parameter->symbol) frame.slots[parameter->symbol->slot] = fits ? arguments[i] : fe_poison;
  }
  dp_loc loc;
  fe_value value = lower_body(c, function, &loc);
  c->frame = (fe_frame *)frame.caller;
  return value;
}

static bool graph_parameter(fe_compiler *c, const ast_parameter *parameter) {
  ir_type type = {.dtype = IR_f32};
  fe_value *slot = &c->frame->slots[parameter->symbol->slot];
  *slot = fe_poison;
  if (!fe_eval_dtype(c, parameter->dtype, &type.dtype)) return false;
  if (type.dtype != IR_f32 && type.dtype != IR_i32) {
    fe_error(c, parameter->dtype.loc, "values are f32 or i32; %s is how weights are stored", parameter->dtype.text);
    return false;
  }
  if (!fe_eval_shape(c, &parameter->shape.dims, parameter->shape.loc, &type)) return false;
  *slot = (fe_value){.kind = FE_TENSOR, .tensor = ir_add_arg(c->graph, &type, parameter->name.text)};
  return true;
}

static void lower_graph(fe_compiler *c, const ast_function *function) {
  ir_graph *graph = ir_add_graph(c->module, function->name.text);
  graph->loc = function->name.loc;
  fe_frame frame = {.function = function, .slots = DP_NEW_ARRAY(c->arena, fe_value, function->slot_count)};
  c->graph = c->block = graph->block;
  c->frame = &frame;
  c->last_weight = NULL;
  c->positions = NULL;
  c->cache_count = 0;
  for (int i = 0; i < function->parameters.count; i++) graph_parameter(c, &function->parameters.items[i]);
  dp_loc loc;
  fe_value value = lower_body(c, function, &loc);
  ir_value *result = fe_tensor(c, &value, loc);
  if (result) {
    fe_name_value(c, result, function->result.name.text);
    ir_emit(c->block, NULL, IR_OP_return, &result, 1, NULL, 0, NULL, loc, c->diags);
  }
  c->graph = c->block = NULL;
  c->frame = NULL;
}

void fe_lower(fe_compiler *c) {
  int count = 0;
  for (const ast_function *function = c->model->functions.first; function && !c->stopped; function = function->next) {
    if (!function->is_graph) continue;
    const fe_symbol *symbol = fe_find(&c->model_scope, function->name.text);
    if (!symbol || symbol->function != function) continue; /* declared twice, which was reported */
    if (++count > FE_MOST_GRAPHS) {
      fe_error(c, function->name.loc, "more than %d graphs", FE_MOST_GRAPHS);
      return;
    }
    lower_graph(c, function);
  }
  if (!count && !c->diags->errors) fe_error(c, c->model->name.loc, "model '%s' has no graph", c->model->name.text);
}
