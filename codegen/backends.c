/* codegen/backends.c: which back ends this build has. The only place that names them. */
#include "codegen/codegen.h"

#include <stdlib.h>
#include <string.h>

extern const cg_backend cg_interp;
extern const cg_backend cg_cuda, cg_cuda_objects;
#ifdef DIPPER_HAVE_LLVM
extern const cg_backend cg_llvm;
#endif

#ifdef DIPPER_OBJECTS_ONLY /* a launcher: it loads objects, and has no back end that compiles */
int cg_backend_count(void) { return 0; }
const cg_backend *cg_backend_at(int index) { return (void)index, NULL; }
const cg_backend *cg_find_backend(const char *name) {
  return name && strcmp(name, cg_cuda_objects.name) == 0 ? &cg_cuda_objects : NULL;
}
#else
/* Those whose code this process runs. The first is the default. */
static const cg_backend *const backends[] = {
#ifdef DIPPER_HAVE_LLVM
    &cg_llvm,
#endif
    &cg_interp,
};

int cg_backend_count(void) { return (int)DP_COUNT(backends); }

const cg_backend *cg_backend_at(int index) { return index >= 0 && index < cg_backend_count() ? backends[index] : NULL; }

const cg_backend *cg_find_backend(const char *name) {
  if (!name) return backends[0];
  for (size_t i = 0; i < DP_COUNT(backends); i++)
    if (strcmp(backends[i]->name, name) == 0) return backends[i];
  return strcmp(name, cg_cuda.name) == 0 ? &cg_cuda : NULL;
}

#endif

void cg_object_free(cg_object *object) {
  free(object->bytes);
  *object = (cg_object){0};
}
