/* runtime/region.c: mapped memory. */
#include "runtime/region.h"
#include "runtime/memory.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int64_t rt_region_bytes(int64_t size) {
  enum { PAST_THE_END = 4096 }; /* vectors may be read a little past it */
  int64_t page = sysconf(_SC_PAGESIZE);
  return rt_bytes_plus(size, PAST_THE_END + page - 1) / page * page;
}

enum { HOST_ALIGNMENT = 4096 };

static bool lends(const rt_host *host) { return host && host->allocate; }

static dp_status take_from_host(rt_region *region, int64_t size, const char *what) {
  const rt_host *host = region->host;
  region->data = host->allocate(host->user, region->size, HOST_ALIGNMENT);
  if (!region->data) return dp_fail(DP_NO_MEMORY, "the host gives no memory for %s: %.1f MiB", what, (double)size / (1 << 20));
  memset(region->data, 0, region->size);
  return DP_SUCCESS;
}

dp_status rt_region_map(rt_region *region, int64_t size, const char *what) {
  region->size = (size_t)rt_region_bytes(size);
  if (lends(region->host)) return take_from_host(region, size, what);
  void *data = mmap(NULL, region->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) {
    *region = (rt_region){0};
    return dp_fail(DP_NO_MEMORY, "no memory for %s: %.1f MiB", what, (double)size / (1 << 20));
  }
  madvise(data, region->size, MADV_HUGEPAGE);
  region->data = data;
  return DP_SUCCESS;
}

dp_status rt_region_commit(const rt_region *region, const char *what) {
  enum { POPULATE_WRITE = 23 }; /* MADV_POPULATE_WRITE, Linux 5.14 */
  if (lends(region->host)) return DP_SUCCESS; /* touched as it was taken */
  if (!region->data || madvise(region->data, region->size, POPULATE_WRITE) == 0) return DP_SUCCESS;
  if (errno != EINVAL)
    return dp_fail(DP_NO_MEMORY, "the system does not give %.1f MiB for %s: %s", (double)region->size / (1 << 20), what,
                   strerror(errno));
  size_t page = (size_t)sysconf(_SC_PAGESIZE);
  for (size_t at = 0; at < region->size; at += page) {
    volatile char *byte = region->data + at;
    *byte = *byte;
  }
  return DP_SUCCESS;
}

void rt_region_unmap(rt_region *region) {
  const rt_host *host = region->host;
  if (region->data && lends(host)) host->release(host->user, region->data, region->size, HOST_ALIGNMENT);
  else if (region->data) munmap(region->data, region->size);
  *region = (rt_region){0};
}

dp_status rt_region_map_free(rt_region *region, int64_t size, const char *what, const char *advice) {
  int64_t available = rt_memory_available();
  if (available > 0 && size > available && !lends(region->host))
    return dp_fail(DP_NO_MEMORY, "%s would take %.1f GiB, and %.1f GiB of memory is free%s", what,
                   (double)size / (1 << 30), (double)available / (1 << 30), advice);
  return rt_region_map(region, size, what);
}
