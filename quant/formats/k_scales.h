// The head of a Q4_K or Q5_K block (formats.md 3.3): f16 d, f16 dmin and eight 6-bit pairs (scale,
// minimum) in 12 bytes; and the part of the quantizers that the two share.
#ifndef LAPIDARY_QUANT_FORMATS_K_SCALES_H_
#define LAPIDARY_QUANT_FORMATS_K_SCALES_H_

#include "quant/formats/affine_search.h"
#include "quant/formats/blocks.h"
#include "quant/formats/weighted.h"

namespace lapidary::formats {

inline constexpr int kKBlock = 256;
inline constexpr int kKHead = 16;  // bytes of d, dmin and the pairs

// Pair j of the 12 bytes.
inline void LoadPair(const uint8_t* at, int j, uint8_t* scale, uint8_t* minimum) {
  if (j < 4) {
    *scale = at[j] & 63;
    *minimum = at[j + 4] & 63;
  } else {
    *scale = static_cast<uint8_t>((at[j + 4] & 15) | (at[j - 4] >> 6) << 4);
    *minimum = static_cast<uint8_t>(at[j + 4] >> 4 | (at[j] >> 6) << 4);
  }
}

// All eight steps (d * scale_j) and offsets (dmin * minimum_j) of a block.
inline void LoadSteps(const uint8_t* block, float* steps, float* offsets) {
  const float d = LoadHalf(block), dmin = LoadHalf(block + 2);
  for (int j = 0; j < 8; ++j) {
    uint8_t scale, minimum;
    LoadPair(block + 4, j, &scale, &minimum);
    steps[j] = d * static_cast<float>(scale);
    offsets[j] = dmin * static_cast<float>(minimum);
  }
}

// Stores eight codes of scales and of minima as pairs; above 63 (a negative scale that wrapped
// around) their upper bits mix, as in ggml.
inline void StorePairs(const uint8_t* scales, const uint8_t* minima, uint8_t* pairs) {
  for (int j = 0; j < 8; ++j) {
    const int s = scales[j], m = minima[j];
    if (j < 4) {
      pairs[j] = static_cast<uint8_t>(s);
      pairs[j + 4] = static_cast<uint8_t>(m);
    } else {
      pairs[j + 4] = static_cast<uint8_t>((s & 15) | (m & 15) << 4);
      pairs[j - 4] = static_cast<uint8_t>(pairs[j - 4] | (s >> 4) << 6);
      pairs[j] = static_cast<uint8_t>(pairs[j] | (m >> 4) << 6);
    }
  }
}

// Codes 0..kMax again, with the values that the head now holds; those of sub-blocks without a scale
// stay.
template <int kMax>
LAPIDARY_LANES void CodesOnHead(const float* x, const uint8_t* block, uint8_t* codes) {
  constexpr int kSize = 32;
  float steps[8], offsets[8];
  LoadSteps(block, steps, offsets);
  for (int j = 0; j < 8; ++j) {
    if (steps[j] == 0) continue;
    const float* from = x + kSize * j;
    for (int i = 0; i < kSize; ++i) {
      codes[kSize * j + i] =
          static_cast<uint8_t>(Clamp(Nearest((from[i] + offsets[j]) / steps[j]), 0, kMax));
    }
  }
}

// Writes the head for 256 values and gives their codes 0..kMax.
template <int kMax, int kSteps>
LAPIDARY_LANES void QuantizeKBlock(const float* x, float first, uint8_t* block, uint8_t* codes) {
  constexpr int kSize = 32;
  F8 lanes[kSize], w[kSize], scale, offset;
  I8 found[kSize];
  ToLanes<kSize>(x, lanes);
  F8 squares = {};
  for (int i = 0; i < kSize; ++i) squares += lanes[i] * lanes[i];
  squares /= static_cast<float>(kSize);
  F8 mean;
  for (int k = 0; k < kLanes; ++k) mean[k] = std::sqrt(squares[k]);
  for (int i = 0; i < kSize; ++i) w[i] = mean + Abs(lanes[i]);
  AffineSearch<kSize, kMax, kSteps, false>(lanes, w, first, 0.1f, found, &scale, &offset);
  FromLanes<kSize>(found, codes);

  float max_scale = 0, max_offset = 0;
  for (int k = 0; k < kLanes; ++k) {
    max_scale = scale[k] > max_scale ? scale[k] : max_scale;
    max_offset = offset[k] > max_offset ? offset[k] : max_offset;
  }
  const float to_scale = max_scale > 0 ? 63.0f / max_scale : 0.0f;
  const float to_offset = max_offset > 0 ? 63.0f / max_offset : 0.0f;
  uint8_t scales[8], minima[8];
  for (int j = 0; j < 8; ++j) {
    // Through uint8_t first, as ggml does: a negative fit wraps around and is then bounded.
    const uint8_t wide_s = static_cast<uint8_t>(Nearest(to_scale * scale[j]));
    const uint8_t wide_m = static_cast<uint8_t>(Nearest(to_offset * offset[j]));
    scales[j] = wide_s < 63 ? wide_s : 63;
    minima[j] = wide_m < 63 ? wide_m : 63;
  }
  StorePairs(scales, minima, block + 4);
  StoreHalf(max_scale / 63.0f, block);
  StoreHalf(max_offset / 63.0f, block + 2);

  CodesOnHead<kMax>(x, block, codes);
}

// The same with an importance matrix (weighted.h). kBounded: codes of scales and minima end at 63;
// ggml bounds those of Q5_K only.
template <int kMax, bool kBounded>
LAPIDARY_LANES void QuantizeKBlockWeighted(const float* x, const float* importance, uint8_t* block,
                                           uint8_t* codes) {
  constexpr int kSize = 32;
  float weights[kKBlock];
  ImportanceWeights(importance, x, kKBlock, 2 * SumSquares(x, kKBlock) / kKBlock, weights);
  F8 lanes[kSize], w[kSize], scale, offset;
  I8 found[kSize];
  ToLanes<kSize>(x, lanes);
  ToLanes<kSize>(weights, w);
  WeightedAffineSearch<kSize, kMax>(lanes, w, found, &scale, &offset);
  FromLanes<kSize>(found, codes);
  float steps[8], offsets[8], sums[8];
  std::memcpy(steps, &scale, sizeof(scale));
  std::memcpy(offsets, &offset, sizeof(offset));
  for (int j = 0; j < 8; ++j) sums[j] = Sum(weights + kSize * j, kSize);
  uint8_t scales[8], minima[8];
  StoreHalf(FitScales<8>(steps, 63, sums, scales), block);
  StoreHalf(FitScales<8>(offsets, 63, sums, minima), block + 2);
  for (int j = 0; kBounded && j < 8; ++j) {
    scales[j] = scales[j] < 63 ? scales[j] : 63;
    minima[j] = minima[j] < 63 ? minima[j] : 63;
  }
  StorePairs(scales, minima, block + 4);
  CodesOnHead<kMax>(x, block, codes);
}

}  // namespace lapidary::formats

#endif  // LAPIDARY_QUANT_FORMATS_K_SCALES_H_
