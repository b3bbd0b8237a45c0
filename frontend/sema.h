/* frontend/sema.h: private to frontend/: what names mean, what expressions are worth, and the state of one compile.
 * The way of a text: parse and imports give trees; names links each use to its declaration; constants give dims and
 * consts their values; weights declare tensors; lower turns graphs into IR, with every function inlined at its call; plans
 * and recipes become data beside it. */
#ifndef DIPPER_FRONTEND_SEMA_H
#define DIPPER_FRONTEND_SEMA_H

#include "frontend/ast.h"
#include "frontend/frontend.h"

/* ---- values ------------------------------------------------------------------------------------------------------ */

typedef enum fe_kind {
  FE_POISON,     /* after a mistake that was reported: whatever it meets stays silent */
  FE_DIM,        /* an integer known now, or a dimension of the step (T, S) */
  FE_NUMBER,     /* a float known now */
  FE_TENSOR,     /* a value of the graph */
  FE_TRANSPOSED, /* w.T: the right side of @ and nothing else */
  FE_INDEX,      /* a loop's variable */
  FE_STACK,      /* a weight with one tensor a layer, not indexed yet */
  FE_CHOSEN,     /* w[ids] of a weight of matrices: the right side of @ and nothing else */
} fe_kind;

typedef struct fe_loop fe_loop;

typedef struct fe_value {
  fe_kind kind;
  ir_dim dim;
  double number;
  ir_value *tensor;
  ir_value *ids;           /* FE_CHOSEN */
  bool transposed;         /* FE_CHOSEN */
  const fe_loop *loop;     /* FE_INDEX */
  const fe_symbol *weight; /* FE_STACK */
} fe_value;

/* ---- symbols ----------------------------------------------------------------------------------------------------- */

typedef enum fe_symbol_kind {
  /* declared in a text */
  FE_SYM_MODEL,
  FE_SYM_PLAN,
  FE_SYM_RECIPE,
  FE_SYM_DIM,
  FE_SYM_CONST,
  FE_SYM_WEIGHT,
  FE_SYM_FUNCTION,
  FE_SYM_GRAPH,
  FE_SYM_LOCAL,
  /* built in */
  FE_SYM_STEP,
  FE_SYM_POSITIONS,
  FE_SYM_OP,
  FE_SYM_MATH, /* a function of numbers only */
  FE_SYM_HOST, /* an op of the host */
  FE_SYM_ATTEND,
} fe_symbol_kind;

struct fe_symbol {
  fe_symbol_kind kind;
  const char *name;
  dp_loc loc; /* of the declaration; no file: built in */
  fe_value value;         /* dim, const, step; of a weight: its op in graph `in` */
  bool known;             /* value has been set; a weight: it is in the module */
  const ir_block *in;
  ir_opcode code;         /* op */
  const dp_op *host;      /* the host's op */
  ast_weight *weight;
  ast_function *function; /* function, graph */
  int slot;               /* local: where a frame keeps it; math: how many numbers it takes */
  fe_symbol *next;        /* in its bucket, or the next outer local */
};

enum { FE_BUCKETS = 1024 };

typedef struct fe_scope {
  fe_symbol *buckets[FE_BUCKETS];
  const struct fe_scope *outer;
  const char **names; /* of all symbols, for suggestions */
  int count, cap;
} fe_scope;

/* ---- the compile ------------------------------------------------------------------------------------------------- */

struct fe_loop {
  const fe_loop *outer;
  int64_t first, count;
  ir_value *index;
};

/* A function being inlined, or the graph itself. */
typedef struct fe_frame {
  const ast_function *function;
  const struct fe_frame *caller;
  dp_loc call; /* where the caller calls it */
  int depth;
  fe_value *slots; /* by fe_symbol.slot */
} fe_frame;

/* Layers [begin, end) of a cache that an attend of this graph writes. */
typedef struct fe_cache_use {
  const char *name;
  int64_t begin, end;
  dp_loc loc;
} fe_cache_use;

typedef struct fe_compiler {
  dp_arena *arena; /* of trees and symbols; gone after the compile */
  dp_diags *diags;
  const fe_options *options;
  fe_scope builtins, library, model_scope; /* each one's outer is the one before */
  /* what the text and its imports declare */
  ast_functions functions;
  ast_models models;
  ast_scripts plans, recipes;
  /* what of it is compiled */
  ast_model *model;
  const ast_script *plan, *recipe; /* or NULL */
  ir_module *module;
  /* the graph being lowered */
  ir_block *graph, *block;
  ir_op *last_weight;
  ir_value *positions;
  fe_frame *frame;
  const fe_loop *loop;
  fe_cache_use *caches;
  int cache_count, cache_cap;
  int depth; /* of C frames, roughly */
  int fuel;  /* expressions that may still be evaluated: bounds inlining */
  int names; /* of weights, that plans and recipes have so far */
  /* what report.c knows about the last error */
  bool silent; /* it had been said before */
  int chain;   /* notes about calls behind it */
  bool stopped; /* too many errors: nothing more is said or done */
} fe_compiler;

/* Of a dimension; what is computed on the way to one may be larger. */
#define FE_LARGEST_DIM (INT64_C(1) << 40)

/* Bounds on what a hostile text can ask for. */
enum {
  FE_MOST_ERRORS = 100,
  FE_MOST_FUEL = 200000,
  FE_MOST_DEPTH = 1200,
  FE_MOST_CALLS = 40,
  FE_MOST_LOOPS = 40,
  FE_MOST_WEIGHTS = 4096,
  FE_MOST_GRAPHS = 256,
  FE_MOST_FILES = 64,
  FE_MOST_LOCALS = 4096,
  FE_MOST_SCRIPTS = 256, /* plans; recipes as many */
  FE_MOST_NAMES = 10000,
};

/* import.c: reads what the text imports, and what that imports; collects what all of them declare. `tree`
 * is the text itself, which is source `file`. */
void fe_import(fe_compiler *c, uint32_t file, ast_file *tree);
/* A path as a file names it, from where the process stands: "models/a.dip" and "b.dip" give "models/b.dip". */
const char *fe_beside(dp_arena *arena, const char *naming, const char *path);

/* choose.c: sets the model, plan and recipe of the compile; no model after a mistake. */
void fe_choose(fe_compiler *c, uint32_t file, const ast_file *tree);

/* names.c */
void fe_builtins(fe_compiler *c);
fe_symbol *fe_declare(fe_compiler *c, fe_scope *scope, fe_symbol_kind kind, ast_name name); /* NULL: taken, reported */
fe_symbol *fe_find(const fe_scope *scope, const char *name);                                 /* outer ones too */
const char *fe_nearest(const fe_scope *scope, const char *name);
const char *fe_symbol_phrase(const fe_symbol *symbol); /* "a weight", "a built-in op" */

/* resolve.c: every name of every function to its symbol; also what can be said without types: calls with a wrong number
 * of arguments, a missing return, recursion. Declares what the texts declare. */
void fe_resolve(fe_compiler *c);
void fe_resolve_expr(fe_compiler *c, ast_expr *expr); /* in the model, outside of its functions */

/* constants.c: dims and consts: --set beats metadata beats the text. */
void fe_constants(fe_compiler *c);

double fe_math(const fe_symbol *symbol, const double *x); /* log, pow, floor, ceil */

/* weights.c: declarations to ir_weights. */
void fe_weights(fe_compiler *c);

/* shapes.c */
fe_value fe_integer(int64_t value);
fe_value fe_dim_arithmetic(fe_compiler *c, char op, ir_dim a, ir_dim b, dp_loc loc);
/* 1 to FE_LARGEST_DIM; `what` names it in messages. */
bool fe_eval_dim(fe_compiler *c, const ast_expr *expr, const char *what, ir_dim *dim);
bool fe_eval_first(fe_compiler *c, const ast_expr *expr, int64_t end, dp_loc end_loc, int64_t *first); /* of first .. end */
bool fe_eval_shape(fe_compiler *c, const ast_exprs *exprs, dp_loc loc, ir_type *type); /* sets rank and dims */
bool fe_eval_dtype(fe_compiler *c, ast_name name, ir_dtype *dtype);
/* Checks an argument against its parameter, giving the names that the parameter's shape binds their values. */
bool fe_match_parameter(fe_compiler *c, const ast_parameter *parameter, const fe_value *argument, dp_loc loc);
/* Checks what a function or graph returns against its `-> [shape]`. */
bool fe_match_result(fe_compiler *c, const ast_function *function, const ir_type *type, dp_loc loc);
const char *fe_type_text(fe_compiler *c, const ir_type *type);
const char *fe_value_text(fe_compiler *c, const fe_value *value);

/* call.c: what the resolver asks about ops. `kind` is FE_SYM_OP, of `code`, or FE_SYM_ATTEND. */
bool fe_takes_name(fe_symbol_kind kind, ir_opcode code, const char *name); /* of an argument */
bool fe_is_flag(fe_symbol_kind kind, ir_opcode code, const ast_argument *argument); /* a bare word like `causal` */
const char *fe_signature(fe_compiler *c, fe_symbol_kind kind, ir_opcode code);      /* "rms_norm(x, weight, eps)" */

/* expr.c, call.c */
#define fe_poison ((fe_value){.kind = FE_POISON})
fe_value fe_number(double value);
bool fe_is_number(const fe_value *value, double *number); /* known now, not symbolic */
fe_value fe_eval(fe_compiler *c, const ast_expr *expr);
fe_value fe_eval_call(fe_compiler *c, const ast_expr *expr);
fe_value fe_emit(fe_compiler *c, ir_opcode code, ir_value *const *operands, int count, const ir_attr *attrs,
                 int attr_count, dp_loc loc);
/* The value as a tensor: numbers become constants; NULL when poisoned or, with a message, when it cannot be one. */
ir_value *fe_tensor(fe_compiler *c, const fe_value *value, dp_loc loc);
ir_value *fe_layer_index(fe_compiler *c, const fe_value *index, dp_loc loc); /* of a weight or cache; NULL: reported */

/* lower.c */
void fe_name_value(fe_compiler *c, ir_value *value, const char *name); /* when it has none */
void fe_lower(fe_compiler *c);
fe_value fe_inline(fe_compiler *c, const ast_function *function, fe_value *arguments, const ast_expr *call);

/* plan.c, recipe.c: in the module's arena; a script of NULL is the plan of a text without one. */
ir_plan *fe_plan(fe_compiler *c, const ast_script *script);
ir_recipe *fe_recipe(fe_compiler *c, const ast_script *script);

/* report.c: a mistake, with the chain of calls it was found through; said once, however often a function is inlined. */
void fe_error(fe_compiler *c, dp_loc loc, const char *fmt, ...) DP_PRINTF(3, 4);
void fe_note(fe_compiler *c, dp_loc loc, const char *fmt, ...) DP_PRINTF(3, 4); /* to the last fe_error, if said */
void fe_reported(fe_compiler *c, int first); /* someone else added the diagnostics from `first` on */

#endif
