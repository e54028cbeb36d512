// Q4_0 (formats.md 3.1): blocks of 32 = f16 d, 16 bytes of codes; byte j holds element j in bits
// 0-3 and element j + 16 in bits 4-7. With m the element of largest magnitude (the first one), d =
// m / -8, q = min(15, trunc(x / d + 8.5)), x' = (q - 8) d. A block of zeros has d = 0 and codes 8.
//
// Rule "ggml": codes are taken with the float32 d, which is then stored as f16.
// Rule "qat": d is rounded to bf16 first (formats.md 4.2). A bf16 checkpoint of the dequantized
// values then passes through the ggml rule with every code and every scale unchanged.
#include <cmath>
#include <cstring>

#include "autograd/base/float16.h"
#include "quant/formats/rows.h"

namespace lapidary::formats {
namespace {

constexpr int64_t kBlock = 32;
constexpr int64_t kBytes = 18;

// trunc(x / d + 8.5), at most 15. Out of range (1 / d overflowed) gives 0, as ggml's conversion
// does on x86.
inline uint8_t Code(float x, float inverse) {
  const float v = x * inverse + 8.5f;
  const float bounded = v >= 0.0f && v < 1e6f ? std::min(v, 15.0f) : 0.0f;
  return static_cast<uint8_t>(static_cast<int32_t>(bounded));
}

template <bool kBf16Scale>
void Quantize(const float* row, int64_t n, uint8_t* out) {
  for (int64_t block = 0; block < n / kBlock; ++block) {
    const float* x = row + block * kBlock;
    uint8_t* y = out + block * kBytes;
    float magnitude = 0, extremum = 0;
    for (int64_t i = 0; i < kBlock; ++i) {
      if (magnitude < std::fabs(x[i])) {
        magnitude = std::fabs(x[i]);
        extremum = x[i];
      }
    }
    const float exact = extremum / -8;
    const float d = kBf16Scale ? RoundToBf16(exact) : exact;
    const float inverse = d != 0 ? 1.0f / d : 0.0f;
    const uint16_t scale = F16FromF32(d);
    std::memcpy(y, &scale, 2);
    for (int64_t i = 0; i < kBlock / 2; ++i) {
      y[2 + i] = static_cast<uint8_t>(Code(x[i], inverse) | Code(x[i + kBlock / 2], inverse) << 4);
    }
  }
}

void Dequantize(const uint8_t* blocks, int64_t n, float* out) {
  for (int64_t block = 0; block < n / kBlock; ++block) {
    const uint8_t* y = blocks + block * kBytes;
    float* x = out + block * kBlock;
    uint16_t scale;
    std::memcpy(&scale, y, 2);
    const float d = F32FromF16(scale);
    for (int64_t i = 0; i < kBlock / 2; ++i) {
      x[i] = static_cast<float>((y[2 + i] & 15) - 8) * d;
      x[i + kBlock / 2] = static_cast<float>((y[2 + i] >> 4) - 8) * d;
    }
  }
}

}  // namespace

Format Q4_0() {
  return {.id = 2,
          .name = "Q4_0",
          .block_size = kBlock,
          .block_bytes = kBytes,
          .max_abs = 65504.0f * 8,
          .dequantize = Dequantize,
          .rules = {{"ggml", Quantize<false>}, {"qat", Quantize<true>}}};
}

}  // namespace lapidary::formats
