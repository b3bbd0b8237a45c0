/* api/tensor.c: tensors: a view, and the memory that it shares with other views. What DLPack hands out is one more
 * view. */
#include "api/tensor.h"
#include "api/life.h"
#include "dipper/dlpack.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { MAGIC = 0x64705473, ALIGNMENT = 64, PAST_THE_END = 4096 };

/* What views have in common. Freed with the last: by one of `release`, `managed`, `versioned`, the context. */
typedef struct storage {
  _Atomic int references;
  void (*release)(void *user, void *data);
  void *user, *data;
  DLManagedTensor *managed;
  DLManagedTensorVersioned *versioned;
  dp_context *context; /* kept; whose allocator it was, or NULL */
  size_t size;         /* of memory of a context or the system's */
  bool own;            /* such memory */
} storage;

struct dp_tensor {
  uint32_t magic;
  storage *storage;
  dp_tensor_info info;
};

/* ---- element types */

static const struct {
  const char *name;
  size_t bytes;
  uint8_t code;
} types[] = {
    [DP_F32] = {"f32", 4, kDLFloat}, [DP_F16] = {"f16", 2, kDLFloat}, [DP_BF16] = {"bf16", 2, kDLBfloat},
    [DP_I32] = {"i32", 4, kDLInt},   [DP_I64] = {"i64", 8, kDLInt},   [DP_U8] = {"u8", 1, kDLUInt},
};

size_t dp_dtype_bytes(dp_dtype dtype) { return (size_t)dtype < DP_COUNT(types) ? types[dtype].bytes : 0; }
const char *api_dtype_name(dp_dtype dtype) { return (size_t)dtype < DP_COUNT(types) ? types[dtype].name : "unknown"; }

void api_print_shape(dp_str *out, dp_dtype dtype, int rank, const int64_t *shape) {
  dp_str_addf(out, "%s[", api_dtype_name(dtype));
  for (int i = 0; i < rank; i++) {
    if (shape[i] < 0)
      dp_str_addf(out, "%sT", i ? ", " : "");
    else
      dp_str_addf(out, "%s%lld", i ? ", " : "", (long long)shape[i]);
  }
  dp_str_addc(out, ']');
}

/* ---- memory */

static void free_own(storage *s) {
  const rt_host *host = api_host(s->context);
  if (host && host->release)
    host->release(host->user, s->data, s->size, ALIGNMENT);
  else
    free(s->data);
}

static void drop(storage *s) {
  if (atomic_fetch_sub(&s->references, 1) != 1) return;
  if (s->release) s->release(s->user, s->data);
  if (s->managed && s->managed->deleter) s->managed->deleter(s->managed);
  if (s->versioned && s->versioned->deleter) s->versioned->deleter(s->versioned);
  if (s->own) free_own(s);
  api_drop_context(s->context);
  free(s);
}

static dp_status take_memory(dp_context *context, size_t size, storage *s) {
  const rt_host *host = api_host(context);
  size = (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
  s->data = host && host->allocate ? host->allocate(host->user, size, ALIGNMENT) : aligned_alloc(ALIGNMENT, size);
  if (!s->data) return dp_fail(DP_NO_MEMORY, "no memory for a tensor of %zu bytes", size);
  s->own = true;
  s->size = size;
  s->context = context;
  api_keep_context(context);
  return DP_SUCCESS;
}

/* ---- views */

static dp_status no_memory(void) { return dp_fail(DP_NO_MEMORY, "no memory for a tensor"); }

/* A view without storage, its shape checked. strides NULL: row-major. */
static dp_status new_view(const char *call, void *data, dp_dtype dtype, int rank, const int64_t *shape,
                          const int64_t *strides, dp_tensor **view) {
  if (!dp_dtype_bytes(dtype)) return dp_fail(DP_INVALID, "%s: %d is no dp_dtype", call, (int)dtype);
  if (rank < 0 || rank > DP_MAX_RANK)
    return dp_fail(DP_INVALID, "%s: a rank of %d: 0 to %d go", call, rank, DP_MAX_RANK);
  if (rank) DP_TRY(api_need(shape, call, "shape"));
  int64_t elements = 1;
  for (int i = rank - 1; i >= 0; i--)
    if (shape[i] < 0 || __builtin_mul_overflow(elements, shape[i] ? shape[i] : 1, &elements) ||
        elements > INT64_C(1) << 48)
      return dp_fail(DP_INVALID, "%s: dimension %d of the shape is %lld", call, i, (long long)shape[i]);
  dp_tensor *t = calloc(1, sizeof *t);
  if (t) t->storage = calloc(1, sizeof *t->storage);
  if (!t || !t->storage) {
    free(t);
    return no_memory();
  }
  atomic_store(&t->storage->references, 1);
  t->magic = MAGIC;
  t->info = (dp_tensor_info){.data = data, .dtype = dtype, .rank = rank};
  int64_t stride = 1;
  for (int i = rank - 1; i >= 0; i--) {
    t->info.shape[i] = shape[i];
    t->info.strides[i] = strides ? strides[i] : stride;
    stride *= shape[i] ? shape[i] : 1;
  }
  *view = t;
  return DP_SUCCESS;
}

static int64_t count_elements(const dp_tensor_info *info) {
  int64_t count = 1;
  for (int i = 0; i < info->rank; i++) count *= info->shape[i];
  return count;
}

dp_status dp_tensor_from_memory(void *data, dp_dtype dtype, int rank, const int64_t *shape, const int64_t *strides,
                                void (*release)(void *user, void *data), void *user, dp_tensor **tensor) {
  static const char call[] = "dp_tensor_from_memory";
  dp_tensor *view;
  DP_TRY(api_need(tensor, call, "place for the tensor"));
  DP_TRY(new_view(call, data, dtype, rank, shape, strides, &view));
  if (!data && count_elements(&view->info) > 0) {
    dp_tensor_free(view);
    return api_need(NULL, call, "data");
  }
  view->storage->release = release;
  view->storage->user = user;
  view->storage->data = data;
  *tensor = view;
  return DP_SUCCESS;
}

static dp_status with_memory(dp_context *context, size_t bytes, dp_tensor *view, dp_tensor **tensor) {
  dp_status status = take_memory(context, bytes, view->storage);
  if (status.code != DP_OK) {
    dp_tensor_free(view);
    return status;
  }
  view->info.data = view->storage->data;
  *tensor = view;
  return DP_SUCCESS;
}

dp_status dp_tensor_new(dp_context *context, dp_dtype dtype, int rank, const int64_t *shape, dp_tensor **tensor) {
  static const char call[] = "dp_tensor_new";
  dp_tensor *view;
  DP_TRY(api_need(tensor, call, "place for the tensor"));
  DP_TRY(api_check_context(context, call));
  DP_TRY(new_view(call, NULL, dtype, rank, shape, NULL, &view));
  size_t bytes = (size_t)count_elements(&view->info) * dp_dtype_bytes(dtype);
  DP_TRY(with_memory(context, bytes + 1, view, tensor));
  memset((*tensor)->info.data, 0, bytes);
  return DP_SUCCESS;
}

dp_status api_new_rows(dp_context *context, int rank, const int64_t *shape, int64_t stride, dp_tensor **tensor) {
  dp_tensor *view;
  DP_TRY(new_view("dp_graph_call", NULL, DP_F32, rank, shape, NULL, &view));
  if (rank) view->info.strides[0] = stride;
  size_t floats = (size_t)(rank ? shape[0] : 1) * (size_t)stride;
  return with_memory(context, floats * sizeof(float) + PAST_THE_END, view, tensor);
}

void dp_tensor_free(dp_tensor *tensor) {
  if (!tensor || tensor->magic != MAGIC) return;
  tensor->magic = 0;
  drop(tensor->storage);
  free(tensor);
}

dp_status api_check_tensor(const dp_tensor *tensor, const char *call, const char *what) {
  DP_TRY(api_need(tensor, call, what));
  return tensor->magic == MAGIC ? DP_SUCCESS : dp_fail(DP_INVALID, "%s: %s is no tensor", call, what);
}

const dp_tensor_info *api_tensor_info(const dp_tensor *tensor) { return &tensor->info; }

dp_status dp_tensor_get_info(const dp_tensor *tensor, dp_tensor_info *info) {
  DP_TRY(api_check_tensor(tensor, "dp_tensor_get_info", "tensor"));
  DP_TRY(api_need(info, "dp_tensor_get_info", "place for the info"));
  *info = tensor->info;
  return DP_SUCCESS;
}

/* ---- DLPack: out */

/* One of the two structures, with what they point to. */
typedef struct handed_out {
  union {
    DLManagedTensor plain;
    DLManagedTensorVersioned versioned;
  };
  storage *storage;
  int64_t shape[DP_MAX_RANK], strides[DP_MAX_RANK];
} handed_out;

static void take_back(handed_out *h) {
  drop(h->storage);
  free(h);
}

static void delete_plain(DLManagedTensor *managed) { take_back(managed->manager_ctx); }
static void delete_versioned(DLManagedTensorVersioned *managed) { take_back(managed->manager_ctx); }

static dp_status hand_out(const dp_tensor *tensor, const char *call, const void *out, handed_out **made,
                          DLTensor *view) {
  DP_TRY(api_check_tensor(tensor, call, "tensor"));
  DP_TRY(api_need(out, call, "place for the result"));
  handed_out *h = *made = calloc(1, sizeof *h);
  if (!h) return no_memory();
  const dp_tensor_info *info = &tensor->info;
  h->storage = tensor->storage;
  atomic_fetch_add(&h->storage->references, 1);
  memcpy(h->shape, info->shape, sizeof h->shape);
  memcpy(h->strides, info->strides, sizeof h->strides);
  *view = (DLTensor){.data = info->data,
                     .device = {kDLCPU, 0},
                     .ndim = info->rank,
                     .shape = h->shape,
                     .strides = h->strides,
                     .dtype = {types[info->dtype].code, (uint8_t)(8 * types[info->dtype].bytes), 1}};
  return DP_SUCCESS;
}

dp_status dp_tensor_to_dlpack(const dp_tensor *tensor, DLManagedTensor **out) {
  handed_out *h;
  DLTensor view;
  DP_TRY(hand_out(tensor, "dp_tensor_to_dlpack", out, &h, &view));
  h->plain = (DLManagedTensor){.dl_tensor = view, .manager_ctx = h, .deleter = delete_plain};
  *out = &h->plain;
  return DP_SUCCESS;
}

dp_status dp_tensor_to_dlpack_versioned(const dp_tensor *tensor, DLManagedTensorVersioned **out) {
  handed_out *h;
  DLTensor view;
  DP_TRY(hand_out(tensor, "dp_tensor_to_dlpack_versioned", out, &h, &view));
  h->versioned = (DLManagedTensorVersioned){.version = {DLPACK_MAJOR_VERSION, DLPACK_MINOR_VERSION},
                                            .manager_ctx = h,
                                            .deleter = delete_versioned,
                                            .dl_tensor = view,
                                            .flags = tensor->info.read_only ? DLPACK_FLAG_BITMASK_READ_ONLY : 0};
  *out = &h->versioned;
  return DP_SUCCESS;
}

/* ---- DLPack: in */

static bool find_type(DLDataType type, dp_dtype *dtype) {
  for (size_t i = 0; i < DP_COUNT(types); i++) {
    if (type.lanes != 1 || type.code != types[i].code || type.bits != 8 * types[i].bytes) continue;
    *dtype = (dp_dtype)i;
    return true;
  }
  return false;
}

static dp_status take_in(const char *call, const DLTensor *from, dp_tensor **view) {
  dp_dtype dtype;
  if (from->device.device_type != kDLCPU && from->device.device_type != kDLCUDAHost)
    return dp_fail(DP_UNSUPPORTED, "%s: the tensor is on a device of DLPack's type %d: bring it to the CPU first", call,
                   (int)from->device.device_type);
  if (!find_type(from->dtype, &dtype))
    return dp_fail(DP_UNSUPPORTED, "%s: elements of DLPack's code %d, %d bits, %d lanes are none that dipper has", call,
                   from->dtype.code, from->dtype.bits, from->dtype.lanes);
  char *data = from->data ? (char *)from->data + from->byte_offset : NULL;
  DP_TRY(new_view(call, data, dtype, from->ndim, from->shape, from->strides, view));
  if (data || count_elements(&(*view)->info) == 0) return DP_SUCCESS;
  dp_tensor_free(*view);
  return api_need(NULL, call, "data");
}

dp_status dp_tensor_from_dlpack(DLManagedTensor *managed, dp_tensor **tensor) {
  static const char call[] = "dp_tensor_from_dlpack";
  dp_tensor *view;
  DP_TRY(api_need(managed, call, "tensor"));
  DP_TRY(api_need(tensor, call, "place for the tensor"));
  DP_TRY(take_in(call, &managed->dl_tensor, &view));
  view->storage->managed = managed;
  *tensor = view;
  return DP_SUCCESS;
}

dp_status dp_tensor_from_dlpack_versioned(DLManagedTensorVersioned *managed, dp_tensor **tensor) {
  static const char call[] = "dp_tensor_from_dlpack_versioned";
  dp_tensor *view;
  DP_TRY(api_need(managed, call, "tensor"));
  DP_TRY(api_need(tensor, call, "place for the tensor"));
  if (managed->version.major != DLPACK_MAJOR_VERSION)
    return dp_fail(DP_UNSUPPORTED, "%s: the tensor is of DLPack %u.%u, and %d is read", call, managed->version.major,
                   managed->version.minor, DLPACK_MAJOR_VERSION);
  DP_TRY(take_in(call, &managed->dl_tensor, &view));
  view->storage->versioned = managed;
  view->info.read_only = managed->flags & DLPACK_FLAG_BITMASK_READ_ONLY;
  *tensor = view;
  return DP_SUCCESS;
}
