// Rows as unit vectors for the tensor cores, and changes of storage.
#include "rows.cuh"

// Norms of `rows` x `dim` values and their unit vectors times UNIT (and times `factors[row]` if given), as f16 `high`
// (+ `low`, if not null) of `padded` columns, zeros beyond `dim`; `pitch` values from row to row. `again`, if not null,
// gets `high` a second time: high, low and again as pieces of one row make the split product a single, longer one.
// A warp a row.
template <class T>
__device__ __forceinline__ void unit_rows(const T* values, const float* factors, f16* high, f16* low, f16* again,
                                          float* norms, int rows, int dim, int padded, int pitch) {
  const int row = (int)((blockIdx.x * blockDim.x + threadIdx.x) >> 5), lane = threadIdx.x & 31;
  if (row >= rows) return;
  const T* of = values + (long long)row * dim;
  const float norm = row_norm(of, dim);
  const float factor = (factors ? factors[row] : 1.0f) * UNIT;
  const float inverse = 1.0f / fmaxf(norm, SHORTEST);
  for (int d = lane; d < padded; d += 32) {
    const float v = d < dim ? to_f32(of[d]) * inverse * factor : 0.0f;
    const f16 rounded = to_f16(v);
    high[(long long)row * pitch + d] = rounded;
    if (low) low[(long long)row * pitch + d] = to_f16(v - to_f32(rounded));
    if (again) again[(long long)row * pitch + d] = rounded;
  }
  if (lane == 0 && norms) norms[row] = norm;
}

#define UNIT_ROWS(name, T)                                                                                        \
  extern "C" __global__ void __launch_bounds__(256)                                                               \
      name(const T* __restrict__ values, const float* __restrict__ factors, f16* __restrict__ high,               \
           f16* __restrict__ low, f16* __restrict__ again, float* __restrict__ norms, int rows, int dim,           \
           int padded, int pitch) {                                                                               \
    unit_rows(values, factors, high, low, again, norms, rows, dim, padded, pitch);                                \
  }                                                                                                               \
  EXPORT_KERNEL(name)
UNIT_ROWS(unit_rows_f32, float)
UNIT_ROWS(unit_rows_f16, f16)
UNIT_ROWS(unit_rows_bf16, bf16)

// A tile of classes with several centres each, `values` [classes * subs, dim], into unit rows (as unit_rows makes them) and
// norms [subs * pitch] in the order of `SubCentres` (margin.cuh): rows beyond the classes are zero. `width` values from
// row to row. A warp a row.
template <class T>
__device__ __forceinline__ void unit_centres(const T* values, f16* high, f16* low, f16* again, float* norms,
                                             int classes, int dim, int padded, int subs, int pitch, int width) {
  const int row = (int)((blockIdx.x * blockDim.x + threadIdx.x) >> 5), lane = threadIdx.x & 31;
  if (row >= subs * pitch) return;
  const int sub = row / pitch, of_class = row % pitch;
  const bool there = of_class < classes;
  const T* of = values + ((long long)(there ? of_class : 0) * subs + sub) * dim;
  const float norm = row_norm(of, dim), scale = there ? UNIT / fmaxf(norm, SHORTEST) : 0.0f;
  for (int d = lane; d < padded; d += 32) {
    const float v = there && d < dim ? to_f32(of[d]) * scale : 0.0f;
    const f16 rounded = to_f16(v);
    high[(long long)row * width + d] = rounded;
    if (low) low[(long long)row * width + d] = to_f16(v - to_f32(rounded));
    if (again) again[(long long)row * width + d] = rounded;
  }
  if (lane == 0 && norms) norms[row] = norm;
}

#define UNIT_CENTRES(name, T)                                                                                     \
  extern "C" __global__ void __launch_bounds__(256)                                                               \
      name(const T* __restrict__ values, f16* __restrict__ high, f16* __restrict__ low, f16* __restrict__ again,    \
           float* __restrict__ norms, int classes, int dim, int padded, int subs, int pitch, int width) {         \
    unit_centres(values, high, low, again, norms, classes, dim, padded, subs, pitch, width);                      \
  }                                                                                                               \
  EXPORT_KERNEL(name)
UNIT_CENTRES(unit_centres_f32, float)
UNIT_CENTRES(unit_centres_f16, f16)
UNIT_CENTRES(unit_centres_bf16, bf16)

// 16-bit storage to f32 and back, value by value.
template <class From, class To>
__device__ __forceinline__ void convert(const From* from, To* to, long long count) {
  const long long at = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (at < count) to[at] = from_f32<To>(to_f32(from[at]));
}

#define CONVERT(name, From, To)                                                                                   \
  extern "C" __global__ void __launch_bounds__(256)                                                               \
      name(const From* __restrict__ from, To* __restrict__ to, long long count) {                                 \
    convert(from, to, count);                                                                                     \
  }                                                                                                               \
  EXPORT_KERNEL(name)
CONVERT(widen_f32, float, float)
CONVERT(widen_f16, f16, float)
CONVERT(widen_bf16, bf16, float)
CONVERT(narrow_f32, float, float)
CONVERT(narrow_f16, float, f16)
CONVERT(narrow_bf16, float, bf16)
