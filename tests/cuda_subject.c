/* tests/cuda_subject.c: programs of the CUDA suites, and what is run of them. */
#include "tests/cuda_subject.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MODELS DIPPER_SOURCE_DIR "/models/"
#define OPS DIPPER_TEST_DIR "/ops/"

const char *const llama_sets[LLAMA_SETS] = {"vocab=150", "d=64", "layers=2", "heads=4", "kv_heads=2", "ff=96"};
const char *const gpt2_sets[GPT2_SETS] = {"vocab=75", "d=64", "layers=2", "heads=4", "positions=256"};
const char *const mixtral_sets[MIXTRAL_SETS] = {"vocab=75",   "d=64",  "layers=2",  "heads=4",
                                           "kv_heads=2", "ff=80", "experts=4", "used=2"};

void check_ok(dp_status status, const char *what) {
  ck_assert_msg(status.code == DP_OK, "%s: %s", what, dp_status_text(&status));
}

bool build_host(const tile_program *const *programs, const cuda_bug *bugs, int count, cuda_host **host) {
  dp_status status = cuda_host_new(programs, bugs, count, host);
  if (status.code == DP_NOT_FOUND) {
    fprintf(stderr, "skipped: %s\n", dp_status_text(&status));
    dp_status_free(&status);
    return false;
  }
  check_ok(status, "the text for this machine");
  return true;
}

static void keep(result *r, const float *data, size_t count) {
  r->data = realloc(r->data, sizeof *data * (r->count + count));
  memcpy(r->data + r->count, data, sizeof *data * count);
  r->count += count;
}

enum { SEQUENCES = 8, LONGEST = 110 };
static const int grids[] = {1, 3, 8};

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
        (rt_request){sequences[s], ids[s], tokens[s], s % 2 ? RT_WANT_LAST : RT_WANT_ALL, targets[s], NULL, NULL};
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

result run_subject(const subject *s, const tile_code *code) {
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

void give_the_interpreter_s_bits(subject *subjects, int count, bool every) {
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

void close_subject(subject *s) {
  tile_program_free(s->program);
  api_close_source(&s->source);
}

subject open_subject(const subject_options *o) {
  char path[4096];
  snprintf(path, sizeof path, "%s%s", MODELS, o->name);
  subject s = {.name = o->name, .trains = o->trains};
  dp_options options = {.path = path, .weights = "random:7", .sets = o->sets, .set_count = o->set_count};
  check_ok(api_open_source(&options, API_WEIGHTS, &s.source), o->name);
  s.binding = s.source.binding;
  ir_module **module = &s.source.module;
  if (o->cache) check_ok(ps_store_cache(*module, NULL, o->cache), o->name);
  for (int i = 0; (o->trains || o->storage) && i < (*module)->weight_count; i++)
    (*module)->weights[i].storage = 1u << (ir_weight_rank(&(*module)->weights[i]) < 2 ? IR_f32 : o->storage);
  if (o->trains) check_ok(ps_differentiate(*module, &(ps_training){.recompute = o->recompute}), o->name);
  check_ok(ps_run(module, NULL, 0, &(ps_options){0}), o->name);
  tile_target target = {.cores = 8, .task_bytes = 8192, .wide_columns = o->trains ? 64 : 0, .tensor = o->tensor, .row_tile = o->row_tile};
  const char *graphs[] = {(*module)->graphs->name, "train", "norm", "update"};
  if (o->trains) {
    int *ties = calloc((size_t)(*module)->weight_count + 1, sizeof *ties);
    bool *no_decay = calloc((size_t)(*module)->weight_count + 1, sizeof *no_decay);
    for (int i = 0; i < (*module)->weight_count; i++) ties[i] = rt_binding_tie(s.binding, i);
    ps_update how = {
        .ties = ties, .no_decay = no_decay, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .stochastic = o->stochastic};
    check_ok(ps_add_update(*module, &how), o->name);
    free(ties);
    free(no_decay);
  }
  check_ok(ps_schedule_all(*module, graphs, o->trains ? 4 : 1, &target, &s.program), o->name);
  return s;
}

subject open_ir(const char *name, bool trains) {
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

/* ---- NVRTC */

bool has_nvrtc(void) {
  dp_str version = {0};
  dp_status status = cuda_find_compiler(&version);
  if (status.code != DP_OK) fprintf(stderr, "skipped: %s\n", dp_status_text(&status));
  bool found = status.code == DP_OK;
  dp_status_free(&status);
  dp_str_free(&version);
  return found;
}

const char *const architectures[ARCHITECTURES] = {"sm_80", "sm_90a", "sm_100a"};

void compiles_without_spills(const subject *s, size_t from, size_t to) {
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
    ck_assert_int_eq(((const char *)cubin.bytes)[16], 2); /* ET_EXEC: it can be loaded as it is */
    cg_object_free(&cubin);
  }
  dp_str_free(&text);
}

void loads_are_coherent(const subject *s) {
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
