// Pooling of masked tokens [batch, tokens, dim] to [batch, dim]. A token that the mask leaves out changes nothing, whatever
// it holds, and its gradient is 0; an item without any gives zeros.
//
// A lane has a channel, or two neighbouring ones of 16 bits where rows of them start at words of 4 bytes; so a warp reads a token's
// neighbouring channels, and what hangs on the token alone is done once for two values. Each of a block's warps has a share of
// the item's tokens, so that as many loads are under way with few items as with many. What the warps find is put together in their
// order.
#include "pool.cuh"

constexpr int WARPS = 4;
// Tokens that a lane holds at a time: their loads wait for memory together.
constexpr int HELD = 8;

// The warps of a block. Lanes of the same number have the same channels.
struct Warps {
  int* room;  // a number of each thread
  static __device__ __forceinline__ int bits(int v) { return v; }
  static __device__ __forceinline__ int bits(float v) { return __float_as_int(v); }
  static __device__ __forceinline__ int of_bits(int bits, int) { return bits; }
  static __device__ __forceinline__ float of_bits(int bits, float) { return __int_as_float(bits); }
  template <class V, class F> __device__ __forceinline__ V all(V v, F f) const {
    __syncthreads();  // what was there has been read
    room[threadIdx.x] = bits(v);
    __syncthreads();
    const int lane = threadIdx.x & 31;
    V result = of_bits(room[lane], v);
#pragma unroll
    for (int warp = 1; warp < WARPS; warp++) result = f(result, of_bits(room[warp * 32 + lane], v));
    return result;
  }
  __device__ __forceinline__ float sum(float v) const {
    return all(v, [](float a, float b) { return a + b; });
  }
  __device__ __forceinline__ int count(int v) const {
    return all(v, [](int a, int b) { return a + b; });
  }
  __device__ __forceinline__ float largest(float v) const { return all(v, fmaxf); }
  __device__ __forceinline__ int first(int v) const {
    return all(v, [](int a, int b) { return min(a, b); });
  }
  __device__ __forceinline__ bool leads() const { return threadIdx.x < 32; }
  // Of the block: all its threads get the same.
  __device__ __forceinline__ bool any(bool v) const {
    return all((int)__ballot_sync(ALL_LANES, v), [](int a, int b) { return a | b; }) != 0;
  }
};

__device__ __forceinline__ void store_values(float* at, const float (&of)[1]) { *at = of[0]; }
template <class T> __device__ __forceinline__ void store_values(T* at, const float (&of)[1]) { *at = from_f32<T>(of[0]); }
template <class T> __device__ __forceinline__ void store_values(T* at, const float (&of)[2]) {
  *reinterpret_cast<unsigned*>(at) = pack_pair<T>(of[0], of[1]);
}

// A warp's tokens of an item, at a lane's channels: CHANNELS values of T in a word.
template <class T, int CHANNELS> struct Share {
  const T* values;            // the first token, at the first channel
  const unsigned char* mask;  // from the first token on, null for all
  int first, tokens, dim;
  long long step;  // dim, kept in registers: an address then takes one addition
  __device__ __forceinline__ Share(const T* x, const unsigned char* mask, int tokens, int dim, int channel)
      : dim(dim), step(in_register(dim)) {
    const int share = (tokens + WARPS - 1) / WARPS;
    first = min((int)(threadIdx.x >> 5) * share, tokens);
    this->tokens = min(share, tokens - first);
    const long long token = (long long)blockIdx.x * tokens + first;
    values = x + token * dim + channel;
    this->mask = mask ? mask + token : nullptr;
  }
  static __device__ __forceinline__ unsigned load(const float* at) { return __float_as_uint(*at); }
  template <class H> static __device__ __forceinline__ unsigned load(const H* at) {
    return CHANNELS == 2 ? *reinterpret_cast<const unsigned*>(at) : at->bits;
  }
  // Which of the 32 tokens from `start` on count; the warp's lanes come here together.
  __device__ __forceinline__ unsigned counting(int start) const {
    const int token = start + (int)(threadIdx.x & 31);
    return __ballot_sync(ALL_LANES, token < tokens && (!mask || mask[token]));
  }
  __device__ __forceinline__ int count() const {
    int count = 0;
    for (int start = 0; start < tokens; start += 32) count += __popc(counting(start));
    return count;
  }
  // f(token, words, counts, there) for HELD of the share's tokens at a time, from `token` on: bits of `counts` for those that count
  // (words of others are 0), of `there` for those that exist. With EVERY those come too of which none counts.
  template <bool READ, bool EVERY, class F> __device__ __forceinline__ void each_held(F f) const {
#pragma unroll 1
    for (int start = 0; start < tokens; start += 32) {
      unsigned counts = counting(start), there = tokens - start < 32 ? (1u << (tokens - start)) - 1 : ALL_LANES;
      const T* at = values + (long long)start * dim;
#pragma unroll 1
      for (int token = start; EVERY ? there : counts; token += HELD, counts >>= HELD, there >>= HELD) {
        unsigned words[HELD];
#pragma unroll
        for (int k = 0; k < HELD; k++, at += step) {
          words[k] = 0;
          if (READ && (counts >> k & 1)) words[k] = load(at);
        }
        f(token, words, counts, there);
      }
    }
  }
  // f(token of the item, its word) for each that counts.
  template <class F> __device__ __forceinline__ void each_word(F f) const {
    each_held<true, false>([&](int token, const unsigned (&words)[HELD], unsigned counts, unsigned) {
#pragma unroll
      for (int k = 0; k < HELD; k++)
        if (counts >> k & 1) f(first + token + k, words[k]);
    });
  }
};

// One channel of a share, value by value.
template <class T, int CHANNELS> struct Channel {
  const Share<T, CHANNELS>& share;
  int which;
  template <class F> __device__ __forceinline__ void each(F f) const {
    const T* at = share.values + which;
#pragma unroll 2
    for (int token = 0; token < share.tokens; token++, at += share.step)
      if (!share.mask || share.mask[token]) f(share.first + token, to_f32(*at));
  }
};

// Largest and smallest of each channel of words, and of 0.
template <class T> struct WordExtremes {
  unsigned high = 0, low = 0;
  __device__ __forceinline__ void take(unsigned word) {
    high = largest_in(high, word, T());
    low = smallest_in(low, word, T());
  }
  __device__ __forceinline__ float largest(int channel) const { return value_in(high, channel, T()); }
  __device__ __forceinline__ float smallest(int channel) const { return value_in(low, channel, T()); }
};

// GeM, any sign, every value read twice.
template <class T, int CHANNELS>
__device__ __forceinline__ Saved gem_twice(const Channel<T, CHANNELS>& channel, float p, const GemOptions& options,
                                           int count, const Warps& team) {
  float low = LARGEST, high = -LARGEST;
  channel.each([&](int, float v) {
    low = smallest_nan(low, v);
    high = largest_nan(high, v);
  });
  low = team.all(low, smallest_nan);
  high = team.all(high, largest_nan);
  const Row row(options, low, high);
  Sums sums;
  gem_add(channel, p, options, row, sums);
  sums.reduce(team, options);
  return count == 0 ? nothing_saved() : gem_finish(p, options, count, row, sums);
}

// The sums of GeM with CLAMP, every value read once; false where that does not do. What is decided here is decided for the block: its threads
// meet.
template <class T, int CHANNELS>
__device__ __forceinline__ bool gem_clamped(const Share<T, CHANNELS>& share, const float (&p)[CHANNELS],
                                            GemOptions options, const Warps& team, Growing (&of)[CHANNELS]) {
  options.sign = CLAMP;  // known to the compiler
  const float common = __shfl_sync(ALL_LANES, p[0], 0);
  // One whole power as it is, without the largest magnitude before it, where nothing but its sum is wanted. The lanes of a
  // warp look at the mask together: all take the same way.
  const bool has_another = p[0] != common || p[CHANNELS - 1] != common;
  bool is_done = !options.want_d_p && !__ballot_sync(ALL_LANES, has_another || !is_whole(common));
  if (is_done) {
    WordExtremes<T> extremes;
    float sums[CHANNELS] = {};
    by_power(common, [&](auto by) {
      constexpr int POWER = decltype(by)::power;
      if (POWER == ANY) return;
      share.template each_held<true, false>([&](int, const unsigned (&words)[HELD], unsigned counts, unsigned) {
#pragma unroll
        for (int k = 0; k < HELD; k++) {
          extremes.take(words[k]);
#pragma unroll
          for (int c = 0; c < CHANNELS; c++)
            if (counts >> k & 1) sums[c] += power<POWER>(fmaxf(value_in(words[k], c, T()), options.eps), p[c], 0.0f);
        }
      });
    });
    bool is_plain = true;
#pragma unroll
    for (int c = 0; c < CHANNELS; c++) {
      const float low = team.all(extremes.smallest(c), smallest_nan);
      of[c].grow(low, team.all(extremes.largest(c), largest_nan), p[c], options.eps);
      is_plain = is_plain && of[c].top <= HUGE_TOP && common * fabsf(log2_fast(of[c].top)) <= PLAIN;
      of[c].sums.sum = team.sum(sums[c]) * whole_power(of[c].inverse, (int)common);
    }
    is_done = !team.any(!is_plain);
  }
  if (!is_done) {
    // Any power by its logarithm, which a gradient of p asks for.
    auto add = [&](auto logs) {
      share.template each_held<true, false>([&](int, const unsigned (&words)[HELD], unsigned counts, unsigned) {
        WordExtremes<T> extremes;
#pragma unroll
        for (int k = 0; k < HELD; k++) extremes.take(words[k]);
#pragma unroll
        for (int c = 0; c < CHANNELS; c++) of[c].grow(extremes.smallest(c), extremes.largest(c), p[c], options.eps);
#pragma unroll
        for (int k = 0; k < HELD; k++)
#pragma unroll
          for (int c = 0; c < CHANNELS; c++)
            if (counts >> k & 1)
              of[c].sums.template add<ANY, decltype(logs)::power == 1>(
                  fmaxf(value_in(words[k], c, T()), of[c].least) * of[c].inverse, p[c]);
      });
    };
#pragma unroll
    for (int c = 0; c < CHANNELS; c++) of[c].sums = Sums();
    if (options.want_d_p) add(By<1>());
    else add(By<0>());
#pragma unroll
    for (int c = 0; c < CHANNELS; c++) {
      const float low = team.all(of[c].low, smallest_nan);
      of[c].grow(low, team.all(of[c].high, largest_nan), p[c], options.eps);
      of[c].sums.reduce(team, options);
    }
  }
  // Where 1 / top is not a normal number, the general way.
  bool is_huge = false;
#pragma unroll
  for (int c = 0; c < CHANNELS; c++) is_huge = is_huge || of[c].top > HUGE_TOP;
  return !team.any(is_huge);
}

template <class T, int CHANNELS>
__device__ __forceinline__ void gem(const Share<T, CHANNELS>& share, const float (&p)[CHANNELS],
                                    const GemOptions& options, const Warps& team, Saved (&saved)[CHANNELS]) {
  const int count = team.count(share.count());
  float powers[CHANNELS];
#pragma unroll
  for (int c = 0; c < CHANNELS; c++) powers[c] = power_of(p[c]);
  if (options.sign == CLAMP) {
    Growing of[CHANNELS];
    if (gem_clamped(share, powers, options, team, of)) {
      if (count == 0 || !team.leads()) return;
      GemOptions clamp = options;
      clamp.sign = CLAMP;
#pragma unroll
      for (int c = 0; c < CHANNELS; c++)
        saved[c] = gem_finish(powers[c], clamp, count, Row(clamp, of[c].low, of[c].high), of[c].sums);
      return;
    }
  }
  // No index that only the device knows: the arrays stay in registers.
#pragma unroll 1
  for (int c = 0; c < CHANNELS; c++) {
    const bool is_first = c == 0;
    const float power = is_first ? powers[0] : powers[CHANNELS - 1];
    const Saved found = gem_twice(Channel<T, CHANNELS>{share, c}, power, options, count, team);
    if (is_first) saved[0] = found;
    else saved[CHANNELS - 1] = found;
  }
}

template <class T, int CHANNELS>
__device__ __forceinline__ void average(const Share<T, CHANNELS>& share, const Warps& team, Saved (&saved)[CHANNELS]) {
  int count = 0;
  float sums[CHANNELS] = {};
  share.each_word([&](int, unsigned word) {
    count++;
#pragma unroll
    for (int c = 0; c < CHANNELS; c++) sums[c] += value_in(word, c, T());
  });
  count = team.count(count);
#pragma unroll
  for (int c = 0; c < CHANNELS; c++) saved[c] = average_finish(team.sum(sums[c]), count);
}

template <class T, int CHANNELS>
__device__ __forceinline__ void maximum(const Share<T, CHANNELS>& share, const Warps& team, Saved (&saved)[CHANNELS]) {
  Highest of[CHANNELS];
  share.each_word([&](int token, unsigned word) {
#pragma unroll
    for (int c = 0; c < CHANNELS; c++) of[c].take(token, value_in(word, c, T()));
  });
#pragma unroll
  for (int c = 0; c < CHANNELS; c++) saved[c] = of[c].finish(team);
}

template <Pooling KIND, class T, int CHANNELS>
__device__ __forceinline__ void forward(const Share<T, CHANNELS>& share, const float (&p)[CHANNELS],
                                        const GemOptions& options, const Warps& team, Saved (&saved)[CHANNELS]) {
  if (KIND == GEM) gem(share, p, options, team, saved);
  else if (KIND == AVERAGE) average(share, team, saved);
  else maximum(share, team, saved);
}

// The share's gradient, from its first token on at `dx`: f(token of the item, channel, value) for tokens that count, 0 for others.
// With READ the values are read. Lanes that are not `inside` write nothing.
template <bool READ, class T, int CHANNELS, class F>
__device__ __forceinline__ void change(const Share<T, CHANNELS>& share, T* dx, bool inside, F f) {
  share.template each_held<READ, true>([&](int token, const unsigned (&words)[HELD], unsigned counts, unsigned there) {
    T* at = dx + (long long)token * share.dim;
#pragma unroll
    for (int k = 0; k < HELD; k++, at += share.step) {
      float of[CHANNELS];
#pragma unroll
      for (int c = 0; c < CHANNELS; c++)
        of[c] = counts >> k & 1 ? f(share.first + token + k, c, value_in(words[k], c, T())) : 0.0f;
      if (inside && (there >> k & 1)) store_values(at, of);
    }
  });
}

template <class T, int CHANNELS>
__device__ __forceinline__ void gem_backward(const Share<T, CHANNELS>& share, const float (&p)[CHANNELS],
                                             const GemOptions& options, const Saved (&saved)[CHANNELS],
                                             const float (&upstream)[CHANNELS], T* dx, bool inside) {
  ClampedSlope slopes[CHANNELS];
  bool is_clamped = true;
#pragma unroll
  for (int c = 0; c < CHANNELS; c++) {
    const Slope slope(p[c], options, saved[c], upstream[c]);
    is_clamped = is_clamped && slope.is_clamped;
    slopes[c] = slope.clamped_slope();
  }
  // The lanes of a warp look at the mask together: all take the same way, for different powers that of any.
  const float common = __shfl_sync(ALL_LANES, slopes[0].p, 0);
  const bool has_another = slopes[0].p != common || slopes[CHANNELS - 1].p != common;
  const bool is_common = !__ballot_sync(ALL_LANES, has_another);
  if (!__ballot_sync(ALL_LANES, !is_clamped)) {
    by_power(is_common ? common : LEAST_P, [&](auto by) {
      constexpr int POWER = decltype(by)::power;
      change<true>(share, dx, inside, [&](int, int c, float v) { return slopes[c].template of<POWER>(v); });
    });
    return;
  }
  if (!inside) return;
#pragma unroll 1
  for (int c = 0; c < CHANNELS; c++) {
    const bool is_first = c == 0;
    const Slope slope(is_first ? p[0] : p[CHANNELS - 1], options, is_first ? saved[0] : saved[CHANNELS - 1],
                      is_first ? upstream[0] : upstream[CHANNELS - 1]);
    const T* at = share.values + c;
    T* out = dx + c;
#pragma unroll 2
    for (int token = 0; token < share.tokens; token++, at += share.step, out += share.step)
      *out = from_f32<T>(!share.mask || share.mask[token] ? slope.of(share.first + token, to_f32(*at)) : 0.0f);
  }
}

template <Pooling KIND, class T, int CHANNELS>
__device__ __forceinline__ void backward(const Share<T, CHANNELS>& share, const float (&p)[CHANNELS],
                                         const GemOptions& options, const Saved (&saved)[CHANNELS],
                                         const float (&upstream)[CHANNELS], T* dx, bool inside) {
  auto change_to = [&](auto f) { change<false>(share, dx, inside, f); };
  if (KIND == GEM) gem_backward(share, p, options, saved, upstream, dx, inside);
  else if (KIND == AVERAGE) change_to([&](int, int c, float) { return saved[c].slope * upstream[c]; });
  else change_to([&](int token, int c, float) { return token == saved[c].place ? upstream[c] : 0.0f; });
}

// x, dx [batch, tokens, dim]; mask [batch, tokens] bytes or null; y, dy [batch, dim]; left: see Plane; p [options.powers], read
// by GeM only. With 2 CHANNELS dim is even, and x and dx are multiples of 4 bytes. grid: (batch, dim / (32 CHANNELS) rounded up).
#define POOL_TOKENS(name, KIND, T, CHANNELS)                                                                           \
  extern "C" __global__ void __launch_bounds__(WARPS * 32, 7)                                                          \
      pool_tokens_##name(const T* __restrict__ x, const unsigned char* __restrict__ mask,                              \
                         const float* __restrict__ p, GemOptions options, T* __restrict__ y,                           \
                         float* __restrict__ left, int tokens, int dim) {                                              \
    __shared__ int room[WARPS * 32];                                                                                   \
    const int channel = (int)(blockIdx.y * 32 + (threadIdx.x & 31)) * CHANNELS, inside = channel < dim;                \
    /* All threads come to where the block meets. */                                                                   \
    const Share<T, CHANNELS> share(x, mask, tokens, dim, inside ? channel : 0);                                        \
    float powers[CHANNELS];                                                                                            \
    for (int c = 0; c < CHANNELS; c++)                                                                                 \
      powers[c] = KIND != GEM ? 1.0f : p[options.powers == 1 || !inside ? 0 : (channel + c) % options.powers];         \
    Saved saved[CHANNELS];                                                                                             \
    for (int c = 0; c < CHANNELS; c++) saved[c] = nothing_saved();                                                     \
    forward<KIND>(share, powers, options, Warps{room}, saved);                                                         \
    if (!Warps{room}.leads() || !inside) return;                                                                          \
    const unsigned row = blockIdx.x * dim + channel;                                                                   \
    for (int c = 0; c < CHANNELS; c++) {                                                                               \
      leave<KIND>(left, gridDim.x * dim, row + c, options, saved[c]);                                                  \
      y[row + c] = from_f32<T>(saved[c].value);                                                                        \
    }                                                                                                                  \
  }                                                                                                                    \
  EXPORT_KERNEL(pool_tokens_##name)                                                                                    \
  extern "C" __global__ void __launch_bounds__(WARPS * 32, 8) pool_tokens_backward_##name(                             \
      const T* __restrict__ x, const unsigned char* __restrict__ mask, const float* __restrict__ p,                    \
      GemOptions options, const float* __restrict__ left, const T* __restrict__ dy, T* __restrict__ dx,                \
      int tokens, int dim) {                                                                                           \
    const int of_lane = (int)(blockIdx.y * 32 + (threadIdx.x & 31)) * CHANNELS, inside = of_lane < dim;                \
    /* The lanes of a warp look at its mask together. */                                                               \
    const int channel = inside ? of_lane : 0;                                                                          \
    const Share<T, CHANNELS> share(x, mask, tokens, dim, channel);                                                     \
    float powers[CHANNELS], upstream[CHANNELS];                                                                        \
    Saved saved[CHANNELS];                                                                                             \
    for (int c = 0; c < CHANNELS; c++) {                                                                               \
      const unsigned row = blockIdx.x * dim + channel + c;                                                             \
      powers[c] = KIND != GEM ? 1.0f : p[options.powers == 1 ? 0 : (channel + c) % options.powers];                    \
      upstream[c] = to_f32(dy[row]);                                                                                   \
      saved[c] = left_of<KIND>(left, gridDim.x * dim, row, options);                                                   \
    }                                                                                                                  \
    backward<KIND>(share, powers, options, saved, upstream, dx + (share.values - x), inside);                          \
  }                                                                                                                    \
  EXPORT_KERNEL(pool_tokens_backward_##name)
POOL_TOKENS(gem_f32, GEM, float, 1)
POOL_TOKENS(gem_f16, GEM, f16, 1)
POOL_TOKENS(gem_bf16, GEM, bf16, 1)
POOL_TOKENS(average_f32, AVERAGE, float, 1)
POOL_TOKENS(average_f16, AVERAGE, f16, 1)
POOL_TOKENS(average_bf16, AVERAGE, bf16, 1)
POOL_TOKENS(maximum_f32, MAXIMUM, float, 1)
POOL_TOKENS(maximum_f16, MAXIMUM, f16, 1)
POOL_TOKENS(maximum_bf16, MAXIMUM, bf16, 1)
// Two channels a lane.
POOL_TOKENS(pairs_gem_f16, GEM, f16, 2)
POOL_TOKENS(pairs_gem_bf16, GEM, bf16, 2)
POOL_TOKENS(pairs_average_f16, AVERAGE, f16, 2)
POOL_TOKENS(pairs_average_bf16, AVERAGE, bf16, 2)
POOL_TOKENS(pairs_maximum_f16, MAXIMUM, f16, 2)
POOL_TOKENS(pairs_maximum_bf16, MAXIMUM, bf16, 2)
