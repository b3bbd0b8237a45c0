/* codegen/pick.c: what the graph `pick` draws of one row of logits, for callers outside a program: the definition of its ops, one
 * token after the other. */
#include "codegen/codegen.h"
#include "codegen/interp/interp.h"

#include <math.h>

static float gumbel_of(uint64_t seed, int64_t place, int64_t id) {
  uint32_t word = interp_random_word((uint32_t)id, (uint32_t)place, (uint32_t)seed, (uint32_t)(seed >> 32));
  return interp_scalar(TILE_gumbel, interp_noise(word), 0);
}

int32_t cg_pick(const float *logits, int64_t count, float temperature, uint64_t seed, int64_t place) {
  float best = -INFINITY;
  int64_t id = 0;
  for (int64_t i = 0; i < count; i++) {
    float scaled = temperature == 0 ? 0 : gumbel_of(seed, place, i) * temperature, score = logits[i] + scaled;
    if (!(score > best)) continue;
    best = score;
    id = i;
  }
  return (int32_t)id;
}
