/* api/trace.c: what the workers did, as a timeline in Google's Trace Event Format, which Perfetto and chrome://tracing
 * open: a track a worker with its tasks and waits, a track of steps, a counter of idle workers. */
#include "api/trace.h"

#include <inttypes.h>
#include <stdlib.h>

enum { DEFAULT_TASKS = 1 << 20, MAX_STEPS = 1 << 16 };

dp_status api_trace_start(rt_engine *engine, int threads, int64_t max_tasks, rt_trace **records) {
  if (*records) return dp_fail(DP_INVALID, "it is being traced already");
  if (max_tasks <= 0) max_tasks = DEFAULT_TASKS;
  DP_TRY(rt_trace_new(rt_engine_program(engine), threads, max_tasks, MAX_STEPS, records));
  rt_engine_trace(engine, *records);
  return DP_SUCCESS;
}

dp_status api_trace_stop(rt_engine *engine, int threads, rt_trace **records, dp_trace **trace) {
  if (!*records) return dp_fail(DP_INVALID, "it is not being traced");
  rt_engine_trace(engine, NULL);
  dp_trace *fresh = calloc(1, sizeof *fresh);
  if (!fresh) {
    rt_trace_free(*records);
    *records = NULL;
    return dp_fail(DP_NO_MEMORY, "no memory for a trace");
  }
  fresh->program = rt_engine_program(engine);
  fresh->threads = threads;
  fresh->records = *records;
  *records = NULL;
  dp_status status = api_profile(fresh);
  if (status.code != DP_OK) {
    dp_trace_free(fresh);
    return status;
  }
  *trace = fresh;
  return DP_SUCCESS;
}

dp_status dp_trace_start(dp_model *model, int64_t max_tasks) {
  DP_TRY(api_enter_model(model, "dp_trace_start"));
  dp_status status = api_trace_start(model->engine, model->info.threads, max_tasks, &model->trace);
  api_leave_model(model);
  return status;
}

dp_status dp_trace_stop(dp_model *model, dp_trace **trace) {
  DP_TRY(api_enter_model(model, "dp_trace_stop"));
  dp_status status = api_trace_stop(model->engine, model->info.threads, &model->trace, trace);
  api_leave_model(model);
  return status;
}

void dp_trace_free(dp_trace *trace) {
  if (!trace) return;
  rt_trace_free(trace->records);
  free(trace->ops);
  free(trace);
}

const tile_kind *api_kind_of(const dp_trace *trace, const rt_task_record *task) {
  return &trace->program->kinds[trace->program->groups[task->group].kind];
}

/* ---- the timeline */

typedef struct timeline {
  dp_str *out;
  const dp_trace *trace;
  int64_t origin;
  bool first;
} timeline;

/* Microseconds since the first step, as the format counts time. */
static double since(const timeline *t, int64_t time) { return (double)(time - t->origin) * 1e-3; }

/* Names of kinds come from a model's text, where a name is letters, digits and _; what else there may be is escaped. */
static void add_string(dp_str *out, const char *before, const char *text) {
  dp_str_addc(out, '"');
  dp_str_add(out, before);
  for (; *text; text++) {
    unsigned char c = (unsigned char)*text;
    if (c == '"' || c == '\\' || c < 0x20)
      dp_str_addf(out, "\\u%04x", c);
    else
      dp_str_addc(out, (char)c);
  }
  dp_str_addc(out, '"');
}

/* The next event's beginning, up to and with its name. */
static void open_event(timeline *t, const char *phase, const char *before, const char *name) {
  dp_str_addf(t->out, "%s\n{\"ph\":\"%s\",\"pid\":1,\"name\":", t->first ? "" : ",", phase);
  add_string(t->out, before, name);
  t->first = false;
}

static void name_tracks(timeline *t) {
  open_event(t, "M", "", "process_name");
  dp_str_add(t->out, ",\"args\":{\"name\":");
  add_string(t->out, "dipper ", t->trace->program->name);
  dp_str_add(t->out, "}}");
  for (int i = 0; i <= t->trace->threads; i++) { /* the last is that of the steps, and comes first */
    bool steps = i == t->trace->threads;
    open_event(t, "M", "", "thread_name");
    dp_str_addf(t->out, ",\"tid\":%d,\"args\":{\"name\":\"%s", i, steps ? "steps" : "worker ");
    if (!steps) dp_str_addf(t->out, "%d", i);
    dp_str_add(t->out, "\"}}");
    open_event(t, "M", "", "thread_sort_index");
    dp_str_addf(t->out, ",\"tid\":%d,\"args\":{\"sort_index\":%d}}", i, steps ? 0 : i + 1);
  }
}

static void add_times(timeline *t, int track, int64_t begin, int64_t end) {
  dp_str_addf(t->out, ",\"tid\":%d,\"ts\":%.3f,\"dur\":%.3f", track, since(t, begin), (double)(end - begin) * 1e-3);
}

static void add_steps(timeline *t) {
  const rt_trace *r = t->trace->records;
  for (int64_t i = 0; i < r->step_count; i++) {
    const rt_step_record *s = &r->steps[i];
    open_event(t, "X", "", "step");
    add_times(t, t->trace->threads, s->begin, s->end);
    dp_str_addf(t->out,
                ",\"cat\":\"step\",\"args\":{\"step\":%" PRId64 ",\"tokens\":%" PRId64 ",\"segments\":%" PRId64
                ",\"outputs\":%" PRId64 ",\"workers\":%d}}",
                i, s->rows[TILE_TOKENS], s->rows[TILE_SEGMENTS], s->rows[TILE_OUTPUTS], s->workers);
  }
}

static void add_task(timeline *t, int lane, const rt_task_record *task) {
  const tile_program *p = t->trace->program;
  if (task->wait_group >= 0) {
    open_event(t, "X", "wait for ", p->kinds[p->groups[task->wait_group].kind].name);
    add_times(t, lane, task->wait, task->begin);
    dp_str_addf(t->out, ",\"cat\":\"wait\",\"args\":{\"group\":%d}}", (int)task->wait_group);
  }
  const tile_section *section = &p->sections[p->groups[task->group].section];
  open_event(t, "X", "", api_kind_of(t->trace, task)->name);
  add_times(t, lane, task->begin, task->end);
  dp_str_add(t->out, ",\"cat\":\"task\",\"args\":{\"kind\":");
  add_string(t->out, "", api_kind_of(t->trace, task)->name);
  dp_str_addf(t->out, ",\"group\":%d,\"layer\":%d,\"row\":%d,\"col\":%d,\"rows\":%d,\"step\":%d}}", (int)task->group,
              (int)tile_layer(section, task->iteration), (int)task->row, (int)task->col, (int)task->rows, (int)task->step);
}

typedef struct edge {
  int64_t time;
  int change; /* of the number of idle workers */
} edge;

static int by_time(const void *a, const void *b) {
  const edge *x = a, *y = b;
  if (x->time != y->time) return x->time < y->time ? -1 : 1;
  return (x->change > y->change) - (x->change < y->change);
}

/* How many workers run no task. Gaps of less than a microsecond between two tasks of a worker are none. */
static dp_status add_idle_counter(timeline *t) {
  enum { GAP_NS = 1000 };
  const rt_trace *r = t->trace->records;
  int64_t tasks = 0, count = 0;
  for (int i = 0; i < r->lane_count; i++) tasks += r->lanes[i].count;
  edge *edges = malloc((size_t)(2 * tasks + 1) * sizeof *edges);
  if (!edges) return dp_fail(DP_NO_MEMORY, "no memory for a timeline");
  for (int i = 0; i < r->lane_count; i++) {
    const rt_trace_lane *lane = &r->lanes[i];
    for (int64_t j = 0; j < lane->count; j++) {
      bool joined = j > 0 && lane->tasks[j].begin - lane->tasks[j - 1].end < GAP_NS;
      if (joined)
        count--;
      else
        edges[count++] = (edge){lane->tasks[j].begin, -1};
      edges[count++] = (edge){lane->tasks[j].end, 1};
    }
  }
  qsort(edges, (size_t)count, sizeof *edges, by_time);
  int idle = t->trace->threads;
  for (int64_t i = 0; i < count; i++) {
    idle += edges[i].change;
    if (i + 1 < count && edges[i + 1].time == edges[i].time) continue;
    open_event(t, "C", "", "idle workers");
    dp_str_addf(t->out, ",\"ts\":%.3f,\"args\":{\"idle\":%d}}", since(t, edges[i].time), idle);
  }
  free(edges);
  return DP_SUCCESS;
}

dp_status dp_trace_json(const dp_trace *trace, dp_text *json) {
  dp_str out = {0};
  const rt_trace *r = trace->records;
  timeline t = {&out, trace, r->step_count > 0 ? r->steps[0].begin : 0, true};
  dp_str_add(&out, "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[");
  name_tracks(&t);
  add_steps(&t);
  for (int i = 0; i < r->lane_count; i++)
    for (int64_t j = 0; j < r->lanes[i].count; j++) add_task(&t, i, &r->lanes[i].tasks[j]);
  dp_status status = add_idle_counter(&t);
  dp_str_add(&out, "\n]}\n");
  if (status.code == DP_OK) return api_take_text(&out, json);
  dp_str_free(&out);
  return status;
}
