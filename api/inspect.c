/* api/inspect.c: every stage can be looked at: diagnostics, IR after any pass, the tile program, the back end's texts.
 */
#include "api/internal.h"
#include "api/life.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* A tied weight is counted where it is tied to; a vector that files need not have is none of the model's own. */
static int64_t parameters(const ir_module *module) {
  int64_t total = 0;
  for (int i = 0; i < module->weight_count; i++)
    if (!module->weights[i].tied && !module->weights[i].filled) total += ir_static_size(&module->weights[i].type, 0);
  return total;
}

dp_status dp_check(const dp_options *options, dp_text *summary) {
  DP_TRY(api_need(options, "dp_check", "options"));
  DP_TRY(api_need(summary, "dp_check", "place for the text"));
  api_source source;
  DP_TRY(api_open_source(options, API_TEXT, &source));
  dp_str out = {0};
  dp_str_addf(&out, "%s: model %s, %d weights, %" PRId64 " parameters without tied ones", options->path,
              source.module->name, source.module->weight_count, parameters(source.module));
  tile_program *program = NULL;
  dp_status status = api_schedule(options, &source, &program);
  if (status.code == DP_OK) dp_str_addf(&out, ", %d task kinds\n", program->kind_count);
  tile_program_free(program);
  api_close_source(&source);
  if (status.code == DP_OK) return api_take_text(&out, summary);
  dp_str_free(&out);
  return status;
}

static void collect_dump(void *user, const char *pass, const char *text) {
  dp_str_addf(user, "// after %s\n%s\n", pass, text);
}

/* What ps_find says of an unknown name, and the names there are. */
static dp_status with_pass_names(dp_status status) {
  dp_str names = {0};
  int count;
  const ps_pass *passes = ps_passes(&count);
  for (int i = 0; i < count; i++) dp_str_addf(&names, ", %s", passes[i].name);
  dp_status longer =
      dp_fail(status.code, "%s; there are parse%s, all", dp_status_text(&status), names.text ? names.text : "");
  dp_str_free(&names);
  dp_status_free(&status);
  return longer;
}

static dp_status dump_ir(const dp_options *options, api_source *source, const char *pass, dp_str *out) {
  if (pass && strcmp(pass, "parse") == 0) {
    ir_print(out, source->module);
    return DP_SUCCESS;
  }
  const ps_pass *known;
  if (pass && strcmp(pass, "all") != 0) {
    dp_status status = ps_find(pass, &known);
    if (status.code != DP_OK) return with_pass_names(status);
  }
  ps_options passes = {.dump_after = pass,
                       .verify_each = options->verify_each,
                       .stress_reparse = options->verify_each,
                       .dump = collect_dump,
                       .user = out};
  DP_TRY(ps_run(&source->module, NULL, 0, &passes));
  if (!pass) ir_print(out, source->module);
  return DP_SUCCESS;
}

static dp_status dump_program(const dp_options *options, api_source *source, dp_dump what, dp_str *out) {
  tile_program *program = NULL;
  DP_TRY(api_schedule(options, source, &program));
  dp_status status = DP_SUCCESS;
  if (what == DP_DUMP_TILE) {
    tile_print(out, program);
  } else {
    const cg_backend *backend = cg_find_backend(options->backend);
    cg_target target = {.triple = options->triple, .cpu = options->cpu, .features = options->features};
    if (!backend)
      status = dp_fail(DP_NOT_FOUND, "this build has no back end '%s'", options->backend ? options->backend : "llvm");
    else
      status = backend->text(program, &target, what == DP_DUMP_LLVM ? CG_TEXT_IR : what == DP_DUMP_ASM ? CG_TEXT_ASSEMBLY : CG_TEXT_MACHINE, out);
  }
  tile_program_free(program);
  return status;
}

dp_status dp_dump_text(const dp_options *options, dp_dump what, const char *pass, dp_text *text) {
  DP_TRY(api_need(options, "dp_dump_text", "options"));
  DP_TRY(api_need(text, "dp_dump_text", "place for the text"));
  api_source source;
  dp_str out = {0};
  DP_TRY(api_open_source(options, API_TEXT, &source));
  dp_status status;
  if (what == DP_DUMP_IR) {
    status = dump_ir(options, &source, pass, &out);
  } else if (what == DP_DUMP_DOT) {
    status = ps_run(&source.module, NULL, 0, NULL);
    if (status.code == DP_OK) api_dot(&out, source.module);
  } else {
    status = dump_program(options, &source, what, &out);
  }
  api_close_source(&source);
  if (status.code == DP_OK) return api_take_text(&out, text);
  dp_str_free(&out);
  return status;
}

dp_status dp_compile_object(const dp_options *options, dp_text *object) {
  DP_TRY(api_need(options, "dp_compile_object", "options"));
  DP_TRY(api_need(object, "dp_compile_object", "place for the object"));
  api_source source;
  tile_program *program = NULL;
  DP_TRY(api_open_source(options, API_TEXT, &source));
  dp_status status = api_schedule(options, &source, &program);
  const cg_backend *backend = cg_find_backend(options->backend);
  cg_target target = {.triple = options->triple, .cpu = options->cpu, .features = options->features};
  cg_object bytes = {0};
  if (status.code == DP_OK && !backend)
    status = dp_fail(DP_NOT_FOUND, "this build has no back end '%s'", options->backend ? options->backend : "llvm");
  if (status.code == DP_OK) status = backend->compile(program, &target, &bytes);
  if (status.code == DP_OK) *object = (dp_text){bytes.bytes, bytes.size};
  tile_program_free(program);
  api_close_source(&source);
  return status;
}

dp_status dp_list_devices(dp_text *text) {
  DP_TRY(api_need(text, "dp_list_devices", "place for the text"));
  dp_str out = {0};
  dp_options here = {0};
  dp_str_addf(&out, "cpu: %d threads, back end %s\n", api_threads(&here), cg_find_backend(NULL)->name);
  dp_status status = cg_find_backend("cuda")->devices(&out);
  if (status.code != DP_OK) dp_str_addf(&out, "%s\n--device auto: the CPU\n", dp_status_text(&status));
  if (status.code == DP_OK) dp_str_add(&out, "--device auto: gpu 0\n");
  dp_status_free(&status);
  return api_take_text(&out, text);
}

dp_status dp_list_weights(const char *path, bool json, dp_text *text) {
  DP_TRY(api_need(path, "dp_list_weights", "path"));
  DP_TRY(api_need(text, "dp_list_weights", "place for the text"));
  rt_weights_file *file;
  dp_str out = {0};
  DP_TRY(rt_weights_open(path, &file));
  rt_weights_list(file, json, &out);
  rt_weights_close(file);
  return api_take_text(&out, text);
}

dp_status dp_save_weights(const dp_options *options, const char *path, const char *type) {
  DP_TRY(api_need(options, "dp_save_weights", "options"));
  DP_TRY(api_need(path, "dp_save_weights", "path"));
  DP_TRY(api_need(type, "dp_save_weights", "type"));
  ir_dtype dtype;
  if (!ir_dtype_parse(type, &dtype) || (dtype != IR_f32 && dtype != IR_f16 && dtype != IR_bf16))
    return dp_fail(DP_INVALID, "weights are saved as f32, f16 or bf16, not as '%s'", type);
  api_source source;
  DP_TRY(api_open_source(options, API_WEIGHTS, &source));
  dp_status status = api_load_adapter(options, &source);
  if (status.code == DP_OK && source.adaptations)
    status = rt_adapter_merge(source.module, source.declared, source.adaptations, source.binding);
  if (status.code == DP_OK) status = rt_save_without_adapter(path, source.module, source.declared, source.binding, dtype);
  api_close_source(&source);
  return status;
}
