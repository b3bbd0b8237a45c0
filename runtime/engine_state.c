/* runtime/engine_state.c: what training keeps of weights, read and written by the host: in its own memory, or on the
 * device that runs the engine's steps. */
#include "runtime/engine.h"

#include <string.h>

static const tile_device *device_of(const rt_engine *e) { return rt_engine_code(e)->device; }

bool rt_engine_holds_elsewhere(const rt_engine *e, tile_state state, int slot) {
  const tile_device *device = device_of(e);
  return device && device->holds(rt_engine_code(e), state, slot);
}

static float *host_slot(const rt_engine *e, tile_state state, int slot) {
  float *const *slots = rt_engine_state(e, state);
  return slots ? slots[slot] : NULL;
}

bool rt_engine_keeps(const rt_engine *e, tile_state state, int slot) {
  return host_slot(e, state, slot) || rt_engine_holds_elsewhere(e, state, slot);
}

dp_status rt_engine_read(const rt_engine *e, tile_state state, int slot, int64_t at, int64_t bytes, void *to) {
  if (rt_engine_holds_elsewhere(e, state, slot))
    return device_of(e)->fetch(rt_engine_code(e), state, slot, at, bytes, to);
  const float *from = host_slot(e, state, slot);
  DP_CHECK(from, "slot %d keeps nothing of state %d", slot, (int)state);
  memcpy(to, (const char *)from + at, (size_t)bytes);
  return DP_SUCCESS;
}

dp_status rt_engine_write(rt_engine *e, tile_state state, int slot, int64_t at, int64_t bytes, const void *from) {
  if (rt_engine_holds_elsewhere(e, state, slot))
    return device_of(e)->store(rt_engine_code(e), state, slot, at, bytes, from);
  float *to = host_slot(e, state, slot);
  DP_CHECK(to, "slot %d keeps nothing of state %d", slot, (int)state);
  memcpy((char *)to + at, from, (size_t)bytes);
  return DP_SUCCESS;
}
