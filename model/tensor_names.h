// Names and shapes of a checkpoint's tensors: the on-disk catalog of gemma4-12b.md 2.2 and the
// variants of 2.3.
#ifndef LAPIDARY_MODEL_TENSOR_NAMES_H_
#define LAPIDARY_MODEL_TENSOR_NAMES_H_

#include <cstdint>
#include <string>
#include <vector>

#include "model/config.h"

namespace lapidary {

// Maps any known spelling of a tensor or module name to the canonical one, the on-disk spelling of
// google/gemma-4-12B: "model.embed_vision.patch_dense.weight" ->
// "model.vision_embedder.patch_dense.weight", "language_model.model.layers.0.mlp.up_proj.weight" ->
// "model.language_model.layers.0.mlp.up_proj.weight", "model.layers.0..." ->
// "model.language_model.layers.0...". An unknown name comes back unchanged.
std::string CanonicalTensorName(const std::string& name);

// The module path that PEFT 0.21 sees in memory for a canonical module path (embedders only
// differ): "model.vision_embedder.patch_dense" -> "model.embed_vision.patch_dense",
// "model.embed_vision.embedding_projection" ->
// "model.embed_vision.multimodal_embedder.embedding_projection".
// text_only (Gemma4UnifiedForCausalLM): "model.language_model.layers.0..." -> "model.layers.0...".
std::string InMemoryModulePath(const std::string& canonical, bool text_only = false);

struct CatalogTensor {
  std::string name;  // canonical
  std::vector<int64_t> shape;
  bool linear = false;  // the weight of a Linear: a LoRA target, quantized on export
};

// Every tensor that a checkpoint of this architecture holds, in catalog order (embed_tokens, norm,
// layers, vision, audio). lm_head.weight is not in the list: it is optional.
std::vector<CatalogTensor> ExpectedTensors(const ModelConfig& config);

}  // namespace lapidary

#endif  // LAPIDARY_MODEL_TENSOR_NAMES_H_
