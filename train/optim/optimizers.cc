#include "train/optim/optimizers.h"

#include <algorithm>

#include "train/optim/adafactor.h"
#include "train/optim/adamw.h"
#include "train/optim/lion.h"
#include "train/optim/muon.h"
#include "train/optim/sgd.h"

namespace lapidary {
namespace {

using Params = std::vector<Param*>;

AdamWOptions AdamWOf(const OptimizerOptions& o, OptimizerStates states) {
  return {.beta1 = o.beta1,
          .beta2 = o.beta2,
          .epsilon = o.epsilon,
          .weight_decay = o.weight_decay,
          .states = states};
}

template <OptimizerStates kStates>
std::unique_ptr<Optimizer> MakeAdamW(const Params& params, const OptimizerOptions& o) {
  return std::make_unique<AdamW>(params, AdamWOf(o, kStates));
}

template <OptimizerStates kStates>
std::unique_ptr<Optimizer> MakeLion(const Params& params, const OptimizerOptions& o) {
  return std::make_unique<Lion>(
      params,
      LionOptions{
          .beta1 = o.beta1, .beta2 = o.beta2, .weight_decay = o.weight_decay, .states = kStates});
}

std::unique_ptr<Optimizer> MakeSgd(const Params& params, const OptimizerOptions& o) {
  const SgdOptions blank;
  return std::make_unique<Sgd>(params,
                               SgdOptions{.momentum = o.args.momentum.value_or(blank.momentum),
                                          .nesterov = o.args.nesterov.value_or(blank.nesterov),
                                          .weight_decay = o.weight_decay});
}

std::unique_ptr<Optimizer> MakeAdafactor(const Params& params, const OptimizerOptions& o) {
  AdafactorOptions options;
  options.clip_threshold = o.args.clip_threshold.value_or(options.clip_threshold);
  options.decay_rate = o.args.decay_rate.value_or(options.decay_rate);
  options.beta1 = o.args.beta1.value_or(options.beta1);
  options.scale_parameter = o.args.scale_parameter.value_or(options.scale_parameter);
  options.weight_decay = o.weight_decay;
  return std::make_unique<Adafactor>(params, options);
}

std::unique_ptr<Optimizer> MakeMuon(const Params& params, const OptimizerOptions& o) {
  MuonOptions options;
  options.momentum = o.args.momentum.value_or(options.momentum);
  options.nesterov = o.args.nesterov.value_or(options.nesterov);
  options.ns_steps = o.args.ns_steps.value_or(options.ns_steps);
  options.adjust_lr_fn = o.args.adjust_lr_fn.value_or(options.adjust_lr_fn);
  options.weight_decay = o.weight_decay;
  options.compute = o.compute;
  options.adamw = AdamWOf(o, OptimizerStates::kFloat32);
  return std::make_unique<Muon>(params, options);
}

const OptimizerRow& Find(const std::string& name) {
  for (const OptimizerRow& row : Optimizers()) {
    if (name == row.name) return row;
  }
  std::string names;
  for (const OptimizerRow& row : Optimizers()) names += StrCat(names.empty() ? "" : ", ", row.name);
  throw Error(StrCat("optim: must be one of ", names, "; got '", name, "'"));
}

}  // namespace

const std::vector<OptimizerRow>& Optimizers() {
  using S = OptimizerStates;
  static const std::vector<OptimizerRow> rows = {
      {"adamw_torch", "AdamW, moments in float32", {}, MakeAdamW<S::kFloat32>},
      {"adamw_bf16", "AdamW, moments in bf16", {}, MakeAdamW<S::kBf16>},
      {"adamw_8bit", "AdamW, moments in 8 bits", {}, MakeAdamW<S::k8Bit>},
      {"adamw_bnb_8bit", "the same by its other name", {}, MakeAdamW<S::k8Bit>},
      {"sgd", "SGD with momentum", {"momentum", "nesterov"}, MakeSgd},
      {"adafactor",
       "Adafactor, second moments by row and column",
       {"clip_threshold", "decay_rate", "beta1", "scale_parameter"},
       MakeAdafactor},
      {"lion_32bit", "Lion, momentum in float32", {}, MakeLion<S::kFloat32>},
      {"lion_8bit", "Lion, momentum in 8 bits", {}, MakeLion<S::k8Bit>},
      {"muon",
       "Muon for matrices, AdamW for the rest",
       {"momentum", "nesterov", "ns_steps", "adjust_lr_fn"},
       MakeMuon},
  };
  return rows;
}

std::vector<std::string> OptimizerNames() {
  std::vector<std::string> names;
  for (const OptimizerRow& row : Optimizers()) names.push_back(row.name);
  return names;
}

void CheckOptimizer(const OptimizerOptions& options) {
  const OptimizerRow& row = Find(options.name);
  const auto check = [&](const char* name, bool given) {
    LAPIDARY_CHECK(!given || std::any_of(row.args.begin(), row.args.end(),
                                         [&](const std::string& arg) { return arg == name; }),
                   "optim_args.", name, ": must not be given with optim \"", row.name,
                   "\"; got a value; try leaving it out");
  };
  const OptimArgs& a = options.args;
  check("momentum", a.momentum.has_value());
  check("nesterov", a.nesterov.has_value());
  check("clip_threshold", a.clip_threshold.has_value());
  check("decay_rate", a.decay_rate.has_value());
  check("beta1", a.beta1.has_value());
  check("scale_parameter", a.scale_parameter.has_value());
  check("adjust_lr_fn", a.adjust_lr_fn.has_value());
  check("ns_steps", a.ns_steps.has_value());
  row.make({}, options);  // checks what is in range
}

std::unique_ptr<Optimizer> MakeOptimizer(const std::vector<Param*>& params,
                                         const OptimizerOptions& options) {
  CheckOptimizer(options);
  std::unique_ptr<Optimizer> optimizer = Find(options.name).make(params, options);
  for (OptimizerSlot& slot : optimizer->slots()) {
    if (!DecaysByName(slot.param->name)) slot.weight_decay = 0;
  }
  return optimizer;
}

}  // namespace lapidary
