// Margin softmax: what becomes of a tile of centres once the products are there: their gradient is written out, or spent at
// once by an optimizer, in which case it never exists for all classes.
#pragma once
#include "margin.cuh"
#include "optimizer.cuh"

enum StepKind { STEP_GRADIENT, STEP_SGD, STEP_ADAM };

// A tile of centres. Mirrored by `margin::jobs::Step`.
struct Step {
  const float* raw;        // [centres of the tile, padded], as they lie in scratch: sums of SHARE q UNIT column x^
  const float* norms;      // [centres of the tile], likewise
  const float* x;          // [n, dim]
  const double* targets;   // [n, TARGET_FIELDS]
  const float* sigma;      // [n]
  const double* stats;     // stats[1] is the gain that `column` was divided by
  const int* order;        // [n], rows in the order of their labels
  const unsigned* sorted;  // [n], labels in that order
  void* w;                 // [centres of the tile, dim]
  float* first;            // of that shape: the gradient; SGD's momentum or null; Adam's first moment
  float* second;           // Adam's second moment
  float* tops;             // AMSGrad's largest second moment, or null
  double scale;
  float numbers[8];        // SGD: rate, decay, momentum, keep, take; Adam: AdamNumbers
  int kind, storage, centres;  // `centres` of the tile; 0: nothing to do
  int flag;                // STEP_GRADIENT: add; STEP_SGD: Nesterov
  int n, dim, padded, first_class;
  SubCentres subs;
  int sphere, unused;
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

// Hands the gradient of a centre, four dimensions from `d` on at a time, to `use(d, gradient)`. By a warp; `w` is the centre's
// row. bulk: (s / |w|) (r - w^ (w^ . r)), r = sum_i sigma_i q_i x^_i; then the rows of this class in their order.
template <class T, class Use>
__device__ __forceinline__ void centre_gradient(const Step& of, int row, const T* w, bool fours, Use use) {
  const int lane = threadIdx.x & 31;
  const int scratch = scratch_row(of.subs, row), sub = row % of.subs.count;
  const float* raw = of.raw + (long long)scratch * of.padded;
  const float norm = of.norms[scratch], sw = 1.0f / fmaxf(norm, SHORTEST);
  const float gain = (float)(of.stats[1] / ((double)SHARE * UNIT) * of.scale * sw);
  float dot = 0.0f;
#pragma unroll 4
  for (int d = 4 * lane; d < of.dim; d += 128) {
    const Four r = load_four(raw, d, of.padded, true), v = load_four(w, d, of.dim, fours);
#pragma unroll
    for (int i = 0; i < 4; i++) dot = fmaf(r.v[i], v.v[i] * sw, dot);
  }
  dot = norm > SHORTEST ? warp_sum(dot) : 0.0f;
  const unsigned label = (unsigned)(of.first_class + row / of.subs.count);
  const int first = lower_bound(of.sorted, of.n, label);
  for (int d = 4 * lane; d < of.dim; d += 128) {
    const Four r = load_four(raw, d, of.padded, true), v = load_four(w, d, of.dim, fours);
    Four gradient;
#pragma unroll
    for (int i = 0; i < 4; i++) gradient.v[i] = __fmul_rn(gain, fmaf(-dot, v.v[i] * sw, r.v[i]));
    // Few centres have rows of their own; for them f64, as the target's part wants.
    for (int at = first; at < of.n && of.sorted[at] == label; at++) {
      const int i = of.order[at];
      const double* target = of.targets + (long long)i * TARGET_FIELDS;
      if (target[TARGET_SINE] < NO_TANGENT || (int)target[TARGET_SUB] != sub) continue;
      const double x_norm = target[TARGET_X_NORM], sx = 1.0 / fmax(x_norm, (double)SHORTEST);
      const double pull = (double)of.sigma[i] * of.scale * target[TARGET_SLOPE] / target[TARGET_SINE] * sw *
                          (of.sphere ? x_norm : 1.0);
      const double w_norm = target[TARGET_W_NORM], length = fmax(w_norm, (double)SHORTEST);
      const double along = projected(w_norm, target[TARGET_COSINE]);
#pragma unroll
      for (int k = 0; k < 4; k++) {
        const double xu = d + k < of.dim ? __dmul_rn((double)of.x[(long long)i * of.dim + d + k], sx) : 0.0;
        gradient.v[k] -= (float)(pull * fma(-along, (double)v.v[k] / length, xu));
      }
    }
    use(d, gradient);
  }
}

// A tile's gradient, by all warps of a grid, of which this is number `warp` of `warps`.
template <class T>
__device__ __forceinline__ void gradient_tile(const Step& of, const T* w, bool fours, int warp, int warps) {
  for (int row = warp; row < of.centres; row += warps) {
    const long long start = (long long)row * of.dim;
    float* out = of.first + start;
    centre_gradient(of, row, w + start, fours, [&](int d, Four g) {
      if (of.flag) {
        const Four before = load_four(out, d, of.dim, fours);
#pragma unroll
        for (int i = 0; i < 4; i++) g.v[i] += before.v[i];
      }
      store_four(out, d, of.dim, fours, g);
    });
  }
}

// An optimizer's step of a tile of centres in f32. A loss that is no number, or a label that is no class, moves nothing.
__device__ __forceinline__ void move_tile(const Step& of, bool fours, int warp, int warps) {
  if (of.centres == 0 || of.stats[0] - of.stats[0] != 0.0) return;
  const bool adam = of.kind == STEP_ADAM, buffered = of.first != nullptr, amsgrad = of.tops != nullptr;
  for (int row = warp; row < of.centres; row += warps) {
    const long long start = (long long)row * of.dim;
    float* w = static_cast<float*>(of.w) + start;
    float* first = buffered ? of.first + start : nullptr;
    float* second = adam ? of.second + start : nullptr;
    float* tops = amsgrad ? of.tops + start : nullptr;
    centre_gradient(of, row, static_cast<const float*>(w), fours, [&](int d, const Four& g) {
      Four value = load_four(w, d, of.dim, fours), a{}, b{}, c{};
      if (buffered) a = load_four(first, d, of.dim, fours);
      if (adam) {
        b = load_four(second, d, of.dim, fours);
        if (amsgrad) c = load_four(tops, d, of.dim, fours);
        const AdamNumbers numbers{of.numbers[0], of.numbers[1], of.numbers[2], of.numbers[3],
                                  of.numbers[4], of.numbers[5], of.numbers[6], of.numbers[7]};
#pragma unroll
        for (int i = 0; i < 4; i++) adam_element(g.v[i], value.v[i], a.v[i], b.v[i], c.v[i], amsgrad, numbers);
        store_four(second, d, of.dim, fours, b);
        if (amsgrad) store_four(tops, d, of.dim, fours, c);
      } else {
        const SgdNumbers numbers{of.numbers[0], of.numbers[1], of.numbers[2], of.numbers[3], of.numbers[4], of.flag};
#pragma unroll
        for (int i = 0; i < 4; i++) sgd_element(g.v[i], value.v[i], a.v[i], buffered, numbers);
      }
      store_four(w, d, of.dim, fours, value);
      if (buffered) store_four(first, d, of.dim, fours, a);
    });
  }
}

// Whether all that a step touches of the centres can be loaded four at a time.
__device__ __forceinline__ bool step_in_fours(const Step& of) {
  return in_fours(static_cast<const float*>(of.w), of.dim) && in_fours(of.first, of.dim) && in_fours(of.second, of.dim) &&
         in_fours(of.tops, of.dim);
}
