/* tools/profile.c: `dipper profile`: where the time of prefill and of decode goes, op by op, beside what the machine can
 * do at most. */
#include "tools/cli.h"
#include "tools/limits.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static dp_status feed_prompt(const cli_args *args, dp_model *model, dp_session *session) {
  dp_model_info info = dp_model_get_info(model);
  int32_t *prompt = malloc((size_t)args->prefill * sizeof *prompt);
  dp_status status = prompt ? (dp_status){DP_OK, NULL} : dp_fail(DP_NO_MEMORY, "no memory for a prompt");
  for (int64_t i = 0; prompt && i < args->prefill; i++) prompt[i] = (int32_t)((i * 37 + 11) % info.vocabulary);
  for (int64_t at = 0; status.code == DP_OK && at < args->prefill; at += info.step_tokens) {
    int64_t left = args->prefill - at, some = left < info.step_tokens ? left : info.step_tokens;
    status = dp_session_feed(session, prompt + at, (size_t)some, left == some ? DP_WANT_LAST : DP_WANT_NONE, NULL);
  }
  free(prompt);
  return status;
}

static dp_status decode(const cli_args *args, dp_model *model, dp_session *session, int64_t steps) {
  dp_model_info info = dp_model_get_info(model);
  dp_status status = {DP_OK, NULL};
  for (int64_t i = 0; status.code == DP_OK && i < steps; i++) {
    int32_t id = (int32_t)((100 + i) % info.vocabulary);
    status = dp_session_feed(session, &id, 1, DP_WANT_LAST, NULL);
  }
  dp_session_truncate(session, args->prefill);
  return status;
}

/* Runs one phase `repeat` times under a trace. The session ends with the prompt in it. */
static dp_status trace_phase(const cli_args *args, dp_model *model, dp_session *session, bool prefill,
                             dp_trace **trace) {
  dp_status status = dp_trace_start(model, 0);
  if (status.code != DP_OK) return status;
  for (int64_t i = 0; status.code == DP_OK && i < args->repeat; i++) {
    if (prefill) dp_session_truncate(session, 0);
    status = prefill ? feed_prompt(args, model, session) : decode(args, model, session, args->bench_decode);
  }
  dp_status stopped = dp_trace_stop(model, trace);
  if (status.code == DP_OK) return stopped;
  dp_status_free(&stopped);
  return status;
}

/* ---- output */

static double share(double part, double whole) { return whole > 0 ? part / whole : 0; }

/* Below half of both limits neither holds an op up: it waits for memory's latency, for other workers, or is too short. */
static const char *limited_by(double read, double multiply) {
  if (read < 0.5 && multiply < 0.5) return "latency";
  return read > multiply ? "bandwidth" : "compute";
}

static void print_row(const dp_op_profile *op, double wall, double steps, const cli_limits *limits) {
  double bytes = (double)(op->weight_bytes + op->kv_bytes);
  double read = share(bytes, op->wall_s), flop = share(op->flop, op->wall_s);
  double of_read = share(read, limits->read_bytes_s), of_flop = share(flop, limits->flop_s);
  printf("  %-18s %9.1f %10.4f %6.1f%% %9.3f %9.3f %8.2f %5.0f%% %9.4f %9.1f %5.0f%%  %s\n", op->name,
         (double)op->calls / steps, op->wall_s * 1e3 / steps, 100 * share(op->wall_s, wall),
         (double)op->weight_bytes / steps * 1e-6, (double)op->kv_bytes / steps * 1e-6, read * 1e-9, 100 * of_read,
         op->flop / steps * 1e-9, flop * 1e-9, 100 * of_flop, limited_by(of_read, of_flop));
}

static int by_time(const void *a, const void *b) {
  const dp_op_profile *x = a, *y = b;
  return (x->wall_s < y->wall_s) - (x->wall_s > y->wall_s);
}

/* The ops, the longest first; the caller frees. */
static dp_op_profile *sorted_ops(const dp_trace *trace, int *count) {
  const dp_op_profile *ops = dp_trace_ops(trace, count);
  dp_op_profile *copy = calloc((size_t)*count + 1, sizeof *copy);
  if (!copy) return NULL;
  memcpy(copy, ops, (size_t)*count * sizeof *copy);
  qsort(copy, (size_t)*count, sizeof *copy, by_time);
  return copy;
}

static dp_op_profile sum_of(const dp_op_profile *ops, int count) {
  dp_op_profile sum = {.name = "all"};
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

static void print_table(const char *phase, const dp_trace *trace, const dp_op_profile *ops, int count,
                        const cli_limits *limits) {
  dp_trace_totals t = dp_trace_get_totals(trace);
  double steps = t.steps > 0 ? (double)t.steps : 1;
  printf("\n%s: %" PRId64 " steps of %.0f tokens, %.3f ms a step, %.1f tokens/s; figures are of a step\n", phase, t.steps,
         (double)t.tokens / steps, t.wall_s * 1e3 / steps, share((double)t.tokens, t.wall_s));
  if (t.dropped > 0) printf("  %" PRId64 " tasks found no room and are missing: profile fewer steps\n", t.dropped);
  printf("  %-18s %9s %10s %7s %9s %9s %8s %6s %9s %9s %6s  %s\n", "op", "calls", "ms", "share", "weight MB", "KV MB",
         "GB/s", "of max", "GFLOP", "GFLOP/s", "of max", "limited by");
  for (int i = 0; i < count; i++)
    if (ops[i].calls > 0) print_row(&ops[i], t.wall_s, steps, limits);
  dp_op_profile sum = sum_of(ops, count);
  double none = t.wall_s - sum.wall_s;
  printf("  %-18s %9s %10.4f %6.1f%%\n", "no task running", "", none * 1e3 / steps, 100 * share(none, t.wall_s));
  sum.wall_s = t.wall_s;
  print_row(&sum, t.wall_s, steps, limits);
  printf("  threads: busy %.1f %%, waiting %.1f %%, idle %.1f %%\n", 100 * share(t.busy_s, t.wall_s * t.threads),
         100 * share(t.waiting_s, t.wall_s * t.threads), 100 * share(t.idle_s, t.wall_s * t.threads));
}

static void print_phase_json(const char *phase, const dp_trace *trace, const dp_op_profile *ops, int count,
                             const cli_limits *limits) {
  dp_trace_totals t = dp_trace_get_totals(trace);
  printf(",\"%s\":{\"steps\":%" PRId64 ",\"tokens\":%" PRId64 ",\"dropped\":%" PRId64
         ",\"wall_s\":%.9f,\"busy_s\":%.9f,\"waiting_s\":%.9f,\"idle_s\":%.9f,\"ops\":[",
         phase, t.steps, t.tokens, t.dropped, t.wall_s, t.busy_s, t.waiting_s, t.idle_s);
  for (int i = 0, printed = 0; i < count; i++) {
    const dp_op_profile *op = &ops[i];
    if (op->calls == 0) continue;
    double bytes = (double)(op->weight_bytes + op->kv_bytes);
    double read = share(bytes, op->wall_s), flop = share(op->flop, op->wall_s);
    printf("%s{\"op\":\"%s\",\"calls\":%" PRId64 ",\"wall_s\":%.9f,\"busy_s\":%.9f,\"weight_bytes\":%" PRId64
           ",\"kv_bytes\":%" PRId64 ",\"flop\":%.0f,\"read_bytes_s\":%.0f,\"flop_s\":%.0f,\"limited_by\":\"%s\"}",
           printed++ ? "," : "", op->name, op->calls, op->wall_s, op->busy_s, op->weight_bytes, op->kv_bytes, op->flop,
           read, flop, limited_by(share(read, limits->read_bytes_s), share(flop, limits->flop_s)));
  }
  printf("]}");
}

static void print_limits(const cli_limits *l, bool json) {
  if (json)
    printf("{\"threads\":%d,\"limits\":{\"read_bytes_s\":%.0f,\"read_buffer_bytes\":%" PRId64
           ",\"flop_s\":%.0f,\"flop_by\":\"%s\",\"bf16_flop_s\":%.0f,\"int8_op_s\":%.0f}",
           l->threads, l->read_bytes_s, l->read_bytes, l->flop_s, l->flop_how, l->bf16_flop_s, l->int8_op_s);
  else
    printf("limits, measured now, best of 5: %d threads read %.1f GB/s (sums over a buffer of %" PRId64
           " MiB), multiply %.0f GFLOP/s (%s, in registers)\n",
           l->threads, l->read_bytes_s * 1e-9, l->read_bytes >> 20, l->flop_s * 1e-9, l->flop_how);
}

static int print_phase(const cli_args *args, const char *phase, const dp_trace *trace, const cli_limits *limits) {
  int count;
  dp_op_profile *ops = sorted_ops(trace, &count);
  if (!ops) return cli_complain("no memory for a table");
  (args->json ? print_phase_json : print_table)(phase, trace, ops, count, limits);
  free(ops);
  return CLI_OK;
}

static int profile_phases(const cli_args *args, dp_model *model, dp_session *session) {
  cli_limits limits;
  dp_status status = cli_measure_limits(dp_model_get_info(model).threads, &limits);
  if (status.code == DP_OK) status = feed_prompt(args, model, session); /* the first pass warms memory */
  if (status.code == DP_OK && args->bench_decode > 0)
    status = decode(args, model, session, args->bench_decode < 8 ? args->bench_decode : 8);
  if (status.code != DP_OK) return cli_fail(status);
  print_limits(&limits, args->json);
  int code = CLI_OK;
  for (int phase = 0; code == CLI_OK && phase < 2; phase++) {
    dp_trace *trace = NULL;
    if (phase == 1 && args->bench_decode == 0) break;
    status = trace_phase(args, model, session, phase == 0, &trace);
    code = status.code == DP_OK ? print_phase(args, phase == 0 ? "prefill" : "decode", trace, &limits) : cli_fail(status);
    dp_trace_free(trace);
  }
  if (args->json) printf("}\n");
  return code;
}

int cli_profile(const cli_args *args) {
  dp_options options = args->model;
  int64_t need = args->prefill + args->bench_decode + 64;
  if (options.context == 0) options.context = need > 1024 ? need : 1024;
  dp_model *model = NULL;
  dp_session *session = NULL;
  dp_status status = dp_model_open(&options, &model);
  if (status.code == DP_OK) status = dp_session_new(model, &session);
  int code = status.code == DP_OK ? profile_phases(args, model, session) : cli_fail(status);
  dp_session_free(session);
  dp_model_free(model);
  return code;
}
