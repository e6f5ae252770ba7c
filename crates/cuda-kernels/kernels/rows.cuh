// Rows of values: their norms and unit vectors, four values at a time and a warp a row.
#pragma once
#include "numeric.cuh"

// Unit vectors are stored times this: their small parts stay clear of f16's subnormal numbers (the low half of a split
// value keeps an absolute error of 2^-33 of the vector), and no product of two comes near f16's or f32's end.
constexpr float UNIT = 256.0f;
// A product of two of them, times this, is a cosine.
constexpr float COSINE = 1.0f / (UNIT * UNIT);
// A row shorter than this is divided by this instead of by its norm.
constexpr float SHORTEST = 1e-12f;

// Which of the storage types a pointer without one has. Mirrored by `Storage::CODE`.
enum StorageCode { OF_F32, OF_F16, OF_BF16 };

// Calls `use` with the pointer as what it is.
template <class Use>
__device__ __forceinline__ void by_storage(const void* values, int storage, Use use) {
  if (storage == OF_F32) use(static_cast<const float*>(values));
  else if (storage == OF_F16) use(static_cast<const f16*>(values));
  else use(static_cast<const bf16*>(values));
}

struct Four { float v[4]; };

// Whether rows of `dim` values from `values` on can be loaded four at a time (a null pointer can). Which values a lane takes,
// and in which order it adds them, does not depend on it.
template <class T> __device__ __forceinline__ bool in_fours(const T* values, int dim) {
  return dim % 4 == 0 && (unsigned long long)values % (4 * sizeof(T)) == 0;
}
// Values d to d + 3 of a row; 0 from `dim` on.
__device__ __forceinline__ Four load_four(const float* row, int d, int dim, bool fours) {
  if (fours) {
    const float4 four = *reinterpret_cast<const float4*>(row + d);
    return {{four.x, four.y, four.z, four.w}};
  }
  Four of;
#pragma unroll
  for (int i = 0; i < 4; i++) of.v[i] = d + i < dim ? row[d + i] : 0.0f;
  return of;
}
template <class T> __device__ __forceinline__ Four load_four(const T* row, int d, int dim, bool fours) {
  Four of;
  if (fours) {
    const uint2 four = *reinterpret_cast<const uint2*>(row + d);
    of.v[0] = to_f32(T{(unsigned short)four.x});
    of.v[1] = to_f32(T{(unsigned short)(four.x >> 16)});
    of.v[2] = to_f32(T{(unsigned short)four.y});
    of.v[3] = to_f32(T{(unsigned short)(four.y >> 16)});
    return of;
  }
#pragma unroll
  for (int i = 0; i < 4; i++) of.v[i] = d + i < dim ? to_f32(row[d + i]) : 0.0f;
  return of;
}
__device__ __forceinline__ void store_four(float* row, int d, int dim, bool fours, const Four& of) {
  if (fours) {
    *reinterpret_cast<float4*>(row + d) = make_float4(of.v[0], of.v[1], of.v[2], of.v[3]);
    return;
  }
#pragma unroll
  for (int i = 0; i < 4; i++)
    if (d + i < dim) row[d + i] = of.v[i];
}
// To rows of f16 that end at a multiple of 4 values.
__device__ __forceinline__ void store_four(f16* row, int d, const f16 (&of)[4]) {
  *reinterpret_cast<uint2*>(row + d) = uint2{(unsigned)of[0].bits | (unsigned)of[1].bits << 16,
                                             (unsigned)of[2].bits | (unsigned)of[3].bits << 16};
}

// Length of a row, by a warp; every lane gets the same bits. In f32; rows whose squares leave its range, in f64.
template <class T>
__device__ __forceinline__ float row_norm(const T* row, int dim, bool fours) {
  const int lane = threadIdx.x & 31;
  float sum = 0.0f;
#pragma unroll 4
  for (int d = 4 * lane; d < dim; d += 128) {
    const Four of = load_four(row, d, dim, fours);
#pragma unroll
    for (int i = 0; i < 4; i++) sum = fmaf(of.v[i], of.v[i], sum);
  }
  sum = warp_sum(sum);
  if (sum > 1e-28f && sum < 1e37f) return sqrtf(sum);
  double wide = 0.0;
  for (int d = lane; d < dim; d += 32) {
    const double v = to_f32(row[d]);
    wide = fma(v, v, wide);
  }
  return (float)sqrt(warp_sum(wide));
}

// Where a unit row goes: f16 `high` (+ `low`, if not null) of `padded` values (a multiple of 4), zeros beyond `dim`.
// `again`, if not null, gets `high` a second time: high, low and again as pieces of one row make the split product a
// single, longer one.
struct UnitRow { f16* high; f16* low; f16* again; };

// values / its norm, times `factor`. Returns the norm.
template <class T>
__device__ __forceinline__ float write_unit(const T* values, bool fours, float factor, const UnitRow& to, int dim,
                                            int padded) {
  const float norm = row_norm(values, dim, fours);
  const float scale = factor * UNIT, inverse = 1.0f / fmaxf(norm, SHORTEST);
#pragma unroll 4
  for (int d = 4 * (int)(threadIdx.x & 31); d < padded; d += 128) {
    const Four of = d < dim ? load_four(values, d, dim, fours) : Four{};
    f16 high[4], low[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const float v = __fmul_rn(of.v[i] * inverse, scale);
      high[i] = to_f16(v);
      low[i] = to_f16(v - to_f32(high[i]));
    }
    store_four(to.high, d, high);
    if (to.low) store_four(to.low, d, low);
    if (to.again) store_four(to.again, d, high);
  }
  return norm;
}

// A tile of centres to unit rows and norms. `values` [classes * subs, dim]; row sub * pitch + class of the outputs is a
// class's centre `sub` (SubCentres in margin.cuh), zeros beyond the classes. `width` values from row to row. Mirrored by
// `margin::jobs::UnitTile`.
struct UnitTile {
  const void* values;
  f16* high;
  f16* low;
  f16* again;
  float* norms;  // [rows], or null
  int storage;
  int rows;      // of the outputs; 0: nothing to do
  int classes;
  int dim;
  int padded;
  int subs;
  int pitch;
  int width;
};

// By all warps of a grid, of which this is number `warp` of `warps`.
template <class T>
__device__ __forceinline__ void unit_tile(const UnitTile& of, const T* values, bool fours, int warp, int warps) {
  for (int row = warp; row < of.rows; row += warps) {
    const int sub = of.subs == 1 ? 0 : row / of.pitch, of_class = row - sub * of.pitch;
    const bool there = of_class < of.classes;
    const long long from = ((long long)(there ? of_class : 0) * of.subs + sub) * of.dim, at = (long long)row * of.width;
    const UnitRow to{of.high + at, of.low ? of.low + at : nullptr, of.again ? of.again + at : nullptr};
    const float norm = write_unit(values + from, fours, 1.0f, to, there ? of.dim : 0, of.padded);
    if (of.norms && (threadIdx.x & 31) == 0) of.norms[row] = norm;
  }
}
