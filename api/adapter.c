/* api/adapter.c: adapters of low rank beside a model's weights: those of a folder, or those that a plan has trained. */
#include "api/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* Declares, puts beside products and binds what source->adaptations says. Adapters are small: they are held as f32. */
static dp_status put_beside(uint64_t seed, api_source *source) {
  DP_TRY(ps_adapt(source->module, source->adaptations));
  if (!source->binding) return DP_SUCCESS;
  DP_TRY(rt_bind_adapter(source->module, source->declared, source->adaptations, source->adapter, seed, source->binding));
  for (int i = source->declared; i < source->module->weight_count; i++) source->module->weights[i].storage = 1u << IR_f32;
  return DP_SUCCESS;
}

static dp_status make_room(api_source *source) {
  source->adaptations = calloc((size_t)source->declared + 1, sizeof *source->adaptations);
  return source->adaptations ? DP_SUCCESS : dp_fail(DP_NO_MEMORY, "no memory for an adapter");
}

dp_status api_load_adapter(const dp_options *options, api_source *source) {
  if (!options->adapter) return DP_SUCCESS;
  DP_TRY(make_room(source));
  DP_TRY(rt_adapter_open(options->adapter, source->module, source->adaptations, &source->adapter));
  return put_beside(0, source);
}

/* ---- training */

static bool plan_adapts(const api_source *source) {
  for (int i = 0; i < source->declared; i++)
    if (source->plan->weights[i].lora_rank) return true;
  return false;
}

/* What is trained in full beside adapters goes into their file under one name. */
static dp_status check_whole(const api_source *source, int i) {
  const ir_weight *weight = &source->module->weights[i];
  bool nameless = !weight->source_count || weight->sources[0].run || weight->stack > 1;
  for (int other = 0; other < source->declared && !nameless && source->binding; other++)
    nameless = rt_binding_tie(source->binding, i) == other || rt_binding_tie(source->binding, other) == i;
  if (!nameless) return DP_SUCCESS;
  return dp_fail(DP_UNSUPPORTED, "the plan adapts some weights and trains '%s' in full, which PEFT's folders cannot hold: it is a part of a "
                 "tensor, many matrices a layer, or the same as another weight; leave out one of the two", weight->name);
}

static dp_status check_weight(const api_source *source, int i) {
  const ir_weight *weight = &source->module->weights[i];
  if (!source->plan->weights[i].frozen) return check_whole(source, i);
  if (source->plan->weights[i].lora_rank && ir_shares_adapter(weight))
    return dp_fail(DP_UNSUPPORTED, "weight '%s' cannot be adapted: it is a part of the tensor '%s', whose adapter is one for all its parts",
                   weight->name, weight->sources[0].pattern);
  return DP_SUCCESS;
}

/* The folder's adapter is the plan's, in everything but its numbers. */
static dp_status check_folder(const dp_options *options, const api_source *source, const ir_adaptation *folder) {
  for (int i = 0; i < source->declared; i++) {
    const ir_adaptation *plan = &source->adaptations[i];
    if (plan->whole != folder[i].whole)
      return dp_fail(DP_INVALID, "'%s' has %s'%s' in full, and the plan says %s", options->adapter, folder[i].whole ? "" : "not ",
                     source->module->weights[i].name, plan->whole ? "`train`" : "otherwise");
    if (plan->rank == folder[i].rank && (!plan->rank || plan->scale == folder[i].scale)) continue;
    return dp_fail(DP_INVALID, "'%s' has an adapter of rank %d, scaled by %g, beside '%s', and the plan says rank %d, scaled by %g",
                   options->adapter, folder[i].rank, folder[i].scale, source->module->weights[i].name, plan->rank, plan->scale);
  }
  return DP_SUCCESS;
}

static dp_status open_folder(const dp_options *options, api_source *source) {
  ir_adaptation *folder = calloc((size_t)source->declared + 1, sizeof *folder);
  if (!folder) return dp_fail(DP_NO_MEMORY, "no memory for an adapter");
  dp_status status = rt_adapter_open(options->adapter, source->module, folder, &source->adapter);
  if (status.code == DP_OK) status = check_folder(options, source, folder);
  free(folder);
  return status;
}

dp_status api_plan_adapter(const dp_options *options, api_source *source) {
  if (!plan_adapts(source)) {
    if (!options->adapter) return DP_SUCCESS;
    return dp_fail(DP_INVALID, "an adapter was named, and the plan adapts nothing: say `adapt WEIGHT, ... lora rank N;` in it");
  }
  DP_TRY(make_room(source));
  for (int i = 0; i < source->declared; i++) {
    const ir_weight_plan *plan = &source->plan->weights[i];
    DP_TRY(check_weight(source, i));
    source->adaptations[i] = (ir_adaptation){.whole = !plan->frozen, .rank = plan->lora_rank, .alpha = plan->lora_alpha};
    if (plan->lora_rank) source->adaptations[i].scale = plan->lora_alpha / plan->lora_rank;
  }
  if (options->adapter) DP_TRY(open_folder(options, source));
  return put_beside(source->recipe ? source->recipe->seed : 0, source);
}

dp_status api_save_adapter(const char *directory, const api_source *source, const rt_binding *binding) {
  if (mkdir(directory, 0777) != 0 && errno != EEXIST)
    return dp_fail(DP_IO, "cannot make the folder '%s': %s", directory, strerror(errno));
  const char *base = source->file ? rt_weights_path(source->file) : NULL;
  return rt_adapter_save(directory, source->module, source->declared, source->adaptations, binding, base);
}
