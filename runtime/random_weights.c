/* runtime/random_weights.c: a module's shapes -> weights without a file, for tests and for timing models one does not
 * have. The generator is a hash of a counter (SplitMix64's finalizer over key + index), so an element depends on seed,
 * name, layer and index only: not on order, threads, other weights or the storage type. */
#include "runtime/weights_binding.h"

#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS_A_TURN = 16, ELEMENTS_A_THREAD = 1 << 20, MOST_THREADS = 32 };

static inline uint64_t mix(uint64_t x) {
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
  x = (x ^ x >> 27) * 0x94d049bb133111ebu;
  return x ^ x >> 31;
}

/* 23 bits -> uniform in (-1, 1): odd multiples of 2^-23, so exact and never 0. */
static inline float uniform(uint64_t bits) {
  return (float)(2 * (int32_t)(bits & 0x7fffff) + 1 - (1 << 23)) * 0x1p-23f;
}

static bool looks_like_norm(const ir_weight *weight) {
  if (strstr(weight->name, "norm") || strncmp(weight->name, "ln", 2) == 0) return true;
  for (int i = 0; i < weight->source_count; i++)
    if (strstr(weight->sources[i].pattern, "norm") && strstr(weight->sources[i].pattern, "weight")) return true;
  return false;
}

typedef struct filling {
  uint64_t key;
  float center, scale;
} filling;

/* One hash makes two elements of the row. */
static void fill_row(const filling *how, int64_t row_index, float *row, int64_t cols) {
  uint64_t key = mix(how->key + (uint64_t)row_index * 0xd1342543de82ef95u);
  for (int64_t i = 0; i < cols; i += 2) {
    uint64_t bits = mix(key + (uint64_t)i * 0x9e3779b97f4a7c15u);
    row[i] = how->center + how->scale * uniform(bits >> 41);
    if (i + 1 < cols) row[i + 1] = how->center + how->scale * uniform(bits >> 18);
  }
}

static filling filling_of(const ir_weight *weight, const rt_layer_shape *shape, uint64_t seed, int64_t layer) {
  uint8_t counter[8];
  memcpy(counter, &layer, sizeof counter);
  filling how = {.key = dp_hash(dp_hash(seed, weight->name, strlen(weight->name)), counter, sizeof counter)};
  if (shape->rank >= 2) {
    how.scale = sqrtf(3.0f / (float)shape->cols); /* uniform on (-s, s) deviates by s / sqrt(3) */
  } else {
    how.center = looks_like_norm(weight) ? 1.0f : 0.0f;
    how.scale = 0x1p-4f; /* a power of two: center + scale * u is the same with and without an fma */
  }
  return how;
}

/* Of an adapter, as PEFT begins: `a` uniform within 1 / sqrt(in), `b` zero, so that it changes nothing at first. */
static void begin_adapter(filling *how, int index, const rt_layer_shape *shape) {
  how->center = 0;
  how->scale = index % 2 ? 0 : 1 / sqrtf((float)shape->cols);
}

/* ---- the rows of all layers, some at a time by whichever thread is free */

typedef struct making {
  const ir_weight *weight;
  const rt_layer_shape *shape;
  uint64_t seed;
  ir_dtype storage;
  int64_t row_bytes, rows; /* rows: of all layers */
  int adapter;             /* index among an adapter's matrices, -1: of a model */
  uint8_t *memory;
  _Atomic int64_t next;
} making;

static void make_rows(const making *m, int64_t from, int64_t to, float *row) {
  filling how = {0};
  for (int64_t i = from; i < to; i++) {
    int64_t r = i % m->shape->rows;
    if (i == from || r == 0) {
      how = filling_of(m->weight, m->shape, m->seed, i / m->shape->rows);
      if (m->adapter >= 0) begin_adapter(&how, m->adapter, m->shape);
    }
    fill_row(&how, r, row, m->shape->cols);
    rt_quantize_row(m->storage, row, m->memory + i * m->row_bytes, m->shape->cols);
  }
}

static void *make_some(void *user) {
  making *m = user;
  float *row = malloc((size_t)m->shape->cols * sizeof *row);
  for (int64_t at; row && (at = atomic_fetch_add(&m->next, ROWS_A_TURN)) < m->rows;)
    make_rows(m, at, at + ROWS_A_TURN < m->rows ? at + ROWS_A_TURN : m->rows, row);
  free(row);
  return NULL;
}

static int helpers(const making *m) {
  cpu_set_t allowed;
  int64_t cores = sched_getaffinity(0, sizeof allowed, &allowed) == 0 ? CPU_COUNT(&allowed) : 1;
  int64_t worth = m->rows * m->shape->cols / ELEMENTS_A_THREAD, most = cores < MOST_THREADS ? cores : MOST_THREADS;
  return (int)((worth < most ? worth : most) - 1);
}

/* False when there is no memory for a row. */
static bool make_elements(making *m) {
  pthread_t threads[MOST_THREADS];
  int started = 0;
  for (int count = helpers(m); started < count; started++)
    if (pthread_create(&threads[started], NULL, make_some, m) != 0) break;
  make_some(m);
  for (int i = 0; i < started; i++) pthread_join(threads[i], NULL);
  return atomic_load(&m->next) >= m->rows;
}

/* Without a seed it is not made: an address of its own stands for each matrix. What stands so already gets its elements. */
static dp_status make_weight(const ir_module *module, int index, const uint64_t *seed, ir_dtype storage, bool adapter,
                             rt_binding *binding) {
  const ir_weight *weight = &module->weights[index];
  rt_layer_shape shape;
  const char *why;
  if (!rt_layer_shape_of(weight, &shape, &why))
    return dp_fail(DP_INVALID, "model '%s': the weight '%s' %s", module->name, weight->name, why);
  if (shape.rank < 2) storage = IR_f32;
  int64_t row_bytes = rt_row_bytes(storage, shape.cols), layer_bytes = 0, bytes;
  if (row_bytes < 0)
    return dp_fail(DP_INVALID,
                   "model '%s': the weight '%s' has rows of %" PRId64 " elements, %s stores them by %d: take "
                   "another storage type",
                   module->name, weight->name, shape.cols, ir_dtype_name(storage), ir_dtype_block_elements(storage));
  rt_bound *layers = binding->weights[index].layers; /* those tied to it look at them too */
  if (!layers) layers = DP_NEW_ARRAY(binding->arena, rt_bound, shape.count);
  uint8_t *memory = NULL, *names = seed ? NULL : DP_NEW_ARRAY(binding->arena, uint8_t, shape.count);
  if (seed && !__builtin_mul_overflow(row_bytes, shape.rows, &layer_bytes) &&
      !__builtin_mul_overflow(layer_bytes, shape.count, &bytes))
    memory = malloc((size_t)bytes);
  binding->memory[index] = memory;
  making m = {.weight = weight, .shape = &shape, .seed = seed ? *seed : 0, .storage = storage, .row_bytes = row_bytes,
              .rows = shape.rows * shape.count, .adapter = adapter ? index : -1, .memory = memory};
  if (seed && (!memory || !make_elements(&m)))
    return dp_fail(DP_NO_MEMORY, "no memory for the weight '%s' of model '%s'", weight->name, module->name);
  for (int64_t layer = 0; layer < shape.count; layer++)
    layers[layer] = (rt_bound){.data = seed ? memory + layer * layer_bytes : names + layer,
                               .dtype = storage,
                               .plain = true,
                               .vector = shape.rank < 2,
                               .rows = shape.rows,
                               .cols = shape.cols,
                               .row_bytes = row_bytes};
  binding->weights[index].layers = layers;
  binding->weights[index].layer_count = shape.count;
  return DP_SUCCESS;
}

static dp_status bind(ir_module *module, const uint64_t *seed, ir_dtype storage, bool adapter, rt_binding **out) {
  *out = NULL;
  if (storage == IR_i32)
    return dp_fail(DP_INVALID, "weights cannot be stored as i32: take a floating or quantized type");
  rt_binding *binding = rt_binding_new(module->weight_count);
  if (!binding) return dp_fail(DP_NO_MEMORY, "no memory for random weights");
  binding->memory = DP_NEW_ARRAY(binding->arena, void *, module->weight_count);
  dp_status status = DP_SUCCESS;
  dp_str problems = {0};
  for (int i = 0; i < module->weight_count && status.code == DP_OK; i++)
    if (!module->weights[i].tied) status = make_weight(module, i, seed, storage, adapter, binding);
  if (status.code == DP_OK) rt_bind_ties(module, binding, &problems);
  if (problems.length > 0) status = dp_fail(DP_INVALID, "model '%s':%s", module->name, problems.text);
  dp_str_free(&problems);
  if (status.code != DP_OK) {
    rt_binding_free(binding);
    return status;
  }
  rt_set_storage(module, binding);
  *out = binding;
  return DP_SUCCESS;
}

dp_status rt_bind_random(ir_module *module, uint64_t seed, ir_dtype storage, rt_binding **out) {
  return bind(module, &seed, storage, false, out);
}

dp_status rt_bind_new_adapter(ir_module *module, uint64_t seed, rt_binding **out) { return bind(module, &seed, IR_f32, true, out); }

dp_status rt_bind_shapes(ir_module *module, ir_dtype storage, rt_binding **out) { return bind(module, NULL, storage, false, out); }

dp_status rt_make_random(const ir_module *module, int count, uint64_t seed, rt_binding *binding) {
  for (int i = 0; i < count; i++)
    if (!module->weights[i].tied && binding->weights[i].layers) DP_TRY(make_weight(module, i, &seed, IR_f32, false, binding));
  return DP_SUCCESS;
}
