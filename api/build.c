/* api/build.c: a tile program to code. With a host that may stop it, the compiler runs in a thread of its own, as
 * nothing in LLVM can be interrupted: a compile that was stopped is left behind, ends by itself, and its context waits
 * for it. */
#include "api/context.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { ASK_MS = 5 };

typedef enum job_state { RUNNING, DONE, LEFT } job_state;

typedef struct build_job {
  const cg_backend *backend;
  tile_program *program; /* its own once it is LEFT */
  cg_target target;
  char *triple, *cpu, *features, *cache;
  tile_code *code;
  bool compiled;
  dp_str note;
  dp_status status;
  pthread_mutex_t lock;
  pthread_cond_t done;
  job_state state;
} build_job;

static void build(build_job *job) {
  job->status = cg_build(job->backend, job->program, &job->target, job->cache, &job->code, &job->compiled, &job->note);
}

static void free_job(build_job *job) {
  free(job->triple);
  free(job->cpu);
  free(job->features);
  free(job->cache);
  dp_str_free(&job->note);
  dp_status_free(&job->status);
  pthread_cond_destroy(&job->done);
  pthread_mutex_destroy(&job->lock);
  free(job);
}

static void free_left_job(build_job *job) {
  if (job->code) job->code->free(job->code);
  tile_program_free(job->program);
  free_job(job);
}

static void *build_apart(void *argument) {
  build_job *job = argument;
  build(job);
  pthread_mutex_lock(&job->lock);
  bool left = job->state == LEFT;
  if (!left) job->state = DONE;
  pthread_cond_signal(&job->done);
  pthread_mutex_unlock(&job->lock);
  if (left) free_left_job(job);
  return NULL;
}

static dp_status new_job(const dp_options *options, tile_program *program, build_job **out) {
  const cg_backend *backend = cg_find_backend(options->backend);
  if (!backend)
    return dp_fail(DP_NOT_FOUND, "this build has no back end '%s'", options->backend ? options->backend : "llvm");
  build_job *job = *out = calloc(1, sizeof *job);
  if (!job) return dp_fail(DP_NO_MEMORY, "no memory for a compile");
  pthread_mutex_init(&job->lock, NULL);
  pthread_condattr_t clock;
  pthread_condattr_init(&clock);
  pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
  pthread_cond_init(&job->done, &clock);
  pthread_condattr_destroy(&clock);
  job->backend = backend;
  job->program = program;
  job->triple = options->triple ? strdup(options->triple) : NULL;
  job->cpu = options->cpu ? strdup(options->cpu) : NULL;
  job->features = options->features ? strdup(options->features) : NULL;
  job->target = (cg_target){job->triple, job->cpu, job->features};
  job->cache = api_cache_dir(options);
  bool complete =
      !options->triple == !job->triple && !options->cpu == !job->cpu && !options->features == !job->features;
  if (complete) return DP_SUCCESS;
  free_job(job);
  return dp_fail(DP_NO_MEMORY, "no memory for a compile");
}

/* Until the job is done, or the host stops it. The lock is held. */
static dp_status await(dp_context *host, build_job *job) {
  dp_status status = DP_SUCCESS;
  while (job->state == RUNNING && status.code == DP_OK) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += ASK_MS * 1000000;
    if (until.tv_nsec >= 1000000000) until.tv_sec++, until.tv_nsec -= 1000000000;
    if (pthread_cond_timedwait(&job->done, &job->lock, &until) != ETIMEDOUT) continue;
    pthread_mutex_unlock(&job->lock);
    status = api_go_on(host, "compile", 0);
    pthread_mutex_lock(&job->lock);
  }
  return status;
}

/* *left: the job is not the caller's any more. */
static dp_status build_with_host(dp_context *host, build_job *job, bool *left) {
  pthread_t thread;
  if (pthread_create(&thread, NULL, build_apart, job) != 0) {
    build(job);
    return DP_SUCCESS;
  }
  pthread_mutex_lock(&job->lock);
  dp_status status = await(host, job);
  *left = job->state == RUNNING;
  if (*left) job->state = LEFT;
  pthread_mutex_unlock(&job->lock);
  if (*left)
    api_leave_behind(host, thread);
  else
    pthread_join(thread, NULL);
  return status;
}

/* What a job that is done has made. */
static dp_status take(const dp_options *options, build_job *job, tile_code **code, bool *compiled, dp_str *note) {
  if (job->status.code != DP_OK) {
    dp_status status = job->status;
    job->status = DP_SUCCESS;
    return status;
  }
  *code = job->code;
  *compiled = job->compiled;
  if (job->note.length) dp_str_addf(note, "%s%s", note->length ? "; " : "", job->note.text);
  if (job->note.length) api_log(options->host, DP_LOG_WARNING, job->note.text);
  return api_lend_ops(options->host, job->program, code);
}

dp_status api_compile(const dp_options *options, tile_program **program, tile_code **code, bool *compiled,
                      dp_str *note) {
  build_job *job = NULL;
  bool left = false;
  const rt_host *host = api_host(options->host);
  DP_TRY(api_check_ops(options, *program));
  DP_TRY(api_go_on(options->host, "compile", 0));
  DP_TRY(new_job(options, *program, &job));
  dp_status status = DP_SUCCESS;
  if (host && (host->go_on || host->progress))
    status = build_with_host(options->host, job, &left);
  else
    build(job);
  if (left) {
    *program = NULL;
    return status;
  }
  if (status.code == DP_OK)
    status = take(options, job, code, compiled, note);
  else if (job->code)
    job->code->free(job->code);
  free_job(job);
  return status.code == DP_OK ? api_go_on(options->host, "compile", 1) : status;
}
