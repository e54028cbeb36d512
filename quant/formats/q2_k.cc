// Q2_K: blocks of 256 = 16 bytes of scale pairs (bits 0-3 the scale, 4-7 the minimum of 16
// elements), 64 bytes of codes, f16 d, f16 dmin; byte 32 h + l holds elements 128 h + l + {0, 32,
// 64, 96} from the low bits up; x' = (d * scale) q - (dmin * minimum), q in 0..3. The search weighs
// absolute errors with |x|.
#include "quant/formats/affine_search.h"
#include "quant/formats/blocks.h"
#include "quant/formats/rows.h"
#include "quant/formats/weighted.h"

namespace lapidary::formats {
namespace {

constexpr int kBlock = 256;
constexpr int kSub = 16;  // elements that share a pair, and pairs in a block
constexpr int64_t kBytes = 84;

// What follows the choice of the pairs and of d and dmin: y[0..16) and y[80..84) are written, codes
// hold what the search found.
LAPIDARY_LANES void FinishBlock(const float* x, uint8_t* codes, uint8_t* y) {
  const float d = LoadHalf(y + 80), dmin = LoadHalf(y + 82);
  for (int s = 0; s < kSub; ++s) {
    const float step = d * static_cast<float>(y[s] & 15);
    if (step == 0) continue;
    const float minimum = dmin * static_cast<float>(y[s] >> 4);
    for (int i = kSub * s; i < kSub * (s + 1); ++i)
      codes[i] = static_cast<uint8_t>(Clamp(Nearest((x[i] + minimum) / step), 0, 3));
  }
  for (int h = 0; h < 2; ++h) {
    const uint8_t* q = codes + 128 * h;
    for (int l = 0; l < 32; ++l) {
      y[16 + 32 * h + l] =
          static_cast<uint8_t>(q[l] | q[l + 32] << 2 | q[l + 64] << 4 | q[l + 96] << 6);
    }
  }
}

LAPIDARY_LANES void QuantizeBlock(const float* x, uint8_t* y) {
  uint8_t codes[kBlock];
  float scales[kSub], offsets[kSub];
  for (int half = 0; half < 2; ++half) {
    F8 lanes[kSub], w[kSub], scale, offset;
    I8 found[kSub];
    ToLanes<kSub>(x + 128 * half, lanes);
    for (int i = 0; i < kSub; ++i) w[i] = Abs(lanes[i]);
    AffineSearch<kSub, 3, 15, true>(lanes, w, -0.5f, 0.1f, found, &scale, &offset);
    FromLanes<kSub>(found, codes + 128 * half);
    std::memcpy(scales + kLanes * half, &scale, sizeof(scale));
    std::memcpy(offsets + kLanes * half, &offset, sizeof(offset));
  }
  float max_scale = 0, max_offset = 0;
  for (int s = 0; s < kSub; ++s) {
    max_scale = scales[s] > max_scale ? scales[s] : max_scale;
    max_offset = offsets[s] > max_offset ? offsets[s] : max_offset;
  }
  const float to_scale = 15.0f / max_scale, to_offset = 15.0f / max_offset;
  for (int s = 0; s < kSub; ++s) {
    y[s] = max_scale > 0 ? static_cast<uint8_t>(Nearest(to_scale * scales[s])) : uint8_t{0};
    if (max_offset > 0)
      y[s] =
          static_cast<uint8_t>(y[s] | static_cast<uint32_t>(Nearest(to_offset * offsets[s])) << 4);
  }
  StoreHalf(max_scale > 0 ? max_scale / 15.0f : 0.0f, y + 80);
  StoreHalf(max_offset > 0 ? max_offset / 15.0f : 0.0f, y + 82);
  FinishBlock(x, codes, y);
}

LAPIDARY_LANES void QuantizeBlockWeighted(const float* x, const float* importance, uint8_t* y) {
  float weights[kBlock], scales[kSub], offsets[kSub], sums[kSub];
  ImportanceWeights(importance, x, kBlock, SumSquares(x, kBlock) / kBlock, weights);
  uint8_t codes[kBlock];
  for (int half = 0; half < 2; ++half) {
    F8 lanes[kSub], w[kSub], scale, offset;
    I8 found[kSub];
    ToLanes<kSub>(x + 128 * half, lanes);
    ToLanes<kSub>(weights + 128 * half, w);
    WeightedAffineSearch<kSub, 3>(lanes, w, found, &scale, &offset);
    FromLanes<kSub>(found, codes + 128 * half);
    std::memcpy(scales + kLanes * half, &scale, sizeof(scale));
    std::memcpy(offsets + kLanes * half, &offset, sizeof(offset));
  }
  for (int s = 0; s < kSub; ++s) sums[s] = Sum(weights + kSub * s, kSub);
  uint8_t scale_codes[kSub], offset_codes[kSub];
  StoreHalf(FitScales<kSub>(scales, 15, sums, scale_codes), y + 80);
  StoreHalf(FitScales<kSub>(offsets, 15, sums, offset_codes), y + 82);
  for (int s = 0; s < kSub; ++s) y[s] = static_cast<uint8_t>(scale_codes[s] | offset_codes[s] << 4);
  FinishBlock(x, codes, y);
}

LAPIDARY_LANES void QuantizeBody(const float* row, int64_t n, uint8_t* out) {
  for (int64_t block = 0; block < n / kBlock; ++block)
    QuantizeBlock(row + block * kBlock, out + block * kBytes);
}
LAPIDARY_QUANTIZE_IN_LANES(Quantize, QuantizeBody)

LAPIDARY_LANES void WeightedBody(const float* row, const float* importance, int64_t n,
                                 uint8_t* out) {
  for (int64_t block = 0; block < n / kBlock; ++block)
    QuantizeBlockWeighted(row + block * kBlock, importance + block * kBlock, out + block * kBytes);
}
LAPIDARY_WEIGHTED_IN_LANES(QuantizeWeighted, WeightedBody)

void Dequantize(const uint8_t* blocks, int64_t n, float* out) {
  for (int64_t block = 0; block < n / kBlock; ++block) {
    const uint8_t* y = blocks + block * kBytes;
    float* x = out + block * kBlock;
    const float d = LoadHalf(y + 80), dmin = LoadHalf(y + 82);
    for (int s = 0; s < kSub; ++s) {
      const float step = d * static_cast<float>(y[s] & 15);
      const float minimum = dmin * static_cast<float>(y[s] >> 4);
      const uint8_t* q = y + 16 + 32 * (s / 8) + 16 * (s % 2);
      const int shift = s % 8 / 2 * 2;
      for (int l = 0; l < kSub; ++l)
        x[kSub * s + l] = step * static_cast<float>(q[l] >> shift & 3) - minimum;
    }
  }
}

}  // namespace

Format Q2_K() {
  return {.id = 10,
          .name = "Q2_K",
          .block_size = kBlock,
          .block_bytes = kBytes,
          .max_abs = 65504.0f * 3,
          .dequantize = Dequantize,
          .rules = {{"ggml", Quantize}},
          .quantize_weighted = QuantizeWeighted};
}

}  // namespace lapidary::formats
