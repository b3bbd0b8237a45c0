// tests/cuda/replay.hh: a launch from a file, as a process of its own: the last part of a text that a sanitizer's
// run-time library is linked to. The file holds the regions of a launch (test_cuda_sanitized.c); each gets memory of
// exactly its size, pointers between them are moved along, and what the step wrote goes to another file.
struct replay_head {
  i64 entry, blocks, shared_bytes, regions;
  u64 seed;
};
struct replay_region {
  char *at, *moved;
  u64 bytes, flags, launch; // launch: it holds the arguments
  char name[40];
};

// A pointer into one of the regions, or just behind it, is moved with it.
static char *replay_moved(const replay_region *r, int count, char *pointer) {
  for (int i = 0; i < count; i++)
    if (pointer >= r[i].at && pointer < r[i].at + r[i].bytes) return r[i].moved + (pointer - r[i].at);
  return pointer;
}

static bool replay_read(FILE *file, replay_region *regions, int count) {
  if (fread(regions, sizeof *regions, (size_t)count, file) != (size_t)count) return false;
  for (int i = 0; i < count; i++) {
    replay_region *r = &regions[i];
    void *at;
    if (posix_memalign(&at, 128, r->bytes) || fread(at, 1, r->bytes, file) != r->bytes) return false;
    r->moved = (char *)at;
  }
  for (int i = 0; i < count; i++)
    for (u64 at = 0; regions[i].flags & HOST_POINTERS && at + 8 <= regions[i].bytes; at += 8) {
      char **pointer = (char **)(regions[i].moved + at);
      *pointer = replay_moved(regions, count, *pointer);
    }
  return true;
}

static bool replay_write(const char *path, const replay_region *regions, int count) {
  FILE *file = fopen(path, "wb");
  bool sound = file != NULL;
  for (int i = 0; sound && i < count; i++)
    if (!(regions[i].flags & HOST_CONSTANT))
      sound = fwrite(regions[i].moved, 1, regions[i].bytes, file) == regions[i].bytes;
  return file && fclose(file) == 0 && sound;
}

int main(int argc, char **argv) {
  replay_head head;
  static replay_region regions[1024];
  FILE *file = argc == 3 ? fopen(argv[1], "rb") : NULL;
  bool sound = file && fread(&head, sizeof head, 1, file) == 1 && head.regions <= 1024 &&
               replay_read(file, regions, (int)head.regions);
  const void *launch = NULL;
  for (int i = 0; sound && i < head.regions; i++)
    if (regions[i].launch) launch = regions[i].moved;
  if (file) fclose(file);
  if (!sound || !launch) return fprintf(stderr, "not a launch\n"), 2;
  const char *error =
      p0_check((int)head.entry, launch, (int)head.blocks, (size_t)head.shared_bytes, head.seed, NULL, 0);
  if (error) return fprintf(stderr, "%s\n", error), 3;
  sound = replay_write(argv[2], regions, (int)head.regions);
  for (int i = 0; i < head.regions; i++) free(regions[i].moved);
  return sound ? 0 : 2;
}
