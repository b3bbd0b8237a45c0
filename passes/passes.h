/* passes/passes.h: from graph IR to graph IR. Face of the folder: the pipeline, the table of passes, and the passes
 * themselves. A pass changes a module in place; after it, ir_verify must find nothing. */
#ifndef DIPPER_PASSES_H
#define DIPPER_PASSES_H

#include "ir/ir.h"

typedef struct ps_pass {
  const char *name, *doc;
  dp_status (*run)(ir_module *module);
} ps_pass;

typedef struct ps_options {
  const char *dump_after; /* pass name, "all" or NULL */
  bool verify_each;       /* after every pass: ir_verify, and print(parse(print)) == print */
  bool stress_reparse;    /* print, parse, go on from the reparsed module after every pass */
  void (*dump)(void *user, const char *pass, const char *text);
  void *user;
} ps_options;

/* Runs the named passes in order; names == NULL: the default pipeline. `options` may be NULL. With stress_reparse
 * *module is replaced and the old one freed, so pointers into it go stale; on failure it is still the caller's. */
dp_status ps_run(ir_module **module, const char *const *names, int count, const ps_options *options);

/* The passes in default order. */
const ps_pass *ps_passes(int *count);
/* DP_NOT_FOUND with the near name when there is none. */
dp_status ps_find(const char *name, const ps_pass **pass);

/* Stores the keys and values of a cache (NULL: of all) as "f32" or "f16". Before ps_run. DP_INVALID for other types. */
dp_status ps_store_cache(ir_module *module, const char *cache, const char *type);

/* Puts a low-rank product beside the products of weights, and declares its matrices (ir/adapter.h); how: [weight_count].
 * Before ps_differentiate and the pipeline. DP_UNSUPPORTED names a weight that is used in another way. */
dp_status ps_adapt(ir_module *module, const ir_adaptation *how);

/* Adds to the module's first graph, of logits [T, vocabulary], a graph `train`: it takes two more inputs, targets[T] (ids;
 * negative: not counted) and coefficients[T] (the bits of f32), returns the cross entropy of each token [T, 1] in nats, and adds
 * to the gradients of the weights those of the sum of coefficient * loss. A graph that returns one number a token [T, 1]: the
 * same of that number, whatever the targets. Before the pipeline. */
typedef struct ps_training {
  ir_recompute recompute; /* what the layer loop keeps for the one back; no bit depends on it */
} ps_training;
dp_status ps_differentiate(ir_module *module, const ps_training *training);
/* A graph `score`: what `train` returns, without gradients. */
dp_status ps_add_score(ir_module *module);
/* Puts in the place of the product with the vocabulary that ends the first graph one with a weight `score` [1, d], the number
 * that a reward or value model gives each token (Hugging Face: score.weight). Before the weights are bound. DP_UNSUPPORTED
 * where the graph does not end so. */
dp_status ps_add_scalar_head(ir_module *module);
/* The tile program of a graph that has been through the pipeline; owned by the caller. Weights' storage types are taken
 * from the module's declarations (f32 where none is set). */
dp_status ps_schedule(const ir_module *module, const char *graph, const tile_target *target, tile_program **program);
/* The same of several graphs, each an entry of the program, over the same weights. */
dp_status ps_schedule_all(const ir_module *module, const char *const *graphs, int count, const tile_target *target,
                          tile_program **program);

/* Adds graphs `norm`, which changes nothing, and `update`: AdamW for every weight with a gradient; it leaves gradients at 0.
 * They take the numbers named below. Behind the other passes: they are made of groups already. */
typedef struct ps_update {
  const int *ties;       /* [weight_count] the weight whose memory and moments it shares, or -1 */
  const bool *no_decay;  /* [weight_count] */
  double beta1, beta2, eps;
  bool stochastic;       /* weights in bf16 have no masters: they are rounded at random */
} ps_update;
dp_status ps_add_update(ir_module *module, const ps_update *update);
/* Given to `norm`: `scale` of gradients (1 / tokens); left by it: `norm` of the scaled gradients. Given to `update`: `factor` of
 * gradients (the scale, and what brings the norm down to a limit), `rate` (lr over the first moment's correction), `keep`
 * (1 - lr * decay), `root` (1 / the root of the second moment's correction), `key` and `key2` of random rounding (whole numbers
 * below 2^24, others each update). */

/* Adds to a module whose first graph returns logits over the vocabulary a graph `pick`, which goes on where that ends: of each
 * asked row it returns a token, the greatest of logits + temperature * gumbel (greedy at 0), and the log of its probability
 * under the logits, to the last bit the score that `score` gives it with its sign turned; NaN where the logits hold NaN or +inf
 * or nothing but -inf. A number for each asked row of the inputs `temperature` (the bits of f32), `seed`, `seed2` and `place`, the
 * position that the token will have. Behind the other passes: it is made of groups already. Other modules stay as they are. */
dp_status ps_add_pick(ir_module *module);

#define PASS(name, doc) dp_status pass_##name(ir_module *module);
#include "passes/passes.def"
#undef PASS

#endif
