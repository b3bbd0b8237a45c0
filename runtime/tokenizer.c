/* runtime/tokenizer.c: text -> repaired UTF-8 -> around added tokens -> NFC -> words -> ids; and ids back into bytes.
 *
 * Token texts live in one block of bytes. Model tokens come in GPT-2's byte letters (each byte a printable character)
 * and are stored as the bytes they stand for, so that words need no translation. */
#include "runtime/tokenizer.h"

#include "runtime/bpe.h"
#include "runtime/tokenizer_parts.h"
#include "runtime/unicode.h"

#include <stdlib.h>
#include <string.h>

struct dp_tokenizer {
  char *bytes;       /* of all tokens, each with a NUL at its end */
  uint32_t *offsets; /* [token_count + 1] */
  uint8_t *flags;    /* [token_count] of TOKEN_* */
  int token_count;
  dp_bpe bpe;
  dp_splitter *splitter;
  dp_added_set added;            /* found in the text as it is */
  dp_added_set added_normalized; /* found in the text after NFC */
  char **added_texts;            /* what the two look for; owned */
  int added_text_count;
  bool nfc;
  dp_token_specials specials;
  bool is_wordpiece, cleanup;
  dp_bert_rules bert;
  dp_wordpiece wordpiece;
  dp_piece_rules pieces;
  dp_normalizer *normalizer;
  dp_unigram unigram;
  double *scores;
};

enum { TOKEN_EXISTS = 1, TOKEN_SPECIAL = 2, TOKEN_END = 4, TOKEN_ADDED = 8, TOKEN_BYTE = 16 };

/* ---- byte letters ----------------------------------------------------------------------------------------------- */

/* GPT-2 writes the bytes that are printable in Latin-1 as themselves, and the other 68 as U+0100.. in their order. */
static bool is_own_letter(uint32_t byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || (byte >= 0xAE && byte <= 0xFF);
}

bool dp_byte_letters_decode(dp_text text, char *out, size_t *length) {
  size_t n = 0;
  for (size_t at = 0; at < text.length;) {
    uint32_t c = 0;
    int step = dp_utf8_step(text.text + at, text.length - at, &c);
    if (step <= 0) return false;
    at += (size_t)step;
    if (c < 0x100) {
      if (!is_own_letter(c)) return false;
    } else {
      c -= 0x100;
      if (c <= 0x20)
        ; /* the bytes 0x00..0x20 */
      else if (c <= 0x42)
        c += 0x7F - 0x21; /* 0x7F..0xA0 */
      else if (c == 0x43)
        c = 0xAD;
      else
        return false;
    }
    out[n++] = (char)c;
  }
  *length = n;
  return true;
}

/* ---- building --------------------------------------------------------------------------------------------------- */

static dp_status no_memory(void) { return dp_fail(DP_NO_MEMORY, "no memory for a tokenizer"); }

/* Not byte letters. */
static bool has_plain_texts(const dp_tokenizer_parts *parts) { return parts->is_wordpiece || parts->pieces.present; }

/* "<0x0A>": 10; -1: something else. */
static int byte_of(dp_text text) {
  static const char digits[] = "0123456789ABCDEF";
  if (text.length != 6 || memcmp(text.text, "<0x", 3) != 0 || text.text[5] != '>') return -1;
  const char *high = memchr(digits, text.text[3], 16), *low = memchr(digits, text.text[4], 16);
  return high && low ? (int)((high - digits) * 16 + (low - digits)) : -1;
}

static dp_status store_texts(dp_tokenizer *t, const dp_tokenizer_parts *parts) {
  size_t total = 0;
  for (int i = 0; i < parts->token_count; i++) {
    if (parts->tokens[i].text.length >= UINT32_MAX - total)
      return dp_fail(DP_INVALID, "the texts of the vocabulary are longer than 4 GB");
    total += parts->tokens[i].text.length + 1;
  }
  t->token_count = parts->token_count;
  t->bytes = malloc(total + 1);
  t->offsets = malloc(((size_t)t->token_count + 1) * sizeof *t->offsets);
  t->flags = calloc((size_t)t->token_count + 1, 1);
  if (!t->bytes || !t->offsets || !t->flags) return no_memory();
  size_t at = 0;
  for (int i = 0; i < t->token_count; i++) {
    const dp_token_part *token = &parts->tokens[i];
    t->offsets[i] = (uint32_t)at;
    if (!token->text.text) {
      t->bytes[at++] = '\0';
      continue;
    }
    int byte = parts->pieces.shows_bytes ? byte_of(token->text) : -1;
    if (byte >= 0) { /* shown as what it stands for */
      t->bytes[at++] = (char)byte;
      t->bytes[at++] = '\0';
      t->flags[i] = TOKEN_EXISTS | TOKEN_BYTE;
      continue;
    }
    size_t length = 0; /* an added token that the model knows too is a byte letter, if it looks like one */
    if (has_plain_texts(parts) || (token->added && !token->in_model) ||
        !dp_byte_letters_decode(token->text, t->bytes + at, &length)) {
      length = token->text.length;
      memcpy(t->bytes + at, token->text.text, length);
    }
    at += length;
    t->bytes[at++] = '\0';
    t->flags[i] = (uint8_t)(TOKEN_EXISTS | (token->special ? TOKEN_SPECIAL : 0) | (token->added ? TOKEN_ADDED : 0));
  }
  t->offsets[t->token_count] = (uint32_t)at;
  return DP_SUCCESS;
}

/* `spare` has room for the longest token. Tokens that are no byte letters (an added one with a space, say) are never
 * made by merging. */
static dp_status add_words(dp_tokenizer *t, const dp_tokenizer_parts *parts, char *spare) {
  for (int i = 0; i < t->token_count; i++) {
    const dp_token_part *token = &parts->tokens[i];
    size_t length;
    if (!token->text.text || !token->in_model || !token->text.length) continue;
    if (parts->pieces.byte_fallback && byte_of(token->text) >= 0) t->bpe.byte_tokens[byte_of(token->text)] = i;
    if (t->flags[i] & TOKEN_BYTE) continue;
    if (!has_plain_texts(parts) && (!dp_byte_letters_decode(token->text, spare, &length) || !length)) continue;
    int32_t other;
    if (!dp_bpe_add_word(&t->bpe, i, &other))
      return dp_fail(DP_INVALID, "tokens %d and %d have the same text '%.*s'", (int)other, i,
                     (int)(token->text.length > 80 ? 80 : token->text.length), token->text.text);
  }
  for (int i = 0; i < 256; i++)
    if (has_plain_texts(parts) || t->bpe.byte_ids[i] >= 0) return DP_SUCCESS;
  return dp_fail(DP_INVALID, "the vocabulary has no single-byte token: it is not a byte-level one");
}

/* A token's text in the vocabulary into the bytes of words. */
static bool model_text(const dp_tokenizer_parts *parts, dp_text text, char *out, size_t *length) {
  if (!has_plain_texts(parts)) return dp_byte_letters_decode(text, out, length);
  memcpy(out, text.text, text.length);
  *length = text.length;
  return true;
}

static dp_status add_merges(dp_tokenizer *t, const dp_tokenizer_parts *parts, char *spare, size_t spare_size) {
  for (int i = 0; i < parts->merge_count; i++) {
    dp_text left = parts->merges[i].left, right = parts->merges[i].right;
    int32_t ids[3] = {-1, -1, -1};
    size_t n = 0, m = 0;
    if (left.length <= spare_size && model_text(parts, left, spare, &n) && n) ids[0] = dp_bpe_find(&t->bpe, spare, n);
    if (right.length <= spare_size - n && model_text(parts, right, spare + n, &m) && m)
      ids[1] = dp_bpe_find(&t->bpe, spare + n, m);
    if (ids[0] >= 0 && ids[1] >= 0) ids[2] = dp_bpe_find(&t->bpe, spare, n + m);
    if (ids[0] < 0 || ids[1] < 0 || ids[2] < 0)
      return dp_fail(DP_INVALID, "merge %d, '%.*s' + '%.*s': %s is not in the vocabulary", i,
                     (int)(left.length > 80 ? 80 : left.length), left.text,
                     (int)(right.length > 80 ? 80 : right.length), right.text,
                     ids[0] < 0   ? "the left one"
                     : ids[1] < 0 ? "the right one"
                                  : "their joint");
    dp_bpe_add_merge(&t->bpe, ids[0], ids[1], parts->merges[i].rank, ids[2]);
  }
  return DP_SUCCESS;
}

static dp_status copy_added_text(dp_tokenizer *t, dp_text text, bool normalized, dp_text *out) {
  dp_str copy = {0};
  dp_status status = DP_SUCCESS;
  if (normalized && t->normalizer) {
    dp_str buffers[2] = {0};
    const char *form;
    size_t length;
    bool moved;
    status = dp_normalize(t->normalizer, text.text, text.length, buffers, &form, &length, &moved);
    if (status.code == DP_OK) dp_str_addn(&copy, form, length);
    dp_str_free(&buffers[0]);
    dp_str_free(&buffers[1]);
  } else if (normalized && t->nfc && dp_utf8_valid_prefix(text.text, text.length) == text.length)
    status = dp_nfc(text.text, text.length, &copy);
  else
    dp_str_addn(&copy, text.text, text.length);
  if (status.code == DP_OK && copy.failed) status = no_memory();
  if (status.code != DP_OK) {
    dp_str_free(&copy);
    return status;
  }
  *out = (dp_text){copy.text, copy.length};
  t->added_texts[t->added_text_count++] = copy.text;
  return DP_SUCCESS;
}

static dp_status add_added(dp_tokenizer *t, const dp_tokenizer_parts *parts, bool normalized, dp_added_set *set) {
  size_t count = 0;
  for (int i = 0; i < t->token_count; i++) count += parts->tokens[i].added;
  if (!t->added_texts) t->added_texts = calloc(count + 1, sizeof *t->added_texts);
  dp_added_token *tokens = malloc((count + 1) * sizeof *tokens);
  int kept = 0;
  dp_status status = t->added_texts && tokens ? DP_SUCCESS : no_memory();
  for (int i = 0; status.code == DP_OK && i < t->token_count; i++) {
    const dp_token_part *token = &parts->tokens[i];
    if (!token->added || !token->text.length || token->normalized != normalized) continue;
    dp_added_token *added = &tokens[kept++];
    *added = (dp_added_token){.id = i,
                              .special = token->special,
                              .lstrip = token->lstrip,
                              .rstrip = token->rstrip,
                              .single_word = token->single_word};
    status = copy_added_text(t, token->text, normalized, &added->text);
  }
  if (status.code != DP_OK) {
    free(tokens);
    return status;
  }
  return dp_added_set_init(set, tokens, kept);
}

static dp_status add_unigram(dp_tokenizer *t, dp_tokenizer_parts *parts) {
  size_t count = (size_t)t->token_count + 1;
  const char **texts = calloc(count, sizeof *texts);
  size_t *lengths = calloc(count, sizeof *lengths);
  for (int i = 0; texts && lengths && i < t->token_count; i++) {
    if (!parts->tokens[i].in_model) continue;
    texts[i] = parts->tokens[i].text.text;
    lengths[i] = parts->tokens[i].text.length;
  }
  t->scores = parts->scores;
  parts->scores = NULL;
  dp_status status = DP_SUCCESS;
  if (!texts || !lengths) status = no_memory();
  else status = dp_unigram_init(&t->unigram, texts, lengths, t->scores, t->token_count);
  t->unigram.unknown = parts->unknown_symbol;
  t->unigram.bytes = parts->pieces.byte_fallback ? t->bpe.byte_tokens : NULL;
  free(texts);
  free(lengths);
  return status;
}

/* Models stop at more than the one token that the file calls eos: these end a turn or a text wherever they exist. */
static void mark_ends(dp_tokenizer *t) {
  static const char *const ends[] = {"<|endoftext|>",
                                     "<|im_end|>",
                                     "<|eot_id|>",
                                     "<|eom_id|>",
                                     "<|end_of_text|>",
                                     "<|end|>",
                                     "<|endofturn|>",
                                     "<|eot|>",
                                     "<|return|>",
                                     "<end_of_turn>",
                                     "<|end_of_turn|>",
                                     "<|END_OF_TURN_TOKEN|>",
                                     "</s>",
                                     "<｜end▁of▁sentence｜>"};
  for (int i = 0; i < t->token_count; i++) {
    if (!(t->flags[i] & TOKEN_SPECIAL)) continue;
    size_t n = dp_bpe_length(&t->bpe, i);
    for (size_t k = 0; k < DP_COUNT(ends); k++)
      if (n == strlen(ends[k]) && memcmp(t->bytes + t->offsets[i], ends[k], n) == 0) t->flags[i] |= TOKEN_END;
  }
  if (t->specials.eos >= 0) t->flags[t->specials.eos] |= TOKEN_END;
  if (t->specials.eot >= 0) t->flags[t->specials.eot] |= TOKEN_END;
}

static dp_status build(dp_tokenizer *t, dp_tokenizer_parts *parts) {
  t->nfc = parts->nfc;
  t->is_wordpiece = parts->is_wordpiece;
  t->cleanup = parts->cleanup;
  t->bert = parts->bert;
  t->wordpiece = parts->wordpiece;
  t->pieces = parts->pieces;
  t->normalizer = parts->normalizer;
  parts->normalizer = NULL;
  t->specials = parts->specials;
  const int *ids[] = {&t->specials.bos, &t->specials.eos, &t->specials.eot, &t->specials.unknown, &t->specials.pad};
  const char *const names[] = {"bos", "eos", "eot", "unknown", "padding"};
  for (size_t i = 0; i < DP_COUNT(ids); i++)
    if (*ids[i] < -1 || *ids[i] >= parts->token_count)
      return dp_fail(DP_INVALID, "the %s token is %d, but the vocabulary has %d tokens", names[i], *ids[i],
                     parts->token_count);
  DP_TRY(store_texts(t, parts));
  DP_TRY(dp_bpe_init(&t->bpe, t->bytes, t->offsets, t->token_count, (size_t)parts->merge_count));
  t->bpe.unknown = parts->unknown_symbol;
  t->bpe.fuse_unknown = parts->fuse_unknown;
  t->bpe.ignore_merges = parts->ignore_merges;
  t->bpe.by_character = parts->pieces.present;
  size_t longest = 0;
  for (int i = 0; i < t->token_count; i++)
    if (parts->tokens[i].text.length > longest) longest = parts->tokens[i].text.length;
  char *spare = malloc(2 * longest + 1); /* for the two of a merge */
  if (!spare) return no_memory();
  dp_status status = add_words(t, parts, spare);
  if (status.code == DP_OK) status = add_merges(t, parts, spare, 2 * longest);
  free(spare);
  DP_TRY(status);
  if (parts->pieces.is_unigram) DP_TRY(add_unigram(t, parts));
  DP_TRY(add_added(t, parts, false, &t->added));
  DP_TRY(add_added(t, parts, true, &t->added_normalized));
  mark_ends(t);
  t->splitter = parts->splitter;
  parts->splitter = NULL;
  return DP_SUCCESS;
}

void dp_tokenizer_parts_free(dp_tokenizer_parts *parts) {
  free(parts->tokens);
  free(parts->merges);
  free(parts->scores);
  free(parts->texts);
  dp_splitter_free(parts->splitter);
  dp_normalizer_free(parts->normalizer);
}

dp_status dp_tokenizer_build(dp_tokenizer_parts *parts, dp_tokenizer **out) {
  dp_tokenizer *t = calloc(1, sizeof *t);
  if (!t) return no_memory();
  dp_status status = build(t, parts);
  if (status.code != DP_OK)
    dp_tokenizer_free(t);
  else
    *out = t;
  return status;
}

void dp_tokenizer_free(dp_tokenizer *t) {
  if (!t) return;
  dp_bpe_free(&t->bpe);
  dp_unigram_free(&t->unigram);
  dp_normalizer_free(t->normalizer);
  free(t->scores);
  dp_splitter_free(t->splitter);
  dp_added_set_free(&t->added);
  dp_added_set_free(&t->added_normalized);
  for (int i = 0; i < t->added_text_count; i++) free(t->added_texts[i]);
  free(t->added_texts);
  free(t->bytes);
  free(t->offsets);
  free(t->flags);
  free(t);
}

/* ---- questions -------------------------------------------------------------------------------------------------- */

static bool exists(const dp_tokenizer *t, int32_t id) {
  return id >= 0 && id < t->token_count && (t->flags[id] & TOKEN_EXISTS);
}

static dp_status no_such_id(const dp_tokenizer *t, int32_t id) {
  return dp_fail(DP_INVALID, "there is no token %d; the vocabulary has %d", (int)id, t->token_count);
}

int dp_tokenizer_size(const dp_tokenizer *t) { return t->token_count; }

dp_token_specials dp_tokenizer_specials(const dp_tokenizer *t) { return t->specials; }

int32_t dp_tokenizer_find(const dp_tokenizer *t, const char *text, size_t n) {
  int32_t id = n ? dp_bpe_find(&t->bpe, text, n) : -1;
  for (int i = 0; id < 0 && i < t->token_count; i++)
    if ((t->flags[i] & TOKEN_ADDED) && dp_bpe_length(&t->bpe, i) == n && memcmp(t->bytes + t->offsets[i], text, n) == 0)
      id = i;
  return id;
}

const char *dp_token_text(const dp_tokenizer *t, int32_t id, size_t *length) {
  if (length) *length = 0;
  if (!exists(t, id)) return NULL;
  if (length) *length = dp_bpe_length(&t->bpe, id);
  return t->bytes + t->offsets[id];
}

bool dp_token_is_special(const dp_tokenizer *t, int32_t id) { return exists(t, id) && (t->flags[id] & TOKEN_SPECIAL); }

bool dp_tokenizer_is_end(const dp_tokenizer *t, int32_t id) {
  return id >= 0 && id < t->token_count && (t->flags[id] & TOKEN_END);
}

dp_status dp_tokenizer_add_end(dp_tokenizer *t, int32_t id) {
  if (id < 0 || id >= t->token_count) return no_such_id(t, id);
  t->flags[id] |= TOKEN_END;
  return DP_SUCCESS;
}

/* ---- encoding --------------------------------------------------------------------------------------------------- */

typedef struct encoding {
  const dp_tokenizer *tokenizer;
  bool parse_special;
  dp_ids *out;
  dp_bpe_work bpe_work;
  dp_split_work *split_work;
  dp_str form; /* a piece in form C, or as BERT normalizes it */
  dp_str piece;
  dp_str steps[2];
  const char *text;    /* the whole, as it was given */
  const char *stretch; /* what is between added tokens, normalized, where that is the text's beginning; else NULL */
} encoding;

static dp_status encode_word(void *context, const char *word, size_t n) {
  encoding *e = context;
  return dp_bpe_encode(&e->tokenizer->bpe, word, n, &e->bpe_work, e->out);
}

static dp_status encode_bert_word(void *context, const char *word, size_t n) {
  encoding *e = context;
  return dp_wordpiece_encode(&e->tokenizer->wordpiece, &e->tokenizer->bpe, word, n, &e->piece, e->out);
}

static dp_status encode_piece(encoding *e, const char *word, size_t n) {
  if (e->tokenizer->pieces.is_unigram) return dp_unigram_encode(&e->tokenizer->unigram, word, n, &e->bpe_work, e->out);
  return dp_bpe_encode(&e->tokenizer->bpe, word, n, &e->bpe_work, e->out);
}

/* Blanks to marks, a mark in front, and a word from each mark on. */
static dp_status encode_marked(void *context, const char *text, size_t n) {
  encoding *e = context;
  const dp_piece_rules *rules = &e->tokenizer->pieces;
  if (!rules->metaspace) return encode_piece(e, text, n);
  size_t mark = strlen(rules->mark), at = 0;
  bool wanted = rules->prepend == DP_MARK_ALWAYS || (rules->prepend == DP_MARK_FIRST && text == e->stretch);
  bool begins = n > 0 && (*text == ' ' || (n >= mark && memcmp(text, rules->mark, mark) == 0));
  dp_str_clear(&e->piece);
  if (wanted && !begins) dp_str_addn(&e->piece, rules->mark, mark);
  for (size_t i = 0; i < n;) {
    const char *blank = memchr(text + i, ' ', n - i);
    size_t end = blank ? (size_t)(blank - text) : n;
    dp_str_addn(&e->piece, text + i, end - i);
    if (blank) dp_str_addn(&e->piece, rules->mark, mark);
    i = end + (blank != NULL);
  }
  if (e->piece.failed) return no_memory();
  const char *marked = e->piece.text;
  size_t length = e->piece.length;
  if (!rules->split) return encode_piece(e, marked, length);
  while (at < length) {
    const char *next = memmem(marked + at + 1, length - at - 1, rules->mark, mark);
    size_t end = next ? (size_t)(next - marked) : length;
    DP_TRY(encode_piece(e, marked + at, end - at));
    at = end;
  }
  return DP_SUCCESS;
}

static dp_status encode_words(encoding *e, const char *text, size_t n) {
  if (e->tokenizer->pieces.present)
    return dp_splitter_run(e->tokenizer->splitter, &e->split_work, text, n, encode_marked, e);
  if (e->tokenizer->is_wordpiece) return dp_bert_split(text, n, encode_bert_word, e);
  return dp_splitter_run(e->tokenizer->splitter, &e->split_work, text, n, encode_word, e);
}

typedef dp_status encode_fn(encoding *e, const char *text, size_t n);

/* The added tokens of `set`; what is between them goes to `rest`. */
static dp_status encode_around(encoding *e, const dp_added_set *set, const char *text, size_t n, encode_fn *rest) {
  size_t at = 0, done = 0, begin, end;
  const dp_added_token *token;
  while ((token = dp_added_set_next(set, text, n, e->parse_special, done, &at, &begin, &end))) {
    if (done < begin) DP_TRY(rest(e, text + done, begin - done));
    DP_TRY(dp_ids_reserve(e->out, 1));
    e->out->items[e->out->count++] = token->id;
    done = end;
  }
  return done < n ? rest(e, text + done, n - done) : DP_SUCCESS;
}

static dp_status encode_normalized(encoding *e, const char *text, size_t n) {
  bool first = text == e->text, moved = false;
  if (e->tokenizer->normalizer)
    DP_TRY(dp_normalize(e->tokenizer->normalizer, text, n, e->steps, &text, &n, &moved));
  e->stretch = first && !moved ? text : NULL;
  if (n == 0) return DP_SUCCESS;
  if (e->tokenizer->nfc && !dp_nfc_is_plain(text, n)) {
    dp_str_clear(&e->form);
    DP_TRY(dp_nfc(text, n, &e->form));
    text = e->form.text;
    n = e->form.length;
  }
  if (e->tokenizer->bert.present) {
    dp_str_clear(&e->form);
    DP_TRY(dp_bert_normalize(&e->tokenizer->bert, text, n, &e->form));
    text = e->form.text;
    n = e->form.length;
    if (!n) return DP_SUCCESS;
  }
  return encode_around(e, &e->tokenizer->added_normalized, text, n, encode_words);
}

dp_status dp_tokenizer_encode(const dp_tokenizer *t, const char *text, size_t n, bool parse_special, dp_ids *out) {
  if (n == 0) return DP_SUCCESS;
  size_t count = out->count;
  encoding e = {.tokenizer = t, .parse_special = parse_special, .out = out};
  dp_str repaired = {0};
  dp_status status = DP_SUCCESS;
  if (dp_utf8_valid_prefix(text, n) < n) {
    dp_utf8_repair(text, n, &repaired);
    if (repaired.failed) status = dp_fail(DP_NO_MEMORY, "no memory to repair a text of %zu bytes", n);
    text = repaired.text;
    n = repaired.length;
  }
  e.text = text;
  if (status.code == DP_OK) status = encode_around(&e, &t->added, text, n, encode_normalized);
  if (status.code != DP_OK) out->count = count;
  dp_str_free(&repaired);
  dp_str_free(&e.form);
  dp_str_free(&e.piece);
  dp_str_free(&e.steps[0]);
  dp_str_free(&e.steps[1]);
  dp_bpe_work_free(&e.bpe_work);
  dp_split_work_free(e.split_work);
  return status;
}

/* ---- decoding --------------------------------------------------------------------------------------------------- */

/* Of a token's text: marks as blanks, those of the first token of a text left out where the file says so. */
static void show_piece(const dp_piece_rules *rules, const char *text, size_t n, bool first, dp_str *out) {
  size_t mark = strlen(rules->shown_from);
  while (mark) {
    const char *found = memmem(text, n, rules->shown_from, mark);
    if (!found) break;
    dp_str_addn(out, text, (size_t)(found - text));
    if (!first || !rules->drop_first_marks) dp_str_addc(out, ' ');
    n -= (size_t)(found - text) + mark;
    text = found + mark;
  }
  dp_str_addn(out, text, n);
}

/* A run of byte tokens: the text they are, or U+FFFD for each when they are none. */
static void show_bytes(const char *bytes, size_t n, dp_str *out) {
  if (dp_utf8_valid_prefix(bytes, n) == n) {
    dp_str_addn(out, bytes, n);
    return;
  }
  for (size_t i = 0; i < n; i++) dp_str_addn(out, "\xEF\xBF\xBD", 3);
}

static dp_status decode_pieces(const dp_tokenizer *t, const int32_t *ids, size_t n, bool show_special, dp_str *out) {
  dp_str bytes = {0}, whole = {0};
  bool first = true;
  for (size_t i = 0; i < n; i++) {
    size_t length;
    const char *text = dp_token_text(t, ids[i], &length);
    if (!show_special && (t->flags[ids[i]] & TOKEN_SPECIAL)) continue;
    if (t->flags[ids[i]] & TOKEN_BYTE) {
      dp_str_addn(&bytes, text, length);
    } else {
      show_bytes(bytes.text ? bytes.text : "", bytes.length, &whole);
      dp_str_clear(&bytes);
      show_piece(&t->pieces, text, length, first, &whole);
    }
    first = false;
  }
  show_bytes(bytes.text ? bytes.text : "", bytes.length, &whole);
  size_t skip = 0;
  while (skip < (size_t)t->pieces.strip_left && skip < whole.length && whole.text[skip] == ' ') skip++;
  if (whole.length > skip) dp_str_addn(out, whole.text + skip, whole.length - skip);
  bool failed = whole.failed || bytes.failed || out->failed;
  dp_str_free(&bytes);
  dp_str_free(&whole);
  return failed ? dp_fail(DP_NO_MEMORY, "no memory to decode %zu tokens", n) : DP_SUCCESS;
}

dp_status dp_tokenizer_decode(const dp_tokenizer *t, const int32_t *ids, size_t n, bool show_special, dp_str *out) {
  bool first = true;
  for (size_t i = 0; i < n; i++)
    if (!exists(t, ids[i])) return no_such_id(t, ids[i]);
  if (t->pieces.present) return decode_pieces(t, ids, n, show_special, out);
  for (size_t i = 0; i < n; i++) {
    size_t length;
    const char *text = dp_token_text(t, ids[i], &length);
    if (!show_special && (t->flags[ids[i]] & TOKEN_SPECIAL)) continue;
    if (t->is_wordpiece) dp_wordpiece_show(&t->wordpiece, text, length, first, t->cleanup, out);
    else dp_str_addn(out, text, length);
    first = false;
  }
  return out->failed ? dp_fail(DP_NO_MEMORY, "no memory to decode %zu tokens", n) : DP_SUCCESS;
}

dp_stream_decoder dp_stream_decoder_new(const dp_tokenizer *tokenizer, bool show_special) {
  return (dp_stream_decoder){.tokenizer = tokenizer, .show_special = show_special};
}

static void push_bytes(dp_stream_decoder *d, const char *text, size_t n, dp_str *out);

/* The blanks that a whole text would lose at its beginning. */
static void push_piece(dp_stream_decoder *d, const char *text, size_t n, dp_str *out) {
  const dp_piece_rules *rules = &d->tokenizer->pieces;
  dp_str shown = {0};
  show_piece(rules, text, n, !d->started, &shown);
  size_t skip = 0;
  while (d->stripped < rules->strip_left && skip < shown.length && shown.text[skip] == ' ') skip++, d->stripped++;
  if (shown.length > skip) d->stripped = rules->strip_left;
  d->started = true;
  if (shown.length > skip) push_bytes(d, shown.text + skip, shown.length - skip, out);
  out->failed = out->failed || shown.failed;
  dp_str_free(&shown);
}

dp_status dp_stream_decoder_push(dp_stream_decoder *d, int32_t id, dp_str *out) {
  size_t n;
  const char *text = dp_token_text(d->tokenizer, id, &n);
  if (!text) return no_such_id(d->tokenizer, id);
  if (!d->show_special && dp_token_is_special(d->tokenizer, id)) return DP_SUCCESS;
  if (d->tokenizer->pieces.present) push_piece(d, text, n, out);
  else push_bytes(d, text, n, out);
  return out->failed ? dp_fail(DP_NO_MEMORY, "no memory to decode a token") : DP_SUCCESS;
}

static void push_bytes(dp_stream_decoder *d, const char *text, size_t n, dp_str *out) {
  /* Byte by byte while a character is open, then the rest at a stroke. */
  while (d->pending_count && n) {
    d->pending[d->pending_count] = *text;
    uint32_t c;
    int step = dp_utf8_step(d->pending, (size_t)d->pending_count + 1, &c);
    if (step < 0) { /* the byte does not continue it: it begins anew */
      dp_str_addn(out, "\xEF\xBF\xBD", 3);
      d->pending_count = 0;
      break;
    }
    d->pending_count++;
    text++;
    n--;
    if (step == 0) continue;
    dp_str_addn(out, d->pending, (size_t)step);
    d->pending_count = 0;
  }
  size_t tail = n < 3 ? n : 3; /* where the last character begins, if it is not whole */
  for (; tail > 0; tail--) {
    uint32_t c;
    if (((uint8_t)text[n - tail] & 0xC0) == 0xC0 && dp_utf8_step(text + n - tail, tail, &c) == 0) break;
  }
  if (d->pending_count == 0) {
    dp_utf8_repair(text, n - tail, out);
    memcpy(d->pending, text + n - tail, tail);
    d->pending_count = (int)tail;
  }
}

dp_status dp_stream_decoder_flush(dp_stream_decoder *d, dp_str *out) {
  if (d->pending_count) dp_str_addn(out, "\xEF\xBF\xBD", 3);
  d->pending_count = 0;
  return out->failed ? dp_fail(DP_NO_MEMORY, "no memory to decode a token") : DP_SUCCESS;
}
