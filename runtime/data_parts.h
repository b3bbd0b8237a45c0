/* runtime/data_parts.h: private to runtime/data*.c: opened data, as the index fills it and the batches read it. */
#ifndef DIPPER_RUNTIME_DATA_PARTS_H
#define DIPPER_RUNTIME_DATA_PARTS_H

#include "runtime/data.h"

#include <jansson.h>
#include <string.h>

enum {
  DATA_MAX_FILES = 1 << 20,
  DATA_MAX_MAPPED = 1024,    /* files mapped at a time */
  DATA_PART_BYTES = 1 << 20, /* of a long document; a part is up to twice that */
  DATA_MAX_LINE = 64 << 20,  /* bytes of a line of JSON */
};

typedef struct data_file {
  char *path; /* owned */
  dp_mapping mapping;
  dp_file_stamp stamp; /* of the first mapping: later ones must be of the same file */
} data_file;

/* A document, a part of one, or a line: bytes [begin, end) of a file. */
typedef struct data_item {
  uint64_t begin, end;
  int64_t first; /* text, lines: the line it begins at, from 1; token ids: pieces before it */
  int32_t file;
  bool continued, continues; /* a part: the one before it, the one after it, is of the same document */
} data_item;

/* What a sequence is made of: targets[t] belongs after ids[t]; marks while it is being made. */
typedef struct data_sequence {
  dp_ids ids, targets;
} data_sequence;

struct rt_data {
  rt_data_options options; /* path, bos_token and eos_token owned */
  ir_data_format format;
  data_file *files;
  int file_count, file_cap, mapped;
  data_item *items;
  int64_t item_count, item_cap;
  int64_t epoch_items; /* what an epoch goes through */
  uint64_t content;    /* hash of all files */
  int id_bytes;        /* of token ids: 2 or 4 */
  rt_data_position at;
  rt_data_stats stats;
  char *first_problem; /* owned */
  /* the item that was made last: of text its ids, of a line its sequences */
  int64_t loaded; /* -1: none */
  data_sequence made[2];
  double value;
  bool usable;    /* something of it counts */
  bool truncated; /* the line was cut at `length`; and only its last turn counts */
  bool last_turn_only;
  /* the batch that was given last */
  dp_ids batch_ids, batch_targets;
  rt_example *sequences;
  int sequence_cap;
  int64_t *room; /* [room_rows] tokens left in each row */
  int64_t room_rows;
};

/* ---- files, index */

dp_status data_find_files(rt_data *data); /* files and format of the path; AUTO stays with .jsonl */
dp_status data_map(rt_data *data, int file, const dp_mapping **mapping);
dp_status data_index(rt_data *data); /* all items; format, when it was AUTO */
/* Counts something broken when it is to be skipped, else hands `why` on. Only DP_INVALID is ever skipped. */
dp_status data_broken(rt_data *data, dp_status why, int64_t *counter);

/* A token id of 2 or 4 bytes, at any address. */
static inline uint32_t data_read_id(const uint8_t *bytes, int size) {
  uint32_t id = 0;
  memcpy(&id, bytes, 2);
  if (size == 4) memcpy(&id, bytes, 4);
  return id;
}

/* ---- lines (data_line.c) */

/* The object of a line, checked as far as can be without tokens: DP_INVALID with its place. An AUTO format is set. */
dp_status data_parse_line(rt_data *data, const data_item *item, const char *text, json_t **root);

/* Two conversations with a common beginning: messages [0, prompt) of each; or strings. References are borrowed from
 * `root` but for the lists, which are new. */
typedef struct data_pair {
  json_t *conversations[2]; /* arrays of messages, owned; NULL: strings */
  size_t prompt;
  const json_t *texts[3]; /* prompt, chosen, rejected */
} data_pair;
/* NULL, or what is wrong with it. */
const char *data_read_pair(const json_t *root, data_pair *pair);
void data_free_pair(data_pair *pair);
bool data_is_assistant(const json_t *message);

/* ---- sequences */

dp_status data_load_text(rt_data *data, int64_t item);
dp_status data_load_line(rt_data *data, int64_t item); /* sets usable, truncated, last_turn_only */
/* The ids and marks of the conversation: the assistant's turns from message `first` on. `item` is for messages. */
dp_status data_encode_chat(rt_data *data, const data_item *item, const json_t *root, json_t *messages, size_t first,
                           data_sequence *sequence);

dp_status data_reserve_ids(dp_ids *ids, size_t more);
dp_status data_add_id(dp_ids *ids, int32_t id);
dp_status data_add_ids(dp_ids *ids, const int32_t *items, size_t count);

#endif
