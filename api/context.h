/* api/context.h: private to api/: what a host lends, as api/ and the folders below see it. A context of NULL lends
 * nothing. */
#ifndef DIPPER_API_CONTEXT_H
#define DIPPER_API_CONTEXT_H

#include "api/internal.h"
#include "dipper/embed.h"

#include <pthread.h>

void api_keep_context(dp_context *context);
void api_drop_context(dp_context *context);
/* DP_INVALID when it was freed. */
dp_status api_check_context(const dp_context *context, const char *call);

/* For the runtime; NULL of NULL. Lives as long as the context is kept. */
const rt_host *api_host(dp_context *context);
void api_log(dp_context *context, dp_log_level level, const char *text);
/* Tells where a call is, and asks whether to go on: DP_CANCELLED. */
dp_status api_go_on(dp_context *context, const char *stage, double fraction);

/* Ops, in the order in which they were added; NULL: no more. What is returned stays as it is while the context is kept.
 */
const dp_op *api_op_at(const dp_context *context, int index);

const dp_op *api_host_op(void *context, int index); /* the same, for the frontend */
/* Has the host all ops that the program names, of as many operands, and can they run there? */
dp_status api_check_ops(const dp_options *options, const tile_program *program);
dp_status api_lend_ops(dp_context *context, const tile_program *program, tile_code **code);

/* A thread that ends soon, whose end the context awaits before it goes. */
void api_leave_behind(dp_context *context, pthread_t thread);
/* malloc'ed memory that is freed when the context goes: the shell of an object that was freed. */
void api_retire(dp_context *context, void *shell);

#endif
