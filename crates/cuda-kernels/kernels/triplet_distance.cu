// Dissimilarities between rows, and the gradient of a sum of them, both by differences: a product of rows would lose all
// digits for near-duplicates. In f32 without tensor cores: 2 n^2 dim operations each.
#include "triplet.cuh"

// Rows over max(norm, SHORTEST): unit [n, dim], norms [n]. A warp a row.
extern "C" __global__ void __launch_bounds__(256)
    triplet_unit_rows(const float* __restrict__ x, float* __restrict__ unit, float* __restrict__ norms, int n, int dim) {
  const int row = (int)((blockIdx.x * blockDim.x + threadIdx.x) >> 5), lane = threadIdx.x & 31;
  if (row >= n) return;
  const long long start = (long long)row * dim;
  const float norm = row_norm(x + start, dim, in_fours(x + start, dim)), length = fmaxf(norm, SHORTEST);
  for (int d = lane; d < dim; d += 32) unit[start + d] = x[start + d] / length;
  if (lane == 0) norms[row] = norm;
}
EXPORT_KERNEL(triplet_unit_rows)

// From the gradient of unit rows to that of the rows, in place, times *factor (if not null). A warp a row.
extern "C" __global__ void __launch_bounds__(256)
    triplet_unit_rows_backward(const float* __restrict__ unit, const float* __restrict__ norms,
                               const float* __restrict__ factor, float* __restrict__ gradient, int n, int dim) {
  const int row = (int)((blockIdx.x * blockDim.x + threadIdx.x) >> 5), lane = threadIdx.x & 31;
  if (row >= n) return;
  const long long start = (long long)row * dim;
  const float norm = norms ? norms[row] : 1.0f, times = (factor ? *factor : 1.0f) / fmaxf(norm, SHORTEST);
  float dot = 0.0f;
  if (norms && norm > SHORTEST) {
    for (int d = lane; d < dim; d += 32) dot = fmaf(unit[start + d], gradient[start + d], dot);
    dot = warp_sum(dot);
  }
  for (int d = lane; d < dim; d += 32)
    gradient[start + d] = times * (gradient[start + d] - (dot != 0.0f ? dot * unit[start + d] : 0.0f));
}
EXPORT_KERNEL(triplet_unit_rows_backward)

// A block's tile of rows x columns and the depth of a step. 256 threads, 4 x 4 pairs each.
constexpr int SIDE = 64;
constexpr int DEPTH = 16;
constexpr int PITCH = SIDE + 4;

// out [rows, n]: the dissimilarity of row first + r to column c of x [n, dim]: |a - b|, its square, or 1 - cos (half the
// square, for unit rows). grid: (n / SIDE, rows / SIDE).
extern "C" __global__ void __launch_bounds__(256)
    triplet_distance(const float* __restrict__ x, float* __restrict__ out, int first, int rows, int n, int dim,
                     int distance) {
  __shared__ __align__(16) float a[DEPTH][PITCH];
  __shared__ __align__(16) float b[DEPTH][PITCH];
  const int row_start = blockIdx.y * SIDE, column_start = blockIdx.x * SIDE;
  const int ty = threadIdx.x / 16, tx = threadIdx.x % 16;
  float sums[4][4] = {};
  for (int d0 = 0; d0 < dim; d0 += DEPTH) {
    __syncthreads();
#pragma unroll
    for (int i = 0; i < SIDE * DEPTH / 256; i++) {
      const int at = (int)threadIdx.x + i * 256, r = at / DEPTH, d = at % DEPTH;
      const bool in_a = row_start + r < rows && d0 + d < dim, in_b = column_start + r < n && d0 + d < dim;
      a[d][r] = in_a ? x[(long long)(first + row_start + r) * dim + d0 + d] : 0.0f;
      b[d][r] = in_b ? x[(long long)(column_start + r) * dim + d0 + d] : 0.0f;
    }
    __syncthreads();
#pragma unroll
    for (int d = 0; d < DEPTH; d++) {
      const float4 va = *reinterpret_cast<const float4*>(&a[d][4 * ty]);
      const float4 vb = *reinterpret_cast<const float4*>(&b[d][4 * tx]);
      const float left[4] = {va.x, va.y, va.z, va.w}, right[4] = {vb.x, vb.y, vb.z, vb.w};
#pragma unroll
      for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) {
          const float difference = left[i] - right[j];
          sums[i][j] = fmaf(difference, difference, sums[i][j]);
        }
    }
  }
#pragma unroll
  for (int i = 0; i < 4; i++)
#pragma unroll
    for (int j = 0; j < 4; j++) {
      const int row = row_start + 4 * ty + i, column = column_start + 4 * tx + j;
      const float square = sums[i][j];
      if (row < rows && column < n)
        out[(long long)row * n + column] = distance == L2           ? sqrtf(square)
                                           : distance == SQUARED_L2 ? square
                                                                    : 0.5f * square;
    }
}
EXPORT_KERNEL(triplet_distance)

// Which coefficients pull a row. With S [rows, n] of the anchors first ..: a pair (a, c) pulls a by S_ac (x_a - x_c) and
// c by S_ac (x_c - x_a).
enum Pull {
  PULL_ANCHORS,  // row r of the block by S[r][..]: out row first + r
  PULL_COLUMNS,  // row c of the batch by S[..][c]
  PULL_BOTH,     // both at once, where the block is the whole batch
};

constexpr int PULL_ROWS = 32;   // rows of a block
constexpr int PULL_PITCH = PULL_ROWS + 4;
constexpr int PULL_DEPTH = 32;  // partners of a step
constexpr int PULL_COLUMNS_WIDE = 64;  // dimensions of a block

// out [n, dim] += sum over partners of coefficient (x_row - x_partner), partners in order. grid: (dim /
// PULL_COLUMNS_WIDE, pulled rows / PULL_ROWS). 256 threads: 4 rows x 2 dimensions each.
extern "C" __global__ void __launch_bounds__(256)
    triplet_pull(const float* __restrict__ x, const float* __restrict__ s, float* __restrict__ out, int first, int rows,
                 int n, int dim, int pull) {
  __shared__ __align__(16) float coefficient[PULL_DEPTH][PULL_PITCH];
  __shared__ float partner[PULL_DEPTH][PULL_COLUMNS_WIDE];
  const int row_start = blockIdx.y * PULL_ROWS, column_start = blockIdx.x * PULL_COLUMNS_WIDE;
  const int pulled = pull == PULL_ANCHORS ? rows : n, partners = pull == PULL_COLUMNS ? rows : n;
  const int out_first = pull == PULL_ANCHORS ? first : 0, partner_first = pull == PULL_COLUMNS ? first : 0;
  const int ty = threadIdx.x / 32, tx = threadIdx.x % 32;
  float own[4][2], sums[4][2] = {};
#pragma unroll
  for (int i = 0; i < 4; i++)
#pragma unroll
    for (int j = 0; j < 2; j++) {
      const int row = row_start + 4 * ty + i, d = column_start + tx + 32 * j;
      own[i][j] = row < pulled && d < dim ? x[(long long)(out_first + row) * dim + d] : 0.0f;
    }
  for (int p0 = 0; p0 < partners; p0 += PULL_DEPTH) {
    __syncthreads();
#pragma unroll
    for (int i = 0; i < PULL_ROWS * PULL_DEPTH / 256; i++) {
      // Neighbouring threads read neighbouring coefficients, whichever way the block lies.
      const int across = tx, down = ty + 8 * i;
      if (pull != PULL_COLUMNS) {
        const int row = row_start + down, p = p0 + across;
        coefficient[across][down] = row < pulled && p < partners ? s[(long long)row * n + p] : 0.0f;
      } else {
        const int row = row_start + across, p = p0 + down;
        coefficient[down][across] = row < pulled && p < partners ? s[(long long)p * n + row] : 0.0f;
      }
    }
    if (pull == PULL_BOTH) {
      __syncthreads();
#pragma unroll
      for (int i = 0; i < PULL_ROWS * PULL_DEPTH / 256; i++) {
        const int across = tx, down = ty + 8 * i, row = row_start + across, p = p0 + down;
        if (row < pulled && p < partners) coefficient[down][across] += s[(long long)p * n + row];
      }
    }
#pragma unroll
    for (int i = 0; i < PULL_DEPTH * PULL_COLUMNS_WIDE / 256; i++) {
      const int at = (int)threadIdx.x + i * 256, p = at / PULL_COLUMNS_WIDE, d = at % PULL_COLUMNS_WIDE;
      const bool inside = p0 + p < partners && column_start + d < dim;
      partner[p][d] = inside ? x[(long long)(partner_first + p0 + p) * dim + column_start + d] : 0.0f;
    }
    __syncthreads();
#pragma unroll 8
    for (int p = 0; p < PULL_DEPTH; p++) {
      const float4 four = *reinterpret_cast<const float4*>(&coefficient[p][4 * ty]);
      const float pulls[4] = {four.x, four.y, four.z, four.w}, right[2] = {partner[p][tx], partner[p][tx + 32]};
#pragma unroll
      for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 2; j++)
          sums[i][j] = fmaf(pulls[i], own[i][j] - right[j], sums[i][j]);
    }
  }
#pragma unroll
  for (int i = 0; i < 4; i++)
#pragma unroll
    for (int j = 0; j < 2; j++) {
      const int row = row_start + 4 * ty + i, d = column_start + tx + 32 * j;
      if (row < pulled && d < dim) out[(long long)(out_first + row) * dim + d] += sums[i][j];
    }
}
EXPORT_KERNEL(triplet_pull)
