// IQ4_NL (formats.md 3.1): blocks of 32 = f16 d, 16 bytes of nibbles (as Q4_0), each an index into
// the code book of iq4.h; x' = d book[q]. The final codes use the float32 d. A block of zeros has d
// = 0 and codes 8.
#include <algorithm>

#include "quant/formats/blocks.h"
#include "quant/formats/iq4.h"
#include "quant/formats/rows.h"
#include "quant/formats/weighted.h"

namespace lapidary::formats {
namespace {

constexpr int64_t kBlock = kIq4Size;
constexpr int64_t kBytes = 18;

// Eight blocks at a time; lanes beyond the row's end hold zeros and are not stored. importance:
// null, or a weight for each value of the row.
LAPIDARY_LANES void QuantizeLanes(const float* row, const float* importance, int64_t n,
                                  uint8_t* out) {
  for (int64_t block = 0; block < n / kBlock; block += kLanes) {
    const int64_t count = std::min<int64_t>(kLanes, n / kBlock - block);
    float x[kLanes * kBlock] = {};
    std::memcpy(x, row + block * kBlock, static_cast<size_t>(count * kBlock) * sizeof(float));
    F8 lanes[kBlock], w[kBlock];
    I8 found[kBlock];
    uint8_t codes[kLanes * kBlock];
    ToLanes<kBlock>(x, lanes);
    if (importance) {
      float weights[kLanes * kBlock] = {};
      for (int64_t k = 0; k < count; ++k) {
        const float* block_x = x + k * kBlock;
        ImportanceWeights(importance + (block + k) * kBlock, block_x, kBlock,
                          SumSquares(block_x, kBlock) * (2.0f / kBlock), weights + k * kBlock);
      }
      ToLanes<kBlock>(weights, w);
    } else {
      for (int i = 0; i < kBlock; ++i) w[i] = lanes[i] * lanes[i];
    }
    const F8 d = Iq4Scales(lanes, w);
    const F8 inverse = d != F8{} ? 1.0f / d : F8{};
    for (int i = 0; i < kBlock; ++i) found[i] = Iq4Code(inverse * lanes[i]);
    FromLanes<kBlock>(found, codes);
    for (int64_t k = 0; k < count; ++k) {
      uint8_t* y = out + (block + k) * kBytes;
      StoreHalf(d[k], y);
      PackNibbles(codes + k * kBlock, y + 2);
    }
  }
}
LAPIDARY_LANES void QuantizeBody(const float* row, int64_t n, uint8_t* out) {
  QuantizeLanes(row, nullptr, n, out);
}
LAPIDARY_QUANTIZE_IN_LANES(Quantize, QuantizeBody)
LAPIDARY_WEIGHTED_IN_LANES(QuantizeWeighted, QuantizeLanes)

void Dequantize(const uint8_t* blocks, int64_t n, float* out) {
  for (int64_t block = 0; block < n / kBlock; ++block) {
    const uint8_t* y = blocks + block * kBytes;
    float* x = out + block * kBlock;
    const float d = LoadHalf(y);
    for (int64_t i = 0; i < kBlock / 2; ++i) {
      x[i] = d * kIq4Book[y[2 + i] & 15];
      x[i + kBlock / 2] = d * kIq4Book[y[2 + i] >> 4];
    }
  }
}

}  // namespace

Format IQ4_NL() {
  return {.id = 20,
          .name = "IQ4_NL",
          .block_size = kBlock,
          .block_bytes = kBytes,
          .max_abs = 65504.0f * 113,
          .dequantize = Dequantize,
          .rules = {{"ggml", Quantize}},
          .quantize_weighted = QuantizeWeighted};
}

}  // namespace lapidary::formats
