/* frontend/weights.c: weight declarations to the module's weights: types, the names in files, what is tied to what. */
#include "frontend/sema.h"

#include <string.h>

static int stack_of(const ast_weight *weight) { return weight->stack.given ? weight->stack.dims.count : 0; }

/* [first .. end]: the type counts the layers there are. */
static bool first_layer(fe_compiler *c, const ast_weight *weight, ir_type *type, int64_t *first) {
  if (type->dims[0].symbol) return true; /* reported with the other dimensions */
  if (!fe_eval_first(c, weight->first, type->dims[0].add, weight->stack.dims.items[0]->loc, first)) return false;
  if (*first) type->dims[0] = ir_static_dim(type->dims[0].add - *first, NULL);
  return true;
}

/* [layers] and [shape] as one type; layers first. */
static bool weight_type(fe_compiler *c, const ast_weight *weight, ir_type *type, int64_t *first) {
  bool good = true;
  if (weight->stack.given) {
    if (weight->stack.dims.count > 2) {
      fe_error(c, weight->stack.loc, "the first of two brackets counts the layers, and perhaps experts or heads: it has "
               "one dimension, or two");
      return false;
    }
    good &= fe_eval_shape(c, &weight->stack.dims, weight->stack.loc, type);
    if (good && weight->first) good = first_layer(c, weight, type, first);
  }
  good &= fe_eval_shape(c, &weight->shape.dims, weight->shape.loc, type);
  for (int i = 0; i < type->rank && good; i++) {
    if (!type->dims[i].symbol) continue;
    int at = i - stack_of(weight);
    fe_error(c, at < 0 ? weight->stack.loc : weight->shape.dims.items[at]->loc,
             "a weight has the same size in every step; it cannot depend on %s", type->dims[i].symbol);
    good = false;
  }
  return good;
}

/* Values are computed in f32 (or are i32); another dtype says how a file would store them. */
static bool weight_dtype(fe_compiler *c, const ast_weight *weight, ir_type *type, unsigned *storage) {
  ir_dtype dtype = IR_f32;
  if (!fe_eval_dtype(c, weight->dtype, &dtype)) return false;
  *storage = dtype == IR_f32 || dtype == IR_i32 ? 0 : 1u << dtype;
  type->dtype = dtype == IR_i32 ? IR_i32 : IR_f32;
  int64_t row = type->rank ? type->dims[type->rank - 1].add : 1, block = ir_dtype_block_elements(dtype);
  if (row % block == 0) return true;
  fe_error(c, weight->dtype.loc, "%s stores blocks of %lld, but a row of '%s' has %lld elements", weight->dtype.text,
           (long long)block, weight->name.text, (long long)row);
  return false;
}

static int count_braces(const char *pattern) {
  int count = 0;
  for (const char *at = strstr(pattern, "{}"); at; at = strstr(at + 2, "{}")) count++;
  return count;
}

static bool check_pattern(fe_compiler *c, const ast_weight *weight, const ast_name *pattern) {
  int count = count_braces(pattern->text), stack = stack_of(weight);
  if (count == stack || (stack == 2 && count < 2)) return true;
  if (!count)
    fe_error(c, pattern->loc, "'%s' has one tensor a layer: the pattern needs {} where the layer's number stands",
             weight->name.text);
  else if (stack)
    fe_error(c, pattern->loc, "the pattern has {} more than %s", stack == 1 ? "once" : "twice");
  else
    fe_error(c, pattern->loc, "{} stands for the layer's number, but '%s' is one tensor; declare it as %s[layers][...]",
             weight->name.text, weight->name.text);
  return false;
}

/* Rows of one tensor: all dimensions behind the stack but the last, or a vector's elements. */
static int64_t rows_of(const ast_weight *declared, const ir_type *type) {
  int stack = stack_of(declared);
  int64_t rows = 1;
  for (int i = stack; i < type->rank && (i < type->rank - 1 || i == stack); i++) rows *= type->dims[i].add;
  return rows;
}

/* rows run of step at first */
static bool set_window(fe_compiler *c, const ast_source *source, ir_source *to) {
  ir_dim run, step;
  if (!fe_eval_dim(c, source->run, "a number of rows", &run) || !fe_eval_dim(c, source->step, "a number of rows", &step))
    return false;
  dp_loc loc = {source->run->loc.file, source->run->loc.begin, source->step->loc.end};
  if (run.symbol || step.symbol || step.add < run.add) {
    fe_error(c, loc, "rows R of N: N rows, of which R are taken, cannot be fewer than R");
    return false;
  }
  to->run = run.add;
  to->step = step.add;
  return !source->first || fe_eval_first(c, source->first, FE_LARGEST_DIM, source->first->loc, &to->first);
}

static bool set_plus(fe_compiler *c, const ast_weight *declared, const ast_expr *expr, double *plus) {
  if (declared->shape.dims.count != 1) {
    fe_error(c, expr->loc, "plus adds to every element of a vector, but '%s' is none", declared->name.text);
    return false;
  }
  fe_value value = fe_eval(c, expr);
  if (fe_is_number(&value, plus)) return true;
  if (value.kind != FE_POISON) fe_error(c, expr->loc, "plus adds a number, but this is %s", fe_value_text(c, &value));
  return false;
}

/* Rows of each head stored in rotation pairs: the heads divide the rows, into an even number each. */
static bool check_paired(fe_compiler *c, const ast_weight *declared, const ast_source *source, const ir_weight *weight,
                         int64_t *paired) {
  ir_dim heads;
  if (!fe_eval_dim(c, source->paired, "the number of heads", &heads)) return false;
  const ir_type *type = &weight->type;
  int64_t rows = rows_of(declared, type);
  if (heads.symbol || rows % heads.add != 0 || rows / heads.add % 2 != 0) {
    fe_error(c, source->paired->loc, "paired: the rows of %s are not an even number for each of %lld heads",
             fe_type_text(c, type), (long long)heads.add);
    return false;
  }
  *paired = heads.add;
  return true;
}

static void set_sources(fe_compiler *c, const ast_weight *declared, ir_weight *weight) {
  dp_arena *arena = c->module->arena;
  int count = declared->sources.count;
  weight->source_count = count;
  weight->sources = DP_NEW_ARRAY(arena, ir_source, count);
  for (int i = 0; i < count; i++) {
    const ast_source *source = &declared->sources.items[i];
    ir_source *to = &weight->sources[i];
    to->pattern = dp_arena_strdup(arena, source->pattern.text);
    to->transposed = source->transposed;
    check_pattern(c, declared, &source->pattern);
    if (source->transposed && declared->shape.dims.count != 2)
      fe_error(c, source->pattern.loc, "only a matrix lies transposed in a file; '%s' is none", declared->name.text);
    if (source->run) set_window(c, source, to);
    if (source->paired) check_paired(c, declared, source, weight, &to->paired);
    if (source->plus) set_plus(c, declared, source->plus, &to->plus);
  }
}

static void set_fill(fe_compiler *c, const ast_weight *declared, ir_weight *weight) {
  fe_value value = fe_eval(c, declared->fill);
  if (!fe_is_number(&value, &weight->fill)) return;
  weight->filled = true;
  if (declared->shape.dims.count != 1)
    fe_error(c, declared->fill->loc, "a number stands in for a vector, but '%s' is none", declared->name.text);
}

static void add_weight(fe_compiler *c, const ast_weight *declared) {
  fe_symbol *symbol = fe_find(&c->model_scope, declared->name.text);
  if (!symbol || symbol->weight != declared) return; /* declared twice, which was reported */
  ir_type type = {.rank = 0};
  unsigned storage = 0;
  int64_t first = 0;
  if (!declared->sources.count && !declared->tied.text)
    fe_error(c, declared->name.loc, "'%s' has no 'from \"name\"', the name it has in a weights file",
             declared->name.text);
  if (!weight_type(c, declared, &type, &first) || !weight_dtype(c, declared, &type, &storage)) return;
  ir_weight *weight = ir_add_weight(c->module, declared->name.text, &type);
  weight->loc = declared->name.loc;
  weight->stack = stack_of(declared);
  weight->first_layer = first;
  weight->optional = declared->optional;
  weight->storage = storage;
  set_sources(c, declared, weight);
  if (declared->fill) set_fill(c, declared, weight);
  symbol->known = true;
}

/* ---- tied weights ------------------------------------------------------------------------------------------------ */

static const ast_weight *tied_to(const fe_compiler *c, const ast_weight *declared) {
  const fe_symbol *symbol = declared->tied.text ? fe_find(&c->model_scope, declared->tied.text) : NULL;
  return symbol ? symbol->weight : NULL;
}

/* Following `or` comes to a weight of its own in the end. */
static bool check_circle(fe_compiler *c, const ast_weight *declared) {
  const ast_weight *slow = declared, *fast = declared;
  do {
    slow = tied_to(c, slow);
    fast = tied_to(c, fast);
    if (fast) fast = tied_to(c, fast);
  } while (fast && slow != fast);
  if (!fast) return true;
  fe_error(c, declared->tied.loc, "'%s' stands in for itself", declared->name.text);
  for (const ast_weight *at = tied_to(c, declared); at && at != declared && at->tied.text; at = tied_to(c, at)) {
    fe_note(c, at->tied.loc, "through '%s'", at->name.text);
    if (at == slow) break;
  }
  return false;
}

static void tie(fe_compiler *c, const ast_weight *declared) {
  if (!declared->tied.text) return;
  const ast_name *name = &declared->tied;
  const ast_weight *other = tied_to(c, declared);
  if (!other) {
    const fe_symbol *symbol = fe_find(&c->model_scope, name->text);
    const char *near = symbol ? NULL : fe_nearest(&c->model_scope, name->text);
    if (symbol) fe_error(c, name->loc, "'%s' is %s, not a weight", name->text, fe_symbol_phrase(symbol));
    else if (near) fe_error(c, name->loc, "there is no weight '%s'; did you mean '%s'?", name->text, near);
    else fe_error(c, name->loc, "there is no weight '%s'", name->text);
    return;
  }
  if (!check_circle(c, declared)) return;
  ir_weight *weight = ir_find_weight(c->module, declared->name.text), *stand_in = ir_find_weight(c->module, name->text);
  if (!weight || !stand_in) return;
  if (!ir_type_equal(&weight->type, &stand_in->type) || weight->stack != stand_in->stack ||
      weight->first_layer != stand_in->first_layer) {
    fe_error(c, name->loc, "'%s' is %s but '%s' is %s: one cannot stand in for the other", weight->name,
             fe_type_text(c, &weight->type), stand_in->name, fe_type_text(c, &stand_in->type));
    fe_note(c, stand_in->loc, "'%s' is declared here", stand_in->name);
    return;
  }
  weight->tied = dp_arena_strdup(c->module->arena, name->text);
}

void fe_weights(fe_compiler *c) {
  int count = 0;
  for (const ast_weight *declared = c->model->weights; declared && !c->stopped; declared = declared->next) {
    if (++count > FE_MOST_WEIGHTS) {
      fe_error(c, declared->name.loc, "more than %d weights", FE_MOST_WEIGHTS);
      return;
    }
    add_weight(c, declared);
  }
  for (const ast_weight *declared = c->model->weights; declared && !c->stopped; declared = declared->next)
    tie(c, declared);
}
