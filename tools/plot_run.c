/* tools/plot_run.c: the log of a training run (a line of JSON a step, tools/train.c) as a picture: three panels over steps,
 * loss with a smoothed line, norm of the gradients, learning rate. Of runs with more steps than there are columns each
 * column shows the smallest and the largest number of its steps. */
#include "tools/svg.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WIDTH = 900, LEFT = 70, RIGHT = 880, TOP = 66, COLUMNS = 810, MOST_TICKS = 16 };

typedef struct point {
  int64_t step;
  double loss, norm, rate; /* norm and rate: NAN where a line has none */
} point;

typedef struct run_log {
  const char *path;
  point *points;
  size_t count, cap;
} run_log;

/* ---- reading */

static double number_of(const json_t *root, const char *key) {
  const json_t *value = json_object_get(root, key);
  return json_is_number(value) ? json_number_value(value) : (double)NAN;
}

/* A resumed run begins again behind its checkpoint: what it makes again takes the place of what was there. */
static bool add_point(run_log *log, point p) {
  while (log->count > 0 && log->points[log->count - 1].step >= p.step) log->count--;
  if (log->count == log->cap) {
    size_t cap = 2 * log->cap + 256;
    point *more = realloc(log->points, cap * sizeof *more);
    if (!more) return false;
    log->points = more;
    log->cap = cap;
  }
  log->points[log->count++] = p;
  return true;
}

static int read_line(run_log *log, int64_t number, const char *line, size_t length) {
  json_error_t error;
  json_t *root = json_loadb(line, length, 0, &error);
  const json_t *step = json_object_get(root, "step");
  point p = {json_is_integer(step) ? json_integer_value(step) : -1, number_of(root, "loss"), number_of(root, "grad_norm"),
             number_of(root, "lr")};
  int code = CLI_OK;
  if (!root)
    code = cli_complain("%s:%" PRId64 ": not a line of JSON: %s (column %d)", log->path, number, error.text, error.column);
  else if (p.step < 0 || !isfinite(p.loss))
    code = cli_complain("%s:%" PRId64 ": not a line of a training log: it has no %s", log->path, number,
                        p.step < 0 ? "\"step\" that is a whole number" : "\"loss\" that is a number");
  else if (!add_point(log, p))
    code = cli_complain("no memory to read '%s'", log->path);
  json_decref(root);
  return code;
}

static bool is_blank(const char *line, size_t length) {
  for (size_t i = 0; i < length; i++)
    if (!strchr(" \t\r", line[i])) return false;
  return true;
}

static int read_log(run_log *log) {
  char *text;
  size_t length;
  dp_status status = dp_read_file(log->path, &text, &length);
  if (status.code != DP_OK) return cli_fail(status);
  int64_t number = 1;
  int code = CLI_OK;
  for (size_t at = 0; at < length && code == CLI_OK; number++) {
    const char *end = memchr(text + at, '\n', length - at);
    size_t n = end ? (size_t)(end - text) - at : length - at;
    if (!is_blank(text + at, n)) code = read_line(log, number, text + at, n);
    at += n + 1;
  }
  free(text);
  if (code == CLI_OK && log->count == 0) return cli_complain("%s:1: the log has no steps", log->path);
  return code;
}

/* ---- axes */

typedef struct axis {
  double low, high; /* of the values, ends of the axis */
  double from, to;  /* of the picture */
  double step;      /* between ticks */
} axis;

/* 1, 2 or 5 times a power of ten, so that about `ticks` fit. */
static double nice_step(double range, int ticks) {
  double raw = range / ticks, power = pow(10, floor(log10(raw))), digits = raw / power;
  return power * (digits <= 1 ? 1 : digits <= 2 ? 2 : digits <= 5 ? 5 : 10);
}

static axis make_axis(double low, double high, int ticks, double from, double to) {
  if (!(high > low)) {
    double around = fabs(low) > 0 ? fabs(low) * 0.1 : 1;
    low -= around;
    high += around;
  }
  double step = nice_step(high - low, ticks);
  return (axis){floor(low / step + 1e-9) * step, ceil(high / step - 1e-9) * step, from, to, step};
}

static double at(const axis *a, double value) { return a->from + (value - a->low) / (a->high - a->low) * (a->to - a->from); }

/* As many decimals as the ticks' step has. */
static void add_tick(dp_str *out, double value, double step) {
  if (fabs(value) < step / 2) {
    dp_str_addc(out, '0');
    return;
  }
  double large = fabs(value);
  if (large >= 1e6 || large < 1e-3) {
    dp_str_addf(out, "%.2g", value);
    return;
  }
  int decimals = step >= 1 ? 0 : (int)ceil(-log10(step) - 1e-9);
  dp_str_addf(out, "%.*f", decimals, value);
}

/* ---- panels */

typedef struct panel {
  const char *title, *name;
  size_t offset; /* of the number in a point */
  double top, height;
  bool from_zero;
} panel;

static double value_of(const panel *p, const point *x) { return *(const double *)(const void *)((const char *)x + p->offset); }

static void draw_grid(dp_str *out, const axis *y, double top, double bottom) {
  for (int i = 0; i <= MOST_TICKS && y->low + i * y->step <= y->high + y->step * 0.01; i++) {
    double value = y->low + i * y->step, place = at(y, value);
    dp_str_addf(out, "<path class=\"g\" d=\"M%d %.1fH%d\"/><text class=\"y\" x=\"%d\" y=\"%.1f\">", LEFT, place, RIGHT, LEFT - 8, place + 4);
    add_tick(out, value, y->step);
    dp_str_add(out, "</text>\n");
  }
  dp_str_addf(out, "<path class=\"a\" d=\"M%d %.1fV%.1fH%d\"/>\n", LEFT, top, bottom, RIGHT);
}

static void draw_steps(dp_str *out, const axis *x, double bottom) {
  for (int i = 0; i <= MOST_TICKS; i++) {
    double value = (ceil(x->low / x->step - 1e-9) + i) * x->step;
    if (value > x->high + x->step * 0.01) break;
    dp_str_addf(out, "<path class=\"a\" d=\"M%.1f %.1fv5\"/><text class=\"x\" x=\"%.1f\" y=\"%.1f\">%.0f</text>\n", at(x, value), bottom,
                at(x, value), bottom + 18, value);
  }
}

/* The end of the points that share a column with point `from`; of runs short enough each point stands alone. */
static size_t column_end(const run_log *log, const axis *x, size_t from) {
  size_t to = from + 1;
  if (log->count <= COLUMNS) return to;
  int column = (int)at(x, (double)log->points[from].step);
  while (to < log->count && (int)at(x, (double)log->points[to].step) == column) to++;
  return to;
}

static void draw_line(dp_str *out, const run_log *log, const panel *p, const axis *x, const axis *y) {
  bool drawn = false;
  dp_str_addf(out, "<path class=\"%s\" d=\"", p->name);
  for (size_t i = 0, end; i < log->count; i = end) {
    double low = INFINITY, high = -INFINITY, last = 0;
    end = column_end(log, x, i);
    for (size_t j = i; j < end; j++) {
      double value = value_of(p, &log->points[j]);
      if (!isfinite(value)) continue;
      low = fmin(low, value);
      high = fmax(high, value);
      last = value;
    }
    if (low > high) continue;
    double place = at(x, (double)log->points[i].step);
    dp_str_addf(out, "%s%.1f %.1f", drawn ? "L" : "M", place, at(y, low == high ? last : low));
    if (low != high) dp_str_addf(out, "L%.1f %.1f", place, at(y, high));
    drawn = true;
  }
  dp_str_add(out, "\"/>\n");
  for (size_t i = 0; log->count <= 40 && i < log->count; i++) /* few steps: points too */
    if (isfinite(value_of(p, &log->points[i])))
      dp_str_addf(out, "<circle class=\"%s\" cx=\"%.1f\" cy=\"%.1f\" r=\"2\"/>\n", p->name, at(x, (double)log->points[i].step),
                  at(y, value_of(p, &log->points[i])));
}

/* So many steps are averaged, an odd number. */
static size_t smoothing(const run_log *log) { return log->count / 50 * 2 + 1; }

/* Each step's mean with as many steps before it as after it; fewer at the ends. */
static double mean_around(const run_log *log, size_t i) {
  size_t half = smoothing(log) / 2, count = 0;
  if (half > i) half = i;
  if (half > log->count - 1 - i) half = log->count - 1 - i;
  double sum = 0;
  for (size_t j = i - half; j <= i + half; j++, count++) sum += log->points[j].loss;
  return sum / (double)count;
}

static void draw_smoothed(dp_str *out, const run_log *log, const axis *x, const axis *y) {
  dp_str_add(out, "<path class=\"smooth\" d=\"");
  for (size_t i = 0; i < log->count; i = column_end(log, x, i))
    dp_str_addf(out, "%s%.1f %.1f", i ? "L" : "M", at(x, (double)log->points[i].step), at(y, mean_around(log, i)));
  dp_str_add(out, "\"/>\n");
}

static bool range_of(const run_log *log, const panel *p, double *low, double *high) {
  *low = p->from_zero ? 0 : INFINITY;
  *high = -INFINITY;
  for (size_t i = 0; i < log->count; i++) {
    double value = value_of(p, &log->points[i]);
    if (!isfinite(value)) continue;
    *low = fmin(*low, value);
    *high = fmax(*high, value);
  }
  return isfinite(*high);
}

static void draw_panel(dp_str *out, const run_log *log, const panel *p, const axis *x) {
  double low, high, bottom = p->top + p->height;
  if (!range_of(log, p, &low, &high)) return;
  axis y = make_axis(low, high, p->height > 200 ? 6 : 3, bottom, p->top);
  dp_str_addf(out, "<text class=\"t\" x=\"%d\" y=\"%.1f\">%s", LEFT, p->top - 8, p->title);
  if (strcmp(p->name, "loss") == 0 && smoothing(log) > 1)
    dp_str_addf(out, "<tspan class=\"u\" dx=\"8\">thick: mean of %zu steps</tspan>", smoothing(log));
  dp_str_add(out, "</text>\n");
  draw_grid(out, &y, p->top, bottom);
  draw_line(out, log, p, x, &y);
  if (strcmp(p->name, "loss") == 0 && smoothing(log) > 1) draw_smoothed(out, log, x, &y);
  draw_steps(out, x, bottom);
}

static const char style[] =
    "<style>text{font:12px system-ui,sans-serif;fill:#24292f}.h{font-weight:600;font-size:15px}.t{font-weight:600;font-size:13px}"
    ".u,.s{fill:#6e7781;font-weight:400}.y{text-anchor:end;font-size:11px}.x{text-anchor:middle;font-size:11px}"
    ".g{stroke:#d0d7de;stroke-width:.6;fill:none}.a{stroke:#57606a;stroke-width:1;fill:none}.b{fill:#fff}"
    "path.loss{stroke:#56b4e9;stroke-width:1;fill:none}path.smooth{stroke:#0072b2;stroke-width:2.2;fill:none}"
    "path.norm{stroke:#d55e00;stroke-width:1;fill:none}path.rate{stroke:#009e73;stroke-width:1.5;fill:none}"
    "circle.loss{fill:#56b4e9}circle.norm{fill:#d55e00}circle.rate{fill:#009e73}"
    "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.u,.s{fill:#8d96a0}.g{stroke:#30363d}.a{stroke:#8d96a0}.b{fill:#0d1117}}"
    "</style>\n";

static void draw_head(dp_str *out, const run_log *log, const char *title) {
  const point *last = &log->points[log->count - 1], *best = log->points;
  for (size_t i = 0; i < log->count; i++)
    if (log->points[i].loss < best->loss) best = &log->points[i];
  dp_str_addf(out, "<text class=\"h\" x=\"%d\" y=\"24\">", LEFT);
  svg_add_text(out, title);
  dp_str_addf(out, "</text><text class=\"s\" x=\"%d\" y=\"24\" text-anchor=\"end\">step %" PRId64 ": loss %.4f; lowest %.4f at step %" PRId64
                   "</text>\n", RIGHT, last->step, last->loss, best->loss, best->step);
}

int plot_run(const cli_args *args, const char *path) {
  static const panel panels[] = {{"Loss", "loss", offsetof(point, loss), TOP, 300, false},
                                 {"Norm of the gradients", "norm", offsetof(point, norm), TOP + 360, 110, true},
                                 {"Learning rate", "rate", offsetof(point, rate), TOP + 530, 110, true}};
  enum { HEIGHT = TOP + 530 + 110 + 50 };
  run_log log = {.path = path};
  dp_str out = {0};
  int code = read_log(&log);
  if (code == CLI_OK) {
    axis x = make_axis((double)log.points[0].step, (double)log.points[log.count - 1].step, 8, LEFT, RIGHT);
    x.low = (double)log.points[0].step; /* steps fill the width; their ticks are round all the same */
    x.high = log.count > 1 ? (double)log.points[log.count - 1].step : x.low + 1;
    if (x.step < 1) x.step = 1;
    dp_str_addf(&out, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" width=\"%d\" height=\"%d\">\n%s"
                      "<rect class=\"b\" width=\"%d\" height=\"%d\"/>\n", WIDTH, HEIGHT, WIDTH, HEIGHT, style, WIDTH, HEIGHT);
    draw_head(&out, &log, args->positional[0]);
    for (size_t i = 0; i < DP_COUNT(panels); i++) draw_panel(&out, &log, &panels[i], &x);
    dp_str_addf(&out, "<text class=\"x\" x=\"%d\" y=\"%d\">step</text>\n</svg>\n", (LEFT + RIGHT) / 2, HEIGHT - 12);
    code = svg_write(args, &out);
  }
  free(log.points);
  dp_str_free(&out);
  return code;
}
