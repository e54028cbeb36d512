#include "train/optim/adamw.h"

#include <cmath>

#include "autograd/kernels/kernels.h"

namespace lapidary {

void CheckAdamW(const AdamWOptions& options) {
  LAPIDARY_CHECK(options.beta1 >= 0 && options.beta1 < 1, "adam_beta1: must be in [0, 1); got ",
                 options.beta1, "; try 0.9");
  LAPIDARY_CHECK(options.beta2 >= 0 && options.beta2 < 1, "adam_beta2: must be in [0, 1); got ",
                 options.beta2, "; try 0.999");
  LAPIDARY_CHECK(options.epsilon > 0 && std::isfinite(options.epsilon),
                 "adam_epsilon: must be > 0; got ", options.epsilon, "; try 1e-8");
  LAPIDARY_CHECK(options.weight_decay >= 0 && std::isfinite(options.weight_decay),
                 "weight_decay: must be >= 0; got ", options.weight_decay, "; try 0.01");
}

void AddAdamWStates(OptimizerSlot& slot, OptimizerStates states) {
  const Shape& shape = slot.param->value.shape();
  const DType type = StateType(states, shape.size());
  slot.states.push_back({"exp_avg", MomentState(shape, type, /*has_sign=*/true)});
  slot.states.push_back({"exp_avg_sq", MomentState(shape, type, /*has_sign=*/false)});
}

void AdamWUpdate(OptimizerSlot& slot, const AdamWOptions& options, double learning_rate) {
  const double t = static_cast<double>(slot.step);
  const AdamWArgs args = {.param = slot.param->value.data(),
                          .m = nullptr,
                          .v = nullptr,
                          .grad = slot.param->grad.data(),
                          .lr = learning_rate,
                          .beta1 = options.beta1,
                          .beta2 = options.beta2,
                          .eps = options.epsilon,
                          .weight_decay = slot.weight_decay,
                          .bias1 = 1 - std::pow(options.beta1, t),
                          .bias2 = 1 - std::pow(options.beta2, t)};
  ForEachPiece(slot, [&](int64_t begin, int64_t end, const auto& states) {
    AdamWArgs here = args;
    here.param += begin;
    here.grad += begin;
    here.m = states[0];
    here.v = states[1];
    ActiveKernels().AdamW(here, {0, end - begin});
  });
}

AdamW::AdamW(const std::vector<Param*>& params, const AdamWOptions& options,
             const std::function<bool(const std::string&)>& decays)
    : Optimizer(params), options_(options) {
  CheckAdamW(options);
  for (OptimizerSlot& slot : slots()) {
    slot.weight_decay = !decays || decays(slot.param->name) ? options.weight_decay : 0.0;
    AddAdamWStates(slot, options.states);
  }
}

bool DecaysByName(const std::string& name) {
  if (name.find("bias") != std::string::npos) return false;
  if (name.ends_with(".qat_log_step")) return false;
  // "norm" as the end of a word of the path: ".norm.", "_norm.", "layernorm.", "pos_norm_"; "_ln1".
  return name.find("norm") == std::string::npos && name.find("_ln1") == std::string::npos &&
         name.find("_ln2") == std::string::npos;
}

}  // namespace lapidary
