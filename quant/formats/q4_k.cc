// Q4_K (formats.md 3.3): blocks of 256 = f16 d, f16 dmin, 12 bytes of scale pairs, 128 bytes of
// codes; byte 32 g + l holds element 64 g + l in bits 0-3 and element 64 g + 32 + l in bits 4-7; 8
// sub-blocks of 32, x' = (d * scale) q - (dmin * minimum), q in 0..15.
#include "quant/formats/k_scales.h"
#include "quant/formats/rows.h"

namespace lapidary::formats {
namespace {

constexpr int64_t kBytes = kKHead + 128;

LAPIDARY_LANES void PackCodes(const uint8_t* codes, uint8_t* out) {
  for (int g = 0; g < 4; ++g) {
    for (int l = 0; l < 32; ++l)
      out[32 * g + l] = static_cast<uint8_t>(codes[64 * g + l] | codes[64 * g + 32 + l] << 4);
  }
}

LAPIDARY_LANES void QuantizeBody(const float* row, int64_t n, uint8_t* out) {
  for (int64_t block = 0; block < n / kKBlock; ++block) {
    uint8_t* y = out + block * kBytes;
    uint8_t codes[kKBlock];
    QuantizeKBlock<15, 20>(row + block * kKBlock, -1.0f, y, codes);
    PackCodes(codes, y + kKHead);
  }
}
LAPIDARY_QUANTIZE_IN_LANES(Quantize, QuantizeBody)

LAPIDARY_LANES void WeightedBody(const float* row, const float* importance, int64_t n,
                                 uint8_t* out) {
  for (int64_t block = 0; block < n / kKBlock; ++block) {
    uint8_t* y = out + block * kBytes;
    uint8_t codes[kKBlock];
    QuantizeKBlockWeighted<15, false>(row + block * kKBlock, importance + block * kKBlock, y,
                                      codes);
    PackCodes(codes, y + kKHead);
  }
}
LAPIDARY_WEIGHTED_IN_LANES(QuantizeWeighted, WeightedBody)

void Dequantize(const uint8_t* blocks, int64_t n, float* out) {
  for (int64_t block = 0; block < n / kKBlock; ++block) {
    const uint8_t* y = blocks + block * kBytes;
    float* x = out + block * kKBlock;
    float steps[8], offsets[8];
    LoadSteps(y, steps, offsets);
    for (int g = 0; g < 4; ++g) {
      const uint8_t* q = y + kKHead + 32 * g;
      for (int l = 0; l < 32; ++l) {
        x[64 * g + l] = steps[2 * g] * static_cast<float>(q[l] & 15) - offsets[2 * g];
        x[64 * g + 32 + l] = steps[2 * g + 1] * static_cast<float>(q[l] >> 4) - offsets[2 * g + 1];
      }
    }
  }
}

}  // namespace

Format Q4_K() {
  return {.id = 12,
          .name = "Q4_K",
          .block_size = kKBlock,
          .block_bytes = kBytes,
          .max_abs = 65504.0f * 15,
          .dequantize = Dequantize,
          .rules = {{"ggml", Quantize}},
          .head = {.sub = 32, .at = 0, .bytes = kKHead, .low = 0, .high = 15, .load = LoadSteps},
          .quantize_weighted = QuantizeWeighted};
}

}  // namespace lapidary::formats
