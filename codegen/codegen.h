/* codegen/codegen.h: back ends: a tile program to code that runs its task kinds. Face of the folder.
 * Back ends meet in this vtable; nothing above asks which one is in use. All functions are reentrant. */
#ifndef DIPPER_CODEGEN_H
#define DIPPER_CODEGEN_H

#include "ir/ir.h"

/* Where the code is to run. Zero-initialized: this machine. Strings are LLVM's names, and NVRTC's of GPUs. */
typedef struct cg_target {
  const char *triple;   /* NULL: the host's */
  const char *cpu;      /* NULL: the host's, or generic for another triple; of GPUs sm_80, sm_90a, sm_100a: NULL: sm_80 */
  const char *features; /* "+avx2,-fma"; NULL: the cpu's own */
  dp_str *report; /* what compiling tells of registers, memory and spills is added to it, for people; NULL: it is not told */
} cg_target;

/* A compiled program as bytes (an object file), malloc'ed. What the cache keeps and ahead-of-time compilation writes. */
typedef struct cg_object {
  void *bytes;
  size_t size;
} cg_object;
void cg_object_free(cg_object *object);

/* What tells one tile program from every other: two hashes of its text. */
typedef struct cg_program_key {
  uint64_t first, second;
} cg_program_key;
dp_status cg_find_program_key(const tile_program *program, cg_program_key *key);

/* The code of an ELF object that a back end compiled of `program`, here or elsewhere, for use in this process. Needs no
 * LLVM. `object` need not outlive the call, `program` must outlive the code. DP_INVALID: it is damaged, or of another
 * program; DP_UNSUPPORTED: for another machine or of another version of dipper. That this CPU has the instructions is for
 * the caller to know: cg_runs_here. */
dp_status cg_load_object(const tile_program *program, const cg_object *object, tile_code **code);

/* A CPU that code may be made for by name, or this machine's. A requirement is a line of text: the architecture and the
 * words of its feature registers that code for it may count on. */
typedef struct cg_cpu {
  const char *name; /* "x86-64-v3", "znver4", "aarch64" */
  const char *triple, *cpu; /* LLVM's names, for cg_target */
} cg_cpu;
const cg_cpu *cg_find_cpu(const char *name); /* NULL when there is none of that name */
const cg_cpu *cg_cpu_at(int index);          /* NULL behind the last */
dp_status cg_cpu_requirement(const cg_cpu *cpu, dp_str *out); /* cpu NULL: all that this machine has */
/* Has this machine all of it? rank: how much it is, to choose by (may be NULL). False for text of another form too. */
bool cg_runs_here(const char *requirement, int *rank);
uint16_t cg_elf_machine(const char *requirement); /* the ELF machine; 0: unknown */

typedef enum cg_text { CG_TEXT_IR, CG_TEXT_ASSEMBLY, CG_TEXT_MACHINE } cg_text; /* the last: an ELF file, for other tools */

typedef struct cg_backend {
  const char *name, *doc;
  /* A text that, with the tile program's, determines the object's bytes: back end version, cpu, features. */
  dp_status (*fingerprint)(const cg_target *target, dp_str *out);
  dp_status (*compile)(const tile_program *program, const cg_target *target, cg_object *object);
  /* The object's code for use in this process. The program must outlive it. */
  dp_status (*load)(const tile_program *program, const cg_object *object, tile_code **code);
  /* For people: the back end's own IR or assembly. DP_UNSUPPORTED where there is none. */
  dp_status (*text)(const tile_program *program, const cg_target *target, cg_text kind, dp_str *out);
  /* A line for each device that it has code run on. NULL: the host alone. */
  dp_status (*devices)(dp_str *out);
  const tile_target *numbers; /* that a schedule for it is made with; NULL: those of a few cores */
  const tile_device *device; /* of the code that it loads; NULL: that works in the host's memory */
  /* Targets that code is made for ahead of time, by name; NULL behind the last. No function: CPUs, cg_cpu_at. */
  const char *(*target_at)(int index);
  /* Of code for `count` such targets that which serves the first device best: its index; -1: none does. Adds to `device`
   * (may be NULL) what that is. DP_NOT_FOUND, DP_UNSUPPORTED: there is no device that can be used, and why. */
  dp_status (*choose)(const char *const *targets, int count, int *index, dp_str *device);
} cg_backend;

/* "llvm" (when built in), "interp", "cuda". NULL when there is none of that name; name NULL: the default. Of what begins
 * compiled models: "cuda" alone, which loads and compiles nothing. */
const cg_backend *cg_find_backend(const char *name);
/* Those whose code this process can run. */
int cg_backend_count(void);
const cg_backend *cg_backend_at(int index);

/* The graph op log_sum_exp of one row, with the bits that every back end gives it. Of a build for a machine without fused
 * multiply-add those of one with it. */
float cg_log_sum_exp(const float *x, int64_t count);

/* The token that the graph `pick` draws of logits[count], with the same bits: the greatest of logits + temperature * gumbel, the
 * lowest id on ties; `place` is the position that it will have. NaN counts as -inf: whether logits are numbers is the caller's to
 * know. */
int32_t cg_pick(const float *logits, int64_t count, float temperature, uint64_t seed, int64_t place);

/* A code for `program`: from the cache directory when it has a sound entry, else compiled and put there (cache_dir NULL:
 * no cache). An entry that is damaged or of another program is rebuilt; a cache that cannot be written is no failure:
 * `note` then says why (may be NULL). `compiled` tells whether a compile took place (may be NULL). Two processes may
 * share a cache. */
dp_status cg_build(const cg_backend *backend, const tile_program *program, const cg_target *target,
                   const char *cache_dir, tile_code **code, bool *compiled, dp_str *note);

#endif
