/* runtime/checkpoint_manifest.c: trainer.json: the state of a run, and by which size and hash every file beside it is
 * known again. It carries a hash of itself: of its JSON without that, written compactly with sorted keys. */
#include "runtime/checkpoint_parts.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FORMAT = 1, DIGITS = 17, MAX_MANIFEST = 1 << 20 };

/* ---- hashes */

static json_t *number_as_text(uint64_t number) {
  char text[32];
  snprintf(text, sizeof text, "%016" PRIx64, number);
  return json_string(text);
}

static bool read_number_text(const json_t *root, const char *key, uint64_t *number) {
  const char *text = json_string_value(json_object_get(root, key));
  if (!text || strlen(text) != 16 || strspn(text, "0123456789abcdef") != 16) return false;
  *number = strtoull(text, NULL, 16);
  return true;
}

static uint64_t hash_of_bytes(const uint8_t *bytes, size_t size) {
  enum { BLOCK = 1 << 20 };
  uint64_t hash = 0;
  for (size_t at = 0; at < size; at += BLOCK) hash = dp_hash(hash, bytes + at, size - at < BLOCK ? size - at : BLOCK);
  return hash;
}

static dp_status sum_up(const char *path, uint64_t *size, uint64_t *hash) {
  dp_file_stamp stamp;
  dp_mapping mapping;
  *size = *hash = 0;
  if (dp_stamp_file(path, &stamp) && stamp.size == 0) return DP_SUCCESS;
  DP_TRY(dp_map_file(path, &mapping));
  *size = mapping.size;
  *hash = hash_of_bytes(mapping.data, mapping.size);
  dp_unmap_file(&mapping);
  return DP_SUCCESS;
}

static uint64_t hash_of_self(const json_t *root) {
  char *text = json_dumps(root, JSON_COMPACT | JSON_SORT_KEYS | JSON_REAL_PRECISION(DIGITS));
  uint64_t hash = text ? dp_hash(1, text, strlen(text)) : 0;
  free(text);
  return hash;
}

/* ---- writing */

static dp_status add_files(const char *directory, json_t *files) {
  DIR *folder = opendir(directory);
  if (!folder) return dp_fail(DP_IO, "cannot open '%s': %s", directory, strerror(errno));
  dp_status status = DP_SUCCESS;
  for (struct dirent *entry; status.code == DP_OK && (entry = readdir(folder));) {
    char path[PATH_MAX];
    uint64_t size, hash;
    if (entry->d_name[0] == '.') continue;
    status = cp_join(path, directory, entry->d_name);
    if (status.code == DP_OK) status = sum_up(path, &size, &hash);
    if (status.code == DP_OK)
      json_array_append_new(files, json_pack("{s:s, s:I, s:o}", "name", entry->d_name, "bytes", (json_int_t)size,
                                             "hash", number_as_text(hash)));
  }
  closedir(folder);
  return status;
}

static json_t *manifest_of(const rt_trainer_state *s, json_t *files) {
  json_t *root =
      json_pack("{s:i, s:I, s:I, s:I, s:I, s:o, s:o, s:o, s:o}", "format", FORMAT, "step", (json_int_t)s->step, "epoch",
                (json_int_t)s->position.epoch, "index", (json_int_t)s->position.index, "piece",
                (json_int_t)s->position.piece, "data", number_as_text(s->data_identity), "seed",
                number_as_text(s->seed), "loss", isfinite(s->loss) ? json_real(s->loss) : json_null(), "files", files);
  if (root) json_object_set_new(root, "hash", number_as_text(hash_of_self(root)));
  return root;
}

dp_status cp_write_manifest(const char *directory, const rt_trainer_state *state) {
  char path[PATH_MAX];
  json_t *files = json_array();
  dp_status status = add_files(directory, files);
  if (status.code == DP_OK) status = cp_join(path, directory, CHECKPOINT_MANIFEST);
  if (status.code != DP_OK) {
    json_decref(files);
    return status;
  }
  json_t *root = manifest_of(state, files);
  char *text = root ? json_dumps(root, JSON_INDENT(2) | JSON_REAL_PRECISION(DIGITS)) : NULL;
  status =
      text ? dp_write_file_atomic(path, text, strlen(text)) : dp_fail(DP_NO_MEMORY, "no memory to write '%s'", path);
  free(text);
  json_decref(root);
  return status;
}

/* ---- reading */

static dp_status check_file(const char *directory, const json_t *entry) {
  char path[PATH_MAX];
  const char *name = json_string_value(json_object_get(entry, "name"));
  uint64_t size, hash, expected = (uint64_t)json_integer_value(json_object_get(entry, "bytes")), expected_hash;
  if (!name || strchr(name, '/') || name[0] == '.' || !read_number_text(entry, "hash", &expected_hash))
    return dp_fail(DP_INVALID, "'%s/%s' lists a file that cannot be", directory, CHECKPOINT_MANIFEST);
  DP_TRY(cp_join(path, directory, name));
  DP_TRY(sum_up(path, &size, &hash));
  if (size != expected)
    return dp_fail(DP_INVALID, "'%s' has %" PRIu64 " bytes, %" PRIu64 " were written", path, size, expected);
  if (hash != expected_hash)
    return dp_fail(DP_INVALID, "'%s' has changed since it was written: its hash is another", path);
  return DP_SUCCESS;
}

static bool lists(const json_t *files, const char *name) {
  for (size_t i = 0; i < json_array_size(files); i++) {
    const char *listed = json_string_value(json_object_get(json_array_get(files, i), "name"));
    if (listed && strcmp(listed, name) == 0) return true;
  }
  return false;
}

static dp_status read_state(const char *path, json_t *root, rt_trainer_state *state) {
  uint64_t hash, found;
  if (!read_number_text(root, "hash", &hash)) return dp_fail(DP_INVALID, "'%s' has no hash of itself", path);
  json_object_del(root, "hash");
  found = hash_of_self(root);
  if (found != hash) return dp_fail(DP_INVALID, "'%s' has changed since it was written: its hash is another", path);
  json_int_t format = json_integer_value(json_object_get(root, "format"));
  if (format != FORMAT)
    return dp_fail(DP_UNSUPPORTED, "'%s' is of format %" JSON_INTEGER_FORMAT ", this dipper knows %d", path, format,
                   FORMAT);
  const json_t *loss = json_object_get(root, "loss");
  *state = (rt_trainer_state){.step = json_integer_value(json_object_get(root, "step")),
                              .position = {.epoch = json_integer_value(json_object_get(root, "epoch")),
                                           .index = json_integer_value(json_object_get(root, "index")),
                                           .piece = json_integer_value(json_object_get(root, "piece"))},
                              .loss = json_is_number(loss) ? json_number_value(loss) : (double)NAN};
  if (!read_number_text(root, "data", &state->data_identity) || !read_number_text(root, "seed", &state->seed))
    return dp_fail(DP_INVALID, "'%s' does not tell data and seed", path);
  return DP_SUCCESS;
}

static dp_status check_files(const char *directory, const json_t *files) {
  const char *weights = lists(files, CHECKPOINT_ADAPTER) ? CHECKPOINT_ADAPTER : CHECKPOINT_WEIGHTS;
  const char *const needed[] = {weights, CHECKPOINT_OPTIMIZER};
  for (size_t i = 0; i < DP_COUNT(needed); i++)
    if (!lists(files, needed[i])) return dp_fail(DP_INVALID, "'%s' was written without %s", directory, needed[i]);
  for (size_t i = 0; i < json_array_size(files); i++) DP_TRY(check_file(directory, json_array_get(files, i)));
  return DP_SUCCESS;
}

dp_status cp_verify(const char *directory, rt_trainer_state *state) {
  char path[PATH_MAX], *text;
  size_t length;
  json_error_t error;
  dp_file_stamp stamp;
  DP_TRY(cp_join(path, directory, CHECKPOINT_MANIFEST));
  if (dp_stamp_file(path, &stamp) && stamp.size > MAX_MANIFEST)
    return dp_fail(DP_INVALID, "'%s' has %" PRIu64 " bytes: it is none", path, stamp.size);
  DP_TRY(dp_read_file(path, &text, &length));
  json_t *root = json_loadb(text, length, JSON_REJECT_DUPLICATES, &error);
  free(text);
  if (!root) return dp_fail(DP_INVALID, "'%s' at line %d, byte %d: %s", path, error.line, error.position, error.text);
  dp_status status = read_state(path, root, state);
  if (status.code == DP_OK) status = check_files(directory, json_object_get(root, "files"));
  json_decref(root);
  return status;
}
