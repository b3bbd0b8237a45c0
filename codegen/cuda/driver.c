/* codegen/cuda/driver.c: libcuda's functions by name, a context and a stream, and errors as statuses. */
#include "codegen/cuda/driver_parts.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { /* cuda.h's numbers */
       NO_DEVICE = 100,
       ATTRIBUTE_PROCESSORS = 16,
       ATTRIBUTE_MAJOR = 75,
       ATTRIBUTE_MINOR = 76,
       ATTRIBUTE_COOPERATIVE = 95,
       ATTRIBUTE_SHARED = 97,
       FUNCTION_SHARED = 8,
       CONTEXT_MAPS_HOST = 8,
       STREAM_NON_BLOCKING = 1,
       EVENT_NO_TIMING = 2,
       OLDEST_DRIVER = 12000,
       GONE = -1, /* ours: the context is */
       LATE = -2, /* ours: the stream is not done in time */
};

static const struct {
  const char *name;
  size_t offset;
} symbols[] = {
    {"cuInit", offsetof(cuda_driver, init)},
    {"cuDriverGetVersion", offsetof(cuda_driver, find_version)},
    {"cuGetErrorString", offsetof(cuda_driver, error_text)},
    {"cuDeviceGetCount", offsetof(cuda_driver, device_count)},
    {"cuDeviceGet", offsetof(cuda_driver, device)},
    {"cuDeviceGetName", offsetof(cuda_driver, device_name)},
    {"cuDeviceTotalMem_v2", offsetof(cuda_driver, device_memory)},
    {"cuDeviceGetAttribute", offsetof(cuda_driver, device_attribute)},
    {"cuCtxCreate_v2", offsetof(cuda_driver, create_context)},
    {"cuCtxDestroy_v2", offsetof(cuda_driver, destroy_context)},
    {"cuCtxPushCurrent_v2", offsetof(cuda_driver, push_context)},
    {"cuCtxPopCurrent_v2", offsetof(cuda_driver, pop_context)},
    {"cuModuleLoadData", offsetof(cuda_driver, load)},
    {"cuModuleUnload", offsetof(cuda_driver, unload)},
    {"cuModuleGetFunction", offsetof(cuda_driver, function)},
    {"cuFuncSetAttribute", offsetof(cuda_driver, function_attribute)},
    {"cuLaunchCooperativeKernel", offsetof(cuda_driver, launch)},
    {"cuStreamCreate", offsetof(cuda_driver, create_stream)},
    {"cuStreamDestroy_v2", offsetof(cuda_driver, destroy_stream)},
    {"cuStreamSynchronize", offsetof(cuda_driver, wait_stream)},
    {"cuStreamQuery", offsetof(cuda_driver, ask_stream)},
    {"cuEventCreate", offsetof(cuda_driver, create_event)},
    {"cuEventDestroy_v2", offsetof(cuda_driver, destroy_event)},
    {"cuEventRecord", offsetof(cuda_driver, record_event)},
    {"cuEventSynchronize", offsetof(cuda_driver, wait_event)},
    {"cuMemGetInfo_v2", offsetof(cuda_driver, free_memory)},
    {"cuMemAlloc_v2", offsetof(cuda_driver, allocate)},
    {"cuMemFree_v2", offsetof(cuda_driver, release)},
    {"cuMemHostAlloc", offsetof(cuda_driver, pin)},
    {"cuMemFreeHost", offsetof(cuda_driver, unpin)},
    {"cuMemHostGetDevicePointer_v2", offsetof(cuda_driver, pinned_address)},
    {"cuMemcpyHtoDAsync_v2", offsetof(cuda_driver, put)},
    {"cuMemcpyDtoHAsync_v2", offsetof(cuda_driver, get)},
    {"cuMemcpyDtoDAsync_v2", offsetof(cuda_driver, move)},
    {"cuMemsetD8Async", offsetof(cuda_driver, clear)},
};

/* ---- errors */

/* After these nothing of the context can be used. */
static bool is_fault(int error) {
  static const int faults[] = {214 /* memory errors beyond mending */,
                               700 /* address */,
                               702 /* time */,
                               710 /* assertion */,
                               714 /* stack */,
                               715 /* instruction */,
                               716 /* alignment */,
                               717 /* address space */,
                               718 /* program counter */,
                               719 /* launch */,
                               LATE};
  for (size_t i = 0; i < DP_COUNT(faults); i++)
    if (error == faults[i]) return true;
  return false;
}

static const char *text_of(const cuda_driver *d, int error) {
  const char *text = NULL;
  if (d->error_text(error, &text) != 0 || !text) return "an error that the driver has no text for";
  return text;
}

/* What can be done about some of them. */
static const char *advice_for(int error) {
  switch (error) {
  case 34:
    return ": this libcuda is the toolkit's stub; the driver brings the real one";
  case 46:
    return ": another process has the GPU for itself";
  case 720:
    return ": fewer SMs are free than the GPU has; another process may hold some (MPS, MIG)";
  case 803:
  case 804:
    return ": the driver's library and its kernel module are of different versions; reboot, or install the driver anew";
  default:
    return "";
  }
}

static dp_status failed(const cuda_driver *d, const char *what, int error) {
  dp_code code = error == CUDA_OUT_OF_MEMORY ? DP_NO_MEMORY : DP_IO;
  return dp_fail(code, "the GPU: %s: %s (error %d)%s", what, text_of(d, error), error, advice_for(error));
}

/* ---- the driver */

static dp_status no_device(void) {
  return dp_fail(DP_NOT_FOUND, "no GPU: the driver sees no device (CUDA_VISIBLE_DEVICES hides some)");
}

static dp_status look_up(cuda_driver *d, const char *path) {
  d->library = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  if (!d->library)
    return dp_fail(DP_NOT_FOUND, "no GPU: NVIDIA's driver (%s) is not installed or not visible in this container",
                   path);
  for (size_t i = 0; i < DP_COUNT(symbols); i++) {
    void *address = dlsym(d->library, symbols[i].name);
    if (!address)
      return dp_fail(DP_UNSUPPORTED, "no GPU: the driver has no %s: it must be of CUDA 12 or later (525 or newer)",
                     symbols[i].name);
    memcpy((char *)d + symbols[i].offset, &address, sizeof address);
  }
  return DP_SUCCESS;
}

static dp_status start_driver(cuda_driver *d) {
  int error = d->init(0);
  if (error == NO_DEVICE) return no_device();
  if (error) return failed(d, "the driver does not start", error);
  error = d->find_version(&d->version);
  if (error) return failed(d, "the driver's version", error);
  if (d->version >= OLDEST_DRIVER) return DP_SUCCESS;
  return dp_fail(DP_UNSUPPORTED, "no GPU: the driver is of CUDA %d.%d, and 12.0 or later is needed (525 or newer)",
                 d->version / 1000, d->version % 1000 / 10);
}

static void close_driver(cuda_driver *d) {
  if (d->library) dlclose(d->library);
  d->library = NULL;
}

static dp_status open_driver(cuda_driver *d) {
  const char *named = getenv("DIPPER_LIBCUDA");
  *d = (cuda_driver){0};
  dp_status status = look_up(d, named && *named ? named : "libcuda.so.1");
  if (status.code == DP_OK) status = start_driver(d);
  if (status.code != DP_OK) close_driver(d);
  return status;
}

dp_status cuda_find_driver(int *version) {
  cuda_driver d;
  DP_TRY(open_driver(&d));
  *version = d.version;
  close_driver(&d);
  return DP_SUCCESS;
}

static dp_status describe(const cuda_driver *d, int index, int *handle, cuda_device *device) {
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

static dp_status list_devices(const cuda_driver *d, cuda_device **list, int *count) {
  int error = d->device_count(count), handle;
  if (error) return failed(d, "the number of devices", error);
  if (*count < 1) return no_device();
  *list = calloc((size_t)*count, sizeof **list);
  if (!*list) return dp_fail(DP_NO_MEMORY, "no memory for a list of devices");
  for (int i = 0; i < *count; i++) DP_TRY(describe(d, i, &handle, &(*list)[i]));
  return DP_SUCCESS;
}

dp_status cuda_list_devices(cuda_device **list, int *count) {
  cuda_driver d;
  *list = NULL;
  *count = 0;
  DP_TRY(open_driver(&d));
  dp_status status = list_devices(&d, list, count);
  if (status.code != DP_OK) {
    free(*list);
    *list = NULL;
    *count = 0;
  }
  close_driver(&d);
  return status;
}

void cuda_arch(const cuda_device *device, char arch[16]) {
  if (device->major == 8)
    strcpy(arch, "sm_80");
  else
    snprintf(arch, 16, "sm_%d%d%s", device->major % 100, device->minor % 10,
             device->major == 9 || device->major == 10 ? "a" : "");
}

/* ---- a context */

int cuda_enter(cuda_gpu *g) {
  if (!g->context || g->lost) return GONE;
  if (g->depth == 0) {
    int error = g->driver.push_context(g->context);
    if (error) return error;
  }
  g->depth++;
  return 0;
}

dp_status cuda_leave(cuda_gpu *g, int error, const char *what) {
  void *popped;
  if (g->depth > 0 && error != GONE && --g->depth == 0) {
    int left = g->driver.pop_context(&popped);
    if (!error) error = left;
  }
  if (error == GONE) return dp_fail(DP_IO, "the GPU stopped at a fault before: open the model anew");
  if (!is_fault(error)) return error ? failed(&g->driver, what, error) : DP_SUCCESS;
  g->lost = error;
  if (error != LATE) return failed(&g->driver, what, error);
  g->occupied = true;
  return dp_fail(
      DP_IO, "the GPU: %s has not ended within the %s seconds of DIPPER_GPU_TIMEOUT, and only ends with this process",
      what, getenv("DIPPER_GPU_TIMEOUT"));
}

bool cuda_is_lost(const cuda_gpu *g) { return g->lost != 0; }

void cuda_tear_down(cuda_gpu *g) {
  if (!g->context) return;
  void *popped;
  while (g->depth > 0 && --g->depth == 0) g->driver.pop_context(&popped);
  g->depth = 0;
  if (!g->occupied) g->driver.destroy_context(g->context);
  g->context = g->module = g->stream = NULL;
  cuda_forget_memory(g);
}

static dp_status check_device(cuda_gpu *g) {
  int cooperative = 0;
  if (g->device.major < 8)
    return dp_fail(DP_UNSUPPORTED, "%s has compute capability %d.%d: 8.0 (Ampere) or later is needed", g->device.name,
                   g->device.major, g->device.minor);
  int error = g->driver.device_attribute(&cooperative, ATTRIBUTE_COOPERATIVE, g->handle);
  if (error) return failed(&g->driver, "a device's numbers", error);
  if (cooperative) return DP_SUCCESS;
  return dp_fail(DP_UNSUPPORTED, "%s cannot launch cooperative kernels", g->device.name);
}

/* A context is the thread's when it is made; afterwards it is not. */
static dp_status make_context(cuda_gpu *g) {
  const cuda_driver *d = &g->driver;
  int error = d->create_context(&g->context, CONTEXT_MAPS_HOST, g->handle);
  if (error) {
    g->context = NULL;
    return failed(d, is_fault(error) ? "a context, in a process that has met a fault: start it anew" : "a context",
                  error);
  }
  g->depth = 1;
  error = d->create_stream(&g->stream, STREAM_NON_BLOCKING);
  for (int i = 0; i < CUDA_MARKS && !error; i++) error = d->create_event(&g->marks[i], EVENT_NO_TIMING);
  return cuda_leave(g, error, "a stream");
}

dp_status cuda_open(int index, cuda_gpu **result) {
  *result = NULL;
  cuda_gpu *g = calloc(1, sizeof *g);
  if (!g) return dp_fail(DP_NO_MEMORY, "no memory for a GPU");
  dp_status status = open_driver(&g->driver);
  if (status.code == DP_OK) status = describe(&g->driver, index, &g->handle, &g->device);
  if (status.code == DP_OK) status = check_device(g);
  if (status.code == DP_OK) status = make_context(g);
  if (status.code == DP_OK)
    *result = g;
  else
    cuda_close(g);
  return status;
}

/* With the context all goes that is in it; what is freed before is only what the driver might otherwise report. */
void cuda_close(cuda_gpu *g) {
  if (!g) return;
  const cuda_driver *d = &g->driver;
  if (g->context && cuda_enter(g) == 0) {
    d->wait_stream(g->stream);
    cuda_free_memory(g);
    if (g->module) d->unload(g->module);
    for (int i = 0; i < CUDA_MARKS; i++)
      if (g->marks[i]) d->destroy_event(g->marks[i]);
    if (g->stream) d->destroy_stream(g->stream);
  }
  cuda_tear_down(g);
  cuda_forget_memory(g);
  close_driver(&g->driver);
  free(g);
}

const cuda_device *cuda_device_of(const cuda_gpu *g) { return &g->device; }

dp_status cuda_find_free(cuda_gpu *g, int64_t *bytes) {
  size_t left = 0, all = 0;
  int error = cuda_enter(g);
  if (!error) error = g->driver.free_memory(&left, &all);
  *bytes = (int64_t)left;
  return cuda_leave(g, error, "its free memory");
}

/* ---- code */

/* By a driver that is older than the compiler, or for another chip. */
static dp_status not_taken(const cuda_gpu *g, int error) {
  const int version = g->driver.version;
  const char *text = text_of(&g->driver, error);
  if (error == 209)
    return dp_fail(DP_UNSUPPORTED, "the GPU code is not for %s, of compute capability %d.%d: %s (error %d)",
                   g->device.name, g->device.major, g->device.minor, text, error);
  return dp_fail(DP_UNSUPPORTED,
                 "the driver, of CUDA %d.%d, does not take the GPU code: %s (error %d); it was compiled by a newer "
                 "NVRTC: update the "
                 "driver, or set DIPPER_NVRTC to the libnvrtc.so of CUDA %d.x, `dipper devices` shows both versions",
                 version / 1000, version % 1000 / 10, text, error, version / 1000);
}

static bool is_not_taken(int error) {
  return error == 200 || error == 209 || error == 218 || error == 222; /* image, binary for it, PTX, PTX version */
}

dp_status cuda_load_module(cuda_gpu *g, const void *image) {
  int error = cuda_enter(g);
  if (!error) error = g->driver.load(&g->module, image);
  if (error) g->module = NULL;
  if (!is_not_taken(error)) return cuda_leave(g, error, "code made for it");
  dp_status left = cuda_leave(g, 0, "code made for it");
  dp_status_free(&left);
  return not_taken(g, error);
}

dp_status cuda_find_kernel(cuda_gpu *g, const char *name, int64_t shared_bytes, cuda_kernel **kernel) {
  void *function = NULL;
  if (shared_bytes > g->device.shared_bytes)
    return dp_fail(DP_UNSUPPORTED, "%s gives a block %d bytes of shared memory, and %lld are needed", g->device.name,
                   g->device.shared_bytes, (long long)shared_bytes);
  int error = cuda_enter(g);
  if (!error) error = g->driver.function(&function, g->module, name);
  if (!error) error = g->driver.function_attribute(function, FUNCTION_SHARED, (int)shared_bytes);
  *kernel = error ? NULL : function;
  return cuda_leave(g, error, name);
}

/* ---- the stream */

dp_status cuda_begin_kernel(cuda_gpu *g, cuda_kernel *kernel, int blocks, int threads, int64_t shared_bytes,
                            void *argument) {
  void *arguments[] = {argument};
  int error = cuda_enter(g);
  if (!error)
    error = g->driver.launch(kernel, (unsigned)blocks, 1, 1, (unsigned)threads, 1, 1, (unsigned)shared_bytes, g->stream,
                             arguments);
  return cuda_leave(g, error, "a kernel's launch");
}

/* Asks until the stream is done, with pauses: who sets a limit does so for steps of seconds. */
static int wait_until(cuda_gpu *g, double seconds) {
  struct timespec begin, now, pause = {.tv_nsec = 50000};
  clock_gettime(CLOCK_MONOTONIC, &begin);
  for (;;) {
    int error = g->driver.ask_stream(g->stream);
    if (error != CUDA_NOT_READY) return error;
    clock_gettime(CLOCK_MONOTONIC, &now);
    if ((double)(now.tv_sec - begin.tv_sec) + (double)(now.tv_nsec - begin.tv_nsec) * 1e-9 > seconds) return LATE;
    nanosleep(&pause, NULL);
  }
}

dp_status cuda_wait(cuda_gpu *g, const char *what) {
  const char *text = getenv("DIPPER_GPU_TIMEOUT");
  double seconds = text ? atof(text) : 0;
  int error = cuda_enter(g);
  if (!error && seconds > 0) error = wait_until(g, seconds);
  if (!error) error = g->driver.wait_stream(g->stream);
  return cuda_leave(g, error, what);
}

dp_status cuda_mark(cuda_gpu *g, int mark) {
  int error = cuda_enter(g);
  if (!error) error = g->driver.record_event(g->marks[mark], g->stream);
  return cuda_leave(g, error, "an event");
}

dp_status cuda_wait_mark(cuda_gpu *g, int mark) {
  int error = cuda_enter(g);
  if (!error) error = g->driver.wait_event(g->marks[mark]);
  return cuda_leave(g, error, "an event");
}

#define BEGIN(call, what)                                                                                              \
  int error = cuda_enter(g);                                                                                           \
  if (!error && bytes > 0) error = g->driver.call;                                                                     \
  return cuda_leave(g, error, what)

dp_status cuda_begin_put(cuda_gpu *g, cuda_address to, const void *pinned, int64_t bytes) {
  BEGIN(put(to, pinned, (size_t)bytes, g->stream), "a copy to it");
}
dp_status cuda_begin_get(cuda_gpu *g, void *pinned, cuda_address from, int64_t bytes) {
  BEGIN(get(pinned, from, (size_t)bytes, g->stream), "a copy from it");
}
dp_status cuda_begin_move(cuda_gpu *g, cuda_address to, cuda_address from, int64_t bytes) {
  BEGIN(move(to, from, (size_t)bytes, g->stream), "a copy within it");
}
dp_status cuda_begin_clear(cuda_gpu *g, cuda_address at, int64_t bytes) {
  BEGIN(clear(at, 0, (size_t)bytes, g->stream), "memory to be cleared");
}
