/* tests/test_pick.c: tokens picked inside a step: the host's draw to the last bit, on every back end, alone and in company; as often
 * as the softmax says; and the log-probabilities that scoring gives. */
#include "api/internal.h"
#include "runtime/engine.h"
#include "tests/cuda_host.h"

#include <check.h>
#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MODELS DIPPER_SOURCE_DIR "/models/"

static void check_ok(dp_status status, const char *what) {
  ck_assert_msg(status.code == DP_OK, "%s: %s", what, dp_status_text(&status));
}

static uint32_t bits_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

/* ---- programs that pick */

typedef struct subject {
  tile_program *program;
  api_source source;
} subject;

static void schedule(subject *s, bool scores) {
  ir_module **module = &s->source.module;
  const char *graphs[] = {(*module)->graphs->name, "pick", "score"};
  if (scores) check_ok(ps_add_score(*module), "score");
  check_ok(ps_run(module, NULL, 0, &(ps_options){.verify_each = true, .stress_reparse = true}), "passes");
  graphs[0] = (*module)->graphs->name;
  check_ok(ps_add_pick(*module), "pick");
  dp_str text = {0};
  ir_print(&text, *module);
  dp_diags *diags = dp_diags_new();
  ir_module *again = ir_parse("again", text.text, text.length, diags);
  ck_assert_msg(again != NULL, "what was added does not read back: %s", text.text);
  ir_module_free(again);
  dp_diags_free(diags);
  dp_str_free(&text);
  tile_target target = {.cores = 8, .task_bytes = 8192};
  check_ok(ps_schedule_all(*module, graphs, scores ? 3 : 2, &target, &s->program), "schedule");
  check_ok(tile_check(s->program, 2 * s->program->row_tile + 1, 2, 2, TILE_CHUNK + 1), "check");
  check_ok(tile_check(s->program, 8, 8, 8, 3), "check");
}

/* A llama whose vocabulary takes three tasks to look through. */
static subject open_llama(bool scores) {
  static const char *const sets[] = {"vocab=5000", "d=64", "layers=2", "heads=4", "kv_heads=2", "ff=96"};
  subject s = {0};
  dp_options options = {.path = MODELS "llama.dip", .weights = "random:7", .sets = sets, .set_count = DP_COUNT(sets)};
  check_ok(api_open_source(&options, API_WEIGHTS, &s.source), "llama");
  schedule(&s, scores);
  return s;
}

/* A token's logits are its row of a table. */
static subject open_table(int vocabulary, float **table) {
  char text[512];
  snprintf(text, sizeof text,
           "module table {\n  weight @t : f32[%d, %d] from \"t\"\n  graph @forward(%%tokens: i32[T], %%pos: i32[T]) {\n"
           "    %%t = weight {name = \"t\"} : f32[%d, %d]\n    %%x = gather %%t, %%tokens : f32[T, %d]\n    return %%x\n  }\n}\n",
           vocabulary, vocabulary, vocabulary, vocabulary, vocabulary);
  subject s = {0};
  dp_diags *diags = dp_diags_new();
  s.source.module = ir_parse("table", text, strlen(text), diags);
  ck_assert(s.source.module != NULL);
  dp_diags_free(diags);
  check_ok(rt_bind_random(s.source.module, 7, IR_f32, &s.source.binding), "table");
  *table = (float *)(uintptr_t)rt_binding_get(s.source.binding, 0, 0)->data;
  schedule(&s, false);
  return s;
}

static void close_subject(subject *s) {
  tile_program_free(s->program);
  api_close_source(&s->source);
}

static rt_engine *open_engine(const subject *s, const tile_code *code, int workers) {
  rt_engine *engine;
  rt_engine_options options = {.workers = workers, .context = 1536, .max_tokens = 256};
  check_ok(rt_engine_new(s->program, code, s->source.binding, &options, &engine), "engine");
  ck_assert(rt_engine_picks(engine));
  return engine;
}

/* ---- generations: eight requests of other temperatures, seeds and prompts */

enum { SEQUENCES = 8, TOKENS = 6, LONGEST = 70 };

static const rt_draw draws[SEQUENCES] = {{0, 1},    {1, 1},          {1, 2},   {0.7f, UINT64_C(0x123456789abcdef0)},
                                         {2.5f, 3}, {1, UINT64_MAX}, {0, 900}, {1.3f, UINT64_C(1) << 32}};
static const int prompts[SEQUENCES] = {3, 61, 1, 9, 64, 2, 17, 5}; /* new pages on the way */

typedef struct generation {
  rt_pick picks[SEQUENCES][TOKENS];
} generation;

static void expect_the_host_s(const rt_logits *logits, int64_t row, const rt_draw *draw, int64_t place, const rt_pick *pick) {
  const float *x = logits->data + row * logits->stride;
  int32_t id = cg_pick(x, logits->columns, draw->temperature, draw->seed, place);
  float log_probability = x[id] - cg_log_sum_exp(x, logits->columns);
  ck_assert_msg(pick->id == id, "temperature %g, place %d: token %d, not the host's %d", (double)draw->temperature, (int)place,
                pick->id, id);
  ck_assert_msg(bits_of(pick->log_probability) == bits_of(log_probability), "token %d: %a, not the host's %a", id,
                (double)pick->log_probability, (double)log_probability);
}

static int32_t prompt_token(int s, int i) { return (i * 37 + s * 101 + 5) % 5000; }

/* Of sequences [first, end), in one batch. */
static void generate(rt_engine *engine, int first, int end, bool looks, generation *g) {
  static int32_t prompt[SEQUENCES][LONGEST];
  rt_sequence *sequences[SEQUENCES];
  rt_request requests[SEQUENCES];
  int count = end - first;
  for (int i = 0; i < count; i++) {
    int s = first + i;
    check_ok(rt_sequence_new(engine, &sequences[i]), "sequence");
    for (int t = 0; t < prompts[s]; t++) prompt[s][t] = prompt_token(s, t);
    requests[i] = (rt_request){.sequence = sequences[i], .tokens = prompt[s], .count = prompts[s], .want = RT_WANT_LAST,
                               .draw = &draws[s]};
  }
  for (int t = 0; t < TOKENS; t++) {
    rt_pick picks[SEQUENCES];
    rt_logits logits;
    check_ok(rt_engine_pick(engine, requests, count, picks, looks ? &logits : NULL), "pick");
    for (int i = 0; i < count; i++) {
      if (looks) expect_the_host_s(&logits, i, &draws[first + i], rt_sequence_length(sequences[i]), &picks[i]);
      g->picks[first + i][t] = picks[i];
      requests[i].tokens = &g->picks[first + i][t].id;
      requests[i].count = 1;
    }
  }
  for (int i = 0; i < count; i++) rt_sequence_free(engine, sequences[i]);
}

static void expect_same(const generation *a, const generation *b, const char *what) {
  for (int s = 0; s < SEQUENCES; s++)
    for (int t = 0; t < TOKENS; t++) {
      const rt_pick *x = &a->picks[s][t], *y = &b->picks[s][t];
      ck_assert_msg(x->id == y->id && bits_of(x->log_probability) == bits_of(y->log_probability),
                    "%s: token %d of sequence %d is %d (%a), not %d (%a)", what, t, s, y->id, (double)y->log_probability, x->id,
                    (double)x->log_probability);
    }
}

/* In one batch; then each alone. */
static generation generations(const subject *s, const tile_code *code, int workers, bool looks) {
  rt_engine *engine = open_engine(s, code, workers);
  generation together = {0}, alone = {0};
  generate(engine, 0, SEQUENCES, looks, &together);
  for (int i = 0; i < SEQUENCES; i++) generate(engine, i, i + 1, false, &alone);
  expect_same(&together, &alone, "alone");
  rt_engine_free(engine);
  return together;
}

static tile_code *build(const char *backend, const subject *s) {
  tile_code *code;
  check_ok(cg_build(cg_find_backend(backend), s->program, NULL, NULL, &code, NULL, NULL), backend);
  return code;
}

/* False, and it says so, where this machine has no C++ compiler. */
static bool build_host(const subject *s, cuda_host **host) {
  const tile_program *programs[] = {s->program};
  dp_status status = cuda_host_new(programs, NULL, 1, host);
  if (status.code == DP_NOT_FOUND) fprintf(stderr, "skipped: %s\n", dp_status_text(&status));
  bool built = status.code == DP_OK;
  if (!built && status.code != DP_NOT_FOUND) check_ok(status, "the text for this machine");
  dp_status_free(&status);
  return built;
}

START_TEST(every_back_end_picks_what_the_host_picks) {
  subject s = open_llama(false);
  tile_code *interp = build("interp", &s), *llvm = cg_find_backend("llvm") ? build("llvm", &s) : NULL;
  generation defined = generations(&s, interp, 1, true);
  int different = 0;
  for (int t = 0; t < TOKENS; t++) different += defined.picks[1][t].id != defined.picks[2][t].id;
  ck_assert_int_gt(different, 0);
  for (int workers = 1; llvm && workers <= 3; workers++) {
    generation g = generations(&s, llvm, workers, true);
    expect_same(&defined, &g, "llvm");
  }
  interp->free(interp);
  if (llvm) llvm->free(llvm);
  close_subject(&s);
}
END_TEST

static const int grids[] = {1, 3, 8};

START_TEST(a_device_picks_what_the_host_picks) {
  subject s = open_llama(false);
  tile_code *interp = build("interp", &s), code;
  generation defined = generations(&s, interp, 1, false);
  cuda_host *host;
  bool built = build_host(&s, &host);
  for (size_t i = 0; built && i < DP_COUNT(grids); i++) {
    cuda_host_code(host, 0, grids[i], 17 + i, &code);
    generation g = generations(&s, &code, 1, true);
    expect_same(&defined, &g, "CUDA");
    code.free(&code);
  }
  if (built) cuda_host_free(host);
  interp->free(interp);
  close_subject(&s);
}
END_TEST

/* ---- several tokens a launch */

enum { TURNS = 5, NEVER = -1 };

typedef struct decoded {
  rt_pick picks[2 * TURNS][SEQUENCES];
  int made;
  int64_t length; /* of the first sequence */
} decoded;

/* The prompts of sequences [first, end), then 2 * TURNS tokens, `at_once` a launch, until all have picked an end. */
static decoded decode(const subject *s, const tile_code *code, int first, int end, int at_once, const int32_t *ends) {
  rt_engine *engine = open_engine(s, code, 1);
  static int32_t prompt[SEQUENCES][LONGEST];
  rt_sequence *sequences[SEQUENCES];
  rt_request requests[SEQUENCES];
  rt_pick picks[TURNS * SEQUENCES];
  decoded d = {0};
  int count = end - first;
  for (int i = 0; i < count; i++) {
    check_ok(rt_sequence_new(engine, &sequences[i]), "sequence");
    for (int t = 0; t < prompts[first + i]; t++) prompt[i][t] = prompt_token(first + i, t);
    requests[i] = (rt_request){.sequence = sequences[i], .tokens = prompt[i], .count = prompts[first + i], .want = RT_WANT_LAST,
                               .draw = &draws[first + i]};
  }
  check_ok(rt_engine_pick(engine, requests, count, picks, NULL), "prompt");
  int32_t ids[SEQUENCES];
  for (int i = 0; i < count; i++) ids[i] = picks[i].id;
  while (d.made < 2 * TURNS) {
    int made;
    for (int i = 0; i < count; i++) requests[i].tokens = &ids[i], requests[i].count = 1;
    rt_decoding decoding = {.turns = at_once, .ends = ends, .end_count = ends ? 2 : 0};
    check_ok(rt_engine_decode(engine, requests, count, &decoding, picks, &made), "decode");
    ck_assert_int_ge(made, 1);
    ck_assert_int_le(made, at_once);
    for (int t = 0; t < made; t++, d.made++)
      for (int i = 0; i < count; i++) d.picks[d.made][first + i] = picks[t * count + i];
    for (int i = 0; i < count; i++) ids[i] = picks[(made - 1) * count + i].id;
    if (made < at_once) break;
  }
  d.length = rt_sequence_length(sequences[0]);
  ck_assert_int_eq(d.length, prompts[first] + d.made);
  rt_engine_free(engine);
  return d;
}

static void expect_same_decoded(const decoded *a, const decoded *b, int first, int end, const char *what) {
  ck_assert_msg(a->made == b->made, "%s: %d turns, not %d", what, b->made, a->made);
  for (int t = 0; t < a->made; t++)
    for (int s = first; s < end; s++) {
      const rt_pick *x = &a->picks[t][s], *y = &b->picks[t][s];
      ck_assert_msg(x->id == y->id && bits_of(x->log_probability) == bits_of(y->log_probability),
                    "%s: token %d of sequence %d is %d (%a), not %d (%a)", what, t, s, y->id, (double)y->log_probability, x->id,
                    (double)x->log_probability);
    }
}

/* All sequences and one alone, 1, 2 and TURNS tokens a launch; `defined`: what the interpreter picks, step by step. */
static void expect_turns_change_nothing(const subject *s, const tile_code *code, const decoded *defined, const char *what) {
  static const int sizes[] = {1, TURNS, 2};
  for (size_t i = 0; i < DP_COUNT(sizes); i++) {
    decoded all = decode(s, code, 0, SEQUENCES, sizes[i], NULL);
    expect_same_decoded(defined, &all, 0, SEQUENCES, what);
  }
  for (int one = 1; one < 5; one += 3) {
    decoded alone = decode(s, code, one, one + 1, TURNS, NULL);
    expect_same_decoded(defined, &alone, one, one + 1, what);
  }
}

/* One sequence's fourth token as an end, and of eight one that only some have. */
static void expect_ends_end(const subject *s, const tile_code *code, const decoded *defined, const char *what) {
  const int32_t own[] = {defined->picks[3][5].id, NEVER}, few[] = {defined->picks[1][2].id, NEVER};
  int until = 0;
  while (defined->picks[until][5].id != own[0]) until++; /* it may have come before */
  decoded d = decode(s, code, 5, 6, TURNS, own);
  ck_assert_msg(d.made == until + 1, "%s: it ended after %d tokens, not %d", what, d.made, until + 1);
  decoded all = decode(s, code, 0, SEQUENCES, TURNS, few);
  expect_same_decoded(defined, &all, 0, SEQUENCES, what);
}

START_TEST(a_launch_of_several_tokens_gives_what_several_launches_give) {
  subject s = open_llama(false);
  tile_code *interp = build("interp", &s), code;
  decoded defined = decode(&s, interp, 0, SEQUENCES, 1, NULL);
  expect_turns_change_nothing(&s, interp, &defined, "interp");
  expect_ends_end(&s, interp, &defined, "interp");
  cuda_host *host;
  bool built = build_host(&s, &host);
  for (size_t i = 0; built && i < DP_COUNT(grids); i++) {
    cuda_host_code(host, 0, grids[i], 900 + 31 * i, &code);
    expect_turns_change_nothing(&s, &code, &defined, "CUDA");
    expect_ends_end(&s, &code, &defined, "CUDA");
    code.free(&code);
  }
  if (built) cuda_host_free(host);
  interp->free(interp);
  close_subject(&s);
}
END_TEST

/* ---- mistakes that the executor is there to find */

static const cuda_bug bugs[] = {
    {"while (read_acquire(launch.meeting + 1) - launch.released < passed) spin();", ""}, /* goes on before the picks are taken */
    {"while (read_acquire(launch.meeting) - launch.arrived < passed * (u32)block.count) spin();", ""}, /* takes them too early */
    {"  block.other_counters = counters;\n  clear_other_counters(launch, block);", "  block.other_counters = counters;"},
    {"* LINE + position % LINE;", "* LINE + (position - 1) % LINE;"}, /* appends where the last token stands */
    {"const_cast<int *>(step.inputs[t.place])[r] = position + 1;", ""},  /* draws with the last token's noise */
};

/* Does anything look wrong in one of a few runs? */
static bool finds(const subject *s, const cuda_host *host, int bug, const decoded *defined) {
  rt_engine *engine;
  rt_sequence *sequence;
  for (uint64_t seed = 1; seed < 12; seed++) {
    tile_code code;
    rt_pick picks[TURNS + 1];
    int made;
    cuda_host_code(host, bug, 3, seed, &code);
    engine = open_engine(s, &code, 1);
    check_ok(rt_sequence_new(engine, &sequence), "sequence");
    int32_t prompt[LONGEST];
    for (int t = 0; t < prompts[1]; t++) prompt[t] = prompt_token(1, t);
    rt_request request = {.sequence = sequence, .tokens = prompt, .count = prompts[1], .want = RT_WANT_LAST, .draw = &draws[1]};
    dp_status status = rt_engine_pick(engine, &request, 1, picks, NULL);
    const int32_t id = picks[0].id;
    request.tokens = &id, request.count = 1;
    if (status.code == DP_OK) status = rt_engine_decode(engine, &request, 1, &(rt_decoding){.turns = TURNS}, picks, &made);
    bool found = status.code != DP_OK;
    for (int t = 0; t < TURNS && !found; t++)
      found = picks[t].id != defined->picks[t][1].id ||
              bits_of(picks[t].log_probability) != bits_of(defined->picks[t][1].log_probability);
    dp_status_free(&status);
    rt_engine_free(engine);
    code.free(&code);
    if (found) return true;
  }
  return false;
}

START_TEST(mistakes_between_turns_are_found) {
  enum { COUNT = DP_COUNT(bugs) };
  subject s = open_llama(false);
  tile_code *interp = build("interp", &s);
  decoded defined = decode(&s, interp, 0, SEQUENCES, 1, NULL);
  const tile_program *programs[COUNT];
  cuda_host *host;
  for (int i = 0; i < COUNT; i++) programs[i] = s.program;
  dp_status status = cuda_host_new(programs, bugs, COUNT, &host);
  if (status.code == DP_OK) {
    for (int i = 0; i < COUNT; i++) ck_assert_msg(finds(&s, host, i, &defined), "nobody finds '%s'", bugs[i].from);
    cuda_host_free(host);
  } else {
    ck_assert_int_eq(status.code, DP_NOT_FOUND);
    dp_status_free(&status);
  }
  interp->free(interp);
  close_subject(&s);
}
END_TEST

/* ---- through a driver */

START_TEST(a_device_takes_turns_and_returns_picks_alone) {
  setenv("DIPPER_LIBCUDA", DIPPER_FAKE_CUDA, 1);
  subject s = open_llama(false);
  tile_code *interp = build("interp", &s), *code;
  decoded defined = decode(&s, interp, 0, SEQUENCES, 1, NULL);
  cuda_host *host;
  if (build_host(&s, &host)) {
    cg_object image = cuda_host_image(host, 0);
    check_ok(cg_find_backend("cuda")->load(s.program, &image, &code), "load");
    expect_turns_change_nothing(&s, code, &defined, "the driver's");
    expect_ends_end(&s, code, &defined, "the driver's");
    void *driver = dlopen(DIPPER_FAKE_CUDA, RTLD_NOW | RTLD_NOLOAD);
    ck_assert(driver != NULL);
    const uint64_t *returned = dlsym(driver, "fake_bytes_to_host");
    ck_assert(returned != NULL);
    uint64_t before = *returned;
    decode(&s, code, 0, SEQUENCES, TURNS, NULL); /* a prompt and two launches: 8 bytes a launch, 8 a row and turn */
    ck_assert_uint_eq(*returned - before, 3 * 8 + 8 * SEQUENCES * (1 + 2 * TURNS));
    dlclose(driver);
    code->free(code);
    cg_object_free(&image);
    cuda_host_free(host);
  }
  interp->free(interp);
  close_subject(&s);
  unsetenv("DIPPER_LIBCUDA");
}
END_TEST

/* ---- the bits of scoring */

START_TEST(a_pick_s_log_probability_is_its_score_s) {
  subject s = open_llama(true);
  tile_code *code = build(cg_find_backend("llvm") ? "llvm" : "interp", &s);
  rt_engine *engine = open_engine(&s, code, 2);
  generation g = {0};
  generate(engine, 0, SEQUENCES, false, &g);
  for (int i = 0; i < SEQUENCES; i++) {
    int32_t tokens[LONGEST + TOKENS], targets[LONGEST + TOKENS];
    rt_request request = {.tokens = tokens, .targets = targets, .count = prompts[i] + TOKENS - 1};
    for (int t = 0; t < prompts[i]; t++) tokens[t] = prompt_token(i, t);
    for (int t = 0; t < TOKENS; t++) tokens[prompts[i] + t] = g.picks[i][t].id;
    for (int t = 0; t < request.count; t++) targets[t] = tokens[t + 1];
    rt_logits scores;
    check_ok(rt_sequence_new(engine, &request.sequence), "sequence");
    check_ok(rt_engine_run(engine, tile_find_entry(s.program, "score"), &request, 1, &scores), "score");
    for (int t = 0; t < TOKENS; t++) {
      float score = scores.data[(prompts[i] - 1 + t) * scores.stride], own = -g.picks[i][t].log_probability;
      ck_assert_msg(bits_of(score) == bits_of(own), "sequence %d, token %d: %a, scored %a", i, t, (double)own, (double)score);
    }
    rt_sequence_free(engine, request.sequence);
  }
  rt_engine_free(engine);
  code->free(code);
  close_subject(&s);
}
END_TEST

/* ---- logits that are chosen */

static const char *const backends[] = {"interp", "llvm"};

/* The picks behind each of the tokens, with their draws. */
static void pick_rows(rt_engine *engine, const int32_t *tokens, int count, const rt_draw *draw, rt_pick *picks) {
  rt_sequence *sequence;
  check_ok(rt_sequence_new(engine, &sequence), "sequence");
  rt_request request = {.sequence = sequence, .tokens = tokens, .count = count, .want = RT_WANT_ALL, .draw = draw};
  check_ok(rt_engine_pick(engine, &request, 1, picks, NULL), "pick");
  rt_sequence_free(engine, sequence);
}

START_TEST(the_lowest_id_wins_a_tie_and_what_is_no_number_is_told) {
  enum { WIDE = 4200 };
  if (!cg_find_backend(backends[_i])) return;
  float *table;
  subject s = open_table(WIDE, &table);
  for (int i = 0; i < WIDE; i++) {
    table[0 * WIDE + i] = i == 5 || i == 2100 || i == 4199 ? 3 : 1; /* a tie over all runs */
    table[1 * WIDE + i] = -INFINITY;
    table[2 * WIDE + i] = i == 3000 ? -7 : -INFINITY;
    table[3 * WIDE + i] = i == 4000 ? NAN : (float)(i == 4100);
    table[4 * WIDE + i] = i == 10 ? INFINITY : 0;
    table[5 * WIDE + i] = 2;
    table[6 * WIDE + i] = i == 2048 ? 5 : i == 2047 ? 4 : 0;
  }
  tile_code *code = build(backends[_i], &s);
  rt_engine *engine = open_engine(&s, code, 1);
  const int32_t tokens[] = {0, 1, 2, 3, 4, 5, 6};
  const int expected[] = {5, 0, 3000, 4100, 10, 0, 2048};
  const bool sound[] = {true, false, true, false, false, true, true};
  rt_pick picks[DP_COUNT(tokens)];
  pick_rows(engine, tokens, DP_COUNT(tokens), NULL, picks);
  for (size_t i = 0; i < DP_COUNT(tokens); i++) {
    ck_assert_msg(isnan(picks[i].log_probability) == !sound[i], "row %zu: %g", i, (double)picks[i].log_probability);
    ck_assert_msg(picks[i].id == expected[i], "row %zu: token %d, not %d", i, picks[i].id, expected[i]);
  }
  const rt_draw hot = {5, 1};
  pick_rows(engine, tokens, DP_COUNT(tokens), &hot, picks);
  ck_assert_int_eq(picks[2].id, 3000); /* no noise makes a token of -inf */
  ck_assert_float_eq(picks[2].log_probability, 0);
  rt_engine_free(engine);
  code->free(code);
  close_subject(&s);
}
END_TEST

/* The sum of (seen - expected)^2 / expected over the tokens. */
static double chi_square(const int *seen, const float *logits, int n, double temperature, int draws_made) {
  double sum = 0, chi = 0;
  for (int i = 0; i < n; i++) sum += exp((double)logits[i] / temperature);
  for (int i = 0; i < n; i++) {
    double expected = exp((double)logits[i] / temperature) / sum * draws_made, off = seen[i] - expected;
    ck_assert_double_gt(expected, 5);
    chi += off * off / expected;
  }
  return chi;
}

/* With 23 degrees of freedom chi-square is above 49.7 once in 1,000 seeds; seeds are fixed. */
START_TEST(tokens_come_as_often_as_the_softmax_says) {
  enum { VOCABULARY = 24, ROWS = 200, STEPS = 150 };
  static const float temperatures[] = {1, 0.6f, 2};
  if (!cg_find_backend("llvm")) return;
  float *table;
  subject s = open_table(VOCABULARY, &table);
  for (int i = 0; i < VOCABULARY * VOCABULARY; i++) table[i] = (float)(i % VOCABULARY * 5 % 7) / 3 - 1;
  tile_code *code = build("llvm", &s);
  rt_engine *engine = open_engine(&s, code, 1);
  int seen[VOCABULARY] = {0}, same = 0;
  int32_t tokens[ROWS] = {0}, before = -1;
  rt_pick picks[ROWS];
  for (int step = 0; step < STEPS; step++) { /* places 1 to ROWS of each seed */
    const rt_draw draw = {temperatures[_i], 1000 + (uint64_t)step};
    pick_rows(engine, tokens, ROWS, &draw, picks);
    for (int r = 0; r < ROWS; r++) {
      seen[picks[r].id]++;
      same += picks[r].id == before;
      before = picks[r].id;
    }
  }
  double chi = chi_square(seen, table, VOCABULARY, (double)temperatures[_i], ROWS * STEPS), sum = 0, squares = 0;
  ck_assert_msg(chi < 49.7, "chi-square %g", chi);
  for (int i = 0; i < VOCABULARY; i++) sum += exp((double)(table[i] / temperatures[_i]));
  for (int i = 0; i < VOCABULARY; i++) squares += pow(exp((double)(table[i] / temperatures[_i])) / sum, 2);
  double expected = squares * ROWS * STEPS, deviation = sqrt(expected * (1 - squares));
  ck_assert_msg(fabs(same - expected) < 4 * deviation, "%d neighbours are the same, not %g +- %g", same, expected, deviation);
  rt_engine_free(engine);
  code->free(code);
  close_subject(&s);
}
END_TEST

/* ---- sessions */

typedef struct heard {
  int32_t ids[16];
  double log_probabilities[16];
  int count;
} heard;

static bool hear(void *user, int32_t id, double log_probability) {
  heard *h = user;
  h->ids[h->count] = id;
  h->log_probabilities[h->count++] = log_probability;
  return true;
}

START_TEST(a_session_and_its_sampler_give_the_same_ids) {
  static const char *const sets[] = {"vocab=5000", "d=64", "layers=2", "heads=4", "kv_heads=2", "ff=96"};
  static const float temperatures[] = {0, 1, 0.8f};
  enum { COUNT = 12 };
  dp_options options = {.path = MODELS "llama.dip", .weights = "random:7", .sets = sets, .set_count = DP_COUNT(sets),
                        .context = 128, .cache_dir = "", .verify_each = true};
  dp_model *model;
  dp_session *session;
  check_ok(dp_model_open(&options, &model), "model");
  check_ok(dp_session_new(model, &session), "session");
  const int32_t prompt[] = {5, 900, 77};
  heard h = {0};
  dp_generation g = {.temperature = temperatures[_i], .top_p = 1, .seed = 12345, .max_tokens = COUNT, .on_token = hear, .user = &h};
  check_ok(dp_generate(session, prompt, 3, &g, NULL), "generate");
  ck_assert_int_eq(h.count, COUNT);
  dp_session_truncate(session, 0);
  dp_sampler_params params = dp_sampler_defaults();
  params.temp = temperatures[_i];
  params.seed = 12345;
  dp_sampler *sampler;
  check_ok(dp_sampler_new(&params, 5000, &sampler), "sampler");
  dp_sampler_draw_by(sampler, cg_pick);
  dp_sampler_at(sampler, 3);
  dp_logits logits;
  check_ok(dp_session_feed(session, prompt, 3, DP_WANT_LAST, &logits), "feed");
  for (int i = 0; i < COUNT; i++) {
    int32_t id;
    check_ok(dp_sampler_pick(sampler, logits.data, 5000, &id, NULL), "sampler");
    ck_assert_msg(id == h.ids[i], "token %d is %d, the sampler's %d", i, h.ids[i], id);
    ck_assert_double_eq(h.log_probabilities[i], (double)(logits.data[id] - cg_log_sum_exp(logits.data, 5000)));
    check_ok(dp_session_feed(session, &id, 1, DP_WANT_LAST, &logits), "feed");
  }
  dp_sampler_free(sampler);
  dp_session_free(session);
  dp_model_free(model);
}
END_TEST

/* ---- a session whose code takes turns */

/* A model of a program, code and engine that are there. */
static void fill_model(dp_model *model, const subject *s, rt_engine *engine) {
  *model = (dp_model){.program = s->program, .engine = engine};
  model->info = (dp_model_info){.vocabulary = 5000, .columns = 5000, .step_tokens = 32, .context = 90};
  api_adopt_model(NULL, model);
}

typedef struct listener {
  heard heard;
  int stop_after; /* tokens; 0: never */
} listener;

static bool listen_on(void *user, int32_t id, double log_probability) {
  listener *l = user;
  if (l->heard.count < (int)DP_COUNT(l->heard.ids)) return hear(&l->heard, id, log_probability) && l->heard.count != l->stop_after;
  l->heard.count++;
  return l->heard.count != l->stop_after;
}

static int64_t session_generates(const subject *s, const tile_code *code, int most, int stop_after, listener *l,
                                 dp_generation_stats *stats) {
  rt_engine *engine;
  dp_model model;
  dp_session *session;
  int32_t prompt[40];
  rt_engine_options options = {.workers = 1, .context = 90, .max_tokens = 32};
  check_ok(rt_engine_new(s->program, code, s->source.binding, &options, &engine), "engine");
  fill_model(&model, s, engine);
  check_ok(dp_session_new(&model, &session), "session");
  for (int i = 0; i < 40; i++) prompt[i] = prompt_token(2, i);
  *l = (listener){.stop_after = stop_after};
  dp_generation g = {.temperature = 0.9f, .top_p = 1, .seed = 77, .max_tokens = most, .on_token = listen_on, .user = l};
  check_ok(dp_generate(session, prompt, 40, &g, stats), "generate");
  int64_t length = dp_session_length(session);
  g.max_tokens = 3;
  if (length + 5 < 90) check_ok(dp_generate(session, prompt, 2, &g, NULL), "again"); /* goes on from there */
  dp_session_free(session);
  model.program = NULL; /* the subject's */
  api_close_model(&model);
  return length;
}

START_TEST(a_session_hears_of_each_token_whatever_a_launch_takes) {
  static const int cases[][2] = {{1, 0}, {9, 0}, {14, 0}, {-1, 5}, {20, 9}, {-1, 0}}; /* tokens, stopped after; the last fills the context */
  subject s = open_llama(false);
  tile_code *interp = build("interp", &s), code;
  cuda_host *host;
  bool built = build_host(&s, &host);
  for (size_t i = 0; built && i < DP_COUNT(cases); i++) {
    listener expected, got;
    dp_generation_stats before, after;
    cuda_host_code(host, 0, 3, 70 + i, &code);
    int64_t length = session_generates(&s, interp, cases[i][0], cases[i][1], &expected, &before);
    int64_t own = session_generates(&s, &code, cases[i][0], cases[i][1], &got, &after);
    ck_assert_int_eq(length, own);
    ck_assert_int_eq(before.new_tokens, after.new_tokens);
    ck_assert(before.stopped == after.stopped && before.finished == after.finished);
    ck_assert_int_eq(expected.heard.count, got.heard.count);
    ck_assert_mem_eq(expected.heard.ids, got.heard.ids, sizeof got.heard.ids);
    ck_assert_mem_eq(expected.heard.log_probabilities, got.heard.log_probabilities, sizeof got.heard.log_probabilities);
    code.free(&code);
  }
  if (built) cuda_host_free(host);
  interp->free(interp);
  close_subject(&s);
}
END_TEST

/* ---- NVRTC */

static const char *const architectures[] = {"sm_80", "sm_90a", "sm_100a"};

START_TEST(nvrtc_compiles_turns_without_spills) {
  dp_str version = {0}, text = {0};
  dp_status status = cuda_find_compiler(&version);
  bool found = status.code == DP_OK;
  if (!found) fprintf(stderr, "skipped: %s\n", dp_status_text(&status));
  dp_status_free(&status);
  dp_str_free(&version);
  if (!found) return;
  subject s = open_llama(false);
  check_ok(cuda_text(s.program, &text), "text");
  for (size_t i = 0; i < DP_COUNT(architectures); i++) {
    cg_object cubin;
    cuda_resources r;
    status = cuda_compile(text.text, architectures[i], CUDA_CUBIN, &cubin, &r);
    if (status.code != DP_OK && strstr(dp_status_text(&status), "gpu-architecture")) {
      fprintf(stderr, "skipped: this NVRTC does not know %s\n", architectures[i]);
      dp_status_free(&status);
      continue;
    }
    check_ok(status, architectures[i]);
    fprintf(stderr, "%s: %d registers, %lld bytes of stack, %zu bytes\n", architectures[i], r.registers, (long long)r.stack,
            cubin.size);
    ck_assert_int_ge(r.kernels, 2);
    ck_assert_msg(r.spill_stores == 0 && r.spill_loads == 0, "%s: spills", architectures[i]);
    cg_object_free(&cubin);
  }
  cg_object ptx;
  check_ok(cuda_compile(text.text, "sm_80", CUDA_PTX, &ptx, NULL), "PTX");
  ck_assert(strstr(ptx.bytes, "ld.global.nc") == NULL); /* turns write what earlier ones have read */
  cg_object_free(&ptx);
  dp_str_free(&text);
  close_subject(&s);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("pick");
  TCase *tests = tcase_create("step");
  tcase_set_timeout(tests, 600);
  tcase_add_test(tests, every_back_end_picks_what_the_host_picks);
  tcase_add_test(tests, a_pick_s_log_probability_is_its_score_s);
  tcase_add_loop_test(tests, the_lowest_id_wins_a_tie_and_what_is_no_number_is_told, 0, 2);
  tcase_add_loop_test(tests, tokens_come_as_often_as_the_softmax_says, 0, 3);
  tcase_add_loop_test(tests, a_session_and_its_sampler_give_the_same_ids, 0, 3);
  suite_add_tcase(suite, tests);
  TCase *device = tcase_create("device");
  tcase_set_timeout(device, 600);
  tcase_add_test(device, a_device_picks_what_the_host_picks);
  tcase_add_test(device, a_launch_of_several_tokens_gives_what_several_launches_give);
  tcase_add_test(device, a_session_hears_of_each_token_whatever_a_launch_takes);
  tcase_add_test(device, mistakes_between_turns_are_found);
  tcase_add_test(device, a_device_takes_turns_and_returns_picks_alone);
  suite_add_tcase(suite, device);
  TCase *nvrtc = tcase_create("nvrtc");
  tcase_set_timeout(nvrtc, 600);
  tcase_add_test(nvrtc, nvrtc_compiles_turns_without_spills);
  suite_add_tcase(suite, nvrtc);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed != 0;
}
