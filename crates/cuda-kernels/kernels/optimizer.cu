// Optimizer steps from a gradient that lies in memory, accumulated over batches; and its norm.
#include "optimizer.cuh"

// w [count] by `factor` times the gradient; see sgd_element. A thread an element.
extern "C" __global__ void __launch_bounds__(256)
    sgd_step(const float* __restrict__ gradient, float factor, float* __restrict__ w, float* __restrict__ buffer,
             float rate, float decay, float momentum, float keep, float take, int nesterov, long long count) {
  const long long at = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (at >= count) return;
  float b = buffer ? buffer[at] : 0.0f;
  sgd_element(gradient[at] * factor, w[at], b, buffer != nullptr, {rate, decay, momentum, keep, take, nesterov});
  if (buffer) buffer[at] = b;
}
EXPORT_KERNEL(sgd_step)

// w [count] by `factor` times the gradient; see adam_element. A thread an element.
extern "C" __global__ void __launch_bounds__(256)
    adam_step(const float* __restrict__ gradient, float factor, float* __restrict__ w, float* __restrict__ first,
              float* __restrict__ second, float* __restrict__ tops, float size, float root, float eps, float shrink,
              float decay, float take1, float keep2, float take2, long long count) {
  const long long at = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (at >= count) return;
  float top = tops ? tops[at] : 0.0f;
  adam_element(gradient[at] * factor, w[at], first[at], second[at], top, tops != nullptr,
               {size, root, eps, shrink, decay, take1, keep2, take2});
  if (tops) tops[at] = top;
}
EXPORT_KERNEL(adam_step)

// sums [gridDim.x]: each block's share of the sum of squares, in f64 and in an order that depends on the grid alone.
extern "C" __global__ void __launch_bounds__(256)
    square_sums(const float* __restrict__ values, double* __restrict__ sums, long long count) {
  __shared__ double warps[8];
  double sum = 0.0;
  const long long stride = (long long)gridDim.x * blockDim.x;
  for (long long at = (long long)blockIdx.x * blockDim.x + threadIdx.x; at < count; at += stride) {
    const double v = values[at];
    sum = fma(v, v, sum);
  }
  sum = warp_sum(sum);
  if ((threadIdx.x & 31) == 0) warps[threadIdx.x >> 5] = sum;
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int warp = 1; warp < 8; warp++) sum += warps[warp];
    sums[blockIdx.x] = sum;
  }
}
EXPORT_KERNEL(square_sums)
