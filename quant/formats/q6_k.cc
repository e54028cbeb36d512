// Q6_K (formats.md 3.3): blocks of 256 = 128 bytes of low nibbles, 64 bytes of high pairs, i8
// scales[16], f16 d; 16 sub-blocks of 16 elements, x' = (d * scale) * (q - 32), q in 0..63. The
// quantizer tries 19 scales a sub-block and keeps the best weighted least-squares fit (weights
// x^2). All sums run in ggml's order: the bytes depend on it.
#include <cmath>
#include <cstring>

#include "autograd/base/float16.h"
#include "quant/formats/rows.h"

namespace lapidary::formats {
namespace {

constexpr int64_t kBlock = 256;
constexpr int64_t kBytes = 210;
constexpr int kSub = 16;         // elements that share a scale, and scales in a block
constexpr float kTiny = 1e-15f;  // ggml's GROUP_MAX_EPS: below it a sub-block is zero

// Round half to even for |v| < 2^22, as ggml does it: the sum's mantissa holds the integer.
inline int Nearest(float v) {
  const int32_t bits = std::bit_cast<int32_t>(v + 12582912.0f);
  return (bits & 0x007fffff) - 0x00400000;
}

inline int Bounded(float v) { return std::max(-32, std::min(31, Nearest(v))); }

// The scale of one sub-block and, in codes[16], q - 32 for it.
float SubBlockScale(const float* x, int8_t* codes) {
  float magnitude = 0, extremum = 0;
  for (int i = 0; i < kSub; ++i) {
    if (std::fabs(x[i]) > magnitude) {
      magnitude = std::fabs(x[i]);
      extremum = x[i];
    }
  }
  if (magnitude < kTiny) {
    std::memset(codes, -32, kSub);  // code 0, as ggml leaves it
    return 0;
  }
  float best = 0, scale = 0;
  const auto attempt = [&](float inverse, bool first) {
    int q[kSub];
    for (int i = 0; i < kSub; ++i) q[i] = Bounded(inverse * x[i]);
    float products = 0, squares = 0;
    for (int i = 0; i < kSub; ++i) {
      const float w = x[i] * x[i];
      const float l = static_cast<float>(q[i]);
      products += w * x[i] * l;
      squares += w * l * l;
    }
    if (!first && !(squares > 0 && products * products > best * squares)) return;
    scale = squares != 0 ? products / squares : 0.0f;
    best = scale * products;
    for (int i = 0; i < kSub; ++i) codes[i] = static_cast<int8_t>(q[i]);
  };
  attempt(-32 / extremum, true);
  for (int step = -9; step <= 9; ++step) {
    if (step != 0) attempt(-(32 + 0.1f * static_cast<float>(step)) / extremum, false);
  }
  return scale;
}

void QuantizeBlock(const float* x, uint8_t* y) {
  int8_t codes[kBlock];
  float scales[kSub];
  float magnitude = 0, extremum = 0;
  for (int s = 0; s < kSub; ++s) {
    scales[s] = SubBlockScale(x + s * kSub, codes + s * kSub);
    if (std::fabs(scales[s]) > magnitude) {
      magnitude = std::fabs(scales[s]);
      extremum = scales[s];
    }
  }
  if (magnitude < kTiny) {
    std::memset(y, 0, kBytes);
    return;
  }
  uint8_t* low = y;
  uint8_t* high = y + 128;
  const float inverse = -128.0f / extremum;
  const uint16_t d_bits = F16FromF32(1 / inverse);
  const float d = F32FromF16(d_bits);
  for (int s = 0; s < kSub; ++s) {
    const int quantized = std::min(127, Nearest(inverse * scales[s]));
    y[192 + s] = static_cast<uint8_t>(static_cast<int8_t>(quantized));
    const float step = d * static_cast<float>(static_cast<int8_t>(quantized));
    if (step == 0) continue;
    for (int i = s * kSub; i < (s + 1) * kSub; ++i)
      codes[i] = static_cast<int8_t>(Bounded(x[i] / step));
  }
  std::memcpy(y + 208, &d_bits, 2);
  for (int h = 0; h < 2; ++h) {
    for (int i = 0; i < 32; ++i) {
      int q[4];
      for (int part = 0; part < 4; ++part) q[part] = codes[128 * h + 32 * part + i] + 32;
      low[64 * h + i] = static_cast<uint8_t>((q[0] & 15) | (q[2] & 15) << 4);
      low[64 * h + 32 + i] = static_cast<uint8_t>((q[1] & 15) | (q[3] & 15) << 4);
      high[32 * h + i] =
          static_cast<uint8_t>(q[0] >> 4 | (q[1] >> 4) << 2 | (q[2] >> 4) << 4 | (q[3] >> 4) << 6);
    }
  }
}

void Quantize(const float* row, int64_t n, uint8_t* out) {
  for (int64_t block = 0; block < n / kBlock; ++block)
    QuantizeBlock(row + block * kBlock, out + block * kBytes);
}

void Dequantize(const uint8_t* blocks, int64_t n, float* out) {
  for (int64_t block = 0; block < n / kBlock; ++block) {
    const uint8_t* y = blocks + block * kBytes;
    uint16_t d_bits;
    std::memcpy(&d_bits, y + 208, 2);
    const float d = F32FromF16(d_bits);
    float steps[kSub];
    for (int s = 0; s < kSub; ++s)
      steps[s] = d * static_cast<float>(static_cast<int8_t>(y[192 + s]));
    for (int h = 0; h < 2; ++h) {
      const uint8_t* low = y + 64 * h;
      const uint8_t* high = y + 128 + 32 * h;
      float* x = out + block * kBlock + 128 * h;
      for (int i = 0; i < 32; ++i) {
        const int s = 8 * h + i / 16;
        x[i] = steps[s] * static_cast<float>(((low[i] & 15) | (high[i] & 3) << 4) - 32);
        x[i + 32] =
            steps[s + 2] * static_cast<float>(((low[i + 32] & 15) | (high[i] >> 2 & 3) << 4) - 32);
        x[i + 64] = steps[s + 4] * static_cast<float>((low[i] >> 4 | (high[i] >> 4 & 3) << 4) - 32);
        x[i + 96] =
            steps[s + 6] * static_cast<float>((low[i + 32] >> 4 | (high[i] >> 6) << 4) - 32);
      }
    }
  }
}

}  // namespace

Format Q6_K() {
  return {.id = 14,
          .name = "Q6_K",
          .block_size = kBlock,
          .block_bytes = kBytes,
          .max_abs = 65504.0f * 127 * 31,
          .dequantize = Dequantize,
          .rules = {{"ggml", Quantize}}};
}

}  // namespace lapidary::formats
