/* runtime/tokenizer_json.c: Hugging Face's tokenizer.json into a tokenizer.
 *
 * Handled is what byte-level BPE models use; anything that would change the ids and is not handled is refused by name,
 * never passed over. What the file asks to truncate or pad is the caller's business and ignored here. */
#include "runtime/tokenizer_parts.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_TOKENS = 1 << 22 };

static bool is_absent(const json_t *value) { return !value || json_is_null(value); }

static bool is_type(const json_t *object, const char *name) {
  const char *type = json_string_value(json_object_get(object, "type"));
  return type && strcmp(type, name) == 0;
}

static dp_status unsupported(const json_t *object, const char *what) {
  const char *type = json_string_value(json_object_get(object, "type"));
  return dp_fail(DP_UNSUPPORTED, "%s of type '%.64s' is not handled", what, type ? type : "(none)");
}

static dp_status get_bool(const json_t *object, const char *key, bool otherwise, bool *out) {
  const json_t *value = json_object_get(object, key);
  if (!is_absent(value) && !json_is_boolean(value)) return dp_fail(DP_INVALID, "'%s' is not true or false", key);
  *out = is_absent(value) ? otherwise : json_is_true(value);
  return DP_SUCCESS;
}

static dp_text text_of(const json_t *string) {
  return (dp_text){json_string_value(string), json_string_length(string)};
}

/* The members of a Sequence, or the thing alone. */
static size_t sequence_length(const json_t *object, const char *members) {
  if (is_absent(object)) return 0;
  return is_type(object, "Sequence") ? json_array_size(json_object_get(object, members)) : 1;
}

static const json_t *sequence_at(const json_t *object, const char *members, size_t i) {
  return is_type(object, "Sequence") ? json_array_get(json_object_get(object, members), i) : object;
}

/* ---- normalizer, pre-tokenizer, post-processor, decoder ------------------------------------------------------------
 */

static dp_status read_bert_normalizer(const json_t *normalizer, dp_tokenizer_parts *parts) {
  dp_bert_rules *rules = &parts->bert;
  if (rules->present || parts->nfc) return dp_fail(DP_UNSUPPORTED, "a BertNormalizer beside others is not handled");
  rules->present = true;
  DP_TRY(get_bool(normalizer, "clean_text", true, &rules->clean_text));
  DP_TRY(get_bool(normalizer, "handle_chinese_chars", true, &rules->chinese));
  DP_TRY(get_bool(normalizer, "lowercase", true, &rules->lowercase));
  return get_bool(normalizer, "strip_accents", rules->lowercase, &rules->strip_accents);
}

static dp_status read_normalizer(const json_t *normalizer, dp_tokenizer_parts *parts) {
  for (size_t i = 0; i < sequence_length(normalizer, "normalizers"); i++) {
    const json_t *one = sequence_at(normalizer, "normalizers", i);
    if (is_type(one, "BertNormalizer")) {
      DP_TRY(read_bert_normalizer(one, parts));
      continue;
    }
    if (parts->bert.present || !is_type(one, "NFC")) return unsupported(one, "a normalizer");
    parts->nfc = true;
  }
  return DP_SUCCESS;
}

static dp_status read_split(const json_t *split, dp_splitter *splitter) {
  static const char *const behaviors[] = {"Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"};
  const char *name = json_string_value(json_object_get(split, "behavior"));
  size_t behavior = 0;
  while (behavior < DP_COUNT(behaviors) && (!name || strcmp(name, behaviors[behavior]) != 0)) behavior++;
  if (behavior == DP_COUNT(behaviors))
    return dp_fail(DP_INVALID, "a Split with the behavior '%.64s'", name ? name : "(none)");
  bool invert = false;
  DP_TRY(get_bool(split, "invert", false, &invert));
  const json_t *pattern = json_object_get(split, "pattern");
  const json_t *regex = json_object_get(pattern, "Regex"), *literal = json_object_get(pattern, "String");
  if (json_is_string(regex))
    return dp_splitter_add_regex(splitter, json_string_value(regex), json_string_length(regex),
                                 (dp_split_behavior)behavior, invert);
  if (json_is_string(literal))
    return dp_splitter_add_literal(splitter, json_string_value(literal), json_string_length(literal),
                                   (dp_split_behavior)behavior, invert);
  return dp_fail(DP_INVALID, "a Split without a pattern of Regex or String");
}

static dp_status read_pre_tokenizer(const json_t *pre_tokenizer, dp_splitter *splitter) {
  bool byte_level = false;
  for (size_t i = 0; i < sequence_length(pre_tokenizer, "pretokenizers"); i++) {
    const json_t *one = sequence_at(pre_tokenizer, "pretokenizers", i);
    if (byte_level) return dp_fail(DP_UNSUPPORTED, "a pre-tokenizer after ByteLevel is not handled");
    if (is_type(one, "Split")) {
      DP_TRY(read_split(one, splitter));
    } else if (is_type(one, "Digits")) {
      bool individual = false;
      DP_TRY(get_bool(one, "individual_digits", false, &individual));
      const char *pattern = individual ? dp_pattern_digit : dp_pattern_digits;
      DP_TRY(dp_splitter_add_regex(splitter, pattern, strlen(pattern), DP_SPLIT_ISOLATED, false));
    } else if (is_type(one, "ByteLevel")) {
      bool use_regex = true, prefix = false;
      DP_TRY(get_bool(one, "use_regex", true, &use_regex));
      DP_TRY(get_bool(one, "add_prefix_space", true, &prefix));
      if (prefix) DP_TRY(dp_splitter_add_space_prefix(splitter));
      if (use_regex)
        DP_TRY(dp_splitter_add_regex(splitter, dp_pattern_gpt2, strlen(dp_pattern_gpt2), DP_SPLIT_ISOLATED, false));
      byte_level = true;
    } else {
      return unsupported(one, "a pre-tokenizer");
    }
  }
  return byte_level ? DP_SUCCESS
                    : dp_fail(DP_UNSUPPORTED, "only byte-level tokenizers are handled: no ByteLevel pre-tokenizer");
}

static dp_status read_bert_pre_tokenizer(const json_t *pre_tokenizer) {
  if (is_type(pre_tokenizer, "BertPreTokenizer")) return DP_SUCCESS;
  return is_absent(pre_tokenizer) ? dp_fail(DP_UNSUPPORTED, "a WordPiece model without a pre-tokenizer is not handled")
                                  : unsupported(pre_tokenizer, "beside WordPiece, a pre-tokenizer");
}

/* The id of a template's special token; -1: it is the text, or not to be found. */
static int template_id(const json_t *processor, const json_t *piece) {
  const char *name = json_string_value(json_object_get(json_object_get(piece, "SpecialToken"), "id"));
  const json_t *token = name ? json_object_get(json_object_get(processor, "special_tokens"), name) : NULL;
  const json_t *id = json_array_get(json_object_get(token, "ids"), 0);
  json_int_t value = json_is_integer(id) ? json_integer_value(id) : -1;
  return value >= 0 && value < MAX_TOKENS ? (int)value : -1;
}

static dp_status read_post_processor(const json_t *post_processor, dp_token_specials *specials) {
  for (size_t i = 0; i < sequence_length(post_processor, "processors"); i++) {
    const json_t *one = sequence_at(post_processor, "processors", i);
    if (is_type(one, "ByteLevel")) continue; /* it trims offsets, not ids */
    if (is_type(one, "BertProcessing")) {
      const json_t *cls = json_array_get(json_object_get(one, "cls"), 1);
      const json_t *sep = json_array_get(json_object_get(one, "sep"), 1);
      if (!json_is_integer(cls) || !json_is_integer(sep)) return dp_fail(DP_INVALID, "BertProcessing without ids");
      int *const ids[] = {&specials->bos, &specials->eos};
      const json_t *const values[] = {cls, sep};
      for (int k = 0; k < 2; k++) {
        json_int_t id = json_integer_value(values[k]);
        if (id < 0 || id >= MAX_TOKENS) return dp_fail(DP_INVALID, "BertProcessing with the id %lld", (long long)id);
        *ids[k] = (int)id;
      }
      specials->add_bos = specials->add_eos = true;
      continue;
    }
    if (!is_type(one, "TemplateProcessing")) return unsupported(one, "a post-processor");
    const json_t *pieces = json_object_get(one, "single");
    size_t count = json_array_size(pieces);
    int first = count > 1 ? template_id(one, json_array_get(pieces, 0)) : -1;
    int last = count > 1 ? template_id(one, json_array_get(pieces, count - 1)) : -1;
    if (first >= 0) {
      specials->bos = first;
      specials->add_bos = true;
    }
    if (last >= 0) {
      specials->eos = last;
      specials->add_eos = true;
    }
  }
  return DP_SUCCESS;
}

static dp_status read_decoder(const json_t *decoder, dp_tokenizer_parts *parts) {
  if (parts->is_wordpiece && !is_absent(decoder)) {
    if (!is_type(decoder, "WordPiece")) return unsupported(decoder, "a decoder");
    return get_bool(decoder, "cleanup", true, &parts->cleanup);
  }
  for (size_t i = 0; i < sequence_length(decoder, "decoders"); i++)
    if (!is_type(sequence_at(decoder, "decoders", i), "ByteLevel"))
      return unsupported(sequence_at(decoder, "decoders", i), "a decoder");
  return DP_SUCCESS;
}

/* ---- model and added tokens ----------------------------------------------------------------------------------------
 */

static dp_status check_wordpiece(const json_t *model, dp_tokenizer_parts *parts) {
  dp_wordpiece *wordpiece = &parts->wordpiece;
  const json_t *prefix = json_object_get(model, "continuing_subword_prefix");
  const json_t *most = json_object_get(model, "max_input_chars_per_word");
  dp_text text = json_is_string(prefix) ? text_of(prefix) : (dp_text){"##", 2};
  if (!is_absent(prefix) && !json_is_string(prefix)) return dp_fail(DP_INVALID, "the prefix is not a text");
  if (text.length >= sizeof wordpiece->prefix) return dp_fail(DP_UNSUPPORTED, "a prefix of %zu bytes", text.length);
  memcpy(wordpiece->prefix, text.text, text.length);
  wordpiece->prefix_length = text.length;
  wordpiece->most_characters = json_is_integer(most) ? json_integer_value(most) : 100;
  if (!json_is_object(json_object_get(model, "vocab"))) return dp_fail(DP_INVALID, "the model has no vocab");
  if (!json_is_string(json_object_get(model, "unk_token")))
    return dp_fail(DP_INVALID, "a WordPiece model needs an unk_token");
  parts->is_wordpiece = true;
  return DP_SUCCESS;
}

static dp_status check_model(const json_t *model, dp_tokenizer_parts *parts) {
  if (!json_is_object(model)) return dp_fail(DP_INVALID, "no model");
  if (is_type(model, "WordPiece")) return check_wordpiece(model, parts);
  if (json_object_get(model, "type") && !is_type(model, "BPE")) return unsupported(model, "a model");
  const json_t *dropout = json_object_get(model, "dropout");
  if (!is_absent(dropout) && json_number_value(dropout) != 0.0)
    return dp_fail(DP_UNSUPPORTED, "a BPE model with dropout is not handled");
  static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
  for (size_t i = 0; i < DP_COUNT(affixes); i++) {
    const json_t *affix = json_object_get(model, affixes[i]);
    if (!is_absent(affix) && json_string_length(affix))
      return dp_fail(DP_UNSUPPORTED, "a BPE model with a %s is not handled", affixes[i]);
  }
  bool byte_fallback = false;
  DP_TRY(get_bool(model, "byte_fallback", false, &byte_fallback));
  if (byte_fallback) return dp_fail(DP_UNSUPPORTED, "a BPE model with byte_fallback is not handled");
  DP_TRY(get_bool(model, "fuse_unk", false, &parts->fuse_unknown));
  DP_TRY(get_bool(model, "ignore_merges", false, &parts->ignore_merges));
  if (!json_is_object(json_object_get(model, "vocab"))) return dp_fail(DP_INVALID, "the model has no vocab");
  if (!json_is_array(json_object_get(model, "merges"))) return dp_fail(DP_INVALID, "the model has no merges");
  return DP_SUCCESS;
}

static dp_status get_id(const json_t *value, const char *where, const char *text, int *id) {
  json_int_t integer = json_is_integer(value) ? json_integer_value(value) : -1;
  if (integer < 0 || integer >= MAX_TOKENS)
    return dp_fail(DP_INVALID, "the id of '%.80s' in %s is not an integer in 0..%d", text, where, MAX_TOKENS - 1);
  *id = (int)integer;
  return DP_SUCCESS;
}

static dp_status count_tokens(const json_t *vocab, const json_t *added, int *count) {
  const char *key;
  json_t *value;
  int id = 0;
  *count = 0;
  json_object_foreach((json_t *)vocab, key, value) {
    DP_TRY(get_id(value, "vocab", key, &id));
    if (id >= *count) *count = id + 1;
  }
  size_t i;
  json_array_foreach(added, i, value) {
    const json_t *content = json_object_get(value, "content");
    if (!json_is_string(content)) return dp_fail(DP_INVALID, "added token %zu has no content", i);
    DP_TRY(get_id(json_object_get(value, "id"), "added_tokens", json_string_value(content), &id));
    if (id >= *count) *count = id + 1;
  }
  return *count ? DP_SUCCESS : dp_fail(DP_INVALID, "the vocabulary is empty");
}

static dp_status read_vocab(const json_t *vocab, dp_tokenizer_parts *parts) {
  const char *key;
  json_t *value;
  json_object_foreach((json_t *)vocab, key, value) {
    dp_token_part *token = &parts->tokens[json_integer_value(value)];
    if (token->text.text)
      return dp_fail(DP_INVALID, "tokens '%.80s' and '%.80s' have the same id %d", token->text.text, key,
                     (int)json_integer_value(value));
    *token = (dp_token_part){.text = {key, strlen(key)}, .in_model = true};
  }
  return DP_SUCCESS;
}

static dp_status read_added(const json_t *vocab, const json_t *added, dp_tokenizer_parts *parts) {
  size_t i;
  json_t *value;
  json_array_foreach(added, i, value) {
    dp_text text = text_of(json_object_get(value, "content"));
    json_int_t id = json_integer_value(json_object_get(value, "id"));
    const json_t *in_vocab = json_object_get(vocab, text.text);
    if (in_vocab && json_integer_value(in_vocab) != id)
      return dp_fail(DP_INVALID, "added token '%.80s' has id %d, but %d in the vocabulary", text.text, (int)id,
                     (int)json_integer_value(in_vocab));
    dp_token_part *token = &parts->tokens[id];
    if (token->text.text &&
        (token->text.length != text.length || memcmp(token->text.text, text.text, text.length) != 0))
      return dp_fail(DP_INVALID, "tokens '%.80s' and '%.80s' have the same id %d", token->text.text, text.text,
                     (int)id);
    token->text = text;
    token->added = true;
    DP_TRY(get_bool(value, "special", false, &token->special));
    DP_TRY(get_bool(value, "lstrip", false, &token->lstrip));
    DP_TRY(get_bool(value, "rstrip", false, &token->rstrip));
    DP_TRY(get_bool(value, "single_word", false, &token->single_word));
    DP_TRY(get_bool(value, "normalized", !token->special, &token->normalized));
  }
  return DP_SUCCESS;
}

/* "left right", or ["left", "right"] in newer files. */
static dp_status read_merges(const json_t *merges, dp_tokenizer_parts *parts) {
  size_t i;
  json_t *value;
  json_array_foreach(merges, i, value) {
    if (json_is_string(value)) {
      dp_text text = text_of(value);
      const char *space = text.length > 1 ? memchr(text.text + 1, ' ', text.length - 1) : NULL;
      if (!space)
        return dp_fail(DP_INVALID, "merge %zu, '%.80s', is not two tokens with a space between", i, text.text);
      size_t n = (size_t)(space - text.text);
      parts->merges[i] = (dp_merge_part){{text.text, n}, {space + 1, text.length - n - 1}};
      continue;
    }
    const json_t *left = json_array_get(value, 0), *right = json_array_get(value, 1);
    if (json_array_size(value) != 2 || !json_is_string(left) || !json_is_string(right))
      return dp_fail(DP_INVALID, "merge %zu is not two tokens", i);
    parts->merges[i] = (dp_merge_part){text_of(left), text_of(right)};
  }
  return DP_SUCCESS;
}

static dp_status read_root(const json_t *root, dp_tokenizer_parts *parts) {
  if (!json_is_object(root)) return dp_fail(DP_INVALID, "not an object");
  const json_t *model = json_object_get(root, "model"), *added = json_object_get(root, "added_tokens");
  DP_TRY(check_model(model, parts));
  const json_t *vocab = json_object_get(model, "vocab"), *merges = json_object_get(model, "merges");
  DP_TRY(read_normalizer(json_object_get(root, "normalizer"), parts));
  const json_t *pre_tokenizer = json_object_get(root, "pre_tokenizer");
  DP_TRY(parts->is_wordpiece ? read_bert_pre_tokenizer(pre_tokenizer)
                             : read_pre_tokenizer(pre_tokenizer, parts->splitter));
  DP_TRY(read_post_processor(json_object_get(root, "post_processor"), &parts->specials));
  DP_TRY(read_decoder(json_object_get(root, "decoder"), parts));
  DP_TRY(count_tokens(vocab, added, &parts->token_count));
  if (json_array_size(merges) >= INT32_MAX) return dp_fail(DP_INVALID, "%zu merges", json_array_size(merges));
  parts->merge_count = (int)json_array_size(merges);
  parts->tokens = calloc((size_t)parts->token_count, sizeof *parts->tokens);
  parts->merges = calloc((size_t)parts->merge_count + 1, sizeof *parts->merges);
  if (!parts->tokens || !parts->merges)
    return dp_fail(DP_NO_MEMORY, "no memory for a vocabulary of %d tokens", parts->token_count);
  DP_TRY(read_vocab(vocab, parts));
  DP_TRY(read_added(vocab, added, parts));
  DP_TRY(read_merges(merges, parts));
  const json_t *unknown = json_object_get(model, "unk_token");
  if (!is_absent(unknown)) {
    const json_t *id = json_is_string(unknown) ? json_object_get(vocab, json_string_value(unknown)) : NULL;
    if (!id) return dp_fail(DP_INVALID, "unk_token is not in the vocabulary");
    parts->unknown_symbol = parts->specials.unknown = (int)json_integer_value(id);
    parts->wordpiece.unknown = parts->unknown_symbol;
  }
  return DP_SUCCESS;
}

static dp_status in_file(const char *path, dp_status status) {
  if (status.code == DP_OK) return status;
  dp_status named = dp_fail(status.code, "%s: %s", path, dp_status_text(&status));
  dp_status_free(&status);
  return named;
}

dp_status dp_tokenizer_from_json_text(const char *name, const char *text, size_t length, dp_tokenizer **out) {
  *out = NULL;
  json_error_t error;
  json_t *root = json_loadb(text, length, JSON_REJECT_DUPLICATES, &error);
  if (!root) return dp_fail(DP_INVALID, "%s:%d:%d: %s", name, error.line, error.column, error.text);
  dp_tokenizer_parts parts = {
      .splitter = dp_splitter_new(), .unknown_symbol = -1, .specials = {-1, -1, -1, -1, -1, false, false}};
  dp_status status = parts.splitter ? read_root(root, &parts) : dp_fail(DP_NO_MEMORY, "no memory for a tokenizer");
  if (status.code == DP_OK) status = dp_tokenizer_build(&parts, out);
  free(parts.tokens);
  free(parts.merges);
  dp_splitter_free(parts.splitter);
  json_decref(root);
  return in_file(name, status);
}

dp_status dp_tokenizer_from_json(const char *path, dp_tokenizer **out) {
  *out = NULL;
  char *text = NULL;
  size_t length = 0;
  DP_TRY(dp_read_file(path, &text, &length));
  dp_status status = dp_tokenizer_from_json_text(path, text, length, out);
  free(text);
  return status;
}
