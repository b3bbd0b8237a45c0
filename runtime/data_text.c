/* runtime/data_text.c: a document's bytes -> its token ids, with the tokens around it. */
#include "runtime/data_parts.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

dp_status data_reserve_ids(dp_ids *ids, size_t more) {
  if (ids->count + more <= ids->capacity) return DP_SUCCESS;
  size_t capacity = ids->capacity ? ids->capacity : 256;
  while (capacity < ids->count + more) capacity *= 2;
  int32_t *items = realloc(ids->items, capacity * sizeof *items);
  if (!items) return dp_fail(DP_NO_MEMORY, "no memory for %zu tokens of training data", ids->count + more);
  ids->items = items, ids->capacity = capacity;
  return DP_SUCCESS;
}

dp_status data_add_id(dp_ids *ids, int32_t id) { return data_add_ids(ids, &id, 1); }

dp_status data_add_ids(dp_ids *ids, const int32_t *items, size_t count) {
  DP_TRY(data_reserve_ids(ids, count));
  if (count > 0) memcpy(ids->items + ids->count, items, count * sizeof *items);
  ids->count += count;
  return DP_SUCCESS;
}

/* The first token of the next part is the last target of this one. What it is depends on the beginning of the part
 * only: a line, or a piece of one. */
static dp_status add_first_of(const rt_data *data, const data_item *next, const char *text, dp_ids *ids) {
  enum { LOOK_AHEAD = 4096 };
  size_t n = next->end - next->begin;
  const char *begin = text + next->begin, *newline = memchr(begin, '\n', n);
  if (newline) n = (size_t)(newline + 1 - begin);
  if (n > LOOK_AHEAD)
    for (n = LOOK_AHEAD; n > 1 && (begin[n] & 0xc0) == 0x80;) n--;
  dp_ids first = {0};
  dp_status status = dp_tokenizer_encode(data->options.tokenizer, begin, n, false, &first);
  if (status.code == DP_OK && first.count > 0) status = data_add_id(ids, first.items[0]);
  dp_ids_free(&first);
  return status;
}

dp_status data_load_text(rt_data *data, int64_t index) {
  const data_item *item = &data->items[index];
  const rt_data_options *options = &data->options;
  const dp_mapping *mapping;
  dp_ids *ids = &data->made[0].ids;
  ids->count = 0;
  DP_TRY(data_map(data, item->file, &mapping));
  const char *text = (const char *)mapping->data;
  if (!item->continued && options->begin_token >= 0) DP_TRY(data_add_id(ids, options->begin_token));
  DP_TRY(dp_tokenizer_encode(options->tokenizer, text + item->begin, item->end - item->begin, false, ids));
  if (item->continues) return add_first_of(data, item + 1, text, ids);
  return options->end_token >= 0 ? data_add_id(ids, options->end_token) : DP_SUCCESS;
}
