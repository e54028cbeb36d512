// Q5_1 (formats.md 3.1): blocks of 32 = f16 d, f16 m, u32 of fifth bits, 16 bytes of nibbles (as
// Q5_0). With lo and hi the extremes, d = (hi - lo) / 31, m = lo, q = trunc((x - lo) / d + 0.5), x'
// = q d + m. Codes are taken with the float32 d and lo.
#include "quant/formats/blocks.h"
#include "quant/formats/rows.h"
#include "quant/formats/weighted.h"

namespace lapidary::formats {
namespace {

constexpr int64_t kBlock = 32;
constexpr int64_t kBytes = 24;

LAPIDARY_LANES void Store(float d, float m, const uint8_t* codes, uint8_t* y) {
  StoreHalf(d, y);
  StoreHalf(m, y + 2);
  const uint32_t fifth = FifthBits(codes);
  std::memcpy(y + 4, &fifth, 4);
  PackNibbles(codes, y + 8);
}

LAPIDARY_LANES void QuantizeBody(const float* row, int64_t n, uint8_t* out) {
  for (int64_t block = 0; block < n / kBlock; ++block) {
    const float* x = row + block * kBlock;
    const Extremes e = FindExtremes<kBlock>(x);
    const float d = (e.high - e.low) / 31;
    const float inverse = d != 0 ? 1.0f / d : 0.0f;
    uint8_t codes[kBlock];
    TruncatedCodes<kBlock>(x, e.low, inverse, 0.5f, 31.0f, codes);
    Store(d, e.low, codes, out + block * kBytes);
  }
}
LAPIDARY_QUANTIZE_IN_LANES(Quantize, QuantizeBody)

LAPIDARY_LANES void WeightedBody(const float* row, const float* importance, int64_t n,
                                 uint8_t* out) {
  WeightedAffineRow<31, kBytes>(row, importance, n, out, Store);
}
LAPIDARY_WEIGHTED_IN_LANES(QuantizeWeighted, WeightedBody)

void Dequantize(const uint8_t* blocks, int64_t n, float* out) {
  for (int64_t block = 0; block < n / kBlock; ++block) {
    const uint8_t* y = blocks + block * kBytes;
    const float d = LoadHalf(y), m = LoadHalf(y + 2);
    uint32_t fifth;
    std::memcpy(&fifth, y + 4, 4);
    uint8_t codes[kBlock];
    UnpackFiveBits(y + 8, fifth, codes);
    for (int64_t i = 0; i < kBlock; ++i)
      out[block * kBlock + i] = static_cast<float>(codes[i]) * d + m;
  }
}

}  // namespace

Format Q5_1() {
  return {.id = 7,
          .name = "Q5_1",
          .block_size = kBlock,
          .block_bytes = kBytes,
          .max_abs = 65504.0f,
          .dequantize = Dequantize,
          .rules = {{"ggml", Quantize}},
          .quantize_weighted = QuantizeWeighted};
}

}  // namespace lapidary::formats
