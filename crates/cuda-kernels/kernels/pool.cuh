// Pooling of a row of values to one, and back: what maps and tokens share.
//
// GeM (Radenovic, Tolias and Chum 2019, equation 3) relative to the largest magnitude, so that no power overflows: with
// magnitudes c_i and signs q_i of the values, top = max c_i and u_i = c_i / top, y = top f(S), S = mean(q_i u_i^p),
// f(S) = S^(1/p); dy/dx_i = f'(S) p u_i^(p-1) / n, dy/dp = top (f'(S) mean(q_i u_i^p ln u_i) + df/dp).
// Powers are u^p = 2^(p log2 u) with the fast instructions: relative error about p 2^-22; products for whole p to 8. So
// is the root, with about 2^-22 / p.
#pragma once
#include "vector.cuh"

enum Pooling { GEM, AVERAGE, MAXIMUM };
// What counts as the magnitude of a value: max(v, eps); v - min + eps; |v|, at least eps, with its sign.
enum Sign { CLAMP, SHIFT, SIGNED };

// Where the signed root becomes a straight line, as a share of the largest magnitude's power.
constexpr float STRAIGHT = 1e-3f;
constexpr int NOWHERE = 0x7fffffff;
constexpr float LEAST_P = 0.1f;
// The least u: its logarithm is finite where the fast instructions take subnormal numbers for 0.
constexpr float LEAST_U = 1e-37f;
// The largest magnitude from which on its inverse might not be a normal number.
constexpr float HUGE_TOP = 1e37f;

// Up to this p |log2 top| whole powers neither overflow nor vanish: their sum needs no largest magnitude before it.
constexpr float PLAIN = 100.0f;

// What the forward pass finds of a row.
struct Saved {
  float value;  // what it is pooled to
  float d_p;    // d value / d p
  float top;    // largest c_i
  float low;    // smallest value
  float scale;  // SHIFT: 1/2 where the spread leaves f32
  float slope;  // f'(S) p / n; AVERAGE: 1 / n
  float extra;  // SIGNED: what the value at `place` receives beside its share; SHIFT: sum of the others' u^(p-1)
  int place;    // MAXIMUM: of the maximum; SHIFT: of the minimum; SIGNED: of the largest magnitude
};

// Mirrored by `pooling::GemArgument`.
struct GemOptions {
  float eps;
  int sign;
  int want_d_p;
  int powers;  // how many there are: row r has p[r % powers]
};

// What of it lies in memory for the backward pass: the fields that the pooling's reads, a plane [rows] of 4-byte numbers
// each, in this order. AVERAGE has SLOPE alone and MAXIMUM PLACE alone, both as their first; GEM with CLAMP has SLOPE and TOP, and
// D_P where p learns; the other signs have all. Mirrored by `pooling::planes`.
enum Plane { SLOPE, TOP, D_P, LOW, SCALE, EXTRA, PLACE };

template <Pooling KIND>
__device__ __forceinline__ void leave(float* left, unsigned rows, unsigned row, const GemOptions& options,
                                      const Saved& saved) {
  float* at = left + row;
  const unsigned long long plane = rows;
  at[0] = KIND == MAXIMUM ? __int_as_float(saved.place) : saved.slope;
  if (KIND != GEM) return;
  at[TOP * plane] = saved.top;
  if (options.sign == CLAMP && !options.want_d_p) return;
  at[D_P * plane] = saved.d_p;
  if (options.sign == CLAMP) return;
  at[LOW * plane] = saved.low;
  at[SCALE * plane] = saved.scale;
  at[EXTRA * plane] = saved.extra;
  at[PLACE * plane] = __int_as_float(saved.place);
}
template <Pooling KIND>
__device__ __forceinline__ Saved left_of(const float* left, unsigned rows, unsigned row, const GemOptions& options) {
  const float* at = left + row;
  const unsigned long long plane = rows;
  Saved saved{0.0f, 0.0f, 1.0f, 0.0f, 1.0f, 0.0f, 0.0f, NOWHERE};
  if (KIND == MAXIMUM) {
    saved.place = __float_as_int(at[0]);
    return saved;
  }
  saved.slope = at[0];
  if (KIND == AVERAGE) return saved;
  saved.top = at[TOP * plane];
  if (options.sign == CLAMP) return saved;
  saved.low = at[LOW * plane];
  saved.scale = at[SCALE * plane];
  saved.extra = at[EXTRA * plane];
  saved.place = __float_as_int(at[PLACE * plane]);
  return saved;
}

// A warp on one row. Everything is reduced to all lanes.
struct Warp {
  __device__ __forceinline__ bool leads() const { return (threadIdx.x & 31) == 0; }
  __device__ __forceinline__ float largest(float v) const { return warp_max(v); }
  __device__ __forceinline__ int first(int v) const {
#pragma unroll
    for (int step = 16; step > 0; step >>= 1) v = min(v, __shfl_xor_sync(ALL_LANES, v, step));
    return v;
  }
};
__device__ __forceinline__ bool is_finite(float v) { return v - v == 0.0f; }
// The power that is taken for p; one that is not finite shows in what is pooled.
__device__ __forceinline__ float power_of(float p) { return is_finite(p) ? fmaxf(p, LEAST_P) : p; }
__device__ __forceinline__ float within_f32(float v) { return v != v ? v : fminf(fmaxf(v, -LARGEST), LARGEST); }

// How u^p is computed: as this power, as a whole one to 8, or by logarithm. The choice stands before the loops.
template <int POWER> struct By { static constexpr int power = POWER; };
constexpr int WHOLE = 0, ANY = -1;
constexpr float LARGEST_WHOLE = 8.0f;
__device__ __forceinline__ bool is_whole(float p) { return p >= 0.0f && p <= LARGEST_WHOLE && p == (float)(int)p; }
template <class F> __device__ __forceinline__ void by_power(float p, F f) {
  if (p == 3.0f) f(By<3>());
  else if (p == 2.0f) f(By<2>());
  else if (p == 1.0f) f(By<1>());
  else if (is_whole(p)) f(By<WHOLE>());
  else f(By<ANY>());
}
__device__ __forceinline__ float whole_power(float u, int p) {
  const float squared = u * u, fourth = squared * squared;
  const float low = (p & 1 ? u : 1.0f) * (p & 2 ? squared : 1.0f);
  return p & 8 ? fourth * fourth : p & 4 ? fourth * low : low;
}
// u^p for u in [0, 1], with log2 u, which only ANY reads.
template <int POWER> __device__ __forceinline__ float power(float u, float p, float log) {
  if (POWER == 3) return u * u * u;
  if (POWER == 2) return u * u;
  if (POWER == 1) return u;
  if (POWER == WHOLE) return whole_power(u, (int)p);
  return exp2_fast(p * log);
}
// u^(p - 1).
template <int POWER> __device__ __forceinline__ float power_below(float u, float p) {
  if (POWER == 3) return u * u;
  if (POWER == 2) return u;
  if (POWER == 1) return 1.0f;
  if (POWER == WHOLE) return whole_power(u, (int)p - 1);
  return exp2_fast((p - 1.0f) * log2_fast(u));
}
// The same with the choice inside, where little code counts for more.
__device__ __forceinline__ float any_power(float u, float p, bool whole, float log) {
  return whole ? whole_power(u, (int)p) : exp2_fast(p * log);
}

// Magnitudes relative to the largest.
struct Relative {
  float eps, low, scale, shrink, inverse;
  int sign;
  __device__ __forceinline__ Relative(const GemOptions& options, float top, float low, float scale)
      : eps(options.eps), low(low), scale(scale), sign(options.sign) {
    shrink = top > HUGE_TOP ? 1.0f / 64.0f : 1.0f;  // 1 / top stays a normal number
    inverse = 1.0f / (top * shrink);
  }
  __device__ __forceinline__ float magnitude(float v) const {
    if (sign == SHIFT) return (v * scale - low * scale) + eps * scale;
    return fmaxf(sign == SIGNED ? fabsf(v) : v, eps);
  }
  __device__ __forceinline__ float of(float v) const { return fmaxf((magnitude(v) * shrink) * inverse, LEAST_U); }
};

// What is known of a row before its sums.
struct Row {
  float low, high, scale, top;
  // `low` and `high` are the row's.
  __device__ __forceinline__ Row(const GemOptions& options, float low, float high) : low(low), high(high), scale(1.0f) {
    if (options.sign == SHIFT && !is_finite(high - low)) scale = 0.5f;
    top = Relative(options, 1.0f, low, scale).magnitude(options.sign == SIGNED ? fmaxf(high, -low) : high);
  }
};

// Sums over a row, or a part of one.
struct Sums {
  float sum = 0.0f;     // of q u^p
  float logs = 0.0f;    // of q u^p log2 u, where wanted
  float slopes = 0.0f;  // SHIFT: of u^(p - 1), without the smallest values
  int place = NOWHERE;  // SHIFT: of the smallest value; SIGNED: of the largest magnitude
  int ties = 0;         // SHIFT: how many are the smallest
  template <int POWER, bool LOGS> __device__ __forceinline__ void add(float u, float p) {
    const float log = LOGS || POWER == ANY ? log2_fast(u) : 0.0f, share = power<POWER>(u, p, log);
    sum += share;
    if (LOGS) logs = fmaf(share, log, logs);
  }
  template <class Team> __device__ __forceinline__ void reduce(const Team& team, const GemOptions& options) {
    sum = team.sum(sum);
    if (options.want_d_p) logs = team.sum(logs);
    if (options.sign == CLAMP) return;
    slopes = team.sum(slopes);
    place = team.first(place);
    ties = team.count(ties);
  }
};

// Adds a row's values, with any sign. `values.each(f)` calls f(index, value) for each value of this thread.
template <class Values>
__device__ __forceinline__ void gem_add(const Values& values, float p, const GemOptions& options, const Row& row,
                                        Sums& sums) {
  const Relative relative(options, row.top, row.low, row.scale);
  const float by_eps = 1.0f / options.eps;
  const bool whole = is_whole(p);
  values.each([&](int i, float v) {
    const float u = relative.of(v), log = log2_fast(u);
    float share = any_power(u, p, whole, log);
    // Below eps the signed power is a straight line: its slope at 0 is infinite for p < 1.
    if (options.sign == SIGNED) {
      share *= fabsf(v) < options.eps ? v * by_eps : (v < 0.0f ? -1.0f : 1.0f);
      if (fabsf(v) == row.top) sums.place = min(sums.place, i);
    }
    sums.sum += share;
    sums.logs = fmaf(share, log, sums.logs);
    if (options.sign != SHIFT) return;
    if (v == row.low) {
      sums.place = min(sums.place, i);
      sums.ties++;
    } else {
      sums.slopes += any_power(u, p - 1.0f, is_whole(p - 1.0f), log);
    }
  });
}

__device__ __forceinline__ Saved nothing_saved() { return {0.0f, 0.0f, 1.0f, 0.0f, 1.0f, 0.0f, 0.0f, NOWHERE}; }

// The value and what the backward pass needs, from a whole row's sums over `count` values, not none.
__device__ __forceinline__ Saved gem_finish(float p, const GemOptions& options, int count, const Row& row,
                                            const Sums& sums) {
  Saved saved = nothing_saved();
  if (!is_finite(row.low) || !is_finite(row.high) || !is_finite(p)) {
    const float nan = __int_as_float(0x7fc00000);
    saved.value = saved.d_p = saved.slope = nan;
    return saved;
  }
  const bool shift = options.sign == SHIFT, is_signed = options.sign == SIGNED;
  saved.low = row.low;
  saved.scale = row.scale;
  saved.top = row.top;
  const float each = inverse_fast((float)count), by_p = inverse_fast(p), mean = sums.sum * each, size = fabsf(mean);
  const float top = shift ? saved.top / saved.scale : saved.top;
  float root, slope, d_p = 0.0f, extra = 0.0f;  // f(S), f'(S) p / n, and what top is multiplied by in dy/dp
  if (is_signed && size < STRAIGHT) {
    const float steep = exp2f((by_p - 1.0f) * -9.96578428f);  // STRAIGHT^(1/p - 1)
    root = mean * steep;
    slope = steep * p * each;
    extra = root * (1.0f - p);
    // d ln(steep) / dp = -ln(STRAIGHT) / p^2
    d_p = steep * fmaf(sums.logs * each, 0.693147181f, mean * 6.90775528f * by_p * by_p);
  } else {
    const float log = log2_fast(fmaxf(size, 1e-37f)), by_sum = inverse_fast(sums.sum);
    root = exp2_fast(log * by_p);
    root = mean < 0.0f ? -root : root;
    slope = root * by_sum;  // f'(S) = f(S) / (p S)
    if (options.want_d_p) d_p = root * by_p * 0.693147181f * (sums.logs * by_sum - log * by_p);
  }
  saved.value = within_f32(top * root);
  saved.d_p = options.want_d_p ? within_f32(top * d_p) : 0.0f;
  saved.slope = within_f32(slope);
  if (shift) {
    saved.value = within_f32(fmaf(top, root, row.low - options.eps));
    saved.place = sums.place;
    saved.extra = sums.slopes;
    if (sums.ties > 1) {
      const float least = Relative(options, row.top, row.low, row.scale).of(row.low);
      saved.extra += (float)(sums.ties - 1) * any_power(least, p - 1.0f, is_whole(p - 1.0f), log2_fast(least));
    }
    saved.extra = within_f32(saved.extra);
  }
  if (extra != 0.0f && sums.place != NOWHERE) {
    // The straight part moves with the largest magnitude (unless that is eps).
    saved.place = sums.place;
    saved.extra = extra;
  }
  return saved;
}

// What the gradient of one row's values takes with CLAMP, where the largest magnitude is not huge.
struct ClampedSlope {
  float p, eps, inverse, factor;
  // The share is at most 1 where p is at least 1. A factor that is no number shows below eps too.
  template <int POWER> __device__ __forceinline__ float of(float v) const {
    const float u = v * inverse, share = power_below<POWER>(POWER == ANY ? fmaxf(u, LEAST_U) : u, p);
    const float d = factor * (v < eps ? 0.0f : share);
    return POWER == ANY ? within_f32(d) : d;
  }
};

// The gradient of one row's values.
struct Slope {
  float p, eps, inverse, factor, below, upstream;
  int sign, place;
  float extra;
  bool is_clamped;  // CLAMP, with a largest magnitude that is not huge
  static constexpr float MOST = 3.4028e38f;
  Relative relative;
  __device__ __forceinline__ Slope(float power, const GemOptions& options, const Saved& saved, float upstream)
      : p(fmaxf(power, LEAST_P)), eps(options.eps), upstream(upstream), sign(options.sign), place(saved.place),
        extra(saved.extra), relative(options, saved.top, saved.low, saved.scale) {
    // A share may be 1 and a rounding: the product stays below infinity.
    factor = saved.slope * upstream;
    if (factor == factor) factor = fminf(fmaxf(factor, -MOST), MOST);
    below = sign == SHIFT ? factor : sign == SIGNED ? factor / p : factor * 0.0f;  // NaN stays NaN
    inverse = relative.inverse;
    is_clamped = sign == CLAMP && saved.top <= HUGE_TOP;
  }
  // Where `is_clamped`.
  template <int POWER> __device__ __forceinline__ float clamped(float v) const {
    const float u = v * inverse, share = power_below<POWER>(POWER == ANY ? fmaxf(u, LEAST_U) : u, p);
    return v < eps ? below : POWER == ANY ? within_f32(factor * share) : factor * share;
  }
  __device__ __forceinline__ ClampedSlope clamped_slope() const { return {p, eps, inverse, factor}; }
  __device__ __forceinline__ float of(int i, float v) const {
    // SHIFT's minimum is subtracted everywhere and added back: it gets what the others leave.
    if (sign == SHIFT && i == place) return upstream - within_f32(factor * extra);
    const float u = relative.of(v), share = any_power(u, p - 1.0f, is_whole(p - 1.0f), log2_fast(u));
    float d = within_f32(((sign == SIGNED ? fabsf(v) : v) < eps ? below : factor) * share);
    if (sign == SIGNED && i == place) d += (v < 0.0f ? -extra : extra) * upstream;
    return d;
  }
};

// CLAMP's sums over a row that comes in parts, relative to the largest magnitude so far. What is not the row's may be 0 in a
// part's extremes, which start there.
struct Growing {
  float low = 0.0f, high = 0.0f, top = 0.0f, inverse = 0.0f, least = 0.0f;
  Sums sums;
  // The extremes with the next part's; scales what was summed so far to the new largest magnitude.
  __device__ __forceinline__ void grow(float part_low, float part_high, float p, float eps) {
    low = smallest_nan(low, part_low);
    high = largest_nan(high, part_high);
    const float now = fmaxf(high, eps);
    if (now == top) return;
    if (top > 0.0f) {
      const float log = log2_fast(fmaxf(top / now, LEAST_U)), share = exp2_fast(p * log);
      sums.sum *= share;
      sums.logs = fmaf(log, sums.sum, sums.logs * share);
    }
    top = now;
    inverse = inverse_fast(top);
    least = fmaxf(eps, top * LEAST_U);
  }
};

// A whole row by one thread, which reads its values twice.
template <class Values>
__device__ __forceinline__ Saved gem_forward(const Values& values, float p, const GemOptions& options) {
  float low = LARGEST, high = -LARGEST;
  int count = 0;
  values.each([&](int, float v) {
    low = smallest_nan(low, v);
    high = largest_nan(high, v);
    count++;
  });
  if (count == 0) return nothing_saved();
  const Row row(options, low, high);
  Sums sums;
  gem_add(values, p, options, row, sums);
  return gem_finish(p, options, count, row, sums);
}

__device__ __forceinline__ Saved average_finish(float sum, int count) {
  Saved saved = nothing_saved();
  if (count == 0) return saved;
  saved.slope = 1.0f / (float)count;
  saved.value = sum / (float)count;
  return saved;
}

// The first of equal maxima; the first NaN, if there is one.
struct Highest {
  float high = __int_as_float(0xff800000);
  int at = NOWHERE, odd = NOWHERE;
  // A team's member sees its values in ascending order of place.
  __device__ __forceinline__ void take(int i, float v) {
    if (v != v) odd = min(odd, i);
    if (v > high || (v == high && i < at)) high = v, at = i;
  }
  template <class Team> __device__ __forceinline__ Saved finish(const Team& team) const {
    Saved saved = nothing_saved();
    const int first_odd = team.first(odd);
    const float highest = team.largest(high);
    const int first = team.first(high == highest ? at : NOWHERE);
    saved.place = first_odd != NOWHERE ? first_odd : first;
    saved.value = first_odd != NOWHERE ? __int_as_float(0x7fc00000) : first != NOWHERE ? highest : 0.0f;
    return saved;
  }
};
