#include "autograd/kernels/kernels.h"

namespace lapidary {

const Kernels& KernelsFor(Isa) { return ScalarKernels(); }

const Kernels& ActiveKernels() { return KernelsFor(ActiveIsa()); }

}  // namespace lapidary
