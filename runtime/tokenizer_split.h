/* runtime/tokenizer_split.h: text into the words that BPE works on: a pipeline of stages, each of which splits every
 * piece that the one before left. Built once, then const: threads share it, each with its own dp_split_work. */
#ifndef DIPPER_TOKENIZER_SPLIT_H
#define DIPPER_TOKENIZER_SPLIT_H

#include "base/base.h"

typedef struct dp_splitter dp_splitter;

/* What becomes of a piece that matches, and of one that does not; the names are those of tokenizer.json. */
typedef enum dp_split_behavior {
  DP_SPLIT_ISOLATED,
  DP_SPLIT_REMOVED,
  DP_SPLIT_MERGED_WITH_PREVIOUS,
  DP_SPLIT_MERGED_WITH_NEXT,
  DP_SPLIT_CONTIGUOUS,
} dp_split_behavior;

dp_splitter *dp_splitter_new(void); /* NULL when memory ran out; without stages a text is one word */
void dp_splitter_free(dp_splitter *splitter);
/* A regular expression in Oniguruma's syntax, as tokenizer.json has them. */
dp_status dp_splitter_add_regex(dp_splitter *splitter, const char *pattern, size_t n, dp_split_behavior behavior,
                                bool invert);
dp_status dp_splitter_add_literal(dp_splitter *splitter, const char *text, size_t n, dp_split_behavior behavior,
                                  bool invert);
/* A piece that does not begin with a space gets one. */
dp_status dp_splitter_add_space_prefix(dp_splitter *splitter);

/* The patterns that tokenizer.json names instead of writing them out. */
extern const char dp_pattern_gpt2[];
extern const char dp_pattern_digit[];
extern const char dp_pattern_digits[];

/* The stages that a GGUF's tokenizer.ggml.pre stands for, and what else goes with the name. */
typedef struct dp_pre_traits {
  bool nfc, ignore_merges;
} dp_pre_traits;
dp_status dp_splitter_add_pre(dp_splitter *splitter, const char *pre, dp_pre_traits *traits);

/* A pcre2_code that matches one \w, as Rust's regular expressions have it, where it is tried. */
dp_status dp_compile_word_class(void **out);

/* One thread's match data; zero-initialize, dp_split_work_free. */
typedef struct dp_split_work dp_split_work;
typedef dp_status dp_word_fn(void *context, const char *word, size_t n);
/* Calls `word` for each word in order. `text` is well-formed UTF-8; *work is made when it is NULL. */
dp_status dp_splitter_run(const dp_splitter *splitter, dp_split_work **work, const char *text, size_t n,
                          dp_word_fn *word, void *context);
void dp_split_work_free(dp_split_work *work);

#endif
