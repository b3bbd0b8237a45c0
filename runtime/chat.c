/* runtime/chat.c: a template's life: parsed once, then rendered for each list of messages, with the variables that
 * transformers gives: messages, add_generation_prompt, bos_token, eos_token, tools and documents (none), and the
 * caller's. */
#include "runtime/chat.h"

#include "runtime/chat_parts.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_SOURCE = 1 << 20 };

struct dp_chat_template {
  dp_arena *arena;
  chat_node *root;
};

dp_status dp_chat_template_new(const char *source, size_t n, dp_chat_template **out) {
  *out = NULL;
  if (n > MAX_SOURCE) return dp_fail(DP_INVALID, "a chat template of %zu bytes is too long", n);
  dp_chat_template *chat = calloc(1, sizeof *chat);
  if (chat) chat->arena = dp_arena_new();
  if (!chat || !chat->arena) {
    free(chat);
    return dp_fail(DP_NO_MEMORY, "no memory for a chat template");
  }
  chat_tokens tokens = {0};
  dp_status status = chat_lex(chat->arena, source, n, &tokens);
  if (status.code == DP_OK) status = chat_parse(chat->arena, &tokens, &chat->root);
  if (status.code == DP_OK)
    *out = chat;
  else
    dp_chat_template_free(chat);
  return status;
}

void dp_chat_template_free(dp_chat_template *chat) {
  if (!chat) return;
  dp_arena_free(chat->arena);
  free(chat);
}

/* The depth of the recursion is bounded by the parser of JSON. */
static chat_value from_json(chat_run *run, const json_t *json) {
  switch (json_typeof(json)) {
  case JSON_TRUE:
  case JSON_FALSE:
    return chat_bool(json_is_true(json));
  case JSON_INTEGER:
    return chat_int(json_integer_value(json));
  case JSON_REAL:
    return chat_float(json_real_value(json));
  case JSON_STRING:
    return chat_copy(run, json_string_value(json), json_string_length(json));
  case JSON_ARRAY: {
    chat_list *list = chat_list_new(run, (int)(json_array_size(json) & INT32_MAX));
    for (size_t i = 0; list && i < json_array_size(json) && !chat_failed(run); i++)
      chat_list_add(run, list, from_json(run, json_array_get(json, i)));
    return chat_list_value(list);
  }
  case JSON_OBJECT: {
    chat_dict *dict = chat_dict_new(run);
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)json, key, value)
        chat_dict_set(run, dict, chat_copy(run, key, strlen(key)), from_json(run, value));
    return dict ? (chat_value){.kind = CHAT_DICT, .dict = dict} : CHAT_NO_VALUE;
  }
  default:
    return CHAT_NOTHING;
  }
}

static void set_word(chat_run *run, chat_scope *scope, const char *name, chat_value value) {
  chat_set(run, scope, (chat_text){name, strlen(name)}, value);
}

static void set_messages(chat_run *run, chat_scope *scope, const dp_chat_message *messages, int count) {
  chat_list *list = chat_list_new(run, count);
  for (int i = 0; list && i < count && !chat_failed(run); i++) {
    chat_dict *message = chat_dict_new(run);
    chat_dict_set(run, message, chat_word("role"), messages[i].role ? chat_word(messages[i].role) : CHAT_NOTHING);
    chat_dict_set(run, message, chat_word("content"),
                  messages[i].content ? chat_word(messages[i].content) : CHAT_NOTHING);
    if (message) chat_list_add(run, list, (chat_value){.kind = CHAT_DICT, .dict = message});
  }
  set_word(run, scope, "messages", chat_list_value(list));
}

static void set_variables(chat_run *run, chat_scope *scope, const char *variables) {
  json_error_t error;
  json_t *root = json_loads(variables, JSON_REJECT_DUPLICATES, &error);
  if (!root || !json_is_object(root)) {
    chat_fail(run, DP_INVALID, "the variables are no JSON object: %s", root ? "another value" : error.text);
    json_decref(root);
    return;
  }
  const char *key;
  json_t *value;
  json_object_foreach(root, key, value) {
    chat_value name = chat_copy(run, key, strlen(key));
    if (name.kind == CHAT_STRING) chat_set(run, scope, name.text, from_json(run, value));
  }
  json_decref(root);
}

static size_t input_size(const dp_chat_message *messages, int count, const dp_chat_options *options) {
  size_t size = options->variables ? strlen(options->variables) : 0;
  for (int i = 0; i < count; i++)
    size += 64 + (messages[i].role ? strlen(messages[i].role) : 0) +
            (messages[i].content ? strlen(messages[i].content) : 0);
  return size;
}

dp_status dp_chat_render(const dp_chat_template *chat, const dp_chat_message *messages, int count,
                         const dp_chat_options *options, dp_str *out) {
  size_t before = out->length;
  chat_run run = {.arena = dp_arena_new(), .out = out, .line = 1, .now = options->now};
  if (!run.arena) return dp_fail(DP_NO_MEMORY, "no memory to render a chat");
  run.memory_limit = CHAT_MAX_MEMORY + 16 * input_size(messages, count, options) + before;
  chat_scope *scope = chat_alloc(&run, sizeof *scope);
  dp_str rendered = {0};
  run.out = &rendered;
  if (count < 0) chat_fail(&run, DP_INVALID, "%d messages", count);
  set_word(&run, scope, "tools", CHAT_NOTHING);
  set_word(&run, scope, "documents", CHAT_NOTHING);
  set_word(&run, scope, "add_generation_prompt", chat_bool(options->add_generation_prompt));
  if (options->bos_token) set_word(&run, scope, "bos_token", chat_word(options->bos_token));
  if (options->eos_token) set_word(&run, scope, "eos_token", chat_word(options->eos_token));
  set_messages(&run, scope, messages, count < 0 ? 0 : count);
  if (options->variables && !chat_failed(&run)) set_variables(&run, scope, options->variables);
  chat_exec(&run, scope, chat->root);
  if (!chat_failed(&run)) dp_str_addn(out, rendered.text ? rendered.text : "", rendered.length);
  if (out->failed && !chat_failed(&run)) chat_fail(&run, DP_NO_MEMORY, "no memory for the text of the chat");
  dp_str_free(&rendered);
  dp_arena_free(run.arena);
  return run.status;
}
