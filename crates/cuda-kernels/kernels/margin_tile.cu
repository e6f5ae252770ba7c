// Margin softmax on products that another library has left in memory: what margin_forward.cu and margin_shares.cu do
// with products in registers. A tile of classes small enough to stay in the second-level cache is written once by the
// product and read once here.
//
// products: [n, subs * pitch], sums of unit rows' products as margin.cuh's SubCentres lays the centres out; what lies
// beyond `classes` is not read as a class. pitch is a multiple of 128.
#include "margin.cuh"

constexpr int TILE_THREADS = 256;
// Columns that a thread takes at a time: two loads of 16 bytes, one store of 16 bytes of f16.
constexpr int COLUMNS = 8;

// The larger of two, NaN before any number.
__device__ __forceinline__ bool above(float a, float b) { return a > b || a != a; }

// COLUMNS products of a row from `column` on, each class's largest; `which` says of which sub-centre, the first of equals.
__device__ __forceinline__ void nearest(const float* row, int column, int subs, int pitch, float (&of)[COLUMNS],
                                        unsigned (&which)[COLUMNS]) {
  for (int sub = 0; sub < subs; sub++) {
    const float4* from = reinterpret_cast<const float4*>(row + (long long)sub * pitch + column);
    const float4 first = from[0], second = from[1];
    const float next[COLUMNS] = {first.x, first.y, first.z, first.w, second.x, second.y, second.z, second.w};
#pragma unroll
    for (int i = 0; i < COLUMNS; i++)
      if (sub == 0 || above(next[i], of[i])) {
        of[i] = next[i];
        which[i] = sub;
      }
  }
}

// A row's running maximum and sum of powers of 2, as margin_lse keeps them with one split. grid: n.
extern "C" __global__ void __launch_bounds__(TILE_THREADS)
    margin_tile_lse(const float* __restrict__ products, const unsigned* __restrict__ labels,
                    const float* __restrict__ row_scale, float* __restrict__ tops, float* __restrict__ sums,
                    int classes, int first_class, int start, int subs, int pitch) {
  __shared__ float warp_tops[TILE_THREADS / 32], warp_sums[TILE_THREADS / 32];
  const int row = blockIdx.x, lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const float* of = products + (long long)row * subs * pitch;
  const float scale = row_scale[row];
  const unsigned label = labels[row];
  float top = -LARGEST, sum = 0.0f;
  for (int column = (int)threadIdx.x * COLUMNS; column < classes; column += TILE_THREADS * COLUMNS) {
    float z[COLUMNS];
    unsigned which[COLUMNS];
    nearest(of, column, subs, pitch, z, which);
    // One rescaling of the sum for all of them.
    float most = top;
    bool counts[COLUMNS];
#pragma unroll
    for (int i = 0; i < COLUMNS; i++) {
      counts[i] = column + i < classes && (unsigned)(first_class + column + i) != label;
      z[i] *= scale;
      most = counts[i] ? fmaxf(most, z[i]) : most;
    }
    float total = sum * exp2_fast(top - most);
#pragma unroll
    for (int i = 0; i < COLUMNS; i++) total += counts[i] ? exp2_fast(z[i] - most) : 0.0f;
    top = most;
    sum = total;
  }
#pragma unroll
  for (int step = 16; step > 0; step >>= 1) {
    const float other_top = __shfl_xor_sync(ALL_LANES, top, step);
    const float other_sum = __shfl_xor_sync(ALL_LANES, sum, step);
    const float most = fmaxf(top, other_top);
    sum = sum * exp2_fast(top - most) + other_sum * exp2_fast(other_top - most);
    top = most;
  }
  if (lane == 0) {
    warp_tops[warp] = top;
    warp_sums[warp] = sum;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    float most = start ? -LARGEST : tops[row], total = start ? 0.0f : sums[row];
    for (int i = 0; i < TILE_THREADS / 32; i++) {
      const float next = warp_tops[i], larger = fmaxf(most, next);
      total = total * exp2_fast(most - larger) + warp_sums[i] * exp2_fast(next - larger);
      most = larger;
    }
    tops[row] = most;
    sums[row] = total;
  }
}
EXPORT_KERNEL(margin_tile_lse)

// q [n, subs * pitch] as margin_shares writes it. grid: (n, pitch / (TILE_THREADS * COLUMNS) rounded up).
template <bool SPLIT>
__device__ __forceinline__ void margin_tile_shares(const float* products, const unsigned* labels,
                                                   const float* row_scale, const float* lse, f16* qh, f16* ql,
                                                   int classes, int first_class, int subs, int pitch) {
  const int row = blockIdx.x;
  const int column = (int)(blockIdx.y * TILE_THREADS + threadIdx.x) * COLUMNS;
  if (column >= pitch) return;
  const long long start = (long long)row * subs * pitch;
  const float scale = row_scale[row], less = lse[row];
  const unsigned label = labels[row];
  float z[COLUMNS];
  unsigned which[COLUMNS], high[COLUMNS], low[COLUMNS];
  nearest(products + start, column, subs, pitch, z, which);
#pragma unroll
  for (int i = 0; i < COLUMNS; i++) {
    const bool counts = column + i < classes && (unsigned)(first_class + column + i) != label;
    const float share = counts ? SHARE * exp2_fast(z[i] * scale - less) : 0.0f;
    const f16 rounded = to_f16(share);
    high[i] = rounded.bits;
    low[i] = SPLIT ? to_f16(share - to_f32(rounded)).bits : 0u;
  }
  for (unsigned sub = 0; sub < (unsigned)subs; sub++) {
    unsigned h[COLUMNS / 2], l[COLUMNS / 2];
#pragma unroll
    for (int i = 0; i < COLUMNS / 2; i++) {
      const unsigned own = (which[2 * i] == sub ? 0xffffu : 0u) | (which[2 * i + 1] == sub ? 0xffff0000u : 0u);
      h[i] = (high[2 * i] | high[2 * i + 1] << 16) & own;
      l[i] = (low[2 * i] | low[2 * i + 1] << 16) & own;
    }
    const long long at = start + (long long)sub * pitch + column;
    *reinterpret_cast<uint4*>(qh + at) = uint4{h[0], h[1], h[2], h[3]};
    if (SPLIT) *reinterpret_cast<uint4*>(ql + at) = uint4{l[0], l[1], l[2], l[3]};
  }
}

#define MARGIN_TILE_SHARES(name, SPLIT)                                                                            \
  extern "C" __global__ void __launch_bounds__(TILE_THREADS)                                                       \
      name(const float* __restrict__ products, const unsigned* __restrict__ labels,                                \
           const float* __restrict__ row_scale, const float* __restrict__ lse, f16* __restrict__ qh,               \
           f16* __restrict__ ql, int classes, int first_class, int subs, int pitch) {                              \
    margin_tile_shares<SPLIT>(products, labels, row_scale, lse, qh, ql, classes, first_class, subs, pitch);        \
  }                                                                                                                \
  EXPORT_KERNEL(name)
MARGIN_TILE_SHARES(margin_tile_shares_f16, false)
MARGIN_TILE_SHARES(margin_tile_shares_f32, true)
