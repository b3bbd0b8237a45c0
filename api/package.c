/* api/package.c: a package: parts behind whatever a file begins with (a launcher, a library, nothing), a table of them, and
 * at the file's very end where the table is. Parts begin at multiples of 4096, so that packed weights are used where they
 * are mapped. All but the weights have a hash that is checked as the package is opened. */
#include "api/internal.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FORMAT = 1, PAGE = 4096, MOST_PARTS = 64 };

/* The last bytes of the file. Little-endian, no padding. */
typedef struct footer {
  uint64_t table, count, table_hash, whole; /* table: from the file's begin; whole: the file's bytes */
  uint64_t format;
  char magic[8];
} footer;

static const char magic[8] = "dipperP";

static uint64_t hash_of(const api_package_entry *entry, const void *data) {
  return entry->part == API_PART_WEIGHTS ? 0 : dp_hash(0, data, entry->size);
}

/* ---- reading */

static dp_status check_entries(const char *path, const api_package *package) {
  for (int i = 0; i < package->count; i++) {
    const api_package_entry *e = &package->entries[i];
    bool sound = e->offset % PAGE == 0 && e->offset <= package->file.size && e->size <= package->file.size - e->offset &&
                 memchr(e->name, '\0', sizeof e->name) && e->hash == hash_of(e, package->file.data + e->offset);
    if (!sound) return dp_fail(DP_INVALID, "the model in '%s' is damaged: part %d of %d is not as it was written; copy it again",
                               path, i + 1, package->count);
  }
  return DP_SUCCESS;
}

static dp_status read_package(const char *path, api_package *package) {
  footer end;
  const dp_mapping *file = &package->file;
  if (file->size < sizeof end) return dp_fail(DP_NOT_FOUND, "'%s' carries no model", path);
  memcpy(&end, file->data + file->size - sizeof end, sizeof end);
  if (memcmp(end.magic, magic, sizeof magic) != 0) return dp_fail(DP_NOT_FOUND, "'%s' carries no model", path);
  if (end.format != FORMAT)
    return dp_fail(DP_UNSUPPORTED, "the model in '%s' was packed by another version of dipper: compile it again", path);
  bool sound = end.whole == file->size && end.count <= MOST_PARTS && end.table % 8 == 0 && end.table <= file->size &&
               end.count * sizeof(api_package_entry) <= file->size - end.table;
  if (!sound || dp_hash(0, file->data + end.table, end.count * sizeof(api_package_entry)) != end.table_hash)
    return dp_fail(DP_INVALID, "the model in '%s' is damaged: its table is not as it was written; copy it again", path);
  package->entries = (const api_package_entry *)(const void *)(file->data + end.table);
  package->count = (int)end.count;
  return check_entries(path, package);
}

dp_status api_open_package(const char *path, api_package *package) {
  *package = (api_package){0};
  DP_TRY(dp_map_file(path, &package->file));
  dp_status status = read_package(path, package);
  if (status.code != DP_OK) api_close_package(package);
  return status;
}

void api_close_package(api_package *package) {
  dp_unmap_file(&package->file);
  *package = (api_package){0};
}

int api_package_names(const api_package *package, api_part part, const char **names, int most) {
  int count = 0;
  for (int i = 0; i < package->count; i++) {
    if (package->entries[i].part != part) continue;
    if (names && count == most) break;
    if (names) names[count] = package->entries[i].name;
    count++;
  }
  return count;
}

/* ---- writing */

struct api_package_writer {
  char path[PATH_MAX], temporary[PATH_MAX];
  FILE *file;
  uint64_t at;
  api_package_entry entries[MOST_PARTS];
  int count;
  bool open; /* the last part is being written */
};

static dp_status cannot_write(const api_package_writer *w) {
  return dp_fail(DP_IO, "cannot write '%s': %s", w->path, strerror(errno));
}

dp_status api_package_write(void *writer, const void *data, size_t size) {
  api_package_writer *w = writer;
  if (size && fwrite(data, 1, size, w->file) != size) return cannot_write(w);
  w->at += size;
  if (w->open) w->entries[w->count - 1].size += size;
  return DP_SUCCESS;
}

static dp_status pad(api_package_writer *w, uint64_t unit) {
  static const char zeros[PAGE];
  w->open = false;
  return api_package_write(w, zeros, (unit - w->at % unit) % unit);
}

dp_status api_package_begin(const char *path, unsigned mode, const void *head, size_t size, api_package_writer **writer) {
  api_package_writer *w = calloc(1, sizeof *w);
  if (!w) return dp_fail(DP_NO_MEMORY, "no memory to write '%s'", path);
  dp_status status = DP_SUCCESS;
  bool fits = strlen(path) < sizeof w->path &&
              (size_t)snprintf(w->temporary, sizeof w->temporary, "%s.tmp-XXXXXX", path) < sizeof w->temporary;
  if (fits) strcpy(w->path, path);
  int fd = fits ? mkstemp(w->temporary) : -1;
  if (!fits) status = dp_fail(DP_INVALID, "path too long: '%s'", path);
  if (fits && fd < 0) status = cannot_write(w);
  if (status.code == DP_OK && (fchmod(fd, (mode_t)mode) != 0 || !(w->file = fdopen(fd, "wb")))) {
    status = cannot_write(w);
    close(fd);
    unlink(w->temporary);
  }
  if (status.code != DP_OK) {
    free(w);
    return status;
  }
  status = api_package_write(w, head, size);
  if (status.code != DP_OK) return api_package_end(w, status);
  *writer = w;
  return DP_SUCCESS;
}

dp_status api_package_begin_part(api_package_writer *w, api_part part, const char *name) {
  DP_CHECK(w->count < MOST_PARTS && strlen(name) < sizeof w->entries->name, "a package of %d parts, '%s'", w->count, name);
  DP_TRY(pad(w, PAGE));
  api_package_entry *entry = &w->entries[w->count++];
  *entry = (api_package_entry){.part = part, .offset = w->at};
  strcpy(entry->name, name);
  w->open = true;
  return DP_SUCCESS;
}

dp_status api_package_add(api_package_writer *w, api_part part, const char *name, const void *data, size_t size) {
  DP_TRY(api_package_begin_part(w, part, name));
  DP_TRY(api_package_write(w, data, size));
  api_package_entry *entry = &w->entries[w->count - 1];
  entry->hash = hash_of(entry, data);
  return DP_SUCCESS;
}

static dp_status write_end(api_package_writer *w) {
  DP_TRY(pad(w, 8));
  size_t bytes = (size_t)w->count * sizeof *w->entries;
  footer end = {.table = w->at, .count = (uint64_t)w->count, .table_hash = dp_hash(0, w->entries, bytes),
                .whole = w->at + bytes + sizeof end, .format = FORMAT};
  memcpy(end.magic, magic, sizeof magic);
  DP_TRY(api_package_write(w, w->entries, bytes));
  DP_TRY(api_package_write(w, &end, sizeof end));
  return fflush(w->file) != 0 || fsync(fileno(w->file)) != 0 ? cannot_write(w) : DP_SUCCESS;
}

dp_status api_package_end(api_package_writer *w, dp_status status) {
  if (!w) return status;
  if (status.code == DP_OK) status = write_end(w);
  if (fclose(w->file) != 0 && status.code == DP_OK) status = cannot_write(w);
  if (status.code == DP_OK && rename(w->temporary, w->path) != 0) status = cannot_write(w);
  if (status.code != DP_OK) unlink(w->temporary);
  free(w);
  return status;
}
