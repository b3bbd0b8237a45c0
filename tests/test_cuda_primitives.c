/* tests/test_cuda_primitives.c: each primitive of the CUDA back end's prelude in a kernel of its own or in a small
 * program, once as it is and once with each mistake that can be made with it. What is sound must run without a report
 * and give the defined values; a mistake must be found, as what it is. The table of mistakes and what found them is
 * printed. */
#include "tests/cuda_subject.h"
#include "tests/tile_fixture.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- kernels of their own: they read `w`, numbers(i) at i, and `ids`, and leave what is defined in m */

enum { NUMBERS = 32768, MEMORY = 4096, COUNTERS = 16, TOKENS = 8, BLOCKS = 3, TRIES = 12 };

static float number(int i) { return (float)(i * 37 % 11 - 5); }
static int id(int i) { return i * 5 % 8; }

typedef struct kernel {
  const char *primitive, *text;
  float (*defined)(int i); /* m[i] at the end; NAN: anything */
} kernel;

#define HEAD                                                                                                           \
  "\nSTEP_KERNEL(own_step) {\n  Block block = open_block(launch);\n  const int t = thread_index();\n"                  \
  "  float *const m = launch.scratch, *const s = block.shared;\n"                                                      \
  "  const float *const w = (const float *)launch.step.weights[0];\n  u32 *const counter = launch.counters;\n"
#define FIRST "  if (block.index != 0) return;\n"

static float reversed(int i) { return i < 256 ? (float)(255 - i) : 0; }
static float shifted(int i) { return i < 256 ? (float)(i % 16 + 4 < 16 ? i + 4 : i) : 0; }
static float neighbours(int i) { return i < 256 ? (float)(i ^ 1) : 0; }
static float handed_over(int i) { return i < 512 ? (float)i : i < 768 ? (float)(2 * (255 - i % 256) + 256) : 0; }
static float copied(int i) { return i < 256 ? number((255 - i) * 4) : 0; }
static float copied_twice(int i) { return i < 256 ? number((255 - i) * 4) + number((255 - i) * 4 + 1024) : 0; }
static float copied_late(int i) { return i < 256 ? number((255 - i) * 4) + 2 * number(1024 + (255 - i) * 4) : 0; }
static float tasks(int i) { return i < 15 ? (float)(i % BLOCKS) : 0; }
static float nothing(int i) { return (void)i, 0; }
static float tree(int i, bool greatest) {
  float x = greatest ? -100 : 0;
  for (int j = i / 16 * 16; j < i / 16 * 16 + 16; j++) x = greatest ? (number(j) > x ? number(j) : x) : x + number(j);
  return x;
}
static float sums(int i) { return i < 256 && i % 16 == 0 ? tree(i, false) : i < 256 ? NAN : 0; }
static float greatest(int i) { return i < 256 && i % 16 == 0 ? tree(i, true) : i < 256 ? NAN : 0; }
/* Twice m[r][c] = sum of a[r][k] w[k][c], 20 rows, 100 columns, k to 160. */
static float product(int i) {
  int r = i / 100, c = i % 100;
  float sum = 0;
  for (int k = 0; k < 160; k++) sum += number(r * 160 + k) * number(c / 64 * 64 * 160 + k * 64 + c % 64);
  return i < 2000 ? 2 * sum : 0;
}
/* m[r][c] = sum of a[r][n] w[n][3 + c], a = numbers from 0 on, of rows of 70; w of 70 rows and 20 columns */
static float product_back(int i) {
  int r = i / 10, c = i % 10;
  float sum = 0;
  for (int n = 0; n < 70; n++) sum += number(r * 70 + n) * number(n / 64 * 64 * 20 + (3 + c) * 64 + n % 64);
  return i < 50 ? sum : 0;
}
static float moved(int i, float (*f)(int)) { return i < 2048 ? 0 : f(i - 2048); }
static float product_read(int i) { return i < 2000 ? product(i) : moved(i, product); }
static float product_back_read(int i) { return i < 50 ? product_back(i) : moved(i, product_back); }
/* gradient[n, k] of 40 n and 9 k += x[t][k] y[t][n]; token 2 takes no part */
static float gradient(int i) {
  int n = i % 64, k = i / 64;
  float sum = 0;
  for (int t = 0; t < TOKENS; t++)
    if (t != 2) sum += number(t * 16 + k) * number(512 + t * 64 + n);
  return n < 40 && k < 9 ? sum : 0;
}
static float gradient_read(int i) { return i < 640 ? gradient(i) : moved(i, gradient); }
static float gradient_of_vector(int i) {
  float sum = 0;
  for (int t = 0; t < TOKENS; t++)
    for (int c = i; c < 48; c += 12) sum += number(t * 64 + c);
  return i < 12 ? sum : 0;
}
static float vector_read(int i) { return i < 12 ? gradient_of_vector(i) : moved(i, gradient_of_vector); }
static float gradient_of_rows(int i) {
  float sum = 0;
  for (int t = 0; t < TOKENS; t++)
    if (id(t) % 2 == i % 64) sum += number(t * 64 + i / 64 - 1);
  return i % 64 < 2 && i / 64 >= 1 && i / 64 < 31 ? sum : 0;
}
static float rows_read(int i) { return i < 2048 ? gradient_of_rows(i) : moved(i, gradient_of_rows); }
static bool chooses(int row, int batch) {
  return number(2 * row) == (float)batch || number(2 * row + 1) == (float)batch;
}
static float chosen(int i) {
  int at = 0;
  for (int row = 0; row < TOKENS; row++) {
    if (!chooses(row, -1)) continue;
    if (at++ == i % 8) return (float)(2 * row + (number(2 * row) != -1));
  }
  return 0;
}
static float chosen_rows(int i) { return i < 256 ? (i % 8 < 3 ? chosen(i) : 0) : 0; }
static float choices(int i) { return i < 256 ? (float)(number(2 * i) == 2 ? 0 : number(2 * i + 1) == 2 ? 1 : -1) : 0; }
static float best(int i) {
  int column = -1;
  for (int n = 0, last = -1; n <= i % 4; n++, last = column) {
    column = -1;
    for (int c = 0; c < 11; c++) {
      float x = number(i / 4 * 11 + c), l = last < 0 ? 100 : number(i / 4 * 11 + last);
      bool after = last < 0 || x < l || (x == l && c > last);
      if (after && (column < 0 || x > number(i / 4 * 11 + column))) column = c;
    }
  }
  return i < 64 ? (float)column : 0;
}
static float among(int i) {
  bool found = false;
  for (int j = 0; j < 4; j++) found |= number(2 + j) == (float)i;
  return i < 256 ? (float)found : 0;
}
static float random_words(int i) { /* of Threefry-2x32-13: key 0, counter 0; the known answer */
  return i == 0 ? (float)(0x9d1c5ec6u & 0xffff) : i < 2 ? NAN : 0;
}
static float rounded(int i) { return i < 256 ? 1.0f + 0x1p-7f * (float)(i % 4 + (i >= 128)) : 0; }
static float halves(int i) { return i < 256 ? (i < 128 ? 1.0f : 1.0f + 0x1p-10f) : 0; }
static float bits(int i) { return i < 256 ? (float)i : 0; }

#define REVERSE FIRST "  s[t] = (float)t;\n  block_sync();\n  m[t] = s[255 - t];\n"
#define HAND_OVER /* what two blocks make */                                                                           \
  "  const int i = 256 * block.index + t;\n  if (block.index < 2) {\n    m[i] = (float)i;\n    block_sync(); // "      \
  "before\n"                                                                                                           \
  "    if (t == 0) add_release(counter);\n    return;\n  }\n"                                                          \
  "  if (t == 0) while (read_acquire(counter) < 2) spin();\n  block_sync(); // after\n"                                \
  "  m[i] = m[255 - t] + m[511 - t];\n"
#define COPY                                                                                                           \
  FIRST "  char *const to = block.ring + t * 16;\n  copy_16(to, w + t * 4);\n  copy_close();\n  copy_landed<0>();\n"   \
        "  block_sync();\n  m[t] = ((const float *)block.ring)[(255 - t) * 4];\n"
#define COPY_TWICE                                                                                                     \
  FIRST                                                                                                                \
  "  for (int i = 0; i < 2; i++) {\n    copy_16(block.ring + t * 16, w + 1024 * i + t * 4);\n    copy_close();\n"      \
  "    copy_landed<0>();\n    block_sync(); // landed\n    m[t] += ((const float *)block.ring)[(255 - t) * 4];\n"      \
  "    block_sync(); // read\n  }\n"
#define COPY_AHEAD                                                                                                     \
  FIRST "  for (int i = 0; i < 2; i++) {\n    copy_16(block.ring + 4096 * i + t * 16, w + 1024 * i + t * 4);\n"        \
        "    copy_close();\n  }\n  copy_landed<1>();\n  block_sync();\n"                                               \
        "  m[t] = ((const float *)block.ring)[(255 - t) * 4];\n  copy_landed<0>();\n  block_sync();\n"                 \
        "  m[t] += 2 * ((const float *)block.ring)[1024 + (255 - t) * 4];\n"
#define TASK                                                                                                           \
  "  const int i = 256 * block.index + t;\n  if (block.index < 2) {\n    m[i] = (float)i;\n    task_done(counter + "   \
  "3);\n"                                                                                                              \
  "    return;\n  }\n  await(counter, 3, 4, 2, 0);\n  block_sync(); // after\n  m[i] = m[255 - t] + m[511 - t];\n"
#define BUNDLES                                                                                                        \
  "  for (int bundle = 0; bundle < 3; bundle++) {\n"                                                                   \
  "    for (int task = first_task(block); task < 5; task += block.count)\n"                                            \
  "      if (t == 0) m[bundle * 5 + task] = (float)block.index;\n    pass_bundle(block, 5);\n  }\n"
#define PRODUCT                                                                                                        \
  FIRST "  product<stored_f32>(block, w, 160, (const char *)w, 64 * 160 * 4, 160, 20, 100, m, 100, false);\n"          \
        "  product<stored_f32>(block, w, 160, (const char *)w, 64 * 160 * 4, 160, 20, 100, m, 100, true);\n"           \
        "  for (int i = t; i < 2000; i += THREADS) m[2048 + i] = m[1999 - i] * 0.0f + m[i];\n"
#define BACK                                                                                                           \
  FIRST "  product_back<stored_f32>(w, 70, (const char *)w, 64 * 20 * 4, 70, 3, 5, 10, m, 10);\n"                      \
        "  m[2048 + t] = t < 50 ? m[t ^ 1] : 0.0f;\n  m[2048 + t] = t < 50 ? m[t] : 0.0f;\n"
#define GRADIENT                                                                                                       \
  FIRST "  gradient_of_product(m, [&](int i) { return i == 2 ? (const float *)0 : w + i * 16; },\n"                    \
        "                      [&](int i) { return w + 512 + i * 64; }, 0, 8, 0, 40, 9);\n"                            \
        "  for (int i = t; i < 640; i += THREADS) m[2048 + i] = m[639 - i] * 0.0f + m[i];\n"
#define VECTOR                                                                                                         \
  FIRST "  gradient_of_vector(m, [&](int i) { return w + i * 64; }, 0, 8, 48, 12);\n"                                  \
        "  if (t < 12) m[2048 + t] = m[11 - t] * 0.0f + m[t];\n"
#define ROWS                                                                                                           \
  FIRST "  gradient_of_rows(m, [&](int i) { return w + i * 64; }, launch.step.inputs[0], 0, 8, 1, 30, 32);\n"          \
        "  for (int i = t; i < 2048; i += THREADS) m[2048 + i] = m[2047 - i] * 0.0f + m[i];\n"
#define CHOOSE                                                                                                         \
  FIRST "  const int rows = choose_rows(block, w, 2, 8, 2, -1);\n"                                                     \
        "  m[t] = t % 8 < rows && t % 8 < 3 ? (float)block.chosen[1 + t % 8] : 0.0f;\n"

enum {
  K_BARRIER,
  K_LANES,
  K_WARP,
  K_COUNTER,
  K_COPY,
  K_COPY_TWICE,
  K_COPY_AHEAD,
  K_ASK,
  K_TASK,
  K_BUNDLES,
  K_OPEN,
  K_SUM,
  K_GREATEST,
  K_PRODUCT,
  K_BACK,
  K_GRADIENT,
  K_VECTOR,
  K_ROWS,
  K_CHOOSE,
  K_CHOICE,
  K_BEST,
  K_AMONG,
  K_RANDOM,
  K_ROUND,
  K_BF16,
  K_F16,
  K_BITS,
  K_COUNT
};
static const kernel kernels[] = {
    [K_BARRIER] = {"block_sync", HEAD REVERSE "}\n", reversed},
    [K_LANES] = {"lane_down", HEAD FIRST "  m[t] = lane_down((float)t, 4);\n}\n", shifted},
    [K_WARP] = {"a warp's barrier", HEAD FIRST "  s[t] = (float)t;\n  host_warp_sync();\n  m[t] = s[t ^ 1];\n}\n",
                neighbours},
    [K_COUNTER] = {"read_acquire, add_release", HEAD HAND_OVER "}\n", handed_over},
    [K_COPY] = {"copy_16, copy_close, copy_landed", HEAD COPY "}\n", copied},
    [K_COPY_TWICE] = {"copies in turn", HEAD COPY_TWICE "}\n", copied_twice},
    [K_COPY_AHEAD] = {"copies ahead", HEAD COPY_AHEAD "}\n", copied_late},
    [K_ASK] = {"ask_for", HEAD "  ask_for(w + t);\n  ask_for_weights((const char *)w + 28672 * 4, 4096 * 4);\n}\n",
               nothing},
    [K_TASK] = {"task_done, await", HEAD TASK "}\n", handed_over},
    [K_BUNDLES] = {"first_task, pass_bundle", HEAD BUNDLES "}\n", tasks},
    [K_OPEN] = {"open_block", HEAD "}\n", nothing},
    [K_SUM] = {"tree_sum", HEAD FIRST "  m[t] = tree_sum(w[t]);\n}\n", sums},
    [K_GREATEST] = {"tree_greatest", HEAD FIRST "  m[t] = tree_greatest(w[t]);\n}\n", greatest},
    [K_PRODUCT] = {"stage_units, product", HEAD PRODUCT "}\n", product_read},
    [K_BACK] = {"product_back", HEAD BACK "}\n", product_back_read},
    [K_GRADIENT] = {"gradient_of_product", HEAD GRADIENT "}\n", gradient_read},
    [K_VECTOR] = {"gradient_of_vector", HEAD VECTOR "}\n", vector_read},
    [K_ROWS] = {"gradient_of_rows", HEAD ROWS "}\n", rows_read},
    [K_CHOOSE] = {"choose_rows", HEAD CHOOSE "}\n", chosen_rows},
    [K_CHOICE] = {"choice_of", HEAD FIRST "  m[t] = (float)choice_of(w + 2 * t, 2, 2);\n}\n", choices},
    [K_BEST] = {"greatest_columns", HEAD FIRST "  if (t < 16) greatest_columns(w + t * 11, 11, 4, m + t * 4);\n}\n",
                best},
    [K_AMONG] = {"is_among", HEAD FIRST "  m[t] = is_among(w + 2, 4, t);\n}\n", among},
    [K_RANDOM] = {"random_number", HEAD FIRST "  if (t == 0) m[0] = random_number(0, 0, 0.0f, 0.0f);\n}\n",
                  random_words},
    [K_ROUND] = {"round_random",
                 HEAD FIRST "  m[t] = round_random(1.0f + 0x1p-7f * (float)(t % 4) + 0x1p-8f, t < 128 ? 32767.0f : "
                            "32768.0f);\n}\n",
                 rounded},
    [K_BF16] = {"bf16_of_f32, f32_of_bf16",
                HEAD FIRST "  m[t] = f32_of_bf16(bf16_of_f32(1.0f + 0x1p-7f * (float)(t % 4 + (t >= 128))));\n}\n",
                rounded},
    [K_F16] = {"f16_of_f32, f32_of_f16",
               HEAD FIRST "  m[t] = f32_of_f16(f16_of_f32(1.0f + (t < 128 ? 0x1p-11f : 0x1.8p-11f)));\n}\n", halves},
    [K_BITS] = {"f32_of_bits, bits_of_f32", HEAD FIRST "  m[t] = f32_of_bits(bits_of_f32((float)t));\n}\n", bits},
};

#define OTHER "other values" /* nothing is reported, and m is not as defined */
#define WAITS "nobody waited for it"

static const struct {
  int kernel;
  const char *mistake, *from, *to, *found;
} mistakes[] = {
    {K_BARRIER, "no barrier", "s[t] = (float)t;\n  block_sync();", "s[t] = (float)t;", "race|nobody wrote"},
    {K_BARRIER, "a barrier of some", "s[t] = (float)t;\n  block_sync();",
     "s[t] = (float)t;\n  if (t < 128) block_sync();", "wait at a barrier, others have ended|nobody wrote"},
    {K_BARRIER, "written before all have read", "m[t] = s[255 - t];", "m[t] = s[255 - t]; s[t] = 0.0f;", "race"},
    {K_BARRIER, "beyond shared memory", "s[t] = (float)t;", "s[t + 100000] = (float)t;",
     "outside of the launch's memory"},
    {K_BARRIER, "before shared memory", "s[t] = (float)t;", "s[t - 30000] = (float)t;",
     "outside of the launch's memory"},
    {K_BARRIER, "read, not written", "m[t] = s[255 - t];", "m[t] = s[256 - t];", "nobody wrote what is read"},
    {K_BARRIER, "beyond global memory", "m[t] = s[255 - t];", "m[4096 + t] = s[255 - t];",
     "outside of the launch's memory"},
    {K_BARRIER, "a constant is written", "m[t] = s[255 - t];", "((float *)w)[t] = s[255 - t];", "constant"},
    {K_BARRIER, "all blocks write there", "if (block.index != 0) return;", "", "race"},
    {K_BARRIER, "a result is not stored", "m[t] = s[255 - t];", "if (t != 77) m[t] = s[255 - t];", OTHER},
    {K_LANES, "half of a warp", "m[t] = lane_down", "if (t % 32 < 16) m[t] = lane_down", "a lane has ended"},
    {K_LANES, "distances differ", "lane_down((float)t, 4)", "lane_down((float)t, t == 37 ? 2 : 4)",
     "different exchanges"},
    {K_LANES, "another distance", "lane_down((float)t, 4)", "lane_down((float)t, 2)", OTHER},
    {K_LANES, "a barrier in a warp", "m[t] = lane_down((float)t, 4);",
     "if (t % 32 < 16) block_sync(); else m[t] = lane_down((float)t, 4);", "deadlock"},
    {K_WARP, "no barrier", "host_warp_sync();\n", "", "race|nobody wrote"},
    {K_WARP, "another warp's", "m[t] = s[t ^ 1]", "m[t] = s[t ^ 32]", "race|nobody wrote"},
    {K_WARP, "an exchange orders nothing", "host_warp_sync();", "lane_down(0.0f, 1);", "race"},
    {K_COUNTER, "no acquire", "while (read_acquire(counter) < 2) spin();",
     "while (*(volatile u32 *)counter < 2) spin();", "race"},
    {K_COUNTER, "no wait", "if (t == 0) while (read_acquire(counter) < 2) spin();", "", "race"},
    {K_COUNTER, "no release", "if (t == 0) add_release(counter);", "if (t == 0) ++*(volatile u32 *)counter;", "race"},
    {K_COUNTER, "no barrier before the release", "block_sync(); // before", "", "race"},
    {K_COUNTER, "no barrier behind the acquire", "block_sync(); // after", "", "race"},
    {K_COUNTER, "every thread releases", "if (t == 0) add_release(counter);", "add_release(counter);", "race"},
    {K_COUNTER, "waits for one too many", "read_acquire(counter) < 2", "read_acquire(counter) < 3", "deadlock"},
    {K_COUNTER, "waits for one too few", "read_acquire(counter) < 2", "read_acquire(counter) < 1", "race"},
    {K_COUNTER, "another counter", "add_release(counter)", "add_release(counter + 1)", "deadlock"},
    {K_COUNTER, "no such counter", "add_release(counter)", "add_release(counter + 16)",
     "outside of the launch's memory"},
    {K_COPY, "no wait", "copy_landed<0>();\n", "", WAITS},
    {K_COPY, "waits for all but one group", "copy_landed<0>()", "copy_landed<1>()", WAITS},
    {K_COPY, "the group is not closed", "copy_close();\n", "", WAITS},
    {K_COPY, "no barrier", "copy_landed<0>();\n  block_sync();", "copy_landed<0>();", "race|nobody wrote"},
    {K_COPY, "waits behind the barrier", "copy_landed<0>();\n  block_sync();", "block_sync();\n  copy_landed<0>();",
     WAITS "|race"},
    {K_COPY, "not aligned in shared memory", "copy_16(to,", "copy_16(to + 4,", "not aligned to 16 bytes"},
    {K_COPY, "not aligned in global memory", "w + t * 4)", "w + t * 4 + 1)", "not aligned to 16 bytes"},
    {K_COPY, "not into shared memory", "copy_16(to,", "copy_16((char *)m + t * 16,", "does not go to shared memory"},
    {K_COPY, "beyond shared memory", "copy_16(to,", "copy_16(to + 400000,", "does not go to shared memory"},
    {K_COPY, "from beyond the weights", "w + t * 4)", "w + 32764 + t * 4)", "outside of the launch's memory"},
    {K_COPY, "two copies to one place", "block.ring + t * 16", "block.ring + t / 2 * 16", WAITS},
    {K_COPY, "a write to where a copy goes", "copy_close();\n  copy_landed<0>();",
     "copy_close();\n  *(float *)to = 1.0f;\n  copy_landed<0>();", WAITS},
    {K_COPY, "another place", "[(255 - t) * 4]", "[(255 - t) * 4 + 1]", OTHER},
    {K_COPY_TWICE, "copied before all have read", "block_sync(); // read", "", "race"},
    {K_COPY_TWICE, "read before all have landed", "block_sync(); // landed", "", "race|nobody wrote"},
    {K_COPY_AHEAD, "waits for one group too few", "copy_landed<1>();", "copy_landed<2>();", WAITS},
    {K_COPY_AHEAD, "never waits for the last", "copy_landed<0>();", "", WAITS},
    {K_COPY_AHEAD, "both into one place", "block.ring + 4096 * i + t", "block.ring + t", WAITS},
    {K_ASK, "beyond the weights", "ask_for(w + t)", "ask_for(w + 32768 + t)", "outside of the launch's memory"},
    {K_ASK, "of more than there is", "4096 * 4)", "4097 * 4)", "outside of the launch's memory"},
    {K_TASK, "counted without a barrier", "block_sync();\n  if (thread_index() == 0) add_release(counter);",
     "if (thread_index() == 0) add_release(counter);", "race"},
    {K_TASK, "counted by all", "if (thread_index() == 0) add_release(counter);\n}", "add_release(counter);\n}\n",
     "race"},
    {K_TASK, "no barrier behind the wait", "block_sync(); // after", "", "race"},
    {K_TASK, "waits for a tile less", "await(counter, 3, 4,", "await(counter, 3, 3,", "race"},
    {K_TASK, "waits for another tile", "await(counter, 3, 4,", "await(counter, 2, 4,", "deadlock"},
    {K_TASK, "waits for more", "while (read_acquire(counters + tile) < need)",
     "while (read_acquire(counters + tile) <= need)", "deadlock"},
    {K_TASK, "waits for less", "while (read_acquire(counters + tile) < need)",
     "while (read_acquire(counters + tile) + 1 < need)", "race"},
    {K_BUNDLES, "the next bundle begins anew", "pass_bundle(block, 5);", "", OTHER},
    {K_BUNDLES, "a task of two blocks", "task < 5; task += block.count", "task < 5; task++", "race|" OTHER},
    {K_OPEN, "one counter is not cleared", "i < launch.counter_count;", "i < launch.counter_count - 1;",
     "the other counters are not cleared"},
    {K_OPEN, "one too many is cleared", "i < launch.counter_count;", "i <= launch.counter_count;",
     "outside of the launch's memory"},
    {K_OPEN, "the counters in use are cleared", "launch.other_counters[i] = 0;", "launch.counters[i] = 0;",
     "the other counters are not cleared"},
    {K_SUM, "a step of the tree less", "by >= 1; by /= 2) lane = scalar_add", "by >= 2; by /= 2) lane = scalar_add",
     OTHER},
    {K_SUM, "of some lanes", "m[t] = tree_sum", "if (t % 32 < 30) m[t] = tree_sum", "a lane has ended"},
    {K_GREATEST, "a step of the tree less", "by >= 1; by /= 2) lane = scalar_max",
     "by >= 2; by /= 2) lane = scalar_max", OTHER},
    {K_PRODUCT, "pages of which the last has not landed", "copy_landed<stages - 2>();", "copy_landed<stages - 1>();",
     WAITS},
    {K_PRODUCT, "no barrier behind the pages", "      copy_landed<stages - 2>();\n      block_sync();",
     "      copy_landed<stages - 2>();", "race|nobody wrote|" WAITS},
    {K_PRODUCT, "a page staged where one is read", "block.ring + next % stages * stage_bytes, w",
     "block.ring + p % stages * stage_bytes, w", "race|" WAITS},
    {K_PRODUCT, "a page staged a turn too far", "const int next = p + stages - 1;", "const int next = p + stages;",
     "race|nobody wrote|" OTHER "|" WAITS},
    {K_PRODUCT, "the ring taken again without a barrier", "copy_landed<0>();\n    block_sync();", "copy_landed<0>();",
     "race"},
    {K_PRODUCT, "no barrier at its end", "    item += taken;\n  }\n  block_sync();", "    item += taken;\n  }", "race"},
    {K_PRODUCT, "columns that are not there", "group < taken && column < columns", "group < taken", "race|" OTHER},
    {K_PRODUCT, "rows that are not there", "if (writes && r0 + r < rows) c", "if (writes) c", "race|" OTHER},
    {K_PRODUCT, "not added to what is there", "sum[r] = accumulate && writes ? c", "sum[r] = false ? c", OTHER},
    {K_PRODUCT, "two groups of threads do the same", "group < taken && column", "column", "race|" OTHER},
    {K_PRODUCT, "beyond the depth", "least(room * W::elements, depth - k0), sum)", "room * W::elements + 1, sum)",
     "nobody wrote|race|" WAITS "|" OTHER},
    {K_PRODUCT, "staged from beyond the matrix", "(i64)unit * W::unit_bytes;", "(i64)(unit + 256) * W::unit_bytes;",
     "outside|" OTHER},
    {K_PRODUCT, "pages that overlap", "(b - first) * room * W::unit_bytes;\n    for",
     "(b - first) * (room - 1) * W::unit_bytes;\n    for", WAITS "|" OTHER},
    {K_PRODUCT, "staged off a line", "copy_16(to + at, from + at)", "copy_16(to + at + 8, from + at)", "not aligned"},
    {K_BACK, "no barrier at its end", "ldc + column] = sum[r];\n  }\n  block_sync();", "ldc + column] = sum[r];\n  }",
     "race"},
    {K_BACK, "a column less", "i < row_groups * columns;", "i < row_groups * columns - 1;", OTHER},
    {K_BACK, "one term less", "for (int j = 0; j < n; j++) {\n      const float weight",
     "for (int j = 0; j < n - 1; j++) {\n      const float weight", OTHER},
    {K_BACK, "rows that are not there", "if (r0 + r < rows) c[(i64)(r0 + r) * ldc + column] = sum[r];\n  }",
     "c[(i64)(r0 + r) * ldc + column] = sum[r];\n  }", OTHER},
    {K_GRADIENT, "no barrier at its end",
     "gradient[packed_at(first + n, k0 + r, depth)] = sum[r];\n  }\n  block_sync();",
     "gradient[packed_at(first + n, k0 + r, depth)] = sum[r];\n  }", "race"},
    {K_GRADIENT, "two threads an element", "count = least(R, depth - k0);", "count = least(R, depth - k0) + 1;",
     "race|" OTHER},
    {K_GRADIENT, "who takes no part does", "if (!row) continue;", "if (!row) row = x(1);", OTHER},
    {K_GRADIENT, "a row of nowhere", "if (!row) continue;", "", "outside of the launch's memory"},
    {K_GRADIENT, "columns that are not there", "if (n >= columns) continue;", "", OTHER},
    {K_VECTOR, "no barrier at its end", "gradient[i] = sum;\n  }\n  block_sync();", "gradient[i] = sum;\n  }", "race"},
    {K_VECTOR, "every thread all columns", "for (int c = i; c < columns; c += n)",
     "for (int c = 0; c < columns; c += n)", OTHER},
    {K_VECTOR, "threads share a sum", "float sum = gradient[i];", "float sum = gradient[i / 2];", "race"},
    {K_ROWS, "no barrier at its end", "*sum = ADD(*sum, x(t)[c]);\n    }\n  block_sync();",
     "*sum = ADD(*sum, x(t)[c]);\n    }", "race"},
    {K_ROWS, "a thread a token",
     "for (int c = thread_index(); c < columns; c += THREADS)\n    for (int t = from; t < to; t++) {",
     "for (int t = from + thread_index(); t < to; t += THREADS)\n    for (int c = 0; c < columns; c++) {", "race"},
    {K_CHOOSE, "no barrier", "block.chosen[0] = count;\n  }\n  block_sync();", "block.chosen[0] = count;\n  }",
     "race|nobody wrote"},
    {K_CHOOSE, "by every thread", "if (thread_index() == 0) {\n    int count", "{\n    int count", "race"},
    {K_CHOOSE, "another row's choice", "ids[(i64)r * stride + j] == (float)batch",
     "ids[(i64)r * stride] == (float)batch", OTHER},
    {K_CHOICE, "the last one", "if (ids[j] == (float)batch) return j;", "if (ids[j] == (float)batch) return used - 1;",
     OTHER},
    {K_BEST, "the first of equals twice", "&& i < j);", "&& i <= j);", OTHER},
    {K_BEST, "a column less", "for (int c = 0; c < n; c++)\n      if ((last",
     "for (int c = 0; c < n - 1; c++)\n      if ((last", OTHER},
    {K_AMONG, "all but the last", "i < count; i++) found", "i < count - 1; i++) found", OTHER},
    {K_RANDOM, "a round less", "round < 13", "round < 12", OTHER},
    {K_ROUND, "no carry", "(bits + (u32)number) & 0xffff0000u", "bits & 0xffff0000u", OTHER},
    {K_BF16, "another half", "f32_of_bits((u32)x << 16)", "f32_of_bits((u32)x << 15)", OTHER},
    {K_F16, "another bit", "f32_of_f16(f16_of_f32", "f32_of_f16(1 ^ f16_of_f32", OTHER},
    {K_BITS, "another bit", "f32_of_bits(bits_of_f32", "f32_of_bits(1 ^ bits_of_f32", OTHER},
};

/* ---- a launch of a kernel */

typedef struct memory {
  float numbers[NUMBERS], *m;
  uint32_t *counters, *others;
  int32_t ids[TOKENS];
  const void *weights[1];
  const int32_t *inputs[1];
  host_region regions[8];
  cuda_launch launch;
} memory;

static void set_up(memory *k) {
  memset(k, 0, sizeof *k);
  k->m = aligned_alloc(64, sizeof *k->m * MEMORY);
  k->counters = calloc(COUNTERS, sizeof *k->counters);
  k->others = malloc(sizeof *k->others * COUNTERS);
  memset(k->m, 0, sizeof *k->m * MEMORY);
  memset(k->others, 0xff, sizeof *k->others * COUNTERS);
  float *numbers = aligned_alloc(64, sizeof k->numbers);
  for (int i = 0; i < NUMBERS; i++) numbers[i] = number(i);
  for (int i = 0; i < TOKENS; i++) k->ids[i] = id(i) % 2;
  k->weights[0] = numbers;
  k->inputs[0] = k->ids;
  k->launch = (cuda_launch){.step = {.weights = k->weights, .inputs = k->inputs, .rows = {TOKENS, 1, TOKENS}},
                            .counters = k->counters,
                            .other_counters = k->others,
                            .counter_count = COUNTERS,
                            .tiles = COUNTERS,
                            .scratch = k->m};
  const host_region regions[] = {
      {"the numbers", (char *)numbers, sizeof k->numbers, HOST_CONSTANT},
      {"m", (char *)k->m, sizeof *k->m * MEMORY, 0},
      {"counters", (char *)k->counters, sizeof *k->counters * COUNTERS, 0},
      {"the other counters", (char *)k->others, sizeof *k->others * COUNTERS, 0},
      {"ids", (char *)k->ids, sizeof k->ids, HOST_CONSTANT},
      {"the table of weights", (char *)k->weights, sizeof k->weights, HOST_CONSTANT},
      {"the table of inputs", (char *)k->inputs, sizeof k->inputs, HOST_CONSTANT},
      {"the arguments", (char *)&k->launch, sizeof k->launch, HOST_CONSTANT},
  };
  memcpy(k->regions, regions, sizeof regions);
}

static void tear_down(memory *k) {
  free((void *)(uintptr_t)k->weights[0]);
  free(k->m);
  free(k->counters);
  free(k->others);
}

/* What goes wrong in a launch; empty: nothing. */
static void run_kernel(const cuda_host *host, int program, const kernel *kernel, uint64_t seed, dp_str *wrong) {
  memory k;
  set_up(&k);
  dp_status status = cuda_host_launch(host, program, &k.launch, BLOCKS, seed, k.regions, DP_COUNT(k.regions));
  if (status.code != DP_OK) dp_str_add(wrong, dp_status_text(&status));
  for (int i = 0; status.code == DP_OK && i < MEMORY && !wrong->length; i++) {
    float defined = kernel->defined(i);
    if (defined == defined && k.m[i] != defined)
      dp_str_addf(wrong, OTHER ": m[%d] is %g, not %g", i, (double)k.m[i], (double)defined);
  }
  dp_status_free(&status);
  tear_down(&k);
}

static bool build(const cuda_host_part *parts, int count, cuda_host **host) {
  double begin = api_seconds();
  dp_status status = cuda_host_build(parts, count, CUDA_HOST_CHECKED, host);
  if (status.code == DP_NOT_FOUND) {
    fprintf(stderr, "skipped: %s\n", dp_status_text(&status));
    dp_status_free(&status);
    return false;
  }
  check_ok(status, "the text for this machine");
  fprintf(stderr, "%d texts compiled in %.1f s\n", count, api_seconds() - begin);
  return true;
}

/* Whether the report has one of the words that | separates. */
static bool says(const char *report, const char *words) {
  for (char one[80]; *words; words += strlen(one), words += *words == '|') {
    snprintf(one, sizeof one, "%.*s", (int)strcspn(words, "|"), words);
    if (strstr(report, one)) return true;
  }
  return false;
}

/* A line of the table. False when the mistake was not found as what it is. */
static bool tell(const char *primitive, const char *mistake, const char *words, int runs, const dp_str *wrong) {
  const char *report = wrong->length ? wrong->text : "nothing", *at = strstr(report, " blocks: ");
  bool found = wrong->length && says(report, words);
  fprintf(stderr, "%s | %s | %s | in run %d: %.240s\n", found ? "found" : "MISSED", primitive, mistake, runs,
          at ? at + 9 : report);
  return found;
}

START_TEST(kernels_are_sound) {
  tile_program *program = tile_program_new("kernel");
  program->row_tile = 8;
  cuda_host_part parts[K_COUNT] = {0};
  cuda_host *host;
  for (int i = 0; i < K_COUNT; i++) parts[i] = (cuda_host_part){.program = program, .more = kernels[i].text};
  bool built = build(parts, K_COUNT, &host);
  for (int i = 0; built && i < K_COUNT; i++)
    for (uint64_t seed = 1; seed <= 2 * TRIES; seed++) {
      dp_str wrong = {0};
      run_kernel(host, i, &kernels[i], seed, &wrong);
      ck_assert_msg(wrong.length == 0, "%s: %s", kernels[i].primitive, wrong.text);
      dp_str_free(&wrong);
    }
  if (built) cuda_host_free(host);
  tile_program_free(program);
}
END_TEST

START_TEST(mistakes_in_kernels_are_found_as_what_they_are) {
  enum { COUNT = DP_COUNT(mistakes) };
  tile_program *program = tile_program_new("kernel");
  program->row_tile = 8;
  static cuda_host_part parts[COUNT];
  cuda_host *host;
  int missed = 0;
  for (int i = 0; i < COUNT; i++)
    parts[i] = (cuda_host_part){program, {mistakes[i].from, mistakes[i].to}, kernels[mistakes[i].kernel].text};
  bool built = build(parts, COUNT, &host);
  for (int i = 0; built && i < COUNT; i++) {
    const kernel *kernel = &kernels[mistakes[i].kernel];
    dp_str wrong = {0};
    int seed = 0;
    while (!wrong.length && seed < TRIES) run_kernel(host, i, kernel, (uint64_t)++seed, &wrong);
    missed += !tell(kernel->primitive, mistakes[i].mistake, mistakes[i].found, seed, &wrong);
    dp_str_free(&wrong);
  }
  if (built) cuda_host_free(host);
  tile_program_free(program);
  ck_assert_msg(missed == 0, "%d of %d mistakes are not found", missed, COUNT);
}
END_TEST

/* ---- mistakes in programs: products of every storage type, waits, the loops between barriers */

typedef struct program_mistake {
  const char *fixture, *mistake, *from, *to, *found;
} program_mistake;
static const program_mistake program_mistakes[] = {
    {"matmul_q4_k", "the last 16 bytes are not staged", "at < bytes; at += THREADS * 16) copy_16",
     "at < bytes - 16; at += THREADS * 16) copy_16", "nobody wrote|" OTHER},
    {"matmul_", "another row's weights", "W::decode(page, lane, i, w);", "W::decode(page, lane ^ 1, i, w);", OTHER},
    {"llama", "pages of which the last has not landed", "copy_landed<stages - 2>();", "copy_landed<stages - 1>();",
     WAITS},
    {"llama", "rounded twice", "sum[r] = FMA(a[r][k0 + i + j], w[j], sum[r])",
     "sum[r] = ADD(sum[r], MUL(a[r][k0 + i + j], w[j]))", OTHER},
    {"llama", "waits for nothing", "while (read_acquire(counters + tile) < need) spin();", "", "race"},
    {"llama", "waits for a task too many", "while (read_acquire(counters + tile) < need)",
     "while (read_acquire(counters + tile) <= need)", "deadlock"},
    {"llama", "waits for a task too few", "while (read_acquire(counters + tile) < need)",
     "while (read_acquire(counters + tile) + 1 < need)", "race"},
    {"llama", "every thread counts the task", "if (thread_index() == 0) add_release(counter);", "add_release(counter);",
     "race"},
    {"llama", "a barrier of one thread", "lane = tree_sum(lane);",
     "lane = tree_sum(lane);\n      if (thread_index() == 40) block_sync();", "deadlock|barrier|race|nobody wrote"},
    {"reduce", "all lanes store the sum", "thread_index() % WARP_HALF == 0) v", "true) v", "race"},
    {"reduce", "no barrier behind a loop", "}\n  block_sync();\n  // %", "}\n  // %", "race|nobody wrote"},
    {"in_place", "no barrier behind a loop", "}\n  block_sync();\n  // %", "}\n  // %", "race|nobody wrote"},
    {"attention", "no barrier behind what is appended", "}\n  block_sync();\n}", "}\n}", "race|nobody wrote"},
    {"embed", "a row too far", "step.inputs[0][row0 + r]", "step.inputs[0][row0 + r + 64]", "outside"},
};

/* With products by matrix units. */
static const program_mistake unit_mistakes[] = {
    {"matmul_f16", "pages of which the last has not landed", "copy_landed<PAGES - 2>();", "copy_landed<PAGES - 1>();",
     WAITS},
    {"matmul_f16", "no barrier of the warp behind the pages", "copy_landed<PAGES - 2>();\n    warp_sync();",
     "copy_landed<PAGES - 2>();", "race|nobody wrote|" WAITS},
    {"matmul_f16", "slices added before all are done",
     "own[(m * 16 + lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] "
     "= sum[m][i];\n  block_sync();",
     "own[(m * 16 + lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = sum[m][i];", "race|nobody wrote|" WAITS},
    {"matmul_f16", "half of a warp multiplies", "W::multiply(sum[m], weights, pair[0], pair[1]);",
     "if (lane < 16) W::multiply(sum[m], weights, pair[0], pair[1]);",
     "deadlock|a lane has ended|different operations"},
    {"matmul_f16", "a page off its line",
     "load_matrices_turned(weights, piece_of(page, lane / 16 * 8 + lane % 8, m * 2",
     "load_matrices_turned(weights, 8 + piece_of(page, lane / 16 * 8 + lane % 8, m * 2", "nobody wrote|aligned"},
};

enum { PROGRAMS = 96 };
typedef struct planted {
  int mistake, fixture;
  fixture *defined;
} planted;

static fixture *defined_fixture(int index, bool tensor) {
  fixture *f = fixture_build(index, 3);
  f->program->tensor = tensor ? 1u << IR_f16 | 1u << IR_bf16 : 0;
  tile_code *code;
  dp_str why = {0};
  check_ok(cg_build(cg_find_backend("interp"), f->program, NULL, NULL, &code, NULL, NULL), fixture_name(index));
  ck_assert(fixture_run(f, code, &why));
  code->free(code);
  return f;
}

/* A mistake in all fixtures whose names begin as it says. */
static int plant(planted *list, const program_mistake *table, int rows, bool tensor) {
  int count = 0;
  for (int m = 0; m < rows; m++) {
    size_t n = strlen(table[m].fixture);
    for (int f = 0; f < fixture_count(); f++)
      if (strncmp(fixture_name(f), table[m].fixture, n) == 0 && count < PROGRAMS)
        list[count++] = (planted){m, f, defined_fixture(f, tensor)};
  }
  return count;
}

static void run_planted(const cuda_host *host, int program, const planted *p, uint64_t seed, dp_str *wrong) {
  fixture *f = fixture_build(p->fixture, p->defined->seed);
  f->program->tensor = p->defined->program->tensor;
  dp_str why = {0};
  dp_status status = cuda_host_run(host, program, &f->step, BLOCKS, seed);
  if (status.code != DP_OK)
    dp_str_add(wrong, dp_status_text(&status));
  else if (!fixture_same(p->defined, f, &why))
    dp_str_addf(wrong, OTHER ": %s", why.text);
  dp_status_free(&status);
  dp_str_free(&why);
  fixture_free(f);
}

static void are_found(const program_mistake *table, int rows, bool tensor) {
  static planted list[PROGRAMS];
  static cuda_host_part parts[PROGRAMS];
  int count = plant(list, table, rows, tensor), missed = 0;
  cuda_host *host;
  for (int i = 0; i < count; i++)
    parts[i] = (cuda_host_part){.program = list[i].defined->program,
                                .bug = {table[list[i].mistake].from, table[list[i].mistake].to}};
  bool built = build(parts, count, &host);
  for (int i = 0; built && i < count; i++) {
    dp_str wrong = {0};
    int seed = 0;
    while (!wrong.length && seed < TRIES) run_planted(host, i, &list[i], (uint64_t)++seed, &wrong);
    missed += !tell(fixture_name(list[i].fixture), table[list[i].mistake].mistake, table[list[i].mistake].found, seed,
                    &wrong);
    dp_str_free(&wrong);
  }
  if (built) cuda_host_free(host);
  for (int i = 0; i < count; i++) fixture_free(list[i].defined);
  ck_assert_msg(missed == 0, "%d of %d mistakes are not found", missed, count);
}

START_TEST(mistakes_in_programs_are_found_as_what_they_are) {
  are_found(program_mistakes, DP_COUNT(program_mistakes), false);
}
END_TEST
START_TEST(mistakes_with_matrix_units_are_found_as_what_they_are) {
  are_found(unit_mistakes, DP_COUNT(unit_mistakes), true);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("cuda_primitives");
  TCase *own = tcase_create("kernels");
  tcase_set_timeout(own, 600);
  tcase_add_test(own, kernels_are_sound);
  tcase_add_test(own, mistakes_in_kernels_are_found_as_what_they_are);
  suite_add_tcase(suite, own);
  TCase *programs = tcase_create("programs");
  tcase_set_timeout(programs, 600);
  tcase_add_test(programs, mistakes_in_programs_are_found_as_what_they_are);
  suite_add_tcase(suite, programs);
  TCase *units = tcase_create("units");
  tcase_set_timeout(units, 600);
  tcase_add_test(units, mistakes_with_matrix_units_are_found_as_what_they_are);
  suite_add_tcase(suite, units);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed != 0;
}
