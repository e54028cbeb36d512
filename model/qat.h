// Quantization-aware training of a model: which matrices are fake-quantized, to which grid
// (quant/fake_quant.h), from when on, and the record from which evaluation and export repeat it.
//
// A fake-quantized Linear computes y = x Q(W + s B A)^T, or x Q(W)^T without an adapter, tile by
// tile inside the product. The gradient goes straight through Q (Bengio et al. 2013,
// arXiv:1308.3432): dx = dy Q(..), and A, B or W get what they would get without Q; with LoRA no
// gradient of the whole matrix is ever formed. Learned scales get theirs from block sums of it: of
// a matrix that is trained whole from its gradient, in LoRA from tiles that are never stored
// (autograd/step_grad.h). Clipped weights rest where they are trained whole; A and B get what they
// would get without Q there, too.
#ifndef LAPIDARY_MODEL_QAT_H_
#define LAPIDARY_MODEL_QAT_H_

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "model/transformer.h"
#include "quant/adapter.h"

namespace lapidary {

struct QatConfig {
  std::string format = "q4_0";  // grid of the target modules
  // A word ("text-linear", "all-linear"), a regular expression, or names, as for LoRA.
  ModulePattern target_modules = {true, {"text-linear"}};
  ModulePattern exclude_modules;
  // Name or regular expression -> grid, for target modules that want another; the first match
  // counts. "none": not quantized.
  std::vector<std::pair<std::string, std::string>> format_pattern;
  std::string embedding_format;  // of the embedding and the head; "": not quantized
  // "follow": of the values in every product. "base": taken once, of the base's values, and kept;
  // of a base in the grid's own format its very scales, of values that lie on a Q4_0 grid that
  // grid's. "learned": parameters of their own (LSQ, Esser et al. 2020, arXiv:1902.08153), begun at
  // the least squared error; on grids that learn, of linears and of what is trained whole.
  std::string scales = "follow";
  // Steps between measuring the scales of formats that do not follow for free: above 1 for every
  // grid, and always for scales of whole rows.
  int64_t scale_refresh_steps = 1;
  // Steps before it train without fake quantization; learned scales begin where the weights are
  // then.
  int64_t start_step = 0;
  std::string activations = "none";  // "int8": inputs of quantized modules, a scale per token
  std::string kv_cache = "none";     // "int8": keys and values, blocks of 32 as llama.cpp's q8_0

  bool operator==(const QatConfig&) const = default;
};

// Every choice made: what evaluation, resuming and export need.
struct QatRecord {
  std::map<std::string, std::string> grids;  // canonical tensor name -> grid
  std::string scales = "follow";
  int64_t scale_refresh_steps = 1;
  bool int8_activations = false, int8_kv_cache = false;
  // Whether the stored weights are values on the grid already (full fine-tuning saved in bf16).
  bool projected = false;
};

// The file of a record, beside an adapter or a model.
inline constexpr char kQatRecordFile[] = "qat_config.json";
// Kept scales (scales "base", "learned"): U8 tensors [rows, bytes of a row's scales] by the
// weight's name.
inline constexpr char kQatScalesFile[] = "qat_scales.safetensors";

// Throws Error "WHERE: rule; got; try" if a grid or word is unknown.
void CheckQatConfig(const QatConfig& config, const std::string& where);

// Turns the configuration into choices for this model. Throws Error if a pattern matches nothing, a
// row does not divide into blocks, or adapters have dropout or DoRA.
QatRecord ResolveQat(Transformer& model, const QatConfig& config);
// Puts fake quantization on the model's weights. After adapters are attached and parameters made
// trainable. `scales`: a file of kept scales, or "".
void AttachQat(Transformer& model, const QatRecord& record, const std::string& scales = "");

// Takes all fake quantization off the model.
void DetachQat(Transformer& model);

// All fake quantization on or off.
void SetQatActive(Transformer& model, bool active);
// Measures kept scales anew, from the weights with their adapters; fixed ones stay.
void RefreshQatScales(Transformer& model);

// Learned scales: their parameters, one a matrix, [rows, blocks of a row], names ending in
// kLearnedSuffix. A step is  first * exp(gain * parameter). Of a matrix that is trained whole the
// gain is 1 / (mean end of the range, high * first step): then the ends of the ranges move by about
// the learning rate in an optimizer step, as the weights in them do. Of an adapted one, whose
// weights stay near the base's, it is 1: a step changes by about the learning rate, relatively.
inline constexpr char kLearnedSuffix[] = ".qat_log_step";
std::vector<Param*> LearnedSteps(Transformer& model);
// Begins them anew at the least squared error of the weights as they are: where training on the
// grid begins after some steps without it (start_step), before which they have not moved.
void BeginLearnedScales(Transformer& model);
// Rounds them to the scales that products see; before a step and before an evaluation.
void UpdateLearnedScales(Transformer& model);
// After the gradients of the weights are formed: those of the steps of matrices that are trained
// whole from them (Grid::StepGrad), and the weights' own become 0 where a code is clipped. Nothing
// where fake quantization is off. No second gradient of a matrix is held: block by block, in place.
void FormStepGradients(Transformer& model);

// visit(name, bytes) for what a checkpoint must hold beside the parameters so that a run goes on
// with the same scales: where learned ones began, and those that are measured rarely.
void ForEachSavedScales(Transformer& model, const QatRecord& record,
                        const std::function<void(const std::string& name, Tensor& scales)>& visit);

void WriteQatRecord(const std::string& folder, const QatRecord& record);
// Nothing if the folder has no record. Throws Error for a broken one.
std::optional<QatRecord> ReadQatRecord(const std::string& folder);
// Writes kQatScalesFile if the record keeps scales.
void WriteQatScales(const std::string& folder, Transformer& model, const QatRecord& record);

// visit(Weight&, Linear* or nullptr) for every matrix that may be fake-quantized.
template <class Visit>
void ForEachQatWeight(Transformer& model, Visit&& visit) {
  visit(model.embed_tokens, static_cast<Linear*>(nullptr));
  if (model.lm_head) visit(*model.lm_head, static_cast<Linear*>(nullptr));
  ForEachLinear(model, [&](Linear& linear) { visit(linear.w, &linear); });
}

}  // namespace lapidary

#endif  // LAPIDARY_MODEL_QAT_H_
