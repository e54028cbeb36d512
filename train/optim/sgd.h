// Stochastic gradient descent with momentum in the arithmetic of torch.optim.SGD.
#ifndef LAPIDARY_TRAIN_OPTIM_SGD_H_
#define LAPIDARY_TRAIN_OPTIM_SGD_H_

#include <vector>

#include "train/optim/optimizer.h"

namespace lapidary {

struct SgdOptions {
  double momentum = 0.9;  // 0: none, and no state
  bool nesterov = false;
  double weight_decay = 0;  // coupled: added to the gradient
};

//   g <- g + weight_decay p
//   b <- g in the first update, momentum b + g afterwards
//   p <- p - lr b, or p - lr (g + momentum b) with nesterov
// State: momentum_buffer. Source: Sutskever et al. 2013; torch.optim.SGD without dampening.
class Sgd : public Optimizer {
 public:
  // Throws Error if an option is out of range, or for nesterov without momentum.
  Sgd(const std::vector<Param*>& params, const SgdOptions& options);

 private:
  void Update(OptimizerSlot& slot, double learning_rate) override;
  SgdOptions options_;
};

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_OPTIM_SGD_H_
