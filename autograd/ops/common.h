// What the ops share: how work is cut into ranges, and gradients that pass through. Private to
// autograd/ops.
#ifndef LAPIDARY_AUTOGRAD_OPS_COMMON_H_
#define LAPIDARY_AUTOGRAD_OPS_COMMON_H_

#include <cstdint>

#include "autograd/base/parallel.h"
#include "autograd/tape.h"

namespace lapidary {

// Below these, waking a thread costs more than the work: elements of a pass, columns of a sum.
inline constexpr int64_t kElementGrain = 1 << 14;
inline constexpr int64_t kColumnGrain = 16;

inline int64_t RowGrain(int64_t cols) { return cols > 0 ? 1 + kElementGrain / cols : 1; }

// The number of rows of a [..., cols] shape.
inline int64_t RowsOf(const Shape& shape, int64_t cols) { return cols ? shape.size() / cols : 0; }

// y = c x or y += c x, as y.add says.
void ScaleInto(const float* x, int64_t size, float c, const InputGrads::Target& y);

// Adds dy to the gradient of an input, if it needs one.
void PassGradient(const float* dy, int64_t size, const InputGrads& d, int input);

}  // namespace lapidary

#endif  // LAPIDARY_AUTOGRAD_OPS_COMMON_H_
