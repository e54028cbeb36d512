// Fake quantization of activations.
#ifndef LAPIDARY_AUTOGRAD_OPS_FAKE_QUANT_H_
#define LAPIDARY_AUTOGRAD_OPS_FAKE_QUANT_H_

#include <cstdint>

#include "autograd/tape.h"

namespace lapidary {

// y = d rne(x / d) with d = max|x| / 127 over runs of `group` elements of the last axis; 0: over
// the whole axis (a scale per token). The gradient goes straight through: dx = dy. Throws Error if
// group does not divide the axis.
Var FakeQuantInt8(Var x, int64_t group);

}  // namespace lapidary

#endif  // LAPIDARY_AUTOGRAD_OPS_FAKE_QUANT_H_
