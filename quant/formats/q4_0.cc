// Q4_0 (formats.md 3.1): blocks of 32 = f16 d, 16 bytes of codes; byte j holds element j in bits
// 0-3 and element j + 16 in bits 4-7. With m the element of largest magnitude (the first one), d =
// m / -8, q = min(15, trunc(x / d + 8.5)), x' = (q - 8) d. A block of zeros has d = 0 and codes 8.
//
// Rule "ggml": codes are taken with the float32 d, which is then stored as f16.
// Rule "qat": d is rounded to bf16 first (formats.md 4.2). A bf16 checkpoint of the dequantized
// values then passes through the ggml rule with every code and every scale unchanged.
#include "quant/formats/blocks.h"
#include "quant/formats/rows.h"
#include "quant/formats/weighted.h"

namespace lapidary::formats {
namespace {

constexpr int64_t kBlock = 32;
constexpr int64_t kBytes = 18;

// The scale of a block and its codes 0..15; returns the scale as it is stored in `half`.
template <bool kBf16Scale>
LAPIDARY_LANES float BlockCodes(const float* x, uint8_t* half, uint8_t* codes) {
  const float exact = FindExtremum<kBlock>(x) / -8;
  const float d = kBf16Scale ? RoundToBf16(exact) : exact;
  const float inverse = d != 0 ? 1.0f / d : 0.0f;
  TruncatedCodes<kBlock>(x, 0.0f, inverse, 8.5f, 15.0f, codes);
  return StoreHalf(d, half);
}

template <bool kBf16Scale>
LAPIDARY_LANES void QuantizeBody(const float* row, int64_t n, uint8_t* out) {
  for (int64_t block = 0; block < n / kBlock; ++block) {
    uint8_t codes[kBlock];
    BlockCodes<kBf16Scale>(row + block * kBlock, out + block * kBytes, codes);
    PackNibbles(codes, out + block * kBytes + 2);
  }
}

template <bool kBf16Scale>
LAPIDARY_LANES void ProjectBody(float* values, int64_t n) {
  for (float* x = values; x < values + n; x += kBlock) {
    uint8_t half[2], codes[kBlock];
    const float d = BlockCodes<kBf16Scale>(x, half, codes);
    for (int64_t i = 0; i < kBlock; ++i) x[i] = static_cast<float>(codes[i] - 8) * d;
  }
}
LAPIDARY_PROJECT_IN_LANES(ProjectGgml, ProjectBody<false>)
LAPIDARY_PROJECT_IN_LANES(ProjectQat, ProjectBody<true>)
LAPIDARY_QUANTIZE_IN_LANES(QuantizeGgml, QuantizeBody<false>)
LAPIDARY_QUANTIZE_IN_LANES(QuantizeQat, QuantizeBody<true>)

LAPIDARY_LANES void WeightedBody(const float* row, const float* importance, int64_t n,
                                 uint8_t* out) {
  WeightedSymmetricRow<8, kBytes>(row, importance, n, out,
                                  [](float d, const uint8_t* codes, uint8_t* y) {
                                    StoreHalf(d, y);
                                    PackNibbles(codes, y + 2);
                                  });
}
LAPIDARY_WEIGHTED_IN_LANES(QuantizeWeighted, WeightedBody)

void LoadHead(const uint8_t* head, float* steps, float* offsets) {
  *steps = LoadHalf(head);
  *offsets = 0;
}

void Dequantize(const uint8_t* blocks, int64_t n, float* out) {
  for (int64_t block = 0; block < n / kBlock; ++block) {
    const uint8_t* y = blocks + block * kBytes;
    float* x = out + block * kBlock;
    const float d = LoadHalf(y);
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
          .rules = {{"ggml", QuantizeGgml, ProjectGgml}, {"qat", QuantizeQat, ProjectQat}},
          .head = {.sub = kBlock, .at = 0, .bytes = 2, .low = -8, .high = 7, .load = LoadHead},
          .quantize_weighted = QuantizeWeighted};
}

}  // namespace lapidary::formats
