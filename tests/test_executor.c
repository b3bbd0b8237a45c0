/* tests/test_executor.c: what the executor promises of any tile program: every task runs exactly once, after everything
 * it waits for and with that visible, `reuse` is never claimed of another task's scratch, and who waits sleeps. The
 * code it runs here is a fake that reads what producers wrote by plain loads: under TSan a missing order is a report.
 */
#include "base/base.h"
#include "ir/ir.h"
#include "runtime/executor.h"
#include "runtime/pace.h"

#include <check.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
enum { EFFORT = 1 };
#else
enum { EFFORT = 4 };
#endif

enum { MAX_TOKENS = 40, MAX_GROUPS = 12, MAX_ITERATIONS = 4, MAX_COLUMNS = 7 };

static uint64_t random_state;
static uint64_t random_below(uint64_t n) {
  random_state = random_state * 6364136223846793005u + 1442695040888963407u;
  return (random_state >> 33) % n;
}

/* ---- a step and what its tasks did */

/* What a task leaves behind: how often it ran. Plain memory, ordered by the executor alone. */
static int ran[MAX_GROUPS][MAX_ITERATIONS][MAX_TOKENS][MAX_COLUMNS];

typedef struct trial {
  tile_code code; /* first: the fake finds the trial by it */
  tile_program *program;
  tile_step step;
  int32_t segment_row[MAX_TOKENS + 1], segment_tokens[MAX_TOKENS + 1];
  int64_t number;         /* of the step */
  int sleep_once_in;      /* 0: never */
  int slow_kind, slow_ms; /* tasks of this kind take that long */
  atomic_int tasks, reuses, faults;
  char fault[300]; /* the first */
} trial;

static void report(trial *t, const char *what, int kind, int64_t layer, int64_t row, int64_t col, int on) {
  if (atomic_fetch_add(&t->faults, 1) > 0) return;
  snprintf(t->fault, sizeof t->fault, "step %lld, task (group %d, iteration %lld, row %lld, column %lld): %s %d",
           (long long)t->number, kind, (long long)layer, (long long)row, (long long)col, what, on);
}

static int64_t rows_of(const trial *t, int group) {
  int space = t->program->kinds[t->program->groups[group].kind].space;
  if (space == TILE_SEGMENTS) return t->step.rows[TILE_SEGMENTS];
  return (t->step.rows[space] + t->program->row_tile - 1) / t->program->row_tile;
}

static int64_t row_tile_of(const trial *t, int group, int64_t row) {
  bool segments = t->program->kinds[t->program->groups[group].kind].space == TILE_SEGMENTS;
  return segments ? t->segment_row[row] / t->program->row_tile : row;
}

/* The definition of a wait, task by task: which tasks of the producer must have run. */
static void check_wait(trial *t, int group, const tile_wait *wait, int64_t layer, int64_t row, int64_t col) {
  const tile_program *p = t->program;
  int own = p->groups[group].section, section = p->groups[wait->group].section;
  int64_t iteration = section == own ? layer : p->sections[section].iterations - 1;
  if (wait->when == TILE_FIRST && layer > 0) return;
  if (wait->when == TILE_PREVIOUS && layer == 0) return;
  if (wait->when == TILE_PREVIOUS) iteration = layer - 1;
  for (int64_t r = 0; r < rows_of(t, wait->group); r++) {
    int64_t theirs = row_tile_of(t, wait->group, r), mine = row_tile_of(t, group, row);
    if (wait->scope == TILE_ROW && theirs != mine) continue;
    if (wait->scope == TILE_PREFIX && theirs > mine) continue;
    for (int c = 0; c < p->kinds[p->groups[wait->group].kind].col_tasks; c++)
      if (ran[wait->group][iteration][r][c] != 1)
        report(t, "ran before its producer, group", group, layer, row, col, wait->group);
  }
}

typedef struct memo { /* whose prologue the scratch holds */
  int64_t number, kind, layer, row;
} memo;

static void take_time(trial *t, int kind, int64_t layer, int64_t row, int64_t col) {
  uint64_t chance = dp_hash((uint64_t)t->number, (int64_t[]){kind, layer, row, col}, 32);
  long nanoseconds = kind == t->slow_kind ? t->slow_ms * 1000000L : (long)(chance >> 20) % 100000;
  if (kind == t->slow_kind || (t->sleep_once_in && chance % (uint64_t)t->sleep_once_in == 0))
    nanosleep(&(struct timespec){.tv_nsec = nanoseconds}, NULL);
}

static void fake_run(const tile_code *code, int kind, const tile_step *step, int64_t layer, int64_t row, int64_t col,
                     void *scratch, int64_t reuse) {
  trial *t = (trial *)(uintptr_t)code;
  memo *held = scratch, now = {t->number, kind, layer, row};
  const tile_group *group = &t->program->groups[kind]; /* group i runs kind i */
  if (step != &t->step) report(t, "was given another step", kind, layer, row, col, 0);
  if ((uintptr_t)scratch % 64) report(t, "has scratch off by", kind, layer, row, col, (int)((uintptr_t)scratch % 64));
  for (int i = 0; i < group->wait_count; i++) check_wait(t, kind, &group->waits[i], layer, row, col);
  if (reuse && memcmp(held, &now, sizeof now) != 0)
    report(t, "reuses the scratch of kind", kind, layer, row, col, (int)held->kind);
  take_time(t, kind, layer, row, col);
  *held = now;
  memset((char *)scratch + sizeof now, (int)col, code->scratch_bytes - sizeof now);
  ran[kind][layer][row][col]++;
  atomic_fetch_add_explicit(&t->tasks, 1, memory_order_relaxed);
  if (reuse) atomic_fetch_add_explicit(&t->reuses, 1, memory_order_relaxed);
}

/* ---- programs and steps at random */

static void add_wait(tile_program *p, tile_group *group, int producer, tile_scope scope, tile_when when) {
  DP_PUSH(p->arena, group->waits, group->wait_count, group->wait_cap) = (tile_wait){producer, scope, when};
}

/* Groups of one such space have the same row tiles. */
static tile_space rows_in(tile_space space) { return space == TILE_PARAMETERS ? space : tile_slab_space(space); }

static void random_waits(tile_program *p, int index) {
  tile_group *group = &p->groups[index];
  const tile_section *section = &p->sections[group->section];
  tile_space space = rows_in(p->kinds[group->kind].space);
  for (int n = (int)random_below(4); n > 0; n--) {
    int producer = (int)random_below((uint64_t)(section->first + section->count));
    tile_when when = TILE_EVERY;
    if (p->groups[producer].section < group->section && random_below(3) == 0) when = TILE_FIRST;
    if (producer >= index || (p->groups[producer].section == group->section && random_below(3) == 0))
      when = TILE_PREVIOUS;
    bool other_rows = space != rows_in(p->kinds[p->groups[producer].kind].space);
    add_wait(p, group, producer, other_rows ? TILE_ALL : (tile_scope)random_below(3), when);
  }
}

static tile_program *random_program(void) {
  tile_program *p = tile_program_new("random");
  p->row_tile = 1 + (int)random_below(8);
  p->segment_tokens = 1 + (int)random_below((uint64_t)p->row_tile);
  p->section_count = p->section_cap = 1 + (int)random_below(3);
  p->sections = DP_NEW_ARRAY(p->arena, tile_section, p->section_count);
  for (int s = 0; s < p->section_count; s++) {
    p->sections[s] =
        (tile_section){.first = p->group_count, .count = 1 + (int)random_below(MAX_GROUPS / 3),
                       .iterations = 1 + (int)random_below(MAX_ITERATIONS)};
    for (int g = 0; g < p->sections[s].count; g++) {
      tile_kind kind = {.name = "task",
                        .space = (tile_space)random_below(TILE_STATES),
                        .group = 1,
                        .max_rows = p->row_tile,
                        .col_tasks = 1 + (int)random_below(MAX_COLUMNS)};
      DP_PUSH(p->arena, p->groups, p->group_count, p->group_cap) = (tile_group){.kind = p->kind_count, .section = s};
      DP_PUSH(p->arena, p->kinds, p->kind_count, p->kind_cap) = kind;
    }
  }
  for (int g = 0; g < p->group_count; g++) random_waits(p, g);
  return p;
}

static void random_step(trial *t, int64_t tokens, int64_t outputs) {
  const tile_program *p = t->program;
  int64_t segments = 0;
  for (int64_t row = 0; row < tokens; row++) {
    bool starts =
        row % p->row_tile == 0 || t->segment_tokens[segments - 1] == p->segment_tokens || random_below(4) == 0;
    if (starts) {
      t->segment_row[segments] = (int32_t)row;
      t->segment_tokens[segments++] = 0;
    }
    t->segment_tokens[segments - 1]++;
  }
  t->step = (tile_step){.rows = {[TILE_TOKENS] = tokens, [TILE_SEGMENTS] = segments, [TILE_OUTPUTS] = outputs, [TILE_PARAMETERS] = 1},
                        .segment_row = t->segment_row,
                        .segment_tokens = t->segment_tokens};
  t->number++;
}

static trial new_trial(tile_program *program) {
  return (trial){.code = {.run = fake_run, .scratch_bytes = 200}, .program = program, .slow_kind = -1};
}

static rt_executor *new_executor(trial *t, int workers) {
  rt_executor *executor;
  dp_status status = rt_executor_new(t->program, &t->code, workers, MAX_TOKENS, MAX_TOKENS, &executor);
  ck_assert_msg(status.code == DP_OK, "%s", dp_status_text(&status));
  rt_executor_use_all(executor, true); /* steps of a test are short: measured, one worker would be the best number */
  return executor;
}

/* Runs the step and checks that every task of it ran once. */
static void run_and_check(trial *t, rt_executor *executor) {
  const tile_program *p = t->program;
  memset(ran, 0, sizeof ran);
  atomic_store(&t->tasks, 0);
  rt_executor_run(executor, &t->step);
  ck_assert_msg(atomic_load(&t->faults) == 0, "%s (%d workers)", t->fault, rt_executor_workers(executor));
  int expected = 0;
  for (int g = 0; g < p->group_count; g++)
    for (int i = 0; i < p->sections[p->groups[g].section].iterations; i++)
      for (int64_t r = 0; r < rows_of(t, g); r++)
        for (int c = 0; c < p->kinds[g].col_tasks; c++, expected++)
          ck_assert_msg(ran[g][i][r][c] == 1, "task (group %d, iteration %d, row %lld, column %d) ran %d times", g, i,
                        (long long)r, c, ran[g][i][r][c]);
  ck_assert_int_eq(atomic_load(&t->tasks), expected);
}

/* ---- tests */

START_TEST(every_task_runs_once_and_after_what_it_waits_for) {
  random_state = 1;
  for (int round = 0; round < 40 * EFFORT; round++) {
    trial t = new_trial(random_program());
    for (int workers = 1; workers <= 4; workers++) {
      rt_executor *executor = new_executor(&t, workers);
      for (int steps = 0; steps < 4; steps++) {
        t.sleep_once_in = (int)random_below(3) * 20;
        random_step(&t, (int64_t)random_below(MAX_TOKENS), (int64_t)random_below(MAX_TOKENS));
        run_and_check(&t, executor);
      }
      rt_executor_free(executor);
    }
    tile_program_free(t.program);
  }
}
END_TEST

START_TEST(a_step_without_rows_ends) {
  random_state = 2;
  trial t = new_trial(random_program());
  for (int workers = 1; workers <= 2; workers++) {
    rt_executor *executor = new_executor(&t, workers);
    random_step(&t, 0, 0);
    run_and_check(&t, executor);
    random_step(&t, 5, 0);
    run_and_check(&t, executor);
    rt_executor_free(executor);
  }
  tile_program_free(t.program);
}
END_TEST

/* A chain of groups, one row and `columns` tasks each: what a decode step looks like. */
static tile_program *chain(int groups, int iterations, int columns) {
  tile_program *p = tile_program_new("chain");
  p->row_tile = 8;
  p->segment_tokens = 4;
  p->section_count = p->section_cap = 1;
  p->sections = DP_NEW_ARRAY(p->arena, tile_section, 1);
  p->sections[0] = (tile_section){.count = groups, .iterations = iterations};
  for (int g = 0; g < groups; g++) {
    DP_PUSH(p->arena, p->groups, p->group_count, p->group_cap) = (tile_group){.kind = g};
    DP_PUSH(p->arena, p->kinds, p->kind_count, p->kind_cap) =
        (tile_kind){.name = "link", .space = TILE_TOKENS, .group = 1, .max_rows = 8, .col_tasks = columns};
    add_wait(p, &p->groups[g], g > 0 ? g - 1 : groups - 1, TILE_ROW, g > 0 ? TILE_EVERY : TILE_PREVIOUS);
  }
  return p;
}

/* Steps so short that helpers come late: into a closed step, or into the one after. The one program has a single group,
 * so that a task of the last step looks like one of this step in all but the step. */
START_TEST(late_helpers_take_part_in_the_right_step) {
  random_state = 3;
  for (int groups = 1; groups <= 2; groups++) {
    trial t = new_trial(chain(groups, 1, 2));
    for (int workers = 2; workers <= 4; workers++) {
      rt_executor *executor = new_executor(&t, workers);
      for (int i = 0; i < 2000 * EFFORT; i++) {
        random_step(&t, 1, 0);
        if (i % 50 == 0) usleep(100);
        run_and_check(&t, executor);
      }
      rt_executor_free(executor);
    }
    tile_program_free(t.program);
  }
}
END_TEST

START_TEST(one_worker_reuses_the_prologue_for_all_columns_of_a_row) {
  random_state = 4;
  trial t = new_trial(chain(3, 2, 5));
  rt_executor *executor = new_executor(&t, 1);
  random_step(&t, 20, 0);
  run_and_check(&t, executor);
  ck_assert_int_eq(atomic_load(&t.reuses),
                   3 * 2 * 3 * (5 - 1)); /* groups, iterations, row tiles, columns but the first */
  rt_executor_free(executor);
  tile_program_free(t.program);
}
END_TEST

static double processor_ms(void) {
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1e3 +
         (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e3;
}

START_TEST(idle_workers_use_no_processor_time) {
  random_state = 5;
  trial t = new_trial(chain(2, 2, 4));
  rt_executor *executor = new_executor(&t, 4);
  random_step(&t, 10, 0);
  run_and_check(&t, executor);
  usleep(20000);
  double before = processor_ms();
  usleep(200000);
  double used = processor_ms() - before;
  ck_assert_msg(used < 10, "four idle workers used %.1f ms of processor time in 200 ms", used);
  rt_executor_free(executor);
  tile_program_free(t.program);
}
END_TEST

START_TEST(workers_that_wait_for_a_slow_task_sleep) {
  random_state = 6;
  trial t = new_trial(chain(3, 1, 1));
  rt_executor *executor = new_executor(&t, 4);
  random_step(&t, 1, 0);
  t.slow_kind = 0;
  t.slow_ms = 200;
  double before = processor_ms();
  run_and_check(&t, executor);
  double used = processor_ms() - before;
  ck_assert_msg(used < 20, "waiting for a task of 200 ms took %.1f ms of processor time", used);
  rt_executor_free(executor);
  tile_program_free(t.program);
}
END_TEST

/* Row tile 0 takes long in the first group. Nothing else of the other row tiles waits for it, so they go to the end of
 * the step meanwhile: the task that ends last is of row tile 0, and no other ends after the slow one but those. */
static atomic_int run_late; /* tasks of other row tiles that began after the slow one */
static atomic_int slow_done;

static void slow_first_run(const tile_code *code, int kind, const tile_step *step, int64_t layer, int64_t row,
                           int64_t col, void *scratch, int64_t reuse) {
  (void)code, (void)step, (void)scratch, (void)reuse;
  if (row > 0 && atomic_load(&slow_done)) atomic_fetch_add(&run_late, 1);
  if (row > 0 || kind > 0 || layer > 0 || col > 0) return;
  nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
  atomic_store(&slow_done, 1);
}

START_TEST(a_worker_that_is_held_up_holds_up_only_what_needs_its_task) {
  random_state = 8;
  trial t = new_trial(chain(4, 3, 2));
  t.code.run = slow_first_run;
  rt_executor *executor = new_executor(&t, 2);
  random_step(&t, 40, 0);
  atomic_store(&slow_done, 0);
  atomic_store(&run_late, 0);
  rt_executor_run(executor, &t.step);
  ck_assert_int_eq(atomic_load(&slow_done), 1);
  ck_assert_int_eq(atomic_load(&run_late), 0);
  rt_executor_free(executor);
  tile_program_free(t.program);
}
END_TEST

/* ---- how many workers */

/* Runs steps whose time is made up, and returns their total in that of as many steps with the best number of workers. */
static double paced(rt_paces *paces, int steps, int64_t tokens, double (*time)(int workers, int step), int max) {
  double total = 0, best = 0;
  for (int i = 0; i < steps; i++) {
    int workers = rt_paces_choose(paces, tokens);
    ck_assert_int_ge(workers, 1);
    ck_assert_int_le(workers, max);
    double took = time(workers, i), least = took;
    for (int w = 1; w <= max; w *= 2)
      if (time(w, i) < least) least = time(w, i);
    rt_paces_took(paces, tokens, (int64_t)took);
    total += took;
    best += least;
  }
  return total / best;
}

static double noise(int step) { return (double)(dp_hash(1, &step, sizeof step) >> 40) / (1 << 24); }

static double more_is_better(int workers, int step) { return 40e6 / workers * (1 + 0.1 * noise(step)); }
static double one_is_best(int workers, int step) { return 5e6 * (1 + 0.25 * (workers - 1)) * (1 + 0.3 * noise(step)); }
static double four_are_best(int workers, int step) {
  return (16e6 / workers + 1e6 * workers) * (1 + 0.1 * noise(step));
}
/* Another process comes after 1000 steps and goes after 2000. */
static double disturbed(int workers, int step) {
  return workers == 1 ? 5e6 : step / 1000 % 2 ? 5e6 + 2.6e6 * noise(step) : 4e6 + 0.2e6 * noise(step);
}

START_TEST(steps_get_the_number_of_workers_that_is_fastest) {
  rt_paces paces;
  rt_paces_init(&paces, 8);
  double lost = paced(&paces, 3000, 1, more_is_better, 8);
  ck_assert_msg(lost < 1.02, "more is better: %.4f", lost);
  lost = paced(&paces, 3000, 2, one_is_best, 8); /* another class of steps: learned from nothing */
  ck_assert_msg(lost < 1.05, "one is best, learning included: %.4f", lost);
  lost = paced(&paces, 3000, 2, one_is_best, 8);
  ck_assert_msg(lost < 1.02, "one is best: %.4f", lost);
  paced(&paces, 500, 64, four_are_best, 8);
  ck_assert_int_eq(8 >> paces.classes[6].level, 4);
  lost = paced(&paces, 3000, 64, four_are_best, 8);
  ck_assert_msg(lost < 1.02, "four are best: %.4f", lost);
  rt_paces_init(&paces, 2);
  lost = paced(&paces, 4000, 1, disturbed, 2);
  ck_assert_msg(lost < 1.05, "disturbed: %.4f", lost);
}
END_TEST

START_TEST(any_number_of_workers_gets_through_any_step) {
  random_state = 9;
  trial t = new_trial(random_program());
  rt_executor *executor = new_executor(&t, 4);
  rt_executor_use_all(executor, false);
  for (int i = 0; i < 500 * EFFORT; i++) { /* trials of 1 and 2 workers are among them */
    random_step(&t, (int64_t)random_below(MAX_TOKENS), (int64_t)random_below(MAX_TOKENS));
    run_and_check(&t, executor);
  }
  rt_executor_free(executor);
  tile_program_free(t.program);
}
END_TEST

/* ---- traces */

/* A record of every task of the step, once, with its group, iteration, row and column; times in order; and no task
 * recorded as begun before one that it waits for has ended. */
static void check_trace(const trial *t, const rt_trace *trace, int32_t step) {
  const tile_program *p = t->program;
  int64_t (*ended)[MAX_ITERATIONS][MAX_TOKENS][MAX_COLUMNS] = calloc(MAX_GROUPS, sizeof *ended);
  int tasks = 0;
  for (int lane = 0; lane < trace->lane_count; lane++) {
    int64_t last = 0;
    for (int64_t i = 0; i < trace->lanes[lane].count; i++) {
      const rt_task_record *r = &trace->lanes[lane].tasks[i];
      ck_assert_int_ge(r->wait, last);
      ck_assert_int_le(r->wait, r->begin);
      ck_assert_int_le(r->begin, r->end);
      ck_assert_int_eq(r->wait_group >= 0, r->wait < r->begin);
      last = r->end;
      if (r->step != step) continue;
      ck_assert_int_ge(r->begin, trace->steps[step].begin);
      ck_assert_int_le(r->end, trace->steps[step].end);
      ck_assert_int_eq(r->row_tile, row_tile_of(t, r->group, r->row));
      ck_assert_int_eq(ended[r->group][r->iteration][r->row][r->col], 0);
      ended[r->group][r->iteration][r->row][r->col] = r->end;
      tasks++;
    }
  }
  ck_assert_int_eq(tasks, atomic_load(&t->tasks));
  for (int lane = 0; lane < trace->lane_count; lane++) {
    for (int64_t i = 0; i < trace->lanes[lane].count; i++) {
      const rt_task_record *r = &trace->lanes[lane].tasks[i];
      const tile_group *group = &p->groups[r->group];
      for (int w = 0; r->step == step && w < group->wait_count; w++) {
        const tile_wait *wait = &group->waits[w];
        if (wait->when != TILE_EVERY || wait->scope != TILE_ALL) continue;
        int section = p->groups[wait->group].section;
        int iteration = section == group->section ? r->iteration : p->sections[section].iterations - 1;
        for (int64_t row = 0; row < rows_of(t, wait->group); row++)
          for (int c = 0; c < p->kinds[p->groups[wait->group].kind].col_tasks; c++)
            ck_assert_int_le(ended[wait->group][iteration][row][c], r->begin);
      }
    }
  }
  free(ended);
}

START_TEST(a_trace_has_every_task_once_and_in_order) {
  random_state = 10;
  for (int round = 0; round < 10 * EFFORT; round++) {
    trial t = new_trial(random_program());
    int workers = 1 + round % 4;
    rt_executor *executor = new_executor(&t, workers);
    rt_trace *trace;
    ck_assert_int_eq(rt_trace_new(t.program, workers, 20000, 3, &trace).code, DP_OK);
    for (int32_t step = 0; step < 5; step++) { /* the first is not traced, for the last there is no room */
      if (step == 1) rt_executor_trace(executor, trace);
      int32_t positions[MAX_TOKENS] = {0}, pages[MAX_TOKENS + 1] = {0};
      random_step(&t, 1 + (int64_t)random_below(MAX_TOKENS - 1), (int64_t)random_below(MAX_TOKENS));
      t.step.positions = positions;
      t.step.segment_pages = pages;
      run_and_check(&t, executor);
      if (step > 0 && step < 4) check_trace(&t, trace, step - 1);
    }
    ck_assert_int_eq(trace->step_count, 3);
    ck_assert_int_eq(trace->dropped_steps, 1);
    rt_executor_trace(executor, NULL);
    random_step(&t, 3, 1);
    run_and_check(&t, executor);
    ck_assert_int_eq(trace->dropped_steps, 1);
    rt_trace_free(trace);
    rt_executor_free(executor);
    tile_program_free(t.program);
  }
}
END_TEST

START_TEST(what_finds_no_room_in_a_trace_is_counted) {
  random_state = 11;
  trial t = new_trial(chain(3, 2, 2));
  rt_executor *executor = new_executor(&t, 1);
  rt_trace *trace;
  ck_assert_int_eq(rt_trace_new(t.program, 1, 5, 10, &trace).code, DP_OK);
  rt_executor_trace(executor, trace);
  random_step(&t, 1, 0);
  run_and_check(&t, executor);
  ck_assert_int_eq(trace->lanes[0].count, 5);
  ck_assert_int_eq(trace->lanes[0].dropped, 3 * 2 * 2 - 5);
  rt_trace_free(trace);
  rt_executor_free(executor);
  tile_program_free(t.program);
}
END_TEST

/* Two executors in two threads share nothing. */
static void *run_steps(void *argument) {
  trial *t = argument;
  rt_executor *executor;
  dp_status status = rt_executor_new(t->program, &t->code, 2, MAX_TOKENS, MAX_TOKENS, &executor);
  for (int i = 0; status.code == DP_OK && i < 200; i++) rt_executor_run(executor, &t->step);
  if (status.code == DP_OK) rt_executor_free(executor);
  dp_status_free(&status);
  return NULL;
}

static void count_run(const tile_code *code, int kind, const tile_step *step, int64_t layer, int64_t row, int64_t col,
                      void *scratch, int64_t reuse) {
  trial *t = (trial *)(uintptr_t)code;
  (void)kind, (void)step, (void)layer, (void)row, (void)col, (void)scratch, (void)reuse;
  atomic_fetch_add_explicit(&t->tasks, 1, memory_order_relaxed);
}

START_TEST(two_executors_run_at_once) {
  random_state = 7;
  trial t[2];
  pthread_t threads[2];
  for (int i = 0; i < 2; i++) {
    t[i] = new_trial(chain(2 + i, 3, 3));
    t[i].code.run = count_run;
    random_step(&t[i], 9, 0);
    ck_assert_int_eq(pthread_create(&threads[i], NULL, run_steps, &t[i]), 0);
  }
  for (int i = 0; i < 2; i++) {
    pthread_join(threads[i], NULL);
    ck_assert_int_eq(atomic_load(&t[i].tasks), 200 * (2 + i) * 3 * 3 * 2);
    tile_program_free(t[i].program);
  }
}
END_TEST

START_TEST(a_bad_number_of_workers_is_refused) {
  trial t = new_trial(chain(1, 1, 1));
  rt_executor *executor;
  for (int workers = 0; workers <= 2000; workers += 2000) {
    dp_status status = rt_executor_new(t.program, &t.code, workers, MAX_TOKENS, MAX_TOKENS, &executor);
    ck_assert_int_eq(status.code, DP_INVALID);
    ck_assert_ptr_null(executor);
    dp_status_free(&status);
  }
  tile_program_free(t.program);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("executor");
  TCase *tests = tcase_create("steps");
  tcase_set_timeout(tests, 300);
  tcase_add_test(tests, every_task_runs_once_and_after_what_it_waits_for);
  tcase_add_test(tests, a_step_without_rows_ends);
  tcase_add_test(tests, late_helpers_take_part_in_the_right_step);
  tcase_add_test(tests, one_worker_reuses_the_prologue_for_all_columns_of_a_row);
  tcase_add_test(tests, idle_workers_use_no_processor_time);
  tcase_add_test(tests, workers_that_wait_for_a_slow_task_sleep);
  tcase_add_test(tests, a_worker_that_is_held_up_holds_up_only_what_needs_its_task);
  tcase_add_test(tests, steps_get_the_number_of_workers_that_is_fastest);
  tcase_add_test(tests, any_number_of_workers_gets_through_any_step);
  tcase_add_test(tests, a_trace_has_every_task_once_and_in_order);
  tcase_add_test(tests, what_finds_no_room_in_a_trace_is_counted);
  tcase_add_test(tests, two_executors_run_at_once);
  tcase_add_test(tests, a_bad_number_of_workers_is_refused);
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed != 0;
}
