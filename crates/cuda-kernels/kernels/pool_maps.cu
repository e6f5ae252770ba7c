// Average and maximum of feature maps [rows, length] (rows = batch x channels), a warp a row, values by 16 bytes; and the
// sums of the powers' gradient. GeM is in pool_gem.cu.
#include "pool.cuh"

template <class T> struct Vector {
  static constexpr int size = IN_VECTOR<T>;
  union {
    uint4 all;
    T of[size];
  };
  __device__ __forceinline__ Vector() {}
};

// A row anywhere in 16-byte aligned memory: single values up to the first multiple of 16 bytes, vectors, and the rest.
template <class T> struct MapRow {
  const T* values;
  int length, head, vectors;
  __device__ __forceinline__ MapRow(const T* x, long long row, int length) : values(x + row * length), length(length) {
    const int past = (int)(row * length % Vector<T>::size);
    head = min(past ? Vector<T>::size - past : 0, length);
    vectors = (length - head) / Vector<T>::size;
  }
  template <class F> __device__ __forceinline__ void each(F f) const {
    const int lane = threadIdx.x & 31, tail = head + vectors * Vector<T>::size;
    if (lane < head) f(lane, to_f32(values[lane]));
    for (int i = lane; i < vectors; i += 32) {
      Vector<T> vector;
      vector.all = reinterpret_cast<const uint4*>(values + head)[i];
#pragma unroll
      for (int k = 0; k < Vector<T>::size; k++) f(head + i * Vector<T>::size + k, to_f32(vector.of[k]));
    }
    if (tail + lane < length) f(tail + lane, to_f32(values[tail + lane]));
  }
  // `out` is the row's place in memory that lies as the values do.
  template <class F> __device__ __forceinline__ void map(T* out, F f) const {
    const int lane = threadIdx.x & 31, tail = head + vectors * Vector<T>::size;
    if (lane < head) out[lane] = from_f32<T>(f(lane, to_f32(values[lane])));
    for (int i = lane; i < vectors; i += 32) {
      Vector<T> vector;
      vector.all = reinterpret_cast<const uint4*>(values + head)[i];
#pragma unroll
      for (int k = 0; k < Vector<T>::size; k++)
        vector.of[k] = from_f32<T>(f(head + i * Vector<T>::size + k, to_f32(vector.of[k])));
      reinterpret_cast<uint4*>(out + head)[i] = vector.all;
    }
    if (tail + lane < length) out[tail + lane] = from_f32<T>(f(tail + lane, to_f32(values[tail + lane])));
  }
};

template <Pooling KIND, class T> __device__ __forceinline__ Saved forward(const MapRow<T>& row) {
  if (KIND == AVERAGE) {
    float sum = 0.0f;
    row.each([&](int, float v) { sum += v; });
    return average_finish(warp_sum(sum), row.length);
  }
  Highest highest;
  row.each([&](int i, float v) { highest.take(i, v); });
  return highest.finish(Warp());
}
template <Pooling KIND, class T>
__device__ __forceinline__ void backward(const MapRow<T>& row, const Saved& saved, float upstream, T* dx) {
  const float each = saved.slope * upstream;
  row.map(dx, [&](int i, float) { return KIND == AVERAGE ? each : i == saved.place ? upstream : 0.0f; });
}

// The warp's row. Blocks are counted apart from threads: their product leaves 32 bits before the rows do.
__device__ __forceinline__ long long row_of_warp() {
  return (long long)blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5);
}

// x, dx [rows, length], 16-byte aligned; y, dy [rows]; left: see Plane.
#define POOL_MAPS(name, KIND, T)                                                                                      \
  extern "C" __global__ void __launch_bounds__(256) pool_maps_##name(                                                 \
      const T* __restrict__ x, T* __restrict__ y, float* __restrict__ left, int rows, int length) {                   \
    const long long row = row_of_warp();                                                                              \
    if (row >= rows) return;                                                                                          \
    const Saved pooled = forward<KIND>(MapRow<T>(x, row, length));                                                    \
    if (Warp().leads()) {                                                                                             \
      leave<KIND>(left, rows, row, GemOptions(), pooled);                                                             \
      y[row] = from_f32<T>(pooled.value);                                                                             \
    }                                                                                                                 \
  }                                                                                                                   \
  EXPORT_KERNEL(pool_maps_##name)                                                                                     \
  extern "C" __global__ void __launch_bounds__(256)                                                                   \
      pool_maps_backward_##name(const T* __restrict__ x, const float* __restrict__ left, const T* __restrict__ dy,    \
                                T* __restrict__ dx, int rows, int length) {                                           \
    const long long row = row_of_warp();                                                                              \
    if (row >= rows) return;                                                                                          \
    const Saved saved = left_of<KIND>(left, rows, row, GemOptions());                                                 \
    backward<KIND>(MapRow<T>(x, row, length), saved, to_f32(dy[row]), dx + row * length);                             \
  }                                                                                                                   \
  EXPORT_KERNEL(pool_maps_backward_##name)
POOL_MAPS(average_f32, AVERAGE, float)
POOL_MAPS(average_f16, AVERAGE, f16)
POOL_MAPS(average_bf16, AVERAGE, bf16)
POOL_MAPS(maximum_f32, MAXIMUM, float)
POOL_MAPS(maximum_f16, MAXIMUM, f16)
POOL_MAPS(maximum_bf16, MAXIMUM, bf16)

constexpr int SUM_THREADS = 256;

// The sum of d_p[r] * dy[r] over a share of the rows, d_p being the plane that the forward pass left: partial [blocks, powers], f64, in a fixed order. Block b
// takes the rows [b share, (b + 1) share) of each power: with one power consecutive rows, with one a channel the rows
// of that channel. grid: (blocks, powers).
template <class T>
__device__ __forceinline__ void sum_d_p(const float* d_p, const T* dy, double* partial, int rows, int powers,
                                        int share, double* sums) {
  const int of_power = rows / powers, from = blockIdx.x * share, to = min(from + share, of_power);
  double sum = 0.0;
  for (int i = from + (int)threadIdx.x; i < to; i += SUM_THREADS) {
    const long long row = (long long)i * powers + blockIdx.y;
    sum += (double)d_p[row] * (double)to_f32(dy[row]);
  }
  sum = warp_sum(sum);
  if ((threadIdx.x & 31) == 0) sums[threadIdx.x >> 5] = sum;
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int warp = 1; warp < SUM_THREADS / 32; warp++) sum += sums[warp];
    partial[(long long)blockIdx.x * powers + blockIdx.y] = sum;
  }
}

#define POOL_D_P(suffix, T)                                                                                         \
  extern "C" __global__ void __launch_bounds__(SUM_THREADS)                                                         \
      pool_d_p_##suffix(const float* __restrict__ d_p, const T* __restrict__ dy, double* __restrict__ partial,    \
                        int rows, int powers, int share) {                                                          \
    __shared__ double sums[SUM_THREADS / 32];                                                                       \
    sum_d_p(d_p, dy, partial, rows, powers, share, sums);                                                         \
  }                                                                                                                 \
  EXPORT_KERNEL(pool_d_p_##suffix)
POOL_D_P(f32, float)
POOL_D_P(f16, f16)
POOL_D_P(bf16, bf16)

// d_p [powers] from `blocks` partial sums of each, in their order.
extern "C" __global__ void __launch_bounds__(SUM_THREADS)
    pool_d_p_total(const double* __restrict__ partial, float* __restrict__ d_p, int blocks, int powers) {
  const int power = (int)(blockIdx.x * blockDim.x + threadIdx.x);
  if (power >= powers) return;
  double sum = 0.0;
  for (int block = 0; block < blocks; block++) sum += partial[(long long)block * powers + power];
  d_p[power] = (float)fmin(fmax(sum, -(double)LARGEST), (double)LARGEST);
  if (sum != sum) d_p[power] = (float)sum;
}
EXPORT_KERNEL(pool_d_p_total)
