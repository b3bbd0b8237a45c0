/* tests/cuda/fake_nvrtc.c: an NVRTC for tests: a "cubin" is the text compiled for this machine by its own C++ compiler
 * (tests/cuda/host.hh), a shared library, which tests/cuda/fake_driver.c loads and runs. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

enum { OUT_OF_MEMORY = 1, INVALID = 3, COMPILATION = 6 };

typedef struct program {
  char *source, *library;
  size_t size;
} program;

EXPORT const char *nvrtcGetErrorString(int result) {
  return result == COMPILATION ? "compilation failed" : result ? "fake error" : "success";
}
/* Of no toolkit: what a cache keeps of it is never taken for a cubin. */
EXPORT int nvrtcVersion(int *major, int *minor) { return *major = 99, *minor = 0, 0; }

EXPORT int nvrtcCreateProgram(program **result, const char *source, const char *name, int headers,
                              const char *const *texts, const char *const *names) {
  (void)name, (void)texts, (void)names;
  program *p = calloc(1, sizeof *p);
  if (p) p->source = strdup(source);
  *result = p;
  return headers ? INVALID : p && p->source ? 0 : OUT_OF_MEMORY;
}

EXPORT int nvrtcDestroyProgram(program **p) {
  free((*p)->source);
  free((*p)->library);
  free(*p);
  *p = NULL;
  return 0;
}

/* The text in a namespace, and the function that runs one of its kernels. */
static int write_source(const char *path, const char *text) {
  FILE *file = fopen(path, "w");
  char name[40];
  int entries = 0;
  if (!file) return INVALID;
  fprintf(file, "#include \"%s/cuda/host.hh\"\nnamespace p0 {\n%s}\n", DIPPER_TEST_DIR, text);
  while (snprintf(name, sizeof name, "(dipper_step_%d)", entries), strstr(text, name)) entries++;
  if (!entries) fprintf(file, "#error the text has no kernel\n");
  for (int e = 0; e < entries; e++)
    fprintf(file, "static void step_%d(const void *l) { p0::dipper_step_%d(*(const p0::Launch *)l); }\n", e, e);
  fprintf(file,
          "extern \"C\" __attribute__((visibility(\"default\"))) const char *p0_run(int entry, const void *launch, "
          "int blocks, size_t shared, u64 seed, const host_region *regions, int region_count) {\n  static void (*const steps[])(const void *) = {");
  for (int e = 0; e < entries; e++) fprintf(file, "step_%d, ", e);
  fprintf(file, "};\n  return host_launch(steps[entry], launch, blocks, p0::THREADS, shared, seed, regions, region_count);\n}\n");
  return fclose(file) ? INVALID : 0;
}

static int read_library(const char *path, program *p) {
  FILE *file = fopen(path, "r");
  long size = file && fseek(file, 0, SEEK_END) == 0 ? ftell(file) : -1;
  if (size > 0) p->library = malloc((size_t)size);
  if (p->library) rewind(file);
  int good = p->library && fread(p->library, 1, (size_t)size, file) == (size_t)size;
  p->size = good ? (size_t)size : 0;
  if (file) fclose(file);
  return good ? 0 : INVALID;
}

EXPORT int nvrtcCompileProgram(program *p, int count, const char *const *options) {
  char folder[] = "/tmp/dipper-nvrtc-XXXXXX", source[64], library[64], command[1024];
  (void)count, (void)options;
  if (!mkdtemp(folder)) return INVALID;
  snprintf(source, sizeof source, "%s/step.cc", folder);
  snprintf(library, sizeof library, "%s/step.so", folder);
#ifdef __x86_64__
  const char *fma = __builtin_cpu_supports("fma") ? "-mfma" : "";
#else
  const char *fma = "";
#endif
  snprintf(command, sizeof command,
           "cc -x c++ -std=c++17 -O1 -w -ffp-contract=off -fno-strict-aliasing -fno-exceptions -fno-rtti "
           "-fvisibility=hidden %s -fPIC -shared -Wl,--version-script=%s/cuda/host.map -o %s %s -lm",
           fma, DIPPER_TEST_DIR, library, source);
  int result = write_source(source, p->source);
  if (!result && system(command) != 0) result = COMPILATION;
  if (!result) result = read_library(library, p);
  unlink(source);
  unlink(library);
  rmdir(folder);
  return result;
}

EXPORT int nvrtcGetProgramLogSize(program *p, size_t *size) { return (void)p, *size = 0, 0; }
EXPORT int nvrtcGetProgramLog(program *p, char *log) { return (void)p, (void)log, 0; }
EXPORT int nvrtcGetPTXSize(program *p, size_t *size) { return (void)p, *size = 0, INVALID; }
EXPORT int nvrtcGetPTX(program *p, char *ptx) { return (void)p, (void)ptx, INVALID; }
EXPORT int nvrtcGetCUBINSize(program *p, size_t *size) { return *size = p->size, p->size ? 0 : INVALID; }
EXPORT int nvrtcGetCUBIN(program *p, char *cubin) { return memcpy(cubin, p->library, p->size), 0; }
