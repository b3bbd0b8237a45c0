/* codegen/cuda/backend.c: the vtable. The object is a cubin or PTX with its note (image.h); which GPU it is for is the
 * target's cpu: sm_80, sm_90a, sm_100a, ptx; else the first device's, and where there is none sm_80. */
#include "codegen/cuda/device.h"
#include "codegen/cuda/image.h"
#include "codegen/cuda/prelude.h"
#include "codegen/cuda/run.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Raised whenever the text for the same tile program and prelude changes. */
static const char version[] = "cuda 4";

static const char default_arch[] = "sm_80";

static void find_arch(const cg_target *target, char arch[CUDA_CHIP_NAME]) {
  cuda_device *devices = NULL;
  int count = 0;
  snprintf(arch, CUDA_CHIP_NAME, "%s", target && target->cpu ? target->cpu : default_arch);
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

/* For "ptx" of the oldest chip's, which the driver of any later one takes. */
static dp_status compile_text(const tile_program *program, const cg_target *target, const char *arch, cuda_output output,
                              cg_object *image) {
  dp_str source = {0}, log = {0};
  dp_status status = cuda_text(program, &source);
  if (status.code == DP_OK)
    status = cuda_compile_logged(source.text, strcmp(arch, "ptx") == 0 ? default_arch : arch, output, image, NULL, &log);
  if (status.code == DP_OK && target && target->report) cuda_report(log.text ? log.text : "", target->report);
  dp_str_free(&source);
  dp_str_free(&log);
  return status;
}

static dp_status compile(const tile_program *program, const cg_target *target, cg_object *object) {
  cuda_note needs = {.threads = CUDA_THREADS, .shared_bytes = (uint64_t)cuda_shared_bytes(program),
                     .scratch_floats = (uint64_t)cuda_scratch_floats(program)};
  find_arch(target, needs.chip);
  if (target && target->report) cuda_report_needs(&needs, target->report);
  cg_object image;
  DP_TRY(compile_text(program, target, needs.chip, strcmp(needs.chip, "ptx") == 0 ? CUDA_PTX : CUDA_CUBIN, &image));
  dp_status status = cuda_make_object(program, &needs, &image, object);
  cg_object_free(&image);
  return status;
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
  char arch[CUDA_CHIP_NAME];
  find_arch(target, arch);
  cg_object image;
  DP_TRY(compile_text(program, target, arch, kind == CG_TEXT_MACHINE ? CUDA_CUBIN : CUDA_PTX, &image));
  dp_str_addn(out, image.bytes, kind == CG_TEXT_MACHINE ? image.size : strnlen(image.bytes, image.size));
  cg_object_free(&image);
  return DP_SUCCESS;
}

/* ---- a program that is not loaded: what it would take on the first device */

/* All 0 where there is none. */
static cuda_device first_device(void) {
  cuda_device *list = NULL, first = {0};
  int count = 0;
  dp_status status = cuda_list_devices(&list, &count);
  if (status.code == DP_OK) first = list[0];
  dp_status_free(&status);
  free(list);
  return first;
}

static int64_t worker_bytes(const tile_code *code, const tile_program *program, int64_t max_tokens) {
  (void)code;
  cuda_device first = first_device();
  return cuda_worker_bytes(program, &first, cuda_scratch_floats(program), max_tokens);
}

static int64_t available(const tile_code *code) {
  (void)code;
  return first_device().memory;
}

static const tile_device device = {.worker_bytes = worker_bytes, .available = available};

const cg_backend cg_cuda = {
    .name = "cuda",
    .doc = "CUDA C for one persistent kernel a step, compiled by NVRTC",
    .fingerprint = fingerprint,
    .compile = compile,
    .load = cuda_load,
    .text = text,
    .devices = devices,
    .numbers = &cuda_numbers,
    .device = &device,
    .target_at = cuda_chip_at,
    .choose = cuda_choose,
};
