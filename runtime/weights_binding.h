/* runtime/weights_binding.h: private to weights_bind.c, random_weights.c, weights_save.c: what a binding is made of. */
#ifndef DIPPER_RUNTIME_WEIGHTS_BINDING_H
#define DIPPER_RUNTIME_WEIGHTS_BINDING_H

#include "runtime/weights.h"

typedef struct rt_bound_weight {
  rt_bound *layers; /* in the binding's arena; NULL when not there; a tied weight's are those it is tied to */
  int64_t layer_count;
  int tie; /* the weight that stands in, or -1 */
} rt_bound_weight;

struct rt_binding {
  dp_arena *arena;
  rt_bound_weight *weights; /* one per weight of the module */
  int weight_count;
  const char *note;
  void **memory; /* malloc'ed, one per weight made at random, else NULL */
};

rt_binding *rt_binding_new(int weight_count); /* NULL when memory ran out */

/* The shape of one layer of a weight. false, with `why` for the user, when it is not one dipper can hold: a symbolic or
 * empty dimension, too many elements or layers. */
typedef struct rt_layer_shape {
  int64_t layers, rows, cols; /* rows == 1 for a 1-D weight */
  int rank;                   /* without the layer dimension */
  int64_t dims[RT_MAX_RANK];
} rt_layer_shape;
bool rt_layer_shape_of(const ir_weight *weight, rt_layer_shape *shape, const char **why);

/* Lets ties stand in for weights that are not there. A tie to a weight of another shape, to an unknown one or in a
 * circle is told in `problems`, a line each. */
void rt_bind_ties(const ir_module *module, rt_binding *binding, dp_str *problems);

/* Sets ir_weight.storage from what was bound. */
void rt_set_storage(ir_module *module, const rt_binding *binding);

/* `pattern` with "{}" replaced by the layer; in `arena`. */
const char *rt_layer_name(dp_arena *arena, const char *pattern, int64_t layer);

/* Rows a head of a weight with rotation pairs (elements, of a 1-D one). */
int64_t rt_head_rows(int64_t rows, int64_t cols, int64_t heads);

#endif
