/* tests/fuzz/fuzz_data.c: bytes as training data: refused, or batches whose sequences are within bounds, and which a
 * second reader that begins in the middle gives too. The first byte chooses format and options. */
#include "runtime/data.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char source[] = "{% for m in messages %}<|im_start|>{{ m.role }}{{ m.content }}<|im_end|>{% endfor %}"
                             "{% if add_generation_prompt %}<|im_start|>assistant{% endif %}";

/* Ids are bytes, of those that are letters in such vocabularies, and two special tokens. */
static dp_tokenizer *make_tokenizer(void) {
  static char letters[94][2];
  const char *tokens[96] = {[94] = "<|im_start|>", [95] = "<|im_end|>"};
  int32_t types[96];
  for (int i = 0; i < 96; i++) types[i] = i < 94 ? DP_TOKEN_NORMAL : DP_TOKEN_CONTROL;
  for (int i = 0; i < 94; i++) {
    letters[i][0] = (char)('!' + i);
    tokens[i] = letters[i];
  }
  dp_tokenizer_spec spec = {.model = "gpt2",
                            .pre = "gpt-2",
                            .vocab_size = 96,
                            .tokens = tokens,
                            .token_types = types,
                            .bos = 94,
                            .eos = 95,
                            .eot = -1,
                            .unknown = -1,
                            .pad = -1};
  dp_tokenizer *tokenizer;
  dp_status status = dp_tokenizer_new(&spec, &tokenizer);
  if (status.code != DP_OK) abort();
  return tokenizer;
}

static void check(const rt_batch *batch, const rt_data_options *options, int64_t rows) {
  int64_t targets = 0;
  for (int i = 0; i < batch->count; i++) {
    const rt_example *e = &batch->sequences[i];
    if (e->count < 1 || e->count > options->length) abort();
    for (int64_t t = 0; t < e->count; t++) {
      if (e->ids[t] < 0 || e->ids[t] >= options->vocabulary || e->targets[t] >= options->vocabulary) abort();
      if (e->targets[t] >= 0 && t + 1 < e->count && e->targets[t] != e->ids[t + 1]) abort();
      targets += e->targets[t] >= 0;
    }
  }
  if (targets != batch->targets || targets == 0 || batch->count > 2 * rows * options->length) abort();
}

static void read_some(rt_data *data, const rt_data_options *options) {
  for (int64_t rows = 1; rows < 4; rows++) {
    rt_data_position at = rt_data_tell(data);
    rt_batch batch;
    dp_status status = rt_data_next(data, rows, &batch);
    if (status.code == DP_OK) {
      check(&batch, options, rows);
      uint64_t hash = dp_hash(0, batch.sequences[0].ids, (size_t)batch.tokens * sizeof(int32_t));
      rt_data *again;
      if (rt_data_open(options, &again).code != DP_OK || rt_data_seek(again, at).code != DP_OK ||
          rt_data_next(again, rows, &batch).code != DP_OK ||
          hash != dp_hash(0, batch.sequences[0].ids, (size_t)batch.tokens * sizeof(int32_t)))
        abort();
      rt_data_close(again);
    }
    dp_status_free(&status);
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
  static dp_tokenizer *tokenizer;
  static dp_chat_template *chat;
  if (!tokenizer) {
    tokenizer = make_tokenizer();
    dp_status status = dp_chat_template_new(source, strlen(source), &chat);
    if (status.code != DP_OK) abort();
  }
  static const ir_data_format formats[] = {IR_DATA_TEXT, IR_DATA_CHAT, IR_DATA_TOKENS, IR_DATA_PAIRS};
  if (size < 1) return 0;
  char path[64];
  int file = memfd_create("data", 0);
  if (file < 0 || write(file, bytes + 1, size - 1) != (ssize_t)size - 1) abort();
  snprintf(path, sizeof path, "/proc/self/fd/%d", file);
  rt_data_options options = rt_data_defaults(tokenizer);
  options.path = path;
  options.chat = chat;
  options.format = formats[bytes[0] & 3];
  options.skip_broken = bytes[0] & 4;
  options.pack = bytes[0] & 8;
  options.length = bytes[0] & 16 ? 5 : 40;
  options.in_order = bytes[0] & 32;
  rt_data *data;
  dp_status status = rt_data_open(&options, &data);
  if (status.code == DP_OK) read_some(data, &options);
  dp_status_free(&status);
  rt_data_close(data);
  close(file);
  return 0;
}
