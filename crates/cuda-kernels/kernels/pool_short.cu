// Pooling of short feature maps [rows, length] (rows = batch x channels), as the 7 x 7 ones at the end of a network: at least a
// vector of 16 bytes and at most 256 bytes a row.
//
// Such a row has too few vectors for a warp and seldom starts at one. But 32 rows fill whole vectors: a warp takes 32 rows, copies
// them to shared memory 16 bytes at a time, as they lie, and each lane pools one of them, a word of 4 bytes at a time
// and in the row's order, wherever in a word it starts: what a row gives does not depend on its neighbours. Rows of whole
// vectors in an even number are laid a vector apart, so that not all lanes read the same bank.
//
// Backward nothing needs sums: a lane changes a vector, which holds values of two rows at most, whose numbers it gets from
// their lanes.
#include "pool.cuh"
#include "tensor.cuh"

constexpr int WARPS = 4;
constexpr int ROWS = 32;  // of a warp
constexpr int SLOT = 16;  // bytes of a vector

// The first row of this thread's warp. There are fewer than 2^31 rows.
__device__ __forceinline__ unsigned first_row() { return (blockIdx.x * WARPS + (threadIdx.x >> 5)) * ROWS; }

// Copies `count` rows from `from` on, which is at a vector, to shared memory, `stride` bytes from row to row: either their own
// bytes or a vector more, and then a row is whole vectors.
template <class T>
__device__ __forceinline__ void copy_rows(SharedAt shared, const T* from, int count, int length, int stride) {
  const int row_bytes = length * (int)sizeof(T), bytes = count * row_bytes, lane = threadIdx.x & 31;
  const unsigned char* first = reinterpret_cast<const unsigned char*>(from);
  if (stride == row_bytes) {
    SharedAt to = shared + lane * SLOT;
    const unsigned char* source = first + lane * SLOT;
    int rest = bytes - lane * SLOT;
#pragma unroll 1
    for (int start = 0; start < bytes; start += 4 * 32 * SLOT) {
#pragma unroll
      for (int i = 0; i < 4; i++)
        if (rest >= (i * 32 + 1) * SLOT) copy_whole(to + i * 32 * SLOT, source + i * 32 * SLOT);
      to += 4 * 32 * SLOT;
      source += 4 * 32 * SLOT;
      rest -= 4 * 32 * SLOT;
    }
    // The last of all rows may end within a vector.
    const int whole = bytes / SLOT * SLOT;
    if (whole < bytes && lane == 0) copy_part(shared + whole, first + whole, bytes - whole);
  } else {
    const float rows_a_byte = 1.0f / (float)row_bytes;
#pragma unroll 4
    for (int at = lane * SLOT; at < bytes; at += 32 * SLOT)
      copy_whole(shared + at + (int)(((float)at + 0.5f) * rows_a_byte) * SLOT, first + at);
  }
  copy_commit();
  copy_wait<0>();
  __syncwarp();
}

// A row in shared memory. What lies beyond it, up to the end of the next word, is read and not used.
template <class T> struct WordRow {
  const unsigned* words;
  int shift;  // bits of the first word before the row
  int length;
  __device__ __forceinline__ WordRow(const unsigned char* row, int at, int length)
      : words(reinterpret_cast<const unsigned*>(row + (at & ~3))), shift(8 * (at & 3)), length(length) {}
  // f(i, word, count): the values from the i-th on, `count` (a By) of them in the word, from its lowest on.
  template <class F> __device__ __forceinline__ void each_word(F f) const {
    if (IN_WORD<T> == 1) {
#pragma unroll 4
      for (int i = 0; i < length; i++) f(i, words[i], By<1>());
      return;
    }
    unsigned word = words[0];
#pragma unroll 4
    for (int i = 0; i < length >> 1; i++) {
      const unsigned next = words[i + 1];
      f(2 * i, (unsigned)(((unsigned long long)next << 32 | word) >> shift), By<2>());
      word = next;
    }
    if (length & 1) f(length - 1, word >> shift & 0xffff, By<1>());
  }
  template <class F> __device__ __forceinline__ void each(F f) const {
    each_word([&](int i, unsigned word, auto count) {
#pragma unroll
      for (int k = 0; k < decltype(count)::power; k++) f(i + k, value_in(word, k, T()));
    });
  }
};

// GeM with CLAMP. What of a word is not the row's is 0, which its extremes start from.
template <class T>
__device__ __forceinline__ Saved gem_clamped(const WordRow<T>& row, float p, GemOptions options) {
  options.sign = CLAMP;  // known to the compiler
  const float eps = options.eps;
  Extremes<T> extremes;
  // Sums of the values at even and at odd places.
  Sums of[2];
  // Whole powers as they are, in one pass, where nothing but their sum is wanted.
  const bool in_one_pass = !options.want_d_p && is_whole(p);
  if (in_one_pass) {
    by_power(p, [&](auto by) {
      constexpr int POWER = decltype(by)::power;
      if (POWER == ANY) return;
      row.each_word([&](int, unsigned word, auto count) {
        extremes.take(word);
#pragma unroll
        for (int k = 0; k < decltype(count)::power; k++)
          of[k].template add<POWER, false>(fmaxf(value_in(word, k, T()), eps), p);
      });
    });
  } else {
    row.each_word([&](int, unsigned word, auto) { extremes.take(word); });
  }
  Growing growing;
  growing.grow(extremes.smallest(), extremes.largest(), p, eps);
  const float least = growing.least, inverse = growing.inverse;
  // 1 / top is not a normal number: the general way.
  if (growing.top > HUGE_TOP) return gem_forward(row, p, options);
  Sums sums;
  if (in_one_pass && p * fabsf(log2_fast(growing.top)) <= PLAIN) {
    sums.sum = (of[0].sum + of[1].sum) * whole_power(inverse, (int)p);
  } else {
    of[0] = of[1] = Sums();
    by_power(p, [&](auto by) {
      constexpr int POWER = decltype(by)::power;
      auto add = [&](auto logs) {
        row.each_word([&](int, unsigned word, auto count) {
#pragma unroll
          for (int k = 0; k < decltype(count)::power; k++)
            of[k].template add<POWER, decltype(logs)::power == 1>(fmaxf(value_in(word, k, T()), least) * inverse, p);
        });
      };
      if (options.want_d_p) add(By<1>());
      else add(By<0>());
    });
    sums.sum = of[0].sum + of[1].sum;
    sums.logs = of[0].logs + of[1].logs;
  }
  return gem_finish(p, options, row.length, Row(options, growing.low, growing.high), sums);
}

template <class T> __device__ __forceinline__ Saved average(const WordRow<T>& row) {
  float of[2] = {0.0f, 0.0f};
  row.each_word([&](int, unsigned word, auto count) {
#pragma unroll
    for (int k = 0; k < decltype(count)::power; k++) of[k] += value_in(word, k, T());
  });
  return average_finish(of[0] + of[1], row.length);
}

// The first of equal maxima; the first NaN, if there is one.
template <class T> __device__ __forceinline__ Saved maximum(const WordRow<T>& row) {
  // Of the values at even and at odd places, with the word in which the largest first came.
  unsigned best = word_of(__int_as_float(0xff800000), T()), signs = 0;
  int words[2] = {0, 0};
  row.each_word([&](int i, unsigned word, auto count) {
    // The last value of an odd row is taken for both; its own place is the lower one.
    if (decltype(count)::power != IN_WORD<T>) word |= word << 16;
    signs |= word;
    const unsigned now = largest_in(best, word, T()), changed = now ^ best;
    if (IN_WORD<T> == 1 ? changed : changed & 0xffff) words[0] = i;
    if (changed >> 16) words[1] = i;
    best = now;
  });
  Saved saved = nothing_saved();
  const float even = value_in(best, 0, T()), odd = value_in(best, IN_WORD<T> - 1, T());
  saved.value = largest_nan(even, odd);
  const bool is_nan = saved.value != saved.value;
  const int of_even = (is_nan ? even != even : even == saved.value) ? words[0] : NOWHERE;
  const int of_odd = IN_WORD<T> == 2 && (is_nan ? odd != odd : odd == saved.value) ? words[1] + 1 : NOWHERE;
  saved.place = min(of_even, of_odd);
  // 0 and -0 are equal and have different bits.
  if (saved.value == 0.0f && (signs & (IN_WORD<T> == 1 ? 0x80000000 : 0x80008000))) {
    saved.place = NOWHERE;
    row.each([&](int i, float v) {
      if (v == 0.0f) saved.place = min(saved.place, i);
    });
  }
  return saved;
}

template <Pooling KIND, class T>
__device__ __forceinline__ Saved forward(const WordRow<T>& row, float p, const GemOptions& options) {
  if (KIND == AVERAGE) return average(row);
  if (KIND == MAXIMUM) return maximum(row);
  const float power = power_of(p);
  return options.sign == CLAMP ? gem_clamped(row, power, options) : gem_forward(row, power, options);
}

template <Pooling KIND, class T>
__device__ __forceinline__ void pool_short(const T* x, const float* p, const GemOptions& options, T* y, float* left,
                                           unsigned rows, int length, int stride, unsigned char* memory) {
  const unsigned first = first_row(), lane = threadIdx.x & 31, row = first + lane;
  if (first >= rows) return;
  // A word beyond the last row is read: a vector of room for it.
  unsigned char* shared = memory + (threadIdx.x >> 5) * (ROWS * stride + SLOT);
  copy_rows(shared_at(shared), x + (unsigned long long)first * length, min((int)(rows - first), ROWS), length, stride);
  if (row >= rows) return;
  const float power = KIND == GEM ? p[options.powers == 1 ? 0 : row % options.powers] : 1.0f;
  const Saved pooled = forward<KIND>(WordRow<T>(shared, (int)lane * stride, length), power, options);
  leave<KIND>(left, rows, row, options, pooled);
  y[row] = from_f32<T>(pooled.value);
}

// GEM with CLAMP and one power for all, AVERAGE, MAXIMUM.
template <Pooling KIND, class T>
__device__ __forceinline__ void pool_short_backward(const T* x, const float* p, const GemOptions& options,
                                                    const float* left, const T* dy, T* dx, unsigned rows,
                                                    int length) {
  const unsigned first = first_row();
  if (first >= rows) return;
  const int lane = threadIdx.x & 31, count = min((int)(rows - first), ROWS);
  const unsigned row = first + min(lane, count - 1);
  const float upstream = to_f32(dy[row]), power = KIND == GEM ? fmaxf(p[0], LEAST_P) : 1.0f;
  const Saved saved = left_of<KIND>(left, rows, row, options);
  const T* from = x + (unsigned long long)first * length;
  T* to = dx + (unsigned long long)first * length;
  // What a value of this lane's row is multiplied by before and after the power; MAXIMUM: where the maximum is, of 32 rows.
  float factor = KIND == AVERAGE ? saved.slope * upstream : upstream, inverse = 1.0f;
  int place = saved.place == NOWHERE ? -1 : lane * length + saved.place;
  if (KIND == GEM) {
    const Slope slope(power, options, saved, upstream);
    if (__ballot_sync(ALL_LANES, !slope.is_clamped)) {
      // Seldom, and slowly: value by value.
      for (int i = 0; i < length && lane < count; i++) {
        const int at = lane * length + i;
        to[at] = from_f32<T>(slope.of(i, to_f32(from[at])));
      }
      return;
    }
    factor = slope.factor;
    inverse = slope.inverse;
  }
  const int values = count * length;
  const float rows_a_value = 1.0f / (float)length;
  auto change = [&](auto by) {
    constexpr int POWER = decltype(by)::power;
    for (int start = 0; start < values; start += 32 * IN_VECTOR<T>) {
      // The row that holds the vector's first value, and the next, whose values start at `split`.
      const int at = start + lane * IN_VECTOR<T>, here = values - at;
      const int own = min((int)(((float)at + 0.5f) * rows_a_value), count - 1), next = min(own + 1, count - 1);
      const int split = (own + 1) * length - at;
      const float factors[2] = {__shfl_sync(ALL_LANES, factor, own), __shfl_sync(ALL_LANES, factor, next)};
      float inverses[2];
      int places[2];
      if (KIND == GEM) {
        inverses[0] = __shfl_sync(ALL_LANES, inverse, own);
        inverses[1] = __shfl_sync(ALL_LANES, inverse, next);
      }
      if (KIND == MAXIMUM) {
        places[0] = __shfl_sync(ALL_LANES, place, own) - at;
        places[1] = __shfl_sync(ALL_LANES, place, next) - at;
      }
      // What the k-th value becomes.
      auto changed = [&](int k, float v) {
        const bool first = k < split;
        const float times = first ? factors[0] : factors[1];
        if (KIND == AVERAGE) return times;
        if (KIND == MAXIMUM) return k == places[0] ? factors[0] : k == places[1] ? factors[1] : 0.0f;
        return ClampedSlope{power, options.eps, first ? inverses[0] : inverses[1], times}.of<POWER>(v);
      };
      if (here >= IN_VECTOR<T>) {
        float of[IN_VECTOR<T>];
        if (KIND == GEM) unpack(*reinterpret_cast<const uint4*>(from + at), of, T());
#pragma unroll
        for (int k = 0; k < IN_VECTOR<T>; k++) of[k] = changed(k, of[k]);
        *reinterpret_cast<uint4*>(to + at) = pack(of, T());
      } else {
#pragma unroll 1
        for (int k = 0; k < here; k++) to[at + k] = from_f32<T>(changed(k, KIND == GEM ? to_f32(from[at + k]) : 0.0f));
      }
    }
  };
  if (KIND == GEM) by_power(power, change);
  else change(By<1>());
}

// x, dx [rows, length], 16-byte aligned; p [options.powers], read by GeM only; y, dy [rows]; left: see Plane. A warp takes 32
// rows. The forward pass's dynamic shared memory: WARPS x (32 stride + 16) bytes.
#define POOL_SHORT(name, KIND, T)                                                                                      \
  extern "C" __global__ void __launch_bounds__(WARPS * 32, 8)                                                          \
      pool_short_##name(const T* __restrict__ x, const float* __restrict__ p, GemOptions options, T* __restrict__ y,   \
                        float* __restrict__ left, int rows, int length, int stride) {                                  \
    DYNAMIC_SHARED(memory);                                                                                            \
    pool_short<KIND>(x, p, options, y, left, rows, length, stride, memory);                                            \
  }                                                                                                                    \
  EXPORT_KERNEL(pool_short_##name)                                                                                     \
  extern "C" __global__ void __launch_bounds__(WARPS * 32, 8)                                                          \
      pool_short_backward_##name(const T* __restrict__ x, const float* __restrict__ p, GemOptions options,             \
                                 const float* __restrict__ left, const T* __restrict__ dy, T* __restrict__ dx,         \
                                 int rows, int length) {                                                               \
    pool_short_backward<KIND>(x, p, options, left, dy, dx, rows, length);                                              \
  }                                                                                                                    \
  EXPORT_KERNEL(pool_short_backward_##name)
POOL_SHORT(gem_f32, GEM, float)
POOL_SHORT(gem_f16, GEM, f16)
POOL_SHORT(gem_bf16, GEM, bf16)
POOL_SHORT(average_f32, AVERAGE, float)
POOL_SHORT(average_f16, AVERAGE, f16)
POOL_SHORT(average_bf16, AVERAGE, bf16)
POOL_SHORT(maximum_f32, MAXIMUM, float)
POOL_SHORT(maximum_f16, MAXIMUM, f16)
POOL_SHORT(maximum_bf16, MAXIMUM, bf16)
