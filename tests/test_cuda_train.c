/* tests/test_cuda_train.c: training whose memory is a device's: through the driver and the compiler, of which
 * tests/cuda/fake_driver.c and fake_nvrtc.c stand in for CUDA's, it has the bits that are defined for it, step by step
 * and over checkpoints, and moves what it must. */
#include "api/train.h"

#include <check.h>
#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define GOLDEN DIPPER_TEST_DIR "/golden/"
#define MODELS DIPPER_SOURCE_DIR "/models/"

static void check_ok(dp_status status, const char *what) {
  ck_assert_msg(status.code == DP_OK, "%s: %s", what, dp_status_text(&status));
}

/* ---- a folder of the suite: compiled code, plans, runs */

static char folder[] = "/tmp/dipper-cuda-train-XXXXXX";

static void path_of(char path[256], const char *format, const char *name) {
  char tail[160];
  snprintf(tail, sizeof tail, format, name);
  snprintf(path, 256, "%s/%s", folder, tail);
}

static bool set_up(void) {
  if (system("c++ --version > /dev/null 2>&1") != 0) {
    fprintf(stderr, "skipped: there is no C++ compiler (c++)\n");
    return false;
  }
  char cache[256];
  if (!mkdtemp(folder)) return false;
  path_of(cache, "%s", "cache");
  setenv("DIPPER_CACHE", cache, 1);
  setenv("DIPPER_LIBCUDA", DIPPER_FAKE_CUDA, 1);
  setenv("DIPPER_NVRTC", DIPPER_FAKE_NVRTC, 1);
  return true;
}

static void tear_down(void) {
  char command[128];
  snprintf(command, sizeof command, "rm -rf %s", folder);
  if (system(command) != 0) fprintf(stderr, "%s stays\n", folder);
}

/* ---- what goes over and comes back */

typedef struct traffic {
  int64_t put[2], got[2]; /* copies, bytes */
} traffic;

static void *driver_function(const char *name) {
  void *library = dlopen(DIPPER_FAKE_CUDA, RTLD_NOW | RTLD_LOCAL), *address = library ? dlsym(library, name) : NULL;
  ck_assert_msg(address != NULL, "the driver has no %s", name);
  dlclose(library); /* it stays: it is linked so */
  return address;
}

static traffic traffic_now(void) {
  void (*tell)(int64_t put[2], int64_t got[2]);
  void *address = driver_function("fake_cuda_traffic");
  memcpy(&tell, &address, sizeof tell);
  traffic t;
  tell(t.put, t.got);
  return t;
}

static void forget_traffic(void) {
  void (*forget)(void);
  void *address = driver_function("fake_cuda_forget");
  memcpy(&forget, &address, sizeof forget);
  forget();
}

/* ---- trainers */

enum { LENGTH = 30 };

static const struct {
  const char *model, *weights, *plan;
} cases[] = {
    {"llama", "tiny_tied", "recompute block;"},
    {"llama", "tiny_llama", "weights bf16 stochastic; recompute none;"},
    {"gpt2", "tiny_gpt2", "weights bf16;"},
    {"mixtral", "tiny_mixtral", "freeze embed;"},
    {"llama", "tiny_llama", "adapt wq, wv lora rank 4; train norm;"},
    {"llama", "tiny_gguf/model.gguf", "adapt w*, gate, up, down lora rank 4;"},
};

static dp_training training_of(int index, char path[256], char weights[256]) {
  char text[512];
  path_of(path, "%s.dip", "plan");
  int size = snprintf(text, sizeof text, "import \"" MODELS "%s.dip\"; plan p for %s { %s }\n", cases[index].model,
                      cases[index].model, cases[index].plan);
  check_ok(dp_write_file_atomic(path, text, (size_t)size), path);
  snprintf(weights, 256, GOLDEN "%s", cases[index].weights);
  return (dp_training){.model = {.path = path, .weights = weights, .threads = 1, .step_tokens = 128},
                       .seed = 3,
                       .scores = true,
                       .sequences = 4};
}

static dp_trainer *open_trainer(int index, const char *device) {
  char path[256], weights[256];
  dp_training training = training_of(index, path, weights);
  dp_trainer *trainer;
  training.model.device = device;
  check_ok(dp_trainer_new(&training, &trainer), cases[index].plan);
  return trainer;
}

/* The device's program, with its numerics, in the host's memory and by the interpreter, which defines its bits. */
static dp_trainer *open_defined(int index) {
  char path[256], weights[256];
  dp_training training = training_of(index, path, weights);
  dp_trainer *t = calloc(1, sizeof *t);
  dp_model *model = &t->model;
  training.model.backend = "cuda";
  *t = (dp_trainer){.optimizer = dp_adamw_defaults(), .seed = training.seed};
  check_ok(api_open_source(&training.model, API_TRAINING, &model->source), path);
  check_ok(api_trainer_prepare(&training, false, t), path);
  check_ok(cg_build(cg_find_backend("interp"), model->program, NULL, NULL, &model->code, NULL, NULL),
           "the interpreter");
  check_ok(api_make_weights(&training.model, &model->source), weights);
  rt_engine_options engine = api_engine_options(&training.model, training.sequences);
  check_ok(api_set_up_engine(&engine, model), "an engine");
  t->losses = malloc(sizeof *t->losses * (size_t)model->info.step_tokens);
  return t;
}

static void make_sequence(int64_t b, int32_t *ids, int32_t *targets) {
  for (int64_t k = 0; k < LENGTH; k++) ids[k] = (int32_t)((b * 7919 + k * k * 31 + k) % 97);
  for (int64_t k = 0; k < LENGTH; k++) targets[k] = k + 1 < LENGTH && k % 7 != 3 ? ids[k + 1] : -1;
}

typedef struct numbers {
  float losses[4 * LENGTH], scores[LENGTH], logits[128];
  double norm;
} numbers;

/* Two steps of two sequences, an update, and with the new weights scores and logits. */
static void train_step(dp_trainer *trainer, int n, numbers *out) {
  int32_t ids[2][LENGTH], targets[2][LENGTH];
  dp_example examples[2];
  const float *losses;
  memset(out, 0, sizeof *out);
  for (int add = 0; add < 2; add++) {
    for (int i = 0; i < 2; i++) {
      make_sequence(4 * n + 2 * add + i, ids[i], targets[i]);
      examples[i] = (dp_example){.ids = ids[i], .targets = targets[i], .count = LENGTH};
    }
    check_ok(dp_trainer_add(trainer, examples, 2, &losses), "a step");
    memcpy(out->losses + 2 * add * LENGTH, losses, sizeof *losses * 2 * LENGTH);
  }
  check_ok(dp_trainer_update(trainer, 4 * LENGTH, 1e-2, &out->norm), "an update");
  check_ok(dp_trainer_score(trainer, examples, 1, &losses), "scores");
  memcpy(out->scores, losses, sizeof *losses * LENGTH);
  dp_session *session;
  dp_logits logits;
  check_ok(dp_session_new(dp_trainer_model(trainer), &session), "a session");
  check_ok(dp_session_feed(session, ids[0], 5, DP_WANT_LAST, &logits), "logits");
  memcpy(out->logits, logits.data, sizeof(float) * (size_t)(logits.columns < 128 ? logits.columns : 128));
  dp_session_free(session);
}

static char *read_state(const dp_trainer *t, const tile_weight *weight, int slot, tile_state state, int64_t *bytes) {
  *bytes = tile_slot_floats(weight) * ir_dtype_block_bytes(tile_state_type(weight, state));
  char *copy = malloc((size_t)*bytes);
  check_ok(rt_engine_read(t->model.engine, state, slot, 0, *bytes, copy), weight->name);
  return copy;
}

/* All that both keep of what is trained; how much that is. */
static int64_t same_states(const dp_trainer *cpu, const dp_trainer *gpu) {
  const tile_program *p = cpu->model.program, *q = gpu->model.program;
  int64_t sum = 0;
  ck_assert_int_eq(p->weight_count, q->weight_count);
  for (int w = 0; w < p->weight_count; w++)
    for (int state = TILE_VALUE; state < TILE_STATE_COUNT; state++) {
      const tile_weight *weight = &p->weights[w];
      ck_assert_str_eq(weight->name, q->weights[w].name);
      bool trained = rt_engine_keeps(cpu->model.engine, TILE_GRADIENT, weight->first_slot);
      for (int slot = weight->first_slot; slot < weight->first_slot + weight->count * weight->inner; slot++) {
        bool kept = rt_engine_keeps(cpu->model.engine, (tile_state)state, slot);
        ck_assert_int_eq(kept, rt_engine_keeps(gpu->model.engine, (tile_state)state, slot));
        if (!kept || !trained) continue;
        int64_t bytes;
        char *a = read_state(cpu, weight, slot, (tile_state)state, &bytes),
             *b = read_state(gpu, weight, slot, (tile_state)state, &bytes);
        ck_assert_msg(memcmp(a, b, (size_t)bytes) == 0, "state %d of '%s' differs in slot %d", state, weight->name,
                      slot);
        sum += bytes;
        free(a);
        free(b);
      }
    }
  return sum;
}

static void same_file(const char *one, const char *other) {
  char *bytes[2];
  size_t sizes[2];
  check_ok(dp_read_file(one, &bytes[0], &sizes[0]), one);
  check_ok(dp_read_file(other, &bytes[1], &sizes[1]), other);
  ck_assert_msg(sizes[0] == sizes[1] && memcmp(bytes[0], bytes[1], sizes[0]) == 0, "%s differs from %s", other, one);
  free(bytes[0]);
  free(bytes[1]);
}

static void same_saved(dp_trainer *cpu, dp_trainer *gpu, bool gradients) {
  char one[256], other[256];
  bool adapter = cpu->model.source.adaptations && !gradients;
  path_of(one, "%s", gradients ? "cpu.gradients" : "cpu.weights");
  path_of(other, "%s", gradients ? "gpu.gradients" : "gpu.weights");
  if (adapter) path_of(one, "%s", "cpu.adapter"), path_of(other, "%s", "gpu.adapter");
  check_ok(dp_trainer_save(cpu, one, gradients), one);
  check_ok(dp_trainer_save(gpu, other, gradients), other);
  if (adapter) strcat(one, "/adapter_model.safetensors"), strcat(other, "/adapter_model.safetensors");
  same_file(one, other);
}

START_TEST(training_on_a_device_has_the_defined_bits) {
  dp_trainer *cpu = open_defined(_i), *gpu = open_trainer(_i, "cuda");
  float *const *host = rt_engine_state(gpu->model.engine, TILE_GRADIENT);
  ck_assert(gpu->model.code->device != NULL);
  for (int i = 0; i < gpu->model.program->slot_count; i++) ck_assert_ptr_null(host[i]);
  for (int n = 0; n < 2; n++) {
    numbers a, b;
    train_step(cpu, n, &a);
    train_step(gpu, n, &b);
    ck_assert(a.norm > 0 && isfinite(a.norm));
    for (size_t i = 0; i < sizeof a / sizeof(float); i++)
      ck_assert_msg(memcmp((float *)&a + i, (float *)&b + i, sizeof(float)) == 0,
                    "%s, %s: update %d, number %zu differs", cases[_i].weights, cases[_i].plan, n, i);
  }
  ck_assert_int_gt(same_states(cpu, gpu), 0);
  same_saved(cpu, gpu, false);
  const float *losses;
  int32_t ids[LENGTH], targets[LENGTH];
  make_sequence(1, ids, targets);
  dp_example example = {.ids = ids, .targets = targets, .count = LENGTH};
  check_ok(dp_trainer_add(cpu, &example, 1, &losses), "a step");
  check_ok(dp_trainer_add(gpu, &example, 1, &losses), "a step");
  same_states(cpu, gpu);
  same_saved(cpu, gpu, true);
  check_ok(dp_trainer_clear(cpu), "clear");
  check_ok(dp_trainer_clear(gpu), "clear");
  same_states(cpu, gpu);
  dp_trainer_free(gpu);
  dp_trainer_free(cpu);
}
END_TEST

/* ---- what a step moves, and what is where */

START_TEST(a_step_moves_its_arguments_and_results_alone) {
  dp_trainer *trainer = open_trainer(0, "cuda");
  const tile_program *p = trainer->model.program;
  int32_t ids[LENGTH], targets[LENGTH];
  const float *losses;
  double norm;
  make_sequence(1, ids, targets);
  dp_example example = {.ids = ids, .targets = targets, .count = LENGTH};
  forget_traffic(); /* opening has put the weights there */
  for (int n = 0; n < 3; n++) {
    check_ok(dp_trainer_add(trainer, &example, 1, &losses), "a step");
    check_ok(dp_trainer_update(trainer, LENGTH, 1e-3, &norm), "an update");
  }
  traffic t = traffic_now();
  int64_t row = p->buffers[0].stride * 4;
  for (int i = 0; i < p->buffer_count; i++)
    if (p->buffers[i].output == p->entries[TRAINER_TRAIN].output) row = p->buffers[i].stride * 4;
  ck_assert_int_eq(t.got[0], 3 * 2); /* losses, a norm */
  ck_assert_int_le(t.got[1], 3 * (LENGTH * row + 256));
  int64_t arguments =
      16 * LENGTH * 4 + 9 * p->slot_count + 1024; /* a number of each kind a token; a table of weights */
  ck_assert_msg(t.put[0] <= 3 * 6 && t.put[1] <= 3 * 3 * arguments, "%lld copies, %lld bytes go over",
                (long long)t.put[0], (long long)t.put[1]);
  dp_trainer_free(trainer);
}
END_TEST

START_TEST(the_host_keeps_no_second_copy_and_the_device_what_was_planned) {
  dp_trainer *trainer = open_trainer(0, "cuda");
  const dp_model *model = &trainer->model;
  rt_engine_sizes host = rt_engine_get_sizes(model->engine);
  for (int i = 0; i < TILE_STATE_COUNT; i++) ck_assert_int_eq(host.states[i], 0);
  for (int i = 0; i < TILE_SPACE_COUNT; i++) ck_assert(i == TILE_NUMBERS || host.arena[i] == 0);
  ck_assert_int_eq(host.cache, 0);
  dp_options options = {.threads = 1, .step_tokens = 128};
  rt_engine_options engine = api_engine_options(&options, 4);
  rt_engine_sizes there = rt_engine_measure_device(model->program, model->code, model->source.binding, &engine);
  ck_assert_int_gt(there.states[TILE_MOMENT2], 0);
  int64_t planned = rt_engine_sizes_sum(&there), taken = rt_engine_device_bytes(model->engine);
  ck_assert_msg(taken <= planned && taken > planned - planned / 8, "%lld bytes were planned, %lld are taken",
                (long long)planned, (long long)taken);
  check_ok(dp_trainer_clear(trainer), "clear");
  ck_assert_int_eq(rt_engine_device_bytes(model->engine), taken);
  dp_trainer_free(trainer);
}
END_TEST

/* ---- recipes */

static const struct {
  const char *name, *plan, *objective, *weights;
} recipes[] = {
    {"masters", "weights bf16;", "pretrain { data \"" GOLDEN "objectives/documents.bin\"; accumulate 2;", "weights"},
    {"dpo", "adapt wq, wv lora rank 4;", "dpo { data \"" GOLDEN "objectives/pairs.jsonl\";", "weights"},
    {"reward", "", "reward { data \"" GOLDEN "objectives/pairs.jsonl\";", "weights"},
    {"whole", "", "dpo { data \"" GOLDEN "objectives/pairs.jsonl\";", "half"},
};

static const char usual_rate[] = "cosine 1e-3 to 1e-4 warmup 2";

static void link_weights(const char *file, const char *name) {
  char from[256], to[256], tail[64];
  snprintf(from, sizeof from, GOLDEN "%s", file);
  snprintf(tail, sizeof tail, "weights/%s", name);
  path_of(to, "%s", tail);
  if (access(to, F_OK) != 0) ck_assert_int_eq(symlink(from, to), 0);
}

static void make_weights(void) {
  char path[256];
  path_of(path, "%s", "weights");
  mkdir(path, 0777);
  link_weights("tiny_llama/model.safetensors", "model.safetensors");
  link_weights("tiny_llama/config.json", "config.json");
  link_weights("objectives/tokenizer.json", "tokenizer.json");
  link_weights("objectives/chat_template.jinja", "chat_template.jinja");
}

static void write_recipe(int index, const char *rate, char path[256]) {
  char text[1024];
  path_of(path, "%s.dip", recipes[index].name);
  snprintf(text, sizeof text,
           "import \"" MODELS "llama.dip\"; plan p for llama { %s }\n"
           "recipe made for llama { %s optimizer adamw { lr %s; decay 0.01; clip 1; }\n"
           "  batch 4; length 48; steps 4; save every 1 keep 9; seed 3; } }\n",
           recipes[index].plan, recipes[index].objective, rate);
  check_ok(dp_write_file_atomic(path, text, strlen(text)), path);
}

static bool stop_after(void *user, const dp_run_step *step) { return step->step != *(const int *)user; }
static void keep_note(void *user, const char *text) { (void)user, fprintf(stderr, "note: %s\n", text); }

static void run(int index, const char *out, const char *device, int stop, bool resume) {
  char path[256], weights[256], directory[256], tail[64];
  make_weights();
  write_recipe(index, usual_rate, path);
  path_of(weights, "%s", recipes[index].weights);
  snprintf(tail, sizeof tail, "%s.%s", recipes[index].name, out);
  path_of(directory, "%s", tail);
  dp_run how = {.model = {.path = path, .weights = weights, .threads = 1, .device = device},
                .out = directory,
                .resume = resume,
                .on_step = stop_after,
                .on_note = keep_note,
                .user = &stop};
  check_ok(dp_run_recipe(&how), recipes[index].name);
}

static void same_checkpoint(int index, const char *one, const char *other) {
  static const char *const files[] = {"model.safetensors", "optimizer.safetensors", "adapter_model.safetensors"};
  char path[2][256], tail[128];
  int found = 0;
  for (size_t i = 0; i < DP_COUNT(files); i++) {
    for (int j = 0; j < 2; j++) {
      snprintf(tail, sizeof tail, "%s.%s/step-00000004/%s", recipes[index].name, j ? other : one, files[i]);
      path_of(path[j], "%s", tail);
    }
    if (access(path[0], F_OK) != 0) continue;
    same_file(path[0], path[1]);
    found++;
  }
  ck_assert_int_eq(found, 2);
}

/* Of bf16 the device has numerics of its own: that run is held to an unbroken one there. */
START_TEST(a_recipe_s_checkpoints_are_the_cpu_s_and_it_goes_on_from_either) {
  const char *unbroken = _i == 0 ? "cuda" : NULL;
  run(_i, "whole", unbroken, -1, false);
  run(_i, "gpu", "cuda", 3, false);
  run(_i, "gpu", "cuda", -1, true);
  same_checkpoint(_i, "whole", "gpu");
  if (unbroken) return;
  run(_i, "moved", NULL, 2, false);
  run(_i, "moved", "cuda", 3, true);
  run(_i, "moved", "cpu", -1, true);
  same_checkpoint(_i, "whole", "moved");
}
END_TEST

/* The place is found in what the device holds. */
START_TEST(a_loss_that_is_no_number_is_told_with_its_place) {
  char path[256], weights[256];
  make_weights();
  write_recipe(2, "constant 1e38", path);
  path_of(weights, "%s", "weights");
  dp_run how = {.model = {.path = path, .weights = weights, .threads = 1, .device = "cuda"}};
  dp_status status = dp_run_recipe(&how);
  ck_assert_int_eq(status.code, DP_INVALID);
  ck_assert_msg(strstr(dp_status_text(&status), "step 2: the loss is") &&
                    strstr(dp_status_text(&status), "the first such number is in weight"),
                "%s", dp_status_text(&status));
  dp_status_free(&status);
}
END_TEST

static int command(const char *arguments, char *output, size_t size) {
  char line[2048];
  snprintf(line, sizeof line, "cd %s && %s %s 2>&1", folder, DIPPER_COMMAND, arguments);
  FILE *pipe = popen(line, "r");
  size_t length = fread(output, 1, size - 1, pipe);
  output[length] = 0;
  return pclose(pipe);
}

static bool keep_margin(void *user, const dp_run_step *step) {
  *(double *)user = step->step == 1 ? step->margin : *(double *)user;
  return step->step < 2;
}

/* Weights of a file in bf16, which are trained as f32: the reference takes its products as the trainer does. */
START_TEST(a_reference_begins_with_the_trainer_s_bits) {
  static char output[4096];
  char path[256], weights[256];
  double margin = 1;
  make_weights();
  ck_assert_msg(command("weights save " MODELS
                        "llama.dip --weights weights --dtype bf16 --out bf16.safetensors && rm -rf half "
                        "&& cp -rL weights half && mv bf16.safetensors half/model.safetensors",
                        output, sizeof output) == 0,
                "%s", output);
  write_recipe(3, usual_rate, path);
  path_of(weights, "%s", "half");
  dp_run how = {.model = {.path = path, .weights = weights, .threads = 1, .device = "cuda"},
                .on_step = keep_margin,
                .user = &margin};
  check_ok(dp_run_recipe(&how), "dpo");
  ck_assert_msg(margin == 0, "the first margin is %g", margin);
}
END_TEST

/* ---- the command, and a device that is too small */

static void ck_says(const char *output, const char *what) {
  ck_assert_msg(strstr(output, what) != NULL, "'%s' is not in: %s", what, output);
}

START_TEST(the_command_trains_on_a_device_and_tells_when_there_is_none) {
  static char output[16384];
  char path[256];
  make_weights();
  write_recipe(2, usual_rate, path);
  ck_assert_msg(command("train reward.dip --weights weights --threads 1 --device cuda --out command.gpu", output,
                        sizeof output) == 0,
                "%s", output);
  ck_says(output, "step 4/4");
  ck_assert_ptr_null(strstr(output, "MFU"));
  setenv("DIPPER_LIBCUDA", "/nowhere/libcuda.so.1", 1);
  ck_assert_msg(command("train reward.dip --weights weights --threads 1 --device auto --out command.auto", output,
                        sizeof output) == 0,
                "%s", output);
  ck_says(output, "note: on the CPU: no GPU: NVIDIA's driver");
  ck_assert(command("train reward.dip --weights weights --device cuda --out command.none", output, sizeof output) != 0);
  ck_says(output, "no GPU: NVIDIA's driver");
  setenv("DIPPER_LIBCUDA", DIPPER_FAKE_CUDA, 1);
  char one[256], other[256];
  path_of(one, "%s", "command.auto/step-00000004/model.safetensors");
  path_of(other, "%s", "command.gpu/step-00000004/model.safetensors");
  same_file(one, other);
  ck_assert_msg(command("plan reward.dip --weights weights --threads 1 --device cuda", output, sizeof output) == 0,
                "%s", output);
  ck_says(output, "memory of the GPU\n  weights");
  ck_says(output, "memory of the host\n  copies");
}
END_TEST

START_TEST(what_does_not_fit_on_a_device_is_refused_with_the_figures) {
  static const char *const sets[] = {"vocab=8192", "d=1024", "layers=8", "heads=16", "kv_heads=4", "ff=4096"};
  char path[256];
  write_recipe(0, usual_rate, path);
  dp_run how = {.model = {.path = path,
                          .weights = "random:1",
                          .threads = 1,
                          .device = "cuda",
                          .sets = sets,
                          .set_count = (int)DP_COUNT(sets)}};
  dp_run_plan plan;
  dp_text advice;
  check_ok(dp_plan_recipe(&how, &plan, &advice), "a plan");
  ck_assert(!plan.fits && plan.device_peak > plan.device_available);
  ck_assert_msg(advice.length > 0 && strstr(advice.text, "freeze"), "%s", advice.text ? advice.text : "");
  ck_assert_int_eq(plan.device_peak, plan.weights + plan.gradients + plan.optimizer + plan.activations + plan.windows +
                                         plan.cache + plan.workers);
  dp_text_free(&advice);
  dp_status status = dp_run_recipe(&how);
  ck_assert_int_eq(status.code, DP_NO_MEMORY);
  ck_says(dp_status_text(&status), "this does not fit into the GPU's memory: at its peak training takes");
  dp_status_free(&status);
}
END_TEST

int main(void) {
  if (!set_up()) return 0;
  Suite *suite = suite_create("cuda_train");
  TCase *steps = tcase_create("steps");
  tcase_set_timeout(steps, 600);
  tcase_add_loop_test(steps, training_on_a_device_has_the_defined_bits, 0, (int)DP_COUNT(cases));
  suite_add_tcase(suite, steps);
  TCase *memory = tcase_create("memory");
  tcase_set_timeout(memory, 600);
  tcase_add_test(memory, a_step_moves_its_arguments_and_results_alone);
  tcase_add_test(memory, the_host_keeps_no_second_copy_and_the_device_what_was_planned);
  tcase_add_test(memory, what_does_not_fit_on_a_device_is_refused_with_the_figures);
  suite_add_tcase(suite, memory);
  TCase *runs = tcase_create("runs");
  tcase_set_timeout(runs, 600);
  tcase_add_loop_test(runs, a_recipe_s_checkpoints_are_the_cpu_s_and_it_goes_on_from_either, 0, 3);
  tcase_add_test(runs, a_loss_that_is_no_number_is_told_with_its_place);
  tcase_add_test(runs, a_reference_begins_with_the_trainer_s_bits);
  tcase_add_test(runs, the_command_trains_on_a_device_and_tells_when_there_is_none);
  suite_add_tcase(suite, runs);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  tear_down();
  return failed != 0;
}
