// Quantizing with an importance matrix (quant/imatrix.h), what the formats share. importance[i] >=
// 0 is the mean square of what column i of the weight is multiplied with. The searches weigh the
// error of element i with
//   w_i = importance_i * sqrt(mean + x_i^2),
// where mean is the mean square of x over the whole row (Q4_0, Q4_1, Q5_0, Q5_1), over the block of
// 256 (Q2_K), or twice that over the block (Q3_K, Q4_K, Q5_K, IQ4_XS, and IQ4_NL with its blocks of
// 32); Q6_K weighs with importance_i alone. Squares are summed one after the other in float32, as
// everywhere: the bytes are those of ggml_quantize_chunk with the same matrix.
//
//   Q4_0, Q5_0      symmetric_search.h over each block; its codes are stored as they were found
//   Q4_1, Q5_1      affine_search.h, 37 widths from kMax - 0.9 in steps of 0.05; the same
//   Q2_K, Q4_K, Q5_K  the same search over each sub-block; scales and minima are then quantized by
//                   FitScales, weighted with the sub-blocks' sums of w; codes again with what is
//                   stored
//   Q3_K            symmetric_search.h over sub-blocks, and over their scales, weighted with the
//                   sums of w; codes again
//   Q6_K            symmetric_search.h over sub-blocks; the rest as without a matrix
//   IQ4_NL, IQ4_XS  iq4.h with these weights; the rest as without a matrix
#ifndef LAPIDARY_QUANT_FORMATS_WEIGHTED_H_
#define LAPIDARY_QUANT_FORMATS_WEIGHTED_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "quant/formats/affine_search.h"
#include "quant/formats/blocks.h"
#include "quant/formats/symmetric_search.h"

namespace lapidary::formats {

inline float SumSquares(const float* x, int64_t n) {
  float sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += x[i] * x[i];
  return sum;
}

inline float Sum(const float* x, int n) {
  float sum = 0;
  for (int i = 0; i < n; ++i) sum += x[i];
  return sum;
}

// w[0..n): the weights above.
LAPIDARY_LANES void ImportanceWeights(const float* importance, const float* x, int n, float mean,
                                      float* w) {
  for (int i = 0; i < n; ++i) w[i] = importance[i] * std::sqrt(mean + x[i] * x[i]);
}

// The search of a sub-block as every weighted format with a minimum runs it.
template <int kSize, int kMax>
LAPIDARY_LANES void WeightedAffineSearch(const F8* x, const F8* w, I8* codes, F8* scale,
                                         F8* offset) {
  AffineSearch<kSize, kMax, 36, false>(x, w, -0.9f, 0.05f, codes, scale, offset);
}

// Eight blocks of 32 of a row and their weights, as lanes; lanes beyond the row's end hold zeros.
struct WeightedBlocks {
  int64_t count = 0;  // of lanes in use
  F8 x[32], w[32];
};
LAPIDARY_LANES void LoadWeighted(const float* row, const float* importance, int64_t n,
                                 int64_t block, float mean, WeightedBlocks* out) {
  constexpr int kSize = 32, kAll = kSize * kLanes;
  float x[kAll] = {}, w[kAll] = {};
  out->count = std::min<int64_t>(kLanes, n / kSize - block);
  const int used = static_cast<int>(out->count) * kSize;
  std::memcpy(x, row + block * kSize, static_cast<size_t>(used) * sizeof(float));
  ImportanceWeights(importance + block * kSize, x, used, mean, w);
  ToLanes<kSize>(x, out->x);
  ToLanes<kSize>(w, out->w);
}

// A row of blocks of 32, eight at a time: `search(x, w, codes)` finds the codes of the eight and
// returns what else is kept of them, of which `store(kept, lane, codes, block)` makes each block.
template <int64_t kBlockBytes, class Search, class Store>
LAPIDARY_LANES void WeightedRow(const float* row, const float* importance, int64_t n, uint8_t* out,
                                const Search& search, const Store& store) {
  constexpr int kSize = 32;
  const float mean = SumSquares(row, n) / static_cast<float>(n);
  WeightedBlocks blocks;
  for (int64_t block = 0; block < n / kSize; block += kLanes) {
    LoadWeighted(row, importance, n, block, mean, &blocks);
    I8 found[kSize];
    uint8_t codes[kLanes * kSize];
    const auto kept = search(blocks.x, blocks.w, found);
    FromLanes<kSize>(found, codes);
    for (int64_t k = 0; k < blocks.count; ++k)
      store(kept, k, codes + k * kSize, out + (block + k) * kBlockBytes);
  }
}

// Q4_0 and Q5_0: a step and codes 0..2 kHigh - 1; `store(step, codes, block)`.
template <int kHigh, int64_t kBlockBytes, class Store>
LAPIDARY_LANES void WeightedSymmetricRow(const float* row, const float* importance, int64_t n,
                                         uint8_t* out, const Store& store) {
  WeightedRow<kBlockBytes>(
      row, importance, n, out,
      [](const F8* x, const F8* w, I8* codes)
          __attribute__((always_inline)) { return SymmetricSearch<32, kHigh>(x, w, codes); },
      [&](const F8& step, int64_t k, const uint8_t* codes, uint8_t* block) {
        store(step[k], codes, block);
      });
}

// Q4_1 and Q5_1: a step, a minimum and codes 0..kHigh; `store(step, minimum, codes, block)`.
template <int kHigh, int64_t kBlockBytes, class Store>
LAPIDARY_LANES void WeightedAffineRow(const float* row, const float* importance, int64_t n,
                                      uint8_t* out, const Store& store) {
  struct Kept {
    F8 step, offset;
  };
  WeightedRow<kBlockBytes>(
      row, importance, n, out,
      [](const F8* x, const F8* w, I8* codes) __attribute__((always_inline)) {
        Kept kept;
        WeightedAffineSearch<32, kHigh>(x, w, codes, &kept.step, &kept.offset);
        return kept;
      },
      [&](const Kept& kept, int64_t k, const uint8_t* codes, uint8_t* block) {
        store(kept.step[k], -kept.offset[k], codes, block);
      });
}

// Quantizes kCount scales (or minima) x, most of them positive, to codes 0..high with weights w,
// and returns their common step: nine widths are tried, then codes move one after the other, up to
// five times over all, where that improves the fit. A negative scale wraps around in its byte, as
// in ggml.
template <int kCount>
inline float FitScales(const float* x, int high, const float* w, uint8_t* codes) {
  const float top = static_cast<float>(high);
  float largest = 0;
  for (int i = 0; i < kCount; ++i) largest = largest > x[i] ? largest : x[i];
  if (largest < kSymmetricTiny) {
    std::memset(codes, 0, kCount);
    return 0;
  }
  float inverse = top / largest, best = 0;
  for (int i = 0; i < kCount; ++i) {
    const uint8_t code = static_cast<uint8_t>(Nearest(inverse * x[i]));
    const float e = x[i] - 1 / inverse * static_cast<float>(code);
    best += w[i] * e * e;
  }
  for (int attempt = -4; attempt <= 4; ++attempt) {
    if (attempt == 0) continue;
    const float trial = (0.1f * static_cast<float>(attempt) + top) / largest;
    float error = 0;
    for (int i = 0; i < kCount; ++i) {
      const int l = std::min(high, Nearest(trial * x[i]));
      const float e = x[i] - 1 / trial * static_cast<float>(l);
      error += w[i] * e * e;
    }
    if (error < best) {
      best = error;
      inverse = trial;
    }
  }
  float products = 0, squares = 0;
  for (int i = 0; i < kCount; ++i) {
    const int l = std::min(high, Nearest(inverse * x[i]));
    codes[i] = static_cast<uint8_t>(l);
    products += w[i] * x[i] * static_cast<float>(l);
    squares += w[i] * static_cast<float>(l) * static_cast<float>(l);
  }
  for (int round = 0; round < 5; ++round) {
    bool changed = false;
    for (int i = 0; i < kCount; ++i) {
      const float old = static_cast<float>(codes[i]);
      float p = products - w[i] * x[i] * old, s = squares - w[i] * old * old;
      if (!(p > 0 && s > 0)) continue;
      const int l = std::min(high, Nearest(x[i] * s / p));
      if (l == codes[i]) continue;
      p += w[i] * x[i] * static_cast<float>(l);
      s += w[i] * static_cast<float>(l) * static_cast<float>(l);
      if (p * p * squares > products * products * s) {
        codes[i] = static_cast<uint8_t>(l);
        products = p;
        squares = s;
        changed = true;
      }
    }
    if (!changed) break;
  }
  return squares > 0 ? products / squares : 0.0f;
}

using WeightedFunction = void (*)(const float* row, const float* importance, int64_t n,
                                  uint8_t* out);

}  // namespace lapidary::formats

// As LAPIDARY_QUANTIZE_IN_LANES, for Quantize(row, importance, n, out).
#if defined(__x86_64__)
#define LAPIDARY_WEIGHTED_IN_LANES(Quantize, Body)                                               \
  __attribute__((target("avx2"))) void Quantize##Avx2(const float* row, const float* importance, \
                                                      int64_t n, uint8_t* out) {                 \
    Body(row, importance, n, out);                                                               \
  }                                                                                              \
  void Quantize##Plain(const float* row, const float* importance, int64_t n, uint8_t* out) {     \
    Body(row, importance, n, out);                                                               \
  }                                                                                              \
  void Quantize(const float* row, const float* importance, int64_t n, uint8_t* out) {            \
    (ActiveIsa() == Isa::kScalar ? Quantize##Plain : Quantize##Avx2)(row, importance, n, out);   \
  }
#else
#define LAPIDARY_WEIGHTED_IN_LANES(Quantize, Body)                                    \
  void Quantize(const float* row, const float* importance, int64_t n, uint8_t* out) { \
    Body(row, importance, n, out);                                                    \
  }
#endif

#endif  // LAPIDARY_QUANT_FORMATS_WEIGHTED_H_
