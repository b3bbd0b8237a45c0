/* tests/tokenizer_golden.h: texts with the ids and the decoded text that Hugging Face's `tokenizers` gave for them, as
 * tests/golden/make_wordpiece.py and make_pieces.py write them: [{"text", "ids", "decoded"}]. */
#ifndef DIPPER_TESTS_TOKENIZER_GOLDEN_H
#define DIPPER_TESTS_TOKENIZER_GOLDEN_H

#include "runtime/tokenizer.h"

#include <check.h>
#include <jansson.h>

static inline void check_ok(dp_status status) { ck_assert_msg(status.code == DP_OK, "%s", dp_status_text(&status)); }

static inline void check_cases(const dp_tokenizer *tokenizer, const char *path) {
  json_t *cases = json_load_file(path, JSON_ALLOW_NUL, NULL), *one;
  ck_assert_uint_gt(json_array_size(cases), 20);
  size_t index;
  json_array_foreach(cases, index, one) {
    const json_t *text = json_object_get(one, "text"), *expected = json_object_get(one, "ids");
    dp_ids ids = {0};
    dp_str decoded = {0};
    check_ok(dp_tokenizer_encode(tokenizer, json_string_value(text), json_string_length(text), false, &ids));
    ck_assert_msg(ids.count == json_array_size(expected), "%s, case %zu has %zu tokens", path, index, ids.count);
    for (size_t i = 0; i < ids.count; i++)
      ck_assert_msg(ids.items[i] == json_integer_value(json_array_get(expected, i)), "%s, case %zu, token %zu", path,
                    index, i);
    check_ok(dp_tokenizer_decode(tokenizer, ids.items, ids.count, true, &decoded));
    ck_assert_str_eq(decoded.text ? decoded.text : "", json_string_value(json_object_get(one, "decoded")));
    dp_ids_free(&ids);
    dp_str_free(&decoded);
  }
  json_decref(cases);
}

#endif
