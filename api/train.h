/* api/train.h: private to api/: a trainer, and what a run does with it.
 *   train.c  the program of three entries, sums of gradients, updates
 *   run.c    a recipe from its data to its last checkpoint */
#ifndef DIPPER_API_TRAIN_H
#define DIPPER_API_TRAIN_H

#include "api/internal.h"
#include "dipper/train.h"

enum { TRAINER_FORWARD, TRAINER_TRAIN, TRAINER_UPDATE };

struct dp_trainer {
  dp_model model; /* its weights are what is trained: sessions of it see them as they are */
  dp_adamw optimizer;
  float *losses;
  int64_t steps; /* updates so far */
};

/* Takes what is in *source, whether it succeeds or not. */
dp_status api_trainer_open(const dp_training *training, api_source *source, dp_trainer **trainer);

#endif
