/* codegen/llvm/backend.c: tile program to object file through LLVM. The object is the product: the JIT loads it
 * (codegen/object.c), the cache keeps it, ahead-of-time compilation writes it. */
#include "codegen/llvm/ll.h"
#include "codegen/object.h"

#include <llvm-c/Analysis.h>
#include <llvm-c/Target.h>
#include <llvm-c/TargetMachine.h>
#include <llvm-c/Transforms/PassBuilder.h>
#include <llvm/Config/llvm-config.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Cleans up what kind.c wrote plainly: loops are already tiled and vectors explicit, so no vectorizer and no unroller. */
static const char pipeline[] = "default<O2>";

/* Raised whenever the code generated for the same tile program changes. */
static const char version[] = "24";

/* ---- targets */

typedef struct machine {
  LLVMTargetMachineRef handle;
  LLVMTargetDataRef layout;
  char *triple, *cpu, *features;
  ll_numbers numbers;
} machine;

static void initialize_targets(void) {
  LLVMInitializeX86TargetInfo();
  LLVMInitializeX86Target();
  LLVMInitializeX86TargetMC();
  LLVMInitializeX86AsmPrinter();
  LLVMInitializeX86AsmParser();
  LLVMInitializeAArch64TargetInfo();
  LLVMInitializeAArch64Target();
  LLVMInitializeAArch64TargetMC();
  LLVMInitializeAArch64AsmPrinter();
  LLVMInitializeAArch64AsmParser();
}

/* LLVM's registry of targets is the process's; it is filled once. */
static void need_targets(void) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, initialize_targets);
}

static bool has_feature(const char *features, const char *name) {
  size_t n = strlen(name);
  bool on = false;
  for (const char *at = features; at && *at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL)
    if ((*at == '+' || *at == '-') && strncmp(at + 1, name, n) == 0 && (at[n + 1] == ',' || !at[n + 1])) on = *at == '+';
  return on;
}

/* What a cpu name alone promises, for compiling for another machine: the levels people ask for. */
static const char *features_of_cpu(const char *cpu) {
  static const char *const wide[] = {"x86-64-v4", "znver4", "znver5", "skylake-avx512", "cascadelake", "icelake-server",
                                     "icelake-client", "sapphirerapids", "emeraldrapids", "graniterapids", "tigerlake"};
  static const char *const middle[] = {"x86-64-v3", "haswell", "broadwell", "skylake", "alderlake", "znver1", "znver2",
                                       "znver3", "raptorlake", "arrowlake", "gracemont"};
  for (size_t i = 0; i < DP_COUNT(wide); i++)
    if (strcmp(cpu, wide[i]) == 0) return "+avx,+avx2,+fma,+f16c,+avx512f,+avx512bw,+avx512vl,+avx512dq,+avx512cd";
  for (size_t i = 0; i < DP_COUNT(middle); i++)
    if (strcmp(cpu, middle[i]) == 0) return "+avx,+avx2,+fma,+f16c";
  return "";
}

static ll_numbers numbers_of(const char *triple, const char *features) {
  static const ll_register_tile avx512[] = {{12, 2}, {6, 4}, {4, 4}, {2, 4}, {1, 4}};
  static const ll_register_tile avx512_plain[] = {{6, 4}, {4, 4}, {3, 4}, {2, 4}, {1, 4}};
  static const ll_register_tile avx2[] = {{6, 1}, {4, 1}, {2, 2}, {1, 4}};
  static const ll_register_tile neon[] = {{5, 1}, {4, 1}, {2, 2}, {1, 4}};
  static const ll_register_tile sse[] = {{2, 1}, {1, 2}};
#define NUMBERS(fma, f16, list) ((ll_numbers){fma, f16, shuffle, list, (int)DP_COUNT(list), list, (int)DP_COUNT(list)})
  ll_shuffle shuffle = LL_SHUFFLE_neon;
  if (strncmp(triple, "aarch64", 7) == 0) return NUMBERS(true, true, neon);
  shuffle = has_feature(features, "ssse3") || has_feature(features, "avx") ? LL_SHUFFLE_ssse3 : LL_SHUFFLE_none;
  bool fma = has_feature(features, "fma"), f16 = has_feature(features, "f16c");
  if (has_feature(features, "avx512f")) {
    ll_numbers numbers = NUMBERS(true, true, avx512);
    numbers.plain_tiles = avx512_plain;
    numbers.plain_tile_count = (int)DP_COUNT(avx512_plain);
    return numbers;
  }
  if (has_feature(features, "avx2")) return NUMBERS(fma, f16, avx2);
  return NUMBERS(fma, f16, sse);
}

/* The names that LLVM is given; no LLVM target need be initialized to know them. */
static dp_status resolve_target(const cg_target *target, machine *m) {
  *m = (machine){0};
  char *host = LLVMGetDefaultTargetTriple(), *host_cpu = LLVMGetHostCPUName(), *host_features = LLVMGetHostCPUFeatures();
  bool native = !target || !target->triple || strcmp(target->triple, host) == 0;
  m->triple = strdup(native ? host : target->triple);
  if (target && target->cpu) {
    m->cpu = strdup(target->cpu);
    dp_str features = {0};
    dp_str_add(&features, strncmp(m->triple, "x86_64", 6) == 0 ? features_of_cpu(target->cpu) : "");
    if (target->features) dp_str_addf(&features, "%s%s", features.length ? "," : "", target->features);
    m->features = features.text ? features.text : strdup("");
  } else {
    m->cpu = strdup(native ? host_cpu : "generic");
    dp_str features = {0};
    dp_str_add(&features, native ? host_features : "");
    if (target && target->features) dp_str_addf(&features, "%s%s", features.length ? "," : "", target->features);
    m->features = features.text ? features.text : strdup("");
  }
  LLVMDisposeMessage(host);
  LLVMDisposeMessage(host_cpu);
  LLVMDisposeMessage(host_features);
  if (!m->triple || !m->cpu || !m->features) return dp_fail(DP_NO_MEMORY, "no memory for a target's names");
  m->numbers = numbers_of(m->triple, m->features);
  return DP_SUCCESS;
}

static void free_machine(machine *m) {
  if (m->layout) LLVMDisposeTargetData(m->layout);
  if (m->handle) LLVMDisposeTargetMachine(m->handle);
  free(m->triple);
  free(m->cpu);
  free(m->features);
}

static dp_status open_machine(const cg_target *target, machine *m) {
  need_targets();
  DP_TRY(resolve_target(target, m));
  LLVMTargetRef description = NULL;
  char *message = NULL;
  if (LLVMGetTargetFromTriple(m->triple, &description, &message)) {
    dp_status status = dp_fail(DP_UNSUPPORTED, "this build has no code generator for '%s': %s", m->triple, message);
    LLVMDisposeMessage(message);
    free_machine(m);
    return status;
  }
  m->handle = LLVMCreateTargetMachine(description, m->triple, m->cpu, m->features, LLVMCodeGenLevelDefault, LLVMRelocPIC,
                                      LLVMCodeModelDefault);
  m->layout = m->handle ? LLVMCreateTargetDataLayout(m->handle) : NULL;
  if (!m->layout) {
    dp_status status = dp_fail(DP_UNSUPPORTED, "LLVM cannot compile for cpu '%s' of '%s'", m->cpu, m->triple);
    free_machine(m);
    return status;
  }
  return DP_SUCCESS;
}

static dp_status fingerprint(const cg_target *target, dp_str *out) {
  machine m;
  DP_TRY(resolve_target(target, &m));
  dp_str_addf(out, "llvm %s code %s %s %s %s", LLVM_VERSION_STRING, version, m.triple, m.cpu, m.features);
  free_machine(&m);
  return DP_SUCCESS;
}

/* ---- compiling */

static ll open_module(const tile_program *program, const machine *m) {
  ll l = {.program = program, .numbers = m->numbers, .context = LLVMContextCreate()};
  l.module = LLVMModuleCreateWithNameInContext(program->name, l.context);
  l.b = LLVMCreateBuilderInContext(l.context);
  LLVMSetTarget(l.module, m->triple);
  LLVMSetModuleDataLayout(l.module, m->layout);
  l.i1 = LLVMInt1TypeInContext(l.context);
  l.i8 = LLVMInt8TypeInContext(l.context);
  l.i16 = LLVMInt16TypeInContext(l.context);
  l.i32 = LLVMInt32TypeInContext(l.context);
  l.i64 = LLVMInt64TypeInContext(l.context);
  l.f16 = LLVMHalfTypeInContext(l.context);
  l.f32 = LLVMFloatTypeInContext(l.context);
  l.f64 = LLVMDoubleTypeInContext(l.context);
  l.ptr = LLVMPointerTypeInContext(l.context, 0);
  l.void_t = LLVMVoidTypeInContext(l.context);
  l.v_f32 = LLVMVectorType(l.f32, TILE_LANES);
  l.v_f64 = LLVMVectorType(l.f64, TILE_LANES);
  l.v_i32 = LLVMVectorType(l.i32, TILE_LANES);
  l.v_i64 = LLVMVectorType(l.i64, TILE_LANES);
  l.v_i1 = LLVMVectorType(l.i1, TILE_LANES);
  return l;
}

static void close_module(ll *l) {
  LLVMDisposeBuilder(l->b);
  LLVMDisposeModule(l->module);
  LLVMContextDispose(l->context);
}

static dp_status optimize(ll *l, const machine *m) {
  LLVMPassBuilderOptionsRef options = LLVMCreatePassBuilderOptions();
  LLVMPassBuilderOptionsSetLoopUnrolling(options, false);
  LLVMPassBuilderOptionsSetLoopVectorization(options, false);
  LLVMPassBuilderOptionsSetSLPVectorization(options, false);
  LLVMErrorRef error = LLVMRunPasses(l->module, pipeline, m->handle, options);
  LLVMDisposePassBuilderOptions(options);
  if (!error) return DP_SUCCESS;
  char *message = LLVMGetErrorMessage(error);
  dp_status status = dp_fail(DP_BUG, "LLVM refused its pass pipeline: %s", message);
  LLVMDisposeErrorMessage(message);
  return status;
}

/* What the object says of itself: codegen/object.h. */
static dp_status add_note(ll *l) {
  int64_t scratch = 0;
  for (int i = 0; i < l->program->kind_count; i++) {
    int64_t bytes = ll_place_values(&l->program->kinds[i], NULL, NULL);
    if (bytes > scratch) scratch = bytes;
  }
  cg_note note;
  DP_TRY(cg_make_note(l->program, (size_t)scratch, &note));
  LLVMValueRef bytes = LLVMConstStringInContext2(l->context, (const char *)&note, sizeof note, true);
  LLVMValueRef global = LLVMAddGlobal(l->module, LLVMTypeOf(bytes), "dipper_note");
  LLVMSetInitializer(global, bytes);
  LLVMSetGlobalConstant(global, true);
  LLVMSetAlignment(global, 8);
  return DP_SUCCESS;
}

static dp_status build_module(ll *l, const machine *m) {
  for (int i = 0; i < l->program->kind_count; i++) ll_emit_kind(l, i);
  DP_TRY(add_note(l));
  char *message = NULL;
  if (LLVMVerifyModule(l->module, LLVMReturnStatusAction, &message)) {
    dp_status status = dp_fail(DP_BUG, "internal error: the generated LLVM module is not sound: %.2000s", message);
    LLVMDisposeMessage(message);
    return status;
  }
  LLVMDisposeMessage(message);
  return optimize(l, m);
}

static dp_status emit_file(ll *l, const machine *m, LLVMCodeGenFileType type, void **bytes, size_t *size) {
  LLVMMemoryBufferRef buffer = NULL;
  char *message = NULL;
  if (LLVMTargetMachineEmitToMemoryBuffer(m->handle, l->module, type, &message, &buffer)) {
    dp_status status = dp_fail(DP_BUG, "LLVM could not emit code for '%s': %s", m->cpu, message);
    LLVMDisposeMessage(message);
    return status;
  }
  *size = LLVMGetBufferSize(buffer);
  *bytes = malloc(*size + 1);
  if (*bytes) {
    memcpy(*bytes, LLVMGetBufferStart(buffer), *size);
    ((char *)*bytes)[*size] = '\0';
  }
  LLVMDisposeMemoryBuffer(buffer);
  return *bytes ? DP_SUCCESS : dp_fail(DP_NO_MEMORY, "no memory for %zu bytes of code", *size);
}

static dp_status compile(const tile_program *program, const cg_target *target, cg_object *object) {
  if (program->tensor) return dp_fail(DP_UNSUPPORTED, "%s was scheduled for matrix units, which no CPU back end has", program->name);
  machine m;
  *object = (cg_object){0};
  DP_TRY(open_machine(target, &m));
  ll l = open_module(program, &m);
  dp_status status = build_module(&l, &m);
  if (status.code == DP_OK) status = emit_file(&l, &m, LLVMObjectFile, &object->bytes, &object->size);
  close_module(&l);
  free_machine(&m);
  return status;
}

/* Copies a listing, and before each kind's function, as comments, the tile code it was made from. */
static void annotate(dp_str *out, const tile_program *program, const char *listing, const char *before, const char *after,
                     const char *comment) {
  const char *at = listing;
  for (int kind = 0; kind < program->kind_count; kind++) {
    char label[64];
    snprintf(label, sizeof label, "\n%skind_%d%s", before, kind, after);
    const char *found = strstr(at, label);
    if (!found) continue;
    dp_str_addn(out, at, (size_t)(found - at) + 1);
    dp_str source = {0};
    tile_print_kind(&source, program, kind);
    for (const char *line = source.text; line && *line;) {
      size_t length = strcspn(line, "\n");
      if (length) dp_str_addf(out, "%s%.*s\n", comment, (int)length, line);
      line += length + (line[length] == '\n');
    }
    dp_str_free(&source);
    at = found + 1;
  }
  dp_str_add(out, at);
}

static dp_status add_object(const tile_program *program, const cg_target *target, dp_str *out) {
  cg_object object;
  DP_TRY(compile(program, target, &object));
  dp_str_addn(out, object.bytes, object.size);
  cg_object_free(&object);
  return DP_SUCCESS;
}

static dp_status text(const tile_program *program, const cg_target *target, cg_text kind, dp_str *out) {
  if (kind == CG_TEXT_MACHINE) return add_object(program, target, out);
  machine m;
  DP_TRY(open_machine(target, &m));
  ll l = open_module(program, &m);
  dp_status status = build_module(&l, &m);
  if (status.code == DP_OK && kind == CG_TEXT_IR) {
    char *ir = LLVMPrintModuleToString(l.module);
    annotate(out, program, ir, "define void @", "(", ";");
    LLVMDisposeMessage(ir);
  } else if (status.code == DP_OK) {
    void *bytes = NULL;
    size_t size;
    status = emit_file(&l, &m, LLVMAssemblyFile, &bytes, &size);
    bool x86 = strncmp(m.triple, "x86_64", 6) == 0;
    if (status.code == DP_OK) annotate(out, program, bytes, "", ":", x86 ? "#" : "//");
    free(bytes);
  }
  close_module(&l);
  free_machine(&m);
  return status;
}

const cg_backend cg_llvm = {
    .name = "llvm",
    .doc = "native code through LLVM " LLVM_VERSION_STRING ": x86-64 (AVX-512, AVX2, SSE) and AArch64",
    .fingerprint = fingerprint,
    .compile = compile,
    .load = cg_load_object,
    .text = text,
};
