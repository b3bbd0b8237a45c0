/* base/file.c: whole files in, whole files out, mappings; every refusal of the system becomes a sentence. */
#include "base/base.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static dp_file_stamp stamp_of(const struct stat *info) {
  return (dp_file_stamp){.device = (uint64_t)info->st_dev,
                         .inode = (uint64_t)info->st_ino,
                         .size = (uint64_t)info->st_size,
                         .modified = info->st_mtim.tv_sec * INT64_C(1000000000) + info->st_mtim.tv_nsec,
                         .changed = info->st_ctim.tv_sec * INT64_C(1000000000) + info->st_ctim.tv_nsec};
}

bool dp_stamp_file(const char *path, dp_file_stamp *stamp) {
  struct stat info;
  if (stat(path, &info) != 0) return false;
  *stamp = stamp_of(&info);
  return true;
}

bool dp_same_stamp(const dp_file_stamp *a, const dp_file_stamp *b) {
  return a->device == b->device && a->inode == b->inode && a->size == b->size && a->modified == b->modified &&
         a->changed == b->changed;
}

static dp_status open_regular(const char *path, int *fd, dp_file_stamp *stamp) {
  *fd = open(path, O_RDONLY | O_CLOEXEC);
  if (*fd < 0) {
    int reason = errno;
    return dp_fail(reason == ENOENT || reason == ENOTDIR ? DP_NOT_FOUND : DP_IO, "cannot open '%s': %s", path,
                   strerror(reason));
  }
  struct stat info;
  dp_status status = DP_SUCCESS;
  if (fstat(*fd, &info) != 0) {
    status = dp_fail(DP_IO, "cannot read '%s': %s", path, strerror(errno));
  } else if (S_ISDIR(info.st_mode)) {
    status = dp_fail(DP_INVALID, "'%s' is a directory, a file was expected", path);
  } else if (!S_ISREG(info.st_mode)) {
    status = dp_fail(DP_INVALID, "'%s' is not a regular file", path);
  }
  if (status.code != DP_OK) {
    close(*fd);
    return status;
  }
  *stamp = stamp_of(&info);
  return DP_SUCCESS;
}

dp_status dp_read_file(const char *path, char **text, size_t *length) {
  int fd;
  dp_file_stamp stamp;
  DP_TRY(open_regular(path, &fd, &stamp));
  size_t size = (size_t)stamp.size;
  char *memory = malloc(size + 1);
  if (!memory) {
    close(fd);
    return dp_fail(DP_NO_MEMORY, "no memory to read '%s' (%zu bytes)", path, size);
  }
  size_t got = 0;
  while (got < size) {
    ssize_t n = read(fd, memory + got, size - got);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      dp_status status = dp_fail(DP_IO, "cannot read '%s': %s", path, strerror(errno));
      free(memory);
      close(fd);
      return status;
    }
    if (n == 0) break;
    got += (size_t)n;
  }
  close(fd);
  memory[got] = '\0';
  *text = memory;
  *length = got;
  return DP_SUCCESS;
}

dp_status dp_write_file_atomic(const char *path, const void *data, size_t size) {
  char temporary[PATH_MAX];
  if ((size_t)snprintf(temporary, sizeof temporary, "%s.tmp-XXXXXX", path) >= sizeof temporary)
    return dp_fail(DP_INVALID, "path too long: '%s'", path);
  int fd = mkstemp(temporary);
  if (fd < 0) return dp_fail(DP_IO, "cannot write '%s': %s", path, strerror(errno));
  int reason = fchmod(fd, 0644) != 0 ? errno : 0;
  for (size_t done = 0; done < size && !reason;) {
    ssize_t n = write(fd, (const char *)data + done, size - done);
    if (n < 0 && errno != EINTR) reason = errno;
    if (n > 0) done += (size_t)n;
  }
  if (!reason && fsync(fd) != 0) reason = errno;
  if (close(fd) != 0 && !reason) reason = errno;
  if (!reason && rename(temporary, path) != 0) reason = errno;
  if (reason) {
    unlink(temporary);
    return dp_fail(DP_IO, "cannot write '%s': %s", path, strerror(reason));
  }
  return DP_SUCCESS;
}

dp_status dp_map_file(const char *path, dp_mapping *mapping) {
  int fd;
  dp_file_stamp stamp;
  *mapping = (dp_mapping){0};
  DP_TRY(open_regular(path, &fd, &stamp));
  size_t size = (size_t)stamp.size;
  if (size == 0) {
    close(fd);
    return dp_fail(DP_INVALID, "'%s' is empty", path);
  }
  void *data = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
  int reason = errno;
  close(fd);
  if (data == MAP_FAILED) return dp_fail(DP_IO, "cannot map '%s': %s", path, strerror(reason));
  *mapping = (dp_mapping){data, size, stamp};
  return DP_SUCCESS;
}

void dp_unmap_file(dp_mapping *mapping) {
  if (mapping->data) munmap((void *)(uintptr_t)mapping->data, mapping->size);
  *mapping = (dp_mapping){0};
}

void dp_forget_mapped(const void *data, size_t size) {
  uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), at = (uintptr_t)data;
  uintptr_t from = (at + page - 1) / page * page, to = (at + size) / page * page;
  if (to > from) madvise((void *)from, to - from, MADV_DONTNEED);
}
