// The three matrix products of training, multi-threaded, on activations in float32 and weights in
// any registered format. Outputs are partitioned over threads, the inner dimension never is;
// accumulators run through it in order, so a row's result depends neither on the number of threads
// nor on how many other rows there are.
// With `add` an element's sum starts from what is there, so a product in two halves of the inner
// dimension is the whole one, bit for bit. Matrices are row-major without gaps; x, w and y must not
// overlap. Any thread may call; a call inside a ParallelFor runs on its thread alone. Each calling
// thread keeps up to 64 MB of packed activations, each worker about 4 MB. Throw Error on sizes or a
// format that do not fit; pointers are trusted.
//
// Compute: float32 = fp32 products; bfloat16 = both operands rounded to bf16 (nearest even),
// products and sums in fp32.
#ifndef LAPIDARY_AUTOGRAD_GEMM_H_
#define LAPIDARY_AUTOGRAD_GEMM_H_

#include <cstdint>

#include "autograd/weight.h"

namespace lapidary {

enum class Compute { kFloat32, kBfloat16 };
const char* ComputeName(Compute compute);  // "float32", "bfloat16"

// y[N, O] = x[N, I] w^T, or += if `add`. w is [O, I].
void GemmForward(const float* x, int64_t n, const WeightView& w, float* y, bool add,
                 Compute compute);

// dx[N, I] = dy[N, O] w, or += if `add`.
void GemmInputGrad(const float* dy, int64_t n, const WeightView& w, float* dx, bool add,
                   Compute compute);

// dw[O, I] = dy[N, O]^T x[N, I], or += if `add`.
void GemmWeightGrad(const float* dy, const float* x, int64_t n, int64_t o, int64_t i, float* dw,
                    bool add, Compute compute);

}  // namespace lapidary

#endif  // LAPIDARY_AUTOGRAD_GEMM_H_
