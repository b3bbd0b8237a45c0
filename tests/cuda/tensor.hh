// tests/cuda/tensor.hh: the matrix units of prelude/gpu.cuh on this machine, of host.hh: a warp's lanes meet, and the fragments
// lie in them as on a GPU. A step of a product is exact but for one rounding, as the interpreter's.

HOST void warp_sync() { host_warp_sync(); }

struct host_load {
  u32 *to;
  const char *row;
  bool turned;
};
HOST void load_for_lanes(void *const lanes[]) {
  for (int i = 0; i < HOST_WARP; i++) {
    host_load *own = (host_load *)lanes[i];
    if (own->turned != ((host_load *)lanes[0])->turned) host_stop("lanes of a warp want different matrices");
    if ((size_t)own->row % 16) host_stop("a matrix's row is not aligned to 16 bytes");
    if (own->row < machine->block->shared || own->row + 16 > machine->block->shared + machine->shared_bytes) {
      host_stop("a matrix is not in shared memory");
      return;
    }
  }
  for (int i = 0; i < HOST_WARP; i++)
    for (int m = 0; m < 4; m++) {
      u16 two[2];
      for (int e = 0; e < 2; e++) {
        host_load *own = (host_load *)lanes[i];
        int row = own->turned ? i % 4 * 2 + e : i / 4, column = own->turned ? i / 4 : i % 4 * 2 + e;
        memcpy(&two[e], ((host_load *)lanes[m * 8 + row])->row + 2 * column, 2);
      }
      ((host_load *)lanes[i])->to[m] = (u32)two[0] | (u32)two[1] << 16;
    }
}
// Each lane reads the row that it names.
HOST void read_row(const void *row, void *code) {
  host_check(row, 16, HOST_READ, code);
  ON_TSAN(__tsan_read_range((void *)row, 16);)
}
HOST void load_matrices(u32 *to, const void *row) {
  read_row(row, HOST_HERE);
  host_load own = {to, (const char *)row, false};
  host_warp(load_for_lanes, &own);
}
HOST void load_matrices_turned(u32 *to, const void *row) {
  read_row(row, HOST_HERE);
  host_load own = {to, (const char *)row, true};
  host_warp(load_for_lanes, &own);
}

struct host_multiply {
  float *c;
  const u32 *a;
  u32 b[2];
  float (*number)(u16 bits);
};
HOST void multiply_for_lanes(void *const lanes[]) {
  float a[16][16], b[16][8];
  float (*number)(u16) = ((host_multiply *)lanes[0])->number;
  for (int i = 0; i < HOST_WARP; i++) {
    host_multiply *own = (host_multiply *)lanes[i];
    if (own->number != number) host_stop("lanes of a warp multiply different types");
    for (int r = 0; r < 4; r++)
      for (int e = 0; e < 2; e++)
        a[i / 4 + r % 2 * 8][i % 4 * 2 + r / 2 * 8 + e] = number((u16)(own->a[r] >> 16 * e));
    for (int r = 0; r < 2; r++)
      for (int e = 0; e < 2; e++) b[i % 4 * 2 + r * 8 + e][i / 4] = number((u16)(own->b[r] >> 16 * e));
  }
  for (int i = 0; i < HOST_WARP; i++)
    for (int r = 0; r < 4; r++) {
      float *c = &((host_multiply *)lanes[i])->c[r];
      int row = i / 4 + r / 2 * 8, column = i % 4 * 2 + r % 2;
      double products = 0;
      for (int k = 0; k < 16; k++) products += (double)a[row][k] * (double)b[k][column];
      *c = (float)((double)*c + products);
    }
}
static float number_of_bf16(u16 bits) { return f32_of_bits((u32)bits << 16); }
HOST void multiply_f16(float *c, const u32 *a, u32 b0, u32 b1) {
  host_multiply own = {c, a, {b0, b1}, f32_of_f16};
  host_warp(multiply_for_lanes, &own);
}
HOST void multiply_bf16(float *c, const u32 *a, u32 b0, u32 b1) {
  host_multiply own = {c, a, {b0, b1}, number_of_bf16};
  host_warp(multiply_for_lanes, &own);
}
static u32 pair_of_f16(float low, float high) { return (u32)f16_of_f32(low) | (u32)f16_of_f32(high) << 16; }
static u16 bits_to_bf16(float x) {
  u32 bits = bits_of_f32(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
  return (u16)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}
static u32 pair_of_bf16(float low, float high) { return (u32)bits_to_bf16(low) | (u32)bits_to_bf16(high) << 16; }
