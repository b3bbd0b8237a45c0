/* api/account.c: the memory of a trainer before it takes any: what the engine's own account says, and what this process has
 * already, with the code compiled and loaded: measured, as nothing else knows it. */
#include "api/train.h"

#include <string.h>

/* Batches, their order, a window of JSON: what data takes besides mapped files. */
enum { DATA_BYTES = 4 << 20 };

static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

static bool is_trained(const tile_program *p, int weight) {
  for (int k = 0; k < p->kind_count; k++)
    for (int i = 0; i < p->kinds[k].op_count; i++) {
      const tile_op *op = &p->kinds[k].ops[i];
      if (op->code == TILE_assign && op->part == TILE_VALUE && p->weights[op->ref].weight == weight) return true;
    }
  return false;
}

/* Of a file's weights: what a text gives a number for where the file has none is none of them. */
static void count_parameters(const dp_trainer *t, dp_run_plan *plan) {
  const ir_module *module = t->model.source.module;
  for (int i = 0; i < module->weight_count; i++) {
    const rt_binding *binding = t->model.source.binding;
    if (rt_binding_tie(binding, i) >= 0 || module->weights[i].filled) continue;
    int64_t layers = rt_binding_layers(binding, i);
    const rt_bound *one = layers ? rt_binding_get(binding, i, 0) : NULL;
    int64_t count = one ? rt_bytes_times(layers, rt_bytes_times(one->rows, one->cols)) : 0;
    plan->parameters = rt_bytes_plus(plan->parameters, count);
    if (is_trained(t->model.program, i)) plan->trained = rt_bytes_plus(plan->trained, count);
  }
}

/* ---- memory */

/* What weights made at random take before they are packed. */
int64_t api_random_bytes(const dp_training *training, int64_t parameters) {
  const char *weights = training->model.weights;
  return weights && strncmp(weights, "random:", 7) == 0 ? rt_bytes_times(4, parameters) : 0;
}

int64_t api_sum_bytes(const int64_t *parts, size_t count) {
  int64_t sum = 0;
  for (size_t i = 0; i < count; i++) sum = rt_bytes_plus(sum, parts[i]);
  return sum;
}

/* What is saved from a device is fetched tensor by tensor; none is larger than one layer of all that is trained. */
static int64_t fetched_bytes(const tile_program *p) {
  int64_t bytes = 0;
  for (int w = 0; w < p->weight_count; w++)
    if (tile_keeps(p, w, TILE_GRADIENT))
      bytes = rt_bytes_plus(bytes, rt_bytes_times(4 * p->weights[w].inner, tile_slot_floats(&p->weights[w])));
  return bytes;
}

static int64_t host_bytes(const rt_engine_sizes *s, const tile_program *p, const dp_run_plan *plan) {
  int64_t parts[] = {rt_engine_sizes_sum(s), rt_bytes_times(plan->tokens, 4), fetched_bytes(p)};
  return api_sum_bytes(parts, DP_COUNT(parts));
}

static void take_sizes(const rt_engine_sizes *s, int64_t tokens, dp_run_plan *plan) {
  plan->weights = s->weights;
  plan->gradients = s->states[TILE_GRADIENT];
  int64_t optimizer[] = {s->states[TILE_MOMENT1], s->states[TILE_MOMENT2], s->states[TILE_MASTER]};
  plan->optimizer = api_sum_bytes(optimizer, DP_COUNT(optimizer));
  plan->windows = s->arena[TILE_WINDOW];
  for (int i = 0; i < TILE_SPACE_COUNT; i++)
    if (i != TILE_WINDOW) plan->activations = rt_bytes_plus(plan->activations, s->arena[i]);
  plan->cache = s->cache;
  int64_t small[] = {s->workers, s->arguments, s->results, rt_bytes_times(tokens, 4)};
  plan->workers = api_sum_bytes(small, DP_COUNT(small));
}

void api_judge_plan(dp_run_plan *plan) {
  plan->fits = plan->peak <= plan->available && plan->device_peak <= plan->device_available;
}

void api_plan_trainer(const dp_training *training, const dp_trainer *t, int64_t own, dp_run_plan *plan) {
  const tile_program *p = t->model.program;
  rt_engine_options engine = api_engine_options(&training->model, training->sequences);
  const tile_code *code = t->model.code;
  bool on_device = code && code->device;
  rt_engine_sizes sizes = rt_engine_measure(p, code, t->model.source.binding, &engine);
  rt_engine_sizes there = rt_engine_measure_device(p, code, t->model.source.binding, &engine);
  *plan = (dp_run_plan){.program = own,
                        .data = DATA_BYTES,
                        .reference = training->reserve,
                        .device_reference = training->device_reserve,
                        .tokens = engine.max_tokens,
                        .steps = 1};
  take_sizes(on_device ? &there : &sizes, on_device ? 0 : engine.max_tokens, plan);
  count_parameters(t, plan);
  if (on_device) plan->host = host_bytes(&sizes, p, plan);
  int64_t loading[] = {sizes.weights, sizes.loading, api_random_bytes(training, plan->parameters),
                       on_device ? 0 : plan->workers, plan->program};
  plan->loading = api_sum_bytes(loading, DP_COUNT(loading));
  int64_t working[] = {plan->weights, plan->gradients, plan->optimizer, plan->activations,
                       plan->windows, plan->cache,     plan->workers};
  int64_t work = api_sum_bytes(working, DP_COUNT(working));
  int64_t all[] = {on_device ? plan->host : work, plan->program, plan->reference, plan->data};
  plan->peak = larger(api_sum_bytes(all, DP_COUNT(all)), plan->loading);
  if (on_device) {
    plan->device_peak = rt_bytes_plus(work, plan->device_reference);
    plan->device_available = code->device->available(code);
  }
  int64_t left = rt_memory_available(), limit = training->model.memory_limit;
  plan->available = left > 0 ? rt_bytes_plus(left, own) : INT64_C(1) << RT_MEMORY_BITS;
  if (limit > 0) plan->available = smaller(plan->available, limit);
  api_judge_plan(plan);
}

void api_add_bytes(dp_str *out, int64_t bytes) {
  if (bytes >= INT64_C(1) << RT_MEMORY_BITS) dp_str_add(out, "more than 288 PB");
  else if (bytes >= 999500000) dp_str_addf(out, "%.2f GB", (double)bytes * 1e-9);
  else dp_str_addf(out, "%.0f MB", (double)bytes * 1e-6);
}

static void add_part(dp_str *out, const char *name, int64_t bytes) {
  if (bytes < 1000000) return;
  dp_str_addf(out, ", %s ", name);
  api_add_bytes(out, bytes);
}

static void add_working_parts(dp_str *out, const dp_run_plan *plan) {
  add_part(out, "weights", plan->weights);
  add_part(out, "gradients", plan->gradients);
  add_part(out, "optimizer", plan->optimizer);
  add_part(out, "activations", plan->activations);
  add_part(out, "windows of logits", plan->windows);
  add_part(out, "cache", plan->cache);
  add_part(out, "workers", plan->workers);
}

dp_status api_check_plan(const dp_run_plan *plan) {
  if (plan->fits) return DP_SUCCESS;
  bool there = plan->device_peak > plan->device_available;
  int64_t peak = there ? plan->device_peak : plan->peak, available = there ? plan->device_available : plan->available;
  dp_str text = {0};
  dp_str_addf(&text, "this does not fit into %smemory: at its peak training takes ", there ? "the GPU's " : "");
  api_add_bytes(&text, peak);
  dp_str_add(&text, ", ");
  api_add_bytes(&text, available);
  dp_str_add(&text, " are available, ");
  api_add_bytes(&text, peak - available);
  dp_str_add(&text, " are missing (");
  size_t begin = text.length;
  if (there || !plan->device_peak) add_working_parts(&text, plan);
  if (!there) add_part(&text, "copies and results", plan->host);
  add_part(&text, "reference", there ? plan->device_reference : plan->reference);
  if (!there) add_part(&text, "program", plan->program);
  dp_str_add(&text, ")");
  if (text.text && text.length > begin + 3) memmove(text.text + begin, text.text + begin + 2, text.length - begin - 1);
  dp_status status = dp_fail(DP_NO_MEMORY, "%s", text.text ? text.text : "this does not fit into memory");
  dp_str_free(&text);
  return status;
}
