/* base/base.h: the floor everything stands on: status values, arenas, growing strings, source diagnostics, hashing.
 *
 * Three kinds of error, never mixed:
 *   the user's mistake in a text   -> dp_diags: a list of diagnostics with places (several are collected)
 *   the world's failure            -> dp_status by value, carried up unchanged, printed once at the edge
 *   our own bug                    -> DP_CHECK: names file and line, returns DP_BUG through a status; nothing aborts
 * Nothing here prints, exits or keeps global state. */
#ifndef DIPPER_BASE_H
#define DIPPER_BASE_H

#include "dipper/status.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DP_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#define DP_COUNT(array) (sizeof(array) / sizeof *(array))

/* ---- status ------------------------------------------------------------------------------------------------- */

#define DP_SUCCESS ((dp_status){DP_OK, NULL})
dp_status dp_fail(dp_code code, const char *fmt, ...) DP_PRINTF(2, 3);

/* Return early when `expr` fails. */
#define DP_TRY(expr)                                                                                                   \
  do {                                                                                                                 \
    dp_status try_status_ = (expr);                                                                                    \
    if (try_status_.code != DP_OK) return try_status_;                                                                 \
  } while (0)

/* A bug of ours, found at run time: return it as a status that names the place. */
#define DP_CHECK(cond, ...)                                                                                            \
  do {                                                                                                                 \
    if (!(cond)) return dp_bug(__FILE__, __LINE__, #cond, __VA_ARGS__);                                                \
  } while (0)
dp_status dp_bug(const char *file, int line, const char *cond, const char *fmt, ...) DP_PRINTF(4, 5);

/* ---- arena: memory freed all at once; one per compile, per file, per model ------------------------------------- */

typedef struct dp_arena dp_arena;
dp_arena *dp_arena_new(void); /* NULL when memory ran out */
void dp_arena_free(dp_arena *arena);
/* Zeroed memory, aligned to 16 bytes; never NULL: the arena holds a compile's few megabytes, and when even those are
 * not to be had the process ends. Weights and caches never come from an arena. */
void *dp_arena_alloc(dp_arena *arena, size_t size);
char *dp_arena_strdup(dp_arena *arena, const char *s);
char *dp_arena_strndup(dp_arena *arena, const char *s, size_t n);
char *dp_arena_printf(dp_arena *arena, const char *fmt, ...) DP_PRINTF(2, 3);
#define DP_NEW(arena, type) ((type *)dp_arena_alloc((arena), sizeof(type)))
#define DP_NEW_ARRAY(arena, type, n) ((type *)dp_arena_alloc((arena), sizeof(type) * (size_t)(n)))

/* A growable array in an arena: declare `T *items; int count, cap;`, then DP_PUSH(arena, items, count, cap) = value; */
#define DP_PUSH(arena, items, count, cap)                                                                              \
  (*((count) == (cap) ? (void)((items) = dp_arena_grow((arena), (items), sizeof *(items), &(cap), (count))) : (void)0, \
     &(items)[(count)++]))
void *dp_arena_grow(dp_arena *arena, void *items, size_t item_size, int *cap, int count);

/* ---- growing string ------------------------------------------------------------------------------------------- */

/* Zero-initialize, append, free (or take `text`, which is malloc'ed and NUL-terminated; NULL while empty). */
typedef struct dp_str {
  char *text;
  size_t length, capacity;
  bool failed; /* memory ran out: what was appended since is lost */
} dp_str;
void dp_str_add(dp_str *s, const char *text);
void dp_str_addn(dp_str *s, const char *text, size_t n);
void dp_str_addc(dp_str *s, char c);
void dp_str_addf(dp_str *s, const char *fmt, ...) DP_PRINTF(2, 3);
void dp_str_addv(dp_str *s, const char *fmt, va_list args);
void dp_str_clear(dp_str *s); /* keeps the memory */
void dp_str_free(dp_str *s);

/* ---- source texts and diagnostics -------------------------------------------------------------------------------- */

/* A range of bytes [begin, end) of source `file` (an index into dp_diags; 0 = no place). */
typedef struct dp_loc {
  uint32_t file, begin, end;
} dp_loc;

typedef enum dp_severity { DP_ERROR, DP_WARNING, DP_NOTE } dp_severity;

typedef struct dp_diag {
  dp_severity severity;
  dp_loc loc;
  char *message; /* in the dp_diags' arena */
} dp_diag;

typedef struct dp_source {
  char *path; /* as shown to the user */
  char *text; /* NUL-terminated copy */
  size_t length;
} dp_source;

/* The diagnostics of one compile, with the texts they point into. A note belongs to the error before it. */
typedef struct dp_diags {
  dp_arena *arena; /* owned */
  dp_source *sources; /* [0] is unused */
  int source_count, source_cap;
  dp_diag *items;
  int count, cap;
  int errors;
} dp_diags;

dp_diags *dp_diags_new(void);
void dp_diags_free(dp_diags *diags);
uint32_t dp_diags_add_source(dp_diags *diags, const char *path, const char *text, size_t length); /* copies both */
void dp_error(dp_diags *diags, dp_loc loc, const char *fmt, ...) DP_PRINTF(3, 4);
void dp_warning(dp_diags *diags, dp_loc loc, const char *fmt, ...) DP_PRINTF(3, 4);
void dp_note(dp_diags *diags, dp_loc loc, const char *fmt, ...) DP_PRINTF(3, 4);
/* As clang prints them: "file:line:col: error: message", the source line, a caret range; notes after their error. */
void dp_diags_render(const dp_diags *diags, dp_str *out, bool color);
/* line and col count from 1; col in bytes. */
void dp_loc_position(const dp_diags *diags, dp_loc loc, int *line, int *col);

/* The candidate nearest to `name` by edit distance, or NULL when none is near enough to be a likely slip. */
const char *dp_nearest_name(const char *name, const char *const *candidates, int count);

/* ---- hash, files --------------------------------------------------------------------------------------------------- */

/* 64-bit hash of bytes, the same on every machine and version: used in cache keys. Chain by passing the last result
 * as seed (0 to start). */
uint64_t dp_hash(uint64_t seed, const void *data, size_t size);

/* Reads a whole regular file into malloc'ed, NUL-terminated memory. A missing path, a directory, an unreadable file
 * each give their own message. */
dp_status dp_read_file(const char *path, char **text, size_t *length);
/* Writes atomically: a temporary file beside `path`, fsync, rename. Nothing is left behind on failure. */
dp_status dp_write_file_atomic(const char *path, const void *data, size_t size);

/* What tells one state of a file from every other: a write changes `changed` (and `modified`, which can be set back). */
typedef struct dp_file_stamp {
  uint64_t device, inode, size;
  int64_t modified, changed; /* nanoseconds of the clock */
} dp_file_stamp;
bool dp_stamp_file(const char *path, dp_file_stamp *stamp);
bool dp_same_stamp(const dp_file_stamp *a, const dp_file_stamp *b);

/* A read-only mapping of a whole regular file (empty files fail with DP_INVALID). */
typedef struct dp_mapping {
  const uint8_t *data;
  size_t size;
  dp_file_stamp stamp; /* of the file when it was opened */
} dp_mapping;
dp_status dp_map_file(const char *path, dp_mapping *mapping);
void dp_unmap_file(dp_mapping *mapping);
/* Whole pages of [data, data + size) of a mapped file may leave memory; they are read again when they are wanted. */
void dp_forget_mapped(const void *data, size_t size);

#endif
