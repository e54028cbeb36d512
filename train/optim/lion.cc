#include "train/optim/lion.h"

namespace lapidary {

Lion::Lion(const std::vector<Param*>& params, const LionOptions& options)
    : Optimizer(params), options_(options) {
  LAPIDARY_CHECK(options.beta1 >= 0 && options.beta1 < 1, "adam_beta1: must be in [0, 1); got ",
                 options.beta1, "; try 0.9");
  LAPIDARY_CHECK(options.beta2 >= 0 && options.beta2 < 1, "adam_beta2: must be in [0, 1); got ",
                 options.beta2, "; try 0.99");
  for (OptimizerSlot& slot : slots()) {
    slot.weight_decay = options.weight_decay;
    const Shape& shape = slot.param->value.shape();
    slot.states.push_back(
        {"exp_avg", MomentState(shape, StateType(options.states, shape.size()), true)});
  }
}

void Lion::Update(OptimizerSlot& slot, double learning_rate) {
  const float b1 = static_cast<float>(options_.beta1), b2 = static_cast<float>(options_.beta2);
  const float c1 = static_cast<float>(1 - options_.beta1);
  const float c2 = static_cast<float>(1 - options_.beta2);
  const float keep = static_cast<float>(1 - learning_rate * slot.weight_decay);
  const float rate = static_cast<float>(learning_rate);
  float* p = slot.param->value.data();
  const float* grad = slot.param->grad.data();
  ForEachPiece(slot, [&](int64_t begin, int64_t end, const auto& states) {
    for (int64_t i = begin; i < end; ++i) {
      float& m = states[0][i - begin];
      const float blend = b1 * m + c1 * grad[i];
      const float sign = static_cast<float>((blend > 0) - (blend < 0));
      p[i] = p[i] * keep - rate * sign;
      m = b2 * m + c2 * grad[i];
    }
  });
}

}  // namespace lapidary
