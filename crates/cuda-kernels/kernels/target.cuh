// Margin softmax: each row against its own centre, in f64 and in tangent form. A warp a row.
#pragma once
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

// A row and the nearest of its class's centres.
struct Found {
  double cosine, sine, x_norm, w_norm;
  int nearest;
  bool valid;  // the label is a class
};

// x is [n, dim], w [classes * subs, dim].
template <class T>
__device__ __forceinline__ Found find_target(const float* x, const T* w, const unsigned* labels, int row, int dim,
                                             int classes, int subs) {
  const int lane = threadIdx.x & 31;
  const bool x_fours = in_fours(x, dim), w_fours = in_fours(w, dim);
  const unsigned label = labels[row];
  const bool valid = label < (unsigned)classes;
  const float* xr = x + (long long)row * dim;
  const T* wr = w + (long long)(valid ? label : 0u) * subs * dim;
  double x_norm = 0.0, w_norm = 0.0, sx = 0.0, sw = 0.0, cosine = 0.0;
  int nearest = 0;
  for (int sub = 0; sub < subs; sub++) {
    const T* own = wr + (long long)sub * dim;
    double xx = 0.0, ww = 0.0, xw = 0.0;
#pragma unroll 4
    for (int d = 4 * lane; d < dim; d += 128) {
      const Four xs = load_four(xr, d, dim, x_fours), ws = load_four(own, d, dim, w_fours);
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const double a = xs.v[i], b = ws.v[i];
        xx = fma(a, a, xx);
        ww = fma(b, b, ww);
        xw = fma(a, b, xw);
      }
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
#pragma unroll 4
  for (int d = 4 * lane; d < dim; d += 128) {
    const Four xs = load_four(xr, d, dim, x_fours), ws = load_four(wr, d, dim, w_fours);
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const double t = fma(-__dmul_rn(cosine, (double)xs.v[i]), sx, __dmul_rn((double)ws.v[i], sw));
      squares = fma(t, t, squares);
    }
  }
  const double clamped = fmin(fmax(cosine, -1.0), 1.0);
  const double sine = sqrt(floored ? fma(-clamped, clamped, 1.0) : warp_sum(squares));
  return {cosine, sine, x_norm, w_norm, nearest, valid};
}

// Fills targets [n, TARGET_FIELDS] and row_scale [n] (scale [* |x|] * log2 e, for products of unit rows) for a row. Where
// the label is no class the row's target stays at zero and its TARGET_SUB is -1.
__device__ __forceinline__ void write_target(const Found& found, const Margin& margin, double* targets,
                                             float* row_scale, int row) {
  if ((threadIdx.x & 31) == 0) {
    const bool valid = found.valid;
    double value = 0.0, slope = 0.0, along = 0.0;
    if (valid) apply_margin(margin, found.cosine, found.sine, found.x_norm, value, slope, along);
    double* out = targets + (long long)row * TARGET_FIELDS;
    out[TARGET_COSINE] = valid ? found.cosine : 0.0;
    out[TARGET_SINE] = valid ? found.sine : 0.0;
    out[TARGET_SLOPE] = slope;
    out[TARGET_ALONG] = along;
    out[TARGET_LOGIT] = margin.scale * value;
    out[TARGET_X_NORM] = found.x_norm;
    out[TARGET_W_NORM] = found.w_norm;
    out[TARGET_SUB] = valid ? found.nearest : -1;
    row_scale[row] = (float)(margin.scale * (margin.kind == SPHERE ? found.x_norm : 1.0)) * (LOG2_E * COSINE);
  }
}

// What the loss being known allows of each row, before any centre moves: the row of unit length times `column`
// (margin_loss), and the target's part of the embeddings' gradient. Mirrored by `margin::jobs::Weighting`.
struct Weighting {
  const float* x;            // [n, dim]
  const void* w;             // [classes * subs, dim]
  const unsigned* labels;    // [n]
  const double* targets;     // [n, TARGET_FIELDS]
  const float* sigma;        // [n], with the sample's weight and the upstream gradient
  const float* column;       // [n]
  f16* high;                 // [n], `width` values from row to row; null where no centre moves
  f16* low;
  float* dx;                 // [n, dim], or null
  double scale;
  int storage, n, dim, padded, width, classes, subs, sphere, accumulate;
};

// The target's part of a row's gradient, added to `dx` if `accumulate`. With the unit tangent t = (w^ - c x^) /
// sin(theta): -sigma s slope t / |x|; SphereFace: -sigma s (slope t + psi x^).
template <class T>
__device__ __forceinline__ void target_gradient(const Weighting& of, const T* w, bool fours, int row) {
  const double* target = of.targets + (long long)row * TARGET_FIELDS;
  const unsigned label = of.labels[row] < (unsigned)of.classes ? of.labels[row] : 0u;
  const float* xr = of.x + (long long)row * of.dim;
  const T* wr = w + ((long long)label * of.subs + max((int)target[TARGET_SUB], 0)) * of.dim;
  const double sx = 1.0 / fmax(target[TARGET_X_NORM], (double)SHORTEST);
  const double sw = 1.0 / fmax(target[TARGET_W_NORM], (double)SHORTEST);
  const double cosine = projected(target[TARGET_X_NORM], target[TARGET_COSINE]), sine = target[TARGET_SINE];
  const double strength = (double)of.sigma[row] * of.scale;
  const double tangent = sine < NO_TANGENT ? 0.0 : target[TARGET_SLOPE] / sine * (of.sphere ? 1.0 : sx);
  float* out = of.dx + (long long)row * of.dim;
#pragma unroll 2
  for (int d = 4 * (int)(threadIdx.x & 31); d < of.dim; d += 128) {
    const Four xs = load_four(xr, d, of.dim, fours), ws = load_four(wr, d, of.dim, fours);
    Four gradient = of.accumulate ? load_four(out, d, of.dim, fours) : Four{};
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const double xu = __dmul_rn((double)xs.v[i], sx), wu = __dmul_rn((double)ws.v[i], sw);
      const double pull = fma(tangent, fma(-cosine, xu, wu), __dmul_rn(target[TARGET_ALONG], xu));
      gradient.v[i] -= (float)(strength * pull);
    }
    store_four(out, d, of.dim, fours, gradient);
  }
}

template <class T>
__device__ __forceinline__ void weigh_rows(const Weighting& of, const T* w, bool fours, int warp, int warps) {
  for (int row = warp; row < of.n; row += warps) {
    if (of.high) {
      const long long at = (long long)row * of.width;
      const UnitRow to{of.high + at, of.low ? of.low + at : nullptr, nullptr};
      write_unit(of.x + (long long)row * of.dim, fours, of.column[row], to, of.dim, of.padded);
    }
    if (of.dx) target_gradient(of, w, fours, row);
  }
}

// The bulk's part of the embeddings' gradient: (sigma s / |x|) (r - x^ (x^ . r)), r = sum_j q_j w^_j; SphereFace's logits
// are linear in the embedding: sigma s r. Mirrored by `margin::jobs::Bulk`.
struct Bulk {
  const float* x;         // [n, dim]
  const double* targets;  // [n, TARGET_FIELDS]
  const float* sigma;     // [n]
  const float* raw;       // [parts, n, padded], sums of SHARE q UNIT w^, added up in order
  float* dx;              // [n, dim], to which it is added
  double scale;
  int n, dim, padded, parts, sphere, unused;
};

// The parts' sum of four dimensions from `d` on.
__device__ __forceinline__ void add_parts(const Bulk& of, int row, int d, double (&sum)[4]) {
  const float* raw = of.raw + (long long)row * of.padded;
#pragma unroll
  for (int i = 0; i < 4; i++) sum[i] = 0.0;
#pragma unroll 8
  for (int part = 0; part < of.parts; part++) {
    const Four r = load_four(raw + (long long)part * of.n * of.padded, d, of.padded, true);
#pragma unroll
    for (int i = 0; i < 4; i++) sum[i] += (double)r.v[i];
  }
}

// Dimensions whose sums stay in registers from the first pass over a row to the second.
constexpr int KEPT = 4;

__device__ __forceinline__ void bulk_gradient(const Bulk& of, int row) {
  const int first = 4 * (int)(threadIdx.x & 31);
  const bool fours = in_fours(of.x, of.dim) && in_fours(of.dx, of.dim);
  const double x_norm = of.targets[(long long)row * TARGET_FIELDS + TARGET_X_NORM];
  const double sx = 1.0 / fmax(x_norm, (double)SHORTEST);
  const float* xr = of.x + (long long)row * of.dim;
  float* out = of.dx + (long long)row * of.dim;
  double kept[KEPT][4], dot = 0.0;
  auto along = [&](int d, double (&sum)[4]) {
    add_parts(of, row, d, sum);
    const Four xs = load_four(xr, d, of.dim, fours);
#pragma unroll
    for (int i = 0; i < 4; i++) dot = fma(sum[i], (double)xs.v[i], dot);
  };
#pragma unroll
  for (int k = 0; k < KEPT; k++)
    if (first + 128 * k < of.dim) along(first + 128 * k, kept[k]);
  for (int d = first + 128 * KEPT; d < of.dim; d += 128) {
    double sum[4];
    along(d, sum);
  }
  dot = warp_sum(dot);
  if (of.sphere || !(x_norm > (double)SHORTEST)) dot = 0.0;
  dot *= sx;
  const double strength = (double)of.sigma[row] * of.scale / ((double)SHARE * UNIT) * (of.sphere ? 1.0 : sx);
  auto add = [&](int d, const double (&sum)[4]) {
    const Four xs = load_four(xr, d, of.dim, fours);
    Four gradient = load_four(out, d, of.dim, fours);
#pragma unroll
    for (int i = 0; i < 4; i++) gradient.v[i] += (float)(strength * (sum[i] - dot * (double)xs.v[i] * sx));
    store_four(out, d, of.dim, fours, gradient);
  };
#pragma unroll
  for (int k = 0; k < KEPT; k++)
    if (first + 128 * k < of.dim) add(first + 128 * k, kept[k]);
  for (int d = first + 128 * KEPT; d < of.dim; d += 128) {
    double sum[4];
    add_parts(of, row, d, sum);
    add(d, sum);
  }
}
