/* tests/tile_fixture.h: small tile programs with a random step and its memory, for tests of back ends: the same fixture
 * built twice and run by two back ends must hold the same bits. A program's inputs are what its buffers hold at first.
 */
#ifndef DIPPER_TESTS_TILE_FIXTURE_H
#define DIPPER_TESTS_TILE_FIXTURE_H

#include "ir/ir.h"

typedef struct fixture {
  dp_arena *arena; /* owns everything but the program */
  tile_program *program;
  tile_step step;
  double **weights; /* per slot: the logical [rows, cols] values, decoded in f64 */
  int *sequence;    /* [T] of each token */
  int sequences;
  int *sequence_first, *sequence_tokens, *sequence_past; /* per sequence: first token row, tokens, cached positions */
  size_t arena_bytes[TILE_SPACE_COUNT], output_bytes[64], kv_bytes;
  uint64_t seed, random;
  struct { /* handles of a program's parts, for tests that know which program it is */
    int x, y, q, k, v, o, weight, cache, output;
    int64_t dim, value_dim, heads, group;
  } part;
} fixture;

int fixture_count(void);
const char *fixture_name(int index);
int fixture_find(const char *name); /* -1: none */
fixture *fixture_build(int index, uint64_t seed);
void fixture_free(fixture *f);

/* Runs every task, rows and columns of a group in a random order, with poisoned scratch, `reuse` now and then. False
 * and `why` when the code wrote where it must not. */
bool fixture_run(fixture *f, const tile_code *code, dp_str *why);
/* After running both: false and the first difference when some element of a buffer, output or cache differs in a bit.
 */
bool fixture_same(const fixture *a, const fixture *b, dp_str *why);

float fixture_element(const fixture *f, int buffer, int64_t row, int64_t col);
/* What the cache holds from earlier steps: element of head's key (part 0) or value at a position of a sequence. */
float fixture_past(const fixture *f, int part, int layer, int sequence, int64_t position, int64_t head,
                   int64_t element);

#endif
