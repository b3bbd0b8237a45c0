/* ir/tile_access.h: which memory each op of a task kind touches, and what makes a tile program well-formed. */
#ifndef DIPPER_IR_TILE_ACCESS_H
#define DIPPER_IR_TILE_ACCESS_H

#include "ir/tile.h"

/* A rectangle of one op: rows of the task's own row range that are counted from the task's first token (or output) row,
 * columns counted in the buffer (for a cache part: head * dim + element). */
typedef struct tile_access {
  int op;
  bool write;
  int64_t from, to; /* columns */
} tile_access;

/* The accesses of op `op` of a task of column index `col` to a buffer or cache: up to kind->group of them, one a member
 * of the group unless they touch. Returns their number; 0 for ops that touch neither. */
int tile_op_accesses(const tile_program *program, const tile_kind *kind, int op, int64_t col, tile_access *accesses,
                     int limit);

int64_t tile_head_count(const tile_op *op, int64_t col); /* head of a cache op in column task `col` */

/* Refs, operands, shapes, loops, and that every access lies inside its buffer, weight, cache, slab and page. DP_BUG
 * names the kind and the op. */
dp_status tile_well_formed(const tile_program *program);

#endif
