/* codegen/cuda/backend.c: the vtable. The object is a cubin; which GPU it is for is the target's cpu: sm_80, sm_90a,
 * sm_100a; else the first device's, and where there is none sm_80. */
#include "codegen/cuda/devices.h"
#include "codegen/cuda/prelude.h"
#include "codegen/cuda/run.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Raised whenever the text for the same tile program and prelude changes. */
static const char version[] = "cuda 3";

static const char default_arch[] = "sm_80";

static void find_arch(const cg_target *target, char arch[16]) {
  cuda_device *devices = NULL;
  int count = 0;
  snprintf(arch, 16, "%s", target && target->cpu ? target->cpu : default_arch);
  if (target && target->cpu) return;
  dp_status status = cuda_list_devices(&devices, &count);
  if (status.code == DP_OK) cuda_arch(&devices[0], arch);
  dp_status_free(&status);
  free(devices);
}

static dp_status fingerprint(const cg_target *target, dp_str *out) {
  char arch[16];
  find_arch(target, arch);
  static const char *const texts[] = {cuda_prelude_gpu,    cuda_prelude_scalar,   cuda_prelude_task,
                                      cuda_prelude_tensor, cuda_scalar_functions, cuda_scalar_exp};
  uint64_t prelude = 0;
  for (size_t i = 0; i < DP_COUNT(texts); i++) prelude = dp_hash(prelude, texts[i], strlen(texts[i]));
  dp_str_addf(out, "%s %016" PRIx64 " %s ", version, prelude, arch);
  return cuda_find_compiler(out);
}

static dp_status compile_text(const tile_program *program, const cg_target *target, cuda_output output,
                              cg_object *object) {
  dp_str source = {0};
  char arch[16];
  find_arch(target, arch);
  dp_status status = cuda_text(program, &source);
  if (status.code == DP_OK) status = cuda_compile(source.text, arch, output, object, NULL);
  dp_str_free(&source);
  return status;
}

static dp_status compile(const tile_program *program, const cg_target *target, cg_object *object) {
  return compile_text(program, target, CUDA_CUBIN, object);
}

/* The compiler is told of whatever the devices are: what is missing is one of them, or both. */
static dp_status devices(dp_str *out) {
  int driver = 0, compiler = 0;
  dp_status status = cuda_report_devices(&driver, out);
  dp_str_add(out, "compiler: ");
  dp_status found = cuda_describe_compiler(&compiler, out);
  if (found.code != DP_OK) dp_str_add(out, dp_status_text(&found));
  dp_str_addc(out, '\n');
  if (driver && compiler > driver / 1000)
    dp_str_addf(
        out,
        "compiler: newer than the driver, of CUDA %d.%d, which may not take its code: update the driver, or set "
        "DIPPER_NVRTC to the libnvrtc.so of CUDA %d.x\n",
        driver / 1000, driver % 1000 / 10, driver / 1000);
  dp_status_free(&found);
  return status;
}

static dp_status text(const tile_program *program, const cg_target *target, cg_text kind, dp_str *out) {
  if (kind == CG_TEXT_IR) return cuda_text(program, out);
  cg_object ptx;
  DP_TRY(compile_text(program, target, CUDA_PTX, &ptx));
  dp_str_addn(out, ptx.bytes, strnlen(ptx.bytes, ptx.size));
  cg_object_free(&ptx);
  return DP_SUCCESS;
}

/* Tasks as small as they come: a block has one at a time, and there are more blocks than a matrix has columns of tasks.
 */
static const tile_target numbers = {
    .cores = 132, .task_bytes = 16384, .row_tile = 64, .tensor = 1u << IR_f16 | 1u << IR_bf16};

const cg_backend cg_cuda = {
    .name = "cuda",
    .doc = "CUDA C for one persistent kernel a step, compiled by NVRTC",
    .fingerprint = fingerprint,
    .compile = compile,
    .load = cuda_load,
    .text = text,
    .devices = devices,
    .numbers = &numbers,
};
