/* base/status.c: results by value, and the string they and everyone else build messages with. */
#include "base/base.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char *format(const char *fmt, va_list args) {
  dp_str s = {0};
  dp_str_addv(&s, fmt, args);
  return s.text;
}

dp_status dp_fail(dp_code code, const char *fmt, ...) {
  va_list args;
  va_start(args, fmt);
  dp_status status = {code, format(fmt, args)};
  va_end(args);
  return status;
}

dp_status dp_bug(const char *file, int line, const char *cond, const char *fmt, ...) {
  va_list args;
  va_start(args, fmt);
  char *detail = format(fmt, args);
  va_end(args);
  dp_status status = dp_fail(DP_BUG, "internal error at %s:%d: %s (expected %s); please report it", file, line,
                             detail ? detail : "", cond);
  free(detail);
  return status;
}

void dp_status_free(dp_status *status) {
  free(status->message);
  *status = DP_SUCCESS;
}

const char *dp_status_text(const dp_status *status) {
  if (status->message) return status->message;
  return status->code == DP_OK ? "success" : "out of memory";
}

static bool reserve(dp_str *s, size_t extra) {
  if (s->failed) return false;
  size_t need = s->length + extra + 1;
  if (need <= s->capacity) return true;
  size_t capacity = s->capacity ? s->capacity * 2 : 64;
  while (capacity < need) capacity *= 2;
  char *text = realloc(s->text, capacity);
  if (!text) {
    s->failed = true;
    return false;
  }
  s->text = text;
  s->capacity = capacity;
  return true;
}

void dp_str_addn(dp_str *s, const char *text, size_t n) {
  if (!reserve(s, n)) return;
  if (n) memcpy(s->text + s->length, text, n);
  s->length += n;
  s->text[s->length] = '\0';
}

void dp_str_add(dp_str *s, const char *text) { dp_str_addn(s, text, strlen(text)); }
void dp_str_addc(dp_str *s, char c) { dp_str_addn(s, &c, 1); }

void dp_str_addv(dp_str *s, const char *fmt, va_list args) {
  va_list again;
  va_copy(again, args);
  int n = vsnprintf(NULL, 0, fmt, args);
  if (n >= 0 && reserve(s, (size_t)n)) {
    vsnprintf(s->text + s->length, (size_t)n + 1, fmt, again);
    s->length += (size_t)n;
  }
  va_end(again);
}

void dp_str_addf(dp_str *s, const char *fmt, ...) {
  va_list args;
  va_start(args, fmt);
  dp_str_addv(s, fmt, args);
  va_end(args);
}

void dp_str_clear(dp_str *s) {
  s->length = 0;
  if (s->text) s->text[0] = '\0';
}

void dp_str_free(dp_str *s) {
  free(s->text);
  *s = (dp_str){0};
}
