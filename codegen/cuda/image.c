/* codegen/cuda/image.c: the object of GPU code, written and read, and which chip's code runs where. Nothing of an object is
 * believed before its sizes, its hash and the program that it names are compared. */
#include "codegen/cuda/image.h"
#include "codegen/cuda/cuda.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(sizeof(cuda_note) == 128, "the note is a part of files");

static const char magic[8] = "dipperG";

static uint64_t hash_of(cuda_note note, const void *image) {
  note.hash = 0;
  return dp_hash(dp_hash(0, &note, sizeof note), image, note.image_bytes);
}

dp_status cuda_make_object(const tile_program *program, const cuda_note *needs, const cg_object *image, cg_object *object) {
  cuda_note note = *needs;
  memcpy(note.magic, magic, sizeof magic);
  note.format = CUDA_NOTE_FORMAT;
  note.launch_bytes = sizeof(cuda_launch);
  note.image_bytes = image->size;
  DP_TRY(cg_find_program_key(program, &note.program));
  note.hash = hash_of(note, image->bytes);
  char *bytes = malloc(sizeof note + image->size);
  if (!bytes) return dp_fail(DP_NO_MEMORY, "no memory for %zu bytes of GPU code", image->size);
  memcpy(bytes, &note, sizeof note);
  memcpy(bytes + sizeof note, image->bytes, image->size);
  *object = (cg_object){bytes, sizeof note + image->size};
  return DP_SUCCESS;
}

static dp_status damaged(const char *what) { return dp_fail(DP_INVALID, "the GPU code is damaged: %s", what); }

/* A driver reads PTX up to its NUL. */
static bool is_ended(const cuda_note *note, const char *image) {
  return strcmp(note->chip, "ptx") != 0 || image[note->image_bytes - 1] == '\0';
}

dp_status cuda_read_note(const cg_object *object, cuda_note *note, const void **image) {
  if (object->size < sizeof *note) return damaged("it is too short");
  memcpy(note, object->bytes, sizeof *note);
  if (memcmp(note->magic, magic, sizeof magic) != 0) return dp_fail(DP_INVALID, "this is no GPU code of dipper's");
  if (note->format != CUDA_NOTE_FORMAT || note->launch_bytes != sizeof(cuda_launch))
    return dp_fail(DP_UNSUPPORTED, "the GPU code was made by another version of dipper: compile it again");
  *image = (const char *)object->bytes + sizeof *note;
  bool whole = note->image_bytes == object->size - sizeof *note && note->image_bytes > 0 &&
               note->hash == hash_of(*note, *image);
  if (!whole) return damaged("its bytes are not as they were written");
  bool sound = note->threads > 0 && note->threads <= 1024 && note->shared_bytes < 1 << 24 &&
               note->scratch_floats < UINT64_C(1) << 40 && memchr(note->chip, '\0', sizeof note->chip) &&
               is_ended(note, *image);
  return sound ? DP_SUCCESS : damaged("its note asks for what no device has");
}

dp_status cuda_open_object(const tile_program *program, const cg_object *object, cuda_note *note, const void **image) {
  cg_program_key own;
  DP_TRY(cuda_read_note(object, note, image));
  DP_TRY(cg_find_program_key(program, &own));
  if (memcmp(&note->program, &own, sizeof own) != 0)
    return dp_fail(DP_INVALID, "the GPU code was not compiled of this program: another model, other dimensions, or weights "
                               "of other types");
  return DP_SUCCESS;
}

/* ---- chips */

static const char *const chips[] = {"sm_80", "sm_90a", "sm_100a", "ptx"};

const char *cuda_chip_at(int index) { return index >= 0 && index < (int)DP_COUNT(chips) ? chips[index] : NULL; }

/* CUDA C++ programming guide, "binary compatibility": a cubin runs on its generation's chips of the same or a later minor
 * revision; with an 'a' on that revision alone; PTX on every later chip. */
int cuda_chip_serves(const char *chip, int major, int minor) {
  enum { PTX = 1, GENERATION = 2 }; /* and more, the nearer the revision; above all the chip alone */
  if (strcmp(chip, "ptx") == 0) return major >= 8 ? PTX : 0;
  char *end;
  if (strncmp(chip, "sm_", 3) != 0) return 0;
  long number = strtol(chip + 3, &end, 10);
  if (end == chip + 3 || number < 80 || number / 10 != major) return 0;
  if (strcmp(end, "a") == 0) return number % 10 == minor ? GENERATION + 10 : 0;
  return !*end && number % 10 <= minor ? GENERATION + (int)(number % 10) : 0;
}
