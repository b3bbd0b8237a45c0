/* ir/tile_text.c: a tile program as a text for people (docs/tile.md), not read back. It also stands for the program in
 * the compile cache's key: everything that determines generated code must be in it, floats to the last bit. */
#include "ir/tile_access.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

static const char *const space_names[TILE_SPACE_COUNT] = {"tokens", "segments", "outputs", "parameters", "states", "window", "numbers"};

/* ---- names: @x, or @x#3 when another of its table has the same name */

/* Names of a table whose rows are `size` bytes apart; the name is the first member. */
static void add_name(dp_str *out, const void *table, size_t size, int count, int index) {
  const char *const *first = table;
  const char *name = *(const char *const *)(const void *)((const char *)table + size * (size_t)index);
  int bearers = 0;
  for (int i = 0; i < count; i++) {
    const char *other = *(const char *const *)(const void *)((const char *)first + size * (size_t)i);
    bearers += name && other && strcmp(name, other) == 0;
  }
  dp_str_add(out, name ? name : "");
  if (bearers != 1) dp_str_addf(out, "#%d", index);
}

static void add_buffer(dp_str *out, const tile_program *p, int index) {
  dp_str_addc(out, '@');
  add_name(out, p->buffers, sizeof *p->buffers, p->buffer_count, index);
}

static void add_weight(dp_str *out, const tile_program *p, int index) {
  dp_str_addc(out, '@');
  add_name(out, p->weights, sizeof *p->weights, p->weight_count, index);
}

static void add_cache(dp_str *out, const tile_program *p, int index) {
  dp_str_addc(out, '@');
  add_name(out, p->caches, sizeof *p->caches, p->cache_count, index);
}

static void add_input(dp_str *out, const tile_program *p, int index) {
  add_name(out, p->inputs, sizeof *p->inputs, p->input_count, index);
}

static void add_kind(dp_str *out, const tile_program *p, int index) {
  add_name(out, p->kinds, sizeof *p->kinds, p->kind_count, index);
}

/* A group is called by its kind, numbered when the kind runs in several groups. */
static void add_group(dp_str *out, const tile_program *p, int index) {
  int alike = 0;
  for (int i = 0; i < p->group_count; i++) alike += p->groups[i].kind == p->groups[index].kind;
  add_kind(out, p, p->groups[index].kind);
  if (alike > 1) dp_str_addf(out, "(%d)", index);
}

/* ---- memory */

static void print_memory(dp_str *out, const tile_program *p) {
  dp_str_addf(out, "  slab of a row tile: %" PRId64 " bytes for tokens, %" PRId64 " for outputs\n",
              p->slab_bytes[TILE_TOKENS], p->slab_bytes[TILE_OUTPUTS]);
  dp_str_add(out, "  inputs:");
  for (int i = 0; i < p->input_count; i++) {
    dp_str_add(out, i ? ", " : " ");
    add_input(out, p, i);
  }
  dp_str_addf(out, "\n  outputs: %d\n  weight slots: %d\n", p->output_count, p->slot_count);
  if (p->window) dp_str_addf(out, "  windows of %d row tiles, %" PRId64 " bytes each\n", p->window, p->slab_bytes[TILE_WINDOW]);
  if (p->slab_bytes[TILE_NUMBERS]) dp_str_addf(out, "  numbers: %" PRId64 " bytes\n", p->slab_bytes[TILE_NUMBERS]);
  if (p->cache_count) dp_str_addf(out, "  cache page: %d positions, %" PRId64 " bytes\n", TILE_CHUNK, p->page_bytes);
}

static void print_buffer(dp_str *out, const tile_program *p, int index) {
  const tile_buffer *buffer = &p->buffers[index];
  dp_str_add(out, "  buffer ");
  add_buffer(out, p, index);
  dp_str_addf(out, ": %s x %" PRId64 ", stride %" PRId64 ", ", space_names[buffer->space], buffer->cols,
              buffer->stride);
  if (buffer->output >= 0)
    dp_str_addf(out, "output %d\n", buffer->output);
  else
    dp_str_addf(out, "bytes %" PRId64 " to %" PRId64 " of the slab\n", buffer->offset,
                buffer->offset + tile_buffer_bytes(p, buffer));
  if (buffer->layers) dp_str_addf(out, "    a stack of %d layers from %d on\n", buffer->layers, buffer->first_layer);
}

static void print_weight(dp_str *out, const tile_program *p, int index) {
  const tile_weight *weight = &p->weights[index];
  dp_str_add(out, "  weight ");
  add_weight(out, p, index);
  dp_str_addf(out, ": %s ", weight->form == TILE_VECTOR ? "vector" : "matrix");
  if (weight->form == TILE_VECTOR)
    dp_str_addf(out, "[%" PRId64 "]", weight->cols);
  else
    dp_str_addf(out, "[%" PRId64 ", %" PRId64 "]", weight->rows, weight->cols);
  if (weight->transposed) dp_str_add(out, " (file: transposed)");
  dp_str_addf(out, ", slot %d", weight->first_slot);
  if (weight->first_layer) dp_str_addf(out, " + layer - %d of %d", weight->first_layer, weight->count);
  else if (weight->count > 1) dp_str_addf(out, " + layer of %d", weight->count);
  if (weight->inner > 1) dp_str_addf(out, ", %d a layer", weight->inner);
  dp_str_add(out, ", stored as");
  const char *separator = " ";
  for (int dtype = 0; dtype < IR_DTYPE_COUNT; dtype++) {
    if (!(weight->storage >> dtype & 1)) continue;
    dp_str_addf(out, "%s%s", separator, ir_dtype_name((ir_dtype)dtype));
    separator = " or ";
  }
  if (!weight->storage) dp_str_add(out, " f32");
  dp_str_addf(out, ", module weight %d\n", weight->weight);
}

static void print_cache(dp_str *out, const tile_program *p, int index) {
  const tile_cache *cache = &p->caches[index];
  dp_str_add(out, "  cache ");
  add_cache(out, p, index);
  dp_str_addf(out,
              ": %d layers x %d heads, keys of %" PRId64 " (%" PRId64 " floats a page), values of %" PRId64 " (%" PRId64
              " floats a page), from byte %" PRId64 " of the page\n",
              cache->layers, cache->heads, cache->dim[0], cache->key_elements, cache->dim[1], cache->value_elements,
              cache->offset);
  if (cache->shared) dp_str_add(out, "    shared by the layers\n");
  if (cache->storage != IR_f32) dp_str_addf(out, "    stored as %s\n", ir_dtype_name(cache->storage));
}

/* ---- ops */

/* Nine digits bring an f32 back to the bit; NaNs differ in their bits only. */
static void add_float(dp_str *out, float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  if (isnan(x))
    dp_str_addf(out, "nan:%08" PRIx32, bits);
  else
    dp_str_addf(out, "%.9g", (double)x);
}

/* "col*192+:192": first column (or weight row) and how many; "<=" where the last column task has fewer. `counted`: the
 * op whose columns they are (op itself, but for append its operand). */
static void add_columns_of(dp_str *out, const tile_op *op, const tile_op *counted, const char *what) {
  dp_str_addf(out, " %s ", what);
  const char *plus = "";
  if (op->col_base || (!op->col_step && !op->group_step && !op->batch_step && !op->row_step)) {
    dp_str_addf(out, "%" PRId64, op->col_base);
    plus = "+";
  }
  if (op->col_step) {
    dp_str_addf(out, "%scol*%" PRId64, plus, op->col_step);
    plus = "+";
  }
  if (op->batch_step) {
    dp_str_addf(out, "%sbatch*%" PRId64, plus, op->batch_step);
    plus = "+";
  }
  if (op->row_step) {
    dp_str_addf(out, "%srow*%" PRId64, plus, op->row_step);
    plus = "+";
  }
  if (op->group_step) dp_str_addf(out, "%smember*%" PRId64, plus, op->group_step);
  dp_str_addf(out, "+:%s%d", counted->column_tile ? "<=" : "", counted->cols);
}

static void add_columns(dp_str *out, const tile_op *op, const char *what) { add_columns_of(out, op, op, what); }

static void add_buffer_place(dp_str *out, const tile_program *p, const tile_op *op) {
  add_buffer(out, p, op->ref);
  if (op->index >= 0) {
    dp_str_add(out, " rows ");
    add_input(out, p, op->index);
    dp_str_add(out, "[row]");
  }
  add_columns(out, op, "columns");
}

static void add_numbers(dp_str *out, const tile_op *op) {
  dp_str_addc(out, '{');
  for (int i = 0; i < op->cols; i++) {
    dp_str_add(out, i ? ", " : "");
    add_float(out, op->data[i]);
  }
  dp_str_addc(out, '}');
}

static void add_list(dp_str *out, const int *values, int count) {
  for (int i = 0; i < count; i++) dp_str_addf(out, "%s%%%d", i ? ", " : "", values[i]);
}

static void add_head(dp_str *out, const tile_op *op) {
  dp_str_add(out, "col");
  if (op->inner > 1) dp_str_addf(out, "*%" PRId64, op->inner);
  if (op->outer) dp_str_addf(out, "+%" PRId64, op->outer);
}

/* What an op has beside its operands. */
static void add_state(dp_str *out, const tile_program *p, const tile_op *op) {
  static const char *const names[TILE_STATE_COUNT] = {"value", "gradient", "moment 1", "moment 2", "master"};
  dp_str_addf(out, "%s of ", names[op->part]);
  add_weight(out, p, op->ref);
}

static void add_details(dp_str *out, const tile_program *p, const tile_kind *kind, const tile_op *op) {
  switch (op->code) {
  case TILE_constant:
    add_float(out, op->imm);
    break;
  case TILE_table:
    add_numbers(out, op);
    break;
  case TILE_load:
    add_buffer_place(out, p, op);
    break;
  case TILE_store:
    dp_str_add(out, ", ");
    add_buffer_place(out, p, op);
    break;
  case TILE_vector:
    add_weight(out, p, op->ref);
    add_columns(out, op, "columns");
    break;
  case TILE_embed:
    add_weight(out, p, op->ref);
    dp_str_add(out, " row ");
    add_input(out, p, op->index);
    dp_str_add(out, "[row]");
    add_columns(out, op, "columns");
    break;
  case TILE_input:
    add_input(out, p, op->ref);
    if (op->part) dp_str_add(out, " as bits");
    break;
  case TILE_noise:
    for (int i = 0; i < 3; i++) {
      if (i) dp_str_addc(out, ',');
      add_input(out, p, i == 0 ? op->ref : i == 1 ? op->index : op->part);
    }
    add_columns(out, op, "columns");
    break;
  case TILE_best:
    add_columns(out, op, "columns");
    break;
  case TILE_choose:
    add_buffer(out, p, op->ref);
    dp_str_addf(out, " columns 0+:%" PRId64, op->dim);
    break;
  case TILE_every:
    dp_str_addf(out, "%" PRId64 " from %d", op->dim, op->part);
    break;
  case TILE_pick:
    dp_str_addf(out, " at %" PRId64 " + c / %" PRId64 " * %" PRId64 " + c %% %" PRId64 " * %" PRId64, op->col_base, op->dim,
                op->outer, op->dim, op->inner);
    break;
  case TILE_concat:
    dp_str_addf(out, " after %" PRId64, op->dim);
    break;
  case TILE_top_k:
  case TILE_take:
  case TILE_place:
  case TILE_among:
    dp_str_addf(out, ", %" PRId64 " a head", op->dim);
    break;
  case TILE_loop:
    if (op->part) dp_str_add(out, " from its own");
    if (op->list_count) dp_str_addc(out, ' ');
    add_list(out, op->list, op->list_count);
    break;
  case TILE_rotate:
    dp_str_addf(out, " in heads of %" PRId64 "%s", op->dim, op->part ? ", back" : "");
    break;
  case TILE_mma_back:
    dp_str_add(out, ", ");
    add_weight(out, p, op->ref);
    add_columns(out, op, "columns");
    break;
  case TILE_random:
    dp_str_add(out, " for ");
    add_weight(out, p, op->ref);
    break;
  case TILE_parameter:
    add_state(out, p, op);
    break;
  case TILE_assign:
    dp_str_add(out, ", ");
    add_state(out, p, op);
    break;
  case TILE_window:
    if (op->part) dp_str_add(out, ", of what sees it");
    break;
  case TILE_hot:
    add_columns(out, op, "columns");
    break;
  case TILE_mma_rows: case TILE_sum_rows: case TILE_scatter_rows:
    dp_str_add(out, ", gradient of ");
    add_weight(out, p, op->ref);
    if (op->index >= 0) {
      dp_str_add(out, " row ");
      add_input(out, p, op->index);
      dp_str_add(out, "[row]");
    }
    break;
  case TILE_keys_row:
    add_cache(out, p, op->ref);
    dp_str_addf(out, " element %" PRId64 " of keys of head ", op->dim);
    add_head(out, op);
    break;
  case TILE_mma:
    dp_str_add(out, ", ");
    add_weight(out, p, op->ref);
    add_columns(out, op, "rows");
    break;
  case TILE_mma_keys:
  case TILE_mma_values:
    dp_str_add(out, ", ");
    add_cache(out, p, op->ref);
    dp_str_addf(out, " %s of head ", op->code == TILE_mma_keys ? "keys" : "values");
    add_head(out, op);
    break;
  case TILE_append:
    dp_str_add(out, ", ");
    add_cache(out, p, op->ref);
    dp_str_add(out, op->part ? " values" : " keys");
    add_columns_of(out, op, &kind->ops[op->operands[0]], "columns");
    dp_str_addf(out, " in heads of %" PRId64, op->dim);
    break;
  case TILE_next:
    add_list(out, op->list, op->list_count);
    break;
  default:
    break;
  }
}

static void print_op(dp_str *out, const tile_program *p, const tile_kind *kind, int index, int depth) {
  const tile_op *op = &kind->ops[index];
  dp_str_addf(out, "%*s", 4 + 2 * depth, "");
  if (tile_has_value(op->code)) dp_str_addf(out, "%%%d = ", index);
  dp_str_add(out, tile_opcode_name(op->code));
  if (op->code != TILE_loop) dp_str_addc(out, ' ');
  add_list(out, op->operands, tile_operand_count(op->code));
  add_details(out, p, kind, op);
  if (tile_has_value(op->code))
    dp_str_addf(out, " : [%s, %s%d]", op->one_row ? "1" : "rows", op->column_tile ? "<=" : "", op->cols);
  if (op->origin) dp_str_addf(out, "  ; %s", op->origin);
  dp_str_addc(out, '\n');
}

void tile_print_kind(dp_str *out, const tile_program *p, int index) {
  const tile_kind *kind = &p->kinds[index];
  dp_str_add(out, "\n  kind ");
  add_kind(out, p, index);
  dp_str_addf(out, " over %s: at most %d rows", space_names[kind->space], kind->max_rows);
  if (kind->group != 1) dp_str_addf(out, ", %d a token", kind->group);
  if (kind->used) dp_str_addf(out, ", of tokens that chose the batch, %d of %d", kind->used, kind->batches);
  if (kind->whole) dp_str_add(out, ", over the whole sequence");
  if (kind->window) dp_str_addf(out, ", in windows of %d", kind->window);
  if (kind->slots) dp_str_addf(out, ", of each of %d slots", kind->slots);
  int tasks = tile_batch_tasks(kind);
  dp_str_addf(out, "; %" PRId64 " columns in %d task%s of %d", kind->columns, tasks, tasks == 1 ? "" : "s", kind->col_tile);
  if (kind->batches > 1) dp_str_addf(out, ", in each of %d batches", kind->batches);
  if (kind->prologue) dp_str_addf(out, "; ops before %%%d serve every column", kind->prologue);
  dp_str_addc(out, '\n');
  int depth = 0;
  for (int i = 0; i < kind->op_count; i++) {
    depth -= kind->ops[i].code == TILE_next && depth;
    print_op(out, p, kind, i, depth);
    depth += kind->ops[i].code == TILE_loop;
  }
}

/* ---- the task graph */

static const char *const scope_words[] = {[TILE_ROW] = "row", [TILE_PREFIX] = "prefix", [TILE_ALL] = "all"};
static const char *const when_words[] = {[TILE_EVERY] = "", [TILE_FIRST] = "first ", [TILE_PREVIOUS] = "previous "};

static void print_group(dp_str *out, const tile_program *p, int index) {
  const tile_group *group = &p->groups[index];
  const tile_kind *kind = &p->kinds[group->kind];
  dp_str_addf(out, "    group %d ", index);
  add_kind(out, p, group->kind);
  dp_str_addf(out, ": counter of %d task%s a %s", kind->col_tasks, kind->col_tasks == 1 ? "" : "s",
              kind->space == TILE_SEGMENTS ? "segment of the row tile" : "row tile");
  for (int i = 0; i < group->wait_count; i++) {
    const tile_wait *wait = &group->waits[i];
    dp_str_add(out, i ? ", " : "; waits ");
    add_group(out, p, wait->group);
    dp_str_addf(out, " %s%s", when_words[wait->when], scope_words[wait->scope]);
  }
  dp_str_addc(out, '\n');
}

static void print_section(dp_str *out, const tile_program *p, int index) {
  const tile_section *section = &p->sections[index];
  if (section->iterations == 1 && !section->base)
    dp_str_addf(out, "\n  section %d: once\n", index);
  else if (section->base)
    dp_str_addf(out, "\n  section %d: %d times, iteration + %d = layer\n", index, section->iterations, section->base);
  else
    dp_str_addf(out, "\n  section %d: %d times, iteration = layer\n", index, section->iterations);
  if (section->window) dp_str_addf(out, "    in windows of %d row tiles\n", section->window);
  if (section->reverse) dp_str_add(out, "    the last layer first\n");
  for (int i = 0; i < section->count; i++) print_group(out, p, section->first + i);
}

void tile_print(dp_str *out, const tile_program *program) {
  dp_str_addf(out, "tile program %s: row tiles of %d, segments of at most %d tokens\n", program->name,
              program->row_tile, program->segment_tokens);
  if (program->tensor) {
    dp_str_add(out, "  products by matrix units:");
    for (int type = 0; type < IR_DTYPE_COUNT; type++)
      if (program->tensor >> type & 1) dp_str_addf(out, " %s", ir_dtype_name((ir_dtype)type));
    dp_str_addc(out, '\n');
  }
  print_memory(out, program);
  for (int i = 0; i < program->buffer_count; i++) print_buffer(out, program, i);
  for (int i = 0; i < program->weight_count; i++) print_weight(out, program, i);
  for (int i = 0; i < program->cache_count; i++) print_cache(out, program, i);
  for (int i = 0; i < program->kind_count; i++) tile_print_kind(out, program, i);
  for (int i = 0; i < program->section_count; i++) {
    for (int e = 0; program->entry_count > 1 && e < program->entry_count; e++)
      if (program->entries[e].first == i)
        dp_str_addf(out, "\n  entry %d: %s, sections %d to %d\n", e, program->entries[e].name, i, i + program->entries[e].count - 1);
    print_section(out, program, i);
  }
}
