/* runtime/data_order.c: the order of an epoch, as a function: no memory, and any place of it at once.
 *
 * A Feistel network permutes the numbers of 2h bits; one that falls at or above n is sent through again, which is a
 * permutation of those below n (cycle walking). 2^2h is less than 4 n, so four rounds of that are to be expected at
 * most. */
#include "runtime/data.h"

enum { ROUNDS = 6 };

/* The finalizer of splitmix64 (Steele, Lea and Flood, 2014). */
static uint64_t mix(uint64_t x) {
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
  x = (x ^ x >> 27) * 0x94d049bb133111ebu;
  return x ^ x >> 31;
}

int64_t rt_shuffled(int64_t n, uint64_t seed, int64_t epoch, int64_t index) {
  int half = 1;
  while (half < 31 && INT64_C(1) << 2 * half < n) half++;
  uint64_t mask = (UINT64_C(1) << half) - 1, x = (uint64_t)index;
  uint64_t key = mix(seed + 0x9e3779b97f4a7c15u) + mix((uint64_t)epoch + 0x632be59bd9b4e019u);
  do {
    uint64_t left = x >> half, right = x & mask;
    for (uint64_t round = 0; round < ROUNDS; round++) {
      uint64_t next = left ^ (mix(right ^ mix(key + round * 0x9e3779b97f4a7c15u)) & mask);
      left = right;
      right = next;
    }
    x = left << half | right;
  } while (x >= (uint64_t)n);
  return (int64_t)x;
}
