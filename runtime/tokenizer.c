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
};

enum { TOKEN_EXISTS = 1, TOKEN_SPECIAL = 2, TOKEN_END = 4, TOKEN_ADDED = 8 };

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
    size_t length = 0; /* an added token that the model knows too is a byte letter, if it looks like one */
    if (parts->is_wordpiece || (token->added && !token->in_model) || !dp_byte_letters_decode(token->text, t->bytes + at, &length)) {
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
    if (!parts->is_wordpiece && (!dp_byte_letters_decode(token->text, spare, &length) || !length)) continue;
    int32_t other;
    if (!dp_bpe_add_word(&t->bpe, i, &other))
      return dp_fail(DP_INVALID, "tokens %d and %d have the same text '%.*s'", (int)other, i,
                     (int)(token->text.length > 80 ? 80 : token->text.length), token->text.text);
  }
  for (int i = 0; i < 256; i++)
    if (parts->is_wordpiece || t->bpe.byte_ids[i] >= 0) return DP_SUCCESS;
  return dp_fail(DP_INVALID, "the vocabulary has no single-byte token: it is not a byte-level one");
}

static dp_status add_merges(dp_tokenizer *t, const dp_tokenizer_parts *parts, char *spare, size_t spare_size) {
  for (int i = 0; i < parts->merge_count; i++) {
    dp_text left = parts->merges[i].left, right = parts->merges[i].right;
    int32_t ids[3] = {-1, -1, -1};
    size_t n = 0, m = 0;
    if (left.length <= spare_size && dp_byte_letters_decode(left, spare, &n) && n)
      ids[0] = dp_bpe_find(&t->bpe, spare, n);
    if (right.length <= spare_size - n && dp_byte_letters_decode(right, spare + n, &m) && m)
      ids[1] = dp_bpe_find(&t->bpe, spare + n, m);
    if (ids[0] >= 0 && ids[1] >= 0) ids[2] = dp_bpe_find(&t->bpe, spare, n + m);
    if (ids[0] < 0 || ids[1] < 0 || ids[2] < 0)
      return dp_fail(DP_INVALID, "merge %d, '%.*s' + '%.*s': %s is not in the vocabulary", i,
                     (int)(left.length > 80 ? 80 : left.length), left.text,
                     (int)(right.length > 80 ? 80 : right.length), right.text,
                     ids[0] < 0   ? "the left one"
                     : ids[1] < 0 ? "the right one"
                                  : "their joint");
    dp_bpe_add_merge(&t->bpe, ids[0], ids[1], i, ids[2]);
  }
  return DP_SUCCESS;
}

static dp_status copy_added_text(dp_tokenizer *t, dp_text text, bool to_nfc, dp_text *out) {
  dp_str copy = {0};
  dp_status status = DP_SUCCESS;
  if (to_nfc && dp_utf8_valid_prefix(text.text, text.length) == text.length)
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
    status = copy_added_text(t, token->text, normalized && t->nfc, &added->text);
  }
  if (status.code != DP_OK) {
    free(tokens);
    return status;
  }
  return dp_added_set_init(set, tokens, kept);
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
  size_t longest = 0;
  for (int i = 0; i < t->token_count; i++)
    if (parts->tokens[i].text.length > longest) longest = parts->tokens[i].text.length;
  char *spare = malloc(2 * longest + 1); /* for the two of a merge */
  if (!spare) return no_memory();
  dp_status status = add_words(t, parts, spare);
  if (status.code == DP_OK) status = add_merges(t, parts, spare, 2 * longest);
  free(spare);
  DP_TRY(status);
  DP_TRY(add_added(t, parts, false, &t->added));
  DP_TRY(add_added(t, parts, true, &t->added_normalized));
  mark_ends(t);
  t->splitter = parts->splitter;
  parts->splitter = NULL;
  return DP_SUCCESS;
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

/* ---- from a GGUF's metadata ------------------------------------------------------------------------------------- */

static dp_status read_spec(const dp_tokenizer_spec *spec, dp_tokenizer_parts *parts) {
  dp_pre_traits traits;
  DP_TRY(dp_splitter_add_pre(parts->splitter, spec->pre ? spec->pre : "default", &traits));
  if (spec->add_space_prefix) DP_TRY(dp_splitter_add_space_prefix(parts->splitter));
  parts->nfc = traits.nfc;
  parts->ignore_merges = traits.ignore_merges;
  for (int i = 0; i < spec->vocab_size; i++) {
    if (!spec->tokens[i]) return dp_fail(DP_INVALID, "token %d has no text", i);
    int type = spec->token_types ? spec->token_types[i] : DP_TOKEN_NORMAL;
    bool special = type == DP_TOKEN_CONTROL || type == DP_TOKEN_UNKNOWN;
    bool added = special || type == DP_TOKEN_USER_DEFINED;
    parts->tokens[i] = (dp_token_part){
        .text = {spec->tokens[i], spec->token_lengths ? spec->token_lengths[i] : strlen(spec->tokens[i])},
        .in_model = type != DP_TOKEN_UNUSED && !(added && traits.ignore_merges),
        .added = added,
        .special = special,
    };
  }
  for (int i = 0; i < spec->merge_count; i++) {
    const char *merge = spec->merges[i];
    const char *space = merge && *merge ? strchr(merge + 1, ' ') : NULL;
    if (!space)
      return dp_fail(DP_INVALID, "merge %d, '%.80s', is not two tokens with a space between", i, merge ? merge : "");
    parts->merges[i] = (dp_merge_part){{merge, (size_t)(space - merge)}, {space + 1, strlen(space + 1)}};
  }
  return DP_SUCCESS;
}

dp_status dp_tokenizer_new(const dp_tokenizer_spec *spec, dp_tokenizer **out) {
  *out = NULL;
  if (!spec->model || strcmp(spec->model, "gpt2") != 0)
    return dp_fail(DP_UNSUPPORTED, "tokenizer model '%.64s': only byte-level BPE ('gpt2') is handled",
                   spec->model ? spec->model : "(none)");
  if (spec->vocab_size <= 0 || !spec->tokens) return dp_fail(DP_INVALID, "the tokenizer has no vocabulary");
  if (spec->merge_count < 0 || (spec->merge_count && !spec->merges))
    return dp_fail(DP_INVALID, "the tokenizer has no merges");
  dp_tokenizer_parts parts = {
      .tokens = calloc((size_t)spec->vocab_size, sizeof *parts.tokens),
      .token_count = spec->vocab_size,
      .merges = calloc((size_t)spec->merge_count + 1, sizeof *parts.merges),
      .merge_count = spec->merge_count,
      .splitter = dp_splitter_new(),
      .unknown_symbol = -1, /* GGUF's unknown token is not the model's: a byte without a token vanishes */
      .specials = {spec->bos, spec->eos, spec->eot, spec->unknown, spec->pad, spec->add_bos, spec->add_eos},
  };
  dp_status status = parts.tokens && parts.merges && parts.splitter ? read_spec(spec, &parts) : no_memory();
  if (status.code == DP_OK) status = dp_tokenizer_build(&parts, out);
  free(parts.tokens);
  free(parts.merges);
  dp_splitter_free(parts.splitter);
  return status;
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
} encoding;

static dp_status encode_word(void *context, const char *word, size_t n) {
  encoding *e = context;
  return dp_bpe_encode(&e->tokenizer->bpe, word, n, &e->bpe_work, e->out);
}

static dp_status encode_bert_word(void *context, const char *word, size_t n) {
  encoding *e = context;
  return dp_wordpiece_encode(&e->tokenizer->wordpiece, &e->tokenizer->bpe, word, n, &e->piece, e->out);
}

static dp_status encode_words(encoding *e, const char *text, size_t n) {
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
  if (status.code == DP_OK) status = encode_around(&e, &t->added, text, n, encode_normalized);
  if (status.code != DP_OK) out->count = count;
  dp_str_free(&repaired);
  dp_str_free(&e.form);
  dp_str_free(&e.piece);
  dp_bpe_work_free(&e.bpe_work);
  dp_split_work_free(e.split_work);
  return status;
}

/* ---- decoding --------------------------------------------------------------------------------------------------- */

dp_status dp_tokenizer_decode(const dp_tokenizer *t, const int32_t *ids, size_t n, bool show_special, dp_str *out) {
  bool first = true;
  for (size_t i = 0; i < n; i++) {
    size_t length;
    const char *text = dp_token_text(t, ids[i], &length);
    if (!text) return no_such_id(t, ids[i]);
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

dp_status dp_stream_decoder_push(dp_stream_decoder *d, int32_t id, dp_str *out) {
  size_t n;
  const char *text = dp_token_text(d->tokenizer, id, &n);
  if (!text) return no_such_id(d->tokenizer, id);
  if (!d->show_special && dp_token_is_special(d->tokenizer, id)) return DP_SUCCESS;
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
  return out->failed ? dp_fail(DP_NO_MEMORY, "no memory to decode a token") : DP_SUCCESS;
}

dp_status dp_stream_decoder_flush(dp_stream_decoder *d, dp_str *out) {
  if (d->pending_count) dp_str_addn(out, "\xEF\xBF\xBD", 3);
  d->pending_count = 0;
  return out->failed ? dp_fail(DP_NO_MEMORY, "no memory to decode a token") : DP_SUCCESS;
}
