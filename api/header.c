/* api/header.c: the C header of a compiled model: dipper/model.h as it is, after this model's dimensions. */
#include "api/internal.h"

#include "api/model_header.inc"

#include <ctype.h>
#include <string.h>

/* "llama" to "DIPPER_LLAMA_". */
static void add_prefix(dp_str *out, const char *name) {
  dp_str_add(out, "DIPPER_");
  for (; *name; name++) dp_str_addc(out, isalnum((unsigned char)*name) ? (char)toupper((unsigned char)*name) : '_');
  dp_str_addc(out, '_');
}

static void add_constant(dp_str *out, const char *model, const char *name, int64_t value, const char *doc) {
  dp_str_add(out, "#define ");
  add_prefix(out, model);
  dp_str_addf(out, "%s %lld /* %s */\n", name, (long long)value, doc);
}

static int64_t rows_of_tokens(const tile_program *p) {
  for (int k = 0; k < p->kind_count; k++)
    for (int i = 0; i < p->kinds[k].op_count; i++) {
      const tile_op *op = &p->kinds[k].ops[i];
      if (op->code == TILE_embed && strcmp(p->inputs[op->index], "tokens") == 0) return p->weights[op->ref].rows;
    }
  return 0;
}

static int64_t columns_of_output(const tile_program *p) {
  for (int i = 0; i < p->buffer_count; i++)
    if (p->buffers[i].output == 0) return p->buffers[i].cols;
  return 0;
}

static int64_t parameters(const ir_module *module) {
  int64_t total = 0;
  for (int i = 0; i < module->weight_count; i++)
    if (!module->weights[i].tied && !module->weights[i].filled) total += ir_static_size(&module->weights[i].type, 0);
  return total;
}

dp_status api_write_header(const ir_module *module, const tile_program *program, const char *path) {
  dp_str out = {0};
  const char *name = program->name;
  dp_str_addf(&out, "/* The model `%s`, compiled by dipper: its dimensions, then the interface of its library. */\n#ifndef ", name);
  add_prefix(&out, name);
  dp_str_add(&out, "H\n#define ");
  add_prefix(&out, name);
  dp_str_add(&out, "H\n\n");
  add_constant(&out, name, "VOCABULARY", rows_of_tokens(program), "token ids are i32 in [0, this)");
  add_constant(&out, name, "COLUMNS", columns_of_output(program), "f32 elements of a row of logits");
  add_constant(&out, name, "KV_BYTES_PER_TOKEN", program->page_bytes / TILE_CHUNK, "bytes of the KV cache a token");
  add_constant(&out, name, "PARAMETERS", parameters(module), "elements of all weights, tied ones once");
  dp_str_add(&out, "\n");
  dp_str_add(&out, model_header);
  dp_str_add(&out, "\n#endif\n");
  dp_status status = out.failed ? dp_fail(DP_NO_MEMORY, "no memory for a header")
                                : dp_write_file_atomic(path, out.text, out.length);
  dp_str_free(&out);
  return status;
}
