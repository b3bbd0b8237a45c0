/* tests/test_ir.c: what the graph IR promises: its text form reads back to the same module, shape errors say what does
 * not match, hostile text is refused with a place, and the verifier finds what a broken pass leaves behind. */
#include "ir/graph.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

static const char llama[] =
    "module llama {\n"
    "  weight @embed : f32[vocab:49152, d:576] from \"model.embed_tokens.weight\", \"token_embd.weight\" storage q8_0\n"
    "  weight @norm_attn : f32[layers:30, d:576] stacked from \"model.layers.{}.input_layernorm.weight\"\n"
    "  weight @wq : f32[layers:30, 576, d:576] stacked from \"model.layers.{}.self_attn.q_proj.weight\", "
    "\"blk.{}.attn_q.weight\" paired 9 storage q8_0, q4_1\n"
    "  weight @wk : f32[layers:30, 192, d:576] stacked from \"model.layers.{}.self_attn.k_proj.weight\", "
    "\"blk.{}.attn_k.weight\" paired 3 storage q4_1\n"
    "  weight @wv : f32[layers:30, 192, d:576] stacked from \"model.layers.{}.self_attn.v_proj.weight\"\n"
    "  weight @wo : f32[layers:30, d:576, 576] stacked from \"model.layers.{}.self_attn.o_proj.weight\"\n"
    "  weight @norm_mlp : f32[layers:30, d:576] stacked from \"model.layers.{}.post_attention_layernorm.weight\"\n"
    "  weight @gate : f32[layers:30, ff:1536, d:576] stacked from \"model.layers.{}.mlp.gate_proj.weight\"\n"
    "  weight @up : f32[layers:30, ff:1536, d:576] stacked from \"model.layers.{}.mlp.up_proj.weight\"\n"
    "  weight @down : f32[layers:30, d:576, ff:1536] stacked from \"model.layers.{}.mlp.down_proj.weight\"\n"
    "  weight @norm : f32[d:576] from \"model.norm.weight\"\n"
    "  weight @head : f32[vocab:49152, d:576] optional from \"lm_head.weight\" or @embed\n"
    "\n"
    "  graph @forward(%tokens: i32[T], %pos: i32[T]) {\n"
    "    %embed = weight {name = \"embed\"} : f32[vocab:49152, d:576]\n"
    "    %norm_attn = weight {name = \"norm_attn\"} : f32[layers:30, d:576]\n"
    "    %wq = weight {name = \"wq\"} : f32[layers:30, 576, d:576]\n"
    "    %wk = weight {name = \"wk\"} : f32[layers:30, 192, d:576]\n"
    "    %wv = weight {name = \"wv\"} : f32[layers:30, 192, d:576]\n"
    "    %wo = weight {name = \"wo\"} : f32[layers:30, d:576, 576]\n"
    "    %norm_mlp = weight {name = \"norm_mlp\"} : f32[layers:30, d:576]\n"
    "    %gate = weight {name = \"gate\"} : f32[layers:30, ff:1536, d:576]\n"
    "    %up = weight {name = \"up\"} : f32[layers:30, ff:1536, d:576]\n"
    "    %down = weight {name = \"down\"} : f32[layers:30, d:576, ff:1536]\n"
    "    %x = gather %embed, %tokens : f32[T, d:576]\n"
    "    %h = loop %x {count = 30} (%l: i32[], %x.1: f32[T, d:576]) {\n"
    "      %0 = select %norm_attn, %l : f32[d:576]\n"
    "      %1 = rms_norm %x.1, %0 {eps = 1e-05} : f32[T, d:576]\n"
    "      %2 = select %wq, %l : f32[576, d:576]\n"
    "      %3 = matmul %1, %2 {transposed = 1} : f32[T, 576]\n"
    "      %q = reshape %3 {to = f32[T, heads:9, hd:64]} : f32[T, heads:9, hd:64]\n"
    "      %4 = select %wk, %l : f32[192, d:576]\n"
    "      %5 = matmul %1, %4 {transposed = 1} : f32[T, 192]\n"
    "      %k = reshape %5 {to = f32[T, kv_heads:3, hd:64]} : f32[T, kv_heads:3, hd:64]\n"
    "      %6 = select %wv, %l : f32[192, d:576]\n"
    "      %7 = matmul %1, %6 {transposed = 1} : f32[T, 192]\n"
    "      %v = reshape %7 {to = f32[T, kv_heads:3, hd:64]} : f32[T, kv_heads:3, hd:64]\n"
    "      %8 = rope %q, %pos {theta = 100000} : f32[T, heads:9, hd:64]\n"
    "      %9 = rope %k, %pos {theta = 100000} : f32[T, kv_heads:3, hd:64]\n"
    "      %10 = append %9, %l {cache = \"kv\", part = 0} : f32[S, kv_heads:3, hd:64]\n"
    "      %11 = append %v, %l {cache = \"kv\", part = 1} : f32[S, kv_heads:3, hd:64]\n"
    "      %o = attend %8, %10, %11 {scale = 0.125, causal = 1} : f32[T, heads:9, hd:64]\n"
    "      %12 = reshape %o {to = f32[T, 576]} : f32[T, 576]\n"
    "      %13 = select %wo, %l : f32[d:576, 576]\n"
    "      %14 = matmul %12, %13 {transposed = 1} : f32[T, d:576]\n"
    "      %x.2 = add %x.1, %14 : f32[T, d:576]\n"
    "      %15 = select %norm_mlp, %l : f32[d:576]\n"
    "      %16 = rms_norm %x.2, %15 {eps = 1e-05} : f32[T, d:576]\n"
    "      %17 = select %gate, %l : f32[ff:1536, d:576]\n"
    "      %18 = matmul %16, %17 {transposed = 1} : f32[T, ff:1536]\n"
    "      %19 = silu %18 : f32[T, ff:1536]\n"
    "      %20 = select %up, %l : f32[ff:1536, d:576]\n"
    "      %21 = matmul %16, %20 {transposed = 1} : f32[T, ff:1536]\n"
    "      %22 = mul %19, %21 : f32[T, ff:1536]\n"
    "      %23 = select %down, %l : f32[d:576, ff:1536]\n"
    "      %24 = matmul %22, %23 {transposed = 1} : f32[T, d:576]\n"
    "      %x.3 = add %x.2, %24 : f32[T, d:576]\n"
    "      yield %x.3\n"
    "    } : f32[T, d:576]\n"
    "    %norm = weight {name = \"norm\"} : f32[d:576]\n"
    "    %25 = rms_norm %h, %norm {eps = 1e-05} : f32[T, d:576]\n"
    "    %head = weight {name = \"head\"} : f32[vocab:49152, d:576]\n"
    "    %logits = matmul %25, %head {transposed = 1} : f32[T, vocab:49152]\n"
    "    return %logits\n"
    "  }\n"
    "}\n";

/* What the llama leaves out: every other op, odd names and numbers, several results, groups. */
static const char others[] =
    "module others {\n"
    "  weight @w.1 : f32[3, 8]\n"
    "\n"
    "  graph @empty() {\n"
    "    return\n"
    "  }\n"
    "\n"
    "  graph @all(%x: f32[T, 8], %pos: i32[T], %l: i32[], %odd: f32[2*T+1, rows:T-3, 1]) {\n"
    "    %0 = constant {value = 0.100000001} : f32[]\n"
    "    %1 = constant {value = 0.30000000000000004} : f32[]\n"
    "    %2 = constant {value = -0} : f32[]\n"
    "    %3 = constant {value = -inf} : f32[]\n"
    "    %4 = constant {value = nan} : f32[]\n"
    "    %5 = neg %x : f32[T, 8]\n"
    "    %6 = exp %0 : f32[]\n"
    "    %7 = sqrt %x : f32[T, 8]\n"
    "    %8 = rsqrt %x : f32[T, 8]\n"
    "    %9 = sigmoid %x : f32[T, 8]\n"
    "    %10 = tanh %x : f32[T, 8]\n"
    "    %11 = gelu_tanh %x : f32[T, 8]\n"
    "    %12 = relu %odd : f32[2*T+1, rows:T-3, 1]\n"
    "    %13 = sub %x, %0 : f32[T, 8]\n"
    "    %14 = reduce_max %x : f32[T, 1]\n"
    "    %15 = div %x, %14 : f32[T, 8]\n"
    "    %16 = max %x, %15 : f32[T, 8]\n"
    "    %17 = min %0, %1 : f32[]\n"
    "    %18 = reduce_sum %x : f32[T, 1]\n"
    "    %19 = rope_angles %pos {theta = 1.5, dim = 4} : f32[T, 4]\n"
    "    %20 = reshape %x {to = f32[T, 2, 4]} : f32[T, 2, 4]\n"
    "    %21 = rotate %20, %19 : f32[T, 2, 4]\n"
    "    %22 = append %21, %l {cache = \"a \\\"quoted\\\" \\\\ \\x01\\n\", part = 1} : f32[S, 2, 4]\n"
    "    %a, %b = group %x, %pos {name = \"pair\"} (%x.1: f32[T, 8], %23: i32[T]) {\n"
    "      %24 = silu %x.1 : f32[T, 8]\n"
    "      %25 = group () {\n"
    "        yield %24\n"
    "      } : f32[T, 8]\n"
    "      yield %25, %23\n"
    "    } : f32[T, 8], i32[T]\n"
    "    return %a, %b, %22, %12\n"
    "  }\n"
    "}\n";

static ir_module *read_ir(const char *text, dp_diags *diags) { return ir_parse("test.ir", text, strlen(text), diags); }

static ir_module *must_read(const char *text) {
  dp_diags *diags = dp_diags_new();
  ir_module *module = read_ir(text, diags);
  dp_str why = {0};
  dp_diags_render(diags, &why, false);
  ck_assert_msg(module != NULL, "%s", why.text ? why.text : "no module");
  dp_str_free(&why);
  dp_diags_free(diags);
  return module;
}

static char *printed(const ir_module *module) {
  dp_str out = {0};
  ir_print(&out, module);
  return out.text;
}

static void ck_verified(const ir_module *module) {
  dp_status status = ir_verify(module, "test");
  ck_assert_msg(status.code == DP_OK, "%s", dp_status_text(&status));
}

static void ck_round_trip(const char *text) {
  ir_module *module = must_read(text);
  ck_verified(module);
  char *again = printed(module);
  ck_assert_str_eq(again, text);
  free(again);
  ir_module_free(module);
}

START_TEST(a_whole_llama_reads_back_to_the_same_text) { ck_round_trip(llama); }
END_TEST

START_TEST(odd_names_numbers_and_bodies_read_back_to_the_same_text) { ck_round_trip(others); }
END_TEST

/* Ops of mixtures of experts, of encoders and of latent attention, and every word of a weight's sources. */
static const char *const experts =
    "module experts {\n"
    "  weight @w : f32[layers:2, 7, 8, d:8] stacked 2 first 3 from \"w.{}.{}\", \"w.{}\" transposed rows 8 of 24 at 8\n"
    "  weight @q : f32[16, d:8] from \"qkv\" rows 16 of 48 at 16 paired 2, \"q\"\n"
    "  weight @norm : f32[d:8] from \"norm\" plus 1 or 0.5\n"
    "\n"
    "  graph @forward(%x: f32[T, d:8], %ids: i32[T, 2]) {\n"
    "    %w = weight {name = \"w\"} : f32[layers:2, 7, 8, d:8]\n"
    "    %norm = weight {name = \"norm\"} : f32[d:8]\n"
    "    %y = loop %x {count = 2, first = 3} (%l: i32[], %c: f32[T, d:8]) {\n"
    "      %g = every %l {period = 2, phase = 1} : f32[]\n"
    "      %m = select %w, %l : f32[7, 8, d:8]\n"
    "      %h = layer_norm %c, %norm, %norm {eps = 1e-12} : f32[T, d:8]\n"
    "      %p = softmax %h : f32[T, d:8]\n"
    "      %top = top_k %p {k = 2} : i32[T, 2]\n"
    "      %t = take %p, %top : f32[T, 2]\n"
    "      %a = among %top {count = 8} : f32[T, 8]\n"
    "      %again = place %t, %top {count = 8} : f32[T, 8]\n"
    "      %e = expert_matmul %h, %m, %top {transposed = 1} : f32[T, 2, 8]\n"
    "      %s = mix %t, %e : f32[T, 8]\n"
    "      %b = slice %s {first = 2, count = 3} : f32[T, 3]\n"
    "      %v = concat %b, %b : f32[T, 6]\n"
    "      %u = gelu %v : f32[T, 6]\n"
    "      %z = reshape %a {to = f32[T, 1, 8]} : f32[T, 1, 8]\n"
    "      %n = add %c, %s : f32[T, d:8]\n"
    "      yield %n\n"
    "    } : f32[T, d:8]\n"
    "    %heads = weight {name = \"q\"} : f32[16, d:8]\n"
    "    return %y\n"
    "  }\n"
    "\n"
    "  graph @heads(%x: f32[T, 7, 8], %w: f32[7, 8, 5]) {\n"
    "    %y = head_matmul %x, %w {transposed = 0} : f32[T, 7, 5]\n"
    "    return %y\n"
    "  }\n"
    "}\n";

/* Ops of training. */
static const char *const training =
    "module training {\n"
    "  weight @w : f32[layers:2, d:8, d:8] stacked from \"w.{}\"\n"
    "  weight @norm : f32[d:8] from \"norm\"\n"
    "  weight @embed : f32[16, d:8] from \"embed\"\n"
    "  weight @experts : f32[5, 8, d:8] stacked from \"expert.{}\"\n"
    "\n"
    "  graph @train(%x: f32[T, d:8], %ids: i32[T], %pos: i32[T]) {\n"
    "    %y = loop %x {count = 2} (%l: i32[], %c: f32[T, d:8]) {\n"
    "      save %c, %l {stack = \"c\"}\n"
    "      %heads = reshape %c {to = f32[T, 2, 4]} : f32[T, 2, 4]\n"
    "      %k = append %heads, %l {cache = \"kv\", part = 0} : f32[S, 2, 4]\n"
    "      %v = append %heads, %l {cache = \"kv\", part = 1} : f32[S, 2, 4]\n"
    "      %o, %sums = attend %heads, %k, %v {scale = 0.5, causal = 1, sums = 1} : f32[T, 2, 4], f32[T, 2, 1]\n"
    "      %n = reshape %o {to = f32[T, d:8]} : f32[T, d:8]\n"
    "      yield %n\n"
    "    } : f32[T, d:8]\n"
    "    %e = log_sum_exp %y : f32[T, 1]\n"
    "    %p = element %y, %ids : f32[T, 1]\n"
    "    %hot = one_hot %ids {count = 8} : f32[T, 8]\n"
    "    %noise = gumbel %ids, %pos, %ids {count = 8} : f32[T, 8]\n"
    "    %tops, %where = best_of_runs %noise {run = 64} : f32[T, 1], i32[T, 1]\n"
    "    %there = element %y, %where : f32[T, 1]\n"
    "    %number = number %ids : f32[T, 1]\n"
    "    %bits = number %ids {bits = 1} : f32[T, 1]\n"
    "    %whole = broadcast %number {to = f32[T, d:8]} : f32[T, d:8]\n"
    "    %log = log %whole : f32[T, d:8]\n"
    "    %erf = erf %log : f32[T, d:8]\n"
    "    %positive = positive %erf : f32[T, d:8]\n"
    "    %z = loop %positive {count = 2, reverse = 1} (%l.1: i32[], %g: f32[T, d:8]) {\n"
    "      %c.1 = saved %l.1 {stack = \"c\", of = f32[T, d:8]} : f32[T, d:8]\n"
    "      %k.1 = cached %l.1 {cache = \"kv\", part = 0, of = f32[S, 2, 4]} : f32[S, 2, 4]\n"
    "      accumulate_product %g, %c.1, %l.1 {weight = \"w\"}\n"
    "      %q = reshape %g {to = f32[T, 2, 4]} : f32[T, 2, 4]\n"
    "      %stats = slice %q {first = 0, count = 1} : f32[T, 2, 1]\n"
    "      %both = concat %stats, %stats : f32[T, 2, 2]\n"
    "      %a = append %q, %l.1 {cache = \"a\", part = 0, shared = 1} : f32[S, 2, 4]\n"
    "      %b = append %q, %l.1 {cache = \"a\", part = 1, shared = 1} : f32[S, 2, 4]\n"
    "      %s = append %both, %l.1 {cache = \"s\", part = 0, shared = 1} : f32[S, 2, 2]\n"
    "      %r = attend_rows %q, %k.1, %q, %a, %b, %stats, %stats {scale = 0.5, causal = 1} : f32[T, 2, 4]\n"
    "      %dk, %dv = attend_columns %q, %q, %a, %b, %a, %b, %s {scale = 0.5, causal = 1} : f32[T, 2, 4], f32[T, 2, 4]\n"
    "      %sum = add %r, %dk : f32[T, 2, 4]\n"
    "      %next = reshape %sum {to = f32[T, d:8]} : f32[T, d:8]\n"
    "      yield %next\n"
    "    } : f32[T, d:8]\n"
    "    accumulate_sum %z {weight = \"norm\"}\n"
    "    accumulate_rows %z, %ids {weight = \"embed\"}\n"
    "    %top = top_k %z {k = 3} : i32[T, 3]\n"
    "    %one = reshape %p {to = f32[T, 1, 1]} : f32[T, 1, 1]\n"
    "    %each = broadcast %one {to = f32[T, 3, 8]} : f32[T, 3, 8]\n"
    "    accumulate_experts %each, %z, %top {weight = \"experts\"}\n"
    "    return %e\n"
    "  }\n"
    "\n"
    "  graph @update() {\n"
    "    %rate = given {name = \"rate\"} : f32[]\n"
    "    %w = parameter {weight = \"w\", state = 0} : f32[layers:2, d:8, d:8]\n"
    "    %t = total %w : f32[]\n"
    "    %s = mul %t, %rate : f32[]\n"
    "    %n = mul %w, %s : f32[layers:2, d:8, d:8]\n"
    "    %down = round_random %n, %rate, %t {weight = \"w\"} : f32[layers:2, d:8, d:8]\n"
    "    assign %down {weight = \"w\", state = 2}\n"
    "    return\n"
    "  }\n"
    "}\n";

START_TEST(a_training_graph_reads_back_to_the_same_text) { ck_round_trip(training); }
END_TEST

START_TEST(experts_and_windows_of_tensors_read_back_to_the_same_text) { ck_round_trip(experts); }
END_TEST

static void mark_ops(const ir_block *block, bool *seen) {
  for (const ir_op *op = block->first; op; op = op->next) {
    seen[op->code] = true;
    if (op->body) mark_ops(op->body, seen);
  }
}

START_TEST(every_op_parses_and_prints) {
  bool seen[IR_OP_COUNT] = {false};
  const char *texts[] = {llama, others, experts, training};
  for (size_t i = 0; i < DP_COUNT(texts); i++) {
    ir_module *module = must_read(texts[i]);
    for (ir_graph *graph = module->graphs; graph; graph = graph->next) mark_ops(graph->block, seen);
    ir_module_free(module);
  }
  for (int i = 0; i < IR_OP_COUNT; i++)
    ck_assert_msg(seen[i], "op %s is in no text of this test", ir_op_info_of((ir_opcode)i)->name);
}
END_TEST

START_TEST(names_are_hints_made_unique) {
  ir_module *module = ir_module_new("m");
  ir_graph *graph = ir_add_graph(module, "g");
  ir_type type = {.dtype = IR_f32, .rank = 1, .dims = {ir_symbol_dim("T")}};
  const char *hints[] = {"x", "x", NULL, "7", "x.9", "a b", "", "x.1.1"};
  for (int i = 0; i < (int)DP_COUNT(hints); i++) ir_add_arg(graph->block, &type, hints[i]);
  ir_emit(graph->block, NULL, IR_OP_return, NULL, 0, NULL, 0, NULL, (dp_loc){0}, NULL);
  ck_verified(module);
  char *text = printed(module);
  ck_assert_str_eq(text, "module m {\n"
                         "  graph @g(%x: f32[T], %x.1: f32[T], %0: f32[T], %1: f32[T], %x.2: f32[T], %a_b: f32[T], "
                         "%2: f32[T], %x.3: f32[T]) {\n    return\n  }\n}\n");
  ck_round_trip(text);
  free(text);
  ir_module_free(module);
}
END_TEST

START_TEST(written_types_may_be_left_out_and_comments_are_skipped) {
  ir_module *module =
      must_read("// a head\nmodule m { graph @g(%x: f32[T]) { // here\n %y = neg %x return %y } } // end");
  char *text = printed(module);
  ck_assert_str_eq(text, "module m {\n  graph @g(%x: f32[T]) {\n    %y = neg %x : f32[T]\n    return %y\n  }\n}\n");
  free(text);
  ir_module_free(module);
}
END_TEST

/* ---- messages ---------------------------------------------------------------------------------------------------- */

/* Reads `body` in a graph with values to make mistakes with; the first error holds `message`. */
static void ck_error(const char *body, const char *message) {
  dp_str text = {0};
  dp_str_addf(&text,
              "module m {\n weight @norm : f32[d:576]\n weight @embed : f32[vocab:49152, d:576]\n"
              " graph @g(%%x: f32[T, d:576], %%w: f32[d:576, ff:1536], %%u: f32[ff:1536, d:576], %%pos: i32[T],\n"
              "  %%q: f32[T, heads:9, hd:64], %%k: f32[S, kv_heads:4, hd:64], %%l: i32[]) {\n  %s\n  return\n }\n}\n",
              body);
  dp_diags *diags = dp_diags_new();
  ir_module *module = read_ir(text.text, diags);
  ck_assert_msg(module == NULL, "no error in: %s", body);
  ck_assert_int_eq(diags->errors, 1);
  ck_assert_uint_ne(diags->items[0].loc.file, 0);
  ck_assert_msg(strstr(diags->items[0].message, message) != NULL, "expected: %s\nbut got: %s", message,
                diags->items[0].message);
  dp_diags_free(diags);
  dp_str_free(&text);
}

START_TEST(shape_errors_show_both_shapes_with_dimension_names) {
  ck_error("%y = matmul %x, %w {transposed = 1}",
           "matmul: x is f32[T, d:576] but w.T needs k = ff:1536 (w is f32[d:576, ff:1536])");
  ck_error("%y = matmul %x, %u {transposed = 0}", "but w needs k = ff:1536 (w is f32[ff:1536, d:576])");
  ck_error("%y = matmul %q, %u {transposed = 0}", "matmul: x is f32[T, heads:9, hd:64] but must have 2 dimensions");
  ck_error("%y = add %x, %w", "add: x is f32[T, d:576] and y is f32[d:576, ff:1536]: d:576 does not match ff:1536");
  ck_error("%y = add %x, %pos", "add: x is f32[T, d:576] and y is i32[T] but both must be of f32");
  ck_error("%y = neg %pos", "neg: x is i32[T] but must be of f32");
  ck_error("%n = weight {name = \"norm\"} %y = rms_norm %w, %n {eps = 1e-5}",
           "rms_norm: x is f32[d:576, ff:1536] but weight is f32[d:576]: ff:1536 does not match d:576");
  ck_error("%y = rope_angles %pos {theta = 1e4, dim = 63}", "dim is 63 but must be even");
  ck_error("%a = rope_angles %pos {theta = 1e4, dim = 32} %y = rotate %q, %a",
           "rotate: x is f32[T, heads:9, hd:64] but angles is f32[T, 32]: hd:64 does not match 32");
  ck_error("%y = attend %q, %k, %k {scale = 1, causal = 1}", "heads:9 must be a multiple of kv_heads:4");
  ck_error("%y = gather %x, %l", "gather: ids is i32[] but must have 1 dimension");
  ck_error("%y = select %u, %pos", "select: index is i32[T] but must have 0 dimensions");
  ck_error("%y = reshape %x {to = f32[T, heads:9, 32]}",
           "with 576 elements a row but to is f32[T, heads:9, 32] with 288");
  ck_error("%y = reshape %x {to = f32[heads:9, T, hd:64]}", "rows must stay rows");
  ck_error("%y = reshape %x {to = i32[T, d:576]}", "x is f32[T, d:576] but to is i32[T, d:576]");
  ck_error("%y = weight {name = \"nrom\"}", "there is no weight 'nrom'; did you mean 'norm'?");
}
END_TEST

START_TEST(bodies_that_do_not_fit_are_explained) {
  ck_error("%y = loop %x {count = 2} (%c: f32[T, d:576]) { yield %c }",
           "1 arguments but must take the layer index and 1");
  ck_error("%y = loop %x {count = 2} (%i: i32[], %c: f32[T, 64]) { yield %c }",
           "starts as f32[T, d:576] but its body takes f32[T, 64]");
  ck_error("%y = loop %x {count = 2} (%i: i32[], %c: f32[T, d:576]) { yield %q }",
           "carried value 1 is f32[T, d:576] but its body yields f32[T, heads:9, hd:64]");
  ck_error("%y = loop %x {count = 0} (%i: i32[], %c: f32[T, d:576]) { yield %c }", "count is 0");
  ck_error("%y = loop %x {count = 2}", "loop needs a body");
  ck_error("%y = neg %x (%c: f32[T, d:576]) { yield %c }", "neg takes no body");
  ck_error("%y = group %x (%c: f32[T, 64]) { yield %c }", "input 1 is f32[T, d:576] but its body takes f32[T, 64]");
  ck_error("%y = group %x (%c: f32[T, d:576]) { }", "a body ends in 'yield'");
  ck_error("%y = group %x (%c: f32[T, d:576]) { return }", "this body ends in 'yield'");
  ck_error("yield", "this body ends in 'return'");
  ck_error("return %x %y = neg %x", "expected '}'");
}
END_TEST

START_TEST(slips_in_names_get_a_suggestion) {
  ck_error("%n = weight {name = \"norm\"} %y = rms_norm %x, %n {esp = 1e-5}",
           "no attribute 'esp'; did you mean 'eps'?");
  ck_error("%y = neg %x {eps = 1}", "neg has no attribute 'eps'; it takes none");
  ck_error("%y = matmul %x, %u", "attribute 'transposed' is missing");
  ck_error("%y = matmul %x, %u {transposed = 2}", "attribute 'transposed' is 0 or 1, not 2");
  ck_error("%y = matmul %x, %u {transposed = 1, transposed = 1}", "given twice");
  ck_error("%y = matmul %x, %u {transposed = 1.5}", "expected an integer");
  ck_error("%y = matmull %x, %u {transposed = 1}", "there is no op 'matmull'; did you mean 'matmul'?");
  ck_error("%y = add %x", "add takes 2 operands (x y), not 1");
  ck_error("%y = neg %x, %x", "neg takes 1 operand (x), not 2");
  ck_error("%y = neg %z", "%z is not defined before this use");
  ck_error("%x = neg %x", "%x is defined twice");
  ck_error("%y = group %x (%c: f32[T, d:576]) { yield %c } %z = neg %c", "%c cannot be seen from here");
  ck_error("%y = neg %x : f32[T, 577]", "written is f32[T, 577] but result 1 of neg is f32[T, d:576]");
  ck_error("neg %x", "neg has 1 result but 0 are named");
  ck_error("%y, %z = neg %x", "neg has 1 result but 2 are named");
}
END_TEST

/* ---- hostile text ------------------------------------------------------------------------------------------------ */

static uint64_t next_random(uint64_t *state) {
  *state ^= *state << 13;
  *state ^= *state >> 7;
  *state ^= *state << 17;
  return *state;
}

/* What still parses after being damaged is sound, and prints to what reads back. */
static void ck_survives(const char *text, size_t length) {
  dp_diags *diags = dp_diags_new();
  ir_module *module = ir_parse("hostile.ir", text, length, diags);
  dp_str out = {0};
  dp_diags_render(diags, &out, false);
  dp_str_free(&out);
  if (module) {
    ck_assert_int_eq(diags->errors, 0);
    ck_verified(module);
    char *once = printed(module);
    ir_module *again = must_read(once);
    char *twice = printed(again);
    ck_assert_str_eq(once, twice);
    free(once);
    free(twice);
    ir_module_free(again);
    ir_module_free(module);
  } else {
    ck_assert_int_gt(diags->errors, 0);
  }
  dp_diags_free(diags);
}

START_TEST(damaged_text_never_crashes) {
  const char *text = _i % 2 ? llama : others;
  size_t length = strlen(text);
  uint64_t random = 0x9e3779b97f4a7c15u * (uint64_t)(_i + 1);
  char *copy = malloc(length);
  for (int round = 0; round < 300; round++) {
    memcpy(copy, text, length);
    for (uint64_t n = 1 + next_random(&random) % 4; n > 0; n--) {
      size_t at = next_random(&random) % length, from = next_random(&random) % length;
      size_t run = 1 + next_random(&random) % 12;
      switch (next_random(&random) % 4) {
      case 0:
        copy[at] = (char)next_random(&random);
        break;
      case 1:
        copy[at] = "0123456789{}()[]%@:,=\"+-*T.\n"[next_random(&random) % 28];
        break;
      default: /* a run of text from elsewhere */
        for (size_t i = 0; i < run && at + i < length && from + i < length; i++) copy[at + i] = text[from + i];
      }
    }
    ck_survives(copy, next_random(&random) % 8 ? length : next_random(&random) % length);
  }
  free(copy);
}
END_TEST

START_TEST(deep_nesting_and_huge_numbers_are_refused) {
  dp_str deep = {0};
  dp_str_add(&deep, "module m { graph @g() { ");
  for (int i = 0; i < 200000; i++) dp_str_add(&deep, "group () { ");
  ck_survives(deep.text, deep.length);
  dp_str_free(&deep);
  ck_error("%y = reshape %x {to = f32[T, 99999999999999999999]}", "too large");
  ck_error("%y = reshape %x {to = f32[T, 0]}", "a dimension is at least 1");
  ck_error("%y = reshape %x {to = f32[1, 1, 1, 1, 1, 1, 1]}", "at most 6 dimensions");
  ck_error("%y = reshape %x {to = f32[T, 1099511627776, 1099511627776]}", "more than 2^62 elements");
  ck_error("%y = group (%z: q8_0[32]) { yield %z }", "storage of weights");
  ck_error("\"", "does not end");
  ck_error("\x80", "no meaning");
}
END_TEST

/* ---- the verifier ------------------------------------------------------------------------------------------------ */

static ir_op *find_op(ir_block *block, ir_opcode code) {
  for (ir_op *op = block->first; op; op = op->next) {
    if (op->code == code) return op;
    ir_op *inner = op->body ? find_op(op->body, code) : NULL;
    if (inner) return inner;
  }
  return NULL;
}

static void ck_broken(ir_module *module, const char *message) {
  dp_status status = ir_verify(module, "a bad pass");
  ck_assert_int_eq(status.code, DP_BUG);
  ck_assert_msg(strstr(dp_status_text(&status), "after a bad pass") != NULL, "%s", dp_status_text(&status));
  ck_assert_msg(strstr(dp_status_text(&status), message) != NULL, "expected: %s\nbut got: %s", message,
                dp_status_text(&status));
  dp_status_free(&status);
  char *text = printed(module); /* a broken module can be looked at */
  ck_assert_ptr_nonnull(text);
  free(text);
  ir_module_free(module);
}

START_TEST(verify_catches_use_before_definition) {
  ir_module *module = must_read(llama);
  ir_op *silu = find_op(module->graphs->block, IR_OP_silu), *mul = find_op(module->graphs->block, IR_OP_mul);
  ir_block *body = silu->parent;
  ir_unlink(silu);
  ir_insert(body, mul->next, silu);
  ck_broken(module, "op mul: operand 1 (%?) is not defined before this use");
}
END_TEST

START_TEST(verify_catches_use_of_a_removed_op) {
  ir_module *module = must_read(llama);
  ir_unlink(find_op(module->graphs->block, IR_OP_silu));
  ck_broken(module, "op mul: operand 1 (%?) is not defined before this use");
}
END_TEST

START_TEST(verify_catches_use_outside_the_body) {
  ir_module *module = must_read(llama);
  ir_op *silu = find_op(module->graphs->block, IR_OP_silu);
  module->graphs->block->last->operands[0] = silu->results[0];
  ck_broken(module, "op return: operand 1 (%?) is not defined before this use");
}
END_TEST

START_TEST(verify_catches_a_wrong_type) {
  ir_module *module = must_read(llama);
  find_op(module->graphs->block, IR_OP_silu)->results[0]->type.dims[1].add = 1537;
  ck_broken(module, "op silu: result 1 is marked f32[T, ff:1537] but is f32[T, ff:1536]");
}
END_TEST

START_TEST(verify_catches_an_operand_that_does_not_fit) {
  ir_module *module = must_read(llama);
  ir_op *silu = find_op(module->graphs->block, IR_OP_silu), *mul = find_op(module->graphs->block, IR_OP_mul);
  mul->operands[1] = silu->parent->args[1];
  ck_broken(module, "mul: x is f32[T, ff:1536] and y is f32[T, d:576]");
}
END_TEST

START_TEST(verify_catches_a_missing_terminator) {
  ir_module *module = must_read(llama);
  ir_unlink(find_op(module->graphs->block, IR_OP_yield));
  ck_broken(module, "no terminator follows");
  module = must_read(llama);
  ir_unlink(module->graphs->block->last);
  ck_broken(module, "no terminator follows");
}
END_TEST

START_TEST(verify_catches_a_terminator_in_the_middle) {
  ir_module *module = must_read(llama);
  ir_op *yield = find_op(module->graphs->block, IR_OP_yield);
  ir_clone(yield, yield->parent, NULL, NULL, NULL, 0);
  ck_broken(module, "it stands before the end of its block");
}
END_TEST

START_TEST(verify_catches_lost_attributes_and_weights) {
  ir_module *module = must_read(llama);
  find_op(module->graphs->block, IR_OP_matmul)->attr_count = 0;
  ck_broken(module, "matmul: attribute 'transposed' is missing");
  module = must_read(llama);
  module->weights[0].name = "embd";
  ck_broken(module, "weight @head is tied to what is not another weight");
}
END_TEST

/* ---- rewriting --------------------------------------------------------------------------------------------------- */

START_TEST(a_clone_of_a_loop_stands_alone) {
  ir_module *module = must_read(llama);
  ir_block *block = module->graphs->block;
  ir_op *loop = find_op(block, IR_OP_loop);
  ir_value *x = loop->operands[0], *h = loop->results[0];
  ck_assert_int_eq(ir_count_uses(block, x), 1);
  ir_op *copy = ir_clone(loop, block, loop->next, (ir_value *[]){x}, (ir_value *[]){h}, 1);
  ck_verified(module);
  ck_assert_ptr_eq(copy->operands[0], h);
  ck_assert_int_eq(ir_count_uses(block, h), 2);
  ir_replace_uses(block, h, x);
  ck_assert_int_eq(ir_count_uses(block, h), 0);
  ck_assert_int_eq(ir_count_uses(block, x), 3);
  ir_unlink(loop);
  ck_verified(module);
  char *text = printed(module);
  ck_assert_ptr_nonnull(strstr(text, "%norm = weight"));
  ir_module_free(module);
  module = must_read(text);
  free(text);
  ir_module_free(module);
}
END_TEST

START_TEST(set_attr_replaces_and_keeps_the_order_of_the_table) {
  ir_module *module = must_read(others);
  ir_op *group = find_op(module->graphs->next->block, IR_OP_group), *angles = find_op(group->parent, IR_OP_rope_angles);
  ir_set_attr(angles, ir_attr_i("dim", 4));
  ir_set_attr(angles, ir_attr_f("theta", 2.5));
  ck_assert_int_eq(angles->attr_count, 2);
  ck_assert_double_eq(ir_get_float(angles, "theta", 0), 2.5);
  ck_assert_int_eq(ir_get_int(angles, "dim", 0), 4);
  ck_assert_str_eq(ir_get_string(group, "name", ""), "pair");
  ck_assert_ptr_null(ir_find_attr(group, "count"));
  group->attr_count = 0;
  ir_set_attr(group, ir_attr_s("name", "again"));
  ck_verified(module);
  ir_module_free(module);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("ir");
  TCase *tests = tcase_create("ir");
  tcase_set_timeout(tests, 120);
  tcase_add_test(tests, a_whole_llama_reads_back_to_the_same_text);
  tcase_add_test(tests, odd_names_numbers_and_bodies_read_back_to_the_same_text);
  tcase_add_test(tests, every_op_parses_and_prints);
  tcase_add_test(tests, a_training_graph_reads_back_to_the_same_text);
  tcase_add_test(tests, experts_and_windows_of_tensors_read_back_to_the_same_text);
  tcase_add_test(tests, names_are_hints_made_unique);
  tcase_add_test(tests, written_types_may_be_left_out_and_comments_are_skipped);
  tcase_add_test(tests, shape_errors_show_both_shapes_with_dimension_names);
  tcase_add_test(tests, bodies_that_do_not_fit_are_explained);
  tcase_add_test(tests, slips_in_names_get_a_suggestion);
  tcase_add_loop_test(tests, damaged_text_never_crashes, 0, 8);
  tcase_add_test(tests, deep_nesting_and_huge_numbers_are_refused);
  tcase_add_test(tests, verify_catches_use_before_definition);
  tcase_add_test(tests, verify_catches_use_of_a_removed_op);
  tcase_add_test(tests, verify_catches_use_outside_the_body);
  tcase_add_test(tests, verify_catches_a_wrong_type);
  tcase_add_test(tests, verify_catches_an_operand_that_does_not_fit);
  tcase_add_test(tests, verify_catches_a_missing_terminator);
  tcase_add_test(tests, verify_catches_a_terminator_in_the_middle);
  tcase_add_test(tests, verify_catches_lost_attributes_and_weights);
  tcase_add_test(tests, a_clone_of_a_loop_stands_alone);
  tcase_add_test(tests, set_attr_replaces_and_keeps_the_order_of_the_table);
  suite_add_tcase(suite, tests);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_ENV);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
