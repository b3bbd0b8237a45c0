// tests/cuda/check.hh: every access of a step's text to memory, looked at. The compiler's own instrumentation for
// ThreadSanitizer calls a function at each load and store; here stand those functions. They find reads and writes
// outside of the launch's memory, reads of what nobody wrote, any access to where an asynchronous copy is on its way,
// and races: two accesses, one of them a write, that no barrier, barrier of a warp or counter orders (happens-before,
// Lamport 1978; epochs instead of vector clocks an access, Flanagan and Freund 2009).
//
// Order is kept as coarse as the text's: a block counts its barriers (phase), a thread its steps between two of them,
// and of other blocks a thread knows how far each has come, which counters carry. A cell of shadow memory stands for 4
// bytes: who wrote them last, and of each block two of those who read them since. Bytes accessed singly get a cell
// each.
#ifndef DIPPER_TESTS_CUDA_CHECK_HH
#define DIPPER_TESTS_CUDA_CHECK_HH

struct host_seen {
  u32 phase, step, thread; // thread: 1 + its number among those of all blocks; 0: nobody
  u32 pc;                  // where in the library
};

struct host_cell {
  host_seen write, atomic;
  u32 parts;   // 1 + number of the first of four cells, of a byte each; 0: the cell is whole
  u32 copying; // 1 + thread that has a copy to here under way
  u32 copy_pc, unused;
  host_seen reads[][2]; // [blocks], of shared memory [1]
};

struct host_clock { // of a counter: what who acquires it knows
  const void *counter;
  host_known known[];
};

struct host_place {
  const host_region *region;
  char *cells; // NULL: it is constant
  size_t cell_bytes;
};

enum { HOST_CLOCKS = 1 << 16, HOST_PARTS = 1 << 22, HOST_SHARED_CELL = sizeof(host_cell) + sizeof(host_seen[2]) };
struct host_shadow {
  host_place *places; // by address
  int place_count, last;
  size_t cell_bytes, clock_bytes; // of cells of global memory
  char *parts, *clocks;           // [HOST_PARTS] and [HOST_CLOCKS], a hash table
  u32 part_count, clock_count;
  char *memory; // all of it
  size_t memory_bytes;
};

extern "C" const char __ehdr_start __attribute__((visibility("hidden")));
extern "C" const char _end __attribute__((visibility("hidden")));

// ---- reports

struct host_text {
  char text[sizeof host_report];
  size_t length;
};
HOST void add(host_text *t, const char *fmt, ...) {
  va_list args;
  va_start(args, fmt);
  int n = vsnprintf(t->text + t->length, sizeof t->text - t->length, fmt, args);
  va_end(args);
  t->length += n < 0 ? 0 : (size_t)n;
  if (t->length >= sizeof t->text) t->length = sizeof t->text - 1;
}

// Addresses of code stand in braces: that of the access, then those it was called from.
HOST void add_code(host_text *t, u32 pc) {
  add(t, " {%x", pc);
  const host_fiber *f = machine->fiber;
  for (int i = f->depth < HOST_CALLS ? f->depth - 1 : HOST_CALLS - 1; i >= 0; i--) add(t, " %x", f->calls[i]);
  add(t, "}");
}
HOST u32 code_at(void *address) { return (u32)((const char *)address - &__ehdr_start) - 1; }

static const char *const host_verbs[] = {"reads", "writes", "acquires", "adds to", "copies from", "begins a copy to"};

HOST void add_who(host_text *t, u32 thread) {
  add(t, "thread %d of block %d", (int)(thread - 1) % machine->threads, (int)(thread - 1) / machine->threads);
}
HOST void add_access(host_text *t, const host_place *place, const char *at, int bytes, host_access kind, u32 pc) {
  add(t, "thread %d of block %d %s %d bytes ", machine->fiber->thread, machine->block->index, host_verbs[kind], bytes);
  if (place)
    add(t, "of %s at %lld", place->region->name, (i64)(at - place->region->at));
  else if ((size_t)(at - machine->block->shared) < machine->shared_bytes)
    add(t, "of shared memory at %lld", (i64)(at - machine->block->shared));
  else
    add(t, "at %p", (const void *)at);
  add_code(t, pc);
}
HOST void report(const host_text *t) {
  memcpy(host_report, t->text, sizeof host_report);
  host_stop(host_report);
}

// ---- order

HOST u32 own_number() { return (u32)(machine->block->index * machine->threads + machine->fiber->thread) + 1; }
HOST host_seen now(u32 pc) { return {machine->block->phase, machine->fiber->step, own_number(), pc}; }

HOST bool is_known(const host_known *k, u32 phase, u32 thread, u32 step) {
  if (phase != k->phase) return phase < k->phase;
  if (thread == k->thread && step <= k->thread_step) return true;
  return thread / HOST_WARP == k->thread / HOST_WARP && step < k->warp_step;
}

// Whether the thread at hand comes after what was seen.
HOST bool is_ordered(const host_seen *seen) {
  const host_fiber *f = machine->fiber;
  const host_block *b = machine->block;
  int block = (int)(seen->thread - 1) / machine->threads;
  u32 thread = (seen->thread - 1) % (u32)machine->threads;
  if (block == b->index) {
    if (seen->phase < b->phase || (int)thread == f->thread) return true;
    if ((int)thread / HOST_WARP == f->thread / HOST_WARP && seen->step < f->warp_base) return true;
  }
  return is_known((f->has_known ? f->known : b->known) + block, seen->phase, thread, seen->step);
}

HOST void learn(host_known *own, const host_known *other) {
  for (int i = 0; i < machine->block_count; i++, own++, other++) {
    if (other->phase < own->phase) continue;
    if (other->phase > own->phase || other->thread != own->thread) {
      *own = *other;
      continue;
    }
    if (other->thread_step > own->thread_step) own->thread_step = other->thread_step;
    if (other->warp_step > own->warp_step) own->warp_step = other->warp_step;
  }
}

HOST void know_on_its_own(host_fiber *f, const host_block *b) {
  if (!f->has_known) memcpy(f->known, b->known, sizeof *f->known * (size_t)machine->block_count);
  f->has_known = true;
}

HOST void check_barrier(host_block *b) {
  for (int i = 0; i < machine->threads; i++) {
    host_fiber *f = &b->fibers[i];
    if (f->has_known) learn(b->known, f->known);
    f->has_known = false;
    f->step = f->warp_base = 0;
  }
}

// The lanes from this one on meet at a barrier of their warp.
HOST void check_warp(host_fiber *lanes) {
  u32 step = 0;
  bool any = false;
  for (int i = 0; i < HOST_WARP; i++) {
    if (lanes[i].step >= step) step = lanes[i].step + 1;
    any |= lanes[i].has_known;
  }
  for (int i = 0; any && i < HOST_WARP; i++) know_on_its_own(&lanes[i], machine->block);
  for (int i = 1; any && i < HOST_WARP; i++) learn(lanes[0].known, lanes[i].known);
  for (int i = 1; any && i < HOST_WARP; i++) learn(lanes[i].known, lanes[0].known);
  for (int i = 0; i < HOST_WARP; i++) lanes[i].step = lanes[i].warp_base = step;
}

HOST host_clock *clock_of(const void *counter) {
  host_shadow *s = machine->shadow;
  for (size_t i = (size_t)counter / 4 * 0x9e3779b97f4a7c15ull >> 48;; i++) {
    host_clock *clock = (host_clock *)(s->clocks + i % HOST_CLOCKS * s->clock_bytes);
    if (!clock->counter) {
      if (++s->clock_count == HOST_CLOCKS) host_stop("no room for the clocks of counters");
      clock->counter = counter;
    }
    if (clock->counter == counter) return clock;
  }
}

HOST void check_acquire(const void *counter) {
  know_on_its_own(machine->fiber, machine->block);
  learn(machine->fiber->known, clock_of(counter)->known);
}
HOST void check_release(const void *counter) {
  host_fiber *f = machine->fiber;
  host_block *b = machine->block;
  host_known *known = clock_of(counter)->known, own = {b->phase, (u32)f->thread, f->step, f->warp_base};
  learn(known, f->has_known ? f->known : b->known);
  if (own.phase >= known[b->index].phase) known[b->index] = own;
  f->step++;
}

// ---- cells

HOST const host_place *place_of(const char *at) {
  host_shadow *s = machine->shadow;
  const host_region *last = s->place_count ? s->places[s->last].region : NULL;
  if (last && (size_t)(at - last->at) < last->bytes) return &s->places[s->last];
  int low = 0, high = s->place_count;
  while (low < high) {
    int middle = (low + high) / 2;
    if (s->places[middle].region->at <= at)
      low = middle + 1;
    else
      high = middle;
  }
  if (low == 0) return NULL;
  const host_region *r = s->places[low - 1].region;
  if ((size_t)(at - r->at) >= r->bytes) return NULL;
  s->last = low - 1;
  return &s->places[low - 1];
}

struct host_target {       // whose cells an access is about
  const host_place *place; // NULL: shared memory
  char *cells;
  size_t cell_bytes;
  int places, own; // blocks that may read there, and which of them this one is
  bool empty;
};

HOST host_cell *part_of(const host_target *t, host_cell *cell, int byte) {
  host_shadow *s = machine->shadow;
  if (!cell->parts) {
    if (s->part_count + 4 > HOST_PARTS) host_stop("no room for cells of bytes");
    for (int i = 0; i < 4; i++) memcpy(s->parts + (s->part_count + i) * s->cell_bytes, cell, t->cell_bytes);
    cell->parts = s->part_count + 1;
    s->part_count += 4;
  }
  return (host_cell *)(s->parts + (cell->parts - 1 + byte) * s->cell_bytes);
}

struct host_look { // an access while it is looked at
  const host_target *target;
  const char *at;
  int bytes;
  host_access kind;
  u32 pc;
};

HOST void report_race(const host_look *look, const host_seen *other, const char *did) {
  host_text t = {};
  add(&t, "race: ");
  add_access(&t, look->target->place, look->at, look->bytes, look->kind, look->pc);
  add(&t, "; ");
  add_who(&t, other->thread);
  add(&t, " %s there {%x}, and nothing orders the two", did, other->pc);
  report(&t);
}
HOST void report_access(const host_look *look, const char *what, u32 thread, u32 pc) {
  host_text t = {};
  add(&t, "%s: ", what);
  add_access(&t, look->target->place, look->at, look->bytes, look->kind, look->pc);
  if (thread) add(&t, "; "), add_who(&t, thread), add(&t, " {%x}", pc);
  report(&t);
}

HOST void note_read(host_cell *cell, const host_look *look) {
  host_seen *reads = cell->reads[look->target->own], own = now(look->pc);
  for (int i = 0; i < 2; i++)
    if (!reads[i].thread || reads[i].thread == own.thread || is_ordered(&reads[i])) {
      reads[i] = own;
      return;
    }
  u32 warp = (reads[0].thread - 1) / HOST_WARP; // two of different warps say all: a writer is of one of them at most
  if ((reads[1].thread - 1) / HOST_WARP == warp && (own.thread - 1) / HOST_WARP != warp) reads[1] = own;
}

HOST void forget_reads(host_cell *cell, const host_look *look) {
  memset(cell->reads, 0, sizeof cell->reads[0] * (size_t)look->target->places);
}

HOST void look_at(host_cell *cell, const host_look *look) {
  host_access kind = look->kind;
  bool writes = kind == HOST_WRITE || kind == HOST_COPY_TO,
       atomic = kind == HOST_ATOMIC_READ || kind == HOST_ATOMIC_WRITE;
  if (cell->copying)
    report_access(look, "a copy to here is under way and nobody waited for it", cell->copying, cell->copy_pc);
  if (!writes && look->target->empty && !cell->write.thread && !cell->atomic.thread)
    report_access(look, "nobody wrote what is read", 0, 0);
  if (cell->write.thread && !is_ordered(&cell->write)) report_race(look, &cell->write, "wrote");
  if (!atomic && cell->atomic.thread && !is_ordered(&cell->atomic)) report_race(look, &cell->atomic, "added");
  if (!writes) note_read(cell, look);
  if (kind == HOST_ATOMIC_WRITE) cell->atomic = now(look->pc);
  if (!writes) return;
  for (int p = 0; p < look->target->places; p++)
    for (int i = 0; i < 2; i++) {
      const host_seen *read = &cell->reads[p][i];
      if (read->thread && !is_ordered(read)) report_race(look, read, "read");
    }
  forget_reads(cell, look);
  cell->write = now(look->pc);
  if (kind == HOST_COPY_TO) cell->copying = own_number(), cell->copy_pc = look->pc;
}

HOST bool find_target(const char *at, int bytes, host_access kind, host_target *t) {
  size_t inside = (size_t)(at - machine->block->shared);
  if (inside < machine->shared_bytes) {
    *t = {NULL, machine->block->cells, HOST_SHARED_CELL, 1, 0, true};
    return inside + bytes <= machine->shared_bytes;
  }
  const host_place *place = place_of(at);
  bool writes = kind == HOST_WRITE || kind == HOST_COPY_TO || kind == HOST_ATOMIC_WRITE;
  t->place = place;
  if (!place || at + bytes > place->region->at + place->region->bytes) return false;
  *t = {place,
        place->cells,
        place->cell_bytes,
        machine->block_count,
        machine->block->index,
        (place->region->flags & HOST_EMPTY) != 0};
  return place->cells || !writes;
}

// Not of the launch, but the thread's own or the library's: its stack, constants, what the executor keeps.
HOST bool is_own(const char *at, host_access kind) {
  if ((size_t)(at - machine->fiber->stack) < HOST_STACK) return true;
  if (at >= &__ehdr_start && at < &_end) return kind == HOST_READ;
  return (size_t)(at - machine->memory) < (size_t)(machine->blocks->fibers->stack - machine->memory);
}

HOST void host_check(const void *address, int bytes, host_access kind, void *code) {
  const char *at = (const char *)address;
  host_target t = {};
  u32 pc = code_at(code);
  host_look look = {&t, at, bytes, kind, pc};
  if (!find_target(at, bytes, kind, &t)) {
    if (!t.place && (!machine->shadow->place_count || is_own(at, kind))) return;
    report_access(&look, t.place && !t.place->cells ? "a write to what is constant" : "outside of the launch's memory",
                  0, 0);
  }
  bool masked = t.place && t.place->region->flags & HOST_MASKED && kind == HOST_COPY_FROM;
  if (!t.cells || masked) return;
  size_t from = (size_t)(at - (t.place ? t.place->region->at : machine->block->shared)), end = from + (size_t)bytes;
  while (from < end) {
    host_cell *cell = (host_cell *)(t.cells + from / 4 * t.cell_bytes);
    if (from % 4 == 0 && from + 4 <= end && !cell->parts) {
      look_at(cell, &look);
      from += 4;
    } else {
      look_at(part_of(&t, cell, (int)(from % 4)), &look);
      from++;
    }
  }
}

HOST void check_landing(host_copy *copy) {
  size_t from = (size_t)(copy->to - machine->block->shared);
  for (size_t at = from; at < from + 16; at++) {
    host_cell *cell = (host_cell *)(machine->block->cells + at / 4 * HOST_SHARED_CELL);
    if (cell->parts)
      cell = (host_cell *)(machine->shadow->parts + (cell->parts - 1 + at % 4) * machine->shadow->cell_bytes);
    else if (at % 4)
      continue;
    cell->copying = 0;
    cell->write = now(cell->copy_pc);
  }
}

// ---- a launch's shadow

HOST int by_address(const void *a, const void *b) {
  const char *x = ((const host_place *)a)->region->at, *y = ((const host_place *)b)->region->at;
  return x < y ? -1 : x > y;
}

HOST size_t count_cells(const host_region *r) { return r->flags & HOST_CONSTANT ? 0 : r->bytes / 4 + 1; }

HOST bool map_shadow(host_shadow *s, const host_region *regions, int count) {
  size_t shared = (machine->shared_bytes / 4 + 1) * HOST_SHARED_CELL, cells = HOST_PARTS;
  for (int i = 0; i < count; i++) cells += count_cells(&regions[i]);
  s->memory_bytes = cells * s->cell_bytes + HOST_CLOCKS * s->clock_bytes + shared * machine->block_count;
  s->memory =
      (char *)mmap(NULL, s->memory_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (s->memory == MAP_FAILED) return false;
  s->clocks = s->memory;
  char *at = s->clocks + HOST_CLOCKS * s->clock_bytes;
  for (int i = 0; i < machine->block_count; i++, at += shared) machine->blocks[i].cells = at;
  for (int i = 0; i < count; i++) {
    s->places[s->place_count++] = {&regions[i], count_cells(&regions[i]) ? at : NULL, s->cell_bytes};
    at += count_cells(&regions[i]) * s->cell_bytes;
  }
  s->parts = at;
  return true;
}

HOST bool open_shadow(const host_region *regions, int count) {
  host_shadow *s = machine->shadow = (host_shadow *)calloc(1, sizeof *s);
  if (!s || !(s->places = (host_place *)calloc((size_t)count + 1, sizeof *s->places))) return false;
  s->cell_bytes = sizeof(host_cell) + sizeof(host_seen[2]) * (size_t)machine->block_count;
  s->clock_bytes = sizeof(host_clock) + sizeof(host_known) * (size_t)machine->block_count;
  if (!map_shadow(s, regions, count)) return false;
  qsort(s->places, (size_t)s->place_count, sizeof *s->places, by_address);
  return true;
}

HOST void close_shadow() {
  host_shadow *s = machine->shadow;
  if (s && s->memory && s->memory != MAP_FAILED) munmap(s->memory, s->memory_bytes);
  if (s) free(s->places);
  free(s);
}

// ---- what the compiler calls

HOST void seen(void *at, int bytes, host_access kind, void *code) {
  host_fiber *f = machine ? machine->fiber : NULL;
  if (!f || (size_t)((char *)at - f->stack) < HOST_STACK) return;
  if (f->spins)
    f->spins--;
  else if (machine->access_every && --machine->countdown <= 0) {
    machine->countdown = 1 + (i64)(host_random() % (2 * machine->access_every));
    host_leave(READY);
  }
  host_check(at, bytes, kind, code);
}

#define CALLED_BACK extern "C" __attribute__((no_sanitize("thread"), visibility("hidden"), used)) void
#define SIZE(n)                                                                                                        \
  CALLED_BACK __tsan_read##n(void *at) { seen(at, n, HOST_READ, HOST_HERE); }                                          \
  CALLED_BACK __tsan_write##n(void *at) { seen(at, n, HOST_WRITE, HOST_HERE); }                                        \
  CALLED_BACK __tsan_unaligned_read##n(void *at) { seen(at, n, HOST_READ, HOST_HERE); }                                \
  CALLED_BACK __tsan_unaligned_write##n(void *at) { seen(at, n, HOST_WRITE, HOST_HERE); }
SIZE(1)
SIZE(2)
SIZE(4)
SIZE(8)
SIZE(16)
#undef SIZE
CALLED_BACK __tsan_read_range(void *at, unsigned long bytes) { seen(at, (int)bytes, HOST_READ, HOST_HERE); }
CALLED_BACK __tsan_write_range(void *at, unsigned long bytes) { seen(at, (int)bytes, HOST_WRITE, HOST_HERE); }
CALLED_BACK __tsan_func_entry(void *from) {
  host_fiber *f = machine ? machine->fiber : NULL;
  if (!f) return;
  if (f->depth < HOST_CALLS) f->calls[f->depth] = code_at(from);
  f->depth++;
}
CALLED_BACK __tsan_func_exit(void *) {
  if (machine && machine->fiber) machine->fiber->depth--;
}
CALLED_BACK __tsan_init() {}
#endif
