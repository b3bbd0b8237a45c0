/* bench/gpu.c: figures of one model on one device, each after a warm-up, as medians with their spread. Weights and
 * token ids are made at random: no file, no tokenizer. */
#include "bench/gpu.h"
#include "api/train.h"
#include "codegen/cuda/cuda.h"
#include "codegen/cuda/driver.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- samples */

void add_sample(samples *s, double seconds) {
  if (s->count < MAX_SAMPLES) s->seconds[s->count++] = seconds;
}

static int by_size(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

void print_samples(const char *name, samples *s) {
  if (!s->count) return;
  qsort(s->seconds, (size_t)s->count, sizeof *s->seconds, by_size);
  const double *t = s->seconds;
  int n = s->count;
  printf(", \"%s\": {\"n\": %d, \"median\": %.9g, \"p10\": %.9g, \"p90\": %.9g}", name, n,
         n % 2 ? t[n / 2] : (t[n / 2 - 1] + t[n / 2]) / 2, t[n / 10], t[n - 1 - n / 10]);
}

static bool goes_on(const arguments *a, const samples *s, double begin) {
  return s->count < MAX_SAMPLES && (s->count < a->repeat || api_seconds() - begin < a->seconds) &&
         (s->count < 2 || api_seconds() - begin < 4 * a->seconds);
}

/* ---- models */

int32_t token_of(const dp_model *model, int64_t sequence, int64_t i) {
  return (int32_t)(((uint64_t)(i + 1) * 2654435761u + (uint64_t)sequence * 40503u) %
                   (uint64_t)dp_model_get_info(model).vocabulary);
}

int64_t greatest(const float *row, int64_t count) {
  int64_t best = 0;
  for (int64_t i = 1; i < count; i++)
    if (row[i] > row[best]) best = i;
  return best;
}

dp_options options_on(const arguments *a, const char *device) {
  dp_options options = a->model;
  bool cpu = strcmp(device, "cpu") == 0;
  options.backend = cpu ? NULL : device;
  options.device = strcmp(device, "cuda") == 0 ? device : NULL;
  return options;
}

dp_status open_on(const arguments *a, const char *device, dp_model **model) {
  dp_options options = options_on(a, device);
  return dp_model_open(&options, model);
}

static dp_status feed_prompt(const dp_model *model, dp_session *session, int64_t sequence, int64_t count,
                             dp_logits *logits) {
  int64_t step = dp_model_get_info(model).step_tokens;
  int32_t *ids = malloc(sizeof *ids * (size_t)(count + 1));
  dp_status status = ids ? DP_SUCCESS : dp_fail(DP_NO_MEMORY, "no memory for a prompt");
  for (int64_t i = 0; ids && i < count; i++) ids[i] = token_of(model, sequence, i);
  for (int64_t at = 0; status.code == DP_OK && at < count; at += step) {
    int64_t some = count - at < step ? count - at : step;
    status = dp_session_feed(session, ids + at, (size_t)some, at + some == count ? DP_WANT_LAST : DP_WANT_NONE, logits);
  }
  free(ids);
  return status;
}

static void print_model(const arguments *a, const dp_model *model, double opened) {
  dp_model_info info = dp_model_get_info(model);
  printf("{\"part\": \"%s\", \"open_s\": %.3f, \"load_s\": %.3f, \"compile_s\": %.3f, \"compiled\": %s", a->part,
         opened, info.load_s, info.compile_s, info.compiled ? "true" : "false");
}

/* ---- decode of one sequence: what dp_generate takes from token to token, sampling included */

typedef struct clock_of_tokens {
  samples *samples;
  double last;
  int64_t seen, skip;
} clock_of_tokens;

static bool note_token(void *user) {
  clock_of_tokens *c = user;
  double now = api_seconds();
  if (c->seen++ > c->skip) add_sample(c->samples, now - c->last);
  c->last = now;
  return true;
}

static dp_status decode_once(const arguments *a, dp_model *model, samples *s) {
  dp_session *session;
  DP_TRY(dp_session_new(model, &session));
  int32_t *ids = calloc((size_t)a->prompt + 1, sizeof *ids);
  for (int64_t i = 0; ids && i < a->prompt; i++) ids[i] = token_of(model, 0, i);
  clock_of_tokens clock = {.samples = s, .skip = 4};
  dp_generation generation = {.max_tokens = a->count, .go_on = note_token, .user = &clock};
  dp_status status =
      ids ? dp_generate(session, ids, (size_t)a->prompt, &generation, NULL) : dp_fail(DP_NO_MEMORY, "no memory");
  free(ids);
  dp_session_free(session);
  return status;
}

static dp_status decode(const arguments *a, dp_model *model) {
  static samples s;
  double begin = api_seconds();
  DP_TRY(decode_once(a, model, &s)); /* puts the weights on the device */
  double warm = api_seconds() - begin;
  s.count = 0;
  begin = api_seconds();
  do DP_TRY(decode_once(a, model, &s));
  while (goes_on(a, &s, begin));
  printf(", \"first_run_s\": %.3f, \"prompt\": %lld", warm, (long long)a->prompt);
  print_samples("step_s", &s);
  return DP_SUCCESS;
}

/* ---- prefill: whole prompts, the logits of the last token */

static dp_status prefill_once(const arguments *a, dp_model *model) {
  dp_session *session;
  dp_logits logits;
  DP_TRY(dp_session_new(model, &session));
  dp_status status = feed_prompt(model, session, 0, a->prompt, &logits);
  dp_session_free(session);
  return status;
}

static dp_status prefill(const arguments *a, dp_model *model) {
  static samples s;
  DP_TRY(prefill_once(a, model));
  for (double begin = api_seconds(); goes_on(a, &s, begin);) {
    double before = api_seconds();
    DP_TRY(prefill_once(a, model));
    add_sample(&s, api_seconds() - before);
  }
  printf(", \"prompt\": %lld", (long long)a->prompt);
  print_samples("step_s", &s);
  return DP_SUCCESS;
}

/* ---- decode of many sequences together; the first one's logits against those it gives alone */

typedef struct crowd {
  dp_session **sessions;
  dp_part *parts;
  int32_t *ids;
  int64_t count;
} crowd;

static dp_status gather(dp_model *model, int64_t count, int64_t prompt, crowd *c) {
  dp_logits logits;
  *c = (crowd){calloc((size_t)count, sizeof *c->sessions), calloc((size_t)count, sizeof *c->parts),
               calloc((size_t)count, sizeof *c->ids), count};
  if (!c->sessions || !c->parts || !c->ids)
    return dp_fail(DP_NO_MEMORY, "no memory for %lld sequences", (long long)count);
  for (int64_t i = 0; i < count; i++) {
    DP_TRY(dp_session_new(model, &c->sessions[i]));
    DP_TRY(feed_prompt(model, c->sessions[i], i, prompt, &logits));
    c->ids[i] = (int32_t)greatest(logits.data, logits.columns);
    c->parts[i] = (dp_part){c->sessions[i], &c->ids[i], 1, DP_WANT_LAST};
  }
  return DP_SUCCESS;
}

static void disperse(crowd *c) {
  for (int64_t i = 0; c->sessions && i < c->count; i++) dp_session_free(c->sessions[i]);
  free(c->sessions);
  free(c->parts);
  free(c->ids);
}

/* One token each; the seconds of the step without picking. */
static dp_status step_together(crowd *c, double *seconds, uint64_t *hash_of_first) {
  dp_logits logits;
  double begin = api_seconds();
  DP_TRY(dp_feed_batch(c->parts, (int)c->count, &logits));
  *seconds = api_seconds() - begin;
  *hash_of_first = dp_hash(*hash_of_first, logits.data, sizeof(float) * (size_t)logits.columns);
  for (int64_t i = 0; i < c->count; i++) c->ids[i] = (int32_t)greatest(logits.data + i * logits.stride, logits.columns);
  return DP_SUCCESS;
}

static dp_status measure_crowd(const arguments *a, dp_model *model, int64_t count, samples *s, uint64_t *hash) {
  crowd c;
  double seconds;
  uint64_t unused = 0;
  dp_status status = gather(model, count, a->prompt, &c);
  for (int64_t i = 0; status.code == DP_OK && i < a->count;
       i++) { /* as many steps alone as in company: bits are compared */
    status = step_together(&c, &seconds, hash);
    if (i >= 4) add_sample(s, seconds);
  }
  for (double begin = api_seconds(); status.code == DP_OK && goes_on(a, s, begin) && s->count < 200;) {
    status = step_together(&c, &seconds, &unused);
    add_sample(s, seconds);
  }
  disperse(&c);
  return status;
}

static dp_status batch(const arguments *a, dp_model *model) {
  static samples alone, together;
  uint64_t one = 0, many = 0;
  DP_TRY(measure_crowd(a, model, 1, &alone, &one));
  DP_TRY(measure_crowd(a, model, a->batch, &together, &many));
  printf(", \"batch\": %lld, \"same_bits\": %s", (long long)a->batch, one == many ? "true" : "false");
  print_samples("alone_s", &alone);
  print_samples("together_s", &together);
  return DP_SUCCESS;
}

/* ---- a first token from nothing, for whoever measures it from exec on */

static dp_status first(const arguments *a, dp_model *model) {
  double begin = api_seconds();
  DP_TRY(prefill_once(a, model));
  printf(", \"first_token_s\": %.3f", api_seconds() - begin);
  return DP_SUCCESS;
}

typedef dp_status figure(const arguments *a, dp_model *model);

static dp_status with_model(const arguments *a, figure *run) {
  dp_model *model;
  double begin = api_seconds();
  DP_TRY(open_on(a, a->device, &model));
  print_model(a, model, api_seconds() - begin);
  dp_status status = run(a, model);
  printf("}\n");
  dp_model_free(model);
  return status;
}
static dp_status part_decode(const arguments *a) { return with_model(a, decode); }
static dp_status part_prefill(const arguments *a) { return with_model(a, prefill); }
static dp_status part_batch(const arguments *a) { return with_model(a, batch); }
static dp_status part_first(const arguments *a) { return with_model(a, first); }

/* ---- training: forward, backward, AdamW of one sequence */

static dp_training training_of(const arguments *a) {
  dp_training training = {.model = options_on(a, a->device), .sequences = 1};
  training.model.context = training.model.step_tokens = a->prompt;
  return training;
}

static dp_status update_once(dp_trainer *trainer, const dp_example *example, float *loss) {
  const float *losses;
  *loss = 0;
  DP_TRY(dp_trainer_add(trainer, example, 1, &losses));
  for (size_t i = 0; i < example->count; i++) *loss += losses[i] / (float)example->count;
  return dp_trainer_update(trainer, (int64_t)example->count, 1e-4, NULL);
}

static dp_status train(const arguments *a, dp_trainer *trainer) {
  static samples s;
  int32_t *ids = calloc((size_t)a->prompt + 1, sizeof *ids);
  if (!ids) return dp_fail(DP_NO_MEMORY, "no memory for a text");
  for (int64_t i = 0; i <= a->prompt; i++) ids[i] = token_of(dp_trainer_model(trainer), 0, i);
  dp_example example = {.ids = ids, .targets = ids + 1, .count = (size_t)a->prompt};
  float first_loss, loss = 0;
  dp_status status = update_once(trainer, &example, &first_loss);
  if (status.code == DP_OK) status = update_once(trainer, &example, &loss);
  for (double begin = api_seconds(); status.code == DP_OK && goes_on(a, &s, begin);) {
    double before = api_seconds();
    status = update_once(trainer, &example, &loss);
    add_sample(&s, api_seconds() - before);
  }
  if (status.code == DP_OK)
    printf(", \"tokens\": %lld, \"first_loss\": %.6g, \"last_loss\": %.6g", (long long)a->prompt, (double)first_loss,
           (double)loss);
  print_samples("step_s", &s);
  free(ids);
  return status;
}

static dp_status part_train(const arguments *a) {
  dp_trainer *trainer;
  dp_training training = training_of(a);
  double begin = api_seconds();
  DP_TRY(dp_trainer_new(&training, &trainer));
  print_model(a, dp_trainer_model(trainer), api_seconds() - begin);
  dp_status status = train(a, trainer);
  printf("}\n");
  dp_trainer_free(trainer);
  return status;
}

/* ---- compile times: no device is needed */

static dp_status make_program(const arguments *a, dp_model *model, dp_trainer *trainer, const tile_program **program) {
  if (!a->train) {
    dp_options options = options_on(a, "cuda");
    const char *colon = options.weights ? strrchr(options.weights, ':') : NULL;
    ir_dtype type = IR_f32;
    if (colon) ir_dtype_parse(colon + 1, &type);
    options.weights = NULL; /* the shapes are enough */
    DP_TRY(api_open_source(&options, API_TEXT, &model->source));
    DP_TRY(rt_bind_shapes(model->source.module, type, &model->source.binding));
    DP_TRY(api_schedule(&options, &model->source, &model->program));
    *program = model->program;
    return DP_SUCCESS;
  }
  dp_training training = training_of(a);
  training.optimizer = trainer->optimizer = dp_adamw_defaults();
  DP_TRY(api_open_source(&training.model, API_TRAINING, &trainer->model.source));
  DP_TRY(api_trainer_prepare(&training, false, trainer));
  *program = trainer->model.program;
  return DP_SUCCESS;
}

static dp_status dump_text(const arguments *a, const tile_program *program) {
  dp_str text = {0};
  dp_status status = cuda_text(program, &text);
  if (status.code == DP_OK) status = dp_write_file_atomic(a->dump, text.text, text.length);
  dp_str_free(&text);
  return status;
}

static dp_status compile_program(const arguments *a, const tile_program *program, double front) {
  static samples s;
  cg_target target = {.cpu = a->arch};
  cg_object object = {0};
  if (a->dump) DP_TRY(dump_text(a, program));
  for (int64_t i = 0; i < a->repeat; i++) {
    cg_object_free(&object);
    double begin = api_seconds();
    DP_TRY(cg_find_backend("cuda")->compile(program, &target, &object));
    add_sample(&s, api_seconds() - begin);
  }
  dp_str version = {0};
  dp_status status = cuda_find_compiler(&version);
  printf("{\"part\": \"compile\", \"compiler\": \"%s\", \"arch\": \"%s\", \"train\": %s, \"kinds\": %d, "
         "\"front_end_s\": %.3f, "
         "\"bytes\": %zu",
         version.text ? version.text : "", a->arch ? a->arch : "", a->train ? "true" : "false", program->kind_count,
         front, object.size);
  print_samples("compile_s", &s);
  printf("}\n");
  dp_str_free(&version);
  cg_object_free(&object);
  return status;
}

static dp_status part_compile(const arguments *a) {
  dp_model *model = calloc(1, sizeof *model);
  dp_trainer *trainer = calloc(1, sizeof *trainer);
  const tile_program *program = NULL;
  double begin = api_seconds();
  dp_status status = model && trainer ? make_program(a, model, trainer, &program) : dp_fail(DP_NO_MEMORY, "no memory");
  if (status.code == DP_OK) status = compile_program(a, program, api_seconds() - begin);
  dp_model_free(model);
  dp_trainer_free(trainer);
  return status;
}

/* ---- what there is */

static dp_status part_device(const arguments *a) {
  cuda_device *list;
  int count;
  char arch[16];
  DP_TRY(cuda_list_devices(&list, &count));
  cuda_arch(&list[0], arch);
  printf("{\"part\": \"%s\", \"chip\": \"%s\", \"arch\": \"%s\", \"processors\": %d, \"memory\": %lld}\n", a->part,
         list[0].name, arch, list[0].processors, (long long)list[0].memory);
  free(list);
  return DP_SUCCESS;
}

/* ---- */

static const struct {
  const char *name, *doc;
  dp_status (*run)(const arguments *a);
} parts[] = {
    {"device", "the first GPU", part_device},
    {"invariance", "logits of alone, in company, in chunks, token by token: the same bits; their hash",
     check_invariance},
    {"reference", "logits beside the interpreter's", check_reference},
    {"integers", "a product of small whole numbers: the interpreter's bits", check_integers},
    {"decode", "a token at a time, as dp_generate", part_decode},
    {"prefill", "a prompt in steps of --step-tokens", part_prefill},
    {"batch", "--batch sequences, a token each a step, and one alone: time, and whether the bits are the same",
     part_batch},
    {"first", "open, and one prompt", part_first},
    {"train", "updates of one sequence of --prompt tokens", part_train},
    {"compile", "the seconds that NVRTC takes (--arch, --dump FILE)", part_compile},
    {"train-compile", "the same for the program of a trainer", part_compile},
};

static int usage(void) {
  fprintf(
      stderr,
      "usage: gpu PART --model FILE [--set NAME=VALUE]... [--weights random:SEED[:TYPE]] [--device cuda|cpu|interp]\n"
      "           [--prompt N] [--count N] [--batch N] [--context N] [--step-tokens N] [--kv f16|f32] [--plan NAME]\n"
      "           [--repeat N] [--seconds S] [--arch sm_90a] [--dump FILE] [--cache DIR]\n");
  for (size_t i = 0; i < DP_COUNT(parts); i++) fprintf(stderr, "  %-11s %s\n", parts[i].name, parts[i].doc);
  return 2;
}

static bool read_flag(arguments *a, const char *flag, const char *value) {
  struct {
    const char *name, **text;
    int64_t *number;
  } flags[] = {{"--model", &a->model.path, NULL},
               {"--weights", &a->model.weights, NULL},
               {"--device", &a->device, NULL},
               {"--kv", &a->model.kv_type, NULL},
               {"--plan", &a->model.plan, NULL},
               {"--cache", &a->model.cache_dir, NULL},
               {"--arch", &a->arch, NULL},
               {"--dump", &a->dump, NULL},
               {"--prompt", NULL, &a->prompt},
               {"--count", NULL, &a->count},
               {"--batch", NULL, &a->batch},
               {"--repeat", NULL, &a->repeat},
               {"--context", NULL, &a->model.context},
               {"--step-tokens", NULL, &a->model.step_tokens}};
  for (size_t i = 0; i < DP_COUNT(flags); i++) {
    if (strcmp(flag, flags[i].name) != 0) continue;
    if (flags[i].text)
      *flags[i].text = value;
    else
      *flags[i].number = strtoll(value, NULL, 10);
    return true;
  }
  if (strcmp(flag, "--seconds") == 0) return a->seconds = strtod(value, NULL), true;
  if (strcmp(flag, "--set") != 0 || a->model.set_count == MAX_SETS) return false;
  a->sets[a->model.set_count++] = value;
  return true;
}

int main(int argc, char **argv) {
  arguments a = {.model = {.weights = "random:7:bf16"},
                 .device = "cuda",
                 .prompt = 16,
                 .count = 64,
                 .batch = 64,
                 .repeat = 20,
                 .seconds = 5};
  if (argc < 2) return usage();
  a.part = argv[1];
  a.model.sets = a.sets;
  a.train = strcmp(a.part, "train-compile") == 0;
  for (int i = 2; i < argc; i++) {
    if (i + 1 == argc || !read_flag(&a, argv[i], argv[i + 1])) return usage();
    i++;
  }
  for (size_t i = 0; i < DP_COUNT(parts); i++) {
    if (strcmp(parts[i].name, a.part) != 0) continue;
    dp_status status = parts[i].run(&a);
    if (status.code != DP_OK) fprintf(stderr, "gpu %s: %s\n", a.part, dp_status_text(&status));
    int code = status.code != DP_OK;
    dp_status_free(&status);
    return code;
  }
  return usage();
}
