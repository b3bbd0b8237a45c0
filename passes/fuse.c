/* passes/fuse.c: the ops of each block gathered into groups, one task kind each. A product begins a group whose tasks
 * take a tile of its columns: elementwise ops on those columns follow it (the epilogue), and the row-wise ops that make
 * its left operand are cloned before it (the prologue), so that a norm is computed again by each product that reads it,
 * and never stored. What is left makes groups of whole rows. Weights, and layers of them, are cloned to where they are
 * used: a group's inputs are activations, i32 inputs, the layer index and caches. */
#include "passes/passes.h"

#include <string.h>

enum { NO_GROUP = -1 };

typedef enum role {
  ROLE_LEAF,    /* weights, constants and arithmetic on those alone: cloned into every group that uses it */
  ROLE_FIXED,   /* regions and terminators: not grouped */
  ROLE_PRODUCT, /* begins a group of column tiles */
  ROLE_ATTEND,  /* attention, the host's ops, rope_angles and what adds to gradients begin a group of their own: only attend's may be followed, by a reshape */
  ROLE_ROWS,    /* all others: they may join a product, be cloned before one, or make a group of whole rows */
} role;

/* The ops of one block, by their index, which is also in op->mark. A group is named by the index of its first op. */
typedef struct fusing {
  ir_graph *graph;
  dp_arena *arena;
  ir_block *block;
  ir_op **ops;
  role *roles;
  int *group;
  bool *kept;  /* a ROLE_ROWS op that is computed for itself: somebody needs it who cannot clone it */
  bool *needs; /* [user * count + op]: a direct use, also from inside a region */
  int *visited, visit;
  int count;
} fusing;

/* ---- what kind of op ------------------------------------------------------------------------------------------------ */

static bool has_rows(const ir_value *value) { return value->type.rank > 0 && value->type.dims[0].symbol; }

static role role_of(const ir_op *op) {
  unsigned traits = ir_op_info_of(op->code)->traits;
  if (traits & (IR_REGION | IR_TERMINATOR)) return ROLE_FIXED;
  switch (op->code) {
  case IR_OP_weight: case IR_OP_constant: case IR_OP_select: case IR_OP_saved: case IR_OP_cached:
    return ROLE_LEAF;
  case IR_OP_matmul: case IR_OP_head_matmul: case IR_OP_expert_matmul:
    return ROLE_PRODUCT;
  case IR_OP_host: case IR_OP_attend: case IR_OP_attend_rows: case IR_OP_attend_columns: case IR_OP_rope_angles:
  case IR_OP_accumulate_product: case IR_OP_accumulate_experts: case IR_OP_accumulate_sum: case IR_OP_accumulate_rows:
    return ROLE_ATTEND;
  default:
    return op->result_count && !has_rows(op->results[0]) ? ROLE_LEAF : ROLE_ROWS;
  }
}

/* Elements of a row, or of a value without rows. */
static int64_t columns_of(const ir_value *value) { return ir_static_size(&value->type, has_rows(value) ? 1 : 0); }

/* Which rows an op computes: an append's result is the sequence, its rows are those of what it appends. */
static ir_dim rows_of(const ir_op *op) {
  return op->code == IR_OP_append || !op->result_count ? op->operands[0]->type.dims[0] : op->results[0]->type.dims[0];
}

static bool same_rows(const fusing *f, int a, int b) { return ir_dim_equal(rows_of(f->ops[a]), rows_of(f->ops[b])); }

/* Index of the op of this block that defines `value`; -1 when there is none. */
static int definer(const fusing *f, const ir_value *value) {
  return value->def && value->def->parent == f->block ? value->def->mark : -1;
}

/* ---- who needs whom -------------------------------------------------------------------------------------------------- */

static void note_needs(fusing *f, int user, const ir_op *op) {
  for (int i = 0; i < op->operand_count; i++) {
    int at = definer(f, op->operands[i]);
    if (at >= 0) f->needs[user * f->count + at] = true;
  }
  if (!op->body) return;
  for (const ir_op *inner = op->body->first; inner; inner = inner->next) note_needs(f, user, inner);
}

/* Does op `from`, with the rest of its group, need anything of `group`? */
static bool reaches(fusing *f, int from, int group) {
  if (f->group[from] == group) return true;
  if (f->visited[from] == f->visit) return false;
  for (int i = 0; i < f->count; i++) {
    bool together = i == from || (f->group[from] != NO_GROUP && f->group[i] == f->group[from]);
    if (!together || f->visited[i] == f->visit) continue;
    f->visited[i] = f->visit;
    for (int at = 0; at < f->count; at++)
      if (f->needs[i * f->count + at] && reaches(f, at, group)) return true;
  }
  return false;
}

/* May `op` become part of `group`? Not when something it needs from elsewhere needs the group: neither could run first. */
static bool can_join(fusing *f, int op, int group) {
  for (int at = 0; at < f->count; at++) {
    if (!f->needs[op * f->count + at] || f->group[at] == group) continue;
    f->visit++;
    if (reaches(f, at, group)) return false;
  }
  return true;
}

/* ---- epilogues --------------------------------------------------------------------------------------------------------- */

/* Can the op make a tile of n columns out of the same columns of its operands? */
static bool fits_columns(const ir_op *op, int64_t n) {
  switch (op->code) {
  case IR_OP_reshape: case IR_OP_append: case IR_OP_rotate: case IR_OP_save: /* whole heads: the tile is cut between them */
    return columns_of(op->operands[0]) == n;
  default:
    if (!(ir_op_info_of(op->code)->traits & IR_ELEMENTWISE) || columns_of(op->results[0]) != n) return false;
    for (int i = 0; i < op->operand_count; i++) {
      int64_t columns = columns_of(op->operands[i]);
      if (columns != n && columns != 1) return false;
    }
    return true;
  }
}

/* Operands that an epilogue op takes column by column; rotate reads the angles as whole rows. */
static int tiled_operands(const ir_op *op) {
  return ir_op_info_of(op->code)->traits & IR_ELEMENTWISE ? op->operand_count : 1;
}

/* One matrix a head, or those that each token chose. */
static bool is_batched(const ir_op *op) { return op->code == IR_OP_head_matmul || op->code == IR_OP_expert_matmul; }

/* Groups of products of the same rows with the same left operand become one, if the whole can still run. */
static bool merge(fusing *f, int a, int b) {
  if (f->roles[a] != ROLE_PRODUCT || f->roles[b] != ROLE_PRODUCT) return false;
  if (f->ops[a]->code != f->ops[b]->code || f->ops[a]->operands[0] != f->ops[b]->operands[0]) return false;
  if (f->ops[a]->operand_count > 2 && f->ops[a]->operands[2] != f->ops[b]->operands[2]) return false;
  if (is_batched(f->ops[a]) && !ir_type_equal(&f->ops[a]->results[0]->type, &f->ops[b]->results[0]->type)) return false;
  int into = a < b ? a : b, other = a < b ? b : a;
  int *before = DP_NEW_ARRAY(f->arena, int, f->count);
  memcpy(before, f->group, sizeof *before * (size_t)f->count);
  for (int i = 0; i < f->count; i++)
    if (f->group[i] == other) f->group[i] = into;
  for (int i = 0; i < f->count; i++) {
    if (f->group[i] != into || can_join(f, i, into)) continue;
    memcpy(f->group, before, sizeof *before * (size_t)f->count);
    return false;
  }
  return true;
}

/* Of products with a matrix for each head or choice: elementwise ops on nothing but their results, and numbers, follow. */
static bool stays_in_batch(const fusing *f, const ir_op *op, int group) {
  if (!(ir_op_info_of(op->code)->traits & IR_ELEMENTWISE)) return false;
  for (int i = 0; i < op->operand_count; i++) {
    int at = definer(f, op->operands[i]);
    bool number = columns_of(op->operands[i]) == 1 && !has_rows(op->operands[i]);
    if (number) continue;
    if (at < 0 || f->group[at] == NO_GROUP || f->roles[f->group[at]] != ROLE_PRODUCT) return false;
    if (!is_batched(f->ops[f->group[at]])) return false;
  }
  return f->roles[group] == ROLE_PRODUCT;
}

/* Can an op follow the first op of a group on the same columns? */
static bool follows(const fusing *f, int index, int group) {
  const ir_op *op = f->ops[index], *first = f->ops[group];
  if (!same_rows(f, index, group)) return false;
  if (is_batched(first) && !stays_in_batch(f, op, group)) return false;
  if (f->roles[group] == ROLE_PRODUCT) return fits_columns(op, columns_of(first->results[0]));
  return op->code == IR_OP_reshape && first->code == IR_OP_attend;
}

static void join_product(fusing *f, int index) {
  for (int i = 0; i < tiled_operands(f->ops[index]); i++) {
    int at = definer(f, f->ops[index]->operands[i]), group = at < 0 ? NO_GROUP : f->group[at];
    int before = f->group[index];
    if (group == NO_GROUP || group == before || !follows(f, index, group)) continue;
    if (before != NO_GROUP && merge(f, before, group)) continue;
    if (before != NO_GROUP && group < before) continue; /* the later product reads what the earlier one stored */
    f->group[index] = NO_GROUP;
    f->group[index] = can_join(f, index, group) ? group : before;
  }
}

/* ---- prologues and whole rows --------------------------------------------------------------------------------------------- */

/* Is it made, column by column, of what lies in memory? Then an epilogue makes it again rather than load it. */
static bool made_in_columns(const fusing *f, int index, int64_t n) {
  const ir_op *op = f->ops[index];
  if (f->roles[index] == ROLE_LEAF) return true;
  if (f->roles[index] != ROLE_ROWS || f->group[index] != NO_GROUP || !(ir_op_info_of(op->code)->traits & IR_ELEMENTWISE) ||
      !fits_columns(op, n))
    return false;
  for (int i = 0; i < op->operand_count; i++) {
    int at = definer(f, op->operands[i]);
    if (at >= 0 && f->roles[at] != ROLE_LEAF && !(f->roles[at] == ROLE_ROWS && made_in_columns(f, at, n))) return false;
  }
  return true;
}

/* Must `op` be computed for the sake of `user`, or is it cloned there? */
static bool user_keeps(const fusing *f, int user, int op) {
  const ir_op *at = f->ops[user];
  const ir_value *result = f->ops[op]->results[0];
  if (f->roles[user] == ROLE_PRODUCT) return is_batched(at) || at->operands[1] == result;
  bool follows_product = f->group[user] != NO_GROUP && f->roles[f->group[user]] == ROLE_PRODUCT;
  if (f->roles[user] == ROLE_ROWS && follows_product && made_in_columns(f, op, columns_of(f->ops[f->group[user]]->results[0])))
    return is_batched(f->ops[f->group[user]]);
  if (f->roles[user] != ROLE_ROWS || f->group[user] != NO_GROUP || f->kept[user]) return true;
  return at->code == IR_OP_gather; /* its row is another task's */
}

static void mark_kept(fusing *f) {
  for (int i = f->count - 1; i >= 0; i--) {
    if (f->roles[i] != ROLE_ROWS || f->group[i] != NO_GROUP) continue;
    f->kept[i] = !(ir_op_info_of(f->ops[i]->code)->traits & IR_PURE);
    for (int user = i + 1; user < f->count && !f->kept[i]; user++)
      f->kept[i] = f->needs[user * f->count + i] && user_keeps(f, user, i);
  }
}

static void join_rows(fusing *f, int index) {
  const ir_op *op = f->ops[index];
  for (int i = 0; i < op->operand_count && op->code != IR_OP_gather; i++) {
    int at = definer(f, op->operands[i]), group = at < 0 ? NO_GROUP : f->group[at];
    if (group == NO_GROUP || f->roles[group] != ROLE_ROWS || !same_rows(f, index, group)) continue;
    if (!can_join(f, index, group)) continue;
    f->group[index] = group;
    return;
  }
  f->group[index] = index;
}

static void form_groups(fusing *f) {
  for (int i = 0; i < f->count; i++) {
    if (f->roles[i] == ROLE_PRODUCT || f->roles[i] == ROLE_ATTEND) f->group[i] = i;
    if (f->roles[i] == ROLE_ROWS) join_product(f, i);
  }
  mark_kept(f);
  for (int i = 0; i < f->count; i++)
    if (f->kept[i]) join_rows(f, i);
}

/* ---- building the groups ------------------------------------------------------------------------------------------------------ */

/* A group under construction: what each value from outside became in its body. */
typedef struct building {
  fusing *f;
  ir_block *body;
  ir_value **inputs, **from, **to;
  int input_count, input_cap, from_count, from_cap, to_count, to_cap;
} building;

static void map_value(building *b, ir_value *from, ir_value *to) {
  DP_PUSH(b->f->arena, b->from, b->from_count, b->from_cap) = from;
  DP_PUSH(b->f->arena, b->to, b->to_count, b->to_cap) = to;
}

static ir_value *clone_into(building *b, ir_op *op);

/* Makes `value` known in the body: as a clone of what defines it, or as an input. */
static ir_value *import(building *b, ir_value *value) {
  for (int i = 0; i < b->from_count; i++)
    if (b->from[i] == value) return b->to[i];
  int at = definer(b->f, value);
  if (value->def && role_of(value->def) == ROLE_LEAF) return clone_into(b, value->def);
  if (at >= 0 && b->f->roles[at] == ROLE_ROWS && b->f->group[at] == NO_GROUP) return clone_into(b, value->def);
  DP_PUSH(b->f->arena, b->inputs, b->input_count, b->input_cap) = value;
  ir_value *arg = ir_add_arg(b->body, &value->type, value->name);
  map_value(b, value, arg);
  return arg;
}

static ir_value *clone_into(building *b, ir_op *op) {
  int n = op->operand_count;
  ir_value **to = DP_NEW_ARRAY(b->f->arena, ir_value *, n);
  for (int i = 0; i < n; i++) to[i] = import(b, op->operands[i]);
  ir_op *copy = ir_clone(op, b->body, NULL, op->operands, to, n);
  /* Arithmetic on weights is cloned for each use: one may read whole rows, another a column tile. */
  bool shared = role_of(op) != ROLE_LEAF || op->code == IR_OP_weight || op->code == IR_OP_select;
  for (int i = 0; i < op->result_count && shared; i++) map_value(b, op->results[i], copy->results[i]);
  return copy->result_count ? copy->results[0] : NULL;
}

static const char *weight_name(const ir_value *value) {
  while (value->def && value->def->code == IR_OP_select) value = value->def->operands[0];
  return value->def && value->def->code == IR_OP_weight ? ir_get_string(value->def, "name", "") : NULL;
}

/* Named after the weights it multiplies with, or else its first op, or the table that op reads. */
static const char *name_of(const fusing *f, int group) {
  const char *name = NULL;
  for (int i = 0; i < f->count; i++) {
    if (f->group[i] != group || f->roles[i] != ROLE_PRODUCT) continue;
    const char *weight = weight_name(f->ops[i]->operands[1]);
    if (weight) name = name ? dp_arena_printf(f->arena, "%s_%s", name, weight) : weight;
  }
  const char *gradient = ir_get_string(f->ops[group], "weight", NULL);
  if (!name && gradient) return dp_arena_printf(f->arena, "d_%s", gradient);
  if (!name && f->ops[group]->code == IR_OP_gather) name = weight_name(f->ops[group]->operands[0]);
  return name ? name : ir_op_info_of(f->ops[group]->code)->name;
}

/* A result without a hint takes that of what it was made from in the group: rotate(q) is called q. */
static const char *result_name(const fusing *f, const ir_value *value, int group) {
  for (const ir_value *from = value;; from = from->def->operands[0]) {
    if (from->name) return from->name;
    int at = definer(f, from);
    if (at < 0 || f->group[at] != group || f->roles[at] == ROLE_PRODUCT) return name_of(f, group);
  }
}

static bool used_outside(const fusing *f, int op, int group) {
  for (int user = 0; user < f->count; user++)
    if (f->needs[user * f->count + op] && f->group[user] != group) return true;
  return false;
}

static dp_status build_group(fusing *f, int group) {
  building b = {.f = f, .body = ir_block_new(f->graph->block->module, NULL)};
  int most = 2 * f->count; /* no op has more than two results */
  ir_value **outer = DP_NEW_ARRAY(f->arena, ir_value *, most), **inner = DP_NEW_ARRAY(f->arena, ir_value *, most);
  int results = 0;
  for (int i = 0; i < f->count; i++) {
    if (f->group[i] != group) continue;
    ir_value *made = clone_into(&b, f->ops[i]);
    if (!used_outside(f, i, group)) continue;
    for (int j = 0; j < f->ops[i]->result_count; j++) {
      outer[results] = f->ops[i]->results[j];
      inner[results++] = made->def->results[j];
    }
  }
  dp_loc loc = f->ops[group]->loc;
  DP_CHECK(ir_emit(b.body, NULL, IR_OP_yield, inner, results, NULL, 0, NULL, loc, NULL), "fuse: yield");
  ir_attr name = ir_attr_s("name", name_of(f, group));
  ir_op *op = ir_emit(f->block, f->block->last, IR_OP_group, b.inputs, b.input_count, &name, 1, b.body, loc, NULL);
  DP_CHECK(op, "fuse: group %s", name.s);
  op->mark = -1; /* none of the ops that were here: `definer` does not know it */
  for (int i = 0; i < results; i++) {
    op->results[i]->name = dp_arena_strdup(f->graph->block->module->arena, result_name(f, outer[i], group));
    ir_replace_uses(f->graph->block, outer[i], op->results[i]);
  }
  return DP_SUCCESS;
}

/* ---- groups in order ------------------------------------------------------------------------------------------------------------ */

/* Has everything that `op` needs been placed? What is cloned counts by what it needs itself. */
static bool is_ready(const fusing *f, int op, const bool *placed) {
  for (int at = 0; at < f->count; at++) {
    if (!f->needs[op * f->count + at] || f->roles[at] == ROLE_LEAF) continue;
    bool cloned = f->roles[at] == ROLE_ROWS && f->group[at] == NO_GROUP;
    bool together = f->group[at] != NO_GROUP && f->group[at] == f->group[op];
    if (cloned ? !is_ready(f, at, placed) : !placed[at] && !together) return false;
  }
  return true;
}

static bool group_is_ready(const fusing *f, int group, const bool *placed) {
  for (int i = 0; i < f->count; i++)
    if ((i == group || (f->group[i] != NO_GROUP && f->group[i] == group)) && !is_ready(f, i, placed)) return false;
  return true;
}

static dp_status place_groups(fusing *f) {
  bool *placed = DP_NEW_ARRAY(f->arena, bool, f->count);
  for (bool progress = true; progress;) {
    progress = false;
    for (int i = 0; i < f->count - 1 && !progress; i++) { /* the last one is the terminator */
      bool fixed = f->roles[i] == ROLE_FIXED;
      if (placed[i] || (!fixed && f->group[i] != i) || !group_is_ready(f, i, placed)) continue;
      for (int at = 0; at < f->count; at++) placed[at] |= at == i || (f->group[at] != NO_GROUP && f->group[at] == i);
      progress = true;
      if (!fixed) {
        DP_TRY(build_group(f, i));
      } else {
        ir_unlink(f->ops[i]);
        ir_insert(f->block, f->block->last, f->ops[i]);
      }
    }
  }
  for (int i = 0; i < f->count - 1; i++)
    DP_CHECK(placed[i] || (f->roles[i] != ROLE_FIXED && f->group[i] == NO_GROUP), "fuse: %s is in a circle of groups",
             ir_op_info_of(f->ops[i]->code)->name);
  return DP_SUCCESS;
}

static dp_status fuse_block(ir_graph *graph, ir_block *block, dp_arena *arena) {
  fusing f = {.graph = graph, .arena = arena, .block = block};
  for (ir_op *op = block->first; op; op = op->next) {
    if (op->code == IR_OP_loop) DP_TRY(fuse_block(graph, op->body, arena));
    f.count++;
  }
  f.ops = DP_NEW_ARRAY(arena, ir_op *, f.count);
  f.roles = DP_NEW_ARRAY(arena, role, f.count);
  f.group = DP_NEW_ARRAY(arena, int, f.count);
  f.kept = DP_NEW_ARRAY(arena, bool, f.count);
  f.needs = DP_NEW_ARRAY(arena, bool, f.count * f.count);
  f.visited = DP_NEW_ARRAY(arena, int, f.count);
  int index = 0;
  for (ir_op *op = block->first; op; op = op->next, index++) {
    f.ops[index] = op;
    f.roles[index] = role_of(op);
    f.group[index] = NO_GROUP;
    op->mark = index;
  }
  for (int i = 0; i < f.count; i++) note_needs(&f, i, f.ops[i]);
  form_groups(&f);
  DP_TRY(place_groups(&f));
  for (int i = 0; i < f.count; i++)
    if (f.roles[i] != ROLE_FIXED && f.roles[i] != ROLE_LEAF) ir_unlink(f.ops[i]);
  return DP_SUCCESS;
}

/* Leaves that were cloned to all their uses. From the last op to the first: users go before what they use. */
static void drop_unused_leaves(ir_graph *graph, ir_block *block) {
  for (ir_op *op = block->last, *previous; op; op = previous) {
    previous = op->previous;
    if (op->code == IR_OP_loop) drop_unused_leaves(graph, op->body);
    if (role_of(op) == ROLE_LEAF && !ir_count_uses(graph->block, op->results[0])) ir_unlink(op);
  }
}

dp_status pass_fuse(ir_module *module) {
  dp_arena *arena = dp_arena_new();
  if (!arena) return (dp_status){DP_NO_MEMORY, NULL};
  dp_status status = DP_SUCCESS;
  for (ir_graph *graph = module->graphs; graph && status.code == DP_OK; graph = graph->next) {
    status = fuse_block(graph, graph->block, arena);
    drop_unused_leaves(graph, graph->block);
  }
  dp_arena_free(arena);
  return status;
}
