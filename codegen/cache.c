/* codegen/cache.c: compiled programs kept in a directory, one file an entry, named by a hash of everything that
 * determines the code: format, back end, its fingerprint, the program's text. An entry is believed only when its header
 * and the hash of its bytes agree; whatever is wrong with it, the program is compiled again and the entry replaced. */
#include "codegen/codegen.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* Raised when the header or the meaning of an entry changes. */
enum { FORMAT = 1 };

typedef struct cache_key {
  uint64_t first, second;
} cache_key;

/* At the head of an entry; the object's bytes follow. No padding. */
typedef struct entry_header {
  char magic[8];
  uint64_t format;
  cache_key key;
  uint64_t size, hash; /* of the bytes that follow */
} entry_header;

static const char magic[8] = "dipperO";

static dp_status find_key(const cg_backend *backend, const tile_program *program, const cg_target *target,
                          cache_key *key) {
  dp_str text = {0};
  dp_str_addf(&text, "format %d, back end %s, ", FORMAT, backend->name);
  dp_status status = backend->fingerprint(target, &text);
  dp_str_addc(&text, '\n');
  if (status.code == DP_OK) tile_print(&text, program);
  if (status.code == DP_OK && text.failed) status = dp_fail(DP_NO_MEMORY, "no memory for a program's text");
  if (status.code == DP_OK) *key = (cache_key){dp_hash(1, text.text, text.length), dp_hash(2, text.text, text.length)};
  dp_str_free(&text);
  return status;
}

/* ---- entries */

/* The object in an entry's file, when the entry is sound. */
static bool read_entry(const char *path, const cache_key *key, cg_object *object) {
  char *bytes = NULL;
  size_t length;
  dp_status status = dp_read_file(path, &bytes, &length);
  if (status.code != DP_OK) {
    dp_status_free(&status);
    return false;
  }
  entry_header header;
  bool sound = length >= sizeof header;
  if (sound) memcpy(&header, bytes, sizeof header);
  sound = sound && memcmp(header.magic, magic, sizeof magic) == 0 && header.format == FORMAT &&
          header.key.first == key->first && header.key.second == key->second && header.size == length - sizeof header &&
          header.hash == dp_hash(0, bytes + sizeof header, length - sizeof header);
  if (sound) {
    memmove(bytes, bytes + sizeof header, header.size);
    *object = (cg_object){bytes, header.size};
  } else {
    free(bytes);
  }
  return sound;
}

static dp_status make_directories(const char *path) {
  char *prefix = strdup(path);
  if (!prefix) return dp_fail(DP_NO_MEMORY, "no memory for a path");
  int reason = 0;
  for (char *at = prefix + 1; !reason; at++) {
    char end = *at;
    if (end != '/' && end != '\0') continue;
    *at = '\0';
    if (mkdir(prefix, 0777) != 0 && errno != EEXIST) reason = errno;
    *at = end;
    if (end == '\0') break;
  }
  free(prefix);
  return reason ? dp_fail(DP_IO, "cannot create '%s': %s", path, strerror(reason)) : DP_SUCCESS;
}

static dp_status write_entry(const char *directory, const char *path, const cache_key *key, const cg_object *object) {
  DP_TRY(make_directories(directory));
  entry_header header = {
      .format = FORMAT, .key = *key, .size = object->size, .hash = dp_hash(0, object->bytes, object->size)};
  memcpy(header.magic, magic, sizeof magic);
  dp_str entry = {0};
  dp_str_addn(&entry, (const char *)&header, sizeof header);
  dp_str_addn(&entry, object->bytes, object->size);
  dp_status status = entry.failed ? dp_fail(DP_NO_MEMORY, "no memory for a cache entry")
                                  : dp_write_file_atomic(path, entry.text, entry.length);
  dp_str_free(&entry);
  return status;
}

/* ---- */

static dp_status compile(const cg_backend *backend, const tile_program *program, const cg_target *target,
                         cg_object *object, bool *compiled) {
  if (compiled) *compiled = true;
  return backend->compile(program, target, object);
}

static dp_status build_cached(const cg_backend *backend, const tile_program *program, const cg_target *target,
                              const char *directory, const char *path, const cache_key *key, tile_code **code,
                              bool *compiled, dp_str *note) {
  cg_object object = {0};
  if (read_entry(path, key, &object)) {
    dp_status status = backend->load(program, &object, code);
    cg_object_free(&object);
    if (status.code == DP_OK) return status;
    dp_status_free(&status); /* sound bytes that do not load: rebuilt like any other damage */
  }
  DP_TRY(compile(backend, program, target, &object, compiled));
  dp_status status = backend->load(program, &object, code);
  if (status.code == DP_OK) {
    dp_status written = write_entry(directory, path, key, &object);
    if (written.code != DP_OK && note) dp_str_addf(note, "the compiled code is not kept: %s", dp_status_text(&written));
    dp_status_free(&written);
  }
  cg_object_free(&object);
  return status;
}

dp_status cg_build(const cg_backend *backend, const tile_program *program, const cg_target *target,
                   const char *cache_dir, tile_code **code, bool *compiled, dp_str *note) {
  *code = NULL;
  if (compiled) *compiled = false;
  if (!cache_dir || !*cache_dir) {
    cg_object object = {0};
    DP_TRY(compile(backend, program, target, &object, compiled));
    dp_status status = backend->load(program, &object, code);
    cg_object_free(&object);
    return status;
  }
  cache_key key;
  DP_TRY(find_key(backend, program, target, &key));
  dp_str path = {0};
  dp_str_addf(&path, "%s/%016" PRIx64 "%016" PRIx64 ".o", cache_dir, key.first, key.second);
  dp_status status = path.failed
                         ? dp_fail(DP_NO_MEMORY, "no memory for a path")
                         : build_cached(backend, program, target, cache_dir, path.text, &key, code, compiled, note);
  dp_str_free(&path);
  return status;
}
