/* tests/cuda/fake_driver.c: a libcuda.so.1 for tests (fake_driver.h). The device's memory is a piece of this process's
 * at addresses that only it has; a module's image is "host:LIBRARY:FUNCTION", made by tests/cuda_host.c, or a library,
 * made by tests/cuda/fake_nvrtc.c, and a kernel runs it. A real cubin or PTX is loaded too, and can be asked for no
 * function. What a stream is given is done as late as possible, when somebody waits, and only with pinned memory: what
 * is read too early or changed too soon shows. Every pointer of a launch must be of the device. After a fault everything
 * of a context fails until it is destroyed. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "tests/cuda/fake_driver.h"
#include "codegen/cuda/cuda.h"

#include <dlfcn.h>
#include <elf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

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

typedef const char *run_function(int entry, const void *launch, int blocks, size_t shared_bytes, uint64_t seed,
                                 const void *regions, int region_count);

enum { MOST = 1024, PINNED = 128, ALLOCATIONS = 1024, DEEP = 8, CONTEXTS = 8, EVENTS = 4, MODULES = 16, ENTRIES = 16 };

typedef struct module {
  void *library;
  run_function *run;
  int file; /* of a library that came as bytes, -1: none */
  const void *context;
} module;
typedef struct function {
  const module *module;
  int entry;
} function;

typedef enum op_kind { PUT, GET, MOVE, CLEAR, KERNEL, MARK } op_kind;
typedef struct op {
  op_kind kind;
  char *to;
  const char *from;
  size_t bytes;
  cuda_launch launch;
  const function *function;
  int blocks;
} op;

/* Its address, and those of its stream and events, are handles. */
typedef struct context {
  bool lives, has_stream;
  char stream;
  bool events[EVENTS];
  int sticky; /* the error of a fault */
  op queue[MOST];
  int queued;
} context;

typedef struct piece {
  char *at;
  size_t bytes;
  const context *context;
} piece;

static char *memory;
static piece allocations[ALLOCATIONS], pinned[PINNED];
static char error_text[256];
static uint64_t launches;
static fake_cuda_state state; /* of it what lives is counted */
static context contexts[CONTEXTS];
static context *stack[DEEP];
static int depth;
static module modules[MODULES];
static function functions[MODULES][ENTRIES];
static int calls[FUNCTION_COUNT];

/* What went over and back since fake_cuda_forget: copies and bytes. */
static int64_t traffic[4];
EXPORT uint64_t fake_bytes_to_host; /* for tests to read */
EXPORT void fake_cuda_traffic(int64_t put[2], int64_t got[2]) {
  memcpy(put, traffic, sizeof *traffic * 2);
  memcpy(got, traffic + 2, sizeof *traffic * 2);
}
EXPORT void fake_cuda_forget(void) { memset(traffic, 0, sizeof traffic); }

/* Where the device's memory ends that is taken. */
static size_t used(void) {
  size_t end = 0;
  for (int i = 0; i < ALLOCATIONS; i++)
    if (allocations[i].at && (size_t)(allocations[i].at - memory) + allocations[i].bytes > end)
      end = (size_t)(allocations[i].at - memory) + allocations[i].bytes;
  return end;
}

/* ---- what is wrong */

static const char *word(const char *name) {
  const char *at = getenv("FAKE_CUDA");
  size_t length = strlen(name);
  for (; at && *at; at += strcspn(at, ","), at += *at == ',')
    if (strncmp(at, name, length) == 0 && strchr(":=,", at[length])) return at + length;
  return NULL;
}
static bool is(const char *what) { return word(what) != NULL; }

static void close_module(module *m) {
  if (m->library && m->library != (void *)modules) dlclose(m->library);
  if (m->library && m->file >= 0) close(m->file);
  *m = (module){0};
}

/* With all that is in it. */
static void end_context(context *c) {
  for (int i = 0; i < PINNED; i++)
    if (pinned[i].at && pinned[i].context == c) free(pinned[i].at), pinned[i] = (piece){0};
  for (int i = 0; i < ALLOCATIONS; i++)
    if (allocations[i].context == c) allocations[i] = (piece){0};
  for (int i = 0; i < MODULES; i++)
    if (modules[i].context == c) close_module(&modules[i]);
  c->lives = c->has_stream = false;
  memset(c->events, 0, sizeof c->events);
  c->queued = 0;
}

/* As in a process that has just started. */
EXPORT void fake_cuda_begin(void) {
  for (int i = 0; i < CONTEXTS; i++) {
    end_context(&contexts[i]);
    contexts[i].sticky = 0;
  }
  memset(calls, 0, sizeof calls);
  state = (fake_cuda_state){0};
  depth = 0;
  error_text[0] = 0;
}

static context *current(void) { return depth > 0 && stack[depth - 1]->lives ? stack[depth - 1] : NULL; }

/* Counts a call; the error that it is to have. */
static int begin(int function) {
  calls[function]++;
  const char *at = word(names[function]);
  int which, error;
  if (!at || sscanf(at, ":%d=%d", &which, &error) != 2 || which != calls[function]) return 0;
  for (int i = 0; i < CONTEXTS && error == ILLEGAL_ADDRESS; i++)
    if (contexts[i].lives && (!current() || current() == &contexts[i])) contexts[i].sticky = error;
  return error;
}
#define BEGIN(name)                                                                                                    \
  do {                                                                                                                 \
    int wrong_ = begin(F_##name);                                                                                      \
    if (wrong_) return wrong_;                                                                                         \
  } while (0)
/* Of a function that wants a context which is sound: c. */
#define BEGIN_IN_CONTEXT(name)                                                                                         \
  BEGIN(name);                                                                                                         \
  context *c = current();                                                                                              \
  if (!c) return NO_CONTEXT;                                                                                           \
  if (c->sticky) return c->sticky

EXPORT fake_cuda_state fake_cuda_get_state(void) {
  fake_cuda_state s = {
      .current = depth, .most_bytes = state.most_bytes, .copies = state.copies, .kernels = state.kernels};
  for (int i = 0; i < CONTEXTS; i++) {
    s.contexts += contexts[i].lives;
    s.streams += contexts[i].has_stream;
    for (int j = 0; j < EVENTS; j++) s.events += contexts[i].events[j];
  }
  for (int i = 0; i < ALLOCATIONS; i++) s.allocations += allocations[i].at != NULL;
  for (int i = 0; i < PINNED; i++) s.pinned += pinned[i].at != NULL;
  for (int i = 0; i < MODULES; i++) s.modules += modules[i].library != NULL;
  return s;
}
EXPORT const char *fake_cuda_name(int index) { return index < FUNCTION_COUNT ? names[index] : NULL; }
EXPORT int fake_cuda_calls(const char *name) {
  for (int i = 0; i < FUNCTION_COUNT; i++)
    if (strcmp(names[i], name) == 0) return calls[i];
  return -1;
}

static bool lies_in(const piece *pieces, int count, const void *pointer, size_t bytes) {
  const char *at = pointer;
  for (int i = 0; i < count; i++)
    if (pieces[i].at && at >= pieces[i].at && at + bytes <= pieces[i].at + pieces[i].bytes) return true;
  return false;
}
static bool on_device(const void *pointer) { return lies_in(allocations, ALLOCATIONS, pointer, 1); }
static bool is_pinned(const void *pointer, size_t bytes) { return lies_in(pinned, PINNED, pointer, bytes); }

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
  return *version = !other ? 13000 : *other == '=' ? atoi(other + 1) : 11040, 0;
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
static int capability(int part) { /* 0: major, 1: minor */
  int numbers[2] = {9, 0};
  const char *at = getenv("FAKE_CUDA");
  if (is("old")) return part ? 5 : 7;
  for (; at && *at; at += strcspn(at, ","), at += *at == ',')
    if (*at >= '0' && *at <= '9') sscanf(at, "%d.%d", &numbers[0], &numbers[1]);
  return numbers[part];
}

EXPORT int cuDeviceGetAttribute(int *value, int attribute, int device) {
  BEGIN(cuDeviceGetAttribute);
  (void)device;
  *value = attribute == 16   ? BLOCKS
           : attribute == 75 ? capability(0)
           : attribute == 76 ? capability(1)
           : attribute == 95 ? 1
                             : 232448;
  return 0;
}

/* ---- contexts */

EXPORT int cuCtxCreate_v2(void **result, unsigned flags, int device) {
  BEGIN(cuCtxCreate_v2);
  (void)flags;
  context *fresh = contexts;
  while (fresh < contexts + CONTEXTS && fresh->lives) fresh++;
  if (device || fresh == contexts + CONTEXTS || depth == DEEP) return INVALID;
  fresh->lives = true;
  fresh->sticky = 0;
  stack[depth++] = fresh;
  return *result = fresh, 0;
}
EXPORT int cuCtxDestroy_v2(void *destroyed) {
  context *c = destroyed;
  if (!c || !c->lives) return INVALID;
  if (depth > 0 && stack[depth - 1] == c) depth--;
  end_context(c);
  BEGIN(cuCtxDestroy_v2); /* also when it says that it failed */
  return 0;
}
EXPORT int cuCtxPushCurrent_v2(void *pushed) {
  BEGIN(cuCtxPushCurrent_v2);
  context *c = pushed;
  if (!c || !c->lives || depth == DEEP) return INVALID;
  return stack[depth++] = c, 0;
}
EXPORT int cuCtxPopCurrent_v2(void **popped) {
  if (depth > 0) *popped = stack[--depth]; /* also when it fails: the next one is another's */
  BEGIN(cuCtxPopCurrent_v2);
  return 0;
}

/* ---- modules */

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

/* What a real driver would take. Its library is none: the table of modules. */
static bool is_real_code(const char *image) {
  Elf64_Ehdr head;
  if (strncmp(image, "//\n", 3) == 0) return true;
  if (memcmp(image, ELFMAG, SELFMAG) != 0) return false;
  memcpy(&head, image, sizeof head);
  return head.e_machine == 190; /* CUDA's */
}

EXPORT int cuModuleLoadData(void **result, const void *image) {
  BEGIN_IN_CONTEXT(cuModuleLoadData);
  char path[256], name[64] = "p0_run";
  module *m = modules;
  while (m < modules + MODULES && m->library) m++;
  if (m == modules + MODULES) return INVALID;
  *m = (module){.file = -1, .context = c};
  if (is_real_code(image)) return m->library = modules, *result = m, 0;
  bool library = memcmp(image, ELFMAG, SELFMAG) == 0;
  if (!library && sscanf(image, "host:%255[^:]:%63s", path, name) != 2) return *m = (module){0}, INVALID;
  m->library = library ? open_bytes(image, &m->file) : dlopen(path, RTLD_NOW | RTLD_LOCAL);
  void *address = m->library ? dlsym(m->library, name) : NULL;
  memcpy(&m->run, &address, sizeof m->run);
  if (!address) return close_module(m), INVALID;
  return *result = m, 0;
}
EXPORT int cuModuleUnload(void *loaded) {
  BEGIN_IN_CONTEXT(cuModuleUnload);
  module *m = loaded;
  if (m->context != c) return INVALID;
  close_module(m);
  return 0;
}
EXPORT int cuModuleGetFunction(void **result, void *loaded, const char *name) {
  BEGIN_IN_CONTEXT(cuModuleGetFunction);
  const module *m = loaded;
  int entry;
  if (m->context != c || !m->run || sscanf(name, "dipper_step_%d", &entry) != 1 || entry >= ENTRIES) return INVALID;
  function *f = &functions[m - modules][entry];
  *f = (function){m, entry};
  return *result = f, 0;
}
EXPORT int cuFuncSetAttribute(void *f, int attribute, int value) {
  BEGIN_IN_CONTEXT(cuFuncSetAttribute);
  return f && attribute == 8 && value > 0 ? 0 : INVALID;
}

/* ---- the stream */

static int illegal(context *c, const char *what) {
  snprintf(error_text, sizeof error_text, "%s", what);
  return c->sticky = ILLEGAL_ADDRESS;
}

/* As far as a launch says how much there is: what is no address of the device; NULL: all is. */
static const char *find_foreign(const cuda_launch *l, int blocks) {
  const void *const pointers[] = {
      l->step.weights,       l->step.weight_types, l->step.inputs,      l->step.outputs,
      l->step.positions,     l->step.slots,        l->step.segment_row, l->step.segment_tokens,
      l->step.segment_pages, l->step.segment_end,  l->step.pages,       l->first_segment,
      l->counters,           l->other_counters,    l->scratch,          l->step.kv};
  for (size_t i = 0; i < DP_COUNT(pointers); i++)
    if (!on_device(pointers[i])) return "an argument is no address of the device";
  for (int i = 0; i < TILE_SPACE_COUNT; i++)
    if (l->step.arena[i] && !on_device(l->step.arena[i])) return "a slab is no address of the device";
  for (int i = 0; i < TILE_STATE_COUNT; i++)
    if (l->step.states[i] && !on_device(l->step.states[i])) return "a table of states is no address of the device";
  const void *const turns[] = {l->step.turned, l->meeting, l->ended, l->step.ends};
  for (size_t i = 0; i < DP_COUNT(turns); i++)
    if (turns[i] && !on_device(turns[i])) return "an argument of turns is no address of the device";
  if (!on_device(l->step.weights[0]) || !on_device(l->step.inputs[0])) return "a table's entry is no address of the device";
  if (l->progress && !is_pinned(l->progress, sizeof *l->progress * (size_t)blocks)) return "the progress is not pinned";
  return NULL;
}

static int run_kernel(context *c, const op *o) {
  const char *error = find_foreign(&o->launch, o->blocks);
  if (error) return illegal(c, error);
  state.kernels++;
  error = o->function->module->run(o->function->entry, &o->launch, o->blocks, o->bytes, ++launches, NULL, 0);
  return error ? illegal(c, error) : 0;
}

static void count_copy(const op *o) {
  if (o->kind == CLEAR) return;
  state.copies++;
  if (o->kind == MOVE) return;
  int at = o->kind == PUT ? 0 : 2;
  traffic[at]++, traffic[at + 1] += (int64_t)o->bytes;
  if (o->kind == GET) fake_bytes_to_host += o->bytes;
}

static int do_op(context *c, const op *o) {
  bool host_gone = (o->kind == PUT && !is_pinned(o->from, o->bytes)) || (o->kind == GET && !is_pinned(o->to, o->bytes));
  bool device_gone = (o->kind == PUT || o->kind == MOVE || o->kind == CLEAR) && !on_device(o->to);
  if (host_gone || device_gone || ((o->kind == GET || o->kind == MOVE) && !on_device(o->from)))
    return illegal(c, "a copy's memory went before it was done");
  if (o->kind == MARK) return 0;
  if (o->kind == KERNEL) return run_kernel(c, o);
  if (o->kind == CLEAR)
    memset(o->to, 0, o->bytes);
  else
    memcpy(o->to, o->from, o->bytes);
  count_copy(o);
  return 0;
}

/* Until that mark is passed; NULL: all. */
static int work(context *c, const void *mark) {
  int error = 0, done = 0;
  while (done < c->queued && !error) {
    const op *o = &c->queue[done++];
    if (o->kind == MARK && o->to == mark) break;
    error = do_op(c, o);
  }
  memmove(c->queue, c->queue + done, sizeof *c->queue * (size_t)(c->queued - done));
  c->queued -= done;
  if (error) c->queued = 0;
  return error;
}

static int enqueue(context *c, op o, void *to) {
  if (to != &c->stream || !c->has_stream || c->queued == MOST) return INVALID;
  c->queue[c->queued++] = o;
  return 0;
}

EXPORT int cuStreamCreate(void **result, unsigned flags) {
  BEGIN_IN_CONTEXT(cuStreamCreate);
  if (flags != 1 || c->has_stream) return INVALID;
  c->has_stream = true;
  return *result = &c->stream, 0;
}
EXPORT int cuStreamDestroy_v2(void *destroyed) {
  BEGIN_IN_CONTEXT(cuStreamDestroy_v2);
  if (destroyed != &c->stream || !c->has_stream) return INVALID;
  c->has_stream = false;
  return 0;
}
EXPORT int cuStreamSynchronize(void *waited) {
  BEGIN_IN_CONTEXT(cuStreamSynchronize);
  if (waited && waited != &c->stream) return INVALID;
  return work(c, NULL);
}
static bool has_kernel(const context *c) {
  for (int i = 0; i < c->queued; i++)
    if (c->queue[i].kind == KERNEL) return true;
  return false;
}
EXPORT int cuStreamQuery(void *asked) {
  BEGIN_IN_CONTEXT(cuStreamQuery);
  if (asked != &c->stream) return INVALID;
  return is("hang") && has_kernel(c) ? NOT_READY : work(c, NULL);
}
EXPORT int cuEventCreate(void **event, unsigned flags) {
  BEGIN_IN_CONTEXT(cuEventCreate);
  for (int i = 0; i < EVENTS && flags == 2; i++)
    if (!c->events[i]) return c->events[i] = true, *event = &c->events[i], 0;
  return INVALID;
}
static bool is_event(const context *c, const void *event) {
  for (int i = 0; i < EVENTS; i++)
    if (event == &c->events[i]) return c->events[i];
  return false;
}
EXPORT int cuEventDestroy_v2(void *event) {
  BEGIN_IN_CONTEXT(cuEventDestroy_v2);
  if (!is_event(c, event)) return INVALID;
  *(bool *)event = false;
  return 0;
}
EXPORT int cuEventRecord(void *event, void *to) {
  BEGIN_IN_CONTEXT(cuEventRecord);
  return is_event(c, event) ? enqueue(c, (op){.kind = MARK, .to = event}, to) : INVALID;
}
EXPORT int cuEventSynchronize(void *event) {
  BEGIN_IN_CONTEXT(cuEventSynchronize);
  for (int i = 0; i < c->queued; i++)
    if (c->queue[i].kind == MARK && c->queue[i].to == (char *)event) return work(c, event);
  return 0;
}
EXPORT int cuLaunchCooperativeKernel(void *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                                     unsigned bz, unsigned shared, void *to, void **arguments) {
  BEGIN_IN_CONTEXT(cuLaunchCooperativeKernel);
  const function *of = f;
  if (!of || of->module->context != c || gx > BLOCKS || gy * gz * by * bz != 1 || bx != CUDA_THREADS) return INVALID;
  op o = {.kind = KERNEL, .function = of, .blocks = (int)gx, .bytes = shared};
  memcpy(&o.launch, arguments[0], sizeof o.launch);
  return enqueue(c, o, to);
}

/* ---- memory */

static piece *free_piece(piece *pieces, int count) {
  for (int i = 0; i < count; i++)
    if (!pieces[i].at) return &pieces[i];
  return NULL;
}
/* Of a context what begins there. */
static piece *find_piece(piece *pieces, int count, const void *at, const context *c) {
  for (int i = 0; i < count && at; i++)
    if (pieces[i].at == at && pieces[i].context == c) return &pieces[i];
  return NULL;
}

EXPORT int cuMemGetInfo_v2(size_t *left, size_t *all) {
  BEGIN_IN_CONTEXT(cuMemGetInfo_v2);
  *all = all_memory();
  *left = *all > used() ? *all - used() : 0;
  return 0;
}
EXPORT int cuMemAlloc_v2(uint64_t *address, size_t bytes) {
  BEGIN_IN_CONTEXT(cuMemAlloc_v2);
  size_t at = (used() + 255) / 256 * 256;
  piece *p = free_piece(allocations, ALLOCATIONS);
  if (!p || at + bytes > all_memory() || at + bytes > memory_bytes) return OUT_OF_MEMORY;
  *p = (piece){memory + at, bytes, c};
  if (at + bytes > state.most_bytes) state.most_bytes = at + bytes;
  memset(p->at, 0xff, bytes < FILLED ? bytes : FILLED); /* NaN; of pieces that begin */
  return *address = (uint64_t)(uintptr_t)p->at, 0;
}
EXPORT int cuMemFree_v2(uint64_t address) {
  BEGIN_IN_CONTEXT(cuMemFree_v2);
  piece *p = find_piece(allocations, ALLOCATIONS, (void *)(uintptr_t)address, c);
  if (!p) return INVALID;
  int error = work(c, NULL);
  *p = (piece){0};
  return error;
}
EXPORT int cuMemHostAlloc(void **result, size_t bytes, unsigned flags) {
  BEGIN_IN_CONTEXT(cuMemHostAlloc);
  piece *p = free_piece(pinned, PINNED);
  if (!p || flags != 2) return INVALID;
  *p = (piece){aligned_alloc(4096, (bytes + 4095) / 4096 * 4096), bytes, c};
  memset(p->at, 0xff, bytes);
  return *result = p->at, 0;
}
EXPORT int cuMemFreeHost(void *at) {
  BEGIN_IN_CONTEXT(cuMemFreeHost);
  piece *p = find_piece(pinned, PINNED, at, c);
  if (!p) return INVALID;
  free(at);
  *p = (piece){0};
  return 0;
}
EXPORT int cuMemHostGetDevicePointer_v2(uint64_t *address, void *at, unsigned flags) {
  BEGIN_IN_CONTEXT(cuMemHostGetDevicePointer_v2);
  if (flags || !find_piece(pinned, PINNED, at, c)) return INVALID;
  return *address = (uint64_t)(uintptr_t)at, 0;
}
static char *host_of(uint64_t address) { return (char *)(uintptr_t)address; }
EXPORT int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, void *on) {
  BEGIN_IN_CONTEXT(cuMemcpyHtoDAsync_v2);
  if (!on_device(host_of(to)) || !is_pinned(from, bytes)) return INVALID;
  return enqueue(c, (op){.kind = PUT, .to = host_of(to), .from = from, .bytes = bytes}, on);
}
EXPORT int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, void *on) {
  BEGIN_IN_CONTEXT(cuMemcpyDtoHAsync_v2);
  if (!on_device(host_of(from)) || !is_pinned(to, bytes)) return INVALID;
  return enqueue(c, (op){.kind = GET, .to = to, .from = host_of(from), .bytes = bytes}, on);
}
EXPORT int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, void *on) {
  BEGIN_IN_CONTEXT(cuMemcpyDtoDAsync_v2);
  if (!on_device(host_of(to)) || !on_device(host_of(from))) return INVALID;
  return enqueue(c, (op){.kind = MOVE, .to = host_of(to), .from = host_of(from), .bytes = bytes}, on);
}
EXPORT int cuMemsetD8Async(uint64_t at, unsigned char value, size_t bytes, void *on) {
  BEGIN_IN_CONTEXT(cuMemsetD8Async);
  if (!on_device(host_of(at)) || value) return INVALID;
  return enqueue(c, (op){.kind = CLEAR, .to = host_of(at), .bytes = bytes}, on);
}
