// What of a model a configuration trains, and how: which parameters, with which optimizer, learning
// rates and decay.
#ifndef LAPIDARY_TRAIN_TRAINABLE_H_
#define LAPIDARY_TRAIN_TRAINABLE_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "model/transformer.h"
#include "train/config.h"
#include "train/optim/optimizers.h"

namespace lapidary {

// Full fine-tuning: makes trainable what `trainable_layers` and `freeze` leave; the other matrices
// stay frozen as they are stored. Mapped pages of what trains are dropped. Throws Error if a layer
// does not exist.
void MakeTrainable(Transformer& model, const TrainConfig& config);
// The same for `layers` (empty: everything) in place of trainable_layers.
void MakeTrainable(Transformer& model, const TrainConfig& config,
                   const std::vector<int64_t>& layers);

// Whether a parameter's name lies in one of the layers; true without a list.
bool InLayers(const std::vector<int64_t>& layers, const std::string& name);

// Whether a parameter's name is free of the patterns of `freeze`.
std::function<bool(const std::string&)> NotFrozen(const TrainConfig& config);

// Throws Error for a pattern of `param_groups` that fits no parameter of any layer: of a
// block-coordinate run, whose optimizers see a block each.
void CheckGroupPatterns(Transformer& model, const TrainConfig& config);

// The parameters of a run in catalog order: the trainable ones that no pattern of `freeze` is found
// in; what it freezes of an adapter stays part of it. Throws Error for a pattern that fits nothing
// of the model, and if nothing is left.
std::vector<Param*> ChooseParams(Transformer& model, const TrainConfig& config);

OptimizerOptions OptimizerOptionsOf(const TrainConfig& config);

// The optimizer with `param_groups` and `loraplus_lr_ratio`. A group's rate follows the schedule as
// the run's does. Throws Error for a group that fits no parameter, unless the run is
// block-coordinate.
std::unique_ptr<Optimizer> MakeRunOptimizer(const std::vector<Param*>& params,
                                            const TrainConfig& config);

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_TRAINABLE_H_
