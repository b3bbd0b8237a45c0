/* runtime/executor.c: tickets, counters, parking.
 *
 * A task is found from its ticket number by division: sections, iterations, groups, row indices, columns. A counter for
 * each (group, iteration, row tile) says how many of its tasks are done. Waiting spins for a moment, then sleeps on a
 * futex that every completed counter advances, so that a core is never held by somebody who waits for another core. */
#include "runtime/executor.h"

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

typedef struct group_plan {
  int64_t first_task; /* within its section's iteration */
  int col_tasks;
} group_plan;

typedef struct section_plan {
  int64_t first_task, tasks; /* of the step; of an iteration */
  int64_t first_instance;    /* of (iteration, group) pairs */
} section_plan;

typedef struct worker {
  alignas(CACHE_LINE) rt_executor *executor;
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
  section_plan *sections;
  int64_t max_row_tiles, instances;
  _Atomic int32_t *counters; /* [instances][max_row_tiles] */
  int32_t *segment_tile;     /* [max tokens] row tile of each segment */
  int32_t *tile_segments;    /* [max_row_tiles] segments in each row tile */

  const tile_step *step;
  int64_t row_tiles[TILE_SPACE_COUNT], tasks;
  uint32_t step_number; /* counts steps, so that a scratch's content is never taken for this step's */
  int task_spins, step_spins;

  /* What every task writes stands apart from what every task reads. */
  alignas(CACHE_LINE) _Atomic int64_t ticket;
  alignas(CACHE_LINE) _Atomic uint32_t advance; /* futex: changes when a counter is complete */
  _Atomic int32_t sleepers;                     /* on advance */
  alignas(CACHE_LINE) _Atomic uint32_t serial;  /* futex: changes when a step opens, and at the end */
  _Atomic int32_t open; /* a step runs: everything above is set for it, and stays while `active` > 0 */
  _Atomic int32_t active;
  _Atomic uint32_t active_futex;
  _Atomic int32_t stop;
};

static void futex_wait(_Atomic uint32_t *word, uint32_t value) {
  syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word) { syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0); }

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
  e->step_number++;
  e->row_tiles[TILE_TOKENS] = tile_row_tiles(p, step->rows[TILE_TOKENS]);
  e->row_tiles[TILE_OUTPUTS] = tile_row_tiles(p, step->rows[TILE_OUTPUTS]);
  e->row_tiles[TILE_SEGMENTS] = e->row_tiles[TILE_TOKENS];
  memset(e->tile_segments, 0, sizeof *e->tile_segments * (size_t)e->max_row_tiles);
  for (int64_t i = 0; i < step->rows[TILE_SEGMENTS]; i++) {
    e->segment_tile[i] = step->segment_row[i] / p->row_tile;
    e->tile_segments[e->segment_tile[i]]++;
  }
  e->tasks = 0;
  for (int s = 0; s < p->section_count; s++) {
    const tile_section *section = &p->sections[s];
    section_plan *plan = &e->sections[s];
    plan->first_task = e->tasks;
    plan->tasks = 0;
    for (int g = section->first; g < section->first + section->count; g++) {
      const tile_kind *kind = &p->kinds[p->groups[g].kind];
      int64_t rows = kind->space == TILE_SEGMENTS ? step->rows[TILE_SEGMENTS] : e->row_tiles[kind->space];
      e->groups[g] = (group_plan){plan->tasks, kind->col_tasks};
      plan->tasks += rows * kind->col_tasks;
    }
    e->tasks += plan->tasks * section->iterations;
  }
}

typedef struct task {
  int section, group;
  int64_t iteration, row, col;
} task;

static task find_task(const rt_executor *e, int64_t ticket) {
  const tile_program *p = e->program;
  task t = {0};
  while (t.section + 1 < p->section_count && ticket >= e->sections[t.section + 1].first_task) t.section++;
  const section_plan *plan = &e->sections[t.section];
  ticket -= plan->first_task;
  t.iteration = ticket / plan->tasks;
  ticket -= t.iteration * plan->tasks;
  t.group = p->sections[t.section].first;
  int end = t.group + p->sections[t.section].count;
  while (t.group + 1 < end && ticket >= e->groups[t.group + 1].first_task) t.group++;
  ticket -= e->groups[t.group].first_task;
  t.row = ticket / e->groups[t.group].col_tasks;
  t.col = ticket - t.row * e->groups[t.group].col_tasks;
  return t;
}

/* ---- counters */

static _Atomic int32_t *counter_of(const rt_executor *e, int group, int64_t iteration, int64_t row_tile) {
  int s = e->program->groups[group].section;
  const tile_section *section = &e->program->sections[s];
  int64_t instance = e->sections[s].first_instance + iteration * section->count + (group - section->first);
  return &e->counters[instance * e->max_row_tiles + row_tile];
}

static int32_t tasks_of_tile(const rt_executor *e, int group, int64_t row_tile) {
  int32_t columns = e->groups[group].col_tasks;
  bool segments = e->program->kinds[e->program->groups[group].kind].space == TILE_SEGMENTS;
  return segments ? columns * e->tile_segments[row_tile] : columns;
}

static int64_t row_tile_of(const rt_executor *e, const task *t) {
  bool segments = e->program->kinds[e->program->groups[t->group].kind].space == TILE_SEGMENTS;
  return segments ? e->segment_tile[t->row] : t->row;
}

static void await(rt_executor *e, int group, int64_t iteration, int64_t row_tile) {
  _Atomic int32_t *counter = counter_of(e, group, iteration, row_tile);
  int32_t need = tasks_of_tile(e, group, row_tile);
  for (int i = 0; i < e->task_spins; i++) {
    if (atomic_load_explicit(counter, memory_order_acquire) >= need) return;
    pause_core();
  }
  for (;;) {
    uint32_t seen = atomic_load(&e->advance);
    atomic_fetch_add(&e->sleepers, 1);
    bool done = atomic_load(counter) >= need;
    if (!done) futex_wait(&e->advance, seen);
    atomic_fetch_sub(&e->sleepers, 1);
    if (done || atomic_load_explicit(counter, memory_order_acquire) >= need) return;
  }
}

static void await_producers(rt_executor *e, const task *t) {
  const tile_program *p = e->program;
  const tile_group *group = &p->groups[t->group];
  int64_t own = row_tile_of(e, t);
  for (int i = 0; i < group->wait_count; i++) {
    const tile_wait *wait = &group->waits[i];
    int section = p->groups[wait->group].section;
    int64_t iteration = t->iteration;
    if (wait->when == TILE_PREVIOUS && iteration-- == 0) continue;
    if (wait->when == TILE_FIRST && iteration > 0) continue;
    if (section != t->section) iteration = p->sections[section].iterations - 1;
    int space = p->kinds[p->groups[wait->group].kind].space;
    int64_t from = wait->scope == TILE_ROW ? own : 0;
    int64_t to = wait->scope == TILE_ALL ? e->row_tiles[space] : own + 1;
    for (int64_t row = from; row < to; row++) await(e, wait->group, iteration, row);
  }
}

static void count_done(rt_executor *e, const task *t) {
  int64_t row_tile = row_tile_of(e, t);
  int32_t done = atomic_fetch_add(counter_of(e, t->group, t->iteration, row_tile), 1) + 1;
  if (done < tasks_of_tile(e, t->group, row_tile)) return;
  atomic_fetch_add(&e->advance, 1);
  if (atomic_load(&e->sleepers) > 0) futex_wake(&e->advance);
}

/* ---- workers */

static void run_task(rt_executor *e, worker *w, const task *t) {
  bool reuse = w->last_step == e->step_number && w->last_group == t->group && w->last_iteration == t->iteration &&
               w->last_row == t->row;
  e->code->run(e->code, e->program->groups[t->group].kind, e->step, t->iteration, t->row, t->col, w->scratch, reuse);
  w->last_step = e->step_number;
  w->last_group = t->group;
  w->last_iteration = t->iteration;
  w->last_row = t->row;
}

static void work(rt_executor *e, worker *w) {
  for (;;) {
    int64_t ticket = atomic_fetch_add_explicit(&e->ticket, 1, memory_order_relaxed);
    if (ticket >= e->tasks) return;
    task t = find_task(e, ticket);
    await_producers(e, &t);
    run_task(e, w, &t);
    count_done(e, &t);
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
  while (!atomic_load(&e->stop)) {
    uint32_t serial = atomic_load(&e->serial);
    for (int i = 0; i < e->step_spins && serial == seen && !atomic_load(&e->stop); i++) {
      pause_core();
      serial = atomic_load(&e->serial);
    }
    if (serial == seen) {
      futex_wait(&e->serial, seen);
      continue;
    }
    /* Who comes late finds the step closed, or the next one open: both are fine, as `open` is read after `active` is
     * raised, and the caller touches a step's plan only while `open` is 0 and then `active` is 0. */
    seen = serial;
    atomic_fetch_add(&e->active, 1);
    if (atomic_load(&e->open)) work(e, w);
    leave(e);
  }
  return NULL;
}

static void clear_counters(rt_executor *e) {
  int64_t used = e->row_tiles[TILE_TOKENS];
  if (used < e->row_tiles[TILE_OUTPUTS]) used = e->row_tiles[TILE_OUTPUTS];
  for (int64_t i = 0; i < e->instances; i++)
    for (int64_t row = 0; row < used; row++)
      atomic_store_explicit(&e->counters[i * e->max_row_tiles + row], 0, memory_order_relaxed);
}

void rt_executor_run(rt_executor *e, const tile_step *step) {
  plan_step(e, step);
  if (e->worker_count == 1) {
    for (int64_t ticket = 0; ticket < e->tasks; ticket++) {
      task t = find_task(e, ticket);
      run_task(e, &e->workers[0], &t);
    }
    return;
  }
  clear_counters(e);
  atomic_store(&e->ticket, 0);
  atomic_store(&e->open, 1);
  atomic_fetch_add(&e->serial, 1);
  futex_wake(&e->serial);
  work(e, &e->workers[0]);
  /* All tickets are taken; a helper still asleep need not be waited for, one inside must finish its task. */
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

int rt_executor_workers(const rt_executor *executor) { return executor->worker_count; }

/* ---- life */

/* Zeroed memory in cache lines of its own, or NULL. */
static void *zeroed_lines(size_t size) {
  void *memory;
  size = (size + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
  return posix_memalign(&memory, CACHE_LINE, size) == 0 ? memset(memory, 0, size) : NULL;
}

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
  e->program = p;
  e->code = code;
  e->worker_count = workers;
  int64_t rows = max_tokens > max_outputs ? max_tokens : max_outputs;
  e->max_row_tiles = tile_row_tiles(p, rows) + 1;
  e->groups = calloc((size_t)p->group_count + 1, sizeof *e->groups);
  e->sections = calloc((size_t)p->section_count + 1, sizeof *e->sections);
  for (int s = 0; e->sections && s < p->section_count; s++) {
    e->sections[s].first_instance = e->instances;
    e->instances += (int64_t)p->sections[s].iterations * p->sections[s].count;
  }
  e->counters = calloc((size_t)(e->instances * e->max_row_tiles) + 1, sizeof *e->counters);
  e->segment_tile = calloc((size_t)max_tokens + 1, sizeof *e->segment_tile);
  e->tile_segments = calloc((size_t)e->max_row_tiles, sizeof *e->tile_segments);
  e->workers = zeroed_lines((size_t)workers * sizeof *e->workers);
  bool complete = e->groups && e->sections && e->counters && e->segment_tile && e->tile_segments && e->workers;
  for (int i = 0; complete && i < workers; i++) {
    e->workers[i].executor = e;
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
  futex_wake(&e->serial);
  for (int i = 0; e->workers && i < e->worker_count; i++) {
    if (e->workers[i].started) pthread_join(e->workers[i].thread, NULL);
    free(e->workers[i].scratch);
  }
  free(e->workers);
  free(e->groups);
  free(e->sections);
  free(e->counters);
  free(e->segment_tile);
  free(e->tile_segments);
  free(e);
}
