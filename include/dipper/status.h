/* dipper/status.h: results by value. */
#ifndef DIPPER_STATUS_H
#define DIPPER_STATUS_H

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

typedef enum dp_code {
  DP_OK = 0,
  DP_INVALID,     /* the caller's or user's input is wrong */
  DP_NOT_FOUND,   /* a file or a name that should be there is not */
  DP_IO,          /* the system refused: permission, disk full, short read */
  DP_NO_MEMORY,
  DP_UNSUPPORTED, /* well-formed, but not handled by this build */
  DP_CANCELLED,   /* stopped by the user */
  DP_BUG,         /* dipper's own fault */
  DP_BUSY,        /* used by another thread right now: nothing was changed */
} dp_code;

/* `message` is NULL when code == DP_OK; otherwise it is malloc'ed (or NULL when memory ran out) and owned by whoever
 * holds the status: pass it on, or dp_status_free it. */
typedef struct dp_status {
  dp_code code;
  char *message;
} dp_status;

void dp_status_free(dp_status *status);
const char *dp_status_text(const dp_status *status); /* never NULL */

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif

#endif
