/* tests/test_gradient_rules.c: the gradient rule of every op, in double precision: small graphs around an op, weights
 * before all its operands, differentiated; what the reference (reference_f64.h) then adds up for each weight against
 * central differences of the loss of the graph as it was. */
#include "passes/passes.h"
#include "tests/reference_f64.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TOKENS = 9 };

/* ---- cases: x, z [T, 12], rows of weights; what the text makes of them is y [T, n], the logits */

typedef struct rule_case {
  const char *op; /* the one in question */
  const char *weights, *text;
} rule_case;

#define HEADS "%a = reshape %x {to = f32[T, 3, 4]} %b = reshape %z {to = f32[T, 3, 4]} "
#define FLAT "%y = reshape %o {to = f32[T, 12]} "
#define POSITIVE "%zz = mul %z, %z %half = constant {value = 0.5} %p = add %zz, %half "
#define COLUMN "%r = slice %z {first = 3, count = 1} "
/* a value of which only the sum is used, so that its gradient is the same for all columns */
#define SUMMED "%s = reduce_sum %q %y = mul %s, %x "
#define CHOSEN "%ids = top_k %z {k = 2} %few = slice %z {first = 0, count = 5} %experts = top_k %few {k = 2} "
/* two layers of attention in which x is changed; `angles` as they come */
#define LAYERS(inside)                                                                                                 \
  "%y = loop %x {count = 2} (%l: i32[], %c: f32[T, 12]) { %w = weight {name = \"w\"} %m = select %w, %l "              \
  "%qq = matmul %c, %m {transposed = 1} " inside " %next = add %c, %n yield %next } : f32[T, 12]"
#define LAYER_WEIGHT "weight @w : f32[2, 12, 12] stacked from \"w.{}\" "
#define ATTEND(attrs)                                                                                                  \
  "%q = reshape %qq {to = f32[T, 4, 3]} %k1 = slice %c {first = 0, count = 6} %k2 = reshape %k1 {to = f32[T, 2, 3]} "  \
  "%v1 = slice %c {first = 4, count = 8} %v2 = reshape %v1 {to = f32[T, 2, 4]} "                                       \
  "%k = append %k2, %l {cache = \"kv\", part = 0} %v = append %v2, %l {cache = \"kv\", part = 1} " attrs               \
  "%o1 = reshape %o {to = f32[T, 16]} %n = slice %o1 {first = 2, count = 12} "

static const rule_case cases[] = {
    {"neg", "", "%y = neg %x"},
    {"exp", "", "%y = exp %x"},
    {"sqrt", "", POSITIVE "%q = sqrt %p %y = mul %q, %x"},
    {"rsqrt", "", POSITIVE "%q = rsqrt %p %y = mul %q, %x"},
    {"log", "", POSITIVE "%q = log %p %y = mul %q, %x"},
    {"sigmoid", "", "%y = sigmoid %x"},
    {"tanh", "", "%y = tanh %x"},
    {"silu", "", "%y = silu %x"},
    {"gelu_tanh", "", "%y = gelu_tanh %x"},
    {"gelu", "", "%y = gelu %x"},
    {"erf", "", "%y = erf %x"},
    {"relu", "", "%y = relu %x"},
    {"add", "", "%y = add %x, %z"},
    {"add", "", COLUMN "%q = add %x, %r " SUMMED},
    {"add", "", COLUMN "%q = add %r, %x " SUMMED},
    {"sub", "", "%y = sub %x, %z"},
    {"sub", "", COLUMN "%q = sub %x, %r " SUMMED},
    {"sub", "", COLUMN "%q = sub %r, %x " SUMMED},
    {"mul", "", "%y = mul %x, %z"},
    {"mul", "", "%y = mul %x, %x"},
    {"mul", "", COLUMN "%q = mul %x, %r " SUMMED},
    {"mul", "", COLUMN "%two = constant {value = 2} %q = mul %two, %x " SUMMED},
    {"div", "", POSITIVE "%y = div %x, %p"},
    {"div", "", POSITIVE "%r = slice %p {first = 1, count = 1} %q = div %x, %r " SUMMED},
    {"div", "", POSITIVE "%r = slice %x {first = 1, count = 1} %q = div %r, %p " SUMMED},
    {"max", "", "%y = max %x, %z"},
    {"max", "", COLUMN "%q = max %r, %x " SUMMED},
    {"min", "", "%y = min %x, %z"},
    {"min", "", COLUMN "%q = min %x, %r " SUMMED},
    {"broadcast", "", COLUMN "%q = broadcast %r {to = f32[T, 12]} %y = mul %q, %x"},
    {"broadcast", "", COLUMN "%q = broadcast %r {to = f32[T, 12]} " SUMMED},
    {"reshape", "", HEADS "%o = mul %a, %b " FLAT},
    {"slice", "", "%q = slice %x {first = 2, count = 7} %r = slice %z {first = 0, count = 7} %y = mul %q, %r"},
    {"slice", "",
     HEADS "%q = slice %a {first = 1, count = 3} %r = slice %b {first = 0, count = 3} %o = mul %q, %r "
           "%y = reshape %o {to = f32[T, 9]}"},
    {"concat", "", HEADS "%o = concat %a, %b %y = reshape %o {to = f32[T, 24]}"},
    {"gather", "", "%y = add %x, %z"},
    {"reduce_sum", "", HEADS "%q = reduce_sum %a %o = mul %q, %b " FLAT},
    {"reduce_max", "", HEADS "%q = reduce_max %a %o = mul %q, %b " FLAT},
    {"log_sum_exp", "", HEADS "%q = log_sum_exp %a %o = mul %q, %b " FLAT},
    {"softmax", "", HEADS "%q = softmax %a %o = mul %q, %b " FLAT},
    {"element", "", "%q = element %x, %tokens %y = mul %q, %z"},
    {"rms_norm", "weight @n : f32[12] from \"n\" ", "%w = weight {name = \"n\"} %y = rms_norm %x, %w {eps = 0.01}"},
    {"rms_norm", "weight @n : f32[4] from \"n\" ",
     HEADS "%w = weight {name = \"n\"} %q = rms_norm %a, %w {eps = 0.01} %o = mul %q, %b " FLAT},
    {"rms_norm", "weight @n : f32[12] from \"n\" ",
     "%w = weight {name = \"n\"} %q = rms_norm %x, %w {eps = 0.01} %s = reduce_sum %q %y = mul %s, %z"},
    {"layer_norm", "weight @n : f32[12] from \"n\" weight @s : f32[12] from \"s\" ",
     "%w = weight {name = \"n\"} %v = weight {name = \"s\"} %q = layer_norm %x, %w, %v {eps = 0.01} %y = mul %q, %z"},
    {"layer_norm", "weight @n : f32[4] from \"n\" weight @s : f32[4] from \"s\" ",
     HEADS "%w = weight {name = \"n\"} %v = weight {name = \"s\"} %q = layer_norm %a, %w, %v {eps = 0.01} %o = mul %q, "
           "%b " FLAT},
    {"matmul", "weight @w : f32[7, 12] from \"w\" ", "%w = weight {name = \"w\"} %y = matmul %x, %w {transposed = 1}"},
    {"matmul", "weight @w : f32[12, 7] from \"w\" ", "%w = weight {name = \"w\"} %y = matmul %x, %w {transposed = 0}"},
    {"matmul", "weight @w : f32[12, 12] from \"w\" ",
     "%w = weight {name = \"w\"} %q = matmul %x, %w {transposed = 1} %y = matmul %q, %w {transposed = 0}"},
    {"head_matmul", "weight @w : f32[3, 5, 4] stacked from \"w.{}\" ",
     HEADS "%w = weight {name = \"w\"} %o = head_matmul %a, %w {transposed = 1} %y = reshape %o {to = f32[T, 15]}"},
    {"head_matmul", "weight @w : f32[3, 4, 5] stacked from \"w.{}\" ",
     HEADS "%w = weight {name = \"w\"} %o = head_matmul %a, %w {transposed = 0} %y = reshape %o {to = f32[T, 15]}"},
    {"expert_matmul", "weight @w : f32[5, 6, 12] stacked from \"w.{}\" ",
     CHOSEN "%w = weight {name = \"w\"} %o = expert_matmul %x, %w, %experts {transposed = 1} " FLAT},
    {"expert_matmul", "weight @w : f32[5, 12, 6] stacked from \"w.{}\" weight @v : f32[5, 6, 6] stacked from \"v.{}\" ",
     CHOSEN
     "%w = weight {name = \"w\"} %v = weight {name = \"v\"} %q = expert_matmul %x, %w, %experts {transposed = 0} "
     "%o = expert_matmul %q, %v, %experts {transposed = 1} " FLAT},
    {"mix", "", HEADS "%w = slice %z {first = 0, count = 3} %q = mix %w, %a %y = concat %q, %x"},
    {"take", "", CHOSEN "%q = take %x, %ids %r = slice %z {first = 0, count = 2} %s = mul %q, %r %y = concat %s, %z"},
    {"place", "", CHOSEN "%q = slice %x {first = 0, count = 2} %r = place %q, %ids {count = 12} %y = mul %r, %z"},
    {"rotate", "",
     HEADS "%angles = rope_angles %pos {theta = 100, dim = 4} %q = rotate %a, %angles %o = mul %q, %b " FLAT},
    {"rotate", "",
     HEADS
     "%angles = rope_angles %pos {theta = 100, dim = 4} %q = rotate %a, %angles {inverse = 1} %o = mul %q, %b " FLAT},
    {"attend", LAYER_WEIGHT, LAYERS(ATTEND("%o = attend %q, %k, %v {scale = 0.7, causal = 1} "))},
    {"attend", LAYER_WEIGHT,
     LAYERS(ATTEND("%width = constant {value = 4} %o = attend %q, %k, %v, %width {scale = 0.7, causal = 1} "))},
    {"attend", LAYER_WEIGHT, LAYERS(ATTEND("%o = attend %q, %k, %v {scale = 0.7, causal = 0} "))},
    /* values that are repeated along other dimensions than the last */
    {"mul", "",
     HEADS "%one = slice %z {first = 1, count = 4} %q = reshape %one {to = f32[T, 1, 4]} %o = mul %a, %q " FLAT},
    {"add", "",
     HEADS "%one = slice %z {first = 1, count = 1} %q = reshape %one {to = f32[T, 1, 1]} %m = add %a, %q %o = mul %m, "
           "%b " FLAT},
    /* vectors beside activations, and arithmetic on them alone */
    {"add", "weight @n : f32[12] from \"n\" ",
     "%w = weight {name = \"n\"} %q = add %x, %w %s = reduce_sum %q %y = mul %s, %z"},
    {"mul", "weight @n : f32[12] from \"n\" ",
     COLUMN "%w = weight {name = \"n\"} %q = mul %r, %w %s = reduce_sum %q %y = mul %s, %x"},
    {"mul", "weight @n : f32[4] from \"n\" ", HEADS "%w = weight {name = \"n\"} %o = mul %a, %w " FLAT},
    {"rms_norm", "weight @n : f32[12] from \"n\" ",
     "%w = weight {name = \"n\"} %c = constant {value = 1} %v = add %w, %c %e = exp %v %y = rms_norm %x, %e {eps = "
     "0.01}"},
    /* loops */
    {"mul", "weight @n : f32[12] from \"n\" " LAYER_WEIGHT,
     "%v = weight {name = \"n\"} %one = constant {value = 1} %e = add %v, %one " LAYERS("%n = mul %qq, %e")},
    {"matmul", LAYER_WEIGHT,
     "%y, %u = loop %x, %z {count = 2} (%l: i32[], %c: f32[T, 12], %d: f32[T, 12]) { %w = weight {name = \"w\"} %m = "
     "select %w, %l "
     "%q = matmul %d, %m {transposed = 1} %n = mul %q, %c yield %q, %n } : f32[T, 12], f32[T, 12]"},
    {"matmul", "weight @w : f32[2, 12, 12] stacked first 1 from \"w.{}\" ",
     "%y = loop %x {count = 2, first = 1} (%l: i32[], %c: f32[T, 12]) { %w = weight {name = \"w\"} %m = select %w, %l "
     "%q = matmul %c, %m {transposed = 1} %g = every %l {period = 2, phase = 1} %n = mul %q, %g %e = add %n, %c yield "
     "%e } : f32[T, 12]"},
};

/* ---- modules
 * ------------------------------------------------------------------------------------------------------------- */

static void check_ok(dp_status status, const char *what) {
  ck_assert_msg(status.code == DP_OK, "%s: %s", what, dp_status_text(&status));
}

static ir_module *module_of(const rule_case *c) {
  dp_str text = {0};
  dp_str_addf(&text,
              "module m {\n weight @x : f32[11, 12] from \"x\" weight @z : f32[11, 12] from \"z\"\n %s\n"
              " graph @forward(%%tokens: i32[T], %%pos: i32[T]) {\n  %%rows_x = weight {name = \"x\"} %%rows_z = "
              "weight {name = \"z\"}\n"
              "  %%x = gather %%rows_x, %%tokens %%z = gather %%rows_z, %%tokens\n  %s\n  return %%y\n }\n}\n",
              c->weights, c->text);
  dp_diags *diags = dp_diags_new();
  ir_module *module = ir_parse(c->op, text.text, text.length, diags);
  dp_str rendered = {0};
  dp_diags_render(diags, &rendered, false);
  ck_assert_msg(module != NULL, "%s", rendered.text);
  dp_str_free(&rendered);
  dp_diags_free(diags);
  dp_str_free(&text);
  return module;
}

static bool has_op(const ir_block *block, const char *name) {
  for (const ir_op *op = block->first; op; op = op->next)
    if (strcmp(ir_op_info_of(op->code)->name, name) == 0 || (op->body && has_op(op->body, name))) return true;
  return false;
}

/* ---- numbers
 * --------------------------------------------------------------------------------------------------------------- */

static double random_number(uint64_t *state) {
  *state = *state * 6364136223846793005u + 1442695040888963407u;
  return (double)(*state >> 11) / (double)(UINT64_C(1) << 52) - 1;
}

static double **weights_of(const ir_module *module, bool zero) {
  uint64_t state = 5;
  double **weights = calloc((size_t)module->weight_count, sizeof *weights);
  for (int w = 0; w < module->weight_count; w++) {
    int64_t n = reference_weight_size(module, w);
    weights[w] = calloc((size_t)n, sizeof **weights);
    for (int64_t i = 0; i < n && !zero; i++) weights[w][i] = random_number(&state);
  }
  return weights;
}

static void free_weights(const ir_module *module, double **weights) {
  for (int w = 0; w < module->weight_count; w++) free(weights[w]);
  free(weights);
}

static const char *const names[] = {"tokens", "targets", "coefficients"};
static int32_t tokens[TOKENS], targets[TOKENS], bits[TOKENS];
static float coefficients[TOKENS];
static const int32_t *const inputs[] = {tokens, targets, bits};

static reference reference_of(const ir_module *module, double **weights, double **gradients) {
  return (reference){module, weights, gradients, TOKENS, names, inputs, (int)DP_COUNT(inputs)};
}

/* The sum of coefficient * loss, from the logits. */
static double loss_of(const ir_module *module, double **weights) {
  double *logits, loss = 0;
  int64_t columns;
  reference r = reference_of(module, weights, NULL);
  check_ok(reference_run(&r, module->graphs, &logits, &columns), "forward");
  for (int t = 0; t < TOKENS; t++) {
    double sum = 0;
    for (int64_t c = 0; c < columns; c++) sum += exp(logits[t * columns + c]);
    if (targets[t] >= 0) loss += (double)coefficients[t] * (log(sum) - logits[t * columns + targets[t]]);
  }
  free(logits);
  return loss;
}

static double **differences(const ir_module *module, double **weights) {
  const double step = 1e-5;
  double **slopes = weights_of(module, true);
  for (int w = 0; w < module->weight_count; w++)
    for (int64_t i = 0; i < reference_weight_size(module, w); i++) {
      double at = weights[w][i];
      weights[w][i] = at + step;
      double above = loss_of(module, weights);
      weights[w][i] = at - step;
      slopes[w][i] = (above - loss_of(module, weights)) / (2 * step);
      weights[w][i] = at;
    }
  return slopes;
}

static void compare(const rule_case *c, const ir_module *module, double **expected, double **weights, double loss,
                    const char *how) {
  double **gradients = weights_of(module, true), *losses, sum = 0;
  int64_t columns;
  reference r = reference_of(module, weights, gradients);
  check_ok(reference_run(&r, ir_find_graph(module, "train"), &losses, &columns), c->op);
  for (int t = 0; t < TOKENS; t++) sum += (double)coefficients[t] * losses[t * columns];
  ck_assert_msg(columns == 1 && fabs(sum - loss) <= 1e-12 * fabs(loss), "%s, %s: the loss is %.17g, not %.17g", c->op, how,
                sum, loss);
  free(losses);
  for (int w = 0; w < module->weight_count; w++) {
    double wrong = 0, size = 0;
    for (int64_t i = 0; i < reference_weight_size(module, w); i++) {
      wrong += (gradients[w][i] - expected[w][i]) * (gradients[w][i] - expected[w][i]);
      size += expected[w][i] * expected[w][i];
    }
    if (size == 0 && wrong == 0 && strcmp(module->weights[w].name, "z") == 0) continue; /* not every case reads z */
    ck_assert_msg(size > 1e-12, "%s, %s: nothing flows to weight %s in: %s", c->op, how, module->weights[w].name,
                  c->text);
    ck_assert_msg(sqrt(wrong / size) <= 1e-6, "%s, %s: the gradient of %s is off by %.1e of its norm in: %s", c->op,
                  how, module->weights[w].name, sqrt(wrong / size), c->text);
  }
  free_weights(module, gradients);
}

/* ---- tests
 * -------------------------------------------------------------------------------------------------------------------
 */

START_TEST(the_rule_gives_the_slope_of_the_loss) {
  const rule_case *c = &cases[_i];
  ir_module *forward = module_of(c);
  ck_assert_msg(has_op(forward->graphs->block, c->op), "there is no %s in: %s", c->op, c->text);
  double **weights = weights_of(forward, false), loss = loss_of(forward, weights),
         **expected = differences(forward, weights);
  for (int recompute = 0; recompute < IR_RECOMPUTE_COUNT; recompute++) {
    static const char *const passes[] = {"canonicalize", "cse", "dce", "fuse"};
    ir_module *train = module_of(c);
    ps_training training = {.recompute = (ir_recompute)recompute};
    check_ok(ps_differentiate(train, &training), c->op);
    compare(c, train, expected, weights, loss, ir_recompute_names[recompute]);
    check_ok(ps_run(&train, passes, (int)DP_COUNT(passes), &(ps_options){.verify_each = true}), c->op);
    compare(c, train, expected, weights, loss, "fused");
    ir_module_free(train);
  }
  free_weights(forward, expected);
  free_weights(forward, weights);
  ir_module_free(forward);
}
END_TEST

START_TEST(every_op_with_a_rule_has_a_case) {
  static const struct {
    const char *name, *rule;
  } rules[] = {
#define IR_OP(name, operands, attrs, shape, gradient, tile, traits, doc) {#name, #gradient},
#include "ir/ops.def"
#undef IR_OP
  };
  for (size_t i = 0; i < DP_COUNT(rules); i++) {
    bool found = strcmp(rules[i].rule, "zero") == 0 || strcmp(rules[i].rule, "refuse") == 0;
    found |= strcmp(rules[i].name, "host") == 0; /* what it computes is the host's: tests/test_embed.c trains through one */
    for (size_t j = 0; j < DP_COUNT(cases); j++) found |= strcmp(cases[j].op, rules[i].name) == 0;
    ck_assert_msg(found, "the gradient rule of %s is in no case", rules[i].name);
  }
}
END_TEST

/* What has no gradient yet says so. */
START_TEST(what_is_not_known_is_refused) {
  static const struct {
    const char *weights, *text, *message;
  } refused[] = {
      {"", "%w = weight {name = \"z\"} %q = matmul %x, %w {transposed = 1} %y = gather %q, %pos",
       "a gather from anything but the rows of a weight"},
      {"", HEADS "%angles = slice %z {first = 0, count = 4} %o = rotate %a, %angles " FLAT, "the angles of a rotate"},
      {"weight @n : f32[1, 12] from \"n\" ", "%w = weight {name = \"n\"} %y = add %x, %w", "other than as a vector"},
      {"weight @n : f32[12] from \"n\" ", "%w = weight {name = \"n\"} %s = reduce_sum %w %y = add %x, %s",
       "other than elementwise arithmetic on weights"},
      {"", "%y = loop %x {count = 2} (%l: i32[], %c: f32[T, 12]) { %n = mul %c, %z yield %n } : f32[T, 12]",
       "the gradient of value z is not known, which a loop uses but does not carry; a loop carries what it assigns"},
      {"",
       "%four = reshape %x {to = f32[T, 3, 2, 2]} %part = slice %z {first = 0, count = 6} %p = reshape %part {to = "
       "f32[T, 3, 1, 2]} "
       "%o = mul %four, %p " FLAT,
       "repeated along a dimension between two others"},
  };
  for (size_t i = 0; i < DP_COUNT(refused); i++) {
    ir_module *module = module_of(&(rule_case){"refused", refused[i].weights, refused[i].text});
    dp_status status = ps_differentiate(module, &(ps_training){.recompute = IR_RECOMPUTE_BLOCK});
    ck_assert_msg(status.code == DP_UNSUPPORTED && strstr(dp_status_text(&status), refused[i].message), "%s: %s",
                  refused[i].text, dp_status_text(&status));
    dp_status_free(&status);
    ir_module_free(module);
  }
}
END_TEST

int main(void) {
  for (int t = 0; t < TOKENS; t++) {
    tokens[t] = t * t * 7 % 11;
    targets[t] = t % 4 == 3 ? -1 : t * 5 % 7;
    coefficients[t] = t % 3 == 1 ? -0.75f : 1 + 0.1f * (float)t;
    memcpy(&bits[t], &coefficients[t], sizeof bits[t]);
  }
  Suite *suite = suite_create("gradient_rules");
  TCase *tcase = tcase_create("gradient_rules");
  tcase_set_timeout(tcase, 300);
  tcase_add_loop_test(tcase, the_rule_gives_the_slope_of_the_loss, 0, (int)DP_COUNT(cases));
  tcase_add_test(tcase, every_op_with_a_rule_has_a_case);
  tcase_add_test(tcase, what_is_not_known_is_refused);
  suite_add_tcase(suite, tcase);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed != 0;
}
