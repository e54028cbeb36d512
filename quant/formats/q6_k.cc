// Q6_K (formats.md 3.3): blocks of 256 = 128 bytes of low nibbles, 64 bytes of high pairs, i8
// scales[16], f16 d; 16 sub-blocks of 16 elements, x' = (d * scale) * (q - 32), q in 0..63. The
// quantizer tries 19 scales a sub-block (symmetric_search.h) with weights x^2, or an importance
// matrix's.
#include "quant/formats/blocks.h"
#include "quant/formats/rows.h"
#include "quant/formats/weighted.h"

namespace lapidary::formats {
namespace {

constexpr int64_t kBlock = 256;
constexpr int64_t kBytes = 210;
constexpr int kSub = 16;  // elements that share a scale, and scales in a block

// importance: null, or a weight for each value.
LAPIDARY_LANES void QuantizeBlock(const float* x, const float* importance, uint8_t* y) {
  uint8_t codes[kBlock];
  float scales[kSub];
  for (int half = 0; half < 2; ++half) {
    F8 lanes[kSub], w[kSub];
    I8 found[kSub];
    ToLanes<kSub>(x + 128 * half, lanes);
    if (importance) {
      ToLanes<kSub>(importance + 128 * half, w);
    } else {
      for (int i = 0; i < kSub; ++i) w[i] = lanes[i] * lanes[i];
    }
    const F8 scale = SymmetricSearch<kSub, 32>(lanes, w, found);
    FromLanes<kSub>(found, codes + 128 * half);
    std::memcpy(scales + kLanes * half, &scale, sizeof(scale));
  }
  float magnitude = 0, extremum = 0;
  for (int s = 0; s < kSub; ++s) {
    if (std::fabs(scales[s]) > magnitude) {
      magnitude = std::fabs(scales[s]);
      extremum = scales[s];
    }
  }
  if (magnitude < kSymmetricTiny) {
    std::memset(y, 0, kBytes);
    return;
  }
  const float inverse = -128.0f / extremum;
  const float d = StoreHalf(1 / inverse, y + 208);
  for (int s = 0; s < kSub; ++s) {
    const int32_t nearest = Nearest(inverse * scales[s]);
    const int8_t quantized = static_cast<int8_t>(nearest < 127 ? nearest : 127);
    y[192 + s] = static_cast<uint8_t>(quantized);
    const float step = d * static_cast<float>(quantized);
    if (step == 0) continue;
    for (int i = s * kSub; i < (s + 1) * kSub; ++i)
      codes[i] = static_cast<uint8_t>(Clamp(Nearest(x[i] / step), -32, 31) + 32);
  }
  for (int h = 0; h < 2; ++h) {
    const uint8_t* q = codes + 128 * h;
    uint8_t* low = y + 64 * h;
    uint8_t* high = y + 128 + 32 * h;
    for (int i = 0; i < 32; ++i) {
      low[i] = static_cast<uint8_t>((q[i] & 15) | (q[i + 64] & 15) << 4);
      low[32 + i] = static_cast<uint8_t>((q[i + 32] & 15) | (q[i + 96] & 15) << 4);
      high[i] = static_cast<uint8_t>(q[i] >> 4 | (q[i + 32] >> 4) << 2 | (q[i + 64] >> 4) << 4 |
                                     (q[i + 96] >> 4) << 6);
    }
  }
}

LAPIDARY_LANES void QuantizeBody(const float* row, int64_t n, uint8_t* out) {
  for (int64_t block = 0; block < n / kBlock; ++block)
    QuantizeBlock(row + block * kBlock, nullptr, out + block * kBytes);
}
LAPIDARY_QUANTIZE_IN_LANES(Quantize, QuantizeBody)

LAPIDARY_LANES void WeightedBody(const float* row, const float* importance, int64_t n,
                                 uint8_t* out) {
  for (int64_t block = 0; block < n / kBlock; ++block)
    QuantizeBlock(row + block * kBlock, importance + block * kBlock, out + block * kBytes);
}
LAPIDARY_WEIGHTED_IN_LANES(QuantizeWeighted, WeightedBody)

void LoadHead(const uint8_t* head, float* steps, float* offsets) {
  const float d = LoadHalf(head + 16);
  for (int s = 0; s < kSub; ++s) {
    steps[s] = d * static_cast<float>(static_cast<int8_t>(head[s]));
    offsets[s] = 0;
  }
}

void Dequantize(const uint8_t* blocks, int64_t n, float* out) {
  for (int64_t block = 0; block < n / kBlock; ++block) {
    const uint8_t* y = blocks + block * kBytes;
    const float d = LoadHalf(y + 208);
    // Sub-block s: half s / 8, then the quarter of 32 elements, then the left or right 16.
    for (int s = 0; s < kSub; ++s) {
      const float step = d * static_cast<float>(static_cast<int8_t>(y[192 + s]));
      const int quarter = s % 8 / 2, side = 16 * (s % 2);
      const uint8_t* low = y + 64 * (s / 8) + 32 * (quarter % 2) + side;
      const uint8_t* high = y + 128 + 32 * (s / 8) + side;
      const int low_shift = quarter / 2 * 4, high_shift = 2 * quarter;
      float* x = out + block * kBlock + kSub * s;
      for (int i = 0; i < kSub; ++i) {
        const int q = (low[i] >> low_shift & 15) | (high[i] >> high_shift & 3) << 4;
        x[i] = step * static_cast<float>(q - 32);
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
          .rules = {{"ggml", Quantize}},
          .head = {.sub = kSub, .at = 192, .bytes = 18, .low = -32, .high = 31, .load = LoadHead},
          .quantize_weighted = QuantizeWeighted};
}

}  // namespace lapidary::formats
