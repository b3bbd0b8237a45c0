/* tools/limits.h: what the machine can do at most, measured by small loops. */
#ifndef DIPPER_TOOLS_LIMITS_H
#define DIPPER_TOOLS_LIMITS_H

#include "base/base.h"

typedef struct cli_limits {
  int threads;
  double read_bytes_s;  /* all threads together read memory, each its part of a buffer larger than any cache */
  double flop_s;        /* all threads together multiply and add in registers, f32 */
  int64_t read_bytes;   /* of that buffer */
  const char *flop_how; /* by which instructions */
} cli_limits;

dp_status cli_measure_limits(int threads, cli_limits *limits);

#endif
