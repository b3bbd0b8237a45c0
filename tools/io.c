/* tools/io.c: what goes in and out of a command: errors and output as every command prints them, standard input, files,
 * token ids. A closed stdout ends a command quietly; any other failure to write is told once, at the end. */
#include "tools/cli.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

bool cli_color(int fd) {
  const char *off = getenv("NO_COLOR"), *terminal = getenv("TERM");
  return isatty(fd) && !(off && *off) && !(terminal && strcmp(terminal, "dumb") == 0);
}

/* ---- errors */

static void print_error(const char *text) {
  fprintf(stderr, cli_color(2) ? "\033[1mdipper: \033[31merror:\033[0m %s\n" : "dipper: error: %s\n", text);
}

int cli_fail(dp_status status) {
  static const char *const placeless[] = {"error: ", "\033[1;31m"};
  const char *text = dp_status_text(&status);
  size_t length = strlen(text);
  bool rendered = length > 0 && text[length - 1] == '\n'; /* diagnostics: whole lines that name their own places */
  if (!rendered) print_error(text);
  for (size_t i = 0; rendered && i < DP_COUNT(placeless); i++)
    if (strncmp(text, placeless[i], strlen(placeless[i])) == 0) fputs("dipper: ", stderr);
  if (rendered) fputs(text, stderr);
  dp_status_free(&status);
  return CLI_FAILURE;
}

static void complain(const char *fmt, va_list args) {
  dp_str message = {0};
  dp_str_addv(&message, fmt, args);
  print_error(message.text ? message.text : "out of memory");
  dp_str_free(&message);
}

int cli_complain(const char *fmt, ...) {
  va_list args;
  va_start(args, fmt);
  complain(fmt, args);
  va_end(args);
  return CLI_FAILURE;
}

int cli_usage(const char *command, const char *fmt, ...) {
  va_list args;
  va_start(args, fmt);
  complain(fmt, args);
  va_end(args);
  fprintf(stderr, command ? "Try 'dipper %s --help'.\n" : "Try 'dipper help'.\n", command);
  return CLI_USAGE;
}

/* ---- output */

void cli_note(const dp_model *model, bool always) {
  const char *note = dp_model_get_info(model).note;
  if (note && (always || isatty(2))) fprintf(stderr, "dipper: note: %s\n", note);
}

static int write_error; /* errno of the first write that failed: stdio forgets it */

static bool note_write(bool good) {
  if (!good && !write_error) write_error = errno ? errno : EIO;
  return good;
}

bool cli_write(const char *text, size_t length) { return note_write(fwrite(text, 1, length, stdout) == length); }

bool cli_write_now(const char *text, size_t length) {
  return cli_write(text, length) && note_write(fflush(stdout) == 0);
}

int cli_flush(void) {
  errno = 0;
  note_write(fflush(stdout) == 0 && !ferror(stdout));
  if (!write_error) return CLI_OK;
  return write_error == EPIPE ? CLI_FAILURE : cli_complain("cannot write the output: %s", strerror(write_error));
}

static bool is_special(const char *path) {
  struct stat info;
  return stat(path, &info) == 0 && !S_ISREG(info.st_mode);
}

int cli_write_file(const char *path, const dp_text *text) {
  if (!is_special(path)) {
    dp_status status = dp_write_file_atomic(path, text->text, text->length);
    return status.code == DP_OK ? CLI_OK : cli_fail(status);
  }
  /* A device, a pipe, a directory: written to as it is, never replaced. */
  FILE *file = fopen(path, "wb");
  bool written = file && fwrite(text->text, 1, text->length, file) == text->length;
  int reason = errno;
  if (file && fclose(file) != 0 && written) {
    written = false;
    reason = errno;
  }
  return written ? CLI_OK : cli_complain("cannot write '%s': %s", path, strerror(reason));
}

void cli_remove_partial(const char *path) {
  if (!is_special(path)) remove(path);
}

/* ---- input */

dp_status cli_read_stdin(dp_str *text) {
  char buffer[65536];
  for (size_t n = sizeof buffer; n == sizeof buffer;) {
    n = fread(buffer, 1, sizeof buffer, stdin);
    dp_str_addn(text, buffer, n);
  }
  if (!ferror(stdin) && !text->failed) return (dp_status){DP_OK, NULL};
  dp_str reason = {0};
  dp_str_addf(&reason, "cannot read standard input: %s", text->failed ? "no memory" : strerror(errno));
  return (dp_status){DP_IO, reason.text};
}

int cli_parse_ids(const char *text, int32_t **ids, size_t *count) {
  static const char between[] = ", \t\r\n[]";
  *count = 0;
  *ids = malloc((strlen(text) / 2 + 1) * sizeof **ids); /* an id and what ends it take two bytes at least */
  if (!*ids) return cli_complain("no memory for the token ids");
  for (const char *at = text + strspn(text, between); *at; at += strspn(at, between)) {
    char *end;
    errno = 0;
    long id = strtol(at, &end, 10);
    if (end == at || errno || id < 0 || id > INT32_MAX || !strchr(between, *end)) {
      int code = cli_complain("not a token id: '%.*s'", (int)strcspn(at, between), at);
      free(*ids);
      *ids = NULL;
      return code;
    }
    (*ids)[(*count)++] = (int32_t)id;
    at = end;
  }
  return CLI_OK;
}

/* Not getrusage's: that starts from what the program that started this one had. */
int64_t cli_peak_bytes(void) {
  FILE *file = fopen("/proc/self/status", "r");
  long long kib = 0;
  char line[256];
  while (file && fgets(line, sizeof line, file))
    if (sscanf(line, "VmHWM: %lld kB", &kib) == 1) break;
  if (file) fclose(file);
  return kib * 1024;
}

void cli_npy_header(int64_t rows, int64_t columns, dp_str *out) {
  enum { PREAMBLE = 10, ALIGNMENT = 64 };
  dp_str shape = {0};
  dp_str_addf(&shape, "{'descr': '<f4', 'fortran_order': False, 'shape': (%lld, %lld), }", (long long)rows,
              (long long)columns);
  size_t padded = (PREAMBLE + shape.length + 1 + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT - PREAMBLE;
  const char preamble[PREAMBLE] = {(char)0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0, (char)(padded & 255), (char)(padded >> 8)};
  dp_str_addn(out, preamble, PREAMBLE);
  if (shape.text) dp_str_addn(out, shape.text, shape.length);
  for (size_t i = shape.length; i + 1 < padded; i++) dp_str_addc(out, ' ');
  dp_str_addc(out, '\n');
  out->failed = out->failed || shape.failed;
  dp_str_free(&shape);
}
