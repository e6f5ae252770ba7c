// What optimizers do with the gradient of one element, in PyTorch's form. The margin-softmax kernels spend a gradient on
// the spot; optimizer.cu takes one that lies in memory.
#pragma once
#include "numeric.cuh"

// Stochastic gradient descent: g += decay w; b = keep b + take g; w -= rate (nesterov ? g + momentum b : b). Without
// momentum `buffer` is null; at the first step keep is 0 and take 1, and the buffer is not read.
__device__ __forceinline__ void sgd_element(float g, float* w, float* buffer, long long at, float rate, float decay,
                                            float momentum, float keep, float take, int nesterov) {
  g += decay * w[at];
  if (buffer) {
    const float b = (keep == 0.0f ? 0.0f : keep * buffer[at]) + take * g;
    buffer[at] = b;
    g = nesterov ? g + momentum * b : b;
  }
  w[at] -= rate * g;
}

// Adam (Kingma and Ba 2015, algorithm 1) with decay added to the gradient, and AdamW (Loshchilov and Hutter 2019,
// algorithm 2) with `shrink` = 1 - rate decay on the value: m += take1 (g - m); v = keep2 v + take2 g^2;
// w -= size m / (sqrt(v) / root + eps), size = rate / (1 - b1^t), root = sqrt(1 - b2^t). With `tops` (null without),
// AMSGrad (Reddi et al. 2018, algorithm 2 in PyTorch's form): the largest v so far in place of v.
struct AdamNumbers { float size, root, eps, shrink, decay, take1, keep2, take2; };
__device__ __forceinline__ void adam_element(float g, float* w, float* first, float* second, float* tops, long long at,
                                             const AdamNumbers& of) {
  const float value = w[at] * of.shrink;
  g += of.decay * value;
  const float m = first[at] + of.take1 * (g - first[at]);
  float v = of.keep2 * second[at] + of.take2 * g * g;
  first[at] = m;
  second[at] = v;
  if (tops) {
    v = v > tops[at] ? v : tops[at];
    tops[at] = v;
  }
  w[at] = value - of.size * m / (sqrtf(v) / of.root + of.eps);
}
