/* codegen/cuda/account.c: what an engine takes on a device, and when that is too much what would fit: tried through the
 * same account, the cheapest first. */
#include "codegen/cuda/account.h"

#include "ir/packing.h"

enum { SLACK = 256 /* that alignment may cost each allocation */ };

static int64_t pages_of(int64_t context) { return (context + TILE_CHUNK - 1) / TILE_CHUNK; }

static int64_t activation_bytes(const tile_program *p, int64_t rows) {
  int64_t bytes = 0;
  for (int space = 0; space < TILE_SPACE_COUNT; space++) {
    int64_t slabs = space == TILE_WINDOW ? p->window : space == TILE_NUMBERS ? 1 : tile_row_tiles(p, rows);
    bytes += p->slab_bytes[space] ? slabs * p->slab_bytes[space] + SLACK : 0;
  }
  return bytes;
}

static int64_t result_bytes(const tile_program *p) {
  int64_t bytes = 0;
  if (tile_find_entry(p, "pick") >= 0) bytes += (8 * CUDA_TURNS + 4) * p->row_tile + 32 + 3 * SLACK;
  for (int i = 0; i < p->buffer_count; i++)
    if (p->buffers[i].output >= 0) bytes += p->row_tile * p->buffers[i].stride * 4 + SLACK;
  return bytes;
}

/* Lists of a number a token, tables of weights and of the cache's pages. */
static int64_t argument_bytes(const tile_program *p, const tile_provision *v) {
  return 64 * (v->max_tokens + TILE_LANES) + 16 * p->slot_count + 8 * pages_of(v->context) + (64 << 10);
}

cuda_account cuda_measure(const tile_program *p, const cuda_device *device, const cuda_note *note,
                          const tile_provision *v) {
  return (cuda_account){.weights = v->weight_bytes + SLACK,
                        .cache = pages_of(v->context) * p->page_bytes + SLACK,
                        .activations = activation_bytes(p, v->max_tokens),
                        .results = result_bytes(p),
                        .scratch = (int64_t)note->scratch_floats * 4 * device->processors + SLACK,
                        .counters = 8 * cuda_counter_count(p, cuda_counter_tiles(p, v->max_tokens)) + SLACK,
                        .arguments = argument_bytes(p, v)};
}

int64_t cuda_account_sum(const cuda_account *a) {
  return a->weights + a->cache + a->activations + a->results + a->scratch + a->counters + a->arguments;
}

/* ---- what would fit */

static int64_t page_bytes_in_f16(const tile_program *p) {
  int64_t bytes = 0;
  for (int i = 0; i < p->cache_count; i++) {
    const tile_cache *c = &p->caches[i];
    bytes += 2 * (int64_t)(c->shared ? 1 : c->layers) * c->heads * (c->key_elements + c->value_elements);
  }
  return bytes;
}

static bool has_wide_cache(const tile_program *p) {
  for (int i = 0; i < p->cache_count; i++)
    if (p->caches[i].storage == IR_f32) return true;
  return false;
}

/* If matrices of more bits were stored as `type`; rows that are no whole blocks of it stay. */
static int64_t weight_bytes_as(const tile_program *p, const tile_provision *v, ir_dtype type) {
  int64_t bytes = v->weight_bytes, seen = -1; /* seen: offsets; a tied weight's slots are earlier ones */
  for (int i = 0; i < p->weight_count; i++) {
    const tile_weight *w = &p->weights[i];
    if (w->form != TILE_MATRIX || w->cols % ir_dtype_block_elements(type) != 0) continue;
    int64_t blocks = (w->rows + TILE_BLOCK - 1) / TILE_BLOCK * TILE_BLOCK, as = ir_packed_row_bytes(type, w->cols);
    for (int slot = w->first_slot; slot < w->first_slot + w->count * w->inner; slot++) {
      int64_t now = ir_packed_row_bytes((ir_dtype)v->weight_types[slot], w->cols);
      if (v->weight_offsets[slot] <= seen) continue;
      seen = v->weight_offsets[slot];
      if (now > as) bytes -= blocks * (now - as);
    }
  }
  return bytes > 0 ? bytes : 0;
}

typedef struct advice {
  const tile_program *program;
  const tile_provision *provision;
  cuda_account account;
  int64_t left;
  int found;
  dp_str text;
} advice;

static bool fits(const advice *a, int64_t weights, int64_t page_bytes, int64_t context) {
  cuda_account other = a->account;
  other.weights = weights + SLACK;
  other.cache = pages_of(context) * page_bytes + SLACK;
  return cuda_account_sum(&other) <= a->left;
}

/* The longest context of whole pages, 0: none. */
static int64_t longest(const advice *a, int64_t weights, int64_t page_bytes) {
  cuda_account other = a->account;
  other.weights = weights + SLACK;
  other.cache = SLACK;
  int64_t rest = a->left - cuda_account_sum(&other), context = a->provision->context;
  if (rest < page_bytes || page_bytes <= 0) return 0;
  int64_t most = rest / page_bytes * TILE_CHUNK;
  return most < context ? most : context;
}

static void tell(advice *a, const char *fmt, ...) DP_PRINTF(2, 3);
static void tell(advice *a, const char *fmt, ...) {
  va_list args;
  va_start(args, fmt);
  dp_str_add(&a->text, a->found++ ? "; or with " : "; it fits with ");
  dp_str_addv(&a->text, fmt, args);
  va_end(args);
}

static void advise(advice *a) {
  static const ir_dtype types[] = {IR_q8_0, IR_q4_0};
  const tile_program *p = a->program;
  int64_t weights = a->provision->weight_bytes, context = a->provision->context, half = page_bytes_in_f16(p), shorter;
  bool wide = has_wide_cache(p);
  if (wide && fits(a, weights, half, context)) tell(a, "a cache in f16 (--kv-type f16)");
  if ((shorter = longest(a, weights, p->page_bytes)) >= TILE_CHUNK)
    tell(a, "a context of %lld tokens (--ctx %lld)", (long long)shorter, (long long)shorter);
  else if (wide && (shorter = longest(a, weights, half)) >= TILE_CHUNK)
    tell(a, "a cache in f16 and a context of %lld tokens (--kv-type f16 --ctx %lld)", (long long)shorter,
         (long long)shorter);
  for (size_t i = 0; i < DP_COUNT(types); i++) {
    int64_t as = weight_bytes_as(p, a->provision, types[i]);
    const char *name = ir_dtype_name(types[i]);
    if (as >= weights) continue;
    if (fits(a, as, p->page_bytes, context))
      tell(a, "weights stored as %s, %.2f GB", name, (double)as * 1e-9);
    else if (!a->found && (shorter = longest(a, as, wide ? half : p->page_bytes)) >= TILE_CHUNK)
      tell(a, "weights stored as %s%s and a context of %lld tokens", name, wide ? ", a cache in f16" : "",
           (long long)shorter);
  }
  if (!a->found)
    dp_str_add(&a->text, "; no smaller context or weights of fewer bits make it fit: take a smaller model");
}

dp_status cuda_refuse_account(const tile_program *p, const cuda_device *device, const cuda_note *note,
                              const tile_provision *v, int64_t left) {
  advice a = {.program = p, .provision = v, .account = cuda_measure(p, device, note, v), .left = left};
  const cuda_account *m = &a.account;
  advise(&a);
  dp_status status = dp_fail(
      DP_NO_MEMORY,
      "%s has %.2f GB free of %.2f GB, and this takes %.2f GB there: weights %.2f GB, a cache of %lld tokens %.2f GB, "
      "activations of %lld tokens a step %.2f GB, the rest %.2f GB%s",
      device->name, (double)left * 1e-9, (double)device->memory * 1e-9, (double)cuda_account_sum(m) * 1e-9,
      (double)m->weights * 1e-9, (long long)v->context, (double)m->cache * 1e-9, (long long)v->max_tokens,
      (double)m->activations * 1e-9, (double)(m->results + m->scratch + m->counters + m->arguments) * 1e-9,
      a.text.text ? a.text.text : "");
  dp_str_free(&a.text);
  return status;
}
