// All triplets of each anchor, exactly, without forming one.
//
// A triplet (a, p, n) has a loss where d(a, n) < d(a, p) + margin, and a miner keeps it where d(a, n) lies in an interval
// that d(a, p) gives. So each positive has one interval [low, high), low and high rising with d(a, p): with the
// positives sorted, a negative finds by two binary searches in how many intervals it lies, c_n, and a histogram of
// where it fell gives each positive the negatives in its interval, k_p. The loss is sum_p k_p (d_ap + margin) -
// sum_n c_n d_an, and the gradient's coefficients are these integers. O(n log P) an anchor.
#include "triplet_positives.cuh"

__device__ __forceinline__ float next_up(float v) {
  if (v == 0.0f) return __int_as_float(1);
  return __int_as_float(__float_as_int(v) + (v > 0.0f ? 1 : -1));
}

struct Interval { float low, high, mined_high; };

// Never reaches LARGEST + 1 ulp = infinity, so that an infinite distance lies in none.
__device__ __forceinline__ Interval interval(float positive, float margin, int mining, float mining_margin) {
  const float tie = next_up(positive), edge = next_up(positive + mining_margin);
  Interval of{-LARGEST, LARGEST, LARGEST};
  if (mining == MINE_ALL) of.mined_high = edge;
  if (mining == MINE_HARD) of.mined_high = tie;
  if (mining == MINE_SEMIHARD) of.low = tie, of.mined_high = edge;
  if (mining == MINE_EASY) of.low = edge;
  of.high = fmaxf(fminf(of.mined_high, positive + margin), of.low);
  return of;
}

// Sorts `count` keys (padded to a power of two `size` by infinity) with their columns; equal keys by column.
__device__ __forceinline__ void sort_positives(float* keys, int* columns, int count, int size) {
  for (int i = count + (int)threadIdx.x; i < size; i += COUNT_THREADS) {
    keys[i] = __int_as_float(0x7f800000);
    columns[i] = 0x7fffffff;
  }
  __syncthreads();
  for (int run = 2; run <= size; run <<= 1)
    for (int step = run >> 1; step > 0; step >>= 1) {
      for (int i = threadIdx.x; i < size; i += COUNT_THREADS) {
        const int other = i ^ step;
        if (other <= i) continue;
        const bool greater = keys[i] > keys[other] || (keys[i] == keys[other] && columns[i] > columns[other]);
        if (greater != ((i & run) == 0)) continue;
        const float key = keys[i];
        keys[i] = keys[other];
        keys[other] = key;
        const int column = columns[i];
        columns[i] = columns[other];
        columns[other] = column;
      }
      __syncthreads();
    }
}

// How many of the ascending bounds are at or below d.
__device__ __forceinline__ int bounds_at_or_below(const float* bounds, int count, float d) {
  int low = 0, high = count;
  while (low < high) {
    const int middle = (low + high) >> 1;
    if (bounds[middle] <= d) low = middle + 1;
    else high = middle;
  }
  return low;
}

// distances [rows, n] of the anchors first ..; becomes, if `coefficients` is not null, S of triplet_pull there
// ([rows, n], not the same memory): +k_p chain(d), -c_n chain(d), 0 for the anchor itself, unweighted.
// losses [n] f64, triplets [n] (after mining) and active [n] of each anchor. A block an anchor.
extern "C" __global__ void __launch_bounds__(COUNT_THREADS)
    triplet_count(const float* __restrict__ distances, const unsigned* __restrict__ labels,
                  float* __restrict__ coefficients, double* __restrict__ losses,
                  unsigned long long* __restrict__ triplets, unsigned long long* __restrict__ active, int first, int n,
                  float margin, int distance, int mining, float mining_margin) {
  __shared__ float keys[POSITIVES], lows[POSITIVES], highs[POSITIVES], mined[POSITIVES];
  __shared__ int columns[POSITIVES], above_low[POSITIVES + 1], above_high[POSITIVES + 1];
  __shared__ int warps[COUNT_THREADS / 32];
  __shared__ double warp_losses[COUNT_THREADS / 32];
  __shared__ unsigned long long warp_mined[COUNT_THREADS / 32];
  const int anchor = first + (int)blockIdx.x;
  const float* row = distances + (long long)blockIdx.x * n;
  float* out = coefficients ? coefficients + (long long)blockIdx.x * n : nullptr;
  const unsigned label = labels[anchor];
  double loss = 0.0;
  unsigned long long mined_here = 0, active_here = 0;
  int positives = 1;  // at least one round, which clears the row
  for (int skip = 0; skip < positives; skip += POSITIVES) {
    __syncthreads();  // the last round has been read
    positives = gather_positives(row, labels, anchor, n, skip, keys, columns, warps);
    const int count = min(positives - skip, POSITIVES);
    int size = 1;
    while (size < count) size <<= 1;
    sort_positives(keys, columns, count, size);
    for (int i = threadIdx.x; i <= count; i += COUNT_THREADS) {
      above_low[i] = above_high[i] = 0;
      if (i == count) continue;
      const Interval of = interval(keys[i], margin, mining, mining_margin);
      lows[i] = of.low;
      highs[i] = of.high;
      mined[i] = of.mined_high;
    }
    __syncthreads();
    for (int j = threadIdx.x; j < n; j += COUNT_THREADS) {
      if (labels[j] == label) {
        if (out && skip == 0 && j == anchor) out[j] = 0.0f;
        continue;
      }
      const float d = row[j];
      const int below_low = bounds_at_or_below(lows, count, d), below_high = bounds_at_or_below(highs, count, d);
      const int inside = below_low - below_high;
      mined_here += below_low - bounds_at_or_below(mined, count, d);
      active_here += inside;
      loss -= (double)inside * (double)d;
      if (out) out[j] = (skip == 0 ? 0.0f : out[j]) - (inside ? (float)inside * chain(distance, d) : 0.0f);
      // Integers: their sum does not depend on the order.
      atomicAdd(&above_low[below_low], 1);
      atomicAdd(&above_high[below_high], 1);
    }
    __syncthreads();
    // A negative with r bounds at or below it lies below the bounds from the r-th on.
    if (threadIdx.x == 0) {
      int low = 0, high = 0;
      for (int i = 0; i < count; i++) {
        above_low[i] = low += above_low[i];
        above_high[i] = high += above_high[i];
      }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < count; i += COUNT_THREADS) {
      const int inside = above_high[i] - above_low[i];
      loss += (double)inside * (double)(keys[i] + margin);
      if (out) out[columns[i]] = inside ? (float)inside * chain(distance, keys[i]) : 0.0f;
    }
  }
  loss = block_sum(loss, warp_losses);
  mined_here = block_sum(mined_here, warp_mined);
  active_here = block_sum(active_here, warp_mined);
  if (threadIdx.x == 0) {
    losses[anchor] = loss;
    triplets[anchor] = mined_here;
    active[anchor] = active_here;
  }
}
EXPORT_KERNEL(triplet_count)
