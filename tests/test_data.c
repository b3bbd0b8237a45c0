/* tests/test_data.c: what training data promises: which tokens count, each once; an order that is a permutation; a run
 * that goes on as if it had never stopped; errors that name file, line and column. The masks of SmolLM2's template are
 * those that transformers gives (tests/golden/make_masks.py). */
#include "api/internal.h"

#include <check.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SMOLLM2 DIPPER_SOURCE_DIR "/build/weights/SmolLM2-135M-Instruct.Q4_1.gguf"

static void check_ok(dp_status status) { ck_assert_msg(status.code == DP_OK, "%s", dp_status_text(&status)); }

/* Each part, separated by '|', is in the message. */
static void check_failure(dp_status status, dp_code code, const char *parts) {
  char copy[512];
  snprintf(copy, sizeof copy, "%s", parts);
  ck_assert_msg(status.code == code, "code %d, not %d: %s", status.code, code, dp_status_text(&status));
  for (char *save, *part = strtok_r(copy, "|", &save); part; part = strtok_r(NULL, "|", &save))
    ck_assert_msg(strstr(dp_status_text(&status), part), "no '%s' in: %s", part, dp_status_text(&status));
  dp_status_free(&status);
}

/* ---- files */

static char folder[64];

static void make_folder(void) {
  strcpy(folder, "/tmp/dipper-data-XXXXXX");
  ck_assert_ptr_nonnull(mkdtemp(folder));
}

static void remove_folder(void) {
  char command[128];
  snprintf(command, sizeof command, "rm -rf '%s'", folder);
  ck_assert_int_eq(system(command), 0);
}

static char file_path[256];

static const char *write_bytes(const char *name, const void *bytes, size_t size) {
  snprintf(file_path, sizeof file_path, "%s/%s", folder, name);
  FILE *file = fopen(file_path, "wb");
  ck_assert_ptr_nonnull(file);
  ck_assert_uint_eq(fwrite(bytes, 1, size, file), size);
  ck_assert_int_eq(fclose(file), 0);
  return file_path;
}

static const char *write_text(const char *name, const char *text) { return write_bytes(name, text, strlen(text)); }

/* ---- a tokenizer of bytes: a byte is its id, then a few special tokens; "a" "b" merge */

enum { AB = 256, START, END, EOT, BOS, VOCABULARY };

static dp_tokenizer *byte_tokenizer(void) {
  dp_arena *arena = dp_arena_new();
  const char *tokens[VOCABULARY] = {
      [AB] = "ab", [START] = "<|im_start|>", [END] = "<|im_end|>", [EOT] = "<|endoftext|>", [BOS] = "<s>"};
  int32_t types[VOCABULARY];
  static const char *const merges[] = {"a b"};
  for (int b = 0, others = 0; b < VOCABULARY; b++) {
    bool printable = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
    int code = printable ? b : 0x100 + others++;
    types[b] = b < START ? DP_TOKEN_NORMAL : DP_TOKEN_CONTROL;
    if (b >= 256) continue;
    tokens[b] = code < 0x80 ? dp_arena_printf(arena, "%c", code)
                            : dp_arena_printf(arena, "%c%c", 0xC0 | code >> 6, 0x80 | (code & 0x3F));
  }
  dp_tokenizer_spec spec = {.model = "gpt2",
                            .pre = "gpt-2",
                            .vocab_size = VOCABULARY,
                            .tokens = tokens,
                            .token_types = types,
                            .merge_count = 1,
                            .merges = merges,
                            .bos = BOS,
                            .eos = END,
                            .eot = -1,
                            .unknown = -1,
                            .pad = -1};
  dp_tokenizer *tokenizer;
  check_ok(dp_tokenizer_new(&spec, &tokenizer));
  dp_arena_free(arena);
  return tokenizer;
}

static dp_chat_template *template_of(const char *source) {
  dp_chat_template *chat;
  check_ok(dp_chat_template_new(source, strlen(source), &chat));
  return chat;
}

static const char chatml[] = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
                             "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

static dp_tokenizer *bytes;
static dp_chat_template *chat;

static void set_up(void) {
  make_folder();
  bytes = byte_tokenizer();
  chat = template_of(chatml);
}

static void tear_down(void) {
  dp_chat_template_free(chat);
  dp_tokenizer_free(bytes);
  remove_folder();
}

static rt_data_options options_of(const char *path, int64_t length) {
  rt_data_options options = rt_data_defaults(bytes);
  options.path = path;
  options.chat = chat;
  options.length = length;
  options.seed = 7;
  return options;
}

static rt_data *open_data(const rt_data_options *options) {
  rt_data *data;
  check_ok(rt_data_open(options, &data));
  return data;
}

/* ---- sequences as text: what counts stands in brackets */

static void show(dp_str *out, const dp_tokenizer *tokenizer, const rt_example *e) {
  bool counts = false;
  for (int64_t t = 0; t <= e->count; t++) {
    bool next = t > 0 && e->targets[t - 1] >= 0;
    if (t == e->count && !next) break;
    int32_t id = next ? e->targets[t - 1] : e->ids[t];
    if (next && t < e->count) ck_assert_int_eq(e->ids[t], id);
    if (next != counts) dp_str_add(out, next ? "[" : "]");
    counts = next;
    dp_str_add(out, dp_token_text(tokenizer, id, NULL));
  }
  if (counts) dp_str_add(out, "]");
  dp_str_addc(out, '\n');
}

static void check_batch(rt_data *data, const dp_tokenizer *tokenizer, int64_t rows, const char *expected) {
  rt_batch batch;
  dp_str out = {0};
  check_ok(rt_data_next(data, rows, &batch));
  for (int i = 0; i < batch.count; i++) show(&out, tokenizer, &batch.sequences[i]);
  ck_assert_str_eq(out.text, expected);
  dp_str_free(&out);
}

/* What the first batch of a file looks like, in the file's order. */
static void check_first(const rt_data_options *given, int64_t rows, const char *expected) {
  rt_data_options options = *given;
  options.in_order = true;
  rt_data *data = open_data(&options);
  check_batch(data, options.tokenizer, rows, expected);
  rt_data_close(data);
}

/* ---- the order */

START_TEST(every_epoch_is_a_permutation) {
  for (int64_t n = 1; n <= 5000; n += n < 300 ? 1 : 371) {
    uint8_t *seen = calloc(1, (size_t)n);
    for (int64_t i = 0; i < n; i++) {
      int64_t item = rt_shuffled(n, 42, n % 3, i);
      ck_assert_msg(item >= 0 && item < n && !seen[item], "n %lld: item %lld at %lld", (long long)n, (long long)item,
                    (long long)i);
      seen[item] = 1;
    }
    free(seen);
  }
  int64_t large = (INT64_C(1) << 40) + 12345;
  for (int64_t i = 0; i < 1000; i++) {
    int64_t item = rt_shuffled(large, 1, 0, large - 1 - i);
    ck_assert(item >= 0 && item < large);
  }
}
END_TEST

/* No place prefers an item: of 8 items each comes to each place about as often over many epochs and seeds. */
START_TEST(orders_differ_and_are_fair) {
  enum { N = 8, ROUNDS = 8000 };
  int counts[N][N] = {{0}}, same = 0;
  for (int64_t round = 0; round < ROUNDS; round++)
    for (int64_t i = 0; i < N; i++) counts[i][rt_shuffled(N, (uint64_t)round % 10, round / 10, i)]++;
  for (int i = 0; i < N; i++)
    for (int k = 0; k < N; k++)
      ck_assert_msg(counts[i][k] > 850 && counts[i][k] < 1150, "%d at %d: %d", k, i, counts[i][k]);
  for (int64_t i = 0; i < 1000; i++) same += rt_shuffled(1000, 5, 0, i) == rt_shuffled(1000, 5, 1, i);
  ck_assert_int_lt(same, 12);
}
END_TEST

/* ---- texts */

START_TEST(documents_of_a_text_end_with_the_end_token) {
  const char *path =
      write_text("a.txt", "one\n<|endoftext|>\n\n<|endoftext|>\ntwo x<|endoftext|> y\n<|endoftext|>\r\nthree");
  rt_data_options options = options_of(path, 32);
  ck_assert_int_eq(options.end_token, EOT);
  ck_assert_int_eq(options.begin_token, -1);
  check_first(&options, 1,
              "o[ne<|endoftext|>]\nt[wo x<|endoftext|> y<|endoftext|>]\nt[hree<|endoftext|>]\no[ne<|endoftext|>]\n");
  options.begin_token = BOS;
  options.end_token = -1;
  check_first(&options, 1, "<s>[one]\n<s>[two x<|endoftext|> y]\n<s>[three]\n<s>[one]\n");
}
END_TEST

/* The text of a document is no special token, whatever it says. */
START_TEST(text_is_only_text) {
  rt_data_options options = options_of(write_text("a.txt", "<|im_end|>"), 64);
  options.in_order = true;
  rt_data *data = open_data(&options);
  rt_batch batch;
  check_ok(rt_data_next(data, 1, &batch));
  ck_assert_int_eq(batch.sequences[0].count, 10);
  for (int t = 0; t < 9; t++) ck_assert_int_lt(batch.sequences[0].targets[t], 256);
  rt_data_close(data);
}
END_TEST

START_TEST(a_directory_is_its_files_in_the_order_of_their_names) {
  write_text("b.txt", "second");
  write_text("a.txt", "\xef\xbb\xbf"
                      "first");
  write_text("c.txt", "");
  write_text(".hidden.txt", "never");
  write_text("readme.md", "never");
  rt_data_options options = options_of(folder, 7);
  check_first(&options, 2, "f[irst<|endoftext|>]\ns[econd<|endoftext|>]\n");
  rt_data *data;
  write_text("d.bin", "xx");
  check_failure(rt_data_open(&options, &data), DP_INVALID, "holds both *.txt and *.bin");
  options.format = IR_DATA_TEXT;
  check_first(&options, 2, "f[irst<|endoftext|>]\ns[econd<|endoftext|>]\n");
  options.format = IR_DATA_CHAT;
  check_failure(rt_data_open(&options, &data), DP_INVALID, "holds no *.jsonl");
}
END_TEST

/* More than are mapped at a time: they are mapped again, and must be what they were. */
START_TEST(a_directory_of_many_files_is_read_whole) {
  enum { FILES = 1500 };
  char name[32], text[32];
  for (int i = 0; i < FILES; i++) {
    snprintf(name, sizeof name, "%05d.txt", i);
    snprintf(text, sizeof text, "%d", i);
    write_text(name, text);
  }
  rt_data_options options = options_of(folder, 16);
  rt_data *data = open_data(&options);
  uint8_t seen[FILES] = {0};
  rt_batch batch;
  dp_str out = {0};
  while (rt_data_tell(data).index < FILES - 20) {
    check_ok(rt_data_next(data, 1, &batch));
    for (int i = 0; i < batch.count; i++) {
      dp_str_clear(&out);
      check_ok(dp_tokenizer_decode(bytes, batch.sequences[i].ids, (size_t)batch.sequences[i].count, false, &out));
      int file = atoi(out.text);
      ck_assert_msg(file >= 0 && file < FILES && !seen[file], "file %d came twice", file);
      seen[file] = 1;
    }
  }
  dp_str_free(&out);
  for (int i = 0; i < FILES; i++) {
    snprintf(name, sizeof name, "%05d.txt", i);
    write_text(name, "another");
  }
  dp_status status = DP_SUCCESS;
  for (int i = 0; i < 2 * FILES && status.code == DP_OK; i++) status = rt_data_next(data, 1, &batch);
  check_failure(status, DP_INVALID, ".txt' has changed while it was in use");
  rt_data_close(data);
}
END_TEST

/* Every piece is one of the document's, and no place of the document is in two of an epoch. */
static void count_targets(const char *path, const int32_t *ids, int64_t n, rt_data_options options) {
  options.path = path;
  rt_data *data = open_data(&options);
  int64_t items = rt_data_get_stats(data).items, counted = 0;
  for (int64_t epoch = 0; epoch < 2; epoch++) {
    uint8_t *seen = calloc(1, (size_t)n);
    for (rt_batch batch; rt_data_tell(data).epoch == epoch;) {
      check_ok(rt_data_next(data, 1, &batch));
      ck_assert_int_le(batch.tokens, options.length);
      for (int i = 0; i < batch.count; i++) {
        const rt_example *e = &batch.sequences[i];
        for (int64_t t = 0; t < e->count; t++) {
          if (t + 1 < e->count) ck_assert_int_eq(e->ids[t + 1], e->targets[t]);
          counted += e->targets[t] >= 0;
        }
        int64_t at = -1;
        for (int64_t p = 0; p + e->count < n && at < 0; p++)
          if (memcmp(ids + p, e->ids, (size_t)e->count * sizeof *ids) == 0 &&
              ids[p + e->count] == e->targets[e->count - 1] && !seen[p])
            at = p;
        ck_assert_msg(at >= 0, "a piece of %lld tokens is nowhere, or came twice", (long long)e->count);
        for (int64_t t = 0; t < e->count; t++) {
          ck_assert_msg(!seen[at + t], "the target of token %lld came twice", (long long)(at + t));
          seen[at + t] = 1;
        }
      }
    }
    for (int64_t p = 0; p + 1 < n; p++) ck_assert_msg(seen[p], "the target of token %lld never came", (long long)p);
    free(seen);
  }
  ck_assert_int_ge(items, 1);
  ck_assert_int_eq(counted, 2 * (n - 1));
  rt_data_close(data);
}

START_TEST(each_next_token_of_a_document_counts_once_an_epoch) {
  dp_str text = {0};
  for (int i = 0; i < 700; i++) dp_str_addf(&text, "%d%s", i * 7919 % 1009, i % 9 ? " " : "\n");
  dp_ids ids = {0};
  check_ok(dp_tokenizer_encode(bytes, text.text, text.length, false, &ids));
  int64_t n = (int64_t)ids.count;
  ids.items = realloc(ids.items, (size_t)(n + 1) * sizeof *ids.items);
  ids.items[n] = EOT;
  const char *path = write_bytes("a.txt", text.text, text.length);
  const int64_t lengths[] = {7, 64, 1000, n, n + 1};
  for (size_t i = 0; i < DP_COUNT(lengths); i++) count_targets(path, ids.items, n + 1, options_of(path, lengths[i]));
  uint16_t *raw = malloc((size_t)(n + 1) * 2);
  for (int64_t i = 0; i <= n; i++) raw[i] = (uint16_t)ids.items[i];
  path = write_bytes("a.bin", raw, (size_t)(n + 1) * 2);
  count_targets(path, ids.items, n + 1, options_of(path, 64));
  free(raw);
  dp_ids_free(&ids);
  dp_str_free(&text);
}
END_TEST

/* A document of several parts has the tokens that it has as a whole. */
START_TEST(parts_of_a_long_document_make_it_whole) {
  dp_str text = {0};
  for (int i = 0; text.length < 5 << 20; i++) dp_str_addf(&text, "%d ab abc\n%s", i, i % 7 ? "" : "\n  indented\n");
  dp_ids ids = {0};
  check_ok(dp_tokenizer_encode(bytes, text.text, text.length, false, &ids));
  rt_data_options options = options_of(write_bytes("a.txt", text.text, text.length), 1 << 16);
  options.in_order = true;
  rt_data *data = open_data(&options);
  ck_assert_int_gt(rt_data_get_stats(data).items, 2);
  size_t at = 0;
  for (rt_batch batch; rt_data_tell(data).epoch == 0;) {
    check_ok(rt_data_next(data, 1, &batch));
    for (int i = 0; i < batch.count && at < ids.count; i++)
      for (int64_t t = 0; t < batch.sequences[i].count; t++, at++) {
        int32_t id = batch.sequences[i].ids[t], target = batch.sequences[i].targets[t];
        int32_t next = at + 1 < ids.count ? ids.items[at + 1] : EOT;
        if (id != ids.items[at] || target != next) /* an assertion for each of millions takes its time */
          ck_abort_msg("token %zu: %d before %d, not %d before %d", at, id, target, ids.items[at], next);
      }
  }
  ck_assert_uint_eq(at, ids.count);
  rt_data_close(data);
  dp_str_clear(&text); /* without a line's end or a space anywhere */
  for (int i = 0; text.length < 5 << 20; i++) dp_str_add(&text, "\xe4\xbd\xa0");
  options.path = write_bytes("a.txt", text.text, text.length);
  data = open_data(&options);
  rt_data_close(data);
  dp_ids_free(&ids);
  dp_str_free(&text);
}
END_TEST

/* ---- token ids */

START_TEST(ids_are_documents_between_end_tokens) {
  static const uint16_t ids[] = {EOT, 'a', 'b', EOT, 'c', EOT, EOT, 'd', 'e', 'f'};
  rt_data_options options = options_of(write_bytes("a.bin", ids, sizeof ids), 2);
  options.tokenizer = NULL;
  options.in_order = true;
  rt_data *data = open_data(&options);
  ck_assert_int_eq(rt_data_get_stats(data).items, 3); /* a b EOT; c EOT; d e f */
  check_batch(data, bytes, 2, "a[b<|endoftext|>]\nc[<|endoftext|>]\n");
  check_batch(data, bytes, 1, "d[ef]\n");
  rt_data_close(data);
  options.end_token = -1;
  options.length = 100;
  check_first(&(rt_data_options){.path = options.path,
                                 .tokenizer = bytes,
                                 .begin_token = -1,
                                 .end_token = -1,
                                 .vocabulary = VOCABULARY,
                                 .length = 9,
                                 .format = IR_DATA_TOKENS},
              1, "<|endoftext|>[ab<|endoftext|>c<|endoftext|><|endoftext|>def]\n");
}
END_TEST

START_TEST(a_header_of_1024_bytes_is_skipped) {
  uint8_t file[1024 + 8] = {0};
  uint32_t header[] = {20240520, 1, 3};
  uint16_t ids[] = {'x', 'y', 'z', 60000}; /* what is after the number of tokens is none */
  memcpy(file, header, sizeof header);
  memcpy(file + 1024, ids, sizeof ids);
  rt_data_options options = options_of(write_bytes("a.bin", file, sizeof file), 8);
  check_first(&options, 1, "x[yz]\nx[yz]\nx[yz]\nx[yz]\n");
  rt_data *data;
  options.path = write_bytes("a.bin", file, 1024 + 4);
  check_failure(rt_data_open(&options, &data), DP_INVALID, "a.bin|cut short|3 tokens");
}
END_TEST

START_TEST(ids_are_of_32_bits_for_large_vocabularies) {
  uint32_t ids[] = {70000, 5, 65536, 99999};
  rt_data_options options = {.path = write_bytes("a.bin", ids, sizeof ids),
                             .vocabulary = 100000,
                             .length = 8,
                             .begin_token = -1,
                             .end_token = -1};
  rt_data *data = open_data(&options);
  rt_batch batch;
  check_ok(rt_data_next(data, 1, &batch));
  ck_assert_int_eq(batch.sequences[0].ids[0], 70000);
  ck_assert_int_eq(batch.sequences[0].targets[2], 99999);
  rt_data_close(data);
  options.vocabulary = 70001;
  check_failure(rt_data_open(&options, &data), DP_INVALID, "a.bin|at byte 12 is 99999|70001");
  options.path = write_bytes("a.bin", ids, 10);
  check_failure(rt_data_open(&options, &data), DP_INVALID, "10 bytes|tokens of 4 bytes");
}
END_TEST

/* ---- chats */

static const char two_turns[] =
    "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"},{\"role\":\"assistant\",\"content\":\"yo\"},"
    "{\"role\":\"user\",\"content\":\"go\"},{\"role\":\"assistant\",\"content\":\"no\"},{\"role\":\"user\",\"content\":"
    "\"x\"}]}\n";

START_TEST(the_assistants_turns_count_with_the_token_that_ends_them) {
  rt_data_options options = options_of(write_text("a.jsonl", two_turns), 200);
  check_first(&options, 1,
              "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n[yo<|im_end|>]\n<|im_start|>user\ngo<|im_end|>\n"
              "<|im_start|>assistant\n[no<|im_end|>]\n");
}
END_TEST

START_TEST(templates_of_other_families_are_cut_where_the_model_would_write) {
  static const struct {
    const char *source, *expected;
  } cases[] = {
      /* user and assistant alternate, only the answer is closed */
      {"{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}(INST) {{ m.content }} (/INST)"
       "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}",
       "<s>(INST) hi (/INST)[ yo<|im_end|>](INST) go (/INST)[ no<|im_end|>]\n"},
      /* roles by other names, a line's end after each turn */
      {"{{ bos_token }}{% for m in messages %}<|im_start|>{{ 'model' if m.role == 'assistant' else m.role }}\n"
       "{{ m.content | trim }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>model\n{% endif %}",
       "<s><|im_start|>user\nhi<|im_end|>\n<|im_start|>model\n[yo<|im_end|>]\n<|im_start|>user\ngo<|im_end|>\n"
       "<|im_start|>model\n[no<|im_end|>]\n"},
      /* no generation prompt, no end: all that is written counts */
      {"{% for m in messages %}{{ m.role[0] }}: {{ m.content }}\n{% endfor %}", "u: hi\n[a: yo\n]u: go\n[a: no\n]\n"},
      /* thinking that the prompt does not have and the turn begins with */
      {"{% for m in messages %}<|im_start|>{{ m.role }}:{% if m.role == 'assistant' %}<think></think>{% endif %}"
       "{{ m.content }}<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant:{% endif %}",
       "<|im_start|>user:hi<|im_end|><|im_start|>assistant:[<think></think>yo<|im_end|>]<|im_start|>user:go<|im_end|>"
       "<|im_start|>assistant:[<think></think>no<|im_end|>]\n"},
  };
  for (size_t i = 0; i < DP_COUNT(cases); i++) {
    rt_data_options options = options_of(write_text("a.jsonl", two_turns), 300);
    dp_chat_template *own = template_of(cases[i].source);
    options.chat = own;
    check_first(&options, 1, cases[i].expected);
    dp_chat_template_free(own);
  }
}
END_TEST

/* Where the template has no special token at a border, the tokens of the whole text are cut where the turn begins. */
START_TEST(a_token_over_the_border_of_a_turn_counts) {
  dp_chat_template *plain = template_of("{% for m in messages %}{{ m.content }}{% endfor %}");
  rt_data_options options = options_of(
      write_text("a.jsonl",
                 "{\"messages\":[{\"role\":\"user\",\"content\":\"xa\"},{\"role\":\"assistant\",\"content\":\"b!\"}]}"),
      64);
  options.chat = plain;
  check_first(&options, 1, "x[ab!]\n");
  dp_chat_template_free(plain);
}
END_TEST

/* As templates that leave reasoning out of all turns but the last. */
START_TEST(of_a_template_that_changes_earlier_turns_the_last_counts) {
  dp_chat_template *hiding =
      template_of("{% for m in messages %}<|im_start|>{{ m.role }}:{% if m.role == 'assistant' and not loop.last %}{{ "
                  "m.content.split('/')[-1] }}{% else %}{{ m.content }}{% endif %}<|im_end|>{% endfor %}"
                  "{% if add_generation_prompt %}<|im_start|>assistant:{% endif %}");
  rt_data_options options = options_of(
      write_text("a.jsonl",
                 "{\"messages\":[{\"role\":\"u\",\"content\":\"1\"},{\"role\":\"assistant\",\"content\":\"t/2\"},"
                 "{\"role\":\"u\",\"content\":\"3\"},{\"role\":\"assistant\",\"content\":\"t/4\"}]}"),
      200);
  options.chat = hiding;
  rt_data *data = open_data(&options);
  check_batch(
      data, bytes, 1,
      "<|im_start|>u:1<|im_end|><|im_start|>assistant:2<|im_end|><|im_start|>u:3<|im_end|><|im_start|>assistant:[t/"
      "4<|im_end|>]\n");
  ck_assert_int_eq(rt_data_get_stats(data).last_turn_only, 1);
  rt_data_close(data);
  dp_chat_template_free(hiding);
  dp_chat_template *odd = template_of("{{ messages|length }}{% for m in messages %}{{ m.content }}{% endfor %}");
  options.chat = odd;
  data = open_data(&options);
  rt_batch batch;
  check_failure(rt_data_next(data, 1, &batch), DP_INVALID, "a.jsonl:1: |message 4|another chat template");
  rt_data_close(data);
  dp_chat_template_free(odd);
}
END_TEST

START_TEST(what_the_template_raises_is_told_with_the_line) {
  dp_chat_template *strict =
      template_of("{% for m in messages %}{% if m.content == 'bad' %}{{ raise_exception('no bad') }}"
                  "{% endif %}{{ m.content }}{% endfor %}");
  dp_str text = {0};
  dp_str_add(&text,
             "\n{\"messages\":[{\"role\":\"user\",\"content\":\"bad\"},{\"role\":\"assistant\",\"content\":\"b\"}]}\n");
  rt_data_options options = options_of(write_text("a.jsonl", text.text), 64);
  options.chat = strict;
  rt_data *data = open_data(&options);
  rt_batch batch;
  check_failure(rt_data_next(data, 1, &batch), DP_INVALID, "a.jsonl:2: |no bad");
  ck_assert_int_eq(rt_data_tell(data).index, 0);
  rt_data_close(data);
  options.skip_broken = true;
  data = open_data(&options);
  check_failure(rt_data_next(data, 1, &batch), DP_INVALID, "none of its 1 examples|a.jsonl:2: |no bad");
  rt_data_close(data);
  dp_str_add(&text,
             "{\"messages\":[{\"role\":\"user\",\"content\":\"g\"},{\"role\":\"assistant\",\"content\":\"b\"}]}\n");
  options.path = write_text("a.jsonl", text.text);
  data = open_data(&options);
  check_batch(data, bytes, 2, "g[b]\ng[b]\n");
  ck_assert_int_ge(rt_data_get_stats(data).dropped, 1);
  ck_assert_ptr_nonnull(strstr(rt_data_get_stats(data).first_problem, "no bad"));
  rt_data_close(data);
  dp_str_free(&text);
  dp_chat_template_free(strict);
}
END_TEST

START_TEST(a_template_is_told_of_tools_and_of_what_else_messages_have) {
  dp_chat_template *tools =
      template_of("{{ tools|length }}{{ mood }}{% for m in messages %}<{{ m.name }}{{ m.content }}>"
                  "{% endfor %}{% if add_generation_prompt %}<{% endif %}");
  rt_data_options options = options_of(
      write_text("a.jsonl",
                 "{\"messages\":[{\"role\":\"user\",\"name\":\"N\",\"content\":\"1\"},{\"role\":\"assistant\","
                 "\"content\":\"2\"}],\"tools\":[1,2,3],\"chat_template_kwargs\":{\"mood\":\"!\"},\"mood\":9}"),
      64);
  options.chat = tools;
  check_first(&options, 1, "3!<N1><[2>]\n");
  dp_chat_template_free(tools);
}
END_TEST

START_TEST(chats_are_packed_first_fit_and_cut_at_the_length) {
  dp_chat_template *plain = template_of("{% for m in messages %}{{ m.content }}{% endfor %}");
  dp_str text = {0};
  static const char *const answers[] = {"1234", "12", "123456789abcdef", "123", "1"};
  for (size_t i = 0; i < DP_COUNT(answers); i++)
    dp_str_addf(&text,
                "{\"messages\":[{\"role\":\"user\",\"content\":\">\"},{\"role\":\"assistant\",\"content\":\"%s\"}]}\n",
                answers[i]);
  rt_data_options options = options_of(write_text("a.jsonl", text.text), 6);
  options.chat = plain;
  options.pack = options.in_order = true;
  rt_data *data = open_data(&options);
  /* rows of 6: 4 + 2, 6; then nothing fits */
  check_batch(data, bytes, 2, ">[1234]\n>[12]\n>[123456]\n");
  ck_assert_int_eq(rt_data_get_stats(data).truncated, 1);
  /* 3 + 1 + 2, 4; the long one does not fit */
  check_batch(data, bytes, 2, ">[123]\n>[1]\n>[1234]\n>[12]\n");
  ck_assert_int_eq(rt_data_tell(data).epoch, 1);
  ck_assert_int_eq(rt_data_tell(data).index, 2);
  rt_data_close(data);
  options.pack = false;
  check_first(&options, 2, ">[1234]\n>[12]\n");
  dp_chat_template_free(plain);
  dp_str_free(&text);
}
END_TEST

START_TEST(what_is_cut_to_nothing_is_dropped_and_counted) {
  rt_data_options options = options_of(write_text("a.jsonl", two_turns), 10);
  rt_data *data = open_data(&options);
  rt_batch batch;
  check_failure(rt_data_next(data, 1, &batch), DP_INVALID, "none of its 1 examples|10 tokens");
  ck_assert_int_ge(rt_data_get_stats(data).truncated, 1);
  rt_data_close(data);
}
END_TEST

/* ---- pairs */

START_TEST(pairs_of_strings_are_taken_as_they_are) {
  rt_data_options options =
      options_of(write_text("a.jsonl", "{\"prompt\":\"<|im_start|>p\",\"chosen\":\"c\",\"rejected\":\"rr\"}\n"
                                       "{\"prompt\":\"\",\"chosen\":\"c<|endoftext|>\",\"rejected\":\"r\"}\n"),
                 64);
  options.begin_token = BOS;
  check_first(&options, 2,
              "<s><|im_start|>p[c<|endoftext|>]\n<s><|im_start|>p[rr<|endoftext|>]\n<s>[c<|endoftext|>]\n<s>[r<|"
              "endoftext|>]\n");
  rt_data *data = open_data(&options);
  ck_assert_int_eq(rt_data_format(data), IR_DATA_PAIRS);
  rt_batch batch;
  check_ok(rt_data_next(data, 1, &batch));
  const rt_example *e = &batch.sequences[0];
  ck_assert_int_eq(e->ids[e->count - 1], EOT); /* there as an input too: a reward is read there */
  ck_assert_int_eq(e->targets[e->count - 1], -1);
  rt_data_close(data);
}
END_TEST

#define U "{\"role\":\"user\",\"content\":\"u\"}"
#define A "{\"role\":\"assistant\",\"content\":\"a\"}"
#define B "{\"role\":\"assistant\",\"content\":\"b\"}"

/* With a prompt or without, whole conversations or what follows: the same sequences. */
START_TEST(pairs_of_conversations_share_their_prompt) {
  static const char *const lines[] = {
      "{\"prompt\":\"u\",\"chosen\":[" A "],\"rejected\":[" B "]}",
      "{\"prompt\":[" U "],\"chosen\":[" A "],\"rejected\":[" B "]}",
      "{\"prompt\":[" U "],\"chosen\":\"a\",\"rejected\":\"b\"}",
      "{\"prompt\":\"u\",\"chosen\":[" U "," A "],\"rejected\":[" U "," B "]}",
      "{\"chosen\":[" U "," A "],\"rejected\":[" U "," B "]}",
  };
  for (size_t i = 0; i < DP_COUNT(lines); i++) {
    rt_data_options options = options_of(write_text("a.jsonl", lines[i]), 200);
    check_first(&options, 1,
                "<|im_start|>user\nu<|im_end|>\n<|im_start|>assistant\n[a<|im_end|>]\n\n"
                "<|im_start|>user\nu<|im_end|>\n<|im_start|>assistant\n[b<|im_end|>]\n\n");
  }
  /* what both say before they part does not count */
  rt_data_options options = options_of(
      write_text("a.jsonl", "{\"chosen\":[" U "," A "," U "," A "],\"rejected\":[" U "," A "," U "," B "]}"), 200);
  check_first(&options, 1,
              "<|im_start|>user\nu<|im_end|>\n<|im_start|>assistant\na<|im_end|>\n<|im_start|>user\nu<|im_end|>\n"
              "<|im_start|>assistant\n[a<|im_end|>]\n\n"
              "<|im_start|>user\nu<|im_end|>\n<|im_start|>assistant\na<|im_end|>\n<|im_start|>user\nu<|im_end|>\n"
              "<|im_start|>assistant\n[b<|im_end|>]\n\n");
}
END_TEST

/* ---- going on */

static void many_lines(dp_str *text, int count) {
  for (int i = 0; i < count; i++)
    dp_str_addf(
        text, "{\"messages\":[{\"role\":\"user\",\"content\":\"%d\"},{\"role\":\"assistant\",\"content\":\"%.*s\"}]}\n",
        i, i % 23 + 1, "abcdefghijklmnopqrstuvwxyz");
}

static void check_same_batch(const rt_batch *a, const rt_batch *b, int step) {
  ck_assert_int_eq(a->count, b->count);
  for (int i = 0; i < a->count; i++) {
    const rt_example *x = &a->sequences[i], *y = &b->sequences[i];
    ck_assert_msg(x->count == y->count, "step %d, sequence %d: %lld tokens, not %lld", step, i, (long long)x->count,
                  (long long)y->count);
    ck_assert(memcmp(x->ids, y->ids, (size_t)x->count * 4) == 0 &&
              memcmp(x->targets, y->targets, (size_t)x->count * 4) == 0);
  }
}

static void check_resumes(const rt_data_options *options, int64_t rows, int steps) {
  rt_data *whole = open_data(options);
  for (int step = 0; step < steps; step++) {
    rt_data *resumed = open_data(options);
    ck_assert_uint_eq(rt_data_identity(resumed), rt_data_identity(whole));
    check_ok(rt_data_seek(resumed, rt_data_tell(whole)));
    rt_batch a, b;
    check_ok(rt_data_next(whole, rows, &a));
    check_ok(rt_data_next(resumed, rows, &b));
    check_same_batch(&a, &b, step);
    rt_data_position p = rt_data_tell(whole), q = rt_data_tell(resumed);
    ck_assert(p.epoch == q.epoch && p.index == q.index && p.piece == q.piece);
    rt_data_close(resumed);
  }
  ck_assert_int_ge(rt_data_tell(whole).epoch, 1);
  rt_data_close(whole);
}

START_TEST(a_run_that_goes_on_sees_what_an_unbroken_one_sees) {
  dp_str text = {0};
  many_lines(&text, 40);
  rt_data_options options = options_of(write_bytes("a.jsonl", text.text, text.length), 80);
  check_resumes(&options, 3, 30);
  options.pack = true;
  check_resumes(&options, 3, 30);
  options.pack = false;
  options.format = IR_DATA_TEXT;
  check_resumes(&options, 2, 60);
  options.path = write_text("b.txt", "one and\n<|endoftext|>\nx\n<|endoftext|>\nanother one, longer than the others\n");
  options.length = 4;
  check_resumes(&options, 1, 25);
  options.path = write_bytes("a.bin", "a\0b\0c\0d\0\003\001e\0f\0", 14);
  options.format = IR_DATA_AUTO;
  options.length = 2;
  check_resumes(&options, 1, 9);
  dp_str_free(&text);
}
END_TEST

START_TEST(a_position_of_other_data_is_refused) {
  rt_data_options options = options_of(write_text("a.jsonl", two_turns), 80);
  rt_data *data = open_data(&options);
  uint64_t identity = rt_data_identity(data);
  check_failure(rt_data_seek(data, (rt_data_position){0, 1, 0}), DP_INVALID, "a.jsonl|item 1 of 1");
  check_failure(rt_data_seek(data, (rt_data_position){0, 0, 1}), DP_INVALID, "piece 1");
  check_failure(rt_data_seek(data, (rt_data_position){-1, 0, 0}), DP_INVALID, "epoch -1");
  rt_data_close(data);
  options.seed++;
  data = open_data(&options);
  ck_assert_uint_ne(rt_data_identity(data), identity);
  rt_data_close(data);
}
END_TEST

/* ---- what is wrong */

static const struct {
  const char *line, *says;
} broken_lines[] = {
    {"{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}", "a.jsonl:2:43: |one JSON object"},
    {"{\"messages\":[{\"role\":\"user\" \"content\":\"x\"}]}", "a.jsonl:2:"},
    {"nonsense", "a.jsonl:2:8: "},
    {"[]", "a.jsonl:2: it is no JSON object"},
    {"{}", "a.jsonl:2: it has no \"messages\""},
    {"{\"messages\":[]}", "a.jsonl:2: it has no messages"},
    {"{\"messages\":{}}", "a.jsonl:2: it is no list"},
    {"{\"messages\":[3]}", "a.jsonl:2: a message is no object"},
    {"{\"messages\":[{\"content\":\"x\"}]}", "a.jsonl:2: a message has no \"role\""},
    {"{\"messages\":[{\"role\":\"user\"}]}", "a.jsonl:2: a message has no \"content\""},
    {"{\"messages\":[{\"role\":\"user\",\"content\":3}]}", "a.jsonl:2: a message's \"content\" is no text"},
    {"{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}", "a.jsonl:2: no message of \"assistant\""},
    {"{\"messages\":[{\"role\":\"assistant\",\"content\":\"x\"}]}", "a.jsonl:2: no message of \"assistant\" follows"},
    {"{\"messages\":[{\"role\":\"user\",\"content\":\"\xff\"},{\"role\":\"assistant\",\"content\":\"x\"}]}",
     "a.jsonl:2:"},
    {"{\"messages\":[{\"role\":\"user\",\"content\":\"\\u0000\"},{\"role\":\"assistant\",\"content\":\"x\"}]}",
     "a.jsonl:2:"},
    {"{\"messages\":[],\"messages\":[]}", "a.jsonl:2:|duplicate"},
};

START_TEST(a_broken_line_is_named_or_skipped_and_counted) {
  for (size_t i = 0; i < DP_COUNT(broken_lines); i++) {
    dp_str text = {0};
    dp_str_addf(&text, "%s%s\r\n  \n%s", two_turns, broken_lines[i].line, two_turns);
    rt_data_options options = options_of(write_bytes("a.jsonl", text.text, text.length), 200);
    rt_data *data = (rt_data *)&options;
    check_failure(rt_data_open(&options, &data), DP_INVALID, broken_lines[i].says);
    ck_assert_ptr_null(data);
    options.skip_broken = true;
    data = open_data(&options);
    rt_data_stats stats = rt_data_get_stats(data);
    ck_assert_int_eq(stats.broken, 1);
    ck_assert_int_eq(stats.items, 2);
    ck_assert_ptr_nonnull(strstr(stats.first_problem, "a.jsonl:2:"));
    rt_data_close(data);
    options.path = write_text("a.jsonl", broken_lines[i].line);
    check_failure(rt_data_open(&options, &data), DP_INVALID, "nothing in it can be used|a.jsonl:1:");
    dp_str_free(&text);
  }
}
END_TEST

START_TEST(broken_pairs_are_named) {
  static const char *const cases[][2] = {
      {"{\"prompt\":\"x\",\"chosen\":\"a\"}", "a.jsonl:1: it has no \"rejected\""},
      {"{\"prompt\":\"x\",\"rejected\":\"a\"}", "a.jsonl:1: it has no \"chosen\""},
      {"{\"chosen\":\"a\",\"rejected\":\"b\"}", "a.jsonl:1: it has no \"prompt\""},
      {"{\"prompt\":\"x\",\"chosen\":\"\",\"rejected\":\"b\"}", "its \"chosen\" is empty"},
      {"{\"prompt\":\"x\",\"chosen\":\"b\",\"rejected\":\"b\"}", "are the same"},
      {"{\"prompt\":3,\"chosen\":\"a\",\"rejected\":\"b\"}", "it is no list of messages"},
      {"{\"chosen\":[" U "],\"rejected\":[" U "," B "]}", "follows the prompt"},
      {"{\"chosen\":[" U "," U "],\"rejected\":[" U "," B "]}", "follows the prompt"},
  };
  for (size_t i = 0; i < DP_COUNT(cases); i++) {
    rt_data_options options = options_of(write_text("a.jsonl", cases[i][0]), 200);
    options.format = IR_DATA_PAIRS;
    rt_data *data;
    check_failure(rt_data_open(&options, &data), DP_INVALID, cases[i][1]);
  }
}
END_TEST

START_TEST(texts_that_are_none_are_refused_with_the_line) {
  static const struct {
    const char *bytes;
    size_t size;
    const char *says;
  } cases[] = {
      {"good\nbad\xff here", 14, "a.txt:2: byte 8 is not UTF-8"},
      {"good\n\n<|endoftext|>\nx\ny\0z", 24, "a.txt:5: byte 23 is 0"},
      {"\xff\xfeh\0i\0", 6, "a.txt:1: byte 0 is not UTF-8"},
      {"", 0, "holds no text"},
      {" \r\n\t\n", 5, "holds no text"},
      {"\xef\xbb\xbf", 3, "holds no text"},
      {"<|endoftext|>\n<|endoftext|>", 27, "holds no text"},
      {"cut \xe4\xbd", 6, "a.txt:1: byte 4 is not UTF-8"},
  };
  for (size_t i = 0; i < DP_COUNT(cases); i++) {
    rt_data_options options = options_of(write_bytes("a.txt", cases[i].bytes, cases[i].size), 16);
    rt_data *data;
    check_failure(rt_data_open(&options, &data), DP_INVALID, cases[i].says);
  }
  rt_data_options options =
      options_of(write_text("a.txt", "fine\n<|endoftext|>\nbad \xff\n<|endoftext|>\nfine too"), 16);
  options.skip_broken = true;
  rt_data *data = open_data(&options);
  ck_assert_int_eq(rt_data_get_stats(data).items, 2);
  ck_assert_int_eq(rt_data_get_stats(data).broken, 1);
  rt_data_close(data);
}
END_TEST

START_TEST(what_cannot_be_opened_is_named) {
  rt_data *data;
  rt_data_options options = options_of("/nowhere/at/all.txt", 16);
  check_failure(rt_data_open(&options, &data), DP_NOT_FOUND, "/nowhere/at/all.txt");
  options.path = NULL;
  check_failure(rt_data_open(&options, &data), DP_INVALID, "no training data");
  options.path = write_text("a.csv", "x");
  check_failure(rt_data_open(&options, &data), DP_INVALID, "a.csv|.jsonl");
  options.path = folder;
  check_failure(rt_data_open(&options, &data), DP_INVALID, "holds no *.txt, *.jsonl or *.bin");
  options.path = write_text("a.jsonl", "{\"x\":1}");
  check_failure(rt_data_open(&options, &data), DP_INVALID, "neither \"messages\" nor");
  options.path = write_text("a.jsonl", "");
  check_failure(rt_data_open(&options, &data), DP_INVALID, "holds no line of JSON");
  options.path = write_text("a.bin", "");
  check_failure(rt_data_open(&options, &data), DP_INVALID, "holds no two tokens");
  options.path = write_text("a.jsonl", two_turns);
  options.chat = NULL;
  check_failure(rt_data_open(&options, &data), DP_UNSUPPORTED, "a.jsonl:1: |chat template");
  options.tokenizer = NULL;
  check_failure(rt_data_open(&options, &data), DP_UNSUPPORTED, "tokenizer");
  options = options_of(options.path, 0);
  check_failure(rt_data_open(&options, &data), DP_INVALID, "sequences of 0 tokens");
  options = options_of(options.path, 10);
  options.vocabulary = 100;
  check_failure(rt_data_open(&options, &data), DP_INVALID, "vocabulary");
}
END_TEST

START_TEST(a_huge_line_is_refused_not_read) {
  snprintf(file_path, sizeof file_path, "%s/a.jsonl", folder);
  FILE *file = fopen(file_path, "wb");
  ck_assert_ptr_nonnull(file);
  fputs("{\"messages\":\"", file);
  ck_assert_int_eq(fseek(file, 70 << 20, SEEK_SET), 0);
  fputs("\"}\n", file);
  fclose(file);
  rt_data_options options = options_of(file_path, 16);
  rt_data *data;
  check_failure(rt_data_open(&options, &data), DP_INVALID, "a.jsonl:1: a line of|is the limit");
}
END_TEST

/* ---- a real template */

static void check_masks(const json_t *golden, const dp_tokenizer *tokenizer, const dp_chat_template *own) {
  size_t i;
  json_t *one;
  json_array_foreach(json_object_get(golden, "cases"), i, one) {
    json_t *line = json_pack("{s:O}", "messages", json_object_get(one, "messages"));
    char *text = json_dumps(line, JSON_COMPACT);
    rt_data_options options = rt_data_defaults(tokenizer);
    options.path = write_text("a.jsonl", text);
    options.chat = own;
    options.length = 4096;
    rt_data *data = open_data(&options);
    rt_batch batch;
    check_ok(rt_data_next(data, 1, &batch));
    const rt_example *e = &batch.sequences[0];
    const json_t *ids = json_object_get(one, "ids"), *mask = json_object_get(one, "mask");
    int64_t targets = 0;
    for (size_t t = 0; t + 1 < json_array_size(ids); t++) {
      json_int_t counts = json_integer_value(json_array_get(mask, t + 1));
      json_int_t id = json_integer_value(json_array_get(ids, t)), next = json_integer_value(json_array_get(ids, t + 1));
      targets += counts;
      if ((int64_t)t >= e->count) {
        ck_assert_msg(!counts, "case %zu: token %zu counts, and is not there", i, t + 1);
        continue;
      }
      ck_assert_msg(e->ids[t] == id, "case %zu, token %zu: %d, not %d", i, t, e->ids[t], (int)id);
      ck_assert_msg(e->targets[t] == (counts ? next : -1), "case %zu, target %zu: %d, not %d", i, t, e->targets[t],
                    (int)(counts ? next : -1));
    }
    ck_assert_int_eq(batch.targets, targets);
    rt_data_close(data);
    free(text);
    json_decref(line);
  }
  ck_assert_uint_ge(i, 7);
}

START_TEST(masks_of_smollm2_are_those_of_transformers) {
  rt_weights_file *file;
  dp_tokenizer *tokenizer;
  dp_chat_template *own;
  check_ok(rt_weights_open(SMOLLM2, &file));
  check_ok(api_open_tokenizer(file, &tokenizer));
  check_ok(api_open_chat_template(file, &own));
  json_t *golden = json_load_file(DIPPER_TEST_DIR "/golden/smollm2_masks.json", 0, NULL);
  ck_assert_ptr_nonnull(golden);
  check_masks(golden, tokenizer, own);
  json_decref(golden);
  dp_chat_template_free(own);
  dp_tokenizer_free(tokenizer);
  rt_weights_close(file);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("data");
  TCase *tests = tcase_create("data");
  tcase_set_timeout(tests, 300);
  tcase_add_checked_fixture(tests, set_up, tear_down);
  tcase_add_test(tests, every_epoch_is_a_permutation);
  tcase_add_test(tests, orders_differ_and_are_fair);
  tcase_add_test(tests, documents_of_a_text_end_with_the_end_token);
  tcase_add_test(tests, text_is_only_text);
  tcase_add_test(tests, a_directory_is_its_files_in_the_order_of_their_names);
  tcase_add_test(tests, a_directory_of_many_files_is_read_whole);
  tcase_add_test(tests, each_next_token_of_a_document_counts_once_an_epoch);
  tcase_add_test(tests, parts_of_a_long_document_make_it_whole);
  tcase_add_test(tests, ids_are_documents_between_end_tokens);
  tcase_add_test(tests, a_header_of_1024_bytes_is_skipped);
  tcase_add_test(tests, ids_are_of_32_bits_for_large_vocabularies);
  tcase_add_test(tests, the_assistants_turns_count_with_the_token_that_ends_them);
  tcase_add_test(tests, templates_of_other_families_are_cut_where_the_model_would_write);
  tcase_add_test(tests, a_token_over_the_border_of_a_turn_counts);
  tcase_add_test(tests, of_a_template_that_changes_earlier_turns_the_last_counts);
  tcase_add_test(tests, what_the_template_raises_is_told_with_the_line);
  tcase_add_test(tests, a_template_is_told_of_tools_and_of_what_else_messages_have);
  tcase_add_test(tests, chats_are_packed_first_fit_and_cut_at_the_length);
  tcase_add_test(tests, what_is_cut_to_nothing_is_dropped_and_counted);
  tcase_add_test(tests, pairs_of_strings_are_taken_as_they_are);
  tcase_add_test(tests, pairs_of_conversations_share_their_prompt);
  tcase_add_test(tests, a_run_that_goes_on_sees_what_an_unbroken_one_sees);
  tcase_add_test(tests, a_position_of_other_data_is_refused);
  tcase_add_test(tests, a_broken_line_is_named_or_skipped_and_counted);
  tcase_add_test(tests, broken_pairs_are_named);
  tcase_add_test(tests, texts_that_are_none_are_refused_with_the_line);
  tcase_add_test(tests, what_cannot_be_opened_is_named);
  tcase_add_test(tests, a_huge_line_is_refused_not_read);
  tcase_add_test(tests, masks_of_smollm2_are_those_of_transformers);
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed != 0;
}
