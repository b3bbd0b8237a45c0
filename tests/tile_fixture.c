/* tests/tile_fixture.c: builds the programs op by op, packs random weights by the layout of tile.h, draws a ragged
 * step: sequences with and without a past, page tables in disorder, pages full of NaN where nothing may be read. */
#include "tests/tile_fixture.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { GUARD = 4096, CANARY = 0x7fc0dead };

static int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

static uint64_t next_random(fixture *f) {
  f->random += 0x9e3779b97f4a7c15u;
  return dp_hash(1, &f->random, sizeof f->random);
}

static int64_t between(fixture *f, int64_t low, int64_t high) {
  return low + (int64_t)(next_random(f) % (uint64_t)(high - low + 1));
}

static float uniform(uint64_t bits) { return (float)((double)(bits >> 11) * 0x1p-52 - 1.0); }

/* Memory of the step: aligned to 64 bytes, a guard behind it, canaries everywhere. */
static void *memory(fixture *f, size_t bytes) {
  char *raw = dp_arena_alloc(f->arena, bytes + GUARD + 64);
  char *at = raw + (64 - (uintptr_t)raw % 64) % 64;
  uint32_t canary = CANARY;
  for (size_t i = 0; i + 4 <= bytes + GUARD; i += 4) memcpy(at + i, &canary, 4);
  return at;
}

static bool is_canary(const void *at) {
  uint32_t bits;
  memcpy(&bits, at, 4);
  return bits == CANARY;
}

/* ---- building programs */

static int add_buffer(fixture *f, const char *name, tile_space space, int64_t cols) {
  tile_program *p = f->program;
  tile_buffer b = {.name = name,
                   .space = space,
                   .cols = cols,
                   .stride = round_up(cols, TILE_BLOCK),
                   .offset = p->slab_bytes[space],
                   .output = -1};
  p->slab_bytes[space] += round_up(p->row_tile * b.stride * 4, 64);
  DP_PUSH(p->arena, p->buffers, p->buffer_count, p->buffer_cap) = b;
  return p->buffer_count - 1;
}

static int add_output(fixture *f, const char *name, tile_space space, int64_t cols) {
  tile_program *p = f->program;
  tile_buffer b = {.name = name,
                   .space = space,
                   .cols = cols,
                   .stride = round_up(cols, TILE_BLOCK) + TILE_BLOCK,
                   .output = p->output_count++};
  DP_PUSH(p->arena, p->buffers, p->buffer_count, p->buffer_cap) = b;
  return p->buffer_count - 1;
}

static int add_weight(fixture *f, const char *name, tile_weight_form form, int64_t rows, int64_t cols, int count,
                      unsigned storage) {
  tile_program *p = f->program;
  tile_weight w = {.name = name,
                   .weight = p->weight_count,
                   .form = form,
                   .rows = rows,
                   .cols = cols,
                   .count = count,
                   .inner = 1,
                   .first_slot = p->slot_count,
                   .storage = storage};
  p->slot_count += count;
  DP_PUSH(p->arena, p->weights, p->weight_count, p->weight_cap) = w;
  return p->weight_count - 1;
}

static int add_matrix(fixture *f, const char *name, int64_t rows, int64_t cols, int count, unsigned storage) {
  return add_weight(f, name, TILE_MATRIX, rows, cols, count, storage);
}

static int add_vector(fixture *f, const char *name, int64_t cols, int count) {
  return add_weight(f, name, TILE_VECTOR, 1, cols, count, 1u << IR_f32);
}

static int add_input(fixture *f, const char *name) {
  tile_program *p = f->program;
  DP_PUSH(p->arena, p->inputs, p->input_count, p->input_cap) = name;
  return p->input_count - 1;
}

static int add_cache(fixture *f, int layers, int heads, int64_t key_dim, int64_t value_dim) {
  tile_program *p = f->program;
  tile_cache c = {.name = "kv",
                  .layers = layers,
                  .heads = heads,
                  .dim = {key_dim, value_dim},
                  .offset = p->page_bytes,
                  .key_elements = TILE_CHUNK * key_dim,
                  .value_elements = TILE_CHUNK * round_up(value_dim, TILE_BLOCK)};
  p->page_bytes += layers * heads * (c.key_elements + c.value_elements) * 4;
  DP_PUSH(p->arena, p->caches, p->cache_count, p->cache_cap) = c;
  return p->cache_count - 1;
}

static tile_kind start_kind(const fixture *f, const char *name, tile_space space, int64_t columns, int col_tile) {
  const tile_program *p = f->program;
  return (tile_kind){.name = name,
                     .space = space,
                     .max_rows = space == TILE_SEGMENTS ? p->segment_tokens : p->row_tile,
                     .group = 1,
                     .batches = 1,
                     .columns = columns,
                     .col_tile = col_tile,
                     .col_tasks = (int)((columns + col_tile - 1) / col_tile)};
}

static int add_op(fixture *f, tile_kind *k, tile_op op) { return tile_add_op(f->program, k, op); }

#define OP(...) add_op(f, &k, (tile_op){.index = -1, __VA_ARGS__})
#define OP_BY_INPUT(...) add_op(f, &k, (tile_op){__VA_ARGS__}) /* says its own index */
#define ONE(name, x, n) OP(.code = TILE_##name, .operands = {x}, .cols = n)
#define TWO(name, x, y, n) OP(.code = TILE_##name, .operands = {x, y}, .cols = n)
#define LOAD(buffer, n) OP(.code = TILE_load, .ref = buffer, .cols = n)
#define STORE(x, buffer, n) OP(.code = TILE_store, .operands = {x}, .ref = buffer, .cols = n)
#define CONSTANT(c) OP(.code = TILE_constant, .imm = c, .cols = 1, .one_row = true)

static int add_kind(fixture *f, tile_kind kind) {
  tile_program *p = f->program;
  DP_PUSH(p->arena, p->kinds, p->kind_count, p->kind_cap) = kind;
  return p->kind_count - 1;
}

static void add_section(fixture *f, int iterations) {
  tile_program *p = f->program;
  DP_PUSH(p->arena, p->sections, p->section_count, p->section_cap) =
      (tile_section){.first = p->group_count, .iterations = iterations};
}

static int add_group(fixture *f, tile_kind kind) {
  tile_program *p = f->program;
  if (!p->section_count) add_section(f, 1);
  p->sections[p->section_count - 1].count++;
  DP_PUSH(p->arena, p->groups, p->group_count, p->group_cap) =
      (tile_group){.kind = add_kind(f, kind), .section = p->section_count - 1};
  return p->group_count - 1;
}

static void add_wait(fixture *f, int group, int producer, tile_scope scope, tile_when when) {
  tile_group *g = &f->program->groups[group];
  DP_PUSH(f->program->arena, g->waits, g->wait_count, g->wait_cap) = (tile_wait){producer, scope, when};
}

/* ---- weights */

static double wide_f16(uint16_t half) {
  double sign = half & 0x8000 ? -1 : 1;
  int exponent = half >> 10 & 31, fraction = half & 1023;
  return exponent ? sign * ldexp(1024 + fraction, exponent - 25) : sign * ldexp(fraction, -24);
}

/* About 2^-3, sometimes zero or subnormal. */
static uint16_t random_half(fixture *f) {
  uint16_t exponent = between(f, 0, 20) == 0 ? 0 : (uint16_t)between(f, 8, 12);
  return (uint16_t)((next_random(f) & 0x83ff) | exponent << 10);
}

/* Element (row, k) of a plain type: random, written to its place, its value returned. */
static double put_plain(fixture *f, char *packed, ir_dtype type, int64_t cols, int64_t row, int64_t k) {
  int size = ir_dtype_block_bytes(type);
  char *at = packed + ((row / TILE_BLOCK * cols + k) * TILE_BLOCK + row % TILE_BLOCK) * size;
  float value = uniform(next_random(f)) * 0.25f;
  uint32_t bits;
  uint16_t half = random_half(f);
  memcpy(&bits, &value, 4);
  if (type == IR_bf16) {
    half = (uint16_t)(bits >> 16);
    bits &= 0xffff0000u;
    memcpy(&value, &bits, 4);
  }
  if (type == IR_f32)
    memcpy(at, &value, 4);
  else
    memcpy(at, &half, 2);
  return type == IR_f16 ? wide_f16(half) : (double)value;
}

/* A plane of codes of one row: random bits, put together `bits` a time. */
static int put_code(fixture *f, char *lines, int bits, int i) {
  char *byte = &lines[i * bits / 8 * TILE_BLOCK];
  int shift = i * bits % 8, mask = (1 << bits) - 1, code = (int)(next_random(f) >> 20) & mask;
  *byte = (char)((*byte & ~(mask << shift)) | code << shift);
  return code;
}

static int put_byte(fixture *f, char *at) { return (uint8_t)(*at = (char)(next_random(f) >> 20)); }

static double put_half(fixture *f, char *at) {
  uint16_t half = random_half(f);
  memcpy(at, &half, 2);
  return wide_f16(half);
}

/* The weights of one run (ir/packing.h) of a row from k on. */
static void put_run(fixture *f, char *packed, ir_dtype type, int64_t cols, int64_t row, int64_t k, double *values) {
  ir_packing p = ir_packing_of(type);
  int64_t block = row / TILE_BLOCK * TILE_BLOCK * ir_packed_row_bytes(type, cols), lane = row % TILE_BLOCK;
  char *halves = packed + block + k / p.elements * TILE_BLOCK * p.lines + 2 * lane, *run = halves - lane;
#define LINE(n) (&run[(n) * TILE_BLOCK])
  double d = p.exponent ? ldexp(1, put_byte(f, run) % 8 - 5) : put_half(f, halves), m = 0;
  if (p.exponent) run[0] = (char)(ilogb(d) + 128);
  if (p.has_minimum) m = put_half(f, halves + p.minimum_at * TILE_BLOCK);
  int zero = p.has_zero ? put_byte(f, LINE(p.zero_at)) & 15 : p.offset, group_count = p.elements / p.group;
  if (p.has_zero) *LINE(p.zero_at) = (char)zero;
  for (int g = 0; g < group_count; g++) {
    int number = p.groups == IR_GROUP_none ? 1 : put_byte(f, LINE(p.groups_at + g)), least = 0;
    if (p.groups == IR_GROUP_i8) number = (int8_t)number;
    if (p.groups == IR_GROUP_u8) least = put_byte(f, LINE(p.groups_at + group_count + g));
    if (p.groups == IR_GROUP_nibbles) least = number >> 4, number &= 15;
    for (int i = g * p.group; i < (g + 1) * p.group; i++) {
      int code = put_code(f, LINE(p.low_at), p.low_bits, i);
      if (p.high_bits) code |= put_code(f, LINE(p.high_at), p.high_bits, i) << p.low_bits;
      if (p.low_bits == 8) code = (int8_t)code;
      values[i] = d * number * (p.table ? p.table[code] : code - zero);
      if (p.has_minimum) values[i] = p.groups == IR_GROUP_none ? values[i] + m : values[i] - m * least;
    }
  }
#undef LINE
}

static void *pack_weight(fixture *f, const tile_weight *w, ir_dtype type, double *values) {
  int64_t rows = w->form == TILE_VECTOR ? 1 : round_up(w->rows, TILE_BLOCK);
  int64_t cols = w->form == TILE_VECTOR ? round_up(w->cols, TILE_LANES) : w->cols;
  int64_t row_bytes = ir_packed_row_bytes(type, cols);
  char *packed = memory(f, (size_t)(rows * row_bytes));
  if (w->form == TILE_VECTOR) {
    float *numbers = (float *)(void *)packed;
    for (int64_t c = 0; c < cols; c++) numbers[c] = c < w->cols ? uniform(next_random(f)) : 0.0f;
    for (int64_t c = 0; c < w->cols; c++) values[c] = (double)numbers[c];
    return packed;
  }
  for (int64_t r = 0; r < w->rows; r++) {
    if (ir_dtype_block_elements(type) == 1)
      for (int64_t k = 0; k < w->cols; k++) values[r * w->cols + k] = put_plain(f, packed, type, w->cols, r, k);
    else
      for (int64_t k = 0; k < w->cols; k += ir_dtype_block_elements(type))
        put_run(f, packed, type, w->cols, r, k, &values[r * w->cols + k]);
  }
  return packed;
}

static void make_weights(fixture *f) {
  const tile_program *p = f->program;
  const void **slots = DP_NEW_ARRAY(f->arena, const void *, p->slot_count + 1);
  uint8_t *types = DP_NEW_ARRAY(f->arena, uint8_t, p->slot_count + 1);
  f->weights = DP_NEW_ARRAY(f->arena, double *, p->slot_count + 1);
  for (int i = 0; i < p->weight_count; i++) {
    const tile_weight *w = &p->weights[i];
    for (int layer = 0; layer < w->count; layer++) {
      int slot = w->first_slot + layer, type = layer % IR_DTYPE_COUNT;
      while (!(w->storage >> type & 1)) type = (type + 1) % IR_DTYPE_COUNT;
      f->weights[slot] = DP_NEW_ARRAY(f->arena, double, w->rows * w->cols);
      types[slot] = (uint8_t)type;
      slots[slot] = pack_weight(f, w, (ir_dtype)type, f->weights[slot]);
    }
  }
  f->step.weights = slots;
  f->step.weight_types = types;
}

/* ---- the step */

static void draw_sequences(fixture *f) {
  f->sequences = (int)between(f, 1, 4);
  f->sequence_first = DP_NEW_ARRAY(f->arena, int, f->sequences);
  f->sequence_tokens = DP_NEW_ARRAY(f->arena, int, f->sequences);
  f->sequence_past = DP_NEW_ARRAY(f->arena, int, f->sequences);
  int tokens = 0;
  for (int s = 0; s < f->sequences; s++) {
    f->sequence_first[s] = tokens;
    f->sequence_tokens[s] = (int)(between(f, 0, 2) ? between(f, 1, 20) : 1);
    f->sequence_past[s] = (int)(between(f, 0, 2) ? between(f, 0, 150) : 0);
    tokens += f->sequence_tokens[s];
  }
  f->step.rows[TILE_TOKENS] = tokens;
}

/* Pages are handed out in disorder; one page more than needed is nobody's. */
static void make_pages(fixture *f) {
  int total = 0, used = 0;
  for (int s = 0; s < f->sequences; s++)
    total += (f->sequence_past[s] + f->sequence_tokens[s] + TILE_CHUNK - 1) / TILE_CHUNK;
  int32_t *pages = DP_NEW_ARRAY(f->arena, int32_t, total + 1);
  for (int i = 0; i <= total; i++) pages[i] = i;
  for (int i = total; i > 0; i--) {
    int j = (int)between(f, 0, i);
    int32_t page = pages[i];
    pages[i] = pages[j];
    pages[j] = page;
  }
  int64_t tokens = f->step.rows[TILE_TOKENS];
  int32_t *positions = DP_NEW_ARRAY(f->arena, int32_t, tokens), *slots = DP_NEW_ARRAY(f->arena, int32_t, tokens);
  int32_t *rows = DP_NEW_ARRAY(f->arena, int32_t, tokens), *counts = DP_NEW_ARRAY(f->arena, int32_t, tokens);
  int32_t *tables = DP_NEW_ARRAY(f->arena, int32_t, tokens), *ends = DP_NEW_ARRAY(f->arena, int32_t, tokens);
  f->sequence = DP_NEW_ARRAY(f->arena, int, tokens);
  int segments = 0, row_tile = f->program->row_tile;
  for (int s = 0; s < f->sequences; s++) {
    int first = f->sequence_first[s], end = first + f->sequence_tokens[s];
    for (int t = first; t < end; t++) {
      f->sequence[t] = s;
      positions[t] = f->sequence_past[s] + t - first;
      slots[t] = pages[used + positions[t] / TILE_CHUNK] * TILE_CHUNK + positions[t] % TILE_CHUNK;
    }
    for (int t = first, n; t < end; t += n) {
      n = f->program->segment_tokens;
      if (n > end - t) n = end - t;
      if (n > row_tile - t % row_tile) n = row_tile - t % row_tile;
      rows[segments] = t;
      counts[segments] = n;
      ends[segments] = positions[end - 1] + 1;
      tables[segments++] = used;
    }
    used += (positions[end - 1] + TILE_CHUNK) / TILE_CHUNK;
  }
  f->step.positions = positions;
  f->step.slots = slots;
  f->step.pages = pages;
  f->step.rows[TILE_SEGMENTS] = segments;
  f->step.segment_row = rows;
  f->step.segment_tokens = counts;
  f->step.segment_pages = tables;
  f->step.segment_end = ends;
  f->kv_bytes = (size_t)((total + 1) * f->program->page_bytes);
  f->step.kv = memory(f, f->kv_bytes);
}

float fixture_past(const fixture *f, int part, int layer, int sequence, int64_t position, int64_t head,
                   int64_t element) {
  uint64_t place[] = {f->seed,        (uint64_t)part,   (uint64_t)layer, (uint64_t)sequence, (uint64_t)position,
                      (uint64_t)head, (uint64_t)element};
  return uniform(dp_hash(7, place, sizeof place));
}

static void fill_past(fixture *f) {
  const tile_program *p = f->program;
  for (int s = 0, table = 0; s < f->sequences; s++) {
    for (int64_t position = 0; position < f->sequence_past[s]; position++) {
      int64_t page = f->step.pages[table + position / TILE_CHUNK], at = position % TILE_CHUNK;
      for (int c = 0; c < p->cache_count; c++) {
        const tile_cache *cache = &p->caches[c];
        for (int64_t unit = 0; unit < cache->layers * cache->heads; unit++) {
          float *keys = (float *)(void *)(f->step.kv + page * p->page_bytes + cache->offset) +
                        unit * (cache->key_elements + cache->value_elements);
          int layer = (int)(unit / cache->heads), head = (int)(unit % cache->heads);
          for (int64_t e = 0; e < cache->dim[0]; e++)
            keys[e * TILE_CHUNK + at] = fixture_past(f, 0, layer, s, position, head, e);
          for (int64_t e = 0; e < cache->dim[1]; e++)
            keys[cache->key_elements + (e / TILE_BLOCK * TILE_CHUNK + at) * TILE_BLOCK + e % TILE_BLOCK] =
                fixture_past(f, 1, layer, s, position, head, e);
        }
      }
    }
    table += (f->sequence_past[s] + f->sequence_tokens[s] + TILE_CHUNK - 1) / TILE_CHUNK;
  }
}

static float *element_at(const fixture *f, const tile_buffer *b, int64_t row, int64_t col) {
  if (b->output >= 0) return f->step.outputs[b->output] + row * b->stride + col;
  int64_t tile = row / f->program->row_tile, local = row % f->program->row_tile;
  char *slab = f->step.arena[b->space] + tile * f->program->slab_bytes[b->space] + b->offset;
  return (float *)(void *)slab + local * b->stride + col;
}

float fixture_element(const fixture *f, int buffer, int64_t row, int64_t col) {
  return *element_at(f, &f->program->buffers[buffer], row, col);
}

/* Mostly ordinary numbers, now and then the odd ones. */
static float random_float(fixture *f) {
  static const float odd[] = {0.0f, -0.0f, INFINITY, -INFINITY, NAN, 1e-41f, -3e38f, 3e38f, 88.25f, -87.5f, 1e9f};
  uint64_t bits = next_random(f);
  if (strcmp(f->program->name, "elementwise") == 0 && bits % 8 == 0) return odd[bits / 8 % DP_COUNT(odd)];
  if (strcmp(f->program->name, "elementwise") == 0) return uniform(dp_hash(3, &bits, 8)) * (float)(bits % 60);
  return uniform(bits);
}

static void make_activations(fixture *f) {
  const tile_program *p = f->program;
  for (int space = TILE_TOKENS; space < TILE_SPACE_COUNT; space++) {
    f->arena_bytes[space] = (size_t)(tile_row_tiles(p, f->step.rows[space]) * p->slab_bytes[space]);
    f->step.arena[space] = memory(f, f->arena_bytes[space]);
  }
  float **outputs = DP_NEW_ARRAY(f->arena, float *, p->output_count + 1);
  f->step.outputs = outputs;
  for (int i = 0; i < p->buffer_count; i++) {
    const tile_buffer *b = &p->buffers[i];
    int64_t rows = f->step.rows[b->space];
    if (b->output >= 0) {
      f->output_bytes[b->output] = (size_t)(rows * b->stride * 4);
      outputs[b->output] = memory(f, f->output_bytes[b->output]);
      continue;
    }
    for (int64_t r = 0; r < rows; r++)
      for (int64_t c = 0; c < b->cols; c++) *element_at(f, b, r, c) = random_float(f);
  }
}

/* Inputs are known by name. Every table of a program whose rows "tokens" picks has VOCABULARY rows. */
enum { VOCABULARY = 75 };

static void make_inputs(fixture *f) {
  const tile_program *p = f->program;
  int64_t tokens = f->step.rows[TILE_TOKENS], outputs = f->step.rows[TILE_OUTPUTS];
  const int32_t **inputs = DP_NEW_ARRAY(f->arena, const int32_t *, p->input_count + 1);
  for (int i = 0; i < p->input_count; i++) {
    bool rows = strcmp(p->inputs[i], "out_rows") == 0;
    int32_t *list = DP_NEW_ARRAY(f->arena, int32_t, (rows ? outputs : tokens) + 1);
    for (int64_t t = 0; t < (rows ? outputs : tokens); t++)
      list[t] = rows ? (int32_t)between(f, 0, tokens - 1) : (int32_t)between(f, 0, VOCABULARY - 1);
    inputs[i] = strcmp(p->inputs[i], "pos") == 0 ? f->step.positions : list;
  }
  f->step.inputs = inputs;
}

/* ---- the programs */

static void build_matmul(fixture *f, ir_dtype type) {
  int unit = ir_dtype_block_elements(type);
  int64_t k_cols = unit > 1 ? unit * between(f, 1, unit == 32 ? 6 : 2) : between(f, 1, 200), n = between(f, 1, 250);
  int tile = 64 * (int)between(f, 1, 3);
  f->part.x = add_buffer(f, "x", TILE_TOKENS, k_cols);
  f->part.y = add_output(f, "y", TILE_TOKENS, n);
  f->part.weight = add_matrix(f, "w", n, k_cols, 1, 1u << type);
  int copy = add_buffer(f, "copy", TILE_TOKENS, n);
  tile_kind k = start_kind(f, "matmul", TILE_TOKENS, n, tile);
  int x = LOAD(f->part.x, (int)k_cols);
  int y =
      OP(.code = TILE_mma, .operands = {x}, .ref = f->part.weight, .cols = tile, .col_step = tile, .column_tile = true);
  OP(.code = TILE_store, .operands = {y}, .ref = f->part.y, .cols = tile, .col_step = tile, .column_tile = true);
  OP(.code = TILE_store, .operands = {y}, .ref = copy, .cols = tile, .col_step = tile, .column_tile = true);
  k.prologue = 1;
  add_group(f, k);
}

static void build_matmul_f32(fixture *f) { build_matmul(f, IR_f32); }
static void build_matmul_f16(fixture *f) { build_matmul(f, IR_f16); }
static void build_matmul_bf16(fixture *f) { build_matmul(f, IR_bf16); }
static void build_matmul_q8_0(fixture *f) { build_matmul(f, IR_q8_0); }
static void build_matmul_q4_0(fixture *f) { build_matmul(f, IR_q4_0); }
static void build_matmul_q4_1(fixture *f) { build_matmul(f, IR_q4_1); }
static void build_matmul_q5_0(fixture *f) { build_matmul(f, IR_q5_0); }
static void build_matmul_q5_1(fixture *f) { build_matmul(f, IR_q5_1); }
static void build_matmul_q2_k(fixture *f) { build_matmul(f, IR_q2_k); }
static void build_matmul_q3_k(fixture *f) { build_matmul(f, IR_q3_k); }
static void build_matmul_q4_k(fixture *f) { build_matmul(f, IR_q4_k); }
static void build_matmul_q5_k(fixture *f) { build_matmul(f, IR_q5_k); }
static void build_matmul_q6_k(fixture *f) { build_matmul(f, IR_q6_k); }
static void build_matmul_iq4_nl(fixture *f) { build_matmul(f, IR_iq4_nl); }
static void build_matmul_mxfp4(fixture *f) { build_matmul(f, IR_mxfp4); }
static void build_matmul_int4(fixture *f) { build_matmul(f, IR_int4); }

/* Every type that rows of `cols` elements can have. */
static unsigned types_for(int64_t cols) {
  unsigned types = 0;
  for (int type = 0; type < IR_DTYPE_COUNT; type++)
    if (type != IR_i32 && cols % ir_dtype_block_elements((ir_dtype)type) == 0) types |= 1u << type;
  return types;
}

/* x * rsqrt(mean(x^2) + eps) * weight */
static int add_norm(fixture *f, tile_kind *kind, int x, int n, int weight) {
  tile_kind k = *kind;
  int sum = ONE(sum, TWO(mul, x, x, n), 1);
  int mean = TWO(mul, sum, CONSTANT(1.0f / (float)n), 1);
  int scale = ONE(rsqrt, TWO(add, mean, CONSTANT(1e-5f), 1), 1);
  int w = OP(.code = TILE_vector, .ref = weight, .cols = n, .one_row = true);
  int result = TWO(mul, TWO(mul, x, scale, n), w, n);
  *kind = k;
  return result;
}

/* A product with a whole matrix, `n` columns in tiles of `tile`, of value x; with what comes after left to the caller.
 */
static int add_product(fixture *f, tile_kind *kind, int x, int weight, int tile) {
  return add_op(f, kind,
                (tile_op){.code = TILE_mma,
                          .operands = {x},
                          .ref = weight,
                          .cols = tile,
                          .col_step = tile,
                          .column_tile = true,
                          .index = -1});
}

static void add_tile_store(fixture *f, tile_kind *kind, int x, int buffer, int tile) {
  add_op(f, kind,
         (tile_op){.code = TILE_store,
                   .operands = {x},
                   .ref = buffer,
                   .cols = tile,
                   .col_step = tile,
                   .column_tile = true,
                   .index = -1});
}

static int add_tile_load(fixture *f, tile_kind *kind, int buffer, int tile) {
  return add_op(
      f, kind,
      (tile_op){.code = TILE_load, .ref = buffer, .cols = tile, .col_step = tile, .column_tile = true, .index = -1});
}

/* x = x + rms_norm(x) w[layer] through y, seven layers in six storage types. */
static void build_layers(fixture *f) {
  enum { LAYERS = 7, N = 96 };
  f->part.x = add_buffer(f, "x", TILE_TOKENS, N);
  f->part.y = add_buffer(f, "y", TILE_TOKENS, N);
  f->part.output = add_output(f, "out", TILE_TOKENS, N);
  f->part.weight = add_matrix(f, "w", N, N, LAYERS, types_for(N));
  int norm = add_vector(f, "norm", N, LAYERS);
  add_section(f, LAYERS);
  tile_kind k = start_kind(f, "product", TILE_TOKENS, N, 64);
  int x = LOAD(f->part.x, N), normed = add_norm(f, &k, x, N, norm);
  k.prologue = k.op_count;
  add_tile_store(f, &k, add_product(f, &k, normed, f->part.weight, 64), f->part.y, 64);
  int product = add_group(f, k);
  k = start_kind(f, "residual", TILE_TOKENS, N, 64);
  int sum = OP(.code = TILE_add, .operands = {add_tile_load(f, &k, f->part.x, 64), add_tile_load(f, &k, f->part.y, 64)},
               .cols = 64, .column_tile = true);
  add_tile_store(f, &k, sum, f->part.x, 64);
  int residual = add_group(f, k);
  add_wait(f, product, residual, TILE_ROW, TILE_PREVIOUS);
  add_wait(f, residual, product, TILE_ROW, TILE_EVERY);
  add_section(f, 1);
  k = start_kind(f, "out", TILE_TOKENS, N, N);
  STORE(LOAD(f->part.x, N), f->part.output, N);
  add_wait(f, add_group(f, k), residual, TILE_ROW, TILE_EVERY);
}

static void build_embed(fixture *f) {
  int tokens = add_input(f, "tokens"), cols = (int)(between(f, 0, 1) ? 256 : 32 * between(f, 1, 5));
  tile_kind k = start_kind(f, "embed", TILE_TOKENS, cols, cols);
  for (int type = 0; type < IR_DTYPE_COUNT; type++) {
    if (!(types_for(cols) >> type & 1)) continue;
    int w = add_matrix(f, ir_dtype_name((ir_dtype)type), VOCABULARY, cols, 1, 1u << type);
    int row = OP_BY_INPUT(.code = TILE_embed, .ref = w, .index = tokens, .cols = cols);
    STORE(row, add_output(f, ir_dtype_name((ir_dtype)type), TILE_TOKENS, cols), cols);
  }
  add_group(f, k);
}

/* Sums and maxima of rows and of groups of columns, and what broadcasting makes of them. */
static void build_reduce(fixture *f) {
  int n = (int)between(f, 1, 200), groups = (int)between(f, 1, 5), size = (int)between(f, 1, 40), g = groups * size;
  f->part.x = add_buffer(f, "x", TILE_TOKENS, n);
  f->part.y = add_buffer(f, "grouped", TILE_TOKENS, g);
  f->part.dim = size;
  tile_kind k = start_kind(f, "reduce", TILE_TOKENS, n, n);
  int x = LOAD(f->part.x, n), sum = ONE(sum, x, 1), greatest = ONE(greatest, x, 1);
  f->part.o = add_output(f, "sum", TILE_TOKENS, 1);
  f->part.q = add_output(f, "greatest", TILE_TOKENS, 1);
  STORE(sum, f->part.o, 1);
  STORE(greatest, f->part.q, 1);
  STORE(TWO(sub, x, greatest, n), add_output(f, "below", TILE_TOKENS, n), n);
  int y = LOAD(f->part.y, g), sums = ONE(sum, y, groups), most = ONE(greatest, TWO(mul, y, y, g), groups);
  f->part.k = add_output(f, "sums", TILE_TOKENS, groups);
  STORE(sums, f->part.k, groups);
  STORE(TWO(div, TWO(sub, y, sums, g), most, g), add_output(f, "scaled", TILE_TOKENS, g), g);
  add_group(f, k);
}

/* Every function of scalar.def, side by side in one output, on odd numbers too. */
static void build_elementwise(fixture *f) {
  int n = (int)between(f, 1, 40), at = 0;
  f->part.x = add_buffer(f, "x", TILE_TOKENS, n);
  f->part.y = add_buffer(f, "y", TILE_TOKENS, n);
  f->part.dim = n;
  tile_kind k = start_kind(f, "elementwise", TILE_TOKENS, n, n);
  int x = LOAD(f->part.x, n), y = LOAD(f->part.y, n);
  int values[TILE_OPCODE_COUNT];
  for (int code = 0; code < TILE_OPCODE_COUNT; code++)
    if (tile_scalar_arity((tile_opcode)code))
      values[at++] = OP(.code = (tile_opcode)code, .operands = {x, y}, .cols = n);
  f->part.output = add_output(f, "out", TILE_TOKENS, at * n);
  for (int i = 0; i < at; i++)
    OP(.code = TILE_store, .operands = {values[i]}, .ref = f->part.output, .cols = n, .col_base = i * n);
  float *numbers = DP_NEW_ARRAY(f->program->arena, float, n);
  for (int i = 0; i < n; i++) numbers[i] = uniform(next_random(f));
  int table = OP(.code = TILE_table, .data = numbers, .cols = n, .one_row = true);
  int chain = TWO(mul, ONE(silu, TWO(add, x, table, n), n), ONE(sigmoid, TWO(sub, y, CONSTANT(0.5f), n), n), n);
  STORE(TWO(max, chain, ONE(neg, chain, n), n), add_output(f, "chain", TILE_TOKENS, n), n);
  add_group(f, k);
}

/* Values of one column that do not come from a reduction: loaded, a vector, a table, an input; and a product of
 * depth 1. */
static void build_narrow(fixture *f) {
  int n = (int)between(f, 1, 100), tokens = add_input(f, "tokens");
  f->part.x = add_buffer(f, "x", TILE_TOKENS, n);
  f->part.y = add_buffer(f, "scale", TILE_TOKENS, 1);
  int w = add_matrix(f, "w", n, 1, 1, 1u << IR_f32), v = add_vector(f, "v", 1, 1);
  float *number = DP_NEW(f->program->arena, float);
  *number = uniform(next_random(f));
  tile_kind k = start_kind(f, "narrow", TILE_TOKENS, n, n);
  int x = LOAD(f->part.x, n), scale = LOAD(f->part.y, 1);
  int vector = OP(.code = TILE_vector, .ref = v, .cols = 1, .one_row = true);
  int table = OP(.code = TILE_table, .data = number, .cols = 1, .one_row = true);
  int column =
      TWO(add, TWO(mul, scale, vector, 1), TWO(mul, OP(.code = TILE_input, .ref = tokens, .cols = 1), table, 1), 1);
  int product = OP(.code = TILE_mma, .operands = {scale}, .ref = w, .cols = n);
  STORE(TWO(add, TWO(mul, x, scale, n), column, n), add_output(f, "wide", TILE_TOKENS, n), n);
  STORE(TWO(mul, product, vector, n), add_output(f, "product", TILE_TOKENS, n), n);
  STORE(column, add_output(f, "column", TILE_TOKENS, 1), 1);
  STORE(ONE(exp, x, n), add_output(f, "spread", TILE_TOKENS, 3 * n), 3 * n); /* each column three times */
  add_group(f, k);
}

/* A value is what it was when it was made, though its buffer has been overwritten since: a residual and its norm at
 * once. */
static void build_in_place(fixture *f) {
  int n = (int)between(f, 1, 100);
  f->part.x = add_buffer(f, "x", TILE_TOKENS, n);
  f->part.y = add_buffer(f, "y", TILE_TOKENS, n);
  f->part.output = add_output(f, "normed", TILE_TOKENS, n);
  int norm = add_vector(f, "norm", n, 1);
  tile_kind k = start_kind(f, "in_place", TILE_TOKENS, n, n);
  int x = LOAD(f->part.x, n), sum = TWO(add, x, LOAD(f->part.y, n), n);
  STORE(sum, f->part.x, n);
  STORE(add_norm(f, &k, sum, n, norm), f->part.output, n);
  STORE(TWO(sub, x, sum, n), f->part.y, n);
  add_group(f, k);
}

/* Angles by columns into a buffer, then x rotated by them. */
static int add_angles(fixture *f, int pos, int dim, int angles) {
  int half = dim / 2;
  tile_kind k = start_kind(f, "angles", TILE_TOKENS, dim, dim);
  float *frequencies = DP_NEW_ARRAY(f->program->arena, float, half);
  for (int i = 0; i < half; i++) frequencies[i] = (float)pow(10000.0, -2.0 * i / dim);
  int table = OP(.code = TILE_table, .data = frequencies, .cols = half, .one_row = true);
  int angle = TWO(mul, OP(.code = TILE_input, .ref = pos, .cols = 1), table, half);
  STORE(ONE(cos, angle, half), angles, half);
  OP(.code = TILE_store, .operands = {ONE(sin, angle, half)}, .ref = angles, .cols = half, .col_base = half);
  return add_group(f, k);
}

static void build_rotate(fixture *f) {
  static const int dims[] = {2, 6, 8, 12, 32, 64};
  int dim = dims[between(f, 0, DP_COUNT(dims) - 1)], heads = (int)between(f, 1, 4), n = heads * dim;
  int pos = add_input(f, "pos"), angles = add_buffer(f, "angles", TILE_TOKENS, dim);
  f->part.x = add_buffer(f, "x", TILE_TOKENS, n);
  f->part.output = add_output(f, "out", TILE_TOKENS, n);
  f->part.dim = dim;
  int before = add_angles(f, pos, dim, angles);
  tile_kind k = start_kind(f, "rotate", TILE_TOKENS, n, n);
  int x = LOAD(f->part.x, n), turns = LOAD(angles, dim);
  STORE(OP(.code = TILE_rotate, .operands = {x, turns}, .cols = n, .dim = dim), f->part.output, n);
  add_wait(f, add_group(f, k), before, TILE_ROW, TILE_EVERY);
}

/* Column tiles whose last one is narrower, vectors, values used by two stores. */
static void build_columns(fixture *f) {
  int n = (int)between(f, 1, 200), tile = 64 * (int)between(f, 1, 2);
  f->part.x = add_buffer(f, "x", TILE_TOKENS, n);
  f->part.y = add_buffer(f, "y", TILE_TOKENS, n);
  f->part.output = add_output(f, "out", TILE_TOKENS, n);
  f->part.weight = add_vector(f, "scale", n, 1);
  tile_kind k = start_kind(f, "columns", TILE_TOKENS, n, tile);
  int x = add_tile_load(f, &k, f->part.x, tile);
  int w = OP(.code = TILE_vector, .ref = f->part.weight, .cols = tile, .col_step = tile, .one_row = true,
             .column_tile = true);
  int product = OP(.code = TILE_mul, .operands = {x, w}, .cols = tile, .column_tile = true);
  add_tile_store(f, &k, product, f->part.output, tile);
  add_tile_store(f, &k, OP(.code = TILE_add, .operands = {product, x}, .cols = tile, .column_tile = true), f->part.y,
                 tile);
  add_group(f, k);
}

/* softmax(q k^T scale) v over the chunks, the running maximum and sum carried; heads of the same key head are rows. */
static tile_kind attention_kind(fixture *f) {
  int dim = (int)f->part.dim, value_dim = (int)f->part.value_dim, group = (int)f->part.group;
  tile_kind k = start_kind(f, "attend", TILE_SEGMENTS, f->part.heads, 1);
  k.group = group;
  k.max_rows *= group;
  int q = OP(.code = TILE_load, .ref = f->part.q, .cols = dim, .col_step = (int64_t)group * dim, .group_step = dim);
  int scaled = TWO(mul, q, CONSTANT(1.0f / sqrtf((float)dim)), dim);
  int lowest = CONSTANT(-INFINITY), zero = CONSTANT(0.0f);
  OP(.code = TILE_loop);
  int most = ONE(carry, lowest, 1), total = ONE(carry, zero, 1), sum = ONE(carry, zero, value_dim);
  int raw = OP(.code = TILE_mma_keys, .operands = {scaled}, .ref = f->part.cache, .cols = TILE_CHUNK);
  int scores = ONE(causal, raw, TILE_CHUNK);
  int next_most = TWO(max, most, ONE(greatest, scores, 1), 1);
  int weights = ONE(exp, TWO(sub, scores, next_most, TILE_CHUNK), TILE_CHUNK);
  int fade = ONE(exp, TWO(sub, most, next_most, 1), 1);
  int next_total = TWO(add, TWO(mul, total, fade, 1), ONE(sum, weights, 1), 1);
  int faded = TWO(mul, sum, fade, value_dim);
  int next_sum = OP(.code = TILE_mma_values, .operands = {weights, faded}, .ref = f->part.cache, .cols = value_dim);
  int *list = DP_NEW_ARRAY(f->program->arena, int, 3);
  list[0] = next_most, list[1] = next_total, list[2] = next_sum;
  OP(.code = TILE_next, .list = list, .list_count = 3);
  OP(.code = TILE_store, .operands = {TWO(div, sum, total, value_dim)}, .ref = f->part.o, .cols = value_dim,
     .col_step = (int64_t)group * value_dim, .group_step = value_dim);
  return k;
}

static tile_kind append_kind(fixture *f) {
  int keys = (int)(f->part.heads * f->part.dim), values = (int)(f->part.heads * f->part.value_dim);
  tile_kind k = start_kind(f, "append", TILE_TOKENS, keys, keys);
  OP(.code = TILE_append, .operands = {LOAD(f->part.k, keys)}, .ref = f->part.cache, .dim = f->part.dim);
  OP(.code = TILE_append, .operands = {LOAD(f->part.v, values)}, .ref = f->part.cache, .part = 1,
     .dim = f->part.value_dim);
  return k;
}

static void build_attention(fixture *f) {
  static const int dims[] = {8, 20, 32, 48, 64};
  f->part.dim = dims[between(f, 0, 4)];
  f->part.value_dim = between(f, 0, 1) ? f->part.dim : dims[between(f, 0, 4)];
  f->part.heads = between(f, 1, 3);
  f->part.group = between(f, 1, 4);
  f->part.q = add_buffer(f, "q", TILE_TOKENS, f->part.heads * f->part.group * f->part.dim);
  f->part.k = add_buffer(f, "k", TILE_TOKENS, f->part.heads * f->part.dim);
  f->part.v = add_buffer(f, "v", TILE_TOKENS, f->part.heads * f->part.value_dim);
  f->part.o = add_output(f, "o", TILE_TOKENS, f->part.heads * f->part.group * f->part.value_dim);
  f->part.cache = add_cache(f, 1, (int)f->part.heads, f->part.dim, f->part.value_dim);
  int append = add_group(f, append_kind(f));
  add_wait(f, add_group(f, attention_kind(f)), append, TILE_PREFIX, TILE_EVERY);
}

/* Chosen rows of x, normed, times a head. */
static void build_gather(fixture *f) {
  int cols = (int)between(f, 1, 100), n = (int)between(f, 1, 150), rows = add_input(f, "out_rows");
  f->part.x = add_buffer(f, "x", TILE_TOKENS, cols);
  f->part.y = add_buffer(f, "normed", TILE_OUTPUTS, cols);
  f->part.output = add_output(f, "logits", TILE_OUTPUTS, n);
  f->part.weight = add_matrix(f, "head", n, cols, 1, 1u << IR_f32);
  int norm = add_vector(f, "norm", cols, 1);
  tile_kind k = start_kind(f, "choose", TILE_OUTPUTS, cols, cols);
  int x = OP_BY_INPUT(.code = TILE_load, .ref = f->part.x, .index = rows, .cols = cols);
  STORE(add_norm(f, &k, x, cols, norm), f->part.y, cols);
  int choose = add_group(f, k);
  k = start_kind(f, "head", TILE_OUTPUTS, n, 64);
  add_tile_store(f, &k, add_product(f, &k, LOAD(f->part.y, cols), f->part.weight, 64), f->part.output, 64);
  add_wait(f, add_group(f, k), choose, TILE_ROW, TILE_EVERY);
}

/* A whole llama of two layers, as a schedule would cut it; the buffers of a layer share memory where they may. */
static void build_llama(fixture *f) {
  enum { LAYERS = 2, D = 128, HEADS = 2, GROUP = 2, DIM = 32, FF = 192, Q = HEADS * GROUP * DIM, KV = HEADS * DIM };
  unsigned storage = 1u << IR_q8_0 | 1u << IR_q4_1;
  int tokens = add_input(f, "tokens"), pos = add_input(f, "pos"), rows = add_input(f, "out_rows");
  int x = add_buffer(f, "x", TILE_TOKENS, D), angles = add_buffer(f, "angles", TILE_TOKENS, DIM);
  int q = add_buffer(f, "q", TILE_TOKENS, Q), kv_k = add_buffer(f, "k", TILE_TOKENS, KV);
  int kv_v = add_buffer(f, "v", TILE_TOKENS, KV), o = add_buffer(f, "o", TILE_TOKENS, Q);
  int h = add_buffer(f, "h", TILE_TOKENS, FF), last = add_buffer(f, "last", TILE_OUTPUTS, D);
  f->program->buffers[h].offset = f->program->buffers[q].offset; /* q is dead by then, k and v too */
  f->part.output = add_output(f, "logits", TILE_OUTPUTS, VOCABULARY);
  f->part.q = q, f->part.k = kv_k, f->part.v = kv_v, f->part.o = o;
  f->part.heads = HEADS, f->part.group = GROUP, f->part.dim = f->part.value_dim = DIM;
  f->part.cache = add_cache(f, LAYERS, HEADS, DIM, DIM);
  int embed = add_matrix(f, "embed", VOCABULARY, D, 1, 1u << IR_q8_0), norm1 = add_vector(f, "norm1", D, LAYERS);
  int wq = add_matrix(f, "wq", Q, D, LAYERS, storage), wk = add_matrix(f, "wk", KV, D, LAYERS, storage);
  int wv = add_matrix(f, "wv", KV, D, LAYERS, storage), wo = add_matrix(f, "wo", D, Q, LAYERS, storage);
  int norm2 = add_vector(f, "norm2", D, LAYERS), gate = add_matrix(f, "gate", FF, D, LAYERS, storage);
  int up = add_matrix(f, "up", FF, D, LAYERS, storage), down = add_matrix(f, "down", D, FF, LAYERS, 1u << IR_f16);
  int norm = add_vector(f, "norm", D, 1);

  tile_kind k = start_kind(f, "embed", TILE_TOKENS, D, D);
  STORE(OP_BY_INPUT(.code = TILE_embed, .ref = embed, .index = tokens, .cols = D), x, D);
  int g_embed = add_group(f, k), g_angles = add_angles(f, pos, DIM, angles);

  add_section(f, LAYERS);
  k = start_kind(f, "q", TILE_TOKENS, Q, 64);
  int normed = add_norm(f, &k, LOAD(x, D), D, norm1), turns = LOAD(angles, DIM);
  k.prologue = k.op_count;
  int product = add_product(f, &k, normed, wq, 64);
  add_tile_store(
      f, &k, OP(.code = TILE_rotate, .operands = {product, turns}, .cols = 64, .dim = DIM, .column_tile = true), q, 64);
  int g_q = add_group(f, k);
  k = start_kind(f, "kv", TILE_TOKENS, KV, 64);
  normed = add_norm(f, &k, LOAD(x, D), D, norm1), turns = LOAD(angles, DIM);
  k.prologue = k.op_count;
  product = add_product(f, &k, normed, wk, 64);
  int rotated = OP(.code = TILE_rotate, .operands = {product, turns}, .cols = 64, .dim = DIM, .column_tile = true);
  OP(.code = TILE_append, .operands = {rotated}, .ref = f->part.cache, .cols = 64, .col_step = 64, .dim = DIM);
  product = add_product(f, &k, normed, wv, 64);
  OP(.code = TILE_append, .operands = {product}, .ref = f->part.cache, .cols = 64, .col_step = 64, .part = 1,
     .dim = DIM);
  int g_kv = add_group(f, k), g_attend = add_group(f, attention_kind(f));
  k = start_kind(f, "wo", TILE_TOKENS, D, 64);
  product = add_product(f, &k, LOAD(o, Q), wo, 64);
  add_tile_store(
      f, &k, OP(.code = TILE_add, .operands = {add_tile_load(f, &k, x, 64), product}, .cols = 64, .column_tile = true),
      x, 64);
  int g_o = add_group(f, k);
  k = start_kind(f, "gate_up", TILE_TOKENS, FF, 128);
  normed = add_norm(f, &k, LOAD(x, D), D, norm2);
  k.prologue = k.op_count;
  int silu =
      OP(.code = TILE_silu, .operands = {add_product(f, &k, normed, gate, 128)}, .cols = 128, .column_tile = true);
  add_tile_store(
      f, &k,
      OP(.code = TILE_mul, .operands = {silu, add_product(f, &k, normed, up, 128)}, .cols = 128, .column_tile = true),
      h, 128);
  int g_gate = add_group(f, k);
  k = start_kind(f, "down", TILE_TOKENS, D, 64);
  product = add_product(f, &k, LOAD(h, FF), down, 64);
  add_tile_store(
      f, &k, OP(.code = TILE_add, .operands = {add_tile_load(f, &k, x, 64), product}, .cols = 64, .column_tile = true),
      x, 64);
  int g_down = add_group(f, k);

  add_section(f, 1);
  k = start_kind(f, "choose", TILE_OUTPUTS, D, D);
  int chosen = OP_BY_INPUT(.code = TILE_load, .ref = x, .index = rows, .cols = D);
  STORE(add_norm(f, &k, chosen, D, norm), last, D);
  int g_choose = add_group(f, k);
  k = start_kind(f, "head", TILE_OUTPUTS, VOCABULARY, 64);
  add_tile_store(f, &k, add_product(f, &k, LOAD(last, D), embed, 64), f->part.output, 64);
  int g_head = add_group(f, k);

  add_wait(f, g_q, g_embed, TILE_ROW, TILE_FIRST);
  add_wait(f, g_q, g_angles, TILE_ROW, TILE_FIRST);
  add_wait(f, g_q, g_down, TILE_ROW, TILE_PREVIOUS);
  add_wait(f, g_kv, g_embed, TILE_ROW, TILE_FIRST);
  add_wait(f, g_kv, g_angles, TILE_ROW, TILE_FIRST);
  add_wait(f, g_kv, g_down, TILE_ROW, TILE_PREVIOUS);
  add_wait(f, g_attend, g_q, TILE_ROW, TILE_EVERY);
  add_wait(f, g_attend, g_kv, TILE_PREFIX, TILE_EVERY);
  add_wait(f, g_o, g_attend, TILE_ROW, TILE_EVERY);
  add_wait(f, g_gate, g_o, TILE_ROW, TILE_EVERY);
  add_wait(f, g_down, g_gate, TILE_ROW, TILE_EVERY);
  add_wait(f, g_choose, g_down, TILE_ALL, TILE_EVERY);
  add_wait(f, g_head, g_choose, TILE_ROW, TILE_EVERY);
}

static const struct {
  const char *name;
  void (*build)(fixture *f);
} programs[] = {
    {"matmul_f32", build_matmul_f32},
    {"matmul_f16", build_matmul_f16},
    {"matmul_bf16", build_matmul_bf16},
    {"matmul_q8_0", build_matmul_q8_0},
    {"matmul_q4_0", build_matmul_q4_0},
    {"matmul_q4_1", build_matmul_q4_1},
    {"matmul_q5_0", build_matmul_q5_0},
    {"matmul_q5_1", build_matmul_q5_1},
    {"matmul_q2_k", build_matmul_q2_k},
    {"matmul_q3_k", build_matmul_q3_k},
    {"matmul_q4_k", build_matmul_q4_k},
    {"matmul_q5_k", build_matmul_q5_k},
    {"matmul_q6_k", build_matmul_q6_k},
    {"matmul_iq4_nl", build_matmul_iq4_nl},
    {"matmul_mxfp4", build_matmul_mxfp4},
    {"matmul_int4", build_matmul_int4},
    {"layers", build_layers},
    {"embed", build_embed},
    {"reduce", build_reduce},
    {"elementwise", build_elementwise},
    {"rotate", build_rotate},
    {"columns", build_columns},
    {"narrow", build_narrow},
    {"in_place", build_in_place},
    {"attention", build_attention},
    {"gather", build_gather},
    {"llama", build_llama},
};

int fixture_count(void) { return (int)DP_COUNT(programs); }
const char *fixture_name(int index) { return programs[index].name; }

int fixture_find(const char *name) {
  for (int i = 0; i < fixture_count(); i++)
    if (strcmp(programs[i].name, name) == 0) return i;
  return -1;
}

fixture *fixture_build(int index, uint64_t seed) {
  dp_arena *arena = dp_arena_new();
  fixture *f = DP_NEW(arena, fixture);
  f->arena = arena;
  f->seed = seed;
  f->random = dp_hash(seed, programs[index].name, strlen(programs[index].name));
  tile_program *p = f->program = tile_program_new(programs[index].name);
  p->row_tile = 1 << between(f, 1, 4);
  p->segment_tokens = (int)between(f, 1, p->row_tile < 8 ? p->row_tile : 8);
  programs[index].build(f);
  draw_sequences(f);
  f->step.rows[TILE_OUTPUTS] = between(f, 1, 2 * p->row_tile + 1);
  make_pages(f);
  fill_past(f);
  make_weights(f);
  make_inputs(f);
  make_activations(f);
  return f;
}

void fixture_free(fixture *f) {
  tile_program_free(f->program);
  dp_arena_free(f->arena);
}

/* ---- running */

typedef struct scratch {
  char *at; /* aligned; a guard of GUARD bytes behind `bytes` */
  size_t bytes;
} scratch;

static void poison(const scratch *s) { memset(s->at, 0xff, s->bytes); }

static int64_t group_rows(const fixture *f, const tile_kind *kind) {
  int64_t rows = f->step.rows[kind->space];
  return kind->space == TILE_SEGMENTS ? rows : tile_row_tiles(f->program, rows);
}

/* All tasks of a group: row by row, from a random row and column on. */
static void run_group(fixture *f, const tile_code *code, int group, int64_t layer, const scratch *s) {
  int kind_index = f->program->groups[group].kind;
  const tile_kind *kind = &f->program->kinds[kind_index];
  int64_t rows = group_rows(f, kind), first_row = rows ? between(f, 0, rows - 1) : 0;
  for (int64_t i = 0; i < rows; i++) {
    int64_t row = (first_row + i) % rows, first_col = between(f, 0, kind->col_tasks - 1);
    for (int64_t j = 0; j < kind->col_tasks; j++) {
      bool reuse = j > 0 && kind->prologue > 0 && between(f, 0, 3) != 0;
      if (!reuse) poison(s);
      code->run(code, kind_index, &f->step, layer, row, (first_col + j) % kind->col_tasks, s->at, reuse);
    }
  }
}

static bool guard_is_whole(const void *memory, size_t bytes) {
  for (size_t i = 0; i < GUARD; i += 4)
    if (!is_canary((const char *)memory + round_up((int64_t)bytes, 4) + i)) return false;
  return true;
}

static bool outputs_are_whole(const fixture *f, dp_str *why) {
  for (int i = 0; i < f->program->buffer_count; i++) {
    const tile_buffer *b = &f->program->buffers[i];
    if (b->output < 0) continue;
    bool sound = guard_is_whole(f->step.outputs[b->output], f->output_bytes[b->output]);
    for (int64_t r = 0; r < f->step.rows[b->space]; r++)
      for (int64_t c = b->cols; c < b->stride; c++) sound = sound && is_canary(element_at(f, b, r, c));
    if (!sound) dp_str_addf(why, "output '%s' was written beyond its columns or rows", b->name);
    if (!sound) return false;
  }
  return true;
}

bool fixture_run(fixture *f, const tile_code *code, dp_str *why) {
  char *raw = malloc(code->scratch_bytes + GUARD + 128);
  if (!raw) return false;
  scratch s = {raw + (64 - (uintptr_t)raw % 64) % 64, (code->scratch_bytes + 3) / 4 * 4};
  uint32_t canary = CANARY;
  for (size_t i = 0; i < GUARD; i += 4) memcpy(s.at + s.bytes + i, &canary, 4);
  for (int i = 0; i < f->program->section_count; i++) {
    const tile_section *section = &f->program->sections[i];
    for (int64_t layer = 0; layer < section->iterations; layer++)
      for (int g = 0; g < section->count; g++) run_group(f, code, section->first + g, layer, &s);
  }
  bool sound = guard_is_whole(s.at, s.bytes);
  free(raw);
  if (!sound) dp_str_add(why, "the scratch was written beyond its end");
  sound = sound && outputs_are_whole(f, why);
  for (int space = 0; space < TILE_SPACE_COUNT && sound; space++) {
    sound = !f->step.arena[space] || guard_is_whole(f->step.arena[space], f->arena_bytes[space]);
    if (!sound) dp_str_add(why, "the slabs were written beyond their end");
  }
  if (sound && !guard_is_whole(f->step.kv, f->kv_bytes)) {
    dp_str_add(why, "the cache was written beyond its end");
    sound = false;
  }
  return sound;
}

/* Which NaN it is says nothing. */
static bool same_bits(float a, float b) { return memcmp(&a, &b, 4) == 0 || (isnan(a) && isnan(b)); }

bool fixture_same(const fixture *a, const fixture *b, dp_str *why) {
  const tile_program *p = a->program;
  for (int i = 0; i < p->buffer_count; i++) {
    for (int64_t r = 0; r < a->step.rows[p->buffers[i].space]; r++) {
      for (int64_t c = 0; c < p->buffers[i].cols; c++) {
        float x = fixture_element(a, i, r, c), y = fixture_element(b, i, r, c);
        if (same_bits(x, y)) continue;
        dp_str_addf(why, "%s seed %" PRIu64 ": %s[%" PRId64 ", %" PRId64 "] is %.9g (%a) and %.9g (%a)", p->name,
                    a->seed, p->buffers[i].name, r, c, (double)x, (double)x, (double)y, (double)y);
        return false;
      }
    }
  }
  for (size_t i = 0; i < a->kv_bytes; i += 4) {
    float x, y;
    memcpy(&x, a->step.kv + i, 4);
    memcpy(&y, b->step.kv + i, 4);
    if (same_bits(x, y)) continue;
    dp_str_addf(why, "%s seed %" PRIu64 ": byte %zu of the cache is part of %.9g and of %.9g", p->name, a->seed, i,
                (double)x, (double)y);
    return false;
  }
  return true;
}
