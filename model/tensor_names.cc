#include "model/tensor_names.h"

#include <string_view>

namespace lapidary {
namespace {

bool StartsWith(const std::string& s, std::string_view prefix) {
  return s.compare(0, prefix.size(), prefix) == 0;
}

struct Rename {
  std::string_view from, to;
};

// First match wins; longer prefixes stand before shorter ones.
constexpr Rename kPrefixes[] = {
    {"model.embed_vision.multimodal_embedder.", "model.embed_vision."},
    {"model.embed_audio.multimodal_embedder.", "model.embed_audio."},
    {"model.embed_vision.patch_", "model.vision_embedder.patch_"},
    {"model.embed_vision.pos_", "model.vision_embedder.pos_"},
    {"model.language_model.model.", "model.language_model."},
    {"model.layers.", "model.language_model.layers."},
    {"model.embed_tokens.", "model.language_model.embed_tokens."},
    {"model.norm.", "model.language_model.norm."},
};

}  // namespace

std::string CanonicalTensorName(const std::string& name) {
  std::string s = name;
  if (s == "language_model.lm_head.weight" || s == "model.lm_head.weight") return "lm_head.weight";
  // Conversions without the leading "model.": language_model., vision_embedder., embed_vision.,
  // embed_audio.
  for (std::string_view bare :
       {"language_model.", "vision_embedder.", "embed_vision.", "embed_audio."}) {
    if (StartsWith(s, bare)) {
      s = "model." + s;
      break;
    }
  }
  for (const Rename& r : kPrefixes) {
    if (StartsWith(s, r.from)) return std::string(r.to) + s.substr(r.from.size());
  }
  return s;
}

std::string InMemoryModulePath(const std::string& canonical, bool text_only) {
  constexpr std::string_view kLanguage = "model.language_model.";
  if (text_only && StartsWith(canonical, kLanguage))
    return "model." + canonical.substr(kLanguage.size());
  constexpr std::string_view kVision = "model.vision_embedder.";
  if (StartsWith(canonical, kVision))
    return "model.embed_vision." + canonical.substr(kVision.size());
  for (std::string_view media : {"model.embed_vision.", "model.embed_audio."}) {
    if (StartsWith(canonical, media) &&
        StartsWith(canonical.substr(media.size()), "embedding_projection")) {
      // Only the vision embedder nests its projection; the audio embedder's own module is the
      // projection's parent.
      if (media == "model.embed_vision.") {
        return std::string(media) + "multimodal_embedder." + canonical.substr(media.size());
      }
    }
  }
  return canonical;
}

std::vector<CatalogTensor> ExpectedTensors(const ModelConfig& config) {
  const TextConfig& text = config.text;
  const int64_t hidden = text.hidden_size;
  std::vector<CatalogTensor> specs;
  const std::string language = "model.language_model.";
  specs.push_back({language + "embed_tokens.weight", {text.vocab_size, hidden}});
  specs.push_back({language + "norm.weight", {hidden}});
  for (size_t i = 0; i < text.layers.size(); ++i) {
    const LayerConfig& layer = text.layers[i];
    const std::string prefix = language + "layers." + std::to_string(i) + ".";
    const int64_t q = text.num_attention_heads * layer.head_dim;
    const int64_t kv = layer.num_key_value_heads * layer.head_dim;
    specs.push_back({prefix + "input_layernorm.weight", {hidden}});
    specs.push_back({prefix + "self_attn.q_proj.weight", {q, hidden}, true});
    specs.push_back({prefix + "self_attn.k_proj.weight", {kv, hidden}, true});
    if (!layer.k_is_v) specs.push_back({prefix + "self_attn.v_proj.weight", {kv, hidden}, true});
    specs.push_back({prefix + "self_attn.o_proj.weight", {hidden, q}, true});
    specs.push_back({prefix + "self_attn.q_norm.weight", {layer.head_dim}});
    specs.push_back({prefix + "self_attn.k_norm.weight", {layer.head_dim}});
    specs.push_back({prefix + "post_attention_layernorm.weight", {hidden}});
    specs.push_back({prefix + "pre_feedforward_layernorm.weight", {hidden}});
    specs.push_back({prefix + "mlp.gate_proj.weight", {text.intermediate_size, hidden}, true});
    specs.push_back({prefix + "mlp.up_proj.weight", {text.intermediate_size, hidden}, true});
    specs.push_back({prefix + "mlp.down_proj.weight", {hidden, text.intermediate_size}, true});
    specs.push_back({prefix + "post_feedforward_layernorm.weight", {hidden}});
    specs.push_back({prefix + "layer_scalar", {1}});
  }
  if (config.has_vision) {
    const std::string v = "model.vision_embedder.";
    const int64_t features = config.vision.patch_features(), width = config.vision.mm_embed_dim;
    for (const char* part : {"weight", "bias"})
      specs.push_back({v + "patch_ln1." + part, {features}});
    specs.push_back({v + "patch_dense.weight", {width, features}, true});
    specs.push_back({v + "patch_dense.bias", {width}});
    for (const char* part : {"weight", "bias"}) specs.push_back({v + "patch_ln2." + part, {width}});
    specs.push_back({v + "pos_embedding", {config.vision.mm_posemb_size, 2, width}});
    for (const char* part : {"weight", "bias"}) specs.push_back({v + "pos_norm." + part, {width}});
    specs.push_back({"model.embed_vision.embedding_projection.weight", {hidden, width}, true});
  }
  if (config.has_audio) {
    specs.push_back({"model.embed_audio.embedding_projection.weight",
                     {hidden, config.audio.audio_embed_dim},
                     true});
  }
  return specs;
}

}  // namespace lapidary
