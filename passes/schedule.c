/* passes/schedule.c: a fused graph to a tile program: the groups before a loop, the loop, the groups after it become
 * sections; what lives between groups gets buffers. A carried value has a buffer of its own, filled by copies before the
 * loop and at the end of its body, and a result one of the caller's: plan_memory.c removes the copies it can. */
#include "passes/passes.h"
#include "passes/schedule.h"

#include <stdio.h>
#include <string.h>

enum {
  ROW_TILE = 96,     /* tokens: 8 register tiles of 12 rows */
  WIDE_COLUMNS = 8192,
  WINDOW = 2,        /* row tiles that lie there at a time, of what is wide */
  SEGMENT_ROWS = 48, /* rows of an attention task: tokens times the query heads of a key head */
};

static const tile_target plain_target = {.cores = 8, .task_bytes = 64 * 1024};

/* ---- groups, sections, buffers -------------------------------------------------------------------------------------------- */

static void open_section(ps_schedule_state *s, int iterations, bool reverse) {
  tile_program *p = s->program;
  tile_section section = {.first = p->group_count, .iterations = iterations, .base = s->layer ? s->first_layer : 0,
                          .reverse = reverse};
  DP_PUSH(p->arena, p->sections, p->section_count, p->section_cap) = section;
}

/* A group that runs the kind made last. */
static void add_group(ps_schedule_state *s) {
  tile_program *p = s->program;
  DP_PUSH(p->arena, p->groups, p->group_count, p->group_cap) =
      (tile_group){.kind = p->kind_count - 1, .section = p->section_count - 1};
  p->sections[p->section_count - 1].count++;
}

int ps_stack(ps_schedule_state *s, const char *name, const ir_type *type) {
  for (int i = 0; i < s->stack_count; i++)
    if (strcmp(s->stacks[i].name, name) == 0) return s->stacks[i].buffer;
  if (!type) return -1;
  int buffer = ps_add_buffer(s, name, type, TILE_TOKENS);
  s->program->buffers[buffer].layers = s->end_layer - s->first_layer;
  s->program->buffers[buffer].first_layer = s->first_layer;
  DP_PUSH(s->arena, s->stacks, s->stack_count, s->stack_cap) = (struct ps_stack){dp_arena_strdup(s->arena, name), buffer};
  return buffer;
}

int ps_number(ps_schedule_state *s, const char *name, int64_t cols) {
  tile_program *p = s->program;
  for (int i = 0; i < p->buffer_count; i++)
    if (p->buffers[i].space == TILE_NUMBERS && strcmp(p->buffers[i].name, name) == 0) return i;
  ir_type type = {.dtype = IR_f32, .rank = 1, .dims = {ir_static_dim(cols, NULL)}};
  return ps_add_buffer(s, name, &type, TILE_NUMBERS);
}

int ps_add_buffer(ps_schedule_state *s, const char *name, const ir_type *type, tile_space space) {
  tile_program *p = s->program;
  int64_t cols = ps_columns(type);
  tile_buffer buffer = {.name = dp_arena_strdup(p->arena, name ? name : "x"), .space = space, .cols = cols, .output = -1};
  buffer.stride = (cols + TILE_BLOCK - 1) / TILE_BLOCK * TILE_BLOCK;
  DP_PUSH(p->arena, p->buffers, p->buffer_count, p->buffer_cap) = buffer;
  return p->buffer_count - 1;
}

dp_status ps_add_copy(ps_schedule_state *s, int from, int to) {
  tile_program *p = s->program;
  const tile_buffer *buffer = &p->buffers[from];
  DP_CHECK(buffer->space == p->buffers[to].space && buffer->cols == p->buffers[to].cols, "a copy from '%s' to '%s'",
           buffer->name, p->buffers[to].name);
  tile_kind kind = {.name = "copy", .space = buffer->space, .group = 1, .batches = 1, .columns = buffer->cols,
                    .col_tile = (int)buffer->stride, .col_tasks = 1};
  tile_op load = {.code = TILE_load, .cols = (int)buffer->cols, .ref = from, .index = -1};
  tile_op store = {.code = TILE_store, .cols = (int)buffer->cols, .ref = to, .index = -1};
  store.operands[0] = tile_add_op(p, &kind, load);
  tile_add_op(p, &kind, store);
  DP_PUSH(p->arena, p->kinds, p->kind_count, p->kind_cap) = kind;
  add_group(s);
  return DP_SUCCESS;
}

static int add_buffer_like(ps_schedule_state *s, int like, const char *name) {
  tile_program *p = s->program;
  tile_buffer buffer = p->buffers[like];
  if (name) buffer.name = dp_arena_strdup(p->arena, name);
  buffer.output = -1;
  DP_PUSH(p->arena, p->buffers, p->buffer_count, p->buffer_cap) = buffer;
  return p->buffer_count - 1;
}

/* The buffer of a value that is handed on by a loop or returned. */
static dp_status buffer_of(const ps_schedule_state *s, const ir_value *value, int *buffer) {
  const ps_value *at = &s->values[value->id];
  if (at->place != PS_BUFFER)
    return dp_fail(DP_UNSUPPORTED, "value '%s' is carried by a loop or returned, but is not computed from the inputs",
                   value->name ? value->name : "");
  *buffer = at->ref;
  return DP_SUCCESS;
}

static void add_entry(ps_schedule_state *s, const ir_graph *graph, int first_section) {
  tile_program *p = s->program;
  DP_PUSH(p->arena, p->entries, p->entry_count, p->entry_cap) =
      (tile_entry){.name = dp_arena_strdup(p->arena, graph->name), .first = first_section,
                   .count = p->section_count - first_section, .output = -1};
}

static void place_buffer(ps_schedule_state *s, const ir_value *value, int buffer) {
  s->values[value->id] = (ps_value){.place = PS_BUFFER, .ref = buffer, .full = -1, .column = -1, .upper = -1};
}

/* ---- blocks ----------------------------------------------------------------------------------------------------------------- */

static dp_status schedule_groups(ps_schedule_state *s, const ir_block *block);

/* The next values of the carried ones, which a copy could overwrite before another copy reads it, go through a buffer of
 * their own: a loop may exchange two values. */
static dp_status carry_on(ps_schedule_state *s, const ir_op *loop) {
  const ir_op *yield = loop->body->last;
  int *next = DP_NEW_ARRAY(s->arena, int, yield->operand_count);
  for (int i = 0; i < yield->operand_count; i++) {
    const ir_value *value = yield->operands[i];
    DP_TRY(buffer_of(s, value, &next[i]));
    if (value->block != loop->body || value->index == i + 1) continue;
    int aside = add_buffer_like(s, next[i], NULL);
    DP_TRY(ps_add_copy(s, next[i], aside));
    next[i] = aside;
  }
  for (int i = 0; i < yield->operand_count; i++) {
    int carried = s->values[loop->results[i]->id].ref;
    if (next[i] != carried) DP_TRY(ps_add_copy(s, next[i], carried));
  }
  return DP_SUCCESS;
}

static dp_status schedule_loop(ps_schedule_state *s, const ir_op *loop) {
  const ir_block *body = loop->body;
  if (s->layer) return dp_fail(DP_UNSUPPORTED, "a loop within a loop cannot be scheduled");
  for (int i = 0; i < loop->operand_count; i++) {
    int init = -1;
    DP_TRY(buffer_of(s, loop->operands[i], &init));
    const ir_value *arg = body->args[i + 1];
    int carried = add_buffer_like(s, init, arg->name);
    DP_TRY(ps_add_copy(s, init, carried));
    place_buffer(s, arg, carried);
    place_buffer(s, loop->results[i], carried);
  }
  s->values[body->args[0]->id].place = PS_LAYER;
  s->layer = body->args[0];
  s->first_layer = (int)ir_get_int(loop, "first", 0);
  int count = (int)ir_get_int(loop, "count", 1);
  s->end_layer = s->first_layer + count;
  open_section(s, count, ir_get_int(loop, "reverse", 0));
  DP_TRY(schedule_groups(s, body));
  DP_TRY(carry_on(s, loop));
  s->values[body->args[0]->id].place = PS_NOWHERE;
  s->layer = NULL;
  open_section(s, 1, false);
  return DP_SUCCESS;
}

static dp_status schedule_groups(ps_schedule_state *s, const ir_block *block) {
  for (const ir_op *op = block->first; op != block->last; op = op->next) {
    if (op->code == IR_OP_loop) {
      DP_TRY(schedule_loop(s, op));
    } else if (op->code == IR_OP_group) {
      DP_TRY(ps_lower_group(s, op));
      add_group(s);
    } else if (op->code == IR_OP_constant) {
      return dp_fail(DP_UNSUPPORTED, "a loop carries a number: it can carry rows of tokens alone");
    } else {
      return dp_fail(DP_BUG, "internal error: op %s is in no group: the schedule takes a fused module",
                     ir_op_info_of(op->code)->name);
    }
  }
  return DP_SUCCESS;
}

static dp_status schedule_results(ps_schedule_state *s, const ir_op *end) {
  tile_program *p = s->program;
  for (int i = 0; i < end->operand_count; i++) {
    int buffer = -1;
    DP_TRY(buffer_of(s, end->operands[i], &buffer));
    int output = add_buffer_like(s, buffer, end->operands[i]->name);
    p->buffers[output].output = p->output_count++;
    DP_TRY(ps_add_copy(s, buffer, output));
  }
  return DP_SUCCESS;
}

/* A graph behind the first one that takes rows of numbers goes on where that ends: they are what it returns. */
static bool takes_result(const ir_value *arg) { return arg->type.dtype == IR_f32 && arg->type.rank == 2; }

static bool goes_on(const ir_block *block) {
  for (int i = 0; i < block->arg_count; i++)
    if (takes_result(block->args[i])) return true;
  return false;
}

static dp_status take_result(ps_schedule_state *s, const ir_value *arg, bool *taken) {
  const tile_program *p = s->program;
  *taken = p->entry_count > 0 && takes_result(arg);
  if (!*taken) return DP_SUCCESS;
  tile_space space;
  DP_TRY(ps_space(&arg->type, &space));
  int output = p->entry_count ? p->entries[0].output : -1;
  for (int i = 0; i < p->buffer_count; i++) {
    const tile_buffer *b = &p->buffers[i];
    if (output < 0 || b->output != output || b->space != space || b->cols != ps_columns(&arg->type)) continue;
    s->values[arg->id] = (ps_value){.place = PS_BUFFER, .ref = i, .full = -1, .column = -1, .upper = -1};
    return DP_SUCCESS;
  }
  return dp_fail(DP_UNSUPPORTED, "input '%s' of the graph is not what the first graph returns", arg->name ? arg->name : "");
}

/* Rows of f32: the caller's memory, like a result, that nothing writes. */
static dp_status take_rows(ps_schedule_state *s, const ir_value *arg, tile_space space) {
  tile_program *p = s->program;
  if (space != TILE_TOKENS || ps_columns(&arg->type) < 1)
    return dp_fail(DP_UNSUPPORTED, "input '%s' of the graph must have rows T and dimensions that are known", arg->name);
  int buffer = ps_add_buffer(s, arg->name, &arg->type, space);
  p->buffers[buffer].output = p->output_count++;
  place_buffer(s, arg, buffer);
  return DP_SUCCESS;
}

static dp_status take_inputs(ps_schedule_state *s, const ir_block *block) {
  tile_program *p = s->program;
  for (int i = 0; i < block->arg_count; i++) {
    const ir_value *arg = block->args[i];
    const ir_type *type = &arg->type;
    bool taken, rows = type->dtype == IR_f32 && type->rank > 0;
    DP_TRY(take_result(s, arg, &taken));
    if (taken) continue;
    if ((!rows && (type->dtype != IR_i32 || type->rank != 1)) || !arg->name)
      return dp_fail(DP_UNSUPPORTED, "input '%s' of the graph must be a list of i32, or rows of f32", arg->name ? arg->name : "");
    tile_space space;
    DP_TRY(ps_space(type, &space));
    if (rows) {
      DP_TRY(take_rows(s, arg, space));
      continue;
    }
    int at = 0;
    while (at < p->input_count && strcmp(p->inputs[at], arg->name) != 0) at++;
    s->values[arg->id] = (ps_value){.place = PS_INPUT, .ref = at};
    if (at == p->input_count)
      DP_PUSH(p->arena, p->inputs, p->input_count, p->input_cap) = dp_arena_strdup(p->arena, arg->name);
  }
  return DP_SUCCESS;
}

/* ---- what is known at the end ------------------------------------------------------------------------------------------------- */

static void drop_empty_sections(ps_schedule_state *s) {
  tile_program *p = s->program;
  int kept = 0, *now = DP_NEW_ARRAY(s->arena, int, p->section_count + 1);
  for (int i = 0; i < p->section_count; i++) {
    tile_section section = p->sections[i];
    now[i] = kept;
    if (!section.count) continue;
    for (int g = section.first; g < section.first + section.count; g++) p->groups[g].section = kept;
    p->sections[kept++] = section;
  }
  now[p->section_count] = kept;
  for (int e = 0; e < p->entry_count; e++) {
    int end = now[p->entries[e].first + p->entries[e].count];
    p->entries[e].first = now[p->entries[e].first];
    p->entries[e].count = end - p->entries[e].first;
  }
  p->section_count = kept;
}

static dp_status lay_out_caches(tile_program *p) {
  for (int i = 0; i < p->cache_count; i++) {
    tile_cache *cache = &p->caches[i];
    if (!cache->dim[0] || (!cache->dim[1] && !cache->shared))
      return dp_fail(DP_UNSUPPORTED, "cache '%s' has only one part: keys and values must be appended", cache->name);
    cache->key_elements = TILE_CHUNK * cache->dim[0];
    cache->value_elements = TILE_CHUNK * ((cache->dim[1] + TILE_BLOCK - 1) / TILE_BLOCK * TILE_BLOCK);
    cache->offset = p->page_bytes;
    p->page_bytes += (int64_t)cache->layers * cache->heads * (cache->key_elements + cache->value_elements) *
                     ir_dtype_block_bytes(cache->storage);
  }
  return DP_SUCCESS;
}

static void set_rows(ps_schedule_state *s) {
  tile_program *p = s->program;
  p->row_tile = s->target->row_tile ? s->target->row_tile : ROW_TILE;
  p->tensor = s->target->tensor;
  p->segment_tokens = s->group_max < SEGMENT_ROWS ? SEGMENT_ROWS / s->group_max : 1;
  for (int i = 0; i < p->kind_count; i++) {
    tile_kind *kind = &p->kinds[i];
    kind->max_rows = kind->space == TILE_SEGMENTS ? p->segment_tokens * kind->group : kind->slots ? 1 : p->row_tile;
  }
}

/* ---- windows of rows: what is too wide to be kept for every token */

static bool is_wide(const ps_schedule_state *s, const tile_buffer *buffer) {
  int64_t wide = s->target->wide_columns ? s->target->wide_columns : WIDE_COLUMNS;
  return buffer->space == TILE_TOKENS && buffer->output < 0 && !buffer->layers && buffer->cols >= wide;
}

static bool touches_wide(const ps_schedule_state *s, int group) {
  const tile_program *p = s->program;
  for (int b = 0; b < p->buffer_count; b++)
    if (is_wide(s, &p->buffers[b]) && (ps_reads(p, group, b) || ps_writes(p, group, b))) return true;
  return false;
}

/* Rows see each other only in sums over them, which go on from window to window. */
static bool runs_in_windows(const tile_program *p, int group) {
  const tile_kind *kind = &p->kinds[p->groups[group].kind];
  bool by_index = false;
  for (int i = 0; i < kind->op_count; i++)
    by_index |= kind->ops[i].code == TILE_append || (kind->ops[i].code == TILE_load && kind->ops[i].index >= 0);
  return (kind->space == TILE_TOKENS || kind->space == TILE_PARAMETERS) && !by_index;
}

/* Cuts section `index` into what comes before groups [first, end), those, and what comes after. */
static void cut_section(tile_program *p, int index, int first, int end) {
  tile_section whole = p->sections[index], parts[3] = {whole, whole, whole};
  parts[0].count = first - whole.first;
  parts[1].first = first, parts[1].count = end - first, parts[1].window = WINDOW;
  parts[2].first = end, parts[2].count = whole.first + whole.count - end;
  DP_PUSH(p->arena, p->sections, p->section_count, p->section_cap) = whole;
  DP_PUSH(p->arena, p->sections, p->section_count, p->section_cap) = whole;
  for (int i = p->section_count - 1; i > index + 2; i--) p->sections[i] = p->sections[i - 2];
  for (int i = 0; i < 3; i++) p->sections[index + i] = parts[i];
  for (int i = index; i < p->section_count; i++)
    for (int g = p->sections[i].first; g < p->sections[i].first + p->sections[i].count; g++) p->groups[g].section = i;
  for (int e = 0; e < p->entry_count; e++) {
    if (p->entries[e].first > index) p->entries[e].first += 2;
    else if (p->entries[e].first + p->entries[e].count > index) p->entries[e].count += 2;
  }
}

static void open_windows(ps_schedule_state *s) {
  tile_program *p = s->program;
  for (int i = 0; i < p->section_count; i++) {
    int first = -1, end = -1, last = p->sections[i].first + p->sections[i].count;
    bool possible = p->sections[i].iterations == 1 && !p->sections[i].window;
    for (int g = p->sections[i].first; g < last; g++) {
      if (!touches_wide(s, g)) continue;
      if (first < 0) first = g;
      end = g + 1;
    }
    for (int g = first; g >= 0 && g < end; g++) possible = possible && runs_in_windows(p, g);
    if (first < 0 || !possible) continue;
    cut_section(p, i, first, end);
    for (int g = first; g < end; g++) p->kinds[p->groups[g].kind].window = WINDOW;
    p->window = WINDOW;
    i += 2;
  }
  for (int b = 0; b < p->buffer_count; b++) {
    bool inside = is_wide(s, &p->buffers[b]);
    int section = -1;
    for (int g = 0; g < p->group_count && inside; g++) {
      if (!ps_reads(p, g, b) && !ps_writes(p, g, b)) continue;
      if (section < 0) section = p->groups[g].section;
      inside = p->sections[section].window > 0 && p->groups[g].section == section;
    }
    if (inside) p->buffers[b].space = TILE_WINDOW;
  }
}

static void number_values(const ir_block *block, int *count) {
  for (int i = 0; i < block->arg_count; i++) block->args[i]->id = (*count)++;
  for (const ir_op *op = block->first; op; op = op->next) {
    for (int i = 0; i < op->result_count; i++) op->results[i]->id = (*count)++;
    if (op->body) number_values(op->body, count);
  }
}

static dp_status make_entry(ps_schedule_state *s, const ir_graph *graph) {
  int count = 0, first = s->program->section_count;
  number_values(graph->block, &count);
  s->values = DP_NEW_ARRAY(s->arena, ps_value, count);
  DP_TRY(take_inputs(s, graph->block));
  int outputs = s->program->output_count;
  open_section(s, 1, false);
  DP_TRY(schedule_groups(s, graph->block));
  DP_TRY(schedule_results(s, graph->block->last));
  if (s->program->entry_count && goes_on(graph->block)) first = s->program->entries[0].first;
  add_entry(s, graph, first);
  if (s->program->output_count > outputs) s->program->entries[s->program->entry_count - 1].output = outputs;
  return DP_SUCCESS;
}

/* What goes on where the first graph ends stands behind it, before all others. */
static void order_graphs(const ir_graph *const *graphs, int count, int *order) {
  int placed = 0;
  order[placed++] = 0;
  for (int others = 0; others < 2; others++)
    for (int i = 1; i < count; i++)
      if (goes_on(graphs[i]->block) != (others == 1)) order[placed++] = i;
}

/* Entries are numbered as the graphs are. */
static dp_status make_entries(ps_schedule_state *s, const ir_graph *const *graphs, int count) {
  tile_program *p = s->program;
  int *order = DP_NEW_ARRAY(s->arena, int, count), more = 0;
  for (int i = 1; i < count; i++) more += goes_on(graphs[i]->block);
  if (more > 1)
    return dp_fail(DP_UNSUPPORTED, "one graph may go on where the first one ends, not %d", more);
  order_graphs(graphs, count, order);
  for (int i = 0; i < count; i++) DP_TRY(make_entry(s, graphs[order[i]]));
  tile_entry *made = DP_NEW_ARRAY(s->arena, tile_entry, count);
  for (int i = 0; i < count; i++) made[order[i]] = p->entries[i];
  for (int i = 0; i < count; i++) p->entries[i] = made[i];
  return DP_SUCCESS;
}

static dp_status make_program(ps_schedule_state *s, const ir_graph *const *graphs, int count) {
  DP_TRY(make_entries(s, graphs, count));
  set_rows(s);
  DP_TRY(lay_out_caches(s->program));
  DP_TRY(ps_remove_copies(s->program));
  open_windows(s);
  DP_TRY(ps_plan_memory(s->program));
  drop_empty_sections(s);
  return ps_derive_waits(s->program);
}

dp_status ps_schedule(const ir_module *module, const char *graph, const tile_target *target, tile_program **out) {
  return ps_schedule_all(module, &graph, 1, target, out);
}

dp_status ps_schedule_all(const ir_module *module, const char *const *graphs, int count, const tile_target *target,
                          tile_program **out) {
  enum { MOST = 16 };
  const ir_graph *found[MOST];
  *out = NULL;
  DP_CHECK(count <= MOST, "%d entries", count);
  for (int i = 0; i < count; i++) {
    found[i] = ir_find_graph(module, graphs[i]);
    if (!found[i]) return dp_fail(DP_NOT_FOUND, "model '%s' has no graph '%s'", module->name, graphs[i]);
  }
  ps_schedule_state s = {.module = module, .target = target ? target : &plain_target, .arena = dp_arena_new(),
                         .program = tile_program_new(module->name), .group_max = 1};
  dp_status status = s.arena && s.program ? make_program(&s, found, count) : (dp_status){DP_NO_MEMORY, NULL};
  dp_arena_free(s.arena);
  if (status.code != DP_OK) {
    tile_program_free(s.program);
    return status;
  }
  *out = s.program;
  return DP_SUCCESS;
}
