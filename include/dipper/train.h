/* dipper/train.h: training: the model's own text, its weights in f32, gradients of the tokens' cross entropy. A trainer is
 * used by one thread at a time (its own workers aside). */
#ifndef DIPPER_TRAIN_H
#define DIPPER_TRAIN_H

#include "dipper/dipper.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct dp_trainer dp_trainer;

/* AdamW (Loshchilov and Hutter, 2019), as PyTorch computes it: p *= 1 - lr * decay, then p -= lr * m / (sqrt(v) + eps), both
 * moments corrected. Vectors (norms, biases) do not decay. */
typedef struct dp_adamw {
  double lr, beta1, beta2, eps, decay;
  double clip; /* the most that the norm of all gradients may be; 0: any */
} dp_adamw;
dp_adamw dp_adamw_defaults(void); /* lr 1e-3, betas 0.9 and 0.999, eps 1e-8, decay 0.01, clip 1 */

/* What a layer keeps of its forward pass for the backward pass, and what it makes again. No bit depends on it. */
typedef enum dp_recompute {
  DP_RECOMPUTE_AS_PLANNED, /* what the text's plan says; without one selective */
  DP_RECOMPUTE_BLOCK,      /* only what passes from layer to layer is kept (Chen et al., 2016): the least memory, one forward more */
  DP_RECOMPUTE_SELECTIVE,  /* products and attention are kept, what is cheap is made again (Korthikanti et al., 2022) */
  DP_RECOMPUTE_NONE,       /* all that the backward pass reads is kept */
} dp_recompute;

/* Zero-initialize. */
typedef struct dp_training {
  dp_options model;   /* weights of any type: what is trained becomes f32, or bf16 by the plan; context and step_tokens: tokens
                         of a step, at most; adapter: what the plan's `adapt` begins with, NULL: a new one */
  dp_recompute recompute;
  uint64_t seed;      /* of the random rounding that the plan's `weights bf16 stochastic` asks for */
  dp_adamw optimizer; /* all 0: the defaults */
  int64_t sequences;    /* of a step, at most: each takes whole pages of 64 tokens of the cache; 0: many */
  int64_t wide_columns; /* logits of so many columns are made for some rows at a time; 0: 8192 */
  int64_t reserve;      /* bytes that the process will want besides: what does not leave them does not fit */
  int64_t device_reserve; /* the same of a device's memory */
  bool scores;          /* dp_trainer_score will be asked: one more entry is compiled */
} dp_training;

/* DP_NO_MEMORY, before anything large is taken: it does not fit; the message says what takes how much and what is missing.
 * What training touches is taken from the system here, not step by step. */
dp_status dp_trainer_new(const dp_training *training, dp_trainer **trainer);
void dp_trainer_free(dp_trainer *trainer); /* NULL is fine */
/* The model that is being trained, the trainer's: sessions of it, freed before the trainer, run on the very weights that
 * updates change, without a copy. Not from within another thread while the trainer works. */
dp_model *dp_trainer_model(dp_trainer *trainer);

/* One sequence: at each position the id that should come next, or a negative number where none counts. */
typedef struct dp_example {
  const int32_t *ids, *targets; /* [count] */
  size_t count;
  const float *coefficients; /* [count] slope of what is minimized along each token's score; NULL: 1 */
} dp_example;

/* The score of a token is its loss: -log of the probability of its target, in nats, 0 where none counts; of a model with a
 * scalar head the number that it gives the token. */

/* Runs the sequences in one step, none seeing another, and adds the gradients of the sum of coefficient * score to what is
 * there. Any objective that is a function of scores can be trained so: score first, then its slopes as coefficients (policy
 * gradients, preferences, rewards). losses: the scores, [tokens of all examples], not weighted; valid until the next call. The bits of the gradients do
 * not depend on how a batch is cut into calls, in its order (but those of a weight that the graph uses in several places). */
dp_status dp_trainer_add(dp_trainer *trainer, const dp_example *examples, int count, const float **losses);
/* The scores alone, of the same bits, by the forward pass only. DP_INVALID when dp_training.scores was not set. */
dp_status dp_trainer_score(dp_trainer *trainer, const dp_example *examples, int count, const float **scores);
dp_status dp_trainer_clear(dp_trainer *trainer); /* gradients to 0; on the CPU it always succeeds */
/* New weights of what has been added up, divided by `tokens` (those that count, of all calls since the last update),
 * and gradients to 0 again. norm: of all gradients so divided, before it is limited; may be NULL. DP_INVALID when it is
 * no finite number: then nothing was changed. */
dp_status dp_trainer_update(dp_trainer *trainer, int64_t tokens, double lr, double *norm);
/* The weights, or their gradients, as safetensors under Hugging Face's names, in f32. Weights of a plan that adapts: `path` is a
 * folder for the adapter, as PEFT has it. */
dp_status dp_trainer_save(dp_trainer *trainer, const char *path, bool gradients);
/* A record of every task of the steps in between, as dp_trace_start of a model. The trace is freed before the trainer. */
dp_status dp_trainer_trace_start(dp_trainer *trainer, int64_t max_tasks);
dp_status dp_trainer_trace_stop(dp_trainer *trainer, dp_trace **trace);
/* The tile program of a step, for people. */
dp_status dp_trainer_text(const dp_trainer *trainer, dp_text *text);

/* ---- scores without a trainer: of a reference, a reward model, a text to be judged */

/* The bits are those of a trainer with the same weights, whatever type the file stores them in; but on a GPU, where products
 * of f16 and bf16 weights are those of matrix units. Used by one thread at a time. */
typedef struct dp_scorer dp_scorer;
dp_status dp_scorer_new(const dp_options *options, dp_scorer **scorer); /* step_tokens: of all examples of a call, at most */
void dp_scorer_free(dp_scorer *scorer);                                 /* NULL is fine */
dp_model_info dp_scorer_get_info(const dp_scorer *scorer);
/* scores: a row of one number for each token of all examples; coefficients are not looked at. Valid until the next call. */
dp_status dp_scorer_run(dp_scorer *scorer, const dp_example *examples, int count, dp_logits *scores);

/* ---- a recipe from its data to its last checkpoint */

typedef struct dp_run_step {
  int64_t step, steps;     /* done, in all */
  int64_t tokens, targets; /* of this update; targets: those that count */
  int64_t pairs;           /* of preferences; else 0 */
  double loss;             /* mean over the targets, of preferences over the pairs; nats, of values half the squared error */
  double accuracy;         /* share of the pairs in which the chosen answer has the greater reward */
  double margin;           /* mean difference of the rewards; of dpo: beta * (log p/p_ref of one - of the other) */
  double norm, lr;
  double seconds;          /* that the update took, data included */
  double flop;             /* of products in forward and backward, without attention's */
  bool saved;              /* a checkpoint was written after it */
} dp_run_step;

/* Zero-initialize. */
typedef struct dp_run {
  dp_options model;   /* path: a text with a recipe; weights: what the run begins with */
  const char *data;   /* instead of the recipe's */
  const char *out;    /* directory of checkpoints; NULL: none are kept */
  bool resume;        /* goes on from the newest whole checkpoint in `out`, if there is one: the bits are those of an unbroken run */
  int64_t steps;      /* instead of the recipe's; 0: those */
  bool (*on_step)(void *user, const dp_run_step *step); /* false: stop, after a checkpoint; may be NULL */
  void (*on_note)(void *user, const char *text);        /* what the user may want to know; may be NULL */
  void *user;
} dp_run;

/* The reference of `dpo` is the model with the weights that the run begins with, as they are stored. DP_INVALID: mistakes in the
 * text or the data, a loss that is no number any more (the message says in which step and where; checkpoints stay as they
 * are). DP_NO_MEMORY, before anything large is taken: a batch that cannot fit; the message says what is missing and which
 * statements would make it fit. DP_IO: a checkpoint could not be written (the one before stays). DP_UNSUPPORTED: what is not
 * carried out yet, named. */
dp_status dp_run_recipe(const dp_run *run);

/* ---- what a run will take, before it runs */

typedef struct dp_run_plan {
  /* Bytes by cause. On a device `weights` to `workers` lie there, and the host has what `host` and the rows from
   * `program` on say. */
  int64_t weights;     /* as kernels read them; of one that is tied once */
  int64_t gradients;
  int64_t optimizer;   /* two moments of what is trained */
  int64_t activations; /* kept from forward to backward, and what lives between ops */
  int64_t windows;     /* logits and their gradients, of the rows that are there at a time */
  int64_t cache;       /* keys and values of a step's sequences */
  int64_t workers;     /* their scratch and counters, a step's arguments and losses */
  int64_t program;     /* text, tile program, machine code, tokenizer, libraries: what this process has, measured */
  int64_t reference;   /* of dpo: the model that the run begins with, with an engine of its own */
  int64_t data;        /* an allowance for batches and the index; files are mapped, and are the system's to drop */
  int64_t loading;     /* all that is there while the weights are read */
  int64_t host; /* with a device: packed weights, results, arguments, and what is fetched of a checkpoint; else 0 */
  int64_t peak; /* the sum of the others that lie in the host's memory, or `loading` where that is more */
  int64_t available;   /* what this process could have: what it has, and what the system has left; or the limit given */
  int64_t device_reference; /* of dpo, on a device: of its memory */
  int64_t device_peak;      /* the sum of what lies on a device; 0: on the CPU */
  int64_t device_available; /* all memory of the device */
  bool fits;                /* peak <= available, and device_peak <= device_available */
  /* Work. */
  int64_t parameters, trained; /* numbers in weights, tied ones once; of those the trained ones */
  int64_t tokens, steps;       /* of a step at most; steps an update */
  double flop, attention_flop; /* of a step: products with weights, what is made again included; of attention */
  double update_bytes;         /* that an update reads and writes */
} dp_run_plan;

/* Reads and compiles what the run would (the code is kept for it), and allocates and reads no weights: without
 * model.weights it plans for f32 of the text's shapes. Data need not be there. What fits does not run out of memory later, as long as
 * nobody else takes what is available: all that training touches is taken at the start. `advice`, when it does
 * not fit: which statements would make it fit, each tried, those that cost least first; else empty. May be NULL; the caller's. */
dp_status dp_plan_recipe(const dp_run *run, dp_run_plan *plan, dp_text *advice);

#ifdef __cplusplus
}
#endif

#endif
