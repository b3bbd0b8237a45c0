/* api/train.h: private to api/: a trainer, and what a run does with it.
 *   train.c  the program of its entries, sums of gradients, updates
 *   score.c  scores without a trainer
 *   objective.c  what a recipe minimizes, as a function of scores
 *   run.c    a recipe from its data to its last checkpoint */
#ifndef DIPPER_API_TRAIN_H
#define DIPPER_API_TRAIN_H

#include "api/internal.h"
#include "dipper/train.h"

enum { TRAINER_FORWARD, TRAINER_TRAIN, TRAINER_UPDATE, TRAINER_SCORE /* where it was asked for */ };

struct dp_trainer {
  dp_model model; /* its weights are what is trained: sessions of it see them as they are */
  dp_adamw optimizer;
  float *losses;
  int64_t steps; /* updates so far */
  uint64_t seed; /* of random rounding */
  bool stochastic;
};

/* The sequences in one step of the entry; rows: as rt_engine_run. */
dp_status api_run_examples(rt_engine *engine, int entry, const dp_example *examples, int count, rt_logits *rows);
/* An engine for steps of whole sequences, and what it says of itself. */
dp_status api_set_up_engine(const dp_options *options, dp_model *model);

/* Takes what is in *source, whether it succeeds or not. */
dp_status api_trainer_open(const dp_training *training, api_source *source, dp_trainer **trainer);

#endif
