// The built-in panel functions of bfloat16 weights, each defined in the file compiled for its
// instruction set.
#ifndef LAPIDARY_AUTOGRAD_KERNELS_GEMM_PANELS_ISA_H_
#define LAPIDARY_AUTOGRAD_KERNELS_GEMM_PANELS_ISA_H_

#include "autograd/weight.h"

namespace lapidary {

struct PanelPair {
  PanelFunction forward = nullptr;
  PanelFunction input_grad = nullptr;
};

extern const PanelPair
    kBf16PanelsAvx2;  // layout kF32x16, both compute types: bf16 values need no rounding
extern const PanelPair kBf16PanelsAvx512;  // layout kF32x32, both compute types
extern const PanelPair kBf16PanelsPairs;   // layout kBf16x32, k unit 2
extern const PanelPair kBf16PanelsTiles;   // layout kBf16x32, k unit 32

}  // namespace lapidary

#endif  // LAPIDARY_AUTOGRAD_KERNELS_GEMM_PANELS_ISA_H_
