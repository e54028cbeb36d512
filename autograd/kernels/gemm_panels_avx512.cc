// Panels of bfloat16, float16 and float32 weights for the AVX-512 table with fp32 FMA. Compiled for
// AVX-512: nothing here may be a function that another file also instantiates.
#include "autograd/kernels/gemm_panels_dense-inl.h"
#include "autograd/kernels/gemm_panels_isa.h"

namespace lapidary {

const DensePanels kDensePanelsAvx512 = {
    {PackForwardF32<Bf16Row, false>, PackInputGradF32<Bf16Row, false>},
    {PackForwardF32<F32Row, false>, PackInputGradF32<F32Row, false>},
    {PackForwardF32<F16Row, false>, PackInputGradF32<F16Row, false>}};
const DensePanels kDensePanelsAvx512Round = {
    {PackForwardF32<Bf16Row, false>, PackInputGradF32<Bf16Row, false>},
    {PackForwardF32<F32Row, true>, PackInputGradF32<F32Row, true>},
    {PackForwardF32<F16Row, true>, PackInputGradF32<F16Row, true>}};

}  // namespace lapidary
