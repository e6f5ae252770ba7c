// GeM of feature maps [rows, length] (rows = batch x channels), every value read once.
//
// Forward: a warp takes 32 / team rows at a time, `team` lanes a row. It copies them to shared memory, each row from the
// vector of 16 bytes in which it starts on, whichever lanes the copies suit best; the extremes and then the sums are taken from
// there. What lies in a row's first and last vector without being its own becomes 0, which no extreme of CLAMP shows, and
// what it adds to the sums is taken off again. A lane keeps the sums of one row in `team`, so that what follows the sums
// is computed for up to 32 rows at once. Rows above the shared memory come in parts: where a later part holds a larger magnitude
// the sums so far are scaled down to it; the other signs look for the extremes first, and read such rows twice.
//
// Backward: `team` lanes a row again, a vector each, read, changed and written.
#include "pool.cuh"
#include "tensor.cuh"

constexpr int WARPS = 4;
constexpr int SLOT = 16;  // bytes of a vector

// How the rows of a warp lie: mirrored by `pooling::Staging`.
struct Staging {
  int team;     // lanes a row, a power of 2
  int vectors;  // that a row touches at most
  int stride;   // vectors from one row to the next in shared memory
  int chunk;    // vectors of a row at a time, at most `stride`
  int steps;    // times that a warp takes 32 / team rows, at most `team`
};

// The lanes of a row.
struct Lanes {
  int size, lane;
  template <class V, class F> __device__ __forceinline__ V all(V v, F f) const {
    for (int step = size >> 1; step > 0; step >>= 1) v = f(v, __shfl_xor_sync(ALL_LANES, v, step));
    return v;
  }
  __device__ __forceinline__ float sum(float v) const {
    return all(v, [](float a, float b) { return a + b; });
  }
  __device__ __forceinline__ int count(int v) const {
    return all(v, [](int a, int b) { return a + b; });
  }
  __device__ __forceinline__ int first(int v) const {
    return all(v, [](int a, int b) { return min(a, b); });
  }
};

// Where a row lies in the vectors of `x`, which starts at one.
template <class T> struct Place {
  const T* from;     // the vector in which the row starts
  int past;          // values of it before the row
  int end;           // values from it to the row's end
  int vectors;
  __device__ __forceinline__ Place(const T* x, long long row, int length, bool inside) {
    const long long start = inside ? row * length : 0;
    past = (int)(start % IN_VECTOR<T>);
    from = x + (start - past);
    end = past + length;
    vectors = inside && length > 0 ? (end + IN_VECTOR<T> - 1) / IN_VECTOR<T> : 0;
  }
};

// A part of a row in shared memory, the vectors [first, first + count) of it.
template <class T> struct Part {
  const unsigned char* slot;
  const Lanes& lanes;
  int first, count, past, length;
  template <class F> __device__ __forceinline__ void vectors(F f) const {
    const unsigned char* at = slot + lanes.lane * SLOT;
#pragma unroll 2
    for (int i = lanes.lane; i < count; i += lanes.size, at += lanes.size * SLOT) {
      const uint4 vector = *reinterpret_cast<const uint4*>(at);
      f(vector);
    }
  }
  // Values in the vectors that are not the row's: zeros. For the first lane, none for the others.
  __device__ __forceinline__ float zeros() const {
    const int values = count * IN_VECTOR<T>, start = first * IN_VECTOR<T> - past;
    return lanes.lane == 0 && count > 0 ? (float)(values - (min(start + values, length) - max(start, 0))) : 0.0f;
  }
  // The row's own values, one at a time.
  template <class F> __device__ __forceinline__ void each(F f) const {
    const int start = first * IN_VECTOR<T> - past, end = min(start + count * IN_VECTOR<T>, length);
    const T* values = reinterpret_cast<const T*>(slot);
#pragma unroll 1
    for (int i = max(start, 0) + lanes.lane; i < end; i += lanes.size) f(i, to_f32(values[i - start]));
  }
};

// Copies the vectors from `first` on, as many as a chunk has, of the rows that start at `row` to `shared`; what the last
// one has beyond the row is 0. Only the first row's place takes 64 bits.
template <class T, int LOADERS>
__device__ __forceinline__ void copy_rows(unsigned char* shared, const T* x, const Staging& staging, long long row,
                                          int rows, int length, int first) {
  constexpr int at_once = 32 / LOADERS;
  const int lane = threadIdx.x & 31, in_warp = (int)min(32 / staging.team, (int)(rows - row));
  const int mine = lane & (LOADERS - 1);
  const unsigned long long origin = (unsigned long long)row * length;
  const T* base = x + (origin & ~(unsigned long long)(IN_VECTOR<T> - 1)) + (first + mine) * IN_VECTOR<T>;
  SharedAt to = shared_at(shared + (lane / LOADERS * staging.stride + mine) * SLOT);
  int start = ((int)origin & (IN_VECTOR<T> - 1)) + lane / LOADERS * length;
  for (int i = lane / LOADERS; i < in_warp; i += at_once) {
    const int past = start & (IN_VECTOR<T> - 1), end = past + length - first * IN_VECTOR<T>;
    const int whole = min(end / IN_VECTOR<T>, staging.chunk);
    const T* from = base + (start - past);
    SharedAt at = to;
    int v = mine;
#pragma unroll 4
    for (; v < whole; v += LOADERS) {
      copy_whole(at, from);
      at += LOADERS * SLOT;
      from += LOADERS * IN_VECTOR<T>;
    }
    const int left = end - whole * IN_VECTOR<T>;
    if (v == whole && left > 0 && whole < staging.chunk) copy_part(at, from, left * (int)sizeof(T));
    to += at_once * staging.stride * SLOT;
    start += at_once * length;
  }
}
template <class T>
__device__ __forceinline__ void stage(unsigned char* shared, const T* x, const Staging& staging, long long row, int rows,
                                      int length, int first) {
  __syncwarp();  // nobody still reads what was there
  if (staging.team > 8) copy_rows<T, 32>(shared, x, staging, row, rows, length, first);
  else copy_rows<T, 8>(shared, x, staging, row, rows, length, first);
  copy_commit();
  copy_wait<0>();
  __syncwarp();
}

// CLAMP, one row's share of a lane. `top` grows from chunk to chunk.
template <class T> struct Clamped : Growing {
  float p, eps;
  __device__ __forceinline__ Clamped(float p, float eps) : p(p), eps(eps) {}

  // The extremes of a chunk, and with POWER also the sum of its powers as they are, in one pass.
  template <int POWER> __device__ __forceinline__ float plain(const Part<T>& part, Extremes<T>& extremes) const {
    float one = 0.0f, other = 0.0f;
    part.vectors([&](const uint4& vector) {
      extremes.take(vector);
      float of[IN_VECTOR<T>];
      unpack(vector, of, T());
#pragma unroll
      for (int k = 0; k < IN_VECTOR<T>; k += 2) {
        one += power<POWER>(fmaxf(of[k], eps), p, 0.0f);
        other += power<POWER>(fmaxf(of[k + 1], eps), p, 0.0f);
      }
    });
    return fmaf(-part.zeros(), power<POWER>(eps, p, 0.0f), one + other);
  }
  template <int POWER, bool LOGS> __device__ __forceinline__ void add(const Part<T>& part) {
    const float least = this->least, inverse = this->inverse, power = p;
    Sums one, other;
    part.vectors([&](const uint4& vector) {
      float of[IN_VECTOR<T>];
      unpack(vector, of, T());
#pragma unroll
      for (int k = 0; k < IN_VECTOR<T>; k += 2) {
        one.template add<POWER, LOGS>(fmaxf(of[k], least) * inverse, power);
        other.template add<POWER, LOGS>(fmaxf(of[k + 1], least) * inverse, power);
      }
    });
    Sums zero;
    zero.template add<POWER, LOGS>(least * inverse, power);
    const float zeros = part.zeros();
    sums.sum += fmaf(-zeros, zero.sum, one.sum + other.sum);
    if (LOGS) sums.logs += fmaf(-zeros, zero.logs, one.logs + other.logs);
  }
  // A chunk. All lanes of the warp come here together; their powers may differ.
  __device__ __forceinline__ void chunk(const Part<T>& part, const GemOptions& options) {
    Extremes<T> extremes;
    float sum = 0.0f;
    const bool in_one_pass = !options.want_d_p && is_whole(p);
    if (in_one_pass) {
      by_power(p, [&](auto by) {
        constexpr int POWER = decltype(by)::power;
        if (POWER != ANY) sum = plain<POWER>(part, extremes);
      });
    } else {
      part.vectors([&](const uint4& vector) { extremes.take(vector); });
    }
    const Lanes& lanes = part.lanes;
    grow(lanes.all(extremes.smallest(), smallest_nan), lanes.all(extremes.largest(), largest_nan), p, eps);
    if (top > HUGE_TOP) {
      // 1 / top is not a normal number: the general way.
      gem_add(part, p, options, Row(options, low, high), sums);
    } else if (in_one_pass && p * fabsf(log2_fast(top)) <= PLAIN) {
      sums.sum = fmaf(sum, whole_power(inverse, (int)p), sums.sum);
    } else {
      by_power(p, [&](auto by) {
        constexpr int POWER = decltype(by)::power;
        if (options.want_d_p) add<POWER, true>(part);
        else add<POWER, false>(part);
      });
    }
  }
};

template <class T>
__device__ __forceinline__ void gem_maps(const T* __restrict__ x, const float* __restrict__ p, const GemOptions& options,
                                         T* __restrict__ y, float* __restrict__ left, int rows, int length,
                                         const Staging& staging, unsigned char* memory) {
  const int lane = threadIdx.x & 31, in_warp = 32 / staging.team, team = lane / staging.team;
  const Lanes lanes{staging.team, lane & (staging.team - 1)};
  unsigned char* shared = memory + (threadIdx.x >> 5) * in_warp * staging.stride * SLOT;
  const unsigned char* slot = shared + team * staging.stride * SLOT;
  const long long start = ((long long)blockIdx.x * WARPS + (threadIdx.x >> 5)) * in_warp * staging.steps;
  const int most = staging.vectors;
  Sums mine;
  Row mine_of(options, 0.0f, 0.0f);
  for (int step = 0; step < staging.steps; step++) {
    const long long first_row = start + step * in_warp, row = first_row + team;
    if (first_row >= rows) break;
    const Place<T> place(x, row, length, row < rows);
    const float power = power_of(row < rows ? p[row % options.powers] : 1.0f);
    auto part = [&](int first) {
      return Part<T>{slot, lanes, first, max(min(place.vectors - first, staging.chunk), 0), place.past, length};
    };
    // CLAMP takes whole vectors: what in the first one is not the row's is cleared.
    auto load = [&](int first) {
      stage(shared, x, staging, first_row, rows, length, first);
      if (first > 0 || options.sign != CLAMP) return;
      if (lanes.lane == 0 && place.vectors > 0 && place.past > 0) {
        uint4* head = reinterpret_cast<uint4*>(shared + team * staging.stride * SLOT);
        *head = without_first<T>(*head, place.past);
      }
      __syncwarp();
    };
    Sums sums;
    Row of(options, 0.0f, 0.0f);
    if (options.sign == CLAMP) {
      Clamped<T> clamped(power, options.eps);
      for (int first = 0; first < most; first += staging.chunk) {
        load(first);
        clamped.chunk(part(first), options);
      }
      of = Row(options, clamped.low, clamped.high);
      sums = clamped.sums;
    } else {
      float low = LARGEST, high = -LARGEST;
      for (int first = 0; first < most; first += staging.chunk) {
        load(first);
        part(first).each([&](int, float v) {
          low = smallest_nan(low, v);
          high = largest_nan(high, v);
        });
      }
      of = Row(options, lanes.all(low, smallest_nan), lanes.all(high, largest_nan));
      for (int first = 0; first < most; first += staging.chunk) {
        if (staging.chunk < most) load(first);
        gem_add(part(first), power, options, of, sums);
      }
    }
    sums.reduce(lanes, options);
    if (lanes.lane == step) {
      mine = sums;
      mine_of = of;
    }
  }
  const long long row = start + lanes.lane * in_warp + team;
  if (lanes.lane >= staging.steps || row >= rows) return;
  const float power = power_of(p[row % options.powers]);
  const Saved pooled = length > 0 ? gem_finish(power, options, length, mine_of, mine) : nothing_saved();
  leave<GEM>(left, rows, row, options, pooled);
  y[row] = from_f32<T>(pooled.value);
}

// Upstream times the slopes of one row's vectors, by the lanes of its team.
template <class T, class F>
__device__ __forceinline__ void change(const Place<T>& place, const Lanes& lanes, T* dx, long long readable, F f) {
  for (int i = lanes.lane; i < place.vectors; i += lanes.size) {
    const int start = i * IN_VECTOR<T>, from = max(place.past - start, 0), to = min(place.end - start, IN_VECTOR<T>);
    float of[IN_VECTOR<T>];
    if (start + IN_VECTOR<T> <= readable) {
      const uint4 vector = *reinterpret_cast<const uint4*>(place.from + start);
      unpack(vector, of, T());
    } else {
#pragma unroll
      for (int k = 0; k < IN_VECTOR<T>; k++) of[k] = k < to ? to_f32(place.from[start + k]) : 0.0f;
    }
#pragma unroll
    for (int k = 0; k < IN_VECTOR<T>; k++) of[k] = f(start + k - place.past, of[k]);
    T* out = dx + start;
    if (from == 0 && to == IN_VECTOR<T>) {
      *reinterpret_cast<uint4*>(out) = pack(of, T());
    } else {
#pragma unroll
      for (int k = 0; k < IN_VECTOR<T>; k++)
        if (k >= from && k < to) out[k] = from_f32<T>(of[k]);
    }
  }
}

template <class T>
__device__ __forceinline__ void gem_maps_backward(const T* __restrict__ x, const float* __restrict__ p,
                                                  const GemOptions& options, const float* __restrict__ left,
                                                  const T* __restrict__ dy, T* __restrict__ dx, int rows, int length,
                                                  int team) {
  const Lanes lanes{team, (int)threadIdx.x & (team - 1)};
  const long long row = ((long long)blockIdx.x * blockDim.x + threadIdx.x) / team;
  if (row >= rows) return;
  const Place<T> place(x, row, length, true);
  T* out = dx + (place.from - x);
  const long long readable = (long long)rows * length - (place.from - x);
  const Saved saved = left_of<GEM>(left, rows, row, options);
  const Slope slope(p[row % options.powers], options, saved, to_f32(dy[row]));
  if (slope.is_clamped) {
    by_power(slope.p, [&](auto by) {
      constexpr int POWER = decltype(by)::power;
      change(place, lanes, out, readable, [&](int, float v) { return slope.template clamped<POWER>(v); });
    });
  } else {
    change(place, lanes, out, readable, [&](int i, float v) { return slope.of(i, v); });
  }
}

// x, dx [rows, length], 16-byte aligned; p [options.powers]; y, dy [rows]; left: see Plane. A block of the forward pass has WARPS
// warps, each of which takes 32 / team x steps rows.
#define POOL_GEM(suffix, T)                                                                                           \
  extern "C" __global__ void __launch_bounds__(WARPS * 32, 7)                                                         \
      pool_maps_gem_##suffix(const T* __restrict__ x, const float* __restrict__ p, GemOptions options,                \
                             T* __restrict__ y, float* __restrict__ left, int rows, int length, Staging staging) {    \
    DYNAMIC_SHARED(memory);                                                                                           \
    gem_maps(x, p, options, y, left, rows, length, staging, memory);                                                  \
  }                                                                                                                   \
  EXPORT_KERNEL(pool_maps_gem_##suffix)                                                                               \
  extern "C" __global__ void __launch_bounds__(256, 5)                                                                \
      pool_maps_backward_gem_##suffix(const T* __restrict__ x, const float* __restrict__ p, GemOptions options,       \
                                      const float* __restrict__ left, const T* __restrict__ dy, T* __restrict__ dx,   \
                                      int rows, int length, int team) {                                               \
    gem_maps_backward(x, p, options, left, dy, dx, rows, length, team);                                               \
  }                                                                                                                   \
  EXPORT_KERNEL(pool_maps_backward_gem_##suffix)
POOL_GEM(f32, float)
POOL_GEM(f16, f16)
POOL_GEM(bf16, bf16)
