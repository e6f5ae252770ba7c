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

// A block's tile of rows x columns and the depth of a step. 256 threads, 8 x 8 pairs each: rows 4 ty .. and 64 + 4 ty ..,
// columns likewise, so that four loads of 16 bytes serve 64 pairs.
constexpr int SIDE = 128;
constexpr int DEPTH = 8;
constexpr int PITCH = SIDE + 4;

// The tile of the upper triangle that a block has, in the order of rows: `down` of `tiles`, then `across` from `down` on.
__device__ __forceinline__ void upper_tile(int block, int tiles, int& down, int& across) {
  down = 0;
  while (block >= tiles - down) block -= tiles - down++;
  across = down + block;
}

// out [rows, n]: the dissimilarity of row first + r to column c of x [n, dim]: |a - b|, its square, or 1 - cos (half the
// square, for unit rows). grid: n / SIDE times rows / SIDE; where the rows are the whole batch, the upper triangle of these
// tiles: the others are its mirror.
extern "C" __global__ void __launch_bounds__(256, 2)
    triplet_distance(const float* __restrict__ x, float* __restrict__ out, int first, int rows, int n, int dim,
                     int distance) {
  __shared__ __align__(16) float a[DEPTH][PITCH];
  __shared__ __align__(16) float b[DEPTH][PITCH];
  const bool whole = rows == n, fours = in_fours(x, dim), out_in_fours = in_fours(out, n);
  const int tiles = (n + SIDE - 1) / SIDE;
  int down = (int)blockIdx.x / tiles, across = (int)blockIdx.x % tiles;
  if (whole) upper_tile((int)blockIdx.x, tiles, down, across);
  const int row_start = down * SIDE, column_start = across * SIDE;
  const int ty = threadIdx.x / 16, tx = threadIdx.x % 16;
  // What a thread brings of the next step: four dimensions of a row of each operand.
  Four next_a, next_b;
  const int r = (int)threadIdx.x / 2, load_d = (int)threadIdx.x % 2 * 4;
  auto load = [&](int d0) {
    const int d = d0 + load_d;
    const bool in_a = row_start + r < rows && d < dim, in_b = column_start + r < n && d < dim;
    next_a = in_a ? load_four(x + (long long)(first + row_start + r) * dim, d, dim, fours) : Four{};
    next_b = in_b ? load_four(x + (long long)(column_start + r) * dim, d, dim, fours) : Four{};
  };
  float sums[8][8] = {};
  load(0);
  for (int d0 = 0; d0 < dim; d0 += DEPTH) {
    __syncthreads();  // the last step has been read
#pragma unroll
    for (int k = 0; k < 4; k++) {
      a[load_d + k][r] = next_a.v[k];
      b[load_d + k][r] = next_b.v[k];
    }
    __syncthreads();
    if (d0 + DEPTH < dim) load(d0 + DEPTH);
#pragma unroll 4
    for (int d = 0; d < DEPTH; d++) {
      float left[8], right[8];
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const float4 va = *reinterpret_cast<const float4*>(&a[d][64 * half + 4 * ty]);
        const float4 vb = *reinterpret_cast<const float4*>(&b[d][64 * half + 4 * tx]);
        left[4 * half] = va.x, left[4 * half + 1] = va.y, left[4 * half + 2] = va.z, left[4 * half + 3] = va.w;
        right[4 * half] = vb.x, right[4 * half + 1] = vb.y, right[4 * half + 2] = vb.z, right[4 * half + 3] = vb.w;
      }
#pragma unroll
      for (int i = 0; i < 8; i++)
#pragma unroll
        for (int j = 0; j < 8; j++) {
          const float difference = left[i] - right[j];
          sums[i][j] = fmaf(difference, difference, sums[i][j]);
        }
    }
  }
#pragma unroll
  for (int i = 0; i < 8; i++)
#pragma unroll
    for (int j = 0; j < 8; j++)
      sums[i][j] = distance == L2 ? sqrtf(sums[i][j]) : distance == SQUARED_L2 ? sums[i][j] : 0.5f * sums[i][j];
  auto place = [](int start, int of, int i) { return start + 64 * (i / 4) + 4 * of + i % 4; };
#pragma unroll
  for (int i = 0; i < 8; i++) {
    const int row = place(row_start, ty, i);
#pragma unroll
    for (int j = 0; j < 8; j += 4) {
      const int column = place(column_start, tx, j);
      const Four four{{sums[i][j], sums[i][j + 1], sums[i][j + 2], sums[i][j + 3]}};
      if (row < rows && column < n) store_four(out + (long long)row * n, column, n, out_in_fours, four);
    }
  }
  if (!whole || down == across) return;
#pragma unroll
  for (int j = 0; j < 8; j++) {
    const int row = place(column_start, tx, j);
#pragma unroll
    for (int i = 0; i < 8; i += 4) {
      const int column = place(row_start, ty, i);
      const Four four{{sums[i][j], sums[i + 1][j], sums[i + 2][j], sums[i + 3][j]}};
      if (row < n && column < n) store_four(out + (long long)row * n, column, n, out_in_fours, four);
    }
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
constexpr int PULL_WIDTH = 128;  // dimensions of a block

// out [n, dim] += sum over partners of coefficient (x_row - x_partner), partners in order. grid: (dim / PULL_WIDTH, pulled
// rows / PULL_ROWS). 256 threads: 4 rows x 4 dimensions each.
extern "C" __global__ void __launch_bounds__(256, 2)
    triplet_pull(const float* __restrict__ x, const float* __restrict__ s, float* __restrict__ out, int first, int rows,
                 int n, int dim, int pull) {
  __shared__ __align__(16) float coefficient[PULL_DEPTH][PULL_PITCH];
  __shared__ __align__(16) float partner[PULL_DEPTH][PULL_WIDTH];
  const int row_start = blockIdx.y * PULL_ROWS, column_start = blockIdx.x * PULL_WIDTH;
  const int pulled = pull == PULL_ANCHORS ? rows : n, partners = pull == PULL_COLUMNS ? rows : n;
  const int out_first = pull == PULL_ANCHORS ? first : 0, partner_first = pull == PULL_COLUMNS ? first : 0;
  const bool fours = in_fours(x, dim), out_in_fours = in_fours(out, dim);
  const int ty = threadIdx.x / 32, tx = threadIdx.x % 32, d = column_start + 4 * tx;
  auto own_row = [&](int i) { return row_start + 4 * ty + i; };
  Four own[4], sums[4];
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const bool there = own_row(i) < pulled && d < dim;
    own[i] = there ? load_four(x + (long long)(out_first + own_row(i)) * dim, d, dim, fours) : Four{};
    sums[i] = Four{};
  }
  // What a thread brings of the next step: coefficients as the block's rows hold them and as its columns do, and four
  // dimensions of four partners. Neighbouring threads read neighbours, whichever way the coefficients lie.
  float next_rows[4], next_columns[4];
  Four next_partner[4];
  auto load = [&](int p0) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int at = ty + 8 * i;
      next_rows[i] = pull != PULL_COLUMNS && row_start + at < pulled && p0 + tx < partners
                         ? s[(long long)(row_start + at) * n + p0 + tx]
                         : 0.0f;
      next_columns[i] = pull != PULL_ANCHORS && row_start + tx < pulled && p0 + at < partners
                            ? s[(long long)(p0 + at) * n + row_start + tx]
                            : 0.0f;
      const bool inside = p0 + at < partners && d < dim;
      next_partner[i] =
          inside ? load_four(x + (long long)(partner_first + p0 + at) * dim, d, dim, fours) : Four{};
    }
  };
  load(0);
  for (int p0 = 0; p0 < partners; p0 += PULL_DEPTH) {
    __syncthreads();  // the last step has been read
#pragma unroll
    for (int i = 0; i < 4; i++) {
      if (pull == PULL_COLUMNS) coefficient[ty + 8 * i][tx] = next_columns[i];
      else coefficient[tx][ty + 8 * i] = next_rows[i];
      *reinterpret_cast<float4*>(&partner[ty + 8 * i][4 * tx]) =
          make_float4(next_partner[i].v[0], next_partner[i].v[1], next_partner[i].v[2], next_partner[i].v[3]);
    }
    if (pull == PULL_BOTH) {
      __syncthreads();
#pragma unroll
      for (int i = 0; i < 4; i++) coefficient[ty + 8 * i][tx] += next_columns[i];
    }
    __syncthreads();
    if (p0 + PULL_DEPTH < partners) load(p0 + PULL_DEPTH);
#pragma unroll 8
    for (int p = 0; p < PULL_DEPTH; p++) {
      const float4 four = *reinterpret_cast<const float4*>(&coefficient[p][4 * ty]);
      const float4 other = *reinterpret_cast<const float4*>(&partner[p][4 * tx]);
      const float pulls[4] = {four.x, four.y, four.z, four.w}, right[4] = {other.x, other.y, other.z, other.w};
#pragma unroll
      for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) sums[i].v[j] = fmaf(pulls[i], own[i].v[j] - right[j], sums[i].v[j]);
    }
  }
#pragma unroll
  for (int i = 0; i < 4; i++) {
    if (own_row(i) >= pulled || d >= dim) continue;
    float* row = out + (long long)(out_first + own_row(i)) * dim;
    Four sum = load_four(row, d, dim, out_in_fours);
#pragma unroll
    for (int j = 0; j < 4; j++) sum.v[j] += sums[i].v[j];
    store_four(row, d, dim, out_in_fours, sum);
  }
}
EXPORT_KERNEL(triplet_pull)
