/* runtime/pace.h: how many workers a step gets. More are not always faster: another process may want their cores, or the
 * tasks are so short that handing them over costs more than it saves. Nothing tells so beforehand, so step times do:
 * mostly the number that was the fastest is used, now and then a neighbour of it (twice or half as many) is tried. What
 * trials lose is kept below a set part of the time. Private to the executor. */
#ifndef DIPPER_RUNTIME_PACE_H
#define DIPPER_RUNTIME_PACE_H

#include <stdbool.h>
#include <stdint.h>

enum { RT_PACE_CLASSES = 32 };

/* Steps of one size, by log2 of their tokens. A level is a number of workers: the most, shifted right by it. */
typedef struct rt_pace {
  int level;        /* in use */
  int trial;        /* the level of the step under way, when it is not the one in use */
  int repeats;      /* steps that a trial still has */
  int skip;         /* steps not to be counted: memory and threads are cold */
  int64_t steps;    /* since the last trial */
  double time;      /* of a token at the level in use, smoothed; 0: unknown */
  double slow_time; /* the same, smoothed over many more steps: what is usual */
  double trial_time;
  double ratio[2];  /* time with more, with fewer workers in that of the level in use; 0: unknown */
  double allowance; /* time that trials may lose */
} rt_pace;

typedef struct rt_paces {
  int max, levels;
  rt_pace classes[RT_PACE_CLASSES];
} rt_paces;

void rt_paces_init(rt_paces *paces, int max_workers);
/* How many workers a step of so many tokens gets. Each call is followed by one of rt_paces_took for the same tokens. */
int rt_paces_choose(rt_paces *paces, int64_t tokens);
void rt_paces_took(rt_paces *paces, int64_t tokens, int64_t nanoseconds);

#endif
