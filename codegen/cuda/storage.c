/* codegen/cuda/storage.c: a storage type (ir/packing.h) as a struct of the text: `decode` gives the next `step`
 * elements of one row from a page of staged units, `element` any element from a packed block. */
#include "codegen/cuda/cuda.h"

#include <inttypes.h>

enum { PAGE_BYTES = 4096 }; /* about what a page of the ring holds of a block */

/* Weights of that type, or caches. */
bool cu_is_stored(const tile_program *p, ir_dtype storage) {
  if (storage == IR_f32) return true;
  for (int i = 0; i < p->weight_count; i++)
    if (p->weights[i].storage >> storage & 1) return true;
  for (int i = 0; i < p->cache_count; i++)
    if (p->caches[i].storage == storage) return true;
  return false;
}

static void plain(cuda *e, ir_dtype storage) {
  int size = ir_dtype_block_bytes(storage);
  const char *element = storage == IR_f32   ? "((const float *)at)[i]"
                        : storage == IR_f16 ? "f32_of_f16(((const u16 *)at)[i])"
                                            : "f32_of_bf16(((const u16 *)at)[i])";
  cu_line(e, "enum { elements = 1, unit_bytes = %d, piece_units = %d, step = 1 };", size * TILE_BLOCK,
          PAGE_BYTES / (size * TILE_BLOCK));
  cu_line(e, "static float plain(const char *at, i64 i) { return %s; }", element);
  cu_line(e,
          "static void decode(const char *page, int lane, int i, float *w) { w[0] = plain(page, i * LINE + lane); }");
  cu_line(e, "static float element(const char *block, int k, int lane) { return plain(block, (i64)k * LINE + lane); }");
  if (!cu_is_tensor(e, storage)) return;
  const char *name = ir_dtype_name(storage);
  cu_line(e, "static u32 pair(float low, float high) { return pair_of_%s(low, high); }", name);
  cu_line(e, "static void multiply(float *c, const u32 *a, u32 b0, u32 b1) { multiply_%s(c, a, b0, b1); }", name);
}

static void code_text(cuda *e, const char *name, int at, int bits) {
  if (bits == 8)
    cu_line(e, "static int %s(const u8 *row, int i) { return (signed char)row[(%d + i) * LINE]; }", name, at);
  else
    cu_line(e, "static int %s(const u8 *row, int i) { return row[(%d + i / %d) * LINE] >> i %% %d * %d & %d; }", name,
            at, 8 / bits, 8 / bits, bits, (1 << bits) - 1);
}

static void levels(cuda *e, const int8_t *table) {
  uint64_t halves[2] = {0, 0};
  for (int i = 0; i < 16; i++) halves[i / 8] |= (uint64_t)(uint8_t)table[i] << i % 8 * 8;
  cu_line(e,
          "static int level(int code) { return (signed char)((code < 8 ? 0x%016" PRIx64 "ull : 0x%016" PRIx64
          "ull) >> code %% 8 * 8); }",
          halves[0], halves[1]);
}

static void number_text(cuda *e, const ir_packing *p) {
  const char *code = p->high_bits ? "(low(row, i) | high(row, i) << low_bits)" : "low(row, i)";
  code_text(e, "low", p->low_at, p->low_bits);
  if (p->high_bits) code_text(e, "high", p->high_at, p->high_bits);
  if (p->table) levels(e, p->table);
  if (p->table)
    cu_line(e, "static float number(const u8 *row, int i) { return (float)level(%s); }", code);
  else if (p->has_zero)
    cu_line(e, "static float number(const u8 *row, int i) { return (float)(%s - row[%d * LINE]); }", code, p->zero_at);
  else
    cu_line(e, "static float number(const u8 *row, int i) { return (float)(%s - %d); }", code, p->offset);
}

/* The scale of a group, and its minimum. */
static void scale_text(cuda *e, const ir_packing *p) {
  int groups = p->elements / p->group;
  cu_open(e, "static float scale(const char *run, int lane, int group, float *minimum)");
  cu_line(e, "const u8 *row = (const u8 *)run + lane;");
  if (p->exponent)
    cu_line(e, "float d = f32_of_bits(row[0] < 2 ? 0x200000u << row[0] : (u32)(row[0] - 1) << 23);");
  else
    cu_line(e, "float d = f32_of_f16(((const u16 *)run)[lane]);");
  if (p->has_minimum) cu_line(e, "float m = f32_of_f16(((const u16 *)(run + %d * LINE))[lane]);", p->minimum_at);
  if (p->groups == IR_GROUP_i8) cu_line(e, "d = MUL(d, (float)(signed char)row[(%d + group) * LINE]);", p->groups_at);
  if (p->groups == IR_GROUP_u8) {
    cu_line(e, "d = MUL(d, (float)row[(%d + group) * LINE]);", p->groups_at);
    if (p->has_minimum) cu_line(e, "m = MUL(m, -(float)row[(%d + group) * LINE]);", p->groups_at + groups);
  }
  if (p->groups == IR_GROUP_nibbles) {
    cu_line(e, "d = MUL(d, (float)(row[(%d + group) * LINE] & 15));", p->groups_at);
    cu_line(e, "m = MUL(m, -(float)(row[(%d + group) * LINE] >> 4));", p->groups_at);
  }
  cu_line(e, "*minimum = %s;", p->has_minimum ? "m" : "0.0f");
  cu_line(e, "return d;");
  cu_close(e);
}

static void quantized(cuda *e, ir_dtype storage) {
  ir_packing p = ir_packing_of(storage);
  int unit = p.lines * TILE_BLOCK, pieces = PAGE_BYTES / unit > 1 ? PAGE_BYTES / unit : 1;
  const char *weight = p.has_minimum ? "FMA(d, number(row, %s), m)" : "MUL(d, number(row, %s))";
  cu_line(e, "enum { elements = %d, unit_bytes = %d, piece_units = %d, step = 16, low_bits = %d };", p.elements, unit,
          pieces, p.low_bits);
  number_text(e, &p);
  scale_text(e, &p);
  cu_open(e, "static void decode(const char *page, int lane, int i, float *w)");
  cu_line(e, "const char *run = page + i / elements * unit_bytes;");
  cu_line(e, "const u8 *row = (const u8 *)run + lane;");
  cu_line(e, "float m, d = scale(run, lane, i %% elements / %d, &m);", p.group);
  cu_line(e, "#pragma unroll");
  cu_line(e, "for (int j = 0; j < step; j++) w[j] = %s;", dp_arena_printf(e->arena, weight, "i % elements + j"));
  cu_close(e);
  cu_open(e, "static float element(const char *block, int k, int lane)");
  cu_line(e, "const char *run = block + (i64)(k / elements) * unit_bytes;");
  cu_line(e, "const u8 *row = (const u8 *)run + lane;");
  cu_line(e, "float m, d = scale(run, lane, k %% elements / %d, &m);", p.group);
  cu_line(e, "return %s;", dp_arena_printf(e->arena, weight, "k % elements"));
  cu_close(e);
}

bool cu_is_tensor(const cuda *e, ir_dtype storage) { return e->program->tensor >> storage & 1; }

void cu_storage(cuda *e, ir_dtype storage) {
  cu_line(e, "%s", "");
  cu_open(e, "struct stored_%s", ir_dtype_name(storage));
  if (ir_dtype_block_elements(storage) == 1)
    plain(e, storage);
  else
    quantized(e, storage);
  e->indent--;
  cu_line(e, "};");
}
