// ---- tasks: what every task function is made of ----------------------------------------------------------------------

enum { WARP_HALF = 16, LINE = 64 /* rows of a packed block */, LINE_GROUPS = THREADS / LINE };

// What a step is, of the host's making. The layouts are checked against the host's below.
struct Step {
  i64 entry;
  const char *const *weights;
  const u8 *weight_types;
  float *const *states[STATE_COUNT];
  const int *const *inputs;
  float *const *outputs;
  char *arena[SPACE_COUNT];
  i64 rows[SPACE_COUNT];
  const int *positions, *slots;
  const int *segment_row, *segment_tokens, *segment_pages, *segment_end;
  const int *pages;
  char *kv;
  i64 turns;
  const int *ends;
  i64 end_count;
  int *turned;
  u64 unread;
};

struct Launch {
  Step step;
  const int *first_segment; // [row tiles of the tokens + 1]
  u32 *counters;            // [instances][tiles], zero; a step counts in one of two such arrays and clears the other
  u32 *other_counters;
  i64 counter_count;
  i64 tiles;
  float *scratch; // of block b from b * scratch_floats on
  i64 scratch_floats;
  u32 *meeting;          // how often blocks have come to the end of a turn, and how often they went on; growing for ever
  u32 arrived, released; // the two before this launch
  int *ended;            // [output rows]: have picked a token that ends
  int *progress; // [blocks][4] of the host: what each block began last; NULL: it is not told
};

// A block of threads and its memory.
struct Block {
  int index, count; // among the blocks of the step
  int token_tiles, output_tiles; // row tiles of the step
  int base;         // number of the next bundle's first task, modulo count
  char *ring;       // shared memory: weights on their way
  float *shared;    // shared memory: values
  float *scratch;   // global memory of this block alone: values that are too large
  u32 *counters, *other_counters; // of this turn, and those that it clears
  int *chosen;      // shared memory: rows that chose the batch, and before them their number
  int page;         // of each warp's part of the ring: pages that were staged
  const char *begun; // the weights whose first pages are staged, or 0
};

static void clear_other_counters(const Launch &launch, const Block &block) {
  for (i64 i = (i64)block.index * THREADS + thread_index(); i < launch.counter_count; i += (i64)block.count * THREADS)
    block.other_counters[i] = 0;
}

static Block open_block(const Launch &launch) {
  char *shared = shared_memory();
  Block block;
  block.index = block_index();
  block.count = block_count();
  block.base = 0;
  block.page = 0;
  block.begun = 0;
  block.token_tiles = (int)((launch.step.rows[TOKENS] + ROW_TILE - 1) / ROW_TILE);
  block.output_tiles = (int)((launch.step.rows[OUTPUTS] + ROW_TILE - 1) / ROW_TILE);
  block.ring = shared;
  block.chosen = (int *)(shared + RING_BYTES);
  block.shared = (float *)(shared + RING_BYTES + CHOSEN_BYTES);
  block.scratch = launch.scratch + (i64)block.index * launch.scratch_floats;
  block.counters = launch.counters;
  block.other_counters = launch.other_counters;
  clear_other_counters(launch, block);
  return block;
}

// Told by a thread that does not release counters: its fence need not wait for the bus.
static void task_begins(const Launch &launch, const Block &block, int group, int layer, int tile, int task) {
  if (launch.progress && thread_index() == THREADS - 1)
    store_outside(launch.progress + 4 * block.index, group, layer, tile, task);
}
static void step_ends(const Launch &launch, const Block &block) { task_begins(launch, block, STEP_ENDED, 0, 0, 0); }

// Tasks go to blocks in turn, in program order: the first of a bundle that is this block's, and the bundle passed.
static int first_task(const Block &block) {
  int task = block.index - block.base;
  return task < 0 ? task + block.count : task;
}
static void pass_bundle(Block &block, int tasks) { block.base = (int)(((i64)block.base + tasks) % block.count); }

static Block after(Block block, int tasks) {
  pass_bundle(block, tasks);
  return block;
}

static int bundle_tasks(int columns, const int *first_segment, int tile) {
  return first_segment ? columns * (first_segment[tile + 1] - first_segment[tile]) : columns;
}

// Waits until the bundles of row tiles [from, to) are done: each thread looks at some of them.
static OUT_OF_LINE void await(const u32 *counters, int from, int to, int columns, const int *first_segment) {
  for (int tile = from + thread_index(); tile < to; tile += THREADS) {
    const u32 need = (u32)bundle_tasks(columns, first_segment, tile);
    while (read_acquire(counters + tile) < need) spin();
  }
}

static void task_done(u32 *counter) {
  block_sync();
  if (thread_index() == 0) add_release(counter);
}

// ---- turns: a step that picks tokens goes on with them ---------------------------------------------------------------

struct Turns {
  int tokens, pos, place; // inputs
  int picked, log_probability, stride; // outputs, floats from row to row
};

static bool is_end(const Step &step, int id) {
  for (i64 i = 0; i < step.end_count; i++)
    if (step.ends[i] == id) return true;
  return false;
}

// What row r has picked, and how it goes on: one token of one sequence, in a segment of its own.
static void take_pick(const Launch &launch, const Turns &t, int r, int turn, bool last) {
  const Step &step = launch.step;
  const int id = (int)step.outputs[t.picked][(i64)r * t.stride];
  int *const pick = step.turned + 2 + ((i64)turn * step.rows[OUTPUTS] + r) * 2;
  pick[0] = id;
  pick[1] = (int)bits_of_f32(step.outputs[t.log_probability][(i64)r * t.stride]);
  launch.ended[r] = is_end(step, id) || (turn > 0 && launch.ended[r]);
  if (last) return;
  const int position = step.positions[r] + 1;
  const_cast<int *>(step.inputs[t.tokens])[r] = id;
  if (t.pos >= 0) const_cast<int *>(step.inputs[t.pos])[r] = position;
  const_cast<int *>(step.inputs[t.place])[r] = position + 1;
  const_cast<int *>(step.positions)[r] = position;
  const_cast<int *>(step.segment_end)[r] = position + 1;
  const_cast<int *>(step.slots)[r] = step.pages[step.segment_pages[r] + position / LINE] * LINE + position % LINE;
}

static bool all_ended(const Launch &launch) {
  for (i64 r = 0; r < launch.step.rows[OUTPUTS]; r++)
    if (!launch.ended[r]) return false;
  return true;
}

// All blocks come to the end of a turn; when they have, the first one takes its picks and lets them go on. Whether there
// is another turn.
static OUT_OF_LINE bool end_turn(const Launch &launch, Block &block, const Turns &turns, int turn) {
  const Step &step = launch.step;
  const u32 passed = (u32)turn + 1;
  const bool last = passed == (u32)step.turns;
  task_done(launch.meeting);
  if (block.index == 0) {
    if (thread_index() == 0)
      while (read_acquire(launch.meeting) - launch.arrived < passed * (u32)block.count) spin();
    block_sync();
    for (int r = thread_index(); r < (int)step.rows[OUTPUTS]; r += THREADS) take_pick(launch, turns, r, turn, last);
    block_sync();
    if (thread_index() == 0) {
      step.turned[0] = (int)passed;
      step.turned[1] = !last && !all_ended(launch);
    }
    task_done(launch.meeting + 1);
  } else if (thread_index() == 0) {
    while (read_acquire(launch.meeting + 1) - launch.released < passed) spin();
  }
  block_sync();
  if (!step.turned[1]) return false;
  u32 *const counters = block.counters;
  block.counters = block.other_counters;
  block.other_counters = counters;
  clear_other_counters(launch, block);
  return true;
}

// Begins to bring weights near: up to eight lines of 128 bytes a thread, waiting for nothing.
static void ask_for_weights(const char *at, i64 bytes) {
  for (i64 line = (i64)thread_index() * 128; line < bytes && line < 8 * THREADS * 128; line += THREADS * 128)
    ask_for(at + line);
}

static int least(int a, int b) { return a < b ? a : b; }

struct alignas(16) Four {
  float x[4];
};

// Rows of a buffer or a vector into shared memory: several loads of a thread are under way at once.
static OUT_OF_LINE void bring_rows(float *to, int to_stride, const float *from, i64 stride, int rows, int columns) {
  enum { AT_ONCE = 4 };
  const bool aligned = (u64)from % 16 == 0 && stride % 4 == 0;
  const int fours = aligned ? columns / 4 : 0, count = rows * fours;
  for (int first = thread_index(); first < count; first += AT_ONCE * THREADS) {
    Four some[AT_ONCE];
#pragma unroll
    for (int j = 0; j < AT_ONCE; j++) {
      const int i = first + j * THREADS;
      if (i < count) some[j] = *(const Four *)(from + i / fours * stride + i % fours * 4);
    }
#pragma unroll
    for (int j = 0; j < AT_ONCE; j++) {
      const int i = first + j * THREADS;
      if (i < count) *(Four *)(to + i / fours * to_stride + i % fours * 4) = some[j];
    }
  }
  const int rest = columns - 4 * fours;
  for (int i = thread_index(); i < rows * rest; i += THREADS)
    to[i / rest * to_stride + 4 * fours + i % rest] = from[i / rest * stride + 4 * fours + i % rest];
  block_sync();
}

// ---- reductions: 16 lanes, then lanes i and i + 8, i + 4, i + 2, i + 1, the lower one's value first -------------------
static float tree_sum(float lane) {
  for (int by = WARP_HALF / 2; by >= 1; by /= 2) lane = scalar_add(lane, lane_down(lane, by));
  return lane;
}
static float tree_greatest(float lane) {
  for (int by = WARP_HALF / 2; by >= 1; by /= 2) lane = scalar_max(lane, lane_down(lane, by));
  return lane;
}

// ---- products with packed matrices ------------------------------------------------------------------------------------

// Units [unit, unit + count) of blocks [first, last) of 64 columns into a stage of the ring, 16 bytes a thread and turn.
template <class W>
static void stage_units(char *stage, const char *w, i64 block_bytes, int first, int last, int unit, int count, int room) {
  const int bytes = count * W::unit_bytes;
  for (int b = first; b < last; b++) {
    const char *from = w + b * block_bytes + (i64)unit * W::unit_bytes;
    char *to = stage + (b - first) * room * W::unit_bytes;
    for (int at = thread_index() * 16; at < bytes; at += THREADS * 16) copy_16(to + at, from + at);
  }
}

// sum[r] += a[r][k] * w[k], k from the first to the last: one chain an element.
template <class W, int R>
static void multiply(const char *page, int lane, const float *const *a, int k0, int count, float *sum) {
  enum { unrolled = W::step > 1 ? 1 : R == 1 ? 8 : 2 }; // more for many rows would spill
#pragma unroll unrolled
  for (int i = 0; i < count; i += W::step) {
    float w[W::step];
    W::decode(page, lane, i, w);
#pragma unroll
    for (int j = 0; j < W::step; j++)
#pragma unroll
      for (int r = 0; r < R; r++) sum[r] = FMA(a[r][k0 + i + j], w[j], sum[r]);
  }
}

// c[rows, columns] = (what it holds, or 0) + a[rows, depth] w, w's blocks of 64 columns block_bytes apart. A group of 64
// threads takes one block and R rows at a time, a thread one column; several groups walk along k side by side, over pages
// that the whole block stages ahead.
template <class W, int R>
static void product_of_rows(const Block &block, const float *a, int lda, const char *w, i64 block_bytes, int depth, int rows,
                            int columns, float *c, int ldc, bool accumulate) {
  enum {
    piece = W::piece_units * W::unit_bytes,
    fit = RING_BYTES / (2 * piece),
    abreast = fit < LINE_GROUPS ? fit : LINE_GROUPS,
    stage_bytes = abreast * piece,
    most_stages = RING_BYTES / stage_bytes,
    stages = most_stages < 4 ? most_stages : 4
  };
  const int lane = thread_index() % LINE, group = thread_index() / LINE;
  const int row_groups = (rows + R - 1) / R, blocks = (columns + LINE - 1) / LINE, items = row_groups * blocks;
  const int units = (depth + W::elements - 1) / W::elements;
  for (int item = 0; item < items;) {
    const int first = item / row_groups;
    const int taken = least(least(LINE_GROUPS, items - item), (first + abreast) * row_groups - item);
    const int last = (item + taken - 1) / row_groups + 1;
    const int room = W::piece_units * (abreast / (last - first)), pieces = (units + room - 1) / room;
    const int mine = least(item + group, item + taken - 1), b = mine / row_groups, r0 = mine % row_groups * R;
    const int column = b * LINE + lane;
    const bool writes = group < taken && column < columns;
    const float *row[R];
    float sum[R];
#pragma unroll
    for (int r = 0; r < R; r++) {
      row[r] = a + (i64)least(r0 + r, rows - 1) * lda;
      sum[r] = accumulate && writes ? c[(i64)least(r0 + r, rows - 1) * ldc + column] : 0.0f;
    }
    for (int p = 0; p < stages - 1; p++) {
      if (p < pieces)
        stage_units<W>(block.ring + p * stage_bytes, w, block_bytes, first, last, p * room,
                       least(room, units - p * room), room);
      copy_close();
    }
    for (int p = 0; p < pieces; p++) {
      copy_landed<stages - 2>();
      block_sync();
      const int next = p + stages - 1;
      if (next < pieces)
        stage_units<W>(block.ring + next % stages * stage_bytes, w, block_bytes, first, last, next * room,
                       least(room, units - next * room), room);
      copy_close();
      const int k0 = p * room * W::elements;
      const char *page = block.ring + p % stages * stage_bytes + (b - first) * room * W::unit_bytes;
      if (group < taken) multiply<W, R>(page, lane, row, k0, least(room * W::elements, depth - k0), sum);
    }
    copy_landed<0>();
    block_sync();
#pragma unroll
    for (int r = 0; r < R; r++)
      if (writes && r0 + r < rows) c[(i64)(r0 + r) * ldc + column] = sum[r];
    item += taken;
  }
  block_sync();
}

template <class W>
static OUT_OF_LINE void product(const Block &block, const float *a, int lda, const char *w, i64 block_bytes, int depth,
                                int rows, int columns, float *c, int ldc, bool accumulate) {
  if (rows <= 2)
    product_of_rows<W, 1>(block, a, lda, w, block_bytes, depth, rows, columns, c, ldc, accumulate);
  else
    product_of_rows<W, 8>(block, a, lda, w, block_bytes, depth, rows, columns, c, ldc, accumulate);
}

// c[rows, columns] = a[rows, n] w the other way, columns k0 .. of w: a thread takes one column and R rows, n in order.
template <class W>
static OUT_OF_LINE void product_back(const float *a, int lda, const char *w, i64 block_bytes, int n, int k0, int rows,
                                     int columns, float *c, int ldc) {
  enum { R = 4 };
  const int row_groups = (rows + R - 1) / R;
  for (int i = thread_index(); i < row_groups * columns; i += THREADS) {
    const int column = i % columns, r0 = i / columns * R;
    float sum[R] = {};
    for (int j = 0; j < n; j++) {
      const float weight = W::element(w + j / LINE * block_bytes, k0 + column, j % LINE);
#pragma unroll
      for (int r = 0; r < R; r++) sum[r] = FMA(a[(i64)least(r0 + r, rows - 1) * lda + j], weight, sum[r]);
    }
#pragma unroll
    for (int r = 0; r < R; r++)
      if (r0 + r < rows) c[(i64)(r0 + r) * ldc + column] = sum[r];
  }
  block_sync();
}

// ---- gradients: over the rows of all tokens, in order -----------------------------------------------------------------

static i64 packed_at(int row, int k, int depth) { return ((i64)(row / LINE) * depth + k) * LINE + row % LINE; }

// gradient[n, k] += x[t][k] * y[t][n]: a thread takes one n and R neighbours of k, so that a line of 64 n is one piece of
// memory. x(t), y(t): where token t's row begins; NULL: it takes no part.
template <class X, class Y>
static void gradient_of_product(float *gradient, X x, Y y, int from, int to, int first, int columns, int depth) {
  enum { R = 8 };
  const int runs = (depth + R - 1) / R, lines = (columns + LINE - 1) / LINE;
  for (int i = thread_index(); i < lines * runs * LINE; i += THREADS) {
    const int n = i / (runs * LINE) * LINE + i % LINE, k0 = i / LINE % runs * R, count = least(R, depth - k0);
    if (n >= columns) continue;
    float sum[R];
#pragma unroll
    for (int r = 0; r < R; r++) sum[r] = r < count ? gradient[packed_at(first + n, k0 + r, depth)] : 0.0f;
    for (int t = from; t < to; t++) {
      const float *row = x(t);
      if (!row) continue;
      const float factor = y(t)[n];
#pragma unroll
      for (int r = 0; r < R; r++)
        if (r < count) sum[r] = FMA(row[k0 + r], factor, sum[r]);
    }
#pragma unroll
    for (int r = 0; r < R; r++)
      if (r < count) gradient[packed_at(first + n, k0 + r, depth)] = sum[r];
  }
  block_sync();
}

// gradient[c % n] += x[t][c], tokens in order, of each token its columns in order.
template <class X> static void gradient_of_vector(float *gradient, X x, int from, int to, int columns, int n) {
  for (int i = thread_index(); i < least(n, columns); i += THREADS) {
    float sum = gradient[i];
    for (int t = from; t < to; t++) {
      const float *row = x(t);
      for (int c = i; c < columns; c += n) sum = ADD(sum, row[c]);
    }
    gradient[i] = sum;
  }
  block_sync();
}

// gradient[id of t, first + c] += x[t][c]: a column is one thread's from the first token to the last.
template <class X>
static void gradient_of_rows(float *gradient, X x, const int *ids, int from, int to, int first, int columns, int depth) {
  for (int c = thread_index(); c < columns; c += THREADS)
    for (int t = from; t < to; t++) {
      float *sum = gradient + packed_at(ids[t], first + c, depth);
      *sum = ADD(*sum, x(t)[c]);
    }
  block_sync();
}

// ---- numbers at random, roundings to bf16 -----------------------------------------------------------------------------

// Threefry-2x32, 13 rounds (Salmon et al., 2011): the first word.
static u32 random_word(u32 x, u32 y, u32 key, u32 key2) {
  const u32 keys[3] = {key, key2, 0x1BD11BDAu ^ key ^ key2};
  const u32 turns[8] = {13, 15, 26, 6, 17, 29, 16, 24};
  x += keys[0], y += keys[1];
#pragma unroll
  for (u32 round = 0; round < 13; round++) {
    x += y;
    y = (y << turns[round % 8] | y >> (32 - turns[round % 8])) ^ x;
    const u32 s = round / 4 + 1;
    if (round % 4 == 3) x += keys[s % 3], y += keys[(s + 1) % 3] + s;
  }
  return x;
}

static float random_number(u32 element, u32 slot, float key, float key2) {
  return (float)(random_word(element, slot, (u32)key, (u32)key2) & 0xffffu);
}

// Uniform in (0, 1), near 0 finer.
static float noise(u32 column, u32 place, u32 key, u32 key2) {
  const float x = (float)(int)(random_word(column, place, key, key2) >> 1);
  const float shifted = ADD(MUL(x, 4.656612873077393e-10f), 2.3283064365386963e-10f);
  return shifted < 0.99999994f ? shifted : 0.99999994f;
}

static float round_random(float x, float number) {
  const u32 bits = bits_of_f32(x);
  return (bits & 0x7f800000u) == 0x7f800000u ? x : f32_of_bits((bits + (u32)number) & 0xffff0000u);
}

static u16 bf16_of_f32(float x) {
  const u32 bits = bits_of_f32(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return (u16)(bits >> 16 | 0x40u);
  return (u16)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}
static float f32_of_bf16(u16 x) { return f32_of_bits((u32)x << 16); }

// ---- choices ----------------------------------------------------------------------------------------------------------

// Rows of `tokens` whose `used` numbers hold the batch: row * used + which of them, the first one that does.
static int choose_rows(const Block &block, const float *ids, int stride, int tokens, int used, int batch) {
  if (thread_index() == 0) {
    int count = 0;
    for (int r = 0; r < tokens; r++)
      for (int j = 0; j < used; j++)
        if (ids[(i64)r * stride + j] == (float)batch) {
          block.chosen[1 + count++] = r * used + j;
          break;
        }
    block.chosen[0] = count;
  }
  block_sync();
  return block.chosen[0];
}

static int choice_of(const float *ids, int used, int batch) {
  for (int j = 0; j < used; j++)
    if (ids[j] == (float)batch) return j;
  return -1;
}

static float rank_of(float x) { return x == x ? x : -INFINITE; }
static bool is_ahead(float x, int i, float y, int j) {
  return rank_of(x) > rank_of(y) || (rank_of(x) == rank_of(y) && i < j);
}

// A value and its column, of which the greater is better, the lower one of equal ones. No column: beyond any.
struct Best {
  float value, column;
};
static Best no_best() { return {-INFINITE, 1e30f}; }
static Best better(Best a, Best b) {
  return b.value > a.value || (b.value == a.value && b.column < a.column) ? b : a;
}

// Of each half warp the best one, in pairs from `to` on.
static void leave_best(Best best, float *to) {
  for (int by = WARP_HALF / 2; by >= 1; by /= 2)
    best = better(best, {lane_down(best.value, by), lane_down(best.column, by)});
  if (thread_index() % WARP_HALF != 0) return;
  to[thread_index() / WARP_HALF * 2] = best.value;
  to[thread_index() / WARP_HALF * 2 + 1] = best.column;
}

static void take_best(float *row) {
  Best best = {row[0], row[1]};
  for (int i = 1; i < THREADS / WARP_HALF; i++) best = better(best, {row[2 * i], row[2 * i + 1]});
  row[0] = best.value, row[1] = best.column;
}

// The indices of the `count` greatest of x[n], the greatest first.
static void greatest_columns(const float *x, int n, int count, float *to) {
  for (int i = 0, last = -1; i < count; i++) {
    int best = -1;
    for (int c = 0; c < n; c++)
      if ((last < 0 || is_ahead(x[last], last, x[c], c)) && (best < 0 || is_ahead(x[c], c, x[best], best))) best = c;
    to[i] = (float)best;
    last = best;
  }
}

static float is_among(const float *ids, int count, int number) {
  bool found = false;
  for (int i = 0; i < count; i++) found |= ids[i] == (float)number;
  return found ? 1.0f : 0.0f;
}
