// Kernels with the faults that the emulator is there to find, and one without.
#include "tensor.cuh"

// The sum of 256 values by a tree in shared memory. FAULTLESS, or without the barrier between the steps.
template <bool FAULTLESS> __device__ __forceinline__ void tree(const float* in, float* out, float* values) {
  values[threadIdx.x] = in[threadIdx.x];
  for (int step = 128; step > 0; step >>= 1) {
    if (FAULTLESS || step == 128) __syncthreads();
    // Warps that run ahead add what the others have not summed yet.
    if ((int)threadIdx.x < step) values[threadIdx.x] += values[threadIdx.x + step];
    if (!FAULTLESS) __syncwarp();
  }
  if (threadIdx.x == 0) *out = values[0];
}
extern "C" __global__ void sound(const float* in, float* out) {
  __shared__ float values[256];
  tree<true>(in, out, values);
}
EXPORT_KERNEL(sound)
extern "C" __global__ void missing_barrier(const float* in, float* out) {
  __shared__ float values[256];
  tree<false>(in, out, values);
}
EXPORT_KERNEL(missing_barrier)

// Each warp's sum is added to the total in the order in which the warps come: a race that only rounding shows.
extern "C" __global__ void race(const float* in, float* out) {
  const float sum = warp_sum(in[threadIdx.x]);
  if (threadIdx.x % 32 == 0) atomicAdd(out, sum);
}
EXPORT_KERNEL(race)

// Shared memory that nobody wrote.
extern "C" __global__ void unwritten(const float* in, float* out) {
  DYNAMIC_SHARED(shared);
  __shared__ float fixed[32];
  if (threadIdx.x == 0) out[0] = reinterpret_cast<float*>(shared)[7] + in[0];
  if (threadIdx.x == 0) out[1] = fixed[3] + in[0];
}
EXPORT_KERNEL(unwritten)

// Half the threads never reach the barrier.
extern "C" __global__ void left_early(const float* in, float* out) {
  if (threadIdx.x >= 128) return;
  __syncthreads();
  if (threadIdx.x == 0) *out = in[0];
}
EXPORT_KERNEL(left_early)

// Half a warp waits for the other half.
extern "C" __global__ void half_a_warp(const float* in, float* out) {
  if (threadIdx.x % 32 < 16) *out = warp_sum(in[threadIdx.x]);
}
EXPORT_KERNEL(half_a_warp)

// Two barriers that are not the same.
extern "C" __global__ void two_barriers(const float* in, float* out) {
  if (threadIdx.x < 128) __syncthreads();
  else
    __syncthreads();
  if (threadIdx.x == 0) *out = in[0];
}
EXPORT_KERNEL(two_barriers)

// Reads an asynchronous copy's destination, having waited for all but the last group, which is its own.
template <int PENDING> __device__ __forceinline__ void copied(const float* in, float* out) {
  DYNAMIC_SHARED(shared);
  float* values = reinterpret_cast<float*>(shared);
  if (threadIdx.x == 0) {
    copy_whole(shared_at(shared), in);
    copy_commit();
    copy_wait<PENDING>();
    *out = values[1];
    copy_wait<0>();
  }
}
extern "C" __global__ void waited(const float* in, float* out) { copied<0>(in, out); }
EXPORT_KERNEL(waited)
extern "C" __global__ void not_waited(const float* in, float* out) { copied<1>(in, out); }
EXPORT_KERNEL(not_waited)

// Writes one value past the end of `out` (of one), of dynamic shared memory, or reads past the end of `in`.
extern "C" __global__ void past_global_write(const float* in, float* out) { out[threadIdx.x / 31] = in[0]; }
EXPORT_KERNEL(past_global_write)
extern "C" __global__ void past_global_read(const float* in, float* out) {
  if (threadIdx.x == 0) out[0] = in[256];
}
EXPORT_KERNEL(past_global_read)
extern "C" __global__ void past_shared(const float* in, float* out) {
  DYNAMIC_SHARED(shared);
  reinterpret_cast<float*>(shared)[threadIdx.x + 1] = in[0];
  __syncthreads();
  if (threadIdx.x == 0) out[0] = in[0];
}
EXPORT_KERNEL(past_shared)
