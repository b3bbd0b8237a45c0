/* codegen/cuda/device.c: the part of the vtable that needs neither the text nor NVRTC: devices, and objects for them. */
#include "codegen/cuda/device.h"
#include "codegen/cuda/image.h"
#include "codegen/cuda/run.h"

#include <stdlib.h>

static void add_device(int index, const cuda_device *d, dp_str *out) {
  char arch[16];
  cuda_arch(d, arch);
  dp_str_addf(out, "gpu %d: %s, %s, %d SMs, %.1f GB%s\n", index, d->name, arch, d->processors, (double)d->memory * 1e-9,
              d->major < 8 ? "; too old: sm_80 or later is needed" : "");
}

dp_status cuda_report_devices(int *driver, dp_str *out) {
  cuda_device *list;
  int count;
  *driver = 0;
  DP_TRY(cuda_find_driver(driver));
  dp_str_addf(out, "driver: CUDA %d.%d\n", *driver / 1000, *driver % 1000 / 10);
  DP_TRY(cuda_list_devices(&list, &count));
  for (int i = 0; i < count; i++) add_device(i, &list[i], out);
  dp_status status = DP_SUCCESS;
  if (list[0].major < 8)
    status = dp_fail(DP_UNSUPPORTED,
                     "no GPU that can be used: %s has compute capability %d.%d, and 8.0 (Ampere) or later is "
                     "needed%s",
                     list[0].name, list[0].major, list[0].minor,
                     count > 1 ? " of the first; CUDA_VISIBLE_DEVICES chooses" : "");
  free(list);
  return status;
}

static dp_status list(dp_str *out) {
  int driver;
  return cuda_report_devices(&driver, out);
}

dp_status cuda_choose(const char *const *targets, int count, int *index, dp_str *device) {
  cuda_device *list;
  int devices, most = 0;
  *index = -1;
  DP_TRY(cuda_list_devices(&list, &devices));
  for (int i = 0; i < count; i++) {
    int serves = cuda_chip_serves(targets[i], list[0].major, list[0].minor);
    if (serves > most) *index = i, most = serves;
  }
  if (device) dp_str_addf(device, "%s, compute capability %d.%d", list[0].name, list[0].major, list[0].minor);
  free(list);
  return DP_SUCCESS;
}

const tile_target cuda_numbers = {
    .cores = 132, .task_bytes = 16384, .row_tile = 64, .tensor = 1u << IR_f16 | 1u << IR_bf16};

static dp_status compiles_nothing(void) {
  return dp_fail(DP_UNSUPPORTED, "this program has no compiler for GPUs: it runs what was compiled");
}
static dp_status no_fingerprint(const cg_target *target, dp_str *out) { return (void)target, (void)out, compiles_nothing(); }
static dp_status no_object(const tile_program *program, const cg_target *target, cg_object *object) {
  return (void)program, (void)target, (void)object, compiles_nothing();
}
static dp_status no_text(const tile_program *program, const cg_target *target, cg_text kind, dp_str *out) {
  return (void)program, (void)target, (void)kind, (void)out, compiles_nothing();
}

const cg_backend cg_cuda_objects = {
    .name = "cuda",
    .doc = "GPU code that was compiled ahead of time",
    .fingerprint = no_fingerprint,
    .compile = no_object,
    .load = cuda_load,
    .text = no_text,
    .devices = list,
    .numbers = &cuda_numbers,
    .target_at = cuda_chip_at,
    .choose = cuda_choose,
};
