/* tests/reference_f64.h: the graph IR run in double precision, the plainest way: what each op means, one sequence at a
 * time, for tests that compare gradients with differences and kernels with what they should give. */
#ifndef DIPPER_TESTS_REFERENCE_F64_H
#define DIPPER_TESTS_REFERENCE_F64_H

#include "ir/ir.h"

typedef struct reference {
  const ir_module *module;
  double **weights;               /* [weight_count], elements in the model's order */
  double **gradients;             /* the same, added to; may be NULL where the graph adds to none */
  int64_t tokens;                 /* T, and S: one sequence from position 0 on */
  const char *const *input_names; /* of the graph: pos is known without */
  const int32_t *const *inputs;   /* [tokens] each */
  int input_count;
} reference;

/* Elements of a weight. */
int64_t reference_weight_size(const ir_module *module, int weight);
/* Runs a graph and gives its result, [tokens, columns], malloc'ed. DP_UNSUPPORTED names an op that is not known here.
 */
dp_status reference_run(const reference *r, const ir_graph *graph, double **result, int64_t *columns);

#endif
