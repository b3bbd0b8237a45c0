/* frontend/resolve.c: links every name of every function to what it means, once, before anything is inlined; so that a
 * mistake in a function that nothing calls is found, and a mistake in one that is called often is found once. Locals
 * get the slot of a frame. Also says what needs no types: wrong numbers of arguments, missing returns, recursion. */
#include "frontend/sema.h"

#include <stdlib.h>
#include <string.h>

/* The loop around a statement: a variable from before it that is assigned inside is carried. */
typedef struct open_loop {
  struct open_loop *outer;
  int first_slot;
  fe_symbol **carried;
  int count, cap;
} open_loop;

typedef struct resolver {
  fe_compiler *c;
  const fe_scope *scope;
  ast_function *function; /* NULL in a constant */
  open_loop *loop;
  bool returns;
  fe_symbol **locals; /* visible ones, the newest last */
  int count, cap;
  fe_symbol **retired; /* variables of loops that are over */
  int retired_count, retired_cap;
} resolver;

/* ---- names ------------------------------------------------------------------------------------------------------- */

static fe_symbol *find_local(const resolver *r, const char *name) {
  for (int i = r->count - 1; i >= 0; i--)
    if (strcmp(r->locals[i]->name, name) == 0) return r->locals[i];
  return NULL;
}

static fe_symbol *find(const resolver *r, const char *name) {
  fe_symbol *local = find_local(r, name);
  return local ? local : fe_find(r->scope, name);
}

static void report_unknown(resolver *r, ast_name name, const char *what) {
  fe_compiler *c = r->c;
  const char **names = DP_NEW_ARRAY(c->arena, const char *, r->count + 1);
  for (int i = 0; i < r->count; i++) names[i] = r->locals[i]->name;
  const char *near = dp_nearest_name(name.text, names, r->count);
  if (!near) near = fe_nearest(r->scope, name.text);
  if (!near) {
    fe_error(c, name.loc, "there is no %s '%s'", what, name.text);
  } else {
    fe_error(c, name.loc, "there is no %s '%s'; did you mean '%s'?", what, name.text, near);
    const fe_symbol *symbol = find(r, near);
    if (symbol && symbol->loc.file) fe_note(c, symbol->loc, "'%s' is declared here", near);
  }
  for (int i = 0; i < r->retired_count; i++) {
    if (strcmp(r->retired[i]->name, name.text) != 0) continue;
    fe_note(c, r->retired[i]->loc,
            "this '%s' belongs to the loop; give it a value before the loop to keep the last one", name.text);
    break;
  }
}

static fe_symbol *new_local(resolver *r, ast_name name) {
  fe_compiler *c = r->c;
  if (r->function->slot_count == FE_MOST_LOCALS) {
    fe_error(c, name.loc, "'%s' has more than %d variables", r->function->name.text, FE_MOST_LOCALS);
    c->stopped = true;
  }
  fe_symbol *symbol = DP_NEW(c->arena, fe_symbol);
  *symbol = (fe_symbol){.kind = FE_SYM_LOCAL, .name = name.text, .loc = name.loc, .slot = r->function->slot_count++};
  DP_PUSH(c->arena, r->locals, r->count, r->cap) = symbol;
  return symbol;
}

/* A new variable, parameter or loop index: a name that means nothing else here. */
static fe_symbol *declare_local(resolver *r, ast_name name, const char *what) {
  const fe_symbol *taken = fe_find(r->scope, name.text);
  if (taken && !taken->loc.file) {
    fe_error(r->c, name.loc, "'%s' is %s; %s needs another name", name.text, fe_symbol_phrase(taken), what);
  } else if (taken) {
    fe_error(r->c, name.loc, "'%s' is %s; %s needs another name", name.text, fe_symbol_phrase(taken), what);
    fe_note(r->c, taken->loc, "declared here");
  }
  return new_local(r, name);
}

/* ---- expressions ------------------------------------------------------------------------------------------------- */

static void resolve_expr(resolver *r, ast_expr *expr);

static void resolve_exprs(resolver *r, const ast_exprs *exprs) {
  for (int i = 0; i < exprs->count; i++) resolve_expr(r, exprs->items[i]);
}

static void resolve_name(resolver *r, ast_expr *expr) {
  fe_symbol *symbol = find(r, expr->name.text);
  if (!symbol) {
    report_unknown(r, expr->name, "variable, weight, dim or const");
    return;
  }
  switch (symbol->kind) {
  case FE_SYM_FUNCTION:
  case FE_SYM_OP:
  case FE_SYM_MATH:
  case FE_SYM_HOST:
  case FE_SYM_ATTEND:
    fe_error(r->c, expr->loc, "'%s' is %s: call it, %s(...)", symbol->name, fe_symbol_phrase(symbol), symbol->name);
    break;
  case FE_SYM_GRAPH:
    fe_error(r->c, expr->loc, "'%s' is a graph, which has no value inside the model", symbol->name);
    fe_note(r->c, symbol->loc, "declared here");
    break;
  default: expr->symbol = symbol;
  }
}

static void resolve_arguments_of_function(resolver *r, const ast_expr *call, const ast_function *function) {
  int given = call->arguments.count, wanted = function->parameters.count;
  if (given != wanted) {
    fe_error(r->c, call->loc, "'%s' takes %d argument%s but is given %d", function->name.text, wanted,
             wanted == 1 ? "" : "s", given);
    fe_note(r->c, function->name.loc, "'%s' is declared here", function->name.text);
  }
  for (int i = 0; i < given; i++) {
    const ast_argument *argument = &call->arguments.items[i];
    if (argument->name.text)
      fe_error(r->c, argument->name.loc, "arguments of functions have no names; give '%s' by its position",
               argument->name.text);
    resolve_expr(r, argument->value);
  }
}

static void resolve_arguments_of_math(resolver *r, ast_expr *call, fe_symbol *callee) {
  int given = call->arguments.count, wanted = callee->slot;
  call->symbol = given == wanted ? callee : NULL;
  if (given != wanted)
    fe_error(r->c, call->loc, "'%s' takes %d number%s but is given %d", callee->name, wanted, wanted == 1 ? "" : "s",
             given);
  for (int i = 0; i < given; i++) {
    const ast_argument *argument = &call->arguments.items[i];
    if (argument->name.text) {
      fe_error(r->c, argument->name.loc, "'%s' takes numbers without names", callee->name);
      call->symbol = NULL;
    }
    resolve_expr(r, argument->value);
  }
}

static void resolve_arguments_of_host(resolver *r, ast_expr *call, fe_symbol *callee) {
  int given = call->arguments.count, wanted = callee->host->operands;
  call->symbol = given == wanted ? callee : NULL;
  if (given != wanted)
    fe_error(r->c, call->loc, "'%s' takes %d operand%s but is given %d", callee->name, wanted, wanted == 1 ? "" : "s", given);
  for (int i = 0; i < given; i++) {
    const ast_argument *argument = &call->arguments.items[i];
    if (argument->name.text) {
      fe_error(r->c, argument->name.loc, "'%s' takes operands without names", callee->name);
      call->symbol = NULL;
    }
    resolve_expr(r, argument->value);
  }
}

/* A cache is not declared: its name means nothing else. */
static void resolve_cache(resolver *r, const ast_argument *argument) {
  ast_expr *value = argument->value;
  if (value->kind == AST_INDEX && value->left->kind == AST_NAME)
    resolve_expr(r, value->right);
  else if (value->kind != AST_ERROR)
    fe_error(r->c, value->loc, "a cache is named with its layer: cache = kv[l]");
}

/* False after a mistake that leaves the call without meaning. */
static bool resolve_argument_of_op(resolver *r, const ast_argument *argument, const fe_symbol *op) {
  fe_compiler *c = r->c;
  const char *name = argument->name.text;
  if (fe_is_flag(op->kind, op->code, argument)) return true;
  if (name && !fe_takes_name(op->kind, op->code, name)) {
    fe_error(c, argument->name.loc, "'%s' has no attribute '%s': %s", op->name, name,
             fe_signature(c, op->kind, op->code));
    return false;
  }
  if (name && op->kind == FE_SYM_ATTEND && strcmp(name, "cache") == 0) {
    resolve_cache(r, argument);
    return true;
  }
  static const char *const causal = "causal";
  const ast_expr *value = argument->value;
  if (op->kind == FE_SYM_ATTEND && !name && value->kind == AST_NAME && !find(r, value->name.text) &&
      dp_nearest_name(value->name.text, &causal, 1)) {
    fe_error(c, value->loc, "there is no '%s'; did you mean '%s'?", value->name.text, causal);
    return false;
  }
  resolve_expr(r, argument->value);
  return true;
}

static void add_call(resolver *r, const ast_expr *call) {
  ast_calls *calls = &r->function->calls;
  DP_PUSH(r->c->arena, calls->items, calls->count, calls->cap) = call;
}

static void resolve_call(resolver *r, ast_expr *call) {
  fe_symbol *callee = find(r, call->name.text);
  const ast_arguments none = {0};
  if (!callee) report_unknown(r, call->name, "function or op");
  switch (callee ? callee->kind : FE_SYM_LOCAL) {
  case FE_SYM_FUNCTION:
    if (r->function) add_call(r, call);
    resolve_arguments_of_function(r, call, callee->function);
    call->symbol = call->arguments.count == callee->function->parameters.count ? callee : NULL;
    return;
  case FE_SYM_MATH:
    resolve_arguments_of_math(r, call, callee);
    return;
  case FE_SYM_HOST:
    resolve_arguments_of_host(r, call, callee);
    return;
  case FE_SYM_OP:
  case FE_SYM_ATTEND:
    call->symbol = callee;
    for (int i = 0; i < call->arguments.count; i++)
      if (!resolve_argument_of_op(r, &call->arguments.items[i], callee)) call->symbol = NULL;
    return;
  default: break;
  }
  if (callee) {
    fe_error(r->c, call->name.loc, "'%s' is %s, which cannot be called", callee->name, fe_symbol_phrase(callee));
    if (callee->loc.file) fe_note(r->c, callee->loc, "declared here");
  }
  for (int i = 0; i < call->arguments.count; i++) /* a bare word may be a flag of the op that was meant */
    if (call->arguments.items[i].value->kind == AST_CALL) resolve_expr(r, call->arguments.items[i].value);
  call->arguments = none;
}

/* Trees are at most AST_MAX_DEPTH deep. */
static void resolve_expr(resolver *r, ast_expr *expr) {
  if (r->c->stopped) return;
  switch (expr->kind) {
  case AST_ERROR:
  case AST_INT:
  case AST_FLOAT: break;
  case AST_NAME: resolve_name(r, expr); break;
  case AST_NEGATE: resolve_expr(r, expr->left); break;
  case AST_BINARY:
  case AST_INDEX:
    resolve_expr(r, expr->left);
    resolve_expr(r, expr->right);
    break;
  case AST_FIELD:
    resolve_expr(r, expr->left);
    if (strcmp(expr->name.text, "T") != 0) {
      fe_error(r->c, expr->name.loc, "'.%s' means nothing; a weight is transposed by '.T'", expr->name.text);
      expr->kind = AST_ERROR;
    }
    break;
  case AST_CALL: resolve_call(r, expr); break;
  case AST_AS:
    resolve_expr(r, expr->left);
    resolve_exprs(r, &expr->shape);
    break;
  }
}

/* ---- statements -------------------------------------------------------------------------------------------------- */

static void carry(resolver *r, fe_symbol *symbol) {
  for (open_loop *loop = r->loop; loop && symbol->slot < loop->first_slot; loop = loop->outer) {
    bool known = false;
    for (int i = 0; i < loop->count && !known; i++) known = loop->carried[i] == symbol;
    if (!known) DP_PUSH(r->c->arena, loop->carried, loop->count, loop->cap) = symbol;
  }
}

static void resolve_assignment(resolver *r, ast_statement *statement) {
  resolve_expr(r, statement->value);
  fe_symbol *symbol = find_local(r, statement->name.text);
  if (!symbol) symbol = declare_local(r, statement->name, "a variable");
  else carry(r, symbol);
  statement->symbol = symbol;
}

static int by_slot(const void *a, const void *b) {
  const fe_symbol *const *x = a, *const *y = b;
  return ((*x)->slot > (*y)->slot) - ((*x)->slot < (*y)->slot);
}

static void resolve_statements(resolver *r, const ast_statements *statements);

static void resolve_for(resolver *r, ast_statement *statement) {
  if (statement->first) resolve_expr(r, statement->first);
  resolve_expr(r, statement->value);
  open_loop loop = {.outer = r->loop, .first_slot = r->function->slot_count};
  int before = r->count;
  const fe_symbol *taken = find_local(r, statement->name.text);
  if (taken) {
    fe_error(r->c, statement->name.loc, "'%s' is a variable already; the loop's needs another name",
             statement->name.text);
    fe_note(r->c, taken->loc, "declared here");
  }
  statement->symbol = declare_local(r, statement->name, "the loop's variable");
  r->loop = &loop;
  resolve_statements(r, &statement->body);
  r->loop = loop.outer;
  for (int i = before + 1; i < r->count; i++)
    DP_PUSH(r->c->arena, r->retired, r->retired_count, r->retired_cap) = r->locals[i];
  r->count = before;
  if (loop.count) qsort(loop.carried, (size_t)loop.count, sizeof *loop.carried, by_slot);
  statement->carried = loop.carried;
  statement->carried_count = loop.count;
}

static void resolve_statements(resolver *r, const ast_statements *statements) {
  const ast_statement *ended = NULL;
  for (ast_statement *statement = statements->first; statement && !r->c->stopped; statement = statement->next) {
    if (ended) {
      fe_error(r->c, statement->loc, "nothing runs after 'return'");
      fe_note(r->c, ended->loc, "it stands here");
      ended = NULL;
    }
    switch (statement->kind) {
    case AST_ASSIGN: resolve_assignment(r, statement); break;
    case AST_FOR: resolve_for(r, statement); break;
    case AST_RETURN:
      resolve_expr(r, statement->value);
      r->returns = true;
      if (r->loop) fe_error(r->c, statement->loc, "'return' inside a loop: assign the value, and return it after");
      else ended = statement;
      break;
    case AST_DROP:
      resolve_expr(r, statement->value);
      fe_error(r->c, statement->loc, "the value of this expression is not used");
      break;
    }
  }
}

/* ---- functions --------------------------------------------------------------------------------------------------- */

/* In a fn's parameter a name that means nothing yet stands for whatever the argument has there. */
static void resolve_parameter_shape(resolver *r, const ast_parameter *parameter) {
  for (int i = 0; i < parameter->shape.dims.count; i++) {
    ast_expr *dim = parameter->shape.dims.items[i];
    if (!r->function->is_graph && dim->kind == AST_NAME && !find(r, dim->name.text)) {
      dim->binds = true;
      dim->symbol = new_local(r, dim->name);
    } else {
      resolve_expr(r, dim);
    }
  }
}

static void resolve_function(fe_compiler *c, const fe_scope *scope, ast_function *function) {
  resolver r = {.c = c, .scope = scope, .function = function};
  for (int i = 0; i < function->parameters.count; i++) {
    ast_parameter *parameter = &function->parameters.items[i];
    resolve_parameter_shape(&r, parameter);
    const fe_symbol *taken = find_local(&r, parameter->name.text);
    if (taken) {
      fe_error(c, parameter->name.loc, "'%s' has two parameters called '%s'", function->name.text,
               parameter->name.text);
      fe_note(c, taken->loc, "the other one");
    }
    parameter->symbol = declare_local(&r, parameter->name, "a parameter");
  }
  resolve_exprs(&r, &function->result.shape.dims);
  resolve_statements(&r, &function->body);
  if (!r.returns && !c->stopped)
    fe_error(c, function->end, "%s '%s' ends without 'return'", function->is_graph ? "graph" : "function",
             function->name.text);
}

/* ---- recursion --------------------------------------------------------------------------------------------------- */

enum { UNSEEN, OPEN, DONE };

typedef struct call_path {
  const struct call_path *caller;
  ast_function *function;
  const ast_expr *call; /* by which the caller enters it */
} call_path;

/* Deeper than this no call can be inlined anyway, which is said there. */
enum { MOST_CALLS_CHECKED = 4 * FE_MOST_CALLS };

static void find_recursion(fe_compiler *c, const call_path *path, int depth) {
  ast_function *function = path->function;
  function->mark = OPEN;
  for (int i = 0; i < function->calls.count && !c->stopped && depth < MOST_CALLS_CHECKED; i++) {
    const ast_expr *call = function->calls.items[i];
    if (!call->symbol) continue;
    ast_function *callee = call->symbol->function;
    if (callee->mark == UNSEEN) {
      find_recursion(c, &(call_path){path, callee, call}, depth + 1);
    } else if (callee->mark == OPEN) {
      fe_error(c, call->loc, "recursion: '%s' %s; functions are inlined", callee->name.text,
               callee == function ? "calls itself" : "is being called already");
      for (const call_path *at = path; at->function != callee; at = at->caller)
        fe_note(c, at->call->loc, "'%s' is called here", at->function->name.text);
      callee->broken = true;
    }
  }
  function->mark = DONE;
}

/* ---- the whole text ---------------------------------------------------------------------------------------------- */

static void declare_functions(fe_compiler *c, fe_scope *scope, const ast_functions *functions) {
  for (ast_function *function = functions->first; function; function = function->next) {
    fe_symbol *symbol = fe_declare(c, scope, function->is_graph ? FE_SYM_GRAPH : FE_SYM_FUNCTION, function->name);
    if (symbol) symbol->function = function;
  }
}

static void declare_model(fe_compiler *c) {
  for (ast_constant *constant = c->model->constants; constant; constant = constant->next)
    fe_declare(c, &c->model_scope, constant->is_dim ? FE_SYM_DIM : FE_SYM_CONST, constant->definition.name);
  for (ast_weight *weight = c->model->weights; weight; weight = weight->next) {
    fe_symbol *symbol = fe_declare(c, &c->model_scope, FE_SYM_WEIGHT, weight->name);
    if (symbol) symbol->weight = weight;
  }
  declare_functions(c, &c->model_scope, &c->model->functions);
}

void fe_resolve_expr(fe_compiler *c, ast_expr *expr) {
  resolver r = {.c = c, .scope = &c->model_scope};
  resolve_expr(&r, expr);
}

static void resolve_source(resolver *r, const ast_source *source) {
  ast_expr *const exprs[] = {source->run, source->step, source->first, source->paired, source->plus};
  for (size_t i = 0; i < DP_COUNT(exprs); i++)
    if (exprs[i]) resolve_expr(r, exprs[i]);
}

static void resolve_model(fe_compiler *c) {
  resolver r = {.c = c, .scope = &c->model_scope};
  for (ast_constant *constant = c->model->constants; constant; constant = constant->next)
    resolve_expr(&r, constant->definition.value);
  for (ast_weight *weight = c->model->weights; weight; weight = weight->next) {
    if (weight->first) resolve_expr(&r, weight->first);
    resolve_exprs(&r, &weight->stack.dims);
    resolve_exprs(&r, &weight->shape.dims);
    for (int i = 0; i < weight->sources.count; i++) resolve_source(&r, &weight->sources.items[i]);
  }
}

void fe_resolve(fe_compiler *c) {
  const ast_functions *all[] = {&c->functions, &c->model->functions};
  const fe_scope *scopes[] = {&c->library, &c->model_scope};
  declare_functions(c, &c->library, &c->functions);
  declare_model(c);
  resolve_model(c);
  for (size_t i = 0; i < DP_COUNT(all); i++)
    for (ast_function *f = all[i]->first; f && !c->stopped; f = f->next) resolve_function(c, scopes[i], f);
  for (size_t i = 0; i < DP_COUNT(all); i++)
    for (ast_function *f = all[i]->first; f && !c->stopped; f = f->next)
      if (f->mark == UNSEEN) find_recursion(c, &(call_path){NULL, f, NULL}, 0);
}
