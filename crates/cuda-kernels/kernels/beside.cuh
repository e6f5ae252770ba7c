// Small tasks beside the products. What waits for memory is divided among the blocks of a kernel that waits for tensor
// cores: of the two blocks on a multiprocessor one does its part first and the other last, so that each hides the other's,
// and no launch of its own is needed.
//
// Only centres in f32 whose rows can be loaded four values at a time are done in this way; for others the host launches
// margin_rows.cu's and rows.cu's kernels, which do the same. So there is one form of each task here.
#pragma once
#include "centres.cuh"
#include "target.cuh"

// Blocks that start together on different multiprocessors of a large GPU; the next ones join them. Only speed depends on it.
constexpr int TOGETHER = 132;

// `products()` by the block; `task(warp, warps)` by all warps of the grid.
template <class Products, class Task>
__device__ __forceinline__ void beside(Products products, Task task) {
  const int block = (int)((blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x);
  const int blocks = (int)(gridDim.x * gridDim.y * gridDim.z), warps = (int)blockDim.x >> 5;
  const bool first = block / TOGETHER % 2 == 0;
#pragma unroll 1
  for (int turn = 0; turn < 2; turn++) {
    if ((turn == 0) == first) task(block * warps + (int)(threadIdx.x >> 5), blocks * warps);
    else products();
  }
}

__device__ __forceinline__ void unit_beside(const UnitTile& of, int warp, int warps) {
  unit_tile(of, static_cast<const float*>(of.values), true, warp, warps);
}
__device__ __forceinline__ void weigh_beside(const Weighting& of, int warp, int warps) {
  weigh_rows(of, static_cast<const float*>(of.w), true, warp, warps);
}
__device__ __forceinline__ void step_beside(const Step& of, int warp, int warps) {
  if (of.kind == STEP_GRADIENT) gradient_tile(of, static_cast<const float*>(of.w), true, warp, warps);
  else move_tile(of, true, warp, warps);
}
