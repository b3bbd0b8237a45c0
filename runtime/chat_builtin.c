/* runtime/chat_builtin.c: calls a builtin, and Jinja's global functions.
 *
 * A builtin is a row: its name, its parameters, the function. Arguments are bound to parameters here, so that a wrong
 * or unknown one is an error everywhere alike. */
#include "runtime/chat_builtin.h"

#include <string.h>

/* ---- arguments -----------------------------------------------------------------------------------------------------
 */

/* The i-th of "a,b,c". */
static chat_text param_at(const char *params, int i) {
  for (; i > 0 && params; i--) {
    params = strchr(params, ',');
    if (params) params++;
  }
  return params && *params ? (chat_text){params, strcspn(params, ",")} : (chat_text){NULL, 0};
}

chat_value chat_call_builtin(chat_run *run, const chat_builtin *builtin, const chat_value *self,
                             const chat_args *args) {
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
    if (bound[i].kind != CHAT_ABSENT)
      return chat_fail(run, DP_INVALID, "'%s': an argument is given twice", builtin->name);
    bound[i] = args->items[args->count + k];
  }
  return builtin->call(run, self, bound, args);
}

chat_value chat_bad_argument(chat_run *run, const char *what, const chat_value *value) {
  return chat_fail(run, DP_INVALID, "%s: a %s is not what it takes", what, chat_kind_name(value));
}

/* An argument that is a string; `otherwise` when it was not given. */
chat_text chat_text_argument(chat_run *run, const chat_value *value, const char *otherwise) {
  if (value->kind == CHAT_STRING) return value->text;
  if (value->kind != CHAT_ABSENT)
    chat_bad_argument(run, "an argument", value);
  else if (!otherwise)
    chat_fail(run, DP_INVALID, "an argument is missing");
  return (chat_text){otherwise ? otherwise : "", otherwise ? strlen(otherwise) : 0};
}

int64_t chat_int_argument(chat_run *run, const chat_value *value, int64_t otherwise) {
  if (value->kind == CHAT_INT) return value->integer;
  if (value->kind == CHAT_BOOL) return value->truth;
  if (value->kind != CHAT_ABSENT) chat_bad_argument(run, "an argument", value);
  return otherwise;
}

chat_value chat_dict_items(chat_run *run, const chat_dict *dict) {
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

const chat_builtin *chat_find_builtin(const chat_builtin *table, size_t count, chat_text name) {
  for (size_t i = 0; i < count; i++)
    if (chat_is(name, table[i].name)) return &table[i];
  return NULL;
}

/* ---- functions -----------------------------------------------------------------------------------------------------
 */

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
  for (int i = 0; first && i < first->count; i++)
    chat_dict_set(run, dict, first->entries[i].key, first->entries[i].value);
  for (int i = 0; i < args->keyword_count; i++)
    chat_dict_set(run, dict, chat_string(args->keywords[i].text, args->keywords[i].length),
                  args->items[args->count + i]);
  return dict && !chat_failed(run) ? (chat_value){.kind = kind, .dict = dict} : CHAT_NO_VALUE;
}

BUILTIN(function_namespace) {
  UNUSED;
  return new_dict(run, args, CHAT_NAMESPACE);
}

BUILTIN(function_dict) {
  UNUSED;
  return new_dict(run, args, CHAT_DICT);
}

BUILTIN(function_range) {
  UNUSED;
  int64_t first = chat_int_argument(run, &bound[0], 0), last = chat_int_argument(run, &bound[1], 0),
          step = chat_int_argument(run, &bound[2], 1);
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
  chat_text format = chat_text_argument(run, &bound[0], NULL);
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

const chat_builtin *chat_find_function(chat_text name) {
  return chat_find_builtin(functions, DP_COUNT(functions), name);
}
