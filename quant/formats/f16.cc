// F16: IEEE binary16, round to nearest even. Magnitudes from 65520 up become infinite.
#include <cstring>

#include "autograd/base/float16.h"
#include "quant/formats/rows.h"

namespace lapidary::formats {
namespace {

// F16FromF32 without branches, so that the compiler vectorizes it: the cases are computed and
// selected.
void Quantize(const float* row, int64_t n, uint8_t* out) {
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t bits = std::bit_cast<uint32_t>(row[i]);
    const uint32_t magnitude = bits & 0x7fffffffu;
    const uint32_t normal = (magnitude + 0xfffu + ((magnitude >> 13) & 1u) - 0x38000000u) >> 13;
    const uint32_t subnormal =
        std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u;
    const uint32_t nan = 0x7e00u | ((magnitude >> 13) & 0x3ffu);
    uint32_t value = magnitude < 0x38800000u ? subnormal : normal;
    value = magnitude >= 0x477ff000u ? 0x7c00u : value;
    value = magnitude > 0x7f800000u ? nan : value;
    const uint16_t half = static_cast<uint16_t>(value | (bits >> 16 & 0x8000u));
    std::memcpy(out + i * 2, &half, 2);
  }
}

// F32FromF16 without branches, so that the compiler vectorizes it: the three cases are computed and
// selected.
void Dequantize(const uint8_t* blocks, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) {
    uint16_t half;
    std::memcpy(&half, blocks + i * 2, 2);
    const uint32_t magnitude = half & 0x7fffu;
    const uint32_t normal = (magnitude << 13) + (112u << 23);
    const uint32_t special = (magnitude << 13) | 0x7f800000u;
    const uint32_t subnormal =
        std::bit_cast<uint32_t>(static_cast<float>(static_cast<int32_t>(magnitude)) * 0x1p-24f);
    const uint32_t value = magnitude < 0x400u ? subnormal : magnitude < 0x7c00u ? normal : special;
    out[i] = std::bit_cast<float>(value | static_cast<uint32_t>(half & 0x8000u) << 16);
  }
}

}  // namespace

Format F16() {
  return {.id = 1,
          .name = "F16",
          .block_size = 1,
          .block_bytes = 2,
          .max_abs = 65519.996f,
          .dequantize = Dequantize,
          .rules = {{"ggml", Quantize}}};
}

}  // namespace lapidary::formats
