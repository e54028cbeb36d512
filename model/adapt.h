// LoRA on a loaded model: attach, read and write PEFT folders (formats.md 5.1).
#ifndef LAPIDARY_MODEL_ADAPT_H_
#define LAPIDARY_MODEL_ADAPT_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "model/transformer.h"

namespace lapidary {

// The names are PEFT's.
struct LoraOptions {
  int64_t r = 16;
  float lora_alpha = 16;
  float lora_dropout = 0;
  bool use_rslora = false;
  bool use_dora = false;
  // One of: "all-linear" (every Linear, embedders included), "text-linear" (the text stack), a regular expression that must match a whole module
  // path, or a list of names that paths end with. Both spellings of embedder paths match.
  std::string target_regex;                  // used if target_names is empty
  std::vector<std::string> target_names;
  std::vector<std::string> modules_to_save;  // trained as a whole beside the adapter
  std::map<std::string, int64_t> rank_pattern;
  std::map<std::string, float> alpha_pattern;
};

// Freezes the model and attaches new adapters: A Kaiming-uniform from `seed` and the module's path, B zero. Throws Error if a name or pattern
// matches nothing, or options make no sense.
void AttachLora(Transformer& model, const LoraOptions& options, uint64_t seed);

// Attaches the adapter of a PEFT folder with its values. `trainable` false: for evaluation. Returns warnings.
// Throws Error if a tensor fits nowhere or a target has none.
std::vector<std::string> LoadAdapter(Transformer& model, const std::string& folder, bool trainable, LoraOptions* options);

// Writes a PEFT folder (adapter_config.json, adapter_model.safetensors), float32 or bf16.
void SaveAdapter(Transformer& model, const LoraOptions& options, const std::string& folder, const std::string& base_model_name_or_path,
                 bool bf16);

}  // namespace lapidary

#endif  // LAPIDARY_MODEL_ADAPT_H_
