// An anchor's positives, and which triplets a miner keeps.
#pragma once
#include "triplet.cuh"

enum Mining { MINE_NONE, MINE_ALL, MINE_HARD, MINE_SEMIHARD, MINE_EASY };

constexpr int COUNT_THREADS = 256;
constexpr int POSITIVES = 1024;  // at a time; larger classes go round by round

// Writes d's and columns of up to POSITIVES positives from the `skip`-th on, in the order of the columns, and returns
// how many positives there are in all. `warps`: one int a warp.
__device__ __forceinline__ int gather_positives(const float* row, const unsigned* labels, int anchor, int n, int skip,
                                                float* keys, int* columns, int* warps) {
  const unsigned label = labels[anchor];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  int before = 0;
  for (int start = 0; start < n; start += COUNT_THREADS) {
    const int j = start + (int)threadIdx.x;
    const bool positive = j < n && j != anchor && labels[j] == label;
    const unsigned ballot = __ballot_sync(ALL_LANES, positive);
    __syncthreads();
    if (lane == 0) warps[warp] = __popc(ballot);
    __syncthreads();
    int place = before + __popc(ballot & ((1u << lane) - 1));
    for (int w = 0; w < COUNT_THREADS / 32; w++) {
      if (w < warp) place += warps[w];
      before += warps[w];
    }
    if (positive && place >= skip && place < skip + POSITIVES) {
      keys[place - skip] = row[j];
      columns[place - skip] = j;
    }
  }
  return before;
}

// Sums over a block of COUNT_THREADS, in an order that is always the same; thread 0 gets it. `warps`: one value a warp.
template <class T>
__device__ __forceinline__ T block_sum(T v, T* warps) {
  v = warp_sum(v);
  __syncthreads();
  if ((threadIdx.x & 31) == 0) warps[threadIdx.x >> 5] = v;
  __syncthreads();
  if (threadIdx.x == 0)
    for (int w = 1; w < COUNT_THREADS / 32; w++) v += warps[w];
  return v;
}
