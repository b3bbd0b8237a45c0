/* frontend/shapes.c: dimensions: their arithmetic, exact and linear in one symbol; shapes from expressions; and the
 * check of an argument against a parameter's shape, which binds the names that the shape introduces. */
#include "frontend/sema.h"

#include <string.h>

/* ---- texts ------------------------------------------------------------------------------------------------------- */

static const char *take(fe_compiler *c, dp_str *text) {
  const char *copy = dp_arena_strdup(c->arena, text->text ? text->text : "");
  dp_str_free(text);
  return copy;
}

static const char *dim_text(fe_compiler *c, ir_dim dim) {
  dp_str text = {0};
  ir_print_dim(&text, dim);
  return take(c, &text);
}

const char *fe_type_text(fe_compiler *c, const ir_type *type) {
  dp_str text = {0};
  ir_print_type(&text, type);
  return take(c, &text);
}

const char *fe_value_text(fe_compiler *c, const fe_value *value) {
  switch (value->kind) {
  case FE_POISON: break;
  case FE_DIM: return dp_arena_printf(c->arena, "the integer %s", dim_text(c, value->dim));
  case FE_NUMBER: return dp_arena_printf(c->arena, "the number %g", value->number);
  case FE_TENSOR: return fe_type_text(c, &value->tensor->type);
  case FE_TRANSPOSED: return "a transposed weight";
  case FE_INDEX: return "a loop's variable";
  case FE_CHOSEN: return "chosen matrices of a weight";
  case FE_STACK: return dp_arena_printf(c->arena, "the weight '%s' of all layers", value->weight->name);
  }
  return "nothing";
}

/* ---- arithmetic -------------------------------------------------------------------------------------------------- */

fe_value fe_integer(int64_t value) { return (fe_value){.kind = FE_DIM, .dim = ir_static_dim(value, NULL)}; }

static fe_value not_linear(fe_compiler *c, char op, ir_dim a, ir_dim b, dp_loc loc) {
  fe_error(c, loc, "%s %c %s: a dimension is a multiple of one symbol plus a number", dim_text(c, a), op,
           dim_text(c, b));
  return fe_poison;
}

static bool combine(char op, int64_t a, int64_t b, int64_t *result) {
  return op == '+' ? !__builtin_add_overflow(a, b, result)
         : op == '-' ? !__builtin_sub_overflow(a, b, result)
                     : !__builtin_mul_overflow(a, b, result);
}

static fe_value divide(fe_compiler *c, ir_dim a, ir_dim b, dp_loc loc) {
  if (b.symbol) return not_linear(c, '/', a, b, loc);
  if (b.add == 0) {
    fe_error(c, loc, "%s / %s: division by zero", dim_text(c, a), dim_text(c, b));
    return fe_poison;
  }
  bool overflows = b.add == -1 && (a.add == INT64_MIN || a.coef == INT64_MIN);
  if (overflows || a.add % b.add != 0 || a.coef % b.add != 0) {
    fe_error(c, loc, "%s / %s is not a whole number", dim_text(c, a), dim_text(c, b));
    return fe_poison;
  }
  return (fe_value){.kind = FE_DIM, .dim = {.symbol = a.symbol, .coef = a.coef / b.add, .add = a.add / b.add}};
}

fe_value fe_dim_arithmetic(fe_compiler *c, char op, ir_dim a, ir_dim b, dp_loc loc) {
  if (op == '/') return divide(c, a, b, loc);
  ir_dim result = {.symbol = a.symbol ? a.symbol : b.symbol};
  bool fits;
  if (op == '*') {
    if (a.symbol && b.symbol) return not_linear(c, op, a, b, loc);
    ir_dim symbolic = a.symbol ? a : b;
    int64_t factor = a.symbol ? b.add : a.add;
    fits = combine(op, symbolic.add, factor, &result.add) && combine(op, symbolic.coef, factor, &result.coef);
  } else {
    if (a.symbol && b.symbol && strcmp(a.symbol, b.symbol) != 0) return not_linear(c, op, a, b, loc);
    fits = combine(op, a.add, b.add, &result.add) && combine(op, a.coef, b.coef, &result.coef);
  }
  if (!fits) {
    fe_error(c, loc, "%s %c %s does not fit in 64 bits", dim_text(c, a), op, dim_text(c, b));
    return fe_poison;
  }
  if (result.coef == 0) result.symbol = NULL;
  return (fe_value){.kind = FE_DIM, .dim = result};
}

/* ---- shapes from expressions ------------------------------------------------------------------------------------- */

bool fe_eval_dim(fe_compiler *c, const ast_expr *expr, const char *what, ir_dim *dim) {
  fe_value value = fe_eval(c, expr);
  if (value.kind == FE_POISON) return false;
  if (value.kind != FE_DIM) {
    fe_error(c, expr->loc, "%s is an integer, but this is %s", what, fe_value_text(c, &value));
    return false;
  }
  *dim = value.dim;
  if (dim->symbol ? dim->coef < 1 : dim->add < 1)
    fe_error(c, expr->loc, "%s is at least 1, but this is %s", what, dim_text(c, *dim));
  else if (dim->coef > FE_LARGEST_DIM || dim->add > FE_LARGEST_DIM || dim->add < -FE_LARGEST_DIM)
    fe_error(c, expr->loc, "%s is at most 2^40, but this is %s", what, dim_text(c, *dim));
  else
    return true;
  return false;
}

bool fe_eval_first(fe_compiler *c, const ast_expr *expr, int64_t end, dp_loc end_loc, int64_t *first) {
  fe_value value = fe_eval(c, expr);
  if (value.kind == FE_POISON) return false;
  if (value.kind != FE_DIM || value.dim.symbol || value.dim.add < 0) {
    fe_error(c, expr->loc, "expected an integer of at least 0 that is known before the model runs, but this "
             "is %s", fe_value_text(c, &value));
    return false;
  }
  *first = value.dim.add;
  if (*first < end) return true;
  fe_error(c, (dp_loc){expr->loc.file, expr->loc.begin, end_loc.end}, "%lld .. %lld is an empty range",
           (long long)*first, (long long)end);
  return false;
}

static bool check_size(fe_compiler *c, const ir_type *type, dp_loc loc) {
  int64_t size = 1;
  for (int i = 0; i < type->rank; i++) {
    if (type->dims[i].symbol) continue;
    if (!__builtin_mul_overflow(size, type->dims[i].add, &size) && size <= INT64_C(1) << 62) continue;
    fe_error(c, loc, "%s has more than 2^62 elements", fe_type_text(c, type));
    return false;
  }
  return true;
}

bool fe_eval_shape(fe_compiler *c, const ast_exprs *exprs, dp_loc loc, ir_type *type) {
  if (exprs->count > IR_MAX_RANK - type->rank) {
    fe_error(c, loc, "more than %d dimensions", IR_MAX_RANK);
    return false;
  }
  bool good = true;
  for (int i = 0; i < exprs->count; i++)
    good &= fe_eval_dim(c, exprs->items[i], "a dimension", &type->dims[type->rank + i]);
  type->rank += exprs->count;
  return good && check_size(c, type, loc);
}

bool fe_eval_dtype(fe_compiler *c, ast_name name, ir_dtype *dtype) {
  if (!name.text || ir_dtype_parse(name.text, dtype)) return true;
  const char *names[IR_DTYPE_COUNT];
  dp_str all = {0};
  for (int i = 0; i < IR_DTYPE_COUNT; i++) {
    names[i] = ir_dtype_name((ir_dtype)i);
    dp_str_addf(&all, "%s%s", i ? ", " : "", names[i]);
  }
  const char *near = dp_nearest_name(name.text, names, IR_DTYPE_COUNT);
  if (near) fe_error(c, name.loc, "there is no dtype '%s'; did you mean '%s'?", name.text, near);
  else fe_error(c, name.loc, "there is no dtype '%s'; there are %s", name.text, all.text ? all.text : "");
  dp_str_free(&all);
  return false;
}

/* ---- arguments and results --------------------------------------------------------------------------------------- */

static const char *shape_text(fe_compiler *c, const ast_name *dtype, const char *const *dims, int count) {
  dp_str text = {0};
  dp_str_addf(&text, "%s[", dtype->text ? dtype->text : "");
  for (int i = 0; i < count; i++) dp_str_addf(&text, "%s%s", i ? ", " : "", dims[i]);
  dp_str_addc(&text, ']');
  return take(c, &text);
}

/* Dimension by dimension; what a name is bound to is in the callee's frame. Gives the wanted shape in words. */
static bool match_dims(fe_compiler *c, const ast_parameter *parameter, const ir_type *type, const char **wanted,
                       bool *poisoned) {
  const ast_exprs *dims = &parameter->shape.dims;
  const char **texts = DP_NEW_ARRAY(c->arena, const char *, dims->count);
  bool equal = dims->count == type->rank;
  for (int i = 0; i < dims->count; i++) {
    const ast_expr *expr = dims->items[i];
    ir_dim dim;
    if (expr->binds) {
      texts[i] = expr->name.text;
      if (expr->symbol)
        c->frame->slots[expr->symbol->slot] =
            i < type->rank ? (fe_value){.kind = FE_DIM, .dim = type->dims[i]} : fe_poison;
    } else if (fe_eval_dim(c, expr, "a dimension", &dim)) {
      if (expr->kind == AST_NAME) dim.name = expr->name.text;
      texts[i] = dim_text(c, dim);
      equal &= i < type->rank && ir_dim_equal(dim, type->dims[i]);
    } else {
      texts[i] = "?";
      *poisoned = true;
    }
  }
  *wanted = shape_text(c, &parameter->dtype, texts, dims->count);
  return equal;
}

static void poison_bindings(fe_compiler *c, const ast_parameter *parameter) {
  for (int i = 0; i < parameter->shape.dims.count; i++) {
    const ast_expr *expr = parameter->shape.dims.items[i];
    if (expr->binds && expr->symbol) c->frame->slots[expr->symbol->slot] = fe_poison;
  }
}

bool fe_match_parameter(fe_compiler *c, const ast_parameter *parameter, const fe_value *argument, dp_loc loc) {
  fe_frame *callee = c->frame;
  ir_dtype dtype = IR_f32;
  if (!fe_eval_dtype(c, parameter->dtype, &dtype) || argument->kind == FE_POISON) {
    poison_bindings(c, parameter);
    return false;
  }
  double number;
  if (!parameter->shape.given && (!parameter->dtype.text || (dtype == IR_f32 && fe_is_number(argument, &number))))
    return true;
  const char *wanted = parameter->dtype.text;
  bool fits = argument->kind == FE_TENSOR, poisoned = false;
  if (fits && parameter->shape.given) fits = match_dims(c, parameter, &argument->tensor->type, &wanted, &poisoned);
  else if (parameter->shape.given) wanted = "a tensor";
  if (fits && parameter->dtype.text) fits = argument->tensor->type.dtype == dtype;
  if (fits || poisoned) return fits;
  poison_bindings(c, parameter);
  c->frame = (fe_frame *)callee->caller; /* the mistake is the caller's */
  fe_error(c, loc, "'%s' of '%s' must be %s, but this is %s", parameter->name.text, callee->function->name.text, wanted,
           fe_value_text(c, argument));
  fe_note(c, parameter->name.loc, "'%s' is declared here", parameter->name.text);
  c->frame = callee;
  return false;
}

bool fe_match_result(fe_compiler *c, const ast_function *function, const ir_type *type, dp_loc loc) {
  const ast_parameter *result = &function->result;
  ir_dtype dtype = type->dtype;
  const char *wanted;
  bool poisoned = false;
  if (!fe_eval_dtype(c, result->dtype, &dtype)) return false;
  if (!result->shape.given) return true;
  bool fits = match_dims(c, result, type, &wanted, &poisoned) && dtype == type->dtype;
  if (fits || poisoned) return fits;
  fe_error(c, loc, "'%s' must return %s, but this is %s", function->name.text, wanted, fe_type_text(c, type));
  fe_note(c, result->shape.loc, "as declared here");
  return false;
}
