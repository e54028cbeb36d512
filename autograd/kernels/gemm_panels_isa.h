// The built-in panel functions of dense weights, each defined in the file compiled for its
// instruction set.
#ifndef LAPIDARY_AUTOGRAD_KERNELS_GEMM_PANELS_ISA_H_
#define LAPIDARY_AUTOGRAD_KERNELS_GEMM_PANELS_ISA_H_

#include "autograd/kernels/gemm_table.h"
#include "autograd/weight.h"

namespace lapidary {

struct PanelPair {
  PanelFunction forward = nullptr;
  PanelFunction input_grad = nullptr;
};

struct DensePanels {
  PanelPair bf16, f32;
  PanelPair f16 = {};  // null: goes through rows (NEON)
};
// "Round": float32 and float16 weights are rounded to bf16 for a bfloat16 product.
extern const DensePanels kDensePanelsAvx2, kDensePanelsAvx2Round;      // layout kF32x16
extern const DensePanels kDensePanelsAvx512, kDensePanelsAvx512Round;  // layout kF32x32
extern const DensePanels kDensePanelsPairs;                            // layout kBf16x32, k unit 2
extern const DensePanels kDensePanelsTiles;                            // layout kBf16x32, k unit 32
extern const FewRowsFunction kFewRowsBf16Pairs;                        // bf16 by vdpbf16ps
extern const DensePanels kDensePanelsNeon, kDensePanelsNeonRound;      // layout kF32x16

}  // namespace lapidary

#endif  // LAPIDARY_AUTOGRAD_KERNELS_GEMM_PANELS_ISA_H_
