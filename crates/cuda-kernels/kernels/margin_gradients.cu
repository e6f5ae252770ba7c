// Margin softmax, backward: the two products of a tile's shares q (shares.cuh), the embeddings' and the centres'.
#include "beside.cuh"

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
