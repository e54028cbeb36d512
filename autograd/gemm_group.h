// Products of one input with several frozen weights, each with a low-rank correction or none: q, k
// and v, gate and up, or a single linear with LoRA. The input is packed once for all of them, the
// correction is a continuation of the inner dimension of the same product.
//
//   y_j = [x | z_j] [W_j | s_j B_j]^T,  z_j = x A_j^T        (LoRA: Hu et al. 2021,
//   arXiv:2106.09685) dx  = sum over j of [dy_j | dz_j] [W_j ; A_j],  dz_j = dy_j s_j B_j dA_j =
//   dz_j^T x,  dB_j = dy_j^T (s_j z_j)
//
// A part whose weight has a map with a correction of its own (autograd/weight_map.h) is the product
// with that weight alone: its A and B are in W_eff already. Its gradients are those of a
// straight-through estimator, the formulas above with dx = dy W_eff; no gradient of W is formed.
// If the map learns, the gradient of its parameters is that of autograd/step_grad.h.
//
// Bits: those of the products of gemm.h called one after the other with `add`, s_j B_j and s_j z_j
// formed in float32 first (tests/autograd/gemm_group_test.cc is that definition). So they depend
// neither on threads nor on how the tokens are cut: rows of y, z and dx are their own, and dA and
// dB continue their sums, so that calls on consecutive runs of tokens, each but the last a multiple
// of 64, give the bits of one call on all. Matrices are row-major without gaps and must not
// overlap. Temporary memory: packed rows as in gemm.h, and float32 [N, R] and R rows of the widest
// weight, R the sum of the ranks.
#ifndef LAPIDARY_AUTOGRAD_GEMM_GROUP_H_
#define LAPIDARY_AUTOGRAD_GEMM_GROUP_H_

#include <cstdint>
#include <span>

#include "autograd/gemm.h"
#include "autograd/weight.h"

namespace lapidary {

struct GroupPart {
  WeightView w;              // [O_j, I], I the same in all parts
  const float* a = nullptr;  // A_j [r_j, I]
  const float* b = nullptr;  // B_j [O_j, r_j]
  int64_t rank = 0;          // r_j; 0: no correction
  float scale = 1;           // s_j
};

// R, the sum of the ranks.
int64_t GroupRank(std::span<const GroupPart> parts);

// y[j][N, O_j], and z[N, R] with z_j side by side (may be null if R is 0). Throws Error on sizes
// that do not fit.
void GemmGroupForward(const float* x, int64_t n, std::span<const GroupPart> parts,
                      std::span<float* const> y, float* z, Compute compute);

// A gradient to be written, or added to.
struct GroupTarget {
  float* data = nullptr;  // null: not wanted
  bool add = false;
};
struct GroupPartGrads {
  const float* dy = nullptr;  // [N, O_j]; null: no gradient, the part is left out
  GroupTarget da, db;         // ignored without dy or without rank
  GroupTarget dsteps = {};    // [O_j, I / slope_block] of w's map; ignored without dy
};

// x may be null if no dA and no steps are wanted, z if no dB is.
void GemmGroupGrad(const float* x, const float* z, int64_t n, std::span<const GroupPart> parts,
                   std::span<const GroupPartGrads> grads, GroupTarget dx, Compute compute);

}  // namespace lapidary

#endif  // LAPIDARY_AUTOGRAD_GEMM_GROUP_H_
