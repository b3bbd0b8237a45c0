/* runtime/memory_weights.c: bound weights as f32 in memory, in the model's order: what training starts from, and what it
 * hands to those who save. */
#include "runtime/weights_binding.h"

#include <stdlib.h>
#include <string.h>

static dp_status copy_weight(const ir_module *module, const rt_binding *like, int index, rt_binding *binding) {
  const rt_bound_weight *from = &like->weights[index];
  rt_bound_weight *to = &binding->weights[index];
  const rt_bound *first = &from->layers[0];
  int64_t elements = first->rows * first->cols;
  float *memory = malloc((size_t)(elements * from->layer_count) * sizeof *memory);
  binding->memory[index] = memory;
  if (!memory) return dp_fail(DP_NO_MEMORY, "no memory for the weight '%s' as f32", module->weights[index].name);
  to->layers = DP_NEW_ARRAY(binding->arena, rt_bound, from->layer_count);
  to->layer_count = from->layer_count;
  to->filled = from->filled;
  for (int64_t i = 0; i < from->layer_count; i++) {
    float *own = memory + i * elements;
    rt_bound_to_f32(&from->layers[i], own);
    to->layers[i] = (rt_bound){.data = (const uint8_t *)own, .dtype = IR_f32, .plain = true, .vector = first->vector,
                               .rows = first->rows, .cols = first->cols, .row_bytes = first->cols * 4};
  }
  return DP_SUCCESS;
}

dp_status rt_bind_memory(ir_module *module, const rt_binding *like, rt_binding **out) {
  rt_binding *binding = rt_binding_new(module->weight_count);
  dp_status status = binding ? DP_SUCCESS : dp_fail(DP_NO_MEMORY, "no memory for bound weights");
  if (binding) binding->memory = DP_NEW_ARRAY(binding->arena, void *, module->weight_count);
  for (int i = 0; i < module->weight_count && status.code == DP_OK; i++) {
    binding->weights[i].tie = like->weights[i].tie;
    if (like->weights[i].layers && like->weights[i].tie < 0) status = copy_weight(module, like, i, binding);
  }
  dp_str problems = {0};
  if (status.code == DP_OK) rt_bind_ties(module, binding, &problems);
  dp_str_free(&problems);
  if (status.code != DP_OK) {
    rt_binding_free(binding);
    return status;
  }
  for (int i = 0; i < module->weight_count; i++) module->weights[i].storage = 1u << IR_f32;
  *out = binding;
  return DP_SUCCESS;
}

float *rt_binding_floats(rt_binding *binding, int weight, int64_t index) {
  return (float *)(uintptr_t)binding->weights[weight].layers[index].data;
}

void rt_binding_clear(rt_binding *binding) {
  for (int i = 0; i < binding->weight_count; i++) {
    const rt_bound_weight *weight = &binding->weights[i];
    for (int64_t j = 0; weight->tie < 0 && j < weight->layer_count; j++)
      memset(rt_binding_floats(binding, i, j), 0, (size_t)(weight->layers[j].rows * weight->layers[j].cols) * 4);
  }
}

/* What a file's vector lacks is taken away from those that do not lack it already. */
void rt_binding_differences(rt_binding *binding, const ir_module *module, bool are) {
  for (int i = 0; i < binding->weight_count; i++) {
    const ir_weight *weight = &module->weights[i];
    const rt_bound_weight *bound = &binding->weights[i];
    if (!weight->source_count || bound->tie >= 0) continue;
    for (int64_t j = 0; j < bound->layer_count; j++) bound->layers[j].plus = are ? (float)weight->sources[0].plus : 0;
  }
}
