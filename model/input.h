// What the model computes on: one flat run of N tokens, made of documents that do not see each
// other. There is no padding and no batch axis.
#ifndef LAPIDARY_MODEL_INPUT_H_
#define LAPIDARY_MODEL_INPUT_H_

#include <cstdint>
#include <vector>

#include "autograd/tensor.h"

namespace lapidary {

struct ModelInput {
  std::vector<int32_t> ids;              // [N]; placeholders where soft tokens stand
  std::vector<int32_t> document_starts;  // increasing, the first is 0; empty: one document
  std::vector<uint8_t>
      types;  // [N] 0 text, 1 image, 2 video, 3 audio (mm_token_type_ids); empty: all text
  // Soft tokens of images and video frames, and of audio, each with the row of `ids` where it goes.
  Tensor patches;                        // [P, patch_features] f32, undefined if none
  std::vector<int32_t> patch_positions;  // [P * 2] x, y
  std::vector<int64_t> patch_rows;       // [P]
  Tensor audio_frames;                   // [A, audio_embed_dim] f32, undefined if none
  std::vector<int64_t> audio_rows;       // [A]
  // Where the tokens stand in the whole step: the index of dropout. Empty: 0, 1, 2, ...
  std::vector<int64_t> step_positions;

  int64_t size() const { return static_cast<int64_t>(ids.size()); }
};

}  // namespace lapidary

#endif  // LAPIDARY_MODEL_INPUT_H_
