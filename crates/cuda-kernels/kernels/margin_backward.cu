// Margin softmax, backward, for a tile of classes: its shares q, and q's two products.
#include "margin.cuh"

// q [n, pitch] of a tile of classes, times SHARE, as f16 (+ low): 0 in the target's column and beyond `classes`
// (up to `pitch`, a multiple of 128). Arguments as of margin_lse; lse [n] from margin_loss. grid: (n / TILE, pitch / TILE).
// With SUBS a row of q is subs.count times `pitch`, as w lies, and 0 for all sub-centres of a class but the nearest.
template <bool SPLIT, bool SUBS>
__device__ __forceinline__ void margin_shares(const f16* xh, const f16* xl, const f16* wh, const f16* wl,
                                              const unsigned* labels, const float* row_scale, const float* lse,
                                              f16* qh, f16* ql, int n, int classes, int first_class, int padded,
                                              int pitch, int subs) {
  DYNAMIC_SHARED(shared);
  constexpr int ACROSS = SUBS ? NARROW : WIDE, along = Sums<ACROSS>::along;
  const int row_start = blockIdx.x * TILE, class_start = blockIdx.y * TILE;
  const Operand x{xh, xl, padded, n, padded}, w{wh, wl, padded, SUBS ? subs * pitch : classes, padded};
  const long long q_pitch = SUBS ? (long long)subs * pitch : pitch;
  unsigned which[4][along / 2] = {};
  Sums<ACROSS> products;
  products.clear();
  add_product<ACROSS, SPLIT, ALONG, ALONG>(products, shared, x, row_start, w, class_start, 0, padded);
  if (SUBS) {
#pragma unroll 1
    for (int sub = 1; sub < subs; sub++) {
      Sums<ACROSS> next;
      next.clear();
      add_product<ACROSS, SPLIT, ALONG, ALONG>(next, shared, x, row_start, w, sub * pitch + class_start, 0, padded);
      products.raise(next, which, sub);
    }
  }
#pragma unroll
  for (int i = 0; i < 4; i++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int row = row_start + tile_row<ACROSS>(i, half);
      if (row >= n) continue;
      const float scale = row_scale[row], less = lse[row];
      const unsigned label = labels[row];
#pragma unroll
      for (int j = 0; j < along; j++) {
        const int column = class_start + tile_column<ACROSS>(j);
        unsigned high = 0, low = 0, owner[2] = {};
#pragma unroll
        for (int next = 0; next < 2; next++) {
          const bool counts = column + next < classes && (unsigned)(first_class + column + next) != label;
          const float share = counts ? SHARE * exp2_fast(products.of[i][j][2 * half + next] * scale - less) : 0.0f;
          const f16 rounded = to_f16(share);
          high |= (unsigned)rounded.bits << (16 * next);
          if (SPLIT) low |= (unsigned)to_f16(share - to_f32(rounded)).bits << (16 * next);
          if (SUBS) owner[next] = which[i][j >> 1] >> (((j & 1) * 4 + 2 * half + next) * 4) & 15u;
        }
        const long long at = row * q_pitch + column;
        if (!SUBS) {
          *reinterpret_cast<unsigned*>(qh + at) = high;
          if (SPLIT) *reinterpret_cast<unsigned*>(ql + at) = low;
        } else {
          for (unsigned sub = 0; sub < (unsigned)subs; sub++) {
            const unsigned own = (owner[0] == sub ? 0xffffu : 0u) | (owner[1] == sub ? 0xffff0000u : 0u);
            *reinterpret_cast<unsigned*>(qh + at + sub * pitch) = high & own;
            if (SPLIT) *reinterpret_cast<unsigned*>(ql + at + sub * pitch) = low & own;
          }
        }
      }
    }
}

// A tile of a product to memory, [rows, padded], plus what is there if `add`.
__device__ __forceinline__ void store_product(const Sums<WIDE>& products, float* out, int row_start, int column_start,
                                              int rows, int padded, bool add) {
#pragma unroll
  for (int i = 0; i < 4; i++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int row = row_start + tile_row<WIDE>(i, half);
      if (row >= rows) continue;
#pragma unroll
      for (int j = 0; j < Sums<WIDE>::along; j++) {
        const int column = column_start + tile_column<WIDE>(j);
        if (column >= padded) continue;
        float2* to = reinterpret_cast<float2*>(out + (long long)row * padded + column);
        float2 sum = make_float2(products.of[i][j][2 * half], products.of[i][j][2 * half + 1]);
        if (add) {
          const float2 before = *to;
          sum = make_float2(before.x + sum.x, before.y + sum.y);
        }
        *to = sum;
      }
    }
}

// raw [parts, n, padded] of the embeddings' gradient: part p gets (or, with `add`, adds) the tile's classes
// [p share, (p + 1) share), `share` a multiple of STEP. Parts fill the device where n padded has few tiles; they are
// added up in order at the end. grid: (padded / TILE rounded up, n / TILE rounded up, parts).
template <bool SPLIT>
__device__ __forceinline__ void margin_raw_embeddings(const f16* qh, const f16* ql, const f16* wh, const f16* wl,
                                                      float* raw, int n, int classes, int padded, int pitch, int share,
                                                      int add) {
  DYNAMIC_SHARED(shared);
  const int row_start = blockIdx.y * TILE, column_start = blockIdx.x * TILE, part = blockIdx.z;
  // q is 0 beyond `classes`, w ends there.
  const Operand q{qh, ql, pitch, n, pitch}, w{wh, wl, padded, classes, padded};
  const int from = min(part * share, pitch), to = min(from + share, pitch);
  Sums<WIDE> products;
  products.clear();
  if (from < to) add_product<WIDE, SPLIT, ALONG, ACROSS>(products, shared, q, row_start, w, column_start, from, to);
  store_product(products, raw + (long long)part * n * padded, row_start, column_start, n, padded, add);
}

// raw [classes, padded] of the centres' gradient: q^T (column x^), x being the unit rows times `column` (margin_loss).
// grid: (padded / TILE rounded up, classes / TILE rounded up).
template <bool SPLIT>
__device__ __forceinline__ void margin_raw_centres(const f16* qh, const f16* ql, const f16* xh, const f16* xl,
                                                   float* raw, int n, int classes, int padded, int pitch) {
  DYNAMIC_SHARED(shared);
  const int row_start = blockIdx.y * TILE, column_start = blockIdx.x * TILE;
  const Operand q{qh, ql, pitch, n, pitch}, x{xh, xl, padded, n, padded};
  Sums<WIDE> products;
  products.clear();
  add_product<WIDE, SPLIT, ACROSS, ACROSS>(products, shared, q, row_start, x, column_start, 0, n);
  store_product(products, raw, row_start, column_start, classes, padded, false);
}

#define FOR_PRECISION(suffix, SPLIT)                                                                                \
  extern "C" __global__ void __launch_bounds__(product_threads(WIDE), 2) margin_shares_##suffix(                          \
      const f16* __restrict__ xh, const f16* __restrict__ xl, const f16* __restrict__ wh,                           \
      const f16* __restrict__ wl, const unsigned* __restrict__ labels, const float* __restrict__ row_scale,         \
      const float* __restrict__ lse, f16* __restrict__ qh, f16* __restrict__ ql, int n, int classes,                \
      int first_class, int padded, int pitch) {                                                                     \
    margin_shares<SPLIT, false>(xh, xl, wh, wl, labels, row_scale, lse, qh, ql, n, classes, first_class, padded,    \
                                pitch, 1);                                                                          \
  }                                                                                                                 \
  EXPORT_KERNEL(margin_shares_##suffix)                                                                             \
  extern "C" __global__ void __launch_bounds__(product_threads(NARROW), 1) margin_shares_subs_##suffix(                     \
      const f16* __restrict__ xh, const f16* __restrict__ xl, const f16* __restrict__ wh,                           \
      const f16* __restrict__ wl, const unsigned* __restrict__ labels, const float* __restrict__ row_scale,         \
      const float* __restrict__ lse, f16* __restrict__ qh, f16* __restrict__ ql, int n, int classes,                \
      int first_class, int padded, int pitch, int subs) {                                                           \
    margin_shares<SPLIT, true>(xh, xl, wh, wl, labels, row_scale, lse, qh, ql, n, classes, first_class, padded,     \
                               pitch, subs);                                                                        \
  }                                                                                                                 \
  EXPORT_KERNEL(margin_shares_subs_##suffix)                                                                        \
  extern "C" __global__ void __launch_bounds__(product_threads(WIDE), 2) margin_raw_embeddings_##suffix(                  \
      const f16* __restrict__ qh, const f16* __restrict__ ql, const f16* __restrict__ wh,                           \
      const f16* __restrict__ wl, float* __restrict__ raw, int n, int classes, int padded, int pitch, int share,    \
      int add) {                                                                                                    \
    margin_raw_embeddings<SPLIT>(qh, ql, wh, wl, raw, n, classes, padded, pitch, share, add);                       \
  }                                                                                                                 \
  EXPORT_KERNEL(margin_raw_embeddings_##suffix)                                                                     \
  extern "C" __global__ void __launch_bounds__(product_threads(WIDE), 2) margin_raw_centres_##suffix(                     \
      const f16* __restrict__ qh, const f16* __restrict__ ql, const f16* __restrict__ xh,                           \
      const f16* __restrict__ xl, float* __restrict__ raw, int n, int classes, int padded, int pitch) {             \
    margin_raw_centres<SPLIT>(qh, ql, xh, xl, raw, n, classes, padded, pitch);                                      \
  }                                                                                                                 \
  EXPORT_KERNEL(margin_raw_centres_##suffix)
FOR_PRECISION(f16, false)
FOR_PRECISION(f32, true)
