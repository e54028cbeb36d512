// Weights in block formats as the matrix product wants them: every row of the format table is
// registered with autograd (dequantize rows, then pack), and Q4_0, Q8_0 and Q6_K also with
// functions that write packed panels straight from the blocks.
//
// This happens before main() in every program that links lapidary_quant: the library asks the
// linker to keep panels.cc, and a static object there calls RegisterQuantFormats(). Calling it
// again does no harm.
#ifndef LAPIDARY_QUANT_PANELS_H_
#define LAPIDARY_QUANT_PANELS_H_

#include "autograd/kernels/gemm_panels_isa.h"

namespace lapidary {

// Registers all formats. Not while the GEMM runs. Throws Error if the table is larger than its
// slots.
void RegisterQuantFormats();

// Panel functions, each defined in the file compiled for its instruction set. `round`: values are
// rounded to bf16.
struct BlockPanels {
  PanelPair q4_0, q8_0;
  PanelPair q6_k = {};  // null: goes through rows (AVX2)
};
extern const BlockPanels kBlockPanelsAvx2, kBlockPanelsAvx2Round;      // layout kF32x16
extern const BlockPanels kBlockPanelsAvx512, kBlockPanelsAvx512Round;  // layout kF32x32
extern const BlockPanels kBlockPanelsPairs;                            // layout kBf16x32, k unit 2
extern const BlockPanels kBlockPanelsTiles;                            // layout kBf16x32, k unit 32
extern const BlockPanels kBlockPanelsNeon, kBlockPanelsNeonRound;      // layout kF32x16

}  // namespace lapidary

#endif  // LAPIDARY_QUANT_PANELS_H_
