/* runtime/chat_method.c: Python's methods of strings, dicts and lists, as far as chat templates use them; none that
 * would change its object. */
#include "runtime/chat_builtin.h"

#include <string.h>

BUILTIN(string_strip) {
  UNUSED;
  return chat_strip(run, self->text, &bound[0], true, true);
}

BUILTIN(string_lstrip) {
  UNUSED;
  return chat_strip(run, self->text, &bound[0], true, false);
}

BUILTIN(string_rstrip) {
  UNUSED;
  return chat_strip(run, self->text, &bound[0], false, true);
}

BUILTIN(string_upper) {
  UNUSED;
  return chat_change_case(run, self->text, CHAT_UPPER, "upper");
}

BUILTIN(string_lower) {
  UNUSED;
  return chat_change_case(run, self->text, CHAT_LOWER, "lower");
}

BUILTIN(string_title) {
  UNUSED;
  return chat_change_case(run, self->text, CHAT_TITLE, "title");
}

BUILTIN(string_capitalize) {
  UNUSED;
  return chat_change_case(run, self->text, CHAT_CAPITALIZE, "capitalize");
}

BUILTIN(string_startswith) {
  UNUSED;
  return chat_test_affix(run, self, &bound[0], false);
}

BUILTIN(string_endswith) {
  UNUSED;
  return chat_test_affix(run, self, &bound[0], true);
}

BUILTIN(string_split) {
  UNUSED;
  return chat_split(run, self, bound, false);
}

BUILTIN(string_rsplit) {
  UNUSED;
  return chat_split(run, self, bound, true);
}

BUILTIN(string_splitlines) {
  UNUSED;
  return chat_split_lines(run, self->text, chat_truth(&bound[0]));
}

BUILTIN(string_join) {
  UNUSED;
  return chat_join(run, &bound[0], self->text, &(chat_value){0});
}

BUILTIN(string_replace) {
  UNUSED;
  return chat_replace(run, self->text, chat_text_argument(run, &bound[0], NULL),
                      chat_text_argument(run, &bound[1], NULL), chat_int_argument(run, &bound[2], -1));
}

static chat_value find_character(chat_run *run, const chat_value *self, const chat_value *part, bool from_right) {
  chat_text wanted = chat_text_argument(run, part, NULL);
  size_t found = SIZE_MAX;
  chat_step(run, self->text.length);
  for (size_t at = 0; (at = chat_find_text(self->text, wanted, at)) != SIZE_MAX && chat_step(run, 0); at++) {
    found = at;
    if (!from_right) break;
  }
  return chat_int(found == SIZE_MAX ? -1 : chat_count_characters(run, self->text, found));
}

BUILTIN(string_find) {
  UNUSED;
  return find_character(run, self, &bound[0], false);
}

BUILTIN(string_rfind) {
  UNUSED;
  return find_character(run, self, &bound[0], true);
}

BUILTIN(string_index) {
  UNUSED;
  chat_value found = find_character(run, self, &bound[0], false);
  return found.integer < 0 ? chat_fail(run, DP_INVALID, "index: the string is not there") : found;
}

BUILTIN(string_count) {
  UNUSED;
  chat_text part = chat_text_argument(run, &bound[0], NULL);
  if (!part.length) return chat_int(chat_count_characters(run, self->text, self->text.length) + 1);
  int64_t count = 0;
  chat_step(run, self->text.length);
  for (size_t at = 0; (at = chat_find_text(self->text, part, at)) != SIZE_MAX; at += part.length) count++;
  return chat_int(count);
}

BUILTIN(string_removeprefix) {
  UNUSED;
  chat_text affix = chat_text_argument(run, &bound[0], NULL), text = self->text;
  size_t n = chat_has_affix(text, affix, false) ? affix.length : 0;
  return chat_string(text.text + n, text.length - n);
}

BUILTIN(string_removesuffix) {
  UNUSED;
  chat_text affix = chat_text_argument(run, &bound[0], NULL), text = self->text;
  return chat_string(text.text, text.length - (chat_has_affix(text, affix, true) ? affix.length : 0));
}

BUILTIN(string_isdigit) {
  UNUSED;
  for (size_t i = 0; i < self->text.length; i++) {
    if ((uint8_t)self->text.text[i] >= 0x80)
      return chat_fail(run, DP_UNSUPPORTED, "isdigit beyond ASCII is not handled");
    if (self->text.text[i] < '0' || self->text.text[i] > '9') return chat_bool(false);
  }
  return chat_bool(self->text.length > 0);
}

BUILTIN(dict_get) {
  UNUSED;
  const chat_value *value = chat_dict_get(run, self->dict, &bound[0]);
  return value ? *value : bound[1].kind == CHAT_ABSENT ? CHAT_NOTHING : bound[1];
}

BUILTIN(dict_items_method) {
  UNUSED;
  return chat_dict_items(run, self->dict);
}

BUILTIN(dict_keys) {
  UNUSED;
  return chat_list_value(chat_iterate(run, self));
}

BUILTIN(dict_values) {
  UNUSED;
  chat_list *list = chat_list_new(run, self->dict->count);
  for (int i = 0; list && i < self->dict->count; i++) chat_list_add(run, list, self->dict->entries[i].value);
  return chat_list_value(list);
}

BUILTIN(list_count) {
  UNUSED;
  int64_t count = 0;
  for (int i = 0; i < self->list->count && chat_step(run, 0); i++)
    count += chat_equal(run, &self->list->items[i], &bound[0]);
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
    {"append", NULL, forbidden}, {"clear", NULL, forbidden},     {"count", "value", list_count},
    {"extend", NULL, forbidden}, {"index", "value", list_index}, {"insert", NULL, forbidden},
    {"pop", NULL, forbidden},    {"remove", NULL, forbidden},    {"reverse", NULL, forbidden},
    {"sort", NULL, forbidden},
};

static const chat_builtin loop_methods[] = {{"cycle", NULL, loop_cycle}};

const chat_builtin *chat_find_method(const chat_value *self, chat_text name) {
  switch (self->kind) {
  case CHAT_STRING:
    return chat_find_builtin(string_methods, DP_COUNT(string_methods), name);
  case CHAT_DICT:
    return chat_find_builtin(dict_methods, DP_COUNT(dict_methods), name);
  case CHAT_LIST:
    return chat_find_builtin(list_methods, DP_COUNT(list_methods), name);
  case CHAT_LOOP:
    return chat_find_builtin(loop_methods, DP_COUNT(loop_methods), name);
  default:
    return NULL;
  }
}
