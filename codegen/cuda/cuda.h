/* codegen/cuda/cuda.h: what the files of this back end share: CUDA C under construction. docs/cuda.md tells the
 * structure of the text.
 *
 *   backend.c   the vtable: text, fingerprint, compile
 *   text.c      the whole text: prelude, constants, task functions, step kernels
 *   storage.c   packed storage types: one struct of decoders each
 *   kind.c      a task kind to a device function: which values get memory, the loops that make them
 *   value.c     one element of a value as expressions over its operands
 *   weight.c    ops on weights, caches and gradients
 *   step.c      an entry to a kernel: a walk through its bundles
 *   nvrtc.c     CUDA C to PTX or a cubin by NVRTC
 *   report.c    what ptxas says of registers, memory and spills, for people
 *   prelude/    the part of the text that is the same for all programs
 *
 * And what runs it, which compiled models have without the rest:
 *
 *   image.c     the object: a note and a cubin or PTX; which chip's code serves a device
 *   device.c    devices, and the vtable of a program that compiles nothing
 *   driver.c    libcuda: a context, a stream, errors
 *   memory.c    the device's memory, pinned memory, copies
 *   account.c   how much of it an engine takes, and what would fit
 *   launch.c    the arguments of a launch, from a step
 *   run.c       the steps of an engine
 *   room.c      the memory that they work in, and the weights
 *   resident.c  what training keeps of weights
 *   fault.c     where a step was when it failed */
#ifndef DIPPER_CODEGEN_CUDA_H
#define DIPPER_CODEGEN_CUDA_H

#include "codegen/codegen.h"

enum {
  CUDA_THREADS = 256,       /* of a block: four groups of a thread a packed row */
  CUDA_RING_BYTES = 65536,  /* of shared memory for weights on their way */
  CUDA_VALUE_BYTES = 34816, /* of shared memory for values: with the ring as much as every chip from sm_80 on has */
  CUDA_NARROW_ROWS = 8,     /* rows up to which a task's values are tried in shared memory */
  CUDA_BEST_FLOATS = 2 * CUDA_THREADS / 16, /* of a row whose best is looked for: two of each half warp */
  CUDA_SMALL_BYTES = 2048,  /* a value that is in shared memory whatever the rows */
  CUDA_STAGED_COLUMNS = 128, /* from so many on, what a task of few rows reads is brought to shared memory first */
  CUDA_TURNS = 16,           /* of a launch, that memory is taken for beforehand */
};

/* What a block began last; of groups the program's index. */
typedef struct cuda_progress {
  int32_t group, layer, tile, task;
} cuda_progress;
enum { CUDA_NOT_BEGUN = -1, CUDA_ENDED = -2 }; /* in the place of a group */

/* The arguments of a step kernel, prelude/task.cuh's struct Launch. Pointers are the device's. */
typedef struct cuda_launch {
  tile_step step;
  const int32_t *first_segment;        /* [row tiles of the tokens + 1] */
  uint32_t *counters, *other_counters; /* [counter_count] each: zero before the first step; then they change
                                           places */
  int64_t counter_count, tiles;
  float *scratch; /* [blocks][scratch_floats] */
  int64_t scratch_floats;
  /* Of the entry that picks. The counters change places after each turn. */
  uint32_t *meeting;          /* [2]: grows by blocks * turns, and by turns */
  uint32_t arrived, released; /* what it holds */
  int32_t *ended;             /* [output rows] */
  cuda_progress *progress; /* [blocks] in memory of the host that the device writes to; NULL: it is not told */
} cuda_launch;

/* Row tiles that the counters of an instance are laid out for, of steps of at most so many tokens or outputs. */
int64_t cuda_counter_tiles(const tile_program *program, int64_t max_rows);
int64_t cuda_counter_count(const tile_program *program, int64_t tiles);
/* Fills list[row tiles of the step's tokens + 1]. */
void cuda_list_segments(const tile_program *program, const tile_step *step, int32_t *list);
int64_t cuda_first_instance(const tile_program *program, int section); /* of (iteration, group) pairs */
int64_t cuda_scratch_floats(const tile_program *program);              /* of a block */
int64_t cuda_shared_bytes(const tile_program *program);                /* of a block */

/* The whole text. Step kernels are named dipper_step_ENTRY. */
dp_status cuda_text(const tile_program *program, dp_str *out);

/* ---- NVRTC */

typedef enum cuda_output { CUDA_PTX, CUDA_CUBIN } cuda_output;

/* What ptxas says of one kernel or function. */
typedef struct cuda_resources {
  int kernels;                              /* reported */
  int registers;                            /* of the thread, the most of any */
  int64_t spill_stores, spill_loads, stack; /* bytes, of all */
} cuda_resources;

/* arch: "sm_80", "sm_90a", "sm_100a". The bytes are malloc'ed. resources may be NULL. DP_NOT_FOUND, and how to get it,
 * where there is no NVRTC. */
dp_status cuda_compile(const char *text, const char *arch, cuda_output output, cg_object *object,
                       cuda_resources *resources);
/* The same; ptxas' log is added to it. */
dp_status cuda_compile_logged(const char *text, const char *arch, cuda_output output, cg_object *object,
                              cuda_resources *resources, dp_str *log);
dp_status cuda_find_compiler(dp_str *version); /* its version: "NVRTC 13.0" */
dp_status cuda_describe_compiler(int *major, dp_str *out); /* the same and where it was found, for people */

/* Of ptxas' log a line a kernel and function: registers, shared memory, stack and spills. */
void cuda_report(const char *log, dp_str *out);

/* ---- inside: text under construction */

typedef struct cuda {
  const tile_program *program;
  dp_arena *arena;
  dp_str *out;
  int indent;
  dp_status status; /* the first failure */
} cuda;

/* One line, indented; ends a line itself. */
void cu_line(cuda *e, const char *fmt, ...) DP_PRINTF(2, 3);
/* A line, then what follows is indented until cu_close. */
void cu_open(cuda *e, const char *fmt, ...) DP_PRINTF(2, 3);
void cu_close(cuda *e);
/* An expression, in the arena. */
#define CU(...) dp_arena_printf(k->e->arena, __VA_ARGS__)
void cu_refuse(cuda *e, const char *what, const tile_op *op);
const char *cu_float(dp_arena *arena, float x);
/* A name as C wants it, made of a kind's or an entry's. */
const char *cu_name(dp_arena *arena, const char *prefix, int index, const char *name);
/* "a + b", "a * b", without what says nothing. */
const char *cu_sum(dp_arena *arena, const char *a, int64_t b);

void cu_storage(cuda *e, ir_dtype storage);
bool cu_is_stored(const tile_program *program, ir_dtype storage);
bool cu_is_tensor(const cuda *e, ir_dtype storage); /* its products are of the matrix units */

/* ---- a kind */

/* What a loop's body has computed so far: scalars, by op and place. */
typedef struct cu_scalar {
  int op;
  const char *r, *c, *name;
  struct cu_scalar *next;
} cu_scalar;

typedef struct cu_kind {
  cuda *e;
  const tile_kind *kind;
  int index;
  bool *placed;                    /* per op: its value has memory, as v<op> */
  int64_t *stride;                 /* per op: floats from row to row there */
  int64_t *shared_at, *scratch_at; /* per op: floats, -1: never there */
  bool *staged;                    /* per op: a load or a vector that a task of few rows copies, as x<op> */
  int narrow;                      /* rows up to which values are in shared memory */
  int64_t shared_floats, scratch_floats;
  cu_scalar *scalars; /* of the loop's body */
  int scalar_count;
  const char *tile; /* index of the slab */
  bool in_loop;
} cu_kind;

void cu_place_values(cu_kind *k);
void cu_emit_kind(cuda *e, int index);
const char *cu_kind_name(cuda *e, int index);

/* An op's element (r, c), r and c expressions: a name or a literal, good until the body ends. */
const char *cu_pull(cu_kind *k, int op, const char *r, const char *c);
const char *cu_pull_operand(cu_kind *k, const tile_op *op, int which, const char *r, const char *c);
void cu_begin_body(cu_kind *k);

const char *cu_columns(cu_kind *k, const tile_op *op); /* to make */
const char *cu_rows(cu_kind *k, const tile_op *op);
const char *cu_local_row(cu_kind *k, const char *r);                 /* from row0 on */
const char *cu_token(cu_kind *k, const char *r);                     /* of the step */
const char *cu_column(cu_kind *k, const tile_op *op, const char *r); /* column(r) */
/* The address of (r, 0) of a load or store. */
const char *cu_buffer_row(cu_kind *k, int index, const char *r);
void cu_declare_buffer(cu_kind *k, int index);

/* weight.c */
void cu_declare_weight(cu_kind *k, int index);
const char *cu_embed_element(cu_kind *k, int index, const char *r, const char *c);
void cu_weight_product(cu_kind *k, int index);
void cu_back_product(cu_kind *k, int index);
void cu_cache_product(cu_kind *k, int index);
void cu_append(cu_kind *k, int index);
void cu_gradient(cu_kind *k, int index);
const char *cu_keys(cu_kind *k, const tile_op *op, int part); /* address of this chunk's keys or values */
bool cu_readable_in_place(const tile_kind *kind, const tile_op *op);
/* A function that begins to bring the weights of a task near, of a kind with a product with weights. */
void cu_emit_ask(cu_kind *k);
bool cu_has_product(const tile_kind *kind);
/* The product with weights that a task of few rows of it can begin with before it may run, or -1. */
int cu_first_product(const cuda *e, const tile_kind *kind);


/* step.c */
void cu_emit_step(cuda *e, int entry);

#endif
