/* codegen/cuda/link.c: relocatable GPU code to a cubin by nvJitLink, which the toolkit and the wheel nvidia-nvjitlink
 * have.
 *
 * ptxas looks at a program's functions all together, in a time that grows faster than their number: 24 s for the 67
 * task kinds of a training step, 5 s when it takes each by itself, as it does for code that is to be linked. What that
 * costs is that a function saves its caller's registers (up to 700 bytes a thread and call); so only large texts go
 * this way. */
#include "codegen/cuda/cuda.h"

#include <dlfcn.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { INPUT_CUBIN = 1 };

typedef struct linker {
  void *library;
  int (*create)(void **handle, uint32_t count, const char **options);
  int (*destroy)(void **handle);
  int (*add)(void *handle, int kind, const void *data, size_t size, const char *name);
  int (*complete)(void *handle);
  int (*cubin_size)(void *handle, size_t *size);
  int (*cubin)(void *handle, void *cubin);
  int (*log_size)(void *handle, size_t *size);
  int (*log)(void *handle, char *log);
} linker;

static void *open_at(const char *path) { return dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE); }

static void *open_beside(const char *folder) {
  static const char *const places[] = {"libnvJitLink.so.1[0-9]", "../../nvjitlink/lib/libnvJitLink.so.1[0-9]"};
  void *library = NULL;
  for (size_t i = 0; folder && i < DP_COUNT(places) && !library; i++) {
    char pattern[1200];
    glob_t found;
    snprintf(pattern, sizeof pattern, "%s/%s", folder, places[i]);
    if (glob(pattern, 0, NULL, &found) == 0)
      for (size_t at = found.gl_pathc; at > 0 && !library; at--) library = open_at(found.gl_pathv[at - 1]);
    globfree(&found);
  }
  return library;
}

static bool look_up(void *library, const char *name, void *function) {
  void *address = dlsym(library, name);
  memcpy(function, &address, sizeof address);
  return address != NULL;
}

/* Of NVRTC's own toolkit: $DIPPER_NVJITLINK ("": none), or beside NVRTC. */
static bool open_linker(const char *nvrtc_folder, linker *l) {
  const char *named = getenv("DIPPER_NVJITLINK");
  *l = (linker){0};
  l->library = named ? (*named ? open_at(named) : NULL) : open_beside(nvrtc_folder);
  if (!l->library) return false;
  if (look_up(l->library, "nvJitLinkCreate", &l->create) && look_up(l->library, "nvJitLinkDestroy", &l->destroy) &&
      look_up(l->library, "nvJitLinkAddData", &l->add) && look_up(l->library, "nvJitLinkComplete", &l->complete) &&
      look_up(l->library, "nvJitLinkGetLinkedCubinSize", &l->cubin_size) &&
      look_up(l->library, "nvJitLinkGetLinkedCubin", &l->cubin) &&
      look_up(l->library, "nvJitLinkGetInfoLogSize", &l->log_size) &&
      look_up(l->library, "nvJitLinkGetInfoLog", &l->log))
    return true;
  dlclose(l->library);
  return false;
}

bool cuda_can_link(const char *nvrtc_folder) {
  linker l;
  if (!open_linker(nvrtc_folder, &l)) return false;
  dlclose(l.library);
  return true;
}

static bool link_object(const linker *l, void *handle, const cg_object *object, cg_object *cubin) {
  size_t size = 0;
  if (l->add(handle, INPUT_CUBIN, object->bytes, object->size, "step") != 0 || l->complete(handle) != 0 ||
      l->cubin_size(handle, &size) != 0)
    return false;
  *cubin = (cg_object){malloc(size + 1), size};
  if (cubin->bytes && l->cubin(handle, cubin->bytes) == 0) return true;
  cg_object_free(cubin);
  return false;
}

/* A kernel's registers, those of all that it calls, are known when it is linked. */
static void count_registers(const linker *l, void *handle, cuda_resources *r) {
  size_t size = 0;
  char *log = l->log_size(handle, &size) == 0 ? calloc(1, size + 1) : NULL;
  if (log && l->log(handle, log) == 0)
    for (const char *at = log; (at = strstr(at, "used ")); at += 5) {
      int registers = atoi(at + 5);
      if (strncmp(at + 5 + strspn(at + 5, "0123456789"), " registers", 10) == 0 && registers > r->registers)
        r->registers = registers;
    }
  free(log);
}

bool cuda_link(const char *nvrtc_folder, const char *arch, cg_object *object, cuda_resources *resources) {
  linker l;
  void *handle = NULL;
  char option[40];
  const char *options[] = {option, "-verbose"};
  cg_object cubin = {0};
  if (!open_linker(nvrtc_folder, &l)) return false;
  snprintf(option, sizeof option, "-arch=%.16s", arch);
  bool linked = l.create(&handle, 2, options) == 0 && link_object(&l, handle, object, &cubin);
  if (linked && resources) count_registers(&l, handle, resources);
  if (handle) l.destroy(&handle);
  dlclose(l.library);
  if (!linked) return false;
  cg_object_free(object);
  *object = cubin;
  return true;
}
