// The code book of IQ4_NL and IQ4_XS and the search for a sub-block's scale (formats.md 3.1).
#ifndef LAPIDARY_QUANT_FORMATS_IQ4_H_
#define LAPIDARY_QUANT_FORMATS_IQ4_H_

#include "quant/formats/lanes.h"

namespace lapidary::formats {

inline constexpr int kIq4Size = 32;  // elements that share a scale
inline constexpr float kIq4Tiny = 1e-15f;
inline constexpr float kIq4Book[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                       1,    13,   25,  38,  53,  69,  89,  113};

// The value between entries k and k + 1: it and everything above belongs to k + 1. Comparing with
// it equals ggml's v - book[k] < book[k + 1] - v for every float (tests/quant/format_test.cc).
inline constexpr float Iq4Border(int k) { return (kIq4Book[k] + kIq4Book[k + 1]) / 2; }

// Index of the nearest entry.
LAPIDARY_LANES I8 Iq4Code(F8 v) {
  I8 code = {};
  for (int k = 0; k < 15; ++k) code -= v >= Iq4Border(k);
  return code;
}

// The nearest entry itself.
LAPIDARY_LANES F8 Iq4Nearest(F8 v) {
  F8 entry = F8{} + kIq4Book[0];
  for (int k = 0; k < 15; ++k) entry = v >= Iq4Border(k) ? F8{} + kIq4Book[k + 1] : entry;
  return entry;
}

// Scales of eight sub-blocks: a start from the extremum, then 15 others; each is fitted to its
// codes by least squares with weights w, x^2 without an importance matrix. 0 for a sub-block of
// (nearly) zeros.
LAPIDARY_LANES F8 Iq4Scales(const F8* x, const F8* weights) {
  constexpr int kTries = 7;
  F8 magnitude, extremum;
  Extremum<kIq4Size>(x, &magnitude, &extremum);
  const F8 zero = {};
  F8 d = {}, best = {};
  for (int attempt = -kTries - 1; attempt <= kTries; ++attempt) {
    const bool first = attempt < -kTries;
    const F8 inverse = first ? 1.0f / (-extremum / kIq4Book[0])
                             : (static_cast<float>(attempt) + kIq4Book[0]) / extremum;
    F8 products = {}, squares = {};
    for (int i = 0; i < kIq4Size; ++i) {
      const F8 q = Iq4Nearest(inverse * x[i]), w = weights[i];
      products += w * q * x[i];
      squares += w * q * q;
    }
    const I8 positive = squares > zero;
    const F8 fit = products / squares;
    if (first) {
      d = positive ? fit : zero;
      best = d * products;
    } else {
      const I8 better = positive & (products * products > best * squares);
      d = better ? fit : d;
      best = better ? fit * products : best;
    }
  }
  return magnitude < kIq4Tiny ? zero : d;
}

}  // namespace lapidary::formats

#endif  // LAPIDARY_QUANT_FORMATS_IQ4_H_
