/* frontend/names.c: scopes of symbols by name. Three nest: what is built in, the top-level functions of the text and
 * its imports, and the model. Locals are resolve.c's own. */
#include "frontend/sema.h"

#include <math.h>
#include <string.h>

static fe_symbol **bucket(fe_scope *scope, const char *name) {
  return &scope->buckets[dp_hash(0, name, strlen(name)) % FE_BUCKETS];
}

static fe_symbol *find_here(const fe_scope *scope, const char *name) {
  for (fe_symbol *symbol = *bucket((fe_scope *)scope, name); symbol; symbol = symbol->next)
    if (strcmp(symbol->name, name) == 0) return symbol;
  return NULL;
}

fe_symbol *fe_find(const fe_scope *scope, const char *name) {
  for (; scope; scope = scope->outer) {
    fe_symbol *symbol = find_here(scope, name);
    if (symbol) return symbol;
  }
  return NULL;
}

const char *fe_nearest(const fe_scope *scope, const char *name) {
  for (; scope; scope = scope->outer) {
    const char *near = dp_nearest_name(name, scope->names, scope->count);
    if (near) return near;
  }
  return NULL;
}

static fe_symbol *add(fe_compiler *c, fe_scope *scope, fe_symbol_kind kind, const char *name, dp_loc loc) {
  fe_symbol *symbol = DP_NEW(c->arena, fe_symbol), **at = bucket(scope, name);
  *symbol = (fe_symbol){.kind = kind, .name = name, .loc = loc, .next = *at};
  *at = symbol;
  DP_PUSH(c->arena, scope->names, scope->count, scope->cap) = name;
  return symbol;
}

fe_symbol *fe_declare(fe_compiler *c, fe_scope *scope, fe_symbol_kind kind, ast_name name) {
  const fe_symbol *taken = fe_find(scope, name.text);
  if (!taken) return add(c, scope, kind, name.text, name.loc);
  if (!taken->loc.file) {
    fe_error(c, name.loc, "'%s' is %s and cannot be declared", name.text, fe_symbol_phrase(taken));
  } else {
    fe_error(c, name.loc, "'%s' is declared already", name.text);
    fe_note(c, taken->loc, "as %s here", fe_symbol_phrase(taken));
  }
  return NULL;
}

const char *fe_symbol_phrase(const fe_symbol *symbol) {
  switch (symbol->kind) {
  case FE_SYM_MODEL: return "a model";
  case FE_SYM_PLAN: return "a plan";
  case FE_SYM_RECIPE: return "a recipe";
  case FE_SYM_DIM: return "a dim";
  case FE_SYM_CONST: return "a const";
  case FE_SYM_WEIGHT: return "a weight";
  case FE_SYM_FUNCTION: return "a function";
  case FE_SYM_GRAPH: return "a graph";
  case FE_SYM_LOCAL: return "a variable";
  case FE_SYM_STEP: return "a dimension of the step";
  case FE_SYM_POSITIONS: return "the positions of the step's tokens, i32[T],";
  case FE_SYM_MATH: return "a built-in function of numbers";
  case FE_SYM_HOST: return "an op of the host";
  case FE_SYM_OP:
  case FE_SYM_ATTEND: break;
  }
  return "a built-in op";
}

/* Ops that structure a graph are written in other ways than as calls: the names are free, except those that are
 * keywords of the language anyway. */
static bool callable(ir_opcode code) {
  switch (code) {
  case IR_OP_host:
  case IR_OP_weight:
  case IR_OP_constant:
  case IR_OP_select:
  case IR_OP_reshape:
  case IR_OP_attend: return false;
  default: return ir_op_info_of(code)->traits & IR_PURE;
  }
}

static const struct {
  const char *name;
  int arguments;
  double (*one)(double);
  double (*two)(double, double);
} math[] = {{"log", 1, log, NULL}, {"pow", 2, NULL, pow}, {"floor", 1, floor, NULL}, {"ceil", 1, ceil, NULL}};

double fe_math(const fe_symbol *symbol, const double *x) {
  for (size_t i = 0; i < DP_COUNT(math); i++)
    if (strcmp(math[i].name, symbol->name) == 0) return math[i].one ? math[i].one(x[0]) : math[i].two(x[0], x[1]);
  return NAN;
}

bool fe_is_taken(const char *name) {
  static const char *const words[] = {"T", "S", "pos", "attend", "as", "const", "dim", "fn", "for", "from", "graph", "import",
                                      "in", "model", "optional", "or", "paired", "return", "weight"};
  for (size_t i = 0; i < DP_COUNT(words); i++)
    if (strcmp(words[i], name) == 0) return true;
  for (size_t i = 0; i < DP_COUNT(math); i++)
    if (strcmp(math[i].name, name) == 0) return true;
  ir_opcode code;
  return ir_opcode_parse(name, &code) && callable(code);
}

void fe_builtins(fe_compiler *c) {
  const dp_loc nowhere = {0};
  static const char *const steps[] = {"T", "S"};
  for (size_t i = 0; i < DP_COUNT(steps); i++) {
    fe_symbol *step = add(c, &c->builtins, FE_SYM_STEP, steps[i], nowhere);
    step->value = (fe_value){.kind = FE_DIM, .dim = ir_symbol_dim(steps[i])};
    step->known = true;
  }
  add(c, &c->builtins, FE_SYM_POSITIONS, "pos", nowhere);
  add(c, &c->builtins, FE_SYM_ATTEND, "attend", nowhere);
  for (int code = 0; code < IR_OP_COUNT; code++)
    if (callable((ir_opcode)code))
      add(c, &c->builtins, FE_SYM_OP, ir_op_info_of((ir_opcode)code)->name, nowhere)->code = (ir_opcode)code;
  for (size_t i = 0; i < DP_COUNT(math); i++)
    add(c, &c->builtins, FE_SYM_MATH, math[i].name, nowhere)->slot = math[i].arguments;
  const dp_op *host;
  for (int i = 0; c->options->host_op && (host = c->options->host_op(c->options->host_user, i)); i++)
    add(c, &c->builtins, FE_SYM_HOST, host->name, nowhere)->host = host;
  c->library.outer = &c->builtins;
  c->model_scope.outer = &c->library;
}
