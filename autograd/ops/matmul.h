// y = x W^T against frozen weights in any format, and against trainable ones.
#ifndef LAPIDARY_AUTOGRAD_OPS_MATMUL_H_
#define LAPIDARY_AUTOGRAD_OPS_MATMUL_H_

#include <span>
#include <vector>

#include "autograd/gemm.h"
#include "autograd/tape.h"
#include "autograd/weight.h"

namespace lapidary {

// y[N, O] = x[N, I] w[O, I]^T. w is read-only and gets no gradient; its bytes must outlive the
// tape. Saves nothing but the view.
Var MatMulFrozen(Var x, const WeightView& w, Compute compute);

// y[N, O] = x[N, I] w[O, I]^T with gradients for both. Saves x and w. `values` as in MatMulGroup.
// With a map the products are with the mapped w, and the gradient of w goes straight through: dw =
// dy^T x.
Var MatMul(Var x, Var w, Compute compute, bool values = true, const WeightMap* map = nullptr);

// A frozen weight [O, I] with a low-rank correction s B A: A [r, I], B [O, r]. Without a
// (undefined) there is none. `steps` [O, I / slope_block]: the learned parameters of w's map, whose
// values the map knows already; undefined: none.
struct AdaptedWeight {
  WeightView w;
  Var a = {}, b = {};
  float scale = 1;
  Var steps = {};
};

// y_j[N, O_j] = [x | z_j] [W_j | s_j B_j]^T with z_j = x A_j^T: several products of one x, each
// with its correction fused in (gemm_group.h has the formulas and the promises about bits), with
// gradients for x, A_j, B_j and steps_j (autograd/step_grad.h). Saves x if a gradient of some A or
// steps is wanted, and z [N, sum of r].
// Without `values` the y_j have shapes and gradients but no bytes, and only z is computed: for a
// gradient whose values are known to nobody any more.
std::vector<Var> MatMulGroup(Var x, std::span<const AdaptedWeight> weights, Compute compute,
                             bool values = true);

}  // namespace lapidary

#endif  // LAPIDARY_AUTOGRAD_OPS_MATMUL_H_
