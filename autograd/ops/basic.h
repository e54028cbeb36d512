// Elementwise ops. N tokens, C channels; all float32.
#ifndef LAPIDARY_AUTOGRAD_OPS_BASIC_H_
#define LAPIDARY_AUTOGRAD_OPS_BASIC_H_

#include <cstdint>
#include <vector>

#include "autograd/base/random.h"
#include "autograd/tape.h"

namespace lapidary {

// y = a + b, equal shapes.
Var Add(Var a, Var b);

// y = c x. Saves nothing.
Var Scale(Var x, float c);

// y[N, C] = x[N, C] + b[C].
Var AddBias(Var x, Var b);

// y[N, C] = x[N, C] * g[C] * constant[C]; constant gets no gradient (DoRA: g the magnitudes,
// constant 1 / row norms). Saves x, g, constant.
Var ScaleColumns(Var x, Var g, Tensor constant);

// y = x rounded to bf16 (nearest even); the gradient passes unchanged.
Var RoundBf16(Var x);

// Inverted dropout: y = x * keep / (1 - p), keep with probability 1 - p. The choice for element (n,
// c) is a function of (key, indices[n] * C + c), so it does not depend on the batch around it;
// indices [N] are the tokens' positions in the step. 0 <= p < 1; p = 0 returns x.
Var Dropout(Var x, float p, const RandomKey& key, const std::vector<int64_t>& indices);

}  // namespace lapidary

#endif  // LAPIDARY_AUTOGRAD_OPS_BASIC_H_
