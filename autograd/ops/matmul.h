// y = x W^T against frozen weights in any format, and against trainable ones.
#ifndef LAPIDARY_AUTOGRAD_OPS_MATMUL_H_
#define LAPIDARY_AUTOGRAD_OPS_MATMUL_H_

#include <memory>

#include "autograd/gemm.h"
#include "autograd/tape.h"
#include "autograd/weight.h"

namespace lapidary {

// y[N, O] = x[N, I] w[O, I]^T. w is read-only and gets no gradient; its bytes must outlive the
// tape. Saves nothing but the view.
Var MatMulFrozen(Var x, const WeightView& w, Compute compute);

// y[N, O] = x[N, I] w[O, I]^T with gradients for both. Saves x and w.
Var MatMul(Var x, Var w, Compute compute);

}  // namespace lapidary

#endif  // LAPIDARY_AUTOGRAD_OPS_MATMUL_H_
