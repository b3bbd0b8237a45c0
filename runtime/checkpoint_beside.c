/* runtime/checkpoint_beside.c: the files that others need beside model.safetensors: copies of those beside the weights
 * that training began with, or what a GGUF file of a llama says, as config.json.
 *
 * In a copied config.json the type is that of the new weights, and no quantization is told of. */
#include "runtime/checkpoint_parts.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const companions[] = {"config.json",
                                         "generation_config.json",
                                         "tokenizer.json",
                                         "tokenizer_config.json",
                                         "special_tokens_map.json",
                                         "added_tokens.json",
                                         "chat_template.jinja",
                                         "chat_template.json",
                                         "tokenizer.model",
                                         "vocab.json",
                                         "merges.txt"};

static const char *torch_name(ir_dtype dtype) {
  return dtype == IR_f16 ? "float16" : dtype == IR_bf16 ? "bfloat16" : "float32";
}

static dp_status write_json(const char *path, const json_t *root) {
  char *text = json_dumps(root, JSON_INDENT(2) | JSON_ENSURE_ASCII | JSON_REAL_PRECISION(17));
  if (!text) return dp_fail(DP_NO_MEMORY, "no memory to write '%s'", path);
  dp_status status = dp_write_file_atomic(path, text, strlen(text));
  free(text);
  return status;
}

/* transformers' class with a weight `score` in the place of the vocabulary's. */
static void tell_of_scalar_head(json_t *root) {
  static const char *const ends[] = {"ForCausalLM", "LMHeadModel"};
  json_t *architectures = json_object_get(root, "architectures");
  const char *name = json_string_value(json_array_get(architectures, 0));
  for (size_t i = 0; name && i < DP_COUNT(ends); i++) {
    size_t length = strlen(name), end = strlen(ends[i]);
    if (length < end || strcmp(name + length - end, ends[i]) != 0) continue;
    dp_str other = {0};
    dp_str_addn(&other, name, length - end);
    dp_str_add(&other, "ForSequenceClassification");
    if (other.text) json_array_set_new(architectures, 0, json_string(other.text));
    dp_str_free(&other);
    break;
  }
  json_object_set_new(root, "num_labels", json_integer(1));
  json_object_set_new(root, "id2label", json_pack("{s:s}", "0", "LABEL_0"));
  json_object_set_new(root, "label2id", json_pack("{s:i}", "LABEL_0", 0));
}

/* ---- copies */

/* The text that was copied, unless it must tell of other weights. */
static dp_status write_config(const char *path, const char *text, size_t length, const rt_checkpoint_plan *plan) {
  const ir_dtype dtype = plan->weights_type;
  static const char *const keys[] = {"dtype", "torch_dtype"};
  json_t *root = json_loadb(text, length, 0, NULL);
  bool changed = json_object_get(root, "quantization_config") != NULL, told = false;
  for (size_t i = 0; i < DP_COUNT(keys); i++) {
    const char *value = json_string_value(json_object_get(root, keys[i]));
    if (!value) continue;
    told = true;
    if (strcmp(value, torch_name(dtype)) == 0) continue;
    changed = true;
    json_object_set_new(root, keys[i], json_string(torch_name(dtype)));
  }
  if (json_is_object(root) && !told) {
    changed = true;
    json_object_set_new(root, "torch_dtype", json_string(torch_name(dtype)));
  }
  json_object_del(root, "quantization_config");
  if (json_is_object(root) && plan->scalar_head) {
    changed = true;
    tell_of_scalar_head(root);
  }
  dp_status status = root && changed ? write_json(path, root) : dp_write_file_atomic(path, text, length);
  json_decref(root);
  return status;
}

static dp_status copy_beside(const char *directory, const char *from, const char *name, const rt_checkpoint_plan *plan) {
  char path[PATH_MAX], *text;
  size_t length;
  dp_str old = {0};
  dp_str_addf(&old, "%s%s", from, name);
  dp_status status = old.text ? dp_read_file(old.text, &text, &length) : dp_fail(DP_NO_MEMORY, "no memory for a path");
  dp_str_free(&old);
  if (status.code == DP_NOT_FOUND) {
    dp_status_free(&status);
    return DP_SUCCESS;
  }
  DP_TRY(status);
  status = cp_join(path, directory, name);
  if (status.code == DP_OK)
    status = strcmp(name, "config.json") == 0 ? write_config(path, text, length, plan)
                                              : dp_write_file_atomic(path, text, length);
  free(text);
  return status;
}

/* ---- from a GGUF file */

/* The shortest decimal that is this f32: 1e-05, not 9.99999974e-06. */
static json_t *shortest(double value) {
  char text[32];
  for (int digits = 1; digits <= 9; digits++) {
    snprintf(text, sizeof text, "%.*g", digits, value);
    if (strtof(text, NULL) == (float)value) break;
  }
  return json_real(strtod(text, NULL));
}

static bool set_integer(json_t *root, const char *key, const rt_weights_file *source, const char *from) {
  double value;
  if (!rt_weights_number(source, from, &value)) return false;
  json_object_set_new(root, key, json_integer((json_int_t)value));
  return true;
}

static void set_real(json_t *root, const char *key, const rt_weights_file *source, const char *from, double otherwise) {
  double value = otherwise;
  rt_weights_number(source, from, &value);
  json_object_set_new(root, key, shortest(value));
}

/* NULL: the file does not say enough. */
static json_t *llama_config(const rt_weights_file *source, ir_dtype dtype) {
  json_t *root =
      json_pack("{s:[s], s:s, s:s, s:b, s:b, s:s}", "architectures", "LlamaForCausalLM", "model_type", "llama",
                "hidden_act", "silu", "attention_bias", 0, "mlp_bias", 0, "torch_dtype", torch_name(dtype));
  bool enough = set_integer(root, "hidden_size", source, "llama.embedding_length") &
                set_integer(root, "intermediate_size", source, "llama.feed_forward_length") &
                set_integer(root, "num_hidden_layers", source, "llama.block_count") &
                set_integer(root, "num_attention_heads", source, "llama.attention.head_count") &
                set_integer(root, "vocab_size", source, "llama.vocab_size");
  if (!set_integer(root, "num_key_value_heads", source, "llama.attention.head_count_kv"))
    set_integer(root, "num_key_value_heads", source, "llama.attention.head_count");
  set_integer(root, "head_dim", source, "llama.rope.dimension_count");
  set_integer(root, "max_position_embeddings", source, "llama.context_length");
  set_integer(root, "bos_token_id", source, "tokenizer.ggml.bos_token_id");
  set_integer(root, "eos_token_id", source, "tokenizer.ggml.eos_token_id");
  set_real(root, "rms_norm_eps", source, "llama.attention.layer_norm_rms_epsilon", 1e-5);
  set_real(root, "rope_theta", source, "llama.rope.freq_base", 10000);
  json_object_set_new(root, "tie_word_embeddings", json_boolean(!rt_weights_find(source, "output.weight")));
  if (enough) return root;
  json_decref(root);
  return NULL;
}

/* Not of a llama whose rotation is scaled: the factors that the file has do not tell by which rule they were made. */
static dp_status describe_gguf(const char *directory, const rt_checkpoint_plan *plan) {
  const rt_weights_file *source = plan->source;
  char path[PATH_MAX];
  const char *architecture = rt_weights_architecture(source),
             *chat = rt_weights_string(source, "tokenizer.chat_template");
  bool is_llama = architecture && strcmp(architecture, "llama") == 0 && !rt_weights_find(source, "rope_freqs.weight") &&
                  !rt_weights_find_meta(source, "llama.rope.scaling.type") &&
                  !rt_weights_find_meta(source, "llama.expert_count");
  json_t *config = is_llama ? llama_config(source, plan->weights_type) : NULL;
  dp_status status = DP_SUCCESS;
  if (config) {
    if (plan->scalar_head) tell_of_scalar_head(config);
    status = cp_join(path, directory, "config.json");
    if (status.code == DP_OK) status = write_json(path, config);
  }
  json_decref(config);
  if (!chat || status.code != DP_OK) return status;
  DP_TRY(cp_join(path, directory, "chat_template.jinja"));
  return dp_write_file_atomic(path, chat, strlen(chat));
}

dp_status cp_write_beside(const char *directory, const rt_checkpoint_plan *plan) {
  const char *from = plan->source ? rt_weights_directory(plan->source) : NULL;
  if (!from) return DP_SUCCESS;
  if (rt_weights_format_of(plan->source) == RT_GGUF) return describe_gguf(directory, plan);
  for (size_t i = 0; i < DP_COUNT(companions); i++) DP_TRY(copy_beside(directory, from, companions[i], plan));
  return DP_SUCCESS;
}

uint64_t cp_bytes_beside(const rt_weights_file *source) {
  const char *from = source ? rt_weights_directory(source) : NULL;
  uint64_t bytes = 0;
  for (size_t i = 0; from && i < DP_COUNT(companions); i++) {
    dp_str path = {0};
    dp_file_stamp stamp;
    dp_str_addf(&path, "%s%s", from, companions[i]);
    if (path.text && dp_stamp_file(path.text, &stamp)) bytes += stamp.size;
    dp_str_free(&path);
  }
  return bytes;
}
