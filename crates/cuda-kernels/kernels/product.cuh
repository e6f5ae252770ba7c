// The matrix product under every kernel that multiplies: a block computes a 128 x 128 tile of A B^T in registers.
//
// Operands are f16. With SPLIT each is a sum of two, high + low (22 bits of mantissa between them), and three products
// give the result of f32 operands to about 2^-21: high high + high low + low high; low low is below that.
// Steps of 32 along the shared dimension go through a ring of shared-memory stages filled by asynchronous copies.
// Two warps stand above each other and ACROSS beside each other, each with 64 x (128 / ACROSS) of the tile as fragments of
// mma.m16n8k16. With 2 across, four warps of 64 x 64 read each value of shared memory half as often as eight of 64 x 32
// would, and two such blocks fit a multiprocessor: one computes while the other waits, or takes exponentials. 4 across
// leave registers for a second tile, which sub-centres need.
#pragma once
#include "tensor.cuh"

constexpr int TILE = 128;
constexpr int STEP = 32;
constexpr int NARROW = 4, WIDE = 2;  // warps across: of 64 x 32, of 64 x 64
__device__ constexpr int product_threads(int across) { return 64 * across; }

// How an operand lies in memory.
enum Layout {
  ALONG,   // [tile, shared]: the shared dimension is contiguous
  ACROSS,  // [shared, tile]: the tile's dimension is contiguous
};

// Rows of a stage are padded by 16 bytes: the eight rows that one ldmatrix reads then lie in different banks.
constexpr int ALONG_PITCH = STEP + 8;
constexpr int ACROSS_PITCH = TILE + 8;
constexpr int STAGE_VALUES = TILE * ALONG_PITCH;  // the larger of the two layouts

template <bool SPLIT> struct Ring {
  static constexpr int parts = SPLIT ? 2 : 1;
  // Split operands take twice the room; two stages of them fit the 99 KiB of the smallest sm_8x device.
  static constexpr int stages = SPLIT ? 2 : 3;
  static constexpr int bytes = stages * 2 * parts * STAGE_VALUES * 2;
};

// `rows` x `columns` as they lie in memory, `pitch` values from row to row. Columns, pitch and pointers are multiples
// of 8 values (16 bytes), the unit of a copy; rows beyond `rows` read as zero.
struct Operand {
  const f16* high;
  const f16* low;  // SPLIT only
  long long pitch;
  int rows;
  int columns;
};

// A thread's copies to the stages of an operand's tile, step after step.
template <int ACROSS, Layout LAYOUT> struct Copies {
  static constexpr int columns = LAYOUT == ALONG ? STEP : TILE;
  static constexpr int pitch = LAYOUT == ALONG ? ALONG_PITCH : ACROSS_PITCH;
  static constexpr int copies_a_row = columns / 8, rows_at_once = product_threads(ACROSS) / copies_a_row;
  const f16* from[2];      // of the next step: high and low
  long long rows_to_next;  // values from a copy's row to the next one's
  long long to_next_step;
  int rows;                // of the operand, from the first copy's on; none where its column is beyond the operand
  int at;                  // bytes into a stage
  __device__ __forceinline__ Copies(const Operand& operand, int tile_start, int step_start) {
    const int row = (int)threadIdx.x / copies_a_row, column = (int)threadIdx.x % copies_a_row * 8;
    const int first_row = (LAYOUT == ALONG ? tile_start : step_start) + row;
    const int first_column = (LAYOUT == ALONG ? step_start : tile_start) + column;
    const long long start = first_row * operand.pitch + first_column;
    from[0] = operand.high + start;
    from[1] = operand.low + start;
    rows_to_next = in_register(rows_at_once * operand.pitch);
    to_next_step = LAYOUT == ALONG ? STEP : in_register(STEP * operand.pitch);
    // Along the shared dimension the operand ends with a step.
    rows = first_column < operand.columns ? operand.rows - first_row : 0;
    at = (row * pitch + column) * (int)sizeof(f16);
  }
  // What is beyond the operand's rows becomes 0; its address is not read.
  __device__ __forceinline__ void copy(SharedAt stage, int part) const {
    const f16* next = from[part];
#pragma unroll
    for (int i = 0; i < TILE * STEP / columns / rows_at_once; i++, next += rows_to_next)
      copy_part(stage + at + i * rows_at_once * pitch * (int)sizeof(f16), next, i * rows_at_once < rows ? 16 : 0);
  }
  __device__ __forceinline__ void advance() {
    from[0] += to_next_step;
    from[1] += to_next_step;
    if (LAYOUT != ALONG) rows -= STEP;
  }
};

// Bytes into a stage at which a lane's ldmatrix row starts for the 16 x 16 values at its warp's `tile`, as A's fragment
// (FIRST) or as two of B's.
template <Layout LAYOUT, bool FIRST> __device__ __forceinline__ int fragment_at(int tile) {
  const int lane = threadIdx.x & 31, in_eight = lane & 7, second = (lane >> 3) & 1, third = lane >> 4;
  // The four 8 x 8 matrices: A's go down the tile first, then along the step; B's the other way.
  const int down = (FIRST ? second : third) * 8, along = (FIRST ? third : second) * 8;
  const int at = LAYOUT == ALONG ? (tile + down + in_eight) * ALONG_PITCH + along
                                 : (along + in_eight) * ACROSS_PITCH + tile + down;
  return at * (int)sizeof(f16);
}
// From there to the values `tile` further down and `step` further along.
template <Layout LAYOUT> __device__ constexpr int fragment_past(int tile, int step) {
  return (LAYOUT == ALONG ? tile * ALONG_PITCH + step : step * ACROSS_PITCH + tile) * (int)sizeof(f16);
}

template <Layout LAYOUT>
__device__ __forceinline__ void load_fragment(unsigned (&to)[4], SharedAt row) {
  if (LAYOUT == ALONG) load_matrices(to, row);
  else load_matrices_transposed(to, row);
}

// A thread's part of the tile: fragments of two adjacent columns in two rows, 4 down and 16 / ACROSS along.
template <int ACROSS> struct Sums {
  static constexpr int along = 16 / ACROSS;
  float of[4][along][4];
  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
      for (int j = 0; j < along; j++)
#pragma unroll
        for (int k = 0; k < 4; k++) of[i][j][k] = 0.0f;
  }
  static __device__ __forceinline__ bool above(float a, float b) { return a > b || a != a; }
  // Each value to the larger of itself and the other's; NaN stays.
  __device__ __forceinline__ void raise(const Sums& other) {
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
      for (int j = 0; j < along; j++)
#pragma unroll
        for (int k = 0; k < 4; k++)
          if (above(other.of[i][j][k], of[i][j][k])) of[i][j][k] = other.of[i][j][k];
  }
  // The same, and `which` (4 bits a value, a fragment's quartets of them in one word for each i and half of j) becomes
  // `index` where the other's is larger.
  __device__ __forceinline__ void raise(const Sums& other, unsigned (&which)[4][along / 2], unsigned index) {
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
      for (int j = 0; j < along; j++)
#pragma unroll
        for (int k = 0; k < 4; k++) {
          const int at = ((j & 1) * 4 + k) * 4;
          if (above(other.of[i][j][k], of[i][j][k])) {
            of[i][j][k] = other.of[i][j][k];
            which[i][j >> 1] = (which[i][j >> 1] & ~(15u << at)) | index << at;
          }
        }
  }
};
// The tile's row of of[i][..][2 half ..], and the column of of[..][j][.. 2 half + 0]; the next column follows.
template <int ACROSS> __device__ __forceinline__ int tile_row(int i, int half) {
  return (int)(threadIdx.x >> 5) / ACROSS * 64 + i * 16 + half * 8 + (int)(threadIdx.x & 31) / 4;
}
template <int ACROSS> __device__ __forceinline__ int warp_across() { return (int)(threadIdx.x >> 5) % ACROSS; }
template <int ACROSS> __device__ __forceinline__ int tile_column(int j) {
  return warp_across<ACROSS>() * (TILE / ACROSS) + j * 8 + (int)(threadIdx.x & 3) * 2;
}

// Adds to `sums` the product of the tiles that start at `a_start` and `b_start`, over [from, to) of the shared dimension
// (`from` a multiple of 8; beyond `to` an operand must end or hold zeros up to the next multiple of STEP). `shared`:
// Ring<SPLIT>::bytes. On return all threads have read the ring.
template <int ACROSS, bool SPLIT, Layout A, Layout B>
__device__ __forceinline__ void add_product(Sums<ACROSS>& sums, unsigned char* shared, const Operand& a, int a_start,
                                            const Operand& b, int b_start, int from, int to) {
  using R = Ring<SPLIT>;
  constexpr int along = Sums<ACROSS>::along, PART = STAGE_VALUES * (int)sizeof(f16), STAGE = 2 * R::parts * PART;
  const SharedAt ring = shared_at(shared);
  const int steps = (to - from + STEP - 1) / STEP;
  Copies<ACROSS, A> copies_a(a, a_start, from);
  Copies<ACROSS, B> copies_b(b, b_start, from);
  const int at_a = fragment_at<A, true>((int)(threadIdx.x >> 5) / ACROSS * 64);
  const int at_b = fragment_at<B, false>(warp_across<ACROSS>() * (TILE / ACROSS)) + R::parts * PART;
  // Where in the ring the next stage is filled, and read.
  int filled = 0, read = 0;
  auto after = [](int stage) { return stage == (R::stages - 1) * STAGE ? 0 : stage + STAGE; };
  auto fill = [&](int step) {
    if (step < steps) {
#pragma unroll
      for (int part = 0; part < R::parts; part++) {
        copies_a.copy(ring + filled + part * PART, part);
        copies_b.copy(ring + filled + (R::parts + part) * PART, part);
      }
      copies_a.advance();
      copies_b.advance();
    }
    filled = after(filled);
    copy_commit();
  };
#pragma unroll
  for (int step = 0; step < R::stages - 1; step++) fill(step);
#pragma unroll 1
  for (int step = 0; step < steps; step++, read = after(read)) {
    copy_wait<R::stages - 2>();
    __syncthreads();  // the step's data is there, and the stage that is filled next has been read
    fill(step + R::stages - 1);
    const SharedAt rows_a = ring + read + at_a, rows_b = ring + read + at_b;
#pragma unroll
    for (int k = 0; k < STEP; k += 16) {
      unsigned fa[R::parts][4][4], fb[R::parts][along / 2][4];
#pragma unroll
      for (int part = 0; part < R::parts; part++) {
#pragma unroll
        for (int i = 0; i < 4; i++) load_fragment<A>(fa[part][i], rows_a + part * PART + fragment_past<A>(i * 16, k));
#pragma unroll
        for (int j = 0; j < along / 2; j++)
          load_fragment<B>(fb[part][j], rows_b + part * PART + fragment_past<B>(j * 16, k));
      }
#pragma unroll
      for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < along; j++) {
          const int pair = j >> 1, side = (j & 1) * 2;
          if (SPLIT) {
            constexpr int low = SPLIT ? 1 : 0;
            multiply_add(sums.of[i][j], fa[low][i], fb[0][pair][side], fb[0][pair][side + 1]);
            multiply_add(sums.of[i][j], fa[0][i], fb[low][pair][side], fb[low][pair][side + 1]);
          }
          multiply_add(sums.of[i][j], fa[0][i], fb[0][pair][side], fb[0][pair][side + 1]);
        }
    }
  }
  copy_wait<0>();
  __syncthreads();
}
