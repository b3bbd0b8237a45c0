/* codegen/cuda/devices.c: the driver and its devices as lines of text. */
#include "codegen/cuda/devices.h"
#include "codegen/cuda/driver.h"

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
