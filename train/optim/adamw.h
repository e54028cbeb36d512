// AdamW in the arithmetic of torch.optim.AdamW, its state in float32, bf16 or 8 bits a value.
#ifndef LAPIDARY_TRAIN_OPTIM_ADAMW_H_
#define LAPIDARY_TRAIN_OPTIM_ADAMW_H_

#include <functional>
#include <string>
#include <vector>

#include "train/optim/optimizer.h"

namespace lapidary {

struct AdamWOptions {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  double weight_decay = 0;
  OptimizerStates states = OptimizerStates::kFloat32;
};

// Throws Error naming the key if an option is out of range.
void CheckAdamW(const AdamWOptions& options);

// One update of a slot with the states {exp_avg, exp_avg_sq}; what other optimizers do with the
// parameters that they leave to AdamW.
void AdamWUpdate(OptimizerSlot& slot, const AdamWOptions& options, double learning_rate);
// Gives a slot those states.
void AddAdamWStates(OptimizerSlot& slot, OptimizerStates states);

// With t the number of updates this parameter has had, this one included:
//   p <- p (1 - lr weight_decay)
//   m <- m + (1 - beta1) (g - m)              v <- beta2 v + (1 - beta2) g^2
//   p <- p - lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + epsilon)
// elementwise in float32, the scalars in double; then m and v are rounded to how they are kept.
// Source: Loshchilov & Hutter 2019, arXiv:1711.05101, algorithm 2; the order of roundings is that
// of PyTorch's _single_tensor_adamw.
class AdamW : public Optimizer {
 public:
  // `decays(name)` says which parameters have weight decay; empty: all. Throws Error if an option
  // is out of range.
  AdamW(const std::vector<Param*>& params, const AdamWOptions& options,
        const std::function<bool(const std::string&)>& decays = nullptr);

 private:
  void Update(OptimizerSlot& slot, double learning_rate) override {
    AdamWUpdate(slot, options_, learning_rate);
  }
  AdamWOptions options_;
};

// The rule of Hugging Face's Trainer: biases and the gains of norms do not decay; nor do the
// learned steps of fake quantization.
bool DecaysByName(const std::string& name);

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_OPTIM_ADAMW_H_
