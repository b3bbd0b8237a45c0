/* dipper/train.h: training: the model's own text, its weights in f32, gradients of the tokens' cross entropy. A trainer is
 * used by one thread at a time (its own workers aside). */
#ifndef DIPPER_TRAIN_H
#define DIPPER_TRAIN_H

#include "dipper/dipper.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct dp_trainer dp_trainer;

/* Zero-initialize. */
typedef struct dp_training {
  dp_options model;   /* weights of any type: they become f32; context and step_tokens: tokens of a step, at most */
  bool recompute;     /* keep only what passes from layer to layer and make the rest again: less memory, more work */
} dp_training;

dp_status dp_trainer_new(const dp_training *training, dp_trainer **trainer);
void dp_trainer_free(dp_trainer *trainer); /* NULL is fine */

/* One sequence: at each position the id that should come next, or a negative number where none counts. */
typedef struct dp_example {
  const int32_t *ids, *targets;
  size_t count;
} dp_example;

/* Runs the sequences in one step, none seeing another, and adds the gradients of the sum of the losses to what is there.
 * losses: [tokens of all examples] in nats, 0 where none counts; valid until the next call. The bits of the gradients do
 * not depend on how a batch is cut into calls, in its order (but those of a weight that the graph uses in several places). */
dp_status dp_trainer_add(dp_trainer *trainer, const dp_example *examples, int count, const float **losses);
void dp_trainer_clear(dp_trainer *trainer); /* gradients to 0 */
/* The weights, or their gradients, as safetensors under Hugging Face's names, in f32. */
dp_status dp_trainer_save(dp_trainer *trainer, const char *path, bool gradients);
/* The tile program of a step, for people. */
dp_status dp_trainer_text(const dp_trainer *trainer, dp_text *text);

#ifdef __cplusplus
}
#endif

#endif
