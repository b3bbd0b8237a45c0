/* frontend/report.c: how the frontend reports. A function is inlined at each call, so its mistakes would be found at
 * each: the same message at the same place is said once, with the calls that led there as notes. After too many errors
 * the compile stops. */
#include "frontend/sema.h"

#include <string.h>

enum { MOST_CALLS_SHOWN = 4 };

static bool was_said(const dp_diags *diags, int before, const dp_diag *diag) {
  for (int i = 0; i < before; i++) {
    const dp_diag *other = &diags->items[i];
    if (other->severity == DP_ERROR && memcmp(&other->loc, &diag->loc, sizeof diag->loc) == 0 &&
        strcmp(other->message, diag->message) == 0)
      return true;
  }
  return false;
}

void fe_reported(fe_compiler *c, int first) {
  dp_diags *diags = c->diags;
  int errors = 0;
  for (int i = first; i < diags->count; i++) errors += diags->items[i].severity == DP_ERROR;
  c->silent = c->stopped || was_said(diags, first, &diags->items[first]);
  if (c->silent) {
    diags->count = first;
    diags->errors -= errors;
    return;
  }
  c->chain = 0;
  for (const fe_frame *frame = c->frame; frame && frame->call.file && c->chain < MOST_CALLS_SHOWN;
       frame = frame->caller) {
    dp_note(diags, frame->call, "in this call of '%s'", frame->function->name.text);
    c->chain++;
  }
  if (diags->errors >= FE_MOST_ERRORS) {
    dp_error(diags, (dp_loc){0}, "%d errors; there may be more", diags->errors);
    c->stopped = true;
  }
}

void fe_error(fe_compiler *c, dp_loc loc, const char *fmt, ...) {
  va_list args;
  va_start(args, fmt);
  dp_str message = {0};
  dp_str_addv(&message, fmt, args);
  va_end(args);
  int first = c->diags->count;
  dp_error(c->diags, loc, "%s", message.text ? message.text : "");
  dp_str_free(&message);
  fe_reported(c, first);
}

/* In front of the notes about calls. */
void fe_note(fe_compiler *c, dp_loc loc, const char *fmt, ...) {
  if (c->silent || c->stopped) return;
  va_list args;
  va_start(args, fmt);
  dp_str message = {0};
  dp_str_addv(&message, fmt, args);
  va_end(args);
  dp_note(c->diags, loc, "%s", message.text ? message.text : "");
  dp_str_free(&message);
  dp_diag *items = c->diags->items;
  int last = c->diags->count - 1;
  dp_diag note = items[last];
  memmove(&items[last - c->chain + 1], &items[last - c->chain], sizeof note * (size_t)c->chain);
  items[last - c->chain] = note;
}
