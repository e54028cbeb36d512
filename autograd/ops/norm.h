// Norms over the last axis.
#ifndef LAPIDARY_AUTOGRAD_OPS_NORM_H_
#define LAPIDARY_AUTOGRAD_OPS_NORM_H_

#include "autograd/tape.h"

namespace lapidary {

// Root-mean-square norm:  y = x / sqrt(mean(x^2) + eps) * w.
//   x    [..., C]
//   w    [C], the gain itself (Gemma 4), or an undefined Var: no gain
//   eps  > 0, in units of x^2, inside the root
// Saves x, w and 1/rms. Throws Error if w is not [C] or eps <= 0.
// Source: Zhang & Sennrich 2019, arXiv:1910.07467, eq. 4.
Var RmsNorm(Var x, Var w, float eps);

// y = (x - mean) / sqrt(var + eps) * w + b, biased variance.  x [..., C], w and b [C].
// Source: Ba et al. 2016, arXiv:1607.06450.
Var LayerNorm(Var x, Var w, Var b, float eps);

}  // namespace lapidary

#endif  // LAPIDARY_AUTOGRAD_OPS_NORM_H_
