/* tools/train.c: train: a recipe with its progress: a line that stays on a terminal, one now and then elsewhere, and a line
 * of JSON a step in DIR/log.jsonl. */
#include "dipper/train.h"
#include "tools/cli.h"
#include "tools/limits.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static volatile sig_atomic_t interrupted;
static void interrupt(int signal) {
  (void)signal;
  interrupted = 1;
}

typedef struct progress {
  FILE *log;
  bool terminal, log_failed;
  double peak;     /* FLOP/s */
  double smoothed; /* seconds a step */
} progress;

static double share_of_peak(const progress *p, const dp_run_step *s) {
  return p->peak > 0 && s->seconds > 0 ? s->flop / s->seconds / p->peak : 0;
}

static void write_log(progress *p, const dp_run_step *s) {
  if (!p->log) return;
  char pairs[96] = "";
  if (s->pairs) snprintf(pairs, sizeof pairs, ",\"pairs\":%" PRId64 ",\"accuracy\":%.4f,\"margin\":%.6g", s->pairs, s->accuracy, s->margin);
  int written = fprintf(p->log,
                        "{\"step\":%" PRId64 ",\"loss\":%.9g,\"grad_norm\":%.9g,\"lr\":%.9g,\"tokens\":%" PRId64
                        ",\"targets\":%" PRId64 ",\"seconds\":%.6f,\"tokens_per_s\":%.1f,\"mfu\":%.4f%s}\n",
                        s->step, s->loss, s->norm, s->lr, s->tokens, s->targets, s->seconds, (double)s->tokens / s->seconds,
                        share_of_peak(p, s), pairs);
  p->log_failed |= written < 0 || fflush(p->log) != 0;
}

static void show(progress *p, const dp_run_step *s) {
  enum { BAR = 20 };
  p->smoothed = p->smoothed > 0 ? 0.9 * p->smoothed + 0.1 * s->seconds : s->seconds;
  double left = p->smoothed * (double)(s->steps - s->step);
  char bar[BAR + 1];
  for (int i = 0; i < BAR; i++) bar[i] = i < s->step * BAR / s->steps ? '#' : '.';
  bar[BAR] = 0;
  char share[32] = "";
  if (p->peak > 0) snprintf(share, sizeof share, "  MFU %.0f %%", 100 * share_of_peak(p, s));
  fprintf(stderr, "%s[%s] step %" PRId64 "/%" PRId64 "  loss %.4f  norm %.3f  lr %.2e  %.0f tok/s%s  %d:%02d left%s",
          p->terminal ? "\r\033[K" : "", bar, s->step, s->steps, s->loss, s->norm, s->lr,
          (double)s->tokens / s->seconds, share, (int)(left / 60), (int)left % 60, p->terminal ? "" : "\n");
  fflush(stderr);
}

static bool on_step(void *user, const dp_run_step *s) {
  progress *p = user;
  int64_t every = s->steps / 20 > 0 ? s->steps / 20 : 1;
  write_log(p, s);
  if (p->terminal || s->step % every == 0 || s->step == s->steps || s->step == 1) show(p, s);
  return !interrupted;
}

static void on_note(void *user, const char *text) {
  (void)user;
  fprintf(stderr, "dipper: note: %s\n", text);
}

static int open_log(const char *directory, bool resume, progress *p) {
  char path[4096];
  if (mkdir(directory, 0777) != 0 && errno != EEXIST) return cli_complain("cannot make '%s': %s", directory, strerror(errno));
  if ((size_t)snprintf(path, sizeof path, "%s/log.jsonl", directory) >= sizeof path) return cli_complain("'%s' is too long", directory);
  p->log = fopen(path, resume ? "a" : "w");
  return p->log ? CLI_OK : cli_complain("cannot write '%s': %s", path, strerror(errno));
}

int cli_train(const cli_args *args) {
  progress p = {.terminal = isatty(STDERR_FILENO)};
  if (args->resume && !args->out) return cli_usage("train", "--resume needs --out: the directory to go on in");
  if (args->out && open_log(args->out, args->resume, &p) != CLI_OK) return CLI_FAILURE;
  cli_limits limits;
  int threads = args->model.threads > 0 ? args->model.threads : (int)sysconf(_SC_NPROCESSORS_ONLN);
  bool on_cpu = !args->model.device || strcmp(args->model.device, "cpu") == 0; /* of a device no peak is known */
  dp_status measured = on_cpu ? cli_measure_flop(threads, &limits) : (dp_status){DP_OK, NULL};
  if (on_cpu && measured.code == DP_OK) p.peak = limits.flop_s;
  dp_status_free(&measured);
  struct sigaction action = {.sa_handler = interrupt}, before;
  sigaction(SIGINT, &action, &before);
  dp_run run = {.model = args->model, .data = args->data, .out = args->out, .resume = args->resume,
                .steps = args->steps, .on_step = on_step, .on_note = on_note, .user = &p};
  run.model.path = args->positional[0];
  dp_status status = dp_run_recipe(&run);
  sigaction(SIGINT, &before, NULL);
  if (p.terminal) fputc('\n', stderr);
  if (p.log && fclose(p.log) != 0) p.log_failed = true;
  if (status.code != DP_OK) return cli_fail(status);
  if (p.log_failed) return cli_complain("the log in '%s' could not be written: %s", args->out, strerror(errno));
  return interrupted ? CLI_INTERRUPTED : CLI_OK;
}
