/* tests/cuda_subject.h: what the CUDA suites run: models and graphs as programs, and steps of an engine whose results two
 * back ends must agree in. */
#ifndef DIPPER_TESTS_CUDA_SUBJECT_H
#define DIPPER_TESTS_CUDA_SUBJECT_H

#include "api/internal.h"
#include "runtime/engine.h"
#include "tests/cuda_host.h"

typedef struct subject {
  const char *name;
  tile_program *program;
  rt_binding *binding;
  api_source source;
  bool whole; /* a sequence goes through in one piece */
  bool trains;
} subject;

typedef struct subject_options {
  const char *name; /* of a file of models/ */
  const char *const *sets;
  int set_count;
  const char *cache; /* its storage; NULL: f32 */
  bool trains;       /* with a graph of gradients and an update besides */
  ir_dtype storage;  /* of matrices; 0: f32 */
  bool stochastic;   /* updates of bf16 */
  ir_recompute recompute;
  unsigned tensor; /* products by matrix units */
  int row_tile;    /* 0: that of a CPU */
} subject_options;

typedef struct result {
  float *data;
  size_t count;
} result;

void check_ok(dp_status status, const char *what);
/* False, and it says so, where this machine has no C++ compiler. */
bool build_host(const tile_program *const *programs, const cuda_bug *bugs, int count, cuda_host **host);

subject open_subject(const subject_options *options);
/* A file of tests/ops: its graph, or that of its gradients. */
subject open_ir(const char *name, bool trains);
void close_subject(subject *s);

/* Prompts of several lengths, decode of eight, of one; or two steps of training, and an update where there is one. */
result run_subject(const subject *s, const tile_code *code);
/* All subjects' texts in one library; each on one number of blocks or another, `every`: on several. */
void give_the_interpreter_s_bits(subject *subjects, int count, bool every);

/* Small models. */
enum { LLAMA_SETS = 6, GPT2_SETS = 5, MIXTRAL_SETS = 8 };
extern const char *const llama_sets[LLAMA_SETS], *const gpt2_sets[GPT2_SETS], *const mixtral_sets[MIXTRAL_SETS];
#define LLAMA .name = "llama.dip", .sets = llama_sets, .set_count = LLAMA_SETS
#define GPT2 .name = "gpt2.dip", .sets = gpt2_sets, .set_count = GPT2_SETS
#define MIXTRAL .name = "mixtral.dip", .sets = mixtral_sets, .set_count = MIXTRAL_SETS

/* NVRTC: false, and it says so, where there is none. */
bool has_nvrtc(void);
enum { ARCHITECTURES = 3 };
extern const char *const architectures[ARCHITECTURES];
void compiles_without_spills(const subject *s, size_t from, size_t to); /* for those architectures */
/* A load that may be answered from a cache which other blocks' writes do not reach is wrong in a kernel that waits for
 * them. */
void loads_are_coherent(const subject *s);

#endif
