/* codegen/cuda/text.c: the whole text of a program: constants, the prelude, storage types, task functions, step
 * kernels. */
#include "codegen/cuda/cuda.h"
#include "codegen/cuda/prelude.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---- pieces */

static void add_indent(cuda *e) {
  for (int i = 0; i < e->indent; i++) dp_str_add(e->out, "  ");
}

void cu_line(cuda *e, const char *fmt, ...) {
  va_list args;
  va_start(args, fmt);
  add_indent(e);
  dp_str_addv(e->out, fmt, args);
  dp_str_addc(e->out, '\n');
  va_end(args);
}

void cu_open(cuda *e, const char *fmt, ...) {
  va_list args;
  va_start(args, fmt);
  add_indent(e);
  dp_str_addv(e->out, fmt, args);
  dp_str_add(e->out, " {\n");
  va_end(args);
  e->indent++;
}

void cu_close(cuda *e) {
  e->indent--;
  cu_line(e, "}");
}

void cu_refuse(cuda *e, const char *what, const tile_op *op) {
  if (e->status.code == DP_OK)
    e->status = dp_fail(DP_UNSUPPORTED, "the CUDA back end has no %s: op '%s'%s%s", what, tile_opcode_name(op->code),
                        op->origin ? " of " : "", op->origin ? op->origin : "");
}

const char *cu_float(dp_arena *arena, float x) {
  if (isnan(x)) return "f32_of_bits(0x7fc00000u)";
  if (isinf(x)) return x < 0 ? "-INFINITE" : "INFINITE";
  char digits[40];
  snprintf(digits, sizeof digits, "%.9g", (double)x);
  if (!strpbrk(digits, ".e")) strcat(digits, ".0");
  return dp_arena_printf(arena, x < 0 ? "(%sf)" : "%sf", digits);
}

const char *cu_name(dp_arena *arena, const char *prefix, int index, const char *name) {
  char *whole = dp_arena_printf(arena, "%s_%d%s%s", prefix, index, name ? "_" : "", name ? name : "");
  for (char *at = whole; *at; at++)
    if (!strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_", *at)) *at = '_';
  return whole;
}

const char *cu_sum(dp_arena *arena, const char *a, int64_t b) {
  if (b == 0) return a;
  if (strcmp(a, "0") == 0) return dp_arena_printf(arena, "%" PRId64, b);
  return dp_arena_printf(arena, "%s %c %" PRId64, a, b < 0 ? '-' : '+', b < 0 ? -b : b);
}

/* ---- the text */

static void add_constants(cuda *e) {
  cu_line(e, "// Program %s, for one persistent kernel a step. docs/cuda.md tells how this text is made.",
          e->program->name);
  cu_line(e, "enum { THREADS = %d, ROW_TILE = %d, TOKENS = %d, OUTPUTS = %d };", CUDA_THREADS, e->program->row_tile,
          TILE_TOKENS, TILE_OUTPUTS);
  cu_line(e, "enum { STEP_ENDED = %d };", CUDA_ENDED);
  cu_line(e, "enum { RING_BYTES = %d, CHOSEN_BYTES = %d, STATE_COUNT = %d, SPACE_COUNT = %d };", CUDA_RING_BYTES,
          (int)((e->program->row_tile + 1 + 31) / 32 * 128), TILE_STATE_COUNT, TILE_SPACE_COUNT);
  if (e->program->tensor) cu_line(e, "enum { TENSOR_TYPES = %u };", e->program->tensor);
}

/* scalar.inc says where scalar_exp.inc is to stand. */
static void add_scalar_functions(cuda *e) {
  static const char include[] = "#include \"codegen/scalar_exp.inc\"\n";
  const char *text = cuda_scalar_functions, *at = strstr(text, include);
  dp_str_addn(e->out, text, (size_t)(at - text));
  dp_str_add(e->out, cuda_scalar_exp);
  dp_str_add(e->out, at + strlen(include));
}

/* The host's struct and the text's are the same. */
static void add_layout_checks(cuda *e) {
#define CHECK(type, field)                                                                                             \
  cu_line(e, "static_assert(OFFSET(Launch, " #field ") == %zu, \"layout\");", offsetof(cuda_launch, field))
  CHECK(cuda_launch, step.weight_types);
  CHECK(cuda_launch, step.states);
  CHECK(cuda_launch, step.inputs);
  CHECK(cuda_launch, step.arena);
  CHECK(cuda_launch, step.rows);
  CHECK(cuda_launch, step.segment_row);
  CHECK(cuda_launch, step.kv);
  CHECK(cuda_launch, step.turned);
  CHECK(cuda_launch, first_segment);
  CHECK(cuda_launch, scratch_floats);
  CHECK(cuda_launch, ended);
  CHECK(cuda_launch, progress);
#undef CHECK
  cu_line(e, "static_assert(sizeof(Launch) == %zu, \"layout\");", sizeof(cuda_launch));
}

static void add_program(cuda *e) {
  const tile_program *p = e->program;
  add_constants(e);
  dp_str_add(e->out, cuda_prelude_gpu);
  dp_str_add(e->out, cuda_prelude_scalar);
  add_scalar_functions(e);
  dp_str_add(e->out, cuda_prelude_task);
  if (p->tensor) dp_str_add(e->out, cuda_prelude_tensor);
  add_layout_checks(e);
  for (int type = 0; type < IR_DTYPE_COUNT; type++)
    if (cu_is_stored(p, (ir_dtype)type)) cu_storage(e, (ir_dtype)type);
  for (int i = 0; i < p->kind_count; i++) cu_emit_kind(e, i);
  int entries = p->entry_count ? p->entry_count : 1;
  for (int i = 0; i < entries; i++) cu_emit_step(e, i);
}

dp_status cuda_text(const tile_program *program, dp_str *out) {
  cuda e = {.program = program, .arena = dp_arena_new(), .out = out, .status = DP_SUCCESS};
  if (!e.arena) return dp_fail(DP_NO_MEMORY, "no memory for CUDA code");
  add_program(&e);
  dp_arena_free(e.arena);
  if (e.status.code == DP_OK && out->failed) return dp_fail(DP_NO_MEMORY, "no memory for CUDA code");
  return e.status;
}
