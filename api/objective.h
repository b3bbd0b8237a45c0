/* api/objective.h: private to api/: what a recipe minimizes, as a function of the tokens' scores, and its slopes along them. */
#ifndef DIPPER_API_OBJECTIVE_H
#define DIPPER_API_OBJECTIVE_H

#include "api/internal.h"
#include "dipper/train.h"

/* Sums over what an update has seen so far. */
typedef struct api_objective_sums {
  double loss;
  int64_t units; /* tokens, or pairs, that the loss is the mean of */
  int64_t pairs, correct;
  double margin;
} api_objective_sums;

bool api_objective_in_pairs(ir_objective objective); /* sequences come as chosen, rejected, chosen, ... */
bool api_objective_from_scores(ir_objective objective); /* slopes depend on scores: else they are all 1 */

/* Of sequences[0 .. count), whose tokens' scores and (of dpo) the reference's follow each other: adds to *sums and writes the
 * slope of the sum of losses along each score to `coefficients`.
 *   dpo     -log sigmoid(beta * ((chosen - reference of it) - (rejected - reference of it)))  of log probabilities of the
 *           answers (Rafailov et al., 2023)
 *   reward  -log sigmoid(chosen - rejected)  of the last tokens' numbers (Bradley and Terry, 1952; Ouyang et al., 2022)
 *   value   (number - value)^2 / 2  at each token whose next one counts
 * Sums are in double, tokens in order: they do not depend on how a batch is cut. */
void api_objective(const ir_recipe *recipe, const rt_example *sequences, int count, const dp_logits *scores,
                   const dp_logits *reference, float *coefficients, api_objective_sums *sums);

#endif
