/* runtime/region.c: mapped memory, and how much of it the system could still give. */
#include "runtime/region.h"

#include <stdio.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

dp_status rt_region_map(rt_region *region, int64_t size, const char *what) {
  region->size = (size_t)size + 4096; /* vectors may be read a little past the end */
  void *data = mmap(NULL, region->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) {
    *region = (rt_region){0};
    return dp_fail(DP_NO_MEMORY, "no memory for %s: %.1f MiB", what, (double)size / (1 << 20));
  }
  madvise(data, region->size, MADV_HUGEPAGE);
  region->data = data;
  return DP_SUCCESS;
}

void rt_region_unmap(rt_region *region) {
  if (region->data) munmap(region->data, region->size);
  *region = (rt_region){0};
}

/* What the system could still give this process, in bytes; 0 when it does not say. */
static int64_t available_memory(void) {
  FILE *file = fopen("/proc/meminfo", "r"); /* of size 0 to stat, so not for dp_read_file */
  long long kib = 0;
  char line[256];
  while (file && fgets(line, sizeof line, file))
    if (sscanf(line, "MemAvailable: %lld kB", &kib) == 1) break;
  if (file) fclose(file);
  int64_t available = (int64_t)kib * 1024;
  struct rlimit limit;
  long long pages = 0;
  if (getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return available;
  file = fopen("/proc/self/statm", "r");
  if (file && fscanf(file, "%lld", &pages) != 1) pages = 0;
  if (file) fclose(file);
  int64_t left = (int64_t)limit.rlim_cur - pages * sysconf(_SC_PAGESIZE);
  if (left < 1) left = 1;
  return available > 0 && available < left ? available : left;
}

dp_status rt_region_map_free(rt_region *region, int64_t size, const char *what, const char *advice) {
  int64_t available = available_memory();
  if (available > 0 && size > available)
    return dp_fail(DP_NO_MEMORY, "%s would take %.1f GiB, and %.1f GiB of memory is free%s", what,
                   (double)size / (1 << 30), (double)available / (1 << 30), advice);
  return rt_region_map(region, size, what);
}
