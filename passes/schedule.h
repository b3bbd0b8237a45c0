/* passes/schedule.h: private to passes/: what the files of the schedule share. A fused graph becomes a tile program in
 * four steps, each a file or two:
 *   schedule.c          walks the blocks: a kind a group op, sections, buffers; carried values and results by copies
 *   schedule_kind.c     one group op to one task kind: prologue, column tiles, stores; asks
 *   tile_rules.c        the tile rule of each op
 *   plan_memory.c       copies removed where source and destination can be one buffer; offsets in the slabs
 *   schedule_waits.c    waits, from what the tasks read and write in that memory */
#ifndef DIPPER_PASSES_SCHEDULE_H
#define DIPPER_PASSES_SCHEDULE_H

#include "ir/ir.h"

/* ---- the state of a schedule ------------------------------------------------------------------------------------------ */

typedef enum ps_place {
  PS_NOWHERE, /* inside a kind, a weight, or not yet scheduled */
  PS_BUFFER,
  PS_INPUT,
  PS_CACHE,
  PS_LAYER, /* the index of the loop being scheduled */
} ps_place;

/* What is known of a graph value, by value->id. */
typedef struct ps_value {
  ps_place place;
  int ref;    /* buffer, input or cache */
  int part;   /* PS_CACHE: of keys or values */
  int full;   /* the tile op that is the value as whole rows, in the kind under construction; -1: none */
  int column; /* the same as a column tile */
  int upper;  /* the tile op of the upper half of the columns, when `full` is the lower half only (rope_angles) */
} ps_value;

typedef struct ps_schedule_state {
  const ir_module *module;
  const tile_target *target;
  tile_program *program;
  dp_arena *arena; /* of what lives as long as the schedule is made */
  ps_value *values;
  const ir_value *layer; /* of the loop being scheduled, or NULL */
  int first_layer, end_layer; /* those it runs over */
  struct ps_stack { const char *name; int buffer; } *stacks; /* by `save`, for `saved` */
  int stack_count, stack_cap;
  int group_max;         /* the most query heads that share a key head */
} ps_schedule_state;

/* ---- one kind ------------------------------------------------------------------------------------------------------------ */

typedef struct ps_kind {
  ps_schedule_state *s;
  tile_program *program;
  tile_kind *kind;
  bool columns;    /* column tiles are being made: the epilogue */
  int members;     /* a kind with batches: how often its columns stand side by side in a token's row: heads, or choices */
  const char *origin; /* of the graph op being lowered */
} ps_kind;

/* Rows of a value's type, or of what append appends. DP_UNSUPPORTED for other symbols than T and R. */
dp_status ps_space(const ir_type *type, tile_space *space);
/* Elements of a row; all elements of a value without rows. */
int64_t ps_columns(const ir_type *type);
bool ps_has_rows(const ir_type *type);

dp_status ps_lower_group(ps_schedule_state *s, const ir_op *group);
dp_status ps_add_copy(ps_schedule_state *s, int from, int to);
int ps_add_buffer(ps_schedule_state *s, const char *name, const ir_type *type, tile_space space);

/* ---- for tile rules -------------------------------------------------------------------------------------------------------- */

typedef dp_status ps_tile_rule(ps_kind *k, const ir_op *op);
ps_tile_rule *ps_rule_of(ir_opcode code);

/* A tile op with nothing set but its operands; cols as the kind's column tile when it is one. */
tile_op ps_op(const ps_kind *k, tile_opcode code, int64_t cols, int x, int y);
int ps_emit(ps_kind *k, tile_op op);
int ps_constant(ps_kind *k, double value);
/* Operand i as the tile value that goes with the op's own columns: a column tile in the epilogue if it has as many
 * columns as the kind, else whole rows; loaded on demand. */
dp_status ps_operand(ps_kind *k, const ir_op *op, int i, int *index);
dp_status ps_whole_rows(ps_kind *k, const ir_value *value, int *index);
/* Makes `index` the value of the op's result. */
void ps_define(ps_kind *k, const ir_op *op, int index);
/* The columns a rule makes for a value of `cols` columns: the column tile in the epilogue. */
int64_t ps_cols(const ps_kind *k, int64_t cols);

/* Columns of a value of that type: in a kind with batches, of one of its heads or choices. */
int64_t ps_own_columns(const ps_kind *k, const ir_type *type);
/* Lets a load or store find the `cols` columns of the task's batch, or of the row's choice, among those of the others. */
void ps_step_by_member(const ps_kind *k, tile_op *op, int64_t cols);

ps_value *ps_value_of(const ps_kind *k, const ir_value *value);
/* The weight (or the layer of it) that a value is, in that form. DP_UNSUPPORTED when it is none. */
dp_status ps_weight(ps_kind *k, const ir_value *value, tile_weight_form form, bool transposed, int *weight);
bool ps_is_weight(const ir_value *value);
/* The weight whose gradient is added to, as it is used in the graph. */
dp_status ps_gradient_weight(ps_kind *k, const ir_op *op, tile_weight_form form, int *weight);
/* The weight whose state an op reads or assigns. */
dp_status ps_state_weight(ps_kind *k, const ir_op *op, int *weight);
/* The same matrix of the same layer, used the other way round; false when the graph does not. */
bool ps_other_way(ps_kind *k, const ir_value *value, bool transposed, int *weight);
/* The buffer of one row of a number, or of `cols` pieces of one; made on demand. */
int ps_number(ps_schedule_state *s, const char *name, int64_t cols);
/* The buffer of a stack; made on demand when `type` is given, else -1. */
int ps_stack(ps_schedule_state *s, const char *name, const ir_type *type);
/* The cache that an append writes. */
dp_status ps_cache(ps_kind *k, const ir_op *append, int *cache);

/* ---- the program as a whole ---------------------------------------------------------------------------------------------------- */

/* Which buffers a group reads and writes. */
bool ps_reads(const tile_program *program, int group, int buffer);
bool ps_writes(const tile_program *program, int group, int buffer);

dp_status ps_remove_copies(tile_program *program);
dp_status ps_plan_memory(tile_program *program);
dp_status ps_derive_waits(tile_program *program);

/* Schedules graphs of a fused module. The caller frees *out; the module is no longer needed by it. */
dp_status ps_schedule(const ir_module *module, const char *graph, const tile_target *target, tile_program **out);
dp_status ps_schedule_all(const ir_module *module, const char *const *graphs, int count, const tile_target *target,
                          tile_program **out);

#endif
