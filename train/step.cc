#include "train/step.h"

#include <cmath>
#include <optional>

#include "autograd/ops/basic.h"
#include "model/qat.h"
#include "train/clip.h"
#include "train/preference.h"

namespace lapidary {
namespace {

constexpr char kTryRate[] = "; try a lower learning_rate, or look at these records";

}  // namespace

std::string RecordsText(const std::vector<MicroBatch>& micro) {
  std::vector<std::string> names;
  for (const MicroBatch& batch : micro) {
    for (const std::string& name : batch.names) {
      // Both answers of a pair come from one record.
      if (names.empty() || names.back() != name) names.push_back(name);
    }
  }
  if (names.empty()) return "the batch";
  std::string text;
  for (size_t i = 0; i < names.size() && i < 4; ++i) text += (i > 0 ? ", " : "") + names[i];
  if (names.size() > 4) text += StrCat(" and ", names.size() - 4, " more");
  return text;
}

void SetStepPositions(ModelInput* input, int64_t* next) {
  if (input->step_positions.empty()) {
    for (int64_t i = 0; i < input->size(); ++i) input->step_positions.push_back(*next + i);
  }
  *next += input->size();
}

StepResult StepGradients(Transformer& model, const std::vector<Param*>& params,
                         const std::vector<MicroBatch>& micro, const StepOptions& options) {
  StepResult result;
  if (options.preference) {
    result = PreferenceGradients(model, params, micro, options);
    FormStepGradients(model);
    return result;
  }
  for (const MicroBatch& batch : micro) {
    for (const float weight : batch.weights) result.target_tokens += weight;
    result.tokens += batch.input.size();
  }
  LAPIDARY_CHECK(result.target_tokens > 0, RecordsText(micro),
                 ": a step must have a trained token; got none; try `lapidary data inspect`");
  ZeroGrads(params);
  int64_t position = 0;
  double sum_of_losses = 0;
  for (const MicroBatch& batch : micro) {
    ModelInput input = batch.input;
    SetStepPositions(&input, &position);
    std::optional<Teacher> teacher;
    if (options.teacher) teacher = options.teacher->Of(batch, options.forward);
    Tape tape;
    TokenStats stats;
    const Var sum =
        LossSum(model, Forward(model, tape, input, options.forward), batch.targets, batch.weights,
                options.forward.compute, options.loss_chunk, &stats, teacher ? &*teacher : nullptr);
    const double loss = sum.data()[0];
    LAPIDARY_CHECK(std::isfinite(loss), RecordsText({batch}), ": the loss must be finite; got ",
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

StepResult OptimizerStep(Transformer& model, Optimizer& optimizer,
                         const std::vector<MicroBatch>& micro, double learning_rate,
                         const StepOptions& options) {
  std::vector<Param*> params;
  for (const OptimizerSlot& slot : optimizer.slots()) params.push_back(slot.param);
  StepResult result = StepGradients(model, params, micro, options);
  LAPIDARY_CHECK(options.loss_limit == 0 || result.loss <= options.loss_limit, RecordsText(micro),
                 ": the loss must not leap above ", options.loss_limit,
                 " (loss_spike_factor times the recent mean); got ", result.loss, kTryRate);
  result.grad_norm = ClipGradNorm(params, options.max_grad_norm);
  LAPIDARY_CHECK(std::isfinite(result.grad_norm), RecordsText(micro),
                 ": gradients must be finite; got a norm of ", result.grad_norm, kTryRate);
  optimizer.Step(learning_rate);
  ZeroGrads(params);
  return result;
}

}  // namespace lapidary
