/* runtime/weights_dir.c: a path -> the files that hold its weights: a file alone, the files that an index or their
 * numbers bind together, or what a directory has. Names in an index come from strangers: they lead nowhere else. */
#include "runtime/weights_file.h"

#include <dirent.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { MAX_PARTS = 4096, MAX_NAMES_SHOWN = 6 };

static bool ends_with(const char *text, const char *end) {
  size_t n = strlen(text), m = strlen(end);
  return n >= m && strcmp(text + n - m, end) == 0;
}

static bool is_there(const char *path) {
  struct stat info;
  return stat(path, &info) == 0;
}

static void add_path(dp_arena *arena, rt_file_list *list, const char *path) {
  DP_PUSH(arena, list->paths, list->count, list->cap) = path;
}

/* ---- the index --------------------------------------------------------------------------------------------------- */

static int compare_names(const void *a, const void *b) {
  return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The name of a file in the index's own directory. */
static bool is_plain_name(const json_t *value) {
  const char *name = json_string_value(value);
  return name && rt_is_name((const uint8_t *)name, strlen(name)) && !strchr(name, '/') && name[0] != '.';
}

static dp_status collect_parts(dp_arena *arena, json_t *map, rt_file_list *list) {
  size_t count = json_object_size(map), at = 0;
  const char **files = DP_NEW_ARRAY(arena, const char *, count + 1), *name;
  json_t *value;
  json_object_foreach(map, name, value) {
    if (!is_plain_name(value))
      return dp_fail(DP_INVALID, "'%s': the tensor '%.200s' is in no file of this directory: the index is damaged",
                     list->index, name);
    files[at++] = json_string_value(value);
  }
  qsort(files, count, sizeof *files, compare_names);
  for (size_t i = 0; i < count; i++)
    if (i == 0 || strcmp(files[i - 1], files[i]) != 0) {
      if (list->count == MAX_PARTS)
        return dp_fail(DP_INVALID, "'%s' names more than %d files: the index is damaged", list->index, MAX_PARTS);
      add_path(arena, list, dp_arena_printf(arena, "%s%s", list->directory, files[i]));
    }
  list->names = DP_NEW_ARRAY(arena, const char *, count);
  list->parts = DP_NEW_ARRAY(arena, int, count);
  size_t skip = strlen(list->directory);
  json_object_foreach(map, name, value) {
    int low = 0, high = list->count - 1;
    while (low < high) { /* the paths stand in the order of their names */
      int middle = (low + high) / 2;
      if (strcmp(list->paths[middle] + skip, json_string_value(value)) < 0)
        low = middle + 1;
      else
        high = middle;
    }
    list->names[list->name_count] = dp_arena_strdup(arena, name);
    list->parts[list->name_count++] = low;
  }
  return DP_SUCCESS;
}

static dp_status read_index(dp_arena *arena, const char *path, rt_file_list *list) {
  char *text;
  size_t length;
  list->index = path;
  DP_TRY(dp_read_file(path, &text, &length));
  json_error_t error;
  json_t *root = json_loadb(text, length, JSON_REJECT_DUPLICATES, &error);
  free(text);
  json_t *map = json_object_get(root, "weight_map");
  dp_status status;
  if (!root)
    status = dp_fail(DP_INVALID, "'%s' at line %d, byte %d: %s; download it again", path, error.line, error.position,
                     error.text);
  else if (!json_is_object(map) || json_object_size(map) == 0 || json_object_size(map) > RT_MAX_TENSORS)
    status = dp_fail(DP_INVALID, "'%s' has no weight_map that says which tensor is in which file", path);
  else
    status = collect_parts(arena, map, list);
  json_decref(root);
  return status;
}

/* ---- numbered files ---------------------------------------------------------------------------------------------- */

/* "NAME-00002-of-00003.safetensors": `stem` is the length of NAME, `total` is 3. */
typedef struct numbered {
  int stem, total;
  const char *end; /* ".safetensors" */
} numbered;

static bool parse_number(const char *text, int digits, int *number) {
  *number = 0;
  for (int i = 0; i < digits; i++) {
    if (text[i] < '0' || text[i] > '9') return false;
    *number = *number * 10 + (text[i] - '0');
  }
  return true;
}

static bool parse_numbered(const char *name, numbered *n) {
  static const char *const ends[] = {".safetensors", ".gguf"};
  static const char form[] = "-00000-of-00000";
  int length = (int)strlen(name), part;
  for (size_t i = 0; i < DP_COUNT(ends); i++) {
    int stem = length - (int)strlen(ends[i]) - (int)strlen(form);
    if (stem < 1 || !ends_with(name, ends[i])) continue;
    const char *at = name + stem;
    if (at[0] != '-' || memcmp(at + 6, "-of-", 4) != 0 || !parse_number(at + 1, 5, &part) ||
        !parse_number(at + 10, 5, &n->total) || part < 1 || part > n->total || n->total > MAX_PARTS)
      continue;
    n->stem = stem, n->end = ends[i];
    return true;
  }
  return false;
}

static dp_status add_numbered(dp_arena *arena, const char *name, const numbered *n, rt_file_list *list) {
  for (int i = 1; i <= n->total; i++) {
    const char *path =
        dp_arena_printf(arena, "%s%.*s-%05d-of-%05d%s", list->directory, n->stem, name, i, n->total, n->end);
    if (!is_there(path))
      return dp_fail(DP_NOT_FOUND, "'%s%s' is one of %d files, and '%s' is not there: download it too", list->directory,
                     name, n->total, path);
    add_path(arena, list, path);
  }
  return DP_SUCCESS;
}

/* ---- directories ------------------------------------------------------------------------------------------------- */

typedef struct names {
  const char **items;
  int count, cap;
} names;

/* The directory's names with that end, in order. */
static names names_with(dp_arena *arena, const char *directory, const char *end) {
  names found = {0};
  DIR *folder = opendir(directory);
  for (struct dirent *entry; folder && (entry = readdir(folder));)
    if (entry->d_name[0] != '.' && ends_with(entry->d_name, end) && found.count < MAX_PARTS)
      DP_PUSH(arena, found.items, found.count, found.cap) = dp_arena_strdup(arena, entry->d_name);
  if (folder) closedir(folder);
  if (found.count > 0) qsort(found.items, (size_t)found.count, sizeof *found.items, compare_names);
  return found;
}

/* All of them are the numbered files of one whole. */
static bool are_one(const names *found, numbered *n) {
  if (found->count == 0 || !parse_numbered(found->items[0], n)) return false;
  for (int i = 1; i < found->count; i++) {
    numbered other;
    if (!parse_numbered(found->items[i], &other) || other.stem != n->stem || other.total != n->total ||
        memcmp(found->items[0], found->items[i], (size_t)n->stem) != 0)
      return false;
  }
  return true;
}

static dp_status several(const char *path, const names *found) {
  dp_str list = {0};
  for (int i = 0; i < found->count && i < MAX_NAMES_SHOWN; i++)
    dp_str_addf(&list, "%s'%s'", i ? ", " : "", found->items[i]);
  dp_status status = dp_fail(DP_INVALID, "'%s' holds several weights files (%s%s): name the one that is meant", path,
                             list.text ? list.text : "", found->count > MAX_NAMES_SHOWN ? ", ..." : "");
  dp_str_free(&list);
  return status;
}

static dp_status look_into(dp_arena *arena, const char *path, rt_file_list *list) {
  static const char *const ends[] = {".safetensors", ".gguf"};
  const char *whole = dp_arena_printf(arena, "%smodel.safetensors", list->directory);
  const char *index = dp_arena_printf(arena, "%s.index.json", whole);
  if (is_there(whole)) {
    add_path(arena, list, whole);
    return DP_SUCCESS;
  }
  if (is_there(index)) return read_index(arena, index, list);
  for (size_t i = 0; i < DP_COUNT(ends); i++) {
    names found = names_with(arena, list->directory, ends[i]);
    numbered n;
    if (are_one(&found, &n)) return add_numbered(arena, found.items[0], &n, list);
    if (found.count > 1) return several(path, &found);
    if (found.count == 0) continue;
    add_path(arena, list, dp_arena_printf(arena, "%s%s", list->directory, found.items[0]));
    return DP_SUCCESS;
  }
  bool torch = names_with(arena, list->directory, ".bin").count + names_with(arena, list->directory, ".pth").count > 0;
  return dp_fail(DP_INVALID,
                 "the directory '%s' holds no weights: neither model.safetensors nor its index, and no other "
                 "*.safetensors or *.gguf%s",
                 path, torch ? "; it seems to hold a PyTorch checkpoint: save it as safetensors" : "");
}

dp_status rt_list_files(dp_arena *arena, const char *path, rt_file_list *list) {
  struct stat info;
  const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
  if (stat(path, &info) == 0 && S_ISDIR(info.st_mode)) {
    list->directory = dp_arena_printf(arena, "%s%s", path, ends_with(path, "/") ? "" : "/");
    return look_into(arena, path, list);
  }
  list->directory = dp_arena_strndup(arena, path, (size_t)(name - path));
  if (ends_with(path, ".safetensors.index.json")) return read_index(arena, path, list);
  numbered n;
  if (is_there(path) && parse_numbered(name, &n)) {
    const char *index = dp_arena_printf(arena, "%s%.*s%s.index.json", list->directory, n.stem, name, n.end);
    if (is_there(index)) return read_index(arena, index, list);
    return add_numbered(arena, name, &n, list);
  }
  add_path(arena, list, dp_arena_strdup(arena, path));
  return DP_SUCCESS;
}
