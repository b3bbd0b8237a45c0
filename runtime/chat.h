/* runtime/chat.h: a list of messages into the one text that a model was trained to read, by the chat template that its
 * file brings (Jinja, as Hugging Face's transformers set it up: trim_blocks, lstrip_blocks, no autoescape).
 *
 * Templates come from strangers: rendering is bounded in depth, steps and memory, and reads nothing but what it is
 * given. What of Jinja is not handled is refused by name and line. A parsed template is const: threads may share it. */
#ifndef DIPPER_CHAT_H
#define DIPPER_CHAT_H

#include "base/base.h"

#include <time.h>

typedef struct dp_chat_template dp_chat_template;

typedef struct dp_chat_message {
  const char *role, *content; /* UTF-8; content NULL is Jinja's none */
} dp_chat_message;

typedef struct dp_chat_options {
  bool add_generation_prompt;
  const char *bos_token, *eos_token; /* NULL: the template finds them undefined */
  /* A JSON object of more variables ("tools", "enable_thinking", ...), or NULL. "messages" in it, which may have more
   * than role and content, takes the place of the list. */
  const char *variables;
  const struct tm *now; /* for strftime_now; NULL: the template finds that undefined */
} dp_chat_options;

dp_status dp_chat_template_new(const char *source, size_t n, dp_chat_template **out);
void dp_chat_template_free(dp_chat_template *chat);
/* Appends to out; nothing on failure. What the template raises (raise_exception) is DP_INVALID with its words. */
dp_status dp_chat_render(const dp_chat_template *chat, const dp_chat_message *messages, int count,
                         const dp_chat_options *options, dp_str *out);

#endif
