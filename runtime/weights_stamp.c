/* runtime/weights_stamp.c: what tells the contents of weights files from every other: of each file its inode, size, both
 * times, and a hash of samples spread over it. The times alone would do on a local disk: `changed` cannot be set back.
 * The samples are for the others, where a file may be replaced by one of the same times and size. */
#include "runtime/weights_file.h"

#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { SAMPLES = 64, SAMPLE_BYTES = 1024, SETTLED_NS = 2000000000 };

/* Through the mapping, whose pages are given back one by one: memory is to hold the weights once. */
static uint64_t hash_samples(const dp_mapping *mapping) {
  size_t page = (size_t)sysconf(_SC_PAGESIZE), size = mapping->size;
  size_t bytes = size < SAMPLE_BYTES ? size : SAMPLE_BYTES;
  uint64_t hash = 0;
  for (size_t i = 0; i < SAMPLES; i++) {
    size_t at = (size - bytes) / (SAMPLES - 1) * i, from = at / page * page;
    hash = dp_hash(hash, mapping->data + at, bytes);
    madvise((void *)(uintptr_t)(mapping->data + from), at + bytes - from, MADV_DONTNEED);
  }
  return hash;
}

bool rt_weights_identity(const rt_weights_file *file, dp_str *identity) {
  for (int i = 0; i < file->part_count; i++) {
    const dp_mapping *mapping = &file->parts[i].mapping;
    if (!mapping->data) return false;
    const dp_file_stamp *s = &mapping->stamp; /* not its device: that has another number after a restart */
    uint64_t numbers[] = {s->inode, s->size, (uint64_t)s->modified, (uint64_t)s->changed, hash_samples(mapping)};
    dp_str_addn(identity, (const char *)numbers, sizeof numbers);
  }
  return !identity->failed;
}

bool rt_weights_settled(const rt_weights_file *file) {
  struct timespec time;
  clock_gettime(CLOCK_REALTIME, &time);
  int64_t now = time.tv_sec * INT64_C(1000000000) + time.tv_nsec;
  for (int i = 0; i < file->part_count; i++) {
    const dp_file_stamp *then = &file->parts[i].mapping.stamp;
    dp_file_stamp stamp;
    if (!dp_stamp_file(file->parts[i].path, &stamp) || !dp_same_stamp(&stamp, then)) return false;
    if (now - then->changed < SETTLED_NS || now - then->modified < SETTLED_NS) return false;
  }
  return true;
}
