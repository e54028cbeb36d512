// Q5_K (formats.md 3.3): blocks of 256 = f16 d, f16 dmin, 12 bytes of scale pairs, 32 bytes of
// fifth bits, 128 bytes of low nibbles (as Q4_K); bit 2 g of fifth byte l belongs to element 64 g +
// l, bit 2 g + 1 to element 64 g + 32 + l; x' = (d * scale) q - (dmin * minimum), q in 0..31.
#include "quant/formats/k_scales.h"
#include "quant/formats/rows.h"

namespace lapidary::formats {
namespace {

constexpr int64_t kBytes = kKHead + 32 + 128;

// 32 bytes of fifth bits, then 128 of low nibbles.
LAPIDARY_LANES void PackCodes(const uint8_t* codes, uint8_t* fifth) {
  uint8_t* low = fifth + 32;
  std::memset(fifth, 0, 32);
  for (int g = 0; g < 4; ++g) {
    for (int l = 0; l < 32; ++l) {
      const int a = codes[64 * g + l], b = codes[64 * g + 32 + l];
      low[32 * g + l] = static_cast<uint8_t>((a & 15) | (b & 15) << 4);
      fifth[l] = static_cast<uint8_t>(fifth[l] | ((a >> 4) | (b >> 4) << 1) << (2 * g));
    }
  }
}

LAPIDARY_LANES void QuantizeBody(const float* row, int64_t n, uint8_t* out) {
  for (int64_t block = 0; block < n / kKBlock; ++block) {
    uint8_t* y = out + block * kBytes;
    uint8_t codes[kKBlock];
    QuantizeKBlock<31, 15>(row + block * kKBlock, -0.5f, y, codes);
    PackCodes(codes, y + kKHead);
  }
}
LAPIDARY_QUANTIZE_IN_LANES(Quantize, QuantizeBody)

LAPIDARY_LANES void WeightedBody(const float* row, const float* importance, int64_t n,
                                 uint8_t* out) {
  for (int64_t block = 0; block < n / kKBlock; ++block) {
    uint8_t* y = out + block * kBytes;
    uint8_t codes[kKBlock];
    QuantizeKBlockWeighted<31, true>(row + block * kKBlock, importance + block * kKBlock, y, codes);
    PackCodes(codes, y + kKHead);
  }
}
LAPIDARY_WEIGHTED_IN_LANES(QuantizeWeighted, WeightedBody)

void Dequantize(const uint8_t* blocks, int64_t n, float* out) {
  for (int64_t block = 0; block < n / kKBlock; ++block) {
    const uint8_t* fifth = blocks + block * kBytes + kKHead;
    float* x = out + block * kKBlock;
    float steps[8], offsets[8];
    LoadSteps(blocks + block * kBytes, steps, offsets);
    for (int g = 0; g < 4; ++g) {
      const uint8_t* q = fifth + 32 + 32 * g;
      for (int l = 0; l < 32; ++l) {
        const int high = fifth[l] >> (2 * g);
        x[64 * g + l] =
            steps[2 * g] * static_cast<float>((q[l] & 15) | (high & 1) << 4) - offsets[2 * g];
        x[64 * g + 32 + l] =
            steps[2 * g + 1] * static_cast<float>(q[l] >> 4 | (high & 2) << 3) - offsets[2 * g + 1];
      }
    }
  }
}

}  // namespace

Format Q5_K() {
  return {.id = 13,
          .name = "Q5_K",
          .block_size = kKBlock,
          .block_bytes = kBytes,
          .max_abs = 65504.0f * 31,
          .dequantize = Dequantize,
          .rules = {{"ggml", Quantize}},
          .head = {.sub = 32, .at = 0, .bytes = kKHead, .low = 0, .high = 31, .load = LoadSteps},
          .quantize_weighted = QuantizeWeighted};
}

}  // namespace lapidary::formats
