// A step of preference training: the log-probabilities of both answers under the policy and the
// reference, then the gradient of the pairs' loss as one weighted cross-entropy. Answers are scored
// over the vocabulary in chunks, as in supervised training; never T x V.
#ifndef LAPIDARY_TRAIN_PREFERENCE_H_
#define LAPIDARY_TRAIN_PREFERENCE_H_

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "train/step.h"

namespace lapidary {

// One answer with a label (kto).
struct AnswerScores {
  bool desirable = true;
  double log_prob = 0, reference = 0;  // r and q of preference_loss.h
};

// What a micro-batch scores. Of pairs, documents 2 i and 2 i + 1 are the chosen and the rejected
// answer of pair i; with labels (MicroBatch::labels) every document is an answer of its own.
struct PreferenceScores {
  std::vector<PairScores> pairs;
  std::vector<AnswerScores> answers;  // one of the two is empty
  double kl = 0;                      // K of preference_loss.h
  int64_t correct = 0;                // trained tokens of both answers that were the arg max
  // Pairs or answers: what losses are means over.
  double units() const { return static_cast<double>(pairs.size() + answers.size()); }
};

// Means of figures, each over what has it: rewards of desirable answers over these alone.
class FigureMeans {
 public:
  // `sum` over so many.
  void Add(const std::string& name, double sum, double count);
  // rewards/margins too, where both rewards are there: the difference of their means.
  std::map<std::string, double> Means() const;

 private:
  std::map<std::string, std::pair<double, double>> sums_;
};

// Without gradients: an evaluation, or the reference of a step. `reference` is the policy's own
// model, taken without its adapter, or a frozen copy of the base; null if config has none.
PreferenceScores ScorePairs(Transformer& model, Transformer* reference, const MicroBatch& batch,
                            const PreferenceConfig& config, const ForwardOptions& forward,
                            int64_t loss_chunk);

// As StepGradients of step.h: the gradient of the mean loss over all pairs, or answers, of the
// step. The tokens' term of orpo and simpo is a mean over the chosen tokens of the step. Costs one
// product with the head more than supervised training. Throws Error naming the records if a loss is
// not finite.
StepResult PreferenceGradients(Transformer& model, const std::vector<Param*>& params,
                               const std::vector<MicroBatch>& micro, const StepOptions& options);

// Adds the figures that TRL logs: rewards/chosen, rewards/rejected, logps/chosen, logps/rejected;
// of pairs rewards/accuracies; kl where K is measured. Returns the sum of losses.
double AddPreferenceFigures(const PreferenceConfig& config, const PreferenceScores& scores,
                            FigureMeans* figures);

// The batch with every prompt followed by the answers of the pair before (the first one: of the
// last), or, with labels, by the answer before, for K. Throws Error if an answer holds media.
MicroBatch MismatchedBatch(const MicroBatch& batch);

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_PREFERENCE_H_
