// Soft tokens of images, video frames and sounds (gemma4-12b.md 4.5 and 5).
#ifndef LAPIDARY_MODEL_EMBEDDERS_H_
#define LAPIDARY_MODEL_EMBEDDERS_H_

#include "model/transformer.h"

namespace lapidary {

// patches [P, patch_features], positions x, y of each -> [P, hidden]. LayerNorm, dense, LayerNorm,
// + position, LayerNorm, RMSNorm, projection.
Var EmbedPatches(VisionEmbedder& vision, const VisionConfig& config, Tape& tape,
                 const Tensor& patches, const std::vector<int32_t>& positions,
                 const LinearContext& context);

// frames [A, audio_embed_dim] -> [A, hidden]. RMSNorm without gain, projection.
Var EmbedAudio(AudioEmbedder& audio, const AudioConfig& config, Tape& tape, const Tensor& frames,
               const LinearContext& context);

}  // namespace lapidary

#endif  // LAPIDARY_MODEL_EMBEDDERS_H_
