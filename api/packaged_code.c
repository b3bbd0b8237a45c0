/* api/packaged_code.c: which of a package's code runs: a GPU's where there is one that it serves, else that of a CPU. Each is
 * of a program of its own: the same module, scheduled by the device's numbers. */
#include "api/internal.h"

#include <stdlib.h>
#include <string.h>

enum { MOST_CHIPS = 32 };

static const char *data_of(const api_package *package, const api_package_entry *entry) {
  return (const char *)package->file.data + entry->offset;
}

/* ---- a CPU's */

/* Of the objects that this CPU runs the one that uses most of it. */
static const api_package_entry *choose_object(const api_package *package) {
  const api_package_entry *best = NULL;
  int best_rank = -1, rank;
  for (int i = 0; i < package->count; i++) {
    const api_package_entry *e = &package->entries[i];
    if (e->part != API_PART_OBJECT || !cg_runs_here(e->name, &rank) || rank <= best_rank) continue;
    best = e, best_rank = rank;
  }
  return best;
}

static dp_status load_for_cpu(const char *path, const api_package *package, dp_model *model) {
  const api_package_entry *object = choose_object(package);
  if (!object)
    return dp_fail(DP_UNSUPPORTED, "none of the code in '%s' runs on this CPU: compile for it too (dipper compile --target)", path);
  cg_object bytes = {(void *)(uintptr_t)data_of(package, object), object->size};
  dp_str_add(&model->device, "cpu");
  return cg_load_object(model->program, &bytes, &model->code);
}

/* ---- a GPU's */

static void print_chips(const api_package *package, dp_str *out) {
  const char *names[MOST_CHIPS];
  int count = api_package_names(package, API_PART_GPU_OBJECT, names, MOST_CHIPS);
  for (int i = 0; i < count; i++) dp_str_addf(out, "%s%s", i ? ", " : "", names[i]);
}

static const api_package_entry *find_chip(const api_package *package, const char *chip) {
  for (int i = 0; i < package->count; i++)
    if (package->entries[i].part == API_PART_GPU_OBJECT && strcmp(package->entries[i].name, chip) == 0)
      return &package->entries[i];
  return NULL;
}

/* The code that serves the first device, which is told in `device`. */
static dp_status choose_chip(const cg_backend *gpu, const api_package *package, const api_package_entry **object, dp_str *device) {
  const char *names[MOST_CHIPS];
  int count = api_package_names(package, API_PART_GPU_OBJECT, names, MOST_CHIPS), index;
  DP_TRY(gpu->choose(names, count, &index, device));
  if (index >= 0) {
    *object = find_chip(package, names[index]);
    dp_str_addf(device, ", code for %s", names[index]);
    return DP_SUCCESS;
  }
  return dp_fail(DP_UNSUPPORTED, "no code for %s: compile for it too (dipper compile --target; ptx serves every chip from sm_80 on)",
                 device->text ? device->text : "");
}

/* Do two programs want the same matrices in the same slots? */
static bool same_weights(const tile_program *a, const tile_program *b) {
  if (a->weight_count != b->weight_count || a->slot_count != b->slot_count) return false;
  for (int i = 0; i < a->weight_count; i++) {
    const tile_weight *x = &a->weights[i], *y = &b->weights[i];
    if (x->weight != y->weight || x->form != y->form || x->transposed != y->transposed || x->storage != y->storage ||
        x->rows != y->rows || x->cols != y->cols || x->count != y->count || x->inner != y->inner || x->first_slot != y->first_slot)
      return false;
  }
  return true;
}

static dp_status load_for_gpu(const api_package *package, bool packed, dp_model *model) {
  const cg_backend *gpu = cg_find_backend("cuda");
  const api_package_entry *object = NULL;
  tile_program *program = NULL;
  dp_str device = {0};
  dp_status status = choose_chip(gpu, package, &object, &device);
  if (status.code == DP_OK)
    status = api_schedule_again(&(dp_options){.backend = gpu->name}, &model->source, &program);
  if (status.code == DP_OK && packed && !same_weights(program, model->program))
    status = dp_fail(DP_UNSUPPORTED, "the packed weights are a CPU's: name a GGUF or safetensors file (--weights)");
  if (status.code == DP_OK) {
    cg_object bytes = {(void *)(uintptr_t)data_of(package, object), object->size};
    status = gpu->load(program, &bytes, &model->code);
  }
  if (status.code == DP_OK) {
    tile_program_free(model->program);
    model->program = program;
    dp_str_addn(&model->device, device.text, device.length);
  } else {
    tile_program_free(program);
  }
  dp_str_free(&device);
  return status;
}

/* ---- either */

static dp_status refuse(const char *path, const api_package *package, dp_status why) {
  dp_str chips = {0};
  print_chips(package, &chips);
  dp_status status = dp_fail(why.code, "%s; '%s' has GPU code for %s", dp_status_text(&why), path, chips.text ? chips.text : "");
  dp_str_free(&chips);
  dp_status_free(&why);
  return status;
}

static dp_status neither(dp_status cpu, const dp_status *gpu) {
  dp_status status = dp_fail(cpu.code, "%s; and %s", dp_status_text(&cpu), dp_status_text(gpu));
  dp_status_free(&cpu);
  return status;
}

/* Damage and mistakes of our own are no reason to go on elsewhere. */
static bool is_told(dp_status why) { return why.code == DP_INVALID || why.code == DP_BUG; }

static dp_status load(const char *path, const api_package *package, const char *device, bool packed, dp_model *model) {
  bool forced = device && strcmp(device, "cuda") == 0, has_code = api_package_names(package, API_PART_GPU_OBJECT, NULL, 0) > 0;
  if (device && strcmp(device, "cpu") == 0) return load_for_cpu(path, package, model);
  if (device && !forced && strcmp(device, "auto") != 0)
    return dp_fail(DP_INVALID, "a device is cpu, cuda or auto, not '%s'", device);
  if (!has_code && forced)
    return dp_fail(DP_UNSUPPORTED, "'%s' has no GPU code: compile it with --target sm_80, sm_90a, sm_100a or ptx", path);
  if (!has_code) return load_for_cpu(path, package, model);
  dp_status why = load_for_gpu(package, packed, model);
  if (why.code == DP_OK) return why;
  if (forced || is_told(why)) return refuse(path, package, why);
  dp_status status = load_for_cpu(path, package, model);
  if (status.code != DP_OK)
    status = neither(status, &why);
  else if (device || why.code != DP_NOT_FOUND) /* that there is no GPU is no news to who asked for none */
    dp_str_addf(&model->note, "on the CPU: %s", dp_status_text(&why));
  dp_status_free(&why);
  return status;
}

dp_status api_load_packaged(const char *path, const api_package *package, const dp_options *options, bool packed,
                            dp_model *model, cg_program_key *key) {
  dp_options as_compiled = {.threads = options->threads}; /* the cache's type is in the module */
  DP_TRY(api_schedule(&as_compiled, &model->source, &model->program));
  DP_TRY(cg_find_program_key(model->program, key));
  return load(path, package, options->device, packed, model);
}
