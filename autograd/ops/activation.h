// Gated GELU.
#ifndef LAPIDARY_AUTOGRAD_OPS_ACTIVATION_H_
#define LAPIDARY_AUTOGRAD_OPS_ACTIVATION_H_

#include "autograd/tape.h"

namespace lapidary {

// y = gelu_tanh(gate) * up,  gelu_tanh(x) = 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))). Equal
// shapes. Saves gate and up. Source: Shazeer 2020, arXiv:2002.05202; Hendrycks & Gimpel 2016,
// arXiv:1606.08415.
Var GeGlu(Var gate, Var up);

}  // namespace lapidary

#endif  // LAPIDARY_AUTOGRAD_OPS_ACTIVATION_H_
