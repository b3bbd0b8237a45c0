/* runtime/weights.h: weights files in and out: GGUF and safetensors opened as mapped tensors and metadata, bound to the
 * weights of a module, decoded to f32, packed for the generated kernels, made at random, listed, saved.
 *
 * Shapes are row-major (NumPy's order) everywhere, GGUF's reversed ones too. A matrix W[rows, cols] has its elements
 * along cols contiguous; cols is the dimension a product sums over. Multi-byte data is little-endian, as in the files.
 * Files and bindings do not change once made: any number of threads may read them. */
#ifndef DIPPER_RUNTIME_WEIGHTS_H
#define DIPPER_RUNTIME_WEIGHTS_H

#include "ir/graph.h"

/* ---- files ------------------------------------------------------------------------------------------------------- */

typedef struct rt_weights_file rt_weights_file;

typedef enum rt_weights_format { RT_GGUF, RT_SAFETENSORS } rt_weights_format;

enum { RT_MAX_RANK = 8 };

/* One tensor of a file. Owned by the file, as is everything it points to. */
typedef struct rt_tensor {
  const char *name;      /* UTF-8 without control characters, NUL-terminated, unique in the file */
  bool supported;        /* dipper can read its elements; false: it is listed, and refused when bound */
  ir_dtype dtype;        /* when supported */
  const char *type_name; /* "q4_1"; of an unsupported type the file's name for it: "q6_k", "F8_E4M3" */
  int rank;              /* 0: a scalar */
  int64_t dims[RT_MAX_RANK];
  int64_t elements;    /* product of dims */
  const uint8_t *data; /* NOT aligned to the element (safetensors promises nothing): read by memcpy */
  size_t bytes;        /* 0 when the type is one whose size is not known */
  uint64_t offset;     /* of data, from the first byte of its file */
  int part;            /* which of the files it lies in, where there are several: rt_weights_part */
  bool mapped;         /* data is in a mapping of the file, not in memory that somebody lent */
} rt_tensor;

/* Opens, checks and maps weights: a GGUF file (version 2 or 3) or a safetensors file, told apart by content; several of
 * them that are one (model.safetensors.index.json, or one of NAME-00001-of-00003.safetensors or .gguf); or a directory that
 * holds model.safetensors, the index, or no other weights than one *.safetensors or *.gguf. config.json and its companions
 * beside safetensors files are read too. Every number of a header is checked against its file before it is used. Errors
 * (DP_NOT_FOUND, DP_IO, DP_INVALID, DP_UNSUPPORTED, DP_NO_MEMORY) name the file, the tensor or key and the byte offset.
 * On failure *out is NULL. */
dp_status rt_weights_open(const char *path, rt_weights_file **out);
/* The same for a file that lies in memory, which must outlive *out. `name` stands for the path in messages. No
 * config.json is looked for. */
dp_status rt_weights_open_memory(const char *name, const void *data, size_t size, rt_weights_file **out);
void rt_weights_close(rt_weights_file *file); /* NULL is fine. Ends every pointer got from it, bindings' too. */

const char *rt_weights_path(const rt_weights_file *file); /* as it was named to rt_weights_open */
/* Where the files lie, and tokenizer.json with them: "" (here) or a path that ends in '/'. NULL for one in memory. */
const char *rt_weights_directory(const rt_weights_file *file);
int rt_weights_part_count(const rt_weights_file *file); /* the files that make up the weights, 1 or more */
const char *rt_weights_part(const rt_weights_file *file, int index);
/* Its bytes; {0} of a file in memory. */
const dp_mapping *rt_weights_part_mapping(const rt_weights_file *file, int index);
/* Appends bytes that differ when a file is another one, or has changed; whatever its path. False for one in memory. */
bool rt_weights_identity(const rt_weights_file *file, dp_str *identity);
/* Are the files as they were when they were opened, and that for long enough that a change will show in their times? */
bool rt_weights_settled(const rt_weights_file *file);
rt_weights_format rt_weights_format_of(const rt_weights_file *file);
/* GGUF's general.architecture, safetensors' model_type from config.json; NULL when there is none. */
const char *rt_weights_architecture(const rt_weights_file *file);
int rt_weights_tensor_count(const rt_weights_file *file);
const rt_tensor *rt_weights_tensor(const rt_weights_file *file, int index);      /* in the file's order */
const rt_tensor *rt_weights_find(const rt_weights_file *file, const char *name); /* NULL when absent; O(1) */

/* ---- metadata ---------------------------------------------------------------------------------------------------- */

typedef struct rt_text {
  const char *text; /* NOT NUL-terminated when it points into a mapping; may hold any bytes */
  size_t length;
} rt_text;

typedef enum rt_meta_kind {
  RT_META_NUMBER,
  RT_META_BOOL,
  RT_META_STRING,
  RT_META_NUMBERS, /* an array of integers, floats or booleans: rt_meta_number_at */
  RT_META_STRINGS,
  RT_META_OTHER, /* null, arrays of arrays, mixed arrays: there, but not readable */
} rt_meta_kind;

/* One key with its value. GGUF's keys are as in the file. Of safetensors: config.json's keys, those of nested objects
 * joined by '.' ("rope_scaling.factor"); "tokenizer.chat_template"; "tokenizer_config.KEY" of the special tokens' keys;
 * "generation_config.eos_token_id"; and those of the header's __metadata__ as "__metadata__.KEY". */
typedef struct rt_meta {
  const char *key;
  rt_meta_kind kind;
  double number;          /* NUMBER, and BOOL as 0 or 1 */
  int64_t integer;        /* NUMBER when it is an integer: exact (u64 above INT64_MAX wraps); else the truncation */
  rt_text text;           /* STRING: NUL-terminated here */
  int64_t count;          /* NUMBERS, STRINGS */
  const rt_text *strings; /* STRINGS: views into the file, nothing is copied */
  const uint8_t *data;    /* NUMBERS: the elements as they lie in the file; `element` is their GGUF type */
  int element;
} rt_meta;

int rt_weights_meta_count(const rt_weights_file *file);
const rt_meta *rt_weights_meta(const rt_weights_file *file, int index);
/* "{arch}" in the key stands for rt_weights_architecture. NULL when absent. Stand-ins for what config.json lacks:
 *   X: text_config.X
 *   rope_theta: rope_parameters.rope_theta, rope_parameters.full_attention.rope_theta;
 *   rope_local_base_freq: rope_parameters.sliding_attention.rope_theta;
 *   rope_scaling.X: rope_parameters.X, rope_parameters.full_attention.X, when their rope_type is not "default";
 *   rope_parameters.X: rope_scaling.X; rope_parameters.rope_theta: rope_theta. */
const rt_meta *rt_weights_find_meta(const rt_weights_file *file, const char *key);
double rt_meta_number_at(const rt_meta *meta, int64_t index);   /* of NUMBERS, 0 <= index < count */
int64_t rt_meta_integer_at(const rt_meta *meta, int64_t index); /* the same, exact for 64-bit integers */

/* A number or boolean (0, 1) by key, "{arch}" replaced; false when absent or of another kind. One more stand-in:
 *   vocab_size, X.vocab_size: the embedding's row count, else the length of tokenizer.ggml.tokens. */
bool rt_weights_number(const rt_weights_file *file, const char *key, double *number);
bool rt_weights_bool(const rt_weights_file *file, const char *key, bool *value); /* booleans only */
const char *rt_weights_string(const rt_weights_file *file, const char *key);     /* NUL-terminated; NULL when absent */
const rt_text *rt_weights_strings(const rt_weights_file *file, const char *key, int64_t *count); /* NULL when absent */

/* Appends a GGUF file that has the metadata and no tensors: rt_weights_open_memory reads it back. Values of kind
 * RT_META_OTHER are left out. */
dp_status rt_save_metadata(const rt_weights_file *file, dp_str *out);

/* What `dipper weights ls FILE` shows, appended to out: name, type, shape and bytes of every tensor and the totals; as
 * one JSON object (with the scalar metadata) when `json`. */
void rt_weights_list(const rt_weights_file *file, bool json, dp_str *out);

/* ---- elements: decoding and encoding rows (dequant.c) ------------------------------------------------------------ */

float rt_f16_to_f32(uint16_t half);  /* exact; keeps a nan's payload */
uint16_t rt_f32_to_f16(float value); /* to nearest, ties to even; too large: infinity */
float rt_bf16_to_f32(uint16_t half);
uint16_t rt_f32_to_bf16(float value); /* to nearest, ties to even; nan becomes quiet */

/* Bytes of n elements; n must be a multiple of the type's block. -1 when it is not, or on overflow. */
int64_t rt_row_bytes(ir_dtype dtype, int64_t n);

/* Decodes n elements (a multiple of the block) of any type in ir/dtypes.def; src needs no alignment. i32 is not a
 * weight's type: zeros. One float result per element, the same on every machine, the bits that the `gguf` Python package
 * gives: what dtypes.def says, each operation rounded to f32. */
void rt_dequantize_row(ir_dtype dtype, const void *src, float *dst, int64_t n);

/* Encodes n floats (a multiple of the block) into the same types: f16, bf16, q8_0, q4_0 and q4_1 to the bits of the
 * `gguf` Python package for finite values, the others to a valid block that fits (for random weights and tests; ggml's
 * own quantizers search longer). Not finite ones give some encoding, no trap. */
void rt_quantize_row(ir_dtype dtype, const float *src, void *dst, int64_t n);

/* ---- binding: a file's tensors for a module's weights ------------------------------------------------------------ */

/* One matrix or vector of a weight: of a stacked one, that of one layer (and expert, or head). A vector has rows == 1.
 * Where its elements lie in the file is for the functions below to know: rt_bound_row, rt_bound_to_f32, rt_pack_bound.
 * Those who want more speed may look at `plain`: row r is then rt_row_bytes(dtype, cols) bytes at data + r * row_bytes,
 * and nothing is added. */
typedef struct rt_bound {
  const uint8_t *data; /* not aligned; in the file, or in the binding's memory (tensor == NULL then); NULL: `int4`, `later` */
  ir_dtype dtype;
  bool plain;
  bool packed;     /* f32 in the layout of kernels (ir/packing.h), rows or with `transposed` columns in blocks */
  bool vector;     /* what is said of rows below holds of its elements */
  bool transposed; /* data[cols][...]: element (r, c) is the rt_bound_place(r)th of row c, rows row_bytes apart */
  int64_t rows, cols;
  int64_t row_bytes;
  int64_t run, step, first, origin; /* run > 0: see rt_bound_place; 0: rows (of a vector: elements) lie in order */
  int64_t paired_heads;             /* > 0: rows (of a vector: elements) of each head lie in adjacent rotation pairs,
                                       see rt_paired_row; 0: they lie in the model's order */
  float plus;                       /* added to every element of a vector, in f32 */
  const rt_tensor *tensor;          /* NULL when made at random, filled, or made from tensors in another encoding */
  const struct rt_int4_tensor *int4; /* the file's GPTQ or AWQ tensors, of which rows are made as they are asked for */
  const struct rt_later *later;      /* what brings the elements, while a tensor of them is saved; else nobody may ask for them */
} rt_bound;

typedef struct rt_binding rt_binding;

enum { RT_BIND_STRICT = 1 }; /* a tensor of the file that the model does not use is an error */

/* Finds every weight of `module` in `file`, by its sources in order (ir/graph.h: ir_source): for a stacked weight one
 * tensor a layer ("{}" is the layer), or one tensor [layers, ...] under a pattern without "{}"; else what `tied` names;
 * else the number it is filled with; else nothing when it is optional. Shapes must agree exactly, but for windows: their
 * tensor may have more rows. "X.weight" is also found as "X.qweight", "X.qzeros", "X.scales" of a GPTQ or AWQ file.
 * Sets ir_weight.storage of every weight it found.
 * What is missing, misshapen or of an unsupported type is collected: ONE DP_INVALID message lists it all, and the
 * module is unchanged. `file` must outlive *out; `module` need not. flags: RT_BIND_STRICT or 0. */
dp_status rt_bind_weights(ir_module *module, const rt_weights_file *file, unsigned flags, rt_binding **out);

/* Weights without a file: matrices uniform with standard deviation 1/sqrt(cols), vectors with "norm" or "ln" in
 * their names 1 + noise, other vectors noise. An element depends on seed, weight name, layer and index only.
 * Matrices are stored as `storage` (quantized ones need cols % block == 0, else DP_INVALID), vectors as f32. A tied
 * weight is what it is tied to. Sets ir_weight.storage. The memory (DP_NO_MEMORY) belongs to *out. */
dp_status rt_bind_random(ir_module *module, uint64_t seed, ir_dtype storage, rt_binding **out);

/* The same without elements, for asking how much memory they would take: their data must not be read. */
dp_status rt_bind_shapes(ir_module *module, ir_dtype storage, rt_binding **out);
/* Gives the first `count` weights of such a binding (of f32) the elements of rt_bind_random. */
dp_status rt_make_random(const ir_module *module, int count, uint64_t seed, rt_binding *binding);

void rt_binding_free(rt_binding *binding); /* NULL is fine */
/* Weight `weight` (its index in module->weights), `index` among its stack: 0 when not stacked, the layer (from 0, also
 * where first_layer is not), or layer * n + i with a second stack dimension n. NULL for an optional weight that is not
 * there, and out of range. */
const rt_bound *rt_binding_get(const rt_binding *binding, int weight, int64_t index);
/* The product of the stack dimensions: 1 when not stacked; 0 when not there. */
int64_t rt_binding_layers(const rt_binding *binding, int weight);
/* The index of the weight that stands in for it (its tie), or -1. */
int rt_binding_tie(const rt_binding *binding, int weight);
/* The file that it was bound to; NULL for random weights. */
const rt_weights_file *rt_binding_file(const rt_binding *binding);
/* A sentence about the file's tensors that the model does not use, for the user; NULL when it uses all. */
const char *rt_binding_note(const rt_binding *binding);

/* Where row `row` in the model's order lies in a file with rotation pairs; hd = rows a head (even):
 * h*hd + b*(hd/2) + i comes from h*hd + 2*i + b. */
static inline int64_t rt_paired_row(int64_t row, int64_t hd) {
  int64_t r = row % hd, b = r >= hd / 2;
  return row - r + 2 * (r - b * (hd / 2)) + b;
}
/* Which row from `data` on row `row` (model's order) is: pairs undone, then the window. Of a vector: elements; of a
 * transposed matrix: columns. */
int64_t rt_bound_place(const rt_bound *bound, int64_t row);
/* Row `row` (model's order) of a matrix as it lies in the file, rt_row_bytes(dtype, cols) bytes. NULL where it lies
 * nowhere in one piece: of a transposed or an int4 one. */
const uint8_t *rt_bound_row_data(const rt_bound *bound, int64_t row);
/* Row `row` (model's order) of `bound` as f32[cols]. */
void rt_bound_row(const rt_bound *bound, int64_t row, float *dst);
/* All of it as f32[rows, cols] in the model's order. */
void rt_bound_to_f32(const rt_bound *bound, float *dst);
/* Do both have the same elements from the same place? (True of tied weights.) */
bool rt_bound_same(const rt_bound *a, const rt_bound *b);
/* What decides the bound's elements besides the bytes of the file's parts: which part of them, and how it is read. Of a
 * bound in the binding's memory the elements themselves. Chain as with dp_hash. */
uint64_t rt_bound_hash(uint64_t seed, const rt_bound *bound);
/* The file's pages of rows [first, end) (model's order) may leave memory: they are read again when they are wanted. Of a
 * bound that is not plain nothing leaves before all its rows are named at once: then its whole tensor does. */
void rt_bound_forget(const rt_bound *bound, int64_t first, int64_t end);

/* ---- packing: the layout that generated kernels read (pack.c) ---------------------------------------------------- */

/* W[n, k] of storage type D, rows padded with zeros to a multiple of RT_PACK_ROWS = 64, lies in blocks of 64 rows, one
 * after another, each 64 * ir_packed_row_bytes(D, k) bytes, as ir/packing.h describes: f32, f16, bf16 [k][64] elements,
 * the others runs of lines, for instance q4_1: for each 32 of k f16 d[64], f16 m[64], byte[16][64], whose byte (i, row)
 * holds k = 2i low, k = 2i + 1 high, 0..15 as in GGUF. Padding rows are all zero bytes: weights that are exactly 0. */
enum { RT_PACK_ROWS = 64 };

int64_t rt_packed_blocks(int64_t n);                          /* blocks of 64 rows, padding included */
int64_t rt_packed_size(ir_dtype dtype, int64_t n, int64_t k); /* bytes; -1: k not a multiple of the block, overflow,
                                                                 i32, or n or k below 1 */
/* Packs blocks [first_block, first_block + block_count) of `rows` (n rows, row_bytes apart, not aligned) to where they
 * belong in `dst`, the start of the whole packed matrix. Threads may pack different blocks at once. paired_heads as in
 * rt_bound: rotation pairs are undone. rt_packed_size must not be -1, n % (2 * paired_heads) == 0. */
void rt_pack(ir_dtype dtype, int64_t n, int64_t k, const void *rows, size_t row_bytes, int64_t paired_heads, void *dst,
             int64_t first_block, int64_t block_count);
/* The same from a matrix that lies transposed, src[k][n], its rows row_bytes apart. f32, f16, bf16 only. */
void rt_pack_transposed(ir_dtype dtype, int64_t n, int64_t k, const void *src, size_t row_bytes, void *dst,
                        int64_t first_block, int64_t block_count);
/* Packs blocks of whatever was bound, wherever its rows lie (pack_bound.c): W[n, k] with n = rows, k = cols, or with
 * `transposed` its transpose, n = cols, k = rows (f32, f16, bf16 only). rt_packed_size(dtype, n, k) must not be -1.
 * DP_NO_MEMORY is the only failure. */
dp_status rt_pack_bound(const rt_bound *bound, bool transposed, void *dst, int64_t first_block, int64_t block_count);
/* Row `row` (0 <= row < 64 * rt_packed_blocks(n)) of a packed matrix, as rt_row_bytes(dtype, k) bytes of an unpacked
 * one. */
void rt_unpack_row(ir_dtype dtype, int64_t n, int64_t k, const void *packed, int64_t row, void *dst);

/* ---- saving ------------------------------------------------------------------------------------------------------ */

/* A tensor to write. Its elements come from `data` (whole, unaligned is fine), or where that is NULL from `fill`, asked
 * for rows [first, first + count) in order, row_bytes each; rows are the product of all dims but the last (1 when
 * rank < 2). */
typedef struct rt_save_tensor {
  const char *name; /* UTF-8, unique in the file, not "__metadata__" */
  ir_dtype dtype;   /* f32, f16, bf16 or i32 */
  int rank;
  int64_t dims[RT_MAX_RANK];
  const void *data;
  dp_status (*fill)(const void *context, int64_t first, int64_t count, void *dst);
  const void *context;
} rt_save_tensor;

/* Writes a safetensors file with metadata {"format":"pt"}, streamed through a buffer of about a megabyte, to a
 * temporary file beside `path` that replaces it at the end, or is removed on failure. DP_IO names the reason (disk
 * full, ...). */
dp_status rt_save_safetensors(const char *path, const rt_save_tensor *tensors, int count);
/* The same with a text of the caller's in the metadata, under a key other than "format". */
dp_status rt_save_noted_safetensors(const char *path, const rt_save_tensor *tensors, int count, const char *key,
                                    const char *text);
/* The bytes of the tensors that rt_save_weights would write, about. */
uint64_t rt_saved_bytes(const ir_module *module, const rt_binding *binding, ir_dtype dtype);

/* Every weight of a binding under its first source's names, decoded to `dtype` (f32, f16, bf16), rows in that source's
 * order: what transformers loads. Tied weights are left out (the tie makes them again). */
dp_status rt_save_weights(const char *path, const ir_module *module, const rt_binding *binding, ir_dtype dtype);

#endif
