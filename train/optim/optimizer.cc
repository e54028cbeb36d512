#include "train/optim/optimizer.h"

#include <cmath>
#include <set>

namespace lapidary {
namespace {

// Below this many elements states stay float32: they weigh nothing (bitsandbytes' min_8bit_size).
constexpr int64_t kSmall = 4096;

// The unit of sums of squares; changing it changes the last bits of Adafactor.
constexpr int64_t kSumBlock = 4096;

}  // namespace

const MomentState& OptimizerSlot::State(const std::string& name) const {
  for (const OptimizerState& state : states) {
    if (state.name == name) return state.moment;
  }
  throw Error(StrCat("optimizer: '", param->name, "' must have a state '", name, "'; got none"));
}

Optimizer::Optimizer(const std::vector<Param*>& params) {
  std::set<std::string> names;
  for (Param* param : params) {
    LAPIDARY_CHECK(names.insert(param->name).second,
                   "optimizer: parameters must have names of their own; got '", param->name,
                   "' twice");
    slots_.emplace_back().param = param;
  }
}

void Optimizer::Step(double learning_rate) {
  LAPIDARY_CHECK(learning_rate >= 0 && std::isfinite(learning_rate),
                 "optimizer: the learning rate must be >= 0; got ", learning_rate);
  for (OptimizerSlot& slot : slots_) {
    const Tensor& grad = slot.param->grad;
    if (!grad.defined()) continue;
    LAPIDARY_CHECK(grad.shape() == slot.param->value.shape(), "optimizer: the gradient of '",
                   slot.param->name, "' must be ", slot.param->value.shape(), "; got ",
                   grad.shape());
    ++slot.step;
    Update(slot, learning_rate * slot.learning_rate);
  }
}

void Optimizer::Reset() {
  for (OptimizerSlot& slot : slots_) {
    slot.step = 0;
    for (OptimizerState& state : slot.states) {
      const MomentState& old = state.moment;
      state.moment = MomentState(old.values.shape(), old.values.dtype(), old.is_signed);
    }
  }
}

DType StateType(OptimizerStates states, int64_t size) {
  if (size < kSmall || states == OptimizerStates::kFloat32) return DType::kF32;
  return states == OptimizerStates::kBf16 ? DType::kBf16 : DType::kI8;
}

double RootMeanSquare(const float* values, int64_t n) {
  const int64_t blocks = (n + kSumBlock - 1) / kSumBlock;
  std::vector<double> sums(static_cast<size_t>(blocks), 0.0);
  ParallelFor(
      blocks,
      [&](Range range) {
        for (int64_t b = range.begin; b < range.end; ++b) {
          double sum = 0;
          const int64_t end = std::min(n, (b + 1) * kSumBlock);
          for (int64_t i = b * kSumBlock; i < end; ++i) {
            sum += static_cast<double>(values[i]) * values[i];
          }
          sums[static_cast<size_t>(b)] = sum;
        }
      },
      8);
  double total = 0;
  for (const double sum : sums) total += sum;
  return n > 0 ? std::sqrt(total / static_cast<double>(n)) : 0;
}

}  // namespace lapidary
