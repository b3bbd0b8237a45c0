/* codegen/cpu.c: which CPUs code can be made for by name, and whether this machine is one that has all of what code counts
 * on. Compared are the words in which the CPU tells its features (x86-64: CPUID, and what the system saves by XCR0; AArch64:
 * the auxiliary vector), of these the bits that a compiler may use. */
#include "codegen/codegen.h"

#include <elf.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if defined __x86_64__
#include <cpuid.h>
#elif defined __aarch64__
#include <sys/auxv.h>
#endif

enum { LEAF1_C, LEAF7_B, LEAF7_C, LEAF7_D, LEAF7_1_A, EXTENDED_C, SAVED, WORDS };
#define BIT(n) (UINT32_C(1) << (n))

/* What of each word is a matter of instructions (Intel SDM volume 2, CPUID; AMD APM volume 3, appendix E). */
static const uint32_t instructions[WORDS] = {
    [LEAF1_C] = BIT(0) | BIT(1) | BIT(9) | BIT(12) | BIT(13) | BIT(19) | BIT(20) | BIT(22) | BIT(23) | BIT(25) | BIT(28) |
                BIT(29) | BIT(30),
    [LEAF7_B] = BIT(3) | BIT(5) | BIT(8) | BIT(16) | BIT(17) | BIT(18) | BIT(19) | BIT(21) | BIT(23) | BIT(24) | BIT(28) |
                BIT(29) | BIT(30) | BIT(31),
    [LEAF7_C] = BIT(1) | BIT(6) | BIT(8) | BIT(9) | BIT(10) | BIT(11) | BIT(12) | BIT(14),
    [LEAF7_D] = BIT(8) | BIT(22) | BIT(23) | BIT(24) | BIT(25),
    [LEAF7_1_A] = BIT(4) | BIT(5),
    [EXTENDED_C] = BIT(0) | BIT(5) | BIT(6) | BIT(8) | BIT(11) | BIT(16) | BIT(21),
    [SAVED] = 0xe7 | BIT(17) | BIT(18),
};

/* The levels of the x86-64 psABI, then what AMD's cores have on top. */
#define V2_1C (BIT(0) | BIT(9) | BIT(13) | BIT(19) | BIT(20) | BIT(23))
#define V3_1C (V2_1C | BIT(12) | BIT(22) | BIT(28) | BIT(29))
#define V3_7B (BIT(3) | BIT(5) | BIT(8))
#define V4_7B (V3_7B | BIT(16) | BIT(17) | BIT(28) | BIT(30) | BIT(31))
#define ZEN_1C (V3_1C | BIT(1) | BIT(25) | BIT(30))
#define ZEN_7B (BIT(18) | BIT(19) | BIT(23) | BIT(24) | BIT(29))
#define ZEN_EXTENDED (BIT(0) | BIT(5) | BIT(6) | BIT(8))
#define ZEN4_7C (BIT(1) | BIT(6) | BIT(8) | BIT(9) | BIT(10) | BIT(11) | BIT(12) | BIT(14))

static const struct {
  cg_cpu cpu;
  uint32_t words[WORDS];
} cpus[] = {
    {{"x86-64", "x86_64-unknown-linux-gnu", "x86-64"}, {0}},
    {{"x86-64-v2", "x86_64-unknown-linux-gnu", "x86-64-v2"}, {V2_1C, 0, 0, 0, 0, BIT(0), 3}},
    {{"x86-64-v3", "x86_64-unknown-linux-gnu", "x86-64-v3"}, {V3_1C, V3_7B, 0, 0, 0, BIT(0) | BIT(5), 7}},
    {{"x86-64-v4", "x86_64-unknown-linux-gnu", "x86-64-v4"}, {V3_1C, V4_7B, 0, 0, 0, BIT(0) | BIT(5), 0xe7}},
    {{"znver3", "x86_64-unknown-linux-gnu", "znver3"},
     {ZEN_1C, V3_7B | ZEN_7B, BIT(9) | BIT(10), 0, 0, ZEN_EXTENDED, 7}},
    {{"znver4", "x86_64-unknown-linux-gnu", "znver4"},
     {ZEN_1C, V4_7B | ZEN_7B | BIT(21), ZEN4_7C, 0, BIT(5), ZEN_EXTENDED, 0xe7}},
    {{"aarch64", "aarch64-unknown-linux-gnu", "generic"}, {0}},
};

const cg_cpu *cg_cpu_at(int index) { return index >= 0 && index < (int)DP_COUNT(cpus) ? &cpus[index].cpu : NULL; }

const cg_cpu *cg_find_cpu(const char *name) {
  for (size_t i = 0; i < DP_COUNT(cpus); i++)
    if (strcmp(cpus[i].cpu.name, name) == 0) return &cpus[i].cpu;
  return NULL;
}

/* ---- this machine */

#if defined __x86_64__
static const char here[] = "x86_64";

static void read_words(uint32_t *words) {
  uint32_t a, b, c, d;
  memset(words, 0, WORDS * sizeof *words);
  if (__get_cpuid(1, &a, &b, &c, &d)) {
    words[LEAF1_C] = c;
    if (c & BIT(27)) { /* OSXSAVE: xgetbv may be used */
      uint32_t high;
      __asm__ volatile("xgetbv" : "=a"(words[SAVED]), "=d"(high) : "c"(0));
    }
  }
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
    words[LEAF7_B] = b, words[LEAF7_C] = c, words[LEAF7_D] = d;
    if (a >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) words[LEAF7_1_A] = a;
  }
  if (__get_cpuid(0x80000001, &a, &b, &c, &d)) words[EXTENDED_C] = c;
  words[SAVED] |= 3; /* x87 and SSE: of every x86-64 system */
  for (int i = 0; i < WORDS; i++) words[i] &= instructions[i];
}
#elif defined __aarch64__
static const char here[] = "aarch64";

static void read_words(uint32_t *words) {
  uint64_t first = getauxval(AT_HWCAP), second = getauxval(AT_HWCAP2);
  uint32_t own[WORDS] = {(uint32_t)first, (uint32_t)(first >> 32), (uint32_t)second, (uint32_t)(second >> 32)};
  memcpy(words, own, sizeof own);
}
#else
static const char here[] = "unknown";
static void read_words(uint32_t *words) { memset(words, 0, WORDS * sizeof *words); }
#endif

/* ---- requirements */

static void print_requirement(const char *architecture, const uint32_t *words, dp_str *out) {
  dp_str_add(out, architecture);
  for (int i = 0; i < WORDS; i++) dp_str_addf(out, " %08" PRIx32, words[i]);
}

dp_status cg_cpu_requirement(const cg_cpu *cpu, dp_str *out) {
  uint32_t words[WORDS];
  read_words(words);
  const char *architecture = here;
  for (size_t i = 0; cpu && i < DP_COUNT(cpus); i++) {
    if (&cpus[i].cpu != cpu) continue;
    architecture = strncmp(cpu->triple, "aarch64", 7) == 0 ? "aarch64" : "x86_64";
    memcpy(words, cpus[i].words, sizeof words);
  }
  print_requirement(architecture, words, out);
  return out->failed ? dp_fail(DP_NO_MEMORY, "no memory for a target's name") : DP_SUCCESS;
}

static bool is_architecture(const char *requirement, const char *name) {
  size_t n = strlen(name);
  return strncmp(requirement, name, n) == 0 && requirement[n] == ' ';
}

bool cg_runs_here(const char *requirement, int *rank) {
  uint32_t own[WORDS];
  int bits = 0;
  if (!is_architecture(requirement, here)) return false;
  read_words(own);
  const char *at = requirement + strlen(here);
  for (int i = 0; i < WORDS; i++) {
    char *end;
    unsigned long long word = strtoull(at, &end, 16);
    if (end == at || word > UINT32_MAX || ((uint32_t)word & ~own[i])) return false;
    bits += __builtin_popcount((unsigned)word);
    at = end;
  }
  if (*at) return false;
  if (rank) *rank = bits;
  return true;
}

uint16_t cg_elf_machine(const char *requirement) {
  if (is_architecture(requirement, "x86_64")) return EM_X86_64;
  return is_architecture(requirement, "aarch64") ? EM_AARCH64 : EM_NONE;
}
