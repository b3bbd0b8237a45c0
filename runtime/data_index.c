/* runtime/data_index.c: the bytes of the files -> items: documents of texts, lines of JSON, documents of token ids. One
 * pass over every byte, in which all that can be wrong without a tokenizer is found. */
#include "runtime/data_parts.h"
#include "runtime/unicode.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const char separator[] = "<|endoftext|>";

dp_status data_broken(rt_data *data, dp_status why, int64_t *counter) {
  if (why.code != DP_INVALID || !data->options.skip_broken) return why;
  ++*counter;
  if (data->first_problem) {
    dp_status_free(&why);
  } else {
    data->first_problem = why.message;
  }
  return DP_SUCCESS;
}

static dp_status add_item(rt_data *data, data_item item) {
  if (data->item_count == data->item_cap) {
    int64_t cap = data->item_cap ? data->item_cap + data->item_cap / 2 : 64;
    data_item *more = realloc(data->items, sizeof *more * (size_t)cap);
    if (!more) return dp_fail(DP_NO_MEMORY, "no memory for an index of '%s'", data->options.path);
    data->items = more, data->item_cap = cap;
  }
  data->items[data->item_count++] = item;
  return DP_SUCCESS;
}

static bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

static bool is_blank(const char *text, uint64_t begin, uint64_t end) {
  while (begin < end && is_space(text[begin])) begin++;
  return begin == end;
}

static uint64_t after_mark(const char *text, uint64_t size) {
  return size >= 3 && !memcmp(text, "\xef\xbb\xbf", 3) ? 3 : 0;
}

/* The end of the line that begins there, its newline not included. */
static uint64_t line_end(const char *text, uint64_t begin, uint64_t size) {
  const char *newline = memchr(text + begin, '\n', size - begin);
  return newline ? (uint64_t)(newline - text) : size;
}

/* ---- texts */

static int64_t lines_in(const char *text, uint64_t begin, uint64_t end) {
  int64_t lines = 0;
  for (const char *at = text + begin; (at = memchr(at, '\n', (size_t)(text + end - at))); at++) lines++;
  return lines;
}

static dp_status check_text(const data_file *file, const char *text, const data_item *item) {
  size_t size = item->end - item->begin, valid = dp_utf8_valid_prefix(text + item->begin, size);
  const char *nul = memchr(text + item->begin, 0, valid);
  uint64_t at = nul ? (uint64_t)(nul - text) : item->begin + valid;
  if (at == item->end) return DP_SUCCESS;
  return dp_fail(DP_INVALID, "%s:%" PRId64 ": byte %" PRIu64 " %s; %s", file->path,
                 item->first + lines_in(text, item->begin, at), at, nul ? "is 0" : "is not UTF-8",
                 nul ? "is this text?" : "convert the file (iconv)");
}

/* Where a part that begins there ends: before a line that begins with something else than white space, where the
 * tokenizers of words begin a new one anyway; where there is none for a whole part's size, between two characters. */
static uint64_t part_end(const char *text, uint64_t begin, uint64_t end) {
  if (end - begin <= 2 * (uint64_t)DATA_PART_BYTES) return end;
  uint64_t limit = begin + 2 * (uint64_t)DATA_PART_BYTES;
  for (uint64_t at = begin + DATA_PART_BYTES; at < limit;) {
    at = line_end(text, at, end) + 1;
    if (at < limit && !is_space(text[at])) return at;
  }
  while ((text[limit] & 0xc0) == 0x80) limit--;
  return limit;
}

static dp_status add_document(rt_data *data, const char *text, data_item document) {
  if (is_blank(text, document.begin, document.end)) return DP_SUCCESS;
  dp_status status = check_text(&data->files[document.file], text, &document);
  if (status.code != DP_OK) return data_broken(data, status, &data->stats.broken);
  data_item part = document;
  do {
    part.end = part_end(text, part.begin, document.end);
    part.continues = part.end < document.end;
    DP_TRY(add_item(data, part));
    part.first += lines_in(text, part.begin, part.end);
    part.begin = part.end;
    part.continued = true;
  } while (part.begin < document.end);
  return DP_SUCCESS;
}

static bool is_separator(const char *line, uint64_t n) {
  if (n > 0 && line[n - 1] == '\r') n--;
  return n == strlen(separator) && memcmp(line, separator, n) == 0;
}

static dp_status index_text(rt_data *data, int file, const char *text, uint64_t size) {
  data_item document = {.file = file, .begin = after_mark(text, size), .first = 1};
  int64_t line = 1;
  for (uint64_t begin = document.begin; begin < size; line++) {
    uint64_t end = line_end(text, begin, size);
    if (is_separator(text + begin, end - begin)) {
      document.end = begin > document.begin ? begin - 1 : begin; /* the newline before it is the separator's */
      DP_TRY(add_document(data, text, document));
      document.begin = end < size ? end + 1 : size;
      document.first = line + 1;
    }
    begin = end + 1;
  }
  document.end = size;
  return add_document(data, text, document);
}

/* ---- lines of JSON */

static dp_status index_lines(rt_data *data, int file, const char *text, uint64_t size) {
  data_item item = {.file = file};
  for (uint64_t begin = after_mark(text, size); begin < size; begin = item.end + 1) {
    item.begin = begin, item.end = line_end(text, begin, size), item.first++;
    if (is_blank(text, item.begin, item.end)) continue;
    json_t *root;
    dp_status status = data_parse_line(data, &item, text, &root);
    json_decref(root);
    if (status.code == DP_OK)
      DP_TRY(add_item(data, item));
    else
      DP_TRY(data_broken(data, status, &data->stats.broken));
  }
  return DP_SUCCESS;
}

/* ---- token ids */

enum { HEADER_BYTES = 1024, HEADER_MAGIC = 20240520 };

static dp_status skip_header(const data_file *file, const uint8_t *bytes, int id_bytes, uint64_t *begin,
                             uint64_t *end) {
  uint32_t header[3] = {0};
  if (*end >= HEADER_BYTES) memcpy(header, bytes, sizeof header);
  if (header[0] == HEADER_MAGIC) {
    *begin = HEADER_BYTES;
    uint64_t need = HEADER_BYTES + (uint64_t)header[2] * (uint64_t)id_bytes;
    if (need > *end)
      return dp_fail(DP_INVALID,
                     "'%s' is cut short: its header tells of %" PRIu32 " tokens of %d bytes, %" PRIu64
                     " bytes in all, and it has %" PRIu64,
                     file->path, header[2], id_bytes, need, *end);
    *end = need;
  }
  if ((*end - *begin) % (uint64_t)id_bytes != 0)
    return dp_fail(DP_INVALID,
                   "'%s' has %" PRIu64 " bytes, which is no whole number of tokens of %d bytes (u%d: the vocabulary "
                   "is %s 65536)",
                   file->path, *end, id_bytes, 8 * id_bytes, id_bytes == 2 ? "below" : "not below");
  return DP_SUCCESS;
}

static dp_status add_ids(rt_data *data, data_item document) {
  int64_t tokens = (int64_t)(document.end - document.begin) / data->id_bytes;
  if (tokens < 2) return DP_SUCCESS;
  document.first = data->epoch_items;
  data->epoch_items += (tokens - 1 + data->options.length - 1) / data->options.length;
  return add_item(data, document);
}

static dp_status index_ids(rt_data *data, int file, const uint8_t *bytes, uint64_t size) {
  uint64_t begin = 0, end = size, step = (uint64_t)data->id_bytes;
  DP_TRY(skip_header(&data->files[file], bytes, data->id_bytes, &begin, &end));
  data_item document = {.file = file, .begin = begin};
  for (uint64_t at = begin; at < end; at += step) {
    uint32_t id = data_read_id(bytes + at, data->id_bytes);
    if (id >= (uint64_t)data->options.vocabulary)
      return dp_fail(DP_INVALID,
                     "'%s': the token at byte %" PRIu64 " is %" PRIu32 ", the vocabulary has %" PRId64
                     ": it was made for another model, or its tokens have not %d bytes",
                     data->files[file].path, at, id, data->options.vocabulary, data->id_bytes);
    if ((int64_t)id != data->options.end_token) continue;
    document.end = at + step;
    DP_TRY(add_ids(data, document));
    document.begin = document.end;
  }
  document.end = end;
  return add_ids(data, document);
}

/* ---- all files */

static dp_status index_file(rt_data *data, int file) {
  dp_file_stamp stamp;
  if (dp_stamp_file(data->files[file].path, &stamp) && stamp.size == 0)
    return DP_SUCCESS; /* found out below, if all are */
  const dp_mapping *mapping;
  DP_TRY(data_map(data, file, &mapping));
  data->content = dp_hash(data->content, mapping->data, mapping->size);
  if (data->format == IR_DATA_TOKENS) return index_ids(data, file, mapping->data, mapping->size);
  const char *text = (const char *)mapping->data;
  return data->format == IR_DATA_TEXT ? index_text(data, file, text, mapping->size)
                                      : index_lines(data, file, text, mapping->size);
}

dp_status data_index(rt_data *data) {
  data->id_bytes = data->options.vocabulary < 65536 ? 2 : 4;
  for (int i = 0; i < data->file_count; i++) DP_TRY(index_file(data, i));
  if (data->format != IR_DATA_TOKENS) data->epoch_items = data->item_count;
  data->stats.items = data->epoch_items;
  if (data->epoch_items > 0) return DP_SUCCESS;
  const char *path = data->options.path;
  if (data->first_problem)
    return dp_fail(DP_INVALID, "'%s': nothing in it can be used; the first of %" PRId64 " broken: %s", path,
                   data->stats.broken, data->first_problem);
  return dp_fail(DP_INVALID, "'%s' holds no %s", path,
                 data->format == IR_DATA_TOKENS ? "two tokens of one document"
                 : data->format == IR_DATA_TEXT ? "text"
                                                : "line of JSON");
}
