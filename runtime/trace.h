/* runtime/trace.h: what workers did: a lane of records for each, filled while steps run, read after. Memory is set aside
 * before; records that find no room are counted and dropped. */
#ifndef DIPPER_RUNTIME_TRACE_H
#define DIPPER_RUNTIME_TRACE_H

#include "ir/ir.h"

/* A task. Times are nanoseconds of CLOCK_MONOTONIC. */
typedef struct rt_task_record {
  int64_t wait;       /* when the worker found nothing to run; equal to begin when it did not wait */
  int64_t begin, end;
  int32_t step;       /* index in rt_trace.steps */
  int32_t wait_group; /* what it waited for: the first incomplete wait of the first task not taken; -1: nothing */
  int32_t group, iteration, row_tile, row, col;
  int32_t rows;    /* token (or output) rows the task is over; of a kind that chooses, those that chose its batch */
  int32_t context; /* of segments: positions of the sequence that the rows see; else 0 */
  bool reuse;      /* the prologue was skipped */
  bool ends;       /* of segments: the last of its sequence in the step */
} rt_task_record;

typedef struct rt_step_record {
  int64_t begin, end;
  int64_t rows[TILE_SPACE_COUNT];
  int workers; /* that took part */
} rt_step_record;

typedef struct rt_trace_lane {
  rt_task_record *tasks;
  int64_t count, dropped;
  char apart[40]; /* lanes are written at the same time: a cache line for each */
} rt_trace_lane;

typedef struct rt_trace {
  rt_trace_lane *lanes;
  int lane_count;
  int64_t lane_capacity;
  rt_step_record *steps;
  int64_t step_count, step_capacity, dropped_steps;
  uint8_t *weight_types; /* [slot_count of the program], as in the steps */
  int slot_count;
} rt_trace;

/* Room for so many tasks a lane and so many steps. */
dp_status rt_trace_new(const tile_program *program, int lanes, int64_t tasks, int64_t steps, rt_trace **trace);
void rt_trace_free(rt_trace *trace); /* NULL is fine */

int64_t rt_trace_now(void);
/* The executor's side. A step's number, or -1 when there is no room for it: then none of its tasks is recorded. */
int32_t rt_trace_begin_step(rt_trace *trace, const tile_step *step, int workers);
void rt_trace_end_step(rt_trace *trace, int32_t number);
void rt_trace_task(rt_trace *trace, int lane, const tile_program *program, const tile_step *step,
                   const rt_task_record *record); /* fills in rows, context, ends */

#endif
