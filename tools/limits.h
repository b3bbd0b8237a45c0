/* tools/limits.h: what the machine can do at most, measured by small loops. */
#ifndef DIPPER_TOOLS_LIMITS_H
#define DIPPER_TOOLS_LIMITS_H

#include "base/base.h"

typedef struct cli_limits {
  int threads;
  double read_bytes_s;  /* all threads together read memory, each its part of a buffer larger than any cache */
  double flop_s;        /* all threads together multiply and add in registers, f32 */
  double bf16_flop_s;   /* the same of bf16 pairs added up in f32, 0: no such instruction */
  double int8_op_s;     /* of quadruples of 8-bit integers */
  int64_t read_bytes;   /* of that buffer */
  const char *flop_how; /* by which instructions */
} cli_limits;

dp_status cli_measure_limits(int threads, cli_limits *limits);
/* flop_s alone, which takes no memory: where the process's own is looked at. */
dp_status cli_measure_flops(int threads, cli_limits *limits);

#endif
