// Pooling of a row of values to one, and back: what maps (a warp a row) and tokens (a thread a row) share.
//
// GeM (Radenovic, Tolias and Chum 2019, equation 3) relative to the largest magnitude, so that no power overflows: with
// magnitudes c_i and signs q_i of the values, top = max c_i and u_i = c_i / top, y = top f(S), S = mean(q_i u_i^p),
// f(S) = S^(1/p); dy/dx_i = f'(S) p u_i^(p-1) / n, dy/dp = top (f'(S) mean(q_i u_i^p ln u_i) + df/dp).
// Powers are u^p = 2^(p log2 u) with the fast instructions: relative error about p 2^-22, products for p = 1 to 4.
#pragma once
#include "numeric.cuh"

enum Pooling { GEM, AVERAGE, MAXIMUM };
// What counts as the magnitude of a value: max(v, eps); v - min + eps; |v|, at least eps, with its sign.
enum Sign { CLAMP, SHIFT, SIGNED };

// Where the signed root becomes a straight line, as a share of the largest magnitude's power.
constexpr float STRAIGHT = 1e-3f;
constexpr int NOWHERE = 0x7fffffff;
constexpr float LEAST_P = 0.1f;

// What the forward pass leaves for the backward pass, a row. Mirrored by `pooling::SavedRow`.
struct Saved {
  float value;
  float d_p;    // d value / d p
  float top;    // largest c_i
  float low;    // smallest value
  float scale;  // SHIFT: 1/2 where the spread leaves f32
  float slope;  // f'(S) p / n; AVERAGE: 1 / n
  float extra;  // SIGNED: what the value at `place` receives beside its share
  int place;    // MAXIMUM: of the maximum; SHIFT: of the minimum; SIGNED: of the largest magnitude
};

// Mirrored by `pooling::GemArgument`.
struct GemOptions {
  float eps;
  int sign;
  int want_d_p;
  int powers;  // how many there are: row r has p[r % powers]
};

// A warp on one row. Everything is reduced to all lanes.
struct Warp {
  static __device__ __forceinline__ bool leads() { return (threadIdx.x & 31) == 0; }
  static __device__ __forceinline__ float sum(float v) { return warp_sum(v); }
  static __device__ __forceinline__ float largest(float v) { return warp_max(v); }
  static __device__ __forceinline__ int any(int v) { return __ballot_sync(ALL_LANES, v) != 0; }
  static __device__ __forceinline__ int first(int v) {
#pragma unroll
    for (int step = 16; step > 0; step >>= 1) v = min(v, __shfl_xor_sync(ALL_LANES, v, step));
    return v;
  }
  static __device__ __forceinline__ int count(int v) { return warp_sum(v); }
};
// A thread on one row.
struct Alone {
  static __device__ __forceinline__ bool leads() { return true; }
  static __device__ __forceinline__ float sum(float v) { return v; }
  static __device__ __forceinline__ float largest(float v) { return v; }
  static __device__ __forceinline__ int any(int v) { return v; }
  static __device__ __forceinline__ int first(int v) { return v; }
  static __device__ __forceinline__ int count(int v) { return v; }
};

__device__ __forceinline__ bool is_finite(float v) { return v - v == 0.0f; }
__device__ __forceinline__ float within_f32(float v) { return v != v ? v : fminf(fmaxf(v, -LARGEST), LARGEST); }

// u^p for u in [0, 1]; `log` is log2 u where it is needed.
__device__ __forceinline__ bool is_whole(float p) { return p == 0.0f || p == 1.0f || p == 2.0f || p == 3.0f || p == 4.0f; }
__device__ __forceinline__ float power(float u, float p, bool whole, float log) {
  if (!whole) return exp2_fast(p * log);
  if (p == 3.0f) return u * u * u;
  if (p == 2.0f) return u * u;
  if (p == 1.0f) return u;
  return p == 0.0f ? 1.0f : (u * u) * (u * u);
}

// Magnitudes relative to the largest.
struct Relative {
  float eps, low, scale, shrink, inverse;
  int sign;
  __device__ __forceinline__ Relative(const GemOptions& options, float top, float low, float scale)
      : eps(options.eps), low(low), scale(scale), sign(options.sign) {
    shrink = top > 1e37f ? 1.0f / 64.0f : 1.0f;  // 1 / top stays a normal number
    inverse = 1.0f / (top * shrink);
  }
  __device__ __forceinline__ float magnitude(float v) const {
    if (sign == SHIFT) return (v * scale - low * scale) + eps * scale;
    return fmaxf(sign == SIGNED ? fabsf(v) : v, eps);
  }
  __device__ __forceinline__ float of(float v) const { return (magnitude(v) * shrink) * inverse; }
};

// `row.each(f)` calls f(index, value) for each value, spread over the team.
template <class Team, class Row>
__device__ __forceinline__ Saved gem_forward(const Row& row, float p, const GemOptions& options) {
  Saved saved{0.0f, 0.0f, 1.0f, 0.0f, 1.0f, 0.0f, 0.0f, NOWHERE};
  float low = LARGEST, high = -LARGEST;
  int count = 0, odd = 0;
  row.each([&](int, float v) {
    low = fminf(low, v);
    high = fmaxf(high, v);
    odd |= !is_finite(v);
    count++;
  });
  count = Team::count(count);
  if (count == 0) return saved;
  if (Team::any(odd) || !is_finite(p)) {
    const float nan = __int_as_float(0x7fc00000);
    saved.value = saved.d_p = saved.slope = nan;
    return saved;
  }
  low = -Team::largest(-low);
  high = Team::largest(high);
  p = fmaxf(p, LEAST_P);
  const bool shift = options.sign == SHIFT, is_signed = options.sign == SIGNED;
  saved.scale = shift && !is_finite(high - low) ? 0.5f : 1.0f;
  saved.low = low;
  const float wide = is_signed ? fmaxf(high, -low) : high;
  saved.top = Relative(options, 1.0f, low, saved.scale).magnitude(wide);
  const Relative relative(options, saved.top, low, saved.scale);
  const bool whole = is_whole(p), logs = options.want_d_p || !whole;
  const float by_eps = 1.0f / options.eps;
  float sum = 0.0f, sum_logs = 0.0f;
  int place = NOWHERE;
  row.each([&](int i, float v) {
    const float u = relative.of(v), log = logs ? log2_fast(u) : 0.0f;
    float share = power(u, p, whole, log);
    // Below eps the signed power is a straight line: its slope at 0 is infinite for p < 1.
    if (is_signed) share *= fabsf(v) < options.eps ? v * by_eps : (v < 0.0f ? -1.0f : 1.0f);
    sum += share;
    sum_logs = fmaf(share, log, sum_logs);
    if (shift ? v == low : is_signed && fabsf(v) == saved.top) place = min(place, i);
  });
  const float n = (float)count, mean = Team::sum(sum) / n, mean_log = Team::sum(sum_logs) * 0.693147181f / n;
  place = Team::first(place);
  float root, d_root, root_d_p, extra = 0.0f;
  const float size = fabsf(mean);
  if (is_signed && size < STRAIGHT) {
    d_root = exp2f((1.0f / p - 1.0f) * -9.96578428f);  // STRAIGHT^(1/p - 1)
    root = mean * d_root;
    root_d_p = root * 6.90775528f / (p * p);  // -root ln(STRAIGHT) / p^2
    extra = root * (1.0f - p);
  } else {
    const float log = log2f(fmaxf(size, 1e-37f));
    root = exp2f(log / p);
    root = mean < 0.0f ? -root : root;
    d_root = root / (p * mean);
    root_d_p = -root * (log * 0.693147181f) / (p * p);
  }
  const float top = saved.top / saved.scale;
  saved.value = within_f32(top * root);
  saved.d_p = options.want_d_p ? within_f32(top * fmaf(d_root, mean_log, root_d_p)) : 0.0f;
  saved.slope = within_f32(d_root * p / n);
  if (shift) saved.value = within_f32(fmaf(top, root, low - options.eps));
  if (shift) saved.place = place;
  if (extra != 0.0f && place != NOWHERE) {
    // The straight part moves with the largest magnitude (unless that is eps).
    saved.place = place;
    saved.extra = extra;
  }
  return saved;
}

// Writes upstream * dy/dx. `row.map(out, f)` writes f(index, value) for each value.
template <class Team, class Row, class T>
__device__ __forceinline__ void gem_backward(const Row& row, float p, const GemOptions& options, const Saved& saved,
                                             float upstream, T* dx) {
  p = fmaxf(p, LEAST_P);
  const bool shift = options.sign == SHIFT, is_signed = options.sign == SIGNED, whole = is_whole(p - 1.0f);
  const Relative relative(options, saved.top, saved.low, saved.scale);
  const float factor = within_f32(saved.slope * upstream);
  const float below = shift ? factor : is_signed ? factor / p : factor * 0.0f;  // NaN stays NaN
  float others = 0.0f;
  auto slope = [&](int i, float v) {
    const float u = relative.of(v), share = power(u, p - 1.0f, whole, whole ? 0.0f : log2_fast(u));
    float d = within_f32(((is_signed ? fabsf(v) : v) < options.eps ? below : factor) * share);
    if (is_signed && i == saved.place) d += (v < 0.0f ? -saved.extra : saved.extra) * upstream;
    return d;
  };
  // SHIFT's minimum is subtracted everywhere and added back: it gets what the others leave.
  if (shift) {
    row.each([&](int i, float v) { others += i == saved.place ? 0.0f : slope(i, v); });
    others = Team::sum(others);
  }
  row.map(dx, [&](int i, float v) { return shift && i == saved.place ? upstream - others : slope(i, v); });
}

template <class Team, class Row>
__device__ __forceinline__ Saved average_forward(const Row& row) {
  Saved saved{0.0f, 0.0f, 1.0f, 0.0f, 1.0f, 0.0f, 0.0f, NOWHERE};
  float sum = 0.0f;
  int count = 0;
  row.each([&](int, float v) {
    sum += v;
    count++;
  });
  count = Team::count(count);
  sum = Team::sum(sum);
  if (count == 0) return saved;
  saved.slope = 1.0f / (float)count;
  saved.value = sum / (float)count;
  return saved;
}

// The first of equal maxima; the first NaN, if there is one.
template <class Team, class Row>
__device__ __forceinline__ Saved maximum_forward(const Row& row) {
  Saved saved{0.0f, 0.0f, 1.0f, 0.0f, 1.0f, 0.0f, 0.0f, NOWHERE};
  const float infinity = __int_as_float(0x7f800000);
  float high = -infinity;
  int at = NOWHERE, odd = NOWHERE;
  row.each([&](int i, float v) {
    if (v != v) odd = min(odd, i);
    // A team's member sees its values in ascending order of place.
    if (v > high || (v == high && i < at)) high = v, at = i;
  });
  odd = Team::first(odd);
  const float highest = Team::largest(high);
  at = Team::first(high == highest ? at : NOWHERE);
  saved.place = odd != NOWHERE ? odd : at;
  saved.value = odd != NOWHERE ? __int_as_float(0x7fc00000) : at != NOWHERE ? highest : 0.0f;
  return saved;
}

template <Pooling KIND, class Team, class Row>
__device__ __forceinline__ Saved pool_forward(const Row& row, float p, const GemOptions& options) {
  if (KIND == GEM) return gem_forward<Team>(row, p, options);
  if (KIND == AVERAGE) return average_forward<Team>(row);
  return maximum_forward<Team>(row);
}

template <Pooling KIND, class Team, class Row, class T>
__device__ __forceinline__ void pool_backward(const Row& row, float p, const GemOptions& options, const Saved& saved,
                                              float upstream, T* dx) {
  if (KIND == GEM) {
    gem_backward<Team>(row, p, options, saved, upstream, dx);
  } else if (KIND == AVERAGE) {
    const float each = saved.slope * upstream;
    row.map(dx, [&](int, float) { return each; });
  } else {
    row.map(dx, [&](int i, float) { return i == saved.place ? upstream : 0.0f; });
  }
}
