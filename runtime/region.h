/* runtime/region.h: memory from the system in large pieces: zeroed, in huge pages where there are any, given as it is
 * touched. */
#ifndef DIPPER_RUNTIME_REGION_H
#define DIPPER_RUNTIME_REGION_H

#include "base/base.h"
#include "runtime/host.h"

/* {0} is an empty one. With a host that lends memory, set before it is mapped, the memory is the host's. */
typedef struct rt_region {
  char *data;
  size_t size;
  const rt_host *host; /* or NULL */
} rt_region;

/* What a region of `size` bytes takes. */
int64_t rt_region_bytes(int64_t size);
/* At least `size` bytes; `what` they are for stands in the message. */
dp_status rt_region_map(rt_region *region, int64_t size, const char *what);
/* The same, but refuses what the system could not keep: mapped memory would be granted now and the process killed
 * later. `advice` ends the message. */
dp_status rt_region_map_free(rt_region *region, int64_t size, const char *what, const char *advice);
/* Takes all of it from the system now, as it is: what fails here would otherwise end the process at the first touch. */
dp_status rt_region_commit(const rt_region *region, const char *what);
void rt_region_unmap(rt_region *region);

#endif
