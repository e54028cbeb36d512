#include "train/trainable.h"

#include <regex>

#include "autograd/base/error.h"
#include "autograd/base/file.h"

namespace lapidary {
namespace {

// Patterns that count whether they were found.
class Patterns {
 public:
  Patterns(const std::vector<std::string>& texts, std::string key) : key_(std::move(key)) {
    for (const std::string& text : texts) patterns_.push_back({text, std::regex(text), false});
  }
  // The index of the first one found in `name`, or -1.
  int Find(const std::string& name) {
    int first = -1;
    for (size_t i = 0; i < patterns_.size(); ++i) {
      if (!std::regex_search(name, patterns_[i].regex)) continue;
      patterns_[i].used = true;
      if (first < 0) first = static_cast<int>(i);
    }
    return first;
  }
  void CheckAllUsed() const {
    for (const Pattern& p : patterns_) {
      LAPIDARY_CHECK(p.used, key_, ": a pattern must be found in a parameter's name; got '", p.text,
                     "', which is in none; try \"lora_B\" or \"layers\\\\.0\\\\.\"");
    }
  }

 private:
  struct Pattern {
    std::string text;
    std::regex regex;
    bool used;
  };
  std::string key_;
  std::vector<Pattern> patterns_;
};

Patterns GroupPatterns(const TrainConfig& config) {
  std::vector<std::string> texts;
  for (const ParamGroup& group : config.param_groups) texts.push_back(group.pattern);
  return Patterns(texts, "param_groups");
}

}  // namespace

bool InLayers(const std::vector<int64_t>& layers, const std::string& name) {
  if (layers.empty()) return true;
  for (const int64_t layer : layers) {
    if (name.find(StrCat(".layers.", layer, ".")) != std::string::npos) return true;
  }
  return false;
}

std::function<bool(const std::string&)> NotFrozen(const TrainConfig& config) {
  const auto frozen = std::make_shared<Patterns>(config.freeze, "freeze");
  return [frozen](const std::string& name) { return frozen->Find(name) < 0; };
}

void CheckGroupPatterns(Transformer& model, const TrainConfig& config) {
  Patterns groups = GroupPatterns(config);
  for (size_t i = 0; i < model.layers.size(); ++i) {
    const std::vector<int64_t> layer = {static_cast<int64_t>(i)};
    ForEachLinear(model, [&](Linear& l) {
      if (InLayers(layer, l.w.name)) groups.Find(l.w.name);
    });
    ForEachParam(model.layers[i], [&](Param& p) { groups.Find(p.name); });
  }
  groups.CheckAllUsed();
}

void MakeTrainable(Transformer& model, const TrainConfig& config) {
  MakeTrainable(model, config, config.trainable_layers);
}

void MakeTrainable(Transformer& model, const TrainConfig& config,
                   const std::vector<int64_t>& layers) {
  for (const int64_t layer : layers) {
    LAPIDARY_CHECK(layer < static_cast<int64_t>(model.layers.size()),
                   "trainable_layers: must be below ", model.layers.size(), "; got ", layer);
  }
  Patterns frozen(config.freeze, "freeze");
  const auto wanted = [&](const std::string& name) {
    return frozen.Find(name) < 0 && InLayers(layers, name);
  };
  const auto weight = [&](Weight& w) {
    if (!wanted(w.name)) return;
    const std::shared_ptr<const void> owner = w.param ? nullptr : w.owner;
    const WeightView frozen_view = w.view;
    w.MakeTrainable();
    if (owner) {
      DropMappedPages(frozen_view.data,
                      static_cast<uint64_t>(frozen_view.rows * frozen_view.row_bytes));
    }
  };
  weight(model.embed_tokens);
  if (model.lm_head) weight(*model.lm_head);
  ForEachLinear(model, [&](Linear& l) { weight(l.w); });
  ForEachParam(model, [&](Param& p) { p.trainable = wanted(p.name); });
  frozen.CheckAllUsed();
}

std::vector<Param*> ChooseParams(Transformer& model, const TrainConfig& config) {
  if (config.lora) {
    Patterns frozen(config.freeze, "freeze");
    for (Param* param : TrainableParams(model)) {
      if (frozen.Find(param->name) < 0) continue;
      LAPIDARY_CHECK(param->name.find(".lora_") != std::string::npos,
                     "freeze: with lora it must be ", "parameters of adapters; got a pattern of '",
                     param->name, "'; try leaving it out of lora.modules_to_save");
      param->trainable = false;
    }
    frozen.CheckAllUsed();
  }
  std::vector<Param*> params = TrainableParams(model);
  LAPIDARY_CHECK(!params.empty(), "freeze: a parameter must be left to train; got none");
  return params;
}

OptimizerOptions OptimizerOptionsOf(const TrainConfig& config) {
  return {.name = config.optim,
          .beta1 = config.adam_beta1,
          .beta2 = config.adam_beta2,
          .epsilon = config.adam_epsilon,
          .weight_decay = config.weight_decay,
          .args = config.optim_args,
          .compute = config.compute == "float32" ? Compute::kFloat32 : Compute::kBfloat16};
}

std::unique_ptr<Optimizer> MakeRunOptimizer(const std::vector<Param*>& params,
                                            const TrainConfig& config) {
  std::unique_ptr<Optimizer> optimizer = MakeOptimizer(params, OptimizerOptionsOf(config));
  Patterns groups = GroupPatterns(config);
  for (OptimizerSlot& slot : optimizer->slots()) {
    const std::string& name = slot.param->name;
    // PEFT's create_loraplus_optimizer: lora_B, and what has one axis.
    if (config.loraplus_lr_ratio > 0 &&
        (name.find("lora_B") != std::string::npos || slot.param->value.shape().rank == 1)) {
      slot.learning_rate = config.loraplus_lr_ratio;
    }
    const int found = groups.Find(name);
    if (found < 0) continue;
    const ParamGroup& group = config.param_groups[static_cast<size_t>(found)];
    if (group.learning_rate) slot.learning_rate = *group.learning_rate / config.learning_rate;
    if (group.weight_decay) slot.weight_decay = *group.weight_decay;
  }
  if (!config.block_coordinate) groups.CheckAllUsed();
  return optimizer;
}

}  // namespace lapidary
