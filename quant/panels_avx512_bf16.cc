// Panels from Q4_0, Q8_0 and Q6_K blocks for the vdpbf16ps and the tile table. Compiled for AVX-512
// BF16: nothing here may be a function that another file also instantiates.
#include "quant/panels_avx512-inl.h"

namespace lapidary {

const BlockPanels kBlockPanelsPairs = {{PackForwardBf16<Q4Row, 2>, PackInputGradBf16<Q4Row, 2>},
                                       {PackForwardBf16<Q8Row, 2>, PackInputGradBf16<Q8Row, 2>},
                                       {PackForwardBf16<Q6Row, 2>, PackInputGradBf16<Q6Row, 2>}};
const BlockPanels kBlockPanelsTiles = {{PackForwardBf16<Q4Row, 32>, PackInputGradBf16<Q4Row, 32>},
                                       {PackForwardBf16<Q8Row, 32>, PackInputGradBf16<Q8Row, 32>},
                                       {PackForwardBf16<Q6Row, 32>, PackInputGradBf16<Q6Row, 32>}};

}  // namespace lapidary
