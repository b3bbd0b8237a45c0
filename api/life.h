/* api/life.h: private to api/: who may use an object right now, and whether it is still there. What a handle's other
 * handles hold on to (a session's model) is a life of its own, so that asking touches no freed memory. */
#ifndef DIPPER_API_LIFE_H
#define DIPPER_API_LIFE_H

#include "base/base.h"

#include <stdatomic.h>

typedef struct api_life {
  _Atomic uint32_t references;
  _Atomic uint32_t state;
  _Atomic uintptr_t owner; /* the thread whose call is under way; it may call again, from a callback */
  int depth;
  const char *what;            /* "model": for messages */
  void (*close)(void *object); /* once, when it was closed and no call is under way */
  void *object;
  void **retired; /* [API_RETIRED], the oldest at `oldest`, or NULL */
  int oldest;
} api_life;

enum { API_RETIRED = 256 };

api_life *api_life_new(const char *what, void (*close)(void *object), void *object); /* NULL: no memory */
void api_life_keep(api_life *life);
void api_life_drop(api_life *life); /* NULL is fine; the last one frees it */

/* A call begins: DP_BUSY or DP_INVALID, named `call`, when it must not. */
dp_status api_enter(api_life *life, const char *call);
/* The same of a call without a status: waits for another thread's. False: it was freed. */
bool api_enter_patiently(api_life *life);
void api_leave(api_life *life);
/* No call begins any more; the object is closed now, or by the call under way at its end. */
void api_close(api_life *life);
bool api_is_closed(const api_life *life);
/* In a call: malloc'ed memory that stays until so many others were retired, or the life ends: who uses the handle again
 * is told. */
void api_life_retire(api_life *life, void *memory);

/* DP_INVALID: "call: the what is NULL". */
dp_status api_need(const void *pointer, const char *call, const char *what);

#endif
