// ---- products of the matrix units: f16 and bf16 ------------------------------------------------------------------------
// The operands are rounded to the weight's type; k goes in steps of 16, and the steps fall into 8 slices, each summed from
// zero and then added to the sum in order. A task of few rows has a warp a slice, each with a ring of pages of its own; one
// of many rows goes through the slices one after the other. So the sums are the same.
//
// In shared memory lie lines of 128 bytes. Their eight pieces of 16 bytes change places from line to line, so that the same
// piece of eight lines is in eight different banks.

enum {
  WARP = 32,
  WARPS = THREADS / WARP,
  STEP = 16,         // of k
  SLICES = 8,
  LINE_BYTES = 128,  // 64 elements
  PAGE = STEP * LINE_BYTES,
  PAGES = RING_BYTES / (WARPS * PAGE), // of a warp's ring
  TENSOR_ROWS = 64,  // of a pass of the wide products: more would spill
  PANEL = 64         // of k, that those stage at a time
};
static_assert(WARPS == SLICES, "a warp a slice");

struct alignas(16) Quad {
  u32 x[4];
};

static bool is_tensor(int type) { return TENSOR_TYPES >> type & 1; } // of weights: are their products done here

static char *piece_of(char *lines, int line, int piece) { return lines + line * LINE_BYTES + (piece ^ line % 8) * 16; }

static int slice_steps(int extent) { return ((extent + STEP - 1) / STEP + SLICES - 1) / SLICES; }

// The p-th page of this warp's slice of a product of that depth into the next page of its ring: 16 lines of a block of 64
// columns; lines at depth and behind it are zeros.
static void stage_page(Block &block, const char *w, int depth, int extent, int p) {
  const int steps = slice_steps(extent), warp = thread_index() / WARP, lane = thread_index() % WARP;
  char *page = block.ring + (warp * PAGES + block.page % PAGES) * PAGE;
  const int first = (warp * steps + p) * STEP;
  if (p < steps && first < depth)
#pragma unroll
    for (int i = 0; i < PAGE / 16 / WARP; i++) {
      const int line = i * 4 + lane / 8, piece = lane % 8;
      const bool there = first + line < depth;
      copy_16_or_zeros(piece_of(page, line, piece), w + (i64)(there ? first + line : 0) * LINE_BYTES + piece * 16, there);
    }
  copy_close();
  block.page++;
}

// Begins to bring the weights of a product that is to come, of few rows: w, or what was begun before, is the next product.
static OUT_OF_LINE void begin_product(Block &block, const char *w, int depth, int extent) {
  if (block.begun == w) return;
  if (block.begun) copy_landed<0>();
  for (int p = 0; p < PAGES - 1; p++) stage_page(block, w, depth, extent, p);
  block.begun = w;
}

// Elements of rows of a, rounded: b's fragment of one step, of up to 8 rows. Columns at depth and behind it are zeros.
template <class W> static void read_step(u32 *pair, const float *a, int lda, int rows, int k, int depth) {
  const int lane = thread_index() % WARP, row = lane / 4, first = k + lane % 4 * 2;
  const float *at = a + (i64)row * lda + first;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const bool low = row < rows && first + half * 8 < depth, high = row < rows && first + half * 8 + 1 < depth;
    pair[half] = W::pair(low ? at[half * 8] : 0.0f, high ? at[half * 8 + 1] : 0.0f);
  }
}

// 64 columns of few rows. `next`: what to begin with when this one's pages are all on their way, or 0.
template <class W>
static void narrow_block(Block &block, const float *a, int lda, const char *w, int depth, int extent, int rows,
                         int columns, float *c, int ldc, bool accumulate, const char *next, int next_depth,
                         int next_extent) {
  const int steps = slice_steps(extent), thread = thread_index(), warp = thread / WARP, lane = thread % WARP;
  const int pages = steps < PAGES - 1 ? PAGES - 1 : steps; // as many as are begun, at the least
  float sum[4][4] = {};
  begin_product(block, w, depth, extent);
  for (int p = 0; p < pages; p++) {
    copy_landed<PAGES - 2>();
    warp_sync();
    char *page = block.ring + (warp * PAGES + (block.page + 1) % PAGES) * PAGE;
    const int coming = p + PAGES - 1, k = (warp * steps + p) * STEP;
    if (coming < pages)
      stage_page(block, w, depth, extent, coming);
    else
      stage_page(block, next, next ? next_depth : 0, next_extent, coming - pages);
    if (p >= steps || k >= depth) continue;
    u32 pair[2], weights[4];
    read_step<W>(pair, a, lda, rows, k, depth);
#pragma unroll
    for (int m = 0; m < 4; m++) {
      load_matrices_turned(weights, piece_of(page, lane / 16 * 8 + lane % 8, m * 2 + lane / 8 % 2));
      W::multiply(sum[m], weights, pair[0], pair[1]);
    }
  }
  block.begun = next;
  warp_sync();
  // The page that was read last is free: it takes this slice's sums, [64][8].
  const int free = block.page % PAGES;
  float *own = (float *)(block.ring + (warp * PAGES + free) * PAGE);
#pragma unroll
  for (int m = 0; m < 4; m++)
#pragma unroll
    for (int i = 0; i < 4; i++) own[(m * 16 + lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = sum[m][i];
  block_sync();
  const int slices = ((extent + STEP - 1) / STEP + steps - 1) / steps;
  for (int i = thread; i < LINE * 8; i += THREADS) {
    const int n = i / 8, r = i % 8;
    if (r >= rows || n >= columns) continue;
    float *to = c + (i64)r * ldc + n, total = accumulate ? *to : 0.0f;
    for (int s = 0; s < slices; s++) total = ADD(total, ((const float *)(block.ring + (s * PAGES + free) * PAGE))[i]);
    *to = total;
  }
  block_sync();
}

// Rows of a, from k on, as lines of 64 rounded elements: 8 elements a thread and turn, read before and written after what is
// done in between.
template <class W> struct Rows {
  enum { turns = TENSOR_ROWS * 8 / THREADS };
  Quad piece[turns];

  void read(const float *a, int lda, int rows, int k, int depth) {
    const bool aligned = (u64)a % 16 == 0 && lda % 4 == 0;
#pragma unroll
    for (int t = 0; t < turns; t++) {
      const int i = t * THREADS + thread_index(), row = i / 8, first = k + i % 8 * 8;
      const float *at = a + (i64)row * lda + first;
      float x[8] = {};
      if (row < rows && aligned && first + 8 <= depth) {
        const Four low = *(const Four *)at, high = *(const Four *)(at + 4);
#pragma unroll
        for (int j = 0; j < 4; j++) x[j] = low.x[j], x[4 + j] = high.x[j];
      } else if (row < rows) {
#pragma unroll
        for (int j = 0; j < 8; j++)
          if (first + j < depth) x[j] = at[j];
      }
#pragma unroll
      for (int j = 0; j < 4; j++) piece[t].x[j] = W::pair(x[2 * j], x[2 * j + 1]);
    }
  }

  void write(char *lines) const {
#pragma unroll
    for (int t = 0; t < turns; t++) {
      const int i = t * THREADS + thread_index();
      *(Quad *)piece_of(lines, i / 8, i % 8) = piece[t];
    }
  }
};

// Lines [first, first + 64) of a packed block, of `depth`, into a panel; lines at depth and behind it are zeros.
static void stage_panel(char *panel, const char *w, int first, int depth) {
#pragma unroll
  for (int t = 0; t < PANEL * 8 / THREADS; t++) {
    const int i = t * THREADS + thread_index(), line = i / 8, piece = i % 8;
    const bool there = first + line < depth;
    copy_16_or_zeros(piece_of(panel, line, piece), w + (i64)(there ? first + line : 0) * LINE_BYTES + piece * 16, there);
  }
}

// Up to 64 rows and 64 columns: a warp takes 16 columns and 32 rows. BACK: the other way, by columns of the matrix, one
// chain of steps.
template <class W, bool BACK>
static void wide_block(Block &block, const float *a, int lda, const char *w, i64 block_bytes, int depth, int extent,
                       int first, int rows, int columns, float *c, int ldc, bool accumulate) {
  enum { panel_bytes = PANEL * LINE_BYTES, row_bytes = TENSOR_ROWS * LINE_BYTES, tiles = TENSOR_ROWS / 2 / 8 };
  static_assert(3 * panel_bytes + 2 * row_bytes <= RING_BYTES, "what is staged is in the ring");
  const int warp = thread_index() / WARP, lane = thread_index() % WARP;
  const int m = warp % 4, r0 = warp / 4 * (TENSOR_ROWS / 2), mine = (rows - r0 + 7) / 8;
  const int steps = (extent + STEP - 1) / STEP, slice = BACK ? steps : slice_steps(extent), panels = (extent + PANEL - 1) / PANEL;
  char *const panel_at = block.ring, *const row_at = block.ring + 3 * panel_bytes;
  float part[tiles][4] = {}, total[tiles][4] = {};
  Rows<W> coming;
  // BACK: panel p is block p of the matrix, its lines [first, first + 64) of `first`'s depth.
  const auto stage = [&](int p) {
    if (p < panels)
      stage_panel(panel_at + p % 3 * panel_bytes, BACK ? w + p * block_bytes : w, BACK ? first : p * PANEL,
                  BACK ? (int)(block_bytes / LINE_BYTES) : depth);
    copy_close();
  };
#pragma unroll
  for (int j = 0; j < tiles; j++)
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int row = r0 + j * 8 + lane % 4 * 2 + i % 2, n = m * 16 + lane / 4 + i / 2 * 8;
      if (accumulate && row < rows && n < columns) total[j][i] = c[(i64)row * ldc + n];
    }
  stage(0);
  stage(1);
  coming.read(a, lda, rows, 0, depth);
  coming.write(row_at);
  for (int p = 0; p < panels; p++) {
    copy_landed<1>();
    block_sync();
    stage(p + 2);
    if (p + 1 < panels) coming.read(a, lda, rows, (p + 1) * PANEL, depth);
    char *const panel = panel_at + p % 3 * panel_bytes, *const lines = row_at + p % 2 * row_bytes;
#pragma unroll
    for (int s = 0; s < PANEL / STEP; s++) {
      const int step = p * (PANEL / STEP) + s;
      if (step >= steps) break;
      u32 weights[4];
      if (BACK)
        load_matrices(weights, piece_of(panel, m * 16 + lane / 8 % 2 * 8 + lane % 8, s * 2 + lane / 16));
      else
        load_matrices_turned(weights, piece_of(panel, s * STEP + lane / 16 * 8 + lane % 8, m * 2 + lane / 8 % 2));
#pragma unroll
      for (int j = 0; j < tiles; j += 2) {
        if (j >= mine) break;
        u32 pairs[4]; // of two tiles of 8 rows
        load_matrices(pairs, piece_of(lines, r0 + j * 8 + lane / 16 * 8 + lane % 8, s * 2 + lane / 8 % 2));
        W::multiply(part[j], weights, pairs[0], pairs[1]);
        W::multiply(part[j + 1], weights, pairs[2], pairs[3]);
      }
      if (!BACK && ((step + 1) % slice == 0 || step + 1 == steps))
#pragma unroll
        for (int j = 0; j < tiles; j++)
#pragma unroll
          for (int i = 0; i < 4; i++) total[j][i] = ADD(total[j][i], part[j][i]), part[j][i] = 0.0f;
    }
    if (p + 1 < panels) coming.write(row_at + (p + 1) % 2 * row_bytes);
  }
  copy_landed<0>();
#pragma unroll
  for (int j = 0; j < tiles; j++)
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int row = r0 + j * 8 + lane % 4 * 2 + i % 2, n = m * 16 + lane / 4 + i / 2 * 8;
      if (row < rows && n < columns) c[(i64)row * ldc + n] = BACK ? part[j][i] : total[j][i];
    }
  block_sync();
}

template <class W>
static OUT_OF_LINE void narrow_product(Block &block, const float *a, int lda, const char *w, i64 block_bytes, int depth,
                                       int extent, int rows, int columns, float *c, int ldc, bool accumulate,
                                       const char *next, int next_depth, int next_extent) {
#pragma unroll 1
  for (int n = 0; n < columns; n += LINE, w += block_bytes) {
    const bool last = n + LINE >= columns;
    narrow_block<W>(block, a, lda, w, depth, extent, rows, columns - n, c + n, ldc, accumulate,
                    last ? next : w + block_bytes, last ? next_depth : depth, last ? next_extent : extent);
  }
}

template <class W, bool BACK>
static OUT_OF_LINE void wide_product(Block &block, const float *a, int lda, const char *w, i64 block_bytes, int depth,
                                     int extent, int first, int rows, int columns, float *c, int ldc, bool accumulate) {
#pragma unroll 1
  for (int n = 0; n < columns; n += LINE)
#pragma unroll 1
    for (int r = 0; r < rows; r += TENSOR_ROWS)
      wide_block<W, BACK>(block, a + (i64)r * lda, lda, BACK ? w : w + n / LINE * block_bytes, block_bytes, depth, extent,
                          first + n, rows - r, columns - n, c + (i64)r * ldc + n, ldc, accumulate);
}

// c[rows, columns] = (what it holds, or 0) + a[rows, depth] w: elements of a at depth and behind it, up to `extent`, count as
// zeros. Slices are made of the extent.
template <class W>
static void tensor_product(Block &block, const float *a, int lda, const char *w, i64 block_bytes, int depth, int extent,
                           int rows, int columns, float *c, int ldc, bool accumulate, const char *next, int next_depth,
                           int next_extent) {
  if (rows <= 8)
    narrow_product<W>(block, a, lda, w, block_bytes, depth, extent, rows, columns, c, ldc, accumulate, next, next_depth,
                      next_extent);
  else
    wide_product<W, false>(block, a, lda, w, block_bytes, depth, extent, 0, rows, columns, c, ldc, accumulate);
}

// c[rows, columns] = a[rows, n] w the other way, columns k0 .. of w: in steps of 16 rows of w.
template <class W>
static void tensor_product_back(Block &block, const float *a, int lda, const char *w, i64 block_bytes, int n, int k0,
                                int rows, int columns, float *c, int ldc) {
  wide_product<W, true>(block, a, lda, w, block_bytes, n, n, k0, rows, columns, c, ldc, false);
}

// Tokens' rows, 64 columns of each from `first` on, as lines of rounded elements: lines of tokens that take no part, or are
// behind `to`, are zeros, and columns at `end` and behind it.
template <class W, class X> static void put_tokens(char *lines, X x, int from, int to, int first, int end) {
#pragma unroll 2
  for (int i = thread_index(); i < PANEL * 8; i += THREADS) {
    const int t = from + i / 8, column = first + i % 8 * 8;
    const float *row = t < to ? x(t) : 0;
    float v[8] = {};
    if (row)
#pragma unroll
      for (int j = 0; j < 8; j++)
        if (column + j < end) v[j] = row[column + j];
    Quad piece;
#pragma unroll
    for (int j = 0; j < 4; j++) piece.x[j] = W::pair(v[2 * j], v[2 * j + 1]);
    *(Quad *)piece_of(lines, i / 8, i % 8) = piece;
  }
}

// gradient[n, k] += x[t][k] * y[t][n], in steps of 16 tokens: 64 n and 128 k at a time, a warp 16 n and 64 k.
template <class W, class X, class Y>
static void tensor_gradient(Block &block, float *gradient, X x, Y y, int from, int to, int first, int columns, int depth) {
  enum { line_bytes = PANEL * LINE_BYTES, tiles = 8 };
  const int warp = thread_index() / WARP, lane = thread_index() % WARP, m = warp % 4, half = warp / 4;
  char *const ys = block.ring, *const xs = block.ring + line_bytes; // [64 tokens][64 n], twice [64 tokens][64 k]
  for (int n0 = 0; n0 < columns; n0 += LINE)
    for (int k0 = 0; k0 < depth; k0 += 2 * LINE) {
      float sum[tiles][4] = {};
#pragma unroll
      for (int j = 0; j < tiles; j++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
          const int n = n0 + m * 16 + lane / 4 + i / 2 * 8, k = k0 + half * 64 + j * 8 + lane % 4 * 2 + i % 2;
          if (n < columns && k < depth) sum[j][i] = gradient[packed_at(first + n, k, depth)];
        }
      for (int t0 = from; t0 < to; t0 += PANEL) {
        put_tokens<W>(ys, y, t0, to, n0, columns);
        put_tokens<W>(xs, x, t0, to, k0, depth);
        put_tokens<W>(xs + line_bytes, x, t0, to, k0 + LINE, depth);
        block_sync();
        for (int s = 0; s < PANEL / STEP && t0 + s * STEP < to; s++) {
          u32 left[4], right[4];
          load_matrices_turned(left, piece_of(ys, s * STEP + lane / 16 * 8 + lane % 8, m * 2 + lane / 8 % 2));
#pragma unroll
          for (int j = 0; j < tiles; j += 2) {
            load_matrices_turned(right, piece_of(xs + half * line_bytes, s * STEP + lane / 8 % 2 * 8 + lane % 8, j + lane / 16));
            W::multiply(sum[j], left, right[0], right[1]);
            W::multiply(sum[j + 1], left, right[2], right[3]);
          }
        }
        block_sync();
      }
#pragma unroll
      for (int j = 0; j < tiles; j++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
          const int n = n0 + m * 16 + lane / 4 + i / 2 * 8, k = k0 + half * 64 + j * 8 + lane % 4 * 2 + i % 2;
          if (n < columns && k < depth) gradient[packed_at(first + n, k, depth)] = sum[j][i];
        }
    }
  block_sync();
}
