/* passes/store_cache.c: how the KV caches are stored: the type is set on every append, where the schedule reads it. */
#include "passes/passes.h"

#include <string.h>

static void set_storage(ir_block *block, const char *cache, const char *type) {
  for (ir_op *op = block->first; op; op = op->next) {
    if (op->body) set_storage(op->body, cache, type);
    if (op->code != IR_OP_append || (cache && strcmp(ir_get_string(op, "cache", ""), cache) != 0)) continue;
    ir_set_attr(op, ir_attr_s("storage", type));
  }
}

dp_status ps_store_cache(ir_module *module, const char *cache, const char *type) {
  if (strcmp(type, "f32") != 0 && strcmp(type, "f16") != 0)
    return dp_fail(DP_INVALID, "a KV cache is stored as f32 or f16, not '%s'", type);
  for (ir_graph *graph = module->graphs; graph; graph = graph->next) set_storage(graph->block, cache, type);
  return DP_SUCCESS;
}
