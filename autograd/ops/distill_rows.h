// The arithmetic of a distillation loss on one row of scores (autograd/ops/loss.h, Teacher).
// Private to autograd/ops.
#ifndef LAPIDARY_AUTOGRAD_OPS_DISTILL_ROWS_H_
#define LAPIDARY_AUTOGRAD_OPS_DISTILL_ROWS_H_

#include <cstdint>

namespace lapidary {

struct DistillRow {
  float* z = nullptr;        // [vocab] raw scores of the student; becomes the gradient if `grad`
  float* teacher = nullptr;  // [vocab] raw scores of the teacher, overwritten; null: stored ones
  const int32_t* ids = nullptr;      // [k] stored tokens, distinct
  const float* log_probs = nullptr;  // [k] their log-probabilities
  int64_t k = 0, vocab = 0;
  int32_t target = 0;
  float weight = 1;  // of the row
  float cap = 0, teacher_cap = 0;
  float mix = 1;          // share of the teacher's term
  float temperature = 1;  // with stored scores 1
  bool grad = true;
};

struct DistillResult {
  double cross_entropy = 0;  // -log q(target)
  double divergence = 0;     // KL(p || q) at the temperature, without the factor T^2
  bool correct = false;      // the target is the arg max
};

// Sums run in fixed blocks in one order.
DistillResult RunDistillRow(const DistillRow& row) noexcept;

}  // namespace lapidary

#endif  // LAPIDARY_AUTOGRAD_OPS_DISTILL_ROWS_H_
