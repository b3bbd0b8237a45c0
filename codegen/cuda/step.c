/* codegen/cuda/step.c: an entry to a kernel: the walk through its bundles in program order, as the executor's, but
 * rolled: sections, iterations, groups, row tiles are loops of the text. Every block walks the same way and counts
 * tasks; task n is the block's whose index is n modulo their number. All blocks are resident at once and each goes
 * through its tasks in program order, so the first task that is not done is always one that can run: no deadlock.
 *
 * The entry that picks takes turns: what it picked is the next turn's input (prelude/task.cuh).
 *
 * Where a group begins, a block asks for the weights of its first task of the group after it: they come while it works
 * and waits. */
#include "codegen/cuda/cuda.h"

#include <inttypes.h>

typedef struct walk {
  cuda *e;
  const tile_program *program;
  int group, section_index, end; /* end: of the entry's sections */
  const tile_section *section;
  const tile_kind *kind;
} walk;

/* Windows of a group over parameters count as its row tiles. */
static bool counts_windows(const tile_kind *kind) { return kind->window && kind->space == TILE_PARAMETERS; }

/* How many row tiles a group has, and how many of them belong to a window. */
static const char *row_tiles(cuda *e, const tile_kind *kind) {
  if (kind->slots) return dp_arena_printf(e->arena, "%d", kind->slots);
  if (counts_windows(kind))
    return dp_arena_printf(e->arena, "(block.token_tiles + %d) / %d", kind->window - 1, kind->window);
  if (kind->space == TILE_OUTPUTS) return "block.output_tiles";
  return kind->space == TILE_PARAMETERS ? "1" : "block.token_tiles";
}

static const char *segments_of(const tile_kind *kind) {
  return kind->space == TILE_SEGMENTS ? "launch.first_segment" : "0";
}

static const char *counters_at(const walk *w, int group, const char *iteration) {
  const tile_program *p = w->program;
  int section = p->groups[group].section, at = group - p->sections[section].first;
  if (p->sections[section].window) iteration = "0";
  return dp_arena_printf(w->e->arena, "block.counters + ((i64)%" PRId64 " + (i64)(%s) * %d) * launch.tiles",
                         cuda_first_instance(p, section) + at, iteration, p->sections[section].count);
}

/* The row tiles of a group in this round, where the section goes in windows. */
static void range_in_round(const walk *w, const tile_kind *kind, const char **from, const char **to) {
  *from = "0";
  *to = row_tiles(w->e, kind);
  if (!w->section->window || !kind->window) return;
  int64_t size = counts_windows(kind) ? 1 : kind->window;
  *from = dp_arena_printf(w->e->arena, "iteration * %" PRId64, size);
  *to = dp_arena_printf(w->e->arena, "least(iteration * %" PRId64 " + %" PRId64 ", %s)", size, size, *to);
}

static void emit_wait(const walk *w, const tile_wait *wait) {
  cuda *e = w->e;
  const tile_program *p = w->program;
  int section = p->groups[wait->group].section;
  const tile_kind *producer = &p->kinds[p->groups[wait->group].kind];
  const char *iteration = "iteration", *tile = "tile", *first = "0", *end = row_tiles(e, producer);
  bool previous = wait->when == TILE_PREVIOUS;
  if (previous) iteration = "iteration - 1";
  if (section != w->section_index) {
    iteration = dp_arena_printf(e->arena, "%d", p->sections[section].iterations - 1);
  } else if (w->section->window && producer->window) {
    int64_t size = counts_windows(producer) ? 1 : producer->window;
    const char *round = previous ? "(iteration - 1)" : "iteration";
    first = dp_arena_printf(e->arena, "%s * %" PRId64, round, size);
    end = dp_arena_printf(e->arena, "least(%s * %" PRId64 " + %" PRId64 ", %s)", round, size, size, end);
    if (previous && w->kind->window)
      tile = dp_arena_printf(e->arena, "tile - %d", counts_windows(w->kind) ? 1 : w->kind->window);
  }
  const char *from = wait->scope == TILE_ROW ? tile : first;
  const char *to = wait->scope == TILE_ALL ? end : dp_arena_printf(e->arena, "least(%s + 1, %s)", tile, end);
  const char *condition = previous ? "if (iteration > 0) " : wait->when == TILE_FIRST ? "if (iteration == 0) " : "";
  cu_line(e, "%sawait(%s, %s, %s, %d, %s); // %s", condition, counters_at(w, wait->group, iteration), from, to,
          producer->col_tasks, segments_of(producer), cu_kind_name(e, p->groups[wait->group].kind));
}

/* The group that follows, in this iteration, the next, or the next section; its first task of this block. */
static void ask_for_group(const walk *w, int next, const char *condition, const char *layer) {
  const tile_program *p = w->program;
  const tile_kind *kind = &p->kinds[p->groups[next].kind];
  cuda *e = w->e;
  if (!cu_has_product(kind)) return;
  cu_line(e, "if (ahead < %d%s) ahead_of_%s(step, %s, ahead);", kind->col_tasks, condition,
          cu_kind_name(e, p->groups[next].kind), layer);
}

static void ask_ahead(const walk *w) {
  const tile_section *s = w->section;
  cuda *e = w->e;
  if (s->window || w->kind->slots) return;
  const char *tasks = w->kind->space == TILE_SEGMENTS
                          ? dp_arena_printf(e->arena, "%d * launch.first_segment[block.token_tiles]", w->kind->col_tasks)
                          : dp_arena_printf(e->arena, "%d * (%s)", w->kind->col_tasks, row_tiles(e, w->kind));
  cu_line(e, "{");
  e->indent++;
  cu_line(e, "const int ahead = first_task(after(block, %s));", tasks);
  if (w->group + 1 < s->first + s->count) {
    ask_for_group(w, w->group + 1, "", "layer");
  } else {
    const char *more = dp_arena_printf(e->arena, " && iteration + 1 < %d", s->iterations);
    if (s->iterations > 1) ask_for_group(w, s->first, more, s->reverse ? "layer - 1" : "layer + 1");
    const tile_section *next = w->section_index + 1 < w->end ? s + 1 : NULL;
    if (next && next->count > 0)
      ask_for_group(w, next->first, dp_arena_printf(e->arena, " && iteration + 1 == %d", s->iterations),
                    dp_arena_printf(e->arena, "%d", (int)tile_layer(next, 0)));
  }
  cu_close(e);
}

static void emit_task(const walk *w) {
  cuda *e = w->e;
  const tile_kind *kind = w->kind;
  const tile_group *group = &w->program->groups[w->group];
  const char *name = cu_kind_name(e, group->kind);
  cu_line(e, "task_begins(launch, block, %d, layer, tile, task);", w->group);
  if (cu_first_product(e, kind) >= 0)
    cu_line(e, "if (step.rows[%d] <= 8) begin_%s(step, block, layer, tile, task);", kind->space, name);
  for (int i = 0; i < group->wait_count; i++) emit_wait(w, &group->waits[i]);
  cu_line(e, "block_sync();");
  if (kind->space == TILE_SEGMENTS)
    cu_line(e, "%s(step, block, layer, launch.first_segment[tile] + task / %d, task %% %d, false);", name,
            kind->col_tasks, kind->col_tasks);
  else
    cu_line(e, "%s(step, block, layer, tile, task, %s);", name, kind->prologue > 0 ? "task >= block.count" : "false");
  cu_line(e, "task_done((u32 *)(%s) + tile);", counters_at(w, w->group, "iteration"));
}

static const char *group_name(cuda *e, int group) {
  return cu_name(e->arena, "group", group, e->program->kinds[e->program->groups[group].kind].name);
}

/* A function a group: what the compiler keeps in registers for one need not be kept for all. */
static void emit_group(const walk *w) {
  cuda *e = w->e;
  const char *from, *to;
  range_in_round(w, w->kind, &from, &to);
  cu_line(e, "%s", "");
  cu_open(e, "TASK_FUNCTION void %s(const Launch &launch, Block &block, int iteration, int layer)",
          group_name(e, w->group));
  cu_line(e, "const Step &step = launch.step;");
  ask_ahead(w);
  cu_open(e, "for (int tile = %s; tile < %s; tile++)", from, to);
  cu_line(e, "const int tasks = bundle_tasks(%d, %s, tile);", w->kind->col_tasks, segments_of(w->kind));
  cu_open(e, "for (int task = first_task(block); task < tasks; task += block.count)");
  emit_task(w);
  cu_close(e);
  cu_line(e, "pass_bundle(block, tasks);");
  cu_close(e);
  cu_close(e);
}

static void emit_section(cuda *e, int index) {
  const tile_program *p = e->program;
  const tile_section *section = &p->sections[index];
  cu_line(e, "// section %d", index);
  if (section->window)
    cu_open(e, "for (int iteration = 0; iteration < (block.token_tiles + %d) / %d; iteration++)", section->window - 1,
            section->window);
  else
    cu_open(e, "for (int iteration = 0; iteration < %d; iteration++)", section->iterations);
  if (section->reverse)
    cu_line(e, "const int layer = %d - iteration;", section->base + section->iterations - 1);
  else
    cu_line(e, "const int layer = %s;", cu_sum(e->arena, "iteration", section->base));
  for (int g = section->first; g < section->first + section->count; g++)
    cu_line(e, "%s(launch, block, iteration, layer);", group_name(e, g));
  cu_close(e);
}

static void emit_groups(cuda *e, int index, int end) {
  const tile_program *p = e->program;
  const tile_section *section = &p->sections[index];
  for (int g = section->first; g < section->first + section->count; g++) {
    walk w = {e, p, g, index, end, section, &p->kinds[p->groups[g].kind]};
    emit_group(&w);
  }
}

/* An entry may go on where another one ends: their sections' functions are there. */
static bool is_in_entry_before(const tile_program *p, int index, int section) {
  for (int i = 0; i < index; i++) {
    tile_entry entry = tile_entry_at(p, i);
    if (section >= entry.first && section < entry.first + entry.count) return true;
  }
  return false;
}

void cu_emit_step(cuda *e, int index) {
  const tile_program *p = e->program;
  tile_entry entry = tile_entry_at(p, index);
  for (int s = entry.first; s < entry.first + entry.count; s++)
    if (!is_in_entry_before(p, index, s)) emit_groups(e, s, entry.first + entry.count);
  cu_line(e, "\n// entry %d: %s", index, entry.name ? entry.name : "");
  cu_open(e, "STEP_KERNEL(dipper_step_%d)", index);
  cu_line(e, "Block block = open_block(launch);");
  tile_turns turns;
  bool picks = tile_find_turns(p, index, &turns);
  if (picks) cu_open(e, "for (int turn = 0;; turn++)");
  for (int s = entry.first; s < entry.first + entry.count; s++) emit_section(e, s);
  if (picks) {
    cu_line(e, "if (!end_turn(launch, block, {%d, %d, %d, %d, %d, %" PRId64 "}, turn)) break;", turns.tokens, turns.pos,
            turns.place, turns.picked->output, turns.log_probability->output, turns.picked->stride);
    cu_close(e);
  }
  cu_line(e, "step_ends(launch, block);");
  cu_close(e);
}
