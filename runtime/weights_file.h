/* runtime/weights_file.h: private to runtime/weights*.c, gguf.c, safetensors.c: an opened file as its readers fill it.
 * A reader appends tensors and metadata; weights.c then sorts out what both formats must keep: unique names, tensors
 * inside the file and apart from each other. */
#ifndef DIPPER_RUNTIME_WEIGHTS_FILE_H
#define DIPPER_RUNTIME_WEIGHTS_FILE_H

#include "runtime/weights.h"

/* Open-addressed table of positions + 1 in an array whose items begin with their name. */
typedef struct rt_name_index {
  uint32_t *slots; /* malloc'ed, mask + 1 of them, 0 = free */
  uint64_t mask;
} rt_name_index;

/* One of the files that make up the weights. */
typedef struct rt_part {
  const char *path;
  dp_mapping mapping; /* owned; {0} for a file in borrowed memory */
} rt_part;

struct rt_weights_file {
  dp_arena *arena; /* owned: names, tensors, metas, copied strings */
  rt_part *parts;
  int part_count, part_cap;
  const char *path;      /* what the user named; while a part is read, the part's */
  const char *directory; /* of the file: "" or with a '/' at its end; NULL for one in memory */
  /* of the part that is being read */
  const uint8_t *data;
  uint64_t size;
  uint64_t data_begin; /* where tensor data may begin */
  int first_tensor;    /* its first in `tensors` */
  rt_weights_format format;
  uint32_t version; /* GGUF's */
  const char *architecture;
  rt_tensor *tensors;
  int tensor_count, tensor_cap;
  rt_meta *metas;
  int meta_count, meta_cap;
  rt_name_index tensor_index, meta_index;
  rt_text **string_tables; /* malloc'ed each: a vocabulary is too large for an arena */
  int string_table_count, string_table_cap;
};

/* A file cannot make the reader spend more than this many table rows, whatever it claims. */
enum { RT_MAX_TENSORS = 1 << 20, RT_MAX_METAS = 1 << 20, RT_MAX_NAME = 65535 };

/* GGUF's value types; rt_meta.element is one of them for either format. */
typedef enum rt_gguf_type {
  RT_GGUF_U8,
  RT_GGUF_I8,
  RT_GGUF_U16,
  RT_GGUF_I16,
  RT_GGUF_U32,
  RT_GGUF_I32,
  RT_GGUF_F32,
  RT_GGUF_BOOL,
  RT_GGUF_STRING,
  RT_GGUF_ARRAY,
  RT_GGUF_U64,
  RT_GGUF_I64,
  RT_GGUF_F64,
  RT_GGUF_TYPE_COUNT
} rt_gguf_type;

dp_status rt_read_gguf(rt_weights_file *file);
dp_status rt_read_safetensors(rt_weights_file *file);
/* config.json and its companions in the file's directory as metadata; a missing one is no error. */
dp_status rt_read_beside(rt_weights_file *file);
/* The members of a JSON object as metadata under prefix + name; those of objects in it, down to `depth`, joined by '.'
 */
struct json_t;
void rt_add_json_members(rt_weights_file *file, const char *prefix, struct json_t *object, int depth);

/* Which files a path stands for (weights_dir.c). */
typedef struct rt_file_list {
  const char **paths;
  int count, cap;
  const char *directory;
  const char *index; /* the path of the index that named them, or NULL */
  /* what the index says: tensor names[i] is in paths[parts[i]] */
  const char **names;
  int *parts;
  int name_count;
} rt_file_list;
dp_status rt_list_files(dp_arena *arena, const char *path, rt_file_list *list);

/* UTF-8, no control characters, 1..RT_MAX_NAME bytes. */
bool rt_is_name(const uint8_t *text, uint64_t length);
/* Fills elements and, where block_bytes > 0, bytes from dims. false on overflow or when the last dim is not a multiple
 * of the block. */
bool rt_size_tensor(rt_tensor *tensor, int64_t block_elements, int64_t block_bytes);
/* Room for `count` views, owned by the file; NULL when memory ran out. */
rt_text *rt_new_string_table(rt_weights_file *file, uint64_t count);
/* The number at `data`, of a GGUF type that is neither string nor array. */
double rt_read_number(int type, const uint8_t *data, int64_t *integer);
int rt_gguf_type_bytes(int type); /* 0 for strings and arrays */

void rt_print_shape(dp_str *out, const int64_t *dims, int rank); /* "[49152, 576]" */
/* Quoted; bytes that are not UTF-8 become U+FFFD. */
void rt_print_json_string(dp_str *out, const char *text, size_t length);

#endif
