// The 100 % mark of bench_gemm: the multiply instruction that a kernel table uses, in a loop on
// registers, one thread a core.
#ifndef LAPIDARY_BENCH_GEMM_PEAK_H_
#define LAPIDARY_BENCH_GEMM_PEAK_H_

#include "autograd/gemm.h"
#include "autograd/kernels/isa.h"

namespace lapidary {

// Floating-point operations of one call, single-threaded; about `milliseconds` long on a 4 GHz
// core. For Isa::kScalar: 0.
double RunPeakLoop(Isa isa, Compute compute, double milliseconds);

}  // namespace lapidary

#endif  // LAPIDARY_BENCH_GEMM_PEAK_H_
