/* tests/cuda/fake_driver.c: a libcuda.so.1 for tests. The device's memory is a piece of this process's at addresses
 * that only it has; a module's image is "host:LIBRARY:FUNCTION", made by tests/cuda_host.c, or a library, made by
 * tests/cuda/fake_nvrtc.c, and a launch runs it. Every pointer of a launch must be of the device. FAKE_CUDA says what
 * is wrong with the device: "none" (there is none), "old" (compute capability 7.5), "small" (4 KB), "driver" (of
 * CUDA 11.4); or its compute capability, as "8.6". A real cubin or PTX is loaded too, and can be asked for no function. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "codegen/cuda/cuda.h"

#include <dlfcn.h>
#include <elf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

enum { OUT_OF_MEMORY = 2, NO_DEVICE = 100, INVALID = 1, ILLEGAL_ADDRESS = 700, BLOCKS = 5 };
static const size_t memory_bytes = (size_t)1 << 30;

static char *memory;
static size_t used, allocations;
static char error_text[256];
static uint64_t launches;
EXPORT uint64_t fake_bytes_to_host; /* for tests to read */

typedef const char *run_function(int entry, const void *launch, int blocks, size_t shared_bytes, uint64_t seed,
                                 const void *regions, int region_count);
typedef struct module {
  void *library;
  run_function *run;
  int file; /* of a library that came as bytes, -1: none */
} module;
enum { MODULES = 16, ENTRIES = 16 };
static module modules[MODULES];
typedef struct function {
  const module *module;
  int entry;
} function;
static function functions[MODULES][ENTRIES];

/* What went over and back since fake_cuda_forget: copies and bytes. */
static int64_t traffic[4];
EXPORT void fake_cuda_traffic(int64_t put[2], int64_t got[2]) {
  memcpy(put, traffic, sizeof *traffic * 2);
  memcpy(got, traffic + 2, sizeof *traffic * 2);
}
EXPORT void fake_cuda_forget(void) { memset(traffic, 0, sizeof traffic); }

static bool is(const char *what) {
  const char *wrong = getenv("FAKE_CUDA");
  return wrong && strcmp(wrong, what) == 0;
}

static bool on_device(const void *pointer) {
  return (const char *)pointer >= memory && (const char *)pointer < memory + used;
}

EXPORT int cuInit(unsigned flags) {
  if (!memory)
    memory = mmap(NULL, memory_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return flags ? INVALID : is("none") ? NO_DEVICE : 0;
}
EXPORT int cuDriverGetVersion(int *version) { return *version = is("driver") ? 11040 : 13000, 0; }
EXPORT int cuGetErrorString(int error, const char **text) {
  return *text = error_text[0] ? error_text : error == OUT_OF_MEMORY ? "out of memory" : "fake error", 0;
}
EXPORT int cuDeviceGetCount(int *count) { return *count = 1, 0; }
EXPORT int cuDeviceGet(int *device, int index) { return *device = index, index ? INVALID : 0; }
EXPORT int cuDeviceGetName(char *name, int size, int device) {
  return (void)device, snprintf(name, (size_t)size, "Fake GPU"), 0;
}
EXPORT int cuDeviceTotalMem_v2(size_t *bytes, int device) { return (void)device, *bytes = memory_bytes, 0; }
static int capability(int part) { /* 0: major, 1: minor */
  int numbers[2] = {9, 0};
  const char *asked = getenv("FAKE_CUDA");
  if (is("old")) return part ? 5 : 7;
  if (asked) sscanf(asked, "%d.%d", &numbers[0], &numbers[1]);
  return numbers[part];
}

EXPORT int cuDeviceGetAttribute(int *value, int attribute, int device) {
  (void)device;
  *value = attribute == 16   ? BLOCKS
           : attribute == 75 ? capability(0)
           : attribute == 76 ? capability(1)
           : attribute == 95 ? 1
                             : 232448;
  return 0;
}
EXPORT int cuDevicePrimaryCtxRetain(void **context, int device) { return (void)device, *context = &memory, 0; }
EXPORT int cuDevicePrimaryCtxRelease_v2(int device) { return device; }
EXPORT int cuCtxSetCurrent(void *context) { return context == &memory ? 0 : INVALID; }
EXPORT int cuCtxSynchronize(void) { return 0; }

/* A library's size is where its table of sections, the last of it, ends. */
static void *open_bytes(const void *image, int *file) {
  Elf64_Ehdr head;
  char path[40];
  memcpy(&head, image, sizeof head);
  size_t size = head.e_shoff + (size_t)head.e_shnum * head.e_shentsize;
  *file = memfd_create("cubin", MFD_CLOEXEC);
  if (*file < 0 || write(*file, image, size) != (ssize_t)size) return NULL;
  snprintf(path, sizeof path, "/proc/self/fd/%d", *file);
  return dlopen(path, RTLD_NOW | RTLD_LOCAL);
}

/* What a real driver would take. */
static char real_code[1];
static bool is_real_code(const char *image) {
  Elf64_Ehdr head;
  if (strncmp(image, "//\n", 3) == 0) return true;
  if (memcmp(image, ELFMAG, SELFMAG) != 0) return false;
  memcpy(&head, image, sizeof head);
  return head.e_machine == 190; /* CUDA's */
}

EXPORT int cuModuleLoadData(void **result, const void *image) {
  char path[256], name[64] = "p0_run";
  module *m = modules;
  while (m < modules + MODULES && m->library) m++;
  if (m == modules + MODULES) return INVALID;
  m->file = -1;
  if (is_real_code(image)) return m->library = real_code, m->run = NULL, *result = m, 0;
  bool library = memcmp(image, ELFMAG, SELFMAG) == 0;
  if (!library && sscanf(image, "host:%255[^:]:%63s", path, name) != 2) return INVALID;
  m->library = library ? open_bytes(image, &m->file) : dlopen(path, RTLD_NOW | RTLD_LOCAL);
  void *address = m->library ? dlsym(m->library, name) : NULL;
  memcpy(&m->run, &address, sizeof m->run);
  *result = m;
  return address ? 0 : INVALID;
}
EXPORT int cuModuleUnload(void *loaded) {
  module *m = loaded;
  int error = m->library == real_code ? 0 : dlclose(m->library);
  if (m->file >= 0) close(m->file);
  *m = (module){0};
  return error ? INVALID : 0;
}
EXPORT int cuModuleGetFunction(void **result, void *loaded, const char *name) {
  const module *m = loaded;
  int entry;
  if (!m->run || sscanf(name, "dipper_step_%d", &entry) != 1 || entry >= ENTRIES) return INVALID;
  function *f = &functions[m - modules][entry];
  *f = (function){m, entry};
  return *result = f, 0;
}
EXPORT int cuFuncSetAttribute(void *f, int attribute, int value) {
  return (void)f, attribute == 8 && value > 0 ? 0 : INVALID;
}

static int illegal(const char *what) {
  snprintf(error_text, sizeof error_text, "%s is no address of the device", what);
  return ILLEGAL_ADDRESS;
}

/* As far as a launch says how much there is. */
static int check_pointers(const cuda_launch *l) {
  const void *const pointers[] = {
      l->step.weights,       l->step.weight_types, l->step.inputs,      l->step.outputs,
      l->step.positions,     l->step.slots,        l->step.segment_row, l->step.segment_tokens,
      l->step.segment_pages, l->step.segment_end,  l->step.pages,       l->first_segment,
      l->counters,           l->other_counters,    l->scratch,          l->step.kv};
  for (size_t i = 0; i < DP_COUNT(pointers); i++)
    if (!on_device(pointers[i])) return illegal("an argument");
  for (int i = 0; i < TILE_SPACE_COUNT; i++)
    if (l->step.arena[i] && !on_device(l->step.arena[i])) return illegal("a slab");
  for (int i = 0; i < TILE_STATE_COUNT; i++)
    if (l->step.states[i] && !on_device(l->step.states[i])) return illegal("a table of states");
  const void *const turns[] = {l->step.turned, l->meeting, l->ended, l->step.ends};
  for (size_t i = 0; i < DP_COUNT(turns); i++)
    if (turns[i] && !on_device(turns[i])) return illegal("an argument of turns");
  if (!on_device(l->step.weights[0]) || !on_device(l->step.inputs[0])) return illegal("a table's entry");
  return 0;
}

EXPORT int cuLaunchCooperativeKernel(void *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                                     unsigned bz, unsigned shared, void *stream, void **arguments) {
  int wrong = check_pointers(arguments[0]);
  if (wrong) return wrong;
  if (stream || gx > BLOCKS || gy * gz * by * bz != 1 || bx != CUDA_THREADS) return INVALID;
  const function *of = f;
  const char *error = of->module->run(of->entry, arguments[0], (int)gx, shared, ++launches, NULL, 0);
  if (error) snprintf(error_text, sizeof error_text, "%s", error);
  return error ? INVALID : 0;
}

EXPORT int cuMemAlloc_v2(uint64_t *address, size_t bytes) {
  size_t at = (used + 255) / 256 * 256;
  if (bytes > (is("small") ? 4096 : memory_bytes) || at + bytes > memory_bytes) return OUT_OF_MEMORY;
  used = at + bytes;
  allocations++;
  memset(memory + at, 0xff, bytes); /* NaN */
  return *address = (uint64_t)(uintptr_t)(memory + at), 0;
}
EXPORT int cuMemFree_v2(uint64_t address) {
  if (!on_device((void *)(uintptr_t)address)) return INVALID;
  if (--allocations == 0) used = 0;
  return 0;
}
static char *host_of(uint64_t address) { return (char *)(uintptr_t)address; }
EXPORT int cuMemcpyHtoD_v2(uint64_t to, const void *from, size_t bytes) {
  traffic[0]++, traffic[1] += (int64_t)bytes;
  return on_device(host_of(to)) && !on_device(from) ? memcpy(host_of(to), from, bytes), 0 : INVALID;
}
EXPORT int cuMemcpyDtoH_v2(void *to, uint64_t from, size_t bytes) {
  traffic[2]++, traffic[3] += (int64_t)bytes;
  fake_bytes_to_host += bytes;
  return on_device(host_of(from)) && !on_device(to) ? memcpy(to, host_of(from), bytes), 0 : INVALID;
}
EXPORT int cuMemcpyDtoD_v2(uint64_t to, uint64_t from, size_t bytes) {
  return on_device(host_of(to)) && on_device(host_of(from)) ? memcpy(host_of(to), host_of(from), bytes), 0 : INVALID;
}
EXPORT int cuMemsetD8_v2(uint64_t at, unsigned char value, size_t bytes) {
  return on_device(host_of(at)) ? memset(host_of(at), value, bytes), 0 : INVALID;
}
