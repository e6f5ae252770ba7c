// Margin softmax, backward: the shares q of a tile of classes, which its two products take (margin_gradients.cu).
#pragma once
#include "beside.cuh"

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
  const auto store = [&](auto leaves_out) {
    constexpr bool LEAVES_OUT = decltype(leaves_out)::value != 0;
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const int row = row_start + tile_row<ACROSS>(i, half);
        if (row >= n) continue;
        // SHARE is 2^15: in f16 it goes into the exponent, where what that rounds away does not show.
        const float scale = row_scale[row], less = SPLIT ? lse[row] : lse[row] - 15.0f;
        const unsigned label = LEAVES_OUT ? labels[row] : 0;
        const long long row_at = row * q_pitch + class_start + tile_column<ACROSS>(0);
#pragma unroll
        for (int j = 0; j < along; j++) {
          const int column = class_start + tile_column<ACROSS>(j);
          unsigned high = 0, low = 0, owner[2] = {};
#pragma unroll
          for (int next = 0; next < 2; next++) {
            const float power = exp2_fast(fmaf(products.of[i][j][2 * half + next], scale, -less));
            float share = SPLIT ? SHARE * power : power;
            if (LEAVES_OUT && !(column + next < classes && (unsigned)(first_class + column + next) != label)) share = 0.0f;
            const f16 rounded = to_f16(share);
            high |= (unsigned)rounded.bits << (16 * next);
            if (SPLIT) low |= (unsigned)to_f16(share - to_f32(rounded)).bits << (16 * next);
            if (SUBS) owner[next] = which[i][j >> 1] >> (((j & 1) * 4 + 2 * half + next) * 4) & 15u;
          }
          const long long at = row_at + j * 8;
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
  };
  // Nearly all tiles are whole and hold no row's own class.
  if (leaves_out<ACROSS>(labels, row_start, n, first_class, class_start, classes)) store(Yes());
  else store(No());
}

// The grid's blocks also move `previous`, the centres of the tile before, and weigh the rows beside the first.
#define MARGIN_SHARES(name, ACROSS, BLOCKS, SPLIT, SUBS)                                                            \
  extern "C" __global__ void __launch_bounds__(product_threads(ACROSS), BLOCKS)                                     \
      name(const f16* __restrict__ xh, const f16* __restrict__ xl, const f16* __restrict__ wh,                      \
           const f16* __restrict__ wl, const unsigned* __restrict__ labels, const float* __restrict__ row_scale,    \
           const float* __restrict__ lse, f16* __restrict__ qh, f16* __restrict__ ql, int n, int classes,           \
           int first_class, int padded, int pitch, int subs, Weighting rows, Step previous) {                       \
    beside(                                                                                                         \
        [&] {                                                                                                       \
          margin_shares<SPLIT, SUBS>(xh, xl, wh, wl, labels, row_scale, lse, qh, ql, n, classes, first_class,       \
                                     padded, pitch, subs);                                                          \
        },                                                                                                          \
        [&](int warp, int warps) {                                                                                  \
          weigh_beside(rows, warp, warps);                                                                            \
          step_beside(previous, warp, warps);                                                                         \
        });                                                                                                         \
  }                                                                                                                 \
  EXPORT_KERNEL(name)
