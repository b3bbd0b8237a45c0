/* api/trace.h: private to api/: a trace that has ended, and what is made of it.
 *   trace.c    start, stop, the timeline as JSON
 *   path.c     totals, the critical path, the summary as text
 *   profile.c  work and time of each op */
#ifndef DIPPER_API_TRACE_H
#define DIPPER_API_TRACE_H

#include "api/internal.h"

struct dp_trace {
  const tile_program *program; /* the model's */
  rt_trace *records;
  int threads;
  dp_op_profile *ops;
  int op_count;
};

const tile_kind *api_kind_of(const dp_trace *trace, const rt_task_record *task);
/* Fills in ops. */
dp_status api_profile(dp_trace *trace);

#endif
