// IQ4_XS: blocks of 256 = f16 d, u16 of high scale pairs, 4 bytes of low scale nibbles, 128 bytes
// of nibbles; 8 sub-blocks of 32 (each with nibbles as Q4_0), x' = (d * (scale - 32)) book[q] with
// the code book of iq4.h and a 6-bit scale a sub-block. The final codes use the float32 d.
#include "quant/formats/blocks.h"
#include "quant/formats/iq4.h"
#include "quant/formats/rows.h"
#include "quant/formats/weighted.h"

namespace lapidary::formats {
namespace {

constexpr int kBlock = 256;
constexpr int64_t kBytes = 136;

// importance: null, or a weight for each value.
LAPIDARY_LANES void QuantizeBlock(const float* x, const float* importance, uint8_t* y) {
  F8 lanes[kIq4Size], w[kIq4Size];
  ToLanes<kIq4Size>(x, lanes);
  if (importance) {
    float weights[kBlock];
    ImportanceWeights(importance, x, kBlock, SumSquares(x, kBlock) * (2.0f / kBlock), weights);
    ToLanes<kIq4Size>(weights, w);
  } else {
    for (int i = 0; i < kIq4Size; ++i) w[i] = lanes[i] * lanes[i];
  }
  const F8 scales = Iq4Scales(lanes, w);
  float magnitude = 0, extremum = 0;
  for (int k = 0; k < kLanes; ++k) {
    if (std::fabs(scales[k]) > magnitude) {
      magnitude = std::fabs(scales[k]);
      extremum = scales[k];
    }
  }
  const float d = -extremum / 32;
  StoreHalf(d, y);
  const I8 l = Clamp(Nearest((d != 0 ? 1.0f / d : 0.0f) * scales), -32, 31);
  const F8 step = d * Floats(l);
  const F8 inverse = step != F8{} ? 1.0f / step : F8{};
  I8 found[kIq4Size];
  for (int i = 0; i < kIq4Size; ++i) found[i] = Iq4Code(inverse * lanes[i]);
  uint8_t codes[kBlock];
  FromLanes<kIq4Size>(found, codes);
  uint32_t high = 0, low = 0;
  for (int k = 0; k < kLanes; ++k) {
    const uint32_t scale = static_cast<uint32_t>(l[k] + 32);
    low |= (scale & 15) << (4 * k);
    high |= scale >> 4 << (2 * k);
  }
  std::memcpy(y + 2, &high, 2);
  std::memcpy(y + 4, &low, 4);
  for (int k = 0; k < kLanes; ++k) PackNibbles(codes + kIq4Size * k, y + 8 + 16 * k);
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

void Dequantize(const uint8_t* blocks, int64_t n, float* out) {
  for (int64_t block = 0; block < n / kBlock; ++block) {
    const uint8_t* y = blocks + block * kBytes;
    const float d = LoadHalf(y);
    uint16_t high;
    std::memcpy(&high, y + 2, 2);
    for (int k = 0; k < 8; ++k) {
      const int scale = (y[4 + k / 2] >> (4 * (k % 2)) & 15) | (high >> (2 * k) & 3) << 4;
      const float step = d * static_cast<float>(scale - 32);
      const uint8_t* q = y + 8 + 16 * k;
      float* x = out + block * kBlock + kIq4Size * k;
      for (int i = 0; i < kIq4Size / 2; ++i) {
        x[i] = step * kIq4Book[q[i] & 15];
        x[i + kIq4Size / 2] = step * kIq4Book[q[i] >> 4];
      }
    }
  }
}

}  // namespace

Format IQ4_XS() {
  return {.id = 23,
          .name = "IQ4_XS",
          .block_size = kBlock,
          .block_bytes = kBytes,
          .max_abs = 65504.0f * 32 * 113,
          .dequantize = Dequantize,
          .rules = {{"ggml", Quantize}},
          .quantize_weighted = QuantizeWeighted};
}

}  // namespace lapidary::formats
