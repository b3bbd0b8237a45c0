/* codegen/cuda/run_parts.h: private to run.c and room.c: code that is loaded, and the memory that it has. */
#ifndef DIPPER_CODEGEN_CUDA_RUN_PARTS_H
#define DIPPER_CODEGEN_CUDA_RUN_PARTS_H

#include "codegen/cuda/image.h"
#include "codegen/cuda/memory.h"
#include "codegen/cuda/resident.h"
#include "codegen/cuda/run.h"

typedef struct region {
  cuda_address at;
  int64_t bytes;
} region;

typedef struct cuda_code {
  tile_code code;
  const tile_program *program;
  cuda_note note; /* of its object: what a launch needs */
  cuda_gpu *gpu;
  cuda_kernel **kernels; /* [entries] once they were run */
  const void **seen;     /* [slots] the host's memory that the device's copy was made of */
  cuda_address *weights; /* [slots] */
  int64_t *weight_bytes; /* [slots] room; of those that were not provided */
  bool provided;
  region image, arena[TILE_SPACE_COUNT], kv, counters, scratch, arguments, turned, ended, meeting;
  uint32_t arrived, released; /* what the meeting holds */
  region *outputs;
  uint64_t *written; /* [entries] which of them it writes */
  cuda_resident *resident;
  int64_t counter_tiles, scratch_floats;
  int64_t *inputs_at; /* [inputs] places among the arguments */
  bool second;        /* half of the counters that the next step counts in */
  char *staged;       /* pinned: the arguments as they will be on the device */
  int64_t staged_bytes, staged_cap;
  dp_status staging; /* the first failure */
  char *results;     /* pinned */
  int64_t results_cap;
  cuda_progress *progress; /* pinned, [processors] */
  cuda_address progress_at;
} cuda_code;

/* ---- room.c */

/* Room for so many bytes; what was there is lost, unless `keep`, whose rest is zero. */
dp_status cuda_need(cuda_code *code, region *r, int64_t bytes, const char *what, bool keep);
/* The same in pinned memory of the host; `kept` bytes stay. */
dp_status cuda_need_pinned(cuda_code *code, char **memory, int64_t *cap, int64_t bytes, int64_t kept);
/* All that a step works in, of so many pages of the cache; weights too, where they were not provided. */
dp_status cuda_need_memory(cuda_code *code, const tile_step *step, int64_t pages);
dp_status cuda_need_results(cuda_code *code, uint64_t outputs, const int64_t *rows); /* a bit each */
bool cuda_writes(const cuda_code *code, int64_t entry, const tile_buffer *buffer); /* is it a result of the entry? */
int64_t cuda_turned_bytes(const tile_step *step);
/* Of an engine's weights, and of steps as it may ask for. */
dp_status cuda_take_provision(cuda_code *code, const tile_provision *provision);
/* Behind a failure: counters begin anew, however far a kernel came. */
void cuda_forget_counters(cuda_code *code);
/* Which results each entry writes. */
dp_status cuda_find_results(cuda_code *code);
int64_t cuda_bytes_of(const cuda_code *code); /* that it has on the device */

#endif
