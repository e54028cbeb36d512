// F16: IEEE binary16, round to nearest even. Magnitudes from 65520 up become infinite.
#include <cstring>

#include "autograd/base/float16.h"
#include "quant/formats/rows.h"

namespace lapidary::formats {
namespace {

void Quantize(const float* row, int64_t n, uint8_t* out) {
  for (int64_t i = 0; i < n; ++i) {
    const uint16_t bits = F16FromF32(row[i]);
    std::memcpy(out + i * 2, &bits, 2);
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
