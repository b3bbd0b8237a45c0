/* codegen/cuda/driver.c: libcuda's functions by name, and errors as statuses. */
#include "codegen/cuda/driver.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { /* cuda.h's numbers */
       OUT_OF_MEMORY = 2,
       ATTRIBUTE_PROCESSORS = 16,
       ATTRIBUTE_MAJOR = 75,
       ATTRIBUTE_MINOR = 76,
       ATTRIBUTE_COOPERATIVE = 95,
       ATTRIBUTE_SHARED = 97,
       FUNCTION_SHARED = 8,
       OLDEST_DRIVER = 12000,
};

typedef struct driver {
  void *library;
  int (*init)(unsigned flags);
  int (*version)(int *version);
  int (*error_text)(int error, const char **text);
  int (*device_count)(int *count);
  int (*device)(int *device, int index);
  int (*device_name)(char *name, int size, int device);
  int (*device_memory)(size_t *bytes, int device);
  int (*device_attribute)(int *value, int attribute, int device);
  int (*retain_context)(void **context, int device);
  int (*release_context)(int device);
  int (*set_context)(void *context);
  int (*synchronize)(void);
  int (*load)(void **module, const void *image);
  int (*unload)(void *module);
  int (*function)(void **function, void *module, const char *name);
  int (*function_attribute)(void *function, int attribute, int value);
  int (*launch)(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                unsigned shared, void *stream, void **arguments);
  int (*allocate)(cuda_address *address, size_t bytes);
  int (*release)(cuda_address address);
  int (*put)(cuda_address to, const void *from, size_t bytes);
  int (*get)(void *to, cuda_address from, size_t bytes);
  int (*move)(cuda_address to, cuda_address from, size_t bytes);
  int (*clear)(cuda_address at, unsigned char value, size_t bytes);
} driver;

static const struct {
  const char *name;
  size_t offset;
} symbols[] = {
    {"cuInit", offsetof(driver, init)},
    {"cuDriverGetVersion", offsetof(driver, version)},
    {"cuGetErrorString", offsetof(driver, error_text)},
    {"cuDeviceGetCount", offsetof(driver, device_count)},
    {"cuDeviceGet", offsetof(driver, device)},
    {"cuDeviceGetName", offsetof(driver, device_name)},
    {"cuDeviceTotalMem_v2", offsetof(driver, device_memory)},
    {"cuDeviceGetAttribute", offsetof(driver, device_attribute)},
    {"cuDevicePrimaryCtxRetain", offsetof(driver, retain_context)},
    {"cuDevicePrimaryCtxRelease_v2", offsetof(driver, release_context)},
    {"cuCtxSetCurrent", offsetof(driver, set_context)},
    {"cuCtxSynchronize", offsetof(driver, synchronize)},
    {"cuModuleLoadData", offsetof(driver, load)},
    {"cuModuleUnload", offsetof(driver, unload)},
    {"cuModuleGetFunction", offsetof(driver, function)},
    {"cuFuncSetAttribute", offsetof(driver, function_attribute)},
    {"cuLaunchCooperativeKernel", offsetof(driver, launch)},
    {"cuMemAlloc_v2", offsetof(driver, allocate)},
    {"cuMemFree_v2", offsetof(driver, release)},
    {"cuMemcpyHtoD_v2", offsetof(driver, put)},
    {"cuMemcpyDtoH_v2", offsetof(driver, get)},
    {"cuMemcpyDtoD_v2", offsetof(driver, move)},
    {"cuMemsetD8_v2", offsetof(driver, clear)},
};

struct cuda_gpu {
  driver driver;
  cuda_device device;
  int handle;
  void *context, *module;
  cuda_address *allocations;
  int count, cap;
};

/* ---- the driver */

static dp_status failed(const driver *d, const char *what, int error) {
  const char *text = NULL;
  if (d->error_text) d->error_text(error, &text);
  return dp_fail(DP_IO, "the GPU: %s: %s (error %d)", what, text ? text : "unknown", error);
}

static dp_status open_driver(driver *d) {
  *d = (driver){0};
  const char *named = getenv("DIPPER_LIBCUDA"), *path = named && *named ? named : "libcuda.so.1";
  d->library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!d->library)
    return dp_fail(DP_NOT_FOUND, "no GPU: NVIDIA's driver (%s) is not installed or not visible in this container",
                   path);
  for (size_t i = 0; i < DP_COUNT(symbols); i++) {
    void *address = dlsym(d->library, symbols[i].name);
    if (!address) {
      dlclose(d->library);
      return dp_fail(DP_UNSUPPORTED, "no GPU: the driver has no %s: it must be of CUDA 12 or later (550 or newer)",
                     symbols[i].name);
    }
    memcpy((char *)d + symbols[i].offset, &address, sizeof address);
  }
  int version = 0, error = d->init(0);
  if (error == 0) error = d->version(&version);
  dp_status status = DP_SUCCESS;
  if (error == 100) /* CUDA_ERROR_NO_DEVICE */
    status = dp_fail(DP_NOT_FOUND, "no GPU: the driver sees no device (CUDA_VISIBLE_DEVICES hides some)");
  else if (error)
    status = failed(d, "the driver does not start", error);
  else if (version < OLDEST_DRIVER)
    status = dp_fail(DP_UNSUPPORTED, "no GPU: the driver is of CUDA %d.%d, and 12.0 or later is needed", version / 1000,
                     version % 1000 / 10);
  if (status.code != DP_OK) dlclose(d->library);
  return status;
}

static dp_status describe(const driver *d, int index, int *handle, cuda_device *device) {
  size_t memory = 0;
  int error = d->device(handle, index);
  if (error == 0) error = d->device_name(device->name, sizeof device->name, *handle);
  if (error == 0) error = d->device_memory(&memory, *handle);
  if (error == 0) error = d->device_attribute(&device->major, ATTRIBUTE_MAJOR, *handle);
  if (error == 0) error = d->device_attribute(&device->minor, ATTRIBUTE_MINOR, *handle);
  if (error == 0) error = d->device_attribute(&device->processors, ATTRIBUTE_PROCESSORS, *handle);
  const char *blocks = getenv("DIPPER_CUDA_BLOCKS"); /* fewer than SMs: to see that no bit depends on how many */
  if (blocks && atoi(blocks) > 0 && atoi(blocks) < device->processors) device->processors = atoi(blocks);
  if (error == 0) error = d->device_attribute(&device->shared_bytes, ATTRIBUTE_SHARED, *handle);
  device->memory = (int64_t)memory;
  return error ? failed(d, "a device's numbers", error) : DP_SUCCESS;
}

dp_status cuda_list_devices(cuda_device **list, int *count) {
  driver d;
  *list = NULL;
  *count = 0;
  DP_TRY(open_driver(&d));
  int error = d.device_count(count), handle;
  dp_status status = error ? failed(&d, "the number of devices", error) : DP_SUCCESS;
  if (status.code == DP_OK && *count < 1)
    status = dp_fail(DP_NOT_FOUND, "no GPU: the driver sees no device (CUDA_VISIBLE_DEVICES hides some)");
  if (status.code == DP_OK && !(*list = calloc((size_t)*count, sizeof **list)))
    status = dp_fail(DP_NO_MEMORY, "no memory for a list of devices");
  for (int i = 0; status.code == DP_OK && i < *count; i++) status = describe(&d, i, &handle, &(*list)[i]);
  if (status.code != DP_OK) {
    free(*list);
    *list = NULL;
    *count = 0;
  }
  dlclose(d.library);
  return status;
}

void cuda_arch(const cuda_device *device, char arch[16]) {
  if (device->major == 8)
    strcpy(arch, "sm_80");
  else
    snprintf(arch, 16, "sm_%d%d%s", device->major % 100, device->minor % 10,
             device->major == 9 || device->major == 10 ? "a" : "");
}

/* ---- a device */

dp_status cuda_open(int index, cuda_gpu **result) {
  *result = NULL;
  cuda_gpu *g = calloc(1, sizeof *g);
  if (!g) return dp_fail(DP_NO_MEMORY, "no memory for a GPU");
  dp_status status = open_driver(&g->driver);
  if (status.code != DP_OK) {
    free(g);
    return status;
  }
  const driver *d = &g->driver;
  int cooperative = 0;
  status = describe(d, index, &g->handle, &g->device);
  if (status.code == DP_OK && g->device.major < 8)
    status = dp_fail(DP_UNSUPPORTED, "%s has compute capability %d.%d: 8.0 (Ampere) or later is needed", g->device.name,
                     g->device.major, g->device.minor);
  if (status.code == DP_OK) {
    int error = d->device_attribute(&cooperative, ATTRIBUTE_COOPERATIVE, g->handle);
    if (!error && !cooperative)
      status = dp_fail(DP_UNSUPPORTED, "%s cannot launch cooperative kernels", g->device.name);
    if (!error && status.code == DP_OK) error = d->retain_context(&g->context, g->handle);
    if (!error && status.code == DP_OK) error = d->set_context(g->context);
    if (error) status = failed(d, "its context", error);
  }
  if (status.code == DP_OK)
    *result = g;
  else
    cuda_close(g);
  return status;
}

void cuda_close(cuda_gpu *g) {
  if (!g) return;
  for (int i = 0; i < g->count; i++)
    if (g->allocations[i]) g->driver.release(g->allocations[i]);
  free(g->allocations);
  if (g->module) g->driver.unload(g->module);
  if (g->context) g->driver.release_context(g->handle);
  dlclose(g->driver.library);
  free(g);
}

const cuda_device *cuda_device_of(const cuda_gpu *g) { return &g->device; }

dp_status cuda_load_module(cuda_gpu *g, const void *image) {
  int error = g->driver.load(&g->module, image);
  return error ? failed(&g->driver, "code made for it is not taken", error) : DP_SUCCESS;
}

dp_status cuda_run_kernel(cuda_gpu *g, const char *name, int blocks, int threads, int64_t shared_bytes,
                          void *argument) {
  const driver *d = &g->driver;
  void *function, *arguments[] = {argument};
  if (shared_bytes > g->device.shared_bytes)
    return dp_fail(DP_UNSUPPORTED, "%s gives a block %d bytes of shared memory, and %lld are needed", g->device.name,
                   g->device.shared_bytes, (long long)shared_bytes);
  int error = d->set_context(g->context); /* of the thread that calls */
  if (!error) error = d->function(&function, g->module, name);
  if (!error) error = d->function_attribute(function, FUNCTION_SHARED, (int)shared_bytes);
  if (!error)
    error =
        d->launch(function, (unsigned)blocks, 1, 1, (unsigned)threads, 1, 1, (unsigned)shared_bytes, NULL, arguments);
  if (!error) error = d->synchronize();
  return error ? failed(d, name, error) : DP_SUCCESS;
}

/* ---- memory */

dp_status cuda_allocate(cuda_gpu *g, int64_t bytes, const char *what, cuda_address *address) {
  if (g->count == g->cap) {
    int cap = g->cap ? 2 * g->cap : 64;
    cuda_address *larger = realloc(g->allocations, sizeof *larger * (size_t)cap);
    if (!larger) return dp_fail(DP_NO_MEMORY, "no memory for the list of a GPU's allocations");
    g->allocations = larger;
    g->cap = cap;
  }
  int error = g->driver.set_context(g->context);
  if (!error) error = g->driver.allocate(address, (size_t)(bytes > 0 ? bytes : 1));
  if (error == OUT_OF_MEMORY)
    return dp_fail(DP_NO_MEMORY, "%s has no room for %s, %lld MB: ask for a smaller context, or for quantized weights",
                   g->device.name, what, (long long)(bytes >> 20));
  if (error) return failed(&g->driver, what, error);
  g->allocations[g->count++] = *address;
  return DP_SUCCESS;
}

void cuda_release(cuda_gpu *g, cuda_address address) {
  for (int i = 0; address && i < g->count; i++) {
    if (g->allocations[i] != address) continue;
    g->driver.release(address);
    g->allocations[i] = g->allocations[--g->count];
    return;
  }
}

#define DONE(call, what)                                                                                               \
  int error = g->driver.set_context(g->context);                                                                       \
  if (!error && bytes > 0) error = g->driver.call;                                                                     \
  return error ? failed(&g->driver, what, error) : DP_SUCCESS

dp_status cuda_put(cuda_gpu *g, cuda_address to, const void *from, int64_t bytes) {
  DONE(put(to, from, (size_t)bytes), "a copy to it");
}
dp_status cuda_get(cuda_gpu *g, void *to, cuda_address from, int64_t bytes) {
  DONE(get(to, from, (size_t)bytes), "a copy from it");
}
dp_status cuda_move(cuda_gpu *g, cuda_address to, cuda_address from, int64_t bytes) {
  DONE(move(to, from, (size_t)bytes), "a copy within it");
}
dp_status cuda_clear(cuda_gpu *g, cuda_address at, int64_t bytes) {
  DONE(clear(at, 0, (size_t)bytes), "memory to be cleared");
}
