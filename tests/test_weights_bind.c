/* tests/test_weights_bind.c: what is bound is what the model meant, wherever the file has it; what is saved comes back.
 */
#include "tests/weights_fixture.h"

#include <math.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>

/* ---- binding ----------------------------------------------------------------------------------------------------- */

enum { VOCAB = 40, D = 64, LAYERS = 3, HEADS = 2 };

static ir_module *small_model(void) {
  static const char *const embed[] = {"model.embed_tokens.weight", "token_embd.weight"};
  static const char *const norm[] = {"model.layers.{}.input_layernorm.weight", "blk.{}.attn_norm.weight"};
  static const char *const wq[] = {"model.layers.{}.self_attn.q_proj.weight", "blk.{}.attn_q.weight"};
  static const char *const bias[] = {"model.layers.{}.self_attn.q_proj.bias", "blk.{}.attn_q.bias"};
  static const char *const head[] = {"lm_head.weight", "output.weight"};
  ir_module *module = ir_module_new("small");
  add_weight(module, "embed", false, 2, (int64_t[]){VOCAB, D}, embed, 2, 0);
  add_weight(module, "norm", true, 2, (int64_t[]){LAYERS, D}, norm, 2, 0);
  add_weight(module, "wq", true, 3, (int64_t[]){LAYERS, D, D}, wq, 2, HEADS);
  add_weight(module, "bq", true, 2, (int64_t[]){LAYERS, D}, bias, 2, HEADS);
  module->weights[3].optional = true;
  add_weight(module, "head", false, 2, (int64_t[]){VOCAB, D}, head, 2, 0);
  module->weights[4].tied = "embed";
  return module;
}

static const tensor_plan good_plan[] = {
    {"token_embd.weight", 2, {VOCAB, D}, TYPE_Q8_0}, {"blk.0.attn_norm.weight", 1, {D}, TYPE_F32},
    {"blk.1.attn_norm.weight", 1, {D}, TYPE_F16},    {"blk.2.attn_norm.weight", 1, {D}, TYPE_BF16},
    {"blk.0.attn_q.weight", 2, {D, D}, TYPE_Q4_1},   {"blk.1.attn_q.weight", 2, {D, D}, TYPE_F32},
    {"blk.2.attn_q.weight", 2, {D, D}, TYPE_Q4_0},   {"rope_freqs.weight", 1, {32}, TYPE_F32},
};

START_TEST(a_model_gets_every_layer_of_every_weight) {
  ir_module *module = small_model();
  dp_str s = build_gguf(good_plan, DP_COUNT(good_plan));
  rt_weights_file *file = open_memory(&s);
  rt_binding *binding;
  dp_status status = rt_bind_weights(module, file, RT_BIND_STRICT, &binding);
  ck_assert_msg(status.code == DP_OK, "%s", dp_status_text(&status));
  ck_assert_ptr_null(rt_binding_note(binding));
  const rt_bound *embed = rt_binding_get(binding, 0, 0), *q = rt_binding_get(binding, 2, 1);
  ck_assert(embed->dtype == IR_q8_0 && embed->rows == VOCAB && embed->cols == D && embed->row_bytes == 68);
  ck_assert_ptr_eq(embed->tensor, rt_weights_find(file, "token_embd.weight"));
  ck_assert_ptr_eq(embed->data, embed->tensor->data);
  ck_assert(q->dtype == IR_f32 && q->paired_heads == HEADS && embed->paired_heads == 0);
  ck_assert_ptr_eq(q->tensor, rt_weights_find(file, "blk.1.attn_q.weight"));
  ck_assert(rt_binding_get(binding, 1, 2)->rows == 1 && rt_binding_get(binding, 1, 2)->cols == D);
  ck_assert_ptr_eq(rt_binding_get(binding, 4, 0), embed); /* head is tied */
  ck_assert_int_eq(rt_binding_tie(binding, 4), 0);
  ck_assert_int_eq(rt_binding_tie(binding, 0), -1);
  ck_assert_ptr_null(rt_binding_get(binding, 3, 0)); /* optional */
  ck_assert_int_eq(rt_binding_layers(binding, 3), 0);
  ck_assert_int_eq(rt_binding_layers(binding, 2), LAYERS);
  ck_assert(!rt_binding_get(binding, 2, LAYERS) && !rt_binding_get(binding, 2, -1) && !rt_binding_get(binding, 9, 0));
  ck_assert_uint_eq(module->weights[0].storage, 1u << IR_q8_0);
  ck_assert_uint_eq(module->weights[1].storage, 1u << IR_f32 | 1u << IR_f16 | 1u << IR_bf16);
  ck_assert_uint_eq(module->weights[2].storage, 1u << IR_f32 | 1u << IR_q4_0 | 1u << IR_q4_1);
  ck_assert_uint_eq(module->weights[3].storage, 0);
  ck_assert_uint_eq(module->weights[4].storage, 1u << IR_q8_0);
  /* Rotation pairs: the model's row h*hd + b*hd/2 + i is the file's h*hd + 2i + b. */
  float all[D * D];
  rt_bound_to_f32(q, all);
  for (int h = 0; h < HEADS; h++)
    for (int b = 0; b < 2; b++)
      for (int i = 0; i < D / HEADS / 2; i++)
        for (int k = 0; k < D; k++) {
          int hd = D / HEADS, row = h * hd + b * hd / 2 + i, from = h * hd + 2 * i + b;
          ck_assert_msg(all[row * D + k] == planned("blk.1.attn_q.weight", from * D + k), "row %d, column %d", row, k);
        }
  rt_binding_free(binding);
  rt_weights_close(file);
  dp_str_free(&s);
  ir_module_free(module);
}
END_TEST

START_TEST(one_tensor_may_hold_all_layers) {
  static const char *const names[] = {"layers.norm", "layers.q"};
  ir_module *module = ir_module_new("stacked");
  add_weight(module, "norm", true, 2, (int64_t[]){LAYERS, D}, &names[0], 1, 0);
  add_weight(module, "q", true, 3, (int64_t[]){LAYERS, 8, D}, &names[1], 1, 0);
  tensor_plan plan[] = {{"layers.norm", 2, {LAYERS, D}, TYPE_F32}, {"layers.q", 3, {LAYERS, 8, D}, TYPE_Q8_0}};
  dp_str s = build_gguf(plan, 2);
  rt_weights_file *file = open_memory(&s);
  rt_binding *binding;
  dp_status status = rt_bind_weights(module, file, RT_BIND_STRICT, &binding);
  ck_assert_msg(status.code == DP_OK, "%s", dp_status_text(&status));
  for (int layer = 0; layer < LAYERS; layer++) {
    float row[D];
    rt_bound_row(rt_binding_get(binding, 0, layer), 0, row);
    for (int i = 0; i < D; i++) ck_assert_float_eq(row[i], planned("layers.norm", layer * D + i));
    const rt_bound *q = rt_binding_get(binding, 1, layer);
    ck_assert_ptr_eq(q->data, q->tensor->data + layer * 8 * 68);
  }
  rt_binding_free(binding);
  rt_weights_close(file);
  dp_str_free(&s);
  ir_module_free(module);
}
END_TEST

static void check_not_bound(ir_module *module, const tensor_plan *plan, int count, unsigned flags, const char *parts) {
  dp_str s = build_gguf(plan, count);
  rt_weights_file *file = open_memory(&s);
  rt_binding *binding;
  dp_status status = rt_bind_weights(module, file, flags, &binding);
  ck_assert_int_eq(status.code, DP_INVALID);
  ck_assert_ptr_null(binding);
  char copy[1024];
  snprintf(copy, sizeof copy, "%s", parts);
  for (char *save, *part = strtok_r(copy, "|", &save); part; part = strtok_r(NULL, "|", &save))
    ck_assert_msg(strstr(dp_status_text(&status), part), "no '%s' in: %s", part, dp_status_text(&status));
  for (int i = 0; i < module->weight_count; i++) ck_assert_uint_eq(module->weights[i].storage, 0);
  dp_status_free(&status);
  rt_weights_close(file);
  dp_str_free(&s);
}

START_TEST(everything_that_does_not_fit_is_told_at_once) {
  ir_module *module = small_model();
  tensor_plan plan[] = {
      {"token_embd.weights", 2, {VOCAB, D}, TYPE_Q8_0}, {"blk.0.attn_norm.weight", 1, {D}, TYPE_F32},
      {"blk.2.attn_norm.weight", 1, {D}, TYPE_I32},     {"blk.0.attn_q.weight", 2, {D, 32}, TYPE_Q4_1},
      {"blk.1.attn_q.weight", 2, {D, 32}, TYPE_F32},    {"blk.2.attn_q.weight", 2, {D, 256}, TYPE_IQ2_S},
  };
  check_not_bound(
      module, plan, DP_COUNT(plan), 0,
      "'memory' does not fit the model 'small' (the file is of architecture 'llama')|"
      "embed: no tensor 'model.embed_tokens.weight' or 'token_embd.weight' (did you mean 'token_embd.weights'?)|"
      "norm, layer 1: no tensor 'blk.{}.attn_norm.weight'|"
      "norm, layer 2: tensor 'blk.{}.attn_norm.weight' is of type i32|"
      "wq, layers 0-1: tensor 'blk.{}.attn_q.weight' has shape [64, 32], the model wants [64, 64]|"
      "wq, layer 2: tensor 'blk.{}.attn_q.weight' is of type iq2_s|"
      "1 of the file's 6 tensors is not used by the model: 'token_embd.weights'");
  ir_module_free(module);
}
END_TEST

START_TEST(extra_tensors_are_noted_and_refused_only_when_strict) {
  tensor_plan plan[DP_COUNT(good_plan) + 20];
  static char names[20][8];
  memcpy(plan, good_plan, sizeof good_plan);
  for (int i = 0; i < 20; i++) {
    snprintf(names[i], sizeof names[i], "extra%d", i);
    plan[DP_COUNT(good_plan) + (size_t)i] = (tensor_plan){names[i], 1, {32}, TYPE_F32};
  }
  ir_module *module = small_model();
  check_not_bound(module, plan, DP_COUNT(plan), RT_BIND_STRICT,
                  "20 of the file's 28 tensors are not used|'extra0'|and 8 more");
  dp_str s = build_gguf(plan, DP_COUNT(plan));
  rt_weights_file *file = open_memory(&s);
  rt_binding *binding;
  dp_status status = rt_bind_weights(module, file, 0, &binding);
  ck_assert_msg(status.code == DP_OK, "%s", dp_status_text(&status));
  ck_assert_msg(strstr(rt_binding_note(binding), "20 of the file's 28"), "%s", rt_binding_note(binding));
  ck_assert_ptr_null(strstr(rt_binding_note(binding), "rope_freqs"));
  rt_binding_free(binding);
  rt_weights_close(file);
  dp_str_free(&s);
  ir_module_free(module);
}
END_TEST

START_TEST(ties_that_cannot_hold_are_refused) {
  ir_module *module = small_model();
  module->weights[4].tied = "nothing";
  check_not_bound(module, good_plan, DP_COUNT(good_plan), 0,
                  "head: it is tied to 'nothing', which the model does not have");
  module->weights[4].tied = "head";
  check_not_bound(module, good_plan, DP_COUNT(good_plan), 0, "head: it is tied to 'head', in a circle");
  module->weights[4].tied = "norm";
  check_not_bound(module, good_plan, DP_COUNT(good_plan), 0, "head: it is tied to 'norm', which has another shape");
  module->weights[4].tied = "bq";
  check_not_bound(module, good_plan, DP_COUNT(good_plan), 0, "head: the file has it under none of its names, nor 'bq'");
  module->weights[4].tied = "embed";
  module->weights[2].sources[module->weights[2].source_count - 1].paired = 5;
  check_not_bound(module, good_plan, DP_COUNT(good_plan), 0, "wq, layers 0-2: its rows do not divide");
  ir_module_free(module);
}
END_TEST

/* ---- sources: windows, slabs, several matrices in one tensor ----------------------------------------------------- */

static ir_weight *add_source(ir_module *module, const char *name, int stack, int rank, const int64_t *dims,
                             ir_source source) {
  add_weight(module, name, false, rank, dims, &source.pattern, 1, 0);
  ir_weight *weight = &module->weights[module->weight_count - 1];
  weight->stack = stack;
  weight->sources[0] = source;
  return weight;
}

/* The models' ways of keeping weights, small. */
enum { E = 3, FF = 32, NOPE = 6, ROPE = 4, VD = 5, RANK = 32, H = 2, FIRST = 1 };

static ir_module *crowded_model(void) {
  ir_module *m = ir_module_new("crowded");
  int64_t qkv[] = {LAYERS, D, D}, vector[] = {LAYERS, D}, expert[] = {LAYERS, E, FF, D}, bias[] = {LAYERS, E, FF};
  /* GPT-2: three in one, transposed */
  for (int i = 0; i < 3; i++) {
    static const char *const names[] = {"gpt2_q", "gpt2_k", "gpt2_v"}, *const biases[] = {"gpt2_bq", "gpt2_bk",
                                                                                          "gpt2_bv"};
    int64_t paired = i < 2 ? HEADS : 0;
    add_source(
        m, names[i], 1, 3, qkv,
        (ir_source){
            .pattern = "h.{}.c.weight", .transposed = true, .run = D, .step = 3 * D, .first = i * D, .paired = paired});
    add_source(m, biases[i], 1, 2, vector,
               (ir_source){.pattern = "h.{}.c.bias", .run = D, .step = 3 * D, .first = i * D, .paired = paired});
  }
  /* NeoX: three in one, head by head; the layers are the file's from FIRST on */
  for (int i = 0; i < 3; i++) {
    static const char *const names[] = {"neox_q", "neox_k", "neox_v"}, *const biases[] = {"neox_bq", "neox_bk",
                                                                                          "neox_bv"};
    int64_t hd = D / HEADS, paired = i < 2 ? HEADS : 0;
    add_source(m, names[i], 1, 3, qkv,
               (ir_source){.pattern = "n.{}.w", .run = hd, .step = 3 * hd, .first = i * hd, .paired = paired})
        ->first_layer = FIRST;
    add_source(m, biases[i], 1, 2, vector,
               (ir_source){.pattern = "n.{}.b", .run = hd, .step = 3 * hd, .first = i * hd, .paired = paired})
        ->first_layer = FIRST;
  }
  /* Experts: a tensor each; one a layer; the same as one matrix; two in one; two in one, transposed, columns in turn;
   * one for all layers */
  add_source(m, "each", 2, 4, expert, (ir_source){.pattern = "x.{}.e.{}.w"})->first_layer = FIRST;
  add_source(m, "exps", 2, 4, expert, (ir_source){.pattern = "x.{}.exps"});
  add_source(m, "flat", 2, 4, expert, (ir_source){.pattern = "x.{}.flat"});
  add_source(m, "gate", 2, 4, expert, (ir_source){.pattern = "x.{}.gate_up", .run = FF, .step = 2 * FF});
  add_source(m, "up", 2, 4, expert, (ir_source){.pattern = "x.{}.gate_up", .run = FF, .step = 2 * FF, .first = FF});
  for (int i = 0; i < 2; i++) {
    add_source(m, i ? "odd" : "even", 2, 4, expert,
               (ir_source){.pattern = "x.{}.turns", .transposed = true, .run = 1, .step = 2, .first = i});
    add_source(m, i ? "odd_bias" : "even_bias", 2, 3, bias,
               (ir_source){.pattern = "x.{}.turns_bias", .run = 1, .step = 2, .first = i});
  }
  add_source(m, "slabs", 2, 4, expert, (ir_source){.pattern = "x.{}.slabs", .transposed = true});
  add_source(m, "all", 2, 4, expert, (ir_source){.pattern = "all"});
  /* DeepSeek: heads of two parts */
  int64_t key[] = {LAYERS, H, NOPE, RANK}, value[] = {LAYERS, H, VD, RANK}, turn[] = {LAYERS, H * ROPE, RANK};
  add_source(m, "wk", 2, 4, key, (ir_source){.pattern = "d.{}.kv", .run = NOPE, .step = NOPE + VD});
  add_source(m, "wv", 2, 4, value, (ir_source){.pattern = "d.{}.kv", .run = VD, .step = NOPE + VD, .first = NOPE});
  add_source(m, "wqr", 1, 3, turn,
             (ir_source){.pattern = "d.{}.q", .run = ROPE, .step = NOPE + ROPE, .first = NOPE, .paired = H});
  int64_t stay[] = {LAYERS, H * NOPE, RANK};
  add_source(m, "wqn", 1, 3, stay, (ir_source){.pattern = "d.{}.q", .run = NOPE, .step = NOPE + ROPE});
  /* Norms less one; a vector for each head */
  add_source(m, "norm", 1, 2, vector, (ir_source){.pattern = "norm.{}", .plus = 1});
  int64_t heads[] = {LAYERS, H, FF};
  add_source(m, "head_norm", 2, 3, heads, (ir_source){.pattern = "hn.{}"});
  add_source(m, "flat_norm", 2, 3, heads, (ir_source){.pattern = "fn.{}", .plus = 0.1});
  return m;
}

/* The files' tensors; type 0 in the plan stands for the type asked for where a row takes it. */
static dp_str crowded_file(uint32_t type, uint32_t element_type) {
  enum { PER_LAYER = 15 };
  static char names[LAYERS * (PER_LAYER + E) + 1][24];
  tensor_plan plan[LAYERS * (PER_LAYER + E) + 1];
  int n = 0;
  plan[n] = (tensor_plan){strcpy(names[0], "all"), 4, {LAYERS, E, FF, D}, type}, n++;
#define TENSOR(type_, rank_, ...) plan[n] = (tensor_plan){names[n], rank_, __VA_ARGS__, type_}, n++
#define NAME(...) snprintf(names[n], sizeof names[n], __VA_ARGS__)
  for (int l = 0; l < LAYERS; l++) {
    NAME("h.%d.c.weight", l), TENSOR(element_type, 2, {D, 3 * D});
    NAME("h.%d.c.bias", l), TENSOR(element_type, 1, {3 * D});
    NAME("n.%d.w", FIRST + l), TENSOR(type, 2, {3 * D, D});
    NAME("n.%d.b", FIRST + l), TENSOR(type, 1, {3 * D});
    for (int e = 0; e < E; e++) NAME("x.%d.e.%d.w", FIRST + l, e), TENSOR(type, 2, {FF, D});
    NAME("x.%d.exps", l), TENSOR(type, 3, {E, FF, D});
    NAME("x.%d.flat", l), TENSOR(type, 2, {E * FF, D});
    NAME("x.%d.gate_up", l), TENSOR(type, 3, {E, 2 * FF, D});
    NAME("x.%d.turns", l), TENSOR(element_type, 3, {E, D, 2 * FF});
    NAME("x.%d.turns_bias", l), TENSOR(element_type, 2, {E, 2 * FF});
    NAME("x.%d.slabs", l), TENSOR(element_type, 3, {E, D, FF});
    NAME("d.%d.kv", l), TENSOR(type, 2, {H * (NOPE + VD), RANK});
    NAME("d.%d.q", l), TENSOR(type, 2, {H * (NOPE + ROPE), RANK});
    NAME("norm.%d", l), TENSOR(element_type, 1, {D});
    NAME("hn.%d", l), TENSOR(element_type, 2, {H, FF});
    NAME("fn.%d", l), TENSOR(element_type, 1, {H * FF});
  }
#undef TENSOR
#undef NAME
  return build_gguf(plan, n);
}

/* What ir/graph.h says of a source, word for word: the element (r, c) of matrix `index`, before it was stored. */
static float meant(const ir_weight *weight, const rt_weights_file *file, int64_t index, int64_t r, int64_t c,
                   int64_t *at, const rt_tensor **tensor) {
  const ir_source *s = &weight->sources[0];
  const ir_type *type = &weight->type;
  bool vector = type->rank == weight->stack + 1;
  int64_t inner = weight->stack == 2 ? type->dims[1].add : 1, n = vector ? 1 : type->dims[type->rank - 2].add;
  int64_t cols = type->dims[type->rank - 1].add, layer = weight->first_layer + index / inner, e = index % inner;
  char name[64];
  int holes = 0;
  for (const char *hole = s->pattern; (hole = strstr(hole, "{}")); hole += 2) holes++;
  char pattern[64];
  snprintf(pattern, sizeof pattern, "%s", s->pattern);
  for (char *hole; (hole = strstr(pattern, "{}"));) memcpy(hole, "%d", 2);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
  snprintf(name, sizeof name, pattern, (int)layer, (int)e);
#pragma GCC diagnostic pop
  *tensor = rt_weights_find(file, name);
  ck_assert_msg(*tensor, "no tensor %s", name);
  int64_t lead = holes == 2 ? 0 : holes == 1 && weight->stack == 2 ? e : holes == 0 && weight->stack ? index : 0;
  int64_t row = vector ? c : r, unit = vector ? cols : n;
  if (s->paired) row = rt_paired_row(row, unit / s->paired);
  if (s->transposed) {
    if (s->run) row = s->first + row / s->run * s->step + row % s->run;
    int64_t total = (*tensor)->dims[(*tensor)->rank - 1];
    *at = lead * cols * total + c * total + row;
  } else {
    row += lead * unit;
    if (s->run) row = s->first + row / s->run * s->step + row % s->run;
    *at = vector ? row : row * cols + c;
  }
  return planned(name, *at);
}

/* The same after it was stored: with its block, as it lies in the file. */
static float stored(const rt_tensor *tensor, int64_t at) {
  float block[256];
  int64_t n = ir_dtype_block_elements(tensor->dtype);
  rt_dequantize_row(tensor->dtype, tensor->data + at / n * ir_dtype_block_bytes(tensor->dtype), block, n);
  return block[at % n];
}

static void check_packed(const rt_bound *bound, const float *all, const char *name) {
  for (int transposed = 0; transposed < 2; transposed++) {
    if (transposed && ir_dtype_block_elements(bound->dtype) != 1) continue;
    int64_t n = transposed ? bound->cols : bound->rows, k = transposed ? bound->rows : bound->cols;
    uint8_t *packed = malloc((size_t)rt_packed_size(bound->dtype, n, k)), *row = malloc((size_t)k * 4);
    float *values = malloc((size_t)k * sizeof *values);
    for (int64_t block = 0; block < rt_packed_blocks(n); block++)
      ck_assert_int_eq(rt_pack_bound(bound, transposed, packed, block, 1).code, DP_OK);
    for (int64_t r = 0; r < n; r++) {
      rt_unpack_row(bound->dtype, n, k, packed, r, row);
      rt_dequantize_row(bound->dtype, row, values, k);
      for (int64_t c = 0; c < k; c++) {
        float want = transposed ? all[c * bound->cols + r] : all[r * bound->cols + c];
        ck_assert_msg(values[c] == want, "%s packed%s: (%d, %d) is %g, not %g", name, transposed ? " transposed" : "",
                      (int)r, (int)c, values[c], want);
      }
    }
    free(values);
    free(row);
    free(packed);
  }
}

static void check_crowded(const ir_module *module, const rt_binding *binding, const rt_weights_file *file, bool packs) {
  float *all = malloc(sizeof *all * 256 * 256);
  for (int w = 0; w < module->weight_count; w++) {
    const ir_weight *weight = &module->weights[w];
    int64_t count = 1;
    for (int i = 0; i < weight->stack; i++) count *= weight->type.dims[i].add;
    ck_assert_int_eq(rt_binding_layers(binding, w), count);
    for (int64_t index = 0; index < count; index++) {
      const rt_bound *bound = rt_binding_get(binding, w, index);
      rt_bound_to_f32(bound, all);
      for (int64_t r = 0; r < bound->rows; r++)
        for (int64_t c = 0; c < bound->cols; c++) {
          int64_t at;
          const rt_tensor *tensor;
          float value = meant(weight, file, index, r, c, &at, &tensor);
          if (tensor->dtype != IR_f32) value = stored(tensor, at);
          value += (float)weight->sources[0].plus;
          ck_assert_msg(all[r * bound->cols + c] == value, "%s, %d: (%d, %d) is %g, not %g", weight->name, (int)index,
                        (int)r, (int)c, all[r * bound->cols + c], value);
        }
      if (packs && !bound->vector) check_packed(bound, all, weight->name);
      const uint8_t *data = rt_bound_row_data(bound, bound->rows - 1);
      if (!bound->vector && data) {
        rt_dequantize_row(bound->dtype, data, all + 128 * 256, bound->cols);
        ck_assert_mem_eq(all + (bound->rows - 1) * bound->cols, all + 128 * 256, (size_t)bound->cols * sizeof *all);
      }
      ck_assert(rt_bound_same(bound, bound));
      ck_assert_uint_eq(rt_bound_hash(w, bound), rt_bound_hash(w, bound));
      if (index > 0) {
        const rt_bound *other = rt_binding_get(binding, w, index - 1);
        ck_assert(!rt_bound_same(bound, other) && rt_bound_hash(1, bound) != rt_bound_hash(1, other));
      }
    }
  }
  free(all);
}

START_TEST(every_way_of_keeping_weights_is_read_as_it_is_described) {
  static const uint32_t types[][2] = {{TYPE_F32, TYPE_F32}, {TYPE_Q8_0, TYPE_F16}, {TYPE_Q4_1, TYPE_BF16}};
  for (size_t t = 0; t < DP_COUNT(types); t++) {
    ir_module *module = crowded_model();
    dp_str s = crowded_file(types[t][0], types[t][1]);
    rt_weights_file *file = open_memory(&s);
    rt_binding *binding;
    dp_status status = rt_bind_weights(module, file, RT_BIND_STRICT, &binding);
    ck_assert_msg(status.code == DP_OK, "%s", dp_status_text(&status));
    check_crowded(module, binding, file, true);
    rt_binding_free(binding);
    rt_weights_close(file);
    dp_str_free(&s);
    ir_module_free(module);
  }
}
END_TEST

START_TEST(rows_that_lie_in_order_are_plain) {
  ir_module *module = crowded_model();
  dp_str s = crowded_file(TYPE_F32, TYPE_F32);
  rt_weights_file *file = open_memory(&s);
  rt_binding *binding;
  ck_assert_int_eq(rt_bind_weights(module, file, 0, &binding).code, DP_OK);
  static const struct {
    const char *name;
    bool plain, transposed;
  } cases[] = {{"gpt2_v", false, true}, {"gpt2_bv", true, false},  {"neox_v", false, false}, {"each", true, false},
               {"exps", true, false},   {"gate", true, false},     {"up", true, false},      {"even", false, true},
               {"slabs", false, true},  {"all", true, false},      {"wk", true, false},      {"wqr", false, false},
               {"norm", false, false},  {"head_norm", true, false}};
  for (size_t i = 0; i < DP_COUNT(cases); i++) {
    int w = (int)(ir_find_weight(module, cases[i].name) - module->weights);
    const rt_bound *bound = rt_binding_get(binding, w, 1);
    ck_assert_msg(bound->plain == cases[i].plain && bound->transposed == cases[i].transposed, "%s", cases[i].name);
  }
  rt_binding_free(binding);
  rt_weights_close(file);
  dp_str_free(&s);
  ir_module_free(module);
}
END_TEST

START_TEST(a_vector_may_be_a_row_of_a_matrix) {
  ir_module *module = ir_module_new("rows");
  for (int i = 0; i < 2; i++)
    add_source(module, i ? "second" : "first", 0, 1, (int64_t[]){D},
               (ir_source){.pattern = "types", .run = 1, .step = 2, .first = i});
  add_source(module, "row", 0, 2, (int64_t[]){1, D}, (ir_source){.pattern = "types", .run = 1, .step = 1, .first = 1});
  static const tensor_plan plan[] = {{"types", 2, {2, D}, TYPE_F16}};
  dp_str s = build_gguf(plan, 1);
  rt_weights_file *file = open_memory(&s);
  rt_binding *binding;
  dp_status status = rt_bind_weights(module, file, RT_BIND_STRICT, &binding);
  ck_assert_msg(status.code == DP_OK, "%s", dp_status_text(&status));
  for (int w = 0; w < 3; w++) {
    float row[D];
    rt_bound_to_f32(rt_binding_get(binding, w, 0), row);
    ck_assert_int_eq(rt_binding_get(binding, w, 0)->vector, w < 2);
    for (int i = 0; i < D; i++) ck_assert_float_eq(row[i], stored(rt_weights_find(file, "types"), (w > 0) * D + i));
  }
  rt_binding_free(binding);
  rt_weights_close(file);
  dp_str_free(&s);
  ir_module_free(module);
}
END_TEST

START_TEST(what_no_file_has_may_be_filled_with_a_number) {
  ir_module *module = ir_module_new("filled");
  ir_weight *bias = add_source(module, "bias", 1, 2, (int64_t[]){LAYERS, D}, (ir_source){.pattern = "b.{}", .plus = 3});
  bias->filled = true, bias->fill = 0.1;
  static const tensor_plan none[] = {{"other", 1, {D}, TYPE_F32}},
                           some[] = {{"b.0", 1, {D}, TYPE_F32}, {"b.2", 1, {D}, TYPE_F32}};
  dp_str s = build_gguf(none, 1);
  rt_weights_file *file = open_memory(&s);
  rt_binding *binding;
  ck_assert_int_eq(rt_bind_weights(module, file, 0, &binding).code, DP_OK);
  ck_assert_uint_eq(module->weights[0].storage, 1u << IR_f32);
  ck_assert_int_eq(rt_binding_layers(binding, 0), LAYERS);
  for (int layer = 0; layer < LAYERS; layer++) {
    float row[D];
    rt_bound_to_f32(rt_binding_get(binding, 0, layer), row);
    for (int i = 0; i < D; i++) ck_assert_float_eq(row[i], 0.1f); /* nothing is added to it */
  }
  rt_binding_free(binding);
  rt_weights_close(file);
  dp_str_free(&s);
  module->weights[0].storage = 0;
  check_not_bound(module, some, 2, 0, "bias, layer 1: no tensor 'b.{}'");
  ir_module_free(module);
}
END_TEST

START_TEST(windows_that_do_not_fit_are_refused) {
  static const tensor_plan plan[] = {{"w.0", 2, {10, D}, TYPE_Q8_0},
                                     {"w.1", 2, {9, D}, TYPE_Q8_0},
                                     {"v", 1, {10}, TYPE_F32},
                                     {"t", 2, {D, 10}, TYPE_F32},
                                     {"q", 2, {10, D}, TYPE_Q8_0}};
  static const struct {
    int stack, rank;
    int64_t dims[4];
    ir_source source;
    const char *parts;
  } cases[] = {
      {1,
       3,
       {2, 4, D},
       {.pattern = "w.{}", .run = 2, .step = 6, .first = 2},
       "w, layer 1: tensor 'w.{}' has 9 rows, the model wants 4 of it from 2 on"},
      {1, 3, {2, 4, D}, {.pattern = "w.{}", .run = 2, .step = INT64_MAX}, "layer 0|10 rows|layer 1|9 rows"},
      {1, 3, {2, 4, D}, {.pattern = "w.{}", .run = 4, .step = 4, .first = INT64_MAX}, "10 rows"},
      {1, 3, {2, 4, D}, {.pattern = "w.{}", .run = 4, .step = 3}, "its window of rows is none"},
      {1, 3, {2, 4, D}, {.pattern = "w.{}", .run = 4, .step = 4, .first = -1}, "its window of rows is none"},
      {1,
       3,
       {2, 4, 32},
       {.pattern = "w.{}", .run = 4, .step = 4},
       "has shape [10, 64], the model wants rows of it for [4, 32]"},
      {1, 3, {2, 4, D}, {.pattern = "w.{}"}, "has shape [10, 64], the model wants [4, 64]"},
      {0, 1, {4}, {.pattern = "v", .run = 4, .step = 4, .first = 7}, "10 elements"},
      {0, 1, {10}, {.pattern = "v", .transposed = true}, "a vector cannot be transposed"},
      {0, 2, {4, D}, {.pattern = "t", .transposed = true, .run = 1, .step = 4}, "10 columns"},
      {0, 2, {4, D}, {.pattern = "t", .transposed = true}, "has shape [64, 10], the model wants [64, 4]"},
      {0, 2, {D, 10}, {.pattern = "q", .transposed = true}, "q8_0, which cannot be read transposed"},
      {0, 2, {4, D}, {.pattern = "t", .plus = 1}, "only to a vector"},
      {2, 4, {2, 3, 4, D}, {.pattern = "w.{}"}, "layers 0.0-0.2|the model wants [3, 4, 64]"},
      {2, 4, {2, 3, 4, D}, {.pattern = "w.{}.{}"}, "no tensor 'w.{}.{}'"},
      {2, 4, {1 << 20, 3, 4, D}, {.pattern = "w.{}"}, "stacked more than a million times"},
  };
  for (size_t i = 0; i < DP_COUNT(cases); i++) {
    ir_module *module = ir_module_new("windows");
    add_source(module, "w", cases[i].stack, cases[i].rank, cases[i].dims, cases[i].source);
    check_not_bound(module, plan, DP_COUNT(plan), 0, cases[i].parts);
    ir_module_free(module);
  }
}
END_TEST

/* ---- random weights ---------------------------------------------------------------------------------------------- */

START_TEST(random_weights_depend_on_seed_name_layer_and_index_only) {
  ir_module *module = small_model(), *other = ir_module_new("other");
  rt_binding *one, *again, *alone, *seeded;
  ck_assert_int_eq(rt_bind_random(module, 7, IR_f32, &one).code, DP_OK);
  ck_assert_int_eq(rt_bind_random(module, 7, IR_q8_0, &again).code, DP_OK);
  ck_assert_int_eq(rt_bind_random(module, 8, IR_f32, &seeded).code, DP_OK);
  add_weight(other, "wq", true, 3, (int64_t[]){LAYERS, D, D}, NULL, 0, 0);
  ck_assert_int_eq(rt_bind_random(other, 7, IR_f32, &alone).code, DP_OK);
  ck_assert_uint_eq(other->weights[0].storage, 1u << IR_f32);
  for (int layer = 0; layer < LAYERS; layer++)
    ck_assert_mem_eq(rt_binding_get(one, 2, layer)->data, rt_binding_get(alone, 0, layer)->data, D * D * 4);
  ck_assert(memcmp(rt_binding_get(one, 2, 0)->data, rt_binding_get(one, 2, 1)->data, D * D * 4) != 0);
  ck_assert(memcmp(rt_binding_get(one, 2, 0)->data, rt_binding_get(seeded, 2, 0)->data, D * D * 4) != 0);
  ck_assert_ptr_eq(rt_binding_get(one, 4, 0), rt_binding_get(one, 0, 0));
  /* Stored as q8_0: the same numbers, rounded. 1-D weights stay f32. */
  ck_assert(rt_binding_get(again, 2, 0)->dtype == IR_q8_0 && rt_binding_get(again, 1, 0)->dtype == IR_f32);
  float exact[D * D], rounded[D * D], norm[D];
  rt_bound_to_f32(rt_binding_get(one, 2, 0), exact);
  rt_bound_to_f32(rt_binding_get(again, 2, 0), rounded);
  double sum = 0, squares = 0;
  for (int i = 0; i < D * D; i++) {
    ck_assert_float_eq_tol(exact[i], rounded[i], 0.002f);
    sum += exact[i], squares += (double)exact[i] * exact[i];
  }
  ck_assert_double_eq_tol(sum / (D * D), 0, 0.01);
  ck_assert_double_eq_tol(sqrt(squares / (D * D)), 1 / sqrt(D), 0.005);
  rt_bound_to_f32(rt_binding_get(one, 1, 2), norm);
  for (int i = 0; i < D; i++) ck_assert_float_eq_tol(norm[i], 1, 0.0625f);
  /* The same on every machine and in every version. */
  ck_assert_float_eq(exact[0], 0x1.528332p-3f);
  ck_assert_float_eq(exact[D * D - 1], 0x1.540b7ep-4f);
  rt_binding_free(one);
  rt_binding_free(again);
  rt_binding_free(alone);
  rt_binding_free(seeded);
  ir_module_free(other);
  ir_module_free(module);
}
END_TEST

/* One large enough for several threads and one that one thread makes: the same rows. */
START_TEST(random_weights_do_not_depend_on_threads) {
  enum { COLS = 1024, ROWS = 1000, MANY = 8000 };
  ir_module *small = ir_module_new("small"), *large = ir_module_new("large");
  rt_binding *one, *several;
  add_weight(small, "w", false, 2, (int64_t[]){ROWS, COLS}, NULL, 0, 0);
  add_weight(large, "w", false, 2, (int64_t[]){MANY, COLS}, NULL, 0, 0);
  ck_assert_int_eq(rt_bind_random(small, 7, IR_f32, &one).code, DP_OK);
  ck_assert_int_eq(rt_bind_random(large, 7, IR_f32, &several).code, DP_OK);
  const float *rows = rt_binding_get(several, 0, 0)->data;
  ck_assert_mem_eq(rows, rt_binding_get(one, 0, 0)->data, sizeof *rows * ROWS * COLS);
  for (int r = ROWS; r < MANY; r++) {
    ck_assert(memcmp(rows + (size_t)r * COLS, rows + (size_t)(r - ROWS) * COLS, sizeof *rows * COLS) != 0);
    ck_assert(rows[(size_t)r * COLS + COLS - 1] != 0);
  }
  rt_binding_free(one);
  rt_binding_free(several);
  ir_module_free(small);
  ir_module_free(large);
}
END_TEST

START_TEST(random_weights_refuse_what_cannot_be_stored) {
  ir_module *module = ir_module_new("odd");
  rt_binding *binding;
  add_weight(module, "w", false, 2, (int64_t[]){4, 33}, NULL, 0, 0);
  dp_status status = rt_bind_random(module, 1, IR_q4_0, &binding);
  ck_assert(status.code == DP_INVALID && !binding && strstr(dp_status_text(&status), "'w' has rows of 33"));
  dp_status_free(&status);
  status = rt_bind_random(module, 1, IR_i32, &binding);
  ck_assert_int_eq(status.code, DP_INVALID);
  dp_status_free(&status);
  module->weights[0].type.dims[0] = ir_symbol_dim("T");
  status = rt_bind_random(module, 1, IR_f32, &binding);
  ck_assert(status.code == DP_INVALID && strstr(dp_status_text(&status), "not fixed"));
  dp_status_free(&status);
  ir_module_free(module);
}
END_TEST

/* ---- saving ------------------------------------------------------------------------------------------------------ */

START_TEST(saved_weights_come_back_under_their_first_names) {
  ir_module *module = small_model(), *back = small_model();
  tensor_plan plan[DP_COUNT(good_plan) + LAYERS];
  memcpy(plan, good_plan, sizeof good_plan);
  static const char *const biases[] = {"blk.0.attn_q.bias", "blk.1.attn_q.bias", "blk.2.attn_q.bias"};
  static const uint32_t types[] = {TYPE_F32, TYPE_Q8_0, TYPE_F16};
  for (int i = 0; i < LAYERS; i++) plan[DP_COUNT(good_plan) + (size_t)i] = (tensor_plan){biases[i], 1, {D}, types[i]};
  dp_str s = build_gguf(plan, DP_COUNT(plan));
  rt_weights_file *file = open_memory(&s), *saved;
  rt_binding *binding, *again;
  ck_assert_int_eq(rt_bind_weights(module, file, RT_BIND_STRICT, &binding).code, DP_OK);
  static const ir_dtype dtypes[] = {IR_f32, IR_bf16, IR_f16};
  for (size_t t = 0; t < DP_COUNT(dtypes); t++) {
    char path[128];
    dp_status status = rt_save_weights(path_of("model.safetensors", path), module, binding, dtypes[t]);
    ck_assert_msg(status.code == DP_OK, "%s", dp_status_text(&status));
    status = rt_weights_open(path, &saved);
    ck_assert_msg(status.code == DP_OK, "%s", dp_status_text(&status));
    ck_assert_int_eq(rt_weights_tensor_count(saved), 1 + 3 * LAYERS); /* no tied head */
    ck_assert_str_eq(rt_weights_string(saved, "__metadata__.format"), "pt");
    ck_assert_uint_eq(rt_weights_tensor(saved, 0)->offset % 8, 0);
    ck_assert_ptr_nonnull(rt_weights_find(saved, "model.layers.2.self_attn.q_proj.weight"));
    status = rt_bind_weights(back, saved, RT_BIND_STRICT, &again);
    ck_assert_msg(status.code == DP_OK, "%s", dp_status_text(&status));
    for (int w = 0; w < module->weight_count; w++) {
      for (int64_t layer = 0; layer < rt_binding_layers(binding, w); layer++) {
        const rt_bound *from = rt_binding_get(binding, w, layer), *to = rt_binding_get(again, w, layer);
        ck_assert_int_eq(to->paired_heads, 0);
        float a[D], b[D];
        for (int64_t row = 0; row < from->rows; row++) {
          rt_bound_row(from, row, a);
          rt_bound_row(to, row, b);
          if (dtypes[t] == IR_bf16)
            for (int i = 0; i < D; i++) a[i] = rt_bf16_to_f32(rt_f32_to_bf16(a[i]));
          if (dtypes[t] == IR_f16)
            for (int i = 0; i < D; i++) a[i] = rt_f16_to_f32(rt_f32_to_f16(a[i]));
          for (int i = 0; i < D; i++)
            ck_assert_msg(a[i] == b[i], "%s, layer %d: element (%d, %d) is %a, not %a", module->weights[w].name,
                          (int)layer, (int)row, i, b[i], a[i]);
        }
      }
    }
    rt_binding_free(again);
    rt_weights_close(saved);
  }
  ck_assert_int_eq(files_in_folder(), 1);
  rt_binding_free(binding);
  rt_weights_close(file);
  dp_str_free(&s);
  ir_module_free(module);
  ir_module_free(back);
}
END_TEST

START_TEST(weights_saved_with_rotation_pairs_are_read_back_in_order) {
  /* The first source is the paired one: what is written must be paired again. */
  static const char *const names[] = {"q.{}", "bias.{}"};
  ir_module *module = ir_module_new("pairs");
  add_weight(module, "q", true, 3, (int64_t[]){2, D, 32}, &names[0], 1, HEADS);
  add_weight(module, "b", true, 2, (int64_t[]){2, D}, &names[1], 1, HEADS);
  rt_binding *binding, *again;
  rt_weights_file *saved;
  char path[128];
  ck_assert_int_eq(rt_bind_random(module, 3, IR_f32, &binding).code, DP_OK);
  ck_assert_int_eq(rt_save_weights(path_of("p.safetensors", path), module, binding, IR_f32).code, DP_OK);
  ck_assert_int_eq(rt_weights_open(path, &saved).code, DP_OK);
  ck_assert_int_eq(rt_bind_weights(module, saved, RT_BIND_STRICT, &again).code, DP_OK);
  for (int layer = 0; layer < 2; layer++) {
    float a[D * 32], b[D * 32];
    ck_assert_int_eq(rt_binding_get(again, 0, layer)->paired_heads, HEADS);
    rt_bound_to_f32(rt_binding_get(binding, 0, layer), a);
    rt_bound_to_f32(rt_binding_get(again, 0, layer), b);
    ck_assert_mem_eq(a, b, sizeof a);
    ck_assert(memcmp(rt_binding_get(binding, 0, layer)->data, rt_binding_get(again, 0, layer)->data, sizeof a) != 0);
    rt_bound_to_f32(rt_binding_get(binding, 1, layer), a);
    rt_bound_to_f32(rt_binding_get(again, 1, layer), b);
    ck_assert_mem_eq(a, b, D * sizeof *a);
  }
  rt_binding_free(again);
  rt_weights_close(saved);
  rt_binding_free(binding);
  ir_module_free(module);
}
END_TEST

static void check_same_elements(const ir_module *module, const rt_binding *a, const rt_binding *b, float tolerance) {
  for (int w = 0; w < module->weight_count; w++) {
    ck_assert_int_eq(rt_binding_layers(a, w), rt_binding_layers(b, w));
    for (int64_t index = 0; index < rt_binding_layers(a, w); index++) {
      const rt_bound *from = rt_binding_get(a, w, index), *to = rt_binding_get(b, w, index);
      float x[256], y[256];
      for (int64_t row = 0; row < from->rows; row++) {
        rt_bound_row(from, row, x);
        rt_bound_row(to, row, y);
        for (int64_t i = 0; i < from->cols; i++)
          ck_assert_msg(fabsf(x[i] - y[i]) <= tolerance, "%s, %d: element (%d, %d) is %a, not %a",
                        module->weights[w].name, (int)index, (int)row, (int)i, y[i], x[i]);
      }
    }
  }
}

START_TEST(what_was_read_through_windows_is_saved_whole) {
  ir_module *module = crowded_model();
  dp_str s = crowded_file(TYPE_Q8_0, TYPE_BF16);
  rt_weights_file *file = open_memory(&s), *saved;
  rt_binding *binding, *again;
  char path[128];
  for (int random = 0; random < 2; random++) {
    dp_status status =
        random ? rt_bind_random(module, 5, IR_f32, &binding) : rt_bind_weights(module, file, RT_BIND_STRICT, &binding);
    ck_assert_msg(status.code == DP_OK, "%s", dp_status_text(&status));
    status = rt_save_weights(path_of("w.safetensors", path), module, binding, IR_f32);
    ck_assert_msg(status.code == DP_OK, "%s", dp_status_text(&status));
    ck_assert_int_eq(rt_weights_open(path, &saved).code, DP_OK);
    ck_assert_int_eq(rt_weights_tensor_count(saved), rt_weights_tensor_count(file));
    for (int i = 0; i < rt_weights_tensor_count(saved) && !random; i++) { /* each tensor as it was */
      const rt_tensor *now = rt_weights_tensor(saved, i), *before = rt_weights_find(file, now->name);
      ck_assert_msg(before && before->elements == now->elements, "%s", now->name);
      for (int64_t e = 0; e < now->elements; e++)
        ck_assert_msg(stored(now, e) == stored(before, e), "%s: element %d", now->name, (int)e);
    }
    status = rt_bind_weights(module, saved, RT_BIND_STRICT, &again);
    ck_assert_msg(status.code == DP_OK, "%s", dp_status_text(&status));
    /* Less 0.1 and plus 0.1 is not always the same number again: only what a file held comes back exactly. */
    check_same_elements(module, binding, again, random ? 0x1p-26f : 0);
    rt_binding_free(again);
    rt_weights_close(saved);
    rt_binding_free(binding);
  }
  rt_weights_close(file);
  dp_str_free(&s);
  ir_module_free(module);
}
END_TEST

START_TEST(a_tensor_that_the_weights_do_not_make_whole_is_not_saved) {
  ir_module *module = ir_module_new("part");
  rt_binding *binding;
  char path[128];
  add_source(module, "a", 0, 2, (int64_t[]){2, D}, (ir_source){.pattern = "t", .run = 2, .step = 6});
  add_source(module, "b", 0, 2, (int64_t[]){2, D}, (ir_source){.pattern = "t", .run = 2, .step = 6, .first = 3});
  ck_assert_int_eq(rt_bind_random(module, 1, IR_f32, &binding).code, DP_OK);
  path_of("p.safetensors", path);
  check_message(rt_save_weights(path, module, binding, IR_f32), DP_UNSUPPORTED, "no weight|row 2 of the tensor 't'");
  module->weights[1].sources[0].first = 1;
  check_message(rt_save_weights(path, module, binding, IR_f32), DP_UNSUPPORTED, "more than one|row 1 of");
  module->weights[1].sources[0] = (ir_source){.pattern = "t", .transposed = true};
  check_message(rt_save_weights(path, module, binding, IR_f32), DP_UNSUPPORTED, "'t' do not make one together");
  ck_assert_int_eq(files_in_folder(), 0);
  rt_binding_free(binding);
  ir_module_free(module);
}
END_TEST

static dp_status fill_counting(const void *context, int64_t first, int64_t count, void *dst) {
  int64_t cols = *(const int64_t *)context;
  for (int64_t i = 0; i < count * cols; i++) {
    float value = (float)(first * cols + i);
    memcpy((uint8_t *)dst + 4 * i, &value, 4);
  }
  return DP_SUCCESS;
}

static dp_status fill_failing(const void *context, int64_t first, int64_t count, void *dst) {
  (void)context, (void)count;
  *(uint8_t *)dst = 0;
  return first > 0 ? dp_fail(DP_CANCELLED, "stopped") : DP_SUCCESS;
}

START_TEST(tensors_are_streamed_and_a_failed_save_leaves_nothing) {
  char path[128];
  int64_t cols = 1000, wide = 1 << 20;
  int32_t ids[3] = {1, -2, 3};
  rt_save_tensor tensors[] = {
      {.name = "many \"rows\" \xc3\xa9",
       .dtype = IR_f32,
       .rank = 3,
       .dims = {3, 200, 1000},
       .fill = fill_counting,
       .context = &cols},
      {.name = "ids", .dtype = IR_i32, .rank = 1, .dims = {3}, .data = ids},
      {.name = "empty", .dtype = IR_f16, .rank = 2, .dims = {0, 4}},
      {.name = "wide", .dtype = IR_f32, .rank = 1, .dims = {1 << 20}, .fill = fill_counting, .context = &wide},
  };
  dp_status status = rt_save_safetensors(path_of("t.safetensors", path), tensors, DP_COUNT(tensors));
  ck_assert_msg(status.code == DP_OK, "%s", dp_status_text(&status));
  rt_weights_file *file;
  ck_assert_int_eq(rt_weights_open(path, &file).code, DP_OK);
  const rt_tensor *many = rt_weights_find(file, tensors[0].name);
  for (int64_t i = 0; i < many->elements; i++) {
    float value;
    memcpy(&value, many->data + 4 * i, 4);
    ck_assert_msg(value == (float)i, "element %d is %g", (int)i, value);
  }
  ck_assert_mem_eq(rt_weights_find(file, "ids")->data, ids, sizeof ids);
  ck_assert_int_eq(rt_weights_find(file, "empty")->elements, 0);
  ck_assert_int_eq(rt_weights_find(file, "wide")->elements, 1 << 20);
  rt_weights_close(file);
  struct stat before, after;
  ck_assert_int_eq(stat(path, &before), 0);

  tensors[0].fill = fill_failing;
  status = rt_save_safetensors(path, tensors, DP_COUNT(tensors));
  ck_assert_int_eq(status.code, DP_CANCELLED);
  dp_status_free(&status);
  tensors[0].fill = fill_counting;
  /* A full disk, as a limit on the size of files makes it. */
  struct rlimit old, small;
  ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &old), 0);
  small = old;
  small.rlim_cur = 100000;
  void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
  ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &small), 0);
  status = rt_save_safetensors(path, tensors, DP_COUNT(tensors));
  ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &old), 0);
  signal(SIGXFSZ, handler);
  ck_assert_int_eq(status.code, DP_IO);
  ck_assert_msg(strstr(dp_status_text(&status), path), "%s", dp_status_text(&status));
  dp_status_free(&status);

  tensors[1].name = "empty";
  status = rt_save_safetensors(path, tensors, DP_COUNT(tensors));
  ck_assert(status.code == DP_INVALID && strstr(dp_status_text(&status), "two tensors are named 'empty'"));
  dp_status_free(&status);
  tensors[1].name = "__metadata__";
  status = rt_save_safetensors(path, tensors, DP_COUNT(tensors));
  ck_assert_int_eq(status.code, DP_INVALID);
  dp_status_free(&status);
  tensors[1].name = "ids", tensors[1].dtype = IR_q8_0;
  status = rt_save_safetensors(path, tensors, DP_COUNT(tensors));
  ck_assert(status.code == DP_INVALID && strstr(dp_status_text(&status), "q8_0"));
  dp_status_free(&status);
  status = rt_save_safetensors("/nowhere/at/all.safetensors", tensors, 1);
  ck_assert_int_eq(status.code, DP_IO);
  dp_status_free(&status);
  ck_assert_int_eq(files_in_folder(), 1);
  ck_assert_int_eq(stat(path, &after), 0);
  ck_assert_uint_eq(before.st_ino, after.st_ino); /* the old file stands untouched */
}
END_TEST

int main(void) {
  Suite *suite = suite_create("weights_bind");
  TCase *binding = tcase_create("binding");
  tcase_add_test(binding, a_model_gets_every_layer_of_every_weight);
  tcase_add_test(binding, one_tensor_may_hold_all_layers);
  tcase_add_test(binding, everything_that_does_not_fit_is_told_at_once);
  tcase_add_test(binding, extra_tensors_are_noted_and_refused_only_when_strict);
  tcase_add_test(binding, ties_that_cannot_hold_are_refused);
  tcase_add_test(binding, every_way_of_keeping_weights_is_read_as_it_is_described);
  tcase_add_test(binding, rows_that_lie_in_order_are_plain);
  tcase_add_test(binding, a_vector_may_be_a_row_of_a_matrix);
  tcase_add_test(binding, what_no_file_has_may_be_filled_with_a_number);
  tcase_add_test(binding, windows_that_do_not_fit_are_refused);
  tcase_add_test(binding, random_weights_depend_on_seed_name_layer_and_index_only);
  tcase_add_test(binding, random_weights_do_not_depend_on_threads);
  tcase_add_test(binding, random_weights_refuse_what_cannot_be_stored);
  suite_add_tcase(suite, binding);
  TCase *saving = tcase_create("saving");
  tcase_add_checked_fixture(saving, make_folder, remove_folder);
  tcase_add_test(saving, saved_weights_come_back_under_their_first_names);
  tcase_add_test(saving, weights_saved_with_rotation_pairs_are_read_back_in_order);
  tcase_add_test(saving, what_was_read_through_windows_is_saved_whole);
  tcase_add_test(saving, a_tensor_that_the_weights_do_not_make_whole_is_not_saved);
  tcase_add_test(saving, tensors_are_streamed_and_a_failed_save_leaves_nothing);
  suite_add_tcase(suite, saving);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed ? 1 : 0;
}
