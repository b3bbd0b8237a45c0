/* api/path.c: a trace as a page of text: where the workers' time went, and the critical path: from the last task of a step
 * back through the task it had to wait for that ended last, to the step's beginning. Where a task on it was ready and its
 * worker had others to run first, those are told too: what more workers, or fewer bytes, would shorten. */
#include "api/trace.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

dp_trace_totals dp_trace_get_totals(const dp_trace *trace) {
  const rt_trace *r = trace->records;
  dp_trace_totals totals = {.steps = r->step_count, .threads = trace->threads};
  for (int64_t i = 0; i < r->step_count; i++) {
    totals.wall_s += (double)(r->steps[i].end - r->steps[i].begin) * 1e-9;
    totals.tokens += r->steps[i].rows[TILE_TOKENS];
  }
  for (int i = 0; i < r->lane_count; i++) {
    const rt_trace_lane *lane = &r->lanes[i];
    totals.tasks += lane->count;
    totals.dropped += lane->dropped;
    for (int64_t j = 0; j < lane->count; j++) {
      totals.busy_s += (double)(lane->tasks[j].end - lane->tasks[j].begin) * 1e-9;
      totals.waiting_s += (double)(lane->tasks[j].begin - lane->tasks[j].wait) * 1e-9;
    }
  }
  totals.dropped += r->dropped_steps;
  totals.idle_s = totals.wall_s * trace->threads - totals.busy_s - totals.waiting_s;
  if (totals.idle_s < 0) totals.idle_s = 0;
  return totals;
}

/* ---- the critical path */

/* Of each (group, iteration, row tile) of one step the task that ended last. */
typedef struct last_tasks {
  const dp_trace *trace;
  const rt_task_record **tasks; /* [instances][row_tiles] */
  int64_t *first_instance;      /* [sections] */
  int64_t instances, row_tiles;
  int64_t *cursors; /* [lanes] the first record of the next step */
} last_tasks;

static const rt_task_record **last_of(const last_tasks *l, int group, int64_t iteration, int64_t row_tile) {
  const tile_program *p = l->trace->program;
  const tile_section *section = &p->sections[p->groups[group].section];
  if (section->window) iteration = 0; /* a row tile is in one window */
  int64_t instance =
      l->first_instance[p->groups[group].section] + iteration * section->count + (group - section->first);
  return &l->tasks[instance * l->row_tiles + row_tile];
}

static void free_last(last_tasks *l) {
  free(l->tasks);
  free(l->first_instance);
  free(l->cursors);
}

static dp_status make_last(const dp_trace *trace, last_tasks *l) {
  const tile_program *p = trace->program;
  *l = (last_tasks){.trace = trace, .row_tiles = 1};
  l->first_instance = calloc((size_t)p->section_count + 1, sizeof *l->first_instance);
  l->cursors = calloc((size_t)trace->records->lane_count + 1, sizeof *l->cursors);
  for (int s = 0; l->first_instance && s < p->section_count; s++) {
    l->first_instance[s] = l->instances;
    l->instances += (int64_t)p->sections[s].iterations * p->sections[s].count;
  }
  for (int64_t i = 0; i < trace->records->step_count; i++) {
    for (int space = 0; space < TILE_SPACE_COUNT; space++) {
      int64_t tiles = tile_row_tiles(p, trace->records->steps[i].rows[space]);
      if (tiles > l->row_tiles) l->row_tiles = tiles;
    }
  }
  for (int k = 0; k < p->kind_count; k++)
    if (p->kinds[k].slots > l->row_tiles) l->row_tiles = p->kinds[k].slots;
  l->tasks = calloc((size_t)(l->instances * l->row_tiles) + 1, sizeof *l->tasks);
  if (l->first_instance && l->cursors && l->tasks) return DP_SUCCESS;
  free_last(l);
  return dp_fail(DP_NO_MEMORY, "no memory for the critical path");
}

/* Goes through the records of one step; returns the task that ended last, NULL when there is none. */
static const rt_task_record *collect_step(last_tasks *l, int64_t step) {
  memset(l->tasks, 0, (size_t)(l->instances * l->row_tiles) * sizeof *l->tasks);
  const rt_trace *r = l->trace->records;
  const rt_task_record *last = NULL;
  for (int i = 0; i < r->lane_count; i++) {
    for (; l->cursors[i] < r->lanes[i].count; l->cursors[i]++) {
      const rt_task_record *task = &r->lanes[i].tasks[l->cursors[i]];
      if (task->step != step) break;
      const rt_task_record **known = last_of(l, task->group, task->iteration, task->row_tile);
      if (!*known || (*known)->end < task->end) *known = task;
      if (!last || last->end < task->end) last = task;
    }
  }
  return last;
}

/* The task, among all that this one had to wait for, that ended last; NULL when it waited for none. */
static const rt_task_record *latest_dependency(const last_tasks *l, const rt_task_record *task) {
  const tile_program *p = l->trace->program;
  const tile_group *group = &p->groups[task->group];
  const rt_step_record *step = &l->trace->records->steps[task->step];
  const rt_task_record *latest = NULL;
  for (int i = 0; i < group->wait_count; i++) {
    const tile_wait *wait = &group->waits[i];
    const tile_group *producer = &p->groups[wait->group];
    int64_t iteration = task->iteration, tiles = task->row_tile + 1;
    if (wait->when == TILE_PREVIOUS && iteration-- == 0) continue;
    if (wait->when == TILE_FIRST && iteration > 0) continue;
    if (producer->section != group->section) iteration = p->sections[producer->section].iterations - 1;
    if (wait->scope == TILE_ALL) {
      int space = p->kinds[producer->kind].space, slots = p->kinds[producer->kind].slots;
      tiles = slots ? slots : tile_row_tiles(p, step->rows[space == TILE_SEGMENTS ? TILE_TOKENS : space]);
    }
    for (int64_t row = wait->scope == TILE_ROW ? task->row_tile : 0; row < tiles; row++) {
      const rt_task_record *other = *last_of(l, wait->group, iteration, row);
      if (!other || other->end > task->begin) continue; /* of a later window */
      if (!latest || latest->end < other->end) latest = other;
    }
  }
  return latest;
}

typedef struct path_times {
  int64_t *of_kind; /* [kinds] time of tasks on the path */
  int64_t *behind;  /* [kinds] time between a task's dependency and its begin in which its worker ran other tasks */
  int64_t late;     /* the same, in which it ran none: handing over, waking up */
  int64_t edges;    /* before the first task and after the last */
  int64_t length;   /* tasks */
} path_times;

/* The time from `from` to the task's begin in which its worker ran other tasks: added to their kinds, and returned. */
static int64_t busy_before(const last_tasks *l, const rt_task_record *task, int64_t from, int64_t *behind) {
  const rt_trace *r = l->trace->records;
  int64_t busy = 0;
  for (int i = 0; i < r->lane_count; i++) {
    const rt_task_record *first = r->lanes[i].tasks;
    if (task < first || task >= first + r->lanes[i].count) continue;
    for (const rt_task_record *other = task - 1; other >= first && other->end > from; other--) {
      int64_t time = other->end - (other->begin > from ? other->begin : from);
      behind[l->trace->program->groups[other->group].kind] += time;
      busy += time;
    }
  }
  return busy;
}

static void walk_back(const last_tasks *l, const rt_task_record *task, path_times *times) {
  const rt_step_record *step = &l->trace->records->steps[task->step];
  times->edges += step->end - task->end;
  while (task) {
    const rt_task_record *before = latest_dependency(l, task);
    times->of_kind[l->trace->program->groups[task->group].kind] += task->end - task->begin;
    times->length++;
    int64_t ready = before ? before->end : step->begin, busy = busy_before(l, task, ready, times->behind);
    *(before ? &times->late : &times->edges) += task->begin - ready - busy;
    task = before;
  }
}

/* ---- the page */

typedef struct line {
  const char *name;
  int64_t time;
} line;

static int by_time(const void *a, const void *b) {
  const line *x = a, *y = b;
  return (x->time < y->time) - (x->time > y->time);
}

static void add_line(dp_str *out, const char *before, const char *name, double seconds, double whole) {
  dp_str_addf(out, "%s%-*s %10.3f ms %5.1f %%\n", before, 28 - (int)strlen(before), name, seconds * 1e3,
              whole > 0 ? 100 * seconds / whole : 0);
}

/* A line for each kind with a time, the greatest first. */
static dp_status add_kinds(dp_str *out, const tile_program *p, const int64_t *times, const char *before, double whole) {
  line *lines = calloc((size_t)p->kind_count + 1, sizeof *lines);
  if (!lines) return dp_fail(DP_NO_MEMORY, "no memory for a summary");
  for (int i = 0; i < p->kind_count; i++) lines[i] = (line){p->kinds[i].name, times[i]};
  qsort(lines, (size_t)p->kind_count, sizeof *lines, by_time);
  for (int i = 0; i < p->kind_count && lines[i].time > 0; i++)
    add_line(out, before, lines[i].name, (double)lines[i].time * 1e-9, whole);
  free(lines);
  return DP_SUCCESS;
}

static dp_status add_totals(dp_str *out, const dp_trace *trace, int64_t *waits) {
  const rt_trace *r = trace->records;
  dp_trace_totals t = dp_trace_get_totals(trace);
  double whole = t.wall_s * t.threads;
  dp_str_addf(out, "%" PRId64 " steps, %" PRId64 " tokens, %" PRId64 " tasks in %.3f ms on %d threads\n", t.steps,
              t.tokens, t.tasks, t.wall_s * 1e3, t.threads);
  if (t.dropped > 0)
    dp_str_addf(out, "the last %" PRId64 " tasks and steps found no room and are missing: trace fewer\n", t.dropped);
  dp_str_addf(out, "\nthe threads' time\n");
  add_line(out, "  ", "busy", t.busy_s, whole);
  add_line(out, "  ", "waiting", t.waiting_s, whole);
  for (int i = 0; i < r->lane_count; i++) {
    for (int64_t j = 0; j < r->lanes[i].count; j++) {
      const rt_task_record *task = &r->lanes[i].tasks[j];
      if (task->wait_group >= 0) waits[trace->program->groups[task->wait_group].kind] += task->begin - task->wait;
    }
  }
  DP_TRY(add_kinds(out, trace->program, waits, "    for ", whole));
  add_line(out, "  ", "idle", t.idle_s, whole); /* asleep, not needed, or nothing left to take */
  return DP_SUCCESS;
}

static dp_status add_path(dp_str *out, const dp_trace *trace, int64_t *kinds, int64_t *behind) {
  last_tasks l;
  DP_TRY(make_last(trace, &l));
  path_times times = {.of_kind = kinds, .behind = behind};
  for (int64_t i = 0; i < trace->records->step_count; i++) {
    const rt_task_record *last = collect_step(&l, i);
    if (last) walk_back(&l, last, &times);
  }
  free_last(&l);
  double wall = dp_trace_get_totals(trace).wall_s;
  dp_str_addf(out, "\nthe critical path, %" PRId64 " tasks\n", times.length);
  DP_TRY(add_kinds(out, trace->program, kinds, "  ", wall));
  DP_TRY(add_kinds(out, trace->program, behind, "  behind other ", wall)); /* ready, but its worker had these first */
  add_line(out, "  ", "handing over", (double)times.late * 1e-9, wall);
  add_line(out, "  ", "begin and end of steps", (double)times.edges * 1e-9, wall);
  return DP_SUCCESS;
}

dp_status dp_trace_summary(const dp_trace *trace, dp_text *text) {
  dp_str out = {0};
  size_t kinds = (size_t)trace->program->kind_count;
  int64_t *times = calloc(3 * kinds + 1, sizeof *times);
  if (!times) return dp_fail(DP_NO_MEMORY, "no memory for a summary");
  dp_status status = add_totals(&out, trace, times);
  if (status.code == DP_OK) status = add_path(&out, trace, times + kinds, times + 2 * kinds);
  free(times);
  if (status.code == DP_OK) return api_take_text(&out, text);
  dp_str_free(&out);
  return status;
}
