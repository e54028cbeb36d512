#include "train/optim/sgd.h"

namespace lapidary {

Sgd::Sgd(const std::vector<Param*>& params, const SgdOptions& options)
    : Optimizer(params), options_(options) {
  LAPIDARY_CHECK(options.momentum >= 0 && options.momentum < 1,
                 "optim_args.momentum: must be in [0, 1); got ", options.momentum, "; try 0.9");
  LAPIDARY_CHECK(!options.nesterov || options.momentum > 0,
                 "optim_args.nesterov: must go with momentum; got momentum 0; try 0.9");
  for (OptimizerSlot& slot : slots()) {
    slot.weight_decay = options.weight_decay;
    if (options.momentum == 0) continue;
    slot.states.push_back(
        {"momentum_buffer", MomentState(slot.param->value.shape(), DType::kF32, true)});
  }
}

void Sgd::Update(OptimizerSlot& slot, double learning_rate) {
  const float decay = static_cast<float>(slot.weight_decay);
  const float momentum = static_cast<float>(options_.momentum);
  const float rate = static_cast<float>(learning_rate);
  const bool first = slot.step == 1, nesterov = options_.nesterov;
  float* p = slot.param->value.data();
  const float* grad = slot.param->grad.data();
  ForEachPiece(slot, [&](int64_t begin, int64_t end, const auto& states) {
    for (int64_t i = begin; i < end; ++i) {
      const float g = grad[i] + decay * p[i];
      if (!states[0]) {
        p[i] -= rate * g;
        continue;
      }
      float& b = states[0][i - begin];
      b = first ? g : momentum * b + g;
      p[i] -= rate * (nesterov ? g + momentum * b : b);
    }
  });
}

}  // namespace lapidary
