/* runtime/chat_eval.c: walks the tree: expressions into values, statements into text. */
#include "runtime/chat_parts.h"
#include "runtime/unicode.h"

#include <math.h>
#include <string.h>

static chat_value eval(chat_run *run, chat_scope *scope, const chat_node *node);

/* ---- variables -------------------------------------------------------------------------------------------------- */

static chat_scope *scope_new(chat_run *run, chat_scope *outer) {
  chat_scope *scope = chat_alloc(run, sizeof *scope);
  if (scope) scope->outer = outer;
  return scope;
}

static chat_variable *find(chat_run *run, chat_scope *scope, chat_text name) {
  chat_step(run, (size_t)scope->count);
  for (int i = 0; i < scope->count; i++)
    if (chat_same(scope->items[i].name, name)) return &scope->items[i];
  return NULL;
}

void chat_set(chat_run *run, chat_scope *scope, chat_text name, chat_value value) {
  if (!scope || chat_failed(run)) return;
  chat_variable *variable = find(run, scope, name);
  if (!variable) {
    if (scope->count == scope->capacity) {
      int capacity = scope->capacity ? 2 * scope->capacity : 8;
      chat_variable *items = chat_alloc(run, (size_t)capacity * sizeof *items);
      if (!items) return;
      if (scope->count) memcpy(items, scope->items, (size_t)scope->count * sizeof *items);
      scope->items = items;
      scope->capacity = capacity;
    }
    variable = &scope->items[scope->count++];
    variable->name = name;
  }
  variable->value = value;
}

static chat_value lookup(chat_run *run, chat_scope *scope, chat_text name) {
  for (; scope; scope = scope->outer) {
    const chat_variable *variable = find(run, scope, name);
    if (variable) return variable->value;
  }
  const chat_builtin *function = chat_find_function(name);
  if (function && (run->now || strcmp(function->name, "strftime_now") != 0))
    return (chat_value){.kind = CHAT_FUNCTION, .function = {function, NULL}};
  if (chat_is(name, "cycler") || chat_is(name, "joiner") || chat_is(name, "lipsum"))
    return chat_fail(run, DP_UNSUPPORTED, "the function '%.*s' is not handled", (int)name.length, name.text);
  return (chat_value){.kind = CHAT_UNDEFINED, .text = name};
}

/* ---- attributes and items --------------------------------------------------------------------------------------- */

static chat_value undefined_used(chat_run *run, const chat_value *value) {
  if (!value->text.length) return chat_fail(run, DP_INVALID, "an undefined value is used");
  return chat_fail(run, DP_INVALID, "'%.*s' is undefined", (int)(value->text.length > 80 ? 80 : value->text.length),
                   value->text.text);
}

static chat_value loop_attribute(const chat_loop *loop, chat_text name, bool *known) {
  int last = loop->list->count - 1;
  *known = true;
  if (chat_is(name, "index")) return chat_int(loop->index + 1);
  if (chat_is(name, "index0")) return chat_int(loop->index);
  if (chat_is(name, "first")) return chat_bool(loop->index == 0);
  if (chat_is(name, "last")) return chat_bool(loop->index == last);
  if (chat_is(name, "length")) return chat_int(last + 1);
  if (chat_is(name, "revindex")) return chat_int(last - loop->index + 1);
  if (chat_is(name, "revindex0")) return chat_int(last - loop->index);
  if (chat_is(name, "depth")) return chat_int(1);
  if (chat_is(name, "depth0")) return chat_int(0);
  if (chat_is(name, "previtem")) return loop->index > 0 ? loop->list->items[loop->index - 1] : CHAT_NO_VALUE;
  if (chat_is(name, "nextitem")) return loop->index < last ? loop->list->items[loop->index + 1] : CHAT_NO_VALUE;
  *known = false;
  return CHAT_NO_VALUE;
}

static chat_value bind_method(chat_run *run, const chat_builtin *method, const chat_value *object) {
  chat_value *self = chat_alloc(run, sizeof *self);
  if (!self) return CHAT_NO_VALUE;
  *self = *object;
  return (chat_value){.kind = CHAT_FUNCTION, .function = {method, self}};
}

chat_value chat_attribute(chat_run *run, const chat_value *object, chat_text name) {
  if (object->kind == CHAT_UNDEFINED) return undefined_used(run, object);
  bool known = false;
  if (object->kind == CHAT_LOOP) {
    chat_value value = loop_attribute(object->loop, name, &known);
    if (known) return value;
  }
  const chat_builtin *method = chat_find_method(object, name);
  if (method) return bind_method(run, method, object);
  if (object->kind == CHAT_DICT || object->kind == CHAT_NAMESPACE) {
    chat_value key = chat_string(name.text, name.length);
    const chat_value *value = chat_dict_get(run, object->dict, &key);
    if (value) return *value;
  }
  return (chat_value){.kind = CHAT_UNDEFINED, .text = name};
}

/* items[index], counted from the end when it is negative */
static chat_value item_at(const chat_list *list, int64_t index) {
  if (index < 0) index += list->count;
  return index >= 0 && index < list->count ? list->items[index] : CHAT_NO_VALUE;
}

/* text[begin:end], counted in characters; within the text */
static chat_value characters(chat_text text, int64_t begin, int64_t end) {
  size_t at = 0, first = 0;
  for (int64_t i = 0; i < end; i++) {
    if (i == begin) first = at;
    uint32_t c;
    int step = dp_utf8_step(text.text + at, text.length - at, &c);
    at = step == 0 ? text.length : at + (size_t)(step < 0 ? -step : step);
  }
  return begin < end ? chat_string(text.text + first, at - first) : chat_string("", 0);
}

chat_value chat_item(chat_run *run, const chat_value *object, const chat_value *key) {
  if (object->kind == CHAT_UNDEFINED) return undefined_used(run, object);
  if (object->kind == CHAT_DICT) {
    const chat_value *value = chat_dict_get(run, object->dict, key);
    if (value) return *value;
  }
  if (key->kind == CHAT_STRING) return chat_attribute(run, object, key->text);
  bool is_index = key->kind == CHAT_INT || key->kind == CHAT_BOOL;
  int64_t index = key->kind == CHAT_INT ? key->integer : key->truth;
  if (is_index && object->kind == CHAT_LIST) return item_at(object->list, index);
  if (is_index && object->kind == CHAT_STRING) {
    int64_t length = chat_length(run, object);
    if (index < 0) index += length;
    return index >= 0 && index < length ? characters(object->text, index, index + 1) : CHAT_NO_VALUE;
  }
  return CHAT_NO_VALUE;
}

/* Python's rules: bounds count from the end when negative, and never leave the sequence. */
static chat_value slice(chat_run *run, const chat_value *object, const chat_value bounds[3]) {
  if (object->kind == CHAT_UNDEFINED) return undefined_used(run, object);
  if (object->kind != CHAT_LIST && object->kind != CHAT_STRING)
    return chat_fail(run, DP_INVALID, "a %s cannot be sliced", chat_kind_name(object));
  for (int i = 0; i < 3; i++)
    if (bounds[i].kind != CHAT_INT && bounds[i].kind != CHAT_NONE)
      return chat_fail(run, DP_INVALID, "a slice bound that is a %s", chat_kind_name(&bounds[i]));
  int64_t step = bounds[2].kind == CHAT_INT ? bounds[2].integer : 1, n = chat_length(run, object);
  if (step == 0) return chat_fail(run, DP_INVALID, "a slice with step 0");
  int64_t ends[2] = {step > 0 ? 0 : n - 1, step > 0 ? n : -1};
  int64_t low = step > 0 ? 0 : -1, high = step > 0 ? n : n - 1;
  for (int i = 0; i < 2; i++) {
    if (bounds[i].kind != CHAT_INT) continue;
    int64_t bound = bounds[i].integer;
    if (bound < 0) bound += n;
    ends[i] = bound < low ? low : bound > high ? high : bound;
  }
  if (object->kind == CHAT_STRING && step == 1) return characters(object->text, ends[0], ends[1]);
  chat_list *items = chat_iterate(run, object), *part = chat_list_new(run, 0);
  if (!items || !part) return CHAT_NO_VALUE;
  part->is_tuple = items->is_tuple;
  if (step > n) step = n + 1; /* so that the counter cannot overflow */
  if (step < -n) step = -n - 1;
  for (int64_t i = ends[0]; step > 0 ? i < ends[1] : i > ends[1]; i += step) chat_list_add(run, part, items->items[i]);
  if (object->kind == CHAT_LIST) return chat_list_value(part);
  dp_str text = {0};
  for (int i = 0; i < part->count; i++) dp_str_addn(&text, part->items[i].text.text, part->items[i].text.length);
  return chat_take(run, &text);
}

/* ---- operators -------------------------------------------------------------------------------------------------- */

static chat_value no_operator(chat_run *run, chat_text op, const chat_value *a, const chat_value *b) {
  bool formats = a->kind == CHAT_STRING && chat_is(op, "%");
  if (a->kind == CHAT_UNDEFINED) return undefined_used(run, a);
  if (b->kind == CHAT_UNDEFINED && !formats) return undefined_used(run, b);
  return chat_fail(run, formats ? DP_UNSUPPORTED : DP_INVALID, "'%.*s' between %s and %s%s", (int)op.length, op.text,
                   chat_kind_name(a), chat_kind_name(b), formats ? " is not handled" : "");
}

static chat_value repeat(chat_run *run, const chat_value *value, int64_t times) {
  if (times < 0) times = 0;
  if (value->kind == CHAT_LIST) {
    chat_list *list = chat_list_new(run, 0);
    for (int64_t i = 0; i < times && value->list->count && chat_step(run, 0); i++)
      for (int k = 0; k < value->list->count && !chat_failed(run); k++) chat_list_add(run, list, value->list->items[k]);
    if (list) list->is_tuple = value->list->is_tuple;
    return chat_list_value(list);
  }
  size_t n = value->text.length;
  if (n && (uint64_t)times > run->memory_limit / n)
    return chat_fail(run, DP_INVALID, "the template needs too much memory");
  char *text = chat_alloc(run, n * (size_t)times + 1);
  if (!text) return CHAT_NO_VALUE;
  for (int64_t i = 0; n && i < times; i++) memcpy(text + (size_t)i * n, value->text.text, n);
  return chat_string(text, n * (size_t)times);
}

static chat_value integer_operator(chat_run *run, chat_text op, int64_t a, int64_t b) {
  int64_t result = 0;
  bool overflow = false, zero = false;
  if (chat_is(op, "+"))
    overflow = __builtin_add_overflow(a, b, &result);
  else if (chat_is(op, "-"))
    overflow = __builtin_sub_overflow(a, b, &result);
  else if (chat_is(op, "*"))
    overflow = __builtin_mul_overflow(a, b, &result);
  else if (chat_is(op, "**")) {
    if (b < 0) return chat_float(pow((double)a, (double)b));
    result = 1;
    if (b > 64 && a != 0 && a != 1 && a != -1) overflow = true;
    for (int64_t i = 0, n = b > 64 ? 64 + (b & 1) : b; i < n && !overflow; i++)
      overflow = __builtin_mul_overflow(result, a, &result);
  } else if (b == 0)
    zero = true;
  else if (chat_is(op, "/"))
    return chat_float((double)a / (double)b);
  else if (b == -1) { /* INT64_MIN / -1 */
    if (chat_is(op, "//")) overflow = __builtin_sub_overflow((int64_t)0, a, &result);
  } else {
    int64_t quotient = a / b, rest = a % b;
    if (rest && (rest < 0) != (b < 0)) { /* Python rounds down */
      quotient--;
      rest += b;
    }
    result = chat_is(op, "//") ? quotient : rest;
  }
  if (zero) return chat_fail(run, DP_INVALID, "a division by zero");
  if (overflow) return chat_fail(run, DP_UNSUPPORTED, "an integer of more than 64 bits");
  return chat_int(result);
}

static chat_value float_operator(chat_run *run, chat_text op, double a, double b) {
  if (chat_is(op, "+")) return chat_float(a + b);
  if (chat_is(op, "-")) return chat_float(a - b);
  if (chat_is(op, "*")) return chat_float(a * b);
  if (chat_is(op, "**")) return chat_float(pow(a, b));
  if (b == 0) return chat_fail(run, DP_INVALID, "a division by zero");
  if (chat_is(op, "/")) return chat_float(a / b);
  if (chat_is(op, "//")) return chat_float(floor(a / b));
  double rest = fmod(a, b);
  return chat_float(rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest);
}

static bool is_number(const chat_value *value) {
  return value->kind == CHAT_INT || value->kind == CHAT_FLOAT || value->kind == CHAT_BOOL;
}

static double number_of(const chat_value *value) {
  return value->kind == CHAT_FLOAT ? value->number : value->kind == CHAT_INT ? (double)value->integer : value->truth;
}

static int64_t integer_of(const chat_value *value) { return value->kind == CHAT_INT ? value->integer : value->truth; }

static chat_value joined_lists(chat_run *run, const chat_list *a, const chat_list *b) {
  chat_list *list = chat_list_new(run, a->count + b->count);
  if (!list) return CHAT_NO_VALUE;
  list->is_tuple = a->is_tuple;
  for (int i = 0; i < a->count; i++) chat_list_add(run, list, a->items[i]);
  for (int i = 0; i < b->count; i++) chat_list_add(run, list, b->items[i]);
  return chat_list_value(list);
}

static chat_value joined_texts(chat_run *run, chat_text a, chat_text b) {
  char *text = chat_alloc(run, a.length + b.length + 1);
  if (!text) return CHAT_NO_VALUE;
  memcpy(text, a.text, a.length);
  memcpy(text + a.length, b.text, b.length);
  return chat_string(text, a.length + b.length);
}

static chat_value binary_operator(chat_run *run, chat_text op, const chat_value *a, const chat_value *b) {
  if (is_number(a) && is_number(b)) {
    if (a->kind == CHAT_FLOAT || b->kind == CHAT_FLOAT) return float_operator(run, op, number_of(a), number_of(b));
    return integer_operator(run, op, integer_of(a), integer_of(b));
  }
  if (chat_is(op, "+") && a->kind == CHAT_STRING && b->kind == CHAT_STRING) return joined_texts(run, a->text, b->text);
  if (chat_is(op, "+") && a->kind == CHAT_LIST && b->kind == CHAT_LIST && a->list->is_tuple == b->list->is_tuple)
    return joined_lists(run, a->list, b->list);
  if (chat_is(op, "*")) {
    if ((a->kind == CHAT_STRING || a->kind == CHAT_LIST) && (b->kind == CHAT_INT || b->kind == CHAT_BOOL))
      return repeat(run, a, integer_of(b));
    if ((b->kind == CHAT_STRING || b->kind == CHAT_LIST) && (a->kind == CHAT_INT || a->kind == CHAT_BOOL))
      return repeat(run, b, integer_of(a));
  }
  return no_operator(run, op, a, b);
}

static bool compares(chat_run *run, chat_text op, const chat_value *a, const chat_value *b) {
  if (chat_is(op, "==")) return chat_equal(run, a, b);
  if (chat_is(op, "!=")) return !chat_equal(run, a, b);
  if (chat_is(op, "in")) return chat_contains(run, b, a);
  if (chat_is(op, "not in")) return !chat_contains(run, b, a);
  if (a->kind == CHAT_UNDEFINED || b->kind == CHAT_UNDEFINED) undefined_used(run, a->kind == CHAT_UNDEFINED ? a : b);
  int order = chat_compare(run, a, b);
  if (chat_is(op, "<")) return order < 0;
  if (chat_is(op, ">")) return order > 0;
  return chat_is(op, "<=") ? order <= 0 : order >= 0;
}

/* ---- expressions ------------------------------------------------------------------------------------------------ */

static bool eval_args(chat_run *run, chat_scope *scope, const chat_node *node, chat_args *args) {
  args->keyword_count = node->keyword_count;
  args->count = node->count - node->keyword_count;
  args->keywords = node->keywords;
  args->items = chat_alloc(run, ((size_t)node->count + 1) * sizeof *args->items);
  for (int i = 0; i < node->count && !chat_failed(run); i++) args->items[i] = eval(run, scope, node->items[i]);
  return !chat_failed(run);
}

chat_value chat_call(chat_run *run, const chat_value *callee, const chat_args *args) {
  if (callee->kind == CHAT_UNDEFINED) return undefined_used(run, callee);
  if (callee->kind == CHAT_MACRO) return chat_call_macro(run, callee->macro, args);
  if (callee->kind != CHAT_FUNCTION) return chat_fail(run, DP_INVALID, "a %s cannot be called", chat_kind_name(callee));
  return chat_call_builtin(run, callee->function.builtin, callee->function.self, args);
}

static chat_value eval_call(chat_run *run, chat_scope *scope, const chat_node *node) {
  chat_args args;
  chat_value callee = eval(run, scope, node->a);
  if (chat_failed(run)) return CHAT_NO_VALUE;
  if (callee.kind == CHAT_UNDEFINED && node->a->kind == CHAT_N_ATTRIBUTE)
    return chat_fail(run, DP_UNSUPPORTED, "the method '%.*s' is not handled", (int)node->a->name.length,
                     node->a->name.text);
  return eval_args(run, scope, node, &args) ? chat_call(run, &callee, &args) : CHAT_NO_VALUE;
}

static chat_value eval_filter(chat_run *run, chat_scope *scope, const chat_node *node, const chat_value *block) {
  chat_args args;
  chat_value value = node->a ? (block ? eval_filter(run, scope, node->a, block) : eval(run, scope, node->a)) : *block;
  if (chat_failed(run) || !eval_args(run, scope, node, &args)) return CHAT_NO_VALUE;
  return chat_call_builtin(run, node->builtin, &value, &args);
}

static chat_value eval_list(chat_run *run, chat_scope *scope, const chat_node *node) {
  chat_list *list = chat_list_new(run, node->count);
  if (!list) return CHAT_NO_VALUE;
  list->is_tuple = node->is_tuple;
  for (int i = 0; i < node->count && !chat_failed(run); i++) chat_list_add(run, list, eval(run, scope, node->items[i]));
  return chat_list_value(list);
}

static chat_value eval_dict(chat_run *run, chat_scope *scope, const chat_node *node) {
  chat_dict *dict = chat_dict_new(run);
  for (int i = 0; i + 1 < node->count && !chat_failed(run); i += 2) {
    chat_value key = eval(run, scope, node->items[i]);
    if (key.kind == CHAT_LIST || key.kind == CHAT_DICT)
      return chat_fail(run, DP_UNSUPPORTED, "a %s as a key is not handled", chat_kind_name(&key));
    chat_dict_set(run, dict, key, eval(run, scope, node->items[i + 1]));
  }
  return dict ? (chat_value){.kind = CHAT_DICT, .dict = dict} : CHAT_NO_VALUE;
}

static chat_value eval_compare(chat_run *run, chat_scope *scope, const chat_node *node) {
  chat_value left = eval(run, scope, node->a);
  for (int i = 0; i < node->count && !chat_failed(run); i++) {
    chat_value right = eval(run, scope, node->items[i]);
    if (chat_failed(run) || !compares(run, node->keywords[i], &left, &right)) return chat_bool(false);
    left = right;
  }
  return chat_bool(true);
}

static chat_value eval_concat(chat_run *run, chat_scope *scope, const chat_node *node) {
  dp_str text = {0};
  for (int i = 0; i < node->count && !chat_failed(run); i++) {
    chat_value value = eval(run, scope, node->items[i]);
    chat_text part = chat_to_text(run, &value);
    if (!chat_step(run, part.length) || text.length > run->memory_limit) break;
    dp_str_addn(&text, part.text, part.length);
  }
  return chat_take(run, &text);
}

static chat_value eval_slice(chat_run *run, chat_scope *scope, const chat_node *node) {
  chat_value bounds[3] = {CHAT_NOTHING, CHAT_NOTHING, CHAT_NOTHING}, object = eval(run, scope, node->a);
  for (int i = 0; i < node->count && !chat_failed(run); i++)
    if (node->items[i]) bounds[i] = eval(run, scope, node->items[i]);
  return chat_failed(run) ? CHAT_NO_VALUE : slice(run, &object, bounds);
}

static chat_value eval_sign(chat_run *run, chat_scope *scope, const chat_node *node) {
  chat_value value = eval(run, scope, node->a);
  bool minus = chat_is(node->name, "-");
  if (chat_failed(run)) return CHAT_NO_VALUE;
  if (value.kind == CHAT_UNDEFINED) return undefined_used(run, &value);
  if (value.kind == CHAT_FLOAT) return chat_float(minus ? -value.number : value.number);
  if (!is_number(&value)) return chat_fail(run, DP_INVALID, "a sign before a %s", chat_kind_name(&value));
  return minus ? integer_operator(run, node->name, 0, integer_of(&value)) : chat_int(integer_of(&value));
}

static chat_value eval_pair(chat_run *run, chat_scope *scope, const chat_node *node) {
  chat_value a = eval(run, scope, node->a);
  if (chat_failed(run)) return CHAT_NO_VALUE;
  chat_value b = eval(run, scope, node->b);
  if (chat_failed(run)) return CHAT_NO_VALUE;
  return node->kind == CHAT_N_ITEM ? chat_item(run, &a, &b) : binary_operator(run, node->name, &a, &b);
}

static chat_value eval_node(chat_run *run, chat_scope *scope, const chat_node *node) {
  chat_value value;
  switch (node->kind) {
  case CHAT_N_CONST:
    return node->value;
  case CHAT_N_NAME:
    return lookup(run, scope, node->name);
  case CHAT_N_LIST:
    return eval_list(run, scope, node);
  case CHAT_N_DICT:
    return eval_dict(run, scope, node);
  case CHAT_N_ATTRIBUTE:
    value = eval(run, scope, node->a);
    return chat_failed(run) ? CHAT_NO_VALUE : chat_attribute(run, &value, node->name);
  case CHAT_N_SLICE:
    return eval_slice(run, scope, node);
  case CHAT_N_CALL:
    return eval_call(run, scope, node);
  case CHAT_N_FILTER:
  case CHAT_N_TEST:
    return eval_filter(run, scope, node, NULL);
  case CHAT_N_NOT:
    value = eval(run, scope, node->a);
    return chat_bool(!chat_truth(&value));
  case CHAT_N_AND:
    value = eval(run, scope, node->a);
    return chat_truth(&value) ? eval(run, scope, node->b) : value;
  case CHAT_N_OR:
    value = eval(run, scope, node->a);
    return chat_truth(&value) ? value : eval(run, scope, node->b);
  case CHAT_N_CONDITION:
    value = eval(run, scope, node->a);
    if (chat_truth(&value)) return eval(run, scope, node->b);
    return node->c ? eval(run, scope, node->c) : CHAT_NO_VALUE;
  case CHAT_N_COMPARE:
    return eval_compare(run, scope, node);
  case CHAT_N_CONCAT:
    return eval_concat(run, scope, node);
  case CHAT_N_ITEM:
  case CHAT_N_BINARY:
    return eval_pair(run, scope, node);
  case CHAT_N_SIGN:
    return eval_sign(run, scope, node);
  default:
    return chat_fail(run, DP_BUG, "a statement where an expression should be");
  }
}

static chat_value eval(chat_run *run, chat_scope *scope, const chat_node *node) {
  run->line = node->line;
  chat_value value = chat_enter(run) ? eval_node(run, scope, node) : CHAT_NO_VALUE;
  chat_leave(run);
  if (!chat_failed(run)) run->line = node->line;
  return chat_failed(run) ? CHAT_NO_VALUE : value;
}

/* ---- statements ------------------------------------------------------------------------------------------------- */

static void assign(chat_run *run, chat_scope *scope, const chat_node *target, chat_value value) {
  if (chat_failed(run)) return;
  if (target->kind == CHAT_N_NAME) {
    chat_set(run, scope, target->name, value);
    return;
  }
  if (target->kind == CHAT_N_NAMESPACE_TARGET) {
    chat_value space = lookup(run, scope, target->name);
    if (space.kind != CHAT_NAMESPACE)
      chat_fail(run, DP_INVALID, "'%.*s' is no namespace", (int)target->name.length, target->name.text);
    else
      chat_dict_set(run, space.dict, chat_string(target->keywords[0].text, target->keywords[0].length), value);
    return;
  }
  chat_list *parts = chat_iterate(run, &value);
  if (!parts) return;
  if (parts->count != target->count) {
    chat_fail(run, DP_INVALID, "%d values for %d names", parts->count, target->count);
    return;
  }
  for (int i = 0; i < parts->count; i++) assign(run, scope, target->items[i], parts->items[i]);
}

/* The items that pass the loop's condition. */
static chat_list *selected(chat_run *run, chat_scope *scope, const chat_node *node, chat_list *items) {
  chat_list *kept = chat_list_new(run, 0);
  chat_scope *inner = scope_new(run, scope);
  for (int i = 0; kept && inner && i < items->count && !chat_failed(run); i++) {
    assign(run, inner, node->a, items->items[i]);
    if (chat_failed(run)) break;
    chat_value passes = eval(run, inner, node->c);
    if (chat_truth(&passes)) chat_list_add(run, kept, items->items[i]);
  }
  return chat_failed(run) ? NULL : kept;
}

static void exec_for(chat_run *run, chat_scope *scope, const chat_node *node) {
  chat_value over = eval(run, scope, node->b);
  chat_list *items = chat_failed(run) ? NULL : chat_iterate(run, &over);
  if (items && node->c) items = selected(run, scope, node, items);
  chat_scope *inner = items ? scope_new(run, scope) : NULL;
  chat_loop *loop = inner ? chat_alloc(run, sizeof *loop) : NULL;
  if (!loop) return;
  if (!items->count && node->items[1]) chat_exec(run, scope_new(run, scope), node->items[1]);
  *loop = (chat_loop){items, 0};
  for (int i = 0; i < items->count && !chat_failed(run); i++) {
    if (inner->captured && !(inner = scope_new(run, scope))) return;
    inner->count = 0;
    loop->index = i;
    chat_set(run, inner, (chat_text){"loop", 4}, (chat_value){.kind = CHAT_LOOP, .loop = loop});
    assign(run, inner, node->a, items->items[i]);
    chat_exec(run, inner, node->items[0]);
    bool leave = run->flow == CHAT_BREAK;
    run->flow = CHAT_GO_ON;
    if (leave) break;
  }
}

/* Runs a body into a string instead of the output. */
static chat_value captured_text(chat_run *run, chat_scope *scope, const chat_node *body) {
  dp_str text = {0}, *out = run->out;
  run->out = &text;
  if (scope) chat_exec(run, scope, body);
  run->out = out;
  return chat_take(run, &text);
}

static void exec_set(chat_run *run, chat_scope *scope, const chat_node *node) {
  chat_value value;
  if (node->c) {
    value = captured_text(run, scope_new(run, scope), node->c);
    if (node->b && !chat_failed(run)) value = eval_filter(run, scope, node->b, &value);
  } else {
    value = eval(run, scope, node->b);
  }
  assign(run, scope, node->a, value);
}

static void exec_macro(chat_run *run, chat_scope *scope, const chat_node *node) {
  chat_macro *macro = chat_alloc(run, sizeof *macro);
  if (!macro) return;
  *macro = (chat_macro){node, scope};
  for (chat_scope *s = scope; s; s = s->outer) s->captured = true;
  chat_set(run, scope, node->name, (chat_value){.kind = CHAT_MACRO, .macro = macro});
}

chat_value chat_call_macro(chat_run *run, const chat_macro *macro, const chat_args *args) {
  const chat_node *node = macro->node;
  chat_scope *scope = scope_new(run, macro->scope);
  if (!scope) return CHAT_NO_VALUE;
  if (args->count > node->count)
    return chat_fail(run, DP_INVALID, "macro '%.*s' takes %d arguments, not %d", (int)node->name.length,
                     node->name.text, node->count, args->count);
  int used = 0;
  for (int i = 0; i < node->count && !chat_failed(run); i++) {
    const chat_value *given = i < args->count ? &args->items[i] : NULL;
    for (int k = 0; k < args->keyword_count; k++) {
      if (!chat_same(args->keywords[k], node->keywords[i])) continue;
      if (given) return chat_fail(run, DP_INVALID, "an argument is given twice");
      given = &args->items[args->count + k];
      used++;
    }
    chat_value value = given            ? *given
                       : node->items[i] ? eval(run, scope, node->items[i])
                                        : (chat_value){.kind = CHAT_UNDEFINED, .text = node->keywords[i]};
    chat_set(run, scope, node->keywords[i], value);
  }
  if (used < args->keyword_count)
    return chat_fail(run, DP_INVALID, "macro '%.*s' has no parameter of that name", (int)node->name.length,
                     node->name.text);
  return chat_failed(run) ? CHAT_NO_VALUE : captured_text(run, scope, node->a);
}

static void exec_if(chat_run *run, chat_scope *scope, const chat_node *node) {
  while (node && node->kind == CHAT_N_IF) {
    chat_value condition = eval(run, scope, node->a);
    if (chat_failed(run)) return;
    node = chat_truth(&condition) ? node->b : node->c;
  }
  if (node) chat_exec(run, scope, node);
}

static void exec_with(chat_run *run, chat_scope *scope, const chat_node *node) {
  chat_scope *inner = scope_new(run, scope);
  for (int i = 0; inner && i + 1 < node->count && !chat_failed(run); i += 2)
    assign(run, inner, node->items[i], eval(run, scope, node->items[i + 1]));
  if (!chat_failed(run)) chat_exec(run, inner, node->a);
}

static void exec_print(chat_run *run, chat_scope *scope, const chat_node *node) {
  chat_value value = eval(run, scope, node->a);
  if (chat_failed(run)) return;
  chat_text text = chat_to_text(run, &value);
  chat_write(run, text.text, text.length);
}

static void exec_node(chat_run *run, chat_scope *scope, const chat_node *node) {
  switch (node->kind) {
  case CHAT_N_BODY:
    for (int i = 0; i < node->count && !chat_failed(run) && run->flow == CHAT_GO_ON; i++)
      chat_exec(run, scope, node->items[i]);
    return;
  case CHAT_N_DATA:
    chat_write(run, node->name.text, node->name.length);
    return;
  case CHAT_N_PRINT:
    exec_print(run, scope, node);
    return;
  case CHAT_N_IF:
    exec_if(run, scope, node);
    return;
  case CHAT_N_FOR:
    exec_for(run, scope, node);
    return;
  case CHAT_N_SET:
    exec_set(run, scope, node);
    return;
  case CHAT_N_MACRO:
    exec_macro(run, scope, node);
    return;
  case CHAT_N_WITH:
    exec_with(run, scope, node);
    return;
  case CHAT_N_BREAK:
    run->flow = CHAT_BREAK;
    return;
  case CHAT_N_CONTINUE:
    run->flow = CHAT_CONTINUE;
    return;
  default:
    chat_fail(run, DP_BUG, "an expression where a statement should be");
    return;
  }
}

void chat_exec(chat_run *run, chat_scope *scope, const chat_node *node) {
  if (chat_failed(run)) return;
  run->line = node->line;
  if (chat_enter(run)) exec_node(run, scope, node);
  chat_leave(run);
}
