// Panels from Q4_0, Q8_0 and Q6_K blocks for the AVX-512 table with fp32 FMA. Compiled for AVX-512:
// nothing here may be a function that another file also instantiates.
#include "quant/panels_avx512-inl.h"

namespace lapidary {

const BlockPanels kBlockPanelsAvx512 = {
    {PackForwardF32<Q4Row, false>, PackInputGradF32<Q4Row, false>},
    {PackForwardF32<Q8Row, false>, PackInputGradF32<Q8Row, false>},
    {PackForwardF32<Q6Row, false>, PackInputGradF32<Q6Row, false>}};
const BlockPanels kBlockPanelsAvx512Round = {
    {PackForwardF32<Q4Row, true>, PackInputGradF32<Q4Row, true>},
    {PackForwardF32<Q8Row, true>, PackInputGradF32<Q8Row, true>},
    {PackForwardF32<Q6Row, true>, PackInputGradF32<Q6Row, true>}};

}  // namespace lapidary
