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

static dp_status open_regular(const char *path, int *fd, size_t *size) {
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
  *size = (size_t)info.st_size;
  return DP_SUCCESS;
}

dp_status dp_read_file(const char *path, char **text, size_t *length) {
  int fd;
  size_t size;
  DP_TRY(open_regular(path, &fd, &size));
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
  size_t size;
  *mapping = (dp_mapping){0};
  DP_TRY(open_regular(path, &fd, &size));
  if (size == 0) {
    close(fd);
    return dp_fail(DP_INVALID, "'%s' is empty", path);
  }
  void *data = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
  int reason = errno;
  close(fd);
  if (data == MAP_FAILED) return dp_fail(DP_IO, "cannot map '%s': %s", path, strerror(reason));
  *mapping = (dp_mapping){data, size};
  return DP_SUCCESS;
}

void dp_unmap_file(dp_mapping *mapping) {
  if (mapping->data) munmap((void *)(uintptr_t)mapping->data, mapping->size);
  *mapping = (dp_mapping){0};
}
