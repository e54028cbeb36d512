// What an adapter changes, in the memory of one model. In evaluate.cc, beside EvaluatePair.
#ifndef LAPIDARY_TRAIN_EVALUATE_ADAPTER_H_
#define LAPIDARY_TRAIN_EVALUATE_ADAPTER_H_

#include <functional>

#include "train/evaluate.h"

namespace lapidary {

// EvaluatePair of the model as it is after use(false), and after use(true): batch by batch, so that
// logits are never stored. Bits are those of two models.
PairResult EvaluateAdapter(Transformer& model, const std::function<void(bool with)>& use,
                           const Sequences& sequences, const EvalOptions& options);

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_EVALUATE_ADAPTER_H_
