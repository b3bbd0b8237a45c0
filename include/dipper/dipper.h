/* dipper/dipper.h: dipper as a library: open a model written in the language, with its weights, and run it.
 *
 * Objects are opaque. There is no global state: two models may be used in two threads at once. A model and its sessions
 * are used by one thread at a time (the model's own worker threads aside). Every function that can fail returns a
 * dp_status; out parameters are set only on success. Strings are UTF-8 and NUL-terminated unless a length is given. */
#ifndef DIPPER_H
#define DIPPER_H

#include "dipper/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct dp_model dp_model;
typedef struct dp_session dp_session;

/* Text or ids that the caller frees with dp_text_free / dp_tokens_free. */
typedef struct dp_text {
  char *text; /* NUL-terminated */
  size_t length;
} dp_text;
void dp_text_free(dp_text *text);

typedef struct dp_tokens {
  int32_t *ids;
  size_t count;
} dp_tokens;
void dp_tokens_free(dp_tokens *tokens);

/* ---- models ---------------------------------------------------------------------------------------------------------
 */

/* Zero-initialize; every field but `path` may stay so. Strings need to live only for the call. */
typedef struct dp_options {
  const char *path;        /* the .dip file */
  const char *weights;     /* a GGUF or safetensors file, or "random:SEED" for weights of the model's shapes, "random:SEED:bf16"
                              for matrices stored as that type (f32) */
  const char *adapter;     /* a folder that PEFT or dipper wrote: LoRA beside the weights (Hu et al., 2021); NULL: none */
  const char *const *sets; /* "name=value": dimensions and constants; beats the weights file and the text */
  int set_count;
  int threads;           /* 0: one a core */
  int64_t context;       /* tokens that the KV cache holds; 0: what the weights file says, at most 4096 */
  int64_t step_tokens;   /* new tokens a step at most; 0: 512 */
  const char *kv_type;   /* the KV cache's elements: "f32" (NULL) or "f16", which rounds them: half the memory */
  const char *cache_dir; /* compiled code; NULL: $DIPPER_CACHE, $XDG_CACHE_HOME/dipper or ~/.cache/dipper; "": none */
  const char *backend;   /* "llvm", "interp"; NULL: the best there is for the CPU */
  const char *device;    /* where a model is opened, trained, scored: "cpu" (NULL); "cuda", the first GPU; "auto": a GPU
                            where one can be used, else the CPU, and the model's note says why. It beats `backend` */
  const char *triple, *cpu, *features; /* code for another machine (to look at); NULL: this one */
  const char *tokenizer;               /* weights whose tokenizer and chat template are taken; NULL: of `weights` */
  const char *plan, *recipe;           /* of the text, by name; NULL: the last for the model, else defaults */
  int64_t memory_limit;                /* training: bytes that the process may have; 0: what the system has available */
  bool scalar_head; /* the model gives each token one number (a reward, a value) by a weight `score` [1, d] (Hugging Face:
                       score.weight, zeros when the file has none) in the place of the last product */
  bool color;                          /* diagnostics with terminal colors */
  bool verify_each;                    /* check the IR and its round trip after every pass */
} dp_options;

typedef struct dp_model_info {
  double load_s;    /* opening, reading and packing the weights */
  double compile_s; /* model text to code; near 0 when the code was cached */
  bool compiled;    /* false: the code came from the cache */
  int64_t vocabulary;       /* token ids are below it */
  int64_t columns;          /* of the logits; the vocabulary, unless the graph computes something else */
  int64_t context, step_tokens;
  int threads;
  bool has_tokenizer, has_chat_template;
  const char *device; /* what runs its steps: "cpu", or a GPU's name and capability; the model's */
  const char *note; /* what the user may want to know (a cache that cannot be written), or NULL; the model's */
} dp_model_info;

/* Reads, compiles, loads. A mistake in the model text is DP_INVALID, its message the rendered diagnostics. */
dp_status dp_model_open(const dp_options *options, dp_model **model);
void dp_model_free(dp_model *model); /* after its sessions; NULL is fine */
dp_model_info dp_model_get_info(const dp_model *model);

/* ---- text
 * ------------------------------------------------------------------------------------------------------------ */

/* parse_special: "<|im_end|>" in the text is that token; only for text that a chat template made. */
dp_status dp_tokenize(const dp_model *model, const char *text, size_t length, bool parse_special, dp_tokens *tokens);
dp_status dp_detokenize(const dp_model *model, const int32_t *ids, size_t count, bool show_special, dp_text *text);
/* The same from a weights file alone, without a model. */
dp_status dp_tokenize_file(const char *weights, const char *text, size_t length, bool parse_special, dp_tokens *tokens);
dp_status dp_detokenize_file(const char *weights, const int32_t *ids, size_t count, dp_text *text);

typedef struct dp_message {
  const char *role, *content;
} dp_message;
/* The text that the model's chat template makes of a conversation, ending where the assistant begins to speak. */
dp_status dp_render_chat(const dp_model *model, const dp_message *messages, int count, dp_text *text);

/* Texts to the rows of an encoder (models/minilm.dip): rows [count, info.columns], row i the model's row of text i's last
 * token. Each text stands between the special tokens that its tokenizer asks for; what is longer than a step, the
 * context or max_seq_length of sentence_bert_config.json is cut. lengths in bytes; NULL: the texts end at their NUL. */
dp_status dp_embed(dp_model *model, const char *const *texts, const size_t *lengths, size_t count, float *rows);

/* ---- sessions: one sequence in the KV cache
 * ---------------------------------------------------------------------------- */

dp_status dp_session_new(dp_model *model, dp_session **session);
void dp_session_free(dp_session *session);                     /* NULL is fine */
int64_t dp_session_length(const dp_session *session);          /* tokens fed so far */
void dp_session_truncate(dp_session *session, int64_t length); /* forgets the tokens after */

/* Logits [rows, columns] in f32, row r at data + r * stride; valid until the next call that runs the model. */
typedef struct dp_logits {
  const float *data;
  int64_t rows, columns, stride;
} dp_logits;

typedef enum dp_want { DP_WANT_NONE, DP_WANT_LAST, DP_WANT_ALL } dp_want;

/* Feeds at most step_tokens tokens in one step. The logits of a position do not depend, to the last bit, on how a
 * sequence is cut into calls. */
dp_status dp_session_feed(dp_session *session, const int32_t *ids, size_t count, dp_want want, dp_logits *logits);

/* Several sequences in one step: a ragged batch. logits: rows in the order of the parts. */
typedef struct dp_part {
  dp_session *session; /* all of one model, each at most once */
  const int32_t *ids;
  size_t count;
  dp_want want;
} dp_part;
dp_status dp_feed_batch(const dp_part *parts, int count, dp_logits *logits);

/* ---- generation
 * ---------------------------------------------------------------------------------------------------------- */

typedef struct dp_generation {
  int64_t max_tokens; /* new tokens; < 0: until the end token or the context's end */
  float temperature;  /* 0: greedy */
  int top_k;          /* 0: all */
  float top_p;        /* 1 (or 0): all */
  float min_p;        /* 0: all */
  /* Without top_k, top_p and min_p the step itself draws, and a token's draw depends on its logits, the seed and its position
   * alone. On a device 8 tokens are made at a time: callbacks come for each, and what was made after a stop is forgotten. */
  uint64_t seed;
  /* Whole characters as they come; return false to stop. May be NULL. */
  bool (*on_text)(void *user, const char *text, size_t length);
  /* Each new id with its log-probability under the unmodified distribution, an f32: the bits of the loss that
   * dp_trainer_add gives for it, negative. May be NULL. */
  bool (*on_token)(void *user, int32_t id, double log_probability);
  /* Asked before each step, those of a long prompt too; return false to stop. May be NULL. */
  bool (*go_on)(void *user);
  void *user;
} dp_generation;

typedef struct dp_generation_stats {
  int64_t prompt_tokens, new_tokens;
  double prefill_s, decode_s;
  bool stopped;  /* a callback said so; of the prompt perhaps only a part is in the session then */
  bool finished; /* the model ended its answer */
} dp_generation_stats;

/* Feeds `prompt`, then samples token by token. Every token sampled but the last is fed. A prompt that does not fit is
 * refused before anything is touched; generation ends where the context does. */
dp_status dp_generate(dp_session *session, const int32_t *prompt, size_t count, const dp_generation *generation,
                      dp_generation_stats *stats);

/* exp of the mean negative log-likelihood (nats) of tokens 1 .. count-1, in windows of the context's length. */
dp_status dp_perplexity(dp_model *model, const int32_t *ids, size_t count, double *perplexity);

/* ---- looking inside
 * -------------------------------------------------------------------------------------------------------- */

/* Checks a model's text (options->path, sets, and weights if given). On success `summary` is a line about the model. */
dp_status dp_check(const dp_options *options, dp_text *summary);

typedef enum dp_dump {
  DP_DUMP_IR,   /* after the pass named by `pass`, or after each ("all"), or at the end (NULL) */
  DP_DUMP_TILE, /* the tile program */
  DP_DUMP_LLVM, /* the back end's IR */
  DP_DUMP_ASM,
  DP_DUMP_DOT, /* the fused graph for Graphviz */
  DP_DUMP_MACHINE, /* an ELF file for other tools: an object, of the back end cuda a cubin */
} dp_dump;
dp_status dp_dump_text(const dp_options *options, dp_dump what, const char *pass, dp_text *text);
/* The object file that would be loaded, as bytes. */
dp_status dp_compile_object(const dp_options *options, dp_text *object);

/* What code can be run on: a line for the CPU, one for each GPU, or one that says why there is none. */
dp_status dp_list_devices(dp_text *text);

dp_status dp_list_weights(const char *path, bool json, dp_text *text);
/* All weights of the model as safetensors with HF's names, with options->adapter added to them. type: "f32", "f16", "bf16". */
dp_status dp_save_weights(const dp_options *options, const char *path, const char *type);

/* ---- what the workers did
 * --------------------------------------------------------------------------------------------------- */

/* A record of every task that ran, where and when. A trace is of one model and freed before it. */
typedef struct dp_trace dp_trace;

/* From now on the steps of the model are recorded. Memory for max_tasks tasks a thread (0: about a million, 64 MB of
 * them touched only as they are used) is set aside; what finds no room is counted and dropped. */
dp_status dp_trace_start(dp_model *model, int64_t max_tasks);
dp_status dp_trace_stop(dp_model *model, dp_trace **trace);
void dp_trace_free(dp_trace *trace); /* NULL is fine */

typedef struct dp_trace_totals {
  int64_t steps, tokens, tasks;
  int64_t dropped; /* tasks and steps that found no room */
  int threads;
  double wall_s;                     /* of the steps */
  double busy_s, waiting_s, idle_s;  /* of all threads: threads * wall_s in sum */
} dp_trace_totals;
dp_trace_totals dp_trace_get_totals(const dp_trace *trace);

/* A timeline in the Trace Event Format, for ui.perfetto.dev: tasks and waits of each worker, steps, idle workers. */
dp_status dp_trace_json(const dp_trace *trace, dp_text *json);
/* For people: busy, waiting (by what was waited for), idle; the critical path. */
dp_status dp_trace_summary(const dp_trace *trace, dp_text *text);

/* The work and time of one kind of task. Names are the model's. */
typedef struct dp_op_profile {
  const char *name;
  int64_t calls;  /* tasks */
  double busy_s;  /* of all threads */
  double wall_s;  /* of the clock on the wall, split among tasks that run at once */
  double flop;
  int64_t weight_bytes, kv_bytes; /* read, each byte once a step */
} dp_op_profile;
const dp_op_profile *dp_trace_ops(const dp_trace *trace, int *count); /* in program order; the trace's */

#ifdef __cplusplus
}
#endif

#endif
