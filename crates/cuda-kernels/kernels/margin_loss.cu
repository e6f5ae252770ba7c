// Margin softmax: the losses, and what of each row the gradients want.
#include "margin.cuh"

// What the loss's kernel reports, doubles.
enum LossStat { STAT_VALUE, STAT_GAIN, STAT_RIGHT, STAT_ACTIVE, STAT_BAD_ROW, STATS };

constexpr int LOSS_THREADS = 1024;
// Where the first row with a bad label is said to be if there is none.
constexpr double LATE = 4e9;

// Value or maximum over groups of `lanes` neighbours.
template <bool MAXIMUM, class T>
__device__ __forceinline__ T over_lanes(T v, int lanes) {
  for (int step = 1; step < lanes; step <<= 1) {
    const T other = __shfl_xor_sync(ALL_LANES, v, step);
    v = !MAXIMUM ? v + other : other > v ? other : v;
  }
  return v;
}

// Value or maximum over the block in thread order; every thread gets it. `warps`: LOSS_THREADS / 32 doubles.
template <bool MAXIMUM>
__device__ __forceinline__ double over_block(double v, double* warps) {
#pragma unroll
  for (int step = 16; step > 0; step >>= 1) {
    const double other = __shfl_xor_sync(ALL_LANES, v, step);
    v = MAXIMUM ? fmax(v, other) : v + other;
  }
  __syncthreads();  // the previous round's values have been read
  if ((threadIdx.x & 31) == 0) warps[threadIdx.x >> 5] = v;
  __syncthreads();
  double all = warps[0];
  for (int warp = 1; warp < LOSS_THREADS / 32; warp++) all = MAXIMUM ? fmax(all, warps[warp]) : all + warps[warp];
  return all;
}

// From the splits' maxima and sums: lse [n] (times log2 e; -LARGEST where no class but the own one exists), losses
// [n], sigma [n] (with the sample's `weights` and its class's of `class_weights`, null for 1, and upstream / n), and `column` [n], sigma (times |x| for
// SphereFace) divided by the largest of its magnitudes, which is stats[STAT_GAIN]: the factors of the rows that make the
// centres' gradient. stats [STATS]: mean loss, gain, rows whose own class leads, rows with a gradient, and the first row
// whose label is no class (n or more where there is none). One block; where it has more threads than rows, `lanes` of them
// (a power of 2, at most a warp) share the splits of a row.
extern "C" __global__ void __launch_bounds__(LOSS_THREADS)
    margin_loss(const float* __restrict__ tops, const float* __restrict__ sums, const double* __restrict__ targets,
                const float* __restrict__ weights, const unsigned* __restrict__ labels,
                const float* __restrict__ class_weights, float* __restrict__ lse, float* __restrict__ losses,
                float* __restrict__ sigma, float* __restrict__ column, double* __restrict__ stats, int n, int classes,
                int splits, int lanes, double scale, int sphere, double upstream) {
  __shared__ double warps[LOSS_THREADS / 32];
  double value = 0.0, gain = 0.0, right = 0.0, active = 0.0, bad = -LATE;
  const int share = (int)threadIdx.x % lanes, rows = LOSS_THREADS / lanes;
  for (int start = 0; start < n; start += rows) {
    const int row = start + (int)threadIdx.x / lanes;
    const bool there = row < n;
    float most = -LARGEST;
#pragma unroll 8
    for (int split = share; split < splits; split += lanes)
      most = fmaxf(most, there ? tops[(long long)split * n + row] : -LARGEST);
    most = over_lanes<true>(most, lanes);
    double total = 0.0;
#pragma unroll 8
    for (int split = share; split < splits; split += lanes) {
      const long long at = (long long)split * n + row;
      total += there ? (double)(sums[at] * exp2_fast(tops[at] - most)) : 0.0;
    }
    total = over_lanes<false>(total, lanes);
    if (!there || share > 0) continue;
    const double* target = targets + (long long)row * TARGET_FIELDS;
    // `total` is 0 where there is no other class, and NaN must stay NaN.
    const double log2_sum = total == 0.0 ? -(double)LARGEST : (double)most + log2(total);
    const double gap = log2_sum * 0.693147180559945309 - target[TARGET_LOGIT];
    const double loss = gap > 0.0 ? gap + log1p(exp(-gap)) : log1p(exp(gap));
    const double wrong = 1.0 / (1.0 + exp(-gap));
    const bool weighs = class_weights && labels[row] < (unsigned)classes;
    const double of_class = weighs ? (double)class_weights[labels[row]] : 1.0;
    const double weight = (weights ? (double)weights[row] : 1.0) * of_class / n, norm = sphere ? target[TARGET_X_NORM] : 1.0;
    lse[row] = (float)log2_sum;
    losses[row] = (float)fmin(loss, (double)LARGEST);
    if (loss != loss) losses[row] = (float)loss;
    sigma[row] = (float)(wrong * weight * upstream);
    value += loss * weight;
    gain = fmax(gain, fabs(wrong * weight * upstream) * norm);
    right += (double)most * 0.693147180559945309 <= scale * norm * target[TARGET_COSINE] ? 1.0 : 0.0;
    active += wrong > 1e-6 ? 1.0 : 0.0;
    if (target[TARGET_SUB] < 0.0) bad = fmax(bad, -(double)row);
  }
  gain = over_block<true>(gain, warps);
  value = over_block<false>(value, warps);
  right = over_block<false>(right, warps);
  active = over_block<false>(active, warps);
  bad = over_block<true>(bad, warps);
  for (int row = threadIdx.x; row < n; row += LOSS_THREADS) {
    const double norm = sphere ? targets[(long long)row * TARGET_FIELDS + TARGET_X_NORM] : 1.0;
    column[row] = gain > 0.0 ? (float)((double)sigma[row] * norm / gain) : 0.0f;
  }
  if (threadIdx.x == 0) {
    // A bad label makes the value NaN, on which no optimizer's kernel moves a centre.
    stats[STAT_VALUE] = bad > -LATE ? (double)__int_as_float(0x7fc00000) : value;
    stats[STAT_BAD_ROW] = -bad;
    stats[STAT_GAIN] = gain;
    stats[STAT_RIGHT] = right;
    stats[STAT_ACTIVE] = active;
  }
}
EXPORT_KERNEL(margin_loss)
