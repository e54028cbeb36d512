// Rotary position embedding, half-split pairing.
#ifndef LAPIDARY_AUTOGRAD_OPS_ROPE_H_
#define LAPIDARY_AUTOGRAD_OPS_ROPE_H_

#include <cstdint>
#include <vector>

#include "autograd/tape.h"

namespace lapidary {

// For head h of token n, with f = positions[n] * inv_freq[i] (float32):
//   y[i]       = x[i] cos f - x[i + D/2] sin f
//   y[i + D/2] = x[i + D/2] cos f + x[i] sin f          i in [0, D/2)
//   x [N, H, D], positions [N], inv_freq [D/2] (0: that pair is not rotated).
// Saves positions and inv_freq. Source: Su et al. 2021, arXiv:2104.09864; pairing as Transformers'
// rotate_half (gemma4-12b.md 3.4).
Var Rope(Var x, const std::vector<int32_t>& positions, const std::vector<float>& inv_freq);

}  // namespace lapidary

#endif  // LAPIDARY_AUTOGRAD_OPS_ROPE_H_
