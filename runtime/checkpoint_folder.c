/* runtime/checkpoint_folder.c: the folders that checkpoints live in: names, listing, locking, making safe, removing. */
#include "runtime/checkpoint_parts.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

dp_status cp_join(char path[PATH_MAX], const char *directory, const char *name) {
  if ((size_t)snprintf(path, PATH_MAX, "%s/%s", directory, name) >= PATH_MAX)
    return dp_fail(DP_INVALID, "path too long: '%s/%s'", directory, name);
  return DP_SUCCESS;
}

void cp_name_of_step(char name[32], int64_t step) { snprintf(name, 32, "step-%08" PRId64, step); }

int64_t cp_step_of_name(const char *name) {
  int64_t step = 0;
  if (strncmp(name, "step-", 5) != 0 || strlen(name) != 13) return -1;
  for (const char *at = name + 5; *at; at++) {
    if (*at < '0' || *at > '9') return -1;
    step = step * 10 + (*at - '0');
  }
  return step;
}

static int newest_first(const void *a, const void *b) {
  int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
  return x < y ? 1 : x > y ? -1 : 0;
}

dp_status cp_list_steps(const char *directory, int64_t **steps, int *count) {
  *steps = NULL;
  *count = 0;
  DIR *folder = opendir(directory);
  if (!folder)
    return dp_fail(errno == ENOENT || errno == ENOTDIR ? DP_NOT_FOUND : DP_IO,
                   "cannot open the checkpoints in '%s': %s", directory, strerror(errno));
  int cap = 0;
  for (struct dirent *entry; (entry = readdir(folder));) {
    int64_t step = cp_step_of_name(entry->d_name);
    if (step < 0) continue;
    if (*count == cap) {
      cap = cap ? 2 * cap : 16;
      int64_t *more = realloc(*steps, (size_t)cap * sizeof *more);
      if (!more) {
        closedir(folder);
        free(*steps);
        *steps = NULL;
        return dp_fail(DP_NO_MEMORY, "no memory for the names of the checkpoints in '%s'", directory);
      }
      *steps = more;
    }
    (*steps)[(*count)++] = step;
  }
  closedir(folder);
  if (*count > 0) qsort(*steps, (size_t)*count, sizeof **steps, newest_first);
  return DP_SUCCESS;
}

dp_status cp_sync_folder(const char *directory) {
  int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  int reason =
      fd < 0 || (fsync(fd) != 0 && errno != EINVAL) ? errno : 0; /* EINVAL: a file system that knows no such thing */
  if (fd >= 0) close(fd);
  return reason ? dp_fail(DP_IO, "cannot make '%s' safe on disk: %s", directory, strerror(reason)) : DP_SUCCESS;
}

static int remove_one(const char *path, const struct stat *info, int kind, struct FTW *where) {
  (void)info, (void)kind, (void)where;
  remove(path);
  return 0;
}

void cp_remove_folder(const char *directory) { nftw(directory, remove_one, 8, FTW_DEPTH | FTW_PHYS); }

/* ".step-00000100.tmp-XXXXXX" and what dp_write_file_atomic leaves of `latest`. */
static bool is_leftover(const char *name) {
  return (strncmp(name, ".step-", 6) == 0 && strstr(name, ".tmp-")) ||
         strncmp(name, CHECKPOINT_LATEST ".tmp-", 11) == 0;
}

void cp_remove_leftovers(const char *directory) {
  DIR *folder = opendir(directory);
  for (struct dirent *entry; folder && (entry = readdir(folder));) {
    char path[PATH_MAX];
    dp_status status =
        is_leftover(entry->d_name) ? cp_join(path, directory, entry->d_name) : dp_fail(DP_INVALID, "other");
    if (status.code == DP_OK) cp_remove_folder(path);
    dp_status_free(&status);
  }
  if (folder) closedir(folder);
}

dp_status cp_lock_folder(const char *directory, int *lock, bool *taken) {
  *taken = false;
  *lock = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (*lock < 0)
    return dp_fail(errno == ENOENT || errno == ENOTDIR ? DP_NOT_FOUND : DP_IO,
                   "cannot open the checkpoints in '%s': %s", directory, strerror(errno));
  if (flock(*lock, LOCK_EX | LOCK_NB) == 0) return DP_SUCCESS;
  *taken = errno == EWOULDBLOCK;
  close(*lock);
  *lock = -1;
  return DP_SUCCESS;
}
