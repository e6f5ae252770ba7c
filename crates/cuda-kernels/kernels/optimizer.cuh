// What optimizers do with the gradient of one element, in PyTorch's form. The margin-softmax kernels spend a gradient on
// the spot; optimizer.cu takes one that lies in memory.
#pragma once
#include "numeric.cuh"

// Stochastic gradient descent: g += decay w; b = keep b + take g; w -= rate (nesterov ? g + momentum b : b). Without
// `buffered` momentum b is not touched; at the first step keep is 0 and take 1, and what the buffer holds does not count.
struct SgdNumbers {
  float rate, decay, momentum, keep, take;
  int nesterov;
};
__device__ __forceinline__ void sgd_element(float g, float& w, float& buffer, bool buffered, const SgdNumbers& of) {
  g = fmaf(of.decay, w, g);
  if (buffered) {
    const float b = fmaf(of.take, g, of.keep == 0.0f ? 0.0f : __fmul_rn(of.keep, buffer));
    buffer = b;
    g = of.nesterov ? fmaf(of.momentum, b, g) : b;
  }
  w = fmaf(-of.rate, g, w);
}

// Adam (Kingma and Ba 2015, algorithm 1) with decay added to the gradient, and AdamW (Loshchilov and Hutter 2019,
// algorithm 2) with `shrink` = 1 - rate decay on the value: m += take1 (g - m); v = keep2 v + take2 g^2;
// w -= size m / (sqrt(v) / root + eps), size = rate / (1 - b1^t), root = sqrt(1 - b2^t). With `amsgrad`,
// AMSGrad (Reddi et al. 2018, algorithm 2 in PyTorch's form): the largest v so far in place of v.
struct AdamNumbers { float size, root, eps, shrink, decay, take1, keep2, take2; };
__device__ __forceinline__ void adam_element(float g, float& w, float& first, float& second, float& top, bool amsgrad,
                                             const AdamNumbers& of) {
  const float value = __fmul_rn(w, of.shrink);
  g = fmaf(of.decay, value, g);
  const float m = fmaf(of.take1, g - first, first);
  float v = fmaf(of.take2 * g, g, __fmul_rn(of.keep2, second));
  first = m;
  second = v;
  if (amsgrad) {
    v = v > top ? v : top;
    top = v;
  }
  w = value - of.size * m / (sqrtf(v) / of.root + of.eps);
}
