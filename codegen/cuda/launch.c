/* codegen/cuda/launch.c: what a launch takes beside the step: counters, segments of row tiles. */
#include "codegen/cuda/cuda.h"

int64_t cuda_first_instance(const tile_program *program, int section) {
  int64_t instances = 0;
  for (int s = 0; s < section; s++) instances += (int64_t)program->sections[s].iterations * program->sections[s].count;
  return instances;
}

int64_t cuda_counter_tiles(const tile_program *program, int64_t max_rows) {
  int64_t tiles = tile_row_tiles(program, max_rows) + 1;
  for (int k = 0; k < program->kind_count; k++)
    if (program->kinds[k].slots > tiles) tiles = program->kinds[k].slots;
  return tiles;
}

int64_t cuda_counter_count(const tile_program *program, int64_t tiles) {
  return cuda_first_instance(program, program->section_count) * tiles;
}

void cuda_list_segments(const tile_program *program, const tile_step *step, int32_t *list) {
  int64_t tiles = tile_row_tiles(program, step->rows[TILE_TOKENS]), segments = step->rows[TILE_SEGMENTS], at = 0;
  for (int64_t tile = 0; tile <= tiles; tile++) {
    while (at < segments && step->segment_row[at] < tile * program->row_tile) at++;
    list[tile] = (int32_t)at;
  }
}
