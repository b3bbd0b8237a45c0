/* ir/adapter.c: the two thin matrices beside a weight, as declarations: shapes, and names in PEFT's files. */
#include "ir/adapter.h"

#include <string.h>

static dp_status refuse(const ir_weight *weight, const char *why) {
  return dp_fail(DP_UNSUPPORTED, "weight '%s' cannot be adapted: %s", weight->name, why);
}

dp_status ir_name_adapted(const ir_weight *weight, dp_str *name) {
  static const char end[] = ".weight";
  if (weight->stack > 1) return refuse(weight, "it is many matrices a layer, one for each expert or head");
  if (weight->type.rank - weight->stack != 2) return refuse(weight, "it is no matrix");
  if (!weight->source_count) return refuse(weight, "the model does not say what it is called in files");
  const ir_source *source = &weight->sources[0];
  size_t length = strlen(source->pattern);
  if (length < sizeof end || strcmp(source->pattern + length + 1 - sizeof end, end) != 0)
    return refuse(weight, "its first name in files does not end in .weight, as the matrix of a module does");
  dp_str_addn(name, source->pattern, length + 1 - sizeof end);
  return name->failed ? dp_fail(DP_NO_MEMORY, "no memory for names of adapters") : DP_SUCCESS;
}

bool ir_shares_adapter(const ir_weight *weight) { return weight->source_count && weight->sources[0].run; }

/* ir_add_weight may move the weights: base is a copy. */
static dp_status declare(ir_module *module, const ir_weight *base, const ir_type *type, const char *module_name, const char *part,
                         const char *file_part, ir_source rows) {
  const char *name = dp_arena_printf(module->arena, "%s.%s", base->name, part);
  if (ir_find_weight(module, name)) return dp_fail(DP_INVALID, "weight '%s' has the name of an adapter's matrix", name);
  ir_weight *weight = ir_add_weight(module, name, type);
  weight->stack = base->stack;
  weight->first_layer = base->first_layer;
  weight->loc = base->loc;
  weight->sources = DP_NEW(module->arena, ir_source);
  weight->source_count = 1;
  weight->sources[0] = rows;
  weight->sources[0].pattern = dp_arena_printf(module->arena, "base_model.model.%s.%s.weight", module_name, file_part);
  return DP_SUCCESS;
}

static dp_status declare_both(ir_module *module, const ir_weight *base, int rank) {
  dp_str name = {0};
  dp_status status = ir_name_adapted(base, &name);
  if (status.code != DP_OK) {
    dp_str_free(&name);
    return status;
  }
  ir_source rows = base->sources[0];
  rows.transposed = false; /* PEFT keeps both as [out, in], also beside a Conv1D */
  ir_type a = base->type, b = base->type;
  a.dims[base->stack] = b.dims[base->stack + 1] = ir_static_dim(rank, "rank");
  status = declare(module, base, &a, name.text, "lora_a", "lora_A", (ir_source){0});
  /* The rows of b are those of the weight, where its file has them. */
  if (status.code == DP_OK) status = declare(module, base, &b, name.text, "lora_b", "lora_B", rows);
  dp_str_free(&name);
  return status;
}

dp_status ir_declare_adapters(ir_module *module, const ir_adaptation *how) {
  int count = module->weight_count;
  for (int i = 0; i < count; i++) {
    ir_weight base = module->weights[i];
    if (how[i].rank > 0) DP_TRY(declare_both(module, &base, how[i].rank));
  }
  return DP_SUCCESS;
}
