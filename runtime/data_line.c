/* runtime/data_line.c: a line of JSON -> a conversation or a pair of them, or what is wrong with it, at which column.
 */
#include "runtime/data_parts.h"

#include <inttypes.h>
#include <string.h>

static const char *string_of(const json_t *object, const char *key) {
  return json_string_value(json_object_get(object, key));
}

bool data_is_assistant(const json_t *message) {
  const char *role = string_of(message, "role");
  return role && strcmp(role, "assistant") == 0;
}

/* ---- conversations */

/* NULL, or what is wrong. Roles are the template's to know; content may be null beside tool calls, or a list of parts.
 */
static const char *check_messages(const json_t *messages) {
  if (!json_is_array(messages)) return "it is no list of messages";
  if (json_array_size(messages) == 0) return "it has no messages";
  for (size_t i = 0; i < json_array_size(messages); i++) {
    const json_t *message = json_array_get(messages, i), *content = json_object_get(message, "content");
    if (!json_is_object(message)) return "a message is no object";
    if (!string_of(message, "role")) return "a message has no \"role\"";
    if (!content && !json_object_get(message, "tool_calls")) return "a message has no \"content\"";
    if (content && !json_is_string(content) && !json_is_array(content) && !json_is_null(content))
      return "a message's \"content\" is no text";
  }
  return NULL;
}

/* The first message has nothing before it that it could answer. */
static bool has_answer(const json_t *messages, size_t first) {
  for (size_t i = first > 0 ? first : 1; i < json_array_size(messages); i++)
    if (data_is_assistant(json_array_get(messages, i))) return true;
  return false;
}

static const char *check_chat(const json_t *root) {
  const json_t *messages = json_object_get(root, "messages");
  if (!messages) return "it has no \"messages\"";
  const char *wrong = check_messages(messages);
  if (wrong) return wrong;
  return has_answer(messages, 0) ? NULL : "no message of \"assistant\" follows another: there is nothing to learn";
}

/* ---- pairs */

/* A string is the text of one message of that role. */
static json_t *messages_of(const json_t *value, const char *role) {
  if (!json_is_string(value)) return json_copy((json_t *)value);
  return json_pack("[{s:s, s:O}]", "role", role, "content", value);
}

static size_t common_messages(const json_t *a, const json_t *b) {
  size_t n = 0;
  while (n < json_array_size(a) && n < json_array_size(b) && json_equal(json_array_get(a, n), json_array_get(b, n)))
    n++;
  return n;
}

/* A list that begins with the prompt's messages is the whole conversation, another is what follows them. */
static json_t *whole_conversation(const json_t *prompt, const json_t *answer) {
  json_t *messages = messages_of(answer, "assistant");
  size_t n = json_array_size(prompt);
  if (!messages || n == 0 || (common_messages(prompt, messages) == n && json_array_size(messages) > n)) return messages;
  json_t *whole = json_copy((json_t *)prompt);
  if (!whole || json_array_extend(whole, messages) != 0) {
    json_decref(whole);
    whole = NULL;
  }
  json_decref(messages);
  return whole;
}

static const char *check_sides(const json_t *prompt, const json_t *chosen, const json_t *rejected) {
  const json_t *sides[] = {prompt, chosen, rejected};
  if (!chosen) return "it has no \"chosen\"";
  if (!rejected) return "it has no \"rejected\"";
  for (int i = prompt ? 0 : 1; i < 3; i++) {
    if (json_is_string(sides[i]) && (i == 0 || json_string_length(sides[i]) > 0)) continue;
    if (json_is_string(sides[i])) return i == 1 ? "its \"chosen\" is empty" : "its \"rejected\" is empty";
    const char *wrong = check_messages(sides[i]);
    if (wrong) return wrong;
  }
  if (json_equal(chosen, rejected)) return "its \"chosen\" and \"rejected\" are the same";
  if (!prompt && (json_is_string(chosen) || json_is_string(rejected))) return "it has no \"prompt\"";
  return NULL;
}

const char *data_read_pair(const json_t *root, data_pair *pair) {
  const json_t *prompt = json_object_get(root, "prompt"), *chosen = json_object_get(root, "chosen");
  const json_t *rejected = json_object_get(root, "rejected");
  *pair = (data_pair){.texts = {prompt, chosen, rejected}};
  const char *wrong = check_sides(prompt, chosen, rejected);
  if (wrong) return wrong;
  if (json_is_string(prompt) && json_is_string(chosen) && json_is_string(rejected)) return NULL;
  json_t *before = prompt ? messages_of(prompt, "user") : json_array();
  pair->conversations[0] = whole_conversation(before, chosen);
  pair->conversations[1] = whole_conversation(before, rejected);
  pair->prompt = prompt ? json_array_size(before) : common_messages(pair->conversations[0], pair->conversations[1]);
  json_decref(before);
  for (int i = 0; i < 2 && !wrong; i++) {
    size_t n = json_array_size(pair->conversations[i]);
    if (n > 0 && pair->prompt >= n) pair->prompt = n - 1; /* one goes on where the other ends */
  }
  for (int i = 0; i < 2 && !wrong; i++)
    if (!has_answer(pair->conversations[i], pair->prompt)) wrong = "no message of \"assistant\" follows the prompt";
  if (wrong) data_free_pair(pair);
  return wrong;
}

void data_free_pair(data_pair *pair) {
  for (int i = 0; i < 2; i++) json_decref(pair->conversations[i]);
  *pair = (data_pair){0};
}

/* ---- values */

static const char *check_values(const json_t *root, bool *needs_chat) {
  const json_t *prompt = json_object_get(root, "prompt"), *completion = json_object_get(root, "completion");
  const json_t *value = json_object_get(root, "value");
  *needs_chat = json_object_get(root, "messages") != NULL;
  if (!json_is_number(value)) return value ? "its \"value\" is no number" : "it has no \"value\"";
  if (*needs_chat) return check_chat(root);
  if (prompt && !json_is_string(prompt)) return "its \"prompt\" is no string";
  if (!json_is_string(completion)) return completion ? "its \"completion\" is no string" : "it has no \"completion\"";
  return json_string_length(completion) > 0 ? NULL : "its \"completion\" is empty";
}

/* ---- the line */

/* A first line that is good as one of both tells the format. */
static const char *choose_format(rt_data *data, const json_t *root) {
  if (data->format != IR_DATA_AUTO) return NULL;
  ir_data_format format = json_object_get(root, "value")      ? IR_DATA_VALUES
                          : json_object_get(root, "messages") ? IR_DATA_CHAT
                          : json_object_get(root, "chosen")   ? IR_DATA_PAIRS
                                                              : IR_DATA_AUTO;
  data_pair pair;
  bool needs_chat;
  const char *wrong = format == IR_DATA_CHAT     ? check_chat(root)
                      : format == IR_DATA_VALUES ? check_values(root, &needs_chat)
                      : format == IR_DATA_PAIRS  ? data_read_pair(root, &pair)
                                                 : "it has neither \"messages\" nor \"chosen\" and \"rejected\"";
  if (format == IR_DATA_PAIRS && !wrong) data_free_pair(&pair);
  if (!wrong) data->format = format;
  return wrong;
}

static const char *check_pair(const json_t *root, bool *needs_chat) {
  data_pair pair;
  const char *wrong = data_read_pair(root, &pair);
  if (wrong) return wrong;
  *needs_chat = pair.conversations[0] != NULL;
  data_free_pair(&pair);
  return NULL;
}

static dp_status check_line(rt_data *data, const data_item *item, const json_t *root) {
  bool needs_chat = true;
  const char *wrong = json_is_object(root) ? choose_format(data, root) : "it is no JSON object";
  if (!wrong)
    wrong = data->format == IR_DATA_CHAT     ? check_chat(root)
            : data->format == IR_DATA_VALUES ? check_values(root, &needs_chat)
                                             : check_pair(root, &needs_chat);
  const char *path = data->files[item->file].path;
  if (wrong) return dp_fail(DP_INVALID, "%s:%" PRId64 ": %s", path, item->first, wrong);
  if (needs_chat && !data->options.chat)
    return dp_fail(DP_UNSUPPORTED, "%s:%" PRId64 ": messages need a chat template, and the weights bring none", path,
                   item->first);
  return DP_SUCCESS;
}

dp_status data_parse_line(rt_data *data, const data_item *item, const char *text, json_t **root) {
  const char *path = data->files[item->file].path;
  size_t size = item->end - item->begin;
  *root = NULL;
  if (size > DATA_MAX_LINE)
    return dp_fail(DP_INVALID, "%s:%" PRId64 ": a line of %zu bytes: %d is the limit", path, item->first, size,
                   DATA_MAX_LINE);
  json_error_t error;
  *root = json_loadb(text + item->begin, size, JSON_REJECT_DUPLICATES, &error);
  if (!*root)
    return dp_fail(DP_INVALID, "%s:%" PRId64 ":%d: %s; each line must be one JSON object", path, item->first,
                   error.column > 0 ? error.column : 1, error.text);
  dp_status status = check_line(data, item, *root);
  if (status.code == DP_OK) return DP_SUCCESS;
  json_decref(*root);
  *root = NULL;
  return status;
}
