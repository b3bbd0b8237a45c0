/* tools/figures.c: `dipper logits`, `eval`, `bench`: numbers for anyone to compare. */
#include "tools/cli.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* A list of ids, or "@FILE" with one in it. */
int cli_read_ids(const char *list, int32_t **ids, size_t *count) {
  char *text = NULL;
  if (list[0] == '@') {
    size_t length;
    dp_status status = dp_read_file(list + 1, &text, &length);
    if (status.code != DP_OK) return cli_fail(status);
    list = text;
  }
  int code = cli_parse_ids(list, ids, count);
  free(text);
  if (code != CLI_OK || *count > 0) return code;
  free(*ids);
  return cli_complain("--tokens: no token ids");
}

/* ---- logits */

static int write_logits(const cli_args *args, dp_session *session, const int32_t *ids, size_t count, int64_t columns,
                        int64_t step) {
  FILE *file = fopen(args->out, "wb");
  if (!file) return cli_complain("cannot write '%s': %s", args->out, strerror(errno));
  dp_str header = {0};
  cli_npy_header((int64_t)count, columns, &header);
  bool good = !header.failed && fwrite(header.text, 1, header.length, file) == header.length;
  dp_str_free(&header);
  dp_status status = {DP_OK, NULL};
  for (size_t at = 0; at < count && good && status.code == DP_OK; at += (size_t)step) {
    size_t some = count - at < (size_t)step ? count - at : (size_t)step;
    dp_logits logits;
    status = dp_session_feed(session, ids + at, some, DP_WANT_ALL, &logits);
    for (int64_t r = 0; status.code == DP_OK && good && r < logits.rows; r++)
      good = fwrite(logits.data + r * logits.stride, sizeof(float), (size_t)columns, file) == (size_t)columns;
  }
  int reason = errno;
  if (fclose(file) != 0 && good) {
    good = false;
    reason = errno;
  }
  if (status.code != DP_OK || !good) cli_remove_partial(args->out);
  if (status.code != DP_OK) return cli_fail(status);
  return good ? CLI_OK : cli_complain("cannot write '%s': %s", args->out, strerror(reason));
}

int cli_logits(const cli_args *args) { return cli_logits_model(args, dp_model_open); }

int cli_logits_model(const cli_args *args, cli_open *open) {
  int32_t *ids = NULL;
  size_t count = 0;
  int code = cli_read_ids(args->tokens, &ids, &count);
  if (code != CLI_OK) return code;
  dp_options options = args->model;
  int64_t step = args->chunk ? args->chunk : 128;
  options.step_tokens = step < 512 ? step : 512;
  if (step > options.step_tokens) step = options.step_tokens;
  dp_model *model = NULL;
  dp_session *session = NULL;
  dp_status status = open(&options, &model);
  if (status.code == DP_OK && options.device) cli_note(model, true);
  if (status.code == DP_OK) status = dp_session_new(model, &session);
  if (status.code == DP_OK) {
    dp_model_info info = dp_model_get_info(model);
    if ((int64_t)count > info.context)
      code = cli_complain("%zu tokens do not fit the context of %lld; give a larger --ctx", count,
                          (long long)info.context);
    for (size_t i = 0; code == CLI_OK && i < count; i++)
      if (ids[i] < 0 || ids[i] >= info.vocabulary)
        code = cli_complain("token id %d is out of range: the vocabulary has %lld tokens", (int)ids[i],
                            (long long)info.vocabulary);
    if (code == CLI_OK) code = write_logits(args, session, ids, count, info.columns, step);
  } else {
    code = cli_fail(status);
  }
  dp_session_free(session);
  dp_model_free(model);
  free(ids);
  return code;
}

/* ---- perplexity */

int cli_eval(const cli_args *args) {
  char *text;
  size_t length;
  dp_status status = dp_read_file(args->perplexity, &text, &length);
  if (status.code != DP_OK) return cli_fail(status);
  dp_model *model = NULL;
  dp_tokens tokens = {0};
  double perplexity = 0;
  status = dp_model_open(&args->model, &model);
  if (status.code == DP_OK && args->model.device) cli_note(model, true);
  if (status.code == DP_OK) status = dp_tokenize(model, text, length, false, &tokens);
  if (status.code == DP_OK) status = dp_perplexity(model, tokens.ids, tokens.count, &perplexity);
  if (status.code == DP_OK)
    printf(args->json ? "{\"perplexity\":%.6f,\"tokens\":%zu}\n" : "perplexity %.4f over %zu tokens\n", perplexity,
           tokens.count);
  dp_tokens_free(&tokens);
  dp_model_free(model);
  free(text);
  return status.code == DP_OK ? CLI_OK : cli_fail(status);
}

/* ---- bench */

typedef struct measurement {
  double prefill, decode;
} measurement;

static dp_status measure(const cli_args *args, dp_model *model, measurement *m) {
  dp_model_info info = dp_model_get_info(model);
  dp_session *sessions[512] = {0};
  int32_t *prompt = malloc((size_t)args->prefill * sizeof *prompt), next[512];
  dp_part parts[512];
  dp_status status = {prompt ? DP_OK : DP_NO_MEMORY, NULL};
  for (int64_t i = 0; prompt && i < args->prefill; i++) prompt[i] = (int32_t)((i * 37 + 11) % info.vocabulary);
  for (int64_t s = 0; status.code == DP_OK && s < args->batch; s++) {
    status = dp_session_new(model, &sessions[s]);
    double begin = seconds();
    for (int64_t at = 0; status.code == DP_OK && at < args->prefill; at += info.step_tokens) {
      int64_t some = args->prefill - at < info.step_tokens ? args->prefill - at : info.step_tokens;
      status = dp_session_feed(sessions[s], prompt + at, (size_t)some,
                               at + some == args->prefill ? DP_WANT_LAST : DP_WANT_NONE, NULL);
    }
    if (s == 0) m->prefill = (double)args->prefill / (seconds() - begin);
  }
  double begin = seconds();
  for (int64_t i = 0; status.code == DP_OK && i < args->bench_decode; i++) {
    for (int64_t s = 0; s < args->batch; s++) {
      next[s] = (int32_t)((100 + i + s) % info.vocabulary);
      parts[s] = (dp_part){sessions[s], &next[s], 1, DP_WANT_LAST};
    }
    status = dp_feed_batch(parts, (int)args->batch, NULL);
  }
  m->decode = (double)(args->bench_decode * args->batch) / (seconds() - begin);
  for (int64_t s = 0; s < args->batch; s++) dp_session_free(sessions[s]);
  free(prompt);
  return status;
}

static int by_value(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static void print_list(const char *name, const double *values, int64_t count) {
  printf("\"%s\":[", name);
  for (int64_t i = 0; i < count; i++) printf("%s%.2f", i ? "," : "", values[i]);
  printf("],");
}

int cli_bench(const cli_args *args) {
  dp_options options = args->model;
  int64_t need = (args->prefill + args->bench_decode + 64) * args->batch;
  if (options.context == 0) options.context = need > 1024 ? need : 1024;
  dp_model *model = NULL;
  dp_status status = dp_model_open(&options, &model);
  if (status.code == DP_OK && options.device) cli_note(model, true);
  double prefill[1000], decode[1000];
  for (int64_t i = -1; status.code == DP_OK && i < args->repeat;
       i++) { /* the first pass warms memory and is not counted */
    measurement m = {0};
    status = measure(args, model, &m);
    if (i < 0) continue;
    prefill[i] = m.prefill;
    decode[i] = m.decode;
  }
  if (status.code != DP_OK) {
    dp_model_free(model);
    return cli_fail(status);
  }
  dp_model_info info = dp_model_get_info(model);
  if (args->json) {
    printf("{");
    print_list("prefill_tok_s", prefill, args->repeat);
    print_list("decode_tok_s", decode, args->repeat);
    printf("\"load_s\":%.4f,\"compile_s\":%.4f,\"compiled\":%s,\"threads\":%d,\"peak_rss_bytes\":%lld}\n", info.load_s,
           info.compile_s, info.compiled ? "true" : "false", info.threads, (long long)cli_peak_bytes());
  } else {
    qsort(prefill, (size_t)args->repeat, sizeof *prefill, by_value);
    qsort(decode, (size_t)args->repeat, sizeof *decode, by_value);
    printf("%d threads: prefill of %lld at %.1f tok/s (%.1f to %.1f), decode of %lld x %lld at %.1f tok/s (%.1f to "
           "%.1f), load %.0f ms, compile %.0f ms%s, peak memory %.0f MiB\n",
           info.threads, (long long)args->prefill, prefill[args->repeat / 2], prefill[0], prefill[args->repeat - 1],
           (long long)args->batch, (long long)args->bench_decode, decode[args->repeat / 2], decode[0],
           decode[args->repeat - 1], info.load_s * 1e3, info.compile_s * 1e3, info.compiled ? "" : " (cached)",
           (double)cli_peak_bytes() / (1 << 20));
  }
  dp_model_free(model);
  return CLI_OK;
}
