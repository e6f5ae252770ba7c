// Pooling of masked tokens [batch, tokens, dim] to [batch, dim], a thread a row (an item's channel): neighbouring
// threads read neighbouring channels. A token that the mask leaves out changes nothing, whatever it holds, and its
// gradient is 0; an item without any gives zeros.
#include "pool.cuh"

template <class T> struct TokenRow {
  const T* values;            // the item's first token, at the channel
  const unsigned char* mask;  // the item's tokens, null for all
  int tokens, dim;
  __device__ __forceinline__ bool counts(int token) const { return !mask || mask[token]; }
  template <class F> __device__ __forceinline__ void each(F f) const {
#pragma unroll 4
    for (int token = 0; token < tokens; token++)
      if (counts(token)) f(token, to_f32(values[(long long)token * dim]));
  }
  template <class F> __device__ __forceinline__ void map(T* out, F f) const {
#pragma unroll 4
    for (int token = 0; token < tokens; token++) {
      const long long at = (long long)token * dim;
      out[at] = from_f32<T>(counts(token) ? f(token, to_f32(values[at])) : 0.0f);
    }
  }
};

// Tokens that a thread holds at a time.
constexpr int HELD = 8;

// GeM with CLAMP, every value read once: HELD tokens at a time, whose loads wait for memory together.
template <class T>
__device__ __forceinline__ Saved gem_once(const TokenRow<T>& row, float p, const GemOptions& options) {
  Growing growing;
  int count = 0;
  for (int start = 0; start < row.tokens; start += HELD) {
    float of[HELD], low = 0.0f, high = 0.0f;
    bool counts[HELD];
#pragma unroll
    for (int k = 0; k < HELD; k++) {
      counts[k] = start + k < row.tokens && row.counts(start + k);
      of[k] = counts[k] ? to_f32(row.values[(long long)(start + k) * row.dim]) : 0.0f;
    }
#pragma unroll
    for (int k = 0; k < HELD; k++) {
      count += counts[k];
      low = smallest_nan(low, of[k]);
      high = largest_nan(high, of[k]);
    }
    growing.grow(low, high, p, options.eps);
    by_power(p, [&](auto by) {
      constexpr int POWER = decltype(by)::power;
      auto add = [&](auto logs) {
#pragma unroll
        for (int k = 0; k < HELD; k++)
          if (counts[k])
            growing.sums.template add<POWER, decltype(logs)::power == 1>(fmaxf(of[k], growing.least) * growing.inverse, p);
      };
      if (options.want_d_p) add(By<1>());
      else add(By<0>());
    });
  }
  if (count == 0) return nothing_saved();
  // 1 / top was not a normal number: the general way, from the start.
  if (growing.top > HUGE_TOP) return gem_forward(row, p, options);
  return gem_finish(p, options, count, Row(options, growing.low, growing.high), growing.sums);
}

template <Pooling KIND, class T>
__device__ __forceinline__ Saved forward(const TokenRow<T>& row, float p, const GemOptions& options) {
  if (KIND == GEM) {
    const float power = power_of(p);
    return options.sign == CLAMP ? gem_once(row, power, options) : gem_forward(row, power, options);
  }
  return KIND == AVERAGE ? average_forward(Alone(), row) : maximum_forward(Alone(), row);
}
template <Pooling KIND, class T>
__device__ __forceinline__ void backward(const TokenRow<T>& row, float p, const GemOptions& options, const Saved& saved,
                                         float upstream, T* dx) {
  if (KIND != GEM) {
    const float each = saved.slope * upstream;
    row.map(dx, [&](int i, float) { return KIND == AVERAGE ? each : i == saved.place ? upstream : 0.0f; });
    return;
  }
  const Slope slope(p, options, saved, upstream);
  if (slope.is_clamped) {
    by_power(slope.p, [&](auto by) {
      constexpr int POWER = decltype(by)::power;
      row.map(dx, [&](int, float v) { return slope.template clamped<POWER>(v); });
    });
  } else {
    row.map(dx, [&](int i, float v) { return slope.of(i, v); });
  }
}

// x, dx [batch, tokens, dim]; mask [batch, tokens] bytes or null; y, dy [batch, dim]; left: see Plane; p [options.powers],
// read by GeM only. grid: (batch, dim / 128 rounded up).
#define POOL_TOKENS(name, KIND, T)                                                                                  \
  extern "C" __global__ void __launch_bounds__(128, 8)                                                                 \
      pool_tokens_##name(const T* __restrict__ x, const unsigned char* __restrict__ mask,                           \
                         const float* __restrict__ p, GemOptions options, T* __restrict__ y,                        \
                         float* __restrict__ left, int tokens, int dim) {                                          \
    const int channel = (int)(blockIdx.y * blockDim.x + threadIdx.x), item = blockIdx.x;                            \
    if (channel >= dim) return;                                                                                     \
    const long long row = (long long)item * dim + channel;                                                          \
    const float power = KIND == GEM ? p[channel % options.powers] : 1.0f;                                           \
    const TokenRow<T> values{x + (long long)item * tokens * dim + channel,                                          \
                             mask ? mask + (long long)item * tokens : nullptr, tokens, dim};                        \
    const Saved pooled = forward<KIND>(values, power, options);                                         \
    leave<KIND>(left, gridDim.x * dim, row, options, pooled);                                            \
    y[row] = from_f32<T>(pooled.value);                                                                             \
  }                                                                                                                 \
  EXPORT_KERNEL(pool_tokens_##name)                                                                                 \
  extern "C" __global__ void __launch_bounds__(128, 8) pool_tokens_backward_##name(                                    \
      const T* __restrict__ x, const unsigned char* __restrict__ mask, const float* __restrict__ p,                 \
      GemOptions options, const float* __restrict__ left, const T* __restrict__ dy, T* __restrict__ dx,            \
      int tokens, int dim) {                                                                                        \
    const int channel = (int)(blockIdx.y * blockDim.x + threadIdx.x), item = blockIdx.x;                            \
    if (channel >= dim) return;                                                                                     \
    const long long row = (long long)item * dim + channel, start = (long long)item * tokens * dim + channel;        \
    const float power = KIND == GEM ? p[channel % options.powers] : 1.0f;                                           \
    const TokenRow<T> values{x + start, mask ? mask + (long long)item * tokens : nullptr, tokens, dim};             \
    const Saved saved = left_of<KIND>(left, gridDim.x * dim, row, options);                              \
    backward<KIND>(values, power, options, saved, to_f32(dy[row]), dx + start);                                     \
  }                                                                                                                 \
  EXPORT_KERNEL(pool_tokens_backward_##name)
POOL_TOKENS(gem_f32, GEM, float)
POOL_TOKENS(gem_f16, GEM, f16)
POOL_TOKENS(gem_bf16, GEM, bf16)
POOL_TOKENS(average_f32, AVERAGE, float)
POOL_TOKENS(average_f16, AVERAGE, f16)
POOL_TOKENS(average_bf16, AVERAGE, bf16)
POOL_TOKENS(maximum_f32, MAXIMUM, float)
POOL_TOKENS(maximum_f16, MAXIMUM, f16)
POOL_TOKENS(maximum_bf16, MAXIMUM, bf16)
