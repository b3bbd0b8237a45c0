/* runtime/memory.c: asks /proc and the control groups. A group's files that are there are believed, at every level up to
 * the root: in a container the path that /proc tells of may be the host's, and the root is then the container's own. */
#include "runtime/memory.h"

#include <inttypes.h>
#include <limits.h>
#include <malloc.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

static const int64_t most = INT64_C(1) << RT_MEMORY_BITS;

int64_t rt_bytes_times(int64_t a, int64_t b) {
  int64_t product;
  return __builtin_mul_overflow(a, b, &product) || product > most ? most : product;
}

int64_t rt_bytes_plus(int64_t a, int64_t b) {
  int64_t sum;
  return __builtin_add_overflow(a, b, &sum) || sum > most ? most : sum;
}

void rt_memory_trim(void) {
#ifdef __GLIBC__
  malloc_trim(0);
#endif
}

int64_t rt_memory_resident(void) {
  FILE *file = fopen("/proc/self/statm", "r");
  long long all, resident = 0;
  if (file && fscanf(file, "%lld %lld", &all, &resident) != 2) resident = 0;
  if (file) fclose(file);
  return resident * sysconf(_SC_PAGESIZE);
}

/* A file of lines "KEY NUMBER"; -1 without such a line. With key NULL: of one number. */
static int64_t number_in(const char *path, const char *key) {
  FILE *file = fopen(path, "r"); /* of size 0 to stat, so not for dp_read_file */
  char line[256], name[128];
  long long value = -1;
  while (file && fgets(line, sizeof line, file)) {
    long long read;
    if (!key && sscanf(line, "%lld", &read) == 1) value = read;
    if (key && sscanf(line, "%127s %lld", name, &read) == 2 && strcmp(name, key) == 0) value = read;
    if (value >= 0) break;
  }
  if (file) fclose(file);
  return value;
}

/* What a group leaves: its limit less what it uses, without pages of files that it could drop. -1: it has no limit. */
static int64_t left_in(const char *directory, bool second) {
  char path[PATH_MAX + 64];
  snprintf(path, sizeof path, "%s/%s", directory, second ? "memory.max" : "memory.limit_in_bytes");
  int64_t limit = number_in(path, NULL);
  snprintf(path, sizeof path, "%s/%s", directory, second ? "memory.current" : "memory.usage_in_bytes");
  int64_t used = number_in(path, NULL);
  if (limit < 0 || limit > most || used < 0) return -1;
  snprintf(path, sizeof path, "%s/memory.stat", directory);
  int64_t files = number_in(path, second ? "inactive_file" : "total_inactive_file");
  int64_t left = limit - used + (files > 0 ? files : 0);
  return left > 1 ? left : 1;
}

static int64_t least_of(int64_t a, int64_t b) { return b < 0 || (a >= 0 && a < b) ? a : b; }

static int64_t left_in_groups(void) {
  FILE *file = fopen("/proc/self/cgroup", "r");
  char line[PATH_MAX];
  int64_t left = -1;
  while (file && fgets(line, sizeof line, file)) {
    char *list = strchr(line, ':'), *group = list ? strchr(list + 1, ':') : NULL;
    if (!group) continue;
    *group++ = '\0';
    group[strcspn(group, "\n")] = '\0';
    bool second = !list[1];
    if (!second && !strstr(list + 1, "memory")) continue;
    for (size_t length = strlen(group);; length--) {
      char directory[PATH_MAX + 32];
      if (length > 0 && group[length] && group[length] != '/') continue;
      snprintf(directory, sizeof directory, "/sys/fs/cgroup%s%.*s", second ? "" : "/memory", (int)length, group);
      left = least_of(left, left_in(directory, second));
      if (length == 0) break;
    }
  }
  if (file) fclose(file);
  return left;
}

static int64_t left_of_addresses(void) {
  struct rlimit limit;
  long long pages = 0;
  if (getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return -1;
  FILE *file = fopen("/proc/self/statm", "r");
  if (file && fscanf(file, "%lld", &pages) != 1) pages = 0;
  if (file) fclose(file);
  int64_t left = (int64_t)limit.rlim_cur - pages * sysconf(_SC_PAGESIZE);
  return left > 1 ? left : 1;
}

int64_t rt_memory_available(void) {
  int64_t kib = number_in("/proc/meminfo", "MemAvailable:");
  int64_t left = kib > 0 ? kib * 1024 : -1;
  left = least_of(least_of(left, left_in_groups()), left_of_addresses());
  return left > 0 ? left : 0;
}
