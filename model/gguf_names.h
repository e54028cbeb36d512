// How the tensors of a Gemma 4 checkpoint are called and laid out in GGUF files (formats.md 2.4 and
// 2.6). The exporter goes one way, the GGUF reader the other.
#ifndef LAPIDARY_MODEL_GGUF_NAMES_H_
#define LAPIDARY_MODEL_GGUF_NAMES_H_

#include <cstdint>
#include <optional>
#include <string>

namespace lapidary {

// What has to move between the Hugging Face layout and GGUF's.
enum class GgufLayout {
  kSame,
  kPatchColumns,  // the last axis holds the pixels of a patch: (row, column, channel) in Hugging
                  // Face, (channel, row, column) in GGUF
  kSwapTables,    // [positions, 2, width] in Hugging Face, [2, positions, width] in GGUF
};

struct GgufTensorPlace {
  std::string name;
  bool mmproj = false;  // in the mmproj file; else in the text file
  GgufLayout layout = GgufLayout::kSame;
};

// The place of a canonical tensor name (model/tensor_names.h); none if GGUF has no such tensor.
std::optional<GgufTensorPlace> FindGgufPlace(const std::string& canonical);

// One row of `side` x `side` x 3 values. new[c * side^2 + r * side + k] = old[r * 3 side + 3 k +
// c].
void PatchToChannelsFirst(const float* row, int64_t side, float* out);
void PatchToChannelsLast(const float* row, int64_t side, float* out);

}  // namespace lapidary

#endif  // LAPIDARY_MODEL_GGUF_NAMES_H_
