// What of a model a configuration trains, and how: which parameters, with which optimizer, learning
// rates and decay.
#ifndef LAPIDARY_TRAIN_TRAINABLE_H_
#define LAPIDARY_TRAIN_TRAINABLE_H_

#include <memory>
#include <string>
#include <vector>

#include "model/transformer.h"
#include "train/config.h"
#include "train/optim/optimizers.h"

namespace lapidary {

// Full fine-tuning: makes trainable what `trainable_layers` and `freeze` leave; the other matrices
// stay frozen as they are stored. Throws Error if a layer does not exist.
void MakeTrainable(Transformer& model, const TrainConfig& config);

// The parameters of a run in catalog order: the trainable ones that no pattern of `freeze` is found
// in; what it freezes of an adapter stays part of it. Throws Error for a pattern that fits nothing
// of the model, and if nothing is left.
std::vector<Param*> ChooseParams(Transformer& model, const TrainConfig& config);

OptimizerOptions OptimizerOptionsOf(const TrainConfig& config);

// The optimizer with `param_groups` and `loraplus_lr_ratio`. A group's rate follows the schedule as
// the run's does. Throws Error for a group that fits no parameter.
std::unique_ptr<Optimizer> MakeRunOptimizer(const std::vector<Param*>& params,
                                            const TrainConfig& config);

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_TRAINABLE_H_
