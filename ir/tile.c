/* ir/tile.c: building tile programs, and the names of tile ops (made of the tables). */
#include "ir/tile.h"

#include <string.h>

static const char *const names[] = {
#define TILE_OP(name, operands, doc) #name,
#include "ir/tile_ops.def"
#undef TILE_OP
#define SCALAR(name, arguments, doc) #name,
#include "ir/scalar.def"
#undef SCALAR
};

static const int arities[TILE_OPCODE_COUNT] = {
#define SCALAR(name, arguments, doc) [TILE_##name] = arguments,
#include "ir/scalar.def"
#undef SCALAR
};

const char *tile_opcode_name(tile_opcode code) { return names[code]; }
int tile_scalar_arity(tile_opcode code) { return arities[code]; }

bool tile_scalar_parse(const char *name, tile_opcode *code) {
  for (int i = 0; i < TILE_OPCODE_COUNT; i++) {
    if (arities[i] && strcmp(names[i], name) == 0) {
      *code = (tile_opcode)i;
      return true;
    }
  }
  return false;
}

tile_program *tile_program_new(const char *name) {
  dp_arena *arena = dp_arena_new();
  if (!arena) return NULL;
  tile_program *program = DP_NEW(arena, tile_program);
  program->arena = arena;
  program->name = dp_arena_strdup(arena, name);
  return program;
}

void tile_program_free(tile_program *program) {
  if (program) dp_arena_free(program->arena);
}

int tile_batch_tasks(const tile_kind *kind) { return kind->col_tasks / kind->batches; }

int tile_add_op(tile_program *program, tile_kind *kind, tile_op op) {
  DP_PUSH(program->arena, kind->ops, kind->op_count, kind->op_cap) = op;
  return kind->op_count - 1;
}

int64_t tile_row_tiles(const tile_program *program, int64_t rows) {
  return (rows + program->row_tile - 1) / program->row_tile;
}

bool tile_is_of_outputs(const char *input) {
  static const char *const names[] = {"out_rows", "seed", "seed2", "place", "temperature"};
  for (size_t i = 0; i < DP_COUNT(names); i++)
    if (strcmp(input, names[i]) == 0) return true;
  return false;
}

int64_t tile_layer(const tile_section *section, int64_t iteration) {
  return section->base + (section->reverse ? section->iterations - 1 - iteration : iteration);
}

int64_t tile_buffer_bytes(const tile_program *program, const tile_buffer *buffer) {
  int64_t rows = buffer->space == TILE_NUMBERS ? 1 : program->row_tile;
  return (buffer->layers ? buffer->layers : 1) * rows * buffer->stride * 4;
}

tile_space tile_slab_space(tile_space space) {
  if (space == TILE_STATES || space == TILE_NUMBERS) return TILE_NUMBERS;
  if (space == TILE_WINDOW) return TILE_TOKENS;
  return space == TILE_OUTPUTS ? TILE_OUTPUTS : TILE_TOKENS;
}

int64_t tile_slot_floats(const tile_weight *weight) {
  if (weight->form == TILE_VECTOR) return (weight->cols + TILE_LANES - 1) / TILE_LANES * TILE_LANES;
  return (weight->rows + TILE_BLOCK - 1) / TILE_BLOCK * TILE_BLOCK * weight->cols;
}

ir_dtype tile_state_type(const tile_weight *weight, tile_state state) {
  return state == TILE_VALUE && weight->storage == 1u << IR_bf16 ? IR_bf16 : IR_f32;
}

bool tile_keeps(const tile_program *program, int weight, tile_state state) {
  for (int k = 0; k < program->kind_count; k++)
    for (int i = 0; i < program->kinds[k].op_count; i++) {
      const tile_op *op = &program->kinds[k].ops[i];
      bool adds = tile_adds_to_gradient(op->code) && state == TILE_GRADIENT;
      bool touches = (op->code == TILE_parameter || op->code == TILE_assign) && op->part == (int)state;
      if ((adds || touches) && op->ref == weight) return true;
    }
  return false;
}

tile_entry tile_entry_at(const tile_program *program, int index) {
  if (index < program->entry_count) return program->entries[index];
  return (tile_entry){.name = program->name, .count = program->section_count, .output = -1};
}

int tile_find_entry(const tile_program *program, const char *name) {
  for (int i = 0; i < program->entry_count; i++)
    if (strcmp(program->entries[i].name, name) == 0) return i;
  return -1;
}

static int find_input(const tile_program *program, const char *name) {
  for (int i = 0; i < program->input_count; i++)
    if (strcmp(program->inputs[i], name) == 0) return i;
  return -1;
}

static const tile_buffer *find_output(const tile_program *program, int output) {
  for (int i = 0; i < program->buffer_count; i++)
    if (program->buffers[i].output == output) return &program->buffers[i];
  return NULL;
}

bool tile_find_turns(const tile_program *program, int entry, tile_turns *turns) {
  if (entry != tile_find_entry(program, "pick")) return false;
  int output = program->entries[entry].output;
  *turns = (tile_turns){find_input(program, "tokens"), find_input(program, "pos"), find_input(program, "place"),
                        find_output(program, output), find_output(program, output + 1)};
  return turns->tokens >= 0 && turns->place >= 0 && turns->picked && turns->log_probability;
}

bool tile_in_entry(const tile_program *program, const tile_entry *entry, int group) {
  int section = program->groups[group].section;
  return section >= entry->first && section < entry->first + entry->count;
}
