/* codegen/cuda/memory.c: the driver's allocations are slow and each is a page of 2 MiB at least, so pieces are large,
 * and what is asked for is cut from them: a piece is a list of spans in order, used and free; the first that is large
 * enough is taken, neighbours that are free become one. */
#include "codegen/cuda/memory.h"
#include "codegen/cuda/driver_parts.h"

#include <stdlib.h>
#include <string.h>

enum { PAGE = 2 << 20, PIECE = 64 << 20, WINDOW = 1 << 20, WINDOWS = CUDA_MARKS, MAPPED = 2 /* cuda.h's number */ };

typedef struct span {
  int64_t at, bytes; /* from the piece's begin */
  bool used;
} span;

typedef struct piece {
  cuda_address at;
  int64_t bytes;
  span *spans;
  int count, cap;
} piece;

struct cuda_memory {
  piece *pieces;
  int count, cap;
  void **pinned;
  int pinned_count, pinned_cap;
  char *windows[WINDOWS]; /* among the pinned */
};

static dp_status no_memory(void) { return dp_fail(DP_NO_MEMORY, "no memory for the list of a GPU's allocations"); }

static cuda_memory *memory_of(cuda_gpu *g) {
  if (!g->memory) g->memory = calloc(1, sizeof *g->memory);
  return g->memory;
}

/* Room for one more item; false: the host has no memory. */
static bool grow(void *items, int count, int *cap, size_t size) {
  void *list;
  if (count < *cap) return true;
  int larger = *cap ? 2 * *cap : 16;
  memcpy(&list, items, sizeof list);
  list = realloc(list, size * (size_t)larger);
  if (!list) return false;
  memcpy(items, &list, sizeof list);
  *cap = larger;
  return true;
}

/* ---- pieces */

static int64_t rounded(int64_t bytes, int64_t to) { return (bytes > 0 ? bytes + to - 1 : to) / to * to; }

static void drop_piece(cuda_memory *m, int index) {
  free(m->pieces[index].spans);
  m->pieces[index] = m->pieces[--m->count];
}

/* To the driver: pieces that nothing lies in. */
static void give_back(cuda_gpu *g) {
  cuda_memory *m = g->memory;
  for (int i = m->count - 1; i >= 0; i--) {
    const piece *p = &m->pieces[i];
    if (p->count != 1 || p->spans[0].used) continue;
    if (cuda_enter(g) == 0) {
      dp_status left = cuda_leave(g, g->driver.release(p->at), "memory to be freed");
      dp_status_free(&left); /* what the driver does not take back goes with the context */
    }
    drop_piece(m, i);
  }
}

/* *taken false, and no failure, where the driver has not so much. */
static dp_status take_piece(cuda_gpu *g, int64_t bytes, bool *taken) {
  cuda_memory *m = g->memory;
  piece fresh = {.bytes = rounded(bytes, PAGE)};
  *taken = false;
  if (!grow(&m->pieces, m->count, &m->cap, sizeof *m->pieces)) return no_memory();
  if (!grow(&fresh.spans, 0, &fresh.cap, sizeof *fresh.spans)) return no_memory();
  fresh.spans[fresh.count++] = (span){.bytes = fresh.bytes};
  int error = cuda_enter(g);
  if (!error) error = g->driver.allocate(&fresh.at, (size_t)fresh.bytes);
  bool full = error == CUDA_OUT_OF_MEMORY;
  dp_status status = cuda_leave(g, full ? 0 : error, "memory");
  if (error || status.code != DP_OK)
    free(fresh.spans);
  else
    m->pieces[m->count++] = fresh;
  *taken = !full && status.code == DP_OK;
  return status;
}

static dp_status cut(piece *p, int index, int64_t bytes, cuda_address *address) {
  if (!grow(&p->spans, p->count, &p->cap, sizeof *p->spans)) return no_memory();
  span *s = &p->spans[index];
  if (s->bytes > bytes) {
    memmove(s + 2, s + 1, sizeof *s * (size_t)(p->count - index - 1));
    s[1] = (span){.at = s->at + bytes, .bytes = s->bytes - bytes};
    p->count++;
    s->bytes = bytes;
  }
  s->used = true;
  *address = p->at + (uint64_t)s->at;
  return DP_SUCCESS;
}

/* *address stays 0 where no piece has a span that is large enough. */
static dp_status find_span(cuda_memory *m, int64_t bytes, cuda_address *address) {
  for (int i = 0; i < m->count; i++)
    for (int j = 0; j < m->pieces[i].count; j++)
      if (!m->pieces[i].spans[j].used && m->pieces[i].spans[j].bytes >= bytes)
        return cut(&m->pieces[i], j, bytes, address);
  return DP_SUCCESS;
}

/* A large piece, so that others find room there too; else one just large enough; else so after empty ones are given
 * back. */
static dp_status take_some_piece(cuda_gpu *g, int64_t bytes, bool *taken) {
  *taken = false;
  if (bytes < PIECE) DP_TRY(take_piece(g, PIECE, taken));
  if (!*taken) DP_TRY(take_piece(g, bytes, taken));
  if (*taken) return DP_SUCCESS;
  give_back(g);
  return take_piece(g, bytes, taken);
}

static dp_status no_room(cuda_gpu *g, int64_t bytes, const char *what) {
  int64_t left;
  DP_TRY(cuda_find_free(g, &left));
  return dp_fail(DP_NO_MEMORY,
                 "%s has no room for %s: %lld MB are wanted and %lld MB are free; ask for a smaller context, "
                 "or for quantized weights",
                 g->device.name, what, (long long)((bytes + 999999) / 1000000), (long long)(left / 1000000));
}

dp_status cuda_allocate(cuda_gpu *g, int64_t bytes, const char *what, cuda_address *address) {
  bool taken = true;
  *address = 0;
  if (!memory_of(g)) return no_memory();
  bytes = rounded(bytes, CUDA_ALIGNMENT);
  DP_TRY(find_span(g->memory, bytes, address));
  if (*address) return DP_SUCCESS;
  DP_TRY(take_some_piece(g, bytes, &taken));
  return taken ? find_span(g->memory, bytes, address) : no_room(g, bytes, what);
}

static void merge_with_next(piece *p, int index) {
  span *s = &p->spans[index];
  if (index < 0 || index + 1 >= p->count || s->used || s[1].used) return;
  s->bytes += s[1].bytes;
  memmove(s + 1, s + 2, sizeof *s * (size_t)(p->count - index - 2));
  p->count--;
}

void cuda_release(cuda_gpu *g, cuda_address address) {
  cuda_memory *m = g->memory;
  for (int i = 0; address && m && i < m->count; i++) {
    piece *p = &m->pieces[i];
    for (int j = 0; address >= p->at && j < p->count; j++) {
      if (p->at + (uint64_t)p->spans[j].at != address || !p->spans[j].used) continue;
      p->spans[j].used = false;
      merge_with_next(p, j);
      merge_with_next(p, j - 1);
      return;
    }
  }
}

dp_status cuda_reserve(cuda_gpu *g, int64_t bytes) {
  bool taken;
  if (!memory_of(g)) return no_memory();
  for (int i = 0; i < g->memory->count; i++)
    for (int j = 0; j < g->memory->pieces[i].count; j++)
      if (!g->memory->pieces[i].spans[j].used && g->memory->pieces[i].spans[j].bytes >= bytes) return DP_SUCCESS;
  give_back(g);
  DP_TRY(take_piece(g, bytes, &taken));
  return taken ? DP_SUCCESS : dp_fail(DP_NO_MEMORY, "the GPU's memory does not suffice");
}

int64_t cuda_bytes_taken(const cuda_gpu *g) {
  int64_t sum = 0;
  for (int i = 0; g->memory && i < g->memory->count; i++) sum += g->memory->pieces[i].bytes;
  return sum;
}

int64_t cuda_bytes_used(const cuda_gpu *g) {
  int64_t sum = 0;
  for (int i = 0; g->memory && i < g->memory->count; i++)
    for (int j = 0; j < g->memory->pieces[i].count; j++)
      if (g->memory->pieces[i].spans[j].used) sum += g->memory->pieces[i].spans[j].bytes;
  return sum;
}

/* ---- pinned memory */

dp_status cuda_pin(cuda_gpu *g, int64_t bytes, void **memory) {
  cuda_memory *m = memory_of(g);
  *memory = NULL;
  if (!m || !grow(&m->pinned, m->pinned_count, &m->pinned_cap, sizeof *m->pinned)) return no_memory();
  int error = cuda_enter(g);
  if (!error) error = g->driver.pin(memory, (size_t)rounded(bytes, 4096), MAPPED);
  if (error) *memory = NULL;
  if (*memory) m->pinned[m->pinned_count++] = *memory;
  return cuda_leave(g, error, "pinned memory of the host");
}

void cuda_unpin(cuda_gpu *g, void *memory) {
  cuda_memory *m = g->memory;
  for (int i = 0; memory && m && i < m->pinned_count; i++) {
    if (m->pinned[i] != memory) continue;
    m->pinned[i] = m->pinned[--m->pinned_count];
    if (cuda_enter(g) != 0) return; /* it goes with the context */
    dp_status left = cuda_leave(g, g->driver.unpin(memory), "pinned memory");
    dp_status_free(&left);
    return;
  }
}

dp_status cuda_map_pinned(cuda_gpu *g, void *memory, cuda_address *address) {
  int error = cuda_enter(g);
  if (!error) error = g->driver.pinned_address(address, memory, 0);
  return cuda_leave(g, error, "pinned memory's address");
}

/* ---- copies */

static dp_status need_windows(cuda_gpu *g) {
  if (!memory_of(g)) return no_memory();
  for (int i = 0; i < WINDOWS; i++) {
    void *window = g->memory->windows[i];
    if (!window) DP_TRY(cuda_pin(g, WINDOW, &window));
    g->memory->windows[i] = window;
  }
  return DP_SUCCESS;
}

static dp_status upload(cuda_gpu *g, cuda_address to, char *const *windows, int64_t room, cuda_next *next, void *user) {
  for (int64_t i = 0, offset, bytes;; i++) {
    int mark = (int)(i % WINDOWS);
    if (i >= WINDOWS) DP_TRY(cuda_wait_mark(g, mark)); /* it was on its way */
    DP_TRY(next(user, windows[mark], room, &offset, &bytes));
    if (bytes <= 0) return DP_SUCCESS;
    DP_TRY(cuda_begin_put(g, to + (uint64_t)offset, windows[mark], bytes));
    DP_TRY(cuda_mark(g, mark));
  }
}

/* Windows are not touched again before what is under way has ended, whatever failed. */
static dp_status end_copies(cuda_gpu *g, dp_status status) {
  dp_status waited = cuda_wait(g, "a copy");
  if (status.code == DP_OK) return waited;
  dp_status_free(&waited);
  return status;
}

dp_status cuda_upload(cuda_gpu *g, cuda_address to, int64_t room, cuda_next *next, void *user) {
  void *windows[WINDOWS] = {NULL};
  dp_status status = DP_SUCCESS;
  for (int i = 0; i < WINDOWS && status.code == DP_OK; i++) status = cuda_pin(g, room, &windows[i]);
  if (status.code == DP_OK)
    status = end_copies(g, upload(g, to, (char *const[]){windows[0], windows[1]}, room, next, user));
  for (int i = 0; i < WINDOWS; i++) cuda_unpin(g, windows[i]);
  return status;
}

typedef struct bytes {
  const char *from;
  int64_t at, end;
} bytes;

static dp_status next_bytes(void *user, char *to, int64_t room, int64_t *offset, int64_t *count) {
  bytes *b = user;
  *offset = b->at;
  *count = b->end - b->at < room ? b->end - b->at : room;
  memcpy(to, b->from + b->at, (size_t)*count);
  b->at += *count;
  return DP_SUCCESS;
}

dp_status cuda_put(cuda_gpu *g, cuda_address to, const void *from, int64_t count) {
  bytes b = {.from = from, .end = count};
  if (count <= 0) return DP_SUCCESS;
  DP_TRY(need_windows(g));
  return end_copies(g, upload(g, to, g->memory->windows, WINDOW, next_bytes, &b));
}

/* The window that was begun before is emptied while the next one comes. */
static dp_status download(cuda_gpu *g, char *to, cuda_address from, int64_t count) {
  char *const *windows = g->memory->windows;
  for (int64_t at = 0, i = 0, before = 0; at < count || before > 0; i++) {
    int64_t some = count - at < WINDOW ? count - at : WINDOW;
    int mark = (int)(i % WINDOWS), other = (mark + 1) % WINDOWS;
    if (some > 0) {
      DP_TRY(cuda_begin_get(g, windows[mark], from + (uint64_t)at, some));
      DP_TRY(cuda_mark(g, mark));
    }
    if (before > 0) {
      DP_TRY(cuda_wait_mark(g, other));
      memcpy(to + at - before, windows[other], (size_t)before);
    }
    at += some;
    before = some;
  }
  return DP_SUCCESS;
}

dp_status cuda_get(cuda_gpu *g, void *to, cuda_address from, int64_t count) {
  if (count <= 0) return DP_SUCCESS;
  DP_TRY(need_windows(g));
  return end_copies(g, download(g, to, from, count));
}

dp_status cuda_move(cuda_gpu *g, cuda_address to, cuda_address from, int64_t count) {
  DP_TRY(cuda_begin_move(g, to, from, count));
  return cuda_wait(g, "a copy within it");
}

dp_status cuda_clear(cuda_gpu *g, cuda_address at, int64_t count) {
  DP_TRY(cuda_begin_clear(g, at, count));
  return cuda_wait(g, "memory to be cleared");
}

/* ---- the end */

void cuda_free_memory(cuda_gpu *g) {
  cuda_memory *m = g->memory;
  for (int i = 0; m && i < m->count; i++) g->driver.release(m->pieces[i].at);
  for (int i = 0; m && i < m->pinned_count; i++) g->driver.unpin(m->pinned[i]);
  if (m) m->pinned_count = 0;
  cuda_forget_memory(g);
}

void cuda_forget_memory(cuda_gpu *g) {
  cuda_memory *m = g->memory;
  if (!m) return;
  while (m->count > 0) drop_piece(m, 0);
  free(m->pieces);
  free(m->pinned);
  free(m);
  g->memory = NULL;
}
