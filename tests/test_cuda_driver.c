/* tests/test_cuda_driver.c: the driver's side of the CUDA back end, with a libcuda whose device is the host executor
 * and which fails where it is told to (tests/cuda/fake_driver.h): memory and copies, weights on their way, faults of
 * kernels, whatever a machine may lack, and every call of the driver failing once. */
#include "api/internal.h"
#include "codegen/cuda/account.h"
#include "codegen/cuda/fault.h"
#include "codegen/cuda/memory.h"
#include "runtime/engine.h"
#include "runtime/resident.h"
#include "tests/cuda/fake_driver.h"
#include "tests/cuda_host.h"

#include <check.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MODELS DIPPER_SOURCE_DIR "/models/"

static void check_ok(dp_status status, const char *what) {
  ck_assert_msg(status.code == DP_OK, "%s: %s", what, dp_status_text(&status));
}

static void check_says(dp_status status, const char *says) {
  ck_assert_msg(status.code != DP_OK && strstr(dp_status_text(&status), says), "not '%s' but: %s", says,
                dp_status_text(&status));
  dp_status_free(&status);
}

/* ---- the stand-in */

static fake_cuda_look *look;
static fake_cuda_count *calls_of;
static fake_cuda_list *function_at;
static fake_cuda_reset *begin_process;

static void open_stand_in(void) {
  void *library = dlopen(DIPPER_FAKE_CUDA, RTLD_NOW | RTLD_LOCAL);
  if (!library) fprintf(stderr, "%s\n", dlerror()), exit(1);
  void *found[] = {dlsym(library, "fake_cuda_get_state"), dlsym(library, "fake_cuda_calls"),
                   dlsym(library, "fake_cuda_name"), dlsym(library, "fake_cuda_begin")};
  memcpy(&look, &found[0], sizeof look);
  memcpy(&calls_of, &found[1], sizeof calls_of);
  memcpy(&function_at, &found[2], sizeof function_at);
  memcpy(&begin_process, &found[3], sizeof begin_process);
  dlclose(library); /* it stays: -z nodelete */
  setenv("DIPPER_LIBCUDA", DIPPER_FAKE_CUDA, 1);
}

static void wrong(const char *what) {
  if (what)
    setenv("FAKE_CUDA", what, 1);
  else
    unsetenv("FAKE_CUDA");
  begin_process();
}

/* All that was taken from the driver is given back, and no context is the thread's. */
static void check_nothing_left(const char *where) {
  fake_cuda_state s = look();
  ck_assert_msg(!s.contexts && !s.current && !s.allocations && !s.pinned && !s.streams && !s.events && !s.modules,
                "%s: left are %d contexts (%d current), %d allocations, %d pinned, %d streams, %d events, %d modules",
                where, s.contexts, s.current, s.allocations, s.pinned, s.streams, s.events, s.modules);
}

/* ---- programs */

typedef struct subject {
  api_source source;
  tile_program *program;
  cg_object image; /* .bytes NULL: this machine has no C++ compiler */
  cuda_host *host;
} subject;

static const char *const llama_sets[] = {"vocab=75", "d=64", "layers=2", "heads=4", "kv_heads=2", "ff=96"};
#define SETS(list) list, (int)DP_COUNT(list)

static void schedule(const char *name, const char *const *sets, int count, subject *s) {
  char path[4096];
  snprintf(path, sizeof path, "%s%s", MODELS, name);
  dp_options options = {.path = path, .weights = "random:7", .sets = sets, .set_count = count};
  *s = (subject){0};
  check_ok(api_open_source(&options, API_WEIGHTS, &s->source), name);
  check_ok(ps_run(&s->source.module, NULL, 0, &(ps_options){0}), name);
  tile_target target = {.cores = 8, .task_bytes = 8192};
  check_ok(ps_schedule(s->source.module, "forward", &target, &s->program), name);
}

/* With its code for the stand-in, a mistake in it or none. False, and it says so, where there is no C++ compiler. */
static bool build(const cuda_bug *bug, subject *s) {
  schedule("llama.dip", SETS(llama_sets), s);
  const tile_program *programs[] = {s->program};
  dp_status status = cuda_host_new(programs, bug, 1, &s->host);
  if (status.code == DP_NOT_FOUND) {
    fprintf(stderr, "skipped: %s\n", dp_status_text(&status));
    dp_status_free(&status);
    return false;
  }
  check_ok(status, "the text for this machine");
  s->image = cuda_host_image(s->host, 0);
  return true;
}

static void close_subject(subject *s) {
  cg_object_free(&s->image);
  cuda_host_free(s->host);
  tile_program_free(s->program);
  api_close_source(&s->source);
}

static const int32_t prompt[] = {3, 1, 4, 1, 5}, more[] = {9};

static dp_status step(rt_engine *e, rt_sequence *s, int which, float *rows) {
  rt_request request = {.sequence = s,
                        .tokens = which ? more : prompt,
                        .count = which ? 1 : (int64_t)DP_COUNT(prompt),
                        .want = RT_WANT_LAST};
  rt_logits logits;
  DP_TRY(rt_engine_step(e, &request, 1, &logits));
  memcpy(rows, logits.data, sizeof *rows * (size_t)logits.columns);
  return DP_SUCCESS;
}

enum { COLUMNS = 75, STEPS = 2 };
typedef float result[STEPS][COLUMNS];

static dp_status open_engine(const subject *s, const tile_code *code, int64_t context, rt_engine **engine) {
  rt_engine_options options = {.workers = 2, .context = context, .max_tokens = 64};
  return rt_engine_new(s->program, code, s->source.binding, &options, engine);
}

static dp_status run_steps(const subject *s, const tile_code *code, result r) {
  rt_engine *engine;
  rt_sequence *sequence;
  DP_TRY(open_engine(s, code, 512, &engine));
  dp_status status = rt_sequence_new(engine, &sequence);
  for (int i = 0; i < STEPS && status.code == DP_OK; i++) status = step(engine, sequence, i, r[i]);
  rt_engine_free(engine);
  return status;
}

static void define(const subject *s, result r) {
  tile_code *code;
  check_ok(cg_build(cg_find_backend("interp"), s->program, NULL, NULL, &code, NULL, NULL), "interp");
  check_ok(run_steps(s, code, r), "interp");
  code->free(code);
}

static dp_status load(const subject *s, tile_code **code) {
  return cg_find_backend("cuda")->load(s->program, &s->image, code);
}

START_TEST(engines_one_after_another_have_their_own_weights) {
  subject s;
  result defined, r;
  tile_code *code;
  wrong(NULL);
  if (build(NULL, &s)) {
    define(&s, defined);
    check_ok(load(&s, &code), "load");
    check_ok(run_steps(&s, code, r), "a run");
    ck_assert_mem_eq(r, defined, sizeof r);
    rt_binding *own = s.source.binding, *other;
    check_ok(rt_bind_random(s.source.module, 8, IR_f32, &other), "other weights");
    s.source.binding = other;
    check_ok(run_steps(&s, code, r), "a run with other weights");
    ck_assert(memcmp(r, defined, sizeof r) != 0);
    s.source.binding = own;
    check_ok(run_steps(&s, code, r), "a run with the first ones again");
    ck_assert_mem_eq(r, defined, sizeof r);
    rt_binding_free(other);
    code->free(code);
    check_nothing_left("after three engines");
  }
  close_subject(&s);
}
END_TEST

START_TEST(a_step_takes_nothing_from_the_driver) {
  static const char *const takes[] = {"cuMemAlloc_v2", "cuMemFree_v2",        "cuMemHostAlloc",
                                      "cuMemFreeHost", "cuModuleGetFunction", "cuMemsetD8Async"};
  subject s;
  tile_code *code;
  rt_engine *engine;
  rt_sequence *sequence;
  float row[COLUMNS];
  wrong(NULL);
  if (build(NULL, &s)) {
    check_ok(load(&s, &code), "load");
    check_ok(open_engine(&s, code, 512, &engine), "engine");
    check_ok(rt_sequence_new(engine, &sequence), "sequence");
    check_ok(step(engine, sequence, 0, row), "a first step"); /* results are pinned as they come */
    int before[DP_COUNT(takes)], waits = calls_of("cuStreamSynchronize");
    for (size_t i = 0; i < DP_COUNT(takes); i++) before[i] = calls_of(takes[i]);
    for (int i = 0; i < 3; i++) check_ok(step(engine, sequence, 1, row), "a step");
    for (size_t i = 0; i < DP_COUNT(takes); i++)
      ck_assert_msg(calls_of(takes[i]) == before[i], "a step calls %s", takes[i]);
    ck_assert_int_eq(calls_of("cuStreamSynchronize") - waits, 3); /* one wait a step */
    rt_engine_free(engine);
    code->free(code);
  }
  close_subject(&s);
}
END_TEST

/* ---- memory */

enum { BLOCKS_OF_MEMORY = 200 };

START_TEST(what_is_allocated_overlaps_nothing_and_comes_back_in_one_piece) {
  cuda_gpu *gpu;
  cuda_address at[BLOCKS_OF_MEMORY] = {0};
  int64_t bytes[BLOCKS_OF_MEMORY], sum = 0;
  uint64_t random = 1;
  wrong(NULL);
  check_ok(cuda_open(0, &gpu), "open");
  for (int turn = 0; turn < 4000; turn++) {
    random = random * 6364136223846793005u + 1442695040888963407u;
    int i = (int)(random >> 33) % BLOCKS_OF_MEMORY;
    if (at[i]) {
      cuda_release(gpu, at[i]);
      sum -= (bytes[i] + 255) / 256 * 256;
      at[i] = 0;
    } else {
      bytes[i] = 1 + (int64_t)(random >> 40) % (turn % 50 == 0 ? 20000000 : 100000);
      check_ok(cuda_allocate(gpu, bytes[i], "a block", &at[i]), "allocate");
      sum += (bytes[i] + 255) / 256 * 256;
      ck_assert_uint_eq(at[i] % 256, 0);
      for (int j = 0; j < BLOCKS_OF_MEMORY; j++)
        ck_assert_msg(j == i || !at[j] || at[j] + (uint64_t)bytes[j] <= at[i] || at[i] + (uint64_t)bytes[i] <= at[j],
                      "blocks %d and %d overlap", i, j);
    }
    ck_assert_int_eq(cuda_bytes_used(gpu), sum);
  }
  for (int i = 0; i < BLOCKS_OF_MEMORY; i++) cuda_release(gpu, at[i]);
  ck_assert_int_eq(cuda_bytes_used(gpu), 0);
  int pieces = look().allocations;
  ck_assert_msg(pieces < 30, "%d pieces", pieces);
  int64_t taken = cuda_bytes_taken(gpu);
  check_ok(cuda_reserve(gpu, taken + 1), "reserve"); /* empty ones go for it */
  ck_assert_int_eq(look().allocations, 1);
  cuda_close(gpu);
  check_nothing_left("after allocations");
}
END_TEST

START_TEST(copies_of_any_size_arrive) {
  static const int64_t sizes[] = {1, 4095, 1 << 20, (1 << 20) + 1, (2 << 20) - 7, 5 * (1 << 20) + 3};
  cuda_gpu *gpu;
  wrong(NULL);
  check_ok(cuda_open(0, &gpu), "open");
  for (size_t i = 0; i < DP_COUNT(sizes); i++) {
    cuda_address first, second;
    unsigned char *from = malloc((size_t)sizes[i]), *to = calloc(1, (size_t)sizes[i]);
    for (int64_t j = 0; j < sizes[i]; j++) from[j] = (unsigned char)(j * 31 + j / 251);
    check_ok(cuda_allocate(gpu, sizes[i], "a copy", &first), "allocate");
    check_ok(cuda_allocate(gpu, sizes[i], "a copy", &second), "allocate");
    check_ok(cuda_put(gpu, first, from, sizes[i]), "put");
    check_ok(cuda_move(gpu, second, first, sizes[i]), "move");
    check_ok(cuda_clear(gpu, first, sizes[i]), "clear");
    check_ok(cuda_get(gpu, to, second, sizes[i]), "get");
    ck_assert_mem_eq(to, from, (size_t)sizes[i]);
    check_ok(cuda_get(gpu, to, first, sizes[i]), "get");
    for (int64_t j = 0; j < sizes[i]; j++) ck_assert_int_eq(to[j], 0);
    free(from);
    free(to);
  }
  cuda_close(gpu);
  check_nothing_left("after copies");
}
END_TEST

/* ---- weights on their way */

typedef struct collected {
  tile_code code;
  char *image;
  int64_t bytes, room, *offsets;
  int slots, windows;
} collected;

/* Takes the image through windows of so much room into memory of its own. */
static dp_status collect(const tile_code *code, const tile_provision *p) {
  collected *c = code->self;
  c->image = malloc((size_t)p->weight_bytes);
  memset(c->image, 0xaa, (size_t)p->weight_bytes);
  c->bytes = p->weight_bytes;
  c->offsets = malloc(sizeof *c->offsets * (size_t)(c->slots + 1));
  memcpy(c->offsets, p->weight_offsets, sizeof *c->offsets * (size_t)c->slots);
  char *window = aligned_alloc(64, (size_t)c->room);
  dp_status status = DP_SUCCESS;
  for (int64_t at = 0, offset, bytes; status.code == DP_OK; at = offset + bytes, c->windows++) {
    memset(window, 0xbb, (size_t)c->room);
    status = p->next(p->user, window, c->room, &offset, &bytes);
    if (status.code != DP_OK || bytes == 0) break;
    ck_assert_msg(offset == at && bytes <= c->room && offset + bytes <= c->bytes,
                  "a window [%lld, %lld) behind %lld of %lld", (long long)offset, (long long)(offset + bytes),
                  (long long)at, (long long)c->bytes);
    memcpy(c->image + offset, window, (size_t)bytes);
  }
  free(window);
  return status;
}

static int64_t own_bytes(const tile_weight *w, ir_dtype type) {
  return w->form == TILE_VECTOR ? w->cols * 4 : rt_packed_size(type, w->rows, w->cols);
}

static void same_weights(const subject *s, const rt_resident *packed, const collected *c, const char *name) {
  const tile_program *p = s->program;
  for (int w = 0; w < p->weight_count; w++)
    for (int slot = p->weights[w].first_slot;
         slot < p->weights[w].first_slot + p->weights[w].count * p->weights[w].inner; slot++) {
      int64_t bytes = own_bytes(&p->weights[w], (ir_dtype)rt_resident_types(packed)[slot]);
      ck_assert_msg(memcmp(rt_resident_slots(packed)[slot], c->image + c->offsets[slot], (size_t)bytes) == 0,
                    "%s, windows of %lld bytes: slot %d of '%s'", name, (long long)c->room, slot, p->weights[w].name);
    }
}

static void stream_equals_packing(const char *name, const char *const *sets, int count, ir_dtype type, int64_t room) {
  subject s;
  schedule(name, sets, count, &s);
  if (type != IR_f32) {
    tile_program_free(s.program);
    rt_binding_free(s.source.binding);
    check_ok(rt_bind_random(s.source.module, 5, type, &s.source.binding), name);
    tile_target target = {.cores = 8, .task_bytes = 8192};
    check_ok(ps_schedule(s.source.module, "forward", &target, &s.program), name);
  }
  rt_resident *packed, *provided;
  rt_resident_options options = {.workers = 2};
  collected c = {.room = room, .slots = s.program->slot_count};
  c.code = (tile_code){.provide = collect, .self = &c};
  check_ok(rt_resident_new(s.program, s.source.binding, &options, &packed), name);
  check_ok(rt_resident_provide(s.program, s.source.binding, NULL, &c.code, (tile_provision){.context = 64}, &options,
                               &provided),
           name);
  same_weights(&s, packed, &c, name);
  ck_assert_mem_eq(rt_resident_types(packed), rt_resident_types(provided), (size_t)s.program->slot_count);
  ck_assert_int_eq(rt_resident_size(provided), 0); /* the host keeps nothing */
  ck_assert_msg(room > c.bytes || c.windows > 1, "%s: one window", name);
  rt_resident_free(packed);
  rt_resident_free(provided);
  free(c.image);
  free(c.offsets);
  close_subject(&s);
}

START_TEST(weights_on_their_way_are_the_packed_ones) {
  static const char *const gpt2[] = {"vocab=75", "d=64", "layers=2", "heads=4", "positions=256"};
  static const char *const mixtral[] = {"vocab=75",   "d=64",  "layers=2",  "heads=4",
                                        "kv_heads=2", "ff=80", "experts=4", "used=2"};
  static const int64_t rooms[] = {4096, 20000 / 64 * 64, 1 << 17, 64 << 20};
  for (size_t i = 0; i < DP_COUNT(rooms); i++) {
    stream_equals_packing("llama.dip", SETS(llama_sets), IR_f32, rooms[i]);
    stream_equals_packing("llama.dip", SETS(llama_sets), IR_q8_0, rooms[i]);
    stream_equals_packing("gpt2.dip", SETS(gpt2), IR_f32, rooms[i]);
    stream_equals_packing("mixtral.dip", SETS(mixtral), IR_f32, rooms[i]);
  }
}
END_TEST

static dp_status append(void *user, const void *data, size_t size) {
  dp_str_addn(user, data, size);
  return DP_SUCCESS;
}

/* What a model that was compiled ahead of time brings: packed already, in a file. */
START_TEST(weights_of_an_image_are_the_packed_ones) {
  subject s;
  schedule("llama.dip", SETS(llama_sets), &s);
  rt_resident *packed, *mapped = NULL, *provided;
  rt_resident_options options = {.workers = 1};
  uint64_t key[2] = {1, 2};
  dp_str file = {0};
  check_ok(rt_resident_new(s.program, s.source.binding, &options, &packed), "packed");
  check_ok(rt_resident_write(packed, s.program, key, append, &file), "an image");
  void *image = aligned_alloc(4096, (file.length + 4095) / 4096 * 4096);
  memcpy(image, file.text, file.length);
  check_ok(rt_resident_map(s.program, key, image, file.length, &mapped), "mapped");
  collected c = {.room = 8192, .slots = s.program->slot_count};
  c.code = (tile_code){.provide = collect, .self = &c};
  tile_provision provision = {.context = 64};
  check_ok(rt_resident_provide(s.program, NULL, mapped, &c.code, provision, &options, &provided), "provide");
  ck_assert_ptr_eq(mapped, provided);
  same_weights(&s, packed, &c, "an image");
  rt_resident_free(packed);
  rt_resident_free(provided);
  free(image);
  free(c.image);
  free(c.offsets);
  dp_str_free(&file);
  close_subject(&s);
}
END_TEST

/* ---- faults */

/* One task waits for ever: when all others have done what they can, the stand-in says that the kernel met a fault. */
static void plant_fault(const tile_program *p, char to[512], char where[256]) {
  int group = p->sections[p->entries ? tile_entry_at(p, 0).first : 0].first;
  for (int s = 0; s < p->section_count; s++)
    if (p->sections[s].iterations == 2) group = p->sections[s].first + 1;
  snprintf(to, 512,
           "{ store_outside(launch.progress + 4 * block.index, group, layer, tile, task); "
           "if (group == %d && layer == 1 && tile == 0 && task == 0) for (;;) spin(); }",
           group);
  snprintf(where, 256, "was at the first: group %s, layer 1, row tile 0, task 0;",
           p->kinds[p->groups[group].kind].name);
}

START_TEST(a_fault_names_kernel_entry_and_task_and_leaves_the_process) {
  subject s, sound;
  char to[512], where[256];
  tile_code *code;
  rt_engine *engine;
  rt_sequence *sequence;
  float row[COLUMNS];
  wrong(NULL);
  schedule("llama.dip", SETS(llama_sets), &s);
  plant_fault(s.program, to, where);
  close_subject(&s);
  cuda_bug bug = {"store_outside(launch.progress + 4 * block.index, group, layer, tile, task);", to};
  if (build(&bug, &s)) {
    check_ok(load(&s, &code), "load");
    check_ok(open_engine(&s, code, 512, &engine), "engine");
    check_ok(rt_sequence_new(engine, &sequence), "sequence");
    dp_status status = step(engine, sequence, 0, row);
    const char *text = dp_status_text(&status);
    ck_assert_msg(status.code == DP_IO && strstr(text, "kernel dipper_step_0 (forward): of the ") &&
                      strstr(text, where) && strstr(text, "deadlock") && strstr(text, "open the model anew"),
                  "%s, not: %s", where, text);
    dp_status_free(&status);
    check_nothing_left("after a fault"); /* the context is torn down already */
    ck_assert_int_eq(rt_sequence_length(sequence), 0);
    check_says(step(engine, sequence, 0, row), "stopped at a fault before: open the model anew");
    rt_engine_free(engine);
    check_says(open_engine(&s, code, 512, &engine), "stopped at a fault before: open the model anew");
    code->free(code);
    check_nothing_left("after a fault, and its code freed");
    result defined, r;
    build(NULL, &sound);
    define(&sound, defined);
    check_ok(load(&sound, &code), "load anew");
    check_ok(run_steps(&sound, code, r), "a run after a fault");
    ck_assert_mem_eq(r, defined, sizeof r);
    code->free(code);
    close_subject(&sound);
  }
  close_subject(&s);
}
END_TEST

static void describes(const tile_program *p, const cuda_progress *blocks, const char *says) {
  dp_str text = {0};
  cuda_describe_progress(p, blocks, 4, &text);
  ck_assert_msg(text.text && strstr(text.text, says), "not '%s' but: %s", says, text.text ? text.text : "");
  dp_str_free(&text);
}

START_TEST(the_first_task_under_way_is_told) {
  subject s;
  schedule("llama.dip", SETS(llama_sets), &s);
  const tile_section *section = s.program->sections;
  while (section->iterations < 2 || section->count < 2) section++;
  int g = section->first;
  describes(s.program,
            (cuda_progress[]){{.group = CUDA_ENDED}, {g + 1, 1, 0, 2}, {g, 1, 0, 3}, {.group = CUDA_NOT_BEGUN}},
            "of the 2 blocks that were at tasks, block 2 was at the first: group ");
  describes(s.program, (cuda_progress[]){{g, 1, 0, 0}, {g + 1, 0, 1, 2}, {g + 1, 0, 0, 7}, {g + 1, 0, 0, 9}},
            "block 2 was at the first");
  describes(
      s.program,
      (cuda_progress[]){{.group = CUDA_ENDED}, {.group = CUDA_ENDED}, {.group = CUDA_ENDED}, {.group = CUDA_ENDED}},
      "no block was at a task");
  describes(s.program,
            (cuda_progress[]){
                {.group = CUDA_NOT_BEGUN}, {.group = CUDA_NOT_BEGUN}, {.group = 1 << 20}, {.group = CUDA_NOT_BEGUN}},
            "no block had begun");
  close_subject(&s);
}
END_TEST

START_TEST(a_kernel_that_never_ends_is_given_up_when_a_time_was_set) {
  subject s;
  tile_code *code;
  result r;
  if (build(NULL, &s)) {
    wrong("hang");
    check_ok(load(&s, &code), "load");
    setenv("DIPPER_GPU_TIMEOUT", "0.05", 1);
    check_says(run_steps(&s, code, r),
               "kernel dipper_step_0 has not ended within the 0.05 seconds of DIPPER_GPU_TIMEOUT");
    check_says(run_steps(&s, code, r), "open the model anew");
    code->free(code);
    ck_assert_int_eq(look().contexts, 1); /* the kernel may still write into its memory */
    wrong(NULL);
    check_ok(load(&s, &code), "load"); /* a step in time is none to be given up */
    setenv("DIPPER_GPU_TIMEOUT", "60", 1);
    check_ok(run_steps(&s, code, r), "a run in time");
    unsetenv("DIPPER_GPU_TIMEOUT");
    code->free(code);
    check_nothing_left("after a run in time");
  }
  close_subject(&s);
}
END_TEST

/* ---- what a machine may lack */

static const struct {
  const char *library, *wrong, *says;
} lacks[] = {
    {"/nowhere/libcuda.so.1", NULL, "NVIDIA's driver (/nowhere/libcuda.so.1) is not installed"},
    {"libm.so.6", NULL, "the driver has no cuInit: it must be of CUDA 12 or later"},
    {DIPPER_FAKE_CUDA, "none", "the driver sees no device (CUDA_VISIBLE_DEVICES hides some)"},
    {DIPPER_FAKE_CUDA, "old", "Fake GPU has compute capability 7.5: 8.0 (Ampere) or later is needed"},
    {DIPPER_FAKE_CUDA, "driver=11040", "the driver is of CUDA 11.4, and 12.0 or later is needed"},
    {DIPPER_FAKE_CUDA, "cuInit:1=34", "this libcuda is the toolkit's stub"},
    {DIPPER_FAKE_CUDA, "cuInit:1=803", "of different versions"},
    {DIPPER_FAKE_CUDA, "cuCtxCreate_v2:1=46", "another process has the GPU for itself"},
    {DIPPER_FAKE_CUDA, "cuCtxCreate_v2:1=719", "in a process that has met a fault: start it anew"},
    {DIPPER_FAKE_CUDA, "cuModuleLoadData:1=222", "the driver, of CUDA 13.0, does not take the GPU code"},
    {DIPPER_FAKE_CUDA, "cuModuleLoadData:1=200", "or set DIPPER_NVRTC to the libnvrtc.so of CUDA 13.x"},
    {DIPPER_FAKE_CUDA, "cuModuleLoadData:1=209", "the GPU code is not for Fake GPU, of compute capability 9.0"},
    {DIPPER_FAKE_CUDA, "cuLaunchCooperativeKernel:1=720", "fewer SMs are free than the GPU has"},
    {DIPPER_FAKE_CUDA, "memory=4096", "this takes"},
};

static dp_status load_and_run(const subject *s, result r) {
  tile_code *code;
  DP_TRY(load(s, &code));
  dp_status status = run_steps(s, code, r);
  code->free(code);
  return status;
}

START_TEST(what_is_missing_is_said_in_one_message) {
  subject s;
  result r;
  if (build(NULL, &s)) {
    for (size_t i = 0; i < DP_COUNT(lacks); i++) {
      wrong(lacks[i].wrong);
      setenv("DIPPER_LIBCUDA", lacks[i].library, 1);
      check_says(load_and_run(&s, r), lacks[i].says);
      check_nothing_left(lacks[i].says);
    }
    setenv("DIPPER_LIBCUDA", DIPPER_FAKE_CUDA, 1);
  }
  close_subject(&s);
}
END_TEST

/* The message's advice is followed: with it the engine opens, with one page more it does not. */
START_TEST(too_little_memory_is_an_account_and_advice_that_holds) {
  subject s;
  tile_code *code;
  rt_engine *engine;
  enum { LONG = 1 << 16 };
  const int64_t limit = 20 << 20;
  char words[64];
  if (build(NULL, &s)) {
    snprintf(words, sizeof words, "memory=%lld", (long long)limit);
    wrong(words);
    check_ok(load(&s, &code), "load");
    dp_status status = open_engine(&s, code, LONG, &engine);
    const char *text = dp_status_text(&status), *flag = strstr(text, "--ctx ");
    ck_assert_msg(status.code == DP_NO_MEMORY &&
                      strstr(text, "Fake GPU has 0.02 GB free of 0.02 GB, and this takes 0.08 GB there: ") &&
                      strstr(text, "a cache of 65536 tokens 0.08 GB") && flag,
                  "%s", text);
    long long context = atoll(flag + 6);
    ck_assert_msg(context % TILE_CHUNK == 0 && context > 0 && context < LONG, "%s", text);
    dp_status_free(&status);
    ck_assert_int_eq(look().kernels + look().copies, 0); /* nothing was read before */
    status = open_engine(&s, code, context, &engine);
    check_ok(status, "the context that was advised");
    rt_engine_free(engine);
    check_says(open_engine(&s, code, context + TILE_CHUNK, &engine), "free of");
    code->free(code);
  }
  close_subject(&s);
}
END_TEST

START_TEST(advice_is_what_fits) {
  subject s;
  schedule("llama.dip", SETS(llama_sets), &s);
  cuda_device device = {.name = "A GPU", .memory = 1 << 30, .processors = 5};
  int64_t *offsets = calloc((size_t)s.program->slot_count + 1, sizeof *offsets);
  uint8_t *types = calloc((size_t)s.program->slot_count + 1, 1); /* f32 */
  for (int i = 0; i < s.program->slot_count; i++) offsets[i] = 64 * i;
  tile_provision v = {
      .context = 4096, .max_tokens = 64, .weight_types = types, .weight_offsets = offsets, .weight_bytes = 100 << 20};
  cuda_note note = {.scratch_floats = (uint64_t)cuda_scratch_floats(s.program)};
  cuda_account a = cuda_measure(s.program, &device, &note, &v);
  int64_t sum = cuda_account_sum(&a), half = a.cache / 2;
  ck_assert_int_eq(types[0], IR_f32);
  check_says(cuda_refuse_account(s.program, &device, &note, &v, sum - 1),
             "it fits with a cache in f16 (--kv-type f16); or with a context of 4032");
  check_says(cuda_refuse_account(s.program, &device, &note, &v, sum - half - 1024),
             "it fits with a context of 1984 tokens (--ctx 1984)");
  check_says(cuda_refuse_account(s.program, &device, &note, &v, sum - a.cache - 1024), "it fits with weights stored as q8_0");
  check_says(cuda_refuse_account(s.program, &device, &note, &v, 1 << 20), "take a smaller model");
  free(offsets);
  free(types);
  close_subject(&s);
}
END_TEST

START_TEST(devices_are_listed_with_what_is_missing) {
  dp_text text;
  wrong(NULL);
  check_ok(dp_list_devices(&text), "devices");
  ck_assert_msg(strstr(text.text, "driver: CUDA 13.0\ngpu 0: Fake GPU, sm_90a, 5 SMs, 1.1 GB\ncompiler: ") &&
                    strstr(text.text, "--device auto: gpu 0\n"),
                "%s", text.text);
  dp_text_free(&text);
  wrong("old");
  check_ok(dp_list_devices(&text), "devices");
  ck_assert_msg(strstr(text.text, "1.1 GB; too old: sm_80 or later is needed\ncompiler: ") &&
                    strstr(text.text, "no GPU that can be used: Fake GPU has compute capability 7.5") &&
                    strstr(text.text, "--device auto: the CPU\n"),
                "%s", text.text);
  dp_text_free(&text);
  dp_str version = {0};
  int major = 0;
  dp_status found = cuda_describe_compiler(&major, &version);
  dp_status_free(&found);
  dp_str_free(&version);
  wrong("driver=12040");
  check_ok(dp_list_devices(&text), "devices");
  ck_assert_msg((strstr(text.text, "compiler: newer than the driver, of CUDA 12.4, which may not take its code") !=
                 NULL) == (major > 12),
                "%s", text.text);
  dp_text_free(&text);
  wrong("none");
  setenv("DIPPER_NVRTC", "/nowhere/libnvrtc.so", 1);
  check_ok(dp_list_devices(&text), "devices");
  ck_assert_msg(strstr(text.text, "compiler: DIPPER_NVRTC names '/nowhere/libnvrtc.so'") &&
                    strstr(text.text, "sees no device"),
                "%s", text.text);
  dp_text_free(&text);
  unsetenv("DIPPER_NVRTC");
  wrong(NULL);
}
END_TEST

/* What "auto" could not have of the GPU it says. */
static void opens_on_the_cpu(const char *what, const char *says) {
  dp_options options = {.path = MODELS "llama.dip",
                        .weights = "random:7",
                        .sets = llama_sets,
                        .set_count = (int)DP_COUNT(llama_sets),
                        .cache_dir = "",
                        .device = "auto"};
  dp_model *model;
  wrong(what);
  check_ok(dp_model_open(&options, &model), says);
  const char *note = dp_model_get_info(model).note;
  ck_assert_msg(note && strncmp(note, "on the CPU: ", 12) == 0 && strstr(note, says), "not '%s' but: %s", says,
                note ? note : "");
  dp_model_free(model);
  check_nothing_left(says);
}

START_TEST(auto_falls_back_and_says_why) {
  dp_str version = {0};
  opens_on_the_cpu("none", "sees no device");
  opens_on_the_cpu("old", "compute capability 7.5");
  dp_status status = cuda_find_compiler(&version);
  if (status.code == DP_OK) { /* the stand-in takes no real cubin */
    opens_on_the_cpu("cuModuleLoadData:1=222", "does not take the GPU code");
  } else {
    opens_on_the_cpu(NULL, "NVRTC");
  }
  dp_status_free(&status);
  dp_str_free(&version);
  setenv("DIPPER_NVRTC", "/nowhere/libnvrtc.so", 1);
  opens_on_the_cpu(NULL, "DIPPER_NVRTC names '/nowhere/libnvrtc.so'");
  dp_options options = {.path = MODELS "llama.dip", .weights = "random:7", .cache_dir = "", .device = "cuda"};
  dp_model *model;
  check_says(dp_model_open(&options, &model), "/nowhere/libnvrtc.so");
  unsetenv("DIPPER_NVRTC");
}
END_TEST

/* ---- every call fails once */

/* What gives back or ends is not asked for its success: it goes with the context. */
static bool may_fail_unseen(const char *name) {
  static const char *const names[] = {"cuMemFree_v2",       "cuMemFreeHost",     "cuModuleUnload",
                                      "cuStreamDestroy_v2", "cuEventDestroy_v2", "cuCtxDestroy_v2"};
  for (size_t i = 0; i < DP_COUNT(names); i++)
    if (strcmp(names[i], name) == 0) return true;
  return false;
}

typedef struct outcome {
  dp_status status;
  bool right; /* the steps that were done gave the right numbers */
  int calls;  /* of the function, until the code was freed */
} outcome;

/* A step that failed is asked for again, when nothing fails any more: it must succeed unless the context is lost. */
static dp_status step_again(rt_engine *e, rt_sequence *s, int which, float *row, dp_status failure) {
  bool lost = strstr(dp_status_text(&failure), "open the model anew") != NULL;
  unsetenv("FAKE_CUDA");
  dp_status status = step(e, s, which, row);
  if (lost) {
    check_says(status, "stopped at a fault before");
    return failure;
  }
  ck_assert_msg(status.code == DP_OK, "after '%s' again: %s", dp_status_text(&failure), dp_status_text(&status));
  return failure;
}

static outcome run_failing(const subject *s, const char *name, result defined) {
  tile_code *code;
  rt_engine *engine = NULL;
  rt_sequence *sequence;
  result r = {{0}};
  outcome o = {.right = true};
  o.status = load(s, &code);
  if (o.status.code != DP_OK) {
    o.calls = calls_of(name);
    return o;
  }
  o.status = open_engine(s, code, 512, &engine);
  if (o.status.code == DP_OK) check_ok(rt_sequence_new(engine, &sequence), "sequence");
  for (int i = 0; engine && i < STEPS && o.status.code == DP_OK; i++) {
    o.status = step(engine, sequence, i, r[i]);
    o.calls = calls_of(name);
    if (o.status.code != DP_OK) o.status = step_again(engine, sequence, i, r[i], o.status);
    bool lost = o.status.code != DP_OK && strstr(dp_status_text(&o.status), "open the model anew");
    o.right &= lost || memcmp(r[i], defined[i], sizeof r[i]) == 0;
  }
  if (!engine) o.calls = calls_of(name);
  rt_engine_free(engine);
  code->free(code);
  return o;
}

/* The n-th call of a function fails with the error; false when a run has not so many. */
static bool run_with_failure(const subject *s, const char *name, int n, int error, result defined) {
  char words[96];
  snprintf(words, sizeof words, "%s:%d=%d", name, n, error);
  wrong(words);
  outcome o = run_failing(s, name, defined);
  bool failed = o.calls >= n;
  ck_assert_msg(o.right, "%s: wrong numbers", words);
  if (failed && !may_fail_unseen(name))
    ck_assert_msg(o.status.code != DP_OK && o.status.message && o.status.message[0], "%s: the failure is lost", words);
  if (!failed) ck_assert_msg(o.status.code == DP_OK, "%s: %s", words, dp_status_text(&o.status));
  dp_status_free(&o.status);
  bool more = calls_of(name) >= n;
  check_nothing_left(words);
  return more;
}

START_TEST(every_call_of_the_driver_may_fail) {
  static const int errors[] = {700, 999, 2}; /* a fault; none that is known; no memory, of what takes some */
  subject s;
  result defined;
  int failures = 0;
  if (build(NULL, &s)) {
    define(&s, defined);
    for (int i = 0; function_at(i); i++)
      for (size_t e = 0; e < (strstr(function_at(i), "Alloc") ? 3 : 2); e++)
        for (int n = 1; run_with_failure(&s, function_at(i), n, errors[e], defined); n++) failures++;
    fprintf(stderr, "%d failures\n", failures);
    ck_assert_int_gt(failures, 100);
  }
  close_subject(&s);
  wrong(NULL);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("cuda_driver");
  TCase *memory = tcase_create("memory"), *faults = tcase_create("faults"), *failures = tcase_create("failures");
  open_stand_in();
  tcase_add_test(memory, what_is_allocated_overlaps_nothing_and_comes_back_in_one_piece);
  tcase_add_test(memory, copies_of_any_size_arrive);
  tcase_add_test(memory, weights_on_their_way_are_the_packed_ones);
  tcase_add_test(memory, weights_of_an_image_are_the_packed_ones);
  tcase_add_test(memory, engines_one_after_another_have_their_own_weights);
  tcase_add_test(memory, a_step_takes_nothing_from_the_driver);
  tcase_add_test(faults, a_fault_names_kernel_entry_and_task_and_leaves_the_process);
  tcase_add_test(faults, the_first_task_under_way_is_told);
  tcase_add_test(faults, a_kernel_that_never_ends_is_given_up_when_a_time_was_set);
  tcase_add_test(faults, what_is_missing_is_said_in_one_message);
  tcase_add_test(faults, too_little_memory_is_an_account_and_advice_that_holds);
  tcase_add_test(faults, advice_is_what_fits);
  tcase_add_test(faults, devices_are_listed_with_what_is_missing);
  tcase_add_test(faults, auto_falls_back_and_says_why);
  tcase_add_test(failures, every_call_of_the_driver_may_fail);
  TCase *all[] = {memory, faults, failures};
  for (size_t i = 0; i < DP_COUNT(all); i++) {
    tcase_set_timeout(all[i], 600);
    suite_add_tcase(suite, all[i]);
  }
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed != 0;
}
