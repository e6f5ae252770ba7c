// Batch-hard mining: each anchor with its farthest positive and its nearest negative, ties to the lowest index; and
// the reduction of any miner's losses.
#include "triplet.cuh"

constexpr int HARD_THREADS = 256;

// pairs [n, 2]: columns of the farthest positive and the nearest negative (-1 without); pair_coefficients [n, 2]: their
// coefficients of a difference of rows, 0 where the hinge is; losses, triplets (1 where both exist), active [n].
// distances [rows, n] of the anchors first .. . A block an anchor.
extern "C" __global__ void __launch_bounds__(HARD_THREADS)
    triplet_hardest(const float* __restrict__ distances, const unsigned* __restrict__ labels, int* __restrict__ pairs,
                    float* __restrict__ pair_coefficients, double* __restrict__ losses,
                    unsigned long long* __restrict__ triplets, unsigned long long* __restrict__ active, int first, int n,
                    float margin, int distance) {
  __shared__ float warp_far[HARD_THREADS / 32], warp_near[HARD_THREADS / 32];
  __shared__ int warp_far_at[HARD_THREADS / 32], warp_near_at[HARD_THREADS / 32];
  const int anchor = first + (int)blockIdx.x, lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const float* row = distances + (long long)blockIdx.x * n;
  const unsigned label = labels[anchor];
  constexpr int none = 0x7fffffff;
  float far = -1.0f, near = __int_as_float(0x7f800000);
  int far_at = none, near_at = none;
  // A value takes the place where it is more extreme, or as extreme and earlier.
  auto take_far = [&](float d, int at) {
    if (at != none && (far_at == none || d > far || (d == far && at < far_at))) far = d, far_at = at;
  };
  auto take_near = [&](float d, int at) {
    if (at != none && (near_at == none || d < near || (d == near && at < near_at))) near = d, near_at = at;
  };
  for (int j = threadIdx.x; j < n; j += HARD_THREADS) {
    if (j == anchor) continue;
    if (labels[j] == label) take_far(row[j], j);
    else take_near(row[j], j);
  }
#pragma unroll
  for (int step = 16; step > 0; step >>= 1) {
    const float other_far = __shfl_xor_sync(ALL_LANES, far, step), other_near = __shfl_xor_sync(ALL_LANES, near, step);
    const int far_j = __shfl_xor_sync(ALL_LANES, far_at, step), near_j = __shfl_xor_sync(ALL_LANES, near_at, step);
    take_far(other_far, far_j);
    take_near(other_near, near_j);
  }
  if (lane == 0) {
    warp_far[warp] = far;
    warp_far_at[warp] = far_at;
    warp_near[warp] = near;
    warp_near_at[warp] = near_at;
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int w = 1; w < HARD_THREADS / 32; w++) {
    take_far(warp_far[w], warp_far_at[w]);
    take_near(warp_near[w], warp_near_at[w]);
  }
  const bool both = far_at != none && near_at != none;
  const float value = both ? far + margin - near : 0.0f;
  const bool violates = value > 0.0f;
  pairs[2 * anchor] = both ? far_at : -1;
  pairs[2 * anchor + 1] = both ? near_at : -1;
  pair_coefficients[2 * anchor] = violates ? chain(distance, far) : 0.0f;
  pair_coefficients[2 * anchor + 1] = violates ? -chain(distance, near) : 0.0f;
  losses[anchor] = violates || value != value ? (double)value : 0.0;
  triplets[anchor] = both;
  active[anchor] = violates;
}
EXPORT_KERNEL(triplet_hardest)

// gradient [n, dim] of the pairs of triplet_hardest: each row collects its own two pairs and those of the anchors that
// chose it, in the order of the anchors. A warp a row.
extern "C" __global__ void __launch_bounds__(256)
    triplet_hardest_pull(const float* __restrict__ x, const int* __restrict__ pairs,
                         const float* __restrict__ pair_coefficients, float* __restrict__ gradient, int n, int dim) {
  const int row = (int)((blockIdx.x * blockDim.x + threadIdx.x) >> 5), lane = threadIdx.x & 31;
  if (row >= n) return;
  const long long start = (long long)row * dim;
  for (int d = lane; d < dim; d += 32) gradient[start + d] = 0.0f;
  auto pull = [&](int other, float coefficient) {
    if (coefficient == 0.0f) return;
    for (int d = lane; d < dim; d += 32)
      gradient[start + d] = fmaf(coefficient, x[start + d] - x[(long long)other * dim + d], gradient[start + d]);
  };
  for (int side = 0; side < 2; side++)
    if (pairs[2 * row + side] >= 0) pull(pairs[2 * row + side], pair_coefficients[2 * row + side]);
  for (int start_anchor = 0; start_anchor < n; start_anchor += 32) {
    const int anchor = start_anchor + lane;
    const bool chosen = anchor < n && (pairs[2 * anchor] == row || pairs[2 * anchor + 1] == row);
    unsigned those = __ballot_sync(ALL_LANES, chosen);
    for (int i = 0; those; i++, those >>= 1) {
      if (!(those & 1)) continue;
      const int a = start_anchor + i, side = pairs[2 * a] == row ? 0 : 1;
      pull(a, pair_coefficients[2 * a + side]);
    }
  }
}
EXPORT_KERNEL(triplet_hardest_pull)

enum Reduction { MEAN, MEAN_NON_ZERO, SUM };
constexpr int REDUCE_THREADS = 256;

// Totals of the anchors in a fixed order: totals [3] f64 (value, triplets, active) and *factor, by which the unweighted
// coefficients are to be multiplied (upstream over the reduction's divisor; 0 without triplets). One block.
extern "C" __global__ void __launch_bounds__(REDUCE_THREADS)
    triplet_reduce(const double* __restrict__ losses, const unsigned long long* __restrict__ triplets,
                   const unsigned long long* __restrict__ active, double* __restrict__ totals,
                   float* __restrict__ factor, int n, int reduction, double upstream) {
  __shared__ double loss_of[REDUCE_THREADS];
  __shared__ unsigned long long triplets_of[REDUCE_THREADS], active_of[REDUCE_THREADS];
  double loss = 0.0;
  unsigned long long all = 0, with_loss = 0;
  for (int i = threadIdx.x; i < n; i += REDUCE_THREADS) {
    loss += losses[i];
    all += triplets[i];
    with_loss += active[i];
  }
  loss_of[threadIdx.x] = loss;
  triplets_of[threadIdx.x] = all;
  active_of[threadIdx.x] = with_loss;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int i = 1; i < REDUCE_THREADS; i++) {
    loss += loss_of[i];
    all += triplets_of[i];
    with_loss += active_of[i];
  }
  const unsigned long long divisor = reduction == SUM ? 1 : reduction == MEAN ? all : with_loss;
  const double inverse = divisor ? 1.0 / (double)divisor : 0.0;
  // Without a divisor there is no loss; a NaN distance stays one.
  totals[0] = divisor ? loss * inverse : loss;
  totals[1] = (double)all;
  totals[2] = (double)with_loss;
  *factor = (float)(upstream * inverse);
}
EXPORT_KERNEL(triplet_reduce)
