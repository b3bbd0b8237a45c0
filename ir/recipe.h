/* ir/recipe.h: what plans and recipes say, as data: the frontend makes it, passes and the runtime follow it. Everything
 * lives in the arena of the module that it is about. */
#ifndef DIPPER_IR_RECIPE_H
#define DIPPER_IR_RECIPE_H

#include "ir/graph.h"

/* ---- plan: how a model runs */

typedef enum ir_recompute {
  IR_RECOMPUTE_NONE,      /* everything that the backward pass needs is kept */
  IR_RECOMPUTE_SELECTIVE, /* products and attention are kept, what is cheap is made again (the default) */
  IR_RECOMPUTE_BLOCK,     /* only what the layer loop carries is kept */
  IR_RECOMPUTE_COUNT,
} ir_recompute;
extern const char *const ir_recompute_names[IR_RECOMPUTE_COUNT];

/* What a plan says of one weight. */
typedef struct ir_weight_plan {
  bool frozen;       /* gets no gradient, stays stored as the file has it */
  int lora_rank;     /* > 0: frozen is set, with a trained product of this rank beside it (Hu et al., 2021) */
  double lora_alpha; /* the product is scaled by alpha / rank */
} ir_weight_plan;

typedef struct ir_plan {
  const char *name, *model;
  ir_recompute recompute;
  ir_weight_plan *weights; /* [module->weight_count] */
  ir_dtype weight_type;    /* of trained weights in products: f32, or bf16 with f32 masters */
  bool stochastic;         /* bf16 without masters: rounded at random, unbiased */
  const char *cache_type;  /* "f32", "f16" or NULL */
  dp_loc loc;
} ir_plan;

/* The plan of a text without one, name NULL: everything is trained, in f32. */
ir_plan *ir_plan_new(ir_module *module);
/* As the language has it: what it prints is read back to the same plan. */
void ir_print_plan(dp_str *out, const ir_module *module, const ir_plan *plan);

/* ---- recipe: what is done with it over time */

typedef enum ir_objective { IR_PRETRAIN, IR_SFT, IR_DPO, IR_REWARD, IR_VALUE, IR_OBJECTIVE_COUNT } ir_objective;
extern const char *const ir_objective_names[IR_OBJECTIVE_COUNT];
const char *ir_objective_name(ir_objective objective);

typedef enum ir_data_format {
  IR_DATA_AUTO,   /* by the name's end: .txt, .jsonl, .bin */
  IR_DATA_TEXT,   /* UTF-8 text; documents are files, or stand between <|endoftext|> lines */
  IR_DATA_CHAT,   /* JSONL, {"messages": [{"role", "content"}, ...]} a line */
  IR_DATA_TOKENS, /* ids as little-endian u16 or u32, documents between end tokens */
  IR_DATA_PAIRS,  /* JSONL, {"prompt", "chosen", "rejected"}: strings or lists of messages */
  IR_DATA_VALUES, /* JSONL, {"prompt", "completion", "value"}, or {"messages", "value"} */
  IR_DATA_FORMAT_COUNT,
} ir_data_format;
extern const char *const ir_data_format_names[IR_DATA_FORMAT_COUNT];

typedef enum ir_schedule { IR_LR_CONSTANT, IR_LR_LINEAR, IR_LR_COSINE, IR_SCHEDULE_COUNT } ir_schedule;
extern const char *const ir_schedule_names[IR_SCHEDULE_COUNT];

/* AdamW (Loshchilov and Hutter, 2019), PyTorch's defaults. */
typedef struct ir_optimizer {
  ir_schedule schedule;
  double lr, lr_end; /* the schedule goes from lr to lr_end after the warmup; constant: lr_end == lr */
  int64_t warmup;    /* steps of a linear rise from 0; at most the recipe's steps */
  double beta1, beta2, eps, decay;
  bool *no_decay; /* [module->weight_count] weights that do not decay; vectors by default */
  double clip;    /* of the gradients' norm; 0: none */
} ir_optimizer;

typedef struct ir_recipe {
  const char *name, *model;
  ir_objective objective;
  const char *data; /* path, from where the process stands; NULL: given on the command line */
  ir_data_format format;
  bool skip_broken; /* a broken line of the data is skipped and counted, else it ends the run */
  ir_optimizer optimizer;
  int64_t batch;      /* sequences an update */
  int64_t accumulate; /* steps they are cut into; divides batch */
  int64_t length;     /* tokens a sequence */
  int64_t steps;      /* updates */
  int64_t save_every, keep;
  uint64_t seed;
  double beta; /* dpo: how far the policy may leave its reference (Rafailov et al., 2023) */
  dp_loc loc;
} ir_recipe;

/* What a recipe is that says nothing, name NULL: sft. */
ir_recipe *ir_recipe_new(ir_module *module);
/* Makes both (the recipe may be NULL) of the module's present weights, of which the first `count` were there before. */
void ir_extend_plan(ir_module *module, int count, ir_plan *plan, ir_recipe *recipe);
void ir_print_recipe(dp_str *out, const ir_module *module, const ir_recipe *recipe);

/* Of one layer, expert or head: 1 for a vector, 2 for a matrix. */
int ir_weight_rank(const ir_weight *weight);

#endif
