/* runtime/engine.h: a model ready to run: packed weights, a paged KV cache, workers. A step takes a ragged batch:
 * several sequences, each with its own count of new tokens. An engine is used by one thread at a time. */
#ifndef DIPPER_RUNTIME_ENGINE_H
#define DIPPER_RUNTIME_ENGINE_H

#include "ir/ir.h"
#include "runtime/broken.h"
#include "runtime/trace.h"
#include "runtime/weights.h"

typedef struct rt_engine rt_engine;
typedef struct rt_sequence rt_sequence;

typedef struct rt_engine_options {
  int workers;        /* threads of a step, the caller included; >= 1 */
  int64_t context;    /* tokens of all sequences together that the KV cache can hold */
  int64_t max_tokens; /* new tokens a step, at most; 0: 512 */
  /* Weights that are packed already (rt_resident_map), which outlive the engine; NULL: the binding's. */
  const void *image;
  size_t image_bytes;
  uint64_t image_key[2];
} rt_engine_options;

/* The bytes that an engine takes from the system, by what for; rt_engine_new takes them by this very account. What is more
 * than any memory stays at 2^58. */
typedef struct rt_engine_sizes {
  int64_t weights;                  /* packed, as kernels read them */
  int64_t loading;                  /* beside them while they are packed: decoded pieces */
  int64_t states[TILE_STATE_COUNT]; /* gradients and moments */
  int64_t cache;                    /* pages of keys and values */
  int64_t arena[TILE_SPACE_COUNT];  /* activations; of space WINDOW those of one window */
  int64_t logits;                   /* what entry 0 returns: touched only as its rows are asked for */
  int64_t results;                  /* what other entries do */
  int64_t arguments;                /* of a step */
  int64_t workers;                  /* scratch, counters */
} rt_engine_sizes;
/* code: for the workers' scratch, and for whether it runs on a device; NULL: without scratch, and in the host's memory.
 */
rt_engine_sizes rt_engine_measure(const tile_program *program, const tile_code *code, const rt_binding *binding,
                                  const rt_engine_options *options);
/* The bytes on the device that the code runs on, about, without those for its arguments; all 0 where it runs on none.
 */
rt_engine_sizes rt_engine_measure_device(const tile_program *program, const tile_code *code, const rt_binding *binding,
                                         const rt_engine_options *options);
int64_t rt_engine_sizes_sum(const rt_engine_sizes *sizes); /* without loading and logits: what training touches */

/* Packs the weights (all workers at it) and sets up memory. `program` and `code` must outlive the engine; the binding
 * and its file need not. binding: NULL when there is an image and nothing is trained. */
dp_status rt_engine_new(const tile_program *program, const tile_code *code, const rt_binding *binding,
                        const rt_engine_options *options, rt_engine **engine);
void rt_engine_free(rt_engine *engine); /* NULL is fine; frees its sequences too */
/* What the engine has taken of the host's memory; and of a device's: all that its code has. */
rt_engine_sizes rt_engine_get_sizes(const rt_engine *engine);
int64_t rt_engine_device_bytes(const rt_engine *engine);
/* Takes all that training touches from the system and the device now, with `cache` the cache too: DP_NO_MEMORY, where
 * it would otherwise end the process in the middle of a step. */
dp_status rt_engine_commit(rt_engine *engine, bool cache);

dp_status rt_sequence_new(rt_engine *engine, rt_sequence **sequence);
void rt_sequence_free(rt_engine *engine, rt_sequence *sequence); /* its pages are reused */
int64_t rt_sequence_length(const rt_sequence *sequence);         /* tokens in the cache */
/* Forgets tokens from `length` on. */
void rt_sequence_truncate(rt_engine *engine, rt_sequence *sequence, int64_t length);

typedef enum rt_want { RT_WANT_NONE, RT_WANT_LAST, RT_WANT_ALL } rt_want;

/* How a token is drawn: the greatest of logits + temperature * gumbel, whose noise is of the seed and the token's position. */
typedef struct rt_draw {
  float temperature; /* 0: greedy, the lowest id on ties */
  uint64_t seed;
} rt_draw;

typedef struct rt_request {
  rt_sequence *sequence; /* at most once in a step */
  const int32_t *tokens;
  int64_t count; /* >= 1 */
  rt_want want;  /* rows of logits */
  const int32_t *targets; /* [count], where the graph has such an input: the ids to come, negative: not counted; NULL: none */
  const float *coefficients; /* [count], where the graph has such an input: of each token's score in what is minimized; NULL: 1 */
  const rt_draw *draw; /* of rt_engine_pick, for the rows wanted; NULL: greedy */
} rt_request;

/* Rows of f32 logits, or what else the graph returns, in the order of requests and tokens (of a graph that returns a row
 * for each token, of all); valid until the next step. */
typedef struct rt_logits {
  const float *data;
  int64_t rows, columns, stride; /* floats from row to row */
} rt_logits;

/* Runs one step. Token ids out of range, a full cache, more tokens than max_tokens: an error before anything is
 * touched. */
dp_status rt_engine_step(rt_engine *engine, const rt_request *requests, int count, rt_logits *logits);
/* The same of any entry of the program; of entry 0 is rt_engine_step. Of one without tokens (an update) count is 0. */
dp_status rt_engine_run(rt_engine *engine, int entry, const rt_request *requests, int count, rt_logits *rows);

/* A step that picks the tokens behind the wanted rows itself. A log-probability that is NaN: the row's logits hold NaN or +inf, or
 * nothing but -inf, and the id means nothing. */
typedef struct rt_pick {
  int32_t id;
  float log_probability; /* under the logits as they came; what the graph `score` gives the token, with its sign turned */
} rt_pick;
bool rt_engine_picks(const rt_engine *engine); /* has the program an entry for it? */
/* picks: one a wanted row, in the order of rt_engine_step's logits. logits NULL: they stay where the step runs. */
dp_status rt_engine_pick(rt_engine *engine, const rt_request *requests, int count, rt_pick *picks, rt_logits *logits);

/* Several tokens one after the other of each sequence: the token picked is the next one's input. */
enum { RT_MOST_TURNS = 16 };
typedef struct rt_decoding {
  int turns;           /* 1 to RT_MOST_TURNS */
  const int32_t *ends; /* when every sequence has picked one of these, there are no more turns */
  int end_count;
} rt_decoding;
/* How many turns are one launch of the engine's code, so that more at a time are for nothing: 1 where it takes a step each. */
int rt_engine_turns(const rt_engine *engine);
/* Requests of one token each; picks[turns][count], of which *made turns are there then: fewer where all have ended, or the model
 * knows no more positions. The sequences have grown by *made tokens:
 * the request's and all picks but the last. Those that had their end before others did have grown too: truncate them. The same
 * bits as *made times rt_engine_pick. The requests' tokens are changed. */
dp_status rt_engine_decode(rt_engine *engine, rt_request *requests, int count, const rt_decoding *decoding, rt_pick *picks,
                           int *made);

/* The same step by one thread, to find where the first number comes up that is none (NaN, infinity). */
dp_status rt_engine_find_broken(rt_engine *engine, int entry, const rt_request *requests, int count, rt_broken *broken);

const tile_program *rt_engine_program(const rt_engine *engine);
const tile_code *rt_engine_code(const rt_engine *engine);
/* ---- what training keeps of weights, wherever it lies (engine_state.c): zero at first, but for values and masters. */
bool rt_engine_keeps(const rt_engine *engine, tile_state state, int slot);
/* Bytes [at, at + bytes) of a slot. */
dp_status rt_engine_read(const rt_engine *engine, tile_state state, int slot, int64_t at, int64_t bytes, void *to);
dp_status rt_engine_write(rt_engine *engine, tile_state state, int slot, int64_t at, int64_t bytes, const void *from);
dp_status rt_engine_clear(rt_engine *engine, tile_state state); /* to 0; not of values and masters */
/* Where that lies in the host's memory: [slots], NULL where nothing is kept or a device keeps it; values are what the
 * engine was made with where a device has its own (rt_engine_holds_elsewhere). NULL when the program keeps no such
 * state. */
float *const *rt_engine_state(const rt_engine *engine, tile_state state);
bool rt_engine_holds_elsewhere(const rt_engine *engine, tile_state state, int slot);
/* A number that the runtime gives or reads; NULL when the program has none of that name. */
float *rt_engine_number(rt_engine *engine, const char *name);
/* A state as a binding to be saved, which points into the engine's memory, or fetches what a device keeps as it is
 * written; `like`: what the engine was made of. */
dp_status rt_engine_bind(const rt_engine *engine, tile_state state, const ir_module *module, const rt_binding *like,
                         rt_binding **binding);
/* Gives back the memory of weights made at random that the engine holds as f32: of the binding only rt_engine_bind may then
 * be asked. */
void rt_engine_release(const rt_engine *engine, rt_binding *binding);

void rt_engine_trace(rt_engine *engine, rt_trace *trace); /* of the steps to come, until it is NULL */

int64_t rt_engine_columns(const rt_engine *engine);    /* of the logits: the vocabulary of a language model */
int64_t rt_engine_vocabulary(const rt_engine *engine); /* token ids are below it */
int64_t rt_engine_max_tokens(const rt_engine *engine);
int64_t rt_engine_context(const rt_engine *engine);
int64_t rt_engine_free_tokens(const rt_engine *engine, const rt_sequence *sequence); /* that it could still take */

#endif
