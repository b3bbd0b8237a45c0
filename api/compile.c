/* api/compile.c: ahead-of-time compilation: text and weights to a scheduled program, that to an object for each target, and
 * all of it behind a launcher. What is compiled is the module read back from the text that travels: what opens it later
 * makes the same program of it. For GPUs the same module is scheduled by their numbers, so theirs is a program of its own. */
#include "api/internal.h"
#include "dipper/aot.h"

#include <elf.h>
#include <stdlib.h>
#include <string.h>

/* A target and the code for it. */
typedef struct compiled {
  const char *target; /* NULL: this machine's CPU */
  api_part part;      /* API_PART_OBJECT, API_PART_GPU_OBJECT */
  dp_str name;        /* of the part */
  cg_object object;
} compiled;

typedef struct compiling {
  const dp_options *options;
  const dp_compilation *how;
  api_source source;
  dp_str module;         /* its text */
  tile_program *program;
  tile_program *gpu_program; /* NULL before it is needed */
  cg_program_key key;
  compiled *codes; /* [count] */
  int count;
} compiling;

/* ---- the program */

static dp_status reparse(compiling *c) {
  dp_diags *diags = dp_diags_new();
  if (!diags) return dp_fail(DP_NO_MEMORY, "no memory for diagnostics");
  ir_module *again = ir_parse("module", c->module.text, c->module.length, diags);
  dp_diags_free(diags);
  DP_CHECK(again, "the text of module %s does not parse", c->source.module->name);
  ir_module_free(c->source.module);
  c->source.module = again;
  c->source.plan = NULL; /* both were the old module's */
  c->source.recipe = NULL;
  return DP_SUCCESS;
}

static dp_status make_program(compiling *c) {
  const dp_options *options = c->options;
  if (options->adapter)
    return dp_fail(DP_UNSUPPORTED, "an adapter is not compiled in: put it into the weights first (dipper weights save --adapter)");
  DP_TRY(api_open_source(options, API_TEXT, &c->source));
  const char *kv_type = options->kv_type ? options->kv_type : c->source.plan ? c->source.plan->cache_type : NULL;
  if (kv_type) DP_TRY(ps_store_cache(c->source.module, NULL, kv_type));
  ir_print(&c->module, c->source.module);
  if (c->module.failed) return dp_fail(DP_NO_MEMORY, "no memory for a module's text");
  DP_TRY(reparse(c));
  dp_options scheduled = {.verify_each = options->verify_each};
  DP_TRY(api_schedule(&scheduled, &c->source, &c->program));
  return cg_find_program_key(c->program, &c->key);
}

static dp_status need_gpu_program(compiling *c) {
  dp_options scheduled = {.backend = "cuda", .verify_each = c->options->verify_each};
  return c->gpu_program ? DP_SUCCESS : api_schedule_again(&scheduled, &c->source, &c->gpu_program);
}

/* ---- targets */

static const char *gpu_target(const char *name) {
  const cg_backend *gpu = cg_find_backend("cuda");
  const char *target = NULL;
  for (int i = 0; (target = gpu->target_at(i)) && strcmp(target, name) != 0; i++) continue;
  return target;
}

static dp_status unknown_target(const char *name) {
  const char *names[48];
  int count = 0;
  dp_str list = {0};
  for (const cg_cpu *cpu; count < 32 && (cpu = cg_cpu_at(count)); count++) names[count] = cpu->name;
  const cg_backend *gpu = cg_find_backend("cuda");
  for (int i = 0; count < (int)DP_COUNT(names) && gpu->target_at(i); i++) names[count++] = gpu->target_at(i);
  for (int i = 0; i < count; i++) dp_str_addf(&list, "%s%s", i ? ", " : "", names[i]);
  const char *near = dp_nearest_name(name, names, count);
  dp_status status = dp_fail(DP_INVALID, "no target '%s'%s%s%s; there are %s", name, near ? "; did you mean '" : "",
                             near ? near : "", near ? "'?" : "", list.text ? list.text : "");
  dp_str_free(&list);
  return status;
}

/* ---- objects */

static void report(const compiling *c, const char *target, size_t size, double begin, const dp_str *more) {
  if (!c->how->on_report) return;
  dp_str text = {0};
  dp_str_addf(&text, "%s: %zu bytes in %.1f s\n%s", target ? target : "this machine's CPU", size, api_seconds() - begin,
              more->text ? more->text : "");
  if (!text.failed) c->how->on_report(c->how->user, text.text);
  dp_str_free(&text);
}

static dp_status compile_for_cpu(compiling *c, compiled *code) {
  const cg_backend *backend = cg_find_backend("llvm");
  if (!backend) return dp_fail(DP_UNSUPPORTED, "this build of dipper has no LLVM: it runs compiled models, but compiles none");
  const cg_cpu *cpu = code->target ? cg_find_cpu(code->target) : NULL;
  cg_target target = {0};
  if (cpu) target = (cg_target){.triple = cpu->triple, .cpu = cpu->cpu};
  DP_TRY(cg_cpu_requirement(cpu, &code->name));
  double begin = api_seconds();
  DP_TRY(backend->compile(c->program, &target, &code->object));
  report(c, code->target, code->object.size, begin, &(dp_str){0});
  return DP_SUCCESS;
}

static dp_status compile_for_gpu(compiling *c, compiled *code) {
  DP_TRY(need_gpu_program(c));
  dp_str more = {0};
  cg_target target = {.cpu = code->target, .report = c->how->on_report ? &more : NULL};
  dp_str_add(&code->name, code->target);
  if (code->name.failed) return dp_fail(DP_NO_MEMORY, "no memory for a target's name");
  double begin = api_seconds();
  dp_status status = cg_find_backend("cuda")->compile(c->gpu_program, &target, &code->object);
  if (status.code == DP_OK) report(c, code->target, code->object.size, begin, &more);
  dp_str_free(&more);
  return status;
}

static dp_status add_code(compiling *c, const char *name) {
  compiled *code = &c->codes[c->count++];
  const char *chip = name ? gpu_target(name) : NULL;
  *code = (compiled){.target = name, .part = chip ? API_PART_GPU_OBJECT : API_PART_OBJECT};
  if (name && !chip && !cg_find_cpu(name)) return unknown_target(name);
  for (int i = 0; i < c->count - 1; i++)
    if (name && c->codes[i].target && strcmp(c->codes[i].target, name) == 0)
      return dp_fail(DP_INVALID, "target '%s' is named twice", name);
  return DP_SUCCESS;
}

/* Where no target is a CPU there is code for this machine's too, unless it is one object `alone` that is wanted. */
static dp_status list_codes(compiling *c, bool alone) {
  const dp_compilation *how = c->how;
  bool cpu = false;
  c->codes = calloc((size_t)how->target_count + 1, sizeof *c->codes);
  if (!c->codes) return dp_fail(DP_NO_MEMORY, "no memory for %d objects", how->target_count + 1);
  for (int i = 0; i < how->target_count; i++) {
    DP_TRY(add_code(c, how->targets[i]));
    cpu |= c->codes[i].part == API_PART_OBJECT;
  }
  return how->target_count == 0 || (!cpu && !alone) ? add_code(c, NULL) : DP_SUCCESS;
}

static dp_status compile_objects(compiling *c, bool alone) {
  DP_TRY(list_codes(c, alone));
  for (int i = 0; i < c->count; i++)
    DP_TRY(c->codes[i].part == API_PART_GPU_OBJECT ? compile_for_gpu(c, &c->codes[i]) : compile_for_cpu(c, &c->codes[i]));
  return DP_SUCCESS;
}

static dp_status write_object(compiling *c, const char *path) {
  if (c->how->target_count > 1) return dp_fail(DP_INVALID, "an object is for one target, not for %d", c->how->target_count);
  DP_TRY(compile_objects(c, true));
  return dp_write_file_atomic(path, c->codes[0].object.bytes, c->codes[0].object.size);
}

/* What NVIDIA's tools read: CUDA C, PTX or a cubin. */
static dp_status write_gpu_text(compiling *c, cg_text kind, const char *path) {
  const char *name = c->how->target_count ? c->how->targets[0] : NULL;
  if (c->how->target_count > 1) return dp_fail(DP_INVALID, "GPU code is written for one target, not for %d", c->how->target_count);
  if (name && !gpu_target(name))
    return cg_find_cpu(name) ? dp_fail(DP_INVALID, "target '%s' is no GPU", name) : unknown_target(name);
  if (name && kind == CG_TEXT_MACHINE && strcmp(name, "ptx") == 0)
    return dp_fail(DP_INVALID, "a cubin is for one chip: name that as the target, or emit ptx");
  DP_TRY(need_gpu_program(c));
  dp_str text = {0}, more = {0};
  cg_target target = {.cpu = name, .report = c->how->on_report ? &more : NULL};
  const char *label = name ? name : kind == CG_TEXT_IR ? "CUDA C" : kind == CG_TEXT_MACHINE ? "cubin" : "ptx";
  double begin = api_seconds();
  dp_status status = cg_find_backend("cuda")->text(c->gpu_program, &target, kind, &text);
  if (status.code == DP_OK && text.failed) status = dp_fail(DP_NO_MEMORY, "no memory for GPU code");
  if (status.code == DP_OK) report(c, label, text.length, begin, &more);
  if (status.code == DP_OK) status = dp_write_file_atomic(path, text.text, text.length);
  dp_str_free(&text);
  dp_str_free(&more);
  return status;
}

/* ---- packages */

static const char *base_name(const char *path) {
  const char *slash = strrchr(path, '/');
  return slash ? slash + 1 : path;
}

static dp_status add_tokenizer(compiling *c, api_package_writer *writer) {
  const rt_weights_file *file = c->source.file;
  dp_str beside = {0}, metadata = {0};
  char *text = NULL;
  size_t length;
  dp_status status = rt_save_metadata(file, &metadata);
  if (status.code == DP_OK) status = api_package_add(writer, API_PART_METADATA, "", metadata.text, metadata.length);
  dp_str_free(&metadata);
  if (status.code != DP_OK || rt_weights_format_of(file) == RT_GGUF) return status;
  dp_str_addf(&beside, "%stokenizer.json", rt_weights_directory(file));
  status = beside.failed ? dp_fail(DP_NO_MEMORY, "no memory for a path") : dp_read_file(beside.text, &text, &length);
  if (status.code == DP_OK) status = api_package_add(writer, API_PART_TOKENIZER, "", text, length);
  if (status.code == DP_NOT_FOUND) dp_status_free(&status); /* a model may come without one: this makes it a success */
  dp_str_free(&beside);
  free(text);
  return status;
}

static dp_status add_weights(compiling *c, api_package_writer *writer) {
  if (!c->source.binding) return dp_fail(DP_INVALID, "no weights were named: give --weights");
  if (c->source.file) DP_TRY(add_tokenizer(c, writer));
  rt_resident_options packing = {.workers = api_threads(c->options)};
  rt_resident *weights;
  DP_TRY(rt_resident_new(c->program, c->source.binding, &packing, &weights));
  uint64_t key[2] = {c->key.first, c->key.second};
  dp_status status = api_package_begin_part(writer, API_PART_WEIGHTS, "");
  if (status.code == DP_OK) status = rt_resident_write(weights, c->program, key, api_package_write, writer);
  rt_resident_free(weights);
  return status;
}

static dp_status add_model(compiling *c, api_package_writer *writer) {
  DP_TRY(api_package_add(writer, API_PART_MODULE, "", c->module.text, c->module.length));
  for (int i = 0; i < c->count; i++)
    DP_TRY(api_package_add(writer, c->codes[i].part, c->codes[i].name.text, c->codes[i].object.bytes, c->codes[i].object.size));
  const char *name = c->source.file ? base_name(rt_weights_path(c->source.file)) : NULL;
  if (name && *name) DP_TRY(api_package_add(writer, API_PART_BESIDE, "", name, strlen(name)));
  return c->how->embed ? add_weights(c, writer) : DP_SUCCESS;
}

static dp_status write_weights(compiling *c, const char *path) {
  api_package_writer *writer;
  DP_TRY(api_package_begin(path, 0644, NULL, 0, &writer));
  return api_package_end(writer, add_weights(c, writer));
}

/* The machine that it is for must be that of all objects. */
static dp_status check_launcher(const compiling *c, const char *bytes, size_t size) {
  const char *path = c->how->launcher;
  Elf64_Ehdr head;
  if (size >= sizeof head) memcpy(&head, bytes, sizeof head);
  bool library = c->how->emit == DP_EMIT_LIBRARY;
  if (size < sizeof head || memcmp(head.e_ident, ELFMAG, SELFMAG) != 0)
    return dp_fail(DP_INVALID, "'%s' is no ELF file: it cannot begin %s", path, library ? "a library" : "an executable");
  for (int i = 0; i < c->count; i++)
    if (c->codes[i].part == API_PART_OBJECT && cg_elf_machine(c->codes[i].name.text) != head.e_machine)
      return dp_fail(DP_INVALID, "'%s' is for another machine than target '%s': name the one of a dipper built there (--launcher), "
                     "or emit an object", path, c->codes[i].target ? c->codes[i].target : "of this machine");
  return DP_SUCCESS;
}

static dp_status write_package(compiling *c, const char *path) {
  char *launcher;
  size_t size;
  if (!c->how->launcher) return dp_fail(DP_INVALID, "no launcher was named");
  DP_TRY(compile_objects(c, false));
  DP_TRY(dp_read_file(c->how->launcher, &launcher, &size));
  api_package_writer *writer = NULL;
  dp_status status = check_launcher(c, launcher, size);
  unsigned mode = c->how->emit == DP_EMIT_EXECUTABLE ? 0755 : 0644;
  if (status.code == DP_OK) status = api_package_begin(path, mode, launcher, size, &writer);
  free(launcher);
  if (status.code == DP_OK) status = add_model(c, writer);
  return api_package_end(writer, status);
}

/* ---- */

static void free_all(compiling *c) {
  for (int i = 0; i < c->count; i++) {
    cg_object_free(&c->codes[i].object);
    dp_str_free(&c->codes[i].name);
  }
  free(c->codes);
  tile_program_free(c->program);
  tile_program_free(c->gpu_program);
  api_close_source(&c->source);
  dp_str_free(&c->module);
}

static dp_status write_kind(compiling *c, const char *path) {
  switch (c->how->emit) {
  case DP_EMIT_OBJECT: return write_object(c, path);
  case DP_EMIT_EXECUTABLE: case DP_EMIT_LIBRARY: return write_package(c, path);
  case DP_EMIT_WEIGHTS: return write_weights(c, path);
  case DP_EMIT_HEADER: return api_write_header(c->source.module, c->program, path);
  case DP_EMIT_CU: return write_gpu_text(c, CG_TEXT_IR, path);
  case DP_EMIT_PTX: return write_gpu_text(c, CG_TEXT_ASSEMBLY, path);
  case DP_EMIT_CUBIN: return write_gpu_text(c, CG_TEXT_MACHINE, path);
  }
  return DP_SUCCESS;
}

dp_status dp_compile(const dp_options *options, const dp_compilation *how, const char *path) {
  compiling c = {.options = options, .how = how};
  dp_status status = make_program(&c);
  if (status.code == DP_OK) status = write_kind(&c, path);
  free_all(&c);
  return status;
}
