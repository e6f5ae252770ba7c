// Margin softmax: the launches before and after the products, each of several small tasks that do not need each other.
#include "centres.cuh"
#include "target.cuh"

// A row's place in the order of the labels, equal ones in their own order: order [n], and sorted [n] the labels themselves.
// Each row counts those before it: n^2 comparisons, 16 million at n = 4096, and no dependence on timing. A warp a row.
__device__ __forceinline__ void place_label(const unsigned* labels, int* order, unsigned* sorted, int row, int n) {
  const unsigned label = labels[row];
  int before = 0;
#pragma unroll 4
  for (int at = (int)(threadIdx.x & 31); at < n; at += 32)
    before += labels[at] < label || (labels[at] == label && at < row);
  before = warp_sum(before);
  if ((threadIdx.x & 31) == 0) {
    order[before] = row;
    sorted[before] = label;
  }
}

// Before the products: a warp for each row of the batch, and the blocks behind them for the first tile of centres. The rows:
// their targets and scales (find_target, write_target), their unit rows to `unit` [n], `width` values apart, and, unless `order` is null,
// the labels' order.
extern "C" __global__ void __launch_bounds__(256, 2)
    margin_prepare(const float* __restrict__ x, const void* __restrict__ w, const unsigned* __restrict__ labels,
                   Margin margin, double* __restrict__ targets, float* __restrict__ row_scale, f16* __restrict__ high,
                   f16* __restrict__ low, f16* __restrict__ again, int* __restrict__ order,
                   unsigned* __restrict__ sorted, UnitTile tile, int n, int dim, int padded, int width, int classes,
                   int subs, int storage) {
  const int row_blocks = (n + 7) / 8, warp = (int)((blockIdx.x * blockDim.x + threadIdx.x) >> 5);
  if ((int)blockIdx.x >= row_blocks) {
    const int others = ((int)gridDim.x - row_blocks) * 8;
    by_storage(w, storage, [&](auto* of) { unit_tile(tile, of, in_fours(of, dim), warp - row_blocks * 8, others); });
    return;
  }
  if (warp >= n) return;
  Found found;
  by_storage(w, storage, [&](auto* centres) {
    found = find_target(x, centres, labels, warp, dim, classes, subs);
  });
  write_target(found, margin, targets, row_scale, warp);
  const long long at = (long long)warp * width;
  const UnitRow to{high + at, low ? low + at : nullptr, again ? again + at : nullptr};
  write_unit(x + (long long)warp * dim, in_fours(x, dim), 1.0f, to, dim, padded);
  if (order) place_label(labels, order, sorted, warp, n);
}
EXPORT_KERNEL(margin_prepare)

// Once the losses are known, where no kernel of products does it beside them.
extern "C" __global__ void __launch_bounds__(256, 2) margin_weigh(Weighting of) {
  const int warp = (int)((blockIdx.x * blockDim.x + threadIdx.x) >> 5), warps = (int)(gridDim.x * blockDim.x >> 5);
  const bool fours = in_fours(of.x, of.dim) && in_fours(of.dx, of.dim);
  by_storage(of.w, of.storage, [&](auto* w) { weigh_rows(of, w, fours && in_fours(w, of.dim), warp, warps); });
}
EXPORT_KERNEL(margin_weigh)

// After the products: a warp for each row of the batch (`bulk.n` may be 0), and the blocks behind them for a tile of centres.
extern "C" __global__ void __launch_bounds__(256, 2) margin_finish(Bulk bulk, Step step) {
  const int row_blocks = (bulk.n + 7) / 8, warp = (int)((blockIdx.x * blockDim.x + threadIdx.x) >> 5);
  if ((int)blockIdx.x < row_blocks) {
    if (warp < bulk.n) bulk_gradient(bulk, warp);
    return;
  }
  const int at = warp - row_blocks * 8, warps = ((int)gridDim.x - row_blocks) * 8;
  if (step.kind != STEP_GRADIENT) return move_tile(step, step_in_fours(step), at, warps);
  // Both of 16 bits and of 32: the gradient lies in f32.
  const bool out_in_fours = in_fours(step.first, step.dim);
  by_storage(step.w, step.storage,
             [&](auto* w) { gradient_tile(step, w, out_in_fours && in_fours(w, step.dim), at, warps); });
}
EXPORT_KERNEL(margin_finish)
