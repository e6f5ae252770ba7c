// What the triplet kernels share. Rows are anchors `first` .. of a block, columns the whole batch.
#pragma once
#include "rows.cuh"

enum Distance { L2, SQUARED_L2, COSINE_DISTANCE };

// Rows nearer than this have no direction: their distance's gradient is 0.
constexpr float NO_DIRECTION = 1e-30f;

// How a coefficient of a dissimilarity becomes one of a difference of rows.
__device__ __forceinline__ float chain(int distance, float d) {
  if (distance == L2) return d > NO_DIRECTION ? 1.0f / d : 0.0f;
  return distance == SQUARED_L2 ? 2.0f : 1.0f;
}
