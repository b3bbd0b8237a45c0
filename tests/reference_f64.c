/* tests/reference_f64.c: every op of the graph IR in double precision, by loops over its elements. Whole numbers are
 * doubles too. The order of sums is whatever is plainest: results are compared within tolerances. */
#include "tests/reference_f64.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct tensor {
  int rank;
  int64_t dims[IR_MAX_RANK], count;
  double *data;
} tensor;

/* What a save or an append left: for one layer, or for all (-1). */
typedef struct kept {
  const char *name;
  int64_t layer, part;
  tensor value;
} kept;

typedef struct evaluation {
  const reference *r;
  dp_arena *arena;
  tensor *values; /* by value->id */
  kept *kept;
  int kept_count, kept_cap;
  dp_status status; /* the first failure */
} evaluation;

/* ---- tensors
 * ------------------------------------------------------------------------------------------------------------- */

static tensor *value_of(evaluation *e, const ir_value *value) { return &e->values[value->id]; }
static tensor *operand(evaluation *e, const ir_op *op, int i) { return value_of(e, op->operands[i]); }

static tensor new_tensor(evaluation *e, const ir_type *type) {
  tensor t = {.rank = type->rank, .count = 1};
  for (int i = 0; i < type->rank; i++) {
    t.dims[i] = type->dims[i].coef * e->r->tokens + type->dims[i].add;
    t.count *= t.dims[i];
  }
  t.data = DP_NEW_ARRAY(e->arena, double, t.count);
  return t;
}

static tensor *result(evaluation *e, const ir_op *op, int i) {
  tensor *t = value_of(e, op->results[i]);
  *t = new_tensor(e, &op->results[i]->type);
  return t;
}

static int64_t last(const tensor *t) { return t->rank ? t->dims[t->rank - 1] : 1; }
static int64_t rows_of(const tensor *t) { return t->count / last(t); }

/* Element of x that goes with element i of y, as NumPy repeats x. */
static double repeated(const tensor *x, const tensor *y, int64_t i) {
  int64_t at = 0, step = 1;
  for (int d = y->rank - 1, own = x->rank - 1; own >= 0; d--, own--) {
    if (x->dims[own] != 1) at += i % y->dims[d] * step;
    step *= x->dims[own];
    i /= y->dims[d];
  }
  return x->data[at];
}

static void fail(evaluation *e, const ir_op *op) {
  if (e->status.code == DP_OK)
    e->status = dp_fail(DP_UNSUPPORTED, "op %s is not known to the reference", ir_op_info_of(op->code)->name);
}

/* ---- elementwise
 * ------------------------------------------------------------------------------------------------------------ */

static double scalar(ir_opcode code, double x, double y) {
  switch (code) {
  case IR_OP_neg:
    return -x;
  case IR_OP_exp:
    return exp(x);
  case IR_OP_sqrt:
    return sqrt(x);
  case IR_OP_rsqrt:
    return 1 / sqrt(x);
  case IR_OP_sigmoid:
    return 1 / (1 + exp(-x));
  case IR_OP_tanh:
    return tanh(x);
  case IR_OP_silu:
    return x / (1 + exp(-x));
  case IR_OP_gelu_tanh:
    return 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
  case IR_OP_gelu:
    return 0.5 * x * (1 + erf(x / sqrt(2)));
  case IR_OP_log:
    return log(x);
  case IR_OP_erf:
    return erf(x);
  case IR_OP_positive:
    return x > 0;
  case IR_OP_relu:
    return x > 0 ? x : 0;
  case IR_OP_add:
    return x + y;
  case IR_OP_sub:
    return x - y;
  case IR_OP_mul:
    return x * y;
  case IR_OP_div:
    return x / y;
  case IR_OP_max:
    return x < y ? y : x;
  case IR_OP_min:
    return y < x ? y : x;
  case IR_OP_broadcast:
    return x;
  default:
    return NAN;
  }
}

static void elementwise(evaluation *e, const ir_op *op) {
  tensor *y = result(e, op, 0);
  for (int64_t i = 0; i < y->count; i++)
    y->data[i] = scalar(op->code, repeated(operand(e, op, 0), y, i),
                        op->operand_count > 1 ? repeated(operand(e, op, 1), y, i) : 0);
}

/* ---- weights, indexing, layout
 * ------------------------------------------------------------------------------------------------ */

static int weight_index(evaluation *e, const char *name) {
  return (int)(ir_find_weight(e->r->module, name) - e->r->module->weights);
}

static void weight(evaluation *e, const ir_op *op) {
  tensor *y = result(e, op, 0);
  y->data = e->r->weights[weight_index(e, ir_get_string(op, "name", ""))];
}

/* Layers of a weight may begin with another number than 0. */
static int64_t first_layer(evaluation *e, const ir_value *value) {
  if (!value->def || value->def->code != IR_OP_weight) return 0;
  return ir_find_weight(e->r->module, ir_get_string(value->def, "name", ""))->first_layer;
}

static void layer_of(evaluation *e, const ir_op *op) {
  int64_t index = (int64_t)operand(e, op, 1)->data[0] - first_layer(e, op->operands[0]);
  tensor *y = result(e, op, 0);
  y->data = operand(e, op, 0)->data + index * y->count;
}

static void constant(evaluation *e, const ir_op *op) { result(e, op, 0)->data[0] = ir_get_float(op, "value", 0); }

static void gather(evaluation *e, const ir_op *op) {
  tensor *table = operand(e, op, 0), *ids = operand(e, op, 1), *y = result(e, op, 0);
  int64_t columns = table->count / table->dims[0];
  for (int64_t t = 0; t < ids->count; t++)
    for (int64_t c = 0; c < columns; c++) y->data[t * columns + c] = table->data[(int64_t)ids->data[t] * columns + c];
}

static void reshape(evaluation *e, const ir_op *op) { result(e, op, 0)->data = operand(e, op, 0)->data; }

static void slice(evaluation *e, const ir_op *op) {
  tensor *x = operand(e, op, 0), *y = result(e, op, 0);
  for (int64_t r = 0; r < rows_of(y); r++)
    for (int64_t c = 0; c < last(y); c++)
      y->data[r * last(y) + c] = x->data[r * last(x) + ir_get_int(op, "first", 0) + c];
}

static void concat(evaluation *e, const ir_op *op) {
  tensor *a = operand(e, op, 0), *b = operand(e, op, 1), *y = result(e, op, 0);
  for (int64_t r = 0; r < rows_of(y); r++)
    for (int64_t c = 0; c < last(y); c++)
      y->data[r * last(y) + c] = c < last(a) ? a->data[r * last(a) + c] : b->data[r * last(b) + c - last(a)];
}

static void every(evaluation *e, const ir_op *op) {
  int64_t layer = (int64_t)operand(e, op, 0)->data[0];
  result(e, op, 0)->data[0] = layer % ir_get_int(op, "period", 1) == ir_get_int(op, "phase", 0);
}

static void number(evaluation *e, const ir_op *op) {
  const tensor *x = operand(e, op, 0);
  tensor *y = result(e, op, 0);
  y->data = x->data;
  if (!ir_get_int(op, "bits", 0)) return;
  y->data = DP_NEW_ARRAY(e->arena, double, x->count);
  for (int64_t i = 0; i < x->count; i++) {
    int32_t bits = (int32_t)x->data[i];
    float value;
    memcpy(&value, &bits, sizeof value);
    y->data[i] = (double)value;
  }
}

static void element(evaluation *e, const ir_op *op) {
  tensor *x = operand(e, op, 0), *ids = operand(e, op, 1), *y = result(e, op, 0);
  for (int64_t t = 0; t < y->count; t++) {
    double id = ids->data[t];
    y->data[t] = id >= 0 && id < (double)last(x) ? x->data[t * last(x) + (int64_t)id] : 0;
  }
}

static void one_hot(evaluation *e, const ir_op *op) {
  tensor *ids = operand(e, op, 0), *y = result(e, op, 0);
  for (int64_t i = 0; i < y->count; i++) y->data[i] = ids->data[i / last(y)] == (double)(i % last(y));
}

/* ---- reductions, norms
 * ----------------------------------------------------------------------------------------------------------- */

static double greatest(const double *x, int64_t n) {
  double most = x[0];
  for (int64_t i = 1; i < n; i++) most = fmax(most, x[i]);
  return most;
}

static void reduce(evaluation *e, const ir_op *op) {
  tensor *x = operand(e, op, 0), *y = result(e, op, 0);
  int64_t n = last(x);
  for (int64_t r = 0; r < y->count; r++) {
    const double *row = x->data + r * n;
    double most = greatest(row, n), sum = 0, powers = 0;
    for (int64_t c = 0; c < n; c++) sum += row[c], powers += exp(row[c] - most);
    y->data[r] = op->code == IR_OP_reduce_sum ? sum : op->code == IR_OP_reduce_max ? most : most + log(powers);
  }
}

static void softmax(evaluation *e, const ir_op *op) {
  tensor *x = operand(e, op, 0), *y = result(e, op, 0);
  int64_t n = last(x);
  for (int64_t r = 0; r < rows_of(x); r++) {
    double most = greatest(x->data + r * n, n), sum = 0;
    for (int64_t c = 0; c < n; c++) sum += y->data[r * n + c] = exp(x->data[r * n + c] - most);
    for (int64_t c = 0; c < n; c++) y->data[r * n + c] /= sum;
  }
}

static void norm(evaluation *e, const ir_op *op) {
  tensor *x = operand(e, op, 0), *scale = operand(e, op, 1), *y = result(e, op, 0);
  const tensor *shift = op->operand_count > 2 ? operand(e, op, 2) : NULL;
  int64_t n = last(x);
  for (int64_t r = 0; r < rows_of(x); r++) {
    const double *row = x->data + r * n;
    double mean = 0, square = 0;
    for (int64_t c = 0; c < n && shift; c++) mean += row[c] / (double)n;
    for (int64_t c = 0; c < n; c++) square += (row[c] - mean) * (row[c] - mean) / (double)n;
    for (int64_t c = 0; c < n; c++)
      y->data[r * n + c] =
          (row[c] - mean) / sqrt(square + ir_get_float(op, "eps", 0)) * scale->data[c] + (shift ? shift->data[c] : 0);
  }
}

/* ---- products, choices
 * --------------------------------------------------------------------------------------------------------------- */

/* y[n] = x[k] by w[n, k], or w[k, n]. */
static void multiply(const double *x, const double *w, double *y, int64_t n, int64_t k, bool transposed) {
  for (int64_t i = 0; i < n; i++)
    for (int64_t j = 0; j < k; j++) y[i] += x[j] * (transposed ? w[i * k + j] : w[j * n + i]);
}

/* One matrix, one a head, or that of each id. */
static void product(evaluation *e, const ir_op *op) {
  tensor *x = operand(e, op, 0), *w = operand(e, op, 1), *y = result(e, op, 0);
  const tensor *ids = op->operand_count > 2 ? operand(e, op, 2) : NULL;
  int64_t k = last(x), n = last(y), each = rows_of(y) / rows_of(x);
  for (int64_t r = 0; r < rows_of(y); r++) {
    int64_t matrix = ids ? (int64_t)ids->data[r] : op->code == IR_OP_head_matmul ? r % y->dims[1] : 0;
    multiply(x->data + r / each * k, w->data + matrix * n * k, y->data + r * n, n, k, ir_get_int(op, "transposed", 0));
  }
}

static void top_k(evaluation *e, const ir_op *op) {
  tensor *x = operand(e, op, 0), *y = result(e, op, 0);
  int64_t n = last(x), k = last(y);
  for (int64_t r = 0; r < rows_of(x); r++)
    for (int64_t i = 0; i < n; i++) {
      const double *row = x->data + r * n;
      int64_t ahead = 0;
      for (int64_t j = 0; j < n; j++) ahead += row[j] > row[i] || (row[j] == row[i] && j < i);
      if (ahead < k) y->data[r * k + ahead] = (double)i;
    }
}

static void take(evaluation *e, const ir_op *op) {
  tensor *x = operand(e, op, 0), *ids = operand(e, op, 1), *y = result(e, op, 0);
  for (int64_t i = 0; i < y->count; i++) y->data[i] = x->data[i / last(y) * last(x) + (int64_t)ids->data[i]];
}

static void place(evaluation *e, const ir_op *op) {
  tensor *x = operand(e, op, 0), *ids = operand(e, op, 1), *y = result(e, op, 0);
  for (int64_t i = 0; i < x->count; i++) y->data[i / last(x) * last(y) + (int64_t)ids->data[i]] += x->data[i];
}

static void among(evaluation *e, const ir_op *op) {
  tensor *ids = operand(e, op, 0), *y = result(e, op, 0);
  for (int64_t i = 0; i < ids->count; i++) y->data[i / last(ids) * last(y) + (int64_t)ids->data[i]] = 1;
}

static void mix(evaluation *e, const ir_op *op) {
  tensor *weights = operand(e, op, 0), *x = operand(e, op, 1), *y = result(e, op, 0);
  int64_t used = last(weights), d = last(y);
  for (int64_t i = 0; i < x->count; i++) y->data[i / d / used * d + i % d] += weights->data[i / d] * x->data[i];
}

/* ---- positions, attention
 * ------------------------------------------------------------------------------------------------------------------ */

/* How much of frequency i is divided by the factor (the row of rope_angles in ops.def). */
static double stretched(const ir_op *op, double theta, double dim, double i) {
  double low = ir_get_float(op, "low", 0), high = ir_get_float(op, "high", 0),
         original = ir_get_float(op, "original", 0);
  if (original == 0) return 1;
  if (!ir_get_int(op, "yarn", 0)) { /* over how often i turns in the original positions */
    double turns = original * pow(theta, -2 * i / dim) / (2 * M_PI);
    return fmin(fmax((high - turns) / (high - low), 0), 1);
  }
  /* Over i: between those that turn `high` times and `low` times. */
  double first = fmax(floor(dim / 2 * log(original / (2 * M_PI * high)) / log(theta)), 0);
  double end = fmin(ceil(dim / 2 * log(original / (2 * M_PI * low)) / log(theta)), dim - 1);
  return fmin(fmax((i - first) / fmax(end - first, 0.001), 0), 1);
}

static void rope_angles(evaluation *e, const ir_op *op) {
  tensor *pos = operand(e, op, 0), *y = result(e, op, 0);
  const tensor *divisors = op->operand_count > 1 ? operand(e, op, 1) : NULL;
  int64_t dim = last(y), half = dim / 2;
  double theta = ir_get_float(op, "theta", 0), factor = ir_get_float(op, "factor", 1);
  for (int64_t t = 0; t < pos->count; t++)
    for (int64_t i = 0; i < half; i++) {
      double f = pow(theta, -2.0 * (double)i / (double)dim), share = stretched(op, theta, (double)dim, (double)i);
      f = f / factor * share + f * (1 - share);
      double angle = pos->data[t] * (divisors ? f / divisors->data[i] : f);
      y->data[t * dim + i] = cos(angle);
      y->data[t * dim + half + i] = sin(angle);
    }
}

static void rotate(evaluation *e, const ir_op *op) {
  tensor *x = operand(e, op, 0), *angles = operand(e, op, 1), *y = result(e, op, 0);
  int64_t dim = last(x), half = dim / 2, heads = x->dims[1];
  double direction = ir_get_int(op, "inverse", 0) ? -1 : 1;
  for (int64_t r = 0; r < rows_of(x); r++)
    for (int64_t i = 0; i < half; i++) {
      const double *angle = angles->data + r / heads * dim, *from = x->data + r * dim;
      double cosine = angle[i], sine = direction * angle[i + half];
      y->data[r * dim + i] = from[i] * cosine - from[i + half] * sine;
      y->data[r * dim + i + half] = from[i + half] * cosine + from[i] * sine;
    }
}

/* Where the window is given it is operand `window`. */
static bool sees(evaluation *e, const ir_op *op, int window, int64_t t, int64_t s) {
  if (!ir_get_int(op, "causal", 0)) return true;
  return s <= t && (op->operand_count <= window || (double)s > (double)t - operand(e, op, window)->data[0]);
}

/* Row (t, head) of x[T, heads, n]. */
static const double *head_row(const tensor *x, int64_t t, int64_t head) {
  return x->data + (t * x->dims[1] + head) * last(x);
}

static double dot(const double *x, const double *y, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; i++) sum += x[i] * y[i];
  return sum;
}

static void attend(evaluation *e, const ir_op *op) {
  tensor *q = operand(e, op, 0), *k = operand(e, op, 1), *v = operand(e, op, 2), *y = result(e, op, 0);
  tensor *sums = op->result_count > 1 ? result(e, op, 1) : NULL;
  int64_t tokens = q->dims[0], heads = q->dims[1], share = heads / k->dims[1];
  for (int64_t t = 0; t < tokens; t++)
    for (int64_t h = 0; h < heads; h++) {
      double sum = 0, *to = y->data + (t * heads + h) * last(y);
      for (int64_t s = 0; s < tokens; s++) {
        if (!sees(e, op, 3, t, s)) continue;
        double power = exp(dot(head_row(q, t, h), head_row(k, s, h / share), last(q)) * ir_get_float(op, "scale", 1));
        sum += power;
        for (int64_t c = 0; c < last(y); c++) to[c] += power * head_row(v, s, h / share)[c];
      }
      for (int64_t c = 0; c < last(y); c++) to[c] /= sum;
      if (sums) sums->data[t * heads + h] = log(sum);
    }
}

static void attend_rows(evaluation *e, const ir_op *op) {
  tensor *q = operand(e, op, 0), *k = operand(e, op, 1), *a = operand(e, op, 2), *v = operand(e, op, 3);
  tensor *values = operand(e, op, 4), *sums = operand(e, op, 5), *shift = operand(e, op, 6), *y = result(e, op, 0);
  int64_t tokens = q->dims[0], heads = q->dims[1], share = heads / k->dims[1];
  double scale = ir_get_float(op, "scale", 1);
  for (int64_t t = 0; t < tokens; t++)
    for (int64_t h = 0; h < heads; h++)
      for (int64_t s = 0; s < tokens; s++) {
        if (!sees(e, op, 7, t, s)) continue;
        double weight = exp(dot(head_row(q, t, h), head_row(k, s, h / share), last(q)) * scale - *head_row(sums, t, h));
        weight *= (dot(head_row(a, t, h), head_row(v, s, h / share), last(a)) - *head_row(shift, t, h)) * scale;
        for (int64_t c = 0; c < last(y); c++)
          y->data[(t * heads + h) * last(y) + c] += weight * head_row(values, s, h / share)[c];
      }
}

static void attend_columns(evaluation *e, const ir_op *op) {
  tensor *k = operand(e, op, 0), *v = operand(e, op, 1), *q = operand(e, op, 2), *a = operand(e, op, 3);
  tensor *keys_a = operand(e, op, 4), *values_q = operand(e, op, 5), *stats = operand(e, op, 6);
  tensor *dk = result(e, op, 0), *dv = result(e, op, 1);
  int64_t tokens = q->dims[0], heads = q->dims[1], share = heads / k->dims[1];
  double scale = ir_get_float(op, "scale", 1);
  for (int64_t s = 0; s < tokens; s++)
    for (int64_t h = 0; h < heads; h++)
      for (int64_t t = 0; t < tokens; t++) {
        if (!sees(e, op, 7, t, s)) continue;
        int64_t own = (s * k->dims[1] + h / share);
        double weight =
            exp(dot(head_row(q, t, h), head_row(k, s, h / share), last(q)) * scale - head_row(stats, t, h)[0]);
        double slope =
            (dot(head_row(keys_a, t, h), head_row(v, s, h / share), last(a)) - head_row(stats, t, h)[1]) * scale;
        for (int64_t c = 0; c < last(dk); c++)
          dk->data[own * last(dk) + c] += weight * slope * head_row(values_q, t, h)[c];
        for (int64_t c = 0; c < last(dv); c++) dv->data[own * last(dv) + c] += weight * head_row(a, t, h)[c];
      }
}

/* ---- what is kept, gradients
 * ---------------------------------------------------------------------------------------------------------------- */

static void keep(evaluation *e, const char *name, int64_t layer, int64_t part, tensor value) {
  for (int i = 0; i < e->kept_count; i++) {
    kept *at = &e->kept[i];
    if (strcmp(at->name, name) != 0 || at->layer != layer || at->part != part) continue;
    at->value = value;
    return;
  }
  DP_PUSH(e->arena, e->kept, e->kept_count, e->kept_cap) = (kept){name, layer, part, value};
}

static void save(evaluation *e, const ir_op *op) {
  keep(e, ir_get_string(op, "stack", ""), (int64_t)operand(e, op, 1)->data[0], 0, *operand(e, op, 0));
}

static void append(evaluation *e, const ir_op *op) {
  tensor *y = result(e, op, 0);
  y->data = operand(e, op, 0)->data;
  keep(e, ir_get_string(op, "cache", ""), (int64_t)operand(e, op, 1)->data[0], ir_get_int(op, "part", 0), *y);
}

static void saved(evaluation *e, const ir_op *op) {
  const char *name = ir_get_string(op, op->code == IR_OP_saved ? "stack" : "cache", "");
  int64_t layer = (int64_t)operand(e, op, 0)->data[0], part = ir_get_int(op, "part", 0);
  for (int i = 0; i < e->kept_count; i++)
    if (strcmp(e->kept[i].name, name) == 0 && e->kept[i].layer == layer && e->kept[i].part == part) {
      *result(e, op, 0) = e->kept[i].value;
      return;
    }
  fail(e, op);
}

/* The gradient of the weight, of the layer that operand `layer` names. */
static double *gradient(evaluation *e, const ir_op *op, int layer) {
  int index = weight_index(e, ir_get_string(op, "weight", ""));
  const ir_weight *declared = &e->r->module->weights[index];
  if (op->operand_count <= layer) return e->r->gradients[index];
  int64_t at = (int64_t)operand(e, op, layer)->data[0] - declared->first_layer;
  return e->r->gradients[index] + at * (reference_weight_size(e->r->module, index) / declared->type.dims[0].add);
}

static void accumulate_product(evaluation *e, const ir_op *op) {
  bool experts = op->code == IR_OP_accumulate_experts;
  tensor *x = operand(e, op, 0), *y = operand(e, op, 1);
  const tensor *ids = experts ? operand(e, op, 2) : NULL;
  int64_t n = last(x), k = last(y), rows = ids ? ids->count : rows_of(x);
  double *sum = gradient(e, op, experts ? 3 : 2);
  for (int64_t r = 0; r < rows; r++) {
    int64_t matrix = ids ? (int64_t)ids->data[r] : x->rank == 3 ? r % x->dims[1] : 0;
    const double *a = x->data + r / (rows / rows_of(x)) * n, *b = y->data + r / (rows / rows_of(y)) * k;
    for (int64_t i = 0; i < n; i++)
      for (int64_t j = 0; j < k; j++) sum[(matrix * n + i) * k + j] += a[i] * b[j];
  }
}

static void accumulate_sum(evaluation *e, const ir_op *op) {
  tensor *x = operand(e, op, 0);
  const ir_type *type = &ir_find_weight(e->r->module, ir_get_string(op, "weight", ""))->type;
  int64_t n = type->dims[type->rank - 1].add;
  double *sum = gradient(e, op, 1);
  for (int64_t i = 0; i < x->count; i++) sum[i % n] += x->data[i];
}

static void accumulate_rows(evaluation *e, const ir_op *op) {
  tensor *x = operand(e, op, 0), *ids = operand(e, op, 1);
  double *sum = gradient(e, op, 2);
  for (int64_t i = 0; i < x->count; i++) sum[(int64_t)ids->data[i / last(x)] * last(x) + i % last(x)] += x->data[i];
}

/* ---- blocks
 * ----------------------------------------------------------------------------------------------------------------------------------
 */

static void run_block(evaluation *e, const ir_block *block);

static void loop(evaluation *e, const ir_op *op) {
  int64_t count = ir_get_int(op, "count", 1), first = ir_get_int(op, "first", 0);
  const ir_block *body = op->body;
  tensor *carried = DP_NEW_ARRAY(e->arena, tensor, op->operand_count + 1);
  for (int i = 0; i < op->operand_count; i++) carried[i] = *operand(e, op, i);
  for (int64_t step = 0; step < count; step++) {
    tensor *layer = value_of(e, body->args[0]);
    *layer = new_tensor(e, &body->args[0]->type);
    layer->data[0] = (double)(first + (ir_get_int(op, "reverse", 0) ? count - 1 - step : step));
    for (int i = 0; i < op->operand_count; i++) *value_of(e, body->args[i + 1]) = carried[i];
    run_block(e, body);
    for (int i = 0; i < op->operand_count; i++) carried[i] = *operand(e, body->last, i);
  }
  for (int i = 0; i < op->operand_count; i++) *value_of(e, op->results[i]) = carried[i];
}

static void group(evaluation *e, const ir_op *op) {
  for (int i = 0; i < op->operand_count; i++) *value_of(e, op->body->args[i]) = *operand(e, op, i);
  run_block(e, op->body);
  for (int i = 0; i < op->result_count; i++) *value_of(e, op->results[i]) = *operand(e, op->body->last, i);
}

static void nothing(evaluation *e, const ir_op *op) { (void)e, (void)op; }

static void (*const functions[IR_OP_COUNT])(evaluation *e, const ir_op *op) = {
    [IR_OP_weight] = weight,
    [IR_OP_constant] = constant,
    [IR_OP_select] = layer_of,
    [IR_OP_loop] = loop,
    [IR_OP_group] = group,
    [IR_OP_yield] = nothing,
    [IR_OP_return] = nothing,
    [IR_OP_gather] = gather,
    [IR_OP_reshape] = reshape,
    [IR_OP_slice] = slice,
    [IR_OP_concat] = concat,
    [IR_OP_every] = every,
    [IR_OP_number] = number,
    [IR_OP_element] = element,
    [IR_OP_one_hot] = one_hot,
    [IR_OP_save] = save,
    [IR_OP_saved] = saved,
    [IR_OP_cached] = saved,
    [IR_OP_accumulate_product] = accumulate_product,
    [IR_OP_accumulate_experts] = accumulate_product,
    [IR_OP_accumulate_sum] = accumulate_sum,
    [IR_OP_accumulate_rows] = accumulate_rows,
    [IR_OP_reduce_sum] = reduce,
    [IR_OP_reduce_max] = reduce,
    [IR_OP_log_sum_exp] = reduce,
    [IR_OP_softmax] = softmax,
    [IR_OP_rms_norm] = norm,
    [IR_OP_layer_norm] = norm,
    [IR_OP_matmul] = product,
    [IR_OP_head_matmul] = product,
    [IR_OP_expert_matmul] = product,
    [IR_OP_top_k] = top_k,
    [IR_OP_take] = take,
    [IR_OP_place] = place,
    [IR_OP_among] = among,
    [IR_OP_mix] = mix,
    [IR_OP_rope_angles] = rope_angles,
    [IR_OP_rotate] = rotate,
    [IR_OP_append] = append,
    [IR_OP_attend] = attend,
    [IR_OP_attend_rows] = attend_rows,
    [IR_OP_attend_columns] = attend_columns,
};

static void run_block(evaluation *e, const ir_block *block) {
  for (const ir_op *op = block->first; op && e->status.code == DP_OK; op = op->next) {
    bool plain = ir_op_info_of(op->code)->traits & IR_ELEMENTWISE;
    if (functions[op->code])
      functions[op->code](e, op);
    else if (plain)
      elementwise(e, op);
    else
      fail(e, op);
  }
}

/* ---- a graph
 * -------------------------------------------------------------------------------------------------------------------------------
 */

static void number_values(const ir_block *block, int *count) {
  for (int i = 0; i < block->arg_count; i++) block->args[i]->id = (*count)++;
  for (const ir_op *op = block->first; op; op = op->next) {
    for (int i = 0; i < op->result_count; i++) op->results[i]->id = (*count)++;
    if (op->body) number_values(op->body, count);
  }
}

static void read_input(evaluation *e, const ir_value *arg) {
  tensor *t = value_of(e, arg);
  *t = new_tensor(e, &arg->type);
  for (int64_t i = 0; i < t->count; i++) t->data[i] = (double)i; /* pos */
  for (int input = 0; input < e->r->input_count; input++)
    for (int64_t i = 0; strcmp(arg->name, e->r->input_names[input]) == 0 && i < t->count; i++)
      t->data[i] = e->r->inputs[input][i];
}

int64_t reference_weight_size(const ir_module *module, int weight) {
  return ir_static_size(&module->weights[weight].type, 0);
}

dp_status reference_run(const reference *r, const ir_graph *graph, double **out, int64_t *columns) {
  evaluation e = {.r = r, .arena = dp_arena_new()};
  int count = 0;
  number_values(graph->block, &count);
  e.values = DP_NEW_ARRAY(e.arena, tensor, count + 1);
  for (int i = 0; i < graph->block->arg_count; i++) read_input(&e, graph->block->args[i]);
  run_block(&e, graph->block);
  if (e.status.code == DP_OK) {
    const tensor *y = operand(&e, graph->block->last, 0);
    *columns = y->count / r->tokens;
    *out = malloc(sizeof **out * (size_t)(y->count + 1));
    memcpy(*out, y->data, sizeof **out * (size_t)y->count);
  }
  dp_arena_free(e.arena);
  return e.status;
}
