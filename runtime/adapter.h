/* runtime/adapter.h: adapters of low rank on disk, as PEFT has them: DIR/adapter_model.safetensors with two matrices for each
 * module (ir/adapter.h), DIR/adapter_config.json with ranks, alphas and names. */
#ifndef DIPPER_RUNTIME_ADAPTER_H
#define DIPPER_RUNTIME_ADAPTER_H

#include "ir/adapter.h"
#include "runtime/weights.h"

/* Is it a folder with an adapter? */
bool rt_is_adapter(const char *directory);
/* Which of the module's weights the folder's adapter stands beside, and how: how[weight_count] is filled. *file: its matrices,
 * the caller's. DP_NOT_FOUND, DP_INVALID, DP_UNSUPPORTED say what is wrong with the folder. */
dp_status rt_adapter_open(const char *directory, const ir_module *module, ir_adaptation *how, rt_weights_file **file);
/* Binds the module's weights from `first` on, as ir_declare_adapters made them, behind those of `binding`, and anew those that
 * are whole: to the file's tensors, all of which must fit. When that is NULL, as training begins: `a` uniform within
 * 1 / sqrt(in), `b` zero, what is whole stays as it is. */
dp_status rt_bind_adapter(ir_module *module, int first, const ir_adaptation *how, const rt_weights_file *file, uint64_t seed,
                          rt_binding *binding);
/* Adds scale * b @ a to the weights before `first`, which are f32 in the binding's memory from then on; sums in f64, rounded once.
 * DP_UNSUPPORTED for a weight that shares its numbers with another one. */
dp_status rt_adapter_merge(const ir_module *module, int first, const ir_adaptation *how, rt_binding *binding);
/* Writes the weights before `first`, without the adapter's, as rt_save_weights. */
dp_status rt_save_without_adapter(const char *path, const ir_module *module, int first, const rt_binding *binding, ir_dtype dtype);
/* Writes both files into `directory`, which is there. how: of the weights before `first`; base: what the config calls the
 * model's own weights. */
dp_status rt_adapter_save(const char *directory, const ir_module *module, int first, const ir_adaptation *how,
                          const rt_binding *binding, const char *base);
/* The bytes that it would write, about. */
uint64_t rt_adapter_bytes(const ir_module *module, int first, const ir_adaptation *how, const rt_binding *binding);

#endif
