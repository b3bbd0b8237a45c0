/* codegen/cuda/room.c: the device's memory of code that is loaded. Weights are put there as an engine provides them, or
 * else, as those of training are, when a step first names them; slabs and the cache live on the device alone. */
#include "codegen/cuda/account.h"
#include "codegen/cuda/run_parts.h"

#include <stdlib.h>
#include <string.h>

enum { UPLOAD_BYTES = 32 << 20 /* of a window of weights on their way */ };

dp_status cuda_need(cuda_code *c, region *r, int64_t bytes, const char *what, bool keep) {
  if (bytes <= r->bytes && r->at) return DP_SUCCESS;
  region larger = {.bytes = keep && r->bytes * 2 > bytes ? r->bytes * 2 : bytes};
  if (!keep) {
    cuda_release(c->gpu, r->at);
    *r = (region){0};
  }
  DP_TRY(cuda_allocate(c->gpu, larger.bytes, what, &larger.at));
  if (keep) {
    dp_status status = cuda_clear(c->gpu, larger.at + (uint64_t)r->bytes, larger.bytes - r->bytes);
    if (status.code == DP_OK) status = cuda_move(c->gpu, larger.at, r->at, r->bytes);
    cuda_release(c->gpu, status.code == DP_OK ? r->at : larger.at);
    DP_TRY(status);
  }
  *r = larger;
  return DP_SUCCESS;
}

static void release(cuda_code *c, region *r) {
  cuda_release(c->gpu, r->at);
  *r = (region){0};
}

dp_status cuda_need_pinned(cuda_code *c, char **memory, int64_t *cap, int64_t bytes, int64_t kept) {
  void *larger;
  if (bytes <= *cap) return DP_SUCCESS;
  DP_TRY(cuda_pin(c->gpu, bytes, &larger));
  if (kept > 0) memcpy(larger, *memory, (size_t)kept);
  cuda_unpin(c->gpu, *memory);
  *memory = larger;
  *cap = bytes;
  return DP_SUCCESS;
}

/* ---- weights that were not provided */

static int64_t slot_bytes(const tile_weight *w, ir_dtype storage) {
  if (w->form == TILE_VECTOR) return tile_slot_floats(w) * 4;
  return (w->rows + TILE_BLOCK - 1) / TILE_BLOCK * TILE_BLOCK * ir_packed_row_bytes(storage, w->cols);
}

/* An earlier weight that lies in the same memory, -1: none. What an update assigns to one of them both have. */
static int same_memory(const cuda_code *c, const tile_step *step, int index) {
  const tile_weight *w = &c->program->weights[index];
  for (int i = 0; i < index; i++) {
    const tile_weight *other = &c->program->weights[i];
    bool same = other->count == w->count && other->inner == w->inner;
    if (same && step->weights[w->first_slot] && step->weights[other->first_slot] == step->weights[w->first_slot])
      return i;
  }
  return -1;
}

static dp_status put_slot(cuda_code *c, const tile_weight *w, int slot, const tile_step *step) {
  int64_t bytes = slot_bytes(w, (ir_dtype)step->weight_types[slot]);
  region r = {c->weights[slot], c->weight_bytes[slot]};
  dp_status status = cuda_need(c, &r, bytes, "weights", false);
  c->weights[slot] = r.at;
  c->weight_bytes[slot] = r.bytes;
  DP_TRY(status);
  DP_TRY(cuda_put(c->gpu, r.at, step->weights[slot], bytes));
  c->seen[slot] = step->weights[slot];
  return DP_SUCCESS;
}

static dp_status put_weights(cuda_code *c, const tile_step *step) {
  for (int i = 0; i < c->program->weight_count; i++) {
    const tile_weight *w = &c->program->weights[i];
    int same = same_memory(c, step, i);
    if (same >= 0) {
      const cuda_address *from = c->weights + c->program->weights[same].first_slot;
      memcpy(c->weights + w->first_slot, from, sizeof *from * (size_t)(w->count * w->inner));
      memcpy(c->seen + w->first_slot, step->weights + w->first_slot, sizeof *c->seen * (size_t)(w->count * w->inner));
      continue;
    }
    for (int slot = w->first_slot; slot < w->first_slot + w->count * w->inner; slot++)
      if (step->weights[slot] && c->seen[slot] != step->weights[slot]) DP_TRY(put_slot(c, w, slot, step));
  }
  return DP_SUCCESS;
}

/* ---- what steps work in */

static dp_status need_counters(cuda_code *c, int64_t rows) {
  int64_t tiles = cuda_counter_tiles(c->program, rows);
  if (tiles <= c->counter_tiles) return DP_SUCCESS;
  int64_t bytes = 2 * cuda_counter_count(c->program, tiles) * 4;
  c->counter_tiles = 0;
  DP_TRY(cuda_need(c, &c->counters, bytes, "counters", false));
  DP_TRY(cuda_clear(c->gpu, c->counters.at, bytes));
  c->counter_tiles = tiles;
  return DP_SUCCESS;
}

int64_t cuda_turned_bytes(const tile_step *step) { return 8 + 8 * step->turns * step->rows[TILE_OUTPUTS]; }

/* Of a step that picks: what it has picked, and where its blocks meet. */
static dp_status need_turns(cuda_code *c, const tile_step *step) {
  if (!c->meeting.at) {
    c->arrived = c->released = 0;
    DP_TRY(cuda_need(c, &c->meeting, 8, "counters", false));
    DP_TRY(cuda_clear(c->gpu, c->meeting.at, 8));
  }
  DP_TRY(cuda_need(c, &c->ended, 4 * step->rows[TILE_OUTPUTS] + 4, "results", false));
  return cuda_need(c, &c->turned, cuda_turned_bytes(step), "results", false);
}

void cuda_forget_counters(cuda_code *c) {
  c->counter_tiles = 0;
  release(c, &c->meeting);
}

/* For steps of so many rows a space, and pages of the cache. */
static dp_status need_rows(cuda_code *c, const int64_t *rows, int64_t pages) {
  const tile_program *p = c->program;
  for (int space = 0; space < TILE_SPACE_COUNT; space++) {
    if (!p->slab_bytes[space]) continue;
    int64_t slabs = space == TILE_WINDOW ? p->window : space == TILE_NUMBERS ? 1 : tile_row_tiles(p, rows[space]);
    DP_TRY(cuda_need(c, &c->arena[space], slabs * p->slab_bytes[space], "activations", false));
  }
  int64_t scratch = c->scratch_floats * 4 * cuda_device_of(c->gpu)->processors;
  DP_TRY(cuda_need(c, &c->scratch, scratch, "scratch memory", false));
  DP_TRY(cuda_need(c, &c->kv, pages * p->page_bytes, "the KV cache", true));
  int64_t tokens = rows[TILE_TOKENS], outputs = rows[TILE_OUTPUTS];
  return need_counters(c, tokens > outputs ? tokens : outputs);
}

dp_status cuda_need_memory(cuda_code *c, const tile_step *step, int64_t pages) {
  if (!c->provided) DP_TRY(put_weights(c, step));
  DP_TRY(cuda_resident_need(c->resident));
  if (step->turned) DP_TRY(need_turns(c, step));
  return need_rows(c, step->rows, pages);
}

/* ---- results */

static uint64_t results_of(const tile_program *p, int index) {
  tile_entry entry = tile_entry_at(p, index);
  uint64_t written = 0;
  for (int g = 0; g < p->group_count; g++) {
    const tile_kind *kind = &p->kinds[p->groups[g].kind];
    if (!tile_in_entry(p, &entry, g)) continue;
    for (int i = 0; i < kind->op_count; i++)
      if (kind->ops[i].code == TILE_store && p->buffers[kind->ops[i].ref].output >= 0)
        written |= UINT64_C(1) << p->buffers[kind->ops[i].ref].output;
  }
  return written;
}

dp_status cuda_find_results(cuda_code *c) {
  const tile_program *p = c->program;
  c->written = calloc((size_t)p->entry_count + 1, sizeof *c->written);
  if (!c->written) return dp_fail(DP_NO_MEMORY, "no memory to load code");
  for (int i = 0; i == 0 || i < p->entry_count; i++) c->written[i] = results_of(p, i);
  return DP_SUCCESS;
}

bool cuda_writes(const cuda_code *c, int64_t entry, const tile_buffer *b) {
  return b->output >= 0 && c->written[entry] >> b->output & 1;
}

dp_status cuda_need_results(cuda_code *c, uint64_t outputs, const int64_t *rows) {
  const tile_program *p = c->program;
  for (int i = 0; i < p->buffer_count; i++) {
    const tile_buffer *b = &p->buffers[i];
    if (b->output < 0 || !(outputs >> b->output & 1)) continue;
    DP_TRY(cuda_need(c, &c->outputs[b->output], rows[b->space] * b->stride * 4, "results", false));
  }
  return DP_SUCCESS;
}

/* ---- what an engine brings */

static void release_all(cuda_code *c) {
  region *const regions[] = {&c->image, &c->kv, &c->counters, &c->scratch, &c->arguments, &c->turned, &c->ended};
  for (size_t i = 0; i < DP_COUNT(regions); i++) release(c, regions[i]);
  for (int i = 0; i < TILE_SPACE_COUNT; i++) release(c, &c->arena[i]);
  for (int i = 0; i < c->program->output_count; i++) release(c, &c->outputs[i]);
  for (int i = 0; i < c->program->slot_count; i++) {
    if (!c->provided) cuda_release(c->gpu, c->weights[i]);
    c->weights[i] = 0;
    c->weight_bytes[i] = 0;
    c->seen[i] = NULL;
  }
  cuda_forget_counters(c);
  c->provided = false;
}

/* All at once, so that what does not fit is refused before anything is read. */
static dp_status reserve(cuda_code *c, const tile_provision *v, const cuda_account *account) {
  int64_t left;
  DP_TRY(cuda_find_free(c->gpu, &left));
  left += cuda_bytes_taken(c->gpu) - cuda_bytes_used(c->gpu);
  if (cuda_account_sum(account) > left)
    return cuda_refuse_account(c->program, cuda_device_of(c->gpu), &c->note, v, left);
  dp_status status = cuda_reserve(c->gpu, cuda_account_sum(account));
  if (status.code != DP_NO_MEMORY) return status;
  dp_status_free(&status);
  return cuda_refuse_account(c->program, cuda_device_of(c->gpu), &c->note, v, left);
}

/* Those of a row tile, which most steps do not exceed. */
static dp_status need_first_results(cuda_code *c) {
  const tile_program *p = c->program;
  tile_step few = {.rows = {[TILE_TOKENS] = 1, [TILE_OUTPUTS] = p->row_tile}, .turns = CUDA_TURNS};
  DP_TRY(cuda_need_results(c, UINT64_MAX, few.rows));
  return tile_find_entry(p, "pick") >= 0 ? need_turns(c, &few) : DP_SUCCESS;
}

dp_status cuda_take_provision(cuda_code *c, const tile_provision *v) {
  const tile_program *p = c->program;
  cuda_account account = cuda_measure(p, cuda_device_of(c->gpu), &c->note, v);
  int64_t rows[TILE_SPACE_COUNT] = {[TILE_TOKENS] = v->max_tokens,
                                    [TILE_SEGMENTS] = v->max_tokens,
                                    [TILE_OUTPUTS] = v->max_tokens,
                                    [TILE_PARAMETERS] = 1};
  int64_t room = (v->weight_bytes + 4095) / 4096 * 4096;
  release_all(c);
  DP_TRY(reserve(c, v, &account));
  c->provided = true;
  DP_TRY(cuda_need(c, &c->image, v->weight_bytes, "weights", false));
  for (int slot = 0; slot < p->slot_count; slot++) c->weights[slot] = c->image.at + (uint64_t)v->weight_offsets[slot];
  DP_TRY(need_rows(c, rows, (v->context + TILE_CHUNK - 1) / TILE_CHUNK));
  DP_TRY(need_first_results(c));
  DP_TRY(cuda_need(c, &c->arguments, account.arguments, "a step's arguments", false));
  DP_TRY(cuda_need_pinned(c, &c->staged, &c->staged_cap, account.arguments, 0));
  return cuda_upload(c->gpu, c->image.at, room < UPLOAD_BYTES ? room : UPLOAD_BYTES, v->next, v->user);
}

int64_t cuda_worker_bytes(const tile_program *program, const cuda_device *device, int64_t scratch_floats,
                          int64_t max_tokens) {
  int64_t counters = 2 * cuda_counter_count(program, cuda_counter_tiles(program, max_tokens)) * 4;
  return scratch_floats * 4 * device->processors + counters;
}

int64_t cuda_bytes_of(const cuda_code *c) {
  int64_t sum = c->image.bytes + c->kv.bytes + c->counters.bytes + c->scratch.bytes + c->arguments.bytes +
                c->turned.bytes + c->ended.bytes + c->meeting.bytes;
  for (int i = 0; i < TILE_SPACE_COUNT; i++) sum += c->arena[i].bytes;
  for (int i = 0; i < c->program->output_count; i++) sum += c->outputs[i].bytes;
  for (int i = 0; i < c->program->slot_count; i++) sum += c->weight_bytes[i];
  return sum + cuda_resident_taken(c->resident);
}
