/* dipper/embed.h: dipper inside another program: its callbacks, its memory, its weights, its ops; graphs as functions
 * over tensors; DLPack. docs/embedding.md tells how they go together.
 *
 * Every function may be called from any thread. An object is used by one call at a time: a call that finds another
 * thread's under way returns DP_BUSY and has changed nothing. Contexts and tensors may be used by several at once. A
 * NULL argument, a wrong shape or element type, an object that was freed while others hold on to it: DP_INVALID, its
 * message names the call and the mistake. Out parameters are set only on success. */
#ifndef DIPPER_EMBED_H
#define DIPPER_EMBED_H

#include "dipper/dipper.h"

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

/* ---- context: what the host lends
 * ----------------------------------------------------------------------------------- */

typedef enum dp_log_level { DP_LOG_NOTE, DP_LOG_WARNING } dp_log_level;

/* Zero-initialize, set `size`; each callback may stay NULL. They are called with no lock held, from the thread that
 * called dipper (allocate and release from any that does), and must not call back into the object that is at work. They
 * and `user` stay valid until the context and everything made with it are freed. */
typedef struct dp_callbacks {
  size_t size; /* sizeof(dp_callbacks): fields added later lie behind it */
  void *user;
  /* A line of UTF-8 without a newline; text is valid during the call. */
  void (*log)(void *user, dp_log_level level, const char *text);
  /* Memory of what is large: weights, caches, activations, results. At least `size` bytes at a multiple of `alignment`
   * (a power of two, at most 4096), or NULL: DP_NO_MEMORY. It need not be zeroed. release gets the very same numbers.
   * Both or none. */
  void *(*allocate)(void *user, size_t size, size_t alignment);
  void (*release)(void *user, void *memory, size_t size, size_t alignment);
  /* Where a call is: stage "read", "compile", "pack", "prefill" or "generate"; fraction 0 .. 1, never less than before
   * in a stage. */
  void (*progress)(void *user, const char *stage, double fraction);
  /* Asked about every 5 ms of opening, compiling, packing and steps; true: the call ends with DP_CANCELLED. */
  bool (*cancel)(void *user);
} dp_callbacks;

/* dp_context is declared in dipper/dipper.h, whose dp_options names one for models, trainers and all else. */
dp_status dp_context_new(const dp_callbacks *callbacks, dp_context **context); /* callbacks NULL: none; copied */
/* NULL is fine. What was made with it goes on working, and keeps it; new objects are refused. Waits for a compile that
 * was cancelled and is still being put away. */
void dp_context_free(dp_context *context);

/* ---- tensors: views of memory, with an owner
 * ------------------------------------------------------------------------ */

typedef struct dp_tensor dp_tensor;

typedef enum dp_dtype { DP_F32, DP_F16, DP_BF16, DP_I32, DP_I64, DP_U8 } dp_dtype;
size_t dp_dtype_bytes(dp_dtype dtype); /* of an element; 0: no such type */

enum { DP_MAX_RANK = 8 };

typedef struct dp_tensor_info {
  void *data; /* of element [0, ..., 0]; of a CPU */
  dp_dtype dtype;
  int rank;
  int64_t shape[DP_MAX_RANK];
  int64_t strides[DP_MAX_RANK]; /* in elements */
  bool read_only;
} dp_tensor_info;

/* A view of the host's memory. shape[rank]; strides[rank] in elements; NULL: row-major without gaps. release, when not
 * NULL, is called once, from whatever thread frees the last view, with `user` and `data`. */
dp_status dp_tensor_from_memory(void *data, dp_dtype dtype, int rank, const int64_t *shape, const int64_t *strides,
                                void (*release)(void *user, void *data), void *user, dp_tensor **tensor);
/* Zeroed memory of the context's allocator (context NULL: the system's), row-major, at a multiple of 64. */
dp_status dp_tensor_new(dp_context *context, dp_dtype dtype, int rank, const int64_t *shape, dp_tensor **tensor);
void dp_tensor_free(dp_tensor *tensor); /* NULL is fine; the memory goes with its last owner */
dp_status dp_tensor_get_info(const dp_tensor *tensor, dp_tensor_info *info);

/* DLPack: https://dmlc.github.io/dlpack. dipper/dlpack.h declares these structures; DLPack's own header does too. */
struct DLManagedTensor;
struct DLManagedTensorVersioned;
/* Without a copy. *out owns a part in the memory: the tensor may be freed before it. Its consumer calls its deleter,
 * once. */
dp_status dp_tensor_to_dlpack(const dp_tensor *tensor, struct DLManagedTensor **out);
dp_status dp_tensor_to_dlpack_versioned(const dp_tensor *tensor, struct DLManagedTensorVersioned **out);
/* Without a copy. On success the deleter is the tensor's, called with its last owner; on failure it stays the caller's.
 * DP_UNSUPPORTED: memory that is no CPU's, an element type that dp_dtype has not, another major version than 1. */
dp_status dp_tensor_from_dlpack(struct DLManagedTensor *managed, dp_tensor **tensor);
dp_status dp_tensor_from_dlpack_versioned(struct DLManagedTensorVersioned *managed, dp_tensor **tensor);

/* ---- graphs: a text compiled to a function over tensors
 * ------------------------------------------------------------- */

typedef struct dp_graph dp_graph;

/* One of the model's weights. name: as the text declares it (`wq`; all layers in one tensor, as declared: [layers, n,
 * k]), or as its `from` says (one of a layer). Row-major without gaps. f32, f16, bf16 for matrices; f32, f16, bf16 for
 * vectors. */
typedef struct dp_weight_view {
  const char *name;
  dp_dtype dtype;
  int rank;
  const int64_t *shape;
  const void *data;
} dp_weight_view;

/* Zero-initialize; strings and arrays need to live only for the call, but for the weights' data: see dp_graph_info. */
typedef struct dp_graph_options {
  size_t size; /* sizeof(dp_graph_options) */
  const dp_weight_view *weights;
  int weight_count;
  const char *weights_file;        /* what `weights` has not: dp_options.weights; with it weight_count must be 0 */
  const char *const *sets;         /* "name=value" */
  int set_count;
  const char *plan;                /* of the text, by name */
  int threads;                     /* 0: one a core */
  int64_t rows;                    /* T of a call, at most; 0: 512 */
  const char *cache_dir, *backend; /* as in dp_options; "llvm" or "interp" */
  bool verify_each;
} dp_graph_options;

/* Compiles graph `name` (NULL: the first) of text[length] for the CPU. Mistakes in the text: DP_INVALID, rendered. */
dp_status dp_graph_compile(dp_context *context, const char *text, size_t length, const char *name,
                           const dp_graph_options *options, dp_graph **graph);
void dp_graph_free(dp_graph *graph); /* NULL is fine; results go on living */

/* A parameter, or the result. shape[0] is -1: T, the rows of a call. */
typedef struct dp_graph_value {
  const char *name; /* the graph's */
  dp_dtype dtype;
  int rank;
  int64_t shape[DP_MAX_RANK];
} dp_graph_value;

typedef struct dp_graph_info {
  int input_count, output_count;
  int64_t rows;           /* T at most */
  int64_t borrowed_bytes; /* of weights that are read where the host has them: they must stay there, unchanged, until
                             dp_graph_free */
  int64_t packed_bytes;   /* of those copied once into the layout of kernels: the host's are not needed any more */
  double compile_s;
  bool compiled; /* false: the code came from the cache */
} dp_graph_info;
dp_status dp_graph_get_info(const dp_graph *graph, dp_graph_info *info);
dp_status dp_graph_get_input(const dp_graph *graph, int index, dp_graph_value *value);
dp_status dp_graph_get_output(const dp_graph *graph, int index, dp_graph_value *value);

/* Runs the graph over T rows, all of one sequence from position 0 (`pos` is 0, 1, ..., T - 1): nothing is kept from
 * call to call. inputs[input_count] in the text's order, of its element types and shapes, with the same T in all; any
 * strides. outputs[output_count]: NULL: a new tensor f32, made without a copy, whose rows may stand apart (strides) and
 * which the caller frees; else the caller's, of that shape, any strides, written to. The bits of a row depend neither
 * on threads nor on how many rows there are. DP_CANCELLED: outputs are as they were. */
dp_status dp_graph_call(dp_graph *graph, dp_tensor *const *inputs, int input_count, dp_tensor **outputs,
                        int output_count);

/* ---- the host's own ops
 * --------------------------------------------------------------------------------------------- */

enum { DP_MOST_OPERANDS = 8 };

/* f32 rows in memory: row r at data + r * stride, `columns` of them (the product of a value's dimensions after T). */
typedef struct dp_rows {
  float *data;
  int64_t rows, columns, stride; /* stride in floats */
} dp_rows;

/* Zero-initialize, set `size`. Strings are copied. */
typedef struct dp_op {
  size_t size;      /* sizeof(dp_op) */
  const char *name; /* as the text calls it: letters, digits, _; no op, function or builtin of the language */
  int operands;     /* 1 .. DP_MOST_OPERANDS, all f32[T, ...] */
  void *user;
  /* Shape of the result's row: of operand i, rank[i] dimensions after T at shapes[i]. Writes at most DP_MAX_RANK - 1
   * dimensions to result and their count to *result_rank. false: they do not go together; *message (static or the
   * host's) says why. NULL: as operand 0. Called while a text is compiled. */
  bool (*shape)(void *user, const int64_t *const *shapes, const int *rank, int64_t *result, int *result_rank,
                const char **message);
  /* result[rows, columns] of operands[i][rows, columns of i]; operands are only read, padding of rows may hold anything
   * and the result's may be overwritten. Called by dipper's workers, several at once, for some rows of a call each: it
   * must be safe for that, keep no state, and give a row the same bits whatever rows stand beside it and however many
   * (dipper's numerics contract goes as far as the op keeps it). false: the step fails, DP_INVALID. */
  bool (*forward)(void *user, const dp_rows *operands, int count, const dp_rows *result);
  /* gradients[i]: the name of a registered op of operands + 1 operands (the op's, then the gradient of its result) that
   * gives the gradient of operand i, of its shape; NULL: nothing flows back to it. gradients NULL: the op cannot be
   * trained through. */
  const char *const *gradients;
} dp_op;

/* From then on texts that are compiled with the context may call it. There is no taking back: ops live with the
 * context. DP_INVALID: the name is taken or is none. CPU only: DP_UNSUPPORTED, with its name, when a text that uses it
 * is to run on a GPU or to be compiled ahead of time. */
dp_status dp_context_add_op(dp_context *context, const dp_op *op);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif

#endif
