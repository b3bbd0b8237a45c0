/* codegen/interp/interp.c: the executable definition of the tile ops as a back end: its "object" only names the
 * program, its code walks the ops, each value a [rows][cols] array in the worker's scratch. Slow, and the oracle of the
 * others. */
#include "codegen/interp/interp.h"
#include "codegen/codegen.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const char version[] = "interp 7";

/* ---- where values lie: an op's own place, and for a carry a second one where `next` leaves the coming value, so that
 * all carries change at once */

static int64_t value_floats(const tile_kind *kind, const tile_op *op) {
  switch (op->code) {
  case TILE_loop:
  case TILE_next:
  case TILE_store:
  case TILE_append:
  case TILE_assign:
  case TILE_mma_rows:
  case TILE_sum_rows:
  case TILE_scatter_rows:
    return 0;
  case TILE_load:
    if (kind->space == TILE_PARAMETERS) return 0; /* read where it lies */
    return kind->max_rows * (int64_t)op->cols;
  case TILE_choose: /* the rows' numbers */
    return kind->max_rows;
  default:
    return (op->one_row ? 1 : kind->max_rows) * (int64_t)op->cols;
  }
}

/* Fills place[op_count] when not NULL; returns the floats of scratch that the kind takes. */
static int64_t place_values(const tile_kind *kind, int64_t *place) {
  int64_t floats = 0;
  for (int i = 0; i < kind->op_count; i++) {
    if (place) place[i] = floats;
    floats += value_floats(kind, &kind->ops[i]) * (kind->ops[i].code == TILE_carry ? 2 : 1);
  }
  return floats;
}

/* ---- a task */

typedef struct interp_code {
  tile_code code;
  const tile_program *program;
  int64_t **places; /* per kind */
} interp_code;

static void copy_value(const interp_task *task, float *to, const tile_op *op, int from) {
  for (int64_t r = 0; r < interp_rows(task, op); r++)
    for (int64_t c = 0; c < interp_columns(task, op); c++)
      to[r * op->cols + c] = interp_element(task, from, r, c, op->cols);
}

static float *coming_value(const interp_task *task, int carry) {
  return interp_value(task, carry) + value_floats(task->kind, &task->kind->ops[carry]);
}

static void take_coming_value(const interp_task *task, int carry) {
  int64_t floats = value_floats(task->kind, &task->kind->ops[carry]);
  memcpy(interp_value(task, carry), coming_value(task, carry), sizeof(float) * (size_t)floats);
}

/* `next` of the loop that begins at op `begin`; true when another chunk follows. */
static bool end_chunk(interp_task *task, int begin, const tile_op *next) {
  for (int i = 0; i < next->list_count; i++)
    copy_value(task, coming_value(task, begin + 1 + i), &task->kind->ops[begin + 1 + i], next->list[i]);
  for (int i = 0; i < next->list_count; i++) take_coming_value(task, begin + 1 + i);
  task->chunk++;
  return task->chunk <= interp_last_position(task) / TILE_CHUNK;
}

static void run_ops(interp_task *task, int first) {
  int begin = 0;
  int64_t first_chunk = 0;
  for (int i = first; i < task->kind->op_count; i++) {
    const tile_op *op = &task->kind->ops[i];
    if (op->code == TILE_loop) {
      begin = i;
      task->chunk = first_chunk = interp_first_chunk(task, i);
    } else if (op->code == TILE_carry) {
      if (task->chunk == first_chunk) copy_value(task, interp_value(task, i), op, op->operands[0]);
    } else if (op->code == TILE_next) {
      if (end_chunk(task, begin, op)) i = begin;
    } else {
      interp_op(task, i);
    }
  }
}

static void run(const tile_code *code, int kind_index, const tile_step *step, int64_t layer, int64_t row, int64_t col,
                void *scratch, int64_t reuse) {
  const interp_code *self = code->self;
  const tile_kind *kind = &self->program->kinds[kind_index];
  interp_task task = {.program = self->program,
                      .kind = kind,
                      .step = step,
                      .place = self->places[kind_index],
                      .scratch = scratch,
                      .layer = layer,
                      .row = row,
                      .col = col % tile_batch_tasks(kind),
                      .batch = col / tile_batch_tasks(kind)};
  if (kind->space == TILE_SEGMENTS) {
    task.row0 = step->segment_row[row];
    task.tokens = step->segment_tokens[row];
  } else if (kind->space == TILE_STATES) {
    task.tokens = 1;
  } else {
    int64_t left = step->rows[kind->space] - row * self->program->row_tile;
    task.row0 = row * self->program->row_tile;
    task.tokens = left < self->program->row_tile ? left : self->program->row_tile;
  }
  task.rows = task.tokens * kind->group;
  if (kind->used && kind->space != TILE_PARAMETERS) interp_choose(&task);
  int64_t left = kind->columns - task.col * kind->col_tile;
  task.columns = left < kind->col_tile ? left : kind->col_tile;
  run_ops(&task, reuse ? kind->prologue : 0);
}

/* ---- the vtable */

static dp_status fingerprint(const cg_target *target, dp_str *out) {
  (void)target;
  dp_str_add(out, version);
  return DP_SUCCESS;
}

/* What the object says: the program it belongs to. */
static dp_status describe(const tile_program *program, dp_str *out) {
  dp_str text = {0};
  tile_print(&text, program);
  dp_str_addf(out, "%s %016" PRIx64 "\n", version, dp_hash(0, text.text, text.length));
  bool failed = text.failed || out->failed;
  dp_str_free(&text);
  return failed ? dp_fail(DP_NO_MEMORY, "no memory for a program's text") : DP_SUCCESS;
}

static dp_status compile(const tile_program *program, const cg_target *target, cg_object *object) {
  (void)target;
  dp_str bytes = {0};
  *object = (cg_object){0};
  dp_status status = describe(program, &bytes);
  if (status.code == DP_OK)
    *object = (cg_object){bytes.text, bytes.length};
  else
    dp_str_free(&bytes);
  return status;
}

static void unload(tile_code *code) {
  interp_code *self = code->self;
  for (int i = 0; self->places && i < self->program->kind_count; i++) free(self->places[i]);
  free(self->places);
  free(self);
}

static dp_status new_code(const tile_program *program, tile_code **code) {
  interp_code *self = calloc(1, sizeof *self);
  if (!self) return dp_fail(DP_NO_MEMORY, "no memory to load code");
  self->code = (tile_code){.run = run, .free = unload, .self = self};
  self->program = program;
  self->places = calloc((size_t)program->kind_count + 1, sizeof *self->places);
  bool complete = self->places != NULL;
  for (int i = 0; complete && i < program->kind_count; i++) {
    const tile_kind *kind = &program->kinds[i];
    self->places[i] = malloc(sizeof(int64_t) * (size_t)(kind->op_count + 1));
    complete = self->places[i] != NULL;
    if (!complete) break;
    size_t bytes = sizeof(float) * (size_t)place_values(kind, self->places[i]);
    if (bytes > self->code.scratch_bytes) self->code.scratch_bytes = bytes;
  }
  if (!complete) {
    unload(&self->code);
    return dp_fail(DP_NO_MEMORY, "no memory to load code");
  }
  *code = &self->code;
  return DP_SUCCESS;
}

static dp_status load(const tile_program *program, const cg_object *object, tile_code **code) {
  dp_str expected = {0};
  dp_status status = describe(program, &expected);
  if (status.code == DP_OK &&
      (expected.length != object->size || memcmp(expected.text, object->bytes, object->size) != 0))
    status = dp_fail(DP_INVALID, "the object is not code of program '%s'", program->name);
  dp_str_free(&expected);
  return status.code == DP_OK ? new_code(program, code) : status;
}

static dp_status text(const tile_program *program, const cg_target *target, cg_text kind, dp_str *out) {
  (void)target;
  if (kind != CG_TEXT_IR) return dp_fail(DP_UNSUPPORTED, "the interpreter has neither assembly nor machine code");
  tile_print(out, program);
  return DP_SUCCESS;
}

const cg_backend cg_interp = {
    .name = "interp",
    .doc = "runs the tile program op by op: slow, the definition the other back ends are held to",
    .fingerprint = fingerprint,
    .compile = compile,
    .load = load,
    .text = text,
};
