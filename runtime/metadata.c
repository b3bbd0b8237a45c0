/* runtime/metadata.c: the metadata of a weights file, of either format, as a GGUF file (version 3) without tensors: what a
 * tokenizer, a chat template and a context's length are made of where the weights themselves travel in another form. */
#include "runtime/weights_file.h"

#include <string.h>

static void add_u32(dp_str *out, uint32_t value) { dp_str_addn(out, (const char *)&value, sizeof value); }
static void add_u64(dp_str *out, uint64_t value) { dp_str_addn(out, (const char *)&value, sizeof value); }

static void add_text(dp_str *out, const char *text, size_t length) {
  add_u64(out, length);
  dp_str_addn(out, text, length);
}

static void add_number(dp_str *out, const rt_meta *meta) {
  bool whole = meta->number == (double)meta->integer;
  add_u32(out, whole ? RT_GGUF_I64 : RT_GGUF_F64);
  if (whole)
    add_u64(out, (uint64_t)meta->integer);
  else
    dp_str_addn(out, (const char *)&meta->number, sizeof meta->number);
}

static void add_array(dp_str *out, const rt_meta *meta) {
  bool texts = meta->kind == RT_META_STRINGS;
  add_u32(out, RT_GGUF_ARRAY);
  add_u32(out, texts ? RT_GGUF_STRING : (uint32_t)meta->element);
  add_u64(out, (uint64_t)meta->count);
  for (int64_t i = 0; texts && i < meta->count; i++) add_text(out, meta->strings[i].text, meta->strings[i].length);
  if (!texts) dp_str_addn(out, (const char *)meta->data, (size_t)(meta->count * rt_gguf_type_bytes(meta->element)));
}

static void add_meta(dp_str *out, const rt_meta *meta) {
  add_text(out, meta->key, strlen(meta->key));
  switch (meta->kind) {
  case RT_META_NUMBER:
    add_number(out, meta);
    break;
  case RT_META_BOOL:
    add_u32(out, RT_GGUF_BOOL);
    dp_str_addc(out, meta->number != 0);
    break;
  case RT_META_STRING:
    add_u32(out, RT_GGUF_STRING);
    add_text(out, meta->text.text, meta->text.length);
    break;
  default:
    add_array(out, meta);
  }
}

/* general.alignment is of tensors, and there are none. */
static bool travels(const rt_meta *meta) { return meta->kind != RT_META_OTHER && strcmp(meta->key, "general.alignment") != 0; }

dp_status rt_save_metadata(const rt_weights_file *file, dp_str *out) {
  static const char architecture[] = "general.architecture";
  uint64_t count = 0;
  for (int i = 0; i < file->meta_count; i++) count += travels(&file->metas[i]);
  bool named = file->architecture && !rt_weights_find_meta(file, architecture);
  dp_str_addn(out, "GGUF", 4);
  add_u32(out, 3);
  add_u64(out, 0);
  add_u64(out, count + named);
  for (int i = 0; i < file->meta_count; i++)
    if (travels(&file->metas[i])) add_meta(out, &file->metas[i]);
  if (named) {
    add_text(out, architecture, strlen(architecture));
    add_u32(out, RT_GGUF_STRING);
    add_text(out, file->architecture, strlen(file->architecture));
  }
  return out->failed ? dp_fail(DP_NO_MEMORY, "'%s': no memory for its metadata", file->path) : DP_SUCCESS;
}
