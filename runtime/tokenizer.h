/* runtime/tokenizer.h: text into token ids and back: byte-level BPE (GPT-2, Llama 3, Qwen, SmolLM, ...), and from a
 * tokenizer.json WordPiece (BERT), Unigram (T5, XLM-R, ...) and SentencePiece's BPE (Llama 2, Mixtral, Gemma).
 *
 * The ids are those of Hugging Face's `tokenizers`, byte for byte. A tokenizer is made once, from a GGUF file's
 * metadata or from a tokenizer.json; after that it is const, and any number of threads may use it at once. */
#ifndef DIPPER_TOKENIZER_H
#define DIPPER_TOKENIZER_H

#include "base/base.h"

typedef struct dp_tokenizer dp_tokenizer;

/* Growable: zero-initialize, dp_ids_free. */
typedef struct dp_ids {
  int32_t *items;
  size_t count, capacity;
} dp_ids;
void dp_ids_free(dp_ids *ids);

/* The values of tokenizer.ggml.token_type. */
typedef enum dp_token_type {
  DP_TOKEN_NORMAL = 1,
  DP_TOKEN_UNKNOWN = 2,
  DP_TOKEN_CONTROL = 3,      /* special: matched only when asked for, hidden unless asked for */
  DP_TOKEN_USER_DEFINED = 4, /* matched in the text before anything else; shown like any other */
  DP_TOKEN_UNUSED = 5,
  DP_TOKEN_BYTE = 6,
} dp_token_type;

/* What a GGUF file says of its tokenizer (tokenizer.ggml.*); everything is copied. */
typedef struct dp_tokenizer_spec {
  const char *model; /* "gpt2" (byte-level BPE), "llama" (SentencePiece's BPE), "t5" (Unigram) or "bert" (WordPiece) */
  const char *pre;   /* how text is split into words; NULL reads as "default" */
  int vocab_size;
  const char *const *tokens;   /* [vocab_size], as the file writes them ("Ġthe") */
  const size_t *token_lengths; /* [vocab_size], or NULL: the tokens end at their NUL */
  const int32_t *token_types;  /* [vocab_size] of dp_token_type, or NULL: all normal */
  int merge_count;
  const char *const *merges;       /* [merge_count], "left right", best first */
  int bos, eos, eot, unknown, pad; /* -1: none */
  bool add_bos, add_eos;           /* told to the caller again, see dp_tokenizer_specials */
  bool add_space_prefix;
  const float *scores;     /* [vocab_size], of llama and t5 */
  const uint8_t *charsmap; /* t5: SentencePiece's character map, or NULL */
  size_t charsmap_length;
  bool remove_extra_spaces; /* t5 */
} dp_tokenizer_spec;

dp_status dp_tokenizer_new(const dp_tokenizer_spec *spec, dp_tokenizer **out);
/* Hugging Face's tokenizer.json. */
dp_status dp_tokenizer_from_json(const char *path, dp_tokenizer **out);
/* The same from its text in memory, not kept; `name` is for messages. */
dp_status dp_tokenizer_from_json_text(const char *name, const char *text, size_t length, dp_tokenizer **out);
void dp_tokenizer_free(dp_tokenizer *tokenizer);

typedef struct dp_token_specials {
  int bos, eos, eot, unknown, pad; /* -1: none */
  bool add_bos, add_eos;           /* a prompt is meant to begin or end so; encoding itself never adds them */
} dp_token_specials;

int dp_tokenizer_size(const dp_tokenizer *tokenizer); /* ids are in [0, size) */
dp_token_specials dp_tokenizer_specials(const dp_tokenizer *tokenizer);
/* The id of the token with this text (bytes, not byte letters); -1: none. */
int32_t dp_tokenizer_find(const dp_tokenizer *tokenizer, const char *text, size_t n);
/* The bytes of a token, not always whole characters, with a NUL after them; `length` may be NULL. NULL when there is no
 * such id. */
const char *dp_token_text(const dp_tokenizer *tokenizer, int32_t id, size_t *length);
bool dp_token_is_special(const dp_tokenizer *tokenizer, int32_t id);
/* Does generation stop here? eos, eot, and the control tokens that are known to end a turn ("<|im_end|>", ...). */
bool dp_tokenizer_is_end(const dp_tokenizer *tokenizer, int32_t id);
/* Adds an end; before the tokenizer is shared. */
dp_status dp_tokenizer_add_end(dp_tokenizer *tokenizer, int32_t id);

/* Appends the ids of `text`. With `parse_special`, "<|im_end|>" in the text is that token: only for text that a chat
 * template made. In malformed UTF-8 each maximal ill-formed subpart reads as U+FFFD (Python's errors="replace"). */
dp_status dp_tokenizer_encode(const dp_tokenizer *tokenizer, const char *text, size_t n, bool parse_special,
                              dp_ids *out);

/* Appends the bytes of the ids; they may be malformed UTF-8 when the model makes them so. */
dp_status dp_tokenizer_decode(const dp_tokenizer *tokenizer, const int32_t *ids, size_t n, bool show_special,
                              dp_str *out);

/* Decodes token by token, and hands out whole characters only. All it hands out, flush included, is the decoded bytes
 * with malformed UTF-8 repaired: what arrives does not depend on how it was cut. */
typedef struct dp_stream_decoder {
  const dp_tokenizer *tokenizer; /* not owned */
  bool show_special;
  int pending_count;
  char pending[4]; /* the beginning of a character */
  bool started;    /* a token has come; of blanks at the beginning, so many were left out */
  int stripped;
} dp_stream_decoder;

dp_stream_decoder dp_stream_decoder_new(const dp_tokenizer *tokenizer, bool show_special);
dp_status dp_stream_decoder_push(dp_stream_decoder *decoder, int32_t id, dp_str *out);
dp_status dp_stream_decoder_flush(dp_stream_decoder *decoder, dp_str *out);

#endif
