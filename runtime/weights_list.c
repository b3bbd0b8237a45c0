/* runtime/weights_list.c: a weights file as text or JSON, for `dipper weights ls`. */
#include "runtime/weights_file.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

void rt_print_shape(dp_str *out, const int64_t *dims, int rank) {
  dp_str_addc(out, '[');
  for (int i = 0; i < rank; i++) dp_str_addf(out, "%s%" PRId64, i ? ", " : "", dims[i]);
  dp_str_addc(out, ']');
}

void rt_print_json_string(dp_str *out, const char *text, size_t length) {
  dp_str_addc(out, '"');
  for (size_t i = 0; i < length;) {
    unsigned char c = (unsigned char)text[i];
    size_t n = c < 0x80 ? 1 : c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : 2;
    if (c < 0x20 || c == 0x7f) {
      dp_str_addf(out, "\\u%04x", c);
    } else if (c == '"' || c == '\\') {
      dp_str_addf(out, "\\%c", c);
    } else if (n <= length - i && (n == 1 || rt_is_name((const uint8_t *)text + i, n))) {
      dp_str_addn(out, text + i, n);
    } else if (n == 2 && length - i >= 2 && c == 0xc2 && ((unsigned char)text[i + 1] & 0xe0) == 0x80) {
      dp_str_addf(out, "\\u%04x", (unsigned char)text[i + 1]); /* C1 controls: U+0080 to U+009F */
    } else {
      dp_str_add(out, "\\ufffd");
      n = 1;
    }
    i += n;
  }
  dp_str_addc(out, '"');
}

typedef struct totals {
  uint64_t parameters, bytes;
  int name_width, shape_width, type_width;
} totals;

/* Columns that a name takes on a terminal, near enough: code points. */
static int width_of(const char *text) {
  int width = 0;
  for (; *text; text++) width += ((unsigned char)*text & 0xc0) != 0x80;
  return width;
}

static int larger(int a, int b) { return a > b ? a : b; }

static totals measure(const rt_weights_file *file) {
  totals t = {.name_width = 4, .shape_width = 5, .type_width = 4};
  for (int i = 0; i < file->tensor_count; i++) {
    const rt_tensor *tensor = &file->tensors[i];
    dp_str shape = {0};
    rt_print_shape(&shape, tensor->dims, tensor->rank);
    t.parameters += (uint64_t)tensor->elements;
    t.bytes += tensor->bytes;
    t.name_width = larger(t.name_width, width_of(tensor->name));
    t.type_width = larger(t.type_width, width_of(tensor->type_name));
    t.shape_width = larger(t.shape_width, (int)shape.length);
    dp_str_free(&shape);
  }
  return t;
}

static const char *format_name(const rt_weights_file *file) { return file->format == RT_GGUF ? "gguf" : "safetensors"; }

static void add_padded(dp_str *out, const char *text, int width) {
  dp_str_addf(out, "%s%*s  ", text, width - width_of(text), "");
}

static void list_as_text(const rt_weights_file *file, const totals *t, dp_str *out) {
  dp_str_addf(out, "%s: %s", file->path, format_name(file));
  if (file->format == RT_GGUF) dp_str_addf(out, " v%" PRIu32, file->version);
  if (file->architecture && rt_is_name((const uint8_t *)file->architecture, strlen(file->architecture)))
    dp_str_addf(out, ", %s", file->architecture);
  dp_str_addc(out, '\n');
  add_padded(out, "name", t->name_width);
  add_padded(out, "type", t->type_width);
  add_padded(out, "shape", t->shape_width);
  dp_str_add(out, "       bytes\n");
  for (int i = 0; i < file->tensor_count; i++) {
    const rt_tensor *tensor = &file->tensors[i];
    dp_str shape = {0};
    rt_print_shape(&shape, tensor->dims, tensor->rank);
    add_padded(out, tensor->name, t->name_width);
    add_padded(out, tensor->type_name, t->type_width);
    add_padded(out, shape.text ? shape.text : "", t->shape_width);
    dp_str_addf(out, "%12zu%s\n", tensor->bytes, tensor->supported ? "" : "  (unsupported type)");
    dp_str_free(&shape);
  }
  dp_str_addf(out, "%d tensors, %" PRIu64 " parameters, %" PRIu64 " bytes\n", file->tensor_count, t->parameters,
              t->bytes);
}

/* The locale may write a comma. */
static void add_json_real(double number, dp_str *out) {
  char text[40];
  snprintf(text, sizeof text, "%.17g", number);
  for (char *c = text; *c; c++)
    if (*c == ',') *c = '.';
  dp_str_addf(out, ": %s", text);
}

static void add_json_meta(const rt_meta *meta, dp_str *out) {
  rt_print_json_string(out, meta->key, strlen(meta->key));
  if (meta->kind == RT_META_BOOL)
    dp_str_add(out, meta->integer ? ": true" : ": false");
  else if (meta->kind == RT_META_STRING) {
    dp_str_add(out, ": ");
    rt_print_json_string(out, meta->text.text, meta->text.length);
  } else if ((double)meta->integer == meta->number)
    dp_str_addf(out, ": %" PRId64, meta->integer);
  else if (isfinite(meta->number))
    add_json_real(meta->number, out);
  else
    dp_str_add(out, ": null");
}

static void list_as_json(const rt_weights_file *file, const totals *t, dp_str *out) {
  dp_str_add(out, "{\"file\": ");
  rt_print_json_string(out, file->path, strlen(file->path));
  dp_str_addf(out, ", \"format\": \"%s\"", format_name(file));
  if (file->format == RT_GGUF) dp_str_addf(out, ", \"version\": %" PRIu32, file->version);
  dp_str_add(out, ",\n \"metadata\": {");
  bool first = true;
  for (int i = 0; i < file->meta_count; i++) {
    rt_meta_kind kind = file->metas[i].kind;
    if (kind != RT_META_NUMBER && kind != RT_META_BOOL && kind != RT_META_STRING) continue;
    dp_str_add(out, first ? "\n  " : ",\n  ");
    add_json_meta(&file->metas[i], out);
    first = false;
  }
  dp_str_add(out, "},\n \"tensors\": [");
  for (int i = 0; i < file->tensor_count; i++) {
    const rt_tensor *tensor = &file->tensors[i];
    dp_str_add(out, i ? ",\n  {\"name\": " : "\n  {\"name\": ");
    rt_print_json_string(out, tensor->name, strlen(tensor->name));
    dp_str_add(out, ", \"type\": ");
    rt_print_json_string(out, tensor->type_name, strlen(tensor->type_name));
    dp_str_add(out, ", \"shape\": ");
    rt_print_shape(out, tensor->dims, tensor->rank);
    dp_str_addf(out, ", \"bytes\": %zu, \"offset\": %" PRIu64 ", \"supported\": %s}", tensor->bytes, tensor->offset,
                tensor->supported ? "true" : "false");
  }
  dp_str_addf(out, "],\n \"parameters\": %" PRIu64 ", \"bytes\": %" PRIu64 "}\n", t->parameters, t->bytes);
}

void rt_weights_list(const rt_weights_file *file, bool json, dp_str *out) {
  totals t = measure(file);
  if (json)
    list_as_json(file, &t, out);
  else
    list_as_text(file, &t, out);
}
