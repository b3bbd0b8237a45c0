/* runtime/config_json.c: the JSON files that stand beside safetensors weights -> metadata: config.json,
 * quantize_config.json, tokenizer_config.json and the chat template, generation_config.json. Each may be absent. */
#include "runtime/weights_file.h"

#include <jansson.h>
#include <stdlib.h> /* free */
#include <string.h>

enum { MAX_CONFIG_DEPTH = 4 };

/* ---- JSON values as metadata ------------------------------------------------------------------------------------- */

static rt_text own_text(rt_weights_file *file, const json_t *string) {
  size_t length = json_string_length(string);
  return (rt_text){dp_arena_strndup(file->arena, json_string_value(string), length), length};
}

static void add_array(rt_weights_file *file, const json_t *array, rt_meta *meta) {
  size_t count = json_array_size(array), integers = 0, reals = 0, booleans = 0, strings = 0;
  for (size_t i = 0; i < count; i++) {
    const json_t *item = json_array_get(array, i);
    integers += json_is_integer(item), reals += json_is_real(item);
    booleans += json_is_boolean(item), strings += json_is_string(item);
  }
  meta->count = (int64_t)count;
  if (count > 0 && strings == count) {
    rt_text *texts = rt_new_string_table(file, count);
    if (!texts) return;
    for (size_t i = 0; i < count; i++) texts[i] = own_text(file, json_array_get(array, i));
    meta->kind = RT_META_STRINGS;
    meta->strings = texts;
  } else if (booleans == count || integers + reals == count) {
    bool exact = reals == 0;
    int64_t *numbers = DP_NEW_ARRAY(file->arena, int64_t, count);
    for (size_t i = 0; i < count; i++) {
      const json_t *item = json_array_get(array, i);
      double real = json_number_value(item);
      numbers[i] = json_is_boolean(item) ? json_is_true(item) : json_integer_value(item);
      if (!exact) memcpy(&numbers[i], &real, sizeof real);
    }
    meta->kind = RT_META_NUMBERS;
    meta->element = exact ? RT_GGUF_I64 : RT_GGUF_F64;
    meta->data = (const uint8_t *)numbers;
  }
}

static rt_meta meta_of(rt_weights_file *file, const char *key, const json_t *value) {
  rt_meta meta = {.key = key, .kind = RT_META_OTHER};
  if (json_is_boolean(value)) {
    meta.kind = RT_META_BOOL;
    meta.number = (double)(meta.integer = json_is_true(value));
  } else if (json_is_integer(value)) {
    meta.kind = RT_META_NUMBER;
    meta.number = (double)(meta.integer = json_integer_value(value));
  } else if (json_is_real(value)) {
    double real = json_real_value(value);
    meta.kind = RT_META_NUMBER;
    meta.number = rt_read_number(RT_GGUF_F64, (const uint8_t *)&real, &meta.integer);
  } else if (json_is_string(value)) {
    meta.kind = RT_META_STRING;
    meta.text = own_text(file, value);
  } else if (json_is_array(value)) {
    add_array(file, value, &meta);
  }
  return meta;
}

static void add_value(rt_weights_file *file, const char *key, const json_t *value) {
  if (!rt_is_name((const uint8_t *)key, strlen(key)) || file->meta_count == RT_MAX_METAS) return;
  DP_PUSH(file->arena, file->metas, file->meta_count, file->meta_cap) = meta_of(file, key, value);
}

void rt_add_json_members(rt_weights_file *file, const char *prefix, json_t *object, int depth) {
  const char *name;
  json_t *value;
  json_object_foreach(object, name, value) {
    const char *key = dp_arena_printf(file->arena, "%s%s", prefix, name);
    if (json_is_object(value) && depth > 0)
      rt_add_json_members(file, dp_arena_printf(file->arena, "%s.", key), value, depth - 1);
    else
      add_value(file, key, value);
  }
}

/* ---- the files beside the weights -------------------------------------------------------------------------------- */

/* A JSON object in the weights' directory; *root stays NULL when there is no such file. */
static dp_status load_object(const rt_weights_file *file, const char *name, json_t **root) {
  *root = NULL;
  const char *path = dp_arena_printf(file->arena, "%s%s", file->directory, name);
  char *text;
  size_t length;
  dp_status status = dp_read_file(path, &text, &length);
  if (status.code == DP_NOT_FOUND) {
    dp_status_free(&status);
    return DP_SUCCESS;
  }
  DP_TRY(status);
  json_error_t error;
  *root = json_loadb(text, length, JSON_REJECT_DUPLICATES, &error);
  /* Python writes integers of any size: "model_max_length": 1000000000000000019884624838656 */
  if (!*root && json_error_code(&error) == json_error_numeric_overflow)
    *root = json_loadb(text, length, JSON_REJECT_DUPLICATES | JSON_DECODE_INT_AS_REAL, &error);
  free(text);
  if (json_is_object(*root)) return DP_SUCCESS;
  status =
      dp_fail(DP_INVALID, "'%s' (beside '%s') at line %d, byte %d: %s; mend the file or move it away", path, file->path,
              *root ? 1 : error.line, *root ? 0 : error.position, *root ? "it is not a JSON object" : error.text);
  json_decref(*root);
  *root = NULL;
  return status;
}

static dp_status read_config(rt_weights_file *file) {
  json_t *root;
  DP_TRY(load_object(file, "config.json", &root));
  rt_add_json_members(file, "", root, MAX_CONFIG_DEPTH);
  const char *architecture = json_string_value(json_object_get(root, "model_type"));
  if (architecture) file->architecture = dp_arena_strdup(file->arena, architecture);
  json_decref(root);
  DP_TRY(load_object(file, "sentence_bert_config.json", &root));
  rt_add_json_members(file, "sentence_bert_config.", root, 0);
  json_decref(root);
  return DP_SUCCESS;
}

/* Older GPTQ and AWQ tools say in a file of their own what config.json's quantization_config says now. */
static dp_status read_quantization(rt_weights_file *file) {
  static const char *const names[][2] = {{"quantize_config.json", "gptq"}, {"quant_config.json", "awq"}};
  static const char prefix[] = "quantization_config.";
  for (int i = 0; i < file->meta_count; i++)
    if (strncmp(file->metas[i].key, prefix, strlen(prefix)) == 0) return DP_SUCCESS;
  for (size_t i = 0; i < DP_COUNT(names); i++) {
    json_t *root;
    DP_TRY(load_object(file, names[i][0], &root));
    if (!root) continue;
    if (!json_object_get(root, "quant_method")) json_object_set_new(root, "quant_method", json_string(names[i][1]));
    rt_add_json_members(file, prefix, root, 0);
    json_decref(root);
    return DP_SUCCESS;
  }
  return DP_SUCCESS;
}

/* A special token stands there as a string or as an object that has it as "content". */
static dp_status read_tokenizer_config(rt_weights_file *file, json_t *root) {
  static const char *const keys[] = {"bos_token",     "eos_token",     "unk_token",        "pad_token",
                                     "add_bos_token", "add_eos_token", "model_max_length", "tokenizer_class"};
  for (size_t i = 0; i < DP_COUNT(keys); i++) {
    json_t *value = json_object_get(root, keys[i]);
    if (json_is_object(value)) value = json_object_get(value, "content");
    if (value) add_value(file, dp_arena_printf(file->arena, "tokenizer_config.%s", keys[i]), value);
  }
  return DP_SUCCESS;
}

/* A template, or a list of them by name: the one called default. */
static const json_t *choose_template(const json_t *value) {
  for (size_t i = 0; i < json_array_size(value); i++) {
    const json_t *item = json_array_get(value, i);
    const char *name = json_string_value(json_object_get(item, "name"));
    if (name && strcmp(name, "default") == 0) return json_object_get(item, "template");
  }
  return json_is_array(value) ? json_object_get(json_array_get(value, 0), "template") : value;
}

/* In the order in which transformers looks: chat_template.jinja, tokenizer_config.json, chat_template.json. */
static dp_status read_chat_template(rt_weights_file *file, const json_t *tokenizer_config) {
  static const char key[] = "tokenizer.chat_template";
  char *text;
  size_t length;
  dp_status status =
      dp_read_file(dp_arena_printf(file->arena, "%schat_template.jinja", file->directory), &text, &length);
  if (status.code == DP_OK) {
    json_t *whole = json_stringn(text, length); /* NULL when it is not UTF-8 */
    free(text);
    if (whole) add_value(file, key, whole);
    json_decref(whole);
    return DP_SUCCESS;
  }
  if (status.code != DP_NOT_FOUND) return status;
  dp_status_free(&status);
  const json_t *chosen = choose_template(json_object_get(tokenizer_config, "chat_template"));
  if (json_is_string(chosen)) {
    add_value(file, key, chosen);
    return DP_SUCCESS;
  }
  json_t *root;
  DP_TRY(load_object(file, "chat_template.json", &root));
  chosen = choose_template(json_object_get(root, "chat_template"));
  if (json_is_string(chosen)) add_value(file, key, chosen);
  json_decref(root);
  return DP_SUCCESS;
}

static dp_status read_tokenizer_files(rt_weights_file *file) {
  json_t *root;
  DP_TRY(load_object(file, "tokenizer_config.json", &root));
  dp_status status = read_tokenizer_config(file, root);
  if (status.code == DP_OK) status = read_chat_template(file, root);
  json_decref(root);
  return status;
}

static dp_status read_generation_config(rt_weights_file *file) {
  json_t *root;
  DP_TRY(load_object(file, "generation_config.json", &root));
  json_t *ends = json_object_get(root, "eos_token_id");
  if (ends) add_value(file, "generation_config.eos_token_id", ends);
  json_decref(root);
  return DP_SUCCESS;
}

dp_status rt_read_beside(rt_weights_file *file) {
  DP_TRY(read_config(file));
  DP_TRY(read_quantization(file));
  DP_TRY(read_tokenizer_files(file));
  return read_generation_config(file);
}
