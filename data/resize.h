// Target size and resize of pictures, bit for bit as torchvision does it on uint8 CPU tensors
// (gemma4-12b.md 4.2, 4.3): bicubic (a = -0.5) with antialiasing, int16 fixed-point weights, width
// first, then height, uint8 in between. Or, if the configuration says so, bit for bit as llama.cpp
// (tools/mtmd/mtmd-image.cpp, that of Pillow): the same weights with 22 bits behind the point, into
// a size of its own with black edges. Pure, thread-safe.
#ifndef LAPIDARY_DATA_RESIZE_H_
#define LAPIDARY_DATA_RESIZE_H_

#include <cstdint>
#include <vector>

#include "data/image.h"
#include "data/media_config.h"

namespace lapidary {

// The size to which a picture of `size` is brought so that it fills `budget` soft tokens of
// model_patch x model_patch pixels: the largest multiples of model_patch with (about) the same
// aspect ratio and at most `budget` tokens; small pictures grow. With ImageResize::kLlamaCpp each
// side goes to the nearest multiple, and only what is above `budget` or below 70 tokens is scaled;
// lopsided pictures may end above the budget. Throws Error for an empty picture, or one so lopsided
// that no such size exists (kLlamaCpp: above 65,536 pixels).
ImageSize TargetSize(ImageSize size, const ImageProcessorConfig& config, int64_t budget);

// Soft tokens of TargetSize.
int64_t ImageTokens(ImageSize size, const ImageProcessorConfig& config, int64_t budget);

// Weights of one axis, input n samples -> m samples:
//   out[i] = clamp((2^(shift-1) + sum_j in[start[i] + j] * weights[i * taps + j]) >> shift, 0,
//   255), j < count[i].
// At `shift` 0 the largest with which every weight fits int16, at most 22.
struct ResizeWeights {
  int64_t taps = 0;  // row length of `weights`; what lies beyond count[i] is zero
  int shift = 0;
  std::vector<int32_t> start;
  std::vector<int32_t> count;
  std::vector<int32_t> weights;
};
ResizeWeights MakeResizeWeights(int64_t n, int64_t m, int shift = 0);

// `image` at height x width pixels. An axis whose length does not change is left alone.
Image Resize(const Image& image, int64_t height, int64_t width, int shift = 0);

// `image` at `target`, a TargetSize: resized, or with kLlamaCpp resized within it, its proportions
// kept, in the middle of black.
Image ResizeTo(const Image& image, ImageSize target, const ImageProcessorConfig& config);

}  // namespace lapidary

#endif  // LAPIDARY_DATA_RESIZE_H_
