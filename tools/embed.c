/* tools/embed.c: `dipper embed`: texts to vectors. */
#include "tools/cli.h"

#include <stdlib.h>
#include <string.h>

enum { TOGETHER = 4096 };

typedef struct lines {
  const char **texts;
  size_t *lengths;
  size_t count;
} lines;

/* One text a line; an empty line is an empty text, but for the one behind the last '\n'. */
static bool cut(const dp_str *input, lines *out) {
  size_t most = 1;
  for (size_t i = 0; i < input->length; i++) most += input->text[i] == '\n';
  out->texts = calloc(most, sizeof *out->texts);
  out->lengths = calloc(most, sizeof *out->lengths);
  if (!out->texts || !out->lengths) return false;
  for (size_t at = 0; at < input->length;) {
    const char *text = input->text + at, *end = memchr(text, '\n', input->length - at);
    size_t n = end ? (size_t)(end - text) : input->length - at;
    out->texts[out->count] = text;
    out->lengths[out->count++] = n && text[n - 1] == '\r' ? n - 1 : n;
    at += n + 1;
  }
  return true;
}

static void print_rows(const float *rows, size_t count, size_t columns, bool json) {
  dp_str out = {0};
  for (size_t r = 0; r < count; r++) {
    if (json) dp_str_add(&out, r ? ",\n [" : "[[");
    for (size_t c = 0; c < columns; c++)
      dp_str_addf(&out, "%s%.9g", c == 0 ? "" : json ? "," : " ", (double)rows[r * columns + c]);
    dp_str_add(&out, json ? "]" : "\n");
  }
  if (json) dp_str_add(&out, count ? "]\n" : "[]\n");
  if (out.text) cli_write(out.text, out.length);
  dp_str_free(&out);
}

static int write_rows(const char *path, const float *rows, size_t count, size_t columns) {
  dp_str out = {0};
  cli_npy_header((int64_t)count, (int64_t)columns, &out);
  dp_str_addn(&out, (const char *)rows, count * columns * sizeof *rows);
  int code = out.failed ? cli_complain("no memory to write '%s'", path)
                        : cli_write_file(path, &(dp_text){out.text, out.length});
  dp_str_free(&out);
  return code;
}

static dp_status embed(const cli_args *args, const lines *texts, int *code) {
  dp_model *model;
  dp_options options = args->model;
  if (!options.context) options.context = TOGETHER; /* of all texts in a step */
  dp_status status = dp_model_open(&options, &model);
  if (status.code != DP_OK) return status;
  size_t columns = (size_t)dp_model_get_info(model).columns;
  float *rows = calloc(texts->count * columns + 1, sizeof *rows);
  status = rows ? DP_SUCCESS : (dp_status){DP_NO_MEMORY, NULL};
  size_t step = args->together ? (size_t)args->together : texts->count;
  for (size_t at = 0; status.code == DP_OK && at < texts->count; at += step) {
    size_t count = texts->count - at < step ? texts->count - at : step;
    status = dp_embed(model, texts->texts + at, texts->lengths + at, count, rows + at * columns);
  }
  if (status.code == DP_OK && args->out) *code = write_rows(args->out, rows, texts->count, columns);
  else if (status.code == DP_OK) print_rows(rows, texts->count, columns, args->json);
  free(rows);
  dp_model_free(model);
  return status;
}

int cli_embed(const cli_args *args) {
  dp_str input = {0};
  lines texts = {0};
  dp_status status = DP_SUCCESS;
  if (args->positional_count > 1) dp_str_add(&input, args->positional[1]);
  else status = cli_read_stdin(&input);
  if (status.code == DP_OK && !cut(&input, &texts)) status = (dp_status){DP_NO_MEMORY, NULL};
  int code = CLI_OK;
  if (status.code == DP_OK) status = embed(args, &texts, &code);
  free(texts.texts);
  free(texts.lengths);
  dp_str_free(&input);
  return status.code == DP_OK ? code : cli_fail(status);
}
