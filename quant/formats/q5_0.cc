// Q5_0 (formats.md 3.1): blocks of 32 = f16 d, u32 of fifth bits (bit j: element j), 16 bytes of
// nibbles (as Q4_0). With m the element of largest magnitude (the first one), d = m / -16, q =
// min(31, trunc(x / d + 16.5)), x' = (q - 16) d. Codes are taken with the float32 d.
#include "quant/formats/blocks.h"
#include "quant/formats/rows.h"
#include "quant/formats/weighted.h"

namespace lapidary::formats {
namespace {

constexpr int64_t kBlock = 32;
constexpr int64_t kBytes = 22;

LAPIDARY_LANES void Store(float d, const uint8_t* codes, uint8_t* y) {
  StoreHalf(d, y);
  const uint32_t fifth = FifthBits(codes);
  std::memcpy(y + 2, &fifth, 4);
  PackNibbles(codes, y + 6);
}

LAPIDARY_LANES void QuantizeBody(const float* row, int64_t n, uint8_t* out) {
  for (int64_t block = 0; block < n / kBlock; ++block) {
    const float* x = row + block * kBlock;
    const float d = FindExtremum<kBlock>(x) / -16;
    const float inverse = d != 0 ? 1.0f / d : 0.0f;
    uint8_t codes[kBlock];
    TruncatedCodes<kBlock>(x, 0.0f, inverse, 16.5f, 31.0f, codes);
    Store(d, codes, out + block * kBytes);
  }
}
LAPIDARY_QUANTIZE_IN_LANES(Quantize, QuantizeBody)

LAPIDARY_LANES void WeightedBody(const float* row, const float* importance, int64_t n,
                                 uint8_t* out) {
  WeightedSymmetricRow<16, kBytes>(row, importance, n, out, Store);
}
LAPIDARY_WEIGHTED_IN_LANES(QuantizeWeighted, WeightedBody)

void Dequantize(const uint8_t* blocks, int64_t n, float* out) {
  for (int64_t block = 0; block < n / kBlock; ++block) {
    const uint8_t* y = blocks + block * kBytes;
    const float d = LoadHalf(y);
    uint32_t fifth;
    std::memcpy(&fifth, y + 2, 4);
    uint8_t codes[kBlock];
    UnpackFiveBits(y + 6, fifth, codes);
    for (int64_t i = 0; i < kBlock; ++i)
      out[block * kBlock + i] = static_cast<float>(codes[i] - 16) * d;
  }
}

}  // namespace

Format Q5_0() {
  return {.id = 6,
          .name = "Q5_0",
          .block_size = kBlock,
          .block_bytes = kBytes,
          .max_abs = 65504.0f * 16,
          .dequantize = Dequantize,
          .rules = {{"ggml", Quantize}},
          .quantize_weighted = QuantizeWeighted};
}

}  // namespace lapidary::formats
