/* runtime/state_binding.c: what an engine holds of the weights, as a binding, for those who save: it points into the packed
 * memory, so that nothing is copied. Of weights that the program does not use, and of those that it keeps as the file has
 * them, the file's own stand there. */
#include "runtime/engine.h"
#include "runtime/weights_binding.h"

#include <stdlib.h>
#include <string.h>

static rt_bound packed_bound(const tile_weight *weight, ir_dtype type, const float *data) {
  bool vector = weight->form == TILE_VECTOR;
  rt_bound bound = {.data = (const uint8_t *)data, .dtype = type, .packed = !vector, .vector = vector,
                    .transposed = weight->transposed, .rows = weight->rows, .cols = weight->cols};
  if (weight->transposed) bound.rows = weight->cols, bound.cols = weight->rows;
  bound.row_bytes = bound.cols * ir_dtype_block_bytes(type);
  return bound;
}

/* Gradients of weights that share memory, added up in the order in which the update adds them. */
static dp_status add_ties(const tile_program *p, float *const *slots, const rt_binding *like, const tile_weight *weight,
                          rt_binding *binding) {
  int64_t floats = tile_slot_floats(weight), count = (int64_t)weight->count * weight->inner;
  float *sum = NULL;
  for (int w = 0; w < p->weight_count; w++) {
    const tile_weight *other = &p->weights[w];
    if (like->weights[other->weight].tie != weight->weight || !slots[other->first_slot]) continue;
    if (other->form != weight->form || other->transposed != weight->transposed || tile_slot_floats(other) != floats)
      return dp_fail(DP_UNSUPPORTED, "weights '%s' and '%s' are one and are used in two forms", weight->name, other->name);
    if (!sum) {
      sum = malloc(sizeof *sum * (size_t)(floats * count));
      if (!sum) return dp_fail(DP_NO_MEMORY, "no memory for the gradient of '%s'", weight->name);
      for (int64_t i = 0; i < count; i++) memcpy(sum + i * floats, slots[weight->first_slot + i], sizeof *sum * (size_t)floats);
      binding->memory[weight->weight] = sum;
    }
    for (int64_t i = 0; i < count; i++)
      for (int64_t j = 0; j < floats; j++) sum[i * floats + j] += slots[other->first_slot + i][j];
  }
  for (int64_t i = 0; sum && i < count; i++)
    binding->weights[weight->weight].layers[i].data = (const uint8_t *)(sum + i * floats);
  return DP_SUCCESS;
}

/* Is the engine's value of the weight what is trained, in f32 or bf16, and not what a file has? */
static bool holds_value(const tile_weight *weight) {
  return (weight->storage & ~(1u << IR_f32)) == 0 || weight->storage == 1u << IR_bf16;
}

void rt_engine_release(const rt_engine *engine, rt_binding *binding) {
  const tile_program *p = rt_engine_program(engine);
  for (int w = 0; w < p->weight_count; w++) {
    const tile_weight *weight = &p->weights[w];
    if (!binding->memory || !holds_value(weight)) continue;
    free(binding->memory[weight->weight]);
    binding->memory[weight->weight] = NULL;
  }
}

dp_status rt_engine_bind(const rt_engine *engine, tile_state state, const ir_module *module, const rt_binding *like,
                         rt_binding **out) {
  const tile_program *p = rt_engine_program(engine);
  rt_binding *binding = rt_binding_new(like->weight_count);
  if (!binding) return dp_fail(DP_NO_MEMORY, "no memory for bound weights");
  binding->file = like->file;
  binding->memory = DP_NEW_ARRAY(binding->arena, void *, like->weight_count);
  for (int i = 0; i < like->weight_count; i++) {
    binding->weights[i] = like->weights[i];
    if (state != TILE_VALUE) binding->weights[i].layers = NULL;
  }
  for (int w = 0; w < p->weight_count; w++) {
    const tile_weight *weight = &p->weights[w];
    rt_bound_weight *to = &binding->weights[weight->weight];
    float *const *slots = rt_engine_state(engine, state), *const *masters = rt_engine_state(engine, TILE_MASTER);
    tile_state held = state == TILE_VALUE && masters && masters[weight->first_slot] ? TILE_MASTER : state;
    if (held == TILE_MASTER) slots = masters;
    if (!slots || !slots[weight->first_slot] || like->weights[weight->weight].tie >= 0) continue;
    if (state == TILE_VALUE && !holds_value(weight)) continue;
    int64_t count = (int64_t)weight->count * weight->inner;
    to->layers = DP_NEW_ARRAY(binding->arena, rt_bound, count);
    to->layer_count = count;
    float *const *gradients = rt_engine_state(engine, TILE_GRADIENT); /* what was made of a number and not trained stays so */
    to->filled = to->filled && !(gradients && gradients[weight->first_slot]);
    for (int64_t i = 0; i < count; i++) to->layers[i] = packed_bound(weight, tile_state_type(weight, held), slots[weight->first_slot + i]);
    /* What is saved of a vector lacks its file's offset; of a gradient nothing is to be taken away. */
    const ir_weight *declared = &module->weights[weight->weight];
    for (int64_t i = 0; state != TILE_VALUE && declared->source_count && i < count; i++)
      to->layers[i].plus = (float)declared->sources[0].plus;
    dp_status status = state == TILE_GRADIENT ? add_ties(p, slots, like, weight, binding) : DP_SUCCESS;
    if (status.code != DP_OK) {
      rt_binding_free(binding);
      return status;
    }
  }
  *out = binding;
  return DP_SUCCESS;
}
