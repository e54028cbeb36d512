// Q3_K: blocks of 256 = 32 bytes of high bits, 64 bytes of low pairs, 12 bytes of sixteen 6-bit
// scales, f16 d; 16 sub-blocks of 16, x' = (d * (scale - 32)) (q - 4), q in 0..7. Bit b of high
// byte l belongs to element 32 b + l; low byte 32 h + l holds elements 128 h + l + {0, 32, 64, 96}
// from the low bits up. Scale s: low nibble in byte s % 8 (bits 0-3 for s < 8, else 4-7), high pair
// in byte 8 + s % 4 at bit 2 (s / 4).
//
// The quantizer rounds with the extremum's scale and then, up to five times, moves one element
// after the other to the code that fits the others best, where that improves the fit (weights x^2).
#include "quant/formats/blocks.h"
#include "quant/formats/lanes.h"
#include "quant/formats/rows.h"
#include "quant/formats/weighted.h"

namespace lapidary::formats {
namespace {

constexpr int kBlock = 256;
constexpr int kSub = 16;  // elements that share a scale, and scales in a block
constexpr int64_t kBytes = 110;
constexpr float kTiny = 1e-15f;  // below it a sub-block is zero

// Scales of eight sub-blocks and codes q (0..7; 0 where the sub-block is zero).
LAPIDARY_LANES F8 FitLanes(const F8* x, I8* codes) {
  F8 magnitude, extremum;
  Extremum<kSub>(x, &magnitude, &extremum);
  const F8 zero = {};
  const I8 empty = magnitude < kTiny;
  const F8 inverse = -4.0f / extremum;
  F8 products = {}, squares = {};
  for (int i = 0; i < kSub; ++i) {
    codes[i] = Clamp(Nearest(inverse * x[i]), -4, 3);
    const F8 w = x[i] * x[i], l = Floats(codes[i]);
    products += w * x[i] * l;
    squares += w * l * l;
  }
  for (int round = 0; round < 5; ++round) {
    I8 changed = {};
    for (int i = 0; i < kSub; ++i) {
      const F8 w = x[i] * x[i], wx = w * x[i], l = Floats(codes[i]);
      F8 p = products - wx * l;
      F8 s = squares - w * l * l;
      const I8 code = Clamp(Nearest(x[i] * s / p), -4, 3);
      I8 better = (p > zero) & (code != codes[i]);
      const F8 m = Floats(code);
      p += wx * m;
      s += w * m * m;
      better &= (s > zero) & (p * p * squares > products * products * s);
      codes[i] = better ? code : codes[i];
      products = better ? p : products;
      squares = better ? s : squares;
      changed |= better;
    }
    if (!AnyOf(changed & ~empty)) break;
  }
  for (int i = 0; i < kSub; ++i) codes[i] = (codes[i] + 4) & ~empty;
  const F8 scale = squares > zero ? products / squares : zero;
  return empty ? zero : scale;
}

// Scale s of the 12 bytes, -32..31.
inline int Scale(const uint8_t* at, int s) {
  const int low = s < 8 ? at[s] & 15 : at[s - 8] >> 4;
  return (low | (at[8 + s % 4] >> (2 * (s / 4)) & 3) << 4) - 32;
}

// Puts 6-bit scale s, 0..63, into the 12 bytes, which were zero.
inline void StoreScale(uint8_t* at, int s, int l) {
  at[s % 8] = static_cast<uint8_t>(at[s % 8] | (l & 15) << (s < 8 ? 0 : 4));
  at[8 + s % 4] = static_cast<uint8_t>(at[8 + s % 4] | (l >> 4) << (2 * (s / 4)));
}

// What follows the choice of the scales and of d, y[96..110): codes hold what the search found.
LAPIDARY_LANES void FinishBlock(const float* x, uint8_t* codes, uint8_t* y) {
  const float d = LoadHalf(y + 108);
  for (int s = 0; s < kSub; ++s) {
    const float step = d * static_cast<float>(Scale(y + 96, s));
    if (step == 0) continue;
    for (int i = kSub * s; i < kSub * (s + 1); ++i)
      codes[i] = static_cast<uint8_t>(Clamp(Nearest(x[i] / step), -4, 3) + 4);
  }
  for (int l = 0; l < 32; ++l) {
    int bits = 0;
    for (int b = 0; b < 8; ++b) bits |= (codes[32 * b + l] >> 2) << b;
    y[l] = static_cast<uint8_t>(bits);
  }
  for (int h = 0; h < 2; ++h) {
    const uint8_t* q = codes + 128 * h;
    for (int l = 0; l < 32; ++l) {
      y[32 + 32 * h + l] = static_cast<uint8_t>((q[l] & 3) | (q[l + 32] & 3) << 2 |
                                                (q[l + 64] & 3) << 4 | (q[l + 96] & 3) << 6);
    }
  }
}

LAPIDARY_LANES void QuantizeBlock(const float* x, uint8_t* y) {
  uint8_t codes[kBlock];
  float scales[kSub];
  for (int half = 0; half < 2; ++half) {
    F8 lanes[kSub];
    I8 found[kSub];
    ToLanes<kSub>(x + 128 * half, lanes);
    const F8 scale = FitLanes(lanes, found);
    FromLanes<kSub>(found, codes + 128 * half);
    std::memcpy(scales + kLanes * half, &scale, sizeof(scale));
  }
  float magnitude = 0, extremum = 0;
  for (int s = 0; s < kSub; ++s) {
    if (std::fabs(scales[s]) > magnitude) {
      magnitude = std::fabs(scales[s]);
      extremum = scales[s];
    }
  }
  uint8_t* packed = y + 96;
  std::memset(packed, 0, 12);
  StoreHalf(0.0f, y + 108);
  if (extremum != 0) {
    const float inverse = -32.0f / extremum;
    for (int s = 0; s < kSub; ++s) {
      // Through int8_t first, as ggml does.
      const int8_t wide = static_cast<int8_t>(Nearest(inverse * scales[s]));
      const int l = Clamp(wide, -32, 31) + 32;
      StoreScale(packed, s, l);
    }
    StoreHalf(1.0f / inverse, y + 108);
  }
  FinishBlock(x, codes, y);
}

LAPIDARY_LANES void QuantizeBlockWeighted(const float* x, const float* importance, uint8_t* y) {
  float weights[kBlock], scales[kSub];
  ImportanceWeights(importance, x, kBlock, 2 * SumSquares(x, kBlock) / kBlock, weights);
  uint8_t codes[kBlock];
  for (int half = 0; half < 2; ++half) {
    F8 lanes[kSub], w[kSub];
    I8 found[kSub];
    ToLanes<kSub>(x + 128 * half, lanes);
    ToLanes<kSub>(weights + 128 * half, w);
    const F8 scale = SymmetricSearch<kSub, 4>(lanes, w, found);
    FromLanes<kSub>(found, codes + 128 * half);
    std::memcpy(scales + kLanes * half, &scale, sizeof(scale));
  }
  // The scales are one more sub-block; every lane does the same.
  F8 values[kSub], sums[kSub];
  I8 found[kSub];
  for (int s = 0; s < kSub; ++s) {
    values[s] = F8{} + scales[s];
    sums[s] = F8{} + Sum(weights + kSub * s, kSub);
  }
  const F8 d = SymmetricSearch<kSub, 32>(values, sums, found);
  std::memset(y + 96, 0, 12);
  for (int s = 0; s < kSub; ++s) StoreScale(y + 96, s, found[s][0]);
  StoreHalf(d[0], y + 108);
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

void LoadHead(const uint8_t* head, float* steps, float* offsets) {
  const float d = LoadHalf(head + 12);
  for (int s = 0; s < kSub; ++s) {
    steps[s] = d * static_cast<float>(Scale(head, s));
    offsets[s] = 0;
  }
}

void Dequantize(const uint8_t* blocks, int64_t n, float* out) {
  for (int64_t block = 0; block < n / kBlock; ++block) {
    const uint8_t* y = blocks + block * kBytes;
    float* x = out + block * kBlock;
    const float d = LoadHalf(y + 108);
    for (int s = 0; s < kSub; ++s) {
      const float step = d * static_cast<float>(Scale(y + 96, s));
      const uint8_t* low = y + 32 + 32 * (s / 8) + 16 * (s % 2);
      const uint8_t* high = y + 16 * (s % 2);
      const int shift = s % 8 / 2 * 2, bit = s / 2;
      for (int l = 0; l < kSub; ++l) {
        const int q = (low[l] >> shift & 3) | (high[l] >> bit & 1) << 2;
        x[kSub * s + l] = step * static_cast<float>(q - 4);
      }
    }
  }
}

}  // namespace

Format Q3_K() {
  return {.id = 11,
          .name = "Q3_K",
          .block_size = kBlock,
          .block_bytes = kBytes,
          .max_abs = 65504.0f * 32 * 4,
          .dequantize = Dequantize,
          .rules = {{"ggml", Quantize}},
          .head = {.sub = kSub, .at = 96, .bytes = 14, .low = -4, .high = 3, .load = LoadHead},
          .quantize_weighted = QuantizeWeighted};
}

}  // namespace lapidary::formats
