/* runtime/bpe.c: the bytes of one word into token ids, by merging the pair of lowest rank until none is left.
 *
 * Most words are one token: a hash lookup finds them, and `whole` remembers that merging would give the same. The rest
 * are mostly short, where a scan over the ranks of all pairs is fastest; long words take a heap, O(n log n). */
#include "runtime/bpe.h"

#include "runtime/unicode.h"

#include <stdlib.h>
#include <string.h>

enum { SCAN_LIMIT = 48 }; /* symbols; above it the heap wins */
enum { WHOLE_UNKNOWN = 0, WHOLE_YES = 1, WHOLE_NO = 2 };

/* ---- tables ----------------------------------------------------------------------------------------------------- */

static uint64_t mix(uint64_t a, uint64_t b) {
  __uint128_t product = (__uint128_t)a * b;
  return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static uint64_t read_up_to_8(const char *s, size_t n) {
  uint32_t low, high;
  if (n >= 4) {
    memcpy(&low, s, 4);
    memcpy(&high, s + n - 4, 4);
    return (uint64_t)high << 32 | low;
  }
  return n == 0 ? 0 : (uint64_t)(uint8_t)s[0] << 16 | (uint64_t)(uint8_t)s[n / 2] << 8 | (uint8_t)s[n - 1];
}

static uint64_t hash_word(const char *s, size_t n) {
  const uint64_t k0 = UINT64_C(0xA0761D6478BD642F), k1 = UINT64_C(0xE7037ED1A0B428DB);
  uint64_t h = n * k1, a, b;
  for (; n > 16; s += 16, n -= 16) {
    memcpy(&a, s, 8);
    memcpy(&b, s + 8, 8);
    h = mix(a ^ k0, b ^ h);
  }
  if (n > 8) {
    memcpy(&a, s, 8);
    memcpy(&b, s + n - 8, 8);
  } else {
    a = read_up_to_8(s, n);
    b = 0;
  }
  return mix(a ^ k0 ^ h, b ^ k1);
}

static size_t hash_pair(int32_t left, int32_t right) {
  return (size_t)mix((uint64_t)(uint32_t)left << 32 | (uint32_t)right, UINT64_C(0x9E3779B97F4A7C15));
}

static size_t slots_for(size_t count) {
  size_t slots = 16;
  while (slots < 2 * count) slots *= 2;
  return slots;
}

dp_status dp_bpe_init(dp_bpe *bpe, const char *bytes, const uint32_t *offsets, int token_count, size_t merge_count) {
  size_t word_slots = slots_for((size_t)token_count), pair_slots = slots_for(merge_count);
  *bpe = (dp_bpe){.bytes = bytes, .offsets = offsets, .token_count = token_count, .unknown = -1};
  bpe->words = malloc(word_slots * sizeof *bpe->words);
  bpe->pairs = malloc(pair_slots * sizeof *bpe->pairs);
  bpe->whole = calloc((size_t)token_count + 1, 1);
  if (!bpe->words || !bpe->pairs || !bpe->whole) {
    dp_bpe_free(bpe);
    return dp_fail(DP_NO_MEMORY, "no memory for a vocabulary of %d tokens and %zu merges", token_count, merge_count);
  }
  bpe->word_mask = word_slots - 1;
  bpe->pair_mask = pair_slots - 1;
  for (size_t i = 0; i < word_slots; i++) bpe->words[i] = (dp_word_slot){0, -1};
  for (size_t i = 0; i < pair_slots; i++) bpe->pairs[i] = (dp_pair_slot){-1, -1, 0, 0};
  for (int i = 0; i < 256; i++) bpe->byte_ids[i] = bpe->byte_tokens[i] = -1;
  return DP_SUCCESS;
}

void dp_bpe_free(dp_bpe *bpe) {
  free(bpe->words);
  free(bpe->pairs);
  free((void *)bpe->whole);
  *bpe = (dp_bpe){.unknown = -1};
}

/* The slot that holds the word, or the empty one where it belongs. */
static dp_word_slot *word_slot(const dp_bpe *bpe, const char *word, size_t n) {
  uint64_t hash = hash_word(word, n);
  for (size_t at = hash & bpe->word_mask;; at = (at + 1) & bpe->word_mask) {
    dp_word_slot *slot = &bpe->words[at];
    if (slot->id < 0) return slot;
    if (slot->hash != (uint32_t)(hash >> 32)) continue;
    if (dp_bpe_length(bpe, slot->id) == n && memcmp(bpe->bytes + bpe->offsets[slot->id], word, n) == 0) return slot;
  }
}

int32_t dp_bpe_find(const dp_bpe *bpe, const char *word, size_t n) { return word_slot(bpe, word, n)->id; }

bool dp_bpe_add_word(dp_bpe *bpe, int32_t id, int32_t *other) {
  const char *word = bpe->bytes + bpe->offsets[id];
  size_t n = dp_bpe_length(bpe, id);
  dp_word_slot *slot = word_slot(bpe, word, n);
  if (slot->id >= 0) {
    *other = slot->id;
    return false;
  }
  *slot = (dp_word_slot){(uint32_t)(hash_word(word, n) >> 32), id};
  if (n == 1) bpe->byte_ids[(uint8_t)word[0]] = id;
  return true;
}

void dp_bpe_add_merge(dp_bpe *bpe, int32_t left, int32_t right, int32_t rank, int32_t merged) {
  size_t at = hash_pair(left, right) & bpe->pair_mask;
  while (bpe->pairs[at].left >= 0 && (bpe->pairs[at].left != left || bpe->pairs[at].right != right))
    at = (at + 1) & bpe->pair_mask;
  bpe->pairs[at] = (dp_pair_slot){left, right, rank, merged};
}

/* NULL: the two do not merge. */
static const dp_pair_slot *find_pair(const dp_bpe *bpe, int32_t left, int32_t right) {
  for (size_t at = hash_pair(left, right) & bpe->pair_mask;; at = (at + 1) & bpe->pair_mask) {
    const dp_pair_slot *slot = &bpe->pairs[at];
    if (slot->left == left && slot->right == right) return slot;
    if (slot->left < 0) return NULL;
  }
}

/* ---- growing room ----------------------------------------------------------------------------------------------- */

dp_status dp_ids_reserve(dp_ids *ids, size_t extra) {
  if (extra <= ids->capacity - ids->count) return DP_SUCCESS;
  size_t need = ids->count + extra, capacity = ids->capacity ? ids->capacity : 64;
  while (capacity < need) capacity += capacity / 2;
  int32_t *items = realloc(ids->items, capacity * sizeof *items);
  if (!items) return dp_fail(DP_NO_MEMORY, "no memory for %zu token ids", need);
  ids->items = items;
  ids->capacity = capacity;
  return DP_SUCCESS;
}

void dp_ids_free(dp_ids *ids) {
  free(ids->items);
  *ids = (dp_ids){0};
}

void dp_bpe_work_free(dp_bpe_work *work) {
  free(work->memory);
  *work = (dp_bpe_work){0};
}

dp_status dp_bpe_work_reserve(dp_bpe_work *work, size_t size) {
  if (size <= work->size) return DP_SUCCESS;
  free(work->memory);
  work->memory = malloc(size);
  work->size = work->memory ? size : 0;
  return work->memory ? DP_SUCCESS : dp_fail(DP_NO_MEMORY, "no memory to encode a word: %zu bytes", size);
}

/* ---- merging ---------------------------------------------------------------------------------------------------- */

/* The tokens of the characters; for one that has none those of its bytes, or the unknown one. */
static size_t first_characters(const dp_bpe *bpe, const char *word, size_t n, int32_t *symbols) {
  size_t count = 0;
  bool after_unknown = false;
  for (size_t at = 0, bytes; at < n; at += bytes) {
    uint32_t c;
    int step = dp_utf8_step(word + at, n - at, &c);
    bytes = step > 0 ? (size_t)step : 1;
    int32_t id = dp_bpe_find(bpe, word + at, bytes);
    bool by_bytes = id < 0;
    for (size_t i = 0; by_bytes && i < bytes; i++) by_bytes = bpe->byte_tokens[(uint8_t)word[at + i]] >= 0;
    for (size_t i = 0; by_bytes && i < bytes; i++) symbols[count++] = bpe->byte_tokens[(uint8_t)word[at + i]];
    bool is_unknown = id < 0 && !by_bytes;
    if (is_unknown) id = bpe->unknown;
    if (id >= 0 && !(is_unknown && after_unknown && bpe->fuse_unknown)) symbols[count++] = id;
    after_unknown = is_unknown;
  }
  return count;
}

/* The tokens of the single bytes. A byte without a token vanishes, and its neighbours meet: so does the reference. */
static size_t first_symbols(const dp_bpe *bpe, const char *word, size_t n, int32_t *symbols) {
  size_t count = 0;
  bool after_unknown = false;
  if (bpe->by_character) return first_characters(bpe, word, n, symbols);
  for (size_t i = 0; i < n; i++) {
    int32_t id = bpe->byte_ids[(uint8_t)word[i]];
    bool is_unknown = id < 0;
    if (is_unknown) id = bpe->unknown;
    if (id >= 0 && !(is_unknown && after_unknown && bpe->fuse_unknown)) symbols[count++] = id;
    after_unknown = is_unknown;
  }
  return count;
}

/* n <= SCAN_LIMIT. pairs[i] is how symbols i and i + 1 merge. Leaves the result in symbols, returns its length. */
static size_t merge_by_scan(const dp_bpe *bpe, int32_t *symbols, size_t n) {
  const dp_pair_slot *pairs[SCAN_LIMIT];
  for (size_t i = 0; i + 1 < n; i++) pairs[i] = find_pair(bpe, symbols[i], symbols[i + 1]);
  for (;;) {
    size_t best = SIZE_MAX;
    int32_t best_rank = INT32_MAX;
    for (size_t i = 0; i + 1 < n; i++)
      if (pairs[i] && pairs[i]->rank < best_rank) best_rank = pairs[best = i]->rank;
    if (best == SIZE_MAX) return n;
    symbols[best] = pairs[best]->merged;
    n--;
    memmove(symbols + best + 1, symbols + best + 2, (n - best - 1) * sizeof *symbols);
    if (best + 1 < n) memmove(pairs + best + 1, pairs + best + 2, (n - best - 2) * sizeof *pairs);
    if (best > 0) pairs[best - 1] = find_pair(bpe, symbols[best - 1], symbols[best]);
    if (best + 1 < n) pairs[best] = find_pair(bpe, symbols[best], symbols[best + 1]);
  }
}

typedef struct symbol {
  int32_t id; /* -1: merged into the one before */
  uint32_t prev, next;
} symbol;

#define NOWHERE UINT32_MAX

typedef struct candidate {
  uint64_t order; /* rank, then position: lower first */
  int32_t left, right, merged;
} candidate;

static void heap_push(candidate *heap, size_t *count, candidate c) {
  size_t at = (*count)++;
  while (at > 0 && heap[(at - 1) / 2].order > c.order) {
    heap[at] = heap[(at - 1) / 2];
    at = (at - 1) / 2;
  }
  heap[at] = c;
}

static candidate heap_pop(candidate *heap, size_t *count) {
  candidate top = heap[0], last = heap[--*count];
  size_t at = 0;
  for (;;) {
    size_t child = 2 * at + 1;
    if (child >= *count) break;
    if (child + 1 < *count && heap[child + 1].order < heap[child].order) child++;
    if (heap[child].order >= last.order) break;
    heap[at] = heap[child];
    at = child;
  }
  heap[at] = last;
  return top;
}

static void consider(const dp_bpe *bpe, const symbol *symbols, uint32_t at, candidate *heap, size_t *count) {
  int32_t left = symbols[at].id, right = symbols[symbols[at].next].id;
  const dp_pair_slot *pair = find_pair(bpe, left, right);
  if (pair) heap_push(heap, count, (candidate){(uint64_t)(uint32_t)pair->rank << 32 | at, left, right, pair->merged});
}

/* A candidate whose symbols have changed since is stale: it is passed over when it comes up. At most n - 1 candidates
 * at first and two for each merge: 3n in all. */
static dp_status merge_by_heap(const dp_bpe *bpe, const char *word, size_t n, dp_bpe_work *work, dp_ids *out) {
  if (n >= NOWHERE) return dp_fail(DP_INVALID, "a word of %zu bytes is too long to encode", n);
  DP_TRY(dp_bpe_work_reserve(work, n * (3 * sizeof(candidate) + sizeof(symbol) + sizeof(int32_t))));
  candidate *heap = work->memory;
  symbol *symbols = (symbol *)(heap + 3 * n);
  int32_t *ids = (int32_t *)(symbols + n);
  n = first_symbols(bpe, word, n, ids);
  size_t count = 0, left_over = n;
  for (size_t i = 0; i < n; i++)
    symbols[i] = (symbol){ids[i], i ? (uint32_t)i - 1 : NOWHERE, i + 1 < n ? (uint32_t)i + 1 : NOWHERE};
  for (size_t i = 0; i + 1 < n; i++) consider(bpe, symbols, (uint32_t)i, heap, &count);
  while (count) {
    candidate best = heap_pop(heap, &count);
    symbol *left = &symbols[(uint32_t)best.order];
    if (left->id != best.left || left->next == NOWHERE) continue;
    symbol *right = &symbols[left->next];
    if (right->id != best.right) continue;
    left->id = best.merged;
    right->id = -1;
    left->next = right->next;
    left_over--;
    if (left->next != NOWHERE) {
      symbols[left->next].prev = (uint32_t)best.order;
      consider(bpe, symbols, (uint32_t)best.order, heap, &count);
    }
    if (left->prev != NOWHERE) consider(bpe, symbols, left->prev, heap, &count);
  }
  DP_TRY(dp_ids_reserve(out, left_over));
  for (uint32_t at = n ? 0 : NOWHERE; at != NOWHERE; at = symbols[at].next) out->items[out->count++] = symbols[at].id;
  return DP_SUCCESS;
}

static dp_status merge_word(const dp_bpe *bpe, const char *word, size_t n, dp_bpe_work *work, dp_ids *out) {
  if (n > SCAN_LIMIT) return merge_by_heap(bpe, word, n, work, out);
  DP_TRY(dp_ids_reserve(out, n));
  int32_t *symbols = out->items + out->count;
  out->count += merge_by_scan(bpe, symbols, first_symbols(bpe, word, n, symbols));
  return DP_SUCCESS;
}

dp_status dp_bpe_encode(const dp_bpe *bpe, const char *word, size_t n, dp_bpe_work *work, dp_ids *out) {
  int32_t id = dp_bpe_find(bpe, word, n);
  if (id < 0) return merge_word(bpe, word, n, work, out);
  uint8_t whole = bpe->ignore_merges ? WHOLE_YES : atomic_load_explicit(&bpe->whole[id], memory_order_relaxed);
  if (whole == WHOLE_YES) {
    DP_TRY(dp_ids_reserve(out, 1));
    out->items[out->count++] = id;
    return DP_SUCCESS;
  }
  size_t before = out->count;
  DP_TRY(merge_word(bpe, word, n, work, out));
  if (whole == WHOLE_UNKNOWN) {
    whole = out->count == before + 1 && out->items[before] == id ? WHOLE_YES : WHOLE_NO;
    atomic_store_explicit(&bpe->whole[id], whole, memory_order_relaxed);
  }
  return DP_SUCCESS;
}
