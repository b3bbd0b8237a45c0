/* passes/gradient.h: private to passes/: reverse mode over the graph IR. differentiate.c walks the ops from the last to the
 * first and asks the gradient rule of each (gradient_rules.c, named in ops.def) to build the ops that give its operands'
 * gradients. A gradient may lack dimensions of its value, or have them as 1, where it is the same along them. */
#ifndef DIPPER_PASSES_GRADIENT_H
#define DIPPER_PASSES_GRADIENT_H

#include "ir/ir.h"

/* What is known of a value, by value->id; entry 0 stands for values made on the way. */
typedef struct gradient_entry {
  ir_value *gradient; /* what has been added up so far, or NULL */
  ir_value *rows;     /* of a cache's content: the rows that were appended */
  bool needed;        /* it depends on a weight */
} gradient_entry;

typedef struct gradient_state {
  ir_module *module;
  dp_arena *arena;
  gradient_entry *entries;
  int count, cap;
  ir_block *block;   /* where ops are added, at its end */
  ir_value *layer;   /* the index of the loop whose body it is, or NULL */
  int stacks;        /* made so far, for their names */
  dp_loc loc;        /* of the op whose gradient is being built */
  dp_diags *diags;   /* of what could not be built: our own bug */
  dp_status failure; /* the first one */
} gradient_state;

typedef void ps_gradient_rule(gradient_state *g, const ir_op *op, ir_value *dy);
ps_gradient_rule *ps_gradient_rule_of(ir_opcode code);
bool ps_gradient_is_zero(ir_opcode code); /* nothing flows back through such an op */

/* The entry of a value that takes part; made on demand. */
gradient_entry *gradient_of(gradient_state *g, ir_value *value);
bool gradient_needed(gradient_state *g, ir_value *value);
/* Adds `part` to the gradient of `value`: of an activation, or to that of a weight by an accumulate op. */
void gradient_add(gradient_state *g, ir_value *value, ir_value *part);
ir_op *gradient_emit(gradient_state *g, ir_opcode code, ir_value *const *operands, int operand_count, const ir_attr *attrs,
                     int attr_count);
void gradient_fail(gradient_state *g, dp_status status); /* keeps the first */

/* The op that declares the weight which a value is, or a layer of which it is; NULL when it is none. */
const ir_op *gradient_weight(const ir_value *value);

#endif
