/* codegen/host.c: kinds that are an op of the host: around the code of a back end, whatever it is, a code that runs
 * those itself: rows where they lie in the slabs to the host's callback, and its result where the kind's store goes. */
#include "codegen/codegen.h"

#include <stdatomic.h>
#include <stdlib.h>

typedef struct host_code {
  tile_code code;
  tile_code *inner;
  const tile_program *program;
  const dp_op **ops;  /* [host_count] */
  _Atomic int failed; /* 1 + the op that last did in this step; 0: none */
} host_code;

static dp_rows rows_at(const tile_program *p, const tile_buffer *b, const tile_step *step, int64_t layer, int64_t row,
                       int64_t count) {
  dp_rows rows = {.rows = count, .columns = b->cols, .stride = b->stride};
  if (b->output >= 0) {
    rows.data = step->outputs[b->output] + row * p->row_tile * b->stride;
    return rows;
  }
  int64_t slab = b->space == TILE_WINDOW ? row % p->window : row;
  char *at = step->arena[b->space] + slab * p->slab_bytes[b->space] + b->offset;
  if (b->layers) at += (layer - b->first_layer) * p->row_tile * b->stride * 4;
  rows.data = (float *)(void *)at;
  return rows;
}

static void run_host(host_code *self, const tile_kind *kind, const tile_op *op, const tile_step *step, int64_t layer,
                     int64_t row) {
  const tile_program *p = self->program;
  dp_rows operands[DP_MOST_OPERANDS + 1];
  int64_t left = step->rows[kind->space] - row * p->row_tile, count = left < p->row_tile ? left : p->row_tile;
  for (int i = 0; i < op->list_count; i++) {
    const tile_op *load = &kind->ops[op->list[i]];
    operands[i] = rows_at(p, &p->buffers[load->ref], step, layer, row, count);
  }
  dp_rows result = rows_at(p, &p->buffers[kind->ops[kind->op_count - 1].ref], step, layer, row, count);
  const dp_op *ours = self->ops[op->ref];
  if (!ours->forward(ours->user, operands, op->list_count, &result)) atomic_store(&self->failed, op->ref + 1);
}

static void run(const tile_code *code, int kind, const tile_step *step, int64_t layer, int64_t row, int64_t col,
                void *scratch, int64_t reuse) {
  host_code *self = code->self;
  const tile_kind *k = &self->program->kinds[kind];
  const tile_op *op = tile_host_op(k);
  if (op)
    run_host(self, k, op, step, layer, row);
  else
    self->inner->run(self->inner, kind, step, layer, row, col, scratch, reuse);
}

static dp_status end_step(const tile_code *code) {
  host_code *self = code->self;
  int failed = atomic_exchange(&self->failed, 0);
  return failed ? dp_fail(DP_INVALID, "op '%s' of the host failed", self->program->hosts[failed - 1]) : DP_SUCCESS;
}

static void unload(tile_code *code) {
  host_code *self = code->self;
  self->inner->free(self->inner);
  free(self->ops);
  free(self);
}

dp_status cg_lend_ops(const tile_program *program, const dp_op *const *ops, tile_code **code) {
  if ((*code)->run_step) return dp_fail(DP_UNSUPPORTED, "op '%s' of the host does not run on a GPU", program->hosts[0]);
  host_code *self = calloc(1, sizeof *self);
  if (self) self->ops = calloc((size_t)program->host_count + 1, sizeof *self->ops);
  if (!self || !self->ops) {
    free(self);
    return dp_fail(DP_NO_MEMORY, "no memory to load code");
  }
  for (int i = 0; i < program->host_count; i++) self->ops[i] = ops[i];
  self->inner = *code;
  self->program = program;
  self->code = (tile_code){
      .run = run, .end_step = end_step, .free = unload, .scratch_bytes = (*code)->scratch_bytes, .self = self};
  *code = &self->code;
  return DP_SUCCESS;
}
