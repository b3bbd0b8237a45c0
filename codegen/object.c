/* codegen/object.c: an ELF object file (System V gABI; psABI of x86-64 and AArch64) to callable code in this process:
 * sections laid out in one mapping, code and constants apart, relocations applied, then code made executable and all of it
 * read-only. It needs neither LLVM nor a linker. Nothing of a file is believed: every offset, index and size is compared
 * with what there is. What the code then does cannot be known: objects are run like any program. */
#include "codegen/object.h"

#include <elf.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#if defined __x86_64__
enum { MACHINE = EM_X86_64 };
#elif defined __aarch64__
enum { MACHINE = EM_AARCH64 };
#else
enum { MACHINE = EM_NONE };
#endif

enum { STUB_BYTES = 16, MAX_ALIGN = 4096 };
static const uint64_t MOST_BYTES = UINT64_C(1) << 27; /* of a loaded object: relative addresses in code reach over it */

dp_status cg_find_program_key(const tile_program *program, cg_program_key *key) {
  dp_str text = {0};
  tile_print(&text, program);
  dp_status status = text.failed ? dp_fail(DP_NO_MEMORY, "no memory for a program's text") : DP_SUCCESS;
  *key = (cg_program_key){dp_hash(1, text.text, text.length), dp_hash(2, text.text, text.length)};
  dp_str_free(&text);
  return status;
}

dp_status cg_make_note(const tile_program *program, size_t scratch_bytes, cg_note *note) {
  *note = (cg_note){.magic = "dipperK", .format = CG_NOTE_FORMAT, .step_bytes = sizeof(tile_step),
                    .kind_count = (uint64_t)program->kind_count, .scratch_bytes = scratch_bytes};
  return cg_find_program_key(program, &note->program);
}

/* ---- what the code may call: fills and copies that a compiler makes of loops */

static const struct {
  const char *name;
  uintptr_t address;
} externals[] = {
    {"memset", (uintptr_t)memset},
    {"memcpy", (uintptr_t)memcpy},
    {"memmove", (uintptr_t)memmove},
};

/* ---- the file */

typedef void kind_code(const tile_step *step, int64_t layer, int64_t row, int64_t col, void *scratch, int64_t reuse);

typedef struct section {
  Elf64_Shdr head;
  bool placed;
  uint64_t at; /* in the mapping, when placed */
} section;

typedef struct loader {
  const uint8_t *bytes;
  size_t size;
  section *sections;
  size_t count;
  const Elf64_Shdr *symbols, *names;
  uint64_t code_bytes, whole_bytes; /* of the mapping: code with its stubs first, in whole pages, then constants */
  uint64_t stubs;                   /* where those begin */
  uint8_t *memory;
} loader;

static dp_status damaged(const char *what) { return dp_fail(DP_INVALID, "the object file is damaged: %s", what); }

static bool inside(const loader *l, uint64_t offset, uint64_t bytes) { return offset <= l->size && bytes <= l->size - offset; }

static dp_status read_sections(loader *l) {
  Elf64_Ehdr head;
  if (l->size < sizeof head) return damaged("it is too short");
  memcpy(&head, l->bytes, sizeof head);
  if (memcmp(head.e_ident, ELFMAG, SELFMAG) != 0) return dp_fail(DP_INVALID, "this is no ELF object file");
  if (head.e_ident[EI_CLASS] != ELFCLASS64 || head.e_ident[EI_DATA] != ELFDATA2LSB || head.e_type != ET_REL)
    return dp_fail(DP_INVALID, "this ELF file is no 64-bit little-endian object");
  if (head.e_machine != MACHINE)
    return dp_fail(DP_UNSUPPORTED, "the object is for another machine (ELF machine %d, this one is %d)", head.e_machine, MACHINE);
  if (head.e_shentsize != sizeof(Elf64_Shdr) || !inside(l, head.e_shoff, (uint64_t)head.e_shnum * sizeof(Elf64_Shdr)))
    return damaged("its table of sections is not in it");
  l->count = head.e_shnum;
  l->sections = calloc(l->count + 1, sizeof *l->sections);
  if (!l->sections) return dp_fail(DP_NO_MEMORY, "no memory to load an object");
  for (size_t i = 0; i < l->count; i++) {
    Elf64_Shdr *s = &l->sections[i].head;
    memcpy(s, l->bytes + head.e_shoff + i * sizeof *s, sizeof *s);
    if (s->sh_type != SHT_NOBITS && s->sh_type != SHT_NULL && !inside(l, s->sh_offset, s->sh_size))
      return damaged("a section is not in it");
    if (s->sh_type == SHT_SYMTAB) l->symbols = s;
  }
  if (!l->symbols || l->symbols->sh_link >= l->count || l->symbols->sh_entsize != sizeof(Elf64_Sym))
    return damaged("it has no table of symbols");
  l->names = &l->sections[l->symbols->sh_link].head;
  bool ends = l->names->sh_type == SHT_STRTAB && l->names->sh_size > 0 &&
              l->bytes[l->names->sh_offset + l->names->sh_size - 1] == '\0';
  return ends ? DP_SUCCESS : damaged("its symbols have no names");
}

static size_t symbol_count(const loader *l) { return l->symbols->sh_size / sizeof(Elf64_Sym); }

static Elf64_Sym symbol_at(const loader *l, size_t index) {
  Elf64_Sym symbol;
  memcpy(&symbol, l->bytes + l->symbols->sh_offset + index * sizeof symbol, sizeof symbol);
  return symbol;
}

static const char *name_of(const loader *l, const Elf64_Sym *symbol) {
  return symbol->st_name < l->names->sh_size ? (const char *)l->bytes + l->names->sh_offset + symbol->st_name : "";
}

/* ---- layout */

static bool is_code(const Elf64_Shdr *s) { return s->sh_flags & SHF_EXECINSTR; }

static uint64_t round_up(uint64_t n, uint64_t unit) { return (n + unit - 1) / unit * unit; }

static dp_status place(loader *l, bool code, uint64_t *at) {
  for (size_t i = 0; i < l->count; i++) {
    section *s = &l->sections[i];
    uint64_t align = s->head.sh_addralign ? s->head.sh_addralign : 1;
    if (!(s->head.sh_flags & SHF_ALLOC) || s->head.sh_type == SHT_NULL || is_code(&s->head) != code) continue;
    if (s->head.sh_flags & (SHF_WRITE | SHF_TLS))
      return dp_fail(DP_UNSUPPORTED, "the object has data that can be written to: it is none of dipper's");
    if (align > MAX_ALIGN || (align & (align - 1))) return damaged("a section's alignment is no power of two up to 4096");
    if (s->head.sh_size > MOST_BYTES) return damaged("a section is larger than 128 MiB");
    s->at = round_up(*at, align);
    s->placed = true;
    *at = s->at + s->head.sh_size;
    if (*at > MOST_BYTES) return damaged("it is larger than 128 MiB");
  }
  return DP_SUCCESS;
}

static dp_status lay_out(loader *l) {
  uint64_t at = 0, page = (uint64_t)sysconf(_SC_PAGESIZE);
  DP_TRY(place(l, true, &at));
  l->stubs = round_up(at, STUB_BYTES);
  l->code_bytes = at = round_up(l->stubs + DP_COUNT(externals) * STUB_BYTES, page);
  DP_TRY(place(l, false, &at));
  l->whole_bytes = round_up(at, page);
  void *memory = mmap(NULL, l->whole_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return dp_fail(DP_NO_MEMORY, "no memory for %" PRIu64 " bytes of code", l->whole_bytes);
  l->memory = memory;
  for (size_t i = 0; i < l->count; i++) {
    const section *s = &l->sections[i];
    if (s->placed && s->head.sh_type != SHT_NOBITS && s->head.sh_size)
      memcpy(l->memory + s->at, l->bytes + s->head.sh_offset, s->head.sh_size);
  }
  return DP_SUCCESS;
}

/* A jump to where the C library is: it may lie further away than a call reaches. */
static void write_stubs(loader *l) {
  for (size_t i = 0; i < DP_COUNT(externals); i++) {
    uint8_t *stub = l->memory + l->stubs + i * STUB_BYTES;
    uint64_t address = externals[i].address;
    if (MACHINE == EM_X86_64) {
      static const uint8_t jump[] = {0xff, 0x25, 0, 0, 0, 0}; /* jmp *0(%rip) */
      memcpy(stub, jump, sizeof jump);
      memcpy(stub + sizeof jump, &address, sizeof address);
    } else {
      static const uint32_t jump[] = {0x58000050, 0xd61f0200}; /* ldr x16, .+8; br x16 */
      memcpy(stub, jump, sizeof jump);
      memcpy(stub + sizeof jump, &address, sizeof address);
    }
  }
}

/* ---- relocation */

static dp_status address_of(const loader *l, size_t index, uint64_t *address) {
  if (index >= symbol_count(l)) return damaged("a relocation is to no symbol");
  Elf64_Sym symbol = symbol_at(l, index);
  if (symbol.st_shndx == SHN_UNDEF) {
    for (size_t i = 0; i < DP_COUNT(externals); i++) {
      if (strcmp(name_of(l, &symbol), externals[i].name) != 0) continue;
      *address = (uint64_t)(uintptr_t)(l->memory + l->stubs + i * STUB_BYTES);
      return DP_SUCCESS;
    }
    return dp_fail(DP_UNSUPPORTED, "the object calls '%.100s', which code of dipper's does not", name_of(l, &symbol));
  }
  if (symbol.st_shndx >= l->count || !l->sections[symbol.st_shndx].placed ||
      symbol.st_value > l->sections[symbol.st_shndx].head.sh_size)
    return damaged("a symbol lies in no section");
  *address = (uint64_t)(uintptr_t)(l->memory + l->sections[symbol.st_shndx].at + symbol.st_value);
  return DP_SUCCESS;
}

static bool fits(int64_t value, int bits) { return value >= -(INT64_C(1) << (bits - 1)) && value < INT64_C(1) << (bits - 1); }

static bool put(uint8_t *at, int64_t value, int bytes) {
  if (bytes < 8 && !fits(value, 8 * bytes)) return false;
  memcpy(at, &value, (size_t)bytes);
  return true;
}

/* Bits of an AArch64 instruction, `value` being what they hold. */
static bool set_bits(uint8_t *at, uint32_t mask, uint32_t value) {
  uint32_t word;
  memcpy(&word, at, sizeof word);
  word = (word & ~mask) | (value & mask);
  memcpy(at, &word, sizeof word);
  return true;
}

/* The low 12 bits of an address, in units of the element that is loaded. */
static bool set_low(uint8_t *at, uint64_t value, int shift) {
  if (value & ((UINT64_C(1) << shift) - 1)) return false;
  return set_bits(at, 0xfffu << 10, (uint32_t)((value & 0xfff) >> shift) << 10);
}

static bool relocate_x86(uint32_t type, uint8_t *at, uint64_t value, uint64_t place) {
  switch (type) {
  case R_X86_64_NONE: return true;
  case R_X86_64_64: return put(at, (int64_t)value, 8);
  case R_X86_64_PC64: return put(at, (int64_t)(value - place), 8);
  case R_X86_64_PC32: case R_X86_64_PLT32: return put(at, (int64_t)(value - place), 4);
  default: return false;
  }
}

static bool relocate_arm(uint32_t type, uint8_t *at, uint64_t value, uint64_t place) {
  int64_t distance = (int64_t)(value - place), pages = (int64_t)((value >> 12) - (place >> 12));
  switch (type) {
  case R_AARCH64_NONE: return true;
  case R_AARCH64_ABS64: return put(at, (int64_t)value, 8);
  case R_AARCH64_PREL64: return put(at, distance, 8);
  case R_AARCH64_PREL32: return put(at, distance, 4);
  case R_AARCH64_CALL26: case R_AARCH64_JUMP26:
    return fits(distance, 28) && !(distance & 3) && set_bits(at, 0x3ffffff, (uint32_t)(distance >> 2));
  case R_AARCH64_ADR_PREL_PG_HI21:
    return fits(pages, 21) && set_bits(at, 3u << 29 | 0x7ffffu << 5, (uint32_t)(pages & 3) << 29 | (uint32_t)(pages >> 2 & 0x7ffff) << 5);
  case R_AARCH64_ADR_PREL_LO21:
    return fits(distance, 21) && set_bits(at, 3u << 29 | 0x7ffffu << 5, (uint32_t)(distance & 3) << 29 | (uint32_t)(distance >> 2 & 0x7ffff) << 5);
  case R_AARCH64_ADD_ABS_LO12_NC: case R_AARCH64_LDST8_ABS_LO12_NC: return set_low(at, value, 0);
  case R_AARCH64_LDST16_ABS_LO12_NC: return set_low(at, value, 1);
  case R_AARCH64_LDST32_ABS_LO12_NC: return set_low(at, value, 2);
  case R_AARCH64_LDST64_ABS_LO12_NC: return set_low(at, value, 3);
  case R_AARCH64_LDST128_ABS_LO12_NC: return set_low(at, value, 4);
  default: return false;
  }
}

static bool relocate_one(uint32_t type, uint8_t *at, uint64_t value) {
  uint64_t place = (uint64_t)(uintptr_t)at;
  return MACHINE == EM_X86_64 ? relocate_x86(type, at, value, place) : relocate_arm(type, at, value, place);
}

static dp_status relocate(loader *l, const Elf64_Shdr *list) {
  const section *target = &l->sections[list->sh_info];
  if (list->sh_entsize != sizeof(Elf64_Rela)) return damaged("its relocations have no known form");
  for (uint64_t i = 0; i < list->sh_size / sizeof(Elf64_Rela); i++) {
    Elf64_Rela r;
    uint64_t value;
    memcpy(&r, l->bytes + list->sh_offset + i * sizeof r, sizeof r);
    if (target->head.sh_size < 4 || r.r_offset > target->head.sh_size - 4) return damaged("a relocation is of no place in its section");
    uint32_t type = ELF64_R_TYPE(r.r_info);
    bool wide = MACHINE == EM_X86_64 ? type == R_X86_64_64 || type == R_X86_64_PC64 : type == R_AARCH64_ABS64 || type == R_AARCH64_PREL64;
    if (wide && (target->head.sh_size < 8 || r.r_offset > target->head.sh_size - 8)) return damaged("a relocation is of no place in its section");
    DP_TRY(address_of(l, ELF64_R_SYM(r.r_info), &value));
    if (!relocate_one(type, l->memory + target->at + r.r_offset, value + (uint64_t)r.r_addend))
      return dp_fail(DP_UNSUPPORTED, "the object has a relocation (type %u) that cannot be applied", type);
  }
  return DP_SUCCESS;
}

static dp_status relocate_all(loader *l) {
  for (size_t i = 0; i < l->count; i++) {
    const Elf64_Shdr *s = &l->sections[i].head;
    if (s->sh_type != SHT_RELA && s->sh_type != SHT_REL) continue;
    if (s->sh_info >= l->count) return damaged("a relocation is of no section");
    if (!l->sections[s->sh_info].placed) continue; /* what is for people and debuggers */
    if (s->sh_type == SHT_REL || l->sections[s->sh_info].head.sh_type == SHT_NOBITS)
      return dp_fail(DP_UNSUPPORTED, "the object has relocations of a form that dipper does not write");
    DP_TRY(relocate(l, s));
  }
  return DP_SUCCESS;
}

static dp_status protect(const loader *l) {
  __builtin___clear_cache((char *)l->memory, (char *)l->memory + l->code_bytes);
  if (mprotect(l->memory, l->code_bytes, PROT_READ | PROT_EXEC) != 0)
    return dp_fail(DP_UNSUPPORTED, "the system does not let memory be made executable");
  size_t constants = l->whole_bytes - l->code_bytes;
  if (constants) mprotect(l->memory + l->code_bytes, constants, PROT_READ);
  return DP_SUCCESS;
}

/* ---- what the object defines */

typedef struct loaded {
  tile_code code;
  void *memory;
  size_t bytes;
  kind_code *kinds[];
} loaded;

static void run(const tile_code *code, int kind, const tile_step *step, int64_t layer, int64_t row, int64_t col,
                void *scratch, int64_t reuse) {
  ((const loaded *)code->self)->kinds[kind](step, layer, row, col, scratch, reuse);
}

static void unload(tile_code *code) {
  loaded *self = code->self;
  if (self->memory) munmap(self->memory, self->bytes);
  free(self);
}

static dp_status check_note(const loader *l, const Elf64_Sym *symbol, const tile_program *program, loaded *self) {
  cg_note note, own;
  const section *s = symbol->st_shndx < l->count ? &l->sections[symbol->st_shndx] : NULL;
  if (!s || !s->placed || s->head.sh_size < sizeof note || symbol->st_value > s->head.sh_size - sizeof note)
    return damaged("its note is not in it");
  memcpy(&note, l->memory + s->at + symbol->st_value, sizeof note);
  DP_TRY(cg_make_note(program, note.scratch_bytes, &own));
  if (memcmp(note.magic, own.magic, sizeof own.magic) != 0) return damaged("its note is none of dipper's");
  if (note.format != own.format || note.step_bytes != own.step_bytes)
    return dp_fail(DP_UNSUPPORTED, "the object was made by another version of dipper: compile it again");
  if (note.kind_count != own.kind_count || memcmp(&note.program, &own.program, sizeof own.program) != 0)
    return dp_fail(DP_INVALID, "the object was not compiled of this program: another model, other dimensions, or weights of "
                               "other types");
  if (note.scratch_bytes > UINT64_C(1) << 40) return damaged("its note asks for more than any memory");
  self->code.scratch_bytes = note.scratch_bytes;
  return DP_SUCCESS;
}

static dp_status find_kinds(const loader *l, const tile_program *program, loaded *self) {
  bool noted = false;
  for (size_t i = 1; i < symbol_count(l); i++) {
    Elf64_Sym symbol = symbol_at(l, i);
    const char *name = name_of(l, &symbol);
    int number, length = 0;
    if (ELF64_ST_BIND(symbol.st_info) != STB_GLOBAL || symbol.st_shndx == SHN_UNDEF) continue;
    if (strcmp(name, "dipper_note") == 0) {
      DP_TRY(check_note(l, &symbol, program, self));
      noted = true;
    }
    if (sscanf(name, "kind_%9d%n", &number, &length) != 1 || name[length] || number < 0 || number >= program->kind_count) continue;
    uint64_t address;
    DP_TRY(address_of(l, i, &address));
    if (!is_code(&l->sections[symbol.st_shndx].head)) return damaged("a function lies in data");
    self->kinds[number] = (kind_code *)(uintptr_t)address;
  }
  if (!noted) return dp_fail(DP_INVALID, "the object has no note of dipper's");
  for (int i = 0; i < program->kind_count; i++)
    if (!self->kinds[i]) return damaged("it lacks a function");
  return DP_SUCCESS;
}

static dp_status link_object(loader *l, const tile_program *program, loaded *self) {
  DP_TRY(read_sections(l));
  DP_TRY(lay_out(l));
  self->memory = l->memory;
  self->bytes = l->whole_bytes;
  DP_TRY(find_kinds(l, program, self)); /* an object of another program is told as that */
  write_stubs(l);
  DP_TRY(relocate_all(l));
  return protect(l);
}

dp_status cg_load_object(const tile_program *program, const cg_object *object, tile_code **code) {
  loaded *self = calloc(1, sizeof *self + sizeof(kind_code *) * (size_t)program->kind_count);
  if (!self) return dp_fail(DP_NO_MEMORY, "no memory to load code");
  self->code = (tile_code){.run = run, .free = unload, .self = self};
  loader l = {.bytes = object->bytes, .size = object->size};
  dp_status status = link_object(&l, program, self);
  free(l.sections);
  if (status.code != DP_OK) {
    unload(&self->code);
    return status;
  }
  *code = &self->code;
  return DP_SUCCESS;
}
