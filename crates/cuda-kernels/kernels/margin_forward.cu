// Margin softmax, forward: log-sum-exp of the logits without the target's, none of which leaves the registers.
#include "beside.cuh"

// Takes a tile of classes into each row's running maximum and sum of powers of 2 (logits times log2 e).
//
// x, w: unit rows (rows.cu), [n, padded] and [classes, padded]; `classes` is the tile's, `first_class` its first.
// row_scale [n]: times the sum of products, the logit times log2 e. tops, sums: [splits, n], the maximum and the sum of
// 2^(z - maximum) over the classes of each split; read unless `start`. grid: (n / TILE, splits); a split takes every
// splits-th tile of 128 classes, whatever the device, so that the bits do not depend on it. With SUBS, w holds sub-centres
// as `subs` says, and a class's logit is its largest.
template <bool SPLIT, bool SUBS>
__device__ __forceinline__ void margin_lse(const f16* xh, const f16* xl, const f16* wh, const f16* wl,
                                           const unsigned* labels, const float* row_scale, float* tops, float* sums,
                                           int n, int classes, int first_class, int padded, int start,
                                           SubCentres subs) {
  DYNAMIC_SHARED(shared);
  constexpr int ACROSS = SUBS ? NARROW : WIDE, along = Sums<ACROSS>::along;
  const int row_start = blockIdx.x * TILE, split = blockIdx.y, splits = gridDim.y, lane = threadIdx.x & 31;
  const Operand x{xh, xl, padded, n, padded}, w{wh, wl, padded, SUBS ? subs.count * subs.pitch : classes, padded};
  const int tiles = (classes + TILE - 1) / TILE;
  float top[4][2], sum[4][2];
#pragma unroll
  for (int i = 0; i < 4; i++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      top[i][half] = -LARGEST;
      sum[i][half] = 0.0f;
    }
  for (int tile = split; tile < tiles; tile += splits) {
    const int class_start = tile * TILE;
    Sums<ACROSS> products;
    products.clear();
    add_product<ACROSS, SPLIT, ALONG, ALONG>(products, shared, x, row_start, w, class_start, 0, padded);
    if (SUBS) {
#pragma unroll 1
      for (int sub = 1; sub < subs.count; sub++) {
        Sums<ACROSS> next;
        next.clear();
        add_product<ACROSS, SPLIT, ALONG, ALONG>(next, shared, x, row_start, w, sub * subs.pitch + class_start, 0, padded);
        products.raise(next);
      }
    }
    const auto add = [&](auto leaves_out) {
      constexpr bool LEAVES_OUT = decltype(leaves_out)::value != 0;
#pragma unroll
      for (int i = 0; i < 4; i++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
          // Read for each tile anew: registers are short, and these lie in the first-level cache.
          const int row = row_start + tile_row<ACROSS>(i, half);
          const float scale = row < n ? row_scale[row] : 0.0f;
          const unsigned label = LEAVES_OUT && row < n ? labels[row] : 0u;
          // One rescaling of the sum for the thread's columns of a row. No scale is below 0: the largest product is the largest
          // logit's.
          float largest = -LARGEST;
#pragma unroll
          for (int j = 0; j < along; j++)
#pragma unroll
            for (int next = 0; next < 2; next++) {
              float& product = products.of[i][j][2 * half + next];
              const int column = class_start + tile_column<ACROSS>(j) + next;
              if (LEAVES_OUT && !(column < classes && (unsigned)(first_class + column) != label)) product = -LARGEST;
              largest = fmaxf(largest, product);
            }
          const float before = top[i][half];
          const float most = LEAVES_OUT && largest == -LARGEST ? before : fmaxf(before, largest * scale);
          float total = sum[i][half] * exp2_fast(before - most);
#pragma unroll
          for (int j = 0; j < along; j++)
#pragma unroll
            for (int next = 0; next < 2; next++) {
              const float product = products.of[i][j][2 * half + next];
              const float power = exp2_fast(fmaf(product, scale, -most));
              total += LEAVES_OUT && product == -LARGEST ? 0.0f : power;
            }
          top[i][half] = most;
          sum[i][half] = total;
        }
    };
    // Nearly all tiles are whole and hold no row's own class.
    if (leaves_out<ACROSS>(labels, row_start, n, first_class, class_start, classes)) add(Yes());
    else add(No());
  }
  // A row's columns lie with four lanes of each of ACROSS warps. The ring is free: add_product has ended.
  float* warp_tops = reinterpret_cast<float*>(shared);
  float* warp_sums = warp_tops + ACROSS * TILE;
#pragma unroll
  for (int i = 0; i < 4; i++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
#pragma unroll
      for (int step = 1; step < 4; step <<= 1) {
        const float other_top = __shfl_xor_sync(ALL_LANES, top[i][half], step);
        const float other_sum = __shfl_xor_sync(ALL_LANES, sum[i][half], step);
        const float most = fmaxf(top[i][half], other_top);
        sum[i][half] = sum[i][half] * exp2_fast(top[i][half] - most) + other_sum * exp2_fast(other_top - most);
        top[i][half] = most;
      }
      if ((lane & 3) == 0) {
        warp_tops[warp_across<ACROSS>() * TILE + tile_row<ACROSS>(i, half)] = top[i][half];
        warp_sums[warp_across<ACROSS>() * TILE + tile_row<ACROSS>(i, half)] = sum[i][half];
      }
    }
  __syncthreads();
  const int row = row_start + (int)threadIdx.x;
  if (threadIdx.x < TILE && row < n) {
    const long long at = (long long)split * n + row;
    float most = start ? -LARGEST : tops[at], total = start ? 0.0f : sums[at];
#pragma unroll
    for (int warp = 0; warp < ACROSS; warp++) {
      const float next = warp_tops[warp * TILE + threadIdx.x], above = fmaxf(most, next);
      total = total * exp2_fast(most - above) + warp_sums[warp * TILE + threadIdx.x] * exp2_fast(next - above);
      most = above;
    }
    tops[at] = most;
    sums[at] = total;
  }
}

// The grid's blocks also make the unit rows of `next`, the tile that comes next.
#define MARGIN_LSE(name, SPLIT)                                                                                     \
  extern "C" __global__ void __launch_bounds__(product_threads(WIDE), 2)                                            \
      name(const f16* __restrict__ xh, const f16* __restrict__ xl, const f16* __restrict__ wh,                      \
           const f16* __restrict__ wl, const unsigned* __restrict__ labels, const float* __restrict__ row_scale,    \
           float* __restrict__ tops, float* __restrict__ sums, int n, int classes, int first_class, int padded,     \
           int start, UnitTile next) {                                                                              \
    beside(                                                                                                         \
        [&] {                                                                                                       \
          margin_lse<SPLIT, false>(xh, xl, wh, wl, labels, row_scale, tops, sums, n, classes, first_class, padded,  \
                                   start, {1, 0});                                                                  \
        },                                                                                                          \
        [&](int warp, int warps) { unit_beside(next, warp, warps); });                                                \
  }                                                                                                                 \
  EXPORT_KERNEL(name)
#define MARGIN_LSE_SUBS(name, SPLIT)                                                                                \
  extern "C" __global__ void __launch_bounds__(product_threads(NARROW), 1)                                          \
      name(const f16* __restrict__ xh, const f16* __restrict__ xl, const f16* __restrict__ wh,                      \
           const f16* __restrict__ wl, const unsigned* __restrict__ labels, const float* __restrict__ row_scale,    \
           float* __restrict__ tops, float* __restrict__ sums, int n, int classes, int first_class, int padded,     \
           int start, UnitTile next, int subs, int pitch) {                                                         \
    beside(                                                                                                         \
        [&] {                                                                                                       \
          margin_lse<SPLIT, true>(xh, xl, wh, wl, labels, row_scale, tops, sums, n, classes, first_class, padded,   \
                                  start, {subs, pitch});                                                            \
        },                                                                                                          \
        [&](int warp, int warps) { unit_beside(next, warp, warps); });                                                \
  }                                                                                                                 \
  EXPORT_KERNEL(name)
MARGIN_LSE(margin_lse_f16, false)
MARGIN_LSE(margin_lse_f32, true)
MARGIN_LSE_SUBS(margin_lse_subs_f16, false)
MARGIN_LSE_SUBS(margin_lse_subs_f32, true)
