/* tools/plot.c: which picture; a bench's figures (JSON, the schema at the head of bench/run.py) as a picture (SVG 1.1 with CSS, which
 * follows a reader's dark mode): a panel a group of rows, a row of bars a measurement, a bar a program, whiskers from
 * the smallest to the largest sample. */
#include "tools/svg.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { MAX_PROGRAMS = 12, MAX_GROUPS = 64, WIDTH = 900, LABEL = 228, VALUE = 96, BAR = 13, GAP = 9, MARGIN = 16 };

typedef struct chart {
  const char *programs[MAX_PROGRAMS];
  int program_count;
  const char *groups[MAX_GROUPS];
  int group_count;
  json_t *rows;
} chart;

/* ---- reading */

static int program_index(chart *c, const char *name) {
  for (int i = 0; i < c->program_count; i++)
    if (strcmp(c->programs[i], name) == 0) return i;
  if (c->program_count == MAX_PROGRAMS) return -1;
  c->programs[c->program_count] = name;
  return c->program_count++;
}

static const char *text_of(const json_t *row, const char *key) {
  const char *text = json_string_value(json_object_get(row, key));
  return text ? text : "";
}

static bool add_row(chart *c, const json_t *row) {
  const char *group = json_string_value(json_object_get(row, "group")), *name;
  json_t *programs = json_object_get(row, "programs"), *figure;
  if (!group || !json_is_object(programs) || json_object_size(programs) == 0) return false;
  json_object_foreach(programs, name, figure) {
    if (!json_is_number(json_object_get(figure, "median")) || program_index(c, name) < 0) return false;
  }
  for (int i = 0; i < c->group_count; i++)
    if (strcmp(c->groups[i], group) == 0) return true;
  if (c->group_count == MAX_GROUPS) return false;
  c->groups[c->group_count++] = group;
  return true;
}

static bool read_chart(json_t *root, chart *c, const char **problem) {
  size_t i;
  json_t *row;
  c->rows = json_object_get(root, "rows");
  *problem = "it has no rows";
  if (!json_is_array(c->rows) || json_array_size(c->rows) == 0) return false;
  *problem = "a row has no group, or no program with a median, or there are more than 12 programs or 64 groups";
  json_array_foreach(c->rows, i, row) if (!add_row(c, row)) return false;
  return true;
}

/* ---- drawing */

static double number_of(const json_t *figure, const char *key, double otherwise) {
  const json_t *value = json_object_get(figure, key);
  return json_is_number(value) && isfinite(json_number_value(value)) ? json_number_value(value) : otherwise;
}

static bool in_group(const json_t *row, const char *group) { return strcmp(text_of(row, "group"), group) == 0; }

static double largest_of(const chart *c, const char *group) {
  double largest = 0;
  size_t i;
  json_t *row, *figure;
  const char *name;
  json_array_foreach(c->rows, i, row) {
    if (!in_group(row, group)) continue;
    json_object_foreach(json_object_get(row, "programs"), name, figure) {
      double top = number_of(figure, "max", number_of(figure, "median", 0));
      largest = top > largest ? top : largest;
    }
  }
  return largest > 0 ? largest : 1;
}

static void draw_bar(dp_str *out, const json_t *figure, int program, double scale, double y) {
  double median = number_of(figure, "median", 0), low = number_of(figure, "min", median);
  double high = number_of(figure, "max", median), middle = y + BAR / 2.0;
  dp_str_addf(out, "<rect class=\"p%d\" x=\"%d\" y=\"%.1f\" width=\"%.1f\" height=\"%d\" rx=\"2\"/>\n", program, LABEL, y,
              median > 0 ? median * scale : 0, BAR - 2);
  if (high > low)
    dp_str_addf(out, "<path class=\"w\" d=\"M%.1f %.1fH%.1fM%.1f %.1fv6M%.1f %.1fv6\"/>\n", LABEL + low * scale, middle - 1,
                LABEL + high * scale, LABEL + low * scale, middle - 4, LABEL + high * scale, middle - 4);
  dp_str_addf(out, "<text class=\"v\" x=\"%.1f\" y=\"%.1f\">", LABEL + (high > median ? high : median) * scale + 6,
              middle + 3);
  svg_add_number(out, median);
  dp_str_add(out, "</text>\n");
}

static double draw_row(dp_str *out, const chart *c, const json_t *row, double scale, double y) {
  const json_t *programs = json_object_get(row, "programs");
  double begin = y;
  for (int i = 0; i < c->program_count; i++) {
    const json_t *figure = json_object_get(programs, c->programs[i]);
    if (!figure) continue;
    draw_bar(out, figure, i, scale, y);
    y += BAR;
  }
  dp_str_addf(out, "<text class=\"l\" x=\"%d\" y=\"%.1f\">", LABEL - 10, (begin + y) / 2 + 3);
  svg_add_text(out, text_of(row, "label"));
  dp_str_add(out, "</text>\n");
  return y + GAP;
}

static double draw_group(dp_str *out, const chart *c, const char *group, double y) {
  double scale = (WIDTH - LABEL - VALUE) / largest_of(c, group);
  bool titled = false;
  size_t i;
  json_t *row;
  json_array_foreach(c->rows, i, row) {
    if (!in_group(row, group)) continue;
    if (!titled) {
      dp_str_addf(out, "<text class=\"t\" x=\"%d\" y=\"%.1f\">", MARGIN, y + 12);
      svg_add_text(out, group);
      dp_str_add(out, "<tspan class=\"u\" dx=\"8\">");
      svg_add_text(out, text_of(row, "unit"));
      const json_t *lower = json_object_get(row, "lower_is_better");
      dp_str_add(out, json_is_true(lower) ? ", less is better</tspan></text>\n" : "</tspan></text>\n");
      y += 24;
      titled = true;
    }
    y = draw_row(out, c, row, scale, y);
  }
  return y + 10;
}

static double draw_head(dp_str *out, const chart *c, const json_t *root) {
  const json_t *machine = json_object_get(root, "machine");
  double x = MARGIN, y = 38;
  dp_str_addf(out, "<text class=\"s\" x=\"%d\" y=\"24\">", MARGIN);
  svg_add_text(out, text_of(root, "date"));
  dp_str_add(out, " ");
  svg_add_text(out, text_of(machine, "cpu"));
  const json_t *cores = json_object_get(machine, "cores");
  if (json_is_integer(cores)) dp_str_addf(out, ", %d cores", (int)json_integer_value(cores));
  dp_str_add(out, "; bars: medians, whiskers: all samples</text>\n");
  for (int i = 0; i < c->program_count; i++) {
    double width = 40 + 7.0 * (double)strlen(c->programs[i]);
    if (x + width > WIDTH && x > MARGIN) x = MARGIN, y += 20;
    dp_str_addf(out, "<rect class=\"p%d\" x=\"%.0f\" y=\"%.0f\" width=\"12\" height=\"12\" rx=\"2\"/>\n", i, x, y);
    dp_str_addf(out, "<text class=\"k\" x=\"%.0f\" y=\"%.0f\">", x + 18, y + 10);
    svg_add_text(out, c->programs[i]);
    dp_str_add(out, "</text>\n");
    x += width;
  }
  return y + 34;
}

/* Colors that can be told apart by those who see few (after Okabe and Ito, 2008). */
static const char style[] =
    "<style>text{font:12px system-ui,sans-serif;fill:#24292f}.t{font-weight:600;font-size:13px}.u,.s{fill:#6e7781}"
    ".l{text-anchor:end}.v{font-size:11px}.w{stroke:#24292f;stroke-width:1;fill:none;opacity:.65}.p0{fill:#0072b2}"
    ".p1{fill:#e69f00}.p2{fill:#009e73}.p3{fill:#cc79a7}.p4{fill:#d55e00}.p5{fill:#56b4e9}.p6{fill:#999}.p7{fill:#b8a800}.p8{fill:#7a4fbf}.p9{fill:#4a6b2a}.p10{fill:#a3585c}.p11{fill:#333}"
    ".b{fill:#fff}@media(prefers-color-scheme:dark){text{fill:#e6edf3}.u,.s{fill:#8d96a0}.w{stroke:#e6edf3}.b{fill:#0d1117}}"
    "</style>\n";

static void draw(const chart *c, const json_t *root, dp_str *out) {
  dp_str body = {0};
  double y = draw_head(&body, c, root);
  for (int i = 0; i < c->group_count; i++) y = draw_group(&body, c, c->groups[i], y);
  dp_str_addf(out,
              "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %.0f\" width=\"%d\" height=\"%.0f\">\n%s"
              "<rect class=\"b\" width=\"%d\" height=\"%.0f\"/>\n",
              WIDTH, y, WIDTH, y, style, WIDTH, y);
  if (body.text) dp_str_addn(out, body.text, body.length);
  dp_str_add(out, "</svg>\n");
  out->failed = out->failed || body.failed;
  dp_str_free(&body);
}

static int plot_bench(const cli_args *args) {
  json_error_t error;
  const char *path = args->positional[0], *problem;
  json_t *root = json_load_file(path, 0, &error);
  if (!root) return cli_complain("%s: %s (line %d)", path, error.text, error.line);
  chart c = {0};
  dp_str out = {0};
  int code = CLI_FAILURE;
  if (!read_chart(root, &c, &problem)) {
    code = cli_complain("%s is not a bench's result: %s", path, problem);
  } else {
    draw(&c, root, &out);
    code = svg_write(args, &out);
  }
  dp_str_free(&out);
  json_decref(root);
  return code;
}

int cli_plot(const cli_args *args) {
  const char *path = args->positional[0];
  size_t length = strlen(path), end = strlen(".jsonl");
  struct stat info;
  if (length > end && strcmp(path + length - end, ".jsonl") == 0) return plot_run(args, path);
  if (stat(path, &info) != 0 || !S_ISDIR(info.st_mode)) return plot_bench(args);
  dp_str log = {0};
  dp_str_addf(&log, "%s%slog.jsonl", path, length > 0 && path[length - 1] == '/' ? "" : "/");
  int code = log.text ? plot_run(args, log.text) : cli_complain("no memory to draw '%s'", path);
  dp_str_free(&log);
  return code;
}
