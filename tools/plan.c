/* tools/plan.c: plan: what a recipe takes before it runs. Memory is the library's account. Time is a model of two terms:
 * products and attention at a share of the multiply-add peak that is measured here, and what an update moves at a share of the
 * bandwidth that is measured here. The shares are those of SmolLM2-135M's steps (docs/training.md). */
#include "dipper/train.h"
#include "tools/cli.h"
#include "tools/limits.h"

#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

/* Of peak and bandwidth. */
static const double product_share = 0.7, attention_share = 0.7, update_share = 0.8;

typedef struct timing {
  cli_limits limits;
  double step, update; /* seconds: forward and backward of a step; an update without them */
} timing;

static double all_seconds(const timing *t, const dp_run_plan *p) { return t->step * (double)p->steps + t->update; }
static double tokens_a_second(const timing *t, const dp_run_plan *p) {
  return (double)p->tokens * (double)p->steps / all_seconds(t, p);
}

static dp_status estimate(const cli_args *args, const dp_run_plan *p, timing *t) {
  int threads = args->model.threads > 0 ? args->model.threads : (int)sysconf(_SC_NPROCESSORS_ONLN);
  DP_TRY(cli_measure_limits(threads, &t->limits));
  t->step = (p->flop / product_share + p->attention_flop / attention_share) / t->limits.flop_s;
  t->update = p->update_bytes / (update_share * t->limits.read_bytes_s);
  return (dp_status){DP_OK, NULL};
}

/* ---- for people */

static void add_bytes(dp_str *out, int64_t bytes) {
  if (bytes >= INT64_C(1) << 58) dp_str_add(out, "more than 288 PB");
  else if (bytes >= 999500000) dp_str_addf(out, "%.2f GB", (double)bytes * 1e-9);
  else dp_str_addf(out, "%.1f MB", (double)bytes * 1e-6);
}

static void add_row(dp_str *out, const char *name, int64_t bytes, const char *what) {
  dp_str text = {0};
  add_bytes(&text, bytes);
  dp_str_addf(out, "  %-14s %12s   %s\n", name, text.text ? text.text : "", what);
  dp_str_free(&text);
}

/* What lies on a device, and then what the host has besides. */
static void add_device_sums(dp_str *out, const dp_run_plan *p) {
  if (p->device_reference) add_row(out, "reference", p->device_reference, "of dpo: the model that the run begins with");
  add_row(out, "peak", p->device_peak, "the sum");
  add_row(out, "on the GPU", p->device_available,
          p->device_peak <= p->device_available ? "it fits" : "it does not fit");
  dp_str_add(out, "\nmemory of the host\n");
  add_row(out, "copies", p->host, "packed weights, results, arguments, what a checkpoint fetches");
}

static void add_memory(dp_str *out, const dp_run_plan *p) {
  dp_str_addf(out, "memory%s\n", p->device_peak ? " of the GPU" : "");
  add_row(out, "weights", p->weights, "as kernels read them; tied ones once");
  add_row(out, "gradients", p->gradients, "");
  add_row(out, "optimizer", p->optimizer, "two moments");
  add_row(out, "activations", p->activations, "of a step's tokens");
  add_row(out, "windows", p->windows, "logits and their gradients, of the rows that are there at a time");
  add_row(out, "cache", p->cache, "keys and values");
  add_row(out, "workers", p->workers, "scratch, counters, arguments of a step");
  if (p->device_peak) add_device_sums(out, p);
  add_row(out, "program", p->program, "this process with the code loaded: measured");
  if (p->reference) add_row(out, "reference", p->reference, "of dpo: the model that the run begins with");
  add_row(out, "data", p->data, "an allowance; files are mapped");
  add_row(out, "peak", p->peak, p->peak == p->loading ? "while weights are read" : "the sum");
  add_row(out, "available", p->available, p->peak <= p->available ? "it fits" : "it does not fit");
}

/* Of a device no speed is known: nothing was measured on one. */
static void add_work(dp_str *out, const dp_run_plan *p, const timing *t) {
  dp_str_addf(out, "\nwork\n  parameters     %12" PRId64 "   of which trained %" PRId64 "\n", p->parameters, p->trained);
  dp_str_addf(out, "  tokens a step  %12" PRId64 "   %" PRId64 " step%s an update\n", p->tokens, p->steps, p->steps == 1 ? "" : "s");
  dp_str_addf(out, "  FLOP a step    %12.4g   attention's share %.1f %%\n", p->flop + p->attention_flop,
              100 * p->attention_flop / (p->flop + p->attention_flop + 1e-9));
  dp_str_addf(out, "  FLOP an update %12.4g   which reads and writes %.2f GB\n", (p->flop + p->attention_flop) * (double)p->steps,
              p->update_bytes * 1e-9);
  if (p->device_peak) return;
  dp_str_addf(out, "  seconds        %12.3g   an update, about: %.0f tok/s (peak %.1f GFLOP/s, memory %.1f GB/s, measured)\n",
              all_seconds(t, p), tokens_a_second(t, p), t->limits.flop_s * 1e-9, t->limits.read_bytes_s * 1e-9);
}

/* ---- for programs */

static void add_json(dp_str *out, const dp_run_plan *p, const timing *t) {
  const struct {
    const char *name;
    int64_t value;
  } integers[] = {{"weights", p->weights},
                  {"gradients", p->gradients},
                  {"optimizer", p->optimizer},
                  {"activations", p->activations},
                  {"windows", p->windows},
                  {"cache", p->cache},
                  {"workers", p->workers},
                  {"program", p->program},
                  {"reference", p->reference},
                  {"data", p->data},
                  {"loading", p->loading},
                  {"peak", p->peak},
                  {"available", p->available},
                  {"host", p->host},
                  {"device_reference", p->device_reference},
                  {"device_peak", p->device_peak},
                  {"device_available", p->device_available},
                  {"parameters", p->parameters},
                  {"trained", p->trained},
                  {"tokens", p->tokens},
                  {"steps", p->steps}};
  dp_str_addc(out, '{');
  for (size_t i = 0; i < DP_COUNT(integers); i++) dp_str_addf(out, "\"%s\":%" PRId64 ",", integers[i].name, integers[i].value);
  dp_str_addf(out, "\"fits\":%s,\"flop\":%.6g,\"attention_flop\":%.6g,\"update_bytes\":%.6g",
              p->fits ? "true" : "false", p->flop, p->attention_flop, p->update_bytes);
  if (!p->device_peak)
    dp_str_addf(out,
                ",\"step_s\":%.6g,\"update_s\":%.6g,\"tokens_per_s\":%.6g,\"peak_flop_s\":%.6g,\"read_bytes_s\":%.6g",
                t->step, all_seconds(t, p), tokens_a_second(t, p), t->limits.flop_s, t->limits.read_bytes_s);
  dp_str_add(out, "}\n");
}

int cli_plan(const cli_args *args) {
  dp_run run = {.model = args->model, .data = args->data, .steps = args->steps};
  dp_run_plan plan;
  dp_text advice;
  timing t = {0};
  dp_str out = {0};
  dp_status status = dp_plan_recipe(&run, &plan, &advice);
  if (status.code != DP_OK) return cli_fail(status);
  if (!plan.device_peak) status = estimate(args, &plan, &t);
  if (status.code != DP_OK) {
    dp_text_free(&advice);
    return cli_fail(status);
  }
  if (args->json) {
    add_json(&out, &plan, &t);
  } else {
    add_memory(&out, &plan);
    add_work(&out, &plan, &t);
  }
  int code = out.failed ? cli_complain("no memory for a plan") : cli_write(out.text, out.length) ? CLI_OK : CLI_FAILURE;
  if (code == CLI_OK) code = cli_flush();
  dp_str missing = {0};
  bool there = plan.device_peak > plan.device_available;
  if (!plan.fits) add_bytes(&missing, there ? plan.device_peak - plan.device_available : plan.peak - plan.available);
  if (code == CLI_OK && !plan.fits)
    code = cli_complain("it does not fit, %s are missing; %s", missing.text ? missing.text : "bytes", advice.text);
  dp_str_free(&missing);
  dp_str_free(&out);
  dp_text_free(&advice);
  return code;
}
