/* base/arena.c: memory handed out from a chain of blocks and freed all at once. Blocks double in size, so an arena of
 * n bytes makes O(log n) calls of malloc. */
#include "base/base.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct arena_block {
  struct arena_block *previous;
  size_t used, size;
  _Alignas(16) unsigned char data[];
} arena_block;

struct dp_arena {
  arena_block *block;
};

dp_arena *dp_arena_new(void) { return calloc(1, sizeof(dp_arena)); }

void dp_arena_free(dp_arena *arena) {
  if (!arena) return;
  for (arena_block *block = arena->block; block;) {
    arena_block *previous = block->previous;
    free(block);
    block = previous;
  }
  free(arena);
}

void *dp_arena_alloc(dp_arena *arena, size_t size) {
  size = (size + 15) & ~(size_t)15;
  arena_block *block = arena->block;
  if (!block || block->size - block->used < size) {
    size_t capacity = block ? block->size * 2 : 16384;
    if (capacity > (1u << 24)) capacity = 1u << 24;
    if (capacity < size) capacity = size;
    arena_block *fresh = malloc(sizeof *fresh + capacity);
    /* An arena holds IR and names, a few MB: when even that is not to be had the kernel is about to end the process.
     * Large memory (weights, KV cache) never comes from an arena and reports DP_NO_MEMORY. */
    if (!fresh) abort();
    fresh->previous = block;
    fresh->used = 0;
    fresh->size = capacity;
    arena->block = block = fresh;
  }
  void *memory = block->data + block->used;
  block->used += size;
  memset(memory, 0, size);
  return memory;
}

char *dp_arena_strndup(dp_arena *arena, const char *s, size_t n) {
  char *copy = dp_arena_alloc(arena, n + 1);
  memcpy(copy, s, n);
  return copy;
}

char *dp_arena_strdup(dp_arena *arena, const char *s) { return dp_arena_strndup(arena, s, strlen(s)); }

char *dp_arena_printf(dp_arena *arena, const char *fmt, ...) {
  va_list args, again;
  va_start(args, fmt);
  va_copy(again, args);
  int n = vsnprintf(NULL, 0, fmt, args);
  va_end(args);
  char *text = dp_arena_alloc(arena, (size_t)n + 1);
  vsnprintf(text, (size_t)n + 1, fmt, again);
  va_end(again);
  return text;
}

void *dp_arena_grow(dp_arena *arena, void *items, size_t item_size, int *cap, int count) {
  int larger = *cap ? *cap * 2 : 8;
  void *copy = dp_arena_alloc(arena, item_size * (size_t)larger);
  if (count) memcpy(copy, items, item_size * (size_t)count);
  *cap = larger;
  return copy;
}
