/* runtime/data_chat.c: conversations and pairs -> token ids and which of them count.
 *
 * The template is asked for growing beginnings of a conversation: what it writes with an assistant's message beyond
 * what it writes before it, generation prompt included, is the assistant's turn. As ids, a turn begins where the ids of
 * the two texts part, so that it is tokenized as it would be when the model writes it, or with what it merges into. A
 * template that writes a turn in another way once there is a later one (reasoning left out) has one turn that can be
 * learned from: the last. */
#include "runtime/data_parts.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* ---- rendering */

static const char *place_of(const rt_data *data, const data_item *item) { return data->files[item->file].path; }

static void set_more(json_t *variables, const json_t *from, const char *key) {
  json_t *value = json_object_get(from, key);
  if (value) json_object_set(variables, key, value);
}

/* What the template is told besides the conversation. */
static json_t *variables_of(const json_t *root) {
  json_t *variables = json_object();
  const char *key;
  json_t *value;
  json_object_foreach(json_object_get(root, "chat_template_kwargs"), key, value) json_object_set(variables, key, value);
  json_object_del(variables, "add_generation_prompt");
  set_more(variables, root, "tools");
  set_more(variables, root, "documents");
  return variables;
}

/* The first `count` messages as the template writes them. */
static dp_status render(const rt_data *data, const data_item *item, json_t *variables, json_t *messages, size_t count,
                        bool prompt, dp_str *out) {
  json_t *some = json_array();
  for (size_t i = 0; i < count; i++) json_array_append(some, json_array_get(messages, i));
  char *text = json_object_set_new(variables, "messages", some) == 0 ? json_dumps(variables, JSON_COMPACT) : NULL;
  if (!text) return dp_fail(DP_NO_MEMORY, "no memory for a conversation");
  dp_chat_options options = {.add_generation_prompt = prompt,
                             .bos_token = data->options.bos_token,
                             .eos_token = data->options.eos_token,
                             .variables = text};
  dp_str_clear(out);
  dp_status status = dp_chat_render(data->options.chat, NULL, 0, &options, out), named = status;
  free(text);
  if (status.code != DP_OK) {
    named = dp_fail(status.code == DP_NO_MEMORY ? DP_NO_MEMORY : DP_INVALID, "%s:%" PRId64 ": the chat template: %s",
                    place_of(data, item), item->first, dp_status_text(&status));
    dp_status_free(&status);
  }
  return named;
}

/* ---- turns */

typedef struct turns {
  rt_data *data;
  const data_item *item;
  json_t *variables, *messages; /* variables owned */
  dp_str before, after, last;   /* texts: up to a turn, with it, with the turn before */
  dp_ids before_ids;
  data_sequence *made;
} turns;

static bool begins_with(const dp_str *text, const dp_str *beginning) {
  return text->length >= beginning->length &&
         (beginning->length == 0 || memcmp(text->text, beginning->text, beginning->length) == 0);
}

static size_t common_ids(const dp_ids *a, const int32_t *ids, size_t count) {
  size_t n = 0;
  while (n < a->count && n < count && a->items[n] == ids[n]) n++;
  return n;
}

static dp_status encode_text(const rt_data *data, const dp_str *text, dp_ids *ids) {
  ids->count = 0;
  return dp_tokenizer_encode(data->options.tokenizer, text->text ? text->text : "", text->length, true, ids);
}

/* Marks the turn: from where the ids part to its last token that ends a turn, or to its end when there is none. */
static dp_status mark_turn(turns *t, size_t begin) {
  const dp_ids *ids = &t->made->ids;
  dp_ids *marks = &t->made->targets;
  size_t end = ids->count;
  while (end > begin && !dp_tokenizer_is_end(t->data->options.tokenizer, ids->items[end - 1])) end--;
  if (end == begin) end = ids->count;
  while (marks->count < ids->count) DP_TRY(data_add_id(marks, marks->count >= begin && marks->count < end));
  return DP_SUCCESS;
}

/* The turn of message `index`, after those before it. *stable: the template writes these as it did. */
static dp_status add_turn(turns *t, size_t index, bool *stable) {
  DP_TRY(render(t->data, t->item, t->variables, t->messages, index, true, &t->before));
  DP_TRY(render(t->data, t->item, t->variables, t->messages, index + 1, false, &t->after));
  *stable = begins_with(&t->after, &t->before) && begins_with(&t->before, &t->last);
  if (!*stable) return DP_SUCCESS;
  dp_ids *ids = &t->made->ids, *marks = &t->made->targets;
  DP_TRY(encode_text(t->data, &t->before, &t->before_ids));
  size_t marked = marks->count;
  while (marked > 0 && !marks->items[marked - 1]) marked--;
  if (common_ids(&t->before_ids, ids->items, ids->count) < marked) { /* the turn's last token went into another */
    *stable = false;
    return DP_SUCCESS;
  }
  marks->count = marked;
  DP_TRY(encode_text(t->data, &t->after, ids));
  size_t begin = common_ids(&t->before_ids, ids->items, ids->count);
  if (begin < marked) {
    *stable = false;
    return DP_SUCCESS;
  }
  DP_TRY(mark_turn(t, begin));
  dp_str swap = t->last;
  t->last = t->after, t->after = swap;
  return DP_SUCCESS;
}

static void begin_again(turns *t) {
  dp_str_clear(&t->last);
  t->made->ids.count = t->made->targets.count = 0;
}

static dp_status encode_turns(turns *t, size_t first) {
  size_t count = json_array_size(t->messages), last = 0;
  bool stable = true;
  begin_again(t);
  for (size_t i = first > 0 ? first : 1; i < count && stable; i++) {
    if (!data_is_assistant(json_array_get(t->messages, i))) continue;
    last = i;
    DP_TRY(add_turn(t, i, &stable));
    if (!stable || (int64_t)t->made->ids.count <= t->data->options.length + 1) continue;
    while (++i < count && !t->data->truncated) t->data->truncated = data_is_assistant(json_array_get(t->messages, i));
    return DP_SUCCESS; /* no more has room */
  }
  if (stable) return DP_SUCCESS;
  for (size_t i = last; i < count; i++)
    if (data_is_assistant(json_array_get(t->messages, i))) last = i;
  begin_again(t);
  DP_TRY(add_turn(t, last, &stable));
  t->data->last_turn_only = true;
  if (stable) return DP_SUCCESS;
  return dp_fail(DP_INVALID,
                 "%s:%" PRId64
                 ": what the chat template writes with message %zu, the assistant's, does not begin with what it "
                 "writes as the prompt for it: it cannot be told what is to be learned; give another chat template",
                 place_of(t->data, t->item), t->item->first, last + 1);
}

dp_status data_encode_chat(rt_data *data, const data_item *item, const json_t *root, json_t *messages, size_t first,
                           data_sequence *sequence) {
  turns t = {.data = data, .item = item, .variables = variables_of(root), .messages = messages, .made = sequence};
  dp_status status = t.variables ? encode_turns(&t, first) : dp_fail(DP_NO_MEMORY, "no memory for a conversation");
  json_decref(t.variables);
  dp_str_free(&t.before);
  dp_str_free(&t.after);
  dp_str_free(&t.last);
  dp_ids_free(&t.before_ids);
  return status;
}

/* ---- pairs of strings */

static dp_status append_text(const rt_data *data, const json_t *text, dp_ids *ids) {
  return text ? dp_tokenizer_encode(data->options.tokenizer, json_string_value(text), json_string_length(text), true,
                                    ids)
              : DP_SUCCESS;
}

static dp_status encode_strings(const rt_data *data, const json_t *prompt, const json_t *answer, data_sequence *made) {
  dp_ids *ids = &made->ids, *marks = &made->targets;
  int32_t begin = data->options.begin_token, end = data->options.end_token;
  ids->count = marks->count = 0;
  DP_TRY(append_text(data, prompt, ids));
  if (begin >= 0 && (ids->count == 0 || ids->items[0] != begin)) {
    DP_TRY(data_add_id(ids, begin));
    memmove(ids->items + 1, ids->items, (ids->count - 1) * sizeof *ids->items);
    ids->items[0] = begin;
  }
  size_t masked = ids->count;
  DP_TRY(append_text(data, answer, ids));
  if (end >= 0 && (ids->count == 0 || ids->items[ids->count - 1] != end)) DP_TRY(data_add_id(ids, end));
  while (marks->count < ids->count) DP_TRY(data_add_id(marks, marks->count >= masked));
  return DP_SUCCESS;
}

/* ---- examples */

/* Marks to targets: each says of the token after it. A conversation ends with its last token that is a target, of a
 * pair all is kept; nothing is longer than `length`. */
static void finish(rt_data *data, data_sequence *made, bool whole) {
  size_t n = made->ids.count, length = (size_t)data->options.length, end = n, counted = 0;
  int32_t *ids = made->ids.items, *targets = made->targets.items;
  if (!whole) {
    while (end > 0 && !targets[end - 1]) end--;
    end = end > 0 ? end - 1 : 0;
  }
  data->truncated = data->truncated || end > length;
  if (end > length) end = length;
  for (size_t i = 0; i < end; i++) {
    targets[i] = i + 1 < n && targets[i + 1] ? ids[i + 1] : -1;
    counted += targets[i] >= 0;
  }
  while (!whole && end > 0 && targets[end - 1] < 0) end--;
  made->ids.count = made->targets.count = end;
  data->usable = data->usable && counted > 0;
}

static dp_status load_pair(rt_data *data, const data_item *item, const json_t *root) {
  data_pair pair;
  dp_status status = DP_SUCCESS;
  const char *wrong = data_read_pair(root, &pair);
  DP_CHECK(!wrong, "%s", wrong);
  for (int i = 0; i < 2 && status.code == DP_OK; i++) {
    if (pair.conversations[0])
      status = data_encode_chat(data, item, root, pair.conversations[i], pair.prompt, &data->made[i]);
    else
      status = encode_strings(data, pair.texts[0], pair.texts[1 + i], &data->made[i]);
    if (status.code == DP_OK) finish(data, &data->made[i], true);
  }
  data_free_pair(&pair);
  return status;
}

dp_status data_load_line(rt_data *data, int64_t index) {
  const data_item *item = &data->items[index];
  const dp_mapping *mapping;
  json_t *root;
  DP_TRY(data_map(data, item->file, &mapping));
  DP_TRY(data_parse_line(data, item, (const char *)mapping->data, &root));
  data->usable = true;
  data->truncated = data->last_turn_only = false;
  dp_status status;
  data->value = data->format == IR_DATA_VALUES ? json_number_value(json_object_get(root, "value")) : 0;
  if (data->format == IR_DATA_PAIRS) {
    status = load_pair(data, item, root);
  } else if (data->format == IR_DATA_VALUES && !json_object_get(root, "messages")) {
    status = encode_strings(data, json_object_get(root, "prompt"), json_object_get(root, "completion"), &data->made[0]);
    if (status.code == DP_OK) finish(data, &data->made[0], true);
  } else {
    status = data_encode_chat(data, item, root, json_object_get(root, "messages"), 0, &data->made[0]);
    if (status.code == DP_OK) finish(data, &data->made[0], false);
  }
  json_decref(root);
  return status;
}
