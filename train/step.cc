#include "train/step.h"

#include <cmath>
#include <optional>

#include "autograd/ops/basic.h"
#include "model/qat.h"
#include "train/clip.h"

namespace lapidary {
namespace {

// "train.jsonl:3, train.jsonl:8 and 5 more"
std::string Records(const std::vector<std::string>& names) {
  if (names.empty()) return "the batch";
  std::string text;
  for (size_t i = 0; i < names.size() && i < 4; ++i) text += (i > 0 ? ", " : "") + names[i];
  if (names.size() > 4) text += StrCat(" and ", names.size() - 4, " more");
  return text;
}

std::vector<std::string> AllNames(const std::vector<MicroBatch>& micro) {
  std::vector<std::string> names;
  for (const MicroBatch& batch : micro) {
    names.insert(names.end(), batch.names.begin(), batch.names.end());
  }
  return names;
}

constexpr char kTryRate[] = "; try a lower learning_rate, or look at these records";

}  // namespace

StepResult StepGradients(Transformer& model, const std::vector<Param*>& params,
                         const std::vector<MicroBatch>& micro, const StepOptions& options) {
  StepResult result;
  for (const MicroBatch& batch : micro) {
    for (const float weight : batch.weights) result.target_tokens += weight;
    result.tokens += batch.input.size();
  }
  LAPIDARY_CHECK(result.target_tokens > 0, Records(AllNames(micro)),
                 ": a step must have a trained token; got none; try `lapidary data inspect`");
  ZeroGrads(params);
  // Dropout counts tokens through the whole step, so that its choices do not depend on how the step
  // is cut into micro-batches.
  int64_t position = 0;
  double sum_of_losses = 0;
  for (const MicroBatch& batch : micro) {
    ModelInput input = batch.input;
    if (input.step_positions.empty()) {
      for (int64_t i = 0; i < input.size(); ++i) input.step_positions.push_back(position + i);
    }
    position += input.size();
    std::optional<Teacher> teacher;
    if (options.teacher) teacher = options.teacher->Of(batch, options.forward);
    Tape tape;
    TokenStats stats;
    const Var sum =
        LossSum(model, Forward(model, tape, input, options.forward), batch.targets, batch.weights,
                options.forward.compute, options.loss_chunk, &stats, teacher ? &*teacher : nullptr);
    const double loss = sum.data()[0];
    LAPIDARY_CHECK(std::isfinite(loss), Records(batch.names), ": the loss must be finite; got ",
                   loss, kTryRate);
    sum_of_losses += loss;
    for (const uint8_t correct : stats.correct) result.correct += correct;
    for (size_t i = 0; i < stats.divergence.size(); ++i)
      result.divergence += static_cast<double>(batch.weights[i]) * stats.divergence[i];
    if (sum.needs_grad()) {
      tape.Backward(Scale(sum, static_cast<float>(1.0 / result.target_tokens)));
    }
  }
  FormStepGradients(model);
  result.loss = sum_of_losses / result.target_tokens;
  result.divergence /= result.target_tokens;
  return result;
}

StepResult OptimizerStep(Transformer& model, AdamW& optimizer, const std::vector<MicroBatch>& micro,
                         double learning_rate, const StepOptions& options) {
  std::vector<Param*> params;
  for (const AdamWSlot& slot : optimizer.slots()) params.push_back(slot.param);
  StepResult result = StepGradients(model, params, micro, options);
  result.grad_norm = ClipGradNorm(params, options.max_grad_norm);
  LAPIDARY_CHECK(std::isfinite(result.grad_norm), Records(AllNames(micro)),
                 ": gradients must be finite; got a norm of ", result.grad_norm, kTryRate);
  optimizer.Step(learning_rate);
  ZeroGrads(params);
  return result;
}

}  // namespace lapidary
