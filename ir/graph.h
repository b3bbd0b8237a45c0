/* ir/graph.h: the graph IR: typed SSA over tensors, with regions for the layer loop and for fused groups.
 *
 * A module holds weights (declarations) and graphs. A graph is a block of ops; a block has arguments and ends in a
 * terminator (`return`, `yield`). Every op is a row of ir/ops.def. Everything of a module lives in its arena, and a
 * module is used by one thread at a time. Uses are not stored: modules are small (a model is ~100 ops, the layer loop
 * rolled), so a pass that needs them walks. */
#ifndef DIPPER_IR_GRAPH_H
#define DIPPER_IR_GRAPH_H

#include "base/base.h"

/* ---- element types, dimensions, types ----------------------------------------------------------------------------- */

typedef enum ir_dtype {
#define DTYPE(name, elements, bytes, doc) IR_##name,
#include "ir/dtypes.def"
#undef DTYPE
  IR_DTYPE_COUNT
} ir_dtype;

const char *ir_dtype_name(ir_dtype dtype);
bool ir_dtype_parse(const char *name, ir_dtype *dtype);
int ir_dtype_block_elements(ir_dtype dtype);
int ir_dtype_block_bytes(ir_dtype dtype);

/* A dimension: coef * symbol + add. Static dimensions have symbol == NULL and coef == 0. Symbols of a step: T tokens,
 * S positions of the context, R rows whose logits are asked for. `name` is what the model calls it ("d"), for messages
 * only: two dimensions are equal when symbol, coef and add are. Strings live in the module's arena or are literals. */
typedef struct ir_dim {
  const char *symbol;
  int64_t coef, add;
  const char *name;
} ir_dim;

enum { IR_MAX_RANK = 6 };

typedef struct ir_type {
  ir_dtype dtype;
  int rank; /* 0: a scalar */
  ir_dim dims[IR_MAX_RANK];
} ir_type;

ir_dim ir_static_dim(int64_t n, const char *name);
ir_dim ir_symbol_dim(const char *symbol);
bool ir_dim_equal(ir_dim a, ir_dim b);
bool ir_dim_is_static(ir_dim d);
bool ir_type_equal(const ir_type *a, const ir_type *b);
/* Product of the static dims from axis `from` on; -1 when one of them is symbolic. */
int64_t ir_static_size(const ir_type *type, int from);
void ir_print_dim(dp_str *out, ir_dim dim);          /* "d:576", "T", "2*T+1", "64" */
void ir_print_type(dp_str *out, const ir_type *type); /* "f32[T, d:576]", "f32[]" */
/* The shorter of 9 and 17 digits that reads back as the same double. The point is a point in every locale. */
void ir_print_float(dp_str *out, double f);

/* ---- attributes -------------------------------------------------------------------------------------------------- */

typedef enum ir_attr_kind { IR_ATTR_INT = 'i', IR_ATTR_FLOAT = 'f', IR_ATTR_STRING = 's', IR_ATTR_SHAPE = 'd' } ir_attr_kind;

typedef struct ir_attr {
  const char *name;
  ir_attr_kind kind;
  int64_t i;        /* 'i' (booleans are 0/1) */
  double f;         /* 'f' */
  const char *s;    /* 's' */
  ir_type shape;    /* 'd': a type, printed as one (for reshape) */
} ir_attr;

/* ---- ops, values, blocks ------------------------------------------------------------------------------------------- */

typedef enum ir_opcode {
#define IR_OP(name, operands, attrs, shape, gradient, tile, traits, doc) IR_OP_##name,
#include "ir/ops.def"
#undef IR_OP
  IR_OP_COUNT
} ir_opcode;

typedef enum ir_traits {
  IR_PURE = 1,         /* no effect: may be removed, merged, moved */
  IR_ELEMENTWISE = 2,  /* result element i depends on operand elements i (after broadcasting) only */
  IR_ROWWISE = 4,      /* row t of the result depends on row t of the operands that have rows only */
  IR_REGION = 8,       /* has a body */
  IR_TERMINATOR = 16,  /* ends a block */
  IR_ACCUMULATES = 64, /* adds to the gradient of the weight it names */
  IR_COMMUTES = 32,    /* the two operands may be swapped: same bits */
} ir_traits;

typedef struct ir_op_info {
  const char *name;
  const char *operands; /* names separated by spaces; a trailing "..." makes the last one variadic, "?" optional */
  const char *attrs;    /* "eps:f causal:i?" : name:kind, ? = optional */
  unsigned traits;
  const char *doc;
} ir_op_info;
const ir_op_info *ir_op_info_of(ir_opcode code);
bool ir_opcode_parse(const char *name, ir_opcode *code);

typedef struct ir_op ir_op;
typedef struct ir_block ir_block;
typedef struct ir_graph ir_graph;
typedef struct ir_module ir_module;

typedef struct ir_value {
  ir_type type;
  ir_op *def;      /* the op it is a result of, or NULL for a block argument */
  ir_block *block; /* the block it is an argument of, or NULL */
  int index;       /* which result or argument */
  const char *name; /* a hint for printing, or NULL; the printer makes names unique */
  int id;          /* scratch of whoever walks: the printer's number, a pass's index */
} ir_value;

struct ir_op {
  ir_opcode code;
  ir_value **operands;
  int operand_count;
  ir_value **results;
  int result_count;
  ir_attr *attrs;
  int attr_count;
  ir_block *body; /* for IR_REGION ops, else NULL */
  ir_block *parent;
  ir_op *previous, *next;
  dp_loc loc;
  int mark; /* scratch of whoever walks */
};

struct ir_block {
  ir_module *module;
  ir_op *owner; /* the region op, or NULL for a graph's block */
  ir_value **args;
  int arg_count;
  ir_op *first, *last;
};

/* One way in which files hold a weight. Rows are those of one tensor of the file, in the model's sense (of W[n, k]: n, with
 * k along the row), all dimensions but the last flattened.
 *   transposed: the file's tensor is [k, n] (GPT-2's Conv1D)
 *   run > 0:    row r of the weight is the tensor's row first + r / run * step + r % run: a window of a tensor that holds
 *               more (q, k and v in one; a head's two parts). run 0: the tensor has the weight's rows and no others
 *   paired > 0: after that, rows of each of so many heads lie in adjacent rotation pairs: undone at load
 *   plus:       added to every element of a vector, in f32 (norms that the file holds as offsets from 1) */
typedef struct ir_source {
  const char *pattern; /* "{}" is the layer; a second one the index in the second stack dimension */
  bool transposed;
  int64_t run, step, first;
  int64_t paired;
  double plus;
} ir_source;

/* A weight as the model declares it. The first `stack` dimensions of its type count tensors of the same shape: layers
 * (stack 1), or layers and experts or heads (stack 2). A file holds one tensor for each of those ("{}" twice in the
 * pattern), one a layer with the second stack dimension as its first ("{}" once), or one for all (none). */
typedef struct ir_weight {
  const char *name;
  ir_type type;        /* dtype as computed with: f32 */
  int stack;           /* 0, 1, 2 */
  int64_t first_layer; /* the number that stands for index 0 of the first stack dimension */
  bool optional;       /* may be absent from the file when no op uses it, or when `tied` stands in */
  ir_source *sources;  /* tried in order */
  int source_count;
  const char *tied;    /* name of the weight used when the file has none of the sources, or NULL */
  bool filled;         /* every element is `fill` when the file has none of the sources */
  double fill;
  bool frozen;         /* gets no gradient: stays as it is */
  unsigned storage;   /* bit set of ir_dtype: what the bound file stores (several when layers differ); 0 = f32 */
  dp_loc loc;
} ir_weight;

struct ir_graph {
  const char *name;
  ir_block *block;  /* arguments are the graph's inputs; well-known names: tokens, pos, out_rows */
  ir_graph *next;
  dp_loc loc;
};

struct ir_module {
  dp_arena *arena; /* owned */
  const char *name;
  ir_weight *weights;
  int weight_count, weight_cap;
  ir_graph *graphs; /* in order of declaration */
};

ir_module *ir_module_new(const char *name);
void ir_module_free(ir_module *module);
ir_weight *ir_add_weight(ir_module *module, const char *name, const ir_type *type); /* pointer valid until the next */
ir_weight *ir_find_weight(const ir_module *module, const char *name);
ir_graph *ir_add_graph(ir_module *module, const char *name);
ir_graph *ir_find_graph(const ir_module *module, const char *name);
ir_block *ir_block_new(ir_module *module, ir_op *owner);
/* A copy of the graph under another name, at the end of the module's list. */
ir_graph *ir_clone_graph(ir_module *module, const ir_graph *graph, const char *name);
ir_value *ir_add_arg(ir_block *block, const ir_type *type, const char *name);

/* ---- building -------------------------------------------------------------------------------------------------------- */

/* Appends an op before `before` (NULL: at the block's end), infers its result types by its shape rule and checks
 * operands and attributes. On a mistake reports into `diags` at `loc` and returns NULL, the block unchanged. `diags`
 * may be NULL where a failure would be our own bug. Attributes are copied. */
ir_op *ir_emit(ir_block *block, ir_op *before, ir_opcode code, ir_value *const *operands, int operand_count,
               const ir_attr *attrs, int attr_count, ir_block *body, dp_loc loc, dp_diags *diags);
ir_attr ir_attr_i(const char *name, int64_t value);
ir_attr ir_attr_f(const char *name, double value);
ir_attr ir_attr_s(const char *name, const char *value);
ir_attr ir_attr_d(const char *name, const ir_type *value);
const ir_attr *ir_find_attr(const ir_op *op, const char *name); /* NULL when absent */
int64_t ir_get_int(const ir_op *op, const char *name, int64_t otherwise);
double ir_get_float(const ir_op *op, const char *name, double otherwise);
const char *ir_get_string(const ir_op *op, const char *name, const char *otherwise);
void ir_set_attr(ir_op *op, ir_attr attr); /* replaces or adds */

/* ---- rewriting -------------------------------------------------------------------------------------------------------- */

void ir_unlink(ir_op *op);                             /* takes it out of its block */
void ir_insert(ir_block *block, ir_op *before, ir_op *op); /* links an unlinked op */
/* In `block` and every block nested in it. */
void ir_replace_uses(ir_block *block, ir_value *old, ir_value *fresh);
int ir_count_uses(const ir_block *block, const ir_value *value);
/* A copy of `op` (with its body) before `before`; operands mapped through `from[i] -> to[i]` where they match. */
ir_op *ir_clone(ir_op *op, ir_block *block, ir_op *before, ir_value *const *from, ir_value *const *to, int map_count);

/* ---- text, checks --------------------------------------------------------------------------------------------------------- */

/* The text form (docs/ir.md); ir_parse reads it back to the same module: print(parse(print(m))) == print(m). */
void ir_print(dp_str *out, const ir_module *module);
ir_module *ir_parse(const char *path, const char *text, size_t length, dp_diags *diags); /* NULL after errors */
/* Checks structure, dominance, types (every shape rule again), terminators. DP_BUG naming the op when broken;
 * `after` names the pass that ran last, for the message. */
dp_status ir_verify(const ir_module *module, const char *after);

#endif
