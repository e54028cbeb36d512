// The sixteen values of a 4-bit float (E2M1), doubled to be integers, which MXFP4 and NVFP4 share,
// and the search for the code of a value.
#ifndef LAPIDARY_QUANT_FORMATS_FP4_H_
#define LAPIDARY_QUANT_FORMATS_FP4_H_

#include "quant/formats/blocks.h"

namespace lapidary::formats {

inline constexpr float kFp4Values[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

// The first codes that minimize |kFp4Values[q] d - v|.
LAPIDARY_LANES I8 NearestFp4(F8 v, float d) {
  F8 error = Abs(v);
  I8 best = {};
  for (int32_t q = 1; q < 16; ++q) {
    if (q == 8) continue;  // zero again, never the first
    const F8 off = Abs(kFp4Values[q] * d - v);
    const I8 nearer = off < error;
    best = nearer ? I8{} + q : best;
    error = nearer ? off : error;
  }
  return best;
}

}  // namespace lapidary::formats

#endif  // LAPIDARY_QUANT_FORMATS_FP4_H_
