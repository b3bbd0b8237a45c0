/* runtime/resident_store.h: private to resident*.c: packed weights kept in a directory, one file an entry, that processes
 * map and share. An entry is written once, under another name, and then does not change. */
#ifndef DIPPER_RUNTIME_RESIDENT_STORE_H
#define DIPPER_RUNTIME_RESIDENT_STORE_H

#include "base/base.h"

enum {
  RT_STORE_HEAD = 4096,      /* bytes at the start of an entry that are the store's */
  RT_STORE_WINDOW = 2 << 20, /* an entry is written by windows: the huge pages that it is then mapped in */
};

/* Where entries are. Zero-initialize what is not known. */
typedef struct rt_store {
  const char *directory;
  int64_t limit; /* bytes of all entries together; 0: 20 GiB, or a tenth of the free disk if that is less */
  int workers;
  uint64_t key[2]; /* of the entry that is meant */
  int64_t size;    /* its bytes, a multiple of RT_STORE_HEAD, head included */
} rt_store;

/* The entry mapped read-only, or {0} when there is none that is sound. Believed are an entry's length, its head's hash,
 * and its bytes if they were written or checked since the machine started and the file has not been written to since;
 * otherwise their hash is compared first. */
dp_mapping rt_store_open(const rt_store *store);

/* An entry being written. */
typedef struct rt_store_writer rt_store_writer;
/* Makes room (the entries used least recently go) and begins. */
dp_status rt_store_begin(const rt_store *store, rt_store_writer **writer);
int64_t rt_store_windows(const rt_store *store);
int64_t rt_store_window_bytes(const rt_store *store, int64_t window); /* the last one is shorter */
/* One window's bytes; RT_STORE_HEAD bytes at the start of the first are overwritten. Threads may write different
 * windows at once. What fails is told by rt_store_end. */
void rt_store_write(rt_store_writer *writer, int64_t window, void *bytes);
/* Puts the entry in place and maps it, or with `keep` false or after a failure removes what was written. */
dp_status rt_store_end(rt_store_writer *writer, bool keep, dp_mapping *entry);

#endif
