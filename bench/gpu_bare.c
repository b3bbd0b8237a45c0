/* bench/gpu_bare.c: in bench/gpu.mk's build what files and tokenizers would ask of Jansson and PCRE2. Weights at random
 * need neither; whoever asks is told. */
#include "runtime/adapter.h"
#include "runtime/chat.h"
#include "runtime/tokenizer.h"
#include "runtime/tokenizer_parts.h"
#include "runtime/tokenizer_split.h"
#include "runtime/weights_file.h"

static dp_status left_out(void) {
  return dp_fail(DP_UNSUPPORTED,
                 "this program was built without JSON and regular expressions: weights are random:SEED[:TYPE]");
}

#define REFUSES(name, ...)                                                                                             \
  dp_status name(__VA_ARGS__) { return left_out(); }
#define NOTHING(name, ...)                                                                                             \
  void name(__VA_ARGS__) {}
#ifdef __GNUC__
#pragma GCC diagnostic ignored "-Wunused-parameter"
#endif

REFUSES(rt_list_files, dp_arena *arena, const char *path, rt_file_list *list)
REFUSES(rt_read_safetensors, rt_weights_file *file)
REFUSES(rt_read_beside, rt_weights_file *file)
REFUSES(rt_adapter_open, const char *directory, const ir_module *module, ir_adaptation *how, rt_weights_file **file)
REFUSES(rt_bind_adapter, ir_module *module, int first, const ir_adaptation *how, const rt_weights_file *file,
        uint64_t seed, rt_binding *binding)
REFUSES(rt_adapter_save, const char *directory, const ir_module *module, int first, const ir_adaptation *how,
        const rt_binding *binding, const char *base)

REFUSES(dp_chat_template_new, const char *source, size_t n, dp_chat_template **out)
NOTHING(dp_chat_template_free, dp_chat_template *chat)
REFUSES(dp_chat_render, const dp_chat_template *chat, const dp_chat_message *messages, int count,
        const dp_chat_options *options, dp_str *out)

REFUSES(dp_tokenizer_from_json, const char *path, dp_tokenizer **out)
REFUSES(dp_tokenizer_from_json_text, const char *name, const char *text, size_t length, dp_tokenizer **out)
REFUSES(dp_added_set_init, dp_added_set *set, dp_added_token *tokens, int count)
NOTHING(dp_added_set_free, dp_added_set *set)
const dp_added_token *dp_added_set_next(const dp_added_set *set, const char *text, size_t n, bool parse_special,
                                        size_t done, size_t *at, size_t *begin, size_t *end) {
  return NULL;
}

dp_splitter *dp_splitter_new(void) { return NULL; }
NOTHING(dp_splitter_free, dp_splitter *splitter)
REFUSES(dp_splitter_add_space_prefix, dp_splitter *splitter)
REFUSES(dp_splitter_add_pre, dp_splitter *splitter, const char *pre, dp_pre_traits *traits)
REFUSES(dp_splitter_run, const dp_splitter *splitter, dp_split_work **work, const char *text, size_t n,
        dp_word_fn *word, void *context)
NOTHING(dp_split_work_free, dp_split_work *work)

dp_normalizer *dp_normalizer_new(void) { return NULL; }
NOTHING(dp_normalizer_free, dp_normalizer *normalizer)
REFUSES(dp_normalizer_add_prepend, dp_normalizer *normalizer, const char *text, size_t n)
REFUSES(dp_normalizer_add_replace, dp_normalizer *normalizer, const char *from, size_t from_length, const char *to,
        size_t to_length)
REFUSES(dp_normalizer_add_regex, dp_normalizer *normalizer, const char *pattern, size_t n, const char *to,
        size_t to_length)
REFUSES(dp_normalizer_add_strip, dp_normalizer *normalizer, bool left, bool right)
REFUSES(dp_normalizer_add_map, dp_normalizer *normalizer, const uint8_t *bytes, size_t n)
REFUSES(dp_normalize, const dp_normalizer *normalizer, const char *text, size_t n, dp_str buffers[2],
        const char **result, size_t *length, bool *moved)
