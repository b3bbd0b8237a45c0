/* tests/test_tile.c: what tile ops compute (interpreter against plain f64), that all back ends compute the same bits,
 * and what the checker finds. Set DIPPER_TEST_SEEDS for more random programs than the usual few. */
#include "codegen/codegen.h"
#include "codegen/interp/interp.h"
#include "tests/tile_fixture.h"

#include <check.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t seed_count(void) {
  const char *asked = getenv("DIPPER_TEST_SEEDS");
  return asked ? strtoull(asked, NULL, 10) : 12;
}

static tile_code *must_build(const cg_backend *backend, const tile_program *program) {
  tile_code *code;
  dp_status status = cg_build(backend, program, NULL, NULL, &code, NULL, NULL);
  ck_assert_msg(status.code == DP_OK, "%s: %s", backend->name, dp_status_text(&status));
  return code;
}

static void must_run(fixture *f, const cg_backend *backend) {
  tile_code *code = must_build(backend, f->program);
  dp_str why = {0};
  bool sound = fixture_run(f, code, &why);
  ck_assert_msg(sound, "%s, %s seed %" PRIu64 ": %s", backend->name, f->program->name, f->seed,
                why.text ? why.text : "");
  dp_str_free(&why);
  code->free(code);
}

/* Built and run by the interpreter. */
static fixture *interpreted(const char *name, uint64_t seed) {
  ck_assert_int_ge(fixture_find(name), 0);
  fixture *f = fixture_build(fixture_find(name), seed);
  must_run(f, cg_find_backend("interp"));
  return f;
}

static void ck_near(const fixture *f, int buffer, int64_t row, int64_t col, double expected, double tolerance) {
  double found = (double)fixture_element(f, buffer, row, col);
  ck_assert_msg(fabs(found - expected) <= tolerance,
                "%s seed %" PRIu64 ": %s[%" PRId64 ", %" PRId64 "] is %.9g, expected %.9g within %.3g",
                f->program->name, f->seed, f->program->buffers[buffer].name, row, col, found, expected, tolerance);
}

static void ck_bits(const fixture *f, int buffer, int64_t row, int64_t col, float expected) {
  float found = fixture_element(f, buffer, row, col);
  bool same = memcmp(&found, &expected, 4) == 0 || (isnan(found) && isnan(expected));
  ck_assert_msg(same, "%s seed %" PRIu64 ": %s[%" PRId64 ", %" PRId64 "] is %a, expected %a", f->program->name, f->seed,
                f->program->buffers[buffer].name, row, col, (double)found, (double)expected);
}

/* ---- what the ops compute */

static const char *const products[] = {"matmul_f32",  "matmul_f16",  "matmul_bf16",
                                       "matmul_q8_0", "matmul_q4_0", "matmul_q4_1",
                                       "matmul_q5_0", "matmul_q5_1", "matmul_q2_k", "matmul_q3_k", "matmul_q4_k",
                                       "matmul_q5_k", "matmul_q6_k", "matmul_iq4_nl", "matmul_mxfp4", "matmul_int4"};

START_TEST(products_of_every_storage_type_match_f64) {
  for (uint64_t seed = 0; seed < seed_count(); seed++) {
    fixture *f = interpreted(products[_i], seed);
    const tile_weight *w = &f->program->weights[f->part.weight];
    for (int64_t r = 0; r < f->step.rows[TILE_TOKENS]; r++) {
      for (int64_t n = 0; n < w->rows; n++) {
        double sum = 0, size = 0;
        for (int64_t k = 0; k < w->cols; k++) {
          double term = (double)fixture_element(f, f->part.x, r, k) * f->weights[w->first_slot][n * w->cols + k];
          sum += term;
          size += fabs(term);
        }
        ck_near(f, f->part.y, r, n, sum, size * (double)(w->cols + 2) * 0x1p-24);
      }
    }
    fixture_free(f);
  }
}
END_TEST

/* 16 lanes in order, then halves folded onto each other, written out. */
static float lane_sum(const float *x, int64_t count) {
  float lane[16] = {0};
  for (int64_t i = 0; i < count; i++) lane[i % 16] = lane[i % 16] + x[i];
  for (int i = 0; i < 8; i++) lane[i] = lane[i] + lane[i + 8];
  for (int i = 0; i < 4; i++) lane[i] = lane[i] + lane[i + 4];
  return (lane[0] + lane[2]) + (lane[1] + lane[3]);
}

START_TEST(reductions_take_sixteen_lanes_and_the_tree) {
  for (uint64_t seed = 0; seed < seed_count(); seed++) {
    fixture *f = interpreted("reduce", seed);
    int64_t n = f->program->buffers[f->part.x].cols, grouped = f->program->buffers[f->part.y].cols, size = f->part.dim;
    for (int64_t r = 0; r < f->step.rows[TILE_TOKENS]; r++) {
      float row[256], most = -INFINITY;
      double sum = 0;
      for (int64_t c = 0; c < n; c++) {
        row[c] = fixture_element(f, f->part.x, r, c);
        sum += (double)row[c];
        most = fmaxf(most, row[c]);
      }
      ck_bits(f, f->part.o, r, 0, lane_sum(row, n));
      ck_near(f, f->part.o, r, 0, sum, (double)n * 0x1p-20);
      ck_bits(f, f->part.q, r, 0, most);
      for (int64_t c = 0; c < grouped; c++) row[c] = fixture_element(f, f->part.y, r, c);
      for (int64_t g = 0; g < grouped / size; g++) ck_bits(f, f->part.k, r, g, lane_sum(row + g * size, size));
    }
    fixture_free(f);
  }
}
END_TEST

START_TEST(arithmetic_rounds_once_and_keeps_the_first_of_equals) {
  for (uint64_t seed = 0; seed < seed_count(); seed++) {
    fixture *f = interpreted("elementwise", seed);
    for (int64_t r = 0; r < f->step.rows[TILE_TOKENS]; r++) {
      for (int64_t c = 0; c < f->part.dim; c++) {
        float x = fixture_element(f, f->part.x, r, c), y = fixture_element(f, f->part.y, r, c);
        struct {
          const char *name;
          float value;
        } expected[] = {{"neg", -x},
                        {"sqrt", sqrtf(x)},
                        {"rsqrt", 1.0f / sqrtf(x)},
                        {"relu", x < 0 ? 0.0f : x},
                        {"add", x + y},
                        {"sub", x - y},
                        {"mul", x * y},
                        {"div", x / y},
                        {"max", x < y ? y : x},
                        {"min", y < x ? y : x}};
        for (size_t i = 0; i < DP_COUNT(expected); i++) {
          tile_opcode code;
          ck_assert(tile_scalar_parse(expected[i].name, &code));
          int64_t at = 0;
          for (int before = 0; before < (int)code; before++) at += tile_scalar_arity((tile_opcode)before) != 0;
          ck_bits(f, f->part.output, r, at * f->part.dim + c, expected[i].value);
        }
      }
    }
    fixture_free(f);
  }
}
END_TEST

START_TEST(rotation_turns_the_halves_of_each_head) {
  for (uint64_t seed = 0; seed < seed_count(); seed++) {
    fixture *f = interpreted("rotate", seed);
    int64_t dim = f->part.dim, half = dim / 2, n = f->program->buffers[f->part.x].cols;
    for (int64_t r = 0; r < f->step.rows[TILE_TOKENS]; r++) {
      for (int64_t c = 0; c < n; c++) {
        int64_t i = c % dim % half, first = c / dim * dim + i;
        double angle = f->step.positions[r] * pow(10000.0, -2.0 * (double)i / (double)dim);
        double a = (double)fixture_element(f, f->part.x, r, first),
               b = (double)fixture_element(f, f->part.x, r, first + half);
        double expected = c % dim < half ? a * cos(angle) - b * sin(angle) : b * cos(angle) + a * sin(angle);
        ck_near(f, f->part.output, r, c, expected, 1e-6 + 1e-7 * f->step.positions[r]); /* f32 frequencies */
      }
    }
    fixture_free(f);
  }
}
END_TEST

START_TEST(embedding_rows_are_the_decoded_weights) {
  for (uint64_t seed = 0; seed < seed_count(); seed++) {
    fixture *f = interpreted("embed", seed);
    for (int i = 0; i < f->program->weight_count; i++) {
      const tile_weight *w = &f->program->weights[i];
      for (int64_t r = 0; r < f->step.rows[TILE_TOKENS]; r++)
        for (int64_t c = 0; c < w->cols; c++)
          ck_bits(f, i, r, c, (float)f->weights[w->first_slot][f->step.inputs[0][r] * w->cols + c]);
    }
    fixture_free(f);
  }
}
END_TEST

START_TEST(column_tiles_take_their_part_of_vectors) {
  for (uint64_t seed = 0; seed < seed_count(); seed++) {
    fixture *f = interpreted("columns", seed);
    for (int64_t r = 0; r < f->step.rows[TILE_TOKENS]; r++)
      for (int64_t c = 0; c < f->program->buffers[f->part.x].cols; c++)
        ck_bits(f, f->part.output, r, c, fixture_element(f, f->part.x, r, c) * (float)f->weights[0][c]);
    fixture_free(f);
  }
}
END_TEST

/* x is overwritten by x + y before the norm of the sum is taken, and before y becomes x - (x + y). */
START_TEST(values_outlive_the_buffer_they_came_from) {
  for (uint64_t seed = 0; seed < seed_count(); seed++) {
    fixture *before = fixture_build(fixture_find("in_place"), seed), *f = interpreted("in_place", seed);
    int64_t n = f->program->buffers[f->part.x].cols;
    for (int64_t r = 0; r < f->step.rows[TILE_TOKENS]; r++) {
      double squares = 0;
      for (int64_t c = 0; c < n; c++) squares += pow((double)fixture_element(f, f->part.x, r, c), 2);
      for (int64_t c = 0; c < n; c++) {
        float x = fixture_element(before, f->part.x, r, c), sum = x + fixture_element(before, f->part.y, r, c);
        ck_bits(f, f->part.x, r, c, sum);
        ck_bits(f, f->part.y, r, c, x - sum);
        ck_near(f, f->part.output, r, c, (double)sum / sqrt(squares / (double)n + 1e-5) * f->weights[0][c], 1e-5);
      }
    }
    fixture_free(before);
    fixture_free(f);
  }
}
END_TEST

START_TEST(chosen_rows_go_through_norm_and_head) {
  for (uint64_t seed = 0; seed < seed_count(); seed++) {
    fixture *f = interpreted("gather", seed);
    const tile_weight *head = &f->program->weights[f->part.weight];
    int64_t n = head->cols;
    for (int64_t r = 0; r < f->step.rows[TILE_OUTPUTS]; r++) {
      double row[128], squares = 0;
      for (int64_t c = 0; c < n; c++) {
        row[c] = (double)fixture_element(f, f->part.x, f->step.inputs[0][r], c);
        squares += row[c] * row[c];
      }
      for (int64_t c = 0; c < n; c++) row[c] *= f->weights[1][c] / sqrt(squares / (double)n + 1e-5);
      for (int64_t c = 0; c < n; c++) ck_near(f, f->part.y, r, c, row[c], 1e-5);
      for (int64_t i = 0; i < head->rows; i++) {
        double sum = 0;
        for (int64_t c = 0; c < n; c++) sum += row[c] * f->weights[0][i * n + c];
        ck_near(f, f->part.output, r, i, sum, 1e-4);
      }
    }
    fixture_free(f);
  }
}
END_TEST

/* Key or value element at a position of token t's sequence: from the past, or of this step. */
static double context(const fixture *f, int part, int64_t t, int64_t position, int64_t head, int64_t element) {
  int s = f->sequence[t], past = f->sequence_past[s];
  if (position < past) return (double)fixture_past(f, part, 0, s, position, head, element);
  int64_t dim = part ? f->part.value_dim : f->part.dim;
  return (double)fixture_element(f, part ? f->part.v : f->part.k, f->sequence_first[s] + position - past,
                                 head * dim + element);
}

static void check_attention_row(const fixture *f, int64_t t, int64_t head, int64_t member) {
  int64_t query = head * f->part.group + member, count = f->step.positions[t] + 1;
  double *weights = calloc((size_t)count, sizeof *weights), most = -INFINITY, total = 0;
  for (int64_t p = 0; p < count; p++) {
    for (int64_t e = 0; e < f->part.dim; e++)
      weights[p] += (double)fixture_element(f, f->part.q, t, query * f->part.dim + e) * context(f, 0, t, p, head, e);
    weights[p] /= sqrt((double)f->part.dim);
    most = fmax(most, weights[p]);
  }
  for (int64_t p = 0; p < count; p++) total += weights[p] = exp(weights[p] - most);
  for (int64_t e = 0; e < f->part.value_dim; e++) {
    double sum = 0;
    for (int64_t p = 0; p < count; p++) sum += weights[p] / total * context(f, 1, t, p, head, e);
    ck_near(f, f->part.o, t, query * f->part.value_dim + e, sum, 4e-6);
  }
  free(weights);
}

START_TEST(attention_matches_a_softmax_in_f64) {
  for (uint64_t seed = 0; seed < seed_count(); seed++) {
    fixture *f = interpreted("attention", seed);
    for (int64_t t = 0; t < f->step.rows[TILE_TOKENS]; t++)
      for (int64_t head = 0; head < f->part.heads; head++)
        for (int64_t member = 0; member < f->part.group; member++) check_attention_row(f, t, head, member);
    fixture_free(f);
  }
}
END_TEST

/* ---- scalar functions */

typedef struct function_bound {
  const char *name;
  double (*exact)(double);
  float low, high;
  double ulps;
} function_bound;

static double exact_sigmoid(double x) { return 1 / (1 + exp(-x)); }
static double exact_silu(double x) { return x / (1 + exp(-x)); }
static double exact_rsqrt(double x) { return 1 / sqrt(x); }
static double exact_gelu(double x) { return x * 0.5 * (1 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x))); }

static const function_bound functions[] = {
    {"exp", exp, -87.2f, 88.2f, 1.0},
    {"sqrt", sqrt, 0, 1e30f, 0.5001},
    {"rsqrt", exact_rsqrt, 1e-30f, 1e30f, 1.5},
    {"sigmoid", exact_sigmoid, -80, 80, 2.5},
    {"silu", exact_silu, -80, 80, 3.0},
    {"tanh", tanh, -20, 20, 3.5},
    {"gelu_tanh", exact_gelu, 0, 20, 4.0},
    {"cos", cos, -1e6f, 1e6f, 1.0},
    {"sin", sin, -1e6f, 1e6f, 1.0},
};

static double ulp_of(double x) {
  int exponent;
  frexp(x, &exponent);
  return ldexp(1, exponent - 24 < -149 ? -149 : exponent - 24);
}

/* A program of one function over [rows of 1024] of an output, so that what is measured is what every back end runs. */
static tile_program *function_program(tile_opcode code) {
  tile_program *p = tile_program_new("function");
  p->row_tile = 16;
  p->segment_tokens = 1;
  p->slab_bytes[TILE_TOKENS] = 16 * 1024 * 4;
  p->output_count = 1;
  DP_PUSH(p->arena, p->buffers, p->buffer_count, p->buffer_cap) =
      (tile_buffer){.name = "x", .cols = 1024, .stride = 1024, .output = -1};
  DP_PUSH(p->arena, p->buffers, p->buffer_count, p->buffer_cap) =
      (tile_buffer){.name = "y", .cols = 1024, .stride = 1024, .output = 0};
  tile_kind k = {.name = "function", .max_rows = 16, .group = 1, .batches = 1, .columns = 1024, .col_tile = 1024, .col_tasks = 1};
  tile_add_op(p, &k, (tile_op){.code = TILE_load, .ref = 0, .index = -1, .cols = 1024});
  tile_add_op(p, &k, (tile_op){.code = code, .cols = 1024, .index = -1});
  tile_add_op(p, &k, (tile_op){.code = TILE_store, .operands = {1}, .ref = 1, .index = -1, .cols = 1024});
  DP_PUSH(p->arena, p->kinds, p->kind_count, p->kind_cap) = k;
  DP_PUSH(p->arena, p->groups, p->group_count, p->group_cap) = (tile_group){0};
  DP_PUSH(p->arena, p->sections, p->section_count, p->section_cap) = (tile_section){0, 1, 1};
  return p;
}

/* Half of the points spread evenly, half by bits (near zero and at all sizes). */
static float sample(const function_bound *f, uint64_t i) {
  uint64_t bits = dp_hash(5, &i, sizeof i);
  double unit = (double)(bits >> 11) * 0x1p-53;
  if (i % 2) return (float)((double)f->low + unit * ((double)f->high - (double)f->low));
  float x;
  uint32_t low = (uint32_t)bits;
  memcpy(&x, &low, 4);
  return x >= f->low && x <= f->high ? x : (float)((double)f->high * unit);
}

START_TEST(functions_stay_near_libm) {
  enum { POINTS = 16 * 1024, ROUNDS = 100 };
  const function_bound *f = &functions[_i];
  tile_opcode opcode;
  ck_assert(tile_scalar_parse(f->name, &opcode));
  tile_program *program = function_program(opcode);
  tile_code *code = must_build(cg_find_backend("interp"), program);
  float *x = aligned_alloc(64, POINTS * 4), *y = aligned_alloc(64, POINTS * 4);
  float *const outputs[] = {y};
  tile_step step = {.outputs = outputs, .arena = {(char *)x}, .rows = {16, 0, 0}};
  void *scratch = aligned_alloc(64, (code->scratch_bytes + 63) / 64 * 64);
  double worst = 0, where = 0;
  for (uint64_t round = 0; round < ROUNDS; round++) {
    for (int i = 0; i < POINTS; i++) x[i] = sample(f, round * POINTS + (uint64_t)i);
    code->run(code, 0, &step, 0, 0, 0, scratch, 0);
    for (int i = 0; i < POINTS; i++) {
      double exact = f->exact((double)x[i]), error = fabs((double)y[i] - exact) / ulp_of(exact);
      if (fabs(exact) < 0x1p-126) error = 0; /* may be flushed */
      if (!(error <= worst)) worst = error, where = (double)x[i];
    }
  }
  if (getenv("DIPPER_TEST_VERBOSE")) printf("%s: %.3f units in the last place at %.9g\n", f->name, worst, where);
  ck_assert_msg(worst <= f->ulps, "%s is %.3f units in the last place off at %.9g (%a)", f->name, worst, where, where);
  free(x);
  free(y);
  free(scratch);
  code->free(code);
  tile_program_free(program);
}
END_TEST

/* ---- bits */

START_TEST(back_ends_agree_bit_for_bit) {
  for (uint64_t seed = 0; seed < seed_count(); seed++) {
    fixture *expected = fixture_build(_i, seed);
    must_run(expected, cg_find_backend("interp"));
    for (int i = 0; i < cg_backend_count(); i++) {
      fixture *f = fixture_build(_i, seed);
      f->random += 1; /* another order of the tasks than the interpreter's: it may not matter */
      must_run(f, cg_backend_at(i));
      dp_str why = {0};
      bool same = fixture_same(expected, f, &why);
      ck_assert_msg(same, "interp and %s differ: %s", cg_backend_at(i)->name, why.text ? why.text : "");
      dp_str_free(&why);
      fixture_free(f);
    }
    fixture_free(expected);
  }
}
END_TEST

/* Points the step of `f` at its token t alone. */
static void take_one_token(fixture *f, const tile_step *whole, int64_t t, int32_t *segment, const int32_t **inputs) {
  static const int32_t zero = 0, one = 1;
  for (int64_t s = 0; s < whole->rows[TILE_SEGMENTS]; s++)
    if (t >= whole->segment_row[s] && t < whole->segment_row[s] + whole->segment_tokens[s])
      *segment = whole->segment_pages[s];
  inputs[0] = whole->inputs[0] + t;
  inputs[1] = whole->inputs[1] + t;
  inputs[2] = &zero;
  f->step.inputs = inputs;
  f->step.positions = whole->positions + t;
  f->step.slots = whole->slots + t;
  f->step.segment_row = &zero;
  f->step.segment_tokens = &one;
  f->step.segment_pages = segment;
  for (int i = 0; i < TILE_SPACE_COUNT; i++) f->step.rows[i] = 1;
}

START_TEST(a_batch_gives_the_bits_of_its_tokens_one_by_one) {
  for (uint64_t seed = 0; seed < seed_count(); seed++) {
    fixture *batch = interpreted("llama", seed), *single = fixture_build(fixture_find("llama"), seed);
    tile_step whole = single->step;
    tile_code *code = must_build(cg_find_backend("interp"), single->program);
    for (int64_t t = 0; t < whole.rows[TILE_TOKENS]; t++) {
      const int32_t *inputs[3];
      int32_t segment = -1;
      take_one_token(single, &whole, t, &segment, inputs);
      dp_str why = {0};
      ck_assert(fixture_run(single, code, &why));
      for (int64_t r = 0; r < whole.rows[TILE_OUTPUTS]; r++) {
        if (whole.inputs[2][r] != t) continue;
        for (int64_t c = 0; c < single->program->buffers[single->part.output].cols; c++)
          ck_bits(batch, batch->part.output, r, c, fixture_element(single, single->part.output, 0, c));
      }
    }
    code->free(code);
    fixture_free(batch);
    fixture_free(single);
  }
}
END_TEST

/* ---- text */

static char *printed(const tile_program *program) {
  dp_str out = {0};
  tile_print(&out, program);
  ck_assert(!out.failed);
  return out.text;
}

/* A change of `field` must change the text: the compile cache knows a program by it. */
#define CK_TOLD_APART(field, change)                                                                                   \
  do {                                                                                                                 \
    char *before = printed(p);                                                                                         \
    __typeof__(field) kept = field;                                                                                    \
    field = change;                                                                                                    \
    char *after = printed(p);                                                                                          \
    ck_assert_msg(strcmp(before, after) != 0, "the text does not show " #field);                                       \
    field = kept;                                                                                                      \
    free(before);                                                                                                      \
    free(after);                                                                                                       \
  } while (0)

static void check_op_is_told_apart(tile_program *p, tile_op *op) {
  bool placed = op->code == TILE_load || op->code == TILE_store || op->code == TILE_append || op->code == TILE_mma ||
                op->code == TILE_vector || op->code == TILE_embed;
  if (op->code != TILE_loop && op->code != TILE_next && op->code != TILE_append) {
    CK_TOLD_APART(op->cols, op->cols + 1);
    CK_TOLD_APART(op->column_tile, !op->column_tile || op->code == TILE_mma_keys);
  }
  if (op->code != TILE_loop && op->code != TILE_next && op->code != TILE_store && op->code != TILE_append)
    CK_TOLD_APART(op->one_row, !op->one_row);
  if (tile_scalar_arity(op->code) || op->code == TILE_store || op->code == TILE_append || op->code == TILE_mma)
    CK_TOLD_APART(op->operands[0], op->operands[0] + 1);
  if (tile_scalar_arity(op->code) == 2 || op->code == TILE_rotate || op->code == TILE_mma_values)
    CK_TOLD_APART(op->operands[1], op->operands[1] + 1);
  if (placed) {
    CK_TOLD_APART(op->col_base, op->col_base + 16);
    CK_TOLD_APART(op->col_step, op->col_step + 16);
    CK_TOLD_APART(op->group_step, op->group_step + 16);
  }
  if (op->code == TILE_load || op->code == TILE_store) CK_TOLD_APART(op->index, op->index >= 0 ? -1 : 1);
  if (op->code == TILE_embed) CK_TOLD_APART(op->index, op->index + 1);
  if (placed && op->code != TILE_append) CK_TOLD_APART(op->ref, op->ref ? 0 : 1);
  if (op->code == TILE_input) CK_TOLD_APART(op->ref, op->ref ? 0 : 1);
  if (op->code == TILE_input) CK_TOLD_APART(op->part, !op->part);
  if (op->code == TILE_append) CK_TOLD_APART(op->part, !op->part);
  if (op->code == TILE_append || op->code == TILE_rotate) CK_TOLD_APART(op->dim, op->dim * 2);
  if (op->code == TILE_constant) CK_TOLD_APART(op->imm, nextafterf(op->imm, 1000));
  if (op->code == TILE_table)
    CK_TOLD_APART(((float *)(uintptr_t)op->data)[op->cols - 1], nextafterf(op->data[op->cols - 1], 9));
  if (op->code == TILE_next) CK_TOLD_APART(((int *)(uintptr_t)op->list)[op->list_count - 1], 0);
  CK_TOLD_APART(op->code, op->code == TILE_add ? TILE_sub : TILE_add);
}

START_TEST(the_text_shows_whatever_determines_code) {
  fixture *f = fixture_build(fixture_find("llama"), 1);
  tile_program *p = f->program;
  CK_TOLD_APART(p->row_tile, p->row_tile + 1);
  CK_TOLD_APART(p->segment_tokens, p->segment_tokens + 1);
  CK_TOLD_APART(p->slot_count, p->slot_count + 1);
  CK_TOLD_APART(p->page_bytes, p->page_bytes + 64);
  CK_TOLD_APART(p->slab_bytes[TILE_TOKENS], 0);
  CK_TOLD_APART(p->slab_bytes[TILE_OUTPUTS], 0);
  CK_TOLD_APART(p->output_count, 7);
  for (int i = 0; i < p->buffer_count; i++) {
    tile_buffer *b = &p->buffers[i];
    CK_TOLD_APART(b->space, b->space == TILE_TOKENS ? TILE_OUTPUTS : TILE_TOKENS);
    CK_TOLD_APART(b->cols, b->cols + 1);
    CK_TOLD_APART(b->stride, b->stride + 32);
    if (b->output < 0) CK_TOLD_APART(b->offset, b->offset + 64);
    CK_TOLD_APART(b->output, b->output + 1);
    CK_TOLD_APART(b->name, p->buffers[i ? 0 : 1].name);
  }
  for (int i = 0; i < p->weight_count; i++) {
    tile_weight *w = &p->weights[i];
    CK_TOLD_APART(w->form, w->form == TILE_VECTOR ? TILE_MATRIX : TILE_VECTOR);
    if (w->form == TILE_MATRIX) CK_TOLD_APART(w->rows, w->rows + 1);
    CK_TOLD_APART(w->cols, w->cols + 32);
    CK_TOLD_APART(w->transposed, true);
    CK_TOLD_APART(w->count, w->count + 1);
    CK_TOLD_APART(w->first_slot, w->first_slot + 1);
    CK_TOLD_APART(w->storage, 1u << IR_bf16);
  }
  tile_cache *c = &p->caches[0];
  CK_TOLD_APART(c->layers, 9);
  CK_TOLD_APART(c->heads, 9);
  CK_TOLD_APART(c->dim[0], 9);
  CK_TOLD_APART(c->dim[1], 9);
  CK_TOLD_APART(c->offset, 64);
  CK_TOLD_APART(c->key_elements, 9);
  CK_TOLD_APART(c->value_elements, 9);
  for (int i = 0; i < p->kind_count; i++) {
    tile_kind *k = &p->kinds[i];
    CK_TOLD_APART(k->space, k->space == TILE_TOKENS ? TILE_OUTPUTS : TILE_TOKENS);
    CK_TOLD_APART(k->max_rows, k->max_rows + 1);
    CK_TOLD_APART(k->group, k->group + 1);
    CK_TOLD_APART(k->columns, k->columns + 1);
    CK_TOLD_APART(k->col_tile, k->col_tile + 32);
    CK_TOLD_APART(k->col_tasks, k->col_tasks + 1);
    CK_TOLD_APART(k->prologue, k->prologue + 1);
    for (int j = 0; j < k->op_count; j++) check_op_is_told_apart(p, &k->ops[j]);
  }
  for (int i = 0; i < p->group_count; i++) {
    tile_group *g = &p->groups[i];
    CK_TOLD_APART(g->kind, g->kind ? 0 : 1);
    for (int w = 0; w < g->wait_count; w++) {
      CK_TOLD_APART(g->waits[w].group, g->waits[w].group ? 0 : 1);
      CK_TOLD_APART(g->waits[w].scope, g->waits[w].scope == TILE_ALL ? TILE_ROW : TILE_ALL);
      CK_TOLD_APART(g->waits[w].when, g->waits[w].when == TILE_EVERY ? TILE_FIRST : TILE_EVERY);
    }
  }
  CK_TOLD_APART(p->sections[1].iterations, 3);
  CK_TOLD_APART(p->tensor, 1u << IR_f16);
  fixture_free(f);
}
END_TEST

/* Every line of the first indented block of docs/tile.md is a line of the llama fixture's text. */
START_TEST(the_example_of_the_docs_is_real) {
  fixture *f = fixture_build(fixture_find("llama"), 1);
  char *text = printed(f->program), *page;
  size_t length;
  dp_status status = dp_read_file(DIPPER_SOURCE_DIR "/docs/tile.md", &page, &length);
  ck_assert_msg(status.code == DP_OK, "%s", dp_status_text(&status));
  int lines = 0;
  for (char *rest, *line = strtok_r(page, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
    if (strncmp(line, "## Picking", 10) == 0) break; /* of another program */
    if (strncmp(line, "    ", 4) != 0 || strstr(line, "...")) continue;
    lines++;
    ck_assert_msg(strstr(text, line + 4) != NULL, "docs/tile.md shows a line that is not printed: '%s'", line + 4);
  }
  ck_assert_int_gt(lines, 40);
  free(page);
  free(text);
  fixture_free(f);
}
END_TEST

/* ---- the checker */

/* Steps that a check should see: one token, one tile, several tiles, sequences that share row tiles. */
static const int64_t steps[][4] = {{1, 1, 1, 0},    {5, 2, 1, 100}, {40, 3, 1, 0},
                                   {40, 33, 3, 70}, {7, 7, 7, 64},  {0, 0, 0, 0}};

static dp_status check_all_steps(const tile_program *program) {
  for (size_t i = 0; i < DP_COUNT(steps); i++)
    DP_TRY(tile_check(program, steps[i][0], steps[i][1], steps[i][2], steps[i][3]));
  return DP_SUCCESS;
}

START_TEST(sound_programs_pass_the_check) {
  for (uint64_t seed = 0; seed < seed_count(); seed++) {
    fixture *f = fixture_build(_i, seed);
    dp_status status = check_all_steps(f->program);
    ck_assert_msg(status.code == DP_OK, "%s seed %" PRIu64 ": %s", f->program->name, seed, dp_status_text(&status));
    fixture_free(f);
  }
}
END_TEST

/* The check fails with DP_BUG and its message holds each of the words. */
static void ck_found(const tile_program *program, const char *const *words, int count) {
  dp_status status = check_all_steps(program);
  ck_assert_msg(status.code == DP_BUG, "nothing was found, expected '%s'", words[0]);
  for (int i = 0; i < count; i++)
    ck_assert_msg(strstr(dp_status_text(&status), words[i]) != NULL, "'%s' is not in: %s", words[i],
                  dp_status_text(&status));
  dp_status_free(&status);
}
#define CK_FOUND(program, ...)                                                                                         \
  ck_found(program, (const char *const[]){__VA_ARGS__}, (int)DP_COUNT(((const char *const[]){__VA_ARGS__})))

/* The group (first of its kind) of that name in a llama. */
static int group_named(const tile_program *p, const char *name) {
  for (int g = 0; g < p->group_count; g++)
    if (strcmp(p->kinds[p->groups[g].kind].name, name) == 0) return g;
  ck_abort_msg("no group %s", name);
  return -1;
}

static tile_wait *wait_named(tile_program *p, const char *waiter, const char *producer) {
  tile_group *g = &p->groups[group_named(p, waiter)];
  for (int i = 0; i < g->wait_count; i++)
    if (g->waits[i].group == group_named(p, producer)) return &g->waits[i];
  ck_abort_msg("%s does not wait for %s", waiter, producer);
  return NULL;
}

static tile_op *op_named(tile_program *p, const char *kind, tile_opcode code) {
  tile_kind *k = &p->kinds[p->groups[group_named(p, kind)].kind];
  for (int i = k->op_count - 1; i >= 0; i--)
    if (k->ops[i].code == code) return &k->ops[i];
  ck_abort_msg("%s has no such op", kind);
  return NULL;
}

static tile_buffer *buffer_named(tile_program *p, const char *name) {
  for (int i = 0; i < p->buffer_count; i++)
    if (strcmp(p->buffers[i].name, name) == 0) return &p->buffers[i];
  ck_abort_msg("no buffer %s", name);
  return NULL;
}

static fixture *a_llama(void) { return fixture_build(fixture_find("llama"), 3); }

/* None of the llama's waits is idle: without it two tasks race, and both are named. */
START_TEST(a_missing_wait_is_a_race_between_named_tasks) {
  fixture *f = a_llama();
  tile_program *p = f->program;
  for (int g = 0; g < p->group_count; g++) {
    for (int i = 0; i < p->groups[g].wait_count; i++) {
      tile_group kept = p->groups[g];
      tile_wait left[8];
      int count = 0;
      for (int j = 0; j < kept.wait_count; j++)
        if (j != i) left[count++] = kept.waits[j];
      p->groups[g].waits = left;
      p->groups[g].wait_count = count;
      CK_FOUND(p, "race: nothing orders two tasks", "iteration", "columns", p->kinds[kept.kind].name);
      p->groups[g] = kept;
    }
  }
  fixture_free(f);
}
END_TEST

START_TEST(a_race_is_told_with_tasks_buffer_and_ranges) {
  fixture *f = a_llama();
  tile_wait *wait = wait_named(f->program, "down", "gate_up");
  wait->group = group_named(f->program, "wo");
  dp_status status = tile_check(f->program, 1, 1, 1, 0);
  ck_assert_str_eq(
      dp_status_text(&status),
      "race: nothing orders two tasks: gate_up (group 6, iteration 0, row tile 0, column 0), whose op %15 store "
      "writes buffer 'h', rows 0..0 of row tile 0, columns 0..127; and down (group 7, iteration 0, row tile 0, "
      "column 0), whose op %0 load reads buffer 'h', rows 0..0 of row tile 0, columns 0..191");
  dp_status_free(&status);
  fixture_free(f);
}
END_TEST

START_TEST(a_wait_of_too_small_a_scope_is_found) {
  fixture *f = a_llama();
  wait_named(f->program, "attend", "kv")->scope = TILE_ROW;
  CK_FOUND(f->program, "race", "attend", "kv", "of cache 'kv', sequence 0 positions");
  wait_named(f->program, "attend", "kv")->scope = TILE_ALL;
  dp_status status = check_all_steps(f->program);
  ck_assert_int_eq(status.code, DP_OK);
  wait_named(f->program, "choose", "down")->scope = TILE_ROW;
  CK_FOUND(f->program, "'choose'", "'down'", "can only be for all row tiles");
  fixture_free(f);
}
END_TEST

START_TEST(a_wait_for_a_later_group_is_a_deadlock) {
  fixture *f = a_llama();
  tile_program *p = f->program;
  wait_named(p, "q", "down")->when = TILE_EVERY;
  CK_FOUND(p, "deadlock", "'q'", "'down'");
  fixture_free(f);
  f = a_llama();
  p = f->program;
  wait_named(p, "wo", "attend")->group = group_named(p, "wo");
  CK_FOUND(p, "deadlock", "'wo'");
  fixture_free(f);
  f = a_llama();
  p = f->program;
  wait_named(p, "q", "embed")->group = group_named(p, "head");
  CK_FOUND(p, "deadlock", "'q'", "'head'");
  fixture_free(f);
  f = a_llama();
  p = f->program;
  wait_named(p, "q", "embed")->when = TILE_PREVIOUS;
  CK_FOUND(p, "previous iteration", "'q'", "'embed'", "another section");
  fixture_free(f);
}
END_TEST

START_TEST(buffers_in_the_same_memory_are_found) {
  fixture *f = a_llama();
  tile_program *p = f->program;
  buffer_named(p, "o")->offset = buffer_named(p, "q")->offset + 64; /* both alive in attend */
  CK_FOUND(p, "two buffers in the same memory", "attend", "buffer 'q'", "buffer 'o'");
  fixture_free(f);
  f = a_llama();
  p = f->program;
  buffer_named(p, "angles")->offset = buffer_named(p, "k")->offset; /* under h: the next layer reads what h left */
  CK_FOUND(p, "overwritten before it is read", "buffer 'angles'");
  fixture_free(f);
}
END_TEST

/* A residual may be written over what it was made of, by another name; whoever still reads the old one finds it lost.
 */
START_TEST(a_buffer_may_take_over_anothers_memory_in_place) {
  fixture *f = a_llama();
  tile_program *p = f->program;
  tile_buffer copy = *buffer_named(p, "x");
  copy.name = "x.2";
  DP_PUSH(p->arena, p->buffers, p->buffer_count, p->buffer_cap) = copy;
  tile_kind *gate = &p->kinds[p->groups[group_named(p, "gate_up")].kind],
            *down = &p->kinds[p->groups[group_named(p, "down")].kind];
  op_named(p, "wo", TILE_store)->ref = gate->ops[0].ref = p->buffer_count - 1;
  CK_FOUND(p, "overwritten before it is read", "wo", "down", "buffer 'x'", "buffer 'x.2'");
  for (int i = 0; i < down->op_count; i++)
    if (down->ops[i].code == TILE_load && strcmp(p->buffers[down->ops[i].ref].name, "x") == 0)
      down->ops[i].ref = p->buffer_count - 1;
  dp_status status = check_all_steps(p);
  ck_assert_msg(status.code == DP_OK, "%s", dp_status_text(&status));
  fixture_free(f);
}
END_TEST

START_TEST(columns_that_write_each_others_are_a_race) {
  fixture *f = a_llama();
  op_named(f->program, "wo", TILE_store)->col_step = 0;
  CK_FOUND(f->program, "race between tasks of one group", "wo", "buffer 'x'", "column 0", "column 1");
  fixture_free(f);
  f = a_llama();
  op_named(f->program, "wo", TILE_store)->ref = (int)(buffer_named(f->program, "o") - f->program->buffers);
  CK_FOUND(f->program, "race between tasks of one group", "wo", "buffer 'o'");
  fixture_free(f);
}
END_TEST

#define CK_BOUND(change, ...)                                                                                          \
  do {                                                                                                                 \
    fixture *f = a_llama();                                                                                            \
    tile_program *p = f->program;                                                                                      \
    change;                                                                                                            \
    CK_FOUND(p, "internal error in tile program 'llama'", __VA_ARGS__);                                                \
    fixture_free(f);                                                                                                   \
  } while (0)

START_TEST(accesses_out_of_bounds_are_named) {
  CK_BOUND(op_named(p, "wo", TILE_store)->col_base = 64, "kind 'wo'", "store",
           "columns 128..191 of buffer 'x', which has 128");
  CK_BOUND(op_named(p, "wo", TILE_mma)->col_base = 64, "mma", "rows 128..191 of weight 'wo', which has 128");
  CK_BOUND(op_named(p, "kv", TILE_append)->col_base = 16, "append", "of cache 'kv', which has 64");
  CK_BOUND(op_named(p, "kv", TILE_append)->dim = 8, "append", "heads of 8");
  CK_BOUND(buffer_named(p, "x")->offset = p->slab_bytes[TILE_TOKENS] - 64, "buffer 'x' takes bytes");
  CK_BOUND(buffer_named(p, "x")->stride = 40, "buffer 'x'", "stride 40");
  CK_BOUND(p->caches[0].offset = 64, "cache 'kv' takes bytes");
  CK_BOUND(p->weights[2].first_slot = p->slot_count, "takes slots");
  CK_BOUND(p->sections[1].iterations = 3, "it runs for layers 0 to 2, its weight or cache has 0 to 1");
  CK_BOUND(op_named(p, "wo", TILE_mma)->operands[0] = 7, "%7 is not made before it");
  CK_BOUND(op_named(p, "attend", TILE_store)->operands[0] = op_named(p, "attend", TILE_mma_values)->operands[0],
           "belongs to the loop's body");
  CK_BOUND(p->kinds[p->groups[group_named(p, "q")].kind].prologue += 1, "is in the prologue and depends on the column");
  CK_BOUND(op_named(p, "attend", TILE_next)->list_count = 2, "2 values for 3 carries");
  CK_BOUND(op_named(p, "down", TILE_add)->column_tile = false, "is a column tile's, the result is not");
  CK_BOUND(op_named(p, "embed", TILE_embed)->index = 3, "there is no input 3");
}
END_TEST

/* Outside a program, for sampling: of the definition's bits whatever the processor has. */
START_TEST(log_sum_exp_of_a_row_has_the_definition_s_bits) {
  float x[600];
  uint32_t state = 1;
  for (int count = 1; count < (int)DP_COUNT(x); count++) {
    for (int i = 0; i < count; i++) {
      state = state * 1664525 + 1013904223;
      x[i] = ((float)(state >> 8) * 0x1p-24f - 0.5f) * (count % 3 ? 30.0f : 300.0f);
    }
    if (count % 5 == 0) x[count / 2] = -INFINITY;
    if (count % 7 == 0) x[count / 3] = count % 2 ? INFINITY : NAN;
    float got = cg_log_sum_exp(x, count), expected = interp_log_sum_exp(x, count);
    if (isnan(expected) && isnan(got)) continue;
    ck_assert_msg(memcmp(&got, &expected, sizeof got) == 0, "of %d: %a, not %a", count, (double)got, (double)expected);
  }
}
END_TEST

int main(void) {
  Suite *suite = suite_create("tile");
  TCase *tests = tcase_create("ops");
  tcase_set_timeout(tests, 600);
  tcase_add_loop_test(tests, products_of_every_storage_type_match_f64, 0, (int)DP_COUNT(products));
  tcase_add_test(tests, reductions_take_sixteen_lanes_and_the_tree);
  tcase_add_test(tests, log_sum_exp_of_a_row_has_the_definition_s_bits);
  tcase_add_test(tests, arithmetic_rounds_once_and_keeps_the_first_of_equals);
  tcase_add_test(tests, rotation_turns_the_halves_of_each_head);
  tcase_add_test(tests, embedding_rows_are_the_decoded_weights);
  tcase_add_test(tests, column_tiles_take_their_part_of_vectors);
  tcase_add_test(tests, values_outlive_the_buffer_they_came_from);
  tcase_add_test(tests, chosen_rows_go_through_norm_and_head);
  tcase_add_test(tests, attention_matches_a_softmax_in_f64);
  tcase_add_loop_test(tests, functions_stay_near_libm, 0, (int)DP_COUNT(functions));
  suite_add_tcase(suite, tests);
  tests = tcase_create("bits");
  tcase_set_timeout(tests, 600);
  tcase_add_loop_test(tests, back_ends_agree_bit_for_bit, 0, fixture_count());
  tcase_add_test(tests, a_batch_gives_the_bits_of_its_tokens_one_by_one);
  suite_add_tcase(suite, tests);
  tests = tcase_create("text");
  tcase_add_test(tests, the_text_shows_whatever_determines_code);
  tcase_add_test(tests, the_example_of_the_docs_is_real);
  suite_add_tcase(suite, tests);
  tests = tcase_create("check");
  tcase_set_timeout(tests, 600);
  tcase_add_loop_test(tests, sound_programs_pass_the_check, 0, fixture_count());
  tcase_add_test(tests, a_missing_wait_is_a_race_between_named_tasks);
  tcase_add_test(tests, a_race_is_told_with_tasks_buffer_and_ranges);
  tcase_add_test(tests, a_wait_of_too_small_a_scope_is_found);
  tcase_add_test(tests, a_wait_for_a_later_group_is_a_deadlock);
  tcase_add_test(tests, buffers_in_the_same_memory_are_found);
  tcase_add_test(tests, a_buffer_may_take_over_anothers_memory_in_place);
  tcase_add_test(tests, columns_that_write_each_others_are_a_race);
  tcase_add_test(tests, accesses_out_of_bounds_are_named);
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed != 0;
}
