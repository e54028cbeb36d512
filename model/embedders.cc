#include "model/embedders.h"

#include "autograd/ops/embedding.h"
#include "autograd/ops/norm.h"

namespace lapidary {
namespace {

constexpr float kLayerNormEps = 1e-5f;  // torch's default, unlike the text stack's 1e-6

// Transformers casts pixels and samples to the weights' type first.
Var MediaInput(Tape& tape, const Tensor& rows, Compute compute) {
  const Var x = tape.Constant(rows);
  return compute == Compute::kBfloat16 ? RoundBf16(x) : x;
}

}  // namespace

Var EmbedPatches(VisionEmbedder& vision, const VisionConfig& config, Tape& tape,
                 const Tensor& patches, const std::vector<int32_t>& positions,
                 const LinearContext& context) {
  Var x = MediaInput(tape, patches, context.compute);
  x = LayerNorm(x, tape.Leaf(vision.patch_ln1_weight), tape.Leaf(vision.patch_ln1_bias),
                kLayerNormEps);
  x = Forward(vision.patch_dense, x, context);
  x = LayerNorm(x, tape.Leaf(vision.patch_ln2_weight), tape.Leaf(vision.patch_ln2_bias),
                kLayerNormEps);
  x = Add(x,
          PositionEmbedding(tape.Leaf(vision.pos_embedding), positions, /*round_to_bf16=*/false));
  x = LayerNorm(x, tape.Leaf(vision.pos_norm_weight), tape.Leaf(vision.pos_norm_bias),
                kLayerNormEps);
  x = RmsNorm(x, Var(), static_cast<float>(config.rms_norm_eps));
  return Forward(vision.projection, x, context);
}

Var EmbedAudio(AudioEmbedder& audio, const AudioConfig& config, Tape& tape, const Tensor& frames,
               const LinearContext& context) {
  const Var x = RmsNorm(MediaInput(tape, frames, context.compute), Var(),
                        static_cast<float>(config.rms_norm_eps));
  return Forward(audio.projection, x, context);
}

}  // namespace lapidary
