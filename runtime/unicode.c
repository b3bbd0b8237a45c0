/* runtime/unicode.c: bytes into characters, and characters into normalization form C.
 *
 * NFC by the book (UAX #15): decompose fully, sort each run of combining marks by class (stable), compose leftwards.
 * The tables are those of Hugging Face's normalizer, so that a text becomes the same tokens. */
#include "runtime/unicode.h"

#include <stdlib.h>
#include <string.h>

/* ---- UTF-8 ------------------------------------------------------------------------------------------------------ */

int dp_utf8_step(const char *text, size_t n, uint32_t *codepoint) {
  const uint8_t *s = (const uint8_t *)text;
  if (n == 0) return 0;
  uint8_t lead = s[0];
  if (lead < 0x80) {
    *codepoint = lead;
    return 1;
  }
  /* Only the second byte has a range of its own: it excludes overlong forms, surrogates and what is past U+10FFFF. */
  int length;
  uint8_t low = 0x80, high = 0xBF;
  uint32_t c;
  if (lead >= 0xC2 && lead <= 0xDF) {
    length = 2;
    c = lead & 0x1Fu;
  } else if (lead >= 0xE0 && lead <= 0xEF) {
    length = 3;
    c = lead & 0x0Fu;
    if (lead == 0xE0) low = 0xA0;
    if (lead == 0xED) high = 0x9F;
  } else if (lead >= 0xF0 && lead <= 0xF4) {
    length = 4;
    c = lead & 0x07u;
    if (lead == 0xF0) low = 0x90;
    if (lead == 0xF4) high = 0x8F;
  } else {
    return -1;
  }
  for (int i = 1; i < length; i++) {
    if ((size_t)i == n) return 0;
    if (s[i] < low || s[i] > high) return -i;
    c = c << 6 | (s[i] & 0x3Fu);
    low = 0x80;
    high = 0xBF;
  }
  *codepoint = c;
  return length;
}

int dp_utf8_put(uint32_t c, char *out) {
  if (c < 0x80) {
    out[0] = (char)c;
    return 1;
  }
  if (c < 0x800) {
    out[0] = (char)(0xC0 | c >> 6);
    out[1] = (char)(0x80 | (c & 0x3F));
    return 2;
  }
  if (c < 0x10000) {
    out[0] = (char)(0xE0 | c >> 12);
    out[1] = (char)(0x80 | (c >> 6 & 0x3F));
    out[2] = (char)(0x80 | (c & 0x3F));
    return 3;
  }
  out[0] = (char)(0xF0 | c >> 18);
  out[1] = (char)(0x80 | (c >> 12 & 0x3F));
  out[2] = (char)(0x80 | (c >> 6 & 0x3F));
  out[3] = (char)(0x80 | (c & 0x3F));
  return 4;
}

size_t dp_utf8_valid_prefix(const char *s, size_t n) {
  size_t at = 0;
  while (at < n) {
    uint64_t eight;
    if (n - at >= 8 && (memcpy(&eight, s + at, 8), (eight & UINT64_C(0x8080808080808080)) == 0)) {
      at += 8;
      continue;
    }
    uint32_t c;
    int step = dp_utf8_step(s + at, n - at, &c);
    if (step <= 0) return at;
    at += (size_t)step;
  }
  return n;
}

void dp_utf8_repair(const char *s, size_t n, dp_str *out) {
  size_t at = 0;
  while (at < n) {
    size_t good = dp_utf8_valid_prefix(s + at, n - at);
    dp_str_addn(out, s + at, good);
    at += good;
    if (at == n) break;
    uint32_t c;
    int step = dp_utf8_step(s + at, n - at, &c);
    dp_str_addn(out, "\xEF\xBF\xBD", 3);
    at = step == 0 ? n : at + (size_t)-step;
  }
}

/* ---- normalization form C --------------------------------------------------------------------------------------- */

enum {
  HANGUL_S = 0xAC00,
  HANGUL_L = 0x1100,
  HANGUL_V = 0x1161,
  HANGUL_T = 0x11A7, /* one before the first trailing consonant */
  HANGUL_L_COUNT = 19,
  HANGUL_V_COUNT = 21,
  HANGUL_T_COUNT = 28,
  HANGUL_S_COUNT = HANGUL_L_COUNT * HANGUL_V_COUNT * HANGUL_T_COUNT,
};

bool dp_nfc_is_plain(const char *s, size_t n) {
  for (size_t at = 0; at < n;) {
    uint8_t lead = (uint8_t)s[at];
    if (lead < 0xCC) { /* below U+0300 nothing changes */
      at += lead < 0x80 ? 1 : 2;
      continue;
    }
    uint32_t c = 0;
    int step = dp_utf8_step(s + at, n - at, &c);
    if (step <= 0) return false;
    at += (size_t)step;
    int low = 0, high = dp_nfc_suspects_count;
    while (low < high) {
      int middle = (low + high) / 2;
      if (dp_nfc_suspects[middle].last < c)
        low = middle + 1;
      else
        high = middle;
    }
    if (low < dp_nfc_suspects_count && dp_nfc_suspects[low].first <= c) return false;
  }
  return true;
}

static uint8_t combining_class(uint32_t c) {
  if (c < 0x300) return 0;
  int low = 0, high = dp_combining_classes_count;
  while (low < high) {
    int middle = (low + high) / 2;
    if (dp_combining_classes[middle].last < c)
      low = middle + 1;
    else
      high = middle;
  }
  if (low == dp_combining_classes_count || dp_combining_classes[low].first > c) return 0;
  return dp_combining_classes[low].combining_class;
}

typedef struct mark {
  uint32_t c;
  uint8_t combining_class;
} mark;

/* Decompositions nest at most four deep, and only in the first of the two parts. Returns how many were written. */
static int decompose(uint32_t c, uint32_t out[8]) {
  if (c - HANGUL_S < HANGUL_S_COUNT) {
    uint32_t s = c - HANGUL_S;
    out[0] = HANGUL_L + s / (HANGUL_V_COUNT * HANGUL_T_COUNT);
    out[1] = HANGUL_V + s / HANGUL_T_COUNT % HANGUL_V_COUNT;
    if (s % HANGUL_T_COUNT == 0) return 2;
    out[2] = HANGUL_T + s % HANGUL_T_COUNT;
    return 3;
  }
  uint32_t tail[8];
  int tail_count = 0;
  while (c >= 0xC0 && tail_count < 7) {
    int low = 0, high = dp_decompositions_count;
    while (low < high) {
      int middle = (low + high) / 2;
      if (dp_decompositions[middle].from < c)
        low = middle + 1;
      else
        high = middle;
    }
    if (low == dp_decompositions_count || dp_decompositions[low].from != c) break;
    c = dp_decompositions[low].first;
    if (dp_decompositions[low].second) tail[tail_count++] = dp_decompositions[low].second;
  }
  out[0] = c;
  for (int i = 0; i < tail_count; i++) out[1 + i] = tail[tail_count - 1 - i];
  return 1 + tail_count;
}

/* 0 when the two do not compose. */
static uint32_t compose(uint32_t first, uint32_t second) {
  if (first - HANGUL_L < HANGUL_L_COUNT && second - HANGUL_V < HANGUL_V_COUNT)
    return HANGUL_S + ((first - HANGUL_L) * HANGUL_V_COUNT + (second - HANGUL_V)) * HANGUL_T_COUNT;
  if (first - HANGUL_S < HANGUL_S_COUNT && (first - HANGUL_S) % HANGUL_T_COUNT == 0 && second > HANGUL_T &&
      second < HANGUL_T + HANGUL_T_COUNT)
    return first + (second - HANGUL_T);
  int low = 0, high = dp_compositions_count;
  while (low < high) {
    int middle = (low + high) / 2;
    const dp_composition *row = &dp_compositions[middle];
    if (row->first < first || (row->first == first && row->second < second))
      low = middle + 1;
    else
      high = middle;
  }
  const dp_composition *row = &dp_compositions[low];
  return low < dp_compositions_count && row->first == first && row->second == second ? row->to : 0;
}

/* Stable, and linear for the endless run of marks that someone will send. */
static void sort_by_class(mark *marks, size_t n, mark *spare) {
  if (n <= 32) {
    for (size_t i = 1; i < n; i++) {
      mark m = marks[i];
      size_t j = i;
      for (; j > 0 && marks[j - 1].combining_class > m.combining_class; j--) marks[j] = marks[j - 1];
      marks[j] = m;
    }
    return;
  }
  size_t start[257] = {0};
  for (size_t i = 0; i < n; i++) start[marks[i].combining_class + 1]++;
  for (int i = 0; i < 256; i++) start[i + 1] += start[i];
  for (size_t i = 0; i < n; i++) spare[start[marks[i].combining_class]++] = marks[i];
  memcpy(marks, spare, n * sizeof *marks);
}

dp_status dp_nfc(const char *s, size_t n, dp_str *out) {
  /* The worst growth in characters is threefold per two bytes; one byte never makes more than two characters. */
  if (n > SIZE_MAX / (4 * sizeof(mark)))
    return dp_fail(DP_NO_MEMORY, "a text of %zu bytes is too long to normalize", n);
  mark *marks = malloc(4 * n * sizeof *marks + 1), *spare = marks ? marks + 2 * n : NULL;
  if (!marks) return dp_fail(DP_NO_MEMORY, "no memory to normalize a text of %zu bytes", n);
  size_t count = 0;
  for (size_t at = 0; at < n;) {
    uint32_t c = 0, parts[8];
    int step = dp_utf8_step(s + at, n - at, &c);
    if (step <= 0) break; /* the caller repaired the text */
    at += (size_t)step;
    int part_count = decompose(c, parts);
    for (int i = 0; i < part_count; i++) marks[count++] = (mark){parts[i], combining_class(parts[i])};
  }
  for (size_t i = 0; i < count;) {
    size_t end = i;
    while (end < count && marks[end].combining_class) end++;
    sort_by_class(marks + i, end - i, spare);
    i = end + 1;
  }
  /* Compose in place: `starter` is where the last character of class 0 went, `last` the class of the one before. */
  size_t kept = 0, starter = SIZE_MAX;
  int last = -1;
  for (size_t i = 0; i < count; i++) {
    mark m = marks[i];
    if (starter != SIZE_MAX && last < (int)m.combining_class) {
      uint32_t to = compose(marks[starter].c, m.c);
      if (to) {
        marks[starter].c = to;
        continue;
      }
    }
    if (m.combining_class == 0) {
      starter = kept;
      last = -1;
    } else {
      last = m.combining_class;
    }
    marks[kept++] = m;
  }
  for (size_t i = 0; i < kept; i++) {
    char bytes[4];
    dp_str_addn(out, bytes, (size_t)dp_utf8_put(marks[i].c, bytes));
  }
  free(marks);
  return out->failed ? dp_fail(DP_NO_MEMORY, "no memory to normalize a text of %zu bytes", n) : DP_SUCCESS;
}
