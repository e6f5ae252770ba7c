// What the margin-softmax kernels share.
//
// With unit vectors x^ and w^, cosines c_ij and the row's scale s_i (the loss's scale; for SphereFace times |x_i|), the
// logits are z_ij = s_i c_ij but for the target's, which carries the margin. The bulk kernels know no margin: they leave
// the target's column out. With l_i = log sum_{j != y_i} exp(z_ij) and the target's logit z_i,
//   loss_i = softplus(l_i - z_i),  sigma_i = sigmoid(l_i - z_i),  q_ij = exp(z_ij - l_i),
//   dL_i/dz_ij = sigma_i q_ij for j != y_i,
// without cancellation when a sample is already right. Of a class's sub-centres the nearest alone counts (Deng et al.
// 2020, "Sub-center ArcFace", equation 2), the first of equals. q is kept apart from sigma: q's rows sum to 1 whatever the loss,
// so it fits f16 where sigma q would vanish.
#pragma once
#include "product.cuh"
#include "rows.cuh"

// q is stored times this: with f16's subnormals down to 2^-39.
constexpr float SHARE = 32768.0f;
constexpr float LOG2_E = 1.44269504f;
constexpr float LN_2 = 0.693147181f;

enum MarginKind { ARC, COS, SPHERE };
enum MarginEdge { JUMP, CONTINUOUS, NONE };

// Mirrored by `margin::options::MarginArgument`.
struct Margin {
  int kind;
  int edge;        // ARC: what happens beyond pi - m
  int straight;    // ARC: the slope in the cosine taken as 1
  int multiplier;  // SPHERE
  double scale;
  double m;        // ARC: radians; COS: a cosine
  double cos_m;    // ARC
  double sin_m;    // ARC
};

// What the target kernel finds of each row, a row of doubles.
enum TargetField {
  TARGET_COSINE,  // to the own centre
  TARGET_SINE,    // |w^ - c x^|
  TARGET_SLOPE,   // -d(logit / scale) / d theta (per unit norm for SphereFace)
  TARGET_ALONG,   // SphereFace: psi, the part along the embedding; else 0
  TARGET_LOGIT,   // with margin
  TARGET_X_NORM,
  TARGET_W_NORM,
  TARGET_SUB,     // which of the class's centres is the nearest, from 0; -1 where the label is no class
  TARGET_FIELDS = 8,
};

// How a tile of classes with sub-centres lies in scratch: all first sub-centres, all second ones, and so on, `pitch` rows
// each (a multiple of TILE; rows beyond the tile's classes are zero). With one centre a class the tile is what it is in
// memory.
struct SubCentres {
  int count;
  int pitch;
};

// Below this length the tangent has no direction; its gradient is then 0.
constexpr double NO_TANGENT = 1e-12;

// The share of a row's own direction in the other row that its gradient leaves out; none for a row that is divided by
// SHORTEST instead of its length, of which the cosine is linear.
__device__ __forceinline__ double projected(double norm, double cosine) {
  return norm > (double)SHORTEST ? cosine : 0.0;
}

struct Yes { enum { value = 1 }; };
struct No { enum { value = 0 }; };
// Whether a warp's part of a tile of logits has columns that do not count: beyond the classes, or a row's own class. All its
// lanes get the same.
template <int ACROSS>
__device__ __forceinline__ bool leaves_out(const unsigned* labels, int row_start, int n, int first_class, int class_start,
                                           int classes) {
  constexpr unsigned columns = TILE / ACROSS;
  const unsigned first = first_class + class_start + warp_across<ACROSS>() * columns;
  bool found = class_start + TILE > classes;
#pragma unroll
  for (int i = 0; i < 4; i++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int row = row_start + tile_row<ACROSS>(i, half);
      found = found || (row < n && labels[row] - first < columns);
    }
  return __ballot_sync(ALL_LANES, found) != 0;
}
