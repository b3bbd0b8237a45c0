/* tools/launcher/no_jit.c: PCRE2's own compiler is a fifth of a launcher and of no use to prompts of a few thousand bytes.
 * What the rest of PCRE2 asks of it answers as in a build without one. Weak: where a version of PCRE2 asks for more, its own
 * file is linked after all. */
#include <stddef.h>
#include <stdint.h>

#define STUB __attribute__((weak))
enum { JIT_BADOPTION = -45 }; /* PCRE2_ERROR_JIT_BADOPTION */

STUB int pcre2_jit_compile_8(void *code, uint32_t options) {
  (void)code, (void)options;
  return JIT_BADOPTION;
}

STUB int pcre2_jit_match_8(const void *code, const uint8_t *subject, size_t length, size_t start, uint32_t options,
                           void *data, void *context) {
  (void)code, (void)subject, (void)length, (void)start, (void)options, (void)data, (void)context;
  return JIT_BADOPTION;
}

STUB void _pcre2_jit_free_8(void *code, void *memory) { (void)code, (void)memory; }
STUB void _pcre2_jit_free_rodata_8(void *data, void *memory) { (void)data, (void)memory; }
STUB size_t _pcre2_jit_get_size_8(void *code) {
  (void)code;
  return 0;
}
STUB const char *_pcre2_jit_get_target_8(void) { return "none"; }
STUB int _pcre2_jit_check_exec_8(void) { return 0; }
