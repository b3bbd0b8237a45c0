/* tests/fuzz/fuzz_weights.c: bytes as a GGUF or safetensors file in memory: opened, listed, a row of each tensor
 * decoded, and bound to a small model whose sources read windows, slabs and stacks of whatever the file calls "w". */
#include "runtime/weights.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void decode_tensors(const rt_weights_file *file) {
  for (int i = 0; i < rt_weights_tensor_count(file); i++) {
    const rt_tensor *tensor = rt_weights_tensor(file, i);
    int64_t cols = tensor->rank > 0 ? tensor->dims[tensor->rank - 1] : 1;
    if (!tensor->supported || tensor->elements == 0 || cols > 1 << 16) continue;
    float *row = malloc((size_t)cols * sizeof *row);
    if (row) rt_dequantize_row(tensor->dtype, tensor->data, row, cols);
    free(row);
  }
}

static void ask_metadata(const rt_weights_file *file) {
  static const char *const keys[] = {"vocab_size", "rope_theta", "rope_scaling.factor", "{arch}.block_count"};
  double number;
  for (size_t i = 0; i < DP_COUNT(keys); i++) rt_weights_number(file, keys[i], &number);
  for (int i = 0; i < rt_weights_meta_count(file); i++) rt_weights_number(file, rt_weights_meta(file, i)->key, &number);
}

/* The shape of the file's own "w" where that helps to get past the shape checks. */
static ir_module *model_for(const rt_weights_file *file) {
  static const ir_source sources[] = {{.pattern = "w"},
                                      {.pattern = "w", .transposed = true},
                                      {.pattern = "w", .run = 1, .step = 2, .first = 1},
                                      {.pattern = "w", .transposed = true, .run = 2, .step = 3},
                                      {.pattern = "w", .paired = 1},
                                      {.pattern = "w.weight"}};
  const rt_tensor *w = rt_weights_find(file, "w"), *words = rt_weights_find(file, "w.qweight");
  ir_module *module = ir_module_new("fuzz");
  if (!w) w = words;
  for (size_t i = 0; module && w && i < DP_COUNT(sources); i++) {
    for (int stack = 0; stack < 3; stack++) {
      char name[] = {'a' + (char)i, '0' + (char)stack, 0};
      ir_type type = {.dtype = IR_f32, .rank = w->rank < IR_MAX_RANK ? w->rank : IR_MAX_RANK};
      for (int d = 0; d < type.rank; d++) type.dims[d] = ir_static_dim(w->dims[d] < 200 ? w->dims[d] : 200, NULL);
      if (sources[i].run && type.rank > 0) type.dims[0].add = type.dims[0].add / 2;
      ir_weight *weight = ir_add_weight(module, name, &type);
      weight->stack = stack, weight->optional = true;
      weight->sources = DP_NEW(module->arena, ir_source);
      *weight->sources = sources[i], weight->source_count = 1;
    }
  }
  return module;
}

static void read_bound(const rt_binding *binding, int weight_count) {
  for (int w = 0; w < weight_count; w++) {
    int64_t layers = rt_binding_layers(binding, w);
    const rt_bound *bound = rt_binding_get(binding, w, layers - 1);
    if (!bound || bound->rows > 4096 || bound->cols > 4096 || bound->rows * bound->cols > 1 << 20) continue;
    float *row = malloc((size_t)bound->cols * sizeof *row);
    int64_t size = bound->vector ? -1 : rt_packed_size(bound->dtype, bound->rows, bound->cols);
    uint8_t *packed = size > 0 ? malloc((size_t)size) : NULL;
    if (row) rt_bound_row(bound, bound->rows - 1, row);
    dp_status status = packed ? rt_pack_bound(bound, false, packed, 0, rt_packed_blocks(bound->rows)) : DP_SUCCESS;
    dp_status_free(&status);
    free(packed);
    free(row);
  }
}

/* One weight at a time: a binding with a misfit is none at all. */
static void bind_all(const rt_weights_file *file) {
  ir_module *module = model_for(file);
  int count = module ? module->weight_count : 0;
  ir_weight *weights = module ? module->weights : NULL;
  for (int i = 0; i < count; i++) {
    rt_binding *binding;
    module->weights = &weights[i], module->weight_count = 1;
    dp_status status = rt_bind_weights(module, file, 0, &binding);
    if (status.code == DP_OK) read_bound(binding, 1);
    dp_status_free(&status);
    rt_binding_free(binding);
  }
  ir_module_free(module);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  rt_weights_file *file;
  dp_status status = rt_weights_open_memory("fuzz", data, size, &file);
  if (status.code == DP_OK) {
    dp_str text = {0};
    rt_weights_list(file, false, &text);
    rt_weights_list(file, true, &text);
    dp_str_free(&text);
    decode_tensors(file);
    ask_metadata(file);
    bind_all(file);
  }
  dp_status_free(&status);
  rt_weights_close(file);
  return 0;
}
