/* runtime/data_files.c: which files a path of training data stands for, and their mappings: all of them stay, unless
 * there are more than the system would map. */
#include "runtime/data_parts.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const struct {
  const char *end;
  ir_data_format format; /* AUTO: for its first line to say */
} kinds[] = {{".txt", IR_DATA_TEXT}, {".jsonl", IR_DATA_AUTO}, {".bin", IR_DATA_TOKENS}};

static int kind_of_name(const char *name) {
  const char *dot = strrchr(name, '.');
  for (int i = 0; dot && i < (int)DP_COUNT(kinds); i++)
    if (strcmp(dot, kinds[i].end) == 0) return i;
  return -1;
}

static int kind_of_format(ir_data_format format) {
  return format == IR_DATA_TEXT ? 0 : format == IR_DATA_TOKENS ? 2 : 1;
}

static dp_status add_file(rt_data *data, const char *directory, const char *name) {
  dp_str path = {0};
  if (data->file_count == DATA_MAX_FILES)
    return dp_fail(DP_INVALID, "'%s' holds more than %d files: put them together", data->options.path, DATA_MAX_FILES);
  if (data->file_count == data->file_cap) {
    int cap = data->file_cap ? 2 * data->file_cap : 4;
    data_file *more = realloc(data->files, sizeof *more * (size_t)cap);
    if (!more) return dp_fail(DP_NO_MEMORY, "no memory for the names of the files of '%s'", data->options.path);
    data->files = more, data->file_cap = cap;
  }
  size_t n = strlen(directory);
  dp_str_addf(&path, "%s%s%s", directory, n > 0 && directory[n - 1] != '/' ? "/" : "", name);
  if (path.failed || !path.text) {
    dp_str_free(&path);
    return dp_fail(DP_NO_MEMORY, "no memory for the names of the files of '%s'", data->options.path);
  }
  data->files[data->file_count++] = (data_file){.path = path.text};
  return DP_SUCCESS;
}

static int compare_files(const void *a, const void *b) {
  return strcmp(((const data_file *)a)->path, ((const data_file *)b)->path);
}

/* The files with the end of the format; of AUTO with the only one of those ends that is there. */
static dp_status look_into(rt_data *data) {
  const char *path = data->options.path;
  DIR *folder = opendir(path);
  if (!folder) return dp_fail(DP_IO, "cannot open '%s': %s", path, strerror(errno));
  bool any = data->format == IR_DATA_AUTO;
  int wanted = any ? -1 : kind_of_format(data->format);
  dp_status status = DP_SUCCESS;
  for (struct dirent *entry; status.code == DP_OK && (entry = readdir(folder));) {
    int kind = entry->d_name[0] == '.' ? -1 : kind_of_name(entry->d_name);
    if (kind < 0 || (!any && kind != wanted)) continue;
    if (wanted >= 0 && kind != wanted)
      status = dp_fail(DP_INVALID, "'%s' holds both *%s and *%s: say the format, or name one file", path,
                       kinds[kind < wanted ? kind : wanted].end, kinds[kind < wanted ? wanted : kind].end);
    else
      status = add_file(data, path, entry->d_name);
    wanted = kind;
  }
  closedir(folder);
  DP_TRY(status);
  if (data->file_count == 0)
    return dp_fail(DP_INVALID, "the directory '%s' holds no *%s", path,
                   any ? ".txt, *.jsonl or *.bin" : kinds[kind_of_format(data->format)].end);
  qsort(data->files, (size_t)data->file_count, sizeof *data->files, compare_files);
  if (any) data->format = kinds[wanted].format;
  return DP_SUCCESS;
}

dp_status data_find_files(rt_data *data) {
  const char *path = data->options.path;
  struct stat info;
  if (stat(path, &info) != 0)
    return dp_fail(errno == ENOENT || errno == ENOTDIR ? DP_NOT_FOUND : DP_IO, "cannot open '%s': %s", path,
                   strerror(errno));
  if (S_ISDIR(info.st_mode)) return look_into(data);
  if (data->format == IR_DATA_AUTO) {
    int kind = kind_of_name(path);
    if (kind < 0)
      return dp_fail(DP_INVALID, "'%s': its name does not tell the format (.txt, .jsonl, .bin): say which it is", path);
    data->format = kinds[kind].format;
  }
  return add_file(data, "", path);
}

dp_status data_map(rt_data *data, int index, const dp_mapping **mapping) {
  data_file *file = &data->files[index];
  *mapping = &file->mapping;
  if (file->mapping.data) return DP_SUCCESS;
  for (int i = 0; data->mapped == DATA_MAX_MAPPED && i < data->file_count; i++) dp_unmap_file(&data->files[i].mapping);
  if (data->mapped == DATA_MAX_MAPPED) data->mapped = 0;
  DP_TRY(dp_map_file(file->path, &file->mapping));
  data->mapped++;
  if (file->stamp.size == 0) file->stamp = file->mapping.stamp;
  if (dp_same_stamp(&file->stamp, &file->mapping.stamp)) return DP_SUCCESS;
  return dp_fail(DP_INVALID, "'%s' has changed while it was in use: begin again with the new data", file->path);
}
