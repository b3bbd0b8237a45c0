/* tests/test_trace.c: what the library and the commands tell of a run: a timeline that is what the Trace Event Format asks
 * for, a critical path that adds up, and for each op the work that the model's shapes imply, no more and no less. */
#include "base/base.h"
#include "dipper/dipper.h"

#include <check.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { VOCABULARY = 96, D = 64, LAYERS = 2, HEADS = 4, KV_HEADS = 2, HEAD = 16, FF = 128, STEP = 200, THREADS = 2 };

#define SHAPES "--set vocab=96 --set d=64 --set layers=2 --set heads=4 --set kv_heads=2 --set ff=128"

static void check_ok(dp_status status) { ck_assert_msg(status.code == DP_OK, "%s", dp_status_text(&status)); }

static dp_model *open_model(void) {
  static const char *const sets[] = {"vocab=96", "d=64", "layers=2", "heads=4", "kv_heads=2", "ff=128"};
  dp_options options = {.path = DIPPER_SOURCE_DIR "/models/llama.dip",
                        .weights = "random:3",
                        .sets = sets,
                        .set_count = DP_COUNT(sets),
                        .threads = THREADS,
                        .context = 512,
                        .step_tokens = STEP,
                        .cache_dir = ""};
  dp_model *model = NULL;
  check_ok(dp_model_open(&options, &model));
  return model;
}

static void feed(dp_session *session, int count, dp_logits *logits) {
  int32_t ids[STEP];
  for (int i = 0; i < count; i++) ids[i] = (i * 37 + i * i + 5) % VOCABULARY;
  check_ok(dp_session_feed(session, ids, (size_t)count, DP_WANT_LAST, logits));
}

/* A trace of one step of `count` tokens after `past` others. */
static dp_trace *trace_step(dp_model *model, int past, int count) {
  dp_session *session = NULL;
  dp_trace *trace = NULL;
  check_ok(dp_session_new(model, &session));
  for (int at = 0; at < past; at += STEP) feed(session, past - at < STEP ? past - at : STEP, NULL);
  check_ok(dp_trace_start(model, 0));
  feed(session, count, NULL);
  check_ok(dp_trace_stop(model, &trace));
  dp_session_free(session);
  return trace;
}

/* ---- the timeline */

static double number(const json_t *event, const char *name) {
  json_t *value = json_object_get(event, name);
  ck_assert_msg(json_is_number(value), "an event has no number '%s'", name);
  return json_number_value(value);
}

static const char *string(const json_t *event, const char *name) {
  const char *value = json_string_value(json_object_get(event, name));
  ck_assert_msg(value != NULL, "an event has no text '%s'", name);
  return value;
}

typedef struct span {
  double begin, end;
} span;

static int by_begin(const void *a, const void *b) {
  const span *x = a, *y = b;
  return (x->begin > y->begin) - (x->begin < y->begin);
}

typedef struct seen {
  int64_t tasks, waits, steps, counters, names;
} seen;

/* Every event has what its phase needs; the spans of a track do not overlap. */
static seen check_timeline(const char *text, int threads) {
  json_error_t error;
  json_t *root = json_loads(text, 0, &error), *events = json_object_get(root, "traceEvents"), *event;
  ck_assert_msg(root != NULL, "line %d: %s", error.line, error.text);
  ck_assert(json_is_array(events));
  seen s = {0};
  size_t i, count = json_array_size(events);
  span *spans = calloc(count, sizeof *spans);
  for (int track = -1; track <= threads; track++) { /* -1: what is of no track */
    size_t used = 0;
    json_array_foreach(events, i, event) {
      const char *phase = string(event, "ph");
      string(event, "name");
      number(event, "pid");
      ck_assert(json_is_object(json_object_get(event, "args")));
      if (strcmp(phase, "X") == 0 && (int)number(event, "tid") == track) {
        double begin = number(event, "ts"), duration = number(event, "dur");
        ck_assert(begin >= 0 && duration >= 0);
        spans[used++] = (span){begin, begin + duration};
        const char *category = string(event, "cat");
        s.tasks += strcmp(category, "task") == 0;
        s.waits += strcmp(category, "wait") == 0;
        s.steps += strcmp(category, "step") == 0;
        const json_t *args = json_object_get(event, "args");
        if (strcmp(category, "task") == 0) {
          ck_assert_str_eq(string(args, "kind"), string(event, "name"));
          ck_assert(number(args, "layer") >= 0 && number(args, "layer") < LAYERS);
          ck_assert(number(args, "row") >= 0 && number(args, "col") >= 0 && number(args, "rows") >= 1);
        }
        if (strcmp(category, "wait") == 0) ck_assert_int_eq(strncmp(string(event, "name"), "wait for ", 9), 0);
      } else if (strcmp(phase, "C") == 0 && track < 0) {
        double idle = number(json_object_get(event, "args"), "idle");
        ck_assert(number(event, "ts") >= 0 && idle >= 0 && idle <= threads);
        s.counters++;
      } else {
        ck_assert_msg(strchr("XCM", phase[0]) && !phase[1], "phase %s", phase);
        s.names += track < 0 && phase[0] == 'M' && strcmp(string(event, "name"), "thread_name") == 0;
      }
    }
    qsort(spans, used, sizeof *spans, by_begin);
    for (size_t j = 1; j < used; j++) ck_assert(spans[j].begin >= spans[j - 1].end - 0.0015); /* written to the ns */
  }
  free(spans);
  json_decref(root);
  return s;
}

START_TEST(a_timeline_is_what_the_trace_event_format_asks_for) {
  dp_model *model = open_model();
  dp_session *session = NULL;
  dp_trace *trace = NULL;
  dp_text json;
  check_ok(dp_session_new(model, &session));
  feed(session, 3, NULL); /* not in the trace */
  check_ok(dp_trace_start(model, 0));
  feed(session, STEP, NULL);
  for (int i = 0; i < 5; i++) feed(session, 1, NULL);
  check_ok(dp_trace_stop(model, &trace));
  check_ok(dp_trace_json(trace, &json));
  dp_trace_totals totals = dp_trace_get_totals(trace);
  seen s = check_timeline(json.text, THREADS);
  ck_assert_int_eq(totals.steps, 6);
  ck_assert_int_eq(totals.tokens, STEP + 5);
  ck_assert_int_eq(totals.dropped, 0);
  ck_assert_int_eq(s.steps, totals.steps);
  ck_assert_int_gt(totals.tasks, 6 * LAYERS * 5);
  ck_assert_int_eq(s.tasks, totals.tasks);
  ck_assert_int_eq(s.names, THREADS + 1);
  ck_assert_int_ge(s.counters, 2);
  dp_text_free(&json);
  dp_trace_free(trace);
  dp_session_free(session);
  dp_model_free(model);
}
END_TEST

/* ---- totals and the critical path */

/* The milliseconds on the line that begins with `name`, after `from`. */
static double figure(const char *from, const char *name) {
  const char *at = strstr(from, name);
  double value = 0;
  ck_assert_msg(at != NULL, "no '%s' in: %s", name, from);
  ck_assert_int_eq(sscanf(at + strlen(name), "%lf ms", &value), 1);
  return value;
}

START_TEST(the_threads_time_and_the_critical_path_add_up) {
  dp_model *model = open_model();
  dp_trace *trace = trace_step(model, 0, STEP);
  dp_trace_totals t = dp_trace_get_totals(trace);
  ck_assert(t.busy_s > 0 && t.waiting_s >= 0 && t.idle_s >= 0);
  ck_assert(fabs(t.wall_s * THREADS - t.busy_s - t.waiting_s - t.idle_s) < 1e-9);
  dp_text text;
  check_ok(dp_trace_summary(trace, &text));
  ck_assert(fabs(figure(text.text, "\n  busy") - t.busy_s * 1e3) < 0.001);
  const char *path = strstr(text.text, "critical path");
  ck_assert(path != NULL);
  double sum = 0, rounded = 0.0001;
  for (const char *line = strchr(path, '\n'); line && line[1]; line = strchr(line + 1, '\n')) {
    const char *figures = strstr(line, " ms");
    while (figures > line && !strchr(" ", figures[-1])) figures--;
    sum += strtod(figures, NULL);
    rounded += 0.0005;
  }
  ck_assert_msg(fabs(sum - t.wall_s * 1e3) < rounded, "%.3f ms on the path of a step of %.3f ms:\n%s", sum, t.wall_s * 1e3,
                text.text);
  dp_text_free(&text);
  dp_trace_free(trace);
  dp_model_free(model);
}
END_TEST

/* ---- the work of each op */

static dp_op_profile op_named(const dp_trace *trace, const char *name) {
  int count;
  const dp_op_profile *ops = dp_trace_ops(trace, &count);
  for (int i = 0; i < count; i++)
    if (strcmp(ops[i].name, name) == 0) return ops[i];
  ck_abort_msg("no op '%s'", name);
}

static dp_op_profile sum_of_ops(const dp_trace *trace) {
  int count;
  const dp_op_profile *ops = dp_trace_ops(trace, &count);
  dp_op_profile sum = {0};
  for (int i = 0; i < count; i++) {
    sum.calls += ops[i].calls;
    sum.busy_s += ops[i].busy_s;
    sum.wall_s += ops[i].wall_s;
    sum.flop += ops[i].flop;
    sum.weight_bytes += ops[i].weight_bytes;
    sum.kv_bytes += ops[i].kv_bytes;
  }
  return sum;
}

/* A product's 2 a term, and at most `others` a number it is made of or makes. */
static void check_flop(const dp_trace *trace, const char *name, double terms, double numbers, double others) {
  double flop = op_named(trace, name).flop;
  ck_assert_msg(flop >= 2 * terms && flop <= 2 * terms + others * numbers, "%s: %.0f FLOP, terms %.0f, numbers %.0f",
                name, flop, terms, numbers);
}

START_TEST(work_is_what_the_shapes_imply) {
  dp_model *model = open_model();
  static const int steps[][2] = {{0, 1}, {0, STEP}, {70, 1}, {70, 133}}; /* tokens before, tokens: one row tile, and some */
  for (size_t i = 0; i < DP_COUNT(steps); i++) {
    int past = steps[i][0], tokens = steps[i][1];
    dp_trace *trace = trace_step(model, past, tokens);
    dp_trace_totals t = dp_trace_get_totals(trace);
    dp_op_profile sum = sum_of_ops(trace);
    ck_assert_int_eq(sum.calls, t.tasks);
    ck_assert(fabs(sum.busy_s - t.busy_s) < 1e-9);
    ck_assert(sum.wall_s <= t.wall_s + 1e-9 && sum.wall_s >= sum.busy_s / THREADS - 1e-9);
    /* F32 matrices, their rows padded to 64: q, k, v, o; gate, up, down; the head's 96 rows for one row of logits. */
    int64_t layer = 4 * D * D + 3 * D * FF, matrices = 4 * (LAYERS * layer + 2 * 64 * D), norms = 4 * D;
    int64_t vectors = norms * (LAYERS * 2 + 1), embedded = 4 * (int64_t)tokens * D;
    int64_t least = matrices + embedded + vectors, most = least + 2 * LAYERS * norms + 1024; /* a norm in 3 kinds */
    ck_assert_msg(sum.weight_bytes >= least && sum.weight_bytes <= most, "%lld bytes of weights, not %lld to %lld",
                  (long long)sum.weight_bytes, (long long)least, (long long)most);
    ck_assert_int_eq(sum.kv_bytes, 4 * (int64_t)LAYERS * KV_HEADS * (past + tokens) * 2 * HEAD);
    ck_assert_int_eq(op_named(trace, "attend").kv_bytes, sum.kv_bytes);
    check_flop(trace, "down", (double)LAYERS * tokens * D * FF, (double)LAYERS * tokens * D, 2);
    check_flop(trace, "head", (double)VOCABULARY * D, D, 5 * THREADS); /* each thread norms the row for itself */
    ck_assert_int_eq(op_named(trace, "down").weight_bytes, 4 * LAYERS * D * FF);
    /* Rows of a segment are walked to the segment's last position: at least the causal triangle, at most all of it. */
    double terms = 0, rows = (double)LAYERS * HEADS * tokens, all = rows * (past + tokens) * 2 * HEAD;
    double numbers = rows * ((past + tokens) + 4 * HEAD * ((past + tokens) / 64 + 1)); /* scores, and sums a chunk */
    for (int r = 0; r < tokens; r++) terms += (double)LAYERS * HEADS * (past + r + 1) * 2 * HEAD;
    double flop = op_named(trace, "attend").flop;
    ck_assert_msg(flop >= 2 * terms && flop <= 2 * all + 10 * numbers, "attend: %.0f FLOP, %.0f to %.0f terms", flop,
                  terms, all);
    dp_trace_free(trace);
  }
  dp_model_free(model);
}
END_TEST

/* ---- beside the run */

START_TEST(a_trace_changes_no_bit_and_can_be_left_unfinished) {
  dp_model *model = open_model();
  dp_session *a = NULL, *b = NULL;
  dp_logits logits;
  float plain[VOCABULARY];
  check_ok(dp_session_new(model, &a));
  check_ok(dp_session_new(model, &b));
  feed(a, 20, &logits);
  memcpy(plain, logits.data, sizeof plain);
  check_ok(dp_trace_start(model, 100)); /* too few: the rest is dropped */
  feed(b, 20, &logits);
  ck_assert_mem_eq(plain, logits.data, sizeof plain);
  dp_trace *trace = NULL;
  dp_status twice = dp_trace_start(model, 0);
  ck_assert_int_eq(twice.code, DP_INVALID);
  dp_status_free(&twice);
  check_ok(dp_trace_stop(model, &trace));
  dp_trace_free(trace);
  dp_status none = dp_trace_stop(model, &trace);
  ck_assert_int_eq(none.code, DP_INVALID);
  dp_status_free(&none);
  check_ok(dp_trace_start(model, 3));
  feed(b, 20, NULL);
  check_ok(dp_trace_stop(model, &trace));
  dp_trace_totals t = dp_trace_get_totals(trace);
  ck_assert_int_le(t.tasks, 3 * THREADS);
  ck_assert_int_gt(t.dropped, 0);
  dp_text text;
  check_ok(dp_trace_summary(trace, &text));
  ck_assert(strstr(text.text, "missing") != NULL);
  dp_text_free(&text);
  dp_trace_free(trace);
  check_ok(dp_trace_start(model, 0));
  dp_session_free(a);
  dp_session_free(b);
  dp_model_free(model); /* while traced */
}
END_TEST

/* ---- the commands */

static char folder[] = "/tmp/dipper-trace-XXXXXX";

static char *read_output(const char *name) {
  char path[300], *text;
  size_t length;
  snprintf(path, sizeof path, "%s/%s", folder, name);
  check_ok(dp_read_file(path, &text, &length));
  return text;
}

static int run(const char *arguments) {
  char command[2000];
  snprintf(command, sizeof command,
           "cd %s && %s %s/models/llama.dip --weights random:7 " SHAPES " --cache-dir '' --threads 2 >out 2>err", folder,
           arguments, DIPPER_SOURCE_DIR);
  int state = system(command);
  return WIFEXITED(state) ? WEXITSTATUS(state) : -1;
}

static int remove_folder(void) {
  char command[300];
  snprintf(command, sizeof command, "rm -r %s", folder);
  return system(command);
}

START_TEST(the_commands_write_what_they_say) {
  ck_assert_ptr_nonnull(mkdtemp(folder));
  ck_assert_int_eq(run(DIPPER_COMMAND " trace --tokens 1,2,3 -n 4 -o t.json"), 0);
  char *timeline = read_output("t.json"), *page = read_output("out");
  seen s = check_timeline(timeline, THREADS);
  ck_assert_int_eq(s.steps, 4); /* the prompt, and each new token but the last */
  ck_assert(strstr(page, "4 steps, 6 tokens") && strstr(page, "the critical path") && strstr(page, "t.json"));
  free(timeline);
  free(page);
  ck_assert_int_eq(run(DIPPER_COMMAND " profile --prefill 40 --decode 3 --repeat 2 --json"), 0);
  char *text = read_output("out");
  json_error_t error;
  json_t *root = json_loads(text, 0, &error);
  ck_assert_msg(root != NULL, "%s: %s", error.text, text);
  ck_assert(number(json_object_get(root, "limits"), "read_bytes_s") > 1e8);
  ck_assert(number(json_object_get(root, "limits"), "flop_s") > 1e8);
  ck_assert(number(json_object_get(root, "prefill"), "tokens") == 80);
  ck_assert(number(json_object_get(root, "decode"), "steps") == 6);
  ck_assert_uint_gt(json_array_size(json_object_get(json_object_get(root, "decode"), "ops")), 5);
  json_decref(root);
  free(text);
  ck_assert_int_eq(run(DIPPER_COMMAND " profile --prefill 40 --decode 3"), 0);
  text = read_output("out");
  ck_assert(strstr(text, "limits, measured") && strstr(text, "prefill:") && strstr(text, "decode:"));
  free(text);
  ck_assert_int_eq(run(DIPPER_COMMAND " trace --tokens 1,2 -p x -o t.json"), 2);
  ck_assert_int_eq(run(DIPPER_COMMAND " trace --tokens 1,200 -o t.json"), 1);
  ck_assert_int_eq(remove_folder(), 0);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("trace");
  TCase *tests = tcase_create("traces");
  tcase_set_timeout(tests, 300);
  tcase_add_test(tests, a_timeline_is_what_the_trace_event_format_asks_for);
  tcase_add_test(tests, the_threads_time_and_the_critical_path_add_up);
  tcase_add_test(tests, work_is_what_the_shapes_imply);
  tcase_add_test(tests, a_trace_changes_no_bit_and_can_be_left_unfinished);
  tcase_add_test(tests, the_commands_write_what_they_say);
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed != 0;
}
