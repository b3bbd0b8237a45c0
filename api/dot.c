/* api/dot.c: a fused module as a Graphviz graph: a box a task kind with the ops in it, a frame around the layer loop.
 * Nodes are numbered as they stand in the module (in the ops' marks and the values' ids), so that the same model gives
 * the same text. */
#include "api/internal.h"

#include <string.h>

static void escape(dp_str *out, const char *text) {
  for (; *text; text++) {
    if (strchr("\"\\{}<>|", *text)) dp_str_addc(out, '\\');
    dp_str_addc(out, *text);
  }
}

static void type_label(dp_str *out, const ir_type *type) {
  dp_str text = {0};
  ir_print_type(&text, type);
  escape(out, text.text ? text.text : "");
  dp_str_free(&text);
}

static void number(const ir_block *b, int *next) {
  for (int i = 0; i < b->arg_count; i++) b->args[i]->id = (*next)++;
  for (ir_op *op = b->first; op; op = op->next) {
    op->mark = (*next)++;
    if (op->code == IR_OP_loop) number(op->body, next);
  }
}

static void node(dp_str *out, const ir_op *op) {
  dp_str_addf(out, "    op%d [shape=record, label=\"{", op->mark);
  escape(out, ir_get_string(op, "name", ir_op_info_of(op->code)->name));
  dp_str_add(out, "|");
  for (const ir_op *inner = op->body ? op->body->first : NULL; inner; inner = inner->next) {
    if (inner->code == IR_OP_yield || inner->code == IR_OP_select || inner->code == IR_OP_constant) continue;
    escape(out, ir_op_info_of(inner->code)->name);
    if (inner->code == IR_OP_weight) {
      dp_str_add(out, " ");
      escape(out, ir_get_string(inner, "name", ""));
    }
    dp_str_add(out, "\\l");
  }
  for (int i = 0; i < op->result_count; i++) {
    dp_str_add(out, "|");
    type_label(out, &op->results[i]->type);
  }
  dp_str_add(out, "}\"];\n");
}

/* Where a value comes from, seen from outside groups: an op, or an argument of the graph. */
static void edge(dp_str *out, const ir_value *value, const ir_op *to) {
  while (value->block && value->block->owner && value->block->owner->code == IR_OP_loop) {
    if (value->index == 0) return; /* the layer index */
    value = value->block->owner->operands[value->index - 1];
  }
  while (value->def && value->def->code == IR_OP_loop) value = value->def->body->last->operands[value->index];
  if (value->def)
    dp_str_addf(out, "  op%d -> op%d;\n", value->def->mark, to->mark);
  else
    dp_str_addf(out, "  arg%d -> op%d;\n", value->id, to->mark);
}

static void block(dp_str *out, const ir_block *b) {
  for (const ir_op *op = b->first; op; op = op->next) {
    if (op->code == IR_OP_loop) {
      dp_str_addf(out, "  subgraph cluster%d { label=\"%lld layers\"; style=rounded;\n", op->mark,
                  (long long)ir_get_int(op, "count", 1));
      block(out, op->body);
      dp_str_add(out, "  }\n");
    } else if (op->code == IR_OP_group) {
      node(out, op);
    }
  }
}

static void edges(dp_str *out, const ir_block *b) {
  for (const ir_op *op = b->first; op; op = op->next) {
    if (op->code == IR_OP_loop)
      edges(out, op->body);
    else if (op->code == IR_OP_group)
      for (int i = 0; i < op->operand_count; i++) edge(out, op->operands[i], op);
  }
}

void api_dot(dp_str *out, const ir_module *module) {
  dp_str_add(out,
             "digraph model {\n  rankdir=TB; node [fontname=\"sans-serif\", fontsize=10]; fontname=\"sans-serif\";\n");
  int next = 0;
  for (const ir_graph *graph = module->graphs; graph; graph = graph->next) number(graph->block, &next);
  for (const ir_graph *graph = module->graphs; graph; graph = graph->next) {
    for (int i = 0; i < graph->block->arg_count; i++) {
      const ir_value *argument = graph->block->args[i];
      dp_str_addf(out, "  arg%d [shape=ellipse, label=\"", argument->id);
      escape(out, argument->name ? argument->name : "input");
      dp_str_add(out, " ");
      type_label(out, &argument->type);
      dp_str_add(out, "\"];\n");
    }
    block(out, graph->block);
    edges(out, graph->block);
  }
  dp_str_add(out, "}\n");
}
