// A step of preference training: the log-probabilities of both answers under the policy and the
// reference, then the gradient of the pairs' loss as one weighted cross-entropy. Answers are scored
// over the vocabulary in chunks, as in supervised training; never T x V.
#ifndef LAPIDARY_TRAIN_PREFERENCE_H_
#define LAPIDARY_TRAIN_PREFERENCE_H_

#include <vector>

#include "train/step.h"

namespace lapidary {

// What a micro-batch of pairs scores: documents 2 i and 2 i + 1 are the chosen and the rejected
// answer of pair i.
struct PreferenceScores {
  std::vector<PairScores> pairs;
  double kl = 0;        // K of preference_loss.h
  int64_t correct = 0;  // trained tokens of both answers that were the arg max
};

// Without gradients: an evaluation, or the reference of a step. `reference` is the policy's own
// model, taken without its adapter, or a frozen copy of the base; null if config has none.
PreferenceScores ScorePairs(Transformer& model, Transformer* reference, const MicroBatch& batch,
                            const PreferenceConfig& config, const ForwardOptions& forward,
                            int64_t loss_chunk);

// As StepGradients of step.h: the gradient of the mean loss over all pairs of the step. The tokens'
// term of orpo and simpo is a mean over the chosen tokens of the step. Costs one product with the
// head more than supervised training. Throws Error naming the records if a loss is not finite.
StepResult PreferenceGradients(Transformer& model, const std::vector<Param*>& params,
                               const std::vector<MicroBatch>& micro, const StepOptions& options);

// Adds the figures that TRL logs, as sums over pairs: rewards/chosen, rewards/rejected,
// rewards/accuracies, rewards/margins, logps/chosen, logps/rejected. Returns the sum of losses.
double AddPreferenceFigures(const PreferenceConfig& config, const PreferenceScores& scores,
                            std::map<std::string, double>* figures);

// The batch with every prompt followed by the answers of the pair before (the first one: of the
// last), for K. Throws Error if an answer holds media.
MicroBatch MismatchedBatch(const MicroBatch& batch);

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_PREFERENCE_H_
