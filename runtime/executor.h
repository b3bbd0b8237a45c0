/* runtime/executor.h: runs a step of a tile program. Workers stay inside the step from its first task to its last: each
 * takes a task that is ready, the first in program order that it can find, runs it, and counts it as done. There is no
 * barrier between ops. */
#ifndef DIPPER_RUNTIME_EXECUTOR_H
#define DIPPER_RUNTIME_EXECUTOR_H

#include "ir/ir.h"
#include "runtime/host.h"
#include "runtime/trace.h"

typedef struct rt_executor rt_executor;

/* workers >= 1, the calling thread included; the others are threads that sleep between steps. The program and the code
 * must outlive the executor. max_tokens, max_outputs: the largest step to come. */
dp_status rt_executor_new(const tile_program *program, const tile_code *code, int workers, int64_t max_tokens,
                          int64_t max_outputs, rt_executor **executor);
/* The bytes that takes, of so many workers and rows; code NULL: without their scratch. And those that one took. */
int64_t rt_executor_bytes(const tile_program *program, const tile_code *code, int workers, int64_t max_tokens, int64_t max_outputs);
int64_t rt_executor_size(const rt_executor *executor);
void rt_executor_free(rt_executor *executor); /* NULL is fine; not while a step runs */
/* Runs one step to its end; allocates nothing. One thread at a time. Results do not depend on who runs what. It fails only
 * where the code runs whole steps itself, on a device. */
dp_status rt_executor_run(rt_executor *executor, const tile_step *step);
/* The same by the calling thread alone, bundle by bundle (the tasks of a group's row tile), in program order; behind each
 * `after` is asked whether to go on. Not of code that runs whole steps itself. */
typedef bool rt_after_bundle(void *user, int group, int64_t layer, int64_t row_tile);
void rt_executor_walk(rt_executor *executor, const tile_step *step, rt_after_bundle *after, void *user);
int rt_executor_workers(const rt_executor *executor);
/* How many workers a step gets: all of them (true), or as many as have lately been the fastest (false, at first). */
void rt_executor_use_all(rt_executor *executor, bool all);
/* From the next step on the host is asked between tasks whether to go on: DP_CANCELLED, the step's results and what it has
 * appended so far undefined. NULL: not asked. */
void rt_executor_ask(rt_executor *executor, const rt_host *host);
/* From the next step on every task is noted in `trace`, until it is NULL. It must have a lane for each worker. */
void rt_executor_trace(rt_executor *executor, rt_trace *trace);

#endif
