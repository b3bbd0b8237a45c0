/* codegen/cuda/account.h: the memory that an engine takes on a device, by what for, before it takes any. */
#ifndef DIPPER_CODEGEN_CUDA_ACCOUNT_H
#define DIPPER_CODEGEN_CUDA_ACCOUNT_H

#include "codegen/cuda/cuda.h"
#include "codegen/cuda/driver.h"
#include "codegen/cuda/image.h"

/* Bytes. Results grow with the rows that are asked for: those of one row tile are counted. */
typedef struct cuda_account {
  int64_t weights, cache, activations, results, scratch, counters, arguments;
} cuda_account;

cuda_account cuda_measure(const tile_program *program, const cuda_device *device, const cuda_note *note,
                          const tile_provision *provision);
int64_t cuda_account_sum(const cuda_account *account);
/* DP_NO_MEMORY: how much is wanted, what for, how much there is, and what would fit. */
dp_status cuda_refuse_account(const tile_program *program, const cuda_device *device, const cuda_note *note,
                              const tile_provision *provision, int64_t left);

#endif
