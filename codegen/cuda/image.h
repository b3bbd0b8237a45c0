/* codegen/cuda/image.h: GPU code as an object: a note of what it was made of and what a launch of it needs, then a cubin or
 * PTX. The JIT loads it, the cache keeps it, packages of ahead-of-time compilation carry it: the same bytes. What runs it
 * needs neither the generator of the text nor NVRTC. */
#ifndef DIPPER_CODEGEN_CUDA_IMAGE_H
#define DIPPER_CODEGEN_CUDA_IMAGE_H

#include "codegen/codegen.h"

/* Little-endian, no padding, 128 bytes: an image behind it begins at a multiple of that. Raise the format when the meaning
 * of a field or of a launch's arguments changes. */
enum { CUDA_NOTE_FORMAT = 1, CUDA_CHIP_NAME = 16 };
typedef struct cuda_note {
  char magic[8]; /* "dipperG" */
  uint64_t format;
  cg_program_key program;                          /* that it was made of */
  uint64_t launch_bytes;                           /* sizeof(cuda_launch): the layout that its kernels read */
  uint64_t threads, shared_bytes, scratch_floats;  /* of a block */
  char chip[CUDA_CHIP_NAME];                       /* "sm_90a", or "ptx" */
  uint64_t image_bytes;                            /* of what follows */
  uint64_t hash;                                   /* of the note with this field 0, and of what follows */
  uint64_t unused[4];
} cuda_note;

/* An object of the image, malloc'ed; of `needs` threads, shared_bytes, scratch_floats and chip count. */
dp_status cuda_make_object(const tile_program *program, const cuda_note *needs, const cg_object *image, cg_object *object);
/* What an object says of itself, when it is whole; *image: where in it its image lies. DP_INVALID: none of dipper's, or
 * damaged; DP_UNSUPPORTED: of another version. */
dp_status cuda_read_note(const cg_object *object, cuda_note *note, const void **image);
/* The same of an object that was made of this program; DP_INVALID when it was not. */
dp_status cuda_open_object(const tile_program *program, const cg_object *object, cuda_note *note, const void **image);

/* A line of what a launch needs of a block. */
void cuda_report_needs(const cuda_note *note, dp_str *out);

/* Chips that code is made for by name, NULL behind the last; the last is "ptx". */
const char *cuda_chip_at(int index);
/* How well code for a chip serves a device of that compute capability: 0: not at all; the more the better. */
int cuda_chip_serves(const char *chip, int major, int minor);

#endif
