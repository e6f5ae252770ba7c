// Norms of rows.
#pragma once
#include "numeric.cuh"

// Unit vectors are stored times this: their small parts stay clear of f16's subnormal numbers (the low half of a split
// value keeps an absolute error of 2^-33 of the vector), and no product of two comes near f16's or f32's end.
constexpr float UNIT = 256.0f;
// A product of two of them, times this, is a cosine.
constexpr float COSINE = 1.0f / (UNIT * UNIT);
// A row shorter than this is divided by this instead of by its norm.
constexpr float SHORTEST = 1e-12f;

// Length of a row, by a warp; every lane gets the same bits. In f32; rows whose squares leave its range, in f64.
template <class T>
__device__ __forceinline__ float row_norm(const T* row, int dim) {
  const int lane = threadIdx.x & 31;
  float sum = 0.0f;
  for (int d = lane; d < dim; d += 32) {
    const float v = to_f32(row[d]);
    sum = fmaf(v, v, sum);
  }
  sum = warp_sum(sum);
  if (sum > 1e-28f && sum < 1e37f) return sqrtf(sum);
  double wide = 0.0;
  for (int d = lane; d < dim; d += 32) {
    const double v = to_f32(row[d]);
    wide = fma(v, v, wide);
  }
  return (float)sqrt(warp_sum(wide));
}
