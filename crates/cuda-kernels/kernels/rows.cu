// Rows as unit vectors for the tensor cores, and changes of storage.
#include "rows.cuh"

// A tile of centres, a warp a row.
extern "C" __global__ void __launch_bounds__(256) centres_unit(UnitTile of) {
  const int warp = (int)((blockIdx.x * blockDim.x + threadIdx.x) >> 5), warps = (int)(gridDim.x * blockDim.x >> 5);
  by_storage(of.values, of.storage, [&](auto* values) { unit_tile(of, values, in_fours(values, of.dim), warp, warps); });
}
EXPORT_KERNEL(centres_unit)

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
