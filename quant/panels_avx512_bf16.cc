// Panels from Q4_0, Q8_0 and Q6_K blocks for the vdpbf16ps and the tile table. Compiled for AVX-512
// BF16: nothing here may be a function that another file also instantiates.
#include "quant/panels_avx512-inl.h"
#include "quant/panels_strip_avx512-inl.h"

namespace lapidary {
namespace {

struct Q4Rows : Q4Row {
  using Strip = Q4Strip;
};
struct Q8Rows : Q8Row {
  using Strip = Q8Strip;
};
struct Q6Rows : Q6Row {
  using Strip = Q6Strip;
};

}  // namespace

const BlockPanels kBlockPanelsPairs = {{PackForwardBf16<Q4Rows, 2>, PackInputGradBf16<Q4Row, 2>},
                                       {PackForwardBf16<Q8Rows, 2>, PackInputGradBf16<Q8Row, 2>},
                                       {PackForwardBf16<Q6Rows, 2>, PackInputGradBf16<Q6Row, 2>}};
const BlockPanels kBlockPanelsTiles = {{PackForwardBf16<Q4Rows, 32>, PackInputGradBf16<Q4Row, 32>},
                                       {PackForwardBf16<Q8Rows, 32>, PackInputGradBf16<Q8Row, 32>},
                                       {PackForwardBf16<Q6Rows, 32>, PackInputGradBf16<Q6Row, 32>}};

}  // namespace lapidary
