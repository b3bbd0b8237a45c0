/* tools/trace.c: `dipper trace`: a prompt and some tokens after it, as a timeline for Perfetto and a page of totals. */
#include "tools/cli.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DEFAULT_NEW_TOKENS = 16 };

static int tokens_of(const cli_args *args, const dp_model *model, dp_tokens *tokens) {
  if (args->tokens) return cli_read_ids(args->tokens, &tokens->ids, &tokens->count);
  const char *prompt = args->prompt ? args->prompt : "Why is the sky blue?";
  dp_status status = cli_prompt_tokens(args, model, prompt, strlen(prompt), tokens);
  return status.code == DP_OK ? CLI_OK : cli_fail(status);
}

/* What a graph computes that is no language model's cannot be sampled from: its tokens are fed, and that is all. */
static dp_status run_traced(const cli_args *args, dp_model *model, dp_session *session, const dp_tokens *tokens,
                            dp_trace **trace) {
  dp_model_info info = dp_model_get_info(model);
  dp_generation generation = {.max_tokens = args->count >= 0 ? args->count : DEFAULT_NEW_TOKENS};
  dp_status status = dp_trace_start(model, 0);
  if (status.code != DP_OK) return status;
  if (info.columns == info.vocabulary && generation.max_tokens > 0)
    status = dp_generate(session, tokens->ids, tokens->count, &generation, NULL);
  else
    for (size_t at = 0; status.code == DP_OK && at < tokens->count; at += (size_t)info.step_tokens) {
      size_t left = tokens->count - at, some = left < (size_t)info.step_tokens ? left : (size_t)info.step_tokens;
      status = dp_session_feed(session, tokens->ids + at, some, DP_WANT_LAST, NULL);
    }
  dp_status stopped = dp_trace_stop(model, trace);
  if (status.code == DP_OK) return stopped;
  dp_status_free(&stopped);
  return status;
}

static int write_trace(const cli_args *args, const dp_trace *trace) {
  dp_text json = {0}, summary = {0};
  dp_status status = dp_trace_json(trace, &json);
  if (status.code == DP_OK) status = dp_trace_summary(trace, &summary);
  int code = status.code == DP_OK ? cli_write_file(args->out, &json) : cli_fail(status);
  if (code == CLI_OK) {
    cli_write(summary.text, summary.length);
    printf("\n%s: a timeline, for ui.perfetto.dev\n", args->out);
  }
  dp_text_free(&json);
  dp_text_free(&summary);
  return code;
}

int cli_trace(const cli_args *args) {
  if (args->prompt && args->tokens) return cli_usage("trace", "-p and --tokens exclude each other");
  dp_model *model = NULL;
  dp_session *session = NULL;
  dp_trace *trace = NULL;
  dp_tokens tokens = {0};
  dp_status status = dp_model_open(&args->model, &model);
  if (status.code == DP_OK) status = dp_session_new(model, &session);
  int code = status.code == DP_OK ? tokens_of(args, model, &tokens) : cli_fail(status);
  if (code == CLI_OK) {
    status = run_traced(args, model, session, &tokens, &trace);
    code = status.code == DP_OK ? write_trace(args, trace) : cli_fail(status);
  }
  dp_trace_free(trace);
  dp_tokens_free(&tokens);
  dp_session_free(session);
  dp_model_free(model);
  return code;
}
