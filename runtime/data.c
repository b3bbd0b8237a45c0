/* runtime/data.c: opened data, its position, and batches: items in the epoch's order, put together until a batch is
 * full. */
#include "runtime/data_parts.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* ---- opening */

rt_data_options rt_data_defaults(const dp_tokenizer *tokenizer) {
  static const char *const ends[] = {"<|endoftext|>", "<|end_of_text|>"};
  rt_data_options options = {.tokenizer = tokenizer, .begin_token = -1, .end_token = -1};
  if (!tokenizer) return options;
  dp_token_specials specials = dp_tokenizer_specials(tokenizer);
  for (size_t i = 0; i < DP_COUNT(ends) && options.end_token < 0; i++) {
    int32_t id = dp_tokenizer_find(tokenizer, ends[i], strlen(ends[i]));
    if (id >= 0 && dp_token_is_special(tokenizer, id)) options.end_token = id;
  }
  if (options.end_token < 0) options.end_token = specials.eos;
  if (specials.add_bos) options.begin_token = specials.bos;
  options.bos_token = dp_token_text(tokenizer, specials.bos, NULL);
  options.eos_token = dp_token_text(tokenizer, specials.eos, NULL);
  options.vocabulary = dp_tokenizer_size(tokenizer);
  return options;
}

static dp_status check_options(const rt_data_options *o) {
  if (!o->path || !*o->path) return dp_fail(DP_INVALID, "no training data was named");
  if (o->length < 1 || o->length > INT32_MAX)
    return dp_fail(DP_INVALID, "'%s': sequences of %" PRId64 " tokens cannot be", o->path, o->length);
  if (o->vocabulary < 1 || o->vocabulary > INT32_MAX)
    return dp_fail(DP_INVALID, "'%s': a vocabulary of %" PRId64 " tokens cannot be", o->path, o->vocabulary);
  if (o->begin_token < -1 || o->begin_token >= o->vocabulary || o->end_token < -1 || o->end_token >= o->vocabulary)
    return dp_fail(DP_INVALID, "'%s': the tokens %d and %d around documents are not both of the vocabulary of %" PRId64,
                   o->path, (int)o->begin_token, (int)o->end_token, o->vocabulary);
  if (o->tokenizer && dp_tokenizer_size(o->tokenizer) > o->vocabulary)
    return dp_fail(DP_INVALID, "'%s': the tokenizer has %d tokens, the model's vocabulary is %" PRId64, o->path,
                   dp_tokenizer_size(o->tokenizer), o->vocabulary);
  return DP_SUCCESS;
}

static dp_status copy_options(rt_data *data, const rt_data_options *options) {
  rt_data_options *own = &data->options;
  *own = *options;
  own->path = strdup(options->path);
  own->bos_token = options->bos_token ? strdup(options->bos_token) : NULL;
  own->eos_token = options->eos_token ? strdup(options->eos_token) : NULL;
  data->format = options->format;
  if (!own->path || (options->bos_token && !own->bos_token) || (options->eos_token && !own->eos_token))
    return dp_fail(DP_NO_MEMORY, "no memory for training data");
  return DP_SUCCESS;
}

static dp_status open_data(rt_data *data, const rt_data_options *options) {
  DP_TRY(copy_options(data, options));
  DP_TRY(data_find_files(data));
  if (data->format != IR_DATA_TOKENS && !options->tokenizer)
    return dp_fail(DP_UNSUPPORTED, "'%s': text needs a tokenizer, and the weights bring none: give token ids (.bin)",
                   options->path);
  return data_index(data);
}

dp_status rt_data_open(const rt_data_options *options, rt_data **out) {
  *out = NULL;
  DP_TRY(check_options(options));
  rt_data *data = calloc(1, sizeof *data);
  if (!data) return dp_fail(DP_NO_MEMORY, "no memory for training data");
  data->loaded = -1;
  dp_status status = open_data(data, options);
  if (status.code == DP_OK)
    *out = data;
  else
    rt_data_close(data);
  return status;
}

void rt_data_close(rt_data *data) {
  if (!data) return;
  for (int i = 0; i < data->file_count; i++) {
    dp_unmap_file(&data->files[i].mapping);
    free(data->files[i].path);
  }
  for (int i = 0; i < 2; i++) {
    dp_ids_free(&data->made[i].ids);
    dp_ids_free(&data->made[i].targets);
  }
  dp_ids_free(&data->batch_ids);
  dp_ids_free(&data->batch_targets);
  free((char *)(uintptr_t)data->options.path);
  free((char *)(uintptr_t)data->options.bos_token);
  free((char *)(uintptr_t)data->options.eos_token);
  free(data->files);
  free(data->items);
  free(data->first_problem);
  free(data->sequences);
  free(data->room);
  free(data);
}

/* ---- position */

rt_data_position rt_data_tell(const rt_data *data) { return data->at; }

dp_status rt_data_seek(rt_data *data, rt_data_position position) {
  bool has_pieces = data->format == IR_DATA_TEXT;
  if (position.epoch < 0 || position.index < 0 || position.index >= data->epoch_items || position.piece < 0 ||
      (position.piece > 0 && !has_pieces))
    return dp_fail(DP_INVALID,
                   "'%s' has no position epoch %" PRId64 ", item %" PRId64 " of %" PRId64 ", piece %" PRId64
                   ": it is of other data",
                   data->options.path, position.epoch, position.index, data->epoch_items, position.piece);
  data->at = position;
  return DP_SUCCESS;
}

uint64_t rt_data_identity(const rt_data *data) {
  const rt_data_options *o = &data->options;
  int64_t numbers[] = {data->format,  data->epoch_items, data->item_count, o->length, o->begin_token, o->end_token,
                       o->vocabulary, o->in_order,       (int64_t)o->seed, o->pack,   o->skip_broken, data->file_count};
  return dp_hash(data->content, numbers, sizeof numbers);
}

rt_data_stats rt_data_get_stats(const rt_data *data) {
  rt_data_stats stats = data->stats;
  stats.first_problem = data->first_problem;
  return stats;
}

ir_data_format rt_data_format(const rt_data *data) { return data->format; }

static int64_t item_at(const rt_data *data, rt_data_position at) {
  return data->options.in_order ? at.index : rt_shuffled(data->epoch_items, data->options.seed, at.epoch, at.index);
}

static void next_item(rt_data *data) {
  data->at.piece = 0;
  if (++data->at.index < data->epoch_items) return;
  data->at.index = 0;
  data->at.epoch++;
}

/* ---- a batch */

static dp_status add_sequence(rt_data *data, const int32_t *ids, const int32_t *targets, size_t count,
                              rt_batch *batch) {
  if (batch->count == data->sequence_cap) {
    int cap = data->sequence_cap ? 2 * data->sequence_cap : 64;
    rt_example *more = realloc(data->sequences, sizeof *more * (size_t)cap);
    if (!more) return dp_fail(DP_NO_MEMORY, "no memory for a batch of more than %d sequences", batch->count);
    data->sequences = more, data->sequence_cap = cap;
  }
  DP_TRY(data_add_ids(&data->batch_ids, ids, count));
  DP_TRY(data_add_ids(&data->batch_targets, targets, count));
  bool values = data->format == IR_DATA_VALUES;
  data->sequences[batch->count++] = (rt_example){.count = (int64_t)count, .value = values ? data->value : 0};
  batch->tokens += (int64_t)count;
  for (size_t i = 0; i < count; i++) batch->targets += targets[i] >= 0;
  return DP_SUCCESS;
}

/* None of the items of a whole epoch gave anything. */
static dp_status nothing_at_all(const rt_data *data) {
  return dp_fail(DP_INVALID,
                 "'%s': none of its %" PRId64 " examples leaves anything to learn in %" PRId64 " tokens%s%s",
                 data->options.path, data->epoch_items, data->options.length,
                 data->first_problem ? "; the first: " : "", data->first_problem ? data->first_problem : "");
}

/* ---- documents */

static int64_t pieces_of(const rt_data *data, size_t tokens) {
  return tokens < 2 ? 0 : ((int64_t)tokens - 1 + data->options.length - 1) / data->options.length;
}

/* The document of a piece: the last that begins at or before it. */
static int64_t document_of(const rt_data *data, int64_t piece) {
  int64_t low = 0, high = data->item_count - 1;
  while (low < high) {
    int64_t middle = low + (high - low + 1) / 2;
    if (data->items[middle].first <= piece)
      low = middle;
    else
      high = middle - 1;
  }
  return low;
}

/* Piece `index` of the files' token ids: with the token after it, in made[0]. */
static dp_status load_ids(rt_data *data, int64_t index) {
  const data_item *document = &data->items[document_of(data, index)];
  const dp_mapping *mapping;
  dp_ids *ids = &data->made[0].ids;
  DP_TRY(data_map(data, document->file, &mapping));
  uint64_t step = (uint64_t)data->id_bytes, tokens = (document->end - document->begin) / step;
  uint64_t first = (uint64_t)(index - document->first) * (uint64_t)data->options.length;
  uint64_t count =
      tokens - first < (uint64_t)data->options.length + 1 ? tokens - first : (uint64_t)data->options.length + 1;
  ids->count = 0;
  DP_TRY(data_reserve_ids(ids, count));
  const uint8_t *bytes = mapping->data + document->begin + first * step;
  for (uint64_t i = 0; i < count; i++) ids->items[i] = (int32_t)data_read_id(bytes + i * step, data->id_bytes);
  ids->count = count;
  return DP_SUCCESS;
}

/* The next piece: its first token in made[0], and how many before the last target. None is left of an item when *count
 * is 0. */
static dp_status next_piece(rt_data *data, size_t *first, size_t *count) {
  int64_t item = item_at(data, data->at);
  bool whole = data->format == IR_DATA_TOKENS; /* a piece is an item */
  if (data->loaded != item) {
    data->loaded = -1;
    DP_TRY(whole ? load_ids(data, item) : data_load_text(data, item));
    data->loaded = item;
  }
  size_t tokens = data->made[0].ids.count, length = (size_t)data->options.length;
  int64_t pieces = whole ? 1 : pieces_of(data, tokens), piece = data->at.piece;
  *count = 0;
  if (piece >= pieces) return DP_SUCCESS;
  if (!data->options.in_order && pieces > 1)
    piece = rt_shuffled(pieces, data->options.seed + 1 + (uint64_t)item, data->at.epoch, piece);
  *first = (size_t)piece * length;
  *count = tokens - 1 - *first < length ? tokens - 1 - *first : length;
  return DP_SUCCESS;
}

static dp_status fill_with_pieces(rt_data *data, int64_t rows, rt_batch *batch) {
  int64_t budget, empty = 0;
  if (__builtin_mul_overflow(rows, data->options.length, &budget)) budget = INT64_MAX;
  for (;;) {
    size_t first = 0, count;
    DP_TRY(next_piece(data, &first, &count));
    if (count == 0) {
      if (data->at.piece == 0 && ++empty > data->epoch_items) return nothing_at_all(data);
      next_item(data);
      continue;
    }
    if ((int64_t)count > budget - batch->tokens) return DP_SUCCESS;
    const int32_t *ids = data->made[0].ids.items + first;
    DP_TRY(add_sequence(data, ids, ids + 1, count, batch));
    data->at.piece++;
    empty = 0;
    if (data->format == IR_DATA_TOKENS) next_item(data);
  }
}

/* ---- conversations, pairs */

/* Makes the next item that can be used. */
static dp_status next_example(rt_data *data) {
  for (int64_t unused = 0; unused <= data->epoch_items; unused++) {
    int64_t item = item_at(data, data->at);
    if (data->loaded == item && data->usable) return DP_SUCCESS;
    data->loaded = -1;
    data->usable = false;
    dp_status status = data_load_line(data, item);
    if (status.code != DP_OK) {
      data->usable = false;
      DP_TRY(data_broken(data, status, &data->stats.dropped));
      next_item(data);
      continue;
    }
    data->loaded = item;
    if (data->usable) return DP_SUCCESS;
    data->stats.dropped++;
    data->stats.truncated += data->truncated;
    next_item(data);
  }
  return nothing_at_all(data);
}

/* The first row with room for it takes the example; -1: none has. */
static int64_t find_row(const rt_data *data, int64_t rows, int64_t count) {
  for (int64_t row = 0; row < rows; row++)
    if (data->room[row] >= count) return row;
  return -1;
}

static dp_status prepare_rows(rt_data *data, int64_t rows) {
  if (data->room_rows < rows) {
    int64_t *room = realloc(data->room, sizeof *room * (size_t)rows);
    if (!room) return dp_fail(DP_NO_MEMORY, "no memory for a batch of %" PRId64 " rows", rows);
    data->room = room, data->room_rows = rows;
  }
  for (int64_t row = 0; row < rows; row++) data->room[row] = data->options.length;
  return DP_SUCCESS;
}

static dp_status fill_with_examples(rt_data *data, int64_t rows, rt_batch *batch) {
  int sides = data->format == IR_DATA_PAIRS ? 2 : 1;
  bool pack = data->options.pack && data->format == IR_DATA_CHAT;
  if (pack) DP_TRY(prepare_rows(data, rows));
  for (int64_t taken = 0; pack || taken < rows; taken++) {
    DP_TRY(next_example(data));
    if (pack) {
      int64_t count = (int64_t)data->made[0].ids.count, row = find_row(data, rows, count);
      if (row < 0) return DP_SUCCESS;
      data->room[row] -= count;
    }
    for (int i = 0; i < sides; i++) {
      const data_sequence *made = &data->made[i];
      DP_TRY(add_sequence(data, made->ids.items, made->targets.items, made->ids.count, batch));
    }
    data->stats.truncated += data->truncated;
    data->stats.last_turn_only += data->last_turn_only;
    next_item(data);
  }
  return DP_SUCCESS;
}

dp_status rt_data_next(rt_data *data, int64_t rows, rt_batch *batch) {
  *batch = (rt_batch){0};
  if (rows < 1 || rows > INT32_MAX) return dp_fail(DP_INVALID, "a batch of %" PRId64 " rows cannot be", rows);
  bool pieces = data->format == IR_DATA_TEXT || data->format == IR_DATA_TOKENS;
  rt_data_position before = data->at;
  data->batch_ids.count = data->batch_targets.count = 0;
  rt_batch made = {0};
  dp_status status = pieces ? fill_with_pieces(data, rows, &made) : fill_with_examples(data, rows, &made);
  if (status.code != DP_OK) {
    data->at = before;
    return status;
  }
  made.sequences = data->sequences;
  size_t at = 0;
  for (int i = 0; i < made.count; at += (size_t)made.sequences[i++].count) {
    made.sequences[i].ids = data->batch_ids.items + at;
    made.sequences[i].targets = data->batch_targets.items + at;
  }
  *batch = made;
  return DP_SUCCESS;
}
