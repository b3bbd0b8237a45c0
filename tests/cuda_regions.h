/* tests/cuda_regions.h: the pieces of memory that a launch may touch, for the host executor's checks. */
#ifndef DIPPER_TESTS_CUDA_REGIONS_H
#define DIPPER_TESTS_CUDA_REGIONS_H

#include "codegen/cuda/cuda.h"
#include "tests/cuda/region.h"

/* By address, apart from each other; malloc'ed. `fresh`: activations and results hold nothing at first. */
host_region *cuda_list_regions(const tile_program *program, const cuda_launch *launch, int blocks, bool fresh, int *count);

/* NaN where the step will append to the cache: what reads there too early and does not mask it shows. */
void cuda_poison_cache(const tile_program *program, const tile_step *step);

#endif
