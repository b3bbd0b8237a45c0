/* runtime/checkpoint.h: what a run has learned, on disk: DIR/step-00000100 and so on, of which the newest whole one is
 * opened again, whatever happened while a later one was written.
 *
 *   model.safetensors      the weights, under the names of their files. Beside it config.json, tokenizer.json and
 *                          their companions: transformers and dipper load the folder like any other.
 *   optimizer.safetensors  what the optimizer keeps, named arrays; a text of the caller's as __metadata__.state
 *   trainer.json           step, place in the data, and the size and hash of every file
 *
 * A checkpoint is written into a hidden folder beside it, each file made safe, then renamed: under its name it is
 * whole. DIR/latest holds the newest one's name. One process at a time writes to a DIR (it locks the folder). */
#ifndef DIPPER_RUNTIME_CHECKPOINT_H
#define DIPPER_RUNTIME_CHECKPOINT_H

#include "runtime/data.h"
#include "runtime/weights.h"

typedef struct rt_trainer_state {
  int64_t step;              /* updates that are done, 0 .. 99999999 */
  rt_data_position position; /* where the next batch begins, in the data of this identity */
  uint64_t data_identity;
  uint64_t seed;
  double loss; /* of the last update; not finite ones come back as nan */
} rt_trainer_state;

/* What is to be saved; everything is borrowed for the call. */
typedef struct rt_checkpoint_plan {
  const char *directory; /* DIR; made when it is not there, the folder that it is in must be */
  int keep;              /* checkpoints that stay, this one among them, the newest up to its step; below 1: all */
  rt_trainer_state state;
  /* Writes the weights to `path`: rt_save_weights is one way. */
  dp_status (*save_weights)(void *user, const char *path);
  bool adapter; /* they are an adapter's: `path` is the folder (rt_adapter_save) */
  void *user;
  uint64_t weights_bytes;          /* what it will write, about (rt_saved_bytes); 0: not known */
  ir_dtype weights_type;           /* f32, f16 or bf16: goes into config.json, as does */
  bool scalar_head;                /* that the last product gives one number: ...ForSequenceClassification, num_labels 1 */
  const rt_save_tensor *optimizer; /* [optimizer_count] "WEIGHT.exp_avg", "WEIGHT.exp_avg_sq", ... */
  int optimizer_count;
  const char *optimizer_state;   /* a text, JSON for instance; NULL: none */
  const rt_weights_file *source; /* whose companions are copied; of a GGUF file of a llama a config.json and the chat
                                    template are made; NULL: none */
} rt_checkpoint_plan;

/* On failure nothing half-written is left and the older ones are as they were. DP_IO tells how many bytes it takes and
 * how many there are. Leftovers of writers that were killed are removed first. */
dp_status rt_checkpoint_save(const rt_checkpoint_plan *plan);

typedef struct rt_checkpoint {
  char *directory; /* DIR/step-00000100: what rt_weights_open takes */
  rt_trainer_state state;
  rt_weights_file *optimizer; /* opened; rt_weights_string(optimizer, "__metadata__.state") */
  char *note;                 /* which newer ones are damaged, and how; NULL: none */
} rt_checkpoint;

/* The newest checkpoint in `directory` of which every file has its size and hash; or the one that it is. DP_NOT_FOUND
 * when there is none, DP_INVALID when none is whole: the message says of each what is wrong. On failure *out is NULL.
 */
dp_status rt_checkpoint_open(const char *directory, rt_checkpoint **out);
void rt_checkpoint_close(rt_checkpoint *checkpoint); /* NULL is fine */
/* The optimizer's array of that name as f32[count]. DP_INVALID when there is none of that name and size. */
dp_status rt_checkpoint_read(const rt_checkpoint *checkpoint, const char *name, float *dst, int64_t count);

#endif
