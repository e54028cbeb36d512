// Q4_1 (formats.md 3.1): blocks of 32 = f16 d, f16 m, 16 bytes of nibbles (as Q4_0). With lo and hi
// the extremes, d = (hi - lo) / 15, m = lo, q = min(15, trunc((x - lo) / d + 0.5)), x' = q d + m.
// Codes are taken with the float32 d and lo.
#include "quant/formats/blocks.h"
#include "quant/formats/rows.h"
#include "quant/formats/weighted.h"

namespace lapidary::formats {
namespace {

constexpr int64_t kBlock = 32;
constexpr int64_t kBytes = 20;

LAPIDARY_LANES void Store(float d, float m, const uint8_t* codes, uint8_t* y) {
  StoreHalf(d, y);
  StoreHalf(m, y + 2);
  PackNibbles(codes, y + 4);
}

LAPIDARY_LANES void QuantizeBody(const float* row, int64_t n, uint8_t* out) {
  for (int64_t block = 0; block < n / kBlock; ++block) {
    const float* x = row + block * kBlock;
    const Extremes e = FindExtremes<kBlock>(x);
    const float d = (e.high - e.low) / 15;
    const float inverse = d != 0 ? 1.0f / d : 0.0f;
    uint8_t codes[kBlock];
    TruncatedCodes<kBlock>(x, e.low, inverse, 0.5f, 15.0f, codes);
    Store(d, e.low, codes, out + block * kBytes);
  }
}
LAPIDARY_QUANTIZE_IN_LANES(Quantize, QuantizeBody)

LAPIDARY_LANES void WeightedBody(const float* row, const float* importance, int64_t n,
                                 uint8_t* out) {
  WeightedAffineRow<15, kBytes>(row, importance, n, out, Store);
}
LAPIDARY_WEIGHTED_IN_LANES(QuantizeWeighted, WeightedBody)

void Dequantize(const uint8_t* blocks, int64_t n, float* out) {
  for (int64_t block = 0; block < n / kBlock; ++block) {
    const uint8_t* y = blocks + block * kBytes;
    float* x = out + block * kBlock;
    const float d = LoadHalf(y), m = LoadHalf(y + 2);
    for (int64_t i = 0; i < kBlock / 2; ++i) {
      x[i] = static_cast<float>(y[4 + i] & 15) * d + m;
      x[i + kBlock / 2] = static_cast<float>(y[4 + i] >> 4) * d + m;
    }
  }
}

}  // namespace

Format Q4_1() {
  return {.id = 3,
          .name = "Q4_1",
          .block_size = kBlock,
          .block_bytes = kBytes,
          .max_abs = 65504.0f,
          .dequantize = Dequantize,
          .rules = {{"ggml", Quantize}},
          .quantize_weighted = QuantizeWeighted};
}

}  // namespace lapidary::formats
