/* runtime/weights_binding.h: private to weights_bind.c, weights_bound.c, pack_bound.c, random_weights.c,
 * weights_save.c, adapter.c: what a binding is made of. */
#ifndef DIPPER_RUNTIME_WEIGHTS_BINDING_H
#define DIPPER_RUNTIME_WEIGHTS_BINDING_H

#include "runtime/weights.h"

/* Elements that lie elsewhere, on a device: `bytes` of them, brought where they are to be looked at. */
typedef struct rt_later {
  dp_status (*bring)(const struct rt_later *later, void *to);
  int64_t bytes;
  const void *from;
  int slot, state; /* for `bring` */
} rt_later;

typedef struct rt_bound_weight {
  rt_bound *layers;    /* in the binding's arena; NULL when not there; a tied weight's are those it is tied to */
  int64_t layer_count; /* the product of the stack dimensions */
  int tie;             /* the weight that stands in, or -1 */
  bool filled;         /* in no file: made of the number it is filled with */
} rt_bound_weight;

struct rt_binding {
  dp_arena *arena;
  rt_bound_weight *weights; /* one per weight of the module */
  int weight_count;
  const rt_weights_file *file; /* not owned; NULL for random weights */
  const char *note;
  void **memory; /* malloc'ed, one per weight made at random, else NULL */
  rt_binding *appended; /* owned: what else the last weights lie in; NULL: nothing */
};

rt_binding *rt_binding_new(int weight_count); /* NULL when memory ran out */

/* Puts the weights of `more` from `from` on, which it takes, behind those of `binding`. */
void rt_binding_append(rt_binding *binding, rt_binding *more, int from);

/* What an adapter begins with; the module's weights are its matrices, `a` and `b` in turn (random_weights.c). */
dp_status rt_bind_new_adapter(ir_module *module, uint64_t seed, rt_binding **out);

/* The shape of one matrix or vector of a weight. false, with `why` for the user, when it is not one dipper can hold: a
 * symbolic or empty dimension, too many elements or layers. */
typedef struct rt_layer_shape {
  int64_t layers, inner, count; /* the stack dimensions (1 where there is none) and their product */
  int64_t rows, cols;           /* rows == 1 for a vector */
  int rank;                     /* without the stack dimensions */
  int64_t dims[RT_MAX_RANK];
} rt_layer_shape;
bool rt_layer_shape_of(const ir_weight *weight, rt_layer_shape *shape, const char **why);

/* Lets ties stand in for weights that are not there. A tie to a weight of another shape, to an unknown one or in a
 * circle is told in `problems`, a line each. */
void rt_bind_ties(const ir_module *module, rt_binding *binding, dp_str *problems);

/* Sets ir_weight.storage from what was bound. */
void rt_set_storage(ir_module *module, const rt_binding *binding);

/* How a source's pattern divides a weight's stack into tensors: one for each `lead` matrices, those in the order of the
 * tensor's first dimensions, lead_dims. */
typedef struct rt_pattern {
  int64_t tensors, lead;
  int lead_rank;
  int64_t lead_dims[2];
} rt_pattern;
rt_pattern rt_pattern_of(const char *pattern, const ir_weight *weight, const rt_layer_shape *shape);
/* The name of the tensor that holds matrix `index` of the weight: "{}" replaced by the layer's number, and by the
 * second index. */
void rt_tensor_name(dp_str *name, const char *pattern, const ir_weight *weight, const rt_layer_shape *shape,
                    int64_t index);

/* Rows a head of a bound with rotation pairs (elements, of a vector); 0 without. */
int64_t rt_head_rows(const rt_bound *bound);
/* Where an ir_source's window has row `row` of all rows of its tensors; false when that is beyond any file. A window
 * without a run holds everything in order. */
bool rt_window_place(const ir_source *source, int64_t row, int64_t *place);
/* The rows of bound [row, row + count) as they would lie in a file in order, rt_row_bytes(dtype, cols) each. Not of
 * vectors. */
void rt_bound_copy_rows(const rt_bound *bound, int64_t row, int64_t count, uint8_t *dst);

#endif
