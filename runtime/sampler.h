/* runtime/sampler.h: logits into the next token's id.
 *
 * At a temperature and with nothing cut off a token is drawn as a step draws it that picks on the device (engine.h), so that both
 * give the same ids: noise of Gumbel's distribution by a counter, keyed by the seed and the token's position. With a cut or a
 * penalty the order is that of Hugging Face and vLLM: repeat penalty, temperature, top-k, top-p, min-p, then one draw. The same
 * parameters, seed and logits give the same ids. One sampler serves one sequence, in one thread at a time. */
#ifndef DIPPER_SAMPLER_H
#define DIPPER_SAMPLER_H

#include "base/base.h"

typedef struct dp_sampler dp_sampler;

typedef struct dp_sampler_params {
  float temp;  /* 0: greedy, the lowest id on ties; else logits are divided by it */
  int top_k;   /* keep the k most likely; 0: all */
  float top_p; /* keep the fewest most likely that together reach p; 1: all */
  float min_p; /* keep those at least this fraction as likely as the likeliest; 0: all */
  uint64_t seed;
  float repeat_penalty; /* 1: none; else logits of tokens seen are divided (if positive) or multiplied by it */
} dp_sampler_params;

dp_sampler_params dp_sampler_defaults(void); /* temp 1, nothing cut off, seed 0 */

dp_status dp_sampler_new(const dp_sampler_params *params, int vocab_size, dp_sampler **out);
void dp_sampler_free(dp_sampler *sampler);

/* Tells the repeat penalty of a token, of the prompt or picked. Picking tells it nothing: a pick may be thrown away. */
dp_status dp_sampler_saw(dp_sampler *sampler, int32_t id);
/* Forgets all tokens seen and begins the random sequence of `seed`. */
void dp_sampler_restart(dp_sampler *sampler, uint64_t seed);

/* How a token is drawn where nothing is cut off: codegen's cg_pick. NULL, at first: as where something is. */
typedef int32_t dp_draw(const float *logits, int64_t count, float temperature, uint64_t seed, int64_t place);
void dp_sampler_draw_by(dp_sampler *sampler, dp_draw *draw);
/* The position that the next pick will have; each pick adds one. 0 at first. */
void dp_sampler_at(dp_sampler *sampler, int64_t place);
/* Is nothing cut off and nothing penalized, so that a step can pick itself? */
bool dp_sampler_is_plain(const dp_sampler_params *params);

/* logits[n], n == vocab_size; -inf is a token that may not be picked, NaN or +inf is an error. Draws one random number,
 * or none when greedy. `log_prob`, when not NULL, gets the logarithm of the pick's probability under the logits as they
 * came (no temperature, nothing cut off). Allocates nothing. */
dp_status dp_sampler_pick(dp_sampler *sampler, const float *logits, int n, int32_t *id, double *log_prob);

#endif
