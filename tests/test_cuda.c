/* tests/test_cuda.c: the CUDA back end without a GPU. Its text, compiled for this machine and run by fibers in a seed's
 * order (tests/cuda/host.hh), gives the interpreter's bits on any number of blocks; and NVRTC, where there is one,
 * compiles it for every architecture without a spill. */
#include "api/internal.h"
#include "runtime/engine.h"
#include "tests/cuda_host.h"
#include "tests/tile_fixture.h"

#include <check.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MODELS DIPPER_SOURCE_DIR "/models/"
#define OPS DIPPER_TEST_DIR "/ops/"

static void check_ok(dp_status status, const char *what) {
  ck_assert_msg(status.code == DP_OK, "%s: %s", what, dp_status_text(&status));
}

/* False, and it says so, where this machine has no C++ compiler. */
static bool build_host(const tile_program *const *programs, const cuda_bug *bugs, int count, cuda_host **host) {
  dp_status status = cuda_host_new(programs, bugs, count, host);
  if (status.code == DP_NOT_FOUND) {
    fprintf(stderr, "skipped: %s\n", dp_status_text(&status));
    dp_status_free(&status);
    return false;
  }
  check_ok(status, "the text for this machine");
  return true;
}

/* ---- small programs */

enum { SEEDS = 2 };
static const int grids[] = {1, 3, 8};

static fixture *defined_fixture(int index, uint64_t seed) {
  fixture *f = fixture_build(index, seed);
  tile_code *code;
  dp_str why = {0};
  check_ok(cg_build(cg_find_backend("interp"), f->program, NULL, NULL, &code, NULL, NULL), fixture_name(index));
  ck_assert(fixture_run(f, code, &why));
  code->free(code);
  return f;
}

START_TEST(small_programs_give_the_interpreter_s_bits_on_any_grid) {
  int count = fixture_count() * SEEDS;
  fixture **defined = calloc((size_t)count, sizeof *defined);
  const tile_program **programs = calloc((size_t)count, sizeof *programs);
  cuda_host *host;
  for (int i = 0; i < count; i++) {
    defined[i] = defined_fixture(i % fixture_count(), 1 + (uint64_t)(i / fixture_count()));
    programs[i] = defined[i]->program;
  }
  bool built = build_host(programs, NULL, count, &host);
  for (int i = 0; built && i < count; i++)
    for (size_t g = 0; g < DP_COUNT(grids); g++) {
      fixture *f = fixture_build(i % fixture_count(), 1 + (uint64_t)(i / fixture_count()));
      dp_str why = {0};
      check_ok(cuda_host_run(host, i, &f->step, grids[g], 100 * g + 7), fixture_name(i % fixture_count()));
      bool same = fixture_same(defined[i], f, &why);
      ck_assert_msg(same, "interp and CUDA on %d blocks differ: %s", grids[g], why.text ? why.text : "");
      fixture_free(f);
    }
  if (built) cuda_host_free(host);
  for (int i = 0; i < count; i++) fixture_free(defined[i]);
  free(programs);
  free(defined);
}
END_TEST

/* ---- graphs and models: steps of an engine, gradients, an update */

typedef struct subject {
  const char *name;
  tile_program *program;
  rt_binding *binding;
  api_source source;
  bool whole; /* a sequence goes through in one piece */
  bool trains;
} subject;

typedef struct result {
  float *data;
  size_t count;
} result;

static void keep(result *r, const float *data, size_t count) {
  r->data = realloc(r->data, sizeof *data * (r->count + count));
  memcpy(r->data + r->count, data, sizeof *data * count);
  r->count += count;
}

enum { SEQUENCES = 8, LONGEST = 110 };

/* Sequence s gets tokens[s] more, of each that gets some. */
static void run_step(rt_engine *engine, rt_sequence **sequences, const int *tokens, int entry, result *r) {
  static int32_t ids[SEQUENCES][LONGEST], targets[SEQUENCES][LONGEST];
  rt_request requests[SEQUENCES];
  rt_logits rows = {0};
  int count = 0;
  for (int s = 0; s < SEQUENCES; s++) {
    if (!tokens[s]) continue;
    int64_t past = rt_sequence_length(sequences[s]);
    for (int i = 0; i < tokens[s]; i++) {
      ids[s][i] = (int32_t)((past + i + 3 * s) * 37 % 61);
      targets[s][i] = i % 5 == 2 ? -1 : (int32_t)((past + i) * 29 % 36);
    }
    requests[count++] =
        (rt_request){sequences[s], ids[s], tokens[s], s % 2 ? RT_WANT_LAST : RT_WANT_ALL, targets[s], NULL};
  }
  check_ok(rt_engine_run(engine, entry, requests, count, &rows), "a step");
  for (int64_t i = 0; i < rows.rows; i++) keep(r, rows.data + i * rows.stride, (size_t)rows.columns);
}

/* A prompt beside shorter ones; all at once, some of them new; decode of eight; of one. */
static void infer(rt_engine *engine, rt_sequence **sequences, bool whole, result *r) {
  static const int steps[][SEQUENCES] = {
      {103, 0, 7, 0, 0, 1}, {1, 30, 1, 9, 2, 1, 1, 1}, {1, 1, 1, 1, 1, 1, 1, 1}, {0, 1}};
  for (size_t i = 0; i < (whole ? 1 : DP_COUNT(steps)); i++) run_step(engine, sequences, steps[i], 0, r);
}

static void keep_state(rt_engine *engine, tile_state state, result *r) {
  const tile_program *p = rt_engine_program(engine);
  float *const *slots = rt_engine_state(engine, state);
  for (int w = 0; slots && w < p->weight_count; w++)
    for (int i = 0; i < p->weights[w].count * p->weights[w].inner; i++)
      if (slots[p->weights[w].first_slot + i])
        keep(r, slots[p->weights[w].first_slot + i],
             (size_t)tile_slot_floats(&p->weights[w]) / (tile_state_type(&p->weights[w], state) == IR_bf16 ? 2 : 1));
}

/* Gradients of two steps; an update where the program has one; results with the new weights. */
static void train(rt_engine *engine, rt_sequence **sequences, result *r) {
  static const int steps[][SEQUENCES] = {{103, 0, 7}, {0, 20, 0, 5}};
  static const char *const names[] = {"scale", "factor", "rate", "keep", "root", "key", "key2"};
  static const float numbers[] = {0.01f, 0.02f, 0.003f, 0.999f, 30.0f, 12345, 678};
  int entry = tile_find_entry(rt_engine_program(engine), "train"),
      update = tile_find_entry(rt_engine_program(engine), "update");
  int norm = tile_find_entry(rt_engine_program(engine), "norm");
  for (size_t i = 0; i < DP_COUNT(steps); i++) run_step(engine, sequences, steps[i], entry < 0 ? 0 : entry, r);
  keep_state(engine, TILE_GRADIENT, r);
  for (size_t i = 0; update >= 0 && i < DP_COUNT(names); i++)
    if (rt_engine_number(engine, names[i])) *rt_engine_number(engine, names[i]) = numbers[i];
  if (update < 0) return;
  check_ok(rt_engine_run(engine, norm, NULL, 0, NULL), "a norm");
  keep(r, rt_engine_number(engine, "norm"), 1);
  check_ok(rt_engine_run(engine, update, NULL, 0, NULL), "an update");
  for (int state = TILE_VALUE; state < TILE_STATE_COUNT; state++) keep_state(engine, (tile_state)state, r);
  for (int s = 0; s < SEQUENCES; s++) rt_sequence_truncate(engine, sequences[s], 0);
  run_step(engine, sequences, (int[SEQUENCES]){9, 4}, 0, r);
}

static result run_subject(const subject *s, const tile_code *code) {
  rt_engine *engine;
  rt_sequence *sequences[SEQUENCES];
  rt_engine_options options = {.workers = 1, .context = 1536, .max_tokens = 256};
  result r = {0};
  check_ok(rt_engine_new(s->program, code, s->binding, &options, &engine), s->name);
  for (int i = 0; i < SEQUENCES; i++) check_ok(rt_sequence_new(engine, &sequences[i]), s->name);
  if (s->trains)
    train(engine, sequences, &r);
  else
    infer(engine, sequences, s->whole, &r);
  rt_engine_free(engine);
  return r;
}

static void same_results(const subject *s, const cuda_host *host, int index, int blocks, const result *defined) {
  tile_code code;
  cuda_host_code(host, index, blocks, 1000 * (uint64_t)blocks, &code);
  result r = run_subject(s, &code);
  ck_assert_uint_eq(r.count, defined->count);
  for (size_t i = 0; i < r.count; i++)
    ck_assert_msg(memcmp(&r.data[i], &defined->data[i], sizeof(float)) == 0,
                  "%s on %d blocks: number %zu of %zu is %a, not %a", s->name, blocks, i, r.count, (double)r.data[i],
                  (double)defined->data[i]);
  free(r.data);
  code.free(&code);
}

/* All subjects' texts in one library; each on one number of blocks or another, `every`: on several. */
static void give_the_interpreter_s_bits(subject *subjects, int count, bool every) {
  const tile_program **programs = calloc((size_t)count, sizeof *programs);
  cuda_host *host;
  for (int i = 0; i < count; i++) programs[i] = subjects[i].program;
  if (build_host(programs, NULL, count, &host)) {
    for (int i = 0; i < count; i++) {
      tile_code *code;
      check_ok(cg_build(cg_find_backend("interp"), programs[i], NULL, NULL, &code, NULL, NULL), subjects[i].name);
      result defined = run_subject(&subjects[i], code);
      double sum = 0;
      for (size_t j = 0; j < defined.count; j++) sum += defined.data[j] * defined.data[j];
      ck_assert_msg(sum > 0 && sum < 1e30, "%s: the results' squares add up to %g", subjects[i].name, sum);
      for (size_t g = 0; g < DP_COUNT(grids); g++)
        if (every || g == (size_t)i % DP_COUNT(grids)) same_results(&subjects[i], host, i, grids[g], &defined);
      free(defined.data);
      code->free(code);
    }
    cuda_host_free(host);
  }
  free(programs);
}

static void close_subject(subject *s) {
  tile_program_free(s->program);
  api_close_source(&s->source);
}

/* The model's graph, or with a graph of gradients and an update besides. */
static subject open_model_as(const char *name, const char *const *sets, int set_count, const char *cache, bool trains,
                             ir_dtype type, bool stochastic, ir_recompute recompute) {
  char path[4096];
  snprintf(path, sizeof path, "%s%s", MODELS, name);
  subject s = {.name = name, .trains = trains};
  dp_options options = {.path = path, .weights = "random:7", .sets = sets, .set_count = set_count};
  check_ok(api_open_source(&options, API_WEIGHTS, &s.source), name);
  s.binding = s.source.binding;
  ir_module **module = &s.source.module;
  if (cache) check_ok(ps_store_cache(*module, NULL, cache), name);
  for (int i = 0; trains && i < (*module)->weight_count; i++)
    (*module)->weights[i].storage = 1u << (ir_weight_rank(&(*module)->weights[i]) < 2 ? IR_f32 : type);
  if (trains) check_ok(ps_differentiate(*module, &(ps_training){.recompute = recompute}), name);
  check_ok(ps_run(module, NULL, 0, &(ps_options){0}), name);
  tile_target target = {.cores = 8, .task_bytes = 8192, .wide_columns = trains ? 64 : 0};
  const char *graphs[] = {(*module)->graphs->name, "train", "norm", "update"};
  if (trains) {
    int *ties = calloc((size_t)(*module)->weight_count + 1, sizeof *ties);
    bool *no_decay = calloc((size_t)(*module)->weight_count + 1, sizeof *no_decay);
    for (int i = 0; i < (*module)->weight_count; i++) ties[i] = rt_binding_tie(s.binding, i);
    ps_update how = {
        .ties = ties, .no_decay = no_decay, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .stochastic = stochastic};
    check_ok(ps_add_update(*module, &how), name);
    free(ties);
    free(no_decay);
  }
  check_ok(ps_schedule_all(*module, graphs, trains ? 4 : 1, &target, &s.program), name);
  return s;
}

/* A file of tests/ops: its graph, or that of its gradients. */
static subject open_ir(const char *name, bool trains) {
  char path[4096], *text;
  size_t length;
  snprintf(path, sizeof path, "%s%s", OPS, name);
  check_ok(dp_read_file(path, &text, &length), name);
  dp_diags *diags = dp_diags_new();
  subject s = {.name = name, .trains = trains};
  s.source.module = ir_parse(name, text, length, diags);
  ck_assert_msg(s.source.module != NULL, "%s", name);
  dp_diags_free(diags);
  free(text);
  check_ok(rt_bind_random(s.source.module, 7, IR_f32, &s.source.binding), name);
  s.binding = s.source.binding;
  for (int w = 0; trains && w < s.source.module->weight_count; w++) { /* no small divisors */
    const ir_weight *weight = &s.source.module->weights[w];
    for (int64_t i = 0; weight->filled && i < ir_static_size(&weight->type, 0); i++)
      ((float *)(uintptr_t)rt_binding_get(s.binding, w, 0)->data)[i] = (float)weight->fill;
  }
  if (trains) check_ok(ps_differentiate(s.source.module, &(ps_training){0}), name);
  check_ok(ps_run(&s.source.module, NULL, 0, &(ps_options){0}), name);
  tile_target target = {.cores = 2, .task_bytes = 8192};
  check_ok(ps_schedule(s.source.module, trains ? "train" : "forward", &target, &s.program), name);
  for (int i = 0; i < s.program->kind_count; i++) s.whole |= s.program->kinds[i].whole;
  return s;
}

static int list_ops(char (*names)[64], int most) {
  int count = 0;
  DIR *dir = opendir(OPS);
  for (struct dirent *entry; dir && (entry = readdir(dir)) && count < most;) {
    size_t n = strlen(entry->d_name);
    if (n > 3 && n < 64 && strcmp(entry->d_name + n - 3, ".ir") == 0) strcpy(names[count++], entry->d_name);
  }
  if (dir) closedir(dir);
  return count;
}

START_TEST(graphs_of_few_ops_give_the_interpreter_s_bits) {
  enum { MOST = 32 };
  char names[MOST][64];
  subject subjects[2 * MOST];
  int files = list_ops(names, MOST), count = 0;
  ck_assert_int_gt(files, 0);
  for (int i = 0; i < files; i++) {
    subjects[count++] = open_ir(names[i], false);
    if (!strstr(names[i], "f16"))
      subjects[count++] = open_ir(names[i], true); /* what is rounded into a cache has no gradient */
  }
  give_the_interpreter_s_bits(subjects, count, false);
  for (int i = 0; i < count; i++) close_subject(&subjects[i]);
}
END_TEST

static subject open_model(const char *name, const char *const *sets, int set_count, const char *cache, bool trains) {
  return open_model_as(name, sets, set_count, cache, trains, IR_f32, false, IR_RECOMPUTE_BLOCK);
}

static const char *const llama_sets[] = {"vocab=150", "d=64", "layers=2", "heads=4", "kv_heads=2", "ff=96"};
static const char *const gpt2_sets[] = {"vocab=75", "d=64", "layers=2", "heads=4", "positions=256"};
static const char *const mixtral_sets[] = {"vocab=75",   "d=64",  "layers=2",  "heads=4",
                                           "kv_heads=2", "ff=80", "experts=4", "used=2"};
#define SETS(list) list, (int)DP_COUNT(list)

START_TEST(models_give_the_interpreter_s_bits) {
  subject subjects[] = {
      open_model("llama.dip", SETS(llama_sets), NULL, false),
      open_model("llama.dip", SETS(llama_sets), "f16", false),
      open_model("gpt2.dip", SETS(gpt2_sets), NULL, false),
      open_model("mixtral.dip", SETS(mixtral_sets), NULL, false),
  };
  give_the_interpreter_s_bits(subjects, (int)DP_COUNT(subjects), true);
  for (size_t i = 0; i < DP_COUNT(subjects); i++) close_subject(&subjects[i]);
}
END_TEST

START_TEST(training_gives_the_interpreter_s_bits) {
  subject subjects[] = {
      open_model("llama.dip", SETS(llama_sets), NULL, true),
      open_model_as("llama.dip", SETS(llama_sets), NULL, true, IR_bf16, false, IR_RECOMPUTE_SELECTIVE),
      open_model_as("llama.dip", SETS(llama_sets), NULL, true, IR_bf16, true, IR_RECOMPUTE_NONE),
      open_model("gpt2.dip", SETS(gpt2_sets), NULL, true),
      open_model("mixtral.dip", SETS(mixtral_sets), NULL, true),
  };
  give_the_interpreter_s_bits(subjects, (int)DP_COUNT(subjects), false);
  for (size_t i = 0; i < DP_COUNT(subjects); i++) close_subject(&subjects[i]);
}
END_TEST

/* ---- mistakes that the executor is there to find */

static const cuda_bug bugs[] = {
    {"while (read_acquire(counters + tile) < need) spin();", ""}, /* waits for nothing */
    {"while (read_acquire(counters + tile) < need)",
     "while (read_acquire(counters + tile) <= need)"},            /* for too many */
    {"copy_landed<stages - 2>();", "copy_landed<stages - 1>();"}, /* reads weights that have not landed */
    {"      copy_landed<stages - 2>();\n      block_sync();",
     "      copy_landed<stages - 2>();"}, /* nor all threads' */
    {"lane = tree_sum(lane);",
     "lane = tree_sum(lane);\n      if (thread_index() == 40) block_sync();"},   /* a barrier of one */
    {"if (thread_index() == 0) add_release(counter);", "add_release(counter);"}, /* every thread counts */
    {"sum[r] = FMA(a[r][k0 + i + j], w[j], sum[r])",
     "sum[r] = ADD(sum[r], MUL(a[r][k0 + i + j], w[j]))"}, /* rounds twice */
};

static bool finds(const cuda_host *host, int bug, const fixture *defined, int index, uint64_t seed) {
  fixture *f = fixture_build(index, defined->seed);
  dp_str why = {0};
  dp_status status = cuda_host_run(host, bug, &f->step, 3, seed);
  bool found = status.code != DP_OK || !fixture_same(defined, f, &why);
  dp_status_free(&status);
  dp_str_free(&why);
  fixture_free(f);
  return found;
}

START_TEST(planted_mistakes_are_found) {
  enum { COUNT = DP_COUNT(bugs), TRIES = 12 };
  int llama = fixture_find("llama");
  fixture *defined = defined_fixture(llama, 3);
  const tile_program *programs[COUNT];
  cuda_host *host;
  for (int i = 0; i < COUNT; i++) programs[i] = defined->program;
  if (build_host(programs, bugs, COUNT, &host)) {
    for (int i = 0; i < COUNT; i++) {
      int tries = 0;
      while (tries < TRIES && !finds(host, i, defined, llama, 50 + (uint64_t)tries)) tries++;
      ck_assert_msg(tries < TRIES, "in %d runs nobody finds '%s' for '%s'", TRIES, bugs[i].to, bugs[i].from);
    }
    cuda_host_free(host);
  }
  fixture_free(defined);
}
END_TEST

/* ---- a driver */

/* The whole way of `--backend cuda`, with a driver whose device is the host executor. */
static void runs_through_the_driver(const subject *s) {
  cuda_host *host;
  tile_code *code, *interp;
  const tile_program *programs[] = {s->program};
  if (!build_host(programs, NULL, 1, &host)) return;
  cg_object image = cuda_host_image(host, 0);
  check_ok(cg_find_backend("cuda")->load(s->program, &image, &code), "load");
  check_ok(cg_build(cg_find_backend("interp"), s->program, NULL, NULL, &interp, NULL, NULL), "interp");
  result defined = run_subject(s, interp), r = run_subject(s, code);
  ck_assert_uint_eq(r.count, defined.count);
  ck_assert_mem_eq(r.data, defined.data, sizeof *r.data * r.count);
  code->free(code);
  interp->free(interp);
  cg_object_free(&image);
  cuda_host_free(host);
  free(defined.data);
  free(r.data);
}

START_TEST(an_engine_runs_on_a_device) {
  setenv("DIPPER_LIBCUDA", DIPPER_FAKE_CUDA, 1);
  subject s = open_model("llama.dip", SETS(llama_sets), "f16", false);
  runs_through_the_driver(&s);
  close_subject(&s);
  unsetenv("DIPPER_LIBCUDA");
}
END_TEST

START_TEST(a_program_that_trains_is_refused) {
  subject trains = open_model("llama.dip", SETS(llama_sets), NULL, true);
  cg_object image = {"host:none:none", 14};
  tile_code *code;
  dp_status status = cg_find_backend("cuda")->load(trains.program, &image, &code);
  ck_assert_msg(strstr(dp_status_text(&status), "training on a GPU") != NULL, "%s", dp_status_text(&status));
  dp_status_free(&status);
  close_subject(&trains);
}
END_TEST

/* ---- NVRTC */

static bool has_nvrtc(void) {
  dp_str version = {0};
  dp_status status = cuda_find_compiler(&version);
  if (status.code != DP_OK) fprintf(stderr, "skipped: %s\n", dp_status_text(&status));
  bool found = status.code == DP_OK;
  dp_status_free(&status);
  dp_str_free(&version);
  return found;
}

static const char *const architectures[] = {"sm_80", "sm_90a", "sm_100a"};

static void compiles_without_spills(const subject *s, size_t from, size_t to) {
  dp_str text = {0};
  check_ok(cuda_text(s->program, &text), s->name);
  for (size_t i = from; i < to; i++) {
    cg_object cubin;
    cuda_resources r;
    double begin = api_seconds();
    dp_status status = cuda_compile(text.text, architectures[i], CUDA_CUBIN, &cubin, &r);
    if (status.code != DP_OK && strstr(dp_status_text(&status), "gpu-architecture")) {
      fprintf(stderr, "skipped: this NVRTC does not know %s\n", architectures[i]);
      dp_status_free(&status);
      continue;
    }
    check_ok(status, s->name);
    fprintf(stderr, "%s%s %s: %d registers, %lld bytes of stack, %zu bytes, %.1f s\n", s->name,
            s->trains ? " training" : "", architectures[i], r.registers, (long long)r.stack, cubin.size,
            api_seconds() - begin);
    ck_assert_msg(r.kernels >= (s->trains ? 3 : 1), "%s: the compiler reports on %d kernels", s->name, r.kernels);
    ck_assert_msg(r.registers > 0 && r.registers <= 255, "%s: %d registers", s->name, r.registers);
    ck_assert_msg(r.spill_stores == 0 && r.spill_loads == 0, "%s for %s: %lld bytes of spills", s->name,
                  architectures[i], (long long)(r.spill_stores + r.spill_loads));
    ck_assert_mem_eq(cubin.bytes, "\177ELF", 4);
    cg_object_free(&cubin);
  }
  dp_str_free(&text);
}

/* A load that may be answered from a cache which other blocks' writes do not reach is wrong in a kernel that waits for
 * them. */
static void loads_are_coherent(const subject *s) {
  dp_str text = {0};
  cg_object ptx;
  check_ok(cuda_text(s->program, &text), s->name);
  check_ok(cuda_compile(text.text, "sm_80", CUDA_PTX, &ptx, NULL), s->name);
  ck_assert_msg(strstr(ptx.bytes, "ld.global.nc") == NULL, "%s: PTX has ld.global.nc", s->name);
  ck_assert_msg(strstr(ptx.bytes, "ld.acquire.gpu") != NULL, "%s: PTX acquires nothing", s->name);
  ck_assert_msg(strstr(ptx.bytes, "fma.rn.f32") != NULL && !strstr(ptx.bytes, "fma.rn.ftz"),
                "%s: PTX flushes subnormals", s->name);
  cg_object_free(&ptx);
  dp_str_free(&text);
}

START_TEST(nvrtc_compiles_every_model_without_spills) {
  if (!has_nvrtc()) return;
  subject subjects[] = {
      open_model("llama.dip", SETS(llama_sets), "f16", false),
      open_model("gpt2.dip", SETS(gpt2_sets), NULL, false),
      open_model("mixtral.dip", SETS(mixtral_sets), NULL, false),
      open_model("llama.dip", SETS(llama_sets), NULL, true),
  };
  for (size_t i = 0; i < DP_COUNT(subjects); i++) {
    compiles_without_spills(&subjects[i], i ? i % DP_COUNT(architectures) : 0,
                            i ? i % DP_COUNT(architectures) + 1 : DP_COUNT(architectures));
    loads_are_coherent(&subjects[i]);
    close_subject(&subjects[i]);
  }
}
END_TEST

int main(void) {
  Suite *suite = suite_create("cuda");
  TCase *tests = tcase_create("host");
  tcase_set_timeout(tests, 600);
  tcase_add_test(tests, small_programs_give_the_interpreter_s_bits_on_any_grid);
  tcase_add_test(tests, graphs_of_few_ops_give_the_interpreter_s_bits);
  tcase_add_test(tests, models_give_the_interpreter_s_bits);
  tcase_add_test(tests, training_gives_the_interpreter_s_bits);
  tcase_add_test(tests, planted_mistakes_are_found);
  suite_add_tcase(suite, tests);
  TCase *driver = tcase_create("driver");
  tcase_set_timeout(driver, 600);
  tcase_add_test(driver, an_engine_runs_on_a_device);
  tcase_add_test(driver, a_program_that_trains_is_refused);
  suite_add_tcase(suite, driver);
  TCase *nvrtc = tcase_create("nvrtc");
  tcase_set_timeout(nvrtc, 600);
  tcase_add_test(nvrtc, nvrtc_compiles_every_model_without_spills);
  suite_add_tcase(suite, nvrtc);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed != 0;
}
