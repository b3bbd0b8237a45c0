/* runtime/data.h: training data to batches of sequences: texts, chats, pairs of answers, token ids.
 *
 * The files are mapped and indexed when they are opened; every line of JSON is checked then, so that a broken one ends
 * a run before it begins. Text becomes tokens when its turn comes. What a batch holds depends on the options and the
 * position only: a run that was interrupted and seeks to its last position sees what an unbroken one sees. Attention
 * never crosses the sequences of a batch: each is (a piece of) one document, or one conversation.
 *
 * The formats:
 *   text    UTF-8. Documents are files, or stand between lines "<|endoftext|>"; nothing in them is a special token.
 *           What is longer than a MiB is tokenized in parts, cut before a line that begins with no white space.
 *   chat    {"messages": [{"role", "content"}, ...]} a line, and what else the template takes: "tools", "documents",
 *           "chat_template_kwargs". The assistant's turns count: what the template writes after its generation
 *           prompt, up to the token that ends the turn. A message that begins the conversation answers nothing.
 *   tokens  little-endian u16 when the vocabulary is below 65536, else u32; documents between end tokens. A header of
 *           1024 bytes that begins with the u32 20240520 is skipped; its third u32 is the number of tokens.
 *   pairs   {"prompt", "chosen", "rejected"} a line. Lists of messages go through the template; without a prompt they
 *           are whole conversations, and what they have in common is the prompt. Strings are taken as they are:
 *           special tokens in them are such, begin_token stands before, end_token after. What follows the prompt
 *           counts, of lists the assistant's turns in it.
 *   values  {"prompt", "completion", "value"} a line, strings as those of pairs; or {"messages", "value"}, a conversation
 *           as of chats: what counts is worth that number. */
#ifndef DIPPER_RUNTIME_DATA_H
#define DIPPER_RUNTIME_DATA_H

#include "ir/recipe.h"
#include "runtime/chat.h"
#include "runtime/tokenizer.h"

/* For one thread at a time. */
typedef struct rt_data rt_data;

typedef struct rt_data_options {
  /* A file, or a directory whose *.txt, *.jsonl or *.bin (of one kind) are read in the order of their names. */
  const char *path;
  ir_data_format format;             /* IR_DATA_AUTO: by the name's end; of .jsonl by the keys of its first good line */
  const dp_tokenizer *tokenizer;     /* borrowed until rt_data_close; token ids need none */
  const dp_chat_template *chat;      /* the same; NULL: chats cannot be read */
  const char *bos_token, *eos_token; /* for the template; NULL: undefined. Copied, as path is */
  int32_t begin_token, end_token;    /* around a document; -1: none. See rt_data_defaults */
  int64_t vocabulary;                /* of the model: ids are below it */
  int64_t length;                    /* the longest sequence */
  uint64_t seed;                     /* of the order */
  bool in_order;                     /* as the files have it, each epoch */
  bool pack;        /* chats: as many as find room in `rows` rows of `length` tokens; else `rows` of them */
  bool skip_broken; /* what is broken is left out and counted, else it is an error */
} rt_data_options;

/* Options with what the tokenizer says of itself: begin_token where a text is meant to begin with one, end_token the
 * one between documents ("<|endoftext|>", "<|end_of_text|>", else eos), the template's names. The rest is 0. */
rt_data_options rt_data_defaults(const dp_tokenizer *tokenizer);

/* Errors name file and line (byte, column), and say why: DP_INVALID of the data, DP_UNSUPPORTED where a tokenizer or a
 * template is wanted and there is none; DP_NOT_FOUND, DP_IO, DP_NO_MEMORY. No usable data at all is DP_INVALID. On
 * failure *out is NULL. */
dp_status rt_data_open(const rt_data_options *options, rt_data **out);
void rt_data_close(rt_data *data); /* NULL is fine */

/* One sequence. targets[t] is the token that follows ids[t] where that counts, -1 elsewhere; the last one's target,
 * which is in no ids, may count. */
typedef struct rt_example {
  int32_t *ids, *targets; /* [count] */
  int64_t count;          /* 1 .. length */
  double value;           /* of values; else 0 */
} rt_example;

typedef struct rt_batch {
  rt_example *sequences; /* of pairs: chosen, rejected, chosen, ...; all their tokens are there */
  int count;
  int64_t tokens, targets; /* in all; targets: those that count */
} rt_batch;

/* The next batch. Text and ids: pieces of documents, at most rows * length tokens together; a document of n tokens
 * gives ceil((n - 1) / length) pieces, and each of its n - 1 tokens after the first is a target once an epoch. Chats:
 * see `pack`; pairs and values: `rows` of them. After the last comes the first of the next epoch, in another order. The batch is
 * the data's, until the next call. An error leaves the position where the call found it. */
dp_status rt_data_next(rt_data *data, int64_t rows, rt_batch *batch);

/* Where the next batch begins. */
typedef struct rt_data_position {
  int64_t epoch;
  int64_t index; /* items of the epoch that are done */
  int64_t piece; /* pieces of the next item that are done */
} rt_data_position;
rt_data_position rt_data_tell(const rt_data *data);
dp_status rt_data_seek(rt_data *data, rt_data_position position);
/* Differs when the files, or the options that decide the batches, do: a position is one of the same data. */
uint64_t rt_data_identity(const rt_data *data);

typedef struct rt_data_stats {
  int64_t items;          /* an epoch's: documents (parts of long ones), conversations, pairs; of token ids pieces */
  int64_t broken;         /* lines and documents left out when it was opened */
  int64_t dropped;        /* left out since, each time one came: broken under the template, or nothing of it counts */
  int64_t truncated;      /* conversations and pairs cut at `length`, each time one came */
  int64_t last_turn_only; /* conversations of which only the last turn counts, as the template changes earlier ones */
  const char *first_problem; /* the first message of a broken or dropped one; NULL: none. Until rt_data_close */
} rt_data_stats;
rt_data_stats rt_data_get_stats(const rt_data *data);
ir_data_format rt_data_format(const rt_data *data); /* never AUTO */

/* The item that is at `index` of an epoch over n items (0 <= index < n): a permutation, by a Feistel network over the
 * next even number of bits, walked until it falls below n. The same on every machine. */
int64_t rt_shuffled(int64_t n, uint64_t seed, int64_t epoch, int64_t index);

#endif
