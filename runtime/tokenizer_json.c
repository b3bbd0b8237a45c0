/* runtime/tokenizer_json.c: Hugging Face's tokenizer.json into a tokenizer.
 *
 * Handled is what byte-level BPE models use; anything that would change the ids and is not handled is refused by name,
 * never passed over. What the file asks to truncate or pad is the caller's business and ignored here. */
#include "runtime/tokenizer_parts.h"

#include <jansson.h>
#include <stdio.h>
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

static dp_text pattern_of(const json_t *object, const char *kind) {
  const json_t *text = json_object_get(json_object_get(object, "pattern"), kind);
  return json_is_string(text) ? text_of(text) : (dp_text){0};
}

static int base64_digit(char c) {
  static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  const char *found = c ? strchr(digits, c) : NULL;
  return found ? (int)(found - digits) : -1;
}

static dp_status read_map(const json_t *one, dp_normalizer *normalizer) {
  const json_t *coded = json_object_get(one, "precompiled_charsmap");
  if (is_absent(coded)) return DP_SUCCESS;
  dp_text text = json_is_string(coded) ? text_of(coded) : (dp_text){"", 0};
  while (text.length && text.text[text.length - 1] == '=') text.length--;
  uint8_t *bytes = malloc(text.length + 1);
  if (!bytes) return dp_fail(DP_NO_MEMORY, "no memory for a character map");
  size_t n = 0;
  uint32_t bits = 0;
  for (size_t i = 0; i < text.length; i++) {
    int digit = base64_digit(text.text[i]);
    if (digit < 0) {
      free(bytes);
      return dp_fail(DP_INVALID, "precompiled_charsmap is not base64");
    }
    bits = bits << 6 | (uint32_t)digit;
    if (i % 4) bytes[n++] = (uint8_t)(bits >> (6 - i % 4 * 2));
  }
  dp_status status = dp_normalizer_add_map(normalizer, bytes, n);
  free(bytes);
  return status;
}

static dp_status read_one_normalizer(const json_t *one, dp_normalizer *normalizer) {
  if (is_type(one, "Precompiled")) return read_map(one, normalizer);
  if (is_type(one, "Lowercase")) return dp_normalizer_add_lowercase(normalizer);
  if (is_type(one, "NFC")) return dp_normalizer_add_nfc(normalizer);
  if (is_type(one, "Prepend")) {
    const json_t *text = json_object_get(one, "prepend");
    if (!json_is_string(text)) return dp_fail(DP_INVALID, "a Prepend without a text");
    return dp_normalizer_add_prepend(normalizer, json_string_value(text), json_string_length(text));
  }
  if (is_type(one, "Strip")) {
    bool left = true, right = true;
    DP_TRY(get_bool(one, "strip_left", true, &left));
    DP_TRY(get_bool(one, "strip_right", true, &right));
    return dp_normalizer_add_strip(normalizer, left, right);
  }
  if (!is_type(one, "Replace")) return unsupported(one, "a normalizer");
  const json_t *content = json_object_get(one, "content");
  dp_text literal = pattern_of(one, "String"), regex = pattern_of(one, "Regex");
  if (!json_is_string(content) || (!literal.text && !regex.text)) return dp_fail(DP_INVALID, "a Replace without texts");
  dp_text to = text_of(content);
  return literal.text ? dp_normalizer_add_replace(normalizer, literal.text, literal.length, to.text, to.length)
                      : dp_normalizer_add_regex(normalizer, regex.text, regex.length, to.text, to.length);
}

/* BERT's is not among them: a Sequence with it comes with WordPiece. */
static dp_status read_piece_normalizer(const json_t *normalizer, dp_tokenizer_parts *parts) {
  parts->normalizer = dp_normalizer_new();
  if (!parts->normalizer) return dp_fail(DP_NO_MEMORY, "no memory for a normalizer");
  for (size_t i = 0; i < sequence_length(normalizer, "normalizers"); i++)
    DP_TRY(read_one_normalizer(sequence_at(normalizer, "normalizers", i), parts->normalizer));
  return DP_SUCCESS;
}

static dp_status read_normalizer(const json_t *normalizer, dp_tokenizer_parts *parts) {
  if (parts->pieces.present) return read_piece_normalizer(normalizer, parts);
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

static dp_status read_metaspace(const json_t *one, dp_piece_rules *rules) {
  static const char *const schemes[] = {"never", "first", "always"};
  const char *scheme = json_string_value(json_object_get(one, "prepend_scheme"));
  const json_t *mark = json_object_get(one, "replacement");
  bool add_prefix = true;
  if (rules->metaspace) return dp_fail(DP_UNSUPPORTED, "two Metaspace pre-tokenizers are not handled");
  DP_TRY(get_bool(one, "add_prefix_space", true, &add_prefix)); /* files of before prepend_scheme */
  DP_TRY(get_bool(one, "split", true, &rules->split));
  rules->prepend = add_prefix ? DP_MARK_ALWAYS : DP_MARK_NEVER;
  for (int i = 0; scheme && i <= 3; i++) {
    if (i == 3) return dp_fail(DP_INVALID, "a Metaspace with the prepend_scheme '%.40s'", scheme);
    if (strcmp(scheme, schemes[i]) != 0) continue;
    rules->prepend = i;
    break;
  }
  if (!json_is_string(mark) || json_string_length(mark) == 0 || json_string_length(mark) >= sizeof rules->mark)
    return dp_fail(DP_INVALID, "a Metaspace without a replacement");
  memcpy(rules->mark, json_string_value(mark), json_string_length(mark));
  rules->metaspace = true;
  return DP_SUCCESS;
}

static dp_status read_piece_pre_tokenizer(const json_t *pre_tokenizer, dp_tokenizer_parts *parts) {
  static const char blanks[] = "\\s+";
  for (size_t i = 0; i < sequence_length(pre_tokenizer, "pretokenizers"); i++) {
    const json_t *one = sequence_at(pre_tokenizer, "pretokenizers", i);
    if (parts->pieces.metaspace) return dp_fail(DP_UNSUPPORTED, "a pre-tokenizer after Metaspace is not handled");
    if (is_type(one, "Metaspace")) DP_TRY(read_metaspace(one, &parts->pieces));
    else if (is_type(one, "Split")) DP_TRY(read_split(one, parts->splitter));
    else if (is_type(one, "WhitespaceSplit"))
      DP_TRY(dp_splitter_add_regex(parts->splitter, blanks, strlen(blanks), DP_SPLIT_REMOVED, false));
    else return unsupported(one, "a pre-tokenizer");
  }
  return DP_SUCCESS;
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
    if (is_type(one, "BertProcessing") || is_type(one, "RobertaProcessing")) {
      const json_t *cls = json_array_get(json_object_get(one, "cls"), 1);
      const json_t *sep = json_array_get(json_object_get(one, "sep"), 1);
      if (!json_is_integer(cls) || !json_is_integer(sep)) return dp_fail(DP_INVALID, "a post-processor without ids");
      int *const ids[] = {&specials->bos, &specials->eos};
      const json_t *const values[] = {cls, sep};
      for (int k = 0; k < 2; k++) {
        json_int_t id = json_integer_value(values[k]);
        if (id < 0 || id >= MAX_TOKENS) return dp_fail(DP_INVALID, "a post-processor with the id %lld", (long long)id);
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

static dp_status read_piece_decoder(const json_t *decoder, dp_piece_rules *rules) {
  bool fused = false;
  for (size_t i = 0; i < sequence_length(decoder, "decoders"); i++) {
    const json_t *one = sequence_at(decoder, "decoders", i);
    if (is_type(one, "ByteFallback") && !fused) {
      rules->shows_bytes = true;
    } else if (is_type(one, "Fuse")) {
      fused = true;
    } else if (is_type(one, "Metaspace") && !fused && !*rules->shown_from) {
      dp_piece_rules metaspace = {0};
      DP_TRY(read_metaspace(one, &metaspace));
      memcpy(rules->shown_from, metaspace.mark, sizeof rules->shown_from);
      rules->drop_first_marks = metaspace.prepend != DP_MARK_NEVER;
    } else if (is_type(one, "Replace") && !fused && !*rules->shown_from) {
      dp_text from = pattern_of(one, "String");
      const char *to = json_string_value(json_object_get(one, "content"));
      if (!from.length || from.length >= sizeof rules->shown_from || !to || strcmp(to, " ") != 0)
        return dp_fail(DP_UNSUPPORTED, "a decoder that replaces other than a mark by a blank is not handled");
      memcpy(rules->shown_from, from.text, from.length);
    } else if (is_type(one, "Strip") && fused) {
      const char *content = json_string_value(json_object_get(one, "content"));
      json_int_t start = json_integer_value(json_object_get(one, "start"));
      json_int_t stop = json_integer_value(json_object_get(one, "stop"));
      if (!content || strcmp(content, " ") != 0 || stop != 0 || start < 0 || start > 1000)
        return dp_fail(DP_UNSUPPORTED, "a decoder that strips other than blanks in front is not handled");
      rules->strip_left = (int)start;
    } else {
      return unsupported(one, "a decoder (in this place)");
    }
  }
  return DP_SUCCESS;
}

static dp_status read_decoder(const json_t *decoder, dp_tokenizer_parts *parts) {
  if (parts->pieces.present) return read_piece_decoder(decoder, &parts->pieces);
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

static bool has_byte_level(const json_t *object, const char *members) {
  for (size_t i = 0; i < sequence_length(object, members); i++)
    if (is_type(sequence_at(object, members, i), "ByteLevel")) return true;
  return false;
}

static dp_status check_unigram(const json_t *model, dp_tokenizer_parts *parts) {
  if (!json_is_array(json_object_get(model, "vocab"))) return dp_fail(DP_INVALID, "the model has no vocab");
  parts->pieces.present = parts->pieces.is_unigram = true;
  return get_bool(model, "byte_fallback", false, &parts->pieces.byte_fallback);
}

static dp_status check_model(const json_t *root, const json_t *model, dp_tokenizer_parts *parts) {
  if (!json_is_object(model)) return dp_fail(DP_INVALID, "no model");
  if (is_type(model, "WordPiece")) return check_wordpiece(model, parts);
  if (is_type(model, "Unigram")) return check_unigram(model, parts);
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
  parts->pieces.present = !has_byte_level(json_object_get(root, "pre_tokenizer"), "pretokenizers");
  DP_TRY(get_bool(model, "byte_fallback", false, &parts->pieces.byte_fallback));
  if (parts->pieces.byte_fallback && !parts->pieces.present)
    return dp_fail(DP_UNSUPPORTED, "a byte-level BPE model with byte_fallback is not handled");
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
  if (json_is_array(vocab)) {
    if (json_array_size(vocab) > MAX_TOKENS)
      return dp_fail(DP_INVALID, "a vocabulary of %zu pieces", json_array_size(vocab));
    *count = (int)json_array_size(vocab);
  }
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

/* The number that the reference's JSON reader (serde_json) makes of the shortest text for `exact`: digits as an
 * integer, divided once by a power of ten. It can be off by a last bit, and with it the sums that ties hang on. */
static double as_reference_reads(double exact) {
  char text[40];
  int precision = 1;
  for (; precision < 17; precision++) {
    snprintf(text, sizeof text, "%.*e", precision - 1, exact);
    if (strtod(text, NULL) == exact) break;
  }
  if (precision == 17) snprintf(text, sizeof text, "%.16e", exact);
  uint64_t digits = 0;
  const char *at = text;
  for (; *at && *at != 'e'; at++)
    if (*at >= '0' && *at <= '9') digits = digits * 10 + (uint64_t)(*at - '0');
  if (*at != 'e') return exact; /* no finite number */
  int exponent = atoi(at + 1) - (precision - 1);
  if (exponent < -22 || exponent > 0) return exact;
  double power = 1;
  for (int i = 0; i > exponent; i--) power *= 10; /* exact up to 10^22 */
  double value = (double)digits / power;
  return exact < 0 ? -value : value;
}

/* Unigram's: [piece, log probability], the ids in order. */
static dp_status read_pieces(const json_t *vocab, const json_t *model, dp_tokenizer_parts *parts) {
  size_t i;
  json_t *value;
  parts->scores = calloc((size_t)parts->token_count, sizeof *parts->scores);
  if (!parts->scores) return dp_fail(DP_NO_MEMORY, "no memory for %d pieces", parts->token_count);
  json_array_foreach(vocab, i, value) {
    const json_t *piece = json_array_get(value, 0), *score = json_array_get(value, 1);
    if (!json_is_string(piece) || !json_is_number(score))
      return dp_fail(DP_INVALID, "piece %zu of the vocabulary is not a text and a number", i);
    parts->tokens[i] = (dp_token_part){.text = text_of(piece), .in_model = true};
    parts->scores[i] = as_reference_reads(json_number_value(score));
  }
  const json_t *unknown = json_object_get(model, "unk_id");
  if (is_absent(unknown)) return DP_SUCCESS;
  if (!json_is_integer(unknown) || json_integer_value(unknown) < 0 ||
      json_integer_value(unknown) >= (json_int_t)json_array_size(vocab))
    return dp_fail(DP_INVALID, "unk_id is not in the vocabulary");
  parts->unknown_symbol = parts->specials.unknown = (int)json_integer_value(unknown);
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
      parts->merges[i] = (dp_merge_part){{text.text, n}, {space + 1, text.length - n - 1}, (int)i};
      continue;
    }
    const json_t *left = json_array_get(value, 0), *right = json_array_get(value, 1);
    if (json_array_size(value) != 2 || !json_is_string(left) || !json_is_string(right))
      return dp_fail(DP_INVALID, "merge %zu is not two tokens", i);
    parts->merges[i] = (dp_merge_part){text_of(left), text_of(right), (int)i};
  }
  return DP_SUCCESS;
}

static dp_status read_root(const json_t *root, dp_tokenizer_parts *parts) {
  if (!json_is_object(root)) return dp_fail(DP_INVALID, "not an object");
  const json_t *model = json_object_get(root, "model"), *added = json_object_get(root, "added_tokens");
  DP_TRY(check_model(root, model, parts));
  const json_t *vocab = json_object_get(model, "vocab"), *merges = json_object_get(model, "merges");
  DP_TRY(read_normalizer(json_object_get(root, "normalizer"), parts));
  const json_t *pre_tokenizer = json_object_get(root, "pre_tokenizer");
  DP_TRY(parts->is_wordpiece     ? read_bert_pre_tokenizer(pre_tokenizer)
         : parts->pieces.present ? read_piece_pre_tokenizer(pre_tokenizer, parts)
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
  DP_TRY(json_is_array(vocab) ? read_pieces(vocab, model, parts) : read_vocab(vocab, parts));
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
  dp_tokenizer_parts_free(&parts);
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
