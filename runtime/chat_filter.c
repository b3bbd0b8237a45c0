/* runtime/chat_filter.c: Jinja's filters and tests, as far as chat templates use them. What is left out is refused by
 * name when the template is loaded. */
#include "runtime/chat_builtin.h"

#include <stdlib.h>
#include <string.h>

/* ---- filters -------------------------------------------------------------------------------------------------------
 */

/* map, select and their like take whatever is false for an empty list. */
static chat_list *items_or_none(chat_run *run, const chat_value *value) {
  return chat_truth(value) ? chat_iterate(run, value) : chat_list_new(run, 0);
}

BUILTIN(filter_trim) {
  UNUSED;
  return chat_strip(run, chat_to_text(run, self), &bound[0], true, true);
}

BUILTIN(filter_upper) {
  UNUSED;
  return chat_change_case(run, chat_to_text(run, self), CHAT_UPPER, "upper");
}

BUILTIN(filter_lower) {
  UNUSED;
  return chat_change_case(run, chat_to_text(run, self), CHAT_LOWER, "lower");
}

BUILTIN(filter_capitalize) {
  UNUSED;
  return chat_change_case(run, chat_to_text(run, self), CHAT_CAPITALIZE, "capitalize");
}

/* Not Python's title(): a word goes on after "'". */
BUILTIN(filter_title) {
  UNUSED;
  chat_value changed = chat_change_case(run, chat_to_text(run, self), CHAT_LOWER, "title");
  bool begins = true;
  for (size_t i = 0; changed.kind == CHAT_STRING && i < changed.text.length; i++) {
    char *c = (char *)changed.text.text + i;
    if (begins && *c >= 'a' && *c <= 'z') *c ^= 0x20;
    begins = chat_is_space((uint8_t)*c) || strchr("-({[<", *c);
  }
  return changed;
}

BUILTIN(filter_length) {
  UNUSED;
  return chat_int(chat_length(run, self));
}

BUILTIN(filter_string) {
  UNUSED;
  chat_text text = chat_to_text(run, self);
  return chat_string(text.text, text.length);
}

BUILTIN(filter_default) {
  UNUSED;
  bool use = self->kind == CHAT_UNDEFINED || (chat_truth(&bound[1]) && !chat_truth(self));
  if (!use) return *self;
  return bound[0].kind == CHAT_ABSENT ? chat_word("") : bound[0];
}

BUILTIN(filter_join) {
  UNUSED;
  chat_text by = bound[0].kind == CHAT_ABSENT ? (chat_text){"", 0} : chat_to_text(run, &bound[0]);
  return chat_join(run, self, by, &bound[1]);
}

BUILTIN(filter_replace) {
  UNUSED;
  return chat_replace(run, chat_to_text(run, self), chat_text_argument(run, &bound[0], NULL),
                      chat_text_argument(run, &bound[1], NULL),
                      bound[2].kind == CHAT_NONE ? -1 : chat_int_argument(run, &bound[2], -1));
}

BUILTIN(filter_list) {
  UNUSED;
  chat_list *items = chat_iterate(run, self), *list = items ? chat_list_new(run, items->count) : NULL;
  for (int i = 0; list && i < items->count; i++) chat_list_add(run, list, items->items[i]);
  return chat_list_value(list);
}

BUILTIN(filter_first) {
  UNUSED;
  chat_list *items = chat_iterate(run, self);
  return items && items->count ? items->items[0] : CHAT_NO_VALUE;
}

BUILTIN(filter_last) {
  UNUSED;
  chat_list *items = chat_iterate(run, self);
  return items && items->count ? items->items[items->count - 1] : CHAT_NO_VALUE;
}

BUILTIN(filter_reverse) {
  UNUSED;
  chat_list *items = chat_iterate(run, self), *list = items ? chat_list_new(run, items->count) : NULL;
  for (int i = items ? items->count : 0; list && i-- > 0;) chat_list_add(run, list, items->items[i]);
  if (self->kind == CHAT_STRING && list) {
    chat_value reversed = chat_list_value(list), none = {0};
    return chat_join(run, &reversed, (chat_text){"", 0}, &none);
  }
  return chat_list_value(list);
}

BUILTIN(filter_items) {
  UNUSED;
  if (self->kind == CHAT_UNDEFINED) return chat_list_value(chat_list_new(run, 0));
  return self->kind == CHAT_DICT ? chat_dict_items(run, self->dict) : chat_bad_argument(run, "items", self);
}

BUILTIN(filter_tojson) {
  UNUSED;
  bool ascii = chat_truth(&bound[0]), sorted = chat_truth(&bound[3]);
  int64_t indent =
      bound[1].kind == CHAT_ABSENT || bound[1].kind == CHAT_NONE ? -1 : chat_int_argument(run, &bound[1], -1);
  if (indent > 64) return chat_fail(run, DP_UNSUPPORTED, "tojson with an indent of more than 64 is not handled");
  if (indent < -1) indent = 0;
  chat_text comma = {indent >= 0 ? "," : ", ", indent >= 0 ? 1 : 2}, colon = {": ", 2};
  if (bound[2].kind == CHAT_LIST && bound[2].list->count == 2) {
    comma = chat_text_argument(run, &bound[2].list->items[0], NULL);
    colon = chat_text_argument(run, &bound[2].list->items[1], NULL);
  } else if (bound[2].kind != CHAT_ABSENT && bound[2].kind != CHAT_NONE) {
    return chat_bad_argument(run, "tojson's separators", &bound[2]);
  }
  dp_str out = {0};
  chat_add_json(run, &out, self, (int)indent, 0, ascii, sorted, comma, colon);
  return chat_take(run, &out);
}

/* A decimal number at the start of a string, after white space; false: the string is something else. */
static bool read_number(chat_text text, double *number, bool *is_integer) {
  char copy[64];
  size_t begin = 0, end = text.length;
  while (begin < end && chat_is_space((uint8_t)text.text[begin])) begin++;
  while (end > begin && chat_is_space((uint8_t)text.text[end - 1])) end--;
  if (end == begin || end - begin >= sizeof copy) return false;
  *is_integer = true;
  for (size_t i = begin; i < end; i++) {
    char c = copy[i - begin] = text.text[i];
    if (!(c >= '0' && c <= '9') && !((c == '-' || c == '+') && i == begin)) *is_integer = false;
    if (!((c >= '0' && c <= '9') || strchr("+-.eE", c)) || !c) return false;
  }
  copy[end - begin] = 0;
  char *stop;
  *number = strtod(copy, &stop);
  return *stop == 0;
}

BUILTIN(filter_int) {
  UNUSED;
  double number = 0;
  bool is_integer = false;
  if (self->kind == CHAT_INT) return *self;
  if (self->kind == CHAT_BOOL) return chat_int(self->truth);
  if (self->kind == CHAT_UNDEFINED) return chat_bad_argument(run, "int", self);
  if (self->kind == CHAT_FLOAT)
    number = self->number;
  else if (self->kind != CHAT_STRING || !read_number(self->text, &number, &is_integer))
    return bound[0].kind == CHAT_ABSENT ? chat_int(0) : bound[0];
  if (!(number > -9e15 && number < 9e15)) return chat_fail(run, DP_UNSUPPORTED, "an integer that is too large");
  return chat_int((int64_t)number);
}

BUILTIN(filter_float) {
  UNUSED;
  double number = 0;
  bool is_integer;
  if (self->kind == CHAT_UNDEFINED) return chat_bad_argument(run, "float", self);
  if (self->kind == CHAT_FLOAT) return *self;
  if (self->kind == CHAT_INT) return chat_float((double)self->integer);
  if (self->kind == CHAT_BOOL) return chat_float(self->truth);
  if (self->kind == CHAT_STRING && read_number(self->text, &number, &is_integer)) return chat_float(number);
  return bound[0].kind == CHAT_ABSENT ? chat_float(0) : bound[0];
}

BUILTIN(filter_abs) {
  UNUSED;
  if (self->kind == CHAT_FLOAT) return chat_float(self->number < 0 ? -self->number : self->number);
  if (self->kind != CHAT_INT || self->integer == INT64_MIN) return chat_bad_argument(run, "abs", self);
  return chat_int(self->integer < 0 ? -self->integer : self->integer);
}

BUILTIN(filter_indent) {
  UNUSED;
  if (self->kind != CHAT_STRING) return chat_bad_argument(run, "indent", self);
  chat_text text = self->text, by = {"    ", 4};
  if (bound[0].kind == CHAT_STRING) {
    by = bound[0].text;
  } else {
    int64_t width = chat_int_argument(run, &bound[0], 4);
    if (width < 0 || width > 64) return chat_fail(run, DP_UNSUPPORTED, "indent by more than 64 is not handled");
    by = chat_copy(run, "                                                                ", (size_t)width).text;
  }
  if (chat_failed(run)) return CHAT_NO_VALUE;
  bool first = chat_truth(&bound[1]), blank = chat_truth(&bound[2]);
  dp_str out = {0};
  for (size_t at = 0; at <= text.length && chat_step(run, by.length) && out.length <= run->memory_limit;) {
    size_t end = chat_find_text(text, (chat_text){"\n", 1}, at);
    bool last = end == SIZE_MAX;
    if (last) end = text.length;
    if (at == 0 ? first : blank || end > at) dp_str_addn(&out, by.text, by.length);
    dp_str_addn(&out, text.text + at, end - at);
    if (!last) dp_str_addc(&out, '\n');
    at = last ? text.length + 1 : end + 1;
  }
  return chat_take(run, &out);
}

BUILTIN(filter_safe) {
  UNUSED;
  return filter_string(run, self, bound, args);
}

BUILTIN(filter_unique) {
  UNUSED;
  chat_list *items = chat_iterate(run, self), *list = items ? chat_list_new(run, items->count) : NULL;
  chat_value seen = chat_list_value(list);
  for (int i = 0; list && i < items->count && !chat_failed(run); i++) {
    if (items->items[i].kind == CHAT_STRING) return chat_fail(run, DP_UNSUPPORTED, "unique of strings is not handled");
    if (!chat_contains(run, &seen, &items->items[i])) chat_list_add(run, list, items->items[i]);
  }
  return chat_list_value(list);
}

static chat_value extreme(chat_run *run, const chat_value *self, int sign) {
  chat_list *items = chat_iterate(run, self);
  chat_value best = items && items->count ? items->items[0] : CHAT_NO_VALUE;
  for (int i = 1; items && i < items->count && chat_step(run, 0); i++)
    if (sign * chat_compare(run, &items->items[i], &best) > 0) best = items->items[i];
  return best;
}

BUILTIN(filter_max) {
  UNUSED;
  return extreme(run, self, 1);
}

BUILTIN(filter_min) {
  UNUSED;
  return extreme(run, self, -1);
}

/* dictsort: by key, letter case aside */
BUILTIN(filter_dictsort) {
  UNUSED;
  if (self->kind != CHAT_DICT) return chat_bad_argument(run, "dictsort", self);
  chat_value pairs = chat_dict_items(run, self->dict);
  for (int i = 1; !chat_failed(run) && i < pairs.list->count; i++) {
    chat_value pair = pairs.list->items[i];
    chat_value key = filter_lower(run, &pair.list->items[0], bound, args);
    int at = i;
    for (; at > 0 && chat_step(run, 0); at--) {
      chat_value other = filter_lower(run, &pairs.list->items[at - 1].list->items[0], bound, args);
      if (chat_failed(run) || chat_compare(run, &other, &key) <= 0) break;
      pairs.list->items[at] = pairs.list->items[at - 1];
    }
    pairs.list->items[at] = pair;
  }
  return pairs;
}

/* "a.b.0" of an item; a number is an index */
static chat_value path_item(chat_run *run, chat_value item, chat_text path) {
  while (!chat_failed(run)) {
    const char *dot = memchr(path.text, '.', path.length);
    chat_text step = {path.text, dot ? (size_t)(dot - path.text) : path.length};
    double number;
    bool is_integer = false;
    bool is_index = read_number(step, &number, &is_integer) && is_integer && number >= 0 && number < 1e9;
    chat_value key = is_index ? chat_int((int64_t)number) : chat_string(step.text, step.length);
    item = chat_item(run, &item, &key);
    if (!dot) break;
    path = (chat_text){dot + 1, path.length - step.length - 1};
  }
  return item;
}

static const chat_value *keyword(const chat_args *args, const char *name) {
  for (int i = 0; i < args->keyword_count; i++)
    if (chat_is(args->keywords[i], name)) return &args->items[args->count + i];
  return NULL;
}

/* map('filter', args...) or map(attribute='path', default=...) */
BUILTIN(filter_map) {
  UNUSED;
  chat_list *items = items_or_none(run, self), *list = items ? chat_list_new(run, items->count) : NULL;
  const chat_value *attribute = keyword(args, "attribute"), *otherwise = keyword(args, "default");
  const chat_builtin *filter = NULL;
  if (attribute) {
    if (attribute->kind != CHAT_STRING) return chat_bad_argument(run, "map's attribute", attribute);
  } else {
    chat_text name = chat_text_argument(run, args->count ? &args->items[0] : &(chat_value){0}, NULL);
    filter = chat_find_filter(name);
    if (!filter) return chat_fail(run, DP_UNSUPPORTED, "the filter '%.*s' is not handled", (int)name.length, name.text);
  }
  chat_args rest = {args->items + 1, args->keywords, args->count - 1, args->keyword_count};
  for (int i = 0; list && i < items->count && chat_enter(run); i++, chat_leave(run)) {
    chat_value item;
    if (attribute) {
      item = path_item(run, items->items[i], attribute->text);
      if (item.kind == CHAT_UNDEFINED && otherwise) item = *otherwise;
    } else {
      item = chat_call_builtin(run, filter, &items->items[i], &rest);
    }
    chat_list_add(run, list, item);
  }
  return chat_list_value(list);
}

/* select and reject by a test of the item, selectattr and rejectattr by one of its attribute; without one, by truth. */
static chat_value select_items(chat_run *run, const chat_value *self, const chat_args *args, bool by_attribute,
                               bool keep) {
  chat_list *items = items_or_none(run, self), *list = items ? chat_list_new(run, items->count) : NULL;
  int skip = by_attribute;
  chat_text path = by_attribute ? chat_text_argument(run, args->count ? &args->items[0] : &(chat_value){0}, NULL)
                                : (chat_text){"", 0};
  const chat_builtin *test = NULL;
  if (args->count > skip) {
    chat_text name = chat_text_argument(run, &args->items[skip], NULL);
    test = chat_find_test(name);
    if (!test) return chat_fail(run, DP_UNSUPPORTED, "the test '%.*s' is not handled", (int)name.length, name.text);
    skip++;
  }
  chat_args rest = {args->items + skip, args->keywords, args->count - skip, args->keyword_count};
  for (int i = 0; list && i < items->count && chat_enter(run); i++, chat_leave(run)) {
    chat_value item = by_attribute ? path_item(run, items->items[i], path) : items->items[i];
    if (test) item = chat_call_builtin(run, test, &item, &rest);
    if (chat_truth(&item) == keep) chat_list_add(run, list, items->items[i]);
  }
  return chat_list_value(list);
}

BUILTIN(filter_select) {
  UNUSED;
  return select_items(run, self, args, false, true);
}

BUILTIN(filter_reject) {
  UNUSED;
  return select_items(run, self, args, false, false);
}

BUILTIN(filter_selectattr) {
  UNUSED;
  return select_items(run, self, args, true, true);
}

BUILTIN(filter_rejectattr) {
  UNUSED;
  return select_items(run, self, args, true, false);
}

static const chat_builtin filters[] = {
    {"abs", "", filter_abs},
    {"capitalize", "", filter_capitalize},
    {"count", "", filter_length},
    {"d", "default_value,boolean", filter_default},
    {"default", "default_value,boolean", filter_default},
    {"dictsort", "", filter_dictsort},
    {"first", "", filter_first},
    {"float", "default", filter_float},
    {"indent", "width,first,blank", filter_indent},
    {"int", "default", filter_int},
    {"items", "", filter_items},
    {"join", "d,attribute", filter_join},
    {"last", "", filter_last},
    {"length", "", filter_length},
    {"list", "", filter_list},
    {"lower", "", filter_lower},
    {"map", NULL, filter_map},
    {"max", "", filter_max},
    {"min", "", filter_min},
    {"reject", NULL, filter_reject},
    {"rejectattr", NULL, filter_rejectattr},
    {"replace", "old,new,count", filter_replace},
    {"reverse", "", filter_reverse},
    {"safe", "", filter_safe},
    {"select", NULL, filter_select},
    {"selectattr", NULL, filter_selectattr},
    {"string", "", filter_string},
    {"title", "", filter_title},
    {"tojson", "ensure_ascii,indent,separators,sort_keys", filter_tojson},
    {"trim", "chars", filter_trim},
    {"unique", "", filter_unique},
    {"upper", "", filter_upper},
};

const chat_builtin *chat_find_filter(chat_text name) { return chat_find_builtin(filters, DP_COUNT(filters), name); }

/* ---- tests ---------------------------------------------------------------------------------------------------------
 */

#define TEST(name, condition)                                                                                          \
  BUILTIN(name) {                                                                                                      \
    UNUSED;                                                                                                            \
    return chat_bool(condition);                                                                                       \
  }

static bool is_divisible(chat_run *run, const chat_value *value, int64_t by) {
  if (value->kind != CHAT_INT)
    chat_bad_argument(run, "a test of a number", value);
  else if (by == 0)
    chat_fail(run, DP_INVALID, "a division by zero");
  else
    return by == -1 || value->integer % by == 0;
  return false;
}

static bool is_case(chat_run *run, const chat_value *value, chat_case wanted) {
  chat_text text = chat_to_text(run, value);
  chat_value changed = chat_change_case(run, text, wanted, "a test of case"),
             other = chat_change_case(run, text, wanted == CHAT_UPPER ? CHAT_LOWER : CHAT_UPPER, "a test of case");
  return !chat_failed(run) && chat_same(text, changed.text) && !chat_same(text, other.text);
}

TEST(test_defined, self->kind != CHAT_UNDEFINED)
TEST(test_undefined, self->kind == CHAT_UNDEFINED)
TEST(test_none, self->kind == CHAT_NONE)
TEST(test_string, self->kind == CHAT_STRING)
TEST(test_mapping, self->kind == CHAT_DICT)
TEST(test_boolean, self->kind == CHAT_BOOL)
TEST(test_true, self->kind == CHAT_BOOL && self->truth)
TEST(test_false, self->kind == CHAT_BOOL && !self->truth)
TEST(test_integer, self->kind == CHAT_INT)
TEST(test_float, self->kind == CHAT_FLOAT)
TEST(test_number, self->kind == CHAT_INT || self->kind == CHAT_FLOAT || self->kind == CHAT_BOOL)
TEST(test_callable, self->kind == CHAT_FUNCTION || self->kind == CHAT_MACRO)
/* an undefined value can be gone through, and has a length */
TEST(test_iterable,
     self->kind == CHAT_STRING || self->kind == CHAT_LIST || self->kind == CHAT_DICT || self->kind == CHAT_UNDEFINED)
TEST(test_sequence,
     self->kind == CHAT_STRING || self->kind == CHAT_LIST || self->kind == CHAT_DICT || self->kind == CHAT_UNDEFINED)
TEST(test_odd, !is_divisible(run, self, 2))
TEST(test_even, is_divisible(run, self, 2))
TEST(test_divisibleby, is_divisible(run, self, chat_int_argument(run, &bound[0], 0)))
TEST(test_lower, is_case(run, self, CHAT_LOWER))
TEST(test_upper, is_case(run, self, CHAT_UPPER))
TEST(test_in, chat_contains(run, &bound[0], self))
TEST(test_eq, chat_equal(run, self, &bound[0]))
TEST(test_ne, !chat_equal(run, self, &bound[0]))
TEST(test_lt, chat_compare(run, self, &bound[0]) < 0)
TEST(test_le, chat_compare(run, self, &bound[0]) <= 0)
TEST(test_gt, chat_compare(run, self, &bound[0]) > 0)
TEST(test_ge, chat_compare(run, self, &bound[0]) >= 0)

static const chat_builtin tests[] = {
    {"!=", "other", test_ne},
    {"<", "other", test_lt},
    {"<=", "other", test_le},
    {"==", "other", test_eq},
    {">", "other", test_gt},
    {">=", "other", test_ge},
    {"boolean", "", test_boolean},
    {"callable", "", test_callable},
    {"defined", "", test_defined},
    {"divisibleby", "num", test_divisibleby},
    {"eq", "other", test_eq},
    {"equalto", "other", test_eq},
    {"even", "", test_even},
    {"false", "", test_false},
    {"float", "", test_float},
    {"ge", "other", test_ge},
    {"greaterthan", "other", test_gt},
    {"gt", "other", test_gt},
    {"in", "seq", test_in},
    {"integer", "", test_integer},
    {"iterable", "", test_iterable},
    {"le", "other", test_le},
    {"lessthan", "other", test_lt},
    {"lower", "", test_lower},
    {"lt", "other", test_lt},
    {"mapping", "", test_mapping},
    {"ne", "other", test_ne},
    {"none", "", test_none},
    {"number", "", test_number},
    {"odd", "", test_odd},
    {"sequence", "", test_sequence},
    {"string", "", test_string},
    {"true", "", test_true},
    {"undefined", "", test_undefined},
    {"upper", "", test_upper},
};

const chat_builtin *chat_find_test(chat_text name) { return chat_find_builtin(tests, DP_COUNT(tests), name); }
