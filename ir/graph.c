/* ir/graph.c: the graph IR as data: dtypes, dimensions and types; modules and blocks; building, one op at a time, each
 * checked by its shape rule; rewriting in place. Nothing is freed before its module. */
#include "ir/graph.h"
#include "ir/shape.h"

#include <string.h>

/* ---- element types, dimensions, types ---------------------------------------------------------------------------- */

typedef struct dtype_row {
  const char *name;
  int elements, bytes;
} dtype_row;

static const dtype_row dtypes[] = {
#define DTYPE(name, elements, bytes, doc) {#name, elements, bytes},
#include "ir/dtypes.def"
#undef DTYPE
};

const char *ir_dtype_name(ir_dtype dtype) { return dtypes[dtype].name; }
int ir_dtype_block_elements(ir_dtype dtype) { return dtypes[dtype].elements; }
int ir_dtype_block_bytes(ir_dtype dtype) { return dtypes[dtype].bytes; }

bool ir_dtype_parse(const char *name, ir_dtype *dtype) {
  for (int i = 0; i < IR_DTYPE_COUNT; i++) {
    if (strcmp(dtypes[i].name, name) == 0) {
      *dtype = (ir_dtype)i;
      return true;
    }
  }
  return false;
}

ir_dim ir_static_dim(int64_t n, const char *name) { return (ir_dim){.add = n, .name = name}; }
ir_dim ir_symbol_dim(const char *symbol) { return (ir_dim){.symbol = symbol, .coef = 1}; }
bool ir_dim_is_static(ir_dim d) { return !d.symbol; }

bool ir_dim_equal(ir_dim a, ir_dim b) {
  if (a.coef != b.coef || a.add != b.add || !a.symbol != !b.symbol) return false;
  return !a.symbol || strcmp(a.symbol, b.symbol) == 0;
}

bool ir_type_equal(const ir_type *a, const ir_type *b) {
  if (a->dtype != b->dtype || a->rank != b->rank) return false;
  for (int i = 0; i < a->rank; i++)
    if (!ir_dim_equal(a->dims[i], b->dims[i])) return false;
  return true;
}

int64_t ir_static_size(const ir_type *type, int from) {
  int64_t size = 1;
  for (int i = from; i < type->rank; i++)
    if (type->dims[i].symbol || __builtin_mul_overflow(size, type->dims[i].add, &size)) return -1;
  return size;
}

/* ---- ops --------------------------------------------------------------------------------------------------------- */

static const ir_op_info op_infos[] = {
#define IR_OP(name, operands, attrs, shape, gradient, tile, traits, doc) {#name, operands, attrs, traits, doc},
#include "ir/ops.def"
#undef IR_OP
};

const ir_op_info *ir_op_info_of(ir_opcode code) { return &op_infos[code]; }

bool ir_opcode_parse(const char *name, ir_opcode *code) {
  for (int i = 0; i < IR_OP_COUNT; i++) {
    if (strcmp(op_infos[i].name, name) == 0) {
      *code = (ir_opcode)i;
      return true;
    }
  }
  return false;
}

/* ---- modules, blocks --------------------------------------------------------------------------------------------- */

ir_module *ir_module_new(const char *name) {
  dp_arena *arena = dp_arena_new();
  if (!arena) return NULL;
  ir_module *module = DP_NEW(arena, ir_module);
  module->arena = arena;
  module->name = dp_arena_strdup(arena, name);
  return module;
}

void ir_module_free(ir_module *module) {
  if (module) dp_arena_free(module->arena); /* the module itself lies in it */
}

/* Dimension strings may come from another arena (a parser's, another module's). */
static ir_type own_type(ir_module *module, const ir_type *type) {
  ir_type copy = *type;
  for (int i = 0; i < copy.rank; i++) {
    if (copy.dims[i].symbol) copy.dims[i].symbol = dp_arena_strdup(module->arena, copy.dims[i].symbol);
    if (copy.dims[i].name) copy.dims[i].name = dp_arena_strdup(module->arena, copy.dims[i].name);
  }
  return copy;
}

static const char *own_string(ir_module *module, const char *s) { return s ? dp_arena_strdup(module->arena, s) : NULL; }

ir_weight *ir_add_weight(ir_module *module, const char *name, const ir_type *type) {
  ir_weight weight = {.name = own_string(module, name), .type = own_type(module, type)};
  DP_PUSH(module->arena, module->weights, module->weight_count, module->weight_cap) = weight;
  return &module->weights[module->weight_count - 1];
}

ir_weight *ir_find_weight(const ir_module *module, const char *name) {
  for (int i = 0; i < module->weight_count; i++)
    if (strcmp(module->weights[i].name, name) == 0) return &module->weights[i];
  return NULL;
}

ir_graph *ir_add_graph(ir_module *module, const char *name) {
  ir_graph *graph = DP_NEW(module->arena, ir_graph);
  graph->name = own_string(module, name);
  graph->block = ir_block_new(module, NULL);
  ir_graph **end = &module->graphs;
  while (*end) end = &(*end)->next;
  *end = graph;
  return graph;
}

ir_graph *ir_find_graph(const ir_module *module, const char *name) {
  for (ir_graph *graph = module->graphs; graph; graph = graph->next)
    if (strcmp(graph->name, name) == 0) return graph;
  return NULL;
}

ir_block *ir_block_new(ir_module *module, ir_op *owner) {
  ir_block *block = DP_NEW(module->arena, ir_block);
  block->module = module;
  block->owner = owner;
  return block;
}

ir_value *ir_add_arg(ir_block *block, const ir_type *type, const char *name) {
  ir_module *module = block->module;
  ir_value *arg = DP_NEW(module->arena, ir_value);
  *arg = (ir_value){own_type(module, type), NULL, block, block->arg_count, own_string(module, name), 0};
  /* Arguments are few and added before anything else: grown in powers of two without a stored capacity. */
  int n = block->arg_count;
  if ((n & (n - 1)) == 0) {
    ir_value **args = DP_NEW_ARRAY(module->arena, ir_value *, n ? 2 * n : 1);
    if (n) memcpy(args, block->args, sizeof *args * (size_t)n);
    block->args = args;
  }
  block->args[block->arg_count++] = arg;
  return arg;
}

/* ---- building ---------------------------------------------------------------------------------------------------- */

ir_attr ir_attr_i(const char *name, int64_t value) { return (ir_attr){.name = name, .kind = IR_ATTR_INT, .i = value}; }
ir_attr ir_attr_f(const char *name, double value) { return (ir_attr){.name = name, .kind = IR_ATTR_FLOAT, .f = value}; }
ir_attr ir_attr_s(const char *name, const char *value) {
  return (ir_attr){.name = name, .kind = IR_ATTR_STRING, .s = value};
}
ir_attr ir_attr_d(const char *name, const ir_type *value) {
  return (ir_attr){.name = name, .kind = IR_ATTR_SHAPE, .shape = *value};
}

static ir_attr own_attr(ir_module *module, const ir_attr *attr) {
  ir_attr copy = *attr;
  copy.name = own_string(module, attr->name);
  if (attr->kind == IR_ATTR_STRING) copy.s = own_string(module, attr->s);
  if (attr->kind == IR_ATTR_SHAPE) copy.shape = own_type(module, &attr->shape);
  return copy;
}

void ir_set_attr(ir_op *op, ir_attr attr) {
  ir_module *module = op->parent->module;
  int at = 0, position = ir_attr_position(op->code, attr.name);
  while (at < op->attr_count && ir_attr_position(op->code, op->attrs[at].name) < position) at++;
  if (at == op->attr_count || strcmp(op->attrs[at].name, attr.name) != 0) {
    ir_attr *attrs = DP_NEW_ARRAY(module->arena, ir_attr, op->attr_count + 1);
    for (int i = 0; i < op->attr_count; i++) attrs[i + (i >= at)] = op->attrs[i];
    op->attrs = attrs;
    op->attr_count++;
  }
  op->attrs[at] = own_attr(module, &attr);
}

static ir_op *new_op(ir_block *block, ir_opcode code, ir_value *const *operands, int operand_count,
                     const ir_type *types, int result_count, ir_block *body, dp_loc loc) {
  ir_module *module = block->module;
  ir_op *op = DP_NEW(module->arena, ir_op);
  op->code = code;
  op->parent = block;
  op->loc = loc;
  op->body = body;
  if (body) body->owner = op;
  op->operand_count = operand_count;
  op->operands = DP_NEW_ARRAY(module->arena, ir_value *, operand_count);
  if (operand_count) memcpy(op->operands, operands, sizeof *operands * (size_t)operand_count);
  op->result_count = result_count;
  op->results = DP_NEW_ARRAY(module->arena, ir_value *, result_count);
  for (int i = 0; i < result_count; i++) {
    op->results[i] = DP_NEW(module->arena, ir_value);
    *op->results[i] = (ir_value){own_type(module, &types[i]), op, NULL, i, NULL, 0};
  }
  return op;
}

ir_op *ir_emit(ir_block *block, ir_op *before, ir_opcode code, ir_value *const *operands, int operand_count,
               const ir_attr *attrs, int attr_count, ir_block *body, dp_loc loc, dp_diags *diags) {
  ir_module *module = block->module;
  ir_shaping s = {.module = module,
                  .code = code,
                  .operands = operands,
                  .operand_count = operand_count,
                  .attrs = attrs,
                  .attr_count = attr_count,
                  .body = body,
                  .arena = module->arena};
  if (!ir_infer(&s)) {
    if (diags) dp_error(diags, loc, "%s", s.message);
    return NULL;
  }
  ir_op *op = new_op(block, code, operands, operand_count, s.results, s.result_count, body, loc);
  for (int i = 0; i < attr_count; i++) ir_set_attr(op, attrs[i]);
  ir_insert(block, before, op);
  return op;
}

const ir_attr *ir_find_attr(const ir_op *op, const char *name) {
  for (int i = 0; i < op->attr_count; i++)
    if (strcmp(op->attrs[i].name, name) == 0) return &op->attrs[i];
  return NULL;
}

int64_t ir_get_int(const ir_op *op, const char *name, int64_t otherwise) {
  const ir_attr *attr = ir_find_attr(op, name);
  return attr ? attr->i : otherwise;
}

double ir_get_float(const ir_op *op, const char *name, double otherwise) {
  const ir_attr *attr = ir_find_attr(op, name);
  return attr ? attr->f : otherwise;
}

const char *ir_get_string(const ir_op *op, const char *name, const char *otherwise) {
  const ir_attr *attr = ir_find_attr(op, name);
  return attr ? attr->s : otherwise;
}

/* ---- rewriting --------------------------------------------------------------------------------------------------- */

void ir_unlink(ir_op *op) {
  ir_block *block = op->parent;
  *(op->previous ? &op->previous->next : &block->first) = op->next;
  *(op->next ? &op->next->previous : &block->last) = op->previous;
  op->previous = op->next = NULL;
}

void ir_insert(ir_block *block, ir_op *before, ir_op *op) {
  op->parent = block;
  op->next = before;
  op->previous = before ? before->previous : block->last;
  *(op->previous ? &op->previous->next : &block->first) = op;
  *(before ? &before->previous : &block->last) = op;
}

void ir_replace_uses(ir_block *block, ir_value *old, ir_value *fresh) {
  for (ir_op *op = block->first; op; op = op->next) {
    for (int i = 0; i < op->operand_count; i++)
      if (op->operands[i] == old) op->operands[i] = fresh;
    if (op->body) ir_replace_uses(op->body, old, fresh);
  }
}

int ir_count_uses(const ir_block *block, const ir_value *value) {
  int uses = 0;
  for (const ir_op *op = block->first; op; op = op->next) {
    for (int i = 0; i < op->operand_count; i++) uses += op->operands[i] == value;
    if (op->body) uses += ir_count_uses(op->body, value);
  }
  return uses;
}

/* What a clone replaces: grows by the values defined inside the cloned bodies. */
typedef struct value_map {
  dp_arena *arena;
  ir_value **from, **to;
  int from_count, from_cap, to_count, to_cap;
} value_map;

static void map_value(value_map *map, ir_value *from, ir_value *to) {
  DP_PUSH(map->arena, map->from, map->from_count, map->from_cap) = from;
  DP_PUSH(map->arena, map->to, map->to_count, map->to_cap) = to;
}

static ir_value *mapped(const value_map *map, ir_value *value) {
  for (int i = map->from_count - 1; i >= 0; i--)
    if (map->from[i] == value) return map->to[i];
  return value;
}

static ir_op *clone_op(value_map *map, const ir_op *op, ir_block *block, ir_op *before) {
  ir_module *module = block->module;
  ir_value **operands = DP_NEW_ARRAY(map->arena, ir_value *, op->operand_count);
  for (int i = 0; i < op->operand_count; i++) operands[i] = mapped(map, op->operands[i]);
  ir_type *types = DP_NEW_ARRAY(map->arena, ir_type, op->result_count);
  for (int i = 0; i < op->result_count; i++) types[i] = op->results[i]->type;
  ir_block *body = op->body ? ir_block_new(module, NULL) : NULL;
  ir_op *copy = new_op(block, op->code, operands, op->operand_count, types, op->result_count, body, op->loc);
  for (int i = 0; i < op->result_count; i++) {
    copy->results[i]->name = own_string(module, op->results[i]->name);
    map_value(map, op->results[i], copy->results[i]);
  }
  copy->attrs = DP_NEW_ARRAY(module->arena, ir_attr, op->attr_count);
  copy->attr_count = op->attr_count;
  for (int i = 0; i < op->attr_count; i++) copy->attrs[i] = own_attr(module, &op->attrs[i]);
  if (body) {
    for (int i = 0; i < op->body->arg_count; i++) {
      ir_value *arg = op->body->args[i];
      map_value(map, arg, ir_add_arg(body, &arg->type, arg->name));
    }
    for (const ir_op *inner = op->body->first; inner; inner = inner->next) clone_op(map, inner, body, NULL);
  }
  ir_insert(block, before, copy);
  return copy;
}

ir_op *ir_clone(ir_op *op, ir_block *block, ir_op *before, ir_value *const *from, ir_value *const *to, int map_count) {
  value_map map = {.arena = block->module->arena};
  for (int i = map_count - 1; i >= 0; i--) map_value(&map, from[i], to[i]); /* the first match of the caller's wins */
  return clone_op(&map, op, block, before);
}

/* Bodies and their arguments are mapped by clone_op itself. */
ir_graph *ir_clone_graph(ir_module *module, const ir_graph *graph, const char *name) {
  value_map map = {.arena = module->arena};
  ir_graph *copy = ir_add_graph(module, name);
  copy->loc = graph->loc;
  for (int i = 0; i < graph->block->arg_count; i++) {
    ir_value *arg = graph->block->args[i];
    map_value(&map, arg, ir_add_arg(copy->block, &arg->type, arg->name));
  }
  for (ir_op *op = graph->block->first; op; op = op->next) clone_op(&map, op, copy->block, NULL);
  return copy;
}
