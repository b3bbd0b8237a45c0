/* runtime/chat_text.c: Python's work on strings, as filters and methods of chat templates share it: strip, case,
 * replace, split, join. Positions are bytes here; what a template counts is characters. */
#include "runtime/chat_builtin.h"
#include "runtime/unicode.h"

#include <string.h>

/* What str.strip() takes for white space. */
bool chat_is_space(uint32_t c) {
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
  if (!chars.text) return character((chat_text){text.text, at + n}, at, &c) == n && chat_is_space(c);
  for (size_t i = 0, k; i < chars.length; i += k) {
    k = character(chars, i, &c);
    if (k == n && memcmp(chars.text + i, text.text + at, n) == 0) return true;
  }
  return false;
}

chat_value chat_strip(chat_run *run, chat_text text, const chat_value *chars, bool left, bool right) {
  chat_text set = {NULL, 0};
  if (chars->kind != CHAT_ABSENT && chars->kind != CHAT_NONE) set = chat_text_argument(run, chars, NULL);
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

/* ASCII only: Unicode's cases would need tables that no template has needed yet. */
chat_value chat_change_case(chat_run *run, chat_text text, chat_case to, const char *name) {
  chat_value changed = chat_copy(run, text.text, text.length);
  if (changed.kind != CHAT_STRING) return changed;
  char *letters = (char *)changed.text.text;
  bool inside = false;
  for (size_t i = 0; i < text.length; i++) {
    char c = letters[i];
    if ((uint8_t)c >= 0x80) return chat_fail(run, DP_UNSUPPORTED, "'%s' of letters beyond ASCII is not handled", name);
    bool is_lower = c >= 'a' && c <= 'z', is_upper = c >= 'A' && c <= 'Z';
    bool up = to == CHAT_UPPER || ((to == CHAT_TITLE || to == CHAT_CAPITALIZE) && !inside);
    if (up ? is_lower : is_upper) letters[i] = (char)(c ^ 0x20);
    inside = to == CHAT_TITLE ? is_lower || is_upper : true;
  }
  return changed;
}

size_t chat_find_text(chat_text text, chat_text part, size_t from) {
  if (from > text.length) return SIZE_MAX;
  if (!part.length) return from;
  const char *found = memmem(text.text + from, text.length - from, part.text, part.length);
  return found ? (size_t)(found - text.text) : SIZE_MAX;
}

chat_value chat_replace(chat_run *run, chat_text text, chat_text old, chat_text new, int64_t limit) {
  dp_str out = {0};
  size_t at = 0;
  chat_step(run, text.length);
  for (int64_t i = 0; (limit < 0 || i < limit) && at <= text.length && chat_step(run, new.length); i++) {
    size_t found = chat_find_text(text, old, at);
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

int64_t chat_count_characters(chat_run *run, chat_text text, size_t end) {
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
      if (!chat_is_space(c)) break;
    }
    if (at == text.length) return;
    if (limit == 0) {
      chat_value rest = chat_strip(run, (chat_text){text.text + at, text.length - at}, &(chat_value){0}, false, true);
      chat_list_add(run, list, rest);
      return;
    }
    size_t begin = at;
    for (; at < text.length; at += n) {
      n = character(text, at, &c);
      if (chat_is_space(c)) break;
    }
    add_span(run, list, text, begin, at);
    limit--;
  }
}

static void split_on(chat_run *run, chat_list *list, chat_text text, chat_text by, int64_t limit) {
  size_t at = 0;
  for (; limit != 0 && chat_step(run, 0); limit--) {
    size_t found = chat_find_text(text, by, at);
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

chat_value chat_split(chat_run *run, const chat_value *self, const chat_value *bound, bool from_right) {
  chat_list *list = chat_list_new(run, 4);
  if (!list) return CHAT_NO_VALUE;
  chat_text text = self->text;
  chat_step(run, text.length);
  int64_t limit = chat_int_argument(run, &bound[1], -1);
  if (bound[0].kind == CHAT_ABSENT || bound[0].kind == CHAT_NONE) {
    if (from_right && limit >= 0)
      return chat_fail(run, DP_UNSUPPORTED, "rsplit on white space with a limit is not handled");
    split_on_space(run, list, text, limit);
    return chat_list_value(list);
  }
  chat_text by = chat_text_argument(run, &bound[0], NULL);
  if (!by.length) return chat_fail(run, DP_INVALID, "split by an empty string");
  split_on(run, list, text, by, from_right ? -1 : limit);
  if (from_right && !chat_failed(run)) join_front(list, text, limit);
  return chat_list_value(list);
}

chat_value chat_split_lines(chat_run *run, chat_text text, bool keep_ends) {
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

bool chat_has_affix(chat_text text, chat_text affix, bool at_end) {
  return affix.length <= text.length &&
         memcmp(at_end ? text.text + text.length - affix.length : text.text, affix.text, affix.length) == 0;
}

/* startswith, endswith: of one, or of any in a tuple. */
chat_value chat_test_affix(chat_run *run, const chat_value *self, const chat_value *affix, bool at_end) {
  if (affix->kind != CHAT_LIST || !affix->list->is_tuple)
    return chat_bool(chat_has_affix(self->text, chat_text_argument(run, affix, NULL), at_end));
  for (int i = 0; i < affix->list->count; i++)
    if (chat_has_affix(self->text, chat_text_argument(run, &affix->list->items[i], NULL), at_end))
      return chat_bool(true);
  return chat_bool(false);
}

chat_value chat_join(chat_run *run, const chat_value *items, chat_text by, const chat_value *attribute) {
  chat_list *list = chat_iterate(run, items);
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
