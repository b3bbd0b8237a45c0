/* runtime/chat_value.c: the values of a template's run: how they are made, compared, written; and the run's bounds.
 *
 * They follow Python: str(), repr(), truth, ordering, json.dumps. Strings are never changed once made, so they may
 * point into the template or into the caller's messages. */
#include "runtime/chat_parts.h"
#include "runtime/unicode.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_NESTING = 100 }; /* of lists in lists, where they are written or compared */

bool chat_is(chat_text text, const char *word) {
  return text.length == strlen(word) && memcmp(text.text, word, text.length) == 0;
}

bool chat_same(chat_text a, chat_text b) { return a.length == b.length && memcmp(a.text, b.text, a.length) == 0; }

chat_value chat_bool(bool truth) { return (chat_value){.kind = CHAT_BOOL, .truth = truth}; }
chat_value chat_int(int64_t integer) { return (chat_value){.kind = CHAT_INT, .integer = integer}; }
chat_value chat_float(double number) { return (chat_value){.kind = CHAT_FLOAT, .number = number}; }
chat_value chat_string(const char *text, size_t n) { return (chat_value){.kind = CHAT_STRING, .text = {text, n}}; }
chat_value chat_word(const char *text) { return chat_string(text, strlen(text)); }

chat_value chat_list_value(chat_list *list) {
  return list ? (chat_value){.kind = CHAT_LIST, .list = list} : CHAT_NO_VALUE;
}

/* ---- bounds ----------------------------------------------------------------------------------------------------- */

bool chat_failed(const chat_run *run) { return run->status.code != DP_OK; }

chat_value chat_fail(chat_run *run, dp_code code, const char *fmt, ...) {
  if (chat_failed(run)) return CHAT_NO_VALUE;
  dp_str message = {0};
  va_list args;
  va_start(args, fmt);
  dp_str_addv(&message, fmt, args);
  va_end(args);
  run->status = dp_fail(code, "chat template, line %d: %s", run->line, message.text ? message.text : "");
  dp_str_free(&message);
  return CHAT_NO_VALUE;
}

bool chat_step(chat_run *run, size_t work) {
  run->steps += 1 + work / 16;
  if (run->steps > CHAT_MAX_STEPS) chat_fail(run, DP_INVALID, "the template runs too long");
  return !chat_failed(run);
}

bool chat_enter(chat_run *run) {
  if (++run->depth > CHAT_MAX_DEPTH) chat_fail(run, DP_INVALID, "the template nests too deep");
  return chat_step(run, 0);
}

void chat_leave(chat_run *run) { run->depth--; }

void *chat_alloc(chat_run *run, size_t size) {
  if (chat_failed(run)) return NULL;
  if (size > run->memory_limit - run->memory) {
    chat_fail(run, DP_INVALID, "the template needs too much memory");
    return NULL;
  }
  run->memory += size;
  return chat_step(run, size) ? dp_arena_alloc(run->arena, size) : NULL;
}

void chat_write(chat_run *run, const char *text, size_t n) {
  if (!chat_step(run, n)) return;
  if (n > run->memory_limit - run->out->length) {
    chat_fail(run, DP_INVALID, "the template writes too much");
    return;
  }
  dp_str_addn(run->out, text, n);
  if (run->out->failed) chat_fail(run, DP_NO_MEMORY, "no memory for the text of the chat");
}

chat_value chat_copy(chat_run *run, const char *text, size_t n) {
  char *copy = chat_alloc(run, n + 1);
  if (!copy) return CHAT_NO_VALUE;
  if (n) memcpy(copy, text, n);
  return chat_string(copy, n);
}

chat_value chat_take(chat_run *run, dp_str *text) {
  if (text->failed) chat_fail(run, DP_NO_MEMORY, "no memory for the text of the chat");
  chat_value value = chat_copy(run, text->text, text->length);
  dp_str_free(text);
  return value;
}

/* ---- lists and dicts -------------------------------------------------------------------------------------------- */

chat_list *chat_list_new(chat_run *run, int capacity) {
  chat_list *list = chat_alloc(run, sizeof *list);
  if (!list) return NULL;
  list->items = chat_alloc(run, (size_t)(capacity ? capacity : 1) * sizeof *list->items);
  list->capacity = capacity ? capacity : 1;
  return list->items ? list : NULL;
}

/* Room for one more; false on failure. */
static bool grow(chat_run *run, void **items, int count, int *capacity, size_t size) {
  if (count < *capacity) return true;
  if (count > INT32_MAX / 4) return false;
  void *larger = chat_alloc(run, (size_t)(count ? 2 * count : 4) * size);
  if (!larger) return false;
  if (count) memcpy(larger, *items, (size_t)count * size);
  *items = larger;
  *capacity = count ? 2 * count : 4;
  return true;
}

void chat_list_add(chat_run *run, chat_list *list, chat_value item) {
  void *items = list ? list->items : NULL;
  if (!list || !grow(run, &items, list->count, &list->capacity, sizeof item)) return;
  list->items = items;
  list->items[list->count++] = item;
}

chat_dict *chat_dict_new(chat_run *run) { return chat_alloc(run, sizeof(chat_dict)); }

chat_value *chat_dict_get(chat_run *run, const chat_dict *dict, const chat_value *key) {
  chat_step(run, (size_t)dict->count);
  for (int i = 0; i < dict->count; i++)
    if (chat_equal(run, &dict->entries[i].key, key)) return &dict->entries[i].value;
  return NULL;
}

void chat_dict_set(chat_run *run, chat_dict *dict, chat_value key, chat_value value) {
  if (!dict || chat_failed(run)) return;
  chat_value *old = chat_dict_get(run, dict, &key);
  if (old) {
    *old = value;
    return;
  }
  void *entries = dict->entries;
  if (!grow(run, &entries, dict->count, &dict->capacity, sizeof *dict->entries)) return;
  dict->entries = entries;
  dict->entries[dict->count++] = (chat_entry){key, value};
}

/* ---- questions -------------------------------------------------------------------------------------------------- */

const char *chat_kind_name(const chat_value *value) {
  static const char *const names[] = {"nothing", "undefined", "none",      "bool", "int",   "float",   "string",
                                      "list",    "dict",      "namespace", "loop", "macro", "function"};
  return names[value->kind];
}

bool chat_truth(const chat_value *value) {
  switch (value->kind) {
  case CHAT_BOOL:
    return value->truth;
  case CHAT_INT:
    return value->integer != 0;
  case CHAT_FLOAT:
    return value->number != 0;
  case CHAT_STRING:
    return value->text.length > 0;
  case CHAT_LIST:
    return value->list->count > 0;
  case CHAT_DICT:
    return value->dict->count > 0;
  case CHAT_NAMESPACE:
  case CHAT_LOOP:
  case CHAT_MACRO:
  case CHAT_FUNCTION:
    return true;
  default:
    return false;
  }
}

static bool as_number(const chat_value *value, double *number) {
  if (value->kind == CHAT_INT)
    *number = (double)value->integer;
  else if (value->kind == CHAT_FLOAT)
    *number = value->number;
  else if (value->kind == CHAT_BOOL)
    *number = value->truth;
  else
    return false;
  return true;
}

static bool equal(chat_run *run, const chat_value *a, const chat_value *b, int level) {
  double x, y;
  if (!chat_step(run, 0)) return false;
  if (a->kind == CHAT_INT && b->kind == CHAT_INT) return a->integer == b->integer;
  if (as_number(a, &x) && as_number(b, &y)) return x == y;
  if (a->kind != b->kind) return false;
  if (level == MAX_NESTING) {
    chat_fail(run, DP_INVALID, "values are nested too deep to compare");
    return false;
  }
  switch (a->kind) {
  case CHAT_STRING:
    return chat_step(run, a->text.length) && chat_same(a->text, b->text);
  case CHAT_LIST:
    if (a->list->count != b->list->count || a->list->is_tuple != b->list->is_tuple) return false;
    for (int i = 0; i < a->list->count; i++)
      if (!equal(run, &a->list->items[i], &b->list->items[i], level + 1)) return false;
    return true;
  case CHAT_DICT:
    if (a->dict->count != b->dict->count) return false;
    for (int i = 0; i < a->dict->count; i++) {
      const chat_value *other = chat_dict_get(run, b->dict, &a->dict->entries[i].key);
      if (!other || !equal(run, &a->dict->entries[i].value, other, level + 1)) return false;
    }
    return true;
  case CHAT_NAMESPACE:
    return a->dict == b->dict;
  case CHAT_LOOP:
    return a->loop == b->loop;
  case CHAT_MACRO:
    return a->macro == b->macro;
  case CHAT_FUNCTION:
    return a->function.builtin == b->function.builtin && a->function.self == b->function.self;
  default:
    return true; /* undefined, none */
  }
}

bool chat_equal(chat_run *run, const chat_value *a, const chat_value *b) { return equal(run, a, b, 0); }

int chat_compare(chat_run *run, const chat_value *a, const chat_value *b) {
  double x, y;
  if (a->kind == CHAT_INT && b->kind == CHAT_INT) return (a->integer > b->integer) - (a->integer < b->integer);
  if (as_number(a, &x) && as_number(b, &y)) return (x > y) - (x < y);
  if (a->kind == CHAT_STRING && b->kind == CHAT_STRING) {
    size_t n = a->text.length < b->text.length ? a->text.length : b->text.length;
    chat_step(run, n);
    int order = memcmp(a->text.text, b->text.text, n); /* UTF-8 sorts as its code points do */
    return order ? order : (a->text.length > b->text.length) - (a->text.length < b->text.length);
  }
  chat_fail(run, DP_INVALID, "there is no order between %s and %s", chat_kind_name(a), chat_kind_name(b));
  return 0;
}

bool chat_contains(chat_run *run, const chat_value *container, const chat_value *item) {
  switch (container->kind) {
  case CHAT_UNDEFINED:
    return false;
  case CHAT_STRING:
    if (item->kind != CHAT_STRING) break;
    return chat_step(run, container->text.length) &&
           (!item->text.length ||
            memmem(container->text.text, container->text.length, item->text.text, item->text.length));
  case CHAT_LIST:
    for (int i = 0; i < container->list->count && chat_step(run, 16); i++)
      if (chat_equal(run, &container->list->items[i], item)) return true;
    return false;
  case CHAT_DICT:
    return chat_dict_get(run, container->dict, item) != NULL;
  default:
    break;
  }
  chat_fail(run, DP_INVALID, "'in' between %s and %s", chat_kind_name(item), chat_kind_name(container));
  return false;
}

static size_t character_length(chat_text text, size_t at) {
  uint32_t c;
  int step = dp_utf8_step(text.text + at, text.length - at, &c);
  return step > 0 ? (size_t)step : step < 0 ? (size_t)-step : text.length - at;
}

int64_t chat_length(chat_run *run, const chat_value *value) {
  int64_t length = 0;
  switch (value->kind) {
  case CHAT_UNDEFINED:
    return 0;
  case CHAT_LIST:
    return value->list->count;
  case CHAT_DICT:
    return value->dict->count;
  case CHAT_STRING:
    chat_step(run, value->text.length);
    for (size_t at = 0; at < value->text.length; at += character_length(value->text, at)) length++;
    return length;
  default:
    chat_fail(run, DP_INVALID, "a value of kind %s has no length", chat_kind_name(value));
    return 0;
  }
}

chat_list *chat_iterate(chat_run *run, const chat_value *value) {
  if (value->kind == CHAT_LIST) return value->list;
  if (value->kind != CHAT_UNDEFINED && value->kind != CHAT_DICT && value->kind != CHAT_STRING) {
    chat_fail(run, DP_INVALID, "a %s cannot be gone through", chat_kind_name(value));
    return NULL;
  }
  int64_t length = chat_length(run, value);
  chat_list *list = chat_failed(run) || length > INT32_MAX ? NULL : chat_list_new(run, (int)length);
  if (!list) return NULL;
  if (value->kind == CHAT_DICT)
    for (int i = 0; i < value->dict->count; i++) chat_list_add(run, list, value->dict->entries[i].key);
  if (value->kind == CHAT_STRING)
    for (size_t at = 0, n; at < value->text.length; at += n) {
      n = character_length(value->text, at);
      chat_list_add(run, list, chat_string(value->text.text + at, n));
    }
  return chat_failed(run) ? NULL : list;
}

/* ---- text ------------------------------------------------------------------------------------------------------- */

/* The shortest decimal that reads back as the number, as Python writes it. */
static void add_float(dp_str *out, double number) {
  if (isnan(number) || isinf(number)) {
    dp_str_add(out, isnan(number) ? "nan" : number < 0 ? "-inf" : "inf");
    return;
  }
  char text[40];
  int precision = 1;
  do snprintf(text, sizeof text, "%.*e", precision - 1, number);
  while (strtod(text, NULL) != number && precision++ < 17);
  char digits[24];
  int count = 0;
  const char *at = text + (text[0] == '-');
  for (; *at && *at != 'e'; at++)
    if (*at >= '0' && *at <= '9') digits[count++] = *at;
  int exponent = atoi(at + 1);
  while (count > 1 && digits[count - 1] == '0') count--;
  if (signbit(number)) dp_str_addc(out, '-');
  if (exponent < -4 || exponent >= 16) {
    dp_str_addc(out, digits[0]);
    if (count > 1) dp_str_addf(out, ".%.*s", count - 1, digits + 1);
    dp_str_addf(out, "e%c%02d", exponent < 0 ? '-' : '+', abs(exponent));
  } else if (exponent < 0) {
    dp_str_add(out, "0.");
    for (int i = -1; i > exponent; i--) dp_str_addc(out, '0');
    dp_str_addn(out, digits, (size_t)count);
  } else {
    for (int i = 0; i <= exponent || i < count; i++) {
      if (i == exponent + 1) dp_str_addc(out, '.');
      dp_str_addc(out, i < count ? digits[i] : '0');
    }
    if (count <= exponent + 1) dp_str_add(out, ".0");
  }
}

/* repr() of a string. Beyond Latin-1 all but the white space counts as printable. */
static void add_quoted(dp_str *out, chat_text text) {
  bool has_single = memchr(text.text, '\'', text.length), has_double = memchr(text.text, '"', text.length);
  char quote = has_single && !has_double ? '"' : '\'';
  dp_str_addc(out, quote);
  for (size_t at = 0, n; at < text.length; at += n) {
    uint32_t c = 0;
    n = character_length(text, at);
    bool valid = dp_utf8_step(text.text + at, text.length - at, &c) > 0;
    if (valid && (c == '\n' || c == '\r' || c == '\t'))
      dp_str_add(out, c == '\n' ? "\\n" : c == '\r' ? "\\r" : "\\t");
    else if (valid && (c == '\\' || c == (uint32_t)quote))
      dp_str_addf(out, "\\%c", (int)c);
    else if (valid && (c < 0x20 || (c >= 0x7F && c < 0xA1) || c == 0xAD))
      dp_str_addf(out, "\\x%02x", (unsigned)c);
    else if (valid && (c == 0x1680 || (c >= 0x2000 && c <= 0x200F) || (c >= 0x2028 && c <= 0x202F) || c == 0x205F ||
                       c == 0x3000 || c == 0xFEFF))
      dp_str_addf(out, "\\u%04x", (unsigned)c);
    else
      dp_str_addn(out, text.text + at, n);
  }
  dp_str_addc(out, quote);
}

/* str(), or repr() below the top. */
static void add_text(chat_run *run, dp_str *out, const chat_value *value, int level) {
  if (level == MAX_NESTING) chat_fail(run, DP_INVALID, "values are nested too deep to write");
  if (out->length > run->memory_limit - run->memory) chat_fail(run, DP_INVALID, "the template needs too much memory");
  if (!chat_step(run, 0)) return;
  switch (value->kind) {
  case CHAT_NONE:
    dp_str_add(out, "None");
    return;
  case CHAT_BOOL:
    dp_str_add(out, value->truth ? "True" : "False");
    return;
  case CHAT_INT:
    dp_str_addf(out, "%lld", (long long)value->integer);
    return;
  case CHAT_FLOAT:
    add_float(out, value->number);
    return;
  case CHAT_STRING:
    chat_step(run, value->text.length);
    if (level)
      add_quoted(out, value->text);
    else
      dp_str_addn(out, value->text.text, value->text.length);
    return;
  case CHAT_LIST:
    dp_str_addc(out, value->list->is_tuple ? '(' : '[');
    for (int i = 0; i < value->list->count && !chat_failed(run); i++) {
      if (i) dp_str_add(out, ", ");
      add_text(run, out, &value->list->items[i], level + 1);
    }
    if (value->list->is_tuple && value->list->count == 1) dp_str_addc(out, ',');
    dp_str_addc(out, value->list->is_tuple ? ')' : ']');
    return;
  case CHAT_DICT:
    dp_str_addc(out, '{');
    for (int i = 0; i < value->dict->count && !chat_failed(run); i++) {
      if (i) dp_str_add(out, ", ");
      add_text(run, out, &value->dict->entries[i].key, level + 1);
      dp_str_add(out, ": ");
      add_text(run, out, &value->dict->entries[i].value, level + 1);
    }
    dp_str_addc(out, '}');
    return;
  case CHAT_UNDEFINED:
    if (!level) return;
    dp_str_add(out, "Undefined");
    return;
  default:
    chat_fail(run, DP_UNSUPPORTED, "writing a %s is not handled", chat_kind_name(value));
    return;
  }
}

chat_text chat_to_text(chat_run *run, const chat_value *value) {
  if (value->kind == CHAT_STRING) return value->text;
  dp_str text = {0};
  add_text(run, &text, value, 0);
  chat_value taken = chat_take(run, &text);
  return taken.kind == CHAT_STRING ? taken.text : (chat_text){"", 0};
}

/* ---- JSON ------------------------------------------------------------------------------------------------------- */

static void add_json_string(dp_str *out, chat_text text, bool ascii) {
  dp_str_addc(out, '"');
  for (size_t at = 0, n; at < text.length; at += n) {
    uint32_t c = 0;
    n = character_length(text, at);
    bool valid = dp_utf8_step(text.text + at, text.length - at, &c) > 0;
    static const char plain[] = "\"\\\n\r\t\b\f", letters[] = "\"\\nrtbf";
    const char *found = valid && c && c < 0x80 ? strchr(plain, (int)c) : NULL;
    if (found)
      dp_str_addf(out, "\\%c", letters[found - plain]);
    else if (valid && (c < 0x20 || (ascii && c >= 0x80 && c < 0x10000)))
      dp_str_addf(out, "\\u%04x", (unsigned)c);
    else if (valid && ascii && c >= 0x10000)
      dp_str_addf(out, "\\u%04x\\u%04x", 0xD800 + ((unsigned)(c - 0x10000) >> 10), 0xDC00 + ((unsigned)c & 0x3FF));
    else
      dp_str_addn(out, text.text + at, n);
  }
  dp_str_addc(out, '"');
}

static void add_line(dp_str *out, int indent, int level) {
  if (indent < 0) return;
  dp_str_addc(out, '\n');
  for (int i = 0; i < indent * level; i++) dp_str_addc(out, ' ');
}

static int compare_entries(const void *a, const void *b) {
  chat_text x = ((const chat_entry *)a)->key.text, y = ((const chat_entry *)b)->key.text;
  int order = memcmp(x.text, y.text, x.length < y.length ? x.length : y.length);
  return order ? order : (x.length > y.length) - (x.length < y.length);
}

static chat_entry *sorted_entries(chat_run *run, const chat_dict *dict) {
  for (int i = 0; i < dict->count; i++)
    if (dict->entries[i].key.kind != CHAT_STRING) {
      chat_fail(run, DP_UNSUPPORTED, "sorting keys that are no strings is not handled");
      return NULL;
    }
  chat_entry *entries = chat_alloc(run, (size_t)(dict->count + 1) * sizeof *entries);
  if (!entries || !dict->count) return entries;
  memcpy(entries, dict->entries, (size_t)dict->count * sizeof *entries);
  qsort(entries, (size_t)dict->count, sizeof *entries, compare_entries);
  return entries;
}

/* As json.dumps; indent < 0: on one line. */
void chat_add_json(chat_run *run, dp_str *out, const chat_value *value, int indent, int level, bool ascii, bool sorted,
                   chat_text comma, chat_text colon) {
  if (level == MAX_NESTING) chat_fail(run, DP_INVALID, "values are nested too deep to write");
  if (out->length > run->memory_limit - run->memory) chat_fail(run, DP_INVALID, "the template needs too much memory");
  if (!chat_step(run, 0)) return;
  switch (value->kind) {
  case CHAT_NONE:
    dp_str_add(out, "null");
    return;
  case CHAT_BOOL:
    dp_str_add(out, value->truth ? "true" : "false");
    return;
  case CHAT_INT:
    dp_str_addf(out, "%lld", (long long)value->integer);
    return;
  case CHAT_FLOAT:
    if (isfinite(value->number))
      add_float(out, value->number);
    else
      dp_str_add(out, isnan(value->number) ? "NaN" : value->number < 0 ? "-Infinity" : "Infinity");
    return;
  case CHAT_STRING:
    chat_step(run, value->text.length);
    add_json_string(out, value->text, ascii);
    return;
  case CHAT_LIST:
    dp_str_addc(out, '[');
    for (int i = 0; i < value->list->count && !chat_failed(run); i++) {
      if (i) dp_str_addn(out, comma.text, comma.length);
      add_line(out, indent, level + 1);
      chat_add_json(run, out, &value->list->items[i], indent, level + 1, ascii, sorted, comma, colon);
    }
    if (value->list->count) add_line(out, indent, level);
    dp_str_addc(out, ']');
    return;
  case CHAT_DICT: {
    const chat_entry *entries = sorted ? sorted_entries(run, value->dict) : value->dict->entries;
    dp_str_addc(out, '{');
    for (int i = 0; i < value->dict->count && !chat_failed(run); i++) {
      if (i) dp_str_addn(out, comma.text, comma.length);
      add_line(out, indent, level + 1);
      if (entries[i].key.kind != CHAT_STRING) {
        chat_fail(run, DP_UNSUPPORTED, "keys that are no strings are not handled in JSON");
        return;
      }
      add_json_string(out, entries[i].key.text, ascii);
      dp_str_addn(out, colon.text, colon.length);
      chat_add_json(run, out, &entries[i].value, indent, level + 1, ascii, sorted, comma, colon);
    }
    if (value->dict->count) add_line(out, indent, level);
    dp_str_addc(out, '}');
    return;
  }
  default:
    chat_fail(run, DP_INVALID, "a value of kind %s cannot be written as JSON", chat_kind_name(value));
    return;
  }
}
