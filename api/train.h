/* api/train.h: private to api/: a trainer, and what a run does with it.
 *   train.c  the program of its entries, sums of gradients, updates
 *   account.c  the memory that a trainer will take
 *   score.c  scores without a trainer
 *   objective.c  what a recipe minimizes, as a function of scores
 *   plan.c   the memory and work of a run before it runs, and what would make it fit
 *   run.c    a recipe from its data to its last checkpoint */
#ifndef DIPPER_API_TRAIN_H
#define DIPPER_API_TRAIN_H

#include "api/internal.h"
#include "dipper/train.h"

enum { TRAINER_FORWARD, TRAINER_TRAIN, TRAINER_NORM, TRAINER_UPDATE, TRAINER_SCORE /* where it was asked for */ };

struct dp_trainer {
  dp_model model; /* its weights are what is trained: sessions of it see them as they are */
  dp_adamw optimizer;
  float *losses;
  int64_t steps; /* updates so far */
  uint64_t seed; /* of random rounding */
  bool stochastic;
};

/* Where the numbers that are none begin in a step of the sequences, for a message: "; first in ...", or NULL when there are
 * none. Gradients are spoilt. */
dp_status api_find_broken(dp_trainer *trainer, const dp_example *examples, int count, dp_str *where);
/* The sequences in one step of the entry; rows: as rt_engine_run. */
dp_status api_run_examples(rt_engine *engine, int entry, const dp_example *examples, int count, rt_logits *rows);
/* The same to find the first number that is none. */
dp_status api_walk_examples(rt_engine *engine, int entry, const dp_example *examples, int count, rt_broken *broken);
/* For steps of whole sequences, of at most so many, 0: many. */
rt_engine_options api_engine_options(const dp_options *options, int64_t sequences);
/* An engine, and what it says of itself. */
dp_status api_set_up_engine(const rt_engine_options *engine, dp_model *model);
/* Text to code of a scorer; of weights at random shapes alone. compile false: to the tile program. tensor: of which storage
 * types products may be a matrix unit's, as far as the target has them (tile_program.tensor). */
dp_status api_scorer_prepare(const dp_options *options, unsigned tensor, bool compile, dp_model *model);
/* A scorer with the numerics of `program`, in which weights may be stored otherwise than in its own. */
dp_status api_scorer_open(const dp_options *options, const tile_program *program, dp_scorer **scorer);

/* Takes what is in *source, whether it succeeds or not. */
dp_status api_trainer_open(const dp_training *training, api_source *source, dp_trainer **trainer);

/* Text to code: what a trainer needs besides its engine. compile false: to the tile program alone. */
dp_status api_trainer_prepare(const dp_training *training, bool compile, dp_trainer *trainer);
/* What the recipe of a run says of training; options and the rest stay. */
dp_status api_follow_recipe(const dp_run *run, const ir_recipe *recipe, dp_training *training);

/* The plan of a trainer that is prepared; `own`: the bytes that are this process's already. */
void api_plan_trainer(const dp_training *training, const dp_trainer *trainer, int64_t own, dp_run_plan *plan);
/* What weights made at random take before they are packed; a sum that stays at the most there can be; "1.50 GB". */
int64_t api_random_bytes(const dp_training *training, int64_t parameters);
int64_t api_sum_bytes(const int64_t *parts, size_t count);
void api_add_bytes(dp_str *out, int64_t bytes);
void api_judge_plan(dp_run_plan *plan); /* does it fit? */
/* DP_NO_MEMORY with the figures when it does not fit. */
dp_status api_check_plan(const dp_run_plan *plan);
/* Takes a failure for want of memory; adds what would make the run fit. */
dp_status api_advise(const dp_run *run, dp_status failure);

#endif
