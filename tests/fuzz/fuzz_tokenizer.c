/* tests/fuzz/fuzz_tokenizer.c: bytes as a tokenizer.json: refused, or a tokenizer that encodes texts to ids in range
 * and decodes any ids. After a line of "---" the input may bring a text of its own. */
#include "runtime/tokenizer.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const texts[] = {
    "",
    " ",
    "Hello, world! It's 1999.\n\n  Two  spaces",
    "na\xc3\xafve \xe4\xbd\xa0\xe5\xa5\xbd \xf0\x9f\x98\x80 e\xcc\x81",
    "\xff\xfe broken \xe4\xbd",
    "<s>[CLS] a [SEP]</s><|im_end|> \xe2\x96\x81",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"};

static void encode(const dp_tokenizer *tokenizer, const char *text, size_t n) {
  for (int special = 0; special < 2; special++) {
    dp_ids ids = {0};
    dp_str back = {0};
    dp_status status = dp_tokenizer_encode(tokenizer, text, n, special, &ids);
    for (size_t i = 0; status.code == DP_OK && i < ids.count; i++)
      if (ids.items[i] < 0 || ids.items[i] >= dp_tokenizer_size(tokenizer)) abort();
    dp_status_free(&status);
    status = dp_tokenizer_decode(tokenizer, ids.items, ids.count, special, &back);
    dp_status_free(&status);
    dp_str_free(&back);
    dp_ids_free(&ids);
  }
}

static void decode_all(const dp_tokenizer *tokenizer) {
  dp_stream_decoder decoder = dp_stream_decoder_new(tokenizer, false);
  dp_str out = {0};
  dp_status status = DP_SUCCESS;
  for (int id = -1; id <= dp_tokenizer_size(tokenizer) && id < 2000; id++) {
    dp_status_free(&status);
    status = dp_stream_decoder_push(&decoder, id, &out);
  }
  dp_status_free(&status);
  status = dp_stream_decoder_flush(&decoder, &out);
  dp_status_free(&status);
  dp_str_free(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static const char cut[] = "\n---\n";
  const char *json = (const char *)data, *own = memmem(data, size, cut, strlen(cut));
  size_t length = own ? (size_t)(own - json) : size;
  dp_tokenizer *tokenizer;
  dp_status status = dp_tokenizer_from_json_text("fuzz", json, length, &tokenizer);
  if (status.code == DP_OK) {
    for (size_t i = 0; i < DP_COUNT(texts); i++) encode(tokenizer, texts[i], strlen(texts[i]));
    if (own) encode(tokenizer, own + strlen(cut), size - length - strlen(cut));
    decode_all(tokenizer);
  }
  dp_status_free(&status);
  dp_tokenizer_free(tokenizer);
  return 0;
}
