/* tools/svg.c: text, numbers and where they go. */
#include "tools/svg.h"

void svg_add_text(dp_str *out, const char *text) {
  for (; *text; text++) {
    if (*text == '&') dp_str_add(out, "&amp;");
    else if (*text == '<') dp_str_add(out, "&lt;");
    else if (*text == '>') dp_str_add(out, "&gt;");
    else if ((unsigned char)*text >= 0x20) dp_str_addc(out, *text);
  }
}

void svg_add_number(dp_str *out, double value) {
  if (value >= 100) dp_str_addf(out, "%.0f", value);
  else if (value >= 10) dp_str_addf(out, "%.1f", value);
  else dp_str_addf(out, "%.3g", value);
}

int svg_write(const cli_args *args, const dp_str *out) {
  if (out->failed) return cli_complain("no memory to draw '%s'", args->positional[0]);
  if (args->out) return cli_write_file(args->out, &(dp_text){out->text, out->length});
  return cli_write(out->text, out->length) ? CLI_OK : CLI_FAILURE;
}
