/* api/compile.c: ahead-of-time compilation: text and weights to a scheduled program, that to an object for each target, and
 * all of it behind a launcher. What is compiled is the module read back from the text that travels: what opens it later
 * makes the same program of it. */
#include "api/internal.h"
#include "api/life.h"
#include "dipper/aot.h"

#include <elf.h>
#include <stdlib.h>
#include <string.h>

typedef struct compiling {
  const dp_options *options;
  const dp_compilation *how;
  api_source source;
  dp_str module;         /* its text */
  tile_program *program;
  cg_program_key key;
  cg_object *objects;    /* [count] */
  dp_str *requirements;  /* [count] */
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

/* ---- objects */

static dp_status unknown_target(const char *name) {
  const char *names[32];
  int count = 0;
  dp_str list = {0};
  for (const cg_cpu *cpu; count < (int)DP_COUNT(names) && (cpu = cg_cpu_at(count)); count++) {
    names[count] = cpu->name;
    dp_str_addf(&list, "%s%s", count ? ", " : "", cpu->name);
  }
  const char *near = dp_nearest_name(name, names, count);
  dp_status status = dp_fail(DP_INVALID, "no target '%s'%s%s%s; there are %s", name, near ? "; did you mean '" : "",
                             near ? near : "", near ? "'?" : "", list.text ? list.text : "");
  dp_str_free(&list);
  return status;
}

static dp_status compile_one(compiling *c, const cg_backend *backend, const char *name, int index) {
  const cg_cpu *cpu = name ? cg_find_cpu(name) : NULL;
  if (name && !cpu) return unknown_target(name);
  cg_target target = {0};
  if (cpu) target = (cg_target){.triple = cpu->triple, .cpu = cpu->cpu};
  DP_TRY(cg_cpu_requirement(cpu, &c->requirements[index]));
  for (int i = 0; i < index; i++)
    if (strcmp(c->requirements[i].text, c->requirements[index].text) == 0)
      return dp_fail(DP_INVALID, "target '%s' is named twice", name);
  return backend->compile(c->program, &target, &c->objects[index]);
}

static dp_status compile_objects(compiling *c) {
  if (c->program->host_count)
    return dp_fail(DP_UNSUPPORTED, "op '%s' is the host's: it is not compiled ahead of time", c->program->hosts[0]);
  const cg_backend *backend = cg_find_backend("llvm");
  if (!backend) return dp_fail(DP_UNSUPPORTED, "this build of dipper has no LLVM: it runs compiled models, but compiles none");
  int wanted = c->how->target_count > 0 ? c->how->target_count : 1;
  c->objects = calloc((size_t)wanted, sizeof *c->objects);
  c->requirements = calloc((size_t)wanted, sizeof *c->requirements);
  c->count = c->objects && c->requirements ? wanted : 0;
  if (!c->count) return dp_fail(DP_NO_MEMORY, "no memory for %d objects", wanted);
  for (int i = 0; i < wanted; i++)
    DP_TRY(compile_one(c, backend, c->how->target_count > 0 ? c->how->targets[i] : NULL, i));
  return DP_SUCCESS;
}

static dp_status write_object(compiling *c, const char *path) {
  if (c->how->target_count > 1) return dp_fail(DP_INVALID, "an object is for one target, not for %d", c->how->target_count);
  DP_TRY(compile_objects(c));
  return dp_write_file_atomic(path, c->objects[0].bytes, c->objects[0].size);
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
    DP_TRY(api_package_add(writer, API_PART_OBJECT, c->requirements[i].text, c->objects[i].bytes, c->objects[i].size));
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
    if (cg_elf_machine(c->requirements[i].text) != head.e_machine)
      return dp_fail(DP_INVALID, "'%s' is for another machine than target '%s': name the one of a dipper built there (--launcher), "
                     "or emit an object", path, c->how->target_count > 0 ? c->how->targets[i] : "of this machine");
  return DP_SUCCESS;
}

static dp_status write_package(compiling *c, const char *path) {
  char *launcher;
  size_t size;
  if (!c->how->launcher) return dp_fail(DP_INVALID, "no launcher was named");
  DP_TRY(compile_objects(c));
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
    cg_object_free(&c->objects[i]);
    dp_str_free(&c->requirements[i]);
  }
  free(c->objects);
  free(c->requirements);
  tile_program_free(c->program);
  api_close_source(&c->source);
  dp_str_free(&c->module);
}

dp_status dp_compile(const dp_options *options, const dp_compilation *how, const char *path) {
  DP_TRY(api_need(options, "dp_compile", "options"));
  DP_TRY(api_need(how, "dp_compile", "compilation"));
  DP_TRY(api_need(path, "dp_compile", "path"));
  compiling c = {.options = options, .how = how};
  dp_status status = make_program(&c);
  if (status.code == DP_OK) {
    switch (how->emit) {
    case DP_EMIT_OBJECT:
      status = write_object(&c, path);
      break;
    case DP_EMIT_EXECUTABLE: case DP_EMIT_LIBRARY:
      status = write_package(&c, path);
      break;
    case DP_EMIT_WEIGHTS:
      status = write_weights(&c, path);
      break;
    case DP_EMIT_HEADER:
      status = api_write_header(c.source.module, c.program, path);
      break;
    }
  }
  free_all(&c);
  return status;
}
