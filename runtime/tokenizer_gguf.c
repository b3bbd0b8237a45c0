/* runtime/tokenizer_gguf.c: a tokenizer from what a GGUF file says of it (tokenizer.ggml.*): "gpt2" is byte-level BPE,
 * "llama" SentencePiece's BPE, whose merges are ordered by the pieces' scores, "t5" Unigram, "bert" WordPiece. */
#include "runtime/tokenizer_parts.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char mark[] = "\xE2\x96\x81"; /* U+2581, for a blank */
enum { MARK = sizeof mark - 1 };

static dp_status no_memory(void) { return dp_fail(DP_NO_MEMORY, "no memory for a tokenizer"); }

static size_t length_of(const dp_tokenizer_spec *spec, int i) {
  return spec->token_lengths ? spec->token_lengths[i] : strlen(spec->tokens[i]);
}

static dp_status read_tokens(const dp_tokenizer_spec *spec, bool added_are_no_words, dp_tokenizer_parts *parts) {
  for (int i = 0; i < spec->vocab_size; i++) {
    if (!spec->tokens[i]) return dp_fail(DP_INVALID, "token %d has no text", i);
    int type = spec->token_types ? spec->token_types[i] : DP_TOKEN_NORMAL;
    bool special = type == DP_TOKEN_CONTROL || type == DP_TOKEN_UNKNOWN;
    bool added = special || type == DP_TOKEN_USER_DEFINED;
    parts->tokens[i] = (dp_token_part){
        .text = {spec->tokens[i], length_of(spec, i)},
        .in_model = type != DP_TOKEN_UNUSED && !(added && added_are_no_words),
        .added = added,
        .special = special,
    };
  }
  return DP_SUCCESS;
}

/* ---- gpt2 */

static dp_status read_byte_level(const dp_tokenizer_spec *spec, dp_tokenizer_parts *parts) {
  dp_pre_traits traits;
  DP_TRY(dp_splitter_add_pre(parts->splitter, spec->pre ? spec->pre : "default", &traits));
  if (spec->add_space_prefix) DP_TRY(dp_splitter_add_space_prefix(parts->splitter));
  parts->nfc = traits.nfc;
  parts->ignore_merges = traits.ignore_merges;
  DP_TRY(read_tokens(spec, traits.ignore_merges, parts));
  for (int i = 0; i < spec->merge_count; i++) {
    const char *merge = spec->merges[i];
    const char *space = merge && *merge ? strchr(merge + 1, ' ') : NULL;
    if (!space)
      return dp_fail(DP_INVALID, "merge %d, '%.80s', is not two tokens with a space between", i, merge ? merge : "");
    parts->merges[i] = (dp_merge_part){{merge, (size_t)(space - merge)}, {space + 1, strlen(space + 1)}, i};
  }
  return DP_SUCCESS;
}

/* ---- llama: any two neighbours merge whose joint is a piece, the piece of the best score first */

typedef struct named {
  dp_text text;
  int32_t id;
} named;

static int by_text(const void *a, const void *b) {
  const dp_text *x = &((const named *)a)->text, *y = &((const named *)b)->text;
  int order = memcmp(x->text, y->text, x->length < y->length ? x->length : y->length);
  return order ? order : (x->length > y->length) - (x->length < y->length);
}

typedef struct scored {
  float score;
  int32_t id;
  int rank;
} scored;

static int by_score(const void *a, const void *b) {
  const scored *x = a, *y = b;
  return x->score != y->score ? (x->score < y->score) - (x->score > y->score) : (x->id > y->id) - (x->id < y->id);
}

static bool is_piece(const named *names, int count, const char *text, size_t n) {
  named key = {.text = {text, n}};
  return bsearch(&key, names, (size_t)count, sizeof *names, by_text) != NULL;
}

/* The merges that make a piece: one a place where it can be cut into two. */
static dp_status cut_piece(const named *names, int count, dp_text piece, int rank, size_t *capacity,
                           dp_tokenizer_parts *parts) {
  for (size_t at = 1; at < piece.length; at++) {
    if (((uint8_t)piece.text[at] & 0xC0) == 0x80) continue;
    if (!is_piece(names, count, piece.text, at)) continue;
    if (!is_piece(names, count, piece.text + at, piece.length - at)) continue;
    if ((size_t)parts->merge_count == *capacity) {
      if (*capacity > 1u << 26) return dp_fail(DP_UNSUPPORTED, "a vocabulary with more than 2^26 merges");
      *capacity = *capacity ? 2 * *capacity : 4096;
      dp_merge_part *merges = realloc(parts->merges, *capacity * sizeof *merges);
      if (!merges) return no_memory();
      parts->merges = merges;
    }
    parts->merges[parts->merge_count++] =
        (dp_merge_part){{piece.text, at}, {piece.text + at, piece.length - at}, rank};
  }
  return DP_SUCCESS;
}

static dp_status find_merges(const dp_tokenizer_spec *spec, dp_tokenizer_parts *parts) {
  size_t room = (size_t)spec->vocab_size, capacity = 0;
  named *names = malloc(room * sizeof *names);
  scored *order = malloc(room * sizeof *order);
  dp_status status = names && order ? DP_SUCCESS : no_memory();
  int count = 0, rank = 0;
  for (int i = 0; status.code == DP_OK && i < spec->vocab_size; i++) {
    const dp_token_part *token = &parts->tokens[i];
    bool is_byte = spec->token_types && spec->token_types[i] == DP_TOKEN_BYTE;
    if (!token->in_model || token->special || is_byte || !token->text.length) continue;
    names[count] = (named){token->text, i};
    order[count++] = (scored){isfinite(spec->scores[i]) ? spec->scores[i] : -INFINITY, i, 0};
  }
  if (status.code == DP_OK) {
    qsort(names, (size_t)count, sizeof *names, by_text);
    qsort(order, (size_t)count, sizeof *order, by_score);
  }
  free(parts->merges);
  parts->merges = NULL;
  for (int i = 0; status.code == DP_OK && i < count; i++) {
    rank += i > 0 && order[i].score != order[i - 1].score; /* equal scores: the leftmost first */
    status = cut_piece(names, count, parts->tokens[order[i].id].text, rank, &capacity, parts);
  }
  free(names);
  free(order);
  return status;
}

static dp_status read_marked(const dp_tokenizer_spec *spec, dp_tokenizer_parts *parts) {
  dp_piece_rules *rules = &parts->pieces;
  if (!spec->scores) return dp_fail(DP_INVALID, "the tokenizer has no scores");
  rules->present = rules->byte_fallback = rules->shows_bytes = true;
  memcpy(rules->shown_from, mark, MARK);
  parts->unknown_symbol = spec->unknown;
  parts->normalizer = dp_normalizer_new();
  return parts->normalizer ? read_tokens(spec, false, parts) : no_memory();
}

static dp_status read_llama(const dp_tokenizer_spec *spec, dp_tokenizer_parts *parts) {
  DP_TRY(read_marked(spec, parts));
  if (spec->add_space_prefix) DP_TRY(dp_normalizer_add_prepend(parts->normalizer, mark, MARK));
  DP_TRY(dp_normalizer_add_replace(parts->normalizer, " ", 1, mark, MARK));
  parts->pieces.strip_left = spec->add_space_prefix;
  parts->fuse_unknown = true;
  return find_merges(spec, parts);
}

/* ---- t5 */

static dp_status read_unigram(const dp_tokenizer_spec *spec, dp_tokenizer_parts *parts) {
  DP_TRY(read_marked(spec, parts));
  dp_piece_rules *rules = &parts->pieces;
  rules->is_unigram = true;
  rules->metaspace = rules->split = true;
  rules->prepend = spec->add_space_prefix ? DP_MARK_ALWAYS : DP_MARK_NEVER;
  rules->drop_first_marks = spec->add_space_prefix;
  memcpy(rules->mark, mark, MARK);
  if (spec->charsmap_length)
    DP_TRY(dp_normalizer_add_map(parts->normalizer, spec->charsmap, spec->charsmap_length));
  if (spec->remove_extra_spaces) {
    DP_TRY(dp_normalizer_add_strip(parts->normalizer, true, true));
    DP_TRY(dp_normalizer_add_regex(parts->normalizer, " {2,}", 5, " ", 1));
  }
  parts->scores = calloc((size_t)spec->vocab_size, sizeof *parts->scores);
  if (!parts->scores) return no_memory();
  for (int i = 0; i < spec->vocab_size; i++) parts->scores[i] = (double)spec->scores[i];
  for (int i = 0; i < spec->vocab_size; i++)
    if (parts->tokens[i].special) parts->tokens[i].in_model = false;
  return DP_SUCCESS;
}

/* ---- bert: "_word" begins a word, "word" goes on inside one */

static dp_status read_bert(const dp_tokenizer_spec *spec, dp_tokenizer_parts *parts) {
  DP_TRY(read_tokens(spec, false, parts));
  parts->is_wordpiece = parts->cleanup = true;
  parts->bert = (dp_bert_rules){true, true, true, true, true};
  parts->wordpiece =
      (dp_wordpiece){.prefix = "##", .prefix_length = 2, .most_characters = 100, .unknown = spec->unknown};
  parts->unknown_symbol = spec->unknown;
  if (spec->unknown < 0) return dp_fail(DP_INVALID, "a WordPiece tokenizer needs an unknown token");
  size_t total = 1;
  for (int i = 0; i < spec->vocab_size; i++) total += length_of(spec, i) + 3;
  char *at = parts->texts = malloc(total);
  if (!at) return no_memory();
  for (int i = 0; i < spec->vocab_size; i++) {
    dp_text *text = &parts->tokens[i].text;
    if (parts->tokens[i].added) continue;
    bool begins = text->length > MARK && memcmp(text->text, mark, MARK) == 0;
    size_t length = begins ? text->length - MARK : text->length + 2;
    if (!begins) memcpy(at, "##", 2);
    memcpy(at + (begins ? 0 : 2), text->text + (begins ? MARK : 0), begins ? length : text->length);
    *text = (dp_text){at, length};
    at += length;
  }
  return DP_SUCCESS;
}

/* ---- any */

static dp_status read_spec(const dp_tokenizer_spec *spec, dp_tokenizer_parts *parts) {
  static const struct {
    const char *model;
    dp_status (*read)(const dp_tokenizer_spec *spec, dp_tokenizer_parts *parts);
  } readers[] = {{"gpt2", read_byte_level}, {"llama", read_llama}, {"t5", read_unigram}, {"bert", read_bert}};
  for (size_t i = 0; spec->model && i < DP_COUNT(readers); i++)
    if (strcmp(spec->model, readers[i].model) == 0) return readers[i].read(spec, parts);
  return dp_fail(DP_UNSUPPORTED, "tokenizer model '%.64s' is not handled: gpt2, llama, t5 and bert are",
                 spec->model ? spec->model : "(none)");
}

dp_status dp_tokenizer_new(const dp_tokenizer_spec *spec, dp_tokenizer **out) {
  *out = NULL;
  if (spec->vocab_size <= 0 || !spec->tokens) return dp_fail(DP_INVALID, "the tokenizer has no vocabulary");
  if (spec->merge_count < 0 || (spec->merge_count && !spec->merges))
    return dp_fail(DP_INVALID, "the tokenizer has no merges");
  bool byte_level = spec->model && strcmp(spec->model, "gpt2") == 0;
  dp_tokenizer_parts parts = {
      .tokens = calloc((size_t)spec->vocab_size, sizeof *parts.tokens),
      .token_count = spec->vocab_size,
      .merges = calloc((size_t)spec->merge_count + 1, sizeof *parts.merges),
      .merge_count = byte_level ? spec->merge_count : 0,
      .splitter = dp_splitter_new(),
      .unknown_symbol = -1, /* GGUF's unknown token is not byte-level BPE's: a byte without a token vanishes */
      .specials = {spec->bos, spec->eos, spec->eot, spec->unknown, spec->pad, spec->add_bos, spec->add_eos},
  };
  dp_status status = parts.tokens && parts.merges && parts.splitter ? read_spec(spec, &parts) : no_memory();
  if (status.code == DP_OK) status = dp_tokenizer_build(&parts, out);
  dp_tokenizer_parts_free(&parts);
  return status;
}
