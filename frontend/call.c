/* frontend/call.c: calls: of functions, which are inlined; of ops, generically by their row in ir/ops.def; and of
 * attend, which writes the cache as well. */
#include "frontend/sema.h"

#include <math.h>
#include <string.h>

/* ---- what a row of ops.def says ---------------------------------------------------------------------------------- */

/* Word `i` of "x[T,heads,hd] pos[T]" or "eps:f causal:i?": its name, and what follows up to the space. */
static bool spec_word(const char *spec, int i, const char **name, int *length, const char **rest) {
  const char *at = spec;
  for (; *at && i > 0; i--) {
    at += strcspn(at, " ");
    at += strspn(at, " ");
  }
  *name = at;
  *length = (int)strcspn(at, "[?.: ");
  *rest = at + *length;
  return *at;
}

static int operand_count(ir_opcode code) {
  const char *name, *rest;
  int count = 0, length;
  while (spec_word(ir_op_info_of(code)->operands, count, &name, &length, &rest)) count++;
  return count;
}

static char attribute_kind(ir_opcode code, const char *attribute) {
  const char *name, *rest;
  int length;
  for (int i = 0; spec_word(ir_op_info_of(code)->attrs, i, &name, &length, &rest); i++)
    if ((int)strlen(attribute) == length && strncmp(attribute, name, (size_t)length) == 0) return rest[1];
  return 0;
}

static int operand_position(ir_opcode code, const char *operand) {
  const char *name, *rest;
  int length;
  for (int i = 0; spec_word(ir_op_info_of(code)->operands, i, &name, &length, &rest); i++)
    if ((int)strlen(operand) == length && strncmp(operand, name, (size_t)length) == 0) return i;
  return -1;
}

bool fe_takes_name(fe_symbol_kind kind, ir_opcode code, const char *name) {
  static const char *const of_attend[] = {"cache", "scale", "causal", "window"};
  char attribute = attribute_kind(code, name);
  if (kind != FE_SYM_ATTEND) return attribute == 'i' || attribute == 'f' || operand_position(code, name) >= 0;
  for (size_t i = 0; i < DP_COUNT(of_attend); i++)
    if (strcmp(name, of_attend[i]) == 0) return true;
  return false;
}

bool fe_is_flag(fe_symbol_kind kind, ir_opcode code, const ast_argument *argument) {
  if (argument->name.text || argument->value->kind != AST_NAME) return false;
  const char *word = argument->value->name.text;
  if (kind == FE_SYM_ATTEND) return strcmp(word, "causal") == 0;
  return attribute_kind(code, word) == 'i';
}

/* "rms_norm(x, weight, eps)" */
const char *fe_signature(fe_compiler *c, fe_symbol_kind kind, ir_opcode code) {
  if (kind == FE_SYM_ATTEND) return "attend(q, k, v, causal, window = w, scale = number, cache = kv[l])";
  const ir_op_info *info = ir_op_info_of(code);
  const char *specs[] = {info->operands, info->attrs}, *name, *rest, *separator = "";
  dp_str text = {0};
  dp_str_addf(&text, "%s(", info->name);
  for (int s = 0; s < 2; s++) {
    int length;
    for (int i = 0; spec_word(specs[s], i, &name, &length, &rest); i++) {
      dp_str_addf(&text, "%s%.*s", separator, length, name);
      separator = ", ";
    }
  }
  dp_str_addc(&text, ')');
  const char *copy = dp_arena_strdup(c->arena, text.text ? text.text : "");
  dp_str_free(&text);
  return copy;
}

/* ---- ops --------------------------------------------------------------------------------------------------------- */

enum { MOST_OPERANDS = 8, MOST_ATTRIBUTES = 8 };

typedef struct op_call {
  fe_compiler *c;
  ir_opcode code;
  fe_value operands[MOST_OPERANDS]; /* by position; those not given are FE_POISON */
  dp_loc places[MOST_OPERANDS];
  bool given[MOST_OPERANDS];
  ir_attr attrs[MOST_ATTRIBUTES];
  int attr_count;
  bool failed;
} op_call;

static bool known_number(fe_compiler *c, const char *what, const fe_value *value, dp_loc loc, double *number) {
  if (value->kind == FE_POISON) return false;
  if (fe_is_number(value, number)) return true;
  fe_error(c, loc, "'%s' must be a number that is known before the model runs, but this is %s", what,
           fe_value_text(c, value));
  return false;
}

static void set_attribute(op_call *call, const char *name, const fe_value *value, dp_loc loc) {
  fe_compiler *c = call->c;
  double number;
  char kind = attribute_kind(call->code, name);
  call->failed = true;
  for (int i = 0; i < call->attr_count; i++) {
    if (strcmp(call->attrs[i].name, name) != 0) continue;
    fe_error(c, loc, "'%s' is given twice", name);
    return;
  }
  if (!known_number(c, name, value, loc, &number)) return;
  if (kind == 'i' && value->kind != FE_DIM) {
    fe_error(c, loc, "'%s' must be an integer, but this is %s", name, fe_value_text(c, value));
    return;
  }
  if (kind == 'f' && fabs(number) > 3.4028234663852886e38) {
    fe_error(c, loc, "%g does not fit in an f32", number);
    return;
  }
  if (call->attr_count == MOST_ATTRIBUTES) return;
  call->attrs[call->attr_count++] = kind == 'i' ? ir_attr_i(name, value->dim.add) : ir_attr_f(name, number);
  call->failed = false;
}

static bool is_optional_operand(ir_opcode code, int position) {
  const char *name, *rest;
  int length;
  return spec_word(ir_op_info_of(code)->operands, position, &name, &length, &rest) && strchr(rest, '?') &&
         (!strchr(rest, ' ') || strchr(rest, '?') < strchr(rest, ' '));
}

static void set_operand(op_call *call, int position, const fe_value *value, dp_loc loc) {
  if (call->given[position]) fe_error(call->c, loc, "this operand is given twice");
  call->failed |= call->given[position] || value->kind == FE_POISON;
  call->given[position] = true;
  call->operands[position] = *value;
  call->places[position] = loc;
}

static void op_argument(op_call *call, const ast_argument *argument, int *position) {
  fe_compiler *c = call->c;
  const ir_op_info *info = ir_op_info_of(call->code);
  const char *name, *rest;
  int length, operands = operand_count(call->code);
  if (fe_is_flag(FE_SYM_OP, call->code, argument)) {
    const fe_value one = fe_integer(1);
    set_attribute(call, argument->value->name.text, &one, argument->value->loc);
    return;
  }
  fe_value value = fe_eval(c, argument->value);
  double number;
  /* An optional operand is left out by a number in its place, which is then an attribute. */
  while (!argument->name.text && fe_is_number(&value, &number) && is_optional_operand(call->code, *position)) ++*position;
  int named = argument->name.text ? operand_position(call->code, argument->name.text) : -1;
  if (named >= 0) {
    set_operand(call, named, &value, argument->value->loc);
  } else if (argument->name.text) {
    set_attribute(call, argument->name.text, &value, argument->value->loc);
  } else if (*position < operands && *position < MOST_OPERANDS) {
    set_operand(call, (*position)++, &value, argument->value->loc);
  } else if (spec_word(info->attrs, *position - operands, &name, &length, &rest)) {
    ++*position;
    set_attribute(call, dp_arena_strndup(c->arena, name, (size_t)length), &value, argument->value->loc);
  } else {
    if (value.kind != FE_POISON)
      fe_error(c, argument->value->loc, "one argument too many: %s", fe_signature(c, FE_SYM_OP, call->code));
    call->failed = true;
  }
}

/* Everything that the row does not mark as optional is there. */
static bool complete(op_call *call, dp_loc loc) {
  const ir_op_info *info = ir_op_info_of(call->code);
  const char *name, *rest;
  int length;
  for (int i = 0; i < MOST_OPERANDS && spec_word(info->operands, i, &name, &length, &rest); i++) {
    if (call->given[i] || is_optional_operand(call->code, i)) continue;
    fe_error(call->c, loc, "'%.*s' is missing: %s", length, name, fe_signature(call->c, FE_SYM_OP, call->code));
    return false;
  }
  for (int i = 0; spec_word(info->attrs, i, &name, &length, &rest); i++) {
    bool given = rest[2] == '?';
    for (int j = 0; j < call->attr_count && !given; j++)
      given = (int)strlen(call->attrs[j].name) == length && strncmp(call->attrs[j].name, name, (size_t)length) == 0;
    if (given) continue;
    fe_error(call->c, loc, "'%.*s' is missing: %s", length, name, fe_signature(call->c, FE_SYM_OP, call->code));
    return false;
  }
  return true;
}

/* Of numbers only: the ops that make sense in a const, computed now. */
static bool fold_op(fe_compiler *c, ir_opcode code, const double *x, dp_loc loc, fe_value *value) {
  double result;
  switch (code) {
  case IR_OP_sqrt: result = sqrt(x[0]); break;
  case IR_OP_rsqrt: result = 1 / sqrt(x[0]); break;
  case IR_OP_exp: result = exp(x[0]); break;
  case IR_OP_max: result = x[0] >= x[1] ? x[0] : x[1]; break;
  case IR_OP_min: result = x[0] <= x[1] ? x[0] : x[1]; break;
  default: return false;
  }
  *value = fe_number(result);
  if (!isfinite(result)) {
    fe_error(c, loc, "%s of %g is not a number that can be used", ir_op_info_of(code)->name, x[0]);
    *value = fe_poison;
  }
  return true;
}

static fe_value eval_op(fe_compiler *c, const ast_expr *expr) {
  op_call call = {.c = c, .code = expr->symbol->code};
  int position = 0;
  for (int i = 0; i < expr->arguments.count; i++) op_argument(&call, &expr->arguments.items[i], &position);
  if (call.failed || !complete(&call, expr->loc)) return fe_poison;
  double numbers[MOST_OPERANDS];
  int count = 0, number_count = 0;
  for (int i = 0; i < MOST_OPERANDS; i++) {
    if (!call.given[i]) continue;
    count++;
    if (fe_is_number(&call.operands[i], &numbers[number_count])) number_count++;
  }
  fe_value folded;
  if (number_count == count && fold_op(c, call.code, numbers, expr->loc, &folded)) return folded;
  ir_value *operands[MOST_OPERANDS];
  count = 0;
  for (int i = 0; i < MOST_OPERANDS; i++) {
    if (!call.given[i]) continue;
    const fe_value *value = &call.operands[i];
    bool index = value->kind == FE_INDEX && call.code == IR_OP_every;
    operands[count] = index ? value->loop->index : fe_tensor(c, value, call.places[i]);
    if (!operands[count++]) return fe_poison;
  }
  return fe_emit(c, call.code, operands, count, call.attrs, call.attr_count, expr->loc);
}

/* ---- functions of numbers ---------------------------------------------------------------------------------------- */

static fe_value eval_math(fe_compiler *c, const ast_expr *expr) {
  double x[2] = {0};
  for (int i = 0; i < expr->arguments.count && i < 2; i++) {
    const ast_expr *argument = expr->arguments.items[i].value;
    fe_value value = fe_eval(c, argument);
    if (fe_is_number(&value, &x[i])) continue;
    if (value.kind != FE_POISON)
      fe_error(c, argument->loc, "'%s' takes numbers that are known before the model runs, but this is %s",
               expr->name.text, fe_value_text(c, &value));
    return fe_poison;
  }
  double result = fe_math(expr->symbol, x);
  if (isfinite(result)) return fe_number(result);
  fe_error(c, expr->loc, "%s of %g is not a number that can be used", expr->name.text, x[0]);
  return fe_poison;
}

/* ---- attend ------------------------------------------------------------------------------------------------------ */

typedef struct attention {
  ir_value *q, *k, *v;
  ir_value *window; /* NULL: none */
  bool causal;
  const char *cache; /* NULL: not given */
  fe_value layer;
  dp_loc layer_loc;
  double scale;
  bool has_scale;
} attention;

static bool attend_argument(fe_compiler *c, const ast_argument *argument, attention *a, int *position) {
  const ast_expr *value = argument->value;
  const char *name = argument->name.text;
  if (fe_is_flag(FE_SYM_ATTEND, IR_OP_attend, argument)) {
    a->causal = true;
    return true;
  }
  if (!name) {
    fe_value tensor = fe_eval(c, value);
    if (*position == 3) {
      fe_error(c, value->loc, "one argument too many: attend(q, k, v, causal, cache = kv[l])");
      return false;
    }
    ir_value **to = (ir_value **[]){&a->q, &a->k, &a->v}[(*position)++];
    *to = fe_tensor(c, &tensor, value->loc);
    if (!*to || ((*to)->type.rank == 3 && (*to)->type.dtype == IR_f32)) return *to;
    fe_error(c, value->loc, "attend takes f32[T, heads, hd], but this is %s", fe_type_text(c, &(*to)->type));
    return false;
  }
  if (strcmp(name, "cache") == 0) {
    if (value->kind != AST_INDEX || value->left->kind != AST_NAME) return false; /* reported by the resolver */
    a->cache = value->left->name.text;
    a->layer = fe_eval(c, value->right);
    a->layer_loc = value->right->loc;
    return a->layer.kind != FE_POISON;
  }
  if (strcmp(name, "scale") == 0) {
    fe_value scale = fe_eval(c, value);
    a->has_scale = true;
    return known_number(c, name, &scale, value->loc, &a->scale);
  }
  if (strcmp(name, "window") == 0) {
    fe_value window = fe_eval(c, value);
    a->window = fe_tensor(c, &window, value->loc);
    return a->window;
  }
  if (strcmp(name, "causal") == 0) {
    fe_value causal = fe_eval(c, value);
    if (causal.kind == FE_DIM && !causal.dim.symbol && (causal.dim.add == 0 || causal.dim.add == 1)) {
      a->causal = causal.dim.add;
      return true;
    }
    if (causal.kind != FE_POISON)
      fe_error(c, value->loc, "'causal' is 0 or 1, but this is %s", fe_value_text(c, &causal));
    return false;
  }
  return false; /* reported by the resolver */
}

/* A layer of a cache is written once a step: two attends that share one would read each other's keys. */
static bool claim_cache(fe_compiler *c, const attention *a, dp_loc loc) {
  const fe_loop *loop = a->layer.loop;
  int64_t end = loop->first + loop->count;
  for (const fe_loop *at = c->loop; at; at = at->outer) {
    if (at == loop || at->count == 1) continue;
    fe_error(c, loc, "the loop over '%s' comes back to the same layers of cache '%s', and would overwrite them",
             at->index->name, a->cache);
    return false;
  }
  for (int i = 0; i < c->cache_count; i++) {
    const fe_cache_use *use = &c->caches[i];
    if (strcmp(use->name, a->cache) != 0 || use->begin >= end || use->end <= loop->first) continue;
    fe_error(c, loc, "another attend writes the same layers of cache '%s'; give this one a cache of its own", a->cache);
    if (memcmp(&use->loc, &loc, sizeof loc) != 0) fe_note(c, use->loc, "the other one");
    return false;
  }
  DP_PUSH(c->arena, c->caches, c->cache_count, c->cache_cap) = (fe_cache_use){a->cache, loop->first, end, loc};
  return true;
}

static ir_value *append(fe_compiler *c, const attention *a, ir_value *x, ir_value *layer, int part, dp_loc loc) {
  ir_value *operands[] = {x, layer};
  const ir_attr attrs[] = {ir_attr_s("cache", a->cache), ir_attr_i("part", part)};
  ir_value *all = fe_emit(c, IR_OP_append, operands, 2, attrs, 2, loc).tensor;
  if (all) fe_name_value(c, all, dp_arena_printf(c->arena, "%s_%s", a->cache, part ? "values" : "keys"));
  return all;
}

static fe_value eval_attend(fe_compiler *c, const ast_expr *expr) {
  attention a = {0};
  int position = 0, missing;
  bool good = true;
  for (int i = 0; i < expr->arguments.count; i++) good &= attend_argument(c, &expr->arguments.items[i], &a, &position);
  missing = 3 - position;
  if (good && missing) {
    fe_error(c, expr->loc, "attend takes q, k and v: attend(q, k, v, causal, cache = kv[l])");
    good = false;
  }
  if (good && !a.cache) {
    fe_error(c, expr->loc, "attend needs the cache that keeps k and v: attend(q, k, v, causal, cache = kv[l])");
    good = false;
  }
  if (!good) return fe_poison;
  ir_value *layer = fe_layer_index(c, &a.layer, a.layer_loc);
  if (!layer || !claim_cache(c, &a, expr->loc)) return fe_poison;
  const ir_dim rows = a.q->type.dims[0], hd = a.q->type.dims[2];
  const ir_value *sides[] = {a.k, a.v};
  for (int i = 0; i < 2; i++) {
    if (ir_dim_equal(sides[i]->type.dims[0], rows)) continue;
    fe_error(c, expr->loc, "attend: q is %s but %s is %s: every token brings its key and value",
             fe_type_text(c, &a.q->type), i ? "v" : "k", fe_type_text(c, &sides[i]->type));
    return fe_poison;
  }
  if (!a.has_scale && hd.symbol) {
    fe_error(c, expr->loc, "attend: the head dimension of %s must be known, or scale = given",
             fe_type_text(c, &a.q->type));
    return fe_poison;
  }
  ir_value *keys = append(c, &a, a.k, layer, 0, expr->loc), *values = append(c, &a, a.v, layer, 1, expr->loc);
  if (!keys || !values) return fe_poison;
  ir_value *operands[] = {a.q, keys, values, a.window};
  const ir_attr attrs[] = {ir_attr_f("scale", a.has_scale ? a.scale : 1 / sqrt((double)hd.add)),
                           ir_attr_i("causal", a.causal)};
  return fe_emit(c, IR_OP_attend, operands, a.window ? 4 : 3, attrs, 2, expr->loc);
}

/* ---- ops of the host ------------------------------------------------------------------------------------------------- */

/* What the op's own rule makes of the operands' rows; without one the first operand's. */
static bool host_shape(fe_compiler *c, const dp_op *op, ir_value *const *operands, dp_loc loc, ir_type *to) {
  int64_t dims[DP_MOST_OPERANDS][IR_MAX_RANK], result[DP_MAX_RANK];
  const int64_t *shapes[DP_MOST_OPERANDS];
  int rank[DP_MOST_OPERANDS], result_rank = 0;
  const char *message = NULL;
  *to = operands[0]->type;
  if (!op->shape) return true;
  for (int i = 0; i < op->operands; i++) {
    rank[i] = operands[i]->type.rank - 1;
    for (int d = 0; d < rank[i]; d++) dims[i][d] = operands[i]->type.dims[d + 1].add;
    shapes[i] = dims[i];
  }
  if (!op->shape(op->user, shapes, rank, result, &result_rank, &message)) {
    fe_error(c, loc, "%s: %s", op->name, message ? message : "these shapes do not go together");
    return false;
  }
  bool sound = result_rank >= 1 && result_rank < IR_MAX_RANK;
  for (int d = 0; sound && d < result_rank; d++) sound = result[d] > 0;
  if (!sound) {
    fe_error(c, loc, "%s: the host's rule gives no shape: %d dimensions", op->name, result_rank);
    return false;
  }
  to->rank = result_rank + 1;
  for (int d = 0; d < result_rank; d++) to->dims[d + 1] = ir_static_dim(result[d], NULL);
  return true;
}

/* "a,,b" */
static const char *host_gradients(fe_compiler *c, const dp_op *op) {
  dp_str names = {0};
  for (int i = 0; i < op->operands; i++)
    dp_str_addf(&names, "%s%s", i ? "," : "", op->gradients[i] ? op->gradients[i] : "");
  const char *copy = dp_arena_strdup(c->arena, names.text ? names.text : "");
  dp_str_free(&names);
  return copy;
}

static fe_value eval_host(fe_compiler *c, const ast_expr *expr) {
  const dp_op *op = expr->symbol->host;
  ir_value *operands[DP_MOST_OPERANDS];
  ir_type to;
  for (int i = 0; i < op->operands; i++) {
    const ast_expr *argument = expr->arguments.items[i].value;
    fe_value value = fe_eval(c, argument);
    operands[i] = fe_tensor(c, &value, argument->loc);
    if (!operands[i]) return fe_poison;
    const ir_type *type = &operands[i]->type;
    if (type->dtype == IR_f32 && type->rank > 1 && type->dims[0].symbol && ir_static_size(type, 1) > 0) continue;
    fe_error(c, argument->loc, "'%s' takes f32[T, ...], but this is %s", op->name, fe_type_text(c, type));
    return fe_poison;
  }
  if (!host_shape(c, op, operands, expr->loc, &to)) return fe_poison;
  ir_attr attrs[] = {ir_attr_s("name", op->name), ir_attr_d("to", &to), ir_attr_s("gradients", NULL)};
  if (op->gradients) attrs[2].s = host_gradients(c, op);
  return fe_emit(c, IR_OP_host, operands, op->operands, attrs, op->gradients ? 3 : 2, expr->loc);
}

/* ---- calls ------------------------------------------------------------------------------------------------------- */

fe_value fe_eval_call(fe_compiler *c, const ast_expr *expr) {
  const fe_symbol *callee = expr->symbol;
  if (!callee) return fe_poison;
  if (callee->kind == FE_SYM_ATTEND) return eval_attend(c, expr);
  if (callee->kind == FE_SYM_OP) return eval_op(c, expr);
  if (callee->kind == FE_SYM_HOST) return eval_host(c, expr);
  if (callee->kind == FE_SYM_MATH) return eval_math(c, expr);
  int count = expr->arguments.count;
  fe_value *arguments = DP_NEW_ARRAY(c->arena, fe_value, count);
  for (int i = 0; i < count; i++) arguments[i] = fe_eval(c, expr->arguments.items[i].value);
  return fe_inline(c, callee->function, arguments, expr);
}
