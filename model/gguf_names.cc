#include "model/gguf_names.h"

#include <array>
#include <string_view>

namespace lapidary {
namespace {

struct Pair {
  std::string_view canonical, gguf;
};

constexpr std::array kLayerTensors = {
    Pair{"input_layernorm.weight", "attn_norm.weight"},
    Pair{"self_attn.q_proj.weight", "attn_q.weight"},
    Pair{"self_attn.k_proj.weight", "attn_k.weight"},
    Pair{"self_attn.v_proj.weight", "attn_v.weight"},
    Pair{"self_attn.o_proj.weight", "attn_output.weight"},
    Pair{"self_attn.q_norm.weight", "attn_q_norm.weight"},
    Pair{"self_attn.k_norm.weight", "attn_k_norm.weight"},
    Pair{"post_attention_layernorm.weight", "post_attention_norm.weight"},
    Pair{"pre_feedforward_layernorm.weight", "ffn_norm.weight"},
    Pair{"mlp.gate_proj.weight", "ffn_gate.weight"},
    Pair{"mlp.up_proj.weight", "ffn_up.weight"},
    Pair{"mlp.down_proj.weight", "ffn_down.weight"},
    Pair{"post_feedforward_layernorm.weight", "post_ffw_norm.weight"},
    Pair{"layer_scalar", "layer_output_scale.weight"},
};

struct Whole {
  std::string_view canonical, gguf;
  bool mmproj;
  GgufLayout layout;
};

constexpr std::array kWholeTensors = {
    Whole{"model.language_model.embed_tokens.weight", "token_embd.weight", false,
          GgufLayout::kSame},
    Whole{"model.language_model.norm.weight", "output_norm.weight", false, GgufLayout::kSame},
    Whole{"lm_head.weight", "output.weight", false, GgufLayout::kSame},
    Whole{"model.vision_embedder.patch_ln1.weight", "v.patch_norm.1.weight", true,
          GgufLayout::kPatchColumns},
    Whole{"model.vision_embedder.patch_ln1.bias", "v.patch_norm.1.bias", true,
          GgufLayout::kPatchColumns},
    Whole{"model.vision_embedder.patch_dense.weight", "v.patch_embd.weight", true,
          GgufLayout::kPatchColumns},
    Whole{"model.vision_embedder.patch_dense.bias", "v.patch_embd.bias", true, GgufLayout::kSame},
    Whole{"model.vision_embedder.patch_ln2.weight", "v.patch_norm.2.weight", true,
          GgufLayout::kSame},
    Whole{"model.vision_embedder.patch_ln2.bias", "v.patch_norm.2.bias", true, GgufLayout::kSame},
    Whole{"model.vision_embedder.pos_embedding", "v.position_embd.weight", true,
          GgufLayout::kSwapTables},
    Whole{"model.vision_embedder.pos_norm.weight", "v.patch_norm.3.weight", true,
          GgufLayout::kSame},
    Whole{"model.vision_embedder.pos_norm.bias", "v.patch_norm.3.bias", true, GgufLayout::kSame},
    Whole{"model.embed_vision.embedding_projection.weight", "mm.input_projection.weight", true,
          GgufLayout::kSame},
    Whole{"model.embed_audio.embedding_projection.weight", "mm.a.input_projection.weight", true,
          GgufLayout::kSame},
};

}  // namespace

std::optional<GgufTensorPlace> FindGgufPlace(const std::string& canonical) {
  for (const Whole& row : kWholeTensors) {
    if (canonical == row.canonical)
      return GgufTensorPlace{std::string(row.gguf), row.mmproj, row.layout};
  }
  constexpr std::string_view kPrefix = "model.language_model.layers.";
  if (canonical.compare(0, kPrefix.size(), kPrefix) != 0) return std::nullopt;
  const size_t dot = canonical.find('.', kPrefix.size());
  if (dot == std::string::npos) return std::nullopt;
  const std::string layer = canonical.substr(kPrefix.size(), dot - kPrefix.size());
  for (const Pair& row : kLayerTensors) {
    if (canonical.compare(dot + 1, std::string::npos, row.canonical) == 0)
      return GgufTensorPlace{"blk." + layer + "." + std::string(row.gguf)};
  }
  return std::nullopt;
}

void PatchToChannelsFirst(const float* row, int64_t side, float* out) {
  for (int64_t pixel = 0; pixel < side * side; ++pixel) {
    for (int64_t c = 0; c < 3; ++c) out[c * side * side + pixel] = row[pixel * 3 + c];
  }
}

void PatchToChannelsLast(const float* row, int64_t side, float* out) {
  for (int64_t pixel = 0; pixel < side * side; ++pixel) {
    for (int64_t c = 0; c < 3; ++c) out[pixel * 3 + c] = row[c * side * side + pixel];
  }
}

}  // namespace lapidary
