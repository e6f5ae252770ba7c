// Margin softmax, backward, for a tile of classes: its shares q, and q's two products.
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

// The two products of a tile. The blocks with more steps come first, so that the others fill the gaps behind them.
struct Gradients {
  float* embeddings;  // [parts, n, padded]; null where it is not wanted
  float* centres;     // [classes, padded], or null
  int n;
  int classes;        // rows of w and of `centres`; with sub-centres, as they lie in scratch
  int padded;
  int pitch;          // of q
  int parts;
  int share;          // classes of a part, a multiple of STEP
  int add;            // `embeddings` is added to
  int unused;
};

// embeddings [parts, n, padded]: q w^, of which part p gets (or, with `add`, adds) the tile's classes [p share, (p + 1) share).
// Parts fill the device where n padded has few tiles; they are added up in order at the end.
template <bool SPLIT>
__device__ __forceinline__ void embeddings_product(const Gradients& of, const Operand& q, const Operand& w,
                                                   unsigned char* shared, int block) {
  const int across = (of.padded + TILE - 1) / TILE, down = (of.n + TILE - 1) / TILE;
  const int column_start = block % across * TILE, row_start = block / across % down * TILE, part = block / across / down;
  // q is 0 beyond the classes, w ends there.
  const int from = min(part * of.share, of.pitch), to = min(from + of.share, of.pitch);
  Sums<WIDE> products;
  products.clear();
  if (from < to) add_product<WIDE, SPLIT, ALONG, ACROSS>(products, shared, q, row_start, w, column_start, from, to);
  store_product(products, of.embeddings + (long long)part * of.n * of.padded, row_start, column_start, of.n, of.padded,
                of.add);
}

// centres [classes, padded]: q^T (column x^), x being the unit rows times `column` (margin_loss).
template <bool SPLIT>
__device__ __forceinline__ void centres_product(const Gradients& of, const Operand& q, const Operand& x,
                                                unsigned char* shared, int block) {
  const int across = (of.padded + TILE - 1) / TILE;
  const int column_start = block % across * TILE, row_start = block / across * TILE;
  Sums<WIDE> products;
  products.clear();
  add_product<WIDE, SPLIT, ACROSS, ACROSS>(products, shared, q, row_start, x, column_start, 0, of.n);
  store_product(products, of.centres, row_start, column_start, of.classes, of.padded, false);
}

template <bool SPLIT>
__device__ __forceinline__ void margin_gradients(const f16* qh, const f16* ql, const f16* wh, const f16* wl,
                                                 const f16* xh, const f16* xl, const Gradients& of) {
  DYNAMIC_SHARED(shared);
  const Operand q{qh, ql, of.pitch, of.n, of.pitch}, w{wh, wl, of.padded, of.classes, of.padded};
  const int across = (of.padded + TILE - 1) / TILE;
  const int to_embeddings = of.embeddings ? across * ((of.n + TILE - 1) / TILE) * of.parts : 0;
  const int to_centres = of.centres ? across * (of.pitch / TILE) : 0;
  const bool centres_first = of.n > of.share;
  const int block = (int)blockIdx.x, others = block - (centres_first ? to_centres : to_embeddings);
  if (centres_first == (others < 0)) {
    const Operand x{xh, xl, of.padded, of.n, of.padded};
    centres_product<SPLIT>(of, q, x, shared, centres_first ? block : others);
  } else {
    embeddings_product<SPLIT>(of, q, w, shared, centres_first ? others : block);
  }
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
MARGIN_SHARES(margin_shares_f16, WIDE, 2, false, false)
MARGIN_SHARES(margin_shares_f32, WIDE, 2, true, false)
MARGIN_SHARES(margin_shares_subs_f16, NARROW, 1, false, true)
MARGIN_SHARES(margin_shares_subs_f32, NARROW, 1, true, true)

// The grid's blocks also make the unit rows of `next`, the tile that comes next.
#define MARGIN_GRADIENTS(name, SPLIT)                                                                               \
  extern "C" __global__ void __launch_bounds__(product_threads(WIDE), 2)                                            \
      name(const f16* __restrict__ qh, const f16* __restrict__ ql, const f16* __restrict__ wh,                      \
           const f16* __restrict__ wl, const f16* __restrict__ xh, const f16* __restrict__ xl, Gradients of,        \
           UnitTile next) {                                                                                         \
    beside([&] { margin_gradients<SPLIT>(qh, ql, wh, wl, xh, xl, of); },                                            \
           [&](int warp, int warps) { unit_beside(next, warp, warps); });                                             \
  }                                                                                                                 \
  EXPORT_KERNEL(name)
MARGIN_GRADIENTS(margin_gradients_f16, false)
MARGIN_GRADIENTS(margin_gradients_f32, true)
