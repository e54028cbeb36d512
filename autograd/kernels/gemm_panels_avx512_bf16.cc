// Panels of bfloat16, float16 and float32 weights for the vdpbf16ps and the tile table. Compiled
// for AVX-512 BF16: nothing here may be a function that another file also instantiates.
#include "autograd/kernels/gemm_panels_dense-inl.h"
#include "autograd/kernels/gemm_panels_isa.h"

namespace lapidary {

const DensePanels kDensePanelsPairs = {{PackForwardBf16<Bf16Row, 2>, PackInputGradBf16<Bf16Row, 2>},
                                       {PackForwardBf16<F32Row, 2>, PackInputGradBf16<F32Row, 2>},
                                       {PackForwardBf16<F16Row, 2>, PackInputGradBf16<F16Row, 2>}};
const DensePanels kDensePanelsTiles = {
    {PackForwardBf16<Bf16Row, 32>, PackInputGradBf16<Bf16Row, 32>},
    {PackForwardBf16<F32Row, 32>, PackInputGradBf16<F32Row, 32>},
    {PackForwardBf16<F16Row, 32>, PackInputGradBf16<F16Row, 32>}};

}  // namespace lapidary
