// Margin softmax: a tile of the centres' gradient, written out or spent at once by the optimizer, in which case it
// never exists for all classes.
#include "margin.cuh"
#include "optimizer.cuh"

// What the tile's kernels read of the batch.
struct Centres {
  const float* raw;          // [centres of the tile, padded], as they lie in scratch: sums of SHARE q UNIT column x^
  const float* norms;        // [centres of the tile], likewise
  const float* x;            // [n, dim]
  const double* targets;     // [n, TARGET_FIELDS]
  const float* sigma;        // [n]
  const double* stats;       // stats[1] is the gain that `column` was divided by
  const int* order;          // [n], rows in the order of their labels
  const unsigned* sorted;    // [n], labels in that order
  int n, dim, padded, first_class;
  SubCentres subs;
  int sphere;
  double scale;
};

// The first place in `sorted` that is not below `label`.
__device__ __forceinline__ int lower_bound(const unsigned* sorted, int n, unsigned label) {
  int low = 0, high = n;
  while (low < high) {
    const int middle = (low + high) >> 1;
    if (sorted[middle] < label) low = middle + 1;
    else high = middle;
  }
  return low;
}

// The row of raw and norms of the tile's centre `row`, and its place among the sub-centres of its class.
__device__ __forceinline__ int scratch_row(const SubCentres& subs, int row) {
  return subs.count == 1 ? row : row % subs.count * subs.pitch + row / subs.count;
}

// Hands the gradient of a centre, dimension by dimension, to `use(d, gradient)`. By a warp; `w` is the centre's row.
// bulk: (s / |w|) (r - w^ (w^ . r)), r = sum_i sigma_i q_i x^_i; then the rows of this class in their order.
template <class T, class Use>
__device__ __forceinline__ void centre_gradient(const Centres& of, int row, const T* w, Use use) {
  const int lane = threadIdx.x & 31;
  const int scratch = scratch_row(of.subs, row), sub = row % of.subs.count;
  const float* raw = of.raw + (long long)scratch * of.padded;
  const float norm = of.norms[scratch], sw = 1.0f / fmaxf(norm, SHORTEST);
  const float gain = (float)(of.stats[1] / ((double)SHARE * UNIT) * of.scale * sw);
  float dot = 0.0f;
  for (int d = lane; d < of.dim; d += 32) dot = fmaf(raw[d], to_f32(w[d]) * sw, dot);
  dot = norm > SHORTEST ? warp_sum(dot) : 0.0f;
  const unsigned label = (unsigned)(of.first_class + row / of.subs.count);
  const int first = lower_bound(of.sorted, of.n, label);
  for (int d = lane; d < of.dim; d += 32) {
    const float wu = to_f32(w[d]) * sw;
    float gradient = gain * fmaf(-dot, wu, raw[d]);
    // Few centres have rows of their own; for them f64, as the target's part wants.
    for (int at = first; at < of.n && of.sorted[at] == label; at++) {
      const int i = of.order[at];
      const double* target = of.targets + (long long)i * TARGET_FIELDS;
      if (target[TARGET_SINE] < NO_TANGENT || (int)target[TARGET_SUB] != sub) continue;
      const double x_norm = target[TARGET_X_NORM], sx = 1.0 / fmax(x_norm, (double)SHORTEST);
      const double pull = (double)of.sigma[i] * of.scale * target[TARGET_SLOPE] / target[TARGET_SINE] * sw *
                          (of.sphere ? x_norm : 1.0);
      const double xu = (double)of.x[(long long)i * of.dim + d] * sx;
      const double w_norm = target[TARGET_W_NORM], unit = (double)to_f32(w[d]) / fmax(w_norm, (double)SHORTEST);
      gradient -= (float)(pull * (xu - projected(w_norm, target[TARGET_COSINE]) * unit));
    }
    use(d, gradient);
  }
}

// A loss that is no number, or a label that is no class, moves nothing.
__device__ __forceinline__ bool moves(const double* stats) { return stats[0] - stats[0] == 0.0; }

#define CENTRES_PARAMETERS                                                                                          \
  const float *__restrict__ raw, const float *__restrict__ norms, const float *__restrict__ x,                      \
      const double *__restrict__ targets, const float *__restrict__ sigma, const double *__restrict__ stats,        \
      const int *__restrict__ order, const unsigned *__restrict__ sorted, int n, int dim, int padded,               \
      int first_class, int centres, int subs, int pitch, int sphere, double scale
#define CENTRES                                                                                                     \
  {raw, norms, x, targets, sigma, stats, order, sorted, n, dim, padded, first_class, {subs, pitch}, sphere, scale}

// dw [centres of the tile, dim], added to if `accumulate`. A warp a centre, as below.
#define CENTRE_GRADIENT(name, T)                                                                                    \
  extern "C" __global__ void __launch_bounds__(256, 4)                                                                 \
      name(CENTRES_PARAMETERS, const T* __restrict__ w, float* __restrict__ dw, int accumulate) {                   \
    const int row = (int)((blockIdx.x * blockDim.x + threadIdx.x) >> 5);                                            \
    if (row >= centres) return;                                                                                     \
    const Centres of CENTRES;                                                                                       \
    float* out = dw + (long long)row * dim;                                                                         \
    centre_gradient(of, row, w + (long long)row * dim,                                                              \
                    [&](int d, float g) { out[d] = (accumulate ? out[d] : 0.0f) + g; });                            \
  }                                                                                                                 \
  EXPORT_KERNEL(name)
CENTRE_GRADIENT(centre_gradient_f32, float)
CENTRE_GRADIENT(centre_gradient_f16, f16)
CENTRE_GRADIENT(centre_gradient_bf16, bf16)

// The centres move by their gradient at once: see optimizer.cuh.
extern "C" __global__ void __launch_bounds__(256, 4)
    centre_sgd(CENTRES_PARAMETERS, float* w, float* momentum_buffer, float rate, float decay, float momentum,
               float keep, float take, int nesterov) {
  const int row = (int)((blockIdx.x * blockDim.x + threadIdx.x) >> 5);
  if (row >= centres || !moves(stats)) return;
  const Centres of CENTRES;
  const long long start = (long long)row * dim;
  centre_gradient(of, row, w + start, [&](int d, float g) {
    sgd_element(g, w, momentum_buffer, start + d, rate, decay, momentum, keep, take, nesterov);
  });
}
EXPORT_KERNEL(centre_sgd)

extern "C" __global__ void __launch_bounds__(256, 4)
    centre_adam(CENTRES_PARAMETERS, float* w, float* first_moment, float* second_moment, float* tops, float size,
                float root, float eps, float shrink, float decay, float take1, float keep2, float take2) {
  const int row = (int)((blockIdx.x * blockDim.x + threadIdx.x) >> 5);
  if (row >= centres || !moves(stats)) return;
  const Centres of CENTRES;
  const long long start = (long long)row * dim;
  const AdamNumbers numbers{size, root, eps, shrink, decay, take1, keep2, take2};
  centre_gradient(of, row, w + start, [&](int d, float g) {
    adam_element(g, w, first_moment, second_moment, tops, start + d, numbers);
  });
}
EXPORT_KERNEL(centre_adam)
