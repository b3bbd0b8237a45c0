/* codegen/cuda/report.c: ptxas' log as a table: a line a kernel and a function that was not inlined. */
#include "codegen/cuda/cuda.h"
#include "codegen/cuda/image.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The number that stands before `unit` on a line; -1: none does. */
static int64_t number_before(const char *line, size_t length, const char *unit) {
  const char *at = memmem(line, length, unit, strlen(unit));
  if (!at) return -1;
  while (at > line && at[-1] == ' ') at--;
  const char *end = at;
  while (at > line && at[-1] >= '0' && at[-1] <= '9') at--;
  return at < end ? strtoll(at, NULL, 10) : -1;
}

/* Of a function's name in the text's own namespace (Itanium C++ ABI, 5.1) the last part; other names as they are. */
static void add_name(const char *name, size_t length, dp_str *out) {
  const char *end = name + length, *at = name + 3, *part = name;
  size_t size = length;
  if (length > 3 && memcmp(name, "_ZN", 3) == 0) {
    while (at < end && *at >= '0' && *at <= '9') {
      char *behind;
      unsigned long n = strtoul(at, &behind, 10);
      if (behind >= end || n > (unsigned long)(end - behind)) break;
      part = behind, size = n;
      at = behind + n;
    }
  }
  dp_str_addn(out, part, size);
  if (at < end && *at == 'I' && part != name) { /* of a template its argument, a type by name */
    char *behind;
    unsigned long n = strtoul(at + 1, &behind, 10);
    if (behind < end && n > 0 && n <= (unsigned long)(end - behind)) dp_str_addf(out, "<%.*s>", (int)n, behind);
  }
}

typedef struct function {
  const char *name;
  size_t length;
  int64_t stack, stores, loads; /* bytes */
} function;

static void add_function(const function *f, int64_t registers, int64_t shared, dp_str *out) {
  char kernel[2][24] = {"", ""};
  if (registers >= 0) snprintf(kernel[0], sizeof kernel[0], "%" PRId64, registers);
  if (shared >= 0) snprintf(kernel[1], sizeof kernel[1], "%" PRId64, shared);
  dp_str_addf(out, "  %9s %7s %6" PRId64 " %12" PRId64 " %11" PRId64 "  ", kernel[0], kernel[1], f->stack, f->stores, f->loads);
  add_name(f->name, f->length, out);
  dp_str_addc(out, '\n');
}

void cuda_report(const char *log, dp_str *out) {
  static const char properties[] = "Function properties for ";
  function f = {0};
  bool any = false;
  for (const char *line = log, *next; *line; line = next) {
    size_t length = strcspn(line, "\n");
    next = line + length + (line[length] == '\n');
    const char *named = memmem(line, length, properties, strlen(properties));
    if (named) f = (function){.name = named + strlen(properties)};
    if (named) f.length = (size_t)(line + length - f.name);
    if (!f.name || named || number_before(line, length, "bytes stack frame") < 0) continue;
    f.stack = number_before(line, length, "bytes stack frame");
    f.stores = number_before(line, length, "bytes spill stores");
    f.loads = number_before(line, length, "bytes spill loads");
    /* Of a kernel the next line tells more. */
    size_t more = strcspn(next, "\n");
    int64_t registers = number_before(next, more, "registers"), shared = number_before(next, more, "bytes smem");
    if (!any) dp_str_add(out, "  registers  shared  stack spill stores spill loads  function (bytes)\n");
    any = true;
    add_function(&f, registers, registers >= 0 && shared < 0 ? 0 : shared, out);
  }
}

void cuda_report_needs(const cuda_note *note, dp_str *out) {
  dp_str_addf(out, "  a block: %" PRIu64 " threads, %" PRIu64 " bytes of shared and %" PRIu64 " of scratch memory\n",
              note->threads, note->shared_bytes, note->scratch_floats * 4);
}
