// Lion: steps of one size, whose sign comes from a blend of momentum and gradient.
#ifndef LAPIDARY_TRAIN_OPTIM_LION_H_
#define LAPIDARY_TRAIN_OPTIM_LION_H_

#include <vector>

#include "train/optim/optimizer.h"

namespace lapidary {

struct LionOptions {
  double beta1 = 0.9;
  double beta2 = 0.99;
  double weight_decay = 0;  // decoupled
  OptimizerStates states = OptimizerStates::kFloat32;
};

//   p <- p (1 - lr weight_decay) - lr sign(beta1 m + (1 - beta1) g)
//   m <- beta2 m + (1 - beta2) g
// State: exp_avg. Source: Chen et al. 2023, arXiv:2302.06675, algorithm 2. Wants a learning rate 3
// to 10 times smaller than AdamW's, and a decay as much larger.
class Lion : public Optimizer {
 public:
  // Throws Error if an option is out of range.
  Lion(const std::vector<Param*>& params, const LionOptions& options);

 private:
  void Update(OptimizerSlot& slot, double learning_rate) override;
  LionOptions options_;
};

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_OPTIM_LION_H_
