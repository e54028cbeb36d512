// PEFT LoRA folders (formats.md 5.1): adapter_config.json and adapter_model.safetensors, in and
// out. Tensors keep the names of the file; which module a name means is for model/ to say.
#ifndef LAPIDARY_QUANT_ADAPTER_H_
#define LAPIDARY_QUANT_ADAPTER_H_

#include <cstdint>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "quant/tensor_file.h"

namespace lapidary {

// One or many names: PEFT allows a list of module suffixes, or one string that is a regular
// expression (full match).
struct ModulePattern {
  bool is_regex = false;
  std::vector<std::string> names;  // a regex: exactly one

  bool empty() const { return names.empty(); }
  bool operator==(const ModulePattern&) const = default;
};

// The fields of adapter_config.json that carry meaning here. Patterns keep the order of the file
// (the first match wins).
struct AdapterConfig {
  int64_t r = 8;
  double lora_alpha = 8;
  double lora_dropout = 0;
  bool use_rslora = false;
  bool use_dora = false;
  std::string bias = "none";
  ModulePattern target_modules;
  ModulePattern exclude_modules;
  std::vector<std::string> modules_to_save;
  std::vector<int64_t> layers_to_transform;  // empty: all
  std::vector<std::string> layers_pattern;
  std::vector<std::pair<std::string, int64_t>>
      rank_pattern;  // module name or regular expression -> r
  std::vector<std::pair<std::string, double>> alpha_pattern;
  std::optional<std::string> base_model_name_or_path;
  // A hash of the base's weights (model/base_fingerprint.h): "lapidary_base_fingerprint" of the
  // metadata of adapter_model.safetensors, for PEFT warns of keys that it does not know.
  std::optional<std::string> base_fingerprint;
  std::string task_type = "CAUSAL_LM";
  bool inference_mode = true;

  bool operator==(const AdapterConfig&) const = default;
};

// Unknown fields are ignored. Throws Error `where: field ...` on a field of the wrong type, r < 1,
// a dropout outside [0, 1), a peft_type other than LORA, and on options that change the meaning and
// are not supported (bias other than none, lora_bias, fan_in_fan_out, layer_replication,
// trainable_token_indices, target_parameters, aLoRA, qaLoRA, bdLoRA and other variants).
AdapterConfig ParseAdapterConfig(const std::string& json_text, const std::string& where);
// The text that PEFT 0.21 writes for it: keys sorted, indent 2, ASCII, no newline at the end.
std::string AdapterConfigText(const AdapterConfig& config);

// r and alpha of one module path (as PEFT sees it:
// "model.language_model.layers.0.self_attn.q_proj"): the first pattern whose regular expression
// `(.*\.)?PATTERN$` matches, else the config's own. Throws Error if a pattern is not a regular
// expression.
int64_t AdapterRank(const AdapterConfig& config, const std::string& module);
double AdapterAlpha(const AdapterConfig& config, const std::string& module);
// alpha / r, or alpha / sqrt(r) with use_rslora.
double AdapterScale(const AdapterConfig& config, const std::string& module);

struct Adapter {
  AdapterConfig config;
  TensorSet tensors;  // names of the file: "base_model.model. ... .lora_A.weight"
  std::string folder;
};

// Reads FOLDER/adapter_config.json and FOLDER/adapter_model.safetensors. Throws Error if either is
// absent or broken, or if the file holds no tensors.
Adapter OpenAdapter(const std::string& folder);

// Writes both files, the configuration last, each whole or absent; creates the folder. dtype: "F32"
// or "BF16".
void WriteAdapter(const std::string& folder, const AdapterConfig& config,
                  const std::vector<NamedTensor>& tensors, const std::string& dtype = "F32");

}  // namespace lapidary

#endif  // LAPIDARY_QUANT_ADAPTER_H_
