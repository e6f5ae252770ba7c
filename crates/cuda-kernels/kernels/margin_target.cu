// Margin softmax: each row against its own centre, in f64 and in tangent form; the losses; the embeddings' gradient.
#include "margin.cuh"

// The logit with margin and its slope from c = cos(theta) and s = sin(theta) as found (s >= 0, c^2 + s^2 = 1 but for
// rounding). Angles come from both, never from acos: that loses the gradient near 0 and pi.
__device__ __forceinline__ void apply_margin(const Margin& margin, double c, double s, double x_norm, double& value,
                                             double& slope, double& along) {
  along = 0.0;
  if (margin.kind == COS) {
    value = c - margin.m;
    slope = s;
  } else if (margin.kind == ARC) {
    const double length = sqrt(c * c + s * s), inverse = length > 0.0 ? 1.0 / length : 0.0;
    const double cosine = c * inverse, sine = s * inverse;
    const double cos_sum = cosine * margin.cos_m - sine * margin.sin_m;
    const double sin_sum = sine * margin.cos_m + cosine * margin.sin_m;
    const bool beyond = sin_sum < 0.0;  // theta + m > pi
    value = beyond && margin.edge == JUMP         ? c - margin.m * margin.sin_m
            : beyond && margin.edge == CONTINUOUS ? c - (1.0 - margin.cos_m)
                                                  : cos_sum;
    slope = margin.straight || (beyond && margin.edge != NONE) ? s : sin_sum;
  } else {
    const double m = margin.multiplier;
    const double turns = atan2(s, c) * 0.318309886183790672 * m;  // m theta / pi
    const double k = fmin(floor(turns), m - 1.0);
    const double sign = (int)k & 1 ? -1.0 : 1.0;
    const double psi = sign * cospi(turns) - 2.0 * k;
    value = x_norm * psi;
    slope = m * sign * sinpi(turns);
    along = psi;
  }
}

// Fills `targets` [n, TARGET_FIELDS] and `row_scale` [n] (scale [* |x|] * log2 e, for products of unit rows). x is
// [n, dim], w [classes, dim]. Where a label is not below `classes`, the row's target is left at zero and `bad_row`
// becomes the lowest such row. w is [classes * subs, dim]; the nearest of a class's centres counts. A warp a row.
template <class T>
__device__ __forceinline__ void margin_target(const float* x, const T* w, const unsigned* labels, Margin margin,
                                              double* targets, float* row_scale, int* bad_row, int n, int dim,
                                              int classes, int subs) {
  const int row = (int)((blockIdx.x * blockDim.x + threadIdx.x) >> 5), lane = threadIdx.x & 31;
  if (row >= n) return;
  const unsigned label = labels[row];
  const bool valid = label < (unsigned)classes;
  const float* xr = x + (long long)row * dim;
  const T* wr = w + (long long)(valid ? label : 0u) * subs * dim;
  double x_norm = 0.0, w_norm = 0.0, sx = 0.0, sw = 0.0, cosine = 0.0;
  int nearest = 0;
  for (int sub = 0; sub < subs; sub++) {
    const T* own = wr + (long long)sub * dim;
    double xx = 0.0, ww = 0.0, xw = 0.0;
    for (int d = lane; d < dim; d += 32) {
      const double a = xr[d], b = to_f32(own[d]);
      xx = fma(a, a, xx);
      ww = fma(b, b, ww);
      xw = fma(a, b, xw);
    }
    x_norm = sqrt(warp_sum(xx));
    const double norm = sqrt(warp_sum(ww)), inverse = 1.0 / fmax(norm, (double)SHORTEST);
    sx = 1.0 / fmax(x_norm, (double)SHORTEST);
    const double found = warp_sum(xw) * sx * inverse;
    // NaN must not hide behind a number.
    if (sub == 0 || found > cosine || found != found) {
      cosine = found;
      w_norm = norm;
      sw = inverse;
      nearest = sub;
    }
  }
  wr += (long long)nearest * dim;
  // Rows that are shorter than 1 once they are divided by SHORTEST: only the cosine says what the angle is.
  const bool floored = x_norm <= (double)SHORTEST || w_norm <= (double)SHORTEST;
  double squares = 0.0;
  for (int d = lane; d < dim; d += 32) {
    const double t = (double)to_f32(wr[d]) * sw - cosine * (double)xr[d] * sx;
    squares = fma(t, t, squares);
  }
  const double clamped = fmin(fmax(cosine, -1.0), 1.0);
  const double sine = sqrt(floored ? 1.0 - clamped * clamped : warp_sum(squares));
  if (lane == 0) {
    double value = 0.0, slope = 0.0, along = 0.0;
    if (valid) apply_margin(margin, cosine, sine, x_norm, value, slope, along);
    else atomicMin(bad_row, row);
    double* out = targets + (long long)row * TARGET_FIELDS;
    out[TARGET_COSINE] = valid ? cosine : 0.0;
    out[TARGET_SINE] = valid ? sine : 0.0;
    out[TARGET_SLOPE] = slope;
    out[TARGET_ALONG] = along;
    out[TARGET_LOGIT] = margin.scale * value;
    out[TARGET_X_NORM] = x_norm;
    out[TARGET_W_NORM] = w_norm;
    out[TARGET_SUB] = nearest;
    row_scale[row] = (float)(margin.scale * (margin.kind == SPHERE ? x_norm : 1.0)) * (LOG2_E * COSINE);
  }
}

// The target's part of the embeddings' gradient [n, dim], added to `dx` if `accumulate`: it wants the centres as they
// were, so it comes before any of them moves. sigma [n] carries the sample's weight and the upstream gradient. With the
// unit tangent t = (w^ - c x^) / sin(theta): -sigma s slope t / |x|; SphereFace: -sigma s (slope t + psi x^).
template <class T>
__device__ __forceinline__ void margin_target_gradient(const float* x, const T* w, const unsigned* labels,
                                                       const double* targets, const float* sigma, float* dx, int n,
                                                       int dim, int classes, int subs, double scale, int sphere,
                                                       int accumulate) {
  const int row = (int)((blockIdx.x * blockDim.x + threadIdx.x) >> 5), lane = threadIdx.x & 31;
  if (row >= n) return;
  const double* target = targets + (long long)row * TARGET_FIELDS;
  const unsigned label = labels[row] < (unsigned)classes ? labels[row] : 0u;
  const float* xr = x + (long long)row * dim;
  const T* wr = w + ((long long)label * subs + (int)target[TARGET_SUB]) * dim;
  const double sx = 1.0 / fmax(target[TARGET_X_NORM], (double)SHORTEST);
  const double sw = 1.0 / fmax(target[TARGET_W_NORM], (double)SHORTEST);
  const double cosine = projected(target[TARGET_X_NORM], target[TARGET_COSINE]), sine = target[TARGET_SINE];
  const double strength = (double)sigma[row] * scale;
  const double tangent = sine < NO_TANGENT ? 0.0 : target[TARGET_SLOPE] / sine * (sphere ? 1.0 : sx);
  for (int d = lane; d < dim; d += 32) {
    const double xu = (double)xr[d] * sx, wu = (double)to_f32(wr[d]) * sw;
    const double pull = tangent * (wu - cosine * xu) + target[TARGET_ALONG] * xu;
    float* out = dx + (long long)row * dim + d;
    *out = (accumulate ? *out : 0.0f) - (float)(strength * pull);
  }
}

// The bulk's part, added to `dx`: (sigma s / |x|) (r - x^ (x^ . r)), r = sum_j q_j w^_j; SphereFace's logits are linear
// in the embedding: sigma s r. raw: [parts, n, padded], sums of SHARE q UNIT w^, added up in order. A warp a row.
extern "C" __global__ void __launch_bounds__(256)
    margin_bulk_gradient(const float* __restrict__ x, const double* __restrict__ targets,
                         const float* __restrict__ sigma, const float* __restrict__ raw, float* __restrict__ dx, int n,
                         int dim, int padded, int parts, double scale, int sphere) {
  const int row = (int)((blockIdx.x * blockDim.x + threadIdx.x) >> 5), lane = threadIdx.x & 31;
  if (row >= n) return;
  const double x_norm = targets[(long long)row * TARGET_FIELDS + TARGET_X_NORM];
  const double sx = 1.0 / fmax(x_norm, (double)SHORTEST);
  const float* xr = x + (long long)row * dim;
  auto bulk = [&](int d) {
    double sum = 0.0;
    for (int part = 0; part < parts; part++) sum += raw[((long long)part * n + row) * padded + d];
    return sum;
  };
  double dot = 0.0;
  for (int d = lane; d < dim; d += 32) dot = fma(bulk(d), (double)xr[d], dot);
  dot = !sphere && x_norm > (double)SHORTEST ? warp_sum(dot) * sx : 0.0;
  const double strength = (double)sigma[row] * scale / ((double)SHARE * UNIT) * (sphere ? 1.0 : sx);
  for (int d = lane; d < dim; d += 32)
    dx[(long long)row * dim + d] += (float)(strength * (bulk(d) - dot * (double)xr[d] * sx));
}
EXPORT_KERNEL(margin_bulk_gradient)

#define FOR_STORAGE(suffix, T)                                                                                      \
  extern "C" __global__ void __launch_bounds__(256) margin_target_##suffix(                                         \
      const float* __restrict__ x, const T* __restrict__ w, const unsigned* __restrict__ labels, Margin margin,     \
      double* __restrict__ targets, float* __restrict__ row_scale, int* __restrict__ bad_row, int n, int dim,       \
      int classes, int subs) {                                                                                      \
    margin_target(x, w, labels, margin, targets, row_scale, bad_row, n, dim, classes, subs);                        \
  }                                                                                                                 \
  EXPORT_KERNEL(margin_target_##suffix)                                                                             \
  extern "C" __global__ void __launch_bounds__(256) margin_target_gradient_##suffix(                                \
      const float* __restrict__ x, const T* __restrict__ w, const unsigned* __restrict__ labels,                    \
      const double* __restrict__ targets, const float* __restrict__ sigma, float* __restrict__ dx, int n, int dim,  \
      int classes, int subs, double scale, int sphere, int accumulate) {                                            \
    margin_target_gradient(x, w, labels, targets, sigma, dx, n, dim, classes, subs, scale, sphere, accumulate);     \
  }                                                                                                                 \
  EXPORT_KERNEL(margin_target_gradient_##suffix)
FOR_STORAGE(f32, float)
FOR_STORAGE(f16, f16)
FOR_STORAGE(bf16, bf16)

// What the loss's kernel reports, doubles.
enum LossStat { STAT_VALUE, STAT_GAIN, STAT_RIGHT, STAT_ACTIVE, STAT_BAD_ROW, STATS };

constexpr int LOSS_THREADS = 1024;

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
// centres' gradient. stats [STATS]: mean loss, gain, rows whose own class leads, rows with a gradient, `bad_row` of
// margin_target. One block.
extern "C" __global__ void __launch_bounds__(LOSS_THREADS)
    margin_loss(const float* __restrict__ tops, const float* __restrict__ sums, const double* __restrict__ targets,
                const float* __restrict__ weights, const unsigned* __restrict__ labels,
                const float* __restrict__ class_weights, float* __restrict__ lse, float* __restrict__ losses,
                float* __restrict__ sigma, float* __restrict__ column, double* __restrict__ stats,
                const int* __restrict__ bad_row, int n, int classes, int splits, double scale, int sphere,
                double upstream) {
  __shared__ double warps[LOSS_THREADS / 32];
  double value = 0.0, gain = 0.0, right = 0.0, active = 0.0;
  for (int row = threadIdx.x; row < n; row += LOSS_THREADS) {
    float most = -LARGEST;
    for (int split = 0; split < splits; split++) most = fmaxf(most, tops[(long long)split * n + row]);
    double total = 0.0;
    for (int split = 0; split < splits; split++) {
      const long long at = (long long)split * n + row;
      total += (double)(sums[at] * exp2_fast(tops[at] - most));
    }
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
  }
  gain = over_block<true>(gain, warps);
  value = over_block<false>(value, warps);
  right = over_block<false>(right, warps);
  active = over_block<false>(active, warps);
  for (int row = threadIdx.x; row < n; row += LOSS_THREADS) {
    const double norm = sphere ? targets[(long long)row * TARGET_FIELDS + TARGET_X_NORM] : 1.0;
    column[row] = gain > 0.0 ? (float)((double)sigma[row] * norm / gain) : 0.0f;
  }
  if (threadIdx.x == 0) {
    // A bad label makes the value NaN, on which no optimizer's kernel moves a centre.
    stats[STAT_VALUE] = *bad_row < n ? (double)__int_as_float(0x7fc00000) : value;
    stats[STAT_BAD_ROW] = *bad_row;
    stats[STAT_GAIN] = gain;
    stats[STAT_RIGHT] = right;
    stats[STAT_ACTIVE] = active;
  }
}
EXPORT_KERNEL(margin_loss)

// The rows in the order of their labels, equal ones in their own order: order [n], and sorted [n] the labels themselves.
// Each row counts those before it: n^2 comparisons, 16 million at n = 4096, and no dependence on timing.
extern "C" __global__ void __launch_bounds__(256)
    label_order(const unsigned* __restrict__ labels, int* __restrict__ order, unsigned* __restrict__ sorted, int n) {
  __shared__ unsigned tile[256];
  const int row = (int)(blockIdx.x * blockDim.x + threadIdx.x);
  const unsigned label = row < n ? labels[row] : 0u;
  int before = 0;
  for (int start = 0; start < n; start += 256) {
    __syncthreads();
    if (start + (int)threadIdx.x < n) tile[threadIdx.x] = labels[start + threadIdx.x];
    __syncthreads();
    const int count = min(256, n - start);
    for (int i = 0; i < count; i++) before += tile[i] < label || (tile[i] == label && start + i < row);
  }
  if (row < n) {
    order[before] = row;
    sorted[before] = label;
  }
}
EXPORT_KERNEL(label_order)
