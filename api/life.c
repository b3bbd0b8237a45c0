/* api/life.c: one word says whether a call is under way and whether the object was freed, so that both change at once.
 */
#include "api/life.h"

#include <pthread.h>
#include <stdlib.h>
#include <time.h>

enum { BUSY = 1, CLOSED = 2 };

api_life *api_life_new(const char *what, void (*close)(void *object), void *object) {
  api_life *life = calloc(1, sizeof *life);
  if (!life) return NULL;
  life->what = what;
  life->close = close;
  life->object = object;
  atomic_store(&life->references, 1);
  return life;
}

void api_life_keep(api_life *life) { atomic_fetch_add(&life->references, 1); }

void api_life_drop(api_life *life) {
  if (!life || atomic_fetch_sub(&life->references, 1) != 1) return;
  for (int i = 0; life->retired && i < API_RETIRED; i++) free(life->retired[i]);
  free(life->retired);
  free(life);
}

void api_life_retire(api_life *life, void *memory) {
  if (!life->retired) life->retired = calloc(API_RETIRED, sizeof *life->retired);
  if (!life->retired) {
    free(memory);
    return;
  }
  free(life->retired[life->oldest]);
  life->retired[life->oldest] = memory;
  life->oldest = (life->oldest + 1) % API_RETIRED;
}

static uintptr_t this_thread(void) { return (uintptr_t)pthread_self(); }

/* True: the call may begin. Else *state is what is in its way. */
static bool try_enter(api_life *life, uint32_t *state) {
  *state = atomic_load(&life->state);
  if (*state == BUSY && atomic_load(&life->owner) == this_thread()) {
    life->depth++;
    return true;
  }
  *state = 0;
  if (!atomic_compare_exchange_strong(&life->state, state, BUSY)) return false;
  atomic_store(&life->owner, this_thread());
  life->depth = 1;
  return true;
}

dp_status api_enter(api_life *life, const char *call) {
  uint32_t state;
  if (try_enter(life, &state)) return DP_SUCCESS;
  if (state & CLOSED) return dp_fail(DP_INVALID, "%s: the %s was freed", call, life->what);
  return dp_fail(DP_BUSY, "%s: the %s is used by another thread", call, life->what);
}

bool api_enter_patiently(api_life *life) {
  const struct timespec moment = {.tv_nsec = 100000};
  for (uint32_t state; !try_enter(life, &state);) {
    if (state & CLOSED) return false;
    nanosleep(&moment, NULL);
  }
  return true;
}

void api_leave(api_life *life) {
  if (--life->depth > 0) return;
  atomic_store(&life->owner, 0);
  if ((atomic_fetch_and(&life->state, ~(uint32_t)BUSY) & CLOSED) && life->close) life->close(life->object);
}

void api_close(api_life *life) {
  if (!(atomic_fetch_or(&life->state, CLOSED) & (BUSY | CLOSED)) && life->close) life->close(life->object);
}

bool api_is_closed(const api_life *life) { return atomic_load(&life->state) & CLOSED; }

dp_status api_need(const void *pointer, const char *call, const char *what) {
  return pointer ? DP_SUCCESS : dp_fail(DP_INVALID, "%s: the %s is NULL", call, what);
}
