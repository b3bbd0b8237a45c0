/* The C interface of a model's shared library (dipper compile --emit so). Plain C, no other header of dipper's.
 *
 * A model holds one sequence of tokens: what was fed is remembered until it is truncated. A model is used by one thread at
 * a time (it runs its own workers); two models may be used in two threads at once, and have no state in common.
 * Functions that can fail return 0, or a code below; dipper_model_error then tells in a sentence what to do. Sizes are in
 * elements unless bytes are said, matrices lie row by row, text is UTF-8. NULL where an object is wanted is DIPPER_MODEL_INVALID. */
#ifndef DIPPER_MODEL_H
#define DIPPER_MODEL_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Raised when an entry changes in a way that old callers would notice; entries are only added otherwise. */
#define DIPPER_MODEL_ABI 1
int dipper_model_abi(void);

enum {
  DIPPER_MODEL_OK = 0,
  DIPPER_MODEL_INVALID = 1,     /* a wrong argument; damaged files; other weights than it was compiled for */
  DIPPER_MODEL_NOT_FOUND = 2,   /* no weights; no GPU where one must be */
  DIPPER_MODEL_IO = 3,          /* the system could not read */
  DIPPER_MODEL_UNSUPPORTED = 4, /* no code for this CPU or GPU; no tokenizer, no chat template */
  DIPPER_MODEL_NO_MEMORY = 5,
  DIPPER_MODEL_BUG = 6,         /* an error of dipper's own */
  DIPPER_MODEL_TOO_SMALL = 7,   /* the caller's array is; the size wanted was set */
};

typedef struct dipper_model dipper_model;

/* Opens the model that this library carries. weights: a file of packed weights, GGUF or safetensors; NULL: those inside,
 * LIBRARY.weights beside it, or the file that it was compiled for, beside it. threads: workers, 0: one a core. context:
 * tokens that the sequence may have, 0: what the weights say, at most 4096. *model is set in any case but for no memory:
 * after a failure it only tells the error, and is closed like another. */
int dipper_model_open(const char *weights, int32_t threads, int64_t context, dipper_model **model);
/* The same on a device: "cpu"; "cuda": the first GPU, which must have code in this library; "auto" and NULL, as above: that
 * GPU where it can be used, else the CPU. */
int dipper_model_open_on(const char *device, const char *weights, int32_t threads, int64_t context, dipper_model **model);
/* What runs its steps: "cpu", or a GPU's name, its compute capability and whose code. "" for a model that did not open. */
const char *dipper_model_device(const dipper_model *model);
void dipper_model_close(dipper_model *model); /* NULL is fine */
/* What went wrong in the last call that failed, until the next call; "" when none did. The model's. */
const char *dipper_model_error(const dipper_model *model);

typedef struct dipper_model_sizes {
  int64_t vocabulary;  /* token ids are in [0, vocabulary) */
  int64_t columns;     /* of a row of logits: the vocabulary, unless the graph computes something else */
  int64_t context;     /* tokens that the sequence may have */
  int64_t step_tokens; /* that one step of the machine takes; longer calls are cut */
  int32_t threads, has_tokenizer, has_chat_template;
} dipper_model_sizes;
int dipper_model_get_sizes(const dipper_model *model, dipper_model_sizes *sizes);

/* Feeds ids[count], 1 <= count <= context - length. logits: f32 [columns], unnormalized, of the token after the last one;
 * NULL: not wanted. The bits do not depend on how a sequence is cut into calls, on threads, or on which CPU with fused
 * multiply-add runs them. */
int dipper_model_feed(dipper_model *model, const int32_t *ids, size_t count, float *logits);
/* The same with all rows: f32 [count][columns]. */
int dipper_model_feed_all(dipper_model *model, const int32_t *ids, size_t count, float *logits);
int64_t dipper_model_length(const dipper_model *model);          /* tokens fed so far */
int dipper_model_truncate(dipper_model *model, int64_t length);  /* forgets the tokens from `length` on */

/* text[length] bytes to ids[*count] of at most `capacity`. special: "<|im_end|>" in the text is that token. */
int dipper_model_tokenize(dipper_model *model, const char *text, size_t length, int special, int32_t *ids, size_t capacity,
                          size_t *count);
/* ids[count] to text of *length bytes, of at most `capacity`; no NUL is added. */
int dipper_model_detokenize(dipper_model *model, const int32_t *ids, size_t count, char *text, size_t capacity,
                            size_t *length);
/* The text that the chat template makes of messages[count], where the assistant's answer begins; to be tokenized with
 * `special`. roles: "system", "user", "assistant". */
int dipper_model_render_chat(dipper_model *model, const char *const *roles, const char *const *messages, size_t count,
                             char *text, size_t capacity, size_t *length);

/* How tokens are chosen: all 0: the likeliest. */
typedef struct dipper_model_sampling {
  float temperature; /* 0: the likeliest */
  int32_t top_k;     /* from so many likeliest; 0: all */
  float top_p;       /* from those that together reach it; 0: all */
  float min_p;       /* from those at least so many times as likely as the likeliest; 0: all */
  uint64_t seed;
} dipper_model_sampling;
/* Feeds prompt[count], then chooses and feeds token by token, at most max_tokens (< 0: until the model ends or the context
 * does). on_text: whole characters as they come, not NUL-terminated; returns 0 to stop, else goes on; may be NULL. *made:
 * tokens chosen; may be NULL. sampling: NULL: the likeliest. */
int dipper_model_generate(dipper_model *model, const int32_t *prompt, size_t count, int64_t max_tokens,
                          const dipper_model_sampling *sampling, int (*on_text)(void *user, const char *text, size_t length),
                          void *user, int64_t *made);

#ifdef __cplusplus
}
#endif

#endif
