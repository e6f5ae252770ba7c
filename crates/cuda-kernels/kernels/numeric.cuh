// Number formats and the few instructions that the language does not name. Inline PTX stands here and in tensor.cuh
// only, each function with the emulator's definition beside it. No CUDA header is included: the run-time compiler alone
// builds the kernels.
#pragma once

struct f16 { unsigned short bits; };
struct bf16 { unsigned short bits; };

#ifdef EMULATOR

#define DYNAMIC_SHARED(name) unsigned char* name = emulator::dynamic_shared()

// Round to nearest even, as the instruction; subnormal results are kept.
inline f16 to_f16(float v) {
  const unsigned bits = __float_as_uint(v), sign = bits >> 16 & 0x8000;
  unsigned size = bits & 0x7fffffff;
  if (size > 0x7f800000) return {0x7fff};
  if (size >= 0x477ff000) return {(unsigned short)(sign | 0x7c00)};
  if (size < 0x38800000)  // below 2^-14: a multiple of 2^-24
    return {(unsigned short)(sign | (unsigned)std::nearbyint(std::ldexp((double)__uint_as_float(size), 24)))};
  size += 0xfff + (size >> 13 & 1);
  return {(unsigned short)(sign | (size - 0x38000000) >> 13)};
}
// Every f16 as f32: products convert most of the time.
struct HalfTable {
  float of[1 << 16];
  HalfTable() {
    for (unsigned bits = 0; bits < 1u << 16; bits++) {
      const unsigned sign = (bits & 0x8000) << 16, exponent = bits >> 10 & 31, mantissa = bits & 0x3ff;
      of[bits] = exponent == 31  ? __uint_as_float(sign | 0x7f800000 | mantissa << 13)
                 : exponent == 0 ? (sign ? -1.0f : 1.0f) * (float)mantissa * 0x1p-24f
                                 : __uint_as_float(sign | (exponent + 112) << 23 | mantissa << 13);
    }
  }
};
inline const HalfTable half_table;
inline float to_f32(f16 h) { return half_table.of[h.bits]; }
inline bf16 to_bf16(float v) {
  const unsigned bits = __float_as_uint(v);
  if ((bits & 0x7fffffff) > 0x7f800000) return {0x7fff};
  return {(unsigned short)((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}
inline float exp2_fast(float x) { return exp2f(x); }
inline float log2_fast(float x) { return log2f(x); }
inline float inverse_fast(float x) { return 1.0f / x; }
inline long long in_register(long long v) { return v; }
inline float largest_nan(float a, float b) { return a != a || b != b ? NAN : fmaxf(a, b); }
inline float smallest_nan(float a, float b) { return a != a || b != b ? NAN : fminf(a, b); }

#else

#define EXPORT_KERNEL(name)
#define DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]

__device__ __forceinline__ f16 to_f16(float v) {
  f16 h;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h.bits) : "f"(v));
  return h;
}
__device__ __forceinline__ float to_f32(f16 h) {
  float v;
  asm("cvt.f32.f16 %0, %1;" : "=f"(v) : "h"(h.bits));
  return v;
}
__device__ __forceinline__ bf16 to_bf16(float v) {
  bf16 h;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(h.bits) : "f"(v));
  return h;
}
// Relative error below 2^-22 (PTX ISA, ex2.approx).
__device__ __forceinline__ float exp2_fast(float x) {
  float v;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(v) : "f"(x));
  return v;
}
// Absolute error below 2^-22 for arguments in (0.5, 2), relative error below 2^-22 elsewhere (PTX ISA, lg2.approx).
__device__ __forceinline__ float log2_fast(float x) {
  float v;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(v) : "f"(x));
  return v;
}
// 1 / x within a unit in the last place (PTX ISA, rcp.approx), for x and 1 / x of normal size.
__device__ __forceinline__ float inverse_fast(float x) {
  float v;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(v) : "f"(x));
  return v;
}
// A number of which the compiler knows nothing, so that it does not compute with it once more at each use.
__device__ __forceinline__ long long in_register(long long v) {
  asm("" : "+l"(v));
  return v;
}
// The larger and the smaller; NaN where either is.
__device__ __forceinline__ float largest_nan(float a, float b) {
  float v;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(v) : "f"(a), "f"(b));
  return v;
}
__device__ __forceinline__ float smallest_nan(float a, float b) {
  float v;
  asm("min.NaN.f32 %0, %1, %2;" : "=f"(v) : "f"(a), "f"(b));
  return v;
}

#endif

__device__ __forceinline__ float to_f32(float v) { return v; }
__device__ __forceinline__ float to_f32(bf16 h) { return __uint_as_float((unsigned)h.bits << 16); }

template <class T> __device__ __forceinline__ T from_f32(float v);
template <> __device__ __forceinline__ float from_f32<float>(float v) { return v; }
template <> __device__ __forceinline__ f16 from_f32<f16>(float v) { return to_f16(v); }
template <> __device__ __forceinline__ bf16 from_f32<bf16>(float v) { return to_bf16(v); }

// Where one expression stands in several kernels, or in several instances of a template, and all must give the same bits, what
// is one rounding and what are two is written out: fmaf and fma, __fmul_rn and __dmul_rn. Left to itself the compiler
// joins a product and a sum in one place and not in the other.

constexpr unsigned ALL_LANES = 0xffffffffu;
// The largest finite f32. Its negative stands for "no value" where infinity would make NaN of a difference.
constexpr float LARGEST = 3.402823466e38f;

// Sum over a warp; every lane gets the same bits.
template <class T>
__device__ __forceinline__ T warp_sum(T v) {
#pragma unroll
  for (int step = 16; step > 0; step >>= 1) v += __shfl_xor_sync(ALL_LANES, v, step);
  return v;
}
__device__ __forceinline__ float warp_max(float v) {
#pragma unroll
  for (int step = 16; step > 0; step >>= 1) v = fmaxf(v, __shfl_xor_sync(ALL_LANES, v, step));
  return v;
}
