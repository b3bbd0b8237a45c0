/* runtime/executor.c: claims, counters, parking.
 *
 * Tasks come in bundles: those of one (group, iteration, row tile). A bundle has two counters: how many of its tasks are
 * taken, how many are done. A worker walks the bundles in program order, passes those that are all taken, and takes a
 * task of the first one that is ready, whichever it is among the next few: so when a task's worker loses its core in the
 * middle of it, the others go on with what does not need it. Waiting spins for a moment, then sleeps on a futex that
 * every completed bundle advances, so that a core is never held by somebody who waits for another core.
 *
 * It cannot deadlock. Only tasks of ready bundles are taken, and they are run at once: so at a time when nothing runs,
 * all that is taken is done. Let B be the first bundle with a task not taken. What B waits for comes before it in program
 * order (tile_check proves that), is all taken, so done: B is ready. B is the first that every worker looks at; and who
 * looked before the last bundle was completed finds `advance` changed and looks again. */
#include "runtime/executor.h"
#include "runtime/memory.h"
#include "runtime/pace.h"

#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* How long a worker holds its core before it sleeps: for another worker's task, for the next step. Waking one that
 * sleeps costs tens of microseconds, so the first is about that long: against 3 us it gives a decode step 9 % on free
 * cores (2 workers, SmolLM2) and takes 1 % where another process wants a core. The second spans what lies between two
 * steps of a generation (picking a token). */
enum { TASK_SPIN_NS = 20000, STEP_SPIN_NS = 30000, CACHE_LINE = 64 };

/* Bundles with tasks to take that a worker looks at before it waits. Where attention waits for a row tile, what can still
 * be done lies groups and layers ahead. Looking costs some nanoseconds a bundle, and only who would wait looks. */
enum { LOOK_AHEAD = 256 };

typedef struct group_plan {
  int64_t row_tiles;     /* or slots, or windows of a group over parameters */
  int64_t window;        /* of those, gone through at a time; 0: all */
  int col_tasks;
  bool segments;
} group_plan;

typedef struct bundle_counters {
  _Atomic int32_t taken, done;
} bundle_counters;

/* A bundle's place in program order: section, iteration, group, row tile. */
typedef struct bundle {
  int section, group;
  int64_t iteration, row_tile;
} bundle;

typedef struct worker {
  alignas(CACHE_LINE) rt_executor *executor;
  int index;
  uint32_t wake_bit; /* level of rt_paces up to which it takes part in steps, as a bit */
  int spins;         /* left before it sleeps */
  int64_t idle_since; /* when tracing: it has had nothing to run since then, waiting for this group; 0: it has */
  int idle_group;
  void *scratch;
  /* whose prologue the scratch holds */
  int64_t last_group, last_iteration, last_row;
  uint32_t last_step;
  pthread_t thread;
  bool started;
} worker;

struct rt_executor {
  const tile_program *program;
  const tile_code *code;
  int worker_count;
  worker *workers;
  group_plan *groups;
  int64_t *first_instance; /* [sections] of (iteration, group) pairs */
  int64_t max_row_tiles, instances;
  bundle_counters *counters; /* [instances][max_row_tiles] */
  int32_t *tile_segments;    /* [max_row_tiles] segments in each row tile */
  int32_t *first_segment;    /* [max_row_tiles] */
  rt_paces paces;
  bool use_all;

  const tile_step *step;
  tile_entry entry; /* of the step */
  int64_t row_tiles[TILE_SPACE_COUNT];
  uint32_t step_number; /* counts steps, so that a scratch's content is never taken for this step's */
  int task_spins, step_spins;
  rt_trace *trace;
  int32_t trace_step; /* -1: not traced */
  const rt_host *host; /* that is asked whether to go on, or NULL */
  int64_t asked;       /* when; the caller's */

  /* What every task writes stands apart from what every task reads. */
  alignas(CACHE_LINE) _Atomic uint32_t advance; /* futex: changes when a bundle is complete */
  _Atomic int32_t sleepers;                     /* on advance */
  alignas(CACHE_LINE) _Atomic uint32_t serial;  /* futex: changes when a step opens, and at the end */
  _Atomic int32_t limit; /* workers below it take part in the step */
  _Atomic int32_t open;  /* a step runs: everything above is set for it, and stays while `active` > 0 */
  _Atomic int32_t active;
  _Atomic uint32_t active_futex;
  _Atomic int32_t stop;
  _Atomic int32_t halted; /* the step ends as soon as those who are in it have ended their tasks */
};

static void futex_wait(_Atomic uint32_t *word, uint32_t value) {
  syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

/* No longer than until the host is to be asked again. */
static void futex_wait_moment(_Atomic uint32_t *word, uint32_t value) {
  const struct timespec moment = {.tv_nsec = RT_ASK_NS};
  syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, &moment, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word) { syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0); }

/* The same, of the sleepers that share a bit. */
static void futex_wait_bits(_Atomic uint32_t *word, uint32_t value, uint32_t bits) {
  syscall(SYS_futex, word, FUTEX_WAIT_BITSET_PRIVATE, value, NULL, NULL, bits);
}

static void futex_wake_bits(_Atomic uint32_t *word, uint32_t bits) {
  syscall(SYS_futex, word, FUTEX_WAKE_BITSET_PRIVATE, INT_MAX, NULL, NULL, bits);
}

static void pause_core(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

static int64_t nanoseconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* A pause lasts 4 to 150 cycles, as the core pleases: measured, the shortest of a few tries. */
static void measure_spins(rt_executor *e) {
  enum { PAUSES = 200, TRIES = 5 };
  int64_t shortest = INT64_MAX;
  for (int i = 0; i < TRIES; i++) {
    int64_t begin = nanoseconds();
    for (int j = 0; j < PAUSES; j++) pause_core();
    int64_t took = nanoseconds() - begin;
    if (took < shortest) shortest = took;
  }
  if (shortest < PAUSES / 8) shortest = PAUSES / 8;
  e->task_spins = (int)(TASK_SPIN_NS * PAUSES / shortest);
  e->step_spins = (int)(STEP_SPIN_NS * (int64_t)PAUSES / shortest);
}

/* ---- what a step consists of */

static void plan_step(rt_executor *e, const tile_step *step) {
  const tile_program *p = e->program;
  e->step = step;
  e->entry = tile_entry_at(p, (int)step->entry);
  e->step_number++;
  e->row_tiles[TILE_TOKENS] = tile_row_tiles(p, step->rows[TILE_TOKENS]);
  e->row_tiles[TILE_OUTPUTS] = tile_row_tiles(p, step->rows[TILE_OUTPUTS]);
  e->row_tiles[TILE_SEGMENTS] = e->row_tiles[TILE_TOKENS];
  e->row_tiles[TILE_PARAMETERS] = 1;
  memset(e->tile_segments, 0, sizeof *e->tile_segments * (size_t)e->max_row_tiles);
  for (int64_t i = 0; i < step->rows[TILE_SEGMENTS]; i++) {
    int32_t tile = step->segment_row[i] / p->row_tile;
    if (e->tile_segments[tile]++ == 0) e->first_segment[tile] = (int32_t)i;
  }
  for (int g = 0; g < p->group_count; g++) {
    const tile_kind *kind = &p->kinds[p->groups[g].kind];
    int64_t row_tiles = kind->slots ? kind->slots : e->row_tiles[kind->space], window = kind->window;
    if (window && kind->space == TILE_PARAMETERS) {
      row_tiles = (e->row_tiles[TILE_TOKENS] + window - 1) / window;
      window = 1;
    }
    e->groups[g] = (group_plan){row_tiles, window, kind->col_tasks, kind->space == TILE_SEGMENTS};
  }
}

/* How often a section's groups are gone through: its iterations, or its windows. */
static int64_t rounds_of(const rt_executor *e, const tile_section *section) {
  if (!section->window) return section->iterations;
  return (e->row_tiles[TILE_TOKENS] + section->window - 1) / section->window;
}

/* The row tiles of a group in a round. */
static void tiles_in_round(const rt_executor *e, int group, int64_t round, int64_t *from, int64_t *to) {
  const group_plan *plan = &e->groups[group];
  *from = plan->window ? round * plan->window : 0;
  *to = plan->row_tiles;
  if (plan->window && *from + plan->window < *to) *to = *from + plan->window;
}

/* Goes on to the first bundle that exists, from `b` on; a row tile of -1 is the group's first. False: the step has no more. */
static bool settle(const rt_executor *e, bundle *b) {
  const tile_program *p = e->program;
  int end = e->entry.first + e->entry.count;
  while (b->section < end) {
    const tile_section *section = &p->sections[b->section];
    int64_t rounds = rounds_of(e, section);
    if (b->iteration < rounds && b->group < section->first + section->count) {
      int64_t from, to;
      tiles_in_round(e, b->group, b->iteration, &from, &to);
      if (b->row_tile < from) b->row_tile = from;
      if (b->row_tile < to) return true;
      b->group++;
    } else if (++b->iteration < rounds) {
      b->group = section->first;
    } else {
      b->iteration = 0;
      if (++b->section < end) b->group = p->sections[b->section].first;
    }
    b->row_tile = 0;
  }
  return false;
}

static bool first_bundle(const rt_executor *e, bundle *b) {
  int section = e->entry.first;
  *b = (bundle){.section = section, .group = e->entry.count > 0 ? e->program->sections[section].first : 0};
  return settle(e, b);
}

static bool next_bundle(const rt_executor *e, bundle *b) {
  b->row_tile++;
  return settle(e, b);
}

static int32_t tasks_of_bundle(const rt_executor *e, int group, int64_t row_tile) {
  const group_plan *plan = &e->groups[group];
  return plan->segments ? plan->col_tasks * e->tile_segments[row_tile] : plan->col_tasks;
}

/* Task `number` of a bundle: its row index (a row tile, or a segment) and column. */
static void find_task(const rt_executor *e, const bundle *b, int32_t number, int64_t *row, int64_t *col) {
  const group_plan *plan = &e->groups[b->group];
  *row = plan->segments ? e->first_segment[b->row_tile] + number / plan->col_tasks : b->row_tile;
  *col = number % plan->col_tasks;
}

/* ---- counters */

static bundle_counters *counters_of(const rt_executor *e, int section, int group, int64_t iteration, int64_t row_tile) {
  const tile_section *s = &e->program->sections[section];
  if (s->window) iteration = 0; /* a row tile is in one window */
  int64_t instance = e->first_instance[section] + iteration * s->count + (group - s->first);
  return &e->counters[instance * e->max_row_tiles + row_tile];
}

/* -1 when all that the bundle waits for is done, else the first group that is not. */
static int waits_for(const rt_executor *e, const bundle *b) {
  const tile_program *p = e->program;
  const tile_group *group = &p->groups[b->group];
  for (int i = 0; i < group->wait_count; i++) {
    const tile_wait *wait = &group->waits[i];
    int section = p->groups[wait->group].section;
    int64_t iteration = b->iteration, row_tile = b->row_tile, first = 0, end = e->groups[wait->group].row_tiles;
    if (wait->when == TILE_PREVIOUS && iteration-- == 0) continue;
    if (wait->when == TILE_FIRST && iteration > 0) continue;
    if (section != b->section) {
      iteration = p->sections[section].iterations - 1;
    } else if (p->sections[section].window) {
      tiles_in_round(e, wait->group, iteration, &first, &end);
      if (wait->when == TILE_PREVIOUS) row_tile -= e->groups[b->group].window;
    }
    int64_t from = wait->scope == TILE_ROW ? row_tile : first;
    int64_t to = wait->scope == TILE_ALL || row_tile + 1 > end ? end : row_tile + 1;
    bundle_counters *counters = counters_of(e, section, wait->group, iteration, 0);
    for (int64_t row = to - 1; row >= from; row--) /* the last is the likeliest to be missing */
      if (atomic_load_explicit(&counters[row].done, memory_order_acquire) < tasks_of_bundle(e, wait->group, row))
        return wait->group;
  }
  return -1;
}

static void count_done(rt_executor *e, bundle_counters *counters, int32_t tasks) {
  if (atomic_fetch_add(&counters->done, 1) + 1 < tasks) return;
  atomic_fetch_add(&e->advance, 1);
  if (atomic_load(&e->sleepers) > 0) futex_wake(&e->advance);
}

/* ---- the host */

static bool halted(const rt_executor *e) { return atomic_load_explicit(&e->halted, memory_order_relaxed); }

/* By the caller alone, between its tasks and while it waits. */
static void ask_host(rt_executor *e, const worker *w) {
  if (!e->host || w->index > 0 || halted(e)) return;
  int64_t now = nanoseconds();
  if (now - e->asked < RT_ASK_NS) return;
  e->asked = now;
  if (e->host->go_on(e->host->user)) return;
  atomic_store(&e->halted, 1);
  atomic_fetch_add(&e->advance, 1);
  futex_wake(&e->advance);
}

/* ---- workers */

/* Apart, so that the untraced path stays small. */
static __attribute__((noinline)) void trace_task(rt_executor *e, worker *w, const bundle *b, int64_t row, int64_t col,
                                                 bool reuse, int64_t begin) {
  rt_task_record record = {.wait = w->idle_since ? w->idle_since : begin,
                           .begin = begin,
                           .end = rt_trace_now(),
                           .step = e->trace_step,
                           .wait_group = w->idle_since ? w->idle_group : -1,
                           .group = b->group,
                           .iteration = (int32_t)b->iteration,
                           .row_tile = (int32_t)b->row_tile,
                           .row = (int32_t)row,
                           .col = (int32_t)col,
                           .reuse = reuse};
  w->idle_since = 0;
  rt_trace_task(e->trace, w->index, e->program, e->step, &record);
}

static void run_task(rt_executor *e, worker *w, const bundle *b, int32_t number) {
  int64_t row, col, begin = e->trace_step >= 0 ? rt_trace_now() : 0;
  find_task(e, b, number, &row, &col);
  bool reuse = w->last_step == e->step_number && w->last_group == b->group && w->last_iteration == b->iteration &&
               w->last_row == row;
  int64_t layer = tile_layer(&e->program->sections[b->section], b->iteration);
  e->code->run(e->code, e->program->groups[b->group].kind, e->step, layer, row, col, w->scratch, reuse);
  w->last_step = e->step_number;
  w->last_group = b->group;
  w->last_iteration = b->iteration;
  w->last_row = row;
  if (e->trace_step >= 0) trace_task(e, w, b, row, col, reuse, begin);
}

/* Passes bundles whose tasks are all taken. False: there are no others. */
static bool pass_taken(const rt_executor *e, bundle *b) {
  do {
    bundle_counters *counters = counters_of(e, b->section, b->group, b->iteration, b->row_tile);
    int32_t taken = atomic_load_explicit(&counters->taken, memory_order_relaxed);
    if (taken < tasks_of_bundle(e, b->group, b->row_tile)) return true;
  } while (next_bundle(e, b));
  return false;
}

/* Takes and runs tasks of a bundle while it has any; `ahead` of the first bundle, no longer than nothing has changed. */
static void run_bundle(rt_executor *e, worker *w, const bundle *b, bool ahead, uint32_t seen) {
  bundle_counters *counters = counters_of(e, b->section, b->group, b->iteration, b->row_tile);
  int32_t tasks = tasks_of_bundle(e, b->group, b->row_tile);
  do {
    int32_t number = atomic_fetch_add_explicit(&counters->taken, 1, memory_order_relaxed);
    if (number >= tasks) return;
    run_task(e, w, b, number);
    count_done(e, counters, tasks);
    ask_host(e, w);
  } while (!halted(e) &&
           atomic_load_explicit(&counters->taken, memory_order_relaxed) < tasks &&
           !(ahead && atomic_load_explicit(&e->advance, memory_order_relaxed) != seen));
}

/* Returns when `advance` is not `seen` any more; sometimes before. */
static void await_advance(rt_executor *e, worker *w, uint32_t seen) {
  for (; w->spins > 0; w->spins--) {
    if (atomic_load_explicit(&e->advance, memory_order_relaxed) != seen) return;
    pause_core();
  }
  atomic_fetch_add(&e->sleepers, 1);
  if (e->host && w->index == 0)
    futex_wait_moment(&e->advance, seen);
  else
    futex_wait(&e->advance, seen);
  atomic_fetch_sub(&e->sleepers, 1);
}

static void work(rt_executor *e, worker *w) {
  bundle front;
  bool more = first_bundle(e, &front);
  w->spins = e->task_spins;
  w->idle_since = 0;
  while (more) {
    uint32_t seen = atomic_load(&e->advance);
    ask_host(e, w);
    if (halted(e)) return;
    if (!pass_taken(e, &front)) return;
    bundle b = front;
    int missing = waits_for(e, &b), first_missing = missing;
    for (int looked = 1; missing >= 0 && looked < LOOK_AHEAD; looked++) {
      if (!next_bundle(e, &b) || !pass_taken(e, &b)) break;
      missing = waits_for(e, &b);
    }
    if (missing < 0) {
      run_bundle(e, w, &b, first_missing >= 0, seen);
      w->spins = e->task_spins;
      continue;
    }
    if (e->trace_step >= 0 && !w->idle_since) {
      w->idle_since = rt_trace_now();
      w->idle_group = first_missing;
    }
    await_advance(e, w, seen);
  }
}

/* In program order, while `after` agrees; NULL: to the end. */
static void work_alone(rt_executor *e, rt_after_bundle *after, void *user) {
  bundle b;
  for (bool more = first_bundle(e, &b); more; more = next_bundle(e, &b)) {
    int32_t tasks = tasks_of_bundle(e, b.group, b.row_tile);
    for (int32_t i = 0; i < tasks; i++) {
      run_task(e, &e->workers[0], &b, i);
      ask_host(e, &e->workers[0]);
      if (halted(e)) return;
    }
    if (after && !after(user, b.group, tile_layer(&e->program->sections[b.section], b.iteration), b.row_tile)) return;
  }
}

static void leave(rt_executor *e) {
  if (atomic_fetch_sub(&e->active, 1) == 1) {
    atomic_fetch_add(&e->active_futex, 1);
    futex_wake(&e->active_futex);
  }
}

static void *helper(void *argument) {
  worker *w = argument;
  rt_executor *e = w->executor;
  uint32_t seen = 0;
  bool spin = false;
  while (!atomic_load(&e->stop)) {
    uint32_t serial = atomic_load(&e->serial);
    for (int i = 0; spin && i < e->step_spins && serial == seen && !atomic_load(&e->stop); i++) {
      pause_core();
      serial = atomic_load(&e->serial);
    }
    if (serial == seen) {
      futex_wait_bits(&e->serial, seen, w->wake_bit);
      continue;
    }
    seen = serial;
    spin = w->index < atomic_load(&e->limit);
    if (!spin) continue;
    /* Who comes late finds the step closed, or the next one open: both are fine, as `open` is read after `active` is
     * raised, and the caller touches a step's plan only while `open` is 0 and then `active` is 0. */
    atomic_fetch_add(&e->active, 1);
    if (atomic_load(&e->open)) work(e, w);
    leave(e);
  }
  return NULL;
}

static void clear_counters(rt_executor *e) {
  const tile_program *p = e->program;
  for (int s = e->entry.first; s < e->entry.first + e->entry.count; s++) {
    const tile_section *section = &p->sections[s];
    for (int64_t i = 0; i < (int64_t)section->iterations * section->count; i++) {
      int64_t used = e->groups[section->first + i % section->count].row_tiles;
      for (int64_t row = 0; row < used; row++) {
        bundle_counters *counters = &e->counters[(e->first_instance[s] + i) * e->max_row_tiles + row];
        atomic_store_explicit(&counters->taken, 0, memory_order_relaxed);
        atomic_store_explicit(&counters->done, 0, memory_order_relaxed);
      }
    }
  }
}

static void work_together(rt_executor *e, int workers) {
  int level = 0;
  while (e->worker_count >> level > workers) level++;
  clear_counters(e);
  atomic_store(&e->limit, workers);
  atomic_store(&e->open, 1);
  atomic_fetch_add(&e->serial, 1);
  futex_wake_bits(&e->serial, UINT32_MAX << level);
  work(e, &e->workers[0]);
  /* All tasks are taken; a helper still asleep need not be waited for, one inside must finish its task. */
  atomic_store(&e->open, 0);
  for (int i = 0; atomic_load(&e->active) > 0; i++) {
    if (i < e->task_spins) {
      pause_core();
      continue;
    }
    uint32_t seen = atomic_load(&e->active_futex);
    if (atomic_load(&e->active) > 0) futex_wait(&e->active_futex, seen);
  }
}

dp_status rt_executor_run(rt_executor *e, const tile_step *step) {
  if (e->code->run_step) return e->code->run_step(e->code, step);
  bool paced = e->worker_count > 1 && !e->use_all;
  int64_t tokens = step->rows[TILE_TOKENS], begin = paced ? nanoseconds() : 0;
  int workers = paced ? rt_paces_choose(&e->paces, tokens) : e->worker_count;
  plan_step(e, step);
  atomic_store(&e->halted, 0);
  e->trace_step = e->trace ? rt_trace_begin_step(e->trace, step, workers) : -1;
  if (workers == 1)
    work_alone(e, NULL, NULL);
  else
    work_together(e, workers);
  if (e->trace_step >= 0) rt_trace_end_step(e->trace, e->trace_step);
  if (halted(e)) return dp_fail(DP_CANCELLED, "stopped by the host (step)");
  if (paced) rt_paces_took(&e->paces, tokens, nanoseconds() - begin);
  return e->code->end_step ? e->code->end_step(e->code) : DP_SUCCESS;
}

void rt_executor_walk(rt_executor *e, const tile_step *step, rt_after_bundle *after, void *user) {
  if (e->code->run_step) return;
  plan_step(e, step);
  atomic_store(&e->halted, 0);
  e->trace_step = -1;
  work_alone(e, after, user);
}

void rt_executor_use_all(rt_executor *e, bool all) { e->use_all = all; }
void rt_executor_ask(rt_executor *e, const rt_host *host) { e->host = host && host->go_on ? host : NULL; }
void rt_executor_trace(rt_executor *e, rt_trace *trace) { e->trace = trace; }
int rt_executor_workers(const rt_executor *executor) { return executor->worker_count; }

/* ---- life */

/* Zeroed memory in cache lines of its own, or NULL. */
static void *zeroed_lines(size_t size) {
  void *memory;
  size = (size + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
  return posix_memalign(&memory, CACHE_LINE, size) == 0 ? memset(memory, 0, size) : NULL;
}

static int64_t most_row_tiles(const tile_program *p, int64_t max_tokens, int64_t max_outputs) {
  int64_t rows = max_tokens > max_outputs ? max_tokens : max_outputs, most = rows / p->row_tile + 2;
  for (int k = 0; k < p->kind_count; k++)
    if (p->kinds[k].slots > most) most = p->kinds[k].slots;
  return most;
}

static int64_t bytes_of(const tile_program *p, const tile_code *code, int workers, int64_t row_tiles) {
  int64_t instances = 0, scratch = code ? (int64_t)(code->scratch_bytes + CACHE_LINE) : 0;
  for (int s = 0; s < p->section_count; s++) instances += (int64_t)p->sections[s].iterations * p->sections[s].count;
  int64_t fixed = (int64_t)sizeof(rt_executor) + (int64_t)sizeof(group_plan) * p->group_count;
  int64_t counters = rt_bytes_times(rt_bytes_times(instances, row_tiles), (int64_t)sizeof(bundle_counters));
  int64_t tiles = rt_bytes_times(row_tiles, 2 * (int64_t)sizeof(int32_t));
  return rt_bytes_plus(rt_bytes_plus(fixed, counters), rt_bytes_plus(tiles, workers * (scratch + (int64_t)sizeof(worker))));
}

int64_t rt_executor_bytes(const tile_program *p, const tile_code *code, int workers, int64_t max_tokens, int64_t max_outputs) {
  return bytes_of(p, code, workers, most_row_tiles(p, max_tokens, max_outputs));
}

int64_t rt_executor_size(const rt_executor *e) { return bytes_of(e->program, e->code, e->worker_count, e->max_row_tiles); }

/* Helpers leave every signal to the program's own threads. */
static dp_status start_helpers(rt_executor *e) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int reason = 0;
  for (int i = 1; i < e->worker_count && !reason; i++) {
    reason = pthread_create(&e->workers[i].thread, NULL, helper, &e->workers[i]);
    e->workers[i].started = reason == 0;
  }
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return reason ? dp_fail(DP_IO, "cannot start %d worker threads: %s", e->worker_count, strerror(reason)) : DP_SUCCESS;
}

dp_status rt_executor_new(const tile_program *p, const tile_code *code, int workers, int64_t max_tokens,
                          int64_t max_outputs, rt_executor **executor) {
  *executor = NULL;
  if (workers < 1 || workers > 1024) return dp_fail(DP_INVALID, "threads must be 1 to 1024, not %d", workers);
  rt_executor *e = zeroed_lines(sizeof *e);
  if (!e) return dp_fail(DP_NO_MEMORY, "no memory for an executor");
  measure_spins(e);
  rt_paces_init(&e->paces, workers);
  e->program = p;
  e->code = code;
  e->worker_count = workers;
  e->max_row_tiles = most_row_tiles(p, max_tokens, max_outputs);
  e->groups = calloc((size_t)p->group_count + 1, sizeof *e->groups);
  e->first_instance = calloc((size_t)p->section_count + 1, sizeof *e->first_instance);
  for (int s = 0; e->first_instance && s < p->section_count; s++) {
    e->first_instance[s] = e->instances;
    e->instances += (int64_t)p->sections[s].iterations * p->sections[s].count;
  }
  e->counters = calloc((size_t)(e->instances * e->max_row_tiles) + 1, sizeof *e->counters);
  e->tile_segments = calloc((size_t)e->max_row_tiles, sizeof *e->tile_segments);
  e->first_segment = calloc((size_t)e->max_row_tiles, sizeof *e->first_segment);
  e->workers = zeroed_lines((size_t)workers * sizeof *e->workers);
  bool complete =
      e->groups && e->first_instance && e->counters && e->tile_segments && e->first_segment && e->workers;
  for (int i = 0; complete && i < workers; i++) {
    e->workers[i].executor = e;
    e->workers[i].index = i;
    int level = 0;
    while (workers >> (level + 1) > i) level++;
    e->workers[i].wake_bit = UINT32_C(1) << level;
    e->workers[i].scratch = zeroed_lines(code->scratch_bytes + CACHE_LINE);
    complete = e->workers[i].scratch != NULL;
  }
  dp_status status = complete ? DP_SUCCESS : dp_fail(DP_NO_MEMORY, "no memory for %d workers", workers);
  if (status.code == DP_OK) status = start_helpers(e);
  if (status.code != DP_OK) {
    rt_executor_free(e);
    return status;
  }
  *executor = e;
  return DP_SUCCESS;
}

void rt_executor_free(rt_executor *e) {
  if (!e) return;
  atomic_store(&e->stop, 1);
  atomic_fetch_add(&e->serial, 1);
  futex_wake_bits(&e->serial, UINT32_MAX);
  for (int i = 0; e->workers && i < e->worker_count; i++) {
    if (e->workers[i].started) pthread_join(e->workers[i].thread, NULL);
    free(e->workers[i].scratch);
  }
  free(e->workers);
  free(e->groups);
  free(e->first_instance);
  free(e->counters);
  free(e->tile_segments);
  free(e->first_segment);
  free(e);
}
