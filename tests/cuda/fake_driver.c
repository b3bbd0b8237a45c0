/* tests/cuda/fake_driver.c: a libcuda.so.1 for tests (fake_driver.h). The device's memory is a piece of this process's
 * at addresses that only it has; a module's image is "host:LIBRARY:FUNCTION", made by tests/cuda_host.c, and a kernel
 * runs it. What a stream is given is done as late as possible, when somebody waits, and only with pinned memory: what
 * is read too early or changed too soon shows. After a fault everything fails until the context is destroyed. */
#include "tests/cuda/fake_driver.h"
#include "codegen/cuda/cuda.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define EXPORT __attribute__((visibility("default")))

enum {
  OUT_OF_MEMORY = 2,
  NO_DEVICE = 100,
  INVALID = 1,
  NO_CONTEXT = 201,
  NOT_READY = 600,
  ILLEGAL_ADDRESS = 700,
  BLOCKS = 5,
  FILLED = 4 << 20
};
static const size_t memory_bytes = (size_t)1 << 30;

#define FUNCTIONS(X)                                                                                                   \
  X(cuInit)                                                                                                            \
  X(cuDriverGetVersion) X(cuDeviceGetCount) X(cuDeviceGet) X(cuDeviceGetName) X(cuDeviceTotalMem_v2)                   \
      X(cuDeviceGetAttribute) X(cuCtxCreate_v2) X(cuCtxDestroy_v2) X(cuCtxPushCurrent_v2) X(cuCtxPopCurrent_v2)        \
          X(cuModuleLoadData) X(cuModuleUnload) X(cuModuleGetFunction) X(cuFuncSetAttribute)                           \
              X(cuLaunchCooperativeKernel) X(cuStreamCreate) X(cuStreamDestroy_v2) X(cuStreamSynchronize)              \
                  X(cuStreamQuery) X(cuEventCreate) X(cuEventDestroy_v2) X(cuEventRecord) X(cuEventSynchronize)        \
                      X(cuMemGetInfo_v2) X(cuMemAlloc_v2) X(cuMemFree_v2) X(cuMemHostAlloc) X(cuMemFreeHost)           \
                          X(cuMemHostGetDevicePointer_v2) X(cuMemcpyHtoDAsync_v2) X(cuMemcpyDtoHAsync_v2)              \
                              X(cuMemcpyDtoDAsync_v2) X(cuMemsetD8Async)
#define NUMBER(name) F_##name,
#define NAME(name) #name,
enum { FUNCTIONS(NUMBER) FUNCTION_COUNT };
static const char *const names[] = {FUNCTIONS(NAME)};

typedef const char *run_function(int entry, const void *launch, int blocks, size_t shared_bytes, uint64_t seed);

typedef enum op_kind { PUT, GET, MOVE, CLEAR, KERNEL, MARK } op_kind;
typedef struct op {
  op_kind kind;
  char *to;
  const char *from;
  size_t bytes;
  cuda_launch launch;
  int entry, blocks;
} op;

enum { MOST = 4096, PINNED = 64, DEEP = 8 };
static char *memory;
static size_t used;
static char error_text[256];
static uint64_t launches;
static fake_cuda_state state;
static op queue[MOST]; /* the context's only stream */
static int queued;
static struct {
  char *at;
  size_t bytes;
} pinned[PINNED];
static int context, stream, event_places[8], sticky; /* their addresses are handles */
static void *stack[DEEP];
static void *library;
static run_function *run;
static int calls[FUNCTION_COUNT];

/* ---- what is wrong */

static const char *word(const char *name) {
  const char *at = getenv("FAKE_CUDA");
  size_t length = strlen(name);
  for (; at && *at; at += strcspn(at, ","), at += *at == ',')
    if (strncmp(at, name, length) == 0 && strchr(":=,", at[length])) return at + length;
  return NULL;
}
static bool is(const char *what) { return word(what) != NULL; }

/* As in a process that has just started. */
EXPORT void fake_cuda_begin(void) {
  for (int i = 0; i < PINNED; i++) free(pinned[i].at);
  memset(pinned, 0, sizeof pinned);
  memset(calls, 0, sizeof calls);
  if (library) dlclose(library);
  library = NULL;
  state = (fake_cuda_state){0};
  queued = sticky = 0;
  used = 0;
  error_text[0] = 0;
}

/* Counts a call; the error that it is to have. */
static int begin(int function) {
  calls[function]++;
  const char *at = word(names[function]);
  int which, error;
  if (!at || sscanf(at, ":%d=%d", &which, &error) != 2 || which != calls[function]) return 0;
  if (error == ILLEGAL_ADDRESS && state.contexts) sticky = error;
  return error;
}
#define BEGIN(name)                                                                                                    \
  do {                                                                                                                 \
    int wrong_ = begin(F_##name);                                                                                      \
    if (wrong_) return wrong_;                                                                                         \
  } while (0)
/* Of a function that wants a context which is sound. */
#define BEGIN_IN_CONTEXT(name)                                                                                         \
  BEGIN(name);                                                                                                         \
  if (!state.current || !state.contexts) return NO_CONTEXT;                                                            \
  if (sticky) return sticky

EXPORT fake_cuda_state fake_cuda_get_state(void) { return state; }
EXPORT const char *fake_cuda_name(int index) { return index < FUNCTION_COUNT ? names[index] : NULL; }
EXPORT int fake_cuda_calls(const char *name) {
  for (int i = 0; i < FUNCTION_COUNT; i++)
    if (strcmp(names[i], name) == 0) return calls[i];
  return -1;
}

static bool on_device(const void *pointer) {
  return (const char *)pointer >= memory && (const char *)pointer < memory + used;
}
static bool is_pinned(const void *pointer, size_t bytes) {
  for (int i = 0; i < PINNED; i++)
    if (pinned[i].at && (const char *)pointer >= pinned[i].at &&
        (const char *)pointer + bytes <= pinned[i].at + pinned[i].bytes)
      return true;
  return false;
}

/* ---- devices */

EXPORT int cuInit(unsigned flags) {
  BEGIN(cuInit);
  if (!memory)
    memory = mmap(NULL, memory_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return flags ? INVALID : is("none") ? NO_DEVICE : 0;
}
EXPORT int cuDriverGetVersion(int *version) {
  BEGIN(cuDriverGetVersion);
  const char *other = word("driver");
  return *version = other ? atoi(other + 1) : 13000, 0;
}
EXPORT int cuGetErrorString(int error, const char **text) {
  return *text = error == ILLEGAL_ADDRESS && error_text[0] ? error_text
                 : error == OUT_OF_MEMORY                  ? "out of memory"
                                                           : "fake error",
         0;
}
EXPORT int cuDeviceGetCount(int *count) {
  BEGIN(cuDeviceGetCount);
  return *count = 1, 0;
}
EXPORT int cuDeviceGet(int *device, int index) {
  BEGIN(cuDeviceGet);
  return *device = index, index ? INVALID : 0;
}
EXPORT int cuDeviceGetName(char *name, int size, int device) {
  BEGIN(cuDeviceGetName);
  return (void)device, snprintf(name, (size_t)size, "Fake GPU"), 0;
}
static size_t all_memory(void) {
  const char *limit = word("memory");
  return limit && *limit == '=' ? (size_t)atoll(limit + 1) : memory_bytes;
}
EXPORT int cuDeviceTotalMem_v2(size_t *bytes, int device) {
  BEGIN(cuDeviceTotalMem_v2);
  return (void)device, *bytes = all_memory(), 0;
}
EXPORT int cuDeviceGetAttribute(int *value, int attribute, int device) {
  BEGIN(cuDeviceGetAttribute);
  (void)device;
  *value = attribute == 16   ? BLOCKS
           : attribute == 75 ? (is("old") ? 7 : 9)
           : attribute == 76 ? (is("old") ? 5 : 0)
           : attribute == 95 ? 1
                             : 232448;
  return 0;
}

/* ---- the context */

EXPORT int cuCtxCreate_v2(void **result, unsigned flags, int device) {
  BEGIN(cuCtxCreate_v2);
  (void)flags;
  if (device || state.contexts || state.current == DEEP) return INVALID; /* one at a time is all that tests want */
  state.contexts++;
  stack[state.current++] = &context;
  return *result = &context, 0;
}
EXPORT int cuCtxDestroy_v2(void *destroyed) {
  if (destroyed != &context || !state.contexts) return INVALID;
  for (int i = 0; i < PINNED; i++) free(pinned[i].at);
  memset(pinned, 0, sizeof pinned);
  if (library) dlclose(library);
  library = NULL;
  int current = state.current > 0 && stack[state.current - 1] == &context ? state.current - 1 : state.current;
  state = (fake_cuda_state){
      .current = current, .most_bytes = state.most_bytes, .copies = state.copies, .kernels = state.kernels};
  queued = sticky = 0;
  used = 0;
  BEGIN(cuCtxDestroy_v2); /* also when it says that it failed */
  sticky = 0;
  return 0;
}
EXPORT int cuCtxPushCurrent_v2(void *pushed) {
  BEGIN(cuCtxPushCurrent_v2);
  if (pushed != &context || !state.contexts || state.current == DEEP) return INVALID;
  return stack[state.current++] = pushed, 0;
}
EXPORT int cuCtxPopCurrent_v2(void **popped) {
  if (state.current > 0) *popped = stack[--state.current]; /* also when it fails: the next one is another's */
  BEGIN(cuCtxPopCurrent_v2);
  return 0;
}

/* ---- modules */

EXPORT int cuModuleLoadData(void **module, const void *image) {
  BEGIN_IN_CONTEXT(cuModuleLoadData);
  char path[256], name[64];
  if (sscanf(image, "host:%255[^:]:%63s", path, name) != 2) return INVALID;
  library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  void *address = library ? dlsym(library, name) : NULL;
  memcpy(&run, &address, sizeof run);
  state.modules++;
  *module = &library;
  return address ? 0 : INVALID;
}
EXPORT int cuModuleUnload(void *module) {
  BEGIN_IN_CONTEXT(cuModuleUnload);
  if (module != &library || !library) return INVALID;
  state.modules--;
  int left = dlclose(library);
  library = NULL;
  return left ? INVALID : 0;
}
EXPORT int cuModuleGetFunction(void **function, void *module, const char *name) {
  BEGIN_IN_CONTEXT(cuModuleGetFunction);
  static int entries[16];
  int entry;
  if (module != &library || sscanf(name, "dipper_step_%d", &entry) != 1) return INVALID;
  entries[entry] = entry;
  return *function = &entries[entry], 0;
}
EXPORT int cuFuncSetAttribute(void *function, int attribute, int value) {
  BEGIN_IN_CONTEXT(cuFuncSetAttribute);
  return (void)function, attribute == 8 && value > 0 ? 0 : INVALID;
}

/* ---- the stream */

static int illegal(const char *what) {
  snprintf(error_text, sizeof error_text, "%s", what);
  return sticky = ILLEGAL_ADDRESS;
}

/* As far as a launch says how much there is. */
static int check_pointers(const cuda_launch *l) {
  const void *const pointers[] = {
      l->step.weights,       l->step.weight_types, l->step.inputs,      l->step.outputs,
      l->step.positions,     l->step.slots,        l->step.segment_row, l->step.segment_tokens,
      l->step.segment_pages, l->step.segment_end,  l->step.pages,       l->first_segment,
      l->counters,           l->other_counters,    l->scratch,          l->step.kv};
  for (size_t i = 0; i < DP_COUNT(pointers); i++)
    if (!on_device(pointers[i])) return illegal("an argument is no address of the device");
  for (int i = 0; i < TILE_SPACE_COUNT; i++)
    if (l->step.arena[i] && !on_device(l->step.arena[i])) return illegal("a slab is no address of the device");
  if (!on_device(l->step.weights[0]) || !on_device(l->step.inputs[0]))
    return illegal("a table's entry is no address of the device");
  if (l->progress && !is_pinned(l->progress, sizeof *l->progress * BLOCKS))
    return illegal("the progress is not pinned");
  return 0;
}

static int run_kernel(const op *o) {
  const char *error;
  if (check_pointers(&o->launch)) return sticky;
  state.kernels++;
  error = run(o->entry, &o->launch, o->blocks, o->bytes, ++launches);
  return error ? illegal(error) : 0;
}

static int do_op(const op *o) {
  bool host_gone = (o->kind == PUT && !is_pinned(o->from, o->bytes)) || (o->kind == GET && !is_pinned(o->to, o->bytes));
  bool device_gone = (o->kind == PUT || o->kind == MOVE || o->kind == CLEAR) && !on_device(o->to);
  if (host_gone || device_gone || ((o->kind == GET || o->kind == MOVE) && !on_device(o->from)))
    return illegal("a copy's memory went before it was done");
  if (o->kind == KERNEL) return run_kernel(o);
  if (o->kind == CLEAR) memset(o->to, 0, o->bytes);
  if (o->kind == PUT || o->kind == GET || o->kind == MOVE) memcpy(o->to, o->from, o->bytes);
  state.copies += o->kind == PUT || o->kind == GET || o->kind == MOVE;
  return 0;
}

/* Until that mark is passed; NULL: all. */
static int work(const void *mark) {
  int error = 0, done = 0;
  while (done < queued && !error) {
    const op *o = &queue[done++];
    if (o->kind == MARK && o->to == mark) break;
    error = do_op(o);
  }
  memmove(queue, queue + done, sizeof *queue * (size_t)(queued - done));
  queued -= done;
  if (error) queued = 0;
  return error;
}

static int enqueue(op o, void *to) {
  if (to != &stream || !state.streams || queued == MOST) return INVALID;
  queue[queued++] = o;
  return 0;
}

EXPORT int cuStreamCreate(void **result, unsigned flags) {
  BEGIN_IN_CONTEXT(cuStreamCreate);
  if (flags != 1 || state.streams) return INVALID;
  state.streams++;
  return *result = &stream, 0;
}
EXPORT int cuStreamDestroy_v2(void *destroyed) {
  BEGIN_IN_CONTEXT(cuStreamDestroy_v2);
  if (destroyed != &stream || !state.streams) return INVALID;
  state.streams--;
  return 0;
}
EXPORT int cuStreamSynchronize(void *waited) {
  BEGIN_IN_CONTEXT(cuStreamSynchronize);
  if (waited && waited != &stream) return INVALID;
  return work(NULL);
}
static bool has_kernel(void) {
  for (int i = 0; i < queued; i++)
    if (queue[i].kind == KERNEL) return true;
  return false;
}
EXPORT int cuStreamQuery(void *asked) {
  BEGIN_IN_CONTEXT(cuStreamQuery);
  if (asked != &stream) return INVALID;
  return is("hang") && has_kernel() ? NOT_READY : work(NULL);
}
EXPORT int cuEventCreate(void **event, unsigned flags) {
  BEGIN_IN_CONTEXT(cuEventCreate);
  if (flags != 2 || state.events == (int)DP_COUNT(event_places)) return INVALID;
  return *event = &event_places[state.events++], 0;
}
EXPORT int cuEventDestroy_v2(void *event) {
  BEGIN_IN_CONTEXT(cuEventDestroy_v2);
  if (!event) return INVALID;
  state.events--;
  return 0;
}
EXPORT int cuEventRecord(void *event, void *to) {
  BEGIN_IN_CONTEXT(cuEventRecord);
  return enqueue((op){.kind = MARK, .to = event}, to);
}
EXPORT int cuEventSynchronize(void *event) {
  BEGIN_IN_CONTEXT(cuEventSynchronize);
  for (int i = 0; i < queued; i++)
    if (queue[i].kind == MARK && queue[i].to == (char *)event) return work(event);
  return 0;
}
EXPORT int cuLaunchCooperativeKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                                     unsigned bz, unsigned shared, void *to, void **arguments) {
  BEGIN_IN_CONTEXT(cuLaunchCooperativeKernel);
  if (!library || gx > BLOCKS || gy * gz * by * bz != 1 || bx != CUDA_THREADS) return INVALID;
  op o = {.kind = KERNEL, .entry = *(int *)function, .blocks = (int)gx, .bytes = shared};
  memcpy(&o.launch, arguments[0], sizeof o.launch);
  return enqueue(o, to);
}

/* ---- memory */

EXPORT int cuMemGetInfo_v2(size_t *left, size_t *all) {
  BEGIN_IN_CONTEXT(cuMemGetInfo_v2);
  *all = all_memory();
  *left = *all > used ? *all - used : 0;
  return 0;
}
EXPORT int cuMemAlloc_v2(uint64_t *address, size_t bytes) {
  BEGIN_IN_CONTEXT(cuMemAlloc_v2);
  size_t at = (used + 255) / 256 * 256;
  if (at + bytes > all_memory() || at + bytes > memory_bytes) return OUT_OF_MEMORY;
  used = at + bytes;
  state.allocations++;
  if (used > state.most_bytes) state.most_bytes = used;
  memset(memory + at, 0xff, bytes < FILLED ? bytes : FILLED); /* NaN; of pieces that begin */
  return *address = (uint64_t)(uintptr_t)(memory + at), 0;
}
EXPORT int cuMemFree_v2(uint64_t address) {
  BEGIN_IN_CONTEXT(cuMemFree_v2);
  if (!on_device((void *)(uintptr_t)address)) return INVALID;
  int error = work(NULL);
  if (--state.allocations == 0) used = 0;
  return error;
}
EXPORT int cuMemHostAlloc(void **result, size_t bytes, unsigned flags) {
  BEGIN_IN_CONTEXT(cuMemHostAlloc);
  for (int i = 0; i < PINNED && flags == 2; i++) {
    if (pinned[i].at) continue;
    pinned[i].at = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    pinned[i].bytes = bytes;
    memset(pinned[i].at, 0xff, bytes);
    state.pinned++;
    return *result = pinned[i].at, 0;
  }
  return INVALID;
}
EXPORT int cuMemFreeHost(void *at) {
  BEGIN_IN_CONTEXT(cuMemFreeHost);
  for (int i = 0; i < PINNED && at; i++) {
    if (pinned[i].at != at) continue;
    free(at);
    pinned[i].at = NULL;
    state.pinned--;
    return 0;
  }
  return INVALID;
}
EXPORT int cuMemHostGetDevicePointer_v2(uint64_t *address, void *at, unsigned flags) {
  BEGIN_IN_CONTEXT(cuMemHostGetDevicePointer_v2);
  if (flags || !is_pinned(at, 1)) return INVALID;
  return *address = (uint64_t)(uintptr_t)at, 0;
}
static char *host_of(uint64_t address) { return (char *)(uintptr_t)address; }
EXPORT int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, void *on) {
  BEGIN_IN_CONTEXT(cuMemcpyHtoDAsync_v2);
  if (!on_device(host_of(to)) || !is_pinned(from, bytes)) return INVALID;
  return enqueue((op){.kind = PUT, .to = host_of(to), .from = from, .bytes = bytes}, on);
}
EXPORT int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, void *on) {
  BEGIN_IN_CONTEXT(cuMemcpyDtoHAsync_v2);
  if (!on_device(host_of(from)) || !is_pinned(to, bytes)) return INVALID;
  return enqueue((op){.kind = GET, .to = to, .from = host_of(from), .bytes = bytes}, on);
}
EXPORT int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, void *on) {
  BEGIN_IN_CONTEXT(cuMemcpyDtoDAsync_v2);
  if (!on_device(host_of(to)) || !on_device(host_of(from))) return INVALID;
  return enqueue((op){.kind = MOVE, .to = host_of(to), .from = host_of(from), .bytes = bytes}, on);
}
EXPORT int cuMemsetD8Async(uint64_t at, unsigned char value, size_t bytes, void *on) {
  BEGIN_IN_CONTEXT(cuMemsetD8Async);
  if (!on_device(host_of(at)) || value) return INVALID;
  return enqueue((op){.kind = CLEAR, .to = host_of(at), .bytes = bytes}, on);
}
