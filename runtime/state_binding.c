/* runtime/state_binding.c: what an engine holds of the weights, as a binding, for those who save: it points into the
 * packed memory, so that nothing is copied; what a device keeps is fetched tensor by tensor as it is written. Of
 * weights that the program does not use, and of those that it keeps as the file has them, the file's own stand there.
 */
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

static dp_status no_memory(const tile_weight *weight) {
  return dp_fail(DP_NO_MEMORY, "no memory for a copy of '%s'", weight->name);
}

static int64_t slot_bytes(const tile_weight *weight, tile_state state) {
  return tile_slot_floats(weight) * ir_dtype_block_bytes(tile_state_type(weight, state));
}

/* All slots of the weight, one after another, in the binding's memory; its bounds point there. */
static dp_status copy_slots(const rt_engine *engine, tile_state state, const tile_weight *weight, rt_binding *binding) {
  int64_t bytes = slot_bytes(weight, state), count = (int64_t)weight->count * weight->inner;
  char *copy = malloc((size_t)(bytes * count));
  if (!copy) return no_memory(weight);
  free(binding->memory[weight->weight]);
  binding->memory[weight->weight] = copy;
  for (int64_t i = 0; i < count; i++) {
    DP_TRY(rt_engine_read(engine, state, weight->first_slot + (int)i, 0, bytes, copy + i * bytes));
    rt_bound *bound = &binding->weights[weight->weight].layers[i];
    bound->data = (const uint8_t *)copy + i * bytes;
    bound->later = NULL;
  }
  return DP_SUCCESS;
}

static dp_status bring_slot(const rt_later *later, void *to) {
  return rt_engine_read(later->from, (tile_state)later->state, later->slot, 0, later->bytes, to);
}

static void bring_later(const rt_engine *engine, tile_state state, const tile_weight *weight, rt_binding *binding) {
  for (int i = 0; i < weight->count * weight->inner; i++) {
    rt_bound *bound = &binding->weights[weight->weight].layers[i];
    rt_later *later = DP_NEW(binding->arena, rt_later);
    *later = (rt_later){.bring = bring_slot,
                        .bytes = slot_bytes(weight, state),
                        .from = engine,
                        .slot = weight->first_slot + i,
                        .state = (int)state};
    bound->data = NULL;
    bound->later = later;
  }
}

/* Adds the gradient of `other`, slot by slot through `one`, to the copy of the weight's. */
static dp_status add_slots(const rt_engine *engine, const tile_weight *weight, const tile_weight *other, float *one,
                           float *sum) {
  int64_t floats = tile_slot_floats(weight), count = (int64_t)weight->count * weight->inner;
  for (int64_t i = 0; i < count; i++) {
    DP_TRY(rt_engine_read(engine, TILE_GRADIENT, other->first_slot + (int)i, 0, 4 * floats, one));
    for (int64_t j = 0; j < floats; j++) sum[i * floats + j] += one[j];
  }
  return DP_SUCCESS;
}

/* Gradients of weights that share memory, added up in the order in which the update adds them. */
static dp_status add_ties(const rt_engine *engine, const rt_binding *like, const tile_weight *weight,
                          rt_binding *binding) {
  const tile_program *p = rt_engine_program(engine);
  bool copied = false;
  for (int w = 0; w < p->weight_count; w++) {
    const tile_weight *other = &p->weights[w];
    if (like->weights[other->weight].tie != weight->weight ||
        !rt_engine_keeps(engine, TILE_GRADIENT, other->first_slot))
      continue;
    if (other->form != weight->form || other->transposed != weight->transposed ||
        tile_slot_floats(other) != tile_slot_floats(weight))
      return dp_fail(DP_UNSUPPORTED, "weights '%s' and '%s' are one and are used in two forms", weight->name, other->name);
    if (!copied) DP_TRY(copy_slots(engine, TILE_GRADIENT, weight, binding));
    copied = true;
    float *one = malloc((size_t)slot_bytes(weight, TILE_GRADIENT));
    if (!one) return no_memory(weight);
    dp_status status = add_slots(engine, weight, other, one, binding->memory[weight->weight]);
    free(one);
    DP_TRY(status);
  }
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

/* Of a weight that is not trained the host's copy is as good, where there is one. */
static bool lies_elsewhere(const rt_engine *engine, tile_state state, const tile_weight *weight) {
  if (!rt_engine_holds_elsewhere(engine, state, weight->first_slot)) return false;
  float *const *slots = rt_engine_state(engine, state);
  return state != TILE_VALUE || rt_engine_keeps(engine, TILE_GRADIENT, weight->first_slot) || !slots ||
         !slots[weight->first_slot];
}

static dp_status bind_weight(const rt_engine *engine, tile_state state, const ir_module *module, const rt_binding *like,
                             const tile_weight *weight, rt_binding *binding) {
  rt_bound_weight *to = &binding->weights[weight->weight];
  bool master = state == TILE_VALUE && rt_engine_keeps(engine, TILE_MASTER, weight->first_slot);
  tile_state held = master ? TILE_MASTER : state;
  if (!rt_engine_keeps(engine, held, weight->first_slot) || like->weights[weight->weight].tie >= 0) return DP_SUCCESS;
  if (state == TILE_VALUE && !holds_value(weight)) return DP_SUCCESS;
  int64_t count = (int64_t)weight->count * weight->inner;
  float *const *slots = rt_engine_state(engine, held);
  to->layers = DP_NEW_ARRAY(binding->arena, rt_bound, count);
  to->layer_count = count;
  /* What was made of a number and not trained stays so. */
  to->filled = to->filled && !rt_engine_keeps(engine, TILE_GRADIENT, weight->first_slot);
  for (int64_t i = 0; i < count; i++)
    to->layers[i] = packed_bound(weight, tile_state_type(weight, held), slots ? slots[weight->first_slot + i] : NULL);
  if (lies_elsewhere(engine, held, weight)) bring_later(engine, held, weight, binding);
  /* What is saved of a vector lacks its file's offset; of a gradient nothing is to be taken away. */
  const ir_weight *declared = &module->weights[weight->weight];
  for (int64_t i = 0; state != TILE_VALUE && declared->source_count && i < count; i++)
    to->layers[i].plus = (float)declared->sources[0].plus;
  return state == TILE_GRADIENT ? add_ties(engine, like, weight, binding) : DP_SUCCESS;
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
  dp_status status = DP_SUCCESS;
  for (int w = 0; w < p->weight_count && status.code == DP_OK; w++)
    status = bind_weight(engine, state, module, like, &p->weights[w], binding);
  if (status.code == DP_OK)
    *out = binding;
  else
    rt_binding_free(binding);
  return status;
}
