/* codegen/cuda/fault.c: blocks' progress as a sentence. */
#include "codegen/cuda/fault.h"

#include <string.h>

void cuda_reset_progress(cuda_progress *blocks, int count) {
  for (int i = 0; i < count; i++) blocks[i] = (cuda_progress){.group = CUDA_NOT_BEGUN};
}

static int64_t iteration_of(const tile_section *section, int layer) {
  return section->reverse ? section->base + section->iterations - 1 - layer : layer - section->base;
}

/* Program order: sections, their iterations, groups, row tiles, tasks. */
static bool is_before(const tile_program *p, const cuda_progress *a, const cuda_progress *b) {
  int s = p->groups[a->group].section, t = p->groups[b->group].section;
  if (s != t) return s < t;
  int64_t i = iteration_of(&p->sections[s], a->layer), j = iteration_of(&p->sections[s], b->layer);
  if (i != j) return i < j;
  if (a->group != b->group) return a->group < b->group;
  return a->tile != b->tile ? a->tile < b->tile : a->task < b->task;
}

void cuda_describe_progress(const tile_program *p, const cuda_progress *blocks, int count, dp_str *out) {
  int first = -1, at_work = 0, begun = 0;
  for (int i = 0; i < count; i++) {
    bool works = blocks[i].group >= 0 && blocks[i].group < p->group_count; /* what lies there is the device's word */
    begun += works || blocks[i].group == CUDA_ENDED;
    at_work += works;
    if (works && (first < 0 || is_before(p, &blocks[i], &blocks[first]))) first = i;
  }
  if (first < 0) {
    dp_str_add(out, begun ? "no block was at a task" : "no block had begun a task");
    return;
  }
  const cuda_progress *at = &blocks[first];
  const char *name = p->kinds[p->groups[at->group].kind].name;
  dp_str_addf(
      out, "of the %d blocks that were at tasks, block %d was at the first: group %s, layer %d, row tile %d, task %d",
      at_work, first, name ? name : "without a name", at->layer, at->tile, at->task);
}
