/* codegen/cuda/resident.c: an allocation a state, slot after slot in the order of the program's weights, as the host
 * has it; and a table of addresses a state, which kernels read. */
#include "codegen/cuda/resident.h"
#include "codegen/cuda/memory.h"

#include <stdlib.h>
#include <string.h>

/* Bytes [from, to) of the slab of NUMBERS, which go together. */
typedef struct run {
  int entry;
  int64_t from, to;
} run;

struct cuda_resident {
  const tile_program *program;
  cuda_gpu *gpu;
  const cuda_address *weights;
  int64_t *at[TILE_STATE_COUNT]; /* [slots] bytes from the allocation's begin, -1: not kept; NULL: nothing is; of values
                                    NULL */
  int64_t bytes[TILE_STATE_COUNT];
  cuda_address memory[TILE_STATE_COUNT], tables[TILE_STATE_COUNT];
  run *given, *taken;
  int given_count, taken_count;
};

static const char *const names[TILE_STATE_COUNT] = {"weights", "gradients", "the first moments", "the second moments",
                                                    "the masters"};

/* ---- layout */

static int64_t slot_bytes(const tile_weight *w) { return 4 * (tile_slot_floats(w) + TILE_LANES); }

/* Of a state that is kept; at NULL: only how much. */
static int64_t lay_out(const tile_program *p, tile_state state, int64_t *at) {
  int64_t end = 0;
  for (int w = 0; w < p->weight_count; w++) {
    const tile_weight *weight = &p->weights[w];
    bool kept = tile_keeps(p, w, state);
    for (int slot = weight->first_slot; slot < weight->first_slot + weight->count * weight->inner; slot++) {
      if (at) at[slot] = kept ? end : -1;
      if (kept) end += slot_bytes(weight);
    }
  }
  return end;
}

static int64_t table_bytes(const tile_program *p) { return 8 * (int64_t)p->slot_count; }

int64_t cuda_resident_taken(const cuda_resident *r) {
  int64_t sum = 0;
  for (int state = TILE_GRADIENT; state < TILE_STATE_COUNT; state++)
    sum += (r->memory[state] ? r->bytes[state] : 0) + (r->tables[state] ? table_bytes(r->program) : 0);
  return sum;
}

/* ---- numbers: which go over, which come back */

typedef enum touched { NOT = 0, LOADED = 1, STORED = 2 } touched;

/* What kinds do with a buffer: those of the entry, or with entry -1 of all. */
static int touch(const tile_program *p, int entry, int buffer) {
  int what = NOT;
  tile_entry e = tile_entry_at(p, entry < 0 ? 0 : entry);
  for (int g = 0; g < p->group_count; g++) {
    if (entry >= 0 && !tile_in_entry(p, &e, g)) continue;
    const tile_kind *kind = &p->kinds[p->groups[g].kind];
    for (int i = 0; i < kind->op_count; i++) {
      const tile_op *op = &kind->ops[i];
      if (op->ref != buffer) continue;
      if (op->code == TILE_load) what |= LOADED;
      if (op->code == TILE_store) what |= STORED;
    }
  }
  return what;
}

static void add_run(run *runs, int *count, int entry, const tile_program *p, const tile_buffer *b) {
  int64_t to = b->offset + tile_buffer_bytes(p, b);
  run *last = *count ? &runs[*count - 1] : NULL;
  if (last && last->entry == entry && last->to == b->offset)
    last->to = to;
  else
    runs[(*count)++] = (run){entry, b->offset, to};
}

static dp_status list_numbers(cuda_resident *r) {
  const tile_program *p = r->program;
  int entries = p->entry_count ? p->entry_count : 1;
  size_t most = (size_t)entries * (size_t)p->buffer_count + 1;
  r->given = calloc(most, sizeof *r->given);
  r->taken = calloc(most, sizeof *r->taken);
  if (!r->given || !r->taken) return dp_fail(DP_NO_MEMORY, "no memory to load code");
  for (int entry = 0; entry < entries; entry++)
    for (int i = 0; i < p->buffer_count; i++) { /* by offset, as ps_plan_memory places them */
      const tile_buffer *b = &p->buffers[i];
      if (b->space != TILE_NUMBERS || b->output >= 0) continue;
      int here = touch(p, entry, i), ever = touch(p, -1, i);
      if (here & LOADED && !(ever & STORED)) add_run(r->given, &r->given_count, entry, p, b);
      if (here & STORED && !(ever & LOADED)) add_run(r->taken, &r->taken_count, entry, p, b);
    }
  return DP_SUCCESS;
}

dp_status cuda_give_numbers(cuda_resident *r, int entry, const char *host, cuda_address device) {
  for (int i = 0; i < r->given_count; i++) {
    const run *g = &r->given[i];
    if (g->entry == entry) DP_TRY(cuda_put(r->gpu, device + (uint64_t)g->from, host + g->from, g->to - g->from));
  }
  return DP_SUCCESS;
}

dp_status cuda_take_numbers(cuda_resident *r, int entry, char *host, cuda_address device) {
  for (int i = 0; i < r->taken_count; i++) {
    const run *t = &r->taken[i];
    if (t->entry == entry) DP_TRY(cuda_get(r->gpu, host + t->from, device + (uint64_t)t->from, t->to - t->from));
  }
  return DP_SUCCESS;
}

/* ---- memory */

static dp_status put_table(cuda_resident *r, tile_state state) {
  int slots = r->program->slot_count;
  cuda_address *table = calloc((size_t)slots + 1, sizeof *table);
  if (!table) return dp_fail(DP_NO_MEMORY, "no memory for the table of %s", names[state]);
  for (int slot = 0; slot < slots; slot++)
    if (r->at[state][slot] >= 0) table[slot] = r->memory[state] + (uint64_t)r->at[state][slot];
  dp_status status = cuda_allocate(r->gpu, table_bytes(r->program), names[state], &r->tables[state]);
  if (status.code == DP_OK) status = cuda_put(r->gpu, r->tables[state], table, table_bytes(r->program));
  if (status.code != DP_OK) {
    cuda_release(r->gpu, r->tables[state]);
    r->tables[state] = 0;
  }
  free(table);
  return status;
}

dp_status cuda_resident_need(cuda_resident *r) {
  for (int state = TILE_GRADIENT; state < TILE_STATE_COUNT; state++) {
    if (!r->at[state] || r->tables[state]) continue;
    if (!r->memory[state]) DP_TRY(cuda_allocate(r->gpu, r->bytes[state], names[state], &r->memory[state]));
    DP_TRY(cuda_clear(r->gpu, r->memory[state], r->bytes[state]));
    DP_TRY(put_table(r, (tile_state)state));
  }
  return DP_SUCCESS;
}

cuda_address cuda_resident_table(const cuda_resident *r, tile_state state) { return r->tables[state]; }

static dp_status set_up(cuda_resident *r) {
  for (int state = TILE_GRADIENT; state < TILE_STATE_COUNT; state++) {
    r->bytes[state] = lay_out(r->program, (tile_state)state, NULL);
    if (!r->bytes[state]) continue;
    r->at[state] = calloc((size_t)r->program->slot_count + 1, sizeof *r->at[state]);
    if (!r->at[state]) return dp_fail(DP_NO_MEMORY, "no memory for the table of %s", names[state]);
    lay_out(r->program, (tile_state)state, r->at[state]);
  }
  return list_numbers(r);
}

dp_status cuda_resident_new(const tile_program *program, cuda_gpu *gpu, const cuda_address *weights,
                            cuda_resident **resident) {
  cuda_resident *r = calloc(1, sizeof *r);
  if (!r) return dp_fail(DP_NO_MEMORY, "no memory to load code");
  r->program = program;
  r->gpu = gpu;
  r->weights = weights;
  dp_status status = set_up(r);
  if (status.code != DP_OK) {
    cuda_resident_free(r);
    return status;
  }
  *resident = r;
  return DP_SUCCESS;
}

void cuda_resident_free(cuda_resident *r) {
  if (!r) return;
  for (int state = 0; state < TILE_STATE_COUNT; state++) free(r->at[state]);
  free(r->given);
  free(r->taken);
  free(r);
}

/* ---- the host's reads and writes */

static cuda_address address_of(const cuda_resident *r, tile_state state, int slot) {
  if (state == TILE_VALUE) return r->weights[slot];
  return r->memory[state] + (uint64_t)r->at[state][slot];
}

bool cuda_resident_keeps(const cuda_resident *r, tile_state state, int slot) {
  return r->at[state] && r->at[state][slot] >= 0;
}

static dp_status find(cuda_resident *r, tile_state state, int slot, cuda_address *address) {
  bool there = state == TILE_VALUE ? r->weights[slot] != 0 : cuda_resident_keeps(r, state, slot);
  DP_CHECK(there, "slot %d has none of %s", slot, names[state]);
  DP_TRY(cuda_resident_need(r));
  *address = address_of(r, state, slot);
  return DP_SUCCESS;
}

dp_status cuda_resident_fetch(cuda_resident *r, tile_state state, int slot, int64_t at, int64_t bytes, void *to) {
  cuda_address address = 0;
  DP_TRY(find(r, state, slot, &address));
  return cuda_get(r->gpu, to, address + (uint64_t)at, bytes);
}

dp_status cuda_resident_store(cuda_resident *r, tile_state state, int slot, int64_t at, int64_t bytes,
                              const void *from) {
  cuda_address address = 0;
  DP_TRY(find(r, state, slot, &address));
  return cuda_put(r->gpu, address + (uint64_t)at, from, bytes);
}

dp_status cuda_resident_clear(cuda_resident *r, tile_state state) {
  if (state == TILE_VALUE || !r->tables[state]) return DP_SUCCESS;
  return cuda_clear(r->gpu, r->memory[state], r->bytes[state]);
}
