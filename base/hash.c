/* base/hash.c: a 64-bit hash that is the same everywhere (FNV-1a over 8-byte words, then a finalizing mix). */
#include "base/base.h"

#include <string.h>

uint64_t dp_hash(uint64_t seed, const void *data, size_t size) {
  const unsigned char *bytes = data;
  uint64_t h = seed ^ 0xcbf29ce484222325u ^ (uint64_t)size * 0x9e3779b97f4a7c15u;
  for (; size >= 8; bytes += 8, size -= 8) {
    uint64_t word = 0;
    for (int i = 0; i < 8; i++) word |= (uint64_t)bytes[i] << (8 * i);
    h = (h ^ word) * 0x100000001b3u;
    h ^= h >> 29;
  }
  for (; size; bytes++, size--) h = (h ^ *bytes) * 0x100000001b3u;
  h = (h ^ h >> 33) * 0xff51afd7ed558ccdu;
  h = (h ^ h >> 33) * 0xc4ceb9fe1a85ec53u;
  return h ^ h >> 33;
}
