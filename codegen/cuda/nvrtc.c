/* codegen/cuda/nvrtc.c: CUDA C to PTX or a cubin. NVRTC is opened at run time: $DIPPER_NVRTC, then the loader's path,
 * then where toolkits and Python's wheel put it. Its prototypes are declared here: no header of CUDA's is needed to
 * build. */
#include "codegen/cuda/cuda.h"

#include <dlfcn.h>
#include <glob.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>


typedef struct nvrtc_program nvrtc_program;

typedef struct nvrtc {
  void *library;
  char folder[1024]; /* where it lies; "": not known */
  const char *(*error_text)(int result);
  int (*version)(int *major, int *minor);
  int (*create)(nvrtc_program **program, const char *source, const char *name, int headers, const char *const *texts,
                const char *const *names);
  int (*destroy)(nvrtc_program **program);
  int (*compile)(nvrtc_program *program, int count, const char *const *options);
  int (*log_size)(nvrtc_program *program, size_t *size);
  int (*log)(nvrtc_program *program, char *log);
  int (*ptx_size)(nvrtc_program *program, size_t *size);
  int (*ptx)(nvrtc_program *program, char *ptx);
  int (*cubin_size)(nvrtc_program *program, size_t *size);
  int (*cubin)(nvrtc_program *program, char *cubin);
} nvrtc;

/* ---- finding it */

static const char *const sonames[] = {"libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"};

static const char *const places[] = {
    "/usr/local/cuda/lib64/libnvrtc.so.1[0-9]",
    "/usr/local/cuda-*/lib64/libnvrtc.so.1[0-9]",
    "/opt/cuda/lib64/libnvrtc.so.1[0-9]",
    "~/.local/lib/python3*/site-packages/nvidia/c*/lib/libnvrtc.so.1[0-9]",
    "/usr/local/lib/python3*/*-packages/nvidia/c*/lib/libnvrtc.so.1[0-9]",
};

/* The last of a glob's paths, the newest version, that can be opened. */
static void *open_glob(const char *pattern) {
  glob_t found;
  void *library = NULL;
  if (glob(pattern, GLOB_TILDE, NULL, &found) == 0)
    for (size_t i = found.gl_pathc; i > 0 && !library; i--)
      /* It stays: what it keeps for itself would be lost when it goes. */
      library = dlopen(found.gl_pathv[i - 1], RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  globfree(&found);
  return library;
}

static dp_status open_library(void **library) {
  const char *named = getenv("DIPPER_NVRTC"), *venv = getenv("VIRTUAL_ENV");
  if (named && *named) {
    *library = dlopen(named, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (*library) return DP_SUCCESS;
    return dp_fail(DP_NOT_FOUND, "DIPPER_NVRTC names '%s', which cannot be opened: %s", named, dlerror());
  }
  *library = NULL;
  for (size_t i = 0; i < DP_COUNT(sonames) && !*library; i++) *library = dlopen(sonames[i], RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  for (size_t i = 0; i < DP_COUNT(places) && !*library; i++) *library = open_glob(places[i]);
  if (!*library && venv) {
    char pattern[1024];
    snprintf(pattern, sizeof pattern, "%s/lib/python3*/site-packages/nvidia/c*/lib/libnvrtc.so.1[0-9]", venv);
    *library = open_glob(pattern);
  }
  if (*library) return DP_SUCCESS;
  return dp_fail(DP_NOT_FOUND, "no NVRTC found, which compiles CUDA C: install the CUDA toolkit (12 or later), or "
                               "`pip install nvidia-cuda-nvrtc`, or set DIPPER_NVRTC to libnvrtc.so's path");
}

static void find_folder(nvrtc *n) {
  struct link_map *map = NULL;
  const char *slash = dlinfo(n->library, RTLD_DI_LINKMAP, &map) == 0 && map ? strrchr(map->l_name, '/') : NULL;
  n->folder[0] = 0;
  if (slash) snprintf(n->folder, sizeof n->folder, "%.*s", (int)(slash - map->l_name), map->l_name);
}

/* NVRTC asks the loader for its built-in functions by name alone: one that lies beside it is found when it is open. */
static void open_builtins(const nvrtc *n) {
  char pattern[1100];
  snprintf(pattern, sizeof pattern, "%s/libnvrtc-builtins.so.*", n->folder);
  if (n->folder[0]) open_glob(pattern);
}

static bool look_up(void *library, const char *name, void *function) {
  void *address = dlsym(library, name);
  memcpy(function, &address, sizeof address);
  return address != NULL;
}

static dp_status open_nvrtc(nvrtc *n) {
  DP_TRY(open_library(&n->library));
  find_folder(n);
  open_builtins(n);
  bool complete =
      look_up(n->library, "nvrtcGetErrorString", &n->error_text) && look_up(n->library, "nvrtcVersion", &n->version) &&
      look_up(n->library, "nvrtcCreateProgram", &n->create) &&
      look_up(n->library, "nvrtcDestroyProgram", &n->destroy) &&
      look_up(n->library, "nvrtcCompileProgram", &n->compile) &&
      look_up(n->library, "nvrtcGetProgramLogSize", &n->log_size) &&
      look_up(n->library, "nvrtcGetProgramLog", &n->log) && look_up(n->library, "nvrtcGetPTXSize", &n->ptx_size) &&
      look_up(n->library, "nvrtcGetPTX", &n->ptx) && look_up(n->library, "nvrtcGetCUBINSize", &n->cubin_size) &&
      look_up(n->library, "nvrtcGetCUBIN", &n->cubin);
  if (complete) return DP_SUCCESS;
  dlclose(n->library);
  return dp_fail(DP_UNSUPPORTED, "the NVRTC found is too old: CUDA 12 or later is needed");
}

dp_status cuda_find_compiler(dp_str *version) {
  nvrtc n;
  DP_TRY(open_nvrtc(&n));
  int major = 0, minor = 0;
  n.version(&major, &minor);
  dp_str_addf(version, "NVRTC %d.%d", major, minor);
  dlclose(n.library);
  return DP_SUCCESS;
}

dp_status cuda_describe_compiler(int *major, dp_str *out) {
  nvrtc n;
  Dl_info info;
  int minor = 0;
  DP_TRY(open_nvrtc(&n));
  n.version(major, &minor);
  void *function;
  memcpy(&function, &n.version, sizeof function);
  bool found = dladdr(function, &info) != 0 && info.dli_fname;
  dp_str_addf(out, "NVRTC %d.%d%s%s", *major, minor, found ? ", " : "", found ? info.dli_fname : "");
  dlclose(n.library);
  return DP_SUCCESS;
}

/* ---- what ptxas reports */

static int64_t number_before(const char *from, const char *end, const char *what) {
  const char *at = strstr(from, what);
  if (!at || at >= end) return 0;
  while (at > from && (at[-1] == ' ')) at--;
  while (at > from && at[-1] >= '0' && at[-1] <= '9') at--;
  return strtoll(at, NULL, 10);
}

static void read_report(const char *log, cuda_resources *r) {
  *r = (cuda_resources){0};
  for (const char *line = log; line && *line;) {
    const char *end = line + strcspn(line, "\n");
    if (strstr(line, "bytes stack frame") && strstr(line, "bytes stack frame") < end) {
      r->stack += number_before(line, end, "bytes stack frame");
      r->spill_stores += number_before(line, end, "bytes spill stores");
      r->spill_loads += number_before(line, end, "bytes spill loads");
    }
    const char *used = strstr(line, "Used ");
    if (used && used < end && strstr(used, "registers") && strstr(used, "registers") < end) {
      int registers = atoi(used + 5);
      if (registers > r->registers) r->registers = registers;
      r->kernels++;
    }
    line = *end ? end + 1 : end;
  }
}

/* ---- compiling */

static dp_status failed(const nvrtc *n, const char *what, int result) {
  return dp_fail(DP_BUG, "NVRTC: %s: %s", what, n->error_text(result));
}

/* The log, or NULL. */
static char *log_of(const nvrtc *n, nvrtc_program *program) {
  size_t size = 0;
  if (n->log_size(program, &size) != 0 || size == 0) return NULL;
  char *log = malloc(size + 1);
  if (log && n->log(program, log) != 0) log[0] = 0;
  if (log) log[size] = 0;
  return log;
}

static dp_status take_output(const nvrtc *n, nvrtc_program *program, cuda_output output, cg_object *object) {
  size_t size = 0;
  int result = output == CUDA_PTX ? n->ptx_size(program, &size) : n->cubin_size(program, &size);
  if (result != 0) return failed(n, "no output", result);
  object->bytes = malloc(size + 1);
  object->size = size;
  if (!object->bytes) return dp_fail(DP_NO_MEMORY, "no memory for %zu bytes of GPU code", size);
  result = output == CUDA_PTX ? n->ptx(program, object->bytes) : n->cubin(program, object->bytes);
  if (result == 0) return DP_SUCCESS;
  cg_object_free(object);
  return failed(n, "no output", result);
}

static dp_status compile(const nvrtc *n, const char *text, const char *arch, cuda_output output, cg_object *object,
                         cuda_resources *resources, dp_str *log_out) {
  nvrtc_program *program = NULL;
  int result = n->create(&program, text, "step.cu", 0, NULL, NULL);
  if (result != 0) return failed(n, "the text is not taken", result);
  char option[40];
  snprintf(option, sizeof option, "--gpu-architecture=%.16s", arch);
  if (output == CUDA_PTX && strncmp(arch, "sm_", 3) == 0)
    snprintf(option, sizeof option, "--gpu-architecture=compute_%.12s", arch + 3);
  const char *options[] = {option,         "--std=c++17",        "--device-as-default-execution-space",
                           "--fmad=false", "--prec-div=true",    "--prec-sqrt=true",
                           "--ftz=false",  "--disable-warnings", "--ptxas-options=-v"};
  result = n->compile(program, (int)DP_COUNT(options), options);
  char *log = log_of(n, program);
  dp_status status = DP_SUCCESS;
  if (result != 0)
    status = dp_fail(DP_BUG, "NVRTC does not compile the text for %s: %s\n%.2000s", arch, n->error_text(result),
                     log ? log : "");
  else
    status = take_output(n, program, output, object);
  if (resources) read_report(log ? log : "", resources);
  if (log_out && log) dp_str_add(log_out, log);
  free(log);
  n->destroy(&program);
  return status;
}

dp_status cuda_compile_logged(const char *text, const char *arch, cuda_output output, cg_object *object,
                              cuda_resources *resources, dp_str *log) {
  nvrtc n;
  *object = (cg_object){0};
  DP_TRY(open_nvrtc(&n));
  dp_status status = compile(&n, text, arch, output, object, resources, log);
  dlclose(n.library);
  return status;
}

dp_status cuda_compile(const char *text, const char *arch, cuda_output output, cg_object *object,
                       cuda_resources *resources) {
  return cuda_compile_logged(text, arch, output, object, resources, NULL);
}
