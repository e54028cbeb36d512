// One optimizer step: gradients of the mean loss over all target tokens of its micro-batches, then
// clipping and the optimizer. Read StepGradients and OptimizerStep from top to bottom.
#ifndef LAPIDARY_TRAIN_STEP_H_
#define LAPIDARY_TRAIN_STEP_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "model/transformer.h"
#include "train/distill.h"
#include "train/micro_batch.h"
#include "train/optim/optimizer.h"
#include "train/preference_loss.h"

namespace lapidary {

struct StepOptions {
  ForwardOptions forward;  // with `training`, seed and step set by the caller
  int64_t loss_chunk = 128;
  double max_grad_norm = 1.0;                    // 0: no clipping
  DistillTeacher* teacher = nullptr;             // null: the data alone
  const PreferenceConfig* preference = nullptr;  // micro-batches are pairs (train/preference.h)
  Transformer* reference = nullptr;              // of preference training, if it has one
  double loss_limit = 0;  // a loss above it is an error before anything is changed; 0: none
};

struct StepResult {
  double loss = 0;           // mean over the step's target tokens, before the update
  double divergence = 0;     // mean KL from the teacher, if there is one
  double grad_norm = 0;      // before clipping
  double target_tokens = 0;  // sum of weights
  int64_t tokens = 0;        // tokens of text and media that went through the model
  int64_t correct = 0;       // targets that were the arg max
  std::map<std::string, double>
      figures;  // others to be logged, means over the step's pairs or answers
};

// Forms the gradients of  sum over micro-batches of LossSum / target_tokens  in the parameters,
// which had none before. Every micro-batch is divided by the tokens of the whole step, so a step
// cut into more micro-batches has the same gradient. Throws Error naming the records if a loss is
// not finite, or if no token of the step is trained.
StepResult StepGradients(Transformer& model, const std::vector<Param*>& params,
                         const std::vector<MicroBatch>& micro, const StepOptions& options);

// StepGradients, clipping and the update; the gradients are released afterwards. Throws Error
// naming the records, before anything is changed, if the gradients are not finite or the loss is
// above its limit.
StepResult OptimizerStep(Transformer& model, Optimizer& optimizer,
                         const std::vector<MicroBatch>& micro, double learning_rate,
                         const StepOptions& options);

// "train.jsonl:3, train.jsonl:8 and 5 more"
std::string RecordsText(const std::vector<MicroBatch>& micro);

// Where tokens stand in the whole step, unless the input says it; `next` counts on. Dropout counts
// by it, so that its choices do not depend on how the step is cut into micro-batches.
void SetStepPositions(ModelInput* input, int64_t* next);

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_STEP_H_
