/* tests/test_embed.c: dipper inside another program: what the library shows and how it is found, callbacks, graphs over
 * tensors, DLPack, the host's ops, misuse. */
#include "base/base.h"
#include "dipper/aot.h"
#include "dipper/dlpack.h"
#include "dipper/embed.h"
#include "dipper/train.h"

#include <check.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#ifdef __SANITIZE_THREAD__
/* LLVM makes the lock of its timers when it is first needed, and publishes it by atomics, which are not seen in a
 * library that was not built for the sanitizer. */
const char *__tsan_default_suppressions(void);
__attribute__((visibility("default"))) const char *__tsan_default_suppressions(void) {
  return "race:llvm::TimerGroup::TimerGroup\n";
}
#endif

static void check_ok(dp_status status) { ck_assert_msg(status.code == DP_OK, "%s", dp_status_text(&status)); }

static void check_fails(dp_status status, dp_code code, const char *part) {
  ck_assert_msg(status.code == code, "code %d, wanted %d: %s", (int)status.code, (int)code, dp_status_text(&status));
  ck_assert_msg(strstr(dp_status_text(&status), part) != NULL, "'%s' has no '%s'", dp_status_text(&status), part);
  dp_status_free(&status);
}

static double seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* ---- texts */

static const char chain[] = "model chain {\n"
                            "  dim d = 96, out = 64;\n"
                            "  weight w[out, d] from \"w\";\n"
                            "  weight u[out, out] from \"u\";\n"
                            "  weight b[out] from \"b\";\n"
                            "  graph forward(x[T, d]) -> y[T, out] { return relu(x @ w.T + b) @ u; }\n"
                            "  graph twice(x[T, d]) -> y[T, d] { return x + x; }\n"
                            "}\n";

static const char llama[] = "model tiny {\n"
                            "  dim vocab = 300, d = 64, layers = LAYERS, heads = 4, hd = 16, ff = 192;\n"
                            "  weight embed[vocab, d] from \"embed\";\n"
                            "  weight wq[layers][d, d] from \"l.{}.q\";\n"
                            "  weight wk[layers][d, d] from \"l.{}.k\";\n"
                            "  weight wv[layers][d, d] from \"l.{}.v\";\n"
                            "  weight wo[layers][d, d] from \"l.{}.o\";\n"
                            "  weight up[layers][ff, d] from \"l.{}.up\";\n"
                            "  weight down[layers][d, ff] from \"l.{}.down\";\n"
                            "  weight norm[layers][d] from \"l.{}.norm\";\n"
                            "  fn block(x[T, d], l) {\n"
                            "    n = rms_norm(x, norm[l], 1e-5);\n"
                            "    q = rope((n @ wq[l].T) as [T, heads, hd], pos, 10000.0);\n"
                            "    k = rope((n @ wk[l].T) as [T, heads, hd], pos, 10000.0);\n"
                            "    v = (n @ wv[l].T) as [T, heads, hd];\n"
                            "    x = x + (attend(q, k, v, causal, cache = kv[l]) as [T, d]) @ wo[l].T;\n"
                            "    return x + ACT(x @ up[l].T) @ down[l].T;\n"
                            "  }\n"
                            "  graph forward(tokens[T] : i32) -> logits[T, vocab] {\n"
                            "    x = embed[tokens];\n"
                            "    for l in layers { x = block(x, l); }\n"
                            "    return x @ embed.T;\n"
                            "  }\n"
                            "}\n";

static char folder[] = "/tmp/dipper-embed-XXXXXX";

/* The model with so many layers and that activation, as a file in the folder. */
static const char *write_model(const char *activation, int layers, char *path, size_t size) {
  dp_str text = {0};
  char number[16];
  snprintf(number, sizeof number, "%d", layers);
  for (const char *at = llama; *at;) {
    if (strncmp(at, "LAYERS", 6) == 0)
      dp_str_add(&text, number), at += 6;
    else if (strncmp(at, "ACT", 3) == 0)
      dp_str_add(&text, activation), at += 3;
    else
      dp_str_addc(&text, *at++);
  }
  snprintf(path, size, "%s/%s-%d.dip", folder, activation, layers);
  check_ok(dp_write_file_atomic(path, text.text, text.length));
  dp_str_free(&text);
  return path;
}

static float noise(uint32_t i) {
  i = (i ^ 61u ^ (i >> 16)) * 9u;
  i = (i ^ (i >> 4)) * 0x27d4eb2du;
  return (float)((i ^ (i >> 15)) & 0xffff) / 65536.0f - 0.5f;
}

static float *numbers(size_t count, uint32_t seed) {
  float *made = aligned_alloc(64, (count * 4 + 63) / 64 * 64);
  for (size_t i = 0; i < count; i++) made[i] = noise(seed * 100003u + (uint32_t)i);
  return made;
}

/* ---- the host's side */

typedef struct host {
  _Atomic int64_t held, taken; /* bytes */
  int logs, asked;
  double fraction;
  const char *stage;
  bool back;        /* a fraction went down */
  int cancel_after; /* questions; < 0: never */
  double cancelled_at;
} host;

static void *lend(void *user, size_t size, size_t alignment) {
  host *h = user;
  atomic_fetch_add(&h->held, (int64_t)size);
  atomic_fetch_add(&h->taken, (int64_t)size);
  void *memory = aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
  if (memory) memset(memory, 0xa5, size);
  return memory;
}

static void take_back(void *user, void *memory, size_t size, size_t alignment) {
  (void)alignment;
  atomic_fetch_sub(&((host *)user)->held, (int64_t)size);
  free(memory);
}

static void note(void *user, dp_log_level level, const char *text) {
  (void)level, (void)text;
  ((host *)user)->logs++;
}

static void tell(void *user, const char *stage, double fraction) {
  host *h = user;
  if (h->stage && strcmp(h->stage, stage) == 0 && fraction < h->fraction) h->back = true;
  h->stage = stage;
  h->fraction = fraction;
}

static bool asked(void *user) {
  host *h = user;
  bool stop = h->cancel_after >= 0 && h->asked++ >= h->cancel_after;
  if (stop && h->cancelled_at == 0) h->cancelled_at = seconds();
  return stop;
}

static dp_context *new_context(host *h) {
  const dp_callbacks callbacks = {.size = sizeof callbacks,
                                  .user = h,
                                  .log = note,
                                  .allocate = lend,
                                  .release = take_back,
                                  .progress = tell,
                                  .cancel = asked};
  dp_context *context;
  *h = (host){.cancel_after = -1};
  check_ok(dp_context_new(&callbacks, &context));
  return context;
}

/* ---- the library */

static int run_command(const char *command, dp_str *out) {
  FILE *pipe = popen(command, "r");
  ck_assert(pipe != NULL);
  char line[4096];
  while (fgets(line, sizeof line, pipe)) dp_str_add(out, line);
  return pclose(pipe);
}

static void check_command(const char *command) {
  dp_str out = {0};
  int code = run_command(command, &out);
  ck_assert_msg(code == 0, "%s\nreturned %d:\n%s", command, code, out.text ? out.text : "");
  dp_str_free(&out);
}

/* The functions that the headers declare, each between newlines. */
static void declared_functions(dp_str *names) {
  static const char *const headers[] = {"dipper", "embed", "status", "version", "train", "aot"};
  dp_str_addc(names, '\n');
  for (size_t i = 0; i < DP_COUNT(headers); i++) {
    char path[512], *text;
    size_t length;
    snprintf(path, sizeof path, "%s/include/dipper/%s.h", DIPPER_SOURCE_DIR, headers[i]);
    check_ok(dp_read_file(path, &text, &length));
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
      const char *bracket = strchr(line, '('), *begin = bracket;
      bool declares = strncmp(line, "dp_", 3) == 0 || strncmp(line, "void ", 5) == 0 || strncmp(line, "int", 3) == 0 ||
                      strncmp(line, "const ", 6) == 0 || strncmp(line, "size_t ", 7) == 0;
      if (!declares || !bracket) continue;
      while (begin > line && (begin[-1] == '_' || (begin[-1] >= 'a' && begin[-1] <= 'z'))) begin--;
      dp_str_addf(names, "%.*s\n", (int)(bracket - begin), begin);
    }
    free(text);
  }
}

START_TEST(the_library_shows_what_the_headers_declare_and_nothing_else) {
  dp_str symbols = {0}, names = {0};
  declared_functions(&names);
  ck_assert_int_eq(run_command("nm -D --defined-only --format=posix " DIPPER_LIBRARY, &symbols), 0);
  int shown = 0, declared = 0;
  char name[128], sought[140];
  for (const char *at = symbols.text; at && *at; at = strchr(at, '\n') + 1) {
    ck_assert_int_eq(sscanf(at, "%127s", name), 1);
    snprintf(sought, sizeof sought, "\n%s\n", name);
    ck_assert_msg(strstr(names.text, sought) != NULL, "'%s' is shown and not declared", name);
    shown++;
  }
  for (const char *at = names.text; *at; at++) declared += *at == '\n' && at[1];
  ck_assert_int_eq(shown, declared);
  ck_assert_int_gt(shown, 60);
  dp_str_free(&symbols);
  dp_str_free(&names);
}
END_TEST

START_TEST(a_library_tells_its_version) {
  ck_assert_int_eq(dp_abi_version(), DP_ABI_VERSION);
  ck_assert_str_eq(dp_version(), "0.1.0");
}
END_TEST

static const char host_program[] =
    "#include <dipper/embed.h>\n#include <stdio.h>\n"
    "int main(void) {\n"
    "  static const char text[] = \"model m { graph f(x[T, 4]) -> y[T, 4] { return x + x; } }\";\n"
    "  float x[8] = {1, 2, 3, 4, 5, 6, 7, 8};\n"
    "  const int64_t shape[] = {2, 4};\n"
    "  dp_tensor *in, *out = NULL;\n  dp_tensor_info info;\n  dp_graph *graph;\n"
    "  dp_graph_options options = {.size = sizeof options, .cache_dir = \"\", .threads = 1};\n"
    "  dp_status s = dp_graph_compile(NULL, text, sizeof text - 1, NULL, &options, &graph);\n"
    "  if (s.code == DP_OK) s = dp_tensor_from_memory(x, DP_F32, 2, shape, NULL, NULL, NULL, &in);\n"
    "  if (s.code == DP_OK) s = dp_graph_call(graph, &in, 1, &out, 1);\n"
    "  if (s.code == DP_OK) s = dp_tensor_get_info(out, &info);\n"
    "  if (s.code != DP_OK) { printf(\"%s\\n\", dp_status_text(&s)); return 1; }\n"
    "  float last = ((float *)info.data)[info.strides[0] + 3];\n"
    "  dp_tensor_free(out); dp_tensor_free(in); dp_graph_free(graph);\n"
    "  return last == 16 && dp_abi_version() == DP_ABI_VERSION ? 0 : 2;\n}\n";

START_TEST(hosts_find_the_installed_library_by_pkg_config_and_by_cmake) {
  char command[2048], path[256];
  static const char lists[] =
      "cmake_minimum_required(VERSION 3.16)\nproject(host C)\nfind_package(dipper 0.1 REQUIRED)\n"
      "add_executable(host host.c)\ntarget_link_libraries(host PRIVATE dipper::dipper)\n";
  snprintf(path, sizeof path, "%s/host.c", folder);
  check_ok(dp_write_file_atomic(path, host_program, sizeof host_program - 1));
  snprintf(path, sizeof path, "%s/CMakeLists.txt", folder);
  check_ok(dp_write_file_atomic(path, lists, sizeof lists - 1));
  snprintf(command, sizeof command, DIPPER_CMAKE " --install " DIPPER_BUILD_DIR " --component library --prefix %s/installed 2>&1", folder);
  check_command(command);
  snprintf(command, sizeof command,
           "cd %s && cc -std=c17 -Wall -Werror " DIPPER_HOST_FLAGS
           " host.c -o by_pkg $(PKG_CONFIG_PATH=installed/" DIPPER_LIBDIR
           "/pkgconfig pkg-config --cflags --libs dipper) -Wl,-rpath,$PWD/installed/" DIPPER_LIBDIR
           " 2>&1 && ./by_pkg 2>&1",
           folder);
  check_command(command);
  snprintf(command, sizeof command,
           "cd %s && " DIPPER_CMAKE
           " -S . -B found -DCMAKE_PREFIX_PATH=$PWD/installed -DCMAKE_C_FLAGS='" DIPPER_HOST_FLAGS
           "' 2>&1 && " DIPPER_CMAKE " --build found 2>&1 && ./found/host 2>&1",
           folder);
  check_command(command);
}
END_TEST

/* ---- graphs */

enum { D = 96, OUT = 64 };

typedef struct chain_weights {
  float *w, *u, *b;
  dp_weight_view views[3];
} chain_weights;

static const int64_t shape_w[] = {OUT, D}, shape_u[] = {OUT, OUT}, shape_b[] = {OUT};

static chain_weights make_weights(void) {
  chain_weights m = {numbers(OUT * D, 1), numbers(OUT * OUT, 2), numbers(OUT, 3), {{0}}};
  m.views[0] = (dp_weight_view){"w", DP_F32, 2, shape_w, m.w};
  m.views[1] = (dp_weight_view){"u", DP_F32, 2, shape_u, m.u};
  m.views[2] = (dp_weight_view){"b", DP_F32, 1, shape_b, m.b};
  return m;
}

static void free_weights(chain_weights *m) {
  free(m->w);
  free(m->u);
  free(m->b);
}

static dp_graph *compile_chain(dp_context *context, const chain_weights *m, const char *name, const char *backend) {
  const dp_graph_options options = {.size = sizeof options,
                                    .weights = m->views,
                                    .weight_count = 3,
                                    .threads = 2,
                                    .rows = 300,
                                    .backend = backend,
                                    .verify_each = true};
  dp_graph *graph;
  check_ok(dp_graph_compile(context, chain, strlen(chain), name, &options, &graph));
  return graph;
}

static dp_tensor *view(float *data, int64_t rows, int64_t columns) {
  const int64_t shape[] = {rows, columns};
  dp_tensor *tensor;
  check_ok(dp_tensor_from_memory(data, DP_F32, 2, shape, NULL, NULL, NULL, &tensor));
  return tensor;
}

static dp_tensor *call_one(dp_graph *graph, dp_tensor *x) {
  dp_tensor *y = NULL;
  check_ok(dp_graph_call(graph, &x, 1, &y, 1));
  return y;
}

/* Products add along k in order by fused multiply-add: the very bits. */
static float reference(const chain_weights *m, const float *x, int column) {
  float hidden[OUT], sum = 0;
  for (int j = 0; j < OUT; j++) {
    float h = 0;
    for (int k = 0; k < D; k++) h = fmaf(x[k], m->w[j * D + k], h);
    h += m->b[j];
    hidden[j] = h > 0 ? h : 0;
  }
  for (int j = 0; j < OUT; j++) sum = fmaf(hidden[j], m->u[j * OUT + column], sum);
  return sum;
}

START_TEST(a_graph_over_the_hosts_weights_is_a_function_of_its_rows_bit_for_bit) {
  chain_weights m = make_weights();
  static const char *const backends[] = {NULL, "interp"};
  enum { ROWS = 230 };
  float *x = numbers(ROWS * D, 7);
  for (size_t at = 0; at < DP_COUNT(backends); at++) {
    dp_graph *graph = compile_chain(NULL, &m, NULL, backends[at]);
    dp_tensor *all = view(x, ROWS, D), *y = call_one(graph, all);
    dp_tensor_info info, part;
    check_ok(dp_tensor_get_info(y, &info));
    ck_assert_int_eq(info.shape[0], ROWS);
    ck_assert_int_eq(info.shape[1], OUT);
    for (int64_t r = 0; r < ROWS; r += 17) {
      const float *row = (float *)info.data + r * info.strides[0];
      for (int c = 0; c < OUT; c++) {
        float wanted = reference(&m, x + r * D, c);
        ck_assert_msg(memcmp(&row[c], &wanted, 4) == 0, "[%lld, %d] is %.9g, not %.9g", (long long)r, c, (double)row[c],
                      (double)wanted);
      }
      dp_tensor *one = view(x + r * D, 1, D), *alone = call_one(graph, one);
      check_ok(dp_tensor_get_info(alone, &part));
      ck_assert_mem_eq(part.data, row, OUT * 4);
      dp_tensor_free(one);
      dp_tensor_free(alone);
    }
    dp_tensor_free(all);
    dp_tensor_free(y);
    dp_graph_free(graph);
  }
  free(x);
  free_weights(&m);
}
END_TEST

START_TEST(weights_are_borrowed_where_they_lie_as_kernels_read_them_and_packed_elsewhere) {
  chain_weights m = make_weights();
  /* The last byte of a borrowed vector is the last before memory that nobody may touch. */
  size_t page = (size_t)sysconf(_SC_PAGESIZE);
  char *guarded = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ck_assert(guarded != MAP_FAILED && mprotect(guarded + page, page, PROT_NONE) == 0);
  float *b = (float *)(void *)(guarded + page - OUT * 4);
  memcpy(b, m.b, OUT * 4);
  m.views[2].data = b;
  dp_graph *graph = compile_chain(NULL, &m, "forward", NULL);
  dp_graph_info info;
  check_ok(dp_graph_get_info(graph, &info));
  ck_assert_int_eq(info.borrowed_bytes, OUT * 4 + OUT * OUT * 4); /* b, and u: one block of 64 columns */
  ck_assert_int_ge(info.packed_bytes, OUT * D * 4);
  float *x = numbers(D, 9), changed;
  dp_tensor *in = view(x, 1, D), *y = call_one(graph, in);
  dp_tensor_info out;
  check_ok(dp_tensor_get_info(y, &out));
  changed = ((float *)out.data)[5];
  ck_assert(changed == reference(&m, x, 5));
  for (int i = 0; i < OUT * D; i++) m.w[i] = NAN; /* packed: not read again */
  dp_tensor *again = call_one(graph, in);
  check_ok(dp_tensor_get_info(again, &out));
  ck_assert(((float *)out.data)[5] == changed);
  dp_tensor_free(again);
  dp_tensor_free(y);
  dp_tensor_free(in);
  dp_graph_free(graph);
  munmap(guarded, 2 * page);
  free(x);
  free_weights(&m);
}
END_TEST

START_TEST(results_go_where_the_caller_says_and_a_graph_is_chosen_by_name) {
  chain_weights m = make_weights();
  dp_graph *graph = compile_chain(NULL, &m, "twice", NULL);
  float *x = numbers(3 * D, 4), out[D * 3 * 2];
  memset(out, 0, sizeof out);
  const int64_t shape[] = {3, D}, strides[] = {2, 6}; /* columns outermost, every second float */
  dp_tensor *in = view(x, 3, D), *to;
  check_ok(dp_tensor_from_memory(out, DP_F32, 2, shape, strides, NULL, NULL, &to));
  check_ok(dp_graph_call(graph, &in, 1, &to, 1));
  for (int r = 0; r < 3; r++)
    for (int c = 0; c < D; c++) {
      ck_assert(out[2 * r + 6 * c] == 2 * x[r * D + c]);
      ck_assert(out[2 * r + 6 * c + 1] == 0);
    }
  dp_graph_value value;
  check_ok(dp_graph_get_input(graph, 0, &value));
  ck_assert_str_eq(value.name, "x");
  ck_assert_int_eq(value.shape[0], -1);
  ck_assert_int_eq(value.shape[1], D);
  check_fails(dp_graph_get_output(graph, 1, &value), DP_INVALID, "there is no value 1");
  dp_tensor_free(to);
  dp_tensor_free(in);
  dp_graph_free(graph);
  free(x);
  free_weights(&m);
}
END_TEST

START_TEST(mistakes_in_graphs_are_named) {
  chain_weights m = make_weights();
  dp_graph *graph = NULL;
  dp_graph_options options = {.size = sizeof options, .weights = m.views, .weight_count = 2};
  check_fails(dp_graph_compile(NULL, chain, strlen(chain), NULL, &options, &graph), DP_INVALID, "b");
  check_fails(dp_graph_compile(NULL, NULL, 0, NULL, &options, &graph), DP_INVALID, "the text is NULL");
  check_fails(dp_graph_compile(NULL, "model x {", 9, NULL, &options, &graph), DP_INVALID, "text:1:");
  options.weight_count = 3;
  check_fails(dp_graph_compile(NULL, chain, strlen(chain), "back", &options, &graph), DP_NOT_FOUND, "no graph 'back'");
  options.backend = "cuda";
  check_fails(dp_graph_compile(NULL, chain, strlen(chain), NULL, &options, &graph), DP_UNSUPPORTED, "on the CPU");
  options.backend = NULL;
  options.size = 0;
  check_fails(dp_graph_compile(NULL, chain, strlen(chain), NULL, &options, &graph), DP_INVALID,
              "sizeof(dp_graph_options)");
  options.size = sizeof options;
  m.views[0].dtype = DP_I32;
  check_fails(dp_graph_compile(NULL, chain, strlen(chain), NULL, &options, &graph), DP_INVALID, "weight 'w' is i32");
  m.views[0].dtype = DP_F32;
  graph = compile_chain(NULL, &m, NULL, NULL);
  float *x = numbers(400 * D, 4);
  dp_tensor *wide = view(x, 3, OUT), *many = view(x, 400, D), *good = view(x, 2, D), *y = NULL, *bad = view(x, 3, OUT),
            *none = NULL;
  check_fails(dp_graph_call(graph, &wide, 1, &y, 1), DP_INVALID, "'x' must be f32[T, 96], but is f32[3, 64]");
  check_fails(dp_graph_call(graph, &many, 1, &y, 1), DP_INVALID, "300 at most");
  check_fails(dp_graph_call(graph, &good, 1, &bad, 1), DP_INVALID, "others have 2 rows");
  check_fails(dp_graph_call(graph, &good, 2, &y, 1), DP_INVALID, "takes 1 inputs");
  check_fails(dp_graph_call(graph, &none, 1, &y, 1), DP_INVALID, "tensor 'x' is NULL");
  check_fails(dp_graph_call(graph, NULL, 1, &y, 1), DP_INVALID, "list of inputs is NULL");
  check_fails(dp_graph_call(NULL, &good, 1, &y, 1), DP_INVALID, "the graph is NULL");
  ck_assert(y == NULL);
  dp_tensor_free(wide), dp_tensor_free(many), dp_tensor_free(good), dp_tensor_free(bad);
  dp_graph_free(graph);
  free(x);
  free_weights(&m);
}
END_TEST

START_TEST(ids_of_a_table_are_refused_when_they_are_outside) {
  static const char text[] = "model m { dim d = 64; weight e[10, d] from \"e\";\n"
                             "  graph f(first[T] : i32, second[T] : i32) -> y[T, d] { return e[first] + e[second]; } }";
  float *e = numbers(640, 5);
  const int64_t shape[] = {10, 64}, rows[] = {2};
  const dp_weight_view views[] = {{"e", DP_F32, 2, shape, e}};
  const dp_graph_options options = {.size = sizeof options, .weights = views, .weight_count = 1, .threads = 1};
  dp_graph *graph;
  check_ok(dp_graph_compile(NULL, text, strlen(text), NULL, &options, &graph));
  int32_t first[] = {3, 9};
  int64_t second[] = {0, 10};
  dp_tensor *in[2], *y = NULL;
  check_ok(dp_tensor_from_memory(first, DP_I32, 1, rows, NULL, NULL, NULL, &in[0]));
  check_ok(dp_tensor_from_memory(second, DP_I64, 1, rows, NULL, NULL, NULL, &in[1]));
  check_fails(dp_graph_call(graph, in, 2, &y, 1), DP_INVALID, "'second' [1] is 10");
  second[1] = 4;
  check_ok(dp_graph_call(graph, in, 2, &y, 1));
  dp_tensor_info info;
  check_ok(dp_tensor_get_info(y, &info));
  ck_assert(((float *)info.data)[info.strides[0] + 7] == e[9 * 64 + 7] + e[4 * 64 + 7]);
  dp_tensor_free(y), dp_tensor_free(in[0]), dp_tensor_free(in[1]);
  dp_graph_free(graph);
  free(e);
}
END_TEST

/* ---- DLPack */

static void count_release(void *user, void *data) {
  (void)data;
  ++*(int *)user;
}

static int deleted;
static void delete_mine(DLManagedTensor *managed) { deleted += managed->manager_ctx == &deleted; }
static void delete_mine_too(DLManagedTensorVersioned *managed) { deleted += managed->manager_ctx == &deleted; }

START_TEST(dlpack_shares_memory_until_the_last_owner_is_gone) {
  float data[6] = {1, 2, 3, 4, 5, 6};
  const int64_t shape[] = {2, 3};
  int released = 0;
  dp_tensor *tensor, *back;
  DLManagedTensor *plain;
  DLManagedTensorVersioned *versioned;
  check_ok(dp_tensor_from_memory(data, DP_F32, 2, shape, NULL, count_release, &released, &tensor));
  check_ok(dp_tensor_to_dlpack(tensor, &plain));
  check_ok(dp_tensor_to_dlpack_versioned(tensor, &versioned));
  dp_tensor_free(tensor);
  ck_assert_int_eq(released, 0);
  ck_assert_ptr_eq(plain->dl_tensor.data, data);
  ck_assert_int_eq(plain->dl_tensor.shape[1], 3);
  ck_assert_int_eq(plain->dl_tensor.strides[0], 3);
  ck_assert_int_eq(plain->dl_tensor.dtype.code, kDLFloat);
  ck_assert_int_eq(plain->dl_tensor.dtype.bits, 32);
  ck_assert_int_eq(versioned->version.major, 1);
  plain->deleter(plain);
  ck_assert_int_eq(released, 0);
  check_ok(dp_tensor_from_dlpack_versioned(versioned, &back));
  dp_tensor_info info;
  check_ok(dp_tensor_get_info(back, &info));
  ck_assert_ptr_eq(info.data, data);
  dp_tensor_free(back);
  ck_assert_int_eq(released, 1);
}
END_TEST

START_TEST(dlpack_that_does_not_fit_stays_the_callers) {
  float data[4] = {1, 2, 3, 4};
  int64_t shape[] = {2, 2}, strides[] = {1, 2};
  dp_tensor *tensor;
  dp_tensor_info info;
  deleted = 0;
  DLManagedTensor managed = {.dl_tensor = {.data = data,
                                           .device = {kDLCPU, 0},
                                           .ndim = 2,
                                           .dtype = {kDLFloat, 32, 1},
                                           .shape = shape,
                                           .strides = strides,
                                           .byte_offset = 0},
                             .manager_ctx = &deleted,
                             .deleter = delete_mine};
  managed.dl_tensor.device.device_type = kDLCUDA;
  check_fails(dp_tensor_from_dlpack(&managed, &tensor), DP_UNSUPPORTED, "bring it to the CPU");
  managed.dl_tensor.device.device_type = kDLCPU;
  managed.dl_tensor.dtype.bits = 8;
  check_fails(dp_tensor_from_dlpack(&managed, &tensor), DP_UNSUPPORTED, "8 bits");
  managed.dl_tensor.dtype.bits = 32;
  check_fails(dp_tensor_from_dlpack(NULL, &tensor), DP_INVALID, "NULL");
  ck_assert_int_eq(deleted, 0);
  check_ok(dp_tensor_from_dlpack(&managed, &tensor));
  check_ok(dp_tensor_get_info(tensor, &info));
  ck_assert_int_eq(info.strides[1], 2);
  dp_tensor_free(tensor);
  ck_assert_int_eq(deleted, 1);
  DLManagedTensorVersioned later = {
      .version = {2, 0}, .dl_tensor = managed.dl_tensor, .manager_ctx = &deleted, .deleter = delete_mine_too};
  check_fails(dp_tensor_from_dlpack_versioned(&later, &tensor), DP_UNSUPPORTED, "DLPack 2.0");
  later.version.major = 1;
  later.flags = DLPACK_FLAG_BITMASK_READ_ONLY;
  check_ok(dp_tensor_from_dlpack_versioned(&later, &tensor));
  check_ok(dp_tensor_get_info(tensor, &info));
  ck_assert(info.read_only);
  dp_tensor_free(tensor);
  ck_assert_int_eq(deleted, 2);
}
END_TEST

START_TEST(a_result_outlives_its_graph_and_context) {
  host h;
  dp_context *context = new_context(&h);
  chain_weights m = make_weights();
  dp_graph *graph = compile_chain(context, &m, NULL, NULL);
  float *x = numbers(4 * D, 7);
  dp_tensor *in = view(x, 4, D), *y = call_one(graph, in);
  DLManagedTensor *managed;
  check_ok(dp_tensor_to_dlpack(y, &managed));
  dp_tensor_free(y);
  dp_tensor_free(in);
  dp_graph_free(graph);
  dp_context_free(context);
  ck_assert_int_gt(h.held, 0);
  ck_assert(((float *)managed->dl_tensor.data)[3 * managed->dl_tensor.strides[0] + 1] == reference(&m, x + 3 * D, 1));
  managed->deleter(managed);
  ck_assert_int_eq(h.held, 0);
  free(x);
  free_weights(&m);
}
END_TEST

/* ---- the host's ops */

static bool scaled_silu(void *user, const dp_rows *x, int count, const dp_rows *y) {
  (void)count;
  float by = *(const float *)user;
  for (int64_t r = 0; r < y->rows; r++)
    for (int64_t c = 0; c < y->columns; c++) {
      float v = x->data[r * x->stride + c];
      y->data[r * y->stride + c] = by * v / (1 + expf(-v));
    }
  return true;
}

/* Of x and dy. */
static bool scaled_silu_back(void *user, const dp_rows *in, int count, const dp_rows *dx) {
  (void)count;
  float by = *(const float *)user;
  for (int64_t r = 0; r < dx->rows; r++)
    for (int64_t c = 0; c < dx->columns; c++) {
      float v = in[0].data[r * in[0].stride + c], dy = in[1].data[r * in[1].stride + c], s = 1 / (1 + expf(-v));
      dx->data[r * dx->stride + c] = by * dy * (s + v * s * (1 - s));
    }
  return true;
}

/* Two values side by side: the sum of each of the first's columns and the second's one. */
static bool join_shape(void *user, const int64_t *const *shapes, const int *rank, int64_t *result, int *result_rank,
                       const char **message) {
  (void)user;
  if (rank[0] != 1 || rank[1] != 1 || shapes[1][0] != 1) return *message = "the second has one column", false;
  *result_rank = 2;
  result[0] = 2;
  result[1] = shapes[0][0];
  return true;
}

static bool join(void *user, const dp_rows *in, int count, const dp_rows *y) {
  (void)user, (void)count;
  for (int64_t r = 0; r < y->rows; r++)
    for (int64_t c = 0; c < y->columns; c++)
      y->data[r * y->stride + c] =
          in[0].data[r * in[0].stride + c % in[0].columns] + (float)(c / in[0].columns) * in[1].data[r * in[1].stride];
  return true;
}

static bool fail_always(void *user, const dp_rows *in, int count, const dp_rows *y) {
  (void)user, (void)in, (void)count, (void)y;
  return false;
}

static dp_op op_of(const char *name, int operands, bool (*forward)(void *, const dp_rows *, int, const dp_rows *)) {
  static float one = 1;
  return (dp_op){.size = sizeof(dp_op), .name = name, .operands = operands, .forward = forward, .user = &one};
}

START_TEST(the_hosts_op_runs_inside_a_graph_row_by_row) {
  static const char text[] =
      "model m { dim d = 80; graph f(x[T, d], s[T, 1]) -> y[T, 2, d] { return join(x + x, s * 2.0); } }";
  static const char *const backends[] = {NULL, "interp"};
  host h;
  dp_context *context = new_context(&h);
  dp_op op = op_of("join", 2, join);
  op.shape = join_shape;
  check_ok(dp_context_add_op(context, &op));
  enum { ROWS = 200 };
  float *x = numbers(ROWS * 80, 1), *s = numbers(ROWS, 2);
  for (size_t at = 0; at < DP_COUNT(backends); at++) {
    const dp_graph_options options = {
        .size = sizeof options, .threads = 2, .verify_each = true, .backend = backends[at]};
    dp_graph *graph;
    check_ok(dp_graph_compile(context, text, strlen(text), NULL, &options, &graph));
    dp_tensor *in[] = {view(x, ROWS, 80), view(s, ROWS, 1)}, *y = NULL;
    check_ok(dp_graph_call(graph, in, 2, &y, 1));
    dp_tensor_info info;
    check_ok(dp_tensor_get_info(y, &info));
    ck_assert_int_eq(info.rank, 3);
    for (int64_t r = 0; r < ROWS; r++)
      for (int c = 0; c < 160; c++) {
        float wanted = 2 * x[r * 80 + c % 80] + (float)(c / 80) * (2 * s[r]),
              have = ((float *)info.data)[r * info.strides[0] + c];
        ck_assert_msg(have == wanted, "[%lld, %d] is %g, not %g", (long long)r, c, (double)have, (double)wanted);
      }
    dp_tensor_free(y), dp_tensor_free(in[0]), dp_tensor_free(in[1]);
    dp_graph_free(graph);
  }
  dp_context_free(context);
  free(x);
  free(s);
}
END_TEST

START_TEST(mistakes_with_the_hosts_ops_are_named) {
  host h;
  dp_context *context = new_context(&h);
  dp_graph *graph;
  dp_op op = op_of("rms_norm", 1, scaled_silu);
  check_fails(dp_context_add_op(context, &op), DP_INVALID, "the language's own");
  op.name = "1x";
  check_fails(dp_context_add_op(context, &op), DP_INVALID, "is no name");
  op.name = "mine";
  op.operands = 9;
  check_fails(dp_context_add_op(context, &op), DP_INVALID, "9 operands");
  op = op_of("join", 2, join);
  op.shape = join_shape;
  check_ok(dp_context_add_op(context, &op));
  check_fails(dp_context_add_op(context, &op), DP_INVALID, "an op 'join' already");
  op = op_of("fails", 1, fail_always);
  check_ok(dp_context_add_op(context, &op));
#define COMPILE(body) dp_graph_compile(context, TEXT(body), strlen(TEXT(body)), NULL, NULL, &graph)
#define TEXT(body) "model m { graph f(x[T, 64]) -> y[T, 64] { return " body "; } }"
  check_fails(COMPILE("join(x)"), DP_INVALID, "'join' takes 2 operands but is given 1");
  check_fails(COMPILE("join(x, x)"), DP_INVALID, "the second has one column");
  check_fails(COMPILE("jon(x, x)"), DP_INVALID, "join");
  check_fails(COMPILE("fails(3.0)"), DP_INVALID, "takes f32[T, ...]");
  check_ok(COMPILE("fails(x)"));
  float *x = numbers(64, 1);
  dp_tensor *in = view(x, 1, 64), *y = NULL;
  check_fails(dp_graph_call(graph, &in, 1, &y, 1), DP_INVALID, "op 'fails' of the host failed");
  ck_assert(y == NULL);
  dp_tensor_free(in);
  dp_graph_free(graph);
  dp_context_free(context);
  free(x);
}
END_TEST

/* Loss, then the loss after an update, of a model with one activation or the other. */
static void train(dp_context *context, const char *activation, float *losses) {
  char path[256];
  static const int32_t ids[] = {5, 17, 200, 3, 99, 42}, targets[] = {17, 200, 3, 99, 42, 7};
  dp_training training = {.model = {.path = write_model(activation, 2, path, sizeof path),
                                    .weights = "random:3",
                                    .threads = 2,
                                    .step_tokens = 64,
                                    .host = context},
                          .optimizer = dp_adamw_defaults()};
  dp_trainer *trainer;
  const dp_example example = {ids, targets, DP_COUNT(ids), NULL};
  const float *rows;
  check_ok(dp_trainer_new(&training, &trainer));
  for (int step = 0; step < 4; step++) {
    check_ok(dp_trainer_add(trainer, &example, 1, &rows));
    losses[step] = rows[3];
    check_ok(dp_trainer_update(trainer, DP_COUNT(ids), 1e-2, NULL));
  }
  dp_trainer_free(trainer);
}

START_TEST(the_hosts_op_is_refused_by_name_ahead_of_time_and_without_its_host) {
  host h;
  dp_context *context = new_context(&h);
  dp_op op = op_of("my_silu", 1, scaled_silu);
  check_ok(dp_context_add_op(context, &op));
  char path[256], object[256];
  dp_options options = {.path = write_model("my_silu", 1, path, sizeof path), .host = context};
  const dp_compilation how = {.emit = DP_EMIT_OBJECT};
  snprintf(object, sizeof object, "%s/never.o", folder);
  check_fails(dp_compile(&options, &how, object), DP_UNSUPPORTED, "op 'my_silu' is the host's");
  options.host = NULL;
  check_fails(dp_compile(&options, &how, object), DP_INVALID, "my_silu");
  ck_assert_int_ne(access(object, F_OK), 0);
  dp_context_free(context);
}
END_TEST

START_TEST(the_hosts_op_is_trained_through_by_its_gradient) {
  host h;
  dp_context *context = new_context(&h);
  static const char *const gradients[] = {"my_silu_back"};
  dp_op op = op_of("my_silu", 1, scaled_silu), back = op_of("my_silu_back", 2, scaled_silu_back);
  op.gradients = gradients;
  check_ok(dp_context_add_op(context, &op));
  check_ok(dp_context_add_op(context, &back));
  dp_op plain = op_of("untrained", 1, scaled_silu);
  check_ok(dp_context_add_op(context, &plain));
  float own[4], builtin[4];
  train(context, "my_silu", own);
  train(NULL, "silu", builtin);
  for (int i = 0; i < 4; i++)
    ck_assert_msg(fabsf(own[i] - builtin[i]) < 2e-4f, "step %d: %g, by silu %g", i, (double)own[i], (double)builtin[i]);
  ck_assert(own[3] < own[0]);
  char path[256];
  dp_training training = {
      .model = {.path = write_model("untrained", 1, path, sizeof path), .weights = "random:3", .host = context}};
  dp_trainer *trainer;
  check_fails(dp_trainer_new(&training, &trainer), DP_UNSUPPORTED, "the host's op 'untrained'");
  dp_context_free(context);
  ck_assert_int_eq(h.held, 0);
}
END_TEST

/* ---- models: callbacks, misuse */

static dp_model *open_tiny(dp_context *context, int layers) {
  char path[256];
  const dp_options options = {.path = write_model("silu", layers, path, sizeof path),
                              .weights = "random:1",
                              .threads = 2,
                              .context = 2048,
                              .host = context};
  dp_model *model;
  check_ok(dp_model_open(&options, &model));
  return model;
}

START_TEST(large_memory_is_the_hosts_and_comes_back) {
  host h;
  dp_context *context = new_context(&h);
  dp_model *model = open_tiny(context, 2), *plain = open_tiny(NULL, 2);
  ck_assert_int_gt(h.held, 1 << 20);
  ck_assert(!h.back);
  static const int32_t ids[] = {1, 2, 3};
  dp_session *session, *other;
  dp_logits logits, wanted;
  check_ok(dp_session_new(model, &session));
  check_ok(dp_session_new(plain, &other));
  check_ok(dp_session_feed(session, ids, 3, DP_WANT_ALL, &logits));
  check_ok(dp_session_feed(other, ids, 3, DP_WANT_ALL, &wanted));
  for (int r = 0; r < 3; r++)
    ck_assert_mem_eq(logits.data + r * logits.stride, wanted.data + r * wanted.stride, 300 * 4);
  dp_session_free(session), dp_session_free(other);
  dp_model_free(model), dp_model_free(plain);
  ck_assert_int_eq(h.held, 0);
  dp_context_free(context);
}
END_TEST

/* The longest that a call goes on behind its host's first refusal. */
static void check_stopped(const host *h, dp_status status, const char *what) {
  double took = seconds() - h->cancelled_at;
  check_fails(status, DP_CANCELLED, "stopped by the host");
  ck_assert_msg(took < 0.05, "%s went on for %.0f ms", what, 1e3 * took);
}

START_TEST(a_compile_stops_when_the_host_says_so) {
  host h;
  dp_context *context = new_context(&h);
  char path[256];
  const dp_options options = {.path = write_model("gelu", 3, path, sizeof path),
                              .weights = "random:1",
                              .threads = 2,
                              .cache_dir = "",
                              .host = context};
  dp_model *model = NULL;
  for (int after = 3; after < 12; after += 4) { /* the first two questions are of reading */
    h.asked = 0, h.cancelled_at = 0, h.cancel_after = after;
    check_stopped(&h, dp_model_open(&options, &model), "a compile");
  }
  ck_assert(model == NULL);
  dp_context_free(context); /* waits for what goes on */
  ck_assert_int_eq(h.held, 0);
}
END_TEST

START_TEST(a_step_stops_and_its_session_goes_on_as_if_it_had_not_been) {
  host h;
  dp_context *context = new_context(&h);
  dp_model *model = open_tiny(context, 24);
  int32_t ids[512];
  for (int i = 0; i < 512; i++) ids[i] = i * 7 % 300;
  dp_session *session, *fresh;
  dp_logits logits;
  check_ok(dp_session_new(model, &session));
  check_ok(dp_session_feed(session, ids, 40, DP_WANT_NONE, NULL));
  h.asked = 0, h.cancelled_at = 0, h.cancel_after = 1;
  check_stopped(&h, dp_session_feed(session, ids + 40, 400, DP_WANT_LAST, &logits), "a step");
  ck_assert_int_eq(dp_session_length(session), 40);
  const dp_generation generation = {.max_tokens = 1000};
  h.asked = 0, h.cancelled_at = 0, h.cancel_after = 5;
  check_ok(dp_session_new(model, &fresh));
  check_stopped(&h, dp_generate(fresh, ids, 20, &generation, NULL), "a generation");
  dp_session_free(fresh);
  h.cancel_after = -1;
  float *kept = malloc(300 * sizeof *kept);
  check_ok(dp_session_feed(session, ids + 40, 400, DP_WANT_LAST, &logits));
  memcpy(kept, logits.data, 300 * sizeof *kept);
  check_ok(dp_session_new(model, &fresh));
  check_ok(dp_session_feed(fresh, ids, 440, DP_WANT_LAST, &logits));
  ck_assert_mem_eq(kept, logits.data, 300 * sizeof *kept);
  free(kept);
  dp_session_free(session), dp_session_free(fresh);
  dp_model_free(model);
  dp_context_free(context);
}
END_TEST

START_TEST(a_session_tells_that_its_model_was_freed) {
  host h;
  dp_context *context = new_context(&h);
  dp_model *model = open_tiny(context, 1);
  dp_session *session, *freed;
  static const int32_t ids[] = {1, 2};
  dp_logits logits;
  check_ok(dp_session_new(model, &session));
  check_ok(dp_session_new(model, &freed));
  dp_session_free(freed);
  check_fails(dp_session_feed(freed, ids, 2, DP_WANT_LAST, &logits), DP_INVALID, "no session, or was freed");
  dp_model_free(model);
  ck_assert_int_eq(h.held, 0);
  check_fails(dp_session_feed(session, ids, 2, DP_WANT_LAST, &logits), DP_INVALID, "the model was freed");
  ck_assert_int_eq(dp_session_length(session), 0);
  dp_session_truncate(session, 0);
  dp_session *never;
  check_fails(dp_session_new(model, &never), DP_INVALID,
              "dp_session_new: the model was freed"); /* its context keeps the shell */
  dp_model_free(model);
  dp_session_free(session);
  dp_context_free(context);
}
END_TEST

START_TEST(null_is_an_error_and_names_the_call) {
  dp_session *session;
  dp_tokens tokens;
  dp_text text;
  dp_model *model;
  dp_tensor *tensor;
  dp_context *context;
  const dp_callbacks unsized = {0}, half = {.size = sizeof half, .allocate = lend};
  check_fails(dp_model_open(NULL, &model), DP_INVALID, "dp_model_open: the options is NULL");
  check_fails(dp_session_new(NULL, &session), DP_INVALID, "dp_session_new: the model is NULL");
  check_fails(dp_session_feed(NULL, NULL, 0, DP_WANT_NONE, NULL), DP_INVALID, "the session is NULL");
  check_fails(dp_generate(NULL, NULL, 0, NULL, NULL), DP_INVALID, "dp_generate");
  check_fails(dp_tokenize(NULL, "", 0, false, &tokens), DP_INVALID, "dp_tokenize: the model is NULL");
  check_fails(dp_detokenize(NULL, NULL, 0, false, &text), DP_INVALID, "dp_detokenize: the model is NULL");
  check_fails(dp_tensor_new(NULL, (dp_dtype)99, 0, NULL, &tensor), DP_INVALID, "99 is no dp_dtype");
  check_fails(dp_tensor_from_memory(NULL, DP_F32, 1, (const int64_t[]){2}, NULL, NULL, NULL, &tensor), DP_INVALID,
              "data is NULL");
  check_fails(dp_tensor_new(NULL, DP_F32, 1, (const int64_t[]){-2}, &tensor), DP_INVALID, "dimension 0");
  check_fails(dp_context_new(&unsized, &context), DP_INVALID, "sizeof(dp_callbacks)");
  check_fails(dp_context_new(&half, &context), DP_INVALID, "allocate and release");
  dp_model_free(NULL), dp_session_free(NULL), dp_graph_free(NULL), dp_tensor_free(NULL), dp_context_free(NULL);
}
END_TEST

/* ---- threads */

typedef struct waiting {
  _Atomic int inside, leave;
} waiting;

static bool wait_inside(void *user) {
  waiting *w = user;
  atomic_store(&w->inside, 1);
  while (!atomic_load(&w->leave)) usleep(1000);
  return false;
}

typedef struct generating {
  dp_session *session;
  waiting *waiting;
} generating;

static void *generate_slowly(void *argument) {
  generating *g = argument;
  const int32_t id = 1;
  const dp_generation generation = {.max_tokens = 3, .go_on = wait_inside, .user = g->waiting};
  check_ok(dp_generate(g->session, &id, 1, &generation, NULL));
  return NULL;
}

START_TEST(a_second_thread_is_told_that_the_model_is_in_use) {
  dp_model *model = open_tiny(NULL, 1);
  waiting w = {0};
  generating g = {.waiting = &w};
  dp_session *other, *late;
  const int32_t id = 1;
  pthread_t thread;
  check_ok(dp_session_new(model, &g.session));
  check_ok(dp_session_new(model, &other));
  ck_assert_int_eq(pthread_create(&thread, NULL, generate_slowly, &g), 0);
  while (!atomic_load(&w.inside)) usleep(1000);
  check_fails(dp_session_feed(other, &id, 1, DP_WANT_LAST, NULL), DP_BUSY, "used by another thread");
  check_fails(dp_session_new(model, &late), DP_BUSY, "used by another thread");
  atomic_store(&w.leave, 1);
  pthread_join(thread, NULL);
  check_ok(dp_session_feed(other, &id, 1, DP_WANT_LAST, NULL));
  dp_session_free(other), dp_session_free(g.session);
  dp_model_free(model);
}
END_TEST

typedef struct worker {
  dp_context *context;
  int number;
  float result[300], row[OUT];
} worker;

static void *work(void *argument) {
  worker *w = argument;
  chain_weights m = make_weights();
  int32_t ids[30];
  for (int i = 0; i < 30; i++) ids[i] = i * 11 % 300;
  dp_model *model = open_tiny(w->context, 1 + w->number);
  dp_graph *graph = compile_chain(w->context, &m, NULL, NULL);
  float *x = numbers(3 * D, 5);
  for (int round = 0; round < 3; round++) {
    dp_session *session;
    dp_logits logits;
    check_ok(dp_session_new(model, &session));
    check_ok(dp_session_feed(session, ids, 30, DP_WANT_LAST, &logits));
    memcpy(w->result, logits.data, sizeof w->result);
    dp_session_free(session);
    dp_tensor *in = view(x, 3, D), *y = call_one(graph, in);
    dp_tensor_info info;
    check_ok(dp_tensor_get_info(y, &info));
    memcpy(w->row, info.data, sizeof w->row);
    dp_tensor_free(y), dp_tensor_free(in);
  }
  free(x);
  dp_graph_free(graph);
  dp_model_free(model);
  free_weights(&m);
  return NULL;
}

START_TEST(two_models_in_two_threads_do_not_know_of_each_other) {
  worker workers[4] = {{.number = 0}, {.number = 1}, {.number = 0}, {.number = 1}};
  pthread_t threads[2];
  dp_context *context;
  check_ok(dp_context_new(NULL, &context));
  for (int i = 0; i < 2; i++) {
    workers[i].context = context;
    ck_assert_int_eq(pthread_create(&threads[i], NULL, work, &workers[i]), 0);
  }
  for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
  dp_context_free(context);
  for (int i = 2; i < 4; i++) work(&workers[i]);
  for (int i = 0; i < 2; i++) {
    ck_assert_mem_eq(workers[i].result, workers[i + 2].result, sizeof workers->result);
    ck_assert_mem_eq(workers[i].row, workers[i + 2].row, sizeof workers->row);
  }
}
END_TEST

int main(void) {
  if (!mkdtemp(folder)) return 1;
  Suite *suite = suite_create("embed");
  TCase *library = tcase_create("library"), *graphs = tcase_create("graphs"), *dlpack = tcase_create("dlpack"),
        *ops = tcase_create("ops"), *models = tcase_create("models"), *threads = tcase_create("threads");
  tcase_add_test(library, the_library_shows_what_the_headers_declare_and_nothing_else);
  tcase_add_test(library, a_library_tells_its_version);
  tcase_add_test(library, hosts_find_the_installed_library_by_pkg_config_and_by_cmake);
  tcase_add_test(graphs, a_graph_over_the_hosts_weights_is_a_function_of_its_rows_bit_for_bit);
  tcase_add_test(graphs, weights_are_borrowed_where_they_lie_as_kernels_read_them_and_packed_elsewhere);
  tcase_add_test(graphs, results_go_where_the_caller_says_and_a_graph_is_chosen_by_name);
  tcase_add_test(graphs, mistakes_in_graphs_are_named);
  tcase_add_test(graphs, ids_of_a_table_are_refused_when_they_are_outside);
  tcase_add_test(dlpack, dlpack_shares_memory_until_the_last_owner_is_gone);
  tcase_add_test(dlpack, dlpack_that_does_not_fit_stays_the_callers);
  tcase_add_test(dlpack, a_result_outlives_its_graph_and_context);
  tcase_add_test(ops, the_hosts_op_runs_inside_a_graph_row_by_row);
  tcase_add_test(ops, mistakes_with_the_hosts_ops_are_named);
  tcase_add_test(ops, the_hosts_op_is_refused_by_name_ahead_of_time_and_without_its_host);
  tcase_add_test(ops, the_hosts_op_is_trained_through_by_its_gradient);
  tcase_add_test(models, large_memory_is_the_hosts_and_comes_back);
  tcase_add_test(models, a_compile_stops_when_the_host_says_so);
  tcase_add_test(models, a_step_stops_and_its_session_goes_on_as_if_it_had_not_been);
  tcase_add_test(models, a_session_tells_that_its_model_was_freed);
  tcase_add_test(models, null_is_an_error_and_names_the_call);
  tcase_add_test(threads, a_second_thread_is_told_that_the_model_is_in_use);
  tcase_add_test(threads, two_models_in_two_threads_do_not_know_of_each_other);
  TCase *cases[] = {library, graphs, dlpack, ops, models, threads};
  for (size_t i = 0; i < DP_COUNT(cases); i++) {
    tcase_set_timeout(cases[i], 300);
    suite_add_tcase(suite, cases[i]);
  }
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  char command[128];
  snprintf(command, sizeof command, "rm -rf %s", folder);
  return system(command) != 0 || failed != 0;
}
