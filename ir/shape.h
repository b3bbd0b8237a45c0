/* ir/shape.h: private to ir/: the shape rules of ops.def, asked by ir_emit when it builds and by ir_verify when it
 * checks. A rule reads operands, attributes and the body, and gives the result types or a message for the user. */
#ifndef DIPPER_IR_SHAPE_H
#define DIPPER_IR_SHAPE_H

#include "ir/graph.h"

typedef struct ir_shaping {
  const ir_module *module;
  ir_opcode code;
  ir_value *const *operands;
  int operand_count;
  const ir_attr *attrs;
  int attr_count;
  const ir_block *body;
  dp_arena *arena; /* of results and message */
  ir_type *results;
  int result_count;
  const char *message; /* why it failed; names the op */
} ir_shaping;

/* Checks counts, attributes and body against the op's row, then runs its shape rule. */
bool ir_infer(ir_shaping *s);

/* The attribute `name` of the row: its kind, or 0 when the op has none of that name; `optional` may be NULL. */
char ir_attr_kind_of(ir_opcode code, const char *name, bool *optional);
/* Where `name` stands in the row; -1 when it does not. Attributes are kept in that order. */
int ir_attr_position(ir_opcode code, const char *name);
/* "did you mean 'eps'?" or what the op takes; in the arena. */
const char *ir_attr_suggestion(ir_opcode code, const char *name, dp_arena *arena);
/* May a value have this type? f32 or i32, sizes at least 1, the static part below 2^62 elements. */
bool ir_type_usable(const ir_type *type, const char **why);
/* Letters, digits, '_' and '.', not empty: what may stand after '%' and '@'. */
bool ir_is_word(const char *s);
/* A word that starts with a letter or '_': what may stand alone. */
bool ir_is_name(const char *s);

#endif
