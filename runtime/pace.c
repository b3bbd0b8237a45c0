/* runtime/pace.c: step times -> how many workers the next step gets. Steps are compared by their time a token within a
 * class of sizes, so a context that grows, or a class that is wide, changes all of them slowly and alike. A trial is one
 * step; only when it is not clearly slower does it go on for some more, and only their mean can change the level: one
 * step that nobody disturbed must not look like a better number of workers. */
#include "runtime/pace.h"

#include <string.h>

enum {
  COLD_STEPS = 2,     /* not counted */
  STEPS_BETWEEN = 8,  /* trials, at least */
  LONG_TRIAL = 7,     /* more steps of a trial that may win */
  QUICK = 8, SLOW = 64 /* steps that a mean is over, about */
};

static const double TRIAL_PART = 0.005;       /* of the time, that trials may lose */
static const double FIRST_ALLOWANCE = 25e6;   /* ns, to learn at the beginning */
static const double WORTH = 0.97, HOPELESS = 1.05;
static const double UNUSUAL = 1.15;           /* so much slower than usual: something has changed, look at once */
static const double UNKNOWN[2] = {1.1, 1.5};  /* expected of more, of fewer workers */

void rt_paces_init(rt_paces *paces, int max_workers) {
  memset(paces, 0, sizeof *paces);
  paces->max = max_workers;
  paces->levels = 1;
  while (max_workers >> paces->levels > 0) paces->levels++;
  for (int i = 0; i < RT_PACE_CLASSES; i++) {
    paces->classes[i].skip = COLD_STEPS;
    paces->classes[i].allowance = FIRST_ALLOWANCE;
  }
}

static rt_pace *class_of(rt_paces *paces, int64_t tokens) {
  int class = 0;
  while (tokens > 1 && class + 1 < RT_PACE_CLASSES) {
    tokens >>= 1;
    class++;
  }
  return &paces->classes[class];
}

/* What a step at the level next to this one is expected to lose. */
static double expected_loss(const rt_pace *p, int fewer, int64_t tokens) {
  double ratio = p->ratio[fewer] > 0 ? p->ratio[fewer] : UNKNOWN[fewer];
  return ratio > 1 ? (ratio - 1) * p->time * (double)tokens : 0;
}

/* Which side to try next: one that was not tried since the level changed, else the one that loses less. */
static int next_side(const rt_paces *paces, const rt_pace *p, int64_t tokens) {
  if (p->level == 0) return 1;
  if (p->level + 1 == paces->levels) return 0;
  bool known[2] = {p->ratio[0] > 0, p->ratio[1] > 0};
  if (known[0] != known[1]) return known[0];
  return expected_loss(p, 1, tokens) < expected_loss(p, 0, tokens);
}

static void begin_trial(const rt_paces *paces, rt_pace *p, int64_t tokens) {
  if (paces->levels == 1 || p->time == 0 || p->steps < STEPS_BETWEEN) return;
  int fewer = next_side(paces, p, tokens);
  bool unusual = p->time > UNUSUAL * p->slow_time;
  if (!unusual && p->allowance < expected_loss(p, fewer, tokens)) return;
  if (unusual) p->slow_time = p->time;
  p->trial = p->level + (fewer ? 1 : -1);
  p->repeats = 1;
  p->trial_time = 0;
  p->steps = 0;
}

int rt_paces_choose(rt_paces *paces, int64_t tokens) {
  rt_pace *p = class_of(paces, tokens);
  if (p->repeats == 0) begin_trial(paces, p, tokens);
  return paces->max >> (p->repeats > 0 ? p->trial : p->level);
}

static void switch_level(rt_pace *p, int fewer) {
  double ratio = p->trial_time / p->time;
  p->level = p->trial;
  p->time = p->slow_time = p->trial_time;
  p->ratio[!fewer] = 1 / ratio;
  p->ratio[fewer] = 0;
}

static void trial_took(rt_pace *p, double time, int64_t tokens) {
  int fewer = p->trial > p->level;
  bool first = p->trial_time == 0;
  p->trial_time = first ? time : (p->trial_time * (LONG_TRIAL + 1 - p->repeats) + time) / (LONG_TRIAL + 2 - p->repeats);
  if (time > p->time) p->allowance -= (time - p->time) * (double)tokens;
  p->repeats--;
  double ratio = p->trial_time / p->time;
  if (first && ratio < HOPELESS) p->repeats = LONG_TRIAL;
  if (p->repeats > 0) return;
  p->ratio[fewer] = p->ratio[fewer] > 0 ? (p->ratio[fewer] + ratio) / 2 : ratio;
  if (ratio < WORTH) switch_level(p, fewer);
}

void rt_paces_took(rt_paces *paces, int64_t tokens, int64_t nanoseconds) {
  rt_pace *p = class_of(paces, tokens);
  if (tokens < 1) tokens = 1;
  double time = (double)nanoseconds / (double)tokens;
  if (p->skip > 0) {
    p->skip--;
  } else if (p->repeats > 0) {
    trial_took(p, time, tokens);
  } else {
    p->steps++;
    p->allowance += TRIAL_PART * (double)nanoseconds;
    p->time += p->time > 0 ? (time - p->time) / QUICK : time;
    p->slow_time += p->slow_time > 0 ? (time - p->slow_time) / SLOW : time;
  }
}
