// The optimizers by their names in Transformers, a row each.
#ifndef LAPIDARY_TRAIN_OPTIM_OPTIMIZERS_H_
#define LAPIDARY_TRAIN_OPTIM_OPTIMIZERS_H_

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "autograd/gemm.h"
#include "train/optim/optimizer.h"

namespace lapidary {

// `optim_args`: what only some optimizers have; absent: the optimizer's own default.
struct OptimArgs {
  std::optional<double> momentum;
  std::optional<bool> nesterov;
  std::optional<double> clip_threshold;
  std::optional<double> decay_rate;
  std::optional<double> beta1;
  std::optional<bool> scale_parameter;
  std::optional<std::string> adjust_lr_fn;
  std::optional<int64_t> ns_steps;

  bool operator==(const OptimArgs&) const = default;
};

struct OptimizerOptions {
  std::string name = "adamw_torch";  // a row of the table
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8;
  double weight_decay = 0;
  OptimArgs args = {};
  Compute compute = Compute::kFloat32;  // of an optimizer that multiplies matrices
};

struct OptimizerRow {
  const char* name;
  const char* meaning;            // one line
  std::vector<const char*> args;  // the optim_args that it has
  std::unique_ptr<Optimizer> (*make)(const std::vector<Param*>&, const OptimizerOptions&);
};

const std::vector<OptimizerRow>& Optimizers();
std::vector<std::string> OptimizerNames();

// Throws Error naming the key if there is no such optimizer, or it has no such argument.
void CheckOptimizer(const OptimizerOptions& options);

// The optimizer with every slot's decay set: options.weight_decay, or none where DecaysByName says
// so. Throws Error as CheckOptimizer, or if an option is out of range.
std::unique_ptr<Optimizer> MakeOptimizer(const std::vector<Param*>& params,
                                         const OptimizerOptions& options);

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_OPTIM_OPTIMIZERS_H_
