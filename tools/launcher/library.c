/* tools/launcher/library.c: what a shared library of `dipper compile` begins with: dipper/model.h over the model at its own
 * end. Only those functions are visible (exports.map). */
#include "dipper/aot.h"
#include "dipper/model.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

struct dipper_model {
  dp_model *model; /* NULL: opening failed, and `failure` tells why */
  dp_session *session;
  dp_model_info info;
  dp_status failure;
};

/* Jansson's static library is made for executables: its one mention of another library's data, stdin, which it compares
 * what it reads with, must not be that of libc. Linked with --wrap=stdin. */
extern void *const __wrap_stdin;
void *const __wrap_stdin = NULL;

int dipper_model_abi(void) { return DIPPER_MODEL_ABI; }

static int code_of(dp_code code) {
  static const int codes[] = {[DP_OK] = DIPPER_MODEL_OK, [DP_INVALID] = DIPPER_MODEL_INVALID, [DP_NOT_FOUND] = DIPPER_MODEL_NOT_FOUND,
                              [DP_IO] = DIPPER_MODEL_IO, [DP_NO_MEMORY] = DIPPER_MODEL_NO_MEMORY,
                              [DP_UNSUPPORTED] = DIPPER_MODEL_UNSUPPORTED, [DP_CANCELLED] = DIPPER_MODEL_OK, [DP_BUG] = DIPPER_MODEL_BUG};
  return (size_t)code < sizeof codes / sizeof *codes ? codes[code] : DIPPER_MODEL_BUG;
}

/* Keeps the status; what it says as a code. */
static int end(dipper_model *m, dp_status status) {
  dp_status_free(&m->failure);
  m->failure = status;
  return code_of(status.code);
}

static dp_status failure(dp_code code, const char *text) { return (dp_status){code, strdup(text)}; }

static int wrong(dipper_model *m, const char *text) { return end(m, failure(DP_INVALID, text)); }

static int too_small(dipper_model *m) {
  end(m, failure(DP_INVALID, "the array is too small: its size is told in the last argument"));
  return DIPPER_MODEL_TOO_SMALL;
}

/* An error message where the call cannot be carried out at all. */
#define NEED(m, condition, text)                                                                                       \
  do {                                                                                                                 \
    if (!(m)) return DIPPER_MODEL_INVALID;                                                                             \
    if (!(m)->model) return code_of((m)->failure.code ? (m)->failure.code : DP_INVALID); /* why it did not open */     \
    if (!(condition)) return wrong((m), (text));                                                                       \
  } while (0)

/* ---- life */

int dipper_model_open(const char *weights, int32_t threads, int64_t context, dipper_model **model) {
  return dipper_model_open_on(NULL, weights, threads, context, model);
}

int dipper_model_open_on(const char *device, const char *weights, int32_t threads, int64_t context, dipper_model **model) {
  if (!model) return DIPPER_MODEL_INVALID;
  dipper_model *m = *model = calloc(1, sizeof *m);
  Dl_info self;
  if (!m) return DIPPER_MODEL_NO_MEMORY;
  if (threads < 0 || threads > 1024 || context < 0) return wrong(m, "threads must be 0 to 1024, a context 0 or more");
  if (!dladdr((void *)dipper_model_open, &self) || !self.dli_fname)
    return end(m, failure(DP_NOT_FOUND, "the library's own file is not known"));
  dp_options options = {.device = device, .weights = weights, .threads = threads, .context = context};
  dp_status status = dp_model_open_package(self.dli_fname, NULL, &options, &m->model);
  if (status.code == DP_OK) status = dp_session_new(m->model, &m->session);
  if (status.code == DP_OK) {
    m->info = dp_model_get_info(m->model);
  } else {
    dp_model_free(m->model);
    m->model = NULL;
  }
  return end(m, status);
}

const char *dipper_model_device(const dipper_model *m) { return m && m->model ? m->info.device : ""; }

void dipper_model_close(dipper_model *m) {
  if (!m) return;
  dp_session_free(m->session);
  dp_model_free(m->model);
  dp_status_free(&m->failure);
  free(m);
}

const char *dipper_model_error(const dipper_model *m) {
  if (!m) return "there is no model";
  return m->failure.code == DP_OK ? "" : dp_status_text(&m->failure);
}

int dipper_model_get_sizes(const dipper_model *m, dipper_model_sizes *sizes) {
  if (!m || !m->model || !sizes) return DIPPER_MODEL_INVALID;
  *sizes = (dipper_model_sizes){.vocabulary = m->info.vocabulary, .columns = m->info.columns, .context = m->info.context,
                                .step_tokens = m->info.step_tokens, .threads = m->info.threads,
                                .has_tokenizer = m->info.has_tokenizer, .has_chat_template = m->info.has_chat_template};
  return DIPPER_MODEL_OK;
}

/* ---- tokens in, logits out */

static void copy_rows(const dp_logits *from, int64_t columns, float *to) {
  for (int64_t r = 0; r < from->rows; r++) memcpy(to + r * columns, from->data + r * from->stride, (size_t)columns * sizeof *to);
}

static int feed(dipper_model *m, const int32_t *ids, size_t count, dp_want want, float *logits) {
  NEED(m, ids && count > 0, "no tokens were given");
  int64_t length = dp_session_length(m->session), step = m->info.step_tokens;
  if (count > (uint64_t)(m->info.context - length)) return wrong(m, "the context is full: truncate, or open with a larger one");
  for (size_t i = 0; i < count; i++) /* before anything is fed */
    if (ids[i] < 0 || ids[i] >= m->info.vocabulary) return wrong(m, "a token id is not below the vocabulary's size");
  dp_status status = ((dp_status){DP_OK, NULL});
  for (size_t at = 0, n; status.code == DP_OK && at < count; at += n) {
    n = count - at < (size_t)step ? count - at : (size_t)step;
    dp_want wanted = want == DP_WANT_LAST && at + n < count ? DP_WANT_NONE : want;
    dp_logits rows;
    status = dp_session_feed(m->session, ids + at, n, wanted, &rows);
    if (status.code != DP_OK || wanted == DP_WANT_NONE) continue;
    copy_rows(&rows, m->info.columns, want == DP_WANT_ALL ? logits + (int64_t)at * m->info.columns : logits);
  }
  if (status.code != DP_OK) dp_session_truncate(m->session, length);
  return end(m, status);
}

int dipper_model_feed(dipper_model *m, const int32_t *ids, size_t count, float *logits) {
  return feed(m, ids, count, logits ? DP_WANT_LAST : DP_WANT_NONE, logits);
}

int dipper_model_feed_all(dipper_model *m, const int32_t *ids, size_t count, float *logits) {
  NEED(m, logits, "there is no array for the logits");
  return feed(m, ids, count, DP_WANT_ALL, logits);
}

int64_t dipper_model_length(const dipper_model *m) { return m && m->session ? dp_session_length(m->session) : 0; }

int dipper_model_truncate(dipper_model *m, int64_t length) {
  NEED(m, length >= 0 && length <= dp_session_length(m->session), "a length must be 0 to that of the sequence");
  dp_session_truncate(m->session, length);
  return end(m, ((dp_status){DP_OK, NULL}));
}

/* ---- text */

static int give_text(dipper_model *m, dp_status status, dp_text *made, char *text, size_t capacity, size_t *length) {
  if (status.code != DP_OK) return end(m, status);
  *length = made->length;
  bool fits = made->length <= capacity;
  if (fits && made->length) memcpy(text, made->text, made->length);
  dp_text_free(made);
  return fits ? end(m, ((dp_status){DP_OK, NULL})) : too_small(m);
}

int dipper_model_tokenize(dipper_model *m, const char *text, size_t length, int special, int32_t *ids, size_t capacity,
                          size_t *count) {
  NEED(m, (text || !length) && count && (ids || !capacity), "an argument is NULL");
  dp_tokens made = {0};
  dp_status status = dp_tokenize(m->model, text ? text : "", length, special != 0, &made);
  if (status.code != DP_OK) return end(m, status);
  *count = made.count;
  bool fits = made.count <= capacity;
  if (fits && made.count) memcpy(ids, made.ids, made.count * sizeof *ids);
  dp_tokens_free(&made);
  return fits ? end(m, ((dp_status){DP_OK, NULL})) : too_small(m);
}

int dipper_model_detokenize(dipper_model *m, const int32_t *ids, size_t count, char *text, size_t capacity, size_t *length) {
  NEED(m, (ids || !count) && length && (text || !capacity), "an argument is NULL");
  dp_text made = {0};
  return give_text(m, dp_detokenize(m->model, ids, count, true, &made), &made, text, capacity, length);
}

int dipper_model_render_chat(dipper_model *m, const char *const *roles, const char *const *messages, size_t count, char *text,
                             size_t capacity, size_t *length) {
  NEED(m, roles && messages && count > 0 && count < 1 << 20 && length && (text || !capacity), "an argument is NULL, or there are no messages");
  dp_message *list = calloc(count, sizeof *list);
  dp_text made = {0};
  if (!list) return end(m, failure(DP_NO_MEMORY, "no memory for a conversation"));
  for (size_t i = 0; i < count; i++) {
    list[i] = (dp_message){roles[i], messages[i]};
    if (roles[i] && messages[i]) continue;
    free(list);
    return wrong(m, "a message or its role is NULL");
  }
  dp_status status = dp_render_chat(m->model, list, (int)count, &made);
  free(list);
  return give_text(m, status, &made, text, capacity, length);
}

/* ---- generation */

typedef struct listener {
  int (*on_text)(void *user, const char *text, size_t length);
  void *user;
} listener;

static bool pass_text(void *user, const char *text, size_t length) {
  const listener *l = user;
  return l->on_text(l->user, text, length) != 0;
}

int dipper_model_generate(dipper_model *m, const int32_t *prompt, size_t count, int64_t max_tokens,
                          const dipper_model_sampling *sampling, int (*on_text)(void *user, const char *text, size_t length),
                          void *user, int64_t *made) {
  NEED(m, prompt && count > 0, "the prompt is empty");
  listener l = {on_text, user};
  dp_generation generation = {.max_tokens = max_tokens, .on_text = on_text ? pass_text : NULL, .user = &l};
  if (sampling) {
    generation.temperature = sampling->temperature;
    generation.top_k = sampling->top_k;
    generation.top_p = sampling->top_p;
    generation.min_p = sampling->min_p;
    generation.seed = sampling->seed;
  }
  dp_generation_stats stats = {0};
  dp_status status = dp_generate(m->session, prompt, count, &generation, &stats);
  if (made) *made = stats.new_tokens;
  return end(m, status);
}
