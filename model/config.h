// The architecture as config.json states it, in the flat and in the `per_layer_config` spelling
// (gemma4-12b.md section 1). Only what the computation needs is parsed; the JSON itself is kept so
// that exports copy it verbatim.
#ifndef LAPIDARY_MODEL_CONFIG_H_
#define LAPIDARY_MODEL_CONFIG_H_

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace lapidary {

struct LayerConfig {
  bool full_attention = false;  // else sliding
  bool k_is_v = false;          // no v_proj: V is the raw output of k_proj
  int64_t head_dim = 0;
  int64_t num_key_value_heads = 0;
};

struct TextConfig {
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t num_attention_heads = 0;
  int64_t sliding_window = 0;
  int64_t max_position_embeddings = 0;
  double rms_norm_eps = 1e-6;
  double final_logit_softcapping = 0;  // 0: none
  double sliding_rope_theta = 1e4;
  double full_rope_theta = 1e6;
  double full_partial_rotary_factor = 1.0;
  int32_t pad_token_id = 0, bos_token_id = 2;
  bool tie_word_embeddings = true;
  std::vector<LayerConfig> layers;
};

struct VisionConfig {
  int64_t patch_size = 16;
  int64_t pooling_kernel_size = 3;
  int64_t mm_embed_dim = 0;
  int64_t mm_posemb_size = 0;
  double rms_norm_eps = 1e-6;
  int64_t model_patch_size() const {
    return patch_size * pooling_kernel_size;
  }  // pixels a side of a soft token
  int64_t patch_features() const { return model_patch_size() * model_patch_size() * 3; }  // 6912
};

struct AudioConfig {
  int64_t audio_embed_dim = 0;  // samples a soft token
  double rms_norm_eps = 1e-6;
};

struct ModelConfig {
  TextConfig text;
  bool text_only = false;  // model_type gemma4_unified_text: modules are called model.layers.N...,
                           // not model.language_model.layers.N...
  bool has_vision = false, has_audio = false;
  VisionConfig vision;
  AudioConfig audio;
  int32_t image_token_id = -1, video_token_id = -1,
          audio_token_id = -1;  // placeholders of soft tokens; -1: none
  int32_t boi_token_id = -1, eoi_token_id = -1, boa_token_id = -1, eoa_token_id = -1;
  std::string json;  // the file, verbatim

  int64_t num_layers() const { return static_cast<int64_t>(text.layers.size()); }
};

// Parses config.json; `where` names it in errors. Throws Error for another model_type, a missing or
// absurd value, layer lists of the wrong length, sizes whose products overflow, and settings that
// this model family does not use (attention biases, mixture of experts, shared key-value layers,
// per-layer embeddings, rope scaling).
ModelConfig ParseModelConfig(const std::string& json_bytes, const std::string& where);

// The shapes that `make-model` knows: "tiny" (for tests and the quick start) and "12b"; `layers` 0:
// as the shape says. Special ids and the vocabulary are those of the shape ("12b": 262,144 words)
// or, for "tiny", of the small tokenizer (2,048 words).
ModelConfig MakeModelConfig(const std::string& shape, int64_t layers);

// inv_freq [head_dim / 2] of a layer; the proportional rule leaves zeros for pairs that do not
// rotate (gemma4-12b.md 3.4).
std::vector<float> RopeInverseFrequencies(const TextConfig& text, const LayerConfig& layer);

}  // namespace lapidary

#endif  // LAPIDARY_MODEL_CONFIG_H_
