/* ir/text_print.c: a module to its text form (docs/ir.md). Value names are the hints, made unique by a suffix; a value
 * without a hint gets a number. A suffix that a hint brings along is dropped first, so that a module read back from
 * text and one that never was text print alike after the same passes. */
#include "ir/graph.h"
#include "ir/shape.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- dimensions, types, attributes ------------------------------------------------------------------------------- */

void ir_print_dim(dp_str *out, ir_dim dim) {
  if (dim.name && !(dim.symbol && strcmp(dim.name, dim.symbol) == 0)) dp_str_addf(out, "%s:", dim.name);
  if (!dim.symbol) {
    dp_str_addf(out, "%lld", (long long)dim.add);
    return;
  }
  if (dim.coef != 1) dp_str_addf(out, "%lld*", (long long)dim.coef);
  dp_str_add(out, dim.symbol);
  if (dim.add) dp_str_addf(out, "%+lld", (long long)dim.add);
}

void ir_print_type(dp_str *out, const ir_type *type) {
  dp_str_addf(out, "%s[", ir_dtype_name(type->dtype));
  for (int i = 0; i < type->rank; i++) {
    if (i) dp_str_add(out, ", ");
    ir_print_dim(out, type->dims[i]);
  }
  dp_str_addc(out, ']');
}

static void print_string(dp_str *out, const char *s) {
  dp_str_addc(out, '"');
  for (; *s; s++) {
    unsigned char c = (unsigned char)*s;
    if (c == '"' || c == '\\')
      dp_str_addf(out, "\\%c", c);
    else if (c == '\n')
      dp_str_add(out, "\\n");
    else if (c == '\t')
      dp_str_add(out, "\\t");
    else if (c < 0x20 || c == 0x7f)
      dp_str_addf(out, "\\x%02x", c);
    else
      dp_str_addc(out, *s);
  }
  dp_str_addc(out, '"');
}

void ir_print_float(dp_str *out, double f) {
  char text[48];
  if (isnan(f)) {
    dp_str_add(out, "nan");
    return;
  }
  snprintf(text, sizeof text, "%.9g", f);
  if (strtod(text, NULL) != f) snprintf(text, sizeof text, "%.17g", f);
  for (char *at = text; *at; at++)
    if (!strchr("0123456789+-einf", *at)) *at = '.';
  dp_str_add(out, text);
}

static void print_attrs(dp_str *out, const ir_op *op) {
  for (int i = 0; i < op->attr_count; i++) {
    const ir_attr *attr = &op->attrs[i];
    dp_str_addf(out, "%s%s = ", i ? ", " : " {", attr->name);
    switch (attr->kind) {
    case IR_ATTR_INT:
      dp_str_addf(out, "%lld", (long long)attr->i);
      break;
    case IR_ATTR_FLOAT:
      ir_print_float(out, attr->f);
      break;
    case IR_ATTR_STRING:
      print_string(out, attr->s);
      break;
    case IR_ATTR_SHAPE:
      ir_print_type(out, &attr->shape);
      break;
    }
  }
  if (op->attr_count) dp_str_addc(out, '}');
}

/* ---- names ------------------------------------------------------------------------------------------------------- */

/* How often each hint was seen, and the name of each value by value->id; -1: not defined where it could be seen. */
typedef struct name_count {
  const char *base;
  int count;
  struct name_count *next;
} name_count;

typedef struct naming {
  dp_arena *arena;
  name_count *buckets[256];
  const char **names;
  int count, cap;
  int unnamed;
} naming;

/* "x.1.2" -> "x"; what no lexer reads becomes '_'; NULL when nothing but a number is left. */
static char *base_of(naming *n, const char *hint) {
  if (!hint) return NULL;
  char *base = dp_arena_strdup(n->arena, hint);
  for (char *at = base; *at; at++) {
    char c[2] = {*at, 0};
    if (!ir_is_word(c)) *at = '_';
  }
  size_t length = strlen(base);
  for (;;) {
    size_t digits = length;
    while (digits > 0 && base[digits - 1] >= '0' && base[digits - 1] <= '9') digits--;
    if (digits == 0) return NULL;
    if (digits == length || base[digits - 1] != '.') return base;
    base[length = digits - 1] = '\0';
  }
}

static int times_seen(naming *n, const char *base) {
  name_count **bucket = &n->buckets[dp_hash(0, base, strlen(base)) % DP_COUNT(n->buckets)];
  for (name_count *entry = *bucket; entry; entry = entry->next)
    if (strcmp(entry->base, base) == 0) return entry->count++;
  name_count *entry = DP_NEW(n->arena, name_count);
  *entry = (name_count){base, 1, *bucket};
  *bucket = entry;
  return 0;
}

static void name_value(naming *n, ir_value *value) {
  const char *name = base_of(n, value->name);
  if (!name) {
    name = dp_arena_printf(n->arena, "%d", n->unnamed++);
  } else {
    int seen = times_seen(n, name);
    if (seen) name = dp_arena_printf(n->arena, "%s.%d", name, seen);
  }
  value->id = n->count;
  DP_PUSH(n->arena, n->names, n->count, n->cap) = name;
}

static void forget_operands(const ir_block *block) {
  for (const ir_op *op = block->first; op; op = op->next) {
    for (int i = 0; i < op->operand_count; i++)
      if (op->operands[i]) op->operands[i]->id = -1;
    if (op->body) forget_operands(op->body);
  }
}

static void name_block(naming *n, const ir_block *block) {
  for (int i = 0; i < block->arg_count; i++) name_value(n, block->args[i]);
  for (const ir_op *op = block->first; op; op = op->next) {
    for (int i = 0; i < op->result_count; i++) name_value(n, op->results[i]);
    if (op->body) name_block(n, op->body);
  }
}

/* ---- ops, graphs, the module ------------------------------------------------------------------------------------- */

static void print_value(dp_str *out, const naming *n, const ir_value *value) {
  dp_str_addf(out, "%%%s", value && value->id >= 0 ? n->names[value->id] : "undefined");
}

static void print_values(dp_str *out, const naming *n, ir_value *const *values, int count) {
  for (int i = 0; i < count; i++) {
    if (i) dp_str_add(out, ", ");
    print_value(out, n, values[i]);
  }
}

static void print_args(dp_str *out, const naming *n, const ir_block *block) {
  dp_str_addc(out, '(');
  for (int i = 0; i < block->arg_count; i++) {
    if (i) dp_str_add(out, ", ");
    print_value(out, n, block->args[i]);
    dp_str_add(out, ": ");
    ir_print_type(out, &block->args[i]->type);
  }
  dp_str_addc(out, ')');
}

static void print_block(dp_str *out, const naming *n, const ir_block *block, int depth);

static void print_op(dp_str *out, const naming *n, const ir_op *op, int depth) {
  dp_str_addf(out, "%*s", 2 * depth, "");
  print_values(out, n, op->results, op->result_count);
  if (op->result_count) dp_str_add(out, " = ");
  dp_str_add(out, ir_op_info_of(op->code)->name);
  if (op->operand_count) dp_str_addc(out, ' ');
  print_values(out, n, op->operands, op->operand_count);
  print_attrs(out, op);
  if (op->body) {
    dp_str_addc(out, ' ');
    print_args(out, n, op->body);
    dp_str_add(out, " {\n");
    print_block(out, n, op->body, depth + 1);
    dp_str_addf(out, "%*s}", 2 * depth, "");
  }
  for (int i = 0; i < op->result_count; i++) {
    dp_str_add(out, i ? ", " : " : ");
    ir_print_type(out, &op->results[i]->type);
  }
  dp_str_addc(out, '\n');
}

static void print_block(dp_str *out, const naming *n, const ir_block *block, int depth) {
  for (const ir_op *op = block->first; op; op = op->next) print_op(out, n, op, depth);
}

static void print_source(dp_str *out, const ir_source *source) {
  print_string(out, source->pattern);
  if (source->transposed) dp_str_add(out, " transposed");
  if (source->run) dp_str_addf(out, " rows %lld of %lld", (long long)source->run, (long long)source->step);
  if (source->first) dp_str_addf(out, " at %lld", (long long)source->first);
  if (source->paired) dp_str_addf(out, " paired %lld", (long long)source->paired);
  if (source->plus != 0) {
    dp_str_add(out, " plus ");
    ir_print_float(out, source->plus);
  }
}

static void print_weight(dp_str *out, const ir_weight *weight) {
  dp_str_addf(out, "  weight @%s : ", weight->name);
  ir_print_type(out, &weight->type);
  if (weight->stack) dp_str_add(out, " stacked");
  if (weight->stack > 1) dp_str_addf(out, " %d", weight->stack);
  if (weight->first_layer) dp_str_addf(out, " first %lld", (long long)weight->first_layer);
  if (weight->optional) dp_str_add(out, " optional");
  if (weight->frozen) dp_str_add(out, " frozen");
  for (int i = 0; i < weight->source_count; i++) {
    dp_str_add(out, i ? ", " : " from ");
    print_source(out, &weight->sources[i]);
  }
  if (weight->tied) dp_str_addf(out, " or @%s", weight->tied);
  if (weight->filled) {
    dp_str_add(out, " or ");
    ir_print_float(out, weight->fill);
  }
  const char *separator = " storage ";
  for (int i = 0; i < IR_DTYPE_COUNT; i++) {
    if (!(weight->storage & 1u << i)) continue;
    dp_str_addf(out, "%s%s", separator, ir_dtype_name((ir_dtype)i));
    separator = ", ";
  }
  dp_str_addc(out, '\n');
}

static void print_graph(dp_str *out, const ir_graph *graph) {
  naming n = {.arena = dp_arena_new()};
  if (!n.arena) {
    out->failed = true;
    return;
  }
  forget_operands(graph->block);
  name_block(&n, graph->block);
  dp_str_addf(out, "  graph @%s", graph->name);
  print_args(out, &n, graph->block);
  dp_str_add(out, " {\n");
  print_block(out, &n, graph->block, 2);
  dp_str_add(out, "  }\n");
  dp_arena_free(n.arena);
}

void ir_print(dp_str *out, const ir_module *module) {
  dp_str_addf(out, "module %s {\n", module->name);
  for (int i = 0; i < module->weight_count; i++) print_weight(out, &module->weights[i]);
  for (const ir_graph *graph = module->graphs; graph; graph = graph->next) {
    if (module->weight_count || graph != module->graphs) dp_str_addc(out, '\n');
    print_graph(out, graph);
  }
  dp_str_add(out, "}\n");
}
