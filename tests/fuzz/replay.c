/* tests/fuzz/replay.c: a fuzz target's main where there is no fuzzer: every file of the directories given, once. */
#include "base/base.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int run_file(const char *path) {
  char *text;
  size_t length;
  dp_status status = dp_read_file(path, &text, &length);
  if (status.code != DP_OK) {
    dp_status_free(&status);
    return 0; /* a directory */
  }
  uint8_t *exact = malloc(length ? length : 1); /* so that a read past the end is one past the memory */
  if (!exact) abort();
  memcpy(exact, text, length);
  free(text);
  LLVMFuzzerTestOneInput(exact, length);
  free(exact);
  return 1;
}

static int run_directory(const char *directory) {
  DIR *open = opendir(directory);
  int count = 0;
  if (!open) return 0;
  for (struct dirent *entry; (entry = readdir(open));) {
    char path[4096];
    if (entry->d_name[0] == '.') continue;
    snprintf(path, sizeof path, "%s/%s", directory, entry->d_name);
    count += run_file(path);
  }
  closedir(open);
  return count;
}

int main(int argc, char **argv) {
  int count = 0;
  for (int i = 1; i < argc; i++) count += run_directory(argv[i]);
  printf("%d inputs\n", count);
  return count > 0 ? 0 : 1;
}
