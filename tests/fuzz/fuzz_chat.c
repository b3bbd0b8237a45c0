/* tests/fuzz/fuzz_chat.c: bytes as a chat template: refused, or one that renders a conversation, or says why not. */
#include "runtime/chat.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static const dp_chat_message messages[] = {
      {"system", "Be brief."}, {"user", "Hi {{ there }}"}, {"assistant", NULL}, {"user", "\xc3\xa9\n"}};
  static const dp_chat_options options = {.add_generation_prompt = true,
                                          .bos_token = "<s>",
                                          .variables = "{\"tools\": [{\"name\": \"f\", \"n\": [1, 2.5, null]}]}"};
  dp_chat_template *chat;
  dp_status status = dp_chat_template_new((const char *)data, size, &chat);
  if (status.code == DP_OK) {
    dp_str out = {0};
    status = dp_chat_render(chat, messages, DP_COUNT(messages), &options, &out);
    dp_str_free(&out);
  }
  dp_status_free(&status);
  dp_chat_template_free(chat);
  return 0;
}
