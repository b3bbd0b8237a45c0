/* codegen/object.h: private to codegen/: what an object says of itself, under the symbol `dipper_note`. */
#ifndef DIPPER_CODEGEN_OBJECT_H
#define DIPPER_CODEGEN_OBJECT_H

#include "codegen/codegen.h"

/* Little-endian, no padding. Raise the format when the meaning of a field, or the way in which kinds are called, changes. */
enum { CG_NOTE_FORMAT = 1 };
typedef struct cg_note {
  char magic[8]; /* "dipperK" */
  uint64_t format;
  cg_program_key program; /* that it was made of */
  uint64_t step_bytes;    /* sizeof(tile_step): the layout that its code reads */
  uint64_t kind_count, scratch_bytes;
} cg_note;

dp_status cg_make_note(const tile_program *program, size_t scratch_bytes, cg_note *note);

#endif
