// The search for scale and minimum of a sub-block that Q2_K, Q4_K and Q5_K share (formats.md 3.3),
// with an importance matrix Q4_1 and Q5_1 too: x' = scale * L + minimum with L in 0..kMax, minimum
// <= 0. After a start from the extremes, kSteps
// + 1 widths are tried; each rounds the codes, fits scale and minimum to them by weighted least
// squares and is kept if the weighted error is smaller.
#ifndef LAPIDARY_QUANT_FORMATS_AFFINE_SEARCH_H_
#define LAPIDARY_QUANT_FORMATS_AFFINE_SEARCH_H_

#include "quant/formats/lanes.h"

namespace lapidary::formats {

// x and w: eight sub-blocks of kSize values and weights as lanes. codes[kSize] receives L, *offset
// the negated minimum. kAbsolute: the error is sum w |e|, else sum w e^2. First width kMax + first,
// then `more` more each time.
template <int kSize, int kMax, int kSteps, bool kAbsolute>
LAPIDARY_LANES void AffineSearch(const F8* x, const F8* w, float first, float more, I8* codes,
                                 F8* scale_out, F8* offset_out) {
  F8 low = x[0], high = x[0], sum_w = w[0], sum_x = w[0] * x[0];
  for (int i = 1; i < kSize; ++i) {
    low = x[i] < low ? x[i] : low;
    high = x[i] > high ? x[i] : high;
    sum_w += w[i];
    sum_x += w[i] * x[i];
  }
  const F8 zero = {};
  low = low > zero ? zero : low;
  const I8 flat = high == low;
  const F8 flat_low = low;

  F8 inverse = static_cast<float>(kMax) / (high - low);
  F8 scale = 1.0f / inverse, best = {};
  for (int i = 0; i < kSize; ++i) {
    codes[i] = Clamp(Nearest(inverse * (x[i] - low)), 0, kMax);
    const F8 e = scale * Floats(codes[i]) + low - x[i];
    best += w[i] * (kAbsolute ? Abs(e) : e * e);
  }
  for (int step = 0; step <= kSteps; ++step) {
    inverse = (first + more * static_cast<float>(step) + static_cast<float>(kMax)) / (high - low);
    I8 trial[kSize];
    F8 sum_l = {}, sum_l2 = {}, sum_xl = {};
    for (int i = 0; i < kSize; ++i) {
      trial[i] = Clamp(Nearest(inverse * (x[i] - low)), 0, kMax);
      const F8 l = Floats(trial[i]), wl = w[i] * l;
      sum_l += wl;
      sum_l2 += wl * l;
      sum_xl += wl * x[i];
    }
    const F8 determinant = sum_w * sum_l2 - sum_l * sum_l;
    F8 fit = (sum_w * sum_xl - sum_x * sum_l) / determinant;
    F8 fit_low = (sum_l2 * sum_x - sum_l * sum_xl) / determinant;
    const I8 above = fit_low > zero;
    fit_low = above ? zero : fit_low;
    fit = above ? sum_xl / sum_l2 : fit;
    F8 error = {};
    for (int i = 0; i < kSize; ++i) {
      const F8 e = fit * Floats(trial[i]) + fit_low - x[i];
      error += w[i] * (kAbsolute ? Abs(e) : e * e);
    }
    const I8 better = (determinant > zero) & (error < best);
    if (!AnyOf(better)) continue;
    for (int i = 0; i < kSize; ++i) codes[i] = better ? trial[i] : codes[i];
    best = better ? error : best;
    scale = better ? fit : scale;
    low = better ? fit_low : low;
  }
  for (int i = 0; i < kSize; ++i) codes[i] &= ~flat;
  *scale_out = flat ? zero : scale;
  *offset_out = flat ? -flat_low : -low;
}

}  // namespace lapidary::formats

#endif  // LAPIDARY_QUANT_FORMATS_AFFINE_SEARCH_H_
