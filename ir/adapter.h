/* ir/adapter.h: low-rank adaptation (Hu et al., 2021): beside a product x @ w.T of a weight that stays as it is stands
 * (x @ a.T * scale) @ b.T, of two thin matrices. They are weights of the module like others, declared behind those of the
 * model's text, `a` before `b`, under the names that PEFT's files have for them. */
#ifndef DIPPER_IR_ADAPTER_H
#define DIPPER_IR_ADAPTER_H

#include "ir/graph.h"

/* What an adapter has of one weight. */
typedef struct ir_adaptation {
  bool whole; /* the weight itself, trained in full: in PEFT's words its module is one of modules_to_save */
  int rank;   /* of the product of the two that stands beside it; 0: none */
  double alpha;
  double scale; /* alpha / rank, or alpha / sqrt(rank) (Kalajdzievski, 2023) */
} ir_adaptation;

/* The module of Hugging Face's model that the weight is the matrix of, or has rows of, "{}" for the layer, appended to *name.
 * DP_UNSUPPORTED, with the reason, for a weight that is no such matrix. */
dp_status ir_name_adapted(const ir_weight *weight, dp_str *name);
/* Does the module hold other weights too (query, key and value in one)? Its adapter has one `a` for all of them: it can be read,
 * not trained weight by weight. */
bool ir_shares_adapter(const ir_weight *weight);
/* Declares `W.lora_a` [layers][rank, in] and `W.lora_b` [layers][out, rank] for each weight with a rank; how: one for each of
 * the weights there are. DP_UNSUPPORTED, DP_INVALID name the weight. */
dp_status ir_declare_adapters(ir_module *module, const ir_adaptation *how);

#endif
