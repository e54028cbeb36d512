// The tables that gemm_table.cc chooses from; each is defined in the file compiled for its
// instruction set.
#ifndef LAPIDARY_AUTOGRAD_KERNELS_GEMM_ISA_H_
#define LAPIDARY_AUTOGRAD_KERNELS_GEMM_ISA_H_

#include "autograd/kernels/gemm_table.h"

namespace lapidary {

extern const GemmTable kGemmScalarF32, kGemmScalarBf16;  // gemm_scalar.cc
extern const GemmTable kGemmAvx2F32,
    kGemmAvx2Bf16;  // gemm_avx2.cc: bf16-rounded operands, fp32 FMA
extern const GemmTable kGemmAvx512F32, kGemmAvx512Bf16Fma;  // gemm_avx512.cc: the same, 512 bits
extern const GemmTable kGemmAvx512Bf16;                     // gemm_avx512bf16.cc: vdpbf16ps
extern const GemmTable kGemmAmxBf16;                        // gemm_amx.cc: bf16 tiles
extern const GemmTable kGemmNeonF32,
    kGemmNeonBf16;  // gemm_neon.cc: bf16-rounded operands, fp32 FMA

}  // namespace lapidary

#endif  // LAPIDARY_AUTOGRAD_KERNELS_GEMM_ISA_H_
