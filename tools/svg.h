/* tools/svg.h: what pictures share (SVG 1.1 with CSS, which follows a reader's dark mode). */
#ifndef DIPPER_TOOLS_SVG_H
#define DIPPER_TOOLS_SVG_H

#include "base/base.h"
#include "tools/cli.h"

void svg_add_text(dp_str *out, const char *text); /* escaped */
void svg_add_number(dp_str *out, double value);   /* three digits */
/* To the file of -o, or to stdout. CLI_OK or CLI_FAILURE. */
int svg_write(const cli_args *args, const dp_str *out);

/* A run's directory, or its log. */
int plot_run(const cli_args *args, const char *log);

#endif
