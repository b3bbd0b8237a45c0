/* runtime/resident_store.c: a file an entry: a head, then the packed weights as they are mapped. Writing goes by whole
 * windows, straight into the page cache: aligned like that, file systems with large folios give huge pages, and no page
 * of the process is spent. Nothing waits for the disk: after a crash or power cut an entry may be damaged, so one is
 * believed only within the boot that wrote or checked it, and checked once in every other. */
#include "runtime/resident_store.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

enum { FORMAT = 1, STALE_SECONDS = 3600 };

static const char magic[8] = "dipperW", suffix[] = ".weights", unfinished[] = ".weights-";

/* No padding. What follows `hash` is not covered by it: it is written again after a check. */
typedef struct head {
  char magic[8];
  uint64_t format, key[2], size;
  uint64_t contents; /* hash of the windows' hashes */
  uint64_t hash;     /* of all above */
  uint64_t boot;     /* in which the contents were written or checked; 0: not known */
  int64_t modified;  /* seconds: the file's time then */
} head;

struct rt_store_writer {
  rt_store store;
  int fd;
  char path[PATH_MAX], temporary[PATH_MAX];
  _Atomic int reason; /* errno of the first failure */
  uint64_t hashes[]; /* of the windows */
};

/* ---- hashes */

/* Four chains at once: one alone is as slow as its multiplications. */
static uint64_t hash_bytes(const uint8_t *bytes, size_t size) {
  uint64_t h[4] = {1, 2, 3, 4};
  size_t at = 0;
  for (; at + 32 <= size; at += 32) {
    uint64_t words[4];
    memcpy(words, bytes + at, sizeof words);
    for (int i = 0; i < 4; i++) {
      h[i] = (h[i] ^ words[i]) * 0x9e3779b97f4a7c15u;
      h[i] ^= h[i] >> 32;
    }
  }
  return dp_hash(dp_hash(0, h, sizeof h), bytes + at, size - at);
}

/* The first window without the head. */
static uint64_t hash_window(int64_t window, const uint8_t *bytes, int64_t size) {
  int64_t skip = window == 0 ? RT_STORE_HEAD : 0;
  return hash_bytes(bytes + skip, (size_t)(size - skip));
}

static uint64_t hash_head(const head *h) { return dp_hash(0, h, offsetof(head, hash)); }

static uint64_t this_boot(void) {
  char text[64];
  int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
  ssize_t n = fd >= 0 ? read(fd, text, sizeof text) : -1;
  if (fd >= 0) close(fd);
  return n > 0 ? dp_hash(0, text, (size_t)n) | 1 : 0;
}

/* ---- windows */

int64_t rt_store_windows(const rt_store *store) { return (store->size + RT_STORE_WINDOW - 1) / RT_STORE_WINDOW; }

int64_t rt_store_window_bytes(const rt_store *store, int64_t window) {
  int64_t left = store->size - window * RT_STORE_WINDOW;
  return left < RT_STORE_WINDOW ? left : RT_STORE_WINDOW;
}

/* ---- reading */

typedef struct checking {
  const rt_store *store;
  const uint8_t *bytes;
  uint64_t *hashes;
  _Atomic int64_t next;
} checking;

static void *check_windows(void *argument) {
  checking *c = argument;
  for (int64_t i, count = rt_store_windows(c->store); (i = atomic_fetch_add(&c->next, 1)) < count;)
    c->hashes[i] = hash_window(i, c->bytes + i * RT_STORE_WINDOW, rt_store_window_bytes(c->store, i));
  return NULL;
}

static bool contents_are_sound(const rt_store *store, const uint8_t *bytes, uint64_t wanted) {
  enum { MOST = 64 };
  pthread_t threads[MOST];
  int started = 0;
  int64_t count = rt_store_windows(store);
  checking c = {.store = store, .bytes = bytes, .hashes = calloc((size_t)count, sizeof *c.hashes)};
  if (!c.hashes) return false;
  for (; started < store->workers - 1 && started < MOST; started++)
    if (pthread_create(&threads[started], NULL, check_windows, &c) != 0) break;
  check_windows(&c);
  for (int i = 0; i < started; i++) pthread_join(threads[i], NULL);
  bool sound = hash_bytes((const uint8_t *)c.hashes, (size_t)count * sizeof *c.hashes) == wanted;
  free(c.hashes);
  return sound;
}

/* Sets the file's time to what the head says, so that a later write shows; and the time of its last use. */
static bool mark(int fd, const int64_t *modified) {
  struct timespec times[2] = {{.tv_nsec = UTIME_NOW}, {.tv_nsec = UTIME_OMIT}};
  if (modified) times[1] = (struct timespec){.tv_sec = *modified};
  return futimens(fd, times) == 0;
}

static bool entry_path(const rt_store *store, char path[PATH_MAX]) {
  return snprintf(path, PATH_MAX, "%s/%016" PRIx64 "%016" PRIx64 "%s", store->directory, store->key[0], store->key[1],
                  suffix) < PATH_MAX;
}

/* fd may be read-only: then the check is made again next time. */
static bool check_contents(const rt_store *store, int fd, const uint8_t *bytes, head *h, const struct stat *info) {
  uint64_t boot = this_boot();
  if (boot && h->boot == boot && h->modified == info->st_mtim.tv_sec && info->st_mtim.tv_nsec == 0) {
    mark(fd, NULL);
    return true;
  }
  if (!contents_are_sound(store, bytes, h->contents)) return false;
  h->boot = boot;
  h->modified = time(NULL);
  if (pwrite(fd, h, sizeof *h, 0) == (ssize_t)sizeof *h) mark(fd, &h->modified);
  return true;
}

dp_mapping rt_store_open(const rt_store *store) {
  char path[PATH_MAX];
  if (!entry_path(store, path)) return (dp_mapping){0};
  int fd = open(path, O_RDWR | O_CLOEXEC);
  if (fd < 0) fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return (dp_mapping){0};
  head h;
  struct stat info;
  bool sound = fstat(fd, &info) == 0 && S_ISREG(info.st_mode) && info.st_size == store->size &&
               pread(fd, &h, sizeof h, 0) == (ssize_t)sizeof h && memcmp(h.magic, magic, sizeof magic) == 0 &&
               h.format == FORMAT && h.hash == hash_head(&h) && h.key[0] == store->key[0] &&
               h.key[1] == store->key[1] && h.size == (uint64_t)store->size;
  uint8_t *bytes = sound ? mmap(NULL, (size_t)store->size, PROT_READ, MAP_SHARED, fd, 0) : MAP_FAILED;
  sound = bytes != MAP_FAILED;
  if (sound) {
    madvise(bytes, (size_t)store->size, MADV_HUGEPAGE); /* reads from the disk then bring huge pages */
    sound = check_contents(store, fd, bytes, &h, &info);
    if (!sound) munmap(bytes, (size_t)store->size);
  }
  close(fd);
  return sound ? (dp_mapping){.data = bytes, .size = (size_t)store->size} : (dp_mapping){0};
}

/* ---- room */

typedef struct kept {
  char name[64];
  int64_t size, used; /* bytes; nanoseconds of the clock */
} kept;

static int by_use(const void *a, const void *b) {
  int64_t x = ((const kept *)a)->used, y = ((const kept *)b)->used;
  return (x > y) - (x < y);
}

/* The entries of the directory, malloc'ed. What a process that died left unfinished is removed. */
static kept *list_entries(int directory, int *count) {
  kept *list = NULL;
  int cap = 0, copy = dup(directory);
  DIR *stream = copy >= 0 ? fdopendir(copy) : NULL;
  *count = 0;
  if (!stream && copy >= 0) close(copy);
  for (struct dirent *e; stream && (e = readdir(stream));) {
    size_t length = strlen(e->d_name), end = sizeof suffix - 1;
    struct stat info;
    bool temporary = strstr(e->d_name, unfinished);
    bool entry = length > end && strcmp(e->d_name + length - end, suffix) == 0 && length < sizeof list->name;
    if ((!temporary && !entry) || fstatat(directory, e->d_name, &info, AT_SYMLINK_NOFOLLOW) != 0) continue;
    if (temporary) {
      if (time(NULL) - info.st_mtim.tv_sec > STALE_SECONDS) unlinkat(directory, e->d_name, 0);
      continue;
    }
    if (*count == cap) {
      kept *grown = realloc(list, sizeof *list * (size_t)(cap = 2 * cap + 16));
      if (!grown) break;
      list = grown;
    }
    kept *k = &list[(*count)++];
    memcpy(k->name, e->d_name, length + 1);
    k->size = info.st_size;
    k->used = info.st_atim.tv_sec * INT64_C(1000000000) + info.st_atim.tv_nsec;
  }
  if (stream) closedir(stream);
  return list;
}

static int64_t limit_of(const rt_store *store, int directory, int64_t kept_bytes) {
  struct statvfs disk;
  if (store->limit) return store->limit;
  int64_t limit = INT64_C(20) << 30;
  if (fstatvfs(directory, &disk) != 0) return limit;
  int64_t tenth = ((int64_t)disk.f_bavail * (int64_t)disk.f_frsize + kept_bytes) / 10;
  return tenth < limit ? tenth : limit;
}

/* Processes that have an entry mapped keep its pages when it goes. */
static dp_status make_room(const rt_store *store) {
  int directory = open(store->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC), count;
  if (directory < 0) return dp_fail(DP_IO, "cannot open '%s': %s", store->directory, strerror(errno));
  kept *list = list_entries(directory, &count);
  int64_t sum = 0;
  for (int i = 0; i < count; i++) sum += list[i].size;
  int64_t limit = limit_of(store, directory, sum);
  if (count > 0) qsort(list, (size_t)count, sizeof *list, by_use);
  for (int i = 0; i < count && store->size <= limit && sum > limit - store->size; i++)
    if (unlinkat(directory, list[i].name, 0) == 0) sum -= list[i].size;
  free(list);
  close(directory);
  if (store->size <= limit) return DP_SUCCESS;
  return dp_fail(DP_IO, "%.1f MiB are more than the %.1f MiB that '%s' may take", (double)store->size / (1 << 20),
                 (double)limit / (1 << 20), store->directory);
}

static dp_status make_directories(const char *path) {
  char prefix[PATH_MAX];
  size_t length = strlen(path);
  if (length >= sizeof prefix) return dp_fail(DP_INVALID, "path too long: '%s'", path);
  memcpy(prefix, path, length + 1);
  for (size_t i = 1; i <= length; i++) {
    if (path[i] != '/' && path[i] != '\0') continue;
    prefix[i] = '\0';
    if (mkdir(prefix, 0777) != 0 && errno != EEXIST)
      return dp_fail(DP_IO, "cannot create '%s': %s", path, strerror(errno));
    prefix[i] = path[i];
  }
  return DP_SUCCESS;
}

/* ---- writing */

dp_status rt_store_begin(const rt_store *store, rt_store_writer **writer) {
  *writer = NULL;
  DP_TRY(make_directories(store->directory));
  DP_TRY(make_room(store));
  rt_store_writer *w = calloc(1, sizeof *w + (size_t)rt_store_windows(store) * sizeof *w->hashes);
  if (!w) return dp_fail(DP_NO_MEMORY, "no memory to write packed weights");
  w->store = *store;
  bool fits = entry_path(store, w->path) &&
              snprintf(w->temporary, sizeof w->temporary, "%s-XXXXXX", w->path) < (int)sizeof w->temporary;
  w->fd = fits ? mkostemp(w->temporary, O_CLOEXEC) : -1;
  if (w->fd >= 0) {
    *writer = w;
    return DP_SUCCESS;
  }
  dp_status status = dp_fail(DP_IO, "cannot write in '%s': %s", store->directory,
                             strerror(fits ? errno : ENAMETOOLONG));
  free(w);
  return status;
}

static void write_at(rt_store_writer *w, const uint8_t *bytes, int64_t size, int64_t at) {
  for (int64_t done = 0; done < size && !atomic_load(&w->reason);) {
    ssize_t n = pwrite(w->fd, bytes + done, (size_t)(size - done), at + done);
    if (n > 0) done += n;
    if (n == 0) errno = ENOSPC;
    if (n <= 0 && errno != EINTR) atomic_store(&w->reason, errno);
  }
}

void rt_store_write(rt_store_writer *w, int64_t window, void *bytes) {
  int64_t size = rt_store_window_bytes(&w->store, window);
  if (window == 0) memset(bytes, 0, RT_STORE_HEAD);
  w->hashes[window] = hash_window(window, bytes, size);
  write_at(w, bytes, size, window * RT_STORE_WINDOW);
}

static void write_head(rt_store_writer *w) {
  const rt_store *store = &w->store;
  head h = {.format = FORMAT, .key = {store->key[0], store->key[1]}, .size = (uint64_t)store->size};
  memcpy(h.magic, magic, sizeof magic);
  h.contents = hash_bytes((const uint8_t *)w->hashes, (size_t)rt_store_windows(store) * sizeof *w->hashes);
  h.hash = hash_head(&h);
  h.boot = this_boot();
  h.modified = time(NULL);
  write_at(w, (const uint8_t *)&h, sizeof h, 0);
  if (!w->reason && (fchmod(w->fd, 0644) != 0 || !mark(w->fd, &h.modified))) w->reason = errno;
}

dp_status rt_store_end(rt_store_writer *w, bool keep, dp_mapping *entry) {
  *entry = (dp_mapping){0};
  if (keep && !w->reason) write_head(w);
  uint8_t *bytes = MAP_FAILED;
  if (keep && !w->reason) {
    bytes = mmap(NULL, (size_t)w->store.size, PROT_READ, MAP_SHARED, w->fd, 0);
    if (bytes == MAP_FAILED || rename(w->temporary, w->path) != 0) w->reason = errno;
  }
  int reason = w->reason;
  close(w->fd);
  if (!keep || reason) {
    unlink(w->temporary);
    if (bytes != MAP_FAILED) munmap(bytes, (size_t)w->store.size);
  } else {
    madvise(bytes, (size_t)w->store.size, MADV_HUGEPAGE);
    *entry = (dp_mapping){.data = bytes, .size = (size_t)w->store.size};
  }
  dp_status status =
      reason ? dp_fail(DP_IO, "cannot write '%s': %s", w->path, strerror(reason)) : DP_SUCCESS;
  free(w);
  return status;
}
