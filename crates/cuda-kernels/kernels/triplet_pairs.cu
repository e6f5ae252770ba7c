// Triplets whose losses differ in more than a sum of distances: softened ones, and those whose negative is measured from
// the nearer of anchor and positive ("swap": Balntas et al. 2016, section 3.2). Every triplet is looked at, none is kept:
// O(n P) an anchor.
#include "triplet_positives.cuh"

__device__ __forceinline__ bool keeps(int mining, float positive, float negative, float margin) {
  if (mining == MINE_ALL) return negative <= positive + margin;
  if (mining == MINE_HARD) return negative <= positive;
  if (mining == MINE_SEMIHARD) return negative > positive && negative <= positive + margin;
  return mining == MINE_NONE || negative > positive + margin;
}

// A triplet's loss, and the loss's slope in the distance of its positive.
struct Term { float loss, slope; };
__device__ __forceinline__ Term term(float v, int smooth) {
  if (!smooth) return {fmaxf(v, 0.0f), v > 0.0f ? 1.0f : 0.0f};
  const float e = expf(-fabsf(v)), inverse = 1.0f / (1.0f + e);
  return {fmaxf(v, 0.0f) + log1pf(e), v >= 0.0f ? inverse : e * inverse};
}

// As triplet_count, in whose place it stands. With `swap` the block is the whole batch (first = 0): a triplet whose
// negative n is nearer to its positive p than to its anchor a pulls the pair (p, n), and row p finds it by looking at its
// classmates as anchors. A block a row.
extern "C" __global__ void __launch_bounds__(COUNT_THREADS)
    triplet_pairs(const float* __restrict__ distances, const unsigned* __restrict__ labels,
                  float* __restrict__ coefficients, double* __restrict__ losses,
                  unsigned long long* __restrict__ triplets, unsigned long long* __restrict__ active, int first, int n,
                  float margin, int distance, int mining, float mining_margin, int swap, int smooth) {
  __shared__ float keys[POSITIVES];
  __shared__ int columns[POSITIVES];
  __shared__ int warps[COUNT_THREADS / 32];
  __shared__ double warp_losses[COUNT_THREADS / 32];
  __shared__ unsigned long long warp_counts[COUNT_THREADS / 32];
  const int anchor = first + (int)blockIdx.x, lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const float* row = distances + (long long)blockIdx.x * n;
  float* out = coefficients ? coefficients + (long long)blockIdx.x * n : nullptr;
  const unsigned label = labels[anchor];
  double loss = 0.0;
  unsigned long long kept = 0, above = 0;
  int positives = 1;  // at least one round, which clears the row
  for (int skip = 0; skip < positives; skip += POSITIVES) {
    __syncthreads();  // the last round has been read
    positives = gather_positives(row, labels, anchor, n, skip, keys, columns, warps);
    const int count = min(positives - skip, POSITIVES);
    __syncthreads();
    // A negative a thread: the anchor's triplets with it, and what it is pulled by.
    for (int j = threadIdx.x; j < n; j += COUNT_THREADS) {
      if (labels[j] == label) {
        if (out && skip == 0 && j == anchor) out[j] = 0.0f;
        continue;
      }
      const float own = row[j];
      double pull = 0.0;
      for (int i = 0; i < count; i++) {
        const float positive = keys[i], other = swap ? distances[(long long)columns[i] * n + j] : LARGEST;
        if (keeps(mining, positive, own, mining_margin)) {
          const Term of = term(positive - fminf(own, other) + margin, smooth);
          loss += (double)of.loss;
          kept++;
          above += of.loss > 0.0f;
          if (own <= other) pull += (double)of.slope;
        }
        if (swap && own < other && keeps(mining, positive, other, mining_margin))
          pull += (double)term(positive - own + margin, smooth).slope;
      }
      if (out) out[j] = (skip == 0 ? 0.0f : out[j]) - (float)pull * (pull != 0.0 ? chain(distance, own) : 0.0f);
    }
    // A positive a warp: what pulls it.
    for (int i = warp; out && i < count; i += COUNT_THREADS / 32) {
      const float positive = keys[i];
      const float* mate = distances + (long long)columns[i] * n;
      double pull = 0.0;
      for (int j = lane; j < n; j += 32) {
        if (labels[j] == label || !keeps(mining, positive, row[j], mining_margin)) continue;
        const float nearer = swap ? fminf(row[j], mate[j]) : row[j];
        pull += (double)term(positive - nearer + margin, smooth).slope;
      }
      pull = warp_sum(pull);
      if (lane == 0) out[columns[i]] = pull != 0.0 ? (float)pull * chain(distance, positive) : 0.0f;
    }
  }
  loss = block_sum(loss, warp_losses);
  kept = block_sum(kept, warp_counts);
  above = block_sum(above, warp_counts);
  if (threadIdx.x == 0) {
    losses[anchor] = loss;
    triplets[anchor] = kept;
    active[anchor] = above;
  }
}
EXPORT_KERNEL(triplet_pairs)
