// 16 bytes of values: how they are taken apart and put together, and their extremes without taking them apart.
#pragma once
#include "numeric.cuh"

#ifdef EMULATOR

template <class T> inline unsigned pair(T low, T high) { return low.bits | (unsigned)high.bits << 16; }
template <class T> inline T half_of(unsigned pair, int which) { return T{(unsigned short)(pair >> 16 * which)}; }
template <class T> inline unsigned pack_pair(float low, float high) { return pair(from_f32<T>(low), from_f32<T>(high)); }
template <class T, class F> inline unsigned of_pairs(unsigned a, unsigned b, F f) {
  return pack_pair<T>(f(to_f32(half_of<T>(a, 0)), to_f32(half_of<T>(b, 0))),
                      f(to_f32(half_of<T>(a, 1)), to_f32(half_of<T>(b, 1))));
}
template <class T> inline unsigned largest_pair(unsigned a, unsigned b) { return of_pairs<T>(a, b, largest_nan); }
template <class T> inline unsigned smallest_pair(unsigned a, unsigned b) { return of_pairs<T>(a, b, smallest_nan); }

#else

template <class T> __device__ __forceinline__ T half_of(unsigned pair, int which) {
  return T{(unsigned short)(which ? pair >> 16 : pair)};
}
#define PAIRS(T, name)                                                                       \
  template <> __device__ __forceinline__ unsigned pack_pair<T>(float low, float high) {      \
    unsigned pair;                                                                           \
    asm("cvt.rn." name "x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));             \
    return pair;                                                                             \
  }                                                                                          \
  template <> __device__ __forceinline__ unsigned largest_pair<T>(unsigned a, unsigned b) {  \
    unsigned pair;                                                                           \
    asm("max.NaN." name "x2 %0, %1, %2;" : "=r"(pair) : "r"(a), "r"(b));                     \
    return pair;                                                                             \
  }                                                                                          \
  template <> __device__ __forceinline__ unsigned smallest_pair<T>(unsigned a, unsigned b) { \
    unsigned pair;                                                                           \
    asm("min.NaN." name "x2 %0, %1, %2;" : "=r"(pair) : "r"(a), "r"(b));                     \
    return pair;                                                                             \
  }
// Two values of 16 bits in a word, the first in the lower half.
template <class T> __device__ __forceinline__ unsigned pack_pair(float low, float high);
template <class T> __device__ __forceinline__ unsigned largest_pair(unsigned a, unsigned b);
template <class T> __device__ __forceinline__ unsigned smallest_pair(unsigned a, unsigned b);
PAIRS(f16, "f16")
PAIRS(bf16, "bf16")

#endif

// Values of T in 16 bytes, and in a word of 4.
template <class T> constexpr int IN_VECTOR = 16 / (int)sizeof(T);
template <class T> constexpr int IN_WORD = 4 / (int)sizeof(T);

// A value of a word, the lowest first.
__device__ __forceinline__ float value_in(unsigned word, int, float) { return __uint_as_float(word); }
template <class T> __device__ __forceinline__ float value_in(unsigned word, int which, T) {
  return to_f32(half_of<T>(word, which));
}

__device__ __forceinline__ void unpack(const uint4& from, float (&to)[4], float) {
  to[0] = __uint_as_float(from.x);
  to[1] = __uint_as_float(from.y);
  to[2] = __uint_as_float(from.z);
  to[3] = __uint_as_float(from.w);
}
template <class T> __device__ __forceinline__ void unpack(const uint4& from, float (&to)[8], T) {
  const unsigned words[4] = {from.x, from.y, from.z, from.w};
#pragma unroll
  for (int i = 0; i < 4; i++) {
    to[2 * i] = to_f32(half_of<T>(words[i], 0));
    to[2 * i + 1] = to_f32(half_of<T>(words[i], 1));
  }
}
__device__ __forceinline__ uint4 pack(const float (&from)[4], float) {
  return {__float_as_uint(from[0]), __float_as_uint(from[1]), __float_as_uint(from[2]), __float_as_uint(from[3])};
}
template <class T> __device__ __forceinline__ uint4 pack(const float (&from)[8], T) {
  return {pack_pair<T>(from[0], from[1]), pack_pair<T>(from[2], from[3]), pack_pair<T>(from[4], from[5]),
          pack_pair<T>(from[6], from[7])};
}
// The larger and the smaller of each value of two words; NaN where either is.
__device__ __forceinline__ unsigned largest_in(unsigned a, unsigned b, float) {
  return __float_as_uint(largest_nan(__uint_as_float(a), __uint_as_float(b)));
}
template <class T> __device__ __forceinline__ unsigned largest_in(unsigned a, unsigned b, T) {
  return largest_pair<T>(a, b);
}
__device__ __forceinline__ unsigned smallest_in(unsigned a, unsigned b, float) {
  return __float_as_uint(smallest_nan(__uint_as_float(a), __uint_as_float(b)));
}
template <class T> __device__ __forceinline__ unsigned smallest_in(unsigned a, unsigned b, T) {
  return smallest_pair<T>(a, b);
}
// A word of one value.
__device__ __forceinline__ unsigned word_of(float v, float) { return __float_as_uint(v); }
template <class T> __device__ __forceinline__ unsigned word_of(float v, T) { return pack_pair<T>(v, v); }

// Largest and smallest of many vectors and of 0, NaN once a value was NaN. Values of 16 bits stay in pairs until the end.
template <class T> struct Extremes {
  unsigned high = 0, low = 0;
  __device__ __forceinline__ void take(const uint4& v) {
    high = largest_pair<T>(high, largest_pair<T>(largest_pair<T>(v.x, v.y), largest_pair<T>(v.z, v.w)));
    low = smallest_pair<T>(low, smallest_pair<T>(smallest_pair<T>(v.x, v.y), smallest_pair<T>(v.z, v.w)));
  }
  __device__ __forceinline__ void take(unsigned word) {
    high = largest_pair<T>(high, word);
    low = smallest_pair<T>(low, word);
  }
  __device__ __forceinline__ float largest() const {
    return largest_nan(to_f32(half_of<T>(high, 0)), to_f32(half_of<T>(high, 1)));
  }
  __device__ __forceinline__ float smallest() const {
    return smallest_nan(to_f32(half_of<T>(low, 0)), to_f32(half_of<T>(low, 1)));
  }
};
template <> struct Extremes<float> {
  float high = 0.0f, low = 0.0f;
  __device__ __forceinline__ void take(const uint4& v) {
    float of[4];
    unpack(v, of, 0.0f);
    high = largest_nan(high, largest_nan(largest_nan(of[0], of[1]), largest_nan(of[2], of[3])));
    low = smallest_nan(low, smallest_nan(smallest_nan(of[0], of[1]), smallest_nan(of[2], of[3])));
  }
  __device__ __forceinline__ void take(unsigned word) {
    high = largest_nan(high, __uint_as_float(word));
    low = smallest_nan(low, __uint_as_float(word));
  }
  __device__ __forceinline__ float largest() const { return high; }
  __device__ __forceinline__ float smallest() const { return low; }
};

// The vector without its first `count` values (0 to all but one), which become 0.
template <class T> __device__ __forceinline__ uint4 without_first(uint4 v, int count) {
  unsigned* words[4] = {&v.x, &v.y, &v.z, &v.w};
  const int bits = count * 8 * (int)sizeof(T);
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const int gone = min(max(bits - 32 * i, 0), 32);
    *words[i] = gone == 32 ? 0 : *words[i] & (0xffffffffu << gone);
  }
  return v;
}
