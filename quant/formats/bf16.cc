// BF16: the upper half of float32, round to nearest even.
#include <cstring>

#include "autograd/base/float16.h"
#include "quant/formats/rows.h"

namespace lapidary::formats {
namespace {

// Bf16FromF32 with the NaN case selected instead of branched to, so that the compiler vectorizes
// it.
void Quantize(const float* row, int64_t n, uint8_t* out) {
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t bits = std::bit_cast<uint32_t>(row[i]);
    const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const uint32_t nan = (bits >> 16) | 0x40u;
    const uint16_t value =
        static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? nan : rounded);
    std::memcpy(out + i * 2, &value, 2);
  }
}

void Dequantize(const uint8_t* blocks, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) {
    uint16_t bits;
    std::memcpy(&bits, blocks + i * 2, 2);
    out[i] = F32FromBf16(bits);
  }
}

}  // namespace

Format BF16() {
  // The largest float32 that does not round up to infinity.
  return {.id = 30,
          .name = "BF16",
          .block_size = 1,
          .block_bytes = 2,
          .max_abs = 0x1.fefffep127f,
          .dequantize = Dequantize,
          .rules = {{"ggml", Quantize}}};
}

}  // namespace lapidary::formats
