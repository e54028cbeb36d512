// The gradient of the learned parameters of a weight's map (autograd/weight_map.h): steps of fake
// quantization, one for every block of columns of a row, while the weight itself is frozen. They
// need dW = dy^T x, of which only weighted block sums are kept:
//
//   dsteps[o, b] = sum over columns i of block b of  (dy^T x)[o, i] * slope(W + s B A)[o, i]
//
// dW is formed in tiles of 512 x 128 (of fewer rows where blocks are longer), 64 tokens at a time,
// and reduced at once; it is never stored as a whole. Cost: a product as large as the input
// gradient, and a pass over a tile for every 64 tokens.
//
// Bits: tokens are added 64 by 64 in order, a tile belongs to one thread, a block is summed in 16
// lanes in order. So they depend neither on threads nor on how tokens are cut into calls that are
// multiples of 64 but the last.
#ifndef LAPIDARY_AUTOGRAD_STEP_GRAD_H_
#define LAPIDARY_AUTOGRAD_STEP_GRAD_H_

#include <cstdint>

#include "autograd/gemm.h"
#include "autograd/weight.h"

namespace lapidary {

// dsteps[O, I / slope_block] from dy [N, O] and x [N, I], or += if `add`; w [O, I] with a map that
// has a slope. Rows without gaps. Throws Error on sizes that do not fit or a map without slope.
// Memory: packed dy as in gemm.h, and two tiles of float32 a thread: 512 KB, or, where a block is a
// whole row of more than 1,024 columns, 512 bytes a column.
void StepGrad(const float* dy, const float* x, int64_t n, const WeightView& w, float* dsteps,
              bool add, Compute compute);

}  // namespace lapidary

#endif  // LAPIDARY_AUTOGRAD_STEP_GRAD_H_
