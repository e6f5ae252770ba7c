// CUDA C++ for an ordinary compiler: `g++ -x c++ -include cuda.h kernel.cu` compiles an unmodified kernel source, and
// `emulator.h` runs it. Only what our kernels use is here; an unknown intrinsic is a compile error, not a wrong result.
#pragma once
#define EMULATOR 1

#include <cmath>
#include <cstdint>
#include <cstring>

#include "emulator.h"

// ---- Where code runs, where data lies
#define __global__
#define __device__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __restrict__ __restrict
// A block's shared variables are static, in a section that the emulator fills with NaN before each block.
#define __shared__ static __attribute__((section("emulated_shared")))

#define threadIdx (emulator::thread())
#define blockIdx (emulator::block())
#define blockDim (emulator::block_dim())
#define gridDim (emulator::grid_dim())

struct __align__(8) float2 { float x, y; };
struct __align__(8) uint2 { unsigned x, y; };
struct __align__(16) float4 { float x, y, z, w; };
struct __align__(16) uint4 { unsigned x, y, z, w; };
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }

// ---- Barriers and warp collectives (all 32 lanes, see emulator.h)
inline void __syncthreads(int line = __builtin_LINE()) { emulator::barrier(line); }
inline void __syncwarp() { emulator::exchange(0, [](auto) { return 0; }); }

template <class T>
inline T __shfl_xor_sync(unsigned mask, T value, int lane_mask) {
  emulator::require_full(mask);
  const unsigned lane = emulator::lane();
  return emulator::exchange(value, [=](auto all) { return all[lane ^ lane_mask]; });
}
template <class T>
inline T __shfl_sync(unsigned mask, T value, int source) {
  emulator::require_full(mask);
  return emulator::exchange(value, [=](auto all) { return all[source & 31]; });
}
template <class T>
inline T __shfl_up_sync(unsigned mask, T value, unsigned delta) {
  emulator::require_full(mask);
  const unsigned lane = emulator::lane();
  return emulator::exchange(value, [=](auto all) { return all[lane < delta ? lane : lane - delta]; });
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  emulator::require_full(mask);
  return emulator::exchange(predicate, [](auto all) {
    unsigned bits = 0;
    for (unsigned lane = 0; lane < 32; lane++) bits |= unsigned(all[lane] != 0) << lane;
    return bits;
  });
}

// ---- Atomics: fibers switch at collectives only, so a plain read-modify-write is atomic
template <class T> inline T atomicAdd(T* at, T value) { T old = *at; *at = old + value; return old; }
template <class T> inline T atomicMin(T* at, T value) { T old = *at; if (value < old) *at = value; return old; }
template <class T> inline T atomicMax(T* at, T value) { T old = *at; if (value > old) *at = value; return old; }

// ---- Arithmetic
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline float __int_as_float(int bits) { float f; std::memcpy(&f, &bits, 4); return f; }
inline int __float_as_int(float f) { int bits; std::memcpy(&bits, &f, 4); return bits; }
inline float __uint_as_float(unsigned bits) { float f; std::memcpy(&f, &bits, 4); return f; }
inline unsigned __float_as_uint(float f) { unsigned bits; std::memcpy(&bits, &f, 4); return bits; }
// Never part of a fused multiply-add.
inline float __fmul_rn(float a, float b) { return a * b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }
inline double cospi(double x) { return std::cos(M_PI * std::fmod(x, 2.0)); }
inline double sinpi(double x) { return std::sin(M_PI * std::fmod(x, 2.0)); }
