/* tools/run.c: `dipper run`: a prompt answered, or a conversation. Ctrl-C stops the answer; in a conversation only
 * that. */
#include "tools/cli.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static volatile sig_atomic_t interrupted;
static void on_interrupt(int signal_number) {
  (void)signal_number;
  interrupted = 1;
}

static void catch_interrupts(void) {
  struct sigaction action = {.sa_handler = on_interrupt}; /* no SA_RESTART: a read at the prompt ends too */
  sigaction(SIGINT, &action, NULL);
}

static bool not_interrupted(void *user) {
  (void)user;
  return !interrupted;
}

static bool print_text(void *user, const char *text, size_t length) {
  bool *lost = user;
  *lost = !cli_write_now(text, length);
  return !*lost;
}

static double rate(int64_t count, double seconds) { return seconds > 0 ? (double)count / seconds : 0; }

static void print_stats(const dp_model_info *info, const dp_generation_stats *stats, bool json) {
  double prefill = rate(stats->prompt_tokens, stats->prefill_s);
  double decode = rate(stats->new_tokens > 0 ? stats->new_tokens - 1 : 0, stats->decode_s);
  bool gpu = strcmp(info->device, "cpu") != 0;
  if (json)
    fprintf(stderr,
            "{\"load_s\":%.4f,\"compile_s\":%.4f,\"compiled\":%s,\"prompt_tokens\":%lld,\"prefill_tok_s\":%.1f,"
            "\"new_tokens\":%lld,\"decode_tok_s\":%.1f,\"peak_rss_mib\":%.1f,\"device\":\"%s\"}\n",
            info->load_s, info->compile_s, info->compiled ? "true" : "false", (long long)stats->prompt_tokens, prefill,
            (long long)stats->new_tokens, decode, (double)cli_peak_bytes() / (1 << 20), info->device);
  else
    fprintf(stderr,
            "load %.0f ms, compile %.0f ms%s, prefill %lld tokens at %.0f tok/s, decode %lld tokens at %.0f tok/s, "
            "peak memory %.0f MiB%s%s\n",
            info->load_s * 1e3, info->compile_s * 1e3, info->compiled ? "" : " (cached)",
            (long long)stats->prompt_tokens, prefill, (long long)stats->new_tokens, decode, (double)cli_peak_bytes() / (1 << 20),
            gpu ? ", on " : "", gpu ? info->device : "");
}

/* An answer that the context cut off should not look like one that the model ended. */
static void tell_of_full_context(const cli_args *args, const dp_model_info *info, const dp_generation_stats *stats) {
  if (stats->stopped || stats->finished || stats->new_tokens == 0 || stats->new_tokens == args->count) return;
  fprintf(stderr, "dipper: note: the context of %lld tokens is full\n", (long long)info->context);
}

static dp_generation generation_of(const cli_args *args, bool *lost) {
  return (dp_generation){.max_tokens = args->count,
                         .temperature = (float)args->temperature,
                         .top_k = (int)args->top_k,
                         .top_p = (float)args->top_p,
                         .min_p = (float)args->min_p,
                         .seed = (uint64_t)args->seed,
                         .on_text = print_text,
                         .go_on = not_interrupted,
                         .user = lost};
}

/* ---- one prompt */

dp_status cli_prompt_tokens(const cli_args *args, const dp_model *model, const char *prompt, size_t length,
                            dp_tokens *tokens) {
  if (args->raw || !dp_model_get_info(model).has_chat_template)
    return dp_tokenize(model, prompt, length, false, tokens);
  dp_text rendered = {0};
  dp_str text = {0}; /* a message ends at a NUL, so what follows one would be lost: shown as what it is */
  for (size_t i = 0; i < length; i++) {
    if (prompt[i])
      dp_str_addc(&text, prompt[i]);
    else
      dp_str_add(&text, "\xef\xbf\xbd");
  }
  if (!args->prompt && text.length && text.text[text.length - 1] == '\n') text.text[--text.length] = '\0';
  dp_message message = {"user", text.text ? text.text : ""};
  dp_status status = dp_render_chat(model, &message, 1, &rendered);
  dp_str_free(&text);
  if (status.code == DP_OK) status = dp_tokenize(model, rendered.text, rendered.length, true, tokens);
  dp_text_free(&rendered);
  return status;
}

static int answer(const cli_args *args, dp_model *model, const char *prompt, size_t length) {
  dp_tokens tokens = {0};
  dp_session *session = NULL;
  dp_generation_stats stats = {0};
  bool lost = false;
  dp_generation generation = generation_of(args, &lost);
  dp_status status = cli_prompt_tokens(args, model, prompt, length, &tokens);
  if (status.code == DP_OK) status = dp_session_new(model, &session);
  if (status.code == DP_OK) status = dp_generate(session, tokens.ids, tokens.count, &generation, &stats);
  dp_session_free(session);
  dp_tokens_free(&tokens);
  if (status.code != DP_OK) return cli_fail(status);
  if (stats.new_tokens > 0 && !lost) lost = !cli_write_now("\n", 1);
  dp_model_info info = dp_model_get_info(model);
  tell_of_full_context(args, &info, &stats);
  if (args->stats || args->json || isatty(2)) print_stats(&info, &stats, args->json);
  if (interrupted) return CLI_INTERRUPTED;
  return lost ? CLI_FAILURE : CLI_OK;
}

/* ---- a conversation: the history stays in the KV cache; each turn feeds only what the template added */

typedef struct conversation {
  dp_model *model;
  dp_session *session;
  dp_message *messages;
  int count;
  int32_t *fed; /* ids in the cache */
  size_t fed_count;
  dp_str answer;
  bool lost;
} conversation;

static bool remember_text(void *user, const char *text, size_t length) {
  conversation *c = user;
  dp_str_addn(&c->answer, text, length);
  return print_text(&c->lost, text, length);
}

static bool remember_token(void *user, int32_t id, double log_probability) {
  conversation *c = user;
  (void)log_probability;
  int32_t *more = realloc(c->fed, (c->fed_count + 1) * sizeof *more);
  if (!more) return false;
  c->fed = more;
  c->fed[c->fed_count++] = id;
  return true;
}

static bool add_message(conversation *c, const char *role, const char *content) {
  dp_message *more = realloc(c->messages, ((size_t)c->count + 1) * sizeof *more);
  char *copy = strdup(content);
  if (more) c->messages = more;
  if (!more || !copy) {
    free(copy);
    return false;
  }
  c->messages[c->count++] = (dp_message){role, copy};
  return true;
}

static void drop_messages(conversation *c, int keep) {
  while (c->count > keep) free((char *)(uintptr_t)c->messages[--c->count].content);
}

static void reset(conversation *c) {
  drop_messages(c, 0);
  c->fed_count = 0;
  dp_session_truncate(c->session, 0);
}

/* Feeds what is new of the rendered conversation: the cache keeps the longest prefix that is still the same. */
static dp_status turn(conversation *c, const dp_generation *generation, dp_generation_stats *stats) {
  dp_text rendered = {0};
  dp_tokens tokens = {0};
  dp_status status = dp_render_chat(c->model, c->messages, c->count, &rendered);
  if (status.code == DP_OK) status = dp_tokenize(c->model, rendered.text, rendered.length, true, &tokens);
  dp_text_free(&rendered);
  if (status.code != DP_OK) return status;
  size_t same = 0, cached = (size_t)dp_session_length(c->session);
  if (cached > c->fed_count) cached = c->fed_count;
  while (same < cached && same + 1 < tokens.count && tokens.ids[same] == c->fed[same]) same++;
  dp_session_truncate(c->session, (int64_t)same);
  int32_t *more = realloc(c->fed, (tokens.count + 1) * sizeof *more);
  if (more) {
    c->fed = more;
    memcpy(c->fed, tokens.ids, tokens.count * sizeof *c->fed);
    c->fed_count = tokens.count;
    status = dp_generate(c->session, tokens.ids + same, tokens.count - same, generation, stats);
  } else {
    status = (dp_status){DP_NO_MEMORY, NULL};
  }
  dp_tokens_free(&tokens);
  return status;
}

static int converse(const cli_args *args, dp_model *model) {
  conversation c = {.model = model};
  dp_model_info info = dp_model_get_info(model);
  if (!info.has_chat_template) return cli_complain("the weights bring no chat template: use -p");
  dp_status status = dp_session_new(model, &c.session);
  if (status.code != DP_OK) return cli_fail(status);
  dp_generation generation = generation_of(args, &c.lost);
  generation.on_text = remember_text;
  generation.on_token = remember_token;
  generation.user = &c;
  bool terminal = isatty(0), color = cli_color(2);
  if (terminal) fputs("Ctrl-C stops an answer, /reset starts over, /exit or Ctrl-D ends.\n", stderr);
  char *line = NULL;
  size_t capacity = 0;
  while (!c.lost) {
    interrupted = 0;
    if (terminal) fputs(color ? "\033[1;32m> \033[0m" : "> ", stderr);
    errno = 0;
    ssize_t n = getline(&line, &capacity, stdin);
    if (n < 0 && interrupted) { /* Ctrl-C at the prompt: a fresh line */
      clearerr(stdin);
      fputc('\n', stderr);
      continue;
    }
    if (n < 0) break;
    while (n > 0 && (line[n - 1] == '\n' || line[n - 1] == '\r')) line[--n] = '\0';
    if (n == 0) continue;
    if (strcmp(line, "/exit") == 0) break;
    if (strcmp(line, "/reset") == 0) {
      reset(&c);
      continue;
    }
    if (!add_message(&c, "user", line)) break;
    dp_str_clear(&c.answer);
    dp_generation_stats stats = {0};
    status = turn(&c, &generation, &stats);
    if (status.code != DP_OK) { /* the conversation goes on without this message */
      cli_fail(status);
      fputs("The message was left out. /reset starts over.\n", stderr);
      drop_messages(&c, c.count - 1);
      continue;
    }
    if (!c.lost) c.lost = !cli_write_now("\n", 1);
    if (!add_message(&c, "assistant", c.answer.text ? c.answer.text : "")) break;
    tell_of_full_context(args, &info, &stats);
    if (args->stats) print_stats(&info, &stats, args->json);
  }
  if (terminal) fputc('\n', stderr);
  free(line);
  drop_messages(&c, 0);
  free(c.messages);
  free(c.fed);
  dp_str_free(&c.answer);
  dp_session_free(c.session);
  return c.lost ? CLI_FAILURE : CLI_OK;
}

int cli_run(const cli_args *args) { return cli_run_model(args, dp_model_open); }

int cli_run_model(const cli_args *args, cli_open *open) {
  dp_str piped = {0};
  dp_model *model = NULL;
  if (args->chat && args->prompt) return cli_usage("run", "-p and --chat exclude each other");
  if (args->chat && args->raw) return cli_usage("run", "--raw and --chat exclude each other");
  if (!args->chat && !args->prompt) {
    if (isatty(0)) return cli_usage("run", "no prompt: give -p, --chat, or pipe a text in");
    dp_status status = cli_read_stdin(&piped);
    if (status.code != DP_OK) {
      dp_str_free(&piped);
      return cli_fail(status);
    }
  }
  dp_status status = open(&args->model, &model);
  if (status.code != DP_OK) {
    dp_str_free(&piped);
    return cli_fail(status);
  }
  cli_note(model, args->stats || args->model.device);
  catch_interrupts();
  const char *prompt = args->prompt ? args->prompt : piped.text ? piped.text : "";
  int code =
      args->chat ? converse(args, model) : answer(args, model, prompt, args->prompt ? strlen(prompt) : piped.length);
  dp_model_free(model);
  dp_str_free(&piped);
  return code;
}
