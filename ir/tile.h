/* ir/tile.h: the tile program: what a schedule makes of a graph, before any target. A whole step (a ragged batch of
 * tokens of several sequences) is one tile program:
 *
 *   task kinds    small functions over tiles: load, mma, elementwise, reduce, store, a loop over context chunks
 *   groups        a kind applied to every (row tile, column) of a row space: the instances are the tasks
 *   sections      groups run once, or `count` times over (the layer loop, rolled)
 *   waits         which tasks must be done before a task may run; one counter per (group, iteration, row tile)
 *
 * Rows. Token rows are cut into row tiles of `row_tile`. Each row tile owns a slab of memory with all activations of its
 * rows, so memory reuse never crosses row tiles, and tasks of different row tiles meet only in the KV cache.
 * A segment is a run of tokens of one sequence inside one row tile (at most `segment_tokens`): the unit of attention.
 *
 * Numerics. Every element is computed by a fixed tree: mma adds along k in order by FMA from its initial value; sum
 * takes 16 lanes in order, then lanes i + (i ^ 8), (i ^ 4), (i ^ 2), (i ^ 1), the lower lane's value first; padding
 * columns do not take part in lanes beyond the last full one except as +0 (sum) and -inf (greatest). Nothing depends on
 * the number of rows, tasks or workers.
 *
 * A program for a target with matrix units says of which weight types and caches (`tensor`) the products are theirs:
 * there operands are rounded to that type, and k goes in steps of TILE_STEP. A step is sum + (a0 b0 + ... + a15 b15), exact but for
 * one rounding at the end; what a matrix unit makes of it may differ in the last bits, and is the same wherever it is done. The steps
 * of mma, mma_keys and mma_values fall into TILE_SLICES slices of ceil(steps / TILE_SLICES), each summed from zero, and
 * those are added to the initial value in order: so a task of few rows can have its slices summed side by side, and one of
 * many sums one after the other. mma_back and mma_rows are one chain of steps, of rows of the matrix and of tokens. */
#ifndef DIPPER_IR_TILE_H
#define DIPPER_IR_TILE_H

#include "ir/graph.h"

enum {
  TILE_LANES = 16, /* the virtual vector */
  TILE_BLOCK = 64, /* rows of a packed weight block; every row and column tile is padded to a multiple of it */
  TILE_CHUNK = 64,  /* positions of a context chunk, and of a cache page */
  TILE_STEP = 16,   /* of k, that a matrix unit takes at once */
  TILE_SLICES = 8,  /* of k, of a product of a matrix unit */
};

typedef enum tile_opcode {
#define TILE_OP(name, operands, doc) TILE_##name,
#include "ir/tile_ops.def"
#undef TILE_OP
#define SCALAR(name, arguments, doc) TILE_##name,
#include "ir/scalar.def"
#undef SCALAR
  TILE_OPCODE_COUNT
} tile_opcode;

const char *tile_opcode_name(tile_opcode code);
int tile_scalar_arity(tile_opcode code); /* 0 when it is not a scalar op */
bool tile_scalar_parse(const char *name, tile_opcode *code);
int tile_operand_count(tile_opcode code); /* values that an op reads as operands[]: 0, 1 or 2 (`next` has its own list) */
bool tile_has_value(tile_opcode code);
/* Its access is of the gradient's rows (of a vector or scatter_rows: columns). */
bool tile_adds_to_gradient(tile_opcode code);
struct tile_kind;
const struct tile_op *tile_host_op(const struct tile_kind *kind); /* of a kind that the host runs; else NULL */

typedef enum tile_space {
  TILE_TOKENS,   /* rows: the step's tokens; task row index: row tile */
  TILE_SEGMENTS, /* rows: tokens of a segment x `group` query heads; task row index: segment */
  TILE_OUTPUTS,  /* rows: the tokens whose results are asked for; task row index: row tile of them */
  TILE_PARAMETERS, /* one row: the gradients; a load is of the rows of all tokens, which only the ops that add to gradients read */
  TILE_STATES, /* one row: a piece of the packed memory of a weight's slot, and of what training keeps beside it; task row
                  index: the slot among the weight's */
  TILE_WINDOW, /* of buffers alone: token rows whose row tiles share slabs, see tile_section.window */
  TILE_NUMBERS, /* of buffers alone: one row for the whole program, of numbers that change from step to step */
  TILE_SPACE_COUNT
} tile_space;

/* Activations: f32, rows of `space` (TOKENS or OUTPUTS), element (row, col) at
 *   arena[space] + (row / row_tile [% window, of WINDOW]) * slab_bytes[space] + offset + ((row % row_tile) * stride + col) * 4
 * A stack (layers > 0) has so many of those one after another, that of layer l (l - first_layer) * row_tile * stride * 4 on.
 * Outputs (output >= 0): element at outputs[output] + (row * stride + col) * 4, memory of the caller. */
typedef struct tile_buffer {
  const char *name;
  tile_space space;
  int64_t cols;   /* of use */
  int64_t stride; /* floats from row to row, a multiple of TILE_BLOCK; the padding may hold anything */
  int64_t offset; /* bytes from the slab's start, a multiple of 64 */
  int output;     /* -1: activation; else which result of the graph */
  int layers, first_layer; /* of a stack, which one loop fills and another reads; else 0 */
} tile_buffer;

typedef enum tile_weight_form {
  TILE_VECTOR, /* f32[cols], padded with zeros to TILE_LANES */
  TILE_MATRIX, /* packed: blocks of TILE_BLOCK rows, each as ir/packing.h says, zero rows at the end */
} tile_weight_form;

/* What training keeps of a weight, in the layout of the weight, padded with zeros: the value as it is stored (f32 or bf16: what is
 * assigned is rounded to nearest even), all others as f32. */
typedef enum tile_state {
  TILE_VALUE,
  TILE_GRADIENT,
  TILE_MOMENT1, /* Adam's running mean of the gradient, and of its square */
  TILE_MOMENT2,
  TILE_MASTER, /* of a value in bf16: what it is rounded from (Micikevicius et al., 2018) */
  TILE_STATE_COUNT
} tile_state;

typedef struct tile_weight {
  const char *name;
  int weight;       /* index in the module's weights */
  tile_weight_form form;
  int64_t rows, cols; /* MATRIX: n and k; VECTOR: 1 and n */
  bool transposed;  /* MATRIX: the file's tensor is [k, n] */
  int count;        /* layers, 1 when not stacked */
  int first_layer;  /* the layer that slot first_slot is of */
  int inner;        /* matrices a layer: experts or heads; else 1 */
  int first_slot;   /* matrix e of layer l is in slot s = first_slot + (l - first_layer) * inner + e: its memory is
                       step->weights[s], its type step->weight_types[s] */
  unsigned storage; /* bit set of the ir_dtype that can occur (VECTOR: f32) */
} tile_weight;

/* A KV cache. Pages hold TILE_CHUNK positions of every cache, layer and head. Within page p, at
 *   kv + p * page_bytes + offset + (layer * heads + head) * (key_elements + value_elements) * bytes of an element
 * lie the keys, packed like weights with positions as rows: [dim[0]][TILE_CHUNK], then the values, packed with dims as
 * rows: [padded dim[1] / 64][TILE_CHUNK][64]. Fresh pages are zeroed by the runtime. */
typedef struct tile_cache {
  const char *name;
  ir_dtype storage;     /* f32, or f16: rounded to nearest even as they are appended */
  int layers, heads;
  bool shared;          /* one place for all layers: of the one under way */
  int64_t dim[2];       /* of a key, of a value; 0: there are none */
  int64_t offset;       /* bytes from the page's start */
  int64_t key_elements;   /* TILE_CHUNK * dim[0] */
  int64_t value_elements; /* TILE_CHUNK * padded dim[1]: padded to TILE_BLOCK */
} tile_cache;

/* One op of a kind. Its value is named by its index. Addresses of load, store, vector, embed:
 *   row(r)    = row0 + r / group, or inputs[index][row0 + r] when index >= 0       (group of the kind; 1 but for segments)
 *   column(r) = col_base + col * col_step + batch * batch_step + (r % group) * group_step + (over STATES) row * row_step
 * where the task's column index is batch * (col_tasks / batches) + col. In a kind that chooses, row r of the task is the
 * r-th token of its row tile that has `batch` among its `used` choices, and in place of r % group stands which of its
 * choices that is. */
typedef struct tile_op {
  tile_opcode code;
  int operands[2];
  int cols;
  bool one_row;  /* the value is [1, cols] */
  bool column_tile; /* cols are those of the task's column tile: the last task has fewer when columns % col_tile != 0 */
  int ref;       /* buffer, weight, input or cache */
  int index;     /* input that row() goes through, or -1 */
  int part;      /* append: 0 keys, 1 values */
  int64_t dim;   /* rotate, append: columns of a head; others: see tile_ops.def */
  int64_t outer, inner; /* pick */
  int64_t col_base, col_step, group_step, batch_step;
  int64_t row_step;   /* STATES: times the task's row index */
  float imm;
  const float *data;  /* table */
  const int *list;    /* next */
  int list_count;
  const char *origin; /* the graph ops it came from, for readers of dumps and assembly; may be NULL */
} tile_op;

typedef struct tile_kind {
  const char *name;
  tile_space space;
  int max_rows;   /* rows of a task at most: row_tile, or segment_tokens * group */
  int group;      /* rows a token */
  int batches;    /* products with matrices of their own, side by side in the column tasks: heads, experts; else 1 */
  int window;     /* of the section that it runs in */
  int slots;      /* STATES: of the weight, each a row index; else 0 */
  int used;       /* > 0: the kind chooses: begins with `choose`, and a token takes part in so many of the batches */
  bool whole;     /* segments: the loop walks all of the sequence, else up to the segment's last token */
  int64_t columns; /* result columns in all (of a batch); for segments the number of key heads */
  int col_tile;   /* columns a task, a multiple of TILE_BLOCK; for segments 1 */
  int col_tasks;  /* batches * ceil(columns / col_tile) */
  tile_op *ops;
  int op_count, op_cap;
  int prologue; /* ops [0, prologue) do not depend on col: a worker that runs another column of the same row tile may
                   keep their values in its scratch and skip them */
} tile_kind;

typedef enum tile_scope {
  TILE_ROW,    /* the same row tile (a segment's is its token's; an output row tile has none: use ALL) */
  TILE_PREFIX, /* row tiles 0 .. the task's */
  TILE_ALL,    /* every row tile of the producer */
} tile_scope;

typedef enum tile_when {
  TILE_EVERY,    /* the producer's same iteration if it is in the same section, else its last one */
  TILE_FIRST,    /* only in iteration 0; the producer is in an earlier section: its last iteration */
  TILE_PREVIOUS, /* only in iterations > 0: the producer's previous iteration */
} tile_when;

typedef struct tile_wait {
  int group;
  tile_scope scope;
  tile_when when;
} tile_wait;

typedef struct tile_group {
  int kind;
  int section;
  tile_wait *waits;
  int wait_count, wait_cap;
} tile_group;

/* Groups [first, first + count) run `iterations` times; iteration i is layer base + i of weights and caches. */
typedef struct tile_section {
  int first, count;
  int iterations;
  int base;
  bool reverse; /* iteration i is layer base + iterations - 1 - i */
  /* > 0: the groups are gone through a window of so many row tiles at a time, from the first to the last; `iterations` is 1
   * and what is said of them holds of windows. A group over parameters has a task row index a window, and sees its rows
   * only. Buffers of space WINDOW live in the section alone; row tile i of the tokens has slab i % window of theirs. */
  int window;
} tile_section;

/* What a step can be: sections [first, first + count), run from the first to the last. Buffers of different entries share
 * memory; nothing but weights, their states, caches and numbers passes from one to the other. */
typedef struct tile_entry {
  const char *name; /* of the graph */
  int first, count;
  int output;       /* the buffer that it returns; -1: none */
} tile_entry;

typedef struct tile_program {
  dp_arena *arena; /* owns everything here */
  const char *name;
  int row_tile, segment_tokens;
  unsigned tensor; /* bit set of the ir_dtype of weights and caches whose products are of matrix units: f16, bf16 */
  int window; /* row tiles of the slabs of space WINDOW; 0: none */
  tile_buffer *buffers;
  int buffer_count, buffer_cap;
  tile_weight *weights;
  int weight_count, weight_cap;
  int slot_count;
  tile_cache *caches;
  int cache_count, cache_cap;
  int64_t page_bytes;
  const char **inputs; /* names of the i32 inputs: "tokens", "pos", "targets" (one a token); see tile_is_of_outputs */
  int input_count, input_cap;
  int output_count;
  const char **hosts; /* names of the host's ops, which are run by whoever loads the code */
  int host_count, host_cap;
  int64_t slab_bytes[TILE_SPACE_COUNT]; /* of TOKENS, OUTPUTS and NUMBERS */
  tile_kind *kinds;
  int kind_count, kind_cap;
  tile_group *groups; /* in an order in which running them one by one is correct */
  int group_count, group_cap;
  tile_section *sections;
  int section_count, section_cap;
  tile_entry *entries;
  int entry_count, entry_cap;
} tile_program;

/* What a schedule and a layout may know of a target: numbers, never its name. */
typedef struct tile_target {
  int cores;
  int64_t wide_columns; /* values of that many columns or more are not kept for all tokens; 0: 8192 */
  int64_t task_bytes; /* weight bytes a task should stream, so that its overhead is small beside it */
  unsigned tensor;    /* tile_program.tensor */
  int row_tile;       /* tokens; 0: 96 */
} tile_target;

/* ---- what generated code reads: one step's arguments -------------------------------------------------------------- */

/* Filled by the runtime before the step; read-only during it but for what the pointers' targets say. Field offsets are
 * known to the back ends through offsetof. */
typedef struct tile_step {
  int64_t entry;                 /* which of the program's */
  const void *const *weights;    /* [slot_count], 64-byte aligned */
  const uint8_t *weight_types;   /* [slot_count] ir_dtype */
  float *const *states[TILE_STATE_COUNT]; /* [slot_count] each, of the weights that have them; values are read by `weights` */
  const int32_t *const *inputs;  /* [input_count] */
  float *const *outputs;         /* [output_count], rows of the buffer's stride */
  char *arena[TILE_SPACE_COUNT]; /* slabs, 64-byte aligned */
  int64_t rows[TILE_SPACE_COUNT]; /* T, number of segments, R */
  const int32_t *positions;      /* [T] position of each token in its sequence */
  const int32_t *slots;          /* [T] page * TILE_CHUNK + position % TILE_CHUNK: where append writes */
  const int32_t *segment_row;    /* [segments] first token row */
  const int32_t *segment_tokens; /* [segments] */
  const int32_t *segment_pages;  /* [segments] index into `pages` of the sequence's page table */
  const int32_t *segment_end;    /* [segments] positions of the sequence when the step is done */
  const int32_t *pages;          /* page tables, one after another */
  char *kv;                      /* pages */
  /* Of the entry that picks, by code that takes turns: each picked token is the input of the next turn, if its sequences have a
   * token and an output row each. When every row has picked one of `ends`, there are no more. */
  int64_t turns;                 /* at most; >= 1 */
  const int32_t *ends;
  int64_t end_count;
  int32_t *turned;               /* turns made; no meaning; then [turns][R] of a token and the bits of its log-probability */
  uint64_t unread;               /* outputs, a bit each, that nobody reads after the step: a device does not return them */
} tile_step;

/* What an engine brings to code that has memory of its own: how large steps can become, and the weights, as an image of all
 * slots in the layout of tile_weight. */
typedef struct tile_provision {
  int64_t context, max_tokens;    /* positions of all sequences together; new tokens of a step */
  const uint8_t *weight_types;    /* [slot_count] ir_dtype */
  const int64_t *weight_offsets;  /* [slot_count] in the image: multiples of 64 */
  int64_t weight_bytes;           /* of the image */
  /* The image piece by piece, in order: at most `room` bytes (a multiple of 64) into `to`, which belong from *offset on; 0 bytes:
   * that was all. Gaps are zeros. */
  dp_status (*next)(void *user, char *to, int64_t room, int64_t *offset, int64_t *bytes);
  void *user;
} tile_provision;

typedef struct tile_code tile_code;

/* Of code that runs whole steps on a device: memory of its own. Weights are copied there from the host when a step, or
 * `reserve`, first names them; what training keeps of them, caches and slabs are there alone, zero at first: a step's
 * are NULL, but for the slab of NUMBERS: what no kind stores of it goes over with a step, and what kinds store and none
 * loads comes back. Bytes of a slot lie as tile_weight and tile_state say. Called by the thread that runs steps. */
typedef struct tile_device {
  dp_status (*begin)(const tile_code *code);                        /* an engine: nothing that another left is held */
  bool (*holds)(const tile_code *code, tile_state state, int slot); /* false of a value: the host's is as good */
  dp_status (*fetch)(const tile_code *code, tile_state state, int slot, int64_t at, int64_t bytes, void *to);
  dp_status (*store)(const tile_code *code, tile_state state, int slot, int64_t at, int64_t bytes, const void *from);
  dp_status (*clear)(const tile_code *code, tile_state state);
  /* All that steps of so many rows and pages of the cache take, now; without results of entry 0. */
  dp_status (*reserve)(const tile_code *code, const tile_step *step, int64_t pages);
  /* Without code that was loaded (self NULL) of the first device: 0 when there is none. */
  int64_t (*worker_bytes)(const tile_code *code, const tile_program *program,
                          int64_t max_tokens); /* scratch, counters */
  int64_t (*available)(const tile_code *code);
  int64_t (*taken)(const tile_code *code);
} tile_device;

/* One task: kind's code over (layer, row index, column index). `reuse`: the scratch still holds the prologue's values
 * of this very (step, layer, row, kind). Scratch: of the worker alone, 64-byte aligned, tile_code.scratch_bytes. */
struct tile_code {
  void (*run)(const tile_code *code, int kind, const tile_step *step, int64_t layer, int64_t row, int64_t col,
              void *scratch, int64_t reuse);
  /* Where not NULL: a whole step at once, with workers of its own; then `run` is not called. It fails as a device does. */
  dp_status (*run_step)(const tile_code *code, const tile_step *step);
  /* Where not NULL: before the steps of an engine it takes the weights, and memory for such steps; what another engine brought
   * is gone. Then of a step weights, cache and slabs are not read. */
  dp_status (*provide)(const tile_code *code, const tile_provision *provision);
  const tile_device *device; /* NULL: it works in the host's memory */
  bool takes_turns; /* run_step does several turns of the entry that picks, and leaves in `turned` what it has picked */
  /* Where not NULL: after the last task of a step that `run` has run: what a task found wrong. */
  dp_status (*end_step)(const tile_code *code);
  void (*free)(tile_code *code);
  size_t scratch_bytes;
  void *self; /* the back end's */
};

/* ---- building, text, checks ----------------------------------------------------------------------------------------- */

tile_program *tile_program_new(const char *name);
void tile_program_free(tile_program *program);
int tile_add_op(tile_program *program, tile_kind *kind, tile_op op); /* returns its index */
/* Rows of task (space, index): first token (or output) row and number of tokens. */
int tile_batch_tasks(const tile_kind *kind); /* column tasks a batch */
int64_t tile_row_tiles(const tile_program *program, int64_t rows);
/* Has the input of that name a number an output row ("out_rows", "seed", ...), not one a token? */
bool tile_is_of_outputs(const char *input);
int64_t tile_layer(const tile_section *section, int64_t iteration);
/* Entry `index`; of a program without a list of entries all sections are entry 0. */
tile_entry tile_entry_at(const tile_program *program, int index);
int tile_find_entry(const tile_program *program, const char *name); /* -1 when there is none */
/* Of an entry that picks: where a turn finds its tokens and positions and leaves its picks. */
typedef struct tile_turns {
  int tokens, pos, place; /* inputs, -1: none */
  const tile_buffer *picked, *log_probability;
} tile_turns;
bool tile_find_turns(const tile_program *program, int entry, tile_turns *turns); /* false: it does not pick */
bool tile_in_entry(const tile_program *program, const tile_entry *entry, int group);
int64_t tile_slot_floats(const tile_weight *weight); /* of a slot's memory as f32, padding included */
ir_dtype tile_state_type(const tile_weight *weight, tile_state state); /* of its elements: f32 or bf16 */
bool tile_keeps(const tile_program *program, int weight,
                tile_state state); /* does any kind touch that of it? Not of values */
int64_t tile_buffer_bytes(const tile_program *program, const tile_buffer *buffer); /* of a row tile's slab */
/* The slab rows that a space's rows lie in: TOKENS, OUTPUTS or NUMBERS. */
tile_space tile_slab_space(tile_space space);
/* The readable form (docs/tile.md); not read back. */
void tile_print(dp_str *out, const tile_program *program);
void tile_print_kind(dp_str *out, const tile_program *program, int kind); /* one kind of it */
/* Proves, for a step of the given rows (tokens cut into `sequences` equal sequences, each with `past` cached positions),
 * from the ops' access ranges and the counters, that no two tasks race and that none waits for ever. Iterations are
 * checked as they are, so use a program of few layers or accept the time (quadratic in tasks). DP_BUG names the tasks. */
dp_status tile_check(const tile_program *program, int64_t tokens, int64_t outputs, int64_t sequences, int64_t past);

#endif
