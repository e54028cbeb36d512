// The search for the scale of a sub-block without minimum: x' = scale * l with l in -kMax..kMax
// - 1. Q6_K uses it with weights x^2; with an importance matrix Q4_0, Q5_0 and Q3_K do too. After a
// start from the element of largest magnitude, 18 widths are tried; each rounds the codes, fits the
// scale to them by weighted least squares and is kept if the weighted error is smaller. All sums
// run in ggml's order: the bytes depend on it.
#ifndef LAPIDARY_QUANT_FORMATS_SYMMETRIC_SEARCH_H_
#define LAPIDARY_QUANT_FORMATS_SYMMETRIC_SEARCH_H_

#include "quant/formats/lanes.h"

namespace lapidary::formats {

inline constexpr float kSymmetricTiny = 1e-15f;  // ggml's GROUP_MAX_EPS: below it all is zero

// x and w: eight sub-blocks of kSize values and weights >= 0 as lanes. Returns their scales;
// codes[kSize] receives l + kMax. A sub-block of zeros has scale 0 and codes 0, as ggml leaves it.
template <int kSize, int kMax>
LAPIDARY_LANES F8 SymmetricSearch(const F8* x, const F8* w, I8* codes) {
  F8 magnitude, extremum;
  Extremum<kSize>(x, &magnitude, &extremum);
  const F8 zero = {};
  const I8 empty = magnitude < kSymmetricTiny;
  F8 best = {}, scale = {};
  for (int attempt = -10; attempt <= 9; ++attempt) {
    if (attempt == 0) continue;
    const bool first = attempt == -10;
    const float width =
        first ? static_cast<float>(kMax) : kMax + 0.1f * static_cast<float>(attempt);
    const F8 inverse = -width / extremum;
    I8 trial[kSize];
    F8 products = {}, squares = {};
    for (int i = 0; i < kSize; ++i) {
      trial[i] = Clamp(Nearest(inverse * x[i]), -kMax, kMax - 1);
      const F8 l = Floats(trial[i]);
      products += w[i] * x[i] * l;
      squares += w[i] * l * l;
    }
    const I8 positive = squares > zero;
    const F8 fit = products / squares;
    if (first) {
      scale = positive ? fit : zero;
      best = scale * products;
      for (int i = 0; i < kSize; ++i) codes[i] = trial[i];
      continue;
    }
    const I8 better = positive & (products * products > best * squares);
    if (!AnyOf(better)) continue;
    scale = better ? fit : scale;
    best = better ? fit * products : best;
    for (int i = 0; i < kSize; ++i) codes[i] = better ? trial[i] : codes[i];
  }
  for (int i = 0; i < kSize; ++i) codes[i] = (codes[i] + kMax) & ~empty;
  return empty ? zero : scale;
}

}  // namespace lapidary::formats

#endif  // LAPIDARY_QUANT_FORMATS_SYMMETRIC_SEARCH_H_
