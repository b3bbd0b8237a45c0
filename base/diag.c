/* base/diag.c: diagnostics with places, rendered as clang does: the line, a caret range under it, notes after. */
#include "base/base.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

dp_diags *dp_diags_new(void) {
  dp_diags *diags = calloc(1, sizeof *diags);
  if (!diags) return NULL;
  diags->arena = dp_arena_new();
  if (!diags->arena) {
    free(diags);
    return NULL;
  }
  DP_PUSH(diags->arena, diags->sources, diags->source_count, diags->source_cap) = (dp_source){0};
  return diags;
}

void dp_diags_free(dp_diags *diags) {
  if (!diags) return;
  dp_arena_free(diags->arena);
  free(diags);
}

uint32_t dp_diags_add_source(dp_diags *diags, const char *path, const char *text, size_t length) {
  dp_source source = {dp_arena_strdup(diags->arena, path), dp_arena_strndup(diags->arena, text, length), length};
  DP_PUSH(diags->arena, diags->sources, diags->source_count, diags->source_cap) = source;
  return (uint32_t)(diags->source_count - 1);
}

static void add(dp_diags *diags, dp_severity severity, dp_loc loc, const char *fmt, va_list args) {
  dp_str message = {0};
  dp_str_addv(&message, fmt, args);
  dp_diag diag = {severity, loc, dp_arena_strdup(diags->arena, message.text ? message.text : "")};
  dp_str_free(&message);
  DP_PUSH(diags->arena, diags->items, diags->count, diags->cap) = diag;
  if (severity == DP_ERROR) diags->errors++;
}

void dp_error(dp_diags *diags, dp_loc loc, const char *fmt, ...) {
  va_list args;
  va_start(args, fmt);
  add(diags, DP_ERROR, loc, fmt, args);
  va_end(args);
}

void dp_warning(dp_diags *diags, dp_loc loc, const char *fmt, ...) {
  va_list args;
  va_start(args, fmt);
  add(diags, DP_WARNING, loc, fmt, args);
  va_end(args);
}

void dp_note(dp_diags *diags, dp_loc loc, const char *fmt, ...) {
  va_list args;
  va_start(args, fmt);
  add(diags, DP_NOTE, loc, fmt, args);
  va_end(args);
}

void dp_loc_position(const dp_diags *diags, dp_loc loc, int *line, int *col) {
  const dp_source *source = &diags->sources[loc.file];
  size_t at = loc.begin < source->length ? loc.begin : source->length;
  *line = 1;
  *col = 1;
  for (size_t i = 0; i < at; i++) {
    if (source->text[i] == '\n') {
      ++*line;
      *col = 1;
    } else {
      ++*col;
    }
  }
}

/* The caret line keeps the source line's tabs, so that it lines up at any tab width; control bytes show as '?'. */
static void render_line(const dp_source *source, dp_loc loc, dp_str *out, const char *green, const char *reset) {
  size_t at = loc.begin < source->length ? loc.begin : source->length;
  size_t begin = at, end = at;
  while (begin > 0 && source->text[begin - 1] != '\n') begin--;
  while (end < source->length && source->text[end] != '\n') end++;
  if (begin == end || at - begin > 400) return; /* nothing there, or a line no terminal shows whole */
  size_t shown = end - begin > 500 ? begin + 500 : end;
  for (size_t i = begin; i < shown; i++) {
    unsigned char c = (unsigned char)source->text[i];
    dp_str_addc(out, c != '\t' && (c < 0x20 || c == 0x7f) ? '?' : (char)c);
  }
  dp_str_addc(out, '\n');
  for (size_t i = begin; i < at; i++) {
    unsigned char c = (unsigned char)source->text[i];
    if ((c & 0xc0) != 0x80) dp_str_addc(out, c == '\t' ? '\t' : ' ');
  }
  dp_str_add(out, green);
  dp_str_addc(out, '^');
  for (size_t i = at + 1; i < loc.end && i < shown; i++)
    if (((unsigned char)source->text[i] & 0xc0) != 0x80) dp_str_addc(out, '~');
  dp_str_add(out, reset);
  dp_str_addc(out, '\n');
}

void dp_diags_render(const dp_diags *diags, dp_str *out, bool color) {
  static const char *const names[] = {"error", "warning", "note"};
  static const char *const colors[] = {"\033[1;31m", "\033[1;35m", "\033[1;36m"};
  const char *bold = color ? "\033[1m" : "", *reset = color ? "\033[0m" : "";
  for (int i = 0; i < diags->count; i++) {
    const dp_diag *diag = &diags->items[i];
    if (diag->loc.file) {
      int line, col;
      dp_loc_position(diags, diag->loc, &line, &col);
      dp_str_addf(out, "%s%s:%d:%d: ", bold, diags->sources[diag->loc.file].path, line, col);
    }
    dp_str_addf(out, "%s%s: %s%s%s%s\n", color ? colors[diag->severity] : "", names[diag->severity], reset, bold,
                diag->message, reset);
    if (diag->loc.file)
      render_line(&diags->sources[diag->loc.file], diag->loc, out, color ? "\033[1;32m" : "", reset);
  }
}

/* Edit distance with transpositions (optimal string alignment), on names of at most 63 bytes. */
static int edit_distance(const char *a, const char *b) {
  size_t n = strlen(a), m = strlen(b);
  if (n > 63 || m > 63) return 1 << 20;
  int d[64][64];
  for (size_t i = 0; i <= n; i++) d[i][0] = (int)i;
  for (size_t j = 0; j <= m; j++) d[0][j] = (int)j;
  for (size_t i = 1; i <= n; i++) {
    for (size_t j = 1; j <= m; j++) {
      int best = d[i - 1][j - 1] + (a[i - 1] != b[j - 1]);
      if (d[i - 1][j] + 1 < best) best = d[i - 1][j] + 1;
      if (d[i][j - 1] + 1 < best) best = d[i][j - 1] + 1;
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && d[i - 2][j - 2] + 1 < best)
        best = d[i - 2][j - 2] + 1;
      d[i][j] = best;
    }
  }
  return d[n][m];
}

const char *dp_nearest_name(const char *name, const char *const *candidates, int count) {
  const char *best = NULL;
  int limit = (int)strlen(name) / 3 + 1;
  for (int i = 0; i < count; i++) {
    int distance = edit_distance(name, candidates[i]);
    if (distance <= limit && distance < (int)strlen(name)) {
      best = candidates[i];
      limit = distance - 1;
    }
  }
  return best;
}
