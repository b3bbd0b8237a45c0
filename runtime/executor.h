/* runtime/executor.h: runs a step of a tile program. Workers stay inside the step from its first task to its last: each
 * takes the next task in program order, waits until what it needs is done, runs it, and counts it as done. There is no
 * barrier between ops. Taking tasks in an order in which running them one by one is correct cannot deadlock. */
#ifndef DIPPER_RUNTIME_EXECUTOR_H
#define DIPPER_RUNTIME_EXECUTOR_H

#include "ir/ir.h"

typedef struct rt_executor rt_executor;

/* workers >= 1, the calling thread included; the others are threads that sleep between steps. The program and the code
 * must outlive the executor. max_tokens, max_outputs: the largest step to come. */
dp_status rt_executor_new(const tile_program *program, const tile_code *code, int workers, int64_t max_tokens,
                          int64_t max_outputs, rt_executor **executor);
void rt_executor_free(rt_executor *executor); /* NULL is fine; not while a step runs */
/* Runs one step to its end; allocates nothing. One thread at a time. */
void rt_executor_run(rt_executor *executor, const tile_step *step);
int rt_executor_workers(const rt_executor *executor);

#endif
