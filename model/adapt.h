// LoRA on a loaded model: attach, read and write PEFT folders (formats.md 5.1; configuration and
// file: quant/adapter.h).
#ifndef LAPIDARY_MODEL_ADAPT_H_
#define LAPIDARY_MODEL_ADAPT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "model/transformer.h"
#include "quant/adapter.h"

namespace lapidary {

// Freezes the model, attaches new adapters (A uniform in +-1/sqrt(in) from `seed` and the module's
// path, B zero) and makes the modules to save trainable. Besides PEFT's own forms, target_modules
// may be one of two words:
//   "all-linear"   every Linear, the three of the embedders included (what PEFT makes of it)
//   "text-linear"  the Linears of the text stack
// Patterns and names are held against a module's path as PEFT sees it in memory and as the
// checkpoint spells it; a list entry matches a whole path or its end. Modules inside
// modules_to_save get no adapter. Returns the configuration to save: words replaced by a regular
// expression. Throws Error if a name or pattern matches nothing, or names the embedding or the
// head.
AdapterConfig AttachLora(Transformer& model, const AdapterConfig& config, uint64_t seed);

// Attaches the adapter of a PEFT folder with its values; `trainable` false: for evaluation. Returns
// its configuration. Throws Error if a tensor fits nowhere, or a target has none.
AdapterConfig LoadAdapter(Transformer& model, const std::string& folder, bool trainable);

// The adapter's tensors and fully trained modules under PEFT's names.
std::vector<NamedTensor> AdapterTensors(Transformer& model);
// Writes a PEFT folder; dtype "F32" or "BF16".
void SaveAdapter(Transformer& model, const AdapterConfig& config, const std::string& folder,
                 const std::string& dtype = "F32");

}  // namespace lapidary

#endif  // LAPIDARY_MODEL_ADAPT_H_
