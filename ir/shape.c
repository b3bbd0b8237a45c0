/* ir/shape.c: from operands, attributes and body of an op to the types of its results, or to a message that shows the
 * shapes with their dimensions' names. One function per shape rule token of ops.def; the table over ops is made of the
 * tokens, so that an op whose rule is missing does not link. */
#include "ir/shape.h"

#include <string.h>

/* ---- messages ---------------------------------------------------------------------------------------------------- */

#define FAIL(s, ...) return (s)->message = dp_arena_printf((s)->arena, __VA_ARGS__), false

static const char *take(ir_shaping *s, dp_str *text) {
  const char *copy = dp_arena_strdup(s->arena, text->text ? text->text : "");
  dp_str_free(text);
  return copy;
}

static const char *type_text(ir_shaping *s, const ir_type *type) {
  dp_str text = {0};
  ir_print_type(&text, type);
  return take(s, &text);
}

static const char *dim_text(ir_shaping *s, ir_dim dim) {
  dp_str text = {0};
  ir_print_dim(&text, dim);
  return take(s, &text);
}

static const char *name_of(const ir_shaping *s) { return ir_op_info_of(s->code)->name; }

/* ---- operand specifications -------------------------------------------------------------------------------------- */

/* "x[T,heads,hd] pos[T]" -> operand i's name ("pos") in `name`, and whether it is variadic or optional. */
static bool operand_spec(const char *spec, int i, const char **name, int *length, char *suffix) {
  for (const char *at = spec; *at; i--) {
    const char *end = at;
    while (*end && *end != ' ') end++;
    if (i == 0) {
      *name = at;
      *length = 0;
      while (at + *length < end && !strchr("[?.", at[*length])) ++*length;
      bool dots = end - at > 3 && strncmp(end - 3, "...", 3) == 0;
      *suffix = dots ? '.' : end[-1] == '?' ? '?' : ' ';
      return true;
    }
    at = end;
    while (*at == ' ') at++;
  }
  return false;
}

static bool check_operands(ir_shaping *s) {
  const char *spec = ir_op_info_of(s->code)->operands, *name;
  int required = 0, allowed = 0, length;
  bool variadic = false;
  for (char suffix; operand_spec(spec, allowed, &name, &length, &suffix); allowed++) {
    if (suffix == '.') variadic = true;
    if (suffix == ' ') required++;
  }
  if (s->operand_count < required || (s->operand_count > allowed && !variadic))
    FAIL(s, "%s takes %s%d operand%s (%s), not %d", name_of(s), required < allowed || variadic ? "at least " : "",
         required, required == 1 ? "" : "s", *spec ? spec : "none", s->operand_count);
  for (int i = 0; i < s->operand_count; i++)
    if (!s->operands[i]) FAIL(s, "%s: operand %d has no value", name_of(s), i + 1);
  return true;
}

static const char *operand_name(ir_shaping *s, int i) {
  const char *name;
  int length;
  char suffix;
  if (!operand_spec(ir_op_info_of(s->code)->operands, i, &name, &length, &suffix)) return "operand";
  return dp_arena_strndup(s->arena, name, (size_t)length);
}

/* ---- attribute specifications ------------------------------------------------------------------------------------ */

/* "eps:f causal:i?" -> attribute i */
static bool attr_spec(const char *spec, int i, const char **name, int *length, char *kind, bool *optional) {
  for (const char *at = spec; *at; i--) {
    const char *colon = strchr(at, ':');
    if (!colon) return false;
    if (i == 0) {
      *name = at;
      *length = (int)(colon - at);
      *kind = colon[1];
      *optional = colon[2] == '?';
      return true;
    }
    at = colon + 1;
    while (*at && *at != ' ') at++;
    while (*at == ' ') at++;
  }
  return false;
}

int ir_attr_position(ir_opcode code, const char *attr) {
  const char *name;
  int length;
  char kind;
  bool optional;
  for (int i = 0; attr_spec(ir_op_info_of(code)->attrs, i, &name, &length, &kind, &optional); i++)
    if (strlen(attr) == (size_t)length && strncmp(attr, name, (size_t)length) == 0) return i;
  return -1;
}

char ir_attr_kind_of(ir_opcode code, const char *attr, bool *optional) {
  const char *name;
  int length, position = ir_attr_position(code, attr);
  char kind = 0;
  bool is_optional = false;
  if (position >= 0) attr_spec(ir_op_info_of(code)->attrs, position, &name, &length, &kind, &is_optional);
  if (optional) *optional = is_optional;
  return kind;
}

const char *ir_attr_suggestion(ir_opcode code, const char *attr, dp_arena *arena) {
  const char *candidates[16], *name;
  int count = 0, length;
  char kind;
  bool optional;
  while (count < (int)DP_COUNT(candidates) &&
         attr_spec(ir_op_info_of(code)->attrs, count, &name, &length, &kind, &optional))
    candidates[count++] = dp_arena_strndup(arena, name, (size_t)length);
  const char *near = dp_nearest_name(attr, candidates, count);
  if (near) return dp_arena_printf(arena, "did you mean '%s'?", near);
  if (count == 0) return "it takes none";
  return dp_arena_printf(arena, "it takes %s", ir_op_info_of(code)->attrs);
}

static const ir_attr *find_attr(const ir_shaping *s, const char *name) {
  for (int i = 0; i < s->attr_count; i++)
    if (strcmp(s->attrs[i].name, name) == 0) return &s->attrs[i];
  return NULL;
}

static const char *kind_text(char kind) {
  return kind == 'i' ? "an integer" : kind == 'f' ? "a float" : kind == 's' ? "a string" : "a type";
}

static bool check_attrs(ir_shaping *s) {
  for (int i = 0; i < s->attr_count; i++) {
    const ir_attr *attr = &s->attrs[i];
    char kind = ir_attr_kind_of(s->code, attr->name, NULL);
    if (!kind)
      FAIL(s, "%s has no attribute '%s'; %s", name_of(s), attr->name,
           ir_attr_suggestion(s->code, attr->name, s->arena));
    if (kind != (char)attr->kind)
      FAIL(s, "%s: attribute '%s' is %s, not %s", name_of(s), attr->name, kind_text(kind), kind_text((char)attr->kind));
    if (find_attr(s, attr->name) != attr) FAIL(s, "%s: attribute '%s' is given twice", name_of(s), attr->name);
    if (kind == 's' && !attr->s) FAIL(s, "%s: attribute '%s' has no text", name_of(s), attr->name);
  }
  const char *name;
  int length;
  char kind;
  bool optional;
  for (int i = 0; attr_spec(ir_op_info_of(s->code)->attrs, i, &name, &length, &kind, &optional); i++) {
    const char *text = dp_arena_strndup(s->arena, name, (size_t)length);
    if (!optional && !find_attr(s, text)) FAIL(s, "%s: attribute '%s' is missing", name_of(s), text);
  }
  return true;
}

static bool flag(ir_shaping *s, const char *name, bool *value) {
  int64_t i = find_attr(s, name)->i;
  if (i != 0 && i != 1) FAIL(s, "%s: attribute '%s' is 0 or 1, not %lld", name_of(s), name, (long long)i);
  *value = i == 1;
  return true;
}

/* ---- what the rules are made of ---------------------------------------------------------------------------------- */

bool ir_is_word(const char *s) {
  for (const char *at = s; *at; at++) {
    char c = *at;
    bool ok = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '.';
    if (!ok) return false;
  }
  return *s != '\0';
}

bool ir_is_name(const char *s) { return ir_is_word(s) && *s != '.' && !(*s >= '0' && *s <= '9'); }

bool ir_type_usable(const ir_type *type, const char **why) {
  int64_t size = 1;
  *why = type->dtype != IR_f32 && type->dtype != IR_i32 ? "values are f32 or i32; other types are storage of weights"
         : type->rank < 0 || type->rank > IR_MAX_RANK   ? "it has too many dimensions"
                                                        : NULL;
  for (int i = 0; i < type->rank && !*why; i++) {
    ir_dim d = type->dims[i];
    if (d.symbol ? d.coef < 1 : d.coef != 0 || d.add < 1)
      *why = "a dimension is smaller than 1";
    else if (!d.symbol && (__builtin_mul_overflow(size, d.add, &size) || size > INT64_C(1) << 62))
      *why = "it has more than 2^62 elements";
  }
  return !*why;
}

static bool set_result(ir_shaping *s, const ir_type *type) {
  const char *why;
  if (!ir_type_usable(type, &why)) FAIL(s, "%s: the result would be %s: %s", name_of(s), type_text(s, type), why);
  s->results = DP_NEW(s->arena, ir_type);
  *s->results = *type;
  s->result_count = 1;
  return true;
}

static const ir_type *operand(const ir_shaping *s, int i) { return &s->operands[i]->type; }

static bool expect_dtype(ir_shaping *s, int i, ir_dtype dtype) {
  const ir_type *type = operand(s, i);
  if (type->dtype == dtype) return true;
  FAIL(s, "%s: %s is %s but must be of %s", name_of(s), operand_name(s, i), type_text(s, type), ir_dtype_name(dtype));
}

/* Operand `i` has `dtype` and `rank` (rank < 0: at least -rank). */
static bool expect(ir_shaping *s, int i, ir_dtype dtype, int rank) {
  const ir_type *type = operand(s, i);
  if (!expect_dtype(s, i, dtype)) return false;
  if (rank >= 0 ? type->rank != rank : type->rank < -rank)
    FAIL(s, "%s: %s is %s but must have %s%d dimension%s", name_of(s), operand_name(s, i), type_text(s, type),
         rank < 0 ? "at least " : "", rank < 0 ? -rank : rank, rank == 1 || rank == -1 ? "" : "s");
  return true;
}

/* Dimension `a` of operand `i` is dimension `b` of operand `j`. */
static bool same_dim(ir_shaping *s, int i, int a, int j, int b) {
  ir_dim have = operand(s, i)->dims[a], want = operand(s, j)->dims[b];
  if (ir_dim_equal(have, want)) return true;
  FAIL(s, "%s: %s is %s but %s is %s: %s does not match %s", name_of(s), operand_name(s, i),
       type_text(s, operand(s, i)), operand_name(s, j), type_text(s, operand(s, j)), dim_text(s, have),
       dim_text(s, want));
}

/* The values of the yield that ends the body. */
static bool body_yield(ir_shaping *s, const ir_op **yield) {
  *yield = s->body->last;
  if (!*yield || (*yield)->code != IR_OP_yield) FAIL(s, "%s: its body does not end in yield", name_of(s));
  s->result_count = (*yield)->operand_count;
  s->results = DP_NEW_ARRAY(s->arena, ir_type, s->result_count);
  for (int i = 0; i < s->result_count; i++) s->results[i] = (*yield)->operands[i]->type;
  return true;
}

/* ---- the rules --------------------------------------------------------------------------------------------------- */

static bool ir_shape_none(ir_shaping *s) {
  s->result_count = 0;
  return true;
}

static bool ir_shape_weight(ir_shaping *s) {
  const char *name = find_attr(s, "name")->s;
  const ir_weight *weight = ir_find_weight(s->module, name);
  if (weight) return set_result(s, &weight->type);
  const char **names = DP_NEW_ARRAY(s->arena, const char *, s->module->weight_count);
  for (int i = 0; i < s->module->weight_count; i++) names[i] = s->module->weights[i].name;
  const char *near = dp_nearest_name(name, names, s->module->weight_count);
  if (near) FAIL(s, "weight: there is no weight '%s'; did you mean '%s'?", name, near);
  FAIL(s, "weight: there is no weight '%s'", name);
}

static bool ir_shape_scalar(ir_shaping *s) { return set_result(s, &(ir_type){.dtype = IR_f32}); }

static bool ir_shape_select(ir_shaping *s) {
  const ir_type *stack = operand(s, 0);
  if (stack->rank < 1) FAIL(s, "select: stack is %s but must have a dimension to index", type_text(s, stack));
  if (!expect(s, 1, IR_i32, 0)) return false;
  ir_type type = {.dtype = stack->dtype, .rank = stack->rank - 1};
  for (int i = 0; i < type.rank; i++) type.dims[i] = stack->dims[i + 1];
  return set_result(s, &type);
}

static bool ir_shape_loop(ir_shaping *s) {
  const ir_op *yield;
  int64_t count = find_attr(s, "count")->i;
  if (count < 1 || count > INT32_MAX) FAIL(s, "loop: count is %lld but must be 1 or more", (long long)count);
  int64_t first = find_attr(s, "first") ? find_attr(s, "first")->i : 0;
  if (first < 0 || first > INT32_MAX - count) FAIL(s, "loop: first is %lld but must be 0 or more", (long long)first);
  if (!body_yield(s, &yield)) return false;
  if (s->body->arg_count != s->operand_count + 1)
    FAIL(s, "loop: its body takes %d arguments but must take the layer index and %d carried value%s",
         s->body->arg_count, s->operand_count, s->operand_count == 1 ? "" : "s");
  const ir_type *index = &s->body->args[0]->type;
  if (index->dtype != IR_i32 || index->rank != 0)
    FAIL(s, "loop: the first argument of its body is %s but must be the layer index, i32[]", type_text(s, index));
  if (yield->operand_count != s->operand_count)
    FAIL(s, "loop: it starts with %d carried value%s but its body yields %d", s->operand_count,
         s->operand_count == 1 ? "" : "s", yield->operand_count);
  for (int i = 0; i < s->operand_count; i++) {
    const ir_type *init = operand(s, i), *arg = &s->body->args[i + 1]->type, *next = &yield->operands[i]->type;
    if (!ir_type_equal(init, arg))
      FAIL(s, "loop: carried value %d starts as %s but its body takes %s", i + 1, type_text(s, init),
           type_text(s, arg));
    if (!ir_type_equal(next, arg))
      FAIL(s, "loop: carried value %d is %s but its body yields %s", i + 1, type_text(s, arg), type_text(s, next));
  }
  return true;
}

static bool ir_shape_group(ir_shaping *s) {
  const ir_op *yield;
  if (!body_yield(s, &yield)) return false;
  if (s->body->arg_count != s->operand_count)
    FAIL(s, "group: it has %d inputs but its body takes %d", s->operand_count, s->body->arg_count);
  for (int i = 0; i < s->operand_count; i++) {
    const ir_type *input = operand(s, i), *arg = &s->body->args[i]->type;
    if (!ir_type_equal(input, arg))
      FAIL(s, "group: input %d is %s but its body takes %s", i + 1, type_text(s, input), type_text(s, arg));
  }
  return true;
}

static bool ir_shape_gather(ir_shaping *s) {
  const ir_type *table = operand(s, 0);
  if (table->rank < 1) FAIL(s, "gather: table is %s but must have rows", type_text(s, table));
  if (!expect(s, 1, IR_i32, 1)) return false;
  ir_type type = *table;
  type.dims[0] = operand(s, 1)->dims[0];
  return set_result(s, &type);
}

/* One symbolic dimension at most decides on either side: the rows, which stay; what is left is counted. */
static bool ir_shape_reshape(ir_shaping *s) {
  const ir_type *x = operand(s, 0), *to = &find_attr(s, "to")->shape;
  const char *why;
  if (!ir_type_usable(to, &why)) FAIL(s, "reshape: to is %s: %s", type_text(s, to), why);
  if (x->dtype != to->dtype) FAIL(s, "reshape: x is %s but to is %s", type_text(s, x), type_text(s, to));
  if (x->rank < 1 || to->rank < 1 || !ir_dim_equal(x->dims[0], to->dims[0]))
    FAIL(s, "reshape: x is %s and to is %s, but rows must stay rows", type_text(s, x), type_text(s, to));
  int64_t have = ir_static_size(x, 1), want = ir_static_size(to, 1);
  if (have < 0 || want < 0)
    FAIL(s, "reshape: x is %s and to is %s: only the first dimension may be symbolic", type_text(s, x),
         type_text(s, to));
  if (have != want)
    FAIL(s, "reshape: x is %s with %lld elements a row but to is %s with %lld", type_text(s, x), (long long)have,
         type_text(s, to), (long long)want);
  return set_result(s, to);
}

static bool ir_shape_unary(ir_shaping *s) { return expect_dtype(s, 0, IR_f32) && set_result(s, operand(s, 0)); }

static bool ir_shape_binary(ir_shaping *s) {
  const ir_type *x = operand(s, 0), *y = operand(s, 1);
  ir_type type = {.dtype = IR_f32, .rank = x->rank > y->rank ? x->rank : y->rank};
  if (x->dtype != IR_f32 || y->dtype != IR_f32)
    FAIL(s, "%s: x is %s and y is %s but both must be of f32", name_of(s), type_text(s, x), type_text(s, y));
  for (int i = type.rank - 1; i >= 0; i--) {
    int at_x = i - (type.rank - x->rank), at_y = i - (type.rank - y->rank);
    const ir_dim one = ir_static_dim(1, NULL);
    ir_dim a = at_x >= 0 ? x->dims[at_x] : one, b = at_y >= 0 ? y->dims[at_y] : one;
    if (ir_dim_equal(a, b))
      type.dims[i] = a.name ? a : b;
    else if (ir_dim_equal(a, one))
      type.dims[i] = b;
    else if (ir_dim_equal(b, one))
      type.dims[i] = a;
    else
      FAIL(s, "%s: x is %s and y is %s: %s does not match %s", name_of(s), type_text(s, x), type_text(s, y),
           dim_text(s, a), dim_text(s, b));
  }
  return set_result(s, &type);
}

static bool ir_shape_reduce(ir_shaping *s) {
  if (!expect(s, 0, IR_f32, -1)) return false;
  ir_type type = *operand(s, 0);
  type.dims[type.rank - 1] = ir_static_dim(1, NULL);
  return set_result(s, &type);
}

static bool ir_shape_row_unary(ir_shaping *s) { return expect(s, 0, IR_f32, -1) && set_result(s, operand(s, 0)); }

static bool ir_shape_slice(ir_shaping *s) {
  int64_t first = find_attr(s, "first")->i, count = find_attr(s, "count")->i;
  if (!expect(s, 0, IR_f32, -2)) return false;
  ir_type type = *operand(s, 0);
  ir_dim n = type.dims[type.rank - 1];
  if (n.symbol || first < 0 || count < 1 || count > n.add || first > n.add - count)
    FAIL(s, "slice: x is %s, which has no columns %lld to %lld", type_text(s, &type), (long long)first,
         (long long)(first + count - 1));
  type.dims[type.rank - 1] = ir_static_dim(count, NULL);
  return set_result(s, &type);
}

/* All dimensions of operands 0 and 1 but the last agree. */
static bool same_but_last(ir_shaping *s) {
  const ir_type *x = operand(s, 0), *y = operand(s, 1);
  if (x->rank != y->rank || x->rank < 2)
    FAIL(s, "%s: %s is %s and %s is %s: they must have equally many dimensions, 2 or more", name_of(s), operand_name(s, 0),
         type_text(s, x), operand_name(s, 1), type_text(s, y));
  for (int i = 0; i < x->rank - 1; i++)
    if (!same_dim(s, 1, i, 0, i)) return false;
  if (x->dims[x->rank - 1].symbol || y->dims[y->rank - 1].symbol)
    FAIL(s, "%s: the last dimensions of %s and %s must be fixed", name_of(s), type_text(s, x), type_text(s, y));
  return true;
}

static bool ir_shape_concat(ir_shaping *s) {
  if (!expect_dtype(s, 0, IR_f32) || !expect_dtype(s, 1, IR_f32) || !same_but_last(s)) return false;
  ir_type type = *operand(s, 0);
  type.dims[type.rank - 1] = ir_static_dim(type.dims[type.rank - 1].add + operand(s, 1)->dims[type.rank - 1].add, NULL);
  return set_result(s, &type);
}

static bool ir_shape_every(ir_shaping *s) {
  int64_t period = find_attr(s, "period")->i, phase = find_attr(s, "phase")->i;
  if (!expect(s, 0, IR_i32, 0)) return false;
  if (period < 1 || phase < 0 || phase >= period)
    FAIL(s, "every: period is %lld and phase %lld, but must be 1 or more, and 0 to period - 1", (long long)period,
         (long long)phase);
  return set_result(s, &(ir_type){.dtype = IR_f32});
}

/* Indices are computed with as f32: exact up to 2^24. */
enum { MOST_INDICES = 1 << 24 };

static bool ir_shape_top_k(ir_shaping *s) {
  int64_t k = find_attr(s, "k")->i;
  if (!expect(s, 0, IR_f32, -2)) return false;
  ir_type type = *operand(s, 0);
  ir_dim n = type.dims[type.rank - 1];
  if (n.symbol || k < 1 || k > n.add || n.add > MOST_INDICES)
    FAIL(s, "top_k: x is %s, so k is 1 to %s, not %lld", type_text(s, &type), dim_text(s, n), (long long)k);
  type.dtype = IR_i32;
  type.dims[type.rank - 1] = ir_static_dim(k, NULL);
  return set_result(s, &type);
}

static bool ir_shape_take(ir_shaping *s) {
  if (!expect_dtype(s, 0, IR_f32) || !expect_dtype(s, 1, IR_i32) || !same_but_last(s)) return false;
  ir_type type = *operand(s, 1);
  type.dtype = IR_f32;
  return set_result(s, &type);
}

static bool ir_shape_place(ir_shaping *s) {
  int64_t count = find_attr(s, "count")->i;
  if (!expect_dtype(s, 0, IR_f32) || !expect_dtype(s, 1, IR_i32) || !same_but_last(s)) return false;
  ir_type type = *operand(s, 0);
  if (!same_dim(s, 1, type.rank - 1, 0, type.rank - 1)) return false;
  if (count < 1 || count > MOST_INDICES) FAIL(s, "place: count is %lld but must be 1 or more", (long long)count);
  type.dims[type.rank - 1] = ir_static_dim(count, NULL);
  return set_result(s, &type);
}

static bool ir_shape_among(ir_shaping *s) {
  int64_t count = find_attr(s, "count")->i;
  if (!expect(s, 0, IR_i32, -2)) return false;
  if (count < 1 || count > MOST_INDICES) FAIL(s, "among: count is %lld but must be 1 or more", (long long)count);
  ir_type type = *operand(s, 0);
  type.dtype = IR_f32;
  type.dims[type.rank - 1] = ir_static_dim(count, NULL);
  return set_result(s, &type);
}

static bool ir_shape_mix(ir_shaping *s) {
  if (!expect(s, 0, IR_f32, 2) || !expect(s, 1, IR_f32, 3) || !same_dim(s, 1, 0, 0, 0) || !same_dim(s, 1, 1, 0, 1))
    return false;
  const ir_type *x = operand(s, 1);
  return set_result(s, &(ir_type){.dtype = IR_f32, .rank = 2, .dims = {x->dims[0], x->dims[2]}});
}

static bool ir_shape_norm(ir_shaping *s) {
  if (!expect(s, 0, IR_f32, -1) || !expect(s, 1, IR_f32, 1)) return false;
  if (s->operand_count > 2 && (!expect(s, 2, IR_f32, 1) || !same_dim(s, 2, 0, 1, 0))) return false;
  if (!(find_attr(s, "eps")->f >= 0)) FAIL(s, "%s: eps must be 0 or more", name_of(s));
  return same_dim(s, 0, operand(s, 0)->rank - 1, 1, 0) && set_result(s, operand(s, 0));
}

static bool ir_shape_matmul(ir_shaping *s) {
  bool transposed;
  if (!flag(s, "transposed", &transposed) || !expect(s, 0, IR_f32, 2) || !expect(s, 1, IR_f32, 2)) return false;
  const ir_type *x = operand(s, 0), *w = operand(s, 1);
  ir_dim k = w->dims[transposed ? 1 : 0], n = w->dims[transposed ? 0 : 1];
  if (!ir_dim_equal(x->dims[1], k))
    FAIL(s, "matmul: x is %s but %s needs k = %s (w is %s)", type_text(s, x), transposed ? "w.T" : "w", dim_text(s, k),
         type_text(s, w));
  return set_result(s, &(ir_type){.dtype = IR_f32, .rank = 2, .dims = {x->dims[0], n}});
}

/* k and n of w[m, n, k] or w[m, k, n]. */
static bool batched_weight(ir_shaping *s, ir_dim *k, ir_dim *n) {
  bool transposed;
  if (!flag(s, "transposed", &transposed) || !expect(s, 1, IR_f32, 3)) return false;
  const ir_type *w = operand(s, 1);
  *k = w->dims[transposed ? 2 : 1];
  *n = w->dims[transposed ? 1 : 2];
  const ir_type *x = operand(s, 0);
  if (x->rank >= 2 && ir_dim_equal(x->dims[x->rank - 1], *k)) return true;
  FAIL(s, "%s: x is %s but %s needs k = %s (w is %s)", name_of(s), type_text(s, x), transposed ? "w.T" : "w",
       dim_text(s, *k), type_text(s, w));
}

static bool ir_shape_head_matmul(ir_shaping *s) {
  ir_dim k, n;
  if (!expect(s, 0, IR_f32, 3) || !batched_weight(s, &k, &n) || !same_dim(s, 0, 1, 1, 0)) return false;
  const ir_type *x = operand(s, 0);
  return set_result(s, &(ir_type){.dtype = IR_f32, .rank = 3, .dims = {x->dims[0], x->dims[1], n}});
}

static bool ir_shape_expert_matmul(ir_shaping *s) {
  ir_dim k, n;
  const ir_type *x = operand(s, 0), *ids = operand(s, 2);
  if (!expect(s, 0, IR_f32, x->rank == 3 ? 3 : 2) || !batched_weight(s, &k, &n) || !expect(s, 2, IR_i32, 2)) return false;
  if (!same_dim(s, 2, 0, 0, 0) || (x->rank == 3 && !same_dim(s, 0, 1, 2, 1))) return false;
  return set_result(s, &(ir_type){.dtype = IR_f32, .rank = 3, .dims = {ids->dims[0], ids->dims[1], n}});
}

/* x[T,heads,hd] by something of T tokens: pairs within hd. */
static bool check_heads(ir_shaping *s) {
  if (!expect(s, 0, IR_f32, 3) || !same_dim(s, 0, 0, 1, 0)) return false;
  ir_dim hd = operand(s, 0)->dims[2];
  if (hd.symbol || hd.add % 2 != 0)
    FAIL(s, "%s: x is %s but the head dimension %s must be even", name_of(s), type_text(s, operand(s, 0)),
         dim_text(s, hd));
  return true;
}

static double number(const ir_shaping *s, const char *name, double otherwise) {
  const ir_attr *attr = find_attr(s, name);
  return attr ? attr->f : otherwise;
}

/* theta, how long contexts are stretched, and the divisors of `half` frequencies. */
static bool check_frequencies(ir_shaping *s, int64_t half) {
  if (!(find_attr(s, "theta")->f > 0)) FAIL(s, "%s: theta must be above 0", name_of(s));
  if (!(number(s, "factor", 1) > 0)) FAIL(s, "%s: factor must be above 0", name_of(s));
  bool blends = find_attr(s, "low") || find_attr(s, "high") || find_attr(s, "original") || find_attr(s, "yarn");
  bool complete = find_attr(s, "factor") && find_attr(s, "low") && find_attr(s, "high") && find_attr(s, "original");
  if (blends && !complete) FAIL(s, "%s: low, high and original go together, with a factor", name_of(s));
  if (blends && !(number(s, "low", 0) > 0 && number(s, "high", 0) > number(s, "low", 0) && number(s, "original", 0) > 0))
    FAIL(s, "%s: low, high and original must be above 0, and low below high", name_of(s));
  bool yarn;
  if (find_attr(s, "yarn") && !flag(s, "yarn", &yarn)) return false;
  int last = s->operand_count - 1;
  if (s->code == IR_OP_rope ? last < 2 : last < 1) return true;
  if (!expect(s, last, IR_f32, 1)) return false;
  ir_dim have = operand(s, last)->dims[0];
  if (have.symbol || have.add != half)
    FAIL(s, "%s: divisors is %s but must have %lld elements", name_of(s), type_text(s, operand(s, last)), (long long)half);
  return true;
}

static bool ir_shape_rope(ir_shaping *s) {
  if (!expect(s, 1, IR_i32, 1) || !check_heads(s)) return false;
  return check_frequencies(s, operand(s, 0)->dims[2].add / 2) && set_result(s, operand(s, 0));
}

static bool ir_shape_rope_angles(ir_shaping *s) {
  int64_t dim = find_attr(s, "dim")->i;
  if (!expect(s, 0, IR_i32, 1)) return false;
  if (dim < 2 || dim % 2 != 0) FAIL(s, "rope_angles: dim is %lld but must be even and above 0", (long long)dim);
  if (!check_frequencies(s, dim / 2)) return false;
  ir_type type = {.dtype = IR_f32, .rank = 2, .dims = {operand(s, 0)->dims[0], ir_static_dim(dim, NULL)}};
  return set_result(s, &type);
}

static bool ir_shape_rotate(ir_shaping *s) {
  return expect(s, 1, IR_f32, 2) && check_heads(s) && same_dim(s, 0, 2, 1, 1) && set_result(s, operand(s, 0));
}

static bool ir_shape_append(ir_shaping *s) {
  bool part;
  if (!flag(s, "part", &part) || !expect(s, 0, IR_f32, 3) || !expect(s, 1, IR_i32, 0)) return false;
  if (!*find_attr(s, "cache")->s) FAIL(s, "append: cache has no name");
  const ir_attr *storage = find_attr(s, "storage");
  if (storage && strcmp(storage->s, "f32") != 0 && strcmp(storage->s, "f16") != 0)
    FAIL(s, "append: storage is '%s' but must be f32 or f16", storage->s);
  ir_type type = *operand(s, 0);
  type.dims[0] = ir_symbol_dim("S");
  return set_result(s, &type);
}

static bool ir_shape_broadcast(ir_shaping *s) {
  const ir_type *x = operand(s, 0), *to = &find_attr(s, "to")->shape;
  if (!expect_dtype(s, 0, IR_f32)) return false;
  bool fits = to->dtype == IR_f32 && x->rank <= to->rank;
  for (int i = 0; fits && i < x->rank; i++) {
    ir_dim have = x->dims[i], want = to->dims[to->rank - x->rank + i];
    fits = ir_dim_equal(have, want) || (!have.symbol && have.add == 1);
  }
  if (!fits) FAIL(s, "broadcast: x is %s, which cannot be repeated to %s", type_text(s, x), type_text(s, to));
  return set_result(s, to);
}

static bool ir_shape_number(ir_shaping *s) {
  if (!expect(s, 0, IR_i32, 1)) return false;
  return set_result(s, &(ir_type){.dtype = IR_f32, .rank = 2, .dims = {operand(s, 0)->dims[0], ir_static_dim(1, NULL)}});
}

static bool ir_shape_element(ir_shaping *s) {
  const ir_type *x = operand(s, 0), *ids = operand(s, 1);
  bool made = ids->rank == 2 && !ids->dims[1].symbol && ids->dims[1].add == 1;
  if (!expect(s, 0, x->dtype, 2) || !expect(s, 1, IR_i32, made ? 2 : 1) || !same_dim(s, 1, 0, 0, 0)) return false;
  return set_result(s, &(ir_type){.dtype = x->dtype, .rank = 2, .dims = {x->dims[0], ir_static_dim(1, NULL)}});
}

static bool ir_shape_gumbel(ir_shaping *s) {
  int64_t count = find_attr(s, "count")->i;
  for (int i = 0; i < 3; i++)
    if (!expect(s, i, IR_i32, 1) || !same_dim(s, i, 0, 0, 0)) return false;
  if (count < 1 || count > MOST_INDICES) FAIL(s, "gumbel: count is %lld but must be 1 or more", (long long)count);
  return set_result(s, &(ir_type){.dtype = IR_f32, .rank = 2, .dims = {operand(s, 0)->dims[0], ir_static_dim(count, NULL)}});
}

static bool ir_shape_one_hot(ir_shaping *s) {
  int64_t count = find_attr(s, "count")->i;
  if (!expect(s, 0, IR_i32, 1)) return false;
  if (count < 1 || count > MOST_INDICES) FAIL(s, "one_hot: count is %lld but must be 1 or more", (long long)count);
  return set_result(s, &(ir_type){.dtype = IR_f32, .rank = 2, .dims = {operand(s, 0)->dims[0], ir_static_dim(count, NULL)}});
}

static bool has_name(ir_shaping *s, const char *attr) {
  if (*find_attr(s, attr)->s) return true;
  FAIL(s, "%s: %s has no name", name_of(s), attr);
}

static bool ir_shape_save(ir_shaping *s) {
  s->result_count = 0;
  return expect(s, 0, IR_f32, -2) && expect(s, 1, IR_i32, 0) && has_name(s, "stack");
}

static bool ir_shape_saved(ir_shaping *s) {
  return expect(s, 0, IR_i32, 0) && has_name(s, s->code == IR_OP_saved ? "stack" : "cache") &&
         set_result(s, &find_attr(s, "of")->shape);
}

/* The type of the weight whose gradient is added to, of one layer. */
static bool gradient_type(ir_shaping *s, int layer_operand, ir_type *type) {
  const char *name = find_attr(s, "weight")->s;
  const ir_weight *weight = ir_find_weight(s->module, name);
  if (!weight) FAIL(s, "%s: there is no weight '%s'", name_of(s), name);
  bool layered = s->operand_count > layer_operand;
  if (layered && !expect(s, layer_operand, IR_i32, 0)) return false;
  *type = weight->type;
  if (!layered) return true;
  type->rank--;
  for (int i = 0; i < type->rank; i++) type->dims[i] = weight->type.dims[i + 1];
  return true;
}

static bool ends_in(const ir_type *type, ir_dim last) { return ir_dim_equal(type->dims[type->rank - 1], last); }

static bool ir_shape_accumulate_product(ir_shaping *s) {
  ir_type type;
  const ir_type *x = operand(s, 0), *y = operand(s, 1);
  int rank = x->rank;
  s->result_count = 0;
  if (!expect(s, 0, IR_f32, rank == 3 ? 3 : 2) || !expect(s, 1, IR_f32, rank) || !same_dim(s, 1, 0, 0, 0) ||
      !gradient_type(s, 2, &type))
    return false;
  bool heads = rank == 2 || (ir_dim_equal(x->dims[1], type.dims[0]) && ir_dim_equal(y->dims[1], type.dims[0]));
  if (type.rank == rank && heads && ends_in(x, type.dims[rank - 2]) && ends_in(y, type.dims[rank - 1])) return true;
  FAIL(s, "accumulate_product: x is %s and y is %s, but the weight is %s", type_text(s, x), type_text(s, y),
       type_text(s, &type));
}

/* [T, ..] or [T, used, ..] of operand `ids`. */
static bool expect_choices(ir_shaping *s, int i, int ids) {
  bool each = operand(s, i)->rank == 3;
  return expect(s, i, IR_f32, each ? 3 : 2) && same_dim(s, i, 0, ids, 0) && (!each || same_dim(s, i, 1, ids, 1));
}

static bool ir_shape_accumulate_experts(ir_shaping *s) {
  ir_type type;
  s->result_count = 0;
  if (!expect(s, 2, IR_i32, 2) || !expect_choices(s, 0, 2) || !expect_choices(s, 1, 2) || !gradient_type(s, 3, &type))
    return false;
  const ir_type *x = operand(s, 0), *y = operand(s, 1);
  if (type.rank == 3 && ends_in(x, type.dims[1]) && ends_in(y, type.dims[2])) return true;
  FAIL(s, "accumulate_experts: x is %s and y is %s, but the weight is %s", type_text(s, x), type_text(s, y),
       type_text(s, &type));
}

static bool ir_shape_accumulate_sum(ir_shaping *s) {
  ir_type type;
  s->result_count = 0;
  if (!expect(s, 0, IR_f32, -2) || !gradient_type(s, 1, &type)) return false;
  int64_t columns = ir_static_size(operand(s, 0), 1);
  if (type.rank == 1 && columns > 0 && columns % type.dims[0].add == 0) return true;
  FAIL(s, "accumulate_sum: x is %s, but the weight is %s", type_text(s, operand(s, 0)), type_text(s, &type));
}

static bool ir_shape_accumulate_rows(ir_shaping *s) {
  ir_type type;
  s->result_count = 0;
  if (!expect(s, 0, IR_f32, 2) || !expect(s, 1, IR_i32, 1) || !same_dim(s, 1, 0, 0, 0) || !gradient_type(s, 2, &type))
    return false;
  if (type.rank == 2 && ir_dim_equal(operand(s, 0)->dims[1], type.dims[1])) return true;
  FAIL(s, "accumulate_rows: x is %s, but the weight is %s", type_text(s, operand(s, 0)), type_text(s, &type));
}

static bool state_type(ir_shaping *s, ir_type *type) {
  const char *name = find_attr(s, "weight")->s;
  const ir_weight *weight = ir_find_weight(s->module, name);
  if (!weight) FAIL(s, "%s: there is no weight '%s'", name_of(s), name);
  int64_t state = find_attr(s, "state")->i;
  if (state < 0 || state > 4) FAIL(s, "%s: there is no state %lld", name_of(s), (long long)state);
  *type = weight->type;
  type->dtype = IR_f32;
  return true;
}

static bool ir_shape_parameter(ir_shaping *s) {
  ir_type type;
  return state_type(s, &type) && set_result(s, &type);
}

static bool ir_shape_assign(ir_shaping *s) {
  ir_type type;
  s->result_count = 0;
  if (!state_type(s, &type)) return false;
  if (operand(s, 0)->rank == 0 || ir_type_equal(operand(s, 0), &type)) return true;
  FAIL(s, "assign: x is %s, but the weight is %s", type_text(s, operand(s, 0)), type_text(s, &type));
}

static bool ir_shape_round_random(ir_shaping *s) {
  const char *name = find_attr(s, "weight")->s;
  if (!ir_find_weight(s->module, name)) FAIL(s, "round_random: there is no weight '%s'", name);
  for (int i = 1; i < 3; i++)
    if (operand(s, i)->rank) FAIL(s, "round_random: a key is %s, not a number", type_text(s, operand(s, i)));
  return set_result(s, operand(s, 0));
}

static bool ir_shape_total(ir_shaping *s) {
  ir_type scalar = {.dtype = IR_f32};
  if (operand(s, 0)->dtype != IR_f32) FAIL(s, "total: x is %s", type_text(s, operand(s, 0)));
  return set_result(s, &scalar);
}

static bool set_two_results(ir_shaping *s, const ir_type *first, const ir_type *second) {
  if (!set_result(s, first)) return false;
  ir_type *both = DP_NEW_ARRAY(s->arena, ir_type, 2);
  both[0] = *first;
  both[1] = *second;
  s->results = both;
  s->result_count = 2;
  return true;
}

/* Operand i is [rows of operand `rows`, heads, last]. */
static bool expect_heads(ir_shaping *s, int i, int rows, ir_dim heads, ir_dim last) {
  if (!expect(s, i, IR_f32, 3) || !same_dim(s, i, 0, rows, 0)) return false;
  const ir_type *type = operand(s, i);
  if (ir_dim_equal(type->dims[1], heads) && ir_dim_equal(type->dims[2], last)) return true;
  FAIL(s, "%s: %s is %s but must have %s heads of %s", name_of(s), operand_name(s, i), type_text(s, type), dim_text(s, heads),
       dim_text(s, last));
}

static bool check_window(ir_shaping *s, int i, bool causal) {
  if (s->operand_count <= i) return true;
  if (!expect(s, i, IR_f32, 0)) return false;
  if (!causal) FAIL(s, "%s: a window needs causal", name_of(s));
  return true;
}

static bool ir_shape_best(ir_shaping *s) {
  int64_t run = find_attr(s, "run")->i;
  if (!expect(s, 0, IR_f32, 2)) return false;
  const ir_type *x = operand(s, 0);
  if (x->dims[1].symbol || x->dims[1].add > MOST_INDICES) FAIL(s, "best_of_runs: x is %s: too many columns", type_text(s, x));
  if (run < 1 || run % 64 != 0) FAIL(s, "best_of_runs: run is %lld but must be a multiple of 64", (long long)run);
  ir_type values = {.dtype = IR_f32, .rank = 2, .dims = {x->dims[0], ir_static_dim((x->dims[1].add + run - 1) / run, NULL)}};
  ir_type places = values;
  places.dtype = IR_i32;
  return set_two_results(s, &values, &places);
}

static bool ir_shape_attend_rows(ir_shaping *s) {
  bool causal;
  if (!flag(s, "causal", &causal) || !expect(s, 0, IR_f32, 3) || !expect(s, 1, IR_f32, 3) || !expect(s, 2, IR_f32, 3))
    return false;
  ir_dim heads = operand(s, 0)->dims[1], kv = operand(s, 1)->dims[1], hd = operand(s, 0)->dims[2];
  ir_dim vd = operand(s, 2)->dims[2], one = ir_static_dim(1, NULL);
  if (!expect_heads(s, 1, 1, kv, hd) || !expect_heads(s, 2, 0, heads, vd) || !expect_heads(s, 3, 1, kv, vd) ||
      !expect_heads(s, 4, 1, kv, hd) || !expect_heads(s, 5, 0, heads, one) || !expect_heads(s, 6, 0, heads, one))
    return false;
  if (heads.add % kv.add) FAIL(s, "attend_rows: %s is no multiple of %s", dim_text(s, heads), dim_text(s, kv));
  if (!check_window(s, 7, causal)) return false;
  return set_result(s, operand(s, 0));
}

static bool ir_shape_attend_columns(ir_shaping *s) {
  bool causal;
  if (!flag(s, "causal", &causal) || !expect(s, 0, IR_f32, 3) || !expect(s, 1, IR_f32, 3) || !expect(s, 2, IR_f32, 3))
    return false;
  ir_dim heads = operand(s, 2)->dims[1], kv = operand(s, 0)->dims[1], hd = operand(s, 0)->dims[2];
  ir_dim vd = operand(s, 1)->dims[2], two = ir_static_dim(2, NULL);
  if (!expect_heads(s, 1, 0, kv, vd) || !expect_heads(s, 2, 2, heads, hd) || !expect_heads(s, 3, 2, heads, vd) ||
      !expect_heads(s, 4, 2, heads, vd) || !expect_heads(s, 5, 2, heads, hd) || !expect_heads(s, 6, 2, heads, two))
    return false;
  if (heads.add % kv.add) FAIL(s, "attend_columns: %s is no multiple of %s", dim_text(s, heads), dim_text(s, kv));
  if (!check_window(s, 7, causal)) return false;
  return set_two_results(s, operand(s, 0), operand(s, 1));
}

static bool ir_shape_attend(ir_shaping *s) {
  bool causal, sums = false;
  if (!flag(s, "causal", &causal) || (find_attr(s, "sums") && !flag(s, "sums", &sums))) return false;
  for (int i = 0; i < 3; i++)
    if (!expect(s, i, IR_f32, 3)) return false;
  if (!same_dim(s, 0, 2, 1, 2) || !same_dim(s, 1, 0, 2, 0) || !same_dim(s, 1, 1, 2, 1)) return false;
  ir_dim heads = operand(s, 0)->dims[1], kv_heads = operand(s, 1)->dims[1];
  if (heads.symbol || kv_heads.symbol || heads.add % kv_heads.add != 0)
    FAIL(s, "attend: q is %s but k is %s: %s must be a multiple of %s", type_text(s, operand(s, 0)),
         type_text(s, operand(s, 1)), dim_text(s, heads), dim_text(s, kv_heads));
  if (!check_window(s, 3, causal)) return false;
  ir_type type = *operand(s, 0);
  type.dims[2] = operand(s, 2)->dims[2];
  ir_type totals = type;
  totals.dims[2] = ir_static_dim(1, NULL);
  return sums ? set_two_results(s, &type, &totals) : set_result(s, &type);
}

/* ---- the table --------------------------------------------------------------------------------------------------- */

static bool (*const rules[])(ir_shaping *) = {
#define IR_OP(name, operands, attrs, shape, gradient, tile, traits, doc) ir_shape_##shape,
#include "ir/ops.def"
#undef IR_OP
};

bool ir_infer(ir_shaping *s) {
  s->results = NULL;
  s->result_count = 0;
  s->message = NULL;
  bool region = ir_op_info_of(s->code)->traits & IR_REGION;
  if (!check_operands(s) || !check_attrs(s)) return false;
  if (region != (s->body != NULL)) FAIL(s, region ? "%s needs a body" : "%s takes no body", name_of(s));
  return rules[s->code](s);
}
