/* runtime/chat_builtin.c: Jinja's filters, tests and functions, and Python's methods, as far as chat templates use them.
 *
 * Each is a row: its name, its parameters, the function. The caller binds arguments to parameters, so that a wrong or
 * unknown one is an error everywhere alike. What is left out is refused by name where it is used. */
#include "runtime/chat_parts.h"
#include "runtime/unicode.h"

#include <stdlib.h>
#include <string.h>

#define BUILTIN(name)                                                                                                  \
  static chat_value name(chat_run *run, const chat_value *self, const chat_value *bound, const chat_args *args)
#define UNUSED (void)run, (void)self, (void)bound, (void)args

/* ---- arguments -------------------------------------------------------------------------------------------------- */

/* The i-th of "a,b,c". */
static chat_text param_at(const char *params, int i) {
  for (; i > 0 && params; i--) {
    params = strchr(params, ',');
    if (params) params++;
  }
  return params && *params ? (chat_text){params, strcspn(params, ",")} : (chat_text){NULL, 0};
}

chat_value chat_call_builtin(chat_run *run, const chat_builtin *builtin, const chat_value *self, const chat_args *args) {
  chat_value bound[CHAT_MAX_PARAMS] = {{0}};
  if (!builtin->params) return builtin->call(run, self, bound, args);
  for (int i = 0; i < args->count; i++) {
    if (i >= CHAT_MAX_PARAMS || !param_at(builtin->params, i).text)
      return chat_fail(run, DP_INVALID, "'%s' takes fewer than %d arguments", builtin->name, args->count);
    bound[i] = args->items[i];
  }
  for (int k = 0; k < args->keyword_count; k++) {
    int i = 0;
    while (i < CHAT_MAX_PARAMS && param_at(builtin->params, i).text &&
           !chat_same(param_at(builtin->params, i), args->keywords[k]))
      i++;
    if (i == CHAT_MAX_PARAMS || !param_at(builtin->params, i).text)
      return chat_fail(run, DP_UNSUPPORTED, "'%s' has no argument '%.*s' here", builtin->name,
                       (int)args->keywords[k].length, args->keywords[k].text);
    if (bound[i].kind != CHAT_ABSENT) return chat_fail(run, DP_INVALID, "'%s': an argument is given twice", builtin->name);
    bound[i] = args->items[args->count + k];
  }
  return builtin->call(run, self, bound, args);
}

static chat_value bad_argument(chat_run *run, const char *what, const chat_value *value) {
  return chat_fail(run, DP_INVALID, "%s: a %s is not what it takes", what, chat_kind_name(value));
}

/* An argument that is a string; `otherwise` when it was not given. */
static chat_text text_argument(chat_run *run, const chat_value *value, const char *otherwise) {
  if (value->kind == CHAT_STRING) return value->text;
  if (value->kind != CHAT_ABSENT) bad_argument(run, "an argument", value);
  else if (!otherwise) chat_fail(run, DP_INVALID, "an argument is missing");
  return (chat_text){otherwise ? otherwise : "", otherwise ? strlen(otherwise) : 0};
}

static int64_t int_argument(chat_run *run, const chat_value *value, int64_t otherwise) {
  if (value->kind == CHAT_INT) return value->integer;
  if (value->kind == CHAT_BOOL) return value->truth;
  if (value->kind != CHAT_ABSENT) bad_argument(run, "an argument", value);
  return otherwise;
}

static chat_list *items_of(chat_run *run, const chat_value *value) { return chat_iterate(run, value); }

/* map, select and their like take whatever is false for an empty list. */
static chat_list *items_or_none(chat_run *run, const chat_value *value) {
  return chat_truth(value) ? chat_iterate(run, value) : chat_list_new(run, 0);
}

/* ---- text ------------------------------------------------------------------------------------------------------- */

/* What str.strip() takes for white space. */
static bool is_space(uint32_t c) {
  return (c >= 0x9 && c <= 0xD) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

/* One character's length; `*c` is 0xFFFD where it is malformed. */
static size_t character(chat_text text, size_t at, uint32_t *c) {
  int step = dp_utf8_step(text.text + at, text.length - at, c);
  if (step > 0) return (size_t)step;
  *c = 0xFFFD;
  return step < 0 ? (size_t)-step : text.length - at;
}

/* chars.text NULL: white space. */
static bool is_stripped(chat_text text, size_t at, size_t n, chat_text chars) {
  uint32_t c;
  if (!chars.text) return character((chat_text){text.text, at + n}, at, &c) == n && is_space(c);
  for (size_t i = 0, k; i < chars.length; i += k) {
    k = character(chars, i, &c);
    if (k == n && memcmp(chars.text + i, text.text + at, n) == 0) return true;
  }
  return false;
}

static chat_value strip(chat_run *run, chat_text text, const chat_value *chars, bool left, bool right) {
  chat_text set = {NULL, 0};
  if (chars->kind != CHAT_ABSENT && chars->kind != CHAT_NONE) set = text_argument(run, chars, NULL);
  size_t begin = 0, end = text.length;
  uint32_t c;
  while (left && begin < end && chat_step(run, set.length)) {
    size_t n = character((chat_text){text.text, end}, begin, &c);
    if (!is_stripped(text, begin, n, set)) break;
    begin += n;
  }
  while (right && end > begin && chat_step(run, set.length)) {
    size_t at = end - 1;
    while (at > begin && ((uint8_t)text.text[at] & 0xC0) == 0x80 && end - at < 4) at--;
    if (!is_stripped(text, at, end - at, set)) break;
    end = at;
  }
  return chat_string(text.text + begin, end - begin);
}

typedef enum letter_case { UPPER, LOWER, TITLE, CAPITALIZE } letter_case;

/* ASCII only: Unicode's cases would need tables that no template has needed yet. */
static chat_value change_case(chat_run *run, chat_text text, letter_case to, const char *name) {
  chat_value changed = chat_copy(run, text.text, text.length);
  if (changed.kind != CHAT_STRING) return changed;
  char *letters = (char *)changed.text.text;
  bool inside = false;
  for (size_t i = 0; i < text.length; i++) {
    char c = letters[i];
    if ((uint8_t)c >= 0x80) return chat_fail(run, DP_UNSUPPORTED, "'%s' of letters beyond ASCII is not handled", name);
    bool is_lower = c >= 'a' && c <= 'z', is_upper = c >= 'A' && c <= 'Z';
    bool up = to == UPPER || ((to == TITLE || to == CAPITALIZE) && !inside);
    if (up ? is_lower : is_upper) letters[i] = (char)(c ^ 0x20);
    inside = to == TITLE ? is_lower || is_upper : true;
  }
  return changed;
}

static size_t find_text(chat_text text, chat_text part, size_t from) {
  if (from > text.length) return SIZE_MAX;
  if (!part.length) return from;
  const char *found = memmem(text.text + from, text.length - from, part.text, part.length);
  return found ? (size_t)(found - text.text) : SIZE_MAX;
}

static chat_value replace(chat_run *run, chat_text text, chat_text old, chat_text new, int64_t limit) {
  dp_str out = {0};
  size_t at = 0;
  chat_step(run, text.length);
  for (int64_t i = 0; (limit < 0 || i < limit) && at <= text.length && chat_step(run, new.length); i++) {
    size_t found = find_text(text, old, at);
    if (found == SIZE_MAX || out.length > run->memory_limit) break;
    dp_str_addn(&out, text.text + at, found - at);
    dp_str_addn(&out, new.text, new.length);
    at = found + old.length;
    if (old.length) continue;
    uint32_t c; /* between all characters, and at both ends */
    size_t n = at < text.length ? character(text, at, &c) : 1;
    if (at < text.length) dp_str_addn(&out, text.text + at, n);
    at += n;
  }
  if (at < text.length) dp_str_addn(&out, text.text + at, text.length - at);
  return chat_take(run, &out);
}

static int64_t count_characters(chat_run *run, chat_text text, size_t end) {
  chat_value part = chat_string(text.text, end);
  return chat_length(run, &part);
}

static void add_span(chat_run *run, chat_list *list, chat_text text, size_t begin, size_t end) {
  chat_list_add(run, list, chat_string(text.text + begin, end - begin));
}

/* On runs of white space; at most `limit` times when it is not negative. */
static void split_on_space(chat_run *run, chat_list *list, chat_text text, int64_t limit) {
  uint32_t c = 0;
  for (size_t at = 0, n; chat_step(run, 0);) {
    for (; at < text.length; at += n) {
      n = character(text, at, &c);
      if (!is_space(c)) break;
    }
    if (at == text.length) return;
    if (limit == 0) {
      chat_value rest = strip(run, (chat_text){text.text + at, text.length - at}, &(chat_value){0}, false, true);
      chat_list_add(run, list, rest);
      return;
    }
    size_t begin = at;
    for (; at < text.length; at += n) {
      n = character(text, at, &c);
      if (is_space(c)) break;
    }
    add_span(run, list, text, begin, at);
    limit--;
  }
}

static void split_on(chat_run *run, chat_list *list, chat_text text, chat_text by, int64_t limit) {
  size_t at = 0;
  for (; limit != 0 && chat_step(run, 0); limit--) {
    size_t found = find_text(text, by, at);
    if (found == SIZE_MAX) break;
    add_span(run, list, text, at, found);
    at = found + by.length;
  }
  add_span(run, list, text, at, text.length);
}

/* From the right: all pieces, then all but the last `limit` joined again. */
static void join_front(chat_list *list, chat_text text, int64_t limit) {
  if (limit < 0 || list->count - 1 <= limit) return;
  int joined = list->count - 1 - (int)limit;
  const char *end = list->items[joined].text.text + list->items[joined].text.length;
  list->items[joined] = chat_string(text.text, (size_t)(end - text.text));
  list->count -= joined;
  memmove(list->items, list->items + joined, (size_t)list->count * sizeof *list->items);
}

static chat_value split(chat_run *run, const chat_value *self, const chat_value *bound, bool from_right) {
  chat_list *list = chat_list_new(run, 4);
  if (!list) return CHAT_NO_VALUE;
  chat_text text = self->text;
  chat_step(run, text.length);
  int64_t limit = int_argument(run, &bound[1], -1);
  if (bound[0].kind == CHAT_ABSENT || bound[0].kind == CHAT_NONE) {
    if (from_right && limit >= 0) return chat_fail(run, DP_UNSUPPORTED, "rsplit on white space with a limit is not handled");
    split_on_space(run, list, text, limit);
    return chat_list_value(list);
  }
  chat_text by = text_argument(run, &bound[0], NULL);
  if (!by.length) return chat_fail(run, DP_INVALID, "split by an empty string");
  split_on(run, list, text, by, from_right ? -1 : limit);
  if (from_right && !chat_failed(run)) join_front(list, text, limit);
  return chat_list_value(list);
}

static chat_value split_lines(chat_run *run, chat_text text, bool keep_ends) {
  chat_list *list = chat_list_new(run, 4);
  chat_step(run, text.length);
  size_t begin = 0, n;
  for (size_t at = 0; list && at < text.length; at += n) {
    uint32_t c;
    n = character(text, at, &c);
    bool ends = (c >= 0xA && c <= 0xD) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 || c == 0x2029;
    if (!ends) continue;
    size_t end = at;
    if (c == '\r' && at + 1 < text.length && text.text[at + 1] == '\n') n = 2;
    add_span(run, list, text, begin, keep_ends ? at + n : end);
    begin = at + n;
  }
  if (begin < text.length) add_span(run, list, text, begin, text.length);
  return chat_list_value(list);
}

static bool has_affix(chat_text text, chat_text affix, bool at_end) {
  return affix.length <= text.length &&
         memcmp(at_end ? text.text + text.length - affix.length : text.text, affix.text, affix.length) == 0;
}

/* startswith, endswith: of one, or of any in a tuple. */
static chat_value test_affix(chat_run *run, const chat_value *self, const chat_value *affix, bool at_end) {
  if (affix->kind != CHAT_LIST || !affix->list->is_tuple)
    return chat_bool(has_affix(self->text, text_argument(run, affix, NULL), at_end));
  for (int i = 0; i < affix->list->count; i++)
    if (has_affix(self->text, text_argument(run, &affix->list->items[i], NULL), at_end)) return chat_bool(true);
  return chat_bool(false);
}

static chat_value join(chat_run *run, const chat_value *items, chat_text by, const chat_value *attribute) {
  chat_list *list = items_of(run, items);
  dp_str out = {0};
  for (int i = 0; list && i < list->count && chat_step(run, by.length); i++) {
    chat_value item = list->items[i];
    if (attribute->kind != CHAT_ABSENT && attribute->kind != CHAT_NONE) item = chat_item(run, &item, attribute);
    chat_text text = chat_to_text(run, &item);
    if (!chat_step(run, text.length) || out.length > run->memory_limit) break;
    if (i) dp_str_addn(&out, by.text, by.length);
    dp_str_addn(&out, text.text, text.length);
  }
  return chat_take(run, &out);
}

/* ---- filters ---------------------------------------------------------------------------------------------------- */

BUILTIN(filter_trim) { UNUSED; return strip(run, chat_to_text(run, self), &bound[0], true, true); }
BUILTIN(filter_upper) { UNUSED; return change_case(run, chat_to_text(run, self), UPPER, "upper"); }
BUILTIN(filter_lower) { UNUSED; return change_case(run, chat_to_text(run, self), LOWER, "lower"); }
BUILTIN(filter_capitalize) { UNUSED; return change_case(run, chat_to_text(run, self), CAPITALIZE, "capitalize"); }
/* Not Python's title(): a word goes on after "'". */
BUILTIN(filter_title) {
  UNUSED;
  chat_value changed = change_case(run, chat_to_text(run, self), LOWER, "title");
  bool begins = true;
  for (size_t i = 0; changed.kind == CHAT_STRING && i < changed.text.length; i++) {
    char *c = (char *)changed.text.text + i;
    if (begins && *c >= 'a' && *c <= 'z') *c ^= 0x20;
    begins = is_space((uint8_t)*c) || strchr("-({[<", *c);
  }
  return changed;
}

BUILTIN(filter_length) { UNUSED; return chat_int(chat_length(run, self)); }

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
  return join(run, self, by, &bound[1]);
}

BUILTIN(filter_replace) {
  UNUSED;
  return replace(run, chat_to_text(run, self), text_argument(run, &bound[0], NULL), text_argument(run, &bound[1], NULL),
                 bound[2].kind == CHAT_NONE ? -1 : int_argument(run, &bound[2], -1));
}

BUILTIN(filter_list) {
  UNUSED;
  chat_list *items = items_of(run, self), *list = items ? chat_list_new(run, items->count) : NULL;
  for (int i = 0; list && i < items->count; i++) chat_list_add(run, list, items->items[i]);
  return chat_list_value(list);
}

BUILTIN(filter_first) {
  UNUSED;
  chat_list *items = items_of(run, self);
  return items && items->count ? items->items[0] : CHAT_NO_VALUE;
}

BUILTIN(filter_last) {
  UNUSED;
  chat_list *items = items_of(run, self);
  return items && items->count ? items->items[items->count - 1] : CHAT_NO_VALUE;
}

BUILTIN(filter_reverse) {
  UNUSED;
  chat_list *items = items_of(run, self), *list = items ? chat_list_new(run, items->count) : NULL;
  for (int i = items ? items->count : 0; list && i-- > 0;) chat_list_add(run, list, items->items[i]);
  if (self->kind == CHAT_STRING && list) {
    chat_value reversed = chat_list_value(list), none = {0};
    return join(run, &reversed, (chat_text){"", 0}, &none);
  }
  return chat_list_value(list);
}

static chat_value dict_items(chat_run *run, const chat_dict *dict) {
  chat_list *list = chat_list_new(run, dict->count);
  for (int i = 0; list && i < dict->count; i++) {
    chat_list *pair = chat_list_new(run, 2);
    if (!pair) break;
    pair->is_tuple = true;
    chat_list_add(run, pair, dict->entries[i].key);
    chat_list_add(run, pair, dict->entries[i].value);
    chat_list_add(run, list, chat_list_value(pair));
  }
  return chat_list_value(list);
}

BUILTIN(filter_items) {
  UNUSED;
  if (self->kind == CHAT_UNDEFINED) return chat_list_value(chat_list_new(run, 0));
  return self->kind == CHAT_DICT ? dict_items(run, self->dict) : bad_argument(run, "items", self);
}

BUILTIN(filter_tojson) {
  UNUSED;
  bool ascii = chat_truth(&bound[0]), sorted = chat_truth(&bound[3]);
  int64_t indent = bound[1].kind == CHAT_ABSENT || bound[1].kind == CHAT_NONE ? -1 : int_argument(run, &bound[1], -1);
  if (indent > 64) return chat_fail(run, DP_UNSUPPORTED, "tojson with an indent of more than 64 is not handled");
  if (indent < -1) indent = 0;
  chat_text comma = {indent >= 0 ? "," : ", ", indent >= 0 ? 1 : 2}, colon = {": ", 2};
  if (bound[2].kind == CHAT_LIST && bound[2].list->count == 2) {
    comma = text_argument(run, &bound[2].list->items[0], NULL);
    colon = text_argument(run, &bound[2].list->items[1], NULL);
  } else if (bound[2].kind != CHAT_ABSENT && bound[2].kind != CHAT_NONE) {
    return bad_argument(run, "tojson's separators", &bound[2]);
  }
  dp_str out = {0};
  chat_add_json(run, &out, self, (int)indent, 0, ascii, sorted, comma, colon);
  return chat_take(run, &out);
}

/* A decimal number at the start of a string, after white space; false: the string is something else. */
static bool read_number(chat_text text, double *number, bool *is_integer) {
  char copy[64];
  size_t begin = 0, end = text.length;
  while (begin < end && is_space((uint8_t)text.text[begin])) begin++;
  while (end > begin && is_space((uint8_t)text.text[end - 1])) end--;
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
  if (self->kind == CHAT_UNDEFINED) return bad_argument(run, "int", self);
  if (self->kind == CHAT_FLOAT) number = self->number;
  else if (self->kind != CHAT_STRING || !read_number(self->text, &number, &is_integer))
    return bound[0].kind == CHAT_ABSENT ? chat_int(0) : bound[0];
  if (!(number > -9e15 && number < 9e15)) return chat_fail(run, DP_UNSUPPORTED, "an integer that is too large");
  return chat_int((int64_t)number);
}

BUILTIN(filter_float) {
  UNUSED;
  double number = 0;
  bool is_integer;
  if (self->kind == CHAT_UNDEFINED) return bad_argument(run, "float", self);
  if (self->kind == CHAT_FLOAT) return *self;
  if (self->kind == CHAT_INT) return chat_float((double)self->integer);
  if (self->kind == CHAT_BOOL) return chat_float(self->truth);
  if (self->kind == CHAT_STRING && read_number(self->text, &number, &is_integer)) return chat_float(number);
  return bound[0].kind == CHAT_ABSENT ? chat_float(0) : bound[0];
}

BUILTIN(filter_abs) {
  UNUSED;
  if (self->kind == CHAT_FLOAT) return chat_float(self->number < 0 ? -self->number : self->number);
  if (self->kind != CHAT_INT || self->integer == INT64_MIN) return bad_argument(run, "abs", self);
  return chat_int(self->integer < 0 ? -self->integer : self->integer);
}

BUILTIN(filter_indent) {
  UNUSED;
  if (self->kind != CHAT_STRING) return bad_argument(run, "indent", self);
  chat_text text = self->text, by = {"    ", 4};
  if (bound[0].kind == CHAT_STRING) {
    by = bound[0].text;
  } else {
    int64_t width = int_argument(run, &bound[0], 4);
    if (width < 0 || width > 64) return chat_fail(run, DP_UNSUPPORTED, "indent by more than 64 is not handled");
    by = chat_copy(run, "                                                                ", (size_t)width).text;
  }
  if (chat_failed(run)) return CHAT_NO_VALUE;
  bool first = chat_truth(&bound[1]), blank = chat_truth(&bound[2]);
  dp_str out = {0};
  for (size_t at = 0; at <= text.length && chat_step(run, by.length) && out.length <= run->memory_limit;) {
    size_t end = find_text(text, (chat_text){"\n", 1}, at);
    bool last = end == SIZE_MAX;
    if (last) end = text.length;
    if (at == 0 ? first : blank || end > at) dp_str_addn(&out, by.text, by.length);
    dp_str_addn(&out, text.text + at, end - at);
    if (!last) dp_str_addc(&out, '\n');
    at = last ? text.length + 1 : end + 1;
  }
  return chat_take(run, &out);
}

BUILTIN(filter_safe) { UNUSED; return filter_string(run, self, bound, args); }

BUILTIN(filter_unique) {
  UNUSED;
  chat_list *items = items_of(run, self), *list = items ? chat_list_new(run, items->count) : NULL;
  chat_value seen = chat_list_value(list);
  for (int i = 0; list && i < items->count && !chat_failed(run); i++) {
    if (items->items[i].kind == CHAT_STRING) return chat_fail(run, DP_UNSUPPORTED, "unique of strings is not handled");
    if (!chat_contains(run, &seen, &items->items[i])) chat_list_add(run, list, items->items[i]);
  }
  return chat_list_value(list);
}

static chat_value extreme(chat_run *run, const chat_value *self, int sign) {
  chat_list *items = items_of(run, self);
  chat_value best = items && items->count ? items->items[0] : CHAT_NO_VALUE;
  for (int i = 1; items && i < items->count && chat_step(run, 0); i++)
    if (sign * chat_compare(run, &items->items[i], &best) > 0) best = items->items[i];
  return best;
}

BUILTIN(filter_max) { UNUSED; return extreme(run, self, 1); }
BUILTIN(filter_min) { UNUSED; return extreme(run, self, -1); }

/* dictsort: by key, letter case aside */
BUILTIN(filter_dictsort) {
  UNUSED;
  if (self->kind != CHAT_DICT) return bad_argument(run, "dictsort", self);
  chat_value pairs = dict_items(run, self->dict);
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
    if (attribute->kind != CHAT_STRING) return bad_argument(run, "map's attribute", attribute);
  } else {
    chat_text name = text_argument(run, args->count ? &args->items[0] : &(chat_value){0}, NULL);
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
static chat_value select_items(chat_run *run, const chat_value *self, const chat_args *args, bool by_attribute, bool keep) {
  chat_list *items = items_or_none(run, self), *list = items ? chat_list_new(run, items->count) : NULL;
  int skip = by_attribute;
  chat_text path = by_attribute ? text_argument(run, args->count ? &args->items[0] : &(chat_value){0}, NULL)
                                : (chat_text){"", 0};
  const chat_builtin *test = NULL;
  if (args->count > skip) {
    chat_text name = text_argument(run, &args->items[skip], NULL);
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

BUILTIN(filter_select) { UNUSED; return select_items(run, self, args, false, true); }
BUILTIN(filter_reject) { UNUSED; return select_items(run, self, args, false, false); }
BUILTIN(filter_selectattr) { UNUSED; return select_items(run, self, args, true, true); }
BUILTIN(filter_rejectattr) { UNUSED; return select_items(run, self, args, true, false); }

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

/* ---- tests ------------------------------------------------------------------------------------------------------ */

#define TEST(name, condition)                                                                                          \
  BUILTIN(name) {                                                                                                      \
    UNUSED;                                                                                                            \
    return chat_bool(condition);                                                                                       \
  }

static bool is_divisible(chat_run *run, const chat_value *value, int64_t by) {
  if (value->kind != CHAT_INT) bad_argument(run, "a test of a number", value);
  else if (by == 0) chat_fail(run, DP_INVALID, "a division by zero");
  else return by == -1 || value->integer % by == 0;
  return false;
}

static bool is_case(chat_run *run, const chat_value *value, letter_case wanted) {
  chat_text text = chat_to_text(run, value);
  chat_value changed = change_case(run, text, wanted, "a test of case"), other = change_case(run, text, wanted == UPPER ? LOWER : UPPER, "a test of case");
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
TEST(test_iterable, self->kind == CHAT_STRING || self->kind == CHAT_LIST || self->kind == CHAT_DICT ||
                        self->kind == CHAT_UNDEFINED)
TEST(test_sequence, self->kind == CHAT_STRING || self->kind == CHAT_LIST || self->kind == CHAT_DICT ||
                        self->kind == CHAT_UNDEFINED)
TEST(test_odd, !is_divisible(run, self, 2))
TEST(test_even, is_divisible(run, self, 2))
TEST(test_divisibleby, is_divisible(run, self, int_argument(run, &bound[0], 0)))
TEST(test_lower, is_case(run, self, LOWER))
TEST(test_upper, is_case(run, self, UPPER))
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

/* ---- functions -------------------------------------------------------------------------------------------------- */

BUILTIN(function_raise_exception) {
  UNUSED;
  chat_text message = chat_to_text(run, &bound[0]);
  return chat_fail(run, DP_INVALID, "the template refuses: %.*s", (int)(message.length > 1000 ? 1000 : message.length),
                   message.text);
}

static chat_value new_dict(chat_run *run, const chat_args *args, chat_kind kind) {
  chat_dict *dict = chat_dict_new(run);
  if (args->count > 1 || (args->count && args->items[0].kind != CHAT_DICT && args->items[0].kind != CHAT_NAMESPACE))
    return chat_fail(run, DP_UNSUPPORTED, "dict and namespace take keywords and a dict, no more");
  const chat_dict *first = args->count ? args->items[0].dict : NULL;
  for (int i = 0; first && i < first->count; i++) chat_dict_set(run, dict, first->entries[i].key, first->entries[i].value);
  for (int i = 0; i < args->keyword_count; i++)
    chat_dict_set(run, dict, chat_string(args->keywords[i].text, args->keywords[i].length), args->items[args->count + i]);
  return dict && !chat_failed(run) ? (chat_value){.kind = kind, .dict = dict} : CHAT_NO_VALUE;
}

BUILTIN(function_namespace) { UNUSED; return new_dict(run, args, CHAT_NAMESPACE); }
BUILTIN(function_dict) { UNUSED; return new_dict(run, args, CHAT_DICT); }

BUILTIN(function_range) {
  UNUSED;
  int64_t first = int_argument(run, &bound[0], 0), last = int_argument(run, &bound[1], 0), step = int_argument(run, &bound[2], 1);
  if (bound[0].kind == CHAT_ABSENT) return chat_fail(run, DP_INVALID, "range needs an end");
  if (bound[1].kind == CHAT_ABSENT) {
    last = first;
    first = 0;
  }
  if (step == 0) return chat_fail(run, DP_INVALID, "a range with step 0");
  uint64_t distance = step > 0 ? (last > first ? (uint64_t)last - (uint64_t)first : 0)
                               : (first > last ? (uint64_t)first - (uint64_t)last : 0);
  uint64_t stride = step > 0 ? (uint64_t)step : -(uint64_t)step, count = distance / stride + (distance % stride != 0);
  if (count > 100000) return chat_fail(run, DP_INVALID, "a range of more than 100000"); /* Jinja's own bound */
  chat_list *list = chat_list_new(run, (int)count);
  for (uint64_t i = 0; list && i < count; i++)
    chat_list_add(run, list, chat_int((int64_t)((uint64_t)first + i * (uint64_t)step)));
  return chat_list_value(list);
}

BUILTIN(function_strftime_now) {
  UNUSED;
  chat_text format = text_argument(run, &bound[0], NULL);
  char text[256], pattern[64];
  if (chat_failed(run)) return CHAT_NO_VALUE;
  if (!format.length || format.length >= sizeof pattern || memchr(format.text, 0, format.length))
    return chat_fail(run, DP_UNSUPPORTED, "strftime_now with a format of %zu characters", format.length);
  memcpy(pattern, format.text, format.length);
  pattern[format.length] = 0;
  return chat_copy(run, text, strftime(text, sizeof text, pattern, run->now));
}

static const chat_builtin functions[] = {
    {"dict", NULL, function_dict},
    {"namespace", NULL, function_namespace},
    {"raise_exception", "message", function_raise_exception},
    {"range", "start,stop,step", function_range},
    {"strftime_now", "format", function_strftime_now},
};

/* ---- methods ---------------------------------------------------------------------------------------------------- */

BUILTIN(string_strip) { UNUSED; return strip(run, self->text, &bound[0], true, true); }
BUILTIN(string_lstrip) { UNUSED; return strip(run, self->text, &bound[0], true, false); }
BUILTIN(string_rstrip) { UNUSED; return strip(run, self->text, &bound[0], false, true); }
BUILTIN(string_upper) { UNUSED; return change_case(run, self->text, UPPER, "upper"); }
BUILTIN(string_lower) { UNUSED; return change_case(run, self->text, LOWER, "lower"); }
BUILTIN(string_title) { UNUSED; return change_case(run, self->text, TITLE, "title"); }
BUILTIN(string_capitalize) { UNUSED; return change_case(run, self->text, CAPITALIZE, "capitalize"); }
BUILTIN(string_startswith) { UNUSED; return test_affix(run, self, &bound[0], false); }
BUILTIN(string_endswith) { UNUSED; return test_affix(run, self, &bound[0], true); }
BUILTIN(string_split) { UNUSED; return split(run, self, bound, false); }
BUILTIN(string_rsplit) { UNUSED; return split(run, self, bound, true); }
BUILTIN(string_splitlines) { UNUSED; return split_lines(run, self->text, chat_truth(&bound[0])); }
BUILTIN(string_join) { UNUSED; return join(run, &bound[0], self->text, &(chat_value){0}); }

BUILTIN(string_replace) {
  UNUSED;
  return replace(run, self->text, text_argument(run, &bound[0], NULL), text_argument(run, &bound[1], NULL),
                 int_argument(run, &bound[2], -1));
}

static chat_value find_character(chat_run *run, const chat_value *self, const chat_value *part, bool from_right) {
  chat_text wanted = text_argument(run, part, NULL);
  size_t found = SIZE_MAX;
  chat_step(run, self->text.length);
  for (size_t at = 0; (at = find_text(self->text, wanted, at)) != SIZE_MAX && chat_step(run, 0); at++) {
    found = at;
    if (!from_right) break;
  }
  return chat_int(found == SIZE_MAX ? -1 : count_characters(run, self->text, found));
}

BUILTIN(string_find) { UNUSED; return find_character(run, self, &bound[0], false); }
BUILTIN(string_rfind) { UNUSED; return find_character(run, self, &bound[0], true); }

BUILTIN(string_index) {
  UNUSED;
  chat_value found = find_character(run, self, &bound[0], false);
  return found.integer < 0 ? chat_fail(run, DP_INVALID, "index: the string is not there") : found;
}

BUILTIN(string_count) {
  UNUSED;
  chat_text part = text_argument(run, &bound[0], NULL);
  if (!part.length) return chat_int(count_characters(run, self->text, self->text.length) + 1);
  int64_t count = 0;
  chat_step(run, self->text.length);
  for (size_t at = 0; (at = find_text(self->text, part, at)) != SIZE_MAX; at += part.length) count++;
  return chat_int(count);
}

BUILTIN(string_removeprefix) {
  UNUSED;
  chat_text affix = text_argument(run, &bound[0], NULL), text = self->text;
  size_t n = has_affix(text, affix, false) ? affix.length : 0;
  return chat_string(text.text + n, text.length - n);
}

BUILTIN(string_removesuffix) {
  UNUSED;
  chat_text affix = text_argument(run, &bound[0], NULL), text = self->text;
  return chat_string(text.text, text.length - (has_affix(text, affix, true) ? affix.length : 0));
}

BUILTIN(string_isdigit) {
  UNUSED;
  for (size_t i = 0; i < self->text.length; i++) {
    if ((uint8_t)self->text.text[i] >= 0x80) return chat_fail(run, DP_UNSUPPORTED, "isdigit beyond ASCII is not handled");
    if (self->text.text[i] < '0' || self->text.text[i] > '9') return chat_bool(false);
  }
  return chat_bool(self->text.length > 0);
}

BUILTIN(dict_get) {
  UNUSED;
  const chat_value *value = chat_dict_get(run, self->dict, &bound[0]);
  return value ? *value : bound[1].kind == CHAT_ABSENT ? CHAT_NOTHING : bound[1];
}

BUILTIN(dict_items_method) { UNUSED; return dict_items(run, self->dict); }
BUILTIN(dict_keys) { UNUSED; return chat_list_value(chat_iterate(run, self)); }

BUILTIN(dict_values) {
  UNUSED;
  chat_list *list = chat_list_new(run, self->dict->count);
  for (int i = 0; list && i < self->dict->count; i++) chat_list_add(run, list, self->dict->entries[i].value);
  return chat_list_value(list);
}

BUILTIN(list_count) {
  UNUSED;
  int64_t count = 0;
  for (int i = 0; i < self->list->count && chat_step(run, 0); i++) count += chat_equal(run, &self->list->items[i], &bound[0]);
  return chat_int(count);
}

BUILTIN(list_index) {
  UNUSED;
  for (int i = 0; i < self->list->count && chat_step(run, 0); i++)
    if (chat_equal(run, &self->list->items[i], &bound[0])) return chat_int(i);
  return chat_fail(run, DP_INVALID, "index: the value is not in the list");
}

BUILTIN(loop_cycle) {
  UNUSED;
  if (!args->count) return chat_fail(run, DP_INVALID, "cycle needs something to cycle through");
  return args->items[self->loop->index % args->count];
}

/* Lists and dicts do not change: transformers' sandbox forbids it too. */
BUILTIN(forbidden) {
  UNUSED;
  return chat_fail(run, DP_INVALID, "a method that changes a %s is forbidden in chat templates", chat_kind_name(self));
}

static const chat_builtin string_methods[] = {
    {"capitalize", "", string_capitalize},
    {"count", "sub", string_count},
    {"endswith", "suffix", string_endswith},
    {"find", "sub", string_find},
    {"index", "sub", string_index},
    {"isdigit", "", string_isdigit},
    {"join", "iterable", string_join},
    {"lower", "", string_lower},
    {"lstrip", "chars", string_lstrip},
    {"removeprefix", "prefix", string_removeprefix},
    {"removesuffix", "suffix", string_removesuffix},
    {"replace", "old,new,count", string_replace},
    {"rfind", "sub", string_rfind},
    {"rsplit", "sep,maxsplit", string_rsplit},
    {"rstrip", "chars", string_rstrip},
    {"split", "sep,maxsplit", string_split},
    {"splitlines", "keepends", string_splitlines},
    {"startswith", "prefix", string_startswith},
    {"strip", "chars", string_strip},
    {"title", "", string_title},
    {"upper", "", string_upper},
};

static const chat_builtin dict_methods[] = {
    {"clear", NULL, forbidden},      {"get", "key,default", dict_get}, {"items", "", dict_items_method},
    {"keys", "", dict_keys},         {"pop", NULL, forbidden},         {"popitem", NULL, forbidden},
    {"setdefault", NULL, forbidden}, {"update", NULL, forbidden},      {"values", "", dict_values},
};

static const chat_builtin list_methods[] = {
    {"append", NULL, forbidden},  {"clear", NULL, forbidden}, {"count", "value", list_count},
    {"extend", NULL, forbidden},  {"index", "value", list_index},
    {"insert", NULL, forbidden},  {"pop", NULL, forbidden},   {"remove", NULL, forbidden},
    {"reverse", NULL, forbidden}, {"sort", NULL, forbidden},
};

static const chat_builtin loop_methods[] = {{"cycle", NULL, loop_cycle}};

/* ---- by name ---------------------------------------------------------------------------------------------------- */

static const chat_builtin *find(const chat_builtin *table, size_t count, chat_text name) {
  for (size_t i = 0; i < count; i++)
    if (chat_is(name, table[i].name)) return &table[i];
  return NULL;
}

const chat_builtin *chat_find_filter(chat_text name) { return find(filters, DP_COUNT(filters), name); }
const chat_builtin *chat_find_test(chat_text name) { return find(tests, DP_COUNT(tests), name); }
const chat_builtin *chat_find_function(chat_text name) { return find(functions, DP_COUNT(functions), name); }

const chat_builtin *chat_find_method(const chat_value *self, chat_text name) {
  switch (self->kind) {
  case CHAT_STRING: return find(string_methods, DP_COUNT(string_methods), name);
  case CHAT_DICT: return find(dict_methods, DP_COUNT(dict_methods), name);
  case CHAT_LIST: return find(list_methods, DP_COUNT(list_methods), name);
  case CHAT_LOOP: return find(loop_methods, DP_COUNT(loop_methods), name);
  default: return NULL;
  }
}
